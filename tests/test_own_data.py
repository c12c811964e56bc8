"""datasets.py on the user's own files: folders, groups and their ids, CSV, npz; and the demo.

    python -m pytest tests/test_own_data.py

The files are written here, the expected values by hand."""

import errno
import functools
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from layouts import by_hand, error, sides_of, touch
from PIL import Image

import datasets
from datasets import Index, Options, demo, load_index
from splits import check_data, group_lines, make_splits, read_splits, write_splits

ROOT = Path(datasets.__file__).parent
DEMOS = functools.cache(demo)  # making the source takes seconds


def groups_by_path(index: Index) -> dict[str, str]:
    return dict(zip(index.paths, index.groups, strict=True))


def labels_by_path(index: Index) -> dict[str, str]:
    return {path: index.label_text(i) for i, path in enumerate(index.paths)}


# ---- folders ----


def test_class_folders(tmp_path):
    touch(tmp_path, "pox/b.png", "pox/a.JPG", "acne/deep/er/c.tif", "acne/d (2).png", "two words/e.jpeg")
    index = load_index(str(tmp_path))
    assert (index.task, index.classes) == ("multiclass", ["acne", "pox", "two words"])
    acne, pox = ["acne/d (2).png", "acne/deep/er/c.tif"], ["pox/a.JPG", "pox/b.png"]
    assert index.paths == [*acne, *pox, "two words/e.jpeg"]
    assert index.labels.tolist() == [0, 0, 1, 1, 2] and index.labels.dtype == np.int64
    assert index.official == [""] * 5
    assert index.groups == index.paths and index.group_kind == "image"
    assert index.sources() == [tmp_path / path for path in index.paths]
    assert index.name == tmp_path.name
    assert any("image-level split" in note for note in index.notes)
    assert any("1 images lie deeper" in text and "--group-regex" in text for text in index.warnings)


def test_classes_that_are_numbers_stand_in_their_order(tmp_path):
    touch(tmp_path, *(f"{c}/x.png" for c in ("10", "9", "-1", "01", "1", "b", "A", "2b")))
    assert load_index(str(tmp_path)).classes == ["-1", "1", "9", "10", "2b", "A", "b"]
    exact = load_index(str(tmp_path), None, Options(exact_labels=True))
    assert exact.classes == ["-1", "01", "1", "9", "10", "2b", "A", "b"]
    assert sorted(["10.0", "2.0", "1.5", "-3", "x"], key=datasets.natural) == ["-3", "1.5", "2.0", "10.0", "x"]


def test_the_order_of_classes_does_not_depend_on_hashes():
    """ "1" and "01" are equal as numbers: a set would give them in an order of the process's own."""
    names = ["1", "01", "001"]
    for order in (names, names[::-1], ["01", "1", "001"]):
        assert sorted(order, key=datasets.natural) == ["001", "01", "1"]


@pytest.mark.parametrize(
    "train, val, test", [("train", "val", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "valid", "Test")]
)
def test_split_folders(tmp_path, train, val, test):
    expected = {
        f"{train}/a/1.png": ("a", "train"),
        f"{train}/b/2.png": ("b", "train"),
        f"{val}/a/3.png": ("a", "val"),
        f"{test}/b/4.png": ("b", "test"),
        f"{test}/a/s/5.png": ("a", "test"),
    }
    touch(tmp_path, *expected)
    index = load_index(str(tmp_path))
    assert index.classes == ["a", "b"]
    assert {p: (index.label_text(i), index.official[i]) for i, p in enumerate(index.paths)} == expected


def test_training_and_testing_only(tmp_path):
    testing = ["Testing/a/x.png", "Testing/b/x.png"]
    touch(tmp_path, *testing, *(f"Training/{c}/{i}.png" for c in "ab" for i in range(20)))
    index = load_index(str(tmp_path))
    split = make_splits(index)[0]
    assert np.array(index.paths)[split == "test"].tolist() == testing
    assert Counter(split) == {"train": 34, "val": 6, "test": 2}  # 15 % of 2 x 20


def test_hidden_files_are_neither_images_nor_classes(tmp_path):
    touch(tmp_path, "a/1.png", "a/._1.png", "b/2.png", "__MACOSX/a/3.png", ".git/4.png", ".hidden.png")
    touch(tmp_path, "b/__MACOSX/5.png", "b/.thumbs/6.png")
    touch(tmp_path, ".DS_Store", "a/.DS_Store", text="x")
    index = load_index(str(tmp_path))
    assert index.classes == ["a", "b"] and index.paths == ["a/1.png", "b/2.png"]
    assert not any("left out" in note for note in index.notes)


SYSTEM_FILES = (
    "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg,#recycle/1.png,$RECYCLE.BIN/S-1-5/$R1.png,@Recycle/1.png,"
    "System Volume Information/1.png,lost+found/#12.png,LOST+FOUND/12.png,.Trashes/501/1.png,"
    "#snapshot/daily/1.png"
).split(",")


@pytest.mark.parametrize("system", SYSTEM_FILES)
def test_folders_that_systems_make_are_read_nowhere(tmp_path, system):
    """As a class, within a class, deeper, as a split's class: the same index as without them."""
    touch(tmp_path, "own/a/p/1.png", "own/b/2.png", "split/train/a/1.png", "split/test/a/2.png")
    before = [load_index(str(tmp_path / name)) for name in ("own", "split")]
    folders = "own own/a own/a/p split split/train split/test/a".split()
    touch(tmp_path, *(f"{folder}/{system}" for folder in folders))
    after = [load_index(str(tmp_path / name)) for name in ("own", "split")]
    for old, new in zip(before, after, strict=True):
        assert (new.paths, new.classes, new.official) == (old.paths, old.classes, old.official)
        assert new.notes == old.notes
    assert after[0].paths == ["a/p/1.png", "b/2.png"]


def link(at: Path, to: str | Path) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(to, target_is_directory=True)


def test_folders_that_are_links_are_followed_and_counted(tmp_path):
    """A patient's folder, a whole class, a link within a linked folder, and into a store beside the classes
    that is itself hidden: two images each, none lost."""
    touch(tmp_path, *(f"disk/{p}/{i}.png" for p in ("p1", "p2", "p3", "c", "p4") for i in range(2)))
    touch(tmp_path, "data/a/own/0.png", "data/.store/p5/0.png", "data/a/.cache/p6/0.png")
    link(tmp_path / "data/a/p1", "../../disk/p1")
    link(tmp_path / "data/a/z", tmp_path / "disk/p2")
    link(tmp_path / "disk/p2/deeper", "../p3")
    link(tmp_path / "data/c", "../disk/c")
    link(tmp_path / "data/a/p5", "../.store/p5")
    link(tmp_path / "data/a/p6", ".cache/p6")
    index = load_index(str(tmp_path / "data"))
    patients = "a/own/0 a/p1/0 a/p1/1 a/p5/0 a/p6/0 a/z/0 a/z/1 a/z/deeper/0 a/z/deeper/1 c/0 c/1".split()
    assert index.paths == [f"{path}.png" for path in patients]
    assert index.classes == ["a", "c"] and all(file.is_file() for file in index.sources())
    assert "6 folders are links, followed: c, a/p1, a/p5 and 3 more" in index.notes


def test_links_of_split_folders_are_followed(tmp_path):
    touch(tmp_path, "disk/a/1.png", "disk/b/2.png", "data/train/a/3.png", "data/images/q/4.png")
    link(tmp_path / "data/test", "../disk")
    link(tmp_path / "data/train/b/q", "../../images/q")  # lies in the data folder, but is no class of it
    index = load_index(str(tmp_path / "data"))
    assert index.paths == ["test/a/1.png", "test/b/2.png", "train/a/3.png", "train/b/q/4.png"]
    assert index.official == ["test", "test", "train", "train"]
    assert "2 folders are links, followed: test, train/b/q" in index.notes


@pytest.mark.parametrize("to", [".", "..", "../..", "p1", "../a", "../../data/a/p1"])
def test_loops_and_links_to_what_is_read_anyway_are_not_followed(tmp_path, to):
    """To itself, the class, the data, a neighbour: every image is read once, under its own name, and the link
    named."""
    touch(tmp_path, "data/a/p1/1.png", "data/a/p2/2.png", "data/b/3.png")
    link(tmp_path / "data/a/again", to)
    if to != "p1":
        link(tmp_path / "data/a/p1/again", "..")
    index = load_index(str(tmp_path / "data"))
    assert index.paths == ["a/p1/1.png", "a/p2/2.png", "b/3.png"]
    notes = [note for note in index.notes if "not followed" in note]
    count, names = (1, "a/again") if to == "p1" else (2, "a/again, a/p1/again")
    assert notes == [f"{count} links lead to folders that are read without them, not followed: {names}"]


def test_links_from_a_linked_folder_to_what_holds_it_or_the_data_are_not_followed(tmp_path):
    """Else the other patients of the disk, and the other class, would come along as this class; a class is no
    loop."""
    touch(tmp_path, "disk/p1/1.png", "disk/other/9.png", "data/a/0.png", "data/b/2.png")
    link(tmp_path / "data/a/p1", "../../disk/p1")
    link(tmp_path / "disk/p1/up", "..")
    link(tmp_path / "disk/p1/data", "../../data")
    link(tmp_path / "data/loop", ".")
    index = load_index(str(tmp_path / "data"))
    assert index.paths == ["a/0.png", "a/p1/1.png", "b/2.png"] and index.classes == ["a", "b"]
    names = "loop, a/p1/up, a/p1/data"
    assert f"3 links lead to folders that are read without them, not followed: {names}" in index.notes


def test_one_folder_under_two_links_of_a_class_is_read_once(tmp_path):
    touch(tmp_path, "disk/p1/1.png", "data/a/0.png", "data/b/2.png")
    link(tmp_path / "data/a/x", "../../disk/p1")
    link(tmp_path / "data/a/y", "../../disk")  # holds it
    link(tmp_path / "disk/back", "../data/a")
    index = load_index(str(tmp_path / "data"))
    assert index.paths == ["a/0.png", "a/x/1.png", "b/2.png"]


@pytest.mark.parametrize("second", ["data/val", "data/train/b"])
def test_a_class_or_split_that_is_a_link_to_another_is_refused(tmp_path, second):
    touch(tmp_path, *(f"data/{side}/{c}/{side}.png" for side in ("train", "test") for c in "ac"))
    link(tmp_path / second, "test" if second == "data/val" else "a")
    same = "test/a = val/a, test/c = val/c" if second == "data/val" else "train/a = train/b"
    text = error(load_index, str(tmp_path / "data"))
    assert f"folders are read twice through a link, remove the link: {same}" in text


def test_links_that_lead_nowhere_are_refused_all_at_once(tmp_path):
    """A patient, a class, a split's class, a link to itself; images that are such links are the decoder's to
    list."""
    touch(tmp_path, "own/a/1.png", "own/b/2.png", "split/train/a/1.png", "split/test/a/2.png")
    link(tmp_path / "own/a/p7", "../../disk/p7")
    link(tmp_path / "own/c", "../disk/c")
    link(tmp_path / "own/b/me", "me")
    link(tmp_path / "own/b/x.png", "gone.png")
    link(tmp_path / "split/test/b", "../disk/b")
    text = error(load_index, str(tmp_path / "own"))
    own = tmp_path / "own"
    what = "folders or links cannot be read, fix or remove them"
    assert text.startswith(f"{own}: 3 {what}: {own}/c (a link that leads ")
    assert f"{own}/a/p7 (a link that leads nowhere), {own}/b/me (Too many levels of symbolic links)" in text
    text = error(load_index, str(tmp_path / "split"))
    assert f"1 {what}: {tmp_path}/split/test/b (a link that" in text
    for name in ("a/p7", "c", "b/me"):
        (own / name).unlink()
    assert load_index(str(own)).paths == ["a/1.png", "b/2.png", "b/x.png"]


