"""wording.py: how numbers and names are written, and what is said of a row and of an experiment.
python -m pytest tests/report/test_wording.py"""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from factory import NAN, lose_runs, make_across, make_estimate, make_experiment, make_row

from report import wording
from report.experiment import Estimate, LostCell


@pytest.mark.parametrize(
    ("text", "is_"),
    [
        (wording.number(0.8714), "0.871"),
        (wording.number(-0.0309, sign=True), "−0.031"),
        (wording.number(0.0001, sign=True), "0.000"),
        (wording.number(-0.0001), "0.000"),
        (wording.number(NAN), "undefined"),
        (wording.number(None), "undefined"),
        (wording.p_value(0.0131), "0.013"),
        (wording.p_value(0.00099), "<0.001"),
        (wording.p_value(1.0), "1.000"),
        (wording.p_value(NAN), "undefined"),
        (wording.interval(NAN, 1), ""),
        (wording.interval(0.84, 0.902), "[0.840, 0.902]"),
        (wording.plus_minus(NAN), ""),
        (wording.estimate(make_estimate(0.9, n=1)), "0.900 [0.870, 0.930]"),
        (wording.estimate(Estimate(0.9, 0.012, 2, over="1 of 2 labels")), "0.900 ± 0.012 (1 of 2 labels)"),
        (wording.minutes(0.357), "0.36"),
        (wording.minutes(90.2), "90"),
        (wording.minutes(1230), "20.5 h"),
        (wording.memory(None), "not measured"),
        (wording.memory(3 * 2**30), "3.00 GiB"),
        (wording.whole(11178564), "11,178,564"),
        (wording.whole(12.5), "12.5"),
        (wording.short(3e-05), "3e-5"),
        (wording.scientific(0.00034), "3.4e−4"),
        (wording.value(None), "not set"),
        (wording.value("None"), "not set"),
        (wording.value([1, None, True]), "1, not set, yes"),
        (wording.value({"a": 1e-5}), "a: 1e-05"),
    ],
)
def test_how_numbers_are_written(text, is_):
    assert text == is_


@pytest.mark.parametrize(
    ("text", "is_"),
    [
        (wording.several(1, "study"), "1 study"),
        (wording.several(1670, "image"), "1,670 images"),
        (wording.several(2, "class"), "2 classes"),
        (wording.several(0, "dataset and backbone"), "0 datasets and backbones"),
        ([wording.plural(noun) for noun in ("biopsy", "day", "series")], ["biopsies", "days", "series"]),
        (wording.counted(2, 3, "fold"), "2 of 3 folds"),
        (wording.counted(3, 3, "fold"), "3 folds"),
        ([wording.spoken("abc"[:n]) for n in range(4)], ["", "a", "a and b", "a, b and c"]),
        (wording.over_how_many([(1, 2), None, (2, 2)], "label"), "1 to 2 of 2 labels"),
        (wording.over_how_many([(1, 2), (1, 2)], "class"), "1 of 2 classes"),
        (wording.over_how_many([(2, 2), None], "label"), ""),
    ],
)
def test_how_counts_are_written(text, is_):
    assert text == is_


def test_experiments_have_file_names_of_their_own_of_plain_letters():
    names = [("a-b", "c"), ("a", "b_c"), ("A B", "C"), ("../../etc", "x"), ("データ", "r"), ("画像", "r")]
    stems = wording.file_stems([*names, ("a-b-c", "2"), ("d" * 300, "e" * 300)])
    assert stems[:6] == ["a-b-c", "a-b-c-2", "a-b-c-3", "etc-x", "x-r", "x-r-2"]
    assert len(set(stems)) == len(stems)
    assert all(re.fullmatch("[a-z0-9-]+", stem) and len(stem) < 110 for stem in stems)


def test_groups_that_share_an_identical_image_are_counted_once_and_it_is_said():
    apart = make_experiment()
    assert wording.distinct(apart) == "40 patients" and wording.copies(apart) == 0
    assert wording.tested_images(apart) == "125 test images of 40 patients"
    joined = make_experiment(test_groups=38)
    assert wording.distinct(joined) == "38 different patients" and wording.distinct(joined, 1).endswith("t")
    assert wording.tested_images(joined) == "125 test images of 40 patients, 38 of them different"
    images = make_experiment(group_kind="image", test_images=394, named_groups=394, test_groups=314)
    assert wording.tested_images(images) == "394 test images, 314 of them different"


def test_control_characters_and_lone_surrogates_become_a_replacement_character():
    assert wording.clean("a\x00b\udcffc\u202ed") == "a\ufffdb?c\ufffdd"


# ---- rows ----


