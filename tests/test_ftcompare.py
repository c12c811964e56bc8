"""The command line from end to end on tiny data."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from toys import ARCH, CPU, SMALL, Toy, half_trained, predictions, read, settings_of, toy_data

import datasets
import dryrun
import ftcompare
import models
import runs
import splits
import strategies
import train
import workers
from report import analysis

PAPER = {key: entry for key, entry in strategies.STRATEGIES.items() if entry.paper}  # what "all" means


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """All eight strategies on the demo's smallest setting, by the real command."""
    out = tmp_path_factory.mktemp("sweep") / "runs"
    arguments = [
        sys.executable,
        ROOT / "ftcompare.py",
        "--data",
        "demo-tiny",
        *SMALL,
        "--epochs",
        "2",
        "--output-dir",
        out,
    ]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.mark.parametrize("key", PAPER)
def test_a_run_folder_is_complete_and_its_numbers_follow_from_its_predictions(swept, key):
    pytest.importorskip("sklearn")
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

    folder = swept[0] / "demo-tiny" / ARCH / key / "seed0-fold0"
    files = {"config.json", "log.csv", "best.pt", "predictions.csv", "metrics.json", "hardest.npz", ".lock-1"}
    assert {f.name for f in folder.iterdir()} == files | ({"ratios.csv"} if key == "autorgn" else set())
    result = json.loads((folder / "metrics.json").read_text())
    classes = json.loads((folder / "config.json").read_text())["settings"]["classes"]
    for split in ("val", "test"):
        rows = [r for r in predictions(folder) if r["split"] == split]
        assert len(rows) == result["images"][split] == result[split]["n"]
        truth = np.array([classes.index(r["label"]) for r in rows])
        scores = np.array([[float(r[f"score_{c}"]) for c in classes] for r in rows])
        values = result[split]["values"]
        assert values["accuracy"] == pytest.approx(accuracy_score(truth, scores.argmax(1)), abs=1e-12)
        assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, scores.argmax(1)), abs=1e-12)
        aurocs = [roc_auc_score(truth == c, scores[:, c]) for c in range(len(classes))]
        assert values["auroc"] == pytest.approx(np.mean(aurocs), abs=1e-9)
    log = read(folder / "log.csv")
    best = max(log, key=lambda r: float(r["val_balanced_accuracy"]))
    assert int(best["epoch"]) == result["best_epoch"]
    assert float(best["val_balanced_accuracy"]) == pytest.approx(result["val"]["values"]["balanced_accuracy"], abs=1e-9)
    assert len(log) == result["epochs"] == 2


def two_class_npz(file):
    """A MedMNIST file of 28 px greys, 70 % with a bright spot: 96 for training, 40 for validation, 48 for
    test."""
    rng = np.random.default_rng(5)
    arrays = {}
    for side, n in (("train", 96), ("val", 40), ("test", 48)):
        labels = (rng.permutation(n) < 0.7 * n).astype(np.uint8)
        pixels = rng.normal(80, 30, (n, 28, 28))
        pixels[:, 8:20, 8:20] += 40 * labels[:, None, None]
        arrays |= {f"{side}_images": np.clip(pixels, 0, 255).astype(np.uint8), f"{side}_labels": labels[:, None]}
    np.savez(file, **arrays)
    return file


