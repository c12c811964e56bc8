"""The page: an analysis (analysis.analyse's dict) as one HTML file.

    Path("report.html").write_text(page.html(analysis, figures), encoding="utf-8")

No network, no script, pictures inside. Every text that comes from data goes through tag(), which escapes what is
not Html already. Top to bottom: the HTML builder, the first screen, a block's sections, what runs over the
blocks, the style sheet."""

from __future__ import annotations

import base64
import html as escaping
import itertools
import math
import re
from collections.abc import Iterable

import metrics
from report import methods
from report.wording import (
    BUDGET,
    LEFT_OUT,
    NO_GROUPS,
    SYMBOL,
    beside,
    block_name,
    budget_row,
    calls_text,
    change,
    clean,
    counted,
    friedman_line,
    in_order,
    interval,
    known,
    lost_runs,
    measured,
    metric_name,
    number,
    p_value,
    pairs_by_name,
    plural,
    problems,
    question,
    several,
    short,
    shown_name,
    spread,
    standing,
    tested_images,
    value,
    whole,
)

LONG_NAME = 18  # characters; a longer name may be cut with an ellipsis and stands whole in its title
MOST_CLASSES_IN_A_MATRIX = 20  # above it a confusion matrix becomes a list of what is confused most
MOST_EPOCHS = 20  # columns of a table over epochs; more are thinned evenly


# ---------------------------------------------------------------------------------------------- HTML, escaped


class Html(str):
    """Markup that is escaped already. Everything else is escaped where it enters a tag."""

    def __add__(self, other: str) -> Html:
        return Html(str(self) + str(escape(other)))


class Cell(Html):
    """A td or th."""


VOID = ("meta", "img", "br", "col")


def escape(text: object) -> Html:
    return text if isinstance(text, Html) else Html(escaping.escape(clean(text), quote=True))


