"""What lies in a row's strip: made for a new id, moved into another layout, given back."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.initial import initial_value
from embedding_store.kernel import kernel
from embedding_store.lookup import TableArrays
from embedding_store.optimizers import (
    ADAM,
    BETA,
    COLD_SHARE,
    FIXED,
    FTRL,
    GAUSSIAN,
    L1,
    L2,
    PER,
    PRIOR,
    STD,
    start_number,
    start_part,
)
from embedding_store.plan import LayoutArrays, layout_of
from embedding_store.slabs import RowArrays, allocate, release


@kernel()
def make_cold_row(rows: RowArrays, layouts: LayoutArrays, tables: TableArrays, table: int) -> None:
    """Sets a reader's cold row to what a new table has: zeros, and a share of Gaussian weights' prior variance."""
    layout = layout_of(layouts, table, 0)
    at = allocate(rows, layouts.widths[layout])
    for i in range(layouts.widths[layout]):
        rows.memory[at + i] = np.float32(0.0)
    if tables.linears[table] == GAUSSIAN:
        for i in range(1, layouts.leads[layout], 2):
            rows.memory[at + i] = np.float32(COLD_SHARE * tables.knobs[table, PRIOR])
    header = rows.headers[table]
    header.at = at
    header.layout = layout
    header.count = 0
    header.last_seen = 0


@kernel()
def fill(
    rows: RowArrays,
    found: NDArray[np.int64],
    last_seen: NDArray[np.int64],
    counts: NDArray[np.uint32],
    words: NDArray[np.uint32],
) -> None:
    """Sets what some rows hold: last_seen int64[n], counts uint32[n], words uint32[n, words of a strip]."""
    memory = rows.memory.view(np.uint32)
    for i in range(found.size):
        header = rows.headers[found[i]]
        header.last_seen = last_seen[i]
        header.count = counts[i]
        at = np.int64(header.at)
        for k in range(words.shape[1]):
            memory[at + k] = words[i, k]


@kernel()
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
    lead, size = layouts.leads[layout], layouts.dims[layout]
    linear, knobs, rates = tables.linears[table], tables.knobs[table], tables.rates[table]
    for i in range(lead):
        rows.memory[at + i] = np.float32(0.0)
        if linear == GAUSSIAN and row < tables.dims.size:
            rows.memory[at + i] = np.float32(COLD_SHARE * knobs[PRIOR] if i % 2 else 0.0)
        elif linear == GAUSSIAN:
            rows.memory[at + i] = np.float32(knobs[PRIOR]) if i % 2 else rows.memory[rows.headers[table].at + i]
    for i in range(size):
        value = 0.0
        if row >= tables.dims.size and lead > 0:
            value = initial_value(tables.seeds[table], key, layouts.kept[layout, i], knobs[STD])
        rows.memory[at + lead + i] = np.float32(value)
    if learning and lead > 0:
        state = at + lead + size
        start_part(rows.memory, at, state, 1, linear, rates[0], knobs)
        if size > 0:
            state += FIXED[linear] + PER[linear]
            start_part(rows.memory, at + lead, state, size, tables.optimizers[table], rates[1], knobs)


@kernel()
def _turn(
    rows: RowArrays, layouts: LayoutArrays, turn: NDArray[np.float32], old_layout: int | np.int64, old: int,
    old_state: int, layout: int, at: int, state: int, kind: int, rate: np.float32, knobs: NDArray[np.float64],
    stateful: bool,
) -> None:  # fmt: skip
    """A vector in another frame; what its old layout does not keep counts as zero.

    Of the optimizers' state, means turn as the numbers do, squares by the squares of the matrix, as if the numbers'
    gradients were not correlated. FTRL's z is what gives the turned number.
    """
    memory, old_size, size = rows.memory, layouts.dims[old_layout], layouts.dims[layout]
    for i in range(size):
        k = layouts.kept[layout, i]
        value = np.float32(0.0)
        for n in range(old_size):
            value += turn[k, layouts.kept[old_layout, n]] * memory[old + n]
        memory[at + i] = value
        for p in range(PER[kind] if stateful else 0):
            mean = kind == ADAM and p == 0
            total = np.float32(0.0)
            for n in range(old_size):
                share = turn[k, layouts.kept[old_layout, n]]
                total += (share if mean else share * share) * memory[old_state + p * old_size + n]
            memory[state + p * size + i] = total
        if kind == FTRL and stateful:
            pull = np.sign(value) * knobs[L1] if value != 0 else 0.0
            root = np.sqrt(np.float64(memory[state + size + i]))
            memory[state + i] = np.float32(-(value * ((knobs[BETA] + root) / np.float64(rate) + knobs[L2]) + pull))


@kernel()
def reencode(
    rows: RowArrays, layouts: LayoutArrays, tables: TableArrays, row: int, layout: int, learning: bool
) -> None:
    """Moves a row into another layout: kept numbers go along with their state, new ones begin as at birth.

    In another frame all are made of the old ones.
    """
    header = rows.headers[row]
    memory = rows.memory
    table = int(header.table)
    old_layout, old = np.int64(header.layout), header.at
    old_size, size, lead = layouts.dims[old_layout], layouts.dims[layout], layouts.leads[layout]
    at = allocate(rows, layouts.widths[layout])
    for i in range(lead):
        memory[at + i] = memory[old + i]
    kind, linear = tables.optimizers[table], tables.linears[table]
    of_linear = FIXED[linear] + PER[linear] if learning and lead > 0 else 0
    for i in range(of_linear):
        memory[at + lead + size + i] = memory[old + lead + old_size + i]
    state, old_state = at + lead + size + of_linear, old + lead + old_size + of_linear
    stateful = learning and lead > 0 and size > 0
    if stateful and old_size == 0:
        start_part(memory, at + lead, state, 0, kind, tables.rates[table, 1], tables.knobs[table])
    elif stateful:
        for i in range(FIXED[kind]):
            memory[state + i] = memory[old_state + i]
    turned = layouts.frames[old_layout] != layouts.frames[layout]
    if turned:
        turn = layouts.turns[layouts.frames[old_layout], layouts.frames[layout]]
        first = FIXED[kind] if stateful else 0
        _turn(rows, layouts, turn, old_layout, old + lead, old_state + first, layout, at + lead, state + first, kind,
              tables.rates[table, 1], tables.knobs[table], stateful and old_size > 0)  # fmt: skip
    for i in range(0 if turned else size):
        k = layouts.kept[layout, i]
        place = layouts.places[old_layout, k]
        if place >= 0:
            memory[at + lead + i] = memory[old + lead + place]
            if stateful:
                for p in range(PER[kind]):
                    memory[state + FIXED[kind] + p * size + i] = memory[old_state + FIXED[kind] + p * old_size + place]
            continue
        value = 0.0
        if row >= tables.dims.size and lead > 0:
            value = initial_value(tables.seeds[table], header.id, k, tables.knobs[table, STD])
        memory[at + lead + i] = np.float32(value)
        if stateful:
            start_number(memory, at + lead, state, size, i, kind, tables.rates[table, 1], tables.knobs[table])
    release(rows, old, layouts.widths[old_layout])
    header.at = at
    header.layout = layout


@kernel()
def forget(rows: RowArrays, layouts: LayoutArrays, removed: NDArray[np.int64]) -> int:
    """Gives back the strips of rows that left the index: int64[n], -1 where there was none.

    Says how many there were.
    """
    count = 0
    for i in range(removed.size):
        row = removed[i]
        if row >= 0 and rows.headers[row].at >= 0:
            header = rows.headers[row]
            release(rows, header.at, layouts.widths[np.int64(header.layout)])
            header.at = -1
            count += 1
    return count
