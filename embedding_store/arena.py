"""Arrays that grow without being copied.

On Linux a private anonymous mapping is enlarged in place by mremap: the pages move with their contents, and new ones
are zero and take no memory before they are written. Elsewhere, or while somebody holds a view, growing copies.
"""

import contextlib
import mmap
import sys

import numpy as np
from numpy.typing import DTypeLike, NDArray

_CAN_REMAP = sys.platform == "linux"


class Arena:
    """A zero-initialised array whose first axis grows.

    Args:
        dtype: Of one element.
        row_shape: Shape of everything behind the first axis.
        capacity: Rows at first.
    """

    def __init__(self, dtype: DTypeLike, row_shape: tuple[int, ...] = (), capacity: int = 1024) -> None:
        self.dtype = np.dtype(dtype)
        self.row_shape = row_shape
        self.row_bytes = max(1, self.dtype.itemsize * int(np.prod(row_shape, dtype=np.int64)))
        self.capacity = 0
        self._map: mmap.mmap | None = None
        self.array: NDArray[np.generic] = np.zeros((0, *row_shape), self.dtype)
        self.reserve(capacity)

    def reserve(self, rows: int) -> None:
        """Makes room for at least so many rows, doubling. Views taken before no longer show later writes."""
        if rows <= self.capacity:
            return
        capacity = max(rows, 2 * self.capacity)
        size = capacity * self.row_bytes
        if self._map is not None and _CAN_REMAP:
            self.array = np.zeros((0, *self.row_shape), self.dtype)
            try:
                self._map.resize(size)
            except BufferError:
                self._map = self._copied(self._map, size)
        else:
            self._map = self._copied(self._map, size)
        self.capacity = capacity
        self.array = np.frombuffer(self._map, self.dtype, capacity * self.row_bytes // self.dtype.itemsize).reshape(
            capacity, *self.row_shape
        )

    @staticmethod
    def _copied(old: mmap.mmap | None, size: int) -> mmap.mmap:
        new = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if _CAN_REMAP:
            with contextlib.suppress(OSError):
                new.madvise(mmap.MADV_HUGEPAGE)
        if old is not None:
            new[: len(old)] = old[:]
        return new