def forbid(monkeypatch, *folders: Path) -> None:
    """These cannot be listed, as for a user without the right to; root may list all."""
    scandir = os.scandir

    def refused(at="."):
        if Path(os.fspath(at)) in folders:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(at))
        return scandir(at)

    monkeypatch.setattr(os, "scandir", refused)


@pytest.mark.parametrize("names", [["a/p1"], ["a"], ["b/q/deep", "a/p1"], ["."]])
def test_folders_that_cannot_be_read_are_refused_by_path(tmp_path, monkeypatch, names):
    touch(tmp_path, "a/0.png", "a/p1/1.png", "b/2.png", "b/q/deep/3.png")
    closed = [tmp_path / name for name in names]
    forbid(monkeypatch, *closed)
    text = error(load_index, str(tmp_path))
    assert text.startswith(f"{tmp_path}: {len(names)} folders or links cannot be read")
    assert all(f"{at} (Permission denied)" in text for at in closed)


def test_images_of_a_csv_in_a_folder_that_cannot_be_read_are_not_called_missing(tmp_path, monkeypatch):
    touch(tmp_path, *(f"img/{i}.png" for i in range(4)))
    forbid(monkeypatch, tmp_path / "img")
    monkeypatch.setattr(os.path, "isfile", lambda file: False if "img" in str(file) else Path(file).is_file())
    for rows in (1, 4):
        text = "path,label\n" + "".join(f"img/{i}.png,{'ab'[i % 2]}\n" for i in range(rows))
        (tmp_path / "x.csv").write_text(text)
        text = error(load_index, str(tmp_path / "x.csv"))
        assert text == f"{tmp_path}/img: Permission denied; this folder must be readable"


MASKS = [
    ("s1.png", "s1_mask.png"),
    ("benign (1).png", "benign (1)_mask_1.png"),
    ("S1.jpg", "s1-MASK.PNG"),
    ("s1.tif", "s1_Segmentation.bmp"),
    ("ISIC_01.jpg", "ISIC_01_superpixels.png"),
    ("s1.png", "s1 masks (2).png"),
    ("s1.png", "mask_s1.png"),
    ("s1.png", "s1_seg.png"),
    ("a.b.png", "a.b.gt.png"),
    ("s1_mask.png", "s1_mask_seg.png"),
]


@pytest.mark.parametrize("image, mask", MASKS)
def test_a_mask_beside_its_image_is_left_out_and_counted(tmp_path, image, mask):
    touch(tmp_path, f"a/p/{image}", f"a/p/{mask}", "b/2.png")
    index = load_index(str(tmp_path))
    assert index.paths == [f"a/p/{image}", "b/2.png"]
    assert f"1 masks beside their images, left out (--keep-masks keeps them): a/p/{mask}" in index.notes
    kept = load_index(str(tmp_path), None, Options(keep_masks=True))
    assert sorted(kept.paths) == sorted([f"a/p/{image}", f"a/p/{mask}", "b/2.png"])
    assert not any("masks" in note for note in kept.notes)


NO_MASKS = [
    ["with_mask.png", "without_mask.png", "with_mask_1.png", "mask_2.png"],  # faces
    ["p1/s1.png", "p2/s1_mask.png"],  # beside means in the same folder
    ["s1.png", "s1mask.png", "s1_unmasked.png", "s1_2.png", "s10_mask.png", "s1_segment.png", "s1_seg_2.png"],
    ["s1_mask.png", "s1_mask_1.png"],
]


@pytest.mark.parametrize("names", NO_MASKS)
def test_a_name_alone_makes_no_mask(tmp_path, names):
    touch(tmp_path, *(f"a/{name}" for name in names), "b/2.png")
    index = load_index(str(tmp_path))
    assert sorted(index.paths) == sorted([*(f"a/{name}" for name in names), "b/2.png"])
    assert not any("masks" in note for note in index.notes)


def test_masks_are_left_out_of_every_split_and_a_csv_is_taken_at_its_word(tmp_path):
    classes = [f"{split}/{c}" for split in ("train", "test") for c in "ab"]
    touch(tmp_path, *(f"{place}/1{mask}.png" for place in classes for mask in ("", "_mask", "_mask_1")))
    index = load_index(str(tmp_path))
    assert index.paths == ["test/a/1.png", "test/b/1.png", "train/a/1.png", "train/b/1.png"]
    assert any(note.startswith("8 masks beside their images") for note in index.notes)
    (tmp_path / "x.csv").write_text("path,label\ntrain/a/1.png,a\ntrain/a/1_mask.png,b\n")
    assert load_index(str(tmp_path / "x.csv")).paths == ["train/a/1.png", "train/a/1_mask.png"]
    text = error(load_index, str(tmp_path / "x.csv"), None, Options(keep_masks=True))
    assert text == f"--keep-masks is for a folder and t1w, not {tmp_path}/x.csv"


