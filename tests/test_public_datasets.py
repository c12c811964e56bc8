"""Each public dataset from its layout on disk to a metrics.json on the right unit."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pytest

import datasets
import metrics
import prepare
import settings

ONE_EACH = "chexpert-E-study mura t1w-kaggle t1w-figshare bach isic2020-v2 cholect50 cholect45".split()
PRIMARY = {
    "chexpert": "auroc",
    "mura": "kappa",
    "t1w": "accuracy",
    "bach": "accuracy",
    "isic2020": "auroc",
    "cholect50": "video_map",
}


@pytest.fixture
def train(run, tmp_path):
    """train(name, data_dir, *more) -> (exit code, standard output, standard error, the run's folder)."""
    short = "--arch resnet18 --strategy autorgn --weights none --img-size 32 --epochs 1 --device cpu".split()

    def command(name, data_dir, *more):
        output_dir = tmp_path / "runs"
        place = ("--data", name, "--data-dir", data_dir, "--output-dir", output_dir)
        code, out, err = run(*place, *short, *more)
        return code, out, err, output_dir / name / "resnet18" / "autorgn" / "seed0-fold0"

    return command


def write(layout: str, folder: Path) -> tuple[str, Path]:
    """(name of the dataset, its folder)"""
    return layouts.LAYOUTS[layout][0], layouts.write(layout, folder)


def rows_of(folder, split):
    with open(folder / "predictions.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


@pytest.mark.parametrize("layout", ONE_EACH)
def test_every_dataset_ends_in_a_primary_metric(layout, tmp_path, train):
    if "figshare" in layout:
        pytest.importorskip("h5py")
    name, data_dir = write(layout, tmp_path / "data")
    code, _, err, folder = train(name, data_dir)
    assert code == 0, err
    result = json.loads((folder / "metrics.json").read_text())
    assert result["metric"] == PRIMARY[name]
    rows = rows_of(folder, "test")
    by_hand = {
        "chexpert": chexpert_by_hand,
        "mura": mura_by_hand,
        "isic2020": isic_by_hand,
        "cholect50": video_map_by_hand,
    }.get(name, accuracy_by_hand)
    assert result["test"]["values"][result["metric"]] == pytest.approx(by_hand(rows), abs=1e-9)
    if name == "mura":
        studies = {row["study"] for row in rows}
        assert result["test"]["n"] == len(studies) < len(rows)
        regions = {study.split("/")[0].removeprefix("XR_").lower() for study in studies}
        assert set(result["test"]["subgroups"]) == regions


def classes_of(rows):
    return [c.removeprefix("score_") for c in rows[0] if c.startswith("score_")]


def accuracy_by_hand(rows):
    classes = classes_of(rows)
    return np.mean([max(classes, key=lambda c: float(row[f"score_{c}"])) == row["label"] for row in rows])


def isic_by_hand(rows):
    positive = classes_of(rows)[1]
    scores = [float(row[f"score_{positive}"]) for row in rows]
    return pairwise_auroc(scores, [row["label"] == positive for row in rows])


def pairwise_auroc(scores, positive):
    high = [score for score, yes in zip(scores, positive, strict=True) if yes]
    low = [score for score, yes in zip(scores, positive, strict=True) if not yes]
    pairs = [(a, b) for a in high for b in low]
    return np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]) if pairs else np.nan


def chexpert_by_hand(rows):
    """The maximum over a study's views, then the AUROC of each label, then their mean."""
    aurocs = []
    for label in classes_of(rows):
        studies = {}
        for row in rows:
            if row[f"label_{label}"] != "":
                entry = studies.setdefault(row["study"], [0.0, 0])
                entry[1] = max(entry[1], int(row[f"label_{label}"]))
        for row in rows:  # a masked view still has a score
            if row["study"] in studies:
                studies[row["study"]][0] = max(studies[row["study"]][0], float(row[f"score_{label}"]))
        aurocs.append(pairwise_auroc(*zip(*studies.values(), strict=True)))
    return np.nanmean(aurocs)


def mura_by_hand(rows):
    """Mean probability of a study's images, abnormal above 0.5, then Cohen's kappa over studies."""
    studies = {}
    for row in rows:
        studies.setdefault(row["study"], (row["label"], []))[1].append(float(row["score_abnormal"]))
    truth = np.array([label == "abnormal" for label, _ in studies.values()])
    said = np.array([np.mean(scores) > 0.5 for _, scores in studies.values()])
    chance = truth.mean() * said.mean() + (1 - truth.mean()) * (1 - said.mean())
    return ((truth == said).mean() - chance) / (1 - chance)


def video_map_by_hand(rows):
    """The AP of each class in each video that has it, mean over videos, then over classes."""
    by_class = []
    for label in classes_of(rows):
        aps = []
        for video in sorted({row["video"] for row in rows}):
            frames = [r for r in rows if r["video"] == video]
            pairs = [(float(r[f"score_{label}"]), int(r[f"label_{label}"])) for r in frames]
            pairs.sort(reverse=True)
            if not any(y for _, y in pairs):
                continue
            assert len(dict(pairs)) == len(pairs)  # no ties: precision at each positive's rank
            hits = [rank for rank, (_, y) in enumerate(pairs, 1) if y]
            aps.append(np.mean([(i + 1) / rank for i, rank in enumerate(hits)]))
        if aps:
            by_class.append(np.mean(aps))
    return np.mean(by_class)


