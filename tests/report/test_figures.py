"""figures.py: what is drawn equals the analysis, no data no figure, names are literal, files whole.
python -m pytest tests/report/test_figures.py      needs matplotlib, 15 s"""

import os
import subprocess
import sys
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest
from awkward import later_strategies
from conftest import ROOT
from factory import (
    NAMES,
    NAN,
    make_across,
    make_analysis,
    make_estimate,
    make_experiment,
    make_layer_rates,
    without_runs,
)

from report import drawing, figures, views
from report.experiment import Bin, Calibration, LayerRates

TWO = ("benign", "malignant")
FEW = NAMES[:2]
STYLES = drawing.styles_of(NAMES)


@pytest.fixture(autouse=True)
def matplotlib():
    return pytest.importorskip("matplotlib")


# ---- experiments that have little to draw ----


NOTHING = {key: {} for key in "curves confusion roc pr calibration".split()} | {"layer_rates": None}


def bare(data="demo", arch="resnet18", **changes):
    """Rows and nothing else."""
    return make_experiment(data, arch, strategies=FEW, **NOTHING | changes)


def empty(data="demo"):
    """A strategy without a finished run."""
    experiment = bare(data)
    return replace(experiment, rows=[without_runs(row) for row in experiment.rows])


def with_means(experiment, means, **by_name):
    """Other means; by_name: a field of the rows -> its values."""
    rows = []
    for i, (row, mean) in enumerate(zip(experiment.rows, means, strict=True)):
        rows.append(replace(row, test=make_estimate(mean), **{name: x[i] for name, x in by_name.items()}))
    return replace(experiment, rows=rows)


def drawn(function, part, styles=STYLES):
    """The Figure after the function, not yet rendered."""
    from matplotlib.figure import Figure

    figure = Figure(dpi=drawing.DPI)
    with drawing.our_settings():
        function(figure, part, styles)
    return figure


def lines_of(axes):
    """{colour: line} of the strategies' lines, which alone have markers."""
    return {line.get_color(): line for line in axes.lines if line.get_marker() not in ("", "None", None)}


