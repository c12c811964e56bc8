"""What a report knows, typed: Analysis -> Experiment (dataset and backbone) -> Row (a strategy), Pair of two.

    analysis = analyse("runs/")                          # report/analysis.py makes it
    row = analysis.experiments[0].best                   # a Row; row.test.mean, row.test.low, row.test.high
    analysis.experiments[0].pair("LP-FT", "FT").verdict  # "better"

Nothing is computed here. Rows, and every mapping by strategy, stand in the order of the strategies. A number
that is not known is nan. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from report import stats

NAN = math.nan
OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Estimate:
    """The mean over runs of a metric. over: '1 of 2 labels' where the mean over them lacks some, or ''."""

    mean: float = NAN
    sd: float = NAN  # over runs, ddof 1; nan with one run
    n: int = 0  # runs where it is defined
    low: float = NAN  # of the 95 % interval over groups; nan where there is none
    high: float = NAN
    over: str = ""


@dataclass(frozen=True)
class Row:
    """A strategy in an experiment: how good, how sure, how expensive."""

    strategy: str  # the paper's name
    sentence: str  # what it does, for a methods text; "" in runs of earlier versions
    citation: str  # the full reference, or ""
    settings: list[str]  # what its hyperparameters chose, in words
    staged: bool  # whether it trains in stages
    done: int  # runs with a result
    failed: int
    unfinished: int
    missing: int  # asked for by the command and never begun
    cells: list[tuple[int, int]]  # (seed, fold) of the runs with a result
    val: Estimate  # of the experiment's metric
    test: Estimate
    second: Estimate  # the second metric, on test
    metrics: dict[str, Estimate]  # every metric on test
    per_class: dict[str, dict[str, float]]  # class -> metric -> mean over runs
    epochs: float  # mean over runs
    optimizer_steps: float
    trials: int  # of --tune, for a fold
    tuning_steps: float
    minutes: float  # mean over runs
    minutes_total: float  # all runs and their tuning
    peak_memory_bytes: int | None
    trainable_parameters: int
    parameters: int
    lr: list[float]  # the values used
    alpha: list[float]
    edge: list[str]  # "lr in fold 0": chosen at an end of what was tried
    hyperparameters: dict[str, object]
    stages: dict[str, int]  # stage -> its first epoch
    planned_stages: list[str]
    early: dict[str, int]  # stage -> how many runs are scored by its checkpoint though another stage came after it
    one_call: dict[str, int]  # what is called of every test unit -> in how many runs
    collapsed: bool  # half of its runs or more treat all test units alike
    ranked: bool = False  # it has the same runs as most strategies have
    best: bool = False
    beside_best: bool = False  # not separable from the best


@dataclass(frozen=True)
class Pair:
    """Two strategies on the same test images, a minus b. A test that is left out is None (see pair_notes)."""

    a: str
    b: str
    runs: int  # (seed, fold) that both have
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    standard_error: float
    df: float
    p_bootstrap: float
    mcnemar: stats.McNemar | None = None
    delong: stats.DeLong | None = None
    t: stats.ResampledT | None = None
    wilcoxon: stats.Wilcoxon | None = None
    p_holm: float = NAN
    verdict: str = "undefined"  # "better", "worse" (a than b), "not separable", "undefined"
    notes: str = ""  # how this pair was tested, and why a test is left out

    def turned(self) -> Pair:
        """b minus a; the tests stay those of a minus b."""
        return replace(
            self,
            a=self.b,
            b=self.a,
            mean_a=self.mean_b,
            mean_b=self.mean_a,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            verdict=OPPOSITE.get(self.verdict, self.verdict),
        )


@dataclass(frozen=True)
class Planned:
    """What the commands of the runs asked for; an interrupted sweep has fewer."""

    seeds: list[int]
    folds: list[int]
    not_begun: list[str]  # strategies that the command names and that have no run, as it names them


@dataclass(frozen=True)
class LostCell:
    """A run of the sweep without a result."""

    strategy: str
    seed: int
    fold: int
    status: str  # "failed", "unfinished", "not run"
    reason: str


@dataclass(frozen=True)
class SplitCounts:
    """What is in train, val or test."""

    images: int
    groups: int
    units: int
    classes: dict[str, int]


@dataclass(frozen=True)
class FoldSplits:
    fold: int
    splits: dict[str, SplitCounts]  # train, val, test
    groups_in_two_splits: int
    identical_across_splits: int  # sets of byte-identical images that stand in two splits


@dataclass(frozen=True)
class EpochPoint:
    """An epoch of a learning curve: means over runs, and the range of the validation metric."""

    epoch: int
    train_loss: float
    val_loss: float
    val_metric: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Curve:
    """ROC or precision-recall curve of a class, mean over runs, with the band of a bootstrap over groups."""

    name: str  # the class
    grid: list[float]  # false positive rates, or recalls
    mean: list[float]  # sensitivities, or precisions
    low: list[float]
    high: list[float]
    area: float  # AUROC, or average precision
    prevalence: float  # share of positives


@dataclass(frozen=True)
class Bin:
    """Scores in (low, high]; confidence and accuracy are nan where there is none."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    bins: list[Bin]
    ece: float
    brier: float


