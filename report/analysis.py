"""Every number of a report, from the run folders: analyse("runs/") -> an Analysis (experiment.py).

One experiment: evidence.py reads and resamples, this file makes its design and its rows, pairs.py compares
two strategies, notes.py says the answer, views.py has what is shown beside. across.py goes over
experiments."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import metrics
from report import notes, stats, views
from report.across import headline_claims, ranks_across
from report.evidence import Evidence, Repeat, gather, over_runs
from report.experiment import (
    NAN,
    Analysis,
    Design,
    Estimate,
    Experiment,
    FoldSplits,
    LostCell,
    Pair,
    Planned,
    Row,
    SplitCounts,
    pair_of,
)
from report.pairs import compare_pairs
from report.wording import as_noun, over_how_many
from runs import Run, Scored, at_an_end, read_runs, strategies_in_order

FROM_CALLS = ("accuracy", "balanced_accuracy", "macro_f1", "kappa")  # of the class called, whatever its score
OWN_TO_A_ROW = "cell hyperparameters split_hash lr alpha strategy data arch seed fold".split()
SAYS_NOTHING = (
    "dry_run check_data list_data show_blocks overwrite report gradcam predict export run out labels "
    "uncertain views region variant workers path_col label_col keep_last save_every stale parallel"
).split()


class ReportError(ValueError):
    """A folder that no report can be made of; the message says why."""


def analyse(folder: str | Path, progress: Callable[[str], None] = lambda doing: None) -> Analysis:
    """Everything that a report says, from the run folders below. progress(what is being done). Raises
    ReportError without a run."""
    return analyse_runs(folder, *read_runs(folder), progress)


def analyse_runs(folder: str | Path, runs: list[Run], warnings: list[str], progress: Callable[[str], None]) -> Analysis:
    """The analysis of runs that read_runs gave. Those whose predictions are damaged become unfinished,
    and are named in warnings."""
    if not runs:
        more = f"; and {len(warnings) - 2} more" if len(warnings) > 2 else ""
        also = f" ({'; '.join(warnings[:2])}{more})" if warnings else ""
        above = "give the folder above <data>/<arch>/<strategy>/seed0-fold0"
        raise ReportError(f"no run below {folder}{also}; {above}")
    names = {run.cell["strategy"]: run.strategy for run in runs}
    keys = list(dict.fromkeys(run.experiment for run in runs))
    experiments = []
    for i, key in enumerate(keys, 1):
        progress(f"{i} of {len(keys)}: {', '.join(key)}")
        evidence = gather([run for run in runs if run.experiment == key], warnings)
        experiments.append(analyse_experiment(evidence, names))
    order = strategies_in_order(runs)
    across, note = ranks_across(experiments, order)
    return Analysis(
        folder=str(folder),
        strategies=order,
        experiments=experiments,
        across=across,
        across_note=note,
        claims=headline_claims(experiments),
        warnings=warnings,
    )


def analyse_experiment(evidence: Evidence, names: dict[str, str]) -> Experiment:
    """One dataset and backbone. names: of the strategies by their key on the command line."""
    design = design_of(evidence, names)
    rows = [strategy_row(strategy, evidence, design) for strategy in evidence.finished]
    pairs, pair_notes = compare_pairs(evidence, design)
    rows = rows if design.differ else marked(rows, pairs, design.higher_is_better)
    compared = next((row.cells for row in rows if row.ranked), [])
    groups = {g for (_, repeat), test in evidence.scored.items() if repeat in compared for g in test.groups.tolist()}
    return Experiment(
        **vars(design),
        rows=rows,
        pairs=pairs,
        pair_notes=pair_notes,
        compared_groups=len(groups),
        notes=notes.notes(evidence, design, rows),
        verdict=notes.verdict(design, rows, pairs, len(groups)),
        curves=views.learning_curves(evidence, design.metric),
        confusion=views.confusion(evidence, design.task),
        roc=views.roc(evidence, design),
        pr=views.precision_recall(evidence, design),
        calibration=views.calibrations(evidence),
        thresholds=views.thresholds(evidence, design),
        layer_rates=views.layer_rates(evidence),
        hardest=views.hardest_images(evidence, design),
    )


# ---- the design ----


def design_of(evidence: Evidence, names: dict[str, str]) -> Design:
    runs, done = evidence.runs, evidence.done
    first = (done or runs)[0]
    settings, data = first.config["settings"], first.config["data"]
    metric, task = settings["metric"], settings["task"]
    over = over_how_many((run.averaged_over("test", metric) for run in done), notes.class_word(task))
    by_unit = data["unit_score"] not in (None, "video")
    return Design(
        data=first.cell["data"],
        arch=first.cell["arch"],
        task=task,
        classes=settings["classes"],
        metric=metric,
        second=first.result.get("second", ""),
        higher_is_better=metrics.higher_is_better(metric),
        over=over,
        unit_kind=data["unit_kind"] if by_unit else "image",
        group_kind=as_noun(data["group_kind"]),
        **test_counts(evidence.scored),
        seeds=sorted({run.repeat[0] for run in runs}),
        folds=sorted({run.repeat[1] for run in runs}),
        planned=planned(runs, names),
        lost_cells=lost_cells(runs, names),
        positive=first.result.get("positive"),
        citation=data["citation"],
        data_notes=data["notes"],
        official_test=data["official_test"],
        mean=data.get("mean"),
        std=data.get("std"),
        splits=fold_splits(runs),
        settings=shared_settings(runs),
        environment=shared_environment(runs),
        commands=list(dict.fromkeys(shlex.join(map(str, run.config.get("command", []))) for run in runs)),
        threshold_rule=settings["threshold"],
        differ=incomparable(runs),
    )


def test_counts(scored: dict[tuple[str, Repeat], Scored]) -> dict[str, int | float]:
    """Distinct images, units and groups that were tested, over all folds, by the names of Design's fields."""
    images = {image for test in scored.values() for image in test.images}
    groups = {group for test in scored.values() for group in test.groups.tolist()}
    named = {group for test in scored.values() for group in test.named}
    sets = {tuple(test.images): test for test in scored.values()}
    units = [len(test.labels) for test in sets.values()]
    apart = sum(map(len, sets)) == len(images)
    in_group = Counter(group for test in sets.values() for group in test.groups.tolist())
    return {
        "test_images": len(images),
        "test_groups": len(groups),
        "test_units": sum(units) if apart else max(units, default=0),
        "named_groups": len(named),
        "largest_group_share": max(in_group.values(), default=0) / max(1, in_group.total()),
    }


