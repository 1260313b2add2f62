"""Latency of ``POST /v1/rank`` beside what HTTP alone costs: one client, one connection, a model that has learned."""

import argparse
import http.client
import json
import multiprocessing
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.own_stack import own_stack
from benchmarks.stack import samples
from services.datasets.reader import open_dataset
from services.replay.message import encode
from services.replay.producer import KafkaSink
from services.replay.stream import replay
from trainer.connection import kafka_options


class _Body(BaseModel):
    user: dict[str, Any]
    context: dict[str, Any]
    candidates: list[dict[str, Any]]


def _bare(port: int) -> None:
    """What FastAPI itself takes: parse the same body, answer with as many items, score nothing."""
    app = FastAPI()

    @app.post("/v1/rank")
    def rank(body: _Body) -> dict[str, Any]:
        return {"items": [{"id": c["id"], "score": 0.5, "scores": {"click": 0.5}} for c in body.candidates]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def measure(url: str, method: str, path: str, body: bytes, count: int) -> dict[str, float]:
    """Milliseconds of `count` requests on one connection, after a tenth as many that do not count."""
    parts = urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    took = []
    for turn in range(count + count // 10):
        start = time.perf_counter()
        client.request(method, path, body or None, {"Content-Type": "application/json"} if body else {})
        answer = client.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}")
        if turn >= count // 10:
            took.append((time.perf_counter() - start) * 1000)
    client.close()
    return {"p50_ms": float(np.quantile(took, 0.5)), "p99_ms": float(np.quantile(took, 0.99))}


def run(requests: int) -> list[dict[str, Any]]:
    """Learns the slice, then asks for 10, 100 and 500 candidates."""
    items: dict[Any, dict[str, Any]] = {}
    data = open_dataset("kuairand", 50_000)
    for message in data.messages():
        for item in message["items"]:
            items[item["id"]] = {k: v for k, v in item.items() if k not in ("labels", "outcomes")}
    user, context = message["user"], message["context"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bare = multiprocessing.get_context("spawn").Process(target=_bare, args=(port,), daemon=True)
    rows = []
    with own_stack(dataset="kuairand") as (settings, addresses):
        with KafkaSink(kafka_options(settings.events), settings.events.topics.examples, 1) as sink:
            replay(encode(data.messages()), sink)
        while samples(addresses.metrics_urls["trainer"])['dolmen_examples_total{task="click"}'] < data.examples:
            time.sleep(0.1)
        bare.start()
        try:
            url = addresses.ranker_url
            rows.append({"request": "empty GET (/healthz)", **measure(url, "GET", "/healthz", b"", requests)})
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            for count in (10, 100, 500):
                body = orjson.dumps({"user": user, "context": context, "candidates": list(items.values())[:count]})
                floor = measure(f"http://127.0.0.1:{port}", "POST", "/v1/rank", body, requests)
                ours = measure(url, "POST", "/v1/rank", body, requests)
                rows.append({"request": f"bare FastAPI, {count} candidates, nothing scored", **floor})
                ratio = ours["p50_ms"] / floor["p50_ms"]
                rows.append({"request": f"Dolmen, {count} candidates", **ours, "to_bare": ratio})
        finally:
            bare.terminate()
            bare.join()
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    for row in run(parser.parse_args().requests):
        print(json.dumps(row))
