"""Sightings of ids: counted, admitted or not, given rows, re-encoded when their frequency block changes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.admission import FilterArrays, drawn, sight
from embedding_store.kernel import kernel
from embedding_store.lookup import Fields, TableArrays
from embedding_store.plan import LayoutArrays, layout_of
from embedding_store.slabs import RowArrays, allocate, release
from embedding_store.strips import make_row, reencode
from embedding_store.table import BLOCK, IndexArrays, fetch, find, insert


class TouchArrays(NamedTuple):
    """What a batch of sightings changes besides rows.

    Attributes:
        dirty: int64[·], rows changed since the last commit; has room for 2 N more.
        n_dirty: int64[1], how many.
        counts: int64[T], rows of each table.
        admitted: int64[T], ids that got a row.
        filtered: int64[T], sightings of ids that did not get one.
        expired: int64[T], rows that started afresh.
        resume: int64[2], where to go on after growth: (example, field), and the occurrence that is admitted already.
    """

    dirty: NDArray[np.int64]
    n_dirty: NDArray[np.int64]
    counts: NDArray[np.int64]
    admitted: NDArray[np.int64]
    filtered: NDArray[np.int64]
    expired: NDArray[np.int64]
    resume: NDArray[np.int64]


@kernel(inline="always")
def _mark(rows: RowArrays, row: int, seq: int, touched: TouchArrays) -> None:
    if rows.headers[row].seq != seq:
        rows.headers[row].seq = seq
        touched.dirty[touched.n_dirty[0]] = row
        touched.n_dirty[0] += 1


@kernel()
def _admits(filters: FilterArrays, tables: TableArrays, table: int, key: int, origin: np.uint64) -> bool:
    """Whether this sighting gives an id its row; counts it where sightings are counted."""
    if tables.chances[table] > 0:
        return bool(drawn(tables.seeds[table], key, origin, tables.chances[table]))
    if tables.admit_after[table] <= 1:
        return True
    return bool(sight(filters, tables.seeds[table], key) >= tables.admit_after[table])


@kernel()
def touch(
    index: IndexArrays,
    rows: RowArrays,
    layouts: LayoutArrays,
    tables: TableArrays,
    filters: FilterArrays,
    touched: TouchArrays,
    ids: NDArray[np.int64],
    missing: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    fields: Fields,
    times_ms: NDArray[np.int64],
    origins: NDArray[np.uint64],
    clock_ms: int,
    seq: int,
    scored: NDArray[np.int64],
    updated: NDArray[np.int64],
) -> bool:
    """Counts every sighting, gives admitted ids their rows, and marks what changed.

    A row past its expiry counts as absent; once its id is admitted again, it starts afresh.

    Args:
        index: Of the shard.
        rows: Of the shard; N rows and their strips are to be had.
        layouts: Of the shard.
        tables: Of the shard.
        filters: The admission filter.
        touched: What changes besides rows.
        ids: int64[N].
        missing: bool[N]; such a sighting counts for the cold row.
        offsets: int64[B * F + 1].
        fields: Of the batch.
        times_ms: int64[B].
        origins: uint64[B], where each example came from.
        clock_ms: Highest event time learned from before.
        seq: Number of the commit in the making.
        scored: int64[N], the row that scored each occurrence.
        updated: int64[N], -1 where not done yet; filled with the ids' own rows, the cold row for those without.

    Returns:
        Whether all was done. If not, let the index grow and call again: it goes on where it was.
    """
    headers = rows.headers
    for s in range(touched.resume[0], offsets.size - 1):
        field = s % fields.tables.size
        table = fields.tables[field]
        example = s // fields.tables.size
        for j in range(offsets[s], offsets[s + 1]):
            if updated[j] >= 0:
                continue
            row = scored[j]
            if not fields.counted[field]:
                _mark(rows, row, seq, touched)
                present = layout_of(layouts, table, np.int64(headers[row].count))
                if present != headers[row].layout:
                    reencode(rows, layouts, tables, row, present, True)
                updated[j] = row
                continue
            if row == table:
                _mark(rows, table, seq, touched)
                if not missing[j]:
                    row = find(index, table, ids[j])
                    stale = row >= 0 and clock_ms - headers[row].last_seen > tables.expire_ms[table]
                    if row < 0 or stale:
                        if j != touched.resume[1] and not _admits(
                            filters, tables, table, ids[j], origins[example] + np.uint64(field)
                        ):
                            touched.filtered[table] += 1
                            row = table
                        else:
                            if stale:
                                release(rows, headers[row].at, layouts.widths[np.int64(headers[row].layout)])
                                touched.expired[table] += 1
                            else:
                                row = insert(index, table, ids[j])
                                if row < 0:
                                    touched.resume[0] = s
                                    touched.resume[1] = j
                                    return False
                                touched.counts[table] += 1
                            touched.admitted[table] += 1
                            make_row(rows, layouts, tables, row, table, ids[j], True)
                            # a sighting may be so late that it has expired: a row lives for a batch at least
                            headers[row].last_seen = max(times_ms[example], clock_ms - tables.expire_ms[table])
                            headers[row].seq = seq - 1
            _mark(rows, row, seq, touched)
            updated[j] = row
            before = layout_of(layouts, table, np.int64(headers[row].count))
            if before != headers[row].layout:  # a new plan came since: first as it had the row, then as it grows
                reencode(rows, layouts, tables, row, before, True)
            headers[row].count += 1
            if times_ms[example] > headers[row].last_seen:
                headers[row].last_seen = times_ms[example]
            present = layout_of(layouts, table, np.int64(headers[row].count))
            if present != headers[row].layout:
                reencode(rows, layouts, tables, row, present, True)
    touched.resume[0] = 0
    touched.resume[1] = -1
    return True


@kernel()
def upsert(
    index: IndexArrays,
    rows: RowArrays,
    layouts: LayoutArrays,
    table: int,
    layout: int,
    cold: NDArray[np.bool_],
    ids: NDArray[np.int64],
    found: NDArray[np.int64],
    counts: NDArray[np.int64],
    start: int,
) -> int:
    """Finds or makes the rows of some ids of one table, with strips of one layout, without counting sightings.

    Fills nothing in but where the strip is and what its layout is.

    Args:
        index: Of the shard.
        rows: Of the shard; n rows and their strips are to be had.
        layouts: Of the shard.
        table: Number of the table.
        layout: What the rows are to be written in.
        cold: bool[n], whether the cold row is meant.
        ids: int64[n].
        found: int64[n], filled.
        counts: int64[T], rows of each table.
        start: First id to do.

    Returns:
        The first id not done, because the index must grow first; n if all are.
    """
    headers = rows.headers
    for i in range(start, ids.size):
        if i % BLOCK == 0:
            for ahead in range(i, min(i + BLOCK, ids.size)):
                fetch(index, table, ids[ahead])
        row = table if cold[i] else find(index, table, ids[i])
        if row < 0:
            row = insert(index, table, ids[i])
            if row < 0:
                return i
            headers[row].at = -1
        if headers[row].at < 0:
            counts[table] += 1
        elif headers[row].layout != layout:
            release(rows, headers[row].at, layouts.widths[np.int64(headers[row].layout)])
            headers[row].at = -1
        if headers[row].at < 0:
            headers[row].at = allocate(rows, layouts.widths[layout])
        headers[row].layout = layout
        found[i] = row
    return ids.size


@kernel()
def expired_rows(
    rows: RowArrays, tables: TableArrays, first: int, last: int, clock_ms: int, out: NDArray[np.int64]
) -> int:
    """Looks for rows past their expiry.

    Args:
        rows: Of the shard.
        tables: Of the shard.
        first: First row to look at.
        last: One past the last.
        clock_ms: Highest event time learned from.
        out: int64[last - first], filled with those found.

    Returns:
        How many were found.
    """
    n = 0
    for row in range(first, last):
        header = rows.headers[row]
        if header.at >= 0 and clock_ms - header.last_seen > tables.expire_ms[np.int64(header.table)]:
            out[n] = row
            n += 1
    return n


@kernel()
def reencode_stale(
    rows: RowArrays,
    layouts: LayoutArrays,
    tables: TableArrays,
    some: NDArray[np.int64],
    seq: int,
    touched: TouchArrays,
) -> None:
    """Re-encodes those of some rows that the present plan has otherwise, and marks them as changed.

    Args:
        rows: Of the shard; strips for all of them are to be had.
        layouts: Of the shard.
        tables: Of the shard.
        some: int64[n], the rows to look at.
        seq: Number of the commit in the making.
        touched: Takes the marks.
    """
    for row in some:
        header = rows.headers[row]
        if header.at >= 0:
            present = layout_of(layouts, np.int64(header.table), np.int64(header.count))
            if present != header.layout:
                reencode(rows, layouts, tables, row, present, True)
                _mark(rows, row, seq, touched)
