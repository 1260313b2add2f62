"""Columns of a table on disk, with messages that name the file and the column."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.datasets.block import Values, coded
from services.datasets.errors import DatasetError
from trainer.example import Coded
from trainer.json_value import MISSING


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """These columns of a parquet file; others are not read.

    Raises:
        DatasetError: If the file or a column is missing, or the file is damaged.
    """
    try:
        present = pq.read_schema(path).names
        absent = [name for name in columns if name not in present]
        if absent:
            raise DatasetError(f"{path}: there is no column {', '.join(absent)}; the file has {', '.join(present)}")
        return pq.read_table(path, columns=list(columns), partitioning=None)
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as parquet: {error}") from error


def integers(table: pa.Table, name: str, path: Path) -> NDArray[np.int64]:
    """A column of integers, none of them null.

    Raises:
        DatasetError: If the column holds something else.
    """
    column = table[name]
    if column.null_count:
        raise DatasetError(f"{path}: column {name} has {column.null_count} nulls; it must have a value in every row")
    try:
        return _int64(column)
    except pa.ArrowException as error:
        raise DatasetError(f"{path}: column {name} must hold integers: {error}") from error


def labels(table: pa.Table, name: str, path: Path) -> NDArray[np.int8]:
    """A column of 0 and 1; -1 where null.

    Raises:
        DatasetError: If the column holds something else.
    """
    try:
        found = _int64(pc.fill_null(table[name].cast(pa.int64()), -1))
    except pa.ArrowException as error:
        raise DatasetError(f"{path}: column {name} must hold 0 and 1: {error}") from error
    if len(found) and not -1 <= found.min() <= found.max() <= 1:
        raise DatasetError(f"{path}: column {name} must hold 0 and 1, it reaches from {found.min()} to {found.max()}")
    return found.astype(np.int8)


def values(table: pa.Table, name: str, path: Path) -> Values:
    """A column of ids: integers (floats must be integral) or strings. Null and negative integers are absent.

    Raises:
        DatasetError: If the column holds something else.
    """
    column = table[name]
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _encoded(column)
    try:
        column = column.cast(pa.int64())
    except pa.ArrowException as error:
        raise DatasetError(f"{path}: column {name} must hold integers or strings: {error}") from error
    column = pc.if_else(pc.greater_equal(column, 0), column, pa.scalar(None, pa.int64()))
    return _encoded(column) if column.null_count else _int64(column)


def gather(found: Values, index: NDArray[np.int64]) -> Values:
    """``found[index]``, absent where the index is -1."""
    if len(index) == 0 or index.min() >= 0:
        return found[index]
    if not isinstance(found, Coded):
        distinct, codes = np.unique(found, return_inverse=True)
        found = Coded(codes.astype(np.int64), coded(distinct.tolist()))
    values = coded([*found.values, MISSING])
    return Coded(np.where(index < 0, len(values) - 1, np.append(found.codes, 0)[index]), values)


def rows_of(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each wanted key its (first) row among `keys`, -1 where it has none."""
    if len(keys) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    rows = order[place]
    return np.where(keys[rows] == wanted, rows, -1)


def _int64(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return column.cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]  # pyarrow is untyped


def _encoded(column: pa.ChunkedArray) -> Coded:
    array = column.combine_chunks().dictionary_encode()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    distinct = array.dictionary.to_pylist()
    codes = pc.fill_null(array.indices, len(distinct)).cast(pa.int64()).to_numpy(zero_copy_only=False)
    return Coded(codes, coded([*distinct, MISSING]))
