"""``dolmen archive``: keeps the examples of Kafka as Parquet files."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def archive(config: Annotated[Path | None, typer.Option(help="A dolmen.toml.")] = None) -> None:
        """Archives the examples in Kafka under `archive.path`, until SIGTERM or Ctrl-C."""
        from services.archive.app import Archiver, ArchiverConfig
        from services.archive.errors import ArchiveError
        from services.cli.process import setup_logging, stop_on_signals, tune_garbage_collection
        from services.settings import ConfigError, load_settings
        from trainer.errors import LogLost

        settings = load_settings(config)
        if settings.archive.path is None:
            raise ConfigError("archive.path: is missing; it names the folder, or a URL such as s3://bucket/examples")
        setup_logging()
        tune_garbage_collection()
        running = ArchiverConfig(
            archive=settings.archive,
            path=settings.archive.path,
            events=settings.events,
            metrics_host=settings.metrics.host,
            metrics_port=settings.metrics.port,
        )
        try:
            Archiver(running, stop_on_signals()).run()
        except (ArchiveError, LogLost) as error:
            typer.echo(f"dolmen archive: {error}", err=True)
            raise typer.Exit(3) from None
