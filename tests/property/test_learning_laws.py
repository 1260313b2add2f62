"""A trainer and its reader score alike; quality measures agree with their definitions."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from embedding_store.shard import Shard
from tests.definitions import random_batch, small_definition
from trainer.learner import Learner
from trainer.scorer import Scorer
from trainer.validation import Progress, auc

DEFINITION = small_definition()


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 12), st.booleans()), min_size=1, max_size=8))
def test_a_reader_that_applies_every_commit_scores_as_the_trainer_does(steps):
    learner = Learner(DEFINITION, Shard(DEFINITION.tables, DEFINITION.seed))
    reader = Scorer(DEFINITION, Shard(DEFINITION.tables, DEFINITION.seed, learning=False))
    for seed, lists, commits in [*steps, (0, 1, True)]:
        learner.score_and_learn(random_batch(DEFINITION, seed, lists))
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
            request = random_batch(DEFINITION, seed + 1, 8)
            difference = np.abs(reader.probabilities(request) - learner.scorer.probabilities(request))
            assert difference.max() <= 1e-6


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
