"""splits.py: splits held to their contract on random data of many seeds (no group on two sides, every class
on each side, the shares that were asked for), splits.csv, identical images, the data check.

    python -m pytest tests/test_splits.py"""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import by_hand, error, sides_of

import datasets
import images
import splits
from datasets import SPLITS, Index
from splits import check_data, check_split, clusters, make_splits, read_splits, spanning, without_copies, write_splits

# ---- splits ----


def random_index(seed: int, task="multiclass") -> Index:
    """150 to 300 patients of 1 to 8 images; four classes of 50, 30, 15 and 5 %, a tenth of the patients in
    two."""
    rng = np.random.default_rng(seed)
    patients = int(rng.integers(150, 300))
    sizes = np.round(np.array([0.5, 0.3, 0.15, 0.05]) * patients).astype(int)
    groups, labels = [], []
    for patient, label in enumerate(rng.permutation(np.repeat(np.arange(4), sizes))):
        other = int(rng.integers(4)) if rng.random() < 0.1 else label
        for _ in range(int(rng.integers(1, 9))):
            groups.append(f"p{patient}")
            labels.append(other if rng.random() < 0.5 else label)
    order = rng.permutation(len(labels))
    labels = np.array(labels)[order]
    if task == "multilabel":
        labels = np.eye(4)[labels] * (rng.random((len(labels), 1)) < 0.7)
        labels[rng.random(labels.shape) < 0.1] = np.nan
    return by_hand(labels, [groups[i] for i in order], task=task)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_splits_of_random_data(task):
    """No group on two sides; every class on each; of each class the wished share, up to two large groups (8
    images)."""
    for seed in range(25):
        index = random_index(seed, task)
        split = make_splits(index, seed=seed, val_fraction=0.1, test_fraction=0.25)[0]
        assert set(split) == set(SPLITS)
        assert all(len(sides) == 1 for sides in sides_of(index.groups, split).values())
        for c in range(4):
            of_class = index.labels == c if task == "multiclass" else index.labels[:, c] == 1
            for name, share in (("train", 0.65), ("val", 0.1), ("test", 0.25)):
                count = (of_class & (split == name)).sum()
                assert count >= 1
                assert abs(count - share * of_class.sum()) <= 16, (seed, c, name)
        for name, share in (("train", 0.65), ("val", 0.1), ("test", 0.25)):
            assert abs((split == name).mean() - share) < 0.02


def test_splits_of_single_images_meet_the_shares_to_one_image():
    labels = np.repeat([0, 1, 2], [200, 60, 20])
    split = make_splits(by_hand(labels), seed=3)[0]
    counts = {name: [((labels == c) & (split == name)).sum() for c in range(3)] for name in SPLITS}
    wished = {"train": (130, 39, 13), "val": (30, 9, 3), "test": (40, 12, 4)}  # 65, 15 and 20 %
    for name in SPLITS:
        assert np.abs(np.array(counts[name]) - wished[name]).max() <= 1


def test_large_and_small_patients_go_to_all_sides_alike():
    """A test set of the patients with few images alone would be another population."""
    sizes = np.repeat([1, 4], 100)
    groups = np.repeat(np.arange(200), sizes)
    index = by_hand(groups % 2, groups)
    for seed in range(5):
        split = make_splits(index, seed=seed)[0]
        sides = {group: next(iter(side)) for group, side in sides_of(index.groups, split).items()}
        large = Counter(sides[str(g)] for g in range(100, 200))
        small = Counter(sides[str(g)] for g in range(100))
        for name, wished in (("train", 65), ("val", 15), ("test", 20)):
            assert abs(large[name] - wished) <= 4 and abs(small[name] - wished) <= 6, (name, large, small)


def test_splits_depend_on_the_seed_alone():
    index = random_index(0)
    tests = []
    for seed in range(8):
        first, again = make_splits(index, seed=seed)[0], make_splits(random_index(0), seed=seed)[0]
        np.testing.assert_array_equal(first, again)
        tests.append(frozenset(np.flatnonzero(first == "test")))
    assert len(set(tests)) == 8
    for k, fold in enumerate(make_splits(index, seed=1, folds=3)):
        np.testing.assert_array_equal(fold, make_splits(index, seed=1, folds=3)[k])


