"""The figures of a report, with matplotlib where it is installed.

    drawn = draw(analyse("runs/"), Path("runs/figures"))  # -> demo-resnet18-roc.png, demo-resnet18-roc.pdf
    for picture in drawn["demo", "resnet18"]: ...         # the same pictures, for the page

A figure is one function that draws an experiment (or, over all experiments, the analysis) into an empty
matplotlib Figure; one that finds nothing to draw leaves it empty, and no file is written. The tables of all
stand at the end. How lines, panels and axes look is in drawing.py."""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import metrics
from report.drawing import (
    ASIDE,
    BASELINE,
    COLUMN,
    FRAME,
    GREY,
    MISSING,
    PAGE,
    PALE,
    Styles,
    at_edge,
    box,
    colour_bar,
    cut,
    legend,
    legend_height,
    log_axis,
    name_panel,
    our_settings,
    panels,
    rendered,
    spaced,
    styles_of,
    text_width,
    unit_square,
    write_values,
)
from report.experiment import Analysis, Curve, Experiment, Row
from report.wording import (
    CALIBRATED,
    experiment_name,
    file_stems,
    interval,
    known,
    measured,
    number,
    plural,
    scientific,
    tested_images,
)
from runs import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure as the page takes it. key: which one it is, as in its file's name."""

    key: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Kind:
    """What is drawn by draw(figure, experiment or analysis, styles), and its caption with fields."""

    draw: Callable[[Figure, Experiment | Analysis, Styles], None]
    caption: str


def available() -> bool:
    """Whether matplotlib is installed and can be loaded."""
    try:
        importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError:
        return False
    return True


def makes(name: str) -> bool:
    """Whether draw() makes a file of that name."""
    keys = "|".join([*OVERALL, *OF_AN_EXPERIMENT])
    return re.fullmatch(rf"[a-z0-9-]+-({keys})\.(png|pdf)", name) is not None


def draw(analysis: Analysis, folder: str | Path) -> dict[tuple[str, str], list[Picture]]:
    """Draws every figure that the analysis has data for into folder/<name>.png and .pdf, each file whole or
    not at all. Returns {(data, arch): pictures}, ("", "") for those over all experiments; captions are plain
    text. {} without matplotlib. Leaves other files of the folder alone."""
    if not available():
        return {}
    folder, drawn = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    styles = styles_of(analysis.strategies)
    stems = file_stems(experiment.key for experiment in analysis.experiments)
    jobs = [(("", ""), "all", OVERALL, analysis, words_of_analysis(analysis))]
    for experiment, stem in zip(analysis.experiments, stems, strict=True):
        jobs.append((experiment.key, stem, OF_AN_EXPERIMENT, experiment, words_of_experiment(experiment)))
    with our_settings():
        for place, stem, kinds, part, words in jobs:
            for key, kind in kinds.items():
                if images := rendered(kind.draw, part, styles):
                    for ending, content in images.items():
                        write_atomically(folder / f"{stem}-{key}.{ending}", content)
                    picture = Picture(key, kind.caption.format(**words), images["png"])
                    drawn.setdefault(place, []).append(picture)
    return drawn


def column(rows: Iterable[object], name: str) -> np.ndarray:
    return np.array([getattr(row, name) for row in rows], float)


def scored(experiment: Experiment) -> list[Row]:
    """The rows that have a test score."""
    return [row for row in experiment.rows if known(row.test.mean)]


# ---- over all experiments ----


