"""Scores of images -> the metrics of their dataset, in its own unit (image, study, patient, video).

judge_scores(index, rows, scores)["values"]["balanced_accuracy"]"""

from __future__ import annotations

import numpy as np

import metrics
from datasets import Index


def judge_scores(
    index: Index, rows: np.ndarray, scores: np.ndarray, thresholds: list[float] | None = None
) -> dict:
    """metrics.evaluate on the dataset's unit (study, patient, ...), and for each of its subgroups (MURA's
    regions).
    thresholds: one for two classes, one a label for multilabel."""
    threshold = (
        {"thresholds": thresholds} if index.task == "multilabel" else {"threshold": (thresholds or [0.5])[0]}
    )

    def judge(rows, scores):
        values, labels = in_units(index, rows, scores)
        return metrics.evaluate(index.task, values, labels, index.classes, **threshold)

    result = judge(rows, scores)
    if index.unit_score == "video":
        videos = np.array(index.units)[rows]
        mean, per_class, count = metrics.video_mean_average_precision(
            scores, index.labels[rows], videos, index.leave_out
        )
        result["values"] = {"video_map": mean} | result["values"]
        result["averaged_over"]["video_map"] = count
        for name, value in zip(index.classes, per_class):
            result["per_class"][name]["video_ap"] = float(value)
    if index.subgroups is not None:
        parts = np.array(index.subgroups)[rows]
        result["subgroups"] = {
            str(p): judge(rows[parts == p], scores[parts == p])["values"] for p in np.unique(parts)
        }
    return result


def in_units(index: Index, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores, labels) of the units of evaluation that the images belong to; a video is no unit with one
    label."""
    if index.units is None or index.unit_score == "video":
        return scores, index.labels[rows]
    return metrics.aggregate(scores, index.labels[rows], np.array(index.units)[rows], index.unit_score)[:2]


def without_both(index: Index, rows: np.ndarray, scores: np.ndarray) -> list[str]:
    """The labels (of two classes the positive one) that these images have no positive or no negative of: a threshold
    cannot be chosen on them, choose_thresholds gives 0.5."""
    if index.task == "multiclass" and len(index.classes) != 2:
        return []
    labels = in_units(index, rows, scores)[1].astype(float)
    columns = labels[:, None] if index.task == "multiclass" else labels
    names = index.classes[1:] if index.task == "multiclass" else index.classes
    return [name for name, y in zip(names, columns.T) if not (y == 1).any() or not (y == 0).any()]


def choose_thresholds(index: Index, rows: np.ndarray, scores: np.ndarray, rule: str) -> list[float] | None:
    """From validation scores: 0.5, youden, or sensitivity=0.9. None: more than two classes."""
    if index.task == "multiclass" and len(index.classes) != 2:
        return None
    values, labels = in_units(index, rows, scores)
    columns = [(values[:, 1], labels)] if index.task == "multiclass" else zip(values.T, labels.T)
    chosen = []
    for score, label in columns:
        known = ~np.isnan(label.astype(float))
        score, positive = score[known], label[known] == 1
        if rule == "0.5" or positive.all() or not positive.any():
            chosen.append(0.5)
        elif rule == "youden":
            chosen.append(metrics.youden_threshold(score, positive))
        else:
            chosen.append(metrics.threshold_at_sensitivity(score, positive, float(rule.partition("=")[2])))
    return [float(t) for t in chosen]
