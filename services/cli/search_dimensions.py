"""``dolmen search-dimensions``: how many numbers the vectors of each table need, by how often their ids are seen."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from trainer.search.recipe import Recipe
    from trainer.search.report import Report


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(name="search-dimensions")
    def search_dimensions(
        out: Annotated[Path, typer.Option(help="The plan, a .json file; or a folder, which gets plan.json.")],
        dataset: Annotated[str | None, typer.Option(help="kuairand, movielens, movietweetings or synthetic.")] = None,
        file: Annotated[
            Path | None, typer.Option(help="NDJSON of the examples topic's messages, plain or .gz.")
        ] = None,
        config: Annotated[
            Path | None, typer.Option(help="A dolmen.toml; default: the data set's, its signal in the vectors.")
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="At most so many examples.")] = None,
        target_parameters: Annotated[
            float | None, typer.Option(min=0, max=1, help="Share of the vectors' numbers to keep; default 0.3.")
        ] = None,
        max_loss: Annotated[
            float | None, typer.Option(min=0, help="In place of it: the largest loss of validation AUC.")
        ] = None,
        budget: Annotated[str, typer.Option(help="Passes over the training part, all in all.")] = "3x",
        faithful: Annotated[bool, typer.Option("--faithful", help="The paper's schedule, whatever it costs.")] = False,
        order: Annotated[int, typer.Option(min=1, max=2, help="2: the selection looks a step ahead.")] = 1,
        align: Annotated[bool, typer.Option(help="Rotate the axes before the search.")] = True,
        retrain: Annotated[
            bool, typer.Option("--retrain", help="Also train the pruned model afresh, and take the better.")
        ] = False,
        table: Annotated[list[str] | None, typer.Option(help="Only this table; may be given again.")] = None,
        seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 1,
    ) -> None:
        """Searches a data set for the dimensions that each frequency block of ids needs, and writes a plan."""
        if (dataset is None) == (file is None):
            raise typer.BadParameter("give either --dataset or --file")
        if target_parameters is not None and max_loss is not None:
            raise typer.BadParameter("give either --target-parameters or --max-loss")
        plan = out if out.suffix == ".json" else out / "plan.json"
        from services.cli.columns import read_columns
        from services.datasets.errors import DatasetError
        from services.settings import SHIPPED, load_settings
        from trainer.errors import BadRecord, SearchError
        from trainer.features import Featurizer
        from trainer.search.matrices import from_stream
        from trainer.search.report import run

        vectors = f"{dataset}_vectors"
        settings = load_settings(config, vectors if vectors in SHIPPED else dataset)
        definition = settings.definition()
        try:
            recipe = _recipe(budget, faithful, seed=seed, order=order, align=align)
            plan.parent.mkdir(parents=True, exist_ok=True)
            stream = read_columns(
                dataset, file, limit, Featurizer(definition).sources, [task.name for task in definition.tasks]
            )
            data = from_stream(definition, (columns for columns, _ in stream), settings.trainer.batch_size)
            target = 0.3 if target_parameters is None else target_parameters
            report = run(definition, data, recipe, target, max_loss, table, retrain)
        except (DatasetError, BadRecord, SearchError, OSError) as error:
            _fail(str(error))
        _write(report, plan)
        typer.echo(report.markdown())
        typer.echo(f"\n{plan}: give it to a running trainer, table by table: dolmen store plan TABLE {plan}")


def _recipe(budget: str, faithful: bool, **changes: Any) -> "Recipe":
    from trainer.search.recipe import Recipe

    try:
        passes = float(budget.removesuffix("x"))
    except ValueError:
        raise typer.BadParameter(f"{budget!r} is no number of passes, such as 3x", param_hint="--budget") from None
    if not faithful:
        return Recipe.budget(passes, **changes)
    return Recipe.faithful(**{**changes, "align": False})


def _write(report: "Report", plan: Path) -> None:
    """The plan, and beside it the report as JSON, as Markdown and as PNG."""
    import orjson

    for path, value in ((plan, report.plan()), (plan.with_suffix(".report.json"), report.to_json())):
        path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
    plan.with_suffix(".md").write_text(report.markdown() + "\n", encoding="utf-8")
    if find_spec("matplotlib") is None:
        typer.echo("no drawing of the curve: it needs matplotlib: pip install 'dolmen[plots]'", err=True)
        return
    from services.cli.pruning_curve import draw

    draw(report, plan.with_suffix(".png"))


def _fail(text: str) -> NoReturn:
    typer.echo(f"dolmen search-dimensions: {text}", err=True)
    raise typer.Exit(1)
