"""How a search goes: its schedule and its rates."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from trainer.errors import SearchError
from trainer.search.steps import Optimizer

_MORE_THAN_ZERO = ("batch_size", "alpha_batch", "rate", "network_rate", "alpha_rate", "least")
_MEASURING = 0.15
"""Passes that alignment, worths and validation take of a budget, about."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A search. A pass is as many examples as the training part has, forward and backward; all kinds of steps count.

    Attributes:
        seed: Of initial values and orders.
        batch_size: Of training.
        alpha_batch: Of validation, one to each batch of training.
        optimizer: Of the rows.
        rate: Of the rows.
        network_rate: Of the dense weights, Adam's.
        warm_passes: Before the search, with all alpha at 1.
        search_passes: Of training while alpha moves.
        tune_passes: After pruning, at most.
        best: Whether warm-up and tuning end with the values that were best on validation.
        order: 2: alpha looks one step of the rows ahead.
        align: Whether axes are rotated before the search.
        frozen: Whether dense weights rest while alpha moves.
        alpha_rate: Of alpha.
        smoothing: Share of the past in the running mean of alpha's gradient; 0: each batch's own.
        largest: Bound of a number's gradient, in mean gradients of its block.
        penalty: Slope of an L1 term, in mean gradients of a block.
        l1: Weight of an L1 term in the loss, before the gradient is normalised.
        threshold: A dimension whose alpha is no higher goes, where no budget is given.
        rank: What a dimension is worth: the squared change it makes in the logits, or its numbers' mean size.
        least: Ids of a frequency block, where blocks are by powers of two of the count.
        shares: Of frequency blocks by ids, the most frequent first; empty: by powers of two.
    """

    seed: int = 1
    batch_size: int = 512
    alpha_batch: int = 256
    optimizer: Optimizer = "adagrad"
    rate: float = 1e-2
    network_rate: float = 1e-3
    warm_passes: float = 1.0
    search_passes: float = 1.0
    tune_passes: float = 0.4
    best: bool = True
    order: Literal[1, 2] = 1
    align: bool = True
    frozen: bool = False
    alpha_rate: float = 3e-3
    smoothing: float = 0.9
    largest: float = 1.0
    penalty: float = 0.4
    l1: float = 0.0
    threshold: float = 0.5
    rank: Literal["contribution", "magnitude"] = "contribution"
    least: int = 200
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _MORE_THAN_ZERO and value <= 0:
                raise SearchError(f"{field.name}: must be more than 0, got {value}")
            if field.name.endswith("_passes") and value < 0:
                raise SearchError(f"{field.name}: must not be negative, got {value}")

    @property
    def search_cost(self) -> float:
        """Passes that a pass of the search costs: of training, and of alpha's batches.

        A look-ahead goes twice over the batch that it takes its step on and the one that it measures.
        """
        alpha = self.alpha_batch if self.order == 1 else 2 * (self.alpha_batch + self.batch_size)
        return 1.0 + alpha / self.batch_size

    @classmethod
    def budget(cls, passes: float = 3.0, **changes: Any) -> Self:
        """A schedule of so many passes in all: a third warms up, half searches, a sixth is left for the tuning.

        Raises:
            SearchError: If they are not above 0.
        """
        if passes <= 0:
            raise SearchError(f"budget: must be more than 0 passes, got {passes}")
        schedule = {
            "warm_passes": passes / 3,
            "search_passes": passes / 2 / cls(**changes).search_cost,
            "tune_passes": passes / 6 - _MEASURING,
        }
        return cls(**{**schedule, **changes})

    @classmethod
    def faithful(cls, **changes: Any) -> Self:
        """The paper's schedule and rates, whatever they cost.

        A long warm-up, dense weights frozen while alpha moves, hardly any penalty, ten blocks of a tenth of the ids
        each, axes as they come, pruning by size.

        **Source**: Cheng et al. 2020 (arXiv 2006.04466), section 4.1, and the authors' code.
        """
        schedule = {
            "warm_passes": 20.0, "search_passes": 20.0, "tune_passes": 20.0, "alpha_batch": 512, "align": False,
            "frozen": True, "alpha_rate": 1e-2, "smoothing": 0.0, "largest": math.inf, "penalty": 0.0, "l1": 1e-5,
            "threshold": 0.0, "rank": "magnitude", "shares": (0.1,) * 10, "optimizer": "adam", "rate": 1e-3,
        }  # fmt: skip
        return cls(**{**schedule, **changes})
