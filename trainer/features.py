"""The only featurizer: columns of raw values become ids and numbers, the same way for training and for serving.

Stateless but for a cache of hashed strings. What a number's mean is, the learner knows; here it is only transformed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.lookup import Fields, Occurrences
from trainer.batch import Batch
from trainer.crosses import cross_ids
from trainer.definition import Definition, Field, Key, sequence_keys
from trainer.earlier import Earlier
from trainer.example import Column, Columns, column_of
from trainer.intake import sources_of
from trainer.settings import FeatureSettings
from trainer.values import BadValue, Reader, bucketed


@kernel()
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


class Featurizer:
    """Turns columns into batches under one definition.

    What the store remembers of the stream is not known here: its numbers and ids are missing in a batch, until
    :class:`~trainer.stream.Stream` fills them in by the batch's keys.

    Attributes:
        sources: The sources to collect.
        fields: In the order of a batch's fields.
        numbers: Names of plain numbers, in the order of a batch's numbers; those of statistics come last.
        keys: Ids that statistics and sequences go by, in the order of a batch's keys.
        targets: Labels and outcomes that they take in, in the order of a batch's targets.
        late_crosses: Crosses with a statistic in them.
        of_store: What the store must know of the fields; the places of a sequence follow behind them.
    """

    def __init__(self, definition: Definition) -> None:
        self.fields = definition.fields
        self._plain = tuple(f for f in definition.features if f.kind == "number" and f.buckets is None and f.input)
        remembered = [s.name for s in definition.statistics if s.buckets is None and s.input]
        self.numbers = (*(f.name for f in self._plain), *remembered)
        own = {f.name for f in definition.features}
        crosses = [f for f in definition.features if f.kind == "cross"]
        self.late_crosses = tuple(f for f in crosses if not own.issuperset(f.inputs))
        self._crosses = tuple(f for f in crosses if own.issuperset(f.inputs))
        self._ids_of = tuple(f for f in definition.features if f.has_ids and f.kind != "cross")
        past = definition.sequence
        self.keys = _keys_of(definition, self.late_crosses)
        self.visitor, self.item = (self.keys.index(key) for key in sequence_keys(definition)) if past else (-1, -1)
        label = {f"item.labels.{past.of}"} if past and past.of else set()
        self.targets = tuple(sorted({*sources_of(definition.statistics), *label}))
        self.sources = tuple(sorted({f.source for f in definition.features if f.source} | set(self.targets)))
        order = {table.name: t for t, table in enumerate(definition.tables)}
        places = [Field(past.name, past.table_name, counted=past.count)] * past.items if past else []
        fields = [*self.fields, *places]
        self.of_store = Fields(
            np.array([order[f.table] for f in fields], dtype=np.int64),
            np.array([f.mean for f in fields], dtype=np.bool_),
            np.array([f.counted for f in fields], dtype=np.bool_),
        )
        self._reader = Reader()

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
        for feature in self._ids_of:
            column = self._column(feature, columns)
            if feature.kind == "ids":
                ragged[feature.name] = self._reader.lists(feature, column, columns.sizes)
                continue
            if feature.kind == "number":
                ids, missing = bucketed(feature, self._reader.floats(feature.source or "", column))
            else:
                ids, missing = self._reader.ids(feature, column)
            single[feature.name] = self._spread(ids, feature, columns), self._spread(missing, feature, columns)
        for feature in self._crosses:
            single[feature.name] = _crossed(single, feature.inputs)
        numbers = np.full((total, len(self.numbers)), np.nan, dtype=np.float64)
        for m, feature in enumerate(self._plain):
            values = self._reader.floats(feature.source or "", self._column(feature, columns))
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
            *self._keys(single, total),
            self._targets(columns, total),
            np.zeros_like(columns.labels) if columns.offsets is None else columns.offsets,
            self._earlier(columns, total),
        )

    def _earlier(self, columns: Columns, total: int) -> Earlier:
        told = columns.told
        if told is None or told.columns is None:
            nothing = Earlier.nothing(columns.sizes.size, total, len(self.keys), len(self.targets))
            return nothing if told is None else replace(nothing, requests=told.requests)
        try:
            items = self.featurize(told.columns)
        except BadValue as error:
            raise BadValue(error.place, f"told.{error.source.removeprefix('item.')}", error.what) from None
        return Earlier(told.requests, told.counts, told.places, items.keys, items.key_missing, items.targets)

    def _keys(
        self, single: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]], total: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """int64[B, S] and bool[B, S]."""
        keys = np.empty((total, len(self.keys)), dtype=np.int64)
        missing = np.empty((total, len(self.keys)), dtype=np.bool_)
        for s, key in enumerate(self.keys):
            keys[:, s], missing[:, s] = _crossed(single, key)
        return keys, missing

    def _targets(self, columns: Columns, total: int) -> NDArray[np.float64]:
        """float64[B, O], NaN where absent, as it is when ranking."""
        targets = np.full((total, len(self.targets)), np.nan)
        for o, source in enumerate(self.targets):
            if (column := columns.values.get(source)) is not None:
                targets[:, o] = self._reader.floats(source, column)
        return targets

    def _occurrences(
        self,
        single: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]],
        ragged: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]],
        total: int,
    ) -> Occurrences:
        fields = len(self.fields)
        unknown = np.zeros(total, dtype=np.int64), np.ones(total, dtype=np.bool_)
        if not ragged:
            ids = np.empty((total, fields), dtype=np.int64)
            missing = np.empty((total, fields), dtype=np.bool_)
            for f, field in enumerate(self.fields):
                ids[:, f], missing[:, f] = single.get(field.name, unknown)
            return Occurrences(ids.ravel(), missing.ravel(), np.arange(total * fields + 1, dtype=np.int64))
        counts = np.ones((total, fields), dtype=np.int64)
        for f, field in enumerate(self.fields):
            if field.name in ragged:
                counts[:, f] = ragged[field.name][2]
        offsets = np.zeros(total * fields + 1, dtype=np.int64)
        np.cumsum(counts.ravel(), out=offsets[1:])
        flat_ids = np.empty(int(offsets[-1]), dtype=np.int64)
        flat_missing = np.empty(int(offsets[-1]), dtype=np.bool_)
        for f, field in enumerate(self.fields):
            some, gaps = ragged[field.name][:2] if field.name in ragged else single.get(field.name, unknown)
            _place(some, gaps, counts[:, f].copy(), f, fields, offsets, flat_ids, flat_missing)
        return Occurrences(flat_ids, flat_missing, offsets)

    @staticmethod
    def _spread(values: NDArray[Any], feature: FeatureSettings, columns: Columns) -> NDArray[Any]:
        per_item = feature.source is not None and feature.source.startswith("item.")
        return values if per_item or values.size == columns.labels.shape[0] else np.repeat(values, columns.sizes)

    @staticmethod
    def _column(feature: FeatureSettings, columns: Columns) -> Column:
        return column_of(columns, feature.source or "")


def _crossed(
    single: dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]], names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids of several features crossed, missing where one of them is."""
    ids, missing = single[names[0]]
    for name in names[1:]:
        crossed = np.empty(ids.size, dtype=np.int64)
        cross_ids(ids, single[name][0], crossed)
        ids, missing = crossed, missing | single[name][1]
    return ids, missing


def _keys_of(definition: Definition, late_crosses: Sequence[FeatureSettings]) -> tuple[Key, ...]:
    derived = {s.name for s in definition.statistics}
    keys: list[Key] = [s.by for s in definition.statistics]
    keys += [(name,) for cross in late_crosses for name in cross.inputs if name not in derived]
    if definition.sequence is not None:
        keys += sequence_keys(definition)
    return tuple(dict.fromkeys(keys))


def _origins_of(sizes: NDArray[np.int64], origins: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
    """A number for each example, from its list's and its place in the list."""
    ends = np.cumsum(sizes)
    place = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - sizes, sizes)
    lists = np.zeros(sizes.size, dtype=np.uint64) if origins is None else origins
    mixed = np.repeat(lists, sizes) * np.uint64(0x9E3779B97F4A7C15) + place.astype(np.uint64) * np.uint64(0x100000001B3)
    return mixed.astype(np.uint64)
