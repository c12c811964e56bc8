"""Numbers, names and judgements as every form of the report writes them: the page, the Markdown, the LaTeX.

    number(0.8714)                   # 0.871; nan is "undefined"
    several(3, "study")              # 3 studies
    estimate(row.test)               # 0.871 [0.840, 0.902] ± 0.012
    problems(analysis.experiments[0])

Needs the standard library and metrics.py."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import metrics

if TYPE_CHECKING:
    from report.experiment import Across, Design, Estimate, Experiment, Gain, Pair, Row
    from report.stats import DeLong

LEFT_OUT = "–"  # a test that was not done; the notes say why
NO_GROUPS = "no patient ids were given"
SYMBOL = {"better": "▲", "worse": "▼", "not separable": "≈", "undefined": "–"}
CALIBRATED = {"multiclass": ("confidence", "accuracy"), "multilabel": ("score", "share with the label")}
IRREGULAR = {"class": "classes", "dataset and backbone": "datasets and backbones"}

# ---- words ----


def plural(noun: str) -> str:
    if noun in IRREGULAR or noun.endswith("s"):
        return IRREGULAR.get(noun, noun)
    return re.sub("([^aeiou])y$", r"\1ie", noun) + "s"


def as_noun(column: str) -> str:
    """What a column names, as a word of a sentence: patient_id is patient, Study UID is study."""
    words = re.sub(r"(?i)[_ -]+(ids?|uids?|no|nr|number|code)$|(?<=[a-z])(?-i:U?ID|Id)$", "", column.strip())
    return re.sub(r"[_-]+", " ", words).strip().lower() or column


def several(n: int, noun: str) -> str:
    """1 fold, 1,670 images"""
    return f"{n:,} {noun if n == 1 else plural(noun)}"


def counted(seen: int, planned: int, noun: str) -> str:
    """3 folds, or 2 of 3 folds where a sweep was interrupted."""
    return several(seen, noun) if seen >= planned else f"{seen} of {several(planned, noun)}"


def spoken(items: Iterable[object]) -> str:
    """a, b and c"""
    *first, last = [str(item) for item in items] or [""]
    return f"{', '.join(first)} and {last}" if first else last


# The last ones turn text round.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: object) -> str:
    """A string that UTF-8 and HTML can hold: file names may carry lone surrogates and control characters."""
    return CONTROL.sub("\ufffd", str(text).encode("utf-8", "replace").decode("utf-8"))


def file_stems(names: Iterable[tuple[str, str]]) -> list[str]:
    """'demo-resnet18' for every (data, arch): of a-z, 0-9 and '-' alone, no two the same."""
    stems: list[str] = []
    for name in names:
        parts = (re.sub("[^a-z0-9]+", "-", part.lower()).strip("-")[:50].strip("-") for part in name)
        stem = "-".join(part or "x" for part in parts)
        free = (stem if i == 1 else f"{stem}-{i}" for i in itertools.count(1))
        stems.append(next(candidate for candidate in free if candidate not in stems))
    return stems


# ---- numbers ----


def known(x: float | None) -> bool:
    return x is not None and math.isfinite(x)


def number(x: float | None, digits: int = 3, sign: bool = False) -> str:
    """0.871, −0.031, or undefined."""
    if not known(x):
        return "undefined"
    text = f"{x:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def short(x: float | None) -> str:
    """Two significant digits: 0.0031, 3e-5, 12."""
    return f"{x:.2g}".replace("e-0", "e-") if known(x) else "undefined"


def scientific(x: float, digits: int = 1) -> str:
    """3.4e−4"""
    return f"{x:.{digits}e}".replace("e-0", "e−") if known(x) else "undefined"


def whole(x: float | None) -> str:
    """11,178,564; a mean of counts that is none itself has a digit more: 12.5"""
    return "undefined" if not known(x) else f"{x:,.0f}" if x == round(x) or x >= 100 else f"{x:,.1f}"


def p_value(p: float | None) -> str:
    return "undefined" if not known(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float, high: float, sign: bool = False) -> str:
    """[0.840, 0.902], or nothing."""
    return f"[{number(low, sign=sign)}, {number(high, sign=sign)}]" if known(low) and known(high) else ""


def minutes(x: float) -> str:
    if not known(x):
        return "undefined"
    return f"{x:.2f}" if x < 10 else f"{x:.0f}" if x < 600 else f"{x / 60:.1f} h"


def memory(count: int | None) -> str:
    """Peak memory in GiB, or what says that the system does not tell."""
    return f"{count / 2**30:.2f} GiB" if known(count) else "not measured"


def value(x: object) -> str:
    """A setting as a reader would write it."""
    if x is None or x == "" or (isinstance(x, float) and not math.isfinite(x)):
        return "not set"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, (list, tuple)):
        return ", ".join(map(value, x)) or "not set"
    if isinstance(x, dict):
        return ", ".join(f"{name}: {value(inner)}" for name, inner in x.items()) or "not set"
    return f"{x:g}" if isinstance(x, float) else re.sub(r"(^|, )None(?=,|$)", r"\1not set", str(x))


# ---- an estimate, a difference ----


def estimate(found: Estimate) -> str:
    """0.871 [0.840, 0.902] ± 0.012, and (1 of 2 labels) where it is a mean over a part of them."""
    parts = [number(found.mean), interval(found.low, found.high), plus_minus(found.sd)]
    return " ".join(filter(None, parts)) + beside(found)


def plus_minus(sd: float) -> str:
    """± 0.012; empty with one run."""
    return f"± {number(sd)}" if known(sd) else ""


def beside(found: Estimate | Design | Gain) -> str:
    """' (1 of 2 labels)' where a mean over classes or labels lacks some of them; else empty."""
    return f" ({found.over})" if found.over else ""


def over_how_many(counts: Iterable[tuple[int, int] | None], noun: str) -> str:
    """'1 of 2 labels', '1 to 2 of 3 labels'; empty where every mean runs over all. counts: (defined, all) of
    each run, None where the metric is no mean."""
    pairs = [pair for pair in counts if pair is not None]
    if all(defined == total for defined, total in pairs):
        return ""
    fewest, most = min(defined for defined, _ in pairs), max(defined for defined, _ in pairs)
    shown = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{shown} of {several(max(total for _, total in pairs), noun)}"


def measured(found: Design | Gain) -> str:
    """The metric as it was measured: AUROC, or AUROC (1 of 2 labels)."""
    return metrics.label(found.metric) + beside(found)


def change(found: Pair | Gain | DeLong) -> str:
    """+0.031 [+0.004, +0.058]"""
    parts = [number(found.difference, sign=True), interval(found.low, found.high, sign=True)]
    return " ".join(filter(None, parts))


# ---- an experiment ----


def experiment_name(experiment: Design) -> str:
    return ", ".join(experiment.key)


def question(experiments: list[Experiment]) -> str:
    names = list(dict.fromkeys(experiment.data for experiment in experiments))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Which fine-tuning strategy should I use on {shown}?" if names else "No finished run"


def distinct(design: Design, n: int | None = None) -> str:
    """What n counts (all that was tested, unless another n is given): '40 patients', or '38 different
    patients' where some share an identical image and count as one."""
    n, kind = design.test_groups if n is None else n, design.group_kind
    return several(n, kind) if not copies(design) else f"{n:,} different {kind if n == 1 else plural(kind)}"


