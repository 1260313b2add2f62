"""Sampled negatives: are the served probabilities still those of the whole stream? With synthetic data, truth known."""

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.definition import Definition, define
from trainer.evaluation import evaluate
from trainer.example import Columns
from trainer.features import Featurizer
from trainer.scorer import sigmoid
from trainer.validation import auc

RATES = (1.0, 0.3, 0.1)
EXAMPLES = 200_000
LENGTHS = (200_000, 1_000_000)
_MODELS = (("DeepFM, Adagrad", None), ("residual, Gaussian", "gaussian"))


def definition_of(wide: str | None) -> Definition:
    """The synthetic data set's shipped one, or its fields with Gaussian weights."""
    shipped = load_settings(dataset="synthetic").definition()
    if wide is None:
        return shipped
    model = shipped.model.model_copy(update={"name": "residual", "wide": wide})
    return define((), shipped.features, shipped.tasks, model, shipped.seed)


def sampled(columns: Columns, rate: float, corrected: bool, rng: np.random.Generator) -> Columns:
    """The same lists with a share of their negatives' labels: the others are absent, as the joiner leaves them."""
    labels = columns.labels.copy()
    labels[(labels == 0) & (rng.random(labels.shape) >= rate)] = math.nan
    offsets = np.full_like(labels, -math.log(rate) if corrected else 0.0)
    return replace(columns, labels=labels, offsets=offsets)


def measure(wide: str | None, rate: float, corrected: bool, examples: int) -> dict[str, Any]:
    """Learns one pass; the figures are over the second half, of all examples, whether their label was kept or not."""
    definition, rng = definition_of(wide), np.random.default_rng(11)
    clicks: list[NDArray[np.float32]] = []

    def stream() -> Iterator[tuple[Columns, NDArray[np.float64] | None]]:
        data = open_dataset("synthetic", examples)
        for columns, truth in data.columns_with_truth(Featurizer(definition).sources, ["click"]):
            clicks.append(columns.labels[:, 0])
            yield sampled(columns, rate, corrected, rng), truth

    found = evaluate(definition, stream(), 64)
    assert found.truths is not None  # noqa: S101 - synthetic data has it
    half = slice(examples // 2, None)
    scores = found.scores[half, 0]
    odds = np.log(scores) - np.log1p(-scores) + (math.log(rate) if corrected else 0.0)
    served, truth = sigmoid(odds.astype(np.float32)), found.truths[half]
    own = found.report()["tasks"]["click"]
    return {
        "taught": float((~np.isnan(found.labels)).mean()),
        "calibration": float(served.sum() / truth.sum()),
        "auc": auc(np.concatenate(clicks)[half].astype(np.float64), served),
        "auc_truth": auc(np.concatenate(clicks)[half].astype(np.float64), truth),
        "own_calibration": own["calibration"],
    }


def section() -> str:
    """A tenth of the negatives kept, of streams of several lengths."""
    rows = []
    for examples in LENGTHS:
        for name, wide in _MODELS:
            r = measure(wide, RATES[-1], True, examples)
            rows.append([f"{examples:,}", name, *(f"{r[key]:.3f}" for key in ("calibration", "own_calibration"))])
    return table(["examples", "model", "served to true probability", "the trainer's own gauge"], rows)


def by_rate(examples: int) -> str:
    """Several shares of the negatives kept, with and without the correction."""
    rows = []
    for name, wide in _MODELS:
        for rate, corrected in [(rate, True) for rate in RATES] + [(RATES[-1], False)]:
            r = measure(wide, rate, corrected, examples)
            rows.append(
                [name, f"{rate:g}", "yes" if corrected else "no", f"{r['taught']:.0%}", f"{r['calibration']:.3f}",
                 f"{r['own_calibration']:.3f}", f"{r['auc']:.4f}", f"{r['auc_truth']:.4f}"]
            )  # fmt: skip
    head = ["model", "negatives kept", "corrected", "examples with a label", "served to true probability",
            "the trainer's own gauge", "AUC", "AUC of the truth"]  # fmt: skip
    return table(head, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    print(by_rate(parser.parse_args().examples))
