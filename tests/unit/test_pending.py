"""Messages that wait: faults stay in their place, runs are cut by messages alone."""

import json

import numpy as np
import pytest

from tests.definitions import batch_of, contents, message, small_definition
from trainer.features import Featurizer
from trainer.pending import Pending
from trainer.reader import Record
from trainer.slices import Slices

HOUR_MS = 3_600_000


def record(value, offset=0, timestamp_ms=1_700_000_000_000):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record("t", 0, offset, timestamp_ms, None, data)


def pending(max_ahead_ms=2 * HOUR_MS):
    definition = small_definition()
    return Pending(Featurizer(definition), [task.name for task in definition.tasks], max_ahead_ms)


def simple(count=1, **changes):
    value = {"ts": 1_700_000_000_000, "user": {"id": 1}}
    value["items"] = [{"id": i, "labels": {"click": 1}} for i in range(count)]
    return {**value, **changes}


def sizes_of(run):
    return [m.examples for m in run.messages]


def test_a_run_is_closed_by_the_message_that_reaches_the_size():
    queue = pending()
    queue.add([record(simple(n), i) for i, n in enumerate((2, 3, 1, 4, 1))])
    assert (len(queue), queue.examples) == (5, 11)
    assert [sizes_of(queue.take(4)), sizes_of(queue.take(4))] == [[2, 3], [1, 4]]
    assert queue.take(4) is None
    assert sizes_of(queue.take(4, whole=False)) == [1]
    assert queue.take(4, whole=False) is None
    assert (len(queue), queue.examples) == (0, 0)


def test_the_batch_of_a_run_is_that_of_its_messages():
    rng = np.random.default_rng(1)
    messages = [message(rng) for _ in range(30)]
    queue = pending()
    for first in range(0, 30, 7):
        queue.add([record(m, first + i) for i, m in enumerate(messages[first : first + 7])])
    at = 0
    while (run := queue.take(10, whole=False)) is not None:
        some = messages[at : at + len(run.messages)]
        assert [m.record.offset for m in run.messages] == list(range(at, at + len(some)))
        assert contents(run.batch) == contents(batch_of(small_definition(), some))
        at += len(some)
    assert at == 30


def test_a_faulty_message_keeps_its_place_and_counts_no_example():
    queue = pending()
    good, bad = simple(2), simple(2, ts="x")
    queue.add([record(bad, 0), record(good, 1), record(b"{", 2), record(good, 3), record(bad, 4)])
    assert (len(queue), queue.examples) == (5, 4)
    run = queue.take(3)
    assert [(m.record.offset, m.examples, m.fault and m.fault.reason) for m in run.messages] == [
        (0, 0, "schema"),
        (1, 2, None),
        (2, 0, "json"),
        (3, 2, None),
    ]
    assert len(run.batch) == 4
    rest = queue.take(3, whole=False)
    assert (rest.batch, [m.fault.reason for m in rest.messages]) == (None, ["schema"])


def test_messages_with_values_that_fields_cannot_take_are_told_one_by_one():
    queue = pending()
    values = [simple(2) for _ in range(6)]
    values[1]["items"][1]["id"] = 1.5
    values[2]["user"]["id"] = None
    values[4]["items"][0]["tags"] = ["a", {}]
    values[5]["items"][1]["length_s"] = "long"
    queue.add([record(value, i) for i, value in enumerate(values)])
    run = queue.take(1, whole=False)
    assert sizes_of(run) == [2]
    faults = [m.fault and (m.fault.reason, m.fault.detail) for m in queue.take(100, whole=False).messages]
    assert [fault and fault[0] for fault in faults] == ["value", "value", None, "value", "value"]
    assert faults[0][1].startswith("`items[1].id`: an id must be an integer or a string, got a float")
    assert faults[1][1].startswith("`user.id`: an id must be an integer or a string, got null")
    assert faults[3][1].startswith("`items[0].tags`: an id must be an integer or a string, got an object")
    assert faults[4][1].startswith("`items[1].length_s`: must be a number, got the string 'long'")


def test_a_time_far_past_its_records_own_is_a_fault():
    queue = pending(max_ahead_ms=1000)
    queue.add([record(simple(), 0, 1_699_999_999_000), record(simple(), 1, 1_699_999_998_999)])
    first, second = queue.take(100, whole=False).messages
    assert first.fault is None
    assert second.fault.reason == "ahead"


def test_a_record_without_a_time_of_its_own_may_have_any():
    queue = pending(max_ahead_ms=0)
    queue.add([record(simple(ts=2**47), 0, -1)])
    assert queue.take(1).messages[0].fault is None


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_gives_no_run(whole):
    queue = pending()
    queue.add([])
    assert queue.take(1, whole) is None


def test_the_ten_kinds_of_broken_message_are_named_by_their_field():
    broken = {
        b"no json": "json",
        b"[]": "the message must be a JSON object",
        json.dumps(simple(ts=None)).encode(): "`ts`",
        json.dumps(simple(user=[])).encode(): "`user`",
        json.dumps(simple(context=3)).encode(): "`context`",
        json.dumps(simple(items=[])).encode(): "`items`",
        json.dumps(simple(items=[{"labels": {"click": 1}}])).encode(): "`items[0].id`",
        json.dumps(simple(items=[{"id": 1, "labels": {}}])).encode(): "`items[0].labels`",
        json.dumps(simple(items=[{"id": 1, "labels": {"click": 7}}])).encode(): "`items[0].labels.click`",
        json.dumps(simple(items=[{"id": 1, "labels": {"click": 1}, "weight": -3}])).encode(): "`items[0].weight`",
        json.dumps(simple(user={"id": {}})).encode(): "`user.id`",
        json.dumps(simple(ts=2**47)).encode(): "`ts`",
    }
    queue = pending()
    queue.add([record(value, i) for i, value in enumerate(broken)])
    run = queue.take(1, whole=False)
    assert run.batch is None
    for found, (value, named) in zip(run.messages, broken.items(), strict=True):
        assert named in str(found.fault), value


def test_each_example_of_a_run_keeps_the_values_of_its_slices():
    definition = small_definition()
    slices = Slices(["user", "item.id", "context.country"], definition.features)
    queue = Pending(Featurizer(definition), [task.name for task in definition.tasks], HOUR_MS, slices)
    queue.add([record(simple(2, user={"id": 5}, context={"country": "FR"})), record(b"no JSON")])
    queue.add([record(simple(3, user={"id": 6})), record(simple(1, user={"id": 0.5}))])
    seen = []
    while (run := queue.take(2, whole=False)) is not None:
        if run.batch is not None:
            seen += [[slices.value(s, key) for s, key in enumerate(row)] for row in run.batch.slices.tolist()]
    assert seen == [["5", "0", "FR"], ["5", "1", "FR"], *(["6", str(i), "missing"] for i in range(3))]
