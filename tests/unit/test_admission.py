"""Which ids get a row, and after how many sightings."""

import collections

import numpy as np
import pytest

from embedding_store.admission import SPLITS, SlidingFilter, sight
from embedding_store.settings import AdmissionSettings, TableSettings
from embedding_store.shard import Shard
from tests.shards import SEED, pooled, see

SEED64 = np.uint64(99)
THIRD = TableSettings(name="t", dim=2, admit_after=3)


def test_an_id_gets_its_row_at_the_sighting_that_completes_the_number():
    shard = Shard([THIRD], SEED)
    for wanted in (0, 0, 1, 1):
        see(shard, [[5]], gradients=0.4)
        assert shard.counts.tolist() == [wanted]
    assert shard.filtered.tolist() == [2]
    assert shard.admitted.tolist() == [1]


def test_sightings_in_one_batch_count_one_by_one():
    shard = Shard([THIRD], SEED)
    see(shard, [[5], [5], [6], [5], [5]])
    assert shard.counts.tolist() == [1]
    assert shard.filtered.tolist() == [3]
    headers = shard.rows.headers[shard.index.lookup(0, np.array([5]))]
    assert headers["count"].tolist() == [2]


def test_until_then_the_cold_row_scores_and_learns():
    shard = Shard([THIRD], SEED)
    see(shard, [[5]], gradients=0.4)
    cold = pooled(shard, [[None]])[0, 0]
    assert cold.any()
    assert (pooled(shard, [[5]])[0, 0] == cold).all()


def test_ids_of_two_tables_count_apart():
    shard = Shard([THIRD, THIRD.model_copy(update={"name": "u"})], SEED)
    for _ in range(2):
        see(shard, [[5, 5]])
    see(shard, [[5, None]])
    assert shard.counts.tolist() == [1, 0]


def test_sightings_age_out_with_the_window():
    admission = AdmissionSettings(memory="64KiB", window="7s")  # type: ignore[arg-type]
    shard = Shard([THIRD], SEED, admission=admission)
    for second in (0, 4, 8, 12, 16):
        see(shard, [[5]], times_ms=second * 1000)
    assert shard.counts.tolist() == [0]
    see(shard, [[5], [5]], times_ms=17_000)
    assert shard.counts.tolist() == [1]


def test_a_filter_rebuilt_from_its_pages_counts_on_the_same():
    rng = np.random.default_rng(2)
    one, other = SlidingFilter(1 << 16, 7000), SlidingFilter(1 << 16, 7000)
    counts: list[list[int]] = [[], []]
    for turn in range(30):
        one.advance(turn * 700)
        other.advance(turn * 700)
        for key in rng.zipf(1.3, size=300) % 5000:
            counts[0].append(sight(one.arrays, SEED64, int(key)))
            counts[1].append(sight(other.arrays, SEED64, int(key)))
        block, gone = one.take_changes()
        fresh = SlidingFilter(1 << 16, 7000)
        fresh.apply(one.all_pages())
        assert fresh.load_state(one.state_json())
        other.remove(gone)
        other.apply(block)
        assert (other.all_pages().entries == one.all_pages().entries).all()
        other = fresh
    assert counts[0] == counts[1]


def test_with_room_for_all_ids_almost_none_is_early_and_none_is_late():
    rng = np.random.default_rng(3)
    window = SlidingFilter(16 << 20, 7000)
    window.advance(1)
    exact: collections.Counter[int] = collections.Counter()
    early = late = 0
    for key in (rng.zipf(1.1, size=100_000) % 50_000).tolist():
        exact[key] += 1
        found = sight(window.arrays, SEED64, key)
        early += found > exact[key]
        late += found < min(exact[key], 255)
    assert early <= 5
    assert late == 0


def test_a_filter_that_is_too_small_never_grows_and_still_answers():
    window = SlidingFilter(1, 7000)
    before = window.nbytes
    for key in range(100_000):
        assert sight(window.arrays, SEED64, key) >= 1
    assert window.nbytes == before == SPLITS * 4096
    assert window.pushed_out > 0


@pytest.mark.parametrize("after", [2, 5, 20])
def test_the_memoryless_rule_admits_95_percent_within_its_number_of_sightings(after: int):
    table = TableSettings(name="t", dim=1, admission="probability", admit_after=after)
    shard = Shard([table], SEED)
    ids = np.arange(4000)
    for turn in range(after):
        see(shard, [[int(key)] for key in ids], first_origin=turn * 10_000)
    assert shard.counts[0] / 4000 == pytest.approx(0.95, abs=0.012)


def test_the_draw_depends_on_id_and_origin_alone():
    table = TableSettings(name="t", dim=1, admission="probability", admit_after=3)
    whole, parts = Shard([table], SEED), Shard([table], SEED)
    see(whole, [[key] for key in range(200)])
    for key in range(200):
        see(parts, [[key]], first_origin=key)
    found = [shard.index.lookup(0, np.arange(200)) >= 0 for shard in (whole, parts)]
    assert (found[0] == found[1]).all()
    assert 0 < found[0].sum() < 200
