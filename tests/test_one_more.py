"""What CONTRIBUTING.md promises: a strategy, a metric and a training flag, each added where it is known and
nowhere else, go from the command line through training, resume and the report. In a copy of the project, as a
newcomer adds them. (One more dataset: test_public_datasets.py.)"""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from toys import SMALL, predictions, read

STRATEGY = """

def top2(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    \"\"\"The head and the last two blocks.\"\"\"
    groups = groups_of(blocks[-3:], lr, hyper.weight_decay)
    return Parts(groups, [Stage("top", names_of(groups))])


SENTENCE = "the last two blocks and the classifier trained"
STRATEGIES["top2"] = Strategy("Top-2", top2, sentence=SENTENCE, **FT_RATES)
"""
METRIC = """

def worst_recall(matrix: np.ndarray) -> np.ndarray:
    return recall_per_class(matrix).min(axis=-1)


METRICS["worst_recall"] = Metric(
    name="worst_recall", given="matrix", compute=worst_recall, label="recall of the worst class"
)
"""
FIELD = '    label_smoothing: float = flag(0.0, "share of the label on all classes", most=1)\n'
FLAG = (  # where, and what takes its place
    ("    compile: bool = flag(", FIELD + "    compile: bool = flag("),
    ('reduction="sum"),', 'reduction="sum", label_smoothing=recipe.label_smoothing),'),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what a run needs."""
    root = tmp_path_factory.mktemp("copy") / "project"
    root.mkdir()
    for file in ROOT.glob("*.py"):
        shutil.copy(file, root)
    for part in ("report", "csrc"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("build", "__pycache__"))
    return root


def add(file, text):
    with open(file, "a") as opened:
        opened.write(text)


def sweep(project, folder, out, *arguments):
    command = [sys.executable, project / "ftcompare.py", "--data", folder, *SMALL, "--epochs", 2, "--native", "off"]
    command += [*arguments, "--output-dir", out]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_a_strategy_and_a_metric_are_an_entry_each_and_reach_the_page(project, folder, tmp_path):
    sk = pytest.importorskip("sklearn.metrics")
    add(project / "strategies.py", STRATEGY)
    add(project / "metrics.py", METRIC)
    how = ["--metric", "worst_recall", "--strategy", "lp", "top2"]
    done = sweep(project, folder, tmp_path, *how)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (run,) = tmp_path.glob("*/*/top2/seed0-fold0")
    rows = [row for row in predictions(run) if row["split"] == "test"]
    called = ["light" if float(row["score_light"]) > 0.5 else "dark" for row in rows]
    expected = min(sk.recall_score([row["label"] for row in rows], called, average=None))
    (row,) = (row for row in read(tmp_path / "results.csv") if row["strategy"] == "top2")
    assert float(row["test_worst_recall"]) == pytest.approx(expected, abs=1e-12)
    trained = {r["strategy"]: int(r["trainable_parameters"]) for r in read(tmp_path / "results.csv")}
    assert trained["lp"] < trained["top2"]
    page = (tmp_path / "report.md").read_text()
    assert "Top-2" in page and "recall of the worst class" in page.lower()
    assert "the last two blocks and the classifier trained" in page
    assert sweep(project, folder, tmp_path, *how).stdout.count("done before") == 2


def test_a_training_flag_is_a_field_and_decides_whether_a_run_is_the_same(project, folder, tmp_path):
    before, new = tmp_path / "before", tmp_path / "new"
    assert sweep(project, folder, before, "--strategy", "lp").returncode == 0
    text = (project / "train.py").read_text()
    for anchor, added in FLAG:
        assert text.count(anchor) == 1
        text = text.replace(anchor, added)
    (project / "train.py").write_text(text)

    resumed = sweep(project, folder, before, "--strategy", "lp")
    assert resumed.returncode == 0 and "done before" in resumed.stdout, resumed.stderr
    refused = sweep(project, folder, before, "--strategy", "lp", "--label-smoothing", "0.2")
    assert refused.returncode == 2 and "label_smoothing" in refused.stderr and refused.stderr.count("\n") == 1

    done = sweep(project, folder, new, "--strategy", "lp", "--label-smoothing", "0.2")
    assert done.returncode == 0, done.stderr
    logs = [read(next(out.glob("*/*/lp/*/log.csv"))) for out in (before, new)]
    assert logs[0][0]["train_loss"] != logs[1][0]["train_loss"]
    (config,) = new.glob("*/*/lp/*/config.json")
    assert json.loads(config.read_text())["settings"]["label_smoothing"] == 0.2
    for other in ((), ("--label-smoothing", "0.1")):
        refused = sweep(project, folder, new, "--strategy", "lp", *other)
        assert refused.returncode == 2 and "label_smoothing" in refused.stderr, refused.stderr
    usage = sweep(project, folder, new, "--label-smoothing", "2").stderr
    assert "'2' is not a number from 0 to 1" in usage
