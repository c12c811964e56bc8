"""An Analysis as Markdown, report.md, and as LaTeX, tables/*.tex. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable

import metrics
from report import checklist, methods
from report.experiment import Across, Analysis, Experiment, Pair
from report.wording import (
    BUDGET,
    LEFT_OUT,
    beside,
    budget_row,
    change,
    clean,
    estimate,
    experiment_name,
    file_stems,
    friedman_line,
    measured,
    number,
    p_value,
    plural,
    problems,
    question,
    short,
    shown_name,
    standing,
)

# ---- Markdown ----


def md(text: object) -> str:
    """Text that Markdown leaves alone, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(clean(text).split()))


def md_table(columns: list[str], rows: Iterable[list[object]]) -> str:
    head, *body = (f"| {' | '.join(map(md, line))} |" for line in [columns, *rows])
    return "\n".join([head, f"|{' --- |' * len(columns)}", *body])


def md_list(items: Iterable[object]) -> str:
    return "\n".join(f"* {md(item)}" for item in items)


def markdown(analysis: Analysis) -> str:
    """report.md: what the page says, in short."""
    experiments, warnings = analysis.experiments, md_list(analysis.warnings)
    verdicts = (f"{experiment_name(experiment)}: {experiment.verdict}" for experiment in experiments)
    parts = [f"# {md(question(experiments))}", md_list(verdicts)]
    parts += ["**Warnings**", warnings] if warnings else []
    for experiment in experiments:
        parts += md_experiment(experiment)
    parts += ["## Over datasets and backbones", md(analysis.across_note)]
    parts += md_across(analysis.across) if analysis.across else []
    claims = ([claim.claim, claim.paper, claim.here] for claim in analysis.claims)
    parts += ["## The paper's claims", md_table(["Claim", "The paper", "These runs"], claims)]
    parts += ["## Methods text"]
    for experiment in experiments:
        parts += map(md, methods.paragraph(experiment).split("\n\n"))
    items = ([item.subject, item.who, item.answer or LEFT_OUT] for item in checklist.items(analysis))
    parts += ["## CLAIM checklist", md_table(["Item", "Who", "Answer"], items)]
    parts += ["## Citations", md_list(methods.citations(analysis))]
    parts += ["## Limitations", md_list(methods.limitations(analysis))]
    return "\n\n".join(filter(None, parts)) + "\n"


def md_experiment(experiment: Experiment) -> list[str]:
    metric, second = metrics.label(experiment.metric), metrics.label(experiment.second)
    results = []
    for row in experiment.rows:
        test, validation = estimate(row.test), number(row.val.mean) + beside(row.val)
        mark = standing(experiment, row)
        results.append([shown_name(row), test, mark, row.test.n, estimate(row.second), validation])
    columns = ["Strategy", f"test {metric}", "Beside the best", "Runs", f"test {second}"]
    over = f"Mean over runs [95 % interval over {plural(experiment.group_kind)}]"
    parts = [f"## {md(experiment_name(experiment))}", md_list(problems(experiment))]
    parts += [f"{over} ± standard deviation over runs.", md_table([*columns, f"validation {metric}"], results)]
    budget = ([row.strategy, *budget_row(row)] for row in experiment.rows)
    parts += ["Budget", md_table(["Strategy", *BUDGET], budget)]
    if experiment.pairs:
        columns = ["Pair", "Difference [95 %]", "p", "p, Holm", "Verdict"]
        pairs = ([*pair_texts(pair), pair.verdict] for pair in experiment.pairs)
        parts += [md(f"Pairs, on {measured(experiment)}"), md_table(columns, pairs)]
    return [*parts, md_list(experiment.pair_notes)]


def pair_texts(pair: Pair) -> list[str]:
    """The pair, its difference, p and the adjusted p."""
    return [f"{pair.a} − {pair.b}", change(pair), p_value(pair.p_bootstrap), p_value(pair.p_holm)]


def ranks_rows(across: Across) -> list[list[str]]:
    """A line an experiment, value (rank) of each strategy, and the average ranks."""
    lines = [
        [name, *(f"{number(x)} ({short(rank)})" for x, rank in zip(values, ranks, strict=True))]
        for name, values, ranks in zip(across.experiments, across.table, across.ranks, strict=True)
    ]
    average = (number(across.average_ranks.get(name), 2) for name in across.strategies)
    return [*lines, ["average rank", *average]]


def md_across(across: Across) -> list[str]:
    parts = [md_table(["Dataset, backbone", *across.strategies], ranks_rows(across))]
    parts.append(md(friedman_line(across)))
    if across.beats_ft:
        columns = ["Strategy", "Better than FT", "Separably", "Largest gain", "Where"]
        beats = []
        for beaten in across.beats_ft:
            counts = [f"{n} of {beaten.of}" for n in (beaten.better, beaten.separable)]
            beats.append([beaten.strategy, *counts, number(beaten.largest, sign=True), beaten.largest_at])
        parts.append(md_table(columns, beats))
    return [*parts, md_list(across.notes)]


# ---- LaTeX ----

