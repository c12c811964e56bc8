"""Classification metrics for medical images, as pure functions of (scores, labels, groups) on numpy arrays.

>>> scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])  # softmax: four images, two classes
>>> result = evaluate("multiclass", scores, np.array([0, 1, 1, 1]), ["benign", "malignant"])
>>> result["values"]["accuracy"], result["values"]["auroc"]
(0.75, 1.0)

multiclass: labels (N,) int in 0..C-1, scores (N, C) float, rows summing to 1 (softmax). Binary is two
classes, and class 1 is the positive one. multilabel: labels (N, L) float, 0, 1 or nan (unknown, left out),
scores (N, L) float in [0, 1] (sigmoid). Values agree with scikit-learn's where it has one. A metric without
its cases is nan, never 0. All is computed in float64 and from integer counts. Needs numpy only; copy this
file alone.
"""

from collections.abc import Sequence

import numpy as np

TASKS = ("multiclass", "multilabel")
LOWER_IS_BETTER = ("ece", "brier")
TOLERANCE = 1e-3  # how far a probability or the sum of a row may be off: room for a sum of rounded floats
NAN = float("nan")
RATES = ("sensitivity", "specificity", "ppv", "npv")
WHY_NAN = {
    "kappa": "labels and predictions are all of one class",
    "recall": "no case of the class",
    "precision": "the class is never predicted",
    "f1": "no case of the class, and it is never predicted",
    "auroc": "needs both a positive and a negative",
    "ap": "needs a positive",
    "average_precision": "needs a positive",
    "sensitivity": "no positive",
    "specificity": "no negative",
    "ppv": "nothing is called positive at this threshold",
    "npv": "nothing is called negative at this threshold",
}


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric is a better one: true of all but ece and brier."""
    return name not in LOWER_IS_BETTER


def value_range(name: str, task: str, n_classes: int) -> tuple[float, float]:
    """(smallest, largest) possible value of a metric: kappa -1 to 1, the Brier score of more than two exclusive classes
    0 to 2 (a sum over them), all others 0 to 1."""
    if name == "kappa":
        return -1.0, 1.0
    return 0.0, 2.0 if name == "brier" and task == "multiclass" and n_classes > 2 else 1.0


# ---- from a confusion matrix: (C, C) int, rows true, columns predicted ----


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts of (true, predicted) pairs. predicted, labels: (N,) int in 0..n_classes-1. Returns (C, C) int64,
    rows true, columns predicted. ValueError on other shapes, dtypes or ranges."""
    predicted = _check_classes(predicted, n_classes, "predicted")
    labels = _check_classes(labels, n_classes, "labels")
    if len(predicted) != len(labels):
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} labels")
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def recall_per_class(matrix: np.ndarray) -> np.ndarray:
    """tp / (tp + fn). matrix: (C, C) int. Returns (C,) float in [0, 1], nan for a class without a case."""
    return _ratio(np.diag(matrix), matrix.sum(1))


def precision_per_class(matrix: np.ndarray) -> np.ndarray:
    """tp / (tp + fp). matrix: (C, C) int. Returns (C,) float in [0, 1], nan for a class never predicted."""
    return _ratio(np.diag(matrix), matrix.sum(0))


def f1_per_class(matrix: np.ndarray) -> np.ndarray:
    """2 tp / (2 tp + fp + fn). matrix: (C, C) int. Returns (C,) float in [0, 1], nan only for a class that
    has no case and is never predicted."""
    return _ratio(2 * np.diag(matrix), matrix.sum(0) + matrix.sum(1))


def accuracy(matrix: np.ndarray) -> float:
    """Fraction predicted right. matrix: (C, C) int. Returns a float in [0, 1], nan for an empty matrix."""
    return float(_ratio(np.trace(matrix), matrix.sum()))


def balanced_accuracy(matrix: np.ndarray) -> float:
    """Mean recall over the classes with a case. matrix: (C, C) int. Returns a float in [0, 1], nan for an
    empty matrix. Agrees with scikit-learn's balanced_accuracy_score (adjusted=False)."""
    return _mean(recall_per_class(matrix))


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 over the classes that have a case or were predicted. matrix: (C, C) int. Returns a float in
    [0, 1], nan for an empty matrix. Agrees with scikit-learn's f1_score(average="macro")."""
    return _mean(f1_per_class(matrix))


