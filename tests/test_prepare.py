"""A dataset made ready and judged: unreadable images, copies, positives, units, thresholds."""

import csv
import errno
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from toys import CPU, SMALL, Toy, predictions, read, settings_of, toy_data, toy_training

import datasets
import ftcompare
import images
import prepare
import train


def test_thresholds_come_from_validation():
    index = toy_data().index
    rows, scores = np.arange(4), np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])  # labels 0 1 0 1
    assert prepare.choose_thresholds(index, rows, scores, "0.5") == [0.5]
    assert prepare.choose_thresholds(index, rows, scores, "sensitivity=1.0") == [0.2]
    assert prepare.choose_thresholds(index, rows, scores, "youden") == [0.4]  # 0.5 + 1 - 1; 0.2 has as much: the higher


def highest_youden(scores, positive):
    """By trying every score: (sensitivity + specificity, score), the largest of both."""
    tried = [(np.mean(scores[positive] >= t) + np.mean(scores[~positive] < t), t) for t in scores]
    return max(tried)[1]


def scored_run(folder, data, best=1, rule="youden"):
    """(result, predictions by split) of a toy run whose best epoch is the one that is said, of three."""
    values = iter([float(epoch == best) for epoch in (1, 2, 3)])
    judge = lambda rows, scores: next(values)
    model, plan, run = toy_training(folder, data=data, judge=judge, epochs=3)
    cell = ftcompare.Cell("toy", "toy", "ft", 0, 0)
    recipe = train.Recipe(epochs=3, batch_size=8, **CPU)
    result = ftcompare.score(cell, model, plan, data, run, recipe, rule, keep_last=False)
    rows = predictions(run.path)
    return result, run, {side: [r for r in rows if r["split"] == side] for side in ("val", "test")}


@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_best_epoch_s_weights_score_the_test_at_a_threshold_of_validation(tmp_path, best):
    data = toy_data()
    data.index.labels = np.array([0, 1, 1, 0, 1] * 8)  # not what the pictures show: no perfect threshold
    result, run, rows = scored_run(tmp_path, data, best)
    model = Toy().eval()
    model.load_state_dict(run.load("best.pt")["model"])
    assert run.load("best.pt")["meta"]["epoch"] == result["best_epoch"] == best
    assert (result["epochs"], result["optimizer_steps"]) == (3, 3 * 3)  # 24 images in batches of 8
    p, positive = {}, {}
    for side in ("val", "test"):
        with torch.no_grad():
            expected = model(data.images(data.rows[side], torch.device("cpu"))).double().softmax(dim=1)
        p[side] = np.array([float(r["score_b"]) for r in rows[side]])
        positive[side] = data.index.labels[data.rows[side]] == 1
        assert p[side] == pytest.approx(expected[:, 1].numpy(), abs=1e-6)
    threshold = highest_youden(p["val"], positive["val"])
    assert result["thresholds"] == [threshold] and threshold not in p["test"] and threshold != 0.5
    for side in ("val", "test"):
        called = p[side] >= threshold
        values = result[side]["values"]
        assert values["sensitivity"] == called[positive[side]].mean()
        assert values["specificity"] == (~called[~positive[side]]).mean()


def test_labels_are_judged_at_the_thresholds_of_their_own_validation(tmp_path):
    """Of two labels, some unknown: F1 on the test, worked by counting, at each label's Youden threshold."""
    data, rng = toy_data(), np.random.default_rng(3)
    data.index.task, data.index.metric = "multilabel", "auroc"
    data.index.labels = rng.integers(0, 2, (40, 2)).astype(np.float32)
    data.index.labels[rng.random((40, 2)) < 0.2] = math.nan
    result, _, rows = scored_run(tmp_path, data)
    for c, (name, threshold) in enumerate(zip(("a", "b"), result["thresholds"], strict=True)):
        p = {side: np.array([float(r[f"score_{name}"]) for r in rows[side]]) for side in rows}
        y = {side: data.index.labels[data.rows[side], c] for side in rows}
        known = ~np.isnan(y["val"])
        assert threshold == highest_youden(p["val"][known], y["val"][known] == 1)
        called, positive, known = p["test"] >= threshold, y["test"] == 1, ~np.isnan(y["test"])
        called &= known
        f1 = 2 * (called & positive).sum() / (called.sum() + positive.sum())
        assert result["test"]["per_class"][name]["f1"] == pytest.approx(f1, abs=1e-12)


