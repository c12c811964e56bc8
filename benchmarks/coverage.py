"""Claim: of eight equal strategies the report separates two in at most 5 % of sweeps, however few groups.

    python benchmarks/coverage.py                       # about 5 minutes of two cores
    python benchmarks/coverage.py --quick               # a tenth of the sweeps, half a minute

simulates sweeps of eight strategies on test sets of patients with 1 to 12 images each. A patient is ill or
not; a score of an image is normal, SHIFT standard deviations higher where the patient is ill, and its noise
is half the patient's (three fifths of it common to all strategies, for all see the same patient) and half the
image's (half of it common). So the true accuracy at the middle is Phi(SHIFT / 2) and the true AUROC is
Phi(SHIFT / sqrt 2), exactly; folds are as many independent test sets, whose values are averaged. Prints for
the old rule (percentiles of the bootstrap) and the report's (stats.group_t):

  false    sweeps with a verdict between two of the eight, Holm over all 28 pairs: should be 0.05 or less
  pair     paired 95 % intervals that hold the true difference, 0
  single   95 % intervals of a strategy that hold its true value
  images   the same by the report's rule, had images been drawn and not patients
  power    sweeps in which a strategy whose true value is higher by GAIN (accuracy 0.816 to 0.900) is called
           better than another, Holm over 28

A part of what it printed (old rule left, the report's right):

    groups                    sweeps         false          pair        single         power  images
    6                            400   0.180 0.010   0.872 0.967   0.797 0.977   0.018 0.000   0.866
    8                            400   0.200 0.010   0.895 0.963   0.833 0.961   0.050 0.003   0.784
    10                           400   0.217 0.010   0.907 0.955   0.858 0.945   0.033 0.000   0.813
    15                           400   0.145 0.018   0.920 0.954   0.877 0.935   0.050 0.005   0.694
    20                           400   0.142 0.028   0.926 0.948   0.898 0.943   0.090 0.030   0.761
    40                           400   0.075 0.037   0.938 0.947   0.918 0.939   0.182 0.125   0.657
    100                          400   0.028 0.028   0.944 0.946   0.953 0.956   0.568 0.557   0.694
    6, one image each            400   0.007 0.000   0.972 0.997   0.691 0.999   0.000 0.000   0.993
    20, one image each           400   0.020 0.003   0.952 0.954   0.880 0.953   0.007 0.000   0.925
    3 folds x 2                  240   0.871 0.004   0.771 0.982   0.654 0.986   0.287 0.000
    20 folds x 2                 240   0.388 0.013   0.833 0.964   0.834 0.964   0.429 0.029
    10 folds x 4                 240   0.163 0.029   0.898 0.949   0.904 0.957   0.275 0.071
    5 folds x 10                 240   0.079 0.033   0.927 0.950   0.923 0.948   0.346 0.212
    20, one has 20%              400   0.128 0.030   0.925 0.949   0.892 0.928   0.098 0.010   0.649
    20, one has 30%              400   0.133 0.050   0.917 0.936   0.888 0.915   0.105 0.028   0.634
    20, one has 50%              400   0.130 0.087   0.915 0.912   0.882 0.884   0.105 0.037   0.358
    40, one has 20%              400   0.043 0.043   0.935 0.941   0.914 0.924   0.217 0.110   0.657
    40, one has 30%              400   0.070 0.092   0.924 0.923   0.905 0.907   0.195 0.107   0.545
    40, one has 50%              400   0.068 0.117   0.923 0.881   0.909 0.863   0.190 0.117   0.187
    6, AUROC 0.898               200   0.110 0.000   0.950 0.994   0.706 0.965   0.000 0.000
    10, AUROC 0.898              200   0.025 0.000   0.936 0.992   0.821 0.940   0.000 0.000
    20, AUROC 0.898              200   0.080 0.000   0.919 0.983   0.887 0.943   0.080 0.000
    40, AUROC 0.898              200   0.080 0.005   0.927 0.966   0.889 0.924   0.290 0.005
    100, AUROC 0.898              60   0.033 0.000   0.935 0.954   0.931 0.958   0.683 0.517
    6, AUROC 0.990               200   0.000 0.000   0.999 1.000   0.426 0.985   0.000 0.000
    10, AUROC 0.990              200   0.000 0.000   0.999 1.000   0.558 0.983   0.000 0.000
    20, AUROC 0.990              200   0.005 0.000   0.967 1.000   0.741 0.949   0.000 0.000
    40, AUROC 0.990              200   0.050 0.000   0.929 0.999   0.833 0.919   0.045 0.000
    100, AUROC 0.990              60   0.067 0.000   0.921 0.979   0.838 0.904   0.317 0.000
    5 folds x 4, AUROC 0.990     120   0.000 0.008   0.959 0.992   0.592 0.968   0.000 0.000

So a verdict by chance comes in 0 to 4 % of the sweeps, from 6 groups or 3 folds of 2 on; pairs' intervals
hold the truth in 95 % or more, strategies' in 92 % or more. Where that does not hold: one group with 30 % of
the images or more (verdicts by chance in 5 to 12 %, strategies' intervals in 86 to 92 %), and intervals of an
AUROC of 0.990 at 40 and 100 groups (90 to 92 %). The price is power: of eight strategies on 20 patients one
that is better by 0.08 in accuracy is found in 3 % of the sweeps, on 100 in 56 %; of AUROCs the rule is
careful below 100 groups, their intervals of pairs hold the truth in 97 to 100 %.
Exits with 1 where, without a giant group, false verdicts lie above 5 % by more than three standard errors.
"""

