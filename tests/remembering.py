"""Shards that hold Gaussian weights, statistics and a sequence: batches for them, and what they say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_store.sequences import Sequences
from embedding_store.settings import Accumulator
from embedding_store.shard import Shard
from embedding_store.statistics import Statistics
from tests.shards import Cell, fields_of, occurrences, see

INPUTS = ("1", "x")
ACCUMULATORS = (
    Accumulator(kind="count", of="1"),
    Accumulator(kind="sum", of="x", half_life_ms=800),
    Accumulator(kind="last", of="x", length=2),
    Accumulator(kind="time", of="1", length=2),
)
SOME = (Accumulator(kind="window_sum", of="x", window_ms=1600), Accumulator(kind="count", of="x", half_life_ms=300))


def _remembering(shard: Shard) -> tuple[Statistics, Sequences]:
    kinds = [table.kind for table in shard.tables]
    numbers = [t for t, kind in enumerate(kinds) if kind == "statistics"]
    return Statistics(shard, numbers, INPUTS), Sequences(shard, kinds.index("sequence"))


def _keys(cells: Sequence[Cell], tables: int = 1) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    keys = [cell[0] if isinstance(cell, list) else cell for cell in cells]
    ids = np.array([[key or 0] * tables for key in keys], dtype=np.int64)
    return ids, np.array([[key is None] * tables for key in keys])


def see_and_remember(
    shard: Shard, examples: Sequence[Sequence[Cell]], gradients: Any, times_ms: int, first_origin: int
) -> NDArray[np.float32]:
    """One batch as :func:`tests.shards.see` learns it; then Gaussian weights, statistics and the sequence learn too.

    Labels, inputs and items are made from the gradients. Gives what scored it, float32[B, F, 1 + K].
    """
    count, width = len(examples), len(examples[0])
    labels = (gradients[:, 0, :2] > 0).astype(np.float32)
    inputs = np.stack([np.ones(count), np.where(gradients[:, 0, 2] > 0.8, np.nan, gradients[:, 0, 2])], axis=1)
    times = np.full(count, times_ms, dtype=np.int64)
    origins = np.arange(count, dtype=np.uint64) + np.uint64(first_origin)
    some, past = _remembering(shard)
    batch, fields = occurrences(examples), fields_of(np.arange(width))
    rows = shard.lookup(batch, fields)
    ids, missing = _keys([example[0] for example in examples], 2)
    found, _ = some.read(ids, missing, times)
    scored = see(shard, examples, gradients, times_ms, first_origin=first_origin)
    sure = fields._replace(tables=fields.tables[:1], means=fields.means[:1], counted=fields.counted[:1])
    first = occurrences([example[:1] for example in examples])
    own = shard.lookup(first, sure)
    bias = np.tile([0.0, 1.0], (2, 1))
    shard.learn_gaussian(
        first, own, own, sure, labels, np.ones(count, dtype=np.float32), np.zeros_like(labels), bias, 1
    )
    some.update(ids, missing, found, times, origins, inputs)
    items = (gradients[:, 0, 0] * 1e18).astype(np.int64)
    past.push(ids[:, 0].copy(), missing[:, 0].copy(), times, origins, items, labels[:, 0])
    assert rows.size == batch.ids.size
    return scored


def remembered(shard: Shard, keys: Sequence[int | None], now_ms: int) -> NDArray[np.float64]:
    """All that statistics and the sequence say about some ids, and how sure the Gaussian weights are."""
    some, past = _remembering(shard)
    ids, missing = _keys(keys, 2)
    times = np.full(len(keys), now_ms, dtype=np.int64)
    _, numbers = some.read(ids, missing, times)
    items = past.read(ids[:, 0].copy(), missing[:, 0].copy(), times)
    fields = fields_of([0])
    batch = occurrences([[key] for key in keys])
    moments, means, _ = shard.score_gaussian(shard.lookup(batch, fields), batch, fields, np.zeros((2, 2)), 1)
    parts = [numbers, items.items, items.times_ms, items.outcomes, moments, means]
    return np.nan_to_num(np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts]), nan=-1e9)
