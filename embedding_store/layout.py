"""How a table's rows lie in Redis: in small hashes, whose number grows with the table, one hash at a time.

A hash of some dozens of rows is kept by the server in one piece of memory (a listpack), which takes a tenth more than
the rows themselves; a large hash takes half as much again. Which hash an id is in follows from the id and the number
of hashes (linear hashing): when one is added, only the rows of one other hash move, and they move to the new one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LAYOUT = 2
"""Number of this layout, kept beside the rows."""
ROWS_PER_HASH = 64
"""Mean that growth aims at; a single hash has between half and twice as many, and some chance about it."""
_REVERSALS = [
    (np.uint64(width), np.uint64(sum(((1 << width) - 1) << at for at in range(0, 64, 2 * width))))
    for width in (1, 2, 4, 8, 16, 32)
]
"""Neighbours to swap, ever wider, until the bits of a number are reversed."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a stored table is.

    Attributes:
        hashes: Their number; 0 for a table that was never written.
        rows: Fields in all of them, the cold row included.
    """

    hashes: int = 0
    rows: int = 0

    def wanted(self, more: int) -> int:
        """The number of hashes before so many rows are written, of which nobody knows how many are new."""
        return max(self.hashes, 1, -(-self.rows // ROWS_PER_HASH), -(-(self.rows + more) // (2 * ROWS_PER_HASH)))


def hash_of(ids: NDArray[np.int64], hashes: int) -> NDArray[np.int64]:
    """The hash that each id is in: int64[N] -> int64[N]. Cold rows are in hash 0.

    Args:
        ids: Any.
        hashes: Their number. One more moves ids of hash ``hashes - 2**level`` to the new one, and no others.

    >>> hash_of(np.arange(8), 3).tolist() == [b if b < 3 else b - 2 for b in hash_of(np.arange(8), 4).tolist()]
    True
    """
    hashes = max(1, hashes)
    base = level_of(hashes)
    place = (_mixed(ids) & np.uint64(2 * base - 1)).astype(np.int64)
    place[place >= hashes] -= base
    return place


def _mixed(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Every bit of an id spread over all; no two ids give the same: int64[N] -> uint64[N]."""
    mixed = ids.astype(np.uint64)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return mixed


def canonical_key(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """What rows are ordered by where their order must not depend on how they lie: int64[N] -> uint64[N].

    It begins with the bits that say which hash an id is in, the lowest first. So in this order the rows of each hash
    lie together whatever the number of hashes is, and no two ids share a key.

    >>> ids = np.arange(1000)
    >>> ordered = ids[np.argsort(canonical_key(ids))]
    >>> hash_of(ordered, 4)[[0, 300, 600, 999]].tolist()
    [0, 2, 1, 3]
    """
    key = _mixed(ids)
    for shift, mask in _REVERSALS:
        key = ((key & mask) << shift) | ((key >> shift) & mask)
    return key


def part_of_hashes(part: int, bits: int, hashes: int) -> range:
    """The hashes of one of 2**bits equal parts of the canonical order.

    Args:
        part: From 0 to 2**bits - 1.
        bits: So few that there are at least 2**bits hashes.
        hashes: Their number.

    >>> [list(part_of_hashes(part, 1, 5)) for part in range(2)]
    [[0, 2, 4], [1, 3]]
    """
    first = int(f"{part:0{bits}b}"[::-1], 2) if bits else 0
    return range(first, hashes, 1 << bits)


def level_of(hashes: int) -> int:
    """The largest power of two that is no larger than `hashes`."""
    return 1 << (max(1, hashes).bit_length() - 1)


def next_split(hashes: int, wanted: int, most: int) -> range:
    """The hashes that are split next: hash ``s`` into itself and ``s + level``.

    Args:
        hashes: Their number now.
        wanted: Their number in the end.
        most: How many may be split at once.
    """
    base = level_of(hashes)
    count = min(wanted - hashes, 2 * base - hashes, most)
    return range(hashes - base, hashes - base + count)
