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
    mixed = ids.astype(np.uint64)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    hashes = max(1, hashes)
    base = level_of(hashes)
    place = (mixed & np.uint64(2 * base - 1)).astype(np.int64)
    place[place >= hashes] -= base
    return place


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
