"""What earlier messages brought of the lists of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Earlier:
    """E items of earlier messages of L lists, which have B examples now.

    Attributes:
        requests: int64[L], which list each is part of; 0 where that is not known.
        counts: int64[L], how many of the E items each list has, in their order.
        places: int64[B], which of the E items each example is again; -1 for none.
        keys: int64[E, S], ids that statistics and sequences go by.
        key_missing: bool[E, S].
        targets: float64[E, O], the labels and outcomes that left; NaN where absent.
    """

    requests: NDArray[np.int64]
    counts: NDArray[np.int64]
    places: NDArray[np.int64]
    keys: NDArray[np.int64]
    key_missing: NDArray[np.bool_]
    targets: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.keys)

    @staticmethod
    def nothing(lists: int, examples: int, keys: int, targets: int) -> "Earlier":
        """Of L lists with B examples of which nothing came before."""
        return Earlier(
            np.zeros(lists, dtype=np.int64),
            np.zeros(lists, dtype=np.int64),
            np.full(examples, -1, dtype=np.int64),
            np.empty((0, keys), dtype=np.int64),
            np.empty((0, keys), dtype=np.bool_),
            np.empty((0, targets), dtype=np.float64),
        )

    def spans(self, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first item of each example's list, and behind its last: int64[B] each; sizes: int64[L]."""
        ends = np.cumsum(self.counts)
        return np.repeat(ends - self.counts, sizes), np.repeat(ends, sizes)

    def merged(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """All that is known of B examples by now: float64[B, O], from what their own messages say."""
        again = self.places >= 0
        if not again.any():
            return targets
        whole = targets.copy()
        whole[again] = np.where(np.isnan(targets[again]), self.targets[self.places[again]], targets[again])
        return whole

    def part(self, a: int, b: int, first: int, last: int) -> "Earlier":
        """Of lists `first` to `last`, whose examples are `a` to `b`."""
        start, end = int(self.counts[:first].sum()), int(self.counts[:last].sum())
        places = self.places[a:b]
        return Earlier(
            self.requests[first:last],
            self.counts[first:last],
            np.where(places >= 0, places - start, -1) if start else places,
            self.keys[start:end],
            self.key_missing[start:end],
            self.targets[start:end],
        )

    @staticmethod
    def join(parts: Sequence["Earlier"]) -> "Earlier":
        """One of several, in their order."""
        starts = np.cumsum([0, *map(len, parts)])
        places = [np.where(p.places >= 0, p.places + start, -1) for p, start in zip(parts, starts, strict=False)]
        return Earlier(
            np.concatenate([part.requests for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate(places),
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.key_missing for part in parts]),
            np.concatenate([part.targets for part in parts]),
        )


class Lists:
    """The lists of one batch as it grows: it ends before a message that tells of one in it.

    All of a batch is scored before any of it is learned, so what the message tells of would not be in the store yet.
    """

    def __init__(self) -> None:
        self._requests: set[int] = set()

    def end_before(self, request: int, tells: bool) -> bool:
        """Whether the batch must end before a message; takes it in if not.

        Args:
            request: Of which list it is; 0 if not known.
            tells: Whether it tells of earlier ones.
        """
        if tells and request in self._requests:
            return True
        if request:
            self._requests.add(request)
        return False
