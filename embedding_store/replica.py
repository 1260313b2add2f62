"""The read side: a shard that follows the commit log."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from embedding_store.bootstrap import Snapshot, bootstrap
from embedding_store.commit import ROOT, Commit, CommitId, decode
from embedding_store.errors import LogTrimmed, StoreError
from embedding_store.keys import Keys
from embedding_store.log import CommitLog, Entry
from embedding_store.redis_client import connect
from embedding_store.settings import StoreSettings

_log = logging.getLogger(__name__)
_BLOCK_MS = 100
_RETRY_S = 0.5


class Follower(Protocol):
    """Who wants to know what the replica applies. Called with the replica's lock held."""

    def restarted(self, snapshot: Snapshot) -> None:
        """The replica starts anew from a snapshot."""

    def applied(self, commit_id: CommitId, commit: Commit) -> None:
        """The replica has applied one more commit."""


class Replica:
    """Follows one shard's log in a thread of its own.

    Readers take `lock` while they read the snapshot's shard, so that they see a whole commit.

    Args:
        settings: Where the store is.
        follower: Is told of everything that is applied.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, settings: StoreSettings, follower: Follower, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lock = threading.Lock()
        self.snapshot: Snapshot | None = None
        self._settings = settings
        self._follower = follower
        self._clock = clock
        self._at_end: float | None = None
        self._head = ROOT
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
        self.error: str | None = "the replica has not started yet"

    def start(self) -> None:
        """Begins to follow; does not wait."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join(2 * self._settings.timeout / 1000)

    @property
    def age_ms(self) -> float | None:
        """Time since the replica was last at the log's end; None if it never was."""
        return None if self._at_end is None else (self._clock() - self._at_end) * 1000

    @property
    def lag_commits(self) -> int:
        """How many commits the replica was behind when it last looked."""
        return max(0, self._head.seq - (self.snapshot.id.seq if self.snapshot else 0))

    def _run(self) -> None:
        log = CommitLog(connect(self._settings), Keys(self._settings.prefix))
        while not self._stop.is_set():
            try:
                if self._bootstrap(log):
                    self._follow(log)
                else:
                    self.error = "the store is empty: nothing was committed yet"
                    self._stop.wait(_RETRY_S / 2)
            except LogTrimmed as error:
                _log.warning("the replica starts anew: %s", error)
            except StoreError as error:
                self.error = str(error)
                _log.warning("the replica waits: %s", error)
                self._stop.wait(_RETRY_S)
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                _log.exception("the replica starts anew")
                self._stop.wait(_RETRY_S)
        log.client.close()

    def _bootstrap(self, log: CommitLog) -> bool:
        snapshot = bootstrap(log, learning=False, lease_ms=self._settings.lease)
        if snapshot is None:
            return False
        with self.lock:
            self._follower.restarted(snapshot)
            self.snapshot = snapshot
        self._head, self._at_end, self.error = snapshot.id, self._clock(), None
        return True

    def _follow(self, log: CommitLog) -> None:
        """Applies entries as they come, until one does not follow."""
        snapshot = self.snapshot
        assert snapshot is not None  # noqa: S101 - the caller has just set it
        looked = 0.0
        while not self._stop.is_set():
            entries = log.read(snapshot.id, count=8, block_ms=_BLOCK_MS)
            for entry in entries:
                if not self._apply(snapshot, entry):
                    return
            now = self._clock()
            if entries and now - looked < 1.0:
                self._at_end = now if len(entries) < 8 else self._at_end
                continue
            looked = now
            self._head = log.state().head
            if self._head < snapshot.id or (self._head != snapshot.id and not log.read(snapshot.id, count=1)):
                raise LogTrimmed(f"the log ends at {self._head}, this replica is at {snapshot.id}")
            if self._head == snapshot.id:
                self._at_end, self.error = now, None

    def _apply(self, snapshot: Snapshot, entry: Entry) -> bool:
        if entry.prev != snapshot.id:
            raise LogTrimmed(f"commit {entry.id} follows {entry.prev}, this replica is at {snapshot.id}")
        commit = decode(entry.data)
        if commit.definition != snapshot.definition:
            return False
        with self.lock:
            snapshot.apply(entry.id, commit)
            self._follower.applied(entry.id, commit)
        self._head = max(self._head, entry.id)
        return True
