"""metrics.py against hand-worked examples, brute force and scikit-learn. Runs in seconds:

    python -m pytest tests/test_metrics.py

Expected values are written out from the definitions; those of random inputs come from scikit-learn (skipped
where it is not installed) or from a loop over pairs, bins, thresholds or units."""

import ast
import doctest
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import metrics

# A RuntimeWarning of ours is a failure: a nan has a reason instead. scikit-learn's UserWarnings are not.
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore::UserWarning")]

NAN = float("nan")
T, F = True, False
SEEDS = range(4)
KINDS = ("random", "tied", "constant", "absent", "one_class", "single")


def close(value, abs=1e-9):
    return pytest.approx(value, abs=abs, rel=0, nan_ok=True)


def two_columns(p1):
    p1 = np.asarray(p1, np.float64)
    return np.stack([1 - p1, p1], axis=1)


def multiclass_input(kind, n_classes, seed):
    rng = np.random.default_rng([seed, n_classes, KINDS.index(kind)])
    n = 1 if kind == "single" else int(rng.integers(20, 200))
    labels = rng.integers(0, n_classes, n)
    scores = rng.dirichlet(np.ones(n_classes), n)
    if kind == "tied":
        scores = rng.multinomial(10, scores) / 10
    if kind == "constant":
        scores = np.full((n, n_classes), 1 / n_classes)
    if kind == "absent":  # the last class has no case, though it is predicted
        labels = rng.integers(0, max(n_classes - 1, 1), n)
    if kind == "one_class":
        labels = np.full(n, rng.integers(0, n_classes))
    return scores, labels


def multilabel_input(kind, n_labels, seed):
    rng = np.random.default_rng([seed, n_labels, 100 + KINDS.index(kind)])
    n = 1 if kind == "single" else int(rng.integers(20, 200))
    labels = (rng.random((n, n_labels)) < 0.3).astype(np.float64)
    labels[rng.random(labels.shape) < 0.2] = NAN
    scores = rng.random((n, n_labels))
    if kind == "tied":
        scores = np.round(scores, 1)
    if kind == "constant":
        scores[:] = 0.5
    if kind == "absent":
        labels[:, 0] = np.where(np.isnan(labels[:, 0]), NAN, 0)
    if kind == "one_class":
        labels[:, 0] = 1
        labels[:, 1] = NAN
    return scores, labels


@pytest.fixture
def sklearn_metrics():
    return pytest.importorskip("sklearn.metrics")


# ---- worked by hand: confusion matrix ----

# rows 3, 2, 1; columns 2, 2, 2
SMALL = np.array([[2, 1, 0], [0, 1, 1], [0, 0, 1]])


def test_confusion_matrix_has_true_rows_and_predicted_columns():
    matrix = metrics.confusion_matrix(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 2]), 3)
    assert matrix.tolist() == SMALL.tolist()
    assert matrix.dtype == np.int64


def test_confusion_matrix_keeps_classes_that_do_not_occur():
    matrix = metrics.confusion_matrix(np.array([1], np.uint8), np.array([0]), 3)
    assert matrix.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_values_of_a_small_confusion_matrix():
    assert metrics.accuracy(SMALL) == close(4 / 6)
    assert metrics.recall_per_class(SMALL) == close([2 / 3, 1 / 2, 1])
    assert metrics.precision_per_class(SMALL) == close([1, 1 / 2, 1 / 2])
    assert metrics.f1_per_class(SMALL) == close([4 / 5, 2 / 4, 2 / 3])
    assert metrics.mean_of_defined(metrics.recall_per_class(SMALL)) == close(13 / 18)
    assert metrics.mean_of_defined(metrics.f1_per_class(SMALL)) == close(59 / 90)
    chance = (3 * 2 + 2 * 2 + 1 * 2) / 36
    assert metrics.cohen_kappa(SMALL) == close((2 / 3 - chance) / (1 - chance))


@pytest.mark.parametrize(
    "matrix, kappa",
    [
        ([[20, 5], [10, 15]], 0.4),  # observed 35/50, chance (25*30 + 25*20) / 2500 = 1/2
        ([[45, 15], [25, 15]], 3 / 23),  # observed 0.6, chance (60*70 + 40*30) / 10000 = 0.54: 0.06 / 0.46
        ([[3, 0], [0, 4]], 1.0),
        ([[0, 5], [5, 0]], -1.0),
        ([[5, 0], [3, 0]], 0.0),  # always class 0: right as often as chance
        ([[5, 0], [0, 0]], NAN),
        ([[0, 0], [0, 0]], NAN),
    ],
)
def test_kappa_by_hand(matrix, kappa):
    assert metrics.cohen_kappa(np.array(matrix)) == close(kappa)


@pytest.mark.parametrize(
    "matrix, kappa, matthews",
    [
        ([[2, 0, 1], [1, 1, 0], [0, 0, 1]], 1 - 6 * 5 / 50, (6 * 4 - 13) / (36 - 14)),
        ([[0, 0, 3], [0, 0, 0], [3, 0, 0]], -1.0, -18 / 18),
        ([[4, 0], [3, 0]], 0.0, 0.0),  # always class 0
        ([[4, 1], [0, 0]], 0.0, NAN),  # no case of class 1: nothing to correlate with
        ([[4, 0], [0, 0]], NAN, NAN),
        ([[3, 0], [0, 4]], 1.0, 1.0),
    ],
)
def test_weighted_kappa_and_matthews_by_hand(matrix, kappa, matthews):
    """Of the first: rows 3, 2, 1, columns 3, 1, 2; misses weigh 4 + 1, by chance 3 + 24 + 6 + 4 + 12 + 1."""
    assert metrics.quadratic_weighted_kappa(np.array(matrix)) == close(kappa)
    assert metrics.matthews_correlation(np.array(matrix)) == close(matthews)


def test_threshold_at_specificity_by_hand():
    scores, positive = np.array([0.9, 0.7, 0.6, 0.4, 0.2]), np.array([True, False, True, False, False])
    assert metrics.threshold_at_specificity(scores, positive, 0.6) == 0.6  # one of three negatives above
    assert metrics.threshold_at_specificity(scores, positive, 2 / 3) == 0.6
    assert metrics.threshold_at_specificity(scores, positive, 0.7) == 0.9
    assert metrics.threshold_at_specificity(scores, positive, 0.3) == 0.4
    above = metrics.threshold_at_specificity(1 - scores, positive, 0.9)  # a negative has the highest score
    assert 0.8 < above < 0.8 + 1e-12
    for one_class in (True, False):
        assert np.isnan(metrics.threshold_at_specificity(scores, np.full(5, one_class), 0.9))
    for wish in (0.0, 1.5):
        with pytest.raises(ValueError, match="specificity must be in"):
            metrics.threshold_at_specificity(scores, positive, wish)


