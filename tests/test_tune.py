"""--tune: equal trials for every strategy, inside the training part of the fold, or refused."""

import argparse
import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import ARCH, settings_of

import datasets
import ftcompare
import models
import prepare
import runs
import splits
import strategies
import train
import workers

SMALL = ["--data", "demo-tiny", "--arch", ARCH, "--weights", "none", "--img-size", "32", "--device", "cpu"]
SMALL += ["--epochs", "1"]


def command(arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ftcompare.py", *map(str, arguments)])
    code = ftcompare.command_line()
    said = capsys.readouterr()
    return code, said.out, said.err


def read_json(file):
    return json.loads(file.read_text())


# ---- the trials ----


# Worked by hand from the rule: the default, half a decade up, half a decade down, then outward by turns, then
# half way between. The middle of 1 and 3 is 1.7320508, of 3 and 10 it is 5.4772256.
FT_ADAMW = [1e-4, 3e-4, 3e-5, 1e-3, 1e-5, 1.7320508e-4, 5.4772256e-5, 5.4772256e-4, 1.7320508e-5]
FT_SGD = [3e-3, 1e-2, 1e-3, 3e-2, 3e-4, 5.4772256e-3, 1.7320508e-3, 1.7320508e-2, 5.4772256e-4]
LP_ADAMW = [1e-2, 3e-2, 3e-3, 1e-1, 1e-3, 1.7320508e-2, 5.4772256e-3, 5.4772256e-2, 1.7320508e-3]
LP_SGD = [3e-2, 1e-1, 1e-2, 3e-1, 3e-3, 1.0, 5.4772256e-2, 1.7320508e-2, 1.7320508e-1]  # six: the lower is the default
LPFT_ADAMW = [3e-5, 1e-4, 1e-5, 3e-4, 3e-6, 5.4772256e-5, 1.7320508e-5, 1.7320508e-4, 5.4772256e-6]
LPFT_SGD = [1e-3, 3e-3, 3e-4, 1e-2, 1e-4, 1.7320508e-3, 5.4772256e-4, 5.4772256e-3, 1.7320508e-4]
RGN_ADAMW = [1e-3, 3e-3, 3e-4, 1e-2, 1e-4, 1.7320508e-3, 5.4772256e-4, 5.4772256e-3, 1.7320508e-4]
RGN_SGD = [1e-2, 3e-2, 3e-3, 1e-1, 1e-3, 1.7320508e-2, 5.4772256e-3, 5.4772256e-2, 1.7320508e-3]
TURNS_ADAMW = [1e-4, 3e-4, 3e-5, 1e-3, 1e-5, 1e-4, 3e-4, 3e-5, 1e-3]  # the five rates, and again
TURNS_SGD = [3e-3, 1e-2, 1e-3, 3e-2, 3e-4, 3e-3, 1e-2, 1e-3, 3e-2]
L1_ALPHAS = [1e-4, 1e-3, 1e-5, 1e-4, 1e-3, 1e-5, 1e-4, 1e-3, 1e-5]
L2_ALPHAS = [1e-1, 1.0, 1e-2, 1e-3, 1e-1, 1.0, 1e-2, 1e-3, 1e-1]
NONE = [None] * 9
BY_HAND = {
    ("ft", "adamw"): (FT_ADAMW, NONE),
    ("ft", "sgd"): (FT_SGD, NONE),
    ("glf", "adam"): (FT_ADAMW, NONE),
    ("gfl", "adamw"): (FT_ADAMW, NONE),
    ("lp", "adamw"): (LP_ADAMW, NONE),
    ("lp", "sgd"): (LP_SGD, NONE),
    ("lpft", "adamw"): (LPFT_ADAMW, NONE),
    ("lpft", "sgd"): (LPFT_SGD, NONE),
    ("autorgn", "adamw"): (RGN_ADAMW, NONE),
    ("autorgn", "sgd"): (RGN_SGD, NONE),
    ("l1sp", "adamw"): (TURNS_ADAMW, L1_ALPHAS),
    ("l1sp", "sgd"): (TURNS_SGD, L1_ALPHAS),
    ("l2sp", "adamw"): (TURNS_ADAMW, L2_ALPHAS),
    ("l2sp", "sgd"): (TURNS_SGD, L2_ALPHAS),
}


@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("key, opt", BY_HAND)
def test_the_trials_by_hand(key, opt, n):
    rates, alphas = BY_HAND[key, opt]
    got = strategies.trials(key, opt, n)
    assert [t["lr"] for t in got] == pytest.approx(rates[:n], rel=1e-7)
    assert [t["alpha"] for t in got] == alphas[:n]


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 20, 41])
def test_every_strategy_has_the_same_number_of_different_trials_and_the_default_is_the_first(n, opt):
    for key, entry in PAPER.items():
        trials = strategies.trials(key, opt, n)
        points = [(t["lr"], t["alpha"]) for t in trials]
        assert len(points) == len(set(points)) == n
        assert points[0] == (entry.default_lr(opt), entry.alpha)
        grid = entry.rates(opt)
        assert all(min(grid) <= lr <= max(grid) for lr, _ in points)
        assert all(alpha in entry.alphas if entry.alphas else alpha is None for _, alpha in points)
        assert strategies.trials(key, opt, n + 1)[:n] == trials  # what was tried stays of use


