"""Nested dimensions: one table, trained so that the first numbers of a row serve alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.encoding import INDEX_BYTES
from embedding_store.encodings.id_rows import IdRows
from embedding_store.encodings.rounding import rounded
from embedding_store.plan import TablePlan
from embedding_store.serving import KINDS, Codec, vector_words
from embedding_store.settings import TableSettings
from embedding_store.table import mix


class Prefix:
    """The first numbers of every row, and zeros behind them.

    Args:
        rows: At full width.
        length: How many numbers.
    """

    def __init__(self, rows: IdRows, length: int) -> None:
        self._rows, self._length = rows, length

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`."""
        out = self._rows.vectors(ids)
        out[:, self._length :] = 0
        return rounded(out, codec)

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there."""
        of_prefix = np.zeros_like(gradients)
        of_prefix[:, : self._length] = gradients[:, : self._length]
        self._rows.learn(ids, of_prefix)

    def parameters(self) -> int:
        """See there."""
        return self._length * len(self._rows)

    def bytes(self, codec: Codec = "float32") -> int:
        """See there."""
        return (4 * vector_words(KINDS[codec], self._length) + INDEX_BYTES) * len(self._rows)


class Nested:
    """Each batch trains one prefix, drawn evenly: in expectation the sum of the losses of all prefixes.

    What :meth:`vectors` gives is what the next :meth:`learn` trains. The draw depends on how many batches were learned
    from alone, so that tables which learn together cut alike. To serve or to validate, take :meth:`served`.

    **Sources**: Kusupati et al. 2022, Matryoshka Representation Learning (arXiv 2205.13147), equation 1; one prefix at
    a time: Rippel et al. 2014, nested dropout (arXiv 1402.0915).

    Args:
        table: Its K, optimizer and initial values.
        seed: Of the initial values.
        prefixes: Lengths, rising.
    """

    def __init__(self, table: TableSettings, seed: int, prefixes: Sequence[int]) -> None:
        self._rows = IdRows(table, seed, TablePlan((), (tuple(range(table.dim)),)))
        self._prefixes = [Prefix(self._rows, length) for length in prefixes]
        self._lengths = tuple(prefixes)
        self._batches = 0

    def served(self, prefix: int) -> Prefix:
        """The table as it is served with a prefix alone.

        Raises:
            ValueError: If the prefix was not trained.
        """
        if prefix not in self._lengths:
            raise ValueError(f"a prefix of {prefix} was not trained; there are {list(self._lengths)}")
        return self._prefixes[self._lengths.index(prefix)]

    def vectors(self, ids: NDArray[np.int64], codec: Codec = "float32") -> NDArray[np.float32]:
        """See :class:`~embedding_store.encodings.encoding.Encoding`; cut to the prefix of the next batch."""
        return self._drawn().vectors(ids, codec)

    def learn(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """See there."""
        self._drawn().learn(ids, gradients)
        self._batches += 1

    def parameters(self) -> int:
        """See there; at full width."""
        return self._rows.numbers()

    def bytes(self, codec: Codec = "float32") -> int:
        """See there; at full width."""
        return self._rows.bytes(codec)

    def _drawn(self) -> Prefix:
        return self._prefixes[int(mix(np.uint64(self._batches + 1))) % len(self._prefixes)]
