"""Whether what a trainer remembers of a topic still fits the topic: the decision, without any I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.topics import TopicState

ADVICE = (
    'Nothing was skipped yet. To go on, set events.on_lost_log = "earliest" (learn from all that '
    'the log has now) or "latest" (from its end), or DOLMEN_EVENTS__ON_LOST_LOG, and start again.'
)


@dataclass(frozen=True, slots=True)
class TopicPosition:
    """How far a topic was consumed.

    Attributes:
        topic_id: The topic's identity; None in a loaded dump: whatever topic is there now is meant.
        offsets: By partition, the last consumed record's offset + 1. Transaction markers are not counted.
    """

    topic_id: str | None
    offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that were expected and are not there.

    Attributes:
        reason: What happened, naming topic, partitions and offsets.
        partitions: Those whose position means nothing any more.
        whole: Whether it is another topic, so that every position is void.
    """

    reason: str
    partitions: tuple[int, ...]
    whole: bool


def find_replaced(topic: str, known: TopicPosition, state: TopicState) -> Loss | None:
    """Whether the topic is another one than the one that was consumed.

    Args:
        topic: Its name.
        known: What was consumed.
        state: The topic as it is now.
    """
    offsets = _list_offsets(known)
    if known.topic_id is not None and state.topic_id is not None and known.topic_id != state.topic_id:
        reason = (
            f"Topic {topic} is not the one that was consumed: its id was {known.topic_id} and is {state.topic_id}. "
            f"It was deleted and created again, or the broker lost its data. Consumed up to ({offsets})."
        )
        return Loss(reason, state.partitions, whole=True)
    vanished = sorted(set(known.offsets) - set(state.partitions))
    if vanished:
        reason = f"Topic {topic} has no partition {vanished[0]} any more. Consumed up to ({offsets})."
        return Loss(reason, state.partitions, whole=True)
    return None


def find_deleted(topic: str, positions: Mapping[int, int], earliest: Mapping[int, int]) -> Loss | None:
    """Whether records were deleted before they were read.

    Args:
        topic: Its name.
        positions: By partition, the offset to be read next.
        earliest: By partition, the first offset that the log still has.
    """
    gone = sorted(p for p, offset in positions.items() if earliest.get(p, 0) > offset)
    if not gone:
        return None
    parts = [
        f"partition {p}: {earliest[p] - positions[p]} gone, from offset {positions[p]} to {earliest[p] - 1}"
        for p in gone
    ]
    reason = (
        f"Topic {topic} lost records before they were read ({'; '.join(parts)}). Its retention is shorter than the "
        "trainer was behind, or someone deleted records."
    )
    return Loss(reason, tuple(gone), whole=False)


def find_shorter(topic: str, positions: Mapping[int, int], ends: Mapping[int, int]) -> Loss:
    """A log that ends before the place up to which it was consumed.

    Args:
        topic: Its name.
        positions: By partition, the offset to be read next.
        ends: By partition that is too short, where its log ends now.
    """
    parts = [f"partition {p}: consumed up to {positions[p]}, the log ends at {ends[p]}" for p in sorted(ends)]
    reason = f"Topic {topic} lost records that had been consumed ({'; '.join(parts)})."
    return Loss(reason, tuple(sorted(ends)), whole=False)


def describe_missing(topic: str, known: TopicPosition, missing_s: float) -> str:
    """What to say of a topic that is not there.

    Args:
        topic: Its name.
        known: How far it was consumed.
        missing_s: For how long it has been missing, in seconds.
    """
    return (
        f"Topic {topic} has been missing for {missing_s:.0f} s: it was deleted, or the broker lost its data. "
        f"Consumed up to ({_list_offsets(known)})."
    )


def count_left(position: int, latest: int, high_watermark: int | None, gave_nothing: bool) -> int:
    """Records left to read in a partition; 0 exactly at its end.

    The embedded broker does not tell where an open transaction begins, so there its records count as left.

    Args:
        position: The offset that is read next, transaction markers that were passed counted.
        latest: The broker's answer for the end, as :meth:`trainer.topics.Topics.latest` describes it.
        high_watermark: The end, open transactions included, that came with the last answered fetch; None before one.
        gave_nothing: Whether the last poll gave nothing, so that nothing fetched is waiting.

    >>> count_left(20, 20, 23, True), count_left(20, 16, 20, True), count_left(20, 21, 20, True)
    (0, 0, 1)
    >>> count_left(3, 1, 5, False), count_left(20, 20, None, False)
    (2, 0)
    """
    at_end = latest == position or (latest < position and high_watermark is not None and position >= high_watermark)
    if gave_nothing and at_end:
        return 0
    return max(0, max(latest, high_watermark or 0) - position)


def _list_offsets(known: TopicPosition) -> str:
    return ", ".join(f"partition {p}: {known.offsets[p]}" for p in sorted(known.offsets))
