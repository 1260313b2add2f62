"""``dolmen config``: the configuration, checked and shown."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option(help="A dolmen.toml; default: the one that DOLMEN_CONFIG names.")]


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(help="Checks and shows the configuration.", no_args_is_help=True)
    for command in (check, schema, show):
        group.command()(command)
    app.add_typer(group, name="config")


def check(
    file: Annotated[Path | None, typer.Argument(help="A dolmen.toml.")] = None,
    config: Config = None,
) -> None:
    """Checks a configuration; exit code 2 and one line for every faulty key if it is wrong."""
    from services.settings import load_settings

    settings = load_settings(file or config)
    definition = settings.definition()
    typer.echo(
        f"the configuration is sound: {len(definition.tables)} tables, {len(definition.features)} features, "
        f"{len(definition.tasks)} tasks"
    )


def schema() -> None:
    """Prints the JSON schema of dolmen.toml."""
    import json

    from services.settings import Settings

    typer.echo(json.dumps(Settings.model_json_schema(), indent=2))


def show(config: Config = None) -> None:
    """Prints the effective settings as JSON: environment over file over defaults, secrets masked."""
    from services.settings import load_settings, masked

    settings = load_settings(config)
    if settings.store.url is not None:
        store = settings.store.model_copy(update={"url": masked(settings.store.url)})
        settings = settings.model_copy(update={"store": store})
    typer.echo(settings.model_dump_json(indent=2))
