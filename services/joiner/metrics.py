"""What the joiner tells Prometheus."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

from services.joiner.join import Join, Tally
from services.joiner.pending import Pending
from trainer.exporter import Exporter

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class _Pair(Protocol):
    """What is asked of :class:`services.joiner.pair.Pair`."""

    join: Join
    pending: Pending


class JoinerMetrics(Exporter):
    """The joiner's metrics, in a registry of their own.

    Args:
        topics: Names of the topics that it reads.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        super().__init__()
        r = self.registry
        self.tally = Tally()
        self._told = Tally()
        self.consumed = Counter("dolmen_joiner_consumed", "Messages joined or passed over.", ["topic"], registry=r)
        self.examples = Counter("dolmen_joiner_messages", "Messages of examples that were committed.", registry=r)
        self.misplaced = Counter(
            "dolmen_joiner_misplaced_keys", "Messages in another partition than murmur2's of their key.", ["topic"],
            registry=r,
        )  # fmt: skip
        for topic in topics:
            self.consumed.labels(topic)
            self.misplaced.labels(topic)
        self.dead_letters = Counter("dolmen_dead_letters", "Messages not joined.", ["topic", "reason"], registry=r)
        self.commit_seconds = Histogram(
            "dolmen_joiner_commit_seconds", "Time of a transaction.", buckets=_SECONDS, registry=r
        )
        self._late = Counter("dolmen_joiner_late", "Actions after the close of their window.", registry=r)
        self._dropped = Counter("dolmen_joiner_dropped", "Discards.", ["reason"], registry=r)
        self._pending = Gauge("dolmen_joiner_pending", "Impressions that wait for the close of a window.", registry=r)
        self._on_disk = Gauge("dolmen_joiner_on_disk", "Requests that wait on disk.", registry=r)
        self._memory = Gauge("dolmen_joiner_memory_bytes", "Memory of requests that wait, about.", registry=r)
        self._lag = Gauge("dolmen_consumer_lag", "Records left to read.", ["topic", "partition"], registry=r)

    def refresh(self, pairs: Sequence[_Pair], lag: Mapping[tuple[str, int], int]) -> None:
        """Sets the gauges, and brings the counters up to the tally."""
        self._pending.set(sum(pair.join.waiting for pair in pairs))
        self._on_disk.set(sum(pair.pending.disk_len for pair in pairs))
        self._memory.set(sum(pair.pending.memory_bytes for pair in pairs))
        for (topic, partition), left in lag.items():
            self._lag.labels(topic, str(partition)).set(left)
        self._late.inc(self.tally.late - self._told.late)
        self._told.late = self.tally.late
        for reason, count in self.tally.dropped.items():
            self._dropped.labels(reason).inc(count - self._told.dropped[reason])
            self._told.dropped[reason] = count
