"""The command line from end to end on tiny data, and the training loop's promises one by one."""

import argparse
import csv
import errno
import hashlib
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn

import datasets
import ftcompare
import images
import models
import prepare
import runs
import strategies
import train
from report import analysis, wording

ARCH = "shufflenet_v2_x0_5"  # small, with BatchNorm
SMALL = ["--arch", ARCH, "--weights", "none", "--img-size", "32", "--device", "cpu", "-b", "16"]


def command(arguments, capsys, monkeypatch):
    """(exit code, standard output, standard error) of the command line."""
    monkeypatch.setattr(sys, "argv", ["ftcompare.py", *map(str, arguments)])
    code = ftcompare.command_line()
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda *arguments: command(arguments, capsys, monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, ten patients a class with three images each: bright squares against dark ones, in
    noise."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 170)):
        (root / label).mkdir()
        for i in range(30):
            pixels = np.clip(rng.normal(level, 40, (24, 24)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"p{label[0]}{i // 3}_{i}.png")
    return root


def read(file):
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def predictions(run_folder):
    return read(run_folder / "predictions.csv")


# --------------------------------------------------------------------------------------------- every strategy


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


@pytest.mark.parametrize("key", strategies.STRATEGIES)
def test_a_run_folder_is_complete_and_its_numbers_follow_from_its_predictions(swept, key):
    pytest.importorskip("sklearn")
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

    folder = swept[0] / "demo-tiny" / ARCH / key / "seed0-fold0"
    files = {"config.json", "log.csv", "last.pt", "best.pt", "predictions.csv", "metrics.json"}
    assert files <= {f.name for f in folder.iterdir()}
    assert (folder / "ratios.csv").exists() == (key == "autorgn")
    result = json.loads((folder / "metrics.json").read_text())
    classes = json.loads((folder / "config.json").read_text())["settings"]["classes"]
    for split in ("val", "test"):
        rows = [r for r in predictions(folder) if r["split"] == split]
        assert len(rows) == result["images"][split] == result[split]["n"]
        truth = np.array([classes.index(r["label"]) for r in rows])
        scores = np.array([[float(r[f"score_{c}"]) for c in classes] for r in rows])
        values = result[split]["values"]
        assert values["accuracy"] == pytest.approx(accuracy_score(truth, scores.argmax(1)), abs=1e-12)
        assert values["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(truth, scores.argmax(1)), abs=1e-12
        )
        aurocs = [roc_auc_score(truth == c, scores[:, c]) for c in range(len(classes))]
        assert values["auroc"] == pytest.approx(np.mean(aurocs), abs=1e-9)
    log = read(folder / "log.csv")
    best = max(log, key=lambda r: float(r["val_balanced_accuracy"]))
    assert int(best["epoch"]) == result["best_epoch"]
    assert float(best["val_balanced_accuracy"]) == pytest.approx(
        result["val"]["values"]["balanced_accuracy"], abs=1e-9
    )
    assert len(log) == result["epochs"] == 2


def two_class_npz(file):
    """A MedMNIST file of 28 px greys, 70 % with a bright spot: 96 for training, 40 for validation, 48 for test."""
    rng = np.random.default_rng(5)
    arrays = {}
    for side, n in (("train", 96), ("val", 40), ("test", 48)):
        labels = (rng.permutation(n) < 0.7 * n).astype(np.uint8)
        pixels = rng.normal(80, 30, (n, 28, 28))
        pixels[:, 8:20, 8:20] += 40 * labels[:, None, None]
        arrays |= {
            f"{side}_images": np.clip(pixels, 0, 255).astype(np.uint8),
            f"{side}_labels": labels[:, None],
        }
    np.savez(file, **arrays)
    return file


def test_two_classes_of_a_medmnist_file_are_on_the_page_as_scikit_learn_counts_them(tmp_path, capsys):
    """Two seeds of two strategies; every number of the page's results and metrics from predictions.csv alone."""
    sk = pytest.importorskip("sklearn.metrics")
    data, out = two_class_npz(tmp_path / "spots.npz"), tmp_path / "runs"
    options = f"--arch {ARCH} --weights none --img-size 32 --epochs 2 -b 16 --seed 0 1 --strategy ft glf --device cpu"
    assert ftcompare.main(["--data", str(data), "--output-dir", str(out), *options.split()]) == 0
    block = analysis.analyse(out)["blocks"][0]
    markdown, page = (out / "report.md").read_text().replace("\\", ""), (out / "report.html").read_text()
    for row in block["rows"]:
        key, found = {"FT": "ft", "G-LF": "glf"}[row["strategy"]], {}
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
            entry = row["metrics"][name]
            assert entry["mean"] == pytest.approx(np.mean(values), abs=1e-9), name
            assert entry["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-9), name
        primary = found["balanced_accuracy"]
        line = next(x for x in markdown.splitlines() if x.startswith(f"| {row['strategy']}") and "[" in x)
        assert f"| {np.mean(primary):.3f} [" in line and f"± {np.std(primary, ddof=1):.3f} |" in line
        assert f"{np.mean(found['auroc']):.3f}" in page and f"{np.mean(found['sensitivity']):.3f}" in page
    assert "96 images for training, 40 images for validation and 48 images for test" in markdown
    assert "sensitivity, specificity, PPV and NPV are at the threshold chosen on validation (youden)" in page
    assert "G-LF: its stages merged into 2" in markdown and "names no patient" not in markdown


def test_every_strategy_has_the_same_data_steps_and_head(swept):
    configs, results, lists = {}, {}, set()
    for key in strategies.STRATEGIES:
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
    for entry in strategies.STRATEGIES.values():
        assert re.search(rf"^{re.escape(entry.name)}[ *]+1  0\.\d{{3}} \[", table, re.MULTILINE), table
    assert re.search(r"^LP .* 4,100 ", table, re.MULTILINE)  # 1024 features x 4 classes + 4
    rows = read(swept[0] / "results.csv")
    assert [r["strategy"] for r in rows] == list(strategies.STRATEGIES)


def test_what_is_printed_before_training_proves_that_no_patient_is_on_two_sides(swept):
    assert "patients in two splits: 0" in swept[1]
    with open(next((swept[0] / "splits").iterdir()), newline="") as file:
        sides = {}
        for row in csv.DictReader(file):
            sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(s) == 1 for s in sides.values())


def test_lp_leaves_the_backbone_bit_identical(swept):
    state = torch.load(swept[0] / "demo-tiny" / ARCH / "lp" / "seed0-fold0" / "best.pt", weights_only=True)[
        "model"
    ]
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
        np.testing.assert_allclose(
            [float(r["ratio"]) for r in backbone], quotients / quotients.max(), rtol=1e-6
        )
        assert float(mine[0]["lr"]) == pytest.approx(1e-3 * float(mine[0]["ratio"]))


def test_the_same_command_again_trains_nothing_and_other_settings_are_refused(folder, tmp_path, run):
    arguments = ["--data", folder, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path]
    assert run(*arguments)[0] == 0
    metrics_file = next(tmp_path.glob("*/*/lp/*/metrics.json"))
    before = metrics_file.stat().st_mtime_ns
    code, out, _ = run(*arguments)
    assert code == 0 and "done before" in out and metrics_file.stat().st_mtime_ns == before
    code, _, err = run(*arguments, "--lr", "0.5")
    assert code == 2 and "lr: 0.003 there, 0.5 now" in err and "--overwrite" in err and err.count("\n") == 1
    assert metrics_file.stat().st_mtime_ns == before
    assert run(*arguments, "--lr", "0.5", "--overwrite")[0] == 0
    assert metrics_file.stat().st_mtime_ns != before


# -------------------------------------------------------------------------------------------- the loop itself


class Toy(nn.Module):
    def __init__(self, norm=True, dropout=0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.drop(torch.relu(self.bn(self.conv(x))).mean(dim=(2, 3))))


def toy_data(n=40, size=8):
    rng = np.random.default_rng(1)
    labels = np.arange(n) % 2
    pixels = torch.from_numpy(
        rng.integers(0, 120, (n, 1, size, size)).astype(np.uint8)
        + 100 * labels[:, None, None, None].astype(np.uint8)
    )
    index = datasets.Index(
        "toy",
        "multiclass",
        ["a", "b"],
        [str(i) for i in range(n)],
        labels.astype(np.int64),
        [str(i) for i in range(n)],
        [""] * n,
        Path("."),
    )
    rows = {"train": np.arange(0, n - 16), "val": np.arange(n - 16, n - 8), "test": np.arange(n - 8, n)}
    return prepare.Data(index, pixels, np.arange(n), rows, (0.5,) * 3, (0.25,) * 3)


def toy_training(
    tmp_path, strategy="ft", epochs=4, stop_after=None, model=None, data=None, judge=None, **recipe
):
    torch.manual_seed(0)
    model, data = model or Toy(dropout=0.5), data or toy_data()
    recipe = train.Recipe(**({"epochs": epochs, "batch_size": 8, "device": torch.device("cpu")} | recipe))
    plan = strategies.make_plan(strategy, model, epochs=epochs, lr=1e-2)
    judge = judge or (lambda rows, scores: prepare.judge_scores(data.index, rows, scores))

    def after_epoch(row):
        if row["epoch"] == stop_after:
            raise KeyboardInterrupt

    run = runs.RunFolder(tmp_path)
    train.run(model, plan, data, run, recipe, judge, {}, after_epoch=after_epoch)
    return model, plan, run


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(tmp_path, strategy, stop_after):
    whole, _, one = toy_training(tmp_path / "whole", strategy)
    with pytest.raises(KeyboardInterrupt):
        toy_training(tmp_path / "broken", strategy, stop_after=stop_after)
    again, _, two = toy_training(tmp_path / "broken", strategy)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    columns = ("epoch", "stage", "train_loss", "val_loss", "lr_min", "lr_max")
    logs = [[[r[c] for c in columns] for r in run.load("last.pt")["log"]] for run in (one, two)]
    assert logs[0] == logs[1] and len(logs[0]) == 4
    assert one.load("last.pt")["ratios"] == two.load("last.pt")["ratios"]


@pytest.mark.parametrize("stop_after", [1, 3, 4])
@pytest.mark.parametrize("lost", [["log.csv", "ratios.csv"], ["ratios.csv"]])
def test_a_kill_between_last_pt_and_the_logs_loses_no_row(tmp_path, stop_after, lost):
    """Epochs that were trained are in last.pt; what is killed after its writing leaves the logs an epoch behind, in
    the last epoch too."""
    _, _, whole = toy_training(tmp_path / "whole", "autorgn")
    run = runs.RunFolder(tmp_path / "killed")
    write, written = runs.RunFolder.write_csv, []

    def kill(self, name, rows):
        if name in lost and len(self.load("last.pt")["log"]) == stop_after:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, rows)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs.RunFolder, "write_csv", kill)
        toy_training(run.path, "autorgn")
    assert not run.file(lost[-1]).is_file() or int(read(run.file(lost[-1]))[-1]["epoch"]) == stop_after - 1
    toy_training(run.path, "autorgn")
    timed = {"seconds", "images_per_second", "peak_memory_bytes"}
    for name in ("log.csv", "ratios.csv"):
        one, two = ([{k: v for k, v in row.items() if k not in timed} for row in read(r.file(name))]
                    for r in (whole, run))  # fmt: skip
        assert one == two and one[-1]["epoch"] == "4", name


