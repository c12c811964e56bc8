"""What lies on disk -> an index of images, labels and groups.

    index = load_index("my_images/")                  # or "data.csv", "bloodmnist.npz", "demo"
    index = load_index("mura", "archives/")           # or another of DATASETS: its archive as it was unpacked

An index is built without decoding anything. A group (patient, video) is what must never stand on two sides of
a split; splits.py cuts them. Imports numpy and torchvision (h5py for the .mat files of t1w alone); copied
alone, or with splits.py, into another project it works.
Order: the index, options, loading, ids, the six datasets, finding them, the user's own files, walking
folders, reading tables, the demo."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import signal
import threading
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

SPLITS = ("train", "val", "test")
SPELLED_SPLITS = {"train": "train training", "val": "val valid validation", "test": "test testing"}
SPLIT_NAMES = {name: split for split, names in SPELLED_SPLITS.items() for name in names.split()}


class DataError(ValueError):
    """Something about the user's data that must be fixed; the message says what, where and how."""


def listing(items: Iterable, total: int | None = None, most: int = 3) -> str:
    """'a, b, c and 2 more': the first few, in the form that every message here uses."""
    items = list(items)
    total = len(items) if total is None else total
    return ", ".join(map(str, items[:most])) + (f" and {total - most} more" if total > most else "")


def refuse(where: object, bad: Iterable, what: str) -> None:
    """DataError 'where: 3 what: a, b, c', if there is anything bad."""
    if bad := list(bad):
        raise DataError(f"{where}: {len(bad)} {what}: {listing(bad)}")


def no_pipe(file: Path) -> Path:
    """The file. DataError for a pipe, a socket or a device, which could be waited for without end."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise DataError(f"{file}: no file but a pipe, a socket or a device")
    return file


def duplicates(items: Iterable[str]) -> list[str]:
    return [item for item, n in Counter(items).items() if n > 1]


# ---- the index ----

DEFAULT_METRICS = {  # of a task: the metric, and the one that stands beside it
    "two classes": ("balanced_accuracy", "auroc"),
    "multiclass": ("balanced_accuracy", "accuracy"),
    "multilabel": ("auroc", "average_precision"),
}


@dataclass(kw_only=True)
class Index:
    """What a dataset is, before any image is decoded. N images.

    paths: N names, unique, relative to root where they are files. labels: (N,) int64 class numbers
    (multiclass), or (N, L) float32 0/1 with nan for unknown (multilabel). groups: N strings; without them
    each image is one. group_kind: what a group is; "image" means an image-level split.
    official: N strings train/val/test, or "" where the dataset leaves it open. metric, second: names in
    metrics.evaluate; without them those of DEFAULT_METRICS.
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
    Pillow cannot open. arrays: pixels that are no files (npz, demo)."""

    name: str = ""
    task: str
    classes: list[str]
    paths: list[str]
    labels: np.ndarray
    root: Path
    groups: list[str] = field(default_factory=list)
    group_kind: str = "image"
    official: list[str] = field(default_factory=list)
    metric: str = ""
    second: str = ""
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
    arrays: list[np.ndarray] | None = None
    reader: Callable[[Path], os.PathLike] | None = None

    def __post_init__(self):
        self.groups = self.groups or list(self.paths)
        self.official = self.official or [""] * len(self.paths)
        two = self.task == "multiclass" and len(self.classes) == 2
        metric, second = DEFAULT_METRICS["two classes" if two else self.task]
        self.metric, self.second = self.metric or metric, self.second or second

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
        columns = "paths groups official units subgroups spelt arrays".split()
        there = {name: values for name in columns if (values := getattr(self, name)) is not None}
        picked = {name: [values[i] for i in rows] for name, values in there.items()}
        folds = self.official_folds and [[fold[i] for i in rows] for fold in self.official_folds]
        return replace(self, **picked, labels=self.labels[rows], official_folds=folds)

    def label_text(self, i: int) -> str:
        if self.task == "multiclass":
            return self.classes[self.labels[i]]
        return "|".join(c for c, y in zip(self.classes, self.labels[i], strict=True) if y == 1)

    def spellings(self) -> dict[str, list[str]]:
        """Group -> its spellings in the files, for the groups that have more than one."""
        found = defaultdict(list)
        if self.spelt is not None:
            for group, spelt in dict.fromkeys(zip(self.groups, self.spelt, strict=True)):
                found[group].append(spelt)
        return {group: ways for group, ways in found.items() if len(ways) > 1}

    def fingerprint(self, groups: list[str] | None = None) -> str:
        """A hash of what is learnt from: paths, labels, groups (other ones, where groups were joined)."""
        text = json.dumps([self.task, self.classes, self.paths, groups or self.groups, self.official])
        return hashlib.sha256(text.encode() + np.ascontiguousarray(self.labels).tobytes()).hexdigest()[:16]


# ---- options ----

FORMS = ("a folder", "a CSV", "an npz")  # of the user's own data
GROUPED = "a dataset with groups"
MURA_REGIONS = "elbow finger forearm hand humerus shoulder wrist".split()
CHOLECT50_TASKS = ("instrument", "verb", "target", "triplet", "phase")


def flag(default: object, help: str, *, data: str, **more: object) -> object:
    """A field that is a flag of the command line. data: what it is for, of FORMS, DATASETS and GROUPED, with
    which its help begins. more: choices, metavar."""
    return field(default=default, metadata={"help": f"{data}: {help}", "data": data.split(", ")} | more)


@dataclass(frozen=True)
class Options:
    """What the command line may say about the files. DataError for a value that is not among its choices."""

    path_col: str = flag("path", "column of the image's path", data="a CSV")
    label_col: tuple[str, ...] = flag(
        ("label",), "label column, or 0/1 columns", data="a CSV", metavar="COL", basic=True
    )
    group_col: str | None = flag(
        None, "column of the patient (default: group, if any)", data="a CSV", metavar="COL", basic=True
    )
    split_col: str | None = flag(None, "column of train, val or test (default: split, if any)", data="a CSV")
    group_regex: str | None = flag(
        None, r"the patient in a file's name, as in '^(\d+)_', or its path", data="a folder, a CSV, t1w", basic=True
    )
    class_level: int | None = flag(
        None, "which level of folders is the classes, 1: the one in FOLDER or in its train/", data="a folder"
    )
    multilabel: bool = flag(
        False, "0/1 columns with a single 1 in every row are labels, too, no classes", data="a CSV, an npz"
    )
    exact_labels: bool = flag(
        False, "keep classes apart that differ in form alone: 1, 1.0; Benign, benign", data="a folder, a CSV, t1w"
    )
    keep_masks: bool = flag(False, "use masks beside their images, too", data="a folder, t1w")
    exact_ids: bool = flag(
        False, "keep ids apart that differ in form alone: 3, 003, 3.0", data=f"a folder, a CSV, {GROUPED}"
    )
    labels: str = flag(
        "five", "the competition's five labels or all fourteen", data="chexpert", choices=("five", "all")
    )
    uncertain: str = flag(
        "default",
        "-1 is 1 (ones), 0 (zeros), unknown (ignore), or 1 for Atelectasis and Edema alone (default)",
        data="chexpert",
        choices=("default", "ones", "zeros", "ignore"),
    )
    views: str = flag("frontal", "frontal views or all", data="chexpert", choices=("frontal", "all"))
    region: str = flag("all", "one body region or all", data="mura", choices=("all", *MURA_REGIONS))
    task: str = flag("instrument", "which labels", data="cholect50", choices=CHOLECT50_TASKS)
    variant: str = flag("rdv", "which official split", data="cholect50", choices=("rdv", "challenge", "crossval"))
    fold: int | None = flag(
        None,
        "the official fold to test on, of figshare or of --variant crossval",
        data="t1w, cholect50",
        choices=(1, 2, 3, 4, 5),
    )
    null_triplets: bool = flag(False, "count the six null triplets in mAP, as ivtmetrics does", data="cholect50")

    def __post_init__(self):
        for option in fields(self):
            value, choices = getattr(self, option.name), option.metadata.get("choices")
            if choices and value not in (option.default, *choices):
                raise DataError(f"{flag_name(option)} {value}: choose from {', '.join(map(str, choices))}")


def flag_name(option: Field) -> str:
    return "--" + option.name.replace("_", "-")


def is_for(option: Field, data: str) -> bool:
    """Whether data, one of FORMS or DATASETS, has a use for the option."""
    users = option.metadata["data"]
    return data in users or (GROUPED in users and data in DATASETS and DATASETS[data].names_groups)


def refuse_options(options: Options, kind: str, data: object) -> None:
    """DataError for an option that was given and that this data has no use for. kind: of FORMS or DATASETS;
    other data takes no options."""
    for option in fields(options):
        if is_for(option, kind) or getattr(options, option.name) == option.default:
            continue
        users = [name for name in (*FORMS, *DATASETS) if is_for(option, name)]
        shown = " and ".join(filter(None, (", ".join(users[:-1]), users[-1])))
        by_name = option.name == "group_col" and kind == "a folder"
        hint = "; name the groups of a folder with --group-regex" if by_name else ""
        raise DataError(f"{flag_name(option)} is for {shown}, not {data}{hint}")


def variant_name(data: str, options: Options = Options()) -> str:
    """What a public dataset's name gets from its options, "-verb-crossval-fold2": with another task, split or
    set of labels it is another dataset."""
    if data not in DATASETS:
        return ""
    own = [option for option in fields(options) if set(option.metadata["data"]) <= DATASETS.keys()]
    said = [(o.name, value) for o in own if (value := getattr(options, o.name)) != o.default]
    shown = {
        name: value if isinstance(value, str) else f"{name}{'' if value is True else value}" for name, value in said
    }
    return "".join(f"-{text}" for text in shown.values())


# ---- loading ----


def load_index(data: str, data_dir: str | None = None, options: Options = Options()) -> Index:
    """The index of a named dataset, or of the user's own folder, CSV or npz. Raises DataError."""
    if data in DATASETS:
        refuse_options(options, data, data)
        index = DATASETS[data].load(data_dir, options)
    elif data in DEMOS:
        refuse_options(options, data, data)
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
        index.warnings += doubtful_ids(index.group_kind, index.groups) + giant_group(index.group_kind, index.groups)
    index.notes = [note.encode("utf-8", "backslashreplace").decode() for note in index.notes]
    return index


def is_text(name: str) -> bool:
    """Whether a file's name is text: where its bytes are no UTF-8, Python put surrogates in their place."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- ids ----
#
# One rule for the ids of groups, whatever names them: a column, --group-regex, an archive; and for classes.


def id_key(text: str) -> str:
    """What the spellings of one id share: two ids with the same key are the same patient.

    Case and Unicode form: NFKC_Casefold of the Unicode standard (a no-break space is a space, a full-width
    digit a digit, what has no width is nothing). White space counts between two digits alone ("PT 03" is
    "PT03", "1 12" is not "11 2"). Leading zeros and a trailing .0, which spreadsheets and pandas take away
    and add, count for nothing where the whole id is a number ("0003", "3.0", "3"); in any other they are the
    id's own: "P03", the DICOM UID "1.2.840.0"."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    seen = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    seen = re.sub(r" (?!\d)|(?<!\d) ", "", " ".join(seen.split()))
    number = re.fullmatch(r"0*(\d+?)(\.0+)?", seen)
    return number[1] if number else seen


