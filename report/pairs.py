"""Every pair of strategies of a block (a dataset and a backbone), on the same test images: paired difference, tests,
verdict, and in words why a test is left out."""

from __future__ import annotations

import math

import numpy as np

import metrics
from report import stats
from report.wording import distinct, plural, several
from runs import NAN, Run, spread

ALPHA = 0.05
# Without the assumption that differences of groups are normal no test on n groups falls below 2 / 2^n: 0.03 with six, 0.06
# with five. The p below does assume it; where it alone could speak, it stays silent.
FEWEST_GROUPS = 6
PARTIAL = ("images", "constant", "single")  # said of some pairs only: named


def compare_pairs(
    of: dict[str, list[Run]], scored: dict, boot: dict, block: dict
) -> tuple[list[dict], list[str]]:
    """Every pair of strategies on the runs (seed, fold) that both have; and why a test is left out, in words."""
    pairs, notes = [], []
    names = [s for s, mine in of.items() if mine]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            runs_a, runs_b = ({r.at: r for r in of[s]} for s in (a, b))
            both = sorted(set(runs_a) & set(runs_b))
            common = [at for at in both if scored[a, at].images == scored[b, at].images]
            said = {}
            if len(common) < len(both):
                said["images"] = (
                    f"{several(len(both) - len(common), 'run')} left out, tested on different images."
                )
            if common:
                pairs.append(compare(a, b, runs_a, runs_b, common, scored, boot, block, said))
            notes += [(test, text, f"{a} − {b}") for test, text in said.items()]
    adjusted = stats.holm([pair["p_bootstrap"] for pair in pairs]) if pairs else []
    for pair, p in zip(pairs, adjusted):
        pair["p_holm"] = float(p)
        pair["verdict"] = "not separable"
        if not math.isfinite(p) or not math.isfinite(pair["difference"]):
            pair["verdict"] = "undefined"
        elif p < ALPHA:
            pair["verdict"] = "better" if (pair["difference"] > 0) == block["higher_is_better"] else "worse"
    return pairs, joined_notes(notes) + intervals_beside_verdicts(pairs) + over_trainings(pairs)


def intervals_beside_verdicts(pairs: list[dict]) -> list[str]:
    """A word where an interval excludes 0 and the verdict, which is adjusted for the number of pairs, says nothing."""
    alone = [p for p in pairs if p["verdict"] == "not separable" and (p["low"] > 0 or p["high"] < 0)]
    if not alone:
        return []
    named = ", ".join(f"{p['a']} − {p['b']}" for p in alone[:3]) + (
        f" and {len(alone) - 3} more" if len(alone) > 3 else ""
    )
    said = f"The interval excludes 0 and the verdict is not separable ({named}): an interval is for its pair alone, "
    return [said + f"the verdict for all {several(len(pairs), 'pair')} together (Holm)."]


def over_trainings(pairs: list[dict]) -> list[str]:
    """How many of the verdicts, which are about the trained models, hold where another training is a source of chance."""
    sure = [pair for pair in pairs if pair["verdict"] in ("better", "worse") and pair["t"]]
    if not sure:
        return []
    hold = sum(pair["t"].p <= ALPHA for pair in sure)
    said = "The verdicts are about these trained models and other patients. With the variation between trainings taken in, "
    said += f"{hold} of the {len(sure)} differences hold (corrected t-test, p at most {ALPHA}, not adjusted for their number)."
    return [said]


def joined_notes(notes: list[tuple[str, str, str]]) -> list[str]:
    """(test, sentence, pair) -> one sentence a test, or one for each set of pairs where they differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for test, text, pair in notes:
        found.setdefault(test, {}).setdefault(text, []).append(pair)
    lines = []
    for test, by_text in found.items():
        for text, pairs in by_text.items():
            few = "" if len(pairs) <= 3 else f" and {len(pairs) - 3} more pairs"
            of = f" ({', '.join(pairs[:3])}{few})" if len(by_text) > 1 or test in PARTIAL else ""
            lines.append(text.removesuffix(".") + of + ".")
    return lines


def compare(a: str, b: str, runs_a: dict, runs_b: dict, common: list, scored: dict, boot: dict, block: dict, said: dict) -> dict:  # fmt: skip
    """One pair, a minus b. said: filled with how a test was done or why it is left out, by the test's name."""
    metric = block["metric"]
    each = {at: runs_a[at].value("test", metric) - runs_b[at].value("test", metric) for at in common}
    least, most = metrics.value_range(metric, block["task"], len(block["classes"]))
    drawn = [boot[a, at, metric].drawn for at in common]
    over_groups = stats.group_t(
        list(each.values()),
        [boot[a, at, metric].values - boot[b, at, metric].values for at in common],
        drawn,
        (least - most, most - least),
        difference=True,
    )
    pair = {
        "a": a,
        "b": b,
        "runs": len(common),
        "mean_a": spread(runs_a[at].value("test", metric) for at in common)["mean"],
        "mean_b": spread(runs_b[at].value("test", metric) for at in common)["mean"],
        "difference": spread(each.values())["mean"],
        "low": over_groups.low,
        "high": over_groups.high,
        "standard_error": over_groups.standard_error,
        "df": over_groups.df,
        "p_bootstrap": over_groups.p,
    }
    if min(groups for _, groups in drawn) < 2:
        said["single"] = (
            f"No interval and no verdict: a test set of a single {block['group_kind']} shows no spread."
        )
    groups = {group for at in common for group in scored[a, at].groups.tolist()}
    if len(groups) < FEWEST_GROUPS:
        pair["p_bootstrap"] = NAN
        said["groups"] = f"No verdict: {distinct(block, len(groups))} cannot tell two strategies apart."
    elif pair["standard_error"] == 0:
        said["constant"] = "No interval, and p is 1: the difference is the same in every resample."
    sides = {}  # of the first seed, each test set once
    for at in (at for at in common if at[0] == common[0][0]):
        sides.setdefault(tuple(scored[a, at].images), at)
    pair["mcnemar"] = mcnemar(a, b, sides, scored, block, said)
    pair["delong"] = delong(a, b, sides, scored, block, said)
    pair["t"], pair["wilcoxon"] = over_folds(each, common, runs_a, scored, a, block, said)
    return pair


