"""The doctor's judgements, without servers."""

from pathlib import Path
from typing import Any

import pytest

from services.doctor import (
    Check,
    check_disk,
    check_versions,
    failed,
    judge_compaction,
    judge_redis,
    judge_topic_config,
)

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