def test_what_is_no_image_is_named(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png", "train.png", "c.png")
    touch(tmp_path, "a/r.txt", "a/s.txt", "b/Thumbs.db", "b/README", text="x")
    notes = load_index(str(tmp_path)).notes
    assert "not images, left out: 2 .txt, 1 README, 1 .db" in notes
    assert "2 images lie in no class folder, left out: c.png, train.png" in notes


def test_folders_beside_the_splits_are_named(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "masks/a/4.png", "train/loose.png")
    index = load_index(str(tmp_path))
    assert index.paths == ["test/a/3.png", "train/a/1.png", "train/b/2.png"]
    assert "1 images left out, beside the splits' folders: masks" in index.notes
    assert "1 images lie in no class folder, left out: loose.png" in index.notes


def test_folders_that_cannot_be_read_as_classes(tmp_path):
    for name in ("none", "loose", "hollow", "splits"):
        (tmp_path / name).mkdir()
    touch(tmp_path, "loose/1.png", "loose/2.png", "hollow/a/1.png", "splits/train/1.png")
    touch(tmp_path, "hollow/b/notes.txt", "none/c.txt", text="x")
    assert "there is no image in it; expected none/<class>/*.png" in error(load_index, str(tmp_path / "none"))
    assert "2 images lie in it, but in no class folder" in error(load_index, str(tmp_path / "loose"))
    hollow = error(load_index, str(tmp_path / "hollow"))
    assert hollow == f"{tmp_path}/hollow: 1 class folders without images: b (no images); fill or remove them"
    assert "1 images lie in it, but in no class folder" in error(load_index, str(tmp_path / "splits"))
    named = ", ".join([*datasets.DATASETS, *datasets.DEMOS])
    assert error(load_index, str(tmp_path / "absent")).endswith(f"the datasets are {named}")
    touch(tmp_path, "x.zip", text="x")
    assert "give a folder of class folders, a .csv or an .npz" in error(load_index, str(tmp_path / "x.zip"))


def test_a_class_that_is_named_like_a_split(tmp_path):
    touch(tmp_path, "lab/test/1.png", "lab/benign/2.png", "lab/malignant/3.png")
    expected = "expected lab/<class>/*.png or lab/train/<class>/*.png"
    hint = "test/ was read as the folder of a split and the 2 beside it left out: rename it if it is a class"
    assert error(load_index, str(tmp_path / "lab")).endswith(f"{expected}; {hint}")


# ---- which folders are the classes ----


def read_folders(root: Path, *names: str, **options) -> tuple[Index, dict[str, str]]:
    """(the index of these images, path -> label)"""
    touch(root, *names)
    index = load_index(str(root), None, Options(**options))
    return index, labels_by_path(index)


def test_splits_within_the_classes_are_the_splits(tmp_path):
    names = [f"{c}/{side}/{c}{i}.png" for c in ("mal", "ben") for i, side in enumerate(("train", "Valid", "TEST"))]
    index, label_of = read_folders(tmp_path, *names, "mal/test/p1/deep.png")
    assert index.classes == ["ben", "mal"] and label_of["mal/test/p1/deep.png"] == "mal"
    assert all(label == path.split("/")[0] for path, label in label_of.items())
    side_of = dict(zip(index.paths, index.official, strict=True))
    assert [side_of[name] for name in names] == ["train", "val", "test"] * 2
    assert "the splits are the folders TEST, Valid, test and 1 more in each class" in index.notes


def test_a_split_in_one_class_alone_is_no_split_and_said(tmp_path):
    index, label_of = read_folders(tmp_path, "a/train/1.png", "a/test/2.png", "b/3.png")
    assert index.official == ["", "", ""] and set(label_of.values()) == {"a", "b"}
    what = "folders within classes are named like splits and were not read as such: a/test, a/train"
    assert what in index.warnings


def test_folders_that_are_folds_are_official_folds(tmp_path):
    names = [f"fold_{k}/{c}/{c}{k}.png" for k in (1, 2, 10) for c in "ab"]
    index, label_of = read_folders(tmp_path, *names)
    assert index.classes == ["a", "b"] and index.official == [""] * 6
    assert label_of == {name: name.split("/")[1] for name in names}
    tested = [[p for p, side in zip(index.paths, fold, strict=True) if side == "test"] for fold in index.official_folds]
    assert tested == [names[:2], names[2:4], names[4:]]
    assert "3 folders are folds: --folds 3 uses them" in index.notes


def test_given_folds_are_the_folds_of_a_cross_validation(tmp_path):
    index, _ = read_folders(tmp_path, *(f"Fold{k}/{c}/{i}.png" for k in range(3) for c in "ab" for i in range(6)))
    for k, split in enumerate(make_splits(index, folds=3)):
        assert {p.split("/")[0] for p in np.array(index.paths)[split == "test"]} == {f"Fold{k}"}
    assert "has 3 official folds, not 5" in error(make_splits, index, folds=5)
    touch(tmp_path, *(f"whole/fold{k}/{side}/a/1.png" for k in (1, 2) for side in ("train", "test")))
    text = error(load_index, str(tmp_path / "whole"))
    way_out = f"give one of them: --data {tmp_path}/whole/fold1"
    assert text == f"{tmp_path}/whole: folds with train/ and test/ of their own: fold1, fold2; {way_out}"


@pytest.mark.parametrize(
    "names, classes",
    [
        (
            "lung/lung_n lung/lung_aca lung_x/lung_scc colon/colon_n".split(),
            ["colon_n", "lung_aca", "lung_n", "lung_scc"],
        ),
        ("kidney/normal kidney/stone liver/normal liver/mass".split(), ["mass", "normal", "stone"]),
        ("siteA/benign siteA/malignant siteB/benign".split(), ["benign", "malignant"]),
    ],
)
def test_classes_below_organs_or_sites_are_read(tmp_path, names, classes):
    images = [f"{name}/{i}.png" for name in names for i in range(2)]
    index, label_of = read_folders(tmp_path / "own", *images)
    assert index.classes == classes and label_of == {image: image.split("/")[1] for image in images}
    above = sorted({name.split("/")[0] for name in names})
    shown = ", ".join(above)
    assert any(f"not those above them ({shown}); --class-level 1 takes those" in text for text in index.warnings)
    index, label_of = read_folders(tmp_path / "own", class_level=1)
    assert index.classes == above and label_of == {image: image.split("/")[0] for image in images}
    split = [f"{side}/{image}" for side in ("train", "test") for image in images]
    index, label_of = read_folders(tmp_path / "split", *split)
    assert index.classes == classes and label_of == {image: image.split("/")[2] for image in split}
    assert Counter(index.official) == {"train": len(images), "test": len(images)}


UNSURE = [  # folders that may be patients, views, or kinds of the class above
    "benign/p01 benign/p02 malignant/p03",
    "benign/left benign/right malignant/left malignant/right",
    "benign/adenosis benign/fibroadenoma malignant/ductal",
    "mel/mel_1 mel/mel_2 nv/nv_1",
    "benign/tumor_side malignant/tumor_side",
]


@pytest.mark.parametrize("names", UNSURE)
def test_where_it_is_not_sure_the_upper_level_is_taken_and_the_other_named(tmp_path, names):
    images = [f"{name}/{i}.png" for name in names.split() for i in range(2)]
    index, label_of = read_folders(tmp_path, *images)
    assert label_of == {image: image.split("/")[0] for image in images}
    (warning,) = index.warnings
    assert warning.startswith(f"{len(images)} images lie deeper than their class folder, as in ")
    assert "if those folders are patients, name them with --group-regex" in warning
    assert warning.endswith("; if they are the classes, give --class-level 2")
    index, label_of = read_folders(tmp_path, class_level=2)
    assert label_of == {image: image.split("/")[1] for image in images} and index.warnings == []
    quiet = load_index(str(tmp_path), None, Options(group_regex="([^/]+)/[^/]+$"))
    assert not any("deeper" in text for text in quiet.warnings) and set(quiet.groups) == {
        n.split("/")[1] for n in names.split()
    }


def test_images_above_a_deeper_level_are_counted_and_one_that_is_not_there_is_refused(tmp_path):
    index, label_of = read_folders(tmp_path, "o/a/1.png", "o/b/2.png", "o/loose.png", "q/a/3.png", class_level=2)
    assert label_of == {"o/a/1.png": "a", "o/b/2.png": "b", "q/a/3.png": "a"}
    assert "1 images lie in no class folder, left out: loose.png" in index.notes
    message = error(load_index, str(tmp_path), None, Options(class_level=3))
    assert "4 images lie in it, but in no class folder" in message


def test_a_single_folder_is_opened_only_where_it_is_no_class(tmp_path):
    """images/, or what an archive wraps its train/ and test/ in; a class with patients is none of them."""
    index, label_of = read_folders(tmp_path / "a", "images/x/1.png", "images/y/2.png", "masks/x/1.png", "masks/y/2.png")
    assert label_of == {"images/x/1.png": "x", "images/y/2.png": "y"}
    masks = "2 masks beside their images, left out (--keep-masks keeps them): masks/x/1.png, masks/y/2.png"
    assert masks in index.notes
    kept, label_of = read_folders(tmp_path / "a", keep_masks=True)
    assert kept.classes == ["images", "masks"] and len(kept) == 4
    wrapped = [f"set/{side}/{c}/1.png" for side in ("train", "test") for c in "xy"]
    index, label_of = read_folders(tmp_path / "b", *wrapped)
    assert label_of == {name: name.split("/")[2] for name in wrapped}
    assert sorted(index.official) == ["test", "test", "train", "train"]
    parts = [f"{side}/{kind}/{c}/1.png" for side in ("train", "test") for kind in ("imgs", "gt") for c in "xy"]
    index, label_of = read_folders(tmp_path / "c", *parts)
    assert label_of == {name: name.split("/")[2] for name in parts if "imgs" in name}
    touch(tmp_path / "d", "melanoma/p1/1.png", "melanoma/p2/2.png")
    only = "melanoma is the only folder in it, with p1, p2; if those are the classes, give --class-level 2"
    assert error(load_index, str(tmp_path / "d")) == f"{tmp_path}/d: {only}"


MASK_FOLDERS = [
    (["images/1.png", "images/2.png"], ["masks/1.png", "masks/2.png"]),
    (["Images/p1/1.png"], ["lesion_masks/p1/1.png", "Labels/p1/9.png"]),
    (["1.png", "p/2.png"], ["masks/1.png", "p/mask/2_mask.png"]),
]


@pytest.mark.parametrize("images, masks", MASK_FOLDERS)
def test_folders_of_masks_beside_the_images_of_a_class_are_left_out(tmp_path, images, masks):
    own = [f"{c}/{image}" for c in "ab" for image in images]
    index, _ = read_folders(tmp_path, *own, *(f"{c}/{mask}" for c in "ab" for mask in masks))
    assert sorted(index.paths) == sorted(own)
    assert any(note.startswith(f"{2 * len(masks)} masks beside their images") for note in index.notes)
    assert sum("deeper" in text for text in index.warnings) == ("p/2.png" in images or "p1" in images[0])
    kept, _ = read_folders(tmp_path, keep_masks=True)
    assert len(kept) == 2 * (len(images) + len(masks))


def test_a_folder_called_masks_alone_is_none(tmp_path):
    names = ["mask/1.png", "no_mask/2.png", "mask/labels/3.png"]  # faces
    index, _ = read_folders(tmp_path, *names)
    assert sorted(index.paths) == sorted(names) and index.classes == ["mask", "no_mask"]


# ---- names of files ----


def test_every_ending_of_an_image_is_read(tmp_path):
    names = ["a.jfif", "b.JPG", "c.Jpeg", "d.jpe", "e.TIF", "f.PNG", "g.WebP", "h.bmp"]
    index, _ = read_folders(tmp_path, *(f"x/{name}" for name in names), "y/1.png")
    assert sorted(index.paths) == sorted([*(f"x/{name}" for name in names), "y/1.png"])
    assert index.notes == ["image-level split: no groups are given (patients, videos)"]


UNREAD = {
    "DICOM": "s.dcm s.DICOM s.IMA",
    "GIF": "s.gif",
    "NIfTI": "s.nii t.nii.gz",
    "whole slide": "s.svs",
    "array": "s.npy",
}
TO_PNG = "export them as PNG or JPEG, an image a file"


@pytest.mark.parametrize("kind", UNREAD)
def test_images_that_are_not_read_are_named_as_what_they_are(tmp_path, kind):
    names = UNREAD[kind].split()
    touch(tmp_path, *(f"{c}/{name}" for c in "ab" for name in names), text="x")
    many = f"a ({len(names)} {kind}), b ({len(names)} {kind})"
    message = f"2 class folders without images: {many}; {TO_PNG}; or remove the folders"
    assert error(load_index, str(tmp_path)) == f"{tmp_path}: {message}"
    touch(tmp_path, "a/1.png", "b/2.png")
    touch(tmp_path, "a/notes.txt", text="x")
    index = load_index(str(tmp_path))
    assert index.warnings == [f"left out, in forms that are not read: {2 * len(names)} {kind}; {TO_PNG}"]
    assert "not images, left out: 1 .txt" in index.notes


def test_images_without_an_ending_are_known_by_their_first_bytes(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png", "b/scan", "b/1.2.840.7")
    (tmp_path / "a/IM0001").write_bytes(bytes(128) + b"DICM" + bytes(9))
    touch(tmp_path, "a/README", "a/short.77", text="x")
    os.mkfifo(tmp_path / "a/pipe")  # is not opened
    index = load_index(str(tmp_path))
    what = "2 PNG without ending, 1 DICOM without ending"
    assert index.warnings == [f"left out, in forms that are not read: {what}; {TO_PNG}"]
    assert "not images, left out: 1 README, 1 pipe, 1 .77" in index.notes


def test_a_folder_of_dicom_alone_without_classes(tmp_path):
    touch(tmp_path, "1.dcm", "2.dcm", text="x")
    message = error(load_index, str(tmp_path))
    assert f"there is no image in it, but 2 DICOM ({TO_PNG}); expected" in message


USELESS_TO_A_FOLDER = [
    ({"group_col": "p"}, "--group-col is for a CSV, not {}; name the groups of a folder with --group-regex"),
    ({"split_col": "side"}, "--split-col is for a CSV, not {}"),
    ({"label_col": ("grade",)}, "--label-col is for a CSV, not {}"),
    ({"path_col": "file"}, "--path-col is for a CSV, not {}"),
    ({"fold": 2}, "--fold is for t1w and cholect50, not {}"),
    ({"uncertain": "ones"}, "--uncertain is for chexpert, not {}"),
    ({"region": "hand"}, "--region is for mura, not {}"),
]


@pytest.mark.parametrize("options, text", USELESS_TO_A_FOLDER)
def test_options_that_a_folder_has_no_use_for(tmp_path, options, text):
    touch(tmp_path, "a/1.png", "b/2.png")
    assert error(load_index, str(tmp_path), None, Options(**options)) == text.format(tmp_path)


def test_options_that_other_data_has_no_use_for(tmp_path):
    label = np.arange(2)
    file = save_npz(tmp_path, train_images=np.stack(grey(2)), train_labels=label)
    text = "--group-regex is for a folder, a CSV and t1w, not "
    assert error(load_index, file, None, Options(group_regex=".")) == text + file
    assert error(load_index, "demo-tiny", None, Options(group_regex=".")) == text + "demo-tiny"
    assert "--group-col is for a CSV, not " in error(load_index, file, None, Options(group_col="p"))
    touch(tmp_path, "1.png")
    assert "--views is for chexpert, not " in error(csv_index, tmp_path, "path,label\n1.png,a\n", views="all")


def test_names_that_are_no_text(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    try:
        (tmp_path / "a" / "m\udcfcller.png").write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    text = error(load_index, str(tmp_path))
    assert text == f"{tmp_path}: 1 names are not valid UTF-8: 'a/m\\udcfcller.png'"


def test_one_class_is_no_task(tmp_path):
    touch(tmp_path, *(f"images/{i}.png" for i in range(9)))
    index = load_index(str(tmp_path))
    assert "images is the only class" in error(make_splits, index)


def test_a_folder_may_begin_with_demo(tmp_path, monkeypatch):
    touch(tmp_path, "demographics/a/1.png", "demographics/b/2.png", "demo/a/1.png")
    monkeypatch.chdir(tmp_path)
    assert load_index("demographics").classes == ["a", "b"]
    assert load_index("demo").group_kind == "patient"  # the name of a dataset comes before a folder's
    assert "demo-sorce" in error(load_index, "demo-sorce")


# ---- groups ----


def test_a_regular_expression_that_tries_for_ever_is_refused(monkeypatch):
    monkeypatch.setattr(datasets, "REGEX_SECONDS", 0.3)
    names = ["ok1_x.png", "a" * 60 + "!.png"]
    with pytest.raises(datasets.DataError, match=r"tries too many ways on 'aaaa.*!.png': no \+ or \* within another"):
        datasets.groups_by_regex(names, "^(o|(a+)+)(k1_x)?\\.png$|^((a+)+)$")
    assert datasets.groups_by_regex(names, "^([a-z]+)")[0] == ["ok", "a" * 60]
    time.sleep(0.4)  # the timer is off


def test_group_regex_on_file_names(tmp_path):
    touch(tmp_path, "a/00012229_003.png", "a/00012229_004.png", "b/12229_1.png", "7_b/7_1.png")
    index = load_index(str(tmp_path), options=Options(group_regex=r"^(\d+)_"))
    assert groups_by_path(index) == {
        "a/00012229_003.png": "00012229",
        "a/00012229_004.png": "00012229",
        "b/12229_1.png": "00012229",  # the same number
        "7_b/7_1.png": "7",
    }
    assert index.group_kind == "group" and not any("image-level" in note for note in index.notes)


def test_group_regex_without_a_group_takes_the_whole_match(tmp_path):
    touch(tmp_path, "a/p1-x.png", "b/p2-y.png")
    assert load_index(str(tmp_path), options=Options(group_regex=r"p\d")).groups == ["p1", "p2"]


def test_group_regex_on_paths(tmp_path):
    touch(tmp_path, "a/pat1/x.png", "a/pat2/x.png", "b/pat1/y.png")
    index = load_index(str(tmp_path), options=Options(group_regex=r"([^/]+)/[^/]+$"))
    assert groups_by_path(index) == {"a/pat1/x.png": "pat1", "a/pat2/x.png": "pat2", "b/pat1/y.png": "pat1"}
    assert not any("lie deeper" in note for note in index.notes)


def test_group_regex_that_misses(tmp_path):
    touch(tmp_path, *(f"a/scan{i}.png" for i in range(4)), "b/12_1.png", "b/_1.png")
    message = error(load_index, str(tmp_path), options=Options(group_regex=r"^(\d+)_"))
    assert "does not match 5 of 6 names: a/scan0.png, a/scan1.png, a/scan2.png and 2 more" in message
    # a match that catches nothing would put all of them into one group
    assert "5 of 6 names" in error(load_index, str(tmp_path), options=Options(group_regex=r"^(\d*)"))
    assert "5 of 6 names" in error(load_index, str(tmp_path), options=Options(group_regex=r"^(\d+)?"))
    message = error(load_index, str(tmp_path), options=Options(group_regex=r"^(\d+"))
    assert r"'^(\\d+' is no regular expression" in message


# ---- one id, two spellings ----


def id_csv(folder: Path, ids: list[str], splits: list[str] = (), **options) -> Index:
    """The index of a CSV with the ids as its patients: an image each, two classes in turn."""
    names = [f"{i}.png" for i in range(len(ids))]
    rows = [[name, "xy"[i % 2], f'"{ids[i]}"', *splits[i : i + 1]] for i, name in enumerate(names)]
    header = ["path", "label", "patient", "split"][: len(rows[0])]
    text = "\n".join(map(",".join, [header, *rows]))
    return csv_index(folder, text, names, name="ids.csv", group_col="patient", **options)


ONE_ID = {  # spellings of one patient
    "zeros": ["0007", "7", "07"],
    "float": ["12", "12.0", "0012.00"],
    "nought": ["0", "000", "0.0"],
    "long": ["00120000000017", "120000000017.0"],
    "case": ["P03", "p03"],
    "sharp s": ["Weiß-1", "WEISS-1"],
    "no-break space": ["PT 03", "PT\xa003", "PT\u202f03", "pt03"],
    "blanks": ["P  4", "P 4", "P\t4"],
    "full width": ["\uff30\uff10\uff13", "P03"],
    "composed": ["M\u00fc-1", "Mu\u0308-1"],
    "no width": ["P5", "P\u200b5", "\ufeffP5"],
}
TWO_IDS = {  # different patients
    "UID, .0": ["1.2.840", "1.2.840.0"],
    "UID, zeros": ["1.2.840.10", "1.2.840.010", "1.2.840.10.0"],
    "zeros in a name": ["P03", "P3", "P003"],
    ".0 after a name": ["P3", "P3.0"],
    "fractions": ["3.1", "3.10", "3"],
    "digits apart": ["1 12", "11 2", "112"],
    "signs": ["-3", "3"],
    "hyphens": ["A-1", "A1", "A_1"],
}


@pytest.mark.parametrize("spelt", ONE_ID.values(), ids=ONE_ID)
def test_the_spellings_of_one_id_are_one_patient(tmp_path, spelt):
    index = id_csv(tmp_path, ["Q", *spelt, "0Q"])
    assert index.groups == ["Q"] + [spelt[0]] * len(spelt) + ["0Q"]  # the first one's
    shown = " = ".join(map(repr, spelt))
    what = f"1 patient ids have more than one spelling ({shown})"
    assert index.notes == [f"{what}: each counts as one patient; --exact-ids keeps them apart"]
    assert index.spellings() == {spelt[0]: spelt}
    apart = id_csv(tmp_path, ["Q", *spelt, "0Q"], exact_ids=True)
    assert apart.groups == ["Q", *spelt, "0Q"] and apart.spellings() == {}
    assert apart.notes == [f"{what}: each spelling is a patient of its own (--exact-ids)"]
    assert apart.fingerprint() != index.fingerprint()


@pytest.mark.parametrize("ids", TWO_IDS.values(), ids=TWO_IDS)
def test_ids_that_are_different_stay_so(tmp_path, ids):
    index = id_csv(tmp_path, ids)
    assert index.groups == ids and index.notes == [] and index.spelt is None


def test_an_id_is_changed_only_where_its_other_spelling_is_there(tmp_path):
    assert id_csv(tmp_path, ["007", "8.0", "p9", "P 10", "11"]).groups == ["007", "8.0", "p9", "P 10", "11"]


def test_the_count_of_joined_ids_and_three_of_them_are_said(tmp_path):
    ids = [form for i in range(1, 6) for form in (f"{i:03d}", str(i))]
    (note,) = id_csv(tmp_path, ids).notes
    what = "5 patient ids have more than one spelling ('001' = '1', '002' = '2', '003' = '3' and 2 more)"
    assert note == f"{what}: each counts as one patient; --exact-ids keeps them apart"


def test_no_true_patient_of_two_spellings_is_on_two_sides():
    """Twelve patients, each spelt in two ways, in forms drawn anew; the truth is the number beside them."""
    forms = [("{:d}", "{:d}.0"), ("p{:02d}", "P{:02d}"), ("{:04d}", "{:d}"), ("PT {:d}", "Pt\xa0{:d}")]
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = np.repeat(np.arange(1, 13), 4)
        pair = forms[seed % 4]
        ids = [pair[rng.integers(2)].format(patient) for patient in truth]
        index = by_hand(truth % 2, ids)
        joined = datasets.one_spelling(index, exact=False)
        assert len(set(joined.groups)) == 12
        split = make_splits(joined, seed=seed)[0]
        assert all(len(sides) == 1 for sides in sides_of(truth.tolist(), split).values())
        assert joined.keep([0, 5]).spelt == [ids[0], ids[5]]


def test_group_regex_joins_spellings(tmp_path):
    touch(tmp_path, "a/p03_1.png", "a/P03_2.png", "b/007_1.png", "b/7_1.png")
    index = load_index(str(tmp_path), options=Options(group_regex=r"^(\w+)_"))
    assert index.paths == ["a/P03_2.png", "a/p03_1.png", "b/007_1.png", "b/7_1.png"]
    assert index.groups == ["P03", "P03", "007", "007"]
    exact = load_index(str(tmp_path), options=Options(group_regex=r"^(\w+)_", exact_ids=True))
    assert exact.groups == ["P03", "p03", "007", "7"]


TEN = ["train"] * 6 + ["val"] * 2 + ["test"] * 2


def test_a_join_across_a_given_split_is_refused_with_both_ways_out(tmp_path):
    ids = ["3", "4", "5", "6", "P7", "8", "9", "p7", "3.0", "10"]
    torn = "ids: 2 patients are in two splits: 3 (test and train), P7 (train and val)"
    joined = "'3' in train = '3.0' in test, 'P7' in train = 'p7' in val"
    way_out = "give each patient one spelling and one split in the table or file names, or pass --exact-ids"
    text = error(make_splits, id_csv(tmp_path, ids, TEN))
    assert text.startswith(f"{torn}; 2 of them as two spellings of one id ({joined}): {way_out}")
    assert text.endswith(" if they are different patients")
    split = make_splits(id_csv(tmp_path, ids, TEN, exact_ids=True))[0]
    assert split.tolist() == TEN  # the given split, as it is
    torn = id_csv(tmp_path, ["3", "4", "4", "6", "7", "8", "9", "4.0", "4", "03"], TEN)
    message = error(make_splits, torn)  # 4 itself is torn, whatever 4.0 is
    assert "2 patients are in two splits: 3 (test and train), 4 (test and train and val); 1 of" in message
    assert "; 1 of them as two spellings of one id ('3' in train = '03' in test)" in message
    whole = error(make_splits, id_csv(tmp_path, ["3", "4", "5", "6", "7", "8", "9", "10", "3", "11"], TEN))
    assert whole.endswith("1 patients are in two splits: 3 (test and train)")  # no spelling is to blame


def test_a_join_across_train_and_test_folders_is_refused(tmp_path):
    touch(tmp_path, *(f"train/{c}/{c}{i}_1.png" for c in "ab" for i in range(9)))
    touch(tmp_path, "test/a/A0_1.png", "test/b/x_1.png")
    message = error(make_splits, load_index(str(tmp_path), options=Options(group_regex=r"^(\w+)_")))
    assert "1 groups are in two splits: A0 (test and train); 1 of them as two spellings of one id" in message
    assert "('A0' in test = 'a0' in train): give each group one spelling" in message
    assert "--exact-ids" in message
    exact = load_index(str(tmp_path), options=Options(group_regex=r"^(\w+)_", exact_ids=True))
    assert Counter(make_splits(exact)[0])["test"] == 2


def test_a_splits_file_that_keeps_two_spellings_apart_is_refused(tmp_path):
    """One that was written before ids were joined, say."""
    ids = ["1", "2", "3", "4", "5", "6", "6.0", "7", "1.0", "8"]
    exact = id_csv(tmp_path, ids, exact_ids=True)
    file = write_splits(tmp_path / "s.csv", exact, [np.array(TEN)])
    assert "6.png,6.0,x,val,0" in file.read_text().splitlines()
    assert read_splits(file, exact)[0].tolist() == TEN
    message = error(read_splits, file, id_csv(tmp_path, ids))
    assert "s.csv, fold 0: 2 patients are in two splits: 1 (test and train), 6 (train and val)" in message
    assert "('1' in train = '1.0' in test, '6' in train = '6.0' in val): give" in message
    assert "--exact-ids" in message
    sides = np.array(["test"] * 2 + ["train"] * 3 + ["val"] * 3 + ["test", "train"])
    joined = id_csv(tmp_path, ids)
    again = write_splits(tmp_path / "t.csv", joined, [sides])
    assert "6.png,6,x,val,0" in again.read_text().splitlines()  # files keep the first spelling
    assert read_splits(again, joined)[0].tolist() == sides.tolist()


@pytest.mark.parametrize("blank", ["nan", "NaN", "  nan ", "\xa0", "\u200b", ""])
@pytest.mark.parametrize("exact", [False, True])
def test_a_blank_id_is_no_patient(tmp_path, blank, exact):
    message = error(id_csv, tmp_path, ["1", blank, "2", blank, blank, blank], exact_ids=exact)
    what = "patient is blank (or nan) for 4 of 6 images: 1.png, 3.png, 4.png and 1 more"
    assert message.endswith(f"ids.csv: {what}; fill it in, or leave those images out")


def test_a_blank_id_in_file_names(tmp_path):
    touch(tmp_path, "a/nan_1.png", "a/p1_1.png", "b/NaN_2.png", "b/p2_1.png")
    message = error(load_index, str(tmp_path), options=Options(group_regex=r"^(\w+)_"))
    assert "group is blank (or nan) for 2 of 4 images: a/nan_1.png, b/NaN_2.png; fill it in" in message


ROUNDED = [
    (["1.2E+11", "7", "1.3e+11", "1.2E+11"], 2),  # of three different ids
    (["1,20E+11", "8"], 1),
    (["4E+12", "4.1E+12", "P1"], 2),
    (["12345678901234500", "98765432109876000", "5"], 2),  # 15 digits are left of 17
]


@pytest.mark.parametrize("ids, number", ROUNDED)
def test_ids_that_a_spreadsheet_rounded_get_a_warning(tmp_path, ids, number):
    index = id_csv(tmp_path, ids)
    (warning,) = index.warnings
    look = f"{number} of {len(set(ids))} patient ids look rounded by a spreadsheet ({ids[0]}"
    assert warning.startswith(look)
    assert "export the table again from its source, with that column as text" in warning
    assert index.groups == ids  # as they are
    assert warning in check_data(index)[2]


def test_ids_that_no_spreadsheet_rounded(tmp_path):
    longs = ["12345678901234500", "98765432109876123"]
    for ids in (["12e4", "7e10", "1e3"], longs, ["1.2.840.10008.1", "E+11"]):
        assert id_csv(tmp_path, ids).warnings == []


def test_an_id_that_stands_for_missing_gets_a_warning(tmp_path):
    ids = ["NA", "1", "NA", "None", "NA", "?"]  # None and ? once each: no two images are joined
    index = id_csv(tmp_path, ids)
    (warning,) = index.warnings
    assert warning == "patient 'NA' of 3 images looks like a missing value; they count as one patient"
    assert index.groups == ids


# ---- csv ----


def csv_index(folder: Path, text: str | bytes, images=(), name="data.csv", data_dir=None, **options) -> Index:
    touch(folder, *images)
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_index(str(file), data_dir, Options(**options))


ABC = ("a.png", "b.png", "sub/c.png")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_forms(tmp_path, separator, end, mark):
    rows = ["path label group", "a.png yes p1", "b.png no p2", "sub/c.png no p2"]
    text = mark + end.join(row.replace(" ", separator) for row in rows) + end
    index = csv_index(tmp_path, text, ABC)
    assert index.paths == list(ABC) and index.classes == ["no", "yes"] and index.labels.tolist() == [1, 0, 0]
    assert index.groups == ["p1", "p2", "p2"] and index.group_kind == "group"
    assert index.name == f"{tmp_path.name}-data" and index.sources()[2] == tmp_path / "sub/c.png"


def test_csv_quoted_fields_and_blank_lines(tmp_path):
    """A line ends at a line feed alone: U+2028 and form feeds occur in free text."""
    text = 'path,label,report\n"x, y.png","say ""hi""\nthere","two\n\nlines"\n\n'
    text += "  b.png , plain ,a\u2028b\x0cc\n,,\n"
    index = csv_index(tmp_path, text, ["x, y.png", "b.png"])
    assert labels_by_path(index) == {"x, y.png": 'say "hi"\nthere', "b.png": "plain"}


def test_csv_open_quote_does_not_swallow_rows(tmp_path):
    message = error(csv_index, tmp_path, 'path,label\na.png,"yes\nb.png,no\n', ABC)
    assert "data.csv: line 3: unexpected end of data" in message


def test_csv_ids_are_text(tmp_path):
    text = "path,label,group\na.png,NA,007\nb.png,1e3,8.0\nsub/c.png,NA,NA\n"
    index = csv_index(tmp_path, text, ABC)
    assert index.groups == ["007", "8.0", "NA"]
    assert labels_by_path(index) == {"a.png": "NA", "b.png": "1e3", "sub/c.png": "NA"}


def test_csv_other_column_names(tmp_path):
    rows = ["file;finding;patient;fold;group", "a.png;x;p1;Training;1", "b.png;y;p2;valid;2"]
    text = "\n".join([*rows, "sub/c.png;y;p3;TEST;3"])
    columns = {"path_col": "file", "label_col": ("finding",), "group_col": "patient", "split_col": "fold"}
    index = csv_index(tmp_path, text, ABC, **columns)
    assert index.groups == ["p1", "p2", "p3"] and index.group_kind == "patient"
    assert index.official == ["train", "val", "test"]


def test_csv_group_columns(tmp_path):
    text = "path,label,PatientID,group\np1_a.png,x,A,g\np2_b.png,y,B,h\n"
    images = ["p1_a.png", "p2_b.png"]
    assert csv_index(tmp_path, text, images).groups == ["g", "h"]
    asked_for = csv_index(tmp_path, text, images, group_regex="^(p.)_")
    assert asked_for.groups == ["p1", "p2"]
    both = error(csv_index, tmp_path, text, images, group_regex="^(p.)_", group_col="PatientID")
    assert "--group-col or --group-regex, not both" in both
    index = csv_index(tmp_path, text.replace("group", "ward"), images)
    assert (index.group_kind, index.groups) == ("PatientID", ["A", "B"])
    note = "groups are column PatientID, by its name: --group-col names another, --group-col path for none"
    assert index.notes == [note]
    index = csv_index(tmp_path, text.replace("group", "ward"), images, group_col="path")
    assert (index.group_kind, index.groups) == ("image", images)
    assert index.notes == ["image-level split: no groups are given (patients, videos)"]


def test_csv_blank_group(tmp_path):
    message = error(csv_index, tmp_path, "path,label,group\na.png,x,\nb.png,y,p\nsub/c.png,y,\n", ABC)
    what = "group is blank (or nan) for 2 of 3 images: a.png, sub/c.png"
    assert message.endswith(f"data.csv: {what}; fill it in, or leave those images out")


def test_csv_missing_columns_are_named_beside_those_there(tmp_path):
    text = "image,label,patient\nd.png,x,p\n"
    message = error(csv_index, tmp_path, text, ABC, group_col="pid", split_col="part")
    assert "no column path (--path-col), pid (--group-col), part (--split-col)" in message
    assert message.endswith("its columns are image, label, patient")
    message = error(csv_index, tmp_path, text, ABC, path_col="image", label_col=("label", "b"))
    assert "no column b (--label-col)" in message
    message = error(csv_index, tmp_path, "path,label,label\na.png,x,y\n", ABC)
    assert "data.csv: 1 columns are in the header more than once: label" in message


def test_csv_missing_images_are_counted(tmp_path):
    rows = "".join(f"no{i}.png,x\n" for i in range(5))
    message = error(csv_index, tmp_path, f"path,label\na.png,y\n{rows}sub,y\n", ABC)  # sub is a folder
    assert f"6 of 7 images are not below {tmp_path}: no0.png, no1.png, no2.png and 3 more" in message
    assert "--data-dir" in message


def test_csv_paths_stay_in_the_data_folder(tmp_path):
    inner = tmp_path / "in"
    touch(tmp_path, "out.png", "in/a.png", "in/sub/b.png", "in2/c.png")
    rows = ["../out.png", str(tmp_path / "out.png"), "sub/../../out.png", "../in2/c.png", "a.png"]
    message = error(csv_index, inner, "path,label\n" + "".join(f"{row},x\n" for row in rows))
    first = f"../out.png, {tmp_path}/out.png, sub/../../out.png"
    assert f"4 paths leave the data folder {inner}: {first} and 1 more" in message
    index = csv_index(inner, f"path,label\nsub/../a.png,x\n{inner.resolve()}/sub/b.png,y\n")
    assert index.paths == ["a.png", "sub/b.png"]


def test_csv_follows_links_that_lie_in_the_data_folder(tmp_path):
    """The CSV cannot leave the folder; who owns the folder can link images into it from another disk."""
    inner = tmp_path / "in"
    inner.mkdir()
    touch(tmp_path, "disk/a.png", "out.png")
    (inner / "images").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert csv_index(inner, "path,label\nimages/a.png,x\n").paths == ["images/a.png"]
    assert "1 of 1 images are not below" in error(csv_index, inner, "path,label\nimages/../out.png,x\n")


def test_csv_in_another_folder(tmp_path):
    touch(tmp_path, "pictures/a.png")
    index = csv_index(tmp_path, "path,label\na.png,x\n", data_dir=str(tmp_path / "pictures"))
    assert index.sources() == [tmp_path / "pictures/a.png"]
    (tmp_path / "in").mkdir()
    assert "1 of 1 images are not below" in error(csv_index, tmp_path / "in", "path,label\na.png,x\n")


def test_csv_images_listed_twice(tmp_path):
    text = "path,label\na.png,x\nb.png,y\n./a.png,x\nsub/../b.png,y\nsub/c.png,x\n"
    assert "2 images are listed more than once: a.png, b.png" in error(csv_index, tmp_path, text, ABC)


def test_csv_ragged_rows(tmp_path):
    text = "path,label\na.png,x\n\nb.png\nsub/c.png,x,y\n"
    assert "the header has 2 columns, but row 4 has 1, row 5 has 3" in error(csv_index, tmp_path, text, ABC)


def test_csv_without_rows(tmp_path):
    assert "no rows below the header" in error(csv_index, tmp_path, "path,label\n\n")
    for text in ("", "\ufeff", "\n\n"):
        assert "data.csv: empty" in error(csv_index, tmp_path, text)


def test_csv_not_utf8(tmp_path):
    message = error(csv_index, tmp_path, "path,label\nbär.png,x\n".encode("latin-1"))
    assert "data.csv: not UTF-8 (byte 12)" in message
    assert "not UTF-8" in error(csv_index, tmp_path, "path,label\na.png,x\n".encode("utf-16"))


def test_csv_blank_labels_and_columns_that_are_no_label(tmp_path):
    for blank in ("", "nan", "NaN"):
        text = f"path,label\na.png,x\n\nb.png,{blank}\nsub/c.png, {blank} \n"
        message = error(csv_index, tmp_path, text, ABC)
        what = "column label is blank (or nan) for 2 images: b.png, sub/c.png"
        assert message.endswith(f"data.csv: {what}; fill it in, or leave those images out")
    text = "path,label\na.png,NA\nb.png,None\nsub/c.png,null\n"
    assert csv_index(tmp_path, text, ABC).classes == ["NA", "None", "null"]
    names = [f"{i}.png" for i in range(21)]
    text = "path,label\n" + "".join(f"{name},{i}.5\n" for i, name in enumerate(names))
    message = error(csv_index, tmp_path, text, names)
    assert "column label has 21 different values in 21 rows; is it a label?" in message
    assert len(csv_index(tmp_path, text.replace("20.5", "19.5"), names).classes) == 20


def test_csv_several_labels_in_one_column(tmp_path):
    text = "path,label\na.png,flu | cold\nb.png,|\nsub/c.png,cold\nd.png,10|9|\n"
    index = csv_index(tmp_path, text, [*ABC, "d.png"])
    assert (index.task, index.classes) == ("multilabel", ["9", "10", "cold", "flu"])
    assert index.labels.dtype == np.float32 and index.warnings == []
    assert index.labels.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]]
    assert [index.label_text(i) for i in range(4)] == ["cold|flu", "", "cold", "9|10"]
    assert (index.metric, index.second) == ("auroc", "average_precision")


def test_csv_several_label_columns(tmp_path):
    text = "path,edema,mass\na.png,1,0\nb.png,,1.0\nsub/c.png,0.0,\n"
    index = csv_index(tmp_path, text, ABC, label_col=("mass", "edema"))
    assert (index.task, index.classes) == ("multilabel", ["mass", "edema"])
    np.testing.assert_array_equal(index.labels, np.array([[0, 1], [1, np.nan], [np.nan, 0]], np.float32))
    bad = "path,edema,mass\na.png,1,yes\n\nb.png,-1,1.0\nsub/c.png,2,NA\n"
    message = error(csv_index, tmp_path, bad, ABC, label_col=("mass", "edema"))
    first = "a.png, mass: 'yes', b.png, edema: '-1', sub/c.png, mass: 'NA'"
    assert f"label columns hold 0, 1 or nothing; 4 values are something else: {first} and 1 more" in message


def test_a_blank_cell_is_unknown_in_either_form_of_several_labels(tmp_path):
    """The same four images, once as a|b and once as 0/1 columns: the same labels, nan for the blank one."""
    images = [*ABC, "d.png"]
    for blank in ("", "nan"):
        one = csv_index(tmp_path, f"path,label\na.png,m|e\nb.png,{blank}\nsub/c.png,|\nd.png,e|\n", images)
        text = f"path,e,m\na.png,1,1\nb.png,{blank},{blank}\nsub/c.png,0,0\nd.png,1,0\n"
        other = csv_index(tmp_path, text, images, label_col=("e", "m"))
        assert (one.task, one.classes) == (other.task, other.classes) == ("multilabel", ["e", "m"])
        expected = [[1, 1], [np.nan, np.nan], [0, 0], [1, 0]]
        np.testing.assert_array_equal(one.labels, np.array(expected, np.float32))
        np.testing.assert_array_equal(other.labels, one.labels)
        many = "column label is blank for 1 images (b.png)"
        assert one.warnings == [f"{many}: unknown, masked out; one with none of the labels is written |"]


ONE_HOT = "path,MEL,NV,BCC,UNK\na.png,1.0,0,0,0\nb.png,0,0,1,0\nsub/c.png,0,1,0,0\nd.png,1,0,0,0\n"
HOT = ("MEL", "NV", "BCC", "UNK")


def test_columns_of_which_each_row_has_one_are_classes(tmp_path):
    index = csv_index(tmp_path, ONE_HOT, [*ABC, "d.png"], label_col=HOT)
    assert (index.task, index.classes) == ("multiclass", ["MEL", "NV", "BCC"])
    assert index.labels.tolist() == [0, 2, 1, 0] and index.labels.dtype == np.int64
    assert (index.metric, index.second) == ("balanced_accuracy", "accuracy")
    said = "each row of the 4 0/1 columns has a single 1: read as classes, of which an image has one"
    left = "without UNK, which no image has; --multilabel trains them as labels of their own"
    assert index.warnings == [f"{said}, {left}"]
    index = csv_index(tmp_path, ONE_HOT, label_col=HOT, multilabel=True)
    assert (index.task, index.classes, index.warnings) == ("multilabel", list(HOT), [])
    assert index.labels.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("row", ["1,0,1,0", "0,0,0,0", "1,,0,0", ",,,"])
def test_columns_of_which_one_row_has_not_one_are_labels(tmp_path, row):
    text = ONE_HOT.replace("d.png,1,0,0,0", f"d.png,{row}")
    index = csv_index(tmp_path, text, [*ABC, "d.png"], label_col=HOT)
    assert (index.task, index.classes, index.warnings) == ("multilabel", list(HOT), [])


SPELT_LABELS = [
    (["1", "1.0", "0", "0.0"], ["0", "1"], "'1' = '1.0', '0' = '0.0'"),
    (["01", "1", "2"], ["1", "2"], "'01' = '1'"),
    (["Benign", "benign", "mal"], ["Benign", "mal"], "'Benign' = 'benign'"),
    (["no tumor", "no\xa0tumor", "x"], ["no tumor", "x"], "'no tumor' = 'no\\xa0tumor'"),
    (["kyste e\u0301", "kyste \u00e9", "x"], ["kyste \u00e9", "x"], "'kyste e\u0301' = 'kyste \u00e9'"),
]


@pytest.mark.parametrize("texts, classes, shown", SPELT_LABELS)
def test_the_spellings_of_one_class_are_one_class(tmp_path, texts, classes, shown):
    """In a column, as parts of a|b, and as folders of train/ and test/; apart with --exact-labels, but for the form
    of accents."""
    names = [f"{i}.png" for i in range(len(texts))]
    what = f"{shown.count(' = ')} classes have more than one spelling ({shown}): each counts as one class"
    text = "path,label\n" + "".join(f"{name},{label}\n" for name, label in zip(names, texts, strict=True))
    index = csv_index(tmp_path, text, names)
    first = dict.fromkeys(datasets.id_key(text) for text in texts)
    assert index.classes == classes and len(first) == len(classes)
    assert [datasets.id_key(index.label_text(i)) for i in range(len(texts))] == list(map(datasets.id_key, texts))
    assert index.warnings == [f"{what}; --exact-labels keeps them apart"]
    sets = csv_index(tmp_path, text.replace("\n0.png,", "\n0.png,z|"), names)
    assert sets.classes == [*classes, "z"] and f"{what}; --exact-labels keeps them apart" in sets.warnings
    exact = csv_index(tmp_path, text, names, exact_labels=True)
    accents = "kyste" in texts[0]
    assert len(exact.classes) == (len(classes) if accents else len(texts))
    assert exact.warnings == ([what] if accents else [])
    touch(tmp_path, *(f"data/{'train' if i % 2 else 'test'}/{label}/{i}.png" for i, label in enumerate(texts)))
    index = load_index(str(tmp_path / "data"))
    assert index.classes == classes and len(index.warnings) == 1
    by_number = {int(Path(path).stem): index.label_text(i) for i, path in enumerate(index.paths)}
    assert [datasets.id_key(by_number[i]) for i in range(len(texts))] == list(map(datasets.id_key, texts))


def test_csv_split_values(tmp_path):
    text = "path,label,split\na.png,x,train\nb.png,x,dev\nsub/c.png,y,\n"
    message = error(csv_index, tmp_path, text, ABC)
    assert "column split must say train, val or test; 2 rows do not: b.png: 'dev', sub/c.png: ''" in message


def test_a_patient_in_two_official_splits_is_an_error(tmp_path):
    patients = "p1 p1 p2 p2 p3 p3 p4 p4 p5".split()
    sides = "train test val train test val train test train".split()
    index = id_csv(tmp_path, patients, sides)
    first = "p1 (test and train), p2 (train and val), p3 (test and val)"
    assert f"4 patients are in two splits: {first} and 1 more" in error(make_splits, index)


def test_a_sep_line_of_excel_says_the_separator(tmp_path):
    for line, mark in (("sep=;", ";"), ("SEP=;", ";"), ('"sep=|"', "|"), ("sep=,", ","), ("sep=\t", "\t")):
        for end in ("\n", "\r\n"):
            rows = [line, mark.join(("path", "label")), mark.join(("a.png", "1;x")), mark.join(("b.png", "2"))]
            rows[2] = rows[2].replace("1;x", "1" if mark == ";" else "1;x")
            index = csv_index(tmp_path, "\ufeff" + end.join(rows) + end, ABC)
            assert labels_by_path(index) == {"a.png": "1" if mark == ";" else "1;x", "b.png": "2"}
    message = error(csv_index, tmp_path, 'sep=;\npath;label\na.png;"x\n', ABC)
    assert "data.csv: line 3: unexpected end of data" in message
    assert "data.csv: empty" in error(csv_index, tmp_path, "sep=;\n")


def found_by_name(folder: Path, paths: list[str], images: list[str]) -> Index:
    text = "path,label\n" + "".join(f"{path},{'xy'[i % 2]}\n" for i, path in enumerate(paths))
    return csv_index(folder, text, images)


FOUND = [  # in the table, on the disk
    (r"img\a.png", "img/a.png"),
    (r".\img\sub\a.png", "img/sub/a.png"),
    ("a", "a.jpg"),
    ("a", "img/sub/a.JPG"),
    ("img/a", "img/a.png"),
    ("img/a.png", "part_1/img/a.png"),
    ("A.PNG", "img/a.png"),
    ("1.2.840.1", "img/1.2.840.1.png"),
    ("mu\u0308.png", "m\u00fc.png"),
    ("m\u00fc", "x/mu\u0308.jpg"),
]


@pytest.mark.parametrize("path, image", FOUND)
def test_a_path_that_means_one_image_is_that_image(tmp_path, path, image):
    other = "other/b.png"
    index = found_by_name(tmp_path, [path, other], [image, other, "other/aa.png", "img/ba.png"])
    assert index.paths == [image, other] and labels_by_path(index)[image] == "x"
    note = f"1 paths are no file as they stand there and were found by name: {path.removeprefix('./')} = {image}"
    assert note in index.notes


def test_an_image_in_the_very_folder_comes_before_one_deeper(tmp_path):
    index = found_by_name(tmp_path, ["img/a", "b"], ["img/a.png", "old/img/a.png", "b.jpg", "img/b.jpg"])
    assert index.paths == ["img/a.png", "b.jpg"]


def test_paths_that_may_mean_two_images_or_another_are_refused_all_at_once(tmp_path):
    """Two folders, two endings; another ending or folder than what is there is a hint, no reading."""
    images = ["p/a.png", "q/a.png", "b.png", "b.jpg", "c.jpg", "img/d.png"]
    message = error(found_by_name, tmp_path, ["a", "b", "c.png", "x/d.png", "e"], images)
    first = "a (p/a.png and q/a.png is there), b (b.jpg and b.png is there), c.png (c.jpg is there)"
    assert f"5 of 5 images are not below {tmp_path}: {first} and 2 more; the folder is" in message
    message = error(found_by_name, tmp_path, ["x/d.png", "e", r"..\out.png", r"C:\img\d.png"], [*images, "out.png"])
    shown = r"x/d.png (img/d.png is there), e, ..\out.png (out.png is there) and 1 more"
    assert f"4 of 4 images are not below {tmp_path}: {shown}" in message


def test_two_rows_that_mean_one_image_are_refused(tmp_path):
    message = error(found_by_name, tmp_path, ["a.png", "A"], ["a.png"])
    assert "1 images are listed more than once: a.png" in message


GROUP_NAMES = (
    "patient PatientID patient_id Patient-No subject_id video case StudyInstanceUID anon_patient_id lesion_id MRN"
)


@pytest.mark.parametrize("name", [*GROUP_NAMES.split(), "Patient ID"])
def test_a_column_that_looks_like_a_group_is_used(tmp_path, name):
    index = csv_index(tmp_path, f"path,label,{name}\na.png,x,7\nb.png,y,8\nsub/c.png,x,7\n", ABC)
    assert (index.group_kind, index.groups) == (name, ["7", "8", "7"])
    assert index.notes == [
        f"groups are column {name}, by its name: --group-col names another, --group-col path for none"
    ]
    exact = csv_index(tmp_path, f"path,label,{name}\na.png,x,7\nb.png,y,8\nsub/c.png,x,7\n", group_col=name)
    assert exact.groups == index.groups and exact.notes == []


@pytest.mark.parametrize(
    "name", ["patient_age", "showcase", "patients_sex", "study_year", "videos_seen", "ward", "grouped"]
)
def test_a_column_that_only_contains_such_a_word_is_no_group(tmp_path, name):
    index = csv_index(tmp_path, f"path,label,{name}\na.png,x,7\nb.png,y,8\nsub/c.png,x,7\n", ABC)
    assert index.group_kind == "image"


def test_several_columns_that_look_like_groups_are_refused(tmp_path):
    text = "path,label,patient_id,study\na.png,x,1,1\nb.png,y,1,2\n"
    message = error(csv_index, tmp_path, text, ABC)
    what = "columns patient_id, study look like groups that must not be split: name one with --group-col"
    assert message.endswith(f"data.csv: {what}, the patient where there is one (--group-col path for none)")
    assert csv_index(tmp_path, text, group_col="patient_id").groups == ["1", "1"]
    assert csv_index(tmp_path, text, group_regex="^(.)").group_kind == "group"
    # what has another part is no group
    index = csv_index(tmp_path, text, label_col=("study",))
    assert index.groups == ["1", "1"] and index.classes == ["1", "2"]


def test_a_group_with_over_half_of_the_images_gets_a_warning(tmp_path):
    index = id_csv(tmp_path, ["p1"] * 4 + ["p2", "p3", "p4"])
    whole = "patient 'p1' has 4 of 7 images, all of them in one split: is that one patient?"
    assert index.warnings == [f"{whole} --check-data shows which image has which"]
    assert id_csv(tmp_path, ["p1"] * 3 + ["p2", "p3", "p4"]).warnings == []
    joined = id_csv(tmp_path, ["p1", "P1", "P1", "p1", "p2", "p3"])  # two spellings of two images each
    assert joined.warnings[0].startswith("patient 'p1' has 4 of 6 images")


def test_check_data_shows_images_with_their_groups_and_the_largest(tmp_path):
    touch(tmp_path, *(f"a/p{k}_{i}.png" for k, n in enumerate((3, 1, 2)) for i in range(n)))
    index = load_index(str(tmp_path), options=Options(group_regex=r"^(p\d)_"))
    shown = "a/p0_0.png is of 'p0'; a/p1_0.png is of 'p1'; a/p2_0.png is of 'p2'"
    largest = "images of the largest groups: 'p0' 3, 'p2' 2, 'p1' 1; of 6 in all"
    assert group_lines(index) == [f"3 groups: {shown}", largest]
    assert group_lines(load_index(str(tmp_path))) == []


# ---- a table and its folder ----


def test_a_table_beside_images_without_class_folders_is_read(tmp_path):
    for i, images in enumerate((["train/{}.jpg"], ["{}.jpg"], ["images/a/{}.jpg"])):
        root = tmp_path / str(i)
        touch(root, *(images[0].format(f"s{k}") for k in range(3)))
        (root / "train.csv").write_text("id,label,patient\ns0,0,A\ns1,1,B\ns2,0,A\n")
        (root / "test.csv").write_text("id\ns9\n")  # no label
        index = load_index(str(root))
        assert index.paths == [images[0].format(f"s{k}") for k in range(3)] and index.labels.tolist() == [0, 1, 0]
        assert index.groups == ["A", "B", "A"] and index.name == root.name
        assert index.notes[:2] == [
            "the table train.csv in the folder was read, not the folders in it",
            "the images' paths are column id: --path-col names another",
        ]


def test_a_table_beside_class_folders_is_named_and_read_where_it_is_asked_for(tmp_path):
    touch(tmp_path, "part_1/a.png", "part_2/b.png", "part_2/c.png")
    (tmp_path / "meta.csv").write_text("image,dx,lesion_id\na,x,1\nb,y,2\nc,x,1\n")
    index = load_index(str(tmp_path))
    text = f"beside the class folders, not read: meta.csv (--data {tmp_path}/meta.csv reads it)"
    assert index.classes == ["part_1", "part_2"] and text in index.warnings  # they differ by a number alone
    index = load_index(str(tmp_path), options=Options(path_col="image", label_col=("dx",)))
    assert index.classes == ["x", "y"] and index.paths == ["part_1/a.png", "part_2/b.png", "part_2/c.png"]
    assert index.groups == ["1", "2", "1"]
    (tmp_path / "part_2").rename(tmp_path / "other")
    index = load_index(str(tmp_path))
    assert text in index.notes and index.warnings == []


def test_two_tables_that_would_do_are_named(tmp_path):
    touch(tmp_path, "train/s0.jpg", "train/s1.jpg")
    for name in ("train.csv", "sample_submission.csv"):
        (tmp_path / name).write_text("id,label\ns0,0\ns1,1\n")
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe")
    message = error(load_index, str(tmp_path))
    assert "2 images lie in it, but in no class folder" in message
    names = f"tables in it are sample_submission.csv, train.csv: --data {tmp_path}/"
    assert names in message and message.endswith("reads one, with --label-col and --path-col")


def test_the_column_of_paths_is_found_where_one_alone_names_images(tmp_path):
    text = "view,image,label\nAP,a,x\nPA,b,y\n"
    index = csv_index(tmp_path, text, ["img/a.png", "img/b.png"])
    assert index.paths == ["img/a.png", "img/b.png"]
    assert "the images' paths are column image: --path-col names another" in index.notes
    both = "file,image,label\na.png,a,x\nb.png,b,y\n"
    assert "no column path (--path-col); its columns are file, image, label" in error(csv_index, tmp_path, both)
    assert csv_index(tmp_path, both, path_col="file").paths == ["img/a.png", "img/b.png"]


@pytest.mark.parametrize("stem", ["labels", "train", "Data", "metadata"])
def test_a_file_whose_name_says_nothing_has_that_of_its_folder_before_it(tmp_path, stem, monkeypatch):
    folder = tmp_path / "lesions"
    text = "path,label\na.png,x\nb.png,y\n"
    folder.mkdir()
    assert csv_index(folder, text, ABC, name=f"{stem}.csv").name == f"lesions-{stem}"
    np.savez(folder / f"{stem}.npz", train_images=grey(2), train_labels=np.arange(2))
    assert load_index(str(folder / f"{stem}.npz")).name == f"lesions-{stem}"
    monkeypatch.chdir(folder)
    assert load_index(f"{stem}.csv").name == f"lesions-{stem}"
    assert csv_index(folder, text, name="cohort.csv").name == "cohort"


# ---- npz ----


def save_npz(folder: Path, **arrays) -> str:
    np.savez(folder / "set.npz", **arrays)
    return str(folder / "set.npz")


def grey(n, seed=0, shape=(5, 5)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 3)])
@pytest.mark.parametrize("column", [True, False])
def test_npz(tmp_path, shape, column):
    x = {split: grey(n, n, shape) for split, n in (("train", 3), ("val", 2), ("test", 1))}
    y = {"train": np.array([7, 2, 2]), "val": np.array([2, 10]), "test": np.array([7])}
    images = {f"{split}_images": pixels for split, pixels in x.items()}
    labels = {f"{split}_labels": values[:, None] if column else values for split, values in y.items()}
    index = load_index(save_npz(tmp_path, **images, **labels))
    assert (index.name, index.task, index.classes) == ("set", "multiclass", ["2", "7", "10"])
    assert index.labels.tolist() == [1, 0, 0, 0, 2, 1]
    assert index.official == ["train"] * 3 + ["val"] * 2 + ["test"]
    assert index.paths == ["train/0", "train/1", "train/2", "val/0", "val/1", "test/0"]
    assert len(index.sources()) == 6
    np.testing.assert_array_equal(index.sources()[4], x["val"][1])


