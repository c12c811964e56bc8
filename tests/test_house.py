"""The rooms: what imports what, that nothing goes in a circle, and that the report needs no torch."""

import ast
import os
import shutil
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


USED = {  # what each does where nothing of the project is beside it
    "train": """
model = torch.nn.Linear(3, 2)
labels, x = torch.tensor([0, 1] * 8), torch.randn(16, 3)
loss, weight = train.make_criterion(train.Recipe(device="cpu"), "multiclass", labels.numpy(), 2)
assert abs(loss(torch.zeros(16, 2), labels).item() / weight(labels) - math.log(2)) < 1e-6
assert sorted(np.concatenate(train.steps_of(np.arange(10), 4, 0, 0))) == list(range(10))
assert train.schedule(0, 10, 0.0) == 1.0""",
    "strategies": """
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
plan = strategies.make_plan("lp", model, epochs=1)
assert plan.begin_epoch(0) and [p.requires_grad for p in model.parameters()] == [False, False, True, True]""",
    "datasets": """
for name in ("a/1.png", "b/2.png"):
    Path(name).parent.mkdir()
    Path(name).write_bytes(b"a file")
assert datasets.load_index(".").classes == ["a", "b"]""",
    "images": """
from PIL import Image
Image.new("L", (8, 8), 51).save("grey.png")
assert images.decode_image("grey.png", 8)[0].reshape(-1).tolist() == [51] * 64
store = torch.full((1, 1, 2, 2), 51, dtype=torch.uint8)
x = images.batch(store, [0], "cpu", mean=(0.2,) * 3, std=(0.5,) * 3)
assert x.shape == (1, 3, 2, 2) and x.abs().max() < 1e-6""",
    "metrics": """
assert metrics.auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75""",
}


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_works_copied_alone_into_an_empty_folder(leaf, tmp_path):
    shutil.copy(ROOT / f"{leaf}.py", tmp_path)
    code = f"import math\nfrom pathlib import Path\nimport numpy as np\nimport torch\nimport {leaf}\n{USED[leaf]}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=alone())
    assert done.returncode == 0, done.stderr


def alone():
    """The environment without a path to the project."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


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
