"""What the learner must show where the truth is known: Gaussian intervals, calibration, and what a sequence brings.

``python -m benchmarks.learning_checks`` prints one line of JSON a check and writes a section of docs/performance.md.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.markdown import table
from benchmarks.report import PAGE, replace
from embedding_store.gaussian import NOISE
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.batch import Batch
from trainer.definition import Definition, define
from trainer.evaluation import evaluate
from trainer.example import Columns
from trainer.features import Featurizer
from trainer.learner import Learner
from trainer.settings import FeatureSettings, ModelSettings, TaskSettings
from trainer.validation import auc

BATCH = 64
START_MS = 1_767_225_600_000
_SURE = 1.96
"""Deviations on either side of the mean of a normal that hold 95 % of it."""


def shipped(dataset: str, limit: int | None, tail: int | None) -> dict[str, Any]:
    """The shipped configuration on a data set: what `dolmen evaluate` reports of its first task."""
    settings = load_settings(dataset=dataset)
    definition = settings.definition()
    tasks = [task.name for task in definition.tasks]
    stream = open_dataset(dataset, limit).columns_with_truth(Featurizer(definition).sources, tasks)
    report = evaluate(definition, stream, settings.trainer.batch_size).report(tail)
    return {"examples": report["examples"], "seconds": report["seconds"], **report["tasks"][tasks[0]]}


# Gaussian weights where the truth is a sum


class Additive(NamedTuple):
    """A stream whose log odds are the sum of a weight of each field.

    Attributes:
        ids: int64[N, F].
        truth: float64[N], log odds.
        labels: float32[N].
        weights: Of each field, the true weight of each id.
    """

    ids: NDArray[np.int64]
    truth: NDArray[np.float64]
    labels: NDArray[np.float32]
    weights: list[NDArray[np.float64]]


FIELDS = {"user": (20_000, 0.3), "video": (2_000, 0.5), "tab": (12, 1.0), "hour": (24, 0.1)}
"""Ids and prior variance of each: the true weights are drawn from the prior."""


def additive(examples: int, seed: int = 1) -> Additive:
    """Ids by zipf's law, true weights from their priors, labels from the true probability."""
    rng = np.random.default_rng(seed)
    ids, weights = [], []
    for count, variance in FIELDS.values():
        shares = 1.0 / (1.0 + rng.permutation(count))
        ids.append(rng.choice(count, examples, p=shares / shares.sum()))
        weights.append(rng.normal(0.0, np.sqrt(variance), count))
    truth = -1.0 + sum(w[i] for w, i in zip(weights, ids, strict=True))
    labels = (rng.random(examples) < 1.0 / (1.0 + np.exp(-truth))).astype(np.float32)
    return Additive(np.stack(ids, axis=1), np.asarray(truth), labels, weights)


def intervals(examples: int = 400_000, tail: int = 50_000) -> dict[str, Any]:
    """How often the 95 % intervals of Gaussian weights hold the truth, before the label is known.

    Returns:
        ``log_odds``: share of the last examples, each scored before it was learned, whose interval holds their true
        log odds; ``weights``: the same of each id's own weight in the end. What all ids of a field have in common is
        taken off, since only the sum of fields and bias is to be known.
    """
    stream = additive(examples)
    features = [
        FeatureSettings(name=name, kind="id", source=f"item.{name}", prior_variance=variance)
        for name, (_, variance) in FIELDS.items()
    ]
    definition = define(
        (),
        tuple(features),
        (TaskSettings(name="click"),),
        ModelSettings(name="residual", wide="gaussian", hidden=()),
        1,
    )
    learner = Learner(definition, Shard(definition.tables, definition.seed))
    columns = Columns(
        np.ones(examples, dtype=np.int64),
        START_MS + np.arange(examples, dtype=np.int64) * 100,
        {f"item.{name}": stream.ids[:, f] for f, name in enumerate(FIELDS)},
        stream.labels[:, None],
        np.ones(examples, dtype=np.float32),
    )
    held = []
    for first, batch in _batches(learner.scorer.featurizer.featurize(columns)):
        moments = learner.scorer.embedder.embed(batch).moments
        assert moments is not None  # noqa: S101 - the definition has Gaussian weights
        deviation = np.sqrt(moments[:, 0, 1] - NOISE)
        held.append(np.abs(moments[:, 0, 0] - stream.truth[first : first + len(batch)]) <= _SURE * deviation)
        learner.score_and_learn(batch)
    return {
        "examples": examples,
        "log_odds": float(np.concatenate(held)[-tail:].mean()),
        "log_odds_first": float(np.concatenate(held)[:tail].mean()),
        "weights": _weights_held(learner, stream),
    }


def _batches(batch: Batch) -> Iterator[tuple[int, Batch]]:
    first = 0
    for part in batch.cuts(BATCH):
        yield first, part
        first += len(part)


def _weights_held(learner: Learner, stream: Additive) -> dict[str, float]:
    """Of each field, the share of ids whose own interval holds their true weight."""
    shard, found = learner.shard, {}
    for f, name in enumerate(FIELDS):
        entries = shard.blocks(shard.live_rows(shard.number[name]))[0].entries
        error = entries["values"][:, 0] - stream.weights[f][entries["id"]]
        variance = entries["values"][:, 1].astype(np.float64)
        error -= np.average(error, weights=1.0 / variance)
        found[name] = float((np.abs(error) <= _SURE * np.sqrt(variance)).mean())
    return found


# A truth that depends on the last five items

USERS, ITEMS, KINDS, LIST = 3_000, 200, 10, 5


