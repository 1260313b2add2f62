"""Dimension search against uniform tables and the frequency rule, paired by seed: for docs/dimension-search.md."""

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from embedding_store.encodings.frequency import frequency_dims
from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.definition import Definition
from trainer.dimension_search import Blocks, cut, search
from trainer.features import Featurizer
from trainer.search.fitting import Fitted, fit
from trainer.search.matrices import Matrices, from_stream
from trainer.search.recipe import Recipe

SHARES = (0.3, 0.2, 0.1)
POWER = 0.6


def first_axes(blocks: Blocks, dim: int, widths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Each block keeps its first axes: int64[B] -> bool[B, K]."""
    return np.broadcast_to(np.arange(dim), (len(blocks.rows), dim)) < widths[:, None]


def by_frequency(blocks: Blocks, dim: int) -> NDArray[np.int64]:
    """The rule's width of each block: int64[B]."""
    widths = [frequency_dims(bounds, dim, POWER) for bounds in blocks.bounds.values()]
    return np.array([width for some in widths for width in some])


def measure(definition: Definition, data: Matrices, seed: int) -> Iterator[tuple[str, Fitted]]:
    how = Recipe.budget(3, seed=seed)
    blocks, dim = cut(data, how), data.dim
    for width in (dim, 2):
        kept = first_axes(blocks, dim, np.full(len(blocks.rows), width))
        yield f"uniform {width}", fit(definition, data, how, kept)
    yield "frequency rule", fit(definition, data, how, first_axes(blocks, dim, by_frequency(blocks, dim)))
    found = search(definition, data, how)
    yield "search, nothing dropped", fit(definition, data, how, found.kept(1.0), found)
    for share in SHARES:
        kept = found.kept(share)
        tuned, fresh = fit(definition, data, how, kept, found), fit(definition, data, how, kept)
        yield f"search {share:.0%}, tuned", tuned
        yield f"search {share:.0%}, retrained", fresh
        yield f"search {share:.0%}, better on validation", max(tuned, fresh, key=lambda one: one.validation.auc)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="kuairand")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    definition = load_settings(None, f"{asked.dataset}_vectors").definition()
    columns = open_dataset(asked.dataset).columns(Featurizer(definition).sources, ["click"])
    data = from_stream(definition, columns)
    found: dict[str, list[Fitted]] = {}
    for seed in range(1, asked.seeds + 1):
        for name, one in measure(definition, data, seed):
            found.setdefault(name, []).append(one)
            print(seed, name, one.parameters, one.validation.auc, one.test.auc, flush=True)
    (reference, full), *_ = found.items()
    rows = []
    for name, some in found.items():
        apart = np.array([a.test.auc - b.test.auc for a, b in zip(some, full, strict=True)])
        error = apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
        share = some[0].parameters / full[0].parameters
        mean = np.mean([one.test.auc for one in some])
        rows.append([name, f"{share:.1%}", f"{mean:.4f}", f"{apart.mean():+.4f} ± {error:.4f}"])
    print(table((asked.dataset, "numbers", "test AUC", f"against {reference}"), rows))


if __name__ == "__main__":
    main()
