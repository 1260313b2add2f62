"""What the running stack says about itself while it learns, read from its Prometheus endpoints."""

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

_INTERVAL_S = 0.5
_TIMEOUT_S = 2.0
_SUMMED = ("dolmen_store_rows", "dolmen_consumer_lag", "dolmen_joiner_pending")

Buckets = Mapping[float, float]
"""Cumulative counts of a histogram by upper edge in seconds."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Live numbers; None where no process tells.

    Attributes:
        online_auc: By task, over the whole run.
        examples: Learned so far, of the task that has most.
        rows: Of all tables.
        consumer_lag: Records that trainer and joiner have not read yet.
        pending: Impressions that wait for the end of their window.
        freshness: The histogram of seconds from append to replica.
    """

    online_auc: Mapping[str, float] = field(default_factory=dict)
    examples: int | None = None
    rows: int | None = None
    consumer_lag: int | None = None
    pending: int | None = None
    freshness: Buckets = field(default_factory=dict)

    def freshness_p50_s(self, since: "Gauges | None" = None) -> float | None:
        """The median freshness, of all examples or of those after an earlier reading."""
        before = since.freshness if since is not None else {}
        counts = {edge: count - before.get(edge, 0.0) for edge, count in self.freshness.items()}
        if any(count < 0 for count in counts.values()):
            counts = dict(self.freshness)  # the process was restarted since
        return quantile(counts, 0.5)


def quantile(buckets: Buckets, q: float) -> float | None:
    """A quantile of a histogram, by linear interpolation inside its bucket; None if it is empty.

    >>> quantile({0.1: 5, 0.2: 10, math.inf: 10}, 0.7)
    0.14
    """
    edges = sorted(buckets)
    if not edges or buckets[edges[-1]] <= 0:
        return None
    rank = q * buckets[edges[-1]]
    low, below = 0.0, 0.0
    for edge in edges:
        if buckets[edge] >= rank:
            share = (rank - below) / (buckets[edge] - below) if buckets[edge] > below else 0.0
            return low if edge == math.inf else round(low + share * (edge - low), 6)
        low, below = edge, buckets[edge]
    return None


def read_gauges(texts: Iterable[str]) -> Gauges:
    """The numbers in the answers of several metrics endpoints.

    Raises:
        ValueError: If an answer is not in the text format of Prometheus.
    """
    auc: dict[str, float] = {}
    freshness: dict[float, float] = {}
    sums: dict[str, float] = {}
    examples: list[float] = []
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "dolmen_online_auc" and sample.labels.get("window") == "all":
                    auc[sample.labels.get("task", "")] = sample.value
                elif sample.name == "dolmen_freshness_seconds_bucket":
                    edge = float(sample.labels["le"])
                    freshness[edge] = freshness.get(edge, 0.0) + sample.value
                elif sample.name == "dolmen_examples_total":
                    examples.append(sample.value)
                elif sample.name in _SUMMED:
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return Gauges(
        online_auc={task: value for task, value in auc.items() if not math.isnan(value)},
        examples=int(max(examples)) if examples else None,
        rows=_whole(sums.get("dolmen_store_rows")),
        consumer_lag=_whole(sums.get("dolmen_consumer_lag")),
        pending=_whole(sums.get("dolmen_joiner_pending")),
        freshness=freshness,
    )


def _whole(value: float | None) -> int | None:
    return None if value is None or math.isnan(value) else int(value)


class GaugeReader:
    """Reads the endpoints twice a second on a thread of its own, from ``with`` to its end.

    Args:
        urls: The endpoints. One that does not answer is left out of the reading.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._latest = Gauges()
        self._first: Gauges | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)

    def latest(self) -> Gauges:
        """The last reading."""
        return self._latest

    def first(self) -> Gauges | None:
        """The first reading, from before the replay; None until there is one."""
        return self._first

    def read(self) -> Gauges:
        """Reads all endpoints now."""
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
            return self._read(client)

    def __enter__(self) -> Self:
        if self._urls:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_S)

    def _run(self) -> None:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
            while True:
                self._read(client)
                if self._ended.wait(_INTERVAL_S):
                    return

    def _read(self, client: httpx.Client) -> Gauges:
        texts = []
        for url in self._urls:
            try:
                texts.append(client.get(url).raise_for_status().text)
            except httpx.HTTPError:
                continue
        try:
            self._latest = read_gauges(texts)
        except (ValueError, KeyError):
            return self._latest
        if self._first is None and texts:
            self._first = self._latest
        return self._latest
