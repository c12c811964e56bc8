"""Which fine-tuning strategy should I use on my images? Trains all eight fairly and prints the table.

    python ftcompare.py --data demo                                        # offline, in minutes, on a CPU
    python ftcompare.py --data my_images/ --arch resnet50 --strategy all --seed 0 1 2
    python ftcompare.py --data cholect50 --arch resnet50 --strategy autorgn

Every cell (data, arch, strategy, seed, fold) becomes a folder below runs/; run the same command again and it
goes on where it was. Order of this file: the model and its weights, the training loop, one cell, the sweep,
the command line."""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

import datasets
import gradcam
import images
import metrics
import models
import predict
import runs
import splits
import strategies
import train
from datasets import DataError, Index
from prepare import (
    Data,
    Prepared,
    UsageError,
    check,
    choose_thresholds,
    describe_data,
    duration,
    judge_scores,
    prepare,
    without_both,
)
from report import build as report
from runs import at_an_end

VERSION = "0.1"


@dataclass(frozen=True)
class Cell:
    """A run: everything that tells it from the others of its sweep."""

    data: str
    arch: str
    strategy: str
    seed: int
    fold: int
    trial: int | None = None  # of --tune

    def path(self, output_dir: str) -> Path:
        return runs.run_path(output_dir, **asdict(self))

    def shared_by_seeds(self) -> Cell:
        """What --tune runs once for all seeds, as a key."""
        return replace(self, seed=0)

    def __str__(self) -> str:
        name = strategies.STRATEGIES[self.strategy].name
        trial = "" if self.trial is None else f", tuning, trial {self.trial + 1}"
        return f"{self.data} {self.arch} {name} seed {self.seed} fold {self.fold}{trial}"


def run_cell(
    cell: Cell,
    data: Data,
    weights: models.Weights,
    s: argparse.Namespace,
    say: Progress,
    tuned: dict | None = None,
) -> dict:
    """Trains and scores a cell, or finds it done. Returns its metrics.json. tuned: what tune() chose."""
    run = runs.RunFolder(cell.path(s.output_dir))
    settings = cell_settings(cell, data, weights, s)
    if tuned:
        s = argparse.Namespace(**(vars(s) | {name: tuned[name] for name in ("lr", "alpha") if name in tuned}))
    with run.locked():
        run.check(settings, overwrite=s.overwrite)
        if run.done():
            say.line(f"{cell}: done before")
            result = run.read_json("metrics.json")
            run.complete_logs(result["epochs"])
            return result
        recipe = train.Recipe(
            **{
                f: getattr(s, f)
                for f in train.Recipe.__dataclass_fields__
                if f not in ("device", "seed", "amp")
            },
            device=torch.device(s.device),
            seed=cell.seed,
            amp=train.AMP[s.amp],
        )
        model, head, note = models.build_model(cell.arch, weights, len(data.index.classes), cell.seed)
        # On a CPU, NHWC costs up to a third at 32 px and gains a little only with large batches of large
        # pictures.
        nhwc = recipe.device.type == "cuda" or (s.batch_size >= 32 and s.img_size >= 128)
        model.to(recipe.device, memory_format=torch.channels_last if nhwc else torch.contiguous_format)
        plan = make_plan(cell, model, head, s)
        kernel, ran = load_kernel(plan, s.device, s.native)
        if kernel:
            plan.use_kernel(kernel)
        say.cell(cell, s.epochs, describe_plan(plan, note))
        record = {
            "settings": settings,
            "strategy": strategies.STRATEGIES[cell.strategy].name,
            "tuning": tuned,
            "data": describe_data(data),
            "environment": environment(s) | {"native": ran, "weights": weights.source},
            "arguments": vars(s),
            "command": sys.argv,
        }
        run.write_json("config.json", record)
        meta = checkpoint_meta(cell, model, data, s)
        train.reset_peak_memory(recipe.device)
        try:
            if tuned and "failed" in tuned:
                raise train.Diverged(tuned["failed"])
            train.run(
                model,
                plan,
                data,
                run,
                recipe,
                lambda rows, scores: judge_scores(data.index, rows, scores),
                meta,
                after_epoch=say.epoch,
                progress=say.step,
            )
            result = score(cell, model, plan, data, run, recipe, s.threshold)
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"out of memory: {cell}, stage {plan.stage.name}, batch {s.batch_size}: {str(error).splitlines()[0]}; "
                f"for all strategies alike, try -b {max(2, s.batch_size // 2)} --grad-accum {2 * s.grad_accum}"
            ) from None
        except train.Diverged as error:
            run.write_json("failed.json", {"reason": str(error)})
            say.line(f"{cell}: stopped, {error}; a lower --lr may do")
            return {"failed": str(error)}
        run.file("failed.json").unlink(missing_ok=True)
        say.result(result)
        return result


def checkpoint_meta(cell: Cell, model: nn.Module, data: Data, s: argparse.Namespace) -> dict:
    """What goes into best.pt beside the weights, so that the file can be used alone."""
    return {
        "arch": cell.arch,
        "classes": data.index.classes,
        "task": data.index.task,
        "mean": list(data.mean),
        "std": list(data.std),
        "img_size": s.img_size,
        "resize": s.resize,
        "bit_depth": s.bit_depth,
        "transform_input": getattr(model, "transform_input", None),
        "version": VERSION,
    }


def load_kernel(plan: strategies.Plan, device: str, mode: str) -> tuple[Callable | None, str]:
    """(csrc's kernel for Auto-RGN's norms or None, what runs), built when it is first needed. mode: auto, on,
    off."""
    if not plan.measures_norms():
        return None, "not needed"
    from csrc import loader

    kind = device.partition(":")[0]
    try:
        kernel = loader.load(mode, kind)
    except RuntimeError as error:
        raise UsageError(f"--native {mode}: {error}; --native off goes without") from None
    return (
        kernel,
        kernel.ran if kernel else f"reference ({'off' if mode == 'off' else loader.obstacle(kind)})",
    )


