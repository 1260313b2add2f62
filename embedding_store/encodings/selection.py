"""The encoding that a table's settings ask for."""

from collections.abc import Mapping, Sequence

from embedding_store.encodings.encoding import Counts, Encoding
from embedding_store.encodings.frequency import Frequency, frequency_plan
from embedding_store.encodings.hashed import Hashed
from embedding_store.encodings.int8 import Int8
from embedding_store.encodings.low_rank import LowRank
from embedding_store.encodings.masked import Masked
from embedding_store.encodings.nested import Nested
from embedding_store.encodings.settings import EncodingSettings
from embedding_store.encodings.unified import SharedMemory, Unified
from embedding_store.encodings.uniform import Uniform
from embedding_store.plan import parse_plan
from embedding_store.settings import TableSettings

_PLAIN = EncodingSettings(kind="uniform")


def make(table: TableSettings, seed: int, counts: Counts | None = None) -> Encoding:
    """The encoding of one table; a unified one has its memory for itself.

    Args:
        table: K, optimizer, initial values, and `encoding`.
        seed: Of all that is drawn.
        counts: Known counts, which fix the blocks; None: an encoding with blocks counts what it learns from.

    Raises:
        ValueError: If the encoding does not fit the table, naming the key.
        BadBytes: If a plan does not.
    """
    return make_all([table], seed, {} if counts is None else {table.name: counts})[table.name]


def make_all(
    tables: Sequence[TableSettings], seed: int, counts: Mapping[str, Counts] | None = None
) -> dict[str, Encoding]:
    """The encodings of several tables, by name; those that are unified share one memory.

    Args:
        tables: See :func:`make`.
        seed: See there.
        counts: By table.

    Raises:
        ValueError: See there.
        BadBytes: See there.
    """
    memory: dict[tuple[int, int], SharedMemory] = {}
    known = counts or {}
    return {t.name: _made(t, t.encoding or _PLAIN, seed, known.get(t.name), memory) for t in tables}


def _made(
    table: TableSettings,
    how: EncodingSettings,
    seed: int,
    counts: Counts | None,
    memory: dict[tuple[int, int], SharedMemory],
) -> Encoding:
    key = f"tables.{table.name}.encoding"
    dim = _within(how.dim or table.dim, table, "dim")
    if how.kind == "int8":
        return Int8(_made(table, how.of or _PLAIN, seed, counts, memory))
    if how.kind == "low_rank":
        return LowRank(table, seed, _within(how.rank or 0, table, "rank"))
    if how.kind == "masked":
        return Masked(table, seed, parse_plan(how.plan or {}, table.name, table.dim), counts)
    if how.kind == "nested":
        return Nested(table, seed, [_within(p, table, "prefixes") for p in how.prefixes or ()])
    if how.kind == "hashed":
        return Hashed(table, seed, how.buckets or 0, how.hashes)
    if how.kind == "unified":
        if table.dim % how.hashes:
            raise ValueError(f"{key}.hashes: must divide the table's dim, {table.dim}")
        place = how.buckets or 0, table.dim // how.hashes
        if place not in memory:
            memory[place] = SharedMemory(table, seed, *place)
        return Unified(table, seed, memory[place])
    if how.kind == "frequency":
        plan = frequency_plan(how.bounds or (), dim, how.power)
        if not how.projection:
            return Masked(table, seed, plan, counts)
        if counts is None:
            raise ValueError(f"{key}.projection: needs counts known beforehand; without, set it to false")
        return Frequency(table, seed, plan, counts)
    return Uniform(table, seed, dim)


def _within(value: int, table: TableSettings, key: str) -> int:
    if not 1 <= value <= table.dim:
        raise ValueError(f"tables.{table.name}.encoding.{key}: must lie between 1 and the table's dim, {table.dim}")
    return value
