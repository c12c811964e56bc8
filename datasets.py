"""What lies on disk -> an index of images, labels and groups.

    index = load_index("my_images/")                  # or "data.csv", "bloodmnist.npz", "demo"
    index = load_index("mura", "archives/")           # or another of DATASETS: its archive as it was unpacked

An index is built without decoding anything. A group (patient, video) is what must never stand on two sides of
a split; splits.py cuts them. Imports numpy and torchvision (h5py for the .mat files of t1w alone); copied
alone, or with splits.py, into another project it works.
Order: the index, ids, the six datasets, finding them, the user's own files, reading tables, demo."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
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


def refuse(where: object, bad: Iterable, what: str) -> None:
    """DataError 'where: 3 what: a, b, c', if there is anything bad."""
    if bad := list(bad):
        raise DataError(f"{where}: {len(bad)} {what}: {listing(bad)}")


# -------------------------------------------------------------------------------------------------- the index


@dataclass
class Index:
    """What a dataset is, before any image is decoded. N images.

    paths: N names, unique, relative to root where they are files. labels: (N,) int64 class numbers
    (multiclass), or (N, L) float32 0/1 with nan for unknown (multilabel). groups: N strings. official: N
    strings train/val/test, or "" where the dataset leaves it open. metric, second: names in metrics.evaluate.
    group_kind: what a group is; "image" means an image-level split.
    spelt: N strings, each image's group as its file spells it, where that is not groups (one_spelling).
    notes, warnings: what is said of the data; a warning is for a person to judge.
    units: image -> unit of evaluation (a study), None where that is the image. unit_score: how a unit's
    images make one score, "mean" or "max"; "video": the AP of each class in each unit, then the mean over
    units, then over classes (metrics.video_mean_average_precision, metric "video_map"), without the classes
    in leave_out.
    subgroups: image -> part of the data for which the metric is also given apart (MURA's body regions).
    official_folds: K official splits of N strings, for make_splits(folds=K); official is what folds=1 uses.
    counts: (official split or "all", class or "") -> {"images" | "groups" | "units": number in a full copy};
    a tuple of numbers where several editions exist. reader: makes what images.decode reads of a path that
    Pillow cannot open."""

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
    unit_kind: str = "image"
    unit_score: str = "mean"
    leave_out: tuple[int, ...] = ()
    subgroups: list[str] | None = None
    official_folds: list[list[str]] | None = None
    counts: dict[tuple[str, str], dict[str, int | tuple[int, ...]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    spelt: list[str] | None = None
    citation: str = ""  # of a public dataset
    arrays: list[np.ndarray] | None = None  # pixels that are no files: npz, demo
    reader: Callable[[Path], os.PathLike] | None = None

    def __post_init__(self):
        defaults = (
            ("auroc", "average_precision") if self.task == "multilabel" else ("balanced_accuracy", "accuracy")
        )
        self.metric, self.second = self.metric or defaults[0], self.second or defaults[1]

    def __len__(self) -> int:
        return len(self.paths)

    def sources(self) -> list[os.PathLike] | list[np.ndarray]:
        """What to decode: files, or the pixels of an npz."""
        if self.arrays is not None:
            return self.arrays
        files = [self.root / path for path in self.paths]
        return files if self.reader is None else [self.reader(file) for file in files]

    def keep(self, rows: Iterable[int]) -> Index:
        """The index of these rows alone."""
        rows = list(rows)
        columns = ("paths", "groups", "official", "units", "subgroups", "spelt", "arrays")
        picked = {
            name: [values[i] for i in rows] for name in columns if (values := getattr(self, name)) is not None
        }
        folds = self.official_folds and [[fold[i] for i in rows] for fold in self.official_folds]
        return replace(self, **picked, labels=self.labels[rows], official_folds=folds)

    def label_text(self, i: int) -> str:
        if self.task == "multiclass":
            return self.classes[self.labels[i]]
        return "|".join(c for c, y in zip(self.classes, self.labels[i]) if y == 1)

    def spellings(self) -> dict[str, list[str]]:
        """Group -> its spellings in the files, for the groups that have more than one."""
        found = defaultdict(list)
        for group, spelt in dict.fromkeys(zip(self.groups, self.spelt or ())):
            found[group].append(spelt)
        return {group: ways for group, ways in found.items() if len(ways) > 1}

    def fingerprint(self, groups: list[str] | None = None) -> str:
        """A hash of what is learnt from: paths, labels, groups (other ones, where groups were joined)."""
        text = json.dumps([self.task, self.classes, self.paths, groups or self.groups, self.official])
        return hashlib.sha256(text.encode() + np.ascontiguousarray(self.labels).tobytes()).hexdigest()[:16]


REGIONS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
CHOICES = {
    "labels": ("five", "all"),
    "uncertain": ("default", "ones", "zeros", "ignore"),
    "views": ("frontal", "all"),
    "region": ("all", *REGIONS),
    "task": ("instrument", "verb", "target", "triplet", "phase"),
    "variant": ("rdv", "challenge", "crossval"),
    "fold": (None, 1, 2, 3, 4, 5),
}


@dataclass(frozen=True)
class Options:
    """What the command line may say about the files. The first five are for own data, keep_masks for folders, exact_ids for all that
    names groups, the rest for the dataset that is named beside it; their values are those of CHOICES, else
    DataError."""

    path_col: str = "path"
    label_col: tuple[str, ...] = ("label",)
    group_col: str | None = None
    split_col: str | None = None
    group_regex: str | None = None
    keep_masks: bool = False
    exact_ids: bool = False
    labels: str = "five"  # chexpert
    uncertain: str = "default"  # chexpert
    views: str = "frontal"  # chexpert
    region: str = "all"  # mura
    task: str = "instrument"  # cholect50
    variant: str = "rdv"  # cholect50
    fold: int | None = None  # the official fold that is the test set: t1w (figshare), cholect50 crossval

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(str(c) for c in choices if c is not None)
                raise DataError(f"--{name} {getattr(self, name)}: choose from {known}")


# Which of the options each form of own data takes; a Dataset says so itself.
OWN_OPTIONS = {
    "a folder": ("group_regex", "keep_masks", "exact_ids"),
    "a CSV": ("path_col", "label_col", "group_col", "split_col", "group_regex", "exact_ids"),
    "an npz": (),
}


def refuse_options(options: Options, takes: Iterable[str], data: object) -> None:
    """DataError for an option that was given and that this data has no use for."""
    for option in fields(Options):
        if option.name in takes or getattr(options, option.name) == option.default:
            continue
        forms = [form for form, own in OWN_OPTIONS.items() if option.name in own]
        forms += [name for name, dataset in DATASETS.items() if option.name in dataset.options]
        by_name = option.name == "group_col" and "group_regex" in takes
        hint = "; name the groups of a folder with --group-regex" if by_name else ""
        flag = "--" + option.name.replace("_", "-")
        users = " and ".join(filter(None, (", ".join(forms[:-1]), forms[-1])))
        raise DataError(f"{flag} is for {users}, not {data}{hint}")


def load_index(data: str, data_dir: str | None = None, options: Options = Options()) -> Index:
    """The index of a named dataset, or of the user's own folder, CSV or npz. Raises DataError."""
    if data in DATASETS:
        refuse_options(options, DATASETS[data].options, data)
        index = DATASETS[data].load(data_dir, options)
    elif data in DEMOS:
        refuse_options(options, (), data)
        index = demo(data)
    else:
        index = own_data(Path(data).expanduser(), data_dir, options)
    if index.group_kind == "image":
        named = data in DATASETS or data in DEMOS
        why = f"{index.name} names no groups" if named else "no groups are given"
        index.notes.append(f"image-level split: {why} (patients, videos)")
    if len(index) == 0:
        raise DataError(f"{data}: no images found")
    refuse(data, (repr(name) for name in index.paths if not is_text(name)), "names are not valid UTF-8")
    refuse(data, duplicates(index.paths), "images are listed more than once")
    if index.group_kind != "image":
        refuse_blank_ids(data, index)
        index = one_spelling(index, options.exact_ids)
        index.warnings += doubtful_ids(index.group_kind, index.groups)
    index.notes = [note.encode("utf-8", "backslashreplace").decode() for note in index.notes]
    return index


def is_text(name: str) -> bool:
    """Whether a file's name is text: where its bytes are no UTF-8, Python has put surrogates in their place."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def duplicates(items: Iterable[str]) -> list[str]:
    return [item for item, n in Counter(items).items() if n > 1]


# -------------------------------------------------------------------------------------------------------- ids
#
# One rule for the ids of groups, whatever names them: a column, --group-regex, an archive.


def id_key(text: str) -> str:
    """What the spellings of one id share: two ids with the same key are the same patient.

    Case and Unicode form: NFKC_Casefold of the Unicode standard (a no-break space is a space, a full-width
    digit a digit, what has no width is nothing). White space counts between two digits alone ("PT 03" is
    "PT03", "1 12" is not "11 2"). Leading zeros and a trailing .0, which spreadsheets and pandas take away and
    add, count for nothing where the whole id is a number ("0003", "3.0", "3"); in any other they are the id's
    own: "P03", the DICOM UID "1.2.840.0"."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    seen = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    seen = re.sub(r" (?!\d)|(?<!\d) ", "", " ".join(seen.split()))
    number = re.fullmatch(r"0*(\d+?)(\.0+)?", seen)
    return number[1] if number else seen


def refuse_blank_ids(data: str, index: Index) -> None:
    """DataError for images whose group is blank, or "nan", which is how pandas writes a blank."""
    blank = {group for group in dict.fromkeys(index.groups) if id_key(group) in ("", "nan")}
    if bad := [path for path, group in zip(index.paths, index.groups) if group in blank]:
        raise DataError(
            f"{data}: {index.group_kind} is blank (or nan) for {len(bad)} of {len(index)} images: {listing(bad)}; "
            "fill it in, or leave those images out"
        )


def one_spelling(index: Index, exact: bool) -> Index:
    """The index with one spelling for each group, the first that occurs: ids are only changed where another
    spelling of the same id (id_key) is there. exact: every spelling stays a group of its own. A note says
    either."""
    ways = defaultdict(list)
    for group in dict.fromkeys(index.groups):
        ways[id_key(group)].append(group)
    several = [" = ".join(map(repr, spelt)) for spelt in ways.values() if len(spelt) > 1]
    if not several:
        return index
    what = f"{len(several)} {index.group_kind} ids have more than one spelling ({listing(several)})"
    if exact:
        index.notes.append(f"{what}: each spelling is a {index.group_kind} of its own (--exact-ids)")
        return index
    index.notes.append(f"{what}: each counts as one {index.group_kind}; --exact-ids keeps them apart")
    first = {group: spelt[0] for spelt in ways.values() for group in spelt}
    return replace(index, groups=[first[group] for group in index.groups], spelt=index.groups)


def doubtful_ids(kind: str, groups: list[str]) -> list[str]:
    """A warning for ids that a spreadsheet rounded (1.20E+11, or more than 15 digits with zeros from the 16th
    on), and for one that several images have and that stands for "missing". They are taken as they are."""
    count = Counter(groups)
    keys = {group: id_key(group) for group in count}
    rounded = [group for group, key in keys.items() if re.fullmatch(r"\d([.,]\d+)?e\+\d+", key)]
    long = [group for group, key in keys.items() if re.fullmatch(r"\d{16,}", key)]
    if len(long) > 1 and all(set(keys[group][15:]) == {"0"} for group in long):
        rounded += long
    warnings = []
    if rounded:
        warnings.append(
            f"{len(rounded)} of {len(count)} {kind} ids look rounded by a spreadsheet ({listing(rounded)}): several "
            f"{kind}s may share one; write the table anew from its source, with that column as text"
        )
    missing = ["na", "n/a", "<na>", "#n/a", "nat", "none", "null", "unknown", "-", "?"]
    return warnings + [
        f"{kind} {group!r} of {count[group]} images looks like a missing value; they count as one {kind}"
        for group, key in keys.items()
        if key in missing and count[group] > 1
    ]


# ----------------------------------------------------------------------------------------------- the datasets

CHEXPERT_FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
CHEXPERT_ALL = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
CHEXPERT_VIEW = re.compile(r"(patient\d+)/study\d+/view\d+_(frontal|lateral)\.jpg$")
# Folders that hold patientNNNNN/: the archive in one piece, and that in four "batches".
CHEXPERT_FOLDERS = {
    "train": ("train", "CheXpert-v1.0 batch [234]*"),
    "valid": ("valid", "CheXpert-v1.0 batch 1*/valid"),
    "test": ("test",),
}


def chexpert(root: Path, options: Options) -> Index:
    """CheXpert (Irvin et al. 2019): train.csv and valid.csv with Path and 14 findings,
    patient/study/view*.jpg.

    Layouts: CheXpert-v1.0[-small]/{train,valid[,test]}/, or the four "CheXpert-v1.0 batch N" folders side by
    side. An image is found by patient/study/view, whatever stands before that in Path. Test labels
    (groundtruth.csv or test_labels.csv, by Study or Path) make valid the validation set; without them it is
    the test set. A blank is 0; uncertain (-1) is by default 1 for Atelectasis and Edema and 0 for the others;
    "ignore" masks it."""
    if re.match(r"CheXpert-v1.0 batch \d", root.name):
        root = root.parent
    findings = CHEXPERT_FIVE if options.labels == "five" else CHEXPERT_ALL
    csvs = {
        part: first_of(root, f"{part}.csv", f"CheXpert-v1.0 batch 1*/{part}.csv")
        for part in ("train", "valid")
    }
    test = first_of(
        root, *(f"{at}{name}" for at in ("", "test/") for name in ("groundtruth.csv", "test_labels.csv"))
    )
    refuse(
        root,
        [f"{part}.csv" for part, file in csvs.items() if file is None],
        "of CheXpert's two tables missing",
    )
    csvs |= {"test": test} if test else {}
    split_of = {"train": "train", "valid": "val" if test else "test", "test": "test"}
    paths, labels, official = [], [], []
    for part, file in csvs.items():
        found, values = chexpert_part(root, part, file, findings, options)
        paths, labels = paths + found, [*labels, values]
        official += [split_of[part]] * len(found)
    units = ["/".join(path.split("/")[-3:-1]) for path in paths]
    groups = [unit.partition("/")[0] for unit in units]
    whole = {"train": (223414, 64540), "valid": (234, 200), "test": (668, 500)}
    counts = {(split_of[part], ""): dict(zip(("images", "groups"), whole[part])) for part in csvs}
    if options.views == "frontal":
        counts = {("train", ""): {"images": 191027}}
    notes = [] if test else ["no test labels (groundtruth.csv, test_labels.csv): valid is the test set"]
    return Index(
        "chexpert",
        "multilabel",
        list(findings),
        paths,
        np.concatenate(labels),
        groups,
        official,
        root,
        "auroc",
        "average_precision",
        "patient",
        units,
        "study",
        "max",
        counts=counts,
        notes=notes,
    )


def chexpert_part(root, part, file, findings, options) -> tuple[list[str], np.ndarray]:
    """(paths, labels (N, L)) of one of CheXpert's CSVs."""
    by_study = part == "test" and "Study" in read_table(file)[0]
    _, rows = read_table(file, ["Study" if by_study else "Path", *findings])
    folders = [
        at.relative_to(root).as_posix()
        for pattern in CHEXPERT_FOLDERS[part]
        for at in sorted(root.glob(pattern))
        if at.is_dir()
    ]
    base = {patient: at for at in folders for patient in os.listdir(root / at)}
    if by_study:  # the labels of a study are those of its images
        pairs = []
        for row in rows:
            study = "/".join(row["Study"].strip("/").split("/")[-2:])
            at = root / base.get(study.split("/")[0], part) / study
            pairs += [(f"{study}/{name}", row) for name in sorted(file_names(at)) or ["view1_frontal.jpg"]]
        names, rows = [name for name, _ in pairs], [row for _, row in pairs]
    else:
        names = [row["Path"] for row in rows]
    refuse_leaving(names, str(file), root)
    views = [CHEXPERT_VIEW.search(name) for name in names]
    odd = [name for name, view in zip(names, views) if view is None]
    refuse(file, odd, "paths do not end in patient/study/view1_frontal.jpg")
    if options.views == "frontal":
        rows = [row for row, view in zip(rows, views) if view[2] == "frontal"]
        views = [view for view in views if view[2] == "frontal"]
    paths = [f"{base.get(view[1], part)}/{view[0]}" for view in views]
    refuse_missing(root, paths, str(file), "unpack the whole archive")
    number = {"": 0.0, "0.0": 0.0, "0": 0.0, "1.0": 1.0, "1": 1.0, "-1.0": -1.0, "-1": -1.0}
    cells = ((path, f, row[f]) for path, row in zip(paths, rows) for f in findings)
    refuse(
        file,
        (f"{path}, {f}: {v!r}" for path, f, v in cells if v not in number),
        "labels are not 1, 0, -1 or blank",
    )
    labels = np.array([[number[row[f]] for f in findings] for row in rows], np.float32)
    default = [f in ("Atelectasis", "Edema") for f in findings]
    uncertain = {"default": default, "ones": 1, "zeros": 0, "ignore": np.nan}[options.uncertain]
    return paths, np.where(labels == -1, np.float32(uncertain), labels)


def mura(root: Path, options: Options) -> Index:
    """MURA v1.1 (Rajpurkar et al. 2018): {train,valid}_image_paths.csv and {train,valid}_labeled_studies.csv,
    without a header; {train,valid}/XR_<REGION>/patient/study1_positive/image1.png. Their paths start with the
    archive's folder.

    Images are those of the CSV: the folders hold macOS files, too. A study is (region, patient, number). The
    official test set is hidden: valid is the test set here."""
    shape = re.compile(r"(?:train|valid)/XR_([A-Z]+)/(patient\d+)/(study\d+)_(positive|negative)/[^/]+")
    paths, official, labels = [], [], []
    for part, split in (("train", "train"), ("valid", "test")):
        file = root / f"{part}_labeled_studies.csv"
        of_study = {row[0].rstrip("/").partition("/")[2]: row[1] for row in read_headerless(file, 2)}
        bad = [f"{study}: {label!r}" for study, label in of_study.items() if label not in ("0", "1")]
        refuse(file, bad, "labels are not 0 or 1")
        bad = [f"{study}, {y}" for study, y in of_study.items() if (y == "1") != study.endswith("_positive")]
        refuse(file, bad, "labels differ from the name of their folder")
        file = root / f"{part}_image_paths.csv"
        images = [row[0].partition("/")[2] for row in read_headerless(file, 1)]
        if options.region != "all":
            images = [image for image in images if f"/XR_{options.region.upper()}/" in image]
        images = inside(root, images, str(file), "unpack the whole archive")
        odd = [image for image in images if not shape.fullmatch(image)]
        refuse(file, odd, f"paths are not {part}/XR_REGION/patient/study/image")
        odd = [image for image in images if os.path.dirname(image) not in of_study]
        refuse(file, odd, f"images are of no study in {part}_labeled_studies.csv")
        paths, official = paths + images, official + [split] * len(images)
        labels += [int(of_study[os.path.dirname(image)]) for image in images]
    if not paths:
        raise DataError(f"{root}: no image of --region {options.region} is listed")
    regions, patients, studies = zip(*(shape.fullmatch(path).group(1, 2, 3) for path in paths))
    units = ["/".join(names) for names in zip(regions, patients, studies)]
    counts = (
        {}
        if options.region != "all"
        else {
            ("train", ""): {"images": 36808, "groups": 11184, "units": 13457},
            ("train", "abnormal"): {"units": 5177},
            ("test", ""): {"images": 3197, "groups": 783, "units": 1199},
            ("test", "abnormal"): {"units": 538},
        }
    )
    return Index(
        "mura",
        "multiclass",
        ["normal", "abnormal"],
        paths,
        np.array(labels),
        list(patients),
        official,
        root,
        "kappa",
        "auroc",
        "patient",
        units,
        "study",
        "mean",
        subgroups=[r.lower() for r in regions],
        counts=counts,
        notes=["the official test set is hidden: valid is the test set"],
    )


def t1w(root: Path, options: Options) -> Index:
    """T1w brain MRI: figshare's .mat slices where there are any, else one of the two Kaggle folders of
    images, {Training,Testing}/{glioma,meningioma,no,pituitary}_tumor or
    .../{glioma,meningioma,notumor,pituitary}."""
    slices = [file for file in walk(root) if re.fullmatch(r"\d+\.mat", file.name)]
    if slices:
        return t1w_figshare(root, slices, options)
    if options.fold:
        raise DataError(
            f"{root}: --fold {options.fold} is for figshare's .mat slices with cvind.mat; these are image folders"
        )
    index = class_folders(root, options)
    names = [re.sub(r"[_ ]?tumou?r$", "", name.lower()) or name for name in index.classes]
    names = ["notumor" if name == "no" else name for name in names]
    expected = ["glioma", "meningioma", "notumor", "pituitary"]
    if sorted(names) != expected:
        raise DataError(
            f"{root}: classes are {listing(index.classes, most=9)}; t1w has {listing(expected, most=9)}"
        )
    counts = {("all", ""): {"images": (7023, 7200)}}
    if any(name.lower().endswith("_tumor") for name in index.classes):
        parts = {"train": (826, 822, 395, 827), "test": (100, 115, 105, 74)}
        counts = {(split, c): {"images": n} for split, of in parts.items() for c, n in zip(expected, of)}
        counts["all", ""] = {"images": 3264}
    return replace(index, classes=names, metric="accuracy", second="macro_f1", counts=counts)


# What h5py raises of a file that is no HDF5, lacks a key or holds something else there
NOT_FIGSHARE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)


