"""``dolmen up``: the local stack, until Ctrl-C."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from services.local.ready import Addresses


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def up(
        config: Annotated[Path | None, typer.Option("--config", help="dolmen.toml")] = None,
        ready_file: Annotated[Path | None, typer.Option(help="addresses as JSON, once all are ready")] = None,
        data_dir: Annotated[Path, typer.Option(help="data of Redis, logs and ready.json")] = Path(".dolmen"),
    ) -> None:
        """Start Redis, Kafka, joiner, trainer and ranker on this machine, and keep them running until Ctrl-C.

        Redis and Kafka are embedded servers unless `store.url` and `events.bootstrap_servers` are set.
        Where `archive.path` is set, the archiver is started, too.
        """
        from services.local.errors import Interrupted, LocalError
        from services.local.signals import on_stop_signals
        from services.local.stack import LocalStack
        from services.settings import load_settings

        stack = LocalStack(load_settings(config), config=config, data_dir=data_dir, ready_file=ready_file)
        with on_stop_signals(stack.request_stop):
            try:
                with stack:
                    _print_addresses(stack.addresses, data_dir)
                    stack.wait()
            except Interrupted:
                return
            except LocalError as error:
                typer.echo(f"dolmen: {error}", err=True)
                raise typer.Exit(error.exit_code) from None


def _print_addresses(addresses: "Addresses", data_dir: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from services.settings import masked

    table = Table(title="Dolmen is ready", title_justify="left", show_header=False, box=None)
    rows = {
        "ranker": addresses.ranker_url,
        "API": f"{addresses.ranker_url}/docs",
        "Redis": masked(addresses.redis_url),
        "Kafka": addresses.bootstrap_servers,
        **{f"metrics of {name}": url for name, url in addresses.metrics_urls.items()},
        "data and logs": str(data_dir.resolve()),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console(soft_wrap=True)
    console.print(table, markup=False)
    console.print("Ctrl-C stops everything.")
