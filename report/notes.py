"""The answer of an experiment in a sentence or two, and what a reader must know before its numbers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

import metrics
from report.evidence import MOSTLY, Evidence
from report.experiment import Design, Pair, Row, pair_of
from report.pairs import ALPHA, oriented
from report.wording import NO_GROUPS, beside, copies, distinct, p_value, plural, several, spoken, tested_images
from runs import Run

MANY_GROUPS = 20  # below, hardly any difference is found: benchmarks/coverage.py, column power
GIANT = 0.25  # share of what was tested in one group; with 0.3 intervals and verdicts miss what they say
ROUGH = 0.05  # share of resamples drawn again from which on that is said
HEAD_ALONE = ("head", "lp")  # stages in which the classifier alone is trained
PER_CLASS = {
    "auroc": "auroc",
    "average_precision": "ap",
    "balanced_accuracy": "recall",
    "macro_f1": "f1",
    "f1": "f1",
    "video_map": "video_ap",
}


# ---- the answer ----


def verdict(design: Design, rows: list[Row], pairs: list[Pair], compared_groups: int) -> str:
    """What is best, what it cannot be told from, what it is better than FT by."""
    if design.differ:
        return "No verdict: these runs were not made alike, the notes say in what they differ."
    ranked = [row for row in rows if row.ranked]
    best = next((row for row in rows if row.best), None)
    if best is None and ranked:
        return (
            f"No verdict: the runs of {spoken(row.strategy for row in ranked)} call every test "
            f"{design.unit_kind} alike (the notes say what, and in how many runs): nothing was learnt."
        )
    if best is None:
        metric = metrics.label(design.metric)
        return f"No run has finished with a defined {metric}: there is nothing to compare yet."
    against = {row.strategy: pair_of(pairs, best.strategy, row.strategy) for row in ranked if not row.best}
    said = best_value(design, ranked, best) + beside_the_rest(rows, best, against)
    said += beside_ft(design, ranked, best, against, pairs, distinct(design, compared_groups))
    return said + left_open(rows, best, against)


def best_value(design: Design, ranked: list[Row], best: Row) -> str:
    """LP-FT has the highest AUROC, 0.871 [0.840, 0.902]"""
    test, tied = best.test, tied_with(ranked, best)
    said = f"{best.strategy} has" if len(tied) == 1 else f"{spoken(tied)} tie for"
    said += f" the {'highest' if design.higher_is_better else 'lowest'} {metrics.label(design.metric)}"
    said += f", {test.mean:.3f}"
    said += f" [{test.low:.3f}, {test.high:.3f}]" if math.isfinite(test.low) else ""
    said += beside(test)
    if alike := [row.strategy for row in ranked if row.collapsed]:
        said += f", {spoken(alike)} left aside, whose runs call every test {design.unit_kind} alike"
    return said


def tied_with(ranked: list[Row], best: Row) -> list[str]:
    """The strategies that have the value of the best, itself among them."""
    return [row.strategy for row in ranked if not row.collapsed and row.test.mean == best.test.mean]


def kinds(against: dict[str, Pair | None]) -> dict[str, str]:
    return {other: pair.verdict if pair else "undefined" for other, pair in against.items()}


def beside_the_rest(rows: list[Row], best: Row, against: dict[str, Pair | None]) -> str:
    """; it is not separable from LP and L2-SP"""
    verdicts, tied = kinds(against), tied_with([row for row in rows if row.ranked], best)
    same = [other for other, kind in verdicts.items() if kind == "not separable" and other not in tied]
    if same:
        return f"; {'it is' if len(tied) == 1 else 'they are'} not separable from {spoken(same)}"
    if set(verdicts.values()) != {"better"}:
        return ""
    if len(verdicts) > 2 and all(row.ranked for row in rows):
        return "; every other strategy is separably worse"
    return f"; {spoken(verdicts)} {'is' if len(verdicts) == 1 else 'are'} separably worse"


def beside_ft(
    design: Design, ranked: list[Row], best: Row, against: dict[str, Pair | None], pairs: list[Pair], tested: str
) -> str:
    """; LP-FT is better than FT by 0.031 [0.004, 0.058] (n = 40 patients). tested: '40 patients'."""
    said, verdicts = "", kinds(against)
    if verdicts.get("FT") == "better":
        gain, low, high = oriented(against["FT"], design.higher_is_better)
        said += f"; {best.strategy} is better than FT by {gain:.3f} [{low:.3f}, {high:.3f}]"
    over_folds = {other: against[other].t for other, kind in verdicts.items() if kind == "better"}
    doubted = [f"{other} (p = {p_value(t.p)})" for other, t in over_folds.items() if t and not t.p <= ALPHA]
    if doubted:
        said += "; the corrected t-test over folds does not confirm that it is better than " + spoken(doubted)
    names = [row.strategy for row in ranked]
    with_ft = [pair_of(pairs, name, "FT") for name in names if name != "FT"] if "FT" in names else []
    with_ft = [pair for pair in with_ft if pair]
    if with_ft and all(pair.verdict == "not separable" for pair in with_ft):
        return f"{said}. No strategy is separable from FT at n = {tested}."
    return f"{said} (n = {tested})."


def left_open(rows: list[Row], best: Row, against: dict[str, Pair | None]) -> str:
    """What this verdict does not tell."""
    said, verdicts = "", kinds(against)
    if not verdicts:
        said += " No other strategy has the same runs to compare it with."
    elif set(verdicts.values()) == {"undefined"}:
        said += " No difference can be tested here: the notes of the pairs say why."
    if unranked := [row.strategy for row in rows if row.done and not row.ranked]:
        they_have = "it has" if len(unranked) == 1 else "they have"
        fewer = all(len(row.cells) < len(best.cells) for row in rows if row.strategy in unranked)
        said += f" Not ranked, because {they_have} {'fewer' if fewer else 'other'} runs: {spoken(unranked)}."
    if len(best.cells) == 1:
        said += " One run each: how much two trainings of the same strategy differ is not known (--seed 0 1 2)."
    return said


# ---- the notes ----


def notes(evidence: Evidence, design: Design, rows: list[Row]) -> list[str]:
    """What a reader must know before the numbers."""
    return [
        *missing_runs(design, rows),
        *split_notes(design),
        *few_groups(design),
        *fallback_notes(evidence),
        *coverage_notes(evidence, design),
        *unconverged_note(evidence),
        *stage_notes(rows),
        *call_notes(design, rows),
        *chance_note(evidence, design, rows),
        *resampling_note(evidence, design),
    ]


def missing_runs(design: Design, rows: list[Row]) -> list[str]:
    """What differs between the runs, and which are not there."""
    found = []
    if design.differ:
        found.append(
            f"NOT COMPARABLE: these runs differ in {'; '.join(design.differ)}. Run them alike (--overwrite) "
            "or keep them in different folders (--output-dir)."
        )
    if status := Counter(cell.status for cell in design.lost_cells):
        kinds = spoken(f"{n} {kind}" for kind, n in status.items())
        total = status.total() + sum(row.done for row in rows)
        found.append(
            f"{status.total()} of {total} runs have no result ({kinds}). A mean runs over the runs that a "
            "strategy has, a pair is compared on the seeds and folds that both have."
        )
    if names := design.planned.not_begun:
        them = "it" if len(names) == 1 else "them"
        found.append(f"Not begun, though the command names {them}: {spoken(names)}.")
    if status["failed"]:
        found.append("A strategy whose runs failed looks better than it is: its mean leaves the failures out.")
    return found


def split_notes(design: Design) -> list[str]:
    """What may be on both sides of the split."""
    found = []
    if not design.official_test and design.group_kind == "image":
        looks = next((note for note in design.data_notes if "looks like a group" in note), "")
        found.append(
            f"Split by image: {NO_GROUPS} (--group-col, --group-regex), so images of one patient may be on "
            "both sides." + (f" But {looks}." if looks else "")
        )
    if leaks := sum(fold.groups_in_two_splits for fold in design.splits):
        found.append(f"LEAK: {several(leaks, design.group_kind)} in two splits.")
    if spanning := sum(fold.identical_across_splits for fold in design.splits):
        kept = " The official split was left as it is." if design.official_test else ""
        sets = f"{spanning} sets of byte-identical images stand in two splits (all folds added)"
        found.append(f"{sets}: --drop-duplicates.{kept}")
    if copies(design):
        found.append(
            f"{tested_images(design)}: byte-identical images count as one wherever the test set is resampled, and in n."
        )
    return found


def few_groups(design: Design) -> list[str]:
    """From how many groups on the page's claims hold, where they do not: measured by
    benchmarks/coverage.py."""
    found = []
    if 1 < design.test_groups < MANY_GROUPS:
        found.append(
            f"{distinct(design)} are few: such a test set shows large differences only. In simulations of "
            "eight strategies on 20 patients one that was better by 0.08 in accuracy was found in 3 % of "
            "the sweeps, on 100 in 56 %."
        )
    if design.test_groups > 1 and design.largest_group_share > GIANT:
        found.append(
            f"One {design.group_kind} holds {design.largest_group_share:.0%} of what was tested: intervals "
            "are too narrow, and verdicts come by chance too often (in simulations where one of 40 held "
            "half, 95 % intervals of a strategy held the truth in 86 %, those of a pair in 88 %, and 12 % "
            "of the sweeps of equal strategies had a verdict, not 5 %)."
        )
    return found


def fallback_notes(evidence: Evidence) -> list[str]:
    labels = {label for run in evidence.done for label in run.result.get("threshold_fallback") or ()}
    if not labels:
        return []
    reason = "validation, which lacks positives or negatives"
    return [f"Threshold 0.5 instead of one from {reason}: {spoken(sorted(labels))}."]


def coverage_notes(evidence: Evidence, design: Design) -> list[str]:
    """Which means over classes or labels lack some, and where that differs between the runs: one name, two
    measures."""
    found = []
    for split, where in (("test", "test"), ("val", "validation")):
        for metric in dict.fromkeys((design.metric, design.second)):
            counts = {}
            for run in evidence.done:
                if (count := run.averaged_over(split, metric)) is not None:
                    counts[run.strategy, run.repeat] = count
            if any(defined < whole for defined, whole in counts.values()):
                said = f"{metrics.label(metric)} on {where} is a mean over {coverage(counts, design)}"
                lost = undefined_in(evidence.done, split, metric)
                found.append(said + (f" (undefined somewhere: {spoken(lost)})" if lost else "") + ".")
    return found


def coverage(counts: dict[tuple[str, tuple[int, int]], tuple[int, int]], design: Design) -> str:
    """1 of 2 labels in folds 0 and 2; 2 of 2 labels in fold 1. counts: (defined, all) of each run."""
    by_fold: dict[int, set[str]] = {}
    for (_, (_, fold)), (defined, whole) in counts.items():
        by_fold.setdefault(fold, set()).add(f"{defined} of {several(whole, class_word(design.task))}")
    folds_of: dict[str, list[int]] = {}
    for fold, texts in sorted(by_fold.items()):
        folds_of.setdefault(" or ".join(sorted(texts)), []).append(fold)
    everywhere = next(iter(folds_of))
    said = f"{everywhere}, not over all"
    if len(folds_of) > 1:
        said = "; ".join(
            f"{text} in {'fold' if len(folds) == 1 else 'folds'} {spoken(folds)}" for text, folds in folds_of.items()
        )
    if len(folds_of) > 1 or " or " in everywhere:
        said += ": these are different measures under one name, and the mean over runs mixes them"
    return said


def class_word(task: str) -> str:
    return "class" if task == "multiclass" else "label"


def undefined_in(runs: list[Run], split: str, metric: str) -> list[str]:
    """The classes or labels that have no value of the metric in some run; of many the first five, and how
    many more."""
    column = PER_CLASS.get(metric)
    lost = dict.fromkeys(
        name
        for run in runs
        for name, values in run.result[split]["per_class"].items()
        if column in values and (values[column] is None or math.isnan(values[column]))
    )
    return list(lost)[:5] + ([f"{len(lost) - 5} more"] if len(lost) > 5 else [])


def stage_notes(rows: list[Row]) -> list[str]:
    """Where a strategy in stages is not what its name says: its checkpoint is of an earlier stage, or stages
    merged."""
    found = []
    for row in (row for row in rows if row.done):
        stages = list(row.stages)
        for stage, n in row.early.items():
            part = "the classifier alone" if stage in HEAD_ALONE else "a part of the blocks"
            found.append(
                f"{row.strategy}: {n} of {several(row.done, 'run')} {'is' if n == 1 else 'are'} scored by a "
                f"checkpoint of stage {stage}, in which {part} was trained; validation chose it over the "
                f"epochs of the stages after it. What stands under {row.strategy} is there the result of "
                "that stage, not of the whole strategy."
            )
        if row.staged and len(stages) == 1:
            found.append(
                f"{row.strategy}: all of its epochs fell into the last stage ({stages[0]}), so that "
                "everything trains from the first epoch on, as in FT: more --epochs, or other "
                "--stage-shares, give it its stages."
            )
        elif len(stages) < len(row.planned_stages) or (row.staged and stages and stages[0] not in HEAD_ALONE):
            shown = ", ".join(f"{stage} from epoch {first}" for stage, first in row.stages.items())
            merged = f"its stages merged into {len(stages)} ({shown})"
            found.append(f"{row.strategy}: {merged}, as there are too few epochs for each.")
    return found


def unconverged_note(evidence: Evidence) -> list[str]:
    """Which runs were best in their last epoch: their validation value may still have been rising."""
    last = {
        name: sum(run.result["best_epoch"] == run.result["epochs"] for run in finished)
        for name, finished in evidence.finished.items()
    }
    if not any(last.values()):
        return []
    shown = spoken(f"{name} ({n} of {several(len(evidence.finished[name]), 'run')})" for name, n in last.items() if n)
    said = "Perhaps not converged, since the last epoch is the best on validation"
    return [f"{said}: {shown}. More --epochs may raise them."]


def call_notes(design: Design, rows: list[Row]) -> list[str]:
    """Which runs call one class of every test image: a value of theirs is that class's share, or chance."""
    found = []
    for row in rows:
        for name, n in row.one_call.items():
            runs = f"{n} of {several(row.done, 'run')} {'calls' if n == 1 else 'call'}"
            said = f"{row.strategy}: {runs} every test {design.unit_kind} {name}."
            found.append(said + (" It is no candidate for the best." if row.collapsed else ""))
    return found


