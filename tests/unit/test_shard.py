"""A shard in memory: what scores, what learns, what is counted, what expires, what a commit takes."""

import numpy as np
import pytest

from embedding_store.codec import COLD
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import NARROW, SEED, TABLES, WIDE, entries_of, pooled, see

ROOT_TABLE = TableSettings(name="only", dim=3, learning_rate=0.5, linear_learning_rate=0.5, initial_accumulator=1.0)


def initial(table: TableSettings, key: int, seed: int = SEED) -> np.ndarray:
    """The values that a new row starts from."""
    shard = Shard([table], seed)
    see(shard, [[key]])
    return pooled(shard, [[key]])[0, 0]


def adagrad_step(values: np.ndarray, gradient: np.ndarray, rate: float = 0.5, start: float = 1.0) -> np.ndarray:
    """One step from fresh accumulators, in plain NumPy."""
    g = np.asarray(gradient, dtype=np.float64)
    new = values.astype(np.float64)
    new[0] -= rate * g[0] / np.sqrt(start + g[0] ** 2)
    new[1:] -= rate * g[1:] / np.sqrt(start + (g[1:] ** 2).mean())
    return new


# What scores


def test_unseen_ids_and_missing_values_score_as_the_cold_row():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[None]], gradients=1.0)
    cold = pooled(shard, [[None]])[0, 0]
    assert cold.any()
    assert (pooled(shard, [[123], [-9], [None]])[:, 0] == cold).all()


def test_scoring_changes_nothing():
    shard = Shard(TABLES, SEED)
    see(shard, [[1, 2]], gradients=0.3)
    shard.take_changes()
    before = pooled(shard, [[1, 2], [3, 4]])
    assert (pooled(shard, [[1, 2], [3, 4]]) == before).all()
    assert shard.counts.tolist() == [1, 1]
    assert shard.take_changes() == ([], {})


def test_the_cold_row_starts_at_zero():
    assert not pooled(Shard(TABLES, SEED), [[1, None]]).any()


def test_ids_of_a_field_are_averaged_or_summed():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[1], [2], [None]], gradients=np.arange(12).reshape(3, 1, 4))
    one, two, cold = pooled(shard, [[1], [2], [77]])[:, 0].astype(np.float64)
    several = [[[1, 2, 77]]]
    np.testing.assert_allclose(pooled(shard, several)[0, 0], (one + two + cold) / 3, rtol=1e-6)
    np.testing.assert_allclose(pooled(shard, several, mean=False)[0, 0], one + two + cold, rtol=1e-6)


def test_a_table_narrower_than_the_widest_keeps_its_tail_at_zero():
    shard = Shard(TABLES, SEED)
    see(shard, [[1, 2], [3, None]], gradients=1.5)
    see(shard, [[1, 2], [3, None]], gradients=-0.5)
    narrow = pooled(shard, [[1, 2], [3, None]])[:, 1]
    assert narrow[:, : 1 + NARROW.dim].all()
    assert not narrow[:, 1 + NARROW.dim :].any()


def test_the_tail_stays_zero_in_a_row_that_a_wider_table_had():
    shard = Shard(TABLES, SEED)
    see(shard, [[key, None] for key in range(50)], gradients=1.0)
    shard.remove(0, np.arange(50, dtype=np.int64))
    see(shard, [[None, key] for key in range(50)])
    assert not pooled(shard, [[None, key] for key in range(50)])[:, 1, 1 + NARROW.dim :].any()


# What learns


def test_the_sighting_that_admits_is_scored_by_the_cold_row_and_moves_both():
    shard = Shard([ROOT_TABLE], SEED)
    gradient = np.array([0.5, -1.0, 2.0, 0.25])
    see(shard, [[None]], gradients=np.array([1.0, 1.0, 1.0, 1.0]))
    cold = pooled(shard, [[None]])[0, 0].astype(np.float64)
    scored = see(shard, [[42]], gradients=gradient)
    assert (scored[0, 0] == cold.astype(np.float32)).all()
    np.testing.assert_allclose(
        pooled(shard, [[42]])[0, 0], adagrad_step(initial(ROOT_TABLE, 42), gradient), rtol=1e-5, atol=1e-7
    )
    # the cold row: accumulators 1 + 1 after its first step
    np.testing.assert_allclose(
        pooled(shard, [[None]])[0, 0], adagrad_step(cold, gradient, start=2.0), rtol=1e-5, atol=1e-7
    )


