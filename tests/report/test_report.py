"""From run folders to the report: run folders are written here by hand, so that every number is known."""

import csv
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import metrics
from report import analysis, page, stats, views, wording
from report import build as report
from runs import mean_over_runs, read_runs, read_scored

CLASSES = ["benign", "malignant"]
KEYS = {name: name.replace("-", "").lower() for name in wording.ORDER}


def right_scores(labels, right, confidence=0.8, classes=2):
    """(N, C) scores that call the true class where right, else the next one."""
    called = np.where(right, labels, (labels + 1) % classes)
    scores = np.full((len(labels), classes), (1 - confidence) / (classes - 1))
    scores[np.arange(len(labels)), called] = confidence
    return scores


def all_right(labels):
    return right_scores(labels, np.full(len(labels), True))


def write_run(root, strategy, scores, labels, *, data="toy", arch="net", seed=0, fold=0, groups=None, images=None, clusters=None,
              kind="patient", classes=CLASSES, task="multiclass", metric="accuracy", unit=None, units=None, changed=None, tuning=None,
              status="done", train=100, arguments=None, about=None, stages=(), best_stage=None):  # fmt: skip
    """A run folder as ftcompare leaves it, with these test predictions (and the same for validation). arguments,
    about: what config.json holds besides of the command line and of the data. stages: the stage of each epoch."""
    folder = root / data / arch / KEYS[strategy] / f"seed{seed}-fold{fold}"
    folder.mkdir(parents=True)
    n = len(labels)
    images = images or [f"i{k:03d}.png" for k in range(n)]
    groups = groups or images
    cell = {"data": data, "arch": arch, "strategy": KEYS[strategy], "seed": seed, "fold": fold, "trial": None}
    settings = {"cell": cell, "task": task, "classes": classes, "metric": metric, "lr": 1e-4, "epochs": 2, "threshold": "youden",
                "hyperparameters": {"bn": "train"}, "split_hash": {"test": str(hash(tuple(images)))}, "tune": 0}  # fmt: skip
    kinds = {
        "group_kind": kind,
        "unit_kind": unit or "image",
        "unit_score": "mean" if unit == "study" else unit,
    }
    counts = {"images": n, "groups": len(set(groups)), "units": n, "classes": dict.fromkeys(classes, 1)}
    data_about = {"name": data, "citation": None, "images": 2 * n + train, "leave_out": [], "official_test": False, **kinds,
             "splits": {"train": counts | {"images": train}, "val": counts, "test": counts},
             "groups_in_two_splits": 0, "identical_across_splits": 0, "notes": []} | (about or {})  # fmt: skip
    config = {"settings": settings | (changed or {}), "strategy": strategy, "tuning": tuning, "data": data_about,
              "environment": {"torch": "9", "weights": "none"}, "arguments": {"epochs": 2} | (arguments or {}), "command": ["ftcompare.py"]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "log.csv").write_text(
        f"epoch,train_loss,val_loss,val_{metric}\n1,1.0,1.2,0.{seed + 4}\n2,0.5,0.8,0.{seed + 6}\n"
    )
    if stages:
        lines = [f"{k},{stage},1.0,1.2,0.5" for k, stage in enumerate(stages, 1)]
        (folder / "log.csv").write_text(
            "\n".join([f"epoch,stage,train_loss,val_loss,val_{metric}", *lines, ""])
        )
    if status == "failed":
        (folder / "failed.json").write_text(json.dumps({"reason": "the loss grew in epoch 2"}))
    if status != "done":
        return folder
    rows = []
    for split in ("val", "test"):
        for k in range(n):
            row = {"image": images[k], "group": groups[k]} | ({"cluster": clusters[k]} if clusters else {})
            row |= {unit: units[k]} if unit else {}
            if task == "multiclass":
                row["label"] = classes[labels[k]]
            else:
                row |= {f"label_{c}": "" if math.isnan(y) else int(y) for c, y in zip(classes, labels[k])}
            rows.append(
                row | {f"score_{c}": repr(float(x)) for c, x in zip(classes, scores[k])} | {"split": split}
            )
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    scored = (scores, labels)
    if unit == "study":
        scored = metrics.aggregate(scores, labels, np.array(units), "mean")[:2]
    value = metrics.evaluate(task, *scored, classes)
    result = {"cell": cell, "metric": metric, "second": "auroc", "best_epoch": 2, "epochs": 2, "optimizer_steps": 8,
              "minutes": 1.5, "peak_memory_bytes": 2**20, "trainable_parameters": 10, "parameters": 20, "positive": classes[1],
              "thresholds": [0.5] * (1 if task == "multiclass" else len(classes)), "val": value, "test": value,
              "best_stage": best_stage or (stages[-1] if stages else None)}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(result).replace("NaN", "null"))
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def toy(rng, n=200):
    return rng.integers(0, 2, n)


def pair_of(block, a, b):
    return wording.pairs_by_name(block).get((a, b))


# ---------------------------------------------------------------------------------------------- one block


def test_a_row_holds_mean_standard_deviation_and_the_group_bootstrap_of_its_runs(tmp_path, rng):
    labels, groups = toy(rng, 60), [f"p{k // 3}" for k in range(60)]
    accuracy = []
    for seed in range(3):
        right = rng.random(60) < 0.7
        accuracy.append(right.mean())
        write_run(tmp_path, "FT", right_scores(labels, right), labels, seed=seed, groups=groups)
    block = analysis.analyse(tmp_path)["blocks"][0]
    row = block["rows"][0]
    assert row["test"]["mean"] == pytest.approx(np.mean(accuracy), abs=1e-12) and row["test"]["n"] == 3
    assert row["test"]["sd"] == pytest.approx(np.std(accuracy, ddof=1), abs=1e-12)
    assert (block["test_images"], block["test_groups"], block["seeds"]) == (60, 20, [0, 1, 2])
    # the same interval by a plain loop over resamples: patients drawn, the three runs averaged
    weights = stats.resample_groups(20, analysis.RESAMPLES, seed=0)
    order = sorted({g for g in groups})
    runs, _ = read_runs(tmp_path)
    scored = [read_scored(run) for run in runs]
    looped = []
    for w in weights[:400]:
        rows = np.concatenate(
            [np.repeat([k for k in range(60) if groups[k] == g], n) for g, n in zip(order, w)]
        ).astype(int)
        looped.append(np.mean([(s.scores.argmax(1) == s.labels)[rows].mean() for s in scored]))
    boot, again = analysis.bootstrap(
        runs, {(r.strategy, r.at): s for r, s in zip(runs, scored)}, "accuracy", "auroc"
    )
    assert again == 0
    assert {boot["FT", r.at, "accuracy"].drawn for r in runs} == {(0, 20)}
    ours = mean_over_runs([boot["FT", r.at, "accuracy"].values for r in runs])
    assert ours[:400] == pytest.approx(looped, abs=1e-12)
    mean = np.mean(accuracy)
    reach = (
        2.093024054408263 * ours.std() * math.sqrt(20 / 19) / (mean * (1 - mean))
    )  # t of 19 degrees of freedom
    ends = [1 / (1 + (1 - mean) / mean * math.exp(way * reach)) for way in (1, -1)]
    assert (row["test"]["low"], row["test"]["high"]) == pytest.approx(tuple(ends), abs=1e-9)


def write_patients(root, strategy, share, *, patients=6, images=10, fold=0):
    """Two classes; of the patient k the share[k] tenths of the images are right."""
    labels = np.tile(np.repeat([0, 1], 5), patients)
    right = np.concatenate([np.arange(images) % 10 < share[k] for k in range(patients)])
    names = [f"f{fold}-p{k}" for k in range(patients) for _ in range(images)]
    files = [f"f{fold}-{k}.png" for k in range(len(labels))]
    write_run(root, strategy, right_scores(labels, right), labels, groups=names, images=files, fold=fold)


def test_six_patients_need_more_than_that_all_differ_one_way(tmp_path):
    """Differences of 1, 2, 3, 2, 1, 3 tenths: t = 0.2 / (0.0894 / sqrt 6) = 5.477, p = 0.00277 with 5 degrees of freedom
    (R: 2 * pt(-5.477226, 5)); percentiles of the bootstrap gave 2 / 2001."""
    write_patients(tmp_path, "FT", [5, 5, 5, 5, 5, 5])
    write_patients(tmp_path, "LP", [6, 7, 8, 7, 6, 8])
    pair = analysis.analyse(tmp_path)["blocks"][0]["pairs"][0]
    each = np.array([1, 2, 3, 2, 1, 3]) / 10
    error = each.std(ddof=1) / math.sqrt(6)
    assert pair["standard_error"] == pytest.approx(error, rel=0.05) and pair["df"] == 5
    assert pair["p_bootstrap"] == pytest.approx(0.00277, rel=0.2)
    assert (pair["low"], pair["high"]) == pytest.approx(
        (-0.2 - 2.570582 * error, -0.2 + 2.570582 * error), abs=0.01
    )


def test_identical_images_are_resampled_as_one_and_n_counts_those_that_differ(tmp_path, rng):
    """A test set of which every image is there twice has the intervals, the verdict and the n of the set without the copies."""
    labels, images = toy(rng, 60), [f"i{k:02d}.png" for k in range(60)]
    for strategy, share in (("FT", 0.6), ("LP", 0.8)):
        scores = right_scores(labels, rng.random(60) < share)
        write_run(tmp_path / "once", strategy, scores, labels, images=images, kind="image")
        twice = {"images": [*images, *(f"copy of {image}" for image in images)], "kind": "image"}
        two_labels = np.concatenate([labels, labels])
        for folder, clusters in (("twice", images + images), ("old", None)):
            write_run(
                tmp_path / folder,
                strategy,
                np.concatenate([scores, scores]),
                two_labels,
                clusters=clusters,
                **twice,
            )
    once, twice, old = (analysis.analyse(tmp_path / name)["blocks"][0] for name in ("once", "twice", "old"))
    assert (twice["test_images"], twice["test_groups"]) == (120, 60)
    for row, single in zip(twice["rows"], once["rows"]):
        assert (row["test"]["low"], row["test"]["high"]) == pytest.approx(
            (single["test"]["low"], single["test"]["high"]), abs=1e-12
        )
    pair, single = pair_of(twice, "LP", "FT"), pair_of(once, "LP", "FT")
    for name in ("difference", "low", "high"):
        assert pair[name] == pytest.approx(single[name], abs=1e-12)
    assert pair["verdict"] == single["verdict"]
    assert "n = 60 different images" in twice["verdict"] and "n = 60 images" in once["verdict"]
    said = "120 test images, 60 of them different"
    assert any(note.startswith(f"{said}: byte-identical images count as one") for note in twice["notes"])
    assert said in page.headline({"blocks": [twice], "folder": "runs"})
    assert "over 60 different images" in report.text(
        {"blocks": [twice], "across": None, "claims": [], "warnings": []}
    )
    assert any("some images are byte-identical" in note for note in twice["pair_notes"])
    assert not any("different" in note for note in once["notes"]) and "DeLong: AUROC" in " ".join(
        once["pair_notes"]
    )
    assert (
        old["test_groups"] == 120 and "different" not in old["verdict"]
    )  # as runs of older versions are read
    narrow = old["rows"][0]["test"]
    assert narrow["high"] - narrow["low"] < 0.85 * (
        twice["rows"][0]["test"]["high"] - twice["rows"][0]["test"]["low"]
    )


