"""An analysis (analysis.analyse's dict) as Markdown, report.md, and as LaTeX, tables/*.tex. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable

from report import methods
from report.wording import (
    BUDGET,
    LEFT_OUT,
    beside,
    block_name,
    budget_row,
    change,
    clean,
    estimate,
    friedman_line,
    measured,
    metric_name,
    number,
    p_value,
    plural,
    problems,
    question,
    short,
    shown_name,
    standing,
)

# --------------------------------------------------------------------------------------------------- Markdown


def md(text: object) -> str:
    """Text that Markdown leaves alone, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(clean(text).split()))


def md_table(columns: list, rows: list[list]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(x if x == "---" else md(x) for x in line) + " |" for line in lines)


def md_list(items: Iterable[object]) -> str:
    return "\n".join(f"* {md(item)}" for item in items)


def markdown(analysis: dict) -> str:
    """report.md: what the page says, in short."""
    blocks = analysis["blocks"]
    parts = [f"# {md(question(blocks))}"]
    parts += [md_list(f"{block_name(b)}: {b['verdict']}" for b in blocks)]
    parts += ["**Warnings**", md_list(analysis["warnings"])] if analysis["warnings"] else []
    for block in blocks:
        parts += md_block(block)
    parts += ["## Over datasets and backbones", *md_across(analysis), "## The paper's claims"]
    parts += [md_table(["Claim", "The paper", "These runs"],
        [[c["claim"], c["paper"], c["here"]] for c in analysis["claims"]])]  # fmt: skip
    parts += ["## Methods text", *(md(t) for b in blocks for t in methods.paragraph(b).split("\n\n"))]
    items = [[i["item"], i["who"], i["answer"] or LEFT_OUT] for i in methods.checklist(analysis)]
    parts += ["## CLAIM checklist", md_table(["Item", "Who", "Answer"], items)]
    parts += ["## Citations", md_list(methods.citations(analysis)), "## Limitations",
        md_list(methods.limitations(analysis))]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


def md_block(block: dict) -> list[str]:
    metric, second = metric_name(block["metric"]), metric_name(block["second"])
    results = [[shown_name(row), estimate(row["test"]), standing(block, row), row["test"]["n"],
        estimate(row["second"]), number(row["val"]["mean"]) + beside(row["val"])]
        for row in block["rows"]]  # fmt: skip
    budget = [[row["strategy"], *budget_row(row)] for row in block["rows"]]
    pairs = [
        [f"{p['a']} − {p['b']}", change(p), p_value(p["p_bootstrap"]), p_value(p["p_holm"]), p["verdict"]]
        for p in block["pairs"]
    ]
    parts = [f"## {md(block_name(block))}", md_list(problems(block))]
    parts += [
        (f"Mean over runs [95 % interval over {plural(block['group_kind'])}] ± standard deviation over runs.")
    ]
    parts += [md_table(["Strategy", f"test {metric}", "Beside the best", "Runs", f"test {second}",
        f"validation {metric}"], results)]  # fmt: skip
    parts += ["Budget", md_table(["Strategy", *BUDGET], budget)]
    parts += (
        [
            md(f"Pairs, on {measured(block)}"),
            md_table(["Pair", "Difference [95 %]", "p", "p, Holm", "Verdict"], pairs),
        ]
        if pairs
        else []
    )
    return [*parts, md_list(block["pair_notes"])]


def md_across(analysis: dict) -> list[str]:
    across = analysis["across"]
    if not across:
        return [md(analysis["across_note"])]
    rows = [
        [name, *(f"{number(v)} ({short(r)})" for v, r in zip(values, ranks))]
        for name, values, ranks in zip(across["datasets"], across["table"], across["ranks"])
    ]
    rows.append(["average rank", *(number(across["average_ranks"].get(s), 2) for s in across["strategies"])])
    beats = [[b["strategy"], f"{b['better']} of {b['of']}", f"{b['separable']} of {b['of']}",
        number(b["largest"], sign=True), b["largest_at"]] for b in across["beats_ft"]]  # fmt: skip
    parts = [md(analysis["across_note"]), md_table(["Dataset, backbone", *across["strategies"]], rows),
        md(friedman_line(across))]  # fmt: skip
    parts += ([md_table(["Strategy", "Better than FT", "Separably", "Largest gain", "Where"], beats)] if beats
        else [])  # fmt: skip
    return [*parts, md_list(across["notes"])]


# ------------------------------------------------------------------------------------------------------ LaTeX


TEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    '"': "''", "−": "$-$", "±": r"$\pm$", "≈": r"$\approx$", "–": "--", "²": "$^2$", "…": r"\ldots{}",
    "★": r"$\star$", "\ufffd": "?"}  # fmt: skip


def tex(text: object) -> str:
    """Text with LaTeX's specials escaped, on one line."""
    return "".join(TEX.get(c, c) for c in " ".join(clean(text).split()))