def texts_of(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def color_of(strategy):
    return STYLES[strategy].color


# ---- files ----


STEMS = "intervals learning-curves score-and-cost roc precision-recall confusion reliability".split()
STEMS.append("auto-rgn-rates")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("figures")
    (folder / "notes.png").write_bytes(b"the user's")
    rates = make_layer_rates(epochs=2)
    full = make_experiment(strategies=FEW, classes=TWO, epochs=2, layer_rates=rates)
    experiments = [full, bare("My scans (2)", "vit_b_16"), empty("nothing")]
    analysis = make_analysis(experiments, across=make_across([make_experiment(name, strategies=FEW) for name in "abc"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return folder, figures.draw(analysis, folder)


def test_there_are_the_files_that_there_is_data_for_and_no_others(report):
    names = [f"demo-resnet18-{stem}" for stem in STEMS]
    names += ["my-scans-2-vit-b-16-intervals", "my-scans-2-vit-b-16-score-and-cost"]
    names += ["all-heat-map", "all-critical-difference"]
    wanted = {f"{name}.{ending}" for name in names for ending in ("png", "pdf")}
    found = {file.name for file in report[0].iterdir()}
    assert found == wanted | {"notes.png"} and (report[0] / "notes.png").read_bytes() == b"the user's"
    assert {name for name in found if figures.makes(name)} == wanted
    assert not any(map(figures.makes, ("gradcam-demo-resnet18.png", "Demo-roc.png", "demo-roc.svg")))


def test_what_is_returned_is_what_was_written_with_captions_that_name_the_experiment(report):
    folder, found = report
    assert list(found) == [("", ""), ("demo", "resnet18"), ("My scans (2)", "vit_b_16")]
    pictures = found["demo", "resnet18"]
    assert [picture.key for picture in pictures] == STEMS
    captions = {picture.key: picture.caption for picture in pictures}
    for picture in pictures:
        assert picture.png == (folder / f"demo-resnet18-{picture.key}.png").read_bytes()
        assert picture.caption.startswith("demo, resnet18: ") and "{" not in picture.caption
    assert captions["intervals"].endswith("over patients, from 125 test images of 40 patients. Dotted: FT.")
    assert captions["roc"].endswith("Positive: malignant.")
    assert "learning rate that Auto-RGN gives each layer" in captions["auto-rgn-rates"]
    assert "CD = 6.06" in found["", ""][1].caption and "3 pairs of dataset" in found["", ""][1].caption


def test_png_are_as_wide_as_a_column_or_the_page_and_not_blank(report):
    from PIL import Image

    for file in report[0].glob("*-*.png"):
        pixels = np.asarray(Image.open(file).convert("L"))
        assert pixels.shape[1] <= 7 * drawing.DPI and pixels.shape[0] <= 9 * drawing.DPI, file.name
        assert 100 < (pixels < 200).sum() < pixels.size / 2, file.name  # drawn upon, and mostly white
    width = {n: Image.open(report[0] / f"demo-resnet18-{n}.png").width for n in ("roc", "learning-curves")}
    assert width == {"roc": 455, "learning-curves": 910}


def test_pdf_embed_truetype_and_hold_no_date(report):
    for file in report[0].glob("*.pdf"):
        content = file.read_bytes()
        assert content.startswith(b"%PDF") and b"%%EOF" in content[-8:]
        assert b"/FontFile2" in content and b"/Type3" not in content, file.name
        assert b"CreationDate" not in content, file.name


SMALL = """
import sys; sys.path[:0] = sys.argv[2:]
import matplotlib, pathlib, test_figures as t
matplotlib.rcParams.update({"font.size": 20, "text.usetex": True, "figure.facecolor": "red"})
names = ("font.size", "font.family", "text.usetex", "pdf.fonttype")
before = {name: matplotlib.rcParams[name] for name in names}
t.figures.draw(t.small(), pathlib.Path(sys.argv[1]))
assert before == {name: matplotlib.rcParams[name] for name in before} and before["font.size"] == 20
assert "matplotlib.pyplot" not in sys.modules
"""


def small():
    return make_analysis([bare(layer_rates=make_layer_rates(epochs=3))])


def test_the_same_bytes_again_in_another_process_with_other_settings(tmp_path):
    figures.draw(small(), tmp_path / "here")
    places = [tmp_path / "there", ROOT / "tests" / "report", ROOT / "tests", ROOT]
    command = [sys.executable, "-c", SMALL, *map(str, places)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    here, there = ({f.name: f.read_bytes() for f in (tmp_path / d).iterdir()} for d in ("here", "there"))
    assert len(here) == 6 and here == there


def test_without_matplotlib_there_is_nothing_and_no_folder(tmp_path, monkeypatch):
    assert figures.available()
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not figures.available()
    assert figures.draw(make_analysis([bare()]), tmp_path / "figures") == {}
    assert not (tmp_path / "figures").exists()


# ---- what is drawn ----


def test_intervals_are_the_rows_in_their_order():
    experiment = make_experiment()
    rows = [without_runs(row) if row.strategy == "Auto-RGN" else row for row in experiment.rows]
    (axes,) = drawn(figures.intervals, replace(experiment, rows=rows)).axes
    shown = [row for row in rows if row.done]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.strategy for row in shown]
    for i, row in enumerate(shown):
        assert lines_of(axes)[color_of(row.strategy)].get_xdata() == [row.test.mean]
        bars = [line for line in axes.lines if list(line.get_ydata()) == [i, i]]
        assert [list(bar.get_xdata()) for bar in bars] == [[row.test.low, row.test.high]]
        assert f"{row.test.mean:.3f} [{row.test.low:.3f}, {row.test.high:.3f}]" in texts_of(axes.figure)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # FT on top
    assert axes.get_xlabel() == "test balanced accuracy"


def test_learning_curves_are_the_curves_and_their_bands():
    experiment = make_experiment(epochs=5)
    curves = dict(experiment.curves) | {"G-LF": []}
    curves["LP"] = [replace(point, val_loss=NAN) if point.epoch == 3 else point for point in curves["LP"]]
    metric, train, val = drawn(figures.learning_curves, replace(experiment, curves=curves)).axes
    assert metric.get_ylabel() == "validation balanced accuracy"
    for axes, name in ((metric, "val_metric"), (train, "train_loss"), (val, "val_loss")):
        assert set(lines_of(axes)) == {color_of(s) for s in NAMES if s != "G-LF"}
        for strategy in ("FT", "LP", "Auto-RGN"):
            wanted = [getattr(point, name) for point in curves[strategy]]
            xy = lines_of(axes)[color_of(strategy)].get_xydata()
            np.testing.assert_array_equal(xy, np.column_stack([range(1, 6), wanted]))
    band = metric.collections[0].get_paths()[0].vertices
    wanted = [end for point in curves["FT"] for end in (point.low, point.high)]
    assert set(np.round(band[:, 1], 12)) == set(np.round(wanted, 12)) and not val.collections


@pytest.mark.parametrize(("slowest", "scale"), [(9, "linear"), (20, "log")])
def test_cost_is_logarithmic_from_a_decade_on_and_the_legend_names_the_points(slowest, scale):
    experiment = make_experiment()
    minutes = [2 + 0.1 * i for i in range(len(NAMES) - 1)] + [slowest]
    rows = [replace(row, minutes=x) for row, x in zip(experiment.rows, minutes, strict=True)]
    figure = drawn(figures.score_against_cost, replace(experiment, rows=rows))
    (axes,) = figure.axes
    assert axes.get_xscale() == scale and axes.get_xlabel() == "minutes a run"
    assert [text.get_text() for text in figure.legends[0].texts] == NAMES
    for row in rows:
        xy = lines_of(axes)[color_of(row.strategy)].get_xydata()
        assert xy.tolist() == [[row.minutes, row.test.mean]]
    bars = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "None"]
    assert bars == [[[row.minutes, end] for end in (row.test.low, row.test.high)] for row in rows]


def test_roc_of_two_classes_is_one_panel_with_the_areas_in_the_legend():
    experiment = make_experiment(strategies=NAMES[:3], classes=TWO)
    figure = drawn(figures.roc, experiment)
    (axes,) = figure.axes
    for strategy in NAMES[:3]:
        (curve,) = experiment.roc[strategy]
        xy = lines_of(axes)[color_of(strategy)].get_xydata()
        np.testing.assert_array_equal(xy, np.column_stack([curve.grid, curve.mean]))
        assert f"{strategy}, AUROC {curve.area:.3f}" in [t.get_text() for t in figure.legends[0].texts]
    assert len(axes.collections) == 3 and list(axes.lines[0].get_ydata()) == [0, 1]  # bands, chance
    assert axes.get_ylabel() == "sensitivity" and axes.get_xlabel() == "1 − specificity"


def test_precision_recall_of_many_classes_is_a_panel_each_with_its_prevalence():
    experiment = make_experiment(classes=[f"class {i}" for i in range(7)], strategies=FEW)
    curves = {
        name: [replace(curve, prevalence=0.1 * (1 + int(curve.name[-1]))) for curve in found]
        for name, found in experiment.pr.items()
    }
    curves["LP"].pop(2)  # no positive of it in LP's runs
    figure = drawn(figures.precision_recall, replace(experiment, pr=curves))
    assert [axes.get_title() for axes in figure.axes] == [f"class {i}" for i in range(6)]
    assert [len(lines_of(axes)) for axes in figure.axes] == [2, 2, 1, 2, 2, 2]
    lines = [list(axes.lines[0].get_ydata()) for axes in figure.axes]
    np.testing.assert_allclose(lines, [[0.1 * (i + 1)] * 2 for i in range(6)])
    assert figures.words_of_experiment(experiment)["classes"] == " 6 of 7 classes."


def test_confusion_is_coloured_by_the_true_classes_share_and_tells_the_counts():
    matrices = {"FT": [[8, 2, 0], [0, 0, 0], [1, 1, 2]], "LP": [[0] * 3] * 3}
    figure = drawn(figures.confusion, make_experiment(classes="xyz", strategies=FEW, confusion=matrices))
    axes, _ = figure.axes  # LP has predicted nothing
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2, 0], [0, 0, 0], [0.25, 0.25, 0.5]])
    assert axes.images[0].get_clim() == (0, 1) and axes.get_title() == "FT"
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts[0, 0] == "8" and counts[1, 0] == "2" and counts[0, 2] == "1" and len(counts) == 9
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y", "z"]
    assert axes.get_ylabel() == "true class" and axes.get_ylim() == (2.5, -0.5)


