"""A shard that may hold only so many bytes, over a store in a dict."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_store.bloom import Bloom, has
from embedding_store.bounded_shard import BoundedShard
from embedding_store.departed import Departed
from embedding_store.eviction import coldest
from embedding_store.index import HashIndex
from embedding_store.lookup import Fields
from embedding_store.plan import TablePlan
from embedding_store.settings import AdmissionSettings, TableSettings, least_budget
from embedding_store.shard import Shard
from tests.shards import SEED, Cell, ids_of, occurrences, pooled, see

WIDE = TableSettings(name="wide", dim=24)
NARROW = TableSettings(name="narrow", dim=2, expire_after="10s")
TABLES = (WIDE, NARROW)
LEAST = least_budget(TABLES, AdmissionSettings())


class DictStore:
    """What a store is to a shard: commits are folded when it is told to."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, bytes]] = {table.name: {} for table in TABLES}
        self.mark = 0
        self.requests: list[dict[str, list[int]]] = []
        self.reads = 0
        self.times = 1  # that each row comes while it is walked by

    def folded(self) -> int:
        return self.mark

    def fetch(self, wanted: Any) -> dict[str, list[bytes | None]]:
        self.requests.append({table: ids.tolist() for table, ids in wanted.items()})
        return {table: [self.rows[table].get(key) for key in ids.tolist()] for table, ids in wanted.items()}

    def read(self, table: str, first: int) -> Any:
        self.reads += 1
        rows = self.rows[table]
        if first:
            return [], None
        fields = [key.to_bytes(8, "little") for key in rows]
        return [(None, self.times * fields, self.times * list(rows.values()))], 1

    def commit(self, shard: Shard) -> int:
        """Takes a commit in and folds it; gives its number."""
        seq = shard.seq
        blocks, gone = shard.take_changes()
        for table, ids in gone.items():
            for key in ids.tolist():
                self.rows[table].pop(key, None)
        for block in blocks:
            for key, row, cold in zip(block.entries["id"].tolist(), block.rows(), block.cold, strict=True):
                if not cold:
                    self.rows[block.table][key] = row
        self.mark = seq
        return seq


@pytest.fixture
def store() -> DictStore:
    return DictStore()


@pytest.fixture
def shard(store: DictStore) -> BoundedShard:
    return BoundedShard(store, LEAST, TABLES, SEED)


def away(shard: BoundedShard) -> list[int]:
    return shard.away.tolist()


def let_all_go(shard: BoundedShard, store: DictStore) -> None:
    store.commit(shard)
    shard.depart(shard.evictable(store.mark))


def fields(*tables: int) -> Fields:
    count = len(tables)
    return Fields(np.array(tables), np.ones(count, dtype=np.bool_), np.ones(count, dtype=np.bool_))


def test_the_coldest_leave_and_the_budget_holds(shard, store):
    """Ids 0, 1, 2, … once each, ten at a time; every fifth batch sees id 7 again."""
    plain, most = Shard(TABLES, SEED), 0
    for batch in range(1500):
        first = 10 * batch
        examples: list[list[Cell]] = [[key, key] for key in range(first, first + 10)]
        examples += [[7, 7]] if batch % 5 == 0 else []
        scored = see(shard, examples, 0.1, 1000 + batch)
        assert (scored == see(plain, examples, 0.1, 1000 + batch)).all()
        assert shard.keep() or batch % 4
        most = max(most, shard.bytes_in_use)
        if batch % 4 == 3:
            store.commit(shard)
            assert shard.keep()
            assert shard.bytes_in_use <= LEAST
    assert most <= LEAST + 44 * 400
    assert shard.nbytes <= LEAST + 44 * 400
    assert shard.counts.tolist() == plain.counts.tolist() == [15000, 15000]
    assert 5000 < away(shard)[0] < 15000
    here = ids_of(shard, 0)
    assert 7 in here
    kept = set(here.tolist()) - {7}
    oldest = min(kept) // 10  # of whose batch some may have left
    assert kept >= set(range(10 * (oldest + 1), 15000))
    assert len(kept) < 15000 - 10 * oldest + 1
    assert (pooled(shard, [[key, key] for key in range(15000)]) == pooled(plain, [[k, k] for k in range(15000)])).all()


