"""The read side: a shard that follows the commit log, whole or as far as it is asked for."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from embedding_store.bootstrap import Schema, Snapshot, bootstrap, whole
from embedding_store.cached_shard import CachedShard, Misses, Tally
from embedding_store.commit import ROOT, Commit, CommitId, decode
from embedding_store.errors import LogTrimmed, StoreError
from embedding_store.keys import Keys
from embedding_store.log import CommitLog, Entry
from embedding_store.misses import Fetcher
from embedding_store.redis_client import connect
from embedding_store.serving import Codec
from embedding_store.settings import StoreSettings
from embedding_store.shard import Shard

_log = logging.getLogger(__name__)
_BLOCK_MS = 100
_RETRY_S = 0.5
_LOOK_S = 1.0


class Follower(Protocol):
    """Who wants to know what the replica applies. Called with the replica's lock held."""

    def restarted(self, snapshot: Snapshot) -> None:
        """The replica starts anew from a snapshot."""

    def applied(self, commit_id: CommitId, commit: Commit) -> None:
        """The replica has applied one more commit."""


@dataclass(frozen=True, slots=True)
class Holding:
    """How a replica holds rows.

    Attributes:
        codec: Of the vectors.
        cache_bytes: How much memory rows may take; the others stay in the store. None: all are held.
    """

    codec: Codec = "float32"
    cache_bytes: int | None = None


class Replica:
    """Follows one shard's log in a thread of its own.

    Readers take `lock` while they read the snapshot's shard, so that they see a whole commit. If the replica is cached,
    they then take the shard's misses, and if there are any, call :meth:`fetch` without the lock and read again.

    Args:
        settings: Where the store is.
        follower: Is told of everything that is applied.
        clock: Seconds, monotonic.
        holding: How rows are held.

    Attributes:
        tally: What caching did.
    """

    def __init__(
        self,
        settings: StoreSettings,
        follower: Follower,
        clock: Callable[[], float] = time.monotonic,
        holding: Holding = Holding(),
    ) -> None:
        self.tally = Tally()
        self._holding = holding
        self._fetcher = None if holding.cache_bytes is None else Fetcher(settings, clock)
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
        if self._fetcher is not None:
            self._fetcher.close()

    @property
    def age_ms(self) -> float | None:
        """Time since the replica was last at the log's end; None if it never was."""
        return None if self._at_end is None else (self._clock() - self._at_end) * 1000

    @property
    def lag_commits(self) -> int:
        """How many commits the replica was behind when it last looked."""
        return max(0, self._head.seq - (self.snapshot.id.seq if self.snapshot else 0))

    def fetch(self, shard: Shard, misses: Misses) -> bool:
        """Reads rows that a shard of this replica does not have in memory, in one round trip; not under the lock.

        Args:
            shard: Whose rows are missing.
            misses: As it gave them.

        Returns:
            Whether it is worth while to look up again; False if the store does not answer.

        Raises:
            BadBytes: If a stored row cannot be read.
        """
        if self._fetcher is None or not isinstance(shard, CachedShard):
            return False
        with self.lock:
            begun = shard.begin_fetch()
        stored = None
        try:
            stored = self._fetcher.fetch({shard.tables[table].name: ids for table, ids in misses.items()})
        finally:
            with self.lock:
                self._settle(shard, misses, stored)
                shard.end_fetch(begun)
        return stored is not None

    def _settle(self, shard: CachedShard, misses: Misses, stored: dict[str, list[bytes | None]] | None) -> None:
        asked = sum(ids.size for ids in misses.values())
        self.tally.fetched += asked
        if stored is None:
            self.tally.failed += asked
        else:
            shard.settle_misses(misses, stored)

    def make_shard(self, schema: Schema, layouts: bytes, tally: Tally | None = None) -> Shard:
        """An empty shard as this replica holds rows."""
        codec, budget = self._holding.codec, self._holding.cache_bytes
        if budget is None:
            return whole(False, codec)(schema, layouts)
        return CachedShard(
            schema.tables, schema.seed, schema.admission, layouts, codec, budget, Tally() if tally is None else tally
        )

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
        snapshot = bootstrap(
            log,
            learning=False,
            lease_ms=self._settings.lease,
            make=lambda schema, layouts: self.make_shard(schema, layouts, self.tally),
            ahead_bytes=self._settings.log_bytes // 4,
            heard=self._hear,
        )
        if snapshot is None:
            return False
        with self.lock:
            self._follower.restarted(snapshot)
            self.snapshot = snapshot
        self._head, self._at_end, self.error = snapshot.id, self._clock(), None
        return True

    def _hear(self, head: CommitId) -> None:
        self._head = head

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
            if entries and now - looked < _LOOK_S:
                self._at_end = now if len(entries) < 8 else self._at_end
                continue
            looked = now
            state = log.state()
            self._head = state.head
            self._fold(snapshot, state.mark)
            if self._head < snapshot.id or (self._head != snapshot.id and not log.read(snapshot.id, count=1)):
                raise LogTrimmed(f"the log ends at {self._head}, this replica is at {snapshot.id}")
            if self._head == snapshot.id:
                self._at_end, self.error = now, None

    def _fold(self, snapshot: Snapshot, mark: CommitId) -> None:
        """Lets a cached shard know what the stored rows hold by now."""
        shard = snapshot.shard
        if not isinstance(shard, CachedShard):
            return
        if mark.seq < shard.folded:
            raise LogTrimmed(f"the stored rows are as of commit {mark}, and had been at {shard.folded}")
        with self.lock:
            shard.fold_to(mark.seq)
        if shard.is_worn:
            raise LogTrimmed("rows have other widths than before, and their old places take too much memory")

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
