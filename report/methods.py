"""The methods paragraph, the CLAIM checklist and the citations, filled in from what the runs recorded.

    methods.paragraph(block)      # of report.analyse's dict
    # The dataset demo was used for the classification of images into 4 classes (normal, cyst, lobed, ...)

What is not in the analysis is not claimed. "[author: ...]" stands where only the author can answer. Checklist
items follow the order of CLAIM 2024 in our own words, without its numbers: take those from the published
list. Top to bottom: words, the paragraph sentence by sentence, the checklist, limitations, citations.
Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from report.wording import (
    NO_GROUPS,
    STAGED,
    copies,
    distinct,
    lost_runs,
    measured,
    metric_name,
    plural,
    several,
    spoken,
    tested_images,
)

DEFINITIONS = {
    "FT": "all weights trained",
    "LP": "only the new classifier layer trained, the backbone frozen, BatchNorm statistics included",
    "G-LF": "gradual unfreezing of the blocks from the last to the first, the classifier trained throughout",
    "G-FL": "gradual unfreezing of the blocks from the first to the last, the classifier trained throughout",
    "LP-FT": "the classifier alone for the first part of the epochs, then all weights with a fresh "
    "optimizer and schedule",
    "L1-SP": "all weights trained with an L1 penalty on the backbone's distance from its pretrained weights",
    "L2-SP": "all weights trained with an L2 penalty on the backbone's distance from its pretrained weights",
    "Auto-RGN": "all weights trained, each layer's learning rate in proportion to its relative gradient norm",
}
AUGMENTATION = {
    "none": "No augmentation was used.",
    "light": "Training images were flipped horizontally with probability 0.5, shifted by at most 5 % of "
    "their side, and changed in brightness and contrast by at most 10 %.",
    "strong": "Training images were flipped horizontally with probability 0.5, shifted by at most 10 % of "
    "their side, scaled by at most 15 %, rotated by at most 15 degrees, and changed in brightness and "
    "contrast by at most 20 %.",
}
OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD with momentum 0.9"}

SOURCES = {
    "LP-FT": "Kumar A, Raghunathan A, Jones R, Ma T, Liang P. Fine-tuning can distort pretrained features "
    "and underperform out-of-distribution. ICLR 2022.",
    "SP": "Li X, Grandvalet Y, Davoine F. Explicit inductive bias for transfer learning with convolutional "
    "networks. ICML 2018, PMLR 80.",
    "G-LF": "Howard J, Ruder S. Universal language model fine-tuning for text classification. ACL 2018.",
    "surgical": "Lee Y, Chen AS, Tajwar F, Kumar A, Yao H, Liang P, Finn C. Surgical fine-tuning improves "
    "adaptation to distribution shifts. ICLR 2023.",
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
    "nadeau": "Nadeau C, Bengio Y. Inference for the generalization error. Machine Learning 2003; 52: "
    "239-281.",
    "wilcoxon": "Wilcoxon F. Individual comparisons by ranking methods. Biometrics Bulletin 1945; 1(6): "
    "80-83.",
    "demsar": "Demšar J. Statistical comparisons of classifiers over multiple data sets. Journal of Machine "
    "Learning Research 2006; 7: 1-30.",
    "pytorch": "Paszke A, Gross S, Massa F, et al. PyTorch: an imperative style, high-performance deep "
    "learning library. NeurIPS 2019.",
    "claim": "Tejani AS, Klontzas ME, Gatti AA, et al. Checklist for Artificial Intelligence in Medical "
    "Imaging (CLAIM): 2024 update. Radiology: Artificial Intelligence 2024; 6(4): e240300.",
}


# ------------------------------------------------------------------------------------------------------ words


def span(values: Iterable[int]) -> str:
    """423, or 410 to 430"""
    values = list(values)
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def author(what: str) -> str:
    return f"[author: {what}]"


def is_set(x: object) -> bool:
    return x not in (None, "", 0, False, "none", "off") and not (isinstance(x, float) and math.isnan(x))


def used(block: dict, test: str) -> bool:
    return any(pair[test] for pair in block["pairs"])


def ran(block: dict) -> list[dict]:
    """Rows of strategies with at least one finished run."""
    return [row for row in block["rows"] if row["done"]]


# ---------------------------------------------------------------------------------------------- the paragraph


def paragraph(block: dict) -> str:
    """The methods text of one dataset and backbone, past tense: paragraphs with an empty line between."""
    parts = (
        (data_text, split_text),
        (model_text, preprocessing_text),
        (strategies_text, tuning_text, design_text, training_text),
        (selection_text, statistics_text),
        (software_text,),
    )
    asked = author(
        "the imaging device and protocol, inclusion and exclusion criteria, the reference standard and who "
        "set it, ethics approval and consent"
    )
    texts = [" ".join(filter(None, (part(block) for part in group))) for group in parts]
    texts[0] += " " + asked
    return "\n\n".join(filter(None, texts))


def data_text(block: dict) -> str:
    kind = "classes" if block["task"] == "multiclass" else "labels, several of which may hold at once"
    classes = block["classes"]
    between = "; " if any("," in name for name in classes) else ", "
    names = f" ({between.join(classes)})" if len(classes) <= 15 else ""
    source = (
        f" ({block['citation'].rstrip('.')})" if block["citation"] else " " + author("source of the data")
    )
    text = (
        f"The dataset {block['data']}{source} was used for the classification of images into {len(classes)} "
        f"{kind}{names}."
    )
    if block["positive"]:
        text += f" The positive class was {block['positive']}."
    return text


def split_text(block: dict) -> str:
    splits = block["splits"]
    if not splits:
        return ""
    by_group = block["group_kind"] != "image"
    sizes = []
    for side, words in (("train", "training"), ("val", "validation"), ("test", "test")):
        parts = [s["splits"][side] for s in splits if side in s["splits"]]
        if parts:
            groups = (
                f" of {span(p['groups'] for p in parts)} {plural(block['group_kind'])}" if by_group else ""
            )
            sizes.append(f"{span(p['images'] for p in parts)} images{groups} for {words}")
    how = f"by {block['group_kind']}" if by_group else f"by image, as {NO_GROUPS}"
    folds = len(block["planned"]["folds"])
    many = f"into {folds} folds" if folds > 1 else "once"
    many += f", of which {len(splits)} {'was' if len(splits) == 1 else 'were'} run" * (len(splits) < folds)
    text = f"The data was split {how}, {many}, with {spoken(sizes)}{' in each' if folds > 1 else ''}."
    if block["official_test"]:
        text += " The test images were those of the dataset's own split."
    shared = sum(s["groups_in_two_splits"] for s in splits)
    if by_group:
        checked = f"No {block['group_kind']}" if not shared else several(shared, block["group_kind"])
        text += f" {checked} {'was' if shared < 2 else 'were'} in more than one split, which was checked."
    same = sum(s["identical_across_splits"] for s in splits)
    return text + (f" {several(same, 'set')} of byte-identical images spanned two splits." if same else "")


def design_text(block: dict) -> str:
    seeds, folds = block["seeds"], block["folds"]
    if not seeds:
        return ""
    over = f"{several(len(seeds), 'random seed')} ({', '.join(map(str, seeds))})"
    full = all(row["done"] == len(seeds) * len(folds) for row in block["rows"])
    if len(folds) > 1:
        over += f" on each of {len(folds)} folds" if full else f" on {len(folds)} folds"
    over += ", with runs missing (the results table says which)" * (not full)
    over += "".join(f"; of {len(asked)} {key} planned, {len(block[key])} were run" for key, asked in
        (("seeds", block["planned"]["seeds"]), ("folds", block["planned"]["folds"])) if len(block[key]) < len(asked)
        )  # fmt: skip
    what = (
        "all initial weights"
        if block["settings"].get("weights") == "none"
        else "the initial classifier layer"
    )
    return (
        f"Each strategy was trained with {over}; a seed set {what}, the order of the images and the augmentation, "
        "the same for every strategy."
    )


def model_text(block: dict) -> str:
    weights = block["settings"].get("weights")
    file = re.split(r"[\\/]", str(weights))[-1]  # a path tells of the author's disk, not of the weights
    start = {
        "imagenet": "torchvision's ImageNet weights (IMAGENET1K_V1)",
        "none": "random weights, without pretraining",
        None: author("the pretrained weights"),
    }.get(weights, f"pretrained weights ({file})")
    return (
        f"The backbone was {block['arch']} from torchvision, initialised with {start}; its classifier layer "
        f"was replaced by a new one with {len(block['classes'])} outputs."
    )


def preprocessing_text(block: dict) -> str:
    s = block["settings"]
    size, resize = s.get("img_size"), s.get("resize")
    parts = []
    if size:
        cut = (
            f"so that their shorter side was {resize} pixels, and the central {size} x {size} pixels were "
            "cut out"
        )
        parts.append(f"Images were resized {cut if is_set(resize) else f'to {size} x {size} pixels'}.")
    if is_set(s.get("bit_depth")):
        parts.append(f"16-bit images were read at a depth of {s['bit_depth']} bits.")
    if mean := block.get("mean"):
        shown = [" / ".join(f"{x:.4g}" for x in values) for values in (mean, block["std"])]
        parts.append(
            f"Channels, scaled to 0..1, were normalised by mean {shown[0]} and standard deviation {shown[1]}."
        )
    parts.append(AUGMENTATION.get(s.get("augment"), ""))
    return " ".join(filter(None, parts))


def strategies_text(block: dict) -> str:
    described = []
    for row in ran(block):
        name, lr, alpha = row["strategy"], numbers(row["lr"]), numbers(row["alpha"])
        rates = f"learning rate {lr}" if lr else ""
        lp_lr = row["hyperparameters"].get("lp_lr")
        rates += (
            f", {lp_lr:g} in its first part" if name == "LP-FT" and rates and isinstance(lp_lr, float) else ""
        )
        beta = row["hyperparameters"].get("beta")
        penalty = f"alpha {alpha}" + (f", beta {beta:g}" if is_set(beta) else "") if alpha else ""
        parts = (DEFINITIONS.get(name), stages_text(row), rates, penalty, early_text(row))
        described.append(f"{name} ({'; '.join(filter(None, parts))})")
    if not described:
        return "No run has finished."
    count = several(len(described), "strategy")
    return f"{count} {'was' if len(described) == 1 else 'were'} compared: {'; '.join(described)}."


def stages_text(row: dict) -> str:
    """The stages as they ran, for a strategy in stages: where epochs are few they merge, down to one, which is FT."""
    stages = row.get("stages") or {}
    if row["strategy"] not in STAGED or not stages:
        return ""
    if len(stages) == 1:
        return "here in its last stage alone, all weights trained from the first epoch"
    return "stages: " + ", ".join(f"{stage} from epoch {first}" for stage, first in stages.items())


def early_text(row: dict) -> str:
    early = [
        f"{n} of {several(row['done'], 'run')} in stage {stage}" for stage, n in row.get("early", {}).items()
    ]
    return f"scored by a checkpoint from before the last stage: {spoken(early)}" if early else ""


def numbers(values: list[float]) -> str:
    return spoken(f"{v:g}" for v in values)


def tuning_text(block: dict) -> str:
    trials = sorted({row["trials"] for row in ran(block)} - {0})
    if not trials:
        return "These hyperparameters were not tuned within the comparison." if ran(block) else ""
    dimensions = "the learning rate" + (
        ", and alpha where there is one," if any(row["alpha"] for row in ran(block)) else ""
    )
    many = several(trials[0], "trial") if len(trials) == 1 else f"{span(trials)} trials"
    whose = (
        "every strategy"
        if all(row["trials"] for row in ran(block))
        else spoken(row["strategy"] for row in ran(block) if row["trials"])
    )
    text = (
        f"For {whose} {dimensions} was tuned with {many} in each fold, the default first and then others of "
        "the strategy's grid, on a further split inside the training part of each fold, by "
        f"{metric_name(block['metric'])}; the validation and test parts took no part in it."
    )
    edges = [row["strategy"] for row in ran(block) if row["edge"]]
    return text + (f" The chosen value lay at an end of those tried for {spoken(edges)}." if edges else "")


def training_text(block: dict) -> str:
    s = block["settings"]
    parts = []
    if s.get("opt"):
        decays = {row["hyperparameters"].get("weight_decay") for row in ran(block)} - {None}
        decay = f" (weight decay {numbers(sorted(decays))} where no SP penalty held)" if decays else ""
        parts.append(f"the optimizer was {OPTIMIZERS.get(s['opt'], s['opt'])}{decay}")
    warmup = s.get("warmup")
    rise = f" after a linear warm-up over the first {warmup * 100:g} % of the steps" if is_set(warmup) else ""
    length = f" over the length of {s['schedule_epochs']} epochs" if is_set(s.get("schedule_epochs")) else ""
    if s.get("epochs"):
        parts.append(f"the learning rate followed a cosine{length}{rise}")
        early = (f", with an early stop after {s['patience']} epochs without a gain"
            if is_set(s.get("patience")) else "")  # fmt: skip
        parts.append(f"every strategy had {s['epochs']} epochs in all, its stages counted in{early}")
    if s.get("batch_size"):
        accumulated = (f" with gradients accumulated over {s['grad_accum']} batches"
            if (s.get("grad_accum") or 1) > 1 else "")  # fmt: skip
        parts.append(f"a batch held {s['batch_size']} images{accumulated}")
    weighted = " weighted by class" if is_set(s.get("class_weights")) else ""
    loss = ("cross-entropy" if block["task"] == "multiclass"
        else "binary cross-entropy, unknown labels masked out")  # fmt: skip
    parts.append(f"the loss was {loss}{weighted}")
    if is_set(s.get("clip_grad")):
        parts.append(f"gradients were clipped at a norm of {s['clip_grad']:g}")
    if s.get("amp"):
        parts.append(
            "training ran in "
            + ("32-bit precision" if s["amp"] == "off" else f"mixed precision ({s['amp']})")
        )
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def selection_text(block: dict) -> str:
    text = (
        f"The epoch with the best {metric_name(block['metric'])} on the validation part was kept, and the "
        "test part was scored once, with that checkpoint. The primary metric was "
        f"{metric_name(block['metric'])}, the secondary {metric_name(block['second'])}"
    )
    text += (
        ", computed per video." if block["metric"] == "video_map" else f", computed per {block['unit_kind']}."
    )
    if block["thresholds"] and block["threshold_rule"] == "0.5":
        text += " The threshold for sensitivity and specificity was 0.5."
    elif block["thresholds"]:
        text += (
            " Thresholds for sensitivity and specificity were chosen on the validation part "
            f"({block['threshold_rule']})."
        )
    if block["thresholds"] and block["task"] == "multiclass":
        text += " Accuracy, balanced accuracy, F1 and kappa are of the class with the higher score, not of that threshold."
    return text


FOLDS_ADD_UP = "; variances and degrees of freedom of folds without a common group were added up, the latter by Welch's formula"


def statistics_text(block: dict) -> str:
    groups = plural(block["group_kind"]) + (", byte-identical images as one" if copies(block) else "")
    parts = []
    if any(math.isfinite(row["test"]["low"]) for row in ran(block)):
        parts.append(
            f"95 % intervals take their standard error from a bootstrap over {groups} (2,000 resamples; for means over "
            f"classes, one that lacked a class was drawn again) of G {groups}, times the root of G / (G - 1), and their "
            "quantile from a t distribution with G - 1 degrees of freedom, on the logit scale between the metric's bounds"
            + (FOLDS_ADD_UP if len(block["folds"]) > 1 else "")
        )
    if any(math.isfinite(row["test"]["sd"]) for row in ran(block)):
        parts.append("standard deviations are over runs (n - 1)")
    if block["pairs"]:
        parts.append(
            "strategies were compared pairwise on the same seeds, folds and test images by a paired "
            f"bootstrap over {groups}, interval and p-value by the same t distribution on the difference itself"
        )
        family = several(len(block["pairs"]), "comparison")
        parts.append(
            f"p-values were adjusted by Holm's method over {family}, and a difference counted as separable "
            "below 0.05"
        )
    tests = {"mcnemar": "McNemar's test on what each strategy called right",
        "delong": "DeLong's test for AUROC", "t": "the corrected resampled t-test over folds (the seeds of a fold averaged)",
        "wilcoxon": "Wilcoxon's signed-rank test"}  # fmt: skip
    beside = [name for key, name in tests.items() if used(block, key)]
    if beside:
        parts.append(f"{spoken(beside)} {'is' if len(beside) == 1 else 'are'} given beside it, unadjusted")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


def software_text(block: dict) -> str:
    e = block["environment"]
    names = (("ftcompare", "ftcompare"), ("python", "Python"), ("torch", "PyTorch"),
        ("torchvision", "torchvision"), ("numpy", "NumPy"))  # fmt: skip
    versions = [f"{name} {e[key]}" for key, name in names if e.get(key)]
    text = f"Software: {', '.join(versions)}." if versions else ""
    machine = [str(e[key]) for key in ("device_name", "platform") if e.get(key)]
    return " ".join(filter(None, [text, f"Hardware and system: {', '.join(machine)}." if machine else ""]))


# ---------------------------------------------------------------------------------------------- the checklist


def checklist(analysis: dict) -> list[dict]:
    """Items in the order of CLAIM 2024: {"item", "answer" (None where there is not even a hint), "who":
    "answered" or "author"}."""
    blocks = analysis["blocks"]
    return [entry(subject, of(analysis) if callable(of) else each(blocks, of[0])) if not isinstance(of, str)
        else {"item": subject, "answer": author(of), "who": "author"} for subject, of in items()]  # fmt: skip


def entry(subject: str, answer: str) -> dict:
    if not answer:
        return {"item": subject, "answer": None, "who": "author"}
    return {"item": subject, "answer": answer, "who": "answered"}


def each(blocks: list[dict], part) -> str:
    """part(block) of every block, said once where it is the same."""
    said: dict[str, list[str]] = {}
    for block in blocks:
        if text := part(block):
            said.setdefault(text, []).append(f"{block['data']}, {block['arch']}")
    return " ".join(text if len(said) == 1 else f"{'; '.join(names)}: {text}" for text, names in said.items())


def items() -> list[tuple]:
    """(subject, str for the author, or (function of a block,), or function of the analysis)."""
    return [("Title: AI methodology and technology named", "name deep learning and fine-tuning in the title"),
        ("Abstract: structured summary", "design, data, partitions, results with intervals, conclusions"), (
        "Introduction: background and intended clinical role",
        "why this task, and where a model would be used"), ("Introduction: aims and hypotheses",
        "state them; the comparison here is of fine-tuning strategies on a fixed protocol"),
        ("Study design: prospective or retrospective", "which it was"),
        ("Study design: goal", "model comparison, feasibility, ..."), ("Data: sources", (data_source,)),
        ("Data: inclusion and exclusion criteria", "how patients and images were selected"),
        ("Data: preprocessing", (preprocessing_text,)), ("Data: selection of subsets", (subset_text,)),
        ("Data: de-identification", "how, and by whom"), ("Data: missing data", (missing_text,)),
        ("Data: image acquisition protocol", "scanner, sequence or view, resolution"),
        ("Reference standard: definition", "what makes a label true"),
        ("Reference standard: rationale", "why this one"),
        ("Reference standard: source and qualification of annotators", "who annotated"),
        ("Reference standard: annotation of the test set", "procedure and software"), (
        "Reference standard: inter- and intrarater variability",
        "measured how; how disagreements were settled"),
        ("Data partitions: how data was assigned", (split_text,)),
        ("Data partitions: level at which they are disjoint", (disjoint_text,)),
        ("Testing data: intended sample size", "how it was set; the intervals show what it can resolve"),
        ("Model: architecture", (model_text,)), ("Model: software libraries, versions", (software_text,)),
        ("Model: initialization of parameters", (model_text,)),
        ("Training: approach and hyperparameters", (all_training_text,)),
        ("Training: how the final model was selected", (selection_text,)), ("Training: ensembling",
        lambda _: ("No ensemble: every result is of single models; only their numbers are averaged over runs."
        )), ("Evaluation: metrics", (metrics_text,)),
        ("Evaluation: statistical measures and uncertainty", (statistics_text,)),
        ("Evaluation: robustness or sensitivity analysis", (robustness_text,)),
        ("Evaluation: explainability", (gradcam_text,)),
        ("Evaluation: internal testing", (internal_text,)),
        ("Evaluation: external testing", "none was done here; add it, or say why not"),
        ("Clinical trial registration", "number, where it applies"),
        ("Results, data: patients and examinations included and excluded", (included_text,)),
        ("Results, data: demographic and clinical characteristics per partition", "a table by partition"),
        ("Results: performance on all partitions", (performance_text,)),
        ("Results: performance with uncertainty", (uncertainty_text,)),
        ("Results: failure analysis", (failure_text,)),
        ("Discussion: limitations", lambda analysis: " ".join(limitations(analysis))),
        ("Discussion: implications for practice", "intended use and what would have to follow"),
        ("Other information: full protocol", (commands_text,)),
        ("Other information: availability of software, models and data", (code_text,)),
        ("Other information: funding", "sources and the role of funders")]  # fmt: skip


def data_source(block: dict) -> str:
    return f"{block['data']}: {block['citation']}" if block["citation"] else ""


def subset_text(block: dict) -> str:
    return "; ".join(block["data_notes"])


def missing_text(block: dict) -> str:
    if block["task"] == "multilabel":
        return "Unknown labels were masked out of the loss and of the metrics."
    return ""


def disjoint_text(block: dict) -> str:
    if not block["splits"]:
        return ""
    if block["group_kind"] == "image":
        return f"Image: {NO_GROUPS}, so images of one patient may stand in two partitions."
    shared = sum(s["groups_in_two_splits"] for s in block["splits"])
    kind = block["group_kind"]
    return f"{kind[0].upper()}{kind[1:]}; {plural(kind)} in two splits: {shared}."


def all_training_text(block: dict) -> str:
    return " ".join(filter(None, (strategies_text(block), tuning_text(block), training_text(block))))


def metrics_text(block: dict) -> str:
    names = dict.fromkeys(name for row in ran(block) for name in row["metrics"])
    others = [metric_name(n) for n in names if n not in (block["metric"], block["second"])]
    text = f"Primary: {measured(block)}; secondary: {metric_name(block['second'])}"
    return text + (f"; also {spoken(others)}" if others else "") + f". Unit: {block['unit_kind']}."


def robustness_text(block: dict) -> str:
    repeats = [several(len(block[key]), key[:-1]) for key in ("seeds", "folds") if len(block[key]) > 1]
    return f"Training was repeated over {spoken(repeats)}; the spread is reported." if repeats else ""


def gradcam_text(block: dict) -> str:
    if not block.get("gradcam"):
        return ""
    return "Grad-CAM (Selvaraju et al., ICCV 2017) of the same test images for every strategy is among the figures."


def internal_text(block: dict) -> str:
    if not block["test_images"]:
        return ""
    over = f" over {len(block['folds'])} folds" if len(block["folds"]) > 1 else ""
    return f"On {tested_images(block)}{over}, scored once after selection."


def included_text(block: dict) -> str:
    if not block["splits"]:
        return ""
    sides = ", ".join(
        f"{side} {span(s['splits'][side]['images'] for s in block['splits'])} images"
        for side in block["splits"][0]["splits"]
    )
    return f"{sides}. {author('the flow before that, with exclusions')}"


def performance_text(block: dict) -> str:
    return (
        "The results table gives validation and test, per class besides; training performance only as loss."
        if ran(block) else "")  # fmt: skip


def uncertainty_text(block: dict) -> str:
    kind = plural(block["group_kind"])
    return (
        f"Every test result has its 95 % interval over {kind}; every pair its paired difference and interval."
        if ran(block) else "")  # fmt: skip


def failure_text(block: dict) -> str:
    parts = ["confusion matrices"] if block["confusion"] else []
    parts += [f"the {len(block['hardest'])} hardest test images"] if block["hardest"] else []
    kinds = ("failed", "unfinished", "missing")
    lost = lost_runs({kind: sum(row[kind] for row in block["rows"]) for kind in kinds})
    text = f"The report shows {spoken(parts)}. {author('their meaning in the clinic')}" if parts else ""
    return " ".join(filter(None, [text, f"Runs without a result: {spoken(lost)}." if lost else ""]))


def commands_text(block: dict) -> str:
    return "Command: " + " | ".join(block["commands"]) if block["commands"] else ""


def code_text(block: dict) -> str:
    version = block["environment"].get("ftcompare")
    git = block["environment"].get("git")
    said = (f"ftcompare {version}" + (f" (commit {git})" if git not in (None, "", "None") else "") if version
        else "")  # fmt: skip
    return f"Software: {said}. {author('where models and data can be had')}" if said else ""


# ------------------------------------------------------------------------------------------------ limitations


def limitations(analysis: dict) -> list[str]:
    """What the runs themselves show that a reader must hold against the result."""
    blocks = analysis["blocks"]

    def where(holds) -> str:
        return "; ".join(name(b) for b in blocks if holds(b))

    internal = (
        "Testing was internal: test images come from the same source as the training images, and nothing "
        "here says how a strategy does elsewhere."
    )
    found = [internal]
    if at := where(lambda b: len(b["seeds"]) * len(b["folds"]) == 1):
        found.append(
            f"One run a strategy ({at}): the spread of training is unknown, and an interval over the test "
            "set does not contain it."
        )
    if where(lambda b: len(b["seeds"]) * len(b["folds"]) > 1):
        found.append(
            "Intervals are over the test set as it is and the models as they were trained; a new training "
            "set would add to them."
        )
    if at := where(lambda b: len(b["folds"]) == 1 and len(b["seeds"]) > 1):
        found.append(f"One split of the data ({at}): another one may order the strategies otherwise.")
    if at := where(lambda b: b["group_kind"] == "image"):
        found.append(
            f"Split by image ({at}): images of one patient may stand in two splits, which flatters every "
            "strategy."
        )
    if at := where(
        lambda b: any(s["groups_in_two_splits"] or s["identical_across_splits"] for s in b["splits"])
    ):
        found.append(f"Groups or byte-identical images in two splits ({at}).")
    small = [f"{name(b)}: {distinct(b)}" for b in blocks if 0 < b["test_groups"] < 100]
    if small:
        found.append(
            f"A small test set ({'; '.join(small)}): not separable does not mean equal, for so few show large "
            "differences only. In simulations (benchmarks/coverage.py), from six groups on verdicts by chance stay below 5 % of "
            "sweeps and intervals hold the truth in 92 % or more, but near an AUROC of 0.99 in 90 %."
        )
    if lost := [f"{name(b)}: {spoken(without_all_runs(b))}" for b in blocks if without_all_runs(b)]:
        found.append(f"Not every run has a result ({'; '.join(lost)}).")
    if at := where(lambda b: ran(b) and not any(row["trials"] for row in b["rows"])):
        found.append(
            f"Hyperparameters were not tuned ({at}): a strategy may look worse for its default rate than it "
            "is."
        )
    if len(blocks) > 1:
        found.append("Holm's adjustment runs within a dataset and backbone, not over all of them together.")
    return found


def without_all_runs(block: dict) -> list[str]:
    return [row["strategy"] for row in block["rows"] if row["failed"] + row["unfinished"] + row["missing"]]


def name(block: dict) -> str:
    return f"{block['data']}, {block['arch']}"


# -------------------------------------------------------------------------------------------------- citations


def citations(analysis: dict) -> list[str]:
    """The comparison, the strategies used, the data, the statistics used, the software, the checklist."""
    blocks, across = analysis["blocks"], analysis["across"]
    names = {row["strategy"] for b in blocks for row in ran(b)}
    wanted = [("davila", True), ("LP-FT", "LP-FT" in names), ("SP", bool(names & {"L1-SP", "L2-SP"})),
        ("G-LF", bool(names & {"G-LF", "G-FL"})), ("surgical", bool(names & {"G-FL", "Auto-RGN"}))
        ]  # fmt: skip
    found = [SOURCES[key] for key, yes in wanted if yes]
    found += dict.fromkeys(b["citation"] for b in blocks if b["citation"])
    any_pair = any(b["pairs"] for b in blocks)
    boot = any(math.isfinite(row["test"]["low"]) for b in blocks for row in ran(b)) or any_pair
    tests = {key: any(used(b, key) for b in blocks) for key in ("mcnemar", "delong", "t", "wilcoxon")}
    statistics = [("bootstrap", boot), ("clusters", boot and any(b["group_kind"] != "image" for b in blocks)),
        ("holm", any_pair or bool(across)), ("mcnemar", tests["mcnemar"]), ("delong", tests["delong"]),
        ("sun", tests["delong"]), ("nadeau", tests["t"]),
        ("wilcoxon", tests["wilcoxon"] or bool(across and across["pairs"])), ("demsar", bool(across)),
        ("pytorch", True), ("claim", True)]  # fmt: skip
    return found + [SOURCES[key] for key, yes in statistics if yes]
