"""A data set as every peer takes it: the ids and numbers of Dolmen's shipped configuration, and streaming statistics.

The rule of the game: all of a list is scored before any of it is learned, and no statistic knows a label of the list
that it stands beside.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.batch import Batch
from trainer.features import Featurizer

STATISTICS_OF = {
    "kuairand": ("user", "video", "author", "first_tag", "tab", "music", "tab_x_user", "tab_x_video"),
    "movielens": ("user", "movie", "user_x_decade"),
    "movietweetings": ("user", "movie", "user_x_decade"),
}
PRIOR = 4.0  # examples at the base rate that a smoothed rate starts from
MISSING = -1


@dataclass(frozen=True)
class Inputs:
    """N examples of L lists over F fields.

    Attributes:
        fields: Names of the fields.
        ids: int64[K], flat; a missing value is an id of its own.
        offsets: int64[N * F + 1], where each example's field begins; a field may have several ids.
        numbers: float64[N, M], numbers of the configuration, by the mean and deviation of what came before.
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


def read(dataset: str) -> Inputs:
    """The inputs of a data set under its shipped configuration; the first task is the label."""
    definition = load_settings(dataset=dataset).definition()
    featurizer = Featurizer(definition)
    task = definition.tasks[0].name
    parts = [featurizer.featurize(columns) for columns in open_dataset(dataset).columns(featurizer.sources, [task])]
    batch = Batch.join(parts)
    found = batch.occurrences
    return Inputs(
        tuple(field.name for field in featurizer.fields),
        np.where(found.missing, MISSING, found.ids),
        found.offsets,
        _standardised(batch.numbers, batch.sizes),
        batch.labels[:, 0].astype(np.float64),
        batch.sizes,
    )


def _standardised(numbers: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers less the mean of all earlier lists, by their deviation; 0 where missing or where nothing came before."""
    known = np.isfinite(numbers)
    filled = np.where(known, numbers, 0.0)
    before = np.repeat(np.cumsum(sizes) - sizes, sizes)

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0)])[before]

    count = np.maximum(sums(known.astype(np.float64)), 1.0)
    mean = sums(filled) / count
    deviation = np.sqrt(np.maximum(sums(filled**2) / count - mean**2, 0.0))
    return np.where(known & (deviation > 0), (filled - mean) / np.where(deviation > 0, deviation, 1.0), 0.0)


def statistics(inputs: Inputs, names: tuple[str, ...]) -> NDArray[np.float64]:
    """What the stream has shown of some single-valued fields' ids so far: float64[N, 2 * S].

    Of each id the log odds of its smoothed positive rate, less those of the base rate, and log(1 + count) / 5. Plain
    Python dicts, read for all of a list before any of it is added.
    """
    places = [inputs.fields.index(name) for name in names]
    keys = [[row[place][0] for place in places] for row in inputs.rows()]
    labels = inputs.labels.tolist()
    tables: list[dict[int, list[float]]] = [{} for _ in names]
    seen = np.zeros((len(labels), len(names), 2))
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