def test_npz_of_grey_images_with_an_axis_for_it(tmp_path):
    """N x S x S x 1, as Keras keeps it, is what N x S x S is; .NPZ is an npz."""
    x, y = grey(4), np.array([0, 1, 1, 0])
    flat = load_index(save_npz(tmp_path, train_images=x, train_labels=y))
    whole = load_index(save_npz(tmp_path, train_images=x[..., None], train_labels=y))
    assert all((a == b).all() and a.shape == (5, 5) for a, b in zip(flat.arrays, whole.arrays, strict=True))
    (tmp_path / "set.npz").rename(tmp_path / "SET.NPZ")
    index = load_index(str(tmp_path / "SET.NPZ"))
    assert index.name == "SET" and index.labels.tolist() == [0, 1, 1, 0]


def test_npz_one_hot_labels_are_classes(tmp_path):
    y = np.eye(4, dtype=np.uint8)[[2, 0, 2, 3]]
    file = save_npz(tmp_path, train_images=grey(4), train_labels=y)
    index = load_index(file)
    assert (index.task, index.classes, index.labels.tolist()) == ("multiclass", ["0", "2", "3"], [1, 0, 1, 2])
    assert "each row of the 4 0/1 columns has a single 1" in index.warnings[0]
    index = load_index(file, None, Options(multilabel=True))
    assert (index.task, index.labels.tolist(), index.warnings) == ("multilabel", y.tolist(), [])