def test_patients_who_share_an_identical_image_count_as_one(tmp_path, rng):
    """Three of thirty: all numbers are those of a test set in which the three go by one name."""
    labels, groups = toy(rng, 90), [f"p{k // 3:02d}" for k in range(90)]
    clusters = ["p00" if group in ("p07", "p21") else group for group in groups]
    for strategy in ("FT", "LP"):
        scores = right_scores(labels, rng.random(90) < 0.7)
        write_run(tmp_path / "shared", strategy, scores, labels, groups=groups, clusters=clusters)
        write_run(tmp_path / "one", strategy, scores, labels, groups=clusters)
        write_run(tmp_path / "old", strategy, scores, labels, groups=groups)
    shared, one, old = (analysis.analyse(tmp_path / name)["blocks"][0] for name in ("shared", "one", "old"))
    assert (shared["test_images"], shared["test_groups"], old["test_groups"]) == (90, 28, 30)
    assert wording.tested_images(shared) == "90 test images of 30 patients, 28 of them different"
    assert wording.tested_images(old) == "90 test images of 30 patients"
    assert "n = 28 different patients" in shared["verdict"] and "n = 28 patients" in one["verdict"]
    for row, expected, apart in zip(shared["rows"], one["rows"], old["rows"]):
        assert row["test"] == expected["test"] and row["test"]["low"] != apart["test"]["low"]
    assert shared["pairs"] == one["pairs"]


@pytest.mark.parametrize("gain", [0, 2])
def test_patients_who_all_say_the_same_prove_nothing_and_that_is_said(tmp_path, gain):
    write_patients(tmp_path, "FT", [6] * 8, patients=8)
    write_patients(tmp_path, "LP", [6 + gain] * 8, patients=8)
    block = analysis.analyse(tmp_path)["blocks"][0]
    pair = block["pairs"][0]
    assert pair["difference"] == pytest.approx(-gain / 10) and pair["p_bootstrap"] == 1
    assert math.isnan(pair["low"]) and math.isnan(pair["high"]) and pair["verdict"] == "not separable"
    said = "No interval, and p is 1: the difference is the same in every resample (FT − LP)."
    assert said in block["pair_notes"]


def test_two_folds_of_four_patients_have_six_degrees_of_freedom(tmp_path):
    for fold in range(2):
        write_patients(tmp_path, "FT", [5, 6, 7, 8], patients=4, fold=fold)
        write_patients(tmp_path, "LP", [4, 8, 5, 7], patients=4, fold=fold)
    pair = analysis.analyse(tmp_path)["blocks"][0]["pairs"][0]
    each = np.array([1, -2, 2, 1]) / 10
    assert pair["standard_error"] == pytest.approx(each.std(ddof=1) / math.sqrt(4) / math.sqrt(2), rel=0.05)
    assert pair["df"] == pytest.approx(6, abs=0.1) and pair["verdict"] == "not separable"


def test_a_fold_of_one_patient_has_no_interval_and_that_is_said(tmp_path):
    for fold, patients in enumerate((6, 1)):
        write_patients(tmp_path, "FT", [5, 6, 7, 8, 5, 6], patients=patients, fold=fold)
        write_patients(tmp_path, "LP", [4, 8, 5, 7, 7, 9], patients=patients, fold=fold)
    block = analysis.analyse(tmp_path)["blocks"][0]
    pair = block["pairs"][0]
    assert math.isnan(pair["low"]) and math.isnan(pair["p_bootstrap"]) and pair["verdict"] == "undefined"
    assert math.isnan(block["rows"][0]["test"]["low"])
    assert any("a test set of a single patient shows no spread" in note for note in block["pair_notes"])


@pytest.mark.parametrize(("images", "share"), [([20] * 6, None), ([90] + [10] * 9, 0.5), ([10] * 9 + [30], None),
    ([40, 20, 20, 20, 20, 10, 10], 40 / 140)])  # fmt: skip
def test_one_patient_with_more_than_a_quarter_of_what_was_tested_is_named(tmp_path, images, share):
    groups = [f"p{k}" for k, n in enumerate(images) for _ in range(n)]
    labels = np.arange(len(groups)) % 2
    for seed in range(2):
        write_run(
            tmp_path,
            "FT",
            right_scores(labels, np.arange(len(groups)) % 3 > 0),
            labels,
            groups=groups,
            seed=seed,
        )
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert block["largest_group_share"] == pytest.approx(max(images) / sum(images))
    said = [note for note in block["notes"] if note.startswith("One patient holds")]
    assert (
        said[:1] == []
        if share is None
        else said[0].startswith(f"One patient holds {share:.0%} of what was tested")
    )


def test_an_interval_without_0_beside_no_verdict_has_its_reason(tmp_path):
    """Three pairs; LP against FT has a p near 0.03 alone, and 0.09 times three."""
    write_patients(tmp_path, "FT", [5] * 6)
    write_patients(tmp_path, "LP", [6, 6, 5, 7, 6, 5])
    write_patients(tmp_path, "LP-FT", [8, 3, 6, 4, 5, 5])
    block = analysis.analyse(tmp_path)["blocks"][0]
    pair = pair_of(block, "LP", "FT")
    assert pair["p_bootstrap"] < 0.05 < pair["p_holm"] and pair["low"] > 0
    assert pair["verdict"] == "not separable"
    assert any(note.startswith("The interval excludes 0 and the verdict is not separable (FT − LP)")
               for note in block["pair_notes"])  # fmt: skip


def test_a_pair_is_paired_and_counts_what_only_one_has_right(tmp_path, rng):
    labels = toy(rng)
    a, b = rng.random(200) < 0.9, rng.random(200) < 0.6
    write_run(tmp_path, "FT", right_scores(labels, b), labels)
    write_run(tmp_path, "LP-FT", right_scores(labels, a), labels)
    block = analysis.analyse(tmp_path)["blocks"][0]
    pair = pair_of(block, "LP-FT", "FT")
    assert pair["difference"] == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert pair["verdict"] == "better" and pair["low"] > 0
    turned = pair_of(block, "FT", "LP-FT")
    assert turned["difference"] == -pair["difference"] and (turned["low"], turned["high"]) == (
        -pair["high"],
        -pair["low"],
    )
    assert turned["verdict"] == "worse"
    kept = block["pairs"][0]
    assert (kept["mcnemar"].only_a, kept["mcnemar"].only_b) == ((b & ~a).sum(), (a & ~b).sum())
    assert block["verdict"].startswith(f"LP-FT has the highest accuracy, {a.mean():.3f} [")
    assert "better than FT by" in block["verdict"] and "One run each" in block["verdict"]


def test_two_strategies_with_the_same_predictions_are_not_separable_and_nothing_divides_by_zero(
    tmp_path, rng
):
    labels = toy(rng)
    scores = right_scores(labels, rng.random(200) < 0.8)
    for fold in range(5):
        images = [f"f{fold}-{k}" for k in range(200)]
        for strategy in ("FT", "LP"):
            write_run(tmp_path, strategy, scores, labels, fold=fold, images=images)
    block = analysis.analyse(tmp_path)["blocks"][0]
    pair = block["pairs"][0]
    assert (pair["difference"], pair["p_bootstrap"]) == (0, 1) and math.isnan(pair["low"])
    assert pair["mcnemar"].p == 1 and pair["t"].p == 1 and pair["verdict"] == "not separable"
    assert "No strategy is separable from FT at n = 1,000 patients" in block["verdict"]


def test_over_five_folds_the_t_test_is_corrected_and_wilcoxon_is_left_out_with_its_reason(tmp_path, rng):
    labels, differences = toy(rng, 50), []
    for fold in range(5):
        images = [f"f{fold}-{k}" for k in range(50)]
        per_seed = []
        for seed in range(2):
            a, b = rng.random(50) < 0.8, rng.random(50) < 0.7
            per_seed.append(a.mean() - b.mean())
            write_run(
                tmp_path,
                "FT",
                right_scores(labels, a),
                labels,
                seed=seed,
                fold=fold,
                images=images,
                train=200,
            )
            write_run(
                tmp_path,
                "LP",
                right_scores(labels, b),
                labels,
                seed=seed,
                fold=fold,
                images=images,
                train=200,
            )
        differences.append(np.mean(per_seed))
    block = analysis.analyse(tmp_path)["blocks"][0]
    pair = block["pairs"][0]
    t = np.mean(differences) / math.sqrt(
        (1 / 5 + 50 / 200) * np.var(differences, ddof=1)
    )  # Nadeau and Bengio 2003
    assert pair["t"].t == pytest.approx(t, rel=1e-12) and pair["t"].df == 4 and pair["wilcoxon"] is None
    notes = " ".join(block["pair_notes"])
    assert "smallest possible p is 0.0625" in notes and "n_test / n_train = 0.25" in notes
    assert block["test_images"] == 250 and pair["runs"] == 10


def test_with_six_folds_wilcoxon_is_there(tmp_path, rng):
    labels = toy(rng, 40)
    for fold in range(6):
        images = [f"f{fold}-{k}" for k in range(40)]
        write_run(
            tmp_path, "FT", right_scores(labels, np.arange(40) >= fold), labels, fold=fold, images=images
        )
        write_run(
            tmp_path,
            "LP",
            right_scores(labels, np.arange(40) >= 2 * fold + 1),
            labels,
            fold=fold,
            images=images,
        )
    pair = analysis.analyse(tmp_path)["blocks"][0]["pairs"][0]
    assert (
        pair["wilcoxon"].p == pytest.approx(2 / 2**6) and pair["wilcoxon"].n == 6
    )  # all six differ one way


def test_delong_is_there_for_independent_images_and_else_its_reason(tmp_path, rng):
    labels = toy(rng, 80)
    scores = {}
    for strategy in ("FT", "LP"):
        p = np.clip(0.5 + (labels - 0.5) * 0.5 + rng.normal(0, 0.25, 80), 0, 1)
        scores[strategy] = np.stack([1 - p, p], 1)
    for strategy, values in scores.items():
        write_run(tmp_path / "apart", strategy, values, labels)
        write_run(tmp_path / "grouped", strategy, values, labels, groups=[f"p{k // 2}" for k in range(80)])
    apart = analysis.analyse(tmp_path / "apart")["blocks"][0]
    expected = stats.delong(scores["FT"][:, 1], scores["LP"][:, 1], labels == 1)
    assert apart["pairs"][0]["delong"].p == pytest.approx(expected.p, abs=1e-12)
    grouped = analysis.analyse(tmp_path / "grouped")["blocks"][0]
    assert grouped["pairs"][0]["delong"] is None
    assert any("DeLong: left out, it needs independent images" in note for note in grouped["pair_notes"])
    assert any("which the bootstrap does not" in note for note in grouped["pair_notes"])