def t1w_figshare(root: Path, slices: list[Path], options: Options) -> Index:
    """figshare 1512427 (Cheng et al. 2015): 1.mat to 3064.mat in one folder or several, MATLAB 7.3; group
    PID. cvind.mat holds the official 5 folds, entry i for file i + 1; --fold K takes fold K as the test
    set."""
    if options.group_regex:
        raise DataError(
            f"{root}: --group-regex is for image folders; figshare's .mat slices name their patients"
        )
    if options.keep_masks:
        raise DataError(f"{root}: --keep-masks is for image folders; figshare's masks lie within its slices")
    slices = sorted(slices, key=lambda file: int(file.stem))
    numbers = [int(file.stem) for file in slices]
    twice = [f"{n}.mat" for n, times in Counter(numbers).items() if times > 1]
    refuse(root, twice, "slices lie there more than once")
    heads, bad = [], []
    for file in slices:
        try:
            heads.append(MatSlice(file).head())
        except DataError:  # no h5py
            raise
        except NOT_FIGSHARE as error:
            bad.append(f"{file.name} ({error})")
    refuse(root, bad, f"of {len(slices)} .mat files cannot be read")
    bad = [f"{file.name}: {label:g}" for file, (label, _) in zip(slices, heads) if label not in (1, 2, 3)]
    refuse(root, bad, "labels are not 1, 2 or 3")
    cvind, folds, notes = next((f for f in walk(root) if f.name == "cvind.mat"), None), None, []
    if cvind:
        try:
            fold_of = MatSlice(cvind).folds()
        except DataError:  # no h5py
            raise
        except NOT_FIGSHARE as error:
            raise DataError(f"{cvind}: not the folds of figshare's archive ({error})") from None
        if max(numbers) > len(fold_of):
            raise DataError(f"{cvind}: {len(fold_of)} folds, but there is a {max(numbers)}.mat")
        folds = [["test" if fold_of[n - 1] == k else "train" for n in numbers] for k in range(1, 6)]
    elif options.fold:
        raise DataError(f"{root}: --fold {options.fold} needs cvind.mat, which is not there")
    else:
        notes = ["no cvind.mat: without the official folds; they are cut by patient"]
    official = folds[options.fold - 1] if options.fold else [""] * len(slices)
    counts = {("all", ""): {"images": 3064, "groups": 233}}
    counts |= {
        ("all", c): {"images": n} for c, n in (("meningioma", 708), ("glioma", 1426), ("pituitary", 930))
    }
    return Index(
        "t1w",
        "multiclass",
        ["meningioma", "glioma", "pituitary"],
        [file.relative_to(root).as_posix() for file in slices],
        np.array([int(y) - 1 for y, _ in heads]),
        [pid for _, pid in heads],
        official,
        root,
        "accuracy",
        "macro_f1",
        "patient",
        official_folds=folds,
        counts=counts,
        notes=notes,
        reader=MatSlice,
    )


