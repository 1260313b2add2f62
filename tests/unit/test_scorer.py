"""The prediction: standardised numbers, the dense part of a commit, DeepFM against plain NumPy."""

import numpy as np
import pytest

from embedding_store.errors import BadBytes
from embedding_store.shard import Shard
from tests.deepfm import deepfm, parts_of
from tests.definitions import random_batch, small_definition
from trainer.scorer import Scorer, sigmoid


def scorer(**changes) -> Scorer:
    definition = small_definition(**changes)
    return Scorer(definition, Shard(definition.tables, definition.seed))


def shuffled(some: Scorer, seed: int = 1) -> Scorer:
    some.weights[:] = np.random.default_rng(seed).normal(size=some.weights.size)
    return some


def test_logits_are_those_of_deepfm_in_plain_numpy():
    some = shuffled(scorer())
    rng = np.random.default_rng(2)
    batch = random_batch(some.definition, 3)
    for t, table in enumerate(some.shard.tables):
        at = some.shard.rows.headers["at"][t]
        some.shard.rows.memory[at : at + 1 + table.dim] = rng.normal(size=1 + table.dim)
    some.moments[:] = [[10, 40, 1000], [10, 5, 30]]
    fields = some.embedder.embed(batch).pooled
    expected = deepfm(parts_of(some), fields, some.standardise(batch.numbers))
    np.testing.assert_allclose(some.logits(batch), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(some.probabilities(batch), 1 / (1 + np.exp(-some.logits(batch).astype(np.float64))))


def test_a_fresh_model_predicts_one_half_everywhere():
    some = scorer()
    assert (some.probabilities(random_batch(some.definition, 1)) == 0.5).all()


def test_initial_weights_depend_on_the_seed_alone():
    first, second = scorer(), scorer()
    np.random.default_rng(0)
    assert first.weights.tobytes() == second.weights.tobytes()
    assert first.weights.tobytes() != scorer(seed=4).weights.tobytes()


def test_the_modules_parameters_are_views_of_the_flat_weights():
    some = scorer()
    some.weights[:] = 0.25
    assert all((parameter == 0.25).all() for parameter in some.module.parameters())


def test_numbers_are_standardised_by_their_running_moments():
    some = scorer()
    some.moments[:] = [[4, 10.0, 16.0], [100, -1.0, 25.0]]  # deviations 2 and 0.5
    numbers = np.array([[10, -1], [14, -0.5], [7, -2], [np.nan, np.nan], [1000, -1000]], dtype=np.float64)
    assert some.standardise(numbers).tolist() == [[0, 0], [2, 1], [-1.5, -2], [0, 0], [8, -8]]


def test_numbers_say_nothing_before_two_were_seen_or_while_all_are_equal():
    some = scorer()
    some.moments[:] = [[1, 10.0, 0.0], [5, 3.0, 0.0]]
    assert some.standardise(np.array([[50.0, 3.0], [np.nan, 4.0]])).tolist() == [[0, 0], [0, 1]]


def test_the_dense_part_comes_back_with_its_state():
    one, other = shuffled(scorer()), scorer()
    state = np.arange(one.weights.size, dtype=np.float32)
    taken = np.zeros_like(state)
    assert other.load_dense(one.dense_part(state), taken) == []
    assert other.weights.tobytes() == one.weights.tobytes()
    assert taken.tobytes() == state.tobytes()
    assert other.dense_part(taken) == one.dense_part(state)


def test_a_reader_takes_the_weights_without_the_state():
    one, other = shuffled(scorer()), scorer()
    assert other.load_dense(one.dense_part(np.zeros_like(one.weights), np.zeros_like(one.weights))) == []
    assert other.weights.tobytes() == one.weights.tobytes()


def test_parts_whose_shape_changed_start_afresh_and_are_named():
    one, other = shuffled(scorer()), scorer(hidden=(7, 6))
    before = parts_of(other)
    fresh = other.load_dense(one.dense_part())
    assert fresh == ["network.2.weight", "network.2.bias", "network.4.weight"]
    after, source = parts_of(other), parts_of(one)
    for name in after:
        assert (after[name] == (before if name in fresh else source)[name]).all()


@pytest.mark.parametrize("change", [lambda data: data[:-4], lambda data: data + bytes(4)])
def test_a_dense_part_of_another_length_is_refused(change):
    some = scorer()
    with pytest.raises(BadBytes, match="length does not fit"):
        some.load_dense(change(some.dense_part()))


def test_moments_come_back_by_the_name_of_their_feature():
    one, other = scorer(), scorer()
    one.moments[:] = [[4, 10.25, 16.0], [100, -1 / 3, 25.0]]
    other.load_numbers(one.numbers_part())
    assert other.moments.tobytes() == one.moments.tobytes()
    swapped = small_definition().features
    some = scorer(features=(*swapped[:7], swapped[8]))
    some.load_numbers(one.numbers_part())
    assert some.moments.tolist() == [[100, -1 / 3, 25.0]]


def test_the_sigmoid_neither_overflows_nor_loses_precision():
    assert sigmoid(np.array([-1e9, -40, 0, 40, 1e9], dtype=np.float32)).tolist() == pytest.approx(
        [0, 4.248354255291589e-18, 0.5, 1, 1], rel=1e-12, abs=1e-300
    )
