"""Optimizers over the rows that a batch touched.

Gradients are summed over the batch, duplicates first, then each distinct row takes one step. A row's strip is: the
linear weight and the kept numbers of the vector (1 + d values), then `fixed` numbers of state, then `per` arrays of 1
+ d.

================== ===== === ===============================================================================
kind               fixed per state
================== ===== === ===============================================================================
adagrad            2     0   accumulators of the linear weight and of the vector (mean square)
adagrad_elementwise 0    1   an accumulator a value
adam               1     2   the row's own steps; first and second moments
ftrl               0     2   z and n
================== ===== === ===============================================================================
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embedding_store.lookup import TableArrays
from embedding_store.plan import LayoutArrays
from embedding_store.slabs import RowArrays

ADAGRAD, ADAGRAD_ELEMENTWISE, ADAM, FTRL = 0, 1, 2, 3
KINDS = {"adagrad": ADAGRAD, "adagrad_elementwise": ADAGRAD_ELEMENTWISE, "adam": ADAM, "ftrl": FTRL}
FIXED = np.array([2, 0, 1, 0], dtype=np.int64)
PER = np.array([0, 1, 2, 2], dtype=np.int64)

STD, FIRST, L1, L2, BETA = 0, 1, 2, 3, 4  # places in TableArrays.knobs
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Summed(NamedTuple):
    """Gradients of the distinct rows of a batch.

    Attributes:
        distinct: int64[≥ U].
        sums: float32[≥ U, 1 + K].
    """

    distinct: NDArray[np.int64]
    sums: NDArray[np.float32]


@numba.njit(nogil=True, cache=True)
def sum_gradients(
    rows: RowArrays,
    offsets: NDArray[np.int64],
    scored: NDArray[np.int64],
    updated: NDArray[np.int64],
    missing: NDArray[np.bool_],
    means: NDArray[np.bool_],
    gradients: NDArray[np.float32],
    out: Summed,
) -> int:
    """Sums the gradients of each distinct row, over all of its occurrences in the batch.

    An occurrence that was scored by the cold row gives its gradient to the cold row and, unless the value was
    missing, to the id's own row too.

    Args:
        rows: Of the shard; the headers' `slot` is scratch.
        offsets: int64[B * F + 1], occurrences of each (example, field).
        scored: int64[N], the row that scored each occurrence.
        updated: int64[N], the id's own row, or the cold row where it has none.
        missing: bool[N].
        means: bool[F], whether the field's rows are averaged.
        gradients: float32[B, F, 1 + K], with respect to the pooled rows.
        out: With room for N + T rows; filled.

    Returns:
        U, the number of distinct rows.
    """
    headers = rows.headers
    fields = means.size
    width = gradients.shape[2]
    flat = gradients.reshape(-1, width)
    found = 0
    for s in range(offsets.size - 1):
        first, last = offsets[s], offsets[s + 1]
        share = np.float32(1.0 / (last - first)) if means[s % fields] and last - first > 1 else np.float32(1.0)
        for j in range(first, last):
            for second in range(2):
                row = updated[j] if second else scored[j]
                if second and (missing[j] or row == scored[j]):
                    continue
                u = int(headers[row].slot)
                if u >= found or out.distinct[u] != row:
                    u = found
                    found += 1
                    out.distinct[u] = row
                    headers[row].slot = u
                    for k in range(width):
                        out.sums[u, k] = share * flat[s, k]
                else:
                    for k in range(width):
                        out.sums[u, k] += share * flat[s, k]
    return found


@numba.njit(inline="always", cache=True)
def _adagrad(
    memory: NDArray[np.float32], at: int, values: int, g: NDArray[np.float32], kept: NDArray[np.int64],
    rates: NDArray[np.float32],
) -> None:  # fmt: skip
    """Row-wise Adagrad. **Source**: Duchi et al. 2011; one accumulator a row as in Naumov et al. 2019 (DLRM)."""
    state = memory[at + values] + g[0] * g[0]
    memory[at + values] = state
    memory[at] -= rates[0] * g[0] / np.sqrt(state)
    square = np.float32(0.0)
    for i in range(values - 1):
        square += g[1 + kept[i]] * g[1 + kept[i]]
    state = memory[at + values + 1] + square / np.float32(values - 1)
    memory[at + values + 1] = state
    step = rates[1] / np.sqrt(state)
    for i in range(values - 1):
        memory[at + 1 + i] -= step * g[1 + kept[i]]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def step(
    rows: RowArrays,
    layouts: LayoutArrays,
    tables: TableArrays,
    batch: Summed,
    found: int,
    emptied: NDArray[np.int64],
) -> int:
    """One step of each distinct row, by its table's optimizer.

    **Sources**: element-wise Adagrad: Duchi et al. 2011. Adam: Kingma & Ba 2015, algorithm 1, with the row's own step
    count. FTRL-proximal: McMahan et al. 2013, algorithm 1.

    Args:
        rows: Of the shard, each encoded as the present plan has it.
        layouts: Of the shard.
        tables: Of the shard.
        batch: Gradients.
        found: U.
        emptied: int64[≥ U], filled with rows that FTRL left without a weight.

    Returns:
        How many were left without a weight.
    """
    memory = rows.memory
    zero = np.float32(0.0)
    empty = 0
    for u in range(found):
        row = batch.distinct[u]
        table = np.int64(rows.headers[row].table)
        at = rows.headers[row].at
        layout = np.int64(rows.headers[row].layout)
        kept = layouts.kept[layout]
        values = 1 + layouts.dims[layout]
        g = batch.sums[u]
        kind = tables.optimizers[table]
        if kind == ADAGRAD:
            _adagrad(memory, at, values, g, kept, tables.rates[table])
        elif kind == ADAGRAD_ELEMENTWISE:
            for i in range(values):
                x = g[0] if i == 0 else g[1 + kept[i - 1]]
                state = memory[at + values + i] + x * x
                memory[at + values + i] = state
                memory[at + i] -= tables.rates[table, 1 if i else 0] * x / np.sqrt(state)
        elif kind == ADAM:
            steps = memory[at + values] + np.float32(1.0)
            memory[at + values] = steps
            correct1 = np.float32(1.0 / (1.0 - _BETA1 ** np.float64(steps)))
            correct2 = np.float32(1.0 / (1.0 - _BETA2 ** np.float64(steps)))
            for i in range(values):
                x = g[0] if i == 0 else g[1 + kept[i - 1]]
                m = np.float32(_BETA1) * memory[at + values + 1 + i] + np.float32(1.0 - _BETA1) * x
                v = np.float32(_BETA2) * memory[at + 2 * values + 1 + i] + np.float32(1.0 - _BETA2) * x * x
                memory[at + values + 1 + i] = m
                memory[at + 2 * values + 1 + i] = v
                rate = tables.rates[table, 1 if i else 0]
                memory[at + i] -= rate * m * correct1 / (np.sqrt(v * correct2) + np.float32(_EPSILON))
        else:
            any_weight = False
            l1, l2 = np.float32(tables.knobs[table, L1]), np.float32(tables.knobs[table, L2])
            beta = np.float32(tables.knobs[table, BETA])
            for i in range(values):
                x = g[0] if i == 0 else g[1 + kept[i - 1]]
                rate = tables.rates[table, 1 if i else 0]
                n = memory[at + 2 * values + i]
                total = n + x * x
                z = memory[at + values + i] + x - (np.sqrt(total) - np.sqrt(n)) / rate * memory[at + i]
                memory[at + values + i] = z
                memory[at + 2 * values + i] = total
                if np.abs(z) <= l1:
                    memory[at + i] = zero
                else:
                    memory[at + i] = -(z - np.sign(z) * l1) / ((beta + np.sqrt(total)) / rate + l2)
                    any_weight = True
            if not any_weight and row >= tables.dims.size:
                emptied[empty] = row
                empty += 1
    return empty


@numba.njit(inline="always", cache=True)
def start_state(memory: NDArray[np.float32], at: int, values: int, table: int, tables: TableArrays) -> None:
    """State of a new row whose values are set: no gradient was seen yet."""
    kind = tables.optimizers[table]
    begin = at + values
    for i in range(FIXED[kind] + PER[kind] * values):
        memory[begin + i] = np.float32(0.0)
    if kind == ADAGRAD:
        memory[begin] = np.float32(tables.knobs[table, FIRST])
        memory[begin + 1] = np.float32(tables.knobs[table, FIRST])
    elif kind == ADAGRAD_ELEMENTWISE:
        for i in range(values):
            memory[begin + i] = np.float32(tables.knobs[table, FIRST])
    elif kind == FTRL:
        for i in range(values):
            start_ftrl(memory, at, values, i, table, tables)


@numba.njit(inline="always", cache=True)
def start_ftrl(memory: NDArray[np.float32], at: int, values: int, i: int, table: int, tables: TableArrays) -> None:
    """Sets z so that value `i` is what it is, with n at zero."""
    w = memory[at + i]
    rate = np.float64(tables.rates[table, 1 if i else 0])
    pull = np.sign(w) * tables.knobs[table, L1] if w != 0 else 0.0
    z = -(w * (tables.knobs[table, BETA] / rate + tables.knobs[table, L2]) + pull)
    memory[at + values + i] = np.float32(z)
    memory[at + 2 * values + i] = np.float32(0.0)