MEDMNIST = [  # medmnist/info.py: number of classes, two of its names
    ("pneumoniamnist", 2, {0: "normal", 1: "pneumonia"}),
    ("breastmnist_224", 2, {0: "malignant", 1: "normal or benign"}),
    ("BloodMNIST_64", 8, {0: "basophil", 3: "immature granulocytes", 7: "platelet"}),
    ("pathmnist", 9, {0: "adipose", 8: "colorectal adenocarcinoma epithelium"}),
    ("dermamnist", 7, {4: "melanoma", 6: "vascular lesions"}),
    ("octmnist_128", 4, {2: "drusen", 3: "normal"}),
    ("tissuemnist", 8, {0: "collecting duct or connecting tubule", 5: "podocytes"}),
    ("retinamnist", 5, {0: "0", 4: "4"}),
    ("organamnist", 11, {0: "bladder", 10: "spleen"}),
    ("organcmnist", 11, {1: "femur-left", 6: "liver"}),
    ("organsmnist", 11, {5: "kidney-right", 9: "pancreas"}),
]


@pytest.mark.parametrize("stem, number, names", MEDMNIST)
def test_npz_of_medmnist_has_the_names_of_its_classes(tmp_path, stem, number, names):
    y = np.arange(number)[::-1]
    np.savez(tmp_path / f"{stem}.npz", train_images=grey(number), train_labels=y[:, None])
    index = load_index(str(tmp_path / f"{stem}.npz"))
    assert len(index.classes) == len(set(index.classes)) == number and index.labels.tolist() == y.tolist()
    assert {c: index.classes[c] for c in names} == names
    if stem != "retinamnist":  # one more than the file can have: its own numbers
        np.savez(tmp_path / f"{stem}.npz", train_images=grey(number + 1), train_labels=np.arange(number + 1))
        assert load_index(str(tmp_path / f"{stem}.npz")).classes == [str(c) for c in range(number + 1)]
    np.savez(tmp_path / f"{stem}.npz", train_images=grey(2), train_labels=np.array([0, number - 1]))
    assert load_index(str(tmp_path / f"{stem}.npz")).classes == [index.classes[0], index.classes[-1]]


