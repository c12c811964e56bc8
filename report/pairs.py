"""Every pair of strategies of an experiment, on the same test images: paired difference, tests, verdict, and
in words why a test is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

import metrics
from report import stats
from report.evidence import Evidence, Repeat, over_runs
from report.experiment import NAN, Design, Pair
from report.wording import distinct, plural, several
from runs import Run, Scored

ALPHA = 0.05
# Without the assumption that differences of groups are normal no test on n groups falls below 2 / 2^n: 0.03
# with six, 0.06 with five. The p below does assume it; where it alone could speak, it stays silent.
FEWEST_GROUPS = 6
PARTIAL = ("images", "constant", "single")  # said of some pairs only: named


def compare_pairs(evidence: Evidence, design: Design) -> tuple[list[Pair], list[str]]:
    """Every pair of strategies on the runs (seed, fold) that both have; and why a test is left out, in
    words."""
    pairs, notes = [], []
    names = [name for name, finished in evidence.finished.items() if finished]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            comparison = Comparison(a, b, evidence, design)
            if comparison.tests:
                pair = comparison.pair()
                pairs.append(replace(pair, notes=" ".join(comparison.said.values())))
            notes += [(test, text, f"{a} − {b}") for test, text in comparison.said.items()]
    pairs = with_verdicts(pairs, design.higher_is_better)
    return pairs, joined_notes(notes) + intervals_beside_verdicts(pairs) + over_trainings(pairs)


def with_verdicts(pairs: list[Pair], higher_is_better: bool) -> list[Pair]:
    """The pairs with their p adjusted for the number of pairs (Holm), and the verdict that it gives."""
    judged = []
    for pair, p in zip(pairs, stats.holm([pair.p_bootstrap for pair in pairs]), strict=True):
        verdict = "not separable"
        if not math.isfinite(p) or not math.isfinite(pair.difference):
            verdict = "undefined"
        elif p < ALPHA:
            verdict = "better" if (pair.difference > 0) == higher_is_better else "worse"
        judged.append(replace(pair, p_holm=float(p), verdict=verdict))
    return judged


def intervals_beside_verdicts(pairs: list[Pair]) -> list[str]:
    """A word where an interval excludes 0 and the verdict, which is adjusted for the number of pairs, says
    nothing."""
    alone = [p for p in pairs if p.verdict == "not separable" and (p.low > 0 or p.high < 0)]
    if not alone:
        return []
    named = ", ".join(f"{pair.a} − {pair.b}" for pair in alone[:3])
    named += f" and {len(alone) - 3} more" if len(alone) > 3 else ""
    said = f"The interval excludes 0 and the verdict is not separable ({named}): an interval is for its pair "
    return [said + f"alone, the verdict for all {several(len(pairs), 'pair')} together (Holm)."]


def over_trainings(pairs: list[Pair]) -> list[str]:
    """How many of the verdicts, which are about the trained models, hold where another training is a source
    of chance."""
    sure = [pair for pair in pairs if pair.verdict in ("better", "worse") and pair.t]
    if not sure:
        return []
    hold = sum(pair.t.p <= ALPHA for pair in sure)
    said = "The verdicts are about these trained models and other patients. With the variation between "
    test = f"corrected t-test, p at most {ALPHA}, not adjusted for their number"
    return [f"{said}trainings taken in, {hold} of the {len(sure)} differences hold ({test})."]


def joined_notes(notes: list[tuple[str, str, str]]) -> list[str]:
    """(test, sentence, pair) -> one sentence a test, or one for each set of pairs where they differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for test, text, pair in notes:
        found.setdefault(test, {}).setdefault(text, []).append(pair)
    lines = []
    for test, by_text in found.items():
        for text, pairs in by_text.items():
            more = "" if len(pairs) <= 3 else f" and {len(pairs) - 3} more pairs"
            named = f" ({', '.join(pairs[:3])}{more})" if len(by_text) > 1 or test in PARTIAL else ""
            lines.append(text.removesuffix(".") + named + ".")
    return lines


