"""Analyses that are awkward to print: names that break markup, runs that are missing, one strategy, a hundred
classes. ANALYSES: name -> function that makes one; `every` runs a test on each."""

from dataclasses import replace

import pytest
from factory import NAN, lose_runs, make_analysis, make_experiment, without_runs

from report import experiment as typed

HOSTILE = "<script>alert(\"x\")</script> & 'q' {$} # % _ ~ ^ \\ | ` *b* \u202eevil"
LONG = "a_very_long_class_name_" * 8


def several():
    experiments = [
        make_experiment(),
        make_experiment("isic2020", classes=("benign", "malignant")),
        lose_runs(make_experiment("t1w", "densenet121", layers=121)),
    ]
    return make_analysis(experiments)


def lost_runs():
    return make_analysis([lose_runs(make_experiment())], ["one split only: the spread over splits is unknown"])


def hostile():
    """Names that would break a page, a Markdown table or LaTeX."""
    experiment = make_experiment(HOSTILE, "res&net<18>", classes=(HOSTILE, "الطبيعي", LONG, "nan"))
    first, *others = experiment.rows
    images = list(experiment.hardest)
    images[1] = replace(images[1], image=f"../{HOSTILE}/{'x' * 300}\udcff.png")
    images[2] = replace(images[2], thumbnail='javascript:alert(1)" onerror="x')
    experiment = replace(
        experiment,
        rows=[replace(first, failed=1, sentence=HOSTILE, citation=HOSTILE), *others],
        lost_cells=[typed.LostCell(first.strategy, seed=0, fold=0, status="failed", reason=HOSTILE)],
        hardest=images,
        commands=[f"python ftcompare.py --data '{HOSTILE}'"],
        data_notes=[HOSTILE],
        citation=HOSTILE,
        verdict=f"On {HOSTILE} FT is best.",
        settings=experiment.settings | {"weights": HOSTILE},
    )
    return make_analysis([experiment], warnings=[HOSTILE])


def one_strategy():
    return make_analysis([make_experiment(strategies=("LP",))])


def one_seed():
    experiment = make_experiment(n=1, full=False)
    rates = {"sensitivity": NAN, "specificity": 0.8, "ppv": NAN, "npv": 0.7}
    threshold = typed.Threshold("FT", "cyst", threshold=0.4, sd=NAN, rates=rates)
    return make_analysis([replace(experiment, thresholds=[threshold])])


def no_pairs():
    return make_analysis([make_experiment(pairs=[], layer_rates=None, curves={})])


def nothing_done():
    none = {key: {} for key in "curves confusion roc pr calibration".split()}
    none |= {key: [] for key in "pairs thresholds hardest".split()}
    counts = dict.fromkeys(("test_images", "test_groups", "named_groups"), 0)
    experiment = make_experiment(layer_rates=None, verdict="No run has finished.", **none, **counts)
    return make_analysis([replace(experiment, rows=[without_runs(row, failed=3) for row in experiment.rows])])


def fourteen_labels():
    return make_analysis([make_experiment(task="multilabel", classes=[f"finding {i}" for i in range(14)])])


def hundred_classes():
    return make_analysis([make_experiment(classes=[f"triplet{i}" for i in range(100)])])


def later_strategies():
    """More than there are styles, of which no list knows, and no FT."""
    return make_analysis([make_experiment(strategies=[f"new{i}" for i in range(15)], epochs=2)])


def nothing_at_all():
    return make_analysis([], ["no finished run below runs"])


MAKERS = (several, lost_runs, hostile, one_strategy, one_seed, no_pairs, nothing_done, fourteen_labels)
ANALYSES = {maker.__name__: maker for maker in (*MAKERS, hundred_classes, later_strategies, nothing_at_all)}
every = pytest.mark.parametrize("name", ANALYSES)
