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
        from services.cli.process import setup_logging, stop_on_signals, tune_garbage_collection
        from services.cli.trainer_config import make_trainer_config, trainer_failures
        from services.settings import load_settings
        from trainer.app import Trainer

        settings = load_settings(config)
        with trainer_failures("trainer", data_dir):
            setup_logging()
            tune_garbage_collection()
            Trainer(make_trainer_config(settings, data_dir), stop_on_signals()).run()