def test_a_label_that_validation_cannot_part_falls_back_and_is_named(tmp_path):
    """Validation has only positives of b, the test only negatives of a: 0.5 for b, a threshold of validation
    for a."""
    data = toy_data()
    data.index.task, data.index.metric = "multilabel", "auroc"
    data.index.labels = np.tile(np.array([[0, 1], [1, 0]], np.float32), (20, 1))
    data.index.labels[data.rows["val"], 1] = 1
    data.index.labels[data.rows["test"], 0] = 0
    result, _, rows = scored_run(tmp_path, data)
    p = np.array([float(r["score_a"]) for r in rows["val"]])
    threshold = highest_youden(p, data.index.labels[data.rows["val"], 0] == 1)
    assert result["thresholds"] == [threshold, 0.5] and result["threshold_fallback"] == ["b"]
    assert scored_run(tmp_path / "half", data, rule="0.5")[0]["threshold_fallback"] == []


@pytest.mark.parametrize(("how", "by_hand"), [(None, [0.3]), ("mean", [0.6]), ("max", [0.9]), ("video", [0.3])])
def test_a_threshold_is_one_for_the_unit_that_is_judged(how, by_hand):
    """Study s is healthy (0.2, 0.8), study t is not (0.9, 0.3). Sensitivity 1 takes 0.3 of an image, the mean
    (0.9 + 0.3) / 2 of a study, or its maximum; a video has no label of its own."""
    index = toy_data(18).index
    index.labels[[0, 2, 1, 3]] = [0, 0, 1, 1]
    index.units, index.unit_score = ([*"stst", *map(str, range(14))], how) if how else (None, "mean")
    p = np.array([0.2, 0.9, 0.8, 0.3])
    found = prepare.choose_thresholds(index, np.arange(4), np.stack([1 - p, p], 1), "sensitivity=1.0")
    assert found == pytest.approx(by_hand)


def test_an_unknown_label_has_no_part_in_a_threshold():
    """Known: positives at 0.9 and 0.3, a negative at 0.1, so that 0.3 parts them. Were the unknown 0.5 and
    0.4 negatives, 0.9 would be better. Of label b every known one is positive, and of c none: 0.5."""
    index = toy_data(18).index
    nan = math.nan
    index.task, index.classes = "multilabel", ["a", "b", "c"]
    index.labels = np.array([[1, 1, nan], [nan, 1, 0], [nan, nan, 0], [1, nan, 0], [0, 1, nan]], np.float32)
    scores = np.array([[0.9, 0.5, 0.4, 0.3, 0.1]] * 3).T
    assert prepare.choose_thresholds(index, np.arange(5), scores, "youden") == [0.3, 0.5, 0.5]
    assert prepare.without_both(index, np.arange(5), scores) == ["b", "c"]


@pytest.mark.parametrize("bad", [("dark/a.png",), ("light/z.png",), ("dark/m.png", "light/a.png"), ()])
def test_without_unreadable_images_the_others_keep_their_own_pixels(tmp_path, bad):
    """Bad ones first, last and amid; every image that is left is compared with what Pillow reads of its file,
    and the copies among them are still the copies."""
    names = [f"{label}/{name}.png" for label in ("dark", "light") for name in "abcdefmz"]
    for i, name in enumerate(names):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / name)
    for twin, of in (("dark/e.png", "dark/b.png"), ("light/f.png", "light/e.png")):
        shutil.copy(tmp_path / "data" / of, tmp_path / "data" / twin)
    for name in bad:
        (tmp_path / "data" / name).write_bytes(b"no picture")
    arguments = [*SMALL, "--img-size", "8", "--skip-bad", "--output-dir", tmp_path / "runs"]
    chosen = settings_of("--data", tmp_path / "data", *arguments)
    where = prepare.Places(output_dir=str(tmp_path / "runs"))
    ready = prepare.prepare(str(tmp_path / "data"), chosen.preparation, chosen.options, where)
    assert ready.index.paths == [name for name in names if name not in bad]
    assert [ready.index.label_text(i) for i in range(len(ready.index))] == [
        name.partition("/")[0] for name in ready.index.paths
    ]
    data = ready.data(0, mean=(0.25,) * 3, std=(0.5,) * 3)
    for i, name in enumerate(ready.index.paths):
        pixels = np.asarray(Image.open(tmp_path / "data" / name))
        given = data.images(np.array([i]), torch.device("cpu"))[0, 0].numpy()
        assert np.allclose(given, (pixels / 255 - 0.25) / 0.5, atol=1e-6), name
    found = sorted(sorted(ready.index.paths[i] for i in same) for same in ready.identical)
    assert found == [["dark/b.png", "dark/e.png"], ["light/e.png", "light/f.png"]]
    assert np.array_equal(data.sides(), ready.folds[0]) and set(ready.folds[0]) == {"train", "val", "test"}


