"""report/build.py and python -m report: what is written, what goes, what stays."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from factory import all_right, csv_of, outputs, png, right_scores, toy, write_cells, write_four_experiments, write_run

from report import build
from report.__main__ import main


@pytest.fixture
def rng():
    return np.random.default_rng(0)


ONE_OF_FIVE = ("into 5 folds, of which 1 was run", "of 5 folds planned, 1 ")
TWO_SEEDS = ("once, with", "of 3 seeds planned, 2 were run")
TWO_OF_THREE = ("into 3 folds, of which 2 were run", "of 3 folds planned, 2 were run")


@pytest.mark.parametrize(
    ("cells", "arguments", "about", "said"),
    [
        ([(0, 0), (0, 1)], {"folds": 3, "seed": [0]}, {}, TWO_OF_THREE),
        ([(0, 0), (0, 2)], {"folds": 3, "seed": [0]}, {}, TWO_OF_THREE),
        ([(0, 0)], {"folds": 5, "seed": [0]}, {}, ONE_OF_FIVE),
        # --splits-file: its folds are the data's, the argument is 1
        ([(0, 0), (0, 1)], {"folds": 1, "seed": [0]}, {"folds": 4}, ("into 4 folds, of which 2 were run",)),
        ([(0, 0), (1, 0)], {"folds": 1, "seed": [0, 1, 2]}, {}, TWO_SEEDS),
    ],
)
def test_an_interrupted_sweep_is_described_as_it_was_planned(tmp_path, cells, arguments, about, said):
    write_cells(tmp_path, cells, arguments=arguments, about_data=about)
    texts, experiment = outputs(tmp_path)
    assert all(text in texts["md"] for text in said)
    wanted = max(about.get("folds", 1), arguments["folds"]) * len(arguments["seed"])
    assert [(row.done, row.missing) for row in experiment.rows] == [(len(cells), wanted - len(cells))] * 2
    lost = 2 * (wanted - len(cells))
    assert f"{lost} of {2 * wanted} runs have no result ({lost} not run)." in experiment.notes[0]
    assert f"| {wanted - len(cells)} not run |" in texts["md"]


def test_a_whole_sweep_and_one_without_its_command_are_described_by_what_is_there(tmp_path):
    asked = {"folds": 3, "seed": [0], "strategy": ["ft", "lp"]}
    write_cells(tmp_path / "whole", [(0, 0), (0, 1), (0, 2)], arguments=asked)
    write_cells(tmp_path / "bare", [(0, 0), (0, 1)])
    whole, experiment = outputs(tmp_path / "whole")
    assert "into 3 folds, with" in whole["md"]
    assert "planned" not in whole["md"] and "Not begun" not in whole["md"]
    assert not experiment.lost_cells and "on each of 3 folds" in whole["md"]
    assert "into 2 folds, with" in outputs(tmp_path / "bare")[0]["md"]


def test_not_run_is_not_failed(tmp_path):
    """FT has both folds, LP one and a failure, L2-SP one that was never begun."""
    write_cells(tmp_path, [(0, 0), (0, 1)], ["FT"])
    write_cells(tmp_path, [(0, 0)], ["LP", "L2-SP"])
    images = [f"f1-{k}" for k in range(60)]
    write_run(tmp_path, "LP", None, np.tile([0, 1], 30), fold=1, status="failed", images=images)
    texts, _ = outputs(tmp_path)
    lines = texts["md"].split("Budget")[1].split("Pairs")[0].splitlines()
    cells = {line.split(" | ")[0]: line for line in lines}
    assert cells["| FT"].endswith("| 0 |") and cells["| LP"].endswith("| 1 failed |")
    assert cells["| L2-SP"].endswith("| 1 not run |") and cells["| Strategy"].endswith("| No result |")
    tex = {line.split(" & ")[0]: line for line in texts["budget"].splitlines()}
    assert tex["L2-SP"].endswith(r"& 1 not run \\") and tex["LP"].endswith(r"& 1 failed \\")
    assert "Runs without a result: 1 failed and 1 not run." in texts["md"] and ">Failed<" not in texts["html"]


@pytest.fixture
def runs_folder(tmp_path):
    write_four_experiments(tmp_path)
    write_run(tmp_path, "LP", None, np.tile([0, 1], 50), data="a", status="failed")
    return tmp_path


def test_everything_is_written_and_nothing_temporary_stays(runs_folder):
    build.build(runs_folder)
    written = {"results.csv", "comparisons.csv", "report.md", "report.html", "tables"}
    assert {f.name for f in runs_folder.iterdir()} == written | {"a", "b"}
    rows = csv_of(runs_folder)
    assert len(rows) == 13 and [row["status"] for row in rows].count("failed") == 1
    assert {row["reason"] for row in rows if row["status"] == "failed"} == {"the loss grew in epoch 2"}
    pairs = csv_of(runs_folder, "comparisons.csv")
    assert len(pairs) == 4 * 3 and "nan" not in {pair["p_holm"] for pair in pairs}
    first = pairs[0]
    assert [first[name] for name in ("data", "arch", "a", "b")] == ["a", "net", "FT", "LP-FT"]
    assert float(first["difference"]) == pytest.approx(-0.1) and first["wilcoxon_p"] == ""
    page = (runs_folder / "report.html").read_text()
    assert "LP-FT has the highest accuracy, 0.700" in page and "the loss grew in epoch 2" in page


def report_command(*arguments, before=""):
    """python -m report, after the statements of `before`."""
    script = f"import sys; {before}; sys.argv = sys.argv[1:]; import runpy; "
    script += "runpy.run_module('report', run_name='__main__')"
    command = [sys.executable, "-c", script, "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_both_commands_write_the_same_report_and_neither_needs_torch(tmp_path, rng):
    """With torch and torchvision made impossible to import, python -m report works; --report gives the same
    bytes."""
    labels = toy(rng, 40)
    for strategy in ("FT", "LP"):
        write_run(tmp_path, strategy, right_scores(labels, rng.random(40) < 0.7), labels)
    one = report_command(tmp_path, before="sys.modules['torch'] = sys.modules['torchvision'] = None")
    assert one.returncode == 0, one.stderr
    names = ("results.csv", "comparisons.csv", "report.md", "report.html")
    first = {name: (tmp_path / name).read_bytes() for name in names}
    command = [sys.executable, ROOT / "ftcompare.py", "--report", tmp_path]
    two = subprocess.run(command, capture_output=True, text=True, check=False)
    assert two.returncode == 0, two.stderr
    assert {name: (tmp_path / name).read_bytes() for name in names} == first and one.stdout == two.stdout


def test_the_report_imports_of_ours_runs_and_metrics_alone(tmp_path):
    write_run(tmp_path, "FT", all_right(np.tile([0, 1], 20)), np.tile([0, 1], 20))
    listed = "import atexit; atexit.register(lambda: print('\\n'.join(sorted(sys.modules)), file=sys.stderr))"
    done = report_command(tmp_path, before=listed)
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    ours = {file.stem for file in ROOT.glob("*.py")}
    assert done.returncode == 0 and "torch" not in imported and imported & ours == {"runs", "metrics"}


@pytest.mark.parametrize("make", ["nothing", "empty"])
def test_a_folder_without_runs_is_refused_in_one_line(tmp_path, make):
    folder = tmp_path / "runs"
    if make == "empty":
        folder.mkdir()
    for command in (["-m", "report", folder], [ROOT / "ftcompare.py", "--report", folder]):
        command = [sys.executable, *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and str(folder) in done.stderr


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_the_command_takes_one_folder_and_says_so_in_one_line(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"report: give one folder of runs, not {len(arguments)}: python -m report runs/"
    ]


def test_help_is_no_error(capsys):
    assert main(["--help"]) == 0 and "python -m report runs/" in capsys.readouterr().out


def test_a_file_where_a_folder_should_be_is_one_line(runs_folder, capsys):
    (runs_folder / "tables").write_text("mine")
    assert main([str(runs_folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a file, and should be a folder" in line and (runs_folder / "tables").read_text() == "mine"


def test_tables_of_runs_that_are_gone_go_too_and_those_of_others_stay(runs_folder):
    build.build(runs_folder)
    tables = runs_folder / "tables"
    assert list(tables.glob("*b-wide*")) and (tables / "across.tex").is_file()
    (tables / "mine.tex").write_text("by hand")
    (tables / "drafts").mkdir()
    (tables / "drafts" / "results-old.tex").write_text("by hand too")
    shutil.rmtree(runs_folder / "b")
    shutil.rmtree(runs_folder / "a" / "wide")
    build.build(runs_folder)
    names = {file.name for file in tables.iterdir()}
    assert {"mine.tex", "drafts"} <= names and "across.tex" not in names
    assert not any("wide" in name for name in names)
    assert (tables / "drafts" / "results-old.tex").read_text() == "by hand too"
    assert not [file for file in runs_folder.iterdir() if file.name.startswith(".")]


def test_a_panel_of_gradcam_is_carried_over_and_is_on_the_page(runs_folder):
    (runs_folder / "figures").mkdir()
    (runs_folder / "figures" / "gradcam-a-net.png").write_bytes(png())
    for _ in range(2):
        found = build.build(runs_folder)
        assert [experiment.gradcam for experiment in found.experiments] == [True, False, False, False]
        assert (runs_folder / "figures" / "gradcam-a-net.png").read_bytes() == png()
        assert "Grad-CAM" in (runs_folder / "report.html").read_text()


def made_by_a_report(name):
    return name.startswith("results-")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "results-old.tex").write_text("old")
    (folder / "mine.tex").write_text("mine")
    with pytest.raises(KeyError), build.written_anew(folder, made_by_a_report) as place:
        (place / "results-new.tex").write_text("new")
        raise KeyError
    assert {file.name for file in folder.iterdir()} == {"results-old.tex", "mine.tex"}
    with build.written_anew(folder, made_by_a_report) as place:
        (place / "results-new.tex").write_text("new")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"results-new.tex": "new", "mine.tex": "mine"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_without_anything_in_it_goes(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "results-old.png").write_text("old")
    with build.written_anew(tmp_path / "figures", made_by_a_report):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_reports_at_once_lose_nothing_of_the_users(tmp_path, monkeypatch):
    """The other report puts its folder in place between our two renames."""
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "mine.tex").write_text("mine")
    rename = type(folder).rename

    def and_the_other_is_faster(self, target):
        result = rename(self, target)
        if self == folder and not folder.exists():
            folder.mkdir()
            (folder / "results-new.tex").write_text("theirs")
        return result

    monkeypatch.setattr(type(folder), "rename", and_the_other_is_faster)
    with build.written_anew(folder, made_by_a_report) as place:
        (place / "results-new.tex").write_text("ours")
    assert {file.name for file in folder.iterdir()} == {"mine.tex", "results-new.tex"}
    assert list(tmp_path.iterdir()) == [folder]
