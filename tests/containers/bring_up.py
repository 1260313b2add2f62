"""Builds the image, brings docker-compose.yml up without Grafana, sees it learn and rank, and takes it down again.

Run by deploy/check.sh. Joiner, trainer and ranker are started first, before there is any Redis or Kafka. The project
and its ports are its own, so a deployment that runs on this machine is left alone. Variables of the environment:

* ``COMPOSE``: the command, default ``docker compose``; ``podman-compose`` will do.
* ``BUILD``: how the image is built, default ``docker build``; empty: it is there already.
* ``DOLMEN_IMAGE``: its name, default ``dolmen:dev``.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from services.local.ports import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = (
    *shlex.split(os.environ.get("COMPOSE", "docker compose")),
    *("-p", "dolmen-check", "-f", "docker-compose.yml", "-f", "deploy/compose.without-grafana.yml"),
)
BUILD = shlex.split(os.environ.get("BUILD", "docker build"))
IMAGE = os.environ.get("DOLMEN_IMAGE", "dolmen:dev")
EXAMPLES = 20_000
CLICKS = 5
LIMIT_S = 180.0
SERVED = "sum(dolmen_freshness_seconds_count)"
HTTP = httpx.Client(trust_env=False, timeout=10)
PORTS = {name: str(free_port()) for name in ("RANKER_PORT", "KAFKA_PORT", "PROMETHEUS_PORT")}
RANKER = f"http://127.0.0.1:{PORTS['RANKER_PORT']}"
PROMETHEUS = f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}"


def main() -> None:
    if BUILD:
        with timed("the image is built"):
            run(*BUILD, "-t", IMAGE, "-f", "deploy/Dockerfile", ".")
    try:
        check()
    except BaseException:
        say(compose("logs", "--tail", "15", "joiner", "trainer", "ranker", "kafka", "redis", check=False))
        raise
    finally:
        compose("down", "-v", check=False)


def check() -> None:
    compose("up", "-d", "--no-deps", "joiner", "trainer", "ranker")
    time.sleep(5)  # long enough for both to find nobody
    say("joiner, trainer and ranker run, and wait")
    with timed("ready after Redis and Kafka were started"):
        compose("up", "-d", "--no-deps", "redis", "kafka", "prometheus")
        until(lambda: get(f"{RANKER}/readyz") is not None, "the ranker is not ready")
    check_hardening()

    examples, messages = replay()
    with timed("all of them learned and served"):
        until(lambda: metric("sum(dolmen_examples_total)") == examples, "the examples were not all learned")
        until(lambda: metric(SERVED) == examples, "the examples were not all served")
    rows = sum(table["rows"] for table in stats()["tables"].values())
    until(lambda: metric("sum(dolmen_store_rows)") == rows, f"Prometheus does not see the {rows} rows of the store")
    auc = metric('dolmen_online_auc{window="all"}')
    assert auc is not None
    assert auc > 0.6, f"the online AUC is {auc}"
    say(f"online AUC {auc:.4f}, rows {rows:,}")

    seconds = click()
    say(f"{seconds:.2f} s after the clicks the item that came last comes first")
    check_restart(examples + 2 * CLICKS, messages + CLICKS)


def check_hardening() -> None:
    """Ours run without rights, and nothing is published to other machines."""
    for name in ("joiner", "trainer", "ranker"):
        user = compose("exec", "-T", name, "id", "-u").strip()
        assert user == "10001", f"{name} runs as {user}"
        written = "import pathlib; pathlib.Path('/opt/x').write_text('x')"
        assert "Read-only file system" in compose("exec", "-T", name, "python", "-c", written, check=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; names the address that other machines see
        address = probe.getsockname()[0]
    for name, port in PORTS.items():
        with socket.socket() as probe:
            assert probe.connect_ex((address, int(port))) != 0, f"{name} is open on {address}"


def check_restart(examples: int, messages: int) -> None:
    """A trainer that was killed goes on where it was: nothing is learned twice, nothing is lost."""
    compose("kill", "-s", "SIGKILL", "trainer")
    with timed("the trainer was killed, started again, and learned from as many more"):
        compose("up", "-d", "--no-deps", "trainer")
        more = replay()
        until(lambda: (metric(SERVED) or 0) >= examples + more[0], "the examples were not all served")
    assert metric(SERVED) == examples + more[0]
    assert stats()["offsets"]["dolmen.examples"] == {"0": messages + more[1]}


def stats() -> dict[str, Any]:
    """What the store itself says."""
    return json.loads(compose("exec", "-T", "trainer", "dolmen", "store", "stats", "--json"))


def replay() -> tuple[int, int]:
    """Streams a piece of the shipped slice from this machine; returns how many examples and messages it was."""
    environment = {**os.environ, "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": f"127.0.0.1:{PORTS['KAFKA_PORT']}"}
    command = ("replay", "--dataset", "kuairand", "--limit", str(EXAMPLES))
    output = run(sys.executable, "-P", "-m", "services.cli.main", *command, environment=environment)
    match = re.search(r"sent ([\d,]+) examples in ([\d,]+) messages.*", output)
    assert match is not None, output
    say(match[0])
    return int(match[1].replace(",", "")), int(match[2].replace(",", ""))


def click() -> float:
    """Clicks on the last of some unknown items until it comes first; returns the seconds from click to rank."""
    user, context = {"id": "check-visitor"}, {"tab": 1}
    query = {"user": user, "context": context, "candidates": ["check-a", "check-b", "check-c"]}

    def rank() -> list[dict[str, Any]]:
        answer = HTTP.post(f"{RANKER}/v1/rank", json=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["items"]

    before = rank()
    scores = [item["score"] for item in before]
    assert max(scores) - min(scores) < 1e-6, f"unknown items do not score alike: {before}"
    first, *_, last = (item["id"] for item in before)
    now_ms = time.time_ns() // 1_000_000
    items = [{"id": last, "labels": {"click": 1}}, {"id": first, "labels": {"click": 0}}]
    events = [{"ts": now_ms + i, "user": user, "context": context, "items": items} for i in range(CLICKS)]
    answer = HTTP.post(f"{RANKER}/v1/events", json={"examples": events})
    assert (answer.status_code, answer.json()["accepted"]) == (202, CLICKS), answer.text
    start = time.monotonic()
    until(lambda: rank()[0]["id"] == last, "the clicks did not change the ranking", every_s=0.02)
    return time.monotonic() - start


def metric(query: str) -> float | None:
    answer = get(f"{PROMETHEUS}/api/v1/query", query=query)
    result = answer["data"]["result"] if answer else []
    return float(result[0]["value"][1]) if result else None


def get(url: str, **params: str) -> Any:
    try:
        answer = HTTP.get(url, params=params)
    except httpx.TransportError:
        return None
    return answer.json() if answer.status_code == 200 else None


def until(condition: Callable[[], bool], what: str, every_s: float = 0.2) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(every_s)


def compose(*words: str, check: bool = True) -> str:
    return run(*COMPOSE, *words, environment={**os.environ, **PORTS, "DOLMEN_IMAGE": IMAGE}, check=check)


def run(*command: str, environment: dict[str, str] | None = None, check: bool = True) -> str:
    """Output of a command, errors included where it may fail."""
    errors = subprocess.PIPE if check else subprocess.STDOUT
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
    )
    if check and answer.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}")
    return answer.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - start:.1f} s")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
