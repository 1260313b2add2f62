"""What a cached replica does with single rows: notes uses and misses, remembers absences, and lets cold rows go.

A row's `slot` counts its uses since it was last passed over. The hand of the clock halves the counts as it goes round,
and takes what is at zero: so both how often and how lately a row was used keep it.

An id that is known to have no row is in the index all the same, with a row that has no strip: an absence. It was seen
before time began, so lookups take it for expired.

**Source**: the clock with counts is GCLOCK, Smith 1978.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.lookup import TableArrays
from embedding_store.plan import LayoutArrays
from embedding_store.slabs import RowArrays, release
from embedding_store.table import BLOCK, IndexArrays, fetch, find, insert

UNUSED = -2
"""`at` of a row that no id has."""
_MOST_USES = 255
_TAKEN = (1 << 32) - 1
_BEFORE_TIME_MS = -(1 << 62) - 1


@kernel()
def look(
    index: IndexArrays,
    rows: RowArrays,
    tables: TableArrays,
    ids: NDArray[np.int64],
    missing: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    fields: NDArray[np.int64],
    clock_ms: int,
    out: NDArray[np.int64],
    unknown: NDArray[np.int64],
) -> int:
    """Finds the row that scores each occurrence, and counts the use of every row and absence found.

    Args:
        index: Of the shard.
        rows: Of the shard.
        tables: Of the shard.
        ids: int64[N].
        missing: bool[N].
        offsets: int64[B * F + 1].
        fields: int64[F], table of each field.
        clock_ms: Highest event time learned from.
        out: int64[N], filled.
        unknown: int64[N, 2], filled with table and id of what is not in memory.

    Returns:
        How many are not in memory, counted as often as they occur.
    """
    n = 0
    for s in range(offsets.size - 1):
        if s % BLOCK == 0:
            for ahead in range(s, min(s + BLOCK, offsets.size - 1)):
                if offsets[ahead] < offsets[ahead + 1]:
                    fetch(index, fields[ahead % fields.size], ids[offsets[ahead]])
        table = fields[s % fields.size]
        for j in range(offsets[s], offsets[s + 1]):
            out[j] = table
            if missing[j]:
                continue
            row = find(index, table, ids[j])
            if row < 0:
                unknown[n, 0] = table
                unknown[n, 1] = ids[j]
                n += 1
                continue
            if rows.headers[row].slot < _MOST_USES:
                rows.headers[row].slot += 1
            if clock_ms - rows.headers[row].last_seen <= tables.expire_ms[table]:
                out[j] = row
    return n


@kernel()
def absent(
    index: IndexArrays,
    rows: RowArrays,
    layouts: LayoutArrays,
    table: int,
    ids: NDArray[np.int64],
    seq: int,
    uses: int,
    counts: NDArray[np.int64],
    start: int,
) -> int:
    """Remembers that some ids have no row, unless memory holds something as new or newer.

    Args:
        index: Of the shard.
        rows: Of the shard; n rows are to be had.
        layouts: Of the shard.
        table: Number of the table.
        ids: int64[n].
        seq: The commit that took the rows away; 0 if all that is known is that there are none.
        uses: What an id that is new here begins with.
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
            rows.headers[row].slot = uses
        elif rows.headers[row].seq >= seq:
            continue
        elif rows.headers[row].at >= 0:
            release(rows, rows.headers[row].at, layouts.widths[np.int64(rows.headers[row].layout)])
            counts[table] -= 1
        header = rows.headers[row]
        header.id = ids[i]
        header.table = table
        header.at = -1
        header.seq = seq
        header.count = 0
        header.last_seen = _BEFORE_TIME_MS
    return ids.size


@kernel()
def turn(
    rows: RowArrays,
    layouts: LayoutArrays,
    first: int,
    last: int,
    hand: int,
    folded: int,
    each: int,
    wanted: int,
    victims: NDArray[np.int64],
) -> tuple[int, int]:
    """Turns the hand of the clock until enough bytes may go, or nothing is left that may.

    Args:
        rows: Of the shard.
        layouts: Of the shard.
        first: First row that may go.
        last: One past the last row.
        hand: Where the hand stands.
        folded: Number of the last commit that is wholly in the stored rows; what is newer stays.
        each: Bytes of a row besides its strip.
        wanted: Bytes that are to go.
        victims: int64[last - first], filled with the rows that may go.

    Returns:
        How many may go, and where the hand stands then.
    """
    n = size = step = 0
    candidates = True
    while size < wanted and last > first:
        if step % (last - first) == 0:
            if not candidates:
                break
            candidates = False
        step += 1
        row = hand if first <= hand < last else first
        hand = row + 1
        header = rows.headers[row]
        if header.at == UNUSED or header.slot == _TAKEN or np.int64(header.seq) > folded:
            continue
        candidates = True
        if header.slot > 0:
            header.slot >>= 1
            continue
        header.slot = _TAKEN
        victims[n] = row
        n += 1
        size += each
        if header.at >= 0:
            size += 4 * layouts.widths[np.int64(header.layout)]
    return n, hand
