"""tables.py: Markdown and LaTeX hold the numbers, break on no name, and every table has a file of its own.
python -m pytest tests/report/test_tables.py"""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from awkward import ANALYSES, every, several
from factory import make_analysis, make_experiment

from report import tables

# ---- Markdown ----


@every
def test_markdown_says_the_same(name):
    analysis = ANALYSES[name]()
    text = tables.markdown(analysis)
    assert text == tables.markdown(ANALYSES[name]())
    if name != "hostile":
        assert not re.search(r"\bnan\b|\bNone\b", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    for experiment in analysis.experiments:
        assert tables.md(experiment.verdict) in text and all(row.strategy in text for row in experiment.rows)
    assert "<script" not in text.replace("\\<", "")


def test_markdown_tables_hold_the_numbers():
    text = tables.markdown(make_analysis([make_experiment()]))
    assert "| FT | 0.871 \\[0.841, 0.901\\] ± 0.012 | best | 3 |" in text
    assert "| FT − LP | +0.011 \\[−0.015, +0.037\\] | 0.050 | 0.200 | not separable |" in text
    assert "| FT | 30 | 420 | 0 | 2.36 | 7.08 | 1.06 GiB | 11,178,564 | 0 |" in text


def test_markdown_over_experiments():
    text = tables.markdown(several())
    assert "| demo/resnet18 | 0.871 (1) | 0.860 (2) |" in text and "| average rank | 1.00 | 2.00 |" in text
    assert "| LP | 1 of 3 | 0 of 3 | +0.021 | t1w/resnet18 |" in text
    alone = tables.markdown(make_analysis([make_experiment()]))
    assert "One dataset and backbone: ranks over datasets need at least two." in alone and "rank |" not in alone


# ---- LaTeX ----


def check_latex(text):
    """Braces and environments balance, and no special stands bare."""
    body = re.sub(r"(?m)^%.*$", "", text)
    bare = re.sub(r"\\[\\{}&%$#_]", "", body)
    depth = 0
    for c in bare:
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0
    assert not re.search("[#%_~]", re.sub(r"\\label{[^}]*}", "", bare))
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\label{tab:"):
        assert rule in text
    columns = {len(re.findall(r"(?<!\\)&", line)) for line in text.splitlines() if line.endswith(r"\\")}
    assert len(columns) == 1


@every
def test_latex_is_balanced(name):
    analysis = ANALYSES[name]()
    files = tables.latex(analysis)
    assert files == tables.latex(ANALYSES[name]())
    assert all(re.fullmatch(r"[a-z0-9-]+\.tex", file) and tables.makes(file) for file in files)
    assert len([file for file in files if file.startswith("results-")]) == len(analysis.experiments)
    for text in files.values():
        check_latex(text)


def test_files_that_somebody_else_made_are_known():
    made = ("results-demo-resnet18.tex", "budget-x.tex", "pairs-a-b-2.tex", "across.tex", "claims.tex")
    assert all(map(tables.makes, made))
    assert not any(map(tables.makes, ("notes.tex", "results-Demo.tex", "across.tex.bak", "my-claims.tex")))


def test_latex_escapes():
    assert tables.tex("a_b & 50 % $ # {x} ~ ^ \\ < − ±") == (
        r"a\_b \& 50 \% \$ \# \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} $<$ $-$ $\pm$"
    )


def test_latex_marks_the_best_and_those_beside_it():
    experiment = make_experiment(strategies=("FT", "LP", "G-LF", "G-FL", "LP-FT"))
    rows = [replace(row, collapsed=row.strategy == "LP-FT") for row in experiment.rows]
    text = tables.tex_results(replace(experiment, rows=rows), "x")
    assert r"FT & \textbf{0.871 [0.841, 0.901] $\pm$ 0.012} &" in text
    assert r"LP & 0.860 [0.830, 0.890] $\pm$ 0.012$^{\approx}$ &" in text
    assert r"G-FL & 0.838 [0.808, 0.868] $\pm$ 0.012 &" in text
    assert r"LP-FT & 0.827 [0.797, 0.857] $\pm$ 0.012$^{\dagger}$ &" in text and r"$\dagger$: calls" in text


def test_a_line_sets_the_average_ranks_apart():
    lines = tables.latex(several())["across.tex"].splitlines()
    (average,) = (i for i, line in enumerate(lines) if line.startswith("average rank & 1.00"))
    assert lines[average - 1] == r"\midrule" and lines[average - 2].startswith("t1w/densenet121")


def test_experiments_with_alike_names_have_files_of_their_own():
    names = [make_experiment(name, strategies=("FT",)) for name in ("a b", "a_b", "数据")]
    files = tables.latex(make_analysis(names))
    stems = {"a-b-resnet18", "a-b-resnet18-2", "x-resnet18"}
    assert {file for file in files if file.startswith("results-")} == {f"results-{stem}.tex" for stem in stems}


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
@pytest.mark.parametrize("name", ["lost_runs", "several", "one_seed"])
def test_latex_compiles(name, tmp_path):
    files = tables.latex(ANALYSES[name]())
    joined = "\n\\clearpage\n".join(files.values())
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    source = head + joined + "\n\\end{document}\n"
    (tmp_path / "all.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, (tmp_path / "all.log").read_text(errors="replace")[-2000:]
