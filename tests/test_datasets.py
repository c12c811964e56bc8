"""The six datasets as they lie on a disk: exact indexes, worked by hand from the tables in layouts.py, and
bad input; the index, the options, and one more dataset.

    python -m pytest tests/test_datasets.py        # 10 s"""

import json
import math
import re
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import WithSide, by_hand, error, sides_of
from PIL import Image

import datasets
import images
import metrics
from datasets import DATASETS, DataError, Index, Options, load_index
from splits import make_splits

NAN = math.nan


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """layout -> folder, written once; only read by tests."""
    folders = {}

    def folder(layout):
        if "figshare" in layout:
            pytest.importorskip("h5py")
        if layout not in folders:
            folders[layout] = layouts.write(layout, tmp_path_factory.mktemp(layout))
        return folders[layout]

    return folder


def load(dataset, folder, **options):
    return load_index(dataset, str(folder), Options(**options))


def message(dataset, folder, **options) -> str:
    """The line of the DataError that loading and splitting raises."""
    return error(lambda: make_splits(load(dataset, folder, **options)))


def replace_text(file: Path, old: str, new: str) -> None:
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new, 1).encode())


def same_labels(labels, expected):
    assert labels.shape == np.shape(expected)
    np.testing.assert_array_equal(labels, np.array(expected, labels.dtype))


# ---- one id, two spellings ----


WITH_GROUPS = ["chexpert", "mura", "t1w", "isic2020", "cholect50"]  # all but bach, which names no patients


@pytest.mark.parametrize("name", WITH_GROUPS)
def test_every_archive_joins_the_spellings_of_an_id(name, tmp_path, monkeypatch):
    """Whatever an archive's reader gives as groups, and nan among it is blank."""
    groups = ["P1", "p1", "07", "7", "1.2.840.0", "1.2.840"]

    def build(root, options):
        return replace(by_hand(np.arange(6) % 2, groups), root=root)

    (tmp_path / "mark").touch()
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], build=build, markers=("mark",)))
    assert load(name, tmp_path).groups == ["P1", "P1", "07", "07", "1.2.840.0", "1.2.840"]
    assert load(name, tmp_path, exact_ids=True).groups == groups
    groups[0] = "nan"
    assert message(name, tmp_path).startswith(f"{name}: patient is blank (or nan) for 1 of 6 images: 0.png;")


def test_exact_ids_is_refused_where_there_are_no_ids(written):
    users = "a folder, a CSV, chexpert, mura, t1w, isic2020 and cholect50"
    assert message("bach", written("bach"), exact_ids=True) == f"--exact-ids is for {users}, not bach"


def test_isic2020_patients_in_two_spellings(tmp_path):
    """ISIC_0074268 and ISIC_0074311 are of IP_8723313, ISIC_0076545 and ISIC_0076742 of IP_9802602."""
    layouts.isic2020(tmp_path, "kaggle", duplicates=False)
    before = load("isic2020", tmp_path)
    replace_text(tmp_path / "train.csv", "ISIC_0074311,IP_8723313", "ISIC_0074311,ip_8723313")
    replace_text(tmp_path / "train.csv", "ISIC_0076742,IP_9802602", "ISIC_0076742,IP\u200b_9802602")
    index = load("isic2020", tmp_path)
    assert index.groups == before.groups and index.fingerprint() == before.fingerprint()
    joined = "2 patient ids have more than one spelling ('IP_8723313' = 'ip_8723313'"
    assert any(joined in note for note in index.notes)
    assert len(set(load("isic2020", tmp_path, exact_ids=True).groups)) == len(set(before.groups)) + 2


def test_figshare_patients_in_two_spellings_across_the_official_folds(tmp_path):
    """File 16 is of file 1's patient, MR0301B, and in its fold; here file 4, of the second fold, is of it,
    too."""
    h5py = pytest.importorskip("h5py")
    layouts.t1w_figshare(tmp_path, merged=True)
    for n, pid in ((16, "mr0301b"), (4, "MR0301B ")):
        with h5py.File(tmp_path / "brainTumorDataPublic" / f"{n}.mat", "r+") as file:
            del file["cjdata/PID"]
            file["cjdata/PID"] = np.array([[ord(letter)] for letter in pid], np.uint16)
    index = load("t1w", tmp_path)
    assert [index.groups[n - 1] for n in (1, 4, 16)] == ["MR0301B"] * 3
    text = error(make_splits, index, folds=5)  # fold 0 tests on 1 and 16; 4 is left to train or val
    joined = r"1 of them as two spellings of one id \('MR0301B' in test = 'MR0301B ' in (train|val)"
    assert re.search(joined, text)
    assert "--exact-ids" in text
    assert len(make_splits(load("t1w", tmp_path, exact_ids=True), folds=5)) == 5


# ---- every layout ----


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_every_layout_is_read_split_and_decoded(written, layout, tmp_path):
    dataset = layouts.LAYOUTS[layout][0]
    index = load(dataset, written(layout))
    entry = DATASETS[dataset]
    assert index.name == dataset and index.task == entry.task
    columns = (set(index.paths), index.labels, index.groups, index.official)
    assert {len(column) for column in columns} == {len(index)}
    assert not [path for path in index.paths if "._" in path or "__MACOSX" in path or ".DS_Store" in path]
    pixels = images.decode(index.sources(), 8, tmp_path / "cache")
    assert pixels.bad == []
    split = make_splits(index, pixels.identical)[0]
    for kept in (i for i, side in enumerate(index.official) if side in ("val", "test")):
        assert split[kept] == index.official[kept]
    assert all(len(sides) == 1 for sides in sides_of(index.groups, split).values())
    half = index.keep(range(0, len(index), 2))
    assert half.paths == index.paths[::2] and half.groups == index.groups[::2]
    assert half.units == (index.units and index.units[::2]) and len(half.sources()) == len(half)


# ---- the index ----