def cohen_kappa(matrix: np.ndarray) -> float:
    """Agreement beyond chance, unweighted (Cohen 1960): (p_observed - p_chance) / (1 - p_chance).
    matrix: (C, C) int. Returns a float in [-1, 1], nan where the chance agreement is 1 (labels and
    predictions are all of one class) and for an empty matrix. Agrees with scikit-learn's
    cohen_kappa_score."""
    n = int(matrix.sum())
    chance = int(matrix.sum(1) @ matrix.sum(0))  # n * n * p_chance, an integer: "is it 1" has an exact answer
    return float(_ratio(n * int(np.trace(matrix)) - chance, n * n - chance))


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
    """Sensitivity, specificity, PPV and NPV, where score >= threshold is called positive.
    scores: (N,) float. positive: (N,) bool. Returns the four by name, floats in [0, 1]; each is nan where its
    denominator is 0, and all are where the threshold is nan (the search for one had no cases)."""
    scores, positive = _check_binary(scores, positive)
    if np.isnan(threshold):
        return dict.fromkeys(RATES, NAN)
    called = scores >= threshold
    tp, tn = (called & positive).sum(), (~called & ~positive).sum()
    totals = positive.sum(), (~positive).sum(), called.sum(), (~called).sum()
    return dict(zip(RATES, _ratio([tp, tn, tp, tn], totals).tolist()))


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


