"""``dolmen joiner``: makes examples of impressions and actions."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def joiner(
        config: Annotated[Path | None, typer.Option(help="A dolmen.toml.")] = None,
        data_dir: Annotated[
            Path, typer.Option(help="Where what does not fit into memory waits; deleted at every start.")
        ] = Path(".dolmen"),
    ) -> None:
        """Joins impressions with what came of them, and writes examples, until SIGTERM or Ctrl-C."""
        from services.cli.process import setup_logging, stop_on_signals, tune_garbage_collection
        from services.joiner.app import Joiner, JoinerConfig
        from services.joiner.errors import JoinerError
        from services.joiner.rules import make_rules
        from services.settings import load_settings
        from services.topics import TopicsUnequal
        from trainer.errors import LogLost

        settings = load_settings(config)
        setup_logging()
        tune_garbage_collection()
        running = JoinerConfig(
            joiner=settings.joiner,
            rules=make_rules(settings.joiner, settings.tasks, settings.outcomes),
            events=settings.events,
            metrics_host=settings.metrics.host,
            metrics_port=settings.metrics.port,
            directory=data_dir / "joiner",
        )
        try:
            Joiner(running, stop_on_signals()).run()
        except (JoinerError, TopicsUnequal, LogLost) as error:
            typer.echo(f"dolmen joiner: {error}", err=True)
            raise typer.Exit(3) from None
