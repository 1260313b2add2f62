"""The experiments at a size that shows that they run, and what their figures rest on."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer import Typer
from typer.testing import CliRunner

from embedding_store.encodings.hashed import buckets_of, salt_of
from embedding_store.shard import Shard
from experiments import collisions, freshness
from experiments.bootstrap import Resampled
from experiments.data import shipped
from experiments.run import EXPERIMENTS, Run, run
from services.cli import experiment
from services.datasets.reader import open_dataset
from trainer.batch import Batch
from trainer.features import Featurizer
from trainer.learner import Learner

TINY = Run(seeds=1, limit=300, workers=1)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs(name):
    page = run(name, TINY)
    assert "nan" not in page.finding + page.text
    if name == "models":  # the only one with times; the rest is said again
        again = run(name, TINY)
        assert page.finding == again.finding
        assert page.text.partition("## Speed")[0] == again.text.partition("## Speed")[0]


def test_the_command_writes_page_drawing_and_index(tmp_path, monkeypatch):
    app = Typer()
    app.callback()(lambda: None)
    experiment.register(app)
    monkeypatch.setattr("experiments.run.QUICK", TINY)
    answer = CliRunner().invoke(app, ["experiment", "collisions", "--quick", "--seed", "3", "--out", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "collisions.md", "collisions.png"]
    page = (tmp_path / "collisions.md").read_text()
    assert page.startswith("# Collisions\n\n```sh\ndolmen experiment collisions --quick --seed 3\n```\n")
    finding = next(line for line in page.splitlines() if line.startswith("> "))[2:]
    assert f"| [Collisions](collisions.md) | {finding} |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("package", "said"), [("matplotlib", "pip install 'dolmen[plots]'"), ("experiments", "no experiments")]
)
def test_what_is_not_installed_is_named(package, said, tmp_path, monkeypatch):
    app = Typer()
    app.callback()(lambda: None)
    experiment.register(app)
    monkeypatch.setattr(experiment, "find_spec", lambda name: None if name == package else object())
    answer = CliRunner().invoke(app, ["experiment", "--all", "--out", str(tmp_path)])
    assert answer.exit_code == 1
    assert said in answer.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"), [(["nothing"], "there is no experiment 'nothing'"), (["models", "--all"], "or --all")]
)
def test_bad_usage_is_refused(arguments, said, tmp_path):
    app = Typer()
    app.callback()(lambda: None)
    experiment.register(app)
    answer = CliRunner().invoke(app, ["experiment", *arguments, "--out", str(tmp_path)])
    assert answer.exit_code == 2
    assert said in " ".join(answer.output.replace("│", " ").split())


def test_an_estimate_has_the_auc_and_the_error_of_a_hand_made_bootstrap():
    rng = np.random.default_rng(5)
    labels = (rng.random(800) < 0.3).astype(float)
    scores = [np.round(labels + rng.standard_normal(800), 1) for _ in range(2)]  # with ties
    better = [s + 0.5 * labels for s in scores]
    mine, other = Resampled(labels, scores), Resampled(labels, better)
    assert mine.auc().mean == pytest.approx(np.mean([roc_auc_score(labels, s) for s in scores]))
    assert other.less(mine).mean == pytest.approx(other.auc().mean - mine.auc().mean)

    def of(drawn, some):
        return roc_auc_score(labels[drawn], some[drawn])

    errors, differences = [], []
    for _ in range(150):
        drawn, s = rng.integers(0, 800, 800), rng.integers(0, 2, 2)
        errors.append(np.mean([of(drawn, scores[n]) for n in s]))
        differences.append(np.mean([of(drawn, better[n]) - of(drawn, scores[n]) for n in s]))
    assert mine.auc().error == pytest.approx(np.std(errors), rel=0.25)
    assert other.less(mine).error == pytest.approx(np.std(differences), rel=0.25)
    assert other.less(mine).error < 0.7 * mine.auc().error


def test_collisions_are_those_of_the_hash():
    plain, hashed = (
        collisions.one_pass(collisions.Part("kuairand", load, 1, (300, 200), 900))
        for load in ("a row an id", "2 ids a bucket")
    )
    columns = open_dataset("kuairand", 900).columns(["user.id", "item.id"], ["click"])
    featurizer = Featurizer(shipped("kuairand", 1)[0])
    columns = open_dataset("kuairand", 900).columns(featurizer.sources, ["click"])
    found = Batch.join([featurizer.featurize(some) for some in columns]).occurrences
    names = [field.name for field in featurizer.fields]
    assert found.ids.size == 900 * len(names)
    for n, (name, buckets) in enumerate((("user", 150), ("video", 100))):
        ids = np.unique(found.ids.reshape(900, -1)[:, names.index(name)])
        assert plain.rows[n] == ids.size
        assert hashed.rows[n] == np.unique(buckets_of(ids, salt_of(name, 1), buckets)).size


def test_a_list_is_scored_by_what_was_learned_when_its_interval_began():
    definition, batch_size = shipped("kuairand", 1)
    featurizer = Featurizer(definition)
    columns = open_dataset("kuairand", 500).columns(featurizer.sources, ["click"])
    whole = Batch.join([featurizer.featurize(some) for some in columns])
    served = freshness.serve(definition, whole, batch_size)
    assert {scores.size for scores in served.scores.values()} == {served.labels.size}

    begin = whole.times_ms[-1] - served.times_ms[-1]
    for name, interval in {**freshness.INTERVALS_MS, freshness.COMMIT: 1}.items():
        # a learner that learns up to each list's interval and no further, all over again
        expected, number = [], -1
        learner = Learner(definition, Shard(definition.tables, definition.seed, True, definition.admission))
        waiting = []
        first = int(np.searchsorted(whole.times_ms[np.cumsum(whole.sizes) - whole.sizes], begin))
        for batch in whole.lists(0, first).cuts(batch_size):
            learner.score_and_learn(batch)
            learner.shard.sweep(4 * len(batch))
        for one in whole.lists(first, whole.sizes.size).cuts(1):
            now = int(one.times_ms[0] - begin) // interval
            if now != number or name == freshness.COMMIT:
                number = now
                for old in waiting:
                    learner.score_and_learn(old)
                    learner.shard.sweep(4 * len(old))
                waiting = []
            expected.append(learner.scorer.probabilities(one)[:, 0])
            waiting.append(one)
        assert np.concatenate(expected) == pytest.approx(served.scores[name], abs=1e-6), name