def test_classes_without_cases_are_nan_and_left_out_of_means():
    matrix = metrics.confusion_matrix(np.array([0, 2, 1]), np.array([0, 0, 1]), 4)
    assert metrics.recall_per_class(matrix) == close([1 / 2, 1, NAN, NAN])
    assert metrics.precision_per_class(matrix) == close([1, 1, 0, NAN])
    assert metrics.f1_per_class(matrix) == close([2 / 3, 1, 0, NAN])  # class 2 was predicted: 0, not nan
    assert metrics.mean_of_defined(metrics.recall_per_class(matrix)) == close(3 / 4)
    assert metrics.mean_of_defined(metrics.f1_per_class(matrix)) == close(5 / 9)


def test_functions_of_a_matrix_take_a_stack_of_them():
    stack = np.random.default_rng(0).integers(0, 9, (4, 5, 2, 2))
    stack[0, 0], stack[1, 1] = 0, [[5, 0], [0, 0]]
    for metric in metrics.METRICS.values():
        if metric.of_calls or metric.needs_threshold:
            found = metric.compute(stack.astype(np.float64))
            assert found == close(np.array([[metric.compute(matrix) for matrix in row] for row in stack]))


# ---- worked by hand: ranking ----


@pytest.mark.parametrize(
    "scores, positive, value",
    [
        ([0.1, 0.4, 0.35, 0.8], [F, F, T, T], 3 / 4),
        ([0.5, 0.5, 0.7], [T, F, F], 1 / 4),  # half of the tie, nothing of 0.7
        ([0.3, 0.3, 0.3, 0.3], [T, F, F, T], 1 / 2),
        ([-5.0, 3.0, 12.0], [F, T, T], 1.0),  # any monotone score
        ([0.9, 0.1], [F, T], 0.0),
        ([0.9, 0.1], [T, T], NAN),
        ([0.9, 0.1], [F, F], NAN),
        ([0.9], [T], NAN),
        ([], [], NAN),
    ],
)
def test_auroc_by_hand(scores, positive, value):
    assert metrics.auroc(np.array(scores), np.array(positive)) == close(value)