def heat_map(figure: Figure, analysis: Analysis, styles: Styles) -> None:
    """A row per experiment, a column per strategy; the value in the cell, its distance to the row's best as
    colour, as easy and hard datasets would otherwise be all that one sees. The best is the table's: what is
    not ranked there (fewer runs, one class called) has its value, but no frame, and no colour either where
    it has other runs, which are no match."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    experiments = [experiment for experiment in analysis.experiments if scored(experiment)]
    if len(experiments) < 2:
        return
    found = {row.strategy for experiment in experiments for row in scored(experiment)}
    strategies = [strategy for strategy in analysis.strategies if strategy in found]
    values, behind, framed = values_and_distances(experiments, strategies)
    names = [f"{cut(one.data, 20)}, {cut(one.arch, 18)}" for one in experiments]
    measures = [measured(experiment) for experiment in experiments]
    what = measures[0]
    if len(set(measures)) > 1:
        names, what = list(map("\n".join, zip(names, measures, strict=True))), "metric"
    left = 0.15 + text_width((line for name in names for line in name.split("\n")), 7)
    height = max(1.2, 0.27 * len(experiments))
    (axes,) = panels(figure, 1, 1, PAGE, height, left=left, right=0.85, top=0.3, bottom=0.1)
    top = max(np.max(behind, initial=0.0, where=~np.isnan(behind)), 1e-9)
    colours = colormaps["Blues_r"].with_extremes(bad=MISSING)
    image = axes.imshow(behind, colours, PowerNorm(0.5, 0, top), aspect="auto")
    write_values(axes, image, values, 3, 7)
    for i, j in framed:
        axes.plot(*box(i, j), color=FRAME, linewidth=1.4)
    axes.set_xticks(range(len(strategies)), strategies, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    colour_bar(figure, axes, image, f"{what}:\nbehind the row's best")


def values_and_distances(
    experiments: list[Experiment], strategies: list[str]
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """(E, S) the values, (E, S) how far each is behind its row's best (nan where it is not ranked), and the
    cells (row, column) of the best."""
    values, behind = np.full((2, len(experiments), len(strategies)), math.nan)
    framed = []
    for i, experiment in enumerate(experiments):
        best = experiment.best.test.mean if experiment.best else math.nan
        for row in scored(experiment):
            j = strategies.index(row.strategy)
            values[i, j] = value = row.test.mean
            if row.ranked and known(best):
                behind[i, j] = max(0.0, best - value if experiment.higher_is_better else value - best)
            if row.ranked and not row.collapsed and value == best:
                framed.append((i, j))
    return values, behind, framed


def critical_difference(figure: Figure, analysis: Analysis, styles: Styles) -> None:
    """Demsar 2006, figure 1a: the average ranks on a line, the best at the right; a bar joins the strategies
    that lie within the critical difference of each other. All in inches."""
    across = analysis.across
    ranks = {name: rank for name, rank in across.average_ranks.items() if known(rank)} if across else {}
    if len(ranks) < 2 or not known(across.cd):
        return
    cd, left, right, k = across.cd, 0.88, COLUMN - 0.88, len(ranks)
    unit = (right - left) / max(k - 1, cd)  # an inch a rank; the bar has to fit too
    place = {name: right - (rank - 1) * unit for name, rank in ranks.items()}
    joined = [[place[name] for name in clique if name in place] for clique in across.cliques]
    bars = [(min(x) - 0.03, max(x) + 0.03) for x in joined if len(x) > 1]
    depth, end = 0.12 + 0.09 * len(bars), right - (k - 1) * unit
    height = 0.5 + depth + 0.17 * math.ceil(k / 2) + 0.05
    (axes,) = panels(figure, 1, 1, COLUMN, height, left=0, right=0, top=0, bottom=0)
    axes.set(xlim=(0, COLUMN), ylim=(-height + 0.5, 0.5))
    axes.axis("off")
    axes.plot([end, right], [0, 0], color="black", linewidth=0.8)
    for rank in range(1, k + 1):
        x = right - (rank - 1) * unit
        axes.plot([x, x], [0, 0.05], color="black", linewidth=0.8)
        axes.text(x, 0.07, str(rank), ha="center", va="bottom", fontsize=7)
    axes.plot([right - cd * unit, right], [0.27, 0.27], "|-", color=GREY, markersize=4, linewidth=0.8)
    middle = right - cd * unit / 2
    axes.text(middle, 0.3, f"CD = {number(cd, 2)}", ha="center", va="bottom", fontsize=7, color=GREY)
    for i, (low, high) in enumerate(bars):
        axes.plot([low, high], [-0.09 - 0.09 * i] * 2, color="black", linewidth=2.5, solid_capstyle="butt")
    worst_first = sorted(ranks, key=lambda name: -ranks[name])
    half = math.ceil(k / 2)
    for i, strategy in enumerate(worst_first):
        line, side = (i, 0) if i < half else (k - 1 - i, 1)
        y, x, rank = -depth - 0.1 - 0.17 * line, place[strategy], number(ranks[strategy], 2)
        edge = (min(left, end) - 0.05, right + 0.05)[side]
        axes.plot([x, x, edge], [0, y, y], color=styles[strategy].color, linewidth=0.9)
        text = (f"{strategy} {rank}", f"{rank} {strategy}")[side]
        beside = edge + (-0.03, 0.03)[side]
        axes.text(beside, y, text, ha=("right", "left")[side], va="center", fontsize=7)


# ---- of one experiment ----


def intervals(figure: Figure, experiment: Experiment, styles: Styles) -> None:
    """Point and 95 % interval per strategy, the baseline's point as a line through all."""
    rows = scored(experiment)
    if not rows:
        return
    (axes,) = panels(figure, 1, 1, COLUMN, 0.2 * len(rows) + 0.1, left=0.75, right=1.25)
    for i, row in enumerate(rows):
        test, style = row.test, styles[row.strategy].line() | {"linestyle": "-"}
        axes.plot([test.low, test.high], [i, i], **style | {"marker": "", "linewidth": 1.4})
        axes.plot([test.mean], [i], **style)
        text = f"{number(test.mean)} {interval(test.low, test.high)}".strip()
        axes.annotate(text, (1.04, i), xycoords=("axes fraction", "data"), va="center", fontsize=7)
        if row.strategy == BASELINE:
            axes.axvline(test.mean, **ASIDE)
    axes.set_yticks(range(len(rows)), [row.strategy for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.locator_params("x", nbins=4)
    axes.set_xlabel(f"test {measured(experiment)}")


def learning_curves(figure: Figure, experiment: Experiment, styles: Styles) -> None:
    """Validation metric, training loss and validation loss by epoch; the band is the runs' lowest and
    highest."""
    curves = {strategy: points for strategy, points in experiment.curves.items() if points}
    names = {"val_metric": f"validation {metrics.label(experiment.metric)}"}
    names |= {"train_loss": "training loss", "val_loss": "validation loss"}
    every = list(itertools.chain.from_iterable(curves.values()))
    filled = [name for name in names if not np.isnan(column(every, name)).all()]
    if not filled:
        return
    foot = 0.42 + legend_height(len(curves), 8)
    all_axes = panels(figure, len(filled), len(filled), PAGE, 1.9, bottom=foot, gap_x=0.55, left=0.55)
    for axes, name in zip(all_axes, filled, strict=True):
        for strategy, points in curves.items():
            style = styles[strategy].line(3) | {"markevery": max(1, math.ceil(len(points) / 6))}
            epochs, low, high = (column(points, which) for which in ("epoch", "low", "high"))
            axes.plot(epochs, column(points, name), **style)
            if name == "val_metric" and (high > low).any():
                axes.fill_between(epochs, low, high, color=style["color"], alpha=0.1, linewidth=0)
        losses = column(every, name)
        losses = losses[~np.isnan(losses)]
        if name != "val_metric" and losses.min() > 0 and losses.max() > 20 * losses.min():
            log_axis(axes.yaxis, losses)
        epoch_axis(axes, {point.epoch for point in every}, max(map(len, curves.values())))
        axes.set_ylabel(names[name], labelpad=2)
    legend(figure, styles, list(curves), 8)


def epoch_axis(axes: Axes, epochs: set[int], longest: int) -> None:
    """Whole epochs. longest: points of the longest curve."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if longest == 1:
        axes.set_xticks(sorted(epochs))
    axes.set_xlabel("epoch")


def score_against_cost(figure: Figure, experiment: Experiment, styles: Styles) -> None:
    """Test metric against minutes a run."""
    rows = [row for row in scored(experiment) if known(row.minutes)]
    if not rows:
        return
    across = 3  # columns of the legend
    foot = 0.42 + legend_height(len(rows), across)
    (axes,) = panels(figure, 1, 1, COLUMN, 2.4, left=0.6, right=0.15, bottom=foot)
    minutes = column(rows, "minutes")
    for row in rows:
        style = styles[row.strategy].line(6)
        bar = [row.test.low, row.test.high]
        axes.plot([row.minutes] * 2, bar, color=style["color"], linewidth=0.8, alpha=0.6)
        axes.plot([row.minutes], [row.test.mean], **style)
    if minutes.min() > 0 and minutes.max() >= 10 * minutes.min():
        log_axis(axes.xaxis, minutes)
    axes.margins(x=0.16, y=0.08)
    axes.set_xlabel("minutes a run")
    axes.set_ylabel(f"test {measured(experiment)}")
    legend(figure, styles, [row.strategy for row in rows], across)


def roc(figure: Figure, experiment: Experiment, styles: Styles) -> None:
    def chance(axes: Axes, curves: list[Curve]) -> None:
        axes.plot([0, 1], [0, 1], **ASIDE)

    class_bands(figure, experiment.roc, styles, ("1 − specificity", "sensitivity"), "AUROC", chance)


def precision_recall(figure: Figure, experiment: Experiment, styles: Styles) -> None:
    def prevalence(axes: Axes, curves: list[Curve]) -> None:
        for share in [curve.prevalence for curve in curves if known(curve.prevalence)][:1]:
            axes.axhline(share, **ASIDE)

    class_bands(figure, experiment.pr, styles, ("recall", "precision"), "AP", prevalence)


def class_bands(
    figure: Figure,
    by_strategy: dict[str, list[Curve]],
    styles: Styles,
    labels: tuple[str, str],
    area: str,
    without_skill: Callable[[Axes, list[Curve]], None],
) -> None:
    """A panel per class (at most six) with a line and a light band per strategy. One class: the areas stand
    in the legend."""
    curves = {name: [one for one in found if one.grid] for name, found in by_strategy.items()}
    curves = {name: found for name, found in curves.items() if found}
    classes = list(dict.fromkeys(one.name for found in curves.values() for one in found))[:6]
    if not classes:
        return
    one, across = len(classes) == 1, 2 if len(classes) == 4 else min(3, len(classes))
    beside = {1: 2, 2: 4, 3: 8}[across]  # columns of the legend
    foot = 0.42 + legend_height(len(curves), beside)
    width = COLUMN if one else PAGE * (across + 0.15) / 3.15
    size = {"left": 0.45, "bottom": foot, "gap_x": 0.2, "gap_y": 0.3, "top": 0.1 if one else 0.22}
    height = (width - 0.55 - 0.2 * (across - 1)) / across * 0.85
    for i, axes in enumerate(panels(figure, len(classes), across, width, height, **size)):
        shown = {name: curve for name, found in curves.items() for curve in found if curve.name == classes[i]}
        without_skill(axes, list(shown.values()))
        for strategy, curve in shown.items():
            style = styles[strategy].line(3) | {"markevery": max(1, len(curve.grid) // 4)}
            axes.plot(curve.grid, curve.mean, **style)
            band = {"color": style["color"], "alpha": 0.07, "linewidth": 0}
            axes.fill_between(curve.grid, curve.low, curve.high, **band)
        unit_square(axes, *labels, at_edge(i, len(classes), across))
        if not one:
            name_panel(axes, cut(classes[i], 26))
    texts = [f"{name}, {area} {number(found[0].area)}" for name, found in curves.items()] if one else None
    legend(figure, styles, list(curves), beside, texts)


def confusion(figure: Figure, experiment: Experiment, styles: Styles) -> None:
    """A matrix per strategy: colour is the share of the true class; counts as text up to ten classes."""
    matrices = {name: np.array(found, float) for name, found in experiment.confusion.items() if np.sum(found)}
    if not matrices:
        return
    strategies, count = list(matrices), len(experiment.classes)
    full = 4 if count <= 4 else 3
    across = min(len(strategies), full)
    names = [cut(name, 16) for name in experiment.classes] if count <= 20 else []
    label = 0.3 + (text_width(names, 6) if names else 0.15)
    side = (PAGE - 0.7 - label - 0.15 * (full - 1)) / full
    width = PAGE - (full - across) * (side + 0.15)
    upright = text_width(names, 6) > side / count
    size = {"left": label, "right": 0.7, "top": 0.22, "bottom": label if upright else 0.4}
    size |= {"gap_x": 0.15, "gap_y": 0.27}
    all_axes = panels(figure, len(strategies), across, width, side, **size)
    for i, (axes, strategy) in enumerate(zip(all_axes, strategies, strict=True)):
        matrix = matrices[strategy]
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(share, "Blues", vmin=0, vmax=1, aspect="auto")
        if count <= 10:
            digits = len(f"{matrix.max():.0f}")
            points = max(3.5, min(7.0, side / count * 72 / (0.68 * max(digits, 2))))
            write_values(axes, image, matrix, 0, points)
        class_ticks(axes, names, count, at_edge(i, len(strategies), across))
        axes.tick_params("x", rotation=90 if upright else 0)
        name_panel(axes, strategy)
        axes.tick_params(length=0 if names else 2, labelsize=6, pad=2)
        axes.spines[:].set_visible(True)
    bar = colour_bar(figure, all_axes[across - 1], image, "share of the true class")
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])


def class_ticks(axes: Axes, names: list[str], count: int, edge: tuple[bool, bool]) -> None:
    """The classes' names, or above twenty their numbers, at the edge of the figure alone."""
    step = max(1, math.ceil(count / 5 / 10) * 10)
    ticks = range(count) if names else range(step - 1, count, step)
    labels, what = names or [str(i + 1) for i in ticks], "" if names else " (number)"
    for axis, word, labelled in ((axes.xaxis, "predicted", edge[0]), (axes.yaxis, "true", edge[1])):
        axis.set_ticks(*((ticks, labels) if labelled else ([],)))
        if labelled:
            axis.set_label_text(f"{word} class{what}", fontsize=7)
            axis.labelpad = 1


def reliability(figure: Figure, experiment: Experiment, styles: Styles) -> None:
    """Per strategy the accuracy of the predictions by their confidence; grey bars: the bin's share of
    them."""
    found = {strategy: one for strategy, one in experiment.calibration.items() if any(held.count for held in one.bins)}
    if not found:
        return
    across = min(4, len(found))
    side = (PAGE - 0.55 - 0.45) / 4
    width = 0.55 + across * (side + 0.15) - 0.15
    size = {"left": 0.45, "top": 0.22, "bottom": 0.4, "gap_x": 0.15, "gap_y": 0.27}
    all_axes = panels(figure, len(found), across, width, side, **size)
    for i, (axes, (strategy, one)) in enumerate(zip(all_axes, found.items(), strict=True)):
        low, high, counts = (column(one.bins, name) for name in ("low", "high", "count"))
        bars = {"align": "edge", "color": PALE, "edgecolor": "white", "linewidth": 0.4}
        axes.bar(low, counts / counts.sum(), high - low, **bars)
        axes.plot([0, 1], [0, 1], **ASIDE)
        filled = [held for held in one.bins if held.count]
        line = styles[strategy].line(3.5)
        axes.plot(column(filled, "confidence"), column(filled, "accuracy"), **line)
        ece = f"ECE {number(one.ece)}\n" if known(one.ece) else ""
        axes.text(0.04, 0.97, f"{ece}n {counts.sum():,.0f}", fontsize=7, va="top")
        unit_square(axes, *CALIBRATED[experiment.task], at_edge(i, len(found), across))
        name_panel(axes, strategy)


def layer_rates(figure: Figure, experiment: Experiment, styles: Styles) -> None:
    """A row per layer from input to head, a column per epoch, lines between the blocks."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter

    found = experiment.layer_rates
    rate = np.array(found.rate if found else [], float)
    rate[~(rate > 0)] = math.nan
    if np.isnan(rate).all():  # of nothing as well
        return
    layers, epochs = found.layers, found.epochs
    blocks = [(name, len(list(members))) for name, members in itertools.groupby(found.blocks)]
    starts = np.cumsum([0] + [length for _, length in blocks])
    few = len(layers) <= 40
    height = min(7.0, max(1.2, (0.125 if few else 0.04) * len(layers)))
    middles = (starts[:-1] + starts[1:] - 1) / 2
    labels = dict(enumerate(layers)) if few else dict(zip(middles, (name for name, _ in blocks), strict=True))
    labels = labels if few else spaced(labels, 0.1 * len(layers) / height)
    names = [cut(name, 26, tail=True) for name in labels.values()]
    (axes,) = panels(figure, 1, 1, COLUMN, height, left=text_width(names, 6.5) + 0.15, right=0.85)
    top = np.nanmax(rate)
    low = max(np.nanmin(rate), top * 1e-5)
    norm = LogNorm(low, top) if low < top else LogNorm(top / 2, top * 2)
    colours = colormaps["viridis"].with_extremes(bad=MISSING)
    image = axes.imshow(rate, colours, norm, aspect="auto", interpolation="nearest")
    for start in starts[1:-1]:
        axes.axhline(start - 0.5, color="white", linewidth=min(0.6, 5 * height / len(blocks)))
    axes.set_yticks(list(labels), names, fontsize=6)
    axes.tick_params("y", length=0)
    shown = range(0, len(epochs), math.ceil(len(epochs) / 6))
    axes.set_xticks(shown, [str(epochs[i]) for i in shown])
    axes.set_xlabel("epoch")
    plain = FuncFormatter(lambda x, _: scientific(x, digits=0))
    colour_bar(figure, axes, image, "learning rate", format=plain).minorticks_off()


# ---- the tables of all ----


def words_of_analysis(analysis: Analysis) -> dict[str, str]:
    """What the fields of the captions over all experiments stand for."""
    across = analysis.across
    if not across:
        return {}
    return {"cd": number(across.cd, 2), "alpha": f"{across.alpha:g}", "n": str(len(across.experiments))}


def words_of_experiment(experiment: Experiment) -> dict[str, str]:
    """What the fields of an experiment's captions stand for."""
    shown = {curve.name for curves in experiment.roc.values() for curve in curves}
    classes = f" Positive: {experiment.positive}." if experiment.positive and len(shown) == 1 else ""
    if 1 < len(shown) < len(experiment.classes):
        classes = f" {len(shown)} of {len(experiment.classes)} classes."
    across, up = CALIBRATED[experiment.task]
    return {
        "name": experiment_name(experiment),
        "metric": measured(experiment),
        "better": "higher" if experiment.higher_is_better else "lower",
        "groups": plural(experiment.group_kind),
        "size": tested_images(experiment),
        "calibrated": f"{up} against {across}",
        "classes": classes,
        "whose": experiment.layer_rates.strategy if experiment.layer_rates else "",
    }


OVERALL = {  # key, as in the file's name: what is drawn
    "heat-map": Kind(
        heat_map,
        "Test score of every strategy on every dataset and backbone, mean over runs. Colour: how far a "
        "strategy is behind the best of its row, which is framed; grey: not ranked, or no finished run.",
    ),
    "critical-difference": Kind(
        critical_difference,
        "Average rank of every strategy over {n} pairs of dataset and backbone, the best at the right. "
        "Strategies joined by a bar differ by less than the Nemenyi test's critical difference, CD = {cd} at "
        "α = {alpha} (Demšar 2006, figure 1a).",
    ),
}
OF_AN_EXPERIMENT = {
    "intervals": Kind(
        intervals,
        "{name}: test {metric} ({better} is better), mean over runs with its 95 % bootstrap interval over "
        "{groups}, from {size}. Dotted: FT.",
    ),
    "learning-curves": Kind(
        learning_curves, "{name}: validation {metric} and loss by epoch, mean over runs. Bands: the runs' range."
    ),
    "score-and-cost": Kind(
        score_against_cost,
        "{name}: test {metric} ({better} is better) with its 95 % bootstrap interval against the minutes "
        "that a run takes.",
    ),
    "roc": Kind(
        roc,
        "{name}: ROC curves on the test split, mean over runs with pointwise 95 % bootstrap bands over "
        "{groups}. Dotted: chance.{classes}",
    ),
    "precision-recall": Kind(
        precision_recall,
        "{name}: precision-recall curves on the test split, mean over runs with pointwise 95 % bootstrap "
        "bands over {groups}. Dotted: prevalence.{classes}",
    ),
    "confusion": Kind(
        confusion, "{name}: confusion matrices on the test split, summed over runs. Rows: truth, columns: call."
    ),
    "reliability": Kind(
        reliability,
        "{name}: {calibrated} on the test split, all runs pooled. Grey bars: share of the predictions in "
        "each bin; n: how many in all; ECE: mean over runs; dotted: calibrated.",
    ),
    "auto-rgn-rates": Kind(
        layer_rates,
        "{name}: learning rate that {whose} gives each layer, from the input (top) to the head, mean over "
        "runs. White lines: blocks; grey: no rate, or none above 0.",
    ),
}
