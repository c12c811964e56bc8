"""What a report shows beside its numbers: learning curves, ROC and PR, calibration, thresholds, Auto-RGN's
rates, the hardest images. Each function takes the evidence of an experiment; mappings are by strategy."""

from __future__ import annotations

import base64
import functools
import io
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

import metrics
from report import stats
from report.evidence import Evidence, mean_over_runs, over_runs
from report.experiment import NAN, Bin, Calibration, Call, Curve, Design, EpochPoint, HardImage, LayerRates, Threshold
from runs import Run, RunError

CURVE_RESAMPLES = 100  # of the bootstrap behind the bands of ROC and PR
GRID = np.linspace(0, 1, 51)
MOST_CURVES = 6  # classes; with more there are none
MOST_LABELS = 20  # with a row of thresholds
HARDEST = 12  # images
BINS = 10  # of the reliability diagram


def learning_curves(evidence: Evidence, metric: str) -> dict[str, list[EpochPoint]]:
    """A point an epoch: means over runs, and the range of the validation metric."""
    return {name: learning_curve(runs, metric) for name, runs in evidence.finished.items() if runs}


def learning_curve(runs: list[Run], metric: str) -> list[EpochPoint]:
    by_epoch: dict[int, list[dict[str, float]]] = {}
    for row in (row for run in runs for row in run.log):
        by_epoch.setdefault(row["epoch"], []).append(row)
    curve = []
    for epoch, rows in sorted(by_epoch.items()):
        train_loss, val_loss, values = (
            [row.get(column, NAN) for row in rows] for column in ("train_loss", "val_loss", f"val_{metric}")
        )
        point = EpochPoint(
            epoch=epoch,
            train_loss=over_runs(train_loss).mean,
            val_loss=over_runs(val_loss).mean,
            val_metric=over_runs(values).mean,
            low=min(values),
            high=max(values),
            runs=len(rows),
        )
        curve.append(point)
    return curve


def confusion(evidence: Evidence, task: str) -> dict[str, list[list[int]]]:
    """Counts, rows true, columns called, of all runs together; of several labels none."""
    if task != "multiclass":
        return {}
    found = {}
    for name, runs in evidence.finished.items():
        if runs:
            found[name] = np.sum([run.result["test"]["confusion_matrix"] for run in runs], axis=0).tolist()
    return found


def roc(evidence: Evidence, design: Design) -> dict[str, list[Curve]]:
    return class_curves(evidence, design, "auroc", stats.bootstrap_roc)


def precision_recall(evidence: Evidence, design: Design) -> dict[str, list[Curve]]:
    return class_curves(evidence, design, "ap", stats.bootstrap_pr)


def class_curves(
    evidence: Evidence, design: Design, area: str, curve: Callable[..., np.ndarray]
) -> dict[str, list[Curve]]:
    """Curves on a grid, mean over runs, with the band of a bootstrap over groups (CURVE_RESAMPLES). Of two
    classes the positive one's; else one against the rest, up to MOST_CURVES classes. area: the per-class
    metric."""
    count = len(design.classes)
    if count > MOST_CURVES:
        return {}
    columns = [1] if design.task == "multiclass" and count == 2 else range(count)
    return {
        name: [mean_curve(evidence, design, runs, column, area, curve) for column in columns]
        for name, runs in evidence.finished.items()
        if runs
    }


@functools.cache
def curve_resamples(groups: tuple[str, ...]) -> np.ndarray:
    """The same draws for everything that was tested on the same groups."""
    return stats.resample_groups(len(groups), CURVE_RESAMPLES, seed=zlib.crc32("\0".join(groups).encode()))