def test_holm_runs_over_the_pairs_of_a_block(tmp_path, rng):
    labels = toy(rng)
    for strategy, share in (("FT", 0.6), ("LP", 0.7), ("LP-FT", 0.75)):
        write_run(tmp_path, strategy, right_scores(labels, rng.random(200) < share), labels)
    pairs = analysis.analyse(tmp_path)["blocks"][0]["pairs"]
    assert len(pairs) == 3
    ordered = sorted(pairs, key=lambda p: p["p_bootstrap"])
    expected, worst = [], 0.0
    for i, pair in enumerate(ordered):  # Holm 1979: times the number of hypotheses still open, never falling
        worst = max(worst, min(1.0, (3 - i) * pair["p_bootstrap"]))
        expected.append(worst)
    assert [p["p_holm"] for p in ordered] == pytest.approx(expected, abs=1e-12)


def test_a_verdict_is_that_of_the_adjusted_p(tmp_path):
    """200 patients with an image each. LP gains 20 and loses 8 against three others that are alike: z = 12 / sqrt(28),
    p about 0.02, times ten pairs. Auto-RGN is right 50 times more than these: any family lets that stand."""
    labels = np.tile([0, 1], 100)
    right = {name: np.arange(200) < 120 for name in ("FT", "L2-SP", "LP-FT")}
    right["LP"] = (np.arange(200) < 140) & (np.arange(200) >= 8)
    right["Auto-RGN"] = np.arange(200) < 170
    for strategy, values in right.items():
        write_run(tmp_path, strategy, right_scores(labels, values), labels)
    block = analysis.analyse(tmp_path)["blocks"][0]
    for other in ("FT", "L2-SP", "LP-FT"):
        pair = pair_of(block, "LP", other)
        assert 0.01 < pair["p_bootstrap"] < 0.05 and pair["p_holm"] > 0.05
        assert pair["verdict"] == pair_of(block, other, "LP")["verdict"] == "not separable"
        pair = pair_of(block, "Auto-RGN", other)
        assert pair["p_holm"] < 0.05 and pair["verdict"] == "better"
        assert pair_of(block, other, "Auto-RGN")["verdict"] == "worse"


def test_a_resample_that_lost_a_class_is_drawn_again():
    """Ten patients, one of whom alone has class 1: without it balanced accuracy is that of class 0 alone."""
    counts = np.array([[3, 0]] * 9 + [[0, 2]])
    plain = stats.resample_groups(10, 2000, seed=0)
    weights, share = analysis.with_all_classes(plain, counts, seed=0)
    assert share == pytest.approx(0.9**10, abs=0.04)  # how often ten draws of ten miss one
    assert (weights[:, 9] > 0).all() and (weights.sum(axis=1) == 10).all()
    expected = 1 / (1 - 0.9**10)  # the mean of a binomial (10, 1/10) that is not 0
    assert weights[:, 9].mean() == pytest.approx(expected, abs=0.06)


def test_where_hardly_a_resample_has_all_classes_the_draws_stay_as_they_are():
    plain = stats.resample_groups(30, 2000, seed=0)
    weights, share = analysis.with_all_classes(plain, np.eye(30), seed=0)
    assert share == 1 and np.array_equal(weights, plain)


@pytest.mark.parametrize("where", ["metric", "second"])
@pytest.mark.parametrize("missing", ["class", "positives of a label", "negatives of a label"])
def test_no_resample_takes_the_mean_over_fewer_classes(tmp_path, missing, where):
    """Of twelve patients one alone has the class (or the label's positives, or negatives) that all is wrong about; of
    the other class (or label) all is right. With both the mean is 0.5, with one of them 1."""
    rare = np.arange(24) >= 22
    if missing == "class":
        labels, scores = rare.astype(int), np.tile([0.8, 0.2], (24, 1))
        kind, name = {}, "balanced_accuracy"
    else:
        common = np.arange(24) % 2
        odd = (rare if missing.startswith("positives") else ~rare).astype(float)
        labels, scores = np.stack([common, odd], 1).astype(float), np.stack([common, 1 - odd], 1) * 0.5 + 0.25
        kind, name = {"task": "multilabel", "classes": ["common", "odd"]}, "auroc"
    groups = [f"p{k // 2:02d}" for k in range(24)]
    write_run(tmp_path, "FT", scores, labels, groups=groups, **kind)
    runs, _ = read_runs(tmp_path)
    asked = (name, "brier") if where == "metric" else ("brier", name)
    boot, again = analysis.bootstrap(runs, {("FT", (0, 0)): read_scored(runs[0])}, *asked)
    assert again == pytest.approx((11 / 12) ** 12, abs=0.04)  # how often twelve draws of twelve miss one
    assert boot["FT", (0, 0), name].values == pytest.approx(np.full(analysis.RESAMPLES, 0.5), abs=1e-12)


def test_folds_with_patients_of_their_own_are_resampled_apart(tmp_path):
    """The same 40 answers in three folds of other patients: the mean of three independent means of 40, whose standard
    deviation is that of 120, sqrt(0.7 * 0.3 / 120)."""
    labels, right = np.tile([0, 1], 20), np.arange(40) < 28
    for fold in range(3):
        images = [f"f{fold}-{k:02d}" for k in range(40)]
        write_run(tmp_path, "FT", right_scores(labels, right), labels, fold=fold, images=images)
    runs, _ = read_runs(tmp_path)
    scored = {("FT", run.at): read_scored(run) for run in runs}
    boot, _ = analysis.bootstrap(runs, scored, "accuracy", "brier")
    values = np.stack([boot["FT", (0, fold), "accuracy"].values for fold in range(3)])
    assert (
        np.abs(np.corrcoef(values) - np.eye(3)).max() < 0.1
    )  # 2,000 pairs: 0.1 is four and a half times their error
    assert values.mean(axis=0).std() == pytest.approx(math.sqrt(0.7 * 0.3 / 120), rel=0.08)


def test_resamples_of_videos_leave_out_the_classes_that_the_metric_leaves_out(tmp_path):
    """a and b are ranked without a fault in each of eight videos, null the wrong way round: mAP 1 without null, and
    (1 + 1 + less than 1) / 3 with it."""
    labels = np.tile([[1.0, 0, 1], [0, 1, 0], [1, 1, 0]], (8, 1))
    scores = 0.25 + 0.5 * labels
    scores[:, 2] = 1 - scores[:, 2]
    videos = [f"v{k // 3}" for k in range(24)]
    kind = {"task": "multilabel", "classes": ["a", "b", "null"], "unit": "video", "units": videos}
    folder = write_run(tmp_path, "FT", scores, labels, groups=videos, **kind)
    for leave_out, full in (([], False), ([2], True)):
        config = json.loads((folder / "config.json").read_text())
        config["data"]["leave_out"] = leave_out
        (folder / "config.json").write_text(json.dumps(config))
        runs, _ = read_runs(tmp_path)
        boot, _ = analysis.bootstrap(runs, {("FT", (0, 0)): read_scored(runs[0])}, "video_map", "brier")
        # null's one positive a video is last of three: average precision 1/3
        by_hand = 1.0 if full else (1 + 1 + 1 / 3) / 3
        assert boot["FT", (0, 0), "video_map"].values == pytest.approx(np.full(analysis.RESAMPLES, by_hand))


def test_a_lower_value_wins_where_that_is_better(tmp_path, rng):
    labels = toy(rng)
    write_run(tmp_path, "FT", right_scores(labels, rng.random(200) < 0.95, 0.9), labels, metric="brier")
    write_run(tmp_path, "LP", right_scores(labels, rng.random(200) < 0.6, 0.9), labels, metric="brier")
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert (
        block["verdict"].startswith("FT has the lowest Brier score")
        and block["pairs"][0]["verdict"] == "better"
    )
    assert [row["best"] for row in block["rows"]] == [True, False]


def test_strategies_on_different_images_are_not_compared(tmp_path, rng):
    labels = toy(rng, 30)
    write_run(tmp_path, "FT", all_right(labels), labels)
    write_run(tmp_path, "LP", all_right(labels), labels, images=[f"other{k}" for k in range(30)])
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert block["pairs"] == [] and any("tested on different images" in note for note in block["pair_notes"])
    assert any(note.startswith("NOT COMPARABLE") for note in block["notes"])


def test_unfinished_failed_and_missing_runs_are_shown_and_the_short_strategy_is_not_ranked(tmp_path, rng):
    labels = toy(rng, 100)
    for fold in range(2):
        images = [f"f{fold}-{k}" for k in range(100)]
        write_run(
            tmp_path, "FT", right_scores(labels, rng.random(100) < 0.6), labels, fold=fold, images=images
        )
    write_run(tmp_path, "LP", all_right(labels), labels, images=[f"f0-{k}" for k in range(100)])
    write_run(tmp_path, "LP", None, labels, fold=1, status="failed", images=[f"f1-{k}" for k in range(100)])
    write_run(tmp_path, "L2-SP", None, labels, status="unfinished", images=[f"f0-{k}" for k in range(100)])
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert {(c["strategy"], c["fold"], c["status"], c["reason"]) for c in block["cells"]} == {
        ("LP", 1, "failed", "the loss grew in epoch 2"),
        ("L2-SP", 0, "unfinished", "2 of 2 epochs"),
        ("L2-SP", 1, "not run", ""),
    }
    rows = {row["strategy"]: row for row in block["rows"]}
    assert (rows["LP"]["done"], rows["LP"]["failed"], rows["L2-SP"]["missing"]) == (1, 1, 1)
    assert rows["FT"]["best"] and not rows["LP"]["best"]  # LP has 1.0, from one fold of two
    assert "Not ranked, because it has other runs: LP." in block["verdict"]
    assert "4 of 6 runs" not in block["notes"][0] and "3 of 6 runs have no result" in block["notes"][0]
    assert pair_of(block, "LP", "FT")["runs"] == 1
    assert math.isnan(rows["L2-SP"]["test"]["mean"])


def test_a_damaged_run_is_left_out_by_name_and_the_others_are_reported(tmp_path, rng):
    labels = toy(rng, 30)
    write_run(tmp_path, "FT", all_right(labels), labels)
    (write_run(tmp_path, "LP", all_right(labels), labels) / "metrics.json").write_text('{"cel')
    (write_run(tmp_path, "L2-SP", all_right(labels), labels) / "predictions.csv").write_text("image\n")
    found = analysis.analyse(tmp_path)
    assert [row["strategy"] for row in found["blocks"][0]["rows"] if row["done"]] == ["FT"]
    assert sum("lp/seed0-fold0" in w for w in found["warnings"]) == 1
    assert sum("l2sp/seed0-fold0" in w and "predictions.csv is damaged" in w for w in found["warnings"]) == 1