def test_a_known_id_does_not_move_the_cold_row():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[42]], gradients=1.0)
    cold = pooled(shard, [[None]])
    see(shard, [[42]], gradients=1.0)
    assert (pooled(shard, [[None]]) == cold).all()


def test_a_missing_value_moves_only_the_cold_row():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[None]], gradients=2.0)
    assert shard.counts.tolist() == [0]
    np.testing.assert_allclose(pooled(shard, [[None]])[0, 0], adagrad_step(np.zeros(4), np.full(4, 2.0)), rtol=1e-6)


def test_duplicates_in_a_batch_take_one_step_with_their_sum():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[7]])
    see(shard, [[7], [7], [7]], gradients=np.array([[1.0, 2, 3, 4], [0.5, 0, 0, 1], [-1, 1, -2, 0]]).reshape(3, 1, 4))
    np.testing.assert_allclose(
        pooled(shard, [[7]])[0, 0], adagrad_step(initial(ROOT_TABLE, 7), np.array([0.5, 3, 1, 5])), rtol=1e-5, atol=1e-7
    )


def test_two_fields_of_one_table_share_rows():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[5, 5]], tables=[0, 0], gradients=np.array([[[1.0, 0, 0, 0], [2.0, 0, 0, 0]]]))
    expected = adagrad_step(initial(ROOT_TABLE, 5), np.array([3.0, 0, 0, 0]))
    assert pooled(shard, [[5]])[0, 0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert shard.counts.tolist() == [1]
    assert entries_of(shard, shard.live_rows(0))["count"].tolist() == [2]


# Initial values


def test_initial_values_do_not_depend_on_order_company_or_other_tables():
    ids = [3, -8, 2**60, 11]
    one = Shard([WIDE], SEED)
    see(one, [[key] for key in ids])
    other = Shard([NARROW, WIDE], SEED)
    for key in reversed(ids):
        see(other, [[key + 1, key]], times_ms=2000)
    expected = pooled(one, [[key] for key in ids])[:, 0]
    assert (pooled(other, [[None, key] for key in ids])[:, 1] == expected).all()
    assert np.unique(expected[:, 1]).size == 4


def test_initial_values_depend_on_seed_table_and_id():
    twin = WIDE.model_copy(update={"name": "twin"})
    assert (initial(WIDE, 5) != initial(WIDE, 6))[1:].all()
    assert (initial(WIDE, 5) != initial(WIDE, 5, seed=SEED + 1))[1:].all()
    assert (initial(WIDE, 5) != initial(twin, 5))[1:].all()
    assert (initial(WIDE, 5) == initial(WIDE, 5)).all()


def test_initial_vectors_are_normal_with_the_tables_deviation_and_linear_weights_zero():
    table = TableSettings(name="t", dim=5, init_std=0.2)
    shard = Shard([table], SEED)
    see(shard, [[key] for key in range(20_000)])
    values = pooled(shard, [[key] for key in range(20_000)])[:, 0].astype(np.float64)
    assert not values[:, 0].any()
    vectors = values[:, 1:]
    assert np.abs(vectors.mean(0)).max() < 0.01
    assert np.abs(vectors.std(0) - 0.2).max() < 0.005
    assert np.abs(np.corrcoef(vectors.T) - np.eye(5)).max() < 0.03
    assert abs((np.abs(vectors) > 0.4).mean() - 0.0455) < 0.004


# Counts


def test_the_counts_add_up_to_the_pairs_of_example_and_field():
    rng = np.random.default_rng(4)
    shard = Shard([NARROW, ROOT_TABLE], SEED)
    pairs = 0
    for _ in range(20):
        ids = rng.integers(0, 400, (64, 3)).tolist()
        examples = [[None if cell % 7 == 0 else cell for cell in row] for row in ids]
        see(shard, examples, tables=[0, 1, 1])
        pairs += 64 * 3
    counts = [entries_of(shard, np.append(shard.live_rows(t), t))["count"].sum() for t in range(2)]
    assert sum(counts) == pairs


def test_the_cold_row_counts_missing_values_only():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[1], [None], [2], [None], [1]])
    cold = entries_of(shard, np.array([0]))
    assert cold["count"].tolist() == [2]
    entries = entries_of(shard, shard.live_rows(0))
    assert dict(zip(entries["id"].tolist(), entries["count"].tolist(), strict=True)) == {1: 2, 2: 1}


