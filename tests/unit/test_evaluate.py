"""``dolmen evaluate`` from the command line, its figures against scikit-learn and plain NumPy."""

import json
import math
import struct

import numpy as np
import pytest
import typer
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score
from typer.testing import CliRunner

import services.cli.evaluate as command
from services.datasets.reader import open_dataset
from services.settings import load_settings
from trainer.curves import curve
from trainer.evaluation import evaluate
from trainer.features import Featurizer
from trainer.slices import Slices

CONFIG = '[model]\nhidden = [4]\n[trainer]\nslices = ["tab", "item.video_type"]\nslice_values = 2\n'


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.callback()(lambda: None)
    command.register(made)
    return made


@pytest.fixture
def configuration(tmp_path):
    path = tmp_path / "dolmen.toml"
    path.write_text(CONFIG)
    return path


def run(app, *arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def assert_is_a_picture(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert min(struct.unpack(">II", data[16:24])) > 500
    assert data.endswith(b"IEND\xaeB`\x82")


def test_the_json_has_reliability_and_slices_and_the_curves_lie_beside_it(app, configuration, tmp_path):
    figures = tmp_path / "figures.json"
    answer = run(app, "--dataset", "kuairand", "--limit", 3000, "--config", configuration, "--json", figures)
    assert answer.exit_code == 0, answer.output
    assert_is_a_picture(tmp_path / "figures.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dolmen.toml", "figures.json", "figures.png"]

    # the same pass, its scores judged by others
    settings = load_settings(configuration, "kuairand")
    definition = settings.definition()
    slices = Slices(settings.trainer.slices, definition.features, 2)
    sources = {*Featurizer(definition).sources, *slices.sources}
    stream = open_dataset("kuairand", 3000).columns_with_truth(sorted(sources), ["click"])
    passed = evaluate(definition, stream, settings.trainer.batch_size, slices)
    labels, scores = passed.labels[:, 0], passed.scores[:, 0]

    row = json.loads(figures.read_bytes())["tasks"]["click"]
    half = labels.size // 2
    assert row["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert row["auc_second_half"] == pytest.approx(roc_auc_score(labels[half:], scores[half:]))
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    assert [one["predicted"] for one in row["reliability"]] == pytest.approx(predicted.tolist())
    assert [one["observed"] for one in row["reliability"]] == pytest.approx(observed.tolist())
    assert sum(one["examples"] for one in row["reliability"]) == labels.size
    weights = np.array([one["examples"] for one in row["reliability"]])
    assert row["calibration_error"] == pytest.approx((weights * np.abs(predicted - observed)).sum() / labels.size)

    chunks = open_dataset("kuairand", 3000).columns(sources, ["click"])
    tabs = np.concatenate([np.repeat(chunk.values["context.tab"], chunk.sizes) for chunk in chunks])
    found, counts = np.unique(tabs, return_counts=True)
    common = found[np.argsort(-counts, kind="stable")][:2].tolist()
    assert [one["value"] for one in row["slices"]["tab"]] == [*map(str, common), "other"]
    for one in row["slices"]["tab"]:
        part = ~np.isin(tabs, common) if one["value"] == "other" else tabs == int(one["value"])
        assert one["examples"] == part.sum()
        assert one["auc"] == pytest.approx(roc_auc_score(labels[part], scores[part]))
        assert one["log_loss"] == pytest.approx(log_loss(labels[part], scores[part]))
        assert one["calibration"] == pytest.approx(scores[part].sum() / labels[part].sum())
    assert {one["value"] for one in row["slices"]["item.video_type"]} <= {"NORMAL", "AD", "missing", "other"}


def test_without_slices_there_are_none_and_curves_go_where_they_are_told(app, tmp_path):
    config = tmp_path / "dolmen.toml"
    config.write_text("[trainer]\nslices = []\n")
    picture, figures = tmp_path / "picture", tmp_path / "figures.json"
    answer = run(
        app, "--dataset", "kuairand", "--limit", 500, "--config", config, "--json", figures, "--curves", picture
    )
    assert answer.exit_code == 0, answer.output
    assert "slices" not in json.loads(figures.read_bytes())["tasks"]["click"]
    assert_is_a_picture(picture)
    assert not (tmp_path / "figures.png").exists()


def test_a_stream_of_one_label_has_nulls_and_a_picture(app, configuration, tmp_path):
    messages = tmp_path / "some.ndjson"
    item = {"id": 1, "labels": {"click": 0}, "video_type": "$a$ [b] {c}"}
    messages.write_text(json.dumps({"ts": 1, "user": {"id": 1}, "items": [item] * 3}))
    figures = tmp_path / "figures.json"
    answer = run(app, "--file", messages, "--config", configuration, "--json", figures)
    assert answer.exit_code == 0, answer.output
    row = json.loads(figures.read_bytes())["tasks"]["click"]
    assert (row["auc"], row["calibration"]) == (None, None)
    assert row["slices"]["item.video_type"][0]["value"] == "$a$ [b] {c}"
    assert "$a$ [b] {c}" in answer.output
    assert_is_a_picture(tmp_path / "figures.png")


def test_an_empty_stream_has_a_report_too(app, configuration, tmp_path):
    (tmp_path / "none.ndjson").write_bytes(b"")
    figures = tmp_path / "figures.json"
    answer = run(app, "--file", tmp_path / "none.ndjson", "--config", configuration, "--json", figures)
    assert answer.exit_code == 0, answer.output
    assert json.loads(figures.read_bytes())["tasks"]["click"]["reliability"] == []
    assert_is_a_picture(tmp_path / "figures.png")


def test_without_matplotlib_the_json_is_written_and_only_an_asked_for_picture_fails(app, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    figures = tmp_path / "figures.json"
    answer = run(app, "--dataset", "kuairand", "--limit", 300, "--json", figures)
    assert answer.exit_code == 0, answer.output
    assert figures.exists()
    assert not (tmp_path / "figures.png").exists()
    answer = run(app, "--dataset", "kuairand", "--limit", 300, "--curves", tmp_path / "x.png")
    assert answer.exit_code == 1
    assert "pip install 'dolmen[plots]'" in answer.output


def test_a_place_that_cannot_be_written_is_refused_before_the_work(app, tmp_path):
    nowhere = tmp_path / "none" / "x"
    for option in ("--json", "--curves"):
        answer = run(app, "--dataset", "kuairand", option, nowhere)
        assert answer.exit_code == 2
        assert option in answer.output
    same = tmp_path / "x.png"
    assert run(app, "--dataset", "kuairand", "--json", same, "--curves", same).exit_code == 2
    assert run(app, "--dataset", "kuairand", "--json", same).exit_code == 2


def test_a_curve_is_the_quality_of_the_windows_along_the_stream():
    rng = np.random.default_rng(1)
    labels = (rng.random(5000) < 0.4).astype(np.float64)
    scores = 1 / (1 + np.exp(-(rng.normal(size=5000) + labels)))
    found = curve(labels, scores, window=1000)
    assert (found.window, found.examples[0], found.examples[-1]) == (1000, 1000, 5000)
    assert found.examples.size == 200
    for place, end in list(enumerate(found.examples.tolist()))[::40]:
        y, p = labels[end - 1000 : end], scores[end - 1000 : end]
        assert found.auc[place] == pytest.approx(roc_auc_score(y, p))
        assert found.log_loss[place] == pytest.approx(log_loss(y, p))
        assert found.normalized_entropy[place] == pytest.approx(log_loss(y, p) / log_loss(y, np.full(1000, y.mean())))
        assert found.calibration[place] == pytest.approx(p.sum() / y.sum())


def test_a_stream_shorter_than_the_window_has_one_place_and_an_empty_one_none():
    short = curve(np.array([1.0, 0]), np.array([0.5, 0.5]))
    assert (short.examples.tolist(), short.auc.tolist()) == ([2], [0.5])
    assert math.isnan(curve(np.array([1.0]), np.array([0.5])).auc[0])
    assert curve(np.empty(0), np.empty(0)).examples.size == 0