@dataclass(frozen=True)
class MatSlice(os.PathLike):
    """A slice of figshare's T1w, for images.decode: a path that has read()."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def open(self):
        try:
            import h5py
        except ImportError:
            raise DataError(f"{self.path}: reading t1w's .mat files needs h5py: pip install h5py") from None
        return h5py.File(self.path, "r")

    def head(self) -> tuple[float, str]:
        """(label, PID)"""
        with self.open() as file:
            data = file["cjdata"]
            return float(data["label"][()].item()), "".join(map(chr, data["PID"][()].ravel().astype(int)))

    def folds(self) -> np.ndarray:
        with self.open() as file:
            return file["cvind"][()].ravel().astype(int)

    def read(self) -> np.ndarray:
        """(H, W) uint8, the int16 values from the slice's smallest to its largest; MATLAB's columns are
        HDF5's rows."""
        with self.open() as file:
            values = file["cjdata/image"][()].T.astype(np.float64)
        low, high = values.min(), values.max()
        return ((values - low) * (255 / max(high - low, 1)) + 0.5).astype(np.uint8)


BACH_CLASSES = ("Normal", "Benign", "InSitu", "Invasive")  # the challenge's numbers 0 to 3


def bach(root: Path, options: Options) -> Index:
    """BACH (Aresta et al. 2019): Photos/{Normal,Benign,InSitu,Invasive}/*.tif and
    Photos/microscopy_ground_truth.csv, which has no header (n001.tif,Normal) and says which files are images.
    No patients: image-level split."""
    photos = root / "Photos" if (root / "Photos").is_dir() else root
    file = photos / "microscopy_ground_truth.csv"
    rows = [(Path(name).name, label) for name, label in read_headerless(file, 2)]
    bad = [f"{name}: {label!r}" for name, label in rows if label not in BACH_CLASSES]
    refuse(file, bad, f"lines name a class that is not {', '.join(BACH_CLASSES)}")
    twice = [name for name, n in Counter(name for name, _ in rows).items() if n > 1]
    refuse(file, twice, "images are listed more than once")
    rows.sort(key=lambda row: (BACH_CLASSES.index(row[1]), row[0]))
    below = "" if photos == root else "Photos/"
    paths = as_on_disk(root, [f"{below}{label}/{name}" for name, label in rows])
    refuse_missing(root, paths, str(file), "each lies in the folder of its class")
    counts = {("all", ""): {"images": 400}} | {("all", c): {"images": 100} for c in BACH_CLASSES}
    return Index(
        "bach",
        "multiclass",
        list(BACH_CLASSES),
        paths,
        np.array([BACH_CLASSES.index(c) for _, c in rows]),
        paths,
        [""] * len(paths),
        root,
        "accuracy",
        "macro_f1",
        counts=counts,
    )


