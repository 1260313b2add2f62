"""Kills a trainer again and again in mid-stream and compares what it learned with an uninterrupted run, byte for byte.

Run as a program for a long storm: ``python -m tests.e2e.storm --kills 20 --broker apache``.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from embedding_store.bootstrap import bootstrap
from embedding_store.dump import write_dump
from embedding_store.errors import StoreError
from embedding_store.inspection import verify
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.plan import TablePlan
from embedding_store.proposal import Proposal, propose
from embedding_store.redis_client import connect
from embedding_store.settings import StoreSettings
from services.datasets.reader import open_dataset
from services.local.servers import Server, start_broker, start_valkey
from tests import apache_kafka

CONFIG = Path(__file__).with_name("storm.toml").read_text()
BUDGET = "2200KiB"
"""Of the trainer that is killed; the one that is left alone holds every row."""
PLANS = (
    ("video", TablePlan((2, 8), ((0,), (0, 3), tuple(range(8)))), 0.3),
    ("video", TablePlan((4,), ((1, 3), (0, 1, 2, 3))), 0.35),
    ("tab_x_user", TablePlan((), ((0, 1, 2, 3),)), 0.5),
    ("video", None, 0.7),
)
"""Dimension plans that come while it learns: of which table, and after what part of the stream."""
_LIMIT_S = 180.0


@dataclass(slots=True)
class Outcome:
    """What a storm saw.

    Attributes:
        kills: Kills of the trainer, those before it had consumed anything included.
        counted: Kills after it had consumed something and before it had everything.
        store_kills: Kills of the store.
        evicted: Rows that left the trainer's memory.
        returned: Rows that came back.
        equal: Whether the dump equals that of the uninterrupted run.
        faults: What `verify` found.
    """

    kills: int = 0
    counted: int = 0
    store_kills: int = 0
    evicted: int = 0
    returned: int = 0
    equal: bool = False
    dump_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def count(self, trainer: "TrainerProcess") -> None:
        """Adds what a trainer that is about to end tells of its memory."""
        self.evicted += int(trainer.total("dolmen_rows_evicted_total"))
        self.returned += int(trainer.total("dolmen_rows_returned_total"))


class TrainerProcess:
    """A trainer of its own, on one prefix and one topic; or another command that learns."""

    def __init__(
        self,
        directory: Path,
        redis_url: str,
        bootstrap_servers: str,
        prefix: str,
        command: tuple[str, ...] = ("trainer",),
        **overrides: str,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = directory / "storm.toml"
        config.write_text(CONFIG)
        environment = {
            **os.environ,
            "DOLMEN_STORE__URL": redis_url,
            "DOLMEN_STORE__PREFIX": prefix,
            "DOLMEN_STORE__FOLD_INTERVAL": "300ms",
            "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": bootstrap_servers,
            "DOLMEN_METRICS__PORT": str(self.port),
            "DOLMEN_TRAINER__DETERMINISTIC": "true",
            **overrides,
        }
        self.log = directory / f"{prefix}.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "services.cli.main", *command, "--config", str(config),
                 "--data-dir", str(directory / "data")],
                env=environment, stdout=out, stderr=out,
            )  # fmt: skip

    def consumed(self) -> float:
        """Examples learned from by this process; 0 before it is ready."""
        return self.total("dolmen_examples_total")

    def total(self, name: str) -> float:
        """A counter of this process, over all its labels; 0 before it is ready."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, OSError):
            return 0.0
        return sum(float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(name + "{"))

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Store:
    """The test's own look at one prefix."""

    def __init__(self, redis_url: str, prefix: str) -> None:
        self.log = CommitLog(connect(StoreSettings(url=redis_url)), Keys(prefix))

    def offsets(self, topic: str) -> dict[str, int]:
        try:
            snapshot = bootstrap(self.log, learning=True)
        except StoreError:
            return {}
        return snapshot.positions.get(topic, {}).get("offsets", {}) if snapshot else {}

    def dump(self, path: Path) -> bytes:
        snapshot = bootstrap(self.log, learning=True)
        assert snapshot is not None
        with path.open("wb") as file:
            write_dump(file, snapshot)
        return path.read_bytes()

    def total_count(self) -> int:
        """Sum of the rows' sightings, cold rows (which count missing values) included."""
        snapshot = bootstrap(self.log, learning=True)
        assert snapshot is not None
        return int(snapshot.shard.rows.headers["count"][: snapshot.shard.index.rows_end].sum())


def write_stream(bootstrap_servers: str, topic: str, examples: int, partitions: int = 1) -> int:
    """Writes a stream whole, with a few broken messages in it, and returns how many messages there are."""
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        admin.create_topics([NewTopic(topic, partitions, 1)])
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=20, batch_size=1 << 18, acks="all")
    count = 0
    for message in open_dataset("kuairand", examples).messages():
        if count % 1000 == 500:
            producer.send(topic, b'{"broken', partition=count % partitions)
            count += 1
        producer.send(topic, orjson.dumps(message), partition=count % partitions)
        count += 1
    producer.flush()
    producer.close()
    return count


