"""Writes the six datasets as they lie on a disk after unpacking, with a handful of tiny images, traps
included; and what tests of the user's own data are made of.

    folder = write("mura", tmp_path)        # one of LAYOUTS; folder is what --data-dir takes

The tables below are the specification that tests/test_datasets.py works its expectations out from."""

import csv
import io
import json
import struct
import zlib
from collections import defaultdict
from dataclasses import field, fields, make_dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datasets
from datasets import DATASETS, DataError, Dataset, Index, Options

# ---- pictures and texts ----


def picture(path: Path, size=(14, 12), mode="L", **save) -> Path:
    """Noise of its own for each path, so that no two files are alike. size: width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path, **save)
    return path


def touch(root: Path, *names: str, text: str | None = None) -> None:
    """The smallest picture under each of these names, or text files."""
    out = io.BytesIO()
    Image.new("L", (2, 2)).save(out, format="PNG")
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(out.getvalue() if text is None else text.encode())


def tiff16(path: Path, values: np.ndarray) -> Path:
    """RGB with 16 bits a channel, which Pillow reads but does not write. values: (H, W, 3) uint16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = values.shape
    data = values.astype("<u2").tobytes()
    size = {256: (3, width), 257: (3, height), 278: (3, height), 279: (4, len(data)), 273: (4, 8)}  # data's place
    colour = {259: (3, 1), 262: (3, 2), 277: (3, 3)}
    tags = {number: (kind, 1, value) for number, (kind, value) in (size | colour).items()}
    tags[258] = (3, 3, 8 + len(data))  # bits: three values, which lie behind the data
    entries = [struct.pack("<HHII", number, *tags[number]) for number in sorted(tags)]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0" * 4
    bits = struct.pack("<3H", 16, 16, 16)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data) + len(bits)) + data + bits + directory)
    return path


def lines(path: Path, rows: list, end: str = "\n") -> Path:
    """A CSV of these rows; end: \\n or \\r\\n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator=end).writerows(rows)
    return path


def junk(folder: Path, name: str) -> None:
    """What macOS leaves beside a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"._{name}").write_bytes(b"\0\5\26\7")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "__MACOSX").mkdir(exist_ok=True)
    (folder / "__MACOSX" / f"._{name}").write_bytes(b"\0\5\26\7")


def error(function, *arguments, **keywords) -> str:
    """The line of the DataError that it raises, fit for the command line."""
    with pytest.raises(DataError) as caught:
        function(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_hand(labels, groups=None, classes=None, official=(), task="multiclass") -> Index:
    """An index without files."""
    labels = np.asarray(labels, np.int64 if task == "multiclass" else np.float32)
    width = labels.max() + 1 if task == "multiclass" else labels.shape[1]
    rows = range(len(labels))
    return Index(
        name="hand",
        task=task,
        classes=classes or [f"c{i}" for i in range(width)],
        paths=[f"{i}.png" for i in rows],
        labels=labels,
        root=Path("."),
        groups=[f"g{i}" for i in rows] if groups is None else list(map(str, groups)),
        group_kind="patient",
        official=list(official),
    )


def sides_of(groups, split) -> dict[str, set]:
    """Group -> the sides of the split that it stands on."""
    sides = defaultdict(set)
    for group, side in zip(groups, split, strict=True):
        sides[group].add(str(side))
    return sides


# ---- CheXpert ----

FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,"
    "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
).split(",")
SIX = "Atelectasis,Edema,Cardiomegaly,Fracture,Consolidation,Pleural Effusion"
# image; sex, age, AP/PA; value -> findings that are not blank
CHEXPERT_TRAIN = [
    ("patient00001/study1/view1_frontal.jpg", "Female,68,AP", {"1.0": "Edema,Support Devices"}),
    ("patient00001/study1/view2_lateral.jpg", "Female,68,", {"1.0": "Edema,Support Devices"}),
    ("patient00001/study2/view1_frontal.jpg", "Female,87,AP", {"-1.0": SIX}),
    ("patient00002/study1/view1_frontal.jpg", "Unknown,0,PA", {"1.0": "No Finding", "0.0": "Pneumothorax"}),
    ("patient00003/study1/view1_frontal.jpg", "Male,90,AP", {"1.0": "Pleural Effusion", "0.0": "Edema"}),
    ("patient00004/study1/view1_frontal.jpg", "Male,41,AP", {"1.0": "Cardiomegaly,Atelectasis"}),
    ("patient00005/study12/view1_frontal.jpg", "Male,41,AP", {"1.0": "Consolidation"}),
]
NOTHING = {"0.0": ",".join(FINDINGS)}
CHEXPERT_VALID = [
    ("patient64541/study1/view1_frontal.jpg", "Male,73,AP", NOTHING | {"1.0": "Cardiomegaly"}),
    ("patient64542/study1/view1_frontal.jpg", "Male,70,PA", NOTHING),
    ("patient64542/study1/view2_lateral.jpg", "Male,70,", NOTHING),
]
CHEXPERT_TEST = {  # study: images, findings that are 1
    "patient64741/study1": (["view1_frontal.jpg", "view2_lateral.jpg"], ["Edema", "Atelectasis"]),
    "patient64742/study1": (["view1_frontal.jpg"], ["Pleural Effusion"]),
}


