"""Every number of a report, from the run folders: analyse("runs/") -> a dict of plain Python.

A block is a dataset and a backbone; a row of it is a strategy; a pair is a comparison of two on the same test images.
Order of this file: one block, its verdict, over blocks. pairs.py compares two strategies, views.py has what is shown
beside."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

import metrics
from report import stats, views
from report.pairs import ALPHA, compare_pairs, oriented
from report.wording import (
    NO_GROUPS,
    ORDER,
    STAGED,
    beside,
    copies,
    distinct,
    in_order,
    measured,
    metric_name,
    over_how_many,
    p_value,
    pairs_by_name,
    plural,
    several,
    shown_name,
    spoken,
    tested_images,
)
from runs import NAN, Resampled, Run, Scored, at_an_end, read_runs, read_scored, spread

RESAMPLES = 2000  # of the bootstrap over groups
MEANS_OVER_CLASSES = ("balanced_accuracy", "macro_f1", "auroc", "average_precision", "f1")
MANY_GROUPS = 20  # below, hardly any difference is found: benchmarks/coverage.py, column power
GIANT = 0.25  # share of what was tested in one group; with 0.3 intervals and verdicts miss what they say
MOSTLY = 0.9  # share of resamples without some class from which on they are not drawn again


class ReportError(ValueError):
    """A folder that no report can be made of; the message says why."""


# ------------------------------------------------------------------------------------------------ one block


def analyse(folder: str | Path, progress: Callable[[str], None] = lambda doing: None, found=None) -> dict:
    """Everything that a report says, from the run folders below: the blocks, what holds over them, the two headline
    claims of the paper. progress(what is being done). found: what read_runs gave, where it was called before. Raises
    ReportError without a run."""
    runs, warnings = found or read_runs(folder)
    if not runs:
        more = f"; and {len(warnings) - 2} more" if len(warnings) > 2 else ""
        also = f" ({'; '.join(warnings[:2])}{more})" if warnings else ""
        raise ReportError(
            f"no run below {folder}{also}; give the folder above <data>/<arch>/<strategy>/seed0-fold0"
        )
    blocks = []
    keys = list(dict.fromkeys(run.block for run in runs))
    for number, key in enumerate(keys, 1):
        progress(f"{number} of {len(keys)}: {', '.join(key)}")
        inside, scored = [run for run in runs if run.block == key], {}
        for run in [r for r in inside if r.status == "done"]:
            try:
                scored[run.strategy, run.at] = read_scored(run)
            except (ValueError, KeyError, IndexError, StopIteration) as error:
                warnings.append(
                    f"left out, {run.folder}/predictions.csv is damaged: {type(error).__name__}: {error}"
                )
                run.status, run.reason = "unfinished", "damaged"
        blocks.append(analyse_block(inside, scored))
    across, note = over_blocks(blocks)
    return {
        "folder": str(folder),
        "blocks": blocks,
        "across": across,
        "across_note": note,
        "claims": headline_claims(blocks),
        "warnings": warnings,
    }


def analyse_block(runs: list[Run], scored: dict) -> dict:
    """One dataset and backbone: a row a strategy, a pair of them a comparison, and what the page shows."""
    done = [run for run in runs if run.status == "done"]
    of = {s: [r for r in done if r.strategy == s] for s in dict.fromkeys(r.strategy for r in runs)}
    first = (done or runs)[0]
    settings, data = first.config["settings"], first.config["data"]
    metric = settings["metric"]
    second = first.result.get("second", "")
    block = {
        "data": first.cell["data"],
        "arch": first.cell["arch"],
        "task": settings["task"],
        "classes": settings["classes"],
        "metric": metric,
        "second": second,
        "higher_is_better": metrics.higher_is_better(metric),
        "unit_kind": data["unit_kind"] if data["unit_score"] not in (None, "video") else "image",
        "group_kind": data["group_kind"],
        "seeds": sorted({run.at[0] for run in runs}),
        "folds": sorted({run.at[1] for run in runs}),
        "planned": planned(runs),
        "positive": first.result.get("positive"),
        "citation": data["citation"],
        "data_notes": data["notes"],
        "official_test": data["official_test"],
        "mean": data.get("mean"),
        "std": data.get("std"),
        "splits": [
            {"fold": r.at[1]}
            | {k: r.config["data"][k] for k in ("splits", "groups_in_two_splits", "identical_across_splits")}
            for r in {r.at[1]: r for r in reversed(runs)}.values()
        ][::-1],
        "settings": shared_settings(runs),
        "environment": shared_environment(runs),
        "commands": list(dict.fromkeys(shlex.join(map(str, r.config.get("command", []))) for r in runs)),
        "cells": unfinished_cells(runs),
        "threshold_rule": settings["threshold"],
    }
    block["over"] = over_how_many((r.averaged_over("test", metric) for r in done), labels_word(block))
    block |= test_counts(scored)
    boot, again = bootstrap(done, scored, metric, second)
    block["rows"] = [strategy_row(s, runs, mine, boot, metric, second) for s, mine in of.items()]
    for row in block["rows"]:
        row |= calls(of[row["strategy"]], scored, metric)
    block["pairs"], block["pair_notes"] = compare_pairs(of, scored, boot, block)
    block["differ"] = incomparable(runs)
    if not block["differ"]:
        mark_best(block)
    ranked = next((row["cells"] for row in block["rows"] if row["ranked"]), [])
    block["compared_groups"] = len(
        {g for (_, at), s in scored.items() if list(at) in ranked for g in s.groups.tolist()}
    )
    block["notes"] = block_notes(block, done, again)
    block["verdict"] = verdict(block)
    block |= views.shown(of, scored, block)
    return block


def labels_word(block: dict) -> str:
    return "class" if block["task"] == "multiclass" else "label"


def planned(runs: list[Run]) -> dict[str, list]:
    """seeds, folds and strategies that the commands of these runs asked for, with those that are there besides: an
    interrupted sweep has fewer."""
    seeds, folds = {run.at[0] for run in runs}, {run.at[1] for run in runs}
    keys = {run.cell["strategy"] for run in runs}
    for run in runs:
        arguments = run.config["arguments"]
        seeds |= set(arguments.get("seed") or ())
        folds |= set(range(run.config["data"].get("folds") or arguments.get("folds") or 1))
        keys |= set(arguments.get("strategy") or ())
    names = [name for name in ORDER if name.replace("-", "").lower() in keys or "all" in keys]
    return {"seeds": sorted(seeds), "folds": sorted(folds), "strategies": names}


FROM_CALLS = ("accuracy", "balanced_accuracy", "macro_f1", "kappa")  # of the class called, whatever its score


def calls(mine: list[Run], scored: dict, metric: str) -> dict:
    """one_call: what is called of every test unit -> in how many runs, though the test set has more than that.
    collapsed: whether half of the runs or more treat all units alike as far as the metric sees: they call one class, or, where the metric ranks scores, give one score. Nothing was learnt there, however high the value."""
    found, alike = Counter(), 0
    for run in mine:
        s = scored[run.strategy, run.at]
        classes = run.config["settings"]["classes"]
        if s.labels.ndim == 1:
            called = s.scores.argmax(axis=1)[:, None]
            names = [classes[called[0, 0]]]
        else:
            thresholds = run.result.get("thresholds") or [None] * len(classes)
            called = s.scores >= np.array([NAN if t is None else t for t in thresholds])
            names = [name for name, on in zip(classes, called[0]) if on] or ["none of the labels"]
        if (s.labels == s.labels[0]).all():
            continue  # the truth is one and the same
        one = bool((called == called[0]).all())
        found[" | ".join(names)] += one
        alike += one if metric in FROM_CALLS else bool((s.scores == s.scores[0]).all())
    return {"one_call": {name: n for name, n in found.items() if n}, "collapsed": 0 < len(mine) <= 2 * alike}


OWN_TO_A_ROW = (
    "cell",
    "hyperparameters",
    "split_hash",
    "lr",
    "alpha",
    "strategy",
    "data",
    "arch",
    "seed",
    "fold",
)
SAYS_NOTHING = ("dry_run", "check_data", "list_data", "show_blocks", "overwrite", "report", "gradcam", "predict", "export",
                "run", "out", "labels", "uncertain", "views", "region", "variant", "workers", "path_col", "label_col")  # fmt: skip


def shared_settings(runs: list[Run]) -> dict:
    """What the runs share: settings and arguments that are the same in all. A strategy's own are left to its row, a
    dataset's to its name; what was not set is left out."""
    shown = [
        r.config["arguments"] | r.config["settings"] | {"weights": r.config["environment"].get("weights")}
        for r in runs
    ]
    left_out = (*OWN_TO_A_ROW, *SAYS_NOTHING)
    return {k: v for k, v in shown[0].items()
            if k not in left_out and v is not None and all(s.get(k) == v for s in shown)}  # fmt: skip


