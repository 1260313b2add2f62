"""Statistics tables: rows of accumulators instead of weights.

Ids, admission, expiry, commits and replicas are those of every table, so trainer and ranker see the same numbers. The
cold row stays empty: an id without a row has no statistics.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from embedding_store import accumulators
from embedding_store.lookup import Occurrences, plain_fields
from embedding_store.shard import Shard
from embedding_store.told import Told, leave_out


class Statistics:
    """The statistics tables of a shard.

    Args:
        shard: Holds them.
        tables: Numbers of the S tables.
        inputs: Names of the inputs that :meth:`update` gets, in their order.

    Attributes:
        fields: As which their rows are looked up.
        columns: Of each table's accumulators, where its numbers begin in what :meth:`read` gives.
    """

    def __init__(self, shard: Shard, tables: Sequence[int], inputs: Sequence[str]) -> None:
        self._shard = shard
        self._arrays = accumulators.accumulator_arrays(shard.tables, tables, inputs)
        self.fields = plain_fields(tables)
        ends = np.cumsum(self._arrays.lengths)
        self._width = int(ends[-1]) if ends.size else 0
        begins, starts = (ends - self._arrays.lengths).tolist(), self._arrays.starts.tolist()
        self.columns: list[list[int]] = [begins[a:b] for a, b in pairwise(starts)]

    def read(
        self,
        ids: NDArray[np.int64],
        missing: NDArray[np.bool_],
        times_ms: NDArray[np.int64],
        told: Told | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The accumulators of some ids as of some times. Changes nothing.

        Args:
            ids: int64[B, S].
            missing: bool[B, S]; such an id has no statistics.
            times_ms: int64[B], when it is asked.
            told: What of each example's list came before and is left out.

        Returns:
            int64[B * S], the row of each id in each table, and float64[B, W]. Counts and sums, 0 for none. The latest
            values, newest first, NaN for none. ms since the latest times up to when it is asked, NaN for none.
        """
        batch = one_each(ids, missing)
        found = self._shard.lookup(batch, self.fields)
        out = np.empty((times_ms.size, self._width), dtype=np.float64)
        accumulators.read(*self._shard.arrays, self._arrays, found, times_ms, out)
        if told is not None:
            leave_out(self._shard.arrays[0], self._arrays, found, batch.ids, times_ms, told, out)
        return found, out

    def update(
        self,
        ids: NDArray[np.int64],
        missing: NDArray[np.bool_],
        found: NDArray[np.int64],
        times_ms: NDArray[np.int64],
        origins: NDArray[np.uint64],
        inputs: NDArray[np.float64],
    ) -> None:
        """Counts the sightings of some ids, gives the admitted their rows, and takes their inputs in, one by one.

        The shard's clock stays: :meth:`Shard.pass_on` moves it.

        Args:
            ids: int64[B, S].
            missing: bool[B, S]; such an id changes nothing.
            found: int64[B * S], as :meth:`read` gave them.
            times_ms: int64[B], event times.
            origins: uint64[B], where each example came from.
            inputs: float64[B, I], NaN where an input has no value.
        """
        batch = one_each(ids, missing)
        own = self._shard.sight(batch, found, self.fields, times_ms, origins)
        rows, _ = self._shard.arrays
        accumulators.update(rows, self._arrays, own, times_ms, inputs)


def one_each(ids: NDArray[np.int64], missing: NDArray[np.bool_]) -> Occurrences:
    """One id a table: int64[B, S], bool[B, S]."""
    return Occurrences(ids.ravel(), missing.ravel(), np.arange(ids.size + 1, dtype=np.int64))
