"""When examples were appended to Kafka: what a commit tells, so that readers know how fresh they are."""

from collections.abc import Iterable

from trainer.pending import Message

_STEP_MS = 10
_MOST = 512


class Appended:
    """Counts of examples by the time of their append, coarser where there are many times."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, messages: Iterable[Message]) -> None:
        """Counts the examples of some messages."""
        for message in messages:
            if message.examples:
                time_ms = message.record.timestamp_ms // _STEP_MS * _STEP_MS
                self._counts[time_ms] = self._counts.get(time_ms, 0) + message.examples

    def take(self) -> tuple[tuple[int, int], ...]:
        """Pairs of ms since the epoch and a count, since the last call; at most 512 of them."""
        counts, step_ms = self._counts, _STEP_MS
        while len(counts) > _MOST:
            step_ms *= 4
            merged: dict[int, int] = {}
            for time_ms, count in counts.items():
                key = time_ms // step_ms * step_ms
                merged[key] = merged.get(key, 0) + count
            counts = merged
        self._counts = {}
        return tuple(counts.items())
