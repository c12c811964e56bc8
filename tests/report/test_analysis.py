"""report/analysis.py, from run folders that are written here, so that every number is known."""

import math
import shutil

import numpy as np
import pytest
from factory import all_right, always, experiment_of, imbalanced, outputs, right_scores, toy, write_folds, write_run

import metrics
from report import analysis, evidence, stats, wording
from report.analysis import analyse
from runs import read_runs, read_scored


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_row_holds_mean_standard_deviation_and_the_group_bootstrap_of_its_runs(tmp_path, rng):
    labels, groups = toy(rng, 60), [f"p{k // 3}" for k in range(60)]
    accuracy = []
    for seed in range(3):
        right = rng.random(60) < 0.7
        accuracy.append(right.mean())
        write_run(tmp_path, "FT", right_scores(labels, right), labels, seed=seed, groups=groups)
    experiment = experiment_of(tmp_path)
    row = experiment.rows[0]
    assert row.test.mean == pytest.approx(np.mean(accuracy), abs=1e-12) and row.test.n == 3
    assert row.test.sd == pytest.approx(np.std(accuracy, ddof=1), abs=1e-12)
    assert (experiment.test_images, experiment.test_groups, experiment.seeds) == (60, 20, [0, 1, 2])
    # the same interval by a plain loop over resamples: patients drawn, the three runs averaged
    weights = stats.resample_groups(20, evidence.RESAMPLES, seed=0)
    order = sorted({g for g in groups})
    runs, _ = read_runs(tmp_path)
    scored = [read_scored(run) for run in runs]
    looped = []
    for w in weights[:400]:
        rows = np.concatenate(
            [np.repeat([k for k in range(60) if groups[k] == g], n) for g, n in zip(order, w, strict=True)]
        ).astype(int)
        looped.append(np.mean([(s.scores.argmax(1) == s.labels)[rows].mean() for s in scored]))
    resampled, again = evidence.bootstrap(
        runs, {(r.strategy, r.repeat): s for r, s in zip(runs, scored, strict=True)}, "accuracy", "auroc"
    )
    assert again == 0
    assert {resampled["FT", r.repeat, "accuracy"].drawn for r in runs} == {(0, 20)}
    ours = evidence.mean_over_runs([resampled["FT", r.repeat, "accuracy"].values for r in runs])
    assert ours[:400] == pytest.approx(looped, abs=1e-12)
    mean = np.mean(accuracy)
    reach = 2.093024054408263 * ours.std() * math.sqrt(20 / 19) / (mean * (1 - mean))  # t of 19 degrees of freedom
    ends = [1 / (1 + (1 - mean) / mean * math.exp(way * reach)) for way in (1, -1)]
    assert (row.test.low, row.test.high) == pytest.approx(tuple(ends), abs=1e-9)


