"""Sums of gradients and row-wise Adagrad, against hand-worked numbers and plain loops."""

import math

import numpy as np
import pytest

from embedding_store.optimizers import adagrad, sum_gradients
from embedding_store.slabs import Slab

WIDTH = 3  # the linear weight and two numbers


def slab(rows: int) -> Slab:
    some = Slab(WIDTH + 2)
    some.reserve(rows)
    return some


def summed(offsets, scored, updated, missing, means, gradients) -> dict[int, list[float]]:
    size = len(scored)
    distinct = np.full(size + 2, -1, dtype=np.int64)
    sums = np.full((size + 2, WIDTH), np.nan, dtype=np.float32)
    count = sum_gradients(
        slab(50).headers,
        np.array(offsets, dtype=np.int64),
        np.array(scored, dtype=np.int64),
        np.array(updated, dtype=np.int64),
        np.array(missing, dtype=np.bool_),
        np.array(means, dtype=np.bool_),
        np.array(gradients, dtype=np.float32),
        distinct,
        sums,
    )
    assert np.unique(distinct[:count]).size == count
    return {int(row): sums[u].tolist() for u, row in enumerate(distinct[:count])}


def test_gradients_of_a_row_seen_twice_are_summed():
    gradients = [[[1, 2, 3]], [[10, 20, 30]], [[100, 200, 300]]]
    assert summed([0, 1, 2, 3], [5, 6, 5], [5, 6, 5], [False] * 3, [True], gradients) == {
        5: [101, 202, 303],
        6: [10, 20, 30],
    }


def test_the_cold_row_shares_the_gradient_of_the_id_that_it_stood_in_for():
    assert summed([0, 1], [0], [9], [False], [True], [[[1, 2, 3]]]) == {0: [1, 2, 3], 9: [1, 2, 3]}


def test_the_gradient_of_a_missing_value_goes_to_the_cold_row_alone():
    assert summed([0, 1, 2], [0, 0], [0, 9], [True, False], [True], [[[1, 2, 3]], [[4, 4, 4]]]) == {
        0: [5, 6, 7],
        9: [4, 4, 4],
    }


def test_an_average_gives_each_of_its_rows_a_share_and_a_sum_the_whole():
    two_fields = [[[4, 8, 12], [4, 8, 12]]]
    found = summed([0, 2, 4], [5, 6, 7, 8], [5, 6, 7, 8], [False] * 4, [True, False], two_fields)
    assert found == {5: [2, 4, 6], 6: [2, 4, 6], 7: [4, 8, 12], 8: [4, 8, 12]}


def test_one_step_of_adagrad_by_hand():
    rows = slab(4)
    rows.headers["table"][3] = 1
    rows.data[3] = [1.0, 2.0, 3.0, 7.0, 1.0]
    dims = np.array([9, 2], dtype=np.int64)
    rates = np.array([[0, 0], [0.5, 0.1]], dtype=np.float32)
    adagrad(rows.data, rows.headers, np.array([3]), np.array([[3, 4, 2]], dtype=np.float32), dims, rates)
    # accumulators: 7 + 9 = 16 and 1 + (16 + 4) / 2 = 11
    expected = [1 - 0.5 * 3 / 4, 2 - 0.1 * 4 / math.sqrt(11), 3 - 0.1 * 2 / math.sqrt(11), 16, 11]
    assert rows.data[3].tolist() == pytest.approx(expected, rel=1e-6)


def test_many_steps_agree_with_a_plain_loop_and_touch_no_other_row():
    rng = np.random.default_rng(3)
    rows = slab(20)
    rows.data[:20] = np.abs(rng.normal(size=(20, WIDTH + 2))) + 0.1
    rows.headers["table"][:20] = np.arange(20) % 2
    dims, rates = np.array([1, 2], dtype=np.int64), np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32)
    expected = rows.data[:20].astype(np.float64)
    for _ in range(5):
        distinct = rng.permutation(10)[:4]
        sums = rng.normal(size=(6, WIDTH)).astype(np.float32)
        adagrad(rows.data, rows.headers, distinct, sums, dims, rates)
        for row, g in zip(distinct, sums, strict=False):
            dim, (linear, vector) = dims[row % 2], rates[row % 2]
            expected[row, WIDTH] += float(g[0]) ** 2
            expected[row, 0] -= linear * g[0] / math.sqrt(expected[row, WIDTH])
            expected[row, WIDTH + 1] += sum(float(x) ** 2 for x in g[1 : 1 + dim]) / dim
            for k in range(1, 1 + dim):
                expected[row, k] -= vector * g[k] / math.sqrt(expected[row, WIDTH + 1])
    np.testing.assert_allclose(rows.data[:20], expected, rtol=2e-6)
    assert not rows.data[20:].any()
