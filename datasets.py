"""What lies on disk -> an index of images, labels and groups -> splits that no patient crosses.

    index = load_index("my_images/")                  # or "data.csv", "bloodmnist.npz", "t1w", "demo"
    folds = make_splits(index, seed=0)                # folds[0]: "train", "val" or "test" for each image
    write_splits("splits.csv", index, folds)

An index is built without decoding anything. A group (patient, video) is what must never stand on two sides of a split.
Imports numpy and torchvision; copied alone into another project it works.
Order: the index, the datasets, the user's own files, demo, splits.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "test": "test", "testing": "test"}  # fmt: skip
SPLITS = ("train", "val", "test")


class DataError(ValueError):
    """Something about the user's data that has to be mended; the message says what, where and how."""


def listing(items: Iterable, total: int | None = None, most: int = 3) -> str:
    """'3 in all: a, b, c' in the form that every message here uses: the count and the first few."""
    items = list(items)
    total = len(items) if total is None else total
    return ", ".join(map(str, items[:most])) + (f" and {total - most} more" if total > most else "")


# ---------------------------------------------------------------------------------------------------------- the index


@dataclass
class Index:
    """What a dataset is, before any image is decoded. N images.

    paths: N names, unique, relative to root where they are files. labels: (N,) int64 class numbers (multiclass), or
    (N, L) float32 0/1 with nan for unknown (multilabel). groups: N strings. official: N strings train/val/test, or ""
    where the dataset leaves it open.
    metric, second: names in metrics.evaluate. group_kind: what a group is; "image" means an image-level split.
    units, unit_score: image -> unit of evaluation (study, ...) and how scores of a unit are joined (mean, max)."""

    name: str
    task: str
    classes: list[str]
    paths: list[str]
    labels: np.ndarray
    groups: list[str]
    official: list[str]
    root: Path
    metric: str = ""
    second: str = ""
    group_kind: str = "image"
    units: list[str] | None = None
    unit_score: str = "mean"
    notes: list[str] = field(default_factory=list)
    arrays: list[np.ndarray] | None = None  # pixels that are no files: npz, demo

    def __post_init__(self):
        defaults = (
            ("auroc", "average_precision") if self.task == "multilabel" else ("balanced_accuracy", "accuracy")
        )
        self.metric, self.second = self.metric or defaults[0], self.second or defaults[1]

    def __len__(self) -> int:
        return len(self.paths)

    def sources(self) -> list[Path] | list[np.ndarray]:
        """What to decode: files, or the pixels of an npz."""
        return [self.root / path for path in self.paths] if self.arrays is None else self.arrays

    def keep(self, rows: Iterable[int]) -> Index:
        """The index of these rows alone."""
        rows = list(rows)
        picked = {name: [getattr(self, name)[i] for i in rows] for name in ("paths", "groups", "official")}
        units = self.units and [self.units[i] for i in rows]
        arrays = self.arrays and [self.arrays[i] for i in rows]
        return replace(self, **picked, labels=self.labels[rows], units=units, arrays=arrays)

    def label_text(self, i: int) -> str:
        if self.task == "multiclass":
            return self.classes[self.labels[i]]
        return "|".join(c for c, y in zip(self.classes, self.labels[i]) if y == 1)

    def fingerprint(self) -> str:
        """A hash of what is learnt from: paths, labels, groups."""
        text = json.dumps([self.task, self.classes, self.paths, self.groups, self.official])
        return hashlib.sha256(text.encode() + np.ascontiguousarray(self.labels).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Options:
    """What the command line may say about the files."""

    path_col: str = "path"
    label_col: tuple[str, ...] = ("label",)
    group_col: str | None = None
    split_col: str | None = None
    group_regex: str | None = None


def load_index(data: str, data_dir: str | None = None, options: Options = Options()) -> Index:
    """The index of a named dataset, or of the user's own folder, CSV or npz. Raises DataError."""
    if data in DATASETS:
        index = DATASETS[data].load(data_dir, options)
    elif data.startswith("demo"):
        index = demo(data)
    else:
        index = own_data(Path(data).expanduser(), data_dir, options)
    index.notes += [f"image-level split: {index.name} names no groups (patients, videos)"] * (
        index.group_kind == "image"
    )
    if len(index) == 0:
        raise DataError(f"{data}: no images found")
    return index


# -------------------------------------------------------------------------------------------------------- the datasets


@dataclass(frozen=True)
class Dataset:
    """A public dataset. markers: what its folder holds, any of them; build: (root, options) -> Index."""

    name: str
    title: str
    build: Callable[[Path, Options], Index]
    markers: tuple[str, ...]
    site: str
    access: str
    citation: str

    def load(self, data_dir: str | None, options: Options) -> Index:
        return replace(self.build(self.find(data_dir), options), name=self.name)

    def find(self, data_dir: str | None) -> Path:
        """The folder that holds one of the markers: data_dir, $FTCOMPARE_DATA or ./data, their children named like the
        dataset, and every folder in them."""
        bases = [data_dir] if data_dir else [os.environ.get("FTCOMPARE_DATA"), "data"]
        places = [Path(base).expanduser() for base in bases if base]
        for place in places:
            children = sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else []
            for folder in [place, *children]:
                if any(next(folder.glob(marker), None) for marker in self.markers):
                    return folder
        raise DataError(
            f"{self.name} not found: looked for {' or '.join(self.markers)} in {' and '.join(map(str, places))} and one "
            f"folder below. Get it from {self.site} ({self.access}), unpack it and pass --data-dir FOLDER"
        )


def t1w(root: Path, options: Options) -> Index:
    """T1w brain MRI, Kaggle form: {Training,Testing}/{glioma,meningioma,no,pituitary}[_tumor], also `notumor`."""
    index = class_folders(root, options)
    names = [re.sub(r"[_ ]?tumou?r$", "", name.lower()) or name for name in index.classes]
    names = ["notumor" if name == "no" else name for name in names]
    expected = {"glioma", "meningioma", "notumor", "pituitary"}
    if set(names) != expected:
        raise DataError(
            f"{root}: classes are {listing(index.classes, most=9)}; t1w has {listing(expected, most=9)}"
        )
    return replace(index, classes=names, metric="accuracy", second="macro_f1")


DATASETS: dict[str, Dataset] = {
    "t1w": Dataset(
        "t1w",
        "T1-weighted brain MRI, tumour type",
        t1w,
        ("Training/*", "Training"),
        "kaggle.com/datasets/sartajbhuvaji/brain-tumor-classification-mri",
        "open, 90 MB",
        "Cheng et al., PLoS ONE 2015; Bhuvaji et al., Kaggle 2020",
    ),
}


# ------------------------------------------------------------------------------------------------- the user's own data


def own_data(path: Path, data_dir: str | None, options: Options) -> Index:
    if path.is_dir():
        return class_folders(path, options)
    if not path.exists():
        known = ", ".join([*DATASETS, "demo"])
        raise DataError(f"--data {path}: neither a file or folder nor a dataset; the datasets are {known}")
    if path.suffix == ".npz":
        return npz(path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return table(path, Path(data_dir).expanduser() if data_dir else path.parent, options)
    raise DataError(f"--data {path}: give a folder of class folders, a .csv or an .npz")


def class_folders(root: Path, options: Options) -> Index:
    """root/<class>/**/*.png, or root/{train,val,test}/<class>/**/*.png, also Training, Testing, valid."""
    folders = subfolders(root)
    by_split = {
        folder: SPLIT_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_NAMES
    }
    notes = []
    if by_split:
        if extra := [f.name for f in folders if f not in by_split]:
            notes.append(f"left out, beside the splits' folders: {listing(extra)}")
        places = [(split, c) for folder, split in by_split.items() for c in subfolders(folder)]
    else:
        places = [("", folder) for folder in folders]
    found, other, nested = [], Counter(), 0
    for split, folder in places:
        images = 0
        for file in walk(folder):
            if file.suffix.lower() in IMG_EXTENSIONS:
                found.append((file.relative_to(root).as_posix(), folder.name, split))
                images, nested = images + 1, nested + (file.parent != folder)
            else:
                other[file.suffix.lower() or file.name] += 1
        if not images:
            raise DataError(f"{folder}: a class folder without images; fill or remove it")
    if not found:
        loose = sum(file.suffix.lower() in IMG_EXTENSIONS for file in walk(root))
        what = f"{loose} images lie in it, but in no class folder" if loose else "there is no image in it"
        raise DataError(
            f"{root}: {what}; expected {root.name}/<class>/*.png or {root.name}/train/<class>/*.png"
        )
    if other:
        notes.append("no images, left out: " + listing(f"{n} {suffix}" for suffix, n in other.most_common()))
    if nested and not options.group_regex:
        notes.append(f"{nested} images lie deeper than their class folder: if those folders are patients, name them "
                     "with --group-regex, as in '([^/]+)/[^/]+$'")  # fmt: skip
    classes = sorted({c for _, c, _ in found}, key=natural)
    paths = [p for p, _, _ in found]
    labels = np.array([classes.index(c) for _, c, _ in found], dtype=np.int64)
    groups, kind = groups_by_regex(paths, options.group_regex)
    official = [s for _, _, s in found]
    return Index(root.resolve().name, "multiclass", classes, paths, labels, groups, official, root, group_kind=kind,
                 notes=notes)  # fmt: skip


def subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and visible(p.name))


def visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def walk(folder: Path) -> Iterable[Path]:
    """All files below, sorted, without hidden ones (._x.png, .DS_Store) and __MACOSX."""
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(filter(visible, folders))
        yield from (Path(at) / file for file in sorted(filter(visible, files)))


def natural(text: str) -> tuple:
    """Sort key: numbers by value where a name is one, text after them."""
    return (0, int(text), "") if re.fullmatch(r"-?\d+", text) else (1, 0, text)


def groups_by_regex(paths: list[str], pattern: str | None) -> tuple[list[str], str]:
    """(groups, kind). The first group of the pattern in the file name, in the whole path where the pattern has a /."""
    if pattern is None:
        return list(paths), "image"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--group-regex {pattern!r} is no regular expression: {error}") from None
    matches = [compiled.search(p if "/" in pattern else p.rpartition("/")[2]) for p in paths]
    if missed := [p for p, m in zip(paths, matches) if m is None]:
        raise DataError(
            f"--group-regex {pattern!r} does not match {len(missed)} of {len(paths)} names: {listing(missed)}"
        )
    return [m.group(1 if compiled.groups else 0) for m in matches], "group"


def read_table(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV as text (a leading zero stays, NA is a value); comma, semicolon or tab; BOM or not."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    lines = text.splitlines()
    if not lines:
        raise DataError(f"{file}: empty")
    delimiter = max(",;\t", key=lines[0].count)
    header, *rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    if repeated := [name for name, n in Counter(header).items() if n > 1]:
        raise DataError(f"{file}: columns that stand twice in the header: {listing(repeated)}")
    rows = [(i, row) for i, row in enumerate(rows, 2) if any(row)]
    if bad := [f"row {i} has {len(row)}" for i, row in rows if len(row) != len(header)]:
        raise DataError(f"{file}: the header has {len(header)} columns, but {listing(bad)}")
    return header, [dict(zip(header, row)) for _, row in rows]


def inside(root: Path, paths: list[str], source: str) -> list[str]:
    """The paths relative to root. DataError for all that leave it and for all that are no file."""
    base = root.resolve()
    leaving, missing, relative = [], [], []
    for path in paths:
        full = Path(os.path.normpath(base / path))
        if not full.is_relative_to(base):
            leaving.append(path)
        elif not full.is_file():
            missing.append(path)
        else:
            relative.append(full.relative_to(base).as_posix())
    if leaving:
        raise DataError(f"{source}: {len(leaving)} paths leave the data folder {root}: {listing(leaving)}")
    if missing:
        raise DataError(f"{source}: {len(missing)} of {len(paths)} images are not below {root}: {listing(missing)}; "
                        "the folder is the CSV's own, or --data-dir")  # fmt: skip
    return relative


def table(file: Path, root: Path, options: Options) -> Index:
    """A CSV with a header: path,label[,group][,split]. Several labels: a|b in one column, or 0/1 columns (blank:
    unknown, masked out) named in --label-col."""
    header, rows = read_table(file)
    group_col = options.group_col or ("group" if "group" in header else None)
    split_col = options.split_col or ("split" if "split" in header else None)
    flags = {"--path-col": [options.path_col], "--label-col": options.label_col,
             "--group-col": [group_col] if group_col else [], "--split-col": [split_col] if split_col else []}  # fmt: skip
    if absent := [f"{c} ({flag})" for flag, names in flags.items() for c in names if c not in header]:
        raise DataError(f"{file}: no column {listing(absent)}; its columns are {listing(header, most=12)}")
    if not rows:
        raise DataError(f"{file}: no rows below the header")
    paths = inside(root, [row[options.path_col] for row in rows], str(file))
    if twice := [p for p, n in Counter(paths).items() if n > 1]:
        raise DataError(f"{file}: {len(twice)} images are listed more than once: {listing(twice)}")
    task, classes, labels = read_labels(file, rows, options.label_col)
    notes = []
    if group_col:
        groups, kind = [row[group_col] for row in rows], group_col
        if blank := [p for p, g in zip(paths, groups) if not g]:
            raise DataError(f"{file}: column {group_col} is blank for {len(blank)} images: {listing(blank)}")
    else:
        groups, kind = groups_by_regex(paths, options.group_regex)
        if hints := [
            c for c in header if re.search(r"patient|subject|person|case|video|study", c, re.IGNORECASE)
        ]:
            notes += [
                f"column {listing(hints)} looks like a group that must not be split: name it with --group-col"
            ]
    official = [""] * len(rows)
    if split_col:
        values = [row[split_col].lower() for row in rows]
        if bad := [f"{p}: {v!r}" for p, v in zip(paths, values) if v not in SPLIT_NAMES]:
            raise DataError(
                f"{file}: column {split_col} must say train, val or test; {len(bad)} rows do not: {listing(bad)}"
            )
        official = [SPLIT_NAMES[v] for v in values]
    return Index(
        file.stem, task, classes, paths, labels, groups, official, root, group_kind=kind, notes=notes
    )


def read_labels(file: Path, rows: list[dict], columns: tuple[str, ...]) -> tuple[str, list[str], np.ndarray]:
    """(task, classes, labels) of one column of names, or of several 0/1 columns."""
    if len(columns) > 1:
        known = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan}
        bad = [
            f"row {i}, {c}: {row[c]!r}"
            for i, row in enumerate(rows, 2)
            for c in columns
            if row[c] not in known
        ]
        if bad:
            raise DataError(
                f"{file}: label columns hold 0, 1 or nothing; {len(bad)} cells do not: {listing(bad)}"
            )
        return (
            "multilabel",
            list(columns),
            np.array([[known[row[c]] for c in columns] for row in rows], np.float32),
        )
    texts = [row[columns[0]] for row in rows]
    if any("|" in text for text in texts):
        sets = [set(filter(None, (part.strip() for part in text.split("|")))) for text in texts]
        classes = sorted(set().union(*sets), key=natural)
        return "multilabel", classes, np.array([[float(c in s) for c in classes] for s in sets], np.float32)
    if blank := [f"row {i}" for i, text in enumerate(texts, 2) if not text]:
        raise DataError(f"{file}: column {columns[0]} is blank in {len(blank)} rows: {listing(blank)}")
    classes = sorted(set(texts), key=natural)
    number = {c: i for i, c in enumerate(classes)}
    if len(classes) > max(20, len(rows) // 4):
        raise DataError(
            f"{file}: column {columns[0]} has {len(classes)} different values in {len(rows)} rows; is it a label?"
        )
    return "multiclass", classes, np.array([number[text] for text in texts], dtype=np.int64)


def npz(file: Path) -> Index:
    """MedMNIST's form: {train,val,test}_{images,labels}; images N x S x S [x 3] uint8, labels N x L integers."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not a readable npz without pickled objects: {error}") from None
    splits = [s for s in SPLITS if f"{s}_images" in arrays and f"{s}_labels" in arrays]
    if "train" not in splits:
        raise DataError(f"{file}: needs train_images and train_labels; it holds {listing(arrays, most=12)}")
    images, labels, official, paths = [], [], [], []
    for split in splits:
        x, y = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        y = y[:, None] if y.ndim == 1 else y
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] != 3):
            raise DataError(
                f"{file}: {split}_images is {x.dtype} {x.shape}; it must be uint8, N x S x S or N x S x S x 3"
            )
        if (
            len(x) != len(y)
            or y.ndim != 2
            or not np.issubdtype(y.dtype, np.number)
            or (y != np.round(y)).any()
        ):
            raise DataError(
                f"{file}: {split}_labels is {y.dtype} {y.shape}; it must be {len(x)} x L whole numbers"
            )
        images += list(x)
        labels.append(y.astype(np.int64))
        official += [split] * len(x)
        paths += [f"{split}/{i}" for i in range(len(x))]
    if len({y.shape[1] for y in labels}) > 1:
        raise DataError(f"{file}: the splits' labels have {sorted({y.shape[1] for y in labels})} columns")
    joined = np.concatenate(labels)
    if joined.shape[1] > 1:
        if not np.isin(joined, (0, 1)).all():
            raise DataError(f"{file}: labels with several columns must be 0 or 1")
        task, names, values = (
            "multilabel",
            [str(c) for c in range(joined.shape[1])],
            joined.astype(np.float32),
        )
    else:
        values_found, values = np.unique(joined[:, 0], return_inverse=True)
        task, names, values = "multiclass", [str(v) for v in values_found], values.astype(np.int64)
    return Index(file.stem, task, names, paths, values, list(paths), official, file.parent, arrays=images)


# ----------------------------------------------------------------------------------------------------------------- demo

DEMO_SIZE = 32  # pixels
# name of the class, lobes, depth of the lobes (share of the radius), hollow, share of the patients
DEMO_SOURCE = [(f"{lobes}-lobed-{'hollow' if hollow else 'solid'}", lobes, 0.45, hollow, 0.125)
               for lobes in (0, 3, 5, 8) for hollow in (False, True)]  # fmt: skip
DEMO_TARGET = [("normal", 0, 0.0, None, 0.4), ("cyst", 0, 0.0, True, 0.3), ("lobed", 4, 0.4, False, 0.2),
               ("spiculated", 7, 0.55, False, 0.1)]  # fmt: skip


def demo(name: str = "demo", seed: int = 0) -> Index:
    """Pictures made by code, the same on every machine, with the traits of medical data: greyscale, several images of
    each patient, rare classes, a bright lesion in a body of its own brightness. `demo-source`, the larger task to
    pretrain on, has eight shapes; `demo`, the target, has four others in noisier, darker pictures (another scanner)."""
    kinds = {"demo": (DEMO_TARGET, 260, 1), "demo-source": (DEMO_SOURCE, 1200, 0)}
    if name not in kinds:
        raise DataError(f"unknown dataset {name!r}; choose demo or demo-source")
    shapes, patients, shift = kinds[name]
    rng = np.random.default_rng([seed, shift])
    label_of = np.repeat(
        np.arange(len(shapes)), np.round([shape[4] * patients for shape in shapes]).astype(int)
    )
    images, labels, groups = [], [], []
    for patient, label in enumerate(rng.permutation(label_of)):
        body = demo_body(rng)
        for _ in range(rng.integers(2, 5)):
            images.append(demo_image(rng, body, *shapes[label][1:4], shift))
            labels.append(label)
            groups.append(f"p{patient:04d}")
    paths = [f"{group}-{i:04d}" for i, group in enumerate(groups)]
    return Index(name, "multiclass", [s[0] for s in shapes], paths, np.array(labels, np.int64), groups, [""] * len(paths),
                 Path("."), group_kind="patient", arrays=images)  # fmt: skip


def demo_body(rng: np.random.Generator) -> np.ndarray:
    """A patient: an ellipse with soft organs, (32, 32) float in 0..1."""
    y, x = np.mgrid[-1 : 1 : DEMO_SIZE * 1j, -1 : 1 : DEMO_SIZE * 1j]
    radius = np.sqrt((x / rng.uniform(0.8, 1.0)) ** 2 + (y / rng.uniform(0.8, 1.0)) ** 2)
    body = rng.uniform(0.25, 0.4) / (1 + np.exp(20 * (radius - 0.92)))
    for _ in range(6):
        cx, cy, width = rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.35)
        body += rng.uniform(-0.1, 0.12) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / width**2)
    return body


def demo_image(rng, body, lobes: int, depth: float, hollow: bool | None, shift: int) -> np.ndarray:
    """One picture of the patient, (32, 32) uint8. The lesion's edge is at radius * (1 + depth * cos(lobes * angle))."""
    y, x = np.mgrid[-1 : 1 : DEMO_SIZE * 1j, -1 : 1 : DEMO_SIZE * 1j]
    image = np.roll(body, rng.integers(-2, 3, size=2), axis=(0, 1))
    cx, cy = rng.uniform(-0.4, 0.4, size=2)
    distance, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
    edge = rng.uniform(0.28, 0.42) * (1 + depth * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi)))
    inside_edge = 1 / (1 + np.exp((distance - edge) * 40))
    if hollow is None:  # a normal finding: a soft bright spot that has no edge
        lesion = np.exp(-(distance**2) / 0.06)
    elif hollow:
        lesion = inside_edge - 1 / (1 + np.exp((distance - 0.6 * edge) * 40))
    else:
        lesion = inside_edge
    image = image + rng.uniform(0.18, 0.4) * lesion * (0.8 if shift else 1.0)
    bias = 1 + 0.25 * shift * (rng.uniform(-1, 1) * x + rng.uniform(-1, 1) * y)
    image = (0.75 if shift else 1.0) * image * bias + rng.normal(0, 0.085 if shift else 0.05, image.shape)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------------- splits


