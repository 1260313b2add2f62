"""The local stack with real servers. Joiner, trainer and ranker are small programs of the test's own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import redis

from services.local.errors import LocalError
from services.local.servers import start_broker, start_valkey
from services.local.stack import LocalStack
from services.settings import Settings
from tests.processes import runs
from trainer.settings import TopicSettings

FAKE_SERVICE = """
import http.server, json, os, signal, sys
name, folder = sys.argv[1:3]
plan = json.load(open(folder + "/plan.json")).get(name, {})
def leave(*_):
    with open(folder + "/ends", "a") as ends:
        ends.write(name + " ")
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
if "exit" in plan:
    print("reason of " + name, file=sys.stderr)
    sys.exit(plan["exit"])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/exit3":
            print("the store was emptied", file=sys.stderr, flush=True)
            os._exit(3)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(os.environ)).encode())
    def log_message(self, *_):
        pass
port = os.environ["DOLMEN_RANKER__PORT" if name == "ranker" else "DOLMEN_METRICS__PORT"]
http.server.HTTPServer(("127.0.0.1", int(port)), Answer).serve_forever()
"""

DRIVER = """
import json, sys
from pathlib import Path
from services.local.signals import on_stop_signals
from services.local.stack import LocalStack
from services.settings import Settings
folder = Path(sys.argv[1])
command = lambda name: (sys.executable, str(folder / "fake.py"), name, str(folder))
stack = LocalStack(Settings(**json.loads(sys.argv[2])), data_dir=folder / "data", command=command)
with on_stop_signals(stack.request_stop), stack:
    stack.wait()
