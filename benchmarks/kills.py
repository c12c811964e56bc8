"""Claim: a sweep that is killed at any moment, as often as one likes, ends bit for bit like one that was left alone.

    python benchmarks/kills.py                     # 100 kills, at most 15 minutes of two cores
    python benchmarks/kills.py --kills 10          # a look

runs all eight strategies with --tune 2 and --save-every 0 (a checkpoint after every step) on the smallest demo, and
kills it with SIGKILL: one half from outside, at a time that is uniform over the wall time of an undisturbed sweep; the
other half at the boundary of a writing: before or after the call of os.fsync, os.replace, os.link or os.unlink with
a random number. After each kill the same command is started again, until the sweep is done; then the next begins.
Compared with the undisturbed sweep: every tensor and the meta of best.pt, predictions.csv, ratios.csv, splits,
log.csv and metrics.json but for what a clock or the memory says, what --tune chose. What it printed:
    TO BE FILLED
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

SWEEP = "--data demo-tiny --arch shufflenet_v2_x0_5 --weights none --img-size 32 --epochs 2 -b 40 --device cpu --tune 2"
SWEEP += " --save-every 0 --native off --keep-last"
TIMED = {"seconds", "images_per_second", "peak_memory_bytes", "minutes"}
# Runs ftcompare.py, and ends it before (even numbers) or after the call of that number; prints how many there were.
AT_A_WRITING = """
import os, runpy, signal, sys
number, calls = int(sys.argv[1]), 0
def watched(real):
    def call(*arguments, **more):
        global calls
        calls += 1
        if calls * 2 == number: os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **more)
        if calls * 2 + 1 == number: os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
for name in ("fsync", "replace", "link", "unlink"):
    setattr(os, name, watched(getattr(os, name)))
sys.modules["matplotlib"] = None  # figures are not what is killed here
sys.argv = sys.argv[2:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("calls", calls, file=sys.stderr)
"""


def start(out: Path, number: int = 0) -> subprocess.Popen:
    """The sweep's process. number: of the boundary where it kills itself, 0 for none."""
    told = [sys.executable, "-c", AT_A_WRITING, str(number), str(ROOT / "ftcompare.py"), *SWEEP.split()]
    return subprocess.Popen(
        [*told, "--output-dir", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def untimed(value: object) -> object:
    """JSON without what a clock or the memory says."""
    if isinstance(value, dict):
        return {name: untimed(x) for name, x in value.items() if name not in TIMED}
    return [untimed(x) for x in value] if isinstance(value, list) else value


def content(file: Path) -> object:
    """What must be the same in both sweeps."""
    if file.suffix == ".csv":
        with open(file, newline="", encoding="utf-8") as lines:
            return [untimed(row) for row in csv.DictReader(lines)]
    if file.name == "config.json":
        config = json.loads(file.read_text())
        return untimed([config["settings"], config["tuning"], config["data"], config["resumed"]])
    if file.suffix == ".json":
        return untimed(json.loads(file.read_text()))
    checkpoint = torch.load(file, weights_only=True)
    tensors = {name: value.numpy().tobytes() for name, value in checkpoint["model"].items()}
    return [tensors, checkpoint.get("meta"), checkpoint.get("best")]


def differences(one: Path, two: Path) -> list[str]:
    files = [{f.relative_to(out) for f in out.glob("demo-tiny/**/*") if f.is_file()} for out in (one, two)]
    compared = {f for f in files[0] | files[1] if f.suffix in (".csv", ".json", ".pt")}
    wrong = [str(f) for f in compared if f not in files[0] & files[1] or content(one / f) != content(two / f)]
    splits = [[f.read_bytes() for f in sorted((out / "splits").iterdir())] for out in (one, two)]
    return wrong + (["splits"] if splits[0] != splits[1] else [])


def in_a_writing(out: Path) -> bool:
    """Whether the kill left something half written, or a checkpoint between its two names."""
    torn = [f for f in out.rglob("previous.pt") if not f.with_name("last.pt").exists()]
    return bool(torn or list(out.rglob("*.tmp")))


def kill_until_done(out: Path, kills: int, wall: float, calls: int, rng: random.Random, until: float) -> Counter:
    """Kills the sweep again and again, then lets it end. Returns counts of what happened."""
    seen = Counter()
    while True:
        number, process = 0, None
        if seen["kills"] < kills and time.monotonic() < until:
            number = rng.randrange(2, 2 * calls + 2) if rng.random() < 0.5 else 0
        process = start(out, number)
        if seen["kills"] < kills and time.monotonic() < until and not number:
            try:
                process.communicate(timeout=rng.uniform(0, wall))
            except subprocess.TimeoutExpired:
                process.kill()
        said = process.communicate()[0]
        if process.returncode == -signal.SIGKILL:
            seen += Counter({"kills": 1, "at a boundary": bool(number), "in a writing": in_a_writing(out)})
            continue
        if process.returncode != 0:
            raise SystemExit(f"exit code {process.returncode}:\n{said}")
        return seen


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kills", type=int, default=100)
    p.add_argument("--minutes", type=float, default=15, help="no kill after that")
    p.add_argument("--seed", type=int, default=0)
    told = p.parse_args()
    rng, total, sweeps, wrong, left = random.Random(told.seed), Counter(), 0, [], []
    until = time.monotonic() + 60 * told.minutes
    memory = Path("/dev/shm")  # a disk that only a power cut could disturb, and no fsync to wait for
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        alone, started = Path(folder) / "alone", time.monotonic()
        process = start(alone)
        said = process.communicate()[0]
        if process.returncode:
            raise SystemExit(said)
        wall, calls = time.monotonic() - started, int(said.rsplit("calls ", 1)[1])
        print(f"an undisturbed sweep: {wall:.0f} s, {calls} calls that write", flush=True)
        while total["kills"] < told.kills and time.monotonic() < until:
            out = Path(folder) / str(sweeps)
            # a kill loses a step and the start: after some eight a sweep would never end
            total += kill_until_done(out, min(8, told.kills - total["kills"]), wall, calls, rng, until)
            sweeps += 1
            wrong += differences(alone, out)
            left += [f.name for f in out.rglob("*.tmp")]
            print(f"{sweeps} sweeps, {dict(total)}, {len(wrong)} differences, {len(left)} temporaries left", flush=True)
    print("\n".join(wrong + left))
    return int(bool(wrong or left))


if __name__ == "__main__":
    sys.exit(main())