def test_a_study_is_scored_once_and_patients_are_resampled(tmp_path, rng):
    labels = np.repeat(toy(rng, 20), 3)
    studies, patients = [f"s{k // 3}" for k in range(60)], [f"p{k // 6}" for k in range(60)]
    scores = rng.dirichlet([1, 1], 60)
    write_run(tmp_path, "FT", scores, labels, unit="study", units=studies, groups=patients)
    run = read_runs(tmp_path)[0][0]
    scored = read_scored(run)
    assert scored.scores == pytest.approx(scores.reshape(20, 3, 2).mean(1), abs=1e-12)
    assert scored.groups.tolist() == [f"p{k // 2}" for k in range(20)] and len(scored.images) == 60
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert (block["test_units"], block["test_groups"], block["unit_kind"]) == (20, 10, "study")
    right = scores.reshape(20, 3, 2).mean(1).argmax(1) == labels[::3]
    assert block["rows"][0]["test"]["mean"] == pytest.approx(right.mean(), abs=1e-12)


def test_several_labels_with_unknown_ones_are_reported(tmp_path, rng):
    labels = rng.integers(0, 2, (60, 3)).astype(float)
    labels[rng.random((60, 3)) < 0.2] = np.nan
    scores = rng.random((60, 3))
    for strategy in ("FT", "LP"):
        write_run(
            tmp_path,
            strategy,
            scores,
            labels,
            classes=["a", "b", "c"],
            task="multilabel",
            metric="average_precision",
        )
    block = analysis.analyse(tmp_path)["blocks"][0]
    expected = metrics.evaluate("multilabel", scores, labels, ["a", "b", "c"])["values"]["average_precision"]
    assert block["rows"][0]["test"]["mean"] == pytest.approx(expected, abs=1e-12)
    assert block["confusion"] == {} and len(block["roc"]["FT"]) == 3 and len(block["thresholds"]) == 6


# --------------------------------------------------------------------- what a number is made of, said beside it


def two_labels(n=40, rare=()):
    """(scores, labels) of edema and hernia: edema in every second image, found but for one pair of 20 x 20; hernia in
    the images of `rare` alone, scored highest there."""
    labels, scores = np.zeros((n, 2)), np.full((n, 2), 0.2)
    labels[1::2, 0] = 1
    scores[1::2, 0] = 0.7
    scores[1, 0], scores[0, 0] = 0.3, 0.4  # one positive below one negative
    labels[list(rare), 1] = 1
    scores[list(rare), 1] = 0.9
    return scores, labels


EDEMA = 1 - 1 / 400  # its AUROC: of 20 x 20 pairs one is the wrong way round


def outputs(folder):
    """Every text that a report writes, by its kind, and the analysis."""
    found = report.build(folder)
    texts = {kind: "\n".join(f.read_text() for f in sorted((folder / "tables").glob(f"{kind}-*.tex")))
             for kind in ("results", "budget", "pairs")}  # fmt: skip
    texts |= {"md": (folder / "report.md").read_text(), "html": (folder / "report.html").read_text()}
    texts |= {"terminal": report.text(found), "verdict": found["blocks"][0]["verdict"]}
    return texts, found["blocks"][0]


def csv_of(folder, name="results.csv"):
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def test_a_mean_over_one_of_two_labels_says_so_wherever_it_stands(tmp_path):
    """No test image has a hernia: the AUROC is edema's alone."""
    scores, labels = two_labels()
    multi = {"classes": ["edema", "hernia"], "task": "multilabel", "metric": "auroc"}
    for strategy in ("FT", "LP"):
        write_run(tmp_path, strategy, scores, labels, **multi)
    texts, block = outputs(tmp_path)
    assert block["rows"][0]["test"]["mean"] == pytest.approx(EDEMA, abs=1e-12)
    for kind in ("md", "html", "results", "terminal", "verdict", "pairs"):
        assert "1 of 2 labels" in texts[kind], kind
    assert (
        "tie for the highest AUROC, 0.998 [" in texts["verdict"] and "] (1 of 2 labels)" in texts["verdict"]
    )
    assert "(1 of 2 labels)  " in texts["terminal"]  # columns stay apart
    row = csv_of(tmp_path)[0]
    assert (row["test_auroc_over"], row["val_auroc_over"], row["test_brier_over"]) == (
        "1 of 2",
        "1 of 2",
        "2 of 2",
    )
    assert csv_of(tmp_path, "comparisons.csv")[0]["metric_over"] == "1 of 2 labels"
    assert (
        "AUROC on test is a mean over 1 of 2 labels, not over all (undefined somewhere: hernia)."
        in block["notes"]
    )


def test_a_mean_over_all_labels_says_nothing_of_them(tmp_path):
    scores, labels = two_labels(rare=[3])
    write_run(tmp_path, "FT", scores, labels, classes=["edema", "hernia"], task="multilabel", metric="auroc")
    texts, block = outputs(tmp_path)
    assert block["rows"][0]["test"]["mean"] == pytest.approx((EDEMA + 1) / 2, abs=1e-12)
    assert not any(" of 2 labels" in text for text in texts.values())
    assert csv_of(tmp_path)[0]["test_auroc_over"] == "2 of 2"


def test_a_mean_over_other_labels_in_every_fold_is_warned_of(tmp_path):
    """Hernia stands in fold 1 alone: 0.9975 is edema's value and (0.9975 + 1) / 2 that of both, under one name."""
    for fold, rare in enumerate(([], [3], [])):
        scores, labels = two_labels(rare=rare)
        images = [f"f{fold}-{k}" for k in range(40)]
        write_run(tmp_path, "FT", scores, labels, fold=fold, images=images, classes=["edema", "hernia"],
                  task="multilabel", metric="auroc")  # fmt: skip
    texts, block = outputs(tmp_path)
    assert block["rows"][0]["test"]["mean"] == pytest.approx((EDEMA + (EDEMA + 1) / 2 + EDEMA) / 3, abs=1e-12)
    note = next(n for n in block["notes"] if n.startswith("AUROC on test"))
    assert note == (
        "AUROC on test is a mean over 1 of 2 labels in folds 0 and 2; 2 of 2 labels in fold 1: these are different measures "
        "under one name, and the mean over runs mixes them (undefined somewhere: hernia)."
    )
    assert all(
        "1 to 2 of 2 labels" in texts[kind] for kind in ("md", "html", "results", "terminal", "verdict")
    )
    assert [row["test_auroc_over"] for row in csv_of(tmp_path)] == ["1 of 2", "2 of 2", "1 of 2"]


def test_a_class_that_the_test_set_lacks_is_said_too(tmp_path):
    """Three classes, the test set has two: balanced accuracy is the mean of two recalls, 1 and 0.5."""
    labels = np.tile([0, 1], 20)
    right = np.where(labels == 0, True, np.arange(40) % 4 == 1)
    write_run(tmp_path, "FT", right_scores(labels, right, classes=3), labels, classes=["a", "b", "c"],
              metric="balanced_accuracy")  # fmt: skip
    texts, block = outputs(tmp_path)
    assert block["rows"][0]["test"]["mean"] == pytest.approx(0.75)
    assert "0.750 [" in texts["verdict"] and "(2 of 3 classes)" in texts["verdict"]
    assert (
        "balanced accuracy on test is a mean over 2 of 3 classes, not over all (undefined somewhere: c)."
        in block["notes"]
    )


def test_a_label_that_is_unknown_in_every_test_image_is_no_part_of_the_mean(tmp_path):
    scores, labels = two_labels(rare=[3])
    labels[:, 1] = np.nan
    write_run(
        tmp_path,
        "FT",
        scores,
        labels,
        classes=["edema", "hernia"],
        task="multilabel",
        metric="average_precision",
    )
    texts, block = outputs(tmp_path)
    # edema: 19 positives at 0.7 above all, then a negative at 0.4, then the last positive as the 20th of 21
    assert block["rows"][0]["test"]["mean"] == pytest.approx(19 / 20 + 1 / 20 * 20 / 21, abs=1e-12)
    assert "(1 of 2 labels)" in texts["verdict"] and csv_of(tmp_path)[0]["test_brier_over"] == "1 of 2"


# ------------------------------------------------------------------------------- what was asked for, and what ran


def cells_of(root, cells, strategies=("FT", "LP"), **about):
    labels = np.tile([0, 1], 30)
    for strategy in strategies:
        for seed, fold in cells:
            images = [f"f{fold}-{k}" for k in range(60)]
            right = np.arange(60) < 45
            write_run(
                root,
                strategy,
                right_scores(labels, right),
                labels,
                seed=seed,
                fold=fold,
                images=images,
                **about,
            )


@pytest.mark.parametrize(
    ("cells", "arguments", "about", "split", "trained"),
    [
        ([(0, 0), (0, 1)], {"folds": 3, "seed": [0]}, {}, "into 3 folds, of which 2 were run", "of 3 folds planned, 2 were run"),
        ([(0, 0), (0, 2)], {"folds": 3, "seed": [0]}, {}, "into 3 folds, of which 2 were run", "of 3 folds planned, 2 were run"),
        ([(0, 0)], {"folds": 5, "seed": [0]}, {}, "into 5 folds, of which 1 was run", "of 5 folds planned, 1 were run"),
        # --splits-file: its folds are the data's, the argument is 1
        ([(0, 0), (0, 1)], {"folds": 1, "seed": [0]}, {"folds": 4}, "into 4 folds, of which 2 were run", "of 4 folds planned"),
        ([(0, 0), (1, 0)], {"folds": 1, "seed": [0, 1, 2]}, {}, "once, with", "of 3 seeds planned, 2 were run"),
    ],
)  # fmt: skip
def test_an_interrupted_sweep_is_described_as_it_was_planned(
    tmp_path, cells, arguments, about, split, trained
):
    cells_of(tmp_path, cells, arguments=arguments, about=about)
    texts, block = outputs(tmp_path)
    assert split in texts["md"] and trained in texts["md"]
    wanted = max(about.get("folds", 1), arguments["folds"]) * len(arguments["seed"])
    assert [(row["done"], row["missing"]) for row in block["rows"]] == [(len(cells), wanted - len(cells))] * 2
    lost = 2 * (wanted - len(cells))
    assert f"{lost} of {2 * wanted} runs have no result ({lost} not run)." in block["notes"][0]
    assert f"| {wanted - len(cells)} not run |" in texts["md"]


