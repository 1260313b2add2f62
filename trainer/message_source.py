"""What the trainer's loop asks of whatever gives it messages."""

from collections.abc import Mapping
from typing import Protocol

from trainer.lost_log import TopicPosition
from trainer.reader import Record


class MessageSource(Protocol):
    """Messages in, dead letters out. Not thread-safe.

    :class:`trainer.source.Source`, which reads Kafka, says more about each method.
    """

    @property
    def lost_logs(self) -> int:
        """How often what was polled turned out to belong to no position any more."""

    @property
    def ended(self) -> bool:
        """Whether nothing will ever come again: then the trainer ends, too."""

    @property
    def learns_rest(self) -> bool:
        """Whether, at the end, examples are learned from that are too few for a whole batch."""

    def open(self, stored: Mapping[str, TopicPosition]) -> None:
        """Goes to the stored positions, or to the start where there are none."""

    def poll(self, timeout_ms: int, max_records: int) -> list[Record]:
        """The next records, in order within each partition."""

    def positions(self) -> dict[str, TopicPosition]:
        """How far :meth:`poll` has handed out, by topic."""

    def lag(self) -> dict[tuple[str, int], int]:
        """Records left, by topic and partition."""

    def at_end(self) -> bool:
        """Whether the last poll gave nothing because everything was read, for now."""

    def dead_letter(self, record: Record, reason: str, detail: str) -> None:
        """Keeps, or tells of, a message that cannot be learned from."""

    def flush_dead_letters(self) -> None:
        """Returns once every dead letter is safe."""

    def check(self) -> None:
        """Makes sure that the positions still belong to the messages."""

    def commit_offsets(self, positions: Mapping[str, TopicPosition]) -> None:
        """Tells whoever watches from outside how far the store is."""

    def close(self) -> None:
        """Closes all connections."""
