"""The hash index: growth, re-use of rows, and no two ids in one row."""

import numpy as np
import pytest

from embedding_store.index import HashIndex
from embedding_store.table import MAX_TABLES, SEGMENT_SLOTS
from tests.hashing import ids_with_hash


def test_more_than_a_million_ids_never_share_a_row():
    rng = np.random.default_rng(1)
    index = HashIndex(2, first_row=2)
    ids = rng.integers(-(2**63), 2**63 - 1, 1_100_000, dtype=np.int64)
    rows = index.lookup_or_insert(0, ids)
    assert len(index) == np.unique(ids).size == np.unique(rows).size
    assert rows.min() == 2
    assert rows.max() == index.rows_end - 1
    assert np.array_equal(index.lookup(0, ids), rows)
    assert (index.lookup(1, ids) == -1).all()


def test_consecutive_ids_keep_their_rows_through_many_splits():
    index = HashIndex(1)
    first = index.lookup_or_insert(0, np.arange(100, dtype=np.int64))
    index.lookup_or_insert(0, np.arange(60_000, dtype=np.int64))
    assert index.nbytes > 14 * SEGMENT_SLOTS * 16
    assert np.array_equal(index.lookup(0, np.arange(100, dtype=np.int64)), first)


def test_one_id_in_two_tables_has_two_rows():
    index = HashIndex(2)
    ids = np.array([5, -5], dtype=np.int64)
    rows = np.concatenate([index.lookup_or_insert(0, ids), index.lookup_or_insert(1, ids)])
    assert np.unique(rows).size == 4


def test_repeats_within_one_call_have_one_row():
    index = HashIndex(1)
    rows = index.lookup_or_insert(0, np.array([9, 9, 4, 9], dtype=np.int64))
    assert rows.tolist() == [0, 0, 1, 0]


def test_rows_of_removed_ids_are_handed_out_again():
    index = HashIndex(1)
    ids = np.arange(5000, dtype=np.int64)
    rows = index.lookup_or_insert(0, ids)
    removed = index.remove(0, ids[::2])
    assert np.array_equal(removed, rows[::2])
    assert (index.lookup(0, ids[::2]) == -1).all()
    assert np.array_equal(index.lookup(0, ids[1::2]), rows[1::2])
    again = index.lookup_or_insert(0, ids[::2] + 1_000_000)
    assert sorted(again.tolist()) == sorted(removed.tolist())
    assert index.rows_end == 5000


def test_removing_an_absent_id_changes_nothing():
    index = HashIndex(2)
    index.lookup_or_insert(0, np.array([1], dtype=np.int64))
    assert index.remove(0, np.array([2], dtype=np.int64)).tolist() == [-1]
    assert index.remove(1, np.array([1], dtype=np.int64)).tolist() == [-1]
    assert len(index) == 1


def test_an_id_named_twice_in_one_removal_frees_one_row():
    index = HashIndex(1)
    index.lookup_or_insert(0, np.array([1, 2], dtype=np.int64))
    assert index.remove(0, np.array([1, 1], dtype=np.int64)).tolist() == [0, -1]
    assert index.lookup_or_insert(0, np.array([3, 4], dtype=np.int64)).tolist() == [0, 2]


def test_ids_that_share_the_top_bits_of_their_hash_split_until_they_part():
    index = HashIndex(1)
    ids = ids_with_hash(index, 0, [(0b1010110101 << 54) | (i << 41) | i for i in range(5000)])
    rows = index.lookup_or_insert(0, ids)
    assert np.unique(rows).size == 5000
    assert np.array_equal(index.lookup(0, ids), rows)


def test_ids_that_share_a_slot_form_one_chain_that_survives_removals():
    index = HashIndex(1)
    last = SEGMENT_SLOTS - 1
    ids = ids_with_hash(index, 0, [(i << 54) | last for i in range(600)])
    rows = index.lookup_or_insert(0, ids)
    rng = np.random.default_rng(2)
    gone = rng.permutation(600)[:300]
    index.remove(0, ids[gone])
    expected = rows.copy()
    expected[gone] = -1
    assert np.array_equal(index.lookup(0, ids), expected)


@pytest.mark.parametrize("count", [0, MAX_TABLES + 1])
def test_a_number_of_tables_out_of_range_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} tables"):
        HashIndex(count)
