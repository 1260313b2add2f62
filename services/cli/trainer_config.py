"""What ``dolmen trainer`` and ``dolmen train`` share: the trainer's configuration, and what its failures mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from services.settings import Settings
    from trainer.settings import TrainerConfig


def make_trainer_config(settings: "Settings", data_dir: Path) -> "TrainerConfig":
    """The trainer's own settings.

    Args:
        settings: The effective settings.
        data_dir: Where a rescue dump goes if the store is lost.
    """
    from trainer.settings import TrainerConfig

    return TrainerConfig(
        definition=settings.definition(),
        trainer=settings.trainer,
        store=settings.store,
        events=settings.events,
        metrics_host=settings.metrics.host,
        metrics_port=settings.metrics.port,
        rescue=data_dir / "rescue.dump",
    )


@contextmanager
def trainer_failures(command: str, data_dir: Path) -> Iterator[None]:
    """Ends the command where its trainer must not start, or failed: exit code 3 if starting it again does not help.

    Args:
        command: Its name.
        data_dir: Where a rescue dump may lie.
    """
    from embedding_store.errors import DefinitionConflict, Fenced, ServerEvicts, StoreEmptied, StoreError
    from trainer.errors import LogLost, TrainerError

    rescue = data_dir / "rescue.dump"
    if rescue.exists():  # whoever starts this process again and again must not begin anew beside it
        typer.echo(
            f"dolmen {command}: {rescue} holds what the store lost. Bring it back with `dolmen store load "
            f"{rescue}`; then, or to begin anew, move the file away.",
            err=True,
        )
        raise typer.Exit(3)
    try:
        yield
    except (Fenced, ServerEvicts, StoreEmptied, LogLost, DefinitionConflict) as error:
        typer.echo(f"dolmen {command}: {error}", err=True)
        raise typer.Exit(3) from None
    except (StoreError, TrainerError) as error:
        typer.echo(f"dolmen {command}: {error}", err=True)
        raise typer.Exit(1) from None
