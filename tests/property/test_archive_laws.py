"""Whatever an archiver is doing when it is killed: each message is in the archive once, and none is missing."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from services.archive.state import STATE, State
from services.archive.storage import Storage
from services.archive.writer import Writer
from tests.archives import AHEAD_MS, DAY_MS, HOUR_MS, TOPIC, read_all, record
from trainer.lost_log import TopicPosition
from trainer.reader import Record


class Killed(Exception):
    pass


class Mortal(Storage):
    """A storage whose process is killed at its n-th change: before it, after it, or in its middle."""

    def __init__(self, path: str, lives: int, how: str) -> None:
        super().__init__(path)
        self.lives = lives
        self.how = how

    def write(self, name: str, data: bytes) -> None:
        self._live(lambda: super(Mortal, self).write(name, data), name)

    def remove(self, name: str) -> None:
        self._live(lambda: super(Mortal, self).remove(name), name)

    def _live(self, change, name: str) -> None:
        self.lives -= 1
        if self.lives == 0:
            if self.how == "after":
                change()
            elif self.how == "within" and name.endswith(".parquet"):
                super().write(name, b"half")
            elif self.how == "before" and name.endswith(".parquet"):
                place = Path(self.path) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.with_name(f".{place.name}.part").write_bytes(b"half")
            raise Killed
        change()


def archive(storage: Storage, topic: list[list[Record]], batches: Iterator[int]) -> None:
    """One archiver's life: flushes of so many records until the topic is archived."""
    writer = Writer(storage, TOPIC, AHEAD_MS)
    known = writer.open()
    at = {p: known.offsets.get(p, 0) for p in range(len(topic))}
    writer.go_on(TopicPosition("a", dict(at)))
    while any(at[p] < len(log) for p, log in enumerate(topic)):
        count = next(batches)
        for p, log in enumerate(topic):
            writer.add(log[at[p] : at[p] + count])
            at[p] = min(len(log), at[p] + count)
        writer.flush()


def seen(folder: str, partitions: int) -> list[list[Record]]:
    """What a reader sees, by partition."""
    data = Storage(folder).read(STATE)
    found = read_all(folder) if data and State.from_bytes(data).generations else []
    return [[one for one in found if one.partition == p] for p in range(partitions)]


hours = st.lists(st.integers(0, 3), max_size=30)
kills = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["before", "after", "within"])), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(hours, min_size=1, max_size=3), kills, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_each_message_is_archived_once_through_kills(event_hours, deaths, sizes):
    topic = [
        [record(offset, DAY_MS + hour * HOUR_MS, p, DAY_MS + 9 * HOUR_MS) for offset, hour in enumerate(log)]
        for p, log in enumerate(event_hours)
    ]
    batches = iter(sizes * 200)
    with tempfile.TemporaryDirectory() as folder:
        for lives, how in deaths:
            try:
                archive(Mortal(folder, lives, how), topic, batches)
            except Killed:
                pass
            for log in seen(folder, len(topic)):
                assert [one.offset for one in log] == list(range(len(log)))
        archive(Storage(folder), topic, batches)
        assert seen(folder, len(topic)) == topic
        assert not list(Path(folder).rglob(".*"))
