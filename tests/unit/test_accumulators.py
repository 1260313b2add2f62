"""Statistics tables: every accumulator against a recount of the whole stream in plain Python."""

import math
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from embedding_store.accumulators import row_width
from embedding_store.bootstrap import Snapshot
from embedding_store.invariants import row_faults
from embedding_store.settings import Accumulator, TableSettings
from embedding_store.shard import Shard
from embedding_store.statistics import Statistics
from tests.shards import SEED, dump_of

INPUTS = ("1", "x", "y")
BEGIN_MS = 1_700_000_000_000
ALL = (
    Accumulator(kind="count", of="1"),
    Accumulator(kind="sum", of="x"),
    Accumulator(kind="count", of="x", half_life_ms=1000),
    Accumulator(kind="sum", of="y", half_life_ms=700),
    Accumulator(kind="window_count", of="x", window_ms=4000),
    Accumulator(kind="window_sum", of="y", window_ms=1500),
    Accumulator(kind="last", of="x", length=3),
    Accumulator(kind="last", of="y"),
    Accumulator(kind="time", of="1"),
    Accumulator(kind="time", of="y", length=3),
)


def statistics(name: str, some: tuple[Accumulator, ...] = ALL, **more: Any) -> TableSettings:
    return TableSettings(name=name, kind="statistics", accumulators=some, dim=row_width(some), **more)


Event = tuple[int, tuple[float, ...]]
"""Time and inputs of one sighting."""


def recount(accumulator: Accumulator, events: list[Event], now_ms: int) -> list[float]:
    """What an accumulator must say at a time, by all that its id has lived through."""
    place = INPUTS.index(accumulator.of)
    known = [(time, inputs[place]) for time, inputs in events if not math.isnan(inputs[place])]
    as_of = max([now_ms, *(time for time, _ in events)])
    if accumulator.kind == "last":
        values = [x for _, x in known[::-1]][: accumulator.length]
        return values + [math.nan] * (accumulator.length - len(values))
    if accumulator.kind == "time":
        held = sorted({time for time, _ in known}, reverse=True)[: accumulator.length]
        ages = [float(now_ms - time) for time in held if time <= now_ms]
        return ages + [math.nan] * (accumulator.length - len(ages))
    if accumulator.window_ms is not None:
        part = accumulator.window_ms / 8
        end = math.floor(max([now_ms, *(time for time, _ in known)]) / part)
        known = [(time, x) for time, x in known if math.floor(time / part) > end - 8]
    half_life = accumulator.half_life_ms or math.inf
    shares = [2 ** (-(as_of - time) / half_life) for time, _ in known]
    return [sum(s * (x if "sum" in accumulator.kind else 1) for s, (_, x) in zip(shares, known, strict=True))]


@dataclass
class Life:
    """One id in one table."""

    events: list[Event] = field(default_factory=list)
    last_seen: int = 0


@dataclass
class Recount:
    """What some statistics tables must hold."""

    tables: list[TableSettings]
    clock_ms: int = 0
    lives: dict[tuple[int, int], Life] = field(default_factory=dict)
    sightings: dict[tuple[int, int], int] = field(default_factory=dict)

    def absent(self, key: tuple[int, int]) -> bool:
        expire_ms = self.tables[key[0]].expire_after
        life = self.lives.get(key)
        return life is None or (expire_ms is not None and self.clock_ms - life.last_seen > expire_ms)

    def read(self, t: int, key: int | None, now_ms: int) -> list[float]:
        gone = key is None or self.absent((t, key))
        events = [] if gone or key is None else self.lives[t, key].events
        return [value for a in self.tables[t].accumulators for value in recount(a, events, now_ms)]

    def learn(self, batch: list[tuple[int | None, Event]]) -> None:
        unknown = {
            (t, key) for t in range(len(self.tables)) for key, _ in batch if key is None or self.absent((t, key))
        }
        for key, event in batch:
            for t, table in enumerate(self.tables):
                if key is None:
                    continue
                if (t, key) in unknown and self.absent((t, key)):
                    self.sightings[t, key] = self.sightings.get((t, key), 0) + 1
                    if self.sightings[t, key] < table.admit_after:
                        continue
                    oldest_ms = self.clock_ms - (table.expire_after or self.clock_ms)
                    self.lives[t, key] = Life(last_seen=max(event[0], oldest_ms))
                life = self.lives[t, key]
                life.events.append(event)
                life.last_seen = max(life.last_seen, event[0])
        self.clock_ms = max([self.clock_ms, *(event[0] for _, event in batch)])


