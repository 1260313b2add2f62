"""From a click that an application posts to the next ranking that knows of it, while impressions come at a steady rate.

A visitor of whom nothing is known is ranked like any other such. Each probe shows one a list, posts its click, and asks
until that visitor's score differs from that of a stranger at the same commit.
"""

import argparse
import heapq
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from kafka import KafkaProducer

import services.datasets
from benchmarks.markdown import table
from benchmarks.own_stack import own_stack
from services.datasets.click_model import COUNTRIES, DEVICES
from services.settings import Settings
from trainer.connection import kafka_options

RATES = (300, 500, 1_000)
SIZE = 5
CONFIG = Path(services.datasets.__file__).parent / "synthetic.toml"
_CLICK_SHARE = 0.1
_DELAY_S = 5.0
_TICK_S = 0.01
_POLL_S = 0.05
_LIMIT_S = 30.0
_SETTLE_S = 1.0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def shown(rng: random.Random, request: str, user: str | int) -> dict[str, Any]:
    """An impression of now."""
    items = [
        {"id": item, "category": rng.randrange(30), "price": rng.uniform(1, 100)}
        for item in rng.sample(range(20_000), SIZE)
    ]
    who = {"id": user, "country": rng.choice(COUNTRIES)}
    return {
        "request_id": request, "ts": _now_ms(), "user": who, "context": {"device": rng.choice(DEVICES)}, "items": items,
    }  # fmt: skip


def click(request: str, item: int) -> dict[str, Any]:
    """A click of now."""
    return {"request_id": request, "item_id": item, "action": "click", "ts": _now_ms()}


@contextmanager
def load(settings: Settings, rate: int) -> Iterator[Callable[[], float]]:
    """Impressions at a rate, and clicks on a tenth of their items a few seconds later, straight to Kafka.

    A process of its own: nothing that waits for an answer here slows it.

    Yields:
        How many impressions a second there were so far.
    """
    context = multiprocessing.get_context("spawn")
    stop, sent, seconds = context.Event(), context.Value("q", 0), context.Value("d", 0.0)
    process = context.Process(target=_send, args=(settings, rate, stop, sent, seconds))
    process.start()
    try:
        yield lambda: sent.value / max(seconds.value, _TICK_S)
    finally:
        stop.set()
        process.join()


def _send(
    settings: Settings, rate: int, stop: Event, sent: "Synchronized[int]", seconds: "Synchronized[float]"
) -> None:
    topics, rng = settings.events.topics, random.Random(1)
    waiting: list[tuple[float, str, int]] = []  # clicks, the next first
    producer = KafkaProducer(**kafka_options(settings.events), linger_ms=5, acks="all")
    start, number = time.monotonic(), 0
    while not stop.wait(_TICK_S):
        now = time.monotonic() - start
        while number < now * rate:
            request = f"load-{number}"
            event = shown(rng, request, int(rng.paretovariate(0.8) * 10) % 50_000)
            producer.send(topics.impressions, orjson.dumps(event), request.encode())
            for item in event["items"]:
                if rng.random() < _CLICK_SHARE:
                    heapq.heappush(waiting, (now + rng.expovariate(1 / _DELAY_S), request, item["id"]))
            number += 1
        while waiting and waiting[0][0] <= now:
            _, request, item_id = heapq.heappop(waiting)
            producer.send(topics.actions, orjson.dumps(click(request, item_id)), request.encode())
        sent.value, seconds.value = number, time.monotonic() - start
    producer.flush()
    producer.close()


class Commits:
    """What the ranker has applied last, asked by one thread for all probes."""

    def __init__(self, client: httpx.Client) -> None:
        self._client, self._news, self._stop = client, threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._commit = -1

    def __enter__(self) -> "Commits":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def after(self, seen: int) -> int:
        """Waits for another commit than one that was seen, at most for a second."""
        with self._news:
            self._news.wait_for(lambda: self._commit != seen, timeout=1.0)
            return self._commit

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            commit = self._client.get("/v1/model").raise_for_status().json()["commit"]
            with self._news:
                self._commit = commit
                self._news.notify_all()


def probe(client: httpx.Client, commits: Commits, number: int) -> float:
    """Seconds from posting a click until a ranking knows of it; infinite if none did for long."""
    rng = random.Random(number + 1_000)
    event = shown(rng, f"probe-{number}", f"visitor-{number}")
    client.post("/v1/events", json={"impressions": [event]}).raise_for_status()
    time.sleep(_SETTLE_S)
    start = time.monotonic()
    clicked = click(event["request_id"], event["items"][0]["id"])
    client.post("/v1/events", json={"actions": [clicked]}).raise_for_status()
    body = {"context": event["context"], "candidates": event["items"][:1], "log_impression": False}
    seen = -1
    while time.monotonic() - start < _LIMIT_S:
        seen = commits.after(seen)
        answers = [
            client.post("/v1/rank", json={**body, "user": {**event["user"], "id": user}}).raise_for_status().json()
            for user in (event["user"]["id"], f"stranger-{number}")
        ]
        known, stranger = (answer["items"][0]["score"] for answer in answers)
        if answers[0]["model"]["commit"] != answers[1]["model"]["commit"]:
            seen = -1
        elif abs(known - stranger) > 1e-7:
            return time.monotonic() - start
    return np.inf


def run(rate: int, seconds: int, per_second: float = 2.0) -> dict[str, Any]:
    """Probes for so many seconds, once windows close as fast as they open."""
    with (
        own_stack(CONFIG, DOLMEN_JOINER__ATTRIBUTION_WINDOW='"20s"') as (settings, addresses),
        load(settings, rate) as sent_per_s,
        httpx.Client(base_url=addresses.ranker_url, timeout=_LIMIT_S, trust_env=False) as client,
        Commits(client) as commits,
        ThreadPoolExecutor(64) as pool,
    ):
        time.sleep(30.0)
        waiting = []
        for number in range(int(seconds * per_second)):
            waiting.append(pool.submit(probe, client, commits, number))
            time.sleep(1 / per_second)
        found = np.array([future.result() for future in waiting])
        sent = sent_per_s()
    return {
        "sent_per_s": sent,
        "clicks": found.size,
        "p50_s": float(np.quantile(found, 0.5, method="higher")),
        "p99_s": float(np.quantile(found, 0.99, method="higher")),
        "most_s": float(found.max()),
    }


def section() -> str:
    """The table."""
    rows = []
    for rate in RATES:
        r = run(rate, 100)
        rows.append([f"{r['sent_per_s']:,.0f}/s", f"{SIZE}", str(r["clicks"]), *(
            f"{r[name]:.2f} s" for name in ("p50_s", "p99_s", "most_s")
        )])  # fmt: skip
    return table(["impressions", "items each", "clicks posted", "p50", "p99", "longest"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=RATES[-1])
    parser.add_argument("--seconds", type=int, default=100)
    args = parser.parse_args()
    print(orjson.dumps(run(args.rate, args.seconds), option=orjson.OPT_INDENT_2).decode())