def planned(runs: list[Run], names: dict[str, str]) -> Planned:
    """What the commands of these runs asked for, with what is there besides: an interrupted sweep has
    fewer."""
    seeds, folds, keys = set(), set(), {}
    for run in runs:
        arguments, (seed, fold) = run.config["arguments"], run.repeat
        seeds |= {seed, *(arguments.get("seed") or ())}
        folds |= {fold, *range(run.config["data"].get("folds") or arguments.get("folds") or 1)}
        keys |= dict.fromkeys(arguments.get("strategy") or ())
    there = {run.cell["strategy"] for run in runs}
    not_begun = [names.get(key, key) for key in keys if key not in there]
    return Planned(seeds=sorted(seeds), folds=sorted(folds), not_begun=not_begun)


def lost_cells(runs: list[Run], names: dict[str, str]) -> list[LostCell]:
    """Those without a result: failed, unfinished, or never begun though the command has that seed and
    fold."""
    found = [LostCell(run.strategy, *run.repeat, run.status, run.reason) for run in runs if run.status != "done"]
    there, wanted = {(run.strategy, run.repeat) for run in runs}, planned(runs, names)
    for strategy in dict.fromkeys(run.strategy for run in runs):
        for seed in wanted.seeds:
            for fold in wanted.folds:
                if (strategy, (seed, fold)) not in there:
                    found.append(LostCell(strategy, seed, fold, status="not run", reason=""))
    return found


def fold_splits(runs: list[Run]) -> list[FoldSplits]:
    """What is in train, val and test of each fold, as its first run has it."""
    found = []
    for fold, run in {run.repeat[1]: run for run in reversed(runs)}.items():
        data = run.config["data"]
        counts = {
            side: SplitCounts(**{name: part[name] for name in ("images", "groups", "units", "classes")})
            for side, part in data["splits"].items()
        }
        found.append(
            FoldSplits(
                fold=fold,
                splits=counts,
                groups_in_two_splits=data["groups_in_two_splits"],
                identical_across_splits=data["identical_across_splits"],
            )
        )
    return found[::-1]


