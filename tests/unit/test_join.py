"""The joiner's state machine, case by case: every one has a defined outcome and a reason that it is counted under."""

import orjson
import pytest

from services.joiner.join import Join, Tally
from services.joiner.pending import Pending
from services.joiner.record import Record
from services.joiner.rules import Outcome, Rules, Task, is_kept
from tests.streams import some_rules

# 10 s windows, 2 s of disorder: what was shown at 0 closes once both watermarks have passed 12,000.


class Machine:
    """One pair, fed by hand."""

    def __init__(self, rules: Rules | None = None, record: bytes = b"") -> None:
        self.rules = rules or some_rules()
        self.tally = Tally()
        pending = Pending(self.rules.horizon_ms, 1 << 30)
        self.join = Join(Record.from_json(record) if record else Record(), self.rules, pending, self.tally)

    def show(self, ts: int, request: str = "r", items=("a", "b")) -> "Machine":
        message = {"request_id": request, "ts": ts, "user": {"id": "u"}, "items": [{"id": item} for item in items]}
        self.join.impression(self.join.sides[0].next, message, orjson.dumps(message))
        self.join.settle()
        return self

    def act(self, ts: int, item="a", action: str = "click", request: str = "r", **more) -> "Machine":
        message = {"request_id": request, "ts": ts, "item_id": item, "action": action, **more}
        self.join.action(self.join.sides[1].next, message)
        self.join.settle()
        return self

    def pass_both(self, ts: int) -> "Machine":
        """Both watermarks come to a time."""
        return self.show(ts, f"later-{ts}", ["z"]).act(ts, "z", "share", f"later-{ts}")

    def take(self) -> list[dict]:
        """What has left of the requests that matter."""
        out, self.join.out = self.join.out, []
        messages = [orjson.loads(value) for _, value in out]
        return [message for message in messages if not message["request_id"].startswith("later")]

    def labels(self) -> list[tuple]:
        """The same as (item, labels)."""
        return [(item["id"], item["labels"]) for message in self.take() for item in message["items"]]


def test_a_list_leaves_with_its_labels_once_both_watermarks_have_passed_its_end():
    machine = Machine().show(0).act(4_000)
    machine.show(12_001, "later").take()
    assert machine.take() == []
    machine.act(12_000, "z", "share", "other")
    assert machine.take() == []
    machine.act(12_001, "z", "share", "other")
    (example,) = machine.take()
    assert example == {
        "request_id": "r",
        "ts": 0,
        "user": {"id": "u"},
        "label_ts": 4_000,
        "items": [
            {"id": "a", "labels": {"click": 1, "long_view": 0, "like": 0}},
            {"id": "b", "labels": {"click": 0, "long_view": 0, "like": 0}},
        ],
    }


def test_an_example_is_keyed_by_its_user_and_carries_all_that_was_served():
    machine = Machine()
    message = {"request_id": "r", "ts": 0, "user": {"id": 7}, "context": {"tab": 1}, "served": 5, "items": [{"id": 1}]}
    machine.join.impression(0, message, orjson.dumps(message))
    machine.pass_both(20_000)
    ((key, value),) = machine.join.out
    assert key == b"7"
    assert orjson.loads(value) | {"items": []} == message | {"items": []}


@pytest.mark.parametrize(("ts", "counts"), [(0, True), (10_000, True), (10_001, False), (-1, False)])
def test_an_action_is_in_time_from_its_impression_to_the_end_of_the_window(ts, counts):
    machine = Machine().show(1_000).act(1_000 + ts).pass_both(20_000)
    assert machine.labels()[0][1]["click"] == counts
    assert machine.tally.dropped["out_of_window"] == (not counts)


def test_a_clock_that_lies_behind_by_the_allowed_skew_counts():
    machine = Machine(some_rules(skew_ms=500)).show(1_000).act(500).act(499, "b").pass_both(20_000)
    assert [labels["click"] for _, labels in machine.labels()] == [1, 0]


def test_an_action_waits_for_its_impression():
    machine = Machine().act(4_000).show(0).pass_both(20_000)
    assert machine.labels()[0] == ("a", {"click": 1, "long_view": 0, "like": 0})


def test_an_action_whose_impression_never_comes_is_counted():
    machine = Machine().act(4_000).pass_both(16_000)
    assert machine.tally.dropped["no_impression"] == 0
    machine.pass_both(16_001)
    assert machine.tally.dropped["no_impression"] == 1