def test_a_hundred_classes_have_no_counts_but_numbers():
    experiment = make_experiment(strategies=["FT"], classes=[f"class {i}" for i in range(100)])
    axes = drawn(figures.confusion, experiment).axes[0]
    assert not axes.texts and axes.get_xlabel() == "predicted class (number)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "40", "60", "80", "100"]
    assert list(axes.get_xticks()) == [19, 39, 59, 79, 99]


def test_reliability_draws_the_filled_bins_and_their_share():
    empty = Bin(low=0, high=1 / 3, count=0, confidence=NAN, accuracy=NAN)
    bins = [
        empty,
        Bin(low=1 / 3, high=2 / 3, count=30, confidence=0.4, accuracy=0.5),
        Bin(low=2 / 3, high=1, count=10, confidence=0.9, accuracy=0.8),
    ]
    found = {"FT": Calibration(bins, ece=0.1, brier=0.2), "LP": Calibration([empty], ece=NAN, brier=NAN)}
    (axes,) = drawn(figures.reliability, make_experiment(strategies=FEW, calibration=found)).axes
    assert lines_of(axes)["#000000"].get_xydata().tolist() == [[0.4, 0.5], [0.9, 0.8]]
    assert [bar.get_height() for bar in axes.patches] == [0, 0.75, 0.25]
    np.testing.assert_allclose([bar.get_x() for bar in axes.patches], [0, 1 / 3, 2 / 3])
    assert "ECE 0.100\nn 40" in texts_of(axes.figure)