def chance_note(evidence: Evidence, design: Design, rows: list[Row]) -> list[str]:
    """Where the interval of the best holds what a model without skill has."""
    best = next((row.test for row in rows if row.best), None)
    if best is None or not math.isfinite(best.low):
        return []
    support = [[entry["support"] for entry in run.result["test"]["per_class"].values()] for run in evidence.done]
    level, what = -math.inf, "chance"
    if design.metric == "auroc":
        level = 0.5
    elif design.metric == "kappa":
        level = 0.0
    elif design.metric == "balanced_accuracy":
        level = np.mean([1 / max(1, np.count_nonzero(counts)) for counts in support])
    elif design.metric == "accuracy":
        level = np.mean([max(counts) / max(1, sum(counts)) for counts in support])
        what = "the share of the most frequent class"
    if best.low > level:
        return []
    said = f"No strategy is above {what} ({level:.3f}) for sure: the interval of the best "
    return [f"{said}{metrics.label(design.metric)} begins at {best.low:.3f}."]


def resampling_note(evidence: Evidence, design: Design) -> list[str]:
    again = evidence.drawn_again
    if again <= ROUGH:
        return []
    few = f"because few {plural(design.group_kind)} have it"
    then = "stayed so" if again >= MOSTLY else "were drawn again"
    said = f"{again:.0%} of the resamples lacked a class that the test set has, {few}, and {then}"
    return [f"{said}: intervals of means over classes are rough."]
