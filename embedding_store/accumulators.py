"""Accumulators: how a row of a statistics table is read and updated.

A row is the time of its latest sighting, by which its decayed accumulators are understood, and then its accumulators.
The cold row stays empty: an id without a row has no statistics. Whatever does not fit a float32 exactly (times,
counts, sums) is held as two, the second being what the first leaves over.

A sighting may come late. It then counts as much as it would have counted by now, had it come in time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.kernel import kernel
from embedding_store.plan import LayoutArrays
from embedding_store.settings import WINDOW_PARTS, Accumulator, TableSettings
from embedding_store.slabs import RowArrays

CLOCK_WIDTH = 2
_KINDS = {"count": 0, "sum": 1, "window_count": 2, "window_sum": 3, "last": 4, "time": 5}
COUNT, SUM, WINDOW_COUNT, WINDOW_SUM, LAST, TIME = range(6)
_HALF = 1 << 24  # float32 holds integers below this exactly
_NEVER = -1


class AccumulatorArrays(NamedTuple):
    """What the kernels see of the accumulators of S tables, one table's behind the other's.

    Attributes:
        starts: int64[S + 1], accumulators of each table.
        tables: int64[S], numbers of the tables.
        kinds: int64[A].
        places: int64[A], where each begins in a row.
        inputs: int64[A], which input it takes.
        half_lives: float64[A], ms; infinite for none.
        windows: int64[A], ms.
        lengths: int64[A], how many numbers reading gives.
    """

    starts: NDArray[np.int64]
    tables: NDArray[np.int64]
    kinds: NDArray[np.int64]
    places: NDArray[np.int64]
    inputs: NDArray[np.int64]
    half_lives: NDArray[np.float64]
    windows: NDArray[np.int64]
    lengths: NDArray[np.int64]


def row_width(accumulators: Sequence[Accumulator]) -> int:
    """float32 numbers of a row, as `TableSettings.dim` has them."""
    return CLOCK_WIDTH + sum(accumulator.width for accumulator in accumulators)


def accumulator_arrays(
    tables: Sequence[TableSettings], numbers: Sequence[int], inputs: Sequence[str]
) -> AccumulatorArrays:
    """The accumulators of some statistics tables for the kernels.

    Args:
        tables: All tables of the shard.
        numbers: Which of them are meant.
        inputs: Names of the inputs that batches bring. An accumulator whose input is not among them never changes.
    """
    some = [a for number in numbers for a in tables[number].accumulators]
    places = [np.cumsum([CLOCK_WIDTH, *(a.width for a in tables[number].accumulators)])[:-1] for number in numbers]
    order = {name: i for i, name in enumerate(inputs)}
    return AccumulatorArrays(
        np.cumsum([0, *(len(tables[number].accumulators) for number in numbers)], dtype=np.int64),
        np.array(numbers, dtype=np.int64),
        np.array([_KINDS[a.kind] for a in some], dtype=np.int64),
        np.concatenate([np.empty(0, dtype=np.int64), *places]).astype(np.int64),
        np.array([order.get(a.of, _NEVER) for a in some], dtype=np.int64),
        np.array([a.half_life_ms or np.inf for a in some], dtype=np.float64),
        np.array([a.window_ms or 1 for a in some], dtype=np.int64),
        np.array([a.length if a.kind in ("last", "time") else 1 for a in some], dtype=np.int64),
    )


@kernel(inline="always")
def read_time(memory: NDArray[np.float32], at: int) -> int:
    """A time, ms since the epoch; 0 for none."""
    return int(memory[at]) * _HALF + int(memory[at + 1])


@kernel(inline="always")
def write_time(memory: NDArray[np.float32], at: int, time_ms: int) -> None:
    """Sets a time below 2^48."""
    memory[at] = np.float32(time_ms // _HALF)
    memory[at + 1] = np.float32(time_ms % _HALF)


@kernel(inline="always")
def _read_sum(memory: NDArray[np.float32], at: int) -> float:
    return np.float64(memory[at]) + np.float64(memory[at + 1])


@kernel(inline="always")
def _write_sum(memory: NDArray[np.float32], at: int, value: float) -> None:
    memory[at] = np.float32(value)
    memory[at + 1] = np.float32(value - np.float64(memory[at]))


@kernel(inline="always")
def _insert_time(memory: NDArray[np.float32], at: int, length: int, time_ms: int) -> None:
    """Adds a time to those held, the latest first, unless it is among them or earlier than all."""
    place = 0
    while place < length and read_time(memory, at + 2 * place) > time_ms:
        place += 1
    if place == length or read_time(memory, at + 2 * place) == time_ms:
        return
    for i in range(at + 2 * length - 1, at + 2 * place + 1, -1):
        memory[i] = memory[i - 2]
    write_time(memory, at + 2 * place, time_ms)


@kernel(inline="always")
def _slide(memory: NDArray[np.float32], at: int, part: int) -> int:
    """Moves a window on to a part, if that is later; gives the newest part then. Part n is kept as n + 1."""
    newest = int(read_time(memory, at)) - 1
    if part <= newest:
        return newest
    turns = min(part - newest, WINDOW_PARTS) if newest >= 0 else 0
    parts = at + 2
    for _ in range(turns):
        for i in range(WINDOW_PARTS - 1, 0, -1):
            memory[parts + i] = memory[parts + i - 1]
        memory[parts] = np.float32(0.0)
    write_time(memory, at, part + 1)
    return part


@kernel()
def update(
    rows: RowArrays,
    accumulators: AccumulatorArrays,
    own: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    inputs: NDArray[np.float64],
) -> None:
    """Takes a batch in, example by example.

    Args:
        rows: Of the shard, those of the tables encoded as the present layout has them.
        accumulators: Of the tables.
        own: int64[B * S], the row of each example in each table; a cold row stays as it is.
        times_ms: int64[B], event times.
        inputs: float64[B, I], NaN where an input has no value.
    """
    memory = rows.memory
    count = accumulators.tables.size
    for n in range(own.size):
        b, s = n // count, n % count
        if own[n] == accumulators.tables[s]:
            continue
        base = rows.headers[own[n]].at
        clock, now = read_time(memory, base), times_ms[b]
        later = max(0, now - clock) if clock > 0 else 0
        late = max(0, clock - now)
        for a in range(accumulators.starts[s], accumulators.starts[s + 1]):
            at = base + accumulators.places[a]
            kind = accumulators.kinds[a]
            x = inputs[b, accumulators.inputs[a]] if accumulators.inputs[a] >= 0 else np.nan
            known = not np.isnan(x)
            if kind == COUNT or kind == SUM:
                half_life = accumulators.half_lives[a]
                total = _read_sum(memory, at) * 2.0 ** (-later / half_life)
                if known:
                    total += (x if kind == SUM else 1.0) * 2.0 ** (-late / half_life)
                _write_sum(memory, at, total)
            elif not known:
                continue
            elif kind == LAST:
                for i in range(accumulators.lengths[a], 1, -1):
                    memory[at + i] = memory[at + i - 1]
                memory[at] = min(memory[at] + np.float32(1.0), np.float32(accumulators.lengths[a]))
                memory[at + 1] = np.float32(x)
            elif kind == TIME:
                _insert_time(memory, at, accumulators.lengths[a], now)
            else:
                part = now * WINDOW_PARTS // accumulators.windows[a]
                age = _slide(memory, at, part) - part
                if age < WINDOW_PARTS:
                    memory[at + 2 + age] += np.float32(x if kind == WINDOW_SUM else 1.0)
        write_time(memory, base, max(clock, now))


@kernel()
def read(
    rows: RowArrays,
    layouts: LayoutArrays,
    accumulators: AccumulatorArrays,
    found: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """The accumulators as of some times. Changes nothing.

    Args:
        rows: Of the shard.
        layouts: Of the shard.
        accumulators: Of the tables.
        found: int64[B * S], the row of each example in each table; a cold row has no statistics.
        times_ms: int64[B], when it is asked.
        out: float64[B, sum of lengths], filled: counts and sums, 0 for none; the latest values, newest first, NaN for
            none; ms since the latest times that are not later than it is asked, NaN for none.
    """
    memory = rows.memory
    count = accumulators.tables.size
    column = 0
    for n in range(found.size):
        b, s = n // count, n % count
        row = found[n]
        held = -1 if row == accumulators.tables[s] else layouts.dims[np.int64(rows.headers[row].layout)]
        base = rows.headers[row].at
        now = times_ms[b]
        later = max(0, now - read_time(memory, base)) if held > 0 else 0
        if s == 0:
            column = 0
        for a in range(accumulators.starts[s], accumulators.starts[s + 1]):
            at = base + accumulators.places[a]
            kind = accumulators.kinds[a]
            there = accumulators.places[a] < held
            if kind == COUNT or kind == SUM:
                out[b, column] = _read_sum(memory, at) * 2.0 ** (-later / accumulators.half_lives[a]) if there else 0.0
            elif kind == LAST:
                for i in range(accumulators.lengths[a]):
                    out[b, column + i] = np.float64(memory[at + 1 + i]) if there and i < memory[at] else np.nan
            elif kind == TIME:
                place = 0
                for i in range(accumulators.lengths[a]):
                    time_ms = read_time(memory, at + 2 * i) if there else 0
                    if 0 < time_ms <= now:
                        out[b, column + place] = np.float64(now - time_ms)
                        place += 1
                for i in range(place, accumulators.lengths[a]):
                    out[b, column + i] = np.nan
            else:
                out[b, column] = 0.0
                newest = read_time(memory, at) - 1 if there else -1
                gone = now * WINDOW_PARTS // accumulators.windows[a] - newest
                if newest >= 0:
                    for i in range(min(WINDOW_PARTS, WINDOW_PARTS - gone)):
                        out[b, column] += np.float64(memory[at + 2 + i])
            column += accumulators.lengths[a]