def shared_settings(runs: list[Run]) -> dict[str, object]:
    """What the runs share: settings and arguments that are the same in all. A strategy's own are left to its
    row, a dataset's to its name; what was not set is left out."""
    shown = [
        run.config["arguments"] | run.config["settings"] | {"weights": run.config["environment"].get("weights")}
        for run in runs
    ]
    left_out = {*OWN_TO_A_ROW, *SAYS_NOTHING}
    return {
        name: value
        for name, value in shown[0].items()
        if name not in left_out and value is not None and all(other.get(name) == value for other in shown)
    }


def shared_environment(runs: list[Run]) -> dict[str, str]:
    """Versions and machines; 'a, b' where the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.config["environment"].items():
            if name != "weights":
                found.setdefault(name, {}).update({str(value): None} if value is not None else {})
    return {name: ", ".join(values) for name, values in found.items()}


def incomparable(runs: list[Run]) -> list[str]:
    """Settings in which runs of one experiment differ that should be alike: 'epochs: 1, 2'. A strategy's own
    (learning rate, alpha, ...) must agree within the strategy, unless they were tuned."""
    own = ("cell", "lr", "hyperparameters", "split_hash")
    found: dict[str, set[str]] = {}
    used: dict[str, set[str]] = {}  # of a strategy; an older run lacks some
    for run in runs:
        used.setdefault(run.strategy, set()).update(run.config["settings"]["hyperparameters"])
    for run in runs:
        settings = run.config["settings"]
        hyper = settings["hyperparameters"]
        alike = {name: value for name, value in settings.items() if name not in own}
        alike["tune_order"] = settings.get("tune_order")  # older runs have none: their trials were drawn
        alike |= {name: hyper[name] for name in ("bn", "stage_shares", "weight_decay") if name in hyper}
        alike |= {f"{name} of {run.strategy}": hyper.get(name) for name in used[run.strategy]}
        alike[f"lr of {run.strategy}"] = settings["lr"]
        alike[f"split of fold {run.repeat[1]}"] = settings.get("split_hash")
        for name, value in alike.items():
            found.setdefault(name, set()).add(json.dumps(value))
    differ = [name for name, values in found.items() if len(values) > 1]
    shown = [name for name in differ if not any(name.startswith(f"{other} of ") for other in differ)]
    return [f"{name}: {', '.join(sorted(found[name])[:3])}" for name in shown]


# ---- a row ----


def strategy_row(strategy: str, evidence: Evidence, design: Design) -> Row:
    """A strategy in an experiment: how good, how sure, how expensive."""
    finished = evidence.finished[strategy]
    begun = [run for run in evidence.runs if run.strategy == strategy]
    counts = Counter(run.status for run in begun)
    first, about = begun[0], begun[0].config.get("about", {})
    result = finished[0].result if finished else {}
    stages = result.get("stages", [])
    tests = [run.result["test"] for run in finished]
    wanted = len(design.planned.seeds) * len(design.planned.folds)
    one_call, collapsed = calls(finished, evidence, design.metric)
    return Row(
        strategy=strategy,
        sentence=about.get("sentence", ""),
        citation=about.get("citation", ""),
        settings=about.get("settings", []),
        staged=about.get("staged", len(stages) > 1),
        done=counts["done"],
        failed=counts["failed"],
        unfinished=counts["unfinished"],
        missing=wanted - len(begun),
        cells=[run.repeat for run in finished],
        val=mean_of(finished, "val", design.metric, design.task),
        test=estimate(finished, evidence, design.metric, design),
        second=estimate(finished, evidence, design.second, design),
        metrics={
            name: estimate(finished, evidence, name, design)
            for name in dict.fromkeys(name for test in tests for name in test["values"])
        },
        per_class={
            name: {metric: over_runs(test["per_class"][name].get(metric) for test in tests).mean for metric in values}
            for name, values in (tests[0]["per_class"] if tests else {}).items()
        },
        epochs=over_runs(run.result["epochs"] for run in finished).mean,
        optimizer_steps=over_runs(run.result["optimizer_steps"] for run in finished).mean,
        peak_memory_bytes=max(filter(None, (run.result["peak_memory_bytes"] for run in finished)), default=None),
        trainable_parameters=result.get("trainable_parameters", 0),
        parameters=result.get("parameters", 0),
        **tuning_and_time(begun, finished),
        hyperparameters=first.config["settings"]["hyperparameters"],
        stages=max((run.stages for run in finished), key=len, default={}),
        planned_stages=stages,
        early=dict(Counter(run.early_stage for run in finished if run.early_stage)),
        one_call=one_call,
        collapsed=collapsed,
    )


def mean_of(runs: list[Run], split: str, metric: str, task: str) -> Estimate:
    over = over_how_many((run.averaged_over(split, metric) for run in runs), notes.class_word(task))
    return over_runs((run.value(split, metric) for run in runs), over)


def estimate(runs: list[Run], evidence: Evidence, metric: str, design: Design) -> Estimate:
    """The metric on test with its interval over groups, where it was resampled."""
    if any((run.strategy, run.repeat, metric) not in evidence.resampled for run in runs):
        return mean_of(runs, "test", metric, design.task)
    resampled = [evidence.resampled[run.strategy, run.repeat, metric] for run in runs]
    over_groups = stats.group_t(
        [run.value("test", metric) for run in runs],
        [found.values for found in resampled],
        [found.drawn for found in resampled],
        metrics.value_range(metric, design.task, len(design.classes)),
    )
    return replace(mean_of(runs, "test", metric, design.task), low=over_groups.low, high=over_groups.high)


def tuning_and_time(begun: list[Run], finished: list[Run]) -> dict[str, object]:
    """What was tried and chosen, and the minutes that it took, by the names of Row's fields."""
    tuned = {run.repeat[1]: run.config["tuning"] for run in begun if run.config.get("tuning")}  # seeds share a fold's
    settings = [run.config["settings"] for run in begun]
    used = [
        run.config.get("tuning") or {"lr": own["lr"]} | own["hyperparameters"]
        for run, own in zip(begun, settings, strict=True)
    ]
    lr, alpha = (sorted({own[n] for own in used if own.get(n) is not None}) for n in ("lr", "alpha"))
    minutes = [run.result["minutes"] for run in finished]
    return {
        "trials": sum(len(tuning["trials"]) for tuning in tuned.values()) // max(1, len(tuned)),
        "tuning_steps": float(sum(tuning["optimizer_steps"] for tuning in tuned.values())),
        "minutes": over_runs(minutes).mean,
        "minutes_total": float(sum(minutes) + sum(tuning["minutes"] for tuning in tuned.values())),
        "lr": lr,
        "alpha": alpha,
        "edge": [f"{name} in fold {fold}" for fold, tuning in sorted(tuned.items()) for name in at_an_end(tuning)],
    }


