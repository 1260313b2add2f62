"""Sampled negatives and corrections: what is served stays calibrated, and what counts them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from embedding_store.shard import Shard
from tests.definitions import (
    batch_of,
    contents,
    feature,
    full_definition,
    lived_message,
    random_batch,
    small_definition,
)
from trainer.batch import Batch
from trainer.definition import Definition, define
from trainer.earlier import Earlier
from trainer.example import Columns
from trainer.intake import Intake
from trainer.learner import Learner
from trainer.settings import ModelSettings, TaskSettings
from trainer.statistic_settings import StatisticSettings

RATE = 0.1
NOW_MS = 1_700_000_000_000


def learner_of(definition: Definition) -> Learner:
    return Learner(definition, Shard(definition.tables, definition.seed))


def users_and_items(model: str, wide: str | None) -> Definition:
    return define(
        (),
        (feature("user", source="user.id"), feature("item", source="item.id")),
        (TaskSettings(name="click"), TaskSettings(name="like")),
        ModelSettings.model_validate({"name": model, "wide": wide, "hidden": (8,)}),
        3,
    )


@pytest.mark.parametrize(("model", "wide"), [("deepfm", None), ("residual", "gaussian")])
def test_served_probabilities_are_calibrated_though_a_tenth_of_the_negatives_is_kept(model, wide):
    rng, size, batches = np.random.default_rng(4), 64, 2000
    tastes, draws = rng.normal(scale=0.7, size=12), rng.normal(scale=0.7, size=12)
    some = learner_of(users_and_items(model, wide))
    served, true = np.zeros(2), 0.0
    for number in range(batches):
        user, item = rng.integers(0, 12, (2, size))
        truth = 1 / (1 + np.exp(-(tastes[user] + draws[item] - 1.5)))
        labels = (rng.random((size, 2)) < truth[:, None]).astype(np.float32)
        labels[(labels[:, 0] == 0) & (rng.random(size) >= RATE), 0] = np.nan  # click is sampled, like is not
        offsets = np.tile(np.array([-math.log(RATE), 0.0], dtype=np.float32), (size, 1))
        columns = Columns(
            sizes=np.ones(size, dtype=np.int64),
            ts=np.full(size, NOW_MS),
            values={"user.id": user, "item.id": item},
            labels=labels,
            weights=np.ones(size, dtype=np.float32),
            offsets=offsets,
        )
        batch = some.scorer.featurizer.featurize(columns)
        if number >= batches // 2:
            served += some.scorer.probabilities(batch).sum(0)
            true += truth.sum()
        some.score_and_learn(batch)
    assert (served / true).tolist() == pytest.approx([1, 1], abs=0.03)


def test_what_validation_is_told_has_the_odds_of_the_sample():
    some = learner_of(full_definition("residual"))
    rng = np.random.default_rng(2)
    messages = [lived_message(rng) for _ in range(9)]
    for message in messages:
        message["items"][0]["sampled"] = {"click": 0.25}
    batch = batch_of(some.scorer.definition, messages)
    logits = some.scorer.logits(batch).astype(np.float64)
    firsts = np.cumsum([0, *(len(m["items"]) for m in messages[:-1])])
    logits[firsts, 0] += math.log(4)
    np.testing.assert_allclose(some.score_and_learn(batch), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_offsets_and_corrections_go_along_where_batches_are_cut_and_joined():
    rng = np.random.default_rng(7)
    definition = small_definition()
    messages = [lived_message(rng) for _ in range(12)]
    for message in messages[::2]:
        message["items"][0] |= {"sampled": {"like": 0.5, "another": 3}, "correction": True}
    whole = batch_of(definition, messages)
    parts = whole.cuts(5)
    assert len(parts) > 3
    again = Batch.join(parts)
    assert contents(again) == contents(whole)
    assert again.offsets.tolist() == whole.offsets.tolist()
    assert again.earlier.places.tolist() == whole.earlier.places.tolist()
    assert again.earlier.keys.tolist() == whole.earlier.keys.tolist()
    rows = iter(zip(again.offsets.tolist(), (again.earlier.places >= 0).tolist(), strict=True))
    for m, message in enumerate(messages):
        for i, item in enumerate(message["items"]):
            marked = m % 2 == 0 and i == 0
            again = m % 2 == 0 and item["id"] == message["items"][0]["id"]
            assert next(rows) == (pytest.approx([0.0, math.log(2) if marked else 0.0]), again)


def test_a_batch_of_which_nothing_was_sampled_has_no_offsets():
    batch = random_batch(small_definition(), 1)
    assert batch.offsets.shape == batch.labels.shape
    assert not batch.offsets.any()
    assert len(batch.earlier) == 0
    assert (batch.earlier.places == -1).all()


def test_a_correction_brings_its_label_to_statistics_but_is_no_sighting():
    def statistic(name: str, kind: str, **more: object) -> StatisticSettings:
        return StatisticSettings.model_validate({"name": name, "by": ("user",), "kind": kind, **more})

    some = (
        statistic("seen", "count"),
        statistic("rate", "rate", of="labels.click"),
        statistic("clicks", "count", where="labels.click = 1"),
    )
    targets = np.array([[0.0], [1.0], [1.0]])
    earlier = replace(Earlier.nothing(3, 3, 1, 1), places=np.array([-1, -1, 0]), targets=np.array([[np.nan]]))
    found = Intake(some, ["item.labels.click"]).new_inputs(targets, earlier)
    np.testing.assert_array_equal(found, [[1, 0, np.nan], [1, 1, 1], [np.nan, 1, 1]])


@pytest.mark.parametrize(("of", "items"), [("click", 1), (None, 0)])
def test_a_corrected_item_enters_a_sequence_by_its_label_alone(of, items):
    definition = define(
        (),
        (
            feature("user", source="user.id"),
            feature("item", source="item.id"),
            feature("past", "sequence", table="item", of=of, length=4),
        ),
        (TaskSettings(name="click"),),
        ModelSettings(name="din", hidden=(4,)),
        3,
    )
    some = learner_of(definition)
    late = {"id": 5, "labels": {"click": 1}, "correction": True}
    batch = batch_of(definition, [{"ts": NOW_MS, "user": {"id": 1}, "items": [late]}])
    some.score_and_learn(batch)
    later = batch_of(definition, [{"ts": NOW_MS + 1, "user": {"id": 1}, "items": [{"id": 6, "labels": {"click": 0}}]}])
    past = some.scorer.embedder.stream.read(later).past
    assert past is not None
    assert past.counts.tolist() == [items]
