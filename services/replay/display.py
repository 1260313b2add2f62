"""The progress of a replay for people: a bar with live numbers, or plain lines where there is no terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from services.replay.gauges import Gauges
from services.replay.stream import Progress

_LINE_S = 5.0
_WINDOW_S = 2.0


class ReplayDisplay:
    """Shows progress from ``with`` to its end.

    Args:
        title: Of the bar.
        total: Examples in all; None if unknown.
        console: Where it shows; default: standard error.
    """

    def __init__(self, title: str, total: int | None, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._title = title
        self._total = total
        self._next_line_s = _LINE_S
        self._recent: list[Progress] = [Progress()]
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            console=self._console,
            refresh_per_second=5,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, numbers="")

    def update(self, progress: Progress, gauges: Gauges | None = None, since: Gauges | None = None) -> None:
        """Shows how far the replay is and what the stack says.

        Args:
            progress: Of the replay.
            gauges: The last reading of the stack's metrics.
            since: The reading that freshness counts from.
        """
        rate = self._recent_rate(progress)
        numbers = " · ".join([f"{rate:,.0f} examples/s", *gauge_texts(gauges or Gauges(), since)])
        self._bar.update(self._task, completed=progress.examples, numbers=numbers)
        if not self._console.is_terminal and progress.seconds >= self._next_line_s:
            self._next_line_s = progress.seconds + _LINE_S
            of = f" of {self._total:,}" if self._total is not None else ""
            self._console.print(f"{self._title}: {progress.examples:,}{of} examples · {numbers}", soft_wrap=True)

    def _recent_rate(self, progress: Progress) -> float:
        self._recent.append(progress)
        while len(self._recent) > 2 and progress.seconds - self._recent[1].seconds >= _WINDOW_S:
            del self._recent[0]
        oldest = self._recent[0]
        seconds = progress.seconds - oldest.seconds
        return (progress.examples - oldest.examples) / seconds if seconds > 0 else 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def gauge_texts(gauges: Gauges, since: Gauges | None = None) -> list[str]:
    """The known numbers in words.

    >>> gauge_texts(Gauges(online_auc={"click": 0.7213}, rows=12000, consumer_lag=3))
    ['AUC click 0.7213', '12,000 rows', 'lag 3']
    """
    texts = [f"AUC {task} {value:.4f}" for task, value in gauges.online_auc.items()]
    if gauges.rows is not None:
        texts.append(f"{gauges.rows:,} rows")
    freshness = gauges.freshness_p50_s(since)
    if freshness is not None:
        texts.append(f"freshness {freshness:.2f} s")
    if gauges.pending:
        texts.append("1 list waits" if gauges.pending == 1 else f"{gauges.pending:,} lists wait")
    if gauges.consumer_lag is not None:
        texts.append(f"lag {gauges.consumer_lag:,}")
    return texts


def summary(title: str, progress: Progress) -> str:
    """One line about a replay that has ended.

    >>> summary("kuairand", Progress(3000, 100, 1.5, True))
    'kuairand: sent 3,000 examples in 100 messages in 1.5 s (2,000 examples/s)'
    """
    text = (
        f"{title}: sent {progress.examples:,} examples in {progress.messages:,} messages in {progress.seconds:.1f} s "
        f"({progress.examples_per_s:,.0f} examples/s)"
    )
    return text if progress.finished else f"{text}; stopped before the end"