def latex(analysis: dict) -> dict[str, str]:
    """File name -> a booktabs table. They need \\usepackage{booktabs}."""
    files, used = {}, set()
    for block in analysis["blocks"]:
        slug = slug_of(block, used)
        where = f"{block_name(block)}: {measured(block)}"
        files[f"results-{slug}.tex"] = tex_results(block, slug, where)
        files[f"budget-{slug}.tex"] = tex_budget(block, slug)
        if block["pairs"]:
            files[f"pairs-{slug}.tex"] = tex_pairs(block, slug, where)
    if analysis["across"]:
        files["across.tex"] = tex_across(analysis["across"])
    if rows := [
        [tex(r["data"]), tex(r["arch"]), tex(c["claim"]), tex(change(r)), tex(r["verdict"])]
        for c in analysis["claims"]
        for r in c["rows"]
    ]:
        caption = "The two headline claims of Davila, Colan and Hasegawa (2024) in these runs."
        files["claims.tex"] = tex_table(caption, "claims", "llp{0.3\\linewidth}rl",
            ["Dataset", "Backbone", "Claim", "Difference [95\\%]", "Verdict"], rows)  # fmt: skip
    return files


def slug_of(block: dict, used: set[str]) -> str:
    """[a-z0-9-] from the block's name, another for every block."""
    slug = base = (
        re.sub(r"[^a-z0-9]+", "-", f"{block['data']}-{block['arch']}".lower()).strip("-")[:60].strip("-")
        or "block"
    )
    n = 1
    while slug in used:
        n += 1
        slug = f"{base}-{n}"
    used.add(slug)
    return slug


def tex_table(
    caption: str,
    label: str,
    columns: str,
    head: list[str],
    rows: list[list[str]],
    rules: tuple[int, ...] = (),
) -> str:
    """A float with caption and label; all texts are LaTeX already. rules: rows before which a line stands."""
    lines = [r"\midrule" + "\n" * (i in rules) + " & ".join(row) + r" \\" if i in rules
        else " & ".join(row) + r" \\" for i, row in enumerate(rows)]  # fmt: skip
    return "\n".join(["% needs \\usepackage{booktabs}", r"\begin{table}[tb]", r"\centering", r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}", rf"\caption{{{caption}}}", rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule", *lines,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])  # fmt: skip


def tex_results(block: dict, slug: str, where: str) -> str:
    rows = []
    for row in block["rows"]:
        mark = standing(block, row)
        shown = tex(estimate(row["test"])) if row["test"]["n"] else "no finished run"
        shown = (rf"\textbf{{{shown}}}" if mark == "best"
            else shown + {"≈ best": r"$^{\approx}$", "one class": r"$^{\dagger}$"}.get(mark, ""))  # fmt: skip
        rows.append([tex(shown_name(row)), shown, tex(estimate(row["second"])) if row["test"]["n"] else "--",
            str(row["test"]["n"])])  # fmt: skip
    groups = plural(block["group_kind"])
    caption = (
        f"{tex(where)} on test, mean over runs [95\\,\\% bootstrap interval over {tex(groups)}] $\\pm$ "
        "standard deviation over runs. "
        rf"Bold: {'highest' if block['higher_is_better'] else 'lowest'} point estimate; $\approx$: not separable from it "
        r"(Holm-adjusted $p \geq 0.05$)."
    )
    if any(row.get("collapsed") for row in block["rows"]):
        caption += r" $\dagger$: calls every test image alike, no candidate for the best."
    head = ["Strategy", tex(metric_name(block["metric"])), tex(metric_name(block["second"])), "Runs"]
    return tex_table(caption, f"results-{slug}", "lllr", head, rows)


def tex_budget(block: dict, slug: str) -> str:
    rows = [[tex(row["strategy"]), *map(tex, budget_row(row))] for row in block["rows"]]
    caption = f"{tex(block_name(block))}: what each strategy was given and what it took."
    head = ["Strategy", "Epochs", "Steps", "Trials", "Min.\\ a run", "Min.\\ in all", "Memory", "Trainable",
        BUDGET[-1]]  # fmt: skip
    return tex_table(caption, f"budget-{slug}", "l" + "r" * 7 + "l", head, rows)


def tex_pairs(block: dict, slug: str, where: str) -> str:
    rows = []
    for p in block["pairs"]:
        tests = [p_value(p[k].p) if p[k] else LEFT_OUT for k in ("mcnemar", "delong", "t", "wilcoxon")]
        rows.append([tex(f"{p['a']} − {p['b']}"), tex(change(p)), tex(p_value(p["p_bootstrap"])),
            tex(p_value(p["p_holm"])), *map(tex, tests), tex(p["verdict"])])  # fmt: skip
    caption = (
        f"{tex(where)} on test, paired differences with 95\\,\\% bootstrap intervals over "
        f"{tex(plural(block['group_kind']))}. "
        "Verdict at a Holm-adjusted 0.05. " + " ".join(tex(n) for n in block["pair_notes"])
    )
    head = ["Pair", "Difference", "$p$", "$p$, Holm", "McNemar", "DeLong", "corr.\\ $t$", "Wilcoxon",
        "Verdict"]  # fmt: skip
    return tex_table(caption, f"pairs-{slug}", "llrrrrrrl", head, rows)


def tex_across(across: dict) -> str:
    rows = [
        [tex(name), *(tex(f"{number(v)} ({short(r)})") for v, r in zip(values, ranks))]
        for name, values, ranks in zip(across["datasets"], across["table"], across["ranks"])
    ]
    rows.append(["average rank", *(number(across["average_ranks"].get(s), 2) for s in across["strategies"])])
    head = ["Dataset, backbone", *map(tex, across["strategies"])]
    caption = "Test metric (rank) by dataset and backbone. " + tex(friedman_line(across))
    return tex_table(
        caption, "across", "l" + "r" * len(across["strategies"]), head, rows, rules=(len(rows) - 1,)
    )