def chexpert(root: Path, layout: str = "A", test: str = "") -> Path:
    """layout: A, B, C, D of design/datasets.md. test: "" or "study" or "path", the key of the test labels
    (E)."""
    name = "CheXpert-v1.0-small" if layout in "AD" else "CheXpert-v1.0"
    top = {"A": root / name, "B": root / name, "C": root, "D": root}[layout]
    batches = [f"CheXpert-v1.0 batch {number} (train {number - 1})" for number in (2, 3, 4)]
    csvs = top / "CheXpert-v1.0 batch 1 (validate & csv)" if layout == "C" else top
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
    for part, rows in (("train", CHEXPERT_TRAIN), ("valid", CHEXPERT_VALID)):
        table = [header]
        for image, person, found in rows:
            sex, age, ap = person.split(",")
            view = "Lateral" if "lateral" in image else "Frontal"
            value_of = {finding: value for value, names in found.items() for finding in names.split(",")}
            values = [value_of.get(finding, "") for finding in FINDINGS]
            table.append([f"{name}/{part}/{image}", sex, age, view, ap, *values])
            folder = csvs / part
            if layout == "C" and part == "train":  # a patient lies in one batch
                folder = top / batches[int(image[7:12]) % 3]
            picture(folder / image)
            junk((folder / image).parent, "view1_frontal.jpg")
        lines(csvs / f"{part}.csv", table, "\r\n" if layout == "B" else "\n")
    if test:
        key = {"study": "Study", "path": "Path"}[test]
        table = [[key, *FINDINGS]]
        for study, (images, found) in CHEXPERT_TEST.items():
            names = [study] if test == "study" else [f"{study}/{image}" for image in images]
            table += [[f"CheXpert-v1.0/test/{n}", *(int(f in found) for f in FINDINGS)] for n in names]
            for image in images:
                picture(top / "test" / study / image)
        lines(top / ("groundtruth.csv" if test == "study" else "test_labels.csv"), table)
    return top if layout == "D" else root


# ---- MURA ----

MURA = {  # part -> study folder, number of images
    "train": [
        ("XR_ELBOW/patient00001/study1_positive", 2),
        ("XR_HAND/patient00001/study1_negative", 1),
        ("XR_HAND/patient00002/study1_negative", 1),
        ("XR_WRIST/patient00003/study1_positive", 1),
        ("XR_WRIST/patient00003/study2_positive", 1),
        ("XR_WRIST/patient00004/study1_negative", 3),
        ("XR_HUMERUS/patient00005/study1_positive", 1),
        ("XR_HUMERUS/patient00006/study1_negative", 1),
    ],
    "valid": [
        ("XR_ELBOW/patient11185/study1_positive", 3),
        ("XR_ELBOW/patient11185/study2_negative", 1),
        ("XR_HAND/patient11186/study1_negative", 2),
        ("XR_HAND/patient11187/study1_positive", 1),
    ],
}


