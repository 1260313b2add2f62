"""The training example: the wire schema of ``dolmen.examples``, and examples as columns."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from trainer.errors import BadRecord
from trainer.json_value import MISSING, kind_of, must
from trainer.told import check_told, request_number, told_of


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of few distinct values: strings, lists, or integers of which some are absent.

    Attributes:
        codes: int64[N], positions in ``values``.
        values: object[V], JSON values and :data:`MISSING` where absent.
    """

    codes: NDArray[np.int64]
    values: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> "Coded":
        return Coded(self.codes[index], self.values)

    def tolist(self) -> list[Any]:
        """The N values."""
        return self.values[self.codes].tolist()  # type: ignore[no-any-return]  # numpy types it as Any


Column = NDArray[np.int64] | NDArray[np.float64] | Coded | Sequence[Any]
"""Values of one source: an int64 array (ids, none missing), a float64 array (numbers, NaN where missing), coded
values, or a sequence of JSON values with :data:`MISSING` where absent."""


@dataclass(frozen=True, slots=True)
class ToldColumns:
    """What the messages of L lists tell of earlier ones of the same lists.

    Attributes:
        requests: int64[L], a number for each list; 0 where the message does not say.
        counts: int64[L], how many items each tells of.
        places: int64[B], which of those E items each item is; -1 for none.
        columns: Of the E items; None if there are none.
    """

    requests: NDArray[np.int64]
    counts: NDArray[np.int64]
    places: NDArray[np.int64]
    columns: "Columns | None"


@dataclass(frozen=True, slots=True)
class Columns:
    """L ranked lists with B items in all, as columns.

    Attributes:
        sizes: int64[L], items of each list, at least one.
        ts: int64[L], event time in ms since the epoch.
        values: By source. ``user.*`` and ``context.*`` have L values, ``item.*`` have B. A source that is not there is
            missing everywhere.
        labels: float32[B, T] in the order of the definition's tasks; NaN where a label is absent. Zero columns wide
            when ranking.
        weights: float32[B].
        offsets: float32[B, T], -log(rate) where a task's negatives were sampled at that rate, else 0; None: nowhere.
        told: What came before of the same lists; None: nothing.
    """

    sizes: NDArray[np.int64]
    ts: NDArray[np.int64]
    values: Mapping[str, Column]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    offsets: NDArray[np.float32] | None = None
    told: ToldColumns | None = None


