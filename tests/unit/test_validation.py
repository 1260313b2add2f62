"""Progressive validation against scikit-learn and plain sums."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from trainer.validation import (
    UNNAMED,
    Bin,
    Progress,
    auc,
    by_value,
    calibration_error,
    log_losses,
    quality,
    reliability,
)


def examples(seed, size=5000, ties=False, rate=0.3):
    rng = np.random.default_rng(seed)
    labels = (rng.random(size) < rate).astype(np.float64)
    scores = 1 / (1 + np.exp(-(rng.normal(size=size) + labels - 1)))
    return labels, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [10, 999, 5000])
def test_auc_is_scikit_learns_with_and_without_ties(size, ties):
    labels, scores = examples(size, size, ties)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_by_hand():
    assert auc(np.array([0, 1.0]), np.array([0.1, 0.2])) == 1.0
    assert auc(np.array([1, 0.0]), np.array([0.1, 0.2])) == 0.0
    assert auc(np.array([1, 0, 1, 0.0]), np.array([0.5] * 4)) == 0.5
    # pairs won: (0.8 > 0.3), (0.3 = 0.3) half; lost: none against 0.3 by 0.2
    assert auc(np.array([1, 1, 1, 0.0]), np.array([0.8, 0.3, 0.2, 0.3])) == pytest.approx(1.5 / 3)


def test_auc_of_one_class_or_of_nothing_is_undefined():
    for labels in ([], [1, 1], [0, 0, 0]):
        assert math.isnan(auc(np.array(labels, dtype=np.float64), np.full(len(labels), 0.5)))


def test_log_loss_is_scikit_learns():
    labels, scores = examples(1)
    assert log_losses(labels, scores).mean() == pytest.approx(log_loss(labels, scores), rel=1e-12)


def test_log_loss_of_certainty_is_finite():
    assert log_losses(np.array([1, 0.0]), np.array([0.0, 1.0])).tolist() == pytest.approx(
        [-math.log(1e-15)] * 2, rel=0.01
    )
    assert log_losses(np.array([1, 0.0]), np.array([1.0, 0.0])).tolist() == pytest.approx([0, 0], abs=1e-14)


def test_log_loss_of_a_label_in_between_is_the_cross_entropy():
    assert log_losses(np.array([0.25]), np.array([0.5]))[0] == pytest.approx(math.log(2))


def test_quality_by_hand():
    found = quality(np.array([1, 0, 0, 0.0]), np.array([0.5, 0.5, 0.25, 0.25]))
    loss = (2 * math.log(2) + 2 * math.log(4 / 3)) / 4
    assert found.auc == pytest.approx(2.5 / 3)
    assert found.log_loss == pytest.approx(loss)
    assert found.normalized_entropy == pytest.approx(loss / (0.25 * math.log(4) + 0.75 * math.log(4 / 3)))
    assert found.calibration == pytest.approx(0.375 / 0.25)


def test_the_base_rate_has_a_normalized_entropy_and_calibration_of_one():
    labels, _ = examples(2)
    found = quality(labels, np.full(labels.size, labels.mean()))
    assert (found.normalized_entropy, found.calibration) == pytest.approx((1.0, 1.0))


def test_quality_is_undefined_where_it_has_no_meaning():
    nothing = quality(np.empty(0), np.empty(0))
    assert all(math.isnan(v) for v in (nothing.auc, nothing.log_loss, nothing.normalized_entropy, nothing.calibration))
    negative = quality(np.zeros(3), np.full(3, 0.5))
    assert negative.log_loss == pytest.approx(math.log(2))
    assert all(math.isnan(v) for v in (negative.auc, negative.normalized_entropy, negative.calibration))


def added(labels, scores, sizes, window):
    progress = Progress(window)
    at = 0
    for size in sizes:
        progress.add(labels[at : at + size].astype(np.float32), scores[at : at + size])
        at += size
    assert at == labels.size
    return progress


@pytest.mark.parametrize("sizes", [[20_000], [1] * 500 + [19_500], [64] * 312 + [32], [7, 19_993], [15_000, 5_000]])
def test_progress_over_everything_is_close_and_over_the_window_exact(sizes):
    labels, scores = examples(3, 20_000)
    progress = added(labels, scores, sizes, window=3000)
    whole, recent = quality(labels, scores), quality(labels[-3000:], scores[-3000:])
    assert progress.count == 20_000
    total = progress.total()
    assert total.auc == pytest.approx(whole.auc, abs=1e-3)
    for name in ("log_loss", "normalized_entropy", "calibration"):
        assert getattr(total, name) == pytest.approx(getattr(whole, name), rel=1e-9)
        assert getattr(progress.recent(), name) == pytest.approx(getattr(recent, name), rel=1e-9)
    assert progress.recent().auc == pytest.approx(roc_auc_score(labels[-3000:], scores[-3000:]), abs=1e-12)


def test_progress_before_the_window_is_full_is_over_what_there_is():
    labels, scores = examples(4, 100)
    progress = added(labels, scores, [60, 40], window=3000)
    assert progress.recent().auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert progress.total().auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)


def test_progress_leaves_absent_labels_out():
    labels, scores = examples(5, 1000)
    gappy = np.repeat(labels, 2)
    gappy[1::2] = np.nan
    progress = added(gappy, np.repeat(scores, 2), [1999, 1], window=500)
    assert progress.count == 1000
    assert progress.recent().log_loss == pytest.approx(log_loss(labels[-500:], scores[-500:]), rel=1e-12)


def test_progress_of_nothing_is_undefined():
    progress = Progress(10)
    progress.add(np.full(3, np.nan, dtype=np.float32), np.full(3, 0.5))
    assert math.isnan(progress.total().auc)
    assert math.isnan(progress.recent().log_loss)


def test_progress_takes_scores_of_zero_and_one():
    progress = Progress(10)
    progress.add(np.array([0, 1, 1, 0], dtype=np.float32), np.array([0.0, 1.0, 0.0, 1.0]))
    assert progress.total().auc == pytest.approx(0.5)
    assert progress.recent().auc == pytest.approx(0.5)


# Reliability


@pytest.mark.parametrize(("seed", "ties"), [(6, False), (7, True), (8, False)])
def test_the_reliability_table_is_scikit_learns_by_quantiles(seed, ties):
    labels, scores = examples(seed, 3001, ties)
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    table = reliability(labels, scores)
    assert [bin.predicted for bin in table] == pytest.approx(predicted.tolist(), rel=1e-12)
    assert [bin.observed for bin in table] == pytest.approx(observed.tolist(), rel=1e-12)
    assert sum(bin.examples for bin in table) == 3001
    if not ties:
        assert {bin.examples for bin in table} <= {300, 301}


def test_equal_scores_are_one_bin():
    assert reliability(np.array([0, 1.0, 1, 1]), np.full(4, 0.25)) == (Bin(0.25, 0.75, 4),)


def test_calibration_error_by_hand():
    table = (Bin(0.2, 0.3, 10), Bin(0.9, 0.7, 30))
    assert calibration_error(table) == pytest.approx((10 * 0.1 + 30 * 0.2) / 40)
    assert math.isnan(calibration_error(reliability(np.empty(0), np.empty(0))))


def test_scores_that_are_the_truth_have_a_small_calibration_error_and_shifted_ones_their_shift():
    rng = np.random.default_rng(9)
    truth = rng.uniform(0.1, 0.6, 200_000)
    labels = (rng.random(truth.size) < truth).astype(np.float64)
    assert calibration_error(reliability(labels, truth)) < 0.006  # four standard errors of a bin's observed share
    assert calibration_error(reliability(labels, truth + 0.2)) == pytest.approx(0.2, abs=0.006)


@pytest.mark.parametrize("sizes", [[20_000], [64] * 312 + [32]])
def test_the_reliability_of_progress_is_exact_over_the_window_and_close_over_everything(sizes):
    labels, scores = examples(10, 20_000)
    progress = added(labels, scores, sizes, window=3000)
    observed, predicted = calibration_curve(labels[-3000:], scores[-3000:], n_bins=10, strategy="quantile")
    recent = progress.recent_reliability()
    assert [bin.predicted for bin in recent] == pytest.approx(predicted.tolist(), rel=1e-12)
    assert [bin.observed for bin in recent] == pytest.approx(observed.tolist(), rel=1e-12)
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    total = progress.total_reliability()
    assert [bin.predicted for bin in total] == pytest.approx(predicted.tolist(), abs=2e-3)
    assert [bin.observed for bin in total] == pytest.approx(observed.tolist(), abs=0.01)
    assert sum(bin.examples for bin in total) == 20_000
    assert Progress(5).total_reliability() == Progress(5).recent_reliability() == ()


# Slices


def test_quality_by_value_is_that_of_each_values_examples_alone():
    labels, scores = examples(11, 4000)
    ids = np.random.default_rng(12).choice([7, -5, 3, 0, 12], 4000, p=[0.5, 0.25, 0.15, 0.06, 0.04])
    rows = by_value(ids, labels, scores, values=3)
    assert [row.id for row in rows] == [7, -5, 3, None]
    for row in rows:
        part = np.isin(ids, [0, 12]) if row.id is None else ids == row.id
        assert row.examples == part.sum()
        assert row.quality.auc == pytest.approx(roc_auc_score(labels[part], scores[part]), abs=1e-12)
        assert row.quality.log_loss == pytest.approx(log_loss(labels[part], scores[part]), rel=1e-12)
        assert row.quality.calibration == pytest.approx(scores[part].sum() / labels[part].sum(), rel=1e-12)


def test_what_belongs_to_no_value_is_among_the_others_however_frequent():
    rows = by_value(np.array([UNNAMED] * 5 + [4, 4, 9]), np.zeros(8), np.full(8, 0.5), values=1)
    assert [(row.id, row.examples) for row in rows] == [(4, 2), (None, 6)]
    assert by_value(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0), 3) == []


def test_progress_by_value_is_that_of_the_window():
    labels, scores = examples(13, 2000)
    ids = np.random.default_rng(14).integers(0, 4, (2000, 2))
    gappy = labels.astype(np.float32)
    gappy[::3] = np.nan
    progress = Progress(500, slices=2)
    for at in range(0, 2000, 64):
        progress.add(gappy[at : at + 64], scores[at : at + 64], ids[at : at + 64])
    last = np.flatnonzero(~np.isnan(gappy))[-500:]
    for row in progress.recent_by_value(1, values=4):
        part = last[ids[last, 1] == row.id]
        assert row.examples == part.size
        assert row.quality.auc == pytest.approx(roc_auc_score(labels[part], scores[part]), abs=1e-12)
