"""The statistics of a comparison: bootstrap over groups, paired tests, ranks over datasets.

>>> weights = resample_groups(60, resamples=2000)  # 60 patients, drawn 2,000 times
>>> scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]] * 60)
>>> labels, patient = np.array([0, 1, 1, 1] * 60), np.repeat(np.arange(60), 4)
>>> values = bootstrap_values("multiclass", "auroc", scores, labels, patient, weights)
>>> round(group_t([1.0], [values], [(0, 60)], (0, 1)).low, 3)  # no resample is below 1, the truth may be
0.937
>>> mcnemar(np.array([True] * 8 + [False]), np.array([False] * 8 + [True])).p
0.0390625

Metrics of a resample are those of metrics.py on the rows as drawn. A statistic without its cases is nan,
never 0 or 1, and reason says why. A p is two-sided. All is computed in float64. Needs numpy and metrics.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

import metrics
from report.distributions import chi2_sf, f_sf, normal_sf, student_t_quantile, student_t_sf

NAN = float("nan")
NORMAL_975 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution
CONSTANT = 1e-12  # a standard error up to here is rounding: the values of all resamples are the same
CHUNK_BYTES = 4 * 2**20  # temporaries of one chunk of resamples: bounds memory, and more is no faster
EXACT_MCNEMAR_BELOW = 25  # discordant pairs
EXACT_WILCOXON_UP_TO = 50  # pairs: 2**50 sign patterns still count exactly in int64
FEWEST_WILCOXON_PAIRS = 6  # with five, 2 / 2**5 = 0.0625
# Demsar 2006, table 5(a): the studentized range quantile for infinite degrees of freedom over sqrt(2), by k.
# The studentized range's quantile with infinite degrees of freedom over the root of 2, for 2 methods, 3, ...
_Q05 = (
    "1.960 2.344 2.569 2.728 2.850 2.948 3.031 3.102 3.164 3.219 3.268 3.313 3.354 3.391 3.426 3.458 3.489 3.517 3.544"
)
_Q10 = (
    "1.645 2.052 2.291 2.460 2.589 2.693 2.780 2.855 2.920 2.978 3.030 3.077 3.120 3.159 3.196 3.230 3.261 3.291 3.319"
)
NEMENYI_Q = {alpha: dict(enumerate(map(float, text.split()), start=2)) for alpha, text in ((0.05, _Q05), (0.10, _Q10))}
FEWEST_FOR_F = 5  # datasets, for a p of Iman and Davenport's F: with fewer, one order of two methods decides it


# ---- the bootstrap over groups ----


def resample_groups(groups: int, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each group is drawn when as many groups as there are get drawn with replacement (Efron 1979;
    whole clusters: Davison and Hinkley 1997, section 3.8). groups: how many there are, at least 1. Returns
    (resamples, groups) int64, each row summing to groups; the same for the same seed. ValueError below 1."""
    if groups < 1 or resamples < 1:
        raise ValueError(f"needs at least one group and one resample, got {groups} and {resamples}")
    rng, weights = np.random.default_rng(seed), np.empty((resamples, groups), np.int64)
    for counts in weights:  # counted draws: a third of rng.multinomial's time at 700 groups
        counts[:] = np.bincount(rng.integers(groups, size=groups), minlength=groups)
    return weights


def bootstrap_values(
    task: str,
    metric: str,
    scores: np.ndarray,
    labels: np.ndarray,
    group: np.ndarray,
    weights: np.ndarray,
    *,
    thresholds: Sequence[float] | None = None,
    leave_out: Sequence[int] = (),
) -> np.ndarray:
    """The metric on every resample, as metrics.evaluate would give it on the rows as drawn.
    task, scores, labels: as in metrics.evaluate. metric: one of metrics.METRICS. One of videos takes the
    group for the video: a video that is drawn twice counts twice. group: (N,) int in 0..G-1, the group of
    each row. weights: (B, G) int >= 0, how often each group is drawn. thresholds: of two classes one, of
    labels one each; 0.5 if None. leave_out: labels not counted in metrics of videos. Returns (B,) float64,
    nan where the metric is undefined. Memory of its temporaries: some 4 MiB, more only where one resample
    needs more. ValueError on an unknown task or metric, on what evaluate refuses, other shapes, a group
    outside 0..G-1."""
    thresholds = 0.5 if thresholds is None else thresholds
    cases = metrics.Cases.checked(task, scores, labels, thresholds=thresholds, leave_out=leave_out)
    entry, group = metrics.find(metric, task, cases.n_classes), np.asarray(group)
    weights = _check_weights(group, weights, len(cases.scores))
    floats = sum(cases.scores.shape)
    if entry.of_calls or entry.needs_threshold:
        values, floats = _from_matrices(entry, cases, group, weights.shape[1])
    elif entry.given == "rows":
        values = _from_rows(entry, cases, group, weights.shape[1])
    elif entry.needs_videos:
        values = _from_videos(entry, cases, group, weights.shape[1])
    elif entry.given == "one class" and entry.compute in WEIGHTED:
        values = _from_classes(entry, cases, group)
    else:
        values = _one_by_one(entry, cases, group)
    return np.concatenate([values(part) for part in _chunks(weights, floats)])


