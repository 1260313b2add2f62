"""How an experiment is run: its size, its seeds, and its independent parts side by side."""

import importlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from experiments.page import Page, write

EXPERIMENTS = {
    "collisions": "a row an id against rows that ids share",
    "freshness": "a frozen model against one that is brought up to date, at several intervals",
    "footprint": "admission and expiry: rows and bytes against accuracy",
    "models": "the family of models, and peers beside it",
    "planted": "does the search find dimensions that are known?",
    "dimensions": "parameters and bytes against accuracy: dimension search and its rivals",
}
"""Names of the experiments, each a module of this package, and what each asks."""

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Run:
    """How large an experiment is.

    Attributes:
        seed: The first; others follow it.
        seeds: At most so many.
        limit: At most so many examples of a stream; None: all.
        workers: Processes at a time; 1: this one alone.
    """

    seed: int = 1
    seeds: int = 5
    limit: int | None = None
    workers: int = 2

    def some_seeds(self, most: int) -> tuple[int, ...]:
        """The seeds of an experiment that takes at most so many.

        >>> Run(seed=7, seeds=2).some_seeds(5), Run().some_seeds(3)
        ((7, 8), (1, 2, 3))
        """
        return tuple(range(self.seed, self.seed + min(most, self.seeds)))

    def examples(self, most: int) -> int:
        """Of a stream that could be longer."""
        return most if self.limit is None else min(most, self.limit)

    def each(self, function: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
        """What a function gives for each of some parts, in their order; nothing depends on how many run at a time.

        Args:
            function: Of a module; it sets no state that another part reads.
            parts: Its arguments.
        """
        workers = min(self.workers, len(parts), os.cpu_count() or 1)
        if workers <= 1:
            return [function(part) for part in parts]
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            return list(pool.map(function, parts))


QUICK = Run(seeds=2, limit=3000, workers=1)
"""Small enough to see in a minute or two that everything runs; its figures say little."""


def run(name: str, how: Run) -> Page:
    """Runs one experiment.

    Args:
        name: One of :data:`EXPERIMENTS`.
        how: Its size.

    Raises:
        DatasetError: If it has none of its data.
    """
    found: Page = importlib.import_module(f"experiments.{name}").run(how)
    return found


def run_and_write(name: str, how: Run, quick: bool, out: Path) -> Page:
    """Runs one experiment and writes its page.

    Args:
        name: See :func:`run`.
        how: See there.
        quick: Whether the page says so in its command.
        out: A folder.

    Raises:
        DatasetError: See there.
        OSError: If a file cannot be written.
    """
    page = run(name, how)
    write(page, name, f"dolmen experiment {name}{' --quick' if quick else ''} --seed {how.seed}", out)
    return page
