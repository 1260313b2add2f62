"""The hash index against a Python dict, under random commands."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embedding_store.index import HashIndex
from tests.hashing import ids_with_hash, unmixed

TABLES = 3
TABLE = st.integers(0, TABLES - 1)
# places in a pool of 4,000 ids a table: some ordinary, some in one segment, some in one slot
PLACES = st.lists(st.integers(0, 3999), min_size=1, max_size=60)
RANGES = st.tuples(st.integers(0, 3), st.integers(1, 1000))


class IndexMachine(RuleBasedStateMachine):
    @initialize(first_row=st.integers(0, 5))
    def begin(self, first_row: int) -> None:
        self.index = HashIndex(TABLES, first_row)
        self.model: dict[tuple[int, int], int] = {}
        self.first_row = first_row
        self.ever = 0
        self.pools = [self.pool(table) for table in range(TABLES)]

    def pool(self, table: int) -> Any:
        limits = np.iinfo(np.int64)
        ordinary = np.concatenate([np.arange(500), limits.min + np.arange(500), limits.max - np.arange(500)])
        crowded = ids_with_hash(self.index, table, [(0x2B7 << 54) | (i << 43) | i * i for i in range(1500)])
        chained = ids_with_hash(self.index, table, [(i << 54) | 4095 - (i & 1) for i in range(1000)])
        return np.concatenate([ordinary, crowded, chained]).astype(np.int64)

    def insert(self, table: int, ids: Any) -> None:
        rows = self.index.lookup_or_insert(table, ids).tolist()
        for key, row in zip(ids.tolist(), rows, strict=True):
            assert row >= self.first_row
            assert self.model.setdefault((table, key), row) == row

    @rule(table=TABLE, places=PLACES)
    def inserts(self, table: int, places: list[int]) -> None:
        self.insert(table, self.pools[table][places])

    @rule(table=TABLE, part=RANGES)
    def inserts_many(self, table: int, part: tuple[int, int]) -> None:
        first, count = part
        self.insert(table, self.pools[table][1000 * first : 1000 * first + count])

    @rule(table=TABLE, places=PLACES)
    def removes(self, table: int, places: list[int]) -> None:
        ids = self.pools[table][places]
        assert self.index.remove(table, ids).tolist() == [self.model.pop((table, key), -1) for key in ids.tolist()]

    @rule(table=TABLE, part=RANGES, step=st.integers(1, 3))
    def removes_many(self, table: int, part: tuple[int, int], step: int) -> None:
        first, count = part
        ids = self.pools[table][1000 * first : 1000 * first + count : step]
        assert self.index.remove(table, ids).tolist() == [self.model.pop((table, key), -1) for key in ids.tolist()]

    @rule(table=TABLE, places=PLACES)
    def looks_up(self, table: int, places: list[int]) -> None:
        ids = self.pools[table][places]
        assert self.index.lookup(table, ids).tolist() == [self.model.get((table, key), -1) for key in ids.tolist()]

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        if not hasattr(self, "model"):
            return
        assert len(self.index) == len(self.model)
        assert len(set(self.model.values())) == len(self.model)
        self.ever = max(self.ever, len(self.model))
        assert self.index.rows_end == self.first_row + self.ever

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        for table in range(TABLES):
            ids = self.pools[table]
            expected = [self.model.get((table, key), -1) for key in ids.tolist()]
            assert self.index.lookup(table, ids).tolist() == expected


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_the_crafted_hashes_are_right() -> None:
    index = HashIndex(1)
    seen = {unmixed(h) for h in range(1000)}
    assert len(seen) == 1000
    h = 0x0123456789ABCDEF
    x = unmixed(h)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = (x ^ (x >> shift)) * factor % 2**64
    assert x == h
    assert ids_with_hash(index, 0, [h]).dtype == np.int64
