"""What finished runs left: their settings, their test predictions, and means over them.

    runs, warnings = read_runs("runs/")

Standard library, numpy and metrics.py; no torch."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import metrics
from wording import in_order

NAN = float("nan")


@dataclass
class Scored:
    """The test split of a run: of every image, and of every unit of evaluation (study, patient) where they differ."""

    images: list[str]
    image_labels: np.ndarray  # (N,) int, or (N, L) 0, 1, nan
    image_scores: np.ndarray  # (N, C)
    labels: np.ndarray
    scores: np.ndarray
    groups: np.ndarray  # (U,) str: what is resampled, groups that share an identical image being one
    named: frozenset[str]  # the groups as the data names them


@dataclass
class Resampled:
    """What a bootstrap over groups gave for a run: the metric on every resample, and what was drawn."""

    values: np.ndarray  # (B,)
    drawn: tuple[int, int]  # (stratum, number of groups): runs of one stratum have the same draws


@dataclass
class Run:
    """A run folder. status: done, failed or unfinished; reason: why it is not done. result: its metrics.json."""

    folder: Path
    cell: dict
    strategy: str  # the paper's name
    config: dict
    status: str
    reason: str = ""
    result: dict = field(default_factory=dict)

    @property
    def block(self) -> tuple[str, str]:
        return self.cell["data"], self.cell["arch"]

    @property
    def at(self) -> tuple[int, int]:
        return self.cell["seed"], self.cell["fold"]

    @property
    def place(self) -> str:
        """Where its config.json says that it lies, below the folder of the runs."""
        return "/".join([*self.block, self.cell["strategy"], "seed{}-fold{}".format(*self.at)])

    def value(self, split: str, metric: str) -> float:
        value = self.result[split]["values"].get(metric)
        return NAN if value is None else value

    def averaged_over(self, split: str, metric: str) -> tuple[int, int] | None:
        """(how many classes or labels the metric is a mean over there, out of how many); None where it is no mean."""
        part = self.result.get(split, {})
        count = part.get("averaged_over", {}).get(metric)
        if count is None:
            return None
        left_out = self.config["data"]["leave_out"] if metric == "video_map" else ()
        return count, len(part["per_class"]) - len(left_out)

    @property
    def stages(self) -> dict[str, int]:
        """The stages that had an epoch, in their order: name -> first epoch. Read from log.csv, since stages merge
        where there are fewer epochs than stages."""
        stages: dict[str, int] = {}
        for row in self.rows("log.csv"):
            if row.get("stage"):
                stages.setdefault(row["stage"], int(row["epoch"]))
        return stages

    @property
    def early_stage(self) -> str:
        """The stage that the scored checkpoint is from, where another stage came after it; else empty."""
        stage, stages = self.result.get("best_stage"), list(self.stages)
        return stage if stages and stage in stages[:-1] else ""

    def rows(self, name: str) -> list[dict]:
        """A CSV of the folder; none where it is missing."""
        file = self.folder / name
        if not file.is_file():
            return []
        with open(file, encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))


def read_runs(folder: str | Path) -> tuple[list[Run], list[str]]:
    """(runs, warnings): every run folder below, in the order of the tables. Left out and named: a damaged one, and a
    copy, which would count twice; of two folders with the same run the one that lies where its config.json says stays.
    The trials of --tune are no runs."""
    found, warnings = {}, []
    for file in sorted(Path(folder).glob("*/*/*/seed*-fold*/config.json")):
        if file.parent.parent.name == "tune":
            continue
        try:
            run = read_run(file.parent)
        except (ValueError, KeyError, TypeError, OSError) as error:
            warnings.append(f"left out, {file.parent} is damaged: {type(error).__name__}: {error}")
            continue
        found.setdefault((*run.block, run.strategy, *run.at), []).append(run)
    kept = []
    for copies in found.values():
        copies.sort(key=lambda run: run.folder.relative_to(folder).as_posix() != run.place)
        kept.append(copies[0])
        warnings += [
            f"left out, {copy.folder} holds the run {copy.place} a second time" for copy in copies[1:]
        ]
    order = in_order(run.strategy for run in kept)
    kept.sort(key=lambda run: (*run.block, order.index(run.strategy), *run.at))
    return kept, warnings


def read_run(folder: Path) -> Run:
    """One run. ValueError, TypeError or KeyError where its files are damaged."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cell = config["settings"]["cell"]
    config["data"]["splits"], config["environment"], config["arguments"]  # all of them are needed
    if not isinstance(config["settings"]["lr"], (int, float, type(None))):
        raise TypeError(f"lr is {config['settings']['lr']!r}")
    run = Run(folder, cell, config["strategy"], config, "unfinished")
    if (folder / "metrics.json").is_file():
        run.result = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        run.result["test"]["values"], run.result["val"]["values"], run.result["minutes"]
        if not (folder / "predictions.csv").is_file():
            raise ValueError("predictions.csv is missing")
        run.status = "done"
    elif (folder / "failed.json").is_file():
        run.status = "failed"
        run.reason = json.loads((folder / "failed.json").read_text(encoding="utf-8"))["reason"]
    else:
        run.reason = f"{len(run.rows('log.csv'))} of {config['settings']['epochs']} epochs"
    return run


def at_an_end(tuning: dict) -> list[str]:
    """Of lr and alpha those whose chosen value is the least or the greatest that was tried, in a trial that
    failed too: a better one may lie beyond it. tuning: of config.json."""
    tried = {name: [trial[name] for trial in tuning["trials"]] for name in ("lr", "alpha") if name in tuning}
    return [name for name, values in tried.items() if tuning[name] in (min(values), max(values))]


def read_scored(run: Run) -> Scored:
    """The run's test predictions. ValueError where predictions.csv does not fit config.json."""
    settings, data = run.config["settings"], run.config["data"]
    classes, multiclass = settings["classes"], settings["task"] == "multiclass"
    with open(run.folder / "predictions.csv", encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines)
        head = next(reader)
        at = {name: i for i, name in enumerate(head)}
        rows = [row for row in reader if row[at["split"]] == "test"]
    if not rows:
        raise ValueError("no test image is in it")
    scores = np.array([[float(row[at[f"score_{c}"]]) for c in classes] for row in rows])
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    if multiclass:
        number = {c: i for i, c in enumerate(classes)}
        labels = np.array([number[row[at["label"]]] for row in rows])
    else:
        columns = [at[f"label_{c}"] for c in classes]
        labels = np.array([[float(row[i]) if row[i] else NAN for i in columns] for row in rows])
    images, named = [row[at["image"]] for row in rows], frozenset(row[at["group"]] for row in rows)
    groups = np.array([row[at.get("cluster", at["group"])] for row in rows])
    how = data["unit_score"]
    if how in (None, "video"):
        return Scored(images, labels, scores, labels, scores, groups, named)
    units = np.array([row[at[data["unit_kind"]]] for row in rows])
    unit_scores, unit_labels, names = metrics.aggregate(scores, labels, units, how)
    group_of = dict(zip(units.tolist(), groups.tolist()))
    of_units = np.array([group_of[u] for u in names.tolist()])
    return Scored(images, labels, scores, unit_labels, unit_scores, of_units, named)


def spread(values: Iterable[float]) -> dict:
    """Mean and standard deviation (ddof 1) of the values that are defined, and how many they are."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return {
        "mean": float(np.mean(known)) if known else NAN,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else NAN,
        "n": len(known),
    }


def mean_over_runs(values: list[np.ndarray]) -> np.ndarray:
    """The mean over runs of each resample, (R,) or (R, P), over those where it is defined."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), NAN)