def copies(design: Design) -> int:
    """How many tested groups count as one with another, because they share an identical image."""
    return design.named_groups - design.test_groups


def tested_images(design: Design) -> str:
    """'394 test images, 314 of them different'; '125 test images of 40 patients, 38 of them different'"""
    text = several(design.test_images, "test image")
    if design.group_kind != "image":
        text += f" of {several(design.named_groups, design.group_kind)}"
    return text + (f", {design.test_groups:,} of them different" if copies(design) else "")


def calls_text(design: Design) -> str:
    """What a call is in the metrics: of two classes accuracy and sensitivity take different ones."""
    rule = "0.5" if design.threshold_rule == "0.5" else f"chosen on validation ({design.threshold_rule})"
    if design.task == "multilabel":
        return f"F1 is at each label's threshold, {rule}"
    if len(design.classes) != 2:
        return ""
    return (
        "Accuracy, balanced accuracy, F1 and kappa are of the class with the higher score; sensitivity, "
        f"specificity, PPV and NPV are at the threshold {rule}"
    )


def problems(experiment: Experiment) -> list[str]:
    """What is wrong or missing, and what that does to the comparison."""
    lacking: dict[str, list[str]] = {}  # strategies that lack the same share a line
    for row in experiment.rows:
        if lost_runs(row):
            lacking.setdefault(what_is_lost(experiment, row), []).append(row.strategy)
    found = [*experiment.notes, *(f"{', '.join(names)}: {text}" for text, names in lacking.items())]
    if edges := [f"{row.strategy} ({', '.join(row.edge)})" for row in experiment.rows if row.edge]:
        ends = "The chosen value lies at an end of what tuning tried, and a better one may lie beyond it"
        found.append(f"{ends}: {'; '.join(edges)}.")
    return found


