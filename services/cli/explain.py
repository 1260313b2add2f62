"""``dolmen explain``: what each feature adds to the logit of an item for a visitor."""

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

_TIMEOUT_S = 30.0


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def explain(
        user: Annotated[str, typer.Argument(help="An id, or a JSON object of features with `id` among them.")],
        item: Annotated[str, typer.Argument(help="An id, or a JSON object of features with `id` among them.")],
        context: Annotated[str, typer.Option(help="A JSON object of features.")] = "{}",
        url: Annotated[str | None, typer.Option(help="Of the ranker; default: the local stack's.")] = None,
        config: Annotated[Path | None, typer.Option(help="A dolmen.toml.")] = None,
        data_dir: Annotated[Path, typer.Option(help="Of the local stack, whose ranker is asked.")] = Path(".dolmen"),
        json: Annotated[bool, typer.Option("--json", help="Prints the ranker's answer as it is.")] = False,
    ) -> None:
        """Asks the ranker what each feature adds to the logit of an item for a visitor."""
        body = {
            "user": _features(user, "USER"),
            "context": _object(context, "--context"),
            "item": _features(item, "ITEM"),
        }
        import httpx

        from services.local.errors import LocalError
        from services.local.ready import read_ready
        from services.settings import load_settings

        settings = load_settings(config)
        try:
            ready = None if url else read_ready(data_dir)
        except LocalError as error:
            _fail(str(error))
        base = url or (ready.ranker_url if ready else f"http://{settings.ranker.host}:{settings.ranker.port}")
        try:
            answer = httpx.post(f"{base}/v1/explain", json=body, timeout=_TIMEOUT_S, trust_env=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            _fail(f"the ranker at {base} did not answer: {error}; start `dolmen up`, or name another by --url")
        found = _decoded(answer, base)
        if json:
            typer.echo(answer.text)
        else:
            _print(found)


def _features(text: str, name: str) -> dict[str, Any]:
    """An object of features, or an id as one."""
    return _object(text, name) if text.lstrip().startswith("{") else {"id": text}


def _object(text: str, name: str) -> dict[str, Any]:
    import orjson

    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=name) from None
    if type(value) is not dict:
        raise typer.BadParameter("must be a JSON object", param_hint=name)
    return value


def _decoded(answer: Any, base: str) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if type(found) is not dict:
        _fail(f"what answers at {base} is no ranker")
    if answer.status_code != 200:
        _fail(f"the ranker at {base}: {found.get('detail', answer.status_code)}")
    return found


def _print(found: dict[str, Any]) -> None:
    from math import exp

    from rich.console import Console
    from rich.table import Table

    table = Table("feature", "adds to the logit")
    table.columns[1].justify = "right"
    table.add_row("(bias)", f"{found['bias']:+.4f}")
    for name, share in sorted(found["fields"].items(), key=lambda pair: -abs(pair[1])):
        table.add_row(name, f"{share:+.4f}")
    table.add_section()
    table.add_row("logit", f"{found['logit']:+.4f}")
    console = Console()
    console.print(table)
    logit = max(-700.0, min(700.0, found["logit"]))
    console.print(f"{found['task']}: {1 / (1 + exp(-logit)):.4f}, by commit {found['model']['commit']}")


def _fail(text: str) -> NoReturn:
    typer.echo(f"dolmen explain: {text}", err=True)
    raise typer.Exit(1)
