"""A stored shard under the configured definition: what goes on, what begins empty, what stops."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import ValidationError

from embedding_store.accumulators import row_width
from embedding_store.bootstrap import stored_schema
from embedding_store.errors import DefinitionConflict
from embedding_store.settings import SPARE, WIDEST_ROW, TableSettings
from trainer.definition import Definition

_GATHERED_BY = ("by", "kind", "of", "where", "unit", "log", "most", "half_life", "window", "length")


def reconcile(configured: Definition, stored: bytes) -> Definition:
    """The definition to go on with: the configured one, and the stored tables that it no longer has, retired.

    Args:
        configured: From the configuration.
        stored: JSON of the last commit's definition; empty for an empty store.

    A statistics table keeps the accumulators that it has in front, and gets the new ones behind them: what was added
    begins empty beside what is kept, what was removed stays until the table is dropped. A sequence may become longer.

    Raises:
        DefinitionConflict: If a stored table cannot hold the configured one's rows. Names key and remedy.
    """
    if not stored:
        return configured
    try:
        tables = stored_schema(stored).tables
        tasks = [task["name"] for task in orjson.loads(stored).get("tasks", ())]
    except (ValidationError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise DefinitionConflict(f"the store's definition cannot be read by this version: {error}") from error
    had = {table.name: table for table in tables}
    going_on = tuple(_grown(had[table.name], table) if table.name in had else table for table in configured.tables)
    faults = [fault for table in going_on if table.name in had for fault in _faults(had[table.name], table)]
    faults += _task_faults(tasks, [had[table.name] for table in going_on if table.name in had], configured)
    if faults:
        raise DefinitionConflict("\n".join(faults))
    wanted = {table.name for table in going_on}
    retired = tuple(table for table in tables if table.name not in wanted)
    return configured.model_copy(update={"tables": going_on, "retired": retired})


def _grown(stored: TableSettings, wanted: TableSettings) -> TableSettings:
    """The wanted statistics table with what the stored one has in front; any other table as it is wanted."""
    if not stored.kind == wanted.kind == "statistics":
        return wanted
    new = [accumulator for accumulator in wanted.accumulators if accumulator not in stored.accumulators]
    some = (*stored.accumulators, *new)
    return wanted.model_copy(update={"accumulators": some, "dim": row_width(some)})


def _faults(stored: TableSettings, wanted: TableSettings) -> list[str]:
    if stored.kind != wanted.kind:
        return [_conflict(f"tables.{wanted.name}.kind", wanted.name, stored.kind, wanted.kind)]
    if wanted.kind == "sequence":
        shorter = wanted.length < stored.length
        key = f"features.{wanted.name}.length"
        return [_conflict(key, wanted.name, stored.length - SPARE, wanted.length - SPARE)] if shorter else []
    if wanted.kind == "statistics":
        key = f"statistics by {wanted.name.removeprefix('by.')}"
        return [_conflict(key, wanted.name, stored.dim, wanted.dim)] if wanted.dim > WIDEST_ROW else []
    pairs = [
        (f"tables.{wanted.name}.{key}", getattr(stored, key), getattr(wanted, key)) for key in ("dim", "optimizer")
    ]
    pairs.append((f"tables.{wanted.name}.encoding", _held(stored), _held(wanted)))
    pairs.append(("model.wide", stored.linear or stored.optimizer, wanted.linear or wanted.optimizer))
    if wanted.linear is None and stored.linear is None:
        pairs.pop()  # the linear weight learns as the vector does, and that is told already
    return [_conflict(key, wanted.name, had, asked) for key, had, asked in pairs if had != asked]


def _held(table: TableSettings) -> object:
    return table.encoding and table.encoding.model_dump(exclude_defaults=True)


def _conflict(key: str, table: str, had: object, asked: object) -> str:
    return (
        f"{key}: the store holds rows of table {table!r} made with {had!r}, the configuration asks for {asked!r}; "
        f"set it back, or remove the rows with `dolmen store drop {table} --yes`"
    )


def _task_faults(had: list[str], stored: Sequence[TableSettings], configured: Definition) -> list[str]:
    """Gaussian weights hold a mean and a variance of each task, the network has an output of each: in their order."""
    wanted = [task.name for task in configured.tasks]
    held = [table.name for table in stored if table.kind == "weights" and table.linear == "gaussian"]
    if had == wanted or not had or not configured.gaussian:
        held = []
    if held:
        drops = ", ".join(f"`dolmen store drop {name} --yes`" for name in held)
        return [
            f"tasks: the store's Gaussian weights are of {', '.join(had)}, in this order, the configuration asks for "
            f"{', '.join(wanted)}; set it back, or remove the rows with {drops}"
        ]
    if had != wanted and sorted(had) == sorted(wanted):
        return [f"tasks: the store has them in the order {', '.join(had)}, by which the network's outputs go; keep it"]
    return []


def describe_changes(before: bytes, after: Definition) -> list[str]:
    """What a changed definition means for what is stored, one sentence each, for the log."""
    if not before:
        return []
    old = orjson.loads(before)
    had = {table["name"] for table in [*old["tables"], *old.get("retired", ())]}
    lines = [f"table {t.name!r} is new and begins empty" for t in after.tables if t.name not in had]
    lines += [
        f"table {t.name!r} is no longer used; its rows stay until `dolmen store drop {t.name} --yes`"
        for t in after.retired
    ]
    names = {feature["name"] for feature in old["features"]}
    lines += [f"feature {f.name!r} is new" for f in after.features if f.name not in names]
    lines += [f"feature {name!r} is gone" for name in sorted(names - {f.name for f in after.features})]
    return lines + _changed_statistics(old.get("statistics", ()), after)


def _changed_statistics(before: Sequence[Mapping[str, Any]], after: Definition) -> list[str]:
    old = {value["name"]: value for value in before}
    new = {statistic.name: statistic.model_dump(mode="json") for statistic in after.statistics}
    lines = [
        f"statistic {name!r} is new, or takes in something else; what was not gathered yet begins empty"
        for name, value in new.items()
        if name not in old or any(value[key] != old[name].get(key) for key in _GATHERED_BY)
    ]
    lines += [
        f"statistic {name!r} is gone; what only it gathered stays until "
        f"`dolmen store drop by.{'_x_'.join(value['by'])} --yes`"
        for name, value in old.items()
        if name not in new
    ]
    return lines
