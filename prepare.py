"""A dataset made ready to train on: read, decoded, split; and what a careful person would ask, printed.

ready = prepare("demo", settings)       # settings: what ftcompare.py's command line gives
data = ready.data(fold=0, weights=weights)"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import datasets
import images
import metrics
import runs
import splits
from datasets import DataError, Index
from workers import duration


def flag(default: object, help: str, **more: object) -> object:
    """A field that is a flag of the command line, with what --help says of it. more: choices, least, most,
    short, metavar, role, before (settings.py has their meaning)."""
    return field(default=default, metadata={"help": help} | more)


@dataclass(frozen=True)
class Preparation:
    """How a dataset is made ready: to what pixels, in what splits, judged by what."""

    img_size: int = flag(224, "pixels a side", most=4096, basic=True)
    resize: int | None = flag(
        None, "shorter side, of which the centre is cut out (default: the image is squeezed to a square)", most=4096
    )
    bit_depth: int | None = flag(
        None, "true depth of 16-bit images (default: from the data)", least=9, most=16, metavar="BITS"
    )
    folds: int = flag(1, "folds of a cross-validation; 1: one split", role="data", basic=True)
    val_fraction: float = flag(0.15, "share of the images for validation, where the data has no split", role="data")
    test_fraction: float = flag(0.2, "share of the images for the test, where the data has no split", role="data")
    split_seed: int = flag(0, "seed of the splits, the same for every --seed", least=0, role="data")
    splits_file: str | None = flag(None, "a CSV of splits to use, as runs/splits/ has them", role="data")
    drop_duplicates: bool = flag(False, "take byte-identical copies out of training", role="data")
    skip_bad: bool = flag(False, "leave damaged images out", role="data")
    positive: str | None = flag(
        None, "of two classes, the finding (default: the second by name)", metavar="CLASS", role="data"
    )
    metric: str | None = flag(
        None, "chooses epochs, ranks strategies (default: the data's)", metavar="NAME", role="data", basic=True
    )


@dataclass
class Data:
    """One dataset in one split, ready to train on. rows: split -> image numbers; lookup: image number -> row
    of pixels."""

    index: Index
    pixels: Tensor
    lookup: np.ndarray
    rows: dict[str, np.ndarray]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = ""
    fingerprint: str = ""  # of the index and what counts as one, taken once a dataset, not once a run
    identical: list[list[int]] = field(default_factory=list)  # rows with the same bytes
    folds: int = 1  # how many the data was split into, this one counted in
    grey: np.ndarray | None = None  # (rows of pixels,) bool: which are images of one channel

    @property
    def task(self) -> str:
        return self.index.task

    @property
    def classes(self) -> int:
        return len(self.index.classes)

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(self.index.labels)

    def sides(self) -> np.ndarray:
        """N strings, train, val, test, or "" where an image is in none: rows the other way round."""
        sides = np.full(len(self.index), "", dtype="<U5")
        for side, rows in self.rows.items():
            sides[rows] = side
        return sides

    def images(self, rows: np.ndarray, device: torch.device, **augmentation) -> Tensor:
        places = self.lookup[rows]
        grey = None if self.grey is None else self.grey[places]
        return images.batch(self.pixels, places, device, mean=self.mean, std=self.std, grey=grey, **augmentation)


def describe_data(data: Data) -> dict:
    """What a report must know of the data when the data is no longer there."""
    index = data.index
    groups, units = np.array(index.groups), np.array(index.units if index.units is not None else index.paths)
    held = {}
    for split, rows in data.rows.items():
        held[split] = {
            "images": len(rows),
            "groups": len(np.unique(groups[rows])),
            "units": len(np.unique(units[rows])),
            "classes": class_counts(index, rows),
        }
    sides = data.sides()
    return {
        "mean": list(data.mean),
        "std": list(data.std),
        "name": index.name,
        "citation": index.citation or None,
        "images": len(index),
        "group_kind": index.group_kind,
        "unit_kind": index.unit_kind,
        "unit_score": index.unit_score if index.units is not None else None,
        "leave_out": list(index.leave_out),
        "splits": held,
        "folds": data.folds,
        "official_test": is_official(index, data.rows["test"]),
        "groups_in_two_splits": shared_groups(index, sides),
        "identical_across_splits": len(splits.spanning(data.identical, sides)),
        "notes": [*index.notes, *index.warnings],
    }


def class_counts(index: Index, rows: np.ndarray) -> dict[str, int]:
    """Images of each class; of several labels, those that have it."""
    labels = index.labels[rows]
    multiclass = index.task == "multiclass"
    positive = [labels == c if multiclass else labels[:, c] == 1 for c in range(len(index.classes))]
    return {name: int(column.sum()) for name, column in zip(index.classes, positive, strict=True)}


def is_official(index: Index, rows: np.ndarray) -> bool:
    """Whether these are all the test images of one of the dataset's own splits, and no others."""
    for official in (index.official, *(index.official_folds or ())):
        own = np.flatnonzero(np.array(official) == "test")
        if len(own) and np.array_equal(own, rows):
            return True
    return False


