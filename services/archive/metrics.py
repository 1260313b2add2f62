"""What the archiver tells Prometheus."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from trainer.exporter import Exporter

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ArchiveMetrics(Exporter):
    """The archiver's metrics, in a registry of their own."""

    def __init__(self) -> None:
        super().__init__()
        r = self.registry
        self.messages = Counter("dolmen_archive_messages", "Messages archived.", registry=r)
        self.bytes = Counter("dolmen_archive_bytes", "Bytes of the files that hold them.", registry=r)
        self.files = Counter("dolmen_archive_files", "Files written.", registry=r)
        self.lost = Counter("dolmen_archive_lost", "Offsets gone from Kafka before they were archived.", registry=r)
        self.flush_seconds = Histogram(
            "dolmen_archive_flush_seconds", "Time of a flush, waiting included.", buckets=_SECONDS, registry=r
        )
        self._lag = Gauge(
            "dolmen_archive_lag", "Messages that are not in the archive yet.", ["topic", "partition"], registry=r
        )

    def refresh(self, lag: Mapping[tuple[str, int], int]) -> None:
        """Sets the gauges."""
        for (topic, partition), left in lag.items():
            self._lag.labels(topic, str(partition)).set(left)
