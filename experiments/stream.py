"""A data set as every peer takes it: what Dolmen's shipped configuration gives its own model, and rates of main ids.

The rule of the game: all of a list is scored before any of it is learned, and no statistic knows a label of the list
that it stands beside.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedding_store.shard import Shard
from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.batch import Batch
from trainer.definition import Definition, define
from trainer.features import Featurizer
from trainer.settings import FeatureSettings, ModelSettings
from trainer.stream import Stream

_OF = {  # whose rates are kept
    "kuairand": ("user.id", "item.id", "item.author_id", "item.first_tag", "context.tab", "item.music_id"),
    "movielens": ("user.id", "item.id"),
    "movietweetings": ("user.id", "item.id"),
}
_CROSSED = {"kuairand": (("context.tab", "user.id"), ("context.tab", "item.id"))}
DATASETS = tuple(_OF)
PRIOR = 4.0  # examples at the base rate that a smoothed rate starts from
MISSING = -1
_CLIP = 8.0


@dataclass(frozen=True)
class Inputs:
    """N examples of L lists over F fields.

    Attributes:
        fields: Names of the fields.
        ids: int64[K], flat; a missing value is an id of its own.
        offsets: int64[N * F + 1], where each example's field begins; a field may have several ids.
        numbers: float64[N, M], by the mean and deviation of what came before; 0 where missing.
        labels: float64[N].
        sizes: int64[L].
    """

    fields: tuple[str, ...]
    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    numbers: NDArray[np.float64]
    labels: NDArray[np.float64]
    sizes: NDArray[np.int64]

    def rows(self) -> Iterator[list[list[int]]]:
        """Each example's ids, one list a field."""
        ids, ends = self.ids.tolist(), self.offsets.tolist()
        width = len(self.fields)
        for first in range(0, len(ends) - 1, width):
            yield [ids[ends[at] : ends[at + 1]] for at in range(first, first + width)]

    def bounds(self, size: int = 1) -> Iterator[tuple[int, int]]:
        """Begin and end of batches, each closed by the list that reaches `size` examples."""
        first = last = 0
        for length in self.sizes.tolist():
            last += length
            if last - first >= size:
                yield first, last
                first = last
        if last > first:
            yield first, last

    def beside(self, other: "Inputs") -> "Inputs":
        """The fields and numbers of both."""
        examples = self.labels.size
        counts = [np.diff(one.offsets).reshape(examples, -1) for one in (self, other)]
        width = len(self.fields) + len(other.fields)
        places = [np.arange(examples)[:, None] * width + np.arange(c.shape[1]) for c in counts]
        places[1] += len(self.fields)
        order = np.argsort(
            np.concatenate([np.repeat(p.ravel(), c.ravel()) for p, c in zip(places, counts, strict=True)]),
            kind="stable",
        )
        return replace(
            self,
            fields=(*self.fields, *other.fields),
            ids=np.concatenate([self.ids, other.ids])[order],
            offsets=np.concatenate([[0], np.cumsum(np.hstack(counts).ravel())]),
            numbers=np.hstack([self.numbers, other.numbers]),
        )


def shipped(dataset: str, limit: int | None = None) -> Inputs:
    """What the shipped configuration gives its model, ids and numbers of its statistics included.

    They are read from the store as Dolmen reads them, before each batch of the configuration's size is taken in.

    Args:
        dataset: Its name.
        limit: At most so many examples.
    """
    settings = load_settings(dataset=dataset)
    definition = settings.definition()
    featurizer, whole = _featurized(dataset, definition, limit)
    shard = Shard(definition.tables, definition.seed, True, definition.admission)
    stream = Stream(definition, shard, featurizer)
    found = []
    for batch in whole.cuts(settings.trainer.batch_size):
        remembered = stream.read(batch)
        found.append(replace(batch, occurrences=remembered.occurrences, numbers=remembered.numbers))
        stream.update(batch, remembered)
        shard.pass_on(batch.times_ms)
    return _inputs(tuple(field.name for field in featurizer.fields), Batch.join(found))


