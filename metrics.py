"""Classification metrics for medical images, as pure functions of (scores, labels, groups) on numpy arrays.

>>> scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])  # softmax: four images, two classes
>>> result = evaluate("multiclass", scores, np.array([0, 1, 1, 1]), ["benign", "malignant"])
>>> result["values"]["accuracy"], result["values"]["auroc"]
(0.75, 1.0)

multiclass: labels (N,) int in 0..C-1, scores (N, C) float, rows summing to 1 (softmax). Binary is two
classes, and class 1 is the positive one. multilabel: labels (N, L) float, 0, 1 or nan (unknown, left out),
scores (N, L) float in [0, 1] (sigmoid). Values agree with scikit-learn's where it has one. A metric without
its cases is nan, never 0. All is computed in float64 and from integer counts. A metric is one entry of
METRICS, which evaluate, --metric, the report and its bootstrap read. Needs numpy only; copy this file alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

TASKS = ("multiclass", "multilabel")
TOLERANCE = 1e-3  # how far a probability or the sum of a row may be off: room for a sum of rounded floats
NAN = float("nan")

# ---- from confusion matrices: (..., C, C) counts, rows true, columns predicted ----


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts of (true, predicted) pairs. predicted, labels: (N,) int in 0..n_classes-1. Returns (C, C) int64,
    rows true, columns predicted. ValueError on other shapes, dtypes or ranges."""
    predicted = _check_classes(predicted, n_classes, "predicted")
    labels = _check_classes(labels, n_classes, "labels")
    if len(predicted) != len(labels):
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} labels")
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def recall_per_class(matrix: np.ndarray) -> np.ndarray:
    """tp / (tp + fn). matrix: (..., C, C). Returns (..., C) float, nan for a class without a case."""
    return ratio(_diagonal(matrix), matrix.sum(-1))


def precision_per_class(matrix: np.ndarray) -> np.ndarray:
    """tp / (tp + fp). matrix: (..., C, C). Returns (..., C) float, nan for a class never predicted."""
    return ratio(_diagonal(matrix), matrix.sum(-2))


def f1_per_class(matrix: np.ndarray) -> np.ndarray:
    """2 tp / (2 tp + fp + fn). matrix: (..., C, C). Returns (..., C) float in [0, 1], nan only for a class
    that has no case and is never predicted."""
    return ratio(2 * _diagonal(matrix), matrix.sum(-2) + matrix.sum(-1))


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """Fraction predicted right. matrix: (..., C, C). Returns (...) float, nan for an empty matrix."""
    return ratio(_diagonal(matrix).sum(-1), matrix.sum((-2, -1)))


def cohen_kappa(matrix: np.ndarray) -> np.ndarray:
    """Agreement beyond chance, unweighted (Cohen 1960): (p_observed - p_chance) / (1 - p_chance).
    matrix: (..., C, C). Returns (...) float in [-1, 1], nan where the chance agreement is 1 (labels and
    predictions are all of one class) and for an empty matrix. Agrees with scikit-learn's
    cohen_kappa_score."""
    n = matrix.sum((-2, -1))
    chance = (matrix.sum(-1) * matrix.sum(-2)).sum(-1)  # n * n * p_chance, an integer: "is it 1" is exact
    return ratio(n * _diagonal(matrix).sum(-1) - chance, n * n - chance)


def quadratic_weighted_kappa(matrix: np.ndarray) -> np.ndarray:
    """Agreement beyond chance where a miss counts by the square of its distance (Cohen 1968), for grades in the order
    of the classes: 1 - sum(w * observed) / sum(w * chance), w = (i - j)^2. matrix: (..., C, C). Returns (...) float in
    [-1, 1], nan where labels and predictions are all of one class. Agrees with scikit-learn's
    cohen_kappa_score(weights="quadratic"). Of two classes it is Cohen's kappa."""
    grades = np.arange(matrix.shape[-1])
    weight = (grades[:, None] - grades) ** 2
    chance = matrix.sum(-1)[..., :, None] * matrix.sum(-2)[..., None, :]
    return 1 - ratio(matrix.sum((-2, -1)) * (weight * matrix).sum((-2, -1)), (weight * chance).sum((-2, -1)))


def matthews_correlation(matrix: np.ndarray) -> np.ndarray:
    """Correlation of labels and predictions (Gorodkin 2004, R_K; of two classes Matthews 1975). matrix: (..., C, C).
    Returns (...) float in [-1, 1], 0 where all predictions are of one class, as in scikit-learn's matthews_corrcoef,
    but nan where all labels are: there is nothing to correlate with."""
    true, called, n = matrix.sum(-1), matrix.sum(-2), matrix.sum((-2, -1))
    covariance = n * _diagonal(matrix).sum(-1) - (true * called).sum(-1)
    of_true, of_called = (n * n - (counts * counts).sum(-1) for counts in (true, called))
    found = ratio(covariance, np.sqrt(np.float64(of_true)) * np.sqrt(np.float64(of_called)))
    return np.where((of_called == 0) & (of_true > 0), 0.0, found)[()]


