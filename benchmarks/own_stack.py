"""A whole local stack for one benchmark: its ranker on a free port, its data gone when it ends."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from services.local.ready import Addresses
from services.local.stack import LocalStack
from services.settings import Settings, load_settings


@contextmanager
def own_stack(
    config: Path | None = None, *, dataset: str | None = None, **environment: str
) -> Iterator[tuple[Settings, Addresses]]:
    """Starts everything and stops it again.

    Args:
        config: The ``dolmen.toml`` of every service.
        dataset: The data set whose configuration it is, in place of a file.
        environment: Variables that settings and services read besides, such as ``DOLMEN_JOINER__EMIT``.

    Yields:
        The settings, with the stack's Kafka in them, and the stack's addresses.
    """
    with (
        patch.dict(os.environ, {"DOLMEN_RANKER__PORT": "0", **environment}),
        tempfile.TemporaryDirectory() as directory,
    ):
        settings = load_settings(config, dataset=dataset)
        with LocalStack(settings, config=config, data_dir=Path(directory), say=lambda _: None) as stack:
            stack.supervise()
            addresses = stack.addresses
            events = settings.events.model_copy(update={"bootstrap_servers": addresses.bootstrap_servers})
            yield settings.model_copy(update={"events": events}), addresses
