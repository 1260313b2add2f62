"""One pair's transactions as they are kept: committed until it is known, and the last state record."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from services.joiner.last_record import read_record
from services.joiner.metrics import JoinerMetrics
from services.joiner.pair import Pair
from services.joiner.record import Record
from services.joiner.sink import Destinations, Sink, TooLarge, Transaction
from trainer.dead_letters import Letter
from trainer.errors import EventsUnavailable
from trainer.reader import Reader
from trainer.topics import Topics

_CUT_BYTES = 256 << 10


class Overtaken(Exception):
    """The last record is neither the one before ours nor ours: begin from it."""


class Ledger:
    """One pair's.

    Args:
        options: What any Kafka client needs to connect.
        topics: Asks for the state topic's bounds.
        destinations: Where things go.
        partition: The pair's number.
        state_partition: Of the state topic.
        key: Of the pair's state record.
        wait: What to do while Kafka does not answer; may raise.
        metrics: Where what was committed is counted.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        topics: Topics,
        destinations: Destinations,
        partition: int,
        state_partition: int,
        key: bytes,
        wait: Callable[[EventsUnavailable], None],
        metrics: JoinerMetrics,
    ) -> None:
        self._options = options
        self._topics = topics
        self._to = destinations
        self._partition = partition
        self._state_partition = state_partition
        self._key = key
        self._wait = wait
        self._metrics = metrics
        self._sink = Sink(options, destinations, partition, state_partition)

    def open(self) -> Record | None:
        """Shuts out every earlier joiner of the pair, and only then reads its last record; None if there is none.

        Raises:
            EventsUnavailable: If Kafka does not answer.
        """
        self._sink.open()
        reader = Reader(self._options, self._to.state)
        try:
            return read_record(reader, self._topics, self._to.state, self._state_partition, self._key)
        finally:
            reader.close()

    def commit(self, pair: Pair, names: tuple[str, str]) -> None:
        """Commits what a pair has to tell, and where it stands. Blocks until it is known to be committed.

        Args:
            pair: The pair.
            names: The topics of impressions and actions.

        Raises:
            Fenced: If another joiner has the partition.
            Overtaken: If its record is another one than was left there.
        """
        record = pair.join.record
        record.sequence += 1
        offsets = dict(zip(names, (record.impressions.next, record.actions.next), strict=True))
        transaction = Transaction(pair.join.out, pair.letters, self._key, record.to_json(), offsets)
        while True:
            try:
                self._sink.commit(transaction)
                break
            except TooLarge as error:
                transaction = self._without(transaction, error.places, names[0])
            except EventsUnavailable as error:
                self._wait(error)
                if self._is_committed(record.sequence):
                    break
        self._metrics.examples.inc(len(transaction.examples))
        pair.join.out, pair.letters, pair.changed = [], [], False

    def close(self) -> None:
        """Closes all connections. Idempotent."""
        self._sink.close()

    def _is_committed(self, sequence: int) -> bool:
        """After a transaction without an answer: whether its record is there."""
        while True:
            try:
                found = self.open()
            except EventsUnavailable as error:
                self._wait(error)
                continue
            last = found.sequence if found is not None else 0
            if last not in (sequence - 1, sequence):
                raise Overtaken(
                    f"partition {self._partition}: the last record is number {last}, not {sequence - 1} or {sequence}"
                )
            return last == sequence

    def _without(self, transaction: Transaction, places: Iterable[int], topic: str) -> Transaction:
        """The transaction with examples that no broker takes as dead letters."""
        gone = frozenset(places)
        letters = list(transaction.letters)
        for place in sorted(gone):
            key, value = transaction.examples[place]
            headers = (
                ("reason", f"too_large: an example of {len(value)} bytes, more than the broker takes".encode()),
                ("source_topic", topic.encode()),
                ("source_partition", str(self._partition).encode()),
            )
            letters.append(Letter(key, value[:_CUT_BYTES], headers))
            self._metrics.dead_letters.labels(topic, "too_large").inc()
        kept = [output for place, output in enumerate(transaction.examples) if place not in gone]
        return Transaction(kept, letters, transaction.key, transaction.record, transaction.offsets)
