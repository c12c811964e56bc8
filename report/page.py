"""The page: an Analysis as one HTML file.

    Path("report.html").write_text(page.html(analysis, figures.draw(analysis, folder)), encoding="utf-8")

No network, no script, pictures inside. Top to bottom: the first screen, what runs over the experiments, what
goes into a manuscript. The sections of an experiment are in sections.py, how it looks is in page.css."""

from __future__ import annotations

import re
from pathlib import Path

import metrics
from report import checklist, methods
from report.experiment import Across, Analysis, Experiment, Row
from report.figures import Picture
from report.markup import Cell, Html, escape, fold, join, listing, named, note, share, table, tag, td, words
from report.sections import (
    aside,
    experiment_section,
    figure,
    legend,
    notes_list,
    notice,
    result_cell,
    result_tints,
    results_table,
    unprinted,
    verdict_words,
)
from report.wording import (
    LEFT_OUT,
    change,
    clean,
    counted,
    early_runs,
    experiment_name,
    friedman_line,
    known,
    number,
    p_value,
    problems,
    question,
    several,
    short,
    standing,
    tested_images,
    whole,
)

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
Pictures = dict[tuple[str, str], list[Picture]]


def html(analysis: Analysis, pictures: Pictures) -> str:
    """The whole page. pictures: by (data, arch); ("", "") for those over all experiments."""
    experiments, many = analysis.experiments, len(analysis.experiments) > 1
    ids = [f"experiment-{i + 1}" for i in range(len(experiments))]
    sections = [
        experiment_section(experiment, id_, pictures.get(experiment.key, []), many)
        for experiment, id_ in zip(experiments, ids, strict=True)
    ]
    main = [
        summary(analysis, ids, bool(pictures)),
        *sections,
        across_section(analysis, pictures.get(("", ""), [])),
        claims_section(analysis),
        *writing_sections(analysis),
    ]
    made_from = f"Made by ftcompare from the run folders in {clean(analysis.folder)}: nothing was trained or "
    footer = tag("footer", note(f"{made_from}scored for this page."))
    header = tag("header", headline(analysis), contents(analysis, ids))
    body = join([header, tag("main", *main), footer])
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", question(experiments)),
        tag("style", Html(f"\n{CSS}")),
    ]
    top = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{join(head, chr(10))}\n</head>\n'
    return f"{top}<body>\n{body}\n</body>\n</html>\n"


# ---- the first screen ----


def headline(analysis: Analysis) -> Html:
    experiments = analysis.experiments
    runs = sum(row.done for experiment in experiments for row in experiment.rows)
    what = several(len(experiments), "dataset and backbone")
    if len(experiments) == 1:
        (experiment,) = experiments
        seeds = counted(len(experiment.seeds), len(experiment.planned.seeds), "seed")
        folds = counted(len(experiment.folds), len(experiment.planned.folds), "fold")
        what = f"{experiment_name(experiment)}: {tested_images(experiment)}, {seeds}, {folds}"
    line = f"{what}, {several(runs, 'finished run')} in {analysis.folder}"
    return join([tag("h1", question(experiments)), tag("p", line, class_="under")])


def contents(analysis: Analysis, ids: list[str]) -> Html:
    names = map(experiment_name, analysis.experiments)
    links = {"summary": "Answer"} | dict(zip(ids, names, strict=True))
    links |= {"across": "Over datasets", "claims": "The paper's claims", "methods": "Methods text"}
    links |= {"checklist": "CLAIM checklist", "citations": "Citations", "limitations": "Limitations"}
    items = (tag("a", named(text), href=f"#{id_}") for id_, text in links.items())
    return tag("nav", listing(items), aria_label="Contents")


def summary(analysis: Analysis, ids: list[str], has_pictures: bool) -> Html:
    """Verdicts, what is wrong, and the table: the whole answer in one screen."""
    experiments = analysis.experiments
    wrong = {experiment_name(experiment): problems(experiment) for experiment in experiments}
    if len(experiments) > 1:
        verdicts = (
            tag("li", tag("a", experiment_name(experiment), href=f"#{id_}"), ": ", experiment.verdict)
            for experiment, id_ in zip(experiments, ids, strict=True)
        )
        answer = [tag("ul", *verdicts, class_="verdicts")]
        warnings = [f"{name}: {text}" for name, texts in wrong.items() for text in texts]
        shown = [overview(analysis)]
    else:
        answer = [tag("p", experiment.verdict, class_="verdict") for experiment in experiments]
        warnings = [text for texts in wrong.values() for text in texts]
        shown = [results_table(experiment) + legend() for experiment in experiments]
    if not has_pictures:
        missing = "No figures: they need matplotlib (pip install matplotlib), then make the report again."
        shown.append(note(missing))
    heading = tag("h2", "Answer", class_="unseen")
    return tag("section", heading, *answer, notice(warnings + analysis.warnings), *shown, id="summary")


def overview(analysis: Analysis) -> Html:
    """Heat map strategy x dataset and backbone."""
    columns, heads = [], []
    for experiment in analysis.experiments:
        tints = result_tints([row.test for row in experiment.rows], experiment.higher_is_better)
        cells = {
            row.strategy: result_cell(row.test, tint, badge(experiment, row))
            for row, tint in zip(experiment.rows, tints, strict=True)
        }
        columns.append(cells)
        metric = tag("small", metrics.label(experiment.metric))
        heads.append(join([named(experiment.data), named(experiment.arch), metric], tag("br")))
    nothing = words("not run")
    rows = [[name, *(cells.get(name, nothing) for cells in columns)] for name in analysis.strategies]
    what = "mean over runs [95 % interval] ± standard deviation over runs"
    caption = f"Test result by strategy, dataset and backbone: {what}"
    return table(caption, ["Strategy", *heads], rows) + legend()


