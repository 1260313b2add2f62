"""The numbers of one row as people read them."""

from typing import Any

from embedding_store.accumulators import CLOCK_WIDTH
from embedding_store.ids import render_id
from embedding_store.settings import SEQUENCE_ITEM, Accumulator, TableSettings

_HALF = 1 << 24


def shown(table: TableSettings, values: list[float]) -> dict[str, Any]:
    """What a row of a table says, as JSON.

    Args:
        table: Its.
        values: The row's numbers without the optimizer's state.

    Returns:
        Of a table of weights ``linear`` or, with Gaussian weights, ``weights`` (mean and variance of each task), and
        ``vector``; of statistics ``accumulators``, as they were when the row was last seen; of a sequence ``items``,
        the newest first.
    """
    if table.kind == "statistics":
        return {"accumulators": _accumulators(table, values)}
    if table.kind == "sequence":
        return {"items": [_item(values[1 + SEQUENCE_ITEM * n :]) for n in range(int(values[0]))]}
    vector = values[table.lead :]
    if table.linear != "gaussian":
        return {"linear": values[0], "vector": vector}
    pairs = zip(values[: table.lead : 2], values[1 : table.lead : 2], strict=True)
    return {"weights": [{"mean": mean, "variance": variance} for mean, variance in pairs], "vector": vector}


def _accumulators(table: TableSettings, values: list[float]) -> list[dict[str, Any]]:
    found, at = [], CLOCK_WIDTH
    for accumulator in table.accumulators:
        part = values[at : at + accumulator.width]
        at += accumulator.width
        said = accumulator.model_dump(include={"kind", "of", "half_life_ms", "window_ms"}, exclude_none=True)
        found.append({**said, "value": _value(accumulator, part) if at <= len(values) else None})
    return found


def _value(accumulator: Accumulator, part: list[float]) -> Any:
    if accumulator.kind == "last":
        return part[1 : 1 + int(part[0])]
    if accumulator.kind == "time":
        times = [int(high) * _HALF + int(low) for high, low in zip(part[::2], part[1::2], strict=True)]
        return [time_ms for time_ms in times if time_ms]
    return sum(part[2:] if accumulator.window_ms else part)


def _item(part: list[float]) -> dict[str, Any]:
    low, middle, high, ts_high, ts_low, outcome = part[:SEQUENCE_ITEM]
    word = int(low) | int(middle) << 24 | int(high) << 48
    key = word - (1 << 64) if word >> 63 else word
    return {"id": render_id(key), "ts": int(ts_high) * _HALF + int(ts_low), "outcome": outcome}
