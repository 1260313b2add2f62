"""Reliability and slices as metrics: series that come and go with the values seen."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trainer.slices import Slices
from trainer.validation import Bin, Progress, SliceQuality, calibration_error

_RELIABILITY = (
    ("dolmen_online_reliability_predicted", "Mean score of a bin of examples of like scores; bin 1 has the lowest."),
    ("dolmen_online_reliability_observed", "Share of positives in a bin of examples of like scores."),
    ("dolmen_online_reliability_examples", "Examples in a bin of examples of like scores."),
)
_SLICES = (
    ("dolmen_slice_auc", "AUC of the examples with one value of a slice."),
    ("dolmen_slice_logloss", "Log loss of the examples with one value of a slice."),
    ("dolmen_slice_normalized_entropy", "Log loss by that of the base rate, with one value of a slice."),
    ("dolmen_slice_calibration", "Predicted by observed positives, with one value of a slice."),
    ("dolmen_slice_examples", "The window's examples with one value of a slice."),
)


@dataclass(frozen=True, slots=True)
class _Task:
    name: str
    window: str
    tables: tuple[tuple[str, tuple[Bin, ...]], ...]
    slices: tuple[tuple[str, tuple[tuple[str, SliceQuality], ...]], ...]


class Health(Collector):
    """Reliability tables, calibration errors, and quality by slice, as of the last :meth:`refresh`.

    A scrape reads what the last refresh made, from whatever thread, and computes nothing.

    Args:
        tasks: Names of the tasks.
        slices: By whose values quality is told apart.
    """

    def __init__(self, tasks: Sequence[str], slices: Slices) -> None:
        self._names = tuple(tasks)
        self._slices = slices
        self._tasks: tuple[_Task, ...] = ()

    def refresh(self, progress: Sequence[Progress]) -> None:
        """Computes everything anew, of each task's progress."""
        self._tasks = tuple(
            _Task(
                name,
                str(one.window),
                (("all", one.total_reliability()), (str(one.window), one.recent_reliability())),
                tuple(
                    (slice_name, self._rows(s, one.recent_by_value(s, self._slices.values)))
                    for s, slice_name in enumerate(self._slices.names)
                ),
            )
            for name, one in zip(self._names, progress, strict=True)
        )

    def _rows(self, slice_number: int, rows: list[SliceQuality]) -> tuple[tuple[str, SliceQuality], ...]:
        """The rows under their values' names; one name twice would be one series twice, which no scrape may hold."""
        named = {}
        for row in rows:
            value = self._slices.value(slice_number, row.id)
            named[value if value not in named else f"{value} #{row.id}"] = row
        return tuple(named.items())

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All families, those without a series too."""
        tasks = self._tasks
        labels = ["task", "window"]
        error = GaugeMetricFamily(
            "dolmen_online_calibration_error", "Mean distance of predicted and observed over the bins.", labels=labels
        )
        bins = [GaugeMetricFamily(name, text, labels=[*labels, "bin"]) for name, text in _RELIABILITY]
        parts = [GaugeMetricFamily(name, text, labels=[*labels, "slice", "value"]) for name, text in _SLICES]
        for task in tasks:
            for window, table in task.tables:
                _add(error, [task.name, window], calibration_error(table))
                for number, one in enumerate(table, 1):
                    for family, value in zip(bins, (one.predicted, one.observed, one.examples), strict=True):
                        _add(family, [task.name, window, str(number)], value)
            for slice_name, rows in task.slices:
                for name, row in rows:
                    q = row.quality
                    values = (q.auc, q.log_loss, q.normalized_entropy, q.calibration, row.examples)
                    for family, value in zip(parts, values, strict=True):
                        _add(family, [task.name, task.window, slice_name, name], value)
        return [error, *bins, *parts]


def _add(family: GaugeMetricFamily, labels: Sequence[str], value: float) -> None:
    if not math.isnan(value):
        family.add_metric(labels, value)
