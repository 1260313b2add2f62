"""What lies in a row's strip: made for a new id, moved into another layout, given back."""

import numba
import numpy as np
from numpy.typing import NDArray

from embedding_store.initial import initial_value
from embedding_store.lookup import TableArrays
from embedding_store.optimizers import ADAGRAD_ELEMENTWISE, FIRST, FIXED, FTRL, PER, STD, start_ftrl, start_state
from embedding_store.plan import LayoutArrays, layout_of
from embedding_store.slabs import RowArrays, allocate, release


@numba.njit(cache=True)
def make_row(
    rows: RowArrays, layouts: LayoutArrays, tables: TableArrays, row: int, table: int, key: int, learning: bool
) -> None:
    """Sets a row to what a new id of its table has, under the layout of count 0."""
    layout = layout_of(layouts, table, 0)
    at = allocate(rows, layouts.widths[layout])
    header = rows.headers[row]
    header.id = key
    header.at = at
    header.table = table
    header.layout = layout
    header.count = 0
    header.last_seen = 0
    values = 1 + layouts.dims[layout]
    rows.memory[at] = np.float32(0.0)
    for i in range(values - 1):
        value = 0.0
        if row >= tables.dims.size:
            value = initial_value(tables.seeds[table], key, layouts.kept[layout, i], tables.knobs[table, STD])
        rows.memory[at + 1 + i] = np.float32(value)
    if learning:
        start_state(rows.memory, at, values, table, tables)


@numba.njit(cache=True)
def reencode(
    rows: RowArrays, layouts: LayoutArrays, tables: TableArrays, row: int, layout: int, learning: bool
) -> None:
    """Moves a row into another layout: kept numbers go along with their state, new ones begin as at birth."""
    header = rows.headers[row]
    memory = rows.memory
    table = int(header.table)
    old_layout, old = np.int64(header.layout), header.at
    old_values, values = 1 + layouts.dims[old_layout], 1 + layouts.dims[layout]
    at = allocate(rows, layouts.widths[layout])
    kind = tables.optimizers[table]
    fixed, per = FIXED[kind], PER[kind]
    if learning:
        for i in range(fixed):
            memory[at + values + i] = memory[old + old_values + i]
    for i in range(values):
        place = 0
        if i > 0:
            k = layouts.kept[layout, i - 1]
            place = layouts.places[old_layout, k] + 1 if layouts.places[old_layout, k] >= 0 else -1
        if place >= 0:
            memory[at + i] = memory[old + place]
            if learning:
                for p in range(per):
                    memory[at + values + fixed + p * values + i] = memory[
                        old + old_values + fixed + p * old_values + place
                    ]
            continue
        value = 0.0
        if row >= tables.dims.size:
            value = initial_value(tables.seeds[table], header.id, layouts.kept[layout, i - 1], tables.knobs[table, STD])
        memory[at + i] = np.float32(value)
        if learning:
            for p in range(per):
                memory[at + values + fixed + p * values + i] = np.float32(0.0)
            if kind == ADAGRAD_ELEMENTWISE:
                memory[at + values + i] = np.float32(tables.knobs[table, FIRST])
            elif kind == FTRL:
                start_ftrl(memory, at, values, i, table, tables)
    release(rows, old, layouts.widths[old_layout])
    header.at = at
    header.layout = layout


@numba.njit(nogil=True, cache=True)
def forget(rows: RowArrays, layouts: LayoutArrays, removed: NDArray[np.int64]) -> int:
    """Gives back the strips of rows that left the index: int64[n], -1 where there was none.

    Says how many there were.
    """
    count = 0
    for i in range(removed.size):
        row = removed[i]
        if row >= 0:
            header = rows.headers[row]
            release(rows, header.at, layouts.widths[np.int64(header.layout)])
            header.at = -1
            count += 1
    return count