def make_splits(
    index: Index,
    identical: list[list[int]] = (),
    *,
    seed: int = 0,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    folds: int = 1,
) -> list[np.ndarray]:
    """For each fold an array of N strings, train, val or test. Official splits are kept; what is missing is cut from
    the training images, by group and stratified by label, the same from the same seed.

    folds > 1 without official test images: each fold is the test set once and validation is cut from the rest. With
    them, they are every fold's test set and the folds take turns as validation. identical: lists of rows with the same
    bytes, which are never cut apart. Raises DataError for a group on two sides or a class missing on one."""
    official = np.array(index.official)
    has_val, has_test = "val" in official, "test" in official
    units = tied_groups(index.groups, identical)
    rng = np.random.default_rng(seed)
    result = []
    if folds > 1:
        pool = np.flatnonzero(official != "test")
        parts = cut(index, units, pool, np.full(folds, 1 / folds), rng)
        for k in range(folds):
            split = official.astype("<U5")
            held, rest = pool[parts == k], pool[parts != k]
            split[rest], split[held] = "train", "val" if has_test else "test"
            if not has_test:
                split[rest[cut(index, units, rest, np.array([1 - val_fraction, val_fraction]), rng) == 1]] = (
                    "val"
                )
            result.append(split)
    else:
        shares = {"train": 1.0}
        shares |= {} if has_val else {"val": val_fraction}
        shares |= {} if has_test else {"test": test_fraction}
        shares["train"] -= sum(shares.values()) - 1
        if shares["train"] <= 0:
            raise DataError(f"val and test fractions leave nothing to train on: {shares}")
        pool = np.flatnonzero((official == "") | (official == "train"))
        split = official.astype("<U5")
        names = np.array(list(shares))
        split[pool] = names[cut(index, units, pool, np.array(list(shares.values())), rng)]
        result.append(split)
    for k, split in enumerate(result):
        check_split(index, split, f"fold {k}" if folds > 1 else "")
    return result


