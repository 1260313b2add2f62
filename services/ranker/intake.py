"""Events by HTTP: checked one by one, then handed to Kafka."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from services.events import check_action, check_impression, request_key
from services.ranker.problems import Problem, unavailable
from services.ranker.sink import Message, Sink, SinkUnavailable
from trainer.errors import BadRecord
from trainer.example import check_example, examples_to_columns
from trainer.features import Featurizer
from trainer.values import BadValue

_NOT_ACKNOWLEDGED = "Kafka did not acknowledge it; send it again"


@dataclass(frozen=True, slots=True)
class Checker:
    """Tells whether the joiner and the trainer will be able to take an event.

    Attributes:
        featurizer: Of the current definition.
        tasks: Names of its labels.
        max_ahead_ms: How far a ``ts`` may lie in the future.
    """

    featurizer: Featurizer
    tasks: tuple[str, ...]
    max_ahead_ms: int

    def faults(self, name: str, events: Sequence[Any], now_ms: int) -> list[str | None]:
        """Of each decoded event of a list, None, or what is wrong with it."""
        latest_ts = now_ms + self.max_ahead_ms
        check: Callable[[Any], None] = {
            "impressions": lambda event: check_impression(event, latest_ts),
            "actions": lambda event: check_action(event, latest_ts),
            "examples": lambda event: check_example(event, self.tasks, latest_ts),
        }[name]
        found: list[str | None] = [None] * len(events)
        for place, event in enumerate(events):
            try:
                check(event)
            except BadRecord as error:
                found[place] = error.detail
        sound = [place for place, fault in enumerate(found) if fault is None]
        if name == "actions" or not sound:
            return found
        tasks = self.tasks if name == "examples" else ()
        if self._value_fault([events[place] for place in sound], tasks) is not None:
            for place in sound:
                found[place] = self._value_fault([events[place]], tasks)
        return found

    def _value_fault(self, lists: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str | None:
        """The first value that its feature cannot take; the item's index is right for a single list."""
        try:
            self.featurizer.featurize(examples_to_columns(lists, self.featurizer.sources, tasks))
        except BadValue as error:
            part, _, path = error.source.partition(".")
            return f"`{f'items[{error.place}].{path}' if part == 'item' else error.source}`: {error.what}"
        return None


Complete = Callable[[Sequence[Mapping[str, Any]]], list[Mapping[str, Any]]]
"""Adds to impressions or examples what is stored of their visitors and items. May block."""


def take_events(
    lists: Mapping[str, Sequence[Any]],
    checker: Checker,
    complete: Complete,
    sink: Sink,
    topics: Mapping[str, str],
    now_ms: int,
) -> tuple[int, list[dict[str, Any]]]:
    """Checks events and sends the sound ones. Blocks until Kafka has acknowledged them.

    Args:
        lists: The events by list: impressions, actions, examples.
        checker: Of the current definition.
        complete: Gives impressions and examples their stored features.
        sink: Where they go.
        topics: Of each list.
        now_ms: Since the epoch.

    Returns:
        How many were accepted, and the rejected ones.

    Raises:
        Problem: 422 if nothing was valid, 503 if Kafka did not acknowledge all; with ``accepted`` and ``rejected``.
    """
    faults = {name: checker.faults(name, events, now_ms) for name, events in lists.items()}
    places = [(name, index) for name, found in faults.items() for index, fault in enumerate(found) if fault is None]
    lost = None
    if places:
        messages = []
        for name, found in faults.items():
            sound = [event for event, fault in zip(lists[name], found, strict=True) if fault is None]
            whole = sound if name == "actions" else complete(sound)
            messages += [Message(topics[name], _KEYS[name](event), orjson.dumps(event)) for event in whole]
        try:
            outcome = sink.send(messages)
        except SinkUnavailable as error:
            lost = error
            outcome = [None if done else _NOT_ACKNOWLEDGED for done in error.acknowledged]
        for (name, index), refusal in zip(places, outcome, strict=True):
            faults[name][index] = refusal
    rejected = [
        {"list": name, "index": index, "detail": fault}
        for name, found in faults.items()
        for index, fault in enumerate(found)
        if fault is not None
    ]
    accepted = sum(map(len, lists.values())) - len(rejected)
    if lost is not None:
        raise unavailable(f"the events did not all reach Kafka: {lost}", accepted=accepted, rejected=rejected)
    if not accepted:
        raise Problem(422, "no event was valid; `rejected` says why", accepted=0, rejected=rejected)
    return accepted, rejected


def key_of(example: Mapping[str, Any]) -> bytes | None:
    """The Kafka key of an example: its user's id as text, so that a user's examples stay in order.

    >>> key_of({"user": {"id": 42}}), key_of({"user": {}})
    (b'42', None)
    """
    user_id = example["user"].get("id")
    if type(user_id) is bool:
        user_id = int(user_id)
    return str(user_id).encode("utf-8", "surrogatepass") if type(user_id) in (int, str) else None


_KEYS: Mapping[str, Callable[[Mapping[str, Any]], bytes | None]] = {
    "impressions": request_key,
    "actions": request_key,
    "examples": key_of,
}


def item_place(error: BadValue) -> str:
    """The field of a ranking request that a bad value stands in, such as ``candidates[3].genre``."""
    part, _, path = error.source.partition(".")
    return f"candidates[{error.place}].{path}" if part == "item" else error.source