def test_identical_images_are_resampled_as_one_and_n_counts_those_that_differ(tmp_path, rng):
    """A test set of which every image is there twice has the intervals, the verdict and the n of the set
    without the copies."""
    labels, images = toy(rng, 60), [f"i{k:02d}.png" for k in range(60)]
    for strategy, share in (("FT", 0.6), ("LP", 0.8)):
        scores = right_scores(labels, rng.random(60) < share)
        write_run(tmp_path / "once", strategy, scores, labels, images=images, kind="image")
        twice = {"images": [*images, *(f"copy of {image}" for image in images)], "kind": "image"}
        two_labels = np.concatenate([labels, labels])
        for folder, clusters in (("twice", images + images), ("old", None)):
            write_run(
                tmp_path / folder, strategy, np.concatenate([scores, scores]), two_labels, clusters=clusters, **twice
            )
    once, twice, old = (experiment_of(tmp_path / name) for name in ("once", "twice", "old"))
    assert (twice.test_images, twice.test_groups) == (120, 60)
    for row, single in zip(twice.rows, once.rows, strict=True):
        assert (row.test.low, row.test.high) == pytest.approx((single.test.low, single.test.high), abs=1e-12)
    pair, single = twice.pair("LP", "FT"), once.pair("LP", "FT")
    found, expected = ([p.difference, p.low, p.high] for p in (pair, single))
    assert found == pytest.approx(expected, abs=1e-12)
    assert pair.verdict == single.verdict
    assert "n = 60 different images" in twice.verdict and "n = 60 images" in once.verdict
    said = "120 test images, 60 of them different"
    assert any(note.startswith(f"{said}: byte-identical images count as one") for note in twice.notes)
    texts, _ = outputs(tmp_path / "twice")
    assert said in texts["html"] and "over 60 different images" in texts["terminal"]
    assert any("some images are byte-identical" in note for note in twice.pair_notes)
    assert not any("different" in note for note in once.notes)
    assert "DeLong: AUROC" in " ".join(once.pair_notes)
    assert old.test_groups == 120 and "different" not in old.verdict  # as runs of older versions are read
    narrow = old.rows[0].test
    assert narrow.high - narrow.low < 0.85 * (twice.rows[0].test.high - twice.rows[0].test.low)


def test_patients_who_share_an_identical_image_count_as_one(tmp_path, rng):
    """Three of thirty: all numbers are those of a test set in which the three go by one name."""
    labels, groups = toy(rng, 90), [f"p{k // 3:02d}" for k in range(90)]
    clusters = ["p00" if group in ("p07", "p21") else group for group in groups]
    for strategy in ("FT", "LP"):
        scores = right_scores(labels, rng.random(90) < 0.7)
        write_run(tmp_path / "shared", strategy, scores, labels, groups=groups, clusters=clusters)
        write_run(tmp_path / "one", strategy, scores, labels, groups=clusters)
        write_run(tmp_path / "old", strategy, scores, labels, groups=groups)
    shared, one, old = (experiment_of(tmp_path / name) for name in ("shared", "one", "old"))
    assert (shared.test_images, shared.test_groups, old.test_groups) == (90, 28, 30)
    assert wording.tested_images(shared) == "90 test images of 30 patients, 28 of them different"
    assert wording.tested_images(old) == "90 test images of 30 patients"
    assert "n = 28 different patients" in shared.verdict and "n = 28 patients" in one.verdict
    for row, expected, apart in zip(shared.rows, one.rows, old.rows, strict=True):
        assert row.test == expected.test and row.test.low != apart.test.low
    assert shared.pairs == one.pairs


def test_a_lower_value_wins_where_that_is_better(tmp_path, rng):
    labels = toy(rng)
    write_run(tmp_path, "FT", right_scores(labels, rng.random(200) < 0.95, 0.9), labels, metric="brier")
    write_run(tmp_path, "LP", right_scores(labels, rng.random(200) < 0.6, 0.9), labels, metric="brier")
    experiment = experiment_of(tmp_path)
    assert experiment.verdict.startswith("FT has the lowest Brier score") and experiment.pairs[0].verdict == "better"
    assert [row.best for row in experiment.rows] == [True, False]


