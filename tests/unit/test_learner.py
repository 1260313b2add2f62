"""Score, then learn: gradients, the dense optimizer, what a refused batch leaves, and the reader's scores."""

import dataclasses

import numpy as np
import pytest
import torch

import trainer.learner
from embedding_store.bootstrap import Snapshot
from embedding_store.commit import CommitId
from embedding_store.shard import Shard
from tests.deepfm import deepfm, parts_of
from tests.definitions import batch_of, feature, message, random_batch, small_definition
from tests.shards import dump_of, entries_of
from trainer.batch import Batch
from trainer.errors import BadRecord
from trainer.learner import Learner, adam
from trainer.scorer import Scorer


class Recorder(Shard):
    """A shard that keeps the gradients that it was given."""

    gradients: np.ndarray

    def step(self, batch, scored, updated, gradients, fields):
        self.gradients = gradients.copy()
        super().step(batch, scored, updated, gradients, fields)


def learner(shard=Shard, **changes) -> Learner:
    definition = small_definition(**changes)
    return Learner(definition, shard(definition.tables, definition.seed))


def state_of(some: Learner) -> bytes:
    return dump_of(Snapshot(some.shard, CommitId(1, 1), some.scorer.definition.to_json(), {}, some.parts()))


def loss_of(parts, fields, numbers, batch) -> float:
    """The summed, weighted log loss in plain NumPy."""
    logits = deepfm(parts, fields, numbers)
    total = 0.0
    for b in range(len(batch)):
        for t in range(logits.shape[1]):
            y = float(batch.labels[b, t])
            if not np.isnan(y):
                z = logits[b, t]
                total += float(batch.weights[b]) * (np.logaddexp(0, z) - y * z)
    return total


def test_gradients_are_those_of_finite_differences(monkeypatch):
    some = learner(Recorder)
    rng = np.random.default_rng(1)
    for seed in range(3):
        some.score_and_learn(random_batch(some.scorer.definition, seed))
    some.scorer.weights[:] = rng.normal(scale=0.5, size=some.scorer.weights.size)
    batch = random_batch(some.scorer.definition, 9, lists=5)
    fields = some.scorer.embedder.embed(batch).pooled
    fields, numbers = fields.astype(np.float64), some.scorer.standardise(batch.numbers)
    parts = parts_of(some.scorer)
    dense = {}

    def recording(weights, gradients, *rest):
        dense["gradient"], dense["scale"] = gradients.copy(), rest[3]
        adam(weights, gradients, *rest)

    monkeypatch.setattr(trainer.learner, "adam", recording)
    some.score_and_learn(batch)
    step = 1e-6

    def slope(array: np.ndarray, place: tuple[int, ...]) -> float:
        kept = array[place]
        array[place] = kept + step
        up = loss_of(parts, fields, numbers, batch)
        array[place] = kept - step
        down = loss_of(parts, fields, numbers, batch)
        array[place] = kept
        return (up - down) / (2 * step)

    for _ in range(60):
        place = tuple(int(rng.integers(0, size)) for size in fields.shape)
        assert some.shard.gradients[place] == pytest.approx(slope(fields, place), rel=2e-3, abs=2e-4)
    at = 0
    for name, shape in some.scorer.shapes:
        for _ in range(12):
            place = tuple(int(rng.integers(0, size)) for size in shape)
            flat = at + int(np.ravel_multi_index(place, shape))
            assert dense["gradient"][flat] == pytest.approx(slope(parts[name], place), rel=2e-3, abs=2e-4)
        at += int(np.prod(shape))
    assert len(batch) < 64
    assert dense["scale"] == pytest.approx(1 / 64)
    larger = random_batch(some.scorer.definition, 10, lists=60)
    some.score_and_learn(larger)
    assert dense["scale"] == pytest.approx(1 / len(larger))


def test_positives_that_come_alone_do_not_outweigh_zeros_that_come_in_lists():
    some, rng = learner(), np.random.default_rng(8)
    scores = []
    for _ in range(300):
        for size, label in ((1, 1), (9, 0)):
            one = message(rng, items=size)
            for item in one["items"]:
                item["labels"] = {"click": label, "like": label}
            scores.append(some.score_and_learn(batch_of(some.scorer.definition, [one])))
    assert np.concatenate(scores[-200:]).mean() < 0.2  # of a tenth