@pytest.mark.parametrize(
    ("scores", "labels", "shares"),
    [
        # two classes: no confidence is below a half
        ([[0.45, 0.55], [0.3, 0.7], [0.32, 0.68], [0.02, 0.98]], [1, 0, 1, 1], {5: 1, 6: 2, 9: 1}),
        # a gap in the middle, 0.9 in (0.8, 0.9]
        ([[0.35, 0.33, 0.32], [0.9, 0.05, 0.05]], [0, 1], {3: 1, 8: 1}),
        ([[0.05, 0.95], [0.0, 1.0]], [1, 1], {9: 2}),  # one bin alone
        ([[0.04, 0.96], [0.42, NAN]], [[0, 1], [1, NAN]], {0: 1, 9: 1, 4: 1}),  # several labels
    ],
)
def test_grey_bars_stand_over_the_confidence_that_they_count(scores, labels, shares):
    labels, scores = np.array(labels), np.nan_to_num(np.array(scores))
    task = "multiclass" if labels.ndim == 1 else "multilabel"
    run = types.SimpleNamespace(repeat=(0, 0), value=lambda split, metric: 0.123)
    scored = {("FT", (0, 0)): types.SimpleNamespace(scores=scores, labels=labels)}
    evidence = types.SimpleNamespace(finished={"FT": [run]}, scored=scored)
    found = views.calibrations(evidence)
    (axes,) = drawn(figures.reliability, make_experiment(strategies=["FT"], task=task, calibration=found)).axes
    heights = {round(bar.get_x(), 9): bar.get_height() for bar in axes.patches}
    total = sum(shares.values())
    assert heights == pytest.approx({k / 10: shares.get(k, 0) / total for k in range(10)})
    assert {round(bar.get_width(), 9) for bar in axes.patches} == {0.1}
    assert f"ECE 0.123\nn {total}" in texts_of(axes.figure)
    assert axes.get_ylabel() == {"multiclass": "accuracy", "multilabel": "share with the label"}[task]