def test_standing_beside_the_best():
    experiment = make_experiment(strategies=("FT", "LP", "G-LF", "G-FL", "LP-FT", "Auto-RGN"))
    standings = [wording.standing(experiment, row) for row in experiment.rows]
    assert standings == ["best", "≈ best", "≈ best", "worse", "worse", "worse"]
    lost = lose_runs(experiment)
    assert wording.standing(lost, lost.row("LP-FT")) == "fewer runs"
    assert wording.standing(lost, lost.row("Auto-RGN")) == "no run"
    alone = replace(experiment, pairs=[])
    assert wording.standing(alone, experiment.row("G-FL")) == "not compared"
    row = experiment.row("G-FL")
    assert wording.standing(experiment, replace(row, ranked=False)) == "other runs"
    assert wording.standing(experiment, replace(row, collapsed=True)) == "one class"
    assert wording.standing(experiment, replace(row, test=Estimate())) == "undefined"


def test_runs_scored_in_an_earlier_stage_are_named_beside_the_strategy():
    assert wording.shown_name(make_row("LP-FT")) == "LP-FT"
    early = make_row("LP-FT", early={"lp": 2})
    assert wording.shown_name(early) == "LP-FT (2 of 3 runs scored in stage lp)"


def test_the_budget_of_a_strategy_without_a_run_is_left_out():
    done, none = make_row("FT", trials=5), make_row("LP", done=0, failed=2, missing=1)
    spent = ["30", "420", "5", "2.36", "7.08", "1.06 GiB", "11,178,564", "0"]
    assert wording.budget_row(done) == spent and len(wording.BUDGET) == len(spent)
    assert wording.budget_row(none) == ["–"] * 7 + ["2 failed, 1 not run"]
    assert wording.lost_runs(done, none, none) == ["4 failed", "2 not run"]


# ---- experiments ----


def test_what_is_missing_is_said_with_its_effect():
    experiment = lose_runs(make_experiment())
    notes, partly, wholly, edges = wording.problems(experiment)
    assert notes == "NOT COMPARABLE: these runs differ in epochs: 20, 30."
    reason = "the training loss is not a number in epoch 3, stage all"
    effect = "2 of 3 runs count, and a strategy whose hard runs are missing can look better than it is"
    assert partly == f"LP-FT: 1 failed (seed 1, fold 0: {reason}); {effect}."
    nothing = "it has no result and is in no comparison"
    assert wholly == f"Auto-RGN: 1 unfinished, 2 not run (seed 0, fold 0); {nothing}."
    tried = "The chosen value lies at an end of what tuning tried, and a better one may lie beyond it"
    assert edges == f"{tried}: FT (lr in fold 0)."


def test_strategies_that_lack_the_same_share_a_line():
    experiment = make_experiment()
    two = make_estimate(0.8, n=2)
    lack = {name: LostCell(name, seed=2, fold=0, status="not run", reason="") for name in ("G-LF", "G-FL")}
    rows = [replace(row, done=2, missing=1, test=two) if row.strategy in lack else row for row in experiment.rows]
    (line,) = wording.problems(replace(experiment, rows=rows, lost_cells=list(lack.values())))
    effect = "2 of 3 runs count, and a strategy whose hard runs are missing can look better than it is"
    assert line == f"G-LF, G-FL: 1 not run (seed 2, fold 0); {effect}."


def test_the_threshold_of_a_call_is_said_where_two_rules_hold():
    assert wording.calls_text(make_experiment()) == ""
    two = wording.calls_text(make_experiment(classes=("a", "b")))
    assert two.endswith("specificity, PPV and NPV are at the threshold chosen on validation (youden)")
    labels = make_experiment(task="multilabel", threshold_rule="0.5")
    assert wording.calls_text(labels) == "F1 is at each label's threshold, 0.5"


def test_the_question_names_three_datasets():
    experiments = [make_experiment(name, strategies=("FT",)) for name in "abcaed"]
    assert wording.question(experiments).endswith("use on a, b, c and 2 more?")
    assert wording.question([]) == "No finished run"


def test_friedmans_line():
    across = make_across([make_experiment("a"), make_experiment("b")])
    test = SimpleNamespace(chi2=12.5, df=7, p=0.085, f=3.2, f_p=0.0004)
    line = wording.friedman_line(replace(across, friedman=test, cliques=[["FT", "LP"], ["LP", "G-LF"]]))
    assert line == (
        "Friedman over 2 rows: chi² = 12.50 (7 df), p = 0.085; Iman-Davenport F = 3.20, p < 0.001. Nemenyi "
        "critical difference at 0.05: 6.06 ranks. Groups within it: FT, LP; LP, G-LF."
    )
    assert wording.friedman_line(replace(across, friedman=test, cd=None)).endswith("p < 0.001.")


@pytest.mark.parametrize(
    ("column", "noun"),
    [
        ("patient_id", "patient"),
        ("PatientID", "patient"),
        ("Study UID", "study"),
        ("case no", "case"),
        ("id", "id"),
        ("patient", "patient"),
        ("image", "image"),
        ("lesion-code", "lesion"),
        ("grid", "grid"),
    ],
)
def test_a_column_is_a_word_of_a_sentence(column, noun):
    assert wording.as_noun(column) == noun
