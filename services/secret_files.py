"""Secrets that come from files: ``DOLMEN_STORE__PASSWORD_FILE`` names one that holds ``store.password``."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from embedding_store.settings import Section


def secrets_of(settings_cls: type[BaseSettings]) -> Iterable[tuple[str, str, str]]:
    """Of each secret: its section, its key, and the environment variable that may name a file with it."""
    for name, field in settings_cls.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for key, inner in section.model_fields.items():
                if SecretStr in (inner.annotation, *getattr(inner.annotation, "__args__", ())):
                    yield name, key, f"DOLMEN_{name}__{key}_FILE".upper()


class Environment(EnvSettingsSource):
    """The environment but for the names of secrets' files, which are no settings."""

    def __call__(self) -> dict[str, Any]:
        """What the environment sets, by section."""
        found = super().__call__()
        for name, key, variable in secrets_of(self.settings_cls):
            if variable in os.environ and isinstance(found.get(name), dict):
                found[name].pop(f"{key}_file", None)
        return found


class SecretFiles(PydanticBaseSettingsSource):
    """``DOLMEN_STORE__PASSWORD_FILE=/run/secrets/x`` sets the secret to the file's content, stripped."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Nothing for a whole section."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """What the files set, by section."""
        found: dict[str, Any] = {}
        for name, key, variable in secrets_of(self.settings_cls):
            if path := os.environ.get(variable):
                found.setdefault(name, {})[key] = Path(path).read_text().strip()
        return found
