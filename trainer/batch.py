"""Examples ready to be scored: ids, numbers, labels, cut and joined at the borders of lists."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedding_store.lookup import Occurrences
from trainer.earlier import Earlier, Lists


@dataclass(frozen=True, slots=True)
class Batch:
    """B examples of L lists, ready to be scored.

    Attributes:
        occurrences: Ids of B examples over F fields.
        numbers: float64[B, M], transformed but not standardised; NaN where missing.
        times_ms: int64[B], event time.
        labels: float32[B, T], NaN where absent.
        weights: float32[B].
        sizes: int64[L].
        origins: uint64[B], where each example came from; the same whenever it is read again.
        keys: int64[B, S], ids that statistics and sequences go by.
        key_missing: bool[B, S].
        targets: float64[B, O], labels and outcomes that they take in; NaN where absent.
        offsets: float32[B, T], -log(rate) where a task's negatives were sampled at that rate, else 0. The log odds of
            the sample are so much higher than those of the stream, so the loss is that of logit + offset.
        earlier: What came of the same lists in earlier messages.
        slices: int64[B, S], ids of the values by which quality is told apart; [0, 0] where nobody asked.
    """

    occurrences: Occurrences
    numbers: NDArray[np.float64]
    times_ms: NDArray[np.int64]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    sizes: NDArray[np.int64]
    origins: NDArray[np.uint64]
    keys: NDArray[np.int64]
    key_missing: NDArray[np.bool_]
    targets: NDArray[np.float64]
    offsets: NDArray[np.float32]
    earlier: Earlier
    slices: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))

    def __len__(self) -> int:
        return self.times_ms.size

    def lists(self, first: int, last: int) -> "Batch":
        """Lists `first` to `last`, as views."""
        a, b = int(self.sizes[:first].sum()), int(self.sizes[:last].sum())
        return self._part(a, b, first, last)

    def _part(self, a: int, b: int, first: int, last: int) -> "Batch":
        fields = (self.occurrences.offsets.size - 1) // max(1, self.times_ms.size)
        offsets = self.occurrences.offsets[a * fields : b * fields + 1]
        start, end = int(offsets[0]), int(offsets[-1])
        return Batch(
            Occurrences(self.occurrences.ids[start:end], self.occurrences.missing[start:end], offsets - start),
            self.numbers[a:b],
            self.times_ms[a:b],
            self.labels[a:b],
            self.weights[a:b],
            self.sizes[first:last],
            self.origins[a:b],
            self.keys[a:b],
            self.key_missing[a:b],
            self.targets[a:b],
            self.offsets[a:b],
            self.earlier.part(a, b, first, last),
            self.slices[a:b],
        )

    def cuts(self, size: int) -> list["Batch"]:
        """Runs of whole lists; the last may be smaller.

        A run is closed by the list that reaches `size` examples, or before one that tells of a list in the run.
        """
        parts, first, ends = [], 0, np.cumsum(self.sizes)
        while first < self.sizes.size:
            done = int(ends[first - 1]) if first else 0
            last = self._end(first, min(int(np.searchsorted(ends, done + size)) + 1, self.sizes.size))
            parts.append(self._part(done, int(ends[last - 1]), first, last))
            first = last
        return parts

    def _end(self, first: int, last: int) -> int:
        if not self.earlier.counts[first:last].any():
            return last
        lists = Lists()
        pairs = zip(self.earlier.requests[first:last].tolist(), self.earlier.counts[first:last].tolist(), strict=True)
        return next((first + n for n, (request, told) in enumerate(pairs) if lists.end_before(request, told > 0)), last)

    @staticmethod
    def join(parts: Sequence["Batch"]) -> "Batch":
        """One batch of several, in their order."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0] + [part.occurrences.ids.size for part in parts])
        offsets = [part.occurrences.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
        return Batch(
            Occurrences(
                np.concatenate([part.occurrences.ids for part in parts]),
                np.concatenate([part.occurrences.missing for part in parts]),
                np.concatenate([*offsets, starts[-1:]]),
            ),
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.times_ms for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.weights for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            np.concatenate([part.origins for part in parts]),
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.key_missing for part in parts]),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.offsets for part in parts]),
            Earlier.join([part.earlier for part in parts]),
            np.concatenate([part.slices for part in parts]),
        )