def join(parts: Iterable, between: str = "") -> Html:
    return Html(between.join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """<name a="b">children</name>, all escaped. class_ is class; None leaves one out, True is bare."""
    said = "".join(f" {key.rstrip('_').replace('_', '-')}" + ("" if v is True else f'="{escape(v)}"')
        for key, v in attributes.items() if v is not None)  # fmt: skip
    return Html(f"<{name}{said}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def named(text: object) -> Html:
    """A name out of the data: its direction kept to itself, cut where it is very long."""
    long = len(str(text)) > LONG_NAME
    return tag("bdi", text, class_="cut" if long else None, title=text if long else None)


def td(*children: object, tint: float | None = None, **attributes: object) -> Cell:
    """tint: 0 to 1, or None."""
    style = f"--t:{min(max(tint, 0), 1):.2f}" if known(tint) else None
    if style:
        attributes["class_"] = f"tint {attributes.get('class_', '')}".strip()
    return Cell(tag("td", *children, style=style, **attributes))


NUMERIC = re.compile(r"[−+<≈±\d.,%e\s\[\]()/–-]*( GiB| h)?|undefined")


def as_cell(x: object, first: bool) -> Cell:
    if isinstance(x, Cell):
        return x
    if first:
        return Cell(tag("th", x, scope="row"))
    return td(x, class_=None if NUMERIC.fullmatch(plain(x)) else "words")


def plain(x: object) -> str:
    """The text of markup."""
    return re.sub("<[^>]*>", "", x) if isinstance(x, Html) else str(x)


def is_words(cell: Cell) -> bool:
    return re.match(r'<t[dh][^>]* class="[^"]*\bwords\b', cell) is not None


def table(
    caption: object, columns: list, rows: list[list], *, groups: list[tuple[str, int]] = (), class_: str = ""
) -> Html:
    """A table in a container of its own that scrolls. groups: (title, columns) above the columns. The first
    item of a row is its head."""
    body = [[as_cell(x, i == 0) for i, x in enumerate(row)] for row in rows]
    heads = []
    for i, (title, column) in enumerate(itertools.zip_longest(columns, zip(*body), fillvalue=())):
        looks = ["words"] * (i == 0 or all(map(is_words, column))) + ["brief"] * (len(plain(title)) < 10)
        heads.append(tag("th", title, scope="col", class_=" ".join(looks) or None))
    top = join(tag("th", title, colspan=n, scope="colgroup") for title, n in groups)
    head = join([tag("tr", top) if groups else None, tag("tr", *heads)])
    inner = tag("table", tag("caption", caption), tag("thead", head),
        tag("tbody", *(tag("tr", *row) for row in body)))  # fmt: skip
    label = Html(plain(caption)) if isinstance(caption, Html) else caption
    return tag("div", inner, class_=f"scroll {class_}".strip(), tabindex=0, role="region", aria_label=label)


def fold(title: object, *content: object, open_: bool = False) -> Html:
    """A section that folds without a script; nothing where it has no content."""
    if not any(content):
        return Html("")
    return tag("details", tag("summary", tag("h3", title)), *content, open=True if open_ else None)


def listing(items: Iterable[object], kind: str = "ul", class_: str | None = None) -> Html:
    return tag(kind, *(tag("li", item) for item in items), class_=class_)


def note(*content: object) -> Html:
    return tag("p", *content, class_="note")


def tinted(
    values: list[float], higher_is_better: bool = True, lows: list = (), highs: list = ()
) -> list[float | None]:
    """0 (worst) to 1 (best) for every value; nan stays without. The scale runs from the lowest to the highest
    end of the intervals where there are any, so that differences within the noise look alike."""
    ends = [x for x in [*values, *lows, *highs] if known(x)]
    low, high = min(ends, default=0), max(ends, default=0)
    shares = [None if not known(v) else (v - low) / (high - low) if high > low else 0.5 for v in values]
    return [s if s is None or higher_is_better else 1 - s for s in shares]


# ----------------------------------------------------------------------------------------------- first screen


def html(analysis: dict, figures: dict[tuple[str, str], list[tuple[str, bytes]]]) -> str:
    """The whole page. figures: (data, arch) -> [(caption, png)]; ("", "") for those over all blocks."""
    blocks = analysis["blocks"]
    ids = [f"block-{i + 1}" for i in range(len(blocks))]
    sections = [
        block_section(b, id_, figures.get((b["data"], b["arch"]), []), len(blocks) > 1)
        for b, id_ in zip(blocks, ids)
    ]
    body = join([tag("header", headline(analysis), contents(analysis, ids)), tag("main",
        summary(analysis, ids, figures), *sections, across_section(analysis, figures.get(("", ""), [])),
        claims_section(analysis), writing_section(analysis)), tag("footer", note(
        f"Made by ftcompare from the run folders in {clean(analysis['folder'])}: nothing was trained or "
        "scored for this page."))])  # fmt: skip
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = join([tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"), tag("title", question(blocks)),
        tag("style", Html(CSS))], "\n")  # fmt: skip
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def headline(analysis: dict) -> Html:
    blocks = analysis["blocks"]
    runs = sum(row["done"] for b in blocks for row in b["rows"])
    what = several(len(blocks), "dataset and backbone")
    if len(blocks) == 1:
        b = blocks[0]
        what = f"{block_name(b)}: {tested_images(b)}, "
        what += f"{counted(len(b['seeds']), len(b['planned']['seeds']), 'seed')}, "
        what += counted(len(b["folds"]), len(b["planned"]["folds"]), "fold")
    line = f"{what}, {several(runs, 'finished run')} in {analysis['folder']}"
    return join([tag("h1", question(blocks)), tag("p", line, class_="under")])


def contents(analysis: dict, ids: list[str]) -> Html:
    links = [("summary", "Answer")] + [(i, block_name(b)) for i, b in zip(ids, analysis["blocks"])]
    links += [("across", "Over datasets"), ("claims", "The paper's claims"), ("methods", "Methods text")]
    links += [("checklist", "CLAIM checklist"), ("citations", "Citations"), ("limitations", "Limitations")]
    return tag(
        "nav", listing((tag("a", named(text), href=f"#{i}") for i, text in links)), aria_label="Contents"
    )


def summary(analysis: dict, ids: list[str], figures: dict) -> Html:
    """Verdicts, what is wrong, and the table: the whole answer in one screen."""
    blocks = analysis["blocks"]
    many = len(blocks) > 1
    verdicts = [
        tag("li", tag("a", block_name(b), href=f"#{i}"), ": ", b["verdict"]) for b, i in zip(blocks, ids)
    ]
    answer = (tag("ul", *verdicts, class_="verdicts") if many
        else [tag("p", b["verdict"], class_="verdict") for b in blocks])  # fmt: skip
    wrong = [f"{block_name(b)}: {text}" if many else text for b in blocks for text in problems(b)] + analysis[
        "warnings"
    ]
    shown = overview(blocks) if many else join(results_table(b) + legend() for b in blocks)
    plain = (None if figures
        else note("No figures: they need matplotlib (pip install matplotlib), then make the report again.")
        )  # fmt: skip
    heading = tag("h2", "Answer", class_="unseen")
    return tag(
        "section", heading, *(answer if not many else [answer]), notice(wrong), shown, plain, id="summary"
    )


def notice(texts: list[str]) -> Html | None:
    if not texts:
        return None
    title = tag("p", tag("strong", "⚠ Read this before the numbers"))
    first, rest = listing(texts[:6]), texts[6:]
    more = tag("details", tag("summary", f"{len(rest)} more"), listing(rest)) if rest else None
    return tag("aside", title, first, more, class_="notice", aria_label="Warnings")


def result_cell(entry: dict, tint: float | None, mark: str = "") -> Cell:
    """0.871 [0.840, 0.902] ± 0.012, tinted, with its mark."""
    if not entry["n"]:
        return td("no finished run", class_="words")
    parts = [tag("b", number(entry["mean"])), tag("span", interval(entry["low"], entry["high"]), class_="ci"),
        tag("span", spread(entry), class_="sd"), tag("small", beside(entry).strip())]  # fmt: skip
    shown = join((p for p in parts if plain(p)), " ")
    return td(shown, tag("em", mark) if mark else None, tint=tint, class_="result words")


def column_tints(rows: list[dict], which: str, higher_is_better: bool) -> list[float | None]:
    ends = [[row[which][end] for row in rows] for end in ("mean", "low", "high")]
    return tinted(ends[0], higher_is_better, ends[1], ends[2])


def overview(blocks: list[dict]) -> Html:
    """Heat map strategy x dataset and backbone."""
    names = in_order(row["strategy"] for b in blocks for row in b["rows"])
    columns = []
    for block in blocks:
        tints = column_tints(block["rows"], "test", block["higher_is_better"])
        columns.append({row["strategy"]: result_cell(row["test"], t, " ".join(filter(None, badge(block, row))))
            for row, t in zip(block["rows"], tints)})  # fmt: skip
    rows = [
        [name, *(column.get(name, td("not run", class_="words")) for column in columns)] for name in names
    ]
    heads = [join(
        [named(b["data"]), tag("br"), named(b["arch"]), tag("br"), tag("small", metric_name(b["metric"]))])
        for b in blocks]  # fmt: skip
    caption = (
        "Test result by strategy, dataset and backbone: mean over runs [95 % interval] ± standard deviation "
        "over runs"
    )
    return table(caption, ["Strategy", *heads], rows, class_="results") + legend()


def badge(block: dict, row: dict) -> tuple[str, str]:
    """The mark beside the value, and what is to be known of its runs."""
    mark = standing(block, row)
    shown = {"best": "★ best", "≈ best": "≈ best", "one class": "one class"}.get(mark, "")
    return shown, shown_name(row).removeprefix(row["strategy"]).strip()


def legend() -> Html:
    return note(
        "★ best: best point estimate of those with all runs. ≈ best: not separable from it "
        "(Holm-adjusted p of 0.05 or more in the pairs). one class: it calls every test image alike, and is "
        "no candidate for the best. A deeper tint is a better value; each column's "
        "scale spans its intervals, so that differences within the noise look alike."
    )


def results_table(block: dict) -> Html:
    """The result and what it cost, a row a strategy."""
    rows = block["rows"]
    tints = column_tints(rows, "test", block["higher_is_better"])
    seconds = column_tints(rows, "second", metrics.higher_is_better(block["second"]))
    budget = [name for name in BUDGET[:-1] if name != "Trials" or any(row["trials"] for row in rows)]
    body = []
    for row, tint, second in zip(rows, tints, seconds):
        mark, lost, val = standing(block, row), lost_runs(row), row["val"]
        shown = tag("span", {"best": "★ best"}.get(mark, mark), class_="mark " + re.sub("[^a-z]", "", mark))
        some = row["test"]["n"] > 0
        validation = (
            join([number(val["mean"]), " ", tag("span", spread(val) + beside(val), class_="sd")])
            if some
            else LEFT_OUT
        )
        spent = dict(zip(BUDGET, budget_row(row)))
        body.append([shown_name(row), result_cell(row["test"], tint), td(shown, class_="words"),
            whole(row["test"]["n"]),
            result_cell(row["second"], second) if some else td(LEFT_OUT, class_="words"),
            validation, *(spent[name] for name in budget),
            td(", ".join(lost) or "0", class_="words wrap lost" if lost else "words")])  # fmt: skip
    columns = [
        "Strategy",
        metric_name(block["metric"]),
        "Beside the best",
        "Runs",
        metric_name(block["second"]),
    ]
    columns += ["Validation (chose the epoch)", *budget, BUDGET[-1]]
    groups = [("", 1), ("Test", 4), ("", 1), ("Budget", len(budget) + 1)]
    caption = join([named(block["data"]), ", ", named(block["arch"]), ": mean over runs [95 % interval over ",
        plural(block["group_kind"]), "] ± standard deviation over runs (seeds, folds)"])  # fmt: skip
    return table(caption, columns, body, groups=groups, class_="results")


# ----------------------------------------------------------------------------------------- a block's sections


def block_section(block: dict, id_: str, figures: list, many: bool) -> Html:
    """Everything about one dataset and backbone."""
    at = place(figures, block)
    wrong = problems(block) if many else []
    top = ([tag("p", block["verdict"], class_="verdict"), notice(wrong), results_table(block), legend()]
        if many else [])  # fmt: skip
    return tag("section", tag("h2", named(block["data"]), ", ", named(block["arch"])), *top,
        fold("Which strategies differ", pair_matrix(block), *at["pairs"], open_=True),
        fold("All tests of every pair", pair_table(block), notes_list(block["pair_notes"])),
        fold("Learning curves and cost", *at["training"], curves_table(block)),
        fold("All metrics", metrics_table(block)),
        fold("Per class" if block["task"] == "multiclass" else "Per label", *per_class_tables(block)),
        fold("ROC and precision-recall", *at["roc"], area_table(block)),
        fold("Confusion matrices", *at["confusion"], confusion_tables(block)),
        fold("Calibration", *at["calibration"], *calibration_tables(block)),
        fold("Thresholds", thresholds_table(block)),
        fold("Auto-RGN's rate per layer", *at["rates"], rates_table(block)),
        fold("Hardest test images", hardest_images(block)), fold("Other figures", *at["other"]),
        fold("Data and splits", *splits_tables(block)),
        fold("Settings, versions and commands", *settings_tables(block)), id=id_)  # fmt: skip


PLACES = (("roc", r"\broc\b|receiver|precision.recall"),
    ("calibration", r"calibrat|reliab|against confidence"), ("confusion", r"confusion"),
    ("rates", r"rgn|rate per layer|rates"), ("training", r"learning|epoch|minutes|cost"),
    ("pairs", r"interval"))  # fmt: skip


def place(figures: list[tuple[str, bytes]], block: dict) -> dict[str, list[Html]]:
    """Figures by the section that they belong in, told by their captions."""
    found = {name: [] for name, _ in PLACES} | {"other": []}
    for caption, png in figures:
        said = caption.removeprefix(block_name(block))
        where = next((name for name, words in PLACES if re.search(words, said, re.IGNORECASE)), "other")
        found[where].append(picture(caption, png))
    return found


def picture(caption: str, png: bytes) -> Html:
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    return tag("figure", tag("img", src=source, alt=caption), tag("figcaption", caption))


def notes_list(notes: list[str]) -> Html:
    return listing(notes, class_="notes") if notes else Html("")


def pair_matrix(block: dict) -> Html:
    """Row minus column with its interval, a symbol and a colour for the verdict."""
    if not block["pairs"]:
        return note("No two strategies have a run on the same seed and fold: nothing can be compared.")
    pairs = pairs_by_name(block)
    names = [row["strategy"] for row in block["rows"] if any(row["strategy"] in ab for ab in pairs)]
    rows = []
    for a in names:
        cells = [td("", class_="self") if a == b else verdict_cell(pairs.get((a, b))) for b in names]
        rows.append([a, *cells])
    caption = (
        f"{measured(block)} on test, row minus column, with its paired 95 % interval over "
        f"{plural(block['group_kind'])}"
    )
    better = "higher" if block["higher_is_better"] else "lower"
    words = (
        "▲ the row is better, ▼ worse, ≈ not separable, at a Holm-adjusted 0.05 over the "
        f"{several(len(block['pairs']), 'pair')}. The {better} the {metric_name(block['metric'])}, the better. "
        "An interval is for its pair alone, so it can exclude 0 where the verdict, which is for all pairs, is ≈."
    )
    return table(caption, ["", *names], rows, class_="matrix") + note(words)


def verdict_cell(pair: dict | None) -> Cell:
    if pair is None:
        return td("no common runs", class_="words")
    kind = pair["verdict"].replace(" ", "-")
    symbol = tag("span", SYMBOL[pair["verdict"]], class_="symbol", title=pair["verdict"])
    shown = [symbol, " ", tag("b", number(pair["difference"], sign=True)), " ",
        tag("span", interval(pair["low"], pair["high"], sign=True), class_="ci")]  # fmt: skip
    return td(*shown, class_=f"verdict-{kind}")


def pair_table(block: dict) -> Html:
    """Every p-value of every pair."""
    if not block["pairs"]:
        return Html("")
    rows = []
    for pair in block["pairs"]:
        mcnemar, delong, t, w = (pair[k] for k in ("mcnemar", "delong", "t", "wilcoxon"))
        rows.append([f"{pair['a']} − {pair['b']}", td(f"{SYMBOL[pair['verdict']]} {pair['verdict']}",
            class_=f"words verdict-{pair['verdict'].replace(' ', '-')}"), whole(pair["runs"]), change(pair),
            p_value(pair["p_bootstrap"]), p_value(pair["p_holm"]),
            f"{mcnemar.only_a} / {mcnemar.only_b}" if mcnemar else LEFT_OUT,
            p_value(mcnemar.p) if mcnemar else LEFT_OUT, change(vars(delong)) if delong else LEFT_OUT,
            p_value(delong.p) if delong else LEFT_OUT,
            f"{number(t.t, 2)} ({whole(t.df)})" if t else LEFT_OUT, p_value(t.p) if t else LEFT_OUT,
            f"{short(w.statistic)} ({w.n})" if w else LEFT_OUT, p_value(w.p) if w else LEFT_OUT]
            )  # fmt: skip
    columns = ["Pair", "Verdict", "Runs", "Difference [95 %]", "p", "p, Holm", "A / B", "p",
        "AUROC difference", "p", "t (df)", "p", "W (n)", "p"]  # fmt: skip
    groups = [("", 3), ("Group bootstrap", 3), ("McNemar (right: only A / only B)", 2), ("DeLong", 2),
        ("Corrected t", 2), ("Wilcoxon", 2)]  # fmt: skip
    caption = f"Every pair, A − B, on {measured(block)}; McNemar's test is on accuracy. {LEFT_OUT}: left out, for the reason below"
    return table(caption, columns, rows, groups=groups)


def curves_table(block: dict) -> Html:
    """Validation metric by epoch, a column a strategy."""
    curves = {name: {point["epoch"]: point for point in points} for name, points in block["curves"].items()
        if points}  # fmt: skip
    epochs = thinned(sorted({epoch for points in curves.values() for epoch in points}))
    if not epochs:
        return Html("")
    rows = [
        [str(e), *(number(c[e]["val_metric"]) if e in c else LEFT_OUT for c in curves.values())]
        for e in epochs
    ]
    caption = f"Validation {metric_name(block['metric'])} by epoch, mean over runs"
    return table(caption, ["Epoch", *curves], rows)


def thinned(items: list, most: int = MOST_EPOCHS) -> list:
    """At most `most` of them, evenly, the first and the last included."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def metrics_table(block: dict) -> Html:
    rows = [row for row in block["rows"] if row["test"]["n"]]
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    if not names:
        return Html("")
    columns = {}
    for name in names:
        entries = [row["metrics"].get(name, {"mean": math.nan, "sd": math.nan, "n": 0}) for row in rows]
        tints = tinted([e["mean"] for e in entries], metrics.higher_is_better(name))
        columns[name] = [metric_cell(e, t, row["test"]["n"]) for e, t, row in zip(entries, tints, rows)]
    body = [[row["strategy"], *(columns[name][i] for name in names)] for i, row in enumerate(rows)]
    caption = (
        "Every metric on test, mean ± standard deviation over runs; (n) where a metric is undefined in some "
        "of the runs"
    )
    caption += f". {calls_text(block)}" if calls_text(block) else ""
    return table(caption, ["Strategy", *map(metric_name, names)], body)


def metric_cell(entry: dict, tint: float | None, runs: int) -> Cell:
    some = beside(entry) + (f" (n = {entry['n']})" if 0 < entry["n"] < runs else "")
    return td(number(entry["mean"]), " ", tag("span", spread(entry) + some, class_="sd"), tint=tint)


def per_class_tables(block: dict) -> list[Html]:
    """A table a measure: classes down, strategies across."""
    rows = [row for row in block["rows"] if row["per_class"]]
    measures = dict.fromkeys(
        m for row in rows for entry in row["per_class"].values() for m in entry if m not in ("support", "n")
    )
    tables = []
    for measure in measures:
        body = []
        for name in block["classes"]:
            entries = [row["per_class"].get(name, {}) for row in rows]
            values = [entry.get(measure) for entry in entries]
            support = next((entry["support"] for entry in entries if known(entry.get("support"))), None)
            body.append([named(name), whole(support),
                *(td(number(v), tint=v if known(v) and 0 <= v <= 1 else None) for v in values)])  # fmt: skip
        title = metric_name(measure)
        caption = f"{title[0].upper()}{title[1:]} on test, mean over runs (tint: 0 to 1)"
        head = "Class" if block["task"] == "multiclass" else "Label"
        tables.append(
            table(caption, [head, "Cases a run", *(row["strategy"] for row in rows)], body, class_="tall")
        )
    return tables


def area_table(block: dict) -> Html:
    """AUROC and AP, a row a strategy, two columns a class."""
    areas = {(s, c["class"]): c["auroc"] for s, curves in block["roc"].items() for c in curves}
    precisions = {(s, c["class"]): c for s, curves in block["pr"].items() for c in curves}
    prevalence = {c: precisions.get((s, c), {}).get("prevalence") for s, c in areas}
    rows = []
    for s in block["roc"]:
        both = [(areas.get((s, c)), precisions.get((s, c), {}).get("ap")) for c in prevalence]
        rows.append([s, *(number(x) for pair in both for x in pair)])
    if not prevalence:
        return Html("")
    caption = (
        "Areas under the curves on test, mean over runs. Chance is 0.5 for AUROC and the prevalence for AP"
    )
    groups = [("", 1), *((join([named(c), f" (prevalence {number(p)})"]), 2) for c, p in prevalence.items())]
    return table(caption, ["Strategy", *("AUROC", "AP") * len(prevalence)], rows, groups=groups)


def confusion_tables(block: dict) -> Html:
    """A small matrix a strategy, or what is confused most where there are many classes."""
    make = confusion_matrix if len(block["classes"]) <= MOST_CLASSES_IN_A_MATRIX else most_confused
    tables = [make(strategy, matrix, block["classes"]) for strategy, matrix in block["confusion"].items()]
    words = (
        f"Counts of {plural(block['unit_kind'])} on test, summed over runs; tint by the share of "
        "the true class, right calls outlined."
    )
    return note(words) + tag("div", *tables, class_="side-by-side") if tables else Html("")


def confusion_matrix(strategy: str, matrix: list[list[int]], classes: list[str]) -> Html:
    rows = []
    for name, counts in zip(classes, matrix):
        total = sum(counts)
        cells = [
            td(f"{n:,}", tint=n / total if total else 0, class_="right" if i == len(rows) else None)
            for i, n in enumerate(counts)
        ]
        rows.append([named(name), *cells])
    return table(
        f"{strategy}: true down, called across", ["True", *map(named, classes)], rows, class_="confusion"
    )


def most_confused(strategy: str, matrix: list[list[int]], classes: list[str]) -> Html:
    wrong = [(n, i, j) for i, counts in enumerate(matrix) for j, n in enumerate(counts) if i != j and n]
    wrong.sort(key=lambda entry: (-entry[0], entry[1:]))
    rows = [
        [named(classes[i]), td(named(classes[j]), class_="words"), f"{n:,}", f"{sum(matrix[i]):,}"]
        for n, i, j in wrong[:20]
    ]
    caption = f"{strategy}: the {len(rows)} most frequent of {len(wrong):,} confusions"
    return table(caption, ["True", "Called", "Count", "Of"], rows)


CALIBRATED = {"multiclass": ("Confidence", "Accuracy"), "multilabel": ("Score", "Share with the label")}


def calibration_tables(block: dict) -> list[Html]:
    found = block["calibration"]
    if not found:
        return []
    across, up = CALIBRATED[block["task"]]
    rows = [[strategy, number(c["ece"]), number(c["brier"])] for strategy, c in found.items()]
    tables = [table("Calibration on test, mean over runs; lower is better. The bins below hold all runs together",
        ["Strategy", "Expected calibration error", "Brier score"], rows)]  # fmt: skip
    for strategy, entry in found.items():
        bins = [b for b in entry["bins"] if b["count"]]
        body = [[f"{number(b['low'], 1)} – {number(b['high'], 1)}", number(b["confidence"]), number(b["accuracy"]),
            number(b["accuracy"] - b["confidence"], sign=True), whole(b["count"])] for b in bins]  # fmt: skip
        tables.append(
            table(f"{strategy}: by bin of {across.lower()}", ["Bin", across, up, "Gap", "Count"], body)
        )
    return [tables[0], tag("div", *tables[1:], class_="side-by-side")]


def thresholds_table(block: dict) -> Html:
    if not block["thresholds"]:
        return Html("")
    rows = []
    for entry in block["thresholds"]:
        cut = join([number(entry["threshold"]), f" ± {number(entry['sd'])}" if known(entry["sd"]) else None])
        rates = [number(entry[name]) for name in ("sensitivity", "specificity", "ppv", "npv")]
        rows.append([entry["strategy"], td(named(entry["class"]), class_="words"), cut, *rates])
    caption = f"At the threshold chosen on validation ({block['threshold_rule']}), mean over runs"
    return table(caption, ["Strategy", "Positive", "Threshold", "Sensitivity", "Specificity", "PPV", "NPV"],
        rows, class_="tall")  # fmt: skip


def rates_table(block: dict) -> Html:
    """Learning rate of every layer by epoch, tinted by its logarithm."""
    ratios = block["ratios"]
    if not ratios:
        return Html("")
    logs = [math.log10(r) for rates in ratios["rate"] for r in rates if known(r) and r > 0]
    low, high = (min(logs), max(logs)) if logs else (0.0, 0.0)
    columns = thinned(list(range(len(ratios["epochs"]))))
    rows = []
    for layer, part, rates in zip(ratios["layers"], ratios["blocks"], ratios["rate"]):
        cells = [rate_cell(rates[i], low, high) for i in columns]
        rows.append([named(layer), td(named(part), class_="words"), *cells])
    few = (f"; {len(columns)} of {len(ratios['epochs'])} epochs shown" if len(columns) < len(ratios["epochs"])
        else "")  # fmt: skip
    caption = (
        "Auto-RGN: learning rate of each layer by epoch, mean over runs. Tint by the logarithm, from "
        f"{short(10**low)} to {short(10**high)}{few}"
    )
    groups = [("", 2), ("Epoch", len(columns))]
    return table(caption, ["Layer", "Block", *(str(ratios["epochs"][i]) for i in columns)], rows,
        groups=groups, class_="tall rates")  # fmt: skip


def rate_cell(rate: float, low: float, high: float) -> Cell:
    if not known(rate) or rate <= 0:
        return td(number(rate))
    return td(
        f"{rate:.1e}".replace("e-0", "e−"),
        tint=(math.log10(rate) - low) / (high - low) if high > low else 0.5,
    )


def hardest_images(block: dict) -> Html:
    if not block["hardest"]:
        return Html("")
    cards = []
    for entry in block["hardest"]:
        thumbnail = entry["thumbnail"] or ""
        shown = thumbnail.startswith("data:image/")
        image = (tag("img", src=thumbnail, alt=f"test image {entry['image']}") if shown
            else tag("p", "no thumbnail", class_="none"))  # fmt: skip
        calls = [tag("li", "✓ " if p["right"] else "✗ ", strategy, ": ", named(p["class"]),
            f" {number(p['score'], 2)}", class_="right" if p["right"] else "wrong")
            for strategy, p in entry["predictions"].items()]  # fmt: skip
        truth = tag("p", "truth: ", tag("b", named(entry["label"])),
            f", mean probability {number(entry['mean_right'], 2)}")  # fmt: skip
        cards.append(tag("figure", image, tag("figcaption",
            tag("p", entry["image"], class_="file", title=entry["image"]), truth, tag("ul", *calls)))
            )  # fmt: skip
    words = (
        "The test images whose truth got the lowest probability, mean over strategies and runs: a wrong "
        "label, or a hard case? ✓ right, ✗ wrong, with the probability of the class called. The pictures are "
        "from your test set: to share the page without them, delete hardest.npz in the runs and make it anew."
    )
    return note(words) + tag("div", *cards, class_="cards")


SIDES = {"train": "training", "val": "validation", "test": "test"}


def splits_tables(block: dict) -> list[Html]:
    """How many of what is where, and the proof that no group is in two."""
    groups, units = plural(block["group_kind"]), plural(block["unit_kind"])
    splits = sorted(block["splits"], key=lambda s: s["fold"])
    one, by_image = len(splits) == 1, block["group_kind"] == "image"
    facts = [("" if one else f"fold {s['fold']}: ")
        + ("" if by_image else f"{groups} in two splits: {s['groups_in_two_splits']}; ")
        + f"byte-identical images across splits: {s['identical_across_splits']}" for s in splits]  # fmt: skip
    if by_image:
        facts.append(f"The split is by image: {NO_GROUPS}, so images of one patient may stand in two splits.")
    left = ", left as it is" if any(s["identical_across_splits"] for s in splits) else ""
    facts.append(f"The test set is the dataset's official one{left}." if block["official_test"]
        else f"The test set was cut from the data by {block['group_kind']}.")  # fmt: skip
    sides = [(SIDES.get(name, name) if one else f"fold {s['fold']}, {SIDES.get(name, name)}", part)
        for s in splits for name, part in s["splits"].items()]  # fmt: skip
    kinds = [("images", "images"), *([] if by_image else [("groups", groups)]),
        *([("units", units)] if block["unit_kind"] not in ("image", block["group_kind"]) else [])
        ]  # fmt: skip
    sizes = [[side, *(whole(part[key]) for key, _ in kinds)] for side, part in sides]
    classes = [[named(c), *(whole(part["classes"].get(c, 0)) for _, part in sides)] for c in block["classes"]]
    head = "Class" if block["task"] == "multiclass" else "Label (positives)"
    return [listing(facts + block["data_notes"], class_="notes"),
        table("Sizes of the splits", ["Split", *(title for _, title in kinds)], sizes), table(
        "Images of each class in each split", [head, *(side for side, _ in sides)], classes, class_="tall")
        ]  # fmt: skip


def settings_tables(block: dict) -> list[Html]:
    own = [[row["strategy"], td(", ".join(map(short, row["lr"])) or LEFT_OUT, class_="words"),
        td(", ".join(map(short, row["alpha"])) or LEFT_OUT, class_="words"),
        td(", ".join(row["edge"]) or LEFT_OUT, class_="words"),
        td(value(row["hyperparameters"]), class_="words wrap")] for row in block["rows"]]  # fmt: skip
    return [table("Each strategy's own",
        ["Strategy", "Learning rate", "Alpha", "At an end of what was tried", "Hyperparameters"], own), tag("div",
        facts("Settings that all runs share", block["settings"]),
        facts("Versions and machine", block["environment"]), class_="side-by-side"),
        *(tag("pre", tag("code", command)) for command in block["commands"])]  # fmt: skip


def facts(caption: str, entries: dict) -> Html:
    return table(caption, ["Name", "Value"],
        [[named(k), td(value(v), class_="words wrap")] for k, v in entries.items()])  # fmt: skip


# -------------------------------------------------------------------------------------------- over the blocks


def across_section(analysis: dict, figures: list) -> Html:
    across = analysis["across"]
    heading = tag("h2", "Over datasets and backbones")
    pictures = [picture(caption, png) for caption, png in figures]
    if not across:
        return tag("section", heading, tag("p", analysis["across_note"]), *pictures, id="across")
    parts = [tag("p", analysis["across_note"]), ranks_table(across), tag("p", friedman_line(across)),
        notes_list(across["notes"]), *pictures, across_pairs(across), beats_table(across)]  # fmt: skip
    return tag("section", heading, *parts, id="across")


def ranks_table(across: dict) -> Html:
    k = len(across["strategies"])
    rows = []
    for name, values, ranks in zip(across["datasets"], across["table"], across["ranks"]):
        cells = [td(number(v), " ", tag("span", f"({short(r)})", class_="sd"),
            tint=1 - (r - 1) / max(1, k - 1) if known(r) else None) for v, r in zip(values, ranks)
            ]  # fmt: skip
        rows.append([named(name), *cells])
    average = [across["average_ranks"].get(s) for s in across["strategies"]]
    rows.append([tag("b", "average rank"), *(td(tag("b", number(r, 2))) for r in average)])
    return table("Test metric (rank) by dataset and backbone; rank 1 is best",
        ["Dataset, backbone", *across["strategies"]], rows)  # fmt: skip


def across_pairs(across: dict) -> Html:
    rows = [[f"{p['a']} − {p['b']}", whole(p["n"]), p_value(p["p"]), p_value(p["p_holm"]),
        td(p["note"], class_="words wrap")] for p in across["pairs"]]  # fmt: skip
    return (fold("Pairwise Wilcoxon over datasets", table(
        "Wilcoxon's signed rank over datasets and backbones, Holm-adjusted",
        ["Pair", "n", "p", "p, Holm", "Note"], rows)) if rows else Html(""))  # fmt: skip


def beats_table(across: dict) -> Html:
    rows = [[b["strategy"], f"{b['better']} of {b['of']}", f"{b['separable']} of {b['of']}",
        number(b["largest"], sign=True), td(named(b["largest_at"]), class_="words")]
        for b in across["beats_ft"]]  # fmt: skip
    return (table("How often each strategy beats FT",
        ["Strategy", "Better", "Separably better", "Largest gain", "Where"], rows) if rows else Html("")
        )  # fmt: skip


def claims_section(analysis: dict) -> Html:
    rows = [[td(c["claim"], class_="words wrap"), td(c["paper"], class_="words wrap"),
        td(c["here"], class_="words wrap")] for c in analysis["claims"]]  # fmt: skip
    tables = ([table("The two headline claims of Davila, Colan and Hasegawa (2024), beside these runs",
        ["Claim", "The paper", "These runs"], rows)] if rows else [])  # fmt: skip
    for claim in analysis["claims"]:
        body = [
            [join([named(r["data"]), ", ", named(r["arch"])]), change(r), verdict_words(r["verdict"])]
            for r in claim["rows"]
        ]
        tables += ([table(claim["claim"], ["Dataset, backbone", "Difference [95 %]", "Verdict"], body)]
            if body else [])  # fmt: skip
    return tag("section", tag("h2", "The paper's claims"),
        *(tables or [tag("p", "These runs cannot speak to them.")]), id="claims")  # fmt: skip


def verdict_words(verdict: str) -> Cell:
    return td(
        f"{SYMBOL.get(verdict, '')} {verdict}".strip(), class_=f"words verdict-{verdict.replace(' ', '-')}"
    )


def writing_section(analysis: dict) -> Html:
    """What goes into a manuscript: methods, checklist, citations, limitations."""
    texts = [
        join(
            [
                tag("h3", block_name(b)),
                *(tag("p", author_marked(t)) for t in methods.paragraph(b).split("\n\n")),
            ]
        )
        for b in analysis["blocks"]
    ]
    items = methods.checklist(analysis)
    answered = sum(item["who"] == "answered" for item in items)
    rows = [[td(i["item"], class_="words wrap"),
        td("✓ from the runs" if i["who"] == "answered" else "✎ author", class_=f"words {i['who']}"),
        td(author_marked(i["answer"] or LEFT_OUT), class_="words wrap")] for i in items]  # fmt: skip
    caption = (
        f"In the order of CLAIM 2024, in our words: {answered} of {len(items)} filled in from the runs, the "
        "rest only the author can answer"
    )
    return join([tag("section", tag("h2", "Methods text"),
        note("Filled in from what the runs recorded. [author: …] marks what only you can say."), *texts,
        id="methods"), tag("section", tag("h2", "CLAIM checklist"),
        table(caption, ["Item", "Who", "Answer"], rows, class_="checklist"), id="checklist"), tag(
        "section", tag("h2", "Citations"), listing(methods.citations(analysis), "ol"), id="citations"), tag(
        "section", tag("h2", "Limitations"), listing(methods.limitations(analysis)), id="limitations")]
        )  # fmt: skip


def author_marked(text: str) -> Html:
    return Html(re.sub(r"\[author:[^\]]*\]", lambda m: f"<mark>{m[0]}</mark>", escape(text)))


# ------------------------------------------------------------------------------------------------ style sheet


CSS = """
:root {
  --paper: #fff; --soft: #f6f6f4; --ink: #1c1c1a; --quiet: #5a5a55; --line: #d9d9d3; --link: #1f5a96;
  --tint: 44 110 170; --tint-most: .42;
  --better: #14663a; --better-soft: #e3f3e8; --worse: #9a2b22; --worse-soft: #fae8e6;
  --warn: #7a4a00; --warn-soft: #fff5de; --warn-line: #e0b04a;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #161715; --soft: #1f211e; --ink: #ecece6; --quiet: #a9aaa2; --line: #3a3c38; --link: #8dbdf0;
  --tint: 72 140 205; --tint-most: .5;
  --better: #8fd7a8; --better-soft: #1b3425; --worse: #f2a59c; --worse-soft: #432220;
  --warn: #f0cd85; --warn-soft: #33290f; --warn-line: #806322;
} }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.2rem 1.5rem 4rem; max-width: 1240px; background: var(--paper);
  color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; font-weight: 650; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .6rem; padding-top: .7rem;
  border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .4rem 0; max-width: 78ch; }
