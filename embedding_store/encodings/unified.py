"""Feature multiplexing: one memory of rows for several tables."""

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.hashed import buckets_of, salt_of
from embedding_store.encodings.id_rows import IdRows
from embedding_store.plan import TablePlan
from embedding_store.serving import Codec
from embedding_store.settings import TableSettings


class SharedMemory:
    """Rows that several tables look up, each by hashes of its own.

    Args:
        table: Its optimizer and initial values, for all tables.
        seed: Of the initial values.
        buckets: How many rows.
        width: Numbers of a row.
    """

    def __init__(self, table: TableSettings, seed: int, buckets: int, width: int) -> None:
        whole = TablePlan((), (tuple(range(width)),))
        self.rows = IdRows(table.model_copy(update={"name": "unified", "dim": width}), seed, whole)
        self.buckets, self.width = buckets, width
        self.users = 0

    def share_of(self, user: int, total: int) -> int:
        """A user's share of some total; all users' shares add up to it."""
        return total * (user + 1) // self.users - total * user // self.users


class Unified:
    """A table whose vectors are made of K / width rows of a shared memory, side by side.

    Tables that share rows interfere, but their gradients point apart, for the network tells the features from one
    another. Each table takes its own step, one after another; the paper sums them first.

    **Source**: Coleman et al. 2023, Unified Embedding (arXiv 2305.12102), section 3.

    Args:
        table: Its name keys the hashes; its K.
        seed: Of the hashes.
        memory: Shared; its width divides K.
    """

    def __init__(self, table: TableSettings, seed: int, memory: SharedMemory) -> None:
        self._memory, self._dim = memory, table.dim
        self._salts = [salt_of(f"{table.name}.{place}", seed) for place in range(table.dim // memory.width)]
        self._user = memory.users
        memory.users += 1

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`."""
        parts = self._memory.rows.vectors(self._buckets_of(ids), codec)
        return np.concatenate(np.split(parts, len(self._salts)), axis=1)

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there."""
        parts = np.concatenate(np.split(gradients, len(self._salts), axis=1))
        self._memory.rows.learn(self._buckets_of(ids), parts)

    def parameters(self) -> int:
        """This table's share; the shares of all tables add up to the memory."""
        return self._memory.share_of(self._user, self._memory.buckets * self._memory.width)

    def bytes(self, codec: Codec = "float32") -> int:
        """Likewise."""
        memory = self._memory
        return memory.share_of(self._user, memory.buckets * memory.rows.bytes_a_row(codec))

    def _buckets_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([buckets_of(ids, salt, self._memory.buckets) for salt in self._salts])
