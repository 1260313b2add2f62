"""From ids to pooled rows: what scoring needs, and nothing that changes anything."""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from embedding_store.table import IndexArrays, find


@dataclass(frozen=True, slots=True)
class Occurrences:
    """The ids of B examples over F fields.

    Attributes:
        ids: int64[N].
        missing: bool[N]; where true, the id means nothing and the cold row stands in.
        offsets: int64[B * F + 1], from 0 to N.
    """

    ids: NDArray[np.int64]
    missing: NDArray[np.bool_]
    offsets: NDArray[np.int64]


@numba.njit(nogil=True, cache=True)
def lookup(
    index: IndexArrays,
    headers: NDArray[np.void],
    ids: NDArray[np.int64],
    missing: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    tables: NDArray[np.int64],
    expire_ms: NDArray[np.int64],
    clock_ms: int,
    rows: NDArray[np.int64],
) -> None:
    """Finds the row that scores each occurrence: its own, or its table's cold row.

    Args:
        index: Of the shard.
        headers: HEADER[rows].
        ids: int64[N].
        missing: bool[N].
        offsets: int64[B * F + 1], occurrences of each (example, field).
        tables: int64[F].
        expire_ms: int64[T], event time after which an unseen row counts as absent.
        clock_ms: Highest event time learned from.
        rows: int64[N], filled.
    """
    for s in range(offsets.size - 1):
        table = tables[s % tables.size]
        for j in range(offsets[s], offsets[s + 1]):
            row = -1
            if not missing[j]:
                row = find(index, table, ids[j])
                if row >= 0 and clock_ms - headers[row].last_seen > expire_ms[table]:
                    row = -1
            rows[j] = row if row >= 0 else table


@numba.njit(nogil=True, cache=True)
def gather(
    data: NDArray[np.float32],
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    means: NDArray[np.bool_],
    out: NDArray[np.float32],
) -> None:
    """Sums or averages the rows of each (example, field).

    Args:
        data: float32[rows, width].
        rows: int64[N].
        offsets: int64[B * F + 1].
        means: bool[F], whether to average.
        out: float32[B * F, 1 + K], filled.
    """
    width = out.shape[1]
    for s in range(offsets.size - 1):
        first, last = offsets[s], offsets[s + 1]
        for k in range(width):
            out[s, k] = data[rows[first], k]
        if last - first > 1:
            for j in range(first + 1, last):
                for k in range(width):
                    out[s, k] += data[rows[j], k]
            if means[s % means.size]:
                share = np.float32(1.0 / (last - first))
                for k in range(width):
                    out[s, k] *= share
