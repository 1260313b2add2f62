"""Planted dimensions: does the search find how many numbers each block of ids needs, where that is known?

**Source**: the method: Cheng et al. 2020, Differentiable Neural Input Search (arXiv 2006.04466). The alignment of the
axes before it is Dolmen's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.page import Page, table
from experiments.run import Run
from trainer.dimension_search import Recipe, search
from trainer.search.planted import ITEM, definition, make_truth, planted

_WAYS = {True: "aligned", False: "axes as they are"}


class Part(NamedTuple):
    """One search."""

    seed: int
    align: bool
    limit: int | None


class Widths(NamedTuple):
    """Dimensions of each block, the rarest first: planted and found."""

    planted: tuple[int, ...]
    found: tuple[int, ...]

    @property
    def largest_error(self) -> int:
        """Of any block."""
        return max(abs(a - b) for a, b in zip(self.planted, self.found, strict=True))


def one_search(part: Part) -> Widths:
    """What one search finds."""
    truth = make_truth(part.seed)
    model = definition(seed=part.seed)
    data = planted(truth, part.seed, None if part.limit is None else min(part.limit, truth.examples))
    found = search(model, data, Recipe(seed=part.seed, align=part.align), (ITEM,), {ITEM: truth.bounds})
    kept = found.chosen()[found.blocks.tables[ITEM]]
    return Widths(truth.dims, tuple(kept.sum(axis=1).tolist()))


def run(how: Run) -> Page:
    """Searches with and without alignment, seed by seed."""
    seeds = how.some_seeds(5)
    parts = [Part(seed, align, how.limit) for align in _WAYS for seed in seeds]
    done = dict(zip(parts, how.each(one_search, parts), strict=True))
    found = {way: [done[Part(seed, align, how.limit)] for seed in seeds] for align, way in _WAYS.items()}
    rows = [
        [way, f"{seed}", *(f"{width}" for width in one.found), f"{one.largest_error}"]
        for way, some in found.items() for seed, one in zip(seeds, some, strict=True)
    ]  # fmt: skip
    truth = make_truth(how.seed)
    good = {way: sum(one.largest_error <= 1 for one in some) for way, some in found.items()}
    finding = "Every block's dimensions found to within one: " + ", ".join(
        f"{count} of {len(seeds)} seeds ({way})" for way, count in good.items()
    )
    text = (
        f"Clicks by a dot product; {len(truth.dims)} blocks of items use {truth.dims} dimensions of those that the "
        f"most frequent block uses, and are seen {truth.sightings} times an id in training. A search of three passes "
        "over rows of 16 numbers; a block's dimensions are those whose alpha stays above one half.\n\n"
    )
    head = ["axes", "seed", *(f"planted {d}" for d in truth.dims), "largest error"]
    return Page("Planted dimensions", f"{finding}.", text + table(head, rows), _drawing(found))


def _drawing(found: dict[str, list[Widths]]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        axes = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
        for axis, (way, some) in zip(axes, found.items(), strict=True):
            blocks = np.arange(len(some[0].planted))
            for one in some:
                axis.plot(blocks, one.found, marker="o", alpha=0.6)
            axis.plot(blocks, some[0].planted, color="black", linestyle="--", label="planted")
            axis.set(title=way, xlabel="block, the rarest first", ylabel="dimensions")
            axis.grid(alpha=0.3)
            axis.legend()

    return draw