@pytest.mark.parametrize("seed", SEEDS)
def test_auroc_counts_pairs(seed):
    rng = np.random.default_rng(seed)
    scores, positive = np.round(rng.random(60), 1), rng.random(60) < 0.4
    gaps = scores[positive][:, None] - scores[~positive][None, :]
    assert metrics.auroc(scores, positive) == close(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


@pytest.mark.parametrize(
    "scores, positive, value",
    [
        # thresholds 0.9, 0.5, 0.1: precision 1, 2/4, 3/5, and a third of the recall each
        ([0.9, 0.5, 0.5, 0.5, 0.1], [T, T, F, F, T], (1 + 1 / 2 + 3 / 5) / 3),
        ([0.9, 0.5, 0.5, 0.5, 0.1], [T, F, F, T, T], (1 + 1 / 2 + 3 / 5) / 3),  # order within a tie: nothing
        ([0.1, 0.8, 0.9], [T, F, T], (1 + 2 / 3) / 2),  # trapezoids would not give this
        ([0.9, 0.8, 0.7, 0.6], [F, T, F, T], (1 / 2 + 2 / 4) / 2),
        ([0.9, 0.8, 0.7], [F, T, T], (1 / 2 + 2 / 3) / 2),  # interpolation would lift the 1/2 to 2/3
        ([0.9, 0.8, 0.7], [F, F, T], 1 / 3),
        ([0.8, 0.9, 0.7, 0.6, 0.5], [F, T, T, F, T], (1 + 2 / 3 + 3 / 5) / 3),
        ([0.5, 0.5, 0.5, 0.5], [F, T, F, F], 1 / 4),
        ([0.5, 0.1], [T, T], 1.0),
        ([0.5, 0.1], [F, F], NAN),
        ([], [], NAN),
    ],
)
def test_average_precision_by_hand(scores, positive, value):
    assert metrics.average_precision(np.array(scores), np.array(positive)) == close(value)


# ---- worked by hand: thresholds ----


def test_rates_call_a_score_at_the_threshold_positive():
    scores, positive = np.array([0.9, 0.5, 0.4, 0.2, 0.5, 0.1]), np.array([T, T, T, F, F, F])
    rates = metrics.binary_rates(scores, positive, 0.5)  # tp 2, fn 1, fp 1, tn 2
    assert rates == {"sensitivity": 2 / 3, "specificity": 2 / 3, "ppv": 2 / 3, "npv": 2 / 3}
    rates = metrics.binary_rates(scores, positive, 0.15)  # tp 3, fn 0, fp 2, tn 1
    assert rates == {"sensitivity": 1, "specificity": 1 / 3, "ppv": 3 / 5, "npv": 1}


@pytest.mark.parametrize(
    "scores, positive, threshold, expected",  # expected: sensitivity, specificity, ppv, npv
    [
        ([0.9, 0.1], [T, F], 2.0, (0, 1, NAN, 1 / 2)),
        ([0.9, 0.1], [T, F], 0.0, (1, 0, 1 / 2, NAN)),
        ([0.9, 0.1], [T, T], 0.5, (1 / 2, NAN, 1, 0)),
        ([0.9, 0.1], [F, F], 0.5, (NAN, 1 / 2, 0, 1)),
        ([0.9, 0.1], [T, F], NAN, (NAN, NAN, NAN, NAN)),
    ],
)
def test_rates_without_cases_are_nan(scores, positive, threshold, expected):
    rates = metrics.binary_rates(np.array(scores), np.array(positive), threshold)
    assert list(rates) == ["sensitivity", "specificity", "ppv", "npv"]
    assert list(rates.values()) == close(list(expected))


@pytest.mark.parametrize(
    "scores, positive, threshold",
    [
        ([0.9, 0.8, 0.7, 0.6, 0.3], [T, T, F, T, F], 0.8),  # J: 1/3, 2/3, 1/6, 1/2, 0
        ([0.9, 0.8, 0.7, 0.6], [T, F, T, F], 0.9),  # J: 1/2, 0, 1/2, 0: the highest of equals
        ([0.2, 0.2], [T, F], 0.2),
        ([0.9, 0.1], [F, T], 0.1),  # J: -1, 0
        ([0.9, 0.1], [T, T], NAN),
        ([0.9, 0.1], [F, F], NAN),
        ([], [], NAN),
    ],
)
def test_youden_threshold_by_hand(scores, positive, threshold):
    assert metrics.youden_threshold(np.array(scores), np.array(positive)) == close(threshold, abs=0)


@pytest.mark.parametrize(
    "sensitivity, threshold", [(0.1, 0.9), (1 / 3, 0.9), (0.34, 0.8), (2 / 3, 0.8), (0.67, 0.6), (1, 0.6)]
)
def test_threshold_at_sensitivity_by_hand(sensitivity, threshold):
    scores, positive = np.array([0.3, 0.6, 0.7, 0.8, 0.9]), np.array([F, T, F, T, T])
    assert metrics.threshold_at_sensitivity(scores, positive, sensitivity) == threshold


def test_threshold_at_sensitivity_reaches_19_of_20():
    scores = np.arange(21) / 20  # one negative at 0, positives at 0.05 to 1
    assert metrics.threshold_at_sensitivity(scores, scores > 0, 0.95) == 0.1


@pytest.mark.parametrize("positive", [[T, T], [F, F]])
def test_threshold_at_sensitivity_needs_both_classes(positive):
    assert np.isnan(metrics.threshold_at_sensitivity(np.array([0.9, 0.1]), np.array(positive), 0.9))


@pytest.mark.parametrize("seed", SEEDS)
def test_thresholds_against_a_search_over_all_scores(seed):
    rng = np.random.default_rng(seed)
    scores, positive = np.round(rng.random(50), 1), rng.random(50) < 0.5
    sensitivity = {t: np.mean(scores[positive] >= t) for t in scores}
    j = {t: sensitivity[t] - np.mean(scores[~positive] >= t) for t in scores}
    best = max(j.values())
    assert metrics.youden_threshold(scores, positive) == max(t for t in j if j[t] > best - 1e-12)
    for wish in (0.3, 0.8, 0.95):
        expected = max(t for t in scores if sensitivity[t] >= wish)
        assert metrics.threshold_at_sensitivity(scores, positive, wish) == expected


# ---- worked by hand: calibration ----


def test_ece_by_hand():
    scores = np.array([[0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [1.0, 0.0]])
    # (0.4, 0.6]: 0.6 right, gap 0.4. (0.6, 0.8]: 0.7 wrong and 0.8 right, gap 0.25, twice. (0.8, 1]: no gap.
    assert metrics.expected_calibration_error(scores, np.array([0, 0, 1, 0]), bins=5) == close(0.9 / 4)
    # one bin: mean confidence 3.1 / 4, accuracy 3 / 4
    assert metrics.expected_calibration_error(scores, np.array([0, 0, 1, 0]), bins=1) == close(0.1 / 4)


def test_ece_has_15_bins_closed_above():
    scores = np.array([[0.6, 0.4], [0.62, 0.38]])  # (8/15, 9/15] and (9/15, 10/15]: gaps 0.4 and 0.62 do not cancel
    assert metrics.expected_calibration_error(scores, np.array([0, 1])) == close((0.4 + 0.62) / 2)
    scores = np.array([[0.61, 0.39], [0.66, 0.34]])  # one bin, (9/15, 10/15]: they do
    assert metrics.expected_calibration_error(scores, np.array([0, 1])) == close((0.66 - 0.39) / 2)


def test_ece_extremes():
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert metrics.expected_calibration_error(sure, np.array([0, 1])) == 0
    assert metrics.expected_calibration_error(sure, np.array([1, 0])) == 1


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_ece_against_a_loop_over_bins(kind, n_classes, bins):
    scores, labels = multiclass_input(kind, n_classes, seed=1)
    confidence, right = scores.max(1), scores.argmax(1) == labels
    expected = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert metrics.expected_calibration_error(scores, labels, bins) == close(expected)


def test_brier_by_hand():
    assert metrics.squared_errors(two_columns([0.3, 0.8]), np.array([1, 1])) == close([0.49, 0.04])
    scores = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    assert metrics.squared_errors(scores, np.array([0, 0])) == close([0.25 + 0.09 + 0.04, 2])
    labels = np.array([[1, NAN, 0], [0, 0, NAN]])
    assert metrics.squared_errors(scores, labels) == close(np.array([[0.25, NAN, 0.04], [0, 0, NAN]]))


# ---- worked by hand: units and videos ----


def test_aggregate_multiclass_mean_and_order_of_first_appearance():
    scores, labels = two_columns([0.2, 0.9, 0.6, 0.5]), np.array([0, 1, 0, 0])
    unit_scores, unit_labels, units = metrics.aggregate(scores, labels, np.array(["b", "a", "b", "c"]), "mean")
    assert units.tolist() == ["b", "a", "c"]
    assert unit_labels.tolist() == [0, 1, 0] and unit_labels.dtype == np.int64
    assert unit_scores == close(two_columns([0.4, 0.9, 0.5]))


def test_aggregate_multiclass_max_stays_a_probability():
    scores, groups = two_columns([0.2, 0.9, 0.6]), np.array([7, 3, 7])
    unit_scores, _, units = metrics.aggregate(scores, np.array([0, 1, 0]), groups, "max")
    assert units.tolist() == [7, 3]
    assert unit_scores == close(two_columns([0.6, 0.9]))
    scores = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    unit_scores, _, _ = metrics.aggregate(scores, np.array([2, 2]), np.array([0, 0]), "max")
    assert unit_scores == close(np.array([[0.4, 0.2, 0.4]]))  # maxima 0.6, 0.3, 0.6 over 1.5


@pytest.mark.parametrize("how, first_unit", [("max", [0.4, 0.8, 0.3]), ("mean", [0.25, 0.5, 0.2])])
def test_aggregate_multilabel_takes_the_known_maximum(how, first_unit):
    scores = np.array([[0.4, 0.2, 0.3], [0.5, 0.5, 0.5], [0.1, 0.8, 0.1]])
    labels = np.array([[NAN, 0, NAN], [NAN, 1, 0], [1, 0, NAN]])
    unit_scores, unit_labels, units = metrics.aggregate(scores, labels, np.array(["x", "y", "x"]), how)
    assert units.tolist() == ["x", "y"]
    assert unit_scores == close(np.array([first_unit, [0.5, 0.5, 0.5]]))
    assert unit_labels == close(np.array([[1, 0, NAN], [NAN, 1, 0]]))


def test_aggregate_names_up_to_three_units_whose_labels_differ():
    groups = np.array(["p1", "p2", "p3", "p4", "p5"] * 2)
    labels = np.array([0, 0, 2, 0, 0, 1, 0, 0, 1, 1])
    with pytest.raises(ValueError) as error:
        metrics.aggregate(np.full((10, 3), 1 / 3), labels, groups, "mean")
    message = str(error.value)
    assert "in 4 of 5 groups: p1 has 0 and 1; p3 has 0 and 2; p4 has 0 and 1; use" in message
    assert "p5" not in message and "p2" not in message


@pytest.mark.parametrize("how, reduce", [("mean", np.mean), ("max", np.max)])
@pytest.mark.parametrize("seed", SEEDS)
def test_aggregate_against_a_loop_over_units(how, reduce, seed):
    scores, labels = multilabel_input("random", 4, seed)
    groups = np.array([f"study{g}" for g in np.random.default_rng(seed).integers(0, 20, len(scores))])
    unit_scores, unit_labels, units = metrics.aggregate(scores, labels, groups, how)
    assert units.tolist() == list(dict.fromkeys(groups.tolist()))
    for row, unit in enumerate(units):
        assert unit_scores[row] == close(reduce(scores[groups == unit], axis=0))
        known = [column[~np.isnan(column)] for column in labels[groups == unit].T]
        assert unit_labels[row] == close([max(column) if len(column) else NAN for column in known])


def video_example():
    # Video a, frames 0, 2, 4. Class 0: 0.9 yes, 0.8 no, 0.1 yes, AP (1 + 2/3) / 2. Class 1: 1. Class 2: none.
    # Video b, frames 1, 3. Class 0: 0.3 yes, 0.6 no, AP 1/2. Classes 1 and 2: none.
    scores = np.array([[0.9, 0.2, 0.5], [0.3, 0.8, 0.5], [0.8, 0.9, 0.5], [0.6, 0.1, 0.5], [0.1, 0.5, 0.5]])
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], np.float64)
    return scores, labels, np.array(["a", "b", "a", "b", "a"])


