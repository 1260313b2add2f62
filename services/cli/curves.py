"""Draws an evaluation: quality over the stream, the reliability table, and the slices."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.whole_file import replacing
from trainer.curves import curve
from trainer.evaluation import Evaluation

_MEASURES = (
    ("auc", "AUC"),
    ("log_loss", "log loss"),
    ("normalized_entropy", "normalized entropy"),
    ("calibration", "calibration: predicted by observed"),
)


def draw(evaluation: Evaluation, report: dict[str, Any], path: Path) -> None:
    """Writes one PNG, whole or not at all.

    Args:
        evaluation: Whose labels and scores the curves are of.
        report: What :meth:`Evaluation.report` gave.
        path: Of the file.

    Raises:
        OSError: If the file cannot be written.
    """
    figure = Figure(figsize=(15, 8), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    window = 0
    for t, task in enumerate(report["tasks"]):
        found = curve(*evaluation.known(t))
        window = max(window, found.window)
        for axis, (name, _) in zip(axes, _MEASURES, strict=False):
            axis.plot(found.examples, getattr(found, name), label=task)
        table = report["tasks"][task]["reliability"]
        axes[4].plot([b["predicted"] for b in table], [b["observed"] for b in table], marker="o", label=task)
    for axis, (_, title) in zip(axes, _MEASURES, strict=False):
        axis.set(title=title, xlabel="examples")
    axes[3].axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    low, high = axes[3].get_ylim()
    axes[3].set_ylim(min(low, 0.95), max(high, 1.05))
    _finish_reliability(axes[4])
    _draw_slices(axes[5], report["tasks"])
    for axis in axes[:5]:
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(f"{report['examples']:,} examples, each scored before it was learned; windows of {window:,}")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _finish_reliability(axis: Axes) -> None:
    top = max((axis.get_xlim()[1], axis.get_ylim()[1], 0.01))
    axis.plot([0, top], [0, top], color="grey", linewidth=0.8, linestyle="--")
    axis.set(title="reliability, bins of equally many", xlabel="predicted", ylabel="observed")


def _draw_slices(axis: Axes, tasks: dict[str, Any]) -> None:
    """AUC of the values of the first task's slices; without slices, how the scores spread."""
    first, row = next(iter(tasks.items()))
    bars = [
        (f"{name} = {one['value']}", one["auc"])
        for name, values in row.get("slices", {}).items()
        for one in values
        if one["auc"] is not None
    ][:40]
    if not bars:
        table = row["reliability"]
        axis.bar(range(1, len(table) + 1), [b["predicted"] for b in table])
        axis.set(title=f"{first}: mean score by bin", xlabel="bin")
        return
    axis.barh(range(len(bars)), [value for _, value in bars], color="lightsteelblue")
    left = min(0.5, *(value for _, value in bars))
    for y, (label, _) in enumerate(bars):
        axis.text(left + 0.005, y, label, va="center", fontsize=7, parse_math=False)
    axis.invert_yaxis()
    axis.set(title=f"{first}: AUC by slice", xlim=(left, 1.0), yticks=())
