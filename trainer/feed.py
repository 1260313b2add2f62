"""Kafka as the loop sees it: where it does not answer, one waits; where its log was lost, one goes back."""

from typing import Any

from embedding_store.errors import LineageBroken
from trainer.errors import EventsUnavailable
from trainer.message_source import MessageSource
from trainer.patience import Patience
from trainer.positions import Positions, parse_positions
from trainer.reader import Record


class Feed:
    """Records in, and the certainty that they belong to the positions.

    Args:
        source: Reads the topics.
        patience: Waits.
    """

    def __init__(self, source: MessageSource, patience: Patience) -> None:
        self._source = source
        self._patience = patience
        self._losses = 0

    def open(self, stored: dict[str, Any]) -> Positions:
        """Goes to the stored positions, and gives those from which records come."""
        while True:
            try:
                self._source.open(parse_positions(stored))
                break
            except EventsUnavailable as error:
                self._patience.for_kafka(error)
        self._losses = self._source.lost_logs
        return Positions(self._source.positions())

    def poll(self, timeout_ms: int, most: int) -> list[Record]:
        """The next records; none if Kafka did not answer."""
        try:
            return self._source.poll(timeout_ms, most)
        except EventsUnavailable as error:
            self._patience.for_kafka(error)
            return []

    def settle(self) -> None:
        """Dead letters are acknowledged and the topic is still the same one, before a commit passes its messages.

        Raises:
            LineageBroken: If a log was lost: what was polled since the last check may stem from either log, so only
                what is committed is sure.
        """
        while True:
            try:
                self._source.flush_dead_letters()
                self._source.check()
                break
            except EventsUnavailable as error:
                self._patience.for_kafka(error)
        self._refuse_a_lost_log()

    def check(self) -> None:
        """Looks whether the topic is still the same one, for a loop that has nothing to commit; errors as above."""
        try:
            self._source.check()
        except EventsUnavailable as error:
            self._patience.warn(f"Kafka does not answer: {error}")
        self._refuse_a_lost_log()

    def _refuse_a_lost_log(self) -> None:
        if self._source.lost_logs != self._losses:
            raise LineageBroken("a Kafka log was lost; going back to the last commit and on from the new log")
