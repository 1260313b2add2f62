"""``dolmen train``: the batch stage. The trainer itself learns from an archive, and says where in Kafka to go on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from services.archive.source import ArchiveSource
    from services.settings import Settings
    from trainer.validation import Quality


class Position(StrEnum):
    """What the store knows of Kafka afterwards."""

    KEEP = "keep"
    NONE = "none"


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def train(
        path: Annotated[str | None, typer.Option("--from", help="An archive; default: `archive.path`.")] = None,
        until: Annotated[
            str | None, typer.Option(help="An RFC 3339 time: messages that came to Kafka before it, no later ones.")
        ] = None,
        position: Annotated[
            Position, typer.Option(help="keep: the trainer goes on in Kafka behind what was learned; none: anywhere.")
        ] = Position.KEEP,
        config: Annotated[Path | None, typer.Option(help="A dolmen.toml.")] = None,
        data_dir: Annotated[
            Path, typer.Option(help="Of the local stack; without `store.url`, its Redis is started on it.")
        ] = Path(".dolmen"),
    ) -> None:
        """Learns from archived examples, in a fixed order, and ends. Stopped, it goes on where it was.

        No other trainer may run on the store meanwhile. `dolmen trainer` goes on from there.
        """
        from services.archive.errors import ArchiveError
        from services.cli.process import setup_logging
        from services.cli.trainer_config import trainer_failures
        from services.local.errors import LocalError
        from services.settings import ConfigError, load_settings
        from trainer.settings import parse_rfc3339_ms

        settings = load_settings(config)
        path = path or settings.archive.path
        if path is None:
            raise ConfigError("--from: is missing, and so is archive.path; it names the archive")
        try:
            until_ms = None if until is None else parse_rfc3339_ms(until)
        except ValueError:
            raise ConfigError(f'--until: {until!r} is no RFC 3339 time such as "2026-01-31T12:00:00Z"') from None
        setup_logging()
        try:
            with trainer_failures("train", data_dir), _with_store(settings, data_dir) as stored:
                _train(stored, path, until_ms, position is Position.KEEP, data_dir)
        except (ArchiveError, LocalError) as error:
            typer.echo(f"dolmen train: {error}", err=True)
            raise typer.Exit(1) from None


def _train(settings: "Settings", path: str, until_ms: int | None, keeps_position: bool, data_dir: Path) -> None:
    """Learns from one generation of the topic after the other."""
    from dataclasses import replace

    from embedding_store.bootstrap import current_positions
    from embedding_store.keys import Keys
    from embedding_store.log import CommitLog
    from embedding_store.redis_client import connect
    from embedding_store.removal import forget_positions
    from services.archive.errors import ArchiveError
    from services.archive.reader import Archive
    from services.archive.source import ArchiveSource
    from services.archive.storage import Storage
    from services.cli.process import stop_on_signals, tune_garbage_collection
    from services.cli.trainer_config import make_trainer_config
    from trainer.app import Trainer

    log = CommitLog(connect(settings.store), Keys(settings.store.prefix))
    if current_positions(log) == {}:
        raise ArchiveError(
            "the store has learned already, and does not say from what; train into an empty store, or another "
            "store.prefix"
        )
    archive = Archive(Storage(path))
    if not archive.ends:
        raise ArchiveError("the archive holds no message yet")
    running = make_trainer_config(settings, data_dir)
    running = replace(running, trainer=settings.trainer.model_copy(update={"deterministic": True}))
    tune_garbage_collection()
    stop = stop_on_signals()
    last = list(archive.ends)[-1:]
    for topic_id in archive.ends:
        waits = keeps_position and settings.trainer.deterministic and [topic_id] == last
        source = ArchiveSource(archive, topic_id, until_ms, learns_rest=not waits)
        trainer = Trainer(running, stop, source=source)
        trainer.run()
        _tell(topic_id, source, trainer.qualities)
        if stop.is_set():
            typer.echo("dolmen train: stopped; start it again to go on", err=True)
            raise typer.Exit(1)
        if any(source.lag().values()):
            break  # `until` lies here
    if not keeps_position:
        forget_positions(log)


def _tell(topic_id: str, source: "ArchiveSource", qualities: "Mapping[str, Quality]") -> None:
    offsets = [position.offsets for position in source.positions().values()]
    at = ", ".join(f"partition {p} at {offset:,}" for one in offsets for p, offset in sorted(one.items()))
    typer.echo(f"topic id {topic_id}: {source.messages:,} messages read; {at}")
    for task, quality in qualities.items():
        typer.echo(
            f"{task}: AUC {quality.auc:.4f}, log loss {quality.log_loss:.4f}, scored before they were learned from"
        )
    letters = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(source.dead_letters.items()))
    if letters:
        typer.echo(f"not learned from: {letters}")


@contextmanager
def _with_store(settings: "Settings", data_dir: Path) -> Iterator["Settings"]:
    """The settings with the store that is trained into. Without a URL: the local stack's, which must not run."""
    if settings.store.url is not None:
        yield settings
        return
    from services.local.lock import DataDir
    from services.local.servers import start_valkey

    directory = DataDir(data_dir)
    try:
        with start_valkey(directory.path / "valkey") as server:
            store = settings.store.model_copy(update={"url": server.url})
            yield settings.model_copy(update={"store": store})
    finally:
        directory.release()