def make_plan(cell: Cell, model: nn.Module, head: nn.Module, s: argparse.Namespace) -> strategies.Plan:
    return strategies.make_plan(
        cell.strategy, model, head, epochs=s.epochs, lr=s.lr, opt=s.opt, hyper=hyperparameters(s)
    )


def score(cell: Cell, model, plan, data: Data, run: runs.RunFolder, recipe: train.Recipe, rule: str) -> dict:
    """Validation and test scored once with the checkpoint that validation chose; writes the run's last
    runs."""
    best, last = run.load("best.pt"), run.load("last.pt")
    model.load_state_dict(best["model"])
    scores = {
        split: train.infer(model, data, data.rows[split], recipe)[0]
        for split in ("val", "test")
        if len(data.rows[split])
    }  # fmt: skip  (a trial of --tune has no test)
    thresholds = choose_thresholds(data.index, data.rows["val"], scores["val"], rule)
    result = {
        split: judge_scores(data.index, data.rows[split], scores[split], thresholds) for split in scores
    }
    run.write_predictions(data.index, splits.clusters(data.index, data.identical), data.rows, scores)
    if "test" in scores:
        write_hardest(run, data, scores["test"])
    run.save("last.pt", last | {"optimizer": None})  # training is over: half the bytes
    result = {
        "cell": asdict(cell),
        "metric": data.index.metric,
        "second": data.index.second,
        "best_epoch": best["meta"]["epoch"],
        "best_stage": best["meta"]["stage"],
        "stages": [stage.name for stage in plan.stages],
        "epochs": last["epoch"],
        "optimizer_steps": sum(row["steps"] for row in last["log"]),
        "minutes": sum(row["seconds"] for row in last["log"]) / 60,
        "peak_memory_bytes": max((row["peak_memory_bytes"] for row in last["log"]), key=lambda b: b or 0),
        "trainable_parameters": plan.trainable_parameters(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "skipped_steps": plan.skipped_steps(),
        "positive": data.index.classes[1]
        if data.index.task == "multiclass" and len(data.index.classes) == 2
        else None,
        "thresholds": thresholds,
        "threshold_rule": rule,
        "threshold_fallback": []
        if rule == "0.5"
        else without_both(data.index, data.rows["val"], scores["val"]),
        "images": {split: len(rows) for split, rows in data.rows.items()},
        **result,
    }
    run.write_json("metrics.json", result)
    return result


def write_hardest(run: runs.RunFolder, data: Data, scores: np.ndarray) -> None:
    """The test images that the run got most wrong, small, so that a report made without the data can show them."""
    rows = data.rows["test"]
    right = metrics.probability_of_truth(scores, data.index.labels[rows])

    def pixels_of(places: np.ndarray) -> np.ndarray:
        return data.pixels[torch.as_tensor(data.lookup[rows[places]], device=data.pixels.device)].cpu().numpy()

    run.write_hardest([data.index.paths[i] for i in rows], right, pixels_of)


def cell_settings(cell: Cell, data: Data, weights: models.Weights, s: argparse.Namespace) -> dict:
    """Everything that decides a run's numbers. Two runs with equal settings are the same run."""
    split = {name: hashlib.sha256("\0".join(data.index.paths[i] for i in rows).encode()).hexdigest()[:16]
             for name, rows in data.rows.items()}  # fmt: skip
    names = "img_size resize bit_depth epochs schedule_epochs batch_size grad_accum opt warmup augment class_weights"
    names += " clip_grad patience amp compile threshold"
    lr, hyper = strategies.resolved(cell.strategy, s.opt, s.lr, hyperparameters(s))
    tunes = s.tune if cell.trial is None else 0
    used = ("bn", "stage_shares", *strategies.STRATEGIES[cell.strategy].uses)
    return {
        "cell": asdict(cell),
        "task": data.index.task,
        "classes": data.index.classes,
        "metric": data.index.metric,
        "data_hash": data.fingerprint,
        "joined_ids": len(data.index.spellings()),
        "pixels_hash": data.digest,
        "split_hash": split,
        "weights_sha256": weights.sha256,
        "tune": tunes,
        "tune_order": "outward from the default" if tunes else None,  # None with tune: drawn, in older runs
        "lr": None if tunes else lr,
        **{name: getattr(s, name) for name in names.split()},
        "hyperparameters": {
            name: None if tunes and name == "alpha" else getattr(hyper, name) for name in used
        },
    }


def hyperparameters(s: argparse.Namespace) -> strategies.Hyperparameters:
    return strategies.Hyperparameters(
        **{f: getattr(s, f) for f in strategies.Hyperparameters.__dataclass_fields__}
    )


def environment(s: argparse.Namespace) -> dict:
    """Versions and machine: kept beside the settings, not compared when a run is resumed."""
    here = Path(__file__).resolve().parent
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
        commit = git.stdout.strip() if git.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    name = torch.cuda.get_device_name(s.device) if s.device.startswith("cuda") else processor()
    return {
        "ftcompare": VERSION,
        "git": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": s.device,
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The CPU's name, where the system tells."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found.group(1)
    return platform.processor() or platform.machine()


def describe_plan(plan: strategies.Plan, note: str) -> list[str]:
    total = sum(p.numel() for p in plan.model.parameters())
    spans = [f"{stage.name} from epoch {start + 1}" for stage, start, following in
             zip(plan.stages, plan.starts, [*plan.starts[1:], plan.epochs]) if following > start]  # fmt: skip
    lines = [
        f"weights: {note}",
        f"trains {plan.trainable_parameters():,} of {total:,} parameters; stages: {', '.join(spans)}",
    ]
    blocks: dict[tuple, list[dict]] = {}
    for group in plan.groups:  # Auto-RGN has a group for each layer: a line a block is what can be read
        blocks.setdefault((group["block"], group["lr"], group["weight_decay"]), []).append(group)
    for (block, lr, decay), groups in blocks.items():
        count = sum(p.numel() for g in groups for p in g["params"])
        many = f", {len(groups)} groups" if len(groups) > 1 else ""
        lines.append(f"  {block:<24} {count:>12,} parameters  lr {lr:g}  weight decay {decay:g}{many}")
    lp = next((stage.lr for stage in plan.stages if stage.lr is not None), None)
    return lines + ([] if lp is None else [f"  stage {plan.stages[0].name}: lr {lp:g}"])


def inner_split(index: Index, sides: np.ndarray, identical: list, s: argparse.Namespace) -> np.ndarray:
    """The split that tunes inside a fold, checked: DataError where it saw what the fold is judged by."""
    inner = splits.nested_split(index, sides, identical, seed=s.split_seed, val_fraction=s.val_fraction)
    splits.check_nested(index, sides, inner)
    return inner


def tune(cell: Cell, data: Data, weights: models.Weights, s: argparse.Namespace, say: Progress) -> dict:
    """--tune: trains s.tune trials of the cell's strategy on a split inside the training part of its fold, and chooses
    by the validation metric there. Returns {"lr", "alpha" (SP), "trials", "optimizer_steps", "minutes", ...}, or with
    "failed". Their seed is --split-seed, and all --seed of a fold share them."""
    inner = inner_split(data.index, data.sides(), data.identical, s)
    nested = replace(data, rows={side: np.flatnonzero(inner == side) for side in datasets.SPLITS})
    rows, metric = [], data.index.metric
    for i, trial in enumerate(strategies.trials(cell.strategy, s.opt, s.tune)):
        at = replace(cell, seed=s.split_seed, trial=i)
        setting = argparse.Namespace(**(vars(s) | {"lr": trial["lr"], "alpha": trial["alpha"]}))
        if runs.RunFolder(at.path(s.output_dir)).done() and not s.overwrite:
            say.skip(s.epochs)
        result = run_cell(at, nested, weights, setting, say)
        if "failed" not in result:  # its numbers are kept; checkpoints of all trials would fill a disk
            for name in ("best.pt", "last.pt"):
                (at.path(s.output_dir) / name).unlink(missing_ok=True)
        value = result["val"]["values"][metric] if "failed" not in result else None
        spent = {name: result.get(name) for name in ("optimizer_steps", "minutes", "failed")}
        if "failed" in result and (log := at.path(s.output_dir) / "log.csv").is_file():
            with open(log, encoding="utf-8", newline="") as lines:  # it was paid for all the same
                epochs = list(csv.DictReader(lines))
            spent["optimizer_steps"] = sum(int(row["steps"]) for row in epochs)
            spent["minutes"] = sum(float(row["seconds"]) for row in epochs) / 60
        rows.append(trial | {"value": value} | spent)
    summary = {
        "trials": rows,
        "images": {side: len(r) for side, r in nested.rows.items() if len(r)},
        "optimizer_steps": sum(r["optimizer_steps"] or 0 for r in rows),
        "minutes": sum(r["minutes"] or 0 for r in rows),
    }
    good = [r for r in rows if r["value"] is not None and math.isfinite(r["value"])]
    if not good:
        return summary | {"failed": f"all {len(rows)} trials of --tune diverged"}
    best = (max if metrics.higher_is_better(metric) else min)(
        good, key=lambda r: r["value"]
    )  # of equals the first
    chosen = {name: best[name] for name in ("lr", "alpha") if best[name] is not None}
    shown = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
    tied = (
        " (all trials alike: the default)" if len(good) > 1 and len({r["value"] for r in good}) == 1 else ""
    )
    say.line(f"{cell}: tuned{tied}, {len(rows)} trials, {metric} {number(best['value'])} with {shown}")
    tuning = summary | chosen | {"value": best["value"]}
    if ends := at_an_end(tuning):
        say.line(f"  WARNING: {' and '.join(ends)} at an end of what was tried; the best may lie beyond it")
    return tuning


class Progress:
    """What is said while it runs: a moving line on a terminal, a line an epoch otherwise. The sweep's
    remaining time is the mean of the epochs so far times those that are left."""

    def __init__(self, cells: int, epochs: int):  # epochs of all cells together
        self.live, self.started = sys.stderr.isatty(), time.perf_counter()
        self.epochs_left, self.epochs_seen, self.cells, self.number = epochs, 0, cells, 0
        self.total_epochs = epochs

    def clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", file=sys.stderr)

    def line(self, text: str) -> None:
        self.clear()
        print(text, flush=True)

    def cell(self, cell: Cell, epochs: int, description: list[str]) -> None:
        self.total_epochs = epochs
        self.line(f"\n[{self.number} of {self.cells}] {cell}")
        for text in description:
            self.line(f"  {text}")

    def skip(self, epochs: int) -> None:
        self.epochs_left -= epochs

    def remaining(self) -> str:
        if not self.epochs_seen:
            return ""
        return f", {duration((time.perf_counter() - self.started) / self.epochs_seen * self.epochs_left)} left in all"

    def step(self, step: int, steps: int, rate: float) -> None:
        if self.live:
            print(
                f"\r\033[K    step {step}/{steps}, {rate:.0f} images/s{self.remaining()}",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def epoch(self, row: dict) -> None:
        self.epochs_seen, self.epochs_left = self.epochs_seen + 1, self.epochs_left - 1
        metric = next(name for name in row if name.startswith("val_") and name != "val_loss")
        self.line(
            f"    epoch {row['epoch']:>3}/{self.total_epochs} {row['stage']:<9} train loss {row['train_loss']:.4f}  "
            f"{metric} {row[metric]:.4f}{'*' if row['best'] else ' '} {row['images_per_second']:6.0f} images/s{self.remaining()}"
        )

    def result(self, result: dict) -> None:
        names = (result["metric"], result["second"])
        for split in (split for split in ("val", "test") if split in result):
            over = result[split]["averaged_over"]
            values = ", ".join(f"{name} {number(result[split]['values'][name])}"
                + (f" (mean over {over[name]} of {len(result[split]['per_class'])})"
                   if over.get(name, math.inf) < len(result[split]["per_class"]) else "") for name in names)  # fmt: skip
            self.line(
                f"  {split:<4} {values} (n = {result[split]['n']}, checkpoint of epoch {result['best_epoch']})"
            )


def number(x: float | None) -> str:
    return "undefined" if x is None or not math.isfinite(x) else f"{x:.4f}"


def demo_weights(arch: str, s: argparse.Namespace) -> str:
    """Pretrains the backbone on demo-source by the same loop (FT from random weights), once, and returns its
    best.pt."""
    fixed = {
        "data": ["demo-source"],
        "arch": [arch],
        "strategy": ["ft"],
        "weights": "none",
        "seed": [0],
        "epochs": 5,
        "img_size": 32,
        "batch_size": 64,
        "lr": 1e-3,
        "augment": "light",
        "output_dir": str(Path(s.output_dir) / "cache"),
        "patience": 0,
        "overwrite": False,
        "device": s.device,
        "amp": s.amp,
    }
    settings = argparse.Namespace(**(vars(parse_arguments(["--data", "demo-source"])) | fixed))
    run, waits = runs.RunFolder(Cell("demo-source", arch, "ft", 0, 0).path(settings.output_dir)), False
    while not run.done():
        if run.busy():  # another sweep has begun it: what is there is half trained
            if not waits:
                print(f"waiting for another process that pretrains {arch} on demo-source", flush=True)
            waits = True
            time.sleep(1)
            continue
        print(f"pretraining {arch} on demo-source, once", flush=True)
        (result,) = sweep(settings)
        if not run.done() and not run.busy():
            raise runs.RunError(
                f"{run.path}: pretraining {arch} failed, {result.get('failed', 'not finished')}"
            )
    return str(run.file("best.pt"))


def sweep(s: argparse.Namespace) -> list[dict]:
    """Prepares every dataset, then trains cell after cell. Returns a result or a failure for each."""
    prepared: dict[str, Prepared] = {}
    for name in s.data:
        ready = prepare(name, with_defaults(s, name))
        key = datasets.safe_name(ready.index.name)
        if key in prepared:
            raise UsageError(f"two datasets would both be called {key}: rename one")
        prepared[key] = ready
    cells = [
        Cell(key, arch, strategy, seed, fold)
        for key, ready in prepared.items()
        for arch in ready.settings.arch
        for seed in s.seed
        for fold in range(len(ready.folds))
        for strategy in s.strategy
    ]
    blocks = list(dict.fromkeys((cell.data, cell.arch) for cell in cells))
    refuse_early(cells, prepared)
    weights_of = {}
    for key, arch in blocks:
        source = prepared[key].settings.weights
        if source == "demo":
            source = "none" if s.dry_run else demo_weights(arch, prepared[key].settings)
        weights_of[key, arch] = check_weights(models.load_weights(source, arch), arch)
    for key, ready in prepared.items():
        t = ready.settings
        print(f"\n{key}: batch {t.batch_size * t.grad_accum}, {t.epochs} epochs each", end="")
    print(f"; {len(cells)} runs on {device_line(s)}", flush=True)
    if not s.overwrite:
        for cell in cells:  # a run that would be refused is refused before any is trained
            ready, weights = prepared[cell.data], weights_of[cell.data, cell.arch]
            if not (s.dry_run and ready.settings.weights == "demo"):
                settings = cell_settings(cell, ready.data(cell.fold, weights), weights, ready.settings)
                runs.RunFolder(cell.path(s.output_dir)).check(settings, overwrite=False)
    if s.dry_run:
        return dry_run(cells, prepared)
    trials = [cell for cell in {cell.shared_by_seeds() for cell in cells} for _ in range(s.tune)]
    epochs = sum(prepared[cell.data].settings.epochs for cell in [*cells, *trials])
    for key, arch in blocks if s.overwrite else ():  # of runs that were
        (Path(s.output_dir) / "figures" / f"gradcam-{key}-{arch}.png").unlink(missing_ok=True)
    say = Progress(len(cells), epochs)
    results, tuned = [], {}
    for say.number, cell in enumerate(cells, 1):
        ready, weights = prepared[cell.data], weights_of[cell.data, cell.arch]
        data, fold = ready.data(cell.fold, weights), cell.shared_by_seeds()
        done = runs.RunFolder(cell.path(s.output_dir)).done() and not s.overwrite
        if done:
            say.skip(ready.settings.epochs)
        try:
            if s.tune and not done and fold not in tuned:
                tuned[fold] = tune(cell, data, weights, ready.settings, say)
            result = run_cell(cell, data, weights, ready.settings, say, tuned.get(fold))
        except runs.Busy as error:
            say.line(f"{cell}: left out, {error}")
            result = {"failed": "another process is at it"}
        name = strategies.STRATEGIES[cell.strategy].name
        results.append({"cell": asdict(cell), "strategy": name} | result)
    for key, arch in blocks if s.gradcam else ():
        draw_gradcam([cell for cell in cells if (cell.data, cell.arch) == (key, arch)], prepared[key], s)
    return results


def refuse_early(cells: list[Cell], prepared: dict[str, Prepared]) -> None:
    """Before hours are spent: what the data, the plans and the architectures would refuse."""
    for ready in prepared.values():
        for k, fold in enumerate(ready.folds if ready.settings.tune else ()):
            try:
                inner_split(ready.index, fold, ready.identical, ready.settings)
            except DataError as error:
                hint = f"--tune cuts the training images of each fold once more, fold {k} is too small for it"
                raise DataError(
                    f"{error}; {hint}: without --tune each strategy has its default rate"
                ) from None
    for cell in {(cell.data, cell.arch, cell.strategy): cell for cell in cells}.values():
        check_plan(cell, len(prepared[cell.data].index.classes), prepared[cell.data].settings)
    for cell in {(cell.data, cell.arch): cell for cell in cells}.values():
        check_size(cell.arch, prepared[cell.data].settings)


def check_weights(weights: models.Weights, arch: str) -> models.Weights:
    """The weights, if their tensors are those of the architecture: RunError before anything is trained."""
    if weights.state is not None:
        model = models.skeleton(arch)
        models.fit_backbone(model.state_dict(), strategies.find_head(model)[0], weights, arch)
    return weights


def draw_gradcam(cells: list[Cell], ready: Prepared, s: argparse.Namespace) -> None:
    """--gradcam N: a panel of N test images, drawn class by class, the same for every strategy, from the first seed
    and fold of a dataset and backbone."""
    first, rng = cells[0], np.random.default_rng(s.split_seed)
    folders = {strategies.STRATEGIES[cell.strategy].name: cell.path(s.output_dir) for cell in cells
               if (cell.seed, cell.fold) == (first.seed, first.fold) and runs.RunFolder(cell.path(s.output_dir)).done()}  # fmt: skip
    if not folders:
        return
    test = rng.permutation(np.flatnonzero(ready.folds[first.fold] == "test"))
    turn: Counter = Counter()  # the n-th image of its class
    place = {}
    for i in test.tolist():
        label = ready.index.label_text(i)
        place[i] = (turn[label], label)
        turn[label] += 1
    rows = np.array(sorted(test.tolist(), key=place.get)[: s.gradcam])
    pixels = ready.pixels[torch.as_tensor(ready.lookup[rows], device=ready.pixels.device)].cpu()
    out = Path(s.output_dir) / "figures" / f"gradcam-{first.data}-{first.arch}.png"
    notes = gradcam.gradcam_panel(
        folders,
        pixels,
        [ready.index.label_text(i) for i in rows],
        [ready.index.paths[i] for i in rows],
        out,
        device=s.device,
    )
    fewer = f" (there are no more in fold {first.fold})" if len(rows) < s.gradcam else ""
    print(
        f"\nGrad-CAM of {len(rows)} test images{fewer}: {out}"
        + "".join(f"\n  note: {note}" for note in notes)
    )


def check_plan(cell: Cell, classes: int, s: argparse.Namespace) -> None:
    """Builds the plan without memory for its weights: what would be refused after hours is refused now."""
    model = models.skeleton(cell.arch)
    head = strategies.replace_head(model, classes)
    try:
        plan = make_plan(cell, model, head, s)
    except ValueError as error:
        raise UsageError(f"{cell.arch}, {cell.strategy}: {error}") from None
    if not s.dry_run:
        load_kernel(plan, s.device, s.native)


def check_size(arch: str, s: argparse.Namespace) -> None:
    """One forward pass without memory: whether the architecture takes pictures of that size."""
    model = models.skeleton(arch)
    device = next(model.parameters()).device
    try:
        model(torch.empty(2, 3, s.img_size, s.img_size, device=device))
    except Exception as error:  # noqa: BLE001  each architecture has its own way to say that a picture is too small
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{arch} does not take pictures of {s.img_size} px (--img-size): {why}") from None


def dry_run(cells: list[Cell], prepared: dict[str, Prepared]) -> list[dict]:
    """Prints the cells, with hours from two timed steps of FT, the dearest strategy, and gigabytes of
    checkpoints."""
    hours, gigabytes, timed = 0.0, 0.0, {}
    seen = set()
    for cell in cells:
        ready, s = prepared[cell.data], prepared[cell.data].settings
        if (key := (cell.data, cell.arch)) not in timed:
            timed[key] = time_a_step(cell.arch, len(ready.index.classes), s)
        seconds, size = timed[key]
        done = runs.RunFolder(cell.path(s.output_dir)).done()
        steps = math.ceil((ready.folds[cell.fold] == "train").sum() / s.batch_size) * s.epochs
        trials = 0 if cell.shared_by_seeds() in seen else s.tune
        seen.add(cell.shared_by_seeds())
        cost = 0.0 if done else (1 + trials) * seconds * steps / 3600
        hours, gigabytes = hours + cost, gigabytes + 2 * (1 + trials) * size / 1e9
        more = f", {trials} trials of --tune among it" if trials and not done else ""
        print(f"  {cell}: {'done before' if done else 'at most ' + duration(cost * 3600)}{more}")
    print(
        f"{len(cells)} runs: at most {hours:.2f} h and {gigabytes:.2f} GB of checkpoints; nothing was trained"
    )
    return []


def time_a_step(arch: str, classes: int, s: argparse.Namespace) -> tuple[float, int]:
    """(seconds of an FT step, bytes of the model)."""
    device = torch.device(s.device)
    model = models.build_model(arch, models.Weights("none"), classes, 0)[0].to(device).train()
    optimizer = train.make_optimizer(s.opt, [{"params": list(model.parameters()), "lr": 1e-5}], device)
    x = torch.rand(s.batch_size, 3, s.img_size, s.img_size, device=device)
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=train.AMP[s.amp], enabled=train.AMP[s.amp] is not None):
            loss = model(x).float().logsumexp(dim=1).mean()
        loss.backward()
        optimizer.step()
        loss.item()
    return time.perf_counter() - started, sum(
        t.numel() * t.element_size() for t in model.state_dict().values()
    )


DAVILA = {
    "opt": "adam",
    "lr": 1e-3,
    "lp_lr": 1e-3,
    "epochs": 30,
    "schedule_epochs": 100,
    "warmup": 0.0,
    "patience": 3,
    "weight_decay": 0.0,
    "metric": "balanced_accuracy",
    "batch_size": 96,
    "resize": 232,
    "img_size": 224,
    "augment": "none",
}


DATASET_OPTIONS = {
    "labels": "chexpert: the competition's five labels or all fourteen",
    "uncertain": "chexpert: what -1 means; default is 1 for Atelectasis and Edema, else 0; ignore masks it out",
    "views": "chexpert: frontal views or all",
    "region": "mura: one body region or all",
    "task": "cholect50: which labels",
    "variant": "cholect50: which official split",
    "fold": "t1w (figshare), cholect50 crossval: the official fold that is the test set",
}


PROTOCOL_HELP = (
    "settings of the public follow-up code of the paper's authors (the paper's own are behind its journal's door): "
    + ", ".join(f"{name} {value}" for name, value in DAVILA.items())
)


DEMO = {"arch": ["resnet18"], "weights": "demo", "epochs": 10, "img_size": 32}


DEFAULTS = {"arch": ["resnet50"], "weights": "imagenet", "epochs": 30, "img_size": 224}


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(message)


def parser() -> Parser:
    p = Parser(description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    whole, real = number_of(int), number_of(float)
    names, known = ", ".join([*datasets.DATASETS, "demo"]), ", ".join(strategies.STRATEGIES)
    add = p.add_argument_group("what is compared").add_argument
    add("--data", nargs="+", metavar="NAME|PATH", help=f"{names}, a folder, a .csv, an .npz")
    add("--data-dir", help="folder of the dataset, or of the CSV's images; else $FTCOMPARE_DATA, ./data")
    add("--arch", nargs="+", metavar="NAME", help="torchvision classifiers (resnet50; demo: resnet18)")
    add("--strategy", nargs="+", default=["all"], metavar="NAME", help=f"all, {known}")
    add("--weights", metavar="imagenet|none|demo|FILE", help="start of the backbone (imagenet; demo: demo)")
    add("--seed", nargs="+", type=at_least_0, default=[0], help="seeds of head, order and augmentation")
    add("--protocol", choices=("davila",), help=PROTOCOL_HELP)

    add = p.add_argument_group("training, the same for every strategy").add_argument
    add("--epochs", type=whole, help="in all, every stage of a strategy counted in (30; demo: 10)")
    add("--batch-size", "-b", type=whole, default=32, help="images a batch")
    add("--grad-accum", type=whole, default=1, help="batches an optimizer step")
    add("--lr", type=real, help="peak learning rate (each strategy's default; for LP-FT of its second part)")
    add("--weight-decay", "--wd", type=real, default=0.01, help="on all that no SP penalty holds")
    add("--opt", choices=list(train.OPTIMIZERS), default="adamw", help="optimizer; sgd has momentum 0.9")
    add("--warmup", type=real, default=0.05, help="share of steps before the cosine to 0")
    add("--schedule-epochs", type=whole, help="length of the cosine in epochs (that of --epochs)")
    add("--patience", type=at_least_0, default=0, help="epochs without a gain; 0: no early stop")
    add("--clip-grad", type=real, default=0.0, help="largest norm of the gradient; 0: off")
    add("--class-weights", choices=("none", "balanced"), default="none", help="in the loss")
    add("--augment", choices=list(images.AUGMENT), default="light", help="strong: scale and rotation besides")
    add("--img-size", type=whole, help="pixels a side (224; demo: 32)")
    add("--resize", type=whole, help="shorter side before the centre is cut out (squeezed to a square)")
    add("--bit-depth", type=int, choices=range(9, 17), metavar="BITS", help="true depth of 16-bit images")

    add = p.add_argument_group("splits and metrics").add_argument
    add("--folds", type=whole, default=1, help="folds of a cross-validation; 1: one split")
    add("--val-fraction", type=real, default=0.15, help="share of the images cut for validation")
    add("--test-fraction", type=real, default=0.2, help="share cut for testing where there is no test set")
    add("--split-seed", type=at_least_0, default=0, help="seed of the splits, the same for every --seed")
    add("--splits-file", help="a splits.csv to use: image,group,label,split,fold")
    add("--path-col", default="path", help="column of a CSV with the image's path")
    add("--label-col", nargs="+", default=["label"], help="column with the label, or several 0/1 columns")
    add("--group-col", help="column with the patient or video (group, where there is one)")
    add("--split-col", help="column with train, val or test (split, where there is one)")
    add("--group-regex", help="the group in a file's name, as in '^(\\d+)_', or in its path")
    add(
        "--exact-ids",
        action="store_true",
        help="keep groups apart whose ids differ in form alone: 3, 003, 3.0",
    )
    add("--keep-masks", action="store_true", help="use name_mask.png beside name.png as an image, too")
    for name, choices in datasets.CHOICES.items():
        which = DATASET_OPTIONS[name]
        kind = {"type": int} if name == "fold" else {"default": choices[0]}
        add(f"--{name}", choices=[c for c in choices if c is not None], **kind, help=which)
    add("--drop-duplicates", action="store_true", help="take byte-identical copies out of training")
    add("--skip-bad", action="store_true", help="go on without unreadable images")
    add(
        "--tune",
        type=at_least_0,
        default=0,
        metavar="N",
        help="trials a strategy and fold: its default rate, half a decade up, half a decade down, then outward; "
        "the alphas of L1-SP and L2-SP by the same turns; 0: the defaults",
    )
    add("--positive", metavar="CLASS", help="of two classes, the finding (the second in order of names)")
    add("--metric", help="metric that chooses the checkpoint on validation (the dataset's)")
    add("--threshold", default="youden", help="from validation scores: 0.5, youden or sensitivity=0.9")

    add = p.add_argument_group("strategies").add_argument
    add("--bn", choices=("train", "eval"), default="train", help="BatchNorm in the parts that train")
    add("--stage-shares", nargs="+", type=real, help="share of the epochs for each stage (equal)")
    add("--lp-lr", type=real, help="rate of LP-FT's first part (that of LP)")
    add("--alpha", type=real, help="L1-SP, L2-SP: penalty of the backbone (0.0001, 0.1)")
    add("--beta", type=real, default=0.01, help="L1-SP, L2-SP: penalty of the head")
    add("--sp-mode", choices=("loss", "proximal"), default="loss", help="in the gradient, or after the step")
    add("--rgn-source", choices=("backward", "probe"), default="backward", help="Auto-RGN: whose gradients")
    add("--rgn-every", type=at_least_0, default=0, help="Auto-RGN: steps between new ratios; 0: an epoch")
    add("--rgn-batches", type=whole, default=5, help="Auto-RGN: batches of a probe")
    add("--rgn-unit", choices=("layer", "tensor", "block"), default="layer", help="Auto-RGN: what has a rate")
    add("--rgn-norm", choices=("backbone", "all"), default="backbone", help="Auto-RGN: of what maximum")
    add("--rgn-reset", action="store_true", help="Auto-RGN: a new optimizer each epoch")

    add = p.add_argument_group("machine and output").add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add(
        "--amp",
        choices=("auto", *train.AMP),
        default="auto",
        help="auto: bf16 on CUDA where it has it, else off",
    )
    add("--native", choices=("auto", "on", "off"), default="auto", help="Auto-RGN's kernel in csrc/")
    add("--compile", action="store_true", help="torch.compile")
    add("--workers", "-j", type=whole, default=min(16, os.cpu_count() or 1), help="threads that decode")
    add("--output-dir", default="runs", help="folder of the runs, splits, cache and tables")
    add(
        "--gradcam",
        type=at_least_0,
        default=0,
        metavar="N",
        help="Grad-CAM of N test images, for every strategy",
    )
    add("--overwrite", action="store_true", help="do finished and differing runs again")

    add = p.add_argument_group("instead of training").add_argument
    add("--dry-run", action="store_true", help="print the runs, hours and gigabytes")
    add("--check-data", action="store_true", help="check the data; exit code 1 if something must be mended")
    add("--report", metavar="DIR", help="make the report of a folder of runs anew")
    add(
        "--predict",
        nargs="+",
        metavar="PATH",
        help="score images, folders of them or a CSV by --run; CSV out",
    )
    add(
        "--export",
        metavar="FILE.pt2",
        help="write the model of --run by torch.export, its constants in FILE.json",
    )
    add("--run", metavar="DIR", help="the finished run that --predict and --export use")
    add("--out", metavar="FILE", help="where --predict writes, - for the terminal (<run>/predicted.csv)")
    add("--list-data", action="store_true", help="print the known datasets and how to get them")
    add("--show-blocks", action="store_true", help="print the blocks of --arch")
    add("--version", action="version", version=f"ftcompare {VERSION}")
    return p


def number_of(kind: type, least: float | None = None) -> Callable[[str], float]:
    """A number as argparse's type: whole ones from 1 up, real ones from 0 up."""
    least = (1 if kind is int else 0) if least is None else least

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {what} of {least} or more")
        return value

    return parse


at_least_0 = number_of(int, least=0)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    p = parser()
    s = p.parse_args(arguments)
    if s.protocol == "davila":
        p.set_defaults(**DAVILA)  # below what is said on the command line
        s = p.parse_args(arguments)
    try:
        chosen = [
            list(strategies.STRATEGIES) if n == "all" else [strategies.strategy_key(n)] for n in s.strategy
        ]
    except ValueError as error:
        raise UsageError(f"--strategy: {error}") from None
    s.strategy = list(dict.fromkeys(key for keys in chosen for key in keys))
    s.label_col, s.seed = tuple(s.label_col), list(dict.fromkeys(s.seed))
    s.stage_shares = s.stage_shares and tuple(s.stage_shares)
    if not re.fullmatch(r"0\.5|youden|sensitivity=(0?\.\d*[1-9]\d*|1(\.0*)?)", s.threshold):
        raise UsageError(f"--threshold {s.threshold}: give 0.5, youden, or sensitivity=0.9")
    for name in ("val_fraction", "test_fraction"):
        if not 0 < getattr(s, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(s, name)}: give a share between 0 and 1")
    if s.warmup > 1 or max(s.seed) >= 2**32 or (s.splits_file and s.folds > 1):
        raise UsageError("--warmup is at most 1, --seed under 2**32, and --splits-file has folds of its own")
    if s.tune and (s.lr is not None or s.alpha is not None):
        raise UsageError(
            "--tune chooses lr and alpha: leave out --lr and --alpha (and --protocol, which sets lr)"
        )
    if s.batch_size == 1 and s.bn == "train":
        raise UsageError("-b 1: BatchNorm cannot normalise a single image; give -b 2 or more, or --bn eval")
    models = torchvision.models.list_models(module=torchvision.models)
    if unknown := [a for a in s.arch or [] if a not in models]:
        close = [m for m in models if m[:3] == unknown[0][:3].lower()] or ["resnet50"]
        raise UsageError(
            f"unknown --arch {', '.join(unknown)}; torchvision has {datasets.listing(close, most=12)}"
        )
    choose_device(s)
    return s


def choose_device(s: argparse.Namespace) -> None:
    """Resolves auto in --device and --amp, and refuses what this machine has not."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if s.device == "auto":
        s.device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    kind = s.device.partition(":")[0]
    if not available.get(kind):
        raise UsageError(
            f"--device {s.device}: not on this machine; it has {', '.join(n for n in available if available[n])}"
        )
    if s.amp == "auto":
        s.amp = (
            "bf16" if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "off"
        )
    fast = kind == "cuda" or any(
        getattr(torch.cpu, f"_is_{x}_supported", bool)() for x in ("avx512_bf16", "amx_tile")
    )
    if s.amp == "fp16" and kind != "cuda" or s.amp == "bf16" and not fast:
        raise UsageError(
            f"--amp {s.amp}: this {kind} has no fast {s.amp} arithmetic and would be many times slower; use --amp off"
        )


def device_line(s: argparse.Namespace) -> str:
    name = (
        torch.cuda.get_device_name(s.device)
        if s.device.startswith("cuda")
        else f"{torch.get_num_threads()} threads"
    )
    return f"{s.device} ({name}), {'float32' if s.amp == 'off' else s.amp}"


def with_defaults(s: argparse.Namespace, data: str) -> argparse.Namespace:
    """The settings for one dataset: what was not said comes from DEMO or DEFAULTS."""
    defaults = DEMO if data in datasets.DEMOS else DEFAULTS
    s = argparse.Namespace(**(vars(s) | {k: v for k, v in defaults.items() if getattr(s, k) is None}))
    if s.resize and s.resize < s.img_size:
        raise UsageError(
            f"--resize {s.resize} is smaller than --img-size {s.img_size}, which is cut out of it"
        )
    return s


def show_blocks(archs: list[str]) -> None:
    for arch in archs:
        blocks = strategies.blocks_of(models.skeleton(arch))
        print(
            f"{arch}: {len(blocks)} blocks, input to head\n  {'block':<36} {'tensors':>7} {'parameters':>12}"
        )
        for block in blocks:
            count = sum(p.numel() for p in block.parameters.values())
            print(f"  {block.name:<36} {len(block.parameters):>7} {count:>12,}")


def list_data() -> None:
    for row in datasets.list_datasets():
        print(f"\n{row.pop('name')}: {row.pop('title')}")
        for name, value in row.items():
            print(f"  {name:<10} {value}")


def use_run(s: argparse.Namespace) -> int:
    """--predict and --export: a finished run put to use."""
    if not s.run:
        raise UsageError(
            "--predict and --export need --run DIR, a run's folder: runs/<data>/<arch>/<strategy>/seed0-fold0"
        )
    if s.predict:
        names = ("path_col", "data_dir", "skip_bad", "workers", "keep_masks")
        how = {name: getattr(s, name) for name in names}
        file = predict.predict(s.predict, s.run, out=s.out, device=s.device, batch_size=s.batch_size, **how)
        if s.out != "-":
            print(f"written: {file}")
    if s.export:
        said = predict.export(s.run, s.export, device=s.device)
        print(f"written: {s.export} and {Path(s.export).with_suffix('.json')}; scores differ from the run's by at most "
              f"{said['max_score_difference']:.1e}")  # fmt: skip
    return 0


def main(arguments: list[str]) -> int:
    s = parse_arguments(arguments)
    if s.show_blocks:
        show_blocks(s.arch or DEFAULTS["arch"])
        return 0
    if s.list_data:
        list_data()
        return 0
    uses = [f"--{name}" for name in ("report", "predict", "export") if getattr(s, name)]
    if s.report and (len(uses) > 1 or s.run or s.data or s.gradcam):
        raise UsageError("--report stands alone: it makes the report of finished runs anew")
    if uses and s.data:
        raise UsageError(f"{' and '.join(uses)} use a finished run (--run), not --data")
    if (s.run or s.out) and not uses:
        raise UsageError(
            "--run and --out go with --predict or --export; the folder of new runs is --output-dir"
        )
    if s.report:
        print(f"{report.text(report.build(s.report))}\n\n{report.written(s.report)}")
        return 0
    if s.predict or s.export:
        return use_run(s)
    if not s.data:
        raise UsageError("say what to train on: --data demo, --data FOLDER or --data NAME (see --help)")
    torch.set_flush_denormal(True)  # vanishing gradients otherwise slow AdamW on a CPU several times
    if s.check_data:
        found = [check(name, with_defaults(s, name)) for name in s.data]
        return int(any(found))
    results = sweep(s)
    if results:
        print(
            report.text(
                report.build(s.output_dir), only={(r["cell"]["data"], r["cell"]["arch"]) for r in results}
            )
        )
        print(f"\n{report.written(s.output_dir)}")
    return 1 if any("failed" in r for r in results) else 0


def command_line() -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a class name that the terminal cannot write
    try:
        return main(sys.argv[1:])
    except (
        UsageError,
        DataError,
        runs.RunError,
        images.CacheError,
        images.ReadError,
        report.ReportError,
    ) as error:
        print(f"ftcompare: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, head for one, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"ftcompare: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "the same command without --overwrite" if "--overwrite" in sys.argv else "the same command"
        print(f"\nftcompare: stopped; {again} goes on from the last finished epoch", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(command_line())
