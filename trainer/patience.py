"""Waiting for Redis and Kafka: nothing is lost meanwhile, somebody is told now and then, and asking to end ends it."""

import logging
import threading
from collections.abc import Callable

from embedding_store.errors import StoreUnavailable
from trainer.errors import EventsUnavailable

_log = logging.getLogger("trainer")
_RETRY_S = 0.5
_EVERY_S = 5.0


class Stopped(Exception):
    """The trainer was asked to end."""


class Patience:
    """What the loop does between two attempts.

    Args:
        stop: Set when the trainer shall end.
        clock: Seconds, monotonic.
    """

    def __init__(self, stop: threading.Event, clock: Callable[[], float]) -> None:
        self._stop = stop
        self._clock = clock
        self._warned = -_EVERY_S

    def for_store(self, error: StoreUnavailable) -> None:
        """Tells that Redis does not answer; the owner itself waits.

        Raises:
            Stopped: If the trainer was asked to end.
        """
        self.warn(f"waiting for the store, nothing is lost: {error}")
        if self._stop.is_set():
            raise Stopped

    def for_kafka(self, error: EventsUnavailable) -> None:
        """Waits a moment for Kafka.

        Raises:
            Stopped: If the trainer was asked to end.
        """
        self.warn(f"waiting for Kafka: {error}")
        if self._stop.wait(_RETRY_S):
            raise Stopped

    def warn(self, text: str) -> None:
        """Says a thing that lasts, but not more than once in five seconds."""
        if self._clock() - self._warned >= _EVERY_S:
            self._warned = self._clock()
            _log.warning("%s", text)
