"""``dolmen store`` from the shell: files appear whole or not at all, and what is printed is what is there."""

import http.server
import threading
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner, Result

from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.plan import TablePlan
from embedding_store.proposal import PROPOSED, Proposal, read_proposals
from services.cli.store import register
from services.local.ready import Addresses, write_ready
from tests.shards import Writer, client_of, head_of, see, settings_for, stored
from trainer.search.online import Found


@pytest.fixture
def settings(redis_url, monkeypatch):
    settings = settings_for(redis_url)
    monkeypatch.setenv("DOLMEN_STORE__URL", redis_url)
    monkeypatch.setenv("DOLMEN_STORE__PREFIX", settings.prefix)
    return settings


@pytest.fixture
def writer(settings) -> Writer:
    writer = Writer(CommitLog(client_of(settings.url), Keys(settings.prefix)))
    for round_ in range(3):
        rng = np.random.default_rng(round_)
        see(writer.shard, rng.integers(0, 40, (32, 2)).tolist(), rng.normal(size=(32, 2, 7)))
        writer.commit()
    return writer


def store(*words: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["store", *map(str, words)])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_dump_is_written_and_loaded(writer, redis_url, tmp_path, monkeypatch):
    done = store("dump", tmp_path / "a.dump")
    assert done.exit_code == 0, done.output
    assert f"commit 3, {writer.shard.counts.sum()} rows" in done.output
    assert (tmp_path / "a.dump").read_bytes() == writer.committed
    assert names(tmp_path) == {"a.dump"}
    other = settings_for(redis_url)
    monkeypatch.setenv("DOLMEN_STORE__PREFIX", other.prefix)
    done = store("load", tmp_path / "a.dump")
    assert f"{writer.shard.counts.sum()} rows of 2 tables loaded" in done.output
    assert stored(CommitLog(client_of(redis_url), Keys(other.prefix))) == writer.committed
    again = store("load", tmp_path / "a.dump")
    assert again.exit_code == 1
    assert "fills an empty one only" in again.output


def test_a_dump_that_fails_leaves_the_old_file_and_no_other(writer, tmp_path, monkeypatch):
    (tmp_path / "a.dump").write_bytes(b"old")

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("embedding_store.packed.PackedWriter.finish", broken)
    done = store("dump", tmp_path / "a.dump")
    assert done.exit_code == 1
    assert "no space left" in done.output
    assert names(tmp_path) == {"a.dump"}
    assert (tmp_path / "a.dump").read_bytes() == b"old"


def test_a_file_that_is_no_dump_is_told(settings, tmp_path):
    (tmp_path / "a.dump").write_bytes(b"hello")
    done = store("load", tmp_path / "a.dump")
    assert done.exit_code == 1
    assert "is no dump of a store" in done.output
    assert store("load", tmp_path / "nothing").exit_code == 1


@pytest.mark.parametrize("command", ["dump", "export"])
def test_an_empty_store_makes_no_file(settings, tmp_path, command):
    done = store(command, tmp_path / "file")
    assert done.exit_code == 1
    assert "the store is empty" in done.output
    assert names(tmp_path) == set()


def test_rows_are_exported(writer, tmp_path):
    done = store("export", "--format", "parquet", tmp_path / "a.parquet", "--table", "wide")
    assert done.exit_code == 0, done.output
    assert names(tmp_path) == {"a.parquet"}
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").num_rows == 1 + writer.shard.counts[0]
    assert store("export", tmp_path / "b.parquet", "--table", "other").exit_code == 1
    assert store("export", tmp_path / "b.parquet", "--format", "csv").exit_code == 2
    assert names(tmp_path) == {"a.parquet"}


class _Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'dolmen_store_bytes{table="wide"} 4321\ndolmen_store_bytes{table="other"} 1\n')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metrics_url():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metrics) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_stats_ask_the_processes_that_run_on_the_store(writer, settings, metrics_url, tmp_path):
    urls = {"trainer": metrics_url, "ranker": "http://127.0.0.1:1/metrics"}
    write_ready(tmp_path / "ready.json", Addresses(settings.url, "", "", urls))
    found = orjson.loads(store("stats", "--json", "--data-dir", tmp_path).stdout)
    assert found["tables"]["wide"]["trainer_bytes"] == 4321
    assert "ranker_bytes" not in found["tables"]["wide"]
    assert "trainer_bytes" not in found["tables"]["narrow"]
    assert found["commit"] == 3
    assert found["offsets"] == head_of(writer.committed)["offsets"]
    text = store("stats", "--data-dir", tmp_path).stdout
    assert "4,321" in text


def test_stats_ask_no_process_that_runs_on_another_store(writer, metrics_url, tmp_path):
    write_ready(tmp_path / "ready.json", Addresses("redis://127.0.0.1:1", "", "", {"trainer": metrics_url}))
    found = orjson.loads(store("stats", "--json", "--data-dir", tmp_path).stdout)
    assert "trainer_bytes" not in found["tables"]["wide"]


def test_what_the_live_search_proposes_is_shown_and_can_be_given_to_the_trainer(writer, tmp_path):
    plan = TablePlan((4,), ((0,), (0, 2)))
    found = Found("wide", plan, 50_000, 90.0, 300.0, 0.0)
    refused = store("plan", "wide", "--proposed")
    assert refused.exit_code == 1
    assert "nothing is proposed for table 'wide'" in refused.output
    writer.parts[PROPOSED] = orjson.dumps({"wide": found.to_json()})
    writer.commit()
    shown = store("stats", "--data-dir", tmp_path)
    assert "the search would have 1/2 numbers a vector in wide, 30% of what there are" in shown.output
    assert store("plan", "wide", "--proposed").exit_code == 0
    assert read_proposals(writer.log, {"wide": 6}) == [Proposal("wide", plan)]
    assert store("plan", "wide", "--proposed", "--none").exit_code == 2
