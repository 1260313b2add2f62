"""From ids to pooled rows: what scoring needs, and nothing that changes anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.initial import initial_value
from embedding_store.kernel import kernel
from embedding_store.plan import LayoutArrays, layout_of
from embedding_store.prefetch import prefetch
from embedding_store.serving import EXACT, HALF, half, number
from embedding_store.slabs import RowArrays
from embedding_store.table import BLOCK, IndexArrays, fetch, find

_LINE = 16  # words of a line of the cache


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


def single(ids: NDArray[np.int64], missing: NDArray[np.bool_]) -> Occurrences:
    """One id an example, of one field: int64[B], bool[B]."""
    return Occurrences(ids, missing, np.arange(ids.size + 1, dtype=np.int64))


class Fields(NamedTuple):
    """What the store must know of a batch's F fields.

    Attributes:
        tables: int64[F], table of each.
        means: bool[F], whether a field's rows are averaged rather than summed.
        counted: bool[F], whether its ids count as seen; otherwise they are looked up only, and learn.
    """

    tables: NDArray[np.int64]
    means: NDArray[np.bool_]
    counted: NDArray[np.bool_]


def plain_fields(tables: Sequence[int] | NDArray[np.int64]) -> Fields:
    """One field of each of some tables, averaged and counted."""
    yes = np.ones(len(tables), dtype=np.bool_)
    return Fields(np.array(tables, dtype=np.int64), yes, yes)


class TableArrays(NamedTuple):
    """What the kernels know of each table.

    Attributes:
        dims: int64[T], numbers of a vector.
        expire_ms: int64[T], event time after which an unseen row counts as absent.
        seeds: uint64[T], of initial values.
        optimizers: int64[T], of the vector, a place in optimizers.KINDS.
        linears: int64[T], of the linear weight.
        rates: float32[T, 2], learning rate of the linear weight and of the vector.
        knobs: float64[T, 6], deviation of a new vector, first accumulator, l1, l2, beta, prior variance.
        admit_after: int64[T].
        chances: float64[T], probability of admission at a sighting; 0 where sightings are counted.
    """

    dims: NDArray[np.int64]
    expire_ms: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    optimizers: NDArray[np.int64]
    linears: NDArray[np.int64]
    rates: NDArray[np.float32]
    knobs: NDArray[np.float64]
    admit_after: NDArray[np.int64]
    chances: NDArray[np.float64]


@kernel(inline="always")
def _fetch_header(rows: RowArrays, row: int) -> None:
    prefetch(rows.headers, row)
    prefetch(rows.headers, row + 1)  # a header may end in the next line of the cache


@kernel()
def lookup(
    index: IndexArrays,
    rows: RowArrays,
    tables: TableArrays,
    ids: NDArray[np.int64],
    missing: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    fields: NDArray[np.int64],
    clock_ms: int,
    out: NDArray[np.int64],
) -> None:
    """Finds the row that scores each occurrence: its own, or its table's cold row.

    Args:
        index: Of the shard.
        rows: Of the shard.
        tables: Of the shard.
        ids: int64[N].
        missing: bool[N].
        offsets: int64[B * F + 1], occurrences of each (example, field).
        fields: int64[F], table of each field.
        clock_ms: Highest event time learned from.
        out: int64[N], filled.
    """
    for begin in range(0, offsets.size - 1, BLOCK):
        end = min(begin + BLOCK, offsets.size - 1)
        for s in range(begin, end):
            for j in range(offsets[s], offsets[s + 1]):
                if not missing[j]:
                    fetch(index, fields[s % fields.size], ids[j])
        for s in range(begin, end):
            table = fields[s % fields.size]
            for j in range(offsets[s], offsets[s + 1]):
                row = -1 if missing[j] else find(index, table, ids[j])
                out[j] = row if row >= 0 else table
                _fetch_header(rows, out[j])
        for s in range(begin, end):
            table = fields[s % fields.size]
            for j in range(offsets[s], offsets[s + 1]):
                row = out[j]
                if row != table and clock_ms - rows.headers[row].last_seen > tables.expire_ms[table]:
                    out[j] = table


@kernel()
def gather(
    rows: RowArrays,
    layouts: LayoutArrays,
    tables: TableArrays,
    ids: NDArray[np.int64],
    found: NDArray[np.int64],
    offsets: NDArray[np.int64],
    means: NDArray[np.bool_],
    out: NDArray[np.float32],
) -> None:
    """Sums or averages the rows of each (example, field), rebuilt to full width as the present plan has them.

    Args:
        rows: Of the shard.
        layouts: Of the shard.
        tables: Of the shard.
        ids: int64[N].
        found: int64[N].
        offsets: int64[B * F + 1].
        means: bool[F], whether to average.
        out: float32[B * F, 1 + K], filled.
    """
    width = out.shape[1]
    for s in range(offsets.size - 1):
        first, last = offsets[s], offsets[s + 1]
        for k in range(width):
            out[s, k] = np.float32(0.0)
        for j in range(first, last):
            if j + 2 * BLOCK < found.size:
                _fetch_header(rows, found[j + 2 * BLOCK])
            if j + BLOCK < found.size:
                ahead = rows.headers[found[j + BLOCK]]
                for line in range(0, layouts.widths[np.int64(ahead.layout)], _LINE):
                    prefetch(rows.memory, np.int64(ahead.at) + line)
            row = found[j]
            header = rows.headers[row]
            at = np.int64(header.at)
            written = np.int64(header.layout)
            table, kind = layouts.tables[written], layouts.kinds[written]
            present = layout_of(layouts, table, np.int64(header.count))
            out[s, 0] += rows.memory[at]
            at += layouts.leads[written]
            if written == present and kind == EXACT:
                for i in range(layouts.dims[present]):
                    out[s, 1 + layouts.kept[present, i]] += rows.memory[at + i]
                continue
            if written == present and kind == HALF:
                for i in range(layouts.dims[present]):
                    out[s, 1 + layouts.kept[present, i]] += half(rows.halves[2 * at + i])
                continue
            if written == present:
                for i in range(layouts.dims[present]):
                    out[s, 1 + layouts.kept[present, i]] += number(rows, kind, at, i)
                continue
            if layouts.frames[written] != layouts.frames[present]:
                turn = layouts.turns[layouts.frames[written], layouts.frames[present]]
                for i in range(layouts.dims[present]):
                    k = layouts.kept[present, i]
                    value = np.float32(0.0)
                    for n in range(layouts.dims[written]):
                        value += turn[k, layouts.kept[written, n]] * number(rows, kind, at, n)
                    out[s, 1 + k] += value
                continue
            for i in range(layouts.dims[present]):
                k = layouts.kept[present, i]
                place = layouts.places[written, k]
                if place >= 0:
                    out[s, 1 + k] += number(rows, kind, at, place)
                elif row >= tables.dims.size:
                    out[s, 1 + k] += np.float32(initial_value(tables.seeds[table], ids[j], k, tables.knobs[table, 0]))
        if last - first > 1 and means[s % means.size]:
            share = np.float32(1.0 / (last - first))
            for k in range(width):
                out[s, k] *= share
