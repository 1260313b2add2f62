"""Dolmen beside Vowpal Wabbit, River and a torch DeepFM on a hashed table: one stream, one rule, one run."""

import argparse
import json
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.markdown import table
from benchmarks.report import PAGE, replace
from experiments.peers import PEERS
from experiments.stream import DATASETS, rates, shipped
from services.datasets.errors import DatasetError
from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.evaluation import evaluate
from trainer.features import Featurizer

REPEATS = 2


def dolmen(dataset: str) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The shipped configuration: seconds, labels and scores."""
    settings = load_settings(dataset=dataset)
    definition = settings.definition()
    tasks = [task.name for task in definition.tasks]
    stream = open_dataset(dataset).columns_with_truth(Featurizer(definition).sources, tasks)
    found = evaluate(definition, stream, settings.trainer.batch_size)
    return found.seconds, found.labels[:, 0].astype(np.float64), found.scores[:, 0]


def _row(name: str, seconds: float, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, Any]:
    half = labels.size // 2
    return {
        "learner": name,
        "auc": float(roc_auc_score(labels > 0.5, scores)),
        "auc_second_half": float(roc_auc_score(labels[half:] > 0.5, scores[half:])),
        "examples_per_second": labels.size / seconds,
    }


def run(dataset: str) -> list[dict[str, Any]]:
    """Dolmen's shipped configuration, then every peer with the same inputs and with more; the faster of the runs."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sparse invariant checks", category=UserWarning)
    seconds, labels, scores = min((dolmen(dataset) for _ in range(REPEATS)), key=lambda found: found[0])
    rows = [_row("Dolmen, as shipped", seconds, labels, scores)]
    same = shipped(dataset)
    more = same.beside(rates(dataset))
    for name, package, learner, rate, rate_with_more in PEERS:
        if find_spec(package) is None:
            rows.append({"learner": f"{name}: left out, there is no package {package} for this Python here"})
            continue
        for text, inputs, its_rate in (("", same, rate), (" + ids and rates", more, rate_with_more)):
            seconds, scores = min((learner(inputs, its_rate) for _ in range(REPEATS)), key=lambda found: found[0])
            rows.append(_row(name + text, seconds, inputs.labels, scores))
    return rows


def text_of(dataset: str, rows: list[dict[str, Any]]) -> str:
    """A Markdown table under the data set's name."""
    body = [
        [row["learner"], *("" if key not in row else f"{row[key]:{form}}" for key, form in _COLUMNS)] for row in rows
    ]
    return f"**{dataset}**\n\n" + table(["learner", "AUC", "AUC, second half", "examples/s"], body)


_COLUMNS = (("auc", ".4f"), ("auc_second_half", ".4f"), ("examples_per_second", ",.0f"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="*", help=f"some of {', '.join(DATASETS)}; default: those that are there")
    parser.add_argument("--json", action="store_true", help="print rows, and leave the page alone")
    arguments = parser.parse_args()
    texts = []
    for dataset in arguments.datasets or DATASETS:
        try:
            rows = run(dataset)
        except DatasetError as error:
            if arguments.datasets:
                raise SystemExit(str(error)) from None
            print(f"{dataset}: left out: {error}", flush=True)
            continue
        texts.append(text_of(dataset, rows))
        print("\n".join(json.dumps(row) for row in rows) if arguments.json else texts[-1], flush=True)
    if not arguments.json:
        PAGE.write_text(replace(PAGE.read_text(), "peers", "\n\n".join(texts)))


if __name__ == "__main__":
    main()
