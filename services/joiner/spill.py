"""The part of the joiner's state that does not fit into memory: a table on disk that is never read after a restart."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

_CACHE_KIB = 16 << 10


class Spill:
    """Requests on disk, by name and by due time. Made anew each time: what was there before is discarded.

    Nothing is ever made durable: Kafka has all of it. So there is one transaction without end and without a journal.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("page_size=8192", "journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE entries (due INTEGER, request TEXT, body BLOB, PRIMARY KEY (due, request)) WITHOUT ROWID"
        )
        self._db.execute("CREATE TABLE dues (request TEXT PRIMARY KEY, due INTEGER) WITHOUT ROWID")
        self._db.execute("BEGIN")
        self._count = 0

    def __len__(self) -> int:
        """How many requests there are."""
        return self._count

    def add(self, some: Iterable[tuple[int, str, bytes]]) -> None:
        """Takes requests that are not there yet: due time, name, bytes."""
        rows = list(some)
        self._db.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
        self._db.executemany("INSERT INTO dues VALUES (?, ?)", ((request, due) for due, request, _ in rows))
        self._count += len(rows)

    def get(self, request: str) -> bytes | None:
        """A request's bytes."""
        found = self._db.execute(
            "SELECT body FROM dues JOIN entries USING (due, request) WHERE request = ?", (request,)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def replace(self, request: str, old_due: int, due: int, body: bytes) -> None:
        """Other bytes, and perhaps another due time, for a request that is there."""
        self._db.execute(
            "UPDATE entries SET body = ?, due = ? WHERE due = ? AND request = ?", (body, due, old_due, request)
        )
        if due != old_due:
            self._db.execute("UPDATE dues SET due = ? WHERE request = ?", (due, request))

    def remove(self, request: str, due: int) -> None:
        """Removes a request that is there."""
        self._db.execute("DELETE FROM entries WHERE due = ? AND request = ?", (due, request))
        self._db.execute("DELETE FROM dues WHERE request = ?", (request,))
        self._count -= 1

    def refs(self, start: int, end: int) -> list[tuple[int, str]]:
        """Due time and name of the requests whose due time lies in [start, end)."""
        return self._db.execute("SELECT due, request FROM entries WHERE due >= ? AND due < ?", (start, end)).fetchall()

    def close(self) -> None:
        """Closes and deletes the file. Idempotent."""
        self._db.close()
        self._path.unlink(missing_ok=True)
