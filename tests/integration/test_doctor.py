"""``dolmen doctor`` against real servers, as a user runs it."""

import json
import os
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.partitioner.default import murmur2

from services.local.ports import claim_port
from services.local.ready import Addresses, write_ready
from services.topics import make_topics
from trainer.connection import kafka_options
from trainer.settings import EventsSettings
from trainer.source import Source
from trainer.topics import Topics

pytestmark = pytest.mark.kafka


def run_doctor(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "services.cli.main", "doctor", *words]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DOLMEN_")}
    return subprocess.run(command, env={**clean, **variables}, capture_output=True, text=True, timeout=120, check=False)


def found(result: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(result.stdout)}


def test_healthy_servers_pass_and_missing_topics_are_no_failure(
    request: pytest.FixtureRequest, redis_url: str, bootstrap_servers: str, tmp_path: Path
) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    variables = {
        "DOLMEN_STORE__URL": redis_url,
        "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": bootstrap_servers,
        "DOLMEN_EVENTS__TOPICS__EXAMPLES": f"{name}.examples",
        "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{name}.dead",
        "DOLMEN_EVENTS__TOPICS__IMPRESSIONS": f"{name}.impressions",
        "DOLMEN_EVENTS__TOPICS__ACTIONS": f"{name}.actions",
        "DOLMEN_EVENTS__TOPICS__JOINER_STATE": f"{name}.state",
    }
    words = ("--json", "--data-dir", str(tmp_path))
    result = run_doctor(*words, **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    checks = found(result)
    assert checks["redis"]["status"] == "ok"
    assert "Valkey" in checks["redis"]["detail"]
    assert checks["redis persistence"]["status"] == checks["redis eviction"]["status"] == "ok"
    assert checks["kafka"]["status"] == "ok"
    assert checks[f"topic {name}.examples"]["status"] == "warn"
    assert checks[f"topic {name}.actions"]["status"] == "warn"
    assert "joiner" in checks[f"topic {name}.actions"]["remedy"]
    assert set(checks["disk"]) == {"name", "status", "detail", "remedy"}

    topics = {"examples": f"{name}.examples", "dead_letters": f"{name}.dead"}
    source = Source(EventsSettings(bootstrap_servers=bootstrap_servers, topics=topics, partitions=3), "earliest")
    source.open({})
    source.close()
    checks = found(run_doctor(*words, **variables))
    assert checks[f"topic {name}.examples"]["detail"] == "3 partitions"
    assert checks[f"topic {name}.dead"]["status"] == "ok"
    embedded = request.node.callspec.params["bootstrap_servers"] == "embedded"
    assert checks[f"retention of {name}.examples"]["status"] == ("warn" if embedded else "ok")


def test_the_topics_of_the_joiner_are_looked_at(bootstrap_servers: str, tmp_path: Path) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    names = {kind: f"{name}.{kind}" for kind in ("impressions", "actions", "joiner_state", "examples", "dead_letters")}
    events = EventsSettings(bootstrap_servers=bootstrap_servers, topics=names, partitions=4)
    with closing(Topics(kafka_options(events))) as topics:
        make_topics(topics, events)
    with closing(KafkaProducer(bootstrap_servers=bootstrap_servers)) as producer:
        for n in range(20):
            key = f"r{n}".encode()
            producer.send(names["impressions"], b"{}", key=key)
            partition = (murmur2(key) & 0x7FFFFFFF) % 4
            producer.send(names["actions"], b"{}", key=key, partition=partition if n else (partition + 1) % 4)
        producer.flush(30)
    variables = {f"DOLMEN_EVENTS__TOPICS__{kind.upper()}": topic for kind, topic in names.items()}
    result = run_doctor(
        "--json", "--data-dir", str(tmp_path), DOLMEN_EVENTS__BOOTSTRAP_SERVERS=bootstrap_servers, **variables
    )
    checks = found(result)
    assert checks["joiner's topics"]["detail"] == "4 pairs of partitions"
    assert checks[f"keys of {names['impressions']}"]["status"] == "ok"
    misplaced = checks[f"keys of {names['actions']}"]
    assert misplaced["status"] == "warn"
    assert misplaced["detail"].startswith("1 of the last 20 messages")


def test_addresses_come_from_the_stack_that_runs_on_the_data_dir(
    redis_url: str, bootstrap_servers: str, tmp_path: Path
) -> None:
    write_ready(tmp_path / "ready.json", Addresses(redis_url, bootstrap_servers, "http://127.0.0.1:1", {}))
    result = run_doctor("--data-dir", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert redis_url in result.stdout
    assert bootstrap_servers in result.stdout


def test_servers_that_do_not_answer_fail_with_what_to_do(tmp_path: Path) -> None:
    port = claim_port("127.0.0.1", 0, "a free one")
    result = run_doctor(
        *("--json", "--data-dir", str(tmp_path)),
        DOLMEN_STORE__URL=f"redis://user:secret@127.0.0.1:{port}/0",
        DOLMEN_EVENTS__BOOTSTRAP_SERVERS=f"127.0.0.1:{port}",
    )
    assert result.returncode == 1
    checks = found(result)
    for name in ("redis", "kafka"):
        assert checks[name]["status"] == "fail"
        assert f"127.0.0.1:{port}" in checks[name]["detail"]
        assert checks[name]["remedy"]
    assert "secret" not in result.stdout
    assert "Traceback" not in result.stderr


def test_a_faulty_configuration_is_exit_code_2(tmp_path: Path) -> None:
    config = tmp_path / "dolmen.toml"
    config.write_text("[events]\nno_such_key = 1\n")
    result = run_doctor("--config", str(config))
    assert result.returncode == 2
    assert "events.no_such_key" in result.stderr