def test_splits_are_cut_by_the_seed_the_shares_and_the_copies_that_were_said():
    """40 single images, 20 a class: a tenth validates, three tenths test, to the image."""
    index = toy_data().index

    def folds(*flags, identical=()):
        flags = ["--data", "x", "--val-fraction", "0.1", "--test-fraction", "0.3", *flags]
        return prepare.cut_folds(index, list(identical), settings_of(*flags).preparation)

    (first,), (second,) = folds("--split-seed", "1"), folds("--split-seed", "2")
    for sides in (first, second):
        assert [(sides == side).sum() for side in ("train", "val", "test")] == [24, 4, 12]
    assert (first != second).any() and np.array_equal(first, folds("--split-seed", "1")[0])
    train, val, test = (np.flatnonzero(first == side).tolist() for side in ("train", "val", "test"))
    copies = [[train[0], test[0]], [train[1], val[0], test[1]]]
    (tied,) = folds("--split-seed", "1", identical=copies)
    assert [len({tied[i] for i in same}) for same in copies] == [1, 1]
    four = folds("--folds", "4", "--val-fraction", "0.2")
    assert [(sides == "test").sum() for sides in four] == [10] * 4
    assert sorted(np.concatenate([np.flatnonzero(sides == "test") for sides in four])) == list(range(40))
    assert [(sides == "val").sum() for sides in four] == [6] * 4  # a fifth of the other thirty


def test_the_positive_class_is_said_and_can_be_chosen(folder, tmp_path, run):
    arguments = ["--data", folder, *SMALL, "--epochs", "1", "--strategy", "lp"]
    code, out, _ = run(*arguments, "--output-dir", tmp_path / "a")
    assert code == 0 and "positive class: light" in out
    code, out, _ = run(*arguments, "--positive", "dark", "--output-dir", tmp_path / "b")
    assert code == 0 and "positive class: dark" in out
    found = predictions(next((tmp_path / "b").glob("*/*/lp/*")))
    assert found and all(r["label"] == r["image"].partition("/")[0] for r in found)
    result = json.loads(next((tmp_path / "b").glob("*/*/lp/*/metrics.json")).read_text())
    rows = [r for r in predictions(next((tmp_path / "b").glob("*/*/lp/*"))) if r["split"] == "test"]
    threshold = result["thresholds"][0]
    dark = [float(r["score_dark"]) >= threshold for r in rows if r["label"] == "dark"]
    assert result["positive"] == "dark" and result["test"]["values"]["sensitivity"] == pytest.approx(np.mean(dark))
    assert run(*arguments, "--positive", "grey", "--output-dir", tmp_path / "c")[0] == 2


@pytest.mark.parametrize("positive", [None, "a", "b"])
def test_the_other_positive_class_leaves_every_image_its_label(positive):
    index = toy_data().index
    index.labels[:5] = 1  # not as many of one as of the other
    text, old = [index.label_text(i) for i in range(40)], index.labels.copy()
    prepare.set_positive(index, positive)
    turned = positive == "a"
    assert index.classes == (["b", "a"] if turned else ["a", "b"])
    assert [index.label_text(i) for i in range(40)] == text
    assert np.array_equal(index.labels, 1 - old if turned else old)
    assert index.notes[0].startswith(f"positive class: {positive or 'b'}")


