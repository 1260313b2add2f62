"""Archives and their records as tests need them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from services.archive.reader import Archive
from services.archive.storage import Storage
from services.archive.writer import Writer
from trainer.lost_log import TopicPosition
from trainer.reader import Record

TOPIC = "examples"
HOUR_MS = 3_600_000
DAY = "2022-04-25"
DAY_MS = 1_650_844_800_000
AHEAD_MS = HOUR_MS


def record(offset: int, ts: int = DAY_MS, partition: int = 0, came_ms: int | None = None) -> Record:
    """A message whose bytes tell where it lies."""
    value = orjson.dumps({"ts": ts, "user": {"id": f"{partition}/{offset}"}})
    return Record(TOPIC, partition, offset, ts if came_ms is None else came_ms, b"key", value)


def write(storage: Storage, topic_id: str, *flushes: Sequence[Record], start: dict[int, int] | None = None) -> None:
    """Archives records, each sequence by a flush of its own."""
    writer = Writer(storage, TOPIC, AHEAD_MS)
    known = writer.open()
    offsets = known.offsets if known.topic_id == topic_id else (start or {0: 0})
    writer.go_on(TopicPosition(topic_id, offsets))
    for some in flushes:
        writer.add(some)
        writer.flush()


def read_all(folder: Path | str, topic_id: str = "a") -> list[Record]:
    """Everything that an archive holds of one generation."""
    return list(Archive(Storage(str(folder))).read(topic_id, {}))


def places(records: Iterable[Record]) -> list[tuple[int, int]]:
    """Partition and offset of each."""
    return [(one.partition, one.offset) for one in records]