@dataclass
class Prepared:
    """A dataset decoded and split. lookup: image number -> row of pixels (they differ where images were left
    out)."""

    index: Index
    pixels: Tensor
    lookup: np.ndarray
    folds: list[np.ndarray]
    digest: str  # of the decoded pixels
    fingerprint: str  # of the index and what counts as one
    identical: list[list[int]]
    grey: np.ndarray  # as in Data

    def data(self, fold: int, *, mean: tuple[float, ...], std: tuple[float, ...], device: str = "cpu") -> Data:
        """One of the folds, its pixels to be normalised by mean and std, on the device where they fit."""
        self.pixels = on_device(self.pixels, device)
        return Data(
            index=self.index,
            pixels=self.pixels,
            lookup=self.lookup,
            rows={side: np.flatnonzero(self.folds[fold] == side) for side in datasets.SPLITS},
            mean=mean,
            std=std,
            digest=self.digest,
            fingerprint=self.fingerprint,
            identical=self.identical,
            folds=len(self.folds),
            grey=self.grey,
        )


@dataclass(frozen=True)
class Places:
    """Where a dataset lies, where what is made of it goes, and how many threads decode it."""

    data_dir: str | None = None
    output_dir: str = "runs"
    workers: int = 2


def read_index(name: str, how: Preparation, options: datasets.Options, places: Places) -> tuple[Index, images.Pixels]:
    """The index of a dataset and its decoded pixels, unreadable images still among them."""
    output = Path(places.output_dir).resolve()
    own = name not in datasets.DATASETS and name not in datasets.DEMOS and Path(name).is_dir()
    if own and output.is_relative_to(Path(name).resolve()):
        raise DataError(f"--output-dir {places.output_dir} lies in the data folder {name}; put it elsewhere")
    index = datasets.load_index(name, places.data_dir, options)
    index.name += datasets.variant_name(name, options)
    if how.positive or (index.task == "multiclass" and len(index.classes) == 2):
        set_positive(index, how.positive)
    if how.metric:
        set_metric(index, how.metric)
    print(f"\ndata {index.name}: {len(index)} images, {len(index.classes)} classes, {index.task}", flush=True)
    cache = Path(places.output_dir) / "cache" / datasets.safe_name(index.name)
    rules = {"resize": how.resize, "bits": how.bit_depth, "workers": places.workers}
    pixels = images.decode(index.sources(), how.img_size, cache, **rules, progress=DecodeProgress())
    channels = "grey" if pixels.data.shape[1] == 1 else "colour"
    print(f"  {pixels.found}; decoded once to {how.img_size} px {channels}, in {duration(pixels.seconds)}")
    return index, pixels


def set_metric(index: Index, metric: str) -> None:
    """Another metric than the dataset's own chooses the checkpoint."""
    offered = metrics.names(index.task, len(index.classes), video=index.unit_score == "video")
    if metric not in offered:
        raise DataError(f"unknown --metric {metric}; {index.name} has {', '.join(offered)}")
    if metrics.METRICS[metric].needs_threshold:
        raise DataError(f"--metric {metric} depends on a threshold that is chosen later; take auroc, say")
    if metric == index.second:  # not the same column twice
        index.second = index.metric
    index.metric = metric


def set_positive(index: Index, positive: str | None) -> None:
    """Of two classes the second is the positive one: of sensitivity, PPV, average precision."""
    if positive is not None:
        if index.task != "multiclass" or positive not in index.classes or len(index.classes) != 2:
            what = "several labels, each with its own positives" if index.task == "multilabel" else "the classes"
            raise DataError(f"--positive {positive}: {index.name} has {what}: {', '.join(index.classes)}")
        if index.classes[0] == positive:
            index.classes, index.labels = index.classes[::-1], 1 - index.labels
    index.notes.append(f"positive class: {index.classes[1]} (--positive changes it)")
    if re.search(r"normal(?<!abnormal)|healthy|^no|neg|benign|control", index.classes[1], re.IGNORECASE):
        index.notes.append(f"is {index.classes[1]} really the finding? Sensitivity is that of the positive class")


