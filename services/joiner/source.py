"""Reads the two topics side by side: no group, no resetting, no topic creation."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import kafka.errors
from kafka import KafkaConsumer, TopicPartition

from trainer.connection import connect, describe_error
from trainer.errors import EventsUnavailable
from trainer.reader import OPTIONS, Record

Place = tuple[str, int]
"""A topic and a partition."""

_OPTIONS: dict[str, Any] = {**OPTIONS, "max_partition_fetch_bytes": 2 << 20, "retry_backoff_ms": 20}
_POLL_RECORDS = 5000
_RANGE_POLL_MS = 100
_RANGE_LIMIT_S = 30.0


class LogGone(Exception):
    """A log does not hold the offset that is to be read."""


class Source:
    """Committed records of several partitions of several topics. Not thread-safe.

    Args:
        options: What any Kafka client needs to connect; it does when first told where to read.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = {**options, **_OPTIONS}
        self._consumer: Any = None
        self._assigned: tuple[Place, ...] = ()
        self._left_out: dict[Place, tuple[int, int | None]] = {}

    def assign(self, offsets: Mapping[Place, int]) -> None:
        """Reads on from these offsets, and from nowhere else.

        Raises:
            EventsUnavailable: If no broker answered.
        """
        if self._consumer is None:
            self._consumer, _ = connect(KafkaConsumer, **self._options)
        self._assigned, self._left_out = tuple(offsets), {}
        self._seek(offsets)

    def _seek(self, offsets: Mapping[Place, int]) -> None:
        self._consumer.assign([TopicPartition(*place) for place in offsets])
        for place, offset in offsets.items():
            self._consumer.seek(TopicPartition(*place), offset)

    def leave_out(self, places: Iterable[Place]) -> None:
        """Reads from all that were assigned but these, until called again.

        By another assignment: kafka-python 3.0 may never hand out what it had fetched of a partition that was paused.
        """
        wanted = set(places)
        if wanted == set(self._left_out):
            return
        offsets = {place: self.position(place) for place in self._assigned}
        self._left_out = {place: (offsets[place], self.high_watermark(place)) for place in wanted}
        self._seek({place: offset for place, offset in offsets.items() if place not in wanted})

    def poll(self, timeout_ms: int) -> list[Record]:
        """The next records, in order within each partition; none if none came in time.

        Raises:
            LogGone: If an offset is not, or no longer, in its log.
            EventsUnavailable: If the broker refuses, or the client broke: a new source is needed.
        """
        try:
            batches = self._consumer.poll(timeout_ms, _POLL_RECORDS)
        except (kafka.errors.OffsetOutOfRangeError, kafka.errors.LogTruncationError) as error:
            raise LogGone(str(error)) from error
        except (kafka.errors.KafkaError, OSError, RuntimeError) as error:
            raise EventsUnavailable(f"Impressions and actions cannot be read: {describe_error(error)}") from error
        return [
            Record(r.topic, r.partition, r.offset, r.timestamp, r.key, b"" if r.value is None else r.value)
            for batch in batches.values()
            for r in batch
        ]

    def read(self, place: Place, start: int, end: int) -> Iterator[Record]:
        """The records from one offset up to another, and from no other partition.

        Raises:
            LogGone, EventsUnavailable: As in :meth:`poll`; also if the log gives nothing for half a minute.
        """
        if start >= end:
            return
        self.assign({place: start})
        deadline = time.monotonic() + _RANGE_LIMIT_S
        while self.position(place) < end:
            records = self.poll(_RANGE_POLL_MS)
            if records:
                deadline = time.monotonic() + _RANGE_LIMIT_S
            for record in records:
                if record.offset < end:
                    yield record
                else:
                    return
            if time.monotonic() > deadline:
                raise EventsUnavailable(
                    f"Topic {place[0]}, partition {place[1]}: nothing came in {_RANGE_LIMIT_S:.0f} s"
                )

    def position(self, place: Place) -> int:
        """The offset that is read next, behind transaction markers that were passed."""
        if place in self._left_out:
            return self._left_out[place][0]
        return int(self._consumer.position(TopicPartition(*place), timeout_ms=0))

    def high_watermark(self, place: Place) -> int | None:
        """The log's end, open transactions included, that came with the last fetch; None before the first."""
        if place in self._left_out:
            return self._left_out[place][1]
        found = self._consumer.highwater(TopicPartition(*place))
        return None if found is None else int(found)

    def close(self) -> None:
        """Closes the client. Idempotent; the next :meth:`assign` opens a new one."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(kafka.errors.KafkaError, OSError, RuntimeError):
                consumer.close(autocommit=False, timeout_ms=1000)