def test_two_classes_of_a_medmnist_file_are_on_the_page_as_scikit_learn_counts_them(tmp_path, capsys):
    """Two seeds of two strategies; every number of the page's results and metrics from predictions.csv
    alone."""
    sk = pytest.importorskip("sklearn.metrics")
    data, out = two_class_npz(tmp_path / "spots.npz"), tmp_path / "runs"
    options = f"--arch {ARCH} --weights none --img-size 32 --epochs 2 -b 16 --seed 0 1 --device cpu".split()
    options += ["--strategy", "ft", "glf", "--data", str(data), "--output-dir", str(out)]
    assert ftcompare.main(options) == 0
    (experiment,) = analysis.analyse(out).experiments
    markdown, page = (out / "report.md").read_text().replace("\\", ""), (out / "report.html").read_text()
    for row in experiment.rows:
        key, found = {"FT": "ft", "G-LF": "glf"}[row.strategy], {}
        for seed in (0, 1):
            folder = out / "spots" / ARCH / key / f"seed{seed}-fold0"
            threshold = json.loads((folder / "metrics.json").read_text())["thresholds"][0]
            rows = [r for r in predictions(folder) if r["split"] == "test"]
            y = np.array([int(r["label"]) for r in rows])
            p = np.array([[float(r["score_0"]), float(r["score_1"])] for r in rows])
            called, above = p.argmax(1), (p[:, 1] >= threshold).astype(int)
            values = {
                "accuracy": sk.accuracy_score(y, called),
                "balanced_accuracy": sk.balanced_accuracy_score(y, called),
                "macro_f1": sk.f1_score(y, called, average="macro"),
                "kappa": sk.cohen_kappa_score(y, called),
                "auroc": sk.roc_auc_score(y, p[:, 1]),
                "average_precision": sk.average_precision_score(y, p[:, 1]),
                "brier": sk.brier_score_loss(y, p[:, 1]),
                "sensitivity": sk.recall_score(y, above),
                "specificity": sk.recall_score(y, above, pos_label=0),
            }
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        for name, values in found.items():
            estimate = row.metrics[name]
            assert estimate.mean == pytest.approx(np.mean(values), abs=1e-9), name
            assert estimate.sd == pytest.approx(np.std(values, ddof=1), abs=1e-9), name
        primary = found["balanced_accuracy"]
        line = next(x for x in markdown.splitlines() if x.startswith(f"| {row.strategy}") and "[" in x)
        assert f"| {np.mean(primary):.3f} [" in line and f"± {np.std(primary, ddof=1):.3f} |" in line
        assert f"{np.mean(found['auroc']):.3f}" in page and f"{np.mean(found['sensitivity']):.3f}" in page
    assert "96 images for training, 40 images for validation and 48 images for test" in markdown
    assert "sensitivity, specificity, PPV and NPV are at the threshold chosen on validation (youden)" in page
    assert "G-LF: its stages merged into 2" in markdown and "names no patient" not in markdown


def test_every_strategy_has_the_same_data_steps_and_head(swept):
    configs, results, lists = {}, {}, set()
    for key in PAPER:
        folder = swept[0] / "demo-tiny" / ARCH / key / "seed0-fold0"
        settings = json.loads((folder / "config.json").read_text())["settings"]
        configs[key] = {
            n: settings[n] for n in ("split_hash", "batch_size", "epochs", "augment", "data_hash", "metric")
        }
        results[key] = json.loads((folder / "metrics.json").read_text())["optimizer_steps"]
        lists.add(tuple((r["image"], r["split"]) for r in predictions(folder)))
    assert all(c == configs["ft"] for c in configs.values()) and len(lists) == 1
    assert set(results.values()) == {results["ft"]}


def test_the_table_names_every_strategy_with_its_trainable_parameters(swept):
    table = swept[1][swept[1].index("strategy ") :]
    for entry in PAPER.values():
        assert re.search(rf"^{re.escape(entry.name)}[ *]+1  0\.\d{{3}} \[", table, re.MULTILINE), table
    assert re.search(r"^LP .* 4,100 ", table, re.MULTILINE)  # 1024 features x 4 classes + 4
    rows = read(swept[0] / "results.csv")
    assert [r["strategy"] for r in rows] == list(PAPER)


def test_what_is_printed_before_training_proves_that_no_patient_is_on_two_sides(swept):
    assert "patients in two splits: 0" in swept[1]
    with open(next((swept[0] / "splits").iterdir()), newline="") as file:
        sides = {}
        for row in csv.DictReader(file):
            sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(s) == 1 for s in sides.values())


def test_lp_leaves_the_backbone_bit_identical(swept):
    state = torch.load(swept[0] / "demo-tiny" / ARCH / "lp" / "seed0-fold0" / "best.pt", weights_only=True)["model"]
    model, _, _ = models.build_model(ARCH, models.Weights("none"), 4, seed=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]) != name.startswith("fc."), name


