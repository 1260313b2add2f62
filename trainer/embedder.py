"""From a batch to what its model takes: rows, pooled vectors, statistics, the visitor's past, Gaussian scores."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedding_store import gaussian
from embedding_store.kernel import kernel
from embedding_store.lookup import Fields, Occurrences
from embedding_store.sequences import Past
from embedding_store.shard import Shard
from trainer.batch import Batch
from trainer.buckets import Buckets
from trainer.definition import Definition
from trainer.features import Featurizer
from trainer.models.inputs import Inputs
from trainer.stream import Remembered, Stream


class Embedded(NamedTuple):
    """B examples of F fields as the store has them now.

    Attributes:
        occurrences: Ids of all fields as their tables hold them; those of the visitor's past, P places, come behind.
        rows: int64[N], the row that scores each occurrence.
        pooled: float32[B, F + P, 1 + K], first the linear weight, then the vector.
        remembered: Statistics, and what the visitors did last.
        moments: float64[B, T, 2], mean and variance of the log odds by Gaussian weights.
        means: float32[B, F, T], what each field adds to that mean.
        confidence: float32[B, F, T], how well each field's weight is known.
    """

    occurrences: Occurrences
    rows: NDArray[np.int64]
    pooled: NDArray[np.float32]
    remembered: Remembered
    moments: NDArray[np.float64] | None = None
    means: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None

    @property
    def wide(self) -> NDArray[np.float32] | None:
        """The moderated log odds of Gaussian weights: float32[B, T]."""
        if self.moments is None:
            return None
        moderated = self.moments[:, :, 0] / np.sqrt(1.0 + gaussian.MODERATION * self.moments[:, :, 1])
        return moderated.astype(np.float32)


class Embedder:
    """Embeds batches. Changes nothing.

    Args:
        definition: Names the fields.
        shard: The rows.
        featurizer: Of the definition.

    Attributes:
        stream: Statistics and sequences.
        bias: float64[T, 2], mean and variance of each task's, with Gaussian weights.
    """

    def __init__(self, definition: Definition, shard: Shard, featurizer: Featurizer) -> None:
        self._shard = shard
        self._featurizer = featurizer
        self.stream = Stream(definition, shard, featurizer)
        tasks = len(definition.tasks)
        self.bias = np.tile([0.0, gaussian.BIAS_VARIANCE], (tasks, 1)) if definition.gaussian else None
        count, of_store = len(featurizer.fields), featurizer.of_store
        self._own_fields = Fields(of_store.tables[:count], of_store.means[:count], of_store.counted[:count])
        self._own_buckets = Buckets(definition, self._own_fields.tables)
        self._buckets = Buckets(definition, of_store.tables)
        self._attends = definition.model.name == "din"

    def embed(self, batch: Batch) -> Embedded:
        """What the store has for a batch."""
        self._shard.warm(
            lambda: [*self.stream.lookups(batch), (self._own_buckets.held(batch.occurrences), self._own_fields)]
        )
        remembered = self.stream.read(batch)
        occurrences = remembered.occurrences
        if remembered.past is not None:
            occurrences = _with_past(occurrences, len(self._featurizer.fields), remembered.past)
        return self._embed(self._buckets.held(occurrences), remembered)

    def embed_unknown(self, embedded: Embedded) -> Embedded:
        """The same examples, were every value missing."""
        occurrences = embedded.occurrences
        nothing = Occurrences(occurrences.ids, np.ones_like(occurrences.missing), occurrences.offsets)
        return self._embed(nothing, embedded.remembered)

    def _embed(self, occurrences: Occurrences, remembered: Remembered) -> Embedded:
        fields = self._featurizer.of_store
        rows = self._shard.lookup(occurrences, fields)
        if self._shard.dim or self.bias is None:
            pooled = self._shard.gather(rows, occurrences, fields)
        else:
            pooled = np.zeros((len(remembered.numbers), fields.tables.size, 1), dtype=np.float32)
        if self.bias is None:
            return Embedded(occurrences, rows, pooled, remembered)
        moments, means, confidence = self._shard.score_gaussian(
            rows, occurrences, fields, self.bias, len(self._featurizer.fields)
        )
        return Embedded(occurrences, rows, pooled, remembered, moments, means, confidence)

    def inputs(self, embedded: Embedded, pooled: Tensor, numbers: Tensor, times_ms: NDArray[np.int64]) -> Inputs:
        """What the model takes.

        Args:
            embedded: Of the batch.
            pooled: [B, F + P, 1 + K], the embedded fields as a tensor.
            numbers: [B, M], standardised.
            times_ms: int64[B].
        """
        count = len(self._featurizer.fields)
        linear, vectors = pooled[:, :count, 0], pooled[:, :count, 1:]
        wide = confidence = sequence = mask = ages = None
        if embedded.means is not None and embedded.confidence is not None:
            linear = torch.from_numpy(_over_tasks(embedded.means))
            confidence = torch.from_numpy(_over_tasks(embedded.confidence))
            wide = torch.from_numpy(embedded.wide)
        past = embedded.remembered.past
        if past is not None:
            places = pooled.shape[1] - count
            known = np.arange(places) < past.counts[:, None]
            mask = torch.from_numpy(known)
            sequence = pooled[:, count:, 1:]
            if self._attends:
                since_s = np.maximum(times_ms[:, None] - past.times_ms, 0) / 1000.0
                ages = torch.from_numpy(np.where(known, np.log1p(since_s), 0.0).astype(np.float32))
            else:  # the mean of the past, as one field more
                share = mask / mask.sum(1, keepdim=True).clamp(min=1)
                mean = (sequence * share[:, :, None]).sum(1, keepdim=True)
                vectors, linear = (
                    torch.cat((vectors, mean), 1),
                    torch.cat((linear, linear.new_zeros(len(linear), 1)), 1),
                )
                confidence = None if confidence is None else torch.cat((confidence, torch.zeros(len(linear), 1)), 1)
                sequence = mask = None
        return Inputs(linear, vectors, numbers, wide, confidence, sequence, mask, ages)


def _over_tasks(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x[:, :, 0] if x.shape[2] == 1 else x.mean(2)


@kernel()
def _append(
    offsets: NDArray[np.int64], ids: NDArray[np.int64], missing: NDArray[np.bool_], fields: int,
    counts: NDArray[np.int64], items: NDArray[np.int64],
    new_offsets: NDArray[np.int64], new_ids: NDArray[np.int64], new_missing: NDArray[np.bool_],
) -> None:  # fmt: skip
    places = items.shape[1]
    at = 0
    for b in range(counts.size):
        for f in range(fields):
            new_offsets[b * (fields + places) + f] = at
            for j in range(offsets[b * fields + f], offsets[b * fields + f + 1]):
                new_ids[at], new_missing[at] = ids[j], missing[j]
                at += 1
        for n in range(places):
            new_offsets[b * (fields + places) + fields + n] = at
            new_ids[at], new_missing[at] = items[b, n], n >= counts[b]
            at += 1
    new_offsets[-1] = at


def _with_past(occurrences: Occurrences, fields: int, past: Past) -> Occurrences:
    """Each example's fields, and then the places of its past, those without an item missing."""
    size = occurrences.ids.size + past.items.size
    found = Occurrences(
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.bool_),
        np.empty(occurrences.offsets.size + past.items.size, dtype=np.int64),
    )
    _append(
        occurrences.offsets, occurrences.ids, occurrences.missing, fields, past.counts, past.items,
        found.offsets, found.ids, found.missing,
    )  # fmt: skip
    return found
