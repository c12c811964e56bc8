"""What a sweep will cost, from a small part of it: a file of its own, since it trains nothing of a sweep and stands
beside the loop.

    measured = measure(model, plan, data, recipe, batches=2)
    measured.seconds({"train": 400, "val": 80, "test": 100})

The loop of train.py trains each stage of a strategy for two epochs on a few batches, so that LP and the first stages
of G-LF come out as cheap as they are. report() is ftcompare.py's --dry-run."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

import models
import strategies
import train
from runs import size_text
from settings import UsageError
from workers import duration

ENOUGH = 0.25  # seconds of a sample's epoch: longer than what a clock, or another process, adds
MOST_BATCHES = 8


class Nowhere:
    """A run's folder (see train.Folder) that keeps nothing."""

    def load_state(self) -> None: ...

    def save_state(self, state: dict) -> None: ...

    def save(self, name: str, checkpoint: dict) -> None: ...

    def write_logs(self, state: dict) -> None: ...


@dataclass(frozen=True)
class Measured:
    """What a strategy costs. stages: (seconds of the first epoch, of a later one) for each training image, its share
    of validation included; in the first a stage may prepare what it needs once. epochs: of each stage, 0 where it does
    not run. scoring: seconds an image after training. finished, training: bytes of best.pt, and of what is there
    besides while every weight trains."""

    stages: list[tuple[float, float]]
    epochs: list[int]
    scoring: float
    finished: int
    training: int

    def seconds(self, images: dict[str, int]) -> float:
        """Of a run on so many images by split."""
        stages = zip(self.stages, self.epochs, strict=True)
        each = sum(first + (n - 1) * later for (first, later), n in stages if n)
        return each * images["train"] + self.scoring * (images["val"] + images.get("test", 0))


def sample(data, batches: int, batch_size: int):
    """The data (prepare.Data) with so many batches of its training images and as large a share of validation's."""
    train_rows, val_rows = data.rows["train"], data.rows["val"]
    few = train_rows[: batches * batch_size]
    held = val_rows[: max(1, round(len(val_rows) * len(few) / len(train_rows)))]
    return replace(data, rows={"train": few, "val": held, "test": val_rows[:0]})


def measure(model: nn.Module, plan, data, recipe: train.Recipe, batches: int) -> Measured:
    """The cost of a plan that is to run with this model on this data."""
    stages, epochs = len(plan.stages), np.diff([*plan.starts, plan.epochs]).tolist()
    hyper = replace(plan.hyper, lp_lr=0.0, stage_shares=(1.0,) * stages)
    recipe = replace(recipe, epochs=2 * stages, patience=0, compile=False)
    still = {"epochs": recipe.epochs, "lr": 0.0, "opt": recipe.opt, "hyper": hyper}  # at a rate of 0 nothing diverges
    short = strategies.make_plan(plan.strategy, model, plan.blocks[-1].modules[0], **still)
    part = sample(data, batches, recipe.batch_size * recipe.grad_accum)
    ends = [time.perf_counter()]

    def after_epoch(row: dict) -> None:
        ends.append(time.perf_counter())

    judge = lambda rows, scores: 0.0
    train.run(model, short, part, Nowhere(), recipe, metric="none", judge=judge, after_epoch=after_epoch)
    rows = part.rows["train"]
    seconds = (np.diff(ends) / len(rows)).reshape(stages, 2).tolist()
    started = time.perf_counter()
    train.infer(model, part, rows, recipe)
    scoring = (time.perf_counter() - started) / len(rows)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Measured(seconds, epochs, scoring, size, while_training(size, weights, recipe.opt))


def while_training(size: int, weights: int, opt: str) -> int:
    """Bytes that a run takes until it is done: last.pt, the one before it, and the next that is being written, each
    of the model, the best model and the optimizer. size, weights: bytes of the model, and of its parameters."""
    return 3 * (2 * size + weights * (1 if opt == "sgd" else 2))


def enough_batches(warm: Measured, batch_size: int) -> int:
    """How many batches make an epoch that is long enough to be timed. warm: measured on one."""
    return min(max(math.ceil(ENOUGH / (warm.stages[-1][1] * batch_size)), 1), MOST_BATCHES)


# ---- whether the disk has room ----


def refuse_full_disk(cells: list, ready: dict) -> None:
    """UsageError where the runs that are left will not fit on the disk, before any is trained."""
    common, kept, besides = next(iter(ready.values())).settings, 0, 0
    for key, arch in dict.fromkeys((cell.data, cell.arch) for cell in cells):
        model, settings = models.skeleton(arch), ready[key].settings
        strategies.replace_head(model, len(ready[key].prepared.index.classes))
        size, weights = (
            sum(t.numel() * t.element_size() for t in tensors)
            for tensors in (model.state_dict().values(), model.parameters())
        )
        own = [cell.folder(settings.output_dir) for cell in cells if (cell.data, cell.arch) == (key, arch)]
        kept += (2 if settings.keep_last else 1) * size * sum(not (run.done() or run.has("best.pt")) for run in own)
        besides = max(besides, while_training(size, weights, settings.recipe.opt))
    free = shutil.disk_usage(common.output_dir).free
    if kept and kept + besides > free:
        needed = f"{size_text(kept + besides)} needed for the checkpoints of the runs that are left"
        raise UsageError(f"{common.output_dir}: {needed}, {size_text(free)} free; make room, or another --output-dir")