def test_late_action_outside_window_is_counted():
    machine = Machine().show(0).pass_both(13_000)
    machine.take()
    machine.act(9_000)
    assert machine.tally.late == 1
    machine.pass_both(40_000)
    assert machine.take() == []
    assert machine.tally.dropped["late_action"] == 1


def test_a_late_action_within_the_late_window_makes_one_correction_of_its_own_weight():
    machine = Machine(some_rules(late_ms=5_000)).show(0).pass_both(13_000)
    machine.take()
    machine.act(9_000, "b").act(9_100, "b")
    (correction,) = machine.take()
    assert correction["items"] == [{"id": "b", "labels": {"click": 1}, "correction": True, "weight": 0.5}]
    assert correction["ts"] == 0
    assert correction["label_ts"] == 9_000
    assert machine.tally.late == 2
    assert machine.tally.dropped["late_action"] == 1
    machine.pass_both(17_001).act(9_200, "a").pass_both(60_000)
    assert machine.take() == []


def test_a_late_action_whose_label_is_1_already_corrects_nothing():
    machine = Machine(some_rules(late_ms=5_000)).show(0).act(1_000).pass_both(13_000)
    machine.take()
    machine.act(9_000)
    assert machine.take() == []


def test_an_impression_that_arrives_already_closed_is_dropped():
    machine = Machine().pass_both(13_000).show(0).pass_both(40_000)
    assert machine.take() == []
    assert machine.tally.dropped["closed_impression"] == 1


def test_doubled_impressions_and_actions_are_counted_and_change_nothing():
    machine = Machine().show(0).show(0).act(1_000).act(1_000).pass_both(20_000).show(0)
    assert [labels["click"] for _, labels in machine.labels()] == [1, 0]
    assert machine.tally.dropped["duplicate_impression"] == 1
    assert machine.tally.dropped["duplicate_action"] == 1
    assert machine.tally.dropped["closed_impression"] == 1


def test_an_impression_sent_again_with_another_time_is_ignored_after_a_restart_too():
    machine = Machine().show(0).show(5_000)
    machine.pass_both(13_000)  # the first is closed and forgotten; the second's end is 17,000
    assert len(machine.take()) == 1
    record = machine.join.record
    assert list(record.ignored) == [1]
    again = Machine(record=record.to_json())
    again.join.read_again(True)
    for offset, (request, ts) in enumerate([("r", 0), ("r", 5_000), ("later-13000", 13_000)]):
        message = {"request_id": request, "ts": ts, "user": {}, "items": [{"id": "a"}]}
        again.join.impression(offset, message, orjson.dumps(message))
    again.join.read_again(False)
    assert again.pass_both(30_000).take() == []


def test_an_action_on_an_item_that_was_not_shown_is_counted():
    machine = Machine().show(0).act(1_000, "elsewhere").pass_both(20_000)
    assert [labels["click"] for _, labels in machine.labels()] == [0, 0]
    assert machine.tally.dropped["item_not_shown"] == 1


def test_an_action_that_no_task_takes_is_counted():
    machine = Machine().show(0).act(1_000, action="share").act(1_000, action="share", request="unseen")
    assert machine.tally.dropped["unused_action"] == 2


def test_integers_and_their_decimals_are_the_same_item():
    machine = Machine().show(0, items=[42]).act(1_000, "42").pass_both(20_000)
    assert machine.labels() == [(42, {"click": 1, "long_view": 0, "like": 0})]


def test_a_threshold_decides_by_the_value_and_the_latest_value_is_the_outcome():
    machine = Machine().show(0)
    machine.act(3_000, "a", "play", value=4.0).act(2_000, "a", "play", value=9.0).act(1_000, "b", "play", value=4.9)
    (example,) = machine.pass_both(20_000).take()
    assert [item["labels"]["long_view"] for item in example["items"]] == [1, 0]
    assert [item["outcomes"] for item in example["items"]] == [{"play_s": 4.0}, {"play_s": 4.9}]


def test_tasks_of_different_windows_leave_in_examples_of_their_own():
    machine = Machine(some_rules({"like": 30_000})).show(0).act(1_000).act(25_000, action="like").pass_both(13_000)
    assert machine.labels() == [("a", {"click": 1, "long_view": 0}), ("b", {"click": 0, "long_view": 0})]
    (example,) = machine.pass_both(32_001).take()
    assert [item["labels"] for item in example["items"]] == [{"like": 1}, {"like": 0}]
    assert example["told"] == [
        {"id": "a", "labels": {"click": 1, "long_view": 0}},
        {"id": "b", "labels": {"click": 0, "long_view": 0}},
    ]


