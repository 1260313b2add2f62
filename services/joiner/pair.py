"""One pair of partitions in a running joiner: what was read and not joined yet, and how far each side is."""

from collections import deque
from collections.abc import Iterable

from services.events import parse_action, parse_impression
from services.joiner.join import Join
from services.joiner.metrics import JoinerMetrics
from services.joiner.pending import Pending
from trainer.dead_letters import Letter
from trainer.errors import BadRecord
from trainer.reader import Record as Message

IMPRESSIONS, ACTIONS = 0, 1
_MOST_BUFFERED = 10_000
_FEW_BUFFERED = 5_000
_CUT_BYTES = 256 << 10  # of a dead letter; a message that was taken may be too large with headers


class Pair:
    """One pair.

    Args:
        partition: Its number.
        join: Its machine.
        pending: What waits in it.
        max_ahead_ms: How far an event's time may lie past its record's.
        metrics: Where discards are counted.
    """

    def __init__(self, partition: int, join: Join, pending: Pending, max_ahead_ms: int, metrics: JoinerMetrics) -> None:
        self.partition = partition
        self.join = join
        self.pending = pending
        self.letters: list[Letter] = []
        self._quiet_since: list[float | None] = [None, None]
        self.changed = False
        self._max_ahead_ms = max_ahead_ms
        self._metrics = metrics
        self._buffers: tuple[deque[Message], deque[Message]] = (deque(), deque())
        self._full = [False, False]

    def offer(self, side: int, message: Message) -> None:
        """Takes a record that was read."""
        self._buffers[side].append(message)
        self._quiet_since[side] = None

    def reached_end(self, side: int, now: float) -> None:
        """Notes that a side was read to its end."""
        if not self._buffers[side] and self._quiet_since[side] is None:
            self._quiet_since[side] = now

    def has_more(self, side: int) -> None:
        """Notes that a side was not read to its end."""
        self._quiet_since[side] = None

    def silent_s(self, side: int, now: float) -> float:
        """For how long a side has been silent since it was read to its end; below 0 if it was not."""
        since = self._quiet_since[side]
        return -1.0 if since is None else now - since

    def forget_buffered(self) -> None:
        """Forgets what was read and not joined: it will be read again."""
        for side, buffer in enumerate(self._buffers):
            buffer.clear()
            self._quiet_since[side] = None

    def is_full(self, side: int) -> bool:
        """Whether nothing more of a side should be read for now."""
        count = len(self._buffers[side])
        self._full[side] = count > (_FEW_BUFFERED if self._full[side] else _MOST_BUFFERED)
        return self._full[side]

    def buffered(self, side: int) -> int:
        """Records of a side that were read and not joined yet."""
        return len(self._buffers[side])

    @property
    def outputs(self) -> int:
        """Messages that wait for a transaction."""
        return len(self.join.out) + len(self.letters)

    @property
    def lower(self) -> int:
        """The side whose watermark is the lower one: it holds the closing up."""
        shown, done = self.join.highs
        return IMPRESSIONS if shown <= done else ACTIONS

    def feed(self, most: int) -> None:
        """Joins what was read until nothing can be joined or so many outputs wait.

        The side with the lower watermark goes first, so that neither runs ahead of the other's backlog.
        """
        while self.join.settle(most) and self.outputs < most:
            side = self.lower
            if not self._buffers[side]:
                if self._quiet_since[side] is None or not self._buffers[1 - side]:
                    return
                side = 1 - side
            self.take(side, self._buffers[side].popleft())
            self.changed = True

    def read_again(self, side: int, messages: Iterable[Message]) -> None:
        """Makes state of records that were consumed before."""
        self.join.read_again(True)
        for message in messages:
            self.take(side, message)
        self.join.read_again(False)

    def take(self, side: int, message: Message) -> None:
        """Joins one record."""
        latest = None if message.timestamp_ms < 0 else message.timestamp_ms + self._max_ahead_ms
        try:
            if side == IMPRESSIONS:
                self.join.impression(message.offset, parse_impression(message.value, latest), message.value)
            else:
                self.join.action(message.offset, parse_action(message.value, latest))
        except BadRecord as fault:
            if self.join.skip(side, message.offset):
                self._dead(message, fault)

    def give_way(self) -> None:
        """Lets the lower side hold up nothing."""
        self.join.give_way()
        self.changed = True

    def _dead(self, message: Message, fault: BadRecord) -> None:
        headers: tuple[tuple[str, bytes], ...] = (
            ("reason", f"{fault.reason}: {fault.detail}".encode("utf-8", "replace")),
            ("source_topic", message.topic.encode()),
            ("source_partition", str(message.partition).encode()),
            ("source_offset", str(message.offset).encode()),
        )
        if len(message.value) > _CUT_BYTES:
            headers = (*headers, ("original_bytes", str(len(message.value)).encode()))
        self.letters.append(Letter(message.key, message.value[:_CUT_BYTES], headers))
        self._metrics.dead_letters.labels(message.topic, fault.reason).inc()