def test_a_finished_run_whose_logs_end_early_gets_its_rows_back(folder, tmp_path, run):
    arguments = ["--data", folder, *SMALL, "--strategy", "autorgn", "--epochs", "2", "--output-dir", tmp_path]
    assert run(*arguments)[0] == 0
    cell = next(tmp_path.glob("*/*/autorgn/*/metrics.json")).parent
    whole = {name: (cell / name).read_text() for name in ("log.csv", "ratios.csv")}

    def cut(name):  # as an earlier version left it
        rows = [row for row in read(cell / name) if row["epoch"] == "1"]
        (cell / name).write_text(runs.to_csv(rows))
        assert (cell / name).read_text() != whole[name]

    for spoil in (lambda: cut("log.csv"), lambda: cut("ratios.csv"), (cell / "log.csv").unlink):
        spoil()
        code, out, _ = run(*arguments)
        assert code == 0 and "done before" in out
        assert {name: (cell / name).read_text() for name in whole} == whole
    (cell / "last.pt").unlink()  # as --tune does: there is nothing to write them from
    cut("log.csv")
    assert run(*arguments)[0] == 0 and [r["epoch"] for r in read(cell / "log.csv")] == ["1"]


@pytest.mark.parametrize("left", ["last.pt", "best.pt", "metrics.json"])
def test_what_is_left_of_a_run_without_its_settings_is_not_gone_on_with(folder, tmp_path, run, left):
    small = ["--data", folder, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path]
    assert run(*small)[0] == 0
    cell = next(tmp_path.glob("*/*/lp/*/metrics.json")).parent
    for file in cell.iterdir():
        if file.name not in (left, ".lock"):
            file.unlink()
    before = (cell / left).read_bytes()
    code, _, err = run(*small, "--lr", "0.5")
    assert code == 2 and err.count("\n") == 1
    assert f"{cell} holds {left} without config.json, so" in err and "--overwrite" in err
    assert (cell / left).read_bytes() == before and not (cell / "config.json").exists()
    assert run(*small, "--lr", "0.5", "--overwrite")[0] == 0
    assert json.loads((cell / "config.json").read_text())["settings"]["lr"] == 0.5
    assert len(runs.RunFolder(cell).load("last.pt")["log"]) == 1


def test_settings_that_are_no_settings_are_called_damaged(tmp_path):
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(runs.RunError, match="config.json is damaged .no JSON object"):
        runs.RunFolder(tmp_path).check({"lr": 1}, overwrite=False)


