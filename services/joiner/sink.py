"""One pair's transactions: examples, dead letters, offsets and the state record move together or not at all."""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kafka.errors
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from services.joiner.errors import Fenced
from services.joiner.example import Output
from trainer.connection import ClosingProducer, connect, describe_error
from trainer.dead_letters import Letter
from trainer.errors import EventsUnavailable
from trainer.topics import REQUEST_TIMEOUT_MS

log = logging.getLogger(__name__)

TRANSACTION_TIMEOUT_MS = 10_000  # for so long a vanished joiner may hold up who reads committed records
_WAIT_MS = 15_000
_MAX_REQUEST_BYTES = 64 << 20
_FENCED = (kafka.errors.ProducerFencedError, kafka.errors.InvalidProducerEpochError)
_TOO_LARGE = (kafka.errors.MessageSizeTooLargeError, kafka.errors.RecordListTooLargeError)


class _Producer(ClosingProducer):
    """A transactional producer that does not wait for ever."""

    def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: str) -> None:
        """As its base does, at most `_WAIT_MS`."""
        self._await(self._transaction_manager.send_offsets_to_transaction(offsets, group))

    def commit_transaction(self) -> None:
        """As its base does, at most `_WAIT_MS`."""
        self._await(self._transaction_manager.begin_commit())

    def abort_transaction(self) -> None:
        """As its base does, at most `_WAIT_MS`."""
        self._await(self._transaction_manager.begin_abort())

    def _await(self, result: Any) -> None:
        self._sender.wakeup()
        if not result.wait(_WAIT_MS):
            raise kafka.errors.KafkaTimeoutError(f"no answer in {_WAIT_MS // 1000} s")


@dataclass(frozen=True, slots=True)
class Transaction:
    """What leaves at once.

    Attributes:
        examples: Keys and values.
        letters: Messages that are neither impressions nor actions.
        key: Of the state record.
        record: The state record.
        offsets: The next offset by topic, for lag tools.
    """

    examples: Sequence[Output]
    letters: Sequence[Letter]
    key: bytes
    record: bytes
    offsets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Destinations:
    """Names of the topics, and the group in whose name offsets are committed."""

    examples: str
    dead_letters: str
    state: str
    group: str


class TooLarge(Exception):
    """The brokers take no message of this size; nothing of the transaction has left.

    Args:
        places: Which of the transaction's examples.
    """

    def __init__(self, places: frozenset[int]) -> None:
        super().__init__(places)
        self.places = places


class Sink:
    """One pair's transactional producer.

    Args:
        options: What any Kafka client needs to connect.
        destinations: Where things go.
        partition: The pair's number.
        state_partition: Of the state topic.
    """

    def __init__(
        self, options: Mapping[str, Any], destinations: Destinations, partition: int, state_partition: int
    ) -> None:
        self._options = {
            **options,
            "transactional_id": f"{destinations.group}-{partition}",
            "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS,
            "retry_backoff_ms": 5,  # while a commit's markers are written the broker refuses the next transaction
            "acks": "all",
            "linger_ms": 5,
            "batch_size": 256 << 10,
            "max_request_size": _MAX_REQUEST_BYTES,
            "max_block_ms": _WAIT_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "delivery_timeout_ms": TRANSACTION_TIMEOUT_MS,
            "bootstrap_timeout_ms": REQUEST_TIMEOUT_MS,
            "metrics_enabled": False,
        }
        self._to = destinations
        self._partition = partition
        self._state_partition = state_partition
        self._producer: _Producer | None = None

    def open(self) -> None:
        """Shuts out every earlier producer of this pair; returns once its last transaction is settled.

        Raises:
            EventsUnavailable: If the brokers do not answer.
        """
        self.close()
        try:
            self._producer, _ = connect(_Producer, **self._options)
            self._producer.init_transactions()
        except (kafka.errors.KafkaError, OSError) as error:
            self.close()
            raise EventsUnavailable(
                f"No transactions on partition {self._partition}: {describe_error(error)}"
            ) from error

    def commit(self, transaction: Transaction) -> None:
        """Commits one transaction.

        Raises:
            Fenced: If another joiner has the partition.
            TooLarge: If an example is larger than the brokers take.
            EventsUnavailable: If it is not known whether it was committed: open, and read the state record.
        """
        producer = self._producer
        if producer is None:
            raise EventsUnavailable(f"Partition {self._partition} has no producer")
        start = time.monotonic()
        try:
            producer.begin_transaction()
            self._send(producer, transaction)
            offsets = {
                TopicPartition(topic, self._partition): OffsetAndMetadata(offset, "", -1)
                for topic, offset in transaction.offsets.items()
            }
            producer.send_offsets_to_transaction(offsets, self._to.group)
            producer.commit_transaction()
        except _FENCED as error:
            if (time.monotonic() - start) * 1000 >= TRANSACTION_TIMEOUT_MS:  # the broker may have given it up itself
                self.close()
                raise EventsUnavailable(
                    f"Examples of partition {self._partition}: the transaction timed out"
                ) from error
            raise Fenced(
                f"another joiner has taken partition {self._partition}; give each its own joiner.partitions, "
                "or its own events.id"
            ) from error
        except (kafka.errors.KafkaError, OSError, RuntimeError, AssertionError) as error:
            self.close()
            raise EventsUnavailable(f"Examples of partition {self._partition}: {describe_error(error)}") from error

    def close(self) -> None:
        """Closes the client without waiting; an open transaction is aborted by the next :meth:`open`. Idempotent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(kafka.errors.KafkaError, OSError, RuntimeError):
                producer.close(timeout=1)

    def _send(self, producer: _Producer, transaction: Transaction) -> None:
        """The record goes last and alone: a broker that shows aborted records never shows it without the examples."""
        sent = [producer.send(self._to.examples, value, key) for key, value in transaction.examples]
        others = [
            producer.send(self._to.dead_letters, letter.value, letter.key, headers=list(letter.headers))
            for letter in transaction.letters
        ]
        producer.flush(_WAIT_MS / 1000)
        failed = {place: future.exception for place, future in enumerate(sent) if future.failed()}
        if failed and all(isinstance(error, _TOO_LARGE) for error in failed.values()):
            producer.abort_transaction()
            raise TooLarge(frozenset(failed))
        record = producer.send(self._to.state, transaction.record, transaction.key, partition=self._state_partition)
        producer.flush(_WAIT_MS / 1000)
        for future in (*sent, *others, record):
            if not future.succeeded():
                raise future.exception or kafka.errors.KafkaTimeoutError("a message was not acknowledged in time")
