"""What earlier messages brought of a list that has still examples to come, left out of what these read.

An example of a list is read beside statistics and sequences as they would be, had nothing of its own list come before.
A list's messages all have its one time, so what an earlier one added can be taken out: counts and sums by the decay
since, latest values and times because more of them are kept than shown.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.accumulators import (
    COUNT,
    LAST,
    SUM,
    TIME,
    WINDOW_COUNT,
    WINDOW_SUM,
    AccumulatorArrays,
    read_time,
)
from embedding_store.kernel import kernel
from embedding_store.settings import WINDOW_PARTS
from embedding_store.slabs import RowArrays

_NOTHING = 1e-6  # of what is taken out: so little may be left by rounding where nothing is left


class Told(NamedTuple):
    """E items of earlier messages, and which of them belong to the lists of B examples.

    Attributes:
        starts: int64[B], the first item of each example's list.
        ends: int64[B], behind its last.
        ids: int64[E, S], in the S statistics tables.
        missing: bool[E, S]; of such an id there is nothing.
        inputs: float64[E, I], what the statistics took in; NaN where nothing.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    ids: NDArray[np.int64]
    missing: NDArray[np.bool_]
    inputs: NDArray[np.float64]


@kernel()
def leave_out(
    rows: RowArrays,
    accumulators: AccumulatorArrays,
    found: NDArray[np.int64],
    ids: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    told: Told,
    out: NDArray[np.float64],
) -> None:
    """Takes what earlier messages of each example's list brought out of the accumulators that it reads.

    Args:
        rows: Of the shard.
        accumulators: Of the tables.
        found: int64[B * S], the row of each example in each table.
        ids: int64[B * S].
        times_ms: int64[B], of each example, which is that of its list's earlier messages.
        told: What they brought. A value that more than `SPARE` others pushed out is not there any more. What an id
            brought before it was admitted is taken out all the same, down to nothing.
        out: float64[B, sum of lengths], as :func:`embedding_store.accumulators.read` filled it; changed.
    """
    memory = rows.memory
    count = accumulators.tables.size
    for b in range(times_ms.size):
        for e in range(told.starts[b], told.ends[b]):
            column = 0
            for s in range(count):
                row = found[b * count + s]
                own = row != accumulators.tables[s] and not told.missing[e, s] and told.ids[e, s] == ids[b * count + s]
                base = rows.headers[row].at
                past_ms = max(0, read_time(memory, base) - times_ms[b]) if own else 0
                for a in range(accumulators.starts[s], accumulators.starts[s + 1]):
                    first, length = column, accumulators.lengths[a]
                    column += length
                    x = told.inputs[e, accumulators.inputs[a]] if own and accumulators.inputs[a] >= 0 else np.nan
                    if np.isnan(x):
                        continue
                    kind = accumulators.kinds[a]
                    if kind == LAST:
                        place = first
                        while place < column and out[b, place] != np.float64(np.float32(x)):
                            place += 1
                        if place < column:
                            for i in range(place, column - 1):
                                out[b, i] = out[b, i + 1]
                            out[b, column - 1] = np.nan
                        continue
                    if kind == TIME:
                        if out[b, first] == 0.0:
                            for i in range(first, column - 1):
                                out[b, i] = out[b, i + 1]
                            out[b, column - 1] = np.nan
                        continue
                    if out[b, first] == 0.0:
                        continue  # nothing is there, or the row was written before this accumulator was
                    added = x if kind == SUM or kind == WINDOW_SUM else 1.0
                    if kind == COUNT or kind == SUM:
                        added *= 2.0 ** (-past_ms / accumulators.half_lives[a])
                    else:
                        newest = read_time(memory, base + accumulators.places[a]) - 1
                        if newest - times_ms[b] * WINDOW_PARTS // accumulators.windows[a] >= WINDOW_PARTS:
                            continue
                    rest = out[b, first] - added
                    if abs(rest) <= _NOTHING * abs(added) or (rest < 0.0 and (kind == COUNT or kind == WINDOW_COUNT)):
                        rest = 0.0
                    out[b, first] = rest
