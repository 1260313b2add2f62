"""Raw values of one source as ids or numbers."""

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_store.errors import BadId
from embedding_store.ids import feature_id
from trainer.errors import BadRecord
from trainer.example import Coded, Column
from trainer.json_value import MISSING, kind_of
from trainer.settings import FeatureSettings

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


class _Strings(dict[str, int]):
    """Strings and their ids; forgets everything when it has grown too large."""

    def __missing__(self, key: str) -> int:
        if len(self) >= _CACHED_STRINGS:
            self.clear()
        value = self[key] = feature_id(key)
        return value


class Reader:
    """Reads columns. Stateless but for a cache of hashed strings."""

    def __init__(self) -> None:
        self._strings = _Strings()

    def ids(self, feature: FeatureSettings, column: Column) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids and where they are missing: int64[n], bool[n].

        Raises:
            BadValue: At the first value that is no id.
        """
        if isinstance(column, Coded):
            ids, missing = self.ids(feature, column.values[:].tolist())
            return ids[column.codes], missing[column.codes]
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

    def lists(
        self, feature: FeatureSettings, column: Column, sizes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Flat ids, missing marks, and how many each example has (at least one: a missing one for an empty list)."""
        flat: list[Any] = []
        counts = np.empty(len(column), dtype=np.int64)
        values = column.tolist() if isinstance(column, np.ndarray | Coded) else column
        for i, value in enumerate(values):
            some = value if type(value) is list else [value]
            flat += some or [MISSING]
            counts[i] = max(1, len(some))
        try:
            ids, missing = self.ids(feature, flat)
        except BadValue as error:
            place = int(np.searchsorted(np.cumsum(counts), error.place, side="right"))
            raise BadValue(place, error.source, error.what) from None
        if len(column) == int(sizes.sum()):
            return ids, missing, counts
        order = np.repeat(np.arange(len(column)), sizes)
        starts = np.concatenate([[0], np.cumsum(counts)])
        spread = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order.tolist()])
        return ids[spread], missing[spread], counts[order]

    @staticmethod
    def floats(source: str, column: Column) -> NDArray[np.float64]:
        """Numbers, NaN where missing: float64[n].

        Raises:
            BadValue: At the first value that is no number.
        """
        if isinstance(column, Coded):
            return Reader.floats(source, column.values.tolist())[column.codes]
        if isinstance(column, np.ndarray):
            return column.astype(np.float64)
        values = np.empty(len(column), dtype=np.float64)
        for i, value in enumerate(column):
            if type(value) in (int, float, bool):
                values[i] = value
            elif value is MISSING or value is None:
                values[i] = np.nan
            else:
                raise BadValue(i, source, f"must be a number, got {kind_of(value)}; leave it out if unknown")
        return values


def bucketed(feature: FeatureSettings, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids 0 to n of n edges: how many edges a value reaches."""
    missing = np.isnan(values)
    return np.searchsorted(np.array(feature.buckets), values, side="right").astype(np.int64) * ~missing, missing
