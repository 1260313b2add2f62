"""Admission and expiry: what they keep of a stream, and what that costs in AUC.

**Source**: Liu et al. 2022, Monolith (arXiv 2209.07663), section 2.2.2: ids are admitted after so many sightings, and
rows that were not seen for so long go.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embedding_store.settings import AdmissionSettings
from experiments.bootstrap import Resampled
from experiments.data import passed, shipped, there
from experiments.page import Page, table
from experiments.run import Run
from trainer.evaluation import Evaluation

_DAY_MS = 86_400_000
ADMIT_AFTER = (1, 2, 3, 5, 10)
EXPIRE_MS: dict[str, tuple[int | None, ...]] = {"kuairand": (None, 2 * _DAY_MS, _DAY_MS), "synthetic": (None, _DAY_MS)}
USERS, ITEMS = 1_000_000, 200_000
_FILTER = AdmissionSettings().memory
_EXAMPLES = 1_000_000  # of synthetic data: three and a half days


class Part(NamedTuple):
    """One pass."""

    dataset: str
    admit_after: int
    expire_ms: int | None
    seed: int
    limit: int | None


class Kept(NamedTuple):
    """What a pass left.

    Attributes:
        rows: Of all tables.
        bytes: Of the trainer's rows and their index.
        labels: float64[n].
        scores: float64[n].
    """

    rows: int
    bytes: int
    labels: NDArray[np.float64]
    scores: NDArray[np.float64]


def learned(part: Part) -> Evaluation:
    """One pass of the shipped configuration, all of its tables under one rule."""
    definition, batch_size = shipped(part.dataset, part.seed)
    rule = {"admit_after": part.admit_after, "expire_after": part.expire_ms}
    definition = definition.model_copy(update={"tables": tuple(t.model_copy(update=rule) for t in definition.tables)})
    options = {"seed": part.seed, "users": USERS, "items": ITEMS} if part.dataset == "synthetic" else {}
    return passed(part.dataset, definition, batch_size, part.limit, **options)


def one_pass(part: Part) -> Kept:
    """What :func:`learned` left."""
    found = learned(part)
    shard = found.learner.shard
    return Kept(int(shard.counts.sum()), shard.nbytes - shard.filter.nbytes, *found.known(0))


def run(how: Run) -> Page:
    """Rows, bytes and AUC under every rule, on every stream."""
    names, missing = there(list(EXPIRE_MS))
    seeds = how.some_seeds(3)
    limits = {"kuairand": how.limit, "synthetic": how.examples(_EXAMPLES)}
    parts = [
        Part(d, admit, expire, seed, limits[d])
        for d in reversed(names) for expire in EXPIRE_MS[d] for admit in ADMIT_AFTER for seed in seeds
    ]  # fmt: skip
    done = dict(zip(parts, how.each(one_pass, parts), strict=True))
    found = {
        d: {
            (admit, expire): [done[Part(d, admit, expire, seed, limits[d])] for seed in seeds]
            for expire in EXPIRE_MS[d] for admit in ADMIT_AFTER
        }
        for d in names
    }  # fmt: skip
    areas = {d: {rule: _late(kept) for rule, kept in rules.items()} for d, rules in found.items()}
    sections, costs = [], []
    for d in names:
        body, cost = _section(found[d], areas[d])
        sections.append(f"## {d}\n\n{found[d][1, None][0].labels.size:,} examples.\n\n{body}")
        costs.append(f"{d} {cost}")
    finding = f"Ids admitted at their second sighting instead of their first: {'; '.join(costs)}."
    text = (
        "One pass of the shipped configuration, every list scored before it is learned, all tables under one rule: "
        "an id gets a row at its n-th sighting, and a row that was not seen for so long, in event time, goes. Rows "
        "and bytes are those at the end, expired rows among them that the sweep, at four rows an example, has not "
        "reached yet; bytes are of the trainer's rows with headers and optimizer state and of their index. Where "
        "ids are counted there is the filter besides, whose size, `admission.memory`, is fixed "
        f"({_FILTER >> 20} MiB by default). AUC over the second half of the stream, mean of {len(seeds)} seeds ± the "
        f"standard error over resamples of seeds and examples; differences are paired. {missing}\n\n"
        + "\n\n".join(sections)
    )
    return Page("Admission and expiry", finding, text, _drawing(found, areas))


Rules = dict[tuple[int, int | None], list[Kept]]
Areas = dict[tuple[int, int | None], Resampled]


def _late(kept: list[Kept]) -> Resampled:
    half = kept[0].labels.size // 2
    return Resampled([one.labels[half:] for one in kept], [one.scores[half:] for one in kept])


def _mean(kept: list[Kept], part: str) -> float:
    return float(np.mean([getattr(one, part) for one in kept]))


def _expiry(expire_ms: int | None) -> str:
    return "never" if expire_ms is None else f"{expire_ms // (_DAY_MS // 24)} h"


def _section(found: Rules, areas: Areas) -> tuple[str, str]:
    """A stream's table, and what the first step of admission costs in a few words."""
    all_of_it = found[1, None]
    rows = [
        [
            f"{admit}", _expiry(expire), *(
                f"{_mean(kept, part) / scale:,.{digits}f} ({_mean(kept, part) / _mean(all_of_it, part):.0%})"
                for part, scale, digits in (("rows", 1, 0), ("bytes", 1e6, 1))
            ),
            str(areas[admit, expire].auc()),
            "" if (admit, expire) == (1, None) else areas[admit, expire].less(areas[1, None]).signed,
        ]
        for (admit, expire), kept in found.items()
    ]  # fmt: skip
    text = table(["sightings", "expiry", "rows", "MB", "AUC, second half", "difference"], rows)
    share = _mean(found[2, None], "rows") / _mean(all_of_it, "rows")
    return text, f"{share:.0%} of the rows, AUC {areas[2, None].less(areas[1, None]).signed}"


def _drawing(found: dict[str, Rules], areas: dict[str, Areas]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        for axis, (dataset, rules) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
            for expire in EXPIRE_MS[dataset]:
                x = [_mean(rules[admit, expire], "rows") for admit in ADMIT_AFTER]
                y = [areas[dataset][admit, expire].auc().mean for admit in ADMIT_AFTER]
                axis.plot(x, y, marker="o", label=f"expiry: {_expiry(expire)}")
                for admit, one_x, one_y in zip(ADMIT_AFTER, x, y, strict=True):
                    axis.annotate(f"{admit}", (one_x, one_y), textcoords="offset points", xytext=(4, 4), fontsize=8)
            axis.set(title=f"{dataset}; numbers: sightings that admit", xlabel="rows", ylabel="AUC, second half")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)

    return draw
