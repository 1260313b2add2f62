"""The shell between Kafka and the trainer's loop: records in, dead letters out, and the log's identity watched."""

import contextlib
from collections.abc import Mapping

from trainer.connection import kafka_options
from trainer.cursor import Cursor
from trainer.dead_letters import DeadLetters, Letter
from trainer.errors import EventsUnavailable
from trainer.lag_report import LagReport
from trainer.lost_log import TopicPosition
from trainer.reader import Record
from trainer.settings import EventsSettings, parse_rfc3339_ms
from trainer.topics import Topics

__all__ = ["Record", "Source", "TopicPosition", "kafka_options"]


class Source:
    """Reads all partitions of the examples topic, committed records only. Not thread-safe.

    It is what :class:`trainer.message_source.MessageSource` asks for.

    Positions are the caller's to keep: they come out of :meth:`positions` and go back into :meth:`open`. A topic's
    identity is its id. :meth:`check` makes sure that the positions still belong to it; what was handed out since the
    last check may stem from another topic of the same name, so check before a commit.

    Args:
        settings: Where Kafka is, the topics' names, and what to do when the log was lost.
        start: Where a trainer without stored positions begins: earliest, latest or an RFC 3339 time.

    Attributes:
        ended: False: a topic has no end.
        learns_rest: False: as it never ends, nothing is left at its end.
    """

    ended = False
    learns_rest = False

    def __init__(self, settings: EventsSettings, start: str) -> None:
        options = kafka_options(settings)
        self._topic = settings.topics.examples
        self._dead_letter_topic = settings.topics.dead_letters
        self._start = start if start in ("earliest", "latest") else parse_rfc3339_ms(start)
        self._topics = Topics(options)
        self._cursor = Cursor(self._topic, self._topics, options, settings.on_lost_log or "stop", settings.partitions)
        self._letters = DeadLetters(options, self._dead_letter_topic, self._topics)
        self._report = LagReport(options, f"{settings.id}-trainer")
        self._lag: dict[int, int] = {}

    @property
    def lost_logs(self) -> int:
        """How often a lost log made the source go elsewhere.

        When it grows, what was polled before and is not committed yet belongs to no position any more.
        """
        return self._cursor.losses

    def open(self, stored: Mapping[str, TopicPosition]) -> None:
        """Goes to the stored positions, or to the start where there are none. May be called again, to go back.

        Creates the topics that are missing at a first start, or where a lost log is no reason to stop. Blocks.

        Args:
            stored: By topic, what :meth:`positions` gave. Partitions that came later begin at their first record.

        Raises:
            EventsUnavailable: If Kafka did not answer.
            LogLost: If the stored positions do not fit the topic and ``events.on_lost_log`` is ``stop``.
        """
        self._cursor.open(stored.get(self._topic, TopicPosition(None, {})), self._start)
        self._topics.ensure(self._dead_letter_topic, 1)

    def poll(self, timeout_ms: int, max_records: int) -> list[Record]:
        """The next records, in order within each partition; none if there are none, or while the broker is away.

        Args:
            timeout_ms: Longest wait for a first record.
            max_records: At most so many.

        Raises:
            EventsUnavailable: If Kafka refuses to let us read.
            LogLost: As in :meth:`check`.
        """
        return self._cursor.poll(timeout_ms, max_records)

    def positions(self) -> dict[str, TopicPosition]:
        """How far :meth:`poll` has handed out, by topic. Transaction markers are not counted."""
        return {self._topic: self._cursor.position()}

    def lag(self) -> dict[tuple[str, int], int]:
        """Records left, by topic and partition, as the broker tells now; else as it told last."""
        with contextlib.suppress(EventsUnavailable):
            self._lag = self._cursor.left()
        return {(self._topic, partition): left for partition, left in self._lag.items()}

    def at_end(self) -> bool:
        """Whether the last poll gave nothing because every partition was read to its end. Asks the broker."""
        try:
            return self._cursor.at_end()
        except EventsUnavailable:
            return False

    def dead_letter(self, record: Record, reason: str, detail: str) -> None:
        """Keeps a message that cannot be learned from for the dead-letter topic. Never blocks.

        Args:
            record: The message, whose key and bytes go there unchanged.
            reason: One of a few words.
            detail: What is wrong, and the remedy.
        """
        headers = (
            ("reason", f"{reason}: {detail}".encode("utf-8", "replace")),
            ("source_topic", record.topic.encode()),
            ("source_partition", str(record.partition).encode()),
            ("source_offset", str(record.offset).encode()),
        )
        self._letters.add(Letter(record.key, record.value, headers))

    def flush_dead_letters(self) -> None:
        """Returns once the broker has acknowledged every dead letter. None is forgotten: may be called again.

        Raises:
            EventsUnavailable: If the broker did not acknowledge all.
        """
        self._letters.flush()

    def check(self) -> None:
        """Makes sure that the positions still belong to the topic, and takes up partitions that came later.

        Where the log was lost and ``events.on_lost_log`` is not ``stop``, goes on from its beginning or end with a
        warning. To be called about once a second, and before a commit.

        Raises:
            EventsUnavailable: If Kafka did not answer: nothing is known, ask again.
            LogLost: If the log was lost and ``events.on_lost_log`` is ``stop``. Says what to do.
        """
        self._cursor.check()

    def commit_offsets(self, positions: Mapping[str, TopicPosition]) -> None:
        """Tells Kafka, for lag tools only, under the group ``<events.id>-trainer``. Asynchronous; failures are logged.

        Args:
            positions: What :meth:`positions` gave and is committed to the store.
        """
        position = positions.get(self._topic)
        if position is None or not position.offsets:
            return
        offsets = dict(position.offsets)
        if position == self._cursor.position():  # lag tools count the markers behind the last record
            with contextlib.suppress(EventsUnavailable):
                offsets = self._cursor.passed()
        self._report.report(self._topic, offsets)

    def close(self) -> None:
        """Closes all connections. Dead letters that were not flushed are not sent."""
        self._cursor.close()
        self._report.close()
        self._letters.close()
        self._topics.close()