def tied_groups(groups: list[str], identical: Iterable[list[int]]) -> np.ndarray:
    """Group number of each image, groups that share byte-identical images being one."""
    names, number = np.unique(np.array(groups), return_inverse=True)
    parent = np.arange(len(names))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for rows in identical:
        for row in rows[1:]:
            parent[root(number[row])] = root(number[rows[0]])
    return np.array([root(i) for i in range(len(names))])[number]


def strata(index: Index) -> np.ndarray:
    """(N, C) 0/1: the class of each image, or its labels and "none of them"."""
    if index.task == "multiclass":
        return np.eye(len(index.classes))[index.labels]
    known = np.nan_to_num(index.labels)
    return np.column_stack([known, known.sum(axis=1) == 0]).astype(float)


def cut(index: Index, units: np.ndarray, pool: np.ndarray, shares: np.ndarray, rng) -> np.ndarray:
    """Part number (0..len(shares)-1) of each image of the pool; whole groups only.

    Groups go, those with the rarest class first and larger ones before smaller ones, to the part whose counts per class
    they bring closest to its share. A class with as many groups left as parts that lack it goes to those parts."""
    if len(shares) == 1:
        return np.zeros(len(pool), dtype=int)
    _, group = np.unique(units[pool], return_inverse=True)
    counts = np.zeros((group.max() + 1, strata(index).shape[1]))
    np.add.at(counts, group, strata(index)[pool])
    present = counts > 0
    groups_with = present.sum(axis=0)
    rarity = np.where(present, groups_with, len(counts) + 1).min(axis=1)
    order = np.lexsort((rng.random(len(counts)), -counts.sum(axis=1), rarity))
    totals = np.maximum(counts.sum(axis=0), 1)
    have = np.zeros((len(shares), counts.shape[1]))
    left, part = groups_with.copy(), np.zeros(len(counts), dtype=int)
    for g in order:
        after = ((have + counts[g]) / totals - shares[:, None]) ** 2
        cost = (after - (have / totals - shares[:, None]) ** 2).sum(axis=1)
        rare = int(np.where(present[g], groups_with, len(counts) + 1).argmin())
        lacking = have[:, rare] == 0
        if lacking.any() and left[rare] <= lacking.sum():
            cost[~lacking] = np.inf
        part[g] = cost.argmin()
        have[part[g]] += counts[g]
        left -= present[g]
    return part[group]