@pytest.mark.parametrize("opt", ["adamw", "adam", "sgd"])
def test_the_sp_strategies_try_the_rates_of_ft_and_from_the_second_trial_on_alpha_moves(opt):
    for n in range(1, 6):
        ft = [t["lr"] for t in strategies.trials("ft", opt, n)]
        for key in ("l1sp", "l2sp"):
            trials = strategies.trials(key, opt, n)
            assert [t["lr"] for t in trials] == ft
            assert len({t["alpha"] for t in trials}) >= min(n, 3)


def test_a_whole_grid_is_used_up_before_it_is_made_denser():
    fives, middles = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3), FT_ADAMW[5:]
    for key, alphas in (("l1sp", (1e-5, 1e-4, 1e-3)), ("l2sp", (1e-3, 1e-2, 1e-1, 1.0))):
        whole = 5 * len(alphas)
        trials = strategies.trials(key, "adamw", whole + 4 * len(alphas))
        assert {(t["lr"], t["alpha"]) for t in trials[:whole]} == {(lr, a) for lr in fives for a in alphas}
        denser = {(round(t["lr"], 11), t["alpha"]) for t in trials[whole:]}
        assert denser == {(round(lr, 11), a) for lr in middles for a in alphas}


def test_where_rates_and_alphas_would_start_anew_together_alpha_moves_on():
    """Four rates half way between five and four alphas: 21 to 24 take the four pairs, 25 begins with the next
    alpha."""
    later = strategies.trials("l2sp", "adamw", 36)[20:]
    assert [t["alpha"] for t in later[:8]] == [1e-1, 1.0, 1e-2, 1e-3, 1.0, 1e-2, 1e-3, 1e-1]
    assert [t["lr"] for t in later] == pytest.approx(FT_ADAMW[5:] * 4, rel=1e-7)


@pytest.mark.parametrize("opt", ["adamw", "adam", "sgd"])
def test_no_default_stands_at_an_end_of_its_grid(opt):
    for key, entry in PAPER.items():
        for default, grid in ((entry.default_lr(opt), entry.rates(opt)), (entry.alpha, entry.alphas)):
            assert default is None or min(grid) < default < max(grid), key


def test_no_trial_is_refused():
    with pytest.raises(ValueError, match="0 trials"):
        strategies.trials("ft", "adamw", 0)


# ---- the split ----


PAPER = {key: entry for key, entry in strategies.STRATEGIES.items() if entry.paper}  # what "all" means


@pytest.fixture(scope="module")
def index():
    return datasets.load_index("demo-tiny")


@pytest.fixture(scope="module")
def outer(index):
    return splits.make_splits(index, seed=0, folds=2)[0]


