"""Ids of crosses: a mixing of several ids."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel


@kernel(inline="always")
def cross_id(left: int, right: int) -> int:
    """The id of a pair: a mixing of two 64-bit ids. Order matters."""
    x = np.uint64(left) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
    x ^= x >> np.uint64(32)
    x = (x + np.uint64(right)) * np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    return np.int64(x ^ (x >> np.uint64(32)))  # type: ignore[return-value]  # what kernels take for an int


@kernel()
def cross_ids(left: NDArray[np.int64], right: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Ids of pairs, int64[B] each."""
    for i in range(left.size):
        out[i] = cross_id(left[i], right[i])
