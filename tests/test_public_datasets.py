"""Each public dataset from its layout on disk to a metrics.json on the right unit."""

import csv
import json
import sys

import layouts
import numpy as np
import pytest

import datasets
import ftcompare
import metrics
import prepare

ONE_EACH = [
    "chexpert-E-study",
    "mura",
    "t1w-kaggle",
    "t1w-figshare",
    "bach",
    "isic2020-v2",
    "cholect50",
    "cholect45",
]


def run_command(layout, tmp_path, monkeypatch, *more):
    name = layouts.LAYOUTS[layout][0]
    data_dir = layouts.write(layout, tmp_path / "data")
    arguments = [
        "--data",
        name,
        "--data-dir",
        data_dir,
        "--arch",
        "resnet18",
        "--strategy",
        "autorgn",
        "--weights",
        "none",
        "--img-size",
        "32",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--output-dir",
        tmp_path / "runs",
        *more,
    ]
    monkeypatch.setattr(sys, "argv", ["ftcompare.py", *map(str, arguments)])
    code = ftcompare.command_line()
    return code, tmp_path / "runs" / name / "resnet18" / "autorgn" / "seed0-fold0"


def rows_of(folder, split):
    with open(folder / "predictions.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


@pytest.mark.parametrize("layout", ONE_EACH)
def test_every_dataset_ends_in_a_primary_metric(layout, tmp_path, monkeypatch, capsys):
    if "figshare" in layout:
        pytest.importorskip("h5py")
    code, folder = run_command(layout, tmp_path, monkeypatch)
    assert code == 0, capsys.readouterr().err
    result = json.loads((folder / "metrics.json").read_text())
    name = layouts.LAYOUTS[layout][0]
    primary = {
        "chexpert": "auroc",
        "mura": "kappa",
        "t1w": "accuracy",
        "bach": "accuracy",
        "isic2020": "auroc",
        "cholect50": "video_map",
    }
    assert result["metric"] == primary[name]
    rows = rows_of(folder, "test")
    value = result["test"]["values"][result["metric"]]
    if name == "chexpert":
        assert value == pytest.approx(chexpert_by_hand(rows), abs=1e-9)
    elif name == "mura":
        assert result["test"]["n"] == len({row["study"] for row in rows}) < len(rows)
        assert value == pytest.approx(mura_by_hand(rows), abs=1e-9)
        assert set(result["test"]["subgroups"]) == {
            row["study"].split("/")[0].removeprefix("XR_").lower() for row in rows
        }
    elif name in ("t1w", "bach"):
        classes = [c.removeprefix("score_") for c in rows[0] if c.startswith("score_")]
        right = [max(classes, key=lambda c: float(r[f"score_{c}"])) == r["label"] for r in rows]
        assert value == pytest.approx(np.mean(right), abs=1e-12)
    elif name == "isic2020":
        positive = classes_of(rows)[1]
        pairs = [(float(a[f"score_{positive}"]), float(b[f"score_{positive}"])) for a in rows for b in rows
                 if a["label"] == positive != b["label"]]  # fmt: skip
        assert value == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]), abs=1e-9)
    else:
        assert value == pytest.approx(video_map_by_hand(rows), abs=1e-9)


def classes_of(rows):
    return [c.removeprefix("score_") for c in rows[0] if c.startswith("score_")]


def pairwise_auroc(scores, positive):
    pairs = [(a, b) for a, p in zip(scores, positive) for b, q in zip(scores, positive) if p and not q]
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
        aurocs.append(pairwise_auroc(*zip(*studies.values())))
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
            pairs = sorted(
                ((float(r[f"score_{label}"]), int(r[f"label_{label}"])) for r in frames), reverse=True
            )
            if not any(y for _, y in pairs):
                continue
            assert len({score for score, _ in pairs}) == len(
                pairs
            )  # no ties: precision at each positive's rank
            hits = [rank for rank, (_, y) in enumerate(pairs, 1) if y]
            aps.append(np.mean([(i + 1) / rank for i, rank in enumerate(hits)]))
        if aps:
            by_class.append(np.mean(aps))
    return np.mean(by_class)


def index_with(labels, units, how, task="multilabel"):
    n, classes = len(labels), ["a", "b"] if labels.ndim == 1 else [f"c{i}" for i in range(labels.shape[1])]
    names = [str(i) for i in range(n)]
    return datasets.Index(
        "x",
        task,
        classes,
        names,
        labels,
        names,
        [""] * n,
        None,
        units=units,
        unit_kind="study",
        unit_score=how,
    )


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
        aps = [sklearn_metrics.average_precision_score(labels[videos == v, c], scores[videos == v, c])
               for v in np.unique(videos) if labels[videos == v, c].any()]  # fmt: skip
        means.append(np.mean(aps))
    assert result["values"]["video_map"] == pytest.approx(np.mean(means), abs=1e-9)
    assert result["averaged_over"]["video_map"] == 4 and metrics.higher_is_better("video_map")


def test_check_data_writes_its_table_and_says_what_must_be_mended(tmp_path, monkeypatch, capsys):
    code, _ = run_command("mura", tmp_path, monkeypatch, "--check-data")
    out = capsys.readouterr().out
    assert code == 0 and "a full copy has" in out  # the generated copy is smaller than the official one
    with open(next((tmp_path / "runs" / "splits").glob("*data_check.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert any(row["table"] == "archive" and row["split"] == "train" and row["official"] for row in rows)
    picture = next((tmp_path / "data").rglob("XR_*/*/*/image1.png"))
    picture.write_bytes(picture.read_bytes()[:40])
    code, _ = run_command_again("mura", tmp_path, monkeypatch, "--check-data")
    out = capsys.readouterr().out
    assert code == 1 and "MUST BE MENDED" in out and "image1.png" in out


def run_command_again(layout, tmp_path, monkeypatch, *more):
    monkeypatch.setattr(layouts, "write", lambda layout, root: root)
    return run_command(layout, tmp_path, monkeypatch, *more)


def test_list_data_names_all_six(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ftcompare.py", "--list-data"])
    assert ftcompare.command_line() == 0
    out = capsys.readouterr().out
    assert all(f"\n{name}: " in out for name in ("chexpert", "mura", "t1w", "bach", "isic2020", "cholect50"))
    assert out.count("citation") == 6


def test_another_task_or_fold_has_run_folders_of_its_own(tmp_path, monkeypatch, capsys):
    more = ("--task", "verb", "--variant", "crossval", "--fold", "2")
    assert run_command("cholect50", tmp_path, monkeypatch, *more)[0] == 0, capsys.readouterr().err
    folder = tmp_path / "runs" / "cholect50-verb-crossval-fold2" / "resnet18" / "autorgn" / "seed0-fold0"
    assert "score_grasp" in rows_of(folder, "test")[0]
