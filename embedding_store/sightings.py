"""Sightings of ids: counted, new ids given rows, rows set or found expired."""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from embedding_store.table import IndexArrays, find, insert, mix


@numba.njit(inline="always", cache=True)
def _initial(
    data: NDArray[np.float32], row: int, seed: np.uint64, key: int, dim: int, std: float, accumulator: float
) -> None:
    """A new row: linear weight 0, vector of normal values that depend on seed and id alone, fresh accumulators."""
    for k in range(data.shape[1]):
        data[row, k] = np.float32(0.0)
    x = mix(np.uint64(key) ^ seed)
    for k in range(1, dim + 1, 2):
        x = mix(x + np.uint64(0x9E3779B97F4A7C15))
        a = (np.float64(x >> np.uint64(32)) + 1.0) / 4294967297.0
        b = np.float64(x & np.uint64(0xFFFFFFFF)) / 4294967296.0
        radius = std * math.sqrt(-2.0 * math.log(a))
        data[row, k] = np.float32(radius * math.cos(2.0 * math.pi * b))
        if k < dim:
            data[row, k + 1] = np.float32(radius * math.sin(2.0 * math.pi * b))
    data[row, data.shape[1] - 2] = np.float32(accumulator)
    data[row, data.shape[1] - 1] = np.float32(accumulator)


@numba.njit(inline="always", cache=True)
def _mark(headers: NDArray[np.void], row: int, seq: int, dirty: NDArray[np.int64], n: NDArray[np.int64]) -> None:
    if headers[row].seq != seq:
        headers[row].seq = seq
        dirty[n[0]] = row
        n[0] += 1


@numba.njit(nogil=True, cache=True)
def touch(
    index: IndexArrays,
    headers: NDArray[np.void],
    data: NDArray[np.float32],
    ids: NDArray[np.int64],
    missing: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    tables: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    expire_ms: NDArray[np.int64],
    clock_ms: int,
    seeds: NDArray[np.uint64],
    dims: NDArray[np.int64],
    starts: NDArray[np.float64],
    seq: int,
    dirty: NDArray[np.int64],
    n_dirty: NDArray[np.int64],
    scored: NDArray[np.int64],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    admitted: NDArray[np.int64],
    expired: NDArray[np.int64],
    start: int,
) -> int:
    """Counts every sighting, gives absent ids their rows, and marks what changed.

    A row past its expiry starts afresh.

    Args:
        index: Of the shard; rows for all N ids are to be had.
        headers: HEADER[rows].
        data: float32[rows, 1 + K + S].
        ids: int64[N].
        missing: bool[N]; such a sighting counts for the cold row.
        offsets: int64[B * F + 1].
        tables: int64[F].
        times_ms: int64[B].
        expire_ms: int64[T].
        clock_ms: Highest event time learned from before.
        seeds: uint64[T], of initial values.
        dims: int64[T].
        starts: float64[T, 2], deviation of a new vector and initial accumulator.
        seq: Number of the commit in the making.
        dirty: int64[·], rows changed since the last commit; has room for 2 N more.
        n_dirty: int64[1], how many.
        scored: int64[N], the row that scored each occurrence.
        rows: int64[N], -1 where not done yet; filled with the ids' own rows.
        counts: int64[T], rows of each table.
        admitted: int64[T], ids that got a row.
        expired: int64[T], rows that started afresh.
        start: First (example, field) to do.

    Returns:
        The first (example, field) not done, because the index must grow first; B * F if all are.
    """
    for s in range(start, offsets.size - 1):
        table = tables[s % tables.size]
        time_ms = times_ms[s // tables.size]
        for j in range(offsets[s], offsets[s + 1]):
            if rows[j] >= 0:
                continue  # counted before the arrays had to grow
            row = table
            if scored[j] == table:
                _mark(headers, table, seq, dirty, n_dirty)
            if not missing[j]:
                row = scored[j]
                if row == table:
                    row = find(index, table, ids[j])
                    fresh = row < 0
                    if fresh:
                        row = insert(index, table, ids[j])
                        if row < 0:
                            return s
                        counts[table] += 1
                        admitted[table] += 1
                    elif clock_ms - headers[row].last_seen > expire_ms[table]:
                        fresh = True
                        admitted[table] += 1
                        expired[table] += 1
                    if fresh:
                        headers[row].id = ids[j]
                        headers[row].table = table
                        headers[row].live = 1
                        headers[row].count = 0
                        headers[row].last_seen = time_ms
                        headers[row].seq = seq - 1
                        _initial(data, row, seeds[table], ids[j], dims[table], starts[table, 0], starts[table, 1])
                _mark(headers, row, seq, dirty, n_dirty)
            rows[j] = row
            headers[row].count += 1
            if time_ms > headers[row].last_seen:
                headers[row].last_seen = time_ms
    return offsets.size - 1


@numba.njit(nogil=True, cache=True)
def upsert(
    index: IndexArrays,
    headers: NDArray[np.void],
    table: int,
    ids: NDArray[np.int64],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    start: int,
) -> int:
    """Finds or makes the rows of some ids of one table, without counting.

    Args:
        index: Of the shard.
        headers: HEADER[rows].
        table: Number of the table.
        ids: int64[n].
        rows: int64[n], filled.
        counts: int64[T], rows of each table.
        start: First id to do.

    Returns:
        The first id not done, because the index must grow first; n if all are.
    """
    for i in range(start, ids.size):
        row = find(index, table, ids[i])
        if row < 0:
            row = insert(index, table, ids[i])
            if row < 0:
                return i
            counts[table] += 1
            headers[row].id = ids[i]
            headers[row].table = table
            headers[row].live = 1
        rows[i] = row
    return ids.size


@numba.njit(nogil=True, cache=True)
def expired_rows(
    headers: NDArray[np.void],
    first: int,
    last: int,
    expire_ms: NDArray[np.int64],
    clock_ms: int,
    out: NDArray[np.int64],
) -> int:
    """Looks for rows past their expiry.

    Args:
        headers: HEADER[rows].
        first: First row to look at.
        last: One past the last.
        expire_ms: int64[T].
        clock_ms: Highest event time learned from.
        out: int64[last - first], filled with those found.

    Returns:
        How many were found.
    """
    n = 0
    for row in range(first, last):
        if headers[row].live and clock_ms - headers[row].last_seen > expire_ms[headers[row].table]:
            out[n] = row
            n += 1
    return n