def is_blank(text: str) -> bool:
    """Empty, or "nan", which is how pandas writes a blank. "NA" and "None" are values."""
    return id_key(text) in ("", "nan")


def refuse_blank_ids(data: str, index: Index) -> None:
    """DataError for images whose group is blank."""
    blank = {group for group in dict.fromkeys(index.groups) if is_blank(group)}
    if bad := [path for path, group in zip(index.paths, index.groups, strict=True) if group in blank]:
        many = f"{len(bad)} of {len(index)} images: {listing(bad)}"
        way_out = "fill it in, or leave those images out"
        raise DataError(f"{data}: {index.group_kind} is blank (or nan) for {many}; {way_out}")


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


STANDS_FOR_MISSING = set("na n/a <na> #n/a nat none null unknown - ?".split())


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
        look = f"{len(rounded)} of {len(count)} {kind} ids look rounded by a spreadsheet ({listing(rounded)})"
        way_out = "export the table again from its source, with that column as text"
        warnings.append(f"{look}: several {kind}s may share one; {way_out}")
    return warnings + [
        f"{kind} {group!r} of {count[group]} images looks like a missing value; they count as one {kind}"
        for group, key in keys.items()
        if key in STANDS_FOR_MISSING and count[group] > 1
    ]


def giant_group(kind: str, groups: list[str]) -> list[str]:
    """A warning for a group that has over half of the images: it is all of one split."""
    name, most = Counter(groups).most_common(1)[0]
    if 2 * most <= len(groups):
        return []
    whole = f"{kind} {name!r} has {most} of {len(groups)} images, all of them in one split"
    return [f"{whole}: is that one {kind}? --check-data shows which image has which"]


def one_spelling_each(texts: Iterable[str], exact: bool) -> tuple[dict[str, str], list[str]]:
    """(text -> the class that it names, warnings). Spellings of one class (id_key: case, white space, 1 and 1.0,
    accents composed or not) take the shortest, and its first; names are in Unicode's form NFC. exact: only the
    form of accents is no difference."""
    ways = defaultdict(list)
    for text in dict.fromkeys(texts):
        ways[unicodedata.normalize("NFC", text) if exact else id_key(text)].append(text)
    class_of = {t: unicodedata.normalize("NFC", min(spelt, key=len)) for spelt in ways.values() for t in spelt}
    several = [" = ".join(map(repr, spelt)) for spelt in ways.values() if len(spelt) > 1]
    if not several:
        return class_of, []
    what = f"{len(several)} classes have more than one spelling ({listing(several)}): each counts as one class"
    return class_of, [what if exact else f"{what}; --exact-labels keeps them apart"]


# ---- the datasets ----

CHEXPERT_FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
CHEXPERT_ALL = tuple(
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,"
    "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices".split(",")
)
CHEXPERT_VIEW = re.compile(r"(patient\d+)/study\d+/view\d+_(frontal|lateral)\.jpg$")
# Folders that hold patientNNNNN/: the archive in one piece, and that in four "batches".
CHEXPERT_FOLDERS = {
    "train": ("train", "CheXpert-v1.0 batch [234]*"),
    "valid": ("valid", "CheXpert-v1.0 batch 1*/valid"),
    "test": ("test",),
}
CHEXPERT_TEST = "groundtruth.csv test_labels.csv test/groundtruth.csv test/test_labels.csv".split()
CHEXPERT_COUNTS = {
    "train": {"images": 223414, "groups": 64540},
    "valid": {"images": 234, "groups": 200},
    "test": {"images": 668, "groups": 500},
}
CHEXPERT_LABELS = {"": 0.0, "0.0": 0.0, "0": 0.0, "1.0": 1.0, "1": 1.0, "-1.0": -1.0, "-1": -1.0}


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
    tables = {}
    for part in ("train", "valid"):
        tables[part] = first_of(root, f"{part}.csv", f"CheXpert-v1.0 batch 1*/{part}.csv")
    absent = [f"{part}.csv" for part, file in tables.items() if file is None]
    refuse(root, absent, "of CheXpert's two tables are missing")
    test = first_of(root, *CHEXPERT_TEST)
    tables |= {"test": test} if test else {}
    split_of = {"train": "train", "valid": "val" if test else "test", "test": "test"}
    parts = {part: chexpert_part(root, part, file, findings, options) for part, file in tables.items()}
    paths = [path for found, _ in parts.values() for path in found]
    units = ["/".join(path.split("/")[-3:-1]) for path in paths]
    counts = {("train", ""): {"images": 191027}}
    if options.views == "all":
        counts = {(split_of[part], ""): CHEXPERT_COUNTS[part] for part in parts}
    return Index(
        task="multilabel",
        classes=list(findings),
        paths=paths,
        labels=np.concatenate([labels for _, labels in parts.values()]),
        root=root,
        groups=[unit.partition("/")[0] for unit in units],
        group_kind="patient",
        official=[split_of[part] for part, (found, _) in parts.items() for _ in found],
        units=units,
        unit_kind="study",
        unit_score="max",
        counts=counts,
        notes=[] if test else ["no test labels (groundtruth.csv, test_labels.csv): valid is the test set"],
    )


def chexpert_part(
    root: Path, part: str, file: Path, findings: tuple[str, ...], options: Options
) -> tuple[list[str], np.ndarray]:
    """(paths, labels (N, L)) of one of CheXpert's CSVs."""
    by_study = part == "test" and "Study" in read_table(file)[0]
    _, rows = read_table(file, ["Study" if by_study else "Path", *findings])
    folders = [folder for pattern in CHEXPERT_FOLDERS[part] for folder in sorted(root.glob(pattern))]
    patients_in = {f.relative_to(root).as_posix(): os.listdir(f) for f in folders if f.is_dir()}
    folder_of = {patient: folder for folder, patients in patients_in.items() for patient in patients}
    if by_study:  # the labels of a study are those of its images
        images = []
        for row in rows:
            study = "/".join(row["Study"].strip("/").split("/")[-2:])
            there = file_names(root / folder_of.get(study.split("/")[0], part) / study)
            images += [(f"{study}/{name}", row) for name in sorted(there) or ["view1_frontal.jpg"]]
    else:
        images = [(row["Path"], row) for row in rows]
    refuse_leaving([name for name, _ in images], str(file), root)
    seen = [(CHEXPERT_VIEW.search(name), name, row) for name, row in images]
    odd = [name for view, name, _ in seen if view is None]
    refuse(file, odd, "paths do not end in patient/study/view1_frontal.jpg")
    if options.views == "frontal":
        seen = [one for one in seen if one[0][2] == "frontal"]
    paths = [f"{folder_of.get(view[1], part)}/{view[0]}" for view, _, _ in seen]
    refuse_missing(root, paths, str(file), "unpack the whole archive")
    rows = [row for _, _, row in seen]
    values = ((path, f, row[f]) for path, row in zip(paths, rows, strict=True) for f in findings)
    bad = [f"{path}, {f}: {value!r}" for path, f, value in values if value not in CHEXPERT_LABELS]
    refuse(file, bad, "labels are not 1, 0, -1 or blank")
    labels = np.array([[CHEXPERT_LABELS[row[f]] for f in findings] for row in rows], np.float32)
    default = [f in ("Atelectasis", "Edema") for f in findings]
    uncertain = {"default": default, "ones": 1, "zeros": 0, "ignore": np.nan}[options.uncertain]
    return paths, np.where(labels == -1, np.float32(uncertain), labels)


MURA_PATH = re.compile(r"(?:train|valid)/XR_([A-Z]+)/(patient\d+)/(study\d+)_(positive|negative)/[^/]+")
MURA_PARTS = {"train": "train", "test": "valid"}
MURA_COUNTS = {
    ("train", ""): {"images": 36808, "groups": 11184, "units": 13457},
    ("train", "abnormal"): {"units": 5177},
    ("test", ""): {"images": 3197, "groups": 783, "units": 1199},
    ("test", "abnormal"): {"units": 538},
}


def mura(root: Path, options: Options) -> Index:
    """MURA v1.1 (Rajpurkar et al. 2018): {train,valid}_image_paths.csv and {train,valid}_labeled_studies.csv,
    without a header; {train,valid}/XR_<REGION>/patient/study1_positive/image1.png. Their paths start with the
    archive's folder.

    Images are those of the CSV: the folders hold macOS files, too. A study is (region, patient, number). The
    official test set is hidden: valid is the test set here."""
    parts = {split: mura_part(root, part, options.region) for split, part in MURA_PARTS.items()}
    paths = [path for images, _ in parts.values() for path in images]
    if not paths:
        raise DataError(f"{root}: no image of --region {options.region} is listed")
    studies = [MURA_PATH.fullmatch(path).group(1, 2, 3) for path in paths]
    return Index(
        task="multiclass",
        classes=["normal", "abnormal"],
        paths=paths,
        labels=np.array([label for _, labels in parts.values() for label in labels]),
        root=root,
        groups=[patient for _, patient, _ in studies],
        group_kind="patient",
        official=[split for split, (images, _) in parts.items() for _ in images],
        metric="kappa",
        second="auroc",
        units=["/".join(study) for study in studies],
        unit_kind="study",
        subgroups=[region.lower() for region, _, _ in studies],
        counts=dict(MURA_COUNTS) if options.region == "all" else {},
        notes=["the official test set is hidden: valid is the test set"],
    )


def mura_part(root: Path, part: str, region: str) -> tuple[list[str], list[int]]:
    """(paths, labels) of train or valid, of one body region or "all"."""
    file = root / f"{part}_labeled_studies.csv"
    of_study = {study.rstrip("/").partition("/")[2]: label for study, label in read_headerless(file, 2)}
    bad = [f"{study}: {label!r}" for study, label in of_study.items() if label not in ("0", "1")]
    refuse(file, bad, "labels are not 0 or 1")
    bad = [f"{study}, {y}" for study, y in of_study.items() if (y == "1") != study.endswith("_positive")]
    refuse(file, bad, "labels differ from the name of their folder")
    file = root / f"{part}_image_paths.csv"
    images = [path.partition("/")[2] for (path,) in read_headerless(file, 1)]
    if region != "all":
        images = [image for image in images if f"/XR_{region.upper()}/" in image]
    images = inside(root, images, str(file), "unpack the whole archive")
    odd = [image for image in images if not MURA_PATH.fullmatch(image)]
    refuse(file, odd, f"paths are not {part}/XR_REGION/patient/study/image")
    odd = [image for image in images if os.path.dirname(image) not in of_study]
    refuse(file, odd, f"images belong to no study in {part}_labeled_studies.csv")
    return images, [int(of_study[os.path.dirname(image)]) for image in images]


KAGGLE_CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
KAGGLE_COUNTS = {"train": (826, 822, 395, 827), "test": (100, 115, 105, 74)}  # of the set of 3,264 images