def test_keep_picks_rows_of_everything():
    index = by_hand([0, 1, 2, 1], ["p", "q", "q", "r"], official=["train", "val", "test", "train"])
    index.units, index.arrays = list("uvwx"), [np.full((5, 5), i, np.uint8) for i in range(4)]
    kept = index.keep([3, 1])
    assert (kept.paths, kept.groups) == (["3.png", "1.png"], ["r", "q"])
    assert (kept.official, kept.units) == (["train", "val"], ["x", "v"])
    assert kept.labels.tolist() == [1, 1] and kept.classes == ["c0", "c1", "c2"] and len(kept) == 2
    assert kept.arrays[0] is index.arrays[3]


def test_fingerprint_follows_what_is_learnt_from():
    def index(**change):
        base = by_hand([0, 1, 1], ["p", "q", "q"])
        for name, value in change.items():
            setattr(base, name, value)
        return base.fingerprint()

    assert index() == index()
    changes = {
        "labels": np.array([0, 1, 0]),
        "groups": ["p", "q", "r"],
        "paths": ["a", "b", "c"],
        "official": ["", "", "test"],
        "classes": ["x", "y"],
    }
    assert len({index(), *(index(**{name: value}) for name, value in changes.items())}) == 6


def test_an_index_without_groups_splits_and_metrics_has_those_of_its_task():
    about = {"classes": ["a", "b"], "paths": ["x", "y"], "root": Path(".")}
    index = Index(task="multiclass", labels=np.arange(2), **about)
    assert (index.groups, index.group_kind, index.official) == (["x", "y"], "image", ["", ""])
    assert (index.metric, index.second) == ("balanced_accuracy", "auroc")  # of two classes
    three = Index(task="multiclass", labels=np.arange(2), **about | {"classes": ["a", "b", "c"]})
    assert (three.metric, three.second) == ("balanced_accuracy", "accuracy")
    several = Index(task="multilabel", labels=np.eye(2, dtype=np.float32), second="f1", **about)
    assert (several.metric, several.second) == ("auroc", "f1")


# ---- CheXpert ----