def bootstrap_roc(
    scores: np.ndarray, positive: np.ndarray, group: np.ndarray, weights: np.ndarray, grid: np.ndarray
) -> np.ndarray:
    """Sensitivity at each false positive rate of the grid, for every resample: a band around a ROC curve.
    scores: (N,) float. positive: (N,) bool. group: (N,) int in 0..G-1. weights: (B, G) int. grid: (P,) float
    in [0, 1]. Returns (B, P) float64: linear interpolation of the empirical ROC from (0, 0) to (1, 1), where
    ties share a threshold; where it rises upright, the top. A row is nan without a positive or a negative.
    ValueError on other shapes or a grid outside [0, 1]."""
    grid = _check_grid(grid)
    values = np.full((len(weights), len(grid)), NAN)
    for start, tp, fp in _curves(scores, positive, group, weights):
        rates, sensitivities = (counts / np.maximum(counts[:, -1:], 1) for counts in (fp, tp))
        for i in np.flatnonzero((tp[:, -1] > 0) & (fp[:, -1] > 0)):
            # A grid's 0.3 may lie a rounding error below 3/10, at the foot of a step that starts there.
            values[start + i] = np.interp(grid + 1e-12, rates[i], sensitivities[i])
    return values


def bootstrap_pr(
    scores: np.ndarray, positive: np.ndarray, group: np.ndarray, weights: np.ndarray, grid: np.ndarray
) -> np.ndarray:
    """Interpolated precision at each recall of the grid, for every resample: the best precision of a
    threshold whose recall is at least that (Manning et al. 2008, eq. 8.7). Arguments as in bootstrap_roc,
    grid: (P,) recalls in [0, 1]. Returns (B, P) float64 in (0, 1]. A row is nan without a positive.
    ValueError on other shapes or a grid outside [0, 1]."""
    grid = _check_grid(grid)
    values = np.full((len(weights), len(grid)), NAN)
    for start, tp, fp in _curves(scores, positive, group, weights):
        tp, fp = tp[:, 1:], fp[:, 1:]  # without the point where nothing is called
        best = np.maximum.accumulate((tp / np.maximum(tp + fp, 1))[:, ::-1], axis=1)[:, ::-1]
        recall = tp / np.maximum(tp[:, -1:], 1)
        for i in np.flatnonzero(tp[:, -1] > 0):
            values[start + i] = best[i, np.searchsorted(recall[i], grid - 1e-12)]
    return values


@dataclass(frozen=True)
class GroupT:
    """What group_t finds. estimate: the mean over runs; p is nan but of a difference."""

    estimate: float = NAN
    standard_error: float = NAN
    df: float = NAN
    low: float = NAN
    high: float = NAN
    p: float = NAN