# ---- what is printed ----


@dataclass
class Row:
    """A strategy on a dataset and backbone. left, trials: images by split of each run, and of each trial of --tune,
    that is still to come."""

    strategy: str
    cost: Measured
    runs: int
    left: list[dict[str, int]]
    trials: list[dict[str, int]]

    def seconds(self) -> float:
        return sum(map(self.cost.seconds, [*self.left, *self.trials]))


def report(cells: list, ready: dict, build_cell: Callable, inner_split: Callable) -> None:
    """Prints the hours and gigabytes that are ahead, a line a strategy. cells, ready, build_cell, inner_split: of
    ftcompare.py."""
    common, rows = next(iter(ready.values())).settings, []
    for key, arch in dict.fromkeys((cell.data, cell.arch) for cell in cells):
        print(f"\n{key} {arch}: a few steps of each strategy are timed", flush=True)
        some = rows_of(
            [cell for cell in cells if (cell.data, cell.arch) == (key, arch)], ready[key], build_cell, inner_split
        )
        print("\n".join(table(some)))
        rows += some
    print("\n".join(totals(rows, sum(one.prepared.pixels.nbytes for one in ready.values()), common.keep_last)))
    notes = {f"{common.tune} trials of --tune for each strategy and fold are in it": common.tune}
    notes |= {
        "--patience may end runs earlier": common.recipe.patience,
        "--compile was not timed": common.recipe.compile,
    }
    print("\n".join([*(f"note: {note}" for note, holds in notes.items() if holds), "nothing was trained"]))


def rows_of(cells: list, ready, build_cell: Callable, inner_split: Callable) -> list[Row]:
    """A row for each strategy of a dataset and backbone."""
    settings, prepared, tuned = ready.settings, ready.prepared, {}
    weights = models.load_weights("none", cells[0].arch)
    images = [Counter(sides.tolist()) for sides in prepared.folds]
    for fold, sides in enumerate(prepared.folds if settings.tune else ()):
        inner = inner_split(prepared.index, sides, prepared.identical, settings.preparation)
        tuned[fold] = Counter(inner.tolist())

    def left(cell) -> bool:
        return settings.overwrite or not cell.folder(settings.output_dir).done()

    def measured(cell, batches: int) -> Measured:
        model, plan, _ = build_cell(cell, weights, len(prepared.index.classes), settings)
        try:
            return measure(model, plan, ready.data(cell.fold, weights), settings.recipe, batches)
        except torch.OutOfMemoryError as error:
            why = str(error).splitlines()[0]
            raise UsageError(f"{cell} does not fit into memory ({why}); try a smaller -b, with --grad-accum") from None

    _, warm = (measured(cells[0], 1) for _ in range(2))  # the first steps of a process are slower
    batches, rows = enough_batches(warm, settings.recipe.batch_size), []
    for strategy in dict.fromkeys(cell.strategy for cell in cells):
        own = [cell for cell in cells if cell.strategy == strategy]
        ahead = [cell for cell in own if left(cell)]
        tuning = {cell.shared_by_seeds() for cell in ahead}
        trials = [cell for one in tuning for n in range(settings.tune) if left(cell := one.tried(n, settings))]
        name, cost = strategies.STRATEGIES[strategy].name, measured(own[0], batches)
        numbers = {"left": [images[c.fold] for c in ahead], "trials": [tuned[c.fold] for c in trials]}
        rows.append(Row(name, cost, len(own), **numbers))
    return rows


def table(rows: list[Row]) -> list[str]:
    lines = [f"  {'strategy':<10} {'runs':>5} {'done':>5} {'left, each':>11} {'in all':>9}"]
    for row in rows:
        each = duration(sum(map(row.cost.seconds, row.left)) / len(row.left)) if row.left else "-"
        numbers = f"{row.runs:>5} {row.runs - len(row.left):>5} {each:>11} {duration(row.seconds()):>9}"
        lines.append(f"  {row.strategy:<10} {numbers}")
    return lines


def totals(rows: list[Row], cache: int, keep_last: bool) -> list[str]:
    """cache: bytes of decoded pixels."""
    runs, left = sum(row.runs for row in rows), sum(len(row.left) for row in rows)
    many = f"{'' if left == runs else f'{left} of '}{runs} run{'s' * (runs != 1)}"
    kept = sum(len(row.left) * row.cost.finished * (2 if keep_last else 1) for row in rows)
    besides = max(row.cost.training for row in rows)
    disk = f"{size_text(kept)} of checkpoints, {size_text(cache)} of decoded pixels"
    return [
        f"\n{many}: about {duration(sum(row.seconds() for row in rows))}, not counting start, files and report",
        f"disk: {disk}, {size_text(besides)} more while a run trains",
    ]
