"""What a memory budget costs: examples a second of the learner and its store, with all rows and with a part of them.

A zipf stream of users and items goes through featurizer, learner, commits (one every 10,000 examples) and an embedded
Valkey, without Kafka. First without a budget, which tells how many bytes the rows take; then with one that no row has
to leave for; then with one that holds a share of the rows at the end of the stream. Prints JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from embedding_store.bootstrap import Schema
from embedding_store.bounded_shard import BoundedShard
from embedding_store.commit import Commit
from embedding_store.inspection import verify
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.owner import Owner
from embedding_store.redis_client import connect
from embedding_store.settings import StoreSettings
from services.datasets.synthetic import open_synthetic
from services.local.servers import start_valkey
from services.settings import Settings, shipped_config
from trainer.batch import Batch
from trainer.definition import Definition
from trainer.learner import Learner
from trainer.warmup import compile_kernels

COMMIT_EXAMPLES = 10_000


class Run:
    """One pass over the stream."""

    def __init__(self, url: str, prefix: str, definition: Definition, budget: int | None) -> None:
        self._definition = definition.to_json()
        self.owner = Owner(StoreSettings(url=url, prefix=prefix), memory_budget=budget)
        self.owner.open()
        self.shard = self.owner.fresh(Schema(definition.tables, definition.seed, definition.admission))
        self.learner = Learner(definition, self.shard)
        self.log = CommitLog(connect(StoreSettings(url=url)), Keys(prefix))
        self.examples = self._since = self.forced = self.most_bytes = 0

    def learn(self, batch: Batch) -> None:
        """As the trainer's loop does."""
        if not self.shard.keep():
            self.forced += 1
            self._commit()
            self.owner.fold()
            self.shard.keep()
        self.learner.score_and_learn(batch)
        self.shard.sweep(4 * len(batch))
        self.examples += len(batch)
        self._since += len(batch)
        self.most_bytes = max(self.most_bytes, self.shard.nbytes)
        if self._since >= COMMIT_EXAMPLES:
            self._commit()

    def _commit(self) -> None:
        blocks, gone = self.shard.take_changes()
        parts = {**self.learner.parts(), **self.shard.parts()}
        self.owner.commit(Commit(self.shard.clock_ms, self._definition, {}, blocks, gone, parts))
        self._since = 0

    def end(self, seconds: float, second_half: float, cpu_s: float) -> dict[str, Any]:
        """The figures; processor time is that of the process, its materializer included."""
        self._commit()
        self.owner.fold()
        faults = verify(self.log).faults
        self.owner.close()
        return {
            "examples_per_second": round(self.examples / seconds),
            "second_half": round(self.examples / 2 / second_half),
            "cpu_us_per_example": round(1e6 * cpu_s / self.examples, 2),
            "rows": int(self.shard.counts.sum()),
            "rows_away": int(self.shard.away.sum()),
            "most_bytes": self.most_bytes,
            "evicted": int(self.shard.evicted.sum()) if isinstance(self.shard, BoundedShard) else 0,
            "returned": int(self.shard.returned.sum()) if isinstance(self.shard, BoundedShard) else 0,
            "forced_folds": self.forced,
            "faults": faults,
        }


def measure(url: str, prefix: str, args: argparse.Namespace, definition: Definition, budget: int | None) -> Any:
    """One pass: its figures, and bytes of rows and of what is always there."""
    run = Run(url, prefix, definition, budget)
    dataset = open_synthetic(args.examples, 1, args.users, args.items)
    tasks = [task.name for task in definition.tasks]
    seconds, halves, cpu_s, lists = 0.0, 0.0, 0.0, 0
    for columns, _ in dataset.columns_with_truth(run.learner.scorer.featurizer.sources, tasks):
        origins = np.arange(lists, lists + columns.sizes.size, dtype=np.uint64)
        lists += columns.sizes.size
        start, cpu_start = time.perf_counter(), time.process_time()
        for batch in run.learner.scorer.featurizer.featurize(columns, origins).cuts(args.batch):
            run.learn(batch)
        took = time.perf_counter() - start
        cpu_s += time.process_time() - cpu_start
        seconds += took
        halves += took if run.examples > args.examples // 2 else 0.0
    return run.end(seconds, halves, cpu_s)


def main() -> None:
    """Runs as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--share", type=float, default=0.2, help="of the rows, held at the end")
    args = parser.parse_args()
    definition = Settings(**shipped_config("synthetic")).definition()
    compile_kernels(definition)
    with tempfile.TemporaryDirectory() as name, start_valkey(Path(name)) as valkey:
        whole = measure(valkey.url, "whole", args, definition, None)
        roomy = measure(valkey.url, "roomy", args, definition, 4 * whole["most_bytes"])
        budget = int(args.share * whole["most_bytes"] * 16 / 13)  # an eighth for filters, a sixteenth is spare
        tight = measure(valkey.url, "tight", args, definition, budget)
    print(json.dumps({"budget": budget, "none": whole, "never reached": roomy, f"{args.share:.0%} of the rows": tight}))


if __name__ == "__main__":
    main()