def group_t(
    estimates: Sequence[float],
    values: Sequence[np.ndarray],
    drawn: Sequence[tuple[int, int]],
    bounds: tuple[float, float],
    *,
    difference: bool = False,
    level: float = 0.95,
) -> GroupT:
    """A metric's mean over runs with its interval, or that of a paired difference with its test, by a t
    distribution around a bootstrap over groups. The percentiles of that bootstrap know nothing of how
    uncertain the spread of few groups is: of eight equal strategies on six patients they separated two in
    more than half of the sweeps.
    estimates: (R,) the value of each run; a nan is left out. values: (R, B) its bootstrap values. drawn: (R,)
    of (stratum, G): runs of one stratum share their draws of G groups (the seeds of a fold), other strata are
    independent (folds). bounds: the smallest and largest possible value.
    Standard error: the variance of a bootstrap of G groups is (G - 1) / G too small (Davison and Hinkley
    1997, section 2.3); those of strata add up. Degrees of freedom: G - 1, added up over strata, and fewer
    where the variance of some outweighs the others' (Welch 1947; capped by the sum). A difference: estimate
    +- t x standard error, cut to bounds, and two-sided p of no difference: p < 1 - level exactly where the
    interval excludes 0. Else the interval is one of t on the logit scale between the bounds, for a metric
    near its bound is skewed (Pepe 2003, section 5.2). Resamples that do not vary (to 1e-12) prove nothing: a
    difference has p 1 and no interval; a level has the score interval of a proportion from G independent
    groups (Wilson 1927, with t for z). All but the estimate is nan where a stratum has one group, or fewer
    than half of its resamples are defined. ValueError on another level."""
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    estimates = np.asarray(estimates, np.float64)
    runs = np.flatnonzero(~np.isnan(estimates))
    if not len(runs):
        return GroupT()
    estimate = float(estimates[runs].mean())
    strata: dict[tuple[int, int], list[np.ndarray]] = {}
    for run in runs:
        strata.setdefault(tuple(drawn[run]), []).append(np.asarray(values[run], np.float64))
    groups = np.array([n for _, n in strata])
    shares = [len(inside) / len(runs) for inside in strata.values()]
    means = [metrics.mean_of_defined(np.stack(inside, axis=1)) for inside in strata.values()]
    variances = [_variance(mean * share, n) for mean, share, n in zip(means, shares, groups, strict=True)]
    if np.isnan(variances).any():
        return GroupT(estimate)
    df, error = float((groups - 1).sum()), math.sqrt(sum(variances))
    if error > CONSTANT:
        share = np.array(variances) / sum(variances)
        df = min(df, float(1 / (share**2 / (groups + 1)).sum()) - 2)
    else:
        error = 0.0
    found = GroupT(estimate=estimate, standard_error=error, df=df)
    t = student_t_quantile((1 + level) / 2, df)
    if not difference:
        around = _logit_interval(estimate, error, bounds, t) if error else None
        low, high = around or _wilson(estimate, bounds, int(groups.sum()), t)
        return replace(found, low=low, high=high)
    if not error:
        return replace(found, p=1.0)
    low, high = max(bounds[0], estimate - t * error), min(bounds[1], estimate + t * error)
    return replace(found, low=low, high=high, p=2 * student_t_sf(abs(estimate) / error, df))


def _variance(values, groups):
    """Unbiased, of a bootstrap over so many groups; nan with one group, or where most values are nan."""
    defined = values[~np.isnan(values)]
    if groups < 2 or not len(defined) or 2 * len(defined) < len(values):
        return NAN
    return float(defined.var()) * groups / (groups - 1)


def _logit_interval(estimate, error, bounds, t):
    """The interval of t on the logit scale between bounds (delta method), back on the metric's."""
    least, span = bounds[0], bounds[1] - bounds[0]
    x = (estimate - least) / span
    if not 0 < x < 1:
        return NAN, NAN  # at its bound, and yet the resamples vary: no metric does that
    reach = t * error / span / (x * (1 - x))
    return tuple(least + span * x / (x + (1 - x) * math.exp(min(way * reach, 700.0))) for way in (1, -1))


def _wilson(estimate, bounds, n, t):
    least, span = bounds[0], bounds[1] - bounds[0]
    x = (estimate - least) / span
    middle, reach = x + t * t / (2 * n), t * math.sqrt(max(x * (1 - x), 0) / n + (t / (2 * n)) ** 2)
    low, high = ((middle + way * reach) / (1 + t * t / n) for way in (-1, 1))
    return least + span * max(low, 0.0), least + span * min(high, 1.0)


# Each of these does all that does not depend on the weights, and returns the function of (b, G) float64
# weights that gives the metric's (b,) values.


def _from_matrices(entry, cases, group, n_groups):
    """And, for the size of chunks, how many counts a resample has."""
    table = metrics.count_cells(*metrics.matrix_cells(entry, cases), group, n_groups)
    flat = table.reshape(n_groups, -1).astype(np.float64)

    def values(weights):
        matrices = (weights @ flat).reshape(len(weights), *table.shape[1:])
        return metrics.of_all(entry, cases, metrics.of_matrices(entry, matrices, cases))

    return values, flat.shape[1]


