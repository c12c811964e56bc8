"""Claim: time grows with the images, strategies and pixels that there are, and memory does not grow with the images.

    python benchmarks/growth.py                       # about 20 minutes on 2 cores; --quick for a tenth of it

runs ftcompare.py as a process on drawn pictures (64 px PNG) for one epoch, over the number of images (1k, 4k, 16k), of
strategies (1 to 8) and the size (32 to 224 px), one changed at a time, and prints seconds, seconds per unit against the
first row, and the largest resident memory. Linear growth keeps the second near 1; fixed costs make it fall.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
STRATEGIES = "ft lp l2sp lpft glf gfl l1sp autorgn".split()


def draw(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / "ab"[i % 2] / f"p{i // 2:05d}_{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        level = 90 + 40 * (i % 2)
        Image.fromarray(np.clip(rng.normal(level, 30, (64, 64)), 0, 255).astype(np.uint8)).save(file)
    return folder


def measured(folder: Path, strategies: int, size: int, arch: str) -> tuple[float, float]:
    """(seconds, largest resident memory in MiB) of a sweep."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, ROOT / "ftcompare.py", "--data", folder, "--group-regex", r"^(p\d+)_"]
        command += ["--arch", arch, "--weights", "none", "--epochs", 1, "--img-size", size, "--output-dir", out]
        command += ["--strategy", *STRATEGIES[:strategies]]
        started = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{' '.join(map(str, command))} failed")
        return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    args = parser.parse_args()
    share = 10 if args.quick else 1
    counts = [1000 // share, 4000 // share, 16000 // share]
    with tempfile.TemporaryDirectory() as scratch:
        folders = {count: draw(Path(scratch) / str(count), count) for count in counts}
        rows = [("images", count, (folders[count], 1, 32)) for count in counts]
        rows += [("strategies", n, (folders[counts[0]], n, 32)) for n in (1, 2, 4, 8)]
        rows += [("px", size, (folders[counts[0]], 1, size)) for size in (32, 64, 128, 224)]
        print(f"{'what':<11} {'many':>6} {'seconds':>8} {'per unit':>9} {'MiB':>7}")
        first = {}
        for what, many, how in rows:
            seconds, memory = measured(*how, args.arch)
            units = many**2 if what == "px" else many  # a picture's pixels
            per_unit = seconds / units
            first.setdefault(what, per_unit)
            print(f"{what:<11} {many:>6} {seconds:>8.1f} {per_unit / first[what]:>9.2f} {memory:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