def what_is_lost(experiment: Experiment, row: Row) -> str:
    """1 failed (seed 1, fold 0: why); 2 of 3 runs count, ..."""
    cells = [cell for cell in experiment.lost_cells if cell.strategy == row.strategy]
    places = [
        f"seed {cell.seed}, fold {cell.fold}" + (f": {without_nan(cell.reason)}" if cell.reason else "")
        for cell in cells
    ]
    where = "; ".join(places[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")
    full = max(other.done for other in experiment.rows)
    effect = "its other runs are complete"
    if not row.done:
        effect = "it has no result and is in no comparison"
    elif row.done < full:
        hard = "a strategy whose hard runs are missing can look better than it is"
        effect = f"{row.done} of {full} runs count, and {hard}"
    return f"{', '.join(lost_runs(row))}{f' ({where})' if where else ''}; {effect}."


def without_nan(reason: str) -> str:
    """An error's reason without Python's word for what is no number."""
    return re.sub(r"\bnan\b", "not a number", reason)


# ---- a row ----


def shown_name(row: Row) -> str:
    """The strategy, and how many of its runs are scored by the checkpoint of an earlier stage:
    LP-FT (2 of 3 runs scored in stage lp)."""
    return row.strategy + (f" ({early_runs(row)})" if row.early else "")


def early_runs(row: Row) -> str:
    """2 of 3 runs scored in stage lp"""
    runs = several(row.done, "run")
    return ", ".join(f"{n} of {runs} scored in stage {stage}" for stage, n in row.early.items())


def standing(experiment: Experiment, row: Row) -> str:
    """Beside the best: best, ≈ best, worse, one class, fewer runs, other runs, not compared, undefined, no
    run."""
    if not row.test.n:
        return "undefined" if row.done else "no run"
    if row.best:
        return "best"
    if row.collapsed:
        return "one class"
    if row.beside_best:
        return "≈ best"
    best = experiment.best
    if best and row.test.n < best.test.n:
        return "fewer runs"
    if best and not row.ranked:
        return "other runs"
    pair = best and experiment.pair(row.strategy, best.strategy)
    return {"worse": "worse", "not separable": "≈ best"}.get(pair and pair.verdict, "not compared")


def lost_runs(*rows: Row) -> list[str]:
    """['1 failed', '2 not run'] of all the rows."""
    lost = {
        "failed": sum(row.failed for row in rows),
        "unfinished": sum(row.unfinished for row in rows),
        "not run": sum(row.missing for row in rows),
    }
    return [f"{n} {kind}" for kind, n in lost.items() if n]


BUDGET = "Epochs, Steps, Trials, Minutes a run, Minutes in all, Peak memory, Trainable, No result".split(", ")


def budget_row(row: Row) -> list[str]:
    """What a strategy was given and what it took, in BUDGET's order."""
    lost = ", ".join(lost_runs(row)) or "0"
    if not row.done:
        return [LEFT_OUT] * (len(BUDGET) - 1) + [lost]
    return [
        whole(row.epochs),
        whole(row.optimizer_steps),
        whole(row.trials),
        minutes(row.minutes),
        minutes(row.minutes_total),
        memory(row.peak_memory_bytes),
        whole(row.trainable_parameters),
        lost,
    ]


# ---- over experiments ----


def friedman_line(across: Across) -> str:
    """Friedman over 3 rows: chi² = 12.50 (7 df), p = 0.085; ..."""
    test = across.friedman
    chi2 = f"chi² = {number(test.chi2, 2)} ({whole(test.df)} df), p = {p_value(test.p)}"
    p = f"p = {p_value(test.f_p)}" if known(test.f_p) else "without a p below five rows"
    f = f"Iman-Davenport F = {number(test.f, 2)}, {p}"
    rows = several(len(across.experiments), "row")
    parts = [f"Friedman over {rows}: {chi2}; {f}.".replace("p = <", "p < ")]
    if known(across.cd):
        cliques = "; ".join(", ".join(clique) for clique in across.cliques) or "none"
        difference = f"{number(across.cd, 2)} ranks"
        parts.append(f"Nemenyi critical difference at {across.alpha:g}: {difference}.")
        parts.append(f"Groups within it: {cliques}.")
    return " ".join(parts)