def mean_curve(
    evidence: Evidence, design: Design, runs: list[Run], column: int, area: str, curve: Callable[..., np.ndarray]
) -> Curve:
    means, bands, shares = [], [], []
    for run in runs:
        test = evidence.scored[run.strategy, run.repeat]
        score, positive, known = of_label(test.scores, test.labels, column)
        if not positive.any() or positive.all():
            continue
        groups, group = np.unique(test.groups, return_inverse=True)
        group, weights = group[known], curve_resamples(tuple(groups.tolist()))
        means.append(curve(score, positive, group, np.ones((1, len(groups)), int), GRID)[0])
        bands.append(curve(score, positive, group, weights, GRID))
        shares.append(positive.mean())
    name = design.classes[column]
    mean = low = high = np.full(len(GRID), NAN)
    if means:
        mean = np.mean(means, axis=0)
        band = mean_over_runs(bands)
        band = band[~np.isnan(band).any(axis=1)]
        if len(band):
            low, high = np.quantile(band, [0.025, 0.975], axis=0)
    return Curve(
        name=name,
        grid=GRID.tolist(),
        mean=mean.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        area=over_runs(run.result["test"]["per_class"][name].get(area) for run in runs).mean,
        prevalence=float(np.mean(shares)) if shares else NAN,
    )


def of_label(scores: np.ndarray, labels: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score, positive, known) of a class against the rest, or of a label where it is known. scores: (N, C).
    labels: (N,) int, or (N, C) 0, 1, nan. known: (N,) bool; score and positive are of these."""
    truth = (labels == column).astype(float) if labels.ndim == 1 else labels[:, column]
    known = ~np.isnan(truth)
    return scores[known, column], truth[known] == 1, known


def calibrations(evidence: Evidence) -> dict[str, Calibration]:
    """Reliability over equal-width bins (low, high], the empty ones among them, all runs together: confidence
    in the class called against how often it is right; of several labels, score against how often the label
    holds. ece, brier: means over runs, of metrics.json (the ECE there has bins of its own)."""
    found = {}
    for name, runs in evidence.finished.items():
        if runs:
            tests = [evidence.scored[name, run.repeat] for run in runs]
            confidence, right = (
                np.concatenate(part)
                for part in zip(*(confidences(test.scores, test.labels) for test in tests), strict=True)
            )
            ece, brier = (over_runs(run.value("test", m) for run in runs).mean for m in ("ece", "brier"))
            found[name] = Calibration(bins=reliability(confidence, right), ece=ece, brier=brier)
    return found


def confidences(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, right) of each unit, or of each known label."""
    if labels.ndim == 1:
        return scores.max(1), scores.argmax(1) == labels
    known = ~np.isnan(labels)
    return scores[known], labels[known] == 1


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[Bin]:
    bin_of = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for k in range(BINS):
        inside = bin_of == k
        bins.append(
            Bin(
                low=k / BINS,
                high=(k + 1) / BINS,
                count=int(inside.sum()),
                confidence=float(confidence[inside].mean()) if inside.any() else NAN,
                accuracy=float(right[inside].mean()) if inside.any() else NAN,
            )
        )
    return bins


def thresholds(evidence: Evidence, design: Design) -> list[Threshold]:
    """The thresholds that validation chose and what they give on test, mean over runs; at most MOST_LABELS
    labels."""
    multiclass = design.task == "multiclass"
    if multiclass and len(design.classes) != 2:
        return []
    rows = []
    for strategy, runs in evidence.finished.items():
        runs = [run for run in runs if run.result.get("thresholds")]
        for k, name in enumerate([design.positive] if multiclass else design.classes[:MOST_LABELS]):
            chosen = [run.result["thresholds"][k] for run in runs]
            rates = []
            for run, threshold in zip(runs, chosen, strict=True):
                test = evidence.scored[strategy, run.repeat]
                score, positive, _ = of_label(test.scores, test.labels, 1 if multiclass else k)
                rates.append(metrics.binary_rates(score, positive, NAN if threshold is None else threshold))
            if chosen:
                mean = over_runs(chosen)
                means = {rate: over_runs(found[rate] for found in rates).mean for rate in metrics.RATES}
                rows.append(Threshold(strategy, name, threshold=mean.mean, sd=mean.sd, rates=means))
    return rows


