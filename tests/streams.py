"""Random behaviour, and a plain join of it: what the joiner is held against.

The plain join knows both whole logs and nothing of watermarks, offsets or restarts.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from services.joiner.rules import Outcome, Rules, Task

Message = dict[str, Any]


def some_rules(
    windows: dict[str, int] | None = None,
    eager: bool = False,
    out_of_orderness_ms: int = 2_000,
    skew_ms: int = 0,
    late_ms: int = 0,
) -> Rules:
    """Rules of three tasks and one outcome; each action's window may be given."""
    window = {"click": 10_000, "like": 10_000, "play": 10_000, **(windows or {})}
    return Rules(
        tasks=(
            Task("click", "click", None, window["click"], 1.0),
            Task("long_view", "play", 5.0, window["play"], 1.0),
            Task("like", "like", None, window["like"], 1.0),
        ),
        outcomes=(Outcome("play_s", "play", window["play"]),),
        eager=eager,
        out_of_orderness_ms=out_of_orderness_ms,
        skew_ms=skew_ms,
        late_ms=late_ms,
        correction_weight=0.5,
    )


@dataclass
class Behaviour:
    """Two logs, in the order of their offsets."""

    impressions: list[Message]
    actions: list[Message]


def behave(
    seed: int, impressions: int, disorder_ms: int, duplicates: float = 0.1, lost: float = 0.1, span_ms: int = 60_000
) -> Behaviour:
    """Random lists and actions.

    Args:
        seed: Of all of it.
        impressions: How many lists.
        disorder_ms: How far a record may lie behind the highest event time of its log.
        duplicates: Share of records that come twice.
        lost: Share of records that never come.
        span_ms: Event time between the first list and the last.
    """
    rng = random.Random(seed)
    shown, done = [], []
    for number in range(impressions):
        ts = rng.randrange(span_ms)
        names = rng.sample(["1", "2", "x", "y", "z"], rng.randint(1, 4))
        request = f"r{number}"
        items = [{"id": int(name) if name.isdigit() else name, "position": k} for k, name in enumerate(names)]
        shown.append({"request_id": request, "ts": ts, "user": {"id": f"u{number % 7}"}, "items": items})
        for _ in range(rng.randrange(4)):
            action = rng.choice(["click", "play", "like", "share"])
            after = round(rng.expovariate(1 / 5_000)) - rng.choice([0, 0, 0, 3_000])
            item = rng.choice([*names, "1", "never shown"])
            done.append({"request_id": request, "ts": max(0, ts + after), "item_id": item, "action": action})
            if action == "play" or rng.random() < 0.2:
                done[-1]["value"] = rng.choice([0.5, 4.0, 5.0, 9.5])
    logs = [arrive(rng, log, disorder_ms, duplicates, lost) for log in (shown, done)]
    return Behaviour(*logs)


def arrive(rng: random.Random, messages: list[Message], disorder_ms: int, twice: float, lost: float) -> list[Message]:
    """Some are lost, some come twice, and each may come up to `disorder_ms` of event time late."""
    kept = [message for message in messages if rng.random() >= lost]
    kept += [message for message in kept if rng.random() < twice]
    return sorted(kept, key=lambda message: message["ts"] + rng.uniform(0, disorder_ms))


def plain_join(behaviour: Behaviour, rules: Rules, closed: int) -> list[Message]:
    """The examples whose window ends before `closed`, one for each window of each list, from both whole logs."""
    by_request: dict[str, list[Message]] = {}
    for action in behaviour.actions:
        by_request.setdefault(action["request_id"], []).append(action)
    examples = []
    for shown in {message["request_id"]: message for message in behaviour.impressions}.values():
        for window in sorted({task.window_ms for task in rules.tasks}):
            if shown["ts"] + window + rules.out_of_orderness_ms < closed:
                examples.append(_plain_example(shown, by_request.get(shown["request_id"], []), rules, window))
    return examples


def _plain_example(shown: Message, actions: list[Message], rules: Rules, window: int) -> Message:
    items = []
    for item in shown["items"]:
        mine = [action for action in actions if str(action["item_id"]) == str(item["id"])]
        labels = {}
        for task in (task for task in rules.tasks if task.window_ms == window):
            hits = [
                action
                for action in mine
                if action["action"] == task.action
                and -rules.skew_ms <= action["ts"] - shown["ts"] <= window
                and action.get("value", 1.0) >= (task.threshold or float("-inf"))
            ]
            labels[task.name] = int(bool(hits))
        example = {**item, "labels": labels}
        for outcome in (outcome for outcome in rules.outcomes if outcome.window_ms == window):
            plays = [
                (action["ts"], action.get("value", 1.0))
                for action in mine
                if action["action"] == outcome.action and -rules.skew_ms <= action["ts"] - shown["ts"] <= window
            ]
            if plays:
                example["outcomes"] = {outcome.name: max(plays)[1]}
        items.append(example)
    return {**shown, "items": items}


def without_told(messages: Iterable[bytes]) -> list[Message]:
    """Decoded examples without what only says when and why they left, in an order of their own."""
    decoded = [orjson.loads(message) for message in messages]
    return ordered([{k: v for k, v in message.items() if k not in ("label_ts", "told")} for message in decoded])


def ordered(messages: Iterable[Message]) -> list[Message]:
    """Messages in an order that depends on their content only."""
    return sorted(messages, key=lambda message: orjson.dumps(message, option=orjson.OPT_SORT_KEYS))


def labels_of(messages: Iterable[Message]) -> list[tuple[str, str, str, float]]:
    """Request, item, task and label of every label that left, sorted."""
    return sorted(
        (message["request_id"], str(item["id"]), task, label)
        for message in messages
        for item in message["items"]
        for task, label in item["labels"].items()
    )