def test_layer_rates_are_logarithmic_and_labelled_by_layer_or_by_block():
    found = make_layer_rates(layers=35, epochs=3)
    found.rate[1] = [0, NAN, 1e-5]
    axes, _ = drawn(figures.layer_rates, make_experiment(layer_rates=found)).axes
    image = axes.images[0].get_array()
    assert image.shape == (35, 3) and image[0, 0] == found.rate[0][0]
    assert image.mask[1].tolist() == [True, True, False]
    assert type(axes.images[0].norm).__name__ == "LogNorm"
    assert [label.get_text() for label in axes.get_yticklabels()] == found.layers
    blocks = [f"denseblock{i // 40}" for i in range(160)]
    layers = [f"features.denseblock{i // 40}.denselayer{i % 40}.conv" for i in range(160)]
    found = LayerRates("Auto-RGN", layers, blocks, [1, 2, 3], [[1e-4, 1e-4, 1e-4]] * 160)
    axes, _ = drawn(figures.layer_rates, make_experiment(layer_rates=found)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"denseblock{i}" for i in range(4)]
    assert list(axes.get_yticks()) == [19.5, 59.5, 99.5, 139.5]
    assert [line.get_ydata()[0] for line in axes.lines] == [39.5, 79.5, 119.5]


# ---- over experiments ----


def test_heat_map_shows_scores_and_colours_the_distance_to_the_rows_best():
    one = with_means(make_experiment(strategies=["FT", "LP"]), (0.8, 0.9), best=(False, True))
    other = make_experiment("other", strategies=["LP", "Auto-RGN"], metric="ece", higher_is_better=False)
    other = with_means(other, (0.2, 0.3), best=(True, False))
    assert not drawn(figures.heat_map, make_analysis([one])).axes
    assert not drawn(figures.heat_map, make_analysis([one, empty()])).axes
    axes, _ = drawn(figures.heat_map, make_analysis([one, other])).axes
    behind = axes.images[0].get_array()
    np.testing.assert_allclose(behind.filled(-1), [[0.1, 0, -1], [-1, 0, 0.1]], atol=1e-12)
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "0.800", (1, 0): "0.900", (1, 1): "0.200", (2, 1): "0.300"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["FT", "LP", "Auto-RGN"]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["demo, resnet18\nbalanced accuracy", "other, resnet18\nexpected calibration error"]


def frames_of(axes):
    """(row, column) of what is framed: where the centre of a frame lies."""
    frames = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 5]
    return {(round(xy[:4, 1].mean()), round(xy[:4, 0].mean())) for xy in frames}


def test_heat_map_frames_what_the_table_ranks_first():
    """LP has the highest value from fewer runs, L2-SP by calling one class: neither is the table's best."""
    names = ["FT", "LP", "L2-SP", "Auto-RGN"]
    marks = {"ranked": (True, False, True, True), "collapsed": (False, False, True, False)}
    first, none = (True, False, False, False), [False] * 4
    plan = [
        ((0.7, 0.9, 0.8, 0.6), marks | {"best": first}),
        ((0.7, 0.9, 0.6, 0.7), marks | {"best": first}),
        ((0.5, 0.5, 0.5, 0.5), marks | {"best": none, "ranked": none}),  # runs that are not alike
    ]
    experiments = [
        with_means(make_experiment(f"data {i}", strategies=names), means, **by_name)
        for i, (means, by_name) in enumerate(plan)
    ]
    axes, _ = drawn(figures.heat_map, make_analysis(experiments)).axes
    assert frames_of(axes) == {(0, 0), (1, 0), (1, 3)}  # in the second FT and Auto-RGN tie
    behind = axes.images[0].get_array().filled(-1)
    np.testing.assert_allclose(behind, [[0, -1, 0, 0.1], [0, -1, 0.1, 0], [-1] * 4], atol=1e-12)
    assert len(axes.texts) == 12  # every value is there


