"""What `dolmen doctor` looks at in Kafka."""

from typing import Any

import kafka.errors
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from services.doctor import Check, judge_topic_config
from trainer.connection import connect, describe_error, kafka_options
from trainer.errors import EventsUnavailable
from trainer.settings import EventsSettings
from trainer.topics import REQUEST_TIMEOUT_MS, Topics

_LOWEST = (3, 0)


def check_kafka(settings: EventsSettings) -> list[Check]:
    """Looks at the brokers and the topics. Creates nothing; takes some seconds where no broker answers.

    Args:
        settings: Where they are, and how to speak to them.
    """
    timeouts = {"bootstrap_timeout_ms": REQUEST_TIMEOUT_MS, "request_timeout_ms": REQUEST_TIMEOUT_MS}
    options = kafka_options(settings)
    try:
        admin, _ = connect(KafkaAdminClient, **options, **timeouts)
    except EventsUnavailable as error:
        remedy = (
            "start it (`dolmen up` brings one along), or set events.bootstrap_servers or "
            "DOLMEN_EVENTS__BOOTSTRAP_SERVERS; with SASL or TLS, look at events.security_protocol too"
        )
        return [Check("kafka", "fail", str(error), remedy)]
    topics = Topics(options)
    try:
        return [_check_brokers(admin), *_check_topics(settings, topics, admin)]
    except (kafka.errors.KafkaError, EventsUnavailable) as error:
        remedy = "look at the brokers' logs, and whether this user may describe the cluster and the topics"
        return [Check("kafka", "fail", f"asked the brokers in vain: {describe_error(error)}", remedy)]
    finally:
        topics.close()
        admin.close()


def _check_brokers(admin: Any) -> Check:
    brokers = admin.describe_cluster()["brokers"]
    version = admin.get_broker_version_data(brokers[0]["broker_id"]).broker_version
    number = ".".join(map(str, version))
    first = f"{brokers[0]['host']}:{brokers[0]['port']}"
    detail = f"{len(brokers)} broker{'s' if len(brokers) > 1 else ''} at {first}, protocol of Kafka {number}"
    if version < _LOWEST:
        return Check("kafka", "fail", detail, "upgrade the brokers: Kafka 3 or newer is needed")
    return Check("kafka", "ok", detail)


def _check_topics(settings: EventsSettings, topics: Topics, admin: Any) -> list[Check]:
    checks = []
    for topic in (settings.topics.examples, settings.topics.dead_letters):
        state = topics.describe(topic)
        if state is None:
            checks.append(
                Check(f"topic {topic}", "warn", "does not exist", "the trainer creates it at its first start")
            )
            continue
        count = len(state.partitions)
        checks.append(Check(f"topic {topic}", "ok", f"{count} partition{'s' if count > 1 else ''}"))
        if topic == settings.topics.examples:
            checks.append(judge_topic_config(topic, _read_config(admin, topic)))
    return checks


def _read_config(admin: Any, topic: str) -> dict[str, str]:
    """The topic's configuration; empty where the broker does not tell it."""
    try:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    except kafka.errors.KafkaError:
        return {}
    entries = found.get("topic", {}).get(topic, {})
    return {key: str(entry["value"]) for key, entry in entries.items() if entry.get("value") is not None}
