"""Speed and size of an archive on one core, and of the batch stage that learns from it.

``python -m benchmarks.archive``: KuaiRand's lists as messages, several times over, written in flushes as the archiver
writes them and read as ``dolmen train`` reads them, without Kafka; then the trainer learns from them into a Valkey.
Seconds are those of the thread's processor time; waiting for the disk comes on top.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from benchmarks.markdown import table
from services.archive.reader import Archive
from services.archive.source import ArchiveSource
from services.archive.storage import Storage
from services.archive.writer import Writer
from services.datasets.reader import open_dataset
from services.local.servers import start_valkey
from services.settings import ArchiveSettings, load_settings
from trainer.app import Trainer
from trainer.lost_log import TopicPosition
from trainer.reader import Record
from trainer.settings import TrainerConfig

_TOPIC = "dolmen.examples"
_AHEAD_MS = 3_600_000


def messages(copies: int, limit: int | None = None) -> list[Record]:
    """The data set's lists in event time, each copy behind the one before."""
    found = [(message["ts"], message) for message in open_dataset("kuairand", limit).messages()]
    span = found[-1][0] - found[0][0] + 1000
    records = []
    for copy in range(copies):
        for ts, message in found:
            value = orjson.dumps({**message, "ts": ts + copy * span})
            records.append(Record(_TOPIC, 0, len(records), ts + copy * span, b"user", value))
    return records


def write(folder: Path, records: list[Record]) -> dict[str, float]:
    """Archives them in flushes of the default size."""
    storage = Storage(str(folder))
    writer = Writer(storage, _TOPIC, _AHEAD_MS)
    writer.open()
    writer.go_on(TopicPosition("bench", {0: 0}))
    files, size, flushes = 0, 0, 0
    start, wall = time.thread_time(), time.perf_counter()
    for place in range(0, len(records), 1000):
        writer.add(records[place : place + 1000])
        if writer.message_bytes >= ArchiveSettings().flush_bytes or place + 1000 >= len(records):
            flushed = writer.flush()
            files, size, flushes = files + flushed.files, size + flushed.file_bytes, flushes + 1
    seconds, waited = time.thread_time() - start, time.perf_counter() - wall
    return {"seconds": seconds, "wall_seconds": waited, "files": files, "bytes": size, "flushes": flushes}


def train(folder: Path, redis_url: str, prefix: str) -> float:
    """Seconds that the trainer's loop takes to learn from the archive."""
    settings = load_settings()
    trainer = settings.trainer.model_copy(update={"deterministic": True})
    store = settings.store.model_copy(update={"url": redis_url, "prefix": prefix})
    config = TrainerConfig(settings.definition(), trainer, store, settings.events, "127.0.0.1", 0, folder / "rescue")
    source = ArchiveSource(Archive(Storage(str(folder))), "bench")
    start = time.thread_time()
    Trainer(config, threading.Event(), source=source).run()
    return time.thread_time() - start


def run(copies: int = 4) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        records = messages(copies)
        written = write(directory / "large", records)
        start = time.thread_time()
        count = sum(1 for _ in Archive(Storage(str(directory / "large"))).read("bench", {}))
        read_s = time.thread_time() - start
        assert count == len(records)  # noqa: S101
        write(directory / "warm", messages(1, 2000))
        write(directory / "once", messages(1))
        with start_valkey(directory / "valkey") as valkey:
            train(directory / "warm", valkey.url, "warm")
            learn_s = train(directory / "once", valkey.url, "once")
    examples = sum(len(message["items"]) for message in open_dataset("kuairand").messages())
    return {
        "messages": len(records),
        "written_per_second": len(records) / written["seconds"],
        "written_per_wall_second": len(records) / written["wall_seconds"],
        "files": written["files"],
        "flushes": written["flushes"],
        "read_per_second": len(records) / read_s,
        "json_bytes": sum(len(record.value) for record in records) / len(records),
        "archived_bytes": written["bytes"] / len(records),
        "examples_learned_per_second": examples / learn_s,
    }


def section() -> str:
    """The figures for docs/performance.md."""
    r = run()
    number: Callable[[str], str] = lambda key: f"{r[key]:,.0f}"  # noqa: E731
    return table(
        ["what", "figure"],
        [
            ["messages written a second of processor time", number("written_per_second")],
            ["the same by the clock, waiting for the disk included", number("written_per_wall_second")],
            ["files, in so many flushes", f"{number('files')}, {number('flushes')}"],
            ["messages read a second", number("read_per_second")],
            [
                "bytes a message: as JSON in Kafka, in the archive",
                f"{number('json_bytes')}, {number('archived_bytes')}",
            ],
            ["examples learned from a second (`dolmen train`)", number("examples_learned_per_second")],
        ],
    )


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=1)
