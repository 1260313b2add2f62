"""The place in one topic up to which it was consumed, and the watch over the log below it."""

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainer.errors import EventsUnavailable, LogLost
from trainer.lost_log import (
    ADVICE,
    Loss,
    TopicPosition,
    count_left,
    describe_missing,
    find_deleted,
    find_replaced,
    find_shorter,
)
from trainer.reader import OutOfRange, Reader, Record
from trainer.topics import Topics, TopicState

log = logging.getLogger(__name__)

MISSING_LIMIT_S = 5.0
"""How long a topic may be missing (its broker restarted) before it counts as lost."""

SHORT_LIMIT_S = 3.0
"""How long a log may look shorter than what was consumed (a new leader catches up) before it counts as lost."""

_PAUSE_S = 0.1
_MOST_LOSSES = 5


@dataclass(slots=True)
class _Since:
    """When a condition that may pass by itself was first seen, in seconds of the monotonic clock."""

    at: float | None = None

    def lasts(self, holds: bool, limit_s: float) -> bool:
        """Notes whether the condition holds now, and says whether it has held for as long as the limit."""
        if not holds:
            self.at = None
            return False
        now = time.monotonic()
        self.at = now if self.at is None else self.at
        return now - self.at >= limit_s


class Cursor:
    """Reads all partitions of a topic and knows how far. Not thread-safe.

    Args:
        topic: The topic's name.
        topics: Asks about it and creates it.
        options: What any Kafka client needs to connect.
        on_lost_log: Where to go when the log was lost.
        partitions: Of the topic, where it does not exist yet.

    Attributes:
        losses: How often a lost log made the cursor go elsewhere.
    """

    def __init__(
        self,
        topic: str,
        topics: Topics,
        options: Mapping[str, Any],
        on_lost_log: Literal["earliest", "latest", "stop"],
        partitions: int,
    ) -> None:
        self.losses = 0
        self._topic = topic
        self._topics = topics
        self._options = options
        self._on_lost_log = on_lost_log
        self._partitions = partitions
        self._reader: Reader | None = None
        self._topic_id: str | None = None
        self._next: dict[int, int] = {}
        self._gave_nothing = False
        self._suspects: frozenset[int] = frozenset()
        self._missing = _Since()
        self._short = _Since()

    def open(self, known: TopicPosition, start: str | int) -> None:
        """Goes to a known position, or to a start (earliest, latest, or a time in ms) where nothing is known."""
        self._missing = _Since()
        state = self._await_topic(known)
        if not known.offsets:
            self._go(state, start, {})
        elif (loss := find_replaced(self._topic, known, state)) is not None:
            self._lose(loss, state)
        else:
            self._go(state, "earliest", known.offsets)
        self._settle(state)

    def poll(self, timeout_ms: int, max_records: int) -> list[Record]:
        """The next records, in order within each partition; none if there are none, or while the broker is away."""
        reader = self._opened()
        self._gave_nothing = False
        try:
            records = reader.poll(timeout_ms, max_records)
        except OutOfRange as error:
            self._suspects |= error.partitions
            with contextlib.suppress(EventsUnavailable):
                self.check()
            time.sleep(min(timeout_ms / 1000, _PAUSE_S))
            return []
        except EventsUnavailable:
            self._drop_reader()
            raise
        if self._topic_id is not None and reader.topic_id() not in (None, self._topic_id):
            reader.assign(self._next)  # these records may be another topic's
            self.check()
            return []
        for record in records:
            self._next[record.partition] = record.offset + 1
        self._gave_nothing = not records
        return records

    def position(self) -> TopicPosition:
        """How far :meth:`poll` has handed out, transaction markers not counted."""
        return TopicPosition(self._topic_id, dict(self._next))

    def passed(self) -> dict[int, int]:
        """By partition, the offset to be read next: behind transaction markers that :meth:`poll` went past."""
        reader = self._opened()
        return {p: max(offset, reader.position(p)) for p, offset in self._next.items()}

    def left(self) -> dict[int, int]:
        """Records left by partition, as the broker tells now."""
        reader = self._opened()
        latest = self._topics.latest(self._topic, self._next)
        return {
            p: count_left(position, latest[p], reader.high_watermark(p), self._gave_nothing)
            for p, position in self.passed().items()
        }

    def at_end(self) -> bool:
        """Whether the last poll gave nothing because every partition was read to its end."""
        if not self._gave_nothing:
            return False
        reader = self._opened()
        answered = all(reader.high_watermark(partition) is not None for partition in self._next)
        return answered and not any(self.left().values())

    def check(self) -> None:
        """Makes sure that the position still belongs to the topic, and takes up partitions that came later."""
        self._opened()
        state = self._topics.describe(self._topic)
        if self._missing.lasts(state is None, MISSING_LIMIT_S):
            state = self._recreate()
        if state is None:
            return
        loss = find_replaced(self._topic, self.position(), state) or self._find_partial()
        if loss is not None:
            self._lose(loss, state)
        elif set(state.partitions) != set(self._next):
            log.info("Topic %s has %d partitions now", self._topic, len(state.partitions))
            self._go(state, "earliest", self._next)

    def close(self) -> None:
        """Closes the client. Idempotent."""
        self._drop_reader()

    def _await_topic(self, known: TopicPosition) -> TopicState:
        """The topic, which may take a while to be there again; a missing one is created where that loses nothing."""
        missing = _Since()
        while (state := self._topics.describe(self._topic)) is None:
            if not known.offsets or self._on_lost_log != "stop":
                return self._topics.ensure(self._topic, self._partitions)
            if missing.lasts(True, MISSING_LIMIT_S):
                raise LogLost(f"{describe_missing(self._topic, known, MISSING_LIMIT_S)} {ADVICE}")
            time.sleep(_PAUSE_S)
        return state

    def _recreate(self) -> TopicState:
        reason = describe_missing(self._topic, self.position(), MISSING_LIMIT_S)
        if self._on_lost_log == "stop":
            raise LogLost(f"{reason} {ADVICE}")
        log.warning('%s Creating it again, since events.on_lost_log is "%s"', reason, self._on_lost_log)
        return self._topics.ensure(self._topic, self._partitions)

    def _find_partial(self) -> Loss | None:
        """Whether single partitions lost records."""
        reader, positions = self._opened(), self.passed()
        deleted = find_deleted(self._topic, positions, self._topics.earliest(self._topic, positions))
        if deleted is not None:
            return deleted
        if self._suspects:
            return find_shorter(self._topic, positions, self._topics.latest(self._topic, self._suspects))
        marks = {p: reader.high_watermark(p) for p in positions}
        short = {p: mark for p, mark in marks.items() if mark is not None and mark < positions[p]}
        return find_shorter(self._topic, positions, short) if self._short.lasts(bool(short), SHORT_LIMIT_S) else None

    def _lose(self, loss: Loss, state: TopicState) -> None:
        """Goes elsewhere, or stops, as configured."""
        if self._on_lost_log == "stop":
            raise LogLost(f"{loss.reason} {ADVICE}")
        log.warning("%s Going on from the %s offset, as events.on_lost_log says", loss.reason, self._on_lost_log)
        kept = {} if loss.whole else {p: o for p, o in self._next.items() if p not in loss.partitions}
        self._go(state, self._on_lost_log, kept)
        self.losses += 1

    def _go(self, state: TopicState, where: str | int, kept: Mapping[int, int]) -> None:
        """Reads all partitions with a new client: from the kept offsets, the others from a place or a time in ms."""
        self._drop_reader()
        reader = Reader(self._options, self._topic)
        try:
            offsets = {**kept, **self._resolve(reader, where, sorted(set(state.partitions) - set(kept)))}
            reader.assign(offsets)
        except BaseException:
            reader.close()
            raise
        self._reader, self._next, self._topic_id = reader, offsets, state.topic_id
        self._suspects, self._short, self._gave_nothing = frozenset(), _Since(), False

    def _resolve(self, reader: Reader, where: str | int, partitions: list[int]) -> dict[int, int]:
        if where == "earliest" or not partitions:
            return self._topics.earliest(self._topic, partitions)
        found: dict[int, int | None] = dict.fromkeys(partitions)
        if isinstance(where, int):
            found = self._topics.at_time(self._topic, partitions, where)
        later = [p for p, offset in found.items() if offset is None]
        offsets = reader.ends(self._topics.latest(self._topic, later)) if later else {}
        if isinstance(where, int):
            offsets |= reader.first_at(where, {p: offset for p, offset in found.items() if offset is not None})
        return offsets

    def _settle(self, state: TopicState) -> None:
        """Returns once every partition has answered from its position. A loss that shows is treated as one."""
        for _ in range(_MOST_LOSSES):
            while True:
                reader = self._opened()
                try:
                    reader.await_answers(self._next)
                except OutOfRange as error:
                    self._suspects |= error.partitions
                loss = self._find_partial()
                if loss is not None:
                    break
                if self._short.at is None:
                    return
            self._lose(loss, state)
        raise EventsUnavailable(f"Topic {self._topic} loses its log again and again")

    def _opened(self) -> Reader:
        if not self._next:
            raise RuntimeError("open() comes first")
        if self._reader is None:
            reader = Reader(self._options, self._topic)
            reader.assign(self._next)
            self._reader = reader
        return self._reader

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