def test_nothing_leaves_before_it_is_folded(shard, store):
    see(shard, [[key, key] for key in range(20_000)])
    assert not shard.keep()
    shard.take_changes()
    assert not shard.keep()
    assert away(shard) == [0, 0]
    store.mark = 1
    assert shard.keep()
    assert away(shard)[0] > 5000


def test_memory_of_one_width_serves_another(shard, store):
    """First the wide table fills the memory, then the narrow one; free strips would be of no use to it."""
    plain, most = Shard(TABLES, SEED), 0
    for batch in range(600):
        examples: list[list[Cell]] = [[100 * batch + i] for i in range(100)]
        for one in (shard, plain):
            see(one, examples, 0.1, 1000 + batch, tables=[0 if batch < 150 else 1])
        store.commit(shard)
        assert shard.keep()
        most = max(most, shard.nbytes)
    assert most <= LEAST + 100 * 250
    assert away(shard)[0] > 14_000
    every: list[list[Cell]] = [[key] for key in range(60_000)]
    for table in (0, 1):
        assert (pooled(shard, every, tables=[table]) == pooled(plain, every, tables=[table])).all()


def test_without_rows_away_the_store_is_never_asked(shard, store):
    for batch in range(5):
        see(shard, [[key, key] for key in range(10 * batch, 10 * batch + 10)])
        shard.sweep(1000)
        store.commit(shard)
    assert store.requests == []
    assert store.reads == 0


def test_all_fields_of_a_batch_come_back_by_one_request(shard, store):
    see(shard, [[key, key] for key in range(100)])
    let_all_go(shard, store)
    see(shard, [[[5, 6], 7], [5, None], [6, 8]])
    assert store.requests == [{"wide": [5, 6], "narrow": [7, 8]}]
    assert away(shard) == [98, 98]
    assert shard.returned.tolist() == [2, 2]


def test_several_lookups_that_are_announced_need_one_request(shard, store):
    see(shard, [[key, key] for key in range(100)])
    let_all_go(shard, store)
    lookups = [(occurrences([[5]]), fields(0)), (occurrences([[6], [5]]), fields(1)), (occurrences([[7]]), fields(0))]
    shard.warm(lambda: lookups)
    for batch, some in lookups:
        assert (shard.lookup(batch, some) >= len(TABLES)).all()
    assert store.requests == [{"wide": [5, 7], "narrow": [5, 6]}]


def test_ids_that_never_were_are_hardly_ever_asked_for(shard, store):
    see(shard, [[key, key] for key in range(10_000)])
    let_all_go(shard, store)
    pooled(shard, [[key, key] for key in range(1_000_000, 1_010_000)])
    assert sum(len(ids) for request in store.requests for ids in request.values()) < 100
    assert away(shard) == [10_000, 10_000]


def test_a_row_that_is_gone_stays_gone_while_the_store_still_shows_it(shard, store):
    """Id 3 left once, so the filter knows it; it came back and expired, but that is not folded yet."""
    see(shard, [[3, 3]], 0.5, 1000)
    let_all_go(shard, store)
    see(shard, [[3, 3]], 0.5, 2000)
    store.commit(shard)
    see(shard, [[4, 4]], 0.5, 30_000)
    shard.sweep(100)
    shard.take_changes()
    asked = len(store.requests)
    cold = pooled(shard, [[None, None]])[0, 1]
    assert (pooled(shard, [[None, 3]])[0, 1] == cold).all()
    for _ in range(10):
        shard.walk()
    assert (pooled(shard, [[None, 3]])[0, 1] == cold).all()
    assert len(store.requests) == asked
    assert shard.counts.tolist() == [2, 1]


def test_an_id_that_is_gone_twice_is_gone_until_the_second_time_is_folded():
    departed, here, ids = Departed(1, 1 << 16), HashIndex(1), np.array([3, 4])
    departed.add(0, ids)
    departed.bury(0, ids, 5)
    departed.bury(0, ids[:1], 7)
    asked = []
    for folded in (4, 5, 6, 7):
        departed.pass_mark(folded)
        asked.append([some.tolist() for _, some in departed.among(here, np.zeros(2, dtype=np.int64), ids)])
    assert asked == [[], [[4]], [[4]], [[3, 4]]]