import argparse
import math
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from report import stats
from report.distributions import normal_sf

STRATEGIES, RESAMPLES = 8, 2000
SHIFT, NEAR_ONE, GAIN = 1.8, 3.3, 2.5631 - 1.8  # standard deviations; NEAR_ONE: AUROC 0.990
COMMON, OWN = (0.3, 0.25), (0.2, 0.25)  # variance (of patients, of images) common to all, and of each
FEW = (6, 8, 10, 15, 20, 40, 100)
COLUMNS = ("false", "pair", "single", "power")


@dataclass(frozen=True)
class Row:
    """What is simulated: groups in each of folds test sets. giant: the share of images in one group."""

    name: str
    groups: int
    folds: int = 1
    metric: str = "accuracy"
    shift: float = SHIFT
    giant: float = 0.0
    most_images: int = 12
    sweeps: int = 400

    @property
    def truth(self):
        return 1 - normal_sf(self.shift / (2 if self.metric == "accuracy" else math.sqrt(2)))


GIANTS = ((0.2, 20), (0.3, 20), (0.5, 20), (0.2, 40), (0.3, 40), (0.5, 40))
ROWS = (
    *(Row(f"{g}", g) for g in FEW),
    *(Row(f"{g}, one image each", g, most_images=1) for g in (6, 10, 20)),
    *(Row(f"{f} folds x {g}", g, folds=f, sweeps=240) for f, g in ((3, 2), (20, 2), (10, 4), (5, 10))),
    *(Row(f"{g}, one has {share:.0%}", g, giant=share) for share, g in GIANTS),
    *(Row(f"{g}, AUROC 0.898", g, metric="auroc", sweeps=60 if g > 40 else 200) for g in FEW),
    *(Row(f"{g}, AUROC 0.990", g, metric="auroc", shift=NEAR_ONE, sweeps=60 if g > 40 else 200) for g in FEW),
    Row("5 folds x 4, AUROC 0.990", 4, folds=5, metric="auroc", shift=NEAR_ONE, sweeps=120),
)


def test_set(row, rng):
    """Scores (STRATEGIES + 1, N), the last strategy better than the others by GAIN; ill and patient (N,)."""
    images = rng.integers(1, row.most_images + 1, row.groups)
    if row.giant:
        images[0] = round(row.giant / (1 - row.giant) * images[1:].sum())
    patient = np.repeat(np.arange(row.groups), images)
    # An AUROC needs both classes: its test sets are stratified, as splits.py makes them.
    ill = rng.random(row.groups) < 0.5 if row.metric == "accuracy" else np.arange(row.groups) % 2 == 0

    def noise(of_patients, of_images):
        shared = rng.normal(0, math.sqrt(of_patients), row.groups)[patient]
        return shared + rng.normal(0, math.sqrt(of_images), len(patient))

    common, distance = noise(*COMMON), [row.shift] * STRATEGIES + [row.shift + GAIN]
    scores = np.stack([d * (ill[patient] - 0.5) + common + noise(*OWN) for d in distance])
    return scores, ill[patient], patient


def drawn_with_replacement(groups, rng):
    """(1 + RESAMPLES, groups): each group once, and then the resamples."""
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return np.concatenate([np.ones((1, groups), int), drawn])


def resampled(row, scores, ill, group, weights):
    """(estimate, values (RESAMPLES,)) of one strategy by a bootstrap over group."""
    p = 1 / (1 + np.exp(-scores))
    both = np.stack([1 - p, p], axis=1)
    values = stats.bootstrap_values("multiclass", row.metric, both, ill.astype(int), group, weights)
    return values[0], values[1:]


