"""Hands records to Kafka and waits for the acknowledgement."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, RecordListTooLargeError

from trainer.connection import ClosingProducer, connect, describe_error
from trainer.errors import EventsUnavailable

_REQUEST_MS = 2000
_DELIVERY_MS = 4000
_CLOSE_S = 0.5
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class SinkUnavailable(Exception):
    """Kafka did not acknowledge every message. Some may have arrived all the same.

    Args:
        detail: What happened.
        acknowledged: Of each message, whether it certainly arrived.
    """

    def __init__(self, detail: str, acknowledged: Sequence[bool]) -> None:
        super().__init__(detail)
        self.acknowledged = tuple(acknowledged)


@dataclass(frozen=True, slots=True)
class Message:
    """What becomes one record."""

    topic: str
    key: bytes | None
    value: bytes


class Sink(Protocol):
    """Takes messages. Thread-safe."""

    def send(self, messages: Sequence[Message]) -> list[str | None]:
        """Returns once every message is acknowledged; see :meth:`KafkaSink.send`."""

    def close(self) -> None:
        """Gives up what is not acknowledged."""


class KafkaSink:
    """Sends to topics, acknowledged by all replicas. Connects when first used; a topic is never created.

    Args:
        options: What any Kafka client needs to connect.
        max_bytes: Of one message, as far as this side is concerned.
        clock: Seconds, monotonic.
    """

    def __init__(self, options: Mapping[str, Any], max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = {
            **options,
            "acks": "all",
            "max_request_size": max_bytes + 1024,
            "max_block_ms": _REQUEST_MS,
            "bootstrap_timeout_ms": _REQUEST_MS,
            "request_timeout_ms": _REQUEST_MS,
            "delivery_timeout_ms": _DELIVERY_MS,
            "metrics_enabled": False,
        }
        self._where = f"Kafka at {','.join(options['bootstrap_servers'])}"
        self._clock = clock
        self._lock = threading.Lock()
        self._producer: Any = None

    def send(self, messages: Sequence[Message]) -> list[str | None]:
        """Sends messages in their order and returns once all are acknowledged. Blocks for at most some 10 s.

        Returns:
            Of each message, None, or why Kafka will never take it.

        Raises:
            SinkUnavailable: If Kafka did not acknowledge one.
        """
        acknowledged = [False] * len(messages)
        refused: list[str | None] = [None] * len(messages)
        producer = None
        topic = messages[0].topic if messages else ""
        try:
            producer = self._connected()
            waiting = []
            for message in messages:
                topic = message.topic
                try:
                    waiting.append(producer.send(topic, message.value, message.key))
                except _TOO_LARGE as error:
                    waiting.append(error)
            limit = self._clock() + (_DELIVERY_MS + _REQUEST_MS) / 1000
            for place, sent in enumerate(waiting):
                topic = messages[place].topic
                try:
                    if isinstance(sent, Exception):
                        raise sent
                    sent.get(max(0.0, limit - self._clock()))
                    acknowledged[place] = True
                except _TOO_LARGE:
                    refused[place] = f"it has {len(messages[place].value)} bytes, more than Kafka takes"
        except EventsUnavailable as error:
            raise SinkUnavailable(str(error), acknowledged) from error
        except (KafkaError, OSError, RuntimeError, AssertionError) as error:
            self._drop(producer)
            absent = isinstance(error, KafkaTimeoutError) and "metadata" in str(error)
            why = "it does not exist, or no broker answers" if absent else describe_error(error)
            detail = f"{self._where}, topic {topic}: {why}"
            raise SinkUnavailable(detail, acknowledged) from error
        return refused

    def close(self) -> None:
        """Closes the client; what is not acknowledged within half a second is given up."""
        self._drop(self._producer)

    def _connected(self) -> Any:
        if not self._lock.acquire(timeout=_REQUEST_MS / 1000):
            raise EventsUnavailable(f"{self._where} did not answer yet")
        try:
            if self._producer is None:
                self._producer, _ = connect(ClosingProducer, **self._options)
            return self._producer
        finally:
            self._lock.release()

    def _drop(self, producer: Any) -> None:
        """Ends a client that failed: one whose broker lost its log would be refused for ever."""
        if producer is None:
            return
        with self._lock:
            if self._producer is producer:
                self._producer = None
        with contextlib.suppress(KafkaError, OSError, RuntimeError):
            producer.close(timeout=_CLOSE_S)
