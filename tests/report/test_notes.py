"""report/notes.py: what must be said beside the numbers, and is not said where it does not hold."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from factory import (
    EDEMA,
    KEYS,
    all_right,
    always,
    csv_of,
    experiment_of,
    imbalanced,
    outputs,
    right_scores,
    toy,
    two_labels,
    write_cells,
    write_folds,
    write_run,
)

from report import notes
from report.analysis import analyse


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("images", "share"),
    [([20] * 6, None), ([90] + [10] * 9, 0.5), ([10] * 9 + [30], None), ([40, 20, 20, 20, 20, 10, 10], 40 / 140)],
)
def test_one_patient_with_more_than_a_quarter_of_what_was_tested_is_named(tmp_path, images, share):
    groups = [f"p{k}" for k, n in enumerate(images) for _ in range(n)]
    labels = np.arange(len(groups)) % 2
    for seed in range(2):
        write_run(
            tmp_path, "FT", right_scores(labels, np.arange(len(groups)) % 3 > 0), labels, groups=groups, seed=seed
        )
    experiment = experiment_of(tmp_path)
    assert experiment.largest_group_share == pytest.approx(max(images) / sum(images))
    said = [note for note in experiment.notes if note.startswith("One patient holds")]
    assert said[:1] == [] if share is None else said[0].startswith(f"One patient holds {share:.0%} of what was tested")


def test_a_mean_over_one_of_two_labels_says_so_wherever_it_stands(tmp_path):
    """No test image has a hernia: the AUROC is edema's alone."""
    scores, labels = two_labels()
    multi = {"classes": ["edema", "hernia"], "task": "multilabel", "metric": "auroc"}
    for strategy in ("FT", "LP"):
        write_run(tmp_path, strategy, scores, labels, **multi)
    texts, experiment = outputs(tmp_path)
    assert experiment.rows[0].test.mean == pytest.approx(EDEMA, abs=1e-12)
    for kind in ("md", "html", "results", "terminal", "verdict", "pairs"):
        assert "1 of 2 labels" in texts[kind], kind
    assert "tie for the highest AUROC, 0.998 [" in texts["verdict"] and "] (1 of 2 labels)" in texts["verdict"]
    assert "(1 of 2 labels)  " in texts["terminal"]  # columns stay apart
    row = csv_of(tmp_path)[0]
    over = [row[f"{name}_over"] for name in ("test_auroc", "val_auroc", "test_brier")]
    assert over == ["1 of 2", "1 of 2", "2 of 2"]
    assert csv_of(tmp_path, "comparisons.csv")[0]["metric_over"] == "1 of 2 labels"
    assert "AUROC on test is a mean over 1 of 2 labels, not over all (undefined somewhere: hernia)." in experiment.notes


def test_a_mean_over_all_labels_says_nothing_of_them(tmp_path):
    scores, labels = two_labels(rare=[3])
    write_run(tmp_path, "FT", scores, labels, classes=["edema", "hernia"], task="multilabel", metric="auroc")
    texts, experiment = outputs(tmp_path)
    assert experiment.rows[0].test.mean == pytest.approx((EDEMA + 1) / 2, abs=1e-12)
    assert not any(" of 2 labels" in text for text in texts.values())
    assert csv_of(tmp_path)[0]["test_auroc_over"] == "2 of 2"


def test_a_mean_over_other_labels_in_every_fold_is_warned_of(tmp_path):
    """Hernia stands in fold 1 alone: 0.9975 is edema's value and (0.9975 + 1) / 2 that of both, under one
    name."""
    for fold, rare in enumerate(([], [3], [])):
        scores, labels = two_labels(rare=rare)
        images = [f"f{fold}-{k}" for k in range(40)]
        what = {"classes": ["edema", "hernia"], "task": "multilabel", "metric": "auroc"}
        write_run(tmp_path, "FT", scores, labels, fold=fold, images=images, **what)
    texts, experiment = outputs(tmp_path)
    assert experiment.rows[0].test.mean == pytest.approx((EDEMA + (EDEMA + 1) / 2 + EDEMA) / 3, abs=1e-12)
    note = next(n for n in experiment.notes if n.startswith("AUROC on test"))
    assert note == (
        "AUROC on test is a mean over 1 of 2 labels in folds 0 and 2; 2 of 2 labels in fold 1: these are "
        "different measures under one name, and the mean over runs mixes them (undefined somewhere: "
        "hernia)."
    )
    assert all("1 to 2 of 2 labels" in texts[kind] for kind in ("md", "html", "results", "terminal", "verdict"))
    assert [row["test_auroc_over"] for row in csv_of(tmp_path)] == ["1 of 2", "2 of 2", "1 of 2"]


