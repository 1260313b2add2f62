"""Whether a search finds planted dimensions again."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.dimension_search import search
from trainer.search.planted import ITEM, Truth, definition, planted
from trainer.search.recipe import Recipe

TOLERANCE = 1


@dataclass(frozen=True, slots=True)
class Recovery:
    """Dimensions of each block, the rarest first.

    Attributes:
        true: Planted.
        found: By alpha alone.
        passes: What the search cost.
        seconds: What it took.
    """

    true: tuple[int, ...]
    found: tuple[int, ...]
    passes: float
    seconds: float

    @property
    def within(self) -> bool:
        """Whether every block is within :data:`TOLERANCE`."""
        return max(abs(a - b) for a, b in zip(self.true, self.found, strict=True)) <= TOLERANCE


def recipe(seed: int, align: bool, **changes: Any) -> Recipe:
    """A search of three passes for data of dot products, whose rows must grow long.

    Alpha must tell noise from use in rare blocks too, so its batches are large and its penalty is high.
    """
    own = {
        "rate": 0.1, "alpha_rate": 1e-2, "alpha_batch": 512, "penalty": 0.9, "search_passes": 0.8, "best": False,
    }  # fmt: skip
    return Recipe(**{**own, "seed": seed, "align": align, **changes})


def recover(truth: Truth, how: Recipe) -> Recovery:
    """Draws a whole data set of a truth and searches the items' dimensions.

    Args:
        truth: Of the data.
        how: The search; its seed is the draw's as well.
    """
    data = planted(truth, how.seed)
    found = search(definition(), data, how, [ITEM], {ITEM: truth.bounds})
    widths = found.chosen()[found.blocks.tables[ITEM]].sum(axis=1)
    return Recovery(truth.dims, tuple(int(w) for w in np.asarray(widths)), found.passes, found.seconds)