def test_a_resumed_run_keeps_its_best_epoch_and_how_long_it_has_waited(tmp_path):
    """0.9, then never better: with a patience of 3 four epochs, wherever it was interrupted."""
    for stop_after in (None, 1, 2, 3):
        values = iter([0.9] + [0.1] * 20)
        judge = lambda rows, scores, values=values: {"values": {"balanced_accuracy": next(values)}}
        folder = tmp_path / str(stop_after)
        if stop_after:
            with pytest.raises(KeyboardInterrupt):
                toy_training(folder, epochs=8, judge=judge, patience=3, stop_after=stop_after)
        _, _, run = toy_training(folder, epochs=8, judge=judge, patience=3)
        last = run.load("last.pt")
        assert [row["epoch"] for row in last["log"]] == [1, 2, 3, 4], stop_after
        assert (
            run.load("best.pt")["meta"]["epoch"] == last["best"]["epoch"] == 1
            and last["best"]["value"] == 0.9
        )


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    """Without BatchNorm and with class weights: the loss is one mean over all the images of the step."""
    results = []
    for batch_size, grad_accum in ((12, 1), (4, 3)):
        model = Toy(norm=False)
        torch.manual_seed(5)
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
        toy_training(
            tmp_path / str(grad_accum),
            model=model,
            epochs=2,
            batch_size=batch_size,
            grad_accum=grad_accum,
            augment="none",
            class_weights="balanced",
            opt="sgd",
        )
        results.append(torch.cat([p.flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


class Recorded(prepare.Data):
    """Data that keeps what it gives: (rows, images, whether for training)."""

    def images(self, rows, device, **augmentation):
        images = super().images(rows, device, **augmentation)
        self.given.append((np.asarray(rows).tolist(), images, "augment" in augmentation))
        return images


def recorded(data):
    data = Recorded(**vars(data))
    data.given = []
    return data


@pytest.mark.parametrize("strategy", ["ft", "autorgn"])
def test_no_two_images_of_a_training_are_augmented_alike(tmp_path, strategy):
    """One picture four times: wherever two of its copies were alike, two draws were. Three seeds, four epochs of one
    step in two parts, so that a part's first image comes round again."""
    seen = []
    for seed in range(3):
        data = recorded(toy_data())
        data.pixels = data.pixels[:1].expand(40, -1, -1, -1).clone()
        data.rows["train"] = np.arange(4)
        recipe = {"batch_size": 2, "grad_accum": 2, "seed": seed, "augment": "light"}
        toy_training(tmp_path / str(seed), strategy, model=Toy(norm=False), data=data, **recipe)
        seen += [image.numpy().tobytes() for _, images, trains in data.given if trains for image in images]
    assert len(seen) == 3 * 4 * 4 and len(set(seen)) == len(seen)


def test_augmentation_and_order_are_the_same_for_every_strategy(tmp_path):
    given = []
    for strategy in strategies.STRATEGIES:
        data = recorded(toy_data())
        toy_training(tmp_path / strategy, strategy, data=data, epochs=2)
        given.append([(rows, images.numpy().tobytes()) for rows, images, trains in data.given if trains])
    assert len(given[0]) == 2 * 3 and all(one == given[0] for one in given)


def test_validation_and_test_images_are_not_augmented(tmp_path):
    data = recorded(toy_data())
    toy_training(tmp_path, data=data, epochs=2, augment="strong")
    plain = (data.pixels.float() / 255 - 0.5) / 0.25
    judged = [(rows, images) for rows, images, trains in data.given if not trains]
    assert len(judged) == 2
    for rows, images in judged:
        torch.testing.assert_close(images, plain[rows].expand(-1, 3, -1, -1))


def test_dropout_differs_between_epochs_and_seeds_and_not_between_strategies(tmp_path):
    """The state of the random stream that dropout draws from, at each of an epoch's three steps."""
    states = {}
    for strategy in ("ft", "l2sp", "autorgn"):
        for seed in (0, 1):
            model, mine = Toy(dropout=0.5), states.setdefault((strategy, seed), [])

            def remember(module, inputs, mine=mine):
                if torch.is_grad_enabled():  # not while it is judged
                    mine.append(torch.get_rng_state().numpy().tobytes())

            model.drop.register_forward_pre_hook(remember)
            toy_training(tmp_path / f"{strategy}{seed}", strategy, model=model, seed=seed)
    for seed in (0, 1):
        assert states["ft", seed] == states["l2sp", seed] == states["autorgn", seed]
    drawn = states["ft", 0] + states["ft", 1]
    assert len(drawn) == 2 * 4 * 3 and len(set(drawn)) == len(drawn)


def one_step(tmp_path, strategy, hyper, **recipe):
    """(w0, weights before, gradient of the loss before, weights after, run) of one step of SGD on all 24 images,
    in float64, from weights that are off w0."""
    torch.manual_seed(0)
    model, data = Toy(norm=False).double(), toy_data()
    plan = strategies.make_plan(strategy, model, epochs=1, lr=0.1, opt="sgd", hyper=hyper)
    w0 = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    before = [p.detach().clone() for p in model.parameters()]
    real = data.images
    data.images = lambda *args, **options: real(*args, **options).double()
    rows = data.rows["train"]
    logits = model(data.images(rows, torch.device("cpu")))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(data.index.labels[rows]))
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    settings = {
        "batch_size": 24,
        "opt": "sgd",
        "augment": "none",
        "warmup": 0.0,
        "device": torch.device("cpu"),
    }
    recipe = train.Recipe(epochs=1, **(settings | recipe))
    run = runs.RunFolder(tmp_path)
    train.run(model, plan, data, run, recipe, lambda rows, scores: {"values": {"balanced_accuracy": 0.5}}, {})
    return w0, before, gradient, [p.detach() for p in model.parameters()], run


def clipped(gradient, most):
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    assert norm > 2 * most  # else there was nothing to clip
    return [g * (most / norm) for g in gradient]


@pytest.mark.parametrize("scale", [1, 1024.0])
@pytest.mark.parametrize("strategy", ["ft", "l1sp", "l2sp"])
def test_what_is_clipped_is_the_gradient_with_its_penalty(tmp_path, monkeypatch, strategy, scale):
    """w - lr * clip(gradient + alpha pull + beta head), the whole norm brought to 0.05: also where the loss is scaled,
    as under fp16."""
    real = torch.amp.GradScaler
    if scale != 1:
        monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: real(device, init_scale=scale))
    hyper = strategies.Hyperparameters(alpha=0.7, beta=0.3, weight_decay=0.0)
    w0, before, gradient, after, _ = one_step(tmp_path, strategy, hyper, clip_grad=0.05)
    away = [w - w_0 for w, w_0 in zip(before[:2], w0)]
    pull = [d.sign() for d in away] if strategy == "l1sp" else away
    penalty = [*(0.7 * p for p in pull), *(0.3 * w for w in before[2:])]
    if strategy == "ft":
        penalty = [torch.zeros_like(w) for w in before]
    step = clipped([g + p for g, p in zip(gradient, penalty)], 0.05)
    for w, d, found in zip(before, step, after):
        torch.testing.assert_close(found, w - 0.1 * d, rtol=1e-5, atol=1e-7)


def test_auto_rgn_measures_before_clipping(tmp_path):
    """rgn_every=1: the norms in ratios.csv are those of the one step's gradient, not of what clipping left."""
    hyper = strategies.Hyperparameters(rgn_every=1)
    _, before, gradient, _, run = one_step(tmp_path, "autorgn", hyper, clip_grad=1e-3)
    clipped(gradient, 1e-3)
    found = {row["layer"]: row for row in run.load("last.pt")["ratios"]}
    for layer, pair in (("conv", slice(0, 2)), ("fc", slice(2, 4))):
        for name, tensors in (("grad_norm", gradient[pair]), ("weight_norm", before[pair])):
            norm = math.sqrt(sum(t.square().sum().item() for t in tensors))
            assert found[layer][name] == pytest.approx(norm, rel=1e-5), (layer, name)


class Watched(Toy):
    """Keeps what it was given and in what precision it computed."""

    def __init__(self):
        super().__init__()
        self.seen, self.precision = [], []

    def forward(self, x):
        self.seen.append(x.clone())
        self.precision.append(self.conv(x).dtype)
        return super().forward(x)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("augment", ["light", "strong"])
def test_mixed_precision_sees_the_same_pixels_in_training_validation_and_probe(tmp_path, half, augment):
    models = {}
    for amp in (None, half):
        model, data = Watched(), toy_data(size=24)
        hyper = strategies.Hyperparameters(rgn_source="probe", rgn_batches=2)
        plan = strategies.make_plan("autorgn", model, epochs=2, lr=1e-2, hyper=hyper)
        recipe = train.Recipe(epochs=2, batch_size=8, device=torch.device("cpu"), augment=augment, amp=amp)
        judge = lambda rows, scores, index=data.index: prepare.judge_scores(index, rows, scores)
        train.run(model, plan, data, runs.RunFolder(tmp_path / str(amp)), recipe, judge, {})
        models[amp] = model
    plain, mixed = models[None], models[half]
    an_epoch = [torch.float32] * 2 + [half] * (3 + 1)  # the probe is measured in float32; 24 and 8 images
    assert mixed.precision == 2 * an_epoch and plain.precision == 12 * [torch.float32]
    for a, b in zip(plain.seen, mixed.seen, strict=True):
        assert b.dtype == torch.float32 and torch.equal(a, b)


# -------- a step that fp16 skips: GradScaler("cpu") does the arithmetic of the GPU's


@pytest.fixture
def empty_is_nan():
    """Memory that nobody filled is nan, and not by chance the zeros of a fresh page."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def steps_by_hand(opt, gradients, lr=0.1, decay=0.01):
    """The weight, 1 at first, after each step, in Python's float64. None: a step that was skipped."""
    w, m, v, n, after = 1.0, 0.0, 0.0, 0, []
    for g in gradients:
        if g is not None:
            n += 1
            g += 0 if opt == "adamw" else decay * w
            if opt == "sgd":
                m = g if n == 1 else 0.9 * m + g
                w -= lr * m
            else:
                w *= 1 - lr * decay if opt == "adamw" else 1
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                w -= lr * (m / (1 - 0.9**n)) / (math.sqrt(v / (1 - 0.999**n)) + 1e-8)
        after.append(w)
    return after


@pytest.mark.parametrize("opt", train.OPTIMIZERS)
@pytest.mark.parametrize(
    "gradients", [[None, 1.0, 3.0], [None, None, -2.0, 0.5], [0.5, None, 3.0], [1.0, -4.0, 2.0]]
)
def test_a_skipped_step_leaves_no_trace_in_the_optimizer(opt, gradients, empty_is_nan):
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    groups = [{"params": [w], "lr": 0.1, "weight_decay": 0.01} for w in weights]
    optimizer = train.make_optimizer(opt, groups, torch.device("cpu"))
    scaler = torch.amp.GradScaler("cpu")
    for g, expected in zip(gradients, steps_by_hand(opt, gradients)):
        scaler.scale(sum(w.sum() for w in weights) * (math.inf if g is None else g)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        for w in weights:
            torch.testing.assert_close(w.detach(), torch.full_like(w, expected), rtol=1e-5, atol=0)


def test_momentum_starts_after_a_restart_too(empty_is_nan):
    """What a block's momentum is when the block opens after last.pt was written, and its first step overflows."""
    early, late = (nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [w], "lr": 0.1, "weight_decay": 0.01} for w in (early, late)]
    first, second = (train.make_optimizer("sgd", groups, torch.device("cpu")) for _ in range(2))
    (early.sum() * 2.0).backward()
    first.step()
    second.load_state_dict(first.state_dict())
    scaler = torch.amp.GradScaler("cpu")
    for g in (math.inf, 1.0, 3.0):
        second.zero_grad()
        scaler.scale((early.sum() + late.sum()) * g).backward()
        scaler.step(second)
        scaler.update()
    expected = steps_by_hand("sgd", [2.0, None, 1.0, 3.0])[-1], steps_by_hand("sgd", [None, 1.0, 3.0])[-1]
    assert [w[0].item() for w in (early, late)] == pytest.approx(expected, rel=1e-5)


def overflowing(plan, model, skipped, steps, watch, scale=2.0**16):
    """train_epoch under a GradScaler, without augmentation, in which these steps overflow. watch(step, optimizer)
    is called after each. Returns (data, the rows of each step)."""
    data = toy_data(n=8 * steps + 16)
    recipe = train.Recipe(epochs=1, batch_size=8, device=torch.device("cpu"), augment="none", opt="sgd")
    loss, weight = train.make_criterion(data.index, data.rows["train"], "none", recipe.device)
    calls = iter(range(steps))
    spoiled = lambda logits, y: loss(logits, y) * (math.inf if next(calls) in skipped else 1.0)
    plan.begin_epoch(0)
    optimizer = train.make_optimizer("sgd", plan.groups, recipe.device)
    progress = lambda step, steps, rate: watch(step - 1, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    train.train_epoch(model, plan, optimizer, scaler, data, recipe, (spoiled, weight), 0, progress)
    return data, train.steps_of(data.rows["train"], 8, 0, 0)


@pytest.mark.parametrize("strategy", ["l1sp", "l2sp"])
@pytest.mark.parametrize("skipped", [{0}, {1}, {0, 1, 3}, set()])
def test_proximal_shrinks_where_a_step_was_taken_and_only_there(strategy, skipped, empty_is_nan):
    """Against the same steps in float64, the skipped ones left out: SGD with momentum by its formula, then the
    proximal operator of alpha on the backbone and of beta on the head."""
    torch.manual_seed(3)
    model, alpha, beta = Toy(norm=False), 0.8, 0.5
    hyper = strategies.Hyperparameters(alpha=alpha, beta=beta, sp_mode="proximal")
    plan = strategies.make_plan(strategy, model, epochs=1, lr=0.2, hyper=hyper)
    copy = Toy(norm=False).double()
    w0 = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    with torch.no_grad():  # away from w0, so that there is something to shrink in every step
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    copy.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    before, after, rates = {n: p.detach().clone() for n, p in model.named_parameters()}, [], []

    def watch(step, optimizer):
        after.append({n: p.detach().clone() for n, p in model.named_parameters()})
        rates.append(float(optimizer.param_groups[0]["lr"]))

    data, batches = overflowing(plan, model, skipped, 4, watch)
    momentum = {name: torch.zeros_like(p) for name, p in copy.named_parameters()}
    for step, (rows, lr) in enumerate(zip(batches, rates, strict=True)):
        if step in skipped:
            assert all(torch.equal(after[step][n], ([before] + after)[step][n]) for n in before)
            continue
        copy.zero_grad()
        x = (data.pixels[rows].double() / 255 - 0.5).expand(-1, 3, -1, -1) / 0.25
        nn.functional.cross_entropy(copy(x), torch.from_numpy(data.index.labels[rows])).backward()
        with torch.no_grad():
            for name, p in copy.named_parameters():
                momentum[name] = 0.9 * momentum[name] + p.grad
                p -= lr * momentum[name]
                away = p - w0[name]
                if name.startswith("fc."):
                    p /= 1 + lr * beta
                elif strategy == "l2sp":
                    p.copy_(w0[name] + away / (1 + lr * alpha))
                else:
                    p.copy_(w0[name] + away.sign() * (away.abs() - lr * alpha).clamp(min=0))
        for name, p in copy.named_parameters():
            torch.testing.assert_close(after[step][name].double(), p.detach(), rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "skipped, scale, taken",
    [
        ({0}, 2.0**16, [0, 1, 2, 3]),
        ({2}, 2.0**16, [1, 2, 2, 3]),
        ({0, 1, 2, 3}, 2.0**16, [0, 0, 0, 0]),
        (set(), 2.0**16, [1, 2, 3, 4]),
        (set(), 0.0, [0, 0, 0, 0]),  # fallen so far that every gradient is 0 / 0, and it can fall no further
    ],
)
def test_whatever_a_strategy_does_after_a_step_it_does_after_those_that_were_taken(skipped, scale, taken):
    class Hook:
        calls = 0

        def after_step(self, optimizer):
            self.calls += 1

    model, counts = Toy(), []
    plan = strategies.make_plan("ft", model, epochs=1, lr=1e-2)
    plan.hooks = Hook()
    overflowing(plan, model, skipped, 4, lambda step, optimizer: counts.append(plan.hooks.calls), scale)
    assert counts == taken


def test_the_checkpoint_is_the_best_on_validation_and_ties_keep_the_earlier(tmp_path):
    values = iter([0.3, 0.7, 0.7, 0.5])
    seen = []

    def judge(rows, scores):
        seen.append(rows.tolist())
        return {"values": {"balanced_accuracy": next(values)}}

    data = toy_data()
    _, _, run = toy_training(tmp_path, judge=judge, data=data)
    assert run.load("best.pt")["meta"]["epoch"] == 2
    assert all(rows == data.rows["val"].tolist() for rows in seen)  # the test rows were never looked at


def test_a_metric_that_is_better_when_lower_is_minimised(tmp_path):
    values = iter([0.3, 0.2, 0.4, 0.25])
    data = toy_data()
    data.index.metric = "brier"
    _, _, run = toy_training(
        tmp_path, data=data, judge=lambda rows, scores: {"values": {"brier": next(values)}}
    )
    assert run.load("best.pt")["meta"]["epoch"] == 2


def test_early_stopping_waits_for_the_last_stage(tmp_path):
    """LP-FT with 8 epochs: validation never improves after the first; the second part starts at epoch 5."""
    values = iter([0.9] + [0.1] * 20)
    judge = lambda rows, scores: {"values": {"balanced_accuracy": next(values)}}
    _, _, run = toy_training(tmp_path / "lpft", "lpft", epochs=8, judge=judge, patience=2)
    assert [r["stage"] for r in run.load("last.pt")["log"]] == ["lp"] * 4 + ["ft"] * 2
    values = iter([0.9] + [0.1] * 20)
    _, _, run = toy_training(tmp_path / "ft", "ft", epochs=8, judge=judge, patience=2)
    assert len(run.load("last.pt")["log"]) == 3  # the best, and two that were not better


def test_a_stopped_run_stays_stopped_when_it_is_run_again(tmp_path):
    values = iter([0.9] + [0.1] * 20)
    judge = lambda rows, scores: {"values": {"balanced_accuracy": next(values)}}
    for _ in range(2):
        _, _, run = toy_training(tmp_path, "ft", epochs=8, judge=judge, patience=1)
        assert len(run.load("last.pt")["log"]) == 2


def test_the_schedule_by_hand():
    assert [train.schedule(s, 10, 0.2) for s in (0, 1)] == pytest.approx([1 / 3, 2 / 3])
    assert train.schedule(2, 10, 0.2) == 1.0
    assert train.schedule(6, 10, 0.2) == pytest.approx(0.5)  # half of the eight steps after the rise
    assert train.schedule(9, 10, 0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert train.schedule(0, 4, 0.0) == 1.0


@pytest.mark.parametrize(("n", "size"), [(33, 32), (65, 32), (7, 3), (32, 32), (2, 32), (100, 16)])
def test_an_epoch_takes_every_image_once_and_leaves_no_lone_one(n, size):
    rows = np.arange(n) + 100
    batches = train.steps_of(rows, size, seed=3, epoch=5)
    assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
    assert max(map(len, batches)) <= size and min(map(len, batches)) >= 2
    again, later, other = (train.steps_of(rows, size, *key) for key in ((3, 5), (3, 6), (4, 5)))
    order = np.concatenate(batches).tolist()
    assert order == np.concatenate(again).tolist()
    if n > 2:
        assert order not in (np.concatenate(later).tolist(), np.concatenate(other).tolist())


def test_rates_in_the_log_are_the_closed_form(tmp_path):
    _, _, run = toy_training(tmp_path, "lpft", epochs=4, warmup=0.0)
    log = run.load("last.pt")[
        "log"
    ]  # 3 steps an epoch, two parts of 6 steps; the log has each epoch's last step
    lp_lr = 3e-3
    for row, base, step in zip(log, (lp_lr, lp_lr, 1e-2, 1e-2), (2, 5, 2, 5)):
        assert (
            row["lr_max"] == row["lr_min"] == pytest.approx(base * 0.5 * (1 + math.cos(math.pi * step / 6)))
        )


@pytest.mark.parametrize(("strategy", "steps"), [("ft", (2, 5, 8, 11)), ("lpft", (2, 5, 2, 5))])
def test_a_schedule_longer_than_the_training_stops_on_its_way_down(tmp_path, strategy, steps):
    """4 epochs of 3 steps on the cosine of 10: 30 steps, or 15 for each half of LP-FT; the log has each epoch's last."""
    _, _, run = toy_training(tmp_path, strategy, epochs=4, warmup=0.0, schedule_epochs=10)
    bases, length = ([1e-2] * 4, 30) if strategy == "ft" else ([3e-3, 3e-3, 1e-2, 1e-2], 15)
    by_hand = [base * 0.5 * (1 + math.cos(math.pi * s / length)) for base, s in zip(bases, steps)]
    assert [row["lr_max"] for row in run.load("last.pt")["log"]] == pytest.approx(by_hand, rel=1e-9)


def test_class_weights_and_masked_labels_by_hand():
    data = toy_data()
    data.index.labels = np.array([0] * 30 + [1] * 10)
    loss, weight = train.make_criterion(data.index, np.arange(40), "balanced", torch.device("cpu"))
    logits, y = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    # 40 / (2 * 30) = 2/3 and 40 / (2 * 10) = 2: the classes' total weights are equal
    assert loss(logits, y).item() == pytest.approx((2 / 3 + 2) * math.log(2), rel=1e-6)
    assert weight(y) == pytest.approx(2 / 3 + 2, rel=1e-6)

    data.index.task, data.index.labels = "multilabel", np.array([[1, 0], [np.nan, 0], [0, 1]], np.float32)
    loss, weight = train.make_criterion(data.index, np.arange(3), "none", torch.device("cpu"))
    logits = torch.tensor([[2.0, -1.0], [5.0, 0.0]], requires_grad=True)
    y = torch.tensor([[1.0, 0.0], [math.nan, 1.0]])
    by_hand = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + math.log(2)
    total = loss(logits, y)
    assert total.item() == pytest.approx(by_hand, rel=1e-6) and weight(y) == 3
    total.backward()
    assert logits.grad[1, 0] == 0 and torch.isfinite(logits.grad).all()


def test_labels_are_balanced_by_their_own_known_images():
    """Of label a one positive and three negatives: each positive weighs 3; of b three and one: a third."""
    data = toy_data()
    data.index.task, data.index.classes = "multilabel", ["a", "b"]
    known = [[1, 1], [0, 1], [0, 1], [0, 0], [math.nan, math.nan]]
    data.index.labels = np.array([*known, [1, 0], [1, 0]], np.float32)  # the last two do not train
    loss, weight = train.make_criterion(data.index, np.arange(5), "balanced", torch.device("cpu"))
    for y, by_hand in (([[1.0, 1.0]], 3 + 1 / 3), ([[0.0, 0.0]], 1 + 1), ([[1.0, math.nan]], 3)):
        y = torch.tensor(y)
        assert loss(torch.zeros(1, 2), y).item() == pytest.approx(by_hand * math.log(2), rel=1e-6)
        assert weight(y) == (~torch.isnan(y)).sum()


@pytest.mark.parametrize("grad_accum", [1, 2])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_losses_in_the_log_are_the_weighted_means_of_the_training_s_classes(
    tmp_path, class_weights, grad_accum
):
    """At a rate of 0: the mean over steps of each step's weighted mean, as torch's cross-entropy has it. 18 to 6 in
    training, 4 to 4 in validation, and all of one class in the test images."""
    data = toy_data()
    data.index.labels = np.array([0, 0, 0, 1] * 6 + [0, 1] * 4 + [1] * 8)
    model = Toy(norm=False)
    factors = np.array([24 / (2 * 18), 24 / (2 * 6)] if class_weights == "balanced" else [1.0, 1.0])

    def by_hand(rows):
        y = data.index.labels[rows]
        with torch.no_grad():
            logits = model(data.images(rows, torch.device("cpu")))
        each = -logits.log_softmax(dim=1).numpy()[np.arange(len(y)), y] * factors[y]
        return each.sum() / factors[y].sum()

    plan = strategies.make_plan("ft", model, epochs=1, lr=0.0)
    settings = {"batch_size": 4, "augment": "none", "class_weights": class_weights, "grad_accum": grad_accum}
    recipe = train.Recipe(epochs=1, device=torch.device("cpu"), **settings)
    judge = lambda rows, scores: {"values": {"balanced_accuracy": 0.5}}
    train.run(model, plan, data, runs.RunFolder(tmp_path), recipe, judge, {})
    (row,) = read(tmp_path / "log.csv")
    steps = train.steps_of(data.rows["train"], 4 * grad_accum, 0, 0)
    assert len({(data.index.labels[step] == 1).sum() for step in steps}) > 1  # not every step like the whole
    assert float(row["train_loss"]) == pytest.approx(np.mean([by_hand(step) for step in steps]), rel=1e-5)
    assert float(row["val_loss"]) == pytest.approx(by_hand(data.rows["val"]), rel=1e-5)


def test_a_validation_loss_in_uneven_parts_is_the_mean_over_all(tmp_path):
    data = toy_data()
    data.index.labels = np.array([0, 0, 0, 1] * 6 + [0, 1] * 8)
    model, recipe = Toy(), train.Recipe(epochs=1, batch_size=3, device=torch.device("cpu"))
    criterion = train.make_criterion(data.index, data.rows["train"], "balanced", recipe.device)
    scores, loss = train.infer(model, data, data.rows["val"], recipe, criterion)
    y = data.index.labels[data.rows["val"]]
    factors = np.array([24 / (2 * 18), 24 / (2 * 6)])[y]
    assert loss == pytest.approx((-np.log(scores[np.arange(8), y]) * factors).sum() / factors.sum(), rel=1e-6)


def test_thresholds_come_from_validation():
    index = toy_data().index
    rows, scores = np.arange(4), np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])  # labels 0 1 0 1
    assert prepare.choose_thresholds(index, rows, scores, "0.5") == [0.5]
    assert prepare.choose_thresholds(index, rows, scores, "sensitivity=1.0") == [0.2]
    assert prepare.choose_thresholds(index, rows, scores, "youden") == [
        0.4
    ]  # 0.5 + 1 - 1; 0.2 has as much: the higher


def highest_youden(scores, positive):
    """By trying every score: (sensitivity + specificity, score), the largest of both."""
    tried = [(np.mean(scores[positive] >= t) + np.mean(scores[~positive] < t), t) for t in scores]
    return max(tried)[1]


def scored_run(folder, data, best=1, rule="youden"):
    """(result, predictions by split) of a toy run whose best epoch is the one that is said, of three."""
    values = iter([float(epoch == best) for epoch in (1, 2, 3)])
    judge = lambda rows, scores: {"values": {data.index.metric: next(values)}}
    model, plan, run = toy_training(folder, data=data, judge=judge, epochs=3)
    cell = ftcompare.Cell("toy", "toy", "ft", 0, 0)
    recipe = train.Recipe(epochs=3, batch_size=8, device=torch.device("cpu"))
    result = ftcompare.score(cell, model, plan, data, run, recipe, rule)
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
    for c, (name, threshold) in enumerate(zip(("a", "b"), result["thresholds"])):
        p = {side: np.array([float(r[f"score_{name}"]) for r in rows[side]]) for side in rows}
        y = {side: data.index.labels[data.rows[side], c] for side in rows}
        known = ~np.isnan(y["val"])
        assert threshold == highest_youden(p["val"][known], y["val"][known] == 1)
        called, positive, known = p["test"] >= threshold, y["test"] == 1, ~np.isnan(y["test"])
        called &= known
        f1 = 2 * (called & positive).sum() / (called.sum() + positive.sum())
        assert result["test"]["per_class"][name]["f1"] == pytest.approx(f1, abs=1e-12)


def test_a_label_that_validation_cannot_part_falls_back_and_is_named(tmp_path):
    """Validation has only positives of b, the test only negatives of a: 0.5 for b, a threshold of validation for a."""
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


def test_the_hardest_images_are_those_that_the_test_got_most_wrong(tmp_path):
    """Pixels in another order than the images, as after --skip-bad; the truth's score of image i is 0.01 i."""
    data = toy_data()
    data.rows["test"] = np.arange(20, 40)
    data.pixels, data.lookup = data.pixels.flip(0), np.arange(40)[::-1].copy()
    truth = 0.01 * np.random.default_rng(0).permutation(np.arange(20, 40))
    y = data.index.labels[20:]
    scores = np.where(np.arange(2) == y[:, None], truth[:, None], 1 - truth[:, None])
    ftcompare.write_hardest(runs.RunFolder(tmp_path), data, scores)
    worst = [i for _, i in sorted(zip(truth, range(20, 40)))][:12]
    with np.load(tmp_path / "hardest.npz", allow_pickle=False) as held:
        assert held["image"].tolist() == [str(i) for i in worst]
        assert np.array_equal(held["pixels"], toy_data().pixels[worst].numpy())


@pytest.mark.parametrize(
    ("how", "by_hand"), [(None, [0.3]), ("mean", [0.6]), ("max", [0.9]), ("video", [0.3])]
)
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
    """Known: positives at 0.9 and 0.3, a negative at 0.1, so that 0.3 parts them. Were the unknown 0.5 and 0.4
    negatives, 0.9 would be better. Of label b every known one is positive, and of c none: 0.5."""
    index = toy_data(18).index
    nan = math.nan
    index.task, index.classes = "multilabel", ["a", "b", "c"]
    index.labels = np.array([[1, 1, nan], [nan, 1, 0], [nan, nan, 0], [1, nan, 0], [0, 1, nan]], np.float32)
    scores = np.array([[0.9, 0.5, 0.4, 0.3, 0.1]] * 3).T
    assert prepare.choose_thresholds(index, np.arange(5), scores, "youden") == [0.3, 0.5, 0.5]
    assert prepare.without_both(index, np.arange(5), scores) == ["b", "c"]


def test_the_probe_of_auto_rgn_leaves_the_batches_alone(tmp_path):
    """rgn_source=probe draws batches of its own; the epoch's order and the model's buffers do not notice."""
    data = toy_data()
    recipe = train.Recipe(epochs=2, batch_size=8, device=torch.device("cpu"))
    models = []
    for strategy in ("autorgn", "ft"):
        torch.manual_seed(0)
        models.append(Toy())
        hyper = strategies.Hyperparameters(rgn_source="probe", weight_decay=0.0)
        plan = strategies.make_plan(strategy, models[-1], epochs=2, lr=0.0, hyper=hyper)
        judge = lambda rows, scores: prepare.judge_scores(data.index, rows, scores)
        train.run(models[-1], plan, data, runs.RunFolder(tmp_path / strategy), recipe, judge, {})
    for name, value in (
        models[0].state_dict().items()
    ):  # BatchNorm statistics of the same batches in the same order
        assert torch.equal(value, models[1].state_dict()[name]), name
    assert len(runs.RunFolder(tmp_path / "autorgn").load("last.pt")["ratios"]) == 2 * 3  # conv, bn, fc


def test_the_probe_of_auto_rgn_draws_training_batches_of_its_own(tmp_path):
    """rgn_batches=3 of the 3 that there are: were they the epoch's own, they would be the same three."""
    data = recorded(toy_data())
    hyper = strategies.Hyperparameters(rgn_source="probe", rgn_batches=3)
    model = Toy()
    plan = strategies.make_plan("autorgn", model, epochs=4, hyper=hyper)
    recipe = train.Recipe(epochs=4, batch_size=8, device=torch.device("cpu"))
    judge = lambda rows, scores: {"values": {"balanced_accuracy": 0.5}}
    train.run(model, plan, data, runs.RunFolder(tmp_path), recipe, judge, {})
    trained = [rows for rows, _, trains in data.given if trains]
    probed = [rows for rows, _, trains in data.given if not trains and rows != data.rows["val"].tolist()]
    assert len(trained) == len(probed) == 4 * 3
    assert {i for rows in probed for i in rows} == set(data.rows["train"].tolist())
    drawn = [tuple(rows) for rows in trained + probed]
    assert len(set(drawn)) == len(drawn)  # no batch twice, of the epoch or of the probe, in any epoch


# ------------------------------------------------------------------------------------------ weights and files


def test_weights_of_a_run_load_like_a_torchvision_file(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--strategy", "ft", "--epochs", "1"]
    assert run(*base, "--output-dir", tmp_path / "a")[0] == 0
    best = next((tmp_path / "a").glob("*/*/ft/*/best.pt"))
    rest = ["--arch", ARCH, "--img-size", "32", "--device", "cpu", "--epochs", "1", "--strategy", "lp"]
    code, out, _ = run("--data", "demo-tiny", *rest, "--weights", best, "--output-dir", tmp_path / "b")
    assert code == 0 and "its head (fc, 2 outputs) left out" in out
    counted = [
        n for n in models.new_model(ARCH).state_dict() if not n.startswith("fc.") and "num_batches" not in n
    ]
    assert f"{len(counted)} of {len(counted)} backbone tensors" in out
    probed = torch.load(next((tmp_path / "b").glob("*/*/lp/*/best.pt")), weights_only=True)["model"]
    source = torch.load(best, weights_only=True)["model"]
    assert all(torch.equal(probed[n], source[n]) for n in counted)


def test_half_precision_and_wrapped_names_load_and_mismatches_are_refused(tmp_path):
    model = models.new_model(ARCH)
    state = {f"module.{n}": v.half() if v.is_floating_point() else v for n, v in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "half.pth")
    weights = models.load_weights(str(tmp_path / "half.pth"), ARCH)
    built, _, note = models.build_model(ARCH, weights, 3, seed=1)
    assert "left out" in note and built.conv1[0].weight.dtype == torch.float32
    assert torch.equal(built.conv1[0].weight, model.conv1[0].weight.half().float())

    few = dict(list(model.state_dict().items())[:40])
    torch.save(few, tmp_path / "few.pth")
    with pytest.raises(runs.RunError, match=r"only \d+ of \d+ backbone tensors .* matched"):
        models.build_model(ARCH, models.load_weights(str(tmp_path / "few.pth"), ARCH), 3, seed=1)
    broken = dict(model.state_dict()) | {"conv1.0.weight": torch.full_like(model.conv1[0].weight, math.nan)}
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(runs.RunError, match=r"not finite in conv1.0.weight"):
        models.build_model(ARCH, models.load_weights(str(tmp_path / "nan.pth"), ARCH), 3, seed=1)
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"model": Toy()}, tmp_path / "pickle.pth")  # a whole module: arbitrary code when loaded
    for name in ("text.pth", "pickle.pth", "absent.pth"):
        with pytest.raises(runs.RunError, match=name):
            models.load_weights(str(tmp_path / name), ARCH)


