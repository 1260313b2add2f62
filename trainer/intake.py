"""What statistics take in: labels and outcomes of the examples, as numbers."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.settings import StatisticSettings

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_LARGEST = 1e15  # sums of so many stay finite in single precision


def sources_of(statistics: Sequence[StatisticSettings]) -> tuple[str, ...]:
    """The labels and outcomes that some statistics need, as sources of an example's items."""
    names = {s.of for s in statistics if s.of} | {source for s in statistics for source, _, _ in s.conditions}
    return tuple(sorted(f"item.{name}" for name in names))


class Intake:
    """The distinct inputs of some statistics.

    Args:
        statistics: Whose inputs.
        targets: The sources that batches bring, as :func:`sources_of` names them.

    Attributes:
        names: Of the I inputs.
    """

    def __init__(self, statistics: Sequence[StatisticSettings], targets: Sequence[str]) -> None:
        distinct = {s.takes: s for s in statistics}
        self.names = tuple(distinct)
        self._statistics = tuple(distinct.values())
        self._places = {target.removeprefix("item."): n for n, target in enumerate(targets)}

    def inputs(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64[B, O] -> float64[B, I], NaN where an input has no value.

        >>> skip = StatisticSettings(name="s", by=("u",), kind="mean", of="outcomes.ms", where="labels.ok = 0", unit=10)
        >>> targets = np.array([[0.0, 50.0], [1.0, 70.0]])
        >>> Intake([skip], ["item.labels.ok", "item.outcomes.ms"]).inputs(targets).tolist()
        [[5.0], [nan]]
        """
        out = np.empty((targets.shape[0], len(self.names)), dtype=np.float64)
        for i, statistic in enumerate(self._statistics):
            values = out[:, i]
            values[:] = 1.0 if statistic.of is None else targets[:, self._places[statistic.of]]
            if statistic.unit != 1:
                values /= statistic.unit
            if statistic.log:
                values[:] = np.copysign(np.log1p(np.abs(values)), values)
            np.clip(values, -_LARGEST, _LARGEST if statistic.most is None else statistic.most, out=values)
            for source, name, number in statistic.conditions:
                target = targets[:, self._places[source]]
                values[np.isnan(target) | ~_OPERATORS[name](target, number)] = np.nan
        return out