a { color: var(--link); text-underline-offset: 2px; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.under { max-width: none; }
.under, .note, figcaption, footer { color: var(--quiet); font-size: .87rem; }
.note { max-width: 150ch; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); margin: 0;
  border: 0; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .3rem 0 .8rem;
  padding: 0; font-size: .87rem; }
.verdict { font-size: 1.12rem; line-height: 1.45; max-width: 92ch; font-weight: 550; }
.verdicts { padding-left: 1.1rem; }
.verdicts li { margin: .25rem 0; }
.notice { border: 1px solid var(--warn-line); border-left-width: 5px; background: var(--warn-soft);
  color: var(--warn);
  padding: .45rem .9rem; margin: .7rem 0; font-size: .9rem; border-radius: 3px; }
.notice p { margin: .1rem 0; } .notice ul { margin: .15rem 0; padding-left: 1.2rem; }
.notice details { border: 0; margin: 0; } .notice summary { padding: .1rem 0; }
thead th.brief { white-space: nowrap; }
.scroll { overflow-x: auto; margin: .7rem 0; max-width: 100%; }
.tall { max-height: 34rem; overflow-y: auto; border-bottom: 1px solid var(--line); }
table { border-collapse: separate; border-spacing: 0; font-size: .84rem; font-variant-numeric: tabular-nums;
  line-height: 1.35; }