def test_a_whole_sweep_and_one_without_its_command_are_described_by_what_is_there(tmp_path):
    cells_of(
        tmp_path / "whole",
        [(0, 0), (0, 1), (0, 2)],
        arguments={"folds": 3, "seed": [0], "strategy": ["ft", "lp"]},
    )
    cells_of(tmp_path / "bare", [(0, 0), (0, 1)])
    whole, block = outputs(tmp_path / "whole")
    assert (
        "into 3 folds, with" in whole["md"]
        and "planned" not in whole["md"]
        and "Not begun" not in whole["md"]
    )
    assert not block["cells"] and "on each of 3 folds" in whole["md"]
    assert "into 2 folds, with" in outputs(tmp_path / "bare")[0]["md"]


def test_strategies_that_were_not_begun_are_named(tmp_path):
    cells_of(tmp_path, [(0, 0)], arguments={"seed": [0], "strategy": ["ft", "lp", "lpft", "autorgn"]})
    assert "Not begun, though the command names them: LP-FT and Auto-RGN." in outputs(tmp_path)[1]["notes"]


def test_not_run_is_not_failed(tmp_path):
    """FT has both folds, LP one and a failure, L2-SP one that was never begun."""
    cells_of(tmp_path, [(0, 0), (0, 1)], ["FT"])
    cells_of(tmp_path, [(0, 0)], ["LP", "L2-SP"])
    write_run(
        tmp_path,
        "LP",
        None,
        np.tile([0, 1], 30),
        fold=1,
        status="failed",
        images=[f"f1-{k}" for k in range(60)],
    )
    texts, _ = outputs(tmp_path)
    cells = {
        line.split(" | ")[0]: line for line in texts["md"].split("Budget")[1].split("Pairs")[0].splitlines()
    }
    assert cells["| FT"].endswith("| 0 |") and cells["| LP"].endswith("| 1 failed |")
    assert cells["| L2-SP"].endswith("| 1 not run |") and cells["| Strategy"].endswith("| No result |")
    tex = {line.split(" & ")[0]: line for line in texts["budget"].splitlines()}
    assert tex["L2-SP"].endswith(r"& 1 not run \\") and tex["LP"].endswith(r"& 1 failed \\")
    assert "Runs without a result: 1 failed and 1 not run." in texts["md"] and ">Failed<" not in texts["html"]


# ---------------------------------------------------------------------------------- strategies that train in stages


STAGED_RUNS = [  # strategy, stage of each epoch, stage of the checkpoint, what must be said of the runs
    ("LP-FT", ("lp", "lp", "ft", "ft"), "lp", "the classifier alone was trained"),
    ("G-LF", ("head", "+layer4", "+stem"), "+layer4", "a part of the blocks was trained"),
    ("G-FL", ("head", "+stem", "+layer1"), "head", "the classifier alone was trained"),
]


@pytest.mark.parametrize(("strategy", "stages", "best", "what"), STAGED_RUNS)
def test_a_checkpoint_from_before_the_last_stage_is_not_called_by_the_strategy_alone(
    tmp_path, strategy, stages, best, what
):
    """Two runs of three; the third is scored in the last stage."""
    labels = np.tile([0, 1], 30)
    for seed in range(3):
        write_run(tmp_path, "FT", all_right(labels), labels, seed=seed, stages=["all"] * len(stages))
        write_run(tmp_path, strategy, right_scores(labels, np.arange(60) < 40), labels, seed=seed, stages=stages,
                  best_stage=best if seed else None)  # fmt: skip
    texts, block = outputs(tmp_path)
    note = next(
        n
        for n in block["notes"]
        if n.startswith(f"{strategy}: 2 of 3 runs are scored by a checkpoint of stage {best}")
    )
    assert what in note and not any(n.startswith("FT:") for n in block["notes"])
    name = f"{strategy} (2 of 3 runs scored in stage {best})"
    assert name in texts["html"] and name in texts["md"].replace("\\", "") and name in texts["results"]
    assert f"2 scored in stage {best}" in texts["terminal"]
    assert f"scored by a checkpoint from before the last stage: 2 of 3 runs in stage {best}" in texts["md"]
    rows = [
        (row["best_stage"], row["last_stage"])
        for row in csv_of(tmp_path)
        if row["strategy"] == KEYS[strategy]
    ]
    assert rows == [(stages[-1], stages[-1]), (best, stages[-1]), (best, stages[-1])]


def test_the_paper_s_claim_of_lp_ft_says_where_it_rests_on_linear_probing(tmp_path):
    labels = np.tile([0, 1], 30)
    for data, best in (("a", "lp"), ("b", "ft")):
        write_run(
            tmp_path, "FT", right_scores(labels, np.arange(60) < 30), labels, data=data, stages=["all"] * 2
        )
        write_run(tmp_path, "LP-FT", right_scores(labels, np.arange(60) < 40), labels, data=data, stages=["lp", "ft"],
                  best_stage=best)  # fmt: skip
    found = analysis.analyse(tmp_path)
    assert found["claims"][0]["here"].startswith("better in 2 of 2 cases (100%)")
    assert (
        "in 1 of them LP-FT is scored, in some runs or all, by a checkpoint of its linear part"
        in found["claims"][0]["here"]
    )
    assert "a/net: LP-FT (1 of 1 run scored in stage lp)." in found["across"]["notes"]


@pytest.mark.parametrize(
    ("strategy", "stages", "said", "note"),
    [
        ("G-LF", ["+stem"], "here in its last stage alone", "all of its epochs fell into the last stage (+stem)"),
        ("LP-FT", ["ft", "ft"], "here in its last stage alone", "all of its epochs fell into the last stage (ft)"),
        ("G-FL", ["+stem", "+layer4"], "stages: +stem from epoch 1, +layer4 from epoch 2",
         "its stages merged into 2 (+stem from epoch 1, +layer4 from epoch 2)"),
        ("LP-FT", ["lp", "ft", "ft"], "stages: lp from epoch 1, ft from epoch 2", None),
    ],
)  # fmt: skip
def test_stages_that_merged_are_described_as_they_ran(tmp_path, strategy, stages, said, note):
    labels = np.tile([0, 1], 30)
    write_run(tmp_path, strategy, all_right(labels), labels, stages=stages)
    texts, block = outputs(tmp_path)
    assert said in texts["md"] and "block by block" not in texts["md"]
    assert [n for n in block["notes"] if n.startswith(f"{strategy}: ")] == [
        n for n in block["notes"] if note and note in n
    ]
    assert note is None or any(note in n for n in block["notes"])


# --------------------------------------------------------------------------------- models that call one class alone


def imbalanced(n=100, positive=78):
    return (np.arange(n) < positive).astype(int)


def always(labels, called, confidence=0.8):
    """Scores that vary, and call one class of every image."""
    p = confidence - 0.2 * (np.arange(len(labels)) % 10) / 10
    return np.stack([p, 1 - p] if called == 0 else [1 - p, p], 1)


@pytest.mark.parametrize(
    ("metric", "value"), [("accuracy", 0.78), ("balanced_accuracy", 0.5), ("kappa", 0.0)]
)
def test_a_model_that_calls_one_class_is_never_the_best(tmp_path, metric, value):
    """LP calls every image malignant, which 78 % are; FT is right in 75 of 100, 56 of 78 and 19 of 22."""
    labels = imbalanced()
    right = np.concatenate([np.arange(78) < 56, np.arange(22) < 19])
    write_run(tmp_path, "FT", right_scores(labels, right), labels, metric=metric)
    write_run(tmp_path, "LP", always(labels, 1), labels, metric=metric)
    texts, block = outputs(tmp_path)
    rows = {row["strategy"]: row for row in block["rows"]}
    assert rows["LP"]["test"]["mean"] == pytest.approx(value, abs=1e-12)
    assert (rows["FT"]["best"], rows["LP"]["best"], rows["LP"]["beside_best"]) == (True, False, False)
    assert (
        texts["verdict"].startswith("FT has the highest")
        and "LP left aside, whose runs call every test image alike" in texts["verdict"]
    )
    assert (
        "LP: 1 of 1 run calls every test image malignant. It is no candidate for the best." in block["notes"]
    )
    assert wording.standing(block, rows["LP"]) == "one class"
    assert r"$^{\dagger}$" in next(line for line in texts["results"].splitlines() if line.startswith("LP &"))
    assert "| one class |" in texts["md"] and texts["html"].count("★ best</span>") == 1


def test_where_every_model_calls_one_class_there_is_no_verdict(tmp_path):
    labels = imbalanced()
    write_run(tmp_path, "FT", always(labels, 1), labels)
    write_run(tmp_path, "LP", always(labels, 0), labels)
    texts, block = outputs(tmp_path)
    assert texts["verdict"].startswith("No verdict: the runs of FT and LP call every test image alike")
    assert not any(row["best"] for row in block["rows"]) and "★ best</span>" not in texts["html"]
    assert "LP: 1 of 1 run calls every test image benign. It is no candidate for the best." in block["notes"]


def test_one_collapsed_run_of_three_is_said_and_counts(tmp_path):
    labels = imbalanced()
    for seed in range(3):
        right = np.arange(100) % 10 > 0
        write_run(
            tmp_path, "FT", always(labels, 1) if seed == 1 else right_scores(labels, right), labels, seed=seed
        )
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert (
        block["rows"][0]["test"]["mean"] == pytest.approx((0.9 + 0.78 + 0.9) / 3) and block["rows"][0]["best"]
    )
    assert "FT: 1 of 3 runs calls every test image malignant." in block["notes"]


def test_a_metric_of_the_scores_alone_ranks_what_calls_one_class_unless_the_scores_are_one(tmp_path):
    """AUROC 1 with every score above a half: good. One score for all: 0.5, and no ranking at all."""
    labels = imbalanced()
    p = np.where(labels == 1, 0.9, 0.6)
    write_run(tmp_path, "FT", np.stack([1 - p, p], 1), labels, metric="auroc")
    write_run(tmp_path, "LP", np.tile([0.3, 0.7], (100, 1)), labels, metric="auroc")
    block = analysis.analyse(tmp_path)["blocks"][0]
    rows = {row["strategy"]: row for row in block["rows"]}
    assert (rows["FT"]["test"]["mean"], rows["LP"]["test"]["mean"]) == (1.0, 0.5)
    assert rows["FT"]["best"] and not rows["FT"]["collapsed"] and rows["LP"]["collapsed"]
    assert "FT: 1 of 1 run calls every test image malignant." in block["notes"]


def test_labels_called_alike_of_every_image_are_said(tmp_path):
    scores, labels = two_labels(rare=[3])
    write_run(
        tmp_path,
        "FT",
        np.clip(scores / 2, 0, 1),
        labels,
        classes=["edema", "hernia"],
        task="multilabel",
        metric="auroc",
    )
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert (
        "FT: 1 of 1 run calls every test image none of the labels." in block["notes"]
        and block["rows"][0]["best"]
    )