def bach_test(data_dir: str | None = None) -> list[Path]:
    """The unlabelled images of BACH's test set, ICIAR2018_BACH_Challenge_TestDataset/Photos/test0.tif to
    test99.tif, in the order of their numbers: what a trained model may be asked about."""
    markers = ("Photos/test0.[tT][iI][fF]", "test0.[tT][iI][fF]")
    root = replace(DATASETS["bach"], markers=markers).find(data_dir)
    photos = root / "Photos" if (root / "Photos").is_dir() else root
    names = [name for name in file_names(photos) if re.fullmatch(r"test\d+\.tif", name, re.IGNORECASE)]
    return [photos / name for name in sorted(names, key=lambda name: int(name[4:-4]))]


def isic2020(root: Path, options: Options) -> Index:
    """ISIC 2020 (Rotemberg et al. 2021): a CSV with image_name, patient_id and target, and a folder of
    ISIC_*.jpg.

    Layouts: ISIC_2020_Training_GroundTruth[_v2].csv with [ISIC_2020_Training_JPEG/]train/; Kaggle's train.csv
    with jpeg/train/ or, resized, with train/. Of the pairs in ISIC_2020_Training_Duplicates.csv the second is
    left out. The test labels are not public: splits are cut from the training set by patient."""
    names = ("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv", "train.csv")
    file = first_of(root, *names)
    folder = first_of(root, "ISIC_2020_Training_JPEG/train", "jpeg/train", "train", folder=True)
    if file is None or folder is None:
        what = (
            f"none of {', '.join(names)}"
            if file is None
            else "no folder train, jpeg/train or ISIC_2020_Training_JPEG/train"
        )
        raise DataError(f"{root}: {what}")
    _, rows = read_table(file, ["image_name", "patient_id", "target"])
    bad = [f"{row['image_name']}: {row['target']!r}" for row in rows if row["target"] not in ("0", "1")]
    refuse(file, bad, "targets are not 0 or 1")
    twice = [name for name, n in Counter(row["image_name"] for row in rows).items() if n > 1]
    refuse(file, twice, "images are listed more than once")
    counts = {
        ("all", ""): {"images": 33126, "groups": 2056},
        ("all", "malignant"): {"images": 584, "groups": 428},
    }
    notes = ["no ISIC_2020_Training_Duplicates.csv (challenge.isic-archive.com/data): its 425 pairs stay in"]
    if (pairs := root / "ISIC_2020_Training_Duplicates.csv").is_file():
        second = {row["image_name_2"] for row in read_table(pairs, ["image_name_1", "image_name_2"])[1]}
        kept = [row for row in rows if row["image_name"] not in second]
        notes = [f"{len(rows) - len(kept)} duplicates left out, the second of each pair in {pairs.name}"]
        rows, counts = kept, {("all", ""): {"images": 32701}, ("all", "malignant"): {"images": 581}}
    paths = [f"{row['image_name']}.jpg" for row in rows]
    paths = [f"{folder.relative_to(root).as_posix()}/{path}" for path in paths]
    refuse_leaving(paths, str(file), root)
    paths = as_on_disk(root, paths)
    refuse_missing(root, paths, str(file), "unpack the whole archive")
    return Index(
        "isic2020",
        "multiclass",
        ["benign", "malignant"],
        paths,
        np.array([int(r["target"]) for r in rows]),
        [row["patient_id"] for row in rows],
        [""] * len(rows),
        root,
        "auroc",
        "average_precision",
        "patient",
        counts=counts,
        notes=notes,
    )


CHOLECT50_CLASSES = {
    "instrument": ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator"),
    "verb": (
        "grasp",
        "retract",
        "dissect",
        "coagulate",
        "clip",
        "cut",
        "aspirate",
        "irrigate",
        "pack",
        "null_verb",
    ),
    "target": (
        "gallbladder",
        "cystic_plate",
        "cystic_duct",
        "cystic_artery",
        "cystic_pedicle",
        "blood_vessel",
        "fluid",
        "abdominal_wall_cavity",
        "liver",
        "adhesion",
        "omentum",
        "peritoneum",
        "gut",
        "specimen_bag",
        "null_target",
    ),
    "triplet": tuple(f"triplet{i}" for i in range(100)),  # the archive has their names
    "phase": (
        "preparation",
        "carlot-triangle-dissection",
        "clipping-and-cutting",
        "gallbladder-dissection",
        "gallbladder-packaging",
        "cleaning-and-coagulation",
        "gallbladder-extraction",
    ),
}
CHOLECT50_PLACE = {
    "triplet": 0,
    "instrument": 1,
    "verb": 7,
    "target": 8,
    "phase": 14,
}  # in the JSON's 15 values
NULL_TRIPLETS = tuple(range(94, 100))
# Nwoye and Padoy 2022, video numbers. Train is the other ones.
CHOLECT50_SPLITS = {
    "rdv": {"val": (8, 12, 29, 50, 78), "test": (6, 51, 10, 73, 14, 74, 32, 80, 42, 111)},
    "challenge": {"val": (5, 18, 36, 65, 74), "test": (92, 96, 103, 110, 111)},
}
CHOLECT50_FOLDS = ((79, 2, 51, 6, 25, 14, 66, 23, 50, 111), (80, 32, 5, 15, 40, 47, 26, 48, 70, 96),
                   (31, 57, 36, 18, 52, 68, 10, 8, 73, 103), (42, 29, 60, 27, 65, 75, 22, 49, 12, 110),
                   (78, 43, 62, 35, 74, 1, 56, 4, 13, 92))  # fmt: skip
CHOLECT45_LACKS = {111, 96, 103, 110, 92}