def test_last_seen_is_the_highest_event_time_in_any_order():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[1], [1], [2]], times_ms=[50, 80, 60])
    see(shard, [[1]], times_ms=70)
    entries = entries_of(shard, shard.live_rows(0))
    assert dict(zip(entries["id"].tolist(), entries["last_seen"].tolist(), strict=True)) == {1: 80, 2: 60}
    assert shard.clock_ms == 80


# Expiry


def test_an_expired_row_is_absent_before_it_is_swept():
    shard = Shard([WIDE, NARROW], SEED)
    see(shard, [[1, 1]], gradients=1.0, times_ms=1000)
    see(shard, [[2, 2]], gradients=1.0, times_ms=2000)
    row = pooled(shard, [[1, 1]])
    assert shard.live_rows(0).size == 2
    see(shard, [[2, 2]], times_ms=2001)
    now = pooled(shard, [[1, 1], [None, None]])
    assert (now[0, 0] == now[1, 0]).all()
    assert (now[0, 1] == row[0, 1]).all()
    assert entries_of(shard, shard.live_rows(0))["id"].tolist() == [2]
    assert shard.counts.tolist() == [2, 2]


def test_expiry_needs_more_than_the_whole_span_of_event_time():
    shard = Shard([WIDE], SEED)
    see(shard, [[1]], gradients=1.0, times_ms=5000)
    see(shard, [[2]], times_ms=6000)
    assert (pooled(shard, [[1]]) != pooled(shard, [[None]])).any()
    see(shard, [[2]], times_ms=6001)
    assert (pooled(shard, [[1]]) == pooled(shard, [[None]])).all()


@pytest.mark.parametrize("swept", [False, True])
def test_an_expired_id_comes_back_afresh_whether_swept_or_not(swept):
    shard = Shard([WIDE], SEED)
    see(shard, [[1]], gradients=1.0, times_ms=1000)
    see(shard, [[2]], times_ms=9000)
    shard.take_changes()
    if swept:
        shard.sweep(100)
    see(shard, [[1], [1]], times_ms=9001)
    assert (pooled(shard, [[1]])[0, 0] == initial(WIDE, 1)).all()
    entry = entries_of(shard, shard.live_rows(0))[:1]
    assert (entry["id"].tolist(), entry["count"].tolist(), entry["last_seen"].tolist()) == ([1], [2], [9001])
    assert entry["state"].tolist() == [[np.float32(WIDE.initial_accumulator)] * 2]
    assert (shard.admitted.tolist(), shard.expired.tolist()) == ([3], [1])


def test_the_clock_of_expiry_is_event_time_and_never_goes_back():
    shard = Shard([WIDE], SEED)
    see(shard, [[1]], gradients=1.0, times_ms=10_000)
    see(shard, [[1]], times_ms=100)
    assert shard.clock_ms == 10_000
    assert (pooled(shard, [[1]]) != pooled(shard, [[None]])).any()


def test_sweeping_little_by_little_reaches_every_expired_row():
    shard = Shard([WIDE, NARROW], SEED)
    see(shard, [[key, key] for key in range(300)], times_ms=1000)
    see(shard, [[1000, 1000]], times_ms=5000)
    for _ in range(160):
        shard.sweep(4)
    assert shard.counts.tolist() == [1, 301]
    _, gone = shard.take_changes()
    assert {name: sorted(ids.tolist()) for name, ids in gone.items()} == {"wide": list(range(300))}
    see(shard, [[key, None] for key in range(300)], times_ms=5000)
    assert shard.index.rows_end <= 2 + 602


def test_rows_that_keep_coming_do_not_hold_the_sweep_at_the_end():
    shard = Shard([WIDE], SEED)
    for key in range(200):
        see(shard, [[key]], times_ms=1000)
        shard.sweep(4)
    for key in range(200, 400):
        see(shard, [[key]], times_ms=9000)
        shard.sweep(4)
    assert shard.counts.tolist() == [200]


# What a commit takes