def test_unfinished_failed_and_missing_runs_are_shown_and_the_short_strategy_is_not_ranked(tmp_path, rng):
    labels = toy(rng, 100)
    for fold in range(2):
        images = [f"f{fold}-{k}" for k in range(100)]
        write_run(tmp_path, "FT", right_scores(labels, rng.random(100) < 0.6), labels, fold=fold, images=images)
    write_run(tmp_path, "LP", all_right(labels), labels, images=[f"f0-{k}" for k in range(100)])
    write_run(tmp_path, "LP", None, labels, fold=1, status="failed", images=[f"f1-{k}" for k in range(100)])
    write_run(tmp_path, "L2-SP", None, labels, status="unfinished", images=[f"f0-{k}" for k in range(100)])
    experiment = experiment_of(tmp_path)
    assert {(c.strategy, c.fold, c.status, c.reason) for c in experiment.lost_cells} == {
        ("LP", 1, "failed", "the loss grew in epoch 2"),
        ("L2-SP", 0, "unfinished", "2 of 2 epochs"),
        ("L2-SP", 1, "not run", ""),
    }
    rows = {row.strategy: row for row in experiment.rows}
    assert (rows["LP"].done, rows["LP"].failed, rows["L2-SP"].missing) == (1, 1, 1)
    assert rows["FT"].best and not rows["LP"].best  # LP has 1.0, from one fold of two
    assert "Not ranked, because it has fewer runs: LP." in experiment.verdict
    assert "4 of 6 runs" not in experiment.notes[0] and "3 of 6 runs have no result" in experiment.notes[0]
    assert experiment.pair("LP", "FT").runs == 1
    assert math.isnan(rows["L2-SP"].test.mean)


def test_a_damaged_run_is_left_out_by_name_and_the_others_are_reported(tmp_path, rng):
    labels = toy(rng, 30)
    write_run(tmp_path, "FT", all_right(labels), labels)
    (write_run(tmp_path, "LP", all_right(labels), labels) / "metrics.json").write_text('{"cel')
    (write_run(tmp_path, "L2-SP", all_right(labels), labels) / "predictions.csv").write_text("image\n")
    found = analyse(tmp_path)
    assert [row.strategy for row in found.experiments[0].rows if row.done] == ["FT"]
    assert sum("lp/seed0-fold0" in w for w in found.warnings) == 1
    assert sum("l2sp/seed0-fold0" in w and "predictions.csv is damaged" in w for w in found.warnings) == 1


def test_a_study_is_scored_once_and_patients_are_resampled(tmp_path, rng):
    labels = np.repeat(toy(rng, 20), 3)
    studies, patients = [f"s{k // 3}" for k in range(60)], [f"p{k // 6}" for k in range(60)]
    scores = rng.dirichlet([1, 1], 60)
    write_run(tmp_path, "FT", scores, labels, unit="study", units=studies, groups=patients)
    run = read_runs(tmp_path)[0][0]
    scored = read_scored(run)
    assert scored.scores == pytest.approx(scores.reshape(20, 3, 2).mean(1), abs=1e-12)
    assert scored.groups.tolist() == [f"p{k // 2}" for k in range(20)] and len(scored.images) == 60
    experiment = experiment_of(tmp_path)
    assert (experiment.test_units, experiment.test_groups, experiment.unit_kind) == (20, 10, "study")
    right = scores.reshape(20, 3, 2).mean(1).argmax(1) == labels[::3]
    assert experiment.rows[0].test.mean == pytest.approx(right.mean(), abs=1e-12)


def test_several_labels_with_unknown_ones_are_reported(tmp_path, rng):
    labels = rng.integers(0, 2, (60, 3)).astype(float)
    labels[rng.random((60, 3)) < 0.2] = np.nan
    scores = rng.random((60, 3))
    for strategy in ("FT", "LP"):
        write_run(
            tmp_path, strategy, scores, labels, classes=["a", "b", "c"], task="multilabel", metric="average_precision"
        )
    experiment = experiment_of(tmp_path)
    expected = metrics.evaluate("multilabel", scores, labels, ["a", "b", "c"])["values"]["average_precision"]
    assert experiment.rows[0].test.mean == pytest.approx(expected, abs=1e-12)
    assert experiment.confusion == {} and len(experiment.roc["FT"]) == 3 and len(experiment.thresholds) == 6


