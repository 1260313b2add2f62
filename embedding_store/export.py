"""Ids and vectors as a Parquet file, for use elsewhere."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from embedding_store.lookup import Occurrences, plain_fields
from embedding_store.shard import Shard
from embedding_store.stored import StoredShard, ordered_rows

SCHEMA = pyarrow.schema(
    [
        ("table", pyarrow.string()),
        ("id", pyarrow.int64()),
        ("kind", pyarrow.string()),
        ("count", pyarrow.int64()),
        ("last_seen", pyarrow.timestamp("ms", tz="UTC")),
        ("linear", pyarrow.float32()),
        ("vector", pyarrow.list_(pyarrow.float32())),
    ]
)
"""Columns. `kind` says what `id` is: an ``integer`` as it stands in events, the hash of a ``string`` (xxh3-64 with the
top bit set, as a signed number), or 0 for the ``cold`` row, which stands for every id that has none."""


def export_parquet(path: Path, stored: StoredShard, tables: Sequence[str]) -> int:
    """Writes what each id scores with: vectors at full width, a plan's matrix applied.

    Args:
        path: Of the file.
        stored: The shard.
        tables: Names of the tables to write.

    Returns:
        How many rows were written, cold rows among them.

    Raises:
        KeyError: If there is no such table; nothing is written.
    """
    settings = [stored.shard.tables[stored.shard.number[name]] for name in tables]
    count = 0
    with pyarrow.parquet.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for table in settings:
            for rows in _batches(table.name, stored.shards(table)):
                writer.write_batch(rows)
                count += rows.num_rows
    return count


def _batches(name: str, shards: Iterator[Shard]) -> Iterator[pyarrow.RecordBatch]:
    for part, shard in enumerate(shards):
        cold = np.zeros(1 if part == 0 else 0, dtype=np.int64)
        rows = np.concatenate([cold, ordered_rows(shard, 0)])
        if rows.size:
            yield _batch(name, shard, rows)


def _batch(name: str, shard: Shard, rows: NDArray[np.int64]) -> pyarrow.RecordBatch:
    """Some rows of the only table of a shard."""
    each = Occurrences(np.zeros(rows.size, np.int64), np.zeros(rows.size, np.bool_), np.arange(rows.size + 1))
    numbers = shard.gather(rows, each, plain_fields([0]))[:, 0]
    dim = numbers.shape[1] - 1
    headers = shard.rows.headers[rows]
    ids = headers["id"].astype(np.int64)
    seen = headers["last_seen"].astype("datetime64[ms]")
    columns = [
        pyarrow.repeat(name, rows.size),
        pyarrow.array(ids),
        pyarrow.array(np.where(rows == 0, "cold", np.where(ids < 0, "string", "integer"))),
        pyarrow.array(headers["count"].astype(np.int64)),
        pyarrow.array(seen, mask=headers["count"] == 0, type=SCHEMA.field("last_seen").type),
        pyarrow.array(np.ascontiguousarray(numbers[:, 0])),
        pyarrow.ListArray.from_arrays(
            np.arange(0, dim * rows.size + 1, dim, dtype=np.int32), np.ascontiguousarray(numbers[:, 1:]).ravel()
        ),
    ]
    return pyarrow.RecordBatch.from_arrays(columns, schema=SCHEMA)