def test_npz_of_chestmnist_has_the_names_of_its_labels(tmp_path):
    y = np.zeros((2, 14), int)
    y[1, [0, 13]] = 1
    np.savez(tmp_path / "chestmnist.npz", train_images=grey(2), train_labels=y)
    index = load_index(str(tmp_path / "chestmnist.npz"))
    assert index.task == "multilabel" and index.label_text(1) == "atelectasis|hernia" and index.label_text(0) == ""
    assert len(index.classes) == 14 and index.classes[6] == "pneumonia"


def test_npz_multilabel(tmp_path):
    y = np.array([[0, 1], [1, 1]], np.uint8)
    file = save_npz(tmp_path, train_images=grey(2), train_labels=y, val_images=grey(1), val_labels=y[:1])
    index = load_index(file)
    assert (index.task, index.classes) == ("multilabel", ["0", "1"])
    assert index.official == ["train", "train", "val"]
    assert index.labels.dtype == np.float32 and index.labels.tolist() == [[0, 1], [1, 1], [0, 1]]
    file = save_npz(tmp_path, train_images=grey(2), train_labels=y + 1)
    assert "labels with several columns must be 0 or 1" in error(load_index, file)


def test_npz_arrays_that_are_missing(tmp_path):
    file = save_npz(tmp_path, x=grey(1), train_labels=np.zeros(1, int))
    assert error(load_index, file).endswith("no train_images; it holds x, train_labels")
    # test images without labels would be left out in silence, and the test set cut from training
    file = save_npz(tmp_path, train_images=grey(2), train_labels=np.arange(2), test_images=grey(1))
    assert "no test_labels" in error(load_index, file)


