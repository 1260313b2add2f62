"""The collisionless index: (table, id) -> row, for all tables of a shard at once.

Extendible hashing over segments of open addressing. The top bits of an id's hash choose a segment through a
directory, the low bits a slot in it, and linear probing finds the id. A full segment splits in two (some 20 µs), so
the index grows without ever being rebuilt. Each segment has a limit of its own, so that segments of one age do not
split all at once. A slot holds the whole id and its table: two ids never share a row, whatever the load. The hash is
a bijection keyed at random per process, so nobody can choose ids that crowd one segment; no result depends on it.

**Source**: Fagin et al. 1979, Extendible Hashing. The property is Monolith's (arXiv 2209.07663, section 2.2.1), where
a cuckoo map provides it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.prefetch import prefetch

SEGMENT_SLOTS = 4096
_LOWEST_LIMIT, _LIMITS = 2867, 819  # a segment splits at 70 to 90 % load
_ROW_BITS = 44
_ROW_MASK = (1 << _ROW_BITS) - 1
MAX_TABLES = (1 << 18) - 1

BLOCK = 32
"""How many ids ahead slots are fetched, so that their cache misses overlap."""

_LINE_SLOTS = 4  # of a line of the cache

DEPTH, SEGMENTS, ROWS, FREE = 0, 1, 2, 3  # places in `control`


class IndexArrays(NamedTuple):
    """What the kernels see of an index.

    Attributes:
        slots: int64[segments * SEGMENT_SLOTS, 2]; the id, and 0 (empty) or (table + 1) << 44 | row.
        directory: int32[2^depth], segment numbers.
        depths: int32[segments], how many hash bits a segment stands for.
        room: int32[segments], ids that it still takes before it splits.
        salts: uint64[T], one a table.
        control: int64[4]: depth of the directory, segments in use, rows ever used, free rows.
        free: int64[·], rows to use again.
    """

    slots: NDArray[np.int64]
    directory: NDArray[np.int32]
    depths: NDArray[np.int32]
    room: NDArray[np.int32]
    salts: NDArray[np.uint64]
    control: NDArray[np.int64]
    free: NDArray[np.int64]


@kernel(inline="always")
def mix(x: np.uint64) -> np.uint64:
    """A bijection of 64 bits (the finalizer of splitmix64)."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@kernel(inline="always")
def home_of(index: IndexArrays, table: int, key: int) -> int:
    """The slot from which on an id lies, until the index grows."""
    h = mix(np.uint64(key) ^ index.salts[table])
    segment = np.int64(index.directory[np.int64(h >> np.uint64(64 - index.control[DEPTH]))])
    return int(segment * SEGMENT_SLOTS + np.int64(h & np.uint64(SEGMENT_SLOTS - 1)))


@kernel(inline="always")
def find_from(index: IndexArrays, home: int, table: int, key: int) -> int:
    """The row of an id whose home is known, or -1."""
    base, at = home & ~(SEGMENT_SLOTS - 1), home & (SEGMENT_SLOTS - 1)
    while True:
        word = index.slots[base + at, 1]
        if word == 0:
            return -1
        if index.slots[base + at, 0] == key and (word >> _ROW_BITS) == table + 1:
            return int(word & _ROW_MASK)
        at = (at + 1) & (SEGMENT_SLOTS - 1)


@kernel(inline="always")
def find(index: IndexArrays, table: int, key: int) -> int:
    """The row of an id, or -1."""
    return int(find_from(index, home_of(index, table, key), table, key))


@kernel(inline="always")
def fetch(index: IndexArrays, table: int, key: int) -> int:
    """Has the slots where an id would lie brought into the cache, and waits for nothing. Gives the id's home."""
    home = int(home_of(index, table, key))
    prefetch(index.slots, home)
    prefetch(index.slots, home + _LINE_SLOTS)  # three of four probes that start in a line may end in the next
    return home


@kernel(inline="always")
def _fetch_first(index: IndexArrays, table: int, ids: NDArray[np.int64], start: int, homes: NDArray[np.int64]) -> None:
    """Fetches the slots of the first ids from `start` on, and writes down their homes: int64[BLOCK], a ring."""
    for i in range(start, min(start + BLOCK, ids.size)):
        homes[i % BLOCK] = fetch(index, table, ids[i])


@kernel(inline="always")
def limit_of(segment: int, depth: int) -> int:
    """How many ids a segment takes before it splits; another number after each split."""
    h = mix(np.uint64(segment * 64 + depth))
    return _LOWEST_LIMIT + int(h % np.uint64(_LIMITS))


