"""figures.py: what is drawn equals the analysis, no data no figure, names are literal, files whole.
python -m pytest tests/test_figures.py      needs matplotlib, 15 s"""

import math
import os
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

from report import figures, views

PAPER = ["FT", "LP", "G-LF", "G-FL", "LP-FT", "L1-SP", "L2-SP", "Auto-RGN"]
NAN = math.nan


@pytest.fixture(autouse=True)
def matplotlib():
    return pytest.importorskip("matplotlib")


# ---- an analysis as report.analyse gives it, of invented runs


def a_row(strategy, mean, rng, minutes):
    test = {"mean": mean, "sd": 0.01, "n": 3, "low": mean - 0.03 * rng.random() - 0.01, "high": mean + 0.03}
    known = {"best": False, "ranked": True, "collapsed": False}
    return {"strategy": strategy, "test": test, "minutes": minutes} | known


def with_best(block):
    """The block, its best row marked as analysis.mark_best does where all have the same runs."""
    key = (max if block["higher_is_better"] else min)(row["test"]["mean"] for row in block["rows"])
    for row in block["rows"]:
        row["best"] = row["test"]["mean"] == key
    return block


def a_curve(rng, epochs, level):
    rows = []
    for epoch in range(1, epochs + 1):
        value = level * (1 - math.exp(-epoch / 5)) + 0.01 * rng.standard_normal()
        loss = 1 - level + 1.5 * math.exp(-epoch / (3 + 4 * level))
        rows.append(
            {"epoch": epoch, "train_loss": loss, "val_loss": loss + 0.01 * epoch + 0.02 * rng.random()}
            | {"val_metric": value, "low": value - 0.02, "high": value + 0.02, "runs": 3}
        )
    return rows


def a_band(name, level, prevalence=None):
    grid = np.linspace(0, 1, 101)
    if prevalence is None:
        mean, area = grid ** (1 / level - 1), {"auroc": level}
    else:
        mean = 1 - (1 - prevalence) * grid ** (12 * level - 6)
        area = {"ap": level, "prevalence": prevalence}
    low, high = np.clip(mean - 0.04, 0, 1), np.clip(mean + 0.03, 0, 1)
    return {
        "class": name,
        "grid": list(grid),
        "mean": list(mean),
        "low": list(low),
        "high": list(high),
    } | area


