"""The wire of the HTTP interface: request bodies, read and checked.

Names of features are free, so bodies are checked by hand; `openapi.py` describes them.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from services.events import id_text
from services.ranker.problems import Problem, bad_field
from trainer.json_value import kind_of

MAX_CANDIDATES = 1000
MAX_EVENTS = 1000
EVENT_LISTS = ("impressions", "actions", "examples")


@dataclass(frozen=True, slots=True)
class RankQuery:
    """A checked body of ``POST /v1/rank``.

    Attributes:
        user: Features of the visitor.
        context: Features of the situation.
        items: The candidates, each an object with an ``id``.
        k: How many are wanted.
        log_impression: Whether the answer is logged as an impression.
        std: Whether each score's standard deviation is wanted.
    """

    user: dict[str, Any]
    context: dict[str, Any]
    items: list[dict[str, Any]]
    k: int
    log_impression: bool = False
    std: bool = False


@dataclass(frozen=True, slots=True)
class ExplainQuery:
    """A checked body of ``POST /v1/explain``.

    Attributes:
        user: Features of the visitor.
        context: Features of the situation.
        item: The candidate, an object with an ``id``.
    """

    user: dict[str, Any]
    context: dict[str, Any]
    item: dict[str, Any]


async def read_json(request: Request, max_bytes: int) -> Any:
    """The request's body, decoded.

    Raises:
        Problem: 413 as soon as it is too large, 415 if it is no JSON by its content type, 422 if it is none in truth.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Problem(415, f"the body must be sent as application/json, not {kind or 'without a content type'}")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(422, f"the body is not JSON: {error}") from None


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, f"the body is larger than {max_bytes} bytes (ranker.max_body_bytes); split the request")


def parse_rank(body: Any) -> RankQuery:
    """Checks a body of ``POST /v1/rank``. Unknown members are ignored.

    Raises:
        Problem: 422 that names the field.
    """
    _check_object(body)
    user = _member(body, "user", None)
    context = _member(body, "context", {})
    candidates = body.get("candidates")
    if type(candidates) is not list or not 1 <= len(candidates) <= MAX_CANDIDATES:
        got = f"{len(candidates)} of them" if type(candidates) is list else _kind(body, "candidates")
        raise bad_field("candidates", f"must be a list of 1 to {MAX_CANDIDATES} candidates, got {got}")
    k = body.get("k", len(candidates))
    if type(k) is not int or k < 1:
        raise bad_field("k", f"must be an integer of at least 1, got {kind_of(k)}")
    switches = {name: body.get(name, False) for name in ("log_impression", "std")}
    for name, value in switches.items():
        if type(value) is not bool:
            raise bad_field(name, f"must be true or false, got {kind_of(value)}")
    items = [_item(candidate, f"candidates[{index}]") for index, candidate in enumerate(candidates)]
    return RankQuery(user, context, items, k, **switches)


def parse_explain(body: Any) -> ExplainQuery:
    """Checks a body of ``POST /v1/explain``. Unknown members are ignored.

    Raises:
        Problem: 422 that names the field.
    """
    _check_object(body)
    if "item" not in body:
        raise bad_field("item", "must be an object or an id, got nothing")
    return ExplainQuery(_member(body, "user", None), _member(body, "context", {}), _item(body["item"], "item"))


def _item(candidate: Any, place: str) -> dict[str, Any]:
    if type(candidate) is dict:
        if type(candidate.get("id")) not in (str, int, bool):
            got = _kind(candidate, "id")
            raise bad_field(f"{place}.id", f"must be a string or an integer, got {got}")
        return candidate
    if type(candidate) in (str, int):
        return {"id": candidate}
    raise bad_field(place, f"must be an object or an id, got {kind_of(candidate)}")


def parse_features(identity: str, body: Any) -> dict[str, Any]:
    """Checks a body of ``PUT /v1/users/{id}`` or ``PUT /v1/items/{id}``.

    Returns:
        The features without the id.

    Raises:
        Problem: 422 that names the field.
    """
    _check_object(body)
    if not identity:
        raise Problem(422, "the path must end with an id")
    own = body.get("id", identity)
    if type(own) not in (str, int, bool) or id_text(own) != identity:
        raise bad_field("id", f"must be that of the path, {identity!r}, got {kind_of(own)}; leave it out")
    return {name: value for name, value in body.items() if name != "id"}


def parse_events(body: Any) -> dict[str, list[Any]]:
    """Checks a body of ``POST /v1/events`` but for its events.

    Returns:
        The events by list.

    Raises:
        Problem: 422 that names the list.
    """
    _check_object(body)
    lists: dict[str, list[Any]] = {}
    for name in EVENT_LISTS:
        lists[name] = body.get(name, [])
        if type(lists[name]) is not list:
            raise bad_field(name, f"must be a list, got {kind_of(lists[name])}")
    total = sum(map(len, lists.values()))
    if not 1 <= total <= MAX_EVENTS:
        raise Problem(422, f"{', '.join(EVENT_LISTS)} must hold 1 to {MAX_EVENTS} events in all, got {total}")
    return lists


def _check_object(body: Any) -> None:
    if type(body) is not dict:
        raise Problem(422, f"the body must be a JSON object, got {kind_of(body)}")


def _member(body: dict[str, Any], name: str, default: dict[str, Any] | None) -> dict[str, Any]:
    value = body.get(name, default) if default is not None else body.get(name)
    if type(value) is not dict:
        raise bad_field(name, f"must be an object, got {_kind(body, name)}")
    return value


def _kind(holder: dict[str, Any], name: str) -> str:
    return kind_of(holder[name]) if name in holder else "nothing"
