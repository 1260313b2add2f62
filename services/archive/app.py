"""The archiver's loop, wired: Kafka -> what is held -> files."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from services.archive.errors import ArchiveUnavailable
from services.archive.metrics import ArchiveMetrics
from services.archive.storage import Storage
from services.archive.writer import Writer
from services.archive_settings import ArchiveSettings
from trainer.connection import kafka_options
from trainer.cursor import Cursor
from trainer.errors import EventsUnavailable
from trainer.settings import EventsSettings
from trainer.topics import Topics

_log = logging.getLogger(__name__)
_POLL_MS = 100
_POLL_RECORDS = 5000
_REFRESH_S = 1.0
_RETRY_S = 0.5
_WARN_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ArchiverConfig:
    """All that one archiver process needs to know."""

    archive: ArchiveSettings
    path: str
    events: EventsSettings
    metrics_host: str
    metrics_port: int


class Stopped(Exception):
    """The archiver was asked to end while it waited."""


class Archiver:
    """One archiver process.

    Args:
        config: Its settings.
        stop: Ends the loop: what was read is written first.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, config: ArchiverConfig, stop: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._stop = stop
        self._clock = clock
        options = kafka_options(config.events)
        self._topic = config.events.topics.examples
        self._topics = Topics(options)
        # What Kafka has lost cannot be archived any more. It is counted, and what is there is archived.
        self._cursor = Cursor(self._topic, self._topics, options, "earliest", config.events.partitions)
        self._writer = Writer(Storage(config.path), self._topic, config.events.max_ahead)
        self._metrics = ArchiveMetrics()
        self._warned = -_WARN_S

    def run(self) -> None:
        """Archives until asked to stop.

        Raises:
            ArchiveError: If the folder is no archive of this topic.
            ArchiveOvertaken: If another archiver writes there now.
            LogLost: If Kafka's log was cut below what is archived.
        """
        self._metrics.serve(self._config.metrics_host, self._config.metrics_port)
        try:
            while not self._stop.is_set():
                self._open()
                self._loop()
        except Stopped:
            _log.warning("ended while waiting; what is not written will be read again")
        finally:
            self._metrics.close()
            self._cursor.close()
            self._topics.close()

    def _open(self) -> None:
        """Goes to where the archive ends."""
        known = self._patiently(self._writer.open)
        self._patiently(lambda: self._cursor.open(known, "earliest"))
        found = self._cursor.position()
        lost = self._patiently(lambda: self._writer.go_on(found))
        if lost:
            self._metrics.lost.inc(lost)
            _log.warning("%d offsets were gone from Kafka before they were archived", lost)
        if known.topic_id not in (None, found.topic_id):
            _log.warning("topic %s was made anew; what it held and was not archived is lost", self._topic)
        self._losses = self._cursor.losses
        self._refreshed = 0.0
        _log.info("archiving topic %s from %s", self._topic, dict(sorted(found.offsets.items())))

    def _loop(self) -> None:
        """Until asked to stop, or until Kafka's log was lost: then from :meth:`_open` on."""
        settings = self._config.archive
        since = self._clock()
        while not self._stop.is_set():
            records = self._patiently(lambda: self._cursor.poll(_POLL_MS, _POLL_RECORDS))
            if not len(self._writer):
                since = self._clock()
            self._writer.add(records)
            is_due = (self._clock() - since) * 1000 >= settings.flush_interval
            if len(self._writer) and (is_due or self._writer.message_bytes >= settings.flush_bytes):
                self._flush()
            if self._clock() - self._refreshed >= _REFRESH_S:
                self._refresh()
            if self._cursor.losses != self._losses:
                return
        if len(self._writer):
            self._flush()

    def _flush(self) -> None:
        """Writes what is held, if it surely is of this topic."""
        start = self._clock()
        self._patiently(self._cursor.check)
        if self._cursor.losses != self._losses:
            return
        passed = self._patiently(self._cursor.passed)
        flushed = self._patiently(lambda: self._writer.flush(passed))
        self._metrics.messages.inc(flushed.messages)
        self._metrics.files.inc(flushed.files)
        self._metrics.bytes.inc(flushed.file_bytes)
        self._metrics.flush_seconds.observe(self._clock() - start)

    def _refresh(self) -> None:
        self._refreshed = self._clock()
        with suppress(EventsUnavailable):
            self._cursor.check()
            held = self._writer.held()
            left = self._cursor.left()
            self._metrics.refresh({(self._topic, p): count + held.get(p, 0) for p, count in left.items()})

    def _patiently(self, call: Callable[[], T]) -> T:
        """Calls until Kafka or the file system answers.

        Raises:
            Stopped: If the archiver was asked to end meanwhile.
        """
        while True:
            try:
                return call()
            except (EventsUnavailable, ArchiveUnavailable) as error:
                if self._clock() - self._warned >= _WARN_S:
                    self._warned = self._clock()
                    _log.warning("waiting: %s", error)
                if self._stop.wait(_RETRY_S):
                    raise Stopped from error
