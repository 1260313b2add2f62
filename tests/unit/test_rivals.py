"""Rivals of the dimension search learn under the same rules, and are counted alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from embedding_store.encodings.encoding import INDEX_BYTES
from embedding_store.encodings.settings import EncodingSettings
from experiments import encoded, rivals
from experiments.dimensions import DATASETS, Part, one_seed
from experiments.rivals import SHARES, by_rule
from trainer.dimension_search import Recipe, cut
from trainer.search.fitting import fit
from trainer.search.network import Network, take
from trainer.search.planted import definition, make_truth, planted
from trainer.search.steps import Steps

RECIPE = Recipe(seed=3, batch_size=64, warm_passes=1.0, search_passes=0.5, tune_passes=0.25, least=20)


@pytest.fixture(scope="module")
def data():
    truth = make_truth(1, dims=(1, 4), sightings=(10, 40), ids=50, users=60)
    return planted(truth, 1)


def uniform(data, dim=16):
    return {table.name: EncodingSettings(kind="uniform", dim=dim) for table in data.tables}


def test_encodings_take_the_steps_that_the_search_takes(data):
    recipe = RECIPE
    model = definition(seed=recipe.seed)
    encodings = encoded.Encodings(model, data, uniform(data), recipe)
    mine = encoded.EncodedNetwork(model, data, encodings, recipe.seed, (None,))
    theirs = Network(model, data, np.zeros(data.rows, dtype=np.int64), recipe.seed)
    theirs.rows = torch.from_numpy(encodings.served(None)).clone()
    some = encoded.EncodedSteps(mine, recipe), Steps(theirs, recipe.optimizer, recipe.rate, recipe.network_rate)
    for first in range(0, 10 * 64, 64):
        for steps in some:
            steps.learn(take(data, np.arange(first, first + 64)))
    lines = np.arange(data.parts[0], len(data.labels))
    assert np.ptp(theirs.scores(data, lines)) > 0.01
    assert mine.scores(data, lines) == pytest.approx(theirs.scores(data, lines), abs=1e-4)


def test_a_model_is_served_as_it_was_when_validation_was_best(data):
    best = encoded.fit(definition(), data, RECIPE, uniform(data))[0]
    worse = encoded.fit(definition(), data, replace(RECIPE, best=False, warm_passes=30.0), uniform(data))[0]
    assert best.passes == pytest.approx(1.75, abs=0.01)
    again = encoded.fit(definition(), data, RECIPE, uniform(data))[0]
    assert np.array_equal(best.scores, again.scores)
    assert not np.array_equal(best.scores, worse.scores)


def test_both_kinds_of_rows_are_counted_alike(data):
    seen = int((data.counts > 0).sum())
    mask = np.zeros((len(cut(data, RECIPE).rows), 16), dtype=bool)
    mask[:, :4] = True
    one = encoded.fit(definition(), data, RECIPE, uniform(data, 4))[0]
    other = fit(definition(), data, RECIPE, mask)
    assert (one.parameters, one.bytes) == (4 * seen, (16 + INDEX_BYTES) * seen)
    rows = sum(table.last - table.first - 1 for table in data.tables)
    assert (other.parameters, other.bytes) == (4 * rows, (16 + INDEX_BYTES) * rows)


@pytest.mark.parametrize("share", SHARES)
def test_the_rule_meets_its_share_and_falls_with_rarity(data, share):
    blocks = cut(data, replace(RECIPE, least=5))
    kept, largest, power = by_rule(blocks, 16, share)
    width = kept.sum(axis=1)
    assert width @ blocks.rows == pytest.approx(share * 16 * blocks.rows.sum(), rel=0.35)
    assert all((np.diff(width[part]) >= 0).all() for part in blocks.tables.values())
    assert width.max() == largest
    assert power >= 0


def test_every_rival_has_scores_and_a_size():
    assert "planted" in DATASETS
    done = one_seed(Part("planted", 1, 1500))
    assert len(done.outcomes) >= 30
    for name, one in done.outcomes.items():
        assert np.isfinite(one.scores).all(), name
        assert one.scores.size == done.labels.size
        assert one.bytes >= one.parameters, name
    full = done.outcomes[rivals.FULL].parameters
    for share in SHARES:
        assert 0.8 * share < done.outcomes[f"DNIS, {share:.0%}"].parameters / full <= share
