"""What holds over datasets and backbones: ranks (Demsar 2006), and the paper's two headline claims."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

import metrics
from report import stats
from report.experiment import NAN, Across, Beaten, Claim, Experiment, Gain, RankPair
from report.pairs import ALPHA, oriented
from report.wording import measured, several, shown_name, spoken

MOST_RANKED = 20  # strategies that the table of Nemenyi's test has
MANY = 10  # experiments; with fewer the tests say little


def ranks_across(experiments: list[Experiment], order: list[str]) -> tuple[Across | None, str]:
    """Ranks on those experiments and strategies that leave no gap, and over what they are or why there are
    none. order: of the strategies."""
    raw = {
        (i, row.strategy): row.test.mean
        for i, experiment in enumerate(experiments)
        for row in experiment.rows
        if row.ranked
    }
    used = [i for i in range(len(experiments)) if any(key[0] == i for key in raw)]
    strategies = [name for name in order if used and all((i, name) in raw for i in used)]
    if len(used) < 2 or len(strategies) < 2:
        return None, (
            "Ranks over datasets need two or more datasets or backbones, each with the same two or more "
            f"strategies; here are {len(used)} with {len(strategies)} in common."
        )
    names = ["/".join(experiments[i].key) for i in used]
    table = np.array([[raw[i, name] for name in strategies] for i in used])
    signs = np.array([[1 if experiments[i].higher_is_better else -1] for i in used])
    friedman = stats.friedman(signs * table)
    averages = dict(zip(strategies, map(float, friedman.average_ranks), strict=True))
    cd = stats.nemenyi_cd(len(strategies), len(used)) if len(strategies) <= MOST_RANKED else None
    return Across(
        experiments=names,
        strategies=strategies,
        table=table.tolist(),
        ranks=stats.ranks(signs * table).tolist(),
        average_ranks=averages,
        friedman=friedman,
        cd=cd,
        alpha=ALPHA,
        cliques=cliques(averages, cd) if cd else [],
        pairs=wilcoxon_pairs(signs * table, strategies),
        beats_ft=beats_ft(experiments, strategies),
        notes=notes(experiments, used, strategies),
    ), f"over {spoken(names)}"


def notes(experiments: list[Experiment], used: list[int], strategies: list[str]) -> list[str]:
    """What the ranks do not say."""
    found = [f"N = {len(used)} combinations of dataset and backbone; backbones on one dataset are not independent."]
    rows = [row for experiment in experiments for row in experiment.rows]
    if left_out := dict.fromkeys(row.strategy for row in rows if row.done and row.strategy not in strategies):
        found.append(f"left out, not everywhere with the same runs as the others: {spoken(left_out)}.")
    for experiment in (experiments[i] for i in used):
        found += [f"{'/'.join(experiment.key)}: {text}" for text in doubts(experiment, strategies)]
    if apart := ["/".join(e.key) for i, e in enumerate(experiments) if i not in used]:
        found.append(f"left out, nothing to rank or not comparable: {spoken(apart)}.")
    if len(used) < MANY:
        about = f"below about {MANY}"
        found.append(f"N is small: Friedman's test and the critical difference say little {about}.")
    return found


def doubts(experiment: Experiment, strategies: list[str]) -> list[str]:
    """What a rank in this experiment does not say: a mean over a part of the labels, a checkpoint of an
    earlier stage, one class called."""
    found = []
    if experiment.over:
        found.append(f"{metrics.label(experiment.metric)} is a mean over {experiment.over}.")
    rows = [row for row in experiment.rows if row.strategy in strategies]
    found += [f"{shown_name(row)}." for row in rows if row.early]
    return found + [f"{row.strategy} calls every test image alike." for row in rows if row.collapsed]


def cliques(averages: dict[str, float], cd: float) -> list[list[str]]:
    """The largest runs of neighbours in rank that lie within the critical difference."""
    order = sorted(averages, key=averages.get)
    near = [[name for name in order[i:] if averages[name] - averages[first] <= cd] for i, first in enumerate(order)]
    return [run for i, run in enumerate(near) if len(run) > 1 and (i == 0 or run[-1] != near[i - 1][-1])]


def wilcoxon_pairs(scores: np.ndarray, strategies: list[str]) -> list[RankPair]:
    """Wilcoxon's signed rank test of every pair over the experiments, Holm over all of them. scores:
    (experiments, strategies), higher is better."""
    tests = {
        (a, b): stats.wilcoxon(scores[:, i] - scores[:, j])
        for i, a in enumerate(strategies)
        for j, b in enumerate(strategies)
        if i < j
    }
    adjusted = stats.holm([test.p for test in tests.values()])
    return [
        RankPair(a=a, b=b, n=test.n, p=test.p, p_holm=float(p), note=test.reason)
        for ((a, b), test), p in zip(tests.items(), adjusted, strict=True)
    ]


def beats_ft(experiments: list[Experiment], strategies: list[str]) -> list[Beaten]:
    """How often each strategy is better than FT, how often separably, and by how much at most."""
    found = []
    for strategy in strategies:
        if gains := against_ft(experiments, strategy):
            top = largest_gain(gains)
            beaten = Beaten(
                strategy=strategy,
                better=sum(gain.gain > 0 for gain in gains),
                separable=sum(gain.verdict == "better" for gain in gains),
                of=len(gains),
                largest=top.gain,
                largest_at=f"{top.data}/{top.arch}, {measured(top)}",
            )
            found.append(beaten)
    return found


def largest_gain(gains: list[Gain]) -> Gain:
    """The largest gain in the metric that most experiments have: points of one metric are no points of
    another."""
    metric = Counter(gain.metric for gain in gains).most_common(1)[0][0]
    return max((gain for gain in gains if gain.metric == metric), key=lambda gain: gain.gain)


def against_ft(experiments: list[Experiment], strategy: str) -> list[Gain]:
    """The strategy's difference to FT in every comparable experiment that has both."""
    found = []
    for experiment in (experiment for experiment in experiments if not experiment.differ):
        pair = experiment.pair(strategy, "FT")
        if pair is None or not math.isfinite(pair.difference):
            continue
        gain, low, high = oriented(pair, experiment.higher_is_better)
        row = Gain(
            data=experiment.data,
            arch=experiment.arch,
            metric=experiment.metric,
            over=experiment.over,
            difference=pair.difference,
            low=pair.low,
            high=pair.high,
            verdict=pair.verdict,
            early=sum(experiment.row(strategy).early.values()),
            gain=gain,
            gain_low=low,
            gain_high=high,
            relative=gain / pair.mean_b if pair.mean_b > 0 else NAN,
        )
        found.append(row)
    return found