def column_of(columns: Columns, source: str) -> Column:
    """The values of a source: of L lists, or of B items for ``item.*``. ``time.*`` is made from the event time."""
    if source == "time.hour":
        return columns.ts // 3_600_000 % 24
    if source == "time.weekday":
        return (columns.ts // 86_400_000 + 3) % 7
    column = columns.values.get(source)
    if column is None:
        return [MISSING] * (columns.labels.shape[0] if source.startswith("item.") else columns.sizes.size)
    return column


def parse_example(value: bytes, tasks: Sequence[str], latest_ts: int | None = None) -> dict[str, Any]:
    """Decodes and checks one message of ``dolmen.examples``. Unknown fields are ignored.

    Args:
        value: The message's bytes.
        tasks: Names of the labels of which each item must have at least one.
        latest_ts: The latest ``ts`` allowed, in ms since the epoch; None for no bound.

    Raises:
        BadRecord: Naming the field and the remedy.
    """
    try:
        message = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise BadRecord("json", f"the message is not JSON: {error}") from None
    check_example(message, tasks, latest_ts)
    return message  # type: ignore[no-any-return]  # checked to be a dict


def check_example(message: Any, tasks: Sequence[str], latest_ts: int | None = None) -> None:
    """Checks one decoded message; arguments and errors as in :func:`parse_example`."""
    if type(message) is not dict:
        raise BadRecord("schema", f"the message must be a JSON object, got {kind_of(message)}")
    ts = message.get("ts", MISSING)
    if type(ts) is not int or not 0 <= ts < 1 << 48:
        raise BadRecord("schema", f"`ts` {must(ts, 'be an integer, ms since the epoch')}")
    if latest_ts is not None and ts > latest_ts:
        raise BadRecord("ahead", f"`ts` {ts} lies {ts - latest_ts} ms further past the record's own time than allowed")
    for name in ("user", "context"):
        part = message.get(name, MISSING)
        if type(part) is not dict and not (part is MISSING and name == "context"):
            raise BadRecord("schema", f"`{name}` {must(part, 'be an object')}")
    items = message.get("items", MISSING)
    if type(items) is not list or not items:
        raise BadRecord("schema", f"`items` {must(items, 'be a list of at least one item')}")
    told = check_told(message)
    for index, item in enumerate(items):
        _check_item(item, index, tasks, told)


def _check_item(item: Any, index: int, tasks: Sequence[str], told: Set[str]) -> None:
    """Checks one item; its labels may all have been told of before, and then only outcomes come with it."""
    if type(item) is not dict:
        raise BadRecord("schema", f"`items[{index}]` {must(item, 'be an object')}")
    if "id" not in item:
        raise BadRecord("schema", f"`items[{index}].id` is missing")
    labels = item.get("labels", MISSING)
    if type(labels) is not dict:
        raise BadRecord("schema", f"`items[{index}].labels` {must(labels, 'be an object')}")
    known = False
    for task in tasks:
        label = labels.get(task, MISSING)
        if label is MISSING:
            continue
        known = True
        if not (isinstance(label, int | float) and 0 <= label <= 1):
            raise BadRecord("schema", f"`items[{index}].labels.{task}` {must(label, 'be a number from 0 to 1')}")
    if not known and str(item["id"]) not in told:
        raise BadRecord("schema", f"`items[{index}].labels` has none of the tasks: {', '.join(tasks)}")
    weight = item.get("weight", 1.0)
    if type(weight) not in (int, float) or not (weight >= 0 and math.isfinite(weight)):
        raise BadRecord("schema", f"`items[{index}].weight` {must(weight, 'be a number of at least 0')}")
    correction = item.get("correction", False)
    if type(correction) is not bool:
        raise BadRecord("schema", f"`items[{index}].correction` {must(correction, 'be true or false')}")
    if "sampled" in item:
        _check_sampled(item["sampled"], index, tasks)


def _check_sampled(sampled: Any, index: int, tasks: Sequence[str]) -> None:
    if type(sampled) is not dict:
        raise BadRecord("schema", f"`items[{index}].sampled` {must(sampled, 'be an object')}")
    for task in tasks:
        rate = sampled.get(task, 1.0)
        if type(rate) not in (int, float) or not 0 < rate <= 1:
            raise BadRecord(
                "schema", f"`items[{index}].sampled.{task}` {must(rate, 'be a number above 0 and at most 1')}"
            )


def examples_to_columns(messages: Sequence[Mapping[str, Any]], sources: Sequence[str], tasks: Sequence[str]) -> Columns:
    """Checked messages as columns.

    Args:
        messages: L messages that :func:`check_example` has passed.
        sources: Those to take, such as ``user.id`` or ``item.genre``; deeper paths reach into objects.
        tasks: Label names, the columns of ``labels``.
    """
    items = [item for message in messages for item in message["items"]]
    labels = np.empty((len(items), len(tasks)), dtype=np.float32)
    for t, task in enumerate(tasks):
        labels[:, t] = [item["labels"].get(task, math.nan) for item in items]
    return Columns(
        sizes=np.array([len(message["items"]) for message in messages], dtype=np.int64),
        ts=np.array([message["ts"] for message in messages], dtype=np.int64),
        values=_collect(messages, items, sources),
        labels=labels,
        weights=np.array([item.get("weight", 1.0) for item in items], dtype=np.float32),
        offsets=_offsets(items, tasks),
        told=_told_columns(messages, items, sources),
    )


def _told_columns(
    messages: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]], sources: Sequence[str]
) -> ToldColumns | None:
    if not any("request_id" in message for message in messages) and not any("correction" in item for item in items):
        return None
    requests = np.array([request_number(message) for message in messages], dtype=np.int64)
    told = [told_of(message) for message in messages]
    places, at = [], 0
    for message, some in zip(messages, told, strict=True):
        known = {str(item["id"]): at + n for n, item in enumerate(some)}
        own = message["items"]
        places += [known.get(str(item["id"]), -1) for item in own] if known else [-1] * len(own)
        at += len(some)
    telling = [message for message, some in zip(messages, told, strict=True) if some]
    counts = np.array([len(some) for some in told], dtype=np.int64)
    columns = Columns(
        sizes=counts[counts > 0],
        ts=np.array([message["ts"] for message in telling], dtype=np.int64),
        values=_collect(telling, [item for some in told for item in some], sources),
        labels=np.empty((at, 0), dtype=np.float32),
        weights=np.ones(at, dtype=np.float32),
    )
    return ToldColumns(requests, counts, np.array(places, dtype=np.int64), columns if telling else None)


def _offsets(items: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> NDArray[np.float32] | None:
    if not any("sampled" in item for item in items):
        return None
    rates = [[item.get("sampled", {}).get(task, 1.0) for task in tasks] for item in items]
    return -np.log(np.array(rates, dtype=np.float64)).astype(np.float32)


def request_to_columns(
    ts: int,
    user: Mapping[str, Any],
    context: Mapping[str, Any],
    items: Sequence[Mapping[str, Any]],
    sources: Sequence[str],
) -> Columns:
    """One ranking request as columns, without labels.

    Args:
        ts: The time of the request, ms since the epoch.
        user: The visitor's features.
        context: Features of the situation.
        items: B candidates.
        sources: As in :func:`examples_to_columns`.
    """
    return Columns(
        sizes=np.array([len(items)], dtype=np.int64),
        ts=np.array([ts], dtype=np.int64),
        values=_collect([{"user": user, "context": context}], items, sources),
        labels=np.empty((len(items), 0), dtype=np.float32),
        weights=np.ones(len(items), dtype=np.float32),
    )


def _collect(
    messages: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]], sources: Sequence[str]
) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for source in sources:
        part, _, path = source.partition(".")
        if part == "time":
            continue
        holders: Sequence[Any] = items if part == "item" else [message.get(part, {}) for message in messages]
        for step in path.split("."):
            holders = [h.get(step, MISSING) if type(h) is dict else MISSING for h in holders]
        values[source] = list(holders)
    return values