def test_tuning_sees_training_images_of_the_fold_alone_and_no_patient_twice(index, outer):
    inner = splits.nested_split(index, outer, seed=0)
    assert set(inner) == {"", "train", "val"} and (outer[inner != ""] == "train").all()
    assert (inner != "").sum() == (outer == "train").sum()
    groups = np.array(index.groups)
    assert not set(groups[inner == "train"]) & set(groups[inner == "val"])
    assert set(index.labels[inner == "val"]) == set(range(len(index.classes)))
    assert 0.05 < (inner == "val").sum() / (inner != "").sum() < 0.35


@pytest.mark.parametrize("side", ["test", "val"])
def test_an_arrangement_that_tunes_on_what_judges_the_fold_is_refused(index, outer, side):
    inner = splits.nested_split(index, outer, seed=0)
    inner[np.flatnonzero(outer == side)[0]] = "val"
    with pytest.raises(datasets.DataError, match="1 images are not training images of the fold"):
        splits.check_nested(index, outer, inner)


def test_a_patient_who_also_scores_the_fold_is_refused(index, outer):
    torn = outer.copy()
    patient = index.groups[np.flatnonzero(outer == "test")[0]]
    one = np.flatnonzero(np.array(index.groups) == patient)[0]
    torn[one] = "train"  # a leak in the fold itself
    inner = np.where(torn == "train", "train", "").astype("<U5")
    with pytest.raises(datasets.DataError, match=f"1 patients also validate or test the fold: {patient}"):
        splits.check_nested(index, torn, inner)


def test_a_patient_on_both_sides_of_the_tuning_split_is_refused(index, outer):
    inner = splits.nested_split(index, outer, seed=0)
    many = [g for g in index.groups if index.groups.count(g) > 1]
    rows = [i for i in np.flatnonzero(inner == "train") if index.groups[i] in many]
    inner[rows[0]] = "val"
    with pytest.raises(datasets.DataError, match="1 patients are in two splits"):
        splits.check_nested(index, outer, inner)


def copies_torn(index, inner):
    """Lists of training rows that are copies of each other, of patients on two sides of a split that knows
    nothing of them: two in two, three in three patients."""
    apart = [
        [rows[0] for rows in {index.groups[i]: [i] for i in np.flatnonzero(inner == side)}.values()]
        for side in ("train", "val")
    ]
    (a, b, c, *_), (x, y, *_) = apart
    return [[a, x], [b, c, y]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_are_not_tuned_and_judged_on(index, outer, seed):
    """Byte-identical images of two patients on one side, and with them all images of these patients."""
    plain = splits.nested_split(index, outer, seed=seed)
    copies = copies_torn(index, plain)
    assert len(splits.spanning(copies, plain)) == 2
    how = prepare.Preparation(split_seed=seed, val_fraction=0.15)
    for inner in (
        splits.nested_split(index, outer, copies, seed=seed),
        ftcompare.inner_split(index, outer, copies, how),
    ):
        assert splits.spanning(copies, inner) == []
        groups = np.array(index.groups)
        for rows in copies:
            assert len(set(inner[np.isin(groups, groups[rows])])) == 1
        assert np.array_equal(inner != "", outer == "train")


def test_the_share_and_the_seed_of_the_inner_split_are_those_that_were_said(index, outer):
    sizes, drawn = [], set()
    for share, seed in ((0.15, 0), (0.4, 0), (0.4, 1)):
        inner = ftcompare.inner_split(index, outer, [], prepare.Preparation(split_seed=seed, val_fraction=share))
        sizes.append((inner == "val").sum() / (inner != "").sum())
        drawn.add(tuple(inner))
    assert sizes == pytest.approx([0.15, 0.4, 0.4], abs=0.1) and len(drawn) == 3


# ---- the command ----


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """All eight strategies, two trials each, by the real command."""
    out = tmp_path_factory.mktemp("tuned")
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["ftcompare.py", *SMALL, "--tune", "2", "--output-dir", str(out)])
    patch.setattr("report.figures.available", lambda: False)
    assert ftcompare.command_line() == 0
    patch.undo()
    return out / "demo-tiny" / ARCH


