"""Weights that know their uncertainty: each id's linear weight is a mean and a variance, of each task.

A batch is scored first. Then its examples are learned from one after another by assumed-density filtering: with the
weights as they are by then, the score's mean m and variance s are computed again, and every weight in it moves by its
own variance, which shrinks. So a new id learns fast, a known one slowly, and no learning rate is to be found; the one
knob is the prior variance.

The score is the moderated log odds m / sqrt(1 + pi s / 8). An id that has no row scores with its table's cold row for
a mean, and with the prior variance besides the cold row's own: nothing is known yet about the id itself. Its own row
then begins at the cold row's mean, with the prior variance; were it to begin at zero, what it has learned first would
be learned by the cold row once more, and nothing would ever pull the cold row back.

**Source**: an extended Kalman step on the log odds, compare Graepel et al. 2010 (adPredictor); the moderated output is
MacKay's (1992, The evidence framework applied to classification networks).
"""

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.lookup import Fields, TableArrays
from embedding_store.optimizers import PRIOR
from embedding_store.slabs import RowArrays

NOISE = 0.05
"""Variance of a score beside that of its weights."""
MODERATION = np.pi / 8
BIAS_VARIANCE = 1.0
BIAS_DRIFT = 1e-6
"""What a bias' variance grows by with each example, so that it never stops learning."""


@kernel(inline="always")
def _variance(rows: RowArrays, tables: TableArrays, row: int, at: int, missing: bool) -> float:
    """Variance of a weight; a cold row that stands in for an id adds the prior."""
    variance = np.float64(rows.memory[at])
    if row < tables.dims.size and not missing:
        variance += tables.knobs[row, PRIOR]
    return variance


@kernel()
def score(
    rows: RowArrays,
    tables: TableArrays,
    found: NDArray[np.int64],
    missing: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    fields: Fields,
    bias: NDArray[np.float64],
    moments: NDArray[np.float64],
    means: NDArray[np.float32],
    confidence: NDArray[np.float32],
) -> None:
    """Mean and variance of each example's log odds.

    Args:
        rows: Of the shard.
        tables: Of the shard.
        found: int64[N], the row of each occurrence.
        missing: bool[N].
        offsets: int64[B * F + 1].
        fields: Of the batch.
        bias: float64[T, 2], mean and variance of each task's.
        moments: float64[B, T, 2], filled: m and s.
        means: float32[B, L, T], filled: what each of the first L fields adds to m. The others add nothing.
        confidence: float32[B, L, T], filled: 1 - v / prior, 0 for an id of which nothing is known.
    """
    count = fields.tables.size
    for b in range(moments.shape[0]):
        for t in range(bias.shape[0]):
            m, s = bias[t, 0], NOISE + bias[t, 1]
            for f in range(means.shape[1]):
                first, last = offsets[b * count + f], offsets[b * count + f + 1]
                share = 1.0 / (last - first) if fields.means[f] else 1.0
                mean = spread = 0.0
                for j in range(first, last):
                    at = rows.headers[found[j]].at + 2 * t
                    mean += share * rows.memory[at]
                    spread += share * share * _variance(rows, tables, found[j], at + 1, missing[j])
                m += mean
                s += spread
                means[b, f, t] = mean
                confidence[b, f, t] = max(0.0, 1.0 - spread / tables.knobs[fields.tables[f], PRIOR])
            moments[b, t, 0] = m
            moments[b, t, 1] = s


@kernel()
def learn(
    rows: RowArrays,
    tables: TableArrays,
    scored: NDArray[np.int64],
    updated: NDArray[np.int64],
    missing: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    fields: Fields,
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    shifts: NDArray[np.float32],
    bias: NDArray[np.float64],
    linear: int,
) -> None:
    """Learns from a batch, example by example.

    An occurrence that was scored by the cold row moves the cold row and, unless the value was missing, the id's own
    row too. The cold row is then no part of the score any more, so it moves as though it stood in it beside.

    Args:
        rows: Of the shard.
        tables: Of the shard.
        scored: int64[N], the row that scored each occurrence.
        updated: int64[N], the id's own row, or the cold row where it has none.
        missing: bool[N].
        offsets: int64[B * F + 1].
        fields: Of the batch.
        labels: float32[B, T], NaN where absent.
        weights: float32[B]; a weight of 2 teaches about what two examples do.
        shifts: float32[B, T], what lies in the log odds of an example besides the score, such as that of a sample.
        bias: float64[T, 2], moved along.
        linear: L, how many fields add to the score; the others come behind them.
    """
    count = fields.tables.size
    for b in range(labels.shape[0]):
        for t in range(bias.shape[0]):
            label = np.float64(labels[b, t])
            if np.isnan(label) or weights[b] == 0:
                continue
            bias[t, 1] += BIAS_DRIFT
            m, s = bias[t, 0] + np.float64(shifts[b, t]), NOISE + bias[t, 1]
            for f in range(linear):
                first, last = offsets[b * count + f], offsets[b * count + f + 1]
                share = 1.0 / (last - first) if fields.means[f] else 1.0
                for j in range(first, last):
                    at = rows.headers[updated[j]].at + 2 * t
                    m += share * rows.memory[at]
                    s += share * share * _variance(rows, tables, updated[j], at + 1, missing[j])
            p = 1.0 / (1.0 + np.exp(-m / np.sqrt(1.0 + MODERATION * s)))
            h = weights[b] * p * (1.0 - p)
            d = 1.0 + h * s
            move, shrink = weights[b] * (label - p) / d, h / d
            for f in range(linear):
                first, last = offsets[b * count + f], offsets[b * count + f + 1]
                share = 1.0 / (last - first) if fields.means[f] else 1.0
                for j in range(first, last):
                    _move(rows, updated[j], t, share, move, shrink, False)
                    if scored[j] != updated[j] and scored[j] < tables.dims.size:
                        _move(rows, scored[j], t, share, move, shrink, True)
            v = bias[t, 1]
            bias[t, 0] += v * move
            bias[t, 1] = v - v * v * shrink


@kernel(inline="always")
def _move(rows: RowArrays, row: int, t: int, share: float, move: float, shrink: float, beside: bool) -> None:
    at = rows.headers[row].at + 2 * t
    variance = np.float64(rows.memory[at + 1])
    v = share * variance
    part = 1.0 / (1.0 + share * v * shrink) if beside else 1.0  # without it, a heavy example makes a variance negative
    rows.memory[at] += np.float32(v * move * part)
    rows.memory[at + 1] = np.float32(variance - v * v * shrink * part)