def test_an_interval_that_holds_chance_is_said(tmp_path):
    """53 of 100 right, of two classes alike: its interval holds a half. 90 of 100 is above it."""
    labels = np.tile([0, 1], 50)
    for folder, right in (("low", 53), ("high", 90)):
        write_run(
            tmp_path / folder,
            "FT",
            right_scores(labels, np.arange(100) < right),
            labels,
            metric="balanced_accuracy",
        )
    low, high = (analysis.analyse(tmp_path / folder)["blocks"][0] for folder in ("low", "high"))
    assert any(
        n.startswith("No strategy is above chance (0.500) for sure: the interval") for n in low["notes"]
    )
    assert not any("above chance" in n for n in high["notes"])


# -------------------------------------------------------------------------------------------- whose images they are


def test_data_with_a_column_of_patients_is_not_said_to_name_none(tmp_path):
    """The column was there and was not given: what the page knows is that none was given."""
    labels = np.tile([0, 1], 30)
    hint = "column patient looks like a group that must not be split: name it with --group-col"
    write_run(tmp_path, "FT", all_right(labels), labels, about={"group_kind": "image", "notes": [hint]})
    texts, block = outputs(tmp_path)
    assert not any("names no patient" in text or "no patients are known" in text for text in texts.values())
    assert "split by image, as no patient ids were given, once" in texts["md"]
    assert (
        "Split by image: no patient ids were given (--group-col, --group-regex), so images of one patient may be on both "
        f"sides. But {hint}." in block["notes"]
    )


# ------------------------------------------------------------------------------------------------ over blocks


def four_blocks(root, rng):
    """LP-FT beats FT in three of four; Auto-RGN in one, by 0.3."""
    labels = np.tile([0, 1], 50)
    accuracy = {
        ("a", "net"): (60, 70, 50),
        ("a", "wide"): (60, 65, 90),
        ("b", "net"): (60, 90, 55),
        ("b", "wide"): (60, 55, 50),
    }
    for (data, arch), counts in accuracy.items():
        for strategy, n in zip(("FT", "LP-FT", "Auto-RGN"), counts):
            write_run(root, strategy, right_scores(labels, np.arange(100) < n), labels, data=data, arch=arch)


def test_the_papers_two_claims_are_counted_on_the_users_runs(tmp_path, rng):
    four_blocks(tmp_path, rng)
    found = analysis.analyse(tmp_path)
    first, second = found["claims"]
    assert first["here"].startswith("better in 3 of 4 cases (75%)")
    assert [round(row["gain"], 6) for row in first["rows"]] == [0.1, 0.05, 0.3, -0.05]
    assert (
        second["here"].startswith("at most by 0.300 [") and "50.0% of FT's value, on a/wide" in second["here"]
    )


def test_ranks_over_blocks_are_those_worked_by_hand(tmp_path, rng):
    four_blocks(tmp_path, rng)
    across = analysis.analyse(tmp_path)["across"]
    assert across["ranks"] == [[2, 1, 3], [3, 2, 1], [2, 1, 3], [1, 2, 3]]
    assert across["average_ranks"] == {"FT": 2.0, "LP-FT": 1.5, "Auto-RGN": 2.5}
    assert across["friedman"].chi2 == pytest.approx(
        12 * 4 / (3 * 4) * (4 + 2.25 + 6.25 - 3 * 16 / 4), abs=1e-12
    )
    assert across["cd"] == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 4)), abs=1e-9)
    assert across["cliques"] == [["LP-FT", "FT", "Auto-RGN"]]
    assert {row["strategy"]: (row["better"], row["of"]) for row in across["beats_ft"]} == {
        "LP-FT": (3, 4),
        "Auto-RGN": (1, 4),
    }
    assert all(
        math.isnan(p["p"]) and "pairs" in p["note"] for p in across["pairs"]
    )  # four are fewer than six


def test_ranks_go_down_where_a_lower_value_is_better(tmp_path):
    """Brier scores on two datasets, accuracy on a third: with confidence 0.8 a right answer costs 0.2^2, a wrong one
    0.8^2. LP is first each time, FT last."""
    labels = np.tile([0, 1], 50)
    for data, metric in (("one", "brier"), ("two", "brier"), ("three", "accuracy")):
        for strategy, n in (("FT", 50), ("LP", 90), ("L2-SP", 70)):
            scores = right_scores(labels, np.arange(100) < n)
            write_run(tmp_path, strategy, scores, labels, data=data, metric=metric)
    across = analysis.analyse(tmp_path)["across"]
    assert across["strategies"] == ["FT", "LP", "L2-SP"] and across["ranks"] == [[3, 1, 2]] * 3
    brier = [(n * 0.04 + (100 - n) * 0.64) / 100 for n in (50, 90, 70)]
    found = dict(zip(across["datasets"], across["table"]))
    assert found["one/net"] == pytest.approx(brier) and found["two/net"] == pytest.approx(brier)
    assert found["three/net"] == pytest.approx([0.5, 0.9, 0.7])
    assert across["average_ranks"] == {"FT": 3.0, "LP": 1.0, "L2-SP": 2.0}


@pytest.mark.parametrize(
    ("averages", "by_hand"),
    [
        ((1.0, 2.0, 3.1), ["ab", "bc"]),  # a and c are 2.1 apart
        ((1.0, 2.6, 4.2), []),
        ((1.0, 2.4, 2.5, 4.0), ["abc", "cd"]),  # b to d is 1.6
        ((3.0, 1.0, 1.2, 4.4), ["bc", "ad"]),
        ((2.0, 2.0, 2.0), ["abc"]),
    ],
)
def test_cliques_lie_within_the_critical_difference(averages, by_hand):
    """A difference of 1.5, as in figure 1 of Demsar 2006: the longest runs of neighbours, none within another."""
    assert analysis.cliques(dict(zip("abcd", averages)), 1.5) == [list(clique) for clique in by_hand]


def test_what_is_better_and_what_is_separably_so_are_counted_apart(tmp_path):
    """LP-FT is right 30 times more than FT on one dataset of 100 patients, once more on the second, once less on the
    third: better on two, separable on one."""
    labels = np.tile([0, 1], 50)
    for data, n in (("one", 90), ("two", 61), ("three", 59)):
        for strategy, count in (("FT", 60), ("LP-FT", n)):
            write_run(tmp_path, strategy, right_scores(labels, np.arange(100) < count), labels, data=data)
    found = analysis.analyse(tmp_path)
    (row,) = found["across"]["beats_ft"]
    assert (row["better"], row["separable"], row["of"]) == (2, 1, 3)
    assert row["largest"] == pytest.approx(0.3) and row["largest_at"].startswith("one/net")
    assert found["claims"][0]["here"] == "better in 2 of 3 cases (67%), separably in 1"


def test_one_block_has_no_ranks_and_says_why(tmp_path, rng):
    labels = toy(rng, 30)
    write_run(tmp_path, "FT", all_right(labels), labels)
    found = analysis.analyse(tmp_path)
    assert found["across"] is None and "two or more" in found["across_note"]
    assert "not to be said" in found["claims"][0]["here"]


# ---------------------------------------------------------------------------------------- what the page shows


def test_curves_calibration_and_thresholds_are_what_the_predictions_say(tmp_path, rng):
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    p = np.array([0.95, 0.85, 0.35, 0.05, 0.15, 0.65, 0.45, 0.75])
    write_run(tmp_path, "FT", np.stack([1 - p, p], 1), labels)
    block = analysis.analyse(tmp_path)["blocks"][0]
    roc = block["roc"]["FT"][0]
    assert roc["class"] == "malignant" and roc["auroc"] == pytest.approx(14 / 16)  # 16 pairs, 0.35 loses two
    at = {round(x, 2): y for x, y in zip(roc["grid"], roc["mean"])}
    assert (
        at[0.0] == 0.75 and at[0.24] == 0.75 and at[1.0] == 1.0
    )  # of four positives three stand above every negative
    bins = {
        round(b["confidence"], 2): (b["accuracy"], b["count"]) for b in block["calibration"]["FT"]["bins"]
    }
    assert bins[0.95] == (1.0, 2) and bins[0.65] == (
        0.0,
        2,
    )  # 0.35 for a positive and 0.65 for a negative are wrong
    row = block["thresholds"][0]
    assert (row["sensitivity"], row["specificity"], row["ppv"], row["npv"]) == (0.75, 0.75, 0.75, 0.75)
    assert block["confusion"]["FT"] == [[3, 1], [1, 3]]
    assert block["hardest"][0]["image"] in ("i002.png", "i005.png") and block["hardest"][0][
        "mean_right"
    ] == pytest.approx(0.35)
    assert block["hardest"][0]["predictions"]["FT"]["right"] is False


def test_learning_curves_are_means_over_runs_with_their_range(tmp_path, rng):
    labels = toy(rng, 30)
    for seed in range(3):
        write_run(tmp_path, "FT", all_right(labels), labels, seed=seed)
    curve = analysis.analyse(tmp_path)["blocks"][0]["curves"]["FT"]
    assert [(c["epoch"], round(c["val_metric"], 9), c["low"], c["high"], c["runs"]) for c in curve] == [
        (1, 0.5, 0.4, 0.6, 3),
        (2, 0.7, 0.6, 0.8, 3),
    ]