def test_every_class_in_each_split_with_as_many_groups_as_splits():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels, groups = [], []
        for c in range(5):  # three patients of each class, of 1 to 30 images
            for patient in range(3):
                n = int(rng.integers(1, 31))
                labels += [c] * n
                groups += [f"{c}-{patient}"] * n
        split = make_splits(by_hand(labels, groups), seed=seed)[0]
        assert set(zip(labels, split, strict=True)) == {(c, s) for c in range(5) for s in SPLITS}


def test_every_class_in_each_split_where_a_patient_has_several():
    """Class 1 is only in patients A, B, C, class 2 only in C, D, E; so A, B, C apart, and C, D, E apart."""
    groups, labels = "AABCCDDEEFGH", [1, 0, 1, 1, 2, 2, 0, 2, 0, 0, 0, 0]
    for seed in range(20):
        sides = sides_of(groups, make_splits(by_hand(labels, groups), seed=seed)[0])
        assert len(sides["A"] | sides["B"] | sides["C"]) == 3
        assert len(sides["C"] | sides["D"] | sides["E"]) == 3


def test_a_class_that_cannot_be_in_each_split():
    labels, groups = [0] * 20 + [1] * 9, list(range(20)) + [20] * 5 + [21] * 4
    message = error(make_splits, by_hand(labels, groups, classes=["common", "rare"]))
    assert re.search(r"class rare is absent from (train|val|test) \(rare: 2 patients in all\)", message)
    assert "each split needs one" in message
    message = error(make_splits, by_hand([0, 1], ["a", "b"]))
    assert "hand: class" in message or "hand: no image is in" in message


def test_a_class_that_the_official_test_set_lacks():
    index = by_hand([0, 1] * 10 + [0, 0], classes=["a", "b"], official=["train"] * 20 + ["test"] * 2)
    assert "class b is absent from test" in error(make_splits, index)
    only = by_hand([0, 1] * 3, official=["test"] * 6)
    assert "no image is in train" in error(make_splits, only)
    assert "no image is in" in error(make_splits, only, folds=2)


def test_fractions_that_leave_nothing():
    message = error(make_splits, random_index(0), val_fraction=0.5, test_fraction=0.5)
    assert message == "the shares val 0.5 and test 0.5 leave no images for training"


@pytest.mark.parametrize("given, cut_out", [("test", "val"), ("val", "test")])
def test_one_official_split_is_kept_and_the_other_cut_from_training(given, cut_out):
    labels = np.arange(200) % 2
    index = by_hand(labels, official=["train"] * 160 + [given] * 40)
    for seed in range(5):
        split = make_splits(index, seed=seed, val_fraction=0.1, test_fraction=0.1)[0]
        assert (split[160:] == given).all()
        assert (split[:160] == cut_out).sum() == 16 and (split[:160] == "train").sum() == 144
        assert (labels[:160][split[:160] == cut_out] == 0).sum() == 8


def test_official_splits_are_all_kept():
    official = ["train", "train", "val", "val", "test", "test"]
    for seed in range(3):
        assert make_splits(by_hand([0, 1] * 3, official=official), seed=seed)[0].tolist() == official


def test_open_images_beside_an_official_test_set_are_cut():
    official = [""] * 80 + ["test"] * 20
    split = make_splits(by_hand(np.arange(100) % 2, official=official), val_fraction=0.25)[0]
    assert Counter(split) == {"train": 60, "val": 20, "test": 20} and (split[80:] == "test").all()


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_test_each_image_once(folds):
    for seed in range(6):
        index = random_index(seed)
        cut = make_splits(index, seed=seed, folds=folds, val_fraction=0.2)
        assert len(cut) == folds
        tested = sum((split == "test").astype(int) for split in cut)
        assert (tested == 1).all()
        for split in cut:
            assert set(split) == set(SPLITS)
            assert all(len(sides) == 1 for sides in sides_of(index.groups, split).values())
            assert abs((split == "test").mean() - 1 / folds) < 0.02
            rest = split != "test"
            assert abs((split[rest] == "val").mean() - 0.2) < 0.03
            for c in range(4):
                assert abs(((index.labels == c) & ~rest).sum() - (index.labels == c).sum() / folds) <= 16


def test_folds_keep_an_official_test_set():
    official = ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    folds = make_splits(by_hand(np.arange(100) % 2, official=official), folds=4)
    assert len(folds) == 4
    for split in folds:
        assert (split[80:] == "test").all() and set(split[:80]) == {"train", "val"}
    assert (sum((split[:80] == "val").astype(int) for split in folds) == 1).all()