def test_the_dense_optimizer_is_adam_as_torch_has_it():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=50).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(weights.astype(np.float64)))
    optimizer = torch.optim.Adam([parameter], lr=0.03)
    first, second, rates = np.zeros_like(weights), np.zeros_like(weights), np.full_like(weights, 0.03)
    for step in range(1, 40):
        gradient = (rng.normal(size=50) * 10.0 ** rng.integers(-4, 3, 50)).astype(np.float32)
        parameter.grad = torch.from_numpy(gradient.astype(np.float64) * 0.125)
        optimizer.step()
        given = gradient.copy()
        adam(
            weights, given, first, second, rates, np.float32(0.125),
            np.float32(1 / (1 - 0.9**step)), np.float32(1 / (1 - 0.999**step)),
        )  # fmt: skip
        assert not given.any()
    np.testing.assert_allclose(weights, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_batch_is_scored_before_any_of_it_is_learned():
    some = learner()
    for seed in range(5):
        batch = random_batch(some.scorer.definition, seed)
        expected = some.scorer.probabilities(batch)
        np.testing.assert_allclose(some.score_and_learn(batch), expected, rtol=1e-6)
        assert (some.scorer.probabilities(batch) != expected).any()


def test_the_scores_of_a_batch_do_not_depend_on_its_labels():
    scores = []
    for flip in (False, True):
        some = learner()
        some.score_and_learn(random_batch(some.scorer.definition, 1))
        batch = random_batch(some.scorer.definition, 2)
        labels = 1 - batch.labels if flip else batch.labels
        scores.append(some.score_and_learn(dataclasses.replace(batch, labels=labels)))
    assert (scores[0] == scores[1]).all()


def test_learning_twice_from_the_same_seed_is_the_same_to_the_bit():
    states = []
    for _ in range(2):
        some = learner()
        for seed in range(8):
            some.score_and_learn(random_batch(some.scorer.definition, seed))
        states.append(state_of(some))
    assert states[0] == states[1]


def test_a_batch_and_its_columns_are_left_as_they_were():
    some = learner()
    batch = random_batch(some.scorer.definition, 1)
    before = [array.copy() for array in (batch.labels, batch.weights, batch.numbers, batch.occurrences.ids)]
    some.score_and_learn(batch)
    for was, now in zip(before, (batch.labels, batch.weights, batch.numbers, batch.occurrences.ids), strict=True):
        np.testing.assert_array_equal(was, now)


def test_learning_moves_predictions_towards_the_labels():
    some = learner(tasks=["click"])
    rng = np.random.default_rng(3)
    messages = [message(rng) for _ in range(50)]
    for one in messages:
        for item in one["items"]:
            item["labels"], item["weight"] = {"click": int(item["id"] in ("v1", "v2", "v3"))}, 1
    batch = batch_of(some.scorer.definition, messages)
    for _ in range(60):
        scores = some.score_and_learn(batch)
    assert np.abs(scores - batch.labels).max() < 0.3


@pytest.mark.parametrize("weight", [np.inf, np.nan, 3e38, 1e20])
def test_a_batch_that_is_not_finite_or_too_large_to_square_is_refused_and_changes_nothing(weight):
    some = learner()
    for seed in range(3):
        some.score_and_learn(random_batch(some.scorer.definition, seed))
    batch = random_batch(some.scorer.definition, 10)
    weights = batch.weights.copy()
    weights[: len(batch) // 2] = weight
    before = state_of(some)
    with pytest.raises(BadRecord) as caught:
        some.score_and_learn(dataclasses.replace(batch, weights=weights))
    assert caught.value.reason == "not_finite"
    assert state_of(some) == before
    some.score_and_learn(batch)
    other = learner()
    for seed in (0, 1, 2, 10):
        other.score_and_learn(random_batch(other.scorer.definition, seed))
    assert state_of(some) == state_of(other)


def test_a_weight_of_zero_and_an_absent_label_teach_nothing():
    some = learner()
    batch = random_batch(some.scorer.definition, 1)
    for changed in (
        dataclasses.replace(batch, weights=np.zeros_like(batch.weights)),
        dataclasses.replace(batch, labels=np.full_like(batch.labels, np.nan)),
    ):
        before = some.scorer.weights.tobytes()
        some.score_and_learn(changed)
        assert some.scorer.weights.tobytes() == before
    entries = entries_of(some.shard, np.arange(1))
    assert not entries["values"].any()


def test_a_weight_counts_as_so_many_equal_examples():
    gradients = []
    for weight, copies in ((3.0, 1), (1.0, 3)):
        some = learner(Recorder)
        one = {"ts": 5, "user": {"id": 1}, "items": [{"id": 2, "labels": {"click": 1}, "weight": weight}]}
        some.score_and_learn(batch_of(some.scorer.definition, [one] * copies))
        gradients.append(some.shard.gradients.sum(0))
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-6)


def test_running_moments_are_those_of_all_numbers_seen():
    some = learner()
    assert some.scorer.standardise(np.array([[1.0, 2.0]])).tolist() == [[0, 0]]
    batches = [random_batch(some.scorer.definition, seed, lists=1 + seed % 4) for seed in range(30)]
    for batch in batches:
        some.score_and_learn(batch)
    numbers = np.concatenate([batch.numbers for batch in batches])
    count = (~np.isnan(numbers)).sum(0)
    np.testing.assert_array_equal(some.scorer.moments[:, 0], count)
    np.testing.assert_allclose(some.scorer.moments[:, 1], np.nanmean(numbers, 0), rtol=1e-12)
    np.testing.assert_allclose(some.scorer.moments[:, 2] / count, np.nanvar(numbers, 0), rtol=1e-10)


def test_the_numbers_of_a_batch_are_standardised_by_what_came_before_it():
    some = learner()
    batch = random_batch(some.scorer.definition, 1)
    some.score_and_learn(batch)
    moments = some.scorer.moments.copy()
    other = learner()
    other.scorer.moments[:] = 0
    np.testing.assert_array_equal(other.score_and_learn(batch), np.full((len(batch), 2), 0.5))
    assert (moments != 0).all()


def test_the_parts_of_a_commit_bring_a_learner_back_to_the_bit():
    whole = learner()
    for seed in range(4):
        whole.score_and_learn(random_batch(whole.scorer.definition, seed))
    restored = Learner(whole.scorer.definition, Shard(whole.shard.tables, whole.scorer.definition.seed))
    assert restored.load_parts(whole.parts()) == []
    for block in whole.shard.take_changes()[0]:
        restored.shard.apply(block)
    restored.shard.clock_ms = whole.shard.clock_ms
    assert restored.shard.filter.load_state(whole.shard.parts()["filter"])
    assert state_of(restored) == state_of(whole)
    for seed in range(4, 8):
        for each in (whole, restored):
            each.score_and_learn(random_batch(whole.scorer.definition, seed))
    assert state_of(restored) == state_of(whole)


def test_a_reader_scores_as_the_trainer_does():
    some = learner()
    definition = some.scorer.definition
    reader = Scorer(definition, Shard(definition.tables, definition.seed, learning=False))
    for seed in range(12):
        some.score_and_learn(random_batch(definition, seed))
        some.shard.sweep(20)
        blocks, gone = some.shard.take_changes()
        for name, ids in gone.items():
            reader.shard.remove(reader.shard.number[name], ids)
        for block in blocks:
            reader.shard.apply(block)
        reader.shard.clock_ms = some.shard.clock_ms
        reader.load_dense(some.parts()["dense"])
        reader.load_numbers(some.parts()["numbers"])
        requests = random_batch(definition, 1000 + seed)
        unknown = batch_of(definition, [{"ts": 1, "user": {"id": "?"}, "items": [{"id": "!", "labels": {"click": 0}}]}])
        for batch in (requests, unknown):
            np.testing.assert_allclose(reader.probabilities(batch), some.scorer.probabilities(batch), atol=1e-6, rtol=0)


def test_the_scores_of_a_list_do_not_depend_on_what_it_is_batched_with():
    some = learner()
    definition = some.scorer.definition
    for seed in range(5):
        some.score_and_learn(random_batch(definition, seed))
    batch = random_batch(definition, 77)
    alone = np.concatenate([some.scorer.probabilities(part) for part in batch.cuts(1)])
    np.testing.assert_allclose(alone, some.scorer.probabilities(batch), atol=1e-6, rtol=0)


def test_a_model_without_numbers_learns_too():
    some = learner(features=(feature("user", source="user.id"), feature("video", source="item.id")))
    scores: list[np.ndarray] = [some.score_and_learn(random_batch(some.scorer.definition, seed)) for seed in range(3)]
    assert all(np.isfinite(score).all() for score in scores)


def test_a_model_without_hidden_layers_learns_too():
    some = learner(hidden=())
    batch: Batch = random_batch(some.scorer.definition, 1)
    assert (some.score_and_learn(batch) == 0.5).all()
    assert (some.scorer.probabilities(batch) != 0.5).any()
