"""The folder of a run: written whole or not at all, by one process, gone on with only under its own settings."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from toys import SMALL, predictions, read, toy_data

import ftcompare
import runs


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


def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path, monkeypatch):
    file = tmp_path / "last.pt"
    file.mkdir()
    with pytest.raises(runs.RunError, match=r"last.pt: cannot be read \(Is a directory\)"):
        runs.load_checkpoint(file)


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
