"""What `dolmen doctor` looks at in Kafka."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import kafka.errors
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from services.doctor import Check, judge_topic_config
from services.doctor_joiner import LOOK_RECORDS, judge_kept, judge_keys, judge_pair, judge_state
from trainer.connection import connect, describe_error, kafka_options
from trainer.errors import EventsUnavailable
from trainer.reader import OutOfRange, Reader, Record
from trainer.settings import EventsSettings
from trainer.topics import REQUEST_TIMEOUT_MS, Topics, TopicState

_LOWEST = (3, 0)
_POLL_MS = 200


def check_kafka(settings: EventsSettings, horizon_ms: int) -> list[Check]:
    """Looks at the brokers and the topics. Creates nothing; takes some seconds where no broker answers.

    Args:
        settings: Where they are, and how to speak to them.
        horizon_ms: How long an impression waits in the joiner at most, in event time.
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
        return [_check_brokers(admin), *_check_topics(settings, topics, admin, horizon_ms)]
    except OutOfRange:
        remedy = "ask again; if it says so again, look at the brokers' logs"
        return [Check("kafka", "fail", "a topic was cut or made anew while it was being read", remedy)]
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


def _check_topics(settings: EventsSettings, topics: Topics, admin: Any, horizon_ms: int) -> list[Check]:
    names = settings.topics
    makers = dict.fromkeys((names.examples, names.dead_letters), "trainer")
    makers |= dict.fromkeys((names.impressions, names.actions, names.joiner_state), "joiner")
    states = {topic: topics.describe(topic) for topic in makers}
    checks = []
    for topic, state in states.items():
        if state is None:
            remedy = f"the {makers[topic]} creates it at its first start"
            checks.append(Check(f"topic {topic}", "warn", "does not exist", remedy))
            continue
        count = len(state.partitions)
        checks.append(Check(f"topic {topic}", "ok", f"{count} partition{'s' if count > 1 else ''}"))
        config = _read_config(admin, topic)
        if topic == names.joiner_state:
            checks.append(judge_state(topic, config))
        elif topic != names.dead_letters:
            checks.append(judge_topic_config(topic, config))
        if topic in (names.impressions, names.actions):
            kept = judge_kept(topic, config, horizon_ms)
            checks += [kept] if kept else []
            checks.append(judge_keys(topic, _last_records(settings, topics, topic, state), count))
    impressions, actions = states[names.impressions], states[names.actions]
    if impressions is not None and actions is not None:
        checks.append(judge_pair(settings, impressions, actions))
    return checks


def _last_records(settings: EventsSettings, topics: Topics, topic: str, state: TopicState) -> Iterator[Record]:
    """The last messages of every partition."""
    with closing(Reader(kafka_options(settings), topic)) as reader:
        first = topics.earliest(topic, state.partitions)
        ends = reader.ends(topics.latest(topic, state.partitions))
        for partition, end in ends.items():
            start = max(first[partition], end - LOOK_RECORDS)
            reader.await_answers({partition: start})
            while reader.position(partition) < end:
                records = reader.poll(_POLL_MS, LOOK_RECORDS)
                yield from records
                if not records:
                    break  # what is left is transaction markers


def _read_config(admin: Any, topic: str) -> dict[str, str]:
    """The topic's configuration; empty where the broker does not tell it."""
    try:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    except kafka.errors.KafkaError:
        return {}
    entries = found.get("topic", {}).get(topic, {})
    return {key: str(entry["value"]) for key, entry in entries.items() if entry.get("value") is not None}
