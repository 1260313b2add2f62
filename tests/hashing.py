"""The index's hash, backwards: ids that crowd one segment or one slot."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_store.index import HashIndex

_MASK = 2**64 - 1
_FIRST = pow(0xBF58476D1CE4E5B9, -1, 2**64)
_SECOND = pow(0x94D049BB133111EB, -1, 2**64)


def _unshift(x: int, bits: int) -> int:
    """The y of which x = y ^ (y >> bits)."""
    y = x
    while (back := x ^ (y >> bits)) != y:
        y = back
    return y


def unmixed(x: int) -> int:
    """The number that splitmix64's finalizer takes to x, both below 2^64."""
    x = _unshift(x, 31) * _SECOND & _MASK
    x = _unshift(x, 27) * _FIRST & _MASK
    return _unshift(x, 30)


def ids_with_hash(index: HashIndex, table: int, hashes: Sequence[int]) -> NDArray[np.int64]:
    """Ids of a table whose hashes in this index are those asked for: int64[N]."""
    salt = int(index.arrays.salts[table])
    return np.array([unmixed(h) ^ salt for h in hashes], dtype=np.uint64).view(np.int64)
