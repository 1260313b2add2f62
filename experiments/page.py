"""What an experiment leaves: a page of Markdown, the drawing beside it, and the index of all pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from services.whole_file import replacing

_FINDING = "> "
_SIZE = (11.0, 4.6)


@dataclass(frozen=True, slots=True)
class Page:
    """What an experiment found.

    Attributes:
        title: Of the page.
        finding: One sentence; it stands in the index too.
        text: Markdown: what was done, the tables, what they show.
        draw: Draws into an empty figure.
    """

    title: str
    finding: str
    text: str
    draw: Callable[[Figure], None]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write(page: Page, name: str, command: str, out: Path) -> None:
    """Writes ``NAME.md`` and ``NAME.png``, each whole or not at all.

    Args:
        page: What was found.
        name: Of the experiment.
        command: Repeats it.
        out: A folder.

    Raises:
        OSError: If a file cannot be written.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    page.draw(figure)
    with replacing(out / f"{name}.png") as drawing:
        figure.savefig(drawing, format="png", dpi=110, metadata={"Software": None})
    body = (
        f"# {page.title}\n\n```sh\n{command}\n```\n\n{_FINDING}{page.finding}\n\n![{page.title}]({name}.png)\n\n"
        f"{page.text.strip()}\n"
    )
    _put(out / f"{name}.md", "".join(f"{line.rstrip()}\n" for line in body.splitlines()))


def write_index(names: Sequence[str], out: Path, command: str) -> None:
    """Writes ``README.md``: the pages that are there, each with its finding.

    Args:
        names: Of all experiments, in their order.
        out: The folder of the pages.
        command: Repeats all of them.

    Raises:
        OSError: If a file cannot be read or written.
    """
    rows = []
    for name in names:
        path = out / f"{name}.md"
        if path.is_file():
            lines = path.read_text().splitlines()
            finding = next(line for line in lines if line.startswith(_FINDING)).removeprefix(_FINDING)
            rows.append([f"[{lines[0].removeprefix('# ')}]({name}.md)", finding])
    text = (
        "# Experiments\n\nEach page begins with the command that writes it again, figure for figure; only what is "
        "marked as a time depends on the machine (and the last digit, where another processor rounds otherwise). Data "
        "are those that `DOLMEN_DATA` names; without it, KuaiRand is the shipped slice and the rating sets are left "
        f"out. All of them:\n\n```sh\n{command}\n```\n\n"
    )
    _put(out / "README.md", text + table(["experiment", "finding"], rows) + "\n")


def _put(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text)
