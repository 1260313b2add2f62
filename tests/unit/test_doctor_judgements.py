"""The doctor's judgements, without servers."""

from pathlib import Path
from typing import Any

import pytest
from kafka.partitioner.default import murmur2

from services.doctor import (
    Check,
    check_disk,
    check_versions,
    failed,
    judge_compaction,
    judge_redis,
    judge_topic_config,
)
from services.doctor_joiner import judge_kept, judge_keys, judge_pair, judge_state
from trainer.reader import Record
from trainer.settings import EventsSettings
from trainer.topics import TopicState

HEALTHY: dict[str, Any] = {
    "server_name": "valkey",
    "valkey_version": "9.1.2",
    "redis_version": "7.2.4",
    "role": "master",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "maxmemory_policy": "noeviction",
    "maxmemory": 0,
    "used_memory": 10 << 20,
    "total_system_memory": 8 << 30,
}


def judged(name: str, skew_ms: float = 0.0, **changes: Any) -> Check:
    checks = judge_redis("redis://h", {**HEALTHY, **changes}, skew_ms)
    return next(check for check in checks if check.name == name)


def test_a_healthy_server_passes_every_check() -> None:
    assert {check.status for check in judge_redis("redis://h", HEALTHY, 3.0)} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"server_name": "redis", "valkey_version": None, "redis_version": "6.2.1"}, "ok"),
        ({"valkey_version": "7.2.5"}, "fail"),
        ({"role": "slave"}, "fail"),
        ({"loading": 1}, "warn"),
    ],
)
def test_old_and_read_only_servers_fail(changes: dict[str, Any], status: str) -> None:
    if changes.get("valkey_version", "") is None:
        info = {key: value for key, value in HEALTHY.items() if not key.startswith(("server", "valkey"))}
        old = judge_redis("redis://h", {**info, "redis_version": "6.2.1"}, 0.0)[0]
        new = judge_redis("redis://h", {**info, "redis_version": "7.0.15"}, 0.0)[0]
        assert (old.status, new.status) == ("fail", status)
    else:
        assert judged("redis", **changes).status == status


def test_a_server_without_append_only_file_is_warned_of() -> None:
    check = judged("redis persistence", aof_enabled=0)
    assert check.status == "warn"
    assert "appendonly" in check.remedy


def test_an_append_only_file_that_cannot_be_written_fails() -> None:
    assert judged("redis persistence", aof_last_write_status="err").status == "fail"


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_any_evicting_policy_fails(policy: str) -> None:
    check = judged("redis eviction", maxmemory_policy=policy)
    assert check.status == "fail"
    assert "noeviction" in check.remedy


@pytest.mark.parametrize(("used", "status"), [(50, "ok"), (85, "warn"), (97, "fail")])
def test_memory_is_held_against_its_limit(used: int, status: str) -> None:
    assert judged("redis memory", used_memory=used << 20, maxmemory=100 << 20).status == status


@pytest.mark.parametrize(("skew_ms", "status"), [(-40.0, "ok"), (1500.0, "warn"), (-90_000.0, "fail")])
def test_clocks_that_are_apart_are_told(skew_ms: float, status: str) -> None:
    assert judged("redis clock", skew_ms).status == status


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({}, "warn"),
        ({"retention.ms": "604800000", "cleanup.policy": "delete"}, "ok"),
        ({"retention.ms": "-1"}, "ok"),
        ({"retention.ms": "3600000"}, "warn"),
        ({"retention.ms": "604800000", "cleanup.policy": "compact,delete"}, "fail"),
    ],
)
def test_retention_is_judged(config: dict[str, str], status: str) -> None:
    check = judge_topic_config("t", config)
    assert check.status == status
    assert bool(check.remedy) == (status != "ok")


def test_this_environment_fits() -> None:
    assert not failed(check_versions())


def test_the_disk_of_a_directory_that_does_not_exist_yet_is_its_parents(tmp_path: Path) -> None:
    assert "free" in check_disk(tmp_path / "a" / "b").detail


@pytest.mark.parametrize(("limit_bytes", "status"), [(None, "ok"), (64, "warn"), (256, "ok"), (4096, "ok")])
def test_a_server_that_would_keep_rows_in_their_larger_form_is_warned_of(limit_bytes: int | None, status: str) -> None:
    check = judge_compaction(limit_bytes)
    assert check.status == status
    assert ("hash-max-listpack-value 256" in check.remedy) == (status == "warn")


# The joiner's topics

EVENTS = EventsSettings()


def state(count: int) -> TopicState:
    return TopicState(None, tuple(range(count)))


def message(key: bytes | None, partition: int) -> Record:
    return Record("actions", partition, 0, 0, key, b"{}")


def home(key: bytes, count: int) -> int:
    """As Kafka's own clients have it."""
    return (murmur2(key) & 0x7FFFFFFF) % count


def test_topics_of_unequal_partitions_fail_and_both_are_named() -> None:
    check = judge_pair(EVENTS, state(4), state(3))
    assert check.status == "fail"
    assert "dolmen.impressions has 4" in check.detail
    assert "dolmen.actions has 3" in check.detail
    assert check.remedy.startswith("Give both")
    assert judge_pair(EVENTS, state(4), state(4)).status == "ok"


def test_a_key_outside_its_partition_is_counted_and_the_remedy_named() -> None:
    keys = [f"r{n}".encode() for n in range(20)]
    right = [message(key, home(key, 4)) for key in keys]
    assert judge_keys("actions", right, 4).status == "ok"
    wrong = [message(key, (home(key, 4) + 1) % 4) for key in keys[:3]]
    check = judge_keys("actions", [*wrong, *right[3:]], 4)
    assert check.status == "warn"
    assert check.detail.startswith("3 of the last 20 messages")
    assert "murmur2_random" in check.remedy


def test_messages_without_a_key_fail() -> None:
    check = judge_keys("actions", [message(None, 0), message(b"r1", 0)], 1)
    assert check.status == "fail"
    assert "request_id" in check.remedy


@pytest.mark.parametrize(("hours", "status"), [(1, "fail"), (24, "fail"), (30, "warn"), (72, None), (-1, None)])
def test_retention_is_held_against_how_long_impressions_wait(hours: int, status: str | None) -> None:
    hour_ms = 3_600_000
    check = judge_kept("actions", {"retention.ms": str(hours * hour_ms if hours > 0 else -1)}, 24 * hour_ms)
    assert (check.status if check else None) == status


@pytest.mark.parametrize(("policy", "status"), [("compact", "ok"), ("delete", "fail"), ("compact,delete", "fail")])
def test_the_state_topic_must_keep_its_records(policy: str, status: str) -> None:
    assert judge_state("state", {"cleanup.policy": policy}).status == status


def test_a_state_topic_that_the_broker_says_nothing_of_is_warned_of() -> None:
    assert judge_state("state", {}).status == "warn"
