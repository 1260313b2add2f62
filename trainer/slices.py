"""Slices: by the values of which fields the quality of scores is told apart.

A slice reads raw values, so that it may name a source that no feature reads, and so that a string keeps its name. It
never makes an example faulty: what can be no id belongs to no value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from embedding_store.errors import BadId
from embedding_store.ids import feature_id, render_id
from trainer.example import Coded, Column, Columns, column_of
from trainer.json_value import MISSING
from trainer.settings import FeatureSettings
from trainer.validation import UNNAMED

ABSENT = -1
"""The id of a missing value."""

OTHER = "other"
_GENERATION = 1 << 16  # strings remembered; more than a window of examples holds
_NAME_LENGTH = 64
_EXACT = float(1 << 53)


@dataclass(frozen=True, slots=True)
class _Slice:
    name: str
    source: str
    edges: tuple[float, ...] | None


class Slices:
    """The configured slices.

    Args:
        names: Each a feature of kind id, a number with buckets, or a source such as ``context.country``.
        features: Of the definition.
        values: So many values of each are told apart, the most frequent.

    Attributes:
        names: As configured.
        sources: What the slices read.
        values: As given.

    Raises:
        ValueError: If a name is no such thing; naming the key and the name.
    """

    def __init__(self, names: Sequence[str] = (), features: Sequence[FeatureSettings] = (), values: int = 20) -> None:
        by_name = {feature.name: feature for feature in features}
        faults = [
            f"trainer.slices: {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1})
        ]
        slices = []
        for name in names:
            found = _resolve(name, by_name.get(name))
            if isinstance(found, str):
                faults.append(f"trainer.slices: {name!r} {found}")
            else:
                slices.append(found)
        if faults:
            raise ValueError("\n".join(faults))
        self.names = tuple(names)
        self.sources = tuple(sorted({one.source for one in slices}))
        self.values = values
        self._slices = tuple(slices)
        self._young = _Strings()
        self._old = _Strings()

    def ids(self, columns: Columns) -> NDArray[np.int64]:
        """The value of every example in each slice, int64[B, S]."""
        total = columns.labels.shape[0]
        ids = np.empty((total, len(self._slices)), dtype=np.int64)
        for s, one in enumerate(self._slices):
            column = column_of(columns, one.source)
            some = self._plain_ids(column) if one.edges is None else _bucket_ids(column, one.edges)
            ids[:, s] = some if one.source.startswith("item.") else np.repeat(some, columns.sizes)
        return ids

    def value(self, slice_number: int, key: int | None) -> str:
        """A value as people read it; ``other`` for None."""
        edges = self._slices[slice_number].edges
        if key is None or key == UNNAMED:
            return OTHER
        if key == ABSENT:
            return "missing"
        if edges is not None:
            return _bucket_names(edges)[key]
        if key >= 0:
            return render_id(key)
        text = self._young.names.get(key) or self._old.names.get(key) or render_id(key)
        return text[:_NAME_LENGTH]

    def _plain_ids(self, column: Column) -> NDArray[np.int64]:
        if isinstance(column, Coded):
            return self._plain_ids(column.values.tolist())[column.codes]
        if isinstance(column, np.ndarray):
            whole = (column >= 0) & (column == np.floor(column)) & (column < _EXACT)
            if column.dtype == np.int64:
                whole = column >= 0
            ids = np.where(whole, column, UNNAMED).astype(np.int64)
            if column.dtype == np.float64:
                ids[np.isnan(column)] = ABSENT
            return ids
        return np.fromiter(map(self._id, column), dtype=np.int64, count=len(column))

    def _id(self, value: object) -> int:
        if value is MISSING:
            return ABSENT
        if type(value) is str:
            known = self._young.ids.get(value)
            return self._string_id(value) if known is None else known
        try:
            key = feature_id(value)
        except BadId:
            return UNNAMED
        return key if key >= 0 else self._string_id(str(value))

    def _string_id(self, text: str) -> int:
        """The id of a string, which is remembered: by two generations, so that those of a window always are."""
        if len(self._young.ids) >= _GENERATION:
            self._young, self._old = _Strings(), self._young
        key = int(feature_id(text))
        self._young.ids[text] = key
        self._young.names[key] = text
        return key


class _Strings:
    """Strings to ids and back."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.names: dict[int, str] = {}


def _resolve(name: str, feature: FeatureSettings | None) -> _Slice | str:
    """A slice, or what is wrong with its name."""
    if feature is not None:
        if feature.source is None or feature.kind not in ("id", "number"):
            return f"is a feature of kind {feature.kind}; a slice needs kind id, or a number with buckets"
        if feature.kind == "number" and feature.buckets is None:
            return "is a number without `buckets`, so its values are too many to tell apart"
        return _Slice(name, feature.source, feature.buckets)
    part, dot, rest = name.partition(".")
    if part in ("user", "context", "item") and dot and rest:
        return _Slice(name, name, None)
    if name in ("time.hour", "time.weekday"):
        return _Slice(name, name, None)
    return "is neither a feature nor a source such as context.country"


def _bucket_ids(column: Column, edges: tuple[float, ...]) -> NDArray[np.int64]:
    """How many edges each value reaches."""
    if isinstance(column, Coded):
        return _bucket_ids(column.values.tolist(), edges)[column.codes]
    if isinstance(column, np.ndarray):
        numbers = column.astype(np.float64)
    else:
        numbers = np.array([v if type(v) in (int, float, bool) else np.nan for v in column], dtype=np.float64)
    ids = np.searchsorted(np.array(edges), numbers, side="right").astype(np.int64)
    ids[np.isnan(numbers)] = ABSENT
    return ids


def _bucket_names(edges: tuple[float, ...]) -> list[str]:
    """Names of the buckets that edges make.

    >>> _bucket_names((10.0, 60.0))
    ['< 10', '10 to 60', '>= 60']
    """
    texts = [f"{edge:.12g}" for edge in edges]
    return [f"< {texts[0]}", *(f"{a} to {b}" for a, b in pairwise(texts)), f">= {texts[-1]}"]
