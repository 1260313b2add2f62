"""What the joiner keeps of a request: its impression and what came of it, or actions that came first."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.joiner.rules import Outcome, Task

AWAITING = 255
"""The stage of a request whose impression has not come."""
NO_OFFSET = -1

_HEAD = struct.Struct("<BqqqqI")


@dataclass(slots=True)
class Entry:
    """One request.

    Attributes:
        offset: Of the impression; NO_OFFSET while it has not come.
        ts: Of the impression, ms since the epoch.
        stage: How many windows have closed; AWAITING while the impression has not come.
        due: When the next thing happens to it: once the closing watermark has passed this.
        first_action: The lowest offset of an action that it was made of; NO_OFFSET if there is none.
        value: The impression's message; empty while it has not come.
        marks: By item: ``{"tasks": {name: ts}, "outcomes": {name: [ts, value]}, "left": {outcome: value}}``, the last
            being what left with an action, ahead of its list. Of a request that awaits its impression:
            ``{"": [[offset, ts, item, action, value, closing watermark], …]}``.
        placed: The due time under which it was last put; not part of the bytes.
        on_disk: Whether it came from the disk; not part of the bytes.
    """

    offset: int
    ts: int
    stage: int
    due: int
    first_action: int = NO_OFFSET
    value: bytes = b""
    marks: dict[str, Any] = field(default_factory=dict)
    placed: int | None = None
    on_disk: bool = False

    def encode(self) -> bytes:
        """As bytes."""
        marks = orjson.dumps(self.marks) if self.marks else b""
        head = _HEAD.pack(self.stage, self.offset, self.ts, self.due, self.first_action, len(marks))
        return b"".join((head, marks, self.value))

    def mark(
        self, item: str, ts: int, value: float, tasks: Sequence[Task], outcomes: Sequence[Outcome]
    ) -> tuple[list[Task], bool]:
        """Notes an action, whatever came before: the earliest of each task, the latest value of each outcome.

        Returns:
            Tasks that were not 1 before, and whether anything changed.
        """
        mark = self.marks.setdefault(item, {})
        times = mark.setdefault("tasks", {})
        numbers = mark.setdefault("outcomes", {})
        new = [task for task in tasks if task.name not in times]
        changed = False
        for task in tasks:
            if ts < times.get(task.name, ts + 1):
                times[task.name] = ts
                changed = True
        for outcome in outcomes:
            if outcome.name not in numbers or (ts, value) > tuple(numbers[outcome.name]):
                numbers[outcome.name] = [ts, value]
                changed = True
        return new, changed

    @classmethod
    def decode(cls, data: bytes, on_disk: bool = False) -> "Entry":
        """From the bytes that :meth:`encode` made."""
        stage, offset, ts, due, first_action, length = _HEAD.unpack_from(data)
        start = _HEAD.size
        marks = orjson.loads(data[start : start + length]) if length else {}
        return cls(offset, ts, stage, due, first_action, data[start + length :], marks, due, on_disk)


def due_of(data: bytes) -> int:
    """The due time in an entry's bytes."""
    return int(_HEAD.unpack_from(data)[3])