@pytest.mark.parametrize(("metric", "value"), [("accuracy", 0.78), ("balanced_accuracy", 0.5), ("kappa", 0.0)])
def test_a_model_that_calls_one_class_is_never_the_best(tmp_path, metric, value):
    """LP calls every image malignant, which 78 % are; FT is right in 75 of 100, 56 of 78 and 19 of 22."""
    labels = imbalanced()
    right = np.concatenate([np.arange(78) < 56, np.arange(22) < 19])
    write_run(tmp_path, "FT", right_scores(labels, right), labels, metric=metric)
    write_run(tmp_path, "LP", always(labels, 1), labels, metric=metric)
    texts, experiment = outputs(tmp_path)
    rows = {row.strategy: row for row in experiment.rows}
    assert rows["LP"].test.mean == pytest.approx(value, abs=1e-12)
    assert (rows["FT"].best, rows["LP"].best, rows["LP"].beside_best) == (True, False, False)
    assert (
        experiment.verdict.startswith("FT has the highest")
        and "LP left aside, whose runs call every test image alike" in experiment.verdict
    )
    assert "LP: 1 of 1 run calls every test image malignant. It is no candidate for the best." in experiment.notes
    assert wording.standing(experiment, rows["LP"]) == "one class"
    assert r"$^{\dagger}$" in next(line for line in texts["results"].splitlines() if line.startswith("LP &"))
    assert "| one class |" in texts["md"] and texts["html"].count("★ best</span>") == 1


def test_one_collapsed_run_of_three_is_said_and_counts(tmp_path):
    labels = imbalanced()
    for seed in range(3):
        right = np.arange(100) % 10 > 0
        write_run(tmp_path, "FT", always(labels, 1) if seed == 1 else right_scores(labels, right), labels, seed=seed)
    experiment = experiment_of(tmp_path)
    assert experiment.rows[0].test.mean == pytest.approx((0.9 + 0.78 + 0.9) / 3) and experiment.rows[0].best
    assert "FT: 1 of 3 runs calls every test image malignant." in experiment.notes


def test_a_metric_of_the_scores_alone_ranks_what_calls_one_class_unless_the_scores_are_one(tmp_path):
    """AUROC 1 with every score above a half: good. One score for all: 0.5, and no ranking at all."""
    labels = imbalanced()
    p = np.where(labels == 1, 0.9, 0.6)
    write_run(tmp_path, "FT", np.stack([1 - p, p], 1), labels, metric="auroc")
    write_run(tmp_path, "LP", np.tile([0.3, 0.7], (100, 1)), labels, metric="auroc")
    experiment = experiment_of(tmp_path)
    rows = {row.strategy: row for row in experiment.rows}
    assert (rows["FT"].test.mean, rows["LP"].test.mean) == (1.0, 0.5)
    assert rows["FT"].best and not rows["FT"].collapsed and rows["LP"].collapsed
    assert "FT: 1 of 1 run calls every test image malignant." in experiment.notes


def test_tuned_rates_trials_and_edges_reach_the_row(tmp_path, rng):
    labels = toy(rng, 30)
    trial = {"lr": 1e-3, "alpha": None, "edge": ["lr"], "value": 0.9, "optimizer_steps": 8, "minutes": 0.5}
    tuning = {"trials": [trial, trial], "optimizer_steps": 16, "minutes": 1.0, "lr": 1e-3, "edge": ["lr"], "value": 0.9}
    for seed in range(2):  # the seeds of a fold share its trials
        write_run(tmp_path, "FT", all_right(labels), labels, seed=seed, tuning=tuning)
    experiment = experiment_of(tmp_path)
    row = experiment.rows[0]
    assert (row.trials, row.tuning_steps, row.lr, row.minutes_total) == (2, 16, [1e-3], 4.0)
    assert row.edge == ["lr in fold 0"] and any(
        "at an end of what tuning tried" in text for text in wording.problems(experiment)
    )


