"""Optimizers over the rows that a batch touched.

Gradients are summed over the batch, duplicates first, then each distinct row takes one step. A row's strip is: the
lead (the linear weight, or means and variances), the kept numbers of the vector, the linear weight's state, the
vector's state. The linear weight and the vector are two parts with an optimizer each. A part of n numbers has `fixed`
numbers of state, then `per` arrays of n.

================== ===== === ===============================================================================
kind               fixed per state
================== ===== === ===============================================================================
adagrad            1     0   accumulator of the part's mean square
adagrad_elementwise 0    1   an accumulator a number
adam               1     2   the part's own steps; first and second moments
ftrl               0     2   z and n
gaussian           0     0   none: learned by :mod:`embedding_store.gaussian`
================== ===== === ===============================================================================
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.lookup import TableArrays
from embedding_store.plan import LayoutArrays
from embedding_store.settings import STATE_WIDTHS
from embedding_store.slabs import RowArrays

ADAGRAD, ADAGRAD_ELEMENTWISE, ADAM, FTRL, GAUSSIAN = 0, 1, 2, 3, 4
KINDS = {name: kind for kind, name in enumerate(STATE_WIDTHS)}
FIXED = np.array([fixed for fixed, _ in STATE_WIDTHS.values()], dtype=np.int64)
PER = np.array([per for _, per in STATE_WIDTHS.values()], dtype=np.int64)

STD, FIRST, L1, L2, BETA, PRIOR = 0, 1, 2, 3, 4, 5  # places in TableArrays.knobs
COLD_SHARE = 0.03
"""Variance of a Gaussian cold row at first, as a share of the prior variance of an id's own weight."""
_ALONE = np.zeros(1, dtype=np.int64)
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Summed(NamedTuple):
    """Gradients of the distinct rows of a batch.

    Attributes:
        distinct: int64[≥ U].
        sums: float32[≥ U, 1 + K].
    """

    distinct: NDArray[np.int64]
    sums: NDArray[np.float32]


@kernel()
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


@kernel(inline="always")
def _step_part(
    memory: NDArray[np.float32], at: int, state: int, size: int, kind: int, rate: np.float32,
    knobs: NDArray[np.float64], g: NDArray[np.float32], kept: NDArray[np.int64],
) -> bool:  # fmt: skip
    """One step of a part: `size` numbers from `at` on, their state from `state` on, number i's gradient `g[kept[i]]`.

    Returns whether a number is left that is not zero; only FTRL says no.
    """
    if kind == ADAGRAD:
        square = np.float32(0.0)
        for i in range(size):
            square += g[kept[i]] * g[kept[i]]
        total = memory[state] + square / np.float32(size)
        memory[state] = total
        scale = rate / np.sqrt(total)
        for i in range(size):
            memory[at + i] -= scale * g[kept[i]]
    elif kind == ADAGRAD_ELEMENTWISE:
        for i in range(size):
            x = g[kept[i]]
            total = memory[state + i] + x * x
            memory[state + i] = total
            memory[at + i] -= rate * x / np.sqrt(total)
    elif kind == ADAM:
        steps = memory[state] + np.float32(1.0)
        memory[state] = steps
        correct1 = np.float32(1.0 / (1.0 - _BETA1 ** np.float64(steps)))
        correct2 = np.float32(1.0 / (1.0 - _BETA2 ** np.float64(steps)))
        for i in range(size):
            x = g[kept[i]]
            m = np.float32(_BETA1) * memory[state + 1 + i] + np.float32(1.0 - _BETA1) * x
            v = np.float32(_BETA2) * memory[state + 1 + size + i] + np.float32(1.0 - _BETA2) * x * x
            memory[state + 1 + i] = m
            memory[state + 1 + size + i] = v
            memory[at + i] -= rate * m * correct1 / (np.sqrt(v * correct2) + np.float32(_EPSILON))
    elif kind == FTRL:
        any_weight = False
        l1, l2, beta = np.float32(knobs[L1]), np.float32(knobs[L2]), np.float32(knobs[BETA])
        for i in range(size):
            x = g[kept[i]]
            n = memory[state + size + i]
            total = n + x * x
            z = memory[state + i] + x - (np.sqrt(total) - np.sqrt(n)) / rate * memory[at + i]
            memory[state + i] = z
            memory[state + size + i] = total
            if np.abs(z) <= l1:
                memory[at + i] = np.float32(0.0)
            else:
                memory[at + i] = -(z - np.sign(z) * l1) / ((beta + np.sqrt(total)) / rate + l2)
                any_weight = True
        return any_weight
    return True


@kernel(error_model="numpy")
def step(
    rows: RowArrays,
    layouts: LayoutArrays,
    tables: TableArrays,
    batch: Summed,
    found: int,
    emptied: NDArray[np.int64],
) -> int:
    """One step of each distinct row, by its table's optimizers.

    **Sources**: Adagrad: Duchi et al. 2011; with one accumulator a row as in Naumov et al. 2019 (DLRM). Adam: Kingma &
    Ba 2015, algorithm 1, with the row's own step count. FTRL-proximal: McMahan et al. 2013, algorithm 1.

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
    empty = 0
    for u in range(found):
        row = batch.distinct[u]
        table = np.int64(rows.headers[row].table)
        at = rows.headers[row].at
        layout = np.int64(rows.headers[row].layout)
        lead, size = layouts.leads[layout], layouts.dims[layout]
        linear = tables.linears[table]
        state = at + lead + size
        rates, knobs, g = tables.rates[table], tables.knobs[table], batch.sums[u]
        any_weight = _step_part(rows.memory, at, state, 1, linear, rates[0], knobs, g[:1], _ALONE)
        if size > 0:
            state += FIXED[linear] + PER[linear]
            any_weight |= _step_part(
                rows.memory, at + lead, state, size, tables.optimizers[table], rates[1], knobs, g[1:],
                layouts.kept[layout],
            )  # fmt: skip
        if not any_weight and row >= tables.dims.size:
            emptied[empty] = row
            empty += 1
    return empty


@kernel(inline="always")
def start_number(
    memory: NDArray[np.float32], at: int, state: int, size: int, i: int, kind: int, rate: np.float32,
    knobs: NDArray[np.float64],
) -> None:  # fmt: skip
    """State of number i of a part, whose value is set: no gradient was seen yet."""
    for p in range(PER[kind]):
        memory[state + FIXED[kind] + p * size + i] = np.float32(0.0)
    if kind == ADAGRAD_ELEMENTWISE:
        memory[state + i] = np.float32(knobs[FIRST])
    elif kind == FTRL:
        w = memory[at + i]
        pull = np.sign(w) * knobs[L1] if w != 0 else 0.0
        memory[state + i] = np.float32(-(w * (knobs[BETA] / np.float64(rate) + knobs[L2]) + pull))


@kernel(inline="always")
def start_part(
    memory: NDArray[np.float32], at: int, state: int, size: int, kind: int, rate: np.float32, knobs: NDArray[np.float64]
) -> None:
    """State of a new part whose numbers are set."""
    if FIXED[kind] > 0:
        memory[state] = np.float32(knobs[FIRST]) if kind == ADAGRAD else np.float32(0.0)
    for i in range(size):
        start_number(memory, at, state, size, i, kind, rate, knobs)
