"""``dolmen demo``: the whole way, on one machine, with real data."""

import shutil
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from services.local.ready import Addresses
    from services.local.stack import LocalStack
    from services.replay.gauges import GaugeReader
    from services.replay.visitor import Visit
    from services.settings import Settings

_MARK = "made-by-demo"
_LEARN_LIMIT_S = 300.0
_STILL_S = 2.5


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def demo(
        dataset: Annotated[str, typer.Option(help="kuairand, movielens or synthetic.")] = "kuairand",
        limit: Annotated[int | None, typer.Option(min=1, help="At most so many examples.")] = None,
        exit: Annotated[bool, typer.Option("--exit", help="Ends after the summary.")] = False,
        config: Annotated[Path | None, typer.Option("--config", help="A dolmen.toml.")] = None,
        data_dir: Annotated[Path, typer.Option(help="Data of Redis, logs and ready.json.")] = Path(".dolmen"),
    ) -> None:
        """Starts the local stack, learns from a real click stream, ranks for a visitor before and after clicks."""
        from rich.console import Console

        from services.datasets.errors import DatasetError
        from services.local.errors import Interrupted, LocalError
        from services.local.signals import on_stop_signals
        from services.local.stack import LocalStack
        from services.replay.errors import ReplayError
        from services.settings import load_settings

        console = Console(soft_wrap=True)
        settings = load_settings(config, dataset)
        path = config or Path(str(resources.files("services.datasets") / f"{dataset}.toml"))
        try:
            _start_afresh(data_dir, console)
            stack = LocalStack(_with_free_port(settings, console), config=path, data_dir=data_dir)
            with on_stop_signals(stack.request_stop), stack:
                stack.supervise()
                _show(stack, settings, dataset, limit, console)
                if not exit:
                    console.print(f"\nThe page: {stack.addresses.ranker_url}/   Ctrl-C stops everything.")
                    while not stack.stop_requested:
                        stack.check()
                        time.sleep(0.2)
        except Interrupted:
            return
        except (LocalError, DatasetError, ReplayError) as error:
            typer.echo(f"dolmen demo: {error}", err=True)
            raise typer.Exit(1) from None


def _start_afresh(data_dir: Path, console: "Console") -> None:
    """Removes what an earlier demo learned; a store that somebody else filled stays, and is said to."""
    from services.local.lock import DataDir

    directory = DataDir(data_dir)
    try:
        store, mark = directory.path / "valkey", directory.path / _MARK
        if not store.exists():
            mark.touch()
        elif mark.exists():
            shutil.rmtree(store)
        else:
            console.print(f"{store} holds a store already: the demo goes on learning in it (--data-dir takes another)")
    finally:
        directory.release()


def _with_free_port(settings: "Settings", console: "Console") -> "Settings":
    """The ranker on its configured port, or on a free one if that is taken."""
    from services.local.errors import LocalError
    from services.local.ports import claim_port

    try:
        claim_port(settings.ranker.host, settings.ranker.port, "ranker.port")
    except LocalError:
        console.print(f"port {settings.ranker.port} is taken; the ranker gets a free one")
        return settings.model_copy(update={"ranker": settings.ranker.model_copy(update={"port": 0})})
    return settings


