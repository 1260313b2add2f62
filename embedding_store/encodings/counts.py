"""Known counts of ids, for encodings whose blocks are fixed beforehand."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.encoding import Counts


def fixed_counts(ids: NDArray[np.int64], counts: NDArray[np.int64]) -> Counts:
    """Counts by id: int64[n] each. Ids that are not among them have none.

    >>> fixed_counts(np.array([7, 5]), np.array([70, 50]))(np.array([5, 6, 7])).tolist()
    [50, 0, 70]
    """
    order = np.argsort(ids)
    known, seen = ids[order], counts[order]

    def counts_of(some: NDArray[np.int64]) -> NDArray[np.int64]:
        if not known.size:
            return np.zeros(some.size, dtype=np.int64)
        at = np.minimum(np.searchsorted(known, some), known.size - 1)
        return np.where(known[at] == some, seen[at], 0)

    return counts_of
