"""A stored shard under the configured definition: what goes on, what begins empty, what stops."""

import orjson
from pydantic import ValidationError

from embedding_store.bootstrap import stored_schema
from embedding_store.errors import DefinitionConflict
from embedding_store.settings import TableSettings
from trainer.definition import Definition


def reconcile(configured: Definition, stored: bytes) -> Definition:
    """The definition to go on with: the configured one, and the stored tables that it no longer has, retired.

    Args:
        configured: From the configuration.
        stored: JSON of the last commit's definition; empty for an empty store.

    Raises:
        DefinitionConflict: If a stored table cannot hold the configured one's rows. Names key and remedy.
    """
    if not stored:
        return configured
    try:
        tables = stored_schema(stored).tables
    except (ValidationError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise DefinitionConflict(f"the store's definition cannot be read by this version: {error}") from error
    wanted = {table.name: table for table in configured.tables}
    faults = [fault for table in tables if table.name in wanted for fault in _faults(table, wanted[table.name])]
    if faults:
        raise DefinitionConflict("\n".join(faults))
    retired = tuple(table for table in tables if table.name not in wanted)
    return configured.model_copy(update={"retired": retired})


def _faults(stored: TableSettings, wanted: TableSettings) -> list[str]:
    return [
        f"tables.{wanted.name}.{key}: the store holds rows made with {getattr(stored, key)!r}, the configuration asks "
        f"for {getattr(wanted, key)!r}; set it back, or remove the rows with `dolmen store drop {wanted.name} --yes`"
        for key in ("dim", "optimizer")
        if getattr(stored, key) != getattr(wanted, key)
    ]


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
    return lines
