"""The joiner's loop, wired: Kafka -> pairs -> transactions."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.joiner.join import Join
from services.joiner.ledger import Ledger, Overtaken
from services.joiner.metrics import JoinerMetrics
from services.joiner.opening import find_bounds, reconcile
from services.joiner.pair import Pair
from services.joiner.pending import Pending
from services.joiner.record import Record
from services.joiner.rules import Rules
from services.joiner.sink import Destinations
from services.joiner.source import LogGone, Place, Source
from services.joiner.spill import Spill
from services.murmur import partitions_of
from services.settings import JoinerSettings
from services.topics import TopicsUnequal, make_topics
from trainer.connection import kafka_options
from trainer.errors import EventsUnavailable
from trainer.lost_log import count_left
from trainer.reader import Record as Message
from trainer.settings import EventsSettings
from trainer.topics import Topics

_log = logging.getLogger(__name__)
_POLL_MS = 20
_MOST_OUTPUTS = 2000  # of a transaction, about
_REFRESH_S = 1.0
_RETRY_S = 0.5
_SILENT_COMMIT_S = 1.0  # when only offsets have moved
_ASK_S = 0.1


@dataclass(frozen=True, slots=True)
class JoinerConfig:
    """All that one joiner process needs to know."""

    joiner: JoinerSettings
    rules: Rules
    events: EventsSettings
    metrics_host: str
    metrics_port: int
    directory: Path


class Stopped(Exception):
    """The joiner was asked to end."""


class _Changed(Exception):
    """What is known of Kafka does not hold any more: begin from the records."""


class Joiner:
    """One joiner process.

    Args:
        config: Its settings.
        stop: Ends the loop: what was joined is committed first.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, config: JoinerConfig, stop: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._stop = stop
        self._clock = clock
        self._options = kafka_options(config.events)
        names = config.events.topics
        self._names = (names.impressions, names.actions)
        self._to = Destinations(names.examples, names.dead_letters, names.joiner_state, f"{config.events.id}-joiner")
        self._topics = Topics(self._options)
        self._metrics = JoinerMetrics(self._names)
        self._source = Source(self._options)
        self._pairs: dict[int, Pair] = {}
        self._ledgers: dict[int, Ledger] = {}
        self._warned = 0.0

    def run(self) -> None:
        """Joins until asked to stop.

        Raises:
            TopicsUnequal: If impressions and actions cannot be paired.
            Fenced: If another joiner took a partition.
            LogLost: If Kafka lost its log and `events.on_lost_log` is "stop".
        """
        self._metrics.serve(self._config.metrics_host, self._config.metrics_port)
        try:
            while not self._stop.is_set():
                try:
                    self._open()
                    self._loop()
                except EventsUnavailable as error:
                    self._wait(error)
                except (_Changed, Overtaken, LogGone) as error:
                    _log.warning("beginning from the last records: %s", error)
                    self._stop.wait(_RETRY_S)
        except Stopped:
            _log.warning("ended while waiting; everything since the last transactions will be read again")
        finally:
            self._metrics.close()
            self._close()
            self._topics.close()

    # Beginning

    def _open(self) -> None:
        """Shuts out predecessors, reads the records, and makes the state again."""
        self._close()
        self._states = make_topics(self._topics, self._config.events)
        there = self._states[self._names[0]].partitions
        partitions = self._config.joiner.partitions or there
        if missing := sorted(set(partitions) - set(there)):
            raise TopicsUnequal(f"joiner.partitions: topic {self._names[0]} has no partition {missing[0]}")
        state_partitions = len(self._states[self._to.state].partitions)
        records = {}
        for number in partitions:
            key = f"{self._config.events.id}/{number}".encode()
            ledger = self._ledgers[number] = Ledger(
                self._options, self._topics, self._to, number, number % state_partitions, key, self._wait, self._metrics
            )
            records[number] = ledger.open()
        bounds = {name: find_bounds(self._options, self._topics, name, partitions) for name in self._names}
        on_lost_log = self._config.events.on_lost_log or "stop"
        for number in partitions:
            of_pair = {name: bounds[name][number] for name in self._names}
            record = reconcile(records[number], self._names, self._states, of_pair, number, on_lost_log)
            self._open_pair(number, record, self._config.joiner.memory_budget // len(partitions))
        self._assign()
        waiting = sum(pair.join.waiting for pair in self._pairs.values())
        _log.info("joining %d partitions; %d impressions wait", len(self._pairs), waiting)
        self._refreshed = self._committed = self._asked = self._clock()

    def _open_pair(self, number: int, record: Record, budget: int) -> None:
        disk = partial(Spill, self._config.directory / f"partition-{number}.sqlite")
        pending = Pending(self._config.rules.horizon_ms, budget, disk)
        join = Join(record, self._config.rules, pending, self._metrics.tally)
        pair = self._pairs[number] = Pair(number, join, pending, self._config.events.max_ahead, self._metrics)
        for side, (name, part) in enumerate(zip(self._names, join.sides, strict=True)):
            pair.read_again(side, self._until_stopped(self._source.read((name, number), part.rebuild, part.next)))

    def _until_stopped(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            yield message
            if self._stop.is_set():
                raise Stopped

    def _assign(self) -> None:
        """Reads on from where the pairs stand."""
        offsets = {}
        for number, pair in self._pairs.items():
            pair.forget_buffered()
            for name, side in zip(self._names, pair.join.sides, strict=True):
                offsets[name, number] = side.next
        self._source.assign(offsets)

    # The loop

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._read(self._patience_ms())
            self._give_way()
            for pair in self._pairs.values():
                pair.feed(_MOST_OUTPUTS)
                while pair.outputs >= _MOST_OUTPUTS:
                    self._commit(pair)
                    pair.feed(_MOST_OUTPUTS)
            self._commit_due()
            if self._clock() - self._refreshed >= _REFRESH_S:
                self._refresh()
        for pair in self._pairs.values():
            if pair.changed:
                self._commit(pair)

    def _patience_ms(self) -> int:
        """How long to wait for records: what is joined leaves when its transaction is due."""
        if not any(pair.join.out for pair in self._pairs.values()):
            return _POLL_MS
        due = self._committed + self._config.joiner.commit_interval / 1000
        return max(0, min(_POLL_MS, round((due - self._clock()) * 1000)))

    def _places(self) -> Iterator[tuple[Pair, int, Place]]:
        for number, pair in self._pairs.items():
            for side, name in enumerate(self._names):
                yield pair, side, (name, number)

    def _read(self, timeout_ms: int) -> None:
        try:
            self._source.leave_out(place for pair, side, place in self._places() if pair.is_full(side))
            messages = self._source.poll(timeout_ms)
        except EventsUnavailable as error:
            self._source.close()
            self._wait(error)
            self._assign()
            return
        self._count(messages)
        for message in messages:
            self._pairs[message.partition].offer(self._names.index(message.topic), message)
        now = self._clock()
        got = {(message.topic, message.partition) for message in messages}
        for pair, side, place in self._places():
            high = self._source.high_watermark(place)
            if high is not None and self._source.position(place) < high:
                pair.has_more(side)
            elif high is not None and place not in got:
                pair.reached_end(side, now)

    def _count(self, messages: list[Message]) -> None:
        count = len(self._states[self._names[0]].partitions)
        homes = partitions_of([message.key or b"" for message in messages], count).tolist()
        for topic, some in Counter(message.topic for message in messages).items():
            self._metrics.consumed.labels(topic).inc(some)
        for message, home in zip(messages, homes, strict=True):
            if home != message.partition and count > 1:
                self._metrics.misplaced.labels(message.topic).inc()

    def _give_way(self) -> None:
        """Where the lower side has been silent at its end for long enough, lets it hold up nothing."""
        now = self._clock()
        if now - self._asked < _ASK_S:
            return
        idle_s = self._config.joiner.idle_after / 1000
        silent = [
            (pair, place)
            for pair, side, place in self._places()
            if side == pair.lower and pair.silent_s(side, now) >= idle_s and pair.join.could_close
        ]
        self._asked = now
        for pair, (name, number) in silent:
            try:
                latest = self._topics.latest(name, [number])[number]  # a broker that is away lets nobody give way
            except EventsUnavailable as error:
                self._warn(error)
                return
            position, high = self._source.position((name, number)), self._source.high_watermark((name, number))
            if count_left(position, latest, high, True) == 0:
                pair.give_way()

    # Committing

    def _commit_due(self) -> None:
        now = self._clock()
        since = now - self._committed
        if since < self._config.joiner.commit_interval / 1000:
            return
        some = [p for p in self._pairs.values() if p.outputs or (p.changed and since >= _SILENT_COMMIT_S)]
        for pair in some:
            self._commit(pair)
        if some:
            self._committed = now

    def _commit(self, pair: Pair) -> None:
        start = self._clock()
        self._ledgers[pair.partition].commit(pair, self._names)
        self._metrics.commit_seconds.observe(self._clock() - start)

    # Waiting and telling

    def _refresh(self) -> None:
        self._refreshed = self._clock()
        lag = {}
        for pair, side, place in self._places():
            left = max(0, (self._source.high_watermark(place) or 0) - self._source.position(place))
            lag[place] = left + pair.buffered(side)
        self._metrics.refresh(list(self._pairs.values()), lag)
        for name in self._names:
            try:
                state = self._topics.describe(name)
            except EventsUnavailable as error:
                self._warn(error)
                return
            if state != self._states[name]:
                raise _Changed(f"topic {name} has changed: it was made anew, or got partitions")

    def _wait(self, error: EventsUnavailable) -> None:
        self._warn(error)
        if self._stop.wait(_RETRY_S):
            raise Stopped

    def _warn(self, error: EventsUnavailable) -> None:
        """Says what lasts, but not more than once in five seconds."""
        if self._clock() - self._warned >= 5.0:
            self._warned = self._clock()
            _log.warning("waiting for Kafka: %s", error)

    def _close(self) -> None:
        for ledger in self._ledgers.values():
            ledger.close()
        for pair in self._pairs.values():
            pair.pending.close()
        self._source.close()
        self._ledgers, self._pairs = {}, {}
