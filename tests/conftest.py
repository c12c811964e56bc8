"""Puts the project's root on sys.path, so that `python -m pytest` works from any folder."""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(2)  # tiny tensors: more threads only cost