@dataclass(frozen=True)
class Threshold:
    """A threshold that validation chose, mean over runs, and what it gives on test."""

    strategy: str
    name: str  # the label, or of two classes the positive one
    threshold: float
    sd: float  # over runs
    rates: dict[str, float]  # metrics.RATES: sensitivity, ...


@dataclass(frozen=True)
class LayerRates:
    """The learning rates that a strategy gave the layers, mean over runs: rate[layer][epoch]."""

    strategy: str
    layers: list[str]
    blocks: list[str]  # the block of each layer
    epochs: list[int]
    rate: list[list[float]]


@dataclass(frozen=True)
class Call:
    """What a strategy's runs called an image."""

    name: str  # the class, or labels joined with |
    score: float
    right: bool


@dataclass(frozen=True)
class HardImage:
    """A test image whose truth got a low probability."""

    image: str
    label: str
    thumbnail: str | None  # a data URI
    predictions: dict[str, Call]  # by strategy
    mean_right: float


@dataclass(frozen=True)
class Design:
    """What is known of an experiment before its results: what was compared, on what, how it was run."""

    data: str
    arch: str
    task: str  # "multiclass", "multilabel"
    classes: list[str]
    metric: str
    second: str  # the second metric
    higher_is_better: bool  # of the metric
    over: str  # as in Estimate, over all runs
    unit_kind: str  # what is scored: image, study, ...
    group_kind: str  # what is never split: patient, ...
    test_images: int
    test_groups: int  # those that share an identical image are one
    test_units: int
    named_groups: int  # as the data names them
    largest_group_share: float  # of what was tested
    seeds: list[int]
    folds: list[int]
    planned: Planned
    lost_cells: list[LostCell]
    positive: str | None  # of two classes
    citation: str | None  # of the dataset
    data_notes: list[str]
    official_test: bool
    mean: list[float] | None  # of the normalisation
    std: list[float] | None
    splits: list[FoldSplits]
    settings: dict[str, object]  # those that all runs share
    environment: dict[str, str]
    commands: list[str]
    threshold_rule: str
    differ: list[str]  # settings in which the runs differ and must not

    @property
    def key(self) -> tuple[str, str]:
        return self.data, self.arch


@dataclass(frozen=True)
class Experiment(Design):
    """A dataset with a backbone: its design and what came out."""

    rows: list[Row]
    pairs: list[Pair]
    pair_notes: list[str]
    compared_groups: int  # those of the ranked strategies' runs
    notes: list[str]
    verdict: str
    curves: dict[str, list[EpochPoint]] = field(default_factory=dict)  # by strategy, as the next four
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)  # rows true, columns called; all runs
    roc: dict[str, list[Curve]] = field(default_factory=dict)
    pr: dict[str, list[Curve]] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    thresholds: list[Threshold] = field(default_factory=list)
    layer_rates: LayerRates | None = None
    hardest: list[HardImage] = field(default_factory=list)
    gradcam: bool = False  # whether figures/ holds a Grad-CAM panel of it

    @property
    def best(self) -> Row | None:
        return next((row for row in self.rows if row.best), None)

    def row(self, strategy: str) -> Row | None:
        return next((row for row in self.rows if row.strategy == strategy), None)

    def pair(self, a: str, b: str) -> Pair | None:
        """a minus b, whichever way round it was computed."""
        return pair_of(self.pairs, a, b)


def pair_of(pairs: list[Pair], a: str, b: str) -> Pair | None:
    """a minus b out of these, whichever way round it was computed."""
    for pair in pairs:
        if (pair.a, pair.b) == (a, b):
            return pair
        if (pair.a, pair.b) == (b, a):
            return pair.turned()
    return None


@dataclass(frozen=True)
class Gain:
    """A strategy's difference to FT in an experiment. gain: positive where the strategy is better."""

    data: str
    arch: str
    metric: str
    over: str
    difference: float
    low: float
    high: float
    verdict: str
    early: int  # runs scored by the checkpoint of an earlier stage
    gain: float
    gain_low: float
    gain_high: float
    relative: float  # share of FT's mean over the same runs; nan where that is not positive


@dataclass(frozen=True)
class Beaten:
    """How often a strategy is better than FT."""

    strategy: str
    better: int
    separable: int
    of: int
    largest: float
    largest_at: str


@dataclass(frozen=True)
class RankPair:
    """Wilcoxon's test of two strategies over the experiments."""

    a: str
    b: str
    n: int
    p: float
    p_holm: float
    note: str


@dataclass(frozen=True)
class Across:
    """Ranks over experiments (Demsar 2006)."""

    experiments: list[str]  # data/arch, a row of table each
    strategies: list[str]  # the columns
    table: list[list[float]]
    ranks: list[list[float]]
    average_ranks: dict[str, float]
    friedman: stats.Friedman
    cd: float | None  # Nemenyi's critical difference
    alpha: float
    cliques: list[list[str]]
    pairs: list[RankPair]
    beats_ft: list[Beaten]
    notes: list[str]


@dataclass(frozen=True)
class Claim:
    """A headline claim of the paper on these runs."""

    claim: str
    paper: str
    here: str
    rows: list[Gain]


@dataclass(frozen=True)
class Analysis:
    folder: str
    strategies: list[str]  # of all experiments, in order
    experiments: list[Experiment]
    across: Across | None
    across_note: str  # why there is none, or over what it is
    claims: list[Claim]
    warnings: list[str]