def prepare(name: str, how: Preparation, options: datasets.Options, places: Places, *, write: bool = True) -> Prepared:
    """Index, pixels and folds of one dataset; prints what a careful person would ask. write: the splits to a
    CSV."""
    index, pixels = read_index(name, how, options, places)
    lookup, identical, remarks = np.arange(len(index)), pixels.identical, pixels.remarks(index.paths)
    if pixels.bad:
        lines = "\n".join(f"  {index.paths[i]}: {why}" for i, why in pixels.bad)
        if not how.skip_bad:
            many = f"{len(pixels.bad)} of {len(index)} images cannot be read (--skip-bad leaves them out)"
            raise DataError(f"{index.name}: {many}:\n{lines}")
        print(f"  left out, unreadable, in every strategy alike: {len(pixels.bad)}\n{lines}")
        lookup = np.setdiff1d(lookup, [i for i, _ in pixels.bad])
        new, index = {old: i for i, old in enumerate(lookup.tolist())}, index.keep(lookup)
        identical = [same for rows in identical if len(same := [new[i] for i in rows if i in new]) > 1]
    for text in index.notes:
        print(f"  note: {text}")
    for text in [*index.warnings, *remarks]:
        print(f"  WARNING: {text}")
    folds = cut_folds(index, identical, how)
    for k, split in enumerate(folds):
        print_split(index, identical, split, k if len(folds) > 1 else None)
    if write:
        file = f"{datasets.safe_name(index.name)}-seed{how.split_seed}-folds{len(folds)}.csv"
        written = splits.write_splits(Path(places.output_dir) / "splits" / file, index, folds)
        print(f"  written: {written}", flush=True)
    fingerprint = index.fingerprint(splits.clusters(index, identical))
    return Prepared(
        index=index,
        pixels=pixels.data,
        lookup=lookup,
        folds=folds,
        digest=pixels.digest,
        fingerprint=fingerprint,
        identical=identical,
        grey=pixels.grey,
    )


def cut_folds(index: Index, identical: list[list[int]], how: Preparation) -> list[np.ndarray]:
    """The folds that the settings ask for."""
    if how.splits_file:
        folds = splits.read_splits(Path(how.splits_file), index)
    else:
        fractions = {"val_fraction": how.val_fraction, "test_fraction": how.test_fraction}
        folds = splits.make_splits(index, identical, seed=how.split_seed, **fractions, folds=how.folds)
    if how.drop_duplicates:
        folds = [splits.without_copies(identical, sides) for sides in folds]
        for sides in folds:
            kept = np.flatnonzero(sides != "")
            splits.check_split(index.keep(kept), sides[kept], "without the copies")
    return folds


def check(name: str, how: Preparation, options: datasets.Options, places: Places) -> bool:
    """--check-data: prints the table, writes data_check.csv. Returns whether something must be mended."""
    index, pixels = read_index(name, how, options, places)
    try:
        folds, torn = cut_folds(index, pixels.identical, how), []
    except DataError as error:
        folds, torn = [], [str(error)]
    found = {"bad": pixels.bad, "identical": pixels.identical, "found": pixels.found}
    found |= {"warnings": pixels.remarks(index.paths), "near": partial(images.near_copies, pixels.data)}
    rows, problems, warnings = splits.check_data(index, folds, **found, problems=torn)
    print(f"  {'table':<10} {'split':<6} {'class':<24} {'images':>8} {'groups':>8} {'units':>8}  official")
    for row in (row for row in rows if row["images"] != ""):
        name = row["class"] or "all"
        counts = f"{row['images']:>8} {row['groups']:>8} {row['units']:>8}"
        print(f"  {row['table']:<10} {row['split']:<6} {name:<24} {counts}  {row['official']}")
    said = {"groups": splits.group_lines(index), "note": index.notes, "warning": warnings, "MUST BE MENDED": problems}
    for kind, texts in said.items():
        for text in texts:
            print(f"  {kind}: {text}")
    file = Path(places.output_dir) / "splits" / f"{datasets.safe_name(index.name)}-data_check.csv"
    runs.write_atomically(file, runs.to_safe_csv(rows))
    print(f"  written: {file}")
    return bool(problems)