def test_auto_rgn_writes_a_ratio_for_every_layer_and_epoch(swept):
    folder = swept[0] / "demo-tiny" / ARCH / "autorgn" / "seed0-fold0"
    rows = read(folder / "ratios.csv")
    model = models.new_model(ARCH)
    layers = [n for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    for epoch in ("1", "2"):
        mine = [r for r in rows if r["epoch"] == epoch]
        assert [r["layer"] for r in mine] == layers
        assert float(mine[-1]["ratio"]) == 1.0  # the head
        backbone = [r for r in mine[:-1] if float(r["weight_norm"]) > 0]
        quotients = np.array([float(r["grad_norm"]) / float(r["weight_norm"]) for r in backbone])
        np.testing.assert_allclose([float(r["ratio"]) for r in backbone], quotients / quotients.max(), rtol=1e-6)
        assert float(mine[0]["lr"]) == pytest.approx(1e-3 * float(mine[0]["ratio"]))


def test_a_pretraining_that_fails_or_is_left_by_another_process_is_not_used(tmp_path, monkeypatch):
    chosen = settings_of("--data", "demo-tiny", "--output-dir", tmp_path, "--device", "cpu")
    source = half_trained(tmp_path / "cache" / "demo-source" / ARCH / "ft" / "seed0-fold0")
    monkeypatch.setattr(ftcompare, "sweep", lambda said: [{"failed": "the training loss is nan"}])
    with pytest.raises(runs.RunError, match=f"pretraining {ARCH} failed, the training loss is nan"):
        ftcompare.demo_weights(ARCH, chosen)

    def finish(said):  # the first process was killed: the second goes on with its run
        source.write_json("metrics.json", {})
        return [{}]

    monkeypatch.setattr(ftcompare, "sweep", finish)
    assert ftcompare.demo_weights(ARCH, chosen) == str(source.file("best.pt"))


def test_a_run_that_diverges_is_said_and_the_others_go_on(folder, tmp_path, run):
    arguments = ["--data", folder, *SMALL, "--epochs", "2", "--lr", "1e30", "--opt", "sgd", "--output-dir", tmp_path]
    code, out, _ = run(*arguments, "--strategy", "ft", "lp")
    assert code == 1 and "1 failed" in out
    failed = list(tmp_path.glob("*/*/*/*/failed.json"))
    reasons = [json.loads(file.read_text())["reason"] for file in failed]
    assert len(reasons) == 2 and all(re.search(r"loss is (nan|inf)|scores are not finite", text) for text in reasons)
    statuses = {(row["strategy"], row["status"]) for row in read(tmp_path / "results.csv")}
    assert statuses == {("ft", "failed"), ("lp", "failed")}
    assert not (failed[0].parent / "metrics.json").exists()
    assert out.count("[1 of 2]") == out.count("[2 of 2]") == 1


def test_dry_run_trains_nothing(folder, tmp_path, run):
    arguments = ["--data", folder, *SMALL, "--epochs", "3", "--seed", "0", "1", "--output-dir", tmp_path]
    code, out, _ = run(*arguments, "--dry-run")
    assert code == 0 and "\n16 runs: about" in out and "nothing was trained" in out
    table = re.findall(r"^  (\S+) +2 +0 +\S+ (?:s|min|h) +\S+ (?:s|min|h)$", out, re.MULTILINE)
    assert table == [entry.name for entry in strategies.STRATEGIES.values() if entry.paper]
    assert not list(tmp_path.glob("*/*/*/*/config.json"))


def no_timing(monkeypatch):
    """An epoch of FT takes 10 ms an image, others 1, scoring 0.1 s; a model has 10 MB, 30 more while it trains."""
    asked = []

    def measure(model, plan, data, recipe, batches):
        asked.append((plan.strategy, batches))
        later = {"ft": 0.010}.get(plan.strategy, 0.001)
        epochs = [plan.epochs] if len(plan.stages) == 1 else [1] * len(plan.stages)
        return dryrun.Measured([(later, later)] * len(plan.stages), epochs, 0.1, 10**7, 3 * 10**7)

    monkeypatch.setattr(dryrun, "measure", measure)
    return asked


def test_a_dry_run_counts_what_is_left_by_strategy_trials_and_disk(folder, tmp_path, run, monkeypatch):
    """60 images: 42 train, 6 validate, 12 test, as is printed. A trial splits the 42."""
    monkeypatch.setattr("report.figures.available", lambda: False)
    groups = ["--group-regex", "^(p[dl]\\d+)_"]
    small = ["--data", folder, *SMALL, *groups, "--output-dir", tmp_path, "--epochs", "2", "--strategy", "ft", "lp"]
    assert run(*small, "--seed", "0", "--strategy", "lp")[0] == 0
    asked = no_timing(monkeypatch)
    code, out, err = run(*small, "--seed", "0", "1", "2", "--dry-run")
    assert code == 0, err
    for side, images in (("train", 42), ("val", 6), ("test", 12)):
        assert re.search(rf"^  {side} +{images} images", out, re.MULTILINE), out
    # a batch of 16 takes 0.16 s, so that two are timed; the first of all warms up
    assert asked == [("ft", 1), ("ft", 1), ("ft", 2), ("lp", 2)]
    ft, lp = 2 * 42 * 0.010 + 18 * 0.1, 2 * 42 * 0.001 + 18 * 0.1  # 2.640 s and 1.884 s
    assert re.search(rf"^  FT +3 +0 +{ft:.0f} s +{3 * ft:.0f} s$", out, re.MULTILINE), out
    assert re.search(rf"^  LP +3 +1 +{lp:.0f} s +{2 * lp:.0f} s$", out, re.MULTILINE), out
    assert f"5 of 6 runs: about {3 * ft + 2 * lp:.0f} s," in out
    assert "disk: 50.0 MB of checkpoints, 0.1 MB of decoded pixels, 30.0 MB more while a run trains" in out
    assert "disk: 100.0 MB of" in run(*small, "--seed", "0", "1", "2", "--dry-run", "--keep-last")[1]
    assert "6 runs: about" in run(*small, "--seed", "0", "1", "2", "--dry-run", "--overwrite")[1]
    out = run(*small[:-3], "--strategy", "ft", "--seed", "3", "4", "--tune", "2", "--dry-run")[1]
    inner = splits_inside(folder, groups)
    trial = 2 * inner["train"] * 0.010 + inner["val"] * 0.1
    assert sum(inner.values()) == 42
    assert re.search(rf"^  FT +2 +0 +3 s +{2 * ft + 2 * trial:.0f} s$", out, re.MULTILINE), out
    assert "note: 2 trials of --tune for each strategy and fold are in it" in out


def splits_inside(folder, groups):
    """Images by side of what --tune splits inside fold 0."""
    settings = settings_of("--data", folder, *groups)
    index = datasets.load_index(str(folder), options=settings.options)
    sides = splits.make_splits(index, [], seed=0, val_fraction=0.15, test_fraction=0.2)[0]
    inner = splits.nested_split(index, sides, [], seed=0, val_fraction=0.15)
    return {side: int((inner == side).sum()) for side in ("train", "val")}


@pytest.mark.parametrize("weights", ["imagenet", "nowhere.pth"])
def test_a_dry_run_needs_no_weights_and_downloads_none(weights, folder, tmp_path, run, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("a dry run downloads"))
    no_timing(monkeypatch)
    small = ["--data", folder, *SMALL, "--strategy", "ft", "--output-dir", tmp_path / "runs", "--epochs", "1"]
    state = tmp_path / "there.pth"
    torch.save(models.new_model(ARCH).state_dict(), state)
    code, out, err = run(*small, "--weights", weights, "--dry-run")
    missing = "not here; the sweep downloads them (5 MB)" if weights == "imagenet" else "no file nowhere.pth is here"
    assert code == 0 and f"weights of {ARCH}: {missing}" in out and "\n1 run: about" in out, err
    assert run(*small, "--weights", state)[0] == 0
    code, out, _ = run(*small, "--weights", weights, "--dry-run")  # all but the weights is compared
    assert code == 0 and "\n0 of 1 run: about 0 s" in out
    code, _, err = run(*small, "--weights", weights, "--lr", "0.5", "--dry-run")
    assert code == 2 and "lr: 0.0001 there, 0.5 now" in err and "weights_sha256" not in err


def test_weights_that_are_there_are_checked_by_a_dry_run_too(folder, tmp_path, run):
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "other.pth")
    arguments = ["--data", folder, *SMALL, "--weights", tmp_path / "other.pth", "--output-dir", tmp_path / "runs"]
    code, _, err = run(*arguments, "--dry-run")
    assert code == 2 and "backbone tensors" in err