def of_keys(keys: list[int | None], tables: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([[key or 0] * tables for key in keys], dtype=np.int64)
    return ids, np.array([[key is None] * tables for key in keys])


def feed(shard: Shard, some: Statistics, batch: list[tuple[int | None, Event]]) -> None:
    ids, missing = of_keys([key for key, _ in batch], len(shard.tables))
    times = np.array([event[0] for _, event in batch], dtype=np.int64)
    found, _ = some.read(ids, missing, times)
    origins = np.arange(times.size, dtype=np.uint64)
    some.update(ids, missing, found, times, origins, np.array([event[1] for _, event in batch]))
    shard.pass_on(times)


def said(shard: Shard, some: Statistics, keys: list[int | None], now_ms: int) -> np.ndarray:
    ids, missing = of_keys(keys, len(shard.tables))
    return some.read(ids, missing, np.full(len(keys), now_ms, dtype=np.int64))[1]


def opened(tables: list[TableSettings], learning: bool = True, layouts: bytes = b"") -> tuple[Shard, Statistics]:
    shard = Shard(tables, SEED, learning, layouts=layouts)
    return shard, Statistics(shard, range(len(tables)), INPUTS)


VALUE = st.one_of(st.just(math.nan), st.sampled_from([0.0, 1.0, -2.5, 7.0, 1234.5]))
SIGHTING = st.tuples(
    st.one_of(st.none(), st.integers(-3, 3)), st.integers(-3000, 900), st.tuples(st.just(1.0), VALUE, VALUE)
)
BATCHES = st.lists(st.lists(SIGHTING, min_size=1, max_size=5), min_size=1, max_size=8)
KEYS: list[int | None] = [*range(-3, 4), None, 99]


def timed(batches: Any, first_ms: int = BEGIN_MS) -> list[list[tuple[int | None, Event]]]:
    """Sightings at times that rise and fall."""
    now_ms, out = first_ms, []
    for batch in batches:
        some = [(key, (now_ms + step, inputs)) for key, step, inputs in batch]
        now_ms = max([now_ms, *(event[0] for _, event in some)]) + 250
        out.append(some)
    return out


@settings(max_examples=60, deadline=None)
@given(BATCHES, st.integers(-2000, 6000))
def test_accumulators_say_what_a_recount_says_under_late_events_admission_and_expiry(batches, later_ms):
    tables = [
        statistics("plain"),
        statistics("admitted", ALL[3:], admit_after=2),
        statistics("expiring", ALL[::2], expire_after="2s"),
    ]
    shard, some = opened(tables)
    plain = Recount(tables)
    for number, batch in enumerate(timed(batches)):
        feed(shard, some, batch)
        plain.learn(batch)
        if number % 2:
            shard.sweep(7)
    now_ms = plain.clock_ms + later_ms
    found = said(shard, some, KEYS, now_ms)
    for key, row in zip(KEYS, found, strict=True):
        expected = [value for t in range(3) for value in plain.read(t, key, now_ms)]
        np.testing.assert_allclose(row, expected, rtol=2e-6, atol=1e-6, err_msg=f"{key}")
    for t, table in enumerate(tables):
        for block in shard.blocks(np.append(shard.live_rows(t), t)):
            assert list(row_faults(table, block, shard.layouts)) == []


@settings(max_examples=30, deadline=None)
@given(BATCHES)
def test_a_reader_that_applies_every_commit_says_the_same(batches):
    tables = [statistics("plain"), statistics("expiring", ALL[::2], expire_after="2s")]
    shard, some = opened(tables)
    reader, its = opened(tables, learning=False)
    for batch in timed(batches):
        feed(shard, some, batch)
        shard.sweep(5)
        blocks, gone = shard.take_changes()
        for name, ids in gone.items():
            reader.remove(reader.number[name], ids)
        for block in blocks:
            reader.apply(block)
        reader.clock_ms = shard.clock_ms
        now_ms = shard.clock_ms + 333
        assert said(reader, its, KEYS, now_ms).tobytes() == said(shard, some, KEYS, now_ms).tobytes()


@settings(max_examples=30, deadline=None)
@given(BATCHES, BATCHES, st.booleans())
def test_added_accumulators_begin_empty_beside_what_is_kept(before, after, settled):
    old, new = ALL[:5], ALL[5:]
    shard, some = opened([statistics("t", old)])
    earlier = timed(before)
    for batch in earlier:
        feed(shard, some, batch)
    grown, more = opened([statistics("t", (*old, *new))], layouts=shard.parts()["layouts"])
    for block in shard.take_changes()[0]:
        grown.apply(block)
    grown.clock_ms = shard.clock_ms
    if settled:
        grown.settle()
    held = sum(a.length if a.kind == "last" else 1 for a in old)
    now_ms = shard.clock_ms + 100
    empty = [value for a in new for value in recount(a, [], now_ms)]
    for mine, theirs in zip(said(grown, more, KEYS, now_ms), said(shard, some, KEYS, now_ms), strict=True):
        np.testing.assert_array_equal(mine, [*theirs, *empty])
    later = timed(after, shard.clock_ms + 1)
    plain = Recount([statistics("t", new)])
    plain.clock_ms = shard.clock_ms
    lived = {key for batch in earlier for key, _ in batch if key is not None}
    plain.lives = {(0, key): Life(last_seen=shard.clock_ms) for key in lived}
    for batch in later:
        feed(shard, some, batch)
        feed(grown, more, batch)
        plain.learn(batch)
    now_ms = shard.clock_ms + 100
    for key, mine, theirs in zip(KEYS, said(grown, more, KEYS, now_ms), said(shard, some, KEYS, now_ms), strict=True):
        np.testing.assert_array_equal(mine[:held], theirs)
        if plain.lives.get((0, key or 0)) is None or plain.lives[0, key or 0].events:
            np.testing.assert_allclose(mine[held:], plain.read(0, key, now_ms), rtol=2e-6, atol=1e-6)
    assert {b.entries["values"].shape[1] for b in grown.blocks(grown.live_rows(0))} <= {
        row_width((*old, *new)),
        row_width(old),
    }
    grown.settle()
    assert [b.entries["values"].shape[1] for b in grown.blocks(grown.live_rows(0))] in ([row_width((*old, *new))], [])


def test_an_accumulator_whose_input_is_no_longer_brought_keeps_what_it_has():
    shard, some = opened([statistics("t")])
    for batch in timed([[(1, 0, (1.0, 5.0, 3.0))], [(1, 0, (1.0, 1.0, 2.0))]]):
        feed(shard, some, batch)
    now_ms = shard.clock_ms
    before = said(shard, some, [1], now_ms)
    fewer = Statistics(shard, [0], ("1",))
    ids, missing = of_keys([1], 1)
    times = np.array([now_ms])
    fewer.update(ids, missing, fewer.read(ids, missing, times)[0], times, np.zeros(1, np.uint64), np.ones((1, 1)))
    after = said(shard, some, [1], now_ms)
    columns = some.columns[0]
    for place, accumulator in enumerate(ALL):
        if accumulator.of != "1":
            first = columns[place]
            last = columns[place + 1] if place + 1 < len(columns) else after.shape[1]
            np.testing.assert_array_equal(after[0, first:last], before[0, first:last])
    assert after[0, columns[0]] == before[0, columns[0]] + 1


def test_counts_and_sums_stay_exact_far_beyond_single_precision():
    table = statistics("t", (Accumulator(kind="count", of="1"), Accumulator(kind="sum", of="x")))
    shard, some = opened([table])
    feed(shard, some, [(1, (BEGIN_MS, (1.0, float(1 << 25), 0.0)))])
    for first in range(1000):
        feed(shard, some, [(1, (BEGIN_MS + first, (1.0, 1.0, 0.0)))] * 3)
    assert said(shard, some, [1], BEGIN_MS)[0].tolist() == [3001, (1 << 25) + 3000]


def test_times_are_exact_over_their_whole_range():
    shard, some = opened([statistics("t", (Accumulator(kind="time", of="1"),))])
    for time_ms in (1, (1 << 24) - 1, 1 << 24, BEGIN_MS + 1, (1 << 48) - 1):
        feed(shard, some, [(time_ms, (time_ms, (1.0, 0.0, 0.0)))])
        assert said(shard, some, [time_ms], time_ms + 7)[0].tolist() == [7]


def test_reading_changes_nothing_and_a_missing_id_has_no_statistics():
    shard, some = opened([statistics("t")])
    feed(shard, some, [(None, (BEGIN_MS, (1.0, 1.0, 1.0))), (1, (BEGIN_MS, (1.0, 1.0, 1.0)))])
    before = dump_of(Snapshot(shard, definition=b"{}"))
    nothing = [value for a in ALL for value in recount(a, [], BEGIN_MS)]
    np.testing.assert_array_equal(said(shard, some, [None, 2], BEGIN_MS), [nothing, nothing])
    assert dump_of(Snapshot(shard, definition=b"{}")) == before


def test_the_order_of_a_batch_is_the_order_of_the_latest_values():
    shard, some = opened([statistics("t", (Accumulator(kind="last", of="x", length=4),))])
    feed(shard, some, [(1, (BEGIN_MS + n, (1.0, float(n), 0.0))) for n in range(6)])
    assert said(shard, some, [1], BEGIN_MS)[0].tolist() == [5, 4, 3, 2]


@pytest.mark.parametrize("place", range(2, row_width(ALL)))
def test_a_damaged_accumulator_is_found_or_may_be_what_it_says(place):
    table = statistics("t")
    shard, some = opened([table])
    for batch in islice(timed([[(1, 0, (1.0, 2.0, 3.0))]] * 5), 5):
        feed(shard, some, batch)
    (block,) = shard.blocks(shard.live_rows(0))
    assert list(row_faults(table, block, shard.layouts)) == []
    block.entries["values"][0, place] = np.nan
    assert any("not finite" in fault for fault in row_faults(table, block, shard.layouts))
    block.entries["values"][0, place] = 1e30
    starts = np.cumsum([2, *(a.width for a in ALL)])
    owner = int(np.searchsorted(starts, place, side="right")) - 1
    kind, offset = ALL[owner].kind, place - starts[owner]
    free = kind in ("sum",) or (kind == "last" and offset > 0) or (kind == "window_sum" and offset > 1)
    faults = list(row_faults(table, block, shard.layouts))
    assert (faults == []) == free
    assert all(f"{kind} of '{ALL[owner].of}'" in fault for fault in faults)