def mura(root: Path, end: str = "\r\n") -> Path:
    top = root / "MURA-v1.1"
    for part, studies in MURA.items():
        images = [f"{part}/{study}/image{i}.png" for study, n in studies for i in range(1, n + 1)]
        for i, image in enumerate(images):
            picture(top / image, mode="RGB" if i % 2 else "L")
            junk((top / image).parent, "image1.png")
        lines(top / f"{part}_image_paths.csv", [[f"MURA-v1.1/{image}"] for image in images], end)
        rows = [[f"MURA-v1.1/{part}/{study}/", int(study.endswith("_positive"))] for study, _ in studies]
        lines(top / f"{part}_labeled_studies.csv", rows, end)
    picture(top / "train/XR_HAND/patient00002/study1_negative/image1 copy.png")  # listed nowhere
    return root


# ---- T1w ----

# number of the file: (label, PID, fold). A patient of each class in each fold; 16 is of the first one's
# patient.
PIDS = {n: f"MR03{n:02d}B" if n % 2 else f"{100360 + n}" for n in range(1, 16)}
FIGSHARE = {n: (1 + (n - 1) % 3, pid, 1 + (n - 1) // 3) for n, pid in PIDS.items()}
FIGSHARE[16] = FIGSHARE[1]


def figshare_folder(n: int, merged: bool) -> str:
    return "brainTumorDataPublic" if merged else f"brainTumorDataPublic_{'1-8' if n < 9 else '9-16'}"


def figshare_image(n: int) -> np.ndarray:
    """The slice as a person sees it: (10, 12) int16, from 0 to 119 * (n + 3), more than 8 bits hold."""
    return (np.random.default_rng(n).permutation(120).reshape(10, 12) * (n + 3)).astype(np.int16)


def t1w_figshare(root: Path, merged: bool = False, cvind: bool = True) -> Path:
    import h5py

    for n, (label, pid, _) in FIGSHARE.items():
        folder = root / figshare_folder(n, merged)
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"{n}.mat", "w", userblock_size=512) as file:
            data = file.create_group("cjdata")
            data["label"] = np.array([[float(label)]])
            data["PID"] = np.array([[ord(letter)] for letter in pid], np.uint16)
            data["image"] = figshare_image(n).T
            data["tumorMask"] = np.zeros((12, 10), np.uint8)
            data["tumorBorder"] = np.zeros((1, 6))
        junk(folder, f"{n}.mat")
    if cvind:
        with h5py.File(root / "cvind.mat", "w", userblock_size=512) as file:
            file["cvind"] = np.array([[float(fold) for _, _, fold in FIGSHARE.values()]])
    return root


KAGGLE_TRAIN = ["gg (1).jpg", "gg (2).jpg", "image(10).jpg", "p 3.jpg"]  # the names in every class folder
KAGGLE_TEST = ["image(1).jpg", "image(2).jpg"]


def t1w_kaggle(root: Path, form: str = "_tumor") -> Path:
    """form: "_tumor" (glioma_tumor, no_tumor) or "" (glioma, notumor). Testing/.../image(2).jpg of glioma is
    a copy of Training's gg (1).jpg."""
    classes = ["glioma", "meningioma", "no", "pituitary"]
    for part, names in (("Training", KAGGLE_TRAIN), ("Testing", KAGGLE_TEST)):
        for c in classes:
            folder = root / part / (f"{c}_tumor" if form else {"no": "notumor"}.get(c, c))
            for i, name in enumerate(names):
                picture(folder / name, size=(12 + i, 11), mode="RGB")
            junk(folder, names[0])
    glioma = "glioma_tumor" if form else "glioma"
    copy = root / "Testing" / glioma / "image(2).jpg"
    copy.write_bytes((root / "Training" / glioma / "gg (1).jpg").read_bytes())
    junk(root, "Training")
    return root


# ---- BACH ----

BACH = {"Benign": "b", "InSitu": "is", "Invasive": "iv", "Normal": "n"}  # folder: prefix; four images each


def bach(root: Path) -> Path:
    photos = root / "ICIAR2018_BACH_Challenge" / "Photos"
    rows = []
    for folder, prefix in BACH.items():
        for i in range(1, 5):
            name = f"{prefix}{i:03d}.tif"
            rows.append([name, folder])
            if i == 1:
                tiff16(photos / folder / name, np.full((12, 16, 3), 257 * 200, np.uint16))
            else:
                picture(photos / folder / name, size=(16, 12), mode="RGB")
        junk(photos / folder, f"{prefix}001.tif")
    picture(photos / "Benign" / "b001 (1).tif", mode="RGB")  # a stray copy
    (photos / "Thumbs.db").write_bytes(b"x")
    lines(photos / "microscopy_ground_truth.csv", rows, "\r\n")
    (root / "ICIAR2018_BACH_Challenge" / "WSI").mkdir()
    test = root / "ICIAR2018_BACH_Challenge_TestDataset" / "Photos"
    for i in range(12):
        picture(test / f"test{i}.tif", size=(16, 12), mode="RGB")
    junk(test, "test0.tif")
    return root


# ---- ISIC 2020 ----

ISIC = [  # image_name, patient_id, target
    ("ISIC_2637011", "IP_7279968", 0),
    ("ISIC_0015719", "IP_3075186", 0),
    ("ISIC_0052212", "IP_2842074", 0),
    ("ISIC_0068279", "IP_6890425", 0),
    ("ISIC_0074268", "IP_8723313", 1),
    ("ISIC_0074311", "IP_8723313", 0),
    ("ISIC_0074542", "IP_4698288", 1),
    ("ISIC_0075663", "IP_6017204", 1),
    ("ISIC_0075914", "IP_7622888", 1),
    ("ISIC_0076262", "IP_5075533", 0),
    ("ISIC_0076545", "IP_9802602", 0),
    ("ISIC_0076742", "IP_9802602", 0),
    ("ISIC_0076995", "IP_2962389", 1),
    ("ISIC_0077472", "IP_2962389", 0),
]
ISIC_DUPLICATES = [("ISIC_0015719", "ISIC_0052212"), ("ISIC_0076742", "ISIC_0076995")]


ISIC_FOLDERS = {"v1": "train", "v2": "ISIC_2020_Training_JPEG/train", "kaggle": "jpeg/train", "resized": "train"}
ISIC_COLUMNS = "sex age_approx anatom_site_general_challenge diagnosis benign_malignant target".split()


def isic2020(root: Path, form: str = "v2", duplicates: bool = True) -> Path:
    """form: v1, v2 (with lesion_id), kaggle, resized."""
    top = root / "jpeg-melanoma-512x512" if form == "resized" else root
    folder = ISIC_FOLDERS[form]
    lesion = ["lesion_id"] if form == "v2" else []
    header = ["image_name", "patient_id", *lesion, *ISIC_COLUMNS]
    rows = []
    for name, patient, target in ISIC:
        word = "malignant" if target else "benign"
        person = [name, patient, *["IL_1"] * len(lesion)]
        rows.append([*person, "male", "45.0", "head/neck", "unknown", word, target])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for i, (name, _, _) in enumerate(ISIC):
        picture(top / folder / f"{name}.jpg", size=(20, 12), mode="RGB", **({"exif": exif} if i == 0 else {}))
    junk(top / folder, "ISIC_2637011.jpg")
    picture(top / folder / "ISIC_0015719 (1).jpg", mode="RGB")
    names = {"v1": "ISIC_2020_Training_GroundTruth.csv", "v2": "ISIC_2020_Training_GroundTruth_v2.csv"}
    lines(top / names.get(form, "train.csv"), [header, *rows], "\r\n" if form == "v1" else "\n")
    if form == "v2":  # both lie there after the whole page was downloaded
        lines(top / names["v1"], [header, *rows])
    if duplicates:
        lines(top / "ISIC_2020_Training_Duplicates.csv", [("image_name_1", "image_name_2"), *ISIC_DUPLICATES])
    return root


# ---- CholecT50 ----

CHOLEC_VIDEOS = [2, 5, 6, 8, 12, 31, 74, 92, 111]  # each split of each variant has one
# annotated frame -> instances (triplet, instrument, verb, target, phase), the same in every video
CHOLEC_FRAMES = {
    0: [(-1, -1, -1, -1, 0)],
    1: [(17, 0, 1, 0, 1)],
    2: [(17, 0, 1, 0, 2), (60, 2, 2, 0, 2)],
    10: [(29, 1, 3, 8, 3)],
    11: [(94, 0, 9, 14, 4)],
    30: [(-1, 2, -1, -1, 5)],
    45: [(82, 5, 6, 6, 6)],
    60: [],
}
CHOLEC_NAMES = {
    "17": "grasper,retract,gallbladder",
    "29": "bipolar,coagulate,liver",
    "60": "hook,dissect,gallbladder",
    "82": "irrigator,aspirate,fluid",
    "94": "grasper,null_verb,null_target",
}


def cholec_frames(folder: Path) -> None:
    for frame in [*CHOLEC_FRAMES, 99]:  # 99 has no annotation
        picture(folder / f"{frame:06d}.png", size=(16, 9) if frame else (19, 10), mode="RGB")
    Image.new("RGB", (19, 10)).save(folder / "000000.png")  # out of body: black
    picture(folder / "000030 (1).png", mode="RGB")
    junk(folder, "000000.png")


def instance(triplet: int, instrument: int, verb: int, target: int, phase: int) -> list[int]:
    """The 15 values of one instance in CholecT50's JSON."""
    box = [-1] * 4
    return [triplet, instrument, 1, *box, verb, target, 1, *box, phase]


def cholect50(root: Path, videos: list[int] = CHOLEC_VIDEOS) -> Path:
    top = root / "CholecT50"
    (top / "labels").mkdir(parents=True)
    for video in videos:
        name = f"VID{video:02d}"
        cholec_frames(top / "videos" / name)
        keys = sorted(CHOLEC_FRAMES, key=str, reverse=True)  # 60, 45, 30, 2, 11, 10, 1, 0
        instances = {str(key): [instance(*numbers) for numbers in CHOLEC_FRAMES[key]] for key in keys}
        content = {"video": video, "fps": 1, "num_frames": 9, "categories": {"triplet": CHOLEC_NAMES}}
        content["annotations"] = instances
        (top / "labels" / f"{name}.json").write_text(json.dumps(content))
    junk(top / "labels", "VID02.json")
    (top / "label_mapping.txt").write_text("0,0,2,1,2,1\n")
    return root


def cholect45(root: Path) -> Path:
    top = root / "CholecT45"
    sizes = {"triplet": (0, 100), "instrument": (1, 6), "verb": (2, 10), "target": (3, 15)}
    for video in CHOLEC_VIDEOS[:7]:  # 92 and 111 are not in it
        name = f"VID{video:02d}"
        cholec_frames(top / "data" / name)
        for task, (place, size) in sizes.items():
            rows = []
            for frame, instances in CHOLEC_FRAMES.items():
                present = {numbers[place] for numbers in instances}
                rows.append([frame, *(int(c in present) for c in range(size))])
            lines(top / task / f"{name}.txt", rows, "\r\n" if video == 2 else "\n")
    (top / "dict").mkdir()
    (top / "dict" / "triplet.txt").write_text("".join(f"{k}:{v}\n" for k, v in CHOLEC_NAMES.items()))
    return root


# ---- one more dataset ----


def eyes(root: Path, options: Options) -> Index:
    """right/ and left/ with P01_sick.png; --side takes one of the two."""
    sides = ("right", "left") if options.side == "both" else (options.side,)
    paths = [f"{side}/{name}" for side in sides for name in sorted(datasets.file_names(root / side))]
    return Index(
        task="multiclass",
        classes=["well", "sick"],
        paths=paths,
        labels=np.array([int("sick" in path) for path in paths]),
        root=root,
        groups=[path.split("/")[1].split("_")[0] for path in paths],
        group_kind="patient",
    )


EYES = Dataset(
    name="eyes",
    title="fundus",
    task="multiclass",
    classes=("well", "sick"),
    metric="balanced accuracy",
    group="patient",
    unit="image",
    site="nowhere",
    access="open",
    licence="none",
    size="1 kB",
    citation="by hand",
    markers=("right/P*.png",),
    build=eyes,
)
SIDE = datasets.flag("both", "one side", data="eyes", choices=("both", "left", "right"))
# Options with one field more, all of them its own, as if the line stood in datasets.py
KNOWN = [(f.name, f.type, field(default=f.default, metadata=f.metadata)) for f in fields(Options)]
CHECK = {"__post_init__": Options.__post_init__}
WithSide = make_dataclass("WithSide", [*KNOWN, ("side", "str", SIDE)], frozen=True, namespace=CHECK)


def add_eyes(monkeypatch, folder: Path) -> str:
    """The folder of one more dataset: a function, an entry and a field; undone after the test."""
    monkeypatch.setitem(DATASETS, "eyes", EYES)
    people = [f"P{i:02d}_{'sick' if i % 2 else 'well'}" for i in range(1, 13)] + ["p01_sick"]
    for name in people:
        picture(folder / "left" / f"{name}.png")
        picture(folder / "right" / f"{name}.png")
    return str(folder)


# layout -> (dataset, writer, its arguments)
LAYOUTS = {
    "chexpert-A": ("chexpert", chexpert, {"layout": "A"}),
    "chexpert-B": ("chexpert", chexpert, {"layout": "B"}),
    "chexpert-C": ("chexpert", chexpert, {"layout": "C"}),
    "chexpert-D": ("chexpert", chexpert, {"layout": "D"}),
    "chexpert-E-study": ("chexpert", chexpert, {"layout": "B", "test": "study"}),
    "chexpert-E-path": ("chexpert", chexpert, {"layout": "A", "test": "path"}),
    "mura": ("mura", mura, {}),
    "mura-lf": ("mura", mura, {"end": "\n"}),
    "t1w-figshare": ("t1w", t1w_figshare, {}),
    "t1w-figshare-merged": ("t1w", t1w_figshare, {"merged": True}),
    "t1w-kaggle": ("t1w", t1w_kaggle, {"form": "_tumor"}),
    "t1w-kaggle-notumor": ("t1w", t1w_kaggle, {"form": ""}),
    "bach": ("bach", bach, {}),
    "isic2020-v1": ("isic2020", isic2020, {"form": "v1"}),
    "isic2020-v2": ("isic2020", isic2020, {"form": "v2"}),
    "isic2020-kaggle": ("isic2020", isic2020, {"form": "kaggle", "duplicates": False}),
    "isic2020-resized": ("isic2020", isic2020, {"form": "resized", "duplicates": False}),
    "cholect50": ("cholect50", cholect50, {}),
    "cholect45": ("cholect50", cholect45, {}),
}


def write(layout: str, root: Path) -> Path:
    """Writes a layout below root; returns what --data-dir takes."""
    _, writer, arguments = LAYOUTS[layout]
    return writer(root, **arguments)