def video_map(scores, labels, videos, leave_out=()):
    """(value, of each class, over how many)"""
    names = [str(c) for c in range(labels.shape[1])]
    result = metrics.evaluate("multilabel", scores, labels, names, videos=videos, leave_out=leave_out)
    per_class = np.array([result["per_class"][name]["video_ap"] for name in names])
    assert result["reasons"].get("2/video_ap", "no video has the class") == "no video has the class"
    return result["values"]["video_map"], per_class, result["averaged_over"]["video_map"]


def test_video_map_by_hand():
    value, per_class, counted = video_map(*video_example())
    # per class over videos first: (5/6 + 1/2) / 2 and 1; the other order would give 17/24, pooling 0.85
    assert per_class == close(np.array([2 / 3, 1, NAN]))
    assert value == close(5 / 6)
    assert counted == 2


@pytest.mark.parametrize(
    "leave_out, expected, n", [((1,), 2 / 3, 1), ((2,), 5 / 6, 2), ([0, 2], 1, 1), (range(3), NAN, 0)]
)
def test_video_map_leaves_classes_out(leave_out, expected, n):
    value, per_class, counted = video_map(*video_example(), leave_out=leave_out)
    assert value == close(expected)
    assert counted == n
    assert per_class == close(np.array([2 / 3, 1, NAN]))


def test_video_map_ignores_unknown_labels():
    scores, labels, videos = video_example()
    labels[2, 0] = NAN  # without the 0.8 of video a both positives of class 0 come first: AP 1
    value, per_class, _ = video_map(scores, labels, videos)
    assert per_class == close(np.array([(1 + 1 / 2) / 2, 1, NAN]))
    assert value == close(7 / 8)


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("seed", SEEDS)
def test_video_map_equals_sklearn_per_video(sklearn_metrics, kind, seed):
    scores, labels = multilabel_input(kind, 6, seed)
    labels = np.nan_to_num(labels)
    labels[:, 4] = 0
    labels[len(labels) // 3 :, 5] = 0
    videos = np.random.default_rng(seed).integers(0, 4, len(scores))
    per_class = []
    for c in range(6):
        having = [v for v in range(4) if labels[videos == v, c].any()]
        aps = [sklearn_metrics.average_precision_score(labels[videos == v, c], scores[videos == v, c]) for v in having]
        per_class.append(np.mean(aps) if aps else NAN)
    value, ours, counted = video_map(scores, labels, videos, leave_out=[1])
    assert ours == close(np.array(per_class))
    assert value == close(np.mean([per_class[c] for c in (0, 2, 3, 5)]))
    assert counted == 4


# ---- against scikit-learn ----


def sklearn_per_class(score, scores, positive, needs_negative):
    """scikit-learn's value where it defines one, else nan."""
    if not positive.any() or (needs_negative and positive.all()):
        return NAN
    return score(positive, scores)


def mean_of_defined(values):
    values = [v for v in values if not np.isnan(v)]
    return np.mean(values) if values else NAN


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_multiclass_equals_sklearn(sklearn_metrics, kind, n_classes, seed):
    sk = sklearn_metrics
    scores, labels = multiclass_input(kind, n_classes, seed)
    classes, predicted = list(range(n_classes)), scores.argmax(1)
    names = [f"class{c}" for c in classes]
    ours = metrics.evaluate("multiclass", scores, labels, names)
    values, per_class = ours["values"], ours["per_class"]

    assert ours["n"] == len(labels)
    assert ours["confusion_matrix"] == sk.confusion_matrix(labels, predicted, labels=classes).tolist()
    assert values["accuracy"] == close(sk.accuracy_score(labels, predicted))
    assert values["balanced_accuracy"] == close(sk.balanced_accuracy_score(labels, predicted))
    assert values["macro_f1"] == close(sk.f1_score(labels, predicted, average="macro"))
    kappa = NAN
    if len(set(labels) | set(predicted)) > 1:
        kappa = sk.cohen_kappa_score(labels, predicted)
    assert values["kappa"] == close(kappa)
    weighted = sk.cohen_kappa_score(labels, predicted, weights="quadratic") if not np.isnan(kappa) else NAN
    assert values["weighted_kappa"] == close(weighted)
    matthews = sk.matthews_corrcoef(labels, predicted) if len(set(labels)) > 1 else NAN
    assert values["matthews"] == close(matthews)
    predictions, positive = (scores[:, 1], 1) if n_classes == 2 else (scores, None)
    brier = sk.brier_score_loss(labels, predictions, labels=classes, pos_label=positive)
    assert values["brier"] == close(brier)

    columns = sk.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=np.nan)
    for key, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [per_class[name][key] for name in names] == close(column.tolist())
    auroc = [sklearn_per_class(sk.roc_auc_score, scores[:, c], labels == c, True) for c in classes]
    ap = [sklearn_per_class(sk.average_precision_score, scores[:, c], labels == c, False) for c in classes]
    assert [per_class[name]["auroc"] for name in names] == close(auroc)
    assert [per_class[name]["ap"] for name in names] == close(ap)
    assert values["auroc"] == close(auroc[1] if n_classes == 2 else mean_of_defined(auroc))
    assert values["average_precision"] == close(ap[1] if n_classes == 2 else mean_of_defined(ap))


