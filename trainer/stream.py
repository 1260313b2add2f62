"""What the store remembers of the stream, as inputs of the model: statistics, and the visitor's past.

Read before a batch is scored, as of each example's own time and without what earlier messages of its list brought;
updated with the batch's labels and outcomes after it was learned from. So nothing of a list's own labels is ever in its
inputs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.lookup import Fields, Occurrences, single
from embedding_store.sequences import OwnItems, Past, Sequences
from embedding_store.settings import Accumulator
from embedding_store.shard import Shard
from embedding_store.statistics import Statistics, one_each
from embedding_store.told import Told
from trainer.batch import Batch
from trainer.crosses import cross_id
from trainer.definition import Definition
from trainer.features import Featurizer
from trainer.intake import Intake
from trainer.statistic_settings import StatisticSettings

_MEAN, _COUNT, _LAST, _SINCE = 0, 1, 2, 3
_KINDS = {"rate": _MEAN, "mean": _MEAN, "count": _COUNT, "last": _LAST, "since": _SINCE}
_POSITIVE = 0.5


class Remembered(NamedTuple):
    """What the store remembers of a batch.

    Attributes:
        occurrences: The batch's ids, those of statistics filled in.
        numbers: float64[B, M], those of statistics filled in.
        past: The visitors' last items; None if the definition has no sequence.
        found: int64[B * S], rows of the statistics; None if it has none.
    """

    occurrences: Occurrences
    numbers: NDArray[np.float64]
    past: Past | None
    found: NDArray[np.int64] | None


class Reading(NamedTuple):
    """How accumulators become numbers and ids; Q statistics, C crosses that take some of them.

    Attributes:
        kinds: int64[Q].
        first: int64[Q], column of the sum, the latest value, the count or the time.
        second: int64[Q], column of the count.
        priors: float64[Q, 2], mean and weight.
        lengths: int64[Q].
        logs: bool[Q].
        starts: int64[Q + 1], edges of each.
        edges: float64[·].
        numbers: int64[Q], which number of the batch it is; -1 for none.
        ids: int64[Q], which derived id it is; -1 for none.
        cross_starts: int64[C + 1], inputs of each cross, whose id comes after those of the statistics.
        cross_inputs: int64[·], n for key n of the batch, -1 - n for derived id n.
        placed: int64[·, 2], derived id and field of the model that it is.
    """

    kinds: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    priors: NDArray[np.float64]
    lengths: NDArray[np.int64]
    logs: NDArray[np.bool_]
    starts: NDArray[np.int64]
    edges: NDArray[np.float64]
    numbers: NDArray[np.int64]
    ids: NDArray[np.int64]
    cross_starts: NDArray[np.int64]
    cross_inputs: NDArray[np.int64]
    placed: NDArray[np.int64]


@kernel(inline="always")
def _bucket(reading: Reading, q: int, value: float) -> int:
    """0 for no value, then 1 + how many edges it reaches."""
    if np.isnan(value):
        return 0
    bucket = 1
    for e in range(reading.starts[q], reading.starts[q + 1]):
        bucket += value >= reading.edges[e]
    return bucket


@kernel()
def derive(
    reading: Reading,
    raw: NDArray[np.float64],
    keys: NDArray[np.int64],
    key_missing: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    fields: int,
    derived: NDArray[np.int64],
    absent: NDArray[np.bool_],
    numbers: NDArray[np.float64],
    ids: NDArray[np.int64],
    missing: NDArray[np.bool_],
) -> None:
    """Fills a batch's numbers and ids in from its accumulators.

    Args:
        reading: How.
        raw: float64[B, W], as :meth:`Statistics.read` gave them.
        keys: int64[B, S].
        key_missing: bool[B, S].
        offsets: int64[B * F + 1], occurrences of each (example, field).
        fields: F.
        derived: int64[Q + C], scratch: the derived ids of one example.
        absent: bool[Q + C], zero at first; scratch.
        numbers: float64[B, M], changed.
        ids: int64[N], changed.
        missing: bool[N], changed.
    """
    count = reading.kinds.size
    crosses = reading.cross_starts.size - 1
    for b in range(raw.shape[0]):
        for q in range(count):
            kind, first = reading.kinds[q], reading.first[q]
            value = raw[b, first]
            if kind == _MEAN:
                seen = raw[b, reading.second[q]] + reading.priors[q, 1]
                value = (value + reading.priors[q, 0] * reading.priors[q, 1]) / seen if seen > 0 else np.nan
            elif kind == _SINCE:
                value = value / 1000.0
            if reading.ids[q] >= 0:
                code, base = _bucket(reading, q, value), 2 + reading.starts[q + 1] - reading.starts[q]
                for i in range(1, reading.lengths[q]):
                    code = code * base + _bucket(reading, q, raw[b, first + i])
                derived[reading.ids[q]] = code
            if reading.numbers[q] >= 0:
                if reading.logs[q]:
                    value = np.copysign(np.log1p(np.abs(value)), value)
                numbers[b, reading.numbers[q]] = value
        for c in range(crosses):
            total, gap = 0, False
            for i in range(reading.cross_starts[c], reading.cross_starts[c + 1]):
                source = reading.cross_inputs[i]
                key = keys[b, source] if source >= 0 else derived[-1 - source]
                gap |= key_missing[b, source] if source >= 0 else False
                total = key if i == reading.cross_starts[c] else cross_id(total, key)
            derived[count + c] = total
            absent[count + c] = gap
        for p in range(reading.placed.shape[0]):
            source, at = reading.placed[p, 0], offsets[b * fields + reading.placed[p, 1]]
            ids[at] = derived[source]
            missing[at] = absent[source]


class Stream:
    """The statistics and sequences of one definition over one shard.

    Args:
        definition: Names them.
        shard: Holds their tables.
        featurizer: Of the definition.
    """

    def __init__(self, definition: Definition, shard: Shard, featurizer: Featurizer) -> None:
        self._featurizer = featurizer
        self._intake = Intake(definition.statistics, featurizer.targets)
        by = {s.statistics_table: s.by for s in definition.statistics}
        names = sorted(by)
        numbers = [shard.number[name] for name in names]
        self._by = np.array([featurizer.keys.index(by[name]) for name in names], dtype=np.int64)
        self._statistics = Statistics(shard, numbers, self._intake.names) if names else None
        columns: dict[tuple[str, Accumulator], int] = {}
        if self._statistics is not None:
            for number, begins in zip(numbers, self._statistics.columns, strict=True):
                for accumulator, column in zip(shard.tables[number].accumulators, begins, strict=True):
                    columns[shard.tables[number].name, accumulator] = column
        self._reading = _reading(definition, featurizer, columns)
        past = definition.sequence
        self._sequences = Sequences(shard, shard.number[past.name], past.items) if past is not None else None
        self._of = None if past is None or past.of is None else featurizer.targets.index(f"item.labels.{past.of}")

    def lookups(self, batch: Batch) -> list[tuple[Occurrences, Fields]]:
        """What :meth:`read` looks up."""
        found = []
        if self._sequences is not None:
            visitor = self._featurizer.visitor
            visitors = single(batch.keys[:, visitor].copy(), batch.key_missing[:, visitor].copy())
            found.append((visitors, self._sequences.fields))
        if self._statistics is not None:
            keys = one_each(batch.keys[:, self._by], batch.key_missing[:, self._by])
            found.append((keys, self._statistics.fields))
        return found

    def read(self, batch: Batch) -> Remembered:
        """What the store remembers of a batch's ids. Changes nothing."""
        past = None
        if self._sequences is not None:
            visitor = self._featurizer.visitor
            past = self._sequences.read(
                batch.keys[:, visitor].copy(), batch.key_missing[:, visitor].copy(), batch.times_ms,
                self._own_items(batch),
            )  # fmt: skip
        if self._statistics is None:
            return Remembered(batch.occurrences, batch.numbers, past, None)
        found, raw = self._statistics.read(
            batch.keys[:, self._by], batch.key_missing[:, self._by], batch.times_ms, self._told(batch)
        )
        ids, missing = batch.occurrences.ids.copy(), batch.occurrences.missing.copy()
        numbers = batch.numbers.copy()
        derived = self._reading.kinds.size + self._reading.cross_starts.size - 1
        derive(
            self._reading, raw, batch.keys, batch.key_missing, batch.occurrences.offsets,
            len(self._featurizer.fields), np.empty(derived, dtype=np.int64), np.zeros(derived, dtype=np.bool_),
            numbers, ids, missing,
        )  # fmt: skip
        return Remembered(Occurrences(ids, missing, batch.occurrences.offsets), numbers, past, found)

    def _told(self, batch: Batch) -> Told | None:
        """What earlier messages of the batch's lists brought to statistics."""
        earlier = batch.earlier
        if not len(earlier):
            return None
        return Told(
            *earlier.spans(batch.sizes),
            np.ascontiguousarray(earlier.keys[:, self._by]),
            np.ascontiguousarray(earlier.key_missing[:, self._by]),
            self._intake.inputs(earlier.targets),
        )

    def _own_items(self, batch: Batch) -> OwnItems | None:
        """What earlier messages of the batch's lists brought to the visitors' pasts."""
        earlier = batch.earlier
        if not len(earlier):
            return None
        return OwnItems(*earlier.spans(batch.sizes), earlier.keys[:, self._featurizer.item].copy())

    def update(self, batch: Batch, remembered: Remembered) -> None:
        """Takes in what came of a batch; `remembered` as :meth:`read` gave it for this batch.

        An item that comes again is no sighting. What is new of it counts as any other's, and by a new label it enters a
        sequence of labelled items; a sequence that every item enters has it already.
        """
        if self._statistics is not None and remembered.found is not None:
            self._statistics.update(
                batch.keys[:, self._by], batch.key_missing[:, self._by], remembered.found, batch.times_ms,
                batch.origins, self._intake.new_inputs(batch.targets, batch.earlier),
            )  # fmt: skip
        if self._sequences is not None:
            visitor, item = self._featurizer.visitor, self._featurizer.item
            entering = ~batch.key_missing[:, item]
            outcomes = np.ones(len(batch), dtype=np.float32)
            if self._of is not None:
                outcomes = batch.targets[:, self._of].astype(np.float32)
                entering &= outcomes >= _POSITIVE
            else:
                entering &= batch.earlier.places < 0
            if entering.any():
                self._sequences.push(
                    batch.keys[entering, visitor], batch.key_missing[entering, visitor], batch.times_ms[entering],
                    batch.origins[entering], batch.keys[entering, item], outcomes[entering],
                )  # fmt: skip


