"""A damaged file of a run costs what is made of it, or its run, never the report; and what is lost is said."""

import json
import random
import shutil

import numpy as np
import pytest
from factory import csv_of, right_scores, write_run

import runs
from report import build

LABELS = np.tile([0, 1], 20)
RIGHT = {("FT", 0): 30, ("FT", 1): 33, ("Auto-RGN", 0): 34, ("Auto-RGN", 1): 36}


def write_all(root):
    """Two seeds of two strategies, every file of a run among them."""
    for (strategy, seed), right in RIGHT.items():
        folder = write_run(
            root, strategy, right_scores(LABELS, np.arange(40) < right), LABELS, seed=seed, stages=("all", "all")
        )
        run, grey = runs.RunFolder(folder), np.arange(12 * 64, dtype=np.uint8).reshape(12, 1, 8, 8)
        names = [f"i{k:03d}.png" for k in range(40)]
        run.write_hardest(names, np.linspace(1, 0, 40), lambda places, grey=grey: grey)
        if strategy == "Auto-RGN":
            one = {"grad_norm": 1.0, "weight_norm": 2.0, "ratio": 0.5, "lr": 0.01}
            units = [("conv1", "stem"), ("fc", "head")]
            run.write_csv("ratios.csv", [{"epoch": e, "layer": u, "block": b} | one for e in (1, 2) for u, b in units])
    return folder


@pytest.fixture
def folder(tmp_path):
    write_all(tmp_path)
    return tmp_path


def damages(content, other, rng):
    """(name, bytes): what a full disk, a failing one, a broken copy and an editor make of a file."""
    n = len(content)
    i, j = sorted(rng.sample(range(1, n), 2))
    k = min(n, i + rng.choice([1, 8, 512]))
    flipped, swapped = bytearray(content), bytearray(content)
    flipped[i] ^= 1 << rng.randrange(8)
    swapped[i], swapped[j] = content[j], content[i]
    yield "empty", b""
    yield "cut", content[:i]
    yield "cut at a line", content[: content.rfind(b"\n", 0, i) + 1]
    yield "beginning lost", content[i:]
    yield "block lost", content[:i] + content[k:]
    yield "zeros at the end", content[:i] + bytes(n - i)
    yield "block of zeros", content[:i] + bytes(k - i) + content[k:]
    yield "block of rubbish", content[:i] + rng.randbytes(k - i) + content[k:]
    yield "zeroed", bytes(n)
    yield "bit flipped", bytes(flipped)
    yield "bytes swapped", bytes(swapped)
    yield "written twice", content + content
    yield "another file", other


# What changes a few bytes may leave a file that reads well and says something else.
UNSEEN = ("bit flipped", "bytes swapped", "block lost", "block of rubbish")


@pytest.mark.parametrize("name", "config.json metrics.json predictions.csv log.csv ratios.csv hardest.npz".split())
def test_a_damaged_file_stops_no_report_and_is_named(folder, name):
    """Each of the damages, from one seed: the other strategy is reported as it was, and where anything is lost a
    warning names the run's folder. The whole file back, all is as before."""
    before = build.build(folder)
    cell = folder / "toy" / "net" / "autorgn" / "seed0-fold0"
    content, rng = (cell / name).read_bytes(), random.Random(name)
    other = (cell / ("log.csv" if name == "config.json" else "config.json")).read_bytes()
    for kind, damaged in damages(content, other, rng):
        (cell / name).write_bytes(damaged)
        after = build.build(folder)
        found = next(one for one in after.experiments if one.key == ("toy", "net"))
        ft, unharmed = found.row("FT"), before.experiments[0].row("FT")
        same = (ft.test, ft.metrics, ft.cells) == (unharmed.test, unharmed.metrics, unharmed.cells)
        assert same or kind in UNSEEN, kind
        named = any(str(cell) in warning for warning in after.warnings)
        assert named or after.experiments == before.experiments or kind in UNSEEN, kind
        run_is_there = found.row("Auto-RGN").done == 2
        assert run_is_there or name in ("config.json", "metrics.json", "predictions.csv"), kind
    (cell / name).write_bytes(content)
    assert build.build(folder) == before


@pytest.mark.parametrize("name", "log.csv ratios.csv hardest.npz".split())
def test_a_file_that_cannot_be_opened_costs_its_panel(folder, name, monkeypatch):
    """As on a disk that fails."""
    opened = open

    def failing(file, *arguments, **more):
        if str(file).endswith(f"autorgn/seed0-fold0/{name}"):
            raise OSError(5, "Input/output error", str(file))
        return opened(file, *arguments, **more)

    for place in ("builtins.open", "numpy.lib._npyio_impl.open"):
        monkeypatch.setattr(place, failing, raising=False)
    found = build.build(folder)
    assert sum(row.done for row in found.experiments[0].rows) == 4
    assert [name in warning for warning in found.warnings] == [True]


def edited(folder, name, change):
    file = folder / "toy" / "net" / "autorgn" / "seed0-fold0" / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_value_that_the_scores_do_not_give_costs_the_run(folder):
    """34 of 40 are right: 0.85, which metrics.json calls 0.95."""
    edited(folder, "metrics.json", lambda result: result["test"]["values"].update(accuracy=0.95))
    found = build.build(folder)
    (warning,) = found.warnings
    assert "do not belong together: accuracy is 0.95 there, 0.85 by the scores" in warning
    assert found.experiments[0].row("Auto-RGN").test.mean == pytest.approx(36 / 40)
    (row,) = (row for row in csv_of(folder) if (row["strategy"], row["seed"]) == ("autorgn", "0"))
    assert (row["status"], row["reason"]) == ("unfinished", "damaged")


def test_predictions_of_another_run_cost_the_run(folder):
    """Of the same images: nothing but their scores tells."""
    cells = folder / "toy" / "net" / "autorgn"
    shutil.copy(cells / "seed1-fold0" / "predictions.csv", cells / "seed0-fold0")
    found = build.build(folder)
    assert ["accuracy is 0.85 there, 0.9 by the scores" in warning for warning in found.warnings] == [True]


def test_a_value_that_is_undefined_agrees_with_null(folder):
    """No sensitivity where nothing is positive."""
    labels = np.zeros(40, int)
    write_run(folder, "LP", right_scores(labels, np.arange(40) < 30), labels, data="none")
    found = build.build(folder)
    assert found.warnings == [] and [one.key for one in found.experiments] == [("none", "net"), ("toy", "net")]


def test_text_that_no_file_can_hold_is_written_all_the_same(folder):
    edited(folder, "config.json", lambda config: config["settings"].update(opt="a\ud800b"))
    build.build(folder)
    assert {row["set_opt"] for row in csv_of(folder)} == {"", "a?b"}