@pytest.mark.parametrize("seed", SEEDS)
def test_macro_auroc_is_sklearn_one_versus_rest(sklearn_metrics, seed):
    scores, labels = multiclass_input("random", 4, seed)
    expected = sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert metrics.evaluate("multiclass", scores, labels, list("abcd"))["values"]["auroc"] == close(expected)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
@pytest.mark.parametrize("kind", ["random", "tied", "one_class"])
@pytest.mark.parametrize("seed", SEEDS)
def test_binary_rates_equal_sklearn(sklearn_metrics, kind, threshold, seed):
    scores, labels = multiclass_input(kind, 2, seed)
    called = (scores[:, 1] >= threshold).astype(int)
    arguments = {"labels": [0, 1], "average": None, "zero_division": np.nan}
    specificity, sensitivity = sklearn_metrics.recall_score(labels, called, **arguments)
    npv, ppv = sklearn_metrics.precision_score(labels, called, **arguments)
    values = metrics.evaluate("multiclass", scores, labels, ["no", "yes"], threshold=threshold)["values"]
    assert [values[k] for k in metrics.RATES] == close([sensitivity, specificity, ppv, npv])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("own_thresholds", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_multilabel_equals_sklearn(sklearn_metrics, kind, own_thresholds, seed):
    sk = sklearn_metrics
    scores, labels = multilabel_input(kind, 5, seed)
    names = list("abcde")
    thresholds = [0.2, 0.9, 0.5, 0.4, 0.7] if own_thresholds else None
    ours = metrics.evaluate("multilabel", scores, labels, names, thresholds=thresholds)
    expected = {"auroc": [], "average_precision": [], "f1": [], "brier": []}
    for c, name in enumerate(names):
        known = ~np.isnan(labels[:, c])
        p, positive = scores[known, c], labels[known, c] == 1
        called = p >= (thresholds[c] if own_thresholds else 0.5)
        expected["auroc"].append(sklearn_per_class(sk.roc_auc_score, p, positive, True))
        expected["average_precision"].append(sklearn_per_class(sk.average_precision_score, p, positive, False))
        f1 = sk.f1_score(positive, called, zero_division=np.nan) if len(p) else NAN
        expected["f1"].append(f1)
        brier = sk.brier_score_loss(positive, p, labels=[False, True], pos_label=True) if len(p) else NAN
        expected["brier"].append(brier)
        entry = ours["per_class"][name]
        assert (entry["n"], entry["support"]) == (len(p), positive.sum())
        assert entry["auroc"] == close(expected["auroc"][c])
        assert entry["ap"] == close(expected["average_precision"][c])
        assert entry["f1"] == close(f1)
    assert list(ours["values"]) == ["auroc", "average_precision", "f1", "brier"]
    for key, column in expected.items():
        assert ours["values"][key] == close(mean_of_defined(column))
        assert ours["averaged_over"][key] == int((~np.isnan(column)).sum())


# ---- evaluate: structure, reasons, thresholds ----


def leaves(tree):
    if type(tree) in (dict, list):
        children = list(tree.values()) if type(tree) is dict else tree
        return [type(k) for k in tree if type(tree) is dict] + [leaf for x in children for leaf in leaves(x)]
    return [type(tree)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", metrics.TASKS)
def test_evaluate_returns_plain_python_with_a_reason_for_every_nan(task, kind):
    if task == "multiclass":
        scores, labels = multiclass_input(kind, 3, seed=0)
    else:
        scores, labels = multilabel_input(kind, 3, seed=0)
    result = metrics.evaluate(task, scores.astype(np.float32), labels, np.array(["a", "b/c", "d"]))
    assert set(leaves(result)) <= {float, int, str}
    assert json.loads(json.dumps(result))["n"] == len(labels)
    named = dict(result["values"])
    for name, entry in result["per_class"].items():
        named |= {f"{name}/{key}": value for key, value in entry.items()}
    assert set(result["reasons"]) == {key for key, value in named.items() if np.isnan(value)}
    assert all(result["reasons"].values())


MULTICLASS_VALUES = (
    "accuracy balanced_accuracy macro_f1 kappa weighted_kappa matthews auroc average_precision ece brier".split()
)


def test_evaluate_binary_by_hand():
    p1, labels = [0.1, 0.6, 0.8, 0.3, 0.4], np.array([0, 0, 1, 1, 1])
    result = metrics.evaluate("multiclass", two_columns(p1), labels, ["benign", "malignant"], threshold=0.35)
    assert list(result["values"]) == MULTICLASS_VALUES + ["sensitivity", "specificity", "ppv", "npv"]
    assert result["confusion_matrix"] == [[1, 1], [2, 1]]  # of the argmax, not of the threshold
    assert result["values"] == close(
        {
            "accuracy": 2 / 5,
            "balanced_accuracy": (1 / 2 + 1 / 3) / 2,
            "macro_f1": (2 / 5 + 2 / 5) / 2,
            "kappa": (10 - 12) / (25 - 12),  # 25 * observed = 5 * 2, 25 * chance = 2*3 + 3*2
            "weighted_kappa": (10 - 12) / (25 - 12),  # two grades have one distance
            "matthews": (1 * 1 - 1 * 2) / 6,  # (tp tn - fp fn) / sqrt(2 * 3 * 2 * 3)
            "auroc": 4 / 6,  # 0.8 wins twice, 0.3 and 0.4 once each
            "average_precision": (1 + 2 / 3 + 3 / 4) / 3,
            # (8/15, 9/15]: 0.6 wrong, 0.6 wrong; (10/15, 11/15]: 0.7 wrong; 0.8 and 0.9 right, each alone
            "ece": (1.2 + 0.7 + 0.2 + 0.1) / 5,
            "brier": (0.01 + 0.36 + 0.04 + 0.49 + 0.36) / 5,
            "sensitivity": 2 / 3,
            "specificity": 1 / 2,
            "ppv": 2 / 3,
            "npv": 1 / 2,
        }
    )
    assert result["per_class"]["malignant"] == close(
        {"recall": 1 / 3, "precision": 1 / 2, "f1": 2 / 5, "auroc": 2 / 3, "ap": 29 / 36, "support": 3}
    )
    assert result["averaged_over"] == {"balanced_accuracy": 2, "macro_f1": 2}
    assert result["reasons"] == {}


def test_evaluate_says_over_how_many_classes_a_mean_runs():
    # classes c, d have no case; c is predicted once, d never
    scores = np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.1, 0.6, 0.1], [0.1, 0.7, 0.1, 0.1]])
    result = metrics.evaluate("multiclass", scores, np.array([0, 0, 1]), list("abcd"))
    assert list(result["values"]) == MULTICLASS_VALUES
    assert result["averaged_over"] == {"balanced_accuracy": 2, "macro_f1": 3, "auroc": 2, "average_precision": 2}
    assert result["values"]["macro_f1"] == close(5 / 9)
    assert result["reasons"] == {
        "c/recall": "no case of the class",
        "c/auroc": "needs both a positive and a negative",
        "c/ap": "needs a positive",
        "d/recall": "no case of the class",
        "d/precision": "the class is never predicted",
        "d/f1": "no case of the class, and it is never predicted",
        "d/auroc": "needs both a positive and a negative",
        "d/ap": "needs a positive",
    }


