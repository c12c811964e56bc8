"""benchmarks/rates.py: what is run in what order, the rule that moves a default, and that a killed run goes on."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

import datasets
import models
import train
from strategies import STRATEGIES, Hyperparameters

sys.path.insert(0, str(ROOT / "benchmarks"))
import rates
from rates import Job, Setting

GRID = [1.0, 3.0, 10.0, 30.0, 100.0]
HERE = Setting("demo", "resnet18", 4)


@pytest.mark.parametrize(
    ("values", "side"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.2], 1),
        ([0.1, 0.4, 0.3, 0.2, 0.1], -1),
        ([0.1, 0.2, 0.3, 0.2, 0.1], 0),
        ([0.3, 0.3, 0.3, 0.3, 0.3], 0),  # of equals the default
        ([0.1, 0.3, 0.2, 0.3, 0.1], 0),  # one on each side, alike
        ([0.1, 0.2, 0.3, 0.3, 0.9], 0),  # the best lies above, but the first step gains nothing
        ([0.1, 0.2, 0.3, 0.2, 0.9], 0),
        ([0.1, 0.2, 0.3, 0.4, 0.9], 1),
        ([None, 0.2, 0.3, 0.4, None], 1),  # the ends need not be tried
        ([0.1, 0.2, 0.3, None, None], None),
        ([0.1, None, 0.3, 0.4, None], None),
        ([0.1, 0.2, None, 0.4, 0.1], None),
        ([0.1, 0.2, 0.3, -math.inf, -math.inf], 0),  # diverged
        ([0.1, 0.4, -math.inf, -math.inf, -math.inf], -1),
        ([-math.inf] * 5, 0),
    ],
)
def test_a_setting_votes_for_a_side(values, side):
    tried = {place: value for place, value in zip(GRID, values, strict=True) if value is not None}
    assert rates.vote(tried, 10.0, GRID) == side


def test_a_default_without_a_lower_neighbour_can_be_voted_on():
    assert rates.vote({1.0: 0.5, 3.0: 0.6}, 1.0, GRID) == 1


@pytest.mark.parametrize(
    ("votes", "begins"),
    [
        ([1, 1, 1], "moves a step up"),
        ([-1, -1], "moves a step down"),
        ([0, 0], "stays: all settings agree"),
        ([1, 1, 0], "stays: the settings do not agree (0 down, 1 stays, 2 up)"),
        ([1, -1], "stays: the settings do not agree (1 down, 0 stays, 1 up)"),
        ([1, 1, None], "not decided"),
        ([], "not decided"),
    ],
)
def test_a_default_moves_only_where_all_agree(votes, begins):
    assert rates.decision(votes).startswith(begins)


def test_the_grid_is_tried_at_the_default_alpha_and_the_alphas_at_the_default_rate():
    lp = STRATEGIES["lp"]
    assert [lr for lr, _, _ in rates.points("lp", "adamw")] == sorted(lp.adamw)
    steps = {lr: n for lr, alpha, n in rates.points("lp", "adamw") if alpha is None}
    assert steps[lp.default_lr("adamw")] == 0 and sorted(steps.values()) == [0, 1, 1, 2, 2]
    l1 = STRATEGIES["l1sp"]
    cross, whole = rates.points("l1sp", "adamw"), rates.points("l1sp", "adamw", every_alpha=True)
    assert len(cross) == len(l1.adamw) + len(l1.alphas) - 1 and len(whole) == len(l1.adamw) * len(l1.alphas)
    assert all(lr == l1.default_lr("adamw") or alpha == l1.alpha for lr, alpha, _ in cross)
    assert (l1.default_lr("adamw"), l1.alpha, 0) in cross


def test_neighbours_of_the_defaults_come_first_seed_by_seed():
    _, settings = rates.read_command("--out x --weights none --seed 0 1 --strategy ft l2sp --device cpu".split())
    jobs = rates.jobs_of(settings, ["a", "b"], [1, 2], every_alpha=False)
    assert len(jobs) == 2 * 2 * 2 * (5 + 8)
    first = jobs[: 2 * 2 * 2 * 3]  # data, epochs, strategies, rates
    assert {job.seed for job in first} == {0} and {job.steps for job in first} == {0, 1}
    assert all(job.alpha == STRATEGIES[job.strategy].alpha for job in first)
    assert {job.seed for job in jobs[24:48]} == {1} and {job.steps for job in jobs[24:48]} == {0, 1}


def test_means_are_over_all_seeds_or_not_there():
    def job(lr, seed):
        return Job(HERE, "ft", lr, None, seed, 0)

    found = {job(1.0, 0): {"value": 0.5}, job(1.0, 1): {"value": 0.7}, job(3.0, 0): {"value": 0.9}, job(3.0, 1): None}
    found |= {job(10.0, 0): {"value": 0.9}, job(10.0, 1): {"value": None}}
    assert rates.means(found) == {1.0: pytest.approx(0.6), 10.0: -math.inf}


def test_a_table_shows_default_best_and_vote():
    lines = rates.table("FT", [1e-4, 3e-4, 1e-3], {HERE: {1e-4: 0.25, 3e-4: 0.5, 1e-3: 0.75}}, 3e-4)
    assert "| | 0.0001 | (0.0003) | 0.001 | |" in lines
    assert "| demo, resnet18, 4 epochs | 0.250 | 0.500 | **0.750** | up |" in lines


def test_strategies_that_share_a_grid_move_together():
    """FT and LP gain from a step up; L2-SP, which has FT's grid, does not, and so FT does not move."""
    found = {}
    for strategy in ("ft", "lp", "l2sp"):
        for lr, alpha, steps in rates.points(strategy, "adamw"):
            up = lr > STRATEGIES[strategy].default_lr("adamw")
            value = 0.5 if strategy == "l2sp" or not up else 0.9
            found[Job(HERE, strategy, lr, alpha, 0, steps)] = {"value": value}
    last = rates.report(found, "adamw")[-3:]
    assert last[0] == "* FT, L2-SP: stays: the settings do not agree (0 down, 1 stays, 1 up)"
    assert last[1:] == ["* LP: moves a step up", "* L2-SP, alpha: stays: all settings agree"]


