"""A trainer and its reader score alike; quality measures agree with their definitions."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from embedding_store.bootstrap import Snapshot
from embedding_store.shard import Shard
from tests.definitions import full_definition, hashed, lived_batch, random_batch, small_definition
from tests.shards import dump_of
from trainer.learner import Learner
from trainer.scorer import Scorer
from trainer.validation import Progress, auc

STEPS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 12), st.booleans()), min_size=1, max_size=8)
DEFINITIONS = [
    (small_definition(), random_batch),
    (full_definition("din", embedding_l2=0.01), lived_batch),
    (full_definition("residual"), lived_batch),
    (hashed(full_definition("din"), user=2, video=3, tags=4), lived_batch),
]
NAMES = ["plain", "din with everything", "residual", "hashed tables"]


@pytest.mark.parametrize(("definition", "batch_of"), DEFINITIONS, ids=NAMES)
@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_a_reader_that_applies_every_commit_scores_as_the_trainer_does(definition, batch_of, steps):
    learner = Learner(definition, Shard(definition.tables, definition.seed))
    reader = Scorer(definition, Shard(definition.tables, definition.seed, learning=False))
    for seed, lists, commits in [*steps, (0, 1, True)]:
        learner.score_and_learn(batch_of(definition, seed, lists))
        learner.shard.sweep(seed % 30)
        if commits:
            blocks, gone = learner.shard.take_changes()
            for name, ids in gone.items():
                reader.shard.remove(reader.shard.number[name], ids)
            for block in blocks:
                reader.shard.apply(block)
            reader.shard.clock_ms = learner.shard.clock_ms
            parts = learner.parts()
            reader.load_dense(parts["dense"])
            reader.load_numbers(parts["numbers"])
            request = batch_of(definition, seed + 1, 8)
            difference = np.abs(reader.probabilities(request) - learner.scorer.probabilities(request))
            assert difference.max() <= 1e-6


@pytest.mark.parametrize(("definition", "batch_of"), DEFINITIONS, ids=NAMES)
@settings(max_examples=8, deadline=None)
@given(steps=STEPS, restored=st.sets(st.integers(0, 7)))
def test_a_learner_that_is_restored_from_its_commits_anywhere_goes_on_to_the_bit(definition, batch_of, steps, restored):
    whole = Learner(definition, Shard(definition.tables, definition.seed))
    broken = Learner(definition, Shard(definition.tables, definition.seed))
    kept = Shard(definition.tables, definition.seed)  # what the store holds
    for number, (seed, lists, _) in enumerate(steps):
        for each in (whole, broken):
            each.score_and_learn(batch_of(definition, seed, lists))
        blocks, gone = broken.shard.take_changes()
        for name, ids in gone.items():
            kept.remove(kept.number[name], ids)
        for block in blocks:
            kept.apply(block)
        if number in restored:
            parts = broken.parts()
            again = Shard(definition.tables, definition.seed, layouts=broken.shard.parts()["layouts"])
            for t in range(len(kept.tables)):
                for block in kept.blocks(np.append(kept.live_rows(t), t)):
                    again.apply(block)
            assert again.filter.load_state(broken.shard.parts()["filter"])
            again.clock_ms, again.seq = broken.shard.clock_ms, broken.shard.seq
            kept.clock_ms = again.clock_ms
            broken = Learner(definition, again)
            assert broken.load_parts(parts) == []
    states = [
        dump_of(Snapshot(each.shard, definition=definition.to_json(), parts=each.parts())) for each in (whole, broken)
    ]
    assert states[0] == states[1]


SCORES = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40)


@settings(max_examples=80, deadline=None)
@given(SCORES)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs):
    labels = np.array([float(label) for label, _ in pairs])
    scores = np.array([score / 6 for _, score in pairs])
    won = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[labels == 1] for n in scores[labels == 0]
    ]  # fmt: skip
    found = auc(labels, scores)
    assert np.isnan(found) if not won else abs(found - sum(won) / len(won)) < 1e-12


@settings(max_examples=50, deadline=None)
@given(st.lists(SCORES, max_size=6), st.integers(1, 30))
def test_progress_over_a_window_is_that_of_its_last_examples(batches, window):
    progress = Progress(window)
    labels, scores = [], []
    for batch in batches:
        y = np.array([float(label) for label, _ in batch], dtype=np.float32)
        p = np.array([(1 + score) / 8 for _, score in batch])
        progress.add(y, p)
        labels += y.tolist()
        scores += p.tolist()
    y, p = np.array(labels[-window:]), np.array(scores[-window:])
    recent = progress.recent()
    np.testing.assert_allclose(recent.auc, auc(y, p), rtol=1e-12)
    if y.size:
        np.testing.assert_allclose(recent.log_loss, -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rtol=1e-12)
    # seven different scores lie in seven different bins, so that even the total is exact
    np.testing.assert_allclose(progress.total().auc, auc(np.array(labels), np.array(scores)), rtol=1e-12)
