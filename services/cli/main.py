"""``dolmen``: every command in one place. A command's module is imported only when it runs."""

import importlib
import sys

import typer

from services.settings import ConfigError

app = typer.Typer(
    name="dolmen",
    help="An online-training recommender: it learns from a click while the visitor is still on the page.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _named() -> None:
    """Keeps a command's name on the command line, however few commands are registered."""


COMMANDS = (
    "up", "demo", "replay", "trainer", "train", "joiner", "archive", "ranker", "evaluate", "experiment", "explain",
    "search-dimensions", "store", "config", "doctor",
)  # fmt: skip


def main() -> None:
    """Runs one command; exit code 2 for bad usage or configuration, 1 for a failure at run time."""
    named = [word for word in sys.argv[1:2] if word in COMMANDS]
    for name in named or COMMANDS:
        importlib.import_module(f"services.cli.{name.replace('-', '_')}").register(app)
    try:
        app()
    except ConfigError as error:
        typer.echo(f"dolmen: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
