"""Where rows lie: every id in one hash, and growth that moves rows of one hash to the new one only."""

import numpy as np
import pytest

import embedding_store.change
from embedding_store.change import batches, part_change, record_changes, unlink_changes
from embedding_store.keys import Keys
from embedding_store.layout import ROWS_PER_HASH, Size, hash_of, level_of, next_split

IDS = {
    "in a row": np.arange(20_000),
    "a stride": np.arange(20_000) * 4096,
    "random": np.random.default_rng(1).integers(-(2**63), 2**63, 20_000),
    "high bits only": np.arange(20_000) << 40,
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
@pytest.mark.parametrize("hashes", [1, 2, 3, 7, 64, 100, 255])
def test_every_id_has_one_hash_and_none_has_many_times_its_share(ids, hashes):
    places = hash_of(ids, hashes)
    assert places.min() >= 0
    assert places.max() < hashes
    assert np.bincount(places, minlength=hashes).max() < 4 * ids.size / hashes


@pytest.mark.parametrize("hashes", [1, 2, 3, 7, 8, 100])
def test_one_more_hash_takes_rows_from_one_other_and_moves_no_other_row(hashes):
    before, after = (hash_of(IDS["random"], count) for count in (hashes, hashes + 1))
    moved = before != after
    assert moved.any()
    assert set(after[moved]) == {hashes}
    assert set(before[moved]) == {hashes - level_of(hashes)}
    assert next_split(hashes, hashes + 1, 9) == range(hashes - level_of(hashes), hashes - level_of(hashes) + 1)


def test_splits_come_some_at_a_time_and_never_reach_past_a_level():
    hashes, seen = 3, []
    while hashes < 37:
        some = next_split(hashes, 37, 5)
        assert 0 < len(some) <= 5
        before, after = (hash_of(IDS["random"], count) for count in (hashes, hashes + len(some)))
        moved = before != after
        assert set(before[moved]) == set(some)
        assert set(after[moved]) == set(range(hashes, hashes + len(some)))
        hashes += len(some)
        seen.append(hashes)
    assert seen == [4, 8, 13, 16, 21, 26, 31, 32, 37]


def test_a_table_that_was_never_written_has_its_ids_in_hash_0():
    assert not hash_of(IDS["random"], 0).any()


def test_a_table_grows_with_its_rows_and_ahead_of_many_new_ones_but_never_shrinks():
    assert Size().wanted(1) == 1
    assert Size().wanted(100 * ROWS_PER_HASH) == 50
    assert Size(50, 100 * ROWS_PER_HASH).wanted(0) == 100
    assert Size(100, 100 * ROWS_PER_HASH).wanted(99 * ROWS_PER_HASH) == 100
    assert Size(100, 3).wanted(5) == 100


def test_many_names_at_once_are_the_names_of_single_hashes():
    keys = Keys("p", 3)
    places = np.array([0, 1, 255, 256, 0xABCDE, 0xFFFFFFF])
    assert keys.row_names("video", places) == [keys.rows("video", place).encode() for place in places.tolist()]
    assert keys.rows("video", 0xABCDE) == "p:{s3}:rows:video:00abcde"


def test_records_are_cut_into_commands_by_hash_and_every_one_comes_once():
    records = np.random.default_rng(2).integers(0, 256, (3000, 20), dtype=np.uint8)
    places = np.random.default_rng(3).integers(0, 40, 3000)
    changes = list(record_changes(Keys(), "t", places, records.view("V20").ravel(), 8))
    assert {change.rows for change in changes} <= set(range(1, embedding_store.change.CHUNK_ROWS + 1))
    found = []
    for change in changes:
        at = 0
        for name, count in zip(change.keys, change.counts.tolist(), strict=True):
            for _ in range(count):
                found.append((int(name[-7:], 16), change.data[at : at + 20]))
                at += 20
    assert sorted(found) == sorted(zip(places.tolist(), map(bytes, records), strict=True))


def test_commands_keep_their_order_and_their_bounds_unless_one_change_is_larger():
    large = part_change("parts", "dense", bytes(embedding_store.change.CHUNK_BYTES + 1))
    small = [part_change("parts", f"p{i}", bytes(1000)) for i in range(600)]
    many = list(unlink_changes(Keys(), "t", range(1200)))
    changes = [*small, large, *small[:2], *many]
    cut = list(batches(changes))
    assert [change for some in cut for change in some] == changes
    assert [large] in cut
    for some in cut:
        assert some == [large] or sum(len(change.data) for change in some) <= embedding_store.change.CHUNK_BYTES
        assert sum(change.rows for change in some) <= embedding_store.change.CHUNK_ROWS
