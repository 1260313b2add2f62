"""Requests that wait, in memory up to a budget and beyond it on disk, in the order of their due times."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from services.joiner.entry import NO_OFFSET, Entry, due_of

_OVERHEAD_BYTES = 200  # of a request in memory beside its bytes: name, dictionary, place in its bucket
_BUCKETS = 256
_LEAST_WIDTH_MS = 1000
_NONE = 1 << 62


class Disk(Protocol):
    """What is asked of the part on disk; see :class:`services.joiner.spill.Spill`."""

    def __len__(self) -> int: ...

    def add(self, some: Iterator[tuple[int, str, bytes]]) -> None: ...  # noqa: D102

    def get(self, request: str) -> bytes | None: ...  # noqa: D102

    def replace(self, request: str, old_due: int, due: int, body: bytes) -> None: ...  # noqa: D102

    def remove(self, request: str, due: int) -> None: ...  # noqa: D102

    def refs(self, start: int, end: int) -> list[tuple[int, str]]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


@dataclass(slots=True)
class _Bucket:
    """Requests that fall due within one span of event time, and the lowest offsets among all that ever were in it."""

    names: list[str] = field(default_factory=list)
    impression: int = _NONE
    action: int = _NONE
    on_disk: bool = False

    def saw(self, impression: int, action: int) -> None:
        if impression != NO_OFFSET and impression < self.impression:
            self.impression = impression
        if action != NO_OFFSET and action < self.action:
            self.action = action


class Pending:
    """Waiting requests of one pair of partitions.

    Args:
        horizon_ms: How far a due time lies ahead at most, about; in event time.
        budget_bytes: Of memory.
        open_disk: Makes the part on disk when it is first needed; None: all stays in memory.
    """

    def __init__(self, horizon_ms: int, budget_bytes: int, open_disk: Callable[[], Disk] | None = None) -> None:
        self._width = max(_LEAST_WIDTH_MS, horizon_ms // _BUCKETS)
        self._budget = budget_bytes
        self._open_disk = open_disk
        self._disk: Disk | None = None
        self._memory: dict[str, bytes] = {}
        self._buckets: dict[int, _Bucket] = {}
        self._front = _Bucket()
        self._front_number = -1
        self._heap: list[tuple[int, str]] = []
        self.memory_bytes = 0

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._memory) + self.disk_len

    @property
    def disk_len(self) -> int:
        """How many of them wait on disk."""
        return 0 if self._disk is None else len(self._disk)

    def get(self, request: str) -> Entry | None:
        """The request's entry, if it waits."""
        data = self._memory.get(request)
        if data is not None:
            return Entry.decode(data)
        data = None if self._disk is None else self._disk.get(request)
        return None if data is None else Entry.decode(data, on_disk=True)

    def put(self, request: str, entry: Entry) -> None:
        """Keeps an entry, a new one or one that :meth:`get` gave."""
        data = entry.encode()
        if entry.on_disk and self._disk is not None:
            self._disk.replace(request, entry.due if entry.placed is None else entry.placed, entry.due, data)
        else:
            old = self._memory.get(request)
            self.memory_bytes += len(data) - len(old) if old is not None else _size(request, data)
            self._memory[request] = data
        self._place(request, entry)
        if self.memory_bytes > self._budget and self._open_disk is not None:
            self._spill()

    def remove(self, request: str, entry: Entry) -> None:
        """Forgets an entry that :meth:`get` or :meth:`pop_due` gave."""
        if entry.on_disk and self._disk is not None:
            self._disk.remove(request, entry.due if entry.placed is None else entry.placed)
        else:
            self.memory_bytes -= _size(request, self._memory.pop(request))

    def pop_due(self, limit: int) -> tuple[str, Entry] | None:
        """The entry with the earliest due time before a limit, or None. It stays until it is put or removed."""
        while True:
            while not self._heap:
                if not self._load(limit):
                    return None
            due, request = self._heap[0]
            if due >= limit:
                return None
            heapq.heappop(self._heap)
            entry = self.get(request)
            if entry is not None and entry.due == due:
                return request, entry

    def put_back(self, request: str, entry: Entry) -> None:
        """Undoes :meth:`pop_due`."""
        heapq.heappush(self._heap, (entry.due, request))

    def has_due(self, limit: int) -> bool:
        """Whether something may fall due before a limit."""
        if self._heap and self._heap[0][0] < limit:
            return True
        return any(number * self._width < limit for number in self._buckets)

    def first_offsets(self) -> tuple[int | None, int | None]:
        """Lower bounds of the offsets of all impressions and actions that wait; None where none does."""
        some = [*self._buckets.values(), *([self._front] if self._heap else [])]
        impression = min((bucket.impression for bucket in some), default=_NONE)
        action = min((bucket.action for bucket in some), default=_NONE)
        return (None if impression == _NONE else impression), (None if action == _NONE else action)

    def close(self) -> None:
        """Gives the disk back. Idempotent."""
        disk, self._disk = self._disk, None
        if disk is not None:
            disk.close()

    def _place(self, request: str, entry: Entry) -> None:
        number = entry.due // self._width
        bucket = self._front
        if number > self._front_number:
            found = self._buckets.get(number)
            if found is None:
                found = self._buckets[number] = _Bucket()
            bucket = found
        bucket.saw(entry.offset, entry.first_action)
        if entry.placed == entry.due:
            return
        entry.placed = entry.due
        if bucket is self._front:
            heapq.heappush(self._heap, (entry.due, request))
        elif entry.on_disk:
            bucket.on_disk = True
        else:
            bucket.names.append(request)

    def _load(self, limit: int) -> bool:
        """Takes the next bucket to the front, if it begins before the limit."""
        number = min(self._buckets, default=None)
        if number is None or number * self._width >= limit:
            return False
        start, end = number * self._width, (number + 1) * self._width
        bucket = self._front = self._buckets.pop(number)
        self._front_number = number
        for request in bucket.names:
            data = self._memory.get(request)
            if data is not None and start <= due_of(data) < end:
                self._heap.append((due_of(data), request))
        if bucket.on_disk and self._disk is not None:
            self._heap += self._disk.refs(start, end)
        bucket.names = []
        heapq.heapify(self._heap)
        return True

    def _spill(self) -> None:
        """Moves what falls due first to the disk, until a quarter of the budget is free."""
        if self._disk is None and self._open_disk is not None:
            self._disk = self._open_disk()
        for number in sorted(number for number, bucket in self._buckets.items() if bucket.names):
            if self.memory_bytes <= self._budget * 3 // 4:
                return
            bucket = self._buckets[number]
            start, end = number * self._width, (number + 1) * self._width
            self._move(name for name in dict.fromkeys(bucket.names) if self._falls_due(name, start, end))
            bucket.names, bucket.on_disk = [], True
        if self.memory_bytes > self._budget:
            self._move(name for name in list(self._memory))

    def _falls_due(self, request: str, start: int, end: int) -> bool:
        data = self._memory.get(request)
        return data is not None and start <= due_of(data) < end

    def _move(self, names: Iterator[str]) -> None:
        rows = []
        for request in names:
            data = self._memory.pop(request)
            self.memory_bytes -= _size(request, data)
            rows.append((due_of(data), request, data))
        if self._disk is not None:
            self._disk.add(iter(rows))


def _size(request: str, data: bytes) -> int:
    return len(request) + len(data) + _OVERHEAD_BYTES