def headline_claims(experiments: list[Experiment]) -> list[Claim]:
    """The two headline claims of Davila, Colan and Hasegawa (2024), on the user's own runs."""
    lpft, rgn = against_ft(experiments, "LP-FT"), against_ft(experiments, "Auto-RGN")
    none = "This cannot be said: no dataset and backbone has comparable finished runs of both"
    return [
        Claim(
            claim="LP-FT is better than FT",
            paper="in over half of the evaluated cases",
            here=how_often(lpft) + at_rates(experiments, lpft) if lpft else none,
            rows=lpft,
        ),
        Claim(
            claim="Auto-RGN is better than FT",
            paper="by up to 11 % for some modalities",
            here=by_how_much(rgn) + at_rates(experiments, rgn) if rgn else none,
            rows=rgn,
        ),
    ]


def at_rates(experiments: list[Experiment], gains: list[Gain]) -> str:
    """Where the comparison stands on default learning rates: another rate could turn its sign."""
    seen = {(gain.data, gain.arch) for gain in gains}
    rows = [row for one in experiments if one.key in seen for row in one.rows if row.done]
    untuned = sum(not row.trials for row in rows)
    return "" if not untuned else "; at default learning rates, which --tune did not choose"


def how_often(gains: list[Gain]) -> str:
    better, sure = sum(gain.gain > 0 for gain in gains), sum(gain.verdict == "better" for gain in gains)
    cases = several(len(gains), "case")
    said = f"better in {better} of {cases} ({better / len(gains):.0%}), separably in {sure}"
    if early := sum(gain.early > 0 for gain in gains):
        scored = "LP-FT is scored, in some runs or all, by a checkpoint of its linear part alone"
        said += f"; in {early} of them {scored}"
    return said


def by_how_much(gains: list[Gain]) -> str:
    top = largest_gain(gains)
    where = f"on {top.data}/{top.arch} ({measured(top)}; {top.verdict})"
    if top.gain <= 0:
        return f"never better than FT; closest at {top.gain:+.3f} {where}"
    share = f", {top.relative:.1%} of FT's value," if math.isfinite(top.relative) else ""
    return f"at most by {top.gain:.3f} [{top.gain_low:.3f}, {top.gain_high:.3f}]{share} {where}"
