"""A set of (table, id) pairs in a fixed memory: it may take a pair for one of its own, but never misses one.

All bits of a pair lie in one block of 512, so a question costs one cache miss. With ten bits a pair about one stranger
in a hundred passes; with fewer bits more do.

**Source**: Bloom 1970, Space/time trade-offs in hash coding; Putze, Sanders & Singler 2007, Cache-, hash- and
space-efficient Bloom filters (blocks).
"""

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.table import mix

_WORDS = 8  # of a block
_PROBES = 6


@kernel(inline="always")
def _hash(table: int, key: int) -> np.uint64:
    return np.uint64(mix(mix(np.uint64(key)) + np.uint64(table + 1) * np.uint64(0x9E3779B97F4A7C15)))


@kernel(inline="always")
def _block(words: NDArray[np.uint64], h: np.uint64) -> int:
    return int(((h >> np.uint64(32)) * np.uint64(words.size // _WORDS)) >> np.uint64(32)) * _WORDS


@kernel(inline="always")
def has(words: NDArray[np.uint64], table: int, key: int) -> bool:
    """Whether a pair may be in the set."""
    h = _hash(table, key)
    base = _block(words, h)
    h = mix(h)
    for _ in range(_PROBES):
        if words[base + np.int64(h & np.uint64(7))] >> ((h >> np.uint64(3)) & np.uint64(63)) & np.uint64(1) == 0:
            return False
        h >>= np.uint64(9)
    return True


@kernel()
def _add(words: NDArray[np.uint64], table: int, ids: NDArray[np.int64]) -> None:
    for i in range(ids.size):
        h = _hash(table, ids[i])
        base = _block(words, h)
        h = mix(h)
        for _ in range(_PROBES):
            words[base + np.int64(h & np.uint64(7))] |= np.uint64(1) << ((h >> np.uint64(3)) & np.uint64(63))
            h >>= np.uint64(9)


class Bloom:
    """The set.

    Args:
        memory_bytes: Never grows.

    Attributes:
        words: uint64[·], what kernels take.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.words = np.zeros(max(1, memory_bytes // (8 * _WORDS)) * _WORDS, dtype=np.uint64)

    def add(self, table: int, ids: NDArray[np.int64]) -> None:
        """Takes the ids of a table in: int64[N]."""
        _add(self.words, table, ids)

    def clear(self) -> None:
        """Empties the set."""
        self.words[:] = 0
