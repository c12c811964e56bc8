"""What a report shows beside its numbers: learning curves, ROC and PR, calibration, thresholds, Auto-RGN's rates, the
hardest images. Each function takes the finished runs of a block (a dataset and a backbone) by strategy."""

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
from runs import NAN, Run, mean_over_runs, spread

CURVE_RESAMPLES = 100  # of the bootstrap behind the bands of ROC and PR
GRID = np.linspace(0, 1, 51)


def shown(of: dict[str, list[Run]], scored: dict, block: dict) -> dict:
    """Everything below, for one block: what goes into it beside its numbers."""
    ran = {strategy: mine for strategy, mine in of.items() if mine}
    confusion = {}
    if block["task"] == "multiclass":
        matrices = {s: [r.result["test"]["confusion_matrix"] for r in mine] for s, mine in ran.items()}
        confusion = {s: np.sum(mine, axis=0).tolist() for s, mine in matrices.items()}
    return roc_and_pr(of, scored, block) | {
        "curves": {s: learning_curve(mine, block["metric"]) for s, mine in ran.items()},
        "confusion": confusion,
        "calibration": {s: calibration(mine, scored, block["task"]) for s, mine in ran.items()},
        "thresholds": threshold_rows(of, scored, block),
        "ratios": mean_rates(of.get("Auto-RGN", [])),
        "hardest": hardest_images(of, scored, block),
    }


def learning_curve(mine: list[Run], metric: str) -> list[dict]:
    """A row an epoch: means over runs, and the range of the validation metric."""
    by_epoch: dict[int, list[dict]] = {}
    for run in mine:
        for row in run.rows("log.csv"):
            by_epoch.setdefault(int(row["epoch"]), []).append(row)

    def number(text: str | None) -> float:
        return float(text) if text else NAN

    curve = []
    for epoch, rows in sorted(by_epoch.items()):
        values = [number(row.get(f"val_{metric}")) for row in rows]
        means = {
            name: spread(number(row.get(name)) for row in rows)["mean"] for name in ("train_loss", "val_loss")
        }
        curve.append({"epoch": epoch, **means, "val_metric": spread(values)["mean"],
                      "low": min(values), "high": max(values), "runs": len(rows)})  # fmt: skip
    return curve


def roc_and_pr(of: dict[str, list[Run]], scored: dict, block: dict) -> dict:
    """Curves on a grid, mean over runs, with the band of a bootstrap over groups (CURVE_RESAMPLES). Two classes: of the
    positive one; else one against the rest, up to six classes."""
    names = block["classes"]
    if len(names) > 6:
        return {"roc": {}, "pr": {}}
    columns = [1] if block["task"] == "multiclass" and len(names) == 2 else range(len(names))
    found: dict[str, dict] = {"roc": {}, "pr": {}}
    kinds = {"roc": ("auroc", stats.bootstrap_roc), "pr": ("ap", stats.bootstrap_pr)}
    for strategy, mine in of.items():
        for kind, (area, curve) in kinds.items() if mine else ():
            for c in columns:
                found[kind].setdefault(strategy, []).append(mean_curve(mine, scored, block, c, area, curve))
    return found


@functools.cache
def curve_resamples(groups: tuple[str, ...]) -> np.ndarray:
    """The same draws for everything that was tested on the same groups."""
    return stats.resample_groups(len(groups), CURVE_RESAMPLES, seed=zlib.crc32("\0".join(groups).encode()))


def mean_curve(mine: list[Run], scored: dict, block: dict, c: int, area: str, curve: Callable) -> dict:
    means, bands, shares = [], [], []
    for run in mine:
        s = scored[run.strategy, run.at]
        y = (s.labels == c) if block["task"] == "multiclass" else s.labels[:, c]
        known = ~np.isnan(y.astype(float))
        score, positive = s.scores[known, c], y[known] == 1
        if not positive.any() or positive.all():
            continue
        groups, group = np.unique(s.groups, return_inverse=True)
        group, weights = group[known], curve_resamples(tuple(groups.tolist()))
        means.append(curve(score, positive, group, np.ones((1, len(groups)), int), GRID)[0])
        bands.append(curve(score, positive, group, weights, GRID))
        shares.append(positive.mean())
    name = block["classes"][c]
    empty = [NAN] * len(GRID)
    result = {"class": name, "grid": GRID.tolist(), "mean": empty, "low": empty, "high": empty,
              area: spread(r.result["test"]["per_class"][name].get(area) for r in mine)["mean"],
              "prevalence": float(np.mean(shares)) if shares else NAN}  # fmt: skip
    if means:
        band = mean_over_runs(bands)
        band = band[~np.isnan(band).any(axis=1)]
        result["mean"] = np.mean(means, axis=0).tolist()
        if len(band):
            low, high = np.quantile(band, [0.025, 0.975], axis=0)
            result |= {"low": low.tolist(), "high": high.tolist()}
    return result


