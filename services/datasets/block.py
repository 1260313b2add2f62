"""Ranked lists as arrays: the one form that every reader makes, and both views of it, messages and columns."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.datasets.errors import DatasetError
from trainer.example import Coded, Column, Columns
from trainer.json_value import MISSING

Values = NDArray[np.int64] | NDArray[np.float64] | Coded
"""Values of one source: integers (none absent), numbers (NaN where absent), or coded values."""


def coded(values: Sequence[Any]) -> NDArray[np.object_]:
    """The ``values`` of a :class:`Coded`; lists stay whole."""
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


@dataclass(frozen=True, slots=True)
class Block:
    """L ranked lists with B items in all, in event-time order.

    Attributes:
        sizes: int64[L], items of each list.
        ts: int64[L], event time in ms since the epoch.
        values: By source. ``user.*`` and ``context.*`` have L values, ``item.*`` have B.
        labels: By task: int8[B], -1 where absent.
        outcomes: By name: B numbers that came with the label.
        truth: float64[B], the probability that the first task's label was drawn with, where it is known.
    """

    sizes: NDArray[np.int64]
    ts: NDArray[np.int64]
    values: Mapping[str, Values]
    labels: Mapping[str, NDArray[np.int8]]
    outcomes: Mapping[str, NDArray[np.int64] | NDArray[np.float64]]
    truth: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    def lists(self, start: int, stop: int) -> "Block":
        """The lists from `start` to before `stop`."""
        first, last = int(self.sizes[:start].sum()), int(self.sizes[:stop].sum())
        of_list, of_item = slice(start, stop), slice(first, last)
        return Block(
            sizes=self.sizes[of_list],
            ts=self.ts[of_list],
            values={s: v[of_item if s.startswith("item.") else of_list] for s, v in self.values.items()},
            labels={task: label[of_item] for task, label in self.labels.items()},
            outcomes={name: outcome[of_item] for name, outcome in self.outcomes.items()},
            truth=None if self.truth is None else self.truth[of_item],
        )

    def limited(self, examples: int) -> "Block":
        """As many whole lists from the start as hold at most so many examples."""
        return self.lists(0, int(np.searchsorted(np.cumsum(self.sizes), examples, side="right")))


def rechunk(blocks: Iterable[Block], lists: int) -> Iterator[Block]:
    """The same lists in blocks of `lists` each; the last may be smaller."""
    parts: list[Block] = []
    waiting = 0
    for block in blocks:
        start = 0
        while len(block) - start >= lists - waiting:
            stop = start + lists - waiting
            yield _joined([*parts, block.lists(start, stop)])
            parts, waiting, start = [], 0, stop
        if start < len(block):
            parts.append(block.lists(start, len(block)))
            waiting += len(block) - start
    if parts:
        yield _joined(parts)


def _joined(parts: Sequence[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return Block(
        sizes=np.concatenate([p.sizes for p in parts]),
        ts=np.concatenate([p.ts for p in parts]),
        values={source: _join_values([p.values[source] for p in parts]) for source in first.values},
        labels={task: np.concatenate([p.labels[task] for p in parts]) for task in first.labels},
        outcomes={name: np.concatenate([p.outcomes[name] for p in parts]) for name in first.outcomes},
        truth=None if first.truth is None else np.concatenate([p.truth for p in parts if p.truth is not None]),
    )


def _join_values(parts: Sequence[Values]) -> Values:
    if isinstance(parts[0], Coded):  # blocks of one reader share their `values`
        return Coded(np.concatenate([p.codes for p in parts if isinstance(p, Coded)]), parts[0].values)
    return np.concatenate([p for p in parts if not isinstance(p, Coded)])


def to_columns(block: Block, sources: Sequence[str], tasks: Sequence[str]) -> Columns:
    """A block as the trainer's columns, without a dict an item.

    Args:
        block: L lists with B items.
        sources: Those to take; one that the data set lacks is missing everywhere.
        tasks: Label names, the columns of ``labels``.

    Raises:
        DatasetError: If the data set has none of the labels.
    """
    if not any(task in block.labels for task in tasks):
        raise DatasetError(f"there is no label {' or '.join(tasks)}; this data set has {', '.join(block.labels)}")
    count = int(block.sizes.sum())
    values: dict[str, Column] = {}
    for source in sources:
        found = _afterwards(block, source) if source.startswith(_AFTERWARDS) else block.values.get(source)
        if found is not None:
            values[source] = found
        elif not source.startswith("time."):
            values[source] = [MISSING] * (count if source.startswith("item.") else len(block))
    labels = np.full((count, len(tasks)), math.nan, dtype=np.float32)
    for index, task in enumerate(tasks):
        if task in block.labels:
            known = block.labels[task] >= 0
            labels[known, index] = block.labels[task][known]
    return Columns(block.sizes, block.ts, values, labels, np.ones(count, dtype=np.float32))


_AFTERWARDS = ("item.labels.", "item.outcomes.")


def _afterwards(block: Block, source: str) -> NDArray[np.float64] | None:
    """A label or an outcome as numbers, NaN where absent."""
    _, part, name = source.split(".", 2)
    if part == "outcomes":
        return block.outcomes[name].astype(np.float64) if name in block.outcomes else None
    label = block.labels.get(name)
    return None if label is None else np.where(label < 0, math.nan, label.astype(np.float64))


def to_messages(block: Block) -> Iterator[dict[str, Any]]:
    """A block as messages of ``dolmen.examples``; absent values are absent keys."""
    users = _objects(block.values, "user.", len(block))
    contexts = _objects(block.values, "context.", len(block))
    count = int(block.sizes.sum())
    items = _objects(block.values, "item.", count)
    labels = _objects({f"l.{task}": _labels(label) for task, label in block.labels.items()}, "l.", count)
    outcomes = _objects({f"o.{name}": outcome for name, outcome in block.outcomes.items()}, "o.", count)
    for item, label, outcome in zip(items, labels, outcomes, strict=True):
        item["labels"] = label
        if outcome:
            item["outcomes"] = outcome
    first = 0
    for ts, size, user, context in zip(block.ts.tolist(), block.sizes.tolist(), users, contexts, strict=True):
        yield {"ts": ts, "user": user, "context": context, "items": items[first : first + size]}
        first += size


_LABELS = coded([0, 1, MISSING])


def _labels(label: NDArray[np.int8]) -> Coded:
    return Coded(np.where(label < 0, 2, label).astype(np.int64), _LABELS)


def _objects(values: Mapping[str, Values], prefix: str, count: int) -> list[dict[str, Any]]:
    """One dict for each of `count` rows, of all sources that begin with `prefix`."""
    names: list[str] = []
    columns: list[list[Any]] = []
    gaps = False
    for source, found in values.items():
        if not source.startswith(prefix):
            continue
        names.append(source.removeprefix(prefix))
        column = found.tolist()
        if isinstance(found, Coded):
            gaps = gaps or any(found.values[code] is MISSING for code in np.unique(found.codes))
        elif found.dtype.kind == "f" and np.isnan(found).any():
            gaps, column = True, [MISSING if value != value else value for value in column]
        columns.append(column)
    if not names:
        return [{} for _ in range(count)]
    rows = zip(*columns, strict=True)
    if gaps:
        return [{name: v for name, v in zip(names, row, strict=True) if v is not MISSING} for row in rows]
    return [dict(zip(names, row, strict=True)) for row in rows]
