"""``dolmen evaluate``: progressive validation in one process."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def evaluate(
        dataset: Annotated[str | None, typer.Option(help="kuairand, movielens, movietweetings or synthetic.")] = None,
        file: Annotated[
            Path | None, typer.Option(help="NDJSON of the examples topic's messages, plain or .gz.")
        ] = None,
        config: Annotated[Path | None, typer.Option(help="A dolmen.toml.")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="At most so many examples.")] = None,
        tail: Annotated[int | None, typer.Option(min=1, help="Adds the AUC over the last so many examples.")] = None,
        json: Annotated[Path | None, typer.Option(help="Writes the figures here, as one JSON object.")] = None,
        curves: Annotated[
            Path | None, typer.Option(help="Draws the curves here, as PNG; default: beside the JSON.")
        ] = None,
    ) -> None:
        """Scores a whole stream, each list before anything is learned from it, and tells how good the scores were."""
        if (dataset is None) == (file is None):
            raise typer.BadParameter("give either --dataset or --file")
        drawing = _drawing(json, curves)
        import orjson

        from services.cli.columns import read_columns
        from services.datasets.errors import DatasetError
        from services.settings import load_settings
        from trainer.errors import BadRecord
        from trainer.evaluation import evaluate as run
        from trainer.features import Featurizer
        from trainer.slices import Slices

        settings = load_settings(config, dataset)
        definition = settings.definition()
        slices = Slices(settings.trainer.slices, definition.features, settings.trainer.slice_values)
        sources = tuple(sorted({*Featurizer(definition).sources, *slices.sources}))
        tasks = [task.name for task in definition.tasks]
        try:
            evaluation = run(
                definition, read_columns(dataset, file, limit, sources, tasks), settings.trainer.batch_size, slices
            )
        except (DatasetError, BadRecord, OSError) as error:
            typer.echo(f"dolmen evaluate: {error}", err=True)
            raise typer.Exit(1) from None
        report = evaluation.report(tail)
        if drawing is not None:
            from services.cli.curves import draw

            draw(evaluation, report, drawing)
        if json is not None:
            json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
        _print(report)


def _drawing(json: Path | None, curves: Path | None) -> Path | None:
    """Where to draw, checked before the long work; None where nobody asked, or nothing can draw."""
    for option, path in (("--json", json), ("--curves", curves)):
        if path is not None and not path.resolve().parent.is_dir():
            raise typer.BadParameter(f"there is no folder {path.parent}", param_hint=option)
    target = curves or (json.with_suffix(".png") if json is not None else None)
    if target is None:
        return None
    if json is not None and target.resolve() == json.resolve():
        raise typer.BadParameter("is the file that --json writes", param_hint="--curves")
    if find_spec("matplotlib") is None:
        text = "drawing needs matplotlib: pip install 'dolmen[plots]'"
        if curves is not None:
            typer.echo(f"dolmen evaluate: {text}", err=True)
            raise typer.Exit(1)
        typer.echo(f"no curves beside the JSON: {text}", err=True)
        return None
    return target


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    def heading(name: str) -> Column:
        """One whose words no narrow terminal cuts."""
        return Column(name.replace("_", " "), min_width=max(map(len, name.split("_"))))

    console = Console()
    first = next(iter(report["tasks"].values()))
    columns = [name for name in first if name not in ("reliability", "slices")]
    table = Table("task", *map(heading, columns))
    for task, row in report["tasks"].items():
        table.add_row(task, *(_figure(row.get(name)) for name in columns))
    console.print(table, crop=False)
    for task, row in report["tasks"].items():
        for name, values in row.get("slices", {}).items():
            if not values:
                continue
            table = Table(f"{task} by {name}", *(heading(key) for key in values[0] if key != "value"))
            for one in values:
                table.add_row(escape(one["value"]), *(_figure(v) for key, v in one.items() if key != "value"))
            console.print(table, crop=False)
    parameters = report["parameters"]
    console.print(
        f"{report['examples']:,} examples in {report['seconds']:.2f} s: "
        f"{report['examples_per_second']:,.0f} examples/s; {report['rows']:,} rows, "
        f"{parameters['embedding']:,} + {parameters['dense']:,} parameters, {report['bytes']:,} bytes"
    )
