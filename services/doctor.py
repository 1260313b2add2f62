"""What `dolmen doctor` looks at, and what it says to do."""

import importlib.metadata
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis

from embedding_store.redis_client import DEFAULT_URL, connect
from embedding_store.server import LISTPACK, listpack_limit
from embedding_store.settings import StoreSettings, format_duration

Status = Literal["ok", "warn", "fail"]

_LOWEST = {"redis": 7, "valkey": 8}
_PYTHON = ((3, 11), (3, 14))
_PACKAGES = ("torch", "kafka-python", "redis")
_SKEW_WARN_MS, _SKEW_FAIL_MS = 1000, 60_000
_MEMORY_WARN, _MEMORY_FAIL = 0.8, 0.95
_FREE_WARN_BYTES, _FREE_FAIL_BYTES = 2 << 30, 256 << 20
_RETENTION_WARN_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        status: ok; warn: it works, but not for ever; fail: it does not work.
        detail: What was found.
        remedy: What to do; empty where nothing has to be done.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def check_redis(settings: StoreSettings) -> list[Check]:
    """Looks at the server of the store.

    Args:
        settings: Where it is, and how to speak to it.
    """
    where = re.sub(r"//[^/@]*@", "//", settings.url or DEFAULT_URL)
    try:
        with connect(settings) as client:
            before_ms = time.time() * 1000
            seconds, microseconds = client.time()
            skew_ms = seconds * 1000 + microseconds / 1000 - (before_ms + time.time() * 1000) / 2
            return [*judge_redis(where, client.info("everything"), skew_ms), judge_compaction(listpack_limit(client))]
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        remedy = "set store.username and DOLMEN_STORE__PASSWORD (or …_FILE); the user needs INFO and TIME"
        return [Check("redis", "fail", f"{where} refuses us: {error}", remedy)]
    except (redis.RedisError, OSError, ValueError) as error:
        remedy = "start it (`dolmen up` brings one along), or set store.url or DOLMEN_STORE__URL"
        return [Check("redis", "fail", f"{where} does not answer: {error}", remedy)]


def judge_redis(where: str, info: Mapping[str, Any], skew_ms: float) -> list[Check]:
    """What a Redis says of itself, judged.

    Args:
        where: Its address, for people.
        info: The fields of INFO.
        skew_ms: How far its clock is ahead of ours.
    """
    return [
        _judge_server(where, info),
        _judge_persistence(info),
        _judge_eviction(info),
        _judge_memory(info),
        _judge_clock(skew_ms),
    ]


def _judge_server(where: str, info: Mapping[str, Any]) -> Check:
    kind = "valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "redis"
    version = str(info.get("valkey_version") if kind == "valkey" else info.get("redis_version", "0"))
    detail = f"{kind.capitalize()} {version} at {where}"
    if int(version.split(".")[0]) < _LOWEST[kind]:
        return Check("redis", "fail", detail, "upgrade it: Redis 7, Valkey 8 or newer is needed")
    if info.get("role") == "slave":
        return Check(
            "redis", "fail", f"{detail} is a replica", "point store.url at the primary: replicas take no writes"
        )
    if info.get("loading"):
        return Check("redis", "warn", f"{detail} is still loading its data", "wait until it has loaded")
    return Check("redis", "ok", detail)


def _judge_persistence(info: Mapping[str, Any]) -> Check:
    name = "redis persistence"
    if not info.get("aof_enabled"):
        remedy = "CONFIG SET appendonly yes, and set it in the server's configuration: without it a crash loses commits"
        return Check(name, "warn", "no append-only file", remedy)
    if info.get("aof_last_write_status", "ok") != "ok":
        return Check(name, "fail", "the append-only file cannot be written", "free space on the server's disk")
    return Check(name, "ok", "append-only file")


def _judge_eviction(info: Mapping[str, Any]) -> Check:
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy in ("noeviction", "unknown"):
        return Check("redis eviction", "ok" if policy == "noeviction" else "warn", policy)
    remedy = "CONFIG SET maxmemory-policy noeviction, and set it in the server's configuration: rows must not vanish"
    return Check("redis eviction", "fail", policy, remedy)


