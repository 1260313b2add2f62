"""Labelled lists as what came before the labels: impressions and actions, as an application would have sent them."""

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.events import AFTERWARDS, id_text, request_key
from services.replay.message import Message

ACTIONS = {"play_time_ms": "play"}
"""Names of the actions that outcomes come from; any other has its outcome's name, as labels have theirs."""

_LONGEST_DELAY = 10.0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How visitors act, and how the way to Kafka treats their events. Rates are from 0 to 1.

    Attributes:
        seed: Equal seeds and lists give equal messages.
        delay_ms: Mean time from an impression to an action; exponential, cut at ten times as much.
        late: Which share of the messages comes late, so that others overtake them.
        late_ms: By how much at most, in event time.
        repeated: Which share comes once more, at most `late_ms` later.
        lost: Which share never comes.
    """

    seed: int = 1
    delay_ms: float = 5_000.0
    late: float = 0.0
    late_ms: float = 4_000.0
    repeated: float = 0.0
    lost: float = 0.0


@dataclass(slots=True)
class Counts:
    """What became of the lists; filled while messages are taken.

    Attributes:
        impressions: Lists.
        actions: Made of labels and outcomes.
        items_dropped: Items that came again within their list.
        late: Messages that came late.
        repeated: Messages that came twice.
        lost: Messages that never came.
    """

    impressions: int = 0
    actions: int = 0
    items_dropped: int = 0
    late: int = 0
    repeated: int = 0
    lost: int = 0


@dataclass(slots=True)
class Stream:
    """Impressions and actions in the order of their arrival. Memory is bounded by what happens within a delay.

    Attributes:
        lists: Labelled lists in event-time order.
        name: Begins the request ids, which are unique within a stream.
        impressions: Topic of the impressions.
        actions: Topic of the actions.
        behaviour: Delays, disorder, loss.
        counts: What became of the lists so far.
    """

    lists: Iterable[Mapping[str, Any]]
    name: str
    impressions: str
    actions: str
    behaviour: Behaviour = field(default_factory=Behaviour)
    counts: Counts = field(default_factory=Counts)

    def __iter__(self) -> Iterator[Message]:
        """The stream from its beginning."""
        # two, so that visitors do the same whatever befalls their messages
        acts, way = (random.Random(2 * self.behaviour.seed + n) for n in (0, 1))  # noqa: S311 - a simulation
        waiting: list[tuple[int, int, Message]] = []
        number = 0
        for index, labelled in enumerate(self.lists):
            while waiting and waiting[0][0] <= labelled["ts"]:
                yield heapq.heappop(waiting)[2]
            for event, topic, examples in self._events(labelled, f"{self.name}-{self.behaviour.seed}-{index}", acts):
                value, key = orjson.dumps(event), request_key(event)
                for arrival in self._arrivals(event["ts"], way):
                    heapq.heappush(waiting, (arrival, number, Message(value, key, examples, arrival, topic)))
                    number += 1
                    examples = 0
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _events(
        self, labelled: Mapping[str, Any], request_id: str, chance: random.Random
    ) -> Iterator[tuple[dict[str, Any], str, int]]:
        """One list's impression and actions: the event, its topic, and how many examples it stands for."""
        items: dict[str, Mapping[str, Any]] = {}
        for item in labelled["items"]:
            items.setdefault(id_text(item["id"]), item)
        self.counts.items_dropped += len(labelled["items"]) - len(items)
        self.counts.impressions += 1
        shown = [
            {**{name: value for name, value in item.items() if name not in AFTERWARDS}, "position": place}
            for place, item in enumerate(items.values())
        ]
        head = {"request_id": request_id, "ts": labelled["ts"]}
        parts = {"user": labelled["user"], "context": labelled.get("context", {}), "items": shown}
        yield head | parts, self.impressions, len(shown)
        for item in items.values():
            for action, value in _actions(item):
                self.counts.actions += 1
                yield (
                    {
                        "request_id": request_id,
                        "ts": labelled["ts"] + self._delay_ms(chance),
                        "item_id": item["id"],
                        "action": action,
                        "value": value,
                    },
                    self.actions,
                    0,
                )

    def _delay_ms(self, chance: random.Random) -> int:
        mean = self.behaviour.delay_ms
        return round(min(chance.expovariate(1.0), _LONGEST_DELAY) * mean)

    def _arrivals(self, ts: int, chance: random.Random) -> Iterator[int]:
        """When a message arrives, in event time: never, once or twice."""
        how = self.behaviour
        if chance.random() < how.lost:
            self.counts.lost += 1
            return
        if chance.random() < how.late:
            self.counts.late += 1
            ts += round(chance.random() * how.late_ms)
        yield ts
        if chance.random() < how.repeated:
            self.counts.repeated += 1
            yield ts + round(chance.random() * how.late_ms)


def counted(counts: Counts) -> str:
    """What became of a stream, in words; what did not happen is left out.

    >>> counted(Counts(impressions=5, actions=12, items_dropped=1, lost=2))
    '5 impressions, 12 actions; 1 item dropped that stood in the same list already; of the messages 2 lost'
    """
    text = f"{counts.impressions:,} impressions, {counts.actions:,} actions"
    if counts.items_dropped:
        several = "s" if counts.items_dropped > 1 else ""
        text += f"; {counts.items_dropped:,} item{several} dropped that stood in the same list already"
    fates = {name: getattr(counts, name) for name in ("late", "repeated", "lost")}
    if any(fates.values()):
        text += "; of the messages " + ", ".join(f"{count:,} {name}" for name, count in fates.items() if count)
    return text


def _actions(item: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What a visitor did with an item: an action for each positive label, and one for each outcome."""
    for task, label in item["labels"].items():
        if label > 0:
            yield task, label
    for name, value in item.get("outcomes", {}).items():
        yield ACTIONS.get(name, name), value
