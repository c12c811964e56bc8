"""The sections of an experiment on the page: results, pairs, curves, classes, calibration, splits, settings.

    sections.experiment_section(experiment, "experiment-1", pictures, many=False)

Each function makes one table, or the tables of one fold; an empty Html where there is nothing to show."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

import metrics
from report.experiment import Curve, Estimate, Experiment, FoldSplits, HardImage, Pair
from report.figures import OF_AN_EXPERIMENT, OVERALL, Picture
from report.markup import Cell, Html, fold, join, listing, named, note, plain, share, table, tag, td, tinted, words
from report.wording import (
    BUDGET,
    CALIBRATED,
    LEFT_OUT,
    NO_GROUPS,
    SYMBOL,
    beside,
    budget_row,
    calls_text,
    early_runs,
    interval,
    known,
    lost_runs,
    measured,
    number,
    p_value,
    plural,
    plus_minus,
    problems,
    scientific,
    several,
    short,
    standing,
    value,
    whole,
)

if TYPE_CHECKING:
    from report.stats import DeLong

DRAWN = {*OVERALL, *OF_AN_EXPERIMENT}  # lines and letters on white, which a dark page inverts; photographs it does not
MOST_CLASSES_IN_A_MATRIX = 20  # above it a confusion matrix becomes a list of what is confused most
MOST_CONFUSIONS = 20  # in that list
MOST_EPOCHS = 20  # columns of a table over epochs; more are thinned evenly
MOST_WARNINGS = 3  # that stand open, each cut to a line or two; the others are folded
LINE = 60  # characters of a warning that a phone shows whole


def experiment_section(experiment: Experiment, id_: str, pictures: list[Picture], many: bool) -> Html:
    """Everything about one dataset and backbone. many: the page has several, and this one's answer is not
    told yet."""
    left = {picture.key: picture for picture in pictures}

    def drawn(*keys: str) -> list[Html]:
        return [figure(left.pop(key)) for key in keys if key in left]

    top = []
    if many:
        answer = tag("p", experiment.verdict, class_="verdict")
        top = [answer, unprinted(notice(problems(experiment))), results_table(experiment), legend()]
    of_classes = "Per class" if experiment.task == "multiclass" else "Per label"
    rates = experiment.layer_rates
    whose = f"{rates.strategy}'s rate per layer" if rates else ""
    curves = drawn("learning-curves", "score-and-cost")
    folds = [
        fold("Which strategies differ", pair_matrix(experiment), unprinted(*drawn("intervals")), open_=True),
        fold("All tests of every pair", pair_table(experiment), notes_list(experiment.pair_notes)),
        fold("Learning curves and cost", beside_figures(curves, curves_table(experiment))),
        fold("All metrics", metrics_table(experiment)),
        fold(of_classes, *per_class_tables(experiment)),
        fold("ROC and precision-recall", beside_figures(drawn("roc", "precision-recall"), area_table(experiment))),
        fold("Confusion matrices", beside_figures(drawn("confusion"), confusion_tables(experiment))),
        fold("Calibration", beside_figures(drawn("reliability"), *calibration_tables(experiment))),
        fold("Thresholds", thresholds_table(experiment)),
        fold(whose, beside_figures(drawn("auto-rgn-rates"), rates_table(experiment))),
        fold("Hardest test images", hardest_images(experiment)),
        fold("Other figures", *drawn(*left)),
        fold("Data and splits", *splits_tables(experiment)),
        fold("Settings, versions and commands", *settings_tables(experiment)),
    ]
    return tag("section", tag("h2", heading_of(experiment)), *top, *folds, id=id_)


# ---- what several sections have ----


def notice(texts: list[str]) -> Html | None:
    """The warnings in short, so that the answer fits a screen: the first few, which page.css cuts to a line or
    two, and a fold that shows all of them in full."""
    texts = of_one_kind(texts)
    if not texts:
        return None
    title = tag("p", tag("strong", "⚠ Read this before the numbers"))
    first, rest = texts[:MOST_WARNINGS], texts[MOST_WARNINGS:]
    short_ones = not rest and all(len(text) <= LINE for text in first)
    said = f"{len(rest)} more, and these in full" if rest else "in full"
    fold_ = None if short_ones else tag("details", tag("summary", said), listing(rest) if rest else None)
    shown = listing(tag("span", text) for text in first)
    return tag("aside", title, shown, fold_, class_="notice", aria_label="Warnings")


def of_one_kind(texts: list[str]) -> list[str]:
    """'FT: why.', 'LP: why.' as one line, 'FT, LP (each): why.'; the others as they are."""
    named_by: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        name, colon, why = text.partition(": ")
        named_by.setdefault(f"{colon}{why}" if colon else "", []).append(name)
    alone = named_by.pop("", [])
    return [f"{', '.join(names)}{' (each)' if len(names) > 1 else ''}{why}" for why, names in named_by.items()] + alone


def aside(text: str) -> Html:
    """What stands beside a number, smaller."""
    return tag("span", text, class_="sd")


def with_interval(found: Pair | DeLong) -> Cell:
    """+0.031 [+0.004, +0.058], the interval below where there is no room beside."""
    around = tag("span", interval(found.low, found.high, sign=True), class_="ci")
    return td(number(found.difference, sign=True), " ", around, class_="result")


def beside_figures(figures: list[Html], *more: object) -> Html:
    """The figures of a section side by side, and below them what says the same in numbers: on paper the figures
    alone, or, where there are none, the numbers."""
    return join([tag("div", *figures, class_="figures"), unprinted(*more)]) if figures else join(more)


def unprinted(*content: object) -> Html:
    """What stands on the page alone, as paper has it in another form."""
    return tag("div", *content, class_="unprinted") if any(content) else Html("")


def result_cell(found: Estimate, tint: float | None, mark: str = "") -> Cell:
    """0.871 [0.840, 0.902] ± 0.012, tinted, with its mark."""
    if not found.n:
        return words("no finished run")
    parts = [
        tag("b", number(found.mean)),
        tag("span", interval(found.low, found.high), class_="ci"),
        aside(plus_minus(found.sd)),
        tag("small", beside(found).strip()),
    ]
    shown = join((part for part in parts if plain(part)), " ")
    return td(shown, join([" ", tag("em", mark)]) if mark else None, tint=tint, class_="result words")


def result_tints(found: list[Estimate], higher_is_better: bool) -> list[float | None]:
    means, lows, highs = ([getattr(one, end) for one in found] for end in ("mean", "low", "high"))
    return tinted(means, higher_is_better, lows, highs)


def figure(picture: Picture) -> Html:
    source = "data:image/png;base64," + base64.b64encode(picture.png).decode()
    image = tag("img", src=source, alt=picture.caption, class_="drawn" if picture.key in DRAWN else None)
    return tag("figure", image, tag("figcaption", picture.caption))


def notes_list(notes: list[str]) -> Html:
    return listing(notes, class_="notes") if notes else Html("")


# ---- results ----


def legend() -> Html:
    return note(
        "★ best: best point estimate of those with all runs. ≈ best: not separable from it "
        "(Holm-adjusted p of 0.05 or more in the pairs). one class: it calls every test image alike, and is "
        "no candidate for the best. A deeper tint is a better value; each column's "
        "scale spans its intervals, so that differences within the noise look alike."
    )


def results_table(experiment: Experiment) -> Html:
    """The result and what it cost, a row a strategy."""
    rows = experiment.rows
    without = {"Trials": not any(row.trials for row in rows), "No result": not lost_runs(*rows)}
    budget = [name for name in BUDGET if not without.get(name)]
    tints = result_tints([row.test for row in rows], experiment.higher_is_better)
    second_is_better = metrics.higher_is_better(experiment.second)
    seconds = result_tints([row.second for row in rows], second_is_better)
    body = []
    for row, tint, second in zip(rows, tints, seconds, strict=True):
        mark, lost, spent = standing(experiment, row), lost_runs(row), budget_row(row)
        shown = tag("span", {"best": "★ best"}.get(mark, mark), class_="mark " + re.sub("[^a-z]", "", mark))
        by_name = dict(zip(BUDGET, spent, strict=True))
        by_name["No result"] = words(", ".join(lost) or "0", also="wrap lost" if lost else "")
        line = [
            join([row.strategy, tag("small", early_runs(row)) if row.early else None]),
            result_cell(row.test, tint),
            words(shown),
            whole(row.test.n),
            result_cell(row.second, second) if row.test.n else words(LEFT_OUT),
            validation_cell(row.val) if row.test.n else LEFT_OUT,
            *(by_name[name] for name in budget),
        ]
        body.append(line)
    metric, other = metrics.label(experiment.metric), metrics.label(experiment.second)
    columns = ["Strategy", metric, "Beside the best", "Runs", other, "Validation (chose the epoch)"]
    groups = [("", 1), ("Test", 4), ("", 1), ("Budget", len(budget))]
    runs = "± standard deviation over runs (seeds, folds); minutes are wall time, steps do not depend on the machine"
    over = f": mean over runs [95 % interval over {plural(experiment.group_kind)}] {runs}"
    caption = join([heading_of(experiment), over])
    return table(caption, [*columns, *budget], body, groups=groups, class_="results")


def validation_cell(found: Estimate) -> Cell:
    return td(number(found.mean), " ", aside(plus_minus(found.sd) + beside(found)), class_="result")


def heading_of(experiment: Experiment) -> Html:
    return join(map(named, experiment.key), ", ")


# ---- pairs ----


def pair_matrix(experiment: Experiment) -> Html:
    """Row minus column with its interval, a symbol and a colour for the verdict."""
    pairs = experiment.pairs
    if not pairs:
        return note("No two strategies have a run on the same seed and fold: nothing can be compared.")
    compared = {name for pair in pairs for name in (pair.a, pair.b)}
    names = [row.strategy for row in experiment.rows if row.strategy in compared]
    itself = td("", class_="self")
    rows = [[a, *(itself if a == b else verdict_cell(experiment.pair(a, b)) for b in names)] for a in names]
    over = f"with its paired 95 % interval over {plural(experiment.group_kind)}"
    caption = f"{measured(experiment)} on test, row minus column, {over}"
    better = "higher" if experiment.higher_is_better else "lower"
    reading = (
        "▲ the row is better, ▼ worse, ≈ not separable, at a Holm-adjusted 0.05 over the "
        f"{several(len(pairs), 'pair')}. The {better} the {metrics.label(experiment.metric)}, the better. An "
        "interval is for its pair alone, so it can exclude 0 where the verdict, which is for all pairs, is ≈; the "
        "adjusted p is then given."
    )
    return table(caption, ["", *names], rows, class_="matrix") + note(reading)


def verdict_class(verdict: str) -> str:
    return f"verdict-{verdict.replace(' ', '-')}"


def verdict_words(verdict: str) -> Cell:
    return words(f"{SYMBOL[verdict]} {verdict}", also=verdict_class(verdict))


def verdict_cell(pair: Pair | None) -> Cell:
    if pair is None:
        return words("no common runs")
    symbol = tag("span", SYMBOL[pair.verdict], class_="symbol", title=pair.verdict)
    difference = tag("b", number(pair.difference, sign=True))
    around = tag("span", interval(pair.low, pair.high, sign=True), class_="ci")
    adjusted = tag("span", f"p {p_value(pair.p_holm)}, Holm", class_="ci") if alone(pair) else None
    return td(join([symbol, difference, around, adjusted], " "), class_=verdict_class(pair.verdict))


def alone(pair: Pair) -> bool:
    """Whether the pair's own interval excludes 0, and the verdict for all pairs says nothing."""
    return pair.verdict == "not separable" and (pair.low > 0 or pair.high < 0)