def test_trials_and_optimizer_steps_are_the_same_for_every_strategy(tuned):
    spent = {}
    for key in PAPER:
        trials = sorted((tuned / key / "tune").iterdir())
        assert [t.name for t in trials] == [f"seed0-fold0-trial{i}" for i in (0, 1)]
        steps = [read_json(t / "metrics.json")["optimizer_steps"] for t in trials]
        final = read_json(tuned / key / "seed0-fold0" / "metrics.json")["optimizer_steps"]
        spent[key] = (len(trials), steps, final)
    assert len({str(s) for s in spent.values()}) == 1, spent
    inner = read_json(tuned / "ft" / "tune" / "seed0-fold0-trial0" / "config.json")["data"]["splits"]["train"]["images"]
    assert spent["ft"][1][0] == -(-inner // 32)  # one epoch in batches of 32


@pytest.mark.parametrize("key", PAPER)
def test_the_chosen_trial_is_the_best_on_the_tuning_validation_and_the_run_uses_its_rate(tuned, key):
    run = read_json(tuned / key / "seed0-fold0" / "config.json")
    values = []
    for i in range(2):
        trial = tuned / key / "tune" / f"seed0-fold0-trial{i}"
        result, config = read_json(trial / "metrics.json"), read_json(trial / "config.json")
        values.append((result["val"]["values"]["balanced_accuracy"], config["settings"]["lr"]))
        assert "test" not in result and config["settings"]["cell"]["trial"] == i
    best = max(values, key=lambda v: v[0])
    assert run["tuning"]["value"] == best[0] and run["tuning"]["lr"] == best[1]
    with open(tuned / key / "seed0-fold0" / "log.csv") as file:
        rows = list(csv.DictReader(file))
    if key in ("ft", "l1sp", "l2sp"):  # one rate for all groups: the log has that of the last step
        steps = int(rows[-1]["steps"])
        expected = best[1] * train.schedule(steps - 1, steps, 0.05)
        assert float(rows[-1]["lr_max"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("key", ["ft", "l2sp"])
def test_no_trial_holds_an_image_that_validates_or_tests_its_fold(tuned, key):
    with open(tuned / key / "seed0-fold0" / "predictions.csv") as file:
        judging = {row["image"].split("-")[0] for row in csv.DictReader(file)}  # patients
    with open(tuned / key / "tune" / "seed0-fold0-trial0" / "predictions.csv") as file:
        tuning = {row["image"].split("-")[0] for row in csv.DictReader(file)}
    assert tuning and not tuning & judging


def test_trials_keep_their_numbers_and_not_their_checkpoints(tuned):
    names = {f.name for f in (tuned / "ft" / "tune" / "seed0-fold0-trial0").iterdir()}
    assert {"config.json", "log.csv", "metrics.json", "predictions.csv"} <= names and not {"best.pt", "last.pt"} & names


def test_a_second_call_with_another_seed_uses_the_trials_that_are_there(tuned, capsys, monkeypatch):
    before = {f: f.stat().st_mtime_ns for f in tuned.glob("ft/tune/*/metrics.json")}
    arguments = [*SMALL, "--tune", "2", "--strategy", "ft", "--seed", "1", "--output-dir", tuned.parents[1]]
    code, out, err = command(arguments, capsys, monkeypatch)
    assert code == 0, err
    assert out.count("done before") == 2
    assert {f: f.stat().st_mtime_ns for f in tuned.glob("ft/tune/*/metrics.json")} == before
    choice = [read_json(tuned / "ft" / f"seed{s}-fold0" / "config.json")["tuning"]["lr"] for s in (0, 1)]
    assert choice[0] == choice[1]


@pytest.mark.parametrize("what", ["run", "trial", "none"])
def test_runs_whose_trials_were_drawn_are_not_gone_on_with_in_silence(what, tuned, tmp_path, capsys, monkeypatch):
    """Older runs drew their trials. The report reads them; the sweep says what differs, and trains nothing
    beside them. A trial of the same settings (the first is the default in both) is taken as it is."""
    monkeypatch.setattr("report.figures.available", lambda: False)
    shutil.copytree(tuned.parents[1], tmp_path / "runs")
    ft = tmp_path / "runs" / "demo-tiny" / ARCH / "ft"
    if what == "run":
        config = read_json(ft / "seed0-fold0" / "config.json")
        del config["settings"]["tune_order"]
        (ft / "seed0-fold0" / "config.json").write_text(json.dumps(config))
    else:  # stopped while it tuned
        for run in ft.glob("seed*"):
            shutil.rmtree(run)
    if what == "trial":
        config = read_json(ft / "tune" / "seed0-fold0-trial1" / "config.json")
        config["settings"]["lr"] = 1e-5
        (ft / "tune" / "seed0-fold0-trial1" / "config.json").write_text(json.dumps(config))
    arguments = [*SMALL, "--tune", "2", "--strategy", "ft", "lp", "--output-dir", tmp_path / "runs"]
    code, out, err = command(arguments, capsys, monkeypatch)
    if what == "none":
        assert code == 0 and out.count("trial 1: done before") == out.count("trial 2: done before") == 1
        return
    assert code == 2 and "was begun with other settings" in err and "--overwrite" in err
    assert {"run": "tune_order: None there", "trial": "lr: 1e-05 there, 0.0003 now"}[what] in err
    code, out, err = command(["--report", tmp_path / "runs"], capsys, monkeypatch)
    assert code == 0 and ("\nFT " in out) == (what == "run")


@pytest.mark.parametrize("given", [("--lr", "0.01"), ("--alpha", "0.01"), ("--protocol", "davila")])
def test_a_rate_that_is_given_and_tuned_is_refused(given, capsys, monkeypatch):
    code, _, err = command([*SMALL, "--tune", "2", *given], capsys, monkeypatch)
    assert code == 2 and "leave out --lr and --alpha" in err


# ---- choosing, without train ----


def chosen(monkeypatch, index, outer, values, strategy="ft", metric="balanced_accuracy", edit=None, identical=()):
    """tune() with trials whose validation values are given; says also what was told and which rows each
    saw."""
    settings = settings_of("--data", "demo-tiny", "--tune", len(values), "--output-dir", "nowhere")
    index = replace(index, metric=metric)
    rows = {side: np.flatnonzero(outer == side) for side in datasets.SPLITS}
    data = prepare.Data(index, None, np.arange(len(index)), rows, (), (), identical=list(identical))
    seen, told = [], []

    def run_cell(cell, data, weights, setting, progress):
        seen.append(data.rows)
        value = values[cell.trial]
        assert (setting.lr, setting.hyper.alpha) == tuple(strategies.trials(strategy, "adamw", 9)[cell.trial].values())
        if value is None:
            return {"failed": "the loss is nan"}
        return {"val": {"values": {metric: value}}, "optimizer_steps": 3, "minutes": 0.5}

    monkeypatch.setattr(ftcompare, "run_cell", run_cell)
    if edit:
        real = splits.nested_split
        monkeypatch.setattr(splits, "nested_split", lambda *a, **k: edit(real(*a, **k)))
    progress = argparse.Namespace(line=told.append, skip=lambda n: None)
    sweep = workers.Sweep("1", Path("nowhere"), joined=False)
    worker = workers.Worker(sweep, workers.Claims(), progress)
    cell = ftcompare.Cell("demo-tiny", ARCH, strategy, 0, 0)
    return ftcompare.tune(cell, data, models.Weights("none"), settings, worker), seen, told


def test_the_highest_value_is_chosen_and_of_equal_ones_the_first(monkeypatch, index, outer):
    trials = strategies.trials("ft", "adamw", 4)
    assert chosen(monkeypatch, index, outer, [0.2, 0.6, 0.4, 0.6])[0]["lr"] == trials[1]["lr"]
    result = chosen(monkeypatch, index, outer, [0.2, 0.6, 0.4, 0.5])[0]
    assert result["optimizer_steps"] == 12 and result["minutes"] == 2.0 and result["value"] == 0.6


def test_a_metric_whose_low_values_are_good_chooses_the_lowest(monkeypatch, index, outer):
    trials = strategies.trials("ft", "adamw", 3)
    assert chosen(monkeypatch, index, outer, [0.2, 0.1, 0.4], metric="brier")[0]["lr"] == trials[1]["lr"]


def test_every_trial_keeps_copies_on_one_side(monkeypatch, index, outer):
    copies = copies_torn(index, splits.nested_split(index, outer, seed=0))
    _, seen, _ = chosen(monkeypatch, index, outer, [0.1, 0.2], identical=copies)
    for rows in seen:
        assert not len(rows["test"])
        for same in copies:
            assert sum(bool(set(same) & set(rows[side].tolist())) for side in ("train", "val")) == 1


@pytest.mark.parametrize(
    "strategy, values, ends",
    [
        ("ft", [0, 0, 0, 1, 0], ["lr"]),  # 1e-3, the end of the grid
        ("ft", [0, 1, 0], ["lr"]),  # 3e-4, inside of the grid, but nothing above it was tried
        ("ft", [0, 1, 0, 0], []),  # now 1e-3 was
        ("ft", [0, 1, 0, None], []),  # and diverged: what lies beyond is known all the same
        ("ft", [1, 0, 0], []),
        ("ft", [1, 0], ["lr"]),  # nothing below
        ("ft", [0, 0, 1, 0], ["lr"]),
        ("ft", [0, 0, 1, 0, 0], []),
        ("lp", [0, 0, 0, 0, 1], ["lr"]),
        ("l1sp", [1, 0, 0], []),
        ("l1sp", [0, 0, 1], ["lr", "alpha"]),  # 3e-5 and 1e-5, the least of both
        ("l2sp", [0, 0, 1, 0], ["lr"]),  # alpha 1e-2: 1e-3 and 1e-1 were tried
        ("l2sp", [0, 1, 0, 0], ["alpha"]),  # 3e-4 with alpha 1: 1e-3 was tried, no alpha above 1
        ("l2sp", [0, 0, 0, 0, 1], ["lr"]),  # 1e-5 with 1e-1
    ],
)
def test_a_choice_at_an_end_of_what_was_tried_is_said(monkeypatch, index, outer, strategy, values, ends):
    result, _, told = chosen(monkeypatch, index, outer, values, strategy)
    assert runs.at_an_end(result) == ends
    warned = [line for line in told if "WARNING" in line]
    lies = {1: "lr lies", 2: "lr and alpha lie"}.get(len(ends)) if ends != ["alpha"] else "alpha lies"
    expected = f"  WARNING: the chosen {lies} at an end of what was tried, and a better value may lie beyond it"
    assert warned == ([expected] if ends else [])


def test_trials_that_fail_or_are_undefined_are_passed_over_and_if_all_do_that_is_said(monkeypatch, index, outer):
    trials = strategies.trials("ft", "adamw", 3)
    assert chosen(monkeypatch, index, outer, [None, float("nan"), 0.1])[0]["lr"] == trials[2]["lr"]
    assert chosen(monkeypatch, index, outer, [None, None])[0]["failed"] == "all 2 trials of --tune diverged"


def test_a_planted_leak_is_refused_before_a_trial_is_trained(monkeypatch, index, outer):
    def leak(inner):
        inner[outer == "test"] = "val"  # tunes on the fold that scores
        return inner

    with pytest.raises(datasets.DataError, match="are not training images of the fold"):
        chosen(monkeypatch, index, outer, [0.1, 0.2], edit=leak)


def test_a_fold_too_small_to_tune_in_is_refused_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    """Three images of the rare class in three folds: one trains, and tuning would need two."""
    rng = np.random.default_rng(0)
    for label, n in (("common", 24), ("rare", 3)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / "data" / label / f"{i}.png")
    small = [a if a != "demo-tiny" else tmp_path / "data" for a in SMALL]
    arguments = [*small, "--tune", "2", "--output-dir", tmp_path / "runs", "--strategy", "ft"]
    code, _, err = command(arguments, capsys, monkeypatch)
    assert code == 2 and "class rare is absent from" in err and "tuning" in err
    assert not list((tmp_path / "runs").rglob("config.json"))