def calls(runs: list[Run], evidence: Evidence, metric: str) -> tuple[dict[str, int], bool]:
    """What is called of every test unit -> in how many runs, though the test set has more than that; and
    whether half of the runs or more treat all units alike as far as the metric sees: they call one class, or,
    where the metric ranks scores, give one score. Nothing was learnt there, however high the value."""
    found, alike = Counter(), 0
    for run in runs:
        test, classes = evidence.scored[run.strategy, run.repeat], run.config["settings"]["classes"]
        if (test.labels == test.labels[0]).all():
            continue  # the truth is one and the same
        if test.labels.ndim == 1:
            called = test.scores.argmax(axis=1)[:, None]
            names = [classes[called[0, 0]]]
        else:
            thresholds = run.result.get("thresholds") or [None] * len(classes)
            called = test.scores >= np.array([NAN if t is None else t for t in thresholds])
            names = [name for name, on in zip(classes, called[0], strict=True) if on] or ["none of the labels"]
        one_call = bool((called == called[0]).all())
        found[" | ".join(names)] += one_call
        alike += one_call if metric in FROM_CALLS else bool((test.scores == test.scores[0]).all())
    return {name: n for name, n in found.items() if n}, 0 < len(runs) <= 2 * alike


def marked(rows: list[Row], pairs: list[Pair], higher_is_better: bool) -> list[Row]:
    """The rows, the one with the best point estimate marked, and those that are not separable from it: among
    the strategies that have the same runs, the most of them; a mean over other seeds and folds is no match. A
    collapsed one keeps its rank and is never the best."""
    cells = [row.cells for row in rows]
    full = max(cells, key=lambda mine: (len(mine), cells.count(mine)), default=[])
    ranked = {row.strategy for row in rows if row.cells == full and math.isfinite(row.test.mean)}
    learnt = [row for row in rows if row.strategy in ranked and not row.collapsed]
    choose = max if higher_is_better else min
    best = choose(learnt, key=lambda row: row.test.mean).strategy if learnt else None
    beside = {
        row.strategy
        for row in learnt
        if (pair := pair_of(pairs, best, row.strategy)) and pair.verdict == "not separable"
    }
    return [
        replace(row, ranked=row.strategy in ranked, best=row.strategy == best, beside_best=row.strategy in beside)
        for row in rows
    ]
