"""``dolmen doctor``: looks at everything that Dolmen needs, and says what to do."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from services.doctor import Check
    from services.settings import Settings

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def doctor(
        config: Annotated[Path | None, typer.Option("--config", help="dolmen.toml")] = None,
        data_dir: Annotated[Path, typer.Option(help="where ready.json of a running `dolmen up` is")] = Path(".dolmen"),
        as_json: Annotated[bool, typer.Option("--json", help="a list of objects instead of a table")] = False,
    ) -> None:
        """Check Redis, Kafka, topics, versions, clock and disk, and say what to do. Exit code 1 if anything fails."""
        from services.doctor import check_disk, check_redis, check_versions, failed
        from services.doctor_kafka import check_kafka
        from services.joiner.rules import make_rules
        from services.settings import load_settings

        logging.getLogger("kafka").addHandler(logging.NullHandler())  # what it logs, the checks say in plain words
        settings = load_settings(config)
        redis_url, servers = _find_addresses(settings, data_dir)
        horizon_ms = make_rules(settings.joiner, settings.tasks, settings.outcomes).horizon_ms
        checks = [
            *check_redis(settings.store.model_copy(update={"url": redis_url})),
            *check_kafka(settings.events.model_copy(update={"bootstrap_servers": servers}), horizon_ms),
            *check_versions(),
            check_disk(data_dir),
        ]
        _print(checks, as_json=as_json)
        if failed(checks):
            raise typer.Exit(1)


def _find_addresses(settings: "Settings", data_dir: Path) -> tuple[str | None, str | None]:
    """Configured addresses, else those of the stack that runs here, else None for the defaults."""
    from services.local.errors import LocalError
    from services.local.ready import read_ready

    url, servers = settings.store.url, settings.events.bootstrap_servers
    if url is not None and servers is not None:
        return url, servers
    try:
        ready = read_ready(data_dir)
    except LocalError as error:
        typer.echo(f"dolmen: {error}", err=True)
        raise typer.Exit(1) from None
    if ready is None:
        return url, servers
    return url or ready.redis_url, servers or ready.bootstrap_servers


def _print(checks: Sequence["Check"], *, as_json: bool) -> None:
    if as_json:
        import orjson

        typer.echo(orjson.dumps([asdict(check) for check in checks], option=orjson.OPT_INDENT_2).decode())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for check in checks:
        status = f"[{_COLOURS[check.status]}]{check.status}[/]"
        table.add_row(status, escape(check.name), escape(check.detail))
        if check.remedy:
            table.add_row("", "", f"[bold]→[/] {escape(check.remedy)}")
    Console().print(table)