caption { text-align: left; color: var(--quiet); padding: 0 0 .35rem; font-size: .84rem; }
th, td { overflow-wrap: normal; padding: .3rem .5rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; vertical-align: baseline; }
thead th { font-weight: 600; border-bottom: 1px solid var(--ink); vertical-align: bottom;
  background: var(--paper); white-space: normal; overflow-wrap: normal; }
thead tr:first-child:not(:last-child) th { text-align: left; border-bottom: 1px solid var(--line);
  color: var(--quiet); font-weight: 500; white-space: nowrap; }
thead tr:first-child:not(:last-child) th:not(:first-child) { border-left: 1px solid var(--line); }
.tall thead th { position: sticky; top: 0; z-index: 2; }
tbody th, tr > :first-child { text-align: left; }
tbody th, thead tr > th:first-child { position: sticky; left: 0; z-index: 1; background: var(--paper);
  font-weight: 600; }
.tall thead tr > th:first-child { z-index: 3; }
.words { text-align: left; } .wrap { white-space: normal; min-width: 14ch; overflow-wrap: anywhere; }
.tint { background: rgb(var(--tint) / calc(var(--t) * var(--tint-most))); }
.ci, .sd { color: var(--ink); opacity: .86; font-size: .95em; }
.result em { font-style: normal; font-weight: 700; margin-left: .5em; }
.mark { font-weight: 500; } .best { font-weight: 700; }
td.lost { color: var(--worse); font-weight: 600; overflow-wrap: normal; min-width: 5.2rem; }
.verdict-better { background: var(--better-soft); color: var(--better); }
.verdict-worse { background: var(--worse-soft); color: var(--worse); }
.matrix th, .matrix td { text-align: left; } .matrix td { min-width: 6.2rem; white-space: normal; }
.matrix .ci { display: block; white-space: nowrap; opacity: 1; }
.matrix td:not([class*=verdict-]) , .verdict-not-separable, .verdict-undefined { color: var(--ink); }
.self { background: var(--soft); }
.results table { font-size: .79rem; } .results td, .results th { padding: .32rem .38rem; }
.results .wrap { min-width: 5.5rem; }
details { border-bottom: 1px solid var(--line); margin: 0; }
summary { cursor: pointer; padding: .5rem 0; } summary h3 { display: inline; margin: 0; }
details[open] { padding-bottom: 1rem; }
.cut { display: inline-block; max-width: 16rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; vertical-align: bottom; }
h1 .cut, h2 .cut { display: inline; white-space: normal; max-width: none; }
.side-by-side { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: flex-start; }
.side-by-side > * { min-width: 0; }
.confusion td, .confusion th { max-width: 9rem; } .confusion .cut { max-width: 7rem; }
.confusion td.right { outline: 1px solid var(--quiet); outline-offset: -2px; font-weight: 600; }
figure { margin: .8rem 0; max-width: 100%; } figure img { max-width: 100%; height: auto; background: #fff;
  border-radius: 2px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1.2rem 1rem; }
