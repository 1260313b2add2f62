"""Arrays that grow where they are.

On Linux an arena reserves addresses for as many bytes as the machine has memory; a page takes memory when it is first
written. So growing moves nothing, views stay true, and the pages are huge ones where the kernel grants them. Where
addresses cannot be had for nothing (elsewhere, or where the kernel counts them as memory), growing copies.
"""

import contextlib
import mmap
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

_HUGE = 2 << 20
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def _reservable() -> int:
    """Bytes of addresses that one array may reserve; 0 where they would count as memory."""
    with contextlib.suppress(OSError, ValueError):
        if sys.platform == "linux" and _OVERCOMMIT.read_text().strip() != "2":
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


class Arena:
    """A zero-initialised array whose first axis grows.

    Args:
        dtype: Of one element.
        row_shape: Shape of everything behind the first axis.
        capacity: Rows at first.
        reserved_bytes: Addresses to reserve; None: as many as the machine has memory.
    """

    def __init__(
        self,
        dtype: DTypeLike,
        row_shape: tuple[int, ...] = (),
        capacity: int = 1024,
        reserved_bytes: int | None = None,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.row_shape = row_shape
        self.row_bytes = max(1, self.dtype.itemsize * int(np.prod(row_shape, dtype=np.int64)))
        self.capacity = 0
        self._huge_bytes = 0
        self._map: mmap.mmap | None = None
        with contextlib.suppress(OSError):
            size = _reservable() if reserved_bytes is None else reserved_bytes
            self._map = _mapped(size) if size else None
        self.array: NDArray[np.generic] = np.zeros((0, *row_shape), self.dtype)
        self.reserve(capacity)

    def reserve(self, rows: int) -> None:
        """Makes room for at least so many rows, doubling. Views taken before may no longer show later writes."""
        if rows <= self.capacity:
            return
        self.capacity = max(rows, 2 * self.capacity)
        size = self.capacity * self.row_bytes
        if self._map is None or size > len(self._map):
            grown = _mapped(size)
            grown[: self.array.nbytes] = self.array.tobytes()
            self._map, self._huge_bytes = grown, 0
        if size >= 2 * _HUGE and sys.platform == "linux":
            first, self._huge_bytes = self._huge_bytes, size // mmap.PAGESIZE * mmap.PAGESIZE
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_HUGEPAGE, first, self._huge_bytes - first)
        self.array = np.frombuffer(self._map, self.dtype, size // self.dtype.itemsize).reshape(
            self.capacity, *self.row_shape
        )


def _mapped(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