def old_rule(values):
    """(p, low, high) as the report had it: percentiles (Efron and Tibshirani 1993, section 13.3), and twice
    the smaller share of resamples on one side of 0. values: (folds, RESAMPLES)."""
    d = np.mean(values, axis=0)
    d = d[~np.isnan(d)]
    p = min(1.0, 2 * (min((d <= 0).sum(), (d >= 0).sum()) + 1) / (len(d) + 1))
    return p, *np.quantile(d, (0.025, 0.975))


def sweep(row, seed):
    """{(rule, column): share} of one simulated sweep."""
    rng = np.random.default_rng(seed)
    sets = [test_set(row, rng) for _ in range(row.folds)]
    draws = [drawn_with_replacement(row.groups, rng) for _ in sets]
    every = [
        [resampled(row, scores[s], *rest, draw) for (scores, *rest), draw in zip(sets, draws, strict=True)]
        for s in range(STRATEGIES + 1)
    ]
    estimates = np.array([[estimate for estimate, _ in folds] for folds in every])  # (strategies, folds)
    values = np.array([[values for _, values in folds] for folds in every])  # (strategies, folds, RESAMPLES)
    drawn = [(fold, row.groups) for fold in range(row.folds)]
    found, p = {}, {"old": {}, "new": {}}
    holds = {(rule, column): [] for rule in p for column in ("pair", "single")}
    for a in range(STRATEGIES + 1):
        for b in range(a):
            difference = estimates[a] - estimates[b], values[a] - values[b]
            ours = stats.group_t(*difference, drawn, (-1, 1), difference=True)
            p["old"][a, b], low, high = old_rule(values[a] - values[b])
            p["new"][a, b] = ours.p
            if a < STRATEGIES:
                holds["old", "pair"].append(low <= 0 <= high)
                holds["new", "pair"].append(not (ours.low > 0 or ours.high < 0))
    for s in range(STRATEGIES):
        _, low, high = old_rule(values[s])
        holds["old", "single"].append(low <= row.truth <= high)
        ours = stats.group_t(estimates[s], values[s], drawn, (0, 1))
        holds["new", "single"].append(ours.low <= row.truth <= ours.high)
    found = {key: np.mean(all_of_it) for key, all_of_it in holds.items()}
    for rule, of_pair in p.items():
        equal = [value for (a, _), value in of_pair.items() if a < STRATEGIES]
        found[rule, "false"] = float(stats.holm(equal).min() < 0.05)
        # The better one in the place of strategy 0: a family of 28 again, the pair in question first.
        family = {(a, b): value for (a, b), value in of_pair.items() if b}
        first = family.pop((STRATEGIES, 1))
        found[rule, "power"] = float(stats.holm([first, *family.values()])[0] < 0.05)
    if row.metric == "accuracy" and row.folds == 1 and seed[1] % 3 == 0:  # slow, and plain to see
        scores, ill, patient = sets[0]
        image = np.arange(len(patient))
        weights = drawn_with_replacement(len(image), rng)
        estimate, values = resampled(row, scores[0], ill, image, weights)
        ours = stats.group_t([estimate], [values], [(0, len(image))], (0, 1))
        found["new", "images"] = float(ours.low <= row.truth <= ours.high)
    return found


def measured(row):
    """(row, {(rule, column): mean over its sweeps})."""
    number = ROWS.index(next(r for r in ROWS if r.name == row.name))
    sweeps = [sweep(row, (number, i)) for i in range(row.sweeps)]
    return row, {key: float(np.mean([one[key] for one in sweeps if key in one])) for key in sweeps[0]}


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sweeps: rough")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    args = parser.parse_args()
    rows = [row for row in ROWS if args.only in row.name]
    rows = [replace(row, sweeps=row.sweeps // 10) for row in rows] if args.quick else rows
    print(f"numpy {np.__version__}; old rule, report's rule; s.e. of 0.05 in 400 sweeps 0.011, in 200 0.015")
    print(f"{'groups':26}{'sweeps':>6}" + "".join(f"{c:>14}" for c in COLUMNS) + f"{'images':>8}")
    start, held = time.perf_counter(), True
    with multiprocessing.Pool(min(os.cpu_count() or 1, len(rows))) as pool:
        for row, found in pool.imap(measured, rows):
            pairs = "".join(f"{found['old', c]:8.3f}{found['new', c]:6.3f}" for c in COLUMNS)
            images = f"{found['new', 'images']:8.3f}" if ("new", "images") in found else ""
            print(f"{row.name:26}{row.sweeps:6}{pairs}{images}", flush=True)
            held &= row.giant > 0 or found["new", "false"] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / row.sweeps)
    print(f"without a giant group at most 5 % false verdicts, within three standard errors: {held}")
    print(f"{time.perf_counter() - start:.0f} seconds")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