# ---- the data ----


def test_drawn_anew_for_two_classes_seven_and_labels():
    two, demo = rates.demo_of("demo-two"), datasets.demo("demo", seed=1)
    names = [demo.classes[label] in ("lobed", "spiculated") for label in demo.labels]
    assert two.classes == ["round", "lobed"] and two.labels.tolist() == [int(n) for n in names]
    seven = rates.demo_of("demo-seven")
    assert len(seven.classes) == 7 and set(seven.labels) == set(range(7))
    labels, shapes = rates.demo_of("demo-labels"), datasets.demo("demo-shapes", seed=2)
    assert labels.task == "multilabel" and (labels.metric, labels.second) == ("auroc", "average_precision")
    for row, label in zip(labels.labels, shapes.labels, strict=True):  # names are 0-lobed-solid to 8-lobed-hollow
        lobes, _, form = shapes.classes[label].split("-")
        assert row.tolist() == [form == "hollow", lobes != "0", lobes in "58"]


def test_a_cap_takes_whole_groups_and_the_test_set_stays_out():
    index = datasets.demo("demo")
    some = rates.capped(index, 100)
    assert 90 < len(some) <= 100
    assert not set(some.groups) & (set(index.groups) - set(some.groups))
    assert all(some.groups.count(g) == index.groups.count(g) for g in set(some.groups))
    assert some.paths == rates.capped(index, 100).paths and rates.capped(index, 10**6).paths == index.paths
    index.official = ["test" if i % 3 == 0 else "train" for i in range(len(index))]
    kept = rates.without_test(index)
    assert kept.paths == [path for i, path in enumerate(index.paths) if i % 3] and set(kept.official) == {""}


def test_no_group_trains_and_validates(tmp_path):
    data = rates.prepared("demo", 120, 32, tmp_path)
    train_groups, val_groups = ({data.index.groups[i] for i in data.rows[side]} for side in ("train", "val"))
    assert not train_groups & val_groups and set(data.rows) == {"train", "val"}
    assert abs(len(data.rows["train"]) - len(data.rows["val"])) <= 8


# ---- the runs ----


COMMAND = "--weights none --arch shufflenet_v2_x0_5 --epochs 1 --images 200 --device cpu -b 16 --strategy lp".split()


