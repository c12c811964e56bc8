"""page.py: the page is well-formed, loads nothing, escapes everything, and its first screen is the answer.
python -m pytest tests/report/test_page.py"""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from awkward import ANALYSES, HOSTILE, LONG, every, hostile, lost_runs, several
from factory import make_analysis, make_estimate, make_experiment, png

from report import page, wording
from report.figures import Picture
from report.markup import VOID

PICTURES = {
    ("", ""): [Picture("heat-map", "Heat map", png())],
    ("demo", "resnet18"): [Picture("roc", "ROC curves", png())],
}


class Reader(HTMLParser):
    """The page as a browser reads it: tags balanced, attributes, visible text."""

    def __init__(self, source):
        super().__init__()
        self.stack, self.tags, self.texts, self.errors = [], [], [], []
        self.feed(source)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.texts.append(data)


def read(analysis, pictures=None):
    reader = Reader(page.html(analysis, pictures or {}))
    assert not reader.errors and not reader.stack
    return reader


@every
def test_html_is_well_formed_and_says_no_python(name):
    analysis = ANALYSES[name]()
    text = read(analysis).text
    if name != "hostile":  # which has a class of that name
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)
    assert "undefined" in text or name != "one_seed"
    for experiment in analysis.experiments:
        assert all(row.strategy in text for row in experiment.rows)
    assert all(" ".join(wording.clean(warning).split()) in text for warning in analysis.warnings)


@every
def test_html_loads_nothing_and_runs_nothing(name):
    reader = read(ANALYSES[name](), PICTURES)
    assert not {tag for tag, _ in reader.tags} & set("script link iframe object embed base form svg".split())
    for _, attributes in reader.tags:
        assert not [key for key in attributes if key.startswith("on")]
        assert attributes.get("src", "data:image/").startswith("data:image/") and "srcset" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page.CSS and "@import" not in page.CSS
    policies = [a["content"] for t, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@every
def test_html_tables_have_captions_scopes_and_full_rows(name):
    source = page.html(ANALYSES[name](), {})
    reader = Reader(source)
    counts = [sum(tag == kind for tag, _ in reader.tags) for kind in ("table", "caption")]
    assert counts[0] == counts[1]
    for table in re.findall(r"<table>.*?</table>", source, re.DOTALL):
        widths = []
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL):
            spans = re.findall(r"<t[hd](?: [^>]*)?>", row)
            widths.append(sum(int((re.search(r'colspan="(\d+)"', s) or [0, 1])[1]) for s in spans))
        assert len(set(widths)) == 1, table[:300]
    heads = [a for t, a in reader.tags if t == "th"]
    assert all(a.get("scope") in ("row", "col", "colgroup") or a.get("colspan") for a in heads)


@every
def test_same_analysis_same_bytes(name):
    assert page.html(ANALYSES[name](), PICTURES) == page.html(ANALYSES[name](), PICTURES)


def test_every_id_is_there_once_and_every_link_has_one():
    reader = read(several())
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for t, a in reader.tags if t == "a"} <= set(ids)


def test_hostile_names_are_text():
    source = page.html(hostile(), {})
    reader = Reader(source)
    assert "<script" not in source and "javascript:" not in source
    assert wording.clean(HOSTILE) in reader.text and "الطبيعي" in reader.text
    assert "\u202e" not in source and "\udcff" not in source
    source.encode("utf-8")
    titles = [a["title"] for t, a in reader.tags if t == "bdi" and "title" in a]
    assert LONG in titles  # cut on the screen, whole in its title


def test_a_hundred_classes_keep_the_page_small():
    assert len(page.html(ANALYSES["hundred_classes"](), {})) < 2_000_000


# ---- the first screen ----


def test_the_first_screen_has_the_question_the_verdict_the_table_and_what_is_wrong():
    analysis = lost_runs()
    text = read(analysis).text
    first = text[: text.index("Which strategies differ")]
    assert "Which fine-tuning strategy should I use on demo?" in first
    assert "demo, resnet18: 125 test images of 40 patients, 3 seeds, 1 fold, 20 finished runs in runs" in first
    assert analysis.experiments[0].verdict in first
    assert "0.871 [0.841, 0.901] ± 0.012" in first and "11,178,564" in first and "1.06 GiB" in first
    for problem in [*wording.problems(analysis.experiments[0]), *analysis.warnings]:
        assert problem in first