def test_critical_difference_places_ranks_cliques_and_bar_to_scale():
    ranks = {"FT": 2.4, "LP": 6.9, "G-LF": 5.3, "G-FL": 2.8, "LP-FT": 4.6}
    analysis = make_analysis([make_experiment(name) for name in "abc"])
    cliques = [["FT", "G-FL", "LP-FT", "G-LF"], ["LP-FT", "G-LF", "LP"]]
    across = replace(analysis.across, average_ranks=ranks, cd=3.4, cliques=cliques)
    figure = drawn(figures.critical_difference, replace(analysis, across=across))
    (axes,) = figure.axes
    colours = {color_of(name): name for name in ranks}
    x = {
        colours[line.get_color()]: line.get_xdata()[0]
        for line in axes.lines
        if line.get_color() in colours and line.get_linewidth() == 0.9
    }
    unit = (x["G-FL"] - x["LP"]) / (6.9 - 2.8)
    assert x["FT"] - x["LP-FT"] == pytest.approx((4.6 - 2.4) * unit)
    assert unit > 0  # the best at the right, as in Demsar's
    cd = next(line for line in axes.lines if line.get_color() == drawing.GREY).get_xdata()
    assert cd[1] - cd[0] == pytest.approx(3.4 * unit)
    bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 2.5]
    spans = [(5.3 - 2.4) * unit + 0.06, (6.9 - 4.6) * unit + 0.06]
    assert [bar[1] - bar[0] for bar in bars] == pytest.approx(spans)
    assert "2.40 FT" in texts_of(figure) and "LP 6.90" in texts_of(figure) and "CD = 3.40" in texts_of(figure)
    for none in (None, replace(across, cd=None), replace(across, average_ranks={"FT": 1.0})):
        assert not drawn(figures.critical_difference, replace(analysis, across=none)).axes


# ---- little data, awkward names ----


def test_an_experiment_without_data_has_no_figure():
    assert list(figures.OF_AN_EXPERIMENT) == STEMS
    kinds = figures.OF_AN_EXPERIMENT.items()
    assert [stem for stem, kind in kinds if drawn(kind.draw, empty()).axes] == []


def test_names_from_the_data_are_drawn_as_they_are(tmp_path):
    names = [r"$\nosuch$ {x}", "_a^b", "正常", "line\nbreak\udce9", "x" * 300]
    full = make_experiment("{data} $", "_", ["FT"], names, epochs=1)
    rates = make_layer_rates(layers=3, epochs=1)
    rates.layers[0] = "$" + "long." * 20 + "weight_"
    panels = [axes.get_title() for axes in drawn(figures.roc, full).axes]
    assert panels == [r"$\nosuch$ {x}", "_a^b", "正常", "line break", "x" * 25 + "…"]
    experiment = bare("{data} $", "_", classes=names, roc=full.roc, layer_rates=rates)
    layer = drawn(figures.layer_rates, experiment).axes[0].get_yticklabels()[0].get_text()
    assert layer == "…" + ("long." * 20 + "weight_")[-25:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = figures.draw(make_analysis([experiment]), tmp_path)
    captions = [picture.caption for picture in found["{data} $", "_"]]
    assert any(caption.startswith("{data} $, _: ROC curves") for caption in captions)
    assert (tmp_path / "data-x-roc.pdf").is_file()


@pytest.mark.parametrize("stem", STEMS)
def test_one_strategy_one_epoch_and_no_interval_is_enough(stem):
    experiment = make_experiment(strategies=["LP-FT"], epochs=1, classes="abcd")
    test = replace(experiment.rows[0].test, low=NAN, high=NAN, sd=NAN)
    rates = replace(make_layer_rates(epochs=1), rate=[[1e-4]] * 22)
    experiment = replace(experiment, rows=[replace(experiment.rows[0], test=test)], layer_rates=rates)
    figure = drawn(figures.OF_AN_EXPERIMENT[stem].draw, experiment)
    figure.canvas.draw()
    assert figure.axes and 1.5 < figure.get_figwidth() <= 7 and 0.5 < figure.get_figheight() < 9


def test_strategies_that_no_list_knows_are_drawn():
    analysis = later_strategies()
    styles = drawing.styles_of(analysis.strategies)
    (experiment,) = analysis.experiments
    for stem in STEMS[:-1]:
        assert drawn(figures.OF_AN_EXPERIMENT[stem].draw, experiment, styles).axes, stem
    (axes,) = drawn(figures.score_against_cost, experiment, styles).axes
    assert len(lines_of(axes)) == len(drawing.STYLES)
