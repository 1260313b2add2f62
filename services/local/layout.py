"""Settings into a stack: what is started, in which order, with which environment and at which addresses."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.local.children import ChildSpec
from services.local.errors import TopicsUnavailable
from services.local.lifecycle import RestartPolicy
from services.local.ports import claim_port
from services.local.probes import Probe, answers_http
from services.local.ready import Addresses
from services.local.servers import ServerCommand, broker_command, valkey_command
from services.local.topics import create_missing_topics
from services.settings import ConfigError, Settings

STOP_ORDER = ("ranker", "trainer", "joiner", "archive", "kafka", "redis")
_SERVICES = ("joiner", "trainer", "ranker")
_STOP_LIMITS_S = {"ranker": 15.0, "trainer": 60.0, "joiner": 15.0, "archive": 30.0, "kafka": 15.0, "redis": 60.0}
_SERVER_POLICY = RestartPolicy()
_REDIS_POLICY = RestartPolicy(ready_limit_s=900.0)
_SERVICE_POLICY = RestartPolicy(fatal_codes=frozenset({2, 3}))
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, not bound

ServiceCommand = Callable[[str], tuple[str, ...]]
"""The command of a service: joiner, trainer, ranker or archive."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a stack consists of.

    Attributes:
        servers: Embedded servers to start; empty where URLs are configured.
        services: Joiner, trainer, ranker, and the archiver if it has a path; started once the servers are ready.
        addresses: Of everything, without process ids.
    """

    servers: tuple[ChildSpec, ...]
    services: tuple[ChildSpec, ...]
    addresses: Addresses


def dolmen_command(config: Path | None, data_dir: Path) -> ServiceCommand:
    """The services as this installation runs them.

    Args:
        config: Their ``dolmen.toml``; None: what they find by themselves.
        data_dir: Where the trainer leaves what it must rescue, and the joiner what does not fit into memory.
    """
    start = (sys.executable, "-P", "-m", "services.cli.main")
    configured = () if config is None else ("--config", str(config.resolve()))
    own = dict.fromkeys(("joiner", "trainer"), ("--data-dir", str(data_dir.resolve())))
    return lambda name: (*start, name, *configured, *own.get(name, ()))


def lay_out(settings: Settings, data_dir: Path, command: ServiceCommand, lock_fd: int) -> Layout:
    """Plans a stack and claims its ports. Starts nothing.

    Args:
        settings: The effective settings.
        data_dir: Where Redis keeps its data.
        command: The commands of the services.
        lock_fd: What Redis holds open, so that nobody else takes the directory while it runs.

    Raises:
        LocalError: If a port is taken or a server's binary is missing.
        ConfigError: If credentials are configured for a server that `up` would have to start.
    """
    _check(settings)
    ranker_port = claim_port(settings.ranker.host, settings.ranker.port, "ranker.port")
    host = settings.metrics.host
    metrics_ports = {
        "trainer": claim_port(host, settings.metrics.port, "metrics.port"),
        "joiner": claim_port(host, 0, "metrics.port"),
    }
    if settings.archive.path is not None:
        metrics_ports["archive"] = claim_port(host, 0, "metrics.port")
    servers = []
    redis_url = settings.store.url
    if redis_url is None:
        redis = valkey_command(data_dir / "valkey", settings.local.redis_port)
        redis_url = redis.url
        servers.append(_server(redis, redis.probe, _REDIS_POLICY, (lock_fd,)))
    bootstrap_servers = settings.events.bootstrap_servers
    if bootstrap_servers is None:
        kafka = broker_command(settings.local.kafka_port)
        bootstrap_servers = kafka.url
        servers.append(_server(kafka, partial(_has_topics, kafka, settings), _SERVER_POLICY))
    ranker_url = f"http://{_reachable(settings.ranker.host)}:{ranker_port}"
    metrics_urls = {name: f"http://{_reachable(host)}:{port}/metrics" for name, port in metrics_ports.items()}
    environment = {
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "DOLMEN_STORE__URL": redis_url,
        "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": bootstrap_servers,
        "DOLMEN_RANKER__PORT": str(ranker_port),
    }
    if settings.events.bootstrap_servers is None and settings.events.on_lost_log is None:
        environment["DOLMEN_EVENTS__ON_LOST_LOG"] = "earliest"
    probed = {**metrics_urls, "ranker": f"{ranker_url}/readyz"}
    ports = {name: {"DOLMEN_METRICS__PORT": str(port)} for name, port in metrics_ports.items()}
    names = _SERVICES if settings.archive.path is None else (*_SERVICES, "archive")
    services = [_service(name, command(name), probed[name], {**environment, **ports.get(name, {})}) for name in names]
    metrics_urls["ranker"] = f"{ranker_url}/metrics"
    return Layout(tuple(servers), tuple(services), Addresses(redis_url, bootstrap_servers, ranker_url, metrics_urls))


def _server(command: ServerCommand, probe: Probe, policy: RestartPolicy, pass_fds: tuple[int, ...] = ()) -> ChildSpec:
    return ChildSpec(
        name=command.name,
        command=command.command,
        probe=probe,
        pass_fds=pass_fds,
        stop_limit_s=_STOP_LIMITS_S[command.name],
        policy=policy,
    )


def _service(name: str, command: tuple[str, ...], url: str, environment: Mapping[str, str]) -> ChildSpec:
    return ChildSpec(
        name=name,
        command=command,
        probe=partial(answers_http, url),
        environment=environment,
        stop_limit_s=_STOP_LIMITS_S[name],
        policy=_SERVICE_POLICY,
    )


def _has_topics(kafka: ServerCommand, settings: Settings) -> bool:
    """The embedded broker forgets its topics when it restarts, so it is ready only once they are there again."""
    if not kafka.probe():
        return False
    try:
        create_missing_topics(settings.events, kafka.url)
    except TopicsUnavailable:
        return False
    return True


def _check(settings: Settings) -> None:
    faults = []
    if settings.store.url is None and (settings.store.username or settings.store.password):
        faults.append("store.username, store.password: the embedded Redis has no users; set `store.url` or remove them")
    if settings.events.bootstrap_servers is None and settings.events.security_protocol != "PLAINTEXT":
        faults.append(
            "events.security_protocol: the embedded broker speaks PLAINTEXT only; "
            "set `events.bootstrap_servers`, or remove it"
        )
    if faults:
        raise ConfigError("\n".join(faults))


def _reachable(host: str) -> str:
    """The host as a URL needs it: an address that clients on this machine can connect to."""
    host = _WILDCARDS.get(host, host)
    return f"[{host}]" if ":" in host else host
