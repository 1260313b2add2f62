"""A real archiver on real brokers through kills, and the two stages: from the archive, then online."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from embedding_store.bootstrap import bootstrap, current_positions
from embedding_store.settings import StoreSettings
from services.archive.errors import ArchiveError
from services.archive.reader import Archive
from services.archive.storage import Storage
from services.datasets.reader import open_dataset
from services.local.servers import Server, start_broker, start_valkey
from tests.e2e.storm import Store, TrainerProcess, finish, wait_for
from trainer.reader import Record

EXAMPLES = 12_000
_LIMIT_S = 180.0


class ArchiverProcess:
    """An archiver of its own, on one topic and one folder."""

    def __init__(self, folder: Path, bootstrap_servers: str, topic: str, **overrides: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {
            **os.environ,
            "DOLMEN_ARCHIVE__PATH": str(folder),
            "DOLMEN_ARCHIVE__FLUSH_INTERVAL": "100ms",
            "DOLMEN_ARCHIVE__FLUSH_BYTES": "300KiB",
            "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": bootstrap_servers,
            "DOLMEN_EVENTS__TOPICS__EXAMPLES": topic,
            "DOLMEN_METRICS__PORT": str(self.port),
            **overrides,
        }
        self.log = folder.with_suffix(".log")
        with self.log.open("ab") as out:
            command = [sys.executable, "-P", "-m", "services.cli.main", "archive"]
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def metric(self, name: str) -> float:
        """A counter, or the sum of a gauge over its labels; 0 before the process answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as answer:
                rows = answer.read().decode().splitlines()
        except (urllib.error.URLError, OSError):
            return 0.0
        return sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith((f"{name} ", f"{name}{{")))

    def wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        limit = time.monotonic() + _LIMIT_S
        while not ready():
            assert self.process.poll() is None, f"ended while waiting for {what}:\n{self.log.read_text()[-2000:]}"
            assert time.monotonic() < limit, f"no {what}:\n{self.log.read_text()[-2000:]}"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


class Stream:
    """A topic that is written part by part, with broken messages in it."""

    def __init__(self, bootstrap_servers: str, partitions: int) -> None:
        self.topic = f"archive-{uuid.uuid4().hex[:8]}"
        self.servers = bootstrap_servers
        self.logs: list[list[bytes]] = [[] for _ in range(partitions)]
        self.create()

    def create(self) -> None:
        with KafkaAdminClient(bootstrap_servers=self.servers) as admin:
            admin.create_topics([NewTopic(self.topic, len(self.logs), 1)])

    def write(self, values: list[bytes]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.servers, linger_ms=20, batch_size=1 << 17, acks="all")
        for value in values:
            partition = len(self) % len(self.logs)
            producer.send(self.topic, value, partition=partition)
            self.logs[partition].append(value)
        producer.flush()
        producer.close()

    def __len__(self) -> int:
        return sum(map(len, self.logs))

    @property
    def names(self) -> dict[str, str]:
        return {
            "DOLMEN_EVENTS__TOPICS__EXAMPLES": self.topic,
            "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{self.topic}-dead",
        }


def kuairand() -> list[bytes]:
    """The data set, with a message in every thousand that cannot be read."""
    values = [orjson.dumps(message) for message in open_dataset("kuairand", EXAMPLES).messages()]
    for place in range(500, len(values), 1000):
        values.insert(place, b'{"broken')
    return values


def archived(folder: Path) -> list[Record]:
    """What the archive holds now; nothing where there is none yet."""
    try:
        archive = Archive(Storage(str(folder)))
    except ArchiveError:
        return []
    return [record for topic_id in archive.ends for record in archive.read(topic_id, {})]


def archive_all(folder: Path, stream: Stream) -> None:
    archiver = ArchiverProcess(folder, stream.servers, stream.topic)
    archiver.wait_for("the whole topic", lambda: len(archived(folder)) == len(stream))
    assert archiver.end() == 0


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    with start_valkey(tmp_path / "valkey") as server:
        yield server


