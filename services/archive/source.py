"""One generation of an archived topic, as the trainer's loop reads it."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice

from services.archive.errors import ArchiveError
from services.archive.reader import Archive
from trainer.lost_log import TopicPosition
from trainer.reader import Record

_log = logging.getLogger(__name__)
_TOLD = 10


class ArchiveSource:
    """A :class:`trainer.message_source.MessageSource` that ends. Not thread-safe.

    Positions are those of Kafka, so that a trainer may go on there.

    Args:
        archive: Holds the messages.
        topic_id: Of the generation.
        until_ms: Each partition ends before its first message of this Kafka timestamp or a later one.
        learns_rest: Whether the last examples are learned from though they make no whole batch.

    Attributes:
        dead_letters: How many messages could not be learned from, by reason. They stay in the archive.
        messages: How many were read.
        ended: Whether all were handed out.
    """

    lost_logs = 0

    def __init__(self, archive: Archive, topic_id: str, until_ms: int | None = None, learns_rest: bool = True) -> None:
        self._archive = archive
        self._topic = archive.state.topic
        self._topic_id = topic_id
        self._until_ms = until_ms
        self.learns_rest = learns_rest
        self.dead_letters: Counter[str] = Counter()
        self.messages = 0
        self.ended = False
        self._next: dict[int, int] = {}
        self._records: Iterator[Record] = iter(())

    def open(self, stored: Mapping[str, TopicPosition]) -> None:
        """Goes to the stored position, or to the first message.

        Raises:
            ArchiveError: If the position is one in a topic that the archive does not hold.
        """
        self._next = self._begin(stored.get(self._topic))
        self._records = self._archive.read(self._topic_id, self._next, self._until_ms)
        self.ended = False

    def _begin(self, stored: TopicPosition | None) -> dict[int, int]:
        ids = list(self._archive.ends)
        first = self._archive.first_offsets(self._topic_id)
        if stored is None or not stored.offsets:
            return first
        at = stored.topic_id or ids[-1]  # a dump that was loaded knows no ids; it means the topic as it is now
        if at not in ids:
            raise ArchiveError(
                f"the store has learned from topic {self._topic} with the id {at}, of which the archive holds nothing; "
                "train into an empty store, or another store.prefix"
            )
        if at == self._topic_id:
            return {**first, **stored.offsets}
        if ids.index(at) < ids.index(self._topic_id):
            return first
        return dict(self._archive.ends[self._topic_id])

    def poll(self, timeout_ms: int, max_records: int) -> list[Record]:
        """The next records. Waits for nothing but the file system."""
        records = list(islice(self._records, max_records))
        self.ended = len(records) < max_records
        self.messages += len(records)
        for record in records:
            self._next[record.partition] = record.offset + 1
        return records

    def positions(self) -> dict[str, TopicPosition]:
        """How far :meth:`poll` has handed out."""
        return {self._topic: TopicPosition(self._topic_id, dict(self._next))}

    def lag(self) -> dict[tuple[str, int], int]:
        """Offsets left, by topic and partition."""
        return {
            (self._topic, partition): self._archive.left(self._topic_id, partition, offset)
            for partition, offset in self._next.items()
        }

    def at_end(self) -> bool:
        """False: nothing is waited for here."""
        return False

    def dead_letter(self, record: Record, reason: str, detail: str) -> None:
        """Counts it, and tells of the first ones of each reason."""
        self.dead_letters[reason] += 1
        if self.dead_letters[reason] <= _TOLD:
            _log.warning(
                "not learned from: partition %d, offset %d: %s: %s", record.partition, record.offset, reason, detail
            )

    def flush_dead_letters(self) -> None:
        """Nothing is left to do: the archive has them."""

    def check(self) -> None:
        """Nothing can change: what was archived stays as it is."""

    def commit_offsets(self, positions: Mapping[str, TopicPosition]) -> None:
        """Nobody watches."""

    def close(self) -> None:
        """Ends reading."""
        self._records = iter(())