def cholect50(root: Path, options: Options) -> Index:
    """CholecT50 (Nwoye et al. 2022): videos/VID01/000000.png with labels/VID01.json, or CholecT45:
    data/VID01/000000.png with {triplet,instrument,verb,target}/VID01.txt. Group: video. Images are the
    annotated frames.

    Official splits by --variant; crossval takes --fold (1 where none is given) as the test set. Metric:
    video-wise mAP, for triplets without the null ones."""
    task, t50 = options.task, (root / "labels").is_dir()
    videos, classes, notes = (cholect50_json if t50 else cholect45_txt)(root, task)
    if options.fold and options.variant != "crossval":
        raise DataError(f"--fold {options.fold} is for --variant crossval, not {options.variant}")
    here = {int(video[3:]): video for video in videos}
    lacks = set() if t50 else CHOLECT45_LACKS
    known = {number for fold in CHOLECT50_FOLDS for number in fold} - lacks
    strange = [video for number, video in here.items() if number not in known]
    refuse(root, strange, f"videos are in no split of CholecT{50 if t50 else 45}")
    side = cholect50_sides(options.variant, options.fold or 1, lacks)
    if lacking := [split for split in SPLITS if split not in {side[number] for number in here}]:
        all_sides = cholect50_sides(options.variant, options.fold or 1)
        wanted = sorted(number for number in all_sides if all_sides[number] == lacking[0])
        raise DataError(
            f"{root}: --variant {options.variant} has its {lacking[0]} videos in {listing(wanted, most=10)}; "
            f"none of them is here, among {len(here)} videos"
        )
    folder = "videos" if t50 else "data"
    paths = [f"{folder}/{video}/{frame:06d}.png" for video, (frames, _) in videos.items() for frame in frames]
    refuse_missing(root, paths, str(root), "unpack the whole archive")
    if extra := sum(len(file_names(root / folder / video)) for video in videos) - len(paths):
        notes.append(f"{extra} files in {folder}/ without annotation, left out")
    groups = [video for video, (frames, _) in videos.items() for _ in frames]
    numbers = [int(video[3:]) for video in groups]
    sides = [cholect50_sides("crossval", k, lacks) for k in range(1, 6)]
    folds = [[of_fold[n] for n in numbers] for of_fold in sides] if options.variant == "crossval" else None
    counts = {(s, ""): {"groups": sum(side[n] == s for n in known)} for s in SPLITS}
    counts["all", ""] = {"groups": len(known)} | ({} if t50 else {"images": 90489})
    metrics = ("accuracy", "macro_f1") if task == "phase" else ("video_map", "average_precision")
    units, unit, score = (None, "image", "mean") if task == "phase" else (groups, "video", "video")
    return Index(
        "cholect50",
        "multiclass" if task == "phase" else "multilabel",
        classes,
        paths,
        np.concatenate([labels for _, labels in videos.values()]),
        groups,
        [side[n] for n in numbers],
        root,
        *metrics,
        "video",
        units,
        unit,
        score,
        NULL_TRIPLETS if task == "triplet" else (),
        official_folds=folds,
        counts=counts,
        notes=notes,
    )


def cholect50_sides(variant: str, fold: int, lacking: Iterable[int] = ()) -> dict[int, str]:
    """Video number -> train, val or test. lacking: videos that CholecT45 is without.

    Cross-validation validates on the last five videos of the other folds in their order, as CAMMA's own
    loader does."""
    folds = [[number for number in numbers if number not in lacking] for numbers in CHOLECT50_FOLDS]
    others = [number for k, numbers in enumerate(folds, 1) if k != fold for number in numbers]
    sides = CHOLECT50_SPLITS.get(variant) or {"test": folds[fold - 1], "val": others[-5:]}
    side_of = {number: side for side, numbers in sides.items() for number in numbers}
    return {number: side_of.get(number, "train") for numbers in folds for number in numbers}


def video_files(folder: Path, suffix: str) -> list[tuple[str, Path]]:
    """("VID01", its file) for each video, by number; copies such as "VID01 (1).json" are none."""
    names = [name for name in file_names(folder) if re.fullmatch(r"VID\d+" + re.escape(suffix), name)]
    videos = sorted((name.removesuffix(suffix) for name in names), key=lambda video: int(video[3:]))
    return [(video, folder / f"{video}{suffix}") for video in videos]


def cholect50_json(
    root: Path, task: str
) -> tuple[dict[str, tuple[list[int], np.ndarray]], list[str], list[str]]:
    """({video: (annotated frames, labels)}, classes, notes). annotations[frame] is a list, possibly empty, of
    instances of 15 values, -1 where there is none. A frame without a phase is left out of the phase task."""
    classes, place, videos, without = list(CHOLECT50_CLASSES[task]), CHOLECT50_PLACE[task], {}, 0
    for video, file in video_files(root / "labels", ".json"):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            found = {int(frame): [instance[place] for instance in instances]
                     for frame, instances in content["annotations"].items()}  # fmt: skip
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"{file}: no annotations as CholecT50 has them: {type(error).__name__} {error}"
            ) from None
        allowed = range(-1, len(classes))
        bad = [f"frame {frame}: {v!r}" for frame, values in found.items() for v in values if v not in allowed]
        refuse(file, bad, f"{task} numbers are not -1 to {len(classes) - 1}")
        if task == "triplet":
            names = content.get("categories")
            names = names.get("triplet", {}) if isinstance(names, dict) else {}
            classes = [names.get(str(i), c) for i, c in enumerate(classes)]
        present = {frame: {int(v) for v in found[frame]} - {-1} for frame in sorted(found)}
        if task == "phase":
            torn = [f"frame {frame}: {sorted(s)}" for frame, s in present.items() if len(s) > 1]
            refuse(file, torn, "frames are in two phases")
            without += sum(not s for s in present.values())
            present = {frame: s for frame, s in present.items() if s}
            labels = np.array([min(s) for s in present.values()], np.int64)
        else:
            labels = np.zeros((len(present), len(classes)), np.float32)
            for row, s in enumerate(present.values()):
                labels[row, list(s)] = 1
        videos[video] = (list(present), labels)
    return videos, classes, [f"{without} frames have no phase, left out"] if without else []


def cholect45_txt(
    root: Path, task: str
) -> tuple[dict[str, tuple[list[int], np.ndarray]], list[str], list[str]]:
    """The same from CholecT45's text files: frame, then a 0/1 column for each class. dict/triplet.txt has
    names."""
    if task == "phase":
        raise DataError(f"{root}: CholecT45 has no phases; --task phase needs CholecT50's labels/VID01.json")
    classes, videos = list(CHOLECT50_CLASSES[task]), {}
    for video, file in video_files(root / task, ".txt"):
        try:
            values = np.loadtxt(file, delimiter=",", dtype=np.int64, ndmin=2)
        except ValueError as error:
            raise DataError(f"{file}: {error}") from None
        values = values[np.argsort(values[:, 0], kind="stable")]
        if values.shape[1] != 1 + len(classes) or not np.isin(values[:, 1:], (0, 1)).all():
            raise DataError(
                f"{file}: needs a frame and {len(classes)} columns of 0 or 1; it has {values.shape[1]} columns, "
                f"values {values[:, 1:].min(initial=0)} to {values[:, 1:].max(initial=0)}"
            )
        if (np.diff(values[:, 0]) == 0).any():
            raise DataError(f"{file}: a frame stands twice in it")
        videos[video] = (values[:, 0].tolist(), values[:, 1:].astype(np.float32))
    names = root / "dict" / "triplet.txt"
    if task == "triplet" and names.is_file():
        found = dict(re.findall(r"^(\d+)\W+(\w.*?)\s*$", names.read_text(encoding="utf-8"), re.MULTILINE))
        classes = [found.get(str(i), c) for i, c in enumerate(classes)]
    return videos, classes, []


@dataclass(frozen=True)
class Dataset:
    """A public dataset: what --list-data says of it, and how it is found and read. classes, metric, unit:
    those without further options. options: the names in Options that it takes. markers: glob patterns; the archive's folder holds one of them. build:
    (root, options) -> Index."""

    name: str
    title: str
    task: str
    classes: tuple[str, ...]
    metric: str
    group: str
    unit: str
    site: str
    access: str
    licence: str
    size: str
    citation: str
    options: tuple[str, ...]
    markers: tuple[str, ...]
    build: Callable[[Path, Options], Index]

    def load(self, data_dir: str | None, options: Options) -> Index:
        root = self.find(data_dir)
        index = self.build(root, options)
        return replace(
            index, name=self.name, citation=self.citation, notes=[f"found in {root}", *index.notes]
        )

    def held_by(self, folder: Path) -> bool:
        return any(next(folder.glob(marker), None) for marker in self.markers)

    def find(self, data_dir: str | None) -> Path:
        """The folder that holds a marker: data_dir, a folder in it, or one in data_dir/<name>. Without
        data_dir the same from $FTCOMPARE_DATA and ./data. Raises DataError that says what was looked for, and
        what is there instead."""
        bases = [data_dir] if data_dir else [os.environ.get("FTCOMPARE_DATA"), "data"]
        bases = [Path(base).expanduser() for base in bases if base]
        for base in bases:
            for place in (base, base / self.name):
                for folder in near(place):
                    if self.held_by(folder):
                        return folder
        found = "; ".join(filter(None, map(self.instead, bases)))
        markers = [re.sub(r"\[(\w)\w\]", r"\1", marker) for marker in self.markers]  # "[tT]" is "t"
        raise DataError(
            f"{self.name} not found: looked for {' or '.join(markers)} in {' and '.join(map(str, bases))} and in the "
            f"folders there. {found}. Get it from {self.site} ({self.access}, {self.size}), unpack it and pass --data-dir FOLDER"
        )

    def instead(self, place: Path) -> str:
        """What a place holds where the dataset was looked for."""
        if not place.is_dir():
            return f"{place} is no folder"
        names = sorted(p.name + "/" * p.is_dir() for p in place.iterdir() if visible(p.name))
        text = f"{place} holds {listing(names) or 'nothing'}"
        if any(self.held_by(parent) for parent in list(place.resolve().parents)[:2]):
            return f"{text}: a part of {self.name}; pass the archive's own folder, above it"
        for folder in near(place):
            if like := [other for other in DATASETS.values() if other.held_by(folder)]:
                return f"{text}: {folder} looks like {like[0].name} ({like[0].title}): --data {like[0].name}"
        if any(is_image(file) for folder in near(place)[1:] for file in walk(folder, Met())):
            return f"{text}: it looks like a folder of class folders of your own: --data {place}"
        return text


