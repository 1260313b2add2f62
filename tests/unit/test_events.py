"""Impressions and actions on the wire: what is sound, and how each fault is named."""

import json
from typing import Any

import pytest

from embedding_store.ids import feature_id
from services.events import id_text, parse_action, parse_impression, request_key
from trainer.errors import BadRecord
from trainer.json_value import MISSING

NOW_MS = 1_700_000_000_123


def without_missing(value: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if part is not MISSING}


def impression(**changes: Any) -> dict[str, Any]:
    value = {
        "request_id": "r1",
        "ts": NOW_MS,
        "user": {"id": "u42"},
        "context": {"device": "ios"},
        "items": [{"id": "i1", "position": 0, "genre": ["Drama"]}, {"id": 2, "position": 1, "weight": 0.5}],
    }
    return without_missing(value | changes)


def item(**changes: Any) -> dict[str, Any]:
    return without_missing({"id": 1} | changes)


def action(**changes: Any) -> dict[str, Any]:
    value = {"request_id": "r1", "ts": NOW_MS, "item_id": "i1", "action": "click", "value": 1.0}
    return without_missing(value | changes)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_sound_messages_come_back_whole() -> None:
    assert parse_impression(encoded(impression())) == impression()
    assert parse_action(encoded(action())) == action()


def test_optional_fields_may_lack_and_unknown_ones_are_let_through() -> None:
    bare = {"request_id": "r", "ts": 0, "user": {}, "items": [{"id": True}]}
    assert parse_impression(encoded(bare)) == bare
    assert parse_impression(encoded(impression(page={"a": [1]})))["page"] == {"a": [1]}
    assert "value" not in parse_action(encoded(action(value=MISSING)))
    assert parse_action(encoded(action(value=-3, item_id=7, note=None)))["value"] == -3


HEAD: list[tuple[dict[str, Any], str]] = [
    ({"request_id": MISSING}, "`request_id` is missing; it must be a string of 1 to 200 characters"),
    ({"request_id": 7}, "`request_id` must be a string of 1 to 200 characters, got the integer 7"),
    ({"request_id": ""}, "`request_id` must be a string of 1 to 200 characters, got the string ''"),
    ({"request_id": "x" * 201}, "`request_id` must be a string of 1 to 200 characters, got the string 'xxx"),
    ({"ts": MISSING}, "`ts` is missing; it must be an integer, ms since the epoch"),
    ({"ts": 1.5}, "`ts` must be an integer, ms since the epoch, got the float 1.5"),
    ({"ts": True}, "`ts` must be an integer, ms since the epoch, got the boolean True"),
    ({"ts": -1}, "`ts` must be an integer"),
    ({"ts": 2**53}, "`ts` must be an integer"),
]
IMPRESSIONS: list[tuple[Any, str]] = [
    ([1], "the message must be a JSON object, got a list"),
    *((impression(**change), text) for change, text in HEAD),
    (impression(user=MISSING), "`user` is missing; it must be an object"),
    (impression(user="u1"), "`user` must be an object, got the string 'u1'"),
    (impression(context=None), "`context` must be an object, got null"),
    (impression(items=MISSING), "`items` is missing; it must be a list of at least one item"),
    (impression(items=[]), "`items` must be a list of at least one item, got a list"),
    (impression(items=[item(), 7]), "`items[1]` must be an object, got the integer 7"),
    (impression(items=[item(id=MISSING)]), "`items[0].id` is missing; it must be a string or an integer"),
    (impression(items=[item(id=1.5)]), "`items[0].id` must be a string or an integer, got the float 1.5"),
    (impression(items=[item(id=None)]), "`items[0].id` must be a string or an integer, got null"),
    (impression(items=[item(position=-1)]), "`items[0].position` must be an integer of at least 0"),
    (impression(items=[item(position="top")]), "`items[0].position` must be an integer of at least 0"),
    (impression(items=[item(weight=-1)]), "`items[0].weight` must be a number of at least 0"),
    (impression(items=[item(), item(id="1")]), "`items[1].id` '1' stands in this list already"),
    (impression(items=[item(labels={"click": 1})]), "`items[0].labels` cannot be known of an impression; send actions"),
    (impression(items=[item(outcomes={})]), "`items[0].outcomes` cannot be known of an impression"),
]
ACTIONS: list[tuple[Any, str]] = [
    (None, "the message must be a JSON object, got null"),
    *((action(**change), text) for change, text in HEAD),
    (action(item_id=MISSING), "`item_id` is missing; it must be a string or an integer"),
    (action(item_id=[1]), "`item_id` must be a string or an integer, got a list"),
    (action(action=MISSING), "`action` is missing; it must be a string of 1 to 200 characters"),
    (action(action=3), "`action` must be a string of 1 to 200 characters, got the integer 3"),
    (action(value="much"), "`value` must be a number, got the string 'much'"),
    (action(value=None), "`value` must be a number, got null"),
    (action(value=True), "`value` must be a number, got the boolean True"),
]


@pytest.mark.parametrize(("value", "detail"), IMPRESSIONS, ids=[text[:60] for _, text in IMPRESSIONS])
def test_a_broken_impression_is_named_by_its_field(value: Any, detail: str) -> None:
    with pytest.raises(BadRecord) as caught:
        parse_impression(encoded(value))
    assert caught.value.reason == "schema"
    assert caught.value.detail.startswith(detail)


@pytest.mark.parametrize(("value", "detail"), ACTIONS, ids=[text[:60] for _, text in ACTIONS])
def test_a_broken_action_is_named_by_its_field(value: Any, detail: str) -> None:
    with pytest.raises(BadRecord) as caught:
        parse_action(encoded(value))
    assert caught.value.reason == "schema"
    assert caught.value.detail.startswith(detail)


@pytest.mark.parametrize("value", [b"", b"{", b"\xff\xfe", b'{"ts": NaN}'])
@pytest.mark.parametrize("parse", [parse_impression, parse_action])
def test_bytes_that_are_no_json_are_named(parse: Any, value: bytes) -> None:
    with pytest.raises(BadRecord, match="json: the message is not JSON"):
        parse(value)


def test_a_time_too_far_ahead_is_refused_and_one_at_the_bound_is_not() -> None:
    parse_impression(encoded(impression()), NOW_MS)
    parse_action(encoded(action()), latest_ts=NOW_MS)
    for parse, value in ((parse_impression, impression()), (parse_action, action())):
        with pytest.raises(BadRecord, match="ahead: `ts` 1700000000123 lies 23 ms further"):
            parse(encoded(value), NOW_MS - 23)


@pytest.mark.parametrize("one", [0, True, "1", "01", -5, "-5", 2**63, "é", ""])
@pytest.mark.parametrize("two", [0, 1, "0", -5, 2**63, str(2**63), "01"])
def test_ids_have_one_text_exactly_when_they_are_one_to_the_store(one: int | str, two: int | str) -> None:
    assert (id_text(one) == id_text(two)) == (feature_id(one) == feature_id(two))


def test_the_key_is_the_request() -> None:
    assert request_key(impression()) == request_key(action()) == b"r1"