def t1w(root: Path, options: Options) -> Index:
    """T1w brain MRI: figshare's .mat slices where there are any, else one of the two Kaggle folders of
    images, {Training,Testing}/{glioma,meningioma,no,pituitary}_tumor or
    .../{glioma,meningioma,notumor,pituitary}."""
    slices = [file for file in walk(root) if re.fullmatch(r"\d+\.mat", file.name)]
    if slices:
        return t1w_figshare(root, slices, options)
    if options.fold:
        needs = "is for figshare's .mat slices with cvind.mat; these are image folders"
        raise DataError(f"{root}: --fold {options.fold} {needs}")
    index = class_folders(root, options)
    names = [re.sub(r"[_ ]?tumou?r$", "", name.lower()) or name for name in index.classes]
    names = ["notumor" if name == "no" else name for name in names]
    if sorted(names) != list(KAGGLE_CLASSES):
        found, known = listing(index.classes, most=9), listing(KAGGLE_CLASSES, most=9)
        raise DataError(f"{root}: classes are {found}; t1w has {known}")
    counts = {("all", ""): {"images": (7023, 7200)}}
    if any(name.lower().endswith("_tumor") for name in index.classes):
        per_split = {split: zip(KAGGLE_CLASSES, n, strict=True) for split, n in KAGGLE_COUNTS.items()}
        counts = {(split, c): {"images": n} for split, numbers in per_split.items() for c, n in numbers}
        counts["all", ""] = {"images": 3264}
    return replace(index, classes=names, metric="accuracy", second="macro_f1", counts=counts)


FIGSHARE_CLASSES = ("meningioma", "glioma", "pituitary")  # labels 1 to 3
FIGSHARE_COUNTS = {
    ("all", ""): {"images": 3064, "groups": 233},
    ("all", "meningioma"): {"images": 708},
    ("all", "glioma"): {"images": 1426},
    ("all", "pituitary"): {"images": 930},
}
# What h5py raises of a file that is no HDF5, lacks a key or holds something else there
NOT_FIGSHARE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)


def t1w_figshare(root: Path, slices: list[Path], options: Options) -> Index:
    """figshare 1512427 (Cheng et al. 2015): 1.mat to 3064.mat in one folder or several, MATLAB 7.3; group
    PID. cvind.mat holds the official 5 folds, entry i for file i + 1; --fold K takes fold K as the test
    set."""
    if options.group_regex:
        raise DataError(f"{root}: --group-regex is for image folders; figshare's slices name their patients")
    if options.keep_masks:
        raise DataError(f"{root}: --keep-masks is for image folders; figshare's masks lie within its slices")
    if importlib.util.find_spec("h5py") is None:
        raise DataError(f"{root}: reading t1w's .mat files needs h5py: pip install h5py")
    slices = sorted(slices, key=lambda file: int(file.stem))
    numbers = [int(file.stem) for file in slices]
    refuse(root, duplicates(f"{n}.mat" for n in numbers), "slices are there more than once")
    heads, bad = [], []
    for file in slices:
        try:
            heads.append(MatSlice(file).head())
        except NOT_FIGSHARE as error:
            bad.append(f"{file.name} ({error})")
    refuse(root, bad, f"of {len(slices)} .mat files cannot be read")
    labels = [label for label, _ in heads]
    bad = [f"{file.name}: {y:g}" for file, y in zip(slices, labels, strict=True) if y not in (1, 2, 3)]
    refuse(root, bad, "labels are not 1, 2 or 3")
    folds = figshare_folds(root, numbers)
    if options.fold and not folds:
        raise DataError(f"{root}: --fold {options.fold} needs cvind.mat, which is not there")
    return Index(
        task="multiclass",
        classes=list(FIGSHARE_CLASSES),
        paths=[file.relative_to(root).as_posix() for file in slices],
        labels=np.array([int(y) - 1 for y in labels]),
        root=root,
        groups=[pid for _, pid in heads],
        group_kind="patient",
        official=folds[options.fold - 1] if options.fold else [],
        metric="accuracy",
        second="macro_f1",
        official_folds=folds,
        counts=dict(FIGSHARE_COUNTS),
        notes=[] if folds else ["no cvind.mat, so no official folds: they are cut by patient"],
        reader=MatSlice,
    )


def figshare_folds(root: Path, numbers: list[int]) -> list[list[str]] | None:
    """The official splits of the slices of these numbers, None without a cvind.mat."""
    file = next((file for file in walk(root) if file.name == "cvind.mat"), None)
    if file is None:
        return None
    try:
        fold_of = MatSlice(file).folds()
    except NOT_FIGSHARE as error:
        raise DataError(f"{file}: not the folds of figshare's archive ({error})") from None
    if max(numbers) > len(fold_of):
        raise DataError(f"{file}: {len(fold_of)} folds, but there is a {max(numbers)}.mat")
    return [["test" if fold_of[n - 1] == k else "train" for n in numbers] for k in range(1, 6)]


@dataclass(frozen=True)
class MatSlice(os.PathLike):
    """A slice of figshare's T1w, for images.decode: a path that has read()."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def values(self, *names: str) -> list[np.ndarray]:
        import h5py

        with h5py.File(no_pipe(self.path), "r") as file:
            return [file[name][()] for name in names]

    def head(self) -> tuple[float, str]:
        """(label, PID)"""
        label, pid = self.values("cjdata/label", "cjdata/PID")
        return float(label.item()), "".join(map(chr, pid.ravel().astype(int)))

    def folds(self) -> np.ndarray:
        return self.values("cvind")[0].ravel().astype(int)

    def read(self) -> np.ndarray:
        """(H, W) uint8, the int16 values from the slice's smallest to its largest; MATLAB's columns are
        HDF5's rows."""
        values = self.values("cjdata/image")[0].T.astype(np.float64)
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
    refuse(file, duplicates(name for name, _ in rows), "images are listed more than once")
    rows.sort(key=lambda row: (BACH_CLASSES.index(row[1]), row[0]))
    below = "" if photos == root else "Photos/"
    paths = as_on_disk(root, [f"{below}{label}/{name}" for name, label in rows])
    refuse_missing(root, paths, str(file), "each lies in the folder of its class")
    return Index(
        task="multiclass",
        classes=list(BACH_CLASSES),
        paths=paths,
        labels=np.array([BACH_CLASSES.index(c) for _, c in rows]),
        root=root,
        metric="accuracy",
        second="macro_f1",
        counts={("all", ""): {"images": 400}} | {("all", c): {"images": 100} for c in BACH_CLASSES},
    )


ISIC_TABLES = ("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv", "train.csv")


def isic2020(root: Path, options: Options) -> Index:
    """ISIC 2020 (Rotemberg et al. 2021): a CSV with image_name, patient_id and target, and a folder of
    ISIC_*.jpg.

    Layouts: ISIC_2020_Training_GroundTruth[_v2].csv with [ISIC_2020_Training_JPEG/]train/; Kaggle's train.csv
    with jpeg/train/ or, resized, with train/. Of the pairs in ISIC_2020_Training_Duplicates.csv the second is
    left out. The test labels are not public: splits are cut from the training set by patient."""
    file = first_of(root, *ISIC_TABLES)
    if file is None:
        raise DataError(f"{root}: none of {', '.join(ISIC_TABLES)}")
    folder = first_of(root, "ISIC_2020_Training_JPEG/train", "jpeg/train", "train", folder=True)
    if folder is None:
        raise DataError(f"{root}: no folder train, jpeg/train or ISIC_2020_Training_JPEG/train")
    _, rows = read_table(file, ["image_name", "patient_id", "target"])
    bad = [f"{row['image_name']}: {row['target']!r}" for row in rows if row["target"] not in ("0", "1")]
    refuse(file, bad, "targets are not 0 or 1")
    refuse(file, duplicates(row["image_name"] for row in rows), "images are listed more than once")
    rows, counts, note = isic_without_copies(root, rows)
    below = folder.relative_to(root).as_posix()
    paths = [f"{below}/{row['image_name']}.jpg" for row in rows]
    refuse_leaving(paths, str(file), root)
    paths = as_on_disk(root, paths)
    refuse_missing(root, paths, str(file), "unpack the whole archive")
    return Index(
        task="multiclass",
        classes=["benign", "malignant"],
        paths=paths,
        labels=np.array([int(row["target"]) for row in rows]),
        root=root,
        groups=[row["patient_id"] for row in rows],
        group_kind="patient",
        metric="auroc",
        second="average_precision",
        counts=counts,
        notes=[note],
    )


def isic_without_copies(root: Path, rows: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict, str]:
    """(rows, counts of a full copy, note) without the second image of each pair in the list of duplicates."""
    pairs = root / "ISIC_2020_Training_Duplicates.csv"
    if not pairs.is_file():
        counts = {"": {"images": 33126, "groups": 2056}, "malignant": {"images": 584, "groups": 428}}
        note = f"no {pairs.name} (challenge.isic-archive.com/data): its 425 pairs stay in"
    else:
        second = {row["image_name_2"] for row in read_table(pairs, ["image_name_1", "image_name_2"])[1]}
        total = len(rows)
        rows = [row for row in rows if row["image_name"] not in second]
        counts = {"": {"images": 32701}, "malignant": {"images": 581}}
        note = f"{total - len(rows)} duplicates left out, the second of each pair in {pairs.name}"
    return rows, {("all", name): numbers for name, numbers in counts.items()}, note


CHOLECT50_NAMES = {
    "instrument": "grasper bipolar hook scissors clipper irrigator",
    "verb": "grasp retract dissect coagulate clip cut aspirate irrigate pack null_verb",
    "target": "gallbladder cystic_plate cystic_duct cystic_artery cystic_pedicle blood_vessel fluid "
    "abdominal_wall_cavity liver adhesion omentum peritoneum gut specimen_bag null_target",
    "triplet": " ".join(f"triplet{i}" for i in range(100)),  # the archive has their names
    "phase": "preparation carlot-triangle-dissection clipping-and-cutting gallbladder-dissection "
    "gallbladder-packaging cleaning-and-coagulation gallbladder-extraction",
}
CHOLECT50_CLASSES = {task: names.split() for task, names in CHOLECT50_NAMES.items()}
# Where each task's number stands in the JSON's 15 values
CHOLECT50_PLACE = {"triplet": 0, "instrument": 1, "verb": 7, "target": 8, "phase": 14}
NULL_TRIPLETS = tuple(range(94, 100))
# Nwoye and Padoy 2022, video numbers. Train is the other ones.
CHOLECT50_SPLITS = {
    "rdv": {"val": (8, 12, 29, 50, 78), "test": (6, 51, 10, 73, 14, 74, 32, 80, 42, 111)},
    "challenge": {"val": (5, 18, 36, 65, 74), "test": (92, 96, 103, 110, 111)},
}
CHOLECT50_FOLDS = (
    (79, 2, 51, 6, 25, 14, 66, 23, 50, 111),
    (80, 32, 5, 15, 40, 47, 26, 48, 70, 96),
    (31, 57, 36, 18, 52, 68, 10, 8, 73, 103),
    (42, 29, 60, 27, 65, 75, 22, 49, 12, 110),
    (78, 43, 62, 35, 74, 1, 56, 4, 13, 92),
)
CHOLECT45_LACKS = {111, 96, 103, 110, 92}


@dataclass(frozen=True)
class Video:
    """The annotated frames of one video, by number, and their labels, a row each."""

    frames: list[int]
    labels: np.ndarray


