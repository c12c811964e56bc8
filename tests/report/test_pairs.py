"""report/pairs.py: paired differences, tests and verdicts, from run folders whose every number is known."""

import math

import numpy as np
import pytest
from factory import all_right, experiment_of, outputs, right_scores, toy, write_folds, write_patients, write_run

from report import stats
from report.analysis import analyse


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_six_patients_need_more_than_that_all_differ_one_way(tmp_path):
    """Differences of 1, 2, 3, 2, 1, 3 tenths: t = 0.2 / (0.0894 / sqrt 6) = 5.477, p = 0.00277 with 5 degrees
    of freedom (R: 2 * pt(-5.477226, 5)); percentiles of the bootstrap gave 2 / 2001."""
    write_patients(tmp_path, "FT", [5, 5, 5, 5, 5, 5])
    write_patients(tmp_path, "LP", [6, 7, 8, 7, 6, 8])
    pair = experiment_of(tmp_path).pairs[0]
    each = np.array([1, 2, 3, 2, 1, 3]) / 10
    error = each.std(ddof=1) / math.sqrt(6)
    assert pair.standard_error == pytest.approx(error, rel=0.05) and pair.df == 5
    assert pair.p_bootstrap == pytest.approx(0.00277, rel=0.2)
    assert (pair.low, pair.high) == pytest.approx((-0.2 - 2.570582 * error, -0.2 + 2.570582 * error), abs=0.01)


@pytest.mark.parametrize("gain", [0, 2])
def test_patients_who_all_say_the_same_prove_nothing_and_that_is_said(tmp_path, gain):
    write_patients(tmp_path, "FT", [6] * 8, patients=8)
    write_patients(tmp_path, "LP", [6 + gain] * 8, patients=8)
    experiment = experiment_of(tmp_path)
    pair = experiment.pairs[0]
    assert pair.difference == pytest.approx(-gain / 10) and pair.p_bootstrap == 1
    assert math.isnan(pair.low) and math.isnan(pair.high) and pair.verdict == "not separable"
    said = "No interval, and p is 1: the difference is the same in every resample (FT − LP)."
    assert said in experiment.pair_notes


def test_two_folds_of_four_patients_have_six_degrees_of_freedom(tmp_path):
    for fold in range(2):
        write_patients(tmp_path, "FT", [5, 6, 7, 8], patients=4, fold=fold)
        write_patients(tmp_path, "LP", [4, 8, 5, 7], patients=4, fold=fold)
    pair = experiment_of(tmp_path).pairs[0]
    each = np.array([1, -2, 2, 1]) / 10
    assert pair.standard_error == pytest.approx(each.std(ddof=1) / math.sqrt(4) / math.sqrt(2), rel=0.05)
    assert pair.df == pytest.approx(6, abs=0.1) and pair.verdict == "not separable"


def test_a_fold_of_one_patient_has_no_interval_and_that_is_said(tmp_path):
    for fold, patients in enumerate((6, 1)):
        write_patients(tmp_path, "FT", [5, 6, 7, 8, 5, 6], patients=patients, fold=fold)
        write_patients(tmp_path, "LP", [4, 8, 5, 7, 7, 9], patients=patients, fold=fold)
    experiment = experiment_of(tmp_path)
    pair = experiment.pairs[0]
    assert math.isnan(pair.low) and math.isnan(pair.p_bootstrap) and pair.verdict == "undefined"
    assert math.isnan(experiment.rows[0].test.low)
    assert any("a test set of a single patient shows no spread" in note for note in experiment.pair_notes)


def test_an_interval_without_0_beside_no_verdict_has_its_reason(tmp_path):
    """Three pairs; LP against FT has a p near 0.03 alone, and 0.09 times three."""
    write_patients(tmp_path, "FT", [5] * 6)
    write_patients(tmp_path, "LP", [6, 6, 5, 7, 6, 5])
    write_patients(tmp_path, "LP-FT", [8, 3, 6, 4, 5, 5])
    experiment = experiment_of(tmp_path)
    pair = experiment.pair("LP", "FT")
    assert pair.p_bootstrap < 0.05 < pair.p_holm and pair.low > 0
    assert pair.verdict == "not separable"
    said = "The interval excludes 0 and the verdict is not separable (FT − LP)"
    assert any(note.startswith(said) for note in experiment.pair_notes)


