"""The replay itself: messages into a sink, in order and at a pace, never faster than the sink takes them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from services.replay.message import Message
from services.replay.pace import MAX, Pace, Rate

_PROGRESS_S = 0.1
_LONGEST_SLEEP_S = 0.1
_BUSY_SLEEP_S = 0.002
_LAST_FLUSH_S = 5.0


class Sink(Protocol):
    """Takes messages and acknowledges them later. Every member raises ReplayError once a message was lost."""

    def send(self, message: Message) -> None:
        """Accepts a message. Does not wait for its acknowledgement."""

    def pending(self) -> int:
        """How many messages are not acknowledged yet."""

    def is_full(self) -> bool:
        """Whether no message should be sent for now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is.

    Attributes:
        examples: Sent so far.
        messages: Sent so far.
        seconds: Since the start.
        finished: Whether everything was sent and acknowledged; false in between and after a stop.
    """

    examples: int = 0
    messages: int = 0
    seconds: float = 0.0
    finished: bool = False

    @property
    def examples_per_s(self) -> float:
        """The mean rate since the start."""
        return self.examples / self.seconds if self.seconds > 0 else 0.0


def replay(
    messages: Iterable[Message],
    sink: Sink,
    rate: Rate = MAX,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Progress:
    """Sends messages in their order and waits until all are acknowledged. Blocks.

    Args:
        messages: In event-time order.
        sink: Where they go.
        rate: How fast.
        on_progress: Called about ten times a second, and at the end.
        stopped: Asked often; once true, nothing more is sent, what was sent is given five seconds, and the replay
            returns.
        clock: Seconds of a clock that never goes back.
        sleep: Waits so many seconds.

    Returns:
        How far it came.

    Raises:
        ReplayError: If the sink lost a message.
        DatasetError: If the messages cannot be read.
    """
    start = clock()
    pace = Pace(rate)
    sent = 0
    count = 0
    all_sent = True
    told = start

    def tell(finished: bool = False) -> Progress:
        nonlocal told
        told = clock()
        progress = Progress(sent, count, told - start, finished)
        on_progress(progress)
        return progress

    def wait(seconds: float) -> None:
        sleep(seconds)
        sink.pending()
        if clock() - told >= _PROGRESS_S:
            tell()

    for message in messages:
        due = start + pace.due_s(sent, message.ts)
        while not stopped() and (now := clock()) < due:
            wait(min(due - now, _LONGEST_SLEEP_S))
        while not stopped() and sink.is_full():
            wait(_BUSY_SLEEP_S)
        if stopped():
            all_sent = False
            break
        sink.send(message)
        sent += message.examples
        count += 1
        if clock() - told >= _PROGRESS_S:
            tell()
    limit = None
    while sink.pending():
        if limit is None and stopped():
            limit = clock() + _LAST_FLUSH_S
        if limit is not None and clock() > limit:
            break
        wait(_BUSY_SLEEP_S)
    return tell(finished=all_sent and not sink.pending())
