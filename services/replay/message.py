"""Examples and events as bytes, ready for Kafka."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Message:
    """One record.

    Attributes:
        value: The JSON, or whatever a file held.
        key: The user's id or the request's id as text; None where the value tells none.
        examples: How many (item, labels) it holds or will become; 1 where that cannot be told.
        ts: When it is due, in event time, ms since the epoch; None where that cannot be told.
        topic: Where it goes; None: the sink's own topic.
    """

    value: bytes
    key: bytes | None
    examples: int
    ts: int | None
    topic: str | None = None


Describe = Callable[[bytes, object], Message]
"""Makes a record of bytes and what they are as JSON, None if they are none."""


def encode(messages: Iterable[Mapping[str, Any]]) -> Iterator[Message]:
    """Messages of a data set as records."""
    for message in messages:
        yield example_message(orjson.dumps(message), message)


def example_message(value: bytes, parsed: object) -> Message:
    """An example, or what should be one, as a record."""
    if not isinstance(parsed, Mapping):
        return Message(value, None, 1, None)
    user, items, ts = parsed.get("user"), parsed.get("items"), parsed.get("ts")
    user_id = user.get("id") if isinstance(user, Mapping) else None
    count = len(items) if isinstance(items, list) and items else 1
    return Message(value, _text(user_id), count, ts if type(ts) is int else None)


def event_message(impressions: str, actions: str) -> Describe:
    """Makes records of impressions and actions, which are known by their ``item_id``.

    Args:
        impressions: Topic of the impressions, and of what is neither.
        actions: Topic of the actions.
    """

    def describe(value: bytes, parsed: object) -> Message:
        if not isinstance(parsed, Mapping):
            return Message(value, None, 1, None, impressions)
        done = "item_id" in parsed
        items, ts = parsed.get("items"), parsed.get("ts")
        count = 0 if done else len(items) if isinstance(items, list) and items else 1
        when = ts if type(ts) is int else None
        return Message(value, _text(parsed.get("request_id")), count, when, actions if done else impressions)

    return describe


def encode_lines(
    lines: Iterable[bytes], limit: int | None = None, describe: Describe = example_message
) -> Iterator[Message]:
    """Lines of a file as records: as they are, malformed ones too. Blank lines are left out.

    Args:
        lines: One JSON object each.
        limit: At most so many examples; the stream ends before the message that would exceed it.
        describe: Makes the records.
    """
    sent = 0
    for line in lines:
        if not line or line.isspace():
            continue
        try:
            parsed = orjson.loads(line)
        except orjson.JSONDecodeError:
            parsed = None
        message = describe(line, parsed)
        sent += message.examples
        if limit is not None and sent > limit:
            return
        yield message


def _text(identity: object) -> bytes | None:
    return str(identity).encode("utf-8", "surrogatepass") if type(identity) in (str, int) else None
