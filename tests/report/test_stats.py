"""stats.py against metrics.py on the rows as drawn, published examples, brute force, scipy and scikit-learn:

    python -m pytest tests/report/test_stats.py                                        # about 10 seconds

Expected values are written out from the definitions, from the papers, or computed here in another way."""

import ast
import doctest
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import metrics
from report import stats

pytestmark = [pytest.mark.filterwarnings("error")]  # a RuntimeWarning of ours is a failure

NAN = float("nan")
SEEDS = range(3)
KINDS = ("images", "patients", "tied", "rare", "one_class")


def close(value, abs=1e-9):
    return pytest.approx(value, abs=abs, rel=0, nan_ok=True)


def within(value, rel):
    return pytest.approx(value, abs=0, rel=rel)


@pytest.fixture
def scipy_stats():
    return pytest.importorskip("scipy.stats")


def test_imports_numpy_metrics_and_distributions_only():
    tree = ast.parse(Path(stats.__file__).read_text())
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {"metrics", "report.distributions"}
    assert imported - set(sys.stdlib_module_names) - {"collections.abc"} == ours | {"numpy"}


def test_the_example_at_the_top():
    result = doctest.testmod(stats)
    assert (result.failed, result.attempted) == (0, 6)


# ---- the bootstrap ----


def groups_of(kind, rng):
    """(N,) int: the group of each row, shuffled; every group has a row."""
    if kind == "images":
        return rng.permutation(40)
    return rng.permutation(np.repeat(np.arange(12), rng.integers(1, 9, 12)))


def multiclass_input(kind, n_classes, seed):
    rng = np.random.default_rng([seed, n_classes, KINDS.index(kind)])
    group = groups_of(kind, rng)
    n = len(group)
    labels = rng.integers(0, n_classes, n)
    scores = rng.dirichlet(np.ones(n_classes), n)
    if kind == "tied":
        scores = rng.multinomial(4, scores) / 4
    if kind == "rare":  # class 1 in one group only: a third of the resamples lose it
        labels = np.where(group == 3, 1, 0)
    if kind == "one_class":
        labels = np.full(n, n_classes - 1)
    return scores, labels, group


def multilabel_input(kind, n_labels, seed):
    rng = np.random.default_rng([seed, n_labels, 100 + KINDS.index(kind)])
    group = groups_of(kind, rng)
    labels = (rng.random((len(group), n_labels)) < 0.3).astype(np.float64)
    labels[rng.random(labels.shape) < 0.2] = NAN
    scores = rng.random(labels.shape)
    if kind == "tied":
        scores = np.round(scores * 4) / 4
    if kind == "rare":
        labels[:, 0] = group == 3
    if kind == "one_class":
        labels[:, 0], labels[:, 1], labels[:, 2] = 1, NAN, 0
    return scores, labels, group


def rows_as_drawn(group, weights):
    """For each resample the rows, each as often as its group was drawn."""
    return [np.repeat(np.arange(len(group)), w[group]) for w in weights]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_multiclass_metrics_of_resamples_are_those_of_the_rows_as_drawn(kind, n_classes, seed):
    scores, labels, group = multiclass_input(kind, n_classes, seed)
    weights = stats.resample_groups(group.max() + 1, 25, seed)
    names = [str(c) for c in range(n_classes)]
    want = [
        metrics.evaluate("multiclass", scores[rows], labels[rows], names, threshold=0.25)["values"]
        for rows in rows_as_drawn(group, weights)
    ]
    for metric in metrics.names("multiclass", n_classes):
        got = stats.bootstrap_values("multiclass", metric, scores, labels, group, weights, thresholds=[0.25])
        assert got.dtype == np.float64
        assert got == close([values[metric] for values in want]), metric


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_multilabel_metrics_of_resamples_are_those_of_the_rows_as_drawn(kind, seed):
    scores, labels, group = multilabel_input(kind, 4, seed)
    weights = stats.resample_groups(group.max() + 1, 25, seed)
    for thresholds in (None, [0.25, 0.5, NAN, 0.75]):
        want = [
            metrics.evaluate("multilabel", scores[rows], labels[rows], list("abcd"), thresholds=thresholds)
            for rows in rows_as_drawn(group, weights)
        ]
        for metric in metrics.names("multilabel"):
            got = stats.bootstrap_values("multilabel", metric, scores, labels, group, weights, thresholds=thresholds)
            assert got == close([result["values"][metric] for result in want]), metric


