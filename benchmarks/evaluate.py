"""``dolmen evaluate`` on KuaiRand: the speed of the shipped configuration, and what each part of it brings."""

import json
from collections.abc import Callable
from typing import Any

from services.datasets.reader import open_dataset
from services.settings import Settings, load_settings
from trainer.definition import Definition, define
from trainer.evaluation import evaluate
from trainer.features import Featurizer

REPEATS = 3
BATCHES = (16, 32, 64, 128, 256, 1024)


def measure(definition: Definition, batch_size: int, repeats: int = REPEATS) -> dict[str, Any]:
    """The figures of one pass; of several, those of the fastest."""
    sources = Featurizer(definition).sources
    tasks = [task.name for task in definition.tasks]
    best: dict[str, Any] = {}
    for _ in range(repeats):
        data = open_dataset("kuairand").columns_with_truth(sources, tasks)
        report = evaluate(definition, data, batch_size).report()
        if not best or report["seconds"] < best["seconds"]:
            best = report
    click = best["tasks"]["click"]
    return {
        "examples_per_second": best["examples_per_second"],
        "auc": click["auc"],
        "auc_second_half": click["auc_second_half"],
        "calibration": click["calibration"],
    }


def run() -> list[dict[str, Any]]:
    """The shipped configuration by batches of several sizes; the ratio is to batches of 64."""
    definition = load_settings(dataset="kuairand").definition()
    rows = [{"learner": f"batch {size}", **measure(definition, size)} for size in BATCHES]
    usual = next(row["examples_per_second"] for row in rows if row["learner"] == "batch 64")
    return [{**row, "ratio": row["examples_per_second"] / usual} for row in rows]


def _without_statistics(settings: Settings) -> dict[str, Any]:
    names = {statistic.name for statistic in settings.statistics}
    return {"statistics": (), "features": tuple(f for f in settings.features if not names & set(f.inputs))}


def _without_crosses(settings: Settings) -> dict[str, Any]:
    return {"features": tuple(f for f in settings.features if f.kind != "cross")}


def _model(**changes: Any) -> Callable[[Settings], dict[str, Any]]:
    return lambda settings: {"model": settings.model.model_copy(update=changes)}


_DEEP = {"name": "deepfm", "wide": None, "learning_rate": 1e-3}
VARIANTS: dict[str, list[Callable[[Settings], dict[str, Any]]]] = {
    "as shipped": [],
    "without hidden layer": [_model(hidden=())],
    "without statistics": [_without_statistics],
    "without crosses": [_without_crosses],
    "DeepFM beside the Gaussian weights": [_model(name="deepfm", learning_rate=1e-3)],
    "DeepFM alone, linear weights by Adagrad": [_model(**_DEEP)],
    "the same without statistics": [_model(**_DEEP), _without_statistics],
}


def ablation() -> list[dict[str, Any]]:
    """The shipped configuration with one thing or another left out, by batches of 64."""
    settings = load_settings(dataset="kuairand")
    rows = []
    for name, changes in VARIANTS.items():
        changed = settings
        for change in changes:
            changed = changed.model_copy(update=change(changed))
        definition = define(
            changed.tables, changed.features, changed.tasks, changed.model, changed.trainer.seed, changed.admission,
            changed.statistics,
        )  # fmt: skip
        rows.append({"learner": name, **measure(definition, 64, 1)})
    return rows


if __name__ == "__main__":
    for line in [*run(), *ablation()]:
        print(json.dumps(line))