@pytest.mark.parametrize("times", [1, 2])
def test_the_walk_finds_what_expired_while_it_was_away(shard, store, times):
    store.times = times
    see(shard, [[key, key] for key in range(50)], 0.1, 1000)
    let_all_go(shard, store)
    see(shard, [[100, 100]], 0.1, 20_000)
    assert shard.counts.tolist() == [51, 51]
    for _ in range(10):
        shard.walk()
    assert shard.counts.tolist() == [51, 1]
    assert shard.expired.tolist() == [0, 50]
    store.commit(shard)
    assert sorted(store.rows["narrow"]) == [100]
    assert store.requests == []


def test_the_filter_forgets_ids_that_came_back_and_expired(shard, store):
    see(shard, [[None, key] for key in range(50)], 0.1, 1000)
    let_all_go(shard, store)
    see(shard, [[None, 100]], 0.1, 20_000)
    for _ in range(10):
        shard.walk()
    store.commit(shard)
    see(shard, [[200, None]])
    let_all_go(shard, store)
    for _ in range(10):
        shard.walk()
    pooled(shard, [[None, key] for key in range(50)])
    assert store.requests == []


@pytest.mark.parametrize("steps", range(8))
def test_a_row_that_leaves_behind_the_walk_is_known_when_the_round_ends(shard, store, steps):
    plain = Shard(TABLES, SEED)
    for one in (shard, plain):
        see(one, [[key, key] for key in range(50)], 0.5)
    for _ in range(steps):
        shard.walk()
    let_all_go(shard, store)
    for _ in range(4):
        every: list[list[Cell]] = [[key, key] for key in range(50)]
        assert (pooled(shard, every) == pooled(plain, every)).all()
        let_all_go(shard, store)
        shard.walk()


@pytest.mark.parametrize("carried_out", [False, True])
def test_what_a_plan_drops_of_a_row_that_is_away_stays_dropped(shard, store, carried_out):
    plain = Shard(TABLES, SEED)
    narrow, other = TablePlan((), ((0, 1),)), TablePlan((), ((1, 2, 3),))
    for one in (shard, plain):
        see(one, [[key, None] for key in range(50)], 0.5, 1000)
    let_all_go(shard, store)
    made_room = []
    for plan in (narrow, other, None):
        for one in (shard, plain):
            one.set_plan("wide", plan)
        if carried_out:
            shard.carry_out(lambda: made_room.append(1))
            assert away(shard)[0] == 0
            let_all_go(shard, store)
    every: list[list[Cell]] = [[key, None] for key in range(50)]
    assert (pooled(shard, every) == pooled(plain, every)).all()
    assert made_room == []


def test_carrying_a_plan_out_makes_room_where_the_budget_is_short(shard, store):
    for batch in range(40):
        see(shard, [[500 * batch + i, None] for i in range(500)], 0.1, 1000 + batch)
        store.commit(shard)
        assert shard.keep()
    assert away(shard)[0] > 5000
    shard.set_plan("wide", TablePlan((), (tuple(range(23)),)))
    most = 0

    def make_room() -> None:
        nonlocal most
        most = max(most, shard.bytes_in_use)
        store.commit(shard)
        assert shard.keep()

    shard.carry_out(make_room)
    assert 0 < most <= LEAST + 20_000 * 8 * 26  # the dict gives a whole table at one step of the walk
    assert shard.keep()


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=60),
    st.integers(-1, 70),
)
def test_the_coldest_are_the_smallest_pairs(pairs, count):
    first = np.array([a for a, _ in pairs], dtype=np.int64)
    second = np.array([b for _, b in pairs], dtype=np.int64)
    chosen = coldest(first, second, count)
    assert np.unique(chosen).size == chosen.size == max(0, min(count, len(pairs)))
    assert sorted(pairs[i] for i in chosen) == sorted(pairs)[: max(0, count)]


def test_a_filter_misses_none_and_passes_one_stranger_in_fifty_at_ten_bits():
    bloom = Bloom(10 * 50_000 // 8)
    bloom.add(3, np.arange(50_000))
    assert all(has(bloom.words, 3, key) for key in range(50_000))
    assert sum(has(bloom.words, 3, key) for key in range(50_000, 100_000)) < 1000
    assert sum(has(bloom.words, 2, key) for key in range(50_000)) < 1000
    bloom.clear()
    assert not any(has(bloom.words, 3, key) for key in range(1000))
