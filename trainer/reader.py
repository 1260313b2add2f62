"""A Kafka consumer that is told where to read: no group, no resetting, no topic creation."""

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import kafka.errors
from kafka import KafkaConsumer, TopicPartition

from trainer.connection import connect, describe_error
from trainer.errors import EventsUnavailable
from trainer.topics import REQUEST_TIMEOUT_MS

_ANSWER_LIMIT_S = 10.0
_ANSWER_WAIT_MS = 100
_SCAN_RECORDS = 2000

OPTIONS: dict[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "fetch_max_wait_ms": 50,
    "fetch_max_bytes": 8 << 20,
    "max_partition_fetch_bytes": 4 << 20,
    "check_crcs": False,  # in pure Python: fifteen times slower; brokers check what they take in
    "metrics_enabled": False,
    "bootstrap_timeout_ms": 2 * REQUEST_TIMEOUT_MS,
}
"""Of every consumer: it reads where it is told to."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message as Kafka holds it.

    Attributes:
        topic: Its topic.
        partition: Its partition's number.
        offset: Its place in the partition.
        timestamp_ms: Kafka's time of it, ms since the epoch; -1 where it has none.
        key: Its key.
        value: Its bytes; empty where it has none.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes


class OutOfRange(Exception):
    """Partitions whose log does not hold the offset to be read, or was cut below it.

    Args:
        partitions: Their numbers.
    """

    def __init__(self, partitions: Iterable[int]) -> None:
        super().__init__(partitions)
        self.partitions = frozenset(partitions)


class Reader:
    """Reads committed records from given offsets of one topic. Not thread-safe.

    Args:
        options: What any Kafka client needs to connect.
        topic: The topic's name.

    Raises:
        EventsUnavailable: If no broker answered.
    """

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._cut: set[int] = set()
        self._consumer, self._cluster = connect(KafkaConsumer, **OPTIONS, **options)

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Reads on from these offsets, and from no other partition."""
        self._consumer.assign([TopicPartition(self._topic, partition) for partition in offsets])
        for partition, offset in offsets.items():
            self._consumer.seek(TopicPartition(self._topic, partition), offset)

    def poll(self, timeout_ms: int, max_records: int) -> list[Record]:
        """The next records, in order within each partition; none if none came in time.

        Raises:
            OutOfRange: If an offset is not, or no longer, in its log.
            EventsUnavailable: If the broker refuses, or the client broke: a new reader is needed.
        """
        if self._cut:
            cut, self._cut = self._cut, set()
            raise OutOfRange(cut)
        try:
            batches = self._consumer.poll(timeout_ms, max_records)
        except kafka.errors.OffsetOutOfRangeError as error:
            raise OutOfRange(where.partition for where in error.args[0]) from error
        except kafka.errors.LogTruncationError as error:
            raise OutOfRange(where.partition for where in error.divergent_offsets) from error
        except (kafka.errors.KafkaError, OSError, RuntimeError) as error:
            raise EventsUnavailable(f"Topic {self._topic} cannot be read: {describe_error(error)}") from error
        return [
            Record(r.topic, r.partition, r.offset, r.timestamp, r.key, b"" if r.value is None else r.value)
            for batch in batches.values()
            for r in batch
        ]

    def position(self, partition: int) -> int:
        """The offset that is read next, behind transaction markers that were passed."""
        where = TopicPartition(self._topic, partition)
        try:
            return int(self._consumer.position(where, timeout_ms=0))
        except kafka.errors.LogTruncationError as error:
            self._cut |= {found.partition for found in error.divergent_offsets}
            return int(self._consumer.position(where, timeout_ms=0))

    def high_watermark(self, partition: int) -> int | None:
        """The log's end, open transactions included, that came with the last fetch; None before the first."""
        highwater = self._consumer.highwater(TopicPartition(self._topic, partition))
        return None if highwater is None else int(highwater)

    def topic_id(self) -> str | None:
        """The id of the topic that is being read, as of the client's last look at the brokers; None if unknown."""
        identity = self._cluster.topic_id(self._topic)
        return None if identity is None else str(identity)

    def await_answers(self, offsets: Mapping[int, int]) -> None:
        """Goes to the offsets and returns once the broker has answered a fetch from each.

        Raises:
            OutOfRange: If an offset is not in its log.
            EventsUnavailable: If it takes longer than ten seconds.
        """
        self.assign(offsets)
        deadline = time.monotonic() + _ANSWER_LIMIT_S
        while any(self.high_watermark(partition) is None for partition in offsets):
            self.poll(_ANSWER_WAIT_MS, 1)
            self._expire(deadline)
        self.assign(offsets)

    def ends(self, latest: Mapping[int, int]) -> dict[int, int]:
        """The exact ends of logs for a reader of committed records. Leaves the reader there.

        Args:
            latest: The broker's own answers, which may fall short of the end by a batch.
        """
        self.await_answers(latest)
        targets = {partition: self.high_watermark(partition) or 0 for partition in latest}
        deadline = time.monotonic() + _ANSWER_LIMIT_S
        while any(self.position(partition) < target for partition, target in targets.items()):
            self._expire(deadline)
            if not self.poll(_ANSWER_WAIT_MS, _SCAN_RECORDS):
                break  # what is left belongs to transactions that are still open
        return {partition: self.position(partition) for partition in latest}

    def first_at(self, time_ms: int, offsets: Mapping[int, int]) -> dict[int, int]:
        """By partition, the offset of the first record at or after a time, from the given offsets on; else the end.

        Args:
            time_ms: Kafka's time of the record.
            offsets: Offsets that are known not to lie past it.
        """
        found: dict[int, int] = {}
        for partition, offset in offsets.items():
            self.await_answers({partition: offset})
            while partition not in found:
                records = self.poll(_ANSWER_WAIT_MS, _SCAN_RECORDS)
                hits = [record.offset for record in records if record.timestamp_ms >= time_ms]
                if hits or not records:
                    found[partition] = hits[0] if hits else self.position(partition)
        return found

    def close(self) -> None:
        """Closes the client. Idempotent."""
        with contextlib.suppress(kafka.errors.KafkaError, OSError, RuntimeError):
            self._consumer.close(autocommit=False, timeout_ms=1000)

    def _expire(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise EventsUnavailable(
                f"Topic {self._topic}: the broker did not answer a fetch in {_ANSWER_LIMIT_S:.0f} s"
            )
