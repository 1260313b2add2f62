"""Draws what a dimension search found: quality by parameters, and the dimensions of each block."""

from pathlib import Path

from matplotlib.figure import Figure

from services.whole_file import replacing
from trainer.search.report import Report


def draw(report: Report, path: Path) -> None:
    """Writes one PNG, whole or not at all.

    Args:
        report: Of the search.
        path: Of the file.

    Raises:
        OSError: If the file cannot be written.
    """
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = [point.parameters / report.full for point in report.curve]
    left.plot(shares, [point.validation.auc for point in report.curve], marker="o", label="pruned, validation")
    left.plot(shares, [point.test.auc for point in report.curve], marker="o", label="pruned, test")
    share = report.tuned.parameters / report.full
    left.plot([share], [report.tuned.validation.auc], marker="*", markersize=14, label="chosen and tuned, validation")
    left.plot([share], [report.tuned.test.auc], marker="*", markersize=14, label="chosen and tuned, test")
    left.set(title="pruning curve", xlabel="share of the vectors' numbers", ylabel="AUC", xscale="log")
    left.grid(alpha=0.3)
    left.legend()
    found = report.found
    widths = report.kept.sum(axis=1)
    for name, part in found.blocks.tables.items():
        begins = [1, *found.blocks.bounds[name]]
        if len(begins) > 1:
            right.step(begins, widths[part], where="post", marker="o", label=name)
    right.set(title="dimensions kept", xlabel="sightings from which a block begins", ylabel="dimensions", xscale="log")
    right.set_ylim(0, found.data.dim + 0.5)
    right.grid(alpha=0.3)
    if right.get_legend_handles_labels()[0]:
        right.legend()
    with replacing(path) as part_file:
        figure.savefig(part_file, format="png", dpi=110)
