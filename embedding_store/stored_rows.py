"""A shard's rows in Redis, as its owner asks for them: it waits while Redis does not answer."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedding_store.layout import Size
from embedding_store.log import CommitLog
from embedding_store.rows import Rows, fetch_rows, read_hashes, read_sizes

T = TypeVar("T")
_HASHES = 64
"""Hashes that one step of a walk reads: about four thousand rows."""
_MOST = 8192
"""Ids that are asked for in one command, so that the server is not held up for long."""


class StoredRows:
    """The rows.

    Args:
        log: Of the shard.
        folded: Tells the number of the last commit that is wholly in them.
        patiently: Makes a call until Redis has answered.
    """

    def __init__(
        self, log: CommitLog, folded: Callable[[], int], patiently: Callable[[Callable[[], Any]], Any]
    ) -> None:
        self._log = log
        self._patiently = patiently
        self._sizes: dict[str, Size] = {}
        self.folded = folded

    def fetch(self, wanted: Mapping[str, NDArray[np.int64]]) -> dict[str, list[bytes | None]]:
        """Rows of single ids, int64[n] by table, in one round trip: None where there is none."""
        found: dict[str, list[bytes | None]] = {table: [] for table in wanted}
        pieces: list[dict[str, NDArray[np.int64]]] = [{}]
        room = _MOST
        for table, ids in wanted.items():
            done = 0
            while done < ids.size:
                if not room:
                    pieces.append({})
                    room = _MOST
                pieces[-1][table] = ids[done : done + room]
                done, room = done + room, max(0, room - (ids.size - done))
        for piece in pieces:
            for table, rows in self._fetch(piece).items():
                found[table] += rows
        return found

    def _fetch(self, wanted: dict[str, NDArray[np.int64]]) -> dict[str, list[bytes | None]]:
        answer: dict[str, list[bytes | None]] = self._patiently(lambda: fetch_rows(self._log, wanted, self._sizes))
        return answer

    def read(self, table: str, first: int) -> tuple[list[Rows], int | None]:
        """The next rows of a walk through a table.

        Args:
            table: Its name.
            first: The hash to begin with.

        Returns:
            The rows, and the hash to go on with; None if the table has no further ones.
        """
        answer: tuple[list[Rows], int | None] = self._patiently(lambda: self._read(table, first))
        return answer

    def _read(self, table: str, first: int) -> tuple[list[Rows], int | None]:
        hashes = read_sizes(self._log).get(table, Size()).hashes
        if first >= hashes:
            return [], None
        last = min(first + _HASHES, hashes)
        return list(read_hashes(self._log, table, range(first, last))), last
