"""Dimension plans taken over by a live trainer under load: events lost, freshness, and whether the ranker scores as it.

The synthetic stream at a steady rate, a DeepFM without inputs of wall time. Everything that the trainer commits is
recorded, and every answer of the ranker is computed again afterwards from a learner at the answer's commit.
"""

import argparse
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np

from benchmarks.freshness import buckets
from benchmarks.markdown import table
from benchmarks.own_stack import own_stack
from benchmarks.stack import samples
from embedding_store.bootstrap import Snapshot, bootstrap
from embedding_store.commit import Commit, CommitId, decode
from embedding_store.errors import LogTrimmed
from embedding_store.inspection import verify
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.plan import TablePlan
from embedding_store.proposal import Proposal, propose
from embedding_store.redis_client import connect
from services.datasets.reader import open_dataset
from services.ranker.score import Model
from services.replay.gauges import quantile
from services.replay.message import encode
from services.replay.pace import parse_rate
from services.replay.producer import KafkaSink
from services.replay.stream import replay
from trainer.connection import kafka_options
from trainer.definition import Definition
from trainer.learner import Learner

CONFIG = Path(__file__).with_suffix(".toml")
_NARROW = TablePlan((4, 32), ((0,), (0, 1, 2), tuple(range(6))))
_OTHER = TablePlan((16,), ((1, 2), tuple(range(8))))
PLANS = (("narrow", ("user", "item"), _NARROW), ("other", ("user", "item"), _OTHER), ("full", ("user", "item"), None))
"""What is taken over, one after another: a name, the tables, the plan."""
PHASES = ("before", *(name for name, _, _ in PLANS))
_PROBE_S = 0.05
_SETTLE_S = 2.0
_USERS = 40
_LIMIT_S = 240.0


@dataclass(slots=True)
class Recorder:
    """The log from some commit on, kept as it comes.

    Attributes:
        log: Of the shard.
        snapshot: A learner's rows as of the first commit.
        entries: What was committed since.
    """

    log: CommitLog
    snapshot: Snapshot
    entries: list[tuple[CommitId, Commit]] = field(default_factory=list)

    @classmethod
    def begin(cls, log: CommitLog) -> Self:
        """Restores a learner's rows; what is committed from now on can be recorded."""
        snapshot = bootstrap(log, learning=True)
        assert snapshot is not None  # noqa: S101 - the stack has committed by now
        return cls(log, snapshot)

    def take(self) -> None:
        """Whatever is new in the log."""
        last = self.entries[-1][0] if self.entries else self.snapshot.id
        for entry in self.log.read(last, count=100, block_ms=50):
            if entry.prev != last:
                raise LogTrimmed(f"commit {entry.id} follows {entry.prev}, the recording ends at {last}")
            self.entries.append((entry.id, decode(entry.data)))
            last = entry.id


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ranker said: which request, as of which commit, and the score of each candidate."""

    request: int
    commit: int
    scores: list[float]


def requests(count: int) -> list[dict[str, Any]]:
    """Lists of the data set as requests, the most frequent visitors and some unknown ones among them."""
    found = []
    for message in open_dataset("synthetic", 20 * count).messages():
        items = [{k: v for k, v in item.items() if k not in ("labels", "weight")} for item in message["items"]]
        found.append({"user": message["user"], "context": message["context"], "candidates": items})
    return found[:count]


def ask(client: httpx.Client, number: int, request: dict[str, Any]) -> Answer:
    """Ranks one list."""
    answer = client.post("/v1/rank", json={**request, "log_impression": False}).raise_for_status().json()
    scores = {str(item["id"]): item["score"] for item in answer["items"]}
    return Answer(number, answer["model"]["commit"], [scores[str(item["id"])] for item in request["candidates"]])


@contextmanager
def looking_on(recorder: Recorder, url: str, some: Sequence[dict[str, Any]]) -> Iterator[list[Answer]]:
    """Records the log and asks the ranker, in threads of their own, until left."""
    over, answers, failures = threading.Event(), list[Answer](), list[Exception]()

    def record() -> None:
        while not over.is_set():
            recorder.take()

    def probe() -> None:
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            while not over.wait(_PROBE_S):
                number = len(answers) % len(some)
                answers.append(ask(client, number, some[number]))

    def watched(work: Any) -> None:
        try:
            work()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=watched, args=(work,), daemon=True) for work in (record, probe)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    recorder.take()


def compare(recorder: Recorder, answers: Sequence[Answer], some: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores every answer's request with a learner at the answer's commit.

    Returns:
        By phase: answers compared and the largest difference of a score; and the examples of all commits.
    """
    waiting: dict[int, list[Answer]] = {}
    for answer in answers:
        waiting.setdefault(answer.commit, []).append(answer)
    snapshot, examples, phase = recorder.snapshot, 0, 0
    definition = Definition.from_json(snapshot.definition)
    learner = Learner(definition, snapshot.shard)
    model = Model(definition, learner.scorer)
    found: dict[str, dict[str, Any]] = {name: {"answers": 0, "difference": 0.0, "commits": 0} for name in PHASES}
    for commit_id, commit in [(snapshot.id, Commit(0, b"", {}, parts=snapshot.parts)), *recorder.entries]:
        if commit_id != snapshot.id:
            snapshot.apply(commit_id, commit)
            examples += commit.examples
        learner.load_parts(dict(commit.parts))
        if phase < len(PLANS) and all(snapshot.shard.layouts.plans.get(t) == PLANS[phase][2] for t in PLANS[phase][1]):
            phase += 1
        row = found[PHASES[phase]]
        row["commits"] += 1
        for answer in waiting.pop(commit_id.seq, ()):
            request = some[answer.request]
            batch = model.featurize(0, request["user"], request["context"], request["candidates"])
            scores = learner.scorer.probabilities(batch)[:, 0]
            row["answers"] += 1
            row["difference"] = max(row["difference"], float(np.abs(scores - answer.scores).max()))
    if waiting:
        raise LogTrimmed(f"{len(waiting)} commits that the ranker named were not recorded")
    return {"phases": found, "examples": examples}