PATIENTS = [f"patient0000{i}" for i in (1, 1, 2, 3, 4, 5)]
STUDIES = [f"{p}/study{s}" for p, s in zip(PATIENTS, (1, 2, 1, 1, 1, 12), strict=True)]
STUDIES_VALID = ["patient64541/study1", "patient64542/study1"]
# Atelectasis, Cardiomegaly, Consolidation, Edema, Pleural Effusion; the second has all five uncertain
FIVE = [[0, 0, 0, 1, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0]]
FIVE_VALID = [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("layout", ["A", "B", "C", "D"])
def test_chexpert_layouts(written, layout):
    index = load("chexpert", written(f"chexpert-{layout}"))
    train, valid = ["train"] * 6, "valid"
    if layout == "C":  # a patient lies in the batch of its number modulo 3
        batches = [f"CheXpert-v1.0 batch {name}" for name in ("2 (train 1)", "3 (train 2)", "4 (train 3)")]
        train = [batches[i] for i in (1, 1, 2, 0, 1, 2)]
        valid = "CheXpert-v1.0 batch 1 (validate & csv)/valid"
    folders = [*train, valid, valid]
    studies = STUDIES + STUDIES_VALID
    assert index.paths == [f"{f}/{s}/view1_frontal.jpg" for f, s in zip(folders, studies, strict=True)]
    assert index.classes == ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
    same_labels(index.labels, FIVE + FIVE_VALID)
    assert index.official == ["train"] * 6 + ["test"] * 2
    assert index.groups == [*PATIENTS, "patient64541", "patient64542"]
    assert index.units == studies
    assert (index.metric, index.second) == ("auroc", "average_precision")
    assert (index.unit_score, index.unit_kind, index.group_kind) == ("max", "study", "patient")


def test_chexpert_batch_folder_itself_is_enough(written):
    folder = written("chexpert-C") / "CheXpert-v1.0 batch 1 (validate & csv)"
    assert load("chexpert", folder).paths == load("chexpert", written("chexpert-C")).paths


@pytest.mark.parametrize("layout", ["chexpert-E-study", "chexpert-E-path"])
def test_chexpert_test_labels_make_valid_the_validation_set(written, layout):
    index = load("chexpert", written(layout), views="all")
    assert index.official == ["train"] * 7 + ["val"] * 3 + ["test"] * 3
    studies = ["patient64741/study1", "patient64741/study1", "patient64742/study1"]
    views = ["view1_frontal", "view2_lateral", "view1_frontal"]
    assert index.paths[-3:] == [f"test/{s}/{v}.jpg" for s, v in zip(studies, views, strict=True)]
    same_labels(index.labels[-3:], [[1, 0, 0, 1, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    assert index.units[-3:] == studies
    assert load("chexpert", written(layout)).official == ["train"] * 6 + ["val"] * 2 + ["test"] * 2


def test_chexpert_views(written):
    index = load("chexpert", written("chexpert-A"), views="all")
    assert index.paths[1] == "train/patient00001/study1/view2_lateral.jpg" and len(index) == 10
    assert index.units[0] == index.units[1] == "patient00001/study1"
    assert index.paths[-1] == "valid/patient64542/study1/view2_lateral.jpg"


POLICIES = {"default": [1, 0, 0, 1, 0], "ones": [1] * 5, "zeros": [0] * 5, "ignore": [NAN] * 5}


@pytest.mark.parametrize("policy, second", POLICIES.items())
def test_chexpert_uncertain(written, policy, second):
    index = load("chexpert", written("chexpert-A"), uncertain=policy)
    same_labels(index.labels, [FIVE[0], second, *FIVE[2:], *FIVE_VALID])


def test_chexpert_fourteen_labels(written):
    index = load("chexpert", written("chexpert-A"), labels="all", uncertain="ignore")
    assert index.classes == layouts.FINDINGS
    # row 2: Edema, Consolidation, Atelectasis, Cardiomegaly, Pleural Effusion, Fracture are uncertain
    same_labels(index.labels[1], [0, 0, NAN, 0, 0, NAN, NAN, 0, NAN, 0, NAN, 0, NAN, 0])
    same_labels(index.labels[0], [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1])
    same_labels(index.labels[2], [1] + [0] * 13)
    default = load("chexpert", written("chexpert-A"), labels="all")
    same_labels(default.labels[1], [0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0])


def test_chexpert_bad_input(tmp_path):
    layouts.chexpert(tmp_path)
    top = tmp_path / "CheXpert-v1.0-small"
    original = (top / "train.csv").read_text()
    replace_text(top / "train.csv", "train/patient00004/study1", "train/patient00444/study1")
    where = f"{top / 'train.csv'}: 1 of 6 images are not below {top}"
    image = "study1/view1_frontal.jpg"
    text = message("chexpert", tmp_path)
    assert text == f"{where}: train/patient00444/{image}; unpack the whole archive"
    away = original.replace("CheXpert-v1.0-small/train/patient00004", "../../patient00004")
    (top / "train.csv").write_text(away)
    text = message("chexpert", tmp_path)
    assert text == f"{top / 'train.csv'}: 1 paths leave the data folder {top}: ../../patient00004/{image}"
    (top / "train.csv").write_text(original.replace(",-1.0,", ",maybe,", 1))
    what = "1 labels are not 1, 0, -1 or blank: train/patient00001/study2/view1_frontal.jpg, Cardiomegaly"
    assert f"train.csv: {what}: 'maybe'" in message("chexpert", tmp_path)
    (top / "train.csv").write_text(original.replace("Edema", "Oedema"))
    assert "train.csv: no column Edema; its columns are Path, Sex" in message("chexpert", tmp_path)
    (top / "train.csv").write_text(original.replace("/view1_frontal", "/frontal"))
    assert "6 paths do not end in patient/study/view1_frontal.jpg" in message("chexpert", tmp_path)
    shutil.copytree(top / "valid" / "patient64541", top / "train" / "patient64541")
    row = original.splitlines()[-1].replace("patient00005/study12", "patient64541/study1")
    (top / "train.csv").write_text(original + row + "\n")
    torn = "chexpert: 1 patients are in two splits: patient64541 (test and "
    assert message("chexpert", tmp_path).startswith(torn)
    (top / "train.csv").unlink()
    assert "1 of CheXpert's two tables are missing: train.csv" in message("chexpert", tmp_path)


def test_chexpert_archives_may_lie_beside_their_folders(tmp_path):
    layouts.chexpert(tmp_path, "C")
    folder = next(tmp_path.rglob("CheXpert-v1.0 batch 2*")).parent
    expected = load("chexpert", tmp_path).paths
    for at in list(folder.glob("CheXpert-v1.0 batch *")):
        (folder / f"{at.name}.zip").write_bytes(b"PK")
    (folder / "train").write_text("no folder")
    assert load("chexpert", tmp_path).paths == expected


def test_an_image_that_is_listed_twice(tmp_path):
    layouts.chexpert(tmp_path)
    file = tmp_path / "CheXpert-v1.0-small" / "train.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")
    image = "train/patient00001/study1/view1_frontal.jpg"
    assert message("chexpert", tmp_path) == f"chexpert: 1 images are listed more than once: {image}"


def test_chexpert_lists_the_first_three_missing(tmp_path):
    layouts.chexpert(tmp_path)
    shutil.rmtree(tmp_path / "CheXpert-v1.0-small" / "train")
    text = message("chexpert", tmp_path)
    assert "6 of 6 images are not below" in text and "and 3 more" in text
    assert text.count("view1_frontal.jpg") == 3


# ---- MURA ----

MURA_TRAIN = "ELBOW/1/1 ELBOW/1/1 HAND/1/1 HAND/2/1 WRIST/3/1 WRIST/3/2 WRIST/4/1 WRIST/4/1 WRIST/4/1"
MURA_TRAIN += " HUMERUS/5/1 HUMERUS/6/1"
MURA_VALID = "ELBOW/11185/1 ELBOW/11185/1 ELBOW/11185/1 ELBOW/11185/2 HAND/11186/1 HAND/11186/1 HAND/11187/1"
NUMBERS = [study.split("/") for study in f"{MURA_TRAIN} {MURA_VALID}".split()]
MURA_UNITS = [f"{region}/patient{patient:>05}/study{study}" for region, patient, study in NUMBERS]


@pytest.mark.parametrize("layout", ["mura", "mura-lf"])
def test_mura(written, layout):
    index = load("mura", written(layout))
    elbow = "train/XR_ELBOW/patient00001/study1_positive"
    first = [f"{elbow}/image1.png", f"{elbow}/image2.png"]
    assert index.paths[:3] == [*first, "train/XR_HAND/patient00001/study1_negative/image1.png"]
    assert index.paths[-1] == "valid/XR_HAND/patient11187/study1_positive/image1.png"
    assert index.units == MURA_UNITS
    assert index.groups == [unit.split("/")[1] for unit in MURA_UNITS]
    assert index.subgroups == [unit.split("/")[0].lower() for unit in MURA_UNITS]
    same_labels(index.labels, [1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1])
    assert index.official == ["train"] * 11 + ["test"] * 7
    assert index.classes == ["normal", "abnormal"]
    assert (index.metric, index.unit_score, index.unit_kind) == ("kappa", "mean", "study")


def test_mura_region_and_folder_of_another_name(tmp_path):
    layouts.mura(tmp_path)
    (tmp_path / "MURA-v1.1").rename(tmp_path / "mura data (1)")
    index = load("mura", tmp_path, region="elbow")
    assert index.units == [unit for unit in MURA_UNITS if unit.startswith("ELBOW")]
    same_labels(index.labels, [1, 1, 1, 1, 1, 0])
    with pytest.raises(DataError, match="no image of --region finger"):
        load("mura", tmp_path, region="finger")


def test_mura_bad_input(tmp_path):
    layouts.mura(tmp_path)
    top = tmp_path / "MURA-v1.1"
    saved = {file: file.read_bytes() for file in top.glob("*.csv")}

    def after(name, old, new):
        for file, content in saved.items():
            file.write_bytes(content)
        replace_text(top / name, old, new)
        return message("mura", tmp_path)

    studies, elbow = "train_labeled_studies.csv", "train/XR_ELBOW/patient00001/study1_positive"
    text = after(studies, "study1_positive/,1", "study1_positive/,x")
    assert text.endswith(f"{studies}: 1 labels are not 0 or 1: {elbow}: 'x'")
    text = after("valid_labeled_studies.csv", "positive/,1", "positive/,0")
    assert "1 labels differ from the name of their folder" in text
    text = after(studies, "XR_HAND/patient00002", "XR_HAND/patient00009")
    assert f"1 images belong to no study in {studies}" in text
    assert "1 of 11 images are not below" in after("train_image_paths.csv", "image2.png", "image7.png")
    text = after("train_image_paths.csv", f"{elbow}/image2.png", "../../image2.png")
    assert f"1 paths leave the data folder {top}: ../../image2.png" in text
    assert "1 lines do not have 2 values" in after(studies, "study1_positive/,1", "study1_positive/")


def test_mura_kappa_over_studies_by_hand(written):
    """What the index says is enough for the metric: four test studies, means 0.6, 0.3, 0.7, 0.2 of
    abnormal."""
    index = load("mura", written("mura"))
    test = [i for i, side in enumerate(index.official) if side == "test"]
    abnormal = np.array([0.9, 0.3, 0.6, 0.3, 0.8, 0.6, 0.2])
    of_image = np.column_stack([1 - abnormal, abnormal])
    units = np.array(index.units)[test]
    scores, labels, _ = metrics.aggregate(of_image, index.labels[test], units, index.unit_score)
    np.testing.assert_allclose(scores[:, 1], [0.6, 0.3, 0.7, 0.2])
    # true 1 0 0 1, called 1 0 1 0: two of four agree, as chance would: kappa 0
    assert metrics.evaluate("multiclass", scores, labels, index.classes)["values"]["kappa"] == 0


# ---- T1w ----


@pytest.mark.parametrize("layout", ["t1w-figshare", "t1w-figshare-merged"])
def test_figshare(written, layout):
    index = load("t1w", written(layout))
    folders = ["brainTumorDataPublic_1-8"] * 8 + ["brainTumorDataPublic_9-16"] * 8
    if "merged" in layout:
        folders = ["brainTumorDataPublic"] * 16
    assert index.paths == [f"{folder}/{n}.mat" for n, folder in enumerate(folders, 1)]  # 10 after 9
    assert index.classes == ["meningioma", "glioma", "pituitary"]
    same_labels(index.labels, [0, 1, 2] * 5 + [0])
    odd = {n: f"MR03{n:02d}B" for n in (1, 3, 5, 7, 9, 11, 13, 15)}
    even = {2: "100362", 4: "100364", 6: "100366", 8: "100368", 10: "100370", 12: "100372", 14: "100374"}
    assert index.groups == [(odd | even)[n] for n in range(1, 16)] + ["MR0301B"]
    assert index.group_kind == "patient" and index.metric == "accuracy"
    assert index.official == [""] * 16 and len(index.official_folds) == 5


def test_figshare_official_folds(written):
    index = load("t1w", written("t1w-figshare"))
    fold_of = [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 1]
    folds = make_splits(index, folds=5)
    for k, split in enumerate(folds, 1):
        assert [side == "test" for side in split] == [fold == k for fold in fold_of]
        assert set(split[np.array(fold_of) != k]) == {"train", "val"}
    with pytest.raises(DataError, match="t1w has 5 official folds, not 3"):
        make_splits(index, folds=3)
    second = load("t1w", written("t1w-figshare"), fold=2)
    assert [side == "test" for side in make_splits(second)[0]] == [fold == 2 for fold in fold_of]


def test_figshare_pixels(written, tmp_path):
    """int16 from its smallest to its largest, in the orientation of a picture: MATLAB's columns are HDF5's
    rows."""
    index = load("t1w", written("t1w-figshare"))
    source = index.sources()[6]
    image = layouts.figshare_image(7).astype(float)
    assert image.max() == 119 * 10 and image.shape == (10, 12)
    np.testing.assert_array_equal(source.read(), np.floor(image / image.max() * 255 + 0.5))
    assert images.header(source) == ("L", 12, 10)
    pixels = images.decode(index.sources(), 10, tmp_path / "c", resize=10)
    np.testing.assert_array_equal(pixels.data[6, 0].numpy(), source.read()[:, 1:11])
    assert pixels.found == "16 L; widths 12-12, heights 10-10"
    assert pixels.identical == []


def test_figshare_in_numbered_folders(written, tmp_path):
    """Without the archive's prefix and without cvind.mat: all the folders, not the first."""
    expected = load("t1w", written("t1w-figshare"))
    for place in (tmp_path / "a", tmp_path / "b" / "slices"):
        for name in ("1-8", "9-16"):
            shutil.copytree(written("t1w-figshare") / f"brainTumorDataPublic_{name}", place / name)
    for folder in ("a", "b"):
        index = load("t1w", tmp_path / folder)
        assert index.paths == [path.replace("brainTumorDataPublic_", "") for path in expected.paths]
        assert index.groups == expected.groups


def test_figshare_folds_that_are_none(tmp_path):
    h5py = pytest.importorskip("h5py")
    layouts.t1w_figshare(tmp_path)
    file = tmp_path / "cvind.mat"
    file.write_bytes(b"MATLAB 5.0 MAT-file")
    assert message("t1w", tmp_path).startswith(f"{file}: not the folds of figshare's archive (")
    with h5py.File(file, "w") as other:
        other["folds"] = np.ones(16)
    assert message("t1w", tmp_path).startswith(f"{file}: not the folds of figshare's archive (")
    assert "--group-regex is for image folders" in message("t1w", tmp_path, group_regex="x")


def test_figshare_bad_input(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    layouts.t1w_figshare(tmp_path, cvind=False)
    assert any("cvind" in note for note in load("t1w", tmp_path).notes)
    assert "--fold 2 needs cvind.mat" in message("t1w", tmp_path, fold=2)
    first = tmp_path / "brainTumorDataPublic_1-8" / "1.mat"
    shutil.copy(first, tmp_path / "1.mat")
    assert message("t1w", tmp_path) == f"{tmp_path}: 1 slices are there more than once: 1.mat"
    (tmp_path / "1.mat").unlink()
    with h5py.File(first, "r+") as file:
        file["cjdata/label"][...] = 4
    assert message("t1w", tmp_path) == f"{tmp_path}: 1 labels are not 1, 2 or 3: 1.mat: 4"
    first.write_bytes(first.read_bytes()[:700])
    assert f"{tmp_path}: 1 of 16 .mat files cannot be read: 1.mat (" in message("t1w", tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert message("t1w", tmp_path).endswith("reading t1w's .mat files needs h5py: pip install h5py")


@pytest.mark.parametrize("layout", ["t1w-kaggle", "t1w-kaggle-notumor"])
def test_kaggle_t1w(written, layout, tmp_path):
    index = load("t1w", written(layout))
    folders = ["glioma", "meningioma", "notumor", "pituitary"]
    if layout == "t1w-kaggle":
        folders = ["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"]
    testing, training = ("image(1)", "image(2)"), ("gg (1)", "gg (2)", "image(10)", "p 3")
    expected = [f"Testing/{c}/{name}.jpg" for c in folders for name in testing]
    assert index.paths == expected + [f"Training/{c}/{name}.jpg" for c in folders for name in training]
    assert index.classes == ["glioma", "meningioma", "notumor", "pituitary"]
    same_labels(index.labels, [0, 0, 1, 1, 2, 2, 3, 3] + [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
    assert index.official == ["test"] * 8 + ["train"] * 16
    assert index.groups == index.paths and index.group_kind == "image"
    assert "image-level split: t1w names no groups (patients, videos)" in index.notes
    identical = images.decode(index.sources(), 8, tmp_path / "c").identical
    assert identical == [[1, 8]]  # glioma's image(2) and gg (1)
    assert "--fold 1 is for figshare's" in message("t1w", written(layout), fold=1)


def test_kaggle_t1w_of_other_classes(tmp_path):
    layouts.t1w_kaggle(tmp_path)
    for part in ("Training", "Testing"):
        (tmp_path / part / "no_tumor").rename(tmp_path / part / "healthy")
    found = "classes are glioma_tumor, healthy, meningioma_tumor, pituitary_tumor"
    assert f"{found}; t1w has glioma," in message("t1w", tmp_path)


# ---- BACH ----


def test_bach(written):
    index = load("bach", written("bach"))
    assert index.classes == ["Normal", "Benign", "InSitu", "Invasive"]
    starts = ["Normal/n", "Benign/b", "InSitu/is", "Invasive/iv"]
    assert index.paths == [f"Photos/{start}00{i}.tif" for start in starts for i in (1, 2, 3, 4)]
    same_labels(index.labels, [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
    assert index.official == [""] * 16 and index.groups == index.paths and index.metric == "accuracy"
    assert "image-level split: bach names no groups (patients, videos)" in index.notes
    photos = written("bach") / "ICIAR2018_BACH_Challenge" / "Photos"
    assert load("bach", photos).paths == [path.removeprefix("Photos/") for path in index.paths]


def test_bach_sixteen_bit_tiff_is_scaled_not_clipped(written, tmp_path):
    index = load("bach", written("bach"))
    pixels = images.decode(index.sources(), 8, tmp_path / "c")
    assert pixels.data.shape == (16, 3, 8, 8)
    for i in (0, 4, 8, 12):  # 257 * 200 of 65535 is 200 of 255
        assert (pixels.data[i] == 200).all()


def test_extensions_in_capitals(tmp_path):
    layouts.bach(tmp_path / "bach")
    layouts.isic2020(tmp_path / "isic2020")
    for dataset, extension in (("bach", ".tif"), ("isic2020", ".jpg")):
        expected = load(dataset, tmp_path / dataset)
        for file in list((tmp_path / dataset).rglob(f"*{extension}")):
            file.rename(file.with_suffix(extension.upper()))
        index = load(dataset, tmp_path / dataset)
        assert index.paths == [path.replace(extension, extension.upper()) for path in expected.paths]


def test_bach_bad_input(tmp_path):
    layouts.bach(tmp_path)
    file = tmp_path / "ICIAR2018_BACH_Challenge" / "Photos" / "microscopy_ground_truth.csv"
    original = file.read_bytes()
    replace_text(file, "n001.tif,Normal", "n001.tif,Norm")
    what = "1 lines name a class that is not Normal, Benign, InSitu, Invasive"
    assert f"{what}: n001.tif: 'Norm'" in message("bach", tmp_path)
    file.write_bytes(original + b"iv001.tif,Invasive\r\n")
    assert "1 images are listed more than once: iv001.tif" in message("bach", tmp_path)
    file.write_bytes(original + b"iv100.tif,Invasive\r\niv101.tif,Invasive\r\n")
    assert "2 of 18 images are not below" in message("bach", tmp_path)


# ---- ISIC 2020 ----


@pytest.mark.parametrize("form", ["v1", "v2", "kaggle", "resized"])
def test_isic2020(written, form):
    index = load("isic2020", written(f"isic2020-{form}"))
    folder = layouts.ISIC_FOLDERS[form]
    rows = layouts.ISIC
    if form in ("v1", "v2"):  # the second of each pair is gone
        rows = [row for row in rows if row[0] not in ("ISIC_0052212", "ISIC_0076995")]
        note = "2 duplicates left out, the second of each pair in ISIC_2020_Training_Duplicates.csv"
        assert note in index.notes
    else:
        assert any("its 425 pairs stay in" in note for note in index.notes)
    assert index.paths == [f"{folder}/{name}.jpg" for name, _, _ in rows]
    assert index.groups == [patient for _, patient, _ in rows]
    same_labels(index.labels, [target for _, _, target in rows])
    assert index.labels.sum() == (4 if form in ("v1", "v2") else 5)
    assert index.classes == ["benign", "malignant"] and index.official == [""] * len(rows)
    assert (index.metric, index.second, index.group_kind) == ("auroc", "average_precision", "patient")


def test_isic2020_exif(written):
    index = load("isic2020", written("isic2020-v1"))
    assert images.header(index.sources()[0]) == ("RGB", 20, 12)
    raw = [np.asarray(Image.open(source)) for source in index.sources()[:2]]  # (12, 20, 3)
    turned, kept = (images.decode_image(source, 12, resize=12)[0] for source in index.sources()[:2])
    clockwise = np.rot90(raw[0], -1)  # orientation 6: by 90 degrees
    np.testing.assert_array_equal(turned, clockwise[4:16].transpose(2, 0, 1))
    np.testing.assert_array_equal(kept, raw[1][:, 4:16].transpose(2, 0, 1))


def test_isic2020_bad_input(tmp_path):
    layouts.isic2020(tmp_path, "kaggle", duplicates=False)
    file = tmp_path / "train.csv"
    original = file.read_text()
    file.write_text(original.replace("unknown,benign,0", "unknown,benign,no", 1))
    assert message("isic2020", tmp_path) == f"{file}: 1 targets are not 0 or 1: ISIC_2637011: 'no'"
    file.write_text(original.replace("IP_7279968", ""))
    what = "patient is blank (or nan) for 1 of 14 images: jpeg/train/ISIC_2637011.jpg"
    assert message("isic2020", tmp_path) == f"isic2020: {what}; fill it in, or leave those images out"
    file.write_text(original.replace("patient_id", "patient"))
    text = message("isic2020", tmp_path)
    assert "train.csv: no column patient_id; its columns are image_name, patient, sex" in text
    file.write_text(original.replace("ISIC_2637011", "../../../secret"))
    assert "1 paths leave the data folder" in message("isic2020", tmp_path)
    file.write_text(original.replace("ISIC_00", "ISIC_99"))
    text = message("isic2020", tmp_path)
    assert "13 of 14 images are not below" in text
    first = ", ".join(f"jpeg/train/ISIC_99{number}.jpg" for number in ("15719", "52212", "68279"))
    assert f"{first} and 10 more" in text
    file.unlink()
    assert "none of ISIC_2020_Training_GroundTruth_v2.csv" in message("isic2020", tmp_path)


# ---- CholecT50 ----

FRAMES = [0, 1, 2, 10, 11, 30, 45, 60]
VIDEOS = ["VID02", "VID05", "VID06", "VID08", "VID12", "VID31", "VID74", "VID92", "VID111"]


def one_hot(rows, size):
    return [[int(c in row) for c in range(size)] for row in rows]


EXPECTED = {
    "instrument": one_hot([[], [0], [0, 2], [1], [0], [2], [5], []], 6),
    "verb": one_hot([[], [1], [1, 2], [3], [9], [], [6], []], 10),
    "target": one_hot([[], [0], [0], [8], [14], [], [6], []], 15),
    "triplet": one_hot([[], [17], [17, 60], [29], [94], [], [82], []], 100),
}


@pytest.mark.parametrize("task", EXPECTED)
@pytest.mark.parametrize("layout", ["cholect50", "cholect45"])
def test_cholect50(written, layout, task):
    index = load("cholect50", written(layout), task=task)
    videos = VIDEOS if layout == "cholect50" else VIDEOS[:7]
    folder = "videos" if layout == "cholect50" else "data"
    assert index.paths == [f"{folder}/{video}/{frame:06d}.png" for video in videos for frame in FRAMES]
    assert index.groups == index.units == [video for video in videos for _ in FRAMES]
    assert index.task == "multilabel"
    same_labels(index.labels, EXPECTED[task] * len(videos))
    assert (index.metric, index.second) == ("video_map", "average_precision")
    assert (index.unit_score, index.unit_kind, index.group_kind) == ("video", "video", "video")
    assert index.leave_out == ((94, 95, 96, 97, 98, 99) if task == "triplet" else ())
    counted = datasets.Options(task=task, null_triplets=True)
    assert datasets.variant_name("cholect50", counted).endswith("-null_triplets")
    assert datasets.load_index("cholect50", str(index.root), counted).leave_out == ()
    names = {"instrument": ["grasper", "bipolar", "hook", "scissors", "clipper", "irrigator"]}
    if task == "triplet":
        assert index.classes[17] == "grasper,retract,gallbladder" and index.classes[18] == "triplet18"
        assert index.classes[94] == "grasper,null_verb,null_target" and len(index.classes) == 100
    assert index.classes == names.get(task, index.classes)
    # 99 without annotation and the stray copy of 30, in each video
    assert f"{2 * len(videos)} files in {folder}/ without annotation, left out" in index.notes


def test_cholect50_phase(written):
    index = load("cholect50", written("cholect50"), task="phase")
    assert index.task == "multiclass" and len(index.classes) == 7
    assert index.classes[4] == "gallbladder-packaging"
    assert index.paths == [f"videos/{video}/{frame:06d}.png" for video in VIDEOS for frame in FRAMES[:-1]]
    same_labels(index.labels, list(range(7)) * 9)  # frame 60 has no instance, so no phase
    assert "9 frames have no phase, left out" in index.notes
    assert (index.metric, index.second, index.units) == ("accuracy", "macro_f1", None)
    assert "CholecT45 has no phases" in message("cholect50", written("cholect45"), task="phase")


# Of videos 2 5 6 8 12 31 74 92 111: the table of the official splits, crossval's validation as CAMMA's loader
# has it
SIDES = {
    ("rdv", None): "train train test val val train test train test",
    ("challenge", None): "train val train train train train val test test",
    ("crossval", 1): "test train test train train train train val test",
    ("crossval", 2): "train test train train train train train val train",
    ("crossval", 3): "train train train test train test train val train",
    ("crossval", 4): "train train train train test train train val train",
    ("crossval", 5): "train train train train val train test test train",
}


@pytest.mark.parametrize("variant, fold", SIDES)
def test_cholect50_official_splits(written, variant, fold):
    index = load("cholect50", written("cholect50"), variant=variant, fold=fold)
    expected = [side for side in SIDES[variant, fold].split() for _ in FRAMES]
    assert index.official == expected
    assert list(make_splits(index)[0]) == expected


def test_cholect50_crossval_folds(written):
    index = load("cholect50", written("cholect50"), variant="crossval")
    assert index.official == [side for side in SIDES["crossval", 1].split() for _ in FRAMES]
    folds = make_splits(index, folds=5)
    for k in range(5):
        assert list(folds[k][::8]) == SIDES["crossval", k + 1].split()
    assert "--fold 2 is for --variant crossval, not rdv" in message("cholect50", written("cholect50"), fold=2)


def test_cholect45_crossval_validates_on_the_last_five_videos_of_its_own_lists():
    for fold, expected in ((1, {74, 1, 56, 4, 13}), (5, {65, 75, 22, 49, 12})):
        sides = datasets.cholect50_sides("crossval", fold, datasets.CHOLECT45_LACKS)
        assert {n for n, s in sides.items() if s == "val"} == expected and len(sides) == 45


def test_cholect50_splits_are_a_partition():
    """50 videos; 35/5/10, 40/5/5 and 35/5/10 of them."""
    expected = {("rdv", 1): (35, 5, 10), ("challenge", 1): (40, 5, 5)}
    expected |= {("crossval", k): (35, 5, 10) for k in range(1, 6)}
    tests = []
    for (variant, fold), sizes in expected.items():
        side_of = datasets.cholect50_sides(variant, fold)
        sides = list(side_of.values())
        assert tuple(sides.count(side) for side in ("train", "val", "test")) == sizes
        if variant == "crossval":
            tests.append({number for number, side in side_of.items() if side == "test"})
    assert len(set.union(*tests)) == sum(map(len, tests)) == 50


def test_cholect45_has_no_test_video_of_the_challenge(written):
    text = message("cholect50", written("cholect45"), variant="challenge")
    assert "the test videos of --variant challenge are 92, 96, 103, 110, 111; none of them is among" in text
    assert text.endswith("among the 7 videos here")


def test_cholect50_black_frames_are_no_leak(written, tmp_path):
    index = load("cholect50", written("cholect50"))
    pixels = images.decode(index.sources(), 8, tmp_path / "c")
    assert not pixels.data[::8].any() and pixels.bad == [] and pixels.identical == []
    assert pixels.found == "72 RGB; widths 16-19, heights 9-10"


def test_cholect50_bad_input(tmp_path):
    layouts.cholect50(tmp_path, [2, 8, 6])
    top = tmp_path / "CholecT50"
    file = top / "labels" / "VID02.json"
    content = json.loads(file.read_text())

    def after(**annotations):
        file.write_text(json.dumps(content | {"annotations": content["annotations"] | annotations}))
        return message("cholect50", tmp_path)

    instance = content["annotations"]["1"][0]
    wrong = [*instance[:1], 6, *instance[2:]]
    assert after(**{"1": [wrong]}) == f"{file}: 1 instrument numbers are not -1 to 5: frame 1: 6"
    text = after(**{"1": [[0, "hook", *instance[2:]]]})
    assert "1 instrument numbers are not -1 to 5: frame 1: 'hook'" in text
    assert "no annotations as CholecT50 has them: IndexError" in after(**{"1": [[3]]})
    assert "no annotations as CholecT50 has them: ValueError" in after(frame7=[])
    assert "1 of 25 images are not below" in after(**{"777": []})
    assert "videos/VID02/000777.png" in after(**{"777": []})
    file.write_text(json.dumps(content))
    two = [[*instance[:14], 3], instance]
    file.write_text(json.dumps(content | {"annotations": {"1": two}}))
    text = message("cholect50", tmp_path, task="phase")
    assert text == f"{file}: 1 frames are in two phases: frame 1: [1, 3]"
    file.rename(top / "labels" / "VID03.json")
    assert message("cholect50", tmp_path) == f"{top}: 1 videos are in no split of CholecT50: VID03"


def test_cholect45_bad_input(tmp_path):
    layouts.cholect45(tmp_path)
    file = tmp_path / "CholecT45" / "instrument" / "VID05.txt"
    original = file.read_text()
    file.write_text(original.replace("1,1,0", "1,x,0"))
    assert f"{file}: " in message("cholect50", tmp_path) and "'x'" in message("cholect50", tmp_path)
    file.write_text(original.replace("1,1,0", "1,2,0"))
    assert f"{file}: needs a frame and 6 columns of 0 or 1" in message("cholect50", tmp_path)
    file.write_text(original + "1,0,0,0,0,0,0\n")
    assert message("cholect50", tmp_path) == f"{file}: a frame is listed more than once"
    file.unlink()
    file.with_name("VID111.txt").write_text(original)
    assert "1 videos are in no split of CholecT45: VID111" in message("cholect50", tmp_path)


# ---- finding, choosing ----


@pytest.mark.parametrize("layout", ["mura", "bach", "cholect45", "isic2020-resized", "chexpert-A"])
def test_folder_parent_and_environment(written, layout, monkeypatch, tmp_path):
    dataset, folder = layouts.LAYOUTS[layout][0], written(layout)
    (tmp_path / dataset).symlink_to(folder)  # FTCOMPARE_DATA/<name>/<archive>
    monkeypatch.setenv("FTCOMPARE_DATA", str(tmp_path))
    expected = load(dataset, folder)
    assert load(dataset, expected.root).paths == expected.paths
    index = load_index(dataset)
    assert index.paths == expected.paths
    assert index.notes[0].startswith(f"found in {tmp_path / dataset}")


def test_wrong_folders_are_named(written, tmp_path, monkeypatch):
    folder = written("mura")
    text = message("chexpert", folder)
    looked = f"looked for valid.csv or CheXpert-v1.0 batch 1*/valid.csv in {folder} and in the folders there"
    found = f"{folder} holds MURA-v1.1/: {folder / 'MURA-v1.1'} looks like mura"
    assert text.startswith(f"chexpert not found: {looked}. {found}") and "--data mura" in text
    assert "stanfordaimi.azurewebsites.net (gated: research use agreement, 11 GB" in text
    part = folder / "MURA-v1.1" / "train"
    assert "a part of mura; pass the archive's own folder, above it" in message("mura", part)
    assert f"{tmp_path / 'no'} is no folder" in message("mura", tmp_path / "no")
    assert f"{tmp_path} holds nothing" in message("bach", tmp_path)
    layouts.picture(tmp_path / "cats" / "1.png")
    assert f"a folder of class folders of your own: --data {tmp_path}" in message("bach", tmp_path)
    monkeypatch.delenv("FTCOMPARE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    found = r"mura not found: looked for .* in data and in the folders there\. data is no folder"
    assert re.match(found, error(load_index, "mura"))


# ---- options ----


def test_options_of_another_dataset_are_refused(written):
    folder = written("mura")
    assert message("mura", folder, fold=2) == "--fold is for t1w and cholect50, not mura"
    assert message("mura", folder, task="verb") == "--task is for cholect50, not mura"
    assert message("mura", folder, group_col="patient") == "--group-col is for a CSV, not mura"
    assert message("chexpert", written("chexpert-A"), region="hand") == "--region is for mura, not chexpert"


def test_every_option_says_in_its_help_what_it_is_for():
    known = {*datasets.FORMS, *DATASETS, datasets.GROUPED}
    for option in fields(Options):
        assert option.metadata["data"] and set(option.metadata["data"]) <= known
        assert option.metadata["help"].startswith(f"{', '.join(option.metadata['data'])}: ")


REGIONS = "elbow finger forearm hand humerus shoulder wrist".split()
WRONG = [
    ({"labels": "six"}, "--labels six: choose from five, all"),
    ({"uncertain": "maybe"}, "--uncertain maybe: choose from default, ones, zeros, ignore"),
    ({"views": "lateral"}, "--views lateral: choose from frontal, all"),
    ({"region": "knee"}, f"--region knee: choose from all, {', '.join(REGIONS)}"),
    ({"task": "tool"}, "--task tool: choose from instrument, verb, target, triplet, phase"),
    ({"variant": "cv"}, "--variant cv: choose from rdv, challenge, crossval"),
    ({"fold": 6}, "--fold 6: choose from 1, 2, 3, 4, 5"),
]


@pytest.mark.parametrize("option, text", WRONG)
def test_wrong_options_name_the_choices(option, text):
    assert error(Options, **option) == text


def test_another_task_or_fold_has_another_name():
    """A dataset's own options are in its name; those that say how files are read are not."""
    assert datasets.variant_name("cholect50") == ""
    options = Options(task="verb", variant="crossval", fold=2, exact_ids=True)
    assert datasets.variant_name("cholect50", options) == "-verb-crossval-fold2"
    assert datasets.variant_name("t1w", Options(group_regex=".", fold=1)) == "-fold1"
    assert datasets.variant_name("my_images", options) == ""


# ---- one more dataset ----


def test_one_more_dataset_is_a_function_and_an_entry_and_its_option_a_field(monkeypatch, tmp_path, written):
    more, mura = layouts.add_eyes(monkeypatch, tmp_path), str(written("mura"))
    index = load_index("eyes", more, WithSide())
    assert (index.name, index.citation, len(index)) == ("eyes", "by hand", 26)
    people = [f"P{i:02d}" for i in range(1, 13)]
    assert index.groups == [*people, "P01"] * 2  # p01 is P01, as in every archive
    assert (index.metric, index.second) == ("balanced_accuracy", "auroc")
    one = load_index("eyes", more, WithSide(side="left", exact_ids=True))
    assert {path.split("/")[0] for path in one.paths} == {"left"} and len(one) == 13
    assert one.groups == [*people, "p01"]
    assert datasets.variant_name("eyes", WithSide(side="left")) == "-left"
    assert error(WithSide, side="top") == "--side top: choose from both, left, right"
    assert error(load_index, "mura", mura, WithSide(side="left")) == "--side is for eyes, not mura"
    assert error(load_index, "eyes", more, WithSide(views="all")) == "--views is for chexpert, not eyes"
    assert [row["name"] for row in datasets.list_datasets()][-1] == "eyes"
    assert "looks like eyes (fundus): --data eyes" in error(load_index, "bach", more)


def test_and_is_gone_again(tmp_path):
    assert "eyes" not in DATASETS
    assert error(load_index, "eyes").startswith("--data eyes: neither a file, a folder nor a known dataset")


def test_list_datasets():
    rows = datasets.list_datasets()
    assert [row["name"] for row in rows] == ["chexpert", "mura", "t1w", "bach", "isic2020", "cholect50"]
    for row in rows:
        assert all(isinstance(value, str) and value for value in row.values())
        assert set("task classes metric group unit site access licence size citation".split()) <= set(row)