TEX = {character: f"\\{character}" for character in "{}&%$#_"}
TEX |= {character: f"${character}$" for character in "<>|"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''"}
TEX |= {"−": "$-$", "±": r"$\pm$", "≈": r"$\approx$", "²": "$^2$", "★": r"$\star$"}
TEX |= {"–": "--", "…": r"\ldots{}", "\ufffd": "?"}
MARKS = {"≈ best": r"$^{\approx}$", "one class": r"$^{\dagger}$"}
MADE = re.compile(r"(results|budget|pairs)-[a-z0-9-]+\.tex|(across|claims)\.tex")


def makes(name: str) -> bool:
    """Whether latex() makes a file of that name."""
    return MADE.fullmatch(name) is not None


def tex(text: object) -> str:
    """Text with LaTeX's specials escaped, on one line."""
    return "".join(TEX.get(c, c) for c in " ".join(clean(text).split()))


def latex(analysis: Analysis) -> dict[str, str]:
    """File name -> a booktabs table. They need \\usepackage{booktabs}."""
    files = {}
    stems = file_stems(experiment.key for experiment in analysis.experiments)
    for experiment, stem in zip(analysis.experiments, stems, strict=True):
        files[f"results-{stem}.tex"] = tex_results(experiment, stem)
        files[f"budget-{stem}.tex"] = tex_budget(experiment, stem)
        if experiment.pairs:
            files[f"pairs-{stem}.tex"] = tex_pairs(experiment, stem)
    if analysis.across:
        files["across.tex"] = tex_across(analysis.across)
    if rows := [
        [gain.data, gain.arch, claim.claim, change(gain), gain.verdict]
        for claim in analysis.claims
        for gain in claim.rows
    ]:
        caption = "The two headline claims of Davila, Colan and Hasegawa (2024) in these runs."
        head = ["Dataset", "Backbone", "Claim", "Difference [95\\%]", "Verdict"]
        lines = [list(map(tex, row)) for row in rows]
        files["claims.tex"] = tex_table(caption, "claims", r"llp{0.3\linewidth}rl", head, lines)
    return files


def tex_table(caption: str, label: str, columns: str, head: list[str], rows: list[list[str]], foot: int = 0) -> str:
    """A float with caption and label; all texts are LaTeX already. foot: rows at the end that a line sets
    apart."""
    lines = [rf"{' & '.join(row)} \\" for row in rows]
    if foot:
        lines.insert(len(lines) - foot, r"\midrule")
    before = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[tb]",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rf"{' & '.join(head)} \\",
        r"\midrule",
    ]
    return "\n".join([*before, *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def tex_results(experiment: Experiment, stem: str) -> str:
    rows = []
    for row in experiment.rows:
        mark = standing(experiment, row)
        test, second = "no finished run", "--"
        if row.test.n:
            test, second = tex(estimate(row.test)), tex(estimate(row.second))
        test = rf"\textbf{{{test}}}" if mark == "best" else test + MARKS.get(mark, "")
        rows.append([tex(shown_name(row)), test, second, str(row.test.n)])
    over = f"[95\\,\\% bootstrap interval over {tex(plural(experiment.group_kind))}]"
    caption = f"{tex(where(experiment))} on test, mean over runs {over} $\\pm$ standard deviation over runs. "
    caption += f"Bold: {'highest' if experiment.higher_is_better else 'lowest'} point estimate; "
    caption += r"$\approx$: not separable from it (Holm-adjusted $p \geq 0.05$)."
    if any(row.collapsed for row in experiment.rows):
        caption += r" $\dagger$: calls every test image alike, no candidate for the best."
    head = ["Strategy", tex(metrics.label(experiment.metric)), tex(metrics.label(experiment.second)), "Runs"]
    return tex_table(caption, f"results-{stem}", "lllr", head, rows)


def where(experiment: Experiment) -> str:
    return f"{experiment_name(experiment)}: {measured(experiment)}"


def tex_budget(experiment: Experiment, stem: str) -> str:
    rows = [[tex(row.strategy), *map(tex, budget_row(row))] for row in experiment.rows]
    caption = f"{tex(experiment_name(experiment))}: what each strategy was given and what it took."
    head = ["Strategy", "Epochs", "Steps", "Trials", "Min.\\ a run", "Min.\\ in all", "Memory", "Trainable"]
    return tex_table(caption, f"budget-{stem}", "l" + "r" * 7 + "l", [*head, BUDGET[-1]], rows)


def tex_pairs(experiment: Experiment, stem: str) -> str:
    rows = []
    for pair in experiment.pairs:
        tests = (pair.mcnemar, pair.delong, pair.t, pair.wilcoxon)
        p_values = (p_value(test.p) if test else LEFT_OUT for test in tests)
        rows.append(list(map(tex, [*pair_texts(pair), *p_values, pair.verdict])))
    over = f"95\\,\\% bootstrap intervals over {tex(plural(experiment.group_kind))}"
    caption = f"{tex(where(experiment))} on test, paired differences with {over}. "
    caption += " ".join(["Verdict at a Holm-adjusted 0.05.", *map(tex, experiment.pair_notes)])
    head = ["Pair", "Difference", "$p$", "$p$, Holm", "McNemar", "DeLong", "corr.\\ $t$", "Wilcoxon", "Verdict"]
    return tex_table(caption, f"pairs-{stem}", "llrrrrrrl", head, rows)


def tex_across(across: Across) -> str:
    rows = [list(map(tex, row)) for row in ranks_rows(across)]
    head = ["Dataset, backbone", *map(tex, across.strategies)]
    caption = f"Test metric (rank) by dataset and backbone. {tex(friedman_line(across))}"
    return tex_table(caption, "across", "l" + "r" * len(across.strategies), head, rows, foot=1)
