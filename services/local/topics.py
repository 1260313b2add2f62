"""Creates the topics that do not exist yet."""

import logging
from contextlib import closing
from typing import Any

from pydantic import SecretStr

from services.local.errors import LocalError
from trainer.settings import EventsSettings

_TIMEOUT_MS = 5000
_CONNECTION_KEYS = (
    "security_protocol",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "ssl_cafile",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
)


class TopicsUnavailable(LocalError):
    """The broker did not answer, or refused to create a topic. It may do so later."""


def create_missing_topics(events: EventsSettings, bootstrap_servers: str) -> tuple[str, ...]:
    """Makes sure that the topics exist. Idempotent; a topic that exists is taken as it is. Blocks for some seconds.

    Args:
        events: Names of the topics, partitions of a new one, and how to speak to the broker.
        bootstrap_servers: Where the broker is.

    Returns:
        The topics that were created.

    Raises:
        TopicsUnavailable: If the broker did not answer or refused.
    """
    import kafka
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    logging.getLogger("kafka").addHandler(logging.NullHandler())
    wanted = {events.topics.examples: events.partitions, events.topics.dead_letters: 1}
    created = []
    try:
        client = kafka.KafkaAdminClient(bootstrap_servers=bootstrap_servers.split(","), **_options(events))
        with closing(client) as admin:
            present = set(admin.list_topics())
            for name, partitions in wanted.items():
                if name in present:
                    continue
                try:
                    admin.create_topics({name: {"num_partitions": partitions}}, wait_for_metadata=True)
                    created.append(name)
                except TopicAlreadyExistsError:
                    continue
    except (KafkaError, OSError, ValueError) as error:
        text = str(error) or type(error).__name__
        raise TopicsUnavailable(f"Kafka at {bootstrap_servers}: topics cannot be listed or created: {text}") from error
    return tuple(created)


def _options(events: EventsSettings) -> dict[str, Any]:
    values = {key: getattr(events, key) for key in _CONNECTION_KEYS}
    plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else v for k, v in values.items() if v is not None}
    return {**plain, "client_id": events.id, "bootstrap_timeout_ms": _TIMEOUT_MS, "request_timeout_ms": _TIMEOUT_MS}
