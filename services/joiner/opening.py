"""How a joiner begins: the last record of each pair, what Kafka still has of it, and the state read again."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from services.joiner.record import NEVER, Record, Side
from trainer.errors import LogLost
from trainer.lost_log import ADVICE
from trainer.reader import Reader
from trainer.topics import Topics, TopicState

log = logging.getLogger(__name__)


def find_bounds(
    options: Mapping[str, Any], topics: Topics, name: str, partitions: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """By partition, the first offset that a topic still has and the one behind the last.

    Raises:
        EventsUnavailable: If Kafka did not answer.
    """
    reader = Reader(options, name)
    try:
        ends = reader.ends(topics.latest(name, partitions))
    finally:
        reader.close()
    first = topics.earliest(name, partitions)
    return {partition: (first[partition], ends[partition]) for partition in partitions}


def reconcile(
    record: Record | None,
    names: tuple[str, str],
    states: Mapping[str, TopicState],
    bounds: Mapping[str, tuple[int, int]],
    partition: int,
    on_lost_log: str,
) -> Record:
    """The record to go on from.

    Args:
        record: The last one; None: this pair was never joined.
        names: The topics of impressions and of actions.
        states: The topics as they are.
        bounds: Of each topic's partition the first offset that there is, and the one behind the last.
        partition: The pair's number.
        on_lost_log: ``stop``, ``earliest`` or ``latest``.

    Raises:
        LogLost: If Kafka lacks what the record needs and `on_lost_log` is ``stop``.
    """
    if record is None:
        record = Record()
        for side, name in zip((record.impressions, record.actions), names, strict=True):
            _begin(side, bounds[name], states[name], "earliest")
        return record
    for side, name in zip((record.impressions, record.actions), names, strict=True):
        loss = _loss(side, name, states[name], bounds[name], partition)
        if loss is None:
            continue
        if on_lost_log == "stop":
            raise LogLost(f"{loss} {ADVICE}")
        log.warning("%s Going on from its %s.", loss, "beginning" if on_lost_log == "earliest" else "end")
        known, first = side.topic_id in (None, states[name].topic_id), bounds[name][0]
        if known and side.next >= first and side.next <= bounds[name][1]:
            side.rebuild = max(side.rebuild, first)
        else:
            _begin(side, bounds[name], states[name], on_lost_log)
    return record


def _begin(side: Side, bounds: tuple[int, int], state: TopicState, where: str) -> None:
    side.next = side.rebuild = bounds[0] if where == "earliest" else bounds[1]
    side.high, side.topic_id = NEVER, state.topic_id


def _loss(side: Side, name: str, state: TopicState, bounds: tuple[int, int], partition: int) -> str | None:
    if None not in (side.topic_id, state.topic_id) and side.topic_id != state.topic_id:
        return (
            f"Topic {name} is not the one that was joined: its id was {side.topic_id} and is {state.topic_id}. "
            "It was deleted and created again, or the broker lost its data."
        )
    first, end = bounds
    if side.next > end:
        return f"Topic {name}, partition {partition}: joined up to {side.next}, the log ends at {end}."
    if side.rebuild < first:
        return (
            f"Topic {name}, partition {partition}: what waits to be joined begins at offset {side.rebuild}, "
            f"and the log at {first}. Its retention is shorter than the joiner's windows, or than the joiner was away."
        )
    return None