def sensitivity(matrix: np.ndarray) -> np.ndarray:
    """tp / (tp + fn) of class 1 of two. matrix: (..., 2, 2). Returns (...) float, nan without a positive."""
    return recall_per_class(matrix)[..., 1]


def specificity(matrix: np.ndarray) -> np.ndarray:
    """tn / (tn + fp) of class 1 of two. matrix: (..., 2, 2). Returns (...) float, nan without a negative."""
    return recall_per_class(matrix)[..., 0]


def ppv(matrix: np.ndarray) -> np.ndarray:
    """tp / (tp + fp) of class 1 of two. matrix: (..., 2, 2). Returns (...) float, nan if never called."""
    return precision_per_class(matrix)[..., 1]


def npv(matrix: np.ndarray) -> np.ndarray:
    """tn / (tn + fn) of class 1 of two. matrix: (..., 2, 2). Returns (...) float, nan if always called."""
    return precision_per_class(matrix)[..., 0]


def f1(matrix: np.ndarray) -> np.ndarray:
    """2 tp / (2 tp + fp + fn) of class 1 of two. matrix: (..., 2, 2). Returns (...) float, nan only if it has
    no case and is never called."""
    return f1_per_class(matrix)[..., 1]


# ---- from the scores of one class ----


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the Mann-Whitney probability that a positive outscores a negative, ties
    counted half. scores: (N,) float, any monotone score. positive: (N,) bool. Returns a float in [0, 1], nan
    without a positive or without a negative. ValueError on other shapes, non-finite scores. Agrees with
    scikit-learn's roc_auc_score."""
    scores, positive = _check_binary(scores, positive)
    if positive.all() or not positive.any():  # N = 0 as well: all() of nothing is true
        return NAN
    _, tp, fp = _counts_at_thresholds(scores, positive)
    new_tp, new_fp = np.diff(tp, prepend=0), np.diff(fp, prepend=0)
    # A negative loses to every positive above its score, and half to those that tie with it.
    twice_won = new_fp @ (2 * tp - new_tp)
    return float(twice_won / (2 * tp[-1] * fp[-1]))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall step function, not interpolated.
    scores: (N,) float, any monotone score. positive: (N,) bool. Returns a float in [0, 1], nan without a
    positive. ValueError on other shapes, non-finite scores. Ties share one threshold. Agrees with
    scikit-learn's average_precision_score."""
    scores, positive = _check_binary(scores, positive)
    if not positive.any():
        return NAN
    _, tp, fp = _counts_at_thresholds(scores, positive)
    return float(np.diff(tp, prepend=0) @ (tp / (tp + fp)) / tp[-1])


