"""Sequence tables: the last items of a visitor, against plain lists."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from embedding_store.bootstrap import Snapshot
from embedding_store.invariants import row_faults
from embedding_store.sequences import Past, Sequences, row_width
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import SEED, dump_of

LENGTH = 4
BEGIN_MS = 1_700_000_000_000
Item = tuple[int, int, float]
"""Id, time and outcome."""


def sequence(length: int = LENGTH, **more: Any) -> TableSettings:
    return TableSettings(name="past", kind="sequence", length=length, dim=row_width(length), **more)


def opened(table: TableSettings, learning: bool = True, layouts: bytes = b"") -> tuple[Shard, Sequences]:
    shard = Shard([table], SEED, learning, layouts=layouts)
    return shard, Sequences(shard, 0)


def keys_of(visitors: list[int | None]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([key or 0 for key in visitors], dtype=np.int64)
    return ids, np.array([key is None for key in visitors])


def push(shard: Shard, some: Sequences, batch: list[tuple[int | None, Item]]) -> None:
    times = np.array([item[1] for _, item in batch], dtype=np.int64)
    some.push(
        *keys_of([visitor for visitor, _ in batch]), times, np.arange(times.size, dtype=np.uint64),
        np.array([item[0] for _, item in batch], dtype=np.int64),
        np.array([item[2] for _, item in batch], dtype=np.float32),
    )  # fmt: skip
    shard.pass_on(times)


def read(some: Sequences, visitors: list[int | None], now_ms: int = BEGIN_MS * 2) -> Past:
    return some.read(*keys_of(visitors), np.full(len(visitors), now_ms, dtype=np.int64))


def listed(past: Past) -> list[list[Item]]:
    return [
        [(int(past.items[b, n]), int(past.times_ms[b, n]), float(past.outcomes[b, n])) for n in range(past.counts[b])]
        for b in range(past.counts.size)
    ]


def added(items: list[Item], new: Item, length: int) -> list[Item]:
    """The newest first; of one time, the last that came first."""
    place = sum(item[1] > new[1] for item in items)
    return [*items[:place], new, *items[place:]][:length]


IDS = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from([0, -1, 1 << 24, 1 << 48, -(1 << 63), 1 << 62]))
PUSHES = st.lists(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 3)),
            st.tuples(IDS, st.integers(-2000, 900), st.sampled_from([1.0, 0.5, -3.25])),
        ),
        min_size=1, max_size=6,
    ),
    min_size=1, max_size=8,
)  # fmt: skip
VISITORS: list[int | None] = [0, 1, 2, 3, None, 9]


def timed(batches: Any) -> list[list[tuple[int | None, Item]]]:
    now_ms, out = BEGIN_MS, []
    for batch in batches:
        some = [(visitor, (key, now_ms + step, outcome)) for visitor, (key, step, outcome) in batch]
        now_ms = max([now_ms, *(item[1] for _, item in some)])
        out.append(some)
    return out


@settings(max_examples=60, deadline=None)
@given(PUSHES)
def test_a_past_is_the_last_items_by_time_and_a_reader_has_the_same(batches):
    table = sequence()
    shard, some = opened(table)
    reader, its = opened(table, learning=False)
    pasts: dict[int, list[Item]] = {}
    for batch in timed(batches):
        push(shard, some, batch)
        for visitor, item in batch:
            if visitor is not None:
                pasts[visitor] = added(pasts.get(visitor, []), item, LENGTH)
        for block in shard.take_changes()[0]:
            assert list(row_faults(table, block, shard.layouts)) == []
            reader.apply(block)
        reader.clock_ms = shard.clock_ms
        expected = [pasts.get(visitor, []) if visitor is not None else [] for visitor in VISITORS]
        for one in (some, its):
            past = read(one, VISITORS)
            assert listed(past) == expected
            behind = np.arange(LENGTH) >= past.counts[:, None]
            assert not past.items[behind].any()
            assert not past.times_ms[behind].any()


@settings(max_examples=30, deadline=None)
@given(PUSHES, PUSHES)
def test_a_longer_sequence_goes_on_with_what_a_shorter_one_held(before, after):
    shard, some = opened(sequence())
    pasts: dict[int, list[Item]] = {}
    earlier = timed(before)
    for batch in earlier:
        push(shard, some, batch)
        for visitor, item in batch:
            if visitor is not None:
                pasts[visitor] = added(pasts.get(visitor, []), item, LENGTH)
    longer, more = opened(sequence(LENGTH + 3), layouts=shard.parts()["layouts"])
    for block in shard.take_changes()[0]:
        longer.apply(block)
    longer.clock_ms = shard.clock_ms
    expected = [pasts.get(visitor, []) if visitor is not None else [] for visitor in VISITORS]
    assert listed(read(more, VISITORS)) == expected
    for batch in timed(after):
        push(longer, more, batch)
        for visitor, item in batch:
            if visitor is not None:
                pasts[visitor] = added(pasts.get(visitor, []), item, LENGTH + 3)
    expected = [pasts.get(visitor, []) if visitor is not None else [] for visitor in VISITORS]
    assert listed(read(more, VISITORS)) == expected


def test_reading_changes_nothing():
    shard, some = opened(sequence())
    push(shard, some, [(1, (5, BEGIN_MS, 1.0)), (None, (6, BEGIN_MS, 1.0))])
    before = dump_of(Snapshot(shard, definition=b"{}"))
    assert listed(read(some, [1, None, 2])) == [[(5, BEGIN_MS, 1.0)], [], []]
    assert dump_of(Snapshot(shard, definition=b"{}")) == before


def test_a_past_begins_with_the_sighting_that_admits_and_begins_anew_after_its_expiry():
    shard, some = opened(sequence(admit_after=2, expire_after="1s"))
    for n in range(3):
        push(shard, some, [(1, (n, BEGIN_MS + n, 1.0))])
    assert [item[0] for item in listed(read(some, [1]))[0]] == [2, 1]
    push(shard, some, [(2, (9, BEGIN_MS + 2000, 1.0))])
    assert listed(read(some, [1])) == [[]]
    for n in (7, 8):
        push(shard, some, [(1, (n, BEGIN_MS + 2000, 1.0))])
    assert [item[0] for item in listed(read(some, [1]))[0]] in ([8], [8, 7])


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (0, 9.0, "more items than it can"),
        (0, 1.5, "more items than it can"),
        (1, 0.5, "an item is none"),
        (3, float(1 << 16), "an item is none"),
        (4, float(1 << 20), "later than the row was seen"),
        (4, 0.0, "not in the order"),
        (6, np.inf, "not finite"),
    ],
)
def test_a_damaged_past_is_found(place, value, fault):
    table = sequence()
    shard, some = opened(table)
    push(shard, some, [(1, (n, BEGIN_MS + n * 20_000_000, 1.0)) for n in range(4)])
    (block,) = shard.blocks(shard.live_rows(0))
    assert list(row_faults(table, block, shard.layouts)) == []
    block.entries["values"][0, place] = value
    faults = list(row_faults(table, block, shard.layouts))
    assert any(fault in one for one in faults)
