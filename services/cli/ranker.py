"""``dolmen ranker``: ranks by HTTP."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def ranker(config: Annotated[Path | None, typer.Option(help="A dolmen.toml.")] = None) -> None:
        """Serves HTTP: ranks with the latest parameters of the store, until SIGTERM or Ctrl-C."""
        from services.cli.process import setup_logging, stop_on_signals
        from services.settings import load_settings

        settings = load_settings(config)
        setup_logging()
        stop = stop_on_signals()
        host, port = settings.ranker.host, settings.ranker.port

        from services.ranker.app import listen, serve
        from trainer.connection import kafka_options

        try:
            bound = listen(host, port)
        except OSError as error:
            reason = error.strerror or str(error)
            typer.echo(
                f"dolmen ranker: cannot listen on {host}:{port}: {reason}; change ranker.host or ranker.port "
                "(DOLMEN_RANKER__PORT; 0: a free one)",
                err=True,
            )
            raise typer.Exit(1) from None
        serve(settings, kafka_options(settings.events), bound, stop)
