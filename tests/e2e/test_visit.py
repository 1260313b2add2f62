"""The whole way on one machine: shown, clicked, joined, learned, ranked."""

import os
import re
import subprocess
import sys
from pathlib import Path


def runs_with(text: str) -> list[str]:
    """Command lines of processes that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def test_a_visitors_clicks_move_the_ranking_and_nothing_is_left_running(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOLMEN_")}
    command = [sys.executable, "-P", "-m", "services.cli.main", "demo", "--exit", "--limit", "4000"]
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path / "data")],
        env={**environment, "DOLMEN_RANKER__PORT": "0"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sent = re.search(r"sent ([\d,]+) examples", done.stdout)
    assert sent is not None
    assert int(sent[1].replace(",", "")) > 3500
    moved = re.search(r"from place (\d+) to (\d+) \(commit (\d+) to (\d+)\)", done.stdout)
    assert moved is not None, done.stdout
    before, after, commit, later = map(int, moved.groups())
    assert before == 10 > after
    assert later > commit
    assert not runs_with(str(tmp_path))