def _from_rows(entry, cases, group, n_groups):
    each = entry.compute(cases.scores, cases.labels)
    known = ~np.isnan(each)
    tables = [_table(group, n_groups, column) for column in (np.where(known, each, 0), known)]
    if each.ndim == 1:
        return lambda weights: metrics.ratio(*(weights @ table for table in tables))
    both = np.hstack(tables)
    return lambda weights: metrics.mean_of_defined(metrics.ratio(*np.split(weights @ both, 2, axis=1)))


def _from_classes(entry, cases, group):
    mean = entry.is_mean(cases.task, cases.n_classes)
    classes = range(cases.n_classes) if mean else [cases.n_classes - 1]
    each = [WEIGHTED[entry.compute](*cases.one_class(c), group[cases.known(c)]) for c in classes]

    def values(weights):
        by_group = np.ascontiguousarray(weights.T)  # rows are gathered and summed: each a run of resamples
        return metrics.of_all(entry, cases, np.stack([value(by_group) for value in each], axis=1))

    return values


def _from_videos(entry, cases, group, n_groups):
    """A mean over videos, each of which counts as often as it is drawn."""
    weighted = WEIGHTED.get(entry.compute)

    def once(scores, positive):
        return weighted(scores, positive, np.zeros(len(scores), int))(np.ones((1, 1)))[0]

    compute = once if weighted else entry.compute
    found, videos = metrics.in_videos(compute, cases.scores, cases.labels, group)
    each = np.full((n_groups, cases.n_classes), NAN)
    each[videos] = found
    each = cases.counted(entry, each)
    defined = ~np.isnan(each)
    sums, counts = np.where(defined, each, 0), defined.astype(np.float64)
    return lambda weights: metrics.mean_of_defined(metrics.ratio(weights @ sums, weights @ counts))


def _one_by_one(entry, cases, group):
    """The metric as metrics.py has it, on the rows of each resample: where nothing quicker is known."""
    rows = np.arange(len(group))

    def value(times):
        drawn = np.repeat(rows, times[group])
        if not len(drawn):
            return NAN
        these = replace(cases, scores=cases.scores[drawn], labels=cases.labels[drawn])
        return float(metrics.of_all(entry, these, metrics.of_each(entry, these)))

    return lambda weights: np.array([value(times) for times in weights.astype(int)])


def _auroc(scores, positive, group):
    """The function (G, b) weights -> (b,) AUROC: metrics.auroc, where each row counts as often as drawn. A
    negative loses to the positives above it, and half to those that tie with it."""
    order, negative = np.argsort(-scores[positive]), -scores[~positive]
    descending, of_positive, of_negative = -scores[positive][order], group[positive][order], group[~positive]
    above = np.searchsorted(descending, negative, side="left")  # positives above each negative
    above_or_tied = np.searchsorted(descending, negative, side="right")

    def value(w):
        tp = _running(w, of_positive)
        w_negative = w[of_negative]
        lost = tp[above]
        lost += tp[above_or_tied]
        lost *= w_negative
        return metrics.ratio(lost.sum(0), 2 * tp[-1] * w_negative.sum(0))

    return value


def _average_precision(scores, positive, group):
    """The function (G, b) weights -> (b,) average precision: metrics.average_precision, where each row counts
    as often as drawn: the mean over positives of the precision at their score."""
    order_p, order_n = np.argsort(-scores[positive]), np.argsort(-scores[~positive])
    at = -scores[positive][order_p]
    of_positive, of_negative = group[positive][order_p], group[~positive][order_n]
    tp_to = np.searchsorted(at, at, side="right")  # positives that score at least so
    fp_to = np.searchsorted(-scores[~positive][order_n], at, side="right")

    def value(w):
        running_tp = _running(w, of_positive)
        tp, called = running_tp[tp_to], _running(w, of_negative)[fp_to]
        called += tp
        tp /= np.maximum(called, 1, out=called)  # counts: where nothing is called, 0 / 1 with weight 0
        tp *= w[of_positive]
        return metrics.ratio(tp.sum(0), running_tp[-1])

    return value


# Weighted forms: (scores, positive, group) -> the function of (G, b) weights that gives (b,) values.
WEIGHTED = {metrics.auroc: _auroc, metrics.average_precision: _average_precision}


