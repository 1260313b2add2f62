"""Runs the benchmarks and writes docs/performance.md."""

import argparse
import datetime
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    agreement,
    archive,
    click_freshness,
    collisionless,
    evaluate,
    footprint,
    freshness,
    index_speed,
    late_labels,
    negatives,
    online_search,
    plan_takeover,
    rank,
    restore,
    row_memory,
    row_speed,
    stack,
)
from benchmarks.markdown import table

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
_MARK = "<!-- measured: {} -->"


def machine(load: float) -> str:
    """What was measured on, in one line, and how busy others kept it (processes that ran when the section began)."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [row.partition(":")[2].strip() for row in info.read_text().splitlines() if row.startswith("model name")]
        model = names[0] if names else model
    day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return f"{day}, {os.cpu_count()} cores ({model}), Python {platform.python_version()}, load {load:.1f} before"


def learning() -> str:
    figures = ("auc", "auc_second_half", "calibration")
    speed = [
        [r["learner"], f"{r['examples_per_second']:,.0f}", f"{r['ratio']:.2f}", *(f"{r[key]:.4f}" for key in figures)]
        for r in evaluate.run()
    ]
    parts = [[r["learner"], *(f"{r[key]:.4f}" for key in figures)] for r in evaluate.ablation()]
    heads = ["AUC", "AUC, second half", "calibration"]
    return "\n\n".join(
        [
            table(["shipped configuration", "examples/s", "to batches of 64", *heads], speed),
            table(["configuration", *heads], parts),
        ]
    )


def whole_stack() -> str:
    r = stack.run(600_000)
    stages = [[stage, f"{share:.0%}"] for stage, share in r["stage_share"].items()]
    text = (
        f"{r['examples']:,} examples in {r['seconds']:.1f} s: **{r['examples_per_second']:,.0f} examples/s**, "
        f"{r['commits']:.0f} commits, {r['mean_batch']:.0f} examples a batch on average.\n\n"
    )
    return text + table(["stage of the trainer's loop", "share of the time"], stages)


def fresh() -> str:
    r = freshness.run(2000, 40)
    head = ["rate", "examples observed", "p50", "p99", "within 1 s"]
    return table(
        head,
        [[f"{r['sent_per_second']:,.0f}/s", f"{r['observed']:,.0f}", f"{r['p50_s']:.2f} s", f"{r['p99_s']:.2f} s",
          f"{r['within_1s']:.2%}"]],
    )  # fmt: skip


def ranking() -> str:
    rows = [
        [
            r["request"],
            f"{r['p50_ms']:.2f} ms",
            f"{r['p99_ms']:.2f} ms",
            f"{r['to_bare']:.2f}" if "to_bare" in r else "",
        ]
        for r in rank.run(2000)
    ]
    return table(["request", "p50", "p99", "p50 to bare FastAPI"], rows)


SECTIONS: dict[str, Callable[[], Any]] = {
    "learning": learning,
    "agreement": agreement.section,
    "stack": whole_stack,
    "freshness": fresh,
    "takeover": plan_takeover.section,
    "online": online_search.section,
    "click freshness": click_freshness.section,
    "late labels": late_labels.section,
    "negatives": negatives.section,
    "ranking": ranking,
    "collisionless": collisionless.section,
    "index": index_speed.section,
    "rows": row_speed.section,
    "memory": row_memory.section,
    "footprint": footprint.section,
    "restore": restore.section,
    "history": archive.section,
}


def replace(page: str, name: str, body: str) -> str:
    """The page with another body, which names its machine, behind the mark of a section."""
    mark = _MARK.format(name)
    before, found, after = page.partition(mark)
    if not found:
        raise SystemExit(f"{PAGE} has no {mark}")
    rest = after.partition("<!-- end -->")[2]
    return f"{before}{mark}\n{body}\n\n<!-- end -->{rest}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)}; default: all")
    for name in parser.parse_args().sections or list(SECTIONS):
        print(f"{name} …", flush=True)
        load = os.getloadavg()[0]
        body = f"{machine(load)}\n\n{SECTIONS[name]()}"
        PAGE.write_text(replace(PAGE.read_text(), name, body))
        print(body, flush=True)


if __name__ == "__main__":
    main()
