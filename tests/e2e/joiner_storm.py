"""Kills a joiner again and again in mid-stream and compares its examples with a plain join of both logs.

Run as a program for a long storm: ``python -m tests.e2e.joiner_storm --kills 20 --broker apache``.
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
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.partitioner.default import murmur2

from services.datasets.reader import open_dataset
from services.joiner.last_record import read_record
from services.joiner.record import Record
from services.joiner.rules import make_rules
from services.settings import load_settings
from tests.e2e.storm import broker
from tests.streams import Behaviour, Message, arrive, ordered, plain_join, without_told
from trainer.connection import kafka_options
from trainer.errors import EventsUnavailable
from trainer.reader import Reader
from trainer.settings import EventsSettings
from trainer.topics import Topics

CONFIG = """
[[features]]
name = "user"
source = "user.id"
kind = "id"
[[tasks]]
name = "click"
[[tasks]]
name = "long_view"
action = "play"
threshold = 18000
[[tasks]]
name = "like"
[[outcomes]]
name = "play_time_ms"
action = "play"
[joiner]
attribution_window = { click = "4h", play = "4h", like = "12h" }
out_of_orderness = "10m"
memory_budget = "4MiB"
commit_interval = "20ms"
"""
PARTITIONS = 4
_DISORDER_MS = 600_000
_LIMIT_S = 240.0


@dataclass(slots=True)
class Outcome:
    """What a storm saw.

    Attributes:
        kills: Kills of the joiner, those before it had consumed anything included.
        counted: Kills after it had committed something more and before it had everything.
        events: Impressions and actions.
        examples: Messages of examples that a plain join gives.
        missing: Those that did not come.
        surplus: Those that came and should not have.
    """

    kills: int = 0
    counted: int = 0
    events: int = 0
    examples: int = 0
    missing: int = 0
    surplus: int = 0


def kuairand_behaviour(seed: int, limit: int) -> list[Behaviour]:
    """KuaiRand as impressions and actions, delayed, out of order, doubled and lost, by partition."""
    rng = random.Random(seed)
    logs: list[tuple[list[Message], list[Message]]] = [([], []) for _ in range(PARTITIONS)]
    for number, message in enumerate(open_dataset("kuairand", limit).messages()):
        request = f"kr-{number}"
        shown, done = logs[(murmur2(request.encode()) & 0x7FFFFFFF) % PARTITIONS]
        items = {item["id"]: item for item in message["items"]}.values()
        bare = [{k: v for k, v in item.items() if k not in ("labels", "outcomes")} for item in items]
        shown.append({**message, "request_id": request, "items": bare})
        for item in items:
            actions = [("click", 1.0)] * item["labels"]["click"] + [("like", 1.0)] * item["labels"]["like"]
            if "outcomes" in item:
                actions.append(("play", item["outcomes"]["play_time_ms"]))
            for action, value in actions:
                ts = message["ts"] + round(rng.expovariate(1 / 3_600_000))
                done.append({"request_id": request, "ts": ts, "item_id": item["id"], "action": action, "value": value})
    return [Behaviour(*(arrive(rng, log, _DISORDER_MS, 0.05, 0.02) for log in pair)) for pair in logs]


class Topology:
    """Topics of one storm, filled with behaviour.

    Args:
        bootstrap_servers: Of the broker.
        behaviours: By partition.
    """

    def __init__(self, bootstrap_servers: str, behaviours: list[Behaviour]) -> None:
        self.servers = bootstrap_servers
        self.name = f"joiner-storm-{random.getrandbits(32):08x}"
        self.count = len(behaviours)
        self.impressions, self.actions = f"{self.name}-impressions", f"{self.name}-actions"
        self.examples, self.state = f"{self.name}-examples", f"{self.name}-state"
        with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
            topics = (self.impressions, self.actions, self.examples)
            if self.count:
                admin.create_topics([NewTopic(topic, self.count, 1) for topic in topics])
        producer = KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=20, batch_size=1 << 18, acks="all")
        self.written = 0
        for partition, behaviour in enumerate(behaviours):
            latest = max(m["ts"] for m in (*behaviour.impressions, *behaviour.actions)) + 86_400_000
            last = [
                {"request_id": f"last-{partition}", "ts": latest, "user": {"id": 0}, "items": [{"id": 0}]},
                {"request_id": f"last-{partition}", "ts": latest, "item_id": 0, "action": "click"},
            ]
            for topic, log, end in zip(
                (self.impressions, self.actions), (behaviour.impressions, behaviour.actions), last, strict=True
            ):
                for place, message in enumerate([*log, end]):
                    if place % 1000 == 500:
                        producer.send(topic, b'{"broken', partition=partition)
                        self.written += 1
                    key = message["request_id"].encode()
                    producer.send(topic, orjson.dumps(message), key, partition=partition)
                    self.written += 1
        producer.flush()
        producer.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a joiner on these topics needs."""
        return {
            "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": self.servers,
            "DOLMEN_EVENTS__ID": self.name,
            "DOLMEN_EVENTS__TOPICS__IMPRESSIONS": self.impressions,
            "DOLMEN_EVENTS__TOPICS__ACTIONS": self.actions,
            "DOLMEN_EVENTS__TOPICS__EXAMPLES": self.examples,
            "DOLMEN_EVENTS__TOPICS__JOINER_STATE": self.state,
            "DOLMEN_EVENTS__TOPICS__DEAD_LETTERS": f"{self.name}-dead",
        }

    def records(self) -> list[Record]:
        """The last state record of each pair that has one."""
        options = kafka_options(EventsSettings(bootstrap_servers=self.servers))
        with closing(Topics(options)) as topics, closing(Reader(options, self.state)) as reader:
            if topics.describe(self.state) is None:
                return []
            keys = [(p, f"{self.name}/{p}".encode()) for p in range(self.count)]
            found = [read_record(reader, topics, self.state, p, key) for p, key in keys]
        return [record for record in found if record is not None]

    def joined(self) -> int:
        """How many messages the records have passed."""
        return sum(record.impressions.next + record.actions.next for record in self.records())

    def read_examples(self) -> list[bytes]:
        """All committed examples."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.servers, isolation_level="read_committed", enable_auto_commit=False, check_crcs=False
        )
        with closing(consumer):
            consumer.assign([TopicPartition(self.examples, p) for p in range(self.count)])
            consumer.seek_to_beginning()
            found: list[bytes] = []
            silent = 0
            while silent < 8:
                batches = consumer.poll(250)
                found += [record.value for batch in batches.values() for record in batch]
                silent = 0 if batches else silent + 1
        return found


class JoinerProcess:
    """A joiner of its own."""

    def __init__(self, directory: Path, topology: Topology, **overrides: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = directory / "joiner.toml"
        config.write_text(CONFIG)
        environment = {
            **os.environ, **topology.environment, "DOLMEN_METRICS__PORT": str(self.port), **overrides
        }  # fmt: skip
        self.log = directory / f"{topology.name}.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "services.cli.main", "joiner", "--config", str(config),
                 "--data-dir", str(directory / "data")],
                env=environment, stdout=out, stderr=out,
            )  # fmt: skip

    def metric(self, name: str) -> float:
        """A counter or gauge, summed over its labels; 0 before the process answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, OSError):
            return 0.0
        rows = [row for row in text.splitlines() if row.startswith((f"{name}{{", f"{name} "))]
        return sum(float(row.rpartition(" ")[2]) for row in rows)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def wait_for(self, what: str, ready: Callable[[], bool], pause_s: float = 0.02) -> None:
        limit = time.monotonic() + _LIMIT_S
        while not ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the joiner ended while waiting for {what}:\n{self.tail()}")
            if time.monotonic() > limit:
                raise AssertionError(f"no {what} in {_LIMIT_S} s:\n{self.tail()}")
            time.sleep(pause_s)