@pytest.mark.parametrize(
    "lr, alpha, ends", [(1e-3, None, ["lr"]), (3e-4, None, []), (1e-4, 0.1, ["lr", "alpha"]), (3e-4, 0.01, ["alpha"])]
)
def test_the_end_of_what_was_tried_is_found_from_the_trials_whatever_an_older_run_noted(lr, alpha, ends, tmp_path, rng):
    labels = toy(rng, 30)
    rates, alphas = (3e-4, 1e-3, 1e-4), (0.05, 0.1, 0.01)
    trials = [{"lr": r, "alpha": None if alpha is None else a, "edge": []} for r, a in zip(rates, alphas, strict=True)]
    chosen = {"lr": lr} | ({} if alpha is None else {"alpha": alpha})
    tuning = {"trials": trials, "optimizer_steps": 6, "minutes": 1.0, "edge": [], "value": 0.9} | chosen
    write_run(tmp_path, "FT", all_right(labels), labels, tuning=tuning, changed={"tune": 3})
    row = experiment_of(tmp_path).rows[0]
    assert row.edge == [f"{name} in fold 0" for name in ends]


def test_a_copied_run_folder_does_not_count_twice(tmp_path):
    write_folds(tmp_path, {"FT": {(0, 0): 0.8}, "LP": {(0, 0): 0.7}})
    shutil.copytree(tmp_path / "toy", tmp_path / "toy-backup")
    shutil.copytree(
        tmp_path / "toy" / "net" / "lp" / "seed0-fold0", tmp_path / "toy" / "net" / "lp" / "seed0-fold0.old"
    )
    found = analyse(tmp_path)
    assert [(row.done, row.missing) for row in found.experiments[0].rows] == [(1, 0), (1, 0)]
    assert len(found.experiments) == 1 and sum("a second time" in w for w in found.warnings) == 3
    assert not any("toy-backup" in str(run.folder) or run.folder.suffix for run in read_runs(tmp_path)[0])


def test_a_renamed_folder_of_runs_is_reported_and_trials_are_no_runs(tmp_path):
    write_folds(tmp_path, {"FT": {(0, 0): 0.8}, "LP": {(0, 0): 0.7}})
    (tmp_path / "toy").rename(tmp_path / "older")
    trial = tmp_path / "older" / "net" / "ft" / "tune" / "seed0-fold0-trial0"
    shutil.copytree(tmp_path / "older" / "net" / "ft" / "seed0-fold0", trial)
    found = analyse(tmp_path)
    assert [row.done for row in found.experiments[0].rows] == [1, 1] and found.warnings == []
    with pytest.raises(analysis.ReportError, match="give the folder above"):
        analyse(tmp_path / "older")


def test_strategies_are_ranked_on_the_same_folds_only(tmp_path):
    """LP has the easy fold 2, where FT was not run; on the fold that both have FT is better."""
    write_folds(tmp_path, {"FT": {(0, 0): 0.7, (0, 1): 0.8}, "LP": {(0, 1): 0.6, (0, 2): 0.99}})
    experiment = experiment_of(tmp_path)
    rows = {row.strategy: row for row in experiment.rows}
    assert rows["FT"].best and not rows["LP"].ranked and rows["LP"].test.mean > rows["FT"].test.mean
    assert experiment.pair("FT", "LP").difference == pytest.approx(0.2)
    assert "n = 200 patients" in experiment.verdict and "separably worse" not in experiment.verdict
    assert "Not ranked, because it has other runs: LP." in experiment.verdict
    assert {(c.strategy, c.fold) for c in experiment.lost_cells} == {("FT", 2), ("LP", 0)}


def test_settings_that_should_be_alike_are_compared_also_within_a_strategy(tmp_path, rng):
    labels = toy(rng, 60)
    scores = right_scores(labels, rng.random(60) < 0.7)
    write_run(tmp_path, "FT", scores, labels, changed={"hyperparameters": {"bn": "train"}})
    write_run(tmp_path, "LP", scores, labels, changed={"hyperparameters": {"bn": "eval"}})
    write_run(tmp_path, "LP", scores, labels, seed=1, changed={"hyperparameters": {"bn": "eval"}, "lr": 1e-3})
    found = analyse(tmp_path)
    (experiment,) = found.experiments
    differ = " ".join(experiment.differ)
    assert 'bn: "eval", "train"' in differ and "lr of LP: 0.0001, 0.001" in differ
    assert experiment.verdict.startswith("No verdict") and experiment.best is None


