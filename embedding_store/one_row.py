"""A single row as of the last commit, without reading any other."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedding_store.bootstrap import Snapshot, read_shard, stored_schema
from embedding_store.codec import COLD_FIELD, Block, decode_rows
from embedding_store.commit import Commit, CommitId
from embedding_store.log import CommitLog
from embedding_store.redis_client import translated
from embedding_store.rows import fetch_rows


@dataclass(slots=True, kw_only=True)
class _OneRow(Snapshot):
    """A shard of which only one row is taken.

    Attributes:
        table: Whose row.
        key: The id; None for the cold row.
    """

    table: str
    key: int | None

    def read_rows(self, log: CommitLog, table: str) -> Iterator[None]:
        """Takes the row as it is stored."""
        if table != self.table:
            return
        if self.key is None:
            with translated():
                row = log.client.hget(log.keys.rows(table, 0), COLD_FIELD.decode())
            fields = [COLD_FIELD]
        else:
            wanted = np.array([self.key], dtype=np.int64)
            (row,) = fetch_rows(log, {table: wanted}, {})[table]
            fields = [wanted.astype("<i8").tobytes()]
        if row is not None:
            for block in decode_rows(self.shard.tables[self.shard.number[table]], fields, [row]):
                self.shard.apply(block)
        yield

    def apply(self, commit_id: CommitId, commit: Commit) -> None:
        """Goes one commit on."""
        blocks = [Block(b.table, b.entries[self._is_it(b)]) for b in commit.blocks if b.table == self.table]
        gone = {name: ids[ids == self.key] for name, ids in commit.gone.items() if name == self.table}
        Snapshot.apply(self, commit_id, replace(commit, blocks=blocks, gone=gone))

    def _is_it(self, block: Block) -> NDArray[np.bool_]:
        if self.key is None:
            return block.cold
        return np.asarray((block.entries["id"] == self.key) & ~block.cold)


def read_one_row(log: CommitLog, table: str, key: int | None, lease_ms: int = 30_000) -> Snapshot | None:
    """Reads one row.

    Args:
        log: Of the shard.
        table: Whose row.
        key: The id; None for the cold row.
        lease_ms: How long trimming is held back after the last sign of life.

    Returns:
        A shard that holds this row, if there is one, and cold rows; None for an empty store.

    Raises:
        As :func:`bootstrap`.
    """
    return read_shard(
        log, True, lease_ms, stored_schema, lambda shard, mark: _OneRow(shard, mark, table=table, key=key)
    )
