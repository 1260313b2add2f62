"""The collisionless index: (table, id) -> row, for all tables of a shard at once.

Extendible hashing over segments of open addressing. The top bits of an id's hash choose a segment through a
directory, the low bits a slot in it, and linear probing finds the id. A full segment splits in two (about 20 µs), so
the index grows without ever being rebuilt. A slot holds the whole id and its table: two ids never share a row,
whatever the load. The hash is a bijection keyed at random per process, so nobody can choose ids that crowd one
segment; no result depends on it.

**Source**: Fagin et al. 1979, Extendible Hashing. The property is Monolith's (arXiv 2209.07663, section 2.2.1), where
a cuckoo map provides it.
"""

import secrets
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embedding_store.arena import Arena

SEGMENT_SLOTS = 4096
_FILL = 3277  # a segment splits at 80 % load
_ROW_BITS = 44
_ROW_MASK = (1 << _ROW_BITS) - 1
MAX_TABLES = (1 << 18) - 1

BLOCK = 64
"""Ids whose slots are fetched together, so that their cache misses overlap."""

DEPTH, SEGMENTS, ROWS, FREE, SINK = 0, 1, 2, 3, 4  # places in `control`


class IndexArrays(NamedTuple):
    """What the kernels see of an index.

    Attributes:
        slots: int64[segments * SEGMENT_SLOTS, 2]; the id, and 0 (empty) or (table + 1) << 44 | row.
        directory: int32[2^depth], segment numbers.
        depths: int32[segments], how many hash bits a segment stands for.
        fills: int32[segments], ids in it.
        salts: uint64[T], one a table.
        control: int64[5]: depth of the directory, segments in use, rows ever used, free rows, scratch.
        free: int64[·], rows to use again.
    """

    slots: NDArray[np.int64]
    directory: NDArray[np.int32]
    depths: NDArray[np.int32]
    fills: NDArray[np.int32]
    salts: NDArray[np.uint64]
    control: NDArray[np.int64]
    free: NDArray[np.int64]