def test_a_run_from_before_a_hyperparameter_is_not_alike_one_that_has_it(tmp_path, rng):
    labels = toy(rng, 60)
    scores = right_scores(labels, rng.random(60) < 0.7)
    write_run(tmp_path, "FT", scores, labels, changed={"hyperparameters": {"bn": "train"}})
    write_run(tmp_path, "LP-FT", scores, labels, changed={"hyperparameters": {"bn": "train"}})
    write_run(
        tmp_path, "LP-FT", scores, labels, seed=1, changed={"hyperparameters": {"bn": "train", "lpft_mode": "eval"}}
    )
    (experiment,) = analyse(tmp_path).experiments
    assert experiment.differ == ['lpft_mode of LP-FT: "eval", null']


def test_a_score_that_is_not_finite_leaves_out_that_run_alone(tmp_path, rng):
    labels = toy(rng, 40)
    scores = right_scores(labels, rng.random(40) < 0.7)
    write_run(tmp_path, "FT", scores, labels)
    file = write_run(tmp_path, "LP", scores, labels) / "predictions.csv"
    lines = file.read_text().splitlines()
    damaged = [line.replace("0.8", "nan") if line.endswith("test") else line for line in lines]
    file.write_text("\n".join(damaged))
    found = analyse(tmp_path)
    assert any("a score is not finite" in w for w in found.warnings)
    assert {row.strategy: row.done for row in found.experiments[0].rows} == {"FT": 1, "LP": 0}


def test_a_setting_that_is_a_list_is_no_damage(tmp_path, rng):
    labels = toy(rng, 30)
    changed = {"hyperparameters": {"bn": "train", "stage_shares": [0.7, 0.3]}}
    write_run(tmp_path, "LP-FT", all_right(labels), labels, changed=changed)
    write_run(tmp_path, "FT", all_right(labels), labels, changed={"lr": "x"})
    found = analyse(tmp_path)
    assert {row.strategy: row.done for row in found.experiments[0].rows} == {"LP-FT": 1}
    assert len(found.warnings) == 1 and "lr is 'x'" in found.warnings[0]


def test_strategies_stand_in_the_order_that_the_runs_name(tmp_path):
    """Whatever the folders are called; the row has what config.json says of its strategy."""
    labels = np.tile([0, 1], 20)
    for strategy in ("Auto-RGN", "LP", "FT"):
        write_run(tmp_path, strategy, all_right(labels), labels)
    found = analyse(tmp_path)
    assert found.strategies == [row.strategy for row in found.experiments[0].rows] == ["FT", "LP", "Auto-RGN"]
    assert [(pair.a, pair.b) for pair in found.experiments[0].pairs] == [
        ("FT", "LP"),
        ("FT", "Auto-RGN"),
        ("LP", "Auto-RGN"),
    ]
    assert found.experiments[0].rows[1].sentence == "LP as its source has it"


@pytest.mark.parametrize(
    ("asked", "order"), [(["lp", "ft"], ["LP", "FT"]), (["ft", "lp"], ["FT", "LP"]), (None, ["FT", "LP"])]
)
def test_runs_of_earlier_versions_stand_in_the_order_of_their_command(tmp_path, asked, order):
    labels = np.tile([0, 1], 20)
    for strategy in ("LP", "FT"):
        arguments = {"strategy": asked} if asked else {}
        write_run(tmp_path, strategy, all_right(labels), labels, about=False, arguments=arguments)
    found = analyse(tmp_path)
    assert found.strategies == order
    row = found.experiments[0].rows[0]
    assert (row.sentence, row.citation, row.staged) == ("", "", False)