def list_datasets() -> list[dict[str, str]]:
    """A row for each dataset: what it is, how to obtain it, what to cite."""
    rows = []
    for dataset in DATASETS.values():
        inner = ("options", "markers", "build")
        row = {f.name: getattr(dataset, f.name) for f in fields(dataset) if f.name not in inner}
        rows.append(row | {"classes": ", ".join(dataset.classes)})
    return rows


def near(place: Path) -> list[Path]:
    """A place and the folders in it, the first hundred (CheXpert's train/ has 64,540), none where there is no
    place."""
    return [place, *subfolders(place)[:100]] if place.is_dir() else []


def first_of(root: Path, *patterns: str, folder: bool = False) -> Path | None:
    """The first that is there of some files, or of some folders (beside which the zip may lie)."""
    found = (at for pattern in patterns for at in sorted(root.glob(pattern)))
    return next((at for at in found if at.is_dir() == folder), None)


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="chexpert",
            title="chest X-ray, findings",
            task="multilabel",
            classes=CHEXPERT_FIVE,
            metric="mean AUROC",
            group="patient",
            unit="study, maximum over its views",
            site="stanfordaimi.azurewebsites.net",
            access="gated: research use agreement",
            licence="Stanford University Dataset Research Use Agreement",
            size="11 GB small, 440 GB full",
            citation="Irvin et al., CheXpert, AAAI 2019",
            options=("labels", "uncertain", "views", "exact_ids"),
            markers=("valid.csv", "CheXpert-v1.0 batch 1*/valid.csv"),
            build=chexpert,
        ),
        Dataset(
            name="mura",
            title="bone X-ray, abnormality",
            task="multiclass",
            classes=("normal", "abnormal"),
            metric="Cohen's kappa",
            group="patient",
            unit="study, mean over its images",
            site="stanfordaimi.azurewebsites.net",
            access="gated: research use agreement",
            licence="Stanford University Dataset Research Use Agreement",
            size="3.3 GB",
            citation="Rajpurkar et al., MURA, MIDL 2018",
            options=("region", "exact_ids"),
            markers=("train_image_paths.csv", "valid_image_paths.csv"),
            build=mura,
        ),
        Dataset(
            name="t1w",
            title="T1-weighted brain MRI, tumour type",
            task="multiclass",
            classes=("glioma", "meningioma", "pituitary", "notumor (Kaggle alone)"),
            metric="accuracy",
            group="patient (figshare), image (Kaggle)",
            unit="image",
            site="figshare.com/articles/dataset/1512427, or kaggle.com/datasets/sartajbhuvaji/brain-tumor-classification-mri"
            " or masoudnickparvar/brain-tumor-mri-dataset",
            access="open",
            licence="CC BY 4.0 (figshare)",
            size="0.9 GB figshare, 0.1-0.2 GB Kaggle",
            citation="Cheng et al., PLoS ONE 2015; Bhuvaji et al., Kaggle 2020; Nickparvar, Kaggle 2021",
            options=("fold", "group_regex", "keep_masks", "exact_ids"),
            markers=(
                "[Tt]raining/*glioma*",
                "cvind.mat",
                "[0-9]*.mat",
                "brainTumorDataPublic*/[0-9]*.mat",
                "[0-9]*-[0-9]*/[0-9]*.mat",
            ),
            build=t1w,
        ),
        Dataset(
            name="bach",
            title="breast histology, four classes",
            task="multiclass",
            classes=BACH_CLASSES,
            metric="accuracy",
            group="image: no patients are given",
            unit="image",
            site="iciar2018-challenge.grand-challenge.org",
            access="open after registration",
            licence="CC BY-NC-ND 4.0",
            size="about 13 GB, whole slides included",
            citation="Aresta et al., BACH, Medical Image Analysis 2019",
            options=(),
            markers=("Photos/microscopy_ground_truth.csv", "microscopy_ground_truth.csv"),
            build=bach,
        ),
        Dataset(
            name="isic2020",
            title="dermoscopy, melanoma",
            task="multiclass",
            classes=("benign", "malignant"),
            metric="AUROC",
            group="patient",
            unit="image",
            site="challenge2020.isic-archive.com or kaggle.com/c/siim-isic-melanoma-classification",
            access="open",
            licence="CC BY-NC 4.0",
            size="23 GB",
            citation="Rotemberg et al., Scientific Data 2021",
            options=("exact_ids",),
            markers=(
                "ISIC_2020_Training_GroundTruth*.csv",
                "jpeg/train/ISIC_*.[jJ][pP][gG]",
                "train/ISIC_*.[jJ][pP][gG]",
            ),
            build=isic2020,
        ),
        Dataset(
            name="cholect50",
            title="endoscopic surgery, instruments and actions",
            task="multilabel",
            classes=CHOLECT50_CLASSES["instrument"],
            metric="mean average precision per video",
            group="video",
            unit="video",
            site="github.com/CAMMA-public/cholect50",
            access="gated: request form",
            licence="CC BY-NC-SA 4.0",
            size="about 50 GB",
            citation="Nwoye et al., Medical Image Analysis 2022; splits: Nwoye and Padoy 2022",
            options=("task", "variant", "fold", "exact_ids"),
            markers=("labels/VID*.json", "instrument/VID*.txt"),
            build=cholect50,
        ),
    )
}


# ---------------------------------------------------------------------------------------- the user's own data


