"""The rows in memory: a header each, and a strip of 32-bit words in one growing memory.

Strips of one width that were given back are used again for rows of that width, so rows may change their width as
often as they like. Whoever only reads needs less of a header; its strips begin at 32-bit places as long as its memory
is small enough for them, and at 64-bit ones from then on.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.arena import Arena
from embedding_store.kernel import kernel

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

READ_HEADER = np.dtype([("at", "<i4"), ("last_seen", "<i8"), ("count", "<u4"), ("layout", "<u2")])
"""18 bytes a row: what a reader needs that neither learns nor drops rows of its own accord."""
WIDE_READ_HEADER = np.dtype([("at", "<i8"), ("last_seen", "<i8"), ("count", "<u4"), ("layout", "<u2")])
_NARROW_WORDS = (1 << 31) - 1
"""Memory that :data:`READ_HEADER` can point into, just below 8 GiB."""

MAX_WIDTH = 4096
FREE = MAX_WIDTH + 1  # place in `heads`
_HALF = 1 << 24  # float32 holds integers below this exactly


class RowArrays(NamedTuple):
    """What the kernels see.

    Attributes:
        headers: HEADER[rows], or the shorter one of a reader.
        memory: float32[·], the strips.
        halves: uint16[·], the same memory.
        bytes: int8[·], the same memory.
        heads: int64[MAX_WIDTH + 2], first free strip of each width, -1 for none; at 0, where unused memory begins; at
            FREE, words in free strips.
    """

    headers: NDArray[np.void]
    memory: NDArray[np.float32]
    halves: NDArray[np.uint16]
    bytes: NDArray[np.int8]
    heads: NDArray[np.int64]


@kernel(inline="always")
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


@kernel(inline="always")
def release(rows: RowArrays, at: int, width: int) -> None:
    """Gives a strip back."""
    following = rows.heads[width] + 1
    rows.memory[at] = np.float32(following // _HALF)
    rows.memory[at + 1] = np.float32(following % _HALF)
    rows.heads[width] = at
    rows.heads[FREE] += width


class Rows:
    """Headers and strips.

    Args:
        reading: Whether :data:`READ_HEADER` is enough.
    """

    def __init__(self, reading: bool = False) -> None:
        self._headers = Arena(READ_HEADER if reading else HEADER)
        self._memory = Arena(np.float32, (), 1 << 14)
        self._heads = np.full(MAX_WIDTH + 2, -1, dtype=np.int64)
        self._heads[[0, FREE]] = 0
        self._arrays = self._views()

    def _views(self) -> RowArrays:
        memory = self.memory
        return RowArrays(self.headers, memory, memory.view(np.uint16), memory.view(np.int8), self._heads)

    @property
    def arrays(self) -> RowArrays:
        """What the kernels take. Valid until the next growth: do not keep it."""
        return self._arrays

    @property
    def headers(self) -> NDArray[np.void]:
        """HEADER[capacity], or the shorter one."""
        return self._headers.array  # type: ignore[return-value]  # the arena's dtype

    @property
    def names_ids(self) -> bool:
        """Whether the headers hold id, table and commit."""
        return self._headers.dtype == HEADER

    @property
    def memory(self) -> NDArray[np.float32]:
        """float32[capacity]."""
        return self._memory.array  # type: ignore[return-value]  # the arena's dtype

    def reserve(self, rows: int, more_words: int) -> None:
        """Makes room for rows in all, and for so many words more. Views taken before are stale."""
        end = int(self._heads[0]) + more_words
        if self._headers.dtype == READ_HEADER and end > _NARROW_WORDS:
            wide = Arena(WIDE_READ_HEADER, (), self._headers.capacity)
            for name in READ_HEADER.names or ():
                wide.array[name][:] = self.headers[name]  # type: ignore[call-overload]  # the arena's dtype
            self._headers = wide
        self._headers.reserve(rows)
        self._memory.reserve(end)
        if self._arrays.headers is not self.headers or self._arrays.memory is not self.memory:
            self._arrays = self._views()

    @property
    def header_bytes(self) -> int:
        """Bytes of one header."""
        return self._headers.dtype.itemsize

    @property
    def memory_bytes(self) -> int:
        """Bytes of all strips ever used."""
        return 4 * int(self._heads[0])

    @property
    def live_bytes(self) -> int:
        """Bytes of the strips that hold a row."""
        return 4 * int(self._heads[0] - self._heads[FREE])
