"""What the peers of the benchmark are given: no statistic knows its own list."""

import math

import numpy as np
import pytest

from experiments.stream import Inputs, seen_so_far, standardised


def inputs(ids, labels, sizes):
    count = len(labels)
    return Inputs(
        ("a",),
        np.array(ids),
        np.arange(count + 1),
        np.empty((count, 0)),
        np.array(labels, dtype=np.float64),
        np.array(sizes),
    )


def test_statistics_are_of_earlier_lists_by_hand():
    # lists: [7:1, 7:0], [7:1], [8:0]
    found = seen_so_far(inputs([7, 7, 7, 8], [1, 0, 1, 0], [2, 1, 1]))
    base = (1 + 1) / (2 + 2)
    assert found[0].tolist() == found[1].tolist() == [0.0, 0.0]
    rate = (1 + 4 * base) / (2 + 4)
    assert found[2].tolist() == pytest.approx(
        [math.log(rate / (1 - rate)) - math.log(base / (1 - base)), math.log(3) / 5]
    )
    assert found[3].tolist() == pytest.approx([0.0, 0.0])


def test_no_statistic_changes_with_a_label_of_its_own_or_a_later_list():
    rng = np.random.default_rng(1)
    ids, sizes = rng.integers(0, 5, 60), [3] * 20
    labels = (rng.random(60) < 0.5).astype(float)
    before = seen_so_far(inputs(ids, labels, sizes))
    changed = labels.copy()
    changed[30:] = 1 - changed[30:]
    after = seen_so_far(inputs(ids, changed, sizes))
    assert before[:33].tolist() == after[:33].tolist()
    assert before[33:].tolist() != after[33:].tolist()


def test_numbers_are_standardised_by_earlier_lists_alone():
    numbers = np.array([[1.0], [3.0], [4.0], [np.nan], [10.0]])
    found = standardised(numbers, np.array([2, 1, 1, 1]))[:, 0]
    past = np.array([1.0, 3.0, 4.0])
    assert found.tolist() == pytest.approx([0, 0, (4 - 2) / 1, 0, (10 - past.mean()) / past.std()])


def test_batches_are_closed_by_the_list_that_reaches_the_size():
    some = inputs([1] * 8, [0] * 8, [2, 3, 1, 2])
    assert list(some.bounds()) == [(0, 2), (2, 5), (5, 6), (6, 8)]
    assert list(some.bounds(4)) == [(0, 5), (5, 8)]
    assert list(some.rows()) == [[[1]]] * 8


def test_inputs_beside_one_another_keep_each_examples_ids_together():
    left = Inputs(
        ("a", "b"),
        np.array([1, 2, 3, 4, 5]),
        np.array([0, 2, 3, 4, 5]),
        np.array([[0.5], [0.25]]),
        np.array([0.0, 1]),
        np.array([1, 1]),
    )
    both = left.beside(inputs([8, 9], [0, 1], [1, 1]))
    assert both.fields == ("a", "b", "a")
    assert list(both.rows()) == [[[1, 2], [3], [8]], [[4], [5], [9]]]
    assert both.numbers.tolist() == [[0.5], [0.25]]