def own_data(path: Path, data_dir: str | None, options: Options) -> Index:
    if path.is_dir():
        refuse_options(options, OWN_OPTIONS["a folder"], path)
        return class_folders(path, options)
    if not path.exists():
        known = ", ".join([*DATASETS, *DEMOS])
        raise DataError(f"--data {path}: neither a file or folder nor a dataset; the datasets are {known}")
    if path.suffix == ".npz":
        refuse_options(options, OWN_OPTIONS["an npz"], path)
        return npz(path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        refuse_options(options, OWN_OPTIONS["a CSV"], path)
        return table(path, Path(data_dir).expanduser() if data_dir else path.parent, options)
    raise DataError(f"--data {path}: give a folder of class folders, a .csv or an .npz")


def class_folders(root: Path, options: Options) -> Index:
    """root/<class>/**/*.png, or root/{train,val,test}/<class>/**/*.png, also Training, Testing, valid."""
    met = Met()
    folders = subfolders(root, met)
    by_split = {
        folder: SPLIT_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_NAMES
    }
    notes, hint = [], ""
    if by_split:
        if extra := [f.name for f in folders if f not in by_split]:
            notes.append(f"left out, beside the splits' folders: {listing(extra)}")
            names = " and ".join(f"{folder.name}/" for folder in by_split)
            hint = f"; {names} was read as the folder of a split and the {len(extra)} beside it left out: "
            hint += "rename it if it is a class"
        places = [(split, c) for folder, split in by_split.items() for c in subfolders(folder, met)]
    else:
        places = [("", folder) for folder in folders]
    below = [(split, folder, list(walk(folder, met))) for split, folder in places]
    met.refuse(root)
    real = defaultdict(list)
    for _, folder in places:
        real[os.path.realpath(folder)].append(folder.relative_to(root).as_posix())
    same = (" = ".join(names) for names in real.values() if len(names) > 1)
    refuse(root, same, "folders are read twice through a link, remove the link")
    found, other, nested, masks = [], Counter(), 0, []
    for split, folder, files in below:
        images = []
        for file in files:
            if is_image(file):
                images.append(file)
            else:
                other[file.suffix.lower() or file.name] += 1
        if not images:
            raise DataError(f"{folder}: a class folder without images; fill or remove it{hint}")
        left_out = set() if options.keep_masks else masks_beside(images)
        masks += sorted(left_out)
        for file in images if not left_out else [file for file in images if file not in left_out]:
            found.append((file.relative_to(root).as_posix(), folder.name, split))
            nested += file.parent != folder
    notes += met.notes(root) + masks_note(masks, root)
    if not found:
        loose = sum(map(is_image, walk(root)))
        what = f"{loose} images lie in it, but in no class folder" if loose else "there is no image in it"
        raise DataError(
            f"{root}: {what}; expected {root.name}/<class>/*.png or {root.name}/train/<class>/*.png{hint}"
        )
    tops = [root, *by_split]
    if loose := [f.name for top in tops for f in sorted(top.iterdir()) if f.is_file() and is_image(f)]:
        notes.append(f"{len(loose)} images lie in no class folder, left out: {listing(loose)}")
    if other:
        notes.append("no images, left out: " + listing(f"{n} {suffix}" for suffix, n in other.most_common()))
    if nested and not options.group_regex:
        notes.append(
            f"{nested} images lie deeper than their class folder: if those folders are patients, name them "
            "with --group-regex, as in '([^/]+)/[^/]+$'"
        )
    classes = sorted({c for _, c, _ in found}, key=natural)
    paths = [p for p, _, _ in found]
    labels = np.array([classes.index(c) for _, c, _ in found], dtype=np.int64)
    groups, kind = groups_by_regex(paths, options.group_regex)
    official = [s for _, _, s in found]
    return Index(
        root.resolve().name,
        "multiclass",
        classes,
        paths,
        labels,
        groups,
        official,
        root,
        group_kind=kind,
        notes=notes,
    )


# Folders that file servers, recycle bins and archives make, in small letters: thumbnails and deleted images lie in them
SYSTEM_FOLDERS = {"__macosx", "@eadir", "@tmp", "@__thumb", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
    "$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "~snapshot",
    "network trash folder", "temporary items", "thevolumesettingsfolder"}  # fmt: skip


def visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS


def is_image(file: Path) -> bool:
    return visible(file.name) and file.suffix.lower() in IMG_EXTENSIONS


# name_mask.png, name-Mask.png, name_mask_1.png, mask_name.png, name_seg.png, name_segmentation.png, name_gt.png ...
MASK = re.compile(
    r"(?P<image>.+?)[ _.-]+(?:masks?(?:[ _.-]*\(?\d+\)?)?|seg|segmentations?|gt|ground[ _-]?truth|superpixels)"
    r"|masks?[ _.-]+(?P<of>.+)",
    re.IGNORECASE,
)


def masks_beside(files: Iterable[Path]) -> set[Path]:
    """Those that are masks of others: named as an image of the same folder is, and "mask" or what says the same.
    A name alone is no sign (with_mask_1.png is a face): the image has to lie beside it."""
    files = list(files)
    matches = ((file, MASK.fullmatch(file.stem)) for file in files)
    image_of = {file: (match["image"] or match["of"]).casefold() for file, match in matches if match}
    there = {(file.parent, file.stem.casefold()) for file in files} if image_of else set()
    return {file for file, image in image_of.items() if (file.parent, image) in there}


def masks_note(masks: list[Path], root: Path) -> list[str]:
    """What is said of masks that were left out, if any."""
    names = listing(file.relative_to(root).as_posix() for file in masks)
    said = f"{len(masks)} masks beside their images, left out (--keep-masks keeps them): {names}"
    return [said] if masks else []


@dataclass
class Met:
    """What the reading of folders met. linked: folders that are links, followed. again: links to a folder that is
    read without them or that holds them, not followed. bad: "path (reason)" of folders that cannot be read and
    of links that lead nowhere."""

    linked: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def refuse(self, where: object) -> None:
        refuse(where, self.bad, "folders or links cannot be read, mend or remove them")

    def notes(self, root: Path) -> list[str]:
        said = [(self.linked, "folders are links, followed"),
                (self.again, "links lead to folders that are read without them, not followed")]  # fmt: skip
        named = ((what, [os.path.relpath(path, root) for path in paths]) for paths, what in said if paths)
        return [f"{len(names)} {what}: {listing(names)}" for what, names in named]


def scan(folder: str, real: str, met: Met) -> tuple[list[tuple[str, str, bool]], list[str]]:
    """((path, real path, whether it is a link) of each folder, names of the files) that are visible in a folder, in
    order. real: the folder's real path. A link to the folder itself or to one that holds it is a loop."""
    folders, names = [], []
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if visible(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        met.bad.append(f"{folder} ({error.strerror})")
        return folders, names
    for entry in found:
        link = entry.is_symlink() or getattr(entry, "is_junction", bool)()  # Windows has both
        try:
            if link:
                os.stat(entry.path)
            if not entry.is_dir():
                names.append(entry.name)
                continue
        except OSError as error:
            if is_image(Path(entry.name)):  # decoding lists it among the unreadable ones
                names.append(entry.name)
            else:
                nowhere = isinstance(error, FileNotFoundError)
                met.bad.append(f"{entry.path} ({'a link that leads nowhere' if nowhere else error.strerror})")
            continue
        to = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
        if link and holds(to, real):
            met.again.append(entry.path)
        else:
            folders.append((entry.path, to, link))
    return folders, names


def holds(folder: str, other: str) -> bool:
    """Whether a folder is the other one or lies above it; both real paths."""
    return os.path.join(other, "").startswith(os.path.join(folder, ""))


def subfolders(folder: Path, met: Met | None = None) -> list[Path]:
    """The visible folders in a folder, links to folders among them. met: as in walk."""
    mine = Met() if met is None else met
    found, _ = scan(os.fspath(folder), os.path.realpath(folder), mine)
    mine.linked += [path for path, _, link in found if link]
    return [Path(path) for path, _, _ in found]


def walk(folder: Path, met: Met | None = None) -> Iterable[Path]:
    """All files below, sorted, without hidden ones (._x.png, .DS_Store) and those in systems' folders. Links to folders
    are followed, and each folder is read once, under its own name where it has one. What cannot be read is added
    to met; without met it is a DataError once the rest is read."""
    mine, top = Met() if met is None else met, os.path.realpath(folder)
    todo, read = [(os.fspath(folder), top, False)], set()
    while todo:
        at, real, link = todo.pop()
        own_name = holds(top, real) and all(map(visible, os.path.relpath(real, top).split(os.sep)))
        if real in read or link and (own_name or holds(real, top)):
            mine.again += [at] * link
            continue
        read.add(real)
        mine.linked += [at] * link
        folders, names = scan(at, real, mine)
        yield from (Path(at, name) for name in names)
        todo += reversed(folders)
    if met is None:
        mine.refuse(folder)


def natural(text: str) -> tuple:
    """Sort key: numbers by value where a name is one ("1" and "01" by their text), other text after them."""
    return (0, int(text), text) if re.fullmatch(r"-?\d+", text) else (1, 0, text)


def groups_by_regex(paths: list[str], pattern: str | None) -> tuple[list[str], str]:
    """(groups, kind). The first group of the pattern in the file name, in the whole path where the pattern
    has a /."""
    if pattern is None:
        return list(paths), "image"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--group-regex {pattern!r} is no regular expression: {error}") from None
    matches = [compiled.search(p if "/" in pattern else p.rpartition("/")[2]) for p in paths]
    groups = [m.group(1 if compiled.groups else 0) if m else None for m in matches]
    if missed := [p for p, group in zip(paths, groups) if not group]:  # None, or a match of no characters
        raise DataError(
            f"--group-regex {pattern!r} does not match {len(missed)} of {len(paths)} names: {listing(missed)}"
        )
    return groups, "group"


def read_rows(file: Path) -> Iterable[list[str]]:
    """The rows of a CSV as text; comma, semicolon or tab by its first line; BOM or none, CRLF or LF."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    if not text.strip():
        raise DataError(f"{file}: empty")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        yield from reader
    except csv.Error as error:  # a quote that is never closed would swallow the rows below it
        raise DataError(f"{file}: line {reader.line_num}: {error}") from None


def read_table(file: Path, wanted: Iterable[str] | None = None) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV as text (a leading zero stays, NA is a value). wanted: these columns alone,
    DataError where one is missing."""
    rows = iter(read_rows(file))
    header = [name.strip() for name in next(rows)]
    if repeated := [name for name, n in Counter(header).items() if n > 1]:
        raise DataError(f"{file}: columns that stand twice in the header: {listing(repeated)}")
    if absent := [name for name in wanted or () if name not in header]:
        raise DataError(f"{file}: no column {listing(absent)}; its columns are {listing(header, most=20)}")
    places = [(name, header.index(name)) for name in wanted or header]
    table, bad = [], []
    for i, row in enumerate(rows, 2):
        if len(row) == len(header) and any(map(str.strip, row)):
            table.append({name: row[k].strip() for name, k in places})
        elif any(map(str.strip, row)):
            bad.append(f"row {i} has {len(row)}")
    if bad:
        raise DataError(f"{file}: the header has {len(header)} columns, but {listing(bad)}")
    return header, table


def read_headerless(file: Path, width: int) -> list[list[str]]:
    """The rows of a CSV without a header line, width cells each."""
    rows = [[cell.strip() for cell in row] for row in read_rows(file)]
    rows = [row for row in rows if any(row)]
    if bad := [",".join(row) for row in rows if len(row) != width]:
        raise DataError(f"{file}: {len(bad)} lines have not {width} cells: {listing(bad)}")
    return rows


def file_names(folder: str | Path) -> set[str]:
    """The visible files in a folder; none where there is no such folder. DataError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if visible(entry.name) and not entry.is_dir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; this folder has to be readable") from None


def missing_files(root: Path, paths: list[str]) -> list[str]:
    """Those of the paths that are no files below root. A folder that holds several of them is listed once."""
    asked = defaultdict(list)
    for path in paths:
        folder, _, name = path.rpartition("/")
        asked[folder].append((name, path))
    missing = []
    for folder, mine in asked.items():
        at = os.path.join(root, folder)
        known = file_names(at) if len(mine) > 2 else ()
        lacking = [path for name, path in mine if name not in known and not os.path.isfile(f"{at}/{name}")]
        if lacking and not known:
            file_names(at)  # the error where the folder cannot be read
        missing += lacking
    return missing


def as_on_disk(root: Path, paths: list[str]) -> list[str]:
    """The paths, with the extension in capitals (or in small letters) where that is the file."""
    names = {folder: file_names(root / folder) for folder in {os.path.dirname(path) for path in paths}}
    found = []
    for path in paths:
        folder, name = os.path.split(path)
        stem, extension = os.path.splitext(name)
        spelt = (name, stem + extension.upper(), stem + extension.lower())
        name = next((other for other in spelt if other in names[folder]), name)
        found.append(f"{folder}/{name}" if folder else name)
    return found


def refuse_leaving(paths: Iterable[str], source: str, root: Path) -> None:
    leaving = (path for path in paths if os.path.isabs(path) or os.path.normpath(path).startswith(".."))
    refuse(source, leaving, f"paths leave the data folder {root}")


def refuse_missing(root: Path, paths: list[str], source: str, hint: str) -> None:
    if missing := missing_files(root, paths):
        raise DataError(
            f"{source}: {len(missing)} of {len(paths)} images are not below {root}: {listing(missing)}; {hint}"
        )


def inside(
    root: Path, paths: list[str], source: str, hint: str = "the folder is the CSV's own, or --data-dir"
) -> list[str]:
    """The paths relative to root. DataError for all that leave it and for all that are no file."""
    base = os.path.join(root.resolve(), "")
    full = [os.path.normpath(os.path.join(base, path)) for path in paths]
    if leaving := [path for path, at in zip(paths, full) if not at.startswith(base)]:
        raise DataError(f"{source}: {len(leaving)} paths leave the data folder {root}: {listing(leaving)}")
    relative = [at[len(base) :].replace(os.sep, "/") for at in full]
    refuse_missing(root, relative, source, hint)
    return relative


def table(file: Path, root: Path, options: Options) -> Index:
    """A CSV with a header: path,label[,group][,split]. Several labels: a|b in one column, or 0/1 columns
    (blank: unknown, masked out) named in --label-col."""
    header, rows = read_table(file)
    if options.group_col and options.group_regex:
        raise DataError(f"{file}: give --group-col or --group-regex, not both")
    group_col = options.group_col or ("group" if "group" in header and not options.group_regex else None)
    split_col = options.split_col or ("split" if "split" in header else None)
    flags = {
        "--path-col": [options.path_col],
        "--label-col": options.label_col,
        "--group-col": [group_col] if group_col else [],
        "--split-col": [split_col] if split_col else [],
    }
    if absent := [f"{c} ({flag})" for flag, names in flags.items() for c in names if c not in header]:
        raise DataError(f"{file}: no column {listing(absent)}; its columns are {listing(header, most=12)}")
    if not rows:
        raise DataError(f"{file}: no rows below the header")
    paths = inside(root, [row[options.path_col] for row in rows], str(file))
    if twice := [p for p, n in Counter(paths).items() if n > 1]:
        raise DataError(f"{file}: {len(twice)} images are listed more than once: {listing(twice)}")
    task, classes, labels = read_labels(file, rows, paths, options.label_col)
    notes = []
    if group_col:
        groups, kind = [row[group_col] for row in rows], group_col
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


def read_labels(
    file: Path, rows: list[dict], paths: list[str], columns: tuple[str, ...]
) -> tuple[str, list[str], np.ndarray]:
    """(task, classes, labels) of one column of names, or of several 0/1 columns."""
    if len(columns) > 1:
        known = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan}
        bad = [
            f"{path}, {c}: {row[c]!r}"
            for path, row in zip(paths, rows)
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
    if blank := [path for path, text in zip(paths, texts) if not text]:
        raise DataError(f"{file}: column {columns[0]} is blank for {len(blank)} images: {listing(blank)}")
    classes = sorted(set(texts), key=natural)
    number = {c: i for i, c in enumerate(classes)}
    if len(classes) > max(20, len(rows) // 4):
        raise DataError(
            f"{file}: column {columns[0]} has {len(classes)} different values in {len(rows)} rows; is it a label?"
        )
    return "multiclass", classes, np.array([number[text] for text in texts], dtype=np.int64)


def npz(file: Path) -> Index:
    """MedMNIST's form: {train,val,test}_{images,labels}; images N x S x S [x 3] uint8, labels N x L
    integers."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: not a readable npz without pickled objects: {error}") from None
    splits = [s for s in SPLITS if s == "train" or f"{s}_images" in arrays or f"{s}_labels" in arrays]
    wanted = [f"{s}_{what}" for s in splits for what in ("images", "labels")]
    if absent := [name for name in wanted if name not in arrays]:
        raise DataError(f"{file}: no {' and no '.join(absent)}; it holds {listing(arrays, most=12)}")
    images, labels, official, paths = [], [], [], []
    for split in splits:
        x, y = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        y = y.reshape(-1, 1) if y.ndim < 2 else y
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


# ------------------------------------------------------------------------------------------------------- demo

DEMO_SIZE = 32  # pixels
# name of the class, lobes, depth of the lobes (share of the radius), hollow, share of the patients
DEMO_SOURCE = [(f"{lobes}-lobed-{'hollow' if hollow else 'solid'}", lobes, 0.45, hollow, 0.125)
               for lobes in (0, 3, 5, 8) for hollow in (False, True)]  # fmt: skip
DEMO_TARGET = [("normal", 0, 0.0, None, 0.4), ("cyst", 0, 0.0, True, 0.3), ("lobed", 4, 0.4, False, 0.2),
               ("spiculated", 7, 0.55, False, 0.1)]  # fmt: skip


# shapes, patients, scanner
DEMOS = {
    "demo": (DEMO_TARGET, 200, 1),
    "demo-source": (DEMO_SOURCE, 1200, 0),
    "demo-tiny": (DEMO_TARGET, 60, 1),
}


def demo(name: str = "demo", seed: int = 0) -> Index:
    """Pictures made by code, the same on every machine, with the traits of medical data: greyscale, several
    images of each patient, rare classes, a bright lesion in a body of its own brightness. `demo-source`, the
    larger task to pretrain on, has eight shapes; `demo`, the target, has four others in noisier, darker
    pictures (another scanner); `demo-tiny` is a part of it, for tests."""
    shapes, patients, shift = DEMOS[name]
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
    return Index(
        name,
        "multiclass",
        [s[0] for s in shapes],
        paths,
        np.array(labels, np.int64),
        groups,
        [""] * len(paths),
        Path("."),
        group_kind="patient",
        arrays=images,
    )


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
    """One picture of the patient, (32, 32) uint8. The lesion's edge is at radius * (1 + depth * cos(lobes *
    angle))."""
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


def safe_name(text: str) -> str:
    """A name fit for a folder."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "data"
