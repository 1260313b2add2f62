"""``dolmen replay``: streams a data set into Kafka."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from services.local.ready import Addresses
    from services.replay.behaviour import Behaviour
    from services.replay.pace import Rate
    from services.settings import Settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def replay(
        dataset: Annotated[str | None, typer.Option(help="kuairand, movielens, movietweetings or synthetic")] = None,
        file: Annotated[
            Path | None, typer.Option(exists=True, dir_okay=False, readable=True, help="messages, NDJSON, plain or .gz")
        ] = None,
        topic: Annotated[str, typer.Option(help="examples, or events: impressions and actions")] = "examples",
        rate: Annotated[str, typer.Option(help="max, N examples a second, or xN times event time")] = "max",
        limit: Annotated[int | None, typer.Option(min=1, help="at most N examples; lists are never split")] = None,
        seed: Annotated[int, typer.Option(min=0, help="of events: equal seeds give equal messages")] = 1,
        delay: Annotated[str, typer.Option(help="of events: mean time from an impression to an action")] = "5s",
        late: Annotated[float, typer.Option(min=0, max=1, help="of events: share that comes late")] = 0.0,
        late_by: Annotated[str, typer.Option(help="of events: how late at most")] = "4s",
        repeated: Annotated[float, typer.Option(min=0, max=1, help="of events: share that comes twice")] = 0.0,
        lost: Annotated[float, typer.Option(min=0, max=1, help="of events: share that never comes")] = 0.0,
        config: Annotated[Path | None, typer.Option("--config", help="dolmen.toml")] = None,
        data_dir: Annotated[Path, typer.Option(help="where ready.json of a running `dolmen up` is")] = Path(".dolmen"),
    ) -> None:
        """Stream a data set, or a file of messages, into Kafka in event-time order.

        As events, a data set's labels become actions of their visitors, and outcomes too, with their values.
        """
        from services.datasets.errors import DatasetError
        from services.datasets.reader import NAMES
        from services.local.errors import LocalError
        from services.replay.behaviour import Behaviour
        from services.replay.errors import ReplayError
        from services.replay.pace import parse_rate
        from services.settings import load_settings

        if topic not in ("examples", "events"):
            raise typer.BadParameter(f"{topic!r}: there are examples and events", param_hint="--topic")
        if (dataset is None) == (file is None):
            raise typer.BadParameter("give one of --dataset and --file", param_hint="--dataset")
        if dataset is not None and dataset not in NAMES:
            raise typer.BadParameter(f"there is no {dataset!r}; there are {', '.join(NAMES)}", param_hint="--dataset")
        try:
            speed = parse_rate(rate)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--rate") from None
        times_ms = {"--delay": delay, "--late-by": late_by}
        delay_ms, late_ms = (_duration_ms(text, option) for option, text in times_ms.items())
        behaviour = Behaviour(seed, delay_ms, late, late_ms, repeated, lost) if topic == "events" else None
        settings = load_settings(config)
        try:
            _run(settings, data_dir, dataset, file, speed, limit, behaviour)
        except (ReplayError, DatasetError, LocalError) as error:
            typer.echo(f"dolmen: {error}", err=True)
            raise typer.Exit(1) from None


def _duration_ms(text: str, option: str) -> int:
    from embedding_store.settings import parse_duration_ms

    try:
        return parse_duration_ms(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _run(
    settings: "Settings",
    data_dir: Path,
    name: str | None,
    file: Path | None,
    speed: "Rate",
    limit: int | None,
    behaviour: "Behaviour | None",
) -> None:
    from services.datasets.reader import open_dataset, open_file
    from services.local.ready import read_ready
    from services.replay.behaviour import Stream, counted
    from services.replay.display import ReplayDisplay, summary
    from services.replay.gauges import GaugeReader
    from services.replay.message import Message, encode, encode_lines, event_message, example_message
    from services.replay.producer import KafkaSink
    from services.replay.stream import replay
    from trainer.connection import kafka_options

    ready = read_ready(data_dir)
    servers = _servers(settings, ready, data_dir)
    topics = settings.events.topics
    total: int | None = None
    messages: Iterable[Message]
    if name is not None:
        dataset = open_dataset(name, limit)
        title, total, lists = name, dataset.examples, dataset.messages()
        if behaviour is None:
            messages = encode(lists)
        else:
            messages = Stream(lists, name, topics.impressions, topics.actions, behaviour)
        typer.echo(f"{dataset.title}: {dataset.origin}. Licence: {dataset.licence.name}", err=True)
    elif file is not None:
        describe = example_message if behaviour is None else event_message(topics.impressions, topics.actions)
        title, messages = file.name, encode_lines(open_file(file), limit, describe)
    events = settings.events.model_copy(update={"bootstrap_servers": servers})
    urls = list(ready.metrics_urls.values()) if ready is not None and ready.bootstrap_servers == servers else []
    names = (topics.examples,) if behaviour is None else (topics.impressions, topics.actions)
    with (
        KafkaSink(kafka_options(events), names[0], events.partitions, more_topics=names[1:]) as sink,
        GaugeReader(urls) as gauges,
        _stop_signals() as stop,
    ):
        with ReplayDisplay(title, total) as display:
            progress = replay(
                messages,
                sink,
                speed,
                on_progress=lambda p: display.update(p, gauges.latest(), gauges.first()),
                stopped=stop.is_set,
            )
        typer.echo(summary(title, progress))
        if isinstance(messages, Stream):
            typer.echo(counted(messages.counts))


def _servers(settings: "Settings", ready: "Addresses | None", data_dir: Path) -> str:
    from services.replay.errors import ReplayError

    servers = settings.events.bootstrap_servers or (ready.bootstrap_servers if ready is not None else None)
    if servers is None:
        raise ReplayError(
            f"there is no Kafka to stream to: start `dolmen up` (its addresses would be in {data_dir / 'ready.json'}), "
            "or set events.bootstrap_servers"
        )
    return servers


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
