"""The folder of a run: written whole or not at all, by one process, resumed only under its own settings."""

import errno
import json
import math
import re
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn
from toys import SMALL, predictions, read, toy_data

import ftcompare
import runs


def test_a_finished_run_whose_logs_end_early_gets_its_rows_back(folder, tmp_path, run):
    """Where last.pt was kept, as every run once did."""
    arguments = ["--data", folder, *SMALL, "--strategy", "autorgn", "--epochs", "2", "--output-dir", tmp_path]
    assert run(*arguments, "--keep-last")[0] == 0
    cell = next(tmp_path.glob("*/*/autorgn/*/metrics.json")).parent
    assert runs.RunFolder(cell).load("last.pt")["optimizer"] is None
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
    (cell / "last.pt").unlink()  # there is nothing to write them from
    cut("log.csv")
    assert run(*arguments)[0] == 0 and [r["epoch"] for r in read(cell / "log.csv")] == ["1"]


def test_last_pt_goes_when_a_run_is_done_and_nothing_asks_for_it(folder, tmp_path, run):
    """Found done, reported, predicted from; no flag about it makes another run of it."""
    arguments = ["--data", folder, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path / "runs"]
    assert run(*arguments)[0] == 0
    cell = next(tmp_path.glob("runs/*/*/lp/*/metrics.json")).parent
    before = {file.name: file.stat().st_mtime_ns for file in cell.iterdir() if file.name != ".lock"}
    assert "last.pt" not in before and "best.pt" in before
    for more in ((), ("--keep-last",)):
        code, out, err = run(*arguments, *more)
        assert code == 0 and "done before" in out, err
    assert run("--report", tmp_path / "runs")[0] == 0
    assert run("--predict", folder, "--run", cell, "--out", tmp_path / "p.csv")[0] == 0
    assert {file.name: file.stat().st_mtime_ns for file in cell.iterdir() if file.name != ".lock"} == before


def test_last_pt_is_there_until_metrics_json_is(folder, tmp_path, run, monkeypatch):
    arguments = ["--data", folder, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path]
    finish = runs.RunFolder.finish

    def killed(self, result):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.RunFolder, "finish", killed)
    assert run(*arguments)[0] == 130
    (cell,) = (file.parent for file in tmp_path.glob("*/*/lp/*/last.pt"))
    monkeypatch.setattr(runs.RunFolder, "finish", finish)
    assert run(*arguments)[0] == 0
    assert (cell / "metrics.json").is_file() and not (cell / "last.pt").exists()
    assert [row["epoch"] for row in read(cell / "log.csv")] == ["1"]


@pytest.mark.parametrize("left", ["last.pt", "best.pt", "metrics.json"])
def test_what_is_left_of_a_run_without_its_settings_is_not_gone_on_with(folder, tmp_path, run, left):
    small = ["--data", folder, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path, "--keep-last"]
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


def test_the_same_command_again_trains_nothing_and_other_settings_are_refused(folder, tmp_path, run):
    arguments = ["--data", folder, *SMALL, "--strategy", "lp", "--epochs", "1", "--output-dir", tmp_path]
    assert run(*arguments)[0] == 0
    metrics_file = next(tmp_path.glob("*/*/lp/*/metrics.json"))
    before = metrics_file.stat().st_mtime_ns
    code, out, _ = run(*arguments)
    assert code == 0 and "done before" in out and metrics_file.stat().st_mtime_ns == before
    code, _, err = run(*arguments, "--lr", "0.5")
    assert code == 2 and "lr: 0.01 there, 0.5 now" in err and "--overwrite" in err and err.count("\n") == 1
    assert metrics_file.stat().st_mtime_ns == before
    assert run(*arguments, "--lr", "0.5", "--overwrite")[0] == 0
    assert metrics_file.stat().st_mtime_ns != before