@pytest.mark.parametrize("leave_out", [(), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_video_map_of_resamples_is_that_of_the_videos_as_drawn(kind, leave_out):
    scores, labels, video = multilabel_input(kind, 4, 0)
    weights = stats.resample_groups(video.max() + 1, 25)
    want = []
    for w, rows in zip(weights, rows_as_drawn(video, weights), strict=True):
        copy = np.concatenate([np.arange(times) for times in w[video]])  # the copies are videos of their own
        drawn = {"videos": 100 * video[rows] + copy, "leave_out": leave_out}
        result = metrics.evaluate("multilabel", scores[rows], labels[rows], list("abcd"), **drawn)
        want.append(result["values"]["video_map"])
    got = stats.bootstrap_values("multilabel", "video_map", scores, labels, video, weights, leave_out=leave_out)
    assert got == close(want)
    assert np.isnan(got).all() == (len(leave_out) == 4)


def matthews(matrix):
    true, called, n = matrix.sum(-1), matrix.sum(-2), matrix.sum((-2, -1))
    right = np.diagonal(matrix, axis1=-2, axis2=-1).sum(-1)
    spread = (n**2 - (true**2).sum(-1)) * (n**2 - (called**2).sum(-1))
    return metrics.ratio(n * right - (true * called).sum(-1), np.sqrt(spread))


def likelihoods(scores, labels):
    if labels.ndim == 2:
        return np.log(np.abs(labels + scores - 1) + 0.01)
    return np.log(scores[np.arange(len(labels)), labels] + 0.01)


def lead(scores, positive):
    """How much higher positives are scored, on average."""
    both = len(positive) and 0 < positive.mean() < 1
    return scores[positive].mean() - scores[~positive].mean() if both else NAN


TOYS = (  # a metric of every kind, as a newcomer would add it
    ("matrix", matthews, ("multiclass",), ""),
    ("matrix", metrics.precision_per_class, ("multiclass",), "toy"),
    ("matrix at threshold", lambda m: metrics.sensitivity(m) + metrics.specificity(m) - 1, metrics.TASKS, ""),
    ("one class", lead, metrics.TASKS, "toy"),
    ("one class in each video", metrics.auroc, ("multilabel",), "toy"),
    ("one class in each video", lead, ("multilabel",), "toy"),
    ("rows", likelihoods, metrics.TASKS, "toy"),
    ("all rows", lambda scores, labels: scores.var() * np.nanmean(labels), metrics.TASKS, ""),
)


@pytest.mark.parametrize("task", metrics.TASKS)
@pytest.mark.parametrize("toy", TOYS, ids=[f"{given}-{number}" for number, (given, *_) in enumerate(TOYS)])
def test_a_metric_added_to_the_table_is_resampled_as_it_is_defined(monkeypatch, toy, task):
    given, compute, tasks, column = toy
    if task not in tasks:
        pytest.skip(f"{given} is not for {task}")
    entry = metrics.Metric(name="toy", given=given, compute=compute, tasks=tasks, column=column)
    monkeypatch.setitem(metrics.METRICS, "toy", entry)
    for n_classes in (2, 4):
        of_task = multiclass_input if task == "multiclass" else multilabel_input
        scores, labels, group = of_task("patients", n_classes, 0)
        weights = stats.resample_groups(group.max() + 1, 25)
        weights[0, :], weights[1, :] = 0, 1  # no row, and each once
        want = [NAN]
        for w, rows in zip(weights[1:], rows_as_drawn(group, weights[1:]), strict=True):
            copy = np.concatenate([np.arange(times) for times in w[group]])
            videos = 100 * group[rows] + copy if entry.needs_videos else None
            result = metrics.evaluate(task, scores[rows], labels[rows], list("abcd")[:n_classes], videos=videos)
            want.append(result["values"].get("toy"))
        if want[1] is None:
            with pytest.raises(ValueError, match="unknown metric 'toy' of multiclass with 4 classes"):
                stats.bootstrap_values(task, "toy", scores, labels, group, weights)
            continue
        got = stats.bootstrap_values(task, "toy", scores, labels, group, weights)
        assert got == close(want) and not np.isnan(got[1]) and np.nanstd(got) > 0


def test_the_toy_is_gone():
    assert "toy" not in metrics.METRICS


def test_undefined_resamples_are_nan_and_only_those():
    scores = np.array([[0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    labels, group = np.array([0, 1, 0]), np.arange(3)
    weights = np.array([[1, 1, 1], [3, 0, 0], [0, 3, 0], [2, 1, 0]])

    def values(metric):
        return stats.bootstrap_values("multiclass", metric, scores, labels, group, weights)

    assert values("auroc") == close([1, NAN, NAN, 1])
    assert values("sensitivity") == close([1, NAN, 1, 1])
    assert values("specificity") == close([1, 1, NAN, 1])
    assert values("kappa") == close([1, NAN, NAN, 1])
    assert values("balanced_accuracy") == close([1, 1, 1, 1])


def test_chunks_do_not_change_the_values(monkeypatch):
    scores, labels, group = multiclass_input("tied", 3, 0)
    weights = stats.resample_groups(group.max() + 1, 50)
    args = ("multiclass", "auroc", scores, labels, group, weights)
    whole = stats.bootstrap_values(*args)
    sizes = []
    monkeypatch.setattr(stats, "CHUNK_BYTES", 8 * 6 * 7 * len(scores))
    chunks = stats._chunks
    monkeypatch.setattr(stats, "_chunks", lambda *a: (sizes.append(len(w)) or w for w in chunks(*a)))
    assert stats.bootstrap_values(*args).tolist() == whole.tolist()
    assert len(sizes) > 3 and sum(sizes) == 50


def test_resample_groups_draws_as_many_as_there_are():
    weights = stats.resample_groups(30, 4000, seed=3)
    assert weights.shape == (4000, 30) and weights.dtype.kind == "i"
    assert (weights.sum(1) == 30).all() and weights.min() == 0
    # Binomial(30, 1/30) each: the mean over 4,000 is 1 with sd sqrt(29/30/4000) = 0.0155, the variance 29/30
    assert weights.mean(0) == close(np.ones(30), abs=5 * 0.0155)
    assert weights.var() == close(29 / 30, abs=0.03)
    assert (weights == stats.resample_groups(30, 4000, seed=3)).all()
    assert (weights != stats.resample_groups(30, 4000, seed=4)).any()
    assert stats.resample_groups(1, 2).tolist() == [[1], [1]]


CURVE_GRID = np.array([0, 0.07, 0.2, 1 / 3, 0.5, 0.81, 1])


@pytest.mark.parametrize("kind", ["images", "patients", "tied"])
def test_roc_of_resamples_is_that_of_the_rows_as_drawn(kind):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    scores, labels, group = multiclass_input(kind, 2, 1)
    weights = stats.resample_groups(group.max() + 1, 40)
    got = stats.bootstrap_roc(scores[:, 1], labels == 1, group, weights, CURVE_GRID)
    for values, rows in zip(got, rows_as_drawn(group, weights), strict=True):
        fpr, tpr, _ = sklearn_metrics.roc_curve(labels[rows], scores[rows, 1], drop_intermediate=False)
        want = [np.interp(x, fpr, tpr) if x not in fpr else tpr[fpr == x].max() for x in CURVE_GRID]
        assert values == close(want)


def test_roc_by_hand():
    positive = np.array([True, False, True, False])
    grid = np.array([0, 0.25, 0.5, 0.75, 1])
    once, group = np.ones((1, 4), int), np.arange(4)

    def roc(scores):
        return stats.bootstrap_roc(np.array(scores), positive, group, once, grid).tolist()

    assert roc([0.9, 0.8, 0.7, 0.6]) == [close([0.5, 0.5, 1, 1, 1], abs=1e-11)]
    assert roc([0.5, 0.5, 0.5, 0.5]) == [close([0, 0.25, 0.5, 0.75, 1], abs=1e-11)]  # one threshold: chance
    assert roc([0.9, 0.9, 0.7, 0.7]) == [close([0, 0.25, 0.5, 0.75, 1], abs=1e-11)]
    lost = np.array([[2, 0, 2, 0], [0, 2, 0, 2], [1, 1, 1, 1]])
    curves = stats.bootstrap_roc(np.array([0.9, 0.8, 0.7, 0.6]), positive, group, lost, grid)
    assert np.isnan(curves).all(1).tolist() == [True, True, False]


def test_a_grid_point_is_not_below_a_step_by_rounding():
    # ten negatives; between the third and the fourth, a positive: at rate 3/10 the sensitivity is 1
    scores, positive = -np.arange(11.0), np.arange(11) == 3
    grid = np.array([0.3 - 5e-17, 0.1 * 3])
    once = np.ones((1, 11), int)
    assert stats.bootstrap_roc(scores, positive, np.arange(11), once, grid).tolist() == [[1, 1]]


@pytest.mark.parametrize("kind", ["images", "patients", "tied"])
def test_pr_of_resamples_is_the_best_precision_at_the_recall(kind):
    scores, labels, group = multiclass_input(kind, 2, 2)
    weights = stats.resample_groups(group.max() + 1, 40)
    got = stats.bootstrap_pr(scores[:, 1], labels == 1, group, weights, CURVE_GRID)
    for values, rows in zip(got, rows_as_drawn(group, weights), strict=True):
        p, positive = scores[rows, 1], labels[rows] == 1
        points = [((positive & (p >= t)).sum(), (p >= t).sum()) for t in np.unique(p)]
        want = [max(tp / n for tp, n in points if tp >= r * positive.sum()) for r in CURVE_GRID]
        assert values == close(want)


def test_pr_without_a_positive_is_nan():
    weights = np.array([[2, 0], [1, 1]])
    got = stats.bootstrap_pr(np.array([0.2, 0.9]), np.array([False, True]), np.arange(2), weights, CURVE_GRID)
    assert np.isnan(got[0]).all() and (got[1] == 1).all()


# Errors by hand: values of half -1 and half 1 have variance 1, of G groups G / (G - 1) of it.
ONES = np.tile([-1.0, 1.0], 100)


@pytest.mark.parametrize("groups", [2, 6, 10, 40])
def test_a_differences_p_and_interval_are_those_of_t_with_a_degree_of_freedom_less_than_groups(scipy_stats, groups):
    got = stats.group_t([0.11], [0.11 + 0.04 * ONES], [(0, groups)], (-1, 1), difference=True)
    error = 0.04 * math.sqrt(groups / (groups - 1))
    assert (got.estimate, got.standard_error, got.df) == close((0.11, error, groups - 1))
    assert got.p == close(2 * scipy_stats.t.sf(0.11 / error, groups - 1))
    assert (got.low, got.high) == close(scipy_stats.t.interval(0.95, groups - 1, 0.11, error))


def test_the_bootstrap_of_a_mean_gives_the_paired_t_test_over_groups(scipy_stats):
    """Six patients of three images each: the accuracy is a mean, whose classical test is known."""
    each = np.array([0.3, -0.1, 0.2, 0.4, 0.1, 0.0])
    weights = stats.resample_groups(6, 200_000, seed=1)
    got = stats.group_t([each.mean()], [weights @ each / 6], [(0, 6)], (-1, 1), difference=True)
    expected = scipy_stats.ttest_1samp(each, 0)
    assert got.standard_error == within(each.std(ddof=1) / math.sqrt(6), 0.01)
    assert (got.p, got.df) == (within(expected.pvalue, 0.03), 5)


def test_folds_are_scaled_by_their_own_groups_and_their_degrees_of_freedom_add_up(scipy_stats):
    """Three folds of 3, 5 and 9 groups, two seeds in the first: the folds weigh 2, 1 and 1 quarters."""
    a, b, c = np.tile([-1.0, 1.0], 4), np.tile([-1.0, -1.0, 1.0, 1.0], 2), np.repeat([-1.0, 1.0], 4)
    drawn = [(0, 3), (0, 3), (1, 5), (2, 9)]
    values = [0.02 * a, 0.04 * a, 0.05 * b, 0.06 * c]
    got = stats.group_t([0.1, 0.2, 0.3, 0.0], values, drawn, (-1, 1), difference=True)
    parts = [(0.5 * 0.03) ** 2 * 3 / 2, (0.25 * 0.05) ** 2 * 5 / 4, (0.25 * 0.06) ** 2 * 9 / 8]
    error = math.sqrt(sum(parts))
    assert (got.estimate, got.standard_error) == close((0.15, error))
    welch = sum(parts) ** 2 / sum(v**2 / (g - 1 + 2) for v, g in zip(parts, (3, 5, 9), strict=True)) - 2
    assert welch < 2 + 4 + 8 and got.df == close(welch)
    assert got.p == close(2 * scipy_stats.t.sf(0.15 / error, welch))
    alike = stats.group_t([0.1] * 10, [0.03 * ONES] * 10, [(f, 4) for f in range(10)], (-1, 1), difference=True)
    assert alike.df == 30 and alike.standard_error == close(0.03 * math.sqrt(4 / 3 / 10))
    one = stats.group_t([0.1] * 3, [0.03 * ONES, 0 * ONES, 0 * ONES], [(f, 4) for f in range(3)], (-1, 1))
    assert one.df == close(3)  # the other two folds say nothing of how sure the spread of the first is


@pytest.mark.parametrize("estimate", [0.0, 0.25, -0.1])
@pytest.mark.parametrize("noise", [0.0, 1e-17])
def test_resamples_that_do_not_vary_prove_no_difference(estimate, noise):
    got = stats.group_t([estimate], [estimate + noise * ONES], [(0, 6)], (-1, 1), difference=True)
    assert (got.p, got.standard_error, got.df) == (1, 0, 5)
    assert np.isnan([got.low, got.high]).all()


@pytest.mark.parametrize(
    ("x", "bounds"), [(0.97, (0, 1)), (0.5, (0, 1)), (0.02, (0, 1)), (0.94, (-1, 1)), (0.1, (0, 2))]
)
def test_a_levels_interval_is_one_of_t_on_the_logit_scale(scipy_stats, x, bounds):
    got = stats.group_t([x], [x + 0.01 * ONES], [(0, 8)], bounds)
    span = bounds[1] - bounds[0]
    share, error = (x - bounds[0]) / span, 0.01 * math.sqrt(8 / 7) / span
    reach = scipy_stats.t.ppf(0.975, 7) * error / (share * (1 - share))
    ends = [1 / (1 + math.exp(-(math.log(share / (1 - share)) + way * reach))) for way in (-1, 1)]
    assert (got.low, got.high) == close(tuple(bounds[0] + span * end for end in ends))
    assert bounds[0] < got.low < x < got.high < bounds[1] and math.isnan(got.p)


@pytest.mark.parametrize(("right", "groups"), [(1.0, 6), (1.0, 40), (0.0, 10), (0.5, 12)])
def test_a_level_that_never_varies_has_the_score_interval_of_its_groups(scipy_stats, right, groups):
    """Wilson 1927: the shares theta for which |right - theta| <= t sqrt(theta (1 - theta) / G)."""
    got = stats.group_t([right], [np.full(50, right)], [(0, groups)], (0, 1))
    t = scipy_stats.t.ppf(0.975, groups - 1)
    theta = np.linspace(0, 1, 1_000_001)
    inside = theta[(right - theta) ** 2 <= t**2 * theta * (1 - theta) / groups + 1e-15]
    assert (got.low, got.high) == close((inside[0], inside[-1]), abs=2e-6)


def test_a_differences_interval_ends_where_the_metric_does():
    got = stats.group_t([0.9], [0.9 + 0.1 * ONES], [(0, 6)], (-1, 1), difference=True)
    assert got.high == 1 and 0.5 < got.low < 0.9
    got = stats.group_t([-1.9], [-1.9 + 0.1 * ONES], [(0, 6)], (-2, 2), difference=True)
    assert got.low == -2


@pytest.mark.parametrize("seed", SEEDS)
def test_p_is_below_five_percent_exactly_where_the_interval_excludes_no_difference(seed):
    rng, seen = np.random.default_rng(seed), set()
    for _ in range(200):
        folds, estimate = int(rng.integers(1, 4)), rng.normal(0, 0.1)
        drawn = [(f, int(rng.integers(2, 9))) for f in range(folds)]
        values = [rng.normal(0, rng.uniform(0.01, 0.1), 100) for _ in drawn]
        got = stats.group_t([estimate] * folds, values, drawn, (-1, 1), difference=True)
        excludes = got.low > 0 or got.high < 0
        assert excludes == (got.p < 0.05)
        seen.add(excludes)
    assert seen == {True, False}


def test_what_is_undefined_stays_so():
    def of(estimates, values, drawn):
        got = stats.group_t(estimates, values, drawn, (-1, 1), difference=True)
        return got.estimate, got.standard_error, got.p, got.low

    half, fewer = np.r_[ONES, np.full(200, NAN)], np.r_[ONES, np.full(201, NAN)]
    assert of([0.1], [half], [(0, 2)])[1] == close(math.sqrt(2))  # of what is defined: just half of it
    assert of([0.1], [fewer], [(0, 6)]) == close((0.1, NAN, NAN, NAN))
    assert of([0.1], [ONES], [(0, 1)]) == close((0.1, NAN, NAN, NAN))
    one_group = of([0.1, 0.3], [ONES, ONES], [(0, 6), (1, 1)])  # in a fold
    assert one_group == close((0.2, NAN, NAN, NAN))
    assert of([], [], []) == of([NAN], [fewer], [(0, 6)]) == close((NAN, NAN, NAN, NAN))
    without_a_run = of([0.1, NAN], [ONES, fewer], [(0, 2), (1, 2)])
    assert without_a_run[:2] == close((0.1, math.sqrt(2)))


# ---- paired tests on the same images ----


def discordant(only_a, only_b, both=7, neither=3):
    a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    return a, np.repeat([False, True, True, False], [only_a, only_b, both, neither])


def test_mcnemar_by_hand():
    result = stats.mcnemar(*discordant(1, 9))
    assert (result.only_a, result.only_b, result.statistic) == (1, 9, 1)
    assert result.p == close(2 * (1 + 10) / 1024)
    assert result.method == "exact binomial"
    result = stats.mcnemar(*discordant(30, 10))
    assert result.statistic == close(19**2 / 40)
    assert result.method == "chi-square, continuity corrected"
    assert stats.mcnemar(*discordant(5, 5)).p == 1
    assert stats.mcnemar(*discordant(20, 20)).p == 1
    nothing = stats.mcnemar(*discordant(0, 0))
    assert (nothing.p, nothing.statistic, nothing.method) == (1, 0, "exact binomial")


@pytest.mark.parametrize("only_a, only_b", [(0, 1), (3, 0), (5, 8), (0, 24), (12, 12), (23, 1)])
def test_exact_mcnemar_agrees_with_scipy(scipy_stats, only_a, only_b):
    want = scipy_stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert stats.mcnemar(*discordant(only_a, only_b)).p == within(want, 1e-9)


@pytest.mark.parametrize("only_a, only_b", [(0, 25), (12, 13), (40, 20), (300, 200), (1, 999)])
def test_large_mcnemar_agrees_with_scipy(scipy_stats, only_a, only_b):
    want = scipy_stats.chi2.sf((abs(only_a - only_b) - 1) ** 2 / (only_a + only_b), 1)
    assert stats.mcnemar(*discordant(only_a, only_b)).p == within(want, 1e-9)


def delong_by_placements(scores_a, scores_b, positive):
    """DeLong et al. 1988, eq. 1 to 6, over all pairs: difference and standard error."""
    kernels = [
        np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in s[~positive]] for x in s[positive]])
        for s in (scores_a, scores_b)
    ]
    m, n = kernels[0].shape
    theta = [k.mean() for k in kernels]
    s10, s01 = (np.cov([k.mean(axis) for k in kernels]) for axis in (1, 0))
    s = s10 / m + s01 / n
    contrast = np.array([1, -1])
    return theta, math.sqrt(contrast @ s @ contrast)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_delong_agrees_with_placements_over_all_pairs(scipy_stats, seed, ties):
    rng = np.random.default_rng(seed)
    n = 60 + 20 * seed
    positive = rng.random(n) < 0.3
    a, b = positive + rng.normal(0, 1, n), 0.5 * positive + rng.normal(0, 1, n)
    if ties:
        a, b = np.round(a), np.round(2 * b)
    (auroc_a, auroc_b), error = delong_by_placements(a, b, positive)
    got = stats.delong(a, b, positive)
    assert (got.auroc_a, got.auroc_b) == close((auroc_a, auroc_b), abs=1e-12)
    assert (got.auroc_a, got.auroc_b) == close((metrics.auroc(a, positive), metrics.auroc(b, positive)))
    assert got.difference == close(auroc_a - auroc_b, abs=1e-12)
    assert got.standard_error == close(error, abs=1e-12)
    assert got.z == close((auroc_a - auroc_b) / error)
    assert got.p == close(2 * scipy_stats.norm.sf(abs(auroc_a - auroc_b) / error))
    low, high = scipy_stats.norm.interval(0.95, auroc_a - auroc_b, error)
    assert (got.low, got.high) == close((low, high))
    assert got.reason == ""


def test_delong_does_not_change_with_order_scale_or_sides():
    rng = np.random.default_rng(0)
    positive = rng.random(50) < 0.5
    a, b = rng.random(50), rng.random(50)
    one, other = stats.delong(a, b, positive), stats.delong(b, a, positive)
    assert (one.z, one.p) == close((-other.z, other.p), abs=1e-14)
    order = rng.permutation(50)
    assert stats.delong(np.exp(a)[order], 3 * b[order] - 5, positive[order]).p == close(one.p, abs=1e-14)


# DeLong, DeLong and Clarke-Pearson's own example (1988), the 43 ovarian cancer patients without a missing
# test: albumin, total protein, Krebs-Goplerud score, and the outcome as SAS codes it (popind).
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


@pytest.mark.parametrize(
    ("column", "auroc", "estimate", "error", "low", "high", "chi2", "p"),
    [
        (0, 0.7366, 0.0108, 0.0953, -0.1761, 0.1976, 0.0127, 0.9102),
        (1, 0.6478, -0.0780, 0.1046, -0.2830, 0.1271, 0.5554, 0.4561),
    ],
)
def test_delong_on_the_papers_own_data(column, auroc, estimate, error, low, high, chi2, p):
    """The data are those of SAS/STAT's example "Comparing Receiver Operating Characteristic Curves" (PROC
    LOGISTIC); the numbers, areas and contrasts with the K-G score to four digits, are held against all pairs
    counted one by one."""
    table = np.array(OVARIAN.split(), float).reshape(-1, 4)
    got = stats.delong(table[:, column], 10 - table[:, 2], table[:, 3] == 1)
    assert len(table) == 43 and got.auroc_b == pytest.approx(0.7258, abs=5e-5)
    published = {"auroc_a": auroc, "difference": estimate, "standard_error": error, "low": low, "high": high, "p": p}
    assert {name: getattr(got, name) for name in published} == pytest.approx(published, abs=6e-5)
    assert got.z**2 == pytest.approx(chi2, abs=6e-5)
    areas, counted = delong_by_placements(table[:, column], 10 - table[:, 2], table[:, 3] == 1)
    assert [*areas, counted] == pytest.approx([auroc, 0.7258, error], abs=6e-5)


def test_delong_by_hand():
    # placements of the two positives: a 1 and 1/2, b 1/2 and 1; of the two negatives: a 1 and 1/2, b 1/2, 1
    positive = np.array([True, True, False, False])
    result = stats.delong(np.array([4.0, 2, 1, 3]), np.array([2.0, 4, 3, 1]), positive)
    assert (result.auroc_a, result.auroc_b, result.difference) == (0.75, 0.75, 0)
    # differences +-1/2 in both classes: variances 1/2, 1/2/2 + 1/2/2 = 1/2
    assert result.standard_error == close(math.sqrt(1 / 2))
    assert (result.z, result.p) == (0, 1)


def test_delong_without_variance():
    positive = np.array([True, True, True, False, False])
    perfect, scores = np.array([5.0, 4, 3, 2, 1]), np.array([5.0, 1, 3, 2, 1])
    for a, b in ((perfect, perfect**2), (scores, scores + 1)):
        result = stats.delong(a, b, positive)
        assert (result.difference, result.standard_error, result.z, result.p) == (0, 0, 0, 1)
        assert (result.low, result.high) == (0, 0)
    result = stats.delong(perfect, -perfect, positive)
    assert (result.difference, result.standard_error) == (1, 0)
    assert [getattr(result, k) for k in ("z", "p", "low", "high")] == close([NAN] * 4)
    assert "variance is 0" in result.reason


def test_delong_without_cases():
    scores = np.arange(4.0)
    for positive in (np.ones(4, bool), np.zeros(4, bool)):
        result = stats.delong(scores, -scores, positive)
        assert "needs both classes" in result.reason
        assert all(math.isnan(value) for value in list(vars(result).values())[:8])
    result = stats.delong(scores, -scores, scores == 3)
    assert (result.auroc_a, result.auroc_b, result.p) == close((1, 0, NAN))
    assert "1 positives and 3 negatives" in result.reason


def test_holm_by_hand():
    # Holm: the smallest of four times 4, the next times 3, ...; never less than the one before, at most 1
    assert stats.holm(np.array([0.01, 0.04, 0.03, 0.005])) == close([0.03, 0.06, 0.06, 0.02])
    assert stats.holm(np.array([0.6, 0.5])) == close([1, 1])
    assert stats.holm(np.array([0.02, NAN, 0.03])) == close([0.04, NAN, 0.04])
    assert stats.holm(np.array([0.01])) == close([0.01])
    assert stats.holm(np.array([0.02, 0.02, 0.02])) == close([0.06, 0.06, 0.06])
    assert stats.holm(np.array([NAN, NAN])) == close([NAN, NAN])
    assert stats.holm(np.array([])).shape == (0,)


# ---- over folds ----


def test_corrected_resampled_t_by_hand(scipy_stats):
    # five folds: mean 0.03, sum of squares 0.001, s^2 = 0.00025; (1/5 + 1/4) s^2 = 0.0001125
    result = stats.corrected_resampled_t(np.array([0.01, 0.02, 0.03, 0.04, 0.05]), 1 / 4)
    error = math.sqrt(0.0001125)
    assert (result.n, result.df) == (5, 4)
    assert (result.mean, result.sd, result.t) == close((0.03, math.sqrt(0.00025), 0.03 / error))
    assert result.p == close(2 * scipy_stats.t.sf(0.03 / error, 4))
    assert (result.low, result.high) == close(scipy_stats.t.interval(0.95, 4, 0.03, error))
    assert result.reason == ""


def test_corrected_resampled_t_is_the_paired_t_test_without_the_correction(scipy_stats):
    d = np.random.default_rng(0).normal(-0.5, 1, 12)
    want = scipy_stats.ttest_1samp(d, 0)
    got = stats.corrected_resampled_t(d, 1e-15)
    assert (got.t, got.p) == close((want.statistic, want.pvalue))
    assert stats.corrected_resampled_t(d, 0.25).p > got.p


def test_corrected_resampled_t_without_cases():
    for d in ([], [0.3]):
        result = stats.corrected_resampled_t(np.array(d), 0.25)
        assert (result.n, result.p, result.t, result.low) == close((len(d), NAN, NAN, NAN))
        assert f"got {len(d)}" in result.reason
    result = stats.corrected_resampled_t(np.zeros(5), 0.25)
    assert [getattr(result, k) for k in ("mean", "t", "p", "low", "high")] == [0, 0, 1, 0, 0]
    for d in ([0.5] * 5, [0.9 - 0.8, 0.8 - 0.7, 0.7 - 0.6]):  # the latter differ by rounding only
        result = stats.corrected_resampled_t(np.array(d), 0.25)
        assert (result.p, result.t, result.sd) == close((NAN, NAN, 0))
        assert "variance is 0" in result.reason


def wilcoxon_by_enumeration(d):
    """Two-sided p: the share of all sign patterns whose smaller rank sum is at most the observed one."""
    size = np.abs(d)
    rank = np.array([(size < s).sum() + ((size == s).sum() + 1) / 2 for s in size])
    signs = np.array(list(itertools.product([0, 1], repeat=len(d))))
    sums = signs @ rank
    smaller = np.minimum(sums, rank.sum() - sums)
    observed = min(rank[d > 0].sum(), rank[d < 0].sum())
    return observed, (smaller <= observed).mean()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n", [6, 9, 13])
def test_wilcoxon_with_ties_agrees_with_all_sign_flips(n, seed):
    rng = np.random.default_rng([n, seed])
    d = rng.integers(1, 6, n) * rng.choice([-1.0, 1.0, 1.0], n)
    statistic, p = wilcoxon_by_enumeration(d)
    got = stats.wilcoxon(np.r_[d, 0, 0] / 7)
    assert (got.n, got.statistic, got.method) == (n, statistic, "exact")
    assert got.p == close(p, abs=1e-14)


@pytest.mark.parametrize("n", [6, 10, 25, 50])
def test_exact_wilcoxon_agrees_with_scipy(scipy_stats, n):
    d = np.random.default_rng(n).normal(0.3, 1, n)
    want = scipy_stats.wilcoxon(d, method="exact")
    got = stats.wilcoxon(d)
    assert (got.statistic, got.p, got.method) == (want.statistic, within(want.pvalue, 1e-9), "exact")


@pytest.mark.parametrize("tied", [False, True])
def test_wilcoxon_of_many_agrees_with_scipy(scipy_stats, tied):
    d = np.random.default_rng(1).normal(0.2, 1, 80)
    d = np.round(2 * d) if tied else d
    d = d[d != 0]
    assert len(d) > 50
    want = scipy_stats.wilcoxon(d, method="approx", correction=False)
    got = stats.wilcoxon(d)
    assert (got.statistic, got.p) == (want.statistic, within(want.pvalue, 1e-9))
    assert got.method == "normal approximation"


def test_wilcoxon_of_few():
    five = stats.wilcoxon(np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert (five.n, five.p, five.smallest_p, five.statistic) == close((5, NAN, 0.0625, 0))
    assert five.reason == "with 5 pairs the smallest p is 0.0625, above 0.05"
    six = stats.wilcoxon(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert six.p == six.smallest_p == 2 / 64 and six.reason == ""
    assert stats.wilcoxon(np.array([0.1, 0, 0.3, 0.4, 0.5, 0.6])).n == 5
    for d in ([], [0.0, 0.0]):
        none = stats.wilcoxon(np.array(d))
        assert (none.n, none.p) == close((0, NAN)) and none.reason == "no difference"
    assert stats.wilcoxon(np.array([-0.2])).smallest_p == 1


def test_wilcoxon_takes_differences_that_rounding_makes_unequal_for_ties():
    exact = stats.wilcoxon(np.array([1, 1, -1, 1, 2, 3, -2.0]))
    floats = np.array([0.9 - 0.8, 0.8 - 0.7, 0.6 - 0.7, 0.4 - 0.3, 0.9 - 0.7, 0.6 - 0.3, 0.1 - 0.3])
    assert len(np.unique(np.abs(floats))) > 3
    assert stats.wilcoxon(floats) == exact
    assert stats.wilcoxon(np.r_[floats, 0.1 + 0.2 - 0.3]).n == 7  # 5.6e-17 is no difference


# ---- over datasets ----

# Demsar 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf. The paper prints three digits and ranks the
# wine data's two 0.975 second and third, so they differ further on: hence 0.97501.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_friedman_of_demsar_s_example(scipy_stats):
    result = stats.friedman(DEMSAR)
    assert np.round(result.average_ranks, 3).tolist() == [3.143, 2.000, 2.893, 1.964]
    assert (round(result.chi2, 2), round(result.f, 2)) == (9.28, 3.69)
    assert (result.df, result.f_df) == (3, (3, 39))
    assert result.f > 2.85  # the critical value at 0.05 that the paper gives
    assert result.p == within(scipy_stats.chi2.sf(result.chi2, 3), 1e-9)
    assert result.f_p == within(scipy_stats.f.sf(result.f, 3, 39), 1e-9)
    losses = stats.friedman(1 - DEMSAR, higher_is_better=False)
    assert losses.chi2 == result.chi2


def test_nemenyi_of_demsar_s_example():
    assert round(stats.nemenyi_cd(4, 14), 2) == 1.25
    assert round(stats.nemenyi_cd(4, 14, alpha=0.10), 2) == 1.12
    worst, second, _, best = stats.average_ranks(DEMSAR)
    assert worst - best < stats.nemenyi_cd(4, 14)
    assert worst - second > stats.nemenyi_cd(4, 14, alpha=0.10)


@pytest.mark.parametrize("alpha", [0.05, 0.10])
@pytest.mark.parametrize("k", range(2, 21))
def test_nemenyi_agrees_with_the_studentized_range(scipy_stats, k, alpha):
    q = scipy_stats.studentized_range.ppf(1 - alpha, k, 1e6) / math.sqrt(2)
    assert stats.nemenyi_cd(k, 20, alpha) == close(
        q * math.sqrt(k * (k + 1) / 120), abs=6e-4 * math.sqrt(k * (k + 1) / 120)
    )
    assert stats.NEMENYI_Q[alpha][k] == close(q, abs=1.1e-3)  # the table's third digit is not always rounded


def test_friedman_agrees_with_scipy_without_ties(scipy_stats):
    table = np.random.default_rng(0).normal(size=(12, 5)) + np.arange(5) / 3
    want = scipy_stats.friedmanchisquare(*table.T)
    got = stats.friedman(table)
    assert (got.chi2, got.p) == close((want.statistic, want.pvalue))
    assert got.f == close(11 * got.chi2 / (12 * 4 - got.chi2))
    assert got.f_p == close(scipy_stats.f.sf(got.f, 4, 44))


def test_below_five_datasets_iman_and_davenport_s_f_has_no_p():
    table = np.random.default_rng(0).normal(size=(5, 3))
    assert math.isfinite(stats.friedman(table).f_p)
    few = stats.friedman(table[:4])
    assert math.isnan(few.f_p) and math.isfinite(few.f) and math.isfinite(few.p)


def test_friedman_without_cases():
    tied = stats.friedman(np.full((5, 3), 0.8))
    assert [getattr(tied, k) for k in ("chi2", "p", "f", "f_p")] == [0, 1, 0, 1]
    assert tied.average_ranks.tolist() == [2, 2, 2]
    agreed = stats.friedman(np.tile([0.7, 0.9, 0.8], (7, 1)))
    assert (agreed.chi2, agreed.f, agreed.f_p) == (14, math.inf, 0)
    assert agreed.p == within(math.exp(-7), 1e-12)  # chi-square with two degrees of freedom
    for table in (np.array([[0.1, 0.2, 0.3]]), np.ones((4, 1))):
        result = stats.friedman(table)
        assert [getattr(result, k) for k in ("chi2", "p", "f", "f_p")] == close([NAN] * 4)
        assert "needs two datasets and two methods" in result.reason


def test_ranks_by_hand():
    table = np.array([[0.9, 0.8, 0.7], [0.5, 0.5, 0.6], [0.1, 0.1, 0.1]])
    assert stats.ranks(table).tolist() == [[1, 2, 3], [2.5, 2.5, 1], [2, 2, 2]]
    assert stats.ranks(table, higher_is_better=False).tolist() == [[3, 2, 1], [1.5, 1.5, 3], [2, 2, 2]]
    assert stats.average_ranks(table) == close([5.5 / 3, 6.5 / 3, 2])


def test_ranks_agree_with_scipy(scipy_stats):
    table = np.random.default_rng(0).integers(0, 5, (30, 7)) / 5
    assert stats.ranks(table).tolist() == scipy_stats.rankdata(-table, axis=1).tolist()


# ---- bad input ----

ONE = np.array([[1, 1]])
TWO = np.array([[0.4, 0.6], [0.9, 0.1]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: stats.resample_groups(0), "at least one group and one resample, got 0 and 2000"),
        (lambda: stats.resample_groups(3, 0), "got 3 and 0"),
        (lambda: boot("multiclas", "auroc"), "unknown task 'multiclas'; choose from multiclass, multilabel"),
        (lambda: boot(metric="aucroc"), "metric 'aucroc' of multiclass with 2 classes; choose from acc"),
        (lambda: boot("multiclass", "video_map"), "unknown metric 'video_map'"),
        (lambda: boot(scores=TWO[0]), r"got shape \(2,\)"),
        (lambda: boot(scores=TWO * NAN), "finite"),
        (lambda: boot(labels=[0, 2]), r"labels must be in 0\.\.1, row 1 is 2"),
        (lambda: boot(labels=[0.0, 1.0]), "float64"),
        (lambda: boot(labels=[0, 1, 1]), r"3 labels for 2 rows"),
        (lambda: boot(group=[0, 2]), r"groups are 0\.\.1, got 0\.\.2"),
        (lambda: boot(group=[0, -1]), r"got -1\.\.0"),
        (lambda: boot(group=[0]), r"group must be int of shape \(2,\)"),
        (lambda: boot(weights=ONE[0]), r"weights must be int, \(resamples, groups\)"),
        (lambda: boot(weights=ONE / 2), "weights must be int"),
        (lambda: boot(metric="ppv", scores=np.eye(3)[:2]), "'ppv' of multiclass with 3 classes"),
        (lambda: boot("multilabel", "f1", labels=np.eye(2), thresholds=[0.5]), "1 thresholds for 2 labels"),
        (lambda: boot("multilabel", "f1"), r"must have the scores' shape \(2, 2\)"),
        (lambda: boot("multilabel", "f1", labels=np.eye(2), leave_out=[2]), "cannot leave out class 2"),
        (lambda: stats.bootstrap_roc(TWO[0], TWO[0] > 0.5, np.arange(2), ONE, [0, 1.1]), "grid must be"),
        (lambda: stats.bootstrap_pr(TWO[0], TWO[1], np.arange(2), ONE, [0.5]), "positive must be bool"),
        (lambda: stats.group_t([0], [[0]], [(0, 2)], (0, 1), level=95), "level must be in .*, got 95"),
        (lambda: stats.mcnemar([True], [True, False]), r"\(1,\) and \(2,\)"),
        (lambda: stats.mcnemar([0, 1], [True, False]), "int64 and bool"),
        (lambda: stats.delong([0.1], [0.1, 0.2], [True, False]), r"got \(1,\) and \(2,\)"),
        (lambda: stats.delong([0.1, NAN], [0.1, 0.2], [True, False]), "not finite in 1 of 2"),
        (lambda: stats.holm([0.1, 1.2]), "got 1.2"),
        (lambda: stats.corrected_resampled_t([0.1, NAN], 0.25), "must be finite"),
        (lambda: stats.corrected_resampled_t([0.1, 0.2], 0), "above 0, got 0"),
        (lambda: stats.wilcoxon([0.1, math.inf]), "must be finite"),
        (lambda: stats.ranks(np.array([[1, NAN]])), "1 missing"),
        (lambda: stats.average_ranks(np.ones((0, 3))), r"\(0, 3\)"),
        (lambda: stats.friedman(np.ones(3)), r"got shape \(3,\)"),
        (lambda: stats.nemenyi_cd(21, 5), "2 to 20 methods, got 21"),
        (lambda: stats.nemenyi_cd(1, 5), "got 1"),
        (lambda: stats.nemenyi_cd(3, 5, alpha=0.01), "0.05 or 0.10, got 0.01"),
        (lambda: stats.nemenyi_cd(3, 0), "at least one dataset, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def boot(task="multiclass", metric="auroc", scores=TWO, labels=(0, 1), group=(0, 1), weights=ONE, **options):
    return stats.bootstrap_values(task, metric, scores, labels, group, weights, **options)