def a_block(
    data="demo", arch="resnet18", classes=("benign", "malignant"), strategies=PAPER, epochs=20, **changes
):
    rng = np.random.default_rng(len(data) * 100 + len(arch))
    classes, n = list(classes), len(classes)
    level = {s: 0.7 + 0.2 * rng.random() for s in strategies}
    shown = [classes[-1]] if n == 2 else classes[:6]
    confusion, calibration = {}, {}
    for s in strategies:
        matrix = rng.integers(0, max(2, 60 // n), (n, n)) + np.diag(rng.integers(60, 240, n))
        confusion[s] = matrix.tolist()
        bins = []
        for i in range(15):
            mid = (i + 0.5) / 15
            known = {"confidence": mid, "accuracy": mid**1.3 + 0.03 * rng.random(), "count": 3 + i**2}
            empty = {"confidence": NAN, "accuracy": NAN, "count": 0}
            bins.append({"low": i / 15, "high": (i + 1) / 15} | (known if i >= 4 else empty))
        calibration[s] = {"bins": bins, "ece": 0.05 + 0.1 * rng.random(), "brier": 0.2}
    layers, blocks = ["conv1", "bn1"], ["stem", "stem"]
    for stage in range(1, 5):
        for unit in range(2):
            layers += [f"layer{stage}.{unit}.{kind}" for kind in ("conv1", "bn1", "conv2", "bn2")]
            blocks += [f"layer{stage}"] * 4
    layers, blocks = layers + ["fc"], blocks + ["head"]
    rate = 1e-3 * 10 ** (-3 * rng.random((len(layers), 1)) - 0.05 * np.arange(epochs))
    block = {
        "data": data,
        "arch": arch,
        "task": "multiclass",
        "classes": classes,
        "metric": "balanced_accuracy",
        "higher_is_better": True,
        "unit_kind": "image",
        "group_kind": "patient",
        "test_images": 1670,
        "test_groups": 167,
        "rows": [a_row(s, level[s], rng, 3 + 9 * rng.random()) for s in strategies],
        "curves": {s: a_curve(rng, epochs, level[s]) for s in strategies},
        "confusion": confusion,
        "roc": {s: [a_band(c, level[s]) for c in shown] for s in strategies},
        "pr": {s: [a_band(c, level[s], 0.2) for c in shown] for s in strategies},
        "calibration": calibration,
        "ratios": {
            "layers": layers,
            "blocks": blocks,
            "epochs": list(range(1, epochs + 1)),
            "rate": rate.tolist(),
        },
    }
    return with_best(block) | changes


ACROSS = {
    "datasets": ["demo, resnet18", "demo, resnet50", "other, resnet18"],
    "average_ranks": dict(zip(PAPER, (4.4, 6.9, 5.3, 5.1, 2.8, 4.6, 4.5, 2.4))),
    "cd": 3.4,
    "alpha": 0.05,
    "cliques": [
        ["Auto-RGN", "LP-FT", "FT", "L2-SP", "L1-SP", "G-FL", "G-LF"],
        ["FT", "L2-SP", "L1-SP", "G-FL", "G-LF", "LP"],
    ],
}


def an_analysis(*blocks, across=None):
    return {"folder": "runs", "blocks": list(blocks), "across": across, "across_note": "", "warnings": []}


def empty_block(**changes):
    rows = [{"strategy": "FT", "test": dict.fromkeys(("mean", "sd", "low", "high"), NAN), "minutes": NAN}]
    none = {
        "curves": {},
        "confusion": {},
        "roc": {},
        "pr": {},
        "calibration": {},
        "ratios": None,
        "rows": rows,
    }
    return a_block() | none | changes


def drawn(function, part):
    """The Figure after the function, not yet rendered."""
    from matplotlib.figure import Figure

    figure = Figure(dpi=figures.DPI)
    with figures._settings():
        function(figure, part)
    return figure


def lines_of(axes):
    """{colour: line} of the strategies' lines, which alone have markers."""
    return {line.get_color(): line for line in axes.lines if line.get_marker() not in ("", "None", None)}


def texts_of(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def color_of(strategy):
    return figures.STYLES[strategy][0]


# ---- files


STEMS = [
    "intervals",
    "learning-curves",
    "score-and-cost",
    "roc",
    "precision-recall",
    "confusion",
    "reliability",
    "auto-rgn-rates",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("figures")
    (folder / "notes.png").write_bytes(b"the user's")
    full = a_block(strategies=PAPER[:2], epochs=2, positive="malignant")
    bare = empty_block(data="My scans (2)", arch="vit_b_16", rows=a_block(strategies=PAPER[:2])["rows"])
    none = empty_block(data="nothing")
    analysis = an_analysis(full, bare, none, across=ACROSS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return folder, figures.draw(analysis, folder), analysis


def test_there_are_the_files_that_there_is_data_for_and_no_others(report):
    folder, _, _ = report
    names = [f"demo-resnet18-{stem}" for stem in STEMS]
    names += ["my-scans-2-vit-b-16-intervals", "my-scans-2-vit-b-16-score-and-cost"]
    names += ["all-heat-map", "all-critical-difference"]
    wanted = {f"{name}.{ending}" for name in names for ending in ("png", "pdf")} | {"notes.png"}
    assert {file.name for file in folder.iterdir()} == wanted
    assert (folder / "notes.png").read_bytes() == b"the user's"


def test_what_is_returned_is_what_was_written_with_captions_that_name_the_block(report):
    folder, drawn_, _ = report
    assert list(drawn_) == [("", ""), ("demo", "resnet18"), ("My scans (2)", "vit_b_16")]
    pictures = drawn_["demo", "resnet18"]
    assert [png for _, png in pictures] == [(folder / f"demo-resnet18-{s}.png").read_bytes() for s in STEMS]
    assert all(caption.startswith("demo, resnet18: ") and "{" not in caption for caption, _ in pictures)
    assert "1,670 test images of 167 patients" in pictures[0][0]
    assert pictures[3][0].endswith("Positive: malignant.")
    assert "CD = 3.40" in drawn_["", ""][1][0] and "3 pairs of dataset" in drawn_["", ""][1][0]


def test_png_are_as_wide_as_a_column_or_the_page_and_not_blank(report):
    from PIL import Image

    for file in report[0].glob("*-*.png"):
        pixels = np.asarray(Image.open(file).convert("L"))
        assert pixels.shape[1] <= 7 * figures.DPI and pixels.shape[0] <= 9 * figures.DPI, file.name
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
import sys; sys.path[:0] = sys.argv[2:4]
import figures, test_figures as t, matplotlib
matplotlib.rcParams.update({"font.size": 20, "text.usetex": True, "figure.facecolor": "red"})
names = ("font.size", "font.family", "text.usetex", "pdf.fonttype")
before = {name: matplotlib.rcParams[name] for name in names}
block = t.empty_block(**{k: t.a_block(strategies=t.PAPER[:2], epochs=3)[k] for k in ("rows", "ratios")})
figures.draw(t.an_analysis(block), figures.Path(sys.argv[1]))
assert before == {name: matplotlib.rcParams[name] for name in before} and before["font.size"] == 20
assert "matplotlib.pyplot" not in sys.modules
"""


def test_the_same_bytes_again_in_another_process_with_other_settings(tmp_path):
    block = a_block(strategies=PAPER[:2], epochs=3)
    block = empty_block(**{name: block[name] for name in ("rows", "ratios")})
    figures.draw(an_analysis(block), tmp_path / "here")
    places = [str(tmp_path / "there"), str(Path(figures.__file__).parent), str(Path(__file__).parent)]
    subprocess.run(
        [sys.executable, "-c", SMALL, *places], check=True, env=os.environ | {"PYTHONHASHSEED": "7"}
    )
    here, there = ({f.name: f.read_bytes() for f in (tmp_path / d).iterdir()} for d in ("here", "there"))
    assert len(here) == 6 and here == there


def test_without_matplotlib_there_is_nothing_and_no_folder(tmp_path, monkeypatch):
    assert figures.available()
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not figures.available()
    assert figures.draw(an_analysis(a_block()), tmp_path / "figures") == {}
    assert not (tmp_path / "figures").exists()


def test_blocks_have_file_names_of_their_own_of_plain_letters():
    names = [
        ("a-b", "c"),
        ("a", "b_c"),
        ("A B", "C"),
        ("../../etc", "x"),
        ("データ", "r"),
        ("画像", "r"),
        ("a-b-c", "2"),
    ]
    stems = figures.file_stems([*names, ("d" * 300, "e" * 300)])
    assert stems[:4] == ["a-b-c", "a-b-c-2", "a-b-c-3", "etc-x"]
    assert len({stem for stem in stems}) == len(stems)
    assert all(re.fullmatch("[a-z0-9-]+", stem) and len(stem) < 110 for stem in stems)


# ---- what is drawn


def test_the_eight_differ_in_colour_and_in_marker_and_ft_is_black():
    looks = [figures.look(strategy) for strategy in PAPER]
    assert list(figures.STYLES) == PAPER and figures.look("FT")["color"] == "#000000"
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 8
    assert figures.look("mine")["color"] not in {look["color"] for look in looks}


def test_intervals_are_the_rows_in_the_papers_order():
    block = a_block(strategies=PAPER[::-1])
    block["rows"][0]["test"]["mean"] = NAN  # Auto-RGN has no finished run
    (axes,) = drawn(figures.intervals, block).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == PAPER[:-1]
    for i, strategy in enumerate(PAPER[:-1]):
        test = next(row["test"] for row in block["rows"] if row["strategy"] == strategy)
        assert lines_of(axes)[color_of(strategy)].get_xdata() == [test["mean"]]
        bars = [line for line in axes.lines if list(line.get_ydata()) == [i, i]]
        assert [list(bar.get_xdata()) for bar in bars] == [[test["low"], test["high"]]]
        assert f"{test['mean']:.3f} [{test['low']:.3f}, {test['high']:.3f}]" in texts_of(axes.figure)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # FT on top
    assert axes.get_xlabel() == "test balanced accuracy"


def test_learning_curves_are_the_curves_and_their_bands():
    block = a_block(epochs=5)
    block["curves"]["LP"][2]["val_loss"] = None
    block["curves"]["G-LF"] = []
    metric, train, val = drawn(figures.learning_curves, block).axes
    assert metric.get_ylabel() == "validation balanced accuracy"
    for axes, name in ((metric, "val_metric"), (train, "train_loss"), (val, "val_loss")):
        assert set(lines_of(axes)) == {color_of(s) for s in PAPER if s != "G-LF"}
        for strategy in ("FT", "LP", "Auto-RGN"):
            line, rows = lines_of(axes)[color_of(strategy)], block["curves"][strategy]
            wanted = [NAN if row[name] is None else row[name] for row in rows]
            np.testing.assert_array_equal(line.get_xydata(), np.column_stack([range(1, 6), wanted]))
    band = metric.collections[0].get_paths()[0].vertices
    wanted = [row[end] for row in block["curves"]["FT"] for end in ("low", "high")]
    assert set(np.round(band[:, 1], 12)) == set(np.round(wanted, 12)) and not val.collections


@pytest.mark.parametrize(("slowest", "scale"), [(9, "linear"), (20, "log")])
def test_cost_is_logarithmic_from_a_decade_on_and_labels_stay_apart(slowest, scale):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    block = a_block()
    for row, minutes in zip(block["rows"], (6, 2, 6.1, 6.2, 7, 6, 6.3, slowest)):
        row["minutes"] = minutes
        row["test"] |= {"mean": 0.8 + minutes / 1000}
    figure = drawn(figures.score_against_cost, block)
    (axes,), renderer = figure.axes, FigureCanvasAgg(figure).get_renderer()
    assert axes.get_xscale() == scale
    assert lines_of(axes)[color_of("Auto-RGN")].get_xydata().tolist() == [[slowest, 0.8 + slowest / 1000]]
    figure.draw(renderer)
    boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]  # without the line to the point
    assert [text.get_text() for text in axes.texts] == PAPER
    shared = [
        figures._overlap(a.extents, b.extents) / min(a.width * a.height, b.width * b.height)
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    ]
    assert max(shared) < 0.15
    points = axes.transData.transform([(row["minutes"], row["test"]["mean"]) for row in block["rows"]])
    covered = [box.padded(-3).count_contains(points) for box in boxes]
    assert covered == [0] * 8  # no name upon a point
    room = axes.get_window_extent()
    assert all(box.x0 > room.x0 - 2 and box.x1 < figure.bbox.x1 for box in boxes)


def test_roc_of_two_classes_is_one_panel_with_the_areas_in_the_legend():
    block = a_block(strategies=PAPER[:3])
    figure = drawn(figures.roc, block)
    (axes,) = figure.axes
    for strategy in PAPER[:3]:
        entry = block["roc"][strategy][0]
        line = lines_of(axes)[color_of(strategy)]
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([entry["grid"], entry["mean"]]))
        assert f"{strategy}, AUROC {entry['auroc']:.3f}" in [t.get_text() for t in figure.legends[0].texts]
    assert len(axes.collections) == 3 and list(axes.lines[0].get_ydata()) == [0, 1]  # bands, chance
    assert axes.get_ylabel() == "sensitivity" and axes.get_xlabel() == "1 − specificity"


def test_precision_recall_of_many_classes_is_a_panel_each_with_its_prevalence():
    block = a_block(classes=[f"class {i}" for i in range(7)], strategies=PAPER[:2])
    for entry in block["pr"]["FT"] + block["pr"]["LP"]:
        entry["prevalence"] = 0.1 * (1 + int(entry["class"][-1]))
    block["pr"]["LP"].pop(2)  # no positive of it in LP's runs
    figure = drawn(figures.precision_recall, block)
    assert [axes.get_title() for axes in figure.axes] == [f"class {i}" for i in range(6)]
    assert [len(lines_of(axes)) for axes in figure.axes] == [2, 2, 1, 2, 2, 2]
    lines = [list(axes.lines[0].get_ydata()) for axes in figure.axes]
    np.testing.assert_allclose(lines, [[0.1 * (i + 1)] * 2 for i in range(6)])
    assert figures._words(block)["classes"] == " 6 of 7 classes."
    assert figures._words(block | {"group_kind": "study"})["size"] == "1,670 test images of 167 studies"


def test_confusion_is_coloured_by_the_true_classes_share_and_tells_the_counts():
    block = a_block(strategies=["FT", "LP"], classes=["x", "y", "z"])
    block["confusion"] = {"FT": [[8, 2, 0], [0, 0, 0], [1, 1, 2]], "LP": [[0] * 3] * 3}
    figure = drawn(figures.confusion, block)
    axes, _ = figure.axes  # LP has predicted nothing
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2, 0], [0, 0, 0], [0.25, 0.25, 0.5]])
    assert axes.images[0].get_clim() == (0, 1) and axes.get_title() == "FT"
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts[0, 0] == "8" and counts[1, 0] == "2" and counts[0, 2] == "1" and len(counts) == 9
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y", "z"]
    assert axes.get_ylabel() == "true class" and axes.get_ylim() == (2.5, -0.5)


def test_a_hundred_classes_have_no_counts_but_numbers():
    block = a_block(strategies=["FT"], classes=[f"class {i}" for i in range(100)])
    axes = drawn(figures.confusion, block).axes[0]
    assert not axes.texts and axes.get_xlabel() == "predicted class (number)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "40", "60", "80", "100"]
    assert list(axes.get_xticks()) == [19, 39, 59, 79, 99]


def test_reliability_draws_the_filled_bins_and_their_share():
    block = a_block(strategies=["FT", "LP"])
    empty = {"low": 0, "high": 1 / 3, "confidence": NAN, "accuracy": NAN, "count": 0}
    bins = [
        empty,
        {"low": 1 / 3, "high": 2 / 3, "confidence": 0.4, "accuracy": 0.5, "count": 30},
        {"low": 2 / 3, "high": 1, "confidence": 0.9, "accuracy": 0.8, "count": 10},
    ]
    block["calibration"] = {
        "FT": {"bins": bins, "ece": 0.1, "brier": 0.2},
        "LP": {"bins": [empty], "ece": NAN},
    }
    (axes,) = drawn(figures.reliability, block).axes
    assert lines_of(axes)["#000000"].get_xydata().tolist() == [[0.4, 0.5], [0.9, 0.8]]
    assert [bar.get_height() for bar in axes.patches] == [0, 0.75, 0.25]
    np.testing.assert_allclose([bar.get_x() for bar in axes.patches], [0, 1 / 3, 2 / 3])
    assert "ECE 0.100\nn 40" in texts_of(axes.figure)


class OneRun:
    """As much of runs.Run as views.calibration asks for."""

    strategy, at = "FT", (0, 0)

    def value(self, split, metric):
        return 0.123


@pytest.mark.parametrize(
    ("scores", "labels", "shares"),
    [  # two classes: no confidence is below a half
        ([[0.45, 0.55], [0.3, 0.7], [0.32, 0.68], [0.02, 0.98]], [1, 0, 1, 1], {5: 1, 6: 2, 9: 1}),
        ([[0.35, 0.33, 0.32], [0.9, 0.05, 0.05]], [0, 1], {3: 1, 8: 1}),  # a gap in the middle, 0.9 in (0.8, 0.9]
        ([[0.05, 0.95], [0.0, 1.0]], [1, 1], {9: 2}),  # one bin alone
        ([[0.04, 0.96], [0.42, math.nan]], [[0, 1], [1, math.nan]], {0: 1, 9: 1, 4: 1}),  # several labels
    ],
)  # fmt: skip
def test_grey_bars_stand_over_the_confidence_that_they_count(scores, labels, shares):
    labels, scores = np.array(labels), np.nan_to_num(np.array(scores))
    task = "multiclass" if labels.ndim == 1 else "multilabel"
    held = {("FT", (0, 0)): types.SimpleNamespace(scores=scores, labels=labels)}
    found = views.calibration([OneRun()], held, task)
    block = a_block(strategies=["FT"], task=task, calibration={"FT": found})
    (axes,) = drawn(figures.reliability, block).axes
    heights = {round(bar.get_x(), 9): bar.get_height() for bar in axes.patches}
    total = sum(shares.values())
    assert heights == pytest.approx({k / 10: shares.get(k, 0) / total for k in range(10)})
    assert {round(bar.get_width(), 9) for bar in axes.patches} == {0.1}
    assert f"ECE 0.123\nn {total}" in texts_of(axes.figure)
    assert axes.get_ylabel() == {"multiclass": "accuracy", "multilabel": "share with the label"}[task]


def test_layer_rates_are_logarithmic_and_labelled_by_layer_or_by_block():
    block = a_block(epochs=3)
    block["ratios"]["rate"][1] = [0, NAN, 1e-5]
    axes, _ = drawn(figures.layer_rates, block).axes
    image = axes.images[0].get_array()
    assert image.shape == (35, 3) and image[0, 0] == block["ratios"]["rate"][0][0]
    assert image.mask[1].tolist() == [True, True, False]
    assert type(axes.images[0].norm).__name__ == "LogNorm"
    assert [label.get_text() for label in axes.get_yticklabels()] == block["ratios"]["layers"]
    blocks = [f"denseblock{i // 40}" for i in range(160)]
    layers = [f"features.denseblock{i // 40}.denselayer{i % 40}.conv" for i in range(160)]
    block["ratios"] |= {"layers": layers, "blocks": blocks, "rate": [[1e-4, 1e-4, 1e-4]] * 160}
    axes, _ = drawn(figures.layer_rates, block).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"denseblock{i}" for i in range(4)]
    assert list(axes.get_yticks()) == [19.5, 59.5, 99.5, 139.5]
    assert [line.get_ydata()[0] for line in axes.lines] == [39.5, 79.5, 119.5]


def test_heat_map_shows_scores_and_colours_the_distance_to_the_rows_best():
    one, other = a_block(strategies=["FT", "LP"]), a_block("other", strategies=["LP", "Auto-RGN"])
    for row, mean in zip(one["rows"] + other["rows"], (0.8, 0.9, 0.2, 0.3)):
        row["test"]["mean"] = mean
    other |= {"metric": "ece", "higher_is_better": False}
    with_best(one), with_best(other)
    assert not drawn(figures.heat_map, an_analysis(one)).axes
    assert not drawn(figures.heat_map, an_analysis(one, empty_block())).axes
    axes, _ = drawn(figures.heat_map, an_analysis(one, other)).axes
    behind = axes.images[0].get_array()
    np.testing.assert_allclose(behind.filled(-1), [[0.1, 0, -1], [-1, 0, 0.1]], atol=1e-12)
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "0.800", (1, 0): "0.900", (1, 1): "0.200", (2, 1): "0.300"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["FT", "LP", "Auto-RGN"]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["demo, resnet18\nbalanced accuracy", "other, resnet18\nexpected calibration error"]


def frames_of(axes):
    """(row, column) of the framed cells: where the centre of a frame lies."""
    frames = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 5]
    return {(round(xy[:4, 1].mean()), round(xy[:4, 0].mean())) for xy in frames}


def test_heat_map_frames_what_the_table_ranks_first():
    """LP has the highest value from fewer runs, L2-SP by calling one class: neither is the best of the table."""
    blocks = [a_block(data, strategies=["FT", "LP", "L2-SP", "Auto-RGN"]) for data in ("a", "b", "c")]
    for block, means in zip(blocks, ((0.7, 0.9, 0.8, 0.6), (0.7, 0.9, 0.6, 0.7), (0.5, 0.5, 0.5, 0.5))):
        for row, mean in zip(block["rows"], means):
            row["test"]["mean"] = mean
            row |= {"best": False, "ranked": row["strategy"] != "LP", "collapsed": row["strategy"] == "L2-SP"}
    blocks[0]["rows"][0]["best"] = blocks[1]["rows"][0]["best"] = True
    for row in blocks[2]["rows"]:  # runs that are not alike: the table ranks none
        row["ranked"] = False
    axes, _ = drawn(figures.heat_map, an_analysis(*blocks)).axes
    assert frames_of(axes) == {(0, 0), (1, 0), (1, 3)}  # in b FT and Auto-RGN tie
    behind = axes.images[0].get_array().filled(-1)
    np.testing.assert_allclose(behind, [[0, -1, 0, 0.1], [0, -1, 0.1, 0], [-1] * 4], atol=1e-12)
    assert len(axes.texts) == 12  # every value is there


def test_critical_difference_places_ranks_cliques_and_bar_to_scale():
    figure = drawn(figures.critical_difference, an_analysis(a_block(), across=ACROSS))
    (axes,) = figure.axes
    ranks = {
        line.get_color(): line.get_xdata()[0]
        for line in axes.lines
        if line.get_color() in map(color_of, PAPER)
    }
    unit = (ranks[color_of("LP-FT")] - ranks[color_of("LP")]) / (6.9 - 2.8)
    assert ranks[color_of("Auto-RGN")] - ranks[color_of("L1-SP")] == pytest.approx((4.6 - 2.4) * unit)
    assert unit > 0  # the best at the right, as in Demsar's
    cd = next(line for line in axes.lines if line.get_color() == figures.GREY).get_xdata()
    assert cd[1] - cd[0] == pytest.approx(3.4 * unit)
    cliques = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 2.5]
    spans = [(5.3 - 2.4) * unit + 0.06, (6.9 - 4.4) * unit + 0.06]
    assert [x[1] - x[0] for x in cliques] == pytest.approx(spans)
    assert "2.40 Auto-RGN" in texts_of(figure) and "LP 6.90" in texts_of(figure)
    for across in (None, ACROSS | {"cd": None}, ACROSS | {"average_ranks": {"FT": 1.0}}):
        assert not drawn(figures.critical_difference, an_analysis(a_block(), across=across)).axes


def test_a_block_without_data_has_no_figure():
    block = empty_block()
    assert [stem for stem in STEMS if drawn(figures.OF_A_BLOCK[stem][0], block).axes] == []
    assert list(figures.OF_A_BLOCK) == STEMS


def test_names_from_the_data_are_drawn_as_they_are(tmp_path):
    names = [r"$\nosuch$ {x}", "_a^b", "正常", "line\nbreak\udce9", "x" * 300]
    block = a_block("{data} $", "_", names, PAPER[:1], epochs=1)
    block["ratios"]["layers"][0] = "$" + "long." * 20 + "weight_"
    keep = {name: block[name] for name in ("roc", "ratios")}
    panels = [axes.get_title() for axes in drawn(figures.roc, block).axes]
    assert panels == [r"$\nosuch$ {x}", "_a^b", "正常", "line break", "x" * 25 + "…"]
    layer = drawn(figures.layer_rates, block).axes[0].get_yticklabels()[0].get_text()
    assert layer == "…" + ("long." * 20 + "weight_")[-25:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = figures.draw(
            an_analysis(empty_block(**keep, data="{data} $", arch="_", classes=names)), tmp_path
        )
    assert found["{data} $", "_"][0][0].startswith("{data} $, _: ROC curves")
    assert (tmp_path / "data-x-roc.pdf").is_file()


@pytest.mark.parametrize("stem", STEMS)
def test_one_strategy_one_epoch_and_no_interval_is_enough(stem):
    block = a_block(strategies=["LP-FT"], epochs=1, classes=["a", "b", "c", "d"])
    block["rows"][0]["test"] |= {"low": NAN, "high": NAN, "sd": NAN}
    block["ratios"]["rate"] = [[1e-4]] * 35
    figure = drawn(figures.OF_A_BLOCK[stem][0], block)
    figure.canvas.draw()
    assert figure.axes and 1.5 < figure.get_figwidth() <= 7 and 0.5 < figure.get_figheight() < 9
