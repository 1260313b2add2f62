"""What the ranker tells Prometheus."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from embedding_store.cached_shard import Tally
from embedding_store.row_set import RowSet

_RANK_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_CANDIDATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_FRESHNESS_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class CountedHistogram(Collector):
    """A histogram whose values come with counts, so that a thousand equal observations cost as much as one.

    Args:
        name: Of the metric.
        text: Its help text.
        edges: Upper bounds of the buckets, rising.
    """

    def __init__(self, name: str, text: str, edges: Sequence[float]) -> None:
        self._name, self._text = name, text
        self._edges = np.array(edges, dtype=np.float64)
        self._state = (np.zeros(len(edges) + 1, dtype=np.int64), 0.0)

    def observe(self, values: Sequence[float], counts: Sequence[int]) -> None:
        """Adds each value as often as its count says. One thread at a time; readers see all of a call or nothing."""
        buckets, total = self._state
        places = np.searchsorted(self._edges, np.array(values, dtype=np.float64), side="left")
        buckets = buckets + np.bincount(places, np.array(counts), minlength=buckets.size).astype(np.int64)
        self._state = buckets, total + float(np.dot(values, counts))

    def collect(self) -> list[HistogramMetricFamily]:
        """The one family."""
        buckets, total = self._state
        names = [*map(str, self._edges.tolist()), "+Inf"]
        pairs = list(zip(names, map(float, accumulate(buckets.tolist())), strict=True))
        return [HistogramMetricFamily(self._name, self._text, buckets=pairs, sum_value=total)]


class Watched(Protocol):
    """What is read of a replica."""

    tally: Tally

    @property
    def lag_commits(self) -> int:
        """Commits that it is known to be behind."""


class Held(Collector):
    """What a replica holds, and what its cache did.

    Args:
        tally: Of the cache.
        shard: The rows; None before the first bootstrap.
    """

    def __init__(self, tally: Tally, shard: Callable[[], RowSet | None]) -> None:
        self._tally, self._shard = tally, shard

    def collect(self) -> list[Metric]:
        """Counters of the cache, rows and bytes of each table, bytes of everything."""
        tally = self._tally
        found: list[Metric] = [
            CounterMetricFamily(f"dolmen_replica_{name}", text, value)
            for name, text, value in (
                ("hit", "Ids looked up that were in memory, of a cached replica.", tally.hits),
                ("miss", "Ids looked up that were not in memory.", tally.misses),
                ("fetched", "Ids that the store was asked for.", tally.fetched),
                ("unanswered", "Ids that the store gave no answer for; they score as unknown.", tally.failed),
                ("evicted", "Rows that left memory for others.", tally.evicted),
            )
        ]
        rows = GaugeMetricFamily("dolmen_replica_rows", "Rows in the replica's memory.", labels=["table"])
        held = GaugeMetricFamily("dolmen_replica_bytes", "What they take at most, index included.", labels=["table"])
        shard = self._shard()
        for t, table in enumerate(shard.tables if shard else ()):
            assert shard is not None  # noqa: S101 - it has tables
            rows.add_metric([table.name], int(shard.counts[t]))
            held.add_metric([table.name], shard.held_bytes(t))
        total = GaugeMetricFamily(
            "dolmen_replica_memory_bytes", "Memory of rows, headers and index.", shard.nbytes if shard else 0
        )
        return [*found, rows, held, total]


class RankerMetrics:
    """The ranker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        ProcessCollector(registry=r)
        self._seconds = Histogram("dolmen_rank_seconds", "Time of a ranking request.", buckets=_RANK_S, registry=r)
        self._candidates = Histogram(
            "dolmen_rank_candidates", "Candidates of a ranking request.", buckets=_CANDIDATES, registry=r
        )
        self._requests = Counter("dolmen_rank_requests", "Ranking requests.", ["status"], registry=r)
        self.events = Counter("dolmen_events", "Events that came by HTTP.", ["outcome"], registry=r)
        self.impressions = Counter("dolmen_impressions", "Impressions logged, acknowledged by Kafka.", registry=r)
        self.impressions_dropped = Counter(
            "dolmen_impressions_dropped", "Impressions that were to be logged and were not.", ["reason"], registry=r
        )
        for reason in ("full", "stopped", "too_large", "schema"):
            self.impressions_dropped.labels(reason)
        self.feature_reads_failed = Counter(
            "dolmen_feature_reads_failed", "Times that Redis did not give the stored features.", registry=r
        )
        self.lag_commits = Gauge(
            "dolmen_replica_lag_commits", "Commits that the replica is known to be behind.", registry=r
        )
        self.commit = Gauge("dolmen_replica_commit", "Number of the commit that scores.", registry=r)
        self.examples = Counter("dolmen_replica_examples", "Examples in the commits that were tailed.", registry=r)
        self.bootstraps = Counter("dolmen_replica_bootstraps", "Times that the replica started anew.", registry=r)
        Counter("dolmen_replica_miss", "Rows read from the store since they were not here.", registry=r)
        self.freshness = CountedHistogram(
            "dolmen_freshness_seconds", "From an example's append to Kafka until it scores here.", _FRESHNESS_S
        )
        r.register(self.freshness)
        self._requests.labels("200")

    def watch(self, replica: Watched, shard: Callable[[], RowSet | None]) -> None:
        """Says where the replica's lag, what its cache did and what its shard holds are read from."""
        self.lag_commits.set_function(lambda: replica.lag_commits)
        self.registry.register(Held(replica.tally, shard))

    def ranked(self, status: int, seconds: float, candidates: int) -> None:
        """Counts a ranking request; time and candidates only of one that was answered."""
        self._requests.labels(str(status)).inc()
        if status == 200:
            self._seconds.observe(seconds)
            self._candidates.observe(candidates)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition that an ``Accept`` header asks for, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type