def print_split(index: Index, identical: list[list[int]], split: np.ndarray, fold: int | None) -> None:
    at = "" if fold is None else f"fold {fold}: "
    of_split = [(g, c, side) for g, c, side in zip(index.groups, splits.clusters(index, identical), split, strict=True)]
    for side in datasets.SPLITS:
        groups, different = ({row[k] for row in of_split if row[2] == side} for k in (0, 1))
        rows = np.flatnonzero(split == side)
        shown = ", ".join(f"{name} {count}" for name, count in class_counts(index, rows).items())
        of = "" if index.group_kind == "image" else f" of {len(groups)} {splits.unit_name(index, 'groups')}"
        of += f", {len(different)} of them different" if len(different) < len(groups) else ""
        print(f"  {at}{side:<5} {len(rows):>6} images{of}: {shown}")
    shared = shared_groups(index, split)
    left_out = int((split == "").sum())
    spans = splits.spanning(identical, split)
    print(f"  {at}{index.group_kind}s in two splits: {shared}" + (f"; {left_out} images left out" if left_out else ""))
    if spans:
        pairs = Counter(" and ".join(sorted({str(split[i]) for i in rows} - {""})) for rows in spans)
        said = ", ".join(f"{n} in {where}" for where, n in pairs.items())
        example = " = ".join(index.paths[i] for i in spans[0][:2])
        official = is_official(index, np.flatnonzero(split == "test"))
        kept = "the official split is left as it is, " if official else ""
        found = f"{len(spans)} groups of byte-identical images are in two splits ({said}), e.g. {example}"
        print(f"  {at}WARNING: {found}; {kept}--drop-duplicates takes the copies out of training")


def shared_groups(index: Index, split: np.ndarray) -> int:
    """How many groups stand in two splits: counted anew, whatever made the split."""
    sides: dict[str, set] = {}
    for group, side in zip(index.groups, split, strict=True):
        sides.setdefault(group, set()).add(str(side))
    return sum(len(found - {""}) > 1 for found in sides.values())


class DecodeProgress:
    """Rate and remaining time of decoding: a moving line on a terminal, a line every ten seconds
    otherwise."""

    def __init__(self):
        self.started, self.said = time.perf_counter(), time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now, live = time.perf_counter(), sys.stderr.isatty()
        if now - self.said < (0.2 if live else 10) and not (live and done == total):
            return
        self.said, rate = now, done / (now - self.started)
        text = f"  decoding {done} of {total}, {rate:.0f} images/s, {duration((total - done) / rate)} left"
        ending = ("\r\033[K", "\n" if done == total else "") if live else ("", "\n")
        print(ending[0] + text, end=ending[1], file=sys.stderr, flush=True)


def on_device(pixels: Tensor, device: str) -> Tensor:
    """The whole dataset on the GPU where it takes under a quarter of the free memory: no loader is faster."""
    if not device.startswith("cuda") or pixels.is_cuda or pixels.numel() > torch.cuda.mem_get_info(device)[0] / 4:
        return pixels
    return pixels.to(device)


def judge_scores(index: Index, rows: np.ndarray, scores: np.ndarray, thresholds: list[float] | None = None) -> dict:
    """metrics.evaluate on the dataset's unit (study, patient, ...), and for each of its subgroups (MURA's
    regions).
    thresholds: one for two classes, one a label for multilabel."""
    threshold = {"thresholds": thresholds} if index.task == "multilabel" else {"threshold": (thresholds or [0.5])[0]}

    def judge(rows, scores, **videos):
        values, labels = in_units(index, rows, scores)
        return metrics.evaluate(index.task, values, labels, index.classes, **threshold, **videos)

    videos = {}
    if index.unit_score == "video":
        videos = {"videos": np.array(index.units)[rows], "leave_out": index.leave_out}
    result = judge(rows, scores, **videos)
    if index.subgroups is not None:
        parts = np.array(index.subgroups)[rows]
        result["subgroups"] = {str(p): judge(rows[parts == p], scores[parts == p])["values"] for p in np.unique(parts)}
    return result


def in_units(index: Index, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores, labels) of the units of evaluation that the images belong to; a video is no unit with one
    label."""
    if index.units is None or index.unit_score == "video":
        return scores, index.labels[rows]
    return metrics.aggregate(scores, index.labels[rows], np.array(index.units)[rows], index.unit_score)[:2]


def without_both(index: Index, rows: np.ndarray, scores: np.ndarray) -> list[str]:
    """The labels (of two classes the positive one) that these images have no positive or no negative of: a
    threshold cannot be chosen on them, choose_thresholds gives 0.5."""
    if index.task == "multiclass" and len(index.classes) != 2:
        return []
    labels = in_units(index, rows, scores)[1].astype(float)
    columns = labels[:, None] if index.task == "multiclass" else labels
    names = index.classes[1:] if index.task == "multiclass" else index.classes
    return [name for name, y in zip(names, columns.T, strict=True) if not (y == 1).any() or not (y == 0).any()]


def choose_thresholds(index: Index, rows: np.ndarray, scores: np.ndarray, rule: str) -> list[float] | None:
    """From validation scores: 0.5, youden, or sensitivity=0.9. None: more than two classes."""
    if index.task == "multiclass" and len(index.classes) != 2:
        return None
    values, labels = in_units(index, rows, scores)
    multiclass = index.task == "multiclass"
    columns = [(values[:, 1], labels)] if multiclass else zip(values.T, labels.T, strict=True)
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
