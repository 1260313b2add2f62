"""Sequence tables: the last N items of a visitor, with times and outcomes.

A row is how many items it holds, then the items, the newest first: some more than the N that are shown, because what
comes of a list must not show in what the list's later examples read. An item's id is three numbers of at most 24 bits,
its time two, its outcome one. Ids, admission, expiry, commits and replicas are those of every table. The cold row
stays empty: a visitor without a row has no past.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.accumulators import read_time, write_time
from embedding_store.kernel import kernel
from embedding_store.lookup import plain_fields, single
from embedding_store.settings import SEQUENCE_ITEM
from embedding_store.shard import Shard
from embedding_store.slabs import RowArrays

_TIME, _OUTCOME = 3, 5  # places in an item
_BITS = np.uint64(24)
_MASK = np.uint64((1 << 24) - 1)


class Past(NamedTuple):
    """What B visitors did last, the newest first.

    Attributes:
        counts: int64[B], how many items each has.
        items: int64[B, N], ids; 0 behind the last.
        times_ms: int64[B, N], event times; 0 behind the last.
        outcomes: float32[B, N]; 0 behind the last.
    """

    counts: NDArray[np.int64]
    items: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    outcomes: NDArray[np.float32]


class OwnItems(NamedTuple):
    """Items of earlier messages of the lists of B examples, left out of what these read.

    Attributes:
        starts: int64[B], the first item of each example's list.
        ends: int64[B], behind its last.
        items: int64[E], ids.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    items: NDArray[np.int64]


def row_width(length: int) -> int:
    """float32 numbers of a row, as `TableSettings.dim` has them."""
    return 1 + SEQUENCE_ITEM * length


@kernel(inline="always")
def _write_id(memory: NDArray[np.float32], at: int, key: int) -> None:
    word = np.uint64(key)
    memory[at] = np.float32(np.int64(word & _MASK))
    memory[at + 1] = np.float32(np.int64((word >> _BITS) & _MASK))
    memory[at + 2] = np.float32(np.int64(word >> (_BITS + _BITS)))


@kernel(inline="always")
def _read_id(memory: NDArray[np.float32], at: int) -> int:
    low, middle, high = np.int64(memory[at]), np.int64(memory[at + 1]), np.int64(memory[at + 2])
    return int(low | (middle << 24) | (high << 48))


@kernel()
def _push(
    rows: RowArrays,
    cold: int,
    length: int,
    own: NDArray[np.int64],
    items: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    outcomes: NDArray[np.float32],
) -> None:
    memory = rows.memory
    for b in range(own.size):
        if own[b] == cold:
            continue
        base = rows.headers[own[b]].at
        count = int(memory[base])
        place = 0
        while place < count and read_time(memory, base + 1 + place * SEQUENCE_ITEM + _TIME) > times_ms[b]:
            place += 1
        if place == length:
            continue
        count = min(count + 1, length)
        first, last = base + 1 + place * SEQUENCE_ITEM, base + 1 + count * SEQUENCE_ITEM
        for i in range(last - 1, first + SEQUENCE_ITEM - 1, -1):
            memory[i] = memory[i - SEQUENCE_ITEM]
        memory[base] = np.float32(count)
        _write_id(memory, first, items[b])
        write_time(memory, first + _TIME, times_ms[b])
        memory[first + _OUTCOME] = outcomes[b]


@kernel()
def _read(
    rows: RowArrays, cold: int, found: NDArray[np.int64], now_ms: NDArray[np.int64], own: OwnItems, past: Past
) -> None:
    memory = rows.memory
    for b in range(found.size):
        base = rows.headers[found[b]].at
        held = 0 if found[b] == cold else int(memory[base])
        count = 0
        for n in range(held):
            at = base + 1 + n * SEQUENCE_ITEM
            item, time_ms = _read_id(memory, at), read_time(memory, at + _TIME)
            shown = time_ms <= now_ms[b] and count < past.items.shape[1]
            if time_ms == now_ms[b]:
                for e in range(own.starts[b], own.ends[b]):
                    shown = shown and own.items[e] != item
            if shown:
                past.items[b, count] = item
                past.times_ms[b, count] = time_ms
                past.outcomes[b, count] = memory[at + _OUTCOME]
                count += 1
        past.counts[b] = count


class Sequences:
    """One sequence table of a shard.

    Args:
        shard: Holds it.
        table: Number of the table.
        shown: How many items are read at most; None: all that are held.

    Attributes:
        fields: As which its rows are looked up, visitor by visitor.
    """

    def __init__(self, shard: Shard, table: int, shown: int | None = None) -> None:
        self._shard = shard
        self._table = table
        self._length = shard.tables[table].length
        self._shown = self._length if shown is None else shown
        self.fields = plain_fields([table])

    def read(
        self,
        visitors: NDArray[np.int64],
        missing: NDArray[np.bool_],
        times_ms: NDArray[np.int64],
        own: OwnItems | None = None,
    ) -> Past:
        """The past of some visitors as of some times. Changes nothing.

        Args:
            visitors: int64[B].
            missing: bool[B]; such a visitor has no past.
            times_ms: int64[B], when it is asked; what happened later is not shown.
            own: What of each example's list came before and is left out.
        """
        found = self._shard.lookup(single(visitors, missing), self.fields)
        shape = (visitors.size, self._shown)
        past = Past(
            np.zeros(visitors.size, dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            np.zeros(shape, dtype=np.float32),
        )
        nothing = np.zeros(visitors.size, dtype=np.int64)
        _read(
            self._shard.arrays[0], self._table, found, times_ms,
            OwnItems(nothing, nothing, nothing) if own is None else own, past,
        )  # fmt: skip
        return past

    def push(
        self,
        visitors: NDArray[np.int64],
        missing: NDArray[np.bool_],
        times_ms: NDArray[np.int64],
        origins: NDArray[np.uint64],
        items: NDArray[np.int64],
        outcomes: NDArray[np.float32],
    ) -> None:
        """Adds an item to the past of each visitor, by its time; what is older than the last N goes.

        Args:
            visitors: int64[B].
            missing: bool[B]; such a visitor has no past.
            times_ms: int64[B], event times.
            origins: uint64[B], where each example came from.
            items: int64[B], ids.
            outcomes: float32[B].
        """
        batch = single(visitors, missing)
        own = self._shard.sight(batch, self._shard.lookup(batch, self.fields), self.fields, times_ms, origins)
        _push(self._shard.arrays[0], self._table, self._length, own, items, times_ms, outcomes)