@numba.njit(inline="always", cache=True)
def mix(x: np.uint64) -> np.uint64:
    """A bijection of 64 bits (the finalizer of splitmix64)."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(inline="always", cache=True)
def find(index: IndexArrays, table: int, key: int) -> int:
    """The row of an id, or -1."""
    h = mix(np.uint64(key) ^ index.salts[table])
    base = np.int64(index.directory[np.int64(h >> np.uint64(64 - index.control[DEPTH]))]) * SEGMENT_SLOTS
    at = np.int64(h & np.uint64(SEGMENT_SLOTS - 1))
    while True:
        word = index.slots[base + at, 1]
        if word == 0:
            return -1
        if index.slots[base + at, 0] == key and (word >> _ROW_BITS) == table + 1:
            return int(word & _ROW_MASK)
        at = (at + 1) & (SEGMENT_SLOTS - 1)


@numba.njit(inline="always", cache=True)
def fetch(index: IndexArrays, table: int, key: int) -> int:
    """Reads the slot where an id would lie, and nothing of what it says; keep the sum of the answers in `control`."""
    h = mix(np.uint64(key) ^ index.salts[table])
    base = np.int64(index.directory[np.int64(h >> np.uint64(64 - index.control[DEPTH]))]) * SEGMENT_SLOTS
    return int(index.slots[base + np.int64(h & np.uint64(SEGMENT_SLOTS - 1)), 1])


@numba.njit(cache=True)
def _fetch_block(index: IndexArrays, table: int, ids: NDArray[np.int64], first: int) -> None:
    total = 0
    for i in range(first, min(first + BLOCK, ids.size)):
        total += fetch(index, table, ids[i])
    index.control[SINK] = total


@numba.njit(cache=True)
def _split(index: IndexArrays, segment: int) -> bool:
    """Splits a segment in two; False if the directory or the segments must grow first."""
    depth = index.depths[segment]
    if depth == index.control[DEPTH] or (index.control[SEGMENTS] + 1) * SEGMENT_SLOTS > index.slots.shape[0]:
        return False
    other = index.control[SEGMENTS]
    index.control[SEGMENTS] += 1
    index.depths[segment] = depth + 1
    index.depths[other] = depth + 1
    base = segment * SEGMENT_SLOTS
    old = index.slots[base : base + SEGMENT_SLOTS].copy()
    index.slots[base : base + SEGMENT_SLOTS] = 0
    index.fills[segment] = 0
    index.fills[other] = 0
    span = 1 << (index.control[DEPTH] - depth)
    first = 0
    for i in range(SEGMENT_SLOTS):
        if old[i, 1] != 0:
            h = mix(np.uint64(old[i, 0]) ^ index.salts[(old[i, 1] >> _ROW_BITS) - 1])
            first = np.int64(h >> np.uint64(64 - index.control[DEPTH])) // span * span
            break
    for i in range(first + span // 2, first + span):
        index.directory[i] = other
    for i in range(SEGMENT_SLOTS):
        if old[i, 1] != 0:
            h = mix(np.uint64(old[i, 0]) ^ index.salts[(old[i, 1] >> _ROW_BITS) - 1])
            into = np.int64(index.directory[np.int64(h >> np.uint64(64 - index.control[DEPTH]))])
            index.fills[into] += 1
            at = np.int64(h & np.uint64(SEGMENT_SLOTS - 1))
            while index.slots[into * SEGMENT_SLOTS + at, 1] != 0:
                at = (at + 1) & (SEGMENT_SLOTS - 1)
            index.slots[into * SEGMENT_SLOTS + at] = old[i]
    return True


@numba.njit(cache=True)
def insert(index: IndexArrays, table: int, key: int) -> int:
    """Gives an absent id a row and returns it; -1 if the arrays must grow first.

    The caller has made sure that a row is to be had.
    """
    h = mix(np.uint64(key) ^ index.salts[table])
    while True:
        segment = np.int64(index.directory[np.int64(h >> np.uint64(64 - index.control[DEPTH]))])
        if index.fills[segment] < _FILL:
            break
        if not _split(index, int(segment)):
            return -1
    if index.control[FREE] > 0:
        index.control[FREE] -= 1
        row = int(index.free[index.control[FREE]])
    else:
        row = int(index.control[ROWS])
        index.control[ROWS] += 1
    at = np.int64(h & np.uint64(SEGMENT_SLOTS - 1))
    while index.slots[segment * SEGMENT_SLOTS + at, 1] != 0:
        at = (at + 1) & (SEGMENT_SLOTS - 1)
    index.slots[segment * SEGMENT_SLOTS + at, 0] = key
    index.slots[segment * SEGMENT_SLOTS + at, 1] = ((table + 1) << _ROW_BITS) | row
    index.fills[segment] += 1
    return row


@numba.njit(cache=True)
def remove(index: IndexArrays, table: int, key: int) -> int:
    """Takes an id out and returns the row that it had, now free; -1 if it was absent.

    The caller has made sure that `free` has room.
    """
    h = mix(np.uint64(key) ^ index.salts[table])
    segment = np.int64(index.directory[np.int64(h >> np.uint64(64 - index.control[DEPTH]))])
    base = segment * SEGMENT_SLOTS
    at = np.int64(h & np.uint64(SEGMENT_SLOTS - 1))
    while True:
        word = index.slots[base + at, 1]
        if word == 0:
            return -1
        if index.slots[base + at, 0] == key and (word >> _ROW_BITS) == table + 1:
            break
        at = (at + 1) & (SEGMENT_SLOTS - 1)
    row = int(index.slots[base + at, 1] & _ROW_MASK)
    hole = at
    while True:
        at = (at + 1) & (SEGMENT_SLOTS - 1)
        word = index.slots[base + at, 1]
        if word == 0:
            break
        home = np.int64(mix(np.uint64(index.slots[base + at, 0]) ^ index.salts[(word >> _ROW_BITS) - 1]))
        home &= SEGMENT_SLOTS - 1
        if ((at - home) & (SEGMENT_SLOTS - 1)) >= ((at - hole) & (SEGMENT_SLOTS - 1)):
            index.slots[base + hole] = index.slots[base + at]
            hole = at
    index.slots[base + hole] = 0
    index.fills[segment] -= 1
    index.free[index.control[FREE]] = row
    index.control[FREE] += 1
    return row


@numba.njit(nogil=True, cache=True)
def _find_many(index: IndexArrays, table: int, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    for i in range(ids.size):
        if i % BLOCK == 0:
            _fetch_block(index, table, ids, i)
        rows[i] = find(index, table, ids[i])


@numba.njit(nogil=True, cache=True)
def _find_or_insert_many(
    index: IndexArrays, table: int, ids: NDArray[np.int64], rows: NDArray[np.int64], start: int
) -> int:
    for i in range(start, ids.size):
        if i % BLOCK == 0:
            _fetch_block(index, table, ids, i)
        row = find(index, table, ids[i])
        if row < 0:
            row = insert(index, table, ids[i])
            if row < 0:
                return i
        rows[i] = row
    return ids.size


@numba.njit(nogil=True, cache=True)
def _remove_many(index: IndexArrays, table: int, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    for i in range(ids.size):
        rows[i] = remove(index, table, ids[i])


@numba.njit(nogil=True, cache=True)
def _list_rows(index: IndexArrays, table: int, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> int:
    n = 0
    for slot in range(index.control[SEGMENTS] * SEGMENT_SLOTS):
        word = index.slots[slot, 1]
        if (word >> _ROW_BITS) == table + 1:
            ids[n] = index.slots[slot, 0]
            rows[n] = word & _ROW_MASK
            n += 1
    return n


class HashIndex:
    """Maps (table, id) to rows 0, 1, 2, … and hands rows of removed ids out again.

    Args:
        tables: How many tables there are.
        first_row: Rows below this one are never handed out.
    """

    def __init__(self, tables: int, first_row: int = 0) -> None:
        if not 0 < tables <= MAX_TABLES:
            raise ValueError(f"{tables} tables; there can be 1 to {MAX_TABLES}")
        self._slots = Arena(np.int64, (2,), 2 * SEGMENT_SLOTS)
        self._directory = np.array([0, 1], dtype=np.int32)
        self._depths = Arena(np.int32, (), 2)
        self._depths.array[:2] = 1
        self._fills = Arena(np.int32, (), 2)
        key = np.frombuffer(secrets.token_bytes(8 * tables), dtype=np.uint64)
        self._salts = key.copy()
        self._control = np.array([1, 2, first_row, 0, 0], dtype=np.int64)
        self._free = Arena(np.int64, (), 1024)
        self._first_row = first_row

    @property
    def arrays(self) -> IndexArrays:
        """What the kernels take. Valid until the next growth: do not keep it."""
        return IndexArrays(
            self._slots.array,  # type: ignore[arg-type]  # an arena's array has the arena's dtype
            self._directory,
            self._depths.array,  # type: ignore[arg-type]
            self._fills.array,  # type: ignore[arg-type]
            self._salts,
            self._control,
            self._free.array,  # type: ignore[arg-type]
        )

    def __len__(self) -> int:
        return int(self._control[ROWS] - self._control[FREE]) - self._first_row

    @property
    def rows_end(self) -> int:
        """One past the highest row ever handed out."""
        return int(self._control[ROWS])

    @property
    def nbytes(self) -> int:
        """Bytes of the segments in use and of the directory."""
        return int(self._control[SEGMENTS]) * SEGMENT_SLOTS * 16 + self._directory.nbytes

    def grow(self) -> None:
        """Makes room after a kernel could not insert: a deeper directory or more segments."""
        if (int(self._control[SEGMENTS]) + 1) * SEGMENT_SLOTS > self._slots.capacity:
            self._slots.reserve(self._slots.capacity + SEGMENT_SLOTS)
            segments = self._slots.capacity // SEGMENT_SLOTS
            self._depths.reserve(segments)
            self._fills.reserve(segments)
        else:
            self._directory = np.repeat(self._directory, 2)
            self._control[DEPTH] += 1

    def reserve_free(self, count: int) -> None:
        """Makes room for so many removals."""
        self._free.reserve(int(self._control[FREE]) + count)

    def entries(self, table: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every id of a table and its row, in no order: int64[n], int64[n]. Passes over the whole index."""
        ids, rows = np.empty(len(self), dtype=np.int64), np.empty(len(self), dtype=np.int64)
        count = _list_rows(self.arrays, table, ids, rows)
        return ids[:count].copy(), rows[:count].copy()

    def lookup(self, table: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ids: int64[N] -> int64[N], -1 where absent."""
        rows = np.empty(ids.size, dtype=np.int64)
        _find_many(self.arrays, table, ids, rows)
        return rows

    def lookup_or_insert(self, table: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ids, absent ones inserted: int64[N] -> int64[N]. Idempotent."""
        rows = np.empty(ids.size, dtype=np.int64)
        done = 0
        while (done := _find_or_insert_many(self.arrays, table, ids, rows, done)) < ids.size:
            self.grow()
        return rows

    def remove(self, table: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Takes ids out and returns the rows that they had: int64[N], -1 where absent. Idempotent."""
        self.reserve_free(ids.size)
        rows = np.empty(ids.size, dtype=np.int64)
        _remove_many(self.arrays, table, ids, rows)
        return rows