def test_rates_are_means_over_runs(tmp_path, rng):
    labels = toy(rng, 30)
    for seed in range(2):
        folder = write_run(tmp_path, "Auto-RGN", all_right(labels), labels, seed=seed)
        lines = [
            "epoch,layer,block,grad_norm,weight_norm,ratio,lr",
            f"1,conv1,stem,1,1,1,{0.1 + 0.2 * seed}",
            "1,fc,head,1,1,1,0.5",
        ]
        (folder / "ratios.csv").write_text("\n".join(lines) + "\n")
    ratios = analysis.analyse(tmp_path)["blocks"][0]["ratios"]
    assert ratios == {
        "layers": ["conv1", "fc"],
        "blocks": ["stem", "head"],
        "epochs": [1],
        "rate": [[pytest.approx(0.2)], [0.5]],
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_a_thumbnail_is_the_picture_that_pillow_reads(tmp_path, rng, channels):
    pixels = rng.integers(0, 256, (channels, 7, 5), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(views.png(pixels))
    read = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(
        read if channels == 1 else read.transpose(2, 0, 1), pixels[0] if channels == 1 else pixels
    )


# ------------------------------------------------------------------------------------------ what is written


@pytest.fixture
def runs_folder(tmp_path, rng):
    four_blocks(tmp_path, rng)
    write_run(tmp_path, "LP", None, np.tile([0, 1], 50), data="a", status="failed")
    return tmp_path


def test_everything_is_written_and_no_temporary_file_stays(runs_folder):
    report.build(runs_folder)
    assert {"results.csv", "comparisons.csv", "report.md", "report.html", "tables"} <= {
        f.name for f in runs_folder.iterdir()
    }
    assert not list(runs_folder.rglob("*.tmp"))
    with open(runs_folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13 and [r["status"] for r in rows].count("failed") == 1
    assert {r["reason"] for r in rows if r["status"] == "failed"} == {"the loss grew in epoch 2"}
    with open(runs_folder / "comparisons.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 4 * 3
    first = next(r for r in pairs if (r["data"], r["arch"], r["a"], r["b"]) == ("a", "net", "FT", "LP-FT"))
    assert float(first["difference"]) == pytest.approx(-0.1) and first["wilcoxon_p"] == ""
    page = (runs_folder / "report.html").read_text()
    assert "LP-FT has the highest accuracy, 0.700" in page and "the loss grew in epoch 2" in page
    assert "nan" not in {r["p_holm"] for r in pairs}


def test_both_commands_write_the_same_report_and_neither_needs_torch(tmp_path, rng):
    """With torch and torchvision made impossible to import, report.py works; --report gives the same bytes."""
    labels = toy(rng, 40)
    for strategy in ("FT", "LP"):
        write_run(tmp_path, strategy, right_scores(labels, rng.random(40) < 0.7), labels)
    block = "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None; sys.argv = sys.argv[1:]; "
    script = block + "import runpy; runpy.run_module(sys.argv[0], run_name='__main__')"
    one = subprocess.run([sys.executable, "-c", script, "report", tmp_path], capture_output=True, text=True,
                         check=False, cwd=ROOT)  # fmt: skip
    assert one.returncode == 0, one.stderr
    names = ("results.csv", "comparisons.csv", "report.md", "report.html")
    first = {name: (tmp_path / name).read_bytes() for name in names}
    two = subprocess.run([sys.executable, ROOT / "ftcompare.py", "--report", tmp_path], capture_output=True, text=True,
                         check=False)  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert {name: (tmp_path / name).read_bytes() for name in names} == first and one.stdout == two.stdout


@pytest.mark.parametrize("make", ["nothing", "empty"])
def test_a_folder_without_runs_is_refused_in_one_line(tmp_path, make):
    folder = tmp_path / "runs"
    if make == "empty":
        folder.mkdir()
    for command in (["-m", "report", folder], [ROOT / "ftcompare.py", "--report", folder]):
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert (
            done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and str(folder) in done.stderr
        )


def test_tuned_rates_trials_and_edges_reach_the_row(tmp_path, rng):
    labels = toy(rng, 30)
    trial = {"lr": 1e-3, "alpha": None, "edge": ["lr"], "value": 0.9, "optimizer_steps": 8, "minutes": 0.5}
    tuning = {
        "trials": [trial, trial],
        "optimizer_steps": 16,
        "minutes": 1.0,
        "lr": 1e-3,
        "edge": ["lr"],
        "value": 0.9,
    }
    for seed in range(2):  # the seeds of a fold share its trials
        write_run(tmp_path, "FT", all_right(labels), labels, seed=seed, tuning=tuning)
    block = analysis.analyse(tmp_path)["blocks"][0]
    row = block["rows"][0]
    assert (row["trials"], row["tuning_steps"], row["lr"], row["minutes_total"]) == (2, 16, [1e-3], 4.0)
    assert row["edge"] == ["lr in fold 0"] and any(
        "at an end of what tuning tried" in text for text in wording.problems(block)
    )


@pytest.mark.parametrize(
    "lr, alpha, ends",
    [(1e-3, None, ["lr"]), (3e-4, None, []), (1e-4, 0.1, ["lr", "alpha"]), (3e-4, 0.01, ["alpha"])],
)
def test_the_end_of_what_was_tried_is_found_from_the_trials_whatever_an_older_run_noted(
    lr, alpha, ends, tmp_path, rng
):
    labels = toy(rng, 30)
    rates, alphas = (3e-4, 1e-3, 1e-4), (0.05, 0.1, 0.01)
    trials = [{"lr": r, "alpha": None if alpha is None else a, "edge": []} for r, a in zip(rates, alphas)]
    chosen = {"lr": lr} | ({} if alpha is None else {"alpha": alpha})
    tuning = {"trials": trials, "optimizer_steps": 6, "minutes": 1.0, "edge": [], "value": 0.9} | chosen
    write_run(tmp_path, "FT", all_right(labels), labels, tuning=tuning, changed={"tune": 3})
    row = analysis.analyse(tmp_path)["blocks"][0]["rows"][0]
    assert row["edge"] == [f"{name} in fold 0" for name in ends]


@pytest.mark.parametrize(
    "older, newer, said",
    [
        ({"tune": 3}, {"tune": 3, "tune_order": "outward from the default"}, True),
        ({"tune": 0}, {"tune": 0, "tune_order": None}, False),
        ({"tune": 3}, {"tune": 3}, False),
    ],
)
def test_strategies_tuned_by_two_rules_are_called_not_comparable(older, newer, said, tmp_path, rng):
    labels = toy(rng, 30)
    for name, changed in (("FT", older), ("LP", newer)):
        write_run(tmp_path, name, all_right(labels), labels, changed=changed)
    notes = analysis.analyse(tmp_path)["blocks"][0]["notes"]
    assert any("NOT COMPARABLE" in note and "tune_order" in note for note in notes) == said


# ---------------------------------------------------------------- numbers that would be wrong in silence


def folds_of(root, rng, plan, n=100):
    """plan: strategy -> {(seed, fold): accuracy}; the images of a fold are its own."""
    labels = np.tile([0, 1], n // 2)
    for strategy, runs in plan.items():
        for (seed, fold), accuracy in runs.items():
            right = np.arange(n) < accuracy * n
            images = [f"f{fold}-{k}" for k in range(n)]
            write_run(
                root, strategy, right_scores(labels, right), labels, seed=seed, fold=fold, images=images
            )


def test_a_copied_run_folder_does_not_count_twice(tmp_path, rng):
    folds_of(tmp_path, rng, {"FT": {(0, 0): 0.8}, "LP": {(0, 0): 0.7}})
    shutil.copytree(tmp_path / "toy", tmp_path / "toy-backup")
    shutil.copytree(
        tmp_path / "toy" / "net" / "lp" / "seed0-fold0", tmp_path / "toy" / "net" / "lp" / "seed0-fold0.old"
    )
    found = analysis.analyse(tmp_path)
    assert [(row["done"], row["missing"]) for row in found["blocks"][0]["rows"]] == [(1, 0), (1, 0)]
    assert len(found["blocks"]) == 1 and sum("a second time" in w for w in found["warnings"]) == 3
    assert not any("toy-backup" in str(run.folder) or run.folder.suffix for run in read_runs(tmp_path)[0])


def test_a_renamed_folder_of_runs_is_reported_and_trials_are_no_runs(tmp_path, rng):
    folds_of(tmp_path, rng, {"FT": {(0, 0): 0.8}, "LP": {(0, 0): 0.7}})
    (tmp_path / "toy").rename(tmp_path / "older")
    trial = tmp_path / "older" / "net" / "ft" / "tune" / "seed0-fold0-trial0"
    shutil.copytree(tmp_path / "older" / "net" / "ft" / "seed0-fold0", trial)
    found = analysis.analyse(tmp_path)
    assert [row["done"] for row in found["blocks"][0]["rows"]] == [1, 1] and found["warnings"] == []
    with pytest.raises(analysis.ReportError, match="give the folder above"):
        analysis.analyse(tmp_path / "older")


def test_strategies_are_ranked_on_the_same_folds_only(tmp_path, rng):
    """LP has the easy fold 2, where FT was not run; on the fold that both have FT is better."""
    folds_of(tmp_path, rng, {"FT": {(0, 0): 0.7, (0, 1): 0.8}, "LP": {(0, 1): 0.6, (0, 2): 0.99}})
    block = analysis.analyse(tmp_path)["blocks"][0]
    rows = {row["strategy"]: row for row in block["rows"]}
    assert (
        rows["FT"]["best"]
        and not rows["LP"]["ranked"]
        and rows["LP"]["test"]["mean"] > rows["FT"]["test"]["mean"]
    )
    assert pair_of(block, "FT", "LP")["difference"] == pytest.approx(0.2)
    assert "n = 200 patients" in block["verdict"] and "separably worse" not in block["verdict"]
    assert "Not ranked, because it has other runs: LP." in block["verdict"]
    assert {(c["strategy"], c["fold"]) for c in block["cells"]} == {("FT", 2), ("LP", 0)}


def test_ranks_leave_out_a_strategy_that_has_other_runs_somewhere(tmp_path, rng):
    for data in ("one", "two"):
        labels = np.tile([0, 1], 50)
        for strategy, folds in (("FT", (0, 1)), ("LP-FT", (0, 1)), ("LP", (0,))):
            for fold in folds:
                images = [f"f{fold}-{k}" for k in range(100)]
                right = np.arange(100) < (99 if strategy == "LP" else 70)
                write_run(
                    tmp_path,
                    strategy,
                    right_scores(labels, right),
                    labels,
                    data=data,
                    fold=fold,
                    images=images,
                )
    across = analysis.analyse(tmp_path)["across"]
    assert across["strategies"] == ["FT", "LP-FT"] and any(
        "LP" in n and "left out" in n for n in across["notes"]
    )


def test_a_negative_metric_keeps_its_sign_over_blocks(tmp_path, rng):
    labels = np.tile([0, 1], 50)
    for data in ("one", "two"):
        for strategy, n in (("FT", 40), ("LP", 60)):  # kappa -0.2 and 0.2
            write_run(
                tmp_path,
                strategy,
                right_scores(labels, np.arange(100) < n),
                labels,
                data=data,
                metric="kappa",
            )
    across = analysis.analyse(tmp_path)["across"]
    assert (
        across["table"] == [[pytest.approx(-0.2), pytest.approx(0.2)]] * 2 and across["ranks"] == [[2, 1]] * 2
    )


def test_one_patient_gives_no_verdict_and_five_give_none(tmp_path, rng):
    labels = np.tile([0, 1], 60)
    for patients in (1, 5, 6):
        groups = [f"p{k % patients}" for k in range(120)]
        for strategy, n in (("FT", 60), ("LP", 118)):
            right = np.arange(120) < n
            write_run(tmp_path / str(patients), strategy, right_scores(labels, right), labels, groups=groups)
    for patients, expected in ((1, "undefined"), (5, "undefined"), (6, "better")):
        block = analysis.analyse(tmp_path / str(patients))["blocks"][0]
        assert pair_of(block, "LP", "FT")["verdict"] == expected, patients
        assert any("cannot tell two strategies apart" in n for n in block["pair_notes"]) == (patients < 6)
    assert math.isnan(analysis.analyse(tmp_path / "1")["blocks"][0]["rows"][0]["test"]["low"])


def test_an_undefined_metric_is_no_verdict(tmp_path, rng):
    labels = np.ones(40, int)  # one class: no AUROC
    for strategy in ("FT", "LP"):
        write_run(tmp_path, strategy, right_scores(labels, rng.random(40) < 0.7), labels, metric="auroc")
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert block["pairs"][0]["verdict"] == "undefined" and "nothing to compare" in block["verdict"]
    assert "undefined" in report.text(analysis.analyse(tmp_path))


def test_the_expected_calibration_error_has_no_percentile_interval(tmp_path, rng):
    labels = toy(rng)
    for strategy in ("FT", "LP"):
        write_run(tmp_path, strategy, right_scores(labels, rng.random(200) < 0.8), labels, metric="ece")
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert math.isnan(block["rows"][0]["test"]["low"]) and block["pairs"][0]["verdict"] == "undefined"


def test_a_class_that_only_one_patient_has_does_not_bend_the_accuracy(tmp_path, rng):
    """Accuracy needs no class: its resamples are plain ones, and their mean is the estimate."""
    labels = np.array([1] + [0] * 49)
    right = np.arange(50) >= 5  # the one of class 1 is wrong
    write_run(tmp_path, "FT", right_scores(labels, right), labels)
    runs, _ = read_runs(tmp_path)
    scored = {("FT", (0, 0)): read_scored(runs[0])}
    boot, _ = analysis.bootstrap(runs, scored, "accuracy", "balanced_accuracy")
    assert boot["FT", (0, 0), "accuracy"].values.mean() == pytest.approx(0.9, abs=0.003)
    plain = stats.resample_groups(50, analysis.RESAMPLES, seed=0)
    assert boot["FT", (0, 0), "accuracy"].values == pytest.approx(
        plain[:, np.argsort(np.argsort(scored["FT", (0, 0)].images))] @ right / 50
    )


def test_overlapping_test_sets_are_not_counted_twice_by_mcnemar(tmp_path, rng):
    labels = toy(rng, 100)
    for fold in (0, 1):
        images = [f"i{50 * fold + k}" for k in range(100)]
        for strategy in ("FT", "LP"):
            write_run(
                tmp_path,
                strategy,
                right_scores(labels, rng.random(100) < 0.7),
                labels,
                fold=fold,
                images=images,
            )
    block = analysis.analyse(tmp_path)["blocks"][0]
    assert block["pairs"][0]["mcnemar"] is None and any(
        "test sets of several folds overlap" in n for n in block["pair_notes"]
    )


def test_a_shared_test_set_is_resampled_once_for_bands_and_named_in_the_notes(tmp_path, rng):
    labels = toy(rng, 60)
    p = np.clip(0.5 + (labels - 0.5) * 0.3 + rng.normal(0, 0.3, 60), 0, 1)
    scores = np.stack([1 - p, p], 1)
    for fold in range(5):
        for strategy in ("FT", "LP"):
            write_run(tmp_path / "five", strategy, scores, labels, fold=fold)
            if fold == 0:
                write_run(tmp_path / "one", strategy, scores, labels)
    five, one = (analysis.analyse(tmp_path / n)["blocks"][0] for n in ("five", "one"))
    for end in ("low", "high"):
        assert five["roc"]["FT"][0][end] == pytest.approx(one["roc"]["FT"][0][end], abs=1e-12)
    assert any("all folds share one test set" in n for n in five["pair_notes"])
    assert any(n.startswith("McNemar: runs of seed 0, fold 0") for n in five["pair_notes"])


def test_the_gain_in_a_metric_whose_low_values_are_good_keeps_its_interval(tmp_path, rng):
    labels = toy(rng, 100)
    right = rng.random(100) < 0.8
    other = right.copy()
    other[np.flatnonzero(~right)[0]] = True  # one more right: a small gain, not separable
    write_run(tmp_path, "FT", right_scores(labels, right), labels, metric="brier")
    write_run(tmp_path, "Auto-RGN", right_scores(labels, other), labels, metric="brier")
    row = analysis.analyse(tmp_path)["claims"][1]["rows"][0]
    assert (
        row["gain"] == pytest.approx(0.6 / 100) and row["difference"] == -row["gain"]
    )  # 0.64 - 0.04 of one in 100
    assert (row["gain_low"], row["gain_high"]) == (-row["high"], -row["low"]) and row["gain_low"] <= row[
        "gain"
    ]


def test_a_share_of_fts_value_is_of_the_runs_that_both_have(tmp_path, rng):
    folds_of(tmp_path, rng, {"FT": {(0, 0): 0.5, (0, 1): 0.9}, "Auto-RGN": {(0, 0): 0.6}})
    row = analysis.analyse(tmp_path)["claims"][1]["rows"][0]
    assert row["relative"] == pytest.approx(0.1 / 0.5)


def test_settings_that_should_be_alike_are_compared_also_within_a_strategy(tmp_path, rng):
    labels = toy(rng, 60)
    scores = right_scores(labels, rng.random(60) < 0.7)
    write_run(tmp_path, "FT", scores, labels, changed={"hyperparameters": {"bn": "train"}})
    write_run(tmp_path, "LP", scores, labels, changed={"hyperparameters": {"bn": "eval"}})
    write_run(tmp_path, "LP", scores, labels, seed=1, changed={"hyperparameters": {"bn": "eval"}, "lr": 1e-3})
    found = analysis.analyse(tmp_path)
    differ = " ".join(found["blocks"][0]["differ"])
    assert 'bn: "eval", "train"' in differ and "lr of LP: 0.0001, 0.001" in differ
    assert found["blocks"][0]["verdict"].startswith("No verdict") and not any(
        r["best"] for r in found["blocks"][0]["rows"]
    )


def test_notes_name_the_pairs_that_they_are_about(tmp_path, rng):
    folds_of(
        tmp_path,
        rng,
        {"FT": {(0, 0): 0.7, (1, 0): 0.7}, "LP": {(0, 0): 0.6, (1, 0): 0.6}, "LP-FT": {(1, 0): 0.8}},
    )
    notes = analysis.analyse(tmp_path)["blocks"][0]["pair_notes"]
    assert "McNemar: runs of seed 0, fold 0 (FT − LP)." in notes
    assert "McNemar: runs of seed 1, fold 0 (FT − LP-FT, LP − LP-FT)." in notes


def test_a_score_that_is_not_finite_leaves_out_that_run_alone(tmp_path, rng):
    labels = toy(rng, 40)
    scores = right_scores(labels, rng.random(40) < 0.7)
    write_run(tmp_path, "FT", scores, labels)
    file = write_run(tmp_path, "LP", scores, labels) / "predictions.csv"
    file.write_text(file.read_text().replace("0.8", "nan", 1) if "val" not in file.read_text().splitlines()[1] else
                    "\n".join(line.replace("0.8", "nan") if line.endswith("test") else line for line in file.read_text().splitlines()))  # fmt: skip
    found = analysis.analyse(tmp_path)
    assert any("a score is not finite" in w for w in found["warnings"])
    assert {row["strategy"]: row["done"] for row in found["blocks"][0]["rows"]} == {"FT": 1, "LP": 0}


def test_tables_and_figures_of_runs_that_are_gone_go_too_and_those_of_others_stay(runs_folder):
    report.build(runs_folder)
    (runs_folder / "tables" / "mine.tex").write_text("by hand")
    assert (
        list((runs_folder / "tables").glob("*b-wide*")) and (runs_folder / "tables" / "across.tex").is_file()
    )
    shutil.rmtree(runs_folder / "b")
    shutil.rmtree(runs_folder / "a" / "wide")
    report.build(runs_folder)
    names = {f.name for f in (runs_folder / "tables").iterdir()}
    assert "mine.tex" in names and "across.tex" not in names and not any("wide" in n for n in names)


def test_the_verdict_says_where_another_training_might_turn_it(tmp_path, rng):
    """LP is better than FT in sum, but in one fold of three alone: separable over images, not over folds."""
    folds_of(
        tmp_path,
        rng,
        {"FT": dict.fromkeys([(0, 0), (0, 1), (0, 2)], 0.6), "LP": {(0, 0): 0.96, (0, 1): 0.6, (0, 2): 0.6}},
    )
    block = analysis.analyse(tmp_path)["blocks"][0]
    pair = pair_of(block, "LP", "FT")
    assert pair["verdict"] == "better" and pair["t"].p > 0.05
    assert (
        f"the corrected t-test over folds does not confirm that it is better than FT (p = {pair['t'].p:.3f})"
        in block["verdict"]
    )
    assert any("0 of the 1 differences hold" in note for note in block["pair_notes"])


@pytest.mark.parametrize("worse", ["LP", "LP-FT", "G-LF"])
def test_the_verdict_s_doubt_is_of_any_strategy_and_not_of_ft_alone(tmp_path, rng, worse):
    """FT is better than the other in one fold of three alone; L2-SP loses alike in every fold, which no test doubts."""
    places = [(0, 0), (0, 1), (0, 2)]
    accuracy = {"FT": {(0, 0): 0.96, (0, 1): 0.6, (0, 2): 0.6}, worse: dict.fromkeys(places, 0.6)}
    accuracy["L2-SP"] = {(0, 0): 0.61, (0, 1): 0.25, (0, 2): 0.26}
    folds_of(tmp_path, rng, accuracy)
    block = analysis.analyse(tmp_path)["blocks"][0]
    pair = pair_of(block, "FT", worse)
    # Nadeau and Bengio 2003 by hand: 0.36, 0, 0 over three folds, n_test / n_train = 1
    differences = np.array([0.36, 0.0, 0.0])
    t = differences.mean() / math.sqrt((1 / 3 + pair_ratio(tmp_path)) * differences.var(ddof=1))
    assert (
        pair["verdict"] == "better" and pair["t"].t == pytest.approx(t, rel=1e-9) and pair["t"].p > 0.05
    )
    assert pair_of(block, "FT", "L2-SP")["t"].p < 0.05
    doubt = f"the corrected t-test over folds does not confirm that it is better than {worse} (p = {pair['t'].p:.3f})"
    assert block["verdict"].startswith("FT has the highest accuracy") and doubt in block["verdict"]
    assert "better than L2-SP (p" not in block["verdict"] and "and L2-SP (p" not in block["verdict"]


def pair_ratio(root):
    """n_test / n_train of the runs below."""
    splits = json.loads(next(root.rglob("config.json")).read_text())["data"]["splits"]
    return splits["test"]["images"] / splits["train"]["images"]


def test_a_setting_that_is_a_list_is_no_damage(tmp_path, rng):
    labels = toy(rng, 30)
    changed = {"hyperparameters": {"bn": "train", "stage_shares": [0.7, 0.3]}}
    write_run(tmp_path, "LP-FT", all_right(labels), labels, changed=changed)
    write_run(tmp_path, "FT", all_right(labels), labels, changed={"lr": "x"})
    found = analysis.analyse(tmp_path)
    assert {row["strategy"]: row["done"] for row in found["blocks"][0]["rows"]} == {"LP-FT": 1}
    assert len(found["warnings"]) == 1 and "lr is 'x'" in found["warnings"][0]
