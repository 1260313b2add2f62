"""``dolmen trainer``: learns from the stream."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def trainer(
        config: Annotated[Path | None, typer.Option(help="A dolmen.toml.")] = None,
        data_dir: Annotated[Path, typer.Option(help="Where a rescue dump goes if the store is lost.")] = Path(
            ".dolmen"
        ),
    ) -> None:
        """Learns from the examples in Kafka and commits to the store, until SIGTERM or Ctrl-C."""
        from embedding_store.errors import DefinitionConflict, Fenced, ServerEvicts, StoreEmptied, StoreError
        from services.cli.process import setup_logging, stop_on_signals, tune_garbage_collection
        from services.settings import load_settings
        from trainer.app import Trainer
        from trainer.errors import LogLost, TrainerError
        from trainer.settings import TrainerConfig

        settings = load_settings(config)
        rescue = data_dir / "rescue.dump"
        if rescue.exists():  # whoever starts this process again and again must not begin anew beside it
            typer.echo(
                f"dolmen trainer: {rescue} holds what the store lost. Bring it back with `dolmen store load "
                f"{rescue}`; then, or to begin anew, move the file away.",
                err=True,
            )
            raise typer.Exit(3)
        setup_logging()
        tune_garbage_collection()
        running = TrainerConfig(
            definition=settings.definition(),
            trainer=settings.trainer,
            store=settings.store,
            events=settings.events,
            metrics_host=settings.metrics.host,
            metrics_port=settings.metrics.port,
            rescue=rescue,
        )
        try:
            Trainer(running, stop_on_signals()).run()
        except (Fenced, ServerEvicts, StoreEmptied, LogLost, DefinitionConflict) as error:
            typer.echo(f"dolmen trainer: {error}", err=True)
            raise typer.Exit(3) from None
        except (StoreError, TrainerError) as error:
            typer.echo(f"dolmen trainer: {error}", err=True)
            raise typer.Exit(1) from None