def index_with(labels, units, how, task="multilabel"):
    index = layouts.by_hand(labels, task=task)
    return replace(index, units=units, unit_kind="study", unit_score=how)


@pytest.mark.parametrize("seed", range(5))
def test_study_level_metrics_agree_with_scikit_learn(seed):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    study = np.sort(rng.integers(0, 40, 120))
    units, rows = [f"s{i}" for i in study], np.arange(120)
    # kappa over studies, mean probability above 0.5
    truth = rng.integers(0, 2, 40)
    positive = rng.random(120)
    index = index_with(truth[study], units, "mean", "multiclass")
    got = prepare.judge_scores(index, rows, np.column_stack([1 - positive, positive]))["values"]["kappa"]
    present = np.unique(study)
    mean = np.array([positive[study == i].mean() for i in present])
    assert got == pytest.approx(sklearn_metrics.cohen_kappa_score(truth[present], mean > 0.5), abs=1e-9)
    # AUROC over studies, maximum over views, three labels, some unknown
    labels = rng.integers(0, 2, (40, 3)).astype(np.float32)
    labels[rng.random((40, 3)) < 0.1] = np.nan
    scores = rng.random((120, 3))
    got = prepare.judge_scores(index_with(labels[study], units, "max"), rows, scores)["values"]["auroc"]
    aurocs = []
    for c in range(3):
        known = [i for i in present if not np.isnan(labels[i, c])]
        best = [scores[study == i, c].max() for i in known]
        aurocs.append(sklearn_metrics.roc_auc_score(labels[known, c], best))
    assert got == pytest.approx(np.mean(aurocs), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_video_map_agrees_with_scikit_learn(seed):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    videos = np.repeat([f"VID{i:02d}" for i in range(6)], 30)
    labels, scores = (rng.random((180, 5)) < 0.08).astype(np.float32), rng.random((180, 5)).round(2)
    index = index_with(labels, list(videos), "video")
    index.leave_out = (4,)
    result = prepare.judge_scores(index, np.arange(180), scores)
    means = []
    for c in range(4):
        frames = [videos == video for video in np.unique(videos)]
        pairs = [(labels[here, c], scores[here, c]) for here in frames if labels[here, c].any()]
        means.append(np.mean([sklearn_metrics.average_precision_score(*pair) for pair in pairs]))
    assert result["values"]["video_map"] == pytest.approx(np.mean(means), abs=1e-9)
    assert result["averaged_over"]["video_map"] == 4 and metrics.higher_is_better("video_map")


def test_check_data_writes_its_table_and_says_what_must_be_fixed(tmp_path, train):
    name, data_dir = write("mura", tmp_path / "data")
    code, out, _, _ = train(name, data_dir, "--check-data")
    assert code == 0 and "a full copy has" in out  # the generated copy is smaller than the official one
    with open(next((tmp_path / "runs" / "splits").glob("*data_check.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert any(row["table"] == "archive" and row["split"] == "train" and row["official"] for row in rows)
    picture = next(data_dir.rglob("XR_*/*/*/image1.png"))
    picture.write_bytes(picture.read_bytes()[:40])
    code, out, _, _ = train(name, data_dir, "--check-data")
    assert code == 1 and "images cannot be read" in out and "image1.png" in out


def test_list_data_names_every_dataset(run):
    code, out, _ = run("--list-data")
    assert code == 0 and all(f"\n{name}: " in out for name in datasets.DATASETS)
    assert out.count("citation") == len(datasets.DATASETS)


def test_another_task_or_fold_has_run_folders_of_its_own(tmp_path, train):
    name, data_dir = write("cholect50", tmp_path / "data")
    code, _, err, _ = train(name, data_dir, "--task", "verb", "--variant", "crossval", "--fold", "2")
    assert code == 0, err
    folder = tmp_path / "runs" / "cholect50-verb-crossval-fold2" / "resnet18" / "autorgn" / "seed0-fold0"
    assert "score_grasp" in rows_of(folder, "test")[0]


def test_one_more_dataset_goes_from_help_to_the_page(tmp_path, train, run, monkeypatch):
    data_dir = layouts.add_eyes(monkeypatch, tmp_path / "data")
    monkeypatch.setitem(settings.PARTS, "options", layouts.WithSide)  # as if the field stood in datasets.py
    for title, parts in list(settings.GROUPS.items()):
        with_side = [layouts.WithSide if part is datasets.Options else part for part in parts]
        monkeypatch.setitem(settings.GROUPS, title, with_side)
    assert "eyes: one side (default: both)" in " ".join(settings.help_page(everything=True).split())
    code, _, err, _ = train("eyes", data_dir, "--side", "left")
    assert code == 0, err
    folder = tmp_path / "runs" / "eyes-left" / "resnet18" / "autorgn" / "seed0-fold0"
    assert {row["image"].split("/")[0] for row in rows_of(folder, "test")} == {"left"}
    assert json.loads((folder / "config.json").read_text())["data"]["citation"] == "by hand"
    assert "eyes-left" in (tmp_path / "runs" / "report.md").read_text()