def readable_ratios(run: Run) -> list[dict]:
    """Of a ratios.csv that is damaged nothing; read_runs has said so."""
    try:
        return run.files.ratios()
    except RunError:
        return []


def layer_rates(evidence: Evidence) -> LayerRates | None:
    """The learning rate of each layer in each epoch, mean over runs, of the first strategy that wrote
    ratios.csv."""
    for strategy, runs in evidence.finished.items():
        found: dict[tuple[str, str], dict[int, list[float]]] = {}
        for row in (row for run in runs for row in readable_ratios(run)):
            by_epoch = found.setdefault((row["layer"], row["block"]), {})
            by_epoch.setdefault(row["epoch"], []).append(row["lr"])
        if found:
            epochs = sorted({epoch for by_epoch in found.values() for epoch in by_epoch})
            return LayerRates(
                strategy=strategy,
                layers=[layer for layer, _ in found],
                blocks=[block for _, block in found],
                epochs=epochs,
                rate=[[float(np.mean(by[e])) if e in by else NAN for e in epochs] for by in found.values()],
            )
    return None


def hardest_images(evidence: Evidence, design: Design) -> list[HardImage]:
    """The test images whose truth got the lowest probability, mean over strategies, with what each called
    them."""
    right: dict[str, list[float]] = {}
    scores: dict[str, dict[str, list[np.ndarray]]] = {}
    truth: dict[str, np.ndarray] = {}
    for (strategy, _), test in evidence.scored.items():
        of_truth = metrics.probability_of_truth(test.image_scores, test.image_labels)
        for i, image in enumerate(test.images):
            right.setdefault(image, []).append(float(of_truth[i]))
            scores.setdefault(image, {}).setdefault(strategy, []).append(test.image_scores[i])
            truth[image] = test.image_labels[i]
    worst = sorted(right, key=lambda image: (np.mean(right[image]), image))[:HARDEST]
    thumbnails = thumbnails_of(evidence.done, set(worst))
    return [
        HardImage(
            image=image,
            label=called_name(truth[image], design.classes),
            thumbnail=thumbnails.get(image),
            predictions={
                strategy: call(np.mean(scores[image][strategy], axis=0), truth[image], design.classes)
                for strategy in evidence.finished
                if strategy in scores[image]
            },
            mean_right=float(np.mean(right[image])),
        )
        for image in worst
    ]


def called_name(values: np.ndarray, classes: list[str]) -> str:
    """The class or the labels. values: the number of a class, or (C,) scores of labels."""
    if np.ndim(values) == 0:
        return classes[int(values)]
    names = [name for name, value in zip(classes, values, strict=True) if value >= 0.5]
    return " | ".join(names) or "none"


def call(scores: np.ndarray, truth: np.ndarray, classes: list[str]) -> Call:
    """What scores (C,) say of an image. truth: the number of its class, or (C,) 0, 1, nan."""
    if np.ndim(truth) == 0:
        called = int(scores.argmax())
        return Call(classes[called], score=float(scores.max()), right=called == int(truth))
    known = ~np.isnan(truth)
    right = bool(((scores >= 0.5) == (truth == 1))[known].all())
    return Call(called_name(scores, classes), score=float(scores.max()), right=right)


def thumbnails_of(runs: list[Run], wanted: set[str]) -> dict[str, str]:
    """image -> data URI, of what the runs kept."""
    found: dict[str, str] = {}
    for run in runs:
        if wanted <= set(found):
            break
        for image, pixels in run.files.hardest().items():
            if image in wanted and image not in found:
                found[image] = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    return found


def png(pixels: np.ndarray) -> bytes:
    """(1 or 3, H, W) uint8 as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(out, "PNG")
    return out.getvalue()
