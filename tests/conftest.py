"""Puts the project's root on sys.path, so that `python -m pytest` works from any folder."""

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)  # tiny tensors: more threads only cost, and beside other work they cost ten times


@pytest.fixture(autouse=True)
def figures_where_they_are_tested(request, monkeypatch):
    """Drawing takes seconds for every report, and every sweep ends with one."""
    if request.module.__name__ != "test_figures":
        monkeypatch.setattr("report.figures.available", lambda: False)
