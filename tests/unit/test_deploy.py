"""The deployment's files, without running any of them."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from embedding_store.bounded_shard import BoundedShard
from embedding_store.cached_shard import Tally
from embedding_store.settings import TableSettings
from services.archive.metrics import ArchiveMetrics
from services.cli.main import COMMANDS
from services.joiner.metrics import JoinerMetrics
from services.ranker.metrics import RankerMetrics
from services.settings import ConfigError, load_settings
from trainer.metrics import TrainerMetrics
from trainer.search.online import OnlineSearch
from trainer.search.settings import OnlineSearchSettings

ROOT = Path(__file__).parents[2]
OURS = ("joiner", "archive", "trainer", "ranker")
PROMETHEUS_OWN = {"up"}
CONTRACT = {
    "dolmen_examples_total",
    "dolmen_online_auc",
    "dolmen_online_logloss",
    "dolmen_online_calibration",
    "dolmen_online_calibration_error",
    "dolmen_online_normalized_entropy",
    "dolmen_online_reliability_observed",
    "dolmen_online_reliability_predicted",
    "dolmen_slice_auc",
    "dolmen_slice_calibration",
    "dolmen_slice_examples",
    "dolmen_slice_logloss",
    "dolmen_slice_normalized_entropy",
    "dolmen_consumer_lag",
    "dolmen_dead_letters_total",
    "dolmen_commit_seconds_bucket",
    "dolmen_commit_rows_sum",
    "dolmen_freshness_seconds_bucket",
    "dolmen_store_rows",
    "dolmen_store_bytes",
    "dolmen_ids_admitted_total",
    "dolmen_ids_filtered_total",
    "dolmen_rows_expired_total",
    "dolmen_rank_seconds_bucket",
    "dolmen_rank_candidates_bucket",
    "dolmen_rank_requests_total",
    "dolmen_replica_lag_commits",
    "dolmen_replica_miss_total",
    "dolmen_joiner_pending",
    "dolmen_joiner_late_total",
    "dolmen_archive_bytes_total",
    "dolmen_archive_files_total",
    "dolmen_archive_lag",
    "dolmen_archive_lost_total",
    "dolmen_archive_messages_total",
}
SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def with_defaults(text: str) -> str:
    """What Compose makes of ``${NAME:-default}`` where the environment has no NAME."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    return yaml.safe_load(with_defaults(text))["services"]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((ROOT / "deploy/grafana/dashboards/dolmen.json").read_text(encoding="utf-8"))


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def dashboard_queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in panels(dashboard):
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["definition"] for variable in dashboard["templating"]["list"])


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in read_yaml("deploy/prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    """Names of all samples that our services export."""
    trainer, ranker = TrainerMetrics(["click"]), RankerMetrics()
    shard = BoundedShard(SimpleNamespace(folded=lambda: 0), 8 << 20, [TableSettings(name="t", dim=2)], 1)
    trainer.refresh(shard, {}, 0, OnlineSearch(shard, OnlineSearchSettings(), ["t"], True))
    ranker.watch(SimpleNamespace(tally=Tally(), lag_commits=0), lambda: None)
    registries = (
        JoinerMetrics(["dolmen.actions"]).registry, ArchiveMetrics().registry, trainer.registry, ranker.registry
    )  # fmt: skip
    families = [family for registry in registries for family in registry.collect()]
    return {family.name + suffix for family in families for suffix in SAMPLES[family.type]}


def names_in(query: str) -> set[str]:
    bare = re.sub(r'"[^"]*"', "", query)
    return set(re.findall(r"\b(?:dolmen_\w+|up)\b", bare))


# Compose


def test_compose_has_the_whole_deployment(services):
    assert set(services) == {"redis", "kafka", *OURS, "prometheus", "grafana"}


def test_only_the_archiver_waits_to_be_asked_for(services):
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "archive": ["archive"]
    }
    assert "archive-data:/var/lib/dolmen" in services["archive"]["volumes"]
    assert services["archive"]["environment"]["DOLMEN_ARCHIVE__PATH"].startswith("/var/lib/dolmen/")


def test_every_published_port_is_on_the_loopback_interface(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port.rsplit(":", 1)[1] for port in ports} == {"8080", "3000", "9090", "9094"}
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert [name for name, service in services.items() if service.get("network_mode") == "host"] == []


def test_every_foreign_image_has_a_tag_that_is_not_latest(services):
    images = {name: service["image"] for name, service in services.items() if name not in OURS}
    bases = re.findall(r"^FROM (\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    for image in [*images.values(), *bases]:
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", image), image


def test_every_service_is_bounded_watched_and_started_again(services):
    for name, service in services.items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name


def test_every_service_has_no_capability_and_gains_none(services):
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"privileged", "cap_add", "devices"} & set(service) == set(), name


def test_every_root_file_system_is_read_only_but_that_of_kafka(services):
    writable = [name for name, service in services.items() if not service.get("read_only")]
    assert writable == ["kafka"], "its start script writes the configuration into the image's own folder"
    assert all(service["tmpfs"] == ["/tmp"] for service in services.values() if service.get("read_only"))  # noqa: S108


def test_no_process_runs_as_root(services):
    final_stage = (ROOT / "deploy/Dockerfile").read_text().split("\nFROM ")[-1]
    assert re.search(r"^USER 10001:10001$", final_stage, re.MULTILINE)
    users = {name: service.get("user") for name, service in services.items()}
    assert users.pop("redis") == "999:999"
    assert users.pop("prometheus") == "65534:65534"
    assert set(users.values()) == {None}, "these images have a user of their own"


def test_no_file_holds_a_secret():
    files = [ROOT / "docker-compose.yml", *(f for f in (ROOT / "deploy").rglob("*") if f.is_file())]
    assigned = re.compile(r"(password|passwd|secret|token|api_?key)\w*[\"']?\s*[:=]\s*[\"']?[^\s\"'$]", re.IGNORECASE)
    for file in files:
        assert assigned.findall(file.read_text(encoding="utf-8")) == [], file


def test_redis_keeps_everything_and_evicts_nothing(services):
    command = services["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--appendonly"], options["--maxmemory-policy"]) == ("yes", "noeviction")
    assert services["redis"]["volumes"] == [f"redis-data:{options['--dir']}"]


def test_kafka_keeps_its_log_in_a_volume_and_creates_no_topic_by_itself(services):
    environment = services["kafka"]["environment"]
    assert f"kafka-data:{environment['KAFKA_LOG_DIRS']}" in services["kafka"]["volumes"]
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_kafka_is_reached_from_inside_and_from_this_machine(services):
    environment = services["kafka"]["environment"]
    advertised = dict(one.split("://") for one in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised == {"INTERNAL": "kafka:9092", "EXTERNAL": "127.0.0.1:9094"}
    assert services["trainer"]["environment"]["DOLMEN_EVENTS__BOOTSTRAP_SERVERS"] == advertised["INTERNAL"]


@pytest.mark.parametrize("name", OURS)
def test_our_services_understand_their_environment(services, name, monkeypatch):
    service = services[name]
    assert service["command"][0] == name
    assert name in COMMANDS
    assert set(service["depends_on"]) == ({"kafka"} if name in ("joiner", "archive") else {"redis", "kafka"})
    for key, value in service["environment"].items():
        monkeypatch.setenv(key, value)
    settings = load_settings()
    assert settings.store.url == "redis://redis:6379/0"
    assert settings.events.bootstrap_servers == "kafka:9092"
    if name != "ranker":
        port = {"joiner": 9101, "archive": 9102, "trainer": 9100}[name]
        assert (settings.metrics.host, settings.metrics.port) == ("0.0.0.0", port)  # noqa: S104
    else:
        assert (settings.ranker.host, settings.ranker.port) == ("0.0.0.0", 8080)  # noqa: S104


def test_every_misspelt_setting_would_be_noticed(services):
    sections = load_settings().model_dump()
    for name in OURS:
        for key in set(services[name]["environment"]) - {"DOLMEN_CONFIG"}:
            section, setting = key.removeprefix("DOLMEN_").lower().split("__")
            assert setting in sections[section], key


def test_passwords_come_from_files(tmp_path, monkeypatch):
    (tmp_path / "redis").write_text("of redis\n")
    (tmp_path / "kafka").write_text("of kafka\n")
    monkeypatch.setenv("DOLMEN_STORE__PASSWORD_FILE", str(tmp_path / "redis"))
    monkeypatch.setenv("DOLMEN_STORE__USERNAME", "dolmen")
    monkeypatch.setenv("DOLMEN_EVENTS__SASL_PLAIN_PASSWORD_FILE", str(tmp_path / "kafka"))
    settings = load_settings()
    assert settings.store.password is not None
    assert settings.events.sasl_plain_password is not None
    assert settings.store.password.get_secret_value() == "of redis"
    assert settings.events.sasl_plain_password.get_secret_value() == "of kafka"
    assert settings.store.username == "dolmen"
    assert "of redis" not in str(settings)


def test_a_password_that_is_given_wins_over_a_file(tmp_path, monkeypatch):
    (tmp_path / "redis").write_text("of the file")
    monkeypatch.setenv("DOLMEN_STORE__PASSWORD_FILE", str(tmp_path / "redis"))
    monkeypatch.setenv("DOLMEN_STORE__PASSWORD", "given")
    password = load_settings().store.password
    assert password is not None
    assert password.get_secret_value() == "given"


def test_a_missing_password_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DOLMEN_STORE__PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="none: a secret's file cannot be read"):
        load_settings()


def test_every_mounted_file_exists_and_every_volume_is_declared(services):
    declared = set(read_yaml("docker-compose.yml")["volumes"])
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert {name for name in used if not name.startswith(".")} == declared
    assert [name for name in used if name.startswith(".") and not (ROOT / name).exists()] == []


def test_compiled_kernels_are_kept_where_the_image_says(services):
    folder = re.search(r"NUMBA_CACHE_DIR=(\S+)", (ROOT / "deploy/Dockerfile").read_text())
    assert folder is not None
    for name in OURS:
        assert f"{name}-kernels:{folder[1]}" in services[name]["volumes"]


def test_a_trainer_that_is_started_again_does_not_begin_anew_beside_a_rescue_dump(services, tmp_path):
    assert "trainer-data:/var/lib/dolmen" in services["trainer"]["volumes"]
    assert services["trainer"]["command"] == ["trainer", "--data-dir", "/var/lib/dolmen"]
    (tmp_path / "rescue.dump").write_bytes(b"")
    app = typer.Typer()
    app.callback()(lambda: None)
    importlib.import_module("services.cli.trainer").register(app)
    answer = CliRunner().invoke(app, ["trainer", "--data-dir", str(tmp_path)])
    assert answer.exit_code == 3
    assert "dolmen store load" in answer.output


# The image


def test_the_build_context_lets_through_what_the_image_copies():
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    sources = {
        word for line in re.findall(r"^COPY (?!--)(.+)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]
    }
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == allowed
    assert [name for name in sources if not (ROOT / name).exists()] == []


def test_the_image_starts_the_command():
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert 'ENTRYPOINT ["dolmen"]' in dockerfile
    assert "ARG TORCH_INDEX=\n" in dockerfile


# Prometheus and Grafana


def test_prometheus_scrapes_where_the_services_listen(services):
    config = read_yaml("deploy/prometheus/prometheus.yml")
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    trainer_port = services["trainer"]["environment"]["DOLMEN_METRICS__PORT"]
    ranker_port = services["ranker"]["environment"]["DOLMEN_RANKER__PORT"]
    assert targets["trainer"] == [f"trainer:{trainer_port}"]
    joiner_port = services["joiner"]["environment"]["DOLMEN_METRICS__PORT"]
    assert targets["joiner"] == [f"joiner:{joiner_port}"]
    archive_port = services["archive"]["environment"]["DOLMEN_METRICS__PORT"]
    assert targets["archive"] == [f"archive:{archive_port}"]
    assert targets["ranker"] == [f"ranker:{ranker_port}"]
    mounted = [volume.split(":")[1] for volume in services["prometheus"]["volumes"]]
    assert [f"/etc/prometheus/{file}" for file in config["rule_files"]] == [v for v in mounted if "alerts" in v]


def test_the_dashboard_asks_only_for_metrics_that_are_exported(dashboard):
    known = exported() | PROMETHEUS_OWN
    for query in dashboard_queries(dashboard):
        assert names_in(query), query
        assert names_in(query) <= known, query


def test_the_alerts_ask_only_for_metrics_that_are_exported():
    known = exported() | PROMETHEUS_OWN
    for rule in alert_rules():
        assert names_in(rule["expr"]), rule["alert"]
        assert names_in(rule["expr"]) <= known, rule["alert"]


def test_the_dashboard_shows_every_metric_of_the_interface(dashboard):
    shown = {name for query in dashboard_queries(dashboard) for name in names_in(query)}
    assert CONTRACT - shown == set()


def test_every_panel_has_a_unit_and_says_what_it_shows(dashboard):
    for panel in panels(dashboard):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_the_dashboard_uses_the_provisioned_source(dashboard, services):
    (source,) = read_yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    used = [target["datasource"] for panel in panels(dashboard) for target in panel["targets"]]
    used += [holder["datasource"] for holder in (*panels(dashboard), *dashboard["templating"]["list"])]
    assert {(one["type"], one["uid"]) for one in used} == {(source["type"], source["uid"])}
    (provider,) = read_yaml("deploy/grafana/provisioning/dashboards/dolmen.yml")["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    names = [rule["alert"] for rule in alert_rules()]
    assert len(names) == len(set(names))
    for rule in alert_rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert rule["for"], rule["alert"]
        assert all(rule["annotations"][key].endswith(".") for key in ("summary", "description")), rule["alert"]
