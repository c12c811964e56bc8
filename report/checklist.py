"""The CLAIM checklist, filled in from what the runs recorded.

    [item.subject for item in checklist.items(analysis) if item.who == "author"]

The items follow the order of CLAIM 2024 in our own words, without its numbers: take those from the published
list. An answer is a function of the analysis, or a hint for the author where no run can know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import metrics
from report import methods
from report.experiment import Analysis, Experiment
from report.methods import author, ran, span
from report.wording import (
    NO_GROUPS,
    experiment_name,
    known,
    lost_runs,
    measured,
    plural,
    several,
    spoken,
    tested_images,
)


@dataclass(frozen=True)
class Item:
    subject: str
    answer: str  # "" where there is not even a hint
    who: str  # "answered", "author"


def items(analysis: Analysis) -> list[Item]:
    found = []
    for subject, source in ITEMS.items():
        answer = author(source) if isinstance(source, str) else source(analysis)
        answered = bool(answer) and not isinstance(source, str)
        found.append(Item(subject, answer, who="answered" if answered else "author"))
    return found


def each(part: Callable[[Experiment], str]) -> Callable[[Analysis], str]:
    """The answer part(experiment) of every experiment, said once where it is the same."""

    def answer(analysis: Analysis) -> str:
        said: dict[str, list[str]] = {}
        for experiment in analysis.experiments:
            if text := part(experiment):
                said.setdefault(text, []).append(experiment_name(experiment))
        if len(said) == 1:
            return next(iter(said))
        return " ".join(f"{'; '.join(names)}: {text}" for text, names in said.items())

    return answer


# ---- answers ----


def data_source(experiment: Experiment) -> str:
    return f"{experiment.data}: {experiment.citation}" if experiment.citation else ""


def subset(experiment: Experiment) -> str:
    return "; ".join(experiment.data_notes)


def missing(experiment: Experiment) -> str:
    masked = "Unknown labels were masked out of the loss and of the metrics."
    return masked if experiment.task == "multilabel" else ""


def disjoint(experiment: Experiment) -> str:
    kind = experiment.group_kind
    if not experiment.splits:
        return ""
    if kind == "image":
        return f"Image: {NO_GROUPS}, so images of one patient may stand in two partitions."
    shared = sum(split.groups_in_two_splits for split in experiment.splits)
    return f"{kind[0].upper()}{kind[1:]}; {plural(kind)} in two splits: {shared}."


def training(experiment: Experiment) -> str:
    parts = (methods.strategies_text, methods.tuning_text, methods.training_text)
    return " ".join(filter(None, (part(experiment) for part in parts)))


def ensembling(experiment: Experiment) -> str:
    return "No ensemble: every result is of single models; only their numbers are averaged over runs."


def metrics_used(experiment: Experiment) -> str:
    names = dict.fromkeys(name for row in ran(experiment) for name in row.metrics)
    others = [metrics.label(name) for name in names if name not in (experiment.metric, experiment.second)]
    text = f"Primary: {measured(experiment)}; secondary: {metrics.label(experiment.second)}"
    return text + (f"; also {spoken(others)}" if others else "") + f". Unit: {experiment.unit_kind}."


def robustness(experiment: Experiment) -> str:
    counts = {"seed": len(experiment.seeds), "fold": len(experiment.folds)}
    repeats = [several(n, kind) for kind, n in counts.items() if n > 1]
    return f"Training was repeated over {spoken(repeats)}; the spread is reported." if repeats else ""


def explainability(experiment: Experiment) -> str:
    among = "of the same test images for every strategy is among the figures"
    return f"Grad-CAM (Selvaraju et al., ICCV 2017) {among}." if experiment.gradcam else ""


def internal_testing(experiment: Experiment) -> str:
    if not experiment.test_images:
        return ""
    over = f" over {len(experiment.folds)} folds" if len(experiment.folds) > 1 else ""
    return f"On {tested_images(experiment)}{over}, scored once after selection."


def included(experiment: Experiment) -> str:
    if not experiment.splits:
        return ""
    counts = {
        side: span(split.splits[side].images for split in experiment.splits) for side in experiment.splits[0].splits
    }
    sides = ", ".join(f"{side} {n} images" for side, n in counts.items())
    return f"{sides}. {author('the flow before that, with exclusions')}"


def performance(experiment: Experiment) -> str:
    tables = "The results table gives validation and test, per class besides; training performance only as loss."
    return tables if ran(experiment) else ""


def uncertainty(experiment: Experiment) -> str:
    rows = ran(experiment)
    named = [name for name in dict.fromkeys(name for row in rows for name in row.metrics)]
    with_interval = [name for name in named if all(known(row.metrics[name].low) for row in rows if name in row.metrics)]
    if not with_interval:
        return "No interval can be given: the notes say why." if rows else ""
    over = f"95 % intervals over {plural(experiment.group_kind)}"
    said = f"On test {spoken(map(metrics.label, with_interval))} have {over}"
    return f"{said}; every pair has its paired difference and interval. Values per class have none."


def failures(experiment: Experiment) -> str:
    parts = ["confusion matrices"] if experiment.confusion else []
    parts += [f"the {len(experiment.hardest)} hardest test images"] if experiment.hardest else []
    texts = [f"The report shows {spoken(parts)}. {author('their meaning in the clinic')}"] if parts else []
    lost = lost_runs(*experiment.rows)
    return " ".join(texts + ([f"Runs without a result: {spoken(lost)}."] if lost else []))


def commands(experiment: Experiment) -> str:
    return "Command: " + " | ".join(experiment.commands) if experiment.commands else ""


def availability(experiment: Experiment) -> str:
    version, git = (experiment.environment.get(name) for name in ("ftcompare", "git"))
    if not version:
        return ""
    commit = f" (commit {git})" if git not in (None, "", "None") else ""
    return f"Software: ftcompare {version}{commit}. {author('where models and data can be had')}"


def limitations(analysis: Analysis) -> str:
    return " ".join(methods.limitations(analysis))


# ---- the list ----

ITEMS: dict[str, str | Callable[[Analysis], str]] = {
    "Title: AI methodology and technology named": "name deep learning and fine-tuning in the title",
    "Abstract: structured summary": "design, data, partitions, results with intervals, conclusions",
    "Introduction: background and intended clinical role": "why this task, and where a model would be used",
    "Introduction: aims and hypotheses": "state them; the comparison here is of fine-tuning strategies on a "
    "fixed protocol",
    "Study design: prospective or retrospective": "which it was",
    "Study design: goal": "model comparison, feasibility, ...",
    "Data: sources": each(data_source),
    "Data: inclusion and exclusion criteria": "how patients and images were selected",
    "Data: preprocessing": each(methods.preprocessing_text),
    "Data: selection of subsets": each(subset),
    "Data: de-identification": "how, and by whom",
    "Data: missing data": each(missing),
    "Data: image acquisition protocol": "scanner, sequence or view, resolution",
    "Reference standard: definition": "what makes a label true",
    "Reference standard: rationale": "why this one",
    "Reference standard: source and qualification of annotators": "who annotated",
    "Reference standard: annotation of the test set": "procedure and software",
    "Reference standard: inter- and intrarater variability": "measured how; how disagreements were settled",
    "Data partitions: how data was assigned": each(methods.split_text),
    "Data partitions: level at which they are disjoint": each(disjoint),
    "Testing data: intended sample size": "how it was set; the intervals show what it can resolve",
    "Model: architecture": each(methods.model_text),
    "Model: software libraries, versions": each(methods.software_text),
    "Model: initialization of parameters": each(methods.model_text),
    "Training: approach and hyperparameters": each(training),
    "Training: how the final model was selected": each(methods.selection_text),
    "Training: ensembling": each(ensembling),
    "Evaluation: metrics": each(metrics_used),
    "Evaluation: statistical measures and uncertainty": each(methods.statistics_text),
    "Evaluation: robustness or sensitivity analysis": each(robustness),
    "Evaluation: explainability": each(explainability),
    "Evaluation: internal testing": each(internal_testing),
    "Evaluation: external testing": "none was done here; add it, or say why not",
    "Clinical trial registration": "number, where it applies",
    "Results, data: patients and examinations included and excluded": each(included),
    "Results, data: demographic and clinical characteristics per partition": "a table by partition",
    "Results: performance on all partitions": each(performance),
    "Results: performance with uncertainty": each(uncertainty),
    "Results: failure analysis": each(failures),
    "Discussion: limitations": limitations,
    "Discussion: implications for practice": "intended use and what would have to follow",
    "Other information: full protocol": each(commands),
    "Other information: availability of software, models and data": each(availability),
    "Other information: funding": "sources and the role of funders",
}
