"""Dimension search and its rivals: parameters and bytes against AUC.

**Sources**: Cheng et al. 2020, Differentiable Neural Input Search (arXiv 2006.04466), section 4; the rivals' papers are
named in docs/encodings.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.bootstrap import Resampled
from experiments.data import there
from experiments.encoded import Outcome
from experiments.page import Page, table
from experiments.rivals import FULL, outcomes
from experiments.run import Run
from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.definition import Definition
from trainer.dimension_search import Recipe
from trainer.features import Featurizer
from trainer.search import planted, recovery
from trainer.search.matrices import Matrices, from_stream

DATASETS = {"kuairand": 5, "movietweetings": 5, "movielens": 2, "planted": 2}
"""And with how many seeds."""
_LEAST = 1500  # examples; fewer do not give every part both labels
_UNDRAWN = ("alpha", "axes as", "tuned", "afresh", "store's")
_GROUPS = ("uniform", "DNIS", "frequency", "hashed", "unified", "low rank", "nested", "the same rows in int8")


class Part(NamedTuple):
    """One data set under one seed."""

    dataset: str
    seed: int
    limit: int | None


class Done(NamedTuple):
    """Labels of the test part, float64[n], and what every rival gives there."""

    labels: NDArray[np.float64]
    rows: int
    outcomes: dict[str, Outcome]


def _searched(part: Part) -> tuple[Definition, Matrices, Recipe]:
    if part.dataset == "planted":
        truth = planted.make_truth(part.seed)
        examples = truth.examples if part.limit is None else min(truth.examples, part.limit)
        data = planted.planted(truth, part.seed, examples)
        return planted.definition(seed=part.seed), data, recovery.recipe(part.seed, align=True)
    definition = load_settings(dataset=f"{part.dataset}_vectors").definition()
    columns = open_dataset(part.dataset, part.limit).columns(
        Featurizer(definition).sources, [task.name for task in definition.tasks]
    )
    return definition, from_stream(definition, columns), Recipe.budget(seed=part.seed)


def one_seed(part: Part) -> Done:
    """Every rival on one data set under one seed."""
    definition, data, recipe = _searched(part)
    found = outcomes(definition, data, recipe)
    return Done(data.labels[data.part("test")].astype(np.float64), data.rows - len(data.tables), found)


def run(how: Run) -> Page:
    """Parameters, bytes and AUC of every rival, on every data set that is here."""
    names, missing = there([name for name in DATASETS if name != "planted"])
    names.append("planted")
    limit = None if how.limit is None else max(_LEAST, how.limit)
    parts = [Part(d, seed, limit) for d in names for seed in how.some_seeds(DATASETS[d])]
    done = dict(zip(parts, how.each(one_seed, parts), strict=True))
    found = {d: [done[part] for part in parts if part.dataset == d] for d in names}
    areas = {d: _areas(some) for d, some in found.items()}
    sections = [f"## {d}\n\n{_section(some, areas[d])}" for d, some in found.items()]
    held = "; ".join(f"{d} {areas[d]['DNIS, 30%'].less(areas[d][FULL]).signed}" for d in names)
    text = (
        "A DeepFM without linear weights and statistics, so that all signal is in the vectors "
        "(`services/datasets/*_vectors.toml`); on planted data a dot product, blocks of items using 1 to 8 "
        "dimensions. 80 % of a stream is for training, a tenth each for validation and test, in time order. Every "
        "rival learns from as many training examples as the search and its tuning together, and ends with what was "
        "best on one half of the validation part, looked at twice a pass; alphas learn on the other half. `DNIS` is "
        "the tuned model or the one trained afresh, whichever is better on that half. Parameters and bytes are those "
        "of all rows, counted as in [Encodings](../encodings.md). From `hashed` on, rows are held by the store's "
        "encodings, before by the search's own model; `uniform 16 in the store's rows` ties the two. Hashed, unified "
        "and low rank are tables of 200 ids or more, the others stay whole. AUC on the test part, mean over the "
        "seeds ± the standard error over resamples of seeds and examples; differences are paired. "
        f"{missing}\n\n" + "\n\n".join(sections) + f"\n\n{_times(found)}"
    )
    finding = f"AUC of DNIS at 30 % of the parameters, less that of {FULL}: {held}."
    return Page("Dimensions", finding, text, _drawing(found, areas))


Areas = dict[str, Resampled]


def _areas(done: list[Done]) -> Areas:
    labels = [one.labels for one in done]
    same = all(np.array_equal(labels[0], other) for other in labels[1:])
    return {
        name: Resampled(labels[0] if same else labels, [one.outcomes[name].scores.astype(np.float64) for one in done])
        for name in done[0].outcomes
    }


def _mean(done: list[Done], name: str, part: str) -> float:
    return float(np.mean([getattr(one.outcomes[name], part) for one in done]))


def _section(done: list[Done], areas: Areas) -> str:
    whole, size = (_mean(done, FULL, part) for part in ("parameters", "bytes"))
    rows = []
    for name, area in areas.items():
        parameters, held = _mean(done, name, "parameters"), _mean(done, name, "bytes")
        rows.append([
            name, f"{parameters:,.0f}", f"{parameters / whole:.1%}", f"{held / 1024:,.0f}", f"{held / size:.1%}",
            str(area.auc()), "" if name == FULL else area.less(areas[FULL]).signed,
            f"{_mean(done, name, 'passes'):.2f}",
        ])  # fmt: skip
    head = ["rows", "parameters", "of full", "KiB", "of full", "AUC", f"less {FULL}", "passes"]
    text = (
        f"{done[0].rows:,} ids, {done[0].labels.size:,} test examples, "
        f"{'one seed' if len(done) == 1 else f'{len(done)} seeds'}.\n\n{table(head, rows)}\n\n"
    )
    return text + "\n".join(f"* {line}" for line in _statements(areas))


def _statements(areas: Areas) -> list[str]:
    """What the experiment is for, answered in figures."""
    full = areas[FULL]

    def less(name: str, other: Resampled) -> str:
        return areas[name].less(other).signed

    kept = areas["DNIS, 30%"].less(full)
    verdict = "not below" if kept.mean >= -0.001 else "below"
    narrow = areas["uniform 2"].less(full)
    pays = "already as good as" if narrow.mean >= -0.001 else "worse than"
    return [
        f"DNIS at 30 % of the parameters: {kept.signed} against {FULL}, {verdict} it minus 0.001.",
        f"Against the frequency rule at equal parameters: {less('DNIS, 30%', areas['frequency rule, 30%'])} at 30 %, "
        f"{less('DNIS, 20%', areas['frequency rule, 20%'])} at 20 %, "
        f"{less('DNIS, 10%', areas['frequency rule, 10%'])} "
        "at 10 %.",
        f"Uniform 2 is {pays} {FULL}: {narrow.signed}.",
        f"Shrinkage: one alpha a block adds {less(f'{FULL}, an alpha a block', full)} to {FULL} and prunes nothing; "
        f"one a block and dimension {less(f'{FULL}, an alpha a block and dimension', full)}.",
        f"Tuned, the pruned model at 30 % has {less('DNIS tuned, 30%', full)} against {FULL}; trained afresh "
        f"{less('DNIS trained afresh, 30%', full)}.",
        "Alignment: at 30 % and tuned, a search on aligned axes less one on the axes as they are: "
        f"{less('DNIS tuned, 30%', areas['DNIS tuned on axes as they are, 30%'])}.",
    ]


def _times(found: dict[str, list[Done]]) -> str:
    parts = (("DNIS tuned, 30%", "search_s"), ("DNIS tuned, 30%", "seconds"), (FULL, "seconds"))
    rows = [[d, *(f"{_mean(done, name, part):.1f}" for name, part in parts)] for d, done in found.items()]
    return (
        "## Time\n\nSeconds of one thread, two data sets side by side. Times of the machine that wrote this page: "
        "they are not repeated.\n\n" + table(["data", "search", "tuning", f"training of {FULL}"], rows)
    )


def _drawing(found: dict[str, list[Done]], areas: dict[str, Areas]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        figure.set_size_inches(3.6 * len(found), 7.5)
        axes = figure.subplots(2, len(found), squeeze=False)
        for row, part in enumerate(("parameters", "bytes")):
            for axis, (dataset, done) in zip(axes[row], found.items(), strict=True):
                whole = _mean(done, FULL, part)
                for group in _GROUPS:
                    names = [n for n in areas[dataset] if n.startswith(group) and not any(w in n for w in _UNDRAWN)]
                    points = sorted((_mean(done, n, part) / whole, areas[dataset][n].auc().mean) for n in names)
                    axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=group)
                axis.set(title=dataset, xlabel=f"share of the {part}", ylabel="AUC, test", xscale="log")
                axis.grid(alpha=0.3)
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_GROUPS), fontsize=8
        )

    return draw