class Clock:
    """perf_counter() that only what is counted moves on."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(workers.time, "perf_counter", self.read)

    def read(self):
        self.now += 1e-12  # a rate is not divided by 0
        return self.now


def test_each_stage_is_timed_as_what_it_trains(monkeypatch):
    """A clock that counts parameters stepped: 10 of Toy's head, 130 of all, in three batches of eight; an image of
    validation takes 1, as each that is scored."""
    clock, step, infer = Clock(monkeypatch), train.step, train.infer

    def counted(net, plan, *rest):
        clock.now += sum(p.numel() for p in net.parameters() if p.requires_grad)
        return step(net, plan, *rest)

    def scored(net, data, rows, *rest):
        clock.now += len(rows)
        return infer(net, data, rows, *rest)

    monkeypatch.setattr(train, "step", counted)
    monkeypatch.setattr(train, "infer", scored)
    head, whole = (3 * 10 + 8) / 24, (3 * 130 + 8) / 24  # of 24 images, with as many of validation as there are
    expected = {"ft": [whole], "lp": [head], "lpft": [head, whole], "glf": [head, whole], "l2sp": [whole]}
    epochs = {"ft": [5], "lp": [5], "lpft": [3, 2], "glf": [3, 2], "l2sp": [5]}
    for key, stages in expected.items():
        model = Toy()
        plan = strategies.make_plan(key, model, epochs=5)
        recipe = train.Recipe(epochs=5, batch_size=8, **CPU)
        found = dryrun.measure(model, plan, toy_data(40), recipe, batches=3)
        assert [second for stage in found.stages for second in stage] == pytest.approx(
            [seconds for seconds in stages for _ in range(2)], abs=1e-6
        )
        assert found.epochs == epochs[key] and found.scoring == pytest.approx(1, abs=1e-6)
        state = sum(t.numel() * t.element_size() for t in model.state_dict().values())  # 138 + 8 float32, one int64
        assert found.finished == state == 4 * 138 + 8 and found.training == 3 * (2 * state + 2 * 4 * 130)


def test_a_sample_has_as_large_a_share_of_validation(monkeypatch):
    data = toy_data(40)  # 24 train, 8 validate
    for batches, size, train_images, val_images in ((1, 6, 6, 2), (2, 6, 12, 4), (9, 6, 24, 8), (1, 1, 1, 1)):
        part = dryrun.sample(data, batches, size)
        assert [len(part.rows[side]) for side in ("train", "val", "test")] == [train_images, val_images, 0]


def test_the_seconds_of_a_run_by_hand():
    cost = dryrun.Measured([(0.2, 0.1), (0.5, 0.4), (9.0, 9.0)], [3, 1, 0], scoring=0.01, finished=1, training=1)
    assert cost.seconds({"train": 100, "val": 20, "test": 30}) == pytest.approx(40 + 50 + 0.5)
    assert cost.seconds({"train": 10, "val": 20, "": 7}) == pytest.approx(4 + 5 + 0.2)


def test_a_long_epoch_says_a_line_a_minute_off_a_terminal(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    progress = workers.Progress(cells=1, epochs=2)
    for number in range(1, 151):  # a step a second
        clock.now += 1
        progress.step(number, 150, 32.0)
    said = capsys.readouterr().out.splitlines()
    assert said == ["    step 60/150, 32 images/s", "    step 120/150, 32 images/s"]
    progress.line("an epoch's line")
    clock.now += 59
    progress.step(1, 150, 32.0)
    assert capsys.readouterr().out == "an epoch's line\n"


def test_show_blocks_prints_the_map(run):
    code, out, _ = run("--show-blocks", "--arch", "resnet50", "vgg19", "regnet_y_400mf")
    assert code == 0
    # conv1 and bn1: 64 * 3 * 7 * 7 + 2 * 64; vgg19's new layer: 4096 * 1000 + 1000; regnet's: 440 * 1000 +
    # 1000
    for block, tensors, parameters in (("stem", 3, "9,536"), ("head", 2, "4,097,000"), ("head", 2, "441,000")):
        assert re.search(rf"^  {block} +{tensors} +{parameters}$", out, re.MULTILINE)


def test_folds_and_seeds_make_the_product_and_each_image_is_tested_once(folder, tmp_path, run):
    code, out, _ = run(
        "--data",
        folder,
        *SMALL,
        "--epochs",
        "1",
        "--strategy",
        "lp",
        "--folds",
        "3",
        "--seed",
        "0",
        "1",
        "--group-regex",
        "^(p[dl]\\d+)_",
        "--output-dir",
        tmp_path,
    )
    assert code == 0 and re.search(r"^LP[ *]+6 .*±", out, re.MULTILINE)
    tested = [
        r["image"]
        for fold in range(3)
        for r in predictions(next(tmp_path.glob(f"*/*/lp/seed1-fold{fold}")))
        if r["split"] == "test"
    ]
    assert len(tested) == len(set(tested)) == 60


def test_multilabel_from_a_csv(folder, tmp_path, run):
    lines = ["path,group,bright,odd"]
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        odd = "" if i % 7 == 0 else i % 2  # unknown for some
        bright = int(file.parent.name == "light")
        lines.append(f"{file.relative_to(folder).as_posix()},{file.stem.split('_')[0]},{bright},{odd}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    code, _, err = run(
        "--data",
        tmp_path / "labels.csv",
        "--data-dir",
        folder,
        "--label-col",
        "bright",
        "odd",
        *SMALL,
        "--epochs",
        "2",
        "--strategy",
        "ft",
        "--output-dir",
        tmp_path / "runs",
    )
    assert code == 0, err
    cell = next((tmp_path / "runs").glob("*/*/ft/*"))
    result = json.loads((cell / "metrics.json").read_text())
    rows = [r for r in predictions(cell) if r["split"] == "test"]
    aurocs = []
    for label in ("bright", "odd"):
        known = [r for r in rows if r[f"label_{label}"] != ""]
        of = {sign: [float(r[f"score_{label}"]) for r in known if r[f"label_{label}"] == sign] for sign in "01"}
        pairs = [(a, b) for a in of["1"] for b in of["0"]]
        aurocs.append(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert result["metric"] == "auroc" and result["test"]["values"]["auroc"] == pytest.approx(np.mean(aurocs), abs=1e-9)
    assert any(r["label_odd"] == "" for r in predictions(cell))


def test_a_sweep_ends_with_the_report_of_all_strategies(swept):
    out, said = swept
    assert {"report.html", "report.md", "results.csv", "comparisons.csv", "tables"} <= {f.name for f in out.iterdir()}
    page = (out / "report.html").read_text()
    for entry in PAPER.values():
        assert f">{entry.name}<" in page and f"\n{entry.name}" in said
    n, one_class = (
        len(PAPER),
        set(),
    )  # two epochs from random weights are few: what calls one class of every image is no best
    for key, entry in PAPER.items():
        rows = [r for r in predictions(out / "demo-tiny" / ARCH / key / "seed0-fold0") if r["split"] == "test"]
        called = {max((c for c in r if c.startswith("score_")), key=lambda c, r=r: float(r[c])) for r in rows}
        one_class |= {entry.name} if len(called) == 1 else set()
    expected = "No verdict: the runs of" if len(one_class) == n else "the highest balanced accuracy, 0."
    assert expected in said and str(out / "report.html") in said
    assert all(
        (f"{entry.name}: 1 of 1 run calls every test image" in said) == (entry.name in one_class)
        for entry in PAPER.values()
    )
    assert len(read(out / "results.csv")) == n and len(read(out / "comparisons.csv")) == n * (n - 1) / 2
    verdicts = {r["verdict"] for r in read(out / "comparisons.csv")}
    assert verdicts <= {"better", "worse", "not separable"}


def test_a_run_keeps_what_a_report_needs_when_the_data_is_gone(swept):
    folder = swept[0] / "demo-tiny" / ARCH / "ft" / "seed0-fold0"
    about = json.loads((folder / "config.json").read_text())["data"]
    rows = predictions(folder)
    for split in ("val", "test"):
        mine = [r for r in rows if r["split"] == split]
        assert about["splits"][split]["images"] == len(mine)
        assert about["splits"][split]["groups"] == len({r["group"] for r in mine})
        assert about["splits"][split]["classes"] == {
            c: sum(r["label"] == c for r in mine) for c in about["splits"][split]["classes"]
        }
    assert about["groups_in_two_splits"] == 0 and about["group_kind"] == "patient"
    test = {r["image"]: float(r[f"score_{r['label']}"]) for r in rows if r["split"] == "test"}
    with np.load(folder / "hardest.npz", allow_pickle=False) as held:
        names, pixels = held["image"].tolist(), held["pixels"]
    assert names == sorted(test, key=test.get)[: len(names)] and len(names) == 12
    index = datasets.load_index("demo-tiny")
    for name, picture in zip(names, pixels, strict=True):  # 32 px, as they were decoded
        assert np.array_equal(picture[0], index.arrays[index.paths.index(name)])


def test_predict_and_export_by_the_command_line(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--output-dir", tmp_path / "runs", "--epochs", "1", "--strategy", "lp"]
    assert run(*base)[0] == 0
    done = next((tmp_path / "runs").glob("*/*/lp/seed0-fold0"))
    code, out, err = run("--predict", folder, "--run", done, "--out", tmp_path / "new.csv")
    assert code == 0 and str(tmp_path / "new.csv") in out, err
    scored = {Path(r["image"]).name: float(r["score_light"]) for r in read(tmp_path / "new.csv")}
    known = {Path(r["image"]).name: float(r["score_light"]) for r in predictions(done)}
    assert len(scored) == 60 and {k: scored[k] for k in known} == pytest.approx(known, abs=1e-5)
    code, out, err = run("--export", tmp_path / "m.pt2", "--run", done)
    assert code == 0 and (tmp_path / "m.pt2").is_file() and "differ from the run's by at most" in out, err
    constants = json.loads((tmp_path / "m.json").read_text())
    assert constants["classes"] == ["dark", "light"] and constants["img_size"] == 32
    code, _, err = run("--predict", folder)
    assert code == 2 and "need --run DIR" in err


def test_an_export_does_not_overwrite_a_json_of_something_else(swept, tmp_path, run):
    (tmp_path / "m.json").write_text('{"mine": 1}')
    done = swept[0] / "demo-tiny" / ARCH / "lp" / "seed0-fold0"
    code, _, err = run("--export", tmp_path / "m.pt2", "--run", done)
    assert code == 2 and "not from an export" in err and (tmp_path / "m.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "m.pt2").exists()


def test_more_strategies_than_the_paper_s_are_asked_for_by_name(folder, tmp_path, run):
    out = tmp_path / "runs"
    arguments = ["--data", folder, *SMALL, "--epochs", "1", "--strategy", "ft", "more", "--output-dir", out]
    code, _, err = run(*arguments)
    assert code == 0, err
    more = [key for key, entry in strategies.STRATEGIES.items() if not entry.paper]
    assert [row["strategy"] for row in read(out / "results.csv")] == ["ft", *more]
    page = (out / "report.md").read_text()
    for key in more:
        assert strategies.STRATEGIES[key].sentence in page.replace("\\", ""), key
    assert set(PAPER) == set(settings_of("--data", "demo").strategy)


def test_scratch_starts_from_random_weights_whatever_is_there(folder, tmp_path, run):
    torch.manual_seed(5)
    file = tmp_path / "weights.pth"
    torch.save(models.new_model(ARCH).state_dict(), file)
    small = [file if part == "none" else part for part in SMALL]
    arguments = ["--data", folder, *small, "--epochs", "1", "--strategy", "ft", "scratch", "--lr", "0"]
    code, _, err = run(*arguments, "--output-dir", tmp_path / "runs")
    assert code == 0, err
    held = {}
    for key in ("ft", "scratch"):
        (best,) = (tmp_path / "runs").glob(f"*/*/{key}/*/best.pt")
        held[key] = torch.load(best, weights_only=True)["model"]["conv1.0.weight"]
    pretrained = torch.load(file, weights_only=True)["conv1.0.weight"]
    torch.manual_seed(0)
    assert torch.equal(held["ft"], pretrained)
    assert torch.equal(held["scratch"], models.new_model(ARCH).state_dict()["conv1.0.weight"])
