"""Labelled lists replayed as impressions and actions."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from services.datasets.reader import open_dataset
from services.events import parse_action, parse_impression
from services.replay.behaviour import Behaviour, Stream
from services.replay.message import Message, encode_lines, event_message

SHOWN, DONE = "shown", "done"


def stream(lists: Any, **behaviour: Any) -> Stream:
    return Stream(lists, "x", SHOWN, DONE, Behaviour(**behaviour))


def labelled(ts: int, *items: dict[str, Any]) -> dict[str, Any]:
    return {"ts": ts, "user": {"id": 7}, "context": {"tab": 1}, "items": list(items)}


def kuairand(limit: int = 2000) -> list[dict[str, Any]]:
    return list(open_dataset("kuairand", limit).messages())


def split(messages: list[Message]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    shown = [parse_impression(m.value) for m in messages if m.topic == SHOWN]
    return shown, [parse_action(m.value) for m in messages if m.topic == DONE]


def test_a_list_becomes_an_impression_and_an_action_for_each_positive_label_and_each_outcome() -> None:
    lists = [
        labelled(
            1000,
            {"id": 5, "tag": [1], "labels": {"click": 1, "like": 0, "long_view": 1}, "outcomes": {"play_time_ms": 70}},
            {"id": "b", "labels": {"click": 0}, "outcomes": {"play_time_ms": 0, "spent": 2.5}},
        )
    ]
    some = stream(lists)
    shown, done = split(list(some))
    assert shown == [
        {
            "request_id": "x-1-0",
            "ts": 1000,
            "user": {"id": 7},
            "context": {"tab": 1},
            "items": [{"id": 5, "tag": [1], "position": 0}, {"id": "b", "position": 1}],
        }
    ]
    assert sorted((a["item_id"], a["action"], a["value"]) for a in done if a["item_id"] == 5) == [
        (5, "click", 1),
        (5, "long_view", 1),
        (5, "play", 70),
    ]
    assert {(a["action"], a["value"]) for a in done if a["item_id"] == "b"} == {("play", 0), ("spent", 2.5)}
    assert all(a["request_id"] == "x-1-0" and a["ts"] >= 1000 for a in done)
    assert (some.counts.impressions, some.counts.actions) == (1, 5)


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_labels_and_outcomes_of_the_data_can_be_told_from_the_events(late: float) -> None:
    lists = kuairand()
    shown, done = split(list(stream(lists, late=late, repeated=late)))
    by_request: dict[str, dict[Any, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for action in done:
        by_request[action["request_id"]][action["item_id"]][action["action"]] = action["value"]
    impressions = {impression["request_id"]: impression for impression in shown}
    assert len(impressions) == len(lists)
    for number, original in enumerate(lists):
        request_id = f"x-1-{number}"
        impression = impressions[request_id]
        assert (impression["ts"], impression["user"]) == (original["ts"], original["user"])
        first = {}
        for item in original["items"]:
            first.setdefault(item["id"], item)
        assert [item["id"] for item in impression["items"]] == list(first)
        for item in first.values():
            did = by_request[request_id][item["id"]]
            assert {task for task in ("click", "like", "long_view") if task in did} == {
                task for task, label in item["labels"].items() if label
            }
            assert did["play"] == item["outcomes"]["play_time_ms"]


def test_an_item_that_stands_twice_in_a_list_is_dropped_and_counted() -> None:
    lists = kuairand()
    some = stream(lists)
    shown, _ = split(list(some))
    repeated = sum(len(message["items"]) - len({item["id"] for item in message["items"]}) for message in lists)
    assert some.counts.items_dropped == repeated > 0
    assert sum(len(impression["items"]) for impression in shown) == 2000 - repeated


def test_equal_seeds_give_equal_messages_and_requests_are_unique() -> None:
    lists = kuairand(500)
    how = {"late": 0.2, "repeated": 0.1, "lost": 0.1}
    one, two, other = (list(stream(lists, seed=seed, **how)) for seed in (3, 3, 4))
    assert one == two
    assert one != other
    assert len({m.key for m in stream(lists)}) == len(lists)
    assert all(m.key == orjson.loads(m.value)["request_id"].encode() for m in one)


def test_messages_come_in_the_order_of_event_time_when_nothing_is_late() -> None:
    messages = list(stream(kuairand()))
    times = [orjson.loads(m.value)["ts"] for m in messages]
    assert times == sorted(times) == [m.ts for m in messages]


def test_actions_wait_for_about_the_mean_delay_and_never_for_ten_times_as_much() -> None:
    shown, done = split(list(stream(kuairand(5000), delay_ms=2000)))
    shown_at = {impression["request_id"]: impression["ts"] for impression in shown}
    delays = [action["ts"] - shown_at[action["request_id"]] for action in done]
    assert len(delays) > 5000
    assert 1900 < sum(delays) / len(delays) < 2100
    assert 0 <= min(delays) <= max(delays) <= 20_000


def test_late_messages_arrive_within_the_bound_and_are_counted() -> None:
    some = stream(kuairand(), late=0.25, late_ms=3000)
    messages = list(some)
    lags = [(m.ts or 0) - orjson.loads(m.value)["ts"] for m in messages]
    assert [m.ts for m in messages] == sorted(m.ts or 0 for m in messages)
    assert 0 <= min(lags) <= max(lags) <= 3000
    assert 0.2 < some.counts.late / len(messages) < 0.3
    assert sum(lag > 0 for lag in lags) >= 0.99 * some.counts.late


def test_repeated_messages_come_twice_and_lost_ones_never() -> None:
    lists = kuairand()
    plain = Counter(m.value for m in stream(lists))
    some = stream(lists, repeated=0.5)
    twice = Counter(m.value for m in some)
    assert twice.keys() == plain.keys()
    assert sum(twice.values()) == sum(plain.values()) + some.counts.repeated
    assert 0.45 < some.counts.repeated / sum(plain.values()) < 0.55
    lossy = stream(lists, lost=0.5)
    kept = list(lossy)
    assert len(kept) + lossy.counts.lost == sum(plain.values())
    assert 0.45 < lossy.counts.lost / sum(plain.values()) < 0.55
    assert not list(stream(lists, lost=1.0))


def test_examples_are_counted_once_with_their_impression() -> None:
    lists = kuairand()
    messages = list(stream(lists, repeated=1.0))
    some = stream(lists)
    assert sum(m.examples for m in messages) == sum(m.examples for m in some) == 2000 - some.counts.items_dropped


def test_lists_are_taken_only_as_time_goes_on() -> None:
    taken = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal taken
        while True:
            taken += 1
            yield labelled(1000 * taken, {"id": 1, "labels": {"click": 1}})

    messages = iter(stream(endless(), delay_ms=1000))
    for _ in range(1000):
        next(messages)
    assert taken < 1000


def test_the_synthetic_clicks_become_actions() -> None:
    lists = list(open_dataset("synthetic", 1000, users=50, items=200).messages())
    shown, done = split(list(stream(lists)))
    clicks = sum(item["labels"]["click"] for message in lists for item in message["items"])
    assert (len(shown), len(done)) == (100, clicks)
    assert {action["action"] for action in done} == {"click"}


def test_lines_of_a_file_go_to_the_topic_that_they_look_like() -> None:
    shown = b'{"request_id": "r", "ts": 5, "user": {}, "items": [{"id": 1}, {"id": 2}]}'
    done = b'{"request_id": "r", "ts": 6, "item_id": 1, "action": "click"}'
    lines = [shown, b"", done, b"{", b'{"request_id": [1], "items": 3, "ts": "x"}']
    assert list(encode_lines(lines, describe=event_message(SHOWN, DONE))) == [
        Message(shown, b"r", 2, 5, SHOWN),
        Message(done, b"r", 0, 6, DONE),
        Message(b"{", None, 1, None, SHOWN),
        Message(lines[-1], None, 1, None, SHOWN),
    ]
    assert len(list(encode_lines([shown, done, shown], 3, event_message(SHOWN, DONE)))) == 2