def _curves(scores, positive, group, weights) -> Iterator:
    """For chunks of resamples (first resample, tp, fp): counts (B, 1 + T) at no score and then at the T
    distinct scores, descending; float64 arrays of integers."""
    scores, positive, group = np.asarray(scores, np.float64), np.asarray(positive), np.asarray(group)
    _check_positive(positive, scores)
    weights = _check_weights(group, weights, len(scores))
    order = np.argsort(-scores)
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    positive, group = positive[order], group[order]
    size = max(1, 2_000_000 // max(1, len(scores)))
    for start in range(0, len(weights), size):
        drawn = weights[start : start + size, group].astype(np.float64)
        counts = [np.cumsum(x, axis=1)[:, last_of_tie] for x in (drawn * positive, drawn * ~positive)]
        yield start, *(np.pad(count, ((0, 0), (1, 0))) for count in counts)


def _table(group, n_groups, columns):
    """(G,) or (G, K) float64: sums of the rows' columns, (N,) or (N, K), within each group."""
    total = np.zeros((n_groups, *columns.shape[1:]))
    np.add.at(total, group, columns)
    return total


def _running(w, rows):
    """(len(rows) + 1, b): how many of the first 0, 1, 2, ... are drawn. w: (G, b). rows: their groups."""
    total = np.zeros((len(rows) + 1, w.shape[1]))
    np.cumsum(w[rows], axis=0, out=total[1:])
    return total


def _chunks(weights, floats_per_resample) -> Iterator[np.ndarray]:
    """weights in float64 and in pieces whose temporaries, some five arrays of a row each, fit."""
    size = max(1, CHUNK_BYTES // (8 * (2 * weights.shape[1] + 5 * floats_per_resample)))
    for start in range(0, len(weights), size):
        yield weights[start : start + size].astype(np.float64)


# ---- paired tests on the same images ----


@dataclass(frozen=True)
class McNemar:
    """only_a, only_b: how many images only one gets right. method: "exact binomial" or "chi-square, ..."."""

    only_a: int
    only_b: int
    statistic: float
    p: float
    method: str


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> McNemar:
    """McNemar's test of two classifiers on the same images (McNemar 1947). right_a, right_b: (N,) bool,
    whether each is right. Below 25 discordant pairs the exact binomial test, its statistic the smaller of the
    two counts; from there chi-square with 1 degree of freedom, (|only_a - only_b| - 1)^2 / (only_a + only_b)
    (Edwards 1948), 0 where the counts are equal. Without a discordant pair p is 1. It takes images to be
    independent. ValueError on other shapes or dtypes."""
    right_a, right_b = np.asarray(right_a), np.asarray(right_b)
    if right_a.ndim != 1 or right_a.shape != right_b.shape:
        raise ValueError(f"right_a and right_b must both be (N,), got {right_a.shape} and {right_b.shape}")
    if right_a.dtype != bool or right_b.dtype != bool:
        raise ValueError(f"right_a and right_b must be bool, got {right_a.dtype} and {right_b.dtype}")
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n < EXACT_MCNEMAR_BELOW:
        statistic, method = float(fewer), "exact binomial"
        p = min(1.0, 2 * sum(math.comb(n, i) for i in range(fewer + 1)) / 2**n)
    else:
        statistic, method = max(abs(only_a - only_b) - 1, 0) ** 2 / n, "chi-square, continuity corrected"
        p = chi2_sf(statistic, 1)
    return McNemar(only_a=only_a, only_b=only_b, statistic=statistic, p=p, method=method)


@dataclass(frozen=True)
class DeLong:
    """Two AUROCs, a minus b; low, high: the 95 % normal interval of the difference. reason: why p is nan."""

    auroc_a: float = NAN
    auroc_b: float = NAN
    difference: float = NAN
    standard_error: float = NAN
    low: float = NAN
    high: float = NAN
    z: float = NAN
    p: float = NAN
    reason: str = ""


def delong(scores_a: np.ndarray, scores_b: np.ndarray, positive: np.ndarray) -> DeLong:
    """The difference of two AUROCs on the same images (DeLong et al. 1988), by midranks (Sun and Xu 2014).
    scores_a, scores_b: (N,) float, any monotone score. positive: (N,) bool. It takes images to be
    independent. With variance 0 (identical scores, two AUROCs of 1) p is 1 where the difference is 0 and nan
    where it is not; without two positives and two negatives there is no variance; reason says so. ValueError
    on other shapes, non-finite scores."""
    scores_a, scores_b = np.asarray(scores_a, np.float64), np.asarray(scores_b, np.float64)
    positive = np.asarray(positive)
    for scores in (scores_a, scores_b):
        _check_positive(positive, scores)
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return DeLong(reason=f"needs both classes: {m} positives, {n} negatives")
    # Integers: twice the negatives that a positive beats, twice the positives that a negative loses to. So
    # an AUROC is correctly rounded, and a variance of 0 is exactly 0.
    (won_a, lost_a), (won_b, lost_b) = (_twice_placements(s, positive) for s in (scores_a, scores_b))
    difference = float((won_a - won_b).sum() / (2 * m * n))
    found = DeLong(float(won_a.sum() / (2 * m * n)), float(won_b.sum() / (2 * m * n)), difference)
    if m < 2 or n < 2:
        return replace(found, reason=f"no variance from {m} positives and {n} negatives: needs two of each")
    variance = (won_a - won_b).var(ddof=1) / (4 * n * n * m) + (lost_a - lost_b).var(ddof=1) / (4 * m * m * n)
    error = math.sqrt(variance)
    found = replace(found, standard_error=error)
    if not variance and difference:
        return replace(found, reason="the variance is 0: every image speaks for the same difference")
    z = difference / error if variance else 0.0
    low, high = difference - NORMAL_975 * error, difference + NORMAL_975 * error
    return replace(found, low=low, high=high, z=z, p=2 * normal_sf(abs(z)))


def _twice_placements(scores, positive):
    """Sun and Xu 2014, eq. 5 and 6: a midrank among all less that among one's own class."""
    rank = _twice_midranks(scores)
    won = rank[positive] - _twice_midranks(scores[positive])
    lost = 2 * int(positive.sum()) - (rank[~positive] - _twice_midranks(scores[~positive]))
    return won, lost


def _twice_midranks(values):
    """(N,) int64: twice the 1-based ascending rank, where ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (2 * np.cumsum(counts) - counts + 1)[inverse.reshape(-1)]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down adjustment of a family of p values: each reject at adjusted p <= alpha keeps
    the family-wise error at alpha. p: (M,) float in [0, 1], nan for a test that could not be made. Returns
    (M,) float64 in the input's order; nan stays nan and does not count in the family. ValueError on a p
    outside [0, 1]."""
    p = np.asarray(p, np.float64).ravel()
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p must be in [0, 1], got {p[(p < 0) | (p > 1)][0]}")
    adjusted, order = np.full(len(p), NAN), np.argsort(p)  # nan last
    order = order[: int((~np.isnan(p)).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return adjusted


# ---- paired tests over folds, seeds or datasets ----


@dataclass(frozen=True)
class ResampledT:
    """mean, sd (ddof 1) of n differences; low, high: the mean's 95 % interval. reason: why p is nan."""

    mean: float
    sd: float
    n: int
    df: int
    t: float = NAN
    p: float = NAN
    low: float = NAN
    high: float = NAN
    reason: str = ""


def corrected_resampled_t(differences: np.ndarray, test_share: float) -> ResampledT:
    """The corrected resampled t test over folds or splits (Nadeau and Bengio 2003, section 3): the training
    sets overlap, so the variance of the mean is (1/n + n_test/n_train) s^2 and not s^2/n. differences: (n,)
    float, one paired difference per fold. test_share: n_test/n_train > 0 (1/4 for five folds). p is nan with
    fewer than two folds, and where all have the same difference (up to rounding) other than 0; if
    all are 0, p is 1. ValueError on a difference or share that is not finite, or a share not above 0."""
    d = _check_differences(differences)
    if not 0 < test_share < math.inf:
        raise ValueError(f"test_share must be n_test / n_train, above 0, got {test_share}")
    n = len(d)
    mean, sd = float(d.mean()) if n else NAN, float(d.std(ddof=1)) if n > 1 else NAN
    found = ResampledT(mean, sd, n, df=n - 1)
    if n < 2:
        return replace(found, reason=f"needs at least two differences, got {n}")
    if np.ptp(d) <= 1e-12 * np.abs(d).max():
        if d.any():
            return replace(found, sd=0.0, reason="all differences are the same: their variance is 0")
        return replace(found, t=0.0, p=1.0, low=0.0, high=0.0)
    error = sd * math.sqrt(1 / n + test_share)
    t, reach = mean / error, student_t_quantile(0.975, n - 1) * error
    p = 2 * student_t_sf(abs(t), n - 1)
    return replace(found, t=t, p=p, low=mean - reach, high=mean + reach)


@dataclass(frozen=True)
class Wilcoxon:
    """n: differences other than 0. statistic: the smaller of the two rank sums, ties sharing their mean rank.
    method: "exact", "normal approximation" or "none". smallest_p: 2 / 2^n, what n differences of one sign
    give. reason: why p is nan."""

    n: int
    statistic: float
    smallest_p: float
    p: float = NAN
    method: str = "none"
    reason: str = ""


def wilcoxon(differences: np.ndarray) -> Wilcoxon:
    """Wilcoxon's signed-rank test (Wilcoxon 1945). differences: (N,) float; zeros are dropped, and what
    agrees to 12 digits of the largest counts as equal, for 0.9 - 0.8 is not 0.8 - 0.7 in floats. Up to n = 50
    p is exact: all 2^n signs of the given ranks, ties included, are counted; beyond, the normal approximation
    with the variance corrected for ties, without continuity correction. Below n = 6 it cannot reach 0.05: p
    is nan, and reason says so. ValueError on a difference that is not finite."""
    d = _check_differences(differences)
    d = np.round(d / np.abs(d).max(), 12) if d.any() else d[:0]
    d = d[d != 0]
    n, twice = len(d), _twice_midranks(np.abs(d))
    total, positive = int(twice.sum()), int(twice[d > 0].sum())
    smaller = min(positive, total - positive)  # twice the statistic: an integer even with ties
    found = Wilcoxon(n, smaller / 2, smallest_p=min(1.0, 2.0 / 2**n))
    if n == 0:
        return replace(found, reason="no difference")
    if n < FEWEST_WILCOXON_PAIRS:
        return replace(found, reason=f"with {n} pairs the smallest p is {found.smallest_p:g}, above 0.05")
    if n <= EXACT_WILCOXON_UP_TO:
        at_most = int(_subset_sums(twice)[: smaller + 1].sum())
        return replace(found, p=min(1.0, 2 * at_most / 2**n), method="exact")
    ties = np.unique(twice, return_counts=True)[1].astype(np.float64)
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties**3 - ties).sum() / 48
    z = (smaller / 2 - n * (n + 1) / 4) / math.sqrt(variance)
    return replace(found, p=2 * normal_sf(abs(z)), method="normal approximation")


def _subset_sums(parts):
    """[s]: how many subsets of the parts (positive int) sum to s, int64; exact below 63 parts."""
    ways = np.zeros(int(parts.sum()) + 1, np.int64)
    ways[0] = 1
    for part in parts:
        ways[part:] = ways[part:] + ways[:-part]
    return ways


# ---- ranks over datasets ----


def ranks(table: np.ndarray, higher_is_better: bool = True) -> np.ndarray:
    """The rank of each method on each dataset, 1 for the best; ties share their mean rank (Demsar 2006,
    section 3.2.2). table: (N datasets, k methods) float. Returns (N, k) float64 in [1, k]. ValueError on
    another shape or a nan: a method without a result has no rank."""
    table = np.asarray(table, np.float64)
    if table.ndim != 2 or np.isnan(table).any():
        missing = int(np.isnan(table).sum())
        raise ValueError(f"needs a (datasets, methods) table, got shape {table.shape}, {missing} missing")
    signed = -table if higher_is_better else table
    return np.array([_twice_midranks(row) for row in signed]).reshape(table.shape) / 2


def average_ranks(table: np.ndarray, higher_is_better: bool = True) -> np.ndarray:
    """Each method's mean rank over the datasets. table: (N, k) as in ranks, N at least 1. Returns (k,)
    float64 in [1, k]. ValueError as in ranks, and without a dataset."""
    each = ranks(table, higher_is_better)
    if not len(each):
        raise ValueError(f"no dataset to rank on: the table's shape is {each.shape}")
    return each.mean(0)


@dataclass(frozen=True, eq=False)
class Friedman:
    """average_ranks: (k,) float64. df: k - 1. f_df: (k - 1, (k - 1)(N - 1)). chi2: Friedman's statistic
    without a correction for ties. f, f_p: Iman and Davenport's (1980), the less conservative. reason: why p
    and f_p are nan."""

    average_ranks: np.ndarray
    df: int
    f_df: tuple[int, int]
    chi2: float = NAN
    p: float = NAN
    f: float = NAN
    f_p: float = NAN
    reason: str = ""


def friedman(table: np.ndarray, higher_is_better: bool = True) -> Friedman:
    """Whether k methods differ over N datasets (Demsar 2006, section 3.2.2). table: (N, k) as in ranks. All
    tied: chi2 and f are 0, p 1. Perfect agreement: f inf, f_p 0. Below five datasets f_p is nan. With one
    dataset or one method both p are nan, and reason says so. ValueError as in ranks, and without a
    dataset."""
    mean_ranks = average_ranks(table, higher_is_better)
    n, k = np.shape(table)
    f_df = (k - 1, (k - 1) * (n - 1))
    found = Friedman(mean_ranks, k - 1, f_df)
    if n < 2 or k < 2:
        return replace(found, reason=f"needs two datasets and two methods, got {n} and {k}")
    # 12 N / (k (k + 1)) (sum of R_j^2 - k (k + 1)^2 / 4), its numerator an integer in twice the rank sums: so
    # that perfect agreement, chi2 = N (k - 1), is seen as such.
    twice_sums = [round(s) for s in 2 * n * mean_ranks]
    numerator, denominator = 3 * (sum(s * s for s in twice_sums) - k * (n * (k + 1)) ** 2), n * k * (k + 1)
    chi2, left = numerator / denominator, n * (k - 1) * denominator - numerator
    f = (n - 1) * numerator / left if left else math.inf
    f_p = f_sf(f, *f_df) if n >= FEWEST_FOR_F else NAN
    return replace(found, chi2=chi2, p=chi2_sf(chi2, k - 1), f=f, f_p=f_p)


def nemenyi_cd(k: int, n: int, alpha: float = 0.05) -> float:
    """The Nemenyi test's critical difference: two of k methods differ if their average ranks over n datasets
    are at least this far apart (Demsar 2006, section 3.2.2, table 5(a)): q sqrt(k (k + 1) / (6 n)). k: 2 to
    20. n: at least 1. alpha: 0.05 or 0.10. ValueError on others."""
    if alpha not in NEMENYI_Q:
        raise ValueError(f"alpha must be 0.05 or 0.10, got {alpha}")
    if k not in NEMENYI_Q[alpha]:
        raise ValueError(f"the table has 2 to 20 methods, got {k}")
    if n < 1:
        raise ValueError(f"needs at least one dataset, got {n}")
    return NEMENYI_Q[alpha][k] * math.sqrt(k * (k + 1) / (6 * n))


# ---- checks ----


def _check_weights(group, weights, n):
    weights = np.asarray(weights)
    if group.shape != (n,) or group.dtype.kind not in "iu" or not n:
        raise ValueError(f"group must be int of shape ({n},), not empty, got {group.dtype} of {group.shape}")
    if weights.ndim != 2 or weights.dtype.kind not in "iu":
        raise ValueError(f"weights must be int, (resamples, groups), got {weights.dtype} of {weights.shape}")
    if group.min() < 0 or group.max() >= weights.shape[1]:
        raise ValueError(f"groups are 0..{weights.shape[1] - 1}, got {group.min()}..{group.max()}")
    return weights


def _check_positive(positive, scores):
    if scores.ndim != 1 or positive.shape != scores.shape:
        raise ValueError(f"scores and positive must both be (N,), got {scores.shape} and {positive.shape}")
    if positive.dtype != bool:
        raise ValueError(f"positive must be bool, got {positive.dtype}: pass labels == 1")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores are not finite in {(~np.isfinite(scores)).sum()} of {len(scores)} rows")


def _check_grid(grid):
    grid = np.asarray(grid, np.float64)
    if grid.ndim != 1 or not ((grid >= 0) & (grid <= 1)).all():
        raise ValueError(f"grid must be (P,) in [0, 1], got {grid}")
    return grid


def _check_differences(differences):
    d = np.asarray(differences, np.float64)
    if d.ndim != 1 or not np.isfinite(d).all():
        raise ValueError(f"differences must be finite, of shape (N,), got {differences}")
    return d
