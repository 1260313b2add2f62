"""The Kafka side of a replay: a producer with a bounded buffer."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from kafka.errors import KafkaError, KafkaTimeoutError, UnknownProducerIdError

from services.replay.errors import ReplayError
from services.replay.message import Message
from trainer.connection import ClosingProducer, connect, describe_error
from trainer.errors import EventsUnavailable
from trainer.topics import Topics

_MAX_PENDING = 10_000
_MAX_PENDING_BYTES = 32 << 20
_TIMEOUT_MS = 10_000
_LINGER_MS = 5
_CLOSE_S = 1.0
_GRACE_S = 1.0
_BATCH_BYTES = 128 << 10


class KafkaSink:
    """Sends to topics in order, each message once, acknowledged by all replicas. A lost broker is tried again.

    Args:
        options: What any Kafka client needs to connect.
        topic: Where messages go that name no other; created if it does not exist.
        partitions: Of a topic that is created now.
        compression: ``gzip`` or None.
        give_up_after_ms: How long a message may wait for its acknowledgement.
        more_topics: Others that messages name; created likewise.

    Raises:
        ReplayError: If Kafka does not answer or the topic cannot be made.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        topic: str,
        partitions: int = 1,
        compression: str | None = None,
        give_up_after_ms: int = 30_000,
        more_topics: Sequence[str] = (),
    ) -> None:
        logging.getLogger("kafka").addHandler(logging.NullHandler())
        self._topic = topic
        self._where = f"Kafka at {','.join(options['bootstrap_servers'])}"
        self._waiting: deque[tuple[Any, int, float, str]] = deque()
        self._waiting_bytes = 0
        self._give_up_after_ms = give_up_after_ms
        try:
            topics = Topics(options)
            try:
                for name in (topic, *more_topics):
                    topics.ensure(name, partitions)
            finally:
                topics.close()
            self._producer, _ = connect(
                ClosingProducer,
                **options,
                acks="all",
                compression_type=compression,
                linger_ms=_LINGER_MS,
                batch_size=_BATCH_BYTES,
                max_block_ms=_TIMEOUT_MS,
                bootstrap_timeout_ms=_TIMEOUT_MS,
                request_timeout_ms=min(_TIMEOUT_MS, give_up_after_ms // 2),
                delivery_timeout_ms=give_up_after_ms,
            )
        except EventsUnavailable as error:
            raise ReplayError(f"{error}. Is it running, and is events.bootstrap_servers right?") from error
        except (KafkaError, OSError, ValueError) as error:
            raise ReplayError(f"{self._where}: cannot connect: {describe_error(error)}") from error

    def send(self, message: Message) -> None:
        """Hands a message to the producer; its record's timestamp is the present wall-clock time.

        Raises:
            ReplayError: If the message cannot be sent.
        """
        topic = message.topic or self._topic
        try:
            sent = self._producer.send(topic, message.value, message.key, timestamp_ms=time.time_ns() // 1_000_000)
        except (KafkaError, AssertionError, ValueError) as error:
            raise self._failure(error, topic) from error
        size = len(message.value)
        self._waiting.append((sent, size, time.monotonic(), topic))
        self._waiting_bytes += size

    def pending(self) -> int:
        """How many messages are not acknowledged yet.

        Raises:
            ReplayError: If one was lost.
        """
        while self._waiting and self._waiting[0][0].is_done:
            sent, size, _, topic = self._waiting[0]
            if sent.failed():
                raise self._failure(sent.exception, topic) from sent.exception
            self._waiting.popleft()
            self._waiting_bytes -= size
        # A producer that has no producer id yet never gives up by itself.
        if self._waiting and time.monotonic() - self._waiting[0][2] > self._give_up_after_ms / 1000 + _GRACE_S:
            raise self._failure(KafkaTimeoutError(), self._waiting[0][3])
        return len(self._waiting)

    def is_full(self) -> bool:
        """Whether the buffer has reached its bound.

        Raises:
            ReplayError: If a message was lost.
        """
        return self.pending() >= _MAX_PENDING or self._waiting_bytes >= _MAX_PENDING_BYTES

    def close(self) -> None:
        """Closes the connection; what is not acknowledged within a second is given up."""
        with contextlib.suppress(KafkaError, OSError, RuntimeError):
            self._producer.close(timeout=_CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failure(self, error: BaseException, topic: str) -> ReplayError:
        text = describe_error(error)
        if isinstance(error, KafkaTimeoutError):
            text = f"no acknowledgement within {self._give_up_after_ms / 1000:g} s; is the broker still running?"
        elif isinstance(error, UnknownProducerIdError):
            text = "the broker was restarted and has lost its log; start the replay again"
        return ReplayError(f"{self._where}, topic {topic}: {text} ({len(self._waiting)} messages are not acknowledged)")
