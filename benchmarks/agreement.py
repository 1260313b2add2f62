"""The same figures and the same parameters by ``dolmen evaluate`` and by the trainer, through Kafka. Prints JSON.

The shipped configuration learns KuaiRand twice: in one process, and as a deterministic trainer with a broker and a
store of its own. The trainer's window is half of the stream, so that its last figures are those of the second half.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson

from benchmarks.markdown import table
from benchmarks.stack import fill, samples
from embedding_store.bootstrap import bootstrap
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.redis_client import connect
from embedding_store.settings import StoreSettings
from embedding_store.shard import Shard
from services.datasets.reader import open_dataset
from services.local.ports import claim_port
from services.local.servers import start_broker, start_valkey
from services.settings import load_settings
from trainer.evaluation import evaluate
from trainer.features import Featurizer

_DENSE = ("dense", "numbers", "step")  # parts of a commit that one process learns as well
_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Learned:
    """What one way gave.

    Attributes:
        auc: Over the whole stream.
        auc_second_half: Over the second half of its examples.
        parameters: By table its rows as a commit has them, ids in order, without the commit's number; and dense parts.
    """

    auc: float
    auc_second_half: float
    parameters: dict[str, bytes]


def parameters(shard: Shard, parts: dict[str, bytes]) -> dict[str, bytes]:
    """All that was learned, cold rows and optimizer state included."""
    found = {name: parts[name] for name in _DENSE}
    for number, settings in enumerate(shard.tables):
        blocks = shard.blocks(np.concatenate([[number], shard.live_rows(number)]))
        for block in blocks:
            block.entries["seq"] = 0
        found[f"table {settings.name}"] = b"".join(block.entries.tobytes() for block in blocks)
    return found


def by_evaluate(examples: int | None) -> Learned:
    """One process, no Kafka, no store."""
    settings = load_settings(dataset="kuairand")
    definition = settings.definition()
    tasks = [task.name for task in definition.tasks]
    columns = open_dataset("kuairand", examples).columns_with_truth(Featurizer(definition).sources, tasks)
    done = evaluate(definition, columns, settings.trainer.batch_size)
    click = done.report()["tasks"]["click"]
    return Learned(click["auc"], click["auc_second_half"], parameters(done.learner.shard, done.learner.parts()))


def by_trainer(examples: int | None) -> Learned:
    """A broker, a store and ``dolmen trainer``, each a process."""
    messages = list(open_dataset("kuairand", examples).messages())
    count = sum(len(message["items"]) for message in messages)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with start_valkey(directory / "valkey") as valkey, start_broker(directory / "broker") as broker:
            fill(broker.address, map(orjson.dumps, messages))
            port = claim_port("127.0.0.1", 0, "metrics.port")
            environment = {
                **os.environ,
                "DOLMEN_STORE__URL": valkey.url,
                "DOLMEN_EVENTS__BOOTSTRAP_SERVERS": broker.address,
                "DOLMEN_METRICS__PORT": str(port),
                "DOLMEN_TRAINER__DETERMINISTIC": "true",
                "DOLMEN_TRAINER__QUALITY_WINDOW": str(count - count // 2),
            }
            command = [sys.executable, "-P", "-m", "services.cli.main", "trainer", "--data-dir", str(directory)]
            with (directory / "trainer.log").open("wb") as log:
                trainer = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                told = _told(trainer, f"http://127.0.0.1:{port}/metrics", count, directory / "trainer.log")
            finally:
                trainer.terminate()
                trainer.wait()  # what it learned is committed then
            snapshot = bootstrap(CommitLog(connect(StoreSettings(url=valkey.url)), Keys("dolmen")), learning=True)
    if snapshot is None:
        raise SystemExit("the trainer committed nothing")
    half = f'dolmen_online_auc{{task="click",window="{count - count // 2}"}}'
    return Learned(
        told['dolmen_online_auc{task="click",window="all"}'], told[half], parameters(snapshot.shard, snapshot.parts)
    )


def _told(trainer: subprocess.Popen[bytes], url: str, count: int, log: Path) -> dict[str, float]:
    """What a trainer tells once its figures are those of so many examples."""
    until = time.monotonic() + _LIMIT_S
    bins = 'dolmen_online_reliability_examples{bin="'
    while time.monotonic() < until and trainer.poll() is None:
        try:
            found = samples(url)
        except httpx.HTTPError:  # not there yet
            found = {}
        if sum(n for name, n in found.items() if name.startswith(bins) and 'window="all"' in name) >= count:
            return found
        time.sleep(0.2)
    raise SystemExit(f"the trainer did not learn {count} examples:\n{log.read_text(errors='replace')[-2000:]}")


def run(examples: int | None = None) -> dict[str, Any]:
    """Both ways, and which parameters are not the same to the last byte."""
    one, other = by_evaluate(examples), by_trainer(examples)
    names = sorted({*one.parameters, *other.parameters})
    return {
        "evaluate": {"auc": one.auc, "auc_second_half": one.auc_second_half},
        "trainer": {"auc": other.auc, "auc_second_half": other.auc_second_half},
        "bytes": sum(map(len, one.parameters.values())),
        "different": [name for name in names if one.parameters.get(name) != other.parameters.get(name)],
    }


def section() -> str:
    """The results as Markdown."""
    found = run()
    lines = [
        [way, *(f"{found[way][key]:.7f}" for key in ("auc", "auc_second_half"))] for way in ("evaluate", "trainer")
    ]
    different = ", ".join(found["different"]) or "none"
    return table(["by", "AUC", "AUC, second half"], lines) + (
        f"\n\nParameters, optimizer state included: {found['bytes']:,} bytes; tables and dense parts that differ in "
        f"any byte: **{different}**."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, help="at most so many; default: all")
    print(json.dumps(run(parser.parse_args().examples), indent=1))


if __name__ == "__main__":
    main()
