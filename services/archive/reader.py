"""Reads an archive as a whole: which messages it holds, in an order that depends on nothing else."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.archive.errors import ArchiveError
from services.archive.rows import Place, unpack
from services.archive.state import STATE, State
from services.archive.storage import Storage
from trainer.reader import Record


@dataclass(frozen=True, slots=True)
class Segment:
    """The files of one flush of one partition.

    Attributes:
        place: Where their rows come from.
        names: Of the files.
    """

    place: Place
    names: tuple[str, ...]


class Archive:
    """What an archive held when it was opened. Later flushes are not seen.

    Args:
        storage: The archive.

    Attributes:
        state: How far it went.
        ends: By topic id, the oldest first, and partition: the next offset to archive.

    Raises:
        ArchiveError: If it is none, or holds messages twice.
        ArchiveUnavailable: If the file system did not answer.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        data = storage.read(STATE)
        if data is None:
            raise ArchiveError(f"{storage.path} holds no archive: it has no {STATE}")
        self.state = State.from_bytes(data)
        self.ends = {one.topic_id: one.offsets for one in self.state.generations}
        self._segments = self._find()

    def first_offsets(self, topic_id: str) -> dict[int, int]:
        """By partition, the offset that reading begins with."""
        found = {partition: some[0].place.first for partition, some in self._segments[topic_id].items()}
        return {**self.ends[topic_id], **found}

    def left(self, topic_id: str, partition: int, offset: int) -> int:
        """How many offsets lie between one and the last message of a partition, those of markers included."""
        segments = self._segments[topic_id].get(partition)
        return max(0, segments[-1].place.last + 1 - offset) if segments else 0

    def read(self, topic_id: str, start: Mapping[int, int], until_ms: int | None = None) -> Iterator[Record]:
        """The messages of one generation of the topic.

        A partition's come in the order of their offsets. Several partitions take turns: next comes that of the earliest
        Kafka timestamp, of equal ones that of the lowest partition.

        Args:
            topic_id: Of the generation.
            start: By partition, the first offset to read.
            until_ms: Each partition ends before its first message of this Kafka timestamp or a later one.
        """
        streams = [
            self._read_partition(segments, start.get(partition, 0), until_ms)
            for partition, segments in sorted(self._segments[topic_id].items())
        ]
        if len(streams) == 1:
            return streams[0]
        return heapq.merge(*streams, key=lambda record: (record.timestamp_ms, record.partition))

    def _read_partition(self, segments: list[Segment], start: int, until_ms: int | None) -> Iterator[Record]:
        for segment in segments:
            if segment.place.last < start:
                continue
            files = [self._storage.read(name) for name in segment.names]
            for record in unpack(self.state.topic, [file for file in files if file is not None]):
                if until_ms is not None and record.timestamp_ms >= until_ms:
                    return
                if record.offset >= start:
                    yield record

    def _find(self) -> dict[str, dict[int, list[Segment]]]:
        """By topic id and partition, the segments in their order."""
        names: dict[Place, list[str]] = {}
        for name in self._storage.names():
            place = Place.parse(name)
            if place is not None and place.last < self.ends.get(place.topic_id, {}).get(place.partition, 0):
                names.setdefault(place, []).append(name)
        found: dict[str, dict[int, list[Segment]]] = {topic_id: {} for topic_id in self.ends}
        for place in sorted(names, key=lambda one: one.first):
            some = found[place.topic_id].setdefault(place.partition, [])
            if some and place.first <= some[-1].place.last:
                raise ArchiveError(
                    f"messages are there twice, in {names[place][0]} and {some[-1].names[0]}: two archivers wrote "
                    "here. Remove the files of one of them"
                )
            some.append(Segment(place, tuple(sorted(names[place]))))
        return found
