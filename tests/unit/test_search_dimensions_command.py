import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from embedding_store.plan import parse_plan
from services.cli.columns import read_columns
from services.settings import load_settings

CONFIG = """
[[tables]]
name = "user"
dim = 4
[[tables]]
name = "item"
dim = 4
[[features]]
name = "user"
source = "user.id"
kind = "id"
[[features]]
name = "item"
source = "item.id"
kind = "id"
[[tasks]]
name = "click"
[model]
name = "fm"
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "services.cli.main", "search-dimensions", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def write_stream(path: Path, lists: int) -> None:
    rng = np.random.default_rng(1)
    with path.open("w") as out:
        for n in range(lists):
            user, item = rng.integers(0, 20), rng.integers(0, 30)
            click = int(rng.random() < (0.8 if (user + item) % 2 else 0.2))
            one = {"id": int(item), "labels": {"click": click}}
            out.write(json.dumps({"request_id": str(n), "ts": 1000 * n, "user": {"id": int(user)}, "items": [one]}))
            out.write("\n")


def test_writes_plans_that_the_store_takes_and_a_report(tmp_path: Path) -> None:
    write_stream(tmp_path / "events.ndjson", 1500)
    (tmp_path / "dolmen.toml").write_text(CONFIG)
    out = tmp_path / "found"
    done = run(
        "--file", tmp_path / "events.ndjson", "--config", tmp_path / "dolmen.toml", "--out", out,
        "--target-parameters", "0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = json.loads((out / "plan.json").read_text())["tables"]
    assert set(tables) == {"user", "item"}
    for name, value in tables.items():
        plan = parse_plan(value, name, 4)
        assert plan.matrix is not None
    report = json.loads((out / "plan.report.json").read_text())
    assert report["chosen"]["share"] <= 0.5
    assert report["passes"] <= 3.0
    assert report["curve"][0]["share"] == 1.0
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert "dimensions kept" in (out / "plan.md").read_text()


def test_wrong_use_is_named(tmp_path: Path) -> None:
    both = run("--dataset", "synthetic", "--out", tmp_path, "--target-parameters", "0.3", "--max-loss", "0.1")
    assert both.returncode == 2
    assert "--max-loss" in both.stderr
    write_stream(tmp_path / "events.ndjson", 200)
    (tmp_path / "dolmen.toml").write_text(CONFIG)
    small = run(
        "--file", tmp_path / "events.ndjson", "--config", tmp_path / "dolmen.toml", "--out", tmp_path / "p.json",
        "--target-parameters", "0.1",
    )  # fmt: skip
    assert small.returncode == 1
    assert "0.25" in small.stderr


def test_shipped_configurations_of_vectors_read_their_data() -> None:
    definition = load_settings(None, "kuairand_vectors").definition()
    assert {table.dim for table in definition.tables} == {16}
    assert all(table.linear_learning_rate == 0 for table in definition.tables)
    assert next(read_columns("kuairand", None, 100, ("user.id",), ["click"]))[0].labels.shape[0] == 100
