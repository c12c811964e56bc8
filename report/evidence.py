"""What the runs of an experiment say: their test scores, and their metrics over a bootstrap over groups.

evidence = gather(runs, warnings)                       # runs: of one dataset and backbone
evidence.finished["FT"]                                 # the strategy's runs with a result
evidence.resampled["FT", (0, 0), "auroc"].values        # (RESAMPLES,) of seed 0, fold 0"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

import metrics
from report import stats
from report.experiment import NAN, Estimate
from runs import Run, RunError, Scored, read_scored

RESAMPLES = 2000  # of the bootstrap over groups
FEW_SCORES = 20_000  # of a test set, images times classes
MEANS_OVER_CLASSES = ("balanced_accuracy", "macro_f1", "auroc", "average_precision", "f1")
AGREE = 1e-6  # a recorded value and that of the recorded scores
Repeat = tuple[int, int]  # (seed, fold)
MOSTLY = 0.9  # share of resamples without some class from which on they are not drawn again


@dataclass(frozen=True)
class Resampled:
    """What a bootstrap over groups gave for a run: the metric on every resample, and what was drawn."""

    values: np.ndarray  # (RESAMPLES,)
    drawn: tuple[int, int]  # (stratum, number of groups): runs of one stratum have the same draws


@dataclass(frozen=True)
class Evidence:
    """All runs of an experiment. scored and resampled are by strategy and (seed, fold). warnings: the report's,
    to which what is lost later is added."""

    runs: list[Run]
    finished: dict[str, list[Run]]  # of every strategy, also of one without a finished run
    scored: dict[tuple[str, Repeat], Scored]
    resampled: dict[tuple[str, Repeat, str], Resampled]  # and by metric
    drawn_again: float  # share of the resamples that lacked a class
    warnings: list[str] = field(default_factory=list)

    @property
    def done(self) -> list[Run]:
        return [run for run in self.runs if run.status == "done"]


def gather(runs: list[Run], warnings: list[str]) -> Evidence:
    """The evidence of an experiment's runs. One whose predictions are damaged, or are not those of its metrics.json,
    becomes unfinished, and is named in warnings."""
    scored = {}
    for run in (run for run in runs if run.status == "done"):
        try:
            test = read_scored(run)
            check_values(run, test)
            scored[run.strategy, run.repeat] = test
        except RunError as error:
            warnings.append(f"left out, {error}")
            run.status, run.reason = "unfinished", "damaged"
    done = [run for run in runs if run.status == "done"]
    names = dict.fromkeys(run.strategy for run in runs)
    resampled, again = bootstrap(done, scored, *metrics_of(done or runs))
    return Evidence(
        runs=runs,
        finished={name: [run for run in done if run.strategy == name] for name in names},
        scored=scored,
        resampled=resampled,
        drawn_again=again,
        warnings=warnings,
    )


def check_values(run: Run, test: Scored) -> None:
    """RunError where metrics.json has another value than predictions.csv gives: one of them is damaged, or of another
    run. Of those that are resampled, which are computed here anyway."""
    names = sorted(set(test.groups.tolist()))
    once = np.ones((1, len(names)), int)
    for name, recorded in run.result["test"]["values"].items():
        known = metrics.METRICS.get(name)
        if (
            known is None
            or not known.resampled
            or not known.is_for(run.config["settings"]["task"], test.scores.shape[1])
        ):
            continue
        (found,) = resampled_values(run, test, name, names, once)
        if not np.isclose(found, NAN if recorded is None else recorded, rtol=0, atol=AGREE, equal_nan=True):
            where = f"{run.folder}: metrics.json and predictions.csv do not belong together"
            raise RunError(f"{where}: {name} is {recorded} there, {found:.6g} by the scores")


def metrics_of(runs: list[Run]) -> tuple[str, str]:
    """The metric of an experiment, and the second; no second without a finished run."""
    return runs[0].config["settings"]["metric"], runs[0].result.get("second", "")


def bootstrap(
    done: list[Run], scored: dict[tuple[str, Repeat], Scored], metric: str, second: str
) -> tuple[dict[tuple[str, Repeat, str], Resampled], float]:
    """(strategy, (seed, fold), metric) -> Resampled, and the share of resamples drawn again. Groups are drawn
    once for a test set, so that all strategies and seeds see the same resamples: what is compared is paired.
    Folds whose test sets share no group are drawn apart; where they share some, the groups of all are drawn
    together. No values for the ECE, whose resamples lie above the estimate (binning adds their noise), and
    none from a single group."""
    sets = {key: frozenset(test.groups.tolist()) for key, test in scored.items()}
    strata = sorted(set(sets.values()), key=sorted)
    union = frozenset().union(*strata)
    if sum(map(len, strata)) > len(union):
        strata, sets = [union], dict.fromkeys(sets, union)
    found, again = {}, 0.0
    for stratum, groups in enumerate(strata):
        names = sorted(groups)
        within = {tuple(test.images): test for key, test in scored.items() if sets[key] == groups}
        counts = np.concatenate([classes_of_groups(test, names) for test in within.values()], axis=1)
        plain = stats.resample_groups(len(names), RESAMPLES, seed=stratum).astype(np.int16)
        whole, share = with_all_classes(plain, counts, seed=stratum)
        for run in (run for run in done if sets[run.strategy, run.repeat] == groups):
            for name in resampled_metrics(run, scored[run.strategy, run.repeat], metric, second):
                values = np.full(RESAMPLES, NAN)
                if name != "ece" and len(names) >= 2:
                    over_classes = name in MEANS_OVER_CLASSES
                    again = max(again, share) if over_classes else again
                    weights = whole if over_classes else plain
                    values = resampled_values(run, scored[run.strategy, run.repeat], name, names, weights)
                found[run.strategy, run.repeat, name] = Resampled(values, (stratum, len(names)))
    return found, again


def resampled_metrics(run: Run, test: Scored, metric: str, second: str) -> list[str]:
    """The experiment's two metrics, and the others that the run has: those that are made of ranked scores, which is
    slow, on small test sets alone."""
    known = (metrics.METRICS[name] for name in run.result["test"]["values"] if name in metrics.METRICS)
    quick = "matrix, matrix at threshold, rows".split(", ")
    small = test.scores.size <= FEW_SCORES
    others = [
        one.name for one in known if one.resampled and (one.given in quick or (small and one.given == "one class"))
    ]
    return list(dict.fromkeys((metric, second, *others)))


def resampled_values(run: Run, test: Scored, metric: str, groups: list[str], weights: np.ndarray) -> np.ndarray:
    """(RESAMPLES,) the metric of the run on every resample of the groups."""
    return stats.bootstrap_values(
        run.config["settings"]["task"],
        metric,
        test.scores,
        test.labels,
        np.searchsorted(groups, test.groups),
        weights,
        thresholds=run.result.get("thresholds"),
        leave_out=run.config["data"]["leave_out"],
    )


def classes_of_groups(test: Scored, groups: list[str]) -> np.ndarray:
    """(G, K) counts of what a metric needs in each group: units of each class that the test set has; of
    several labels the positives and the negatives of each."""
    group = np.searchsorted(groups, test.groups)
    if test.labels.ndim == 1:
        columns = test.labels[:, None] == np.unique(test.labels)
    else:
        columns = np.concatenate([test.labels == 1, test.labels == 0], axis=1)
    columns = columns[:, columns.any(axis=0)]
    counts = np.zeros((len(groups), columns.shape[1]))
    np.add.at(counts, group, columns)
    return counts


def with_all_classes(plain: np.ndarray, counts: np.ndarray, seed: int, rounds: int = 20) -> tuple[np.ndarray, float]:
    """((RESAMPLES, G) weights, share that was drawn again). A resample that lost a class which the test set
    has gives a mean over fewer classes, another metric under the same name: it is drawn again, up to `rounds`
    times. Where hardly any has them all (a hundred classes, each in few groups), the draws stay as they are.
    counts: (G, K), as from classes_of_groups."""

    def without_one(weights: np.ndarray) -> np.ndarray:
        parts = np.array_split(weights, max(1, weights.size // 2_000_000))
        return np.flatnonzero(np.concatenate([(part @ counts == 0).any(axis=1) for part in parts]))

    lost = without_one(plain)
    share = len(lost) / len(plain)
    if not len(lost) or share >= MOSTLY:
        return plain, share
    weights = plain.copy()
    for k in range(1, rounds + 1):
        weights[lost] = stats.resample_groups(len(counts), len(lost), seed=seed + 1_000_003 * k)
        lost = lost[without_one(weights[lost])]
        if not len(lost):
            break
    return weights, share


def over_runs(values: Iterable[float | None], over: str = "") -> Estimate:
    """Mean and standard deviation (ddof 1) of the values that are defined, and how many they are."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return Estimate(
        mean=float(np.mean(known)) if known else NAN,
        sd=float(np.std(known, ddof=1)) if len(known) > 1 else NAN,
        n=len(known),
        over=over,
    )


def mean_over_runs(values: list[np.ndarray]) -> np.ndarray:
    """The mean over runs of each resample, (R,) or (R, P), over those where it is defined."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), NAN)
