"""From an impression and what came of it to the message that the trainer learns from."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from services.events import id_text
from services.joiner.entry import Entry
from services.joiner.rules import Outcome, Rules, Task, is_kept

Output = tuple[bytes, bytes]
"""Key and value of an example's message."""

_EMPTY: dict[str, Any] = {}


def closing_example(request: str, entry: Entry, rules: Rules) -> Output | None:
    """What leaves when an impression's next window closes; None if nothing is left to tell.

    Args:
        request: Its request id.
        entry: What came of it; `stage` tells which window closes.
        rules: Those of the impression.
    """
    window = rules.stages[entry.stage]
    tasks = [task for task in rules.tasks if task.window_ms == window]
    outcomes = [outcome for outcome in rules.outcomes if rules.stage_of(outcome.window_ms) == entry.stage]
    message = orjson.loads(entry.value)
    told = _told(request, message["items"], entry, rules)
    before = {id_text(item["id"]) for item in told}
    items: list[dict[str, Any]] = []
    label_ts = 0
    for item in message["items"]:
        name = id_text(item["id"])
        mark = entry.marks.get(name, _EMPTY)
        times = mark.get("tasks", _EMPTY)
        labels = {}
        for task in tasks:
            if task.name not in times:
                if is_kept(request, name, task):
                    labels[task.name] = 0
            elif not rules.eager:
                labels[task.name] = 1
                label_ts = max(label_ts, times[task.name])
        numbers = _outcomes(mark, outcomes)
        if labels or (numbers and name in before):
            items.append(_labelled(item, labels, tasks, numbers))
    if not items:
        return None
    return _message(message, items, label_ts or None, told)


def positive_example(
    entry: Entry, rules: Rules, item_name: str, tasks: Sequence[Task], outcomes: Sequence[tuple[Outcome, float]],
    ts: int, correction_weight: float | None = None,
) -> Output:  # fmt: skip
    """What leaves as soon as an action makes labels 1.

    Args:
        entry: The impression and what came of it, this action too.
        rules: Those of the impression.
        item_name: The item's id as text.
        tasks: Whose labels they are.
        outcomes: What the same action brought.
        ts: The action's time.
        correction_weight: Of a correction: the labels' window had closed.
    """
    message = orjson.loads(entry.value)
    items = [
        _labelled(item, {task.name: 1 for task in tasks}, tasks, {o.name: value for o, value in outcomes})
        for item in message["items"]
        if id_text(item["id"]) == item_name
    ]
    if correction_weight is not None:
        items = [item | {"correction": True, "weight": correction_weight} for item in items]
    told = _told(message["request_id"], message["items"], entry, rules, item_name, tasks)
    return _message(message, items, ts, told)


def item_names(value: bytes) -> set[str]:
    """The ids in an impression's message, as text."""
    return {id_text(item["id"]) for item in orjson.loads(value)["items"]}


def _told(
    request: str, items: Iterable[dict[str, Any]], entry: Entry, rules: Rules, name_of_new: str = "",
    new: Sequence[Task] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """The items of which something left before, with the labels and outcomes that left.

    Args:
        request: The request id.
        items: Of the impression.
        entry: What came of it, with what leaves just now.
        rules: Those of the impression.
        name_of_new: An item of which something leaves just now.
        new: The labels that it gets.
    """
    closed = rules.stages[: entry.stage]
    told: list[dict[str, Any]] = []
    if not closed and not (rules.eager and entry.marks):
        return told
    for item in items:
        name = id_text(item["id"])
        mark = entry.marks.get(name, _EMPTY)
        times = mark.get("tasks", _EMPTY)
        labels = {}
        for task in rules.tasks:
            positive = task.name in times and not (name == name_of_new and task in new)
            if task.window_ms in closed:
                if positive or is_kept(request, name, task):
                    labels[task.name] = int(positive)
            elif positive and rules.eager:
                labels[task.name] = 1
        if labels:
            gone = [o for o in rules.outcomes if rules.stage_of(o.window_ms) < entry.stage]
            numbers = _outcomes(mark, gone) | mark.get("left", _EMPTY)
            told.append(item | {"labels": labels} | ({"outcomes": numbers} if numbers else {}))
    return told


def _outcomes(mark: dict[str, Any], outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Numbers that leave with their list: not those that left with an action ahead of it."""
    found, left = mark.get("outcomes", _EMPTY), mark.get("left", _EMPTY)
    return {o.name: found[o.name][1] for o in outcomes if o.name in found and o.name not in left}


def _labelled(
    item: dict[str, Any], labels: dict[str, int], tasks: Iterable[Task], outcomes: dict[str, Any]
) -> dict[str, Any]:
    sampled = {task.name: task.keep for task in tasks if task.keep < 1.0 and task.name in labels}
    more: dict[str, Any] = {"labels": labels}
    if outcomes:
        more["outcomes"] = outcomes
    if sampled:
        more["sampled"] = sampled
    return item | more


def _message(
    impression: dict[str, Any], items: list[dict[str, Any]], label_ts: int | None, told: list[dict[str, Any]]
) -> Output:
    message = {**impression, "items": items}
    if label_ts is not None:
        message["label_ts"] = label_ts
    if told:
        message["told"] = told
    user = message["user"].get("id", impression["request_id"])
    return str(user).encode("utf-8", "surrogatepass"), orjson.dumps(message)
