"""Which rows leave the memory, and how their memory is put to use again."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.plan import LayoutArrays
from embedding_store.slabs import FREE, RowArrays


def coldest(first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The places of the `count` smallest pairs, in no order: int64[min(count, n)].

    Takes time in proportion to n.

    Args:
        first: int64[n], what makes a row warm: the larger, the warmer.
        second: int64[n], what tells rows apart that are equal there.
        count: How many are wanted.

    >>> sorted(coldest(np.array([5, 3, 3, 9]), np.array([0, 8, 2, 0]), 2).tolist())
    [1, 2]
    """
    if count >= first.size:
        return np.arange(first.size)
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    limit = np.partition(first, count - 1)[count - 1]
    sure, equal = np.flatnonzero(first < limit), np.flatnonzero(first == limit)
    left = count - sure.size
    return np.concatenate([sure, equal[np.argpartition(second[equal], left - 1)[:left]]])


@kernel()
def folded_rows(rows: RowArrays, first: int, last: int, folded: int, out: NDArray[np.int64]) -> int:
    """Looks for rows that the store has as they are.

    Args:
        rows: Of the shard.
        first: First row to look at.
        last: One past the last.
        folded: Number of the last commit that is wholly in the stored rows.
        out: int64[last - first], filled with those found.

    Returns:
        How many were found.
    """
    n = 0
    for row in range(first, last):
        if rows.headers[row].at >= 0 and np.int64(rows.headers[row].seq) <= folded:
            out[n] = row
            n += 1
    return n


@kernel()
def _slide(rows: RowArrays, layouts: LayoutArrays, order: NDArray[np.int64]) -> None:
    to = 0
    for row in order:
        at = rows.headers[row].at
        width = layouts.widths[np.int64(rows.headers[row].layout)]
        if at != to:
            for i in range(width):
                rows.memory[to + i] = rows.memory[at + i]
            rows.headers[row].at = to
        to += width
    rows.heads[:] = -1
    rows.heads[0] = to
    rows.heads[FREE] = 0


def compact(rows: RowArrays, layouts: LayoutArrays, rows_end: int) -> None:
    """Moves the strips together, so that what free ones of every width took can be used for any width."""
    at = rows.headers["at"][:rows_end]
    live = np.flatnonzero(at >= 0)
    _slide(rows, layouts, live[np.argsort(at[live])])
