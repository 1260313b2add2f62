"""A whole run: search, choose what stays by a target, tune, and tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.definition import Definition
from trainer.dimension_search import Found, search
from trainer.search.fitting import Fitted, fit, pruned
from trainer.search.matrices import Matrices
from trainer.search.recipe import Recipe
from trainer.search.selection import largest_within

SHARES = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05)


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found.

    Attributes:
        found: By the search.
        full: Parameters at full width.
        curve: Pruned, not tuned, by falling size.
        kept: bool[B, K], what was chosen.
        tuned: The chosen model after tuning, or trained afresh.
        passes: What it cost, in examples by those of the training part; scoring left out.
    """

    found: Found
    full: int
    curve: tuple[Fitted, ...]
    kept: NDArray[np.bool_]
    tuned: Fitted
    passes: float

    def plan(self) -> dict[str, Any]:
        """The plans of all tables as JSON: what ``dolmen store plan`` takes."""
        plans = self.found.plans(self.kept)
        return {
            "tables": {
                name: {"bounds": plan.bounds, "kept": plan.kept, "matrix": plan.matrix} for name, plan in plans.items()
            }
        }

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return {
            "examples": len(self.found.data.labels),
            "seed": self.found.recipe.seed,
            "passes": self.passes,
            "seconds": self.found.seconds + self.tuned.seconds,
            "full_parameters": self.full,
            "curve": [self._point(one) for one in self.curve],
            "chosen": self._point(self.tuned),
        }

    def _point(self, one: Fitted) -> dict[str, Any]:
        return {
            "parameters": one.parameters,
            "share": one.parameters / self.full,
            "bytes": one.bytes,
            "validation": {"auc": one.validation.auc, "log_loss": one.validation.log_loss},
            "test": {"auc": one.test.auc, "log_loss": one.test.log_loss},
        }

    def markdown(self) -> str:
        """The figures and the widths as tables."""
        head = (
            "| | parameters | share | bytes | validation AUC | log loss | test AUC | log loss |",
            "|---|" + "---|" * 7,
        )
        rows = [_row("pruned", one, self.full) for one in self.curve]
        rows.append(_row("**chosen, tuned**", self.tuned, self.full))
        cost = f"{self.passes:.2f} passes over the training part, {self.found.seconds + self.tuned.seconds:.0f} s."
        widths = self.kept.sum(axis=1)
        blocks = self.found.blocks
        lines = [
            f"| {name} | {'0, ' + ', '.join(map(str, blocks.bounds[name])) if blocks.bounds[name] else '0'} | "
            f"{', '.join(map(str, blocks.rows[part].tolist()))} | {', '.join(map(str, widths[part].tolist()))} |"
            for name, part in blocks.tables.items()
        ]
        table = ("| table | sightings from | ids | dimensions kept |", "|---|---|---|---|")
        return "\n".join([*head, *rows, "", cost, "", *table, *lines])


def _row(name: str, one: Fitted, full: int) -> str:
    v, t = one.validation, one.test
    return (
        f"| {name} | {one.parameters:,} | {one.parameters / full:.1%} | {one.bytes:,} "
        f"| {v.auc:.4f} | {v.log_loss:.4f} | {t.auc:.4f} | {t.log_loss:.4f} |"
    )


def run(
    definition: Definition,
    data: Matrices,
    recipe: Recipe,
    parameters: float = 0.3,
    max_loss: float | None = None,
    tables: Sequence[str] | None = None,
    retrain: bool = False,
) -> Report:
    """Searches, prunes to a target and tunes. The target is met on validation; the test part only tells.

    Args:
        definition: The model.
        data: Its examples.
        recipe: How.
        parameters: Share of the vectors' numbers that may stay.
        max_loss: In place of it: the smallest of :data:`SHARES` up to which no pruned model's validation AUC lies
            further below the unpruned one's.
        tables: Those to search; None: all.
        retrain: Whether the pruned model is trained from fresh values as well, which costs as many passes of training
            again; the better one on validation is taken.

    Raises:
        SearchError: If the target cannot be met, or there is no such table.
    """
    found = search(definition, data, recipe, tables)
    shares = [share for share in SHARES if share >= 1 / data.dim]
    curve = tuple(pruned(found, found.kept(share)) for share in shares)
    if max_loss is not None:
        losses = [curve[0].validation.auc - one.validation.auc for one in curve]
        parameters = shares[largest_within(losses, max_loss)]
    kept = found.kept(parameters)
    chosen = fit(definition, data, recipe, kept, found)
    passes = found.passes + chosen.passes
    if retrain:
        fresh = fit(definition, data, recipe, kept)
        passes += fresh.passes
        chosen = max(chosen, fresh, key=lambda one: one.validation.auc)
    return Report(found, int(found.blocks.rows.sum()) * data.dim, curve, kept, chosen, passes)