def calibration(mine: list[Run], scored: dict, task: str, bins: int = 10) -> dict:
    """Reliability over equal-width bins (low, high], the empty ones among them, all runs together: confidence in the
    class called against how often it is right; of several labels, score against how often the label holds. ece, brier:
    means over runs, of metrics.json (the ECE there has bins of its own)."""
    confidence, right = [], []
    for run in mine:
        s = scored[run.strategy, run.at]
        if task == "multiclass":
            confidence.append(s.scores.max(1))
            right.append(s.scores.argmax(1) == s.labels)
        else:
            known = ~np.isnan(s.labels)
            confidence.append(s.scores[known])
            right.append(s.labels[known] == 1)
    confidence, right = np.concatenate(confidence), np.concatenate(right)
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for k in range(bins):
        inside = bin_of == k
        means = (
            {"confidence": confidence[inside].mean(), "accuracy": right[inside].mean()}
            if inside.any()
            else {}
        )
        rows.append({"low": k / bins, "high": (k + 1) / bins, "count": int(inside.sum()), "confidence": NAN,
                     "accuracy": NAN} | {name: float(mean) for name, mean in means.items()})  # fmt: skip
    of_runs = {name: spread(r.value("test", name) for r in mine)["mean"] for name in ("ece", "brier")}
    return {"bins": rows, **of_runs}


def threshold_rows(of: dict[str, list[Run]], scored: dict, block: dict) -> list[dict]:
    """The thresholds that validation chose and what they give on test, mean over runs; at most 20 labels."""
    two = block["task"] == "multiclass"
    if two and len(block["classes"]) != 2:
        return []
    rows = []
    for strategy, mine in of.items():
        for k, name in enumerate([block["positive"]] if two else block["classes"][:20]):
            chosen, rates = [], []
            for run in (run for run in mine if run.result.get("thresholds")):
                s, threshold = scored[strategy, run.at], run.result["thresholds"][k]
                y = s.labels.astype(float) if two else s.labels[:, k]
                known = ~np.isnan(y)
                score = s.scores[known, 1 if two else k]
                chosen.append(threshold)
                rates.append(
                    metrics.binary_rates(score, y[known] == 1, NAN if threshold is None else threshold)
                )
            if chosen:
                at = spread(chosen)
                rows.append({"strategy": strategy, "class": name, "threshold": at["mean"], "sd": at["sd"]}
                            | {r: spread(x[r] for x in rates)["mean"] for r in metrics.RATES})  # fmt: skip
    return rows


def mean_rates(mine: list[Run]) -> dict | None:
    """Auto-RGN's learning rate of each layer in each epoch, mean over runs."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for run in mine:
        for row in run.rows("ratios.csv"):
            found.setdefault((row["layer"], row["block"]), {}).setdefault(int(row["epoch"]), []).append(
                float(row["lr"])
            )
    if not found:
        return None
    epochs = sorted({epoch for by_epoch in found.values() for epoch in by_epoch})
    rate = [[float(np.mean(by[e])) if e in by else NAN for e in epochs] for by in found.values()]
    return {
        "layers": [layer for layer, _ in found],
        "blocks": [block for _, block in found],
        "epochs": epochs,
        "rate": rate,
    }


def hardest_images(of: dict[str, list[Run]], scored: dict, block: dict, most: int = 12) -> list[dict]:
    """The test images whose truth got the lowest probability, mean over strategies, with what each called them."""
    multiclass, classes = block["task"] == "multiclass", block["classes"]
    right: dict[str, list[float]] = {}
    seen: dict[str, dict[str, list[np.ndarray]]] = {}
    truth: dict[str, np.ndarray] = {}
    for (strategy, _), s in scored.items():
        y = s.image_labels
        of_truth = metrics.probability_of_truth(s.image_scores, y)
        for i, image in enumerate(s.images):
            right.setdefault(image, []).append(float(of_truth[i]))
            seen.setdefault(image, {}).setdefault(strategy, []).append(s.image_scores[i])
            truth[image] = y[i]
    worst = sorted(right, key=lambda image: (np.mean(right[image]), image))[:most]
    thumbnails = read_thumbnails([run for mine in of.values() for run in mine], set(worst))

    def names_of(values: np.ndarray) -> str:
        if multiclass:
            return classes[int(values)] if np.ndim(values) == 0 else classes[int(np.argmax(values))]
        return " | ".join(c for c, v in zip(classes, values) if v >= 0.5) or "none"

    rows = []
    for image in worst:
        label, called = names_of(truth[image]), {}
        for strategy in (s for s in of if s in seen[image]):
            mean = np.mean(seen[image][strategy], axis=0)
            known = ~np.isnan(np.atleast_1d(truth[image]).astype(float))
            right_call = (
                names_of(mean) == label
                if multiclass
                else bool(((mean >= 0.5) == (truth[image] == 1))[known].all())
            )
            called[strategy] = {"class": names_of(mean), "score": float(mean.max()), "right": right_call}
        rows.append({"image": image, "label": label, "thumbnail": thumbnails.get(image), "predictions": called,
                     "mean_right": float(np.mean(right[image]))})  # fmt: skip
    return rows


def read_thumbnails(runs: list[Run], wanted: set[str]) -> dict[str, str]:
    """image -> data URI, from the hardest.npz of the runs."""
    found: dict[str, str] = {}
    for file in (run.folder / "hardest.npz" for run in runs):
        if not wanted - set(found) or not file.is_file():
            continue
        try:
            with np.load(file, allow_pickle=False) as held:
                for image, pixels in zip(held["image"].tolist(), held["pixels"]):
                    if image in wanted and image not in found:
                        found[image] = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
        except (ValueError, KeyError, OSError, zlib.error):
            continue  # a damaged thumbnail is no reason to have no report
    return found


def png(pixels: np.ndarray) -> bytes:
    """(1 or 3, H, W) uint8 as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(out, "PNG")
    return out.getvalue()