def run_storm(directory: Path, bootstrap_servers: str, kills: int, seed: int, limit: int) -> Outcome:
    """Joins KuaiRand over four partitions with kills, and compares.

    Args:
        directory: For configuration, logs and what waits on disk.
        bootstrap_servers: Of the broker.
        kills: How many must count.
        seed: Of behaviour and moments.
        limit: Examples of the data set.
    """
    rng = random.Random(seed)
    behaviours = kuairand_behaviour(seed, limit)
    topology = Topology(bootstrap_servers, behaviours)
    outcome = Outcome(events=topology.written)
    joined = 0
    while outcome.counted < kills:
        joiner = JoinerProcess(directory, topology)
        if outcome.kills % 5 == 4:
            time.sleep(rng.uniform(0.5, 3.0))  # perhaps before it has begun
        else:
            joiner.wait_for("first transaction", lambda: joiner.metric("dolmen_joiner_messages_total") > 0)  # noqa: B023
            time.sleep(rng.uniform(0.0, 0.7))
        joiner.end(signal.SIGKILL)
        outcome.kills += 1
        before, joined = joined, topology.joined()
        outcome.counted += before < joined < topology.written
        if joined >= topology.written:
            break
    joiner = JoinerProcess(directory, topology)
    joiner.wait_for("end of both logs", lambda: _is_done(topology), 0.5)
    if joiner.end() != 0:
        raise AssertionError(joiner.tail())
    path = directory / "joiner.toml"
    settings = load_settings(path)
    rules = make_rules(settings.joiner, settings.tasks, settings.outcomes)
    wanted = [example for b in behaviours for example in plain_join(b, rules, 1 << 62)]
    outcome.examples = len(wanted)
    _compare(outcome, ordered(wanted), without_told(topology.read_examples()))
    return outcome


def _is_done(topology: Topology) -> bool:
    try:
        return topology.joined() >= topology.written
    except EventsUnavailable:
        return False


def _compare(outcome: Outcome, wanted: list[Message], got: list[Message]) -> None:
    left: dict[bytes, int] = {}
    for message in wanted:
        text = orjson.dumps(message, option=orjson.OPT_SORT_KEYS)
        left[text] = left.get(text, 0) + 1
    for message in got:
        text = orjson.dumps(message, option=orjson.OPT_SORT_KEYS)
        left[text] = left.get(text, 0) - 1
    outcome.missing = sum(count for count in left.values() if count > 0)
    outcome.surplus = -sum(count for count in left.values() if count < 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=94_784, help="examples of the data set")
    parser.add_argument("--broker", choices=["embedded", "apache"], default="apache")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with broker(args.broker, directory / "broker") as address:
            outcome = run_storm(directory, address, args.kills, args.seed, args.limit)
    print(json.dumps({"broker": args.broker, **{k: getattr(outcome, k) for k in Outcome.__slots__}}))
    if outcome.missing or outcome.surplus or outcome.counted < args.kills:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