def pair_table(experiment: Experiment) -> Html:
    """Every p-value of every pair; the columns of a test that none of them has are left out."""
    if not experiment.pairs:
        return Html("")
    tests = {title: heads for title, heads in TESTS.items() if any(tests_of(pair)[title] for pair in experiment.pairs)}
    columns = ["Pair", "Verdict", "Runs", "Difference [95 %]", "p", "p, Holm", *chain.from_iterable(tests.values())]
    groups = [("", 3), ("Group bootstrap", 3), *((title, len(heads)) for title, heads in tests.items())]
    caption = f"Every pair, A − B, on {measured(experiment)}. {LEFT_OUT}: left out, for the reason below"
    if MCNEMAR in tests:
        caption += ". McNemar's test is on accuracy: only A / only B are right"
    return table(caption, columns, [pair_line(pair, tests) for pair in experiment.pairs], groups=groups)


MCNEMAR = "McNemar"
TESTS = {  # beside the bootstrap: the heads of the columns
    MCNEMAR: ["A / B", "p"],
    "DeLong": ["AUROC difference", "p"],
    "Corrected t": ["t (df)", "p"],
    "Wilcoxon": ["W (n)", "p"],
}


def tests_of(pair: Pair) -> dict[str, list[object]]:
    """The cells of each of TESTS, none where the test was left out."""
    mcnemar, delong, t, wilcoxon = pair.mcnemar, pair.delong, pair.t, pair.wilcoxon
    cells = [
        [f"{mcnemar.only_a} / {mcnemar.only_b}", p_value(mcnemar.p)] if mcnemar else [],
        [with_interval(delong), p_value(delong.p)] if delong else [],
        [f"{number(t.t, 2)} ({whole(t.df)})", p_value(t.p)] if t else [],
        [f"{short(wilcoxon.statistic)} ({wilcoxon.n})", p_value(wilcoxon.p)] if wilcoxon else [],
    ]
    return dict(zip(TESTS, cells, strict=True))