def _reading(definition: Definition, featurizer: Featurizer, columns: dict[tuple[str, Accumulator], int]) -> Reading:
    some = definition.statistics
    plain = [s.name for s in some if s.buckets is None and s.input]
    derived = {s.name: i for i, s in enumerate(some) if s.buckets}
    crosses = featurizer.late_crosses
    inputs = [
        [-1 - derived[name] if name in derived else featurizer.keys.index((name,)) for name in cross.inputs]
        for cross in crosses
    ]
    for c, cross in enumerate(crosses):
        derived[cross.name] = len(some) + c
    first_number = len(featurizer.numbers) - len(plain)

    def column(statistic: StatisticSettings, place: int) -> int:
        wanted = statistic.accumulators[min(place, len(statistic.accumulators) - 1)]
        return columns[statistic.statistics_table, wanted]

    return Reading(
        np.array([_KINDS[s.kind] for s in some], dtype=np.int64),
        np.array([column(s, 0) for s in some], dtype=np.int64),
        np.array([column(s, 1) for s in some], dtype=np.int64),
        np.array([s.prior or (0.0, 0.0) for s in some], dtype=np.float64).reshape(-1, 2),
        np.array([s.length for s in some], dtype=np.int64),
        np.array([s.transform == "log" for s in some], dtype=np.bool_),
        np.cumsum([0, *(len(s.buckets or ()) for s in some)], dtype=np.int64),
        np.array([edge for s in some for edge in s.buckets or ()], dtype=np.float64),
        np.array([first_number + plain.index(s.name) if s.name in plain else -1 for s in some], dtype=np.int64),
        np.array([derived.get(s.name, -1) for s in some], dtype=np.int64),
        np.cumsum([0, *map(len, inputs)], dtype=np.int64),
        np.array([i for some_inputs in inputs for i in some_inputs], dtype=np.int64),
        np.array(
            [(derived[f.name], n) for n, f in enumerate(featurizer.fields) if f.name in derived], dtype=np.int64
        ).reshape(-1, 2),
    )