def test_a_class_that_the_test_set_lacks_is_said_too(tmp_path):
    """Three classes, the test set has two: balanced accuracy is the mean of two recalls, 1 and 0.5."""
    labels = np.tile([0, 1], 20)
    right = np.where(labels == 0, True, np.arange(40) % 4 == 1)
    scores, what = right_scores(labels, right, classes=3), {"classes": ["a", "b", "c"]}
    write_run(tmp_path, "FT", scores, labels, metric="balanced_accuracy", **what)
    texts, experiment = outputs(tmp_path)
    assert experiment.rows[0].test.mean == pytest.approx(0.75)
    assert "0.750 [" in texts["verdict"] and "(2 of 3 classes)" in texts["verdict"]
    assert (
        "balanced accuracy on test is a mean over 2 of 3 classes, not over all (undefined somewhere: c)."
        in experiment.notes
    )


def test_a_label_that_is_unknown_in_every_test_image_is_no_part_of_the_mean(tmp_path):
    scores, labels = two_labels(rare=[3])
    labels[:, 1] = np.nan
    write_run(
        tmp_path, "FT", scores, labels, classes=["edema", "hernia"], task="multilabel", metric="average_precision"
    )
    texts, experiment = outputs(tmp_path)
    # edema: 19 positives at 0.7 above all, then a negative at 0.4, then the last positive as the 20th of 21
    assert experiment.rows[0].test.mean == pytest.approx(19 / 20 + 1 / 20 * 20 / 21, abs=1e-12)
    assert "(1 of 2 labels)" in texts["verdict"] and csv_of(tmp_path)[0]["test_brier_over"] == "1 of 2"


def test_strategies_that_were_not_begun_are_named(tmp_path):
    """By their names where the folder has a run of them, else as the command has them."""
    asked = {"seed": [0], "strategy": ["ft", "lp", "lpft", "autorgn"]}
    write_cells(tmp_path, [(0, 0)], arguments=asked)
    assert "Not begun, though the command names them: lpft and autorgn." in experiment_of(tmp_path).notes
    write_cells(tmp_path, [(0, 0)], ["LP-FT"], data="other")
    first = next(found for found in analyse(tmp_path).experiments if found.data == "toy")
    assert "Not begun, though the command names them: LP-FT and autorgn." in first.notes


STAGED_RUNS = [  # strategy, stage of each epoch, stage of the checkpoint, what must be said of the runs
    ("LP-FT", ("lp", "lp", "ft", "ft"), "lp", "the classifier alone was trained"),
    ("G-LF", ("head", "+layer4", "+stem"), "+layer4", "a part of the blocks was trained"),
    ("G-FL", ("head", "+stem", "+layer1"), "head", "the classifier alone was trained"),
]


@pytest.mark.parametrize(("strategy", "stages", "best", "what"), STAGED_RUNS)
def test_a_checkpoint_from_before_the_last_stage_is_not_called_by_the_strategy_alone(
    tmp_path, strategy, stages, best, what
):
    """Two runs of three; the third is scored in the last stage."""
    labels = np.tile([0, 1], 30)
    for seed in range(3):
        write_run(tmp_path, "FT", all_right(labels), labels, seed=seed, stages=["all"] * len(stages))
        scores, scored = right_scores(labels, np.arange(60) < 40), best if seed else None
        write_run(tmp_path, strategy, scores, labels, seed=seed, stages=stages, best_stage=scored)
    texts, experiment = outputs(tmp_path)
    note = next(
        n
        for n in experiment.notes
        if n.startswith(f"{strategy}: 2 of 3 runs are scored by a checkpoint of stage {best}")
    )
    assert what in note and not any(n.startswith("FT:") for n in experiment.notes)
    name = f"{strategy} (2 of 3 runs scored in stage {best})"
    assert name in texts["html"] and name in texts["md"].replace("\\", "") and name in texts["results"]
    assert f"2 scored in stage {best}" in texts["terminal"]
    assert f"scored by a checkpoint from before the last stage: 2 of 3 runs in stage {best}" in texts["md"]
    rows = [(row["best_stage"], row["last_stage"]) for row in csv_of(tmp_path) if row["strategy"] == KEYS[strategy]]
    assert rows == [(stages[-1], stages[-1]), (best, stages[-1]), (best, stages[-1])]