def test_eager_sends_a_positive_at_once_and_the_rest_at_the_close():
    machine = Machine(some_rules(eager=True)).show(0).act(1_000)
    (first,) = machine.take()
    assert first["items"] == [{"id": "a", "labels": {"click": 1}}]
    assert first["label_ts"] == 1_000
    (rest,) = machine.act(1_500).pass_both(20_000).take()
    assert [item["labels"] for item in rest["items"]] == [
        {"long_view": 0, "like": 0},
        {"click": 0, "long_view": 0, "like": 0},
    ]
    assert rest["told"] == [{"id": "a", "labels": {"click": 1}}]


def test_eager_sends_an_outcome_with_the_label_of_its_own_action_and_only_once():
    machine = Machine(some_rules(eager=True)).show(0).act(1_000, "a", "play", value=7.0)
    (first,) = machine.take()
    assert first["items"] == [{"id": "a", "labels": {"long_view": 1}, "outcomes": {"play_s": 7.0}}]
    (rest,) = machine.pass_both(20_000).take()
    assert not any("outcomes" in item for item in rest["items"])


def test_a_partition_that_is_behind_holds_the_close_up_until_it_gives_way():
    machine = Machine().show(0).show(90_000, "later-90000", ["z"])
    assert machine.take() == []
    assert machine.join.could_close
    machine.join.give_way()
    machine.join.settle()
    assert len(machine.take()) == 1
    machine.act(1_000)  # the partition was not silent after all
    assert machine.tally.late == 1


def test_zeros_are_kept_by_a_hash_and_every_kept_label_says_its_rate():
    task = Task("click", "click", None, 10_000, 0.3)
    machine = Machine(Rules((task,), (), False, 2_000, 0, 0, 1.0))
    items = [f"i{n}" for n in range(200)]
    machine.show(0, items=items).act(1_000, "i0").pass_both(20_000)
    (example,) = machine.take()
    wanted = ["i0", *(item for item in items[1:] if is_kept("r", item, task))]
    assert [item["id"] for item in example["items"]] == wanted
    assert 30 < len(wanted) < 90
    assert all(item["sampled"] == {"click": 0.3} for item in example["items"])


def test_a_list_of_which_nothing_is_kept_leaves_no_example():
    machine = Machine(Rules((Task("click", "click", None, 10_000, 1e-12),), (), False, 2_000, 0, 0, 1.0))
    assert machine.show(0).pass_both(20_000).take() == []


def test_an_impression_is_finished_under_the_rules_that_it_came_under():
    machine = Machine().show(0).act(1_000)
    changed = some_rules({"click": 50_000, "like": 50_000, "play": 50_000})
    again = Machine(changed, machine.join.record.to_json())
    again.join.read_again(True)
    message = {"request_id": "r", "ts": 0, "user": {"id": "u"}, "items": [{"id": "a"}]}
    again.join.impression(0, message, orjson.dumps(message))
    again.join.action(0, {"request_id": "r", "ts": 1_000, "item_id": "a", "action": "click"})
    again.join.read_again(False)
    again.show(2_000, "new").pass_both(13_000)
    assert [(m["request_id"], m["items"][0]["labels"]["click"]) for m in again.take()] == [("r", 1)]
    assert [m["request_id"] for m in again.pass_both(60_000).take()] == ["new"]
    assert [rules for _, rules in again.join.record.chapters] == [changed]


def test_a_close_of_many_lists_leaves_in_steps_that_a_record_can_end():
    machine = Machine()
    for number in range(10):
        machine.show(number, f"r{number}")
    machine.show(90_000, "later", ["z"])
    machine.join.action(0, {"request_id": "x", "ts": 90_000, "item_id": "z", "action": "share"})
    seen = 0
    while not machine.join.settle(most=3):
        seen += len(machine.join.out)
        machine.join.out.clear()
        assert machine.join.record.closed == 12_000 + seen
    assert seen + len(machine.join.out) == 10
    assert machine.join.record.closed == 90_000


def test_outcome_of_a_shorter_window_leaves_with_the_first_task_that_waits_as_long():
    task = Task("buy", "buy", None, 20_000, 1.0)
    machine = Machine(Rules((task,), (Outcome("play_s", "play", 5_000),), False, 2_000, 0, 0, 1.0))
    (example,) = machine.show(0).act(4_000, "a", "play", value=3.0).pass_both(30_000).take()
    assert example["items"][0] == {"id": "a", "labels": {"buy": 0}, "outcomes": {"play_s": 3.0}}