def badge(experiment: Experiment, row: Row) -> str:
    """The mark beside the value, and what is to be known of its runs."""
    marks = {"best": "★ best", "≈ best": "≈ best", "one class": "one class"}
    mark = marks.get(standing(experiment, row), "")
    return " ".join(filter(None, [mark, f"({early_runs(row)})" if row.early else ""]))


# ---- over the experiments ----


def across_section(analysis: Analysis, pictures: list[Picture]) -> Html:
    across = analysis.across
    drawn = [unprinted(figure(one)) if one.key == "heat-map" else figure(one) for one in pictures]
    head = [tag("h2", "Over datasets and backbones"), tag("p", analysis.across_note)]
    if not across:
        return tag("section", *head, *drawn, id="across")
    ranks = [ranks_table(across), tag("p", friedman_line(across)), notes_list(across.notes)]
    return tag("section", *head, *ranks, *drawn, across_pairs(across), beats_table(across), id="across")


def ranks_table(across: Across) -> Html:
    rows = [
        [named(name), *map(rank_cell, values, ranks, [len(values)] * len(values))]
        for name, values, ranks in zip(across.experiments, across.table, across.ranks, strict=True)
    ]
    average = (across.average_ranks.get(name) for name in across.strategies)
    rows.append([tag("b", "average rank"), *(td(tag("b", number(rank, 2))) for rank in average)])
    caption = "Test metric (rank) by dataset and backbone; rank 1 is best"
    return table(caption, ["Dataset, backbone", *across.strategies], rows)


def rank_cell(x: float, rank: float, last: int) -> Cell:
    """0.871 (2), tinted from rank 1 to the last."""
    tint = 1 - share(rank, 1, last) if known(rank) else None
    return td(number(x), " ", aside(f"({short(rank)})"), tint=tint)


def across_pairs(across: Across) -> Html:
    rows = [
        [f"{p.a} − {p.b}", whole(p.n), p_value(p.p), p_value(p.p_holm), words(p.note, also="wrap")]
        for p in across.pairs
    ]
    caption = "Wilcoxon's signed rank over datasets and backbones, Holm-adjusted"
    columns = ["Pair", "n", "p", "p, Holm", "Note"]
    return fold("Pairwise Wilcoxon over datasets", table(caption, columns, rows)) if rows else Html("")


def beats_table(across: Across) -> Html:
    rows = []
    for beaten in across.beats_ft:
        counts = [f"{n} of {beaten.of}" for n in (beaten.better, beaten.separable)]
        largest = [number(beaten.largest, sign=True), words(named(beaten.largest_at))]
        rows.append([beaten.strategy, *counts, *largest])
    columns = ["Strategy", "Better", "Separably better", "Largest gain", "Where"]
    return table("How often each strategy beats FT", columns, rows) if rows else Html("")


def claims_section(analysis: Analysis) -> Html:
    heading = tag("h2", "The paper's claims")
    if not analysis.claims:
        return tag("section", heading, tag("p", "These runs cannot speak to them."), id="claims")
    rows = [[words(text, also="wrap") for text in (claim.claim, claim.paper, claim.here)] for claim in analysis.claims]
    caption = "The two headline claims of Davila, Colan and Hasegawa (2024), beside these runs"
    tables = [table(caption, ["Claim", "The paper", "These runs"], rows)]
    columns = ["Dataset, backbone", "Difference [95 %]", "Verdict"]
    for claim in (claim for claim in analysis.claims if claim.rows):
        body = [
            [join(map(named, (gain.data, gain.arch)), ", "), change(gain), verdict_words(gain.verdict)]
            for gain in claim.rows
        ]
        tables.append(table(claim.claim, columns, body))
    return tag("section", heading, *tables, id="claims")


# ---- for a manuscript ----


def writing_sections(analysis: Analysis) -> list[Html]:
    """Methods, checklist, citations, limitations."""
    hint = note("Filled in from what the runs recorded. [author: …] marks what only you can say.")
    texts = []
    for experiment in analysis.experiments:
        parts = methods.paragraph(experiment).split("\n\n")
        texts += [tag("h3", experiment_name(experiment)), *(tag("p", author_marked(part)) for part in parts)]
    citations = listing(methods.citations(analysis), "ol")
    limitations = listing(methods.limitations(analysis))
    return [
        tag("section", tag("h2", "Methods text"), hint, *texts, id="methods"),
        tag("section", tag("h2", "CLAIM checklist"), checklist_table(analysis), id="checklist"),
        tag("section", tag("h2", "Citations"), citations, id="citations"),
        tag("section", tag("h2", "Limitations"), limitations, id="limitations"),
    ]


def checklist_table(analysis: Analysis) -> Html:
    items = checklist.items(analysis)
    rows = []
    for item in items:
        who = words("✓ from the runs" if item.who == "answered" else "✎ author", also=item.who)
        answer = words(author_marked(item.answer or LEFT_OUT), also="wrap")
        rows.append([words(item.subject, also="wrap"), who, answer])
    answered = sum(item.who == "answered" for item in items)
    filled = f"{answered} of {len(items)} filled in from the runs, the rest only the author can answer"
    caption = f"In the order of CLAIM 2024, in our words: {filled}"
    return table(caption, ["Item", "Who", "Answer"], rows, class_="checklist")


def author_marked(text: str) -> Html:
    return Html(re.sub(r"\[author:[^\]]*\]", lambda match: f"<mark>{match[0]}</mark>", escape(text)))
