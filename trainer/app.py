"""The trainer's loop, wired: Kafka -> batches -> scores and gradients -> commits."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from embedding_store.bootstrap import Schema, Snapshot
from embedding_store.commit import Commit
from embedding_store.errors import BadBytes, LineageBroken, StoreEmptied, StoreUnavailable
from embedding_store.owner import Owner
from embedding_store.proposal import TAKEOVERS
from trainer.appended import Appended
from trainer.errors import BadRecord
from trainer.feed import Feed
from trainer.learner import Learner
from trainer.live_search import LiveSearch
from trainer.message_source import MessageSource
from trainer.metrics import TrainerMetrics
from trainer.patience import Patience, Stopped
from trainer.pending import Pending, Run
from trainer.rescue import rescue
from trainer.restore import describe_changes, reconcile
from trainer.settings import TrainerConfig
from trainer.slices import Slices
from trainer.source import Source
from trainer.takeover import Takeover
from trainer.validation import Quality
from trainer.warmup import compile_kernels

_log = logging.getLogger(__name__)
_POLL_MS = 20
_POLL_RECORDS = 1000
_REFRESH_S = 1.0
_BACKLOG_SHARE = 256  # a batch takes at most this share of what is waiting


class Trainer:
    """One trainer process.

    Args:
        config: Its settings.
        stop: Ends the loop: what was learned is committed first.
        clock: Seconds, monotonic.
        source: Of messages; default: the examples in Kafka.
    """

    def __init__(
        self,
        config: TrainerConfig,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        source: MessageSource | None = None,
    ) -> None:
        self._config = config
        self._settings = config.trainer
        self._stop = stop
        self._clock = clock
        self._patience = Patience(stop, clock)
        self._source = source or Source(config.events, config.trainer.start)
        self._feed = Feed(self._source, self._patience)
        self._owner = Owner(config.store, self._patience.for_store, config.trainer.memory_budget)
        self._slices = Slices(config.trainer.slices, config.definition.features, config.trainer.slice_values)
        self._metrics = TrainerMetrics(
            [task.name for task in config.definition.tasks], self._slices, config.trainer.quality_window
        )
        self._timed = self._metrics.timed

    @property
    def qualities(self) -> dict[str, Quality]:
        """By task, the quality of all scores so far, each given before its example was learned from."""
        return self._metrics.qualities

    def run(self) -> None:
        """Restores, then learns until asked to stop, or until the source has ended.

        Raises:
            Fenced: If another trainer took the shard.
            StoreEmptied: If the store lost everything. What this trainer holds is in the rescue file then.
            DefinitionConflict: If the stored tables cannot serve the configured ones.
            LogLost: If Kafka lost its log and `events.on_lost_log` is "stop".
        """
        try:
            compile_kernels(self._config.definition)
            while True:
                self._restore()
                self._metrics.serve(self._config.metrics_host, self._config.metrics_port)
                try:
                    self._loop()
                    return
                except LineageBroken as error:
                    _log.warning("%s; restoring from it", error)
        except Stopped:
            _log.warning("ended while waiting; everything since commit %s will be read again", self._owner.head)
        except StoreEmptied as error:
            parts = {**self._learner.parts(), **self._takeover.parts()}
            shard, positions = self._learner.shard, self._positions.to_json()
            held = Snapshot(shard, self._owner.head, self._definition, positions, parts)
            raise StoreEmptied(f"{error}. {rescue(self._config.rescue, held)}") from error
        finally:
            self._metrics.close()
            self._owner.close()
            self._source.close()

    # Restoring

    def _restore(self) -> None:
        snapshot = self._owner.open(self._schema)
        definition = reconcile(self._config.definition, snapshot.definition if snapshot else b"")
        shard = snapshot.shard if snapshot else self._owner.fresh(self._schema(b""))
        self._learner = Learner(definition, shard)
        parts = snapshot.parts if snapshot else {}
        self._takeover = Takeover(self._owner, shard, parts.get(TAKEOVERS, b""), self._make_room)
        self._search = LiveSearch(self._settings, self._learner, self._takeover, self._metrics)
        self._read_plans()
        self._definition = definition.to_json()
        fresh = self._learner.load_parts(parts)
        changed = snapshot is None or snapshot.definition != self._definition
        if snapshot is not None:
            for line in describe_changes(snapshot.definition, definition) if changed else ():
                _log.warning("changed configuration: %s", line)
            for name in fresh:
                _log.warning("changed configuration: the dense weights %r start afresh", name)
        stored = snapshot.positions if snapshot else {}
        self._positions = self._feed.open(stored)
        self._pending = Pending(
            self._learner.scorer.featurizer, self._learner.scorer.tasks, self._config.events.max_ahead, self._slices
        )
        self._appended = Appended()
        self._examples = 0
        self._uncommitted = self._positions.to_json() != stored
        self._due = self._clock() + self._settings.commit_interval / 1000
        self._refreshed = 0.0
        self._left = 0
        self._silent_since = self._clock()
        if changed:
            self._commit()
        _log.info("restored commit %s: %d rows", self._owner.head, int(shard.counts.sum()))

    def _schema(self, stored: bytes) -> Schema:
        definition = reconcile(self._config.definition, stored)
        return Schema((*definition.tables, *definition.retired), definition.seed, definition.admission)

    # The loop

    def _loop(self) -> None:
        while not self._stop.is_set():
            wait_ms = max(0, min(_POLL_MS, round((self._due - self._clock()) * 1000)))
            self._poll(0 if self._pending.examples >= self._settings.batch_size else wait_ms)
            if self._settings.deterministic:
                self._learn_runs_deterministic()
            else:
                self._learn_runs()
            if self._uncommitted and (self._clock() >= self._due or self._examples >= self._settings.commit_examples):
                self._commit()
            if self._clock() - self._refreshed >= _REFRESH_S:
                self._refresh()
            if self._source.ended and self._pending.examples < self._settings.batch_size:
                if self._source.learns_rest:
                    self._learn_next(self._settings.batch_size, whole=False)
                break
        if self._uncommitted:
            self._commit()

    def _poll(self, timeout_ms: int) -> None:
        if self._pending.examples > 4 * self._settings.max_batch_size:
            return
        with self._timed("poll"):
            records = self._feed.poll(timeout_ms, _POLL_RECORDS)
        if records:
            self._silent_since = self._clock()
            with self._timed("decode"):
                self._pending.add(records)

    def _learn_runs(self) -> None:
        """Whole batches first.

        What is left only when a commit is due, so that a lone click does not wait for company.
        """
        size = self._settings.batch_size
        backlog = self._pending.examples + self._left
        size = min(max(size, backlog // _BACKLOG_SHARE), self._settings.max_batch_size)
        while self._examples < self._settings.commit_examples and self._learn_next(size):
            if self._clock() >= self._due:
                break
        if self._clock() >= self._due:
            self._learn_next(size, whole=False)
        if not len(self._pending) and not self._uncommitted:
            self._due = self._clock() + self._settings.commit_interval / 1000

    def _learn_runs_deterministic(self) -> None:
        """Runs of `batch_size`.

        An incomplete one only once its partition has been silent at its end for long enough.
        """
        size = self._settings.batch_size
        while self._learn_next(size):
            if self._clock() >= self._due:
                return
        silent_s = self._clock() - self._silent_since
        if len(self._pending) and silent_s * 1000 >= self._settings.deterministic_idle and self._source.at_end():
            self._learn_next(size, whole=False)

    def _learn_next(self, size: int, whole: bool = True) -> bool:
        """Learns from the next run; False if there is none."""
        run = self._pending.take(size, whole)
        if run is not None:
            self._learn(run)
        return run is not None

    def _learn(self, run: Run) -> None:
        self._takeover.at_message(run.messages[0].record.offset)
        faults = [(message, message.fault) for message in run.messages if message.fault is not None]
        if run.batch is not None:
            try:
                if not self._learner.shard.keep():
                    self._make_room()
                with self._timed("learn"):
                    scores = self._learner.score_and_learn(run.batch)
                    self._learner.shard.sweep(4 * len(run.batch))
                with self._timed("validate"):
                    self._metrics.learned(run.batch.labels, scores, run.batch.slices)
                self._examples += len(run.batch)
                self._appended.add(run.messages)
            except BadRecord as error:
                faults = [(message, message.fault or error) for message in run.messages]
        for message, fault in faults:
            self._source.dead_letter(message.record, fault.reason, fault.detail)
            self._metrics.dead_letters.labels(message.record.topic, fault.reason).inc()
        self._positions.pass_over(run.messages)
        self._uncommitted = True
        self._search.judge()

    # Committing

    def _commit(self) -> None:
        self._append()
        if self._takeover.due_at_commit:
            self._takeover.at_commit()
            self._append()
            with suppress(StoreUnavailable):
                self._takeover.confirm()

    def _append(self) -> None:
        start = self._clock()
        self._feed.settle()
        shard = self._learner.shard
        blocks, gone = shard.take_changes()
        commit = Commit(
            clock_ms=shard.clock_ms,
            definition=self._definition,
            positions=self._positions.to_json(),
            blocks=blocks,
            gone=gone,
            parts={**self._learner.parts(), **shard.parts(), **self._takeover.parts()},
            appended=self._appended.take(),
            examples=self._examples,
        )
        self._owner.commit(commit)
        self._source.commit_offsets(self._positions.by_topic())
        self._examples, self._uncommitted = 0, False
        now = self._clock()
        self._due = now + self._settings.commit_interval / 1000
        self._metrics.committed(now - start, commit.row_count)

    def _make_room(self) -> None:
        """Rows that changed can leave the memory once they are committed and folded."""
        self._append()
        self._owner.fold()
        if not self._learner.shard.keep():
            self._patience.warn("trainer.memory_budget: the rows of one batch take more than it leaves for rows")

    # Telling

    def _refresh(self) -> None:
        self._refreshed = self._clock()
        if not self._uncommitted:
            self._owner.check()
            self._feed.check()
        self._read_plans()
        if self._takeover.due_at_commit and not self._uncommitted:
            self._commit()
        lag = self._source.lag()
        self._left = sum(lag.values())
        self._metrics.refresh(self._learner.shard, lag, self._owner.unfolded_bytes, self._learner.search)

    def _read_plans(self) -> None:
        try:
            self._takeover.read()
        except BadBytes as error:
            self._patience.warn(str(error))