def cholect50(root: Path, options: Options) -> Index:
    """CholecT50 (Nwoye et al. 2022): videos/VID01/000000.png with labels/VID01.json, or CholecT45:
    data/VID01/000000.png with {triplet,instrument,verb,target}/VID01.txt. Group: video. Images are the
    annotated frames.

    Official splits by --variant; crossval takes --fold (1 where none is given) as the test set. Metric:
    video-wise mAP, for triplets without the null ones."""
    task, fifty, phases = options.task, (root / "labels").is_dir(), options.task == "phase"
    if options.fold and options.variant != "crossval":
        raise DataError(f"--fold {options.fold} is for --variant crossval, not {options.variant}")
    videos, classes, notes = (cholect50_json if fifty else cholect45_txt)(root, task)
    lacks = set() if fifty else CHOLECT45_LACKS
    side_of = cholect50_sides(options.variant, options.fold or 1, lacks)
    strange = [video for video in videos if int(video[3:]) not in side_of]
    refuse(root, strange, f"videos are in no split of CholecT{50 if fifty else 45}")
    refuse_empty_sides(root, options, [side_of[int(video[3:])] for video in videos])
    folder = "videos" if fifty else "data"
    frames = [(video, frame) for video, found in videos.items() for frame in found.frames]
    paths = [f"{folder}/{video}/{frame:06d}.png" for video, frame in frames]
    refuse_missing(root, paths, str(root), "unpack the whole archive")
    if extra := sum(len(file_names(root / folder / video)) for video in videos) - len(paths):
        notes.append(f"{extra} files in {folder}/ without annotation, left out")
    groups = [video for video, _ in frames]
    numbers = [int(video[3:]) for video in groups]
    folds = range(1, 6) if options.variant == "crossval" else ()
    sides = [cholect50_sides("crossval", fold, lacks) for fold in folds]
    counts = {(split, ""): {"groups": list(side_of.values()).count(split)} for split in SPLITS}
    counts["all", ""] = {"groups": len(side_of)} | ({} if fifty else {"images": 90489})
    scored = {"metric": "accuracy", "second": "macro_f1"}
    if not phases:
        scored = {"metric": "video_map", "units": groups, "unit_kind": "video", "unit_score": "video"}
    return Index(
        task="multiclass" if phases else "multilabel",
        classes=list(classes),
        paths=paths,
        labels=np.concatenate([found.labels for found in videos.values()]),
        root=root,
        groups=groups,
        group_kind="video",
        official=[side_of[n] for n in numbers],
        official_folds=[[side[n] for n in numbers] for side in sides] or None,
        leave_out=NULL_TRIPLETS if task == "triplet" and not options.null_triplets else (),
        counts=counts,
        notes=notes,
        **scored,
    )


def refuse_empty_sides(root: Path, options: Options, sides: list[str]) -> None:
    """DataError where train, val or test has none of the videos that are here. sides: of each of them."""
    if lacking := [split for split in SPLITS if split not in sides]:
        all_sides = cholect50_sides(options.variant, options.fold or 1)
        wanted = listing(sorted(n for n, side in all_sides.items() if side == lacking[0]), most=10)
        have = f"the {lacking[0]} videos of --variant {options.variant} are {wanted}"
        raise DataError(f"{root}: {have}; none of them is among the {len(sides)} videos here")


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


def cholect50_json(root: Path, task: str) -> tuple[dict[str, Video], list[str], list[str]]:
    """(videos, classes, notes). annotations[frame] is a list, possibly empty, of instances of 15 values, -1
    where there is none. A frame without a phase is left out of the phase task."""
    classes, videos, without = CHOLECT50_CLASSES[task], {}, 0
    allowed = range(-1, len(classes))
    for video, file in video_files(root / "labels", ".json"):
        found, names = json_annotations(file, CHOLECT50_PLACE[task])
        bad = [f"frame {frame}: {v!r}" for frame, values in found.items() for v in values if v not in allowed]
        refuse(file, bad, f"{task} numbers are not -1 to {len(classes) - 1}")
        if task == "triplet":
            classes = [names.get(str(i), c) for i, c in enumerate(classes)]
        present = {frame: sorted({int(v) for v in found[frame]} - {-1}) for frame in sorted(found)}
        if task == "phase":
            torn = [f"frame {frame}: {numbers}" for frame, numbers in present.items() if len(numbers) > 1]
            refuse(file, torn, "frames are in two phases")
            without += sum(not numbers for numbers in present.values())
            present = {frame: numbers for frame, numbers in present.items() if numbers}
            labels = np.array([number for (number,) in present.values()], np.int64)
        else:
            labels = np.zeros((len(present), len(classes)), np.float32)
            for row, numbers in enumerate(present.values()):
                labels[row, numbers] = 1
        videos[video] = Video(list(present), labels)
    return videos, classes, [f"{without} frames have no phase, left out"] if without else []


def json_annotations(file: Path, place: int) -> tuple[dict[int, list[int]], dict[str, str]]:
    """(frame -> the values at that place of its instances, number of a triplet -> its name) of a JSON of
    CholecT50."""
    try:
        content = json.loads(no_pipe(file).read_text(encoding="utf-8"))
        frames = content["annotations"].items()
        found = {int(frame): [instance[place] for instance in instances] for frame, instances in frames}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        why = f"{type(error).__name__} {error}"
        raise DataError(f"{file}: no annotations as CholecT50 has them: {why}") from None
    names = content.get("categories")
    return found, names.get("triplet", {}) if isinstance(names, dict) else {}