def test_a_test_set_is_official_where_it_is_the_whole_of_one_and_no_more():
    index = toy_data(20).index
    index.official = ["train"] * 12 + ["test"] * 6 + [""] * 2
    own = np.arange(12, 18)
    assert prepare.is_official(index, own)
    for rows in (own[:-1], own[:1], np.append(own, 18), np.append(0, own), np.arange(6), np.array([], int)):
        assert not prepare.is_official(index, rows), rows
    index.official_folds = [["test"] * 5 + ["train"] * 15, ["train"] * 15 + ["test"] * 5]
    assert prepare.is_official(index, np.arange(5)) and prepare.is_official(index, np.arange(15, 20))
    assert not prepare.is_official(index, np.arange(4)) and not prepare.is_official(index, np.arange(13, 20))
    index.official, index.official_folds = [""] * 20, None
    assert not prepare.is_official(index, np.arange(14, 20)) and not prepare.is_official(index, np.array([], int))


def test_all_unreadable_images_are_named_and_can_be_skipped(folder, tmp_path, run):
    copy = tmp_path / "pictures"
    shutil.copytree(folder, copy)
    good = next((copy / "dark").glob("*.png")).read_bytes()
    (copy / "dark" / "cut.png").write_bytes(good[: len(good) // 2])
    (copy / "light" / "empty.png").write_bytes(b"")
    arguments = ["--data", copy, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path / "runs"]
    code, _, err = run(*arguments)
    assert code == 2 and "2 of 62 images cannot be read" in err and "cut.png" in err and "empty.png" in err
    code, out, _ = run(*arguments, "--skip-bad")
    assert code == 0 and "left out, unreadable, in every strategy alike: 2" in out
    names = {r["image"] for r in predictions(next((tmp_path / "runs").glob("*/*/lp/*/metrics.json")).parent)}
    assert names and not names & {"dark/cut.png", "light/empty.png"}


def test_images_that_the_system_refuses_are_not_skipped_as_bad(folder, tmp_path, run, monkeypatch):
    """--skip-bad is for what is damaged. Two refused images stop the run, damaged ones beside them or not."""
    copy, refuses = tmp_path / "pictures", True
    shutil.copytree(folder, copy)
    (copy / "dark" / "cut.png").write_bytes(b"")
    real, refused = images.header, {"pd0_1.png", "pl3_9.png"}

    def header(source):
        if refuses and Path(source).name in refused:
            raise PermissionError(errno.EACCES, "Permission denied", str(source))
        return real(source)

    monkeypatch.setattr(images, "header", header)
    small = ["--data", copy, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path / "runs"]
    code, _, err = run(*small, "--skip-bad")
    assert code == 2 and err.count("\n") == 1 and "2 of 61 images could not be read now" in err
    assert all(f"{name}: Permission denied" in err for name in refused) and "cut.png" not in err
    refuses = False
    code, out, _ = run(*small, "--skip-bad")
    assert code == 0 and "left out, unreadable, in every strategy alike: 1" in out


def test_drop_duplicates_takes_the_copies_out_of_training(folder, tmp_path, run):
    copy = tmp_path / "pictures"
    for side, share in (("train", slice(0, 24)), ("test", slice(24, None))):
        for label in ("dark", "light"):
            (copy / side / label).mkdir(parents=True)
            for file in sorted((folder / label).iterdir())[share]:
                shutil.copy(file, copy / side / label)
    twin = min((copy / "test" / "dark").iterdir())
    shutil.copy(twin, copy / "train" / "dark" / "twin.png")
    arguments = ["--data", copy, *SMALL, "--strategy", "lp", "--epochs", "1"]
    code, out, _ = run(*arguments, "--output-dir", tmp_path / "kept")
    assert code == 0 and "1 groups of byte-identical images are in two splits" in out and "twin.png" in out
    code, out, _ = run(*arguments, "--drop-duplicates", "--output-dir", tmp_path / "dropped")
    assert code == 0 and "1 images left out" in out and "byte-identical" not in out
    with open(next((tmp_path / "dropped" / "splits").iterdir()), newline="") as file:
        split = {r["image"]: r["split"] for r in csv.DictReader(file)}
    assert split["train/dark/twin.png"] == "" and split[f"test/dark/{twin.name}"] == "test"


def test_identical_test_images_count_as_one_and_an_official_split_stays(folder, tmp_path, run):
    """In the test folder two copies of one image, and in the training folder a third."""
    copy = tmp_path / "pictures"
    for side, share in (("train", slice(0, 24)), ("test", slice(24, None))):
        for label in ("dark", "light"):
            (copy / side / label).mkdir(parents=True)
            for file in sorted((folder / label).iterdir())[share]:
                shutil.copy(file, copy / side / label)
    first = min((copy / "test" / "dark").iterdir())
    for name in ("test/dark/twin.png", "test/dark/zwin.png", "train/dark/twin.png"):
        shutil.copy(first, copy / name)
    arguments = ["--data", copy, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path / "runs"]
    code, out, _ = run(*arguments)
    assert code == 0 and "test      14 images, 12 of them different: dark 8, light 6" in out
    assert "1 groups of byte-identical images are in two splits (1 in test and train)" in out
    assert "the official split is left as it is" in out and "over 12 different images" in out
    folder = next((tmp_path / "runs").glob("*/*/lp/*/predictions.csv")).parent
    rows = [row for row in predictions(folder) if row["split"] == "test"]
    same = {row["image"] for row in rows if row["cluster"] == f"test/dark/{first.name}"}
    assert same == {f"test/dark/{name}" for name in (first.name, "twin.png", "zwin.png")}
    assert len({row["cluster"] for row in rows}) == 12 and all(row["group"] == row["image"] for row in rows)
    html = (tmp_path / "runs" / "report.html").read_text()
    assert "14 test images, 12 of them different" in html and "official one, left as it is" in html
    with open(tmp_path / "runs" / "splits" / "pictures-seed0-folds1.csv", newline="") as file:
        split = {r["image"]: r["split"] for r in csv.DictReader(file)}
    assert {side for image, side in split.items() if image.startswith("test/")} == {"test"}
    for name in ("test/dark/twin.png", "test/dark/zwin.png", "train/dark/twin.png"):
        (copy / name).unlink()  # without copies the file is as it was
    run(*arguments[:-1], tmp_path / "plain")
    plain = next((tmp_path / "plain").glob("*/*/lp/*/predictions.csv")).parent
    assert "cluster" not in predictions(plain)[0]
    said = [json.loads((at / "config.json").read_text())["settings"]["data_hash"] for at in (folder, plain)]
    assert said[1] == datasets.load_index(str(copy)).fingerprint()
    for name in ("test/dark/twin.png", "test/dark/zwin.png", "train/dark/twin.png"):
        shutil.copy(first, copy / name)
    assert said[0] != datasets.load_index(str(copy)).fingerprint()  # runs of before, resampled otherwise, go no further


def test_copies_across_train_and_test_fail_the_data_check(folder, tmp_path, run):
    """In an official split: in one that is made they stay together."""
    copy = tmp_path / "pictures"
    shutil.copytree(folder, copy / "train")
    for label in ("dark", "light"):
        (copy / "test" / label).mkdir(parents=True)
        for k, file in enumerate(sorted((copy / "train" / label).iterdir())[::5]):
            (shutil.copy if k == 0 else shutil.move)(file, copy / "test" / label)
    check = ["--data", copy, *SMALL, "--check-data", "--output-dir", tmp_path / "runs"]
    code, out, _ = run(*check)
    found = "MUST BE MENDED: pictures, fold 0: {} sets of byte-identical images are in train and test: test/dark/"
    assert code == 1 and (found.format(1) in out or found.format(2) in out)
    code, out, _ = run(*check, "--drop-duplicates")
    assert code == 0 and "MUST BE MENDED" not in out and "byte-identical" not in out
    shutil.copytree(folder, tmp_path / "own" / "pictures")
    shutil.copy(next((folder / "dark").iterdir()), tmp_path / "own" / "pictures" / "dark" / "twin.png")
    code, out, _ = run("--data", tmp_path / "own" / "pictures", *check[2:])
    assert code == 0 and "byte-identical" not in out


def test_near_copies_across_splits_are_a_warning_of_the_data_check(tmp_path, run):
    """Twelve patients of noise that nobody shares; of two test images a smaller and a darker copy in train."""
    rng = np.random.default_rng(0)
    for side, n in (("train", 16), ("test", 8)):
        for k in range(n):
            file = tmp_path / "data" / side / "ab"[k % 2] / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.kron(rng.integers(40, 200, (12, 12), dtype=np.uint8), np.ones((4, 4), np.uint8))).save(
                file
            )
    for k, alter in ((0, lambda i: i.resize((24, 24))), (3, lambda i: i.point(lambda v: v * 0.9))):
        with Image.open(tmp_path / "data" / "test" / "ab"[k % 2] / f"{k}.png") as image:
            alter(image).save(tmp_path / "data" / "train" / "ab"[k % 2] / f"copy{k}.png")
    code, out, _ = run("--data", tmp_path / "data", *SMALL, "--check-data", "--output-dir", tmp_path / "runs")
    (line,) = (line for line in out.splitlines() if "look like one" in line)
    assert code == 0 and line.startswith("  warning: data, fold 0: 2 images (2 in test) look like one in another split")
    assert all(f"test/{n}.png (test) ~ train/" in line.replace("a/", "").replace("b/", "") for n in (0, 3)), line
    with open(tmp_path / "runs" / "splits" / "data-data_check.csv", newline="") as file:
        assert sum("look like one" in row["note"] for row in csv.DictReader(file)) == 1


@pytest.mark.parametrize("look", [False, True])
def test_what_is_odd_about_pixels_is_said_before_training_and_by_the_data_check(folder, tmp_path, run, look):
    copy = tmp_path / "pictures"
    shutil.copytree(folder, copy)
    Image.new("L", (24, 24), 90).save(copy / "dark" / "flat.png")
    pages = [Image.open(file) for file in sorted((folder / "dark").iterdir())[:2]]
    pages[0].save(copy / "dark" / "pages.tif", save_all=True, append_images=pages[1:])
    clear = Image.open(min((folder / "light").iterdir())).convert("LA")
    clear.putalpha(0)
    clear.save(copy / "light" / "clear.png")
    small = [*SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path / "runs"]
    code, out, _ = run("--data", copy, *small, *["--check-data"] * look)
    kind = "warning" if look else "WARNING"
    assert code == 0
    for said in (
        "1 of 63 images with one flat value, so nothing to see: dark/flat.png",
        "1 of 63 images with an alpha of 0 everywhere, read as if they had none: light/clear.png",
        "1 of 63 images with several pages or frames, of which the first was read: dark/pages.tif",
    ):
        assert f"  {kind}: {said}\n" in out
    (cache,) = (tmp_path / "runs" / "cache").iterdir()
    (cache / "pixels.npy").write_bytes(b"")
    code, out, _ = run("--data", copy, *small, *["--check-data"] * look)
    assert code == 0 and f"  {kind}: the decoded images in {cache} were damaged (" in out


def test_one_colour_image_in_the_test_set_leaves_training_as_it_was(folder, tmp_path, run):
    """The store has three channels then; every number of training and every score of the other images has the same
    bits, whatever the augmentation."""
    for name in ("grey", "colour"):
        for side, share in (("train", slice(0, 24)), ("test", slice(24, None))):
            for label in ("dark", "light"):
                (tmp_path / name / "data" / side / label).mkdir(parents=True)
                for file in sorted((folder / label).iterdir())[share]:
                    shutil.copy(file, tmp_path / name / "data" / side / label)
    odd = min((tmp_path / "colour" / "data" / "test" / "dark").iterdir())
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(odd)
    found = {}
    for name, said in (("grey", "32 px grey"), ("colour", "32 px colour")):
        out = tmp_path / name / "runs"
        how = ["--strategy", "ft", "lp", "--epochs", "2", "--augment", "strong", "--output-dir", out]
        code, printed, err = run("--data", tmp_path / name / "data", *SMALL, *how)
        assert code == 0 and said in printed, err
        for strategy in ("ft", "lp"):
            (place,) = out.glob(f"*/*/{strategy}/seed0-fold0")
            weights = torch.load(place / "best.pt", weights_only=True)["model"]
            log = [
                [row[c] for c in ("train_loss", "val_loss", "val_balanced_accuracy")] for row in read(place / "log.csv")
            ]
            scores = {r["image"]: r["score_light"] for r in predictions(place) if not r["image"].endswith(odd.name)}
            found.setdefault(strategy, []).append((weights, log, scores))
    for (weights, log, scores), (others, other_log, other_scores) in found.values():
        assert log == other_log and scores == other_scores
        assert len(scores) == 8 + 12 - 1  # of validation and test, without the odd one
        assert weights.keys() == others.keys() and all(torch.equal(w, others[name]) for name, w in weights.items())


def test_flip_is_apart_from_augment_and_older_runs_had_the_augmentation_s_own(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--strategy", "ft", "--epochs", "1", "--batch-size", "60"]

    def loss(name, *how):
        code, _, err = run(*base, *how, "--output-dir", tmp_path / name)
        assert code == 0, err
        (place,) = (tmp_path / name).glob("*/*/ft/seed0-fold0")
        return read(place / "log.csv")[0]["train_loss"], place

    plain, place = loss("plain")
    assert loss("same", "--flip", "horizontal")[0] == plain
    losses = {plain, loss("none", "--flip", "none")[0], loss("both", "--flip", "both")[0]}
    still, _ = loss("still", "--augment", "none")
    assert loss("still2", "--augment", "none", "--flip", "none")[0] == still
    losses |= {still, loss("mirror", "--augment", "none", "--flip", "horizontal")[0]}
    assert len(losses) == 5

    config = json.loads((place / "config.json").read_text())
    assert config["settings"].pop("flip") is None
    (place / "config.json").write_text(json.dumps(config))  # as versions without the flag wrote it
    code, out, _ = run(*base, "--output-dir", tmp_path / "plain")
    assert code == 0 and "done before" in out
    code, _, err = run(*base, "--flip", "both", "--output-dir", tmp_path / "plain")
    assert code == 2 and "flip: None there, 'both' now" in err
    assert run(*base, "--flip", "vertical", "--output-dir", tmp_path / "x")[0] == 2


@pytest.mark.parametrize("look", [False, True])
def test_doubtful_ids_are_said_before_training_and_by_the_data_check(folder, tmp_path, run, look):
    images = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    rows = [f"{path},{path[:4]},1.{20 + i % 10}E+11" for i, path in enumerate(images)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient", *rows]))
    where = ["--data", tmp_path / "t.csv", "--data-dir", folder, "--group-col", "patient"]
    how = [*SMALL, "--strategy", "lp", "--epochs", "1", *["--check-data"] * look]
    code, out, _ = run(*where, *how, "--output-dir", tmp_path / "runs")
    kind = "warning" if look else "WARNING"
    found = "10 of 10 patient ids look rounded by a spreadsheet (1.20E+11, 1.21E+11, 1.22E+11 and 7 more)"
    assert code == 0 and f"  {kind}: {found}" in out


BRAIN = ROOT.parent / "shared" / "data" / "brain_tumor_mri"


@pytest.mark.skipif(not BRAIN.is_dir(), reason="the brain MRI images are not on this machine")
def test_real_images_identical_across_the_official_splits_are_found(tmp_path, run):
    digests = {}
    for file in BRAIN.rglob("*.jpg"):
        side = file.relative_to(BRAIN).parts[0]
        digests.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), []).append(side)
    spanning = sum(len(set(sides)) == 2 for sides in digests.values())
    code, out, _ = run("--data", BRAIN, *SMALL, "--check-data", "--output-dir", tmp_path)
    assert code == 1 and "3264 RGB" in out, out
    found = re.findall(r"(\d+) sets of byte-identical images are in (train and test|two splits)", out)
    assert sum(int(n) for n, _ in found) == spanning and len(found) == 2  # some of Training validates
    code, out, _ = run("--data", BRAIN, *SMALL, "--check-data", "--drop-duplicates", "--output-dir", tmp_path)
    assert code == 0 and "byte-identical" not in out and "look like one in another split" in out
