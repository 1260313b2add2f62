"""Planted dimensions: does the search find how many numbers each block of ids needs, where that is known?

**Source**: Cheng et al. 2020, Differentiable Neural Input Search (arXiv 2006.04466); the alignment of the axes before
the search is Dolmen's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.page import Page, table
from experiments.run import Run
from trainer.search.planted import Truth, make_truth
from trainer.search.recovery import TOLERANCE, Recovery, recipe, recover

WAYS = {True: "aligned", False: "as they are"}


class Part(NamedTuple):
    """One search; a small one is over a few blocks."""

    seed: int
    align: bool
    small: bool


def truth_of(seed: int, small: bool) -> Truth:
    """What is planted."""
    return make_truth(seed, dims=(1, 4), sightings=(20, 80), ids=30, users=40) if small else make_truth(seed)


def one_search(part: Part) -> Recovery:
    """What one search finds."""
    return recover(truth_of(part.seed, part.small), recipe(part.seed, part.align))


def run(how: Run) -> Page:
    """Searches with and without alignment, seed by seed."""
    seeds, small = how.some_seeds(5), how.limit is not None
    parts = [Part(seed, align, small) for align in WAYS for seed in seeds]
    done = dict(zip(parts, how.each(one_search, parts), strict=True))
    found = {way: [done[Part(seed, align, small)] for seed in seeds] for align, way in WAYS.items()}
    rows = [
        [way, f"{seed}", *(f"{width}" for width in one.found), "yes" if one.within else "no", f"{one.passes:.2f}"]
        for way, some in found.items() for seed, one in zip(seeds, some, strict=True)
    ]  # fmt: skip
    truth = truth_of(how.seed, small)
    good = [f"{sum(one.within for one in some)} of {len(seeds)} seeds (axes {way})" for way, some in found.items()]
    finding = f"Dimensions of every block found to within {TOLERANCE}: {' and '.join(good)}."
    text = (
        f"{truth.examples:,} clicks by a dot product. Each of {len(truth.dims)} blocks of items uses the first few of "
        f"the truth's axes, {_listed(truth.dims)}, and its items are seen {_listed(truth.sightings)} times in "
        "training, on average. The search has rows of 16 numbers; a block needs as many as its alphas leave.\n\n"
    )
    head = ["axes", "seed", *(f"planted {d}" for d in truth.dims), f"all within {TOLERANCE}", "passes"]
    return Page("Planted dimensions", finding, text + table(head, rows), _drawing(found))


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _drawing(found: dict[str, list[Recovery]]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        axes = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
        for axis, (way, some) in zip(axes, found.items(), strict=True):
            blocks = np.arange(len(some[0].true))
            for one in some:
                axis.plot(blocks, one.found, marker="o", alpha=0.6)
            axis.plot(blocks, some[0].true, color="black", linestyle="--", label="planted")
            axis.set(title=f"axes {way}", xlabel="block, the rarest first", ylabel="dimensions")
            axis.grid(alpha=0.3)
            axis.legend()

    return draw
