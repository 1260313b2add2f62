"""``dolmen evaluate`` on KuaiRand, River's logistic regression and a torch DeepFM on a hashed table, in one run."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xxhash
from sklearn.metrics import roc_auc_score

from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.batch import Batch
from trainer.evaluation import evaluate
from trainer.features import Featurizer

REPEATS = 3
HASHED_ROWS = 1 << 17


def dolmen(batch_size: int) -> dict[str, Any]:
    definition = load_settings(dataset="kuairand").definition()
    sources = Featurizer(definition).sources
    best: dict[str, Any] = {}
    for _ in range(REPEATS):
        data = open_dataset("kuairand").columns_with_truth(sources, [t.name for t in definition.tasks])
        report = evaluate(definition, data, batch_size).report()
        if not best or report["seconds"] < best["seconds"]:
            best = report
    return {
        "learner": f"Dolmen, batch {batch_size}",
        "examples_per_second": best["examples_per_second"],
        "auc": best["tasks"]["click"]["auc"],
        "auc_second_half": best["tasks"]["click"]["auc_second_half"],
    }


def _batches(size: int) -> list[Batch]:
    definition = load_settings(dataset="kuairand").definition()
    featurizer = Featurizer(definition)
    parts = [featurizer.featurize(c) for c in open_dataset("kuairand").columns(featurizer.sources, ["click"])]
    return Batch.join(parts).cuts(size)


def _row(name: str, seconds: float, labels: list[float], scores: list[float]) -> dict[str, Any]:
    half = len(labels) // 2
    return {
        "learner": name,
        "examples_per_second": len(labels) / seconds,
        "auc": float(roc_auc_score(np.array(labels) > 0.5, scores)),
        "auc_second_half": float(roc_auc_score(np.array(labels[half:]) > 0.5, scores[half:])),
    }


def river_logistic() -> dict[str, Any]:
    """River's logistic regression, per-example Adagrad, the same fields; a list is scored before it is learned."""
    from river import linear_model, optim

    lists = []
    for batch in _batches(1):
        fields = (batch.occurrences.offsets.size - 1) // len(batch)
        ids = batch.occurrences.ids.reshape(len(batch), fields).tolist()
        lists.append(
            [
                ({(f, i): 1.0 for f, i in enumerate(row)}, float(y))
                for row, y in zip(ids, batch.labels[:, 0], strict=True)
            ]
        )
    model = linear_model.LogisticRegression(optim.AdaGrad(0.05), l2=0.0, intercept_lr=0.01)
    labels, scores = [], []
    start = time.perf_counter()
    for rows in lists:
        for x, y in rows:
            scores.append(model.predict_proba_one(x)[True])
            labels.append(y)
        for x, y in rows:
            model.learn_one(x, bool(y))
    return _row("River, logistic regression", time.perf_counter() - start, labels, scores)


def torch_hashed(batch_size: int = 256) -> dict[str, Any]:
    """What a stranger writes first: DeepFM over one hashed table with torch's sparse Adagrad and averaged gradients."""
    torch.manual_seed(1)
    batches = []
    for batch in _batches(batch_size):
        fields = (batch.occurrences.offsets.size - 1) // len(batch)
        ids = batch.occurrences.ids.reshape(len(batch), fields)
        salt = np.array([xxhash.xxh3_64_intdigest(str(f).encode()) for f in range(fields)], dtype=np.uint64).astype(
            np.int64
        )
        batches.append((torch.from_numpy((ids ^ salt) % HASHED_ROWS), torch.from_numpy(batch.labels[:, 0].copy())))
    table = torch.nn.Embedding(HASHED_ROWS, 9, sparse=True)
    torch.nn.init.normal_(table.weight, std=0.01)
    network = torch.nn.Sequential(torch.nn.Linear(fields * 8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    sparse, dense = torch.optim.Adagrad(table.parameters(), lr=0.05), torch.optim.Adam(network.parameters(), lr=1e-3)
    labels, scores = [], []
    start = time.perf_counter()
    for ids, y in batches:
        rows = table(ids)
        vectors = rows[:, :, 1:]
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1)
        logits = rows[:, :, 0].sum(1) + pairs + network(vectors.flatten(1))[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y)
        sparse.zero_grad()
        dense.zero_grad()
        loss.backward()
        sparse.step()
        dense.step()
        labels += y.tolist()
        scores += logits.detach().tolist()
    return _row(f"torch DeepFM, hashed table, batch {batch_size}", time.perf_counter() - start, labels, scores)


def run() -> list[dict[str, Any]]:
    """Every learner in turn; the ratio is to River's speed in this run."""
    torch.set_num_threads(1)
    makers: list[Callable[[], dict[str, Any]]] = [
        lambda: dolmen(64),
        lambda: dolmen(1024),
        river_logistic,
        torch_hashed,
    ]
    rows = [make() for make in makers]
    river = next(row["examples_per_second"] for row in rows if row["learner"].startswith("River"))
    return [{**row, "ratio": row["examples_per_second"] / river} for row in rows]


if __name__ == "__main__":
    for line in run():
        print(json.dumps(line))
