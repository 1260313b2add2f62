"""Examples as bytes, ready for Kafka."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Message:
    """One record of the topic.

    Attributes:
        value: The JSON, or whatever a file held.
        key: The user's id as text; None where the value tells none.
        examples: How many (item, labels) it holds; 1 where that cannot be told.
        ts: Event time in ms since the epoch, where there is one.
    """

    value: bytes
    key: bytes | None
    examples: int
    ts: int | None


def encode(messages: Iterable[Mapping[str, Any]]) -> Iterator[Message]:
    """Messages of a data set as records."""
    for message in messages:
        yield _message(orjson.dumps(message), message)


def encode_lines(lines: Iterable[bytes], limit: int | None = None) -> Iterator[Message]:
    """Lines of a file as records: as they are, malformed ones too. Blank lines are left out.

    Args:
        lines: One JSON object each.
        limit: At most so many examples; the stream ends before the message that would exceed it.
    """
    sent = 0
    for line in lines:
        if not line or line.isspace():
            continue
        try:
            parsed = orjson.loads(line)
        except orjson.JSONDecodeError:
            parsed = None
        message = _message(line, parsed)
        sent += message.examples
        if limit is not None and sent > limit:
            return
        yield message


def _message(value: bytes, parsed: object) -> Message:
    if not isinstance(parsed, Mapping):
        return Message(value, None, 1, None)
    user, items, ts = parsed.get("user"), parsed.get("items"), parsed.get("ts")
    user_id = user.get("id") if isinstance(user, Mapping) else None
    key = str(user_id).encode("utf-8", "surrogatepass") if type(user_id) in (str, int) else None
    count = len(items) if isinstance(items, list) and items else 1
    return Message(value, key, count, ts if type(ts) is int else None)
