"""The ranking score: a formula over the tasks' probabilities, such as ``0.7*click + 0.3*long_view``."""

import ast
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST = 200
"""Characters of a formula; so even a product of many numbers stays finite."""
_LARGEST = 1000.0


class _Value(NamedTuple):
    """A part's value float64[B], and its slope by each task that is in it: float64[B] each."""

    value: NDArray[np.float64]
    slopes: dict[int, NDArray[np.float64]]


class Formula:
    """Names of tasks, numbers, ``+``, ``-``, ``*`` and parentheses. The name of one task alone is a formula too.

    Args:
        text: The formula. A task whose name has a ``-`` can only stand alone.
        tasks: Names of the T tasks.

    Attributes:
        text: As given.
        tasks: Numbers of the tasks in it, in the order in which they first stand there; at least one.

    Raises:
        ValueError: Saying what is wrong, and with which part of it.

    >>> some = Formula("0.5*click + 0.25*(1 - skip)", ["skip", "click"])
    >>> some.tasks, some.scores(np.array([[0.0, 0.5], [1.0, 1.0]])).tolist()
    ((1, 0), [0.5, 0.5])
    """

    def __init__(self, text: str, tasks: Sequence[str]) -> None:
        self.text = text
        self._numbers = {name: number for number, name in enumerate(tasks)}
        if text in self._numbers:
            self._tree: ast.expr = ast.Name(text)
            self.tasks: tuple[int, ...] = (self._numbers[text],)
            return
        if len(text) > LONGEST:
            raise ValueError(f"a formula may have {LONGEST} characters, and this one has {len(text)}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError(f'{text!r} is no formula; one reads like "0.7*click + 0.3*long_view"') from None
        self.tasks = tuple(dict.fromkeys(self._check(self._tree)))
        if not self.tasks:
            raise ValueError(f"{text!r} names no task; there {_are(tasks)}")

    def scores(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """The ranking scores: float64[B, T] -> float64[B]."""
        return self._value(self._tree, probabilities).value

    def deviations(self, probabilities: NDArray[np.float64], deviations: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standard deviations of the scores, to first order.

        The tasks' weights are learned apart, so what is unknown about one task is independent of the others.

        Args:
            probabilities: float64[B, T].
            deviations: float64[B, T], their standard deviations.
        """
        variance = np.zeros(len(probabilities))
        for task, slope in self._value(self._tree, probabilities).slopes.items():
            variance += (slope * deviations[:, task]) ** 2
        return np.asarray(np.sqrt(variance))

    def _check(self, node: ast.expr) -> list[int]:
        """Numbers of the tasks in a part, as they stand there."""
        match node:
            case ast.Name() | ast.Attribute():
                name = ast.unparse(node)
                if name not in self._numbers:
                    raise ValueError(f"there is no task {name!r}; there {_are(tuple(self._numbers))}")
                return [self._numbers[name]]
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                if not number <= _LARGEST:
                    raise ValueError(f"the number {ast.unparse(node)} is larger than {_LARGEST:g}")
                return []
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=inner):
                return self._check(inner)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult()):
                return [*self._check(node.left), *self._check(node.right)]
        part = ast.unparse(node)
        raise ValueError(f"{part!r} cannot stand in a formula; tasks, numbers, +, -, * and parentheses can")

    def _value(self, node: ast.expr, p: NDArray[np.float64]) -> _Value:
        match node:
            case ast.Constant(value=number):
                return _Value(np.full(len(p), float(number)), {})  # type: ignore[arg-type]  # checked to be a number
            case ast.UnaryOp(op=ast.UAdd(), operand=inner):
                return self._value(inner, p)
            case ast.UnaryOp(operand=inner):
                value, slopes = self._value(inner, p)
                return _Value(-value, {task: -slope for task, slope in slopes.items()})
            case ast.BinOp():
                return _combined(node.op, self._value(node.left, p), self._value(node.right, p))
        task = self._numbers[ast.unparse(node)]
        return _Value(p[:, task], {task: np.ones(len(p))})


def _combined(operator: ast.operator, a: _Value, b: _Value) -> _Value:
    """Sum, difference or product; slopes by the rules of each."""
    if isinstance(operator, ast.Mult):
        value, by_a, by_b = a.value * b.value, b.value, a.value
    else:
        by_a = np.ones_like(a.value)
        by_b = by_a if isinstance(operator, ast.Add) else -by_a
        value = a.value + by_b * b.value
    slopes = {task: by_a * slope for task, slope in a.slopes.items()}
    for task, slope in b.slopes.items():
        slopes[task] = slopes.get(task, 0.0) + by_b * slope
    return _Value(value, slopes)


def _are(tasks: Sequence[str]) -> str:
    return f"{'is' if len(tasks) == 1 else 'are'} {', '.join(tasks)}"
