"""What the trainer tells Prometheus."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from embedding_store.bounded_shard import BoundedShard
from embedding_store.shard import Shard
from trainer.exporter import Exporter
from trainer.health import Health
from trainer.search.metrics import SearchMetrics
from trainer.search.online import OnlineSearch
from trainer.slices import Slices
from trainer.validation import Progress, Quality

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ROWS = (1, 10, 100, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


class TrainerMetrics(Exporter):
    """The trainer's metrics, in a registry of their own.

    Args:
        tasks: Names of the tasks.
        slices: By whose values quality is told apart.
        window: Examples of the windowed metrics.
    """

    def __init__(self, tasks: Sequence[str], slices: Slices | None = None, window: int = 10_000) -> None:
        super().__init__()
        r = self.registry
        self._tasks = tuple(tasks)
        slices = slices or Slices()
        self.progress = [Progress(window, len(slices.names)) for _ in tasks]
        self._told = -1
        self._search: SearchMetrics | None = None
        self._examples = Counter("dolmen_examples", "Examples learned from.", ["task"], registry=r)
        labels = ["task", "window"]
        self._auc = Gauge("dolmen_online_auc", "AUC of scores given before learning.", labels, registry=r)
        self._logloss = Gauge("dolmen_online_logloss", "Log loss of scores given before learning.", labels, registry=r)
        self._entropy = Gauge(
            "dolmen_online_normalized_entropy", "Log loss by that of the base rate.", labels, registry=r
        )
        self._calibration = Gauge("dolmen_online_calibration", "Predicted by observed positives.", labels, registry=r)
        self._lag = Gauge("dolmen_consumer_lag", "Records left to read.", ["topic", "partition"], registry=r)
        self.dead_letters = Counter(
            "dolmen_dead_letters", "Messages not learned from.", ["topic", "reason"], registry=r
        )
        self._commit_seconds = Histogram("dolmen_commit_seconds", "Time of a commit.", buckets=_SECONDS, registry=r)
        self._commit_rows = Histogram("dolmen_commit_rows", "Rows of a commit.", buckets=_ROWS, registry=r)
        self._unfolded = Gauge("dolmen_log_unfolded_bytes", "Commits that are not in the rows yet.", registry=r)
        self._memory = Gauge("dolmen_trainer_bytes", "Memory of rows, index and filters.", registry=r)
        self._rows = Gauge("dolmen_store_rows", "Rows held.", ["table"], registry=r)
        self._bytes = Gauge("dolmen_store_bytes", "Bytes of the rows as stored, ids included.", ["table"], registry=r)
        self._batch = Histogram(
            "dolmen_batch_examples", "Examples of a batch.", buckets=[2**k for k in range(13)], registry=r
        )
        self.stages = Counter("dolmen_trainer_stage_seconds", "Where the trainer's time goes.", ["stage"], registry=r)
        self._ids = _Ids()
        r.register(self._ids)
        self._health = Health(tasks, slices)
        r.register(self._health)
        for task in tasks:
            self._examples.labels(task)

    @property
    def search(self) -> SearchMetrics:
        """Those of the live search; made when they are first asked for."""
        if self._search is None:
            self._search = SearchMetrics(self.registry, self.progress[0])
        return self._search

    @property
    def qualities(self) -> dict[str, Quality]:
        """By task, the quality of all scores so far."""
        return {task: progress.total() for task, progress in zip(self._tasks, self.progress, strict=True)}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the time that a stage of the loop takes."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.stages.labels(stage).inc(time.monotonic() - start)

    def committed(self, seconds: float, rows: int) -> None:
        """Counts a commit."""
        self._commit_seconds.observe(seconds)
        self._commit_rows.observe(rows)
        self.stages.labels("commit").inc(seconds)

    def learned(self, labels: NDArray[np.float32], scores: NDArray[np.float64], ids: NDArray[np.int64]) -> None:
        """Counts a batch: labels float32[B, T], NaN where absent, scores float64[B, T], ids of slices int64[B, S]."""
        self._batch.observe(labels.shape[0])
        for t, task in enumerate(self._tasks):
            self.progress[t].add(labels[:, t], scores[:, t], ids)
            self._examples.labels(task).inc(int((~np.isnan(labels[:, t])).sum()))

    def refresh(
        self,
        shard: Shard,
        lag: Mapping[tuple[str, int], int],
        unfolded_bytes: int,
        search: OnlineSearch | None = None,
    ) -> None:
        """Sets the gauges."""
        self._refresh_quality()
        for (topic, partition), left in lag.items():
            self._lag.labels(topic, str(partition)).set(left)
        self._unfolded.set(unfolded_bytes)
        self._memory.set(shard.nbytes)
        for t, table in enumerate(shard.tables):
            rows = int(shard.counts[t])
            self._rows.labels(table.name).set(rows)
            self._bytes.labels(table.name).set(shard.stored_bytes(t))
        if search is not None:
            self.search.refresh(search, shard)
        self._ids.shard = shard

    def _refresh_quality(self) -> None:
        told = sum(progress.count for progress in self.progress)
        if told == self._told:
            return
        self._told = told
        for task, progress in zip(self._tasks, self.progress, strict=True):
            self._set_quality(task, "all", progress.total())
            self._set_quality(task, str(progress.window), progress.recent())
        self._health.refresh(self.progress)

    def _set_quality(self, task: str, window: str, quality: Quality) -> None:
        for gauge, value in (
            (self._auc, quality.auc),
            (self._logloss, quality.log_loss),
            (self._entropy, quality.normalized_entropy),
            (self._calibration, quality.calibration),
        ):
            if not math.isnan(value):
                gauge.labels(task, window).set(value)


_COUNTED = (
    ("admitted", "dolmen_ids_admitted: Ids that got a row."),
    ("filtered", "dolmen_ids_filtered: Sightings of ids without a row that did not get one."),
    ("expired", "dolmen_rows_expired: Rows gone for not being seen."),
)
_COUNTED_IF_BOUNDED = (
    ("evicted", "dolmen_rows_evicted: Rows that left the memory and are in Redis only."),
    ("returned", "dolmen_rows_returned: Rows that came back from Redis."),
)


class _Ids(Collector):
    """Counters that the shard keeps."""

    shard: Shard | None = None

    def collect(self) -> list[CounterMetricFamily]:
        """One family a counter."""
        families = []
        for name, text in (*_COUNTED, *(_COUNTED_IF_BOUNDED if isinstance(self.shard, BoundedShard) else ())):
            metric, _, documentation = text.partition(": ")
            family = CounterMetricFamily(metric, documentation, labels=["table"])
            if self.shard is not None:
                for table, value in zip(self.shard.tables, getattr(self.shard, name).tolist(), strict=True):
                    family.add_metric([table.name], float(value))
            families.append(family)
        return families
