"""Reading rows from Redis: all of a table, some hashes of it, or single ids."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from embedding_store.codec import COLD_FIELD
from embedding_store.layout import Size, hash_of
from embedding_store.log import CommitLog
from embedding_store.redis_client import translated

_HASHES = 64
"""Hashes that are read in one round trip: about half a megabyte of rows."""
_SCAN = 2000

Rows = tuple[NDArray[np.int64], list[bytes], list[bytes]]
"""The hash that each row lies in, its field, its bytes."""


def read_sizes(log: CommitLog) -> dict[str, Size]:
    """The size of every stored table.

    Raises:
        StoreUnavailable: If Redis did not answer.
    """
    with translated():
        found: dict[bytes, bytes] = log.client.hgetall(log.keys.sizes)
    sizes: dict[str, Size] = {}
    for field, value in found.items():
        kind, _, table = field.decode().partition(":")
        size = sizes.get(table, Size())
        sizes[table] = Size(int(value), size.rows) if kind == "hashes" else Size(size.hashes, int(value))
    return sizes


def scan_rows(log: CommitLog, table: str) -> Iterator[Rows]:
    """The stored rows of a table, some at a time.

    Every row that stays as it is throughout comes, once or twice: rows move to later hashes only, and what was added
    behind the end meanwhile is read as well.

    Raises:
        StoreUnavailable: If Redis did not answer.
    """
    done = 0
    while done < (hashes := read_sizes(log).get(table, Size()).hashes):
        for some in in_trips(range(done, hashes)):
            yield from read_hashes(log, table, some)
        done = hashes


def in_trips(hashes: range) -> Iterator[range]:
    """Many hashes, as many at a time as one round trip should read."""
    for first in range(0, len(hashes), _HASHES):
        yield hashes[first : first + _HASHES]


def read_cold_row(log: CommitLog, table: str) -> Iterator[Rows]:
    """The stored cold row of a table, if there is one."""
    with translated():
        row = log.client.hget(log.keys.rows(table, 0), COLD_FIELD.decode())
    if row is not None:
        yield np.zeros(1, dtype=np.int64), [COLD_FIELD], [row]


def read_hashes(log: CommitLog, table: str, hashes: range) -> Iterator[Rows]:
    """The rows of some hashes, each read to its end before a later one is begun."""
    numbers = np.arange(hashes.start, hashes.stop, hashes.step)
    names = log.keys.row_names(table, numbers)
    first = cursor = 0
    while first < len(names):
        pipe = log.client.pipeline(transaction=False)
        pipe.hscan(names[first], cursor, count=_SCAN)
        for name in () if cursor else names[first + 1 :]:
            pipe.hscan(name, 0, count=_SCAN)
        with translated():
            answers: list[tuple[int, dict[bytes, bytes]]] = pipe.execute()
        unfinished = next((i for i, (rest, _) in enumerate(answers) if rest), None)
        good = answers if unfinished is None else answers[: unfinished + 1]
        fields = [field for _, found in good for field in found]
        rows = [row for _, found in good for row in found.values()]
        if fields:
            places = numbers[first : first + len(good)]
            yield np.repeat(places, [len(found) for _, found in good]), fields, rows
        cursor = good[-1][0]
        first += len(good) - (1 if cursor else 0)


def fetch_rows(
    log: CommitLog, wanted: Mapping[str, NDArray[np.int64]], sizes: dict[str, Size]
) -> dict[str, list[bytes | None]]:
    """The stored rows of single ids, in one round trip unless a table has grown.

    Args:
        log: Of the shard.
        wanted: Ids by table, int64[n].
        sizes: As last read; brought up to date.

    Returns:
        By table the row of each id, None where there is none, all as of one moment.

    Raises:
        StoreUnavailable: If Redis did not answer.
    """
    if not wanted:
        return {}
    ids = np.concatenate(list(wanted.values())).astype("<i8").tobytes()
    while True:
        names = [
            name
            for table, some in wanted.items()
            for name in log.keys.row_names(table, hash_of(some, sizes.get(table, Size()).hashes))
        ]
        counts, rows = log.fetch([f"hashes:{table}" for table in wanted], names, ids)
        grown = [table for table, count in zip(wanted, counts, strict=True) if count != sizes.get(table, Size()).hashes]
        if not grown:
            break
        sizes.update(read_sizes(log))
        for table in grown:
            sizes.setdefault(table, Size())
    stops = np.cumsum([some.size for some in wanted.values()]).tolist()
    return {table: rows[stop - some.size : stop] for (table, some), stop in zip(wanted.items(), stops, strict=True)}