LAST_ALONE = "here in its last stage alone"
TWO_STAGES = "+stem from epoch 1, +layer4 from epoch 2"


@pytest.mark.parametrize(
    ("strategy", "stages", "said", "note"),
    [
        ("G-LF", ["+stem"], LAST_ALONE, "all of its epochs fell into the last stage (+stem)"),
        ("LP-FT", ["ft", "ft"], LAST_ALONE, "all of its epochs fell into the last stage (ft)"),
        ("G-FL", ["+stem", "+layer4"], f"stages: {TWO_STAGES}", f"its stages merged into 2 ({TWO_STAGES})"),
        ("LP-FT", ["lp", "ft", "ft"], "stages: lp from epoch 1, ft from epoch 2", None),
    ],
)
def test_stages_that_merged_are_described_as_they_ran(tmp_path, strategy, stages, said, note):
    labels = np.tile([0, 1], 30)
    write_run(tmp_path, strategy, all_right(labels), labels, stages=stages)
    texts, experiment = outputs(tmp_path)
    assert said in texts["md"] and "block by block" not in texts["md"]
    assert [n for n in experiment.notes if n.startswith(f"{strategy}: ")] == [
        n for n in experiment.notes if note and note in n
    ]
    assert note is None or any(note in n for n in experiment.notes)


def test_where_every_model_calls_one_class_there_is_no_verdict(tmp_path):
    labels = imbalanced()
    write_run(tmp_path, "FT", always(labels, 1), labels)
    write_run(tmp_path, "LP", always(labels, 0), labels)
    texts, experiment = outputs(tmp_path)
    assert texts["verdict"].startswith("No verdict: the runs of FT and LP call every test image alike")
    assert not any(row.best for row in experiment.rows) and "★ best</span>" not in texts["html"]
    assert "LP: 1 of 1 run calls every test image benign. It is no candidate for the best." in experiment.notes


def test_labels_called_alike_of_every_image_are_said(tmp_path):
    scores, labels = two_labels(rare=[3])
    write_run(
        tmp_path,
        "FT",
        np.clip(scores / 2, 0, 1),
        labels,
        classes=["edema", "hernia"],
        task="multilabel",
        metric="auroc",
    )
    experiment = experiment_of(tmp_path)
    assert "FT: 1 of 1 run calls every test image none of the labels." in experiment.notes and experiment.rows[0].best


def test_an_interval_that_holds_chance_is_said(tmp_path):
    """53 of 100 right, of two classes alike: its interval holds a half. 90 of 100 is above it."""
    labels = np.tile([0, 1], 50)
    for folder, right in (("low", 53), ("high", 90)):
        write_run(
            tmp_path / folder, "FT", right_scores(labels, np.arange(100) < right), labels, metric="balanced_accuracy"
        )
    low, high = (experiment_of(tmp_path / folder) for folder in ("low", "high"))
    assert any(n.startswith("No strategy is above chance (0.500) for sure: the interval") for n in low.notes)
    assert not any("above chance" in n for n in high.notes)