def test_a_run_s_value_is_the_best_epoch_s(tmp_path):
    """At rate 0, BatchNorm in eval, every epoch is the model as it was made, scored here by hand."""
    _, settings = rates.read_command(["--out", str(tmp_path), *COMMAND, "--bn", "eval"])
    data, weights = rates.prepared("demo", 200, 32, tmp_path), models.Weights("none")
    job = Job(Setting("demo", "shufflenet_v2_x0_5", 2), "ft", 0.0, None, 3, 0)
    found = rates.train_one(job, data, weights, settings)
    model = models.build_model("shufflenet_v2_x0_5", weights, 4, 3)[0].eval()
    rows = data.rows["val"]
    with torch.no_grad():
        called = model(data.images(rows, torch.device("cpu"))).argmax(dim=1).numpy()
    truth = data.index.labels[rows]
    recalls = [(called[truth == c] == c).mean() for c in np.unique(truth)]
    assert found["value"] == pytest.approx(np.mean(recalls), abs=1e-6)
    assert found["curve"] == [round(found["value"], 4)] * 2 and found["stages"] == ["all"] * 2


def test_a_run_that_diverges_is_kept_as_that(tmp_path, monkeypatch):
    def diverges(*args, **kwargs):
        raise train.Diverged("the training loss is nan")

    monkeypatch.setattr(train, "run", diverges)
    _, settings = rates.read_command(["--out", str(tmp_path), *COMMAND])
    job = Job(Setting("demo", "shufflenet_v2_x0_5", 1), "lp", 0.1, None, 0, 0)
    data = rates.prepared("demo", 200, 32, tmp_path)
    found = rates.train_one(job, data, models.Weights("none"), settings)
    assert found["value"] is None and "nan" in found["failed"]


def test_a_killed_run_goes_on(tmp_path, monkeypatch, capsys):
    arguments = ["--out", str(tmp_path), "--data", "demo", *COMMAND]
    trained, kills = [], [True]

    def train_one(job, data, weights, settings):
        trained.append(job)
        if len(trained) == 3 and kills:
            kills.clear()
            raise KeyError("killed")
        return {"value": job.lr, "failed": None, "curve": [job.lr], "stages": ["head"], "seconds": 0.0}

    monkeypatch.setattr(rates, "train_one", train_one)
    with pytest.raises(KeyError, match="killed"):
        rates.main(arguments)
    file = tmp_path / "runs.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # the second line torn
    rates.main(arguments)
    lrs = [job.lr for job in trained]
    assert len(lrs) == 3 + 4 and lrs[3] == lrs[1] and lrs[4] == lrs[2]  # the torn one again, then the third
    trained.clear()
    rates.main(arguments)
    assert not trained and "5 of 5 runs" in capsys.readouterr().out
    rates.main([*arguments, "--warmup", "0.5"])  # other settings are other runs
    assert len(trained) == 5


def test_no_run_is_begun_after_its_minutes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rates, "train_one", None)
    rates.main(["--out", str(tmp_path), "--data", "demo", *COMMAND, "--minutes", "0"])
    assert "0 of 5 runs" in capsys.readouterr().out


def test_a_key_holds_what_decides_the_numbers(tmp_path):
    def key(*more, **of_job):
        _, settings = rates.read_command(["--out", str(tmp_path), *COMMAND, *more])
        about = {"setting": HERE, "strategy": "lpft", "lr": 1e-4, "alpha": None, "seed": 0, "steps": 0} | of_job
        return rates.key_of(Job(**about), data, models.Weights("none"), settings)

    data = rates.prepared("demo", 200, 32, tmp_path)
    ours = key()
    assert key(steps=1) == ours and key("--seed", "5") == ours
    others = [key("--bn", "eval"), key("--warmup", "0.3"), key("--opt", "sgd"), key(lr=2e-4), key(seed=1)]
    others += [key(setting=Setting("demo", "resnet18", 5)), key(strategy="ft")]
    assert len({ours, *others}) == 8
    data.rows = {"train": data.rows["val"], "val": data.rows["train"]}
    assert key() not in {ours, *others}


def test_flags_that_would_be_left_unused_are_refused(tmp_path):
    with pytest.raises(rates.flags.UsageError, match="--folds"):
        rates.read_command(["--out", str(tmp_path), "--folds", "5"])


def test_hyperparameters_are_the_project_s_defaults():
    _, settings = rates.read_command("--out x --weights none --device cpu".split())
    assert settings.hyper == Hyperparameters() and json.dumps(settings.recipe.epochs)
