"""Hashed tables: where a batch's ids become the buckets that their tables hold rows for.

The one place for it, in the embedder, which trainer and ranker share. What goes by ids themselves (statistics, what
enters a visitor's past, crosses) does not see buckets.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.hashed import bucket_of, salt_of
from embedding_store.kernel import kernel
from embedding_store.lookup import Occurrences
from trainer.definition import Definition


@kernel()
def _hash(
    ids: NDArray[np.int64],
    offsets: NDArray[np.int64],
    buckets: NDArray[np.int64],
    salts: NDArray[np.uint64],
    out: NDArray[np.int64],
) -> None:
    for s in range(offsets.size - 1):
        f = s % buckets.size
        for j in range(offsets[s], offsets[s + 1]):
            out[j] = bucket_of(ids[j], salts[f], buckets[f]) if buckets[f] else ids[j]


class Buckets:
    """How many buckets each field's table has.

    Args:
        definition: Its tables.
        tables: int64[F], table of each field.
    """

    def __init__(self, definition: Definition, tables: NDArray[np.int64]) -> None:
        sizes = [t.encoding.buckets or 0 if t.encoding else 0 for t in definition.tables]
        salts = [salt_of(t.name, definition.seed) for t in definition.tables]
        self._buckets = np.array(sizes, dtype=np.int64)[tables]
        self._salts = np.array(salts, dtype=np.uint64)[tables]
        self._any = bool(self._buckets.any())

    def held(self, occurrences: Occurrences) -> Occurrences:
        """The same occurrences, B examples of these F fields, by the ids that their tables hold."""
        if not self._any:
            return occurrences
        ids = np.empty_like(occurrences.ids)
        _hash(occurrences.ids, occurrences.offsets, self._buckets, self._salts, ids)
        return Occurrences(ids, occurrences.missing, occurrences.offsets)