def cholect45_txt(root: Path, task: str) -> tuple[dict[str, Video], list[str], list[str]]:
    """The same from CholecT45's text files: frame, then a 0/1 column for each class. dict/triplet.txt has
    names."""
    if task == "phase":
        raise DataError(f"{root}: CholecT45 has no phases; --task phase needs CholecT50's labels/VID01.json")
    classes, videos = CHOLECT50_CLASSES[task], {}
    for video, file in video_files(root / task, ".txt"):
        try:
            values = np.loadtxt(no_pipe(file), delimiter=",", dtype=np.int64, ndmin=2)
        except ValueError as error:
            raise DataError(f"{file}: {error}") from None
        values = values[np.argsort(values[:, 0], kind="stable")]
        frames, labels = values[:, 0], values[:, 1:]
        if labels.shape[1] != len(classes) or not np.isin(labels, (0, 1)).all():
            found = f"{values.shape[1]} columns, values {labels.min(initial=0)} to {labels.max(initial=0)}"
            raise DataError(f"{file}: needs a frame and {len(classes)} columns of 0 or 1; it has {found}")
        if (np.diff(frames) == 0).any():
            raise DataError(f"{file}: a frame is listed more than once")
        videos[video] = Video(frames.tolist(), labels.astype(np.float32))
    names = root / "dict" / "triplet.txt"
    if task == "triplet" and names.is_file():
        found = dict(re.findall(r"^(\d+)\W+(\w.*?)\s*$", names.read_text(encoding="utf-8"), re.MULTILINE))
        classes = [found.get(str(i), c) for i, c in enumerate(classes)]
    return videos, classes, []


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A public dataset: what --list-data says of it, and how it is found and read. classes, metric, unit:
    those without further options. markers: glob patterns; the archive's folder holds one of them. build:
    (root, options) -> Index, whose name and citation are set here."""

    name: str
    title: str
    task: str
    classes: tuple[str, ...]
    metric: str
    group: str  # begins with "image" where the archive names no groups
    unit: str
    site: str
    access: str
    licence: str
    size: str
    citation: str
    markers: tuple[str, ...]
    build: Callable[[Path, Options], Index]

    @property
    def names_groups(self) -> bool:
        return not self.group.startswith("image")

    def load(self, data_dir: str | None, options: Options) -> Index:
        root = self.find(data_dir)
        index = self.build(root, options)
        notes = [f"found in {root}", *index.notes]
        return replace(index, name=self.name, citation=self.citation, notes=notes)

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
        markers = [re.sub(r"\[(\w)\w\]", r"\1", marker) for marker in self.markers]  # "[tT]" is "t"
        places = " and ".join(map(str, bases))
        looked = f"looked for {' or '.join(markers)} in {places} and in the folders there"
        found = "; ".join(map(self.instead, bases))
        source = f"{self.site} ({self.access}, {self.size})"
        way_out = f"Get it from {source}, unpack it and pass --data-dir FOLDER"
        raise DataError(f"{self.name} not found: {looked}. {found}. {way_out}")

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
    names = [f.name for f in fields(Dataset) if f.name not in ("markers", "build")]
    rows = [{name: getattr(dataset, name) for name in names} for dataset in DATASETS.values()]
    return [row | {"classes": ", ".join(row["classes"])} for row in rows]


def near(place: Path) -> list[Path]:
    """A place and the folders in it, the first hundred (CheXpert's train/ has 64,540), none where there is no
    place."""
    return [place, *subfolders(place)[:100]] if place.is_dir() else []


def first_of(root: Path, *patterns: str, folder: bool = False) -> Path | None:
    """The first that is there of some files, or of some folders (beside which the zip may lie)."""
    found = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return next((path for path in found if path.is_dir() == folder), None)


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
            site="figshare.com/articles/dataset/1512427, or kaggle.com/datasets/"
            "sartajbhuvaji/brain-tumor-classification-mri or masoudnickparvar/brain-tumor-mri-dataset",
            access="open",
            licence="CC BY 4.0 (figshare)",
            size="0.9 GB figshare, 0.1-0.2 GB Kaggle",
            citation="Cheng et al., PLoS ONE 2015; Bhuvaji et al., Kaggle 2020; Nickparvar, Kaggle 2021",
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
            classes=tuple(CHOLECT50_CLASSES["instrument"]),
            metric="mean average precision per video",
            group="video",
            unit="video",
            site="github.com/CAMMA-public/cholect50",
            access="gated: request form",
            licence="CC BY-NC-SA 4.0",
            size="about 50 GB",
            citation="Nwoye et al., Medical Image Analysis 2022; splits: Nwoye and Padoy 2022",
            markers=("labels/VID*.json", "instrument/VID*.txt"),
            build=cholect50,
        ),
    )
}


# ---- the user's own data ----


def own_data(path: Path, data_dir: str | None, options: Options) -> Index:
    if path.is_dir():
        return own_folder(path, options)
    if not path.exists():
        known = ", ".join([*DATASETS, *DEMOS])
        raise DataError(f"--data {path}: neither a file, a folder nor a known dataset; the datasets are {known}")
    no_pipe(path)
    if path.suffix.lower() == ".npz":
        refuse_options(options, "an npz", path)
        return npz_file(path, options)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        refuse_options(options, "a CSV", path)
        return csv_file(path, Path(data_dir).expanduser() if data_dir else path.parent, options)
    raise DataError(f"--data {path}: give a folder of class folders, a .csv or an .npz")


# Names that say nothing of the data: the folder's is put before them.
PLAIN_NAMES = set("label labels train training data dataset metadata meta annotations index".split())


def own_name(file: Path) -> str:
    """A dataset's name from that of its file: "lesions-labels" of lesions/labels.csv."""
    folder = file.resolve().parent.name
    return f"{folder}-{file.stem}" if folder and file.stem.lower() in PLAIN_NAMES else file.stem


def own_folder(root: Path, options: Options) -> Index:
    """A folder of class folders; or the one table in it that has the label's column, where there are no class
    folders or the options name its columns."""
    met = Met()
    layout = layout_of(root, options, met)
    tables = [] if met.bad else [root / name for name in sorted(file_names(root)) if is_table(name)]
    asked = any(getattr(options, name) != getattr(Options, name) for name in ("path_col", "label_col", "group_col"))
    if len({place.label for place in layout.places}) < 2 or asked:
        labelled = [file for file in tables if set(options.label_col) <= set(header_of(file))]
        if len(labelled) == 1:
            refuse_options(options, "a CSV", labelled[0])
            index = csv_file(labelled[0], root, options)
            note = f"the table {labelled[0].name} in the folder was read, not the folders in it"
            return replace(index, name=root.resolve().name, notes=[note, *index.notes])
        if tables:
            names = listing(file.name for file in labelled or tables)
            layout.hint += f"; tables in it are {names}: --data {tables[0]} reads one, with --label-col and --path-col"
    refuse_options(options, "a folder", root)
    index = class_folders(root, options, layout, met)
    if tables:
        names = listing(file.name for file in tables)
        text = f"beside the class folders, not read: {names} (--data {tables[0]} reads it)"
        alike = {re.sub(r"\d+", "", name) for name in index.classes}  # images_001, images_002: parts of one archive
        (index.warnings if len(alike) == 1 and alike != {""} else index.notes).append(text)
    return index


def is_table(name: str) -> bool:
    return name.lower().endswith((".csv", ".tsv"))


def header_of(file: Path) -> list[str]:
    """The columns of a table, none of one that cannot be read."""
    try:
        return read_table(file)[0]
    except DataError:
        return []


def class_folders(root: Path, options: Options, layout: Layout | None = None, met: Met | None = None) -> Index:
    """root/<class>/**/*.png, or root/{train,val,test}/<class>/**/*.png, also Training, Testing, valid; and what
    else layout_of knows."""
    met = met or Met()
    layout = layout or layout_of(root, options, met)
    below = [(place, sorted_out(walk(place.folder, met))) for place in layout.places]
    met.refuse(root)
    if layout.refused:
        raise DataError(f"{root}: {layout.refused}{layout.hint}")
    refuse_read_twice(root, [place.folder for place in layout.places])
    other, unread = (sum((files[k] for _, files in below), Counter()) for k in (1, 2))
    hollow = {place.folder.relative_to(root).as_posix(): files[2] for place, files in below if not files[0]}
    if hollow:
        names = listing(f"{name} ({counted(kinds) or 'no images'})" for name, kinds in hollow.items())
        way_out = f"{TO_PNG}; or remove the folders" if unread else "fill or remove them"
        raise DataError(f"{root}: {len(hollow)} class folders without images: {names}; {way_out}{layout.hint}")
    if not below:
        refuse_no_classes(root, layout.hint)
    masks = set() if options.keep_masks else {f for _, files in below for f in masks_beside(files[0])}
    found = [(file, place) for place, files in below for file in files[0] if file not in masks]
    notes = layout.notes + met.notes(root) + masks_note(layout.masks + sorted(masks), root)
    if loose := [f.name for top in layout.tops for f in sorted(top.iterdir()) if is_image(f) and f.is_file()]:
        notes.append(f"{len(loose)} images lie in no class folder, left out: {listing(loose)}")
    if other:
        notes.append("not images, left out: " + listing(f"{n} {suffix}" for suffix, n in other.most_common()))
    class_of, warnings = one_spelling_each((place.label for place in layout.places), options.exact_labels)
    warnings += layout.warnings + ([] if options.group_regex else nested_warning(layout, found))
    if unread:
        warnings.append(f"left out, in forms that are not read: {counted(unread)}; {TO_PNG}")
    paths = [file.relative_to(root).as_posix() for file, _ in found]
    classes = sorted(set(class_of.values()), key=natural)
    groups, kind = groups_by_regex(paths, options.group_regex)
    folds = sorted({place.fold for _, place in found} - {""}, key=lambda fold: int(re.findall(r"\d+", fold)[0]))
    return Index(
        name=root.resolve().name,
        task="multiclass",
        classes=classes,
        paths=paths,
        labels=np.array([classes.index(class_of[place.label]) for _, place in found], np.int64),
        root=root,
        groups=groups,
        group_kind=kind,
        official=[place.split for _, place in found],
        official_folds=[["test" if place.fold == fold else "train" for _, place in found] for fold in folds] or None,
        notes=notes,
        warnings=warnings,
    )


def nested_warning(layout: Layout, found: list[tuple[Path, Place]]) -> list[str]:
    """A warning for images in folders within their class folder, if any: of patients, or the true classes."""
    folders = [file.parent for file, place in found if file.parent != place.folder]
    if not (inner := [folder for folder in folders if folder.name.lower() not in PICTURES]):
        return []
    where = f"{len(inner)} images lie deeper than their class folder, as in {inner[0].name}/"
    patients = "if those folders are patients, name them with --group-regex, as in '([^/]+)/[^/]+$'"
    return [f"{where}: {patients}{layout.deeper}"]


# ---- which folders are the classes ----

# Folders that hold the pictures of what is above them, beside which masks may lie; small letters
PICTURES = set("image images img imgs picture pictures photo photos scan scans original originals".split())
MASK_FOLDER = re.compile(
    r"(.*[ _.-])?(masks?|seg|segmentations?|gt|ground[ _-]?truths?|annotations?|labels?|superpixels)", re.IGNORECASE
)
FOLD_FOLDER = re.compile(r"(?:cv|fold)[ _-]?(\d+)|(\d+)[ _-]?fold", re.IGNORECASE)
# Words of findings, which are classes where the folders above have none: kidney/normal, kidney/stone
FINDING = re.compile(
    r"(?<![a-z])(ab|non?[ _-]?)?(normal|healthy|benign|malignant|positive|negative|pos|neg|tumou?rs?|cancer|lesion"
    r"|control|disease|diseased|infected|uninfected|sick|pathological)(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """A folder of images of one class. split: train, val, test, or "" where no folder says so; fold: the name of
    the fold's folder, or ""."""

    label: str
    folder: Path
    split: str = ""
    fold: str = ""


@dataclass
class Layout:
    """What the folders below a data folder are. tops: those above the class folders. masks: images in folders of
    masks. refused: why the folders cannot be read as classes, if so. hint: what an error adds where a folder may
    have been taken for another thing, deeper: what is said of folders within the classes."""

    places: list[Place] = field(default_factory=list)
    tops: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: str = ""
    hint: str = ""
    deeper: str = ""

    def open(self, folder: Path, keep_masks: bool, met: Met) -> list[Path]:
        """The folders in a folder, without those of masks beside images/. Where images/ is alone, or a folder that
        holds train/ and test/ with folders, those in it."""
        self.tops.append(folder)
        folders = subfolders(folder, met)
        if not keep_masks and any(f.name.lower() in PICTURES for f in folders):
            masks = [f for f in folders if MASK_FOLDER.fullmatch(f.name)]
            self.masks += [file for f in masks for file in walk(f, met) if is_image(file)]
            folders = [f for f in folders if f not in masks]
        if len(folders) == 1 and split_name(folders[0]) is None:
            within, images = look(folders[0])
            wraps = any(split_name(f) and look(f)[0] for f in within)
            if within and not images and (wraps or folders[0].name.lower() in PICTURES):
                return self.open(folders[0], keep_masks, met)
        return folders


def split_name(folder: Path) -> str | None:
    return SPLIT_NAMES.get(folder.name.lower())


def look(folder: Path) -> tuple[list[Path], bool]:
    """(the folders in a folder, whether images lie in it)"""
    found, names = scan(os.fspath(folder), os.path.realpath(folder), Met())
    return [Path(path) for path, _, _ in found], any(is_image(Path(name)) for name in names)


def layout_of(root: Path, options: Options, met: Met) -> Layout:
    """Known: class, {train,val,test}/class, class/{train,val,test}, fold1/class and so on; images/ beside masks/ at
    any level; organ/class where the names leave no doubt. --class-level says it otherwise."""
    layout = Layout()
    folders = layout.open(root, options.keep_masks, met)
    split_of = {f: split_name(f) for f in folders if split_name(f)}
    is_fold = len(folders) > 1 and all(FOLD_FOLDER.fullmatch(f.name) for f in folders)
    if split_of:
        places = [
            Place(c.name, c, split=split)
            for folder, split in split_of.items()
            for c in layout.open(folder, options.keep_masks, met)
        ]
        name_what_is_beside(layout, split_of, [f for f in folders if f not in split_of])
    elif is_fold:
        below = {f: layout.open(f, options.keep_masks, met) for f in folders}
        if whole := [f.name for f, inner in below.items() if any(map(split_name, inner))]:
            way_out = f"give one of them: --data {root / whole[0]}"
            layout.refused = f"folds with train/ and test/ of their own: {listing(whole)}; {way_out}"
        places = [Place(c.name, c, fold=f.name) for f, inner in below.items() for c in inner]
        layout.notes.append(f"{len(folders)} folders are folds: --folds {len(folders)} uses them")
    else:
        places = [Place(f.name, f) for f in folders]
    layout.places = places
    choose_level(layout, root, options, met, given=bool(split_of or is_fold))
    return layout


def name_what_is_beside(layout: Layout, split_of: dict[Path, str], beside: list[Path]) -> None:
    """Folders beside train/ and test/ are left out, which is said."""
    if not beside:
        return
    images = sum(is_image(file) for folder in beside for file in walk(folder, Met()))
    names = listing(folder.name for folder in beside)
    layout.notes.append(f"{images} images left out, beside the splits' folders: {names}")
    splits = " and ".join(f"{folder.name}/" for folder in split_of)
    layout.hint = f"; {splits} was read as the folder of a split and the {len(beside)} beside it left out: "
    layout.hint += "rename it if it is a class"


def choose_level(layout: Layout, root: Path, options: Options, met: Met, given: bool) -> None:
    """Takes the classes from a deeper level where they are there: as --class-level says, or where the names leave
    no doubt. given: whether folders above the classes are splits or folds."""
    looked = [look(place.folder) for place in layout.places]
    inner = [(place, sub) for place, (subs, _) in zip(layout.places, looked, strict=True) for sub in subs]
    sided = [(place, sub) for place, sub in inner if split_name(sub)]
    hollow = bool(inner) and all(subs and not images for subs, images in looked)
    if hollow and sided == inner and not given and options.class_level in (None, 1):
        layout.tops += [place.folder for place in layout.places]
        layout.places = [Place(place.label, sub, split=split_name(sub)) for place, sub in inner]
        layout.notes.append(f"the splits are the folders {listing(sorted({s.name for _, s in inner}))} in each class")
        return
    if sided:
        names = listing(sub.relative_to(root).as_posix() for _, sub in sided)
        layout.warnings.append(f"folders within classes are named like splits and were not read as such: {names}")
    level, labels = options.class_level, sorted({place.label for place in layout.places}, key=natural)
    names = sorted({sub.name for _, sub in inner}, key=natural)
    if level is None and hollow and not any(name.lower() in PICTURES for name in names):
        if len(labels) == 1 and not given and len(names) > 1:
            only = f"{labels[0]} is the only folder in it, with {listing(names)}"
            layout.refused = f"{only}; if those are the classes, give --class-level 2"
        if level_two(labels, inner):
            level, shown = 2, listing(labels)
            took = f"the classes are the folders {listing(names)}, not those above them ({shown})"
            layout.warnings.append(f"{took}; --class-level 1 takes those")
        else:
            layout.deeper = "; if they are the classes, give --class-level 2"
    for _ in range((level or 1) - 1):
        layout.tops += [place.folder for place in layout.places]
        layout.places = [
            replace(place, label=sub.name, folder=sub)
            for place in layout.places
            for sub in subfolders(place.folder, met)
        ]


def level_two(labels: list[str], inner: list[tuple[Place, Path]]) -> bool:
    """Whether the names leave no doubt that folders within those of the labels are the classes: each repeats the
    first word of the one above it (lung/lung_n), or they name findings and those above do not (kidney/normal).
    Numbers in them are of patients, or of degrees of the class above."""
    if any(re.search(r"\d", sub.name) for _, sub in inner) or len(labels) < 2:
        return False
    words = [[re.split(r"[ _.-]+", name.lower()) for name in (place.label, sub.name)] for place, sub in inner]
    repeated = all(below[0] == above[0] and len(below) > 1 for above, below in words)
    named = any(FINDING.search(sub.name) for _, sub in inner) and not any(map(FINDING.search, labels))
    return repeated or named


def refuse_read_twice(root: Path, folders: list[Path]) -> None:
    """DataError where two class folders are one: a link to another class, or to another split."""
    names_of = defaultdict(list)
    for folder in folders:
        names_of[os.path.realpath(folder)].append(folder.relative_to(root).as_posix())
    same = (" = ".join(names) for names in names_of.values() if len(names) > 1)
    refuse(root, same, "folders are read twice through a link, remove the link")


def refuse_no_classes(root: Path, hint: str) -> None:
    images, _, unread = sorted_out(walk(root))
    what = f"{len(images)} images lie in it, but in no class folder" if images else "there is no image in it"
    what += f", but {counted(unread)} ({TO_PNG})" if unread and not images else ""
    expected = f"expected {root.name}/<class>/*.png or {root.name}/train/<class>/*.png"
    raise DataError(f"{root}: {what}; {expected}{hint}")


# ---- tables and arrays ----

REGEX_SECONDS = 10.0


class OverTime(Exception):
    """at_most's time is over."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """OverTime where the block takes longer, a search with a regular expression included. Without a limit on systems,
    and in threads, that have no such timer."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: object) -> None:
        raise OverTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def groups_by_regex(paths: list[str], pattern: str | None) -> tuple[list[str], str]:
    """(groups, kind). The first group of the pattern in the file name, in the whole path where the pattern
    has a /."""
    if pattern is None:
        return list(paths), "image"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--group-regex {pattern!r} is no regular expression: {error}") from None
    names, matches = [p if "/" in pattern else p.rpartition("/")[2] for p in paths], []
    with at_most(REGEX_SECONDS + len(paths) / 10_000):
        try:
            matches.extend(map(compiled.search, names))
        except OverTime:
            name = names[len(matches)]
            why = f"tries too many ways on {name!r}: no + or * within another, as in (a+)+"
            raise DataError(f"--group-regex {pattern!r} {why}") from None
    groups = [m.group(1 if compiled.groups else 0) if m else None for m in matches]
    missed = [path for path, group in zip(paths, groups, strict=True) if not group]  # None, or no characters
    if missed:
        many = f"{len(missed)} of {len(paths)} names: {listing(missed)}"
        raise DataError(f"--group-regex {pattern!r} does not match {many}")
    return groups, "group"


# A column's name that is a group: PatientID, anon_patient_id, subject, Study Instance UID; not patient_age
GROUP_COLUMN = re.compile(
    r"(\w+[ _-])?(patient|subject|person|participant|case|video|study|lesion|specimen|slide|mrn|pid)s?"
    r"([ _-]?instance)?([ _-]?(id|uid|no|nr|num|number|code|key|name))?",
    re.IGNORECASE,
)


def csv_file(file: Path, root: Path, options: Options) -> Index:
    """A CSV with a header: path,label[,group][,split]. Several labels: a|b in one column, or 0/1 columns
    named in --label-col. A blank is unknown: refused of one label, masked out of several."""
    header, rows = read_table(file)
    if options.group_col and options.group_regex:
        raise DataError(f"{file}: give --group-col or --group-regex, not both")
    if not rows:
        raise DataError(f"{file}: no rows below the header")
    split_col = options.split_col or ("split" if "split" in header else None)
    taken = {options.path_col, split_col, options.group_col, *options.label_col}
    path_col, notes = path_column(header, rows, root, options.path_col, taken)
    group_col, said = group_column(file, header, options, taken | {path_col})
    asked = [(path_col, "--path-col"), *((name, "--label-col") for name in options.label_col)]
    asked += [(group_col, "--group-col"), (split_col, "--split-col")]
    if absent := [f"{name} ({flag})" for name, flag in asked if name and name not in header]:
        raise DataError(f"{file}: no column {listing(absent)}; its columns are {listing(header, most=12)}")
    paths, found = named_images(root, [row[path_col] for row in rows], str(file))
    refuse(file, duplicates(paths), "images are listed more than once")
    task, classes, labels, warnings = read_labels(file, rows, paths, options)
    groups, kind = groups_by_regex(paths, options.group_regex)
    if group_col and group_col != path_col:
        groups, kind = [row[group_col] for row in rows], group_col
    return Index(
        name=own_name(file),
        task=task,
        classes=classes,
        paths=paths,
        labels=labels,
        root=root,
        groups=groups,
        group_kind=kind,
        official=read_official(file, rows, paths, split_col) if split_col else [],
        notes=notes + said + found,
        warnings=warnings,
    )


def path_column(
    header: list[str], rows: list[dict[str, str]], root: Path, asked: str, taken: set[str | None]
) -> tuple[str, list[str]]:
    """(the column with the images' paths, notes): the one that was asked for; where there is no "path", the one
    column in whose first rows each names an image below root."""
    if asked in header or asked != Options.path_col:
        return asked, []
    named, first = images_by_name(root), rows[:20]
    fits = [c for c in header if c not in taken and all(meant_by(row[c], named) for row in first)]
    if len(fits) != 1:
        return asked, []
    return fits[0], [f"the images' paths are column {fits[0]}: --path-col names another"]


def group_column(
    file: Path, header: list[str], options: Options, taken: set[str | None]
) -> tuple[str | None, list[str]]:
    """(the column with the groups or None, notes): the one that was asked for, "group", or the one whose name is a
    group's. DataError where several are."""
    if options.group_col or options.group_regex:
        return options.group_col, []
    if "group" in header:
        return "group", []
    like = [name for name in header if GROUP_COLUMN.fullmatch(name) and name not in taken]
    if not like:
        return None, []
    none = f"--group-col {options.path_col} for none"
    if len(like) > 1:
        way_out = f"name one with --group-col, the patient where there is one ({none})"
        raise DataError(f"{file}: columns {listing(like)} look like groups that must not be split: {way_out}")
    return like[0], [f"groups are column {like[0]}, by its name: --group-col names another, {none}"]


def read_official(file: Path, rows: list[dict[str, str]], paths: list[str], column: str) -> list[str]:
    said = [row[column].lower() for row in rows]
    if bad := [f"{p}: {text!r}" for p, text in zip(paths, said, strict=True) if text not in SPLIT_NAMES]:
        many = f"{len(bad)} rows do not: {listing(bad)}"
        raise DataError(f"{file}: column {column} must say train, val or test; {many}")
    return [SPLIT_NAMES[text] for text in said]


def read_labels(
    file: Path, rows: list[dict[str, str]], paths: list[str], options: Options
) -> tuple[str, list[str], np.ndarray, list[str]]:
    """(task, classes, labels, warnings) of one column of names, or of several 0/1 columns."""
    columns = options.label_col
    if len(columns) > 1:
        known = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
        values = [[np.nan if is_blank(row[c]) else known.get(row[c]) for c in columns] for row in rows]
        named = zip(paths, rows, values, strict=True)
        bad = (f"{p}, {c}: {row[c]!r}" for p, row, of in named for c, y in zip(columns, of, strict=True) if y is None)
        if bad := list(bad):
            many = f"{len(bad)} values are something else: {listing(bad)}"
            raise DataError(f"{file}: label columns hold 0, 1 or nothing; {many}")
        return columns_or_classes(list(columns), np.array(values, np.float32), options.multilabel)
    texts, column = [row[columns[0]] for row in rows], columns[0]
    blank = [path for path, text in zip(paths, texts, strict=True) if is_blank(text)]
    if any("|" in text for text in texts):
        return label_sets(column, texts, blank, options.exact_labels)
    if blank:
        many = f"{len(blank)} images: {listing(blank)}"
        raise DataError(f"{file}: column {column} is blank (or nan) for {many}; fill it in, or leave those images out")
    class_of, warnings = one_spelling_each(texts, options.exact_labels)
    classes = sorted(set(class_of.values()), key=natural)
    if len(classes) > max(20, len(rows) // 4):
        many = f"{len(classes)} different values in {len(rows)} rows"
        raise DataError(f"{file}: column {column} has {many}; is it a label?")
    number = {c: i for i, c in enumerate(classes)}
    return "multiclass", classes, np.array([number[class_of[text]] for text in texts], np.int64), warnings


def label_sets(
    column: str, texts: list[str], blank: list[str], exact: bool
) -> tuple[str, list[str], np.ndarray, list[str]]:
    """The same of a column with a|b. A blank is unknown, as it is in a 0/1 column; "|" is none of them."""
    sets = [[part for part in map(str.strip, text.split("|")) if not is_blank(part)] for text in texts]
    class_of, warnings = one_spelling_each((part for parts in sets for part in parts), exact)
    classes = sorted(set(class_of.values()), key=natural)
    named = [{class_of[part] for part in parts} for parts in sets]
    labels = np.array([[float(c in own) for c in classes] for own in named], np.float32)
    labels[[is_blank(text) for text in texts]] = np.nan
    if blank:
        many = f"column {column} is blank for {len(blank)} images ({listing(blank)})"
        warnings.append(f"{many}: unknown, masked out; one with none of the labels is written |")
    return "multilabel", classes, labels, warnings


def columns_or_classes(
    names: list[str], labels: np.ndarray, multilabel: bool
) -> tuple[str, list[str], np.ndarray, list[str]]:
    """(task, classes, labels, warnings) of 0/1 columns. labels: (N, L) float32 0/1, nan for unknown. With a single
    1 in every row they are classes."""
    if multilabel or not (labels.sum(axis=1) == 1).all():  # nan is no sum
        return "multilabel", names, labels, []
    used = np.flatnonzero(labels.any(axis=0))
    said = f"each row of the {len(names)} 0/1 columns has a single 1: read as classes, of which an image has one"
    never = [names[c] for c in np.setdiff1d(np.arange(len(names)), used)]
    said += f", without {listing(never)}, which no image has" if never else ""
    warning = f"{said}; --multilabel trains them as labels of their own"
    return "multiclass", [names[c] for c in used], labels[:, used].argmax(axis=1), [warning]


# Class names of MedMNIST's files (Yang et al. 2023, medmnist/info.py; a comma there is an "or" here), by number.
ORGANS = "bladder|femur-left|femur-right|heart|kidney-left|kidney-right|liver|lung-left|lung-right|pancreas|spleen"
MEDMNIST = {
    "pathmnist": "adipose|background|debris|lymphocytes|mucus|smooth muscle|normal colon mucosa"
    "|cancer-associated stroma|colorectal adenocarcinoma epithelium",
    "chestmnist": "atelectasis|cardiomegaly|effusion|infiltration|mass|nodule|pneumonia|pneumothorax|consolidation"
    "|edema|emphysema|fibrosis|pleural|hernia",
    "dermamnist": "actinic keratoses and intraepithelial carcinoma|basal cell carcinoma|benign keratosis-like lesions"
    "|dermatofibroma|melanoma|melanocytic nevi|vascular lesions",
    "octmnist": "choroidal neovascularization|diabetic macular edema|drusen|normal",
    "pneumoniamnist": "normal|pneumonia",
    "breastmnist": "malignant|normal or benign",
    "bloodmnist": "basophil|eosinophil|erythroblast|immature granulocytes|lymphocyte|monocyte|neutrophil|platelet",
    "tissuemnist": "collecting duct or connecting tubule|distal convoluted tubule|glomerular endothelial cells"
    "|interstitial endothelial cells|leukocytes|podocytes|proximal tubule segments|thick ascending limb",
    "organamnist": ORGANS,
    "organcmnist": ORGANS,
    "organsmnist": ORGANS,
}


def medmnist_names(file: Path, numbers: Iterable[int]) -> list[str]:
    """The classes of these numbers by their names where the file is called as one of MedMNIST's (bloodmnist_224.npz
    too) and they are among its own; else the numbers."""
    numbers = list(numbers)
    known = MEDMNIST.get(re.sub(r"_\d+$", "", file.stem.lower()), "").split("|")
    fits = known != [""] and all(0 <= number < len(known) for number in numbers)
    return [known[number] if fits else str(number) for number in numbers]


def npz_file(file: Path, options: Options) -> Index:
    """MedMNIST's form: {train,val,test}_{images,labels}; images N x S x S [x 1 or 3] uint8, labels N x L
    integers."""
    arrays, held = npz_arrays(file)
    splits = [s for s in SPLITS if s == "train" or f"{s}_images" in arrays or f"{s}_labels" in arrays]
    wanted = [f"{s}_{what}" for s in splits for what in ("images", "labels")]
    if absent := [name for name in wanted if name not in arrays]:
        raise DataError(f"{file}: no {' and no '.join(absent)}; it holds {listing(held, most=12)}")
    images, labels, official, paths = [], [], [], []
    for split in splits:
        pixels, numbers = npz_split(file, split, arrays[f"{split}_images"], arrays[f"{split}_labels"])
        images += list(pixels)
        labels.append(numbers)
        official += [split] * len(pixels)
        paths += [f"{split}/{i}" for i in range(len(pixels))]
    widths = sorted({numbers.shape[1] for numbers in labels})
    if len(widths) > 1:
        raise DataError(f"{file}: the splits' labels have {widths} columns")
    joined, warnings = np.concatenate(labels), []
    if widths == [1]:
        found, values = np.unique(joined[:, 0], return_inverse=True)
        task, classes, values = "multiclass", medmnist_names(file, found.tolist()), values.astype(np.int64)
    else:
        if not np.isin(joined, (0, 1)).all():
            raise DataError(f"{file}: labels with several columns must be 0 or 1")
        names = medmnist_names(file, range(widths[0]))
        task, classes, values, warnings = columns_or_classes(names, joined.astype(np.float32), options.multilabel)
    return Index(
        name=own_name(file),
        task=task,
        classes=classes,
        paths=paths,
        labels=values,
        root=file.parent,
        official=official,
        warnings=warnings,
        arrays=images,
    )


def npz_arrays(file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """(the arrays of MedMNIST's names, the names of all). The headers are read first: a damaged one may say that
    its array has any size."""
    wanted = [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")]
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            sizes = [npy_size(archive, members[name]) for name in wanted if name in members]
        if sum(sizes) > memory_bytes():
            needs = f"needs {sum(sizes) / 1e9:.1f} GB of memory unpacked, this machine has {memory_bytes() / 1e9:.1f}"
            raise DataError(f"{file}: {needs}; cut it in smaller files, or write its images to a folder")
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in wanted if name in members}, list(members)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  zipfile, its decompressors and numpy raise a dozen kinds
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{file}: not a readable npz without pickled objects: {why}") from None


def npy_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes of an array in an npz, as its header says. ValueError where there are not as many."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(member) as content:
        shape, _, dtype = headers[np.lib.format.read_magic(content)](content)
        there = member.file_size - content.tell()
    told = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or told != there:
        found = "is of pickled objects" if dtype.hasobject else f"says {told} bytes, but has {there}"
        raise ValueError(f"{member.filename} {found}")
    return told


def memory_bytes() -> float:
    """Of the machine; without end where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return math.inf


def npz_split(file: Path, split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels (N, L) int64) of one split."""
    if images.ndim == 4 and images.shape[-1] == 1:  # grey, as Keras keeps it
        images = images[..., 0]
    colour = images.ndim == 4 and images.shape[-1] == 3
    if images.dtype != np.uint8 or not (images.ndim == 3 or colour) or 0 in images.shape[1:]:
        found = f"{split}_images is {images.dtype} {images.shape}"
        raise DataError(f"{file}: {found}; it must be uint8, N x S x S, or N x S x S x 1 or 3")
    found = f"{split}_labels is {labels.dtype} {labels.shape}"
    columns = labels.reshape(-1, 1) if labels.ndim < 2 else labels
    fits = columns.ndim == 2 and len(columns) == len(images) and columns.shape[1] and columns.dtype.kind in "biuf"
    with np.errstate(invalid="ignore"):  # nan and infinity become a number, which is another one
        numbers = columns.astype(np.int64) if fits else None
    if not fits or (numbers != columns).any():
        raise DataError(f"{file}: {found}; it must be {len(images)} x L whole numbers")
    return images, numbers


# ---- walking folders ----

# Folders that file servers, recycle bins and archives make, in small letters: thumbnails and deleted images
# lie in them.
SYSTEM_FOLDERS = set(
    "__macosx,@eadir,@tmp,@__thumb,@recycle,@recently-snapshot,#recycle,#snapshot,$recycle.bin,recycler,"
    "recycled,system volume information,lost+found,~snapshot,network trash folder,temporary items,"
    "thevolumesettingsfolder".split(",")
)


def visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS


IMAGES = {*IMG_EXTENSIONS, ".jfif", ".jpe"}  # Pillow knows JPEG by two more endings than torchvision


def is_image(file: Path) -> bool:
    return visible(file.name) and file.suffix.lower() in IMAGES


# Images that are not read, by the end of their name.
NOT_READ = {
    "DICOM": ".dcm .dicom .dic .ima",
    "NIfTI": ".nii .nii.gz",
    "volume": ".nrrd .mha .mhd .mgh .mgz .hdr",
    "GIF": ".gif",
    "whole slide": ".svs .ndpi .mrxs .scn .vms .bif",
    "HEIC or AVIF": ".heic .heif .avif",
    "JPEG 2000": ".jp2 .j2k .jpx",
    "array": ".npy .npz .mat .h5",
    "PDF": ".pdf",
}
ENDINGS = {ending: kind for kind, endings in NOT_READ.items() for ending in endings.split()}
MARKS = {"PNG": (0, b"\x89PNG"), "JPEG": (0, b"\xff\xd8\xff"), "DICOM": (128, b"DICM")}
TO_PNG = "export them as PNG or JPEG, an image a file"


def unread_kind(file: Path) -> str:
    """What a file is that is_image does not know and that holds an image, by its name, or by its first bytes where
    that has no ending of letters (IM0001); "" for any other."""
    name = file.name.lower()
    kind = next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), "")
    if kind or re.search(r"\.[a-z]\w*$", name) or not file.is_file():
        return kind
    with open(file, "rb") as content:
        start = content.read(132)
    return next((f"{kind} without ending" for kind, (at, mark) in MARKS.items() if start[at:].startswith(mark)), "")


def sorted_out(files: Iterable[Path]) -> tuple[list[Path], Counter[str], Counter[str]]:
    """(images, other files by ending, images in forms that are not read by kind)"""
    images, other, unread = [], Counter(), Counter()
    for file in files:
        if is_image(file):
            images.append(file)
        elif kind := unread_kind(file):
            unread[kind] += 1
        else:
            other[file.suffix.lower() or file.name] += 1
    return images, other, unread


def counted(kinds: Counter[str]) -> str:
    """'6 DICOM, 2 GIF'"""
    return ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())


# name_mask.png, name-Mask.png, name_mask_1.png, mask_name.png, name_seg.png, name_gt.png and the like
MASK = re.compile(
    r"(?P<image>.+?)[ _.-]+(?:masks?(?:[ _.-]*\(?\d+\)?)?"
    r"|seg|segmentations?|gt|ground[ _-]?truth|superpixels)|masks?[ _.-]+(?P<of>.+)",
    re.IGNORECASE,
)


def masks_beside(files: Iterable[Path]) -> set[Path]:
    """Those that are masks of others: named as an image of the same folder is, and "mask" or what says the
    same; in a folder masks/ that stands beside images/, or in which an image is named as one above it. A name
    alone is no sign (with_mask_1.png is a face): the image has to lie there, too."""
    files = list(files)
    folders = {above for parent in {file.parent for file in files} for above in (parent, *parent.parents)}
    pictured = {folder.parent for folder in folders if folder.name.lower() in PICTURES}
    masked = {folder for folder in folders if MASK_FOLDER.fullmatch(folder.name)}
    beside = {folder for folder in masked if folder.parent in pictured}
    there = {(file.parent, file.stem.casefold()) for file in files}

    def is_mask(file: Path) -> bool:
        match = MASK.fullmatch(file.stem)
        image = (match["image"] or match["of"]).casefold() if match else None
        above = file.parent in masked and {image, file.stem.casefold()}
        return (
            (file.parent, image) in there
            or bool(above and any((file.parent.parent, name) in there for name in above))
            or bool(beside and not beside.isdisjoint(file.parents))
        )

    return {file for file in files if is_mask(file)}


def masks_note(masks: list[Path], root: Path) -> list[str]:
    """What is said of masks that were left out, if any."""
    if not masks:
        return []
    names = listing(file.relative_to(root).as_posix() for file in masks)
    return [f"{len(masks)} masks beside their images, left out (--keep-masks keeps them): {names}"]


@dataclass
class Met:
    """What the reading of folders met. linked: folders that are links, followed. again: links to a folder
    that is read without them or that holds them, not followed. bad: "path (reason)" of folders that cannot be
    read and of links that lead nowhere."""

    linked: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def refuse(self, where: object) -> None:
        refuse(where, self.bad, "folders or links cannot be read, fix or remove them")

    def notes(self, root: Path) -> list[str]:
        kinds = {"folders are links, followed": self.linked}
        kinds["links lead to folders that are read without them, not followed"] = self.again
        named = ((what, [os.path.relpath(path, root) for path in paths]) for what, paths in kinds.items())
        return [f"{len(names)} {what}: {listing(names)}" for what, names in named if names]


def scan(folder: str, real: str, met: Met) -> tuple[list[tuple[str, str, bool]], list[str]]:
    """((path, real path, whether it is a link) of each folder, names of the files) that are visible in a
    folder, in order. real: the folder's real path. A link to the folder itself or to one that holds it is a
    loop."""
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
    """All files below, sorted, without hidden ones (._x.png, .DS_Store) and those in systems' folders. Links
    to folders are followed, and each folder is read once, under its own name where it has one. What cannot be
    read is added to met; without met it is a DataError once the rest is read."""
    mine, top = Met() if met is None else met, os.path.realpath(folder)
    todo, read = [(os.fspath(folder), top, False)], set()
    while todo:
        path, real, link = todo.pop()
        own_name = holds(top, real) and all(map(visible, os.path.relpath(real, top).split(os.sep)))
        if real in read or link and (own_name or holds(real, top)):
            mine.again += [path] * link
            continue
        read.add(real)
        mine.linked += [path] * link
        folders, names = scan(path, real, mine)
        yield from (Path(path, name) for name in names)
        todo += reversed(folders)
    if met is None:
        mine.refuse(folder)


def natural(text: str) -> tuple:
    """Sort key: numbers by value where a name is one ("1" and "01" by their text), other text after them."""
    return (0, float(text), text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else (1, 0, text)


# ---- reading tables ----


def read_rows(file: Path) -> Iterable[list[str]]:
    """The rows of a CSV as text; comma, semicolon or tab by its first line, or as Excel's sep=; says above it; BOM
    or none, CRLF or LF."""
    try:
        text = no_pipe(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    first, _, below = text.partition("\n")
    said = re.fullmatch(r'"?sep=(.)"?\r?', first, re.IGNORECASE)
    text, first = (below, said[1]) if said else (text, first)
    if not text.strip():
        raise DataError(f"{file}: empty")
    delimiter = said[1] if said else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        yield from reader
    except csv.Error as error:  # a quote that is never closed would swallow the rows below it
        raise DataError(f"{file}: line {reader.line_num + bool(said)}: {error}") from None


def read_table(file: Path, wanted: Iterable[str] | None = None) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV as text (a leading zero stays, NA is a value). wanted: these columns alone,
    DataError where one is missing."""
    rows = iter(read_rows(file))
    header = [name.strip() for name in next(rows)]
    refuse(file, duplicates(header), "columns are in the header more than once")
    if absent := [name for name in wanted or () if name not in header]:
        raise DataError(f"{file}: no column {listing(absent)}; its columns are {listing(header, most=20)}")
    places = [(name, header.index(name)) for name in wanted or header]
    values, bad = [], []
    for i, row in enumerate(rows, 2):
        if len(row) == len(header) and any(map(str.strip, row)):
            values.append({name: row[k].strip() for name, k in places})
        elif any(map(str.strip, row)):
            bad.append(f"row {i} has {len(row)}")
    if bad:
        raise DataError(f"{file}: the header has {len(header)} columns, but {listing(bad)}")
    return header, values


def read_headerless(file: Path, width: int) -> list[list[str]]:
    """The rows of a CSV without a header line, width values each."""
    rows = [list(map(str.strip, row)) for row in read_rows(file)]
    rows = [row for row in rows if any(row)]
    bad = [",".join(row) for row in rows if len(row) != width]
    refuse(file, bad, f"lines do not have {width} {'value' if width == 1 else 'values'}")
    return rows


def file_names(folder: str | Path) -> set[str]:
    """The visible files in a folder; none where there is no folder. DataError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if visible(entry.name) and not entry.is_dir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; this folder must be readable") from None


def missing_files(root: Path, paths: list[str]) -> list[str]:
    """Those of the paths that are no files below root. A folder that holds several of them is listed once."""
    asked = defaultdict(list)
    for path in paths:
        below, _, name = path.rpartition("/")
        asked[below].append((name, path))
    missing = []
    for below, mine in asked.items():
        folder = os.path.join(root, below)
        known = file_names(folder) if len(mine) > 2 else ()
        unknown = [(name, path) for name, path in mine if name not in known]
        lacking = [path for name, path in unknown if not os.path.isfile(f"{folder}/{name}")]
        if lacking and not known:
            file_names(folder)  # the error where the folder cannot be read
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
        many = f"{len(missing)} of {len(paths)} images"
        raise DataError(f"{source}: {many} are not below {root}: {listing(missing)}; {hint}")


def inside(root: Path, paths: list[str], source: str, hint: str) -> list[str]:
    """The paths relative to root. DataError for all that leave it and for all that are no file."""
    relative = below(root, paths, source)
    refuse_missing(root, relative, source, hint)
    return relative


def below(root: Path, paths: list[str], source: str) -> list[str]:
    """The paths relative to root. DataError for all that leave it."""
    base = os.path.join(root.resolve(), "")
    full = [os.path.normpath(os.path.join(base, path)) for path in paths]
    leaving = [path for path, whole in zip(paths, full, strict=True) if not whole.startswith(base)]
    refuse(source, leaving, f"paths leave the data folder {root}")
    return [whole.removeprefix(base).replace(os.sep, "/") for whole in full]


def named_images(root: Path, paths: list[str], source: str) -> tuple[list[str], list[str]]:
    """(the images of a table's paths, relative to root, notes). One that is no file as it is written may mean an
    image (meant_by): taken where there is one alone. DataError for all others at once, with what is there."""
    relative = below(root, paths, source)
    missing = missing_files(root, relative)
    if not missing:
        return relative, []
    named = images_by_name(root)
    meant = {path: found[0] for path in missing if len(found := meant_by(path, named)) == 1}
    if lost := [path for path in missing if path not in meant]:
        like = {path: named.get(plain(path).rpartition("/")[2]) or named.get(plain_stem(path), ()) for path in lost}
        shown = [f"{path} ({' and '.join(like[path][:2])} is there)" if like[path] else path for path in lost]
        many = f"{len(lost)} of {len(paths)} images are not below {root}: {listing(shown)}"
        raise DataError(f"{source}: {many}; the folder is the CSV's own, or --data-dir")
    shown = listing(f"{path} = {image}" for path, image in meant.items())
    note = f"{len(meant)} paths are no file as they stand there and were found by name: {shown}"
    return [meant.get(path, path) for path in relative], [note]


def plain(path: str) -> str:
    """A path without what differs between systems: backslashes, case, accents composed or not."""
    return unicodedata.normalize("NFC", path.replace("\\", "/")).casefold().removeprefix("./")


def plain_stem(path: str) -> str:
    return os.path.splitext(plain(path).rpartition("/")[2])[0]


def images_by_name(root: Path) -> dict[str, list[str]]:
    """Plain name, with its ending and without -> the images below root that are called so, relative to it."""
    found = defaultdict(list)
    for file in filter(is_image, walk(root, Met())):
        path = file.relative_to(root).as_posix()
        for name in {plain(file.name), plain_stem(file.name)}:
            found[name].append(path)
    return found


def meant_by(path: str, named: dict[str, list[str]]) -> list[str]:
    """The images that a table's path may mean, which may lack its first folders and its ending; those in its very
    folder where there are any."""
    wanted = plain(path)
    ways = {
        image: (plain(image), os.path.splitext(plain(image))[0]) for image in named.get(wanted.rpartition("/")[2], ())
    }
    here = [image for image, spelt in ways.items() if wanted in spelt]
    return here or [image for image, spelt in ways.items() if any(way.endswith(f"/{wanted}") for way in spelt)]


# ---- demo ----

DEMO_SIZE = 32  # pixels


@dataclass(frozen=True)
class Shape:
    """A class of the demo. share: of the patients. Its lesion has lobes of a depth, a share of the radius.
    hollow: whether it is a ring; None: a normal finding, a soft bright spot without an edge."""

    name: str
    share: float
    lobes: int = 0
    depth: float = 0.0
    hollow: bool | None = False


DEMO_TARGET = (
    Shape("normal", 0.4, hollow=None),
    Shape("cyst", 0.3, hollow=True),
    Shape("lobed", 0.2, lobes=4, depth=0.4),
    Shape("spiculated", 0.1, lobes=7, depth=0.55),
)
DEMO_SOURCE = tuple(
    Shape(f"{lobes}-lobed-{form}", 0.125, lobes=lobes, depth=0.45, hollow=form == "hollow")
    for lobes in (0, 3, 5, 8)
    for form in ("solid", "hollow")
)
DEMOS = {  # shapes, patients, scanner
    "demo": (DEMO_TARGET, 200, 1),
    "demo-source": (DEMO_SOURCE, 1200, 0),
    "demo-tiny": (DEMO_TARGET, 60, 1),
}


def demo(name: str = "demo", seed: int = 0) -> Index:
    """Pictures made by code, the same on every machine, with the traits of medical data: greyscale, several
    images of each patient, rare classes, a bright lesion in a body of its own brightness. `demo-source`, the
    larger task to pretrain on, has eight shapes; `demo`, the target, has four others in noisier, darker
    pictures (another scanner); `demo-tiny` is a part of it, for tests."""
    shapes, patients, scanner = DEMOS[name]
    rng = np.random.default_rng([seed, scanner])
    sizes = np.round([shape.share * patients for shape in shapes]).astype(int)
    images, labels, groups = [], [], []
    for patient, label in enumerate(rng.permutation(np.repeat(np.arange(len(shapes)), sizes))):
        body = demo_body(rng)
        for _ in range(rng.integers(2, 5)):
            images.append(demo_image(rng, body, shapes[label], scanner))
            labels.append(label)
            groups.append(f"p{patient:04d}")
    return Index(
        name=name,
        task="multiclass",
        classes=[shape.name for shape in shapes],
        paths=[f"{group}-{i:04d}" for i, group in enumerate(groups)],
        labels=np.array(labels, np.int64),
        root=Path("."),
        groups=groups,
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


def demo_image(rng: np.random.Generator, body: np.ndarray, shape: Shape, scanner: int) -> np.ndarray:
    """One picture of the patient, (32, 32) uint8. The lesion's edge is at radius * (1 + depth * cos(lobes *
    angle))."""
    y, x = np.mgrid[-1 : 1 : DEMO_SIZE * 1j, -1 : 1 : DEMO_SIZE * 1j]
    image = np.roll(body, rng.integers(-2, 3, size=2), axis=(0, 1))
    cx, cy = rng.uniform(-0.4, 0.4, size=2)
    distance, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
    radius, turn = rng.uniform(0.28, 0.42), rng.uniform(0, 2 * np.pi)
    edge = radius * (1 + shape.depth * np.cos(shape.lobes * angle + turn))
    lesion = 1 / (1 + np.exp((distance - edge) * 40))
    if shape.hollow is None:
        lesion = np.exp(-(distance**2) / 0.06)
    elif shape.hollow:
        lesion = lesion - 1 / (1 + np.exp((distance - 0.6 * edge) * 40))
    image = image + rng.uniform(0.18, 0.4) * lesion * (0.8 if scanner else 1.0)
    bias = 1 + 0.25 * scanner * (rng.uniform(-1, 1) * x + rng.uniform(-1, 1) * y)
    noise = rng.normal(0, 0.085 if scanner else 0.05, image.shape)
    image = (0.75 if scanner else 1.0) * image * bias + noise
    return (255 * np.clip(image, 0, 1)).astype(np.uint8)


def safe_name(text: str) -> str:
    """A name fit for a folder."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "data"