WRONG_ARRAYS = [
    (grey(2).astype(np.float32), np.arange(2), r"train_images is float32 \(2, 5, 5\); it must be uint8"),
    (grey(2).astype(np.uint16), np.arange(2), "train_images is uint16"),
    (grey(2, shape=(5, 5, 4)), np.arange(2), r"train_images is uint8 \(2, 5, 5, 4\)"),
    (grey(2, shape=()), np.arange(2), r"train_images is uint8 \(2,\)"),
    (grey(2), np.arange(3), r"train_labels is int64 \(3,\); it must be 2 x L whole numbers"),
    (grey(2), np.array([0.0, 0.5]), "train_labels is float64"),
    (grey(2), np.array([0.0, np.nan]), "train_labels is float64"),
    (grey(2), np.array(["a", "b"]), "train_labels is <U1"),
    (grey(2), np.zeros((2, 1, 1), int), "train_labels is int64"),
    (grey(2), np.array(3), "train_labels is int64"),
    (grey(2, shape=(0, 0)), np.arange(2), r"train_images is uint8 \(2, 0, 0\)"),
    (grey(2, shape=(5, 0, 3)), np.arange(2), r"train_images is uint8 \(2, 5, 0, 3\)"),
    (grey(2).astype("V1"), np.arange(2), r"train_images is \|V1"),
    (grey(2), np.array([0, 1], "m8[s]"), r"train_labels is timedelta64\[s\]"),
    (grey(2), np.array([0, 1], "M8[D]"), r"train_labels is datetime64\[D\]"),
    (grey(2), np.array([0, 1 + 1j]), "train_labels is complex128"),
    (grey(2), np.array([(0,), (1,)], [("a", "i4")]), r"train_labels is \[\('a', '<i4'\)\]"),
    (grey(2), np.array([0.0, np.inf]), "train_labels is float64"),
    (grey(2), np.array([0.0, 1e300]), "train_labels is float64"),
    (grey(2), np.array([0, 2**64 - 1], np.uint64), "train_labels is uint64"),
    (grey(2), np.zeros((2, 0), int), r"train_labels is int64 \(2, 0\)"),
]


