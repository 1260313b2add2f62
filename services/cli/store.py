"""``dolmen store``: looking into the parameter store, saving it, filling it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from embedding_store.log import CommitLog

Config = Annotated[Path | None, typer.Option(help="A dolmen.toml.")]
DataDir = Annotated[Path, typer.Option(help="Of the local stack; its store is taken where no URL is configured.")]
AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON.")]
_HERE = Path(".dolmen")


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(help="Looks into the parameter store, saves it, fills it.", no_args_is_help=True)
    for command in (stats, inspect, dump, load, verify, drop, plan):
        group.command()(command)
    app.add_typer(group, name="store")


def stats(config: Config = None, data_dir: DataDir = _HERE, json: AsJson = False) -> None:
    """Tells rows, bytes and widths of each table, the last commit, and the consumed offsets."""
    from embedding_store.inspection import describe

    with _opened(config, data_dir) as log:
        found = describe(log)
    if json:
        _print_json(found)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("table", "rows", "bytes in Redis", "widths")
    for name, row in found["tables"].items():
        table.add_row(name, f"{row['rows']:,}", f"{row['bytes']:,}", ", ".join(row["widths"]))
    console = Console()
    console.print(table)
    log_part = found["log"]
    console.print(
        f"commit {found['commit']}; log: {log_part['entries']} entries, {log_part['bytes']:,} bytes, "
        f"{log_part['unfolded']} not in the rows yet"
    )
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
    from embedding_store.bootstrap import bootstrap
    from embedding_store.dump import write_dump

    with _opened(config, data_dir) as log:
        snapshot = bootstrap(log, learning=True)
        if snapshot is None:
            _fail("the store is empty: there is nothing to dump")
        part = file.with_name(file.name + ".part")
        with part.open("wb") as out:
            write_dump(out, snapshot)
        part.replace(file)
    typer.echo(
        f"{file}: commit {snapshot.id.seq}, {int(snapshot.shard.counts.sum())} rows, {file.stat().st_size} bytes"
    )


def load(file: Path, config: Config = None, data_dir: DataDir = _HERE) -> None:
    """Fills an empty store from a dump."""
    from embedding_store.dump import load_dump, read_dump

    with _opened(config, data_dir) as log:
        found = read_dump(file)
        load_dump(log, found)
    typer.echo(f"{file}: {found.rows} rows of {len(found.tables)} tables loaded")


def verify(config: Config = None, data_dir: DataDir = _HERE, json: AsJson = False) -> None:
    """Checks every invariant of the store; exit code 1 if one does not hold."""
    from embedding_store.inspection import verify as check

    with _opened(config, data_dir) as log:
        verdict = check(log)
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
        Path | None, typer.Argument(help='JSON: {"bounds": [8, 64], "kept": [[0], [0, 1], [0, 1, 2]]}.')
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Back to full width.")] = False,
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
    from embedding_store.proposal import Proposal, propose

    if (file is None) == (not none):
        typer.echo("dolmen store plan: give either a file or --none", err=True)
        raise typer.Exit(2)
    with _opened(config, data_dir) as log:
        definition = current_definition(log)
        dims = {t.name: t.dim for t in stored_schema(definition).tables} if definition else {}
        if table not in dims:
            _fail(f"there is no table {table!r} in the store; `dolmen store stats` lists them")
        try:
            value = None if file is None else orjson.loads(file.read_bytes())
        except orjson.JSONDecodeError as error:
            _fail(f"{file}: is not JSON: {error}")
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

    settings = load_settings(config)
    store = settings.store
    try:
        if store.url is None and (running := read_ready(data_dir)):
            store = store.model_copy(update={"url": running.redis_url})
        yield CommitLog(connect(store), Keys(store.prefix))
    except (StoreError, LocalError, OSError) as error:
        _fail(str(error))


def _fail(text: str) -> NoReturn:
    typer.echo(f"dolmen store: {text}", err=True)
    raise typer.Exit(1)


def _print_json(value: object) -> None:
    import orjson

    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
