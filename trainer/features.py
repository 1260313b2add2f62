"""The only featurizer: columns of raw values become ids and numbers, the same way for training and for serving.

Stateless but for a cache of hashed strings. What a number's mean is, the learner knows; here it is only transformed.
"""

import contextlib
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embedding_store.errors import BadId
from embedding_store.ids import feature_id
from embedding_store.lookup import Occurrences
from trainer.batch import Batch
from trainer.errors import BadRecord
from trainer.example import MISSING, Column, Columns, column_of, kind_of
from trainer.settings import Definition, FeatureSettings

_CACHED_STRINGS = 1 << 20


class BadValue(BadRecord):
    """A value that its field cannot take.

    Args:
        place: Index of the list (``user.*``, ``context.*``) or of the item (``item.*``).
        source: Where the value came from.
        detail: What is wrong and what to do.
    """

    def __init__(self, place: int, source: str, detail: str) -> None:
        super().__init__("value", f"`{source}`: {detail}")
        self.place = place
        self.source = source
        self.what = detail


@numba.njit(nogil=True, cache=True)
def cross_ids(left: NDArray[np.int64], right: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Ids of pairs: a mixing of two 64-bit ids, int64[B] each. Order matters."""
    for i in range(left.size):
        x = np.uint64(left[i]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
        x ^= x >> np.uint64(32)
        x = (x + np.uint64(right[i])) * np.uint64(0xD6E8FEB86659FD93)
        x ^= x >> np.uint64(32)
        x *= np.uint64(0xD6E8FEB86659FD93)
        out[i] = np.int64(x ^ (x >> np.uint64(32)))


@numba.njit(nogil=True, cache=True)
def _place(
    flat: NDArray[np.int64], flat_missing: NDArray[np.bool_], counts: NDArray[np.int64], field: int, fields: int,
    offsets: NDArray[np.int64], ids: NDArray[np.int64], missing: NDArray[np.bool_],
) -> None:  # fmt: skip
    at = 0
    for b in range(counts.size):
        first = offsets[b * fields + field]
        for j in range(counts[b]):
            ids[first + j] = flat[at + j]
            missing[first + j] = flat_missing[at + j]
        at += counts[b]


class _Strings(dict[str, int]):
    """Strings and their ids; forgets everything when it has grown too large."""

    def __missing__(self, key: str) -> int:
        if len(self) >= _CACHED_STRINGS:
            self.clear()
        value = self[key] = feature_id(key)
        return value


class Featurizer:
    """Turns columns into batches under one definition.

    Attributes:
        sources: The sources that the features read.
        fields: Features with ids, in the order of a batch's fields.
        numbers: Plain numbers, in the order of a batch's numbers.
        tables: int64[F], number of each field's table among the definition's.
        means: bool[F], whether a field's rows are averaged.
    """

    def __init__(self, definition: Definition) -> None:
        self.fields = tuple(f for f in definition.features if f.has_ids)
        self.numbers = tuple(f for f in definition.features if not f.has_ids)
        self.sources = tuple(sorted({f.source for f in definition.features if f.source}))
        order = {table.name: t for t, table in enumerate(definition.tables)}
        self.tables = np.array([order[f.table_name] for f in self.fields], dtype=np.int64)
        self.means = np.array([f.pooling == "mean" for f in self.fields], dtype=np.bool_)
        self._strings = _Strings()

    def featurize(self, columns: Columns, origins: NDArray[np.uint64] | None = None) -> Batch:
        """The batch of some columns.

        Args:
            columns: L lists.
            origins: uint64[L], where each list came from; needed only to learn from them.

        Raises:
            BadValue: At the first value that its field cannot take.
        """
        total = int(columns.sizes.sum())
        single: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
        ragged: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]] = {}
        times = np.repeat(columns.ts, columns.sizes)
        for feature in self.fields:
            if feature.kind == "cross":
                continue
            column = self._column(feature, columns)
            if feature.kind == "ids":
                ragged[feature.name] = self._lists(feature, column, columns, total)
                continue
            if feature.kind == "number":
                ids, missing = _bucketed(feature, self._floats(feature, column))
            else:
                ids, missing = self._ids(feature, column)
            single[feature.name] = self._spread(ids, feature, columns), self._spread(missing, feature, columns)
        for feature in self.fields:
            if feature.kind == "cross":
                ids, missing = single[feature.inputs[0]]
                for name in feature.inputs[1:]:
                    crossed = np.empty(total, dtype=np.int64)
                    cross_ids(ids, single[name][0], crossed)
                    ids, missing = crossed, missing | single[name][1]
                single[feature.name] = ids, missing
        numbers = np.empty((total, len(self.numbers)), dtype=np.float64)
        for m, feature in enumerate(self.numbers):
            values = self._floats(feature, self._column(feature, columns))
            if feature.transform == "log":
                values = np.copysign(np.log1p(np.abs(values)), values)
            numbers[:, m] = self._spread(values, feature, columns)
        return Batch(
            self._occurrences(single, ragged, total),
            numbers,
            times,
            columns.labels,
            columns.weights,
            columns.sizes,
            _origins_of(columns.sizes, origins),
        )

    def _occurrences(
        self,
        single: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]],
        ragged: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]],
        total: int,
    ) -> Occurrences:
        fields = len(self.fields)
        if not ragged:
            ids = np.empty((total, fields), dtype=np.int64)
            missing = np.empty((total, fields), dtype=np.bool_)
            for f, feature in enumerate(self.fields):
                ids[:, f], missing[:, f] = single[feature.name]
            return Occurrences(ids.ravel(), missing.ravel(), np.arange(total * fields + 1, dtype=np.int64))
        counts = np.ones((total, fields), dtype=np.int64)
        for f, feature in enumerate(self.fields):
            if feature.name in ragged:
                counts[:, f] = ragged[feature.name][2]
        offsets = np.zeros(total * fields + 1, dtype=np.int64)
        np.cumsum(counts.ravel(), out=offsets[1:])
        flat_ids = np.empty(int(offsets[-1]), dtype=np.int64)
        flat_missing = np.empty(int(offsets[-1]), dtype=np.bool_)
        for f, feature in enumerate(self.fields):
            some, gaps = ragged[feature.name][:2] if feature.name in ragged else single[feature.name]
            _place(some, gaps, counts[:, f].copy(), f, fields, offsets, flat_ids, flat_missing)
        return Occurrences(flat_ids, flat_missing, offsets)

    @staticmethod
    def _spread(values: NDArray[Any], feature: FeatureSettings, columns: Columns) -> NDArray[Any]:
        per_item = feature.source is not None and feature.source.startswith("item.")
        return values if per_item or values.size == columns.labels.shape[0] else np.repeat(values, columns.sizes)

    @staticmethod
    def _column(feature: FeatureSettings, columns: Columns) -> Column:
        return column_of(columns, feature.source or "")

    def _ids(self, feature: FeatureSettings, column: Column) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if isinstance(column, np.ndarray):
            column = column if column.dtype == np.int64 and not (column < 0).any() else column.tolist()
        if isinstance(column, np.ndarray):
            return np.array(column, dtype=np.int64), np.zeros(column.size, dtype=np.bool_)
        kinds = set(map(type, column))
        if kinds == {str}:
            return np.fromiter(map(self._strings.__getitem__, column), np.int64, len(column)), np.zeros(
                len(column), np.bool_
            )
        ids = np.zeros(len(column), dtype=np.int64)
        missing = np.zeros(len(column), dtype=np.bool_)
        if kinds == {int}:
            with contextlib.suppress(OverflowError):
                ids[:] = column
                if not (ids < 0).any():
                    return ids, missing
        for i, value in enumerate(column):
            if value is MISSING:
                missing[i] = True
                continue
            try:
                ids[i] = self._strings[value] if type(value) is str else feature_id(value)
            except BadId as error:
                raise BadValue(i, feature.source or "", str(error)) from None
        return ids, missing

    def _lists(
        self, feature: FeatureSettings, column: Column, columns: Columns, total: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Flat ids, missing marks, and how many each example has (at least one: a missing one for an empty list)."""
        flat: list[Any] = []
        counts = np.empty(len(column), dtype=np.int64)
        values = column.tolist() if isinstance(column, np.ndarray) else column
        for i, value in enumerate(values):
            some = value if type(value) is list else [value]
            flat += some or [MISSING]
            counts[i] = max(1, len(some))
        try:
            ids, missing = self._ids(feature, flat)
        except BadValue as error:
            place = int(np.searchsorted(np.cumsum(counts), error.place, side="right"))
            raise BadValue(place, error.source, error.what) from None
        if len(column) == total:
            return ids, missing, counts
        order = np.repeat(np.arange(len(column)), columns.sizes)
        starts = np.concatenate([[0], np.cumsum(counts)])
        spread = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order.tolist()])
        return ids[spread], missing[spread], counts[order]

    @staticmethod
    def _floats(feature: FeatureSettings, column: Column) -> NDArray[np.float64]:
        if isinstance(column, np.ndarray):
            return column.astype(np.float64)
        values = np.empty(len(column), dtype=np.float64)
        for i, value in enumerate(column):
            if type(value) in (int, float, bool):
                values[i] = value
            elif value is MISSING or value is None:
                values[i] = np.nan
            else:
                raise BadValue(
                    i, feature.source or "", f"must be a number, got {kind_of(value)}; leave it out if unknown"
                )
        return values


def _bucketed(feature: FeatureSettings, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids 0 to n of n edges: how many edges a value reaches."""
    missing = np.isnan(values)
    return np.searchsorted(np.array(feature.buckets), values, side="right").astype(np.int64) * ~missing, missing


def _origins_of(sizes: NDArray[np.int64], origins: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
    """A number for each example, from its list's and its place in the list."""
    ends = np.cumsum(sizes)
    place = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - sizes, sizes)
    lists = np.zeros(sizes.size, dtype=np.uint64) if origins is None else origins
    mixed = np.repeat(lists, sizes) * np.uint64(0x9E3779B97F4A7C15) + place.astype(np.uint64) * np.uint64(0x100000001B3)
    return mixed.astype(np.uint64)
