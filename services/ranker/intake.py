"""Events by HTTP: checked one by one, then handed to Kafka."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from services.ranker.problems import Problem, unavailable
from services.ranker.sink import Message, Sink, SinkUnavailable
from trainer.errors import BadRecord
from trainer.example import check_example, examples_to_columns
from trainer.features import Featurizer
from trainer.values import BadValue

_NOT_ACKNOWLEDGED = "Kafka did not acknowledge it; send it again"


@dataclass(frozen=True, slots=True)
class Checker:
    """Tells whether the trainer will be able to learn from an example.

    Attributes:
        featurizer: Of the current definition.
        tasks: Names of its labels.
        max_ahead_ms: How far a ``ts`` may lie in the future.
    """

    featurizer: Featurizer
    tasks: tuple[str, ...]
    max_ahead_ms: int

    def faults(self, examples: Sequence[Any], now_ms: int) -> list[str | None]:
        """Of each decoded example, None, or what is wrong with it."""
        found: list[str | None] = [None] * len(examples)
        for place, example in enumerate(examples):
            try:
                check_example(example, self.tasks, now_ms + self.max_ahead_ms)
            except BadRecord as error:
                found[place] = error.detail
        sound = [place for place, fault in enumerate(found) if fault is None]
        if sound and self._value_fault([examples[place] for place in sound]) is not None:
            for place in sound:
                found[place] = self._value_fault([examples[place]])
        return found

    def _value_fault(self, examples: Sequence[Mapping[str, Any]]) -> str | None:
        """The first value that its feature cannot take; the item's index is right for a single example."""
        try:
            self.featurizer.featurize(examples_to_columns(examples, self.featurizer.sources, self.tasks))
        except BadValue as error:
            part, _, path = error.source.partition(".")
            return f"`{f'items[{error.place}].{path}' if part == 'item' else error.source}`: {error.what}"
        return None


def take_events(
    lists: Mapping[str, Sequence[Any]], checker: Checker, sink: Sink, now_ms: int
) -> tuple[int, list[dict[str, Any]]]:
    """Checks events and sends the sound ones. Blocks until Kafka has acknowledged them.

    Args:
        lists: The events by list; of this version's lists only ``examples`` is taken.
        checker: Of the current definition.
        sink: Of the topic of examples.
        now_ms: Since the epoch.

    Returns:
        How many were accepted, and the rejected ones.

    Raises:
        Problem: 422 if nothing was valid, 503 if Kafka did not acknowledge all; with ``accepted`` and ``rejected``.
    """
    rejected = [
        {"list": name, "index": index, "detail": f"{name} are not accepted by this version; send `examples`"}
        for name in lists
        if name != "examples"
        for index in range(len(lists[name]))
    ]
    examples = lists.get("examples", [])
    faults = checker.faults(examples, now_ms)
    sound = [place for place, fault in enumerate(faults) if fault is None]
    lost = None
    if sound:
        messages = [Message(key_of(examples[place]), orjson.dumps(examples[place])) for place in sound]
        try:
            outcome = sink.send(messages)
        except SinkUnavailable as error:
            lost = error
            outcome = [None if done else _NOT_ACKNOWLEDGED for done in error.acknowledged]
        for place, refusal in zip(sound, outcome, strict=True):
            faults[place] = refusal
    rejected += [
        {"list": "examples", "index": index, "detail": fault} for index, fault in enumerate(faults) if fault is not None
    ]
    accepted = len(examples) - sum(fault is not None for fault in faults)
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


def item_place(error: BadValue) -> str:
    """The field of a ranking request that a bad value stands in, such as ``candidates[3].genre``."""
    part, _, path = error.source.partition(".")
    return f"candidates[{error.place}].{path}" if part == "item" else error.source
