"""docs/reliability.md, what is not tested elsewhere: folders that cannot be written, data that has gone, files of a run
that are damaged; and that the table names tests that there are."""

import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from toys import SMALL, read

import runs


def test_every_test_that_the_table_names_is_there():
    table = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    code = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("*.py")}
    named = re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(test_\w+))?", table)
    short = [name.strip("._") for name in re.findall(r"`\.\.\.?(_\w+)", table)]
    assert len(named) > 25
    for file, test in named:
        assert test == "" or re.search(rf"def {test.rstrip('_')}\w*\(", code[file]), (file, test)
    for name in short:
        assert any(re.search(rf"def test_\w*{name}\w*\(", text) for text in code.values()), name


@pytest.fixture
def trained(folder, tmp_path, run):
    """(arguments, the folder of the runs, of the run of Auto-RGN) of a finished sweep of two."""
    data, out = tmp_path / "data", tmp_path / "runs"
    shutil.copytree(folder, data)
    arguments = ["--data", data, *SMALL, "--strategy", "lp", "autorgn", "--epochs", "2", "--output-dir", out]
    assert run(*arguments, "--native", "off")[0] == 0
    (cell,) = out.glob("*/*/autorgn/seed0-fold0")
    return [*arguments, "--native", "off"], out, cell


def test_a_folder_that_cannot_be_written_is_a_line(trained, run, tmp_path):
    """A file system that is mounted read-only, where that can be done, and a file where a folder should be."""
    arguments, out, _ = trained
    places = [out / "results.csv" / "deeper"]
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place]
    if not subprocess.run(mount, check=False, capture_output=True).returncode:
        places.append(place / "runs")
    try:
        for folder in places:
            code, _, err = run(*arguments, "--output-dir", folder)
            assert code == 2 and err.count("\n") == 1 and err.startswith(f"ftcompare: {folder.parent}"), err
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def test_data_that_has_gone_is_named_and_the_report_is_made_without_it(trained, run):
    arguments, out, _ = trained
    gone = sorted((out.parent / "data" / "dark").iterdir())[3]
    gone.unlink()
    code, _, err = run(*arguments)
    assert code == 2 and err.count("\n") == 1 and "was begun with other settings" in err and "data_hash" in err
    shutil.rmtree(out.parent / "data")
    code, _, err = run(*arguments)
    assert code == 2 and err.count("\n") == 1 and str(out.parent / "data") in err
    assert run("--report", out)[0] == 0 and len(read(out / "results.csv")) == 2


DAMAGES = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "zeros": lambda raw: bytes(len(raw)),
    "another": lambda raw: b"\x00\xff<html>" + raw[:50],
}
# What the same command does with a damaged file of a finished run: refuses, goes on.
REFUSED = ("config.json", "metrics.json")
HARMLESS = ("log.csv", "ratios.csv", "predictions.csv", "hardest.npz", "best.pt", ".lock-1")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_run_is_a_line_or_costs_what_it_belongs_to(trained, run, damage):
    arguments, out, cell = trained
    assert {*REFUSED, *HARMLESS} == {file.name for file in cell.iterdir()}
    for name in (*REFUSED, *HARMLESS):
        raw = (cell / name).read_bytes()
        (cell / name).write_bytes(DAMAGES[damage](raw))
        for told in (arguments, ["--report", out], ["--predict", out.parent / "data", "--run", cell, "--out", "-"]):
            code, said, err = run(*told)
            assert "Traceback" not in said + err
            refused = name in REFUSED and told is not None and told is arguments
            if name == "best.pt" and "--predict" in told:
                refused = True
            if "--predict" not in told or name == "best.pt":
                assert code == (2 if refused else 0), (name, told[0], said[-300:], err)
            assert code != 2 or (err.count("\n") == 1 and name in err), (name, err)
        (cell / name).write_bytes(raw)
    assert runs.RunFolder(cell).done() and run(*arguments)[0] == 0


def test_a_flipped_bit_of_a_weight_is_no_other_prediction(trained, run):
    _, out, cell = trained
    file = cell / "best.pt"
    raw, weight = file.read_bytes(), runs.RunFolder(cell).load("best.pt")["model"]["fc.weight"].numpy().tobytes()
    assert raw.count(weight) == 1
    file.write_bytes(raw.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))
    code, _, err = run("--predict", out.parent / "data", "--run", cell, "--out", "-")
    assert code == 2 and "best.pt is damaged" in err and "checksum" in err


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_sweep_keeps_beside_its_runs_is_a_line_or_made_anew(trained, run, damage):
    arguments, out, _ = trained
    sweep = out / ".sweep-0.json"
    files = [out / "settled.json", *out.glob("splits/*.csv"), *out.glob("cache/*/pixels.*")]
    assert len(files) == 4
    for file in files:
        raw = file.read_bytes()
        file.write_bytes(DAMAGES[damage](raw))
        code, said, err = run(*arguments)
        assert "Traceback" not in said + err
        assert (code, err.count("\n")) == ((2, 1) if file.name == "settled.json" else (0, 0)), (file, said[-300:], err)
        assert file.name != "settled.json" or str(file) in err
        if file.name != "pixels.npy" and file.is_file():
            file.write_bytes(raw)
    assert not sweep.exists()
