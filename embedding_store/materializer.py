"""Folds the commit log into the rows, in small atomic chunks, behind the owner's back.

Several commits are folded at once: of a row that changed in all of them only the last bytes are written. Each chunk
moves the mark with it and is refused once the epoch or the mark is another, so a stale materializer changes nothing.
A fold that was broken off is begun again from the commit before it: a chunk sets rows to what they are at its target
or later, so repeating it is harmless.
"""

import secrets
import threading
from collections import deque

from embedding_store.change import Change, batches
from embedding_store.commit import CommitId, decode
from embedding_store.errors import LineageBroken, LogTrimmed
from embedding_store.fold import Fold, grow
from embedding_store.log import CommitLog, Entry, refusal

_READ_BYTES = 1 << 20


class Materializer:
    """Folds and trims one shard's log for its owner.

    Args:
        log: Of the shard.
        epoch: The owner's.
        keep_bytes: How much folded log stays for readers that lag.

    Attributes:
        mark: The last commit that is wholly in the rows.
        known: The last commit that the owner knows of.
        held_bytes: Of the folded entries that are still there, if some of them only stay for a reader that bootstraps.
    """

    def __init__(self, log: CommitLog, epoch: str, keep_bytes: int) -> None:
        self._log = log
        self._epoch = epoch
        self._keep_bytes = keep_bytes
        state = log.state()
        self.mark = state.mark
        self._mark_text = state.mark_text
        self.known = state.head
        self._offered: deque[Entry] = deque()
        self._offered_bytes = 0
        self._lock = threading.Lock()
        self.held_bytes = 0
        self._folded: list[tuple[CommitId, int]] = []
        self._target, self._attempt, self._number = self.mark, "", 0

    def offer(self, entry: Entry) -> None:
        """Hands over what the owner has just committed, so that it need not be read back; thread-safe."""
        with self._lock:
            self.known = entry.id
            if self._offered_bytes + len(entry.data) <= self._keep_bytes:
                self._offered.append(entry)
                self._offered_bytes += len(entry.data)

    def fold(self, max_bytes: int = 32 << 20) -> int:
        """Folds what is past the mark, up to so many bytes of entries.

        Returns:
            Bytes of the entries folded; 0 if there were none.

        Raises:
            Fenced: If another owner has taken the shard.
            LogTrimmed: If the log does not follow on the mark.
            StoreUnavailable: If Redis did not answer. Call again.
        """
        self._sync()
        entries = self._read(max_bytes)
        if not entries:
            self._trim()
            return 0
        self._target, self._attempt, self._number = entries[-1].id, secrets.token_hex(4), 0
        fold = Fold([decode(entry.data) for entry in entries])
        sizes = grow(self._log, fold, self._step)
        changes = list(batches(fold.changes(self._log.keys, sizes)))
        for some in changes[:-1]:
            self._step(some)
        self._step(changes[-1], last=True)
        self.mark = self._target
        self._folded += [(entry.id, len(entry.data)) for entry in entries]
        self._trim()
        return sum(len(entry.data) for entry in entries)

    def _read(self, max_bytes: int) -> list[Entry]:
        """What follows on the mark, some at a time: an answer of many large entries would hold the server up."""
        entries: list[Entry] = []
        size, after, count = 0, self.mark, 1
        while size < max_bytes and (found := self._taken(after) or self._log.read(after, count)):
            for entry in found:
                if entry.prev != after:
                    raise LogTrimmed(f"commit {entry.id} follows {entry.prev}, not {after}")
                after = entry.id
                size += len(entry.data)
            entries += found
            count = max(1, min(16, _READ_BYTES * len(entries) // size))
        return entries

    def _taken(self, after: CommitId) -> list[Entry]:
        """The next entry, if it was handed over."""
        with self._lock:
            while self._offered and self._offered[0].id <= after:
                self._offered_bytes -= len(self._offered.popleft().data)
            if self._offered and self._offered[0].prev == after:
                entry = self._offered.popleft()
                self._offered_bytes -= len(entry.data)
                return [entry]
        return []

    def _step(self, changes: list[Change], last: bool = False) -> None:
        """One command. No other step has the same mark, so one that comes late is refused."""
        self._number += 1
        new = str(self._target) if last else f"{self.mark}>{self._target}#{self._attempt}.{self._number}"
        self._log.fold(self._epoch, self._mark_text, new, changes)
        self._mark_text = new

    def _sync(self) -> None:
        """Takes the mark as it stands: after an answer that was lost, it is ahead of what this materializer knows."""
        known = self.known  # before the state is read: the owner goes on committing
        state = self._log.state()
        if state.epoch != self._epoch:
            raise refusal(self._log.keys, self._epoch, state.epoch, state.head, known)
        if state.head < known:
            raise LineageBroken(
                f"{self._log.keys.log}: it ends at commit {state.head}, not {known}; the store went back in time"
            )
        self.mark, self._mark_text = state.mark, state.mark_text

    def _trim(self) -> None:
        """Drops what need not stay, unless a reader that bootstraps still needs it."""
        kept = sum(size for _, size in self._folded)
        drop = 0
        while drop < len(self._folded) - 1 and kept > self._keep_bytes:
            kept -= self._folded[drop][1]
            drop += 1
        if drop and (oldest := self._log.trim(self._epoch, self._folded[drop][0])) is not None:
            held = [size for commit, size in self._folded[:drop] if commit >= oldest]
            del self._folded[: drop - len(held)]
            self.held_bytes = kept + sum(held) if held else 0