"""

TOPICS = {
    **dict.fromkeys(("dolmen.impressions", "dolmen.actions", "dolmen.joiner-state", "dolmen.examples"), 3),
    "dolmen.dead-letters": 1,
}
SECTIONS = {
    "features": [{"name": "video", "kind": "id", "source": "item.id"}],
    "tasks": [{"name": "click"}],
    "events": {"partitions": 3},
    "ranker": {"port": 0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fake.py").write_text(FAKE_SERVICE)
    plan(tmp_path, {})
    return tmp_path


def plan(folder: Path, behaviour: dict) -> None:
    (folder / "plan.json").write_text(json.dumps(behaviour))


def stack_on(folder: Path, said: list[str] | None = None, **changes) -> LocalStack:
    return LocalStack(
        Settings(**{**SECTIONS, **changes}),
        data_dir=folder / "data",
        say=(said if said is not None else []).append,
        command=lambda name: (sys.executable, str(folder / "fake.py"), name, str(folder)),
    )


@contextmanager
def driver_on(folder: Path) -> Iterator[subprocess.Popen]:
    """A process of its own that runs the stack, as `dolmen up` does."""
    with (folder / "err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", DRIVER, str(folder), json.dumps(SECTIONS)], stderr=errors
        )
    try:
        until(lambda: ready(folder) is not None or process.poll() is not None)
        assert process.poll() is None, (folder / "err").read_text()
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def ready(folder: Path) -> dict | None:
    path = folder / "data" / "ready.json"
    return json.loads(path.read_text()) if path.exists() else None


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


def topics(bootstrap_servers: str) -> dict[str, int]:
    from kafka import KafkaAdminClient

    with closing(KafkaAdminClient(bootstrap_servers=bootstrap_servers)) as admin:
        return {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}


def test_start_ready_and_stop_leave_no_process(folder):
    with stack_on(folder) as stack:
        found = ready(folder)
        assert sorted(found) == ["bootstrap_servers", "metrics_urls", "pids", "ranker_url", "redis_url"]
        assert sorted(found["pids"]) == ["joiner", "kafka", "ranker", "redis", "trainer"]
        assert all(runs(pid) for pid in found["pids"].values())
        assert topics(found["bootstrap_servers"]) == TOPICS
        of_joiner = httpx.get(found["metrics_urls"]["joiner"]).json()
        environment = httpx.get(found["metrics_urls"]["trainer"]).json()
        assert of_joiner == {**environment, "DOLMEN_METRICS__PORT": of_joiner["DOLMEN_METRICS__PORT"]} != environment
        assert environment["DOLMEN_STORE__URL"] == found["redis_url"]
        assert environment["DOLMEN_EVENTS__ON_LOST_LOG"] == "earliest"
        with closing(redis.Redis.from_url(found["redis_url"])) as client:
            chosen = client.config_get("appendonly", "appendfsync", "maxmemory-policy")
        assert chosen == {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert os.getsid(found["pids"]["trainer"]) == found["pids"]["trainer"]
        assert stack.addresses.pids == found["pids"]
    assert not any(runs(pid) for pid in found["pids"].values())
    assert ready(folder) is None
    assert (folder / "ends").read_text() == "ranker trainer joiner "


@pytest.mark.parametrize("name", ["redis", "kafka", "joiner", "trainer", "ranker"])
def test_a_killed_child_comes_back_at_its_old_address(name, folder):
    said: list[str] = []
    with stack_on(folder, said) as stack:
        before = ready(folder)
        with closing(redis.Redis.from_url(before["redis_url"])) as client:
            client.set("kept", 1)
        stack.supervise()
        os.kill(before["pids"][name], signal.SIGKILL)
        until(lambda: ready(folder)["pids"][name] != before["pids"][name])
        after = ready(folder)
        assert {**after, "pids": None} == {**before, "pids": None}
        assert {**after["pids"], name: 0} == {**before["pids"], name: 0}
        assert topics(after["bootstrap_servers"]) == TOPICS
        with closing(redis.Redis.from_url(after["redis_url"])) as client:
            assert client.get("kept") == b"1"
        stack.check()
    assert any(f"{name} ended (killed by SIGKILL)" in text for text in said)
    assert any(f"{name} is ready again" in text for text in said)
    assert not any(runs(pid) for pid in after["pids"].values())


def test_a_trainer_that_a_restart_would_not_help_ends_the_stack(folder):
    with stack_on(folder) as stack:
        found = ready(folder)
        stack.supervise()
        with pytest.raises(httpx.TransportError):
            httpx.get(found["metrics_urls"]["trainer"].replace("/metrics", "/exit3"))
        until(lambda: not any(runs(pid) for pid in found["pids"].values()))
        with pytest.raises(LocalError, match=r"trainer ended \(exit code 3\)(.|\n)*the store was emptied") as raised:
            stack.check()
        assert raised.value.exit_code == 1


def test_a_service_that_finds_its_configuration_wrong_makes_up_exit_with_2(folder):
    plan(folder, {"ranker": {"exit": 2}})
    with pytest.raises(LocalError, match="reason of ranker") as raised:
        stack_on(folder).start()
    assert raised.value.exit_code == 2
    assert ready(folder) is None


def test_a_service_that_dies_again_and_again_before_it_is_ready_is_given_up(folder):
    said: list[str] = []
    plan(folder, {"trainer": {"exit": 1}})
    with pytest.raises(LocalError, match=r"5 times(.|\n)*reason of trainer"):
        stack_on(folder, said).start()
    assert sum("starting it again" in text for text in said) == 4


def test_what_is_configured_is_used_and_existing_topics_stay_as_they_are(folder, redis_url, bootstrap_servers):
    from kafka import KafkaAdminClient

    names = {name: f"{folder.name}.{name}" for name in TopicSettings.model_fields}
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap_servers)) as admin:
        existing = {names["examples"]: {"num_partitions": 2}, names["actions"]: {"num_partitions": 4}}
        admin.create_topics(existing, wait_for_metadata=True)
    events = {"bootstrap_servers": bootstrap_servers, "topics": names, "partitions": 5}
    with stack_on(folder, store={"url": redis_url}, events=events) as stack:
        assert sorted(stack.addresses.pids) == ["joiner", "ranker", "trainer"]
        assert stack.addresses.redis_url == redis_url
        assert stack.addresses.bootstrap_servers == bootstrap_servers
        found = topics(bootstrap_servers)
    assert {name: found[topic] for name, topic in names.items()} == {
        "impressions": 4, "actions": 4, "joiner_state": 4, "examples": 2, "dead_letters": 1
    }  # fmt: skip


def test_a_second_stack_on_the_same_data_directory_is_refused(folder):
    with stack_on(folder):
        with pytest.raises(LocalError, match=rf"is in use by another `dolmen up` \(pid {os.getpid()}\)"):
            stack_on(folder).start()
        assert ready(folder) is not None


def test_a_killed_up_leaves_no_orphan_and_its_data_can_be_used_at_once(folder):
    with driver_on(folder) as driver:
        found = ready(folder)
        with closing(redis.Redis.from_url(found["redis_url"])) as client:
            client.set("kept", 1)
        driver.kill()
        with stack_on(folder) as stack:
            assert not any(runs(pid) for pid in found["pids"].values())
            with closing(redis.Redis.from_url(stack.addresses.redis_url)) as client:
                assert client.get("kept") == b"1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signals_stop_everything_in_order_however_often_they_come(number, folder):
    with driver_on(folder) as driver:
        pids = ready(folder)["pids"].values()
        driver.send_signal(number)
        until(lambda: "stopping" in (folder / "err").read_text())
        driver.send_signal(number)
        driver.send_signal(number)
        assert driver.wait(60) == 0
    assert not any(runs(pid) for pid in pids)
    assert (folder / "ends").read_text() == "ranker trainer joiner "


def test_without_the_kernels_help_a_watcher_ends_the_child_and_itself(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from services.local.process import Process\n"
        "p = Process((sys.executable, '-c', 'import time; time.sleep(600)'), Path(sys.argv[1]), watcher=True)\n"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        pid = int(starter.stdout.readline())
        assert runs(pid)
        starter.kill()
    until(lambda: not runs(pid))


def test_servers_keep_address_and_valkey_its_data_over_a_crash(tmp_path):
    with start_valkey(tmp_path / "valkey") as server, start_broker(tmp_path / "broker") as broker:
        with closing(redis.Redis.from_url(server.url)) as client:
            client.set("kept", 1)
            before = server.address, server.pid
            server.kill()
            server.restart()
            assert client.get("kept") == b"1"
        assert server.address == before[0]
        assert server.pid != before[1]
        broker.stop()
        broker.restart()
        assert topics(broker.address) == {}


def test_the_command_line_says_in_one_line_what_is_wrong_and_exits_with_1(folder):
    (folder / "dolmen.toml").write_text(
        '[[features]]\nname = "video"\nkind = "id"\nsource = "item.id"\n[[tasks]]\nname = "click"\n[ranker]\nport = 0\n'
    )
    command = [sys.executable, "-P", "-m", "services.cli.main", "up", "--config", "dolmen.toml", "--data-dir", "data"]
    run = partial(subprocess.run, cwd=folder, capture_output=True, text=True, timeout=60)
    with stack_on(folder) as stack:
        second = run(command)
        assert second.returncode == 1
        assert f"in use by another `dolmen up` (pid {os.getpid()})" in second.stderr
        assert second.stderr.count("\n") == 1
        port = stack.addresses.ranker_url.rpartition(":")[2]
        taken = run([*command[:-1], "other"], env={**os.environ, "DOLMEN_RANKER__PORT": port})
    assert taken.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken" in taken.stderr
    assert "ranker.port" in taken.stderr
    assert taken.stderr.count("\n") == 1
