"""Names of the keys in Redis. Every key of a shard carries its hash tag, so a shard lives on one node of a cluster."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_PLACES = 7


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one shard.

    ======== ====== ==================================================================================
    state    hash   epoch, head (the last commit), mark (how far the log is folded into the rows)
    log      stream one entry a commit: `prev` (its predecessor), `commit` (the bytes)
    rows     hash   8-byte id, or ``cold`` -> row; many hashes a table, see ``layout.py``
    sizes    hash   of each table: `hashes:name` (how many it has) and `rows:name` (fields in all of them)
    parts    hash   what the folded commits carry besides rows: meta, definition, dense, …
    plans    hash   table, or table:offset -> a dimension plan that it is to take over
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
    def sizes(self) -> str:
        """Hash of the tables' sizes."""
        return self._key("sizes")

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

    def rows(self, table: str, place: int) -> str:
        """One hash of a table's rows."""
        return self._key(f"rows:{table}:{place:0{_PLACES}x}")

    def row_names(self, table: str, places: NDArray[np.int64]) -> list[bytes]:
        """What :meth:`rows` gives, for many hashes at once: int64[n] -> n names."""
        name = np.frombuffer(self.rows(table, 0).encode(), np.uint8)
        names = np.tile(name, (places.size, 1))
        for digit in range(_PLACES):
            names[:, -1 - digit] = _DIGITS[(places >> (4 * digit)) & 15]
        return names.view(f"S{name.size}").ravel().tolist()

    def all_rows(self, table: str, hashes: int) -> list[str]:
        """Every hash of a table that has so many."""
        return [self.rows(table, place) for place in range(hashes)]