@pytest.mark.timeout(600)
def test_each_message_is_archived_once_through_kills(tmp_path: Path, bootstrap_servers: str) -> None:
    rng = random.Random(5)
    folder = tmp_path / "archive"
    stream = Stream(bootstrap_servers, partitions=3)
    stream.write(kuairand())
    counted = 0
    while counted < 5:
        before = len(archived(folder))
        archiver = ArchiverProcess(folder, bootstrap_servers, stream.topic)
        archiver.wait_for("first flush", lambda: archiver.metric("dolmen_archive_messages_total") > 0)  # noqa: B023
        time.sleep(rng.uniform(0.0, 0.3))
        archiver.end(signal.SIGKILL)
        found = archived(folder)
        for partition, log in enumerate(stream.logs):
            seen = [one for one in found if one.partition == partition]
            assert [one.value for one in seen] == log[: len(seen)]
        counted += before < len(found)
        if len(found) == len(stream):
            stream.write(kuairand())
    archiver = ArchiverProcess(folder, bootstrap_servers, stream.topic)
    archiver.wait_for("the whole topic", lambda: len(archived(folder)) == len(stream))
    archiver.wait_for(
        "no lag", lambda: "dolmen_archive_lag" in _text(archiver) and archiver.metric("dolmen_archive_lag") == 0
    )
    assert archiver.metric("dolmen_archive_lost_total") == 0
    assert archiver.end() == 0
    found = archived(folder)
    assert [[one.value for one in found if one.partition == p] for p in range(3)] == stream.logs
    assert len({(one.partition, one.offset) for one in found}) == len(stream)


def _text(archiver: ArchiverProcess) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{archiver.port}/metrics", timeout=5) as answer:
        return answer.read().decode()


@pytest.mark.timeout(300)
def test_what_is_held_is_written_at_the_end(tmp_path: Path, bootstrap_servers: str) -> None:
    folder = tmp_path / "archive"
    stream = Stream(bootstrap_servers, partitions=1)
    stream.write(kuairand()[:100])
    names = {"DOLMEN_ARCHIVE__FLUSH_INTERVAL": "1h", "DOLMEN_ARCHIVE__FLUSH_BYTES": "32MiB"}
    archiver = ArchiverProcess(folder, bootstrap_servers, stream.topic, **names)
    archiver.wait_for("messages that are held", lambda: archiver.metric("dolmen_archive_lag") == 100)
    time.sleep(0.5)
    assert archived(folder) == []
    assert archiver.end() == 0
    assert [one.value for one in archived(folder)] == stream.logs[0]


