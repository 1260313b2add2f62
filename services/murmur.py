"""Where Kafka's own clients put a key: murmur2, as in ``DefaultPartitioner``."""

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray


def partitions_of(keys: Sequence[bytes], count: int) -> NDArray[np.int64]:
    """The partitions of N keys among `count`: int64[N].

    >>> partitions_of([b"r1", b"request-2", b""], 4).tolist()
    [0, 3, 1]
    """
    ends = np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
    flat = np.frombuffer(b"".join(keys) or b"\0", np.uint8)
    hashes = np.empty(len(keys), np.uint32)
    _murmur2(flat, ends, hashes)
    return (hashes & 0x7FFFFFFF).astype(np.int64) % count


@numba.njit(cache=True)
def _murmur2(flat: NDArray[np.uint8], ends: NDArray[np.int64], hashes: NDArray[np.uint32]) -> None:
    low = np.uint64(0xFFFFFFFF)
    factor = np.uint64(0x5BD1E995)
    start = 0
    for n in range(ends.size):
        length = ends[n] - start
        h = np.uint64(0x9747B28C) ^ np.uint64(length)
        at = start
        while at + 4 <= ends[n]:
            k = np.uint64(0)
            for i in range(4):
                k |= np.uint64(flat[at + i]) << np.uint64(8 * i)
            k = (k * factor) & low
            k ^= k >> np.uint64(24)
            k = (k * factor) & low
            h = ((h * factor) & low) ^ k
            at += 4
        if at < ends[n]:
            for i in range(ends[n] - at):
                h ^= np.uint64(flat[at + i]) << np.uint64(8 * i)
            h = (h * factor) & low
        h ^= h >> np.uint64(13)
        h = (h * factor) & low
        h ^= h >> np.uint64(15)
        hashes[n] = h
        start = ends[n]