def test_more_folds_than_groups():
    index = by_hand([0, 1, 0, 1, 0, 1])
    assert error(make_splits, index, folds=7) == "--folds 7, but there are only 6 patients"
    index.official = ["train"] * 4 + ["test"] * 2
    message = error(make_splits, index, folds=5)
    assert message == "--folds 5, but there are only 4 patients outside of the official test set"


def test_identical_images_are_never_cut_apart():
    """Chains too: image 0 of patient 0 is that of patient 1, whose other image is that of patient 2."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, groups = np.arange(120) % 2, np.arange(120) // 2
        sizes = [int(rng.integers(2, 4)) for _ in range(10)]
        identical = [sorted(rng.choice(120, size=size, replace=False).tolist()) for size in sizes]
        identical += [[0, 2], [3, 4]]
        for split in make_splits(by_hand(labels, groups), identical, seed=seed, folds=1 + seed % 2 * 3):
            assert spanning(identical, split) == []
            assert split[0] == split[5]
            assert all(len(sides) == 1 for sides in sides_of(groups, split).values())


def test_what_is_resampled_as_one():
    """Images: the first of the identical ones. Patients: whoever is tied, over others too; a video stays
    one."""
    image = by_hand([0, 1] * 3, [f"{i}.png" for i in range(6)])
    assert clusters(image, [[1, 4], [2, 5]]) == ["0.png", "1.png", "2.png", "3.png", "1.png", "2.png"]
    patient = by_hand([0, 1] * 4, ["a", "a", "b", "c", "c", "d", "e", "e"])
    assert clusters(patient, [[0, 3], [4, 5], [6, 7]]) == ["a", "a", "b", "a", "a", "a", "e", "e"]
    assert clusters(patient, []) == patient.groups
    video = replace(patient, units=patient.groups, unit_score="video")
    assert clusters(video, [[0, 3]]) == patient.groups


def test_what_counts_as_one_belongs_to_the_fingerprint():
    """A run without copies has the fingerprint that it had; one with copies is another, as its intervals
    are."""
    index = by_hand([0, 1] * 3, list("aabbcd"))
    assert index.fingerprint(clusters(index, [[0, 1]])) == index.fingerprint()
    assert index.fingerprint(clusters(index, [[0, 2]])) != index.fingerprint()


def test_identical_images_across_official_splits_leave_those_alone():
    official = ["train"] * 20 + ["test"] * 4
    split = make_splits(by_hand([0, 1] * 12, official=official), [[0, 20], [1, 3]])[0]
    assert (split[20:] == "test").all() and split[0] in ("train", "val") and split[1] == split[3]


def test_rare_labels_of_a_multilabel_task_are_in_each_split():
    rng = np.random.default_rng(0)
    labels = np.zeros((300, 3))
    labels[:, 0] = rng.random(300) < 0.5
    labels[:6, 1] = 1  # six patients
    labels[6:36, 2] = 1
    for seed in range(10):
        split = make_splits(by_hand(labels, task="multilabel"), seed=seed)[0]
        for name, share in (("train", 0.65), ("val", 0.15), ("test", 0.2)):
            assert abs(labels[split == name, 2].sum() - 30 * share) <= 1.5
            assert 1 <= labels[split == name, 1].sum() <= 4
            nothing = labels.sum(axis=1) == 0
            assert abs((nothing & (split == name)).sum() - share * nothing.sum()) <= 3


def test_spanning_and_without_copies():
    split = np.array(["train", "test", "val", "train", "val", "train", "", "test", "train", "train"])
    identical = [[0, 1], [2, 3], [4, 5, 7], [6, 8], [8, 9]]
    assert spanning(identical, split) == [[0, 1], [2, 3], [4, 5, 7]]
    cleaned = without_copies(identical, split)
    assert cleaned.tolist() == ["", "test", "val", "", "", "", "", "test", "train", "train"]
    assert split[0] == "train"  # the given one is left as it was
    assert spanning(identical, cleaned) == []


def test_check_split_names_the_torn():
    index = by_hand([0, 1] * 4, ["a", "a", "b", "b", "c", "c", "d", "d"])
    good = np.array(["train"] * 4 + ["val"] * 2 + ["test"] * 2)
    assert check_split(index, good) is None
    torn = np.array(["train", "val", "train", "train", "val", "test", "test", "test"])
    message = error(check_split, index, torn)
    assert "2 patients are in two splits: a (train and val), c (test and val)" in message


# ---- splits.csv ----

AWKWARD = ["a, b/007 (1).png", 'say "x"/é ü.png', "a, b/7.png", "c;d/x\ty.png", "c;d/01.png", 'say "x"/z.png']


def awkward_index() -> Index:
    index = by_hand([0, 1, 0, 2, 2, 1] * 3, classes=["a, b", 'say "x"', "c;d"])
    index.paths = [path.replace("/", f"/{k}/") for k in range(3) for path in AWKWARD]
    return index


@pytest.mark.parametrize("folds", [1, 3])
def test_splits_file_round_trip(tmp_path, folds):
    index = awkward_index()
    written = [np.roll(np.repeat(SPLITS, 6), 6 * k) for k in range(folds)]
    write_splits(tmp_path / "deep/splits.csv", index, written)
    read = read_splits(tmp_path / "deep/splits.csv", index)
    assert len(read) == folds
    for one, other in zip(written, read, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["splits.csv"]


def test_splits_file_is_plain(tmp_path):
    index = by_hand([0, 1, 1], ["007", "7", "7"])
    write_splits(tmp_path / "s.csv", index, [np.array(["train", "val", "test"])])
    lines = (tmp_path / "s.csv").read_text().splitlines()
    rows = ["0.png,007,c0,train,0", "1.png,7,c1,val,0", "2.png,7,c1,test,0"]
    assert lines == ["image,group,label,split,fold", *rows]
    multi = by_hand([[1, 1], [0, 0]], task="multilabel")
    write_splits(tmp_path / "m.csv", multi, [np.array(["train", "val"])])
    assert (tmp_path / "m.csv").read_text().splitlines()[1:] == ["0.png,g0,c0|c1,train,0", "1.png,g1,,val,0"]


PAIRS = by_hand([0, 1] * 6, np.arange(12) // 2)  # six patients, each with an image of both classes
PAIRS_SPLIT = np.repeat(["train", "val", "test"], 4)


def edited(tmp_path, edit) -> Path:
    """The splits file of PAIRS with its lines (header first) edited."""
    (tmp_path / "splits.csv").unlink(missing_ok=True)
    file = write_splits(tmp_path / "splits.csv", PAIRS, [PAIRS_SPLIT])
    lines = file.read_text().splitlines()
    edit(lines)
    file.write_text("\n".join(lines) + "\n")
    return file


def replaced(*changes):
    """An edit: in line i the old text gives way to the new."""

    def edit(lines):
        for i, old, new in changes:
            assert old in lines[i]
            lines[i] = lines[i].replace(old, new)

    return edit


def test_splits_file_edited(tmp_path):
    to_test = [(1, "train", "Testing"), (2, "train", "TEST")]
    swap = replaced(*to_test, (5, "val", "training"), (6, "val", "train"))
    expected = ["test"] * 2 + ["train"] * 4 + ["val"] * 2 + ["test"] * 4
    assert read_splits(edited(tmp_path, swap), PAIRS)[0].tolist() == expected
    left_out = replaced((1, "train", ""), (8, "val", ""))
    expected = ["", "train", "train", "train", "val", "val", "val", "", "test", "test", "test", "test"]
    assert read_splits(edited(tmp_path, left_out), PAIRS)[0].tolist() == expected


def test_an_edited_splits_file_is_never_overwritten(tmp_path):
    first = tmp_path / "s.v1.csv"
    assert write_splits(first, PAIRS, [PAIRS_SPLIT]) == first == write_splits(first, PAIRS, [PAIRS_SPLIT])
    edited = first.read_text().replace("train", "val")
    first.write_text(edited)
    second = write_splits(first, PAIRS, [PAIRS_SPLIT])
    assert second == tmp_path / "s.v1-2.csv" == write_splits(first, PAIRS, [PAIRS_SPLIT])
    third = write_splits(first, PAIRS, [np.roll(PAIRS_SPLIT, 4)])
    assert third == tmp_path / "s.v1-3.csv" and first.read_text() == edited
    assert sorted(tmp_path.iterdir()) == sorted([first, second, third])
    np.testing.assert_array_equal(read_splits(second, PAIRS)[0], PAIRS_SPLIT)


def test_a_splits_file_that_leaves_nothing_is_refused(tmp_path):
    """No rows, no split in any row, no file."""
    header = edited(tmp_path, lambda lines: lines.__delitem__(slice(1, None)))
    assert error(read_splits, header, PAIRS) == (
        f"{header}: no rows below the header, so no image is left; a row an image and fold is needed"
    )
    blank = edited(tmp_path, replaced(*((i, f",{side},", ",,") for i, side in enumerate(PAIRS_SPLIT, 1))))
    assert error(read_splits, blank, PAIRS) == (f"{blank}, fold 0: the split is blank for every image, so none is left")
    assert error(read_splits, tmp_path, PAIRS).endswith(": is a folder, a pipe or a device")
    os.mkfifo(tmp_path / "pipe.csv")
    assert error(read_splits, tmp_path / "pipe.csv", PAIRS).endswith(": is a folder, a pipe or a device")
    assert error(read_splits, tmp_path / "gone.csv", PAIRS).endswith(": no such file")


def test_splits_file_with_other_labels(tmp_path):
    swapped = edited(tmp_path, replaced(*((i, ",c0,", ",c1,") for i in (1, 3, 5, 7))))
    first = ", ".join(f"{i}.png: 'c1', not 'c0'" for i in (0, 2, 4))
    message = error(read_splits, swapped, PAIRS)
    assert message == f"{swapped}: 4 labels differ from those of hand: {first} and 1 more"
    multi = by_hand([[1, 1], [0, 0]] * 3, task="multilabel")
    file = write_splits(tmp_path / "m.csv", multi, [np.repeat(SPLITS, 2)])
    text = file.read_text()
    file.write_text(text.replace("c0|c1", "c1 | c0"))
    np.testing.assert_array_equal(read_splits(file, multi)[0], np.repeat(SPLITS, 2))
    file.write_text(text.replace("c0|c1", "c1", 1))
    assert "1 labels differ from those of hand: 0.png: 'c1', not 'c0|c1'" in error(read_splits, file, multi)


def test_splits_file_from_a_spreadsheet(tmp_path):
    """Rows sorted anew, semicolons, a BOM, CRLF, only the two columns that count."""
    rows = [f"{path};{side}" for path, side in zip(PAIRS.paths, PAIRS_SPLIT, strict=True)]
    (tmp_path / "s.csv").write_bytes(("\ufeffimage;split\r\n" + "\r\n".join(sorted(rows)) + "\r\n").encode())
    np.testing.assert_array_equal(read_splits(tmp_path / "s.csv", PAIRS)[0], PAIRS_SPLIT)


def test_splits_files_that_do_not_fit(tmp_path):
    def message(edit):
        return error(read_splits, edited(tmp_path, edit), PAIRS)

    unknown = message(replaced((1, "0.png", "zero.png"), (2, "1.png", "one.png")))
    assert "2 images are not in hand: zero.png, one.png" in unknown
    missing = message(lambda lines: lines.pop(3))
    assert "1 images of hand are not in fold 0: 2.png" in missing
    assert "1 images are more than once in fold 0: 0.png" in message(lambda lines: lines.append(lines[1]))
    wrong = message(replaced((1, "train", "trian"), (9, "test", "hold-out")))
    assert "the split must be train, val or test; 2 rows are not: 0.png: 'trian', 8.png: 'hold-out'" in wrong
    torn = message(replaced((1, "train", "test"), (5, "val", "train")))
    assert "fold 0: 2 patients are in two splits: 0 (test and train), 2 (train and val)" in torn
    absent = message(replaced(*((i, "val", "train") for i in range(5, 9))))
    assert "no image is in val" in absent
    class_absent = message(replaced((6, "val", ""), (8, "val", "")))
    assert "class c1 is absent from val" in class_absent
    headless = message(lambda lines: lines.__setitem__(slice(None), ["x,y"]))
    assert "no column image, split; its columns are x, y" in headless
    assert "no such file" in error(read_splits, tmp_path / "none.csv", PAIRS)


def test_splits_file_with_folds_that_differ(tmp_path):
    """Each fold is checked; folds come in the order of their numbers, 10 after 9."""
    other = np.roll(PAIRS_SPLIT, 4)
    write_splits(tmp_path / "s.csv", PAIRS, [PAIRS_SPLIT, other])
    text = (tmp_path / "s.csv").read_text()
    renumbered = re.sub(r",0\n", ",10\n", text)
    renumbered = re.sub(r",1\n", ",9\n", renumbered)
    (tmp_path / "s.csv").write_text(renumbered)
    first, second = read_splits(tmp_path / "s.csv", PAIRS)
    np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(second, PAIRS_SPLIT)
    (tmp_path / "s.csv").write_text(renumbered.replace("0.png,0,c0,train,10", "0.png,0,c0,val,10", 1))
    assert "fold 10: 1 patients are in two splits" in error(read_splits, tmp_path / "s.csv", PAIRS)


# ---- the data check ----


def load(layout: str, folder: Path) -> Index:
    return datasets.load_index(layouts.LAYOUTS[layout][0], str(layouts.write(layout, folder)))


def test_check_data_counts_beside_the_official_ones(tmp_path):
    index = load("mura", tmp_path)
    rows, problems, warnings = check_data(index, make_splits(index), found="18 L", warnings=["dark"])
    assert problems == []
    archive = {(row["split"], row["class"]): row for row in rows if row["table"] == "archive"}
    assert [archive["train", ""][k] for k in ("images", "groups", "units")] == [11, 6, 8]
    assert [archive["test", "abnormal"][k] for k in ("images", "groups", "units")] == [4, 2, 2]
    assert archive["all", ""]["images"] == 18 and archive["all", "normal"]["units"] == 6
    assert archive["train", ""]["official"] == "36808 images, 11184 patients, 13457 studies"
    assert "mura, train: 11 images, 6 patients, 8 studies; a full copy has 36808, 11184, 13457" in warnings
    assert "mura, test abnormal: 2 studies; a full copy has 538" in warnings and "dark" in warnings
    fold = {row["split"]: row["images"] for row in rows if row["table"] == "fold 0" and not row["class"]}
    assert fold["all"] == 18 and fold["test"] == 7 and fold["train"] + fold["val"] == 11
    assert rows[0]["note"] == "18 L" and all(tuple(row) == splits.CHECK_COLUMNS for row in rows)
    assert sum(row["table"] == "warning" for row in rows) == len(warnings)


def test_check_data_of_a_full_copy_is_silent():
    """400 images, 100 a class."""
    labels = np.repeat(np.arange(4), 100)
    paths = [f"{i}.tif" for i in range(400)]
    classes = list(datasets.BACH_CLASSES)
    about = {"name": "bach", "task": "multiclass", "root": Path("."), "group_kind": "image"}
    index = Index(**about, classes=classes, paths=paths, labels=labels)
    index.counts = {("all", ""): {"images": 400}, ("all", "Benign"): {"images": (99, 100)}}
    assert check_data(index, make_splits(index))[1:] == ([], [])
    index.counts["all", "Benign"] = {"images": (7, 8)}
    assert check_data(index)[2] == ["bach, all Benign: 100 images; a full copy has 7 or 8"]


def test_check_data_finds_what_must_be_fixed(tmp_path):
    index = load("t1w-kaggle", tmp_path / "data")
    (index.root / "Training" / "no_tumor" / "p 3.jpg").write_bytes(b"no picture")
    pixels = images.decode(index.sources(), 8, tmp_path / "c")
    seen = {"bad": pixels.bad, "identical": pixels.identical, "found": pixels.found, "warnings": pixels.warnings}
    rows, problems, warnings = check_data(index, make_splits(index), **seen)
    (problem,) = problems
    assert problem.startswith("t1w: 1 of 24 images cannot be read: Training/no_tumor/p 3.jpg (")
    assert problem.endswith("; fix them or give --skip-bad")
    (unreadable,) = (row["note"] for row in rows if row["table"] == "unreadable")
    assert unreadable.startswith("Training/no_tumor/p 3.jpg (")
    leak = "1 sets of byte-identical images are in two splits: Testing/glioma_tumor/image(2).jpg (test) = "
    assert sum(leak in warning for warning in warnings) == 1
    assert not any("different" in warning for warning in warnings)


def test_copies_in_train_and_test_must_be_mended_and_others_be_looked_at():
    """Of each set of copies one example a side is named, whatever else is in it."""
    sides = np.repeat(["train", "val", "test", "", "train"], [5, 3, 3, 1, 2])
    index = by_hand([0, 1] * 7)
    index.group_kind = "image"
    copies = [[0, 1, 2, 8], [3, 5, 9], [4, 6], [7, 10], [0, 11]]
    rows, problems, warnings = check_data(index, [sides], identical=copies)
    (problem,) = problems
    assert problem == (
        "hand, fold 0: 2 sets of byte-identical images are in train and test: 0.png (train) = 8.png (test), "
        "3.png (train) = 5.png (val) = 9.png (test); --drop-duplicates takes the copies out of training"
    )
    (across, labels) = warnings
    assert across == (
        "hand, fold 0: 2 sets of byte-identical images are in two splits: 4.png (train) = 6.png (val), "
        "7.png (val) = 10.png (test); --drop-duplicates takes the copies out of training"
    )
    assert labels.startswith("hand: 3 sets of byte-identical images have different labels")
    assert [row["note"] for row in rows if row["table"] == "problem"] == problems
    _, problems, warnings = check_data(index, [without_copies(copies, sides)], identical=copies)
    assert not any("byte-identical" in problem for problem in problems) and warnings == [labels]


def test_images_that_look_alike_across_splits_are_a_warning_with_examples():
    """Apart from those that are byte-identical and said as such; the most alike first; of each fold."""
    sides = np.repeat(["train", "val", "test"], 4)
    index = by_hand([0, 1] * 6)
    pairs = [(4, 0, 0.991), (8, 3, 0.9987), (9, 1, 1.0), (10, 5, 0.995), (11, 2, 0.992)]
    asked = []

    def near(split):
        asked.append(split.tolist())
        return pairs if len(asked) < 2 else []

    _, problems, warnings = check_data(index, [sides, sides[::-1]], near=near, identical=[[9, 1]])
    assert asked == [sides.tolist(), sides[::-1].tolist()]
    (warning,) = (text for text in warnings if "look like" in text)
    assert warning.startswith("hand, fold 0: 4 images (3 in test, 1 in val) look like one in another split (")
    examples = (
        "8.png (test) ~ 3.png (train) 0.999, 10.png (test) ~ 5.png (val) 0.995, 11.png (test) ~ 2.png (train) 0.992"
    )
    assert f": {examples} and 1 more; look at them" in warning
    assert not any("look like" in text for text in problems)


def test_check_data_groups_in_two_splits_and_identical_across_groups(tmp_path):
    index = load("mura", tmp_path)
    index.groups[-1] = "patient00001"
    _, problems, warnings = check_data(index, identical=[[0, 3]])
    assert problems == ["mura, official split: 1 patients are in two splits: patient00001 (test and train)"]
    elbow, hand = index.paths[0], index.paths[3]
    same = "mura: 1 sets of byte-identical images have different"
    assert f"{same} labels: {elbow} (abnormal) = {hand} (normal)" in warnings
    assert f"{same} patients: {elbow} (patient00001) = {hand} (patient00002)" in warnings
    given = ["mura: 1 patients are in two splits: patient00001 (test and train)", "another", "another"]
    rows, problems, _ = check_data(index, problems=given)
    assert problems == given[:2]
    assert [row["note"] for row in rows if row["table"] == "problem"] == given[:2]
    index.labels[index.labels == 1] = 0
    _, problems, _ = check_data(index.keep(range(11)))
    assert len(problems) == 1 and "class abnormal is absent from train" in problems[0]


def test_splits_of_names_that_a_spreadsheet_would_run_come_back_as_they_were(tmp_path):
    """Every form that as_text knows, its own mark included; numbers are left alone."""
    groups = ["=1+1", "+x", "-x", "@x", "'=x", "''@x", "-5", "'x", "a=b", "=1+1"]
    index = by_hand(np.array([0, 1] * 5), groups)
    index.paths = [f"={i}.png" for i in range(10)]
    sides = np.array(["train", "train", "train", "train", "val", "val", "test", "test", "train", "train"])
    file = write_splits(tmp_path / "s.csv", index, [sides])
    lines = file.read_text().splitlines()
    assert (
        lines[1].startswith("'=0.png,'=1+1,")
        and lines[7].startswith("'=6.png,-5,")
        and lines[5].startswith("'=4.png,''=x,")
    )
    assert not any(re.match("[=+@]", cell) for line in lines[1:] for cell in line.split(","))
    (found,) = read_splits(file, index)
    assert found.tolist() == sides.tolist()