def check_split(index: Index, split: np.ndarray, where: str = "") -> None:
    """DataError where a group is in two splits, or a class (multiclass) or any image is missing from one."""
    at = f"{index.name}{', ' + where if where else ''}"
    sides = defaultdict(set)
    for group, side in zip(index.groups, split):
        sides[group].add(str(side))
    if torn := [f"{g} ({' and '.join(sorted(s))})" for g, s in sides.items() if len(s) > 1]:
        raise DataError(f"{at}: {len(torn)} {index.group_kind}s are in two splits: {listing(torn)}")
    for side in SPLITS:
        rows = np.flatnonzero(split == side)
        if not len(rows):
            raise DataError(f"{at}: no image is in {side}; {len(sides)} {index.group_kind}s in all")
        if index.task == "multiclass":
            lacking = [c for i, c in enumerate(index.classes) if not (index.labels[rows] == i).any()]
            if lacking:
                of = {
                    c: len({g for g, y in zip(index.groups, index.labels) if index.classes[y] == c})
                    for c in lacking
                }
                raise DataError(
                    f"{at}: class {listing(lacking)} is absent from {side} ({listing(of.items(), most=1)} "
                    f"{index.group_kind}s in all); it needs one in each split: join classes, add data, or change the split"
                )


def write_splits(file: Path, index: Index, folds: list[np.ndarray]) -> None:
    """image,group,label,split,fold: a row per image and fold, to be read, edited and handed back."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["image", "group", "label", "split", "fold"])
        for k, split in enumerate(folds):
            writer.writerows(
                (path, group, index.label_text(i), split[i], k)
                for i, (path, group) in enumerate(zip(index.paths, index.groups))
            )
    os.replace(temporary, file)


def read_splits(file: Path, index: Index) -> list[np.ndarray]:
    """The folds of a splits.csv. An image with a blank split is left out ("") of that fold."""
    if not Path(file).is_file():
        raise DataError(f"--splits-file {file}: no such file")
    header, rows = read_table(Path(file))
    if absent := [c for c in ("image", "split") if c not in header]:
        raise DataError(f"{file}: no column {listing(absent)}; its columns are {listing(header, most=12)}")
    row_of = {path: i for i, path in enumerate(index.paths)}
    if unknown := [r["image"] for r in rows if r["image"] not in row_of]:
        raise DataError(f"{file}: {len(unknown)} images are not in {index.name}: {listing(unknown)}")
    if wrong := [
        f"{r['image']}: {r['split']!r}" for r in rows if r["split"].lower() not in (*SPLIT_NAMES, "")
    ]:
        raise DataError(
            f"{file}: the split must be train, val or test; {len(wrong)} rows are not: {listing(wrong)}"
        )
    numbers = sorted({r.get("fold", "0") for r in rows}, key=natural)
    folds = []
    for number in numbers:
        mine = [r for r in rows if r.get("fold", "0") == number]
        if twice := [p for p, n in Counter(r["image"] for r in mine).items() if n > 1]:
            raise DataError(f"{file}: {len(twice)} images stand twice in fold {number}: {listing(twice)}")
        if missing := sorted(set(row_of) - {r["image"] for r in mine}):
            raise DataError(
                f"{file}: {len(missing)} images of {index.name} are not in fold {number}: {listing(missing)}"
            )
        split = np.full(len(index), "", dtype="<U5")
        for r in mine:
            split[row_of[r["image"]]] = SPLIT_NAMES.get(r["split"].lower(), "")
        used = np.flatnonzero(split != "")
        check_split(index.keep(used), split[used], f"{file}, fold {number}")
        folds.append(split)
    return folds


def spanning(identical: list[list[int]], split: np.ndarray) -> list[list[int]]:
    """The lists of identical images that stand in two splits."""
    return [rows for rows in identical if len({split[i] for i in rows} - {""}) > 1]


def without_copies(identical: list[list[int]], split: np.ndarray) -> np.ndarray:
    """The split with copies taken out: of images in test those in train and val, of images in val those in train."""
    split = split.copy()
    for rows in spanning(identical, split):
        keep = max((split[i] for i in rows), key=("", *SPLITS).index)
        for i in rows:
            if split[i] != keep:
                split[i] = ""
    return split


def safe_name(text: str) -> str:
    """A name fit for a folder."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "data"
