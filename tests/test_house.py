"""The rooms: what imports what, that nothing goes in a circle, and that the report needs no torch."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

FILES = [*ROOT.glob("*.py"), *(ROOT / "report").glob("*.py")]
OURS = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in FILES}
LEAVES = ("train", "strategies", "datasets", "images", "metrics")


def imported(file, everywhere=False):
    """Our modules that a file imports; everywhere: within functions, too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name in OURS}


def test_no_import_goes_in_a_circle():
    below = {name: imported(file, everywhere=True) for name, file in OURS.items()}
    while below:
        free = [name for name, others in below.items() if not others & set(below)]
        assert free, f"a circle among {sorted(below)}"
        for name in free:
            del below[name]


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_imports_nothing_of_ours(leaf):
    assert imported(OURS[leaf], everywhere=True) == set()


def test_the_report_imports_runs_and_metrics_and_itself():
    for name, file in OURS.items():
        if name.startswith("report."):
            others = {other for other in imported(file, everywhere=True) if not other.startswith("report")}
            assert others <= {"runs", "metrics"}, (name, others)


def test_nothing_that_trains_needs_the_report():
    for name, file in OURS.items():
        if not name.startswith("report") and name != "ftcompare":
            assert not any(other.startswith("report") for other in imported(file, everywhere=True)), name


def test_the_report_loads_without_torch():
    code = "import sys, report.build, report.__main__; print({'torch', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_module_gives_out_another_s_names():
    """What a test or a module takes from a module is defined there."""
    defined = {}
    for name, file in OURS.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(ast.Module([n for n in tree.body if not hasattr(n, "name")], [])):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
        defined[name] = names
    for name, file in OURS.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in OURS and node.module != "report":
                strange = {alias.name for alias in node.names} - defined[node.module]
                assert not strange, f"{name} takes {strange} from {node.module}, which only passes it on"