def shared_environment(runs: list[Run]) -> dict:
    """Versions and machines; 'a, b' where the runs differ."""
    names = dict.fromkeys(name for run in runs for name in run.config["environment"] if name != "weights")
    values = {
        n: dict.fromkeys(str(v) for r in runs if (v := r.config["environment"].get(n)) is not None)
        for n in names
    }
    return {name: ", ".join(found) for name, found in values.items()}


def unfinished_cells(runs: list[Run]) -> list[dict]:
    """Cells without a result: failed, unfinished, or never begun though the command has that seed and fold."""
    cells = [{"strategy": r.strategy, "seed": r.at[0], "fold": r.at[1], "status": r.status, "reason": r.reason}
             for r in runs if r.status != "done"]  # fmt: skip
    there = {(r.strategy, r.at) for r in runs}
    wanted = planned(runs)
    cells_of_all = [(seed, fold) for seed in wanted["seeds"] for fold in wanted["folds"]]
    for strategy in dict.fromkeys(r.strategy for r in runs):
        for seed, fold in (at for at in cells_of_all if (strategy, at) not in there):
            cells.append(
                {"strategy": strategy, "seed": seed, "fold": fold, "status": "not run", "reason": ""}
            )
    return cells


def bootstrap(done: list[Run], scored: dict, metric: str, second: str) -> tuple[dict, float]:
    """(strategy, at, metric) -> Resampled, and the share of resamples drawn again. Groups are drawn once for
    a test set, so that all strategies and seeds see the same resamples: what is compared is paired. Folds whose test sets
    share no group are drawn apart; where they share some, the groups of all are drawn together. No values for the ECE,
    whose resamples lie above the estimate (binning adds their noise), and none from a single group."""
    sets = {key: frozenset(s.groups.tolist()) for key, s in scored.items()}
    distinct = sorted(set(sets.values()), key=sorted)
    union = frozenset().union(*distinct)
    if sum(map(len, distinct)) > len(union):
        distinct, sets = [union], dict.fromkeys(sets, union)
    values, again = {}, 0.0
    for number, groups in enumerate(distinct):
        names = sorted(groups)
        within = {tuple(s.images): s for key, s in scored.items() if sets[key] == groups}
        counts = np.concatenate([classes_of_groups(s, names) for s in within.values()], axis=1)
        plain = stats.resample_groups(len(names), RESAMPLES, seed=number).astype(np.int16)
        whole, share = with_all_classes(plain, counts, seed=number)
        for run in (run for run in done if sets[run.strategy, run.at] == groups):
            s, settings = scored[run.strategy, run.at], run.config["settings"]
            group = np.searchsorted(names, s.groups)
            extra = {"thresholds": run.result.get("thresholds"), "leave_out": run.config["data"]["leave_out"]}
            for name in dict.fromkeys((metric, second)):
                if name == "ece" or len(names) < 2:
                    nothing = np.full(RESAMPLES, NAN)
                    values[run.strategy, run.at, name] = Resampled(nothing, (number, len(names)))
                    continue
                weights = whole if name in MEANS_OVER_CLASSES else plain
                again = max(again, share) if name in MEANS_OVER_CLASSES else again
                resampled = stats.bootstrap_values(
                    settings["task"], name, s.scores, s.labels, group, weights, **extra
                )
                values[run.strategy, run.at, name] = Resampled(resampled, (number, len(names)))
    return values, again