def wait_for(what: str, ready: Callable[[], bool], trainer: TrainerProcess | None = None) -> None:
    limit = time.monotonic() + _LIMIT_S
    while not ready():
        if trainer is not None and trainer.process.poll() is not None:
            raise AssertionError(f"the trainer ended while waiting for {what}:\n{trainer.tail()}")
        if time.monotonic() > limit:
            raise AssertionError(f"no {what} in {_LIMIT_S} s" + (f":\n{trainer.tail()}" if trainer else ""))
        time.sleep(0.02)


def finish(
    store: Store, trainer: TrainerProcess, topic: str, messages: int, last: Callable[[], None] = lambda: None
) -> None:
    """Waits until everything is committed, does a last thing, then ends the trainer in order."""
    wait_for("end of the stream", lambda: sum(store.offsets(topic).values()) >= messages, trainer)
    last()
    code = trainer.end()
    assert code == 0, trainer.tail()


def run_storm(
    directory: Path,
    valkey: Server,
    bootstrap_servers: str,
    kills: int,
    seed: int,
    examples: int,
    store_kills: bool = True,
) -> Outcome:
    """One uninterrupted run that holds every row, one with kills and a memory budget, and the comparison.

    Args:
        directory: For configuration, logs and dumps.
        valkey: The store's server; killed and restarted in some rounds.
        bootstrap_servers: Of the broker.
        kills: How many must count.
        seed: Of the moments.
        examples: Length of the stream.
        store_kills: Whether the store is killed too.
    """
    rng = random.Random(seed)
    topic = f"storm-{seed}-{rng.getrandbits(32):08x}"
    messages = write_stream(bootstrap_servers, topic, examples)
    names = {"DOLMEN_EVENTS__TOPICS__EXAMPLES": topic, "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{topic}-dead"}

    calm, prefix = Store(valkey.url, f"{topic}-calm"), f"{topic}-storm"
    store = Store(valkey.url, prefix)
    for table, plan, part in PLANS:
        for one in (calm, store):
            propose(one.log, Proposal(table, plan, from_offset=int(part * messages)))
    finish(calm, TrainerProcess(directory, valkey.url, bootstrap_servers, f"{topic}-calm", **names), topic, messages)
    wanted = calm.dump(directory / "calm.dump")

    names["DOLMEN_TRAINER__MEMORY_BUDGET"] = BUDGET
    outcome = Outcome(dump_bytes=len(wanted))
    while outcome.counted < kills:
        trainer = TrainerProcess(directory, valkey.url, bootstrap_servers, prefix, **names)
        early = outcome.kills % 5 == 4
        if early:
            time.sleep(rng.uniform(0.5, 3.0))
        else:
            wait_for("first example", lambda: trainer.consumed() > 0, trainer)  # noqa: B023 - called at once
            time.sleep(rng.uniform(0.0, 0.15))
        if store_kills and outcome.kills % 4 == 3:
            valkey.kill()
            outcome.store_kills += 1
            if rng.random() < 0.5:
                trainer.end(signal.SIGKILL)
            valkey.restart()
        consumed = trainer.consumed() > 0 or not early
        outcome.count(trainer)
        trainer.end(signal.SIGKILL)
        outcome.kills += 1
        left = sum(store.offsets(topic).values()) < messages
        outcome.counted += consumed and left
        if not left:
            break
    trainer = TrainerProcess(directory, valkey.url, bootstrap_servers, prefix, **names)
    finish(store, trainer, topic, messages, lambda: outcome.count(trainer))
    outcome.equal = store.dump(directory / "storm.dump") == wanted
    outcome.faults = verify(store.log).faults
    return outcome


@contextmanager
def broker(kind: str, directory: Path) -> Iterator[str]:
    """A broker for the program: the embedded one, or Apache Kafka by the script that DOLMEN_TEST_KAFKA names."""
    if kind == "embedded":
        with start_broker(directory) as server:
            yield server.address
        return
    with apache_kafka.apache_kafka(os.environ[apache_kafka.VARIABLE], directory) as address:
        yield address


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=57_000)
    parser.add_argument("--broker", choices=["embedded", "apache"], default="embedded")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with start_valkey(directory / "valkey") as valkey, broker(args.broker, directory / "broker") as address:
            outcome = run_storm(directory, valkey, address, args.kills, args.seed, args.examples)
    print(json.dumps({"broker": args.broker, **{k: getattr(outcome, k) for k in Outcome.__slots__}}))
    if not outcome.equal or outcome.faults or outcome.counted < args.kills or not outcome.returned:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