def test_matplotlib_is_asked_for_where_there_is_no_figure():
    assert "pip install matplotlib" in read(lost_runs()).text
    assert "pip install matplotlib" not in read(lost_runs(), PICTURES).text


def test_an_interrupted_sweep_says_how_much_of_it_was_run():
    experiment = make_experiment()
    planned = replace(experiment.planned, seeds=[0, 1, 2, 3, 4], folds=[0, 1])
    text = read(make_analysis([replace(experiment, planned=planned)])).text
    assert "3 of 5 seeds, 1 of 2 folds" in text


def test_of_several_experiments_the_first_screen_has_their_verdicts_and_one_table():
    analysis = several()
    reader = read(analysis)
    first = reader.text[: reader.text.index("Which strategies differ")]
    for experiment in analysis.experiments:
        assert f"{wording.experiment_name(experiment)} : {experiment.verdict}" in first
    assert "t1w, densenet121: LP-FT: 1 failed" in first and "no finished run" in first
    assert "3 datasets and backbones, 68 finished runs in runs" in first


def test_the_overview_has_a_row_for_every_strategy_and_says_where_it_was_not_run():
    both = make_analysis([make_experiment("a", strategies=("FT", "LP")), make_experiment("b", strategies=("FT",))])
    rows = re.findall(r"<tr>(.*?)</tr>", page.overview(both))[1:]
    assert ["not run" in row for row in rows] == [False, True]
    assert "★ best" in rows[0] and "≈ best" in rows[1]


def test_a_badge_says_that_runs_are_scored_in_an_earlier_stage():
    experiment = make_experiment(strategies=("FT", "LP-FT"))
    row = replace(experiment.row("LP-FT"), early={"lp": 2})
    assert page.badge(experiment, row) == "≈ best (2 of 3 runs scored in stage lp)"
    assert page.badge(experiment, replace(row, beside_best=False, collapsed=True, early={})) == "one class"


# ---- over experiments, for a manuscript ----


def test_ranks_are_tinted_from_the_first_to_the_last():
    assert page.rank_cell(0.871, 1.0, 8).startswith('<td style="--t:1.00" class="tint">0.871 ')
    assert "--t:0.00" in page.rank_cell(0.8, 8.0, 8) and "(8)" in page.rank_cell(0.8, 8.0, 8)
    assert "tint" not in page.rank_cell(float("nan"), float("nan"), 8)


def test_ranks_claims_and_wins_over_ft_are_on_the_page():
    text = read(several()).text
    for said in (
        "over 3 datasets and backbones",
        "average rank 1.00 2.00",
        "Nemenyi critical difference at 0.05: 6.06 ranks.",
        "with 3 rows Wilcoxon cannot fall below 0.25",
        "in over half of the evaluated cases LP-FT was better in 0 of 3, separably in 0.",
        "−0.044 [−0.070, −0.018] ▼ worse",
        "3 rows: the test has little power.",
    ):
        assert said in text, said
    none = replace(several(), claims=[])
    assert "These runs cannot speak to them." in read(none).text


def test_paper_has_the_overview_and_not_the_heat_map_of_it():
    made = page.across_section(several(), [Picture(key, key, png()) for key in ("heat-map", "critical-difference")])
    assert re.findall(r'<div class="unprinted"><figure><img [^>]* alt="([^"]*)"', made) == ["heat-map"]
    assert "<figure><img " in made.split('alt="heat-map"')[1]


@pytest.mark.parametrize("text", ["[author: who?]", "a [author: x] b [author: y]"])
def test_what_only_the_author_knows_is_marked(text):
    marked = page.author_marked(text)
    assert re.sub("</?mark>", "", marked) == text and marked.count("<mark>[author: ") == text.count("[")


def test_the_checklist_says_how_many_are_filled_in():
    text = read(make_analysis([make_experiment()])).text
    found = re.search(r"in our words: (\d+) of (\d+) filled in from the runs", text)
    assert text.count("✓ from the runs") == int(found[1])
    assert text.count("✎ author") == int(found[2]) - int(found[1])


def test_an_estimate_over_a_part_of_the_labels_says_so():
    some = replace(make_estimate(0.9), over="1 of 2 labels")
    experiment = make_experiment()
    rows = [replace(row, test=some) for row in experiment.rows]
    assert "0.900 [0.870, 0.930] ± 0.012 (1 of 2 labels)" in read(make_analysis([replace(experiment, rows=rows)])).text