def rates(dataset: str, limit: int | None = None) -> Inputs:
    """Main ids, crossed ones too, and what the stream has shown of each so far.

    Two numbers an id: the log odds of its smoothed positive rate, less those of the base rate, and log(1 + count) / 5.

    Args:
        dataset: Its name.
        limit: At most so many examples.
    """
    definition = load_settings(dataset=dataset).definition()
    singles = [FeatureSettings(name=f"own.{source}", kind="id", source=source) for source in _OF[dataset]]
    crosses = [
        FeatureSettings(name=f"own.{a}.{b}", kind="cross", inputs=(f"own.{a}", f"own.{b}"))
        for a, b in _CROSSED.get(dataset, ())
    ]
    own = define((), (*singles, *crosses), definition.tasks, ModelSettings(), 1)
    featurizer, batch = _featurized(dataset, own, limit)
    found = _inputs(tuple(field.name for field in featurizer.fields), batch)
    return replace(found, numbers=seen_so_far(found))


def _featurized(dataset: str, definition: Definition, limit: int | None) -> tuple[Featurizer, Batch]:
    featurizer = Featurizer(definition)
    columns = open_dataset(dataset, limit).columns(featurizer.sources, [task.name for task in definition.tasks])
    return featurizer, Batch.join([featurizer.featurize(one) for one in columns])


def _inputs(fields: tuple[str, ...], batch: Batch) -> Inputs:
    found = batch.occurrences
    return Inputs(
        fields,
        np.where(found.missing, MISSING, found.ids),
        found.offsets,
        standardised(batch.numbers, batch.sizes),
        batch.labels[:, 0].astype(np.float64),
        batch.sizes,
    )


def standardised(numbers: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers less the mean of all earlier lists, by their deviation; 0 where missing or where nothing came before."""
    known = np.isfinite(numbers)
    filled = np.where(known, numbers, 0.0)
    before = np.repeat(np.cumsum(sizes) - sizes, sizes)

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0)])[before]

    count = np.maximum(sums(known.astype(np.float64)), 1.0)
    mean = sums(filled) / count
    deviation = np.sqrt(np.maximum(sums(filled**2) / count - mean**2, 0.0))
    scaled = (filled - mean) / np.where(deviation > 0, deviation, 1.0)
    return np.clip(np.where(known & (deviation > 0), scaled, 0.0), -_CLIP, _CLIP)


def seen_so_far(inputs: Inputs) -> NDArray[np.float64]:
    """Rates and counts of the ids of single-valued fields: float64[N, 2 * F].

    Plain Python dicts, read for all of a list before any of it is added.
    """
    width = len(inputs.fields)
    keys = inputs.ids.reshape(-1, width).tolist()
    labels = inputs.labels.tolist()
    tables: list[dict[int, list[float]]] = [{} for _ in range(width)]
    seen = np.zeros((len(labels), width, 2))
    base = np.empty(len(labels))
    total, positive = 2.0, 1.0
    for first, last in inputs.bounds():
        base[first:last] = positive / total
        for i in range(first, last):
            for k, (table, key) in enumerate(zip(tables, keys[i], strict=True)):
                found = table.get(key)
                if found is not None:
                    seen[i, k] = found
        for i in range(first, last):
            for table, key in zip(tables, keys[i], strict=True):
                found = table.setdefault(key, [0.0, 0.0])
                found[0] += 1.0
                found[1] += labels[i]
            total += 1.0
            positive += labels[i]
    count, hits = seen[..., 0], seen[..., 1]
    rate = (hits + PRIOR * base[:, None]) / (count + PRIOR)
    return np.concatenate([_logit(rate) - _logit(base)[:, None], np.log1p(count) / 5.0], 1)


def _logit(rate: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = np.clip(rate, 1e-6, 1 - 1e-6)
    return np.log(inner) - np.log1p(-inner)
