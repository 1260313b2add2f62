"""The rows themselves: a header and a strip of numbers each, in two arenas."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.arena import Arena

HEADER = np.dtype(
    [
        ("id", "<i8"),
        ("last_seen", "<i8"),  # event time, ms since the epoch
        ("seq", "<u4"),  # the commit that changed the row last
        ("count", "<u4"),  # sightings
        ("slot", "<u4"),  # scratch of one batch: the row's place among the batch's distinct rows
        ("table", "<u2"),
        ("live", "<u2"),  # 0: the row is free
    ]
)
"""32 bytes a row, so that one cache line brings all of it."""


class Slab:
    """Rows of one width.

    Args:
        width: float32 numbers of a row: the linear weight, the vector, then the optimizer's state.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._headers = Arena(HEADER)
        self._data = Arena(np.float32, (width,))

    @property
    def headers(self) -> NDArray[np.void]:
        """HEADER[capacity]."""
        return self._headers.array  # type: ignore[return-value]  # the arena's dtype

    @property
    def data(self) -> NDArray[np.float32]:
        """float32[capacity, width]."""
        return self._data.array  # type: ignore[return-value]  # the arena's dtype

    def reserve(self, rows: int) -> None:
        """Makes room for so many rows. Views taken before are stale."""
        self._headers.reserve(rows)
        self._data.reserve(rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, header included."""
        return HEADER.itemsize + 4 * self.width
