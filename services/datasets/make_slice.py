"""Makes the shipped slice of KuaiRand: ``python -m services.datasets.make_slice FOLDER OUT N``.

FOLDER holds the whole of impressions.parquet, users.parquet and videos.parquet. OUT gets the first N impressions by
time, and the users and videos that occur in them.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.datasets.kuairand import IMPRESSION, PROFILE, VIDEO, lists_of
from services.datasets.parquet import integers, read_table

_SPLIT = {"user_id", "video_id", "play_time_ms"}


def make_slice(folder: Path, out: Path, impressions: int) -> None:
    """Writes the three files; no list is split.

    Args:
        folder: Where the whole data are.
        out: Where the slice goes.
        impressions: How many rows at most.
    """
    path = folder / "impressions.parquet"
    log = read_table(path, IMPRESSION)
    order, sizes = lists_of(integers(log, "user_id", path), integers(log, "time_ms", path))
    rows = int(sizes[np.cumsum(sizes) <= impressions].sum())
    log = log.take(order[:rows])
    plain = _SPLIT | {"time_ms"}
    _write(
        log,
        out / "impressions.parquet",
        plain,
        {"time_ms": "DELTA_BINARY_PACKED"} | dict.fromkeys(_SPLIT, "BYTE_STREAM_SPLIT"),
    )
    for name, key, columns in (("users", "user_id", PROFILE), ("videos", "video_id", VIDEO)):
        source = folder / f"{name}.parquet"
        table = read_table(source, (key, *columns)).sort_by(key)
        table = table.filter(np.isin(integers(table, key, source), integers(log, key, path)))
        _write(table, out / f"{name}.parquet", {key}, {key: "DELTA_BINARY_PACKED"})


def _write(table: pa.Table, path: Path, plain: set[str], encodings: dict[str, str]) -> None:
    names = table.column_names
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=22,
        use_dictionary=[name for name in names if name not in plain],
        column_encoding=encodings,
        write_statistics=False,
        store_schema=False,
    )


if __name__ == "__main__":
    make_slice(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