def test_densenet_files_with_old_names_load(tmp_path):
    model = models.new_model("densenet121")
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    state = {old.sub(r"\1.\2", n): v for n, v in model.state_dict().items()}
    assert any(".norm.1." in n for n in state)
    torch.save(state, tmp_path / "densenet.pth")
    weights = models.load_weights(str(tmp_path / "densenet.pth"), "densenet121")
    built, _, note = models.build_model("densenet121", weights, 2, 0)
    name = "features.denseblock3.denselayer5.conv2.weight"
    # 121 norms with 4 tensors (no counters) and 120 convolutions without bias
    assert torch.equal(built.state_dict()[name], model.state_dict()[name]) and "604 of 604" in note


def saved(file, content):
    torch.save(content, file)
    return str(file)


def loaded(file, arch):
    """(the model, what was said) of a file of weights, as a sweep loads it: first checked, then built."""
    weights = ftcompare.check_weights(models.load_weights(str(file), arch), arch)
    model, _, note = models.build_model(arch, weights, 2, seed=1)
    return model, note


@pytest.fixture(scope="module")
def nets():
    """State dicts with random weights of architectures that are alike in part."""
    torch.manual_seed(0)
    return {
        a: dict(models.new_model(a).state_dict()) for a in ("resnet18", "resnet34", "efficientnet_b1", ARCH)
    }