def judge_compaction(limit_bytes: int | None) -> Check:
    """Whether the server keeps rows in their smaller form.

    Args:
        limit_bytes: Its hash-max-listpack-value; None if it does not tell.
    """
    name, wanted = "redis compact rows", LISTPACK["hash-max-listpack-value"]
    if limit_bytes is None:
        return Check(name, "ok", "the server does not tell its hash-max-listpack-value; see that it is 256")
    if limit_bytes < wanted:
        remedy = (
            f"set hash-max-listpack-value {wanted} in the server's configuration: rows then take a third less memory"
        )
        return Check(name, "warn", f"hash-max-listpack-value is {limit_bytes}", remedy)
    return Check(name, "ok", f"hash-max-listpack-value is {limit_bytes}")


def _judge_memory(info: Mapping[str, Any]) -> Check:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    total, kind = (limit, "maxmemory") if limit else (int(info.get("total_system_memory", 0)), "the machine's memory")
    detail = f"{_size(used)} of {_size(total)} ({kind})" if total else _size(used)
    share = used / total if total else 0.0
    if share > _MEMORY_WARN:
        remedy = "raise maxmemory, take a larger machine, or let rows expire (tables.expire_after)"
        return Check("redis memory", "fail" if share > _MEMORY_FAIL else "warn", detail, remedy)
    return Check("redis memory", "ok", detail)


def _judge_clock(skew_ms: float) -> Check:
    size_ms = abs(skew_ms)
    if size_ms < _SKEW_WARN_MS:
        return Check("redis clock", "ok", f"{size_ms:.0f} ms apart from ours")
    detail = f"{format_duration(round(size_ms / 1000) * 1000)} {'ahead of' if skew_ms > 0 else 'behind'} ours"
    status: Status = "fail" if size_ms >= _SKEW_FAIL_MS else "warn"
    return Check("redis clock", status, detail, "set both clocks by NTP: freshness and age are told by them")


def judge_topic_config(topic: str, config: Mapping[str, str]) -> Check:
    """Whether a topic keeps its records as they are, and for how long.

    Args:
        topic: Its name.
        config: Its configuration as the broker tells it; empty where it tells nothing.
    """
    name = f"retention of {topic}"
    if "retention.ms" not in config:
        remedy = (
            "the embedded broker keeps all in memory until it ends; on another broker, look at retention.ms yourself"
        )
        return Check(name, "warn", "the broker does not tell", remedy)
    if "compact" in config.get("cleanup.policy", "delete"):
        remedy = f"set cleanup.policy=delete on {topic}: compaction keeps only the last message of each user"
        return Check(name, "fail", f"cleanup.policy is {config['cleanup.policy']}", remedy)
    kept_ms, kept_bytes = int(config["retention.ms"]), int(config.get("retention.bytes", -1))
    detail = "for ever" if kept_ms < 0 else format_duration(kept_ms)
    detail += f", at most {_size(kept_bytes)} a partition" if kept_bytes >= 0 else ""
    if 0 <= kept_ms < _RETENTION_WARN_MS:
        remedy = f"raise retention.ms on {topic}: a trainer that is down for longer loses examples"
        return Check(name, "warn", detail, remedy)
    return Check(name, "ok", detail)


def check_versions() -> list[Check]:
    """Looks at Python and the packages that matter most."""
    python = ".".join(map(str, sys.version_info[:3]))
    fits = _PYTHON[0] <= sys.version_info[:2] < _PYTHON[1]
    checks = [Check("Python", "ok" if fits else "fail", python, "" if fits else "use Python 3.11, 3.12 or 3.13")]
    for package in _PACKAGES:
        try:
            checks.append(Check(f"package {package}", "ok", importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            remedy = "install Dolmen again, in an environment of its own"
            checks.append(Check(f"package {package}", "fail", "not installed", remedy))
    return checks


def check_disk(data_dir: Path) -> Check:
    """Looks at the space where the local stack keeps its data.

    Args:
        data_dir: Need not exist yet.
    """
    name, place = "disk", data_dir.absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Check(name, "fail", f"{place} cannot be written", "choose another --data-dir, or change its owner")
    free = shutil.disk_usage(place).free
    detail = f"{_size(free)} free for {data_dir}"
    if free < _FREE_WARN_BYTES:
        return Check(
            name, "fail" if free < _FREE_FAIL_BYTES else "warn", detail, "free space, or choose another --data-dir"
        )
    return Check(name, "ok", detail)


def failed(checks: Iterable[Check]) -> bool:
    """Whether anything does not work."""
    return any(check.status == "fail" for check in checks)


def _size(count: int) -> str:
    """Bytes for people.

    >>> _size(700), _size(3 << 20), _size(5 << 30)
    ('700 B', '3.0 MiB', '5.0 GiB')
    """
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count} B"