@dataclass
class Comparison:
    """One pair, a minus b, on the (seed, fold) that both have with the same test images."""

    a: str
    b: str
    evidence: Evidence
    design: Design
    tests: dict[Repeat, tuple[Scored, Scored]] = field(init=False)  # what a and b were tested on, the first seed first
    said: dict[str, str] = field(default_factory=dict)  # test -> how it was done, or why it is left out

    def __post_init__(self) -> None:
        runs_a, runs_b = ({run.repeat: run for run in self.evidence.finished[x]} for x in (self.a, self.b))
        self.runs = {repeat: (runs_a[repeat], runs_b[repeat]) for repeat in sorted(set(runs_a) & set(runs_b))}
        scored = self.evidence.scored
        tests = {repeat: (scored[self.a, repeat], scored[self.b, repeat]) for repeat in self.runs}
        self.tests = {repeat: (a, b) for repeat, (a, b) in tests.items() if a.images == b.images}
        if lost := len(tests) - len(self.tests):
            self.said["images"] = f"{several(lost, 'run')} left out, tested on different images."

    def pair(self) -> Pair:
        """The pair, its verdict still undefined: that depends on the other pairs too."""
        metric, design = self.design.metric, self.design
        values_a, values_b = (
            [self.runs[repeat][side].value("test", metric) for repeat in self.tests] for side in (0, 1)
        )
        difference = [a - b for a, b in zip(values_a, values_b, strict=True)]
        resampled_a, resampled_b = (
            [self.evidence.resampled[name, repeat, metric] for repeat in self.tests] for name in (self.a, self.b)
        )
        least, most = metrics.value_range(metric, design.task, len(design.classes))
        over_groups = stats.group_t(
            difference,
            [a.values - b.values for a, b in zip(resampled_a, resampled_b, strict=True)],
            [found.drawn for found in resampled_a],
            (least - most, most - least),
            difference=True,
        )
        p = self.trusted_p(over_groups, min(groups for _, groups in (found.drawn for found in resampled_a)))
        tests = self.of_first_seed()
        mcnemar, delong = self.mcnemar(tests), self.delong(tests)
        t, wilcoxon = self.over_folds(dict(zip(self.tests, difference, strict=True)))
        return Pair(
            a=self.a,
            b=self.b,
            runs=len(self.tests),
            mean_a=over_runs(values_a).mean,
            mean_b=over_runs(values_b).mean,
            difference=over_runs(difference).mean,
            low=over_groups.low,
            high=over_groups.high,
            standard_error=over_groups.standard_error,
            df=over_groups.df,
            p_bootstrap=p,
            mcnemar=mcnemar,
            delong=delong,
            t=t,
            wilcoxon=wilcoxon,
        )

    def trusted_p(self, over_groups: stats.GroupT, fewest: int) -> float:
        """The p over groups, nan where there are too few of them. fewest: groups in a test set."""
        if fewest < 2:
            alone = f"a test set of a single {self.design.group_kind} shows no spread"
            self.said["single"] = f"No interval and no verdict: {alone}."
        groups = {group for a, _ in self.tests.values() for group in a.groups.tolist()}
        if len(groups) < FEWEST_GROUPS:
            tested = distinct(self.design, len(groups))
            self.said["groups"] = f"No verdict: {tested} cannot tell two strategies apart."
            return NAN
        if over_groups.standard_error == 0:
            self.said["constant"] = "No interval, and p is 1: the difference is the same in every resample."
        return over_groups.p

    def of_first_seed(self) -> dict[Repeat, tuple[Scored, Scored]]:
        """The tests of the first seed, each test set once."""
        first = min(seed for seed, _ in self.tests)
        found = {}
        for (seed, fold), (a, b) in self.tests.items():
            if seed == first and not any(a.images == other.images for other, _ in found.values()):
                found[seed, fold] = a, b
        return found

    def mcnemar(self, tests: dict[Repeat, tuple[Scored, Scored]]) -> stats.McNemar | None:
        """McNemar's test of who is right, the folds of a seed together where their test sets lie apart."""
        design = self.design
        if design.task != "multiclass":
            self.said["mcnemar"] = (
                "McNemar: left out, it compares one called class an image; these have several labels."
            )
            return None
        images = [image for a, _ in tests.values() for image in a.images]
        if len(images) > len(set(images)):
            self.said["mcnemar"] = "McNemar: left out, test sets of several folds overlap."
            return None
        warning = ""
        if has_groups(tests):
            kind = design.group_kind
            together = f"{plural(design.unit_kind)} of one {kind}" if kind != "image" else "byte-identical images"
            warning = f"; it takes {together} for independent, which the bootstrap does not"
        self.said["mcnemar"] = f"McNemar: {named(tests)}{warning}."
        right = [[test.scores.argmax(1) == test.labels for test in pair] for pair in tests.values()]
        return stats.mcnemar(*map(np.concatenate, zip(*right, strict=True)))

    def delong(self, tests: dict[Repeat, tuple[Scored, Scored]]) -> stats.DeLong | None:
        """DeLong's test of two AUROCs, where its assumptions hold."""
        design = self.design
        if design.task != "multiclass" or len(design.classes) != 2:
            self.said["delong"] = "DeLong: left out, it compares AUROCs of two classes."
        elif has_groups(tests):
            some = f"some {plural(design.group_kind)} "
            some += "have several" if design.group_kind != "image" else "are byte-identical"
            self.said["delong"] = (
                f"DeLong: left out, it needs independent images, and {some}; the bootstrap over groups "
                "stands in its place."
            )
        elif len(tests) > 1:
            self.said["delong"] = (
                "DeLong: left out, the folds were scored by different models, whose scores share no scale."
            )
        else:
            self.said["delong"] = f"DeLong: AUROC, {named(tests)}."
            ((a, b),) = tests.values()
            return stats.delong(a.scores[:, 1], b.scores[:, 1], a.labels == 1)
        return None

    def over_folds(self, difference: dict[Repeat, float]) -> tuple[stats.ResampledT | None, stats.Wilcoxon | None]:
        """(corrected resampled t-test, Wilcoxon) over folds, the seeds of a fold averaged: they share its
        test set."""
        common = [repeat for repeat in self.tests if math.isfinite(difference[repeat])]
        folds = sorted({repeat[1] for repeat in common})
        mean = [np.mean([difference[repeat] for repeat in common if repeat[1] == fold]) for fold in folds]
        if len(folds) < 2:
            self.said["t"] = "Corrected resampled t-test, Wilcoxon: left out, there is one fold (--folds 5 gives them)."
            return None, None
        share = float(np.mean([test_share(self.runs[repeat][0]) for repeat in common]))
        one_test = len({tuple(self.tests[repeat][0].images) for repeat in common}) == 1
        said = f"t: corrected resampled t-test (Nadeau and Bengio) over {len(folds)} folds, "
        said += f"n_test / n_train = {share:.3g}"
        said += ", seeds averaged within a fold" if len({repeat[0] for repeat in common}) > 1 else ""
        said += "; all folds share one test set and differ in what they train on" if one_test else ""
        self.said["t"] = said + "."
        least = 2 / 2 ** len(folds)
        overlap = "the folds' training sets overlap, so its p is smaller than it should be"
        self.said["wilcoxon"] = f"Wilcoxon: signed ranks over {len(folds)} folds; {overlap}."
        if least > ALPHA:
            reason = f"with {len(folds)} folds its smallest possible p is {least:.4g}, above 0.05"
            self.said["wilcoxon"] = f"Wilcoxon: left out, {reason}."
        t = stats.corrected_resampled_t(mean, share)
        return t, stats.wilcoxon(mean) if least <= ALPHA else None


def test_share(run: Run) -> float:
    """n_test / n_train, in images."""
    counts = run.config["data"]["splits"]
    return counts["test"]["images"] / counts["train"]["images"]


def has_groups(tests: dict[Repeat, tuple[Scored, Scored]]) -> bool:
    """Whether a group has several of the units that are tested."""
    groups = [group for a, _ in tests.values() for group in a.groups.tolist()]
    return len(set(groups)) < len(groups)


def named(tests: dict[Repeat, tuple[Scored, Scored]]) -> str:
    """Which runs a test used: those of one seed, a fold where there is one test set."""
    seed, fold = next(iter(tests))
    where = f"test sets of {len(tests)} folds together" if len(tests) > 1 else f"fold {fold}"
    return f"runs of seed {seed}, {where}"


def oriented(pair: Pair, higher_is_better: bool) -> tuple[float, float, float]:
    """(gain, low, high) of a pair, positive where a is better."""
    if higher_is_better:
        return pair.difference, pair.low, pair.high
    return -pair.difference, -pair.high, -pair.low