def test_a_pair_is_paired_and_counts_what_only_one_has_right(tmp_path, rng):
    labels = toy(rng)
    a, b = rng.random(200) < 0.9, rng.random(200) < 0.6
    write_run(tmp_path, "FT", right_scores(labels, b), labels)
    write_run(tmp_path, "LP-FT", right_scores(labels, a), labels)
    experiment = experiment_of(tmp_path)
    pair = experiment.pair("LP-FT", "FT")
    assert pair.difference == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert pair.verdict == "better" and pair.low > 0
    turned = experiment.pair("FT", "LP-FT")
    assert turned.difference == -pair.difference and (turned.low, turned.high) == (-pair.high, -pair.low)
    assert turned.verdict == "worse"
    kept = experiment.pairs[0]
    assert (kept.mcnemar.only_a, kept.mcnemar.only_b) == ((b & ~a).sum(), (a & ~b).sum())
    assert experiment.verdict.startswith(f"LP-FT has the highest accuracy, {a.mean():.3f} [")
    assert "better than FT by" in experiment.verdict and "One run each" in experiment.verdict


def test_two_strategies_with_the_same_predictions_are_not_separable_and_nothing_divides_by_zero(tmp_path, rng):
    labels = toy(rng)
    scores = right_scores(labels, rng.random(200) < 0.8)
    for fold in range(5):
        images = [f"f{fold}-{k}" for k in range(200)]
        for strategy in ("FT", "LP"):
            write_run(tmp_path, strategy, scores, labels, fold=fold, images=images)
    experiment = experiment_of(tmp_path)
    pair = experiment.pairs[0]
    assert (pair.difference, pair.p_bootstrap) == (0, 1) and math.isnan(pair.low)
    assert pair.mcnemar.p == 1 and pair.t.p == 1 and pair.verdict == "not separable"
    assert "No strategy is separable from FT at n = 1,000 patients" in experiment.verdict


def test_over_five_folds_the_t_test_is_corrected_and_wilcoxon_is_left_out_with_its_reason(tmp_path, rng):
    labels, differences = toy(rng, 50), []
    for fold in range(5):
        images = [f"f{fold}-{k}" for k in range(50)]
        per_seed = []
        for seed in range(2):
            a, b = rng.random(50) < 0.8, rng.random(50) < 0.7
            per_seed.append(a.mean() - b.mean())
            write_run(tmp_path, "FT", right_scores(labels, a), labels, seed=seed, fold=fold, images=images, train=200)
            write_run(tmp_path, "LP", right_scores(labels, b), labels, seed=seed, fold=fold, images=images, train=200)
        differences.append(np.mean(per_seed))
    experiment = experiment_of(tmp_path)
    pair = experiment.pairs[0]
    t = np.mean(differences) / math.sqrt((1 / 5 + 50 / 200) * np.var(differences, ddof=1))  # Nadeau and Bengio 2003
    assert pair.t.t == pytest.approx(t, rel=1e-12) and pair.t.df == 4 and pair.wilcoxon is None
    notes = " ".join(experiment.pair_notes)
    assert "smallest possible p is 0.0625" in notes and "n_test / n_train = 0.25" in notes
    assert experiment.test_images == 250 and pair.runs == 10


def test_with_six_folds_wilcoxon_is_there(tmp_path, rng):
    labels = toy(rng, 40)
    for fold in range(6):
        images = [f"f{fold}-{k}" for k in range(40)]
        write_run(tmp_path, "FT", right_scores(labels, np.arange(40) >= fold), labels, fold=fold, images=images)
        write_run(tmp_path, "LP", right_scores(labels, np.arange(40) >= 2 * fold + 1), labels, fold=fold, images=images)
    pair = experiment_of(tmp_path).pairs[0]
    assert pair.wilcoxon.p == pytest.approx(2 / 2**6) and pair.wilcoxon.n == 6  # all six differ one way


