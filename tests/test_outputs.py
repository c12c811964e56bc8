"""docs/outputs.md says what every file and column is: it is held against what a real sweep and its report
leave, both ways."""

import csv
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import metrics

ARCH = "shufflenet_v2_x0_5"
COMMAND = (
    f"--data demo-tiny --arch {ARCH} --weights none --img-size 32 --epochs 2 -b 16 --strategy ft autorgn "
    "--folds 2 --tune 2 --device cpu"
)


def documented():
    """heading -> {name: meaning} of its table."""
    tables, heading = {}, None
    for line in (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            names, meaning = line.strip("| ").split(" | ", 1)
            for name in re.findall("`([^`]+)`", names):
                assert name not in tables.setdefault(heading, {}), f"{heading}: {name} stands there twice"
                tables[heading][name] = meaning
    return tables


DOCUMENTED = documented()


def fits(name, real):
    """Whether a documented name, <...> standing for anything, is that of a real one."""
    return re.fullmatch(re.sub("<[^<>]*>", ".+", name.replace(".", r"\.")), real) is not None


def agree(heading, real):
    """Every real name is documented, and every documented one is there or is said to be there only If."""
    names = DOCUMENTED[heading]
    assert [r for r in real if not any(fits(name, r) for name in names)] == [], f"not in {heading}"
    required = [name for name, meaning in names.items() if not meaning.startswith("If ")]
    assert [name for name in required if not any(fits(name, r) for r in real)] == [], f"not left: {heading}"


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The output folder of a sweep; figures are tested elsewhere, so matplotlib is made impossible to
    import."""
    out = tmp_path_factory.mktemp("left") / "runs"
    script = "import sys; sys.modules['matplotlib'] = None; sys.argv = sys.argv[1:]; import runpy; "
    script += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", script, ROOT / "ftcompare.py", *COMMAND.split(), "--output-dir", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def run_folder(left):
    return left / "demo-tiny" / ARCH / "autorgn" / "seed0-fold0"


def head(file):
    with open(file, newline="", encoding="utf-8") as lines:
        return next(csv.reader(lines))


def test_every_file_is_documented(left, run_folder):
    found = [file.relative_to(left).as_posix() for file in left.rglob("*") if file.is_file()]
    runs = [name for name in found if name.startswith("demo-tiny/")]
    kept = {re.sub("^cache/([^/]+)/.*", r"cache/\1/", name) for name in {*found} - {*runs}}
    folders = {"/".join(name.split("/")[:4]) + "/" for name in runs}
    agree("The folder", kept | {re.sub("/tune/.*", "/tune/", folder) for folder in folders})
    agree("A run's folder", [file.name for file in run_folder.iterdir()])


@pytest.mark.parametrize("name", ["log.csv", "ratios.csv", "predictions.csv"])
def test_every_column_of_a_run_is_documented(run_folder, name):
    agree(name, head(run_folder / name))


@pytest.mark.parametrize("name", ["results.csv", "comparisons.csv"])
def test_every_column_of_a_report_is_documented(left, name):
    agree(name, head(left / name))


def test_every_column_of_the_splits_is_documented(left):
    (file,) = (left / "splits").iterdir()
    agree("splits", head(file))


def test_the_metrics_of_the_results_are_those_of_the_run(left, run_folder):
    """test_<metric> stands for metrics alone: nothing else hides behind the brackets."""
    values = json.loads((run_folder / "metrics.json").read_text())["test"]["values"]
    columns = [name for name in head(left / "results.csv") if name.startswith(("val_", "test_"))]
    named = {name.partition("_")[2].removesuffix("_over") for name in columns}
    assert named == set(values) and "auroc" in values
    settings = "epochs batch_size grad_accum opt img_size augment tune weights_sha256 data_hash lr alpha".split()
    shown = [name[4:] for name in head(left / "results.csv") if name.startswith("set_")]
    assert shown == settings == re.findall("`([^`]+)`", DOCUMENTED["results.csv"]["set_<setting>"])


@pytest.mark.parametrize("part", ["about", "tuning", "data", "environment"])
def test_every_key_of_config_json_is_documented(run_folder, part):
    config = json.loads((run_folder / "config.json").read_text())
    agree("config.json", config)
    agree(part, config[part])


def test_a_setting_is_documented_or_is_a_flag(run_folder):
    config = json.loads((run_folder / "config.json").read_text())
    documented = DOCUMENTED["settings"]
    others = [name for name in config["settings"] if name not in documented]
    assert [name for name in others if name not in config["arguments"]] == []
    assert [name for name in documented if name not in config["settings"]] == []


def test_every_key_of_metrics_json_is_documented(run_folder):
    result = json.loads((run_folder / "metrics.json").read_text())
    agree("metrics.json", result)
    for split in ("val", "test"):
        agree("val and test", result[split])
    assert set(metrics.RATES).isdisjoint(result["test"]["values"])  # those are of two classes