def test_evaluate_of_one_class_only_is_nan_with_reasons():
    result = metrics.evaluate("multiclass", two_columns([0.2, 0.3]), np.array([0, 0]), ["no", "yes"])
    nans = {key for key, value in result["values"].items() if np.isnan(value)}
    assert nans == {"kappa", "weighted_kappa", "matthews", "auroc", "average_precision", "sensitivity", "ppv"}
    assert {key: result["reasons"][key] for key in nans} == {
        "kappa": "labels and predictions are all of one class",
        "weighted_kappa": "labels and predictions are all of one class",
        "matthews": "labels are all of one class",
        "auroc": "needs both a positive and a negative",
        "average_precision": "needs a positive",
        "sensitivity": "no positive",
        "ppv": "nothing is called positive at this threshold",
    }
    assert result["values"]["specificity"] == 1
    assert result["values"]["accuracy"] == 1


@pytest.mark.parametrize("row, predicted", [([0.5, 0.5], 0), ([0.2, 0.4, 0.4], 1), ([0.4, 0.2, 0.4], 0)])
def test_equal_scores_go_to_the_lowest_class(row, predicted):
    names = list("abc")[: len(row)]
    matrix = metrics.evaluate("multiclass", np.array([row]), np.array([0]), names)["confusion_matrix"]
    assert matrix[0] == [int(c == predicted) for c in range(len(row))]


def test_evaluate_with_a_nan_threshold():
    scores, labels = two_columns([0.2, 0.9]), np.array([0, 1])
    result = metrics.evaluate("multiclass", scores, labels, ["no", "yes"], threshold=NAN)
    assert result["reasons"] == dict.fromkeys(metrics.RATES, "no threshold: it is nan")
    assert result["values"]["accuracy"] == 1
    labels = np.array([[0.0, 1.0], [1.0, 0.0]])
    result = metrics.evaluate("multilabel", scores, labels, ["a", "b"], thresholds=[0.5, NAN])
    assert result["reasons"] == {"b/f1": "no threshold: it is nan"}
    assert result["averaged_over"]["f1"] == 1


def test_evaluate_multilabel_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.4, 0.6, 0.2], [0.7, 0.5, 0.3]])
    labels = np.array([[1, 1, NAN], [1, NAN, NAN], [0, 0, NAN]])
    result = metrics.evaluate("multilabel", scores, labels, ["edema", "nodule", "mass"])
    assert result["n"] == 3
    # edema: 0.9 yes, 0.7 no, 0.4 yes; at 0.5 tp 1, fp 1, fn 1. nodule: 0.5 yes, 0.5 no; tp 1, fp 1
    assert result["per_class"]["edema"] == close({"auroc": 1 / 2, "ap": 5 / 6, "f1": 1 / 2, "support": 2, "n": 3})
    assert result["per_class"]["nodule"] == close({"auroc": 1 / 2, "ap": 1 / 2, "f1": 2 / 3, "support": 1, "n": 2})
    assert result["per_class"]["mass"] == close({"auroc": NAN, "ap": NAN, "f1": NAN, "support": 0, "n": 0})
    brier = ((0.01 + 0.36 + 0.49) / 3 + 0.25) / 2
    expected = {"auroc": 1 / 2, "average_precision": 2 / 3, "f1": 7 / 12, "brier": brier}
    assert result["values"] == close(expected)
    assert result["averaged_over"] == {"auroc": 2, "average_precision": 2, "f1": 2, "brier": 2}
    assert set(result["reasons"]) == {"mass/auroc", "mass/ap", "mass/f1"}
    assert "confusion_matrix" not in result


def test_evaluate_multilabel_without_any_known_label():
    result = metrics.evaluate("multilabel", np.array([[0.5]]), np.array([[NAN]]), ["a"])
    assert all(np.isnan(value) for value in result["values"].values())
    assert result["averaged_over"] == {"auroc": 0, "average_precision": 0, "f1": 0, "brier": 0}
    assert result["reasons"]["brier"] == "defined for no label"


def test_single_precision_scores_are_computed_in_double():
    rng = np.random.default_rng(0)
    single = rng.dirichlet(np.ones(3), 20_000).astype(np.float32)
    labels = rng.integers(0, 3, len(single))
    one_hot = labels[:, None] == np.arange(3)
    exact = np.mean(((single.astype(np.longdouble) - one_hot) ** 2).sum(1))
    values = metrics.evaluate("multiclass", single, labels, list("abc"))["values"]
    assert values["brier"] == close(float(exact), abs=1e-13)
    unit_scores, _, _ = metrics.aggregate(single, np.zeros(len(single), int), np.zeros(len(single), int), "mean")
    assert unit_scores.dtype == np.float64
    assert unit_scores[0] == close([np.mean([float(p) for p in column]) for column in single.T], abs=1e-13)
    # 0.3 in single precision is 0.300000012, and so would 0.30000002 be: only in double is the score below it
    assert metrics.binary_rates(np.float32([0.3, 0.1]), np.array([T, F]), 0.30000002)["sensitivity"] == 0