def classes_of_groups(s: Scored, names: list[str]) -> np.ndarray:
    """(G, K) counts of what a metric needs in each group: units of each class that the test set has; of several
    labels the positives and the negatives of each."""
    group = np.searchsorted(names, s.groups)
    if s.labels.ndim == 1:
        columns = s.labels[:, None] == np.unique(s.labels)
    else:
        columns = np.concatenate([s.labels == 1, s.labels == 0], axis=1)
    columns = columns[:, columns.any(axis=0)]
    counts = np.zeros((len(names), columns.shape[1]))
    np.add.at(counts, group, columns)
    return counts


def with_all_classes(
    plain: np.ndarray, counts: np.ndarray, seed: int, rounds: int = 20
) -> tuple[np.ndarray, float]:
    """((RESAMPLES, G) weights, share that was drawn again). A resample that lost a class which the test set has gives
    a mean over fewer classes, another metric under the same name: it is drawn again, up to `rounds` times. Where hardly
    any has them all (a hundred classes, each in few groups), the draws stay as they are. counts: (G, K), as from
    classes_of_groups."""

    def without_one(weights: np.ndarray) -> np.ndarray:
        parts = np.array_split(weights, max(1, weights.size // 2_000_000))
        return np.flatnonzero(np.concatenate([(part @ counts == 0).any(axis=1) for part in parts]))

    lost = without_one(plain)
    share = len(lost) / len(plain)
    if not len(lost) or share >= MOSTLY:
        return plain, share
    weights = plain.copy()
    for number in range(1, rounds + 1):
        weights[lost] = stats.resample_groups(len(counts), len(lost), seed=seed + 1_000_003 * number)
        lost = lost[without_one(weights[lost])]
        if not len(lost):
            break
    return weights, share


def strategy_row(
    strategy: str, runs: list[Run], mine: list[Run], boot: dict, metric: str, second: str
) -> dict:
    """A strategy in a block: how good, how sure, how dear."""
    all_of_it = [r for r in runs if r.strategy == strategy]
    labels = "class" if all_of_it[0].config["settings"]["task"] == "multiclass" else "label"
    wanted = planned(runs)
    counts = Counter(r.status for r in all_of_it)

    def mean_of(split: str, name: str) -> dict:
        over = over_how_many((r.averaged_over(split, name) for r in mine), labels)
        return spread(r.value(split, name) for r in mine) | {"over": over}

    def estimate(name: str) -> dict:
        found = mean_of("test", name)
        resampled = [boot[strategy, r.at, name] for r in mine]
        task, classes = (all_of_it[0].config["settings"][key] for key in ("task", "classes"))
        over_groups = stats.group_t(
            [r.value("test", name) for r in mine],
            [b.values for b in resampled],
            [b.drawn for b in resampled],
            metrics.value_range(name, task, len(classes)),
        )
        return found | {end: getattr(over_groups, end) for end in ("low", "high")}

    tuned = {
        r.at[1]: r.config["tuning"] for r in all_of_it if r.config.get("tuning")
    }  # the seeds of a fold share it
    trials = sum(len(t["trials"]) for t in tuned.values())
    minutes = [r.result["minutes"] for r in mine]
    used = [r.config.get("tuning") or {"lr": r.config["settings"]["lr"]} | r.config["settings"]["hyperparameters"]
            for r in all_of_it]  # fmt: skip
    names = dict.fromkeys(n for r in mine for n in r.result["test"]["values"])
    classes = mine[0].result["test"]["per_class"] if mine else {}
    return {
        "strategy": strategy,
        "done": counts["done"],
        "failed": counts["failed"],
        "unfinished": counts["unfinished"],
        "missing": len(wanted["seeds"]) * len(wanted["folds"]) - len(all_of_it),
        "cells": [list(r.at) for r in mine],
        "val": mean_of("val", metric),
        "test": estimate(metric),
        "second": estimate(second),
        "metrics": {name: mean_of("test", name) for name in names},
        "per_class": {c: {k: spread(r.result["test"]["per_class"][c].get(k) for r in mine)["mean"] for k in classes[c]}
                      for c in classes},
        "epochs": spread(r.result["epochs"] for r in mine)["mean"],
        "optimizer_steps": spread(r.result["optimizer_steps"] for r in mine)["mean"],
        "trials": trials // len(tuned) if tuned else 0,
        "tuning_steps": float(sum(t["optimizer_steps"] for t in tuned.values())),
        "minutes": spread(minutes)["mean"],
        "minutes_total": float(sum(minutes) + sum(t["minutes"] for t in tuned.values())),
        "peak_memory_bytes": max((r.result["peak_memory_bytes"] for r in mine if r.result["peak_memory_bytes"]), default=None),
        "trainable_parameters": mine[0].result["trainable_parameters"] if mine else 0,
        "parameters": mine[0].result["parameters"] if mine else 0,
        "lr": sorted({u["lr"] for u in used if u.get("lr") is not None}),
        "alpha": sorted({u["alpha"] for u in used if u.get("alpha") is not None}),
        "edge": [f"{name} in fold {fold}" for fold, t in sorted(tuned.items()) for name in at_an_end(t)],
        "hyperparameters": all_of_it[0].config["settings"]["hyperparameters"],
        "stages": max((r.stages for r in mine), key=len, default={}),
        "planned_stages": mine[0].result.get("stages", []) if mine else [],
        "early": dict(Counter(r.early_stage for r in mine if r.early_stage)),
        "best": False,
        "beside_best": False,
        "ranked": False,
    }  # fmt: skip


def test_counts(scored: dict) -> dict:
    """Distinct images, units and groups that were tested, over all folds; named_groups: before those with identical
    images are one."""
    images = {image for s in scored.values() for image in s.images}
    groups = {group for s in scored.values() for group in s.groups.tolist()}
    named = {group for s in scored.values() for group in s.named}
    sets = {tuple(s.images): len(s.labels) for s in scored.values()}
    apart = sum(len(images) for images in sets) == len(images)
    units = sum(sets.values()) if apart else max(sets.values(), default=0)
    of_group = Counter(
        g for s in {tuple(s.images): s for s in scored.values()}.values() for g in s.groups.tolist()
    )
    largest = max(of_group.values(), default=0) / max(1, of_group.total())
    counts = {"test_images": len(images), "test_groups": len(groups), "test_units": units}
    return counts | {"named_groups": len(named), "largest_group_share": largest}


def mark_best(block: dict) -> None:
    """The row with the best point estimate, and those that are not separable from it: among the strategies that have
    the same runs, the most of them; a mean over other seeds and folds is no match. A collapsed one keeps its rank and
    is never the best."""
    cells = [row["cells"] for row in block["rows"]]
    full = max(cells, key=lambda mine: (len(mine), cells.count(mine)), default=[])
    ranked = [row for row in block["rows"] if row["cells"] == full and math.isfinite(row["test"]["mean"])]
    for row in ranked:
        row["ranked"] = True
    learnt = [row for row in ranked if not row["collapsed"]]
    if not learnt:
        return
    best = (max if block["higher_is_better"] else min)(learnt, key=lambda row: row["test"]["mean"])
    best["best"] = True
    for row in learnt:
        pair = pairs_by_name(block).get((best["strategy"], row["strategy"]))
        row["beside_best"] = pair is not None and pair["verdict"] == "not separable"


def verdict(block: dict) -> str:
    """The answer in a sentence or two: what is best, what it cannot be told from, what it is better than FT by."""
    metric, rows = metric_name(block["metric"]), block["rows"]
    best = next((row for row in rows if row["best"]), None)
    if block["differ"]:
        return "No verdict: these runs were not made alike, the notes say in what they differ."
    if best is None and any(row["ranked"] for row in rows):
        return (
            f"No verdict: the runs of {spoken(row['strategy'] for row in rows if row['ranked'])} call every test "
            f"{block['unit_kind']} alike (the notes say what, and in how many runs): nothing was learnt."
        )
    if best is None:
        return f"No run has finished with a defined {metric}: there is nothing to compare yet."
    t, name = best["test"], best["strategy"]
    learnt = [row for row in rows if row["ranked"] and not row["collapsed"]]
    tied = [row["strategy"] for row in learnt if row["test"]["mean"] == t["mean"]]
    who = f"{name} has" if len(tied) == 1 else f"{spoken(tied)} tie for"
    said = f"{who} the {'highest' if block['higher_is_better'] else 'lowest'} {metric}, {t['mean']:.3f}"
    said += f" [{t['low']:.3f}, {t['high']:.3f}]" if math.isfinite(t["low"]) else ""
    said += beside(t)
    if one_class := [row["strategy"] for row in rows if row["ranked"] and row["collapsed"]]:
        said += f", {spoken(one_class)} left aside, whose runs call every test {block['unit_kind']} alike"
    against = {
        row["strategy"]: pairs_by_name(block).get((name, row["strategy"]))
        for row in rows
        if row["ranked"] and not row["best"]
    }
    verdicts = {other: pair["verdict"] if pair else "undefined" for other, pair in against.items()}
    if same := [other for other, kind in verdicts.items() if kind == "not separable" and other not in tied]:
        said += f"; {'it is' if len(tied) == 1 else 'they are'} not separable from {spoken(same)}"
    elif verdicts and set(verdicts.values()) == {"better"}:
        all_others = len(verdicts) > 2 and all(row["ranked"] for row in rows)
        them = (
            "every other strategy is"
            if all_others
            else f"{spoken(verdicts)} {'is' if len(verdicts) == 1 else 'are'}"
        )
        said += f"; {them} separably worse"
    if verdicts.get("FT") == "better":
        gain, low, high = oriented(against["FT"], block["higher_is_better"])
        said += f"; {name} is better than FT by {gain:.3f} [{low:.3f}, {high:.3f}]"
    over_folds = {other: against[other]["t"] for other, kind in verdicts.items() if kind == "better"}
    if doubted := [
        f"{s} (p = {p_value(t.p)})" for s, t in over_folds.items() if t and not t.p <= ALPHA
    ]:
        said += f"; the corrected t-test over folds does not confirm that it is better than {spoken(doubted)}"
    tested = distinct(block, block["compared_groups"])
    ft_ranked = any(row["strategy"] == "FT" and row["ranked"] for row in rows)
    with_ft = [
        p
        for row in rows
        if ft_ranked and row["ranked"] and (p := pairs_by_name(block).get((row["strategy"], "FT")))
    ]
    if with_ft and all(p["verdict"] == "not separable" for p in with_ft):
        said += f". No strategy is separable from FT at n = {tested}"
    else:
        said += f" (n = {tested})"
    said += "."
    if not verdicts:
        said += " No other strategy has the same runs to compare it with."
    elif set(verdicts.values()) == {"undefined"}:
        said += " No difference can be tested here: the notes of the pairs say why."
    if unranked := [row["strategy"] for row in rows if row["done"] and not row["ranked"]]:
        said += f" Not ranked, because {'it has' if len(unranked) == 1 else 'they have'} other runs: {spoken(unranked)}."
    if len(best["cells"]) == 1:
        said += (
            " One run each: how much two trainings of the same strategy differ is not known (--seed 0 1 2)."
        )
    return said


def block_notes(block: dict, done: list[Run], again: float) -> list[str]:
    """What a reader must know before the numbers. again: the share of resamples drawn again."""
    notes = []
    if block["differ"]:
        notes.append(f"NOT COMPARABLE: these runs differ in {'; '.join(block['differ'])}. Run them alike (--overwrite) or keep "
                     "them in different folders (--output-dir).")  # fmt: skip
    status = Counter(cell["status"] for cell in block["cells"])
    if status:
        named = spoken([f"{n} {kind}" for kind, n in status.items()])
        lost, all_runs = (
            sum(status.values()),
            sum(status.values()) + sum(row["done"] for row in block["rows"]),
        )
        notes.append(
            f"{lost} of {all_runs} runs have no result ({named}). A mean runs over the runs that a strategy has, a pair "
            "is compared on the seeds and folds that both have."
        )
    if lacking := [
        s for s in block["planned"]["strategies"] if s not in {row["strategy"] for row in block["rows"]}
    ]:
        notes.append(
            f"Not begun, though the command names {'it' if len(lacking) == 1 else 'them'}: {spoken(lacking)}."
        )
    if any(cell["status"] == "failed" for cell in block["cells"]):
        notes.append(
            "A strategy whose runs failed looks better than it is: its mean leaves the failures out."
        )
    if not block["official_test"] and block["group_kind"] == "image":
        looks = next((note for note in block["data_notes"] if "looks like a group" in note), "")
        notes.append(
            f"Split by image: {NO_GROUPS} (--group-col, --group-regex), so images of one patient may be on both sides."
            + (f" But {looks}." if looks else "")
        )
    if leaks := sum(split["groups_in_two_splits"] for split in block["splits"]):
        notes.append(f"LEAK: {several(leaks, block['group_kind'])} in two splits.")
    if spanning := sum(split["identical_across_splits"] for split in block["splits"]):
        kept = " The official split was left as it is." if block["official_test"] else ""
        notes.append(
            f"{spanning} sets of byte-identical images stand in two splits (all folds added): --drop-duplicates.{kept}"
        )
    if copies(block):
        notes.append(f"{tested_images(block)}: byte-identical images count as one wherever the test set is resampled, and "
                     "in n.")  # fmt: skip
    notes += few_groups(block)
    fallback = {(run.strategy, label) for run in done for label in run.result.get("threshold_fallback") or ()}
    if fallback:
        labels = spoken(sorted({label for _, label in fallback}))
        notes.append(
            f"Threshold 0.5 instead of one from validation, which lacks positives or negatives: {labels}."
        )
    notes += coverage_notes(block, done) + stage_notes(block) + call_notes(block) + chance_note(block, done)
    if again > 0.05:
        notes.append(
            f"{again:.0%} of the resamples lacked a class that the test set has, because few {plural(block['group_kind'])} "
            f"have it, and {'stayed so' if again >= MOSTLY else 'were drawn again'}: intervals of means over classes are rough."
        )
    return notes


def coverage_notes(block: dict, done: list[Run]) -> list[str]:
    """Which means over classes or labels lack some, and where that differs between the runs: one name, two measures."""
    notes, noun = [], labels_word(block)
    for split, where in (("test", "test"), ("val", "validation")):
        for name in dict.fromkeys((block["metric"], block["second"])):
            by_fold: dict[int, set[str]] = {}
            pairs = [(run, pair) for run in done if (pair := run.averaged_over(split, name)) is not None]
            for run, (defined, whole) in pairs:
                by_fold.setdefault(run.at[1], set()).add(f"{defined} of {several(whole, noun)}")
            if all(defined == whole for _, (defined, whole) in pairs):
                continue
            folds_of: dict[str, list[int]] = {}
            for fold, texts in sorted(by_fold.items()):
                folds_of.setdefault(" or ".join(sorted(texts)), []).append(fold)
            said = f"{metric_name(name)} on {where} is a mean over "
            if len(folds_of) == 1:
                said += f"{next(iter(folds_of))}, not over all"
            else:
                said += "; ".join(
                    f"{text} in {'fold' if len(folds) == 1 else 'folds'} {spoken(folds)}"
                    for text, folds in folds_of.items()
                )
            if len(folds_of) > 1 or " or " in next(iter(folds_of)):
                said += ": these are different measures under one name, and the mean over runs mixes them"
            lost = undefined_in([run for run, _ in pairs], split, name)
            notes.append(said + (f" (undefined somewhere: {spoken(lost)})" if lost else "") + ".")
    return notes


PER_CLASS = {"auroc": "auroc", "average_precision": "ap", "balanced_accuracy": "recall", "macro_f1": "f1", "f1": "f1",
             "video_map": "video_ap"}  # fmt: skip


def undefined_in(runs: list[Run], split: str, metric: str) -> list[str]:
    """The classes or labels that have no value of the metric in some run; of many the first five, and how many more."""
    column = PER_CLASS.get(metric)
    lost = dict.fromkeys(
        name for run in runs for name, entry in run.result[split]["per_class"].items()
        if column in entry and (entry[column] is None or math.isnan(entry[column]))
    )  # fmt: skip
    return list(lost)[:5] + ([f"{len(lost) - 5} more"] if len(lost) > 5 else [])


def stage_notes(block: dict) -> list[str]:
    """Where a strategy in stages is not what its name says: its checkpoint is of an earlier stage, or stages merged."""
    notes = []
    for row in (row for row in block["rows"] if row["done"]):
        name, stages = row["strategy"], list(row["stages"])
        for stage, n in row["early"].items():
            what = (
                "the classifier alone was trained"
                if stage in ("head", "lp")
                else "a part of the blocks was trained"
            )
            notes.append(
                f"{name}: {n} of {several(row['done'], 'run')} {'is' if n == 1 else 'are'} scored by a checkpoint of stage "
                f"{stage}, in which {what}; validation chose it over the epochs of the stages after it. What stands "
                f"under {name} is there the result of that stage, not of the whole strategy."
            )
        if name in STAGED and len(stages) == 1:
            notes.append(
                f"{name}: all of its epochs fell into the last stage ({stages[0]}), so that everything trains from the "
                "first epoch on, as in FT: more --epochs, or other --stage-shares, give it its stages."
            )
        elif len(stages) < len(row["planned_stages"]) or (
            name in STAGED and stages and stages[0] not in ("head", "lp")
        ):
            shown = ", ".join(f"{stage} from epoch {first}" for stage, first in row["stages"].items())
            notes.append(
                f"{name}: its stages merged into {len(stages)} ({shown}), as there are too few epochs for each."
            )
    return notes


def call_notes(block: dict) -> list[str]:
    """Which runs call one class of every test image: a value of theirs is that class's share, or chance."""
    notes = []
    for row in block["rows"]:
        for name, n in row["one_call"].items():
            notes.append(
                f"{row['strategy']}: {n} of {several(row['done'], 'run')} {'calls' if n == 1 else 'call'} every test "
                f"{block['unit_kind']} {name}."
                + (" It is no candidate for the best." if row["collapsed"] else "")
            )
    return notes


def chance_note(block: dict, done: list[Run]) -> list[str]:
    """Where the interval of the best holds what a model without skill has."""
    best = next((row["test"] for row in block["rows"] if row["best"]), None)
    if best is None or not math.isfinite(best["low"]):
        return []
    supports = [[entry["support"] for entry in run.result["test"]["per_class"].values()] for run in done]
    level, what = {
        "auroc": (0.5, "chance"),
        "kappa": (0.0, "chance"),
        "balanced_accuracy": (np.mean([1 / max(1, np.count_nonzero(s)) for s in supports]), "chance"),
        "accuracy": (
            np.mean([max(s) / max(1, sum(s)) for s in supports]),
            "the share of the most frequent class",
        ),
    }.get(block["metric"], (-math.inf, ""))
    if best["low"] > level:
        return []
    metric = metric_name(block["metric"])
    said = f"No strategy is above {what} ({level:.3f}) for sure: the interval of the best {metric} begins at "
    return [f"{said}{best['low']:.3f}."]


def few_groups(block: dict) -> list[str]:
    """From how many groups on the page's claims hold, where they do not: measured by benchmarks/coverage.py."""
    tested, kind, notes = distinct(block), block["group_kind"], []
    if 1 < block["test_groups"] < MANY_GROUPS:
        notes.append(
            f"{tested} are few: such a test set shows large differences only. In simulations of eight strategies on "
            "20 patients one that was better by 0.08 in accuracy was found in 3 % of the sweeps, on 100 in 56 %."
        )
    if block["test_groups"] > 1 and block["largest_group_share"] > GIANT:
        notes.append(
            f"One {kind} holds {block['largest_group_share']:.0%} of what was tested: intervals are too narrow, and "
            "verdicts come by chance too often (in simulations where one of 40 held half, 95 % intervals of a strategy held the "
            "truth in 86 %, those of a pair in 88 %, and 12 % of the sweeps of equal strategies had a verdict, not 5 %)."
        )
    return notes


def incomparable(runs: list[Run]) -> list[str]:
    """Settings in which runs of one block differ that should be alike: 'epochs: 1, 2'. A strategy's own (learning rate,
    alpha, ...) have to agree within the strategy, unless they were tuned."""
    own = ("cell", "lr", "hyperparameters", "split_hash")
    found: dict[str, set] = {}
    for run in runs:
        settings = run.config["settings"]
        hyper = settings["hyperparameters"]
        alike = {name: value for name, value in settings.items() if name not in own}
        alike["tune_order"] = settings.get("tune_order")  # older runs have none: their trials were drawn
        alike |= {name: hyper[name] for name in ("bn", "stage_shares", "weight_decay") if name in hyper}
        alike |= {f"{name} of {run.strategy}": value for name, value in hyper.items()}
        alike[f"lr of {run.strategy}"] = settings["lr"]
        alike[f"split of fold {run.at[1]}"] = settings.get("split_hash")
        for name, value in alike.items():
            found.setdefault(name, set()).add(json.dumps(value))
    shared = {name for name, values in found.items() if len(values) > 1}
    named = [
        name for name in found if name in shared and not any(name.startswith(f"{n} of ") for n in shared)
    ]
    return [f"{name}: {', '.join(sorted(found[name])[:3])}" for name in named]


# ------------------------------------------------------------------------------------------------ over blocks


def over_blocks(blocks: list[dict]) -> tuple[dict | None, str]:
    """Ranks over datasets and backbones (Demsar 2006), on those blocks and strategies that leave no gap."""
    raw = {
        (i, r["strategy"]): r["test"]["mean"] for i, b in enumerate(blocks) for r in b["rows"] if r["ranked"]
    }
    score = {key: value if blocks[key[0]]["higher_is_better"] else -value for key, value in raw.items()}
    used = [i for i in range(len(blocks)) if any(key[0] == i for key in score)]
    strategies = in_order(s for _, s in score if all((i, s) in score for i in used))
    if len(used) < 2 or len(strategies) < 2:
        return None, ("Ranks over datasets need two or more datasets or backbones, each with the same two or more "
                      f"strategies; here are {len(used)} with {len(strategies)} in common.")  # fmt: skip
    names = [f"{blocks[i]['data']}/{blocks[i]['arch']}" for i in used]
    table = np.array([[score[i, s] for s in strategies] for i in used])
    friedman = stats.friedman(table)
    averages = dict(zip(strategies, map(float, friedman.average_ranks)))
    cd = stats.nemenyi_cd(len(strategies), len(used)) if len(strategies) <= 10 else None
    left_out = dict.fromkeys(
        r["strategy"] for b in blocks for r in b["rows"] if r["done"] and r["strategy"] not in strategies
    )
    notes = [
        f"N = {len(used)} combinations of dataset and backbone; backbones on one dataset are not independent."
    ]
    notes += (
        [f"left out, not everywhere with the same runs as the others: {spoken(left_out)}."]
        if left_out
        else []
    )
    for name, block in zip(names, (blocks[i] for i in used)):
        notes += [f"{name}: {text}" for text in doubts(block, strategies)]
    apart = [f"{b['data']}/{b['arch']}" for i, b in enumerate(blocks) if i not in used]
    notes += [f"left out, nothing to rank or not comparable: {spoken(apart)}."] if apart else []
    notes += ["N is small: Friedman's test and the critical difference say little below about 10."] * (
        len(used) < 10
    )
    return {
        "datasets": names,
        "strategies": strategies,
        "table": [[raw[i, s] for s in strategies] for i in used],
        "ranks": stats.ranks(table).tolist(),
        "average_ranks": averages,
        "friedman": friedman,
        "cd": cd,
        "alpha": ALPHA,
        "cliques": cliques(averages, cd) if cd else [],
        "pairs": wilcoxon_pairs(table, strategies),
        "beats_ft": beats_ft(blocks, strategies),
        "notes": notes,
    }, f"over {spoken(names)}"


def doubts(block: dict, strategies: list[str]) -> list[str]:
    """What a rank in this block does not say: a mean over a part of the labels, a checkpoint of an earlier stage, one
    class called."""
    found = [f"{metric_name(block['metric'])} is a mean over {block['over']}."] if block["over"] else []
    rows = [row for row in block["rows"] if row["strategy"] in strategies]
    found += [f"{shown_name(row)}." for row in rows if row["early"]]
    return found + [f"{row['strategy']} calls every test image alike." for row in rows if row["collapsed"]]


def cliques(averages: dict[str, float], cd: float) -> list[list[str]]:
    """The largest runs of neighbours in rank that lie within the critical difference."""
    order = sorted(averages, key=averages.get)
    runs = [[s for s in order[i:] if averages[s] - averages[order[i]] <= cd] for i in range(len(order))]
    return [run for i, run in enumerate(runs) if len(run) > 1 and (i == 0 or run[-1] != runs[i - 1][-1])]


def wilcoxon_pairs(table: np.ndarray, strategies: list[str]) -> list[dict]:
    """Wilcoxon's signed rank test of every pair over the blocks, Holm over all of them."""
    pairs = []
    for i, a in enumerate(strategies):
        for j in range(i + 1, len(strategies)):
            w = stats.wilcoxon(table[:, i] - table[:, j])
            pairs.append({"a": a, "b": strategies[j], "n": w.n, "p": w.p, "note": w.reason})
    for pair, p in zip(pairs, stats.holm([pair["p"] for pair in pairs])):
        pair["p_holm"] = float(p)
    return pairs


def beats_ft(blocks: list[dict], strategies: list[str]) -> list[dict]:
    """How often each strategy is better than FT, how often separably, and by how much at most."""
    rows = []
    for strategy in (s for s in strategies if s != "FT"):
        if found := against_ft(blocks, strategy):
            top = largest_gain(found)
            rows.append({"strategy": strategy, "better": sum(row["gain"] > 0 for row in found), "of": len(found),
                         "separable": sum(row["verdict"] == "better" for row in found), "largest": top["gain"],
                         "largest_at": f"{top['data']}/{top['arch']}, {measured(top)}"})  # fmt: skip
    return rows


def largest_gain(found: list[dict]) -> dict:
    """The largest gain in the metric that most blocks have: points of one metric are no points of another."""
    metric = Counter(row["metric"] for row in found).most_common(1)[0][0]
    return max((row for row in found if row["metric"] == metric), key=lambda row: row["gain"])


def against_ft(blocks: list[dict], strategy: str) -> list[dict]:
    """The strategy's difference to FT in every comparable block that has both. gain, gain_low, gain_high: positive where
    the strategy is better; relative: the gain as a share of FT's mean over the same runs, nan where that is not positive."""
    rows = []
    for block in (block for block in blocks if not block["differ"]):
        pair = pairs_by_name(block).get((strategy, "FT"))
        if pair and math.isfinite(pair["difference"]):
            gain, low, high = oriented(pair, block["higher_is_better"])
            row = {name: pair[name] for name in ("difference", "low", "high", "verdict")}
            early = next((r["early"] for r in block["rows"] if r["strategy"] == strategy), {})
            rows.append({"data": block["data"], "arch": block["arch"], "metric": block["metric"], **row,
                         "over": block["over"], "early": sum(early.values()),
                         "gain": gain, "gain_low": low, "gain_high": high,
                         "relative": gain / pair["mean_b"] if pair["mean_b"] > 0 else NAN})  # fmt: skip
    return rows


def headline_claims(blocks: list[dict]) -> list[dict]:
    """The two headline claims of Davila, Colan and Hasegawa (2024), on the user's own runs."""
    lpft, rgn = against_ft(blocks, "LP-FT"), against_ft(blocks, "Auto-RGN")
    none = "not to be said: no dataset and backbone has comparable finished runs of both"
    better, sure = sum(r["gain"] > 0 for r in lpft), sum(r["verdict"] == "better" for r in lpft)
    first = (
        f"better in {better} of {several(len(lpft), 'case')} ({better / len(lpft):.0%}), separably in {sure}"
        if lpft
        else none
    )
    if early := sum(r["early"] > 0 for r in lpft):
        first += f"; in {early} of them LP-FT is scored, in some runs or all, by a checkpoint of its linear part alone"
    second = none
    if rgn:
        top = largest_gain(rgn)
        where = f"on {top['data']}/{top['arch']} ({measured(top)}; {top['verdict']})"
        share = f", {top['relative']:.1%} of FT's value," if math.isfinite(top["relative"]) else ""
        second = (
            f"at most by {top['gain']:.3f} [{top['gain_low']:.3f}, {top['gain_high']:.3f}]{share} {where}"
        )
        if top["gain"] <= 0:
            second = f"better than FT nowhere; nearest by {top['gain']:+.3f} {where}"
    return [
        {"claim": "LP-FT is better than FT", "paper": "in over half of the evaluated cases", "here": first, "rows": lpft},
        {"claim": "Auto-RGN is better than FT", "paper": "by up to 11 % for some modalities", "here": second, "rows": rgn},
    ]  # fmt: skip