def test_the_hardest_images_are_those_that_the_test_got_most_wrong(tmp_path):
    """Pixels in another order than the images, as after --skip-bad; the truth's score is 0.01 times a number
    from 20 to 39."""
    data = toy_data()
    data.rows["test"] = np.arange(20, 40)
    data.pixels, data.lookup = data.pixels.flip(0), np.arange(40)[::-1].copy()
    truth = 0.01 * np.random.default_rng(0).permutation(np.arange(20, 40))
    y = data.index.labels[20:]
    scores = np.where(np.arange(2) == y[:, None], truth[:, None], 1 - truth[:, None])
    ftcompare.write_hardest(runs.RunFolder(tmp_path), data, scores)
    worst = [i for _, i in sorted(zip(truth, range(20, 40), strict=True))][:12]
    with np.load(tmp_path / "hardest.npz", allow_pickle=False) as held:
        assert held["image"].tolist() == [str(i) for i in worst]
        assert np.array_equal(held["pixels"], toy_data().pixels[worst].numpy())


def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path, monkeypatch):
    file = tmp_path / "last.pt"
    file.mkdir()
    with pytest.raises(runs.RunError, match=r"last.pt: cannot be read \(Is a directory\)"):
        runs.load_checkpoint(file)


def test_a_file_is_never_half_written(tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    runs.write_atomically(file, "old")

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        runs.write_atomically(file, "new")
    assert file.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["metrics.json"]


def test_a_checkpoint_on_a_full_disk_is_the_system_s_error_and_leaves_the_old_one(tmp_path):
    """torch.save covers it with a RuntimeError of its own."""
    resource = pytest.importorskip("resource")
    run, tensors = runs.RunFolder(tmp_path), {"a": torch.zeros(100_000)}
    run.save("last.pt", {"a": torch.ones(1)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            run.save("last.pt", tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "last.pt"))
    assert run.load("last.pt")["a"].tolist() == [1] and [f.name for f in tmp_path.iterdir()] == ["last.pt"]
    run.save("last.pt", tensors)
    assert torch.equal(run.load("last.pt")["a"], tensors["a"])


def test_an_error_that_is_not_the_system_s_stays_what_it_is(tmp_path):
    def content(out):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        runs.write_atomically(tmp_path / "x", content)
    assert not list(tmp_path.iterdir())


def test_a_setting_that_an_older_run_lacks_is_what_it_was_before(tmp_path):
    run = runs.RunFolder(tmp_path)
    run.begin({"settings": {"lr": 1.0, "hyperparameters": {"bn": "train"}}})
    before = {"smoothing": 0.0, "hyperparameters": {"alpha": 0.1, "beta": 0.2}, "lr": 2.0, "unused": 3}
    now = {"lr": 1.0, "smoothing": 0.0, "hyperparameters": {"bn": "train", "alpha": 0.1}}
    run.check(now, before)
    other = now | {"smoothing": 0.1, "hyperparameters": {"bn": "train", "alpha": 0.3}}
    with pytest.raises(runs.RunError) as caught:
        run.check(other, before)
    differ = ["hyperparameters.alpha: 0.1 there, 0.3 now", "smoothing: 0.0 there, 0.1 now"]
    assert sorted(re.search(r"settings \((.*)\); --overwrite", str(caught.value))[1].split("; ")) == differ
    with pytest.raises(runs.RunError, match=r"\(lr: 1.0 there, 2.0 now\)"):
        run.check(now | {"lr": 2.0}, before)
    with pytest.raises(runs.RunError, match="smoothing: None there, 0.0 now"):
        run.check(now)
    run.check({"lr": 5.0}, before, overwrite=True)
    assert not list(tmp_path.iterdir())


def test_what_auto_means_is_settled_by_the_first_run_of_an_output_folder(tmp_path):
    here, other = {"device": "cuda", "amp": "bf16"}, {"device": "cpu", "amp": "off"}
    assert runs.settled(tmp_path / "new", here) == here == runs.settled(tmp_path / "new", other)

    def older(name, config):
        runs.RunFolder(runs.run_path(tmp_path / "old", "toy", "net", name, 0, 0)).begin(config)

    older("autorgn", {"damaged": True})  # no settings: the next one is asked
    older("ft", {"settings": {"amp": "off"}, "environment": {"device": "cuda:1"}})
    theirs = {"device": "cuda", "amp": "off"}
    assert runs.settled(tmp_path / "old", here) == theirs
    shutil.rmtree(tmp_path / "old" / "toy")
    assert runs.settled(tmp_path / "old", here) == theirs
    later = {"amp": "off", "compile": "on"}  # a setting that a later version settles, too
    assert runs.settled(tmp_path / "old", {"amp": "bf16", "compile": "on"}) == later
    assert runs.settled(tmp_path / "old", {"device": "cpu", "compile": "off"}) == {"device": "cuda", "compile": "on"}


def read_back(root, changed=None, result=None, strategy="ft", fold=0, **more):
    """A finished run of the least that a report needs, written and read: (runs, warnings)."""
    cell = {"data": "toy", "arch": "net", "strategy": strategy, "seed": 0, "fold": fold}
    settings = {"cell": cell, "task": "multiclass", "classes": ["a", "b"], "metric": "auroc", "epochs": 2}
    settings |= {"lr": 0.1, "hyperparameters": {}} | (changed or {})
    data = {"splits": {}, "group_kind": "image", "unit_kind": "image", "unit_score": None, "leave_out": []}
    config = {"strategy": strategy.upper(), "environment": {}, "arguments": {}} | more
    folder = runs.RunFolder(runs.run_path(root, "toy", "net", strategy, 0, fold))
    folder.begin(config | {"settings": settings, "data": data})
    counts = "epochs optimizer_steps parameters trainable_parameters peak_memory_bytes".split()
    whole = {"val": {"values": {}}, "test": {"values": {}, "per_class": {}}, "minutes": 1.5}
    folder.write_csv("predictions.csv", [{"image": "x", "split": "test"}])
    folder.write_logs({"log": [{"epoch": 1, "stage": "lp", "val_loss": ""}], "ratios": []})
    folder.finish(whole | dict.fromkeys(counts, 2) | (result or {}))
    return runs.read_runs(root)


def test_a_run_is_read_as_it_was_written(tmp_path):
    (run,), warnings = read_back(tmp_path, result={"best_stage": "lp"})
    assert (run.status, run.strategy, run.place) == ("done", "FT", "toy/net/ft/seed0-fold0")
    assert not warnings and run.stages == {"lp": 1} and run.log[0]["epoch"] == 1
    assert math.isnan(run.log[0]["val_loss"]) and run.files.ratios() == [] and run.files.hardest() == {}


@pytest.mark.parametrize(
    ("changed", "result", "message"),
    [
        ({"lr": "x"}, {}, "config.json: settings.lr is 'x'"),
        ({"classes": None}, {}, "config.json: settings.classes is None"),
        ({"cell": {}}, {}, "config.json lacks settings.cell.data"),
        ({}, {"test": {"values": {}}}, "metrics.json lacks test.per_class"),
        ({}, {"minutes": None}, "metrics.json: minutes is None"),
    ],
)
def test_a_run_that_lacks_what_a_report_needs_is_left_out_and_named(tmp_path, changed, result, message):
    found, warnings = read_back(tmp_path, changed, result)
    assert found == []
    assert warnings == [f"left out, {tmp_path}/toy/net/ft/seed0-fold0 is damaged: {message}"]


def test_a_damaged_log_is_named(tmp_path):
    read_back(tmp_path)
    file = tmp_path / "toy/net/ft/seed0-fold0/log.csv"
    file.write_text("epoch,stage,val_loss\n1,lp,0.5\ntwo,lp,0.5\n")
    found, (warning,) = runs.read_runs(tmp_path)
    assert found == [] and f"{file} is damaged" in warning and "two" in warning


def test_runs_come_in_the_order_of_the_strategies_and_older_ones_in_that_of_their_command(tmp_path):
    for key, order in (("ft", 2), ("lp", 0), ("toy", 1)):
        for fold in (1, 0):
            found, _ = read_back(tmp_path / "new", strategy=key, fold=fold, about={"order": order})
    assert [run.strategy for run in found] == ["LP", "LP", "TOY", "TOY", "FT", "FT"]
    assert [run.cell["fold"] for run in found] == [0, 1] * 3
    for key in ("ft", "lp", "toy", "zoo", "xyz"):
        asked = {"strategy": ["toy", "lp", "ft"]}
        found, _ = read_back(tmp_path / "old", strategy=key, arguments=asked)
    assert runs.strategies_in_order(found) == ["TOY", "LP", "FT", "XYZ", "ZOO"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [32, 96, 97, 128, 192, 224, 299, 1000])
def test_small_pictures_are_those_of_torch_s_area_mean(side, channels):
    rng = np.random.default_rng(side)
    noise = rng.integers(0, 256, (2, channels, side, side), dtype=np.uint8)
    ties = rng.integers(0, 3, (2, channels, side, side), dtype=np.uint8)  # many means end in a half
    for pixels in (noise, ties):
        expected = torch.from_numpy(pixels).float()
        if side > 96:
            expected = nn.functional.interpolate(expected, size=(96, 96), mode="area")
        assert np.array_equal(runs.shrunk(pixels, 96), expected.round().byte().numpy())


def test_the_hardest_images_come_back_and_a_damaged_file_of_them_stops_no_report(tmp_path):
    run, rng = runs.RunFolder(tmp_path), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    names = [f"i{k}" for k in range(20)]
    run.write_hardest(names, np.linspace(1, 0, 20), lambda places: pixels[places])
    found = run.hardest()
    assert list(found) == names[:7:-1]
    assert all(np.array_equal(found[f"i{k}"], pixels[k]) for k in range(8, 20))
    whole = run.file("hardest.npz").read_bytes()
    for damaged in (b"", b"no zip", whole[:200], whole[:-30]):
        run.file("hardest.npz").write_bytes(damaged)
        assert run.hardest() == {}


def test_a_cell_that_a_spreadsheet_would_run_is_text_and_comes_back():
    cells = ["=1", "+a", "-a", "@a", "\tx", "\rx", "'=1", "''=1", "'", "a", "", "-", "=", "x=1"]
    written = [runs.as_text(cell) for cell in cells]
    assert [runs.from_text(cell) for cell in written] == cells
    assert written[:8] == ["'=1", "'+a", "'-a", "'@a", "'\tx", "'\rx", "''=1", "''" + "'=1"]
    for number in ("-1", "+1e-5", "-0.5", "-inf", 3, -2.5, None):
        assert runs.as_text(number) is number


def test_predictions_of_such_names_are_read_as_the_data_has_them(tmp_path):
    data = toy_data()
    index = data.index
    index.classes = ["=a", "@b"]
    index.paths, index.groups = [f"+{i}.png" for i in range(40)], [f"=g{i // 2}" for i in range(40)]
    rows = {"test": np.arange(32, 40)}
    scores = {"test": np.tile([0.25, 0.75], (8, 1))}
    runs.RunFolder(tmp_path).write_predictions(index, index.groups, rows, scores)
    text = (tmp_path / "predictions.csv").read_text()
    assert text.splitlines()[1].startswith("'+32.png,'=g16,'=a,0.25,0.75,")
    config = {"settings": {"classes": index.classes, "task": "multiclass"}, "data": {"unit_score": None}}
    scored = runs.read_scored(runs.Run(tmp_path, config, "done"))
    assert scored.images == index.paths[32:] and scored.groups.tolist() == index.groups[32:]
    assert scored.labels.tolist() == [0, 1] * 4 and scored.scores.tolist() == [[0.25, 0.75]] * 8


def test_a_folder_is_synced_after_its_file(tmp_path, monkeypatch):
    """The list of names is on the disk only then: a power cut would take the new name back."""
    calls, fsync, replace = [], runs.os.fsync, runs.os.replace
    kind = lambda handle: "folder" if stat.S_ISDIR(runs.os.fstat(handle).st_mode) else "file"
    monkeypatch.setattr(runs.os, "fsync", lambda handle: [calls.append(kind(handle)), fsync(handle)])
    monkeypatch.setattr(runs.os, "replace", lambda a, b: [calls.append(f"-> {b.name}"), replace(a, b)])
    run = runs.RunFolder(tmp_path)
    run.save_state({"a": 1})
    run.save_state({"a": 2})
    first, second = ["file", "-> last.pt", "folder"], ["file", "-> previous.pt", "-> last.pt", "folder"]
    assert calls == first + second
    assert run.load("previous.pt") == {"a": 1} and run.load("last.pt") == {"a": 2}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes, for whom it can be made."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_a_line_with_folder_needed_and_free(small_disk):
    run, (old, new) = runs.RunFolder(small_disk / "run"), (torch.zeros(200_000), torch.ones(700_000))
    run.save_state({"w": old})
    with pytest.raises(OSError) as caught:
        run.save_state({"w": new})
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(run.file("last.pt"))
    where = rf"No space left on device; 2.8 MB needed in {run.path}, [0-9.]+ MB free"
    assert re.fullmatch(where, caught.value.strerror)
    assert torch.equal(run.load("last.pt")["w"], old) and [f.name for f in run.path.iterdir()] == ["last.pt"]
    (small_disk / "more").write_bytes(bytes(2_300_000 - 800_000 + 600_000))
    with pytest.raises(OSError, match="0.5 MB needed|No space"):
        run.write("predictions.csv", "x" * 500_000)
    assert [f.name for f in run.path.iterdir()] == ["last.pt"]


def test_a_disk_that_fills_in_a_sweep_ends_it_in_a_line(folder, small_disk, run, monkeypatch):
    """Refused before a run where that can be told; after it the same command goes on when there is room."""
    out = small_disk / "r"
    arguments = ["--data", folder, *SMALL, "--strategy", "lp", "ft", "l2sp", "--epochs", "1", "--output-dir", out]
    code, _, err = run(*arguments)
    why = "needed for the checkpoints of the runs that are left"
    assert code == 2 and re.fullmatch(rf"ftcompare: {out}: [0-9.]+ MB {why}, [0-9.]+ MB free; make room, .*\n", err)
    assert not list(out.glob("*/*/*/*"))
    monkeypatch.setattr("dryrun.refuse_full_disk", lambda *a: None)
    code, _, err = run(*arguments)
    assert code == 1 and err.count("\n") == 1
    assert "No space left on device; " in err and "the same command goes on" in err
    failures = [json.loads(file.read_text()) for file in out.glob("*/*/*/*/failed.json")]
    assert all(failure["sweep"] is None for failure in failures) and not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=60m", small_disk], check=True)
    assert run(*arguments)[0] == 0 and len(list(out.glob("*/*/*/*/metrics.json"))) == 3


def test_nan_becomes_null_in_json():
    assert json.loads(runs.to_json({"a": [float("nan"), 1.5], "b": (float("inf"),)})) == {"a": [None, 1.5], "b": [None]}


def test_a_sweep_is_refused_before_anything_is_trained(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--output-dir", tmp_path]
    assert run(*base, "--epochs", "1", "--strategy", "lp")[0] == 0
    code, _, err = run(*base, "--epochs", "2", "--strategy", "ft", "lp")
    assert code == 2 and "epochs: 1 there, 2 now" in err
    assert not list(tmp_path.glob("*/*/ft"))


def test_a_setting_that_a_strategy_does_not_use_does_not_refuse_its_run(folder, tmp_path, run):
    """It is another one's, which runs beside it."""
    base = ["--data", folder, *SMALL, "--output-dir", tmp_path, "--epochs", "1", "--strategy", "lp"]
    assert run(*base)[0] == 0
    code, out, err = run(*base, "l2sp", "--alpha", "0.5")
    assert code == 0 and out.count("done before") == 1, err


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
    """Twenty patients, three images each, one of them in another spelling. An older config.json lacks
    joined_ids, and its run kept every spelling apart."""
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