def binary_rates(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict[str, float]:
    """Sensitivity, specificity, PPV and NPV (RATES), where score >= threshold is called positive.
    scores: (N,) float. positive: (N,) bool. Returns floats in [0, 1] by name; each is nan where its
    denominator is 0, and all are where the threshold is nan (the search for one had no cases)."""
    scores, positive = _check_binary(scores, positive)
    if np.isnan(threshold):
        return dict.fromkeys(RATES, NAN)
    matrix = confusion_matrix((scores >= threshold).astype(int), positive.astype(int), 2)
    return {name: float(METRICS[name].compute(matrix)) for name in RATES}


def youden_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """The observed score that maximises sensitivity + specificity - 1 (Youden 1950), the highest one if
    several do. scores: (N,) float. positive: (N,) bool. Returns one of the scores, nan without a positive or
    a negative."""
    scores, positive = _check_binary(scores, positive)
    if positive.all() or not positive.any():
        return NAN
    thresholds, tp, fp = _counts_at_thresholds(scores, positive)
    j_in_pairs = tp * fp[-1] - fp * tp[-1]  # J * positives * negatives, integers: a tie is exact
    return float(thresholds[np.argmax(j_in_pairs)])


def threshold_at_sensitivity(scores: np.ndarray, positive: np.ndarray, sensitivity: float) -> float:
    """The highest observed score at which the sensitivity is at least the wished one: its specificity is the
    best that the wish allows. scores: (N,) float. positive: (N,) bool. sensitivity: in (0, 1]. Returns one of
    the scores, nan without a positive or a negative. ValueError on a sensitivity outside (0, 1]."""
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity must be in (0, 1], got {sensitivity}")
    scores, positive = _check_binary(scores, positive)
    if positive.all() or not positive.any():
        return NAN
    thresholds, tp, _ = _counts_at_thresholds(scores, positive)
    return float(thresholds[np.argmax(tp / tp[-1] >= sensitivity)])


def threshold_at_specificity(scores: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """The lowest observed score at which the specificity is at least the wished one: its sensitivity is the best that
    the wish allows. scores: (N,) float. positive: (N,) bool. specificity: in (0, 1]. Returns one of the scores, or the
    next number above all of them where a negative has the highest; nan without a positive or a negative. ValueError on
    a specificity outside (0, 1]."""
    if not 0 < specificity <= 1:
        raise ValueError(f"specificity must be in (0, 1], got {specificity}")
    scores, positive = _check_binary(scores, positive)
    if positive.all() or not positive.any():
        return NAN
    thresholds, _, fp = _counts_at_thresholds(scores, positive)
    enough = np.flatnonzero((fp[-1] - fp) / fp[-1] >= specificity)
    return float(thresholds[enough[-1]] if len(enough) else np.nextafter(thresholds[0], np.inf))


# ---- calibration ----


def expected_calibration_error(scores: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (lo, hi] of the top class's probability,
    weighted by the bins' counts (Guo et al. 2017, eq. 3). scores: (N, C) float. labels: (N,) int. Returns a
    float in [0, 1]. With two classes, too, it is the confidence in the class called, not that in class 1.
    ValueError on what is no multiclass input."""
    scores, labels = _check_multiclass(scores, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.arange(bins + 1) / bins  # each correctly rounded, so that 0.6 lies in (8/15, 9/15]
    confidence = np.clip(scores.max(1), 0, 1)
    bin_of = np.searchsorted(edges, confidence, side="left") - 1
    gap = np.bincount(bin_of, weights=confidence - (scores.argmax(1) == labels))
    return float(np.abs(gap).sum() / len(labels))


def squared_errors(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The Brier score (Brier 1950) of each row: its mean over rows is the score. scores: (N, C) float. labels
    (N,) int: the sum of (p - y)^2 over classes, (N,) in [0, 2]; of two classes (p1 - y)^2, in [0, 1]. Agrees
    with scikit-learn's brier_score_loss(scale_by_half="auto"). labels (N, L): (N, L) in [0, 1], nan where
    unknown."""
    if np.ndim(labels) == 2:
        return (scores - labels) ** 2
    if scores.shape[1] == 2:
        return (scores[:, 1] - labels) ** 2
    return ((scores - np.eye(scores.shape[1])[labels]) ** 2).sum(1)


def probability_of_truth(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What each image's truth was given: the lowest is the hardest. labels (N,) int: the score of the class.
    labels (N, L) 0, 1 or nan: 1 minus the mean gap between score and label over the known ones, 1 without
    any. scores: (N, C) or (N, L) float in [0, 1]. Returns (N,) float in [0, 1]."""
    if np.ndim(labels) == 1:
        return scores[np.arange(len(labels)), labels]
    known = ~np.isnan(labels)
    gap = np.where(known, np.abs(scores - np.nan_to_num(labels)), 0.0).sum(axis=1)
    return 1 - gap / np.maximum(known.sum(axis=1), 1)


# ---- groups: units of several images, and videos ----


def aggregate(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, how: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images to units (studies, patients), before any metric. Labels (N,) are multiclass, (N, L) multilabel.
    scores: (N, C or L) float. groups: (N,) str or int. how: "mean" or "max" of a unit's scores. Returns
    scores (U, C or L) float64, labels (U,) int64 or (U, L) float64, groups (U,): units by first appearance. A
    unit's multiclass label is the one that all its images have; its multilabel label is the maximum over the
    images where it is known, nan where it never is. Multiclass "max" keeps the scores probabilities: of two
    classes class 1 has its maximum and class 0 the rest; of more, the maxima are divided by their sum.
    ValueError on another how, a missing group, a unit whose images differ in their multiclass label."""
    if how not in ("mean", "max"):
        raise ValueError(f"unknown aggregation {how!r}; choose from mean, max")
    multiclass = np.ndim(labels) == 1
    scores, labels = (_check_multiclass if multiclass else _check_multilabel)(scores, labels)
    groups = _check_groups(groups, len(scores))
    order, starts, first = _runs_of(groups)
    scores, labels = scores[order], labels[order]

    if how == "mean":
        unit_scores = np.add.reduceat(scores, starts) / np.diff(starts, append=len(scores))[:, None]
    else:
        unit_scores = np.maximum.reduceat(scores, starts)
    if how == "max" and multiclass and scores.shape[1] == 2:
        unit_scores[:, 0] = 1 - unit_scores[:, 1]
    elif how == "max" and multiclass:
        unit_scores /= unit_scores.sum(1, keepdims=True)

    if not multiclass:
        return unit_scores, np.fmax.reduceat(labels, starts), groups[first]  # fmax passes over nan
    low, high = np.minimum.reduceat(labels, starts), np.maximum.reduceat(labels, starts)
    differ = np.flatnonzero(low != high)
    if len(differ):
        shown = "; ".join(f"{groups[first[u]]} has {low[u]} and {high[u]}" for u in differ[:3])
        raise ValueError(f"labels differ in {len(differ)} of {len(low)} groups: {shown}; use finer ones")
    return unit_scores, low, groups[first]


def in_videos(
    compute: Callable, scores: np.ndarray, labels: np.ndarray, videos: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """compute(scores (n,), positive (n,)) of each label in each of V videos, over the rows where it is known.
    scores: (N, L). labels: (N, L) 0, 1 or nan. videos: (N,). Returns (values (V, L) float64, nan where a
    video has no positive of the label; videos (V,) by first appearance)."""
    order, starts, first = _runs_of(videos)
    values = np.full((len(starts), scores.shape[1]), NAN)
    for v, rows in enumerate(np.split(order, starts[1:])):
        for c in np.flatnonzero((labels[rows] == 1).any(0)):
            known = rows[~np.isnan(labels[rows, c])]
            values[v, c] = compute(scores[known, c], labels[known, c] == 1)
    return values, videos[first]


# ---- the metrics ----

MULTICLASS, MULTILABEL = TASKS
GIVEN = {  # what a metric's compute may be given: the tasks that have it
    "matrix": (MULTICLASS,),
    "matrix at threshold": TASKS,
    "one class": TASKS,
    "one class in each video": (MULTILABEL,),
    "rows": TASKS,
    "all rows": TASKS,
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """All that is known of a metric. What its compute is given, and returns, nan where it is undefined:
    matrix                   (..., C, C) counts, rows true, columns called -> (...) float. With a column
                             (..., C), one a class, and the metric is their mean.
    matrix at threshold      (..., 2, 2) counts, score >= threshold called -> (...). The metric is that of
                             class 1 of two (of more there is none), or the mean over labels.
    one class                scores (n,), positive (n,) bool -> float. The metric is that of class 1 of two;
                             of more classes, each against the rest, and of labels it is the mean.
    one class in each video  the same in each video with a positive; the mean over videos, then over labels
    rows                     scores (N, K), labels -> (N,), whose mean is the metric; of labels (N, L), nan
                             where unknown, and the metric is the mean over labels of their means
    all rows                 scores (N, K), labels -> float
    labels: as at the top of this file. report/stats.py resamples it: all at once, but one by one where it is
    given all rows, or one class and has no weighted form there."""

    name: str  # in --metric, metrics.json, results.csv
    given: str
    compute: Callable
    label: str = ""  # as printed; "": the name's words
    tasks: tuple[str, ...] = (MULTICLASS,)
    why: str = "not defined on these cases"  # of a nan
    column: str = ""  # its key in per_class; "": it is in no table of classes
    column_label: str = ""  # as printed; "": the column's words
    has_value: bool = True  # False: it is a column alone
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)  # the smallest and largest possible value
    bounds_of_many: tuple[float, float] | None = None  # of more than two exclusive classes, where they differ
    resampled: bool = True  # False: its resamples lie beside the estimate, no interval is made of them

    def __post_init__(self):
        if not set(self.tasks) <= set(GIVEN.get(self.given, ())):
            known = "; ".join(f"{given}: {', '.join(tasks)}" for given, tasks in GIVEN.items())
            tasks = ", ".join(self.tasks)
            raise ValueError(f"metric {self.name} of {tasks} is given {self.given!r}; choose from {known}")

    @property
    def of_calls(self) -> bool:
        """Whether it sees which class has the highest score, and not the scores."""
        return self.given == "matrix"

    @property
    def needs_threshold(self) -> bool:
        return self.given == "matrix at threshold"

    @property
    def needs_videos(self) -> bool:
        return self.given == "one class in each video"

    @property
    def needs_every_class(self) -> bool:
        """Whether it measures something else under its name on a resample that lost a class. (That a video
        lacks one is the rule.)"""
        return bool(self.column) and not self.needs_videos

    def is_for(self, task: str, n_classes: int) -> bool:
        of_two_alone = task == MULTICLASS and self.needs_threshold
        return task in self.tasks and not (of_two_alone and n_classes > 2)

    def is_mean(self, task: str, n_classes: int) -> bool:
        """Whether it is a mean over classes (multiclass) or labels (multilabel)."""
        if task == MULTILABEL:
            return self.given != "all rows"
        return bool(self.column) if self.of_calls else self.given == "one class" and n_classes > 2


METRICS = {
    metric.name: metric
    for metric in (  # in the order of the tables
        # CAMMA's (Nwoye and Padoy 2022; ivtmetrics, compute_video_AP): AP of a class in each video that has a
        # positive of it, mean over those videos, mean over classes, such as without the null triplets 94-99.
        Metric(
            name="video_map",
            given="one class in each video",
            compute=average_precision,
            label="video mAP",
            tasks=(MULTILABEL,),
            why="no video has the class",
            column="video_ap",
            column_label="video AP",
        ),
        Metric(name="accuracy", given="matrix", compute=accuracy),
        Metric(  # scikit-learn's balanced_accuracy_score(adjusted=False)
            name="balanced_accuracy",
            given="matrix",
            compute=recall_per_class,
            why="no case of the class",
            column="recall",
        ),
        Metric(
            name="precision",
            given="matrix",
            compute=precision_per_class,
            why="the class is never predicted",
            column="precision",
            has_value=False,
        ),
        Metric(  # scikit-learn's f1_score(average="macro")
            name="macro_f1",
            given="matrix",
            compute=f1_per_class,
            label="macro-F1",
            why="no case of the class, and it is never predicted",
            column="f1",
        ),
        Metric(
            name="kappa",
            given="matrix",
            compute=cohen_kappa,
            label="Cohen's kappa",
            why="labels and predictions are all of one class",
            bounds=(-1.0, 1.0),
        ),
        Metric(
            name="weighted_kappa",
            given="matrix",
            compute=quadratic_weighted_kappa,
            label="quadratic weighted kappa",
            why="labels and predictions are all of one class",
            bounds=(-1.0, 1.0),
        ),
        Metric(
            name="matthews",
            given="matrix",
            compute=matthews_correlation,
            label="Matthews correlation",
            why="labels are all of one class",
            bounds=(-1.0, 1.0),
        ),
        Metric(
            name="auroc",
            given="one class",
            compute=auroc,
            label="AUROC",
            tasks=TASKS,
            why="needs both a positive and a negative",
            column="auroc",
        ),
        Metric(
            name="average_precision",
            given="one class",
            compute=average_precision,
            tasks=TASKS,
            why="needs a positive",
            column="ap",
            column_label="AP",
        ),
        Metric(
            name="f1",
            given="matrix at threshold",
            compute=f1,
            label="F1",
            tasks=(MULTILABEL,),
            why="no case of the class, and it is never predicted",
            column="f1",
        ),
        Metric(
            name="ece",
            given="all rows",
            compute=expected_calibration_error,
            label="expected calibration error",
            higher_is_better=False,
            resampled=False,  # binning adds a resample's noise to it
        ),
        Metric(
            name="brier",
            given="rows",
            compute=squared_errors,
            label="Brier score",
            tasks=TASKS,
            higher_is_better=False,
            bounds_of_many=(0.0, 2.0),
        ),
        Metric(name="sensitivity", given="matrix at threshold", compute=sensitivity, why="no positive"),
        Metric(name="specificity", given="matrix at threshold", compute=specificity, why="no negative"),
        Metric(
            name="ppv",
            given="matrix at threshold",
            compute=ppv,
            label="PPV",
            why="nothing is called positive at this threshold",
        ),
        Metric(
            name="npv",
            given="matrix at threshold",
            compute=npv,
            label="NPV",
            why="nothing is called negative at this threshold",
        ),
    )
}
RATES = tuple(m.name for m in METRICS.values() if m.needs_threshold and MULTICLASS in m.tasks)


def offered(task: str, n_classes: int, *, video: bool) -> list[Metric]:
    """The entries that evaluate computes. video: with those that need videos."""
    return [m for m in METRICS.values() if m.is_for(task, n_classes) and (video or not m.needs_videos)]


def names(task: str, n_classes: int = 2, *, video: bool = False) -> list[str]:
    """The metrics that evaluate gives. video: with those that need videos."""
    return [metric.name for metric in offered(task, n_classes, video=video) if metric.has_value]


def find(name: str, task: str, n_classes: int) -> Metric:
    """The metric of that name. ValueError on one that the task, with so many classes, has not."""
    known = names(task, n_classes, video=True)
    if name not in known:
        choice = ", ".join(known) or f"those of the tasks {', '.join(TASKS)}"
        raise ValueError(f"unknown metric {name!r} of {task} with {n_classes} classes; choose from {choice}")
    return METRICS[name]


def label(key: str) -> str:
    """A metric, or a column of per_class, as it is printed. One that is not known here: its words."""
    columns = {metric.column: metric.column_label for metric in METRICS.values()}
    known = METRICS[key].label if key in METRICS else columns.get(key)
    return known or key.replace("_", " ")


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric is a better one. One that is not known here: yes."""
    return name not in METRICS or METRICS[name].higher_is_better


def value_range(name: str, task: str, n_classes: int) -> tuple[float, float]:
    """(smallest, largest) possible value of a metric, nan of one that is not known here."""
    if name not in METRICS:
        return NAN, NAN
    metric = METRICS[name]
    return (task == MULTICLASS and n_classes > 2 and metric.bounds_of_many) or metric.bounds


# ---- a metric on its cases ----


@dataclass(frozen=True)
class Cases:
    """What a metric is computed on. scores: (N, K) float64. labels: (N,) int64, or (N, L) 0.0, 1.0 or nan."""

    task: str
    scores: np.ndarray
    labels: np.ndarray
    thresholds: np.ndarray  # of class 1 (1,), of labels (L,)
    videos: np.ndarray | None = None  # (N,)
    leave_out: tuple[int, ...] = ()  # labels that are not counted in the metrics of videos

    @classmethod
    def checked(
        cls,
        task: str,
        scores: np.ndarray,
        labels: np.ndarray,
        *,
        thresholds: float | Sequence[float] = 0.5,
        videos: np.ndarray | None = None,
        leave_out: Sequence[int] = (),
    ) -> "Cases":
        """thresholds: one of class 1, or of each label; a float is for all. ValueError on an unknown task, no
        images, scores that are no finite probabilities, and on what does not fit them."""
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
        scores, labels = (_check_multiclass if task == MULTICLASS else _check_multilabel)(scores, labels)
        wanted = 1 if task == MULTICLASS else scores.shape[1]
        thresholds = np.asarray(thresholds, np.float64)
        if thresholds.shape not in ((), (wanted,)):
            raise ValueError(f"{thresholds.size} thresholds for {wanted} labels")
        videos = None if videos is None else _check_groups(videos, len(scores))
        if unknown := [c for c in leave_out if not 0 <= c < scores.shape[1]]:
            known = f"the classes are 0..{scores.shape[1] - 1}"
            raise ValueError(f"cannot leave out class {unknown[0]}: {known}")
        return cls(
            task=task,
            scores=scores,
            labels=labels,
            thresholds=np.broadcast_to(thresholds, (wanted,)),
            videos=videos,
            leave_out=tuple(leave_out),
        )

    @property
    def n_classes(self) -> int:
        return self.scores.shape[1]

    def known(self, c: int) -> np.ndarray:
        """(N,) bool: where it is known whether a row is of the class or has the label."""
        return np.full(len(self.labels), True) if self.task == MULTICLASS else ~np.isnan(self.labels[:, c])

    def one_class(self, c: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores (n,), positive (n,) bool) of a class against the rest, or of a label, where known."""
        known = self.known(c)
        positive = self.labels == c if self.task == MULTICLASS else self.labels[:, c] == 1
        return self.scores[known, c], positive[known]

    def counted(self, metric: Metric, each: np.ndarray) -> np.ndarray:
        """Those of each (..., K) that the mean over classes or labels is made of."""
        kept = [c for c in range(self.n_classes) if c not in self.leave_out]
        return each[..., kept] if metric.needs_videos else each


def matrix_cells(metric: Metric, cases: Cases) -> tuple[np.ndarray, int]:
    """Where the rows fall in the metric's M confusion matrices: one, or one of each label at its threshold.
    Returns ((N, M) int: true class * size + called class, -1 where unknown; size: 2, or C of C classes)."""
    scores, labels = cases.scores, cases.labels
    if metric.of_calls:
        # Of equal scores argmax takes the lowest index, as torch's does. With two classes it is the 0.5
        # threshold: class 1 where p1 > 0.5. (A p1 of exactly 0.5 is class 0 here, and positive in the rates
        # at threshold 0.5.)
        return (labels * cases.n_classes + scores.argmax(1))[:, None], cases.n_classes
    if cases.task == MULTICLASS:
        scores, labels = scores[:, 1:], labels[:, None]
    return np.where(np.isnan(labels), -1, 2 * (labels == 1) + (scores >= cases.thresholds)), 2


def count_cells(cells: np.ndarray, size: int, group: np.ndarray, n_groups: int) -> np.ndarray:
    """The confusion matrices of each group. cells, size: from matrix_cells. group: (N,) int in 0..n_groups-1.
    Returns (n_groups, M, size, size) int64."""
    n_matrices = cells.shape[1]
    matrix = group[:, None] * n_matrices + np.arange(n_matrices)
    index = (matrix * size**2 + cells)[cells >= 0]
    counts = np.bincount(index, minlength=n_groups * n_matrices * size**2)
    return counts.reshape(n_groups, n_matrices, size, size)


def of_matrices(metric: Metric, matrices: np.ndarray, cases: Cases) -> np.ndarray:
    """The metric of each class or label, (..., K), or itself, (...), from (..., M, size, size) counts."""
    if metric.of_calls:
        return metric.compute(matrices[..., 0, :, :])
    return np.where(np.isnan(cases.thresholds), NAN, metric.compute(matrices))


def of_each(metric: Metric, cases: Cases) -> np.ndarray:
    """The metric of each class or label, (K,) float64, of class 1 at a threshold (1,); the metric itself, a
    scalar, where it is not made of theirs."""
    if metric.of_calls or metric.needs_threshold:
        once = np.zeros(len(cases.labels), int)
        return of_matrices(metric, count_cells(*matrix_cells(metric, cases), once, 1)[0], cases)
    if metric.given == "one class":
        return np.array([metric.compute(*cases.one_class(c)) for c in range(cases.n_classes)])
    if metric.given == "all rows":
        return np.asarray(metric.compute(cases.scores, cases.labels))
    if metric.needs_videos:
        found, _ = in_videos(metric.compute, cases.scores, cases.labels, cases.videos)
    else:
        found = metric.compute(cases.scores, cases.labels)
    return np.apply_along_axis(mean_of_defined, 0, found)


def of_all(metric: Metric, cases: Cases, each: np.ndarray) -> np.ndarray:
    """The metric (...) from what of_each gives, (..., K) or (...)."""
    if metric.is_mean(cases.task, cases.n_classes):
        return mean_of_defined(cases.counted(metric, each))
    return each[..., -1] if metric.needs_threshold or metric.given == "one class" else each


# ---- everything at once ----


def evaluate(
    task: str,
    scores: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float = 0.5,
    thresholds: Sequence[float] | None = None,
    videos: np.ndarray | None = None,
    leave_out: Sequence[int] = (),
) -> dict:
    """Every metric of the task, as plain Python numbers, strings, lists and dicts.
    task: "multiclass" or "multilabel"; scores, labels: as at the top of this file. class_names: one each.
    threshold: score >= threshold is positive, for the four rates of two classes and for the F1 of labels.
    thresholds: (L,), one per label instead (multilabel). What depends on a nan threshold is nan. videos: (N,)
    str or int; with them come the metrics of videos (multilabel). leave_out: labels not counted in those.
    Accuracy, F1 and kappa of multiclass are those of the argmax; for two classes auroc and average_precision
    are those of class 1, and no means. Returns
        {"n": images,
         "values": {metric: float},
         "per_class": {class: {metric: float, "support": int}},
         "averaged_over": {metric that is a mean over classes: how many classes it runs over},
         "reasons": {"metric" or "class/metric": why it is nan},
         "confusion_matrix": rows of counts, rows true, columns predicted (multiclass only)}
    ValueError on an unknown task, no images, scores that are no finite probabilities, and on labels, names,
    thresholds or videos that do not fit."""
    if task == MULTICLASS and thresholds is not None:
        raise ValueError("thresholds are for the labels of multilabel; multiclass takes one threshold")
    thresholds = threshold if thresholds is None else thresholds
    cases = Cases.checked(task, scores, labels, thresholds=thresholds, videos=videos, leave_out=leave_out)
    classes = [str(name) for name in class_names]
    if len(classes) != cases.n_classes or len(set(classes)) != len(classes):
        wanted = f"class_names must be {cases.n_classes} different names"
        raise ValueError(f"{wanted}, got {len(classes)}: {classes}")
    entries = offered(task, len(classes), video=videos is not None)
    each = {metric.name: of_each(metric, cases) for metric in entries}
    columns = [m for m in entries if m.column and np.shape(each[m.name]) == (len(classes),)]
    means = [m for m in entries if m.has_value and m.is_mean(task, len(classes))]
    values = {m.name: float(of_all(m, cases, each[m.name])) for m in entries if m.has_value}
    reasons = {m.name: _why(m, cases) for m in entries if m.has_value and np.isnan(values[m.name])}
    per_class = {}
    for c, name in enumerate(classes):
        per_class[name] = {m.column: float(each[m.name][c]) for m in columns} | _counts(cases, c)
        undefined = [m for m in columns if np.isnan(each[m.name][c])]
        reasons |= {f"{name}/{m.column}": _why(m, cases, c) for m in undefined}
    averaged_over = {m.name: _n_defined(cases.counted(m, each[m.name])) for m in means}
    result = {"n": len(cases.labels), "values": values, "per_class": per_class}
    result |= {"averaged_over": averaged_over, "reasons": reasons}
    if task == MULTICLASS:
        matrix = confusion_matrix(cases.scores.argmax(1), cases.labels, len(classes))
        result["confusion_matrix"] = matrix.tolist()
    return result


def _why(metric, cases, c=None):
    """Why a metric, or that of label c, is nan."""
    if c is None and cases.task == MULTILABEL and metric.is_mean(MULTILABEL, cases.n_classes):
        return "defined for no label"
    no_threshold = metric.needs_threshold and np.isnan(cases.thresholds[c or 0])
    return "no threshold: it is nan" if no_threshold else metric.why


def _counts(cases, c):
    """support: the cases of a class; of a label n, too, the images where it is known."""
    _, positive = cases.one_class(c)
    known = {"n": len(positive)} if cases.task == MULTILABEL else {}
    return {"support": int(positive.sum())} | known


# ---- helpers ----


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator in float64, nan where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    undefined = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), NAN)
    return np.divide(numerator, denominator, out=undefined, where=denominator != 0)[()]


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not nan, nan if there is nothing. values: (..., K) -> (...)."""
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    if values.ndim == 1:  # zeros in the gaps would change the order of the sum, and so its last digit
        return values[defined].mean() if defined.any() else NAN
    return ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1))


def _diagonal(matrix):
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _n_defined(values):
    return int((~np.isnan(values)).sum())


def _counts_at_thresholds(scores, positive):
    """The T distinct scores, descending, and how many positives and negatives score at least so, int64."""
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    tp = np.cumsum(positive[order], dtype=np.int64)[last_of_tie]
    return scores[last_of_tie], tp, last_of_tie + 1 - tp


def _runs_of(groups):
    """order: (N,) rows sorted by group, groups by first appearance. starts: (U,) where in order each begins.
    first: (U,) the row where each appears first."""
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[group_of]
    order = np.argsort(rank, kind="stable")
    return order, np.searchsorted(rank[order], np.arange(len(first))), np.sort(first)


def _check_scores(scores):
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores must be (images, classes), at least one of each, got shape {scores.shape}")
    bad = np.flatnonzero(~np.isfinite(scores).all(1))
    if len(bad):
        raise ValueError(f"scores are not finite in {len(bad)} of {len(scores)} rows, first in row {bad[0]}")
    row, column = np.unravel_index(np.argmax(np.abs(scores - 0.5)), scores.shape)
    if abs(scores[row, column] - 0.5) > 0.5 + TOLERANCE:
        worst = f"{scores[row, column]:g} in row {row}"
        raise ValueError(f"scores must be probabilities in 0..1, got {worst}: apply softmax or sigmoid first")
    return scores


def _check_multiclass(scores, labels):
    scores = _check_scores(scores)
    if scores.shape[1] < 2:
        raise ValueError("multiclass scores need at least two columns, got 1: class 0 has its own")
    row = np.argmax(np.abs(scores.sum(1) - 1))
    if abs(scores[row].sum() - 1) > TOLERANCE:
        raise ValueError(f"scores must sum to 1 in each row, row {row} sums to {scores[row].sum():g}")
    labels = _check_classes(labels, scores.shape[1], "labels")
    if len(labels) != len(scores):
        raise ValueError(f"{len(labels)} labels for {len(scores)} rows of scores")
    return scores, labels


def _check_multilabel(scores, labels):
    scores, labels = _check_scores(scores), np.asarray(labels, np.float64)
    if labels.shape != scores.shape:
        raise ValueError(f"multilabel labels must have the scores' shape {scores.shape}, got {labels.shape}")
    bad = labels[~((labels == 0) | (labels == 1) | np.isnan(labels))]
    if len(bad):
        raise ValueError(f"multilabel labels must be 0, 1 or nan (unknown), got {bad[0]:g}")
    return scores, labels


def _check_classes(labels, n_classes, what):
    labels = np.asarray(labels)
    if labels.ndim != 1 or (len(labels) and labels.dtype.kind not in "iu"):
        raise ValueError(f"{what} must be int of shape (N,), got {labels.dtype} of shape {labels.shape}")
    outside = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(outside):
        raise ValueError(f"{what} must be in 0..{n_classes - 1}, row {outside[0]} is {labels[outside[0]]}")
    return labels.astype(np.int64)


def _check_binary(scores, positive):
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive)
    if scores.ndim != 1 or positive.shape != scores.shape:
        raise ValueError(f"scores and positive must both be (N,), got {scores.shape} and {positive.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores are not finite in {(~np.isfinite(scores)).sum()} of {len(scores)} rows")
    if len(positive) and positive.dtype != bool:  # a nan would count as true
        raise ValueError(f"positive must be bool, got {positive.dtype}: pass labels == 1")
    return scores, positive.astype(bool)


def _check_groups(groups, n):
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(f"groups must have shape ({n},), one per row of scores, got {groups.shape}")
    # A missing id is a nan or a None among floats or objects: np.unique would make one patient of all that
    # lack it.
    if groups.dtype.kind not in "iuUST" and not all(isinstance(g, str) for g in groups):
        raise ValueError(f"groups must be str or int, got {groups.dtype}: is one missing?")
    return groups