def run(rate: int, seconds: int, warm: int) -> dict[str, Any]:
    """`warm` examples as fast as they go, then `rate` a second, with a take-over at each quarter of so many seconds."""
    some = requests(_USERS)
    with own_stack(CONFIG) as (settings, addresses):
        store = settings.store.model_copy(update={"url": addresses.redis_url})
        log = CommitLog(connect(store), Keys(store.prefix))
        urls = addresses.metrics_urls
        messages = encode(open_dataset("synthetic", warm + rate * seconds).messages())
        with KafkaSink(kafka_options(settings.events), settings.events.topics.examples, 1) as sink:
            sent = 0
            if warm:
                sent += replay(_some(messages, warm), sink).examples
                _learned(urls["trainer"], warm)
            recorder = Recorder.begin(log)
            begun = _consumed(urls["trainer"])
            with looking_on(recorder, addresses.ranker_url, some) as answers:
                marks = [(0.0, buckets(urls["ranker"]))]
                pace = _in_background(messages, sink, rate)
                for plan in PLANS:
                    time.sleep(seconds / (len(PLANS) + 1))
                    marks.append((time.monotonic(), buckets(urls["ranker"])))
                    for one in plan[1]:
                        propose(log, Proposal(one, plan[2]))
                    _taken_over(log)
                progress = pace()
                sent += progress
                _learned(urls["trainer"], sent)
                time.sleep(_SETTLE_S)
                marks.append((time.monotonic(), buckets(urls["ranker"])))
            trainer = samples(urls["trainer"])
        faults = verify(log).faults
    found = compare(recorder, answers, some)
    for phase, (_, before), (_, after) in zip(PHASES, marks, marks[1:], strict=False):
        found["phases"][phase]["p99_s"] = quantile({e: n - before.get(e, 0.0) for e, n in after.items()}, 0.99)
    dead = sum(v for k, v in trainer.items() if k.startswith("dolmen_dead_letters_total"))
    return {**found, "sent": sent - begun, "dead_letters": dead, "faults": faults, "rate": progress / seconds}


def _some(messages: Iterator[Any], examples: int) -> Iterator[Any]:
    sent = 0
    while sent < examples:
        message = next(messages)
        sent += message.examples
        yield message


def _in_background(messages: Iterator[Any], sink: KafkaSink, rate: int) -> Any:
    """Begins a replay; what is returned waits for it and gives the examples that it sent."""
    sent: list[int] = []
    thread = threading.Thread(target=lambda: sent.append(replay(messages, sink, parse_rate(str(rate))).examples))
    thread.start()

    def wait() -> int:
        thread.join()
        return sent[0]

    return wait


def _taken_over(log: CommitLog) -> None:
    limit = time.monotonic() + _LIMIT_S
    while log.client.hlen(log.keys.plans):
        if time.monotonic() > limit:
            raise TimeoutError("a plan was not taken over")
        time.sleep(0.02)


def _consumed(url: str) -> int:
    return int(samples(url)['dolmen_examples_total{task="click"}'])


def _learned(url: str, examples: int) -> None:
    limit = time.monotonic() + _LIMIT_S
    while _consumed(url) < examples:
        if time.monotonic() > limit:
            raise TimeoutError(f"{_consumed(url)} of {examples} examples were learned from")
        time.sleep(0.1)


def section() -> str:
    """For docs/performance.md."""
    r = run(2000, 60, 400_000)
    rows = [
        [phase, f"{row['commits']}", f"{row['answers']}", f"{row['difference']:.1e}", f"{row['p99_s']:.2f} s"]
        for phase, row in r["phases"].items()
    ]
    text = (
        f"{r['sent']:,} examples at {r['rate']:,.0f}/s: {r['examples']:,} learned from by the commits, "
        f"{r['dead_letters']:.0f} dead letters; `verify` found {len(r['faults'])} faults.\n\n"
    )
    return text + table(["plan in force", "commits", "answers", "largest difference of a score", "freshness p99"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--warm", type=int, default=400_000)
    args = parser.parse_args()
    print(json.dumps(run(args.rate, args.seconds, args.warm), indent=1))