def below(prefix, state):
    return {f"{prefix}.{name}": value for name, value in state.items()}


ONE_BLOCK_MORE = {"layer4.2.conv1.weight": torch.zeros(512, 512, 3, 3)}


@pytest.mark.parametrize(
    ("content", "arch", "message"),
    [
        # 2 + 2 + 2 + 2 blocks in resnet18 and 3 + 4 + 6 + 3 in resnet34: 8 more, of 2 convolutions (1 tensor each) and
        # 2 norms (5 tensors each, with the counter): 8 * 12 = 96. Backbone: 1 + 4 of the stem, 8 blocks of 10, 3
        # shortcuts of 5: 100; in resnet34 180.
        (
            lambda n: n["resnet34"],
            "resnet18",
            "100 of 100 .*; 96 tensors of the file have no place in it: layer1.2",
        ),
        (
            lambda n: {"state_dict": below("model", n["resnet34"])},
            "resnet18",
            "96 tensors of the file have no",
        ),
        (lambda n: n["resnet18"], "resnet34", "only 100 of 180 .*; missing: layer1.2"),
        (
            lambda n: n["resnet18"] | ONE_BLOCK_MORE,
            "resnet18",
            "; 1 tensors of the file .*: layer4.2.conv1.weight;",
        ),
        (
            lambda n: n["resnet18"] | {"layer5.0.conv1.weight": torch.zeros(9, 512, 3, 3)},
            "resnet18",
            "1 tensors of the file have no place in it: layer5.0.conv1.weight",
        ),
        (
            lambda n: n["resnet18"] | {"layer1.0.se.fc1.weight": torch.zeros(4, 64)},
            "resnet18",
            "have no place in it: layer1.0.se.fc1.weight",
        ),
        (
            lambda n: n["efficientnet_b1"],
            "efficientnet_b0",
            "309 of 309 .* have no place in it: features.1.1.block",
        ),
        (
            lambda n: {k: v for k, v in n["resnet18"].items() if k != "conv1.weight"},
            "resnet18",
            "only 99 of 100 .*; missing: conv1.weight",
        ),
        (
            lambda n: n["resnet18"] | {"layer2.0.bn1.running_var": torch.ones(64)},
            "resnet18",
            r"only 99 of 100 .*; of another shape: layer2.0.bn1.running_var \(64,\), not \(128,\)",
        ),
        (
            lambda n: n["resnet18"] | {"conv1.weight": torch.zeros(64, 4, 7, 7)},
            "resnet18",
            r"only 99 of 100 .*; of another shape: conv1.weight \(64, 4, 7, 7\), not \(64, 3, 7, 7\)",
        ),
        (
            lambda n: n["resnet18"] | {"layer1.0.conv1.weight": torch.ones(64, 64, 3, 3, dtype=torch.int8)},
            "resnet18",
            "only 99 of 100 .*; of another shape: layer1.0.conv1.weight",
        ),
        (
            lambda n: below("student", n["resnet18"]) | below("teacher", n["resnet18"]),
            "resnet18",
            "holds the backbone 2 times, below student., teacher.; save the one to start from",
        ),
        (
            lambda n: {"model": n["resnet18"], "meta": {"arch": "resnet34"}},
            "resnet18",
            "holds the weights of resnet34, not of resnet18; pass --arch resnet34",
        ),
        (
            lambda n: {"state_dict": n["resnet18"], "arch": "ResNet-34"},
            "resnet18",
            "weights of resnet34, not of",
        ),
        (lambda n: {"model": n["resnet18"], "meta": {"arch": "mine"}}, "resnet18", "weights of mine, not of"),
    ],
)
def test_a_file_of_another_architecture_is_refused_in_a_line(nets, tmp_path, content, arch, message):
    file = saved(tmp_path / "w.pth", content(nets))
    with pytest.raises(runs.RunError, match=message) as caught:
        loaded(file, arch)
    assert "\n" not in str(caught.value) and file in str(caught.value)


HEADS = {
    "fc.0.weight": torch.zeros(512, 512),
    "fc.2.weight": torch.zeros(128, 512),
    "projector.0.bias": torch.zeros(4),
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        # MoCo: the query encoder with a projection for its head, a momentum copy, a queue
        (
            lambda s: {
                "arch": "resnet18",
                "state_dict": below("module.encoder_q", s | HEADS)
                | below("module.encoder_k", {n: v + 1 for n, v in s.items()})
                | {"module.queue": torch.zeros(128, 8)},
            },
            "(below encoder_q), its head (fc, 2 tensors) left out, other tensors unused: 122",
        ),
        (
            lambda s: s | HEADS | below("momentum_encoder", {n: v + 1 for n, v in s.items()}),
            "matched, its head (fc, 2 tensors) left out, other tensors unused: 121 (projector.0.bias",
        ),
        (lambda s: {"arch": "my_net", "state_dict": below("model", s)}, "(below model), it has no head"),
        (
            lambda s: (
                {n: v for n, v in s.items() if not n.endswith("num_batches_tracked")}
                | {"aux.w": torch.ones(1)}
            ),
            "matched, it has no head, other tensors unused: 1 (aux.w)",
        ),
    ],
)
def test_what_is_no_part_of_a_backbone_may_come_along_and_is_said(nets, tmp_path, content, said):
    """Of 122 tensors of resnet18 2 are the head: 120 with the 20 counters of its norms."""
    state = {n: v for n, v in nets["resnet18"].items() if not n.startswith("fc.")}
    assert len(state) == 120
    model, note = loaded(saved(tmp_path / "w.pth", content(state)), "resnet18")
    assert note.startswith("100 of 100 backbone tensors of resnet18 matched") and said in note, note
    got = model.state_dict()
    assert all(torch.equal(got[n], v) for n, v in state.items() if not n.endswith("num_batches_tracked"))


def test_layers_behind_the_head_are_head_and_layers_before_it_are_not():
    backbone = [
        "features.0.weight",
        "classifier.0.weight",
        "classifier.3.weight",
    ]  # VGG; its head is classifier.6
    inside = lambda name: models.part_of_backbone(name, backbone, "classifier.6")
    names = "classifier.6.0.weight classifier.6.bias classifier.7.weight classifier.10.weight aux1.fc.weight"
    assert [name for name in names.split() if inside(name)] == []
    names = [
        "features.30.weight",
        "classifier.1.weight",
        "classifier.5.running_mean",
        "classifier.extra.weight",
    ]
    assert [name for name in names if not inside(name)] == []


@pytest.mark.parametrize("half", [False, True])
def test_a_grey_first_convolution_gives_a_grey_image_the_same_activations(nets, tmp_path, half):
    torch.manual_seed(3)
    grey = torch.randn(64, 1, 7, 7)
    grey = grey.half() if half else grey
    state = nets["resnet18"] | {"conv1.weight": grey}
    meta = {"mean": [0.25], "std": [0.5]}
    file = saved(tmp_path / "grey.pth", {"state_dict": state, "meta": meta})
    model, note = loaded(file, "resnet18")
    assert "conv1.weight of one channel (grey) spread over three, a third each" in note
    image = torch.rand(2, 1, 20, 20, dtype=torch.float64)
    expected = nn.functional.conv2d((image - 0.25) / 0.5, grey.double(), stride=2, padding=3)
    weights = models.load_weights(file, "resnet18")
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (weights.mean, weights.std))
    got = model.conv1.double()((image.expand(-1, 3, -1, -1) - mean) / std)
    assert expected.abs().max() > 1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)  # float32 thirds of weights
    colour = torch.zeros(1, 3, 20, 20, dtype=torch.float64)
    colour[:, 1] = 3.0  # and a third of it where it stands in one channel: no channel is the grey one
    one = nn.functional.conv2d(torch.ones(1, 1, 20, 20).double(), grey.double(), stride=2, padding=3)
    torch.testing.assert_close(model.conv1(colour), one, rtol=0, atol=1e-5)