.cards figure { margin: 0; min-width: 0; } .cards img { width: 96px; height: 96px; object-fit: contain;
  image-rendering: pixelated; background: #000; }
.cards ul { list-style: none; margin: .2rem 0; padding: 0; } .cards p { margin: .1rem 0; }
.cards .file { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.cards .cut { max-width: 100%; }
.cards .none { width: 96px; height: 96px; border: 1px dashed var(--line); display: grid; place-items: center;
  color: var(--quiet); font-size: .75rem; }
li.wrong { color: var(--worse); } li.right { color: var(--better); }
.notes { font-size: .9rem; color: var(--quiet); padding-left: 1.1rem; max-width: 100ch; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 3px; padding: .5rem .7rem;
  white-space: pre-wrap; font-size: .84rem; }
mark { background: var(--warn-soft); color: var(--warn); padding: 0 .15em; }
.checklist td { vertical-align: top; } .checklist td:first-child { min-width: 17rem; }
.author { color: var(--warn); } .answered { color: var(--better); }
#citations ol, #limitations ul { padding-left: 1.6rem; max-width: 100ch; }
#citations li, #limitations li { margin: .25rem 0; }
@media (max-width: 600px) {
  body { padding: .8rem .8rem 3rem; } h1 { font-size: 1.3rem; }
  .cut { max-width: 8.5rem; } .checklist td:first-child { min-width: 8rem; }
}
@media print {
  :root { --paper: #fff; --soft: #f6f6f4; --ink: #000; --quiet: #444; --line: #bbb; --link: #000;
    --tint: 44 110 170; --tint-most: .42;
    --better: #14663a; --better-soft: #e3f3e8; --worse: #9a2b22; --worse-soft: #fae8e6; --warn: #5c3800;
    --warn-soft: #fff; --warn-line: #888; }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  nav { display: none; } .scroll, .tall { overflow: visible; max-height: none; } table { font-size: 7pt; }
  th, td { padding: 1pt 2.5pt; white-space: normal; }
  tbody th, thead th, thead tr > th:first-child { position: static; }
  details::details-content { content-visibility: visible; block-size: auto; opacity: 1; }
  summary { list-style: none; }
  tr, figure, .notice { break-inside: avoid; } h2, h3, summary, caption { break-after: avoid; }
  .results table { font-size: 6pt; }
  .results td { white-space: nowrap; } .results td, .results th { padding: 1pt 1.6pt; }
  p, .note { max-width: none; } thead { display: table-header-group; }
}
"""
