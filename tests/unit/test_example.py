"""The training example on the wire: what is sound, and how each fault is named."""

import json

import numpy as np
import pytest

from trainer.errors import BadRecord
from trainer.example import examples_to_columns, parse_example, request_to_columns
from trainer.json_value import MISSING, kind_of

TASKS = ("click", "like")


def message(**changes):
    value = {
        "ts": 1_700_000_000_123,
        "user": {"id": "u1"},
        "context": {"tab": 1},
        "items": [{"id": 1, "labels": {"click": 1}}, {"id": 2, "labels": {"click": 0, "like": 0.5}, "weight": 2}],
    }
    value.update(changes)
    return {name: part for name, part in value.items() if part is not MISSING}


def item(**changes):
    value = {"id": 1, "labels": {"click": 1}, **changes}
    return {name: part for name, part in value.items() if part is not MISSING}


def parse(value, **options):
    return parse_example(json.dumps(value).encode(), TASKS, **options)


def test_a_sound_message_comes_back_whole():
    assert parse(message()) == message()


def test_unknown_fields_are_ignored_and_optional_ones_may_lack():
    assert parse(message(context=MISSING, request_id="r", label_ts=5, future={"a": [1]}))["request_id"] == "r"
    parse(message(items=[item(outcomes={"play_ms": 1}, sampled={"click": 0.1}, correction=True)]))


def test_a_label_may_be_a_boolean_or_lie_in_between():
    parse(message(items=[item(labels={"click": True}), item(labels={"click": 0.25}), item(labels={"like": 1.0})]))


FAULTS = [
    (message(ts=MISSING), "schema", "`ts` is missing; it must be an integer, ms since the epoch"),
    (message(ts="now"), "schema", "`ts` must be an integer, ms since the epoch, got the string 'now'"),
    (message(ts=1.5), "schema", "`ts` must be an integer, ms since the epoch, got the float 1.5"),
    (message(ts=True), "schema", "`ts` must be an integer, ms since the epoch, got the boolean True"),
    (message(ts=-1), "schema", "`ts` must be an integer, ms since the epoch, got the integer -1"),
    (message(ts=2**53), "schema", "`ts` must be"),
    (message(user=MISSING), "schema", "`user` is missing; it must be an object"),
    (message(user="u1"), "schema", "`user` must be an object, got the string 'u1'"),
    (message(context=None), "schema", "`context` must be an object, got null"),
    (message(items=MISSING), "schema", "`items` is missing; it must be a list of at least one item"),
    (message(items=[]), "schema", "`items` must be a list of at least one item, got a list"),
    (message(items={"id": 1}), "schema", "`items` must be a list of at least one item, got an object"),
    (message(items=[item(), 7]), "schema", "`items[1]` must be an object, got the integer 7"),
    (message(items=[item(sampled=0.1)]), "schema", "`items[0].sampled` must be an object, got the float 0.1"),
    (message(items=[item(sampled={"click": 0})]), "schema", "`items[0].sampled.click` must be a number above 0 and at"),
    (message(items=[item(sampled={"like": 1.5})]), "schema", "`items[0].sampled.like` must be a number above 0 and at"),
    (message(items=[item(sampled={"click": "1"})]), "schema", "`items[0].sampled.click` must be a number above 0"),
    (message(items=[item(sampled={"click": True})]), "schema", "`items[0].sampled.click` must be a number above 0 and"),
    (message(items=[item(correction=1)]), "schema", "`items[0].correction` must be true or false, got the integer 1"),
    (message(items=[item(), item(id=MISSING)]), "schema", "`items[1].id` is missing"),
    (message(items=[item(labels=MISSING)]), "schema", "`items[0].labels` is missing; it must be an object"),
    (message(items=[item(labels=[1])]), "schema", "`items[0].labels` must be an object, got a list"),
    (message(items=[item(labels={"buy": 1})]), "schema", "`items[0].labels` has none of the tasks: click, like"),
    (message(items=[item(labels={"click": 2})]), "schema", "`items[0].labels.click` must be a number from 0 to 1"),
    (message(items=[item(labels={"click": "1"})]), "schema", "`items[0].labels.click` must be a number from 0 to 1"),
    (message(items=[item(labels={"click": None})]), "schema", "`items[0].labels.click` must be a number from 0 to 1"),
    (message(items=[item(labels={"click": 1, "like": -1})]), "schema", "`items[0].labels.like` must be a number"),
    (message(items=[item(weight=-1)]), "schema", "`items[0].weight` must be a number of at least 0"),
    (message(items=[item(weight="1")]), "schema", "`items[0].weight` must be a number of at least 0"),
    (message(items=[item(weight=None)]), "schema", "`items[0].weight` must be a number of at least 0, got null"),
    ([1], "schema", "the message must be a JSON object, got a list"),
    (None, "schema", "the message must be a JSON object, got null"),
]


@pytest.mark.parametrize(("value", "reason", "detail"), FAULTS, ids=[detail[:60] for _, _, detail in FAULTS])
def test_a_broken_message_is_named_by_its_field(value, reason, detail):
    with pytest.raises(BadRecord) as caught:
        parse(value)
    assert caught.value.reason == reason
    assert caught.value.detail.startswith(detail)


@pytest.mark.parametrize("value", [b"", b"{", b"\xff\xfe", b'{"ts": NaN}', b'{"ts": 1}}'])
def test_bytes_that_are_no_json_are_named(value):
    with pytest.raises(BadRecord, match="json: the message is not JSON"):
        parse_example(value, TASKS)


def test_a_time_too_far_ahead_is_refused_and_one_at_the_bound_is_not():
    parse(message(), latest_ts=1_700_000_000_123)
    with pytest.raises(BadRecord, match="ahead: `ts` 1700000000123 lies 23 ms further") as caught:
        parse(message(), latest_ts=1_700_000_000_100)
    assert caught.value.reason == "ahead"


def test_a_long_value_is_shown_in_short():
    assert len(kind_of("x" * 10_000)) < 80


def test_messages_become_columns():
    second = message(user={"profile": {"age": 30}}, context=MISSING, ts=5, items=[item(id="x", tags=["a"])])
    columns = examples_to_columns(
        [message(), second], ("user.id", "user.profile.age", "context.tab", "item.id", "item.tags", "time.hour"), TASKS
    )
    assert columns.sizes.tolist() == [2, 1]
    assert columns.ts.tolist() == [1_700_000_000_123, 5]
    assert columns.values == {
        "user.id": ["u1", MISSING],
        "user.profile.age": [MISSING, 30],
        "context.tab": [1, MISSING],
        "item.id": [1, 2, "x"],
        "item.tags": [MISSING, MISSING, ["a"]],
    }
    np.testing.assert_array_equal(columns.labels, np.array([[1, np.nan], [0, 0.5], [1, np.nan]], dtype=np.float32))
    assert columns.weights.tolist() == [1.0, 2.0, 1.0]


def test_a_request_becomes_one_list_without_labels():
    columns = request_to_columns(9, {"id": 4}, {}, [{"id": 1}, {"id": 2, "tags": []}], ("user.id", "item.tags"))
    assert (columns.sizes.tolist(), columns.ts.tolist(), columns.labels.shape) == ([2], [9], (2, 0))
    assert columns.values == {"user.id": [4], "item.tags": [MISSING, []]}
