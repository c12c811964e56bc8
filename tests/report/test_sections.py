"""sections.py: each table holds what the analysis holds, and figures stand in their sections.
python -m pytest tests/report/test_sections.py"""

import re
from dataclasses import replace

import pytest
from factory import NAN, make_estimate, make_experiment, make_splits, png

from report import sections
from report.experiment import LayerRates
from report.figures import OF_AN_EXPERIMENT, Picture
from report.markup import plain
from report.wording import LEFT_OUT


def lines(table):
    """The texts of the cells of a table's rows, its head first."""
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    return [[plain_text(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def plain_text(markup):
    return re.sub("<[^>]*>", "", markup)


def section(experiment, pictures=(), many=False):
    return sections.experiment_section(experiment, "experiment-1", list(pictures), many)


# ---- figures ----

SECTION_OF = {
    "intervals": "Which strategies differ",
    "learning-curves": "Learning curves and cost",
    "score-and-cost": "Learning curves and cost",
    "roc": "ROC and precision-recall",
    "precision-recall": "ROC and precision-recall",
    "confusion": "Confusion matrices",
    "reliability": "Calibration",
    "auto-rgn-rates": "Auto-RGN&#x27;s rate per layer",
    "gradcam": "Other figures",
    "of a later version": "Other figures",
}


@pytest.mark.parametrize("key", SECTION_OF)
def test_figures_stand_in_their_sections(key):
    """Told by their key, whatever the caption says."""
    made = section(make_experiment("roc", epochs=2), [Picture(key, "roc: confusion of learning rates", png())])
    (before,) = re.findall(r"(?s)^(.*)<figure><img src=\"data:image/png;base64,[^\"]{100,}\" alt=\"roc: con", made)
    title = re.findall("<summary><h3>(.*?)</h3>", before)[-1]
    assert title == SECTION_OF[key]


def test_every_figure_of_an_experiment_has_its_section():
    assert set(OF_AN_EXPERIMENT) <= {key for key, title in SECTION_OF.items() if title != "Other figures"}


def test_a_dark_page_inverts_what_was_drawn_and_no_photograph():
    drawn, panel = (sections.figure(Picture(key, "x", png())) for key in ("roc", "gradcam"))
    assert 'class="drawn"' in drawn and "class=" not in panel


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        ("learning-curves", "Validation balanced accuracy by epoch"),
        ("roc", "Areas under the curves"),
        ("confusion", "FT: true down, called across"),
        ("reliability", "FT: by bin of confidence"),
        ("auto-rgn-rates", "learning rate of each layer by epoch"),
    ],
)
def test_paper_has_the_figure_or_the_numbers_of_the_same_thing(key, numbers):
    experiment = make_experiment(epochs=2)
    printed, whole = (unprinted_cut(section(experiment, pictures)) for pictures in ([Picture(key, "x", png())], []))
    assert numbers not in printed and numbers in whole and '<img src="data' in printed


def unprinted_cut(markup):
    """The markup without the elements of class unprinted."""
    while (start := markup.find('<div class="unprinted">')) >= 0:
        depth = 0
        for found in re.finditer("<div|</div>", markup[start:]):
            depth += 1 if found[0] == "<div" else -1
            if depth == 0:
                markup = markup[:start] + markup[start + found.end() :]
                break
    return markup


def test_paper_has_each_result_and_each_warning_once():
    """The intervals stand in the table of results, an experiment's warnings on the first screen."""
    experiment = replace(make_experiment(), notes=["A warning."])
    made = section(experiment, [Picture("intervals", "The intervals", png())], many=True)
    assert "The intervals" in made and "A warning." in made
    assert "The intervals" not in unprinted_cut(made) and "A warning." not in unprinted_cut(made)


def test_a_section_that_has_nothing_to_show_is_not_there():
    full, bare = section(make_experiment()), section(make_experiment(strategies=("LP",), confusion={}))
    for title in ("Confusion matrices", "rate per layer", "Other figures"):
        assert title not in bare
    assert "Confusion matrices" in full and "Auto-RGN&#x27;s rate per layer" in full


def test_the_answer_stands_in_the_section_where_the_page_has_several():
    experiment = make_experiment()
    assert experiment.verdict in section(experiment, many=True)
    assert experiment.verdict not in section(experiment)


def test_many_warnings_are_folded():
    assert sections.notice([]) is None
    few, many, long = (sections.notice(texts) for texts in (list("abc"), list("abcde"), ["x" * 61]))
    assert "<details>" not in few and few.count("<li>") == 3
    folded = "<details><summary>2 more, and these in full</summary><ul><li>d</li><li>e</li></ul></details>"
    assert folded in many and many.count("<li>") == 5
    assert "<details><summary>in full</summary></details>" in long and "x" * 61 in long


def test_warnings_that_say_the_same_of_several_are_one():
    texts = ["FT: a: b.", "LP: c.", "L2-SP: a: b.", "No name.", "No name.", "LP: c."]
    assert sections.of_one_kind(texts) == ["FT, L2-SP (each): a: b.", "LP: c.", "No name."]
    assert sections.of_one_kind([]) == []


# ---- results and pairs ----


def test_results_are_the_rows():
    table = lines(sections.results_table(make_experiment(strategies=("FT", "G-FL"))))
    assert table[1][:7] == [
        "Strategy",
        "balanced accuracy",
        "Beside the best",
        "Runs",
        "accuracy",
        "Validation (chose the epoch)",
        "Epochs",
    ]
    assert table[2][:5] == ["FT", "0.871 [0.841, 0.901] ± 0.012", "★ best", "3", "0.891 [0.861, 0.921] ± 0.012"]
    assert table[2][5:] == "0.881 ± 0.012|30|420|2.36|7.08|1.06 GiB|11,178,564".split("|")
    tuned = make_experiment(strategies=("FT",))
    tuned = replace(tuned, rows=[replace(tuned.rows[0], trials=10)])
    assert "Trials" in lines(sections.results_table(tuned))[1]


def test_runs_without_a_result_have_a_column_where_there_are_some():
    experiment = make_experiment(strategies=("FT", "LP"))
    rows = [experiment.rows[0], replace(experiment.rows[1], failed=1, missing=2)]
    table = lines(sections.results_table(replace(experiment, rows=rows)))
    assert [row[-1] for row in table[1:]] == ["No result", "0", "1 failed, 2 not run"]


def test_the_result_of_an_earlier_stage_says_so_below_the_name():
    experiment = make_experiment(strategies=("FT", "LP-FT"))
    rows = [experiment.rows[0], replace(experiment.rows[1], early={"lp": 2})]
    table = sections.results_table(replace(experiment, rows=rows))
    assert '<th scope="row">LP-FT<small>2 of 3 runs scored in stage lp</small></th>' in table


def test_a_pair_is_shown_both_ways_round():
    experiment = make_experiment()
    there, back = (sections.verdict_cell(experiment.pair(*ab)) for ab in (("FT", "Auto-RGN"), ("Auto-RGN", "FT")))
    assert plain_text(there) == "▲ +0.077 [+0.051, +0.103]" and 'class="verdict-better"' in there
    assert plain_text(back) == "▼ −0.077 [−0.103, −0.051]" and 'class="verdict-worse"' in back
    assert plain_text(sections.verdict_cell(None)) == "no common runs"
    matrix = lines(sections.pair_matrix(make_experiment(strategies=("FT", "LP"))))
    assert matrix[0] == ["", "FT", "LP"] and [row[0] for row in matrix[1:]] == ["FT", "LP"]
    assert matrix[1][1] == "" and matrix[1][2] == "≈ +0.011 [−0.015, +0.037]"
    assert "nothing can be compared" in sections.pair_matrix(make_experiment(pairs=[]))


def test_every_test_of_a_pair_has_its_columns_and_one_that_is_left_out_a_dash():
    experiment = make_experiment(strategies=("FT", "LP"))
    (pair,) = experiment.pairs
    line = [plain(cell) for cell in sections.pair_line(pair, sections.TESTS)]
    assert line[0] == "FT − LP" and line[2:6] == ["3", "+0.011 [−0.015, +0.037]", "0.050", "0.200"]
    assert line[6] == f"{pair.mcnemar.only_a} / {pair.mcnemar.only_b}" and line[12:] == [LEFT_OUT] * 2
    assert line[10].endswith("(2)") and len(line) == 14
    bare = make_experiment(strategies=("FT", "LP"), full=False).pairs[0]
    assert sections.pair_line(bare, sections.TESTS)[6:] == [LEFT_OUT] * 8


def test_a_test_that_no_pair_has_has_no_columns():
    experiment = make_experiment(strategies=("FT", "LP"))
    groups, heads, line = lines(sections.pair_table(experiment))
    assert groups == ["", "Group bootstrap", "McNemar", "DeLong", "Corrected t"]  # without Wilcoxon
    assert heads[6:] == ["A / B", "p", "AUROC difference", "p", "t (df)", "p"] and len(line) == len(heads) == 12
    bare = sections.pair_table(make_experiment(strategies=("FT", "LP"), full=False))
    assert lines(bare)[0] == ["", "Group bootstrap"] and "McNemar" not in bare


# ---- curves and metrics ----


def test_epochs_are_thinned_with_both_ends():
    assert sections.thinned([1, 2, 3]) == [1, 2, 3]
    kept = sections.thinned(list(range(1, 101)))
    assert len(kept) == len(set(kept)) == sections.MOST_EPOCHS and (kept[0], kept[-1]) == (1, 100)


def test_a_curve_that_stopped_early_has_dashes():
    experiment = make_experiment(strategies=("FT", "LP"), epochs=3)
    curves = experiment.curves | {"LP": experiment.curves["LP"][:2]}
    table = lines(sections.curves_table(replace(experiment, curves=curves)))
    assert [row[0] for row in table] == ["Epoch", "1", "2", "3"] and table[3][2] == LEFT_OUT
    assert table[1][1] == f"{experiment.curves['FT'][0].val_metric:.3f}"


def test_a_metric_that_some_runs_lack_says_how_many_have_it():
    experiment = make_experiment(strategies=("FT",))
    row = experiment.rows[0]
    found = {"kappa": make_estimate(0.5, n=2), "ece": make_estimate(0.1)}
    table = lines(sections.metrics_table(replace(experiment, rows=[replace(row, metrics=found)])))
    assert table == [
        ["Metric", "FT"],
        ["Cohen&#x27;s kappa", "0.500 [0.470, 0.530] ± 0.012 (n = 2)"],
        ["expected calibration error", "0.100 [0.070, 0.130] ± 0.012"],
    ]


def test_a_metric_is_tinted_from_its_worst_strategy_to_its_best():
    experiment = make_experiment(strategies=("FT", "LP", "G-LF"))
    values = [{"auroc": 0.9, "ece": 0.3}, {"auroc": 0.7, "ece": 0.2}, {"auroc": 0.75, "ece": 0.1}]
    rows = [
        replace(row, metrics={name: make_estimate(x) for name, x in found.items()})
        for row, found in zip(experiment.rows, values, strict=True)
    ]
    table = sections.metrics_table(replace(experiment, rows=rows))
    assert re.findall(r"--t:([\d.]+)", table) == ["1.00", "0.00", "0.25", "0.00", "0.50", "1.00"]


def test_a_table_for_every_measure_of_the_classes():
    experiment = make_experiment(strategies=("FT", "LP"), classes=("a", "b"))
    tables = sections.per_class_tables(experiment)
    captions = [plain_text(re.search("<caption>(.*?)</caption>", table)[0]) for table in tables]
    names = ["Recall", "Precision", "F1", "AUROC", "AP"]
    assert captions == [f"{name} on test, mean over runs (tint: 0 to 1)" for name in names]
    recall = [f"{row.per_class['b']['recall']:.3f}" for row in experiment.rows]
    assert lines(tables[0])[2] == ["b", "13", *recall]


def test_areas_of_the_curves():
    experiment = make_experiment(strategies=("FT", "LP"), classes=("a", "b"))
    table = lines(sections.area_table(replace(experiment, pr=experiment.pr | {"LP": []})))
    assert table[0] == ["", "b (prevalence 0.250)"]
    assert table[1:] == [["Strategy", "AUROC", "AP"], ["FT", "0.871", "0.871"], ["LP", "0.860", "undefined"]]


# ---- calls, calibration, thresholds, rates ----


def test_a_confusion_matrix_outlines_the_right_calls():
    table = sections.confusion_matrix("FT", [[9, 1], [0, 0]], ["a", "b"])
    assert lines(table) == [["True", "a", "b"], ["a", "9", "1"], ["b", "0", "0"]]
    assert re.findall(r'--t:([\d.]+)" class="tint right"', table) == ["0.90", "0.00"]


def test_many_classes_become_a_list_of_confusions():
    found = sections.most_confused("FT", [[9, 4, 0], [1, 8, 0], [0, 7, 2]], ["a", "b", "c"])
    assert lines(found)[1:] == [["c", "b", "7", "9"], ["a", "b", "4", "13"], ["b", "a", "1", "9"]]
    assert "the 3 most frequent of 3 confusions" in found


@pytest.mark.parametrize(
    ("task", "heads"), [("multiclass", ["Confidence", "Accuracy"]), ("multilabel", ["Score", "Share with the label"])]
)
def test_calibration_by_bin_leaves_the_empty_ones_out(task, heads):
    summary, bins = sections.calibration_tables(make_experiment(strategies=("FT",), task=task))
    assert lines(summary)[1] == ["FT", "0.051", "0.213"]
    table = lines(bins)
    assert table[0] == ["Bin", *heads, "Gap", "Count"] and len(table) == 8
    assert table[1][0] == "0.3 – 0.4" and table[1][1] == "0.350" and table[1][-1] == "12"


def test_thresholds_have_the_rates_that_they_give():
    table = lines(sections.thresholds_table(make_experiment(strategies=("FT",), classes=("a", "b"))))
    assert table[0] == ["Strategy", "Positive", "Threshold", "Sensitivity", "Specificity", "PPV", "NPV"]
    assert table[1] == ["FT", "b", "0.420 ± 0.030", "0.910", "0.820", "0.710", "undefined"]


def test_learning_rates_are_tinted_by_their_logarithm():
    rate = [[1e-2, 1e-4], [1e-3, 0.0], [NAN, 1e-4]]
    found = LayerRates("New", ["a.w", "a.b", "c"], ["a", "a", "c"], [1, 2], rate)
    table = sections.rates_table(make_experiment(layer_rates=found))
    assert lines(table)[1:3] == [["Layer", "Block", "1", "2"], ["a.w", "a", "1.0e−2", "1.0e−4"]]
    assert re.findall(r"--t:([\d.]+)", table) == ["1.00", "0.00", "0.50", "0.00"]
    assert "New: learning rate of each layer by epoch" in table and "from 0.0001 to 0.01" in table
    assert lines(table)[3][3] == "0.000" and lines(table)[4][2] == "undefined"


def test_a_table_of_rates_over_many_epochs_says_how_many_it_shows():
    assert "20 of 30 epochs shown" in sections.rates_table(make_experiment(epochs=30))


# ---- images, data, settings ----


def test_the_hardest_images_show_what_each_strategy_called():
    experiment = make_experiment(strategies=("FT", "LP"), classes=("a", "b"))
    first, second = map(sections.image_card, experiment.hardest[:2])
    assert "no thumbnail" in first and '<img src="data:image/png;base64,' in second
    assert "✓ FT: a 0.90" in plain_text(first) and "✗ LP: b 0.88" in plain_text(first)
    assert 'class="wrong"' in first and "truth: a, mean probability 0.03" in plain_text(first)


def test_sizes_of_the_splits_and_the_proof_that_no_group_is_in_two():
    experiment = make_experiment(classes=("a", "b"))
    facts, sizes, classes = sections.splits_tables(experiment)
    assert "patients in two splits: 0; byte-identical images across splits: 0" in facts
    assert lines(sizes) == [
        ["Split", "images", "patients"],
        ["training", "423", "141"],
        ["validation", "73", "24"],
        ["test", "125", "41"],
    ]
    assert lines(classes)[1] == ["a", "211", "36", "62"]
    folds = [make_splits(["a", "b"], fold=1), make_splits(["a", "b"])]
    facts, sizes, _ = sections.splits_tables(replace(experiment, splits=folds, unit_kind="study"))
    assert lines(sizes)[0][-1] == "studies" and lines(sizes)[1][0] == "fold 0, training"
    assert "fold 1: patients in two splits: 0" in facts


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "The test set was cut from the data by patient."),
        ({"group_kind": "image"}, "images of one patient may stand in two splits."),
        ({"official_test": True}, "The test set is the dataset&#x27;s official one."),
    ],
)
def test_where_the_test_set_is_from(changes, said):
    facts = sections.splits_tables(make_experiment(strategies=("FT",), **changes))[0]
    assert said in facts and ("patients in two splits" in facts) == ("group_kind" not in changes)


def test_settings_of_a_strategy_and_of_all():
    experiment = make_experiment(strategies=("FT", "L2-SP"))
    own, both, command = sections.settings_tables(experiment)
    table = lines(own)
    assert table[1][:4] == ["FT", "0.0001", LEFT_OUT, LEFT_OUT] and table[2][2] == "0.0001"
    assert table[1][4] == "bn: train, stage_shares: not set, weight_decay: 0.01"
    assert ["epochs", "30"] in lines(both) and ["git", "not set"] in lines(both)
    assert command == f"<pre><code>{experiment.commands[0]}</code></pre>"
