"""The rows in memory: a header each, and a strip of float32 in one growing memory.

Strips of one width that were given back are used again for rows of that width, so rows may change their width as
often as they like.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embedding_store.arena import Arena

HEADER = np.dtype(
    [
        ("id", "<i8"),
        ("last_seen", "<i8"),  # event time, ms since the epoch
        ("at", "<i8"),  # where the strip begins; -1: the row is free
        ("seq", "<u4"),  # the commit that changed the row last
        ("count", "<u4"),  # sightings
        ("slot", "<u4"),  # scratch of one batch: the row's place among the batch's distinct rows
        ("table", "<u2"),
        ("layout", "<u2"),
    ]
)
"""40 bytes a row."""

MAX_WIDTH = 4096
FREE = MAX_WIDTH + 1  # place in `heads`
_HALF = 1 << 24  # float32 holds integers below this exactly


class RowArrays(NamedTuple):
    """What the kernels see.

    Attributes:
        headers: HEADER[rows].
        memory: float32[·], the strips.
        heads: int64[MAX_WIDTH + 2], first free strip of each width, -1 for none; at 0, where unused memory begins; at
            FREE, numbers in free strips.
    """

    headers: NDArray[np.void]
    memory: NDArray[np.float32]
    heads: NDArray[np.int64]


@numba.njit(inline="always", cache=True)
def allocate(rows: RowArrays, width: int) -> int:
    """A strip of float32. The caller has reserved the memory."""
    at = rows.heads[width]
    if at >= 0:
        rows.heads[width] = np.int64(rows.memory[at]) * _HALF + np.int64(rows.memory[at + 1]) - 1
        rows.heads[FREE] -= width
    else:
        at = rows.heads[0]
        rows.heads[0] += width
    return int(at)


@numba.njit(inline="always", cache=True)
def release(rows: RowArrays, at: int, width: int) -> None:
    """Gives a strip back."""
    following = rows.heads[width] + 1
    rows.memory[at] = np.float32(following // _HALF)
    rows.memory[at + 1] = np.float32(following % _HALF)
    rows.heads[width] = at
    rows.heads[FREE] += width


class Rows:
    """Headers and strips."""

    def __init__(self) -> None:
        self._headers = Arena(HEADER)
        self._memory = Arena(np.float32, (), 1 << 14)
        self._heads = np.full(MAX_WIDTH + 2, -1, dtype=np.int64)
        self._heads[[0, FREE]] = 0

    @property
    def arrays(self) -> RowArrays:
        """What the kernels take. Valid until the next growth: do not keep it."""
        return RowArrays(self._headers.array, self._memory.array, self._heads)  # type: ignore[arg-type]  # arenas' dtypes

    @property
    def headers(self) -> NDArray[np.void]:
        """HEADER[capacity]."""
        return self._headers.array  # type: ignore[return-value]  # the arena's dtype

    @property
    def memory(self) -> NDArray[np.float32]:
        """float32[capacity]."""
        return self._memory.array  # type: ignore[return-value]  # the arena's dtype

    def reserve(self, rows: int, more_numbers: int) -> None:
        """Makes room for rows in all, and for so many numbers more. Views taken before are stale."""
        self._headers.reserve(rows)
        self._memory.reserve(int(self._heads[0]) + more_numbers)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all strips ever used."""
        return 4 * int(self._heads[0])

    @property
    def live_bytes(self) -> int:
        """Bytes of the strips that hold a row."""
        return 4 * int(self._heads[0] - self._heads[FREE])
