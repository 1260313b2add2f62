"""Writes what was read from Kafka into an archive, each message exactly once.

A flush first writes into the state which files it is about to write, then the files, then, in one step, the state with
the new offsets and no unfinished files. So a successor knows what to remove without looking for it, and whoever reads
takes only files whose offsets the state has passed.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from services.archive.errors import ArchiveError, ArchiveOvertaken
from services.archive.rows import pack
from services.archive.state import STATE, Generation, State
from services.archive.storage import Storage
from trainer.errors import LogLost
from trainer.lost_log import TopicPosition
from trainer.reader import Record


@dataclass(frozen=True, slots=True)
class Flushed:
    """What one flush wrote."""

    messages: int
    files: int
    file_bytes: int


class Writer:
    """What one archiver holds and has written. Not thread-safe; blocking.

    Args:
        storage: The archive.
        topic: The topic's name.
        max_ahead_ms: How far a ``ts`` may lie past its record's Kafka timestamp.

    Attributes:
        message_bytes: Of the messages that are held and not written yet.
    """

    def __init__(self, storage: Storage, topic: str, max_ahead_ms: int) -> None:
        self._storage = storage
        self._topic = topic
        self._max_ahead_ms = max_ahead_ms
        self._name = str(uuid.uuid4())
        self._state = State(topic)
        self._held: dict[int, list[Record]] = {}
        self.message_bytes = 0

    def __len__(self) -> int:
        return sum(self.held().values())

    def held(self) -> dict[int, int]:
        """How many messages are held and not written yet, by partition."""
        return {partition: len(records) for partition, records in self._held.items()}

    def open(self) -> TopicPosition:
        """Shuts out an earlier archiver, removes what a broken flush left, and forgets what is held.

        Returns:
            How far the topic is archived.

        Raises:
            ArchiveError: If it is the archive of another topic, or none.
        """
        self._forget()
        data = self._storage.read(STATE)
        if data is None and self._storage.has_folders():
            raise ArchiveError(
                f"the folder has no {STATE}, but other folders: they are no archive, or what it is known by is gone. "
                "Set archive.path to an empty folder, or bring the file back"
            )
        state = State(self._topic) if data is None else State.from_bytes(data)
        if state.topic != self._topic:
            raise ArchiveError(
                f"it is the archive of topic {state.topic}, not of {self._topic}; set archive.path to another folder"
            )
        self._save(replace(state, writer=self._name))
        for name in state.unfinished:
            self._storage.remove(name)
        if state.unfinished:
            self._save(replace(self._state, unfinished=()))
        if not state.generations:
            return TopicPosition(None, {})
        last = state.generations[-1]
        return TopicPosition(last.topic_id, last.offsets)

    def go_on(self, found: TopicPosition) -> int:
        """Takes the position up from which records come: that of :meth:`open`, or a later one if Kafka lost records.

        Returns:
            How many offsets of the same topic were gone before they were archived.

        Raises:
            LogLost: If the same topic begins again at an offset that is archived: it would name two messages.
            ArchiveError: If the broker is too old to give topics an identity.
        """
        if found.topic_id is None:
            raise ArchiveError("the broker gives topics no id, which rows are known by; Apache Kafka has since 2.8")
        generations = self._state.generations
        lost = 0
        if generations and generations[-1].topic_id == found.topic_id:
            before = generations[-1].offsets
            for partition, offset in found.offsets.items():
                if offset < before.get(partition, 0):
                    raise LogLost(
                        f"Topic {self._topic}, partition {partition}: its log was cut. It is archived up to "
                        f"{before[partition]} and would go on at {offset}, so that offsets would name two messages. "
                        "Set archive.path to another folder"
                    )
                lost += offset - before.get(partition, offset)
            generations = generations[:-1]
        state = replace(self._state, generations=(*generations, Generation(found.topic_id, dict(found.offsets))))
        if state != self._state:
            self._save(state)
        return lost

    def add(self, records: Sequence[Record]) -> None:
        """Holds records, in order within each partition."""
        for record in records:
            self._held.setdefault(record.partition, []).append(record)
            self.message_bytes += len(record.value)

    def flush(self, passed: Mapping[int, int] = MappingProxyType({})) -> Flushed:
        """Writes what is held. After a failure it may be called again, with nothing added meanwhile.

        Args:
            passed: By partition, the next offset to read, where it lies behind transaction markers. Without them, a
                topic that Kafka has emptied would seem to have lost something.

        Raises:
            ArchiveUnavailable: If the file system did not answer.
            ArchiveOvertaken: If another archiver writes here now.
        """
        stored = State.from_bytes(self._storage.read(STATE) or b"")
        if stored.writer != self._name:
            raise ArchiveOvertaken("another archiver writes here now")
        state = self._state
        current = state.generations[-1]
        files = {
            name: data
            for _, records in sorted(self._held.items())
            for name, data in pack(current.topic_id, records, self._max_ahead_ms).items()
        }
        self._storage.write(STATE, replace(stored, unfinished=tuple(files)).to_bytes())
        for name, data in files.items():
            self._storage.write(name, data)
        written = {partition: records[-1].offset + 1 for partition, records in self._held.items()}
        offsets = {**current.offsets, **written}
        offsets |= {partition: max(offset, offsets.get(partition, 0)) for partition, offset in passed.items()}
        grown = Generation(current.topic_id, offsets)
        self._save(replace(state, generations=(*state.generations[:-1], grown), unfinished=()))
        flushed = Flushed(len(self), len(files), sum(map(len, files.values())))
        self._forget()
        return flushed

    def _save(self, state: State) -> None:
        self._storage.write(STATE, state.to_bytes())
        self._state = state

    def _forget(self) -> None:
        self._held = {}
        self.message_bytes = 0
