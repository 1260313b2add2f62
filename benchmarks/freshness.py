"""Freshness at a steady rate, by the product's own histogram: from append to Kafka to a replica that scores with it."""

import argparse
import json
import time
from typing import Any

from benchmarks.own_stack import own_stack
from benchmarks.stack import samples
from services.datasets.reader import open_dataset
from services.replay.gauges import quantile
from services.replay.message import encode
from services.replay.pace import parse_rate
from services.replay.producer import KafkaSink
from services.replay.stream import replay
from trainer.connection import kafka_options

_BUCKET = 'dolmen_freshness_seconds_bucket{le="'


def buckets(url: str) -> dict[float, float]:
    """Cumulative counts by upper edge in seconds."""
    return {
        float(name.removeprefix(_BUCKET).rstrip('"}')): value
        for name, value in samples(url).items()
        if name.startswith(_BUCKET)
    }


def run(rate: int, seconds: int) -> dict[str, Any]:
    """Replays at `rate` examples a second for so long."""
    with own_stack(dataset="kuairand") as (settings, addresses):
        url = addresses.metrics_urls["ranker"]
        before = buckets(url)
        data = open_dataset("synthetic" if rate * seconds > 94_000 else "kuairand", rate * seconds)
        with KafkaSink(kafka_options(settings.events), settings.events.topics.examples, 1) as sink:
            progress = replay(encode(data.messages()), sink, parse_rate(str(rate)))
        time.sleep(2.0)
        after = buckets(url)
    counts = {edge: count - before.get(edge, 0.0) for edge, count in after.items()}
    return {
        "rate": rate,
        "sent_per_second": progress.examples_per_s,
        "observed": max(counts.values()),
        "p50_s": quantile(counts, 0.5),
        "p99_s": quantile(counts, 0.99),
        "within_1s": counts.get(1.0, 0.0) / max(1.0, max(counts.values())),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=30)
    args = parser.parse_args()
    print(json.dumps(run(args.rate, args.seconds), indent=1))
