"""The hashing trick: a fixed number of rows, which ids share by chance. The baseline for collisions."""

import numpy as np
import xxhash
from numpy.typing import NDArray

from embedding_store.encodings.id_rows import IdRows
from embedding_store.kernel import kernel
from embedding_store.plan import TablePlan
from embedding_store.serving import Codec
from embedding_store.settings import TableSettings
from embedding_store.table import mix


def salt_of(name: str, seed: int) -> int:
    """What a table's hash is keyed by: 64 bits."""
    return xxhash.xxh3_64_intdigest(f"{name}.buckets".encode(), seed)


@kernel(inline="always")
def bucket_of(key: int, salt: np.uint64, buckets: int) -> int:
    """The bucket of an id, from 0 on."""
    return int(mix(np.uint64(key) ^ salt) % np.uint64(buckets))


@kernel()
def _buckets(ids: NDArray[np.int64], salt: np.uint64, buckets: int, out: NDArray[np.int64]) -> None:
    for i in range(ids.size):
        out[i] = bucket_of(ids[i], salt, buckets)


def buckets_of(ids: NDArray[np.int64], salt: int, buckets: int) -> NDArray[np.int64]:
    """The bucket of each id: int64[N] -> int64[N]. Depends on nothing else."""
    out = np.empty(ids.size, dtype=np.int64)
    _buckets(np.ascontiguousarray(ids), np.uint64(salt), buckets, out)
    return out


class Hashed:
    """As many rows of K numbers as there are buckets; with two hashes, a vector is the sum of two rows.

    Two ids share a vector where they share every row. No row ever goes, and no index is needed.

    **Sources**: Weinberger et al. 2009, Feature Hashing (arXiv 0902.2206); two hashes: Serrà & Karatzoglou 2017
    (arXiv 1706.03993).

    Args:
        table: Its K, optimizer and initial values.
        seed: Of hash and initial values.
        buckets: How many rows.
        hashes: How many rows an id has.
    """

    def __init__(self, table: TableSettings, seed: int, buckets: int, hashes: int = 1) -> None:
        self._rows = IdRows(table, seed, TablePlan((), (tuple(range(table.dim)),)))
        names = [table.name, *(f"{table.name}.{h}" for h in range(1, hashes))]
        self._salts = [salt_of(name, seed) for name in names]
        self._buckets, self._dim = buckets, table.dim

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`."""
        out = np.zeros((ids.size, self._dim), dtype=np.float32)
        for salt in self._salts:
            out += self._rows.vectors(buckets_of(ids, salt, self._buckets), codec)
        return out

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there."""
        some = np.concatenate([buckets_of(ids, salt, self._buckets) for salt in self._salts])
        self._rows.learn(some, np.tile(gradients, (len(self._salts), 1)))

    def parameters(self) -> int:
        """See there; rows that no id has met yet count too."""
        return self._buckets * self._dim

    def bytes(self, codec: Codec = "float32") -> int:
        """See there."""
        return self._buckets * self._rows.bytes_a_row(codec)