def test_the_file_of_a_grey_net_says_so_where_a_sweep_prints_its_weights(nets, folder, tmp_path, run):
    state = nets[ARCH] | {"conv1.0.weight": nets[ARCH]["conv1.0.weight"].sum(dim=1, keepdim=True)}
    file = saved(tmp_path / "grey.pth", state)
    small = ["--arch", ARCH, "--img-size", "32", "--device", "cpu", "--epochs", "1", "--strategy", "lp"]
    code, out, err = run("--data", folder, *small, "--weights", file, "--output-dir", tmp_path / "runs")
    assert code == 0 and "conv1.0.weight of one channel (grey) spread over three" in out, err


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (
            {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]},
            r"its mean is \[123.7, 116.3, 103.5\], not one",
        ),
        ({"mean": [0.5] * 3, "std": [127.5] * 3}, r"its std is \[127.5, 127.5, 127.5\]"),
        ({"mean": [-0.1, 0.5, 0.5], "std": [0.5] * 3}, "its mean is"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.0, 0.5]}, "its std is"),
        ({"mean": [math.nan] * 3, "std": [0.5] * 3}, "its mean is"),
        ({"mean": [0.5] * 4, "std": [0.5] * 4}, "its mean is"),
        ({"mean": "imagenet", "std": [0.5] * 3}, "its mean is imagenet"),
        ({"mean": [0.5] * 3}, "its std is None"),
    ],
)
def test_mean_and_std_that_are_not_of_pixels_from_0_to_1_are_refused(nets, tmp_path, meta, message):
    file = saved(tmp_path / "w.pth", {"model": nets[ARCH], "meta": meta})
    with pytest.raises(runs.RunError, match=message) as caught:
        models.load_weights(file, ARCH)
    assert "divided by 255" in str(caught.value) and "\n" not in str(caught.value)


def test_mean_and_std_from_0_to_1_are_kept_with_their_bounds(nets, tmp_path):
    file = saved(
        tmp_path / "w.pth", {"model": nets[ARCH], "meta": {"mean": [0, 0.5, 1], "std": [1 / 255, 1, 0.5]}}
    )
    weights = models.load_weights(file, ARCH)
    assert weights.mean == (0, 0.5, 1) and weights.std == (1 / 255, 1, 0.5)
    weights = models.load_weights(saved(tmp_path / "w.pth", nets[ARCH]), ARCH)
    assert weights.mean == (0.485, 0.456, 0.406) and weights.std == (0.229, 0.224, 0.225)


def test_the_run_of_an_inception_net_hands_on_that_it_rescales_its_input(tmp_path):
    """GoogLeNet's ImageNet weights take pixels from -1 to 1, and so does a run that began with them."""
    state = models.new_model("googlenet").state_dict()
    for rescales in (True, False):
        file = saved(tmp_path / "best.pt", {"model": state, "meta": {"transform_input": rescales}})
        assert loaded(file, "googlenet")[0].transform_input is rescales


def test_the_imagenet_file_by_its_path_is_what_imagenet_is(nets, tmp_path, monkeypatch):
    """EfficientNetV2-L's file is of mean 0.5: one that was put somewhere else is known by its hash."""
    file = saved(tmp_path / "elsewhere.pth", {n: v for n, v in nets[ARCH].items() if n != "fc.bias"})
    monkeypatch.setattr(
        models, "imagenet_hash", lambda arch: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]
    )
    chosen = torch.nn.Module()
    chosen.transforms = lambda: argparse.Namespace(mean=(0.5,) * 3, std=(0.25,) * 3)
    monkeypatch.setattr(
        models.torchvision.models, "get_model_weights", lambda arch: {"IMAGENET1K_V1": chosen}
    )
    weights = models.load_weights(file, ARCH)
    assert (weights.mean, weights.std, weights.transform_input) == ((0.5,) * 3, (0.25,) * 3, True)


def test_weights_of_other_versions_of_torchvision_load(nets, tmp_path):
    """ViT's files have older names; MNASNet's own loading asks for a version that a plain dict has not."""
    state = models.new_model("vit_b_32").state_dict()
    old = {
        n.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v
        for n, v in state.items()
    }
    assert len(old.keys() - state.keys()) == 12 * 4
    model, note = loaded(saved(tmp_path / "vit.pth", old), "vit_b_32")
    name = "encoder.layers.encoder_layer_7.mlp.3.weight"
    assert note.startswith("150 of 150") and torch.equal(model.state_dict()[name], state[name])
    state = dict(models.new_model("mnasnet0_5").state_dict())
    model, _ = loaded(saved(tmp_path / "mnas.pth", state), "mnasnet0_5")
    assert torch.equal(model.layers[0].weight, state["layers.0.weight"])


def half_trained(folder, name="best.pt"):
    """A run of ours, killed in the midst of training."""
    run = runs.RunFolder(folder)
    model = models.new_model(ARCH).state_dict()
    run.save(name, {"model": model, "meta": {"arch": ARCH, "epoch": 1, "stage": "ft"}})
    run.write_json("config.json", {"settings": {}})
    return run


def test_the_weights_of_a_run_that_is_not_finished_are_refused_before_anything_is_trained(tmp_path, run):
    other = half_trained(tmp_path / "r")
    (tmp_path / "link.pt").symlink_to(tmp_path / "r" / "best.pt")
    small = ["--data", "demo-tiny", "--arch", ARCH, "--img-size", "32", "--epochs", "1", "--strategy", "lp"]
    for file in (other.file("best.pt"), tmp_path / "link.pt"):
        code, _, err = run(*small, "--weights", file, "--output-dir", tmp_path / "runs")
        assert code == 2 and err.count("\n") == 1 and f"{file}: its run is not finished" in err
    assert not list((tmp_path / "runs").rglob("config.json"))

    other.write_json("failed.json", {"reason": "the loss is nan"})
    other.file("config.json").unlink()
    with pytest.raises(runs.RunError, match="not finished"):
        models.load_weights(str(other.file("best.pt")), ARCH)
    other.write_json("metrics.json", {})
    assert models.load_weights(str(other.file("best.pt")), ARCH).state
    shutil.copy(other.file("best.pt"), tmp_path / "mine.pt")  # a copy stands alone
    assert models.load_weights(str(tmp_path / "mine.pt"), ARCH).state


def test_weights_that_fit_the_first_backbone_only_are_refused_before_it_is_trained(nets, tmp_path, run):
    file = saved(tmp_path / "w.pth", nets[ARCH])
    arguments = ["--data", "demo-tiny", "--img-size", "32", "--epochs", "1", "--strategy", "lp"]
    arguments += ["--arch", ARCH, "resnet18", "--weights", file, "--output-dir", tmp_path / "runs"]
    code, _, err = run(*arguments)
    assert code == 2 and err.count("\n") == 1 and "backbone tensors of resnet18 matched" in err
    assert not list((tmp_path / "runs").rglob("config.json"))


def test_the_state_of_a_training_is_no_file_of_weights(tmp_path):
    toy_training(tmp_path, epochs=1)
    with pytest.raises(runs.RunError, match="state of a run's training; pass the best.pt"):
        models.load_weights(str(tmp_path / "last.pt"), ARCH)


def test_a_second_sweep_waits_for_the_pretraining_of_the_first(tmp_path, monkeypatch, capsys):
    pytest.importorskip("fcntl")
    s = ftcompare.parse_arguments(["--data", "demo-tiny", "--output-dir", str(tmp_path), "--device", "cpu"])
    source = half_trained(tmp_path / "cache" / "demo-source" / ARCH / "ft" / "seed0-fold0")
    first, waited = source.locked(), []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:  # the first sweep ends
            source.write_json("metrics.json", {})
            first.__exit__(None, None, None)

    monkeypatch.setattr(ftcompare.time, "sleep", sleep)
    monkeypatch.setattr(ftcompare, "sweep", lambda s: pytest.fail("pretrained twice"))
    first.__enter__()
    assert ftcompare.demo_weights(ARCH, s) == str(source.file("best.pt"))
    assert len(waited) == 3 and capsys.readouterr().out.count("waiting for another process") == 1


def test_a_pretraining_that_fails_or_is_left_by_another_process_is_not_used(tmp_path, monkeypatch):
    s = ftcompare.parse_arguments(["--data", "demo-tiny", "--output-dir", str(tmp_path), "--device", "cpu"])
    source = half_trained(tmp_path / "cache" / "demo-source" / ARCH / "ft" / "seed0-fold0")
    monkeypatch.setattr(ftcompare, "sweep", lambda s: [{"failed": "the training loss is nan"}])
    with pytest.raises(runs.RunError, match=f"pretraining {ARCH} failed, the training loss is nan"):
        ftcompare.demo_weights(ARCH, s)

    def finish(s):  # the first process was killed: the second goes on with its run
        source.write_json("metrics.json", {})
        return [{}]

    monkeypatch.setattr(ftcompare, "sweep", finish)
    assert ftcompare.demo_weights(ARCH, s) == str(source.file("best.pt"))


def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path, monkeypatch):
    file = tmp_path / "last.pt"
    file.mkdir()
    with pytest.raises(runs.RunError, match=r"last.pt: cannot be read \(Is a directory\)"):
        runs.load_checkpoint(file)


def test_imagenet_weights_offline_and_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    expected = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    with pytest.raises(runs.RunError, match=rf"put it at {re.escape(str(expected))}"):
        models.load_weights("imagenet", "resnet18")
    expected.write_bytes(b"damaged")
    with pytest.raises(runs.RunError, match="SHA-256 does not begin with f37072fd"):
        models.load_weights("imagenet", "resnet18")


def test_two_processes_do_not_train_the_same_run(tmp_path):
    pytest.importorskip("fcntl")
    other = runs.RunFolder(tmp_path).locked()
    with runs.RunFolder(tmp_path).locked(), pytest.raises(runs.RunError, match="another process"):
        other.__enter__()


def test_a_file_is_never_half_written(tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    runs.write_atomically(file, "old")

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        runs.write_atomically(file, "new")
    assert file.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["metrics.json"]


def test_nan_becomes_null_in_json():
    assert json.loads(runs.to_json({"a": [float("nan"), 1.5], "b": (float("inf"),)})) == {
        "a": [None, 1.5],
        "b": [None],
    }


# -------------------------------------------------------------------------------------------------- bad input


def test_a_run_that_diverges_is_said_and_the_others_go_on(folder, tmp_path, run):
    arguments = [
        "--data",
        folder,
        *SMALL,
        "--epochs",
        "2",
        "--lr",
        "1e30",
        "--opt",
        "sgd",
        "--output-dir",
        tmp_path,
    ]
    code, out, _ = run(*arguments, "--strategy", "ft", "lp")
    assert code == 1 and "1 failed" in out
    failed = list(tmp_path.glob("*/*/*/*/failed.json"))
    reasons = [json.loads(file.read_text())["reason"] for file in failed]
    assert len(reasons) == 2 and all(
        re.search(r"loss is (nan|inf)|scores are not finite", text) for text in reasons
    )
    statuses = {(row["strategy"], row["status"]) for row in read(tmp_path / "results.csv")}
    assert statuses == {("ft", "failed"), ("lp", "failed")}
    assert not (failed[0].parent / "metrics.json").exists()
    assert out.count("[1 of 2]") == out.count("[2 of 2]") == 1


BAD = [
    (["--report", "runs", "--predict", "new"], "--report stands alone"),
    (["--report", "nowhere"], "nowhere is no folder"),
    (["--run", "runs/x"], "--run and --out go with --predict or --export"),
    (
        ["--data", "demo-tiny", "--export", "m.pt2", "--run", "r"],
        "--export use a finished run (--run), not --data",
    ),
    (["--export", "m.pt2", "--run", "nowhere"], "nowhere: no such run folder"),
    (["--data", "demo-tiny", "--strategy", "lpfft"], "unknown strategy 'lpfft'; choose from ft, lp, glf"),
    (["--data", "demo-tiny", "--arch", "resnet5000"], "unknown --arch resnet5000; torchvision has resnet"),
    (["--data", "demo-huge"], "neither a file or folder nor a dataset"),
    (["--data", "no/such/place"], "neither a file or folder nor a dataset; the datasets are"),
    (["--data", "demo-tiny", "--epochs", "0"], "'0' is not a whole number of 1 or more"),
    (["--data", "demo-tiny", "--lr", "nan"], "'nan' is not a number of 0 or more"),
    (["--data", "demo-tiny", "-b", "1"], "BatchNorm cannot normalise a single image"),
    (["--data", "demo-tiny", "--threshold", "high"], "--threshold high"),
    (["--data", "demo-tiny", "--opt", "lion"], "invalid choice: 'lion'"),
    (["--data", "demo-tiny", "--weights", "nowhere.pth"], "nowhere.pth: no such file"),
    (["--data", "demo-tiny", "--metric", "acuracy"], "unknown --metric acuracy"),
    (["--data", "demo-tiny", "--resize", "16"], "--resize 16 is smaller than --img-size 32"),
    (["--data", "demo-tiny", "--val-fraction", "0.9"], "leave nothing to train on"),
    (["--data", "demo-tiny", "--splits-file", "nowhere.csv"], "--splits-file nowhere.csv"),
    (
        ["--data", "demo-tiny", "--strategy", "lpft", "--stage-shares", "1", "2", "3"],
        "2 stages, but stage_shares has 3",
    ),
    (["--data", "demo-tiny", "--data-dirr", "x"], "unrecognized arguments"),
    ([], "say what to train on"),
    (["--data", "cholect50", "--arch", "resnet50", "--strategy", "autorgn"], "cholect50"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) or "nothing" for a, _ in BAD])
