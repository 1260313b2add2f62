"""What `dolmen doctor` looks at for the joiner: topics that pair, keys in their places, retention and windows."""

from collections.abc import Iterable, Mapping

from embedding_store.settings import format_duration
from services.doctor import Check, Status
from services.murmur import partitions_of
from services.topics import TopicsUnequal, check_pair
from trainer.reader import Record
from trainer.settings import EventsSettings
from trainer.topics import TopicState

LOOK_RECORDS = 1000
"""How many of a partition's last messages are looked at."""


def judge_pair(events: EventsSettings, impressions: TopicState, actions: TopicState) -> Check:
    """Whether each impression's partition has one for its actions.

    Args:
        events: The topics' names.
        impressions: As the broker describes it.
        actions: Likewise.
    """
    name = "joiner's topics"
    try:
        check_pair(events, impressions, actions)
    except TopicsUnequal as error:
        detail, _, remedy = str(error).partition(". ")
        return Check(name, "fail", detail, remedy)
    count = len(impressions.partitions)
    return Check(name, "ok", f"{count} pair{'s' if count > 1 else ''} of partitions")


def judge_keys(topic: str, records: Iterable[Record], count: int) -> Check:
    """Whether messages lie where murmur2 of their key puts them, so that an action meets its impression.

    Args:
        topic: The topic's name.
        records: Some of its last messages.
        count: Its partitions.
    """
    name, found = f"keys of {topic}", list(records)
    if not found:
        return Check(name, "ok", "no messages yet")
    homes = partitions_of([record.key or b"" for record in found], count).tolist()
    pairs = list(zip(found, homes, strict=True))
    bare = sum(record.key is None for record in found)
    misplaced = sum(record.partition != home for record, home in pairs if record.key is not None)
    if bare:
        detail = f"{bare} of the last {len(found)} messages have no key"
        return Check(
            name, "fail", detail, "give each message its request_id as key: an action must meet its impression"
        )
    if count > 1 and misplaced:
        detail = f"{misplaced} of the last {len(found)} messages lie outside murmur2's partition of their key"
        remedy = (
            "where impressions and actions come from different programs, they do not meet: set partitioner="
            "murmur2_random in clients of librdkafka (confluent-kafka, Go, .NET), or write both through one program"
        )
        return Check(name, "warn", detail, remedy)
    return Check(name, "ok", f"the last {len(found)} messages lie in the partitions of their keys")


def judge_kept(topic: str, config: Mapping[str, str], horizon_ms: int) -> Check | None:
    """Whether a topic keeps its messages for as long as the joiner may have to read them again.

    Args:
        topic: Of impressions or actions.
        config: Its configuration as the broker tells it; empty where it tells nothing.
        horizon_ms: How long an impression is kept at most, in event time.

    Returns:
        None where the retention is told and does: what it is, another check says.
    """
    kept_ms = int(config.get("retention.ms", -1))
    if kept_ms < 0 or kept_ms > 2 * horizon_ms:
        return None
    status: Status = "fail" if kept_ms <= horizon_ms else "warn"
    detail = f"{format_duration(kept_ms)} are kept; an impression may wait for {format_duration(horizon_ms)}"
    remedy = (
        f"raise retention.ms on {topic} to the windows and the longest outage together, or shorten "
        "joiner.attribution_window and joiner.late_window: a joiner that starts again reads from its oldest impression"
    )
    return Check(f"windows and {topic}", status, detail, remedy)


def judge_state(topic: str, config: Mapping[str, str]) -> Check:
    """Whether the joiner's state topic keeps the last record of every pair for ever.

    Args:
        topic: Its name.
        config: Its configuration as the broker tells it; empty where it tells nothing.
    """
    name, policy = f"cleanup of {topic}", config.get("cleanup.policy")
    if policy is None:
        return Check(name, "warn", "the broker does not tell", f"see that cleanup.policy of {topic} is compact")
    if policy != "compact":
        remedy = f"set cleanup.policy=compact on {topic}: a record that expires makes the joiner begin anew"
        return Check(name, "fail", f"cleanup.policy is {policy}", remedy)
    return Check(name, "ok", "compacted")
