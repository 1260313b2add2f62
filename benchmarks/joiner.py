"""Speed and memory of the joiner's state machine on one core, with many impressions pending, in memory and on disk.

``python -m benchmarks.joiner [--pending 1000000]``: one pair of partitions without Kafka; messages are decoded and
checked, examples are made and encoded. A list has ten items; three lists in ten get a click, one in ten a play too.
"""

import argparse
import json
import random
import resource
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import orjson

from services.events import parse_action, parse_impression
from services.joiner.join import Join, Tally
from services.joiner.pending import Pending
from services.joiner.record import Record
from services.joiner.rules import Outcome, Rules, Task
from services.joiner.spill import Spill

_ITEMS = 10
_WINDOW_MS = 60_000


def rules() -> Rules:
    return Rules(
        tasks=(Task("click", "click", None, _WINDOW_MS, 1.0), Task("long_view", "play", 5.0, _WINDOW_MS, 1.0)),
        outcomes=(Outcome("play_s", "play", _WINDOW_MS),),
        eager=False,
        out_of_orderness_ms=5_000,
        skew_ms=0,
        late_ms=0,
        correction_weight=1.0,
    )


def stream(count: int, per_ms: float, seed: int) -> Iterator[tuple[int, bytes]]:
    """Side and bytes of `count` impressions and what comes of them, in event time."""
    rng = random.Random(seed)
    waiting: list[tuple[int, bytes]] = []
    for number in range(count):
        ts = int(number / per_ms)
        request = str(uuid.UUID(int=rng.getrandbits(128)))
        names = [f"item-{rng.randrange(100_000)}-{k}" for k in range(_ITEMS)]
        items = [{"id": name, "position": k, "genre": ["Drama"]} for k, name in enumerate(names)]
        shown = {"request_id": request, "ts": ts, "user": {"id": f"user-{rng.randrange(100_000)}", "country": "FR"}}
        yield 0, orjson.dumps({**shown, "context": {"device": "ios"}, "items": items})
        done = {"request_id": request, "ts": ts, "item_id": rng.choice(names)}
        draw = rng.random()
        if draw < 0.3:
            waiting.append((number + rng.randrange(1000), orjson.dumps({**done, "action": "click"})))
        if draw < 0.1:
            waiting.append((number + rng.randrange(1000), orjson.dumps({**done, "action": "play", "value": 9.5})))
        if len(waiting) > 2000:
            waiting.sort(reverse=True)
            while waiting and waiting[-1][0] <= number:
                yield 1, waiting.pop()[1]


def measure(pending: int, budget_bytes: int, directory: Path) -> dict[str, float]:
    """Fills the machine until so many impressions are pending, then joins half as many again."""
    per_ms = pending / (_WINDOW_MS + 5_000)
    waiting = Pending(rules().horizon_ms, budget_bytes, lambda: Spill(directory / "bench.sqlite"))
    join = Join(Record(), rules(), waiting, Tally())
    offsets = [0, 0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = {"fill": 0.0, "steady": 0.0}
    counts = {"fill": 0, "steady": 0}
    batch: list[tuple[int, bytes]] = []
    shown, bytes_shown, filled_rss = 0, 0, 0

    def feed(phase: str) -> None:
        start = time.process_time()
        for side, value in batch:
            if side == 0:
                join.impression(offsets[0], parse_impression(value), value)
            else:
                join.action(offsets[1], parse_action(value))
            offsets[side] += 1
            join.settle()
        join.out.clear()
        seconds[phase] += time.process_time() - start
        counts[phase] += len(batch)
        batch.clear()

    for side, value in stream(pending * 3 // 2, per_ms, 1):
        batch.append((side, value))
        shown += side == 0
        bytes_shown += len(value) if side == 0 else 0
        if len(batch) == 5000:
            feed("fill" if shown <= pending else "steady")
            if not filled_rss and shown > pending:
                filled_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    feed("steady")
    result: dict[str, float] = {
        "pending": join.waiting,
        "on_disk": waiting.disk_len,
        "budget_mib": budget_bytes >> 20,
        "events_per_second_filling": round(counts["fill"] / seconds["fill"]),
        "events_per_second": round(counts["steady"] / seconds["steady"]),
        "message_bytes": round(bytes_shown / shown),
        "memory_bytes_per_pending": round(1024 * filled_rss / pending),
        "counted_bytes_per_pending": round(waiting.memory_bytes / max(1, len(waiting) - waiting.disk_len)),
    }
    waiting.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--budget-mib", type=int, default=0, help="0: all in memory; else as given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(args.pending, args.budget_mib << 20 or 1 << 40, Path(name))))


if __name__ == "__main__":
    main()