@pytest.mark.parametrize("images, labels, part", WRONG_ARRAYS)
def test_npz_of_the_wrong_type_or_shape(tmp_path, images, labels, part):
    assert re.search(part, error(load_index, save_npz(tmp_path, train_images=images, train_labels=labels)))


def test_npz_splits_that_disagree(tmp_path):
    train = {"train_images": grey(2), "train_labels": np.arange(2)}
    file = save_npz(tmp_path, **train, val_images=grey(1), val_labels=np.zeros((1, 2), int))
    assert "labels have [1, 2] columns" in error(load_index, file)


@pytest.mark.parametrize("dtype", [">i2", "u8", "f2", ">f8", "?"])
def test_whole_numbers_of_any_kind_are_labels(tmp_path, dtype):
    index = load_index(save_npz(tmp_path, train_images=grey(2), train_labels=np.array([1, 0], dtype)))
    assert index.labels.tolist() == [1, 0] and index.classes == ["0", "1"]


def npy_of(shape, content=b"", dtype="|u1") -> bytes:
    """An array's file by NumPy's specification, version 1.0, that says a shape which its content need not have."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + content


def zipped(file: Path, **members: bytes) -> str:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return str(file)


def test_npz_that_says_it_is_larger_than_it_is(tmp_path, monkeypatch):
    """Known from its header, before any memory is taken. What is as large as it says, and no memory would hold, too."""
    labels = npy_of((2,), bytes(16), "<i8")
    right = zipped(tmp_path / "x.npz", train_images=npy_of((2, 5, 5), bytes(50)), train_labels=labels)
    assert len(load_index(right)) == 2
    read = []
    monkeypatch.setattr(np, "load", lambda *_, **__: read.append(1))
    for shape in ((40_000, 1000, 1000), (2, 5, 4), (2**40, 2**40, 0, 5)):
        file = zipped(tmp_path / "x.npz", train_images=npy_of(shape, bytes(50)), train_labels=labels)
        assert f"train_images.npy says {math.prod(shape)} bytes, but has 50" in error(load_index, file)
    monkeypatch.setattr(datasets, "memory_bytes", lambda: 60e9)
    said = {"train_images": 50_000_000_000, "train_labels": 20_000_000_000}
    monkeypatch.setattr(datasets, "npy_size", lambda archive, member: said[member.filename.removesuffix(".npy")])
    assert error(load_index, file).startswith(f"{file}: needs 70.0 GB of memory unpacked, this machine has 60.0; ")
    assert read == []


def test_npz_that_its_own_format_cannot_read(tmp_path):
    """Another version of zip, another compression, a password, a header of another version: what others raise is a
    line."""
    whole = zipped(tmp_path / "w.npz", train_images=npy_of((2, 5, 5), bytes(50)), train_labels=npy_of((2,), bytes(2)))
    data = Path(whole).read_bytes()
    entry = data.index(b"PK\1\2")  # of the central directory: version needed at 6, flags at 8, method at 10
    changes = {"version": (entry + 6, 161), "method": (entry + 10, 205), "password": (entry + 8, 1)}
    for name, (at, byte) in changes.items():
        changed = bytearray(data)
        changed[at] = byte
        changed[8 if name == "method" else 6 if name == "password" else 4] = byte  # the member's own header
        (tmp_path / f"{name}.npz").write_bytes(changed)
        said = error(load_index, str(tmp_path / f"{name}.npz"))
        assert f"{name}.npz: not a readable npz without pickled objects: " in said and "\n" not in said
    newer = npy_of((2, 5, 5), bytes(50)).replace(b"NUMPY\1\0", b"NUMPY\7\0")
    said = error(load_index, zipped(tmp_path / "n.npz", train_images=newer, train_labels=npy_of((2,), bytes(2))))
    assert "n.npz: not a readable npz" in said


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["x.csv", "x.npz"])
def test_a_pipe_in_place_of_a_table_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert error(load_index, str(tmp_path / name)) == f"{tmp_path / name}: no file but a pipe, a socket or a device"
    with pytest.raises(datasets.DataError, match="no file but a pipe"):
        list(datasets.read_rows(tmp_path / name))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_npz_with_pickled_objects_is_refused(tmp_path):
    mark = tmp_path / "executed"
    file = save_npz(tmp_path, train_images=grey(1), train_labels=np.array([Bomb(mark)], dtype=object))
    assert "not a readable npz without pickled objects" in error(load_index, file)
    assert not mark.exists()


def test_npz_that_is_none(tmp_path):
    whole = Path(save_npz(tmp_path, train_images=grey(50), train_labels=np.arange(50))).read_bytes()
    np.save(tmp_path / "array.npy", grey(2))
    damaged = bytearray(whole)
    damaged[200:400] = bytes(200)
    forms = {"empty": b"", "text": b"hello", "cut": whole[:500], "damaged": bytes(damaged)}
    forms["array"] = (tmp_path / "array.npy").read_bytes()
    for name, content in forms.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        assert f"{name}.npz: not a readable npz" in error(load_index, str(tmp_path / f"{name}.npz"))


# ---- demo ----


def test_demo_is_the_same_each_time():
    one, two, other = DEMOS("demo"), load_index("demo"), demo("demo", seed=1)
    assert one.paths == two.paths and one.groups == two.groups and (one.labels == two.labels).all()
    assert all((a == b).all() for a, b in zip(one.arrays, two.arrays, strict=True))
    assert not any((a == b).all() for a, b in zip(one.arrays, other.arrays, strict=False))


# 40, 30, 20 and 10 % of 200 and of 60; 1200 / 8
PATIENTS = [("demo", [80, 60, 40, 20]), ("demo-tiny", [24, 18, 12, 6]), ("demo-source", [150] * 8)]


@pytest.mark.parametrize("name, patients", PATIENTS)
def test_demo_has_the_traits_of_medical_data(name, patients):
    index = DEMOS(name)
    of_patient = defaultdict(list)
    for group, label in zip(index.groups, index.labels.tolist(), strict=True):
        of_patient[group].append(label)
    assert all(len(set(labels)) == 1 for labels in of_patient.values())
    assert Counter(labels[0] for labels in of_patient.values()) == dict(enumerate(patients))
    assert {len(labels) for labels in of_patient.values()} == {2, 3, 4}
    assert index.group_kind == "patient" and index.official == [""] * len(index)
    assert len(set(index.paths)) == len(index) == len(index.arrays)
    assert {(a.dtype, a.shape) for a in index.arrays} == {(np.dtype(np.uint8), (32, 32))}
    assert len({a.tobytes() for a in index.arrays}) == len(index)  # no picture twice


def test_demo_splits_by_patient():
    index = DEMOS("demo")
    split = make_splits(index, seed=0)[0]
    assert all(len(sides) == 1 for sides in sides_of(index.groups, split).values())
    for name, share in (("train", 0.65), ("val", 0.15), ("test", 0.2)):
        assert abs((split == name).mean() - share) < 0.01
        assert set(index.labels[split == name]) == {0, 1, 2, 3}


def test_demo_target_is_another_scanner_and_task():
    target, source = DEMOS("demo"), DEMOS("demo-source")
    assert not set(target.classes) & set(source.classes) and len(source) > 4 * len(target)
    images = {index.name: np.stack(index.arrays).astype(float) for index in (target, source)}
    assert images["demo"].mean() < 0.9 * images["demo-source"].mean()  # darker
    noise = {name: np.diff(x, n=2, axis=2).std() for name, x in images.items()}
    assert noise["demo"] > 1.2 * noise["demo-source"]  # noisier


# ---- leaves alone ----

LEAVES = """
import importlib, json, os, sys
import numpy as np
sys.dont_write_bytecode = True
sys.path.insert(0, "")

def alone(name, of=None):  # the module out of a folder that holds nothing else
    folder = of or name
    sys.path[0] = folder
    module = importlib.import_module(name)
    assert module.__file__ == os.path.join(os.getcwd(), folder, name + ".py")
    assert of or os.listdir(folder) == [name + ".py"]
    return module

datasets = alone("datasets")
index = datasets.load_index("data")
del sys.modules["datasets"]
splits = alone("splits", of="both")  # imports those beside it
folds = splits.make_splits(index, seed=0)
splits.write_splits(datasets.Path("splits.csv"), index, folds)
same = bool((splits.read_splits("splits.csv", index)[0] == folds[0]).all())
counts = dict(datasets.Counter(folds[0].tolist()))
del sys.modules["metrics"]
assert sorted(os.listdir("both")) == ["datasets.py", "metrics.py", "runs.py", "splits.py"]

images = alone("images")
pixels = images.decode(index.sources(), 4, "cache")
batch = images.batch(pixels.data, [0, 39], "cpu", mean=(0, 0, 0), std=(1, 1, 1))

metrics = alone("metrics")
scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
values = metrics.evaluate("multiclass", scores, np.array([0, 1, 1, 1]), ["benign", "malignant"])["values"]

print(json.dumps([index.classes, counts, same, list(pixels.data.shape), pixels.bad, list(batch.shape),
                  batch[:, :, 0, 0].tolist(), values["accuracy"], values["balanced_accuracy"]]))
"""


def test_each_leaf_works_alone(tmp_path):
    """datasets.py, images.py and metrics.py, each alone in a folder, and splits.py with those it needs, in an
    isolated interpreter: nothing else of the project can be imported."""
    folders = {"both": ["datasets", "metrics", "runs", "splits"]} | {
        name: [name] for name in ("datasets", "images", "metrics")
    }
    for folder, leaves in folders.items():
        (tmp_path / folder).mkdir()
        for leaf in leaves:
            shutil.copy(ROOT / f"{leaf}.py", tmp_path / folder)
    for i, name in enumerate(f"{c}/{k}.png" for c in "ab" for k in range(10, 30)):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 5), 255 if i == 39 else 51).save(tmp_path / "data" / name)
    command = [sys.executable, "-I", "-c", LEAVES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    classes, counts, same, shape, bad, batch_shape, batch, accuracy, balanced = found
    assert classes == ["a", "b"] and counts == {"train": 26, "val": 6, "test": 8} and same
    assert shape == [40, 1, 4, 4] and bad == [] and batch_shape == [2, 3, 4, 4]
    assert batch[0] == pytest.approx([0.2] * 3) and batch[1] == [1, 1, 1]
    assert accuracy == 0.75 and balanced == pytest.approx((1 + 2 / 3) / 2)