# ---- the table of metrics ----


@pytest.mark.parametrize("name", [*metrics.METRICS, "of an old run"])
def test_only_calibration_is_better_when_lower(name):
    assert metrics.higher_is_better(name) == (name not in ("ece", "brier"))


def which(query):
    return {name for name, metric in metrics.METRICS.items() if query(metric)}


def test_what_is_asked_of_the_table():
    of_calls = {"accuracy", "balanced_accuracy", "macro_f1", "kappa", "weighted_kappa", "matthews", "precision"}
    assert which(lambda metric: metric.of_calls) == of_calls
    assert which(lambda metric: metric.needs_threshold) == {"f1", "sensitivity", "specificity", "ppv", "npv"}
    assert which(lambda metric: metric.needs_videos) == {"video_map"}
    assert which(lambda metric: not metric.resampled) == {"ece"}
    over_classes = {"balanced_accuracy", "macro_f1", "auroc", "average_precision", "f1", "precision"}
    assert which(lambda metric: metric.needs_every_class) == over_classes
    assert metrics.RATES == ("sensitivity", "specificity", "ppv", "npv")


def test_labels_as_printed():
    labels = {name: metrics.label(name) for name in metrics.METRICS}
    assert labels["macro_f1"] == "macro-F1" and labels["balanced_accuracy"] == "balanced accuracy"
    assert len(set(labels.values())) == len(labels) and all(labels.values())
    columns = [metrics.label(key) for key in ("recall", "precision", "f1", "auroc", "ap", "video_ap")]
    assert columns == ["recall", "precision", "F1", "AUROC", "AP", "video AP"]
    assert metrics.label("of_an_old_run") == "of an old run"


@pytest.mark.parametrize(("task", "n_classes"), [("multiclass", 2), ("multiclass", 3), ("multilabel", 2)])
@pytest.mark.parametrize("video", [False, True])
def test_names_are_those_that_evaluate_gives(task, n_classes, video):
    scores, labels = (multiclass_input if task == "multiclass" else multilabel_input)("random", n_classes, 0)
    videos = np.arange(len(scores)) // 5 if video else None
    result = metrics.evaluate(task, scores, labels, list("abc")[:n_classes], videos=videos)
    assert metrics.names(task, n_classes, video=video) == list(result["values"])
    means = {name for name in result["values"] if metrics.METRICS[name].is_mean(task, n_classes)}
    assert set(result["averaged_over"]) == means


def test_find_names_what_there_is():
    assert metrics.find("ppv", "multiclass", 2).label == "PPV"
    for name, task in (("ppv", "multiclass"), ("precision", "multiclass"), ("kappa", "multilabel")):
        with pytest.raises(ValueError, match=f"unknown metric '{name}' of {task} with 3 classes; choose from .*auroc"):
            metrics.find(name, task, 3)


def test_a_metric_that_is_given_what_there_is_not_is_refused():
    for given, task in (("matrices", "multiclass"), ("matrix", "multilabel")):
        with pytest.raises(ValueError, match=f"metric toy of {task} is given '{given}'; choose from matrix: "):
            metrics.Metric(name="toy", given=given, compute=metrics.accuracy, tasks=(task,))


def test_a_metric_is_added_in_one_place(monkeypatch, sklearn_metrics):
    """Matthews' correlation as a newcomer would: its function and its entry."""

    def matthews(matrix):
        true, called, n = matrix.sum(-1), matrix.sum(-2), matrix.sum((-2, -1))
        right = np.diagonal(matrix, axis1=-2, axis2=-1).sum(-1)
        spread = (n**2 - (true**2).sum(-1)) * (n**2 - (called**2).sum(-1))
        return metrics.ratio(n * right - (true * called).sum(-1), np.sqrt(spread))

    entry = metrics.Metric(name="mcc", given="matrix", compute=matthews, label="MCC", bounds=(-1.0, 1.0))
    monkeypatch.setitem(metrics.METRICS, "mcc", entry)
    scores, labels = multiclass_input("random", 4, 0)
    result = metrics.evaluate("multiclass", scores, labels, list("abcd"))
    assert result["values"]["mcc"] == close(sklearn_metrics.matthews_corrcoef(labels, scores.argmax(1)))
    assert "mcc" in metrics.names("multiclass", 4) and metrics.label("mcc") == "MCC"
    assert metrics.value_range("mcc", "multiclass", 4) == (-1, 1) and metrics.higher_is_better("mcc")
    result = metrics.evaluate("multiclass", scores[:1], labels[:1], list("abcd"))
    assert result["reasons"]["mcc"] == "not defined on these cases"


def test_the_range_of_a_metric_is_reached_and_not_left():
    worst = np.eye(3)[[1, 2, 0]]  # sure, and wrong in each of three
    assert metrics.squared_errors(worst, np.arange(3)).tolist() == [2, 2, 2]
    assert metrics.value_range("brier", "multiclass", 3) == (0, 2)
    turned = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert metrics.squared_errors(turned, np.array([0, 1])).tolist() == [1, 1]
    assert metrics.value_range("brier", "multiclass", 2) == (0, 1)
    assert metrics.value_range("brier", "multilabel", 5) == (0, 1)
    assert metrics.value_range("auroc", "multiclass", 2) == (0, 1)
    assert np.isnan(metrics.value_range("of an old run", "multiclass", 2)).all()
    values = metrics.evaluate("multiclass", turned, np.array([0, 1]), ["a", "b"])["values"]
    assert metrics.value_range("kappa", "multiclass", 2) == (values["kappa"], 1) == (-1, 1)


# ---- bad input ----

GOOD = two_columns([0.2, 0.9, 0.4])
LABELS = np.array([0, 1, 1])
MULTI = np.array([[0.0, 1.0], [1.0, NAN], [0.0, 0.0]])
NAMES = ["no", "yes"]


def changed(array, where, value):
    array = array.copy()
    array[where] = value
    return array


def multiclass(scores, labels, names=NAMES, **settings):
    return metrics.evaluate("multiclass", scores, labels, names, **settings)


def units(groups, how="mean"):
    return metrics.aggregate(GOOD, LABELS, groups, how)


