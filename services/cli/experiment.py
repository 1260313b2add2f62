"""``dolmen experiment``: the papers' experiments, each a page with a table and a drawing."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

_NEEDED = {
    "experiments": "this installation has no experiments (images leave them out): install Dolmen with pip",
    "matplotlib": "drawing needs matplotlib: pip install 'dolmen[plots]'",
}


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def experiment(
        name: Annotated[str | None, typer.Argument(help="Which one; without: lists them.")] = None,
        all: Annotated[bool, typer.Option("--all", help="All of them, and the index.")] = False,
        quick: Annotated[bool, typer.Option(help="Small, to see that it runs.")] = False,
        seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 1,
        out: Annotated[Path, typer.Option(help="The folder of the pages.")] = Path("docs/experiments"),
    ) -> None:
        """Runs an experiment and writes its page, its drawing and the index of all pages."""
        for package, remedy in _NEEDED.items():
            if find_spec(package) is None:
                typer.echo(f"dolmen experiment: {remedy}", err=True)
                raise typer.Exit(1)
        from experiments.page import write_index
        from experiments.run import EXPERIMENTS, QUICK, Run, run_and_write
        from services.datasets.errors import DatasetError

        if name is None and not all:
            for one, question in EXPERIMENTS.items():
                typer.echo(f"{one:12} {question}")
            return
        if name is not None and all:
            raise typer.BadParameter("give either a name or --all")
        if name is not None and name not in EXPERIMENTS:
            raise typer.BadParameter(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
        how = replace(QUICK if quick else Run(), seed=seed)
        flag = " --quick" if quick else ""
        try:
            out.mkdir(parents=True, exist_ok=True)
            for one in [name] if name is not None else list(EXPERIMENTS):
                typer.echo(f"{one}: {run_and_write(one, how, quick, out).finding}")
            write_index(list(EXPERIMENTS), out, f"dolmen experiment --all{flag} --seed {seed}")
        except (DatasetError, OSError) as error:
            typer.echo(f"dolmen experiment: {error}", err=True)
            raise typer.Exit(1) from None