def test_data_with_a_column_of_patients_is_not_said_to_name_none(tmp_path):
    """The column was there and was not given: what the page knows is that none was given."""
    labels = np.tile([0, 1], 30)
    hint = "column patient looks like a group that must not be split: name it with --group-col"
    write_run(tmp_path, "FT", all_right(labels), labels, about_data={"group_kind": "image", "notes": [hint]})
    texts, experiment = outputs(tmp_path)
    assert not any("names no patient" in text or "no patients are known" in text for text in texts.values())
    assert "split by image, as no patient ids were given, once" in texts["md"]
    assert (
        "Split by image: no patient ids were given (--group-col, --group-regex), so images of one patient "
        "may be on both "
        f"sides. But {hint}." in experiment.notes
    )


@pytest.mark.parametrize(
    "older, newer, said",
    [
        ({"tune": 3}, {"tune": 3, "tune_order": "outward from the default"}, True),
        ({"tune": 0}, {"tune": 0, "tune_order": None}, False),
        ({"tune": 3}, {"tune": 3}, False),
    ],
)
def test_strategies_tuned_by_two_rules_are_called_not_comparable(older, newer, said, tmp_path, rng):
    labels = toy(rng, 30)
    for name, changed in (("FT", older), ("LP", newer)):
        write_run(tmp_path, name, all_right(labels), labels, changed=changed)
    notes = experiment_of(tmp_path).notes
    assert any("NOT COMPARABLE" in note and "tune_order" in note for note in notes) == said


def test_the_verdict_says_where_another_training_might_turn_it(tmp_path):
    """LP is better than FT in sum, but in one fold of three alone: separable over images, not over folds."""
    write_folds(
        tmp_path, {"FT": dict.fromkeys([(0, 0), (0, 1), (0, 2)], 0.6), "LP": {(0, 0): 0.96, (0, 1): 0.6, (0, 2): 0.6}}
    )
    experiment = experiment_of(tmp_path)
    pair = experiment.pair("LP", "FT")
    assert pair.verdict == "better" and pair.t.p > 0.05
    assert (
        f"the corrected t-test over folds does not confirm that it is better than FT (p = {pair.t.p:.3f})"
        in experiment.verdict
    )
    assert any("0 of the 1 differences hold" in note for note in experiment.pair_notes)


@pytest.mark.parametrize("worse", ["LP", "LP-FT", "G-LF"])
def test_the_verdict_s_doubt_is_of_any_strategy_and_not_of_ft_alone(tmp_path, worse):
    """FT is better than the other in one fold of three alone; L2-SP loses alike in every fold, which no test
    doubts."""
    places = [(0, 0), (0, 1), (0, 2)]
    accuracy = {"FT": {(0, 0): 0.96, (0, 1): 0.6, (0, 2): 0.6}, worse: dict.fromkeys(places, 0.6)}
    accuracy["L2-SP"] = {(0, 0): 0.61, (0, 1): 0.25, (0, 2): 0.26}
    write_folds(tmp_path, accuracy)
    experiment = experiment_of(tmp_path)
    pair = experiment.pair("FT", worse)
    # Nadeau and Bengio 2003 by hand: 0.36, 0, 0 over three folds, n_test / n_train = 1
    differences = np.array([0.36, 0.0, 0.0])
    t = differences.mean() / math.sqrt((1 / 3 + 1 / 1) * differences.var(ddof=1))
    assert pair.verdict == "better" and pair.t.t == pytest.approx(t, rel=1e-9) and pair.t.p > 0.05
    assert experiment.pair("FT", "L2-SP").t.p < 0.05
    doubt = f"does not confirm that it is better than {worse} (p = {pair.t.p:.3f})"
    assert experiment.verdict.startswith("FT has the highest accuracy") and doubt in experiment.verdict
    assert "better than L2-SP (p" not in experiment.verdict and "and L2-SP (p" not in experiment.verdict


def test_runs_whose_last_epoch_is_their_best_are_named():
    def run(best, epochs=3):
        return SimpleNamespace(result={"best_epoch": best, "epochs": epochs})

    finished = {"FT": [run(3), run(2)], "LP": [run(3)], "LP-FT": [run(1)]}
    (said,) = notes.unconverged_note(SimpleNamespace(finished=finished))
    assert "FT (1 of 2 runs) and LP (1 of 1 run)" in said and "LP-FT" not in said
    assert notes.unconverged_note(SimpleNamespace(finished={"FT": [run(2)], "LP": []})) == []
