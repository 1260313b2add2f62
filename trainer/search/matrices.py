"""A static data set as matrices: every id a row number, every example a line."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.lookup import Occurrences
from embedding_store.shard import Shard
from trainer import moments
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.errors import SearchError
from trainer.example import Columns
from trainer.features import Featurizer
from trainer.stream import Stream


@dataclass(frozen=True, slots=True)
class TableRows:
    """Which rows are a table's.

    Attributes:
        name: Of the table.
        first: Its cold row, which scores missing values and ids that the training part does not have.
        last: Behind its last row.
        linear: Whether its rows have a linear weight that learns.
    """

    name: str
    first: int
    last: int
    linear: bool


@dataclass(frozen=True, slots=True)
class Matrices:
    """N labelled examples of F fields in time order, over R rows of all tables together.

    A field of one value has one slot; a field of several values has as many as its longest list.

    Attributes:
        dim: K, the full width of every table.
        fields: F.
        slots: int64[S], the field of each slot.
        ids: int32[N, S], the row of each value.
        shares: float32[N, S], its share in the field's vector: 1, 1 / n for one of n averaged values, 0 for none.
        numbers: float32[N, M], standardised by the training part.
        labels: float32[N], of the first task.
        tables: In the order of their rows.
        counts: int64[R], sightings of each row in the training part; 0 for cold rows.
        parts: Where validation and test begin.
    """

    dim: int
    fields: int
    slots: NDArray[np.int64]
    ids: NDArray[np.int32]
    shares: NDArray[np.float32]
    numbers: NDArray[np.float32]
    labels: NDArray[np.float32]
    tables: tuple[TableRows, ...]
    counts: NDArray[np.int64]
    parts: tuple[int, int]

    @property
    def rows(self) -> int:
        """R."""
        return self.tables[-1].last

    def part(self, name: str) -> slice:
        """The examples of ``training``, ``validation`` or ``test``."""
        begins = {"training": 0, "validation": self.parts[0], "test": self.parts[1]}
        ends = {"training": self.parts[0], "validation": self.parts[1], "test": len(self.labels)}
        return slice(begins[name], ends[name])


def from_stream(
    definition: Definition, stream: Iterable[Columns], batch_size: int = 128, shares: Sequence[float] = (0.8, 0.1, 0.1)
) -> Matrices:
    """Reads a stream to its end. Statistics are as they were when each batch would have been scored.

    Args:
        definition: What the fields are. Its first task is searched for.
        stream: Columns with all sources of the definition, in time order.
        batch_size: Statistics lag by so many examples, as they would in a trainer.
        shares: Of training, validation and test.

    Raises:
        SearchError: If the definition has what a search cannot do, or the stream has too few labels.
    """
    _check(definition)
    featurizer = Featurizer(definition)
    shard = Shard(definition.tables, definition.seed, True, definition.admission)
    memory = Stream(definition, shard, featurizer)
    occurrences: list[Occurrences] = []
    numbers, labels = [], []
    for batch in _batches(featurizer, stream, batch_size):
        remembered = memory.read(batch)
        memory.update(batch, remembered)
        occurrences.append(remembered.occurrences)
        numbers.append(remembered.numbers)
        labels.append(batch.labels[:, 0])
    if not labels:
        raise SearchError("the stream has no examples")
    return _matrices(definition, featurizer, occurrences, np.concatenate(numbers), np.concatenate(labels), shares)


def hashed(data: Matrices, buckets: Mapping[str, int], seed: int) -> Matrices:
    """The same with the ids of some tables folded into buckets: two ids may share a row.

    Args:
        data: Without collisions.
        buckets: Of each table to fold.
        seed: Of the folding.

    Raises:
        SearchError: If there is no such table, or no bucket.
    """
    for name, count in buckets.items():
        if name not in [table.name for table in data.tables]:
            raise SearchError(f"buckets.{name}: there is no such table")
        if count < 1:
            raise SearchError(f"buckets.{name}: must be at least 1, got {count}")
    rng = np.random.default_rng(seed)
    row_of = np.empty(data.rows, dtype=np.int32)
    tables, first = [], 0
    for table in data.tables:
        size = table.last - table.first - 1
        places = rng.integers(0, buckets[table.name], size) if table.name in buckets else np.arange(size)
        row_of[table.first] = first
        row_of[table.first + 1 : table.last] = first + 1 + places
        last = first + 1 + buckets.get(table.name, size)
        tables.append(replace(table, first=first, last=last))
        first = last
    counts = np.bincount(row_of, weights=data.counts, minlength=first).astype(np.int64)
    return replace(data, ids=row_of[data.ids], tables=tuple(tables), counts=counts)


def _check(definition: Definition) -> None:
    faults = []
    if definition.sequence is not None:
        faults.append(f"features.{definition.sequence.name}: a search has no sequences; leave it out")
    if definition.model.name in ("din", "residual"):
        faults.append(f"model.name: {definition.model.name!r} cannot be searched; take deepfm, fm or dcn")
    used = {field.table for field in definition.fields}
    tables = [table for table in definition.tables if table.name in used]
    if len({table.dim for table in tables}) > 1:
        faults.append("tables.dim: a search needs tables of one width, got " + _listed(t.dim for t in tables))
    faults += [f"tables.{table.name}.encoding: a search needs rows of ids" for table in tables if table.encoding]
    if faults:
        raise SearchError("\n".join(faults))


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))


def _batches(featurizer: Featurizer, stream: Iterable[Columns], size: int) -> Iterable[Batch]:
    lists = 0
    for columns in stream:
        origins = np.arange(lists, lists + columns.sizes.size, dtype=np.uint64)
        lists += columns.sizes.size
        yield from featurizer.featurize(columns, origins).cuts(size)


def _matrices(
    definition: Definition,
    featurizer: Featurizer,
    occurrences: Sequence[Occurrences],
    numbers: NDArray[np.float64],
    labels: NDArray[np.float32],
    shares: Sequence[float],
) -> Matrices:
    known = ~np.isnan(labels)
    examples = int(known.sum())
    begins = (round(shares[0] * examples), round((shares[0] + shares[1]) * examples))
    if not 0 < begins[0] < begins[1] < examples:
        raise SearchError(f"{examples} labelled examples are too few for training, validation and test")
    training = int(np.flatnonzero(known)[begins[0]])  # the first example that is not for training
    flat = _flat(featurizer, occurrences)
    tables, rows = _numbered(definition, featurizer, flat, training)
    counts = np.bincount(rows[flat.lines < training], minlength=tables[-1].last)
    cold = [table.first for table in tables]
    counts[cold] = 0
    shape = len(labels), flat.slots.size
    first_of = {table.name: table.first for table in tables}
    padding = [first_of[featurizer.fields[f].table] for f in flat.slots.tolist()]
    ids = np.broadcast_to(np.array(padding, dtype=np.int32), shape).copy()
    weights = np.zeros(shape, dtype=np.float32)
    ids[flat.lines, flat.columns] = rows
    weights[flat.lines, flat.columns] = flat.shares
    spread, standard = np.zeros((numbers.shape[1], 3)), np.empty(numbers.shape, dtype=np.float32)
    moments.observe(numbers[:training], spread)
    moments.standardise(numbers, spread, standard)
    return Matrices(
        max(table.dim for table in definition.tables if table.name in first_of), len(featurizer.fields), flat.slots,
        ids[known], weights[known], standard[known], labels[known], tables, counts, begins,
    )  # fmt: skip


class _Flat(NamedTuple):
    """All values of all examples, one after another.

    Attributes:
        ids: int64[n].
        missing: bool[n].
        lines: int64[n], the example.
        fields: int64[n].
        columns: int64[n], the slot.
        shares: float32[n].
        slots: int64[S], the field of each slot.
    """

    ids: NDArray[np.int64]
    missing: NDArray[np.bool_]
    lines: NDArray[np.int64]
    fields: NDArray[np.int64]
    columns: NDArray[np.int64]
    shares: NDArray[np.float32]
    slots: NDArray[np.int64]


def _flat(featurizer: Featurizer, occurrences: Sequence[Occurrences]) -> _Flat:
    count = len(featurizer.fields)
    lengths = np.concatenate([np.diff(o.offsets) for o in occurrences])
    field_of = np.repeat(np.tile(np.arange(count), lengths.size // count), lengths)
    place = np.arange(field_of.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    widths = lengths.reshape(-1, count).max(axis=0)
    means = np.array([field.mean for field in featurizer.fields])
    return _Flat(
        np.concatenate([o.ids for o in occurrences]),
        np.concatenate([o.missing for o in occurrences]),
        np.repeat(np.arange(lengths.size) // count, lengths),
        field_of,
        (np.cumsum(widths) - widths)[field_of] + place,
        np.where(means[field_of], 1.0 / np.repeat(lengths, lengths), 1.0).astype(np.float32),
        np.repeat(np.arange(count), widths),
    )


def _numbered(
    definition: Definition, featurizer: Featurizer, flat: _Flat, training: int
) -> tuple[tuple[TableRows, ...], NDArray[np.int64]]:
    """The tables, and the row of each value: int64[n]. Only what the first examples have gets a row of its own."""
    settings = {table.name: table for table in definition.tables}
    rows = np.empty(flat.ids.size, dtype=np.int64)
    tables: list[TableRows] = []
    for name in sorted({field.table for field in featurizer.fields}):
        first = tables[-1].last if tables else 0
        own = np.array([field.table == name for field in featurizer.fields])[flat.fields]
        there = own & ~flat.missing
        distinct = np.unique(flat.ids[there & (flat.lines < training)])
        rows[own] = first
        if distinct.size:
            at = np.minimum(np.searchsorted(distinct, flat.ids), distinct.size - 1)
            found = there & (distinct[at] == flat.ids)
            rows[found] = first + 1 + at[found]
        table = settings[name]
        linear = table.linear == "gaussian" or table.linear_learning_rate > 0
        tables.append(TableRows(name, first, first + 1 + distinct.size, linear))
    return tuple(tables), rows
