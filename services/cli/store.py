"""``dolmen store``: looking into the parameter store, saving it, filling it."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from services.whole_file import replacing

if TYPE_CHECKING:
    from embedding_store.log import CommitLog

Config = Annotated[Path | None, typer.Option(help="A dolmen.toml.")]
DataDir = Annotated[Path, typer.Option(help="Of the local stack; its store is taken where no URL is configured.")]
AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON.")]
_HERE = Path(".dolmen")


class Format(StrEnum):
    """Of exported files."""

    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(help="Looks into the parameter store, saves it, fills it.", no_args_is_help=True)
    for command in (stats, inspect, dump, load, export, verify, drop, plan):
        group.command()(command)
    app.add_typer(group, name="store")


def stats(config: Config = None, data_dir: DataDir = _HERE, json: AsJson = False) -> None:
    """Tells rows, bytes, widths, admission and expiry of each table, the last commit, and the consumed offsets."""
    from embedding_store.inspection import describe
    from services.cli.store_bytes import add_held_bytes

    with _opened(config, data_dir) as log:
        found = describe(log, _scratch(data_dir))
        add_held_bytes(found["tables"], _metrics_urls(config, data_dir))
    if json:
        _print_json(found)
    else:
        _print_stats(found)


def _print_stats(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    held = [
        where for where in ("trainer", "ranker") if any(f"{where}_bytes" in row for row in found["tables"].values())
    ]
    table = Table(
        "table", "rows", "bytes in Redis", *(f"in the {where}" for where in held), "widths", "admits", "expires"
    )
    for name, row in found["tables"].items():
        widths = ", ".join(f"{width}: {rows:,}" for width, rows in row["widths"].items())
        admission = row["admission"]
        after = f"after {admission['admit_after']}" if admission["admit_after"] > 1 else "at once"
        table.add_row(
            name,
            f"{row['rows']:,}",
            f"{row['bytes']:,}",
            *(f"{row[key]:,}" if (key := f"{where}_bytes") in row else "" for where in held),
            widths,
            after if admission["rule"] == "count" else f"{after}, by chance",
            row["expire_after"],
        )
    console = Console()
    console.print(table)
    log_part = found["log"]
    console.print(
        f"commit {found['commit']}; log: {log_part['entries']} entries, {log_part['bytes']:,} bytes, "
        f"{log_part['unfolded']} not in the rows yet"
    )
    if sieve := found["filter"]:
        console.print(
            f"admission filter: {sieve['bytes']:,} bytes, {sieve['fill']:.1%} in use, window {sieve['window']}"
        )
    for name, one in found["proposed"].items():
        widths, share = (
            "/".join(str(len(k)) for k in one["plan"]["kept"]),
            one["numbers"] / max(one["numbers_before"], 1),
        )
        console.print(f"the search would have {widths} numbers a vector in {name}, {share:.0%} of what there are")
    for topic, offsets in found["offsets"].items():
        console.print(f"{topic}: " + ", ".join(f"partition {p} at {o}" for p, o in offsets.items()))


def inspect(
    table: str,
    id: Annotated[str, typer.Argument(help="As it stands in events; empty: the cold row.")],
    config: Config = None,
    data_dir: DataDir = _HERE,
) -> None:
    """Prints one row as JSON."""
    from embedding_store.inspection import inspect_row

    with _opened(config, data_dir) as log:
        try:
            row = inspect_row(log, table, id)
        except KeyError:
            _fail(f"there is no table {table!r} in the store; `dolmen store stats` lists them")
        if row is None:
            _fail(f"table {table!r} has no row for {id!r}; it scores as the cold row")
        _print_json(row)


def dump(file: Path, config: Config = None, data_dir: DataDir = _HERE) -> None:
    """Writes the whole store into one canonical file: equal stores give equal bytes."""
    from embedding_store.dump import write_dump
    from embedding_store.stored import read_stored

    with _opened(config, data_dir) as log, read_stored(log, directory=file.absolute().parent) as shard:
        if shard is None:
            _fail("the store is empty: there is nothing to dump")
        with replacing(file) as part, part.open("wb") as out:
            rows = write_dump(out, shard)
    typer.echo(f"{file}: commit {shard.id.seq}, {rows} rows, {file.stat().st_size} bytes")


def load(file: Path, config: Config = None, data_dir: DataDir = _HERE) -> None:
    """Fills an empty store from a dump."""
    from embedding_store.dump import load_dump, read_dump

    with _opened(config, data_dir) as log:
        found = read_dump(file)
        load_dump(log, found)
    typer.echo(f"{file}: {found.rows} rows of {len(found.tables)} tables loaded")


def export(
    file: Path,
    format: Annotated[Format, typer.Option(help="Of the file.")] = Format.PARQUET,
    table: Annotated[str | None, typer.Option(help="Only this one; otherwise all of them.")] = None,
    config: Config = None,
    data_dir: DataDir = _HERE,
) -> None:
    """Writes ids and vectors into a file for use elsewhere."""
    from embedding_store.export import export_parquet
    from embedding_store.stored import read_stored

    with _opened(config, data_dir) as log, read_stored(log, directory=file.absolute().parent) as shard:
        if shard is None:
            _fail("the store is empty: there is nothing to export")
        kinds = {one.name: one.kind for one in shard.shard.tables}
        names = [name for name, kind in kinds.items() if kind == "weights"] if table is None else [table]
        if table is not None and table not in kinds:
            _fail(f"there is no table {table!r} in the store; `dolmen store stats` lists them")
        if table is not None and kinds[table] != "weights":
            _fail(f"table {table!r} holds {kinds[table]}, which have no vectors to export")
        with replacing(file) as part:
            rows = export_parquet(part, shard, names)
    typer.echo(f"{file}: commit {shard.id.seq}, {rows} rows of {len(names)} tables, {file.stat().st_size} bytes")


def verify(config: Config = None, data_dir: DataDir = _HERE, json: AsJson = False) -> None:
    """Checks every invariant of the store; exit code 1 if one does not hold."""
    from embedding_store.inspection import verify as check

    with _opened(config, data_dir) as log:
        verdict = check(log, _scratch(data_dir))
    if json:
        _print_json({"ok": not verdict.faults, "checked": verdict.checked, "faults": verdict.faults})
    else:
        for what, count in verdict.checked.items():
            typer.echo(f"{count:>12,} {what}")
        for fault in verdict.faults:
            typer.echo(f"dolmen store verify: {fault}", err=True)
        typer.echo("every invariant holds" if not verdict.faults else f"{len(verdict.faults)} faults")
    if verdict.faults:
        raise typer.Exit(1)


def drop(
    table: str,
    yes: Annotated[bool, typer.Option("--yes", help="Really remove all its rows.")] = False,
    config: Config = None,
    data_dir: DataDir = _HERE,
) -> None:
    """Removes a table with all its rows. A trainer that runs is fenced and ends."""
    from embedding_store.removal import drop_table

    if not yes:
        typer.echo(f"dolmen store drop: this removes every row of {table!r}; say --yes to do it", err=True)
        raise typer.Exit(2)
    with _opened(config, data_dir) as log:
        try:
            drop_table(log, table)
        except KeyError:
            _fail(f"there is no table {table!r} in the store; `dolmen store stats` lists them")
    typer.echo(f"table {table!r} is gone; start the trainer again")


def plan(
    table: str,
    file: Annotated[
        Path | None,
        typer.Argument(
            help='JSON: {"bounds": [8, 64], "kept": [[0], [0, 1], [0, 1, 2]]}, or what search-dimensions wrote.'
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Back to full width.")] = False,
    proposed: Annotated[bool, typer.Option("--proposed", help="What the live search would have.")] = False,
    from_offset: Annotated[
        int | None, typer.Option(min=0, help="Offset of the first message that it holds for; default: the next commit.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = _HERE,
) -> None:
    """Gives the running trainer a dimension plan for one table: which numbers rows of each frequency block keep."""
    import orjson

    from embedding_store.bootstrap import current_definition, stored_schema
    from embedding_store.plan import parse_plan
    from embedding_store.proposal import Proposal, propose, read_proposed

    if (file is not None) + none + proposed != 1:
        typer.echo("dolmen store plan: give a file, --proposed or --none", err=True)
        raise typer.Exit(2)
    with _opened(config, data_dir) as log:
        definition = current_definition(log)
        dims = {t.name: t.dim for t in stored_schema(definition).tables} if definition else {}
        if table not in dims:
            _fail(f"there is no table {table!r} in the store; `dolmen store stats` lists them")
        try:
            value = None if file is None else orjson.loads(file.read_bytes())
            if isinstance(value, dict) and "tables" in value:
                value = value["tables"].get(table) or _fail(f"{file}: has no plan for table {table!r}")
        except orjson.JSONDecodeError as error:
            _fail(f"{file}: is not JSON: {error}")
        if proposed:
            found = read_proposed(log).get(table)
            value = (found or _fail(f"nothing is proposed for table {table!r}; see `dolmen store stats`"))["plan"]
        wanted = Proposal(table, None if value is None else parse_plan(value, table, dims[table]), from_offset)
        try:
            propose(log, wanted)
        except ValueError as error:
            _fail(str(error))
    typer.echo(
        f"the trainer takes the plan of {table!r} over at its next commit"
        if from_offset is None
        else f"the trainer takes the plan of {table!r} over at offset {from_offset}"
    )


@contextmanager
def _opened(config: Path | None, data_dir: Path) -> "Iterator[CommitLog]":
    """The store's log; failures end the command with a message."""
    from embedding_store.errors import StoreError
    from embedding_store.keys import Keys
    from embedding_store.log import CommitLog
    from embedding_store.redis_client import connect
    from services.local.errors import LocalError
    from services.local.ready import read_ready
    from services.settings import load_settings

    store = load_settings(config).store
    try:
        if store.url is None and (running := read_ready(data_dir)):
            store = store.model_copy(update={"url": running.redis_url})
        yield CommitLog(connect(store), Keys(store.prefix))
    except (StoreError, LocalError, OSError) as error:
        _fail(str(error))


def _metrics_urls(config: Path | None, data_dir: Path) -> dict[str, str]:
    """Where the processes tell about themselves that work on the store; empty if none is known to run."""
    from services.local.ready import read_ready
    from services.settings import load_settings

    url = load_settings(config).store.url
    running = read_ready(data_dir)
    return dict(running.metrics_urls) if running and url in (None, running.redis_url) else {}


def _scratch(data_dir: Path) -> Path | None:
    """Where temporary files lie: in a container, /tmp may be memory."""
    return data_dir if data_dir.is_dir() else None


def _fail(text: str) -> NoReturn:
    typer.echo(f"dolmen store: {text}", err=True)
    raise typer.Exit(1)


def _print_json(value: object) -> None:
    import orjson

    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