class Sessions(NamedTuple):
    """A stream in which a visitor likes what is of the kind of the last five items that they clicked.

    Attributes:
        columns: One list a visit; `user.history` is what each visitor had clicked before the stream began.
        truth: float64[N], probability of a click.
    """

    columns: Columns
    truth: NDArray[np.float64]


def sessions(lists: int, seed: int = 1) -> Sessions:
    """Items of unknown kind, shown at random; each of the last five clicks of the item's kind adds to the log odds."""
    rng = np.random.default_rng(seed)
    kind, quality = np.arange(ITEMS) % KINDS, rng.normal(0.0, 0.3, ITEMS)
    past = rng.integers(0, ITEMS, (USERS, 5))
    history = [past[u].tolist() for u in range(USERS)]
    users = rng.integers(0, USERS, lists)
    items = np.empty((lists, LIST), dtype=np.int64)
    truth = np.empty((lists, LIST))
    clicks = np.empty((lists, LIST), dtype=np.float32)
    for n, user in enumerate(users.tolist()):
        items[n] = rng.choice(ITEMS, LIST, replace=False)
        same = (kind[past[user]][:, None] == kind[items[n]]).sum(0)
        truth[n] = 1.0 / (1.0 + np.exp(1.6 - quality[items[n]] - 1.2 * same))
        clicks[n] = rng.random(LIST) < truth[n]
        for item in items[n][clicks[n] > 0]:
            past[user] = [*past[user][1:], item]
    columns = Columns(
        np.full(lists, LIST, dtype=np.int64),
        START_MS + np.arange(lists, dtype=np.int64) * 1000,
        {
            "user.id": users,
            "user.history": [history[user] for user in users.tolist()],
            "item.id": items.ravel(),
            "item.labels.click": clicks.ravel().astype(np.float64),
        },
        clicks.reshape(-1, 1),
        np.ones(lists * LIST, dtype=np.float32),
    )
    return Sessions(columns, truth.ravel())


def _din(*more: FeatureSettings) -> Definition:
    features = (
        FeatureSettings(name="user", kind="id", source="user.id"),
        FeatureSettings(name="item", kind="id", source="item.id"),
        *more,
    )
    tables = (TableSettings(name="item", dim=8, learning_rate=0.05, init_std=0.1),)
    return define(tables, features, (TaskSettings(name="click"),), ModelSettings(name="din", hidden=(32,)), 1)


def sequence_gain(lists: int = 80_000, tail: int = 100_000) -> dict[str, Any]:
    """AUC over the last examples of DIN without a past, with a fixed one, and with the store's sequence."""
    stream = sessions(lists)
    labels = stream.columns.labels[:, 0].astype(np.float64)
    arms = {
        "without": _din(),
        "static": _din(FeatureSettings(name="history", kind="ids", source="user.history", table="item")),
        "sequence": _din(FeatureSettings(name="past", kind="sequence", table="item", of="click", length=5)),
    }
    found: dict[str, Any] = {"examples": labels.size}
    for name, definition in arms.items():
        learner = Learner(definition, Shard(definition.tables, definition.seed))
        batch = learner.scorer.featurizer.featurize(stream.columns)
        scores = np.concatenate([learner.score_and_learn(part)[:, 0] for part in batch.cuts(BATCH)])
        found[name] = auc(labels[-tail:], scores[-tail:])
    found["truth"] = auc(labels[-tail:], stream.truth[-tail:])
    return found


# The section of docs/performance.md


def _section(results: dict[str, dict[str, Any]]) -> str:
    synthetic, kuairand = results["synthetic"], results["kuairand"]
    gaussian, past = results["intervals"], results["sequence"]
    rows = [
        ["synthetic, AUC of the last 200,000 of 2 million", f"{synthetic['auc_tail']:.4f}"],
        ["the same of the true probabilities", f"{synthetic['auc_tail_truth']:.4f}"],
        ["KuaiRand, predicted / observed clicks", f"{kuairand['calibration']:.4f}"],
        ["95 % intervals that hold the true log odds, last 50,000 examples", f"{gaussian['log_odds']:.1%}"],
        ["the same, first 50,000", f"{gaussian['log_odds_first']:.1%}"],
        *([f"95 % intervals that hold an id's true weight: {k}", f"{v:.1%}"] for k, v in gaussian["weights"].items()),
        ["DIN without a past, AUC of the last 100,000", f"{past['without']:.4f}"],
        ["DIN with a fixed history", f"{past['static']:.4f}"],
        ["DIN with the store's sequence of clicks", f"{past['sequence']:.4f}"],
        ["the true probabilities", f"{past['truth']:.4f}"],
    ]
    bins = [[f"{b['predicted']:.4f}", f"{b['observed']:.4f}", f"{b['examples']:,}"] for b in kuairand["reliability"]]
    return "\n\n".join([table(["check", "figure"], rows), table(["KuaiRand: predicted", "observed", "examples"], bins)])


def main() -> None:
    """Runs every check, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="synthetic, kuairand, intervals, sequence")
    asked = parser.parse_args().checks
    torch.set_num_threads(1)
    checks = {
        "synthetic": lambda: shipped("synthetic", 2_000_000, 200_000),
        "kuairand": lambda: shipped("kuairand", None, None),
        "intervals": intervals,
        "sequence": sequence_gain,
    }
    if unknown := set(asked) - set(checks):
        parser.error(f"there is no check {', '.join(sorted(unknown))}; there are {', '.join(checks)}")
    results: dict[str, dict[str, Any]] = {}
    for name in asked or checks:
        results[name] = checks[name]()
        print(json.dumps({"check": name, **results[name]}), flush=True)
    if len(results) == len(checks):
        PAGE.write_text(replace(PAGE.read_text(), "checks of learning", _section(results)))


if __name__ == "__main__":
    main()
