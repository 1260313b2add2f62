"""What must be true of every stored row, whatever happened to it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from embedding_store.accumulators import CLOCK_WIDTH
from embedding_store.codec import Block
from embedding_store.plan import Layouts
from embedding_store.settings import SEQUENCE_ITEM, WINDOW_PARTS, Accumulator, TableSettings

_HALF = float(1 << 24)  # a time is two numbers below this
_HIGHEST = float(1 << 16)  # bits of an id above the two lower thirds
_ROUNDING = 1e-4


def row_faults(table: TableSettings, block: Block, layouts: Layouts | None) -> Iterator[str]:
    """Faults of some rows of one table and width, one sentence each.

    Args:
        table: Theirs.
        block: The rows, with their state.
        layouts: Of the shard; None if they could not be read.
    """
    entries, cold = block.entries, block.cold
    dim = entries["values"].shape[1] - table.lead
    name = f"table {block.table!r}"
    if layouts is not None and not all(layouts.holds(table.name, int(n), dim) for n in np.unique(entries["layout"])):
        yield f"{name}: a row of {dim} numbers has an unknown layout, or another's"
    if not (np.isfinite(entries["values"]).all() and np.isfinite(entries["state"]).all()):
        yield f"{name}: a row holds a number that is not finite"
        return
    if (entries["count"][~cold] == 0).any():
        yield f"{name}: a row was never seen"
    if table.kind == "weights":
        found = _weight_faults(table, entries, dim)
    else:
        if entries["values"][cold].any():
            yield f"{name}: its cold row is not empty"
        check = _statistic_faults if table.kind == "statistics" else _sequence_faults
        found = check(table, entries[~cold])
    yield from (f"{name}: {fault}" for fault in found)


def _weight_faults(table: TableSettings, entries: NDArray[np.void], dim: int) -> Iterator[str]:
    linear = table.linear or table.optimizer
    positive = []
    if linear.startswith("adagrad"):
        positive.append(entries["state"][:, : table.linear_state])
    if table.optimizer.startswith("adagrad") and dim:
        positive.append(entries["state"][:, table.linear_state :])
    if not all((part > 0).all() for part in positive):
        yield "an accumulator is not positive"
    if linear == "gaussian" and not (entries["values"][:, 1 : table.lead : 2] > 0).all():
        yield "a variance is not positive"


def _times(values: NDArray[np.float32], at: int) -> NDArray[np.float64]:
    return values[:, at].astype(np.float64) * _HALF + values[:, at + 1]


def _are_whole(numbers: NDArray[np.float32], end: float) -> bool:
    """Whether all are integers from 0 up to `end`, itself not among them."""
    return bool(((numbers >= 0) & (numbers < end) & (numbers == np.floor(numbers))).all())


def _statistic_faults(table: TableSettings, entries: NDArray[np.void]) -> Iterator[str]:
    values = entries["values"]
    if not _are_whole(values[:, :CLOCK_WIDTH], _HALF) or (_times(values, 0) > entries["last_seen"]).any():
        yield "the accumulators' clock is later than the row was last seen"
    at = CLOCK_WIDTH
    for accumulator in table.accumulators:
        part = values[:, at : at + accumulator.width]
        at += accumulator.width
        if at > values.shape[1]:
            return  # written before this one was added
        fault = _accumulator_fault(accumulator, part, entries)
        if fault:
            yield f"{accumulator.kind} of {accumulator.of!r}: {fault}"


def _accumulator_fault(accumulator: Accumulator, part: NDArray[np.float32], entries: NDArray[np.void]) -> str | None:
    most = entries["count"] * (1.0 + _ROUNDING)
    if accumulator.kind == "count":
        total = part.astype(np.float64).sum(1)
        return "is negative, or more than the row was seen" if ((total < 0) | (total > most)).any() else None
    if accumulator.kind == "last":
        held = part[:, 0]
        sound = _are_whole(held, accumulator.length + 1) and (held <= entries["count"]).all()
        return None if sound else "holds more values than it may"
    if accumulator.kind == "time":
        times = np.stack([_times(part, at) for at in range(0, accumulator.width, 2)], axis=1)
        later, earlier = times[:, :-1], times[:, 1:]
        if not ((later > earlier) | (later == 0) & (earlier == 0)).all():
            return "its times are not in order"
        sound = _are_whole(part, _HALF) and (times[:, 0] <= entries["last_seen"]).all()
        return None if sound else "is later than the row was seen"
    if accumulator.window_ms is None:
        return None
    newest = _times(part, 0) - 1
    last = entries["last_seen"] * WINDOW_PARTS // accumulator.window_ms
    if not _are_whole(part[:, :2], _HALF) or (newest > last).any():
        return "its window ends later than the row was seen"
    if accumulator.kind == "window_count" and not (
        _are_whole(part[:, 2:], np.inf) and (part[:, 2:].sum(1) <= most).all()
    ):
        return "is negative, or more than the row was seen"
    return None


def _sequence_faults(table: TableSettings, entries: NDArray[np.void]) -> Iterator[str]:
    values = entries["values"]
    counts = values[:, 0]
    places = (values.shape[1] - 1) // SEQUENCE_ITEM
    if not _are_whole(counts, places + 1) or (counts > entries["count"]).any():
        yield "a row says that it holds more items than it can"
        return
    items = values[:, 1:].reshape(len(values), places, SEQUENCE_ITEM)
    there = np.arange(places) < counts[:, None]
    if not _are_whole(items[there][:, :5], _HALF) or not _are_whole(items[there][:, 2], _HIGHEST):
        yield "an item is none"
    times = items[:, :, 3].astype(np.float64) * _HALF + items[:, :, 4]
    if (np.where(there, times, 0.0).max(1, initial=0.0) > entries["last_seen"]).any():
        yield "an item is later than the row was seen"
    if (there[:, 1:] & (times[:, 1:] > times[:, :-1])).any():
        yield "items are not in the order of their times"