def test_delong_is_there_for_independent_images_and_else_its_reason(tmp_path, rng):
    labels = toy(rng, 80)
    scores = {}
    for strategy in ("FT", "LP"):
        p = np.clip(0.5 + (labels - 0.5) * 0.5 + rng.normal(0, 0.25, 80), 0, 1)
        scores[strategy] = np.stack([1 - p, p], 1)
    for strategy, values in scores.items():
        write_run(tmp_path / "apart", strategy, values, labels)
        write_run(tmp_path / "grouped", strategy, values, labels, groups=[f"p{k // 2}" for k in range(80)])
    apart = experiment_of(tmp_path / "apart")
    expected = stats.delong(scores["FT"][:, 1], scores["LP"][:, 1], labels == 1)
    assert apart.pairs[0].delong.p == pytest.approx(expected.p, abs=1e-12)
    grouped = experiment_of(tmp_path / "grouped")
    assert grouped.pairs[0].delong is None
    assert any("DeLong: left out, it needs independent images" in note for note in grouped.pair_notes)
    assert any("which the bootstrap does not" in note for note in grouped.pair_notes)


def test_holm_runs_over_the_pairs_of_a_block(tmp_path, rng):
    labels = toy(rng)
    for strategy, share in (("FT", 0.6), ("LP", 0.7), ("LP-FT", 0.75)):
        write_run(tmp_path, strategy, right_scores(labels, rng.random(200) < share), labels)
    pairs = experiment_of(tmp_path).pairs
    assert len(pairs) == 3
    ordered = sorted(pairs, key=lambda p: p.p_bootstrap)
    expected, worst = [], 0.0
    for i, pair in enumerate(ordered):  # Holm 1979: times the number of hypotheses still open, never falling
        worst = max(worst, min(1.0, (3 - i) * pair.p_bootstrap))
        expected.append(worst)
    assert [p.p_holm for p in ordered] == pytest.approx(expected, abs=1e-12)


def test_a_verdict_is_that_of_the_adjusted_p(tmp_path):
    """200 patients with an image each. LP gains 20 and loses 8 against three others that are alike: z = 12 /
    sqrt(28), p about 0.02, times ten pairs. Auto-RGN is right 50 times more than these: any family lets that
    stand."""
    labels = np.tile([0, 1], 100)
    right = {name: np.arange(200) < 120 for name in ("FT", "L2-SP", "LP-FT")}
    right["LP"] = (np.arange(200) < 140) & (np.arange(200) >= 8)
    right["Auto-RGN"] = np.arange(200) < 170
    for strategy, values in right.items():
        write_run(tmp_path, strategy, right_scores(labels, values), labels)
    experiment = experiment_of(tmp_path)
    for other in ("FT", "L2-SP", "LP-FT"):
        pair = experiment.pair("LP", other)
        assert 0.01 < pair.p_bootstrap < 0.05 and pair.p_holm > 0.05
        assert pair.verdict == experiment.pair(other, "LP").verdict == "not separable"
        pair = experiment.pair("Auto-RGN", other)
        assert pair.p_holm < 0.05 and pair.verdict == "better"
        assert experiment.pair(other, "Auto-RGN").verdict == "worse"


def test_strategies_on_different_images_are_not_compared(tmp_path, rng):
    labels = toy(rng, 30)
    write_run(tmp_path, "FT", all_right(labels), labels)
    write_run(tmp_path, "LP", all_right(labels), labels, images=[f"other{k}" for k in range(30)])
    experiment = experiment_of(tmp_path)
    assert experiment.pairs == [] and any("tested on different images" in note for note in experiment.pair_notes)
    assert any(note.startswith("NOT COMPARABLE") for note in experiment.notes)


