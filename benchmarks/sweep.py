"""Claim: a whole sweep of eight strategies takes less time than the usual script, at the same accuracy.

    python benchmarks/sweep.py                       # ResNet-18, 96 px, 4 epochs; --arch resnet50, --busy 2, --repeat 3
    python benchmarks/sweep.py --strategy lp --epochs 10 --augment none             # linear probing

draws pictures (the demo's, enlarged, as PNG files in train/val/test), then runs in turn, each as a process of its own:
    usual       benchmarks/usual.py in float32
    usual+amp   the same with --amp --channels-last, as a reader of the tuning guide has it
    ftcompare   the same strategies, batches, epochs and size by ftcompare.py, with decoding, checkpoints and report
    floor       strategies.py's copy-paste loop on tensors that are in memory, float32, validation forwards included
and prints the median of each in seconds, the ratios of usual to ftcompare and of ftcompare to floor in each turn, and
the mean test balanced accuracy over the strategies. --busy N: with N processes that only compute beside it.
"""

import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import datasets
import strategies


def draw(folder: Path, side: int = 160) -> int:
    """The demo's pictures as files: FOLDER/{train,val,test}/<class>/<patient>_<n>.png, no patient on two sides."""
    index = datasets.demo("demo")
    patients = list(dict.fromkeys(index.groups))
    of = {patient: ("test", "val", "train", "train", "train")[i % 5] for i, patient in enumerate(patients)}
    for i, pixels in enumerate(index.arrays):
        place = folder / of[index.groups[i]] / index.classes[index.labels[i]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((side, side), Image.BICUBIC).save(place / f"{index.groups[i]}_{i}.png")
    return len(index.arrays)


def floor(folder: Path, arch: str, epochs: int, size: int, batch: int, chosen: list[str]) -> None:
    """The strategies by the loop at the top of strategies.py, on tensors in memory."""
    parts = {}
    for part in ("train", "val"):
        images = torchvision.datasets.ImageFolder(f"{folder}/{part}")
        pixels = [np.asarray(images[i][0].resize((size, size)), np.float32) / 255 for i in range(len(images))]
        parts[part] = (
            torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(images.targets),
        )
    torch.set_flush_denormal(True)
    started = time.perf_counter()
    for strategy in chosen:
        torch.manual_seed(0)
        model = getattr(torchvision.models, arch)(weights=None)
        head = strategies.replace_head(model, 4)
        plan = strategies.make_plan(strategy, model, head, epochs=epochs)
        pixels, labels = parts["train"]
        for epoch in range(epochs):
            if plan.begin_epoch(epoch):
                optimizer = torch.optim.AdamW(plan.groups, fused=True)
            for rows in torch.randperm(len(labels)).split(batch):
                torch.nn.functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()
                plan.after_backward()
                plan.set_rates(optimizer, factor=1.0)
                optimizer.step()
                plan.after_step(optimizer)
                optimizer.zero_grad()
            model.eval()
            with torch.no_grad():
                for images in parts["val"][0].split(batch):
                    model(images)
    print(json.dumps({"strategy": "all", "seconds": time.perf_counter() - started}))


def ours(folder: Path, out: Path, args: argparse.Namespace) -> list[str]:
    size = ["--img-size", args.img_size, "--epochs", args.epochs, "-b", 32, "--arch", args.arch]
    where = ["--data", folder, "--weights", "none", "--output-dir", out, "--metric", "balanced_accuracy"]
    command = [sys.executable, ROOT / "ftcompare.py", *where, *size, "--warmup", 0, "--augment", args.augment]
    return list(map(str, [*command, "--strategy", *args.strategy, *args.more]))


def accuracy(out: str, results: Path) -> float:
    """Mean test balanced accuracy of the strategies of a run."""
    if results.is_file():
        with open(results, newline="") as opened:
            return statistics.mean(float(row["test_balanced_accuracy"]) for row in csv.DictReader(opened))
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return statistics.mean(row["test"] for row in rows) if "test" in rows[0] else float("nan")


def compute() -> None:
    while True:
        sum(range(10**6))


@contextlib.contextmanager
def busy(processes: int):
    beside = [multiprocessing.Process(target=compute, daemon=True) for _ in range(processes)]
    for process in beside:
        process.start()
    try:
        yield
    finally:
        for process in beside:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--strategy", nargs="+", default=list(strategies.STRATEGIES))
    parser.add_argument("--augment", choices=("none", "light"), default="light")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--img-size", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="of usual, usual+amp, ftcompare, floor (all)")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further flags of ftcompare.py, last")
    parser.add_argument("--floor", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.floor:
        return floor(Path(args.floor), args.arch, args.epochs, args.img_size, 32, args.strategy)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load:.2f}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        print(f"{draw(folder)} pictures; {args.arch}, {args.img_size} px, {args.epochs} epochs, {args.augment}")
        script = [sys.executable, str(ROOT / "benchmarks" / "usual.py"), str(folder), "--arch", args.arch]
        same = ["--epochs", str(args.epochs), "--img-size", str(args.img_size), "--strategy", *args.strategy]
        script += [*same, "--augment", args.augment]
        again = [sys.executable, __file__, "--floor", str(folder), "--arch", args.arch]
        again += same
        contenders = {"usual": script, "usual+amp": [*script, "--amp", "--channels-last"]}
        contenders |= {"ftcompare": ours(folder, Path(scratch) / "runs", args), "floor": again}
        chosen = {name: contenders[name] for name in args.only or contenders}
        seconds: dict[str, list[float]] = {name: [] for name in chosen}
        for turn in range(args.repeat):
            for name, command in chosen.items():
                runs = Path(scratch) / f"runs{turn}"
                command = [str(runs) if part == str(Path(scratch) / "runs") else part for part in command]
                with busy(args.busy):
                    started = time.perf_counter()
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    took = time.perf_counter() - started
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr[-2000:]}")
                if name == "floor":  # its training alone: no start, no decoding
                    took = json.loads(done.stdout.splitlines()[-1])["seconds"]
                seconds[name].append(took)
                found = accuracy(done.stdout, runs / "results.csv" if name == "ftcompare" else Path("none"))
                print(f"  turn {turn + 1}  {name:<10} {took:7.1f} s   test balanced accuracy {found:.3f}", flush=True)
    for name, times in seconds.items():
        print(f"{name:<10} median {statistics.median(times):7.1f} s")
    for over, under in (("usual", "ftcompare"), ("usual+amp", "ftcompare"), ("ftcompare", "floor")):
        if over in seconds and under in seconds:
            ratios = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
            print(f"{over} / {under}: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
