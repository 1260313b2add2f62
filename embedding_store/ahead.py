"""Entries of the log that come while the rows are being read, kept until the rows are there."""

from collections import deque
from collections.abc import Iterator

from embedding_store.commit import CommitId
from embedding_store.errors import LogTrimmed
from embedding_store.log import CommitLog, Entry


class Ahead:
    """Reads the log ahead, so that nothing needs to hold trimming back for long.

    Args:
        log: Of the shard.
        after: The commit that the entries follow on.
        limit_bytes: Of the entries kept; what comes then stays in the log, which a lease must hold.

    Attributes:
        at: The last commit that was read, from which on a lease must hold the log.
    """

    def __init__(self, log: CommitLog, after: CommitId, limit_bytes: int) -> None:
        self.at = after
        self._log = log
        self._room = limit_bytes
        self._entries: deque[Entry] = deque()

    def read(self) -> None:
        """Takes what has come, as far as there is room.

        Raises:
            LogTrimmed: If an entry in between is gone.
            StoreUnavailable: If Redis did not answer.
        """
        while self._room > 0 and (entries := self._log.read(self.at, count=4)):
            for entry in entries:
                if entry.prev != self.at:
                    raise LogTrimmed(f"commit {entry.id} follows {entry.prev}, not {self.at}")
                self.at = entry.id
                self._room -= len(entry.data)
                self._entries.append(entry)

    def entries(self) -> Iterator[Entry]:
        """The entries read ahead, each given once, oldest first."""
        while self._entries:
            entry = self._entries.popleft()
            self._room += len(entry.data)
            yield entry
