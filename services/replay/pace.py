"""How fast a stream goes: when each message is due."""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """A speed. With neither attribute set the stream goes as fast as Kafka takes it.

    Attributes:
        examples_per_s: So many examples a second.
        speedup: So many times as fast as event time.
    """

    examples_per_s: float | None = None
    speedup: float | None = None


MAX = Rate()


def parse_rate(text: str) -> Rate:
    """A speed as written on the command line.

    Raises:
        ValueError: If the text is none.

    >>> parse_rate("max"), parse_rate("2000").examples_per_s, parse_rate("x60").speedup
    (Rate(examples_per_s=None, speedup=None), 2000.0, 60.0)
    """
    if text == "max":
        return MAX
    match = re.fullmatch(r"(x?)(\d+(?:\.\d+)?)", text)
    if match is None or not 0 < float(match[2]) < math.inf:
        raise ValueError(
            f'{text!r} is no rate; write "max", examples a second such as "2000", or "x60" for 60 times event time'
        )
    return Rate(speedup=float(match[2])) if match[1] else Rate(examples_per_s=float(match[2]))


class Pace:
    """Says when messages are due. Seconds count from the start of the stream."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._first_ts: int | None = None

    def due_s(self, examples: int, ts: int | None) -> float:
        """When the next message may leave.

        Args:
            examples: How many examples have left before it.
            ts: Its event time in ms since the epoch; None if it has none, then it is due at once.
        """
        if self._rate.examples_per_s is not None:
            return examples / self._rate.examples_per_s
        if self._rate.speedup is None or ts is None:
            return 0.0
        if self._first_ts is None:
            self._first_ts = ts
        return (ts - self._first_ts) / 1000 / self._rate.speedup