def _show(stack: "LocalStack", settings: "Settings", dataset: str, limit: int | None, console: "Console") -> None:
    import httpx

    from services.datasets.reader import open_dataset
    from services.replay.behaviour import Stream, counted
    from services.replay.display import ReplayDisplay, gauge_texts, summary
    from services.replay.gauges import GaugeReader
    from services.replay.producer import KafkaSink
    from services.replay.stream import replay
    from services.replay.visitor import Shop, pick_visitor
    from trainer.connection import kafka_options

    addresses = stack.addresses
    data = open_dataset(dataset, limit)
    console.print(f"Dolmen is ready: ranker {addresses.ranker_url}, Kafka {addresses.bootstrap_servers}")
    console.print(f"{data.title}, from {data.origin} ({data.licence.name}; {data.licence.attribution})\n")
    events = settings.events.model_copy(update={"bootstrap_servers": addresses.bootstrap_servers})
    topics = events.topics
    stream = Stream(data.messages(), dataset, topics.impressions, topics.actions)
    with (
        KafkaSink(kafka_options(events), topics.impressions, more_topics=[topics.actions]) as sink,
        GaugeReader(list(addresses.metrics_urls.values())) as gauges,
    ):
        with ReplayDisplay(dataset, data.examples) as display:
            progress = replay(
                stream,
                sink,
                on_progress=lambda p: display.update(p, gauges.latest(), gauges.first()),
                stopped=lambda: stack.stop_requested,
            )
        console.print(summary(dataset, progress))
        console.print(counted(stream.counts))
        _wait_until_learned(stack, gauges)
        visitor = pick_visitor(open_dataset(dataset, limit).messages())
        with httpx.Client(base_url=addresses.ranker_url, timeout=10.0, trust_env=False) as client:
            shop = Shop(client, visitor)
            shop.rank(shown=True)  # it is later now, so the windows of the last lists close
            _wait_until_learned(stack, gauges, most_pending=1)
            console.print("learned: " + ", ".join(gauge_texts(gauges.read(), gauges.first())) + "\n")
            visit = shop.visit(settings.tasks[0].action_name)
    _print_visit(visit, visitor.user.get("id"), console)
    _say_where(addresses, console)


def _wait_until_learned(stack: "LocalStack", gauges: "GaugeReader", most_pending: int | None = None) -> None:
    """Returns once nothing is left to read and joiner and trainer stand still.

    Args:
        stack: What runs.
        gauges: Of its processes.
        most_pending: How many lists may still wait for clicks; None: any number.
    """
    from services.local.errors import Interrupted
    from services.replay.errors import ReplayError

    limit = time.monotonic() + _LEARN_LIMIT_S
    examples, since = -1, time.monotonic()
    while True:
        stack.check()
        if stack.stop_requested:
            raise Interrupted
        now = gauges.read()
        waits = most_pending is not None and (now.pending or 0) > most_pending
        if now.examples != examples or now.consumer_lag != 0 or waits:
            examples, since = now.examples or 0, time.monotonic()
        elif time.monotonic() - since > _STILL_S:
            return
        if time.monotonic() > limit:
            raise ReplayError(
                f"after {_LEARN_LIMIT_S:.0f} s {now.consumer_lag} messages are left to read, {now.pending} lists wait, "
                f"and {now.examples} examples are learned; the logs of joiner and trainer say why"
            )
        time.sleep(0.2)


def _print_visit(visit: "Visit", user: object, console: "Console") -> None:
    from rich.table import Table

    table = Table("", "before", "score", "after", "score", title=f"Visitor {user}: ten items, ranked twice")
    for place in range(len(visit.before.ids)):
        cells = []
        for ranking in (visit.before, visit.after):
            item = ranking.ids[place]
            mark = "bold" if item == visit.clicked else "dim"
            cells += [f"[{mark}]{item}[/]", f"[{mark}]{ranking.scores[place]:.4f}[/]"]
        table.add_row(str(place + 1), *cells)
    console.print(table)
    console.print(
        f"Clicked {visit.clicked} {visit.clicks} time{'s' if visit.clicks > 1 else ''}: from place "
        f"{visit.before.place(visit.clicked)} to {visit.after.place(visit.clicked)} (commit {visit.before.commit} to "
        f"{visit.after.commit}). The new order showed {visit.seconds:.2f} s after a click."
    )


def _say_where(addresses: "Addresses", console: "Console") -> None:
    console.print(f"API: {addresses.ranker_url}/docs, metrics: {', '.join(addresses.metrics_urls.values())}")
