"""The methods paragraph, the limitations and the citations, filled in from what the runs recorded.

    methods.paragraph(analysis.experiments[0])
    # The dataset demo was used for the classification of images into 4 classes (normal, cyst, lobed, ...)

What is not in the analysis is not claimed. "[author: ...]" stands where only the author can answer. Top to
bottom: words, the paragraph sentence by sentence, limitations, citations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import metrics
from report.evidence import RESAMPLES
from report.experiment import Analysis, Experiment, Row
from report.wording import (
    NO_GROUPS,
    copies,
    distinct,
    experiment_name,
    known,
    lost_runs,
    plural,
    several,
    spoken,
    value,
)

AUGMENTATION = {
    "none": "",
    "light": "shifted by at most 5 % of their side, and changed in brightness and contrast by at most 10 %",
    "strong": "shifted by at most 10 % of their side, scaled by at most 15 %, rotated by at most 15 degrees, "
    "and changed in brightness and contrast by at most 20 %",
}
FLIP = {
    "none": "",
    "horizontal": "flipped horizontally with probability 0.5",
    "both": "flipped horizontally and vertically with probability 0.5 each",
}
OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD with momentum 0.9"}
TESTS = {
    "mcnemar": "McNemar's test on what each strategy called right",
    "delong": "DeLong's test for AUROC",
    "t": "the corrected resampled t-test over folds (the seeds of a fold averaged)",
    "wilcoxon": "Wilcoxon's signed-rank test",
}
SIDES = {"train": "training", "val": "validation", "test": "test"}
SOFTWARE = {"ftcompare": "ftcompare", "python": "Python", "torch": "PyTorch", "torchvision": "torchvision"}
SOFTWARE |= {"numpy": "NumPy"}
SOURCES = {
    "davila": "Davila A, Colan J, Hasegawa Y. Comparison of fine-tuning strategies for transfer learning in "
    "medical image classification. Image and Vision Computing 2024; 146: 105012.",
    "bootstrap": "Efron B. Bootstrap methods: another look at the jackknife. The Annals of Statistics 1979; "
    "7(1): 1-26.",
    "clusters": "Field CA, Welsh AH. Bootstrapping clustered data. Journal of the Royal Statistical Society "
    "B 2007; 69(3): 369-390.",
    "holm": "Holm S. A simple sequentially rejective multiple test procedure. Scandinavian Journal of "
    "Statistics 1979; 6(2): 65-70.",
    "mcnemar": "McNemar Q. Note on the sampling error of the difference between correlated proportions or "
    "percentages. Psychometrika 1947; 12(2): 153-157.",
    "delong": "DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated "
    "receiver operating characteristic curves: a nonparametric approach. Biometrics 1988; 44(3): 837-845.",
    "sun": "Sun X, Xu W. Fast implementation of DeLong's algorithm for comparing the areas under correlated "
    "receiver operating characteristic curves. IEEE Signal Processing Letters 2014; 21(11): 1389-1393.",
    "nadeau": "Nadeau C, Bengio Y. Inference for the generalization error. Machine Learning 2003; 52: 239-281.",
    "wilcoxon": "Wilcoxon F. Individual comparisons by ranking methods. Biometrics Bulletin 1945; 1(6): 80-83.",
    "demsar": "Demšar J. Statistical comparisons of classifiers over multiple data sets. Journal of Machine "
    "Learning Research 2006; 7: 1-30.",
    "pytorch": "Paszke A, Gross S, Massa F, et al. PyTorch: an imperative style, high-performance deep "
    "learning library. NeurIPS 2019.",
    "claim": "Tejani AS, Klontzas ME, Gatti AA, et al. Checklist for Artificial Intelligence in Medical "
    "Imaging (CLAIM): 2024 update. Radiology: Artificial Intelligence 2024; 6(4): e240300.",
}

# ---- words ----


def span(values: Iterable[int]) -> str:
    """423, or 410 to 430"""
    low, *_, high = sorted(values) * 2
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def author(what: str) -> str:
    return f"[author: {what}]"


def is_set(x: object) -> bool:
    """Whether a setting does anything."""
    return x not in (0, False, "none", "off") and value(x) != "not set"


def numbers(values: Iterable[float]) -> str:
    """0.0001, 0.001 and 0.01"""
    return spoken(map(value, values))


def used(experiment: Experiment, test: str) -> bool:
    return any(getattr(pair, test) for pair in experiment.pairs)


def ran(experiment: Experiment) -> list[Row]:
    """Rows of strategies with at least one finished run."""
    return [row for row in experiment.rows if row.done]


# ---- the paragraph ----


def paragraph(experiment: Experiment) -> str:
    """The methods text of one dataset and backbone, past tense: paragraphs with an empty line between."""
    parts = (
        (data_text, split_text, author_text),
        (model_text, preprocessing_text),
        (strategies_text, tuning_text, design_text, training_text),
        (selection_text, statistics_text),
        (software_text,),
    )
    texts = (" ".join(filter(None, (part(experiment) for part in group))) for group in parts)
    return "\n\n".join(filter(None, texts))


def data_text(experiment: Experiment) -> str:
    classes = experiment.classes
    kind = "classes" if experiment.task == "multiclass" else "labels, several of which may hold at once"
    between = "; " if any("," in name for name in classes) else ", "
    names = f" ({between.join(classes)})" if len(classes) <= 15 else ""
    source = author("source of the data")
    if experiment.citation:
        source = f"({experiment.citation.rstrip('.')})"
    used_for = f"was used for the classification of images into {len(classes)} {kind}{names}."
    positive = f" The positive class was {experiment.positive}." if experiment.positive else ""
    return f"The dataset {experiment.data} {source} {used_for}{positive}"


def split_text(experiment: Experiment) -> str:
    splits, kind, by_group = experiment.splits, experiment.group_kind, experiment.group_kind != "image"
    if not splits:
        return ""
    sizes = []
    for side, words in SIDES.items():
        if parts := [split.splits[side] for split in splits if side in split.splits]:
            groups = f" of {span(part.groups for part in parts)} {plural(kind)}" if by_group else ""
            sizes.append(f"{span(part.images for part in parts)} images{groups} for {words}")
    how = f"by {kind}" if by_group else f"by image, as {NO_GROUPS}"
    folds, each = len(experiment.planned.folds), ""
    many = "once"
    if folds > 1:
        many, each = f"into {folds} folds", " in each"
    if len(splits) < folds:
        many += f", of which {len(splits)} {'was' if len(splits) == 1 else 'were'} run"
    text = f"The data was split {how}, {many}, with {spoken(sizes)}{each}."
    if experiment.official_test:
        text += " The test images were those of the dataset's own split."
    if by_group:
        shared = sum(split.groups_in_two_splits for split in splits)
        checked = f"{several(shared, kind) if shared else f'No {kind}'} {'was' if shared < 2 else 'were'}"
        text += f" {checked} in more than one split, which was checked."
    same = sum(split.identical_across_splits for split in splits)
    return text + (f" {several(same, 'set')} of byte-identical images spanned two splits." if same else "")


def author_text(experiment: Experiment) -> str:
    return author(
        "the imaging device and protocol, inclusion and exclusion criteria, the reference standard and who "
        "set it, ethics approval and consent"
    )


def model_text(experiment: Experiment) -> str:
    weights = experiment.settings.get("weights")
    file = re.split(r"[\\/]", str(weights))[-1]  # a path tells of the author's disk, not of the weights
    known_weights = {
        "imagenet": "torchvision's ImageNet weights (IMAGENET1K_V1)",
        "none": "random weights, without pretraining",
        None: author("the pretrained weights"),
    }
    start = known_weights.get(weights, f"pretrained weights ({file})")
    head = f"its classifier layer was replaced by a new one with {len(experiment.classes)} outputs"
    library, name = (
        ("timm", experiment.arch[5:]) if experiment.arch.startswith("timm:") else ("torchvision", experiment.arch)
    )
    return f"The backbone was {name} from {library}, initialised with {start}; {head}."


def preprocessing_text(experiment: Experiment) -> str:
    settings, parts = experiment.settings, []
    size, resize, depth = (settings.get(name) for name in ("img_size", "resize", "bit_depth"))
    if size:
        to = f"to {size} x {size} pixels"
        if is_set(resize):
            cut = f"the central {size} x {size} pixels were cut out"
            to = f"so that their shorter side was {resize} pixels, and {cut}"
        parts.append(f"Images were resized {to}.")
    if is_set(depth):
        parts.append(f"16-bit images were read at a depth of {depth} bits.")
    if experiment.mean:
        mean, std = (" / ".join(f"{x:.4g}" for x in found) for found in (experiment.mean, experiment.std))
        scaled = "Channels, scaled to 0..1, were normalised"
        parts.append(f"{scaled} by mean {mean} and standard deviation {std}.")
    return " ".join(filter(None, [*parts, augmentation_text(experiment)]))


def augmentation_text(experiment: Experiment) -> str:
    """Empty where it is not known or the runs differ. Without --flip, and before there was one, images were
    flipped from left to right where they were augmented."""
    augment = experiment.settings.get("augment")
    if augment not in AUGMENTATION or any(text.startswith("flip:") for text in experiment.differ):
        return ""
    flip = experiment.settings.get("flip", "none" if augment == "none" else "horizontal")
    how = ", ".join(filter(None, [FLIP.get(flip, ""), AUGMENTATION[augment]]))
    return f"Training images were {how}." if how else "No augmentation was used."


def strategies_text(experiment: Experiment) -> str:
    described = [f"{row.strategy} ({strategy_text(row)})" for row in ran(experiment)]
    if not described:
        return "No run has finished."
    count = several(len(described), "strategy")
    return f"{count} {'was' if len(described) == 1 else 'were'} compared: {'; '.join(described)}."


def strategy_text(row: Row) -> str:
    """What a strategy does, its stages as they ran, and the values used."""
    beta, lp_lr = (row.hyperparameters.get(name) for name in ("beta", "lp_lr"))
    rate = f"learning rate {numbers(row.lr)}" if row.lr else ""
    rate += f", {lp_lr:g} in its first part" if rate and is_set(lp_lr) else ""
    penalty = f"alpha {numbers(row.alpha)}" if row.alpha else ""
    penalty += f", beta {beta:g}" if penalty and is_set(beta) else ""
    early = [f"{n} of {several(row.done, 'run')} in stage {stage}" for stage, n in row.early.items()]
    scored = f"scored by a checkpoint from before the last stage: {spoken(early)}" if early else ""
    return "; ".join(filter(None, [row.sentence, *row.settings, stages_text(row), rate, penalty, scored]))


def stages_text(row: Row) -> str:
    """The stages as they ran: where epochs are few they merge, down to one, which is FT."""
    if not row.staged or not row.stages:
        return ""
    if len(row.stages) == 1:
        return "here in its last stage alone, all weights trained from the first epoch"
    return "stages: " + ", ".join(f"{stage} from epoch {first}" for stage, first in row.stages.items())


def tuning_text(experiment: Experiment) -> str:
    rows = ran(experiment)
    tuned = [row for row in rows if row.trials]
    if not tuned:
        return "These hyperparameters were not tuned within the comparison." if rows else ""
    what = "the learning rate" + (", and alpha where there is one," if any(row.alpha for row in rows) else "")
    trials = {row.trials for row in tuned}
    many = several(min(trials), "trial") if len(trials) == 1 else f"{span(trials)} trials"
    whose = "every strategy" if len(tuned) == len(rows) else spoken(row.strategy for row in tuned)
    text = (
        f"For {whose} {what} was tuned with {many} in each fold, the default first and then others of the "
        "strategy's grid, on a further split inside the training part of each fold, by "
        f"{metrics.label(experiment.metric)}; the validation and test parts took no part in it."
    )
    edges = spoken(row.strategy for row in rows if row.edge)
    return text + (f" The chosen value lay at an end of those tried for {edges}." if edges else "")


def design_text(experiment: Experiment) -> str:
    seeds, folds, planned = experiment.seeds, experiment.folds, experiment.planned
    if not seeds:
        return ""
    over = f"{several(len(seeds), 'random seed')} ({', '.join(map(str, seeds))})"
    full = all(row.done == len(seeds) * len(folds) for row in experiment.rows)
    if len(folds) > 1:
        over += f" on each of {len(folds)} folds" if full else f" on {len(folds)} folds"
    over += "" if full else ", with runs missing (the results table says which)"
    for kind, run, asked in (("seeds", seeds, planned.seeds), ("folds", folds, planned.folds)):
        over += f"; of {len(asked)} {kind} planned, {len(run)} were run" if len(run) < len(asked) else ""
    from_nothing = experiment.settings.get("weights") == "none"
    what = "all initial weights" if from_nothing else "the initial classifier layer"
    same = "the order of the images and the augmentation, the same for every strategy"
    return f"Each strategy was trained with {over}; a seed set {what}, {same}."


def training_text(experiment: Experiment) -> str:
    settings, parts = experiment.settings, []
    if opt := settings.get("opt"):
        decays = {row.hyperparameters.get("weight_decay") for row in ran(experiment)} - {None}
        decay = f" (weight decay {numbers(sorted(decays))} where no SP penalty held)" if decays else ""
        parts.append(f"the optimizer was {OPTIMIZERS.get(opt, opt)}{decay}")
    if epochs := settings.get("epochs"):
        parts.append(f"the learning rate followed a cosine{schedule_text(settings)}")
        patience = settings.get("patience")
        early = f", with an early stop after {patience} epochs without a gain" if is_set(patience) else ""
        parts.append(f"every strategy had {several(epochs, 'epoch')} in all, its stages counted in{early}")
    if batch := settings.get("batch_size"):
        batches = settings.get("grad_accum") or 1
        accumulated = f" with gradients accumulated over {batches} batches" if batches > 1 else ""
        parts.append(f"a batch held {batch} images{accumulated}")
    masked = "binary cross-entropy, unknown labels masked out"
    loss = "cross-entropy" if experiment.task == "multiclass" else masked
    loss += " weighted by class" if is_set(settings.get("class_weights")) else ""
    parts.append(f"the loss was {loss}")
    if is_set(norm := settings.get("clip_grad")):
        parts.append(f"gradients were clipped at a norm of {norm:g}")
    if amp := settings.get("amp"):
        precision = "32-bit precision" if amp == "off" else f"mixed precision ({amp})"
        parts.append(f"training ran in {precision}")
    return as_sentence(parts)


def schedule_text(settings: dict[str, object]) -> str:
    epochs, warmup = settings.get("schedule_epochs"), settings.get("warmup")
    text = f" over the length of {several(epochs, 'epoch')}" if is_set(epochs) else ""
    rise = "after a linear warm-up over the first"
    return text + (f" {rise} {warmup * 100:g} % of the steps" if is_set(warmup) else "")


def as_sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def selection_text(experiment: Experiment) -> str:
    metric, rule = metrics.label(experiment.metric), experiment.threshold_rule
    unit = "video" if experiment.metric == "video_map" else experiment.unit_kind
    text = (
        f"The epoch with the best {metric} on the validation part was kept, and the test part was scored "
        f"once, with that checkpoint. The primary metric was {metric}, the secondary "
        f"{metrics.label(experiment.second)}, computed per {unit}."
    )
    if not experiment.thresholds:
        return text
    if rule == "0.5":
        text += " The threshold for sensitivity and specificity was 0.5."
    else:
        text += f" Thresholds for sensitivity and specificity were chosen on the validation part ({rule})."
    if experiment.task == "multiclass":
        text += " Accuracy, balanced accuracy, F1 and kappa are of the class with the higher score, not of "
        text += "that threshold."
    return text


FOLDS_ADD_UP = (
    "; variances and degrees of freedom of folds without a common group were added up, the latter by Welch's formula"
)


def statistics_text(experiment: Experiment) -> str:
    groups = plural(experiment.group_kind)
    groups += ", byte-identical images as one" if copies(experiment) else ""
    rows, parts = ran(experiment), []
    if any(known(row.test.low) for row in rows):
        standard_error = (
            f"95 % intervals take their standard error from a bootstrap over {groups} ({RESAMPLES:,} "
            "resamples; for means over classes, one that lacked a class was drawn again) of G "
            f"{groups}, times the root of G / (G - 1)"
        )
        quantile = (
            "and their quantile from a t distribution with G - 1 degrees of freedom, on the logit scale "
            "between the metric's bounds"
        )
        folds = FOLDS_ADD_UP if len(experiment.folds) > 1 else ""
        parts.append(f"{standard_error}, {quantile}{folds}")
    if any(known(row.test.sd) for row in rows):
        parts.append("standard deviations are over runs (n - 1)")
    if experiment.pairs:
        parts.append(
            "strategies were compared pairwise on the same seeds, folds and test images by a paired "
            f"bootstrap over {groups}, interval and p-value by the same t distribution on the difference "
            "itself"
        )
        family = several(len(experiment.pairs), "comparison")
        separable = "a difference counted as separable below 0.05"
        parts.append(f"p-values were adjusted by Holm's method over {family}, and {separable}")
    if tests := [name for test, name in TESTS.items() if used(experiment, test)]:
        are = "is" if len(tests) == 1 else "are"
        parts.append(f"{spoken(tests)} {are} given beside it, unadjusted")
    return as_sentence(parts)


def software_text(experiment: Experiment) -> str:
    found = {name: str(version) for name, version in experiment.environment.items() if version}
    versions = [f"{shown} {found[name]}" for name, shown in SOFTWARE.items() if name in found]
    machine = [found[name] for name in ("device_name", "platform") if name in found]
    texts = {"Software": versions, "Hardware and system": machine}
    return " ".join(f"{what}: {', '.join(entries)}." for what, entries in texts.items() if entries)


# ---- limitations ----


def limitations(analysis: Analysis) -> list[str]:
    """What the runs themselves show that a reader must hold against the result."""
    experiments, found = analysis.experiments, []

    def add(names: dict[str, str], text: str) -> None:
        """names: of the experiments that it holds for -> what is to be said of each, or ""."""
        shown = "; ".join(f"{name}: {detail}" if detail else name for name, detail in names.items())
        found.extend([text.format(shown)] if names else [])

    def where(holds: Callable[[Experiment], bool]) -> dict[str, str]:
        return {experiment_name(one): "" for one in experiments if holds(one)}

    found.append(
        "Testing was internal: test images come from the same source as the training images, and nothing "
        "here says how a strategy does elsewhere."
    )
    add(
        where(lambda one: repeats(one) == 1),
        "One run a strategy ({}): the spread of training is unknown, and an interval over the test set does "
        "not contain it.",
    )
    add(
        where(lambda one: repeats(one) > 1),
        "Intervals are over the test set as it is and the models as they were trained; a new training set "
        "would add to them.",
    )
    add(
        where(lambda one: len(one.folds) == 1 and len(one.seeds) > 1),
        "One split of the data ({}): another one may order the strategies otherwise.",
    )
    add(
        where(lambda one: one.group_kind == "image"),
        "Split by image ({}): images of one patient may stand in two splits, which flatters every strategy.",
    )
    add(where(has_leak), "Groups or byte-identical images in two splits ({}).")
    add(
        {experiment_name(one): distinct(one) for one in experiments if 0 < one.test_groups < 100},
        "A small test set ({}): not separable does not mean equal, because so few show large differences "
        "only. In simulations (benchmarks/coverage.py), from six groups on, verdicts by chance stay below "
        "5 % of sweeps and intervals hold the truth in 92 % or more, but near an AUROC of 0.99 in 90 %.",
    )
    lost = {experiment_name(one): spoken(without_all_runs(one)) for one in experiments}
    add({name: names for name, names in lost.items() if names}, "Not every run has a result ({}).")
    add(
        where(lambda one: bool(ran(one)) and not any(row.trials for row in one.rows)),
        "Hyperparameters were not tuned ({}): a strategy may look worse for its default rate than it is.",
    )
    if len(experiments) > 1:
        found.append("Holm's adjustment runs within a dataset and backbone, not over all of them together.")
    return found


def repeats(experiment: Experiment) -> int:
    """Runs of a strategy in a whole sweep."""
    return len(experiment.seeds) * len(experiment.folds)


def has_leak(experiment: Experiment) -> bool:
    return any(split.groups_in_two_splits or split.identical_across_splits for split in experiment.splits)


def without_all_runs(experiment: Experiment) -> list[str]:
    return [row.strategy for row in experiment.rows if lost_runs(row)]


# ---- citations ----


def citations(analysis: Analysis) -> list[str]:
    """The comparison, the strategies used, the data, the statistics used, the software, the checklist."""
    experiments, across = analysis.experiments, analysis.across
    rows = [row for experiment in experiments for row in ran(experiment)]
    any_pair = any(experiment.pairs for experiment in experiments)
    resampled = any_pair or any(known(row.test.low) for row in rows)
    grouped = any(experiment.group_kind != "image" for experiment in experiments)
    tests = {test: any(used(experiment, test) for experiment in experiments) for test in TESTS}
    wanted = {
        "bootstrap": resampled,
        "clusters": resampled and grouped,
        "holm": any_pair or across,
        "mcnemar": tests["mcnemar"],
        "delong": tests["delong"],
        "sun": tests["delong"],
        "nadeau": tests["t"],
        "wilcoxon": tests["wilcoxon"] or (across and across.pairs),
        "demsar": across,
        "pytorch": True,
        "claim": True,
    }
    found = [SOURCES["davila"], *(row.citation for row in rows), *(one.citation for one in experiments)]
    found += [SOURCES[source] for source, yes in wanted.items() if yes]
    return list(dict.fromkeys(filter(None, found)))
