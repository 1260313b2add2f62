"""From Kafka to committed parameters, the whole stack on this machine: examples a second, and where the time goes."""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from benchmarks.own_stack import own_stack
from services.datasets.reader import open_dataset
from services.local.servers import start_broker

LIST = 10
TOPIC = "dolmen.examples"


def lists_of_ten(examples: int) -> Iterator[bytes]:
    """KuaiRand's items in lists of ten with the first one's visitor, repeated until there are enough."""
    made = 0
    while made < examples:
        messages = open_dataset("kuairand").messages()
        while made < examples:
            some = list(itertools.islice(messages, LIST))
            items = [item for message in some for item in message["items"]][:LIST]
            if len(items) < LIST:
                break
            yield orjson.dumps({**some[0], "items": items})
            made += LIST


def fill(bootstrap_servers: str, values: Iterable[bytes]) -> int:
    """Writes the stream whole; returns its messages."""
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        admin.create_topics([NewTopic(TOPIC, 1, 1)])
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=20, batch_size=1 << 18, acks="all")
    count = 0
    for value in values:
        producer.send(TOPIC, value)
        count += 1
    producer.flush()
    producer.close()
    return count


def samples(url: str) -> dict[str, float]:
    """Every sample of a metrics endpoint by its whole name."""
    text = httpx.get(url, timeout=10, trust_env=False).text
    rows = (row.rpartition(" ") for row in text.splitlines() if row and not row.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def run(examples: int) -> dict[str, Any]:
    """Fills a topic, then lets the stack eat it."""
    with tempfile.TemporaryDirectory() as directory, start_broker(Path(directory)) as broker:
        messages = fill(broker.address, lists_of_ten(examples))
        with own_stack(dataset="kuairand", DOLMEN_EVENTS__BOOTSTRAP_SERVERS=broker.address) as (_, addresses):
            url = addresses.metrics_urls["trainer"]
            first = samples(url)
            start = time.perf_counter()
            begun = first['dolmen_examples_total{task="click"}']
            while True:
                now = samples(url)
                done = now['dolmen_examples_total{task="click"}']
                if done >= messages * LIST:
                    break
                time.sleep(0.05)
            seconds = time.perf_counter() - start
            auc = now.get('dolmen_online_auc{task="click",window="all"}')
    stages = {
        key.partition('stage="')[2].rstrip('"}'): value - first.get(key, 0.0)
        for key, value in now.items()
        if key.startswith("dolmen_trainer_stage_seconds_total")
    }
    batches = now["dolmen_batch_examples_count"] - first["dolmen_batch_examples_count"]
    return {
        "examples": int(done - begun),
        "seconds": seconds,
        "examples_per_second": (done - begun) / seconds,
        "mean_batch": (done - begun) / max(1.0, batches),
        "commits": now["dolmen_commit_seconds_count"] - first["dolmen_commit_seconds_count"],
        "online_auc": auc,
        "stage_share": {stage: value / seconds for stage, value in sorted(stages.items(), key=lambda p: -p[1])},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=600_000)
    print(json.dumps(run(parser.parse_args().examples), indent=1))
