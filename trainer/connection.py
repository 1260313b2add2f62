"""How our Kafka clients connect."""

import contextlib
from collections.abc import Callable
from typing import Any

import kafka.errors
from kafka import KafkaProducer
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket

from trainer.errors import EventsUnavailable
from trainer.settings import EventsSettings

DEFAULT_SERVERS = "127.0.0.1:9092"

_SCHEME = "direct-and-closed"


class _ClosingSocket(KafkaNetSocket):  # type: ignore[misc]  # kafka-python has no types
    """Connects directly, and closes a socket that did not connect.

    kafka-python 3.0 leaves such a socket open until it is garbage-collected: about one a second while a broker is away.
    """

    SCHEMES = (_SCHEME,)

    async def connect(self, net: Any, addrinfo: Any, socket_options: Any = (), timeout_at: float | None = None) -> Any:
        """A connected socket that does not block."""
        family, kind, protocol, _, address = addrinfo
        sock = self.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            for option in socket_options:
                sock.setsockopt(*option)
            return await self.sock_connect(net, sock, address, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


class ClosingProducer(KafkaProducer):  # type: ignore[misc]  # kafka-python has no types
    """A producer whose ``close`` gives up what is not acknowledged in time, instead of raising and staying open."""

    def flush(self, timeout: float | None = None) -> None:
        """Waits for the acknowledgements, and returns when the time is up."""
        with contextlib.suppress(kafka.errors.KafkaTimeoutError):
            super().flush(timeout)


def kafka_options(settings: EventsSettings) -> dict[str, Any]:
    """What any kafka-python client (producer, consumer, admin) needs to connect.

    Args:
        settings: Where Kafka is and how to speak to it; without servers the default address is taken.
    """
    servers = settings.bootstrap_servers or DEFAULT_SERVERS
    password = settings.sasl_plain_password
    chosen = {
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_plain_username,
        "sasl_plain_password": None if password is None else password.get_secret_value(),
        "ssl_cafile": settings.ssl_cafile,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
    }
    return {
        "bootstrap_servers": [server.strip() for server in servers.split(",") if server.strip()],
        "client_id": settings.id,
        "security_protocol": settings.security_protocol,
        "ssl_check_hostname": settings.ssl_check_hostname,
        "reconnect_backoff_max_ms": 1000,
        "proxy_url": f"{_SCHEME}://",
        **{key: value for key, value in chosen.items() if value is not None},
    }


def connect(kind: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    """Makes a kafka-python client that creates no topic by asking for one, and leaves nothing behind if it fails.

    kafka-python 3.0 has the option ``allow_auto_create_topics`` and does not pass it on, so a client that merely asks
    for a deleted topic would bring it back, empty, with the broker's default partitions. And a client that reached no
    broker in its constructor keeps its thread.

    Args:
        kind: The client's class.
        options: Its options, those of :func:`kafka_options` among them.

    Returns:
        The client, and what it knows of the brokers (kafka-python's ``ClusterMetadata``).

    Raises:
        EventsUnavailable: If no broker answered in time.
    """
    networks: list[KafkaNetClient] = []

    def open_network(**configs: Any) -> KafkaNetClient:
        network = KafkaNetClient(**configs)
        networks.append(network)
        network.cluster.config["allow_auto_create_topics"] = False
        return network

    try:
        return kind(kafka_client=open_network, **options), networks[0].cluster
    except (kafka.errors.KafkaError, OSError) as error:
        for network in networks:
            network.close()
        servers = ",".join(options["bootstrap_servers"])
        raise EventsUnavailable(f"Kafka at {servers} did not answer: {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    """An error in words, its kind if it has none of its own.

    >>> describe_error(ValueError("no such port")), describe_error(TimeoutError())
    ('no such port', 'TimeoutError')
    """
    if isinstance(error, kafka.errors.NodeNotReadyError) or "bootstrap from" in str(error):
        return "no broker can be reached"
    return str(error) or type(error).__name__
