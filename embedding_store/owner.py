"""The owner of a shard: restores it, commits to it, and folds its log in the background. There is one at a time."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from embedding_store.bootstrap import Schema, Snapshot, bootstrap, stored_schema, whole
from embedding_store.bounded_shard import BoundedShard
from embedding_store.commit import ROOT, Commit, CommitId, encode
from embedding_store.errors import StoreEmptied, StoreUnavailable
from embedding_store.keys import Keys
from embedding_store.log import CommitLog, Entry, epoch_number
from embedding_store.materializer import Materializer
from embedding_store.proposal import Proposal, fulfil, read_proposals
from embedding_store.redis_client import connect
from embedding_store.server import keep_hashes_small, refuse_eviction
from embedding_store.settings import StoreSettings
from embedding_store.shard import Shard
from embedding_store.stored_rows import StoredRows

T = TypeVar("T")
_log = logging.getLogger(__name__)
_BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_PATIENCE_S = 1.0
"""How long waiting for room in the log is nothing to tell."""


class Owner:
    """Holds one shard's epoch.

    Args:
        settings: Where the store is.
        waiting: Called between attempts while Redis does not answer; it may raise to give up.
        memory_budget: Bytes that the shard's rows may take; None: all of them are held.
    """

    def __init__(
        self,
        settings: StoreSettings,
        waiting: Callable[[StoreUnavailable], None] = lambda error: None,
        memory_budget: int | None = None,
    ) -> None:
        self._settings = settings
        self._waiting = waiting
        self._log = CommitLog(connect(settings), Keys(settings.prefix))
        self._epoch = ""
        self.head = ROOT
        self._sizes: deque[tuple[CommitId, int]] = deque()
        self._changed = threading.Condition()
        self._stop = False
        self._thread: threading.Thread | None = None
        self._materializer: Materializer | None = None
        self._failure: Exception | None = None
        self._fold_error = ""
        self._in_a_hurry = False
        self._stored = StoredRows(self._log, self._folded, self._patiently)
        self._budget = memory_budget

    def open(self, define: Callable[[bytes], Schema] = stored_schema) -> Snapshot | None:
        """Fences every earlier owner, then restores. May be called again, after the store went back in time.

        Args:
            define: The tables to hold, from the stored definition.

        Returns:
            The shard as of its last commit; None for an empty store.

        Raises:
            ServerEvicts: If Redis would throw rows away when its memory is full.
            StoreEmptied: If this owner has committed, and nothing is left.
        """
        self.close()
        self._patiently(lambda: refuse_eviction(self._log.client))
        if self._settings.tune_server:
            self._patiently(lambda: keep_hashes_small(self._log.client))
        self._epoch = self._patiently(self._log.raise_epoch)
        materializer = self._patiently(lambda: Materializer(self._log, self._epoch, self._settings.log_bytes // 4))
        self._materializer = materializer
        while self._budget is not None and self._patiently(materializer.fold):
            pass  # rows may leave the memory while they are read only if the store has them as they are
        snapshot = self._patiently(lambda: bootstrap(self._log, True, self._settings.lease, define, self._make))
        if snapshot is None and self.head != ROOT:
            raise StoreEmptied(f"the store is empty, but commit {self.head} had been made there")
        self.head = snapshot.id if snapshot else ROOT
        self._sizes = deque(snapshot.tail_bytes if snapshot else ())
        self._stop, self._failure = False, None
        self._thread = threading.Thread(target=self._fold, args=(materializer,), name="materializer", daemon=True)
        self._thread.start()
        return snapshot

    def fresh(self, schema: Schema) -> Shard:
        """An empty shard, for an empty store."""
        return self._make(schema, b"")

    def _make(self, schema: Schema, layouts: bytes) -> Shard:
        if self._budget is None:
            return whole(True)(schema, layouts)
        return BoundedShard(self._stored, self._budget, schema.tables, schema.seed, schema.admission, layouts)

    def commit(self, commit: Commit) -> CommitId:
        """Appends one commit; waits while Redis does not answer, or while too much of the log is not folded.

        Raises:
            Fenced: If another owner has taken the shard. End, and change nothing.
            LineageBroken: If the store went back in time. Call :meth:`open` and go on from there.
            StoreEmptied: If nothing is left in the store.
        """
        new = CommitId(self.head.seq + 1, epoch_number(self._epoch))
        data = encode(commit)
        self._wait_for_room(len(data))
        self._patiently(lambda: self._log.append(self._epoch, self.head, new, data))
        if self._materializer is not None:
            self._materializer.offer(Entry(new, self.head, data))
        self.head = new
        with self._changed:
            self._sizes.append((new, len(data)))
            self._changed.notify_all()
            if self._failure is not None:
                raise self._failure
        return new

    def fold(self) -> None:
        """Waits until every commit is in the rows; errors as in :meth:`check`."""
        since = time.monotonic()
        with self._changed:
            self._in_a_hurry = True
            self._changed.notify_all()
            try:
                while self._failure is None and self._sizes:
                    if time.monotonic() - since > _PATIENCE_S:
                        self._waiting(StoreUnavailable(self._fold_error or "commits are being folded"))
                    self._changed.wait(0.1)
            finally:
                self._in_a_hurry = False
        self.check()

    def proposals(self, dims: dict[str, int]) -> list[Proposal]:
        """The dimension plans that wait to be taken over; arguments and errors as in :func:`read_proposals`."""
        return read_proposals(self._log, dims)

    def fulfil(self, proposal: Proposal) -> None:
        """Takes away a dimension plan that is in force and committed."""
        fulfil(self._log, proposal)

    def check(self) -> None:
        """Tells what the materializer has met, for an owner that has nothing to commit.

        Raises:
            Fenced: If another owner has taken the shard.
            LineageBroken: If the store went back in time.
            StoreEmptied: If nothing is left in the store.
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure

    @property
    def unfolded_bytes(self) -> int:
        """Bytes of commits that are not in the rows yet."""
        with self._changed:
            return self._size()

    def close(self, fold: bool = True) -> None:
        """Stops the materializer and hangs up; idempotent.

        Args:
            fold: Whether it may first finish what it is at.
        """
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(self._settings.timeout / 1000 if fold else 0.0)
            self._thread = None
        self._log.client.close()

    def _patiently(self, call: Callable[[], T]) -> T:
        attempt = 0
        while True:
            try:
                return call()
            except StoreUnavailable as error:
                self._waiting(error)
                time.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
                attempt += 1

    def _wait_for_room(self, size: int) -> None:
        """Waits for the materializer, unless it has ended: then the append itself says best what is wrong."""
        since = time.monotonic()
        with self._changed:
            while self._failure is None and (reason := self._too_full(size)):
                if time.monotonic() - since > _PATIENCE_S:
                    self._waiting(StoreUnavailable(self._fold_error or reason))
                self._changed.wait(0.1)

    def _too_full(self, size: int) -> str | None:
        """Why the log has no room for so many bytes more."""
        limit = self._settings.log_bytes
        if self._sizes and self._size() + size > limit // 2:
            return "the commit log is full, and folding it takes its time; store.log_bytes bounds it"
        held = self._materializer.held_bytes if self._materializer is not None else 0
        if held and held + self._size() + size > limit:
            return "the commit log is full, and a reader that bootstraps still needs it; store.log_bytes bounds it"
        return None

    def _size(self) -> int:
        return sum(size for _, size in self._sizes)

    def _folded(self) -> int:
        """Number of the last commit that is wholly in the rows."""
        return self._materializer.mark.seq if self._materializer is not None else 0

    def _fold(self, materializer: Materializer) -> None:
        interval_s = self._settings.fold_interval / 1000
        due = time.monotonic() + interval_s
        while True:
            with self._changed:
                while not self._stop and time.monotonic() < due and not self._is_urgent():
                    self._changed.wait(max(0.0, due - time.monotonic()))
                if self._stop:
                    return
            try:
                while materializer.fold() and not self._stop:
                    self._forget(materializer.mark)
                self._forget(materializer.mark)
                self._fold_error = ""
            except StoreUnavailable as error:
                self._fold_error = f"folding waits: {error}"
                _log.warning("folding waits: %s", error)
                time.sleep(_BACKOFF_S[-1])
            except Exception as error:
                with self._changed:
                    if materializer is self._materializer:
                        self._failure = error
                    self._changed.notify_all()
                return
            due = time.monotonic() + interval_s

    def _is_urgent(self) -> bool:
        return self._in_a_hurry or self._size() > self._settings.log_bytes // 4

    def _forget(self, mark: CommitId) -> None:
        with self._changed:
            while self._sizes and self._sizes[0][0] <= mark:
                self._sizes.popleft()
            self._changed.notify_all()
