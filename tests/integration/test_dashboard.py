"""The dashboard's queries and the alert rules on a real Prometheus that scrapes the running stack."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kafka import KafkaProducer

from services.local.ports import free_port
from services.local.probes import answers_http
from services.local.process import Process
from services.local.ready import Addresses
from services.local.stack import LocalStack
from services.settings import Settings, shipped_config
from trainer.settings import TopicSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
LIMIT_S = 90.0
WINDOW = "10s"


def program(name: str) -> str:
    """Path of a program of Prometheus."""
    path = shutil.which(name)
    if path is None:
        text = f"there is no {name}; install Prometheus (Debian: apt-get install prometheus)"
        pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)
    return path


def until(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.1)


@pytest.fixture(scope="module")
def prometheus_binary() -> str:
    return program("prometheus")


@pytest.fixture(scope="module")
def stack(prometheus_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """The whole local stack: the shipped configuration with a DeepFM and its search, a memory budget and an archive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOLMEN_TRAINER__MEMORY_BUDGET", "64MiB")
        patch.setenv("DOLMEN_MODEL__NAME", "deepfm")
        patch.setenv("DOLMEN_TRAINER__DIMENSION_SEARCH", "propose")
        patch.setenv("DOLMEN_ARCHIVE__PATH", str(tmp_path_factory.mktemp("archive")))
        patch.setenv("DOLMEN_ARCHIVE__FLUSH_INTERVAL", "1s")
        settings = Settings(**{**shipped_config("kuairand"), "ranker": {"port": 0}})
        with LocalStack(settings, data_dir=tmp_path_factory.mktemp("stack")) as running:
            yield running.addresses


@pytest.fixture(scope="module")
def prometheus(stack: Addresses, prometheus_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with the deployment's own configuration, but for addresses and a shorter interval."""
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms", "scrape_timeout": "500ms"}
    for job in config["scrape_configs"]:
        url = stack.metrics_urls.get(job["job_name"])
        address = f"127.0.0.1:{port}" if url is None else url.removeprefix("http://").removesuffix("/metrics")
        job["static_configs"] = [{"targets": [address]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
    command = (
        prometheus_binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    process = Process(command, folder / "prometheus.log")
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers_http(f"{url}/-/ready") or process.exit_code() is not None, "Prometheus is not ready")
        assert process.exit_code() is None, process.tail()
        yield url
    finally:
        process.stop(20)


@pytest.fixture(scope="module")
def traffic(stack: Addresses, prometheus: str) -> None:
    """Examples, one message that nobody can learn from, and rankings, good and bad, while Prometheus scrapes."""
    until(
        lambda: len(ask(prometheus, 'up{job=~"joiner|trainer|ranker|archive"} == 1')) == 4,
        "Prometheus does not reach the services",
    )
    environment = {**os.environ, "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": stack.bootstrap_servers}
    replay = ("replay", "--dataset", "kuairand", "--limit", "3000", "--rate", "600")
    command = [sys.executable, "-P", "-m", "services.cli.main", *replay]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as replaying:
        with closing(KafkaProducer(bootstrap_servers=stack.bootstrap_servers)) as producer:
            producer.send(TopicSettings().examples, b"no JSON").get(timeout=30)
        show_and_do_something_else(stack.ranker_url)
        while replaying.poll() is None:
            rank(stack.ranker_url, {"user": {"id": 1}, "candidates": [1, 2, 3]}, 200)
            rank(stack.ranker_url, {"user": {"id": 1}, "candidates": []}, 422)
            time.sleep(0.2)
        assert replaying.stderr is not None
        assert replaying.returncode == 0, replaying.stderr.read().decode()


def show_and_do_something_else(url: str) -> None:
    """A list that waits in the joiner, and a click on what it did not hold."""
    now_ms = time.time_ns() // 1_000_000
    shown = {"request_id": "r1", "ts": now_ms, "user": {"id": 1}, "items": [{"id": 1}, {"id": 2}]}
    clicked = {"request_id": "r1", "ts": now_ms + 1, "item_id": 3, "action": "click"}
    answer = httpx.post(f"{url}/v1/events", json={"impressions": [shown], "actions": [clicked]}, trust_env=False)
    assert answer.json() == {"accepted": 2, "rejected": []}


def rank(url: str, body: dict[str, Any], status: int) -> None:
    assert httpx.post(f"{url}/v1/rank", json=body, trust_env=False).status_code == status


def ask(url: str, query: str) -> list[tuple[dict[str, str], float]]:
    """The series of an instant query, with their values."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False)
    assert answer.status_code == 200, f"{query}: {answer.text}"
    return [(series["metric"], float(series["value"][1])) for series in answer.json()["data"]["result"]]


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana/dashboards/dolmen.json").read_text())


def panel_queries() -> list[tuple[str, str]]:
    """Each panel's queries under its title, with the variables filled in as Grafana would."""
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", WINDOW).replace("$task", ".*"))
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize(("title", "query"), panel_queries())
def test_every_query_of_the_dashboard_has_data(prometheus: str, title: str, query: str):
    assert "$" not in query, title
    until(lambda: bool(ask(prometheus, query)), f"{title}: no series: {query}")
    # rates fall to nothing once the traffic is over, so quantiles are looked for where it was
    seen = ask(prometheus, f"max_over_time(({query})[2m:500ms])")
    assert any(math.isfinite(value) for _, value in seen), f"{title}: no number: {query}"


@pytest.mark.usefixtures("traffic")
def test_the_task_variable_lists_the_tasks(prometheus: str):
    (variable,) = dashboard()["templating"]["list"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
    answer = httpx.get(f"{prometheus}/api/v1/label/{label}/values", params={"match[]": metric}, trust_env=False)
    assert answer.json()["data"] == ["click"]


@pytest.mark.usefixtures("traffic")
def test_prometheus_counts_what_was_sent(prometheus: str):
    until(lambda: [v for _, v in ask(prometheus, "dolmen_examples_total")] == [3000.0], "not all examples arrived")
    ((labels, letters),) = ask(prometheus, "dolmen_dead_letters_total")
    assert (labels["topic"], labels["reason"], letters) == ("dolmen.examples", "json", 1.0)
    until(lambda: [v for _, v in ask(prometheus, "dolmen_freshness_seconds_count")] == [3000.0], "not all are served")
    assert {value for _, value in ask(prometheus, "dolmen_consumer_lag")} == {0.0}
    statuses = {labels["status"] for labels, value in ask(prometheus, "dolmen_rank_requests_total") if value}
    assert statuses == {"200", "422"}


@pytest.mark.usefixtures("traffic")
def test_every_alert_rule_is_evaluated_without_error(prometheus: str):
    answer = httpx.get(f"{prometheus}/api/v1/rules", trust_env=False).json()
    rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    written = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in written)


def test_alert_rules_fire_when_they_should_and_only_then():
    answer = subprocess.run(
        [program("promtool"), "test", "rules", "alerts_test.yml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_configuration_of_prometheus_is_valid():
    answer = subprocess.run(
        [program("promtool"), "check", "config", "prometheus.yml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
