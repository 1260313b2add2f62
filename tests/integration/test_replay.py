"""Replay into real brokers."""

import gzip
import http.server
import itertools
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaConsumer, TopicPartition

from services.datasets.reader import open_dataset
from services.local.ready import Addresses, write_ready
from services.local.servers import start_broker
from services.replay.behaviour import Behaviour, Stream
from services.replay.errors import ReplayError
from services.replay.gauges import GaugeReader
from services.replay.message import Message, encode
from services.replay.pace import Rate
from services.replay.producer import KafkaSink
from services.replay.stream import replay
from trainer.connection import kafka_options
from trainer.settings import EventsSettings

pytestmark = pytest.mark.kafka


@pytest.fixture
def topic() -> str:
    return f"replay-{uuid.uuid4().hex}"


def options(servers: str) -> Mapping[str, Any]:
    return kafka_options(EventsSettings(bootstrap_servers=servers))


def consume(servers: str, topic: str, count: int) -> list[Any]:
    """The first `count` records of partition 0, or fewer if there are no more within 20 s."""
    consumer = KafkaConsumer(**options(servers), isolation_level="read_committed")
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        found: list[Any] = []
        limit = time.monotonic() + 20
        while len(found) < count and time.monotonic() < limit:
            found += itertools.chain.from_iterable(consumer.poll(timeout_ms=200).values())
        return found
    finally:
        consumer.close()


def test_a_data_set_arrives_whole_and_in_order(bootstrap_servers: str, topic: str) -> None:
    expected = list(open_dataset("kuairand", limit=3000).messages())
    before_ms = time.time_ns() // 1_000_000
    with KafkaSink(options(bootstrap_servers), topic) as sink:
        progress = replay(encode(expected), sink)
    assert progress.finished
    assert progress.examples == sum(len(message["items"]) for message in expected)
    records = consume(bootstrap_servers, topic, len(expected))
    assert [orjson.loads(record.value) for record in records] == expected
    assert [record.key for record in records] == [str(message["user"]["id"]).encode() for message in expected]
    assert all(before_ms <= record.timestamp <= time.time_ns() // 1_000_000 for record in records)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_lists_of_many_items_arrive_compressed_or_not(
    bootstrap_servers: str, topic: str, compression: str | None
) -> None:
    sent = list(encode(open_dataset("synthetic", limit=2000, users=100, items=2000, list_size=50).messages()))
    with KafkaSink(options(bootstrap_servers), topic, compression=compression) as sink:
        assert replay(sent, sink).examples == 2000
    assert [record.value for record in consume(bootstrap_servers, topic, len(sent))] == [m.value for m in sent]


def test_a_message_that_is_too_large_ends_the_replay_with_its_reason(bootstrap_servers: str, topic: str) -> None:
    with (
        KafkaSink(options(bootstrap_servers), topic) as sink,
        pytest.raises(ReplayError, match=r"(?s)topic replay-.*MessageSizeTooLarge"),
    ):
        replay([Message(b"x" * (2 << 20), None, 1, None)], sink)


@pytest.mark.parametrize("rate", [Rate(), Rate(examples_per_s=500)])
def test_a_broker_that_goes_away_for_good_ends_the_replay_with_a_message(tmp_path: Path, rate: Rate) -> None:
    with start_broker(tmp_path) as broker, KafkaSink(options(broker.address), "t", give_up_after_ms=2000) as sink:

        def stream() -> Any:
            for index in itertools.count():
                if index == 200:
                    broker.kill()
                yield Message(b"x" * 100, b"k", 1, index)

        with pytest.raises(ReplayError, match=r"127\.0\.0\.1.*topic t: .*is the broker still running"):
            replay(stream(), sink, rate)


def test_a_broker_that_is_not_there_is_named(tmp_path: Path) -> None:
    broker = start_broker(tmp_path)
    broker.stop()
    with pytest.raises(ReplayError, match=rf"Kafka at {broker.address}.*events\.bootstrap_servers"):
        KafkaSink(options(broker.address), "t")


def command(*arguments: str, cwd: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "services.cli.main", "replay", *arguments, "--data-dir", str(cwd)]


@pytest.fixture
def stack_dir(bootstrap_servers: str, tmp_path: Path) -> Path:
    """A data directory as `up` leaves it, with this broker's address."""
    write_ready(
        tmp_path / "ready.json", Addresses("redis://127.0.0.1:1/0", bootstrap_servers, "http://127.0.0.1:1", {})
    )
    return tmp_path


@pytest.fixture
def environment(topic: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DOLMEN_")}
    return {**clean, "DOLMEN_EVENTS__TOPICS__EXAMPLES": topic}


def test_a_file_is_streamed_as_it_is_to_the_stack_that_ready_json_names(
    bootstrap_servers: str, topic: str, stack_dir: Path, environment: dict[str, str]
) -> None:
    lines = [orjson.dumps(m) for m in open_dataset("kuairand", limit=20).messages()]
    lines.insert(3, b"not json")
    path = stack_dir / "events.ndjson.gz"
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    done = subprocess.run(
        command("--file", str(path), cwd=stack_dir), env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"sent 21 examples in {len(lines)} messages" in done.stdout
    assert [record.value for record in consume(bootstrap_servers, topic, len(lines))] == lines


def test_a_data_set_is_streamed_as_impressions_and_actions(
    bootstrap_servers: str, topic: str, stack_dir: Path, environment: dict[str, str]
) -> None:
    names = {"IMPRESSIONS": f"{topic}.i", "ACTIONS": f"{topic}.a"}
    environment |= {f"DOLMEN_EVENTS__TOPICS__{name}": value for name, value in names.items()}
    options = ("--dataset", "kuairand", "--topic", "events", "--limit", "300", "--lost", "0.1", "--seed", "5")
    done = subprocess.run(command(*options, cwd=stack_dir), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    how = Behaviour(seed=5, lost=0.1)
    expected = Stream(open_dataset("kuairand", 300).messages(), "kuairand", names["IMPRESSIONS"], names["ACTIONS"], how)
    messages = list(expected)
    for name in names.values():
        wanted = [(m.key, m.value) for m in messages if m.topic == name]
        assert [(r.key, r.value) for r in consume(bootstrap_servers, name, len(wanted))] == wanted
    assert f"{expected.counts.lost} lost" in done.stdout
    assert "impressions, " in done.stdout


def test_ctrl_c_ends_a_replay_cleanly_with_its_summary(
    bootstrap_servers: str, topic: str, stack_dir: Path, environment: dict[str, str]
) -> None:
    process = subprocess.Popen(
        command("--dataset", "kuairand", "--rate", "20", cwd=stack_dir),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert len(consume(bootstrap_servers, topic, 3)) >= 3
        process.send_signal(2)
        out, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert "stopped before the end" in out
    assert "Traceback" not in errors


class Metrics(http.server.BaseHTTPRequestHandler):
    rows = itertools.count(100)

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'dolmen_store_rows{table="user"} %d\n' % next(Metrics.rows))

    def log_message(self, *_: object) -> None:
        pass


def test_live_numbers_are_read_again_and_again_from_the_endpoints_that_answer() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/metrics"
            with GaugeReader([url, "http://127.0.0.1:1/metrics"]) as gauges:
                limit = time.monotonic() + 20
                while (gauges.latest().rows or 0) < 102 and time.monotonic() < limit:
                    time.sleep(0.05)
            assert gauges.latest().rows == 102
            first = gauges.first()
            assert first is not None
            assert first.rows == 100
        finally:
            server.shutdown()
            thread.join()
