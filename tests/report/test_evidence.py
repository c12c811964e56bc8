"""report/evidence.py: the bootstrap over groups, against loops and numbers worked by hand."""

import json
import math

import numpy as np
import pytest
from factory import right_scores, write_run

from report import evidence, stats
from runs import read_runs, read_scored


def test_a_resample_that_lost_a_class_is_drawn_again():
    """Ten patients, one of whom alone has class 1: without it balanced accuracy is that of class 0 alone."""
    counts = np.array([[3, 0]] * 9 + [[0, 2]])
    plain = stats.resample_groups(10, 2000, seed=0)
    weights, share = evidence.with_all_classes(plain, counts, seed=0)
    assert share == pytest.approx(0.9**10, abs=0.04)  # how often ten draws of ten miss one
    assert (weights[:, 9] > 0).all() and (weights.sum(axis=1) == 10).all()
    expected = 1 / (1 - 0.9**10)  # the mean of a binomial (10, 1/10) that is not 0
    assert weights[:, 9].mean() == pytest.approx(expected, abs=0.06)


def test_where_hardly_a_resample_has_all_classes_the_draws_stay_as_they_are():
    plain = stats.resample_groups(30, 2000, seed=0)
    weights, share = evidence.with_all_classes(plain, np.eye(30), seed=0)
    assert share == 1 and np.array_equal(weights, plain)


@pytest.mark.parametrize("where", ["metric", "second"])
@pytest.mark.parametrize("missing", ["class", "positives of a label", "negatives of a label"])
def test_no_resample_takes_the_mean_over_fewer_classes(tmp_path, missing, where):
    """Of twelve patients one alone has the class (or the label's positives, or negatives) that all is wrong
    about; of the other class (or label) all is right. With both the mean is 0.5, with one of them 1."""
    rare = np.arange(24) >= 22
    if missing == "class":
        labels, scores = rare.astype(int), np.tile([0.8, 0.2], (24, 1))
        kind, name = {}, "balanced_accuracy"
    else:
        common = np.arange(24) % 2
        odd = (rare if missing.startswith("positives") else ~rare).astype(float)
        labels, scores = np.stack([common, odd], 1).astype(float), np.stack([common, 1 - odd], 1) * 0.5 + 0.25
        kind, name = {"task": "multilabel", "classes": ["common", "odd"]}, "auroc"
    groups = [f"p{k // 2:02d}" for k in range(24)]
    write_run(tmp_path, "FT", scores, labels, groups=groups, **kind)
    runs, _ = read_runs(tmp_path)
    asked = (name, "brier") if where == "metric" else ("brier", name)
    resampled, again = evidence.bootstrap(runs, {("FT", (0, 0)): read_scored(runs[0])}, *asked)
    assert again == pytest.approx((11 / 12) ** 12, abs=0.04)  # how often twelve draws of twelve miss one
    assert resampled["FT", (0, 0), name].values == pytest.approx(np.full(evidence.RESAMPLES, 0.5), abs=1e-12)


def test_folds_with_patients_of_their_own_are_resampled_apart(tmp_path):
    """The same 40 answers in three folds of other patients: the mean of three independent means of 40, whose
    standard deviation is that of 120, sqrt(0.7 * 0.3 / 120)."""
    labels, right = np.tile([0, 1], 20), np.arange(40) < 28
    for fold in range(3):
        images = [f"f{fold}-{k:02d}" for k in range(40)]
        write_run(tmp_path, "FT", right_scores(labels, right), labels, fold=fold, images=images)
    runs, _ = read_runs(tmp_path)
    scored = {("FT", run.repeat): read_scored(run) for run in runs}
    resampled, _ = evidence.bootstrap(runs, scored, "accuracy", "brier")
    values = np.stack([resampled["FT", (0, fold), "accuracy"].values for fold in range(3)])
    assert np.abs(np.corrcoef(values) - np.eye(3)).max() < 0.1  # 2,000 pairs: 0.1 is four and a half times their error
    assert values.mean(axis=0).std() == pytest.approx(math.sqrt(0.7 * 0.3 / 120), rel=0.08)


def test_resamples_of_videos_leave_out_the_classes_that_the_metric_leaves_out(tmp_path):
    """a and b are ranked without a fault in each of eight videos, null the wrong way round: mAP 1 without
    null, and (1 + 1 + less than 1) / 3 with it."""
    labels = np.tile([[1.0, 0, 1], [0, 1, 0], [1, 1, 0]], (8, 1))
    scores = 0.25 + 0.5 * labels
    scores[:, 2] = 1 - scores[:, 2]
    videos = [f"v{k // 3}" for k in range(24)]
    kind = {"task": "multilabel", "classes": ["a", "b", "null"], "unit": "video", "units": videos}
    folder = write_run(tmp_path, "FT", scores, labels, groups=videos, **kind)
    for leave_out, full in (([], False), ([2], True)):
        config = json.loads((folder / "config.json").read_text())
        config["data"]["leave_out"] = leave_out
        (folder / "config.json").write_text(json.dumps(config))
        runs, _ = read_runs(tmp_path)
        resampled, _ = evidence.bootstrap(runs, {("FT", (0, 0)): read_scored(runs[0])}, "video_map", "brier")
        # null's one positive a video is last of three: average precision 1/3
        by_hand = 1.0 if full else (1 + 1 + 1 / 3) / 3
        assert resampled["FT", (0, 0), "video_map"].values == pytest.approx(np.full(evidence.RESAMPLES, by_hand))


def test_a_class_that_only_one_patient_has_does_not_bend_the_accuracy(tmp_path):
    """Accuracy needs no class: its resamples are plain ones, and their mean is the estimate."""
    labels = np.array([1] + [0] * 49)
    right = np.arange(50) >= 5  # the one of class 1 is wrong
    write_run(tmp_path, "FT", right_scores(labels, right), labels)
    runs, _ = read_runs(tmp_path)
    scored = {("FT", (0, 0)): read_scored(runs[0])}
    resampled, _ = evidence.bootstrap(runs, scored, "accuracy", "balanced_accuracy")
    assert resampled["FT", (0, 0), "accuracy"].values.mean() == pytest.approx(0.9, abs=0.003)
    plain = stats.resample_groups(50, evidence.RESAMPLES, seed=0)
    assert resampled["FT", (0, 0), "accuracy"].values == pytest.approx(
        plain[:, np.argsort(np.argsort(scored["FT", (0, 0)].images))] @ right / 50
    )
