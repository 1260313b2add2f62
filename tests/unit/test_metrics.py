"""What the trainer tells Prometheus of its learning, against scikit-learn."""

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from embedding_store.shard import Shard
from tests.definitions import small_definition
from trainer.example import examples_to_columns
from trainer.metrics import TrainerMetrics
from trainer.slices import Slices


def samples(metrics):
    """Every sample of a scrape, by name and labels."""
    text = generate_latest(metrics.registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(found, name, **labels):
    return found[(name, *sorted(labels.items()))]


def stream(seed, size):
    rng = np.random.default_rng(seed)
    labels = (rng.random(size) < 0.3).astype(np.float64)
    return labels, 1 / (1 + np.exp(-(rng.normal(size=size) + labels - 1)))


def learned(metrics, labels, scores, ids):
    for at in range(0, labels.size, 50):
        part = slice(at, at + 50)
        metrics.learned(labels[part, None].astype(np.float32), scores[part, None], ids[part, None])
    metrics.refresh(Shard(small_definition().tables, 1, True), {}, 0)


def test_quality_is_told_whole_by_bin_and_by_value():
    labels, scores = stream(1, 3000)
    ids = np.random.default_rng(2).choice(4, 3000, p=[0.6, 0.2, 0.15, 0.05])
    metrics = TrainerMetrics(["click"], Slices(["context.tab"], values=3))
    learned(metrics, labels, scores, ids)
    found = samples(metrics)

    rate = labels.mean()
    entropy = log_loss(labels, np.full(3000, rate))
    whole = {"task": "click", "window": "10000"}
    assert value(found, "dolmen_online_auc", **whole) == pytest.approx(roc_auc_score(labels, scores))
    assert value(found, "dolmen_online_normalized_entropy", **whole) == pytest.approx(
        log_loss(labels, scores) / entropy
    )
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    for number in range(10):
        bin = {**whole, "bin": str(number + 1)}
        assert value(found, "dolmen_online_reliability_predicted", **bin) == pytest.approx(predicted[number])
        assert value(found, "dolmen_online_reliability_observed", **bin) == pytest.approx(observed[number])
        assert value(found, "dolmen_online_reliability_examples", **bin) == 300
    error = np.abs(observed - predicted).mean()
    assert value(found, "dolmen_online_calibration_error", **whole) == pytest.approx(error)
    assert value(found, "dolmen_online_calibration_error", task="click", window="all") == pytest.approx(error, abs=0.01)

    for name, part in (*((str(k), ids == k) for k in range(3)), ("other", ids == 3)):
        one = {**whole, "slice": "context.tab", "value": name}
        y, p = labels[part], scores[part]
        assert value(found, "dolmen_slice_examples", **one) == part.sum()
        assert value(found, "dolmen_slice_auc", **one) == pytest.approx(roc_auc_score(y, p))
        assert value(found, "dolmen_slice_logloss", **one) == pytest.approx(log_loss(y, p))
        assert value(found, "dolmen_slice_normalized_entropy", **one) == pytest.approx(
            log_loss(y, p) / log_loss(y, np.full(y.size, y.mean()))
        )
        assert value(found, "dolmen_slice_calibration", **one) == pytest.approx(p.sum() / y.sum())


def test_the_window_is_as_long_as_it_is_told():
    labels, scores = stream(3, 1000)
    metrics = TrainerMetrics(["click"], Slices(["context.tab"]), window=300)
    learned(metrics, labels, scores, np.zeros(1000, dtype=np.int64))
    found = samples(metrics)
    area = roc_auc_score(labels[-300:], scores[-300:])
    assert value(found, "dolmen_online_auc", task="click", window="300") == pytest.approx(area)
    assert area != pytest.approx(roc_auc_score(labels, scores))


def test_a_value_that_left_the_window_is_no_longer_told():
    labels, scores = stream(3, 12_000)
    metrics = TrainerMetrics(["click"], Slices(["context.tab"], values=2))
    learned(metrics, labels[:1000], scores[:1000], np.full(1000, 8))
    assert value(
        samples(metrics), "dolmen_slice_examples", task="click", window="10000", slice="context.tab", value="8"
    )
    learned(metrics, labels[1000:], scores[1000:], np.full(11_000, 9))
    told = {dict(key[1:])["value"] for key in samples(metrics) if key[0] == "dolmen_slice_examples"}
    assert told == {"9"}


def test_what_is_undefined_is_not_told():
    metrics = TrainerMetrics(["click"], Slices(["context.tab"]))
    assert not [key for key in samples(metrics) if "slice" in key[0] or "reliability" in key[0]]
    learned(metrics, np.zeros(20), np.full(20, 0.5), np.zeros(20, dtype=np.int64))
    told = {key[0] for key in samples(metrics) if key[0].startswith("dolmen_slice")}
    assert told == {"dolmen_slice_logloss", "dolmen_slice_examples"}


def test_two_values_of_one_name_are_two_series():
    slices = Slices(["item.id"])
    items = [{"id": "a" * 64 + end, "labels": {"click": 0}} for end in ("x", "y")]
    ids = slices.ids(examples_to_columns([{"ts": 1, "user": {}, "items": items}], slices.sources, ["click"]))[:, 0]
    metrics = TrainerMetrics(["click"], slices)
    learned(metrics, np.array([0.0, 1]), np.array([0.5, 0.5]), ids)
    assert len([key for key in samples(metrics) if key[0] == "dolmen_slice_examples"]) == 2