@pytest.mark.timeout(600)
def test_a_batch_stage_and_an_online_stage_give_the_bytes_of_one_online_run(
    tmp_path: Path, valkey: Server, bootstrap_servers: str
) -> None:
    values = kuairand()
    folder = tmp_path / "archive"
    stream = Stream(bootstrap_servers, partitions=1)
    half = len(values) // 2
    stream.write(values[:half])
    archive_all(folder, stream)
    store = Store(valkey.url, f"{stream.topic}-staged")
    command = ("train", "--from", str(folder))

    def start(command: tuple[str, ...], kind: str = "staged") -> TrainerProcess:
        prefix = f"{stream.topic}-{kind}"
        return TrainerProcess(tmp_path, valkey.url, bootstrap_servers, prefix, command, **stream.names)

    first = start(command)
    wait_for("first examples", lambda: first.consumed() > 0, first)
    first.end(signal.SIGKILL)
    again = start(command)
    assert again.process.wait(180) == 0, again.tail()
    left = half - store.offsets(stream.topic)["0"]
    assert 0 <= left < 64  # what makes no whole batch waits for the online stage
    assert "not learned from: json: " in again.tail()
    assert "click: AUC 0." in again.tail()
    twice = start(command)
    assert twice.process.wait(180) == 0, twice.tail()
    assert half - store.offsets(stream.topic)["0"] == left

    stream.write(values[half:])
    finish(store, start(("trainer",)), stream.topic, len(values))
    whole = Store(valkey.url, f"{stream.topic}-whole")
    finish(whole, start(("trainer",), "whole"), stream.topic, len(values))
    assert store.dump(tmp_path / "staged.dump") == whole.dump(tmp_path / "whole.dump")


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 300 messages, written without a broker."""
    from services.archive.writer import Writer
    from trainer.lost_log import TopicPosition

    folder = tmp_path_factory.mktemp("small") / "archive"
    writer = Writer(Storage(str(folder)), "dolmen.examples", 3_600_000)
    writer.open()
    writer.go_on(TopicPosition("gone", {0: 0}))
    now_ms = round(time.time() * 1000)
    values = [orjson.dumps(message) for message in open_dataset("kuairand", 300).messages()]
    writer.add([Record("dolmen.examples", 0, n, now_ms + n, None, value) for n, value in enumerate(values)])
    writer.flush()
    return folder


def train(data_dir: Path, *arguments: str, **names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "services.cli.main", "train", "--data-dir", str(data_dir), *arguments]
    environment = {**os.environ, "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": "127.0.0.1:1", **names}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.timeout(300)
def test_without_a_store_of_ones_own_the_local_stacks_is_trained_without_kafka(
    tmp_path: Path, small_archive: Path
) -> None:
    answer = train(tmp_path / "data", "--from", str(small_archive))
    assert answer.returncode == 0, answer.stderr
    assert "topic id gone" in answer.stdout
    with start_valkey(tmp_path / "data" / "valkey") as server:
        log = Store(server.url, StoreSettings().prefix).log
        held = current_positions(log)
        assert held is not None
        assert held["dolmen.examples"]["topic_id"] == "gone"
        snapshot = bootstrap(log, learning=True)
        assert snapshot is not None
        count = len([*open_dataset("kuairand", 300).messages()])
        assert held["dolmen.examples"]["offsets"] == {"0": count}  # the last, smaller batch too


@pytest.mark.timeout(300)
def test_a_store_that_shall_know_no_position_has_none_and_is_not_trained_twice(
    tmp_path: Path, valkey: Server, small_archive: Path
) -> None:
    names = {"DOLMEN_STORE__URL": valkey.url, "DOLMEN_STORE__PREFIX": "anywhere"}
    answer = train(tmp_path, "--from", str(small_archive), "--position", "none", **names)
    assert answer.returncode == 0, answer.stderr
    assert current_positions(Store(valkey.url, "anywhere").log) == {}
    again = train(tmp_path, "--from", str(small_archive), "--position", "none", **names)
    assert again.returncode == 1
    assert "train into an empty store" in again.stderr


@pytest.mark.timeout(120)
def test_what_cannot_be_trained_from_is_named(tmp_path: Path, valkey: Server) -> None:
    url = {"DOLMEN_STORE__URL": valkey.url}
    for arguments, code, wanted in (
        ((), 2, "--from: is missing"),
        (("--from", str(tmp_path), "--until", "tomorrow"), 2, "--until: 'tomorrow' is no RFC 3339 time"),
        (("--from", str(tmp_path / "none")), 1, "holds no archive"),
        (("--from", "carrier-pigeon://x"), 1, "no file system is known"),
    ):
        answer = train(tmp_path, *arguments, **url)
        assert answer.returncode == code, answer.stderr
        assert wanted in answer.stderr


@pytest.mark.timeout(300)
def test_what_kafka_removed_before_it_was_archived_is_counted(tmp_path: Path, bootstrap_servers: str, request) -> None:
    if request.node.callspec.params["bootstrap_servers"] == "embedded":
        pytest.skip("the embedded broker removes nothing")
    folder = tmp_path / "archive"
    values = kuairand()[:100]
    stream = Stream(bootstrap_servers, partitions=1)
    stream.write(values[:10])
    archive_all(folder, stream)
    stream.write(values[10:])
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        admin.delete_records({TopicPartition(stream.topic, 0): 60})
    archiver = ArchiverProcess(folder, bootstrap_servers, stream.topic)
    archiver.wait_for("the rest", lambda: len(archived(folder)) == 50)
    assert archiver.metric("dolmen_archive_lost_total") == 50
    assert archiver.end() == 0
    assert [one.value for one in archived(folder)] == values[:10] + values[60:]


@pytest.mark.timeout(300)
def test_a_topic_made_anew_is_archived_as_another_generation_and_trained_after_the_first(
    tmp_path: Path, valkey: Server
) -> None:
    folder = tmp_path / "archive"
    values = kuairand()[:80]
    with start_broker(tmp_path / "broker") as broker:
        stream = Stream(broker.address, partitions=1)
        stream.write(values[:50])
        archiver = ArchiverProcess(folder, broker.address, stream.topic)
        archiver.wait_for("the first generation", lambda: len(archived(folder)) == 50)
        broker.kill()
        broker.restart()
        stream.create()
        stream.write(values[50:])
        archiver.wait_for("the second generation", lambda: len(archived(folder)) == 80)
        assert archiver.end() == 0
    assert [one.value for one in archived(folder)] == values
    assert [one.offset for one in archived(folder)] == [*range(50), *range(30)]
    names = {"DOLMEN_STORE__URL": valkey.url, "DOLMEN_STORE__PREFIX": stream.topic}
    answer = train(tmp_path, "--from", str(folder), **names, **stream.names)
    assert answer.returncode == 0, answer.stderr
    first, second = Archive(Storage(str(folder))).ends
    assert f"topic id {first}: 50 messages read" in answer.stdout
    assert f"topic id {second}: 30 messages read" in answer.stdout
    held = current_positions(Store(valkey.url, stream.topic).log)
    assert held == {stream.topic: {"topic_id": second, "offsets": {"0": 30}}}