def test_bad_input_gets_one_line_and_exit_code_2(arguments, message, tmp_path, run, monkeypatch):
    monkeypatch.delenv("FTCOMPARE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    small = ["--arch", ARCH] * ("--arch" not in arguments) + ["--weights", "none"] * (
        "--weights" not in arguments
    )
    code, _, err = run(*arguments, *small * bool(arguments), "--output-dir", tmp_path / "runs")
    assert code == 2 and message in err, err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert not list(tmp_path.glob("runs/*/*/*/*/config.json"))


def test_all_unreadable_images_are_named_and_can_be_skipped(folder, tmp_path, run):
    copy = tmp_path / "pictures"
    shutil.copytree(folder, copy)
    good = next((copy / "dark").glob("*.png")).read_bytes()
    (copy / "dark" / "cut.png").write_bytes(good[: len(good) // 2])
    (copy / "light" / "empty.png").write_bytes(b"")
    arguments = [
        "--data",
        copy,
        *SMALL,
        "--strategy",
        "lp",
        "--epochs",
        "1",
        "--output-dir",
        tmp_path / "runs",
    ]
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


@pytest.mark.parametrize("bad", [("dark/a.png",), ("light/z.png",), ("dark/m.png", "light/a.png"), ()])
def test_without_unreadable_images_the_others_keep_their_own_pixels(tmp_path, bad):
    """Bad ones first, last and amid; every image that is left is compared with what Pillow reads of its file, and the
    copies among them are still the copies."""
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
    s = ftcompare.parse_arguments(list(map(str, ["--data", tmp_path / "data", *arguments])))
    ready = prepare.prepare(str(tmp_path / "data"), ftcompare.with_defaults(s, "data"))
    assert ready.index.paths == [name for name in names if name not in bad]
    assert [ready.index.label_text(i) for i in range(len(ready.index))] == [
        name.partition("/")[0] for name in ready.index.paths
    ]
    weights = models.Weights("none", mean=(0.25,) * 3, std=(0.5,) * 3)
    data = ready.data(0, weights)
    for i, name in enumerate(ready.index.paths):
        pixels = np.asarray(Image.open(tmp_path / "data" / name))
        given = data.images(np.array([i]), torch.device("cpu"))[0, 0].numpy()
        assert np.allclose(given, (pixels / 255 - 0.25) / 0.5, atol=1e-6), name
    found = sorted(sorted(ready.index.paths[i] for i in same) for same in ready.identical)
    assert found == [["dark/b.png", "dark/e.png"], ["light/e.png", "light/f.png"]]
    assert np.array_equal(data.sides(), ready.folds[0]) and set(ready.folds[0]) == {"train", "val", "test"}


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
    arguments = [
        "--data",
        copy,
        *SMALL,
        "--strategy",
        "lp",
        "--epochs",
        "1",
        "--output-dir",
        tmp_path / "runs",
    ]
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
    assert (
        said[0] != datasets.load_index(str(copy)).fingerprint()
    )  # runs of before, resampled otherwise, go no further


def test_keep_masks_is_recorded_and_a_run_without_the_setting_was_trained_on_masks(folder, tmp_path, run):
    copy = tmp_path / "pictures"
    shutil.copytree(folder, copy)
    image = min((copy / "dark").iterdir())
    shutil.copy(max((copy / "light").iterdir()), image.with_name(f"{image.stem}_mask.png"))
    arguments = ["--data", copy, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir"]
    code, out, _ = run(*arguments, tmp_path / "new")
    assert code == 0 and "1 masks beside their images, left out" in out and "60 images, 2 classes" in out
    config = next((tmp_path / "new").glob("*/*/lp/*/config.json"))
    assert json.loads(config.read_text())["arguments"]["keep_masks"] is False
    code, out, _ = run(*arguments, tmp_path / "old", "--keep-masks")
    assert code == 0 and "61 images, 2 classes" in out
    config = next((tmp_path / "old").glob("*/*/lp/*/config.json"))
    content = json.loads(config.read_text())
    del content["arguments"]["keep_masks"]  # as older versions wrote it
    config.write_text(json.dumps(content))
    code, _, err = run(*arguments, tmp_path / "old")
    assert code == 2 and "was begun with other settings (data_hash" in err
    code, out, _ = run(*arguments, tmp_path / "old", "--keep-masks")
    assert code == 0 and "done before" in out


# --------------------------------------------------------------------------------- instead of training, folds


def test_dry_run_trains_nothing(folder, tmp_path, run):
    code, out, _ = run(
        "--data", folder, *SMALL, "--epochs", "3", "--seed", "0", "1", "--dry-run", "--output-dir", tmp_path
    )
    assert code == 0 and "16 runs: at most" in out and "GB of checkpoints" in out
    assert not list(tmp_path.glob("*/*/*/*/config.json"))


def test_show_blocks_prints_the_map(run):
    code, out, _ = run("--show-blocks", "--arch", "resnet50", "vgg19", "regnet_y_400mf")
    assert code == 0
    # conv1 and bn1: 64 * 3 * 7 * 7 + 2 * 64; vgg19's new layer: 4096 * 1000 + 1000; regnet's: 440 * 1000 +
    # 1000
    for block, tensors, parameters in (
        ("stem", 3, "9,536"),
        ("head", 2, "4,097,000"),
        ("head", 2, "441,000"),
    ):
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


def test_a_seed_sets_head_order_and_augmentation_and_the_recipe_is_what_was_said(tmp_path, run, monkeypatch):
    """Training replaced by a look at what it was given: two seeds, every setting unlike its default."""
    given = []

    def look(model, plan, data, folder, recipe, *rest, **more):
        given.append(
            (recipe, plan, [p.detach().clone() for p in strategies.find_head(model)[1].parameters()])
        )
        raise train.Diverged("only looked at")

    monkeypatch.setattr(train, "run", look)
    said = {
        "epochs": 7,
        "batch_size": 12,
        "opt": "sgd",
        "augment": "strong",
        "class_weights": "balanced",
        "warmup": 0.2,
    }
    said |= {
        "schedule_epochs": 9,
        "patience": 4,
        "grad_accum": 3,
        "clip_grad": 0.5,
        "split_seed": 3,
        "weight_decay": 0.2,
    }
    flags = [text for name, value in said.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    base = ["--data", "demo-tiny", "--arch", ARCH, "--weights", "none", "--img-size", "32", "--device", "cpu"]
    code, _, _ = run(*base, *flags, "--strategy", "ft", "l2sp", "--seed", "4", "5", "--output-dir", tmp_path)
    assert code == 1 and [recipe.seed for recipe, _, _ in given] == [4, 4, 5, 5]
    for recipe, plan, _ in given:
        assert {name: getattr(recipe, name) for name in said if hasattr(recipe, name)} == {
            name: value for name, value in said.items() if name not in ("split_seed", "weight_decay")
        }
        assert {g["weight_decay"] for g in plan.groups} == {0.2 if plan.strategy == "ft" else 0.0}
    heads = [head for _, _, head in given]
    alike = [[all(map(torch.equal, a, b)) for b in heads] for a in heads]
    assert alike == [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2


def test_splits_are_cut_by_the_seed_the_shares_and_the_copies_that_were_said():
    """40 single images, 20 a class: a tenth validates, three tenths test, to the image."""
    index = toy_data().index

    def folds(*flags, identical=()):
        flags = ["--data", "x", "--val-fraction", "0.1", "--test-fraction", "0.3", *flags]
        return prepare.cut_folds(index, list(identical), ftcompare.parse_arguments(flags))

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
        pairs = [(float(a[f"score_{label}"]), float(b[f"score_{label}"])) for a in known for b in known
                 if a[f"label_{label}"] == "1" and b[f"label_{label}"] == "0"]  # fmt: skip
        aurocs.append(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert result["metric"] == "auroc" and result["test"]["values"]["auroc"] == pytest.approx(
        np.mean(aurocs), abs=1e-9
    )
    assert any(r["label_odd"] == "" for r in predictions(cell))


def test_davila_protocol_sets_its_values_below_what_is_said():
    """The follow-up code: Adam without weight decay, every rate 1e-3, a cosine over 100 epochs without warmup."""
    by_hand = {
        "opt": "adam",
        "lr": 1e-3,
        "lp_lr": 1e-3,
        "weight_decay": 0.0,
        "epochs": 30,
        "schedule_epochs": 100,
    }
    by_hand |= {"warmup": 0.0, "patience": 3, "metric": "balanced_accuracy", "batch_size": 96, "resize": 232}
    by_hand |= {"img_size": 224, "augment": "none"}
    command = ["--data", "demo", "--protocol", "davila"]
    s = ftcompare.parse_arguments(command)
    assert {name: getattr(s, name) for name in by_hand} == by_hand
    said = {
        "epochs": 5,
        "weight_decay": 0.3,
        "warmup": 0.1,
        "metric": "auroc",
        "lp_lr": 0.5,
        "augment": "strong",
    }
    flags = [text for name, value in said.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    s = ftcompare.parse_arguments([*command, *flags])
    assert {name: getattr(s, name) for name in by_hand} == by_hand | said
    groups = strategies.make_plan("lpft", Toy(), epochs=2, hyper=ftcompare.hyperparameters(s)).groups
    assert {group["weight_decay"] for group in groups} == {0.3}


# ---------------------------------------------------------------------------------------- real images, README

BRAIN = ROOT.parent / "shared" / "data" / "brain_tumor_mri"


@pytest.mark.skipif(not BRAIN.is_dir(), reason="the brain MRI images are not on this machine")
def test_real_images_identical_across_the_official_splits_are_found(tmp_path, run):
    digests = {}
    for file in BRAIN.rglob("*.jpg"):
        side = file.relative_to(BRAIN).parts[0]
        digests.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), []).append(side)
    spanning = sum(len(set(sides)) == 2 for sides in digests.values())
    code, out, _ = run("--data", BRAIN, *SMALL, "--check-data", "--output-dir", tmp_path)
    assert code == 0 and f"{spanning} sets of byte-identical images span two splits" in out, out
    assert "3264 RGB" in out


def test_every_command_in_the_readme_parses():
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"ftcompare\.py (--.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 5
    for line in commands:
        ftcompare.parse_arguments(shlex.split(line.replace("`", "")))


# ------------------------------------------------------------------------------------ what a first user stumbled over


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
    assert result["positive"] == "dark" and result["test"]["values"]["sensitivity"] == pytest.approx(
        np.mean(dark)
    )
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "sensitivity"], "hangs on a threshold"),
        (["--arch", "inception_v3"], "inception_v3 does not take pictures of 32 px"),
        (["--seed", "-1"], "'-1' is not a whole number of 0 or more"),
        (["--threshold", "sensitivity=0.0"], "--threshold sensitivity=0.0"),
        (["--val-fraction", "0"], "--val-fraction 0.0: give a share"),
        (["--warmup", "3"], "--warmup is at most 1"),
    ],
)
def test_settings_that_would_fail_later_are_refused_at_once(arguments, message, folder, tmp_path, run):
    code, _, err = run("--data", folder, *SMALL, *arguments, "--output-dir", tmp_path / "runs")
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert not list(tmp_path.glob("runs/*/*/*/*/config.json"))


def test_the_output_cannot_lie_in_the_data_or_on_a_file(folder, tmp_path, run):
    code, _, err = run("--data", folder, *SMALL, "--output-dir", folder / "runs")
    assert code == 2 and "lies in the data folder" in err
    (tmp_path / "file").write_text("")
    code, _, err = run("--data", folder, *SMALL, "--output-dir", tmp_path / "file")
    assert code == 2 and "Traceback" not in err


def test_a_sweep_is_refused_before_anything_is_trained(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--output-dir", tmp_path]
    assert run(*base, "--epochs", "1", "--strategy", "lp")[0] == 0
    code, _, err = run(*base, "--epochs", "2", "--strategy", "ft", "lp")
    assert code == 2 and "epochs: 1 there, 2 now" in err
    assert not list(tmp_path.glob("*/*/ft"))


def test_a_setting_that_a_strategy_does_not_use_does_not_refuse_its_run(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--output-dir", tmp_path, "--epochs", "1", "--strategy", "lp"]
    assert run(*base)[0] == 0
    code, out, _ = run(*base, "--alpha", "0.5", "--rgn-every", "3", "--lp-lr", "0.1")
    assert code == 0 and "done before" in out


def test_other_pixels_under_the_same_names_are_another_run(folder, tmp_path, run):
    copy = tmp_path / "pictures"
    shutil.copytree(folder, copy)
    base = ["--data", copy, *SMALL, "--output-dir", tmp_path / "runs", "--epochs", "1", "--strategy", "lp"]
    assert run(*base)[0] == 0
    picture = next((copy / "dark").glob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    code, _, err = run(*base)
    assert code == 2 and "pixels_hash" in err


def test_joined_ids_are_a_setting_and_an_older_run_joined_none(folder, tmp_path, run):
    """Twenty patients, three images each, one of them in another spelling. An older config.json lacks joined_ids, and
    its run kept every spelling apart."""
    images = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    ids = {path: int(re.search(r"_(\d+)", path)[1]) // 3 + (30 if "dark" in path else 10) for path in images}
    rows = [f"{path},{path[:4]},{ids[path]}{'.0' * (i % 3 == 0)}" for i, path in enumerate(images)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient", *rows]))
    settings = [*SMALL, "--strategy", "lp", "--epochs", "1", "--data-dir", folder, "--group-col", "patient"]

    def go(out, *more):
        return run("--data", tmp_path / "t.csv", *settings, "--output-dir", tmp_path / out, *more)

    def config(out):
        return next((tmp_path / out).glob("t/*/lp/*/config.json"))

    code, out, _ = go("joined")
    assert code == 0 and "note: 20 patient ids have more than one spelling (" in out
    assert "patients in two splits: 0" in out
    said = json.loads(config("joined").read_text())
    assert said["settings"]["joined_ids"] == 20 and said["arguments"]["exact_ids"] is False
    assert any("20 patient ids have more than one spelling" in note for note in said["data"]["notes"])
    found = predictions(config("joined").parent)
    assert {r["group"].removesuffix(".0") for r in found} == {str(ids[r["image"]]) for r in found}
    assert len({r["group"] for r in found}) == len({ids[r["image"]] for r in found})
    code, _, err = go("joined", "--exact-ids")
    assert code == 2 and "joined_ids: 20 there, 0 now" in err and "data_hash" in err

    assert go("exact", "--exact-ids")[0] == 0
    older = json.loads(config("exact").read_text())
    assert older["settings"].pop("joined_ids") == 0  # as a run of before
    del older["arguments"]["exact_ids"]
    config("exact").write_text(json.dumps(older))
    code, _, err = go("exact")
    assert code == 2 and "joined_ids: 0 there, 20 now" in err
    trained = config("exact").with_name("log.csv").stat().st_mtime_ns
    assert go("exact", "--exact-ids")[0] == 0  # it is that run
    assert config("exact").with_name("log.csv").stat().st_mtime_ns == trained
    assert run("--report", tmp_path / "exact")[0] == 0

    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient", *rows]).replace(".0", ""))
    assert go("plain")[0] == 0
    older = json.loads(config("plain").read_text())
    assert older["settings"].pop("joined_ids") == 0
    config("plain").write_text(json.dumps(older))
    trained = config("plain").with_name("log.csv").stat().st_mtime_ns
    assert go("plain")[0] == 0 == go("plain", "--exact-ids")[0]  # nothing to join: the same run either way
    assert config("plain").with_name("log.csv").stat().st_mtime_ns == trained


@pytest.mark.parametrize("look", [False, True])
def test_doubtful_ids_are_said_before_training_and_by_the_data_check(folder, tmp_path, run, look):
    images = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    rows = [f"{path},{path[:4]},1.{20 + i % 10}E+11" for i, path in enumerate(images)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient", *rows]))
    code, out, _ = run("--data", tmp_path / "t.csv", *SMALL, "--strategy", "lp", "--epochs", "1", "--data-dir", folder,
                       "--group-col", "patient", "--output-dir", tmp_path / "runs", *["--check-data"] * look)  # fmt: skip
    kind = "warning" if look else "WARNING"
    assert code == 0
    assert (
        f"  {kind}: 10 of 10 patient ids look rounded by a spreadsheet (1.20E+11, 1.21E+11, 1.22E+11 and 7 more)"
        in out
    )


def test_an_edited_splits_file_is_kept(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--output-dir", tmp_path, "--epochs", "1", "--strategy", "lp"]
    assert run(*base)[0] == 0
    file = next((tmp_path / "splits").glob("*-folds1.csv"))
    edited = file.read_text().replace(",train,", ",test,", 1)
    file.write_text(edited)
    assert run(*base)[0] == 0 and file.read_text() == edited


def test_runs_of_other_settings_in_one_folder_are_called_not_comparable(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--output-dir", tmp_path]
    assert run(*base, "--epochs", "1", "--strategy", "lp")[0] == 0
    assert run(*base, "--epochs", "2", "--strategy", "ft")[0] == 0
    done = subprocess.run(
        [sys.executable, "-m", "report", tmp_path], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0 and "NOT COMPARABLE: these runs differ in epochs: 1, 2" in done.stdout
    rows = read(tmp_path / "results.csv")
    assert [(r["strategy"], r["set_epochs"]) for r in rows] == [("ft", "2"), ("lp", "1")]


def test_a_short_schedule_stays_at_zero_and_odd_numbers_leave_no_lone_image():
    assert train.schedule(20, 20, 0.05) == train.schedule(40, 20, 0.05) == pytest.approx(0.0)
    assert sorted(len(p) for p in train.parts_of(np.arange(39), 2)) == [2] * 18 + [3]
    assert [len(p) for p in train.parts_of(np.arange(3), 1)] == [1, 1, 1]
    assert [len(p) for p in train.parts_of(np.arange(1), 8)] == [1]


def test_squeezenet_can_say_no():
    """torchvision has a ReLU behind SqueezeNet's head: no logit below 0, no score below 0.5 for a label."""
    model, _, _ = models.build_model("squeezenet1_1", models.Weights("none"), 4, seed=0)
    assert model.eval()(torch.randn(8, 3, 32, 32)).min() < 0


def test_the_names_in_the_report_are_those_of_the_strategies():
    assert list(wording.ORDER) == [entry.name for entry in strategies.STRATEGIES.values()]


# -------------------------------------------------------------------------------- the report, and runs put to use


def test_a_sweep_ends_with_the_report_of_all_strategies(swept):
    out, said = swept
    assert {"report.html", "report.md", "results.csv", "comparisons.csv", "tables"} <= {
        f.name for f in out.iterdir()
    }
    page = (out / "report.html").read_text()
    for entry in strategies.STRATEGIES.values():
        assert f">{entry.name}<" in page and f"\n{entry.name}" in said
    one_class = (
        set()
    )  # two epochs from random weights are few: what calls one class of every image is no best
    for key, entry in strategies.STRATEGIES.items():
        rows = [
            r for r in predictions(out / "demo-tiny" / ARCH / key / "seed0-fold0") if r["split"] == "test"
        ]
        called = {max((c for c in r if c.startswith("score_")), key=lambda c, r=r: float(r[c])) for r in rows}
        one_class |= {entry.name} if len(called) == 1 else set()
    expected = "No verdict: the runs of" if len(one_class) == 8 else "the highest balanced accuracy, 0."
    assert expected in said and str(out / "report.html") in said
    assert all(
        (f"{name}: 1 of 1 run calls every test image" in said) == (name in one_class)
        for name in wording.ORDER
    )
    assert len(read(out / "results.csv")) == 8 and len(read(out / "comparisons.csv")) == 8 * 7 / 2
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
    for name, picture in zip(names, pixels):  # 32 px, as they were decoded
        assert np.array_equal(picture[0], index.arrays[index.paths.index(name)])


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
    assert not prepare.is_official(index, np.arange(14, 20)) and not prepare.is_official(
        index, np.array([], int)
    )


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


def test_gradcam_shows_the_same_images_for_every_strategy(folder, tmp_path, run):
    base = [
        "--data",
        folder,
        *SMALL,
        "--output-dir",
        tmp_path,
        "--epochs",
        "1",
        "--strategy",
        "ft",
        "lp",
        "--img-size",
        "64",
    ]
    code, out, err = run(*base, "--gradcam", "3")
    assert code == 0 and "Grad-CAM of 3 test images" in out, err
    panel = next((tmp_path / "figures").glob("gradcam-*.png"))
    with Image.open(panel) as image:
        width, height = image.size
    assert height > 3 * 128 and width > 3 * 128  # three images, a column for them and one a strategy
    assert "Grad-CAM" in (tmp_path / "report.html").read_text()
    rows = {
        r["image"] for r in predictions(next(tmp_path.glob("*/*/ft/seed0-fold0"))) if r["split"] == "test"
    }
    again = run(*base, "--gradcam", "3")[1]  # nothing is trained anew
    assert again.count("done before") == 2 and len(rows) >= 3


def test_an_export_does_not_overwrite_a_json_of_something_else(swept, tmp_path, run):
    (tmp_path / "m.json").write_text('{"mine": 1}')
    done = swept[0] / "demo-tiny" / ARCH / "lp" / "seed0-fold0"
    code, _, err = run("--export", tmp_path / "m.pt2", "--run", done)
    assert code == 2 and "not from an export" in err and (tmp_path / "m.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "m.pt2").exists()