def multilabel(scores, labels, names=NAMES, **settings):
    return metrics.evaluate("multilabel", scores, labels, names, **settings)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.evaluate("multi", GOOD, LABELS, NAMES), r"'multi'; choose from multiclass, multi"),
        (lambda: multiclass(GOOD[:0], LABELS[:0]), r"at least one of each, got shape \(0, 2"),
        (lambda: multilabel(GOOD[:0], MULTI[:0]), r"at least one of each, got shape \(0, 2"),
        (lambda: multiclass(GOOD[:, 1], LABELS), r"\(images, classes\).* got shape \(3,\)"),
        (lambda: multiclass(GOOD[:, :1] * 0 + 1, LABELS, names=["no"]), r"at least two columns, got 1"),
        (lambda: multiclass(changed(GOOD, 1, NAN), LABELS), r"not finite in 1 of 3 rows, first in row 1"),
        (lambda: multilabel(changed(GOOD, 2, np.inf), MULTI), r"not finite in 1 of 3 rows"),
        (lambda: multiclass(changed(GOOD, 1, [0.9, 0.2]), LABELS), r"sum to 1 .*, row 1 sums to 1\.1"),
        (lambda: multiclass(changed(GOOD, 2, [-3.5, 4.5]), LABELS), r"0\.\.1, got .* in row 2"),
        (lambda: multilabel(changed(GOOD, (1, 0), 3.25), MULTI), r"0\.\.1, got 3\.25 in row 1"),
        (lambda: multilabel(changed(GOOD, (1, 0), -0.5), MULTI), r"0\.\.1, got -0\.5 in row 1"),
        (lambda: multiclass(GOOD, np.array([0, 2, 1])), r"labels must be in 0\.\.1, row 1 is 2"),
        (lambda: multiclass(GOOD, np.array([0, 1, -1])), r"in 0\.\.1, row 2 is -1"),
        (lambda: multiclass(GOOD, LABELS * 1.0), r"labels must be int .* got float64"),
        (lambda: multiclass(GOOD, LABELS[:, None]), r"labels must be int of shape \(N,\)"),
        (lambda: multiclass(GOOD, LABELS[:2]), r"2 labels for 3 rows of scores"),
        (lambda: multilabel(GOOD, LABELS), r"scores' shape \(3, 2\), got \(3,\)"),
        (lambda: multilabel(GOOD, changed(MULTI, (0, 0), -1)), r"must be 0, 1 or nan \(unknown\), got -1"),
        (lambda: multiclass(GOOD, LABELS, names=["no"]), r"2 different names, got 1"),
        (lambda: multilabel(GOOD, MULTI, names=["no"]), r"2 different names, got 1"),
        (lambda: multilabel(GOOD, MULTI, videos=LABELS[:2]), r"shape \(3,\), one per row .* got \(2,\)"),
        (lambda: multiclass(GOOD, LABELS, names=["no", "no"]), r"2 different names, got 2: \['no', 'no'\]"),
        (lambda: multilabel(GOOD, MULTI, thresholds=[0.5]), r"1 thresholds for 2 labels"),
        (lambda: multiclass(GOOD, LABELS, thresholds=[0.5, 0.5]), r"one threshold"),
        (lambda: metrics.confusion_matrix(LABELS, LABELS[:2], 2), r"3 predictions for 2 labels"),
        (lambda: metrics.confusion_matrix(LABELS + 1, LABELS, 2), r"predicted must be in 0\.\.1, row 1 is 2"),
        (lambda: metrics.auroc(GOOD, LABELS == 1), r"must both be \(N,\), got \(3, 2\) and \(3,\)"),
        (lambda: metrics.auroc(GOOD[:2, 1], LABELS == 1), r"must both be \(N,\), got \(2,\) and \(3,\)"),
        (lambda: metrics.auroc(np.array([0.1, NAN, NAN]), LABELS == 1), r"not finite in 2 of 3 rows"),
        (lambda: metrics.average_precision(GOOD[:, 1], MULTI[:, 1]), r"bool, got float64: pass labels == 1"),
        (lambda: metrics.threshold_at_sensitivity(GOOD[:, 1], LABELS == 1, 0.0), r"in \(0, 1\], got 0\.0"),
        (lambda: metrics.threshold_at_sensitivity(GOOD[:, 1], LABELS == 1, 95), r"in \(0, 1\], got 95"),
        (lambda: metrics.expected_calibration_error(GOOD, LABELS, bins=0), r"bins must be at least 1, got 0"),
        (lambda: multiclass(GOOD * 2, LABELS), r"must be probabilities in 0\.\.1, got 1\.8 in row 1"),
        (lambda: units(LABELS, "median"), r"unknown aggregation 'median'; choose from mean, max"),
        (lambda: units(["a"]), r"shape \(3,\), one per row .* got \(1,\)"),
        (lambda: units(np.array(["a", None, "b"], object)), r"str or int, got object: is one missing"),
        (lambda: units([1.0, NAN, NAN]), r"groups must be str or int, got float64"),
        (lambda: multilabel(GOOD, MULTI, videos=LABELS, leave_out=[94]), r"class 94: the classes are 0\.\.1"),
    ],
)
def test_bad_input_is_one_line_that_says_what_and_why(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_rows_may_be_off_by_rounding():
    off = changed(GOOD, 0, [0.8005, 0.2])
    assert metrics.evaluate("multiclass", off, LABELS, NAMES)["values"]["accuracy"] == close(2 / 3)
    with pytest.raises(ValueError, match="row 0 sums to 1.002"):
        metrics.evaluate("multiclass", changed(GOOD, 0, [0.802, 0.2]), LABELS, NAMES)


def test_a_confidence_just_above_one_is_in_the_last_bin():
    scores = np.array([[1.0005, 0.0], [0.99, 0.01]])
    assert metrics.expected_calibration_error(scores, np.array([0, 0])) == close(0.01 / 2)


# ---- the file ----


def test_strings_of_any_array_type_are_groups():
    for dtype in (object, str):
        groups = np.array(["b", "a", "b"], dtype)
        _, _, units = metrics.aggregate(GOOD, np.array([1, 0, 1]), groups, "mean")
        assert units.tolist() == ["b", "a"]


def test_imports_numpy_and_the_standard_library_only():
    tree = ast.parse(Path(metrics.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == {"numpy"}


def test_the_example_in_the_header_gives_what_it_says():
    result = doctest.testmod(metrics)
    assert result.attempted == 3
    assert result.failed == 0