def places(sides: dict) -> str:
    """Which runs a test used: those of one seed, a fold where there is one test set."""
    seed, fold = next(iter(sides.values()))
    return f"runs of seed {seed}, " + (
        f"test sets of {len(sides)} folds together" if len(sides) > 1 else f"fold {fold}"
    )


def in_groups(a: str, sides: dict, scored: dict) -> bool:
    """Whether a group has several of the units that are tested."""
    groups = [group for at in sides.values() for group in scored[a, at].groups.tolist()]
    return len(set(groups)) < len(groups)


def mcnemar(a: str, b: str, sides: dict, scored: dict, block: dict, said: dict) -> dict | None:
    """McNemar's test of who is right, the folds of a seed together where their test sets lie apart."""
    if block["task"] != "multiclass":
        said["mcnemar"] = (
            "McNemar: left out, it compares one called class an image; these have several labels."
        )
        return None
    if sum(map(len, sides)) > len({image for images in sides for image in images}):
        said["mcnemar"] = "McNemar: left out, test sets of several folds overlap."
        return None
    units, group = plural(block["unit_kind"]), block["group_kind"]
    several_in_one = f"{units} of one {group}" if group != "image" else "byte-identical images"
    warning = f"; it takes {several_in_one} for independent, which the bootstrap does not"
    said["mcnemar"] = f"McNemar: {places(sides)}{warning if in_groups(a, sides, scored) else ''}."
    right = [np.concatenate([scored[s, at].scores.argmax(1) == scored[s, at].labels for at in sides.values()])
             for s in (a, b)]  # fmt: skip
    return stats.mcnemar(*right)


def delong(a: str, b: str, sides: dict, scored: dict, block: dict, said: dict) -> dict | None:
    """DeLong's test of two AUROCs, where its assumptions hold."""
    if block["task"] != "multiclass" or len(block["classes"]) != 2:
        said["delong"] = "DeLong: left out, it compares AUROCs of two classes."
    elif in_groups(a, sides, scored):
        said["delong"] = (
            f"DeLong: left out, it needs independent images, and some {plural(block['group_kind'])} "
            f"{'have several' if block['group_kind'] != 'image' else 'are byte-identical'}; the bootstrap over groups "
            "stands in its place."
        )
    elif len(sides) > 1:
        said["delong"] = (
            "DeLong: left out, the folds were scored by different models, whose scores share no scale."
        )
    else:
        said["delong"] = f"DeLong: AUROC, {places(sides)}."
        at = next(iter(sides.values()))
        x, y = scored[a, at], scored[b, at]
        return stats.delong(x.scores[:, 1], y.scores[:, 1], x.labels == 1)
    return None


def over_folds(each: dict, common: list, runs: dict, scored: dict, a: str, block: dict, said: dict) -> tuple[dict | None, dict | None]:  # fmt: skip
    """(corrected resampled t-test, Wilcoxon) over folds, the seeds of a fold averaged: they share its test set."""
    common = [at for at in common if math.isfinite(each[at])]
    folds = sorted({at[1] for at in common})
    mean = [np.mean([each[at] for at in common if at[1] == fold]) for fold in folds]
    if len(folds) < 2:
        said["t"] = (
            "Corrected resampled t-test, Wilcoxon: left out, there is one fold (--folds 5 gives them)."
        )
        return None, None
    counts = [runs[at].config["data"]["splits"] for at in common]
    share = float(np.mean([c["test"]["images"] / c["train"]["images"] for c in counts]))
    one_test = len({tuple(scored[a, at].images) for at in common}) == 1
    said["t"] = (
        f"t: corrected resampled t-test (Nadeau and Bengio) over {len(folds)} folds, n_test / n_train = {share:.3g}"
        + (", seeds averaged within a fold" if len({at[0] for at in common}) > 1 else "")
        + ("; all folds share one test set and differ in what they train on" if one_test else "")
        + "."
    )
    t, w = stats.corrected_resampled_t(mean, share), stats.wilcoxon(mean)
    least = 2 / 2 ** len(folds)
    said["wilcoxon"] = (
        f"Wilcoxon: left out, with {len(folds)} folds its smallest possible p is {least:.4g}, above 0.05."
        if least > ALPHA
        else f"Wilcoxon: signed ranks over {len(folds)} folds."
    )
    return t, (w if least <= ALPHA else None)


def oriented(pair: dict, higher_is_better: bool) -> tuple[float, float, float]:
    """(gain, low, high) of a pair, positive where a is better."""
    if higher_is_better:
        return pair["difference"], pair["low"], pair["high"]
    return -pair["difference"], -pair["high"], -pair["low"]
