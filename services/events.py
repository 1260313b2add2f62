"""The wire schema of ``dolmen.impressions`` and ``dolmen.actions``: what was shown, and what was done with it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from trainer.errors import BadRecord
from trainer.json_value import MISSING, kind_of

AFTERWARDS = ("labels", "outcomes", "sampled", "correction")
"""Members of an item that only an example can have."""

_LONGEST = 200


def parse_impression(value: bytes, latest_ts: int | None = None) -> dict[str, Any]:
    """Decodes and checks one message of ``dolmen.impressions``. Unknown fields are features, or are ignored.

    Args:
        value: The message's bytes.
        latest_ts: The latest ``ts`` allowed, in ms since the epoch; None for no bound.

    Raises:
        BadRecord: Naming the field and the remedy.
    """
    return _parse(value, check_impression, latest_ts)


def parse_action(value: bytes, latest_ts: int | None = None) -> dict[str, Any]:
    """Decodes and checks one message of ``dolmen.actions``; arguments and errors as in :func:`parse_impression`.

    A ``value`` that is not there stays so; it means 1.
    """
    return _parse(value, check_action, latest_ts)


def check_impression(message: Any, latest_ts: int | None = None) -> None:
    """Checks one decoded impression; arguments and errors as in :func:`parse_impression`."""
    _check_head(message, latest_ts)
    for name in ("user", "context"):
        part = message.get(name, MISSING)
        if type(part) is not dict and not (part is MISSING and name == "context"):
            raise _fault(name, part, "be an object")
    items = message.get("items", MISSING)
    if type(items) is not list or not items:
        raise _fault("items", items, "be a list of at least one item")
    seen: set[str] = set()
    for index, item in enumerate(items):
        if type(item) is not dict:
            raise _fault(f"items[{index}]", item, "be an object")
        _check_item(item, f"items[{index}]")
        seen.add(text := id_text(item["id"]))
        if len(seen) <= index:
            raise BadRecord("schema", f"`items[{index}].id` {text!r} stands in this list already; show an item once")


def check_action(message: Any, latest_ts: int | None = None) -> None:
    """Checks one decoded action; arguments and errors as in :func:`parse_action`."""
    _check_head(message, latest_ts)
    _check_id(message.get("item_id", MISSING), "item_id")
    _check_text(message.get("action", MISSING), "action")
    value = message.get("value", 1.0)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _fault("value", value, "be a number")


def id_text(value: int | str) -> str:
    """An id as text; ids that are the same to the store have the same text.

    >>> id_text(42) == id_text("42"), id_text(True), id_text("042")
    (True, '1', '042')
    """
    return value if type(value) is str else str(int(value))


def request_key(message: Mapping[str, Any]) -> bytes:
    """The Kafka key of a checked impression or action, so that all of a request meet in one partition."""
    return str(message["request_id"]).encode("utf-8", "surrogatepass")


def _parse(value: bytes, check: Callable[[Any, int | None], None], latest_ts: int | None) -> dict[str, Any]:
    try:
        message = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise BadRecord("json", f"the message is not JSON: {error}") from None
    check(message, latest_ts)
    return message  # type: ignore[no-any-return]  # checked to be a dict


def _check_head(message: Any, latest_ts: int | None) -> None:
    if type(message) is not dict:
        raise BadRecord("schema", f"the message must be a JSON object, got {kind_of(message)}")
    _check_text(message.get("request_id", MISSING), "request_id")
    ts = message.get("ts", MISSING)
    if type(ts) is not int or not 0 <= ts < 1 << 53:
        raise _fault("ts", ts, "be an integer, ms since the epoch")
    if latest_ts is not None and ts > latest_ts:
        raise BadRecord("ahead", f"`ts` {ts} lies {ts - latest_ts} ms further past the record's own time than allowed")


def _check_item(item: Mapping[str, Any], place: str) -> None:
    _check_id(item.get("id", MISSING), f"{place}.id")
    position = item.get("position", 0)
    if type(position) is not int or position < 0:
        raise _fault(f"{place}.position", position, "be an integer of at least 0")
    weight = item.get("weight", 1.0)
    if type(weight) not in (int, float) or not (weight >= 0 and math.isfinite(weight)):
        raise _fault(f"{place}.weight", weight, "be a number of at least 0")
    for name in AFTERWARDS:
        if name in item:
            raise BadRecord(
                "schema", f"`{place}.{name}` cannot be known of an impression; send actions, or a labelled example"
            )


def _check_id(value: Any, place: str) -> None:
    if type(value) not in (str, int, bool):
        raise _fault(place, value, "be a string or an integer")


def _check_text(value: Any, place: str) -> None:
    if type(value) is not str or not 0 < len(value) <= _LONGEST:
        raise _fault(place, value, f"be a string of 1 to {_LONGEST} characters")


def _fault(place: str, value: object, demand: str) -> BadRecord:
    text = f"is missing; it must {demand}" if value is MISSING else f"must {demand}, got {kind_of(value)}"
    return BadRecord("schema", f"`{place}` {text}")