def test_changes_give_each_changed_row_once_and_nothing_twice():
    shard = Shard([ROOT_TABLE], SEED)
    for _ in range(3):
        see(shard, [[1], [2], [1], [None]])
    blocks, gone = shard.take_changes()
    assert not gone
    assert [block.table for block in blocks] == ["only"]
    entries = blocks[0].entries
    assert sorted(zip(entries["flags"].tolist(), entries["id"].tolist(), strict=True)) == [(0, 1), (0, 2), (COLD, 0)]
    assert (entries["seq"] == 1).all()
    assert shard.take_changes() == ([], {})
    see(shard, [[2]])
    (block,), _ = shard.take_changes()
    assert (block.entries["id"].tolist(), block.entries["seq"].tolist()) == ([2], [3])


def test_a_swept_row_is_gone_and_not_changed():
    shard = Shard([WIDE], SEED)
    see(shard, [[1]], times_ms=1000)
    see(shard, [[2]], times_ms=9000)
    shard.sweep(10)
    blocks, gone = shard.take_changes()
    assert [(int(e["flags"]), int(e["id"])) for b in blocks for e in b.entries] == [(COLD, 0), (0, 2)]
    assert gone["wide"].tolist() == [1]


def test_an_id_that_went_and_came_back_is_both_gone_and_changed():
    shard = Shard([WIDE], SEED)
    see(shard, [[1]], times_ms=1000)
    see(shard, [[2]], times_ms=9000)
    shard.sweep(10)
    see(shard, [[1]], times_ms=9000)
    blocks, gone = shard.take_changes()
    assert gone["wide"].tolist() == [1]
    assert sorted(blocks[0].entries["id"].tolist()) == [0, 1, 2]


def test_changes_of_many_batches_survive_growth():
    shard = Shard([ROOT_TABLE], SEED)
    for first in range(0, 200_000, 20_000):
        see(shard, [[key] for key in range(first, first + 20_000)])
    blocks, _ = shard.take_changes()
    assert np.array_equal(np.sort(blocks[0].entries["id"][blocks[0].entries["flags"] == 0]), np.arange(200_000))


# What a commit brings


@pytest.mark.parametrize("learning", [True, False])
def test_a_shard_that_is_told_of_every_change_scores_the_same(learning):
    rng = np.random.default_rng(5)
    shard, other = Shard(TABLES, SEED), Shard(TABLES, SEED, learning)
    for round_ in range(12):
        ids = rng.integers(0, 30, (20, 2))
        gradients = rng.normal(size=(20, 2, 7))
        see(shard, ids.tolist(), gradients, times_ms=(1000 + 400 * round_ + rng.integers(0, 300, 20)).tolist())
        shard.sweep(7)
        blocks, gone = shard.take_changes()
        for _ in range(2):  # twice, since it is idempotent
            for name, some in gone.items():
                other.remove(other.number[name], some)
            for block in blocks:
                other.apply(block)
        other.clock_ms = shard.clock_ms
        every = [[key, key] for key in range(30)] + [[None, None]]
        assert (pooled(other, every) == pooled(shard, every)).all()
        assert other.counts.tolist() == shard.counts.tolist()


def test_a_row_that_another_table_had_brings_nothing_along():
    shard = Shard(TABLES, SEED, learning=False)
    source = Shard(TABLES, SEED)
    see(source, [[key, key] for key in range(20)], gradients=1.0)
    wide, narrow = source.take_changes()[0]
    shard.apply(wide)
    shard.remove(0, np.arange(20, dtype=np.int64))
    shard.apply(narrow)
    every = [[None, key] for key in range(20)]
    assert (pooled(shard, every)[:, 1] == pooled(source, every)[:, 1]).all()


def test_a_block_of_an_unknown_table_is_left_out():
    source = Shard([ROOT_TABLE], SEED)
    see(source, [[1]])
    shard = Shard(TABLES, SEED)
    shard.apply(source.take_changes()[0][0])
    assert shard.counts.tolist() == [0, 0]


def test_live_rows_come_sorted_by_id_as_unsigned():
    shard = Shard([ROOT_TABLE], SEED)
    see(shard, [[-1], [5], [-(2**63)], [2**63 - 1], [0]])
    assert entries_of(shard, shard.live_rows(0))["id"].tolist() == [0, 5, 2**63 - 1, -(2**63), -1]