def test_one_patient_gives_no_verdict_and_five_give_none(tmp_path):
    labels = np.tile([0, 1], 60)
    for patients in (1, 5, 6):
        groups = [f"p{k % patients}" for k in range(120)]
        for strategy, n in (("FT", 60), ("LP", 118)):
            right = np.arange(120) < n
            write_run(tmp_path / str(patients), strategy, right_scores(labels, right), labels, groups=groups)
    for patients, expected in ((1, "undefined"), (5, "undefined"), (6, "better")):
        experiment = analyse(tmp_path / str(patients)).experiments[0]
        assert experiment.pair("LP", "FT").verdict == expected, patients
        assert any("cannot tell two strategies apart" in n for n in experiment.pair_notes) == (patients < 6)
    assert math.isnan(experiment_of(tmp_path / "1").rows[0].test.low)


def test_an_undefined_metric_is_no_verdict(tmp_path, rng):
    labels = np.ones(40, int)  # one class: no AUROC
    for strategy in ("FT", "LP"):
        write_run(tmp_path, strategy, right_scores(labels, rng.random(40) < 0.7), labels, metric="auroc")
    experiment = experiment_of(tmp_path)
    assert experiment.pairs[0].verdict == "undefined" and "nothing to compare" in experiment.verdict
    assert "undefined" in outputs(tmp_path)[0]["terminal"]


def test_the_expected_calibration_error_has_no_percentile_interval(tmp_path, rng):
    labels = toy(rng)
    for strategy in ("FT", "LP"):
        write_run(tmp_path, strategy, right_scores(labels, rng.random(200) < 0.8), labels, metric="ece")
    experiment = experiment_of(tmp_path)
    assert math.isnan(experiment.rows[0].test.low) and experiment.pairs[0].verdict == "undefined"


def test_overlapping_test_sets_are_not_counted_twice_by_mcnemar(tmp_path, rng):
    labels = toy(rng, 100)
    for fold in (0, 1):
        images = [f"i{50 * fold + k}" for k in range(100)]
        for strategy in ("FT", "LP"):
            write_run(tmp_path, strategy, right_scores(labels, rng.random(100) < 0.7), labels, fold=fold, images=images)
    experiment = experiment_of(tmp_path)
    assert experiment.pairs[0].mcnemar is None and any(
        "test sets of several folds overlap" in n for n in experiment.pair_notes
    )


def test_a_shared_test_set_is_resampled_once_for_bands_and_named_in_the_notes(tmp_path, rng):
    labels = toy(rng, 60)
    p = np.clip(0.5 + (labels - 0.5) * 0.3 + rng.normal(0, 0.3, 60), 0, 1)
    scores = np.stack([1 - p, p], 1)
    for fold in range(5):
        for strategy in ("FT", "LP"):
            write_run(tmp_path / "five", strategy, scores, labels, fold=fold)
            if fold == 0:
                write_run(tmp_path / "one", strategy, scores, labels)
    five, one = (experiment_of(tmp_path / n) for n in ("five", "one"))
    band, expected = ((curve.low, curve.high) for curve in (five.roc["FT"][0], one.roc["FT"][0]))
    assert np.array(band) == pytest.approx(np.array(expected), abs=1e-12)
    assert any("all folds share one test set" in n for n in five.pair_notes)
    assert any(n.startswith("McNemar: runs of seed 0, fold 0") for n in five.pair_notes)


def test_notes_name_the_pairs_that_they_are_about(tmp_path):
    write_folds(tmp_path, {"FT": {(0, 0): 0.7, (1, 0): 0.7}, "LP": {(0, 0): 0.6, (1, 0): 0.6}, "LP-FT": {(1, 0): 0.8}})
    notes = experiment_of(tmp_path).pair_notes
    assert "McNemar: runs of seed 0, fold 0 (FT − LP)." in notes
    assert "McNemar: runs of seed 1, fold 0 (FT − LP-FT, LP − LP-FT)." in notes
