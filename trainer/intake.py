"""What statistics take in: labels and outcomes of the examples, as numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from trainer.earlier import Earlier
from trainer.statistic_settings import StatisticSettings

_OPERATORS = ("=", "!=", "<", "<=", ">", ">=")
_LARGEST = 1e15  # sums of so many stay finite in single precision


def sources_of(statistics: Sequence[StatisticSettings]) -> tuple[str, ...]:
    """The labels and outcomes that some statistics need, as sources of an example's items."""
    names = {s.of for s in statistics if s.of} | {source for s in statistics for source, _, _ in s.conditions}
    return tuple(sorted(f"item.{name}" for name in names))


class _Rules(NamedTuple):
    """I inputs for the kernel.

    Attributes:
        targets: int64[I], which target it is made of; -1 for the sighting itself.
        units: float64[I].
        logs: bool[I].
        caps: float64[I].
        starts: int64[I + 1], conditions of each.
        tested: int64[·], which target a condition tests.
        operators: int64[·], a place in _OPERATORS.
        against: float64[·].
    """

    targets: NDArray[np.int64]
    units: NDArray[np.float64]
    logs: NDArray[np.bool_]
    caps: NDArray[np.float64]
    starts: NDArray[np.int64]
    tested: NDArray[np.int64]
    operators: NDArray[np.int64]
    against: NDArray[np.float64]


@kernel(inline="always")
def _holds(operator: int, x: float, y: float) -> bool:
    """False where x is not known."""
    if np.isnan(x):
        return False
    if operator < 2:
        return bool((x == y) == (operator == 0))
    if operator < 4:
        return bool(x < y or (x == y and operator == 3))
    return bool(x > y or (x == y and operator == 5))


@kernel()
def _take(rules: _Rules, targets: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    for b in range(targets.shape[0]):
        for i in range(rules.units.size):
            x = 1.0 if rules.targets[i] < 0 else targets[b, rules.targets[i]]
            x /= rules.units[i]
            if rules.logs[i]:
                x = np.copysign(np.log1p(np.abs(x)), x)
            for c in range(rules.starts[i], rules.starts[i + 1]):
                if not _holds(rules.operators[c], targets[b, rules.tested[c]], rules.against[c]):
                    x = np.nan
            out[b, i] = x if np.isnan(x) else min(max(x, -_LARGEST), rules.caps[i])


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
        places = {target.removeprefix("item."): n for n, target in enumerate(targets)}
        some = tuple(distinct.values())
        conditions = [condition for s in some for condition in s.conditions]
        self._rules = _Rules(
            np.array([-1 if s.of is None else places[s.of] for s in some], dtype=np.int64),
            np.array([s.unit for s in some], dtype=np.float64),
            np.array([s.log for s in some], dtype=np.bool_),
            np.array([_LARGEST if s.most is None else s.most for s in some], dtype=np.float64),
            np.cumsum([0, *(len(s.conditions) for s in some)], dtype=np.int64),
            np.array([places[source] for source, _, _ in conditions], dtype=np.int64),
            np.array([_OPERATORS.index(operator) for _, operator, _ in conditions], dtype=np.int64),
            np.array([number for _, _, number in conditions], dtype=np.float64),
        )

    def inputs(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64[B, O] -> float64[B, I], NaN where an input has no value.

        >>> skip = StatisticSettings(name="s", by=("u",), kind="mean", of="outcomes.ms", where="labels.ok = 0", unit=10)
        >>> targets = np.array([[0.0, 50.0], [1.0, 70.0]])
        >>> Intake([skip], ["item.labels.ok", "item.outcomes.ms"]).inputs(targets).tolist()
        [[5.0], [nan]]
        """
        out = np.empty((targets.shape[0], len(self.names)), dtype=np.float64)
        _take(self._rules, targets, out)
        return out

    def new_inputs(self, targets: NDArray[np.float64], earlier: Earlier) -> NDArray[np.float64]:
        """The inputs of B examples that are not in already: float64[B, O] -> float64[B, I].

        An item that comes again (other labels of a list, or a correction) brings what it now has together with what
        came before, but for what was the same before: the sighting itself, and a label that an earlier message had. A
        label that a correction changed is new, and the one before it stays in: a rate then has both.
        """
        out = self.inputs(earlier.merged(targets))
        again = earlier.places >= 0
        if again.any():
            before = self.inputs(earlier.targets)[earlier.places[again]]
            out[again] = np.where(out[again] == before, np.nan, out[again])
        return out
