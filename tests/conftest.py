"""Puts the root on sys.path, so that `python -m pytest` works from any folder; what many tests share."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)  # tiny tensors: more threads only cost, and beside other work they cost ten times


@pytest.fixture(autouse=True)
def figures_where_they_are_tested(request, monkeypatch):
    """Drawing takes seconds for every report, and every sweep ends with one."""
    if request.module.__name__ != "test_figures":
        monkeypatch.setattr("report.figures.available", lambda: False)


@pytest.fixture
def run(capsys, monkeypatch):
    """run(*arguments) -> (exit code, standard output, standard error) of the command line."""
    import ftcompare

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["ftcompare.py", *map(str, arguments)])
        code = ftcompare.command_line()
        out = capsys.readouterr()
        return code, out.out, out.err

    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, ten patients a class with three images each: bright squares against dark ones, in
    noise."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 170)):
        (root / label).mkdir()
        for i in range(30):
            pixels = np.clip(rng.normal(level, 40, (24, 24)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"p{label[0]}{i // 3}_{i}.png")
    return root


@pytest.fixture
def tiny(monkeypatch):
    """torchvision's builder knows Tiny; a function that writes a run of it."""
    from toys import Tiny, as_is, write_run

    import models

    monkeypatch.setattr(models, "new_model", lambda arch: Tiny())
    return lambda folder, classes, **about: write_run(folder, as_is(Tiny(len(classes))), classes=classes, **about)
