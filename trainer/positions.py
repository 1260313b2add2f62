"""How far the trainer has learned, by topic and partition, as commits carry it."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.pending import Message
from trainer.source import TopicPosition


class Positions:
    """Next offsets of what was learned from, which may lie behind what was read.

    Args:
        opened: Where the source begins.
    """

    def __init__(self, opened: Mapping[str, TopicPosition]) -> None:
        self._topic_ids = {topic: position.topic_id for topic, position in opened.items()}
        self._offsets = {topic: dict(position.offsets) for topic, position in opened.items()}

    def pass_over(self, messages: Iterable[Message]) -> None:
        """Goes past some messages."""
        for message in messages:
            record = message.record
            self._offsets[record.topic][record.partition] = record.offset + 1

    def to_json(self) -> dict[str, Any]:
        """As a commit carries them."""
        return {
            topic: {"topic_id": self._topic_ids[topic], "offsets": {str(p): o for p, o in sorted(offsets.items())}}
            for topic, offsets in self._offsets.items()
        }

    def by_topic(self) -> dict[str, TopicPosition]:
        """As the source takes them."""
        return {topic: TopicPosition(self._topic_ids[topic], offsets) for topic, offsets in self._offsets.items()}


def parse_positions(stored: Mapping[str, Any]) -> dict[str, TopicPosition]:
    """What :meth:`Positions.to_json` gave, as the source takes it."""
    return {
        topic: TopicPosition(value["topic_id"], {int(p): offset for p, offset in value["offsets"].items()})
        for topic, value in stored.items()
    }
