"""The joiner's state record: how far a pair of partitions was joined, and from where its state can be read again."""

from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from services.joiner.rules import RuleBook, Rules

NEVER = -1
"""Before any event time."""
_VERSION = 1


@dataclass(slots=True)
class Side:
    """One of the two topics of a pair.

    Attributes:
        next: The offset that is consumed next.
        rebuild: The offset from which the state can be read again.
        high: The highest event time, ms since the epoch; NEVER before the first.
        topic_id: The topic's identity; None if the broker has none.
    """

    next: int = 0
    rebuild: int = 0
    high: int = NEVER
    topic_id: str | None = None


@dataclass(slots=True)
class Record:
    """One pair's state.

    Attributes:
        sequence: Counts the transactions.
        impressions: Of the topic of impressions.
        actions: Of the topic of actions.
        closed: The closing watermark: what ends before it has left, or was dropped.
        ignored: Offsets of impressions that were dropped though their end is still to come, with their end.
        chapters: First offsets and rules of the impressions that wait, and of those to come.
    """

    sequence: int = 0
    impressions: Side = field(default_factory=Side)
    actions: Side = field(default_factory=Side)
    closed: int = NEVER
    ignored: dict[int, int] = field(default_factory=dict)
    chapters: list[tuple[int, Rules]] = field(default_factory=list)

    def to_json(self) -> bytes:
        """As bytes."""
        return orjson.dumps(
            {
                "version": _VERSION,
                "sequence": self.sequence,
                "impressions": _side(self.impressions),
                "actions": _side(self.actions),
                "closed": self.closed,
                "ignored": list(self.ignored.items()),
                "rules": [[first, rules.to_json()] for first, rules in self.chapters],
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The record that :meth:`to_json` wrote.

        Raises:
            ValueError: If the bytes are none, or one of another version.
        """
        value = orjson.loads(data)
        if not isinstance(value, dict) or value.get("version") != _VERSION:
            raise ValueError("this is no state record of a joiner of this version")
        try:
            return cls(
                sequence=value["sequence"],
                impressions=Side(**value["impressions"]),
                actions=Side(**value["actions"]),
                closed=value["closed"],
                ignored=dict(value["ignored"]),
                chapters=[(first, Rules.from_json(rules)) for first, rules in value["rules"]],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this state record of a joiner is incomplete: {error}") from error

    def book(self, rules: Rules) -> RuleBook:
        """Its rules, with other ones for the impressions to come if they have changed."""
        if not self.chapters:
            return RuleBook([(0, rules)])
        book = RuleBook(self.chapters)
        book.change(self.impressions.next, rules)
        return book


def _side(side: Side) -> dict[str, Any]:
    return {"next": side.next, "rebuild": side.rebuild, "high": side.high, "topic_id": side.topic_id}
