"""Messages that cannot be learned from, on their way to the dead-letter topic."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import kafka.errors
from kafka import KafkaProducer

from trainer.connection import connect, describe_error
from trainer.errors import EventsUnavailable
from trainer.topics import REQUEST_TIMEOUT_MS, Topics

log = logging.getLogger(__name__)

_MAX_REQUEST_BYTES = 64 << 20
_CUT_BYTES = 256 << 10
_TOO_LARGE = (kafka.errors.MessageSizeTooLargeError, kafka.errors.RecordListTooLargeError)


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    Attributes:
        key: The original key.
        value: The original bytes.
        headers: Where it came from and what is wrong with it.
    """

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class DeadLetters:
    """Keeps letters until the broker has acknowledged them. At least once: a lost answer may leave a letter twice.

    Args:
        options: What any Kafka client needs to connect.
        topic: Where they go; created when missing.
        topics: Creates it.
    """

    def __init__(self, options: Mapping[str, Any], topic: str, topics: Topics) -> None:
        self._options = {
            **options,
            "acks": "all",
            "enable_idempotence": False,  # an embedded broker that lost its data would refuse the producer for ever
            "max_in_flight_requests_per_connection": 1,
            "linger_ms": 5,
            "max_request_size": _MAX_REQUEST_BYTES,
            "max_block_ms": REQUEST_TIMEOUT_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "delivery_timeout_ms": 2 * REQUEST_TIMEOUT_MS,
            "bootstrap_timeout_ms": REQUEST_TIMEOUT_MS,
            "metrics_enabled": False,
        }
        self._topic = topic
        self._topics = topics
        self._pending: list[Letter] = []
        self._producer: KafkaProducer | None = None

    def __len__(self) -> int:
        """How many letters the broker has not acknowledged yet."""
        return len(self._pending)

    def add(self, letter: Letter) -> None:
        """Keeps a letter for the next :meth:`flush`. Never blocks."""
        self._pending.append(letter)

    def flush(self) -> None:
        """Sends what is kept and returns once all replicas acknowledged it. Blocks for at most some 20 s.

        Raises:
            EventsUnavailable: If a letter was not acknowledged. It is kept; call again.
        """
        while self._pending:
            try:
                self._topics.ensure(self._topic, 1)
                failures = self._send()
            except (kafka.errors.KafkaError, OSError) as error:
                self.close()
                raise EventsUnavailable(f"Dead letters were not sent: {describe_error(error)}") from error
            if failures:
                self.close()
                raise EventsUnavailable(
                    f"{len(self._pending)} dead letters were not acknowledged: {describe_error(failures[0])}"
                )

    def close(self) -> None:
        """Closes the client without waiting. Letters stay; a later flush opens a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(kafka.errors.KafkaError, OSError, RuntimeError):
                producer.close(timeout=1)

    def _send(self) -> list[BaseException]:
        """One round. Keeps what failed; a letter that no broker takes is cut for the next round."""
        if self._producer is None:
            self._producer, _ = connect(KafkaProducer, **self._options)
        sent = [
            (letter, self._producer.send(self._topic, letter.value, letter.key, headers=list(letter.headers)))
            for letter in self._pending
        ]
        self._producer.flush(timeout=3 * REQUEST_TIMEOUT_MS / 1000)
        self._pending = []
        failures: list[BaseException] = []
        for letter, future in sent:
            if future.succeeded():
                continue
            error = future.exception or kafka.errors.KafkaTimeoutError("no answer")
            if isinstance(error, _TOO_LARGE) and len(letter.value) > _CUT_BYTES:
                log.warning("A dead letter of %d bytes is too large for %s and is cut", len(letter.value), self._topic)
                letter = _cut(letter)
            else:
                failures.append(error)
            self._pending.append(letter)
        return failures


def _cut(letter: Letter) -> Letter:
    original = ("original_bytes", str(len(letter.value)).encode())
    return replace(letter, value=letter.value[:_CUT_BYTES], headers=(*letter.headers, original))