def pair_line(pair: Pair, tests: Iterable[str]) -> list[object]:
    line = [f"{pair.a} − {pair.b}", verdict_words(pair.verdict), whole(pair.runs), with_interval(pair)]
    line += [p_value(pair.p_bootstrap), p_value(pair.p_holm)]
    cells = tests_of(pair)
    return [*line, *chain.from_iterable(cells[name] or [LEFT_OUT] * len(TESTS[name]) for name in tests)]


# ---- curves and metrics ----


def curves_table(experiment: Experiment) -> Html:
    """Validation metric by epoch, a column a strategy."""
    curves = {
        name: {point.epoch: number(point.val_metric) for point in points}
        for name, points in experiment.curves.items()
        if points
    }
    epochs = thinned(sorted({epoch for curve in curves.values() for epoch in curve}))
    if not epochs:
        return Html("")
    rows = [[str(epoch), *(curve.get(epoch, LEFT_OUT) for curve in curves.values())] for epoch in epochs]
    caption = f"Validation {metrics.label(experiment.metric)} by epoch, mean over runs"
    return table(caption, ["Epoch", *curves], rows)


def thinned(items: list, most: int = MOST_EPOCHS) -> list:
    """At most `most` of them, evenly, the first and the last included."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def metrics_table(experiment: Experiment) -> Html:
    """Metrics down, strategies across."""
    rows = [row for row in experiment.rows if row.test.n]
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if not names:
        return Html("")
    runs, body = [row.test.n for row in rows], []
    for name in names:
        found = [row.metrics.get(name, Estimate()) for row in rows]
        tints = tinted([one.mean for one in found], metrics.higher_is_better(name))
        body.append([metrics.label(name), *map(metric_cell, found, tints, runs)])
    some = "(n) where a metric is undefined in some of the runs"
    over = f"[95 % interval over {plural(experiment.group_kind)}] ± standard deviation over runs"
    caption = f"Every metric on test, mean {over}; {some}. Tint from a row's worst to its best"
    caption += f". {calls_text(experiment)}" if calls_text(experiment) else ""
    return table(caption, ["Metric", *(row.strategy for row in rows)], body, class_="metrics")


def metric_cell(found: Estimate, tint: float | None, runs: int) -> Cell:
    some = beside(found) + (f" (n = {found.n})" if 0 < found.n < runs else "")
    around = tag("span", interval(found.low, found.high), class_="ci")
    parts = [number(found.mean), around, aside(plus_minus(found.sd) + some)]
    return td(join((part for part in parts if plain(part)), " "), tint=tint, class_="result")


def per_class_tables(experiment: Experiment) -> list[Html]:
    """A table a measure: classes down, strategies across."""
    rows = [row for row in experiment.rows if row.per_class]
    measures = dict.fromkeys(name for row in rows for found in row.per_class.values() for name in found)
    head = "Class" if experiment.task == "multiclass" else "Label"
    columns = [head, "Cases a run", *(row.strategy for row in rows)]
    tables = []
    for measure in (name for name in measures if name not in ("support", "n")):
        body = []
        for name in experiment.classes:
            found = [row.per_class.get(name, {}) for row in rows]
            support = next((one["support"] for one in found if known(one.get("support"))), None)
            values = (one.get(measure) for one in found)
            cells = (td(number(x), tint=x if known(x) and 0 <= x <= 1 else None) for x in values)
            body.append([named(name), whole(support), *cells])
        title = metrics.label(measure)
        caption = f"{title[0].upper()}{title[1:]} on test, mean over runs (tint: 0 to 1)"
        tables.append(table(caption, columns, body, class_="tall"))
    return tables


def area_table(experiment: Experiment) -> Html:
    """AUROC and AP, a row a strategy, two columns a class."""
    nothing = Curve(name="", grid=[], mean=[], low=[], high=[], area=math.nan, prevalence=math.nan)
    roc, pr = (
        {(strategy, curve.name): curve for strategy, curves in by_strategy.items() for curve in curves}
        for by_strategy in (experiment.roc, experiment.pr)
    )
    prevalence = dict.fromkeys((name for _, name in roc), math.nan)
    prevalence |= {name: curve.prevalence for (_, name), curve in pr.items() if known(curve.prevalence)}
    if not prevalence:
        return Html("")
    rows = []
    for strategy in experiment.roc:
        keys = [(strategy, name) for name in prevalence]
        areas = (curves.get(key, nothing).area for key in keys for curves in (roc, pr))
        rows.append([strategy, *map(number, areas)])
    caption = "Areas under the curves on test, mean over runs. Chance is 0.5 for AUROC and the prevalence for AP"
    classes = [(join([named(name), f" (prevalence {number(positives)})"]), 2) for name, positives in prevalence.items()]
    columns = ["Strategy", *("AUROC", "AP") * len(prevalence)]
    return table(caption, columns, rows, groups=[("", 1), *classes])


# ---- calls, calibration, thresholds ----


def confusion_tables(experiment: Experiment) -> Html:
    """A small matrix a strategy, or what is confused most where there are many classes."""
    classes = experiment.classes
    make = confusion_matrix if len(classes) <= MOST_CLASSES_IN_A_MATRIX else most_confused
    tables = [make(strategy, matrix, classes) for strategy, matrix in experiment.confusion.items()]
    what = f"Counts of {plural(experiment.unit_kind)} on test, summed over runs"
    reading = note(f"{what}; tint by the share of the true class, right calls outlined.")
    return reading + tag("div", *tables, class_="side-by-side") if tables else Html("")


def confusion_matrix(strategy: str, matrix: list[list[int]], classes: list[str]) -> Html:
    rows = []
    for i, counts in enumerate(matrix):
        total = sum(counts) or 1
        cells = (td(f"{n:,}", tint=n / total, class_="right" if j == i else None) for j, n in enumerate(counts))
        rows.append([named(classes[i]), *cells])
    caption = f"{strategy}: true down, called across"
    return table(caption, ["True", *map(named, classes)], rows, class_="confusion")


def most_confused(strategy: str, matrix: list[list[int]], classes: list[str]) -> Html:
    wrong = [(-n, i, j) for i, counts in enumerate(matrix) for j, n in enumerate(counts) if i != j and n]
    rows = [
        [named(classes[i]), words(named(classes[j])), f"{-n:,}", f"{sum(matrix[i]):,}"]
        for n, i, j in sorted(wrong)[:MOST_CONFUSIONS]
    ]
    caption = f"{strategy}: the {len(rows)} most frequent of {len(wrong):,} confusions"
    return table(caption, ["True", "Called", "Count", "Of"], rows)


def calibration_tables(experiment: Experiment) -> list[Html]:
    found = experiment.calibration
    if not found:
        return []
    across, up = CALIBRATED[experiment.task]
    rows = [[strategy, number(one.ece), number(one.brier)] for strategy, one in found.items()]
    bins = "The bins below hold all runs together"
    caption = f"Calibration on test, mean over runs; lower is better. {bins}"
    tables = []
    for strategy, one in found.items():
        body = [
            [
                f"{number(b.low, 1)} – {number(b.high, 1)}",
                number(b.confidence),
                number(b.accuracy),
                number(b.accuracy - b.confidence, sign=True),
                whole(b.count),
            ]
            for b in one.bins
            if b.count
        ]
        columns = ["Bin", across.capitalize(), up.capitalize(), "Gap", "Count"]
        tables.append(table(f"{strategy}: by bin of {across}", columns, body))
    measures = ["Strategy", "Expected calibration error", "Brier score"]
    return [table(caption, measures, rows), tag("div", *tables, class_="side-by-side")]


def thresholds_table(experiment: Experiment) -> Html:
    if not experiment.thresholds:
        return Html("")
    rates = list(dict.fromkeys(name for one in experiment.thresholds for name in one.rates))
    rows = []
    for one in experiment.thresholds:
        cut = " ".join(filter(None, [number(one.threshold), plus_minus(one.sd)]))
        rows.append([one.strategy, words(named(one.name)), cut, *(number(one.rates[name]) for name in rates)])
    heads = [name[0].upper() + name[1:] for name in map(metrics.label, rates)]
    caption = f"At the threshold chosen on validation ({experiment.threshold_rule}), mean over runs"
    return table(caption, ["Strategy", "Positive", "Threshold", *heads], rows, class_="tall")


# ---- rates of the layers ----


def rates_table(experiment: Experiment) -> Html:
    """Learning rate of every layer by epoch, tinted by its logarithm."""
    found = experiment.layer_rates
    if not found:
        return Html("")
    positive = [rate for rates in found.rate for rate in rates if known(rate) and rate > 0]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    columns = thinned(list(range(len(found.epochs))))
    rows = []
    for layer, block, rates in zip(found.layers, found.blocks, found.rate, strict=True):
        cells = (rate_cell(rates[i], low, high) for i in columns)
        rows.append([named(layer), words(named(block)), *cells])
    caption = f"{found.strategy}: learning rate of each layer by epoch, mean over runs. "
    caption += f"Tint by the logarithm, from {short(low)} to {short(high)}"
    if len(columns) < len(found.epochs):
        caption += f"; {len(columns)} of {len(found.epochs)} epochs shown"
    heads = ["Layer", "Block", *(str(found.epochs[i]) for i in columns)]
    groups = [("", 2), ("Epoch", len(columns))]
    return table(caption, heads, rows, groups=groups, class_="tall rates")


def rate_cell(rate: float, low: float, high: float) -> Cell:
    if not known(rate) or rate <= 0:
        return td(number(rate))
    return td(scientific(rate), tint=share(math.log10(rate), math.log10(low), math.log10(high)))


# ---- images ----


def hardest_images(experiment: Experiment) -> Html:
    if not experiment.hardest:
        return Html("")
    reading = note(
        "The test images whose truth got the lowest probability, mean over strategies and runs: a wrong "
        "label, or a hard case? ✓ right, ✗ wrong, with the probability of the class called. The pictures are "
        "from your test set: to share the page without them, delete hardest.npz in the runs and make it anew."
    )
    return reading + tag("div", *map(image_card, experiment.hardest), class_="cards")


def image_card(hard: HardImage) -> Html:
    image = tag("p", "no thumbnail", class_="none")
    if (hard.thumbnail or "").startswith("data:image/"):
        image = tag("img", src=hard.thumbnail, alt=f"test image {hard.image}")
    calls = []
    for strategy, call in hard.predictions.items():
        called = [f"{strategy}: ", named(call.name), f" {number(call.score, 2)}"]
        mark, look = ("✓ ", "right") if call.right else ("✗ ", "wrong")
        calls.append(tag("li", mark, *called, class_=look))
    mean = f", mean probability {number(hard.mean_right, 2)}"
    truth = tag("p", "truth: ", tag("b", named(hard.label)), mean)
    file = tag("p", hard.image, class_="file", title=hard.image)
    return tag("figure", image, tag("figcaption", file, truth, tag("ul", *calls)))


# ---- data, settings ----


SIDES = {"train": "training", "val": "validation", "test": "test"}


def splits_tables(experiment: Experiment) -> list[Html]:
    """How many of what is where, and the proof that no group is in two."""
    splits = sorted(experiment.splits, key=lambda split: split.fold)
    kind, unit, by_image = experiment.group_kind, experiment.unit_kind, experiment.group_kind == "image"
    sides = {
        fold_name(splits, split, ", ") + SIDES.get(side, side): part
        for split in splits
        for side, part in split.splits.items()
    }
    kinds = {"images": "images"}
    kinds |= {} if by_image else {"groups": plural(kind)}
    kinds |= {} if unit in ("image", kind) else {"units": plural(unit)}
    sizes = [[side, *(whole(getattr(part, name)) for name in kinds)] for side, part in sides.items()]
    classes = [
        [named(name), *(whole(part.classes.get(name, 0)) for part in sides.values())] for name in experiment.classes
    ]
    head = "Class" if experiment.task == "multiclass" else "Label (positives)"
    return [
        listing([*split_facts(experiment, splits), *experiment.data_notes], class_="notes"),
        table("Sizes of the splits", ["Split", *kinds.values()], sizes),
        table("Images of each class in each split", [head, *sides], classes, class_="tall"),
    ]


def fold_name(splits: list[FoldSplits], split: FoldSplits, end: str) -> str:
    """fold 2, or nothing where there is one."""
    return "" if len(splits) == 1 else f"fold {split.fold}{end}"


def split_facts(experiment: Experiment, splits: list[FoldSplits]) -> list[str]:
    kind, by_image = experiment.group_kind, experiment.group_kind == "image"
    found = []
    for split in splits:
        shared = "" if by_image else f"{plural(kind)} in two splits: {split.groups_in_two_splits}; "
        identical = f"byte-identical images across splits: {split.identical_across_splits}"
        found.append(fold_name(splits, split, ": ") + shared + identical)
    if by_image:
        found.append(f"The split is by image: {NO_GROUPS}, so images of one patient may stand in two splits.")
    if not experiment.official_test:
        return [*found, f"The test set was cut from the data by {kind}."]
    left = ", left as it is" if any(split.identical_across_splits for split in splits) else ""
    return [*found, f"The test set is the dataset's official one{left}."]


def settings_tables(experiment: Experiment) -> list[Html]:
    own = []
    for row in experiment.rows:
        texts = [", ".join(map(short, row.lr)), ", ".join(map(short, row.alpha)), ", ".join(row.edge)]
        cells = (words(text or LEFT_OUT) for text in texts)
        own.append([row.strategy, *cells, words(value(row.hyperparameters), also="wrap")])
    columns = ["Strategy", "Learning rate", "Alpha", "At an end of what was tried", "Hyperparameters"]
    shared = facts("Settings that all runs share", experiment.settings)
    machine = facts("Versions and machine", experiment.environment)
    return [
        table("Each strategy's own", columns, own),
        tag("div", shared, machine, class_="side-by-side"),
        *(tag("pre", tag("code", command)) for command in experiment.commands),
    ]


def facts(caption: str, entries: dict[str, object]) -> Html:
    rows = [[named(name), words(value(entry), also="wrap")] for name, entry in entries.items()]
    return table(caption, ["Name", "Value"], rows, class_="facts")
