"""A shard against a plain Python one, under random batches, sweeps and late events."""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import SEED, entries_of, pooled, see

TABLES = (
    TableSettings(name="wide", dim=3, expire_after="1s", learning_rate=0.1, linear_learning_rate=0.2),
    TableSettings(name="narrow", dim=1, initial_accumulator=0.5, init_std=0.3),
)
FIELDS = (0, 1, 0)
MEANS = (True, False, True)
IDS = 8
WIDTH = 4


@cache
def initial(table: int, key: int) -> tuple[float, ...]:
    """What a new row starts from: what it has in a shard of its own that learned nothing."""
    shard = Shard([TABLES[table]], SEED)
    see(shard, [[key]])
    values = pooled(shard, [[key]])[0, 0].tolist()
    return (*values, *[0.0] * (WIDTH - len(values)))


@dataclass
class Row:
    values: list[float]
    state: list[float]
    count: int = 0
    last_seen: int = 0


@dataclass
class PlainShard:
    rows: dict[tuple[int, int], Row] = field(default_factory=dict)
    clock_ms: int = 0

    def __post_init__(self) -> None:
        self.cold = [Row([0.0] * WIDTH, [table.initial_accumulator] * 2) for table in TABLES]

    def absent(self, table: int, key: int) -> bool:
        row = self.rows.get((table, key))
        expire_ms = TABLES[table].expire_after
        return row is None or (expire_ms is not None and self.clock_ms - row.last_seen > expire_ms)

    def score(self, table: int, cell: list[int | None], mean: bool) -> list[float]:
        rows = [self.cold[table] if key is None or self.absent(table, key) else self.rows[table, key] for key in cell]
        return [sum(row.values[k] for row in rows) / (len(rows) if mean else 1) for k in range(WIDTH)]

    def learn(self, examples: Any, gradients: Any, times_ms: list[int]) -> None:
        sums: dict[int, tuple[int, Row, list[float]]] = {}
        seen: list[tuple[int, int | None, int, bool]] = []
        for b, example in enumerate(examples):
            for f, cell in enumerate(example):
                for key in cell:
                    cold = key is None or self.absent(FIELDS[f], key)
                    seen.append((FIELDS[f], key, times_ms[b], cold))
        receivers = []
        for table, key, time_ms, cold in seen:
            rows = [self.cold[table]] if cold else []
            if key is None:
                own = self.cold[table]
            else:
                if cold and self.absent(table, key):
                    start = TABLES[table].initial_accumulator
                    expire_ms = TABLES[table].expire_after
                    born_ms = time_ms if expire_ms is None else max(time_ms, self.clock_ms - expire_ms)
                    self.rows[table, key] = Row(list(initial(table, key)), [start] * 2, 0, born_ms)
                own = self.rows[table, key]
                rows.append(own)
            own.count += 1
            own.last_seen = max(own.last_seen, time_ms)
            receivers.append((table, key, cold))
        occurrence = 0
        for b, example in enumerate(examples):
            for f, cell in enumerate(example):
                for _ in cell:
                    table, key, cold = receivers[occurrence]
                    occurrence += 1
                    some = [self.cold[table]] if cold else []
                    some += [self.rows[table, key]] if key is not None else []
                    for row in some:
                        _, _, total = sums.setdefault(id(row), (table, row, [0.0] * WIDTH))
                        for k in range(WIDTH):
                            total[k] += float(gradients[b, f, k]) / (len(cell) if MEANS[f] else 1)
        for table, row, total in sums.values():
            self.step(TABLES[table], row, total)
        self.clock_ms = max(self.clock_ms, *times_ms)

    @staticmethod
    def step(table: TableSettings, row: Row, g: list[float]) -> None:
        row.state[0] += g[0] ** 2
        row.values[0] -= table.linear_learning_rate * g[0] / math.sqrt(row.state[0])
        row.state[1] += sum(g[k] ** 2 for k in range(1, 1 + table.dim)) / table.dim
        for k in range(1, 1 + table.dim):
            row.values[k] -= table.learning_rate * g[k] / math.sqrt(row.state[1])


CELL = st.lists(st.one_of(st.none(), st.integers(0, IDS - 1)), min_size=1, max_size=3)
EXAMPLE = st.tuples(st.tuples(CELL, CELL, CELL), st.integers(-2500, 900))
BATCHES = st.lists(st.tuples(st.lists(EXAMPLE, min_size=1, max_size=5), st.integers(0, 99)), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(BATCHES)
def test_a_shard_does_what_a_plain_one_does(batches):
    shard, plain = Shard(TABLES, SEED), PlainShard()
    now_ms = 10_000
    for some, seed in batches:
        examples = [[list(cell) for cell in example] for example, _ in some]
        times_ms = [now_ms + step for _, step in some]
        now_ms = max(now_ms, *times_ms)
        gradients = np.random.default_rng(seed).normal(size=(len(some), len(FIELDS), WIDTH))
        expected = [[plain.score(FIELDS[f], cell, MEANS[f]) for f, cell in enumerate(e)] for e in examples]
        scored = see(shard, examples, gradients, times_ms, FIELDS, MEANS)
        np.testing.assert_allclose(scored, expected, rtol=1e-4, atol=1e-5)
        plain.learn(examples, gradients, times_ms)
        if seed % 2:
            shard.sweep(seed % 12)
    assert shard.clock_ms == plain.clock_ms
    for t, table in enumerate(TABLES):
        entries = entries_of(shard, np.append(shard.live_rows(t), t))
        alive = sorted(key for (table_, key) in plain.rows if table_ == t and not plain.absent(t, key))
        assert entries["id"][:-1].tolist() == alive
        for entry, row in zip(entries, [*(plain.rows[t, key] for key in alive), plain.cold[t]], strict=True):
            assert (int(entry["count"]), int(entry["last_seen"])) == (row.count, row.last_seen)
            np.testing.assert_allclose(entry["values"], row.values[: 1 + table.dim], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(entry["state"], row.state, rtol=1e-4)