def brier(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared error of the probabilities (Brier 1950), summed over classes: in [0, 2]; for two classes
    (p1 - y)^2: in [0, 1]. scores: (N, C) float. labels: (N,) int. ValueError on what is no multiclass input.
    Agrees with scikit-learn's brier_score_loss(scale_by_half="auto")."""
    scores, labels = _check_multiclass(scores, labels)
    if scores.shape[1] == 2:
        return float(np.mean((scores[:, 1] - labels) ** 2))
    return float(((scores - np.eye(scores.shape[1])[labels]) ** 2).sum(1).mean())


def probability_of_truth(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What each image's truth was given: the lowest is the hardest. labels (N,) int: the score of the class. labels
    (N, L) 0, 1 or nan: 1 minus the mean gap between score and label over the known ones, 1 without any. scores: (N, C)
    or (N, L) float in [0, 1]. Returns (N,) float in [0, 1]."""
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


def video_mean_average_precision(
    scores: np.ndarray, labels: np.ndarray, videos: np.ndarray, leave_out: Sequence[int] = ()
) -> tuple[float, np.ndarray, int]:
    """CAMMA's video-wise mAP (Nwoye and Padoy 2022; ivtmetrics, compute_video_AP): the AP of a class in each
    video that has a positive of it, its mean over those videos, then the mean over classes. scores: (N, L)
    float in [0, 1]. labels: (N, L) 0, 1 or nan. videos: (N,) str or int. leave_out: classes not counted in
    the mAP, such as the null triplets 94-99. Returns (mAP, AP per class (L,) float64, number of classes
    counted); a class that no video has is nan. ValueError on what is no multilabel input, a missing video, a
    class to leave out that does not exist."""
    scores, labels = _check_multilabel(scores, labels)
    n_classes = scores.shape[1]
    unknown = [c for c in leave_out if not 0 <= c < n_classes]
    if unknown:
        raise ValueError(f"cannot leave out class {unknown[0]}: the classes are 0..{n_classes - 1}")
    order, starts, _ = _runs_of(_check_groups(videos, len(scores)))
    ap = np.full((len(starts), n_classes), NAN)
    for v, rows in enumerate(np.split(order, starts[1:])):
        for c in np.flatnonzero((labels[rows] == 1).any(0)):
            known = rows[~np.isnan(labels[rows, c])]
            ap[v, c] = average_precision(scores[known, c], labels[known, c] == 1)
    per_class = np.array([_mean(column) for column in ap.T])
    counted = np.delete(per_class, list(leave_out))
    return _mean(counted), per_class, _n_defined(counted)


# ---- everything at once ----


def evaluate(
    task: str,
    scores: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float = 0.5,
    thresholds: Sequence[float] | None = None,
) -> dict:
    """Every metric of the task, as plain Python numbers, strings, lists and dicts.
    task: "multiclass" or "multilabel"; scores, labels: as at the top of this file. class_names: one each.
    threshold: score >= threshold is positive, for the four rates of two classes and for the F1 of labels.
    thresholds: (L,), one per label instead (multilabel). What depends on a nan threshold is nan.
    Accuracy, F1 and kappa of multiclass are those of the argmax; for two classes auroc and average_precision
    are those of class 1, and no means. Returns
        {"n": images,
         "values": {metric: float},
         "per_class": {class: {metric: float, "support": int}},
         "averaged_over": {metric that is a mean over classes: how many classes it runs over},
         "reasons": {"metric" or "class/metric": why it is nan},
         "confusion_matrix": rows of counts, rows true, columns predicted (multiclass only)}
    ValueError on an unknown task, no images, scores that are no finite probabilities, and on labels, names or
    thresholds that do not fit."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    scores, labels = (_check_multiclass if task == "multiclass" else _check_multilabel)(scores, labels)
    names = [str(name) for name in class_names]
    if len(names) != scores.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"class_names must be {scores.shape[1]} different names, got {len(names)}: {names}")
    if task == "multiclass":
        if thresholds is not None:
            raise ValueError("thresholds are for the labels of multilabel; multiclass takes one threshold")
        return _evaluate_multiclass(scores, labels, names, threshold)
    thresholds = [threshold] * len(names) if thresholds is None else list(thresholds)
    if len(thresholds) != len(names):
        raise ValueError(f"{len(thresholds)} thresholds for {len(names)} labels")
    return _evaluate_multilabel(scores, labels, names, thresholds)


def _evaluate_multiclass(scores, labels, names, threshold):
    # Of equal scores argmax takes the lowest index, as torch's does. With two classes it is the 0.5
    # threshold: class 1 where p1 > 0.5. (A p1 of exactly 0.5 is class 0 here, and positive in the rates at
    # threshold 0.5.)
    matrix = confusion_matrix(scores.argmax(1), labels, len(names))
    columns = {
        "recall": recall_per_class(matrix),
        "precision": precision_per_class(matrix),
        "f1": f1_per_class(matrix),
        "auroc": np.array([auroc(scores[:, c], labels == c) for c in range(len(names))]),
        "ap": np.array([average_precision(scores[:, c], labels == c) for c in range(len(names))]),
        "support": matrix.sum(1),
    }
    two = len(names) == 2
    values = {
        "accuracy": accuracy(matrix),
        "balanced_accuracy": balanced_accuracy(matrix),
        "macro_f1": macro_f1(matrix),
        "kappa": cohen_kappa(matrix),
        "auroc": float(columns["auroc"][1]) if two else _mean(columns["auroc"]),
        "average_precision": float(columns["ap"][1]) if two else _mean(columns["ap"]),
        "ece": expected_calibration_error(scores, labels),
        "brier": brier(scores, labels),
    }
    means = {"balanced_accuracy": "recall", "macro_f1": "f1"}
    why = {}
    if two:
        values |= binary_rates(scores[:, 1], labels == 1, threshold)
        why = dict.fromkeys(RATES, "no threshold: it is nan") if np.isnan(threshold) else {}
    else:
        means |= {"auroc": "auroc", "average_precision": "ap"}
    per_class = {name: {k: v[c].item() for k, v in columns.items()} for c, name in enumerate(names)}
    return {
        "n": len(labels),
        "values": values,
        "per_class": per_class,
        "averaged_over": {k: _n_defined(columns[column]) for k, column in means.items()},
        "reasons": _reasons(values, per_class, why),
        "confusion_matrix": matrix.tolist(),
    }


def _evaluate_multilabel(scores, labels, names, thresholds):
    per_class, brier_per_class = {}, []
    for c, name in enumerate(names):
        known = ~np.isnan(labels[:, c])
        p, positive = scores[known, c], labels[known, c] == 1
        called, support = p >= thresholds[c], int(positive.sum())
        f1 = float(_ratio(2 * (called & positive).sum(), called.sum() + support))
        per_class[name] = {
            "auroc": auroc(p, positive),
            "ap": average_precision(p, positive),
            "f1": NAN if np.isnan(thresholds[c]) else f1,
            "support": support,
            "n": len(p),
        }
        brier_per_class.append(_mean((p - positive) ** 2))
    means = {"auroc": "auroc", "average_precision": "ap", "f1": "f1"}
    columns = {k: [entry[column] for entry in per_class.values()] for k, column in means.items()}
    columns["brier"] = brier_per_class
    values = {k: _mean(column) for k, column in columns.items()}
    why = dict.fromkeys(values, "defined for no label")
    why |= {f"{name}/f1": "no threshold: it is nan" for name, t in zip(names, thresholds) if np.isnan(t)}
    return {
        "n": len(labels),
        "values": values,
        "per_class": per_class,
        "averaged_over": {k: _n_defined(column) for k, column in columns.items()},
        "reasons": _reasons(values, per_class, why),
    }


def _reasons(values, per_class, why):
    """Why each nan is one: why[key] where the caller knows better, else WHY_NAN of the metric."""
    named = values | {f"{name}/{k}": v for name, entry in per_class.items() for k, v in entry.items()}
    nans = [key for key, value in named.items() if np.isnan(value)]
    return {key: why[key] if key in why else WHY_NAN[key.rsplit("/", 1)[-1]] for key in nans}


# ---- helpers ----


def _ratio(numerator, denominator):
    """numerator / denominator in float64, nan where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(denominator.shape, NAN), where=denominator != 0)


def _mean(values):
    """Mean of the values that are not nan; nan, without numpy's warning, if there is none."""
    values = np.asarray(values, np.float64)
    return float(values[~np.isnan(values)].mean()) if _n_defined(values) else NAN


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
