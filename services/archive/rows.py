"""Messages as rows of Parquet files, and the names of those files."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.reader import Record

_TIME = pa.timestamp("ms", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("topic_id", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("kafka_time", _TIME),
        pa.field("ts", _TIME),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary(), nullable=False),
    ]
)
"""One row a message: where it lies in Kafka, Kafka's time of it, its event time if it has one, and its bytes."""

_HOUR_MS = 3_600_000
_LATEST_MS = 253_402_300_800_000  # the year 10000
_NAME = re.compile(r"(?:.*/)?(?P<id>[^/]+)-(?P<partition>\d+)-(?P<first>\d+)-(?P<last>\d+)\.parquet")
_SLICE = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of a file come from: one flush of one partition.

    Attributes:
        topic_id: Of the topic.
        partition: Its number.
        first: The flush's first offset.
        last: Its last one.
    """

    topic_id: str
    partition: int
    first: int
    last: int

    def name(self, hour_ms: int) -> str:
        """The file for one hour of event time.

        >>> Place("a", 2, 10, 19).name(1650844800000)
        'date=2022-04-25/hour=00/a-2-10-19.parquet'
        """
        time = datetime.fromtimestamp(hour_ms / 1000, UTC)
        file = f"{self.topic_id}-{self.partition}-{self.first}-{self.last}.parquet"
        return f"date={time:%Y-%m-%d}/hour={time:%H}/{file}"

    @classmethod
    def parse(cls, name: str) -> "Place | None":
        """The place that a file's name tells; None for another file.

        >>> Place.parse("date=2022-04-25/hour=00/a-2-10-19.parquet")
        Place(topic_id='a', partition=2, first=10, last=19)
        """
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        return cls(found["id"], int(found["partition"]), int(found["first"]), int(found["last"]))


def event_time_ms(record: Record, max_ahead_ms: int) -> int | None:
    """The ``ts`` of a message, in ms since the epoch; None where it is none, or too far past the record's own time."""
    try:
        ts = orjson.loads(record.value)["ts"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if type(ts) is not int or not 0 <= ts < _LATEST_MS:
        return None
    return None if 0 <= record.timestamp_ms < ts - max_ahead_ms else ts


def pack(topic_id: str, records: Sequence[Record], max_ahead_ms: int) -> dict[str, bytes]:
    """The files of some messages of one partition, by name.

    Args:
        topic_id: Of their topic.
        records: In the order of their offsets; at least one.
        max_ahead_ms: How far a ``ts`` may lie past its record's Kafka timestamp. One without a sound ``ts`` lies in the
            hour of its Kafka timestamp.
    """
    place = Place(topic_id, records[0].partition, records[0].offset, records[-1].offset)
    by_hour: dict[int, list[tuple[Record, int | None]]] = {}
    for record in records:
        ts = event_time_ms(record, max_ahead_ms)
        hour = (max(0, record.timestamp_ms) if ts is None else ts) // _HOUR_MS
        by_hour.setdefault(hour, []).append((record, ts))
    return {place.name(hour * _HOUR_MS): _encode(topic_id, rows) for hour, rows in by_hour.items()}


def _encode(topic_id: str, rows: Sequence[tuple[Record, int | None]]) -> bytes:
    columns = [
        pa.array([topic_id] * len(rows), pa.string()),
        pa.array([record.partition for record, _ in rows], pa.int32()),
        pa.array([record.offset for record, _ in rows], pa.int64()),
        pa.array([record.timestamp_ms if record.timestamp_ms >= 0 else None for record, _ in rows], _TIME),
        pa.array([ts for _, ts in rows], _TIME),
        pa.array([record.key for record, _ in rows], pa.binary()),
        pa.array([record.value for record, _ in rows], pa.binary()),
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=SCHEMA), sink, compression="zstd", use_dictionary=["topic_id", "partition"]
    )
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]  # pyarrow is untyped


def unpack(topic: str, files: Sequence[bytes]) -> Iterator[Record]:
    """The messages of the files of one place, in the order of their offsets.

    Args:
        topic: The name of their topic.
        files: What :func:`pack` gave, all of one place.
    """
    columns = ["partition", "offset", "kafka_time", "key", "value"]
    tables = [pq.read_table(pa.BufferReader(file), columns=columns) for file in files]
    table = pa.concat_tables(tables)
    if len(tables) > 1:
        table = table.sort_by("offset")
    table = table.set_column(2, "kafka_time", table["kafka_time"].cast(pa.int64()))
    for start in range(0, table.num_rows, _SLICE):
        part = [column.to_pylist() for column in table.slice(start, _SLICE).columns]
        for partition, offset, time_ms, key, value in zip(*part, strict=True):
            yield Record(topic, partition, offset, -1 if time_ms is None else time_ms, key, value)
