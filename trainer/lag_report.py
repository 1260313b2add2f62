"""Tells Kafka how far the trainer is, so that ordinary lag tools show it."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from trainer.errors import EventsUnavailable
from trainer.topics import Topics

log = logging.getLogger(__name__)

_TRIES = 3
_PAUSE_S = 0.3
_CLOSE_LIMIT_S = 2.0


class LagReport:
    """Commits offsets in the background. The latest report wins; nothing ever resumes from them.

    Args:
        options: What any Kafka client needs to connect.
        group: The consumer group in whose name the offsets are committed; it never has members.
    """

    def __init__(self, options: Mapping[str, Any], group: str) -> None:
        self._topics = Topics(options)
        self._group = group
        self._lock = threading.Lock()
        self._waiting: dict[str, dict[int, int]] = {}
        self._thread: threading.Thread | None = None
        self._failing = False

    def report(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Takes next offsets to be committed soon. Never blocks, never raises."""
        with self._lock:
            self._waiting[topic] = dict(offsets)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lag-report", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Gives the last report up to two seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_LIMIT_S)
        self._topics.close()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                topic, offsets = self._waiting.popitem()
            self._commit(topic, offsets)

    def _commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                self._topics.commit(self._group, topic, offsets)
                self._failing = False
                return
            except EventsUnavailable as error:
                if attempt == _TRIES:
                    log.log(logging.DEBUG if self._failing else logging.WARNING, "Lag tools are behind: %s", error)
                    self._failing = True
                    return
            if topic in self._waiting:
                return
            time.sleep(_PAUSE_S)
