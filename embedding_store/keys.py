"""Names of the keys in Redis. Every key of a shard carries its hash tag, so a shard lives on one node of a cluster."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUCKETS = 64
"""Hashes of one table's rows."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one shard.

    ======== ====== ==================================================================================
    state    hash   epoch, head (the last commit), mark (how far the log is folded into the rows)
    log      stream one entry a commit: `prev` (its predecessor), `commit` (the bytes)
    rows     hash   8-byte id, or ``cold`` -> row; BUCKETS hashes a table
    parts    hash   what the folded commits carry besides rows: meta, definition, dense, …
    plans    hash   table -> the dimension plan that it is to take over
    leases   hash   reader -> the commit behind which nothing may be trimmed, and until when
    ======== ====== ==================================================================================
    """

    prefix: str = "dolmen"
    shard: int = 0

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{{s{self.shard}}}:{name}"

    @property
    def state(self) -> str:
        """Hash: epoch, head, mark."""
        return self._key("state")

    @property
    def log(self) -> str:
        """Stream of commits."""
        return self._key("log")

    @property
    def parts(self) -> str:
        """Hash of folded parts."""
        return self._key("parts")

    @property
    def plans(self) -> str:
        """Hash of proposed dimension plans."""
        return self._key("plans")

    @property
    def leases(self) -> str:
        """Hash of readers that hold trimming back."""
        return self._key("leases")

    def rows(self, table: str, bucket: int) -> str:
        """Hash of the rows of one bucket."""
        return self._key(f"rows:{table}:{bucket:02x}")

    @property
    def every_row(self) -> str:
        """Pattern of the hashes of all tables."""
        return self._key("rows:*")

    def all_rows(self, table: str) -> list[str]:
        """The hashes of all buckets of a table."""
        return [self.rows(table, bucket) for bucket in range(BUCKETS)]


def buckets_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket of each id: int64[N] -> int64[N]. Cold rows are in bucket 0."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(58)).astype(np.int64)
