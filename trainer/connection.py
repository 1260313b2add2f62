"""How our Kafka clients connect."""

from typing import Any

from kafka.net.compat import KafkaNetClient

from trainer.settings import EventsSettings

DEFAULT_SERVERS = "127.0.0.1:9092"


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
        **{key: value for key, value in chosen.items() if value is not None},
    }


def client_without_topic_creation(**configs: Any) -> KafkaNetClient:
    """A network client whose metadata requests create no topic.

    kafka-python 3.0 has the option ``allow_auto_create_topics`` and does not pass it on, so a client that merely asks
    for a deleted topic would bring it back, empty, with the broker's default partitions.
    """
    client = KafkaNetClient(**configs)
    client.cluster.config["allow_auto_create_topics"] = False
    return client