@kernel(_nrt=True)
def _split(index: IndexArrays, segment: int) -> bool:
    """Splits a segment in two; False if the directory or the segments must grow first."""
    depth = np.int64(index.depths[segment])
    slots, directory, room = index.slots, index.directory, index.room
    if depth == index.control[DEPTH] or (index.control[SEGMENTS] + 1) * SEGMENT_SLOTS > slots.shape[0]:
        return False
    other = index.control[SEGMENTS]
    index.control[SEGMENTS] += 1
    base = segment * SEGMENT_SLOTS
    old = slots[base : base + SEGMENT_SLOTS].copy()
    shift = np.uint64(64 - index.control[DEPTH])
    span = 1 << (index.control[DEPTH] - depth)
    first = -1
    for i in range(SEGMENT_SLOTS):
        slots[base + i, 1] = 0
        if first < 0 and old[i, 1] != 0:
            h = mix(np.uint64(old[i, 0]) ^ index.salts[(old[i, 1] >> _ROW_BITS) - 1])
            first = np.int64(h >> shift) // span * span
    for i in range(first + span // 2, first + span):
        directory[i] = other
    for part in (segment, other):
        index.depths[part] = depth + 1
        room[part] = limit_of(int(part), int(depth) + 1)
    for i in range(SEGMENT_SLOTS):
        key, word = old[i, 0], old[i, 1]
        if word != 0:
            h = mix(np.uint64(key) ^ index.salts[(word >> _ROW_BITS) - 1])
            into = np.int64(directory[np.int64(h >> shift)])
            room[into] -= 1
            at = np.int64(h & np.uint64(SEGMENT_SLOTS - 1))
            while slots[into * SEGMENT_SLOTS + at, 1] != 0:
                at = (at + 1) & (SEGMENT_SLOTS - 1)
            slots[into * SEGMENT_SLOTS + at, 0] = key
            slots[into * SEGMENT_SLOTS + at, 1] = word
    return True


@kernel()
def insert(index: IndexArrays, table: int, key: int) -> int:
    """Gives an absent id a row and returns it; -1 if the arrays must grow first.

    The caller has made sure that a row is to be had.
    """
    h = mix(np.uint64(key) ^ index.salts[table])
    while True:
        segment = np.int64(index.directory[np.int64(h >> np.uint64(64 - index.control[DEPTH]))])
        if index.room[segment] > 0:
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
    index.room[segment] -= 1
    return row


@kernel()
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
            index.slots[base + hole, 0] = index.slots[base + at, 0]
            index.slots[base + hole, 1] = word
            hole = at
    index.slots[base + hole, 1] = 0
    index.room[segment] += 1
    index.free[index.control[FREE]] = row
    index.control[FREE] += 1
    return row


@kernel()
def find_many(
    index: IndexArrays, table: int, ids: NDArray[np.int64], homes: NDArray[np.int64], rows: NDArray[np.int64]
) -> None:
    """Rows of ids: int64[N] -> int64[N], -1 where absent. `homes`: int64[BLOCK], scratch."""
    _fetch_first(index, table, ids, 0, homes)
    for i in range(ids.size):
        home = homes[i % BLOCK]
        if i + BLOCK < ids.size:
            homes[i % BLOCK] = fetch(index, table, ids[i + BLOCK])
        rows[i] = find_from(index, home, table, ids[i])


@kernel()
def find_or_insert_many(
    index: IndexArrays, table: int, ids: NDArray[np.int64], homes: NDArray[np.int64], rows: NDArray[np.int64],
    start: int,
) -> int:  # fmt: skip
    """Rows of ids from the one at `start` on, absent ones inserted: int64[N] -> int64[N].

    `homes`: int64[BLOCK], scratch. Gives the first that is not done because arrays must grow; N if all are.
    """
    _fetch_first(index, table, ids, start, homes)
    moved_end = 0  # homes of ids before it were told before a split
    for i in range(start, ids.size):
        home = homes[i % BLOCK]
        if i + BLOCK < ids.size:
            homes[i % BLOCK] = fetch(index, table, ids[i + BLOCK])
        row = find_from(index, home, table, ids[i])
        if row < 0 and i < moved_end:
            row = find(index, table, ids[i])
        if row < 0:
            segments = index.control[SEGMENTS]
            row = insert(index, table, ids[i])
            if index.control[SEGMENTS] != segments:
                moved_end = i + BLOCK + 1
            if row < 0:
                return i
        rows[i] = row
    return ids.size


@kernel()
def remove_many(index: IndexArrays, table: int, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    """Takes ids out: int64[N] -> the rows that they had, int64[N], -1 where absent."""
    for i in range(ids.size):
        if i % BLOCK == 0:
            for ahead in range(i, min(i + BLOCK, ids.size)):
                fetch(index, table, ids[ahead])
        rows[i] = remove(index, table, ids[i])


@kernel()
def list_rows(index: IndexArrays, table: int, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> int:
    """Fills in every id of a table and its row, in no order. Returns how many there are."""
    n = 0
    for slot in range(index.control[SEGMENTS] * SEGMENT_SLOTS):
        word = index.slots[slot, 1]
        if (word >> _ROW_BITS) == table + 1:
            ids[n] = index.slots[slot, 0]
            rows[n] = word & _ROW_MASK
            n += 1
    return n
