"""The ready file: where everything is, for whoever wants to use the stack."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from services.local.errors import LocalError

READY_FILE = "ready.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts of a stack are.

    Attributes:
        metrics_urls: Prometheus endpoints by name.
        pids: Process ids of what the stack started, by name.
    """

    redis_url: str
    bootstrap_servers: str
    ranker_url: str
    metrics_urls: Mapping[str, str]
    pids: Mapping[str, int] = field(default_factory=dict)


def read_ready(data_dir: Path) -> Addresses | None:
    """The addresses of the stack that runs on a data directory, or None if there is none.

    Raises:
        LocalError: If the file is there and cannot be understood.
    """
    path = data_dir / READY_FILE
    try:
        return Addresses(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise LocalError(f"{path}: cannot be read: {error}; remove it, or start `dolmen up` again") from error


def write_ready(path: Path, addresses: Addresses) -> None:
    """Writes the file atomically: a reader sees the old one or the new one. Only its owner may read it.

    Raises:
        LocalError: If it cannot be written.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            json.dump(asdict(addresses), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise LocalError(f"{path}: cannot be written: {error.strerror}") from error


def remove_ready(path: Path) -> None:
    """Removes the file if it is there.

    Raises:
        LocalError: If it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise LocalError(f"{path}: cannot be removed: {error.strerror}") from error
