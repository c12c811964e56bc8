"""Which fine-tuning strategy should I use on my images? Trains all eight fairly and prints the table.

    python ftcompare.py --data demo                                        # offline, in minutes, on a CPU
    python ftcompare.py --data my_images/ --arch resnet50 --strategy all --seed 0 1 2
    python ftcompare.py --data cholect50 --arch resnet50 --strategy autorgn

Every cell (data, arch, strategy, seed, fold) becomes a folder below runs/; run the same command again and it
goes on where it was. Order of this file: one cell, tuning, the sweep, the command line. The flags are the
fields of settings.py, the training loop is train.py, --dry-run is dryrun.py."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import workers

if __name__ == "__main__":  # before what takes seconds to load
    workers.listen()
    workers.fit_waiting()

import numpy as np
import torch
from torch import nn

import datasets
import dryrun
import gradcam
import images
import metrics
import models
import predict
import runs
import settings as flags
import splits
import strategies
import train
from datasets import DataError, Index
from prepare import (
    Data,
    Places,
    Preparation,
    Prepared,
    check,
    choose_thresholds,
    describe_data,
    judge_scores,
    prepare,
    without_both,
)
from report.analysis import ReportError
from report.build import build, text, written
from settings import VERSION, Settings, UsageError
from workers import Progress, Worker, shown_value

# ---- one cell ----


@dataclass(frozen=True)
class Cell:
    """A run: everything that tells it from the others of its sweep."""

    data: str
    arch: str
    strategy: str
    seed: int
    fold: int
    trial: int | None = None  # of --tune

    def folder(self, output_dir: str) -> runs.RunFolder:
        return runs.RunFolder(runs.run_path(output_dir, **asdict(self)))

    def shared_by_seeds(self) -> Cell:
        """What --tune runs once for all seeds, as a key."""
        return replace(self, seed=0)

    def tried(self, number: int, settings: Settings) -> Cell:
        """A trial of --tune."""
        return replace(self, seed=settings.preparation.split_seed, trial=number)

    def __str__(self) -> str:
        name = strategies.STRATEGIES[self.strategy].name
        trial = "" if self.trial is None else f", tuning, trial {self.trial + 1}"
        return f"{self.data} {self.arch} {name} seed {self.seed} fold {self.fold}{trial}"


def run_cell(
    cell: Cell, data: Data, weights: models.Weights, settings: Settings, worker: Worker, tuned: dict | None = None
) -> dict:
    """Trains and scores a cell, or finds it done. Returns its metrics.json, or why it failed. tuned: what
    tune() chose. Busy where another worker has it."""
    run = cell.folder(settings.output_dir)
    run.say = worker.progress.line
    identity = cell_settings(cell, data, weights, settings)
    if tuned:
        settings = with_trial(settings, tuned.get("lr", settings.lr), tuned.get("alpha", settings.hyper.alpha))
    recipe = replace(settings.recipe, seed=cell.seed)
    if found := result_before(cell, run, settings, worker):
        if "failed" not in found:
            run.check(identity, before_settings())
        return found
    with worker.claims.take(run.path) as claim:
        if found := result_before(cell, run, settings, worker):  # done while this one looked
            return found
        run.guard = claim.check
        runs.remove_leftovers(run.path, mine=True)

        def work(position: train.Position) -> dict:
            again = settings.overwrite and run.sweep() != worker.sweep.id
            run.check(identity, before_settings(), overwrite=again)
            start = weights if strategies.STRATEGIES[cell.strategy].pretrained else models.Weights("none")
            model, plan, note = build_cell(cell, start, len(data.index.classes), settings)
            if run.done():
                score_again(model, data, run, recipe, worker.progress)
                return run.result()
            kernel, ran = load_kernel(plan, recipe.device, settings.native)
            if kernel:
                plan.use_kernel(kernel)
            worker.progress.cell(cell, recipe.epochs, [f"weights: {note}", *plan.description()])
            record = {
                "settings": identity,
                "strategy": strategies.STRATEGIES[cell.strategy].name,
                "about": strategies.about(cell.strategy, settings.hyper),
                "tuning": tuned,
                "data": describe_data(data),
                "environment": flags.environment(recipe.device) | {"native": ran, "weights": weights.source},
                "arguments": flags.flat(settings),
                "command": sys.argv,
                "sweep": worker.sweep.id,
                "resumed": [],
            }
            if not run.has("config.json"):
                run.begin(record)
            if tuned and "failed" in tuned:
                raise train.Diverged(tuned["failed"])
            train.reset_peak_memory(torch.device(recipe.device))
            train_cell(cell, model, plan, data, run, recipe, worker.progress, settings, record, position)
            result = score(cell, model, plan, data, run, recipe, settings.threshold, settings.keep_last)
            worker.progress.result(result)
            return result

        position, describe = train.Position(), partial(workers.describe, name=str(cell), recipe=recipe)
        describe = partial(describe, position=position, peak_memory=train.peak_memory)
        return worker.attempt(str(cell), run, partial(work, position), describe)


def result_before(cell: Cell, run: runs.RunFolder, settings: Settings, worker: Worker) -> dict | None:
    """The result of a cell that is done, or how it failed in this sweep; None where there is work left."""
    return worker.result_before(str(cell), run, settings.overwrite, scored=cell.trial is None)


def train_cell(
    cell: Cell,
    model: nn.Module,
    plan: strategies.Plan,
    data: Data,
    run: runs.RunFolder,
    recipe: train.Recipe,
    progress: Progress,
    settings: Settings,
    record: dict,
    position: train.Position,
) -> None:
    metric = data.index.metric

    with workers.told.training():
        train.run(
            model,
            plan,
            data,
            run,
            recipe,
            metric=metric,
            judge=lambda rows, scores: judge_scores(data.index, rows, scores)["values"][metric],
            higher_is_better=metrics.higher_is_better(metric),
            meta=models.checkpoint_meta(cell.arch, model, data, settings.preparation) | {"version": VERSION},
            saving=train.Saving(settings.save_every, workers.told.to_stop),
            position=position,
            begins=partial(run.go_on, record),
            after_epoch=progress.epoch,
            progress=progress.step,
        )


def memory_format(settings: Settings) -> torch.memory_format:
    """On a CPU, NHWC costs up to a third at 32 px and gains a little only with large batches of large
    pictures."""
    large = settings.recipe.batch_size >= 32 and settings.preparation.img_size >= 128
    nhwc = settings.recipe.device.startswith("cuda") or large
    return torch.channels_last if nhwc else torch.contiguous_format


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
        raise UsageError(f"--native {mode}: {error}; --native off trains without it") from None
    if kernel:
        return kernel, kernel.ran
    return None, f"reference ({'off' if mode == 'off' else loader.obstacle(kind)})"


def begin_kernel(device: str, mode: str) -> None:
    """Begins the kernel's build, so that it is there when the first Auto-RGN cell is; --native on that cannot be had is
    refused now."""
    from csrc import loader

    kind = device.partition(":")[0]
    if mode == "on" and (why := loader.obstacle(kind)):
        raise UsageError(f"--native on: the native kernels are not available: {why}; --native off trains without it")
    if mode != "off":
        loader.build_meanwhile(kind)


def build_cell(
    cell: Cell, weights: models.Weights, classes: int, settings: Settings
) -> tuple[nn.Module, strategies.Plan, str]:
    """(model on its device, plan, what was loaded)."""
    model, head, note = models.build_model(cell.arch, weights, classes, cell.seed)
    model.to(settings.recipe.device, memory_format=memory_format(settings))
    return model, make_plan(cell.strategy, model, head, settings), note


def make_plan(strategy: str, model: nn.Module, head: nn.Module, settings: Settings) -> strategies.Plan:
    rates = {"lr": settings.lr, "opt": settings.recipe.opt, "hyper": settings.hyper}
    return strategies.make_plan(strategy, model, head, epochs=settings.recipe.epochs, **rates)


def score(
    cell: Cell,
    model: nn.Module,
    plan: strategies.Plan,
    data: Data,
    run: runs.RunFolder,
    recipe: train.Recipe,
    rule: str,
    keep_last: bool,
) -> dict:
    """Validation and test scored once with the checkpoint that validation chose; writes the run's last
    files."""
    index, best, last = data.index, run.load("best.pt"), run.load("last.pt")
    scores = score_images(model, best, data, run, recipe)
    thresholds = choose_thresholds(index, data.rows["val"], scores["val"], rule)
    judged = {side: judge_scores(index, data.rows[side], scores[side], thresholds) for side in scores}
    two_classes = index.task == "multiclass" and len(index.classes) == 2
    result = {
        "cell": asdict(cell),
        "metric": index.metric,
        "second": index.second,
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
        "positive": index.classes[1] if two_classes else None,
        "thresholds": thresholds,
        "threshold_rule": rule,
        "threshold_fallback": [] if rule == "0.5" else without_both(index, data.rows["val"], scores["val"]),
        "images": {side: len(rows) for side, rows in data.rows.items()},
        **judged,
    }
    run.finish(result)
    if not keep_last:
        run.drop("last.pt")
    return result


def score_images(
    model: nn.Module, best: dict, data: Data, run: runs.RunFolder, recipe: train.Recipe
) -> dict[str, np.ndarray]:
    """Scores of validation and test by best.pt, of each side (N, C); writes predictions.csv and hardest.npz."""
    model.load_state_dict(best["model"])
    sides = [side for side in ("val", "test") if len(data.rows[side])]  # a trial of --tune has no test
    scores = {side: train.infer(model, data, data.rows[side], recipe)[0] for side in sides}
    run.write_predictions(data.index, splits.clusters(data.index, data.identical), data.rows, scores)
    if "test" in scores:
        write_hardest(run, data, scores["test"])
    return scores


def score_again(model: nn.Module, data: Data, run: runs.RunFolder, recipe: train.Recipe, progress: Progress) -> None:
    """Of a finished run whose predictions.csv was lost."""
    score_images(model, run.load("best.pt"), data, run, recipe)
    progress.line(f"{run.file('predictions.csv')} was lost, and is made again from best.pt")


def write_hardest(run: runs.RunFolder, data: Data, scores: np.ndarray) -> None:
    """The test images that the run got most wrong, small: a report is made without the data."""
    rows = data.rows["test"]
    right = metrics.probability_of_truth(scores, data.index.labels[rows])

    def pixels_of(places: np.ndarray) -> np.ndarray:
        wanted = torch.as_tensor(data.lookup[rows[places]], device=data.pixels.device)
        return data.pixels[wanted].cpu().numpy()

    run.write_hardest([data.index.paths[i] for i in rows], right, pixels_of)


def cell_settings(cell: Cell, data: Data, weights: models.Weights, settings: Settings) -> dict:
    """Everything that decides a run's numbers. Two runs with equal settings are the same run."""
    index = data.index
    split = {side: hashed(index.paths[i] for i in rows) for side, rows in data.rows.items()}
    lr, hyper = strategies.resolved(cell.strategy, settings.recipe.opt, settings.lr, settings.hyper)
    used = ("bn", "stage_shares", *strategies.STRATEGIES[cell.strategy].uses)
    tunes = settings.tune if cell.trial is None else 0
    found = flags.deciding(replace(settings, lr=lr, tune=tunes, hyper=hyper), used)
    if tunes:  # chosen within the run
        found["lr"] = None
        found["hyperparameters"] |= {"alpha": None} if "alpha" in used else {}
    return found | {
        "cell": asdict(cell),
        "task": index.task,
        "classes": index.classes,
        "metric": index.metric,
        "data_hash": data.fingerprint,
        "joined_ids": len(index.spellings()),
        "pixels_hash": data.digest,
        "split_hash": split,
        "weights_sha256": weights.sha256,
        "tune_order": "outward from the default" if tunes else None,
    }


def before_settings() -> dict:
    """What the config.json of an older run, which lacks a setting, was made with. joined_ids: ids were
    compared as they are spelt. tune_order, None though there is --tune: drawn at random."""
    return flags.before() | {"joined_ids": 0, "tune_order": None}


def hashed(names) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def with_trial(settings: Settings, lr: float | None, alpha: float | None) -> Settings:
    return replace(settings, lr=lr, hyper=replace(settings.hyper, alpha=alpha))


# ---- tuning ----


def inner_split(index: Index, sides: np.ndarray, identical: list, how: Preparation) -> np.ndarray:
    """The split that tunes inside a fold, checked: DataError where it saw what the fold is judged by."""
    inner = splits.nested_split(index, sides, identical, seed=how.split_seed, val_fraction=how.val_fraction)
    splits.check_nested(index, sides, inner)
    return inner


def tune(cell: Cell, data: Data, weights: models.Weights, settings: Settings, worker: Worker) -> dict:
    """--tune: trains that many trials of the cell's strategy on a split inside the training part of its fold,
    and chooses by the validation metric there. Returns {"lr", "alpha" (SP), "trials", "optimizer_steps",
    "minutes", ...}, or with "failed". Their seed is --split-seed, and all --seed of a fold share them. Busy
    where another worker has one of them, and none is left to do."""
    nested, rows, busy = nested_data(data, settings), [], None
    for tried, trial in trials_of(cell, settings):
        try:
            rows.append(run_trial(tried, trial, nested, weights, settings, worker))
        except workers.Busy as error:
            busy = error
    if busy:
        raise busy
    summary = {
        "trials": rows,
        "images": {side: len(some) for side, some in nested.rows.items() if len(some)},
        "optimizer_steps": sum(row["optimizer_steps"] or 0 for row in rows),
        "minutes": sum(row["minutes"] or 0 for row in rows),
    }
    good = [row for row in rows if row["value"] is not None and math.isfinite(row["value"])]
    if not good:
        return summary | {"failed": f"all {len(rows)} trials of --tune diverged"}
    metric = data.index.metric
    best_of = max if metrics.higher_is_better(metric) else min
    best = best_of(good, key=lambda row: row["value"])  # of equals the first
    chosen = {name: best[name] for name in ("lr", "alpha") if best[name] is not None}
    shown = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
    alike = len(good) > 1 and len({row["value"] for row in good}) == 1
    tied = " (all trials alike: the default)" if alike else ""
    worker.progress.line(f"{cell}: tuned{tied}, {len(rows)} trials, {metric} {shown_value(best['value'])} with {shown}")
    tuning = summary | chosen | {"value": best["value"]}
    if ends := runs.at_an_end(tuning):
        beyond = "at an end of what was tried, and a better value may lie beyond it"
        lie = "lie" if len(ends) > 1 else "lies"
        worker.progress.line(f"  WARNING: the chosen {' and '.join(ends)} {lie} {beyond}")
    return tuning


def nested_data(data: Data, settings: Settings) -> Data:
    """What the trials of a fold are trained and judged on."""
    inner = inner_split(data.index, data.sides(), data.identical, settings.preparation)
    return replace(data, rows={side: np.flatnonzero(inner == side) for side in datasets.SPLITS})


def trials_of(cell: Cell, settings: Settings) -> list[tuple[Cell, dict]]:
    """The trials before a cell, each with its rate and alpha."""
    trials = strategies.trials(cell.strategy, settings.recipe.opt, settings.tune)
    return [(cell.tried(number, settings), trial) for number, trial in enumerate(trials)]


def run_trial(cell: Cell, trial: dict, data: Data, weights: models.Weights, settings: Settings, worker: Worker) -> dict:
    """One trial of --tune: its settings, validation value (None where it diverged), and what it cost.
    TrialFailed where it failed otherwise: the choice would be among others than the next fold's."""
    run = cell.folder(settings.output_dir)
    if result_before(cell, run, settings, worker):
        worker.progress.skip(settings.recipe.epochs)
    result = run_cell(cell, data, weights, with_trial(settings, trial["lr"], trial["alpha"]), worker)
    if result.get("type", "Diverged") != "Diverged":
        raise TrialFailed(f"trial {cell.trial + 1} of --tune failed: {result['failed']}")
    spent = {name: result.get(name) for name in ("optimizer_steps", "minutes", "failed")}
    if "failed" in result:
        epochs = run.log()  # they were paid for all the same
        spent["optimizer_steps"] = sum(row["steps"] for row in epochs)
        spent["minutes"] = sum(row["seconds"] for row in epochs) / 60
        return trial | {"value": None} | spent
    run.drop("best.pt", "last.pt")  # its numbers are kept; checkpoints of all trials would fill a disk
    return trial | {"value": result["val"]["values"][data.index.metric]} | spent


class TrialFailed(RuntimeError):
    """A trial of --tune that failed for a reason that is not its learning rate's."""


# ---- the sweep ----


def demo_weights(arch: str, settings: Settings) -> str:
    """Pretrains the backbone on demo-source by the same loop (FT from random weights), once, and returns its
    best.pt."""
    said = {
        "data": ("demo-source",),
        "arch": (arch,),
        "strategy": ("ft",),
        "weights": ("none",),
        "epochs": 5,
        "batch_size": 64,
        "lr": 1e-3,
        "output_dir": str(Path(settings.output_dir) / "cache"),
        "device": settings.recipe.device,
        "amp": settings.recipe.amp,
        "workers": settings.workers,
    }
    if arch.startswith(models.TIMM):  # many take pictures of one size alone
        said["img_size"] = settings.preparation.img_size
    run = Cell("demo-source", arch, "ft", 0, 0).folder(said["output_dir"])
    if not run.done():
        print(f"pretraining {arch} on demo-source, once", flush=True)
        results = sweep(said)
        if not run.done():
            why = results[0].get("failed", "not finished") if results else "not finished"
            raise runs.RunError(f"{run.path}: pretraining {arch} failed, {why}")
    return str(run.best)


@dataclass
class Ready:
    """A dataset of the sweep, and the settings that hold for it."""

    prepared: Prepared
    settings: Settings

    def data(self, fold: int, weights: models.Weights) -> Data:
        device = self.settings.recipe.device
        return self.prepared.data(fold, mean=weights.mean, std=weights.std, device=device)


def prepare_all(said: dict) -> dict[str, Ready]:
    """Every dataset of the command line by its name, prepared, with its own settings."""
    ready: dict[str, Ready] = {}
    for name in said["data"]:
        settings = settings_of(said, name)
        prepared = prepare(name, settings.preparation, settings.options, places(settings), write=not settings.dry_run)
        key = datasets.safe_name(prepared.index.name)
        if key in ready:
            raise UsageError(f"two datasets would both be called {key}: rename one")
        ready[key] = Ready(prepared, settings)
    return ready


def settings_of(said: dict, data: str | None = None) -> Settings:
    """The settings of one dataset on this machine."""
    settings = flags.make(said, data)
    return flags.on_this_machine(settings, lambda chosen: runs.settled(settings.output_dir, chosen))


def places(settings: Settings) -> Places:
    return Places(data_dir=settings.data_dir, output_dir=settings.output_dir, workers=settings.workers)


def sweep(said: dict) -> list[dict]:
    """Prepares every dataset, then trains cell after cell. Returns a result or a failure for each. said: what
    the command line said."""
    ready = prepare_all(said)
    common = next(iter(ready.values())).settings
    cells = [
        Cell(key, arch, strategy, seed, fold)
        for key, one in ready.items()
        for arch in one.settings.arch
        for seed in common.seed
        for fold in range(len(one.prepared.folds))
        for strategy in common.strategy
    ]
    experiments = list(dict.fromkeys((cell.data, cell.arch) for cell in cells))
    refuse_early(cells, ready)
    weights_of = starting_weights(experiments, ready)
    said_of_each = [
        f"\n{key}: batch {r.batch_size * r.grad_accum}, {r.epochs} epoch{'s' * (r.epochs > 1)} each"
        for key, r in ((key, one.settings.recipe) for key, one in ready.items())
    ]
    many = f"{len(cells)} run{'s' * (len(cells) != 1)}"
    print("".join(said_of_each) + f"; {many} on {flags.device_line(common.recipe)}", flush=True)
    refuse_other_settings(cells, ready, weights_of)
    if common.dry_run:
        dryrun.report(cells, ready, build_cell, inner_split)
        return []
    dryrun.refuse_full_disk(cells, ready)
    same = {name: value for name, value in said.items() if name not in flags.places()}
    key = hashed([json.dumps([same, list(map(asdict, cells))], sort_keys=True)])  # of all workers of this sweep
    return run_cells(cells, ready, weights_of, key)


def starting_weights(experiments: list[tuple[str, str]], ready: dict[str, Ready]) -> dict:
    """(data, arch) -> the weights that its backbone starts from, if their tensors are its own: RunError, with all that
    are not, before anything is trained. The demo's, which are trained for it, come last."""
    sources = {(key, arch): flags.weights_of(ready[key].settings)[arch] for key, arch in experiments}
    loaded, refused = {}, {}
    for (key, arch), source in sorted(sources.items(), key=lambda entry: entry[1] == "demo"):
        if source == "demo" and refused:
            break
        try:
            if (arch, source) not in loaded:
                loaded[arch, source] = weights_from(source, arch, ready[key].settings)
        except runs.RunError as error:
            refused[arch, source] = str(error)
    if refused:
        raise runs.RunError("; and ".join(refused.values()))
    return {place: loaded[place[1], source] for place, source in sources.items()}


ABSENT = "not here"  # the source of weights that a dry run goes without


def weights_from(source: str, arch: str, settings: Settings) -> models.Weights:
    if settings.dry_run and (why := models.absent(source, arch)):
        print(f"weights of {arch}: {why}")
        return replace(models.load_weights("none", arch), source=ABSENT)
    file = demo_weights(arch, settings) if source == "demo" else source
    return models.check_weights(models.load_weights(file, arch), arch)


def refuse_other_settings(cells: list[Cell], ready: dict[str, Ready], weights_of: dict) -> None:
    """A run that would be refused is refused before any is trained."""
    for cell in cells:
        settings, weights = ready[cell.data].settings, weights_of[cell.data, cell.arch]
        if settings.overwrite:
            continue
        data, run = ready[cell.data].data(cell.fold, weights), cell.folder(settings.output_dir)
        identity = cell_settings(cell, data, weights, settings)
        if weights.source == ABSENT and run.has("config.json"):
            identity["weights_sha256"] = run.config().get("settings", {}).get("weights_sha256")
        run.check(identity, before_settings())
        for tried, trial in trials_of(cell, settings) if settings.tune and not run.done() else ():
            if (begun := tried.folder(settings.output_dir)).has("config.json") and weights.source != ABSENT:
                chosen, nested = with_trial(settings, trial["lr"], trial["alpha"]), nested_data(data, settings)
                begun.check(cell_settings(tried, nested, weights, chosen), before_settings())


def run_cells(cells: list[Cell], ready: dict[str, Ready], weights_of: dict, key: str) -> list[dict]:
    """Cell after cell, with the trials of --tune before the first seed of a fold; beside other workers that
    were started with the same command."""
    common = next(iter(ready.values())).settings
    trials = [cell for cell in {cell.shared_by_seeds() for cell in cells} for _ in range(common.tune)]
    epochs = sum(ready[cell.data].settings.recipe.epochs for cell in [*cells, *trials])
    progress = Progress(len(cells), epochs)
    worker = Worker(workers.join_sweep(common.output_dir, key), workers.Claims(common.stale), progress)
    if worker.sweep.joined:
        progress.line("joining a sweep that is not finished: what it has done or failed in is not done again")
    elif common.overwrite:  # of runs that were
        for data, arch in {(cell.data, cell.arch) for cell in cells}:
            gradcam_file(common, data, arch).unlink(missing_ok=True)
    results, tuned = {}, {}

    def one(cell: Cell) -> None:
        settings, weights = ready[cell.data].settings, weights_of[cell.data, cell.arch]
        data, fold = ready[cell.data].data(cell.fold, weights), cell.shared_by_seeds()
        progress.number = cells.index(cell) + 1
        done = result_before(cell, cell.folder(settings.output_dir), settings, worker)
        if done:
            progress.skip(settings.recipe.epochs)
        try:
            if settings.tune and not done and fold not in tuned:
                tuned[fold] = tune(cell, data, weights, settings, worker)
            results[cell] = run_cell(cell, data, weights, settings, worker, tuned.get(fold))
        except (TrialFailed, runs.RunError) as error:
            results[cell] = {"failed": str(error)}
        except workers.Alike as error:
            results[cell] = {"failed": error.reason}
            raise

    ending = ""
    try:
        workers.share(cells, one, progress.line)
        worker.sweep.finish()
    except workers.Alike as error:
        ending = f"; {error}"
    failed = {cell: result["failed"] for cell, result in results.items() if "failed" in result}
    if failed:
        progress.line(f"\n{len(failed)} of {len(cells)} runs failed{ending}")
    for cell, why in failed.items():
        progress.line(f"  {cell}: {why}")
    for data, arch in dict.fromkeys((cell.data, cell.arch) for cell in cells) if common.gradcam else ():
        draw_gradcam([cell for cell in cells if (cell.data, cell.arch) == (data, arch)], ready[data])
    return [{"cell": asdict(cell)} | result for cell, result in results.items()]


def refuse_early(cells: list[Cell], ready: dict[str, Ready]) -> None:
    """Before hours are spent: what the data, the plans and the architectures would refuse."""
    for one in ready.values():
        for k, fold in enumerate(one.prepared.folds if one.settings.tune else ()):
            try:
                inner_split(one.prepared.index, fold, one.prepared.identical, one.settings.preparation)
            except DataError as error:
                small = f"--tune cuts the training images of each fold once more, and fold {k} is too small"
                raise DataError(f"{error}; {small}: without --tune each strategy has its default rate") from None
    for cell in {(cell.data, cell.arch, cell.strategy): cell for cell in cells}.values():
        check_plan(cell, len(ready[cell.data].prepared.index.classes), ready[cell.data].settings)
    for cell in {(cell.data, cell.arch): cell for cell in cells}.values():
        models.check_size(cell.arch, ready[cell.data].settings.preparation.img_size)


def gradcam_file(settings: Settings, data: str, arch: str) -> Path:
    return Path(settings.output_dir) / "figures" / f"gradcam-{data}-{runs.file_name(arch)}.png"


def draw_gradcam(cells: list[Cell], ready: Ready) -> None:
    """--gradcam N: a panel of N test images, the same for every strategy, from the first seed and fold of a
    dataset and backbone."""
    settings, prepared, first = ready.settings, ready.prepared, cells[0]
    folders = {
        strategies.STRATEGIES[cell.strategy].name: cell.folder(settings.output_dir).path
        for cell in cells
        if (cell.seed, cell.fold) == (first.seed, first.fold) and cell.folder(settings.output_dir).done()
    }
    if not folders:
        return
    file = gradcam_file(settings, first.data, first.arch)
    lines = gradcam.test_panel(
        folders,
        prepared,
        file,
        fold=first.fold,
        count=settings.gradcam,
        seed=settings.preparation.split_seed,
        device=settings.recipe.device,
    )
    print("\n" + "\n".join(lines))


def check_plan(cell: Cell, classes: int, settings: Settings) -> None:
    """Builds the plan without memory for its weights: what would be refused after hours is refused now."""
    model = models.skeleton(cell.arch)
    head = strategies.replace_head(model, classes)
    try:
        plan = make_plan(cell.strategy, model, head, settings)
    except ValueError as error:
        raise UsageError(f"{cell.arch}, {cell.strategy}: {error}") from None
    if plan.measures_norms() and not settings.dry_run:
        begin_kernel(settings.recipe.device, settings.native)


# ---- the command line ----


def list_data() -> None:
    for row in datasets.list_datasets():
        print(f"\n{row.pop('name')}: {row.pop('title')}")
        for name, value in row.items():
            print(f"  {name:<10} {value}")


def use_run(settings: Settings) -> int:
    """--predict and --export: a finished run put to use."""
    if not settings.run:
        folder = "a run's folder: runs/<data>/<arch>/<strategy>/seed0-fold0"
        raise UsageError(f"--predict and --export need --run DIR, {folder}")
    device = settings.recipe.device
    if settings.predict:
        how = {"path_col": settings.options.path_col, "keep_masks": settings.options.keep_masks}
        how |= {"data_dir": settings.data_dir, "skip_bad": settings.preparation.skip_bad}
        how |= {"workers": settings.workers, "batch_size": settings.recipe.batch_size}
        file = predict.predict(settings.predict, settings.run, out=settings.out, device=device, **how)
        if settings.out != "-":
            print(f"written: {file}")
    if settings.export:
        beside = Path(settings.export).with_suffix(".json")
        differ = predict.export(settings.run, settings.export, device=device)["max_score_difference"]
        print(f"written: {settings.export} and {beside}; scores differ from the run's by at most {differ:.1e}")
    return 0


def refuse_actions(settings: Settings, said: dict) -> None:
    """Actions that exclude each other, and settings that what is done would ignore. said: by the command line."""
    uses = [f"--{name}" for name in ("report", "predict", "export") if getattr(settings, name)]
    if settings.report and (others := sorted(said.keys() - {"report"})):
        named = ", ".join("--" + name.replace("_", "-") for name in others)
        raise UsageError(f"--report stands alone: it writes the report of finished runs anew; leave out {named}")
    if uses and settings.data:
        raise UsageError(f"{' and '.join(uses)} use a finished run (--run), not --data")
    if (settings.run or settings.out) and not uses:
        new = "the folder of new runs is --output-dir"
        raise UsageError(f"--run and --out go with --predict or --export; {new}")
    used = {name for key in settings.strategy for name in ("bn", "stage_shares", *strategies.STRATEGIES[key].uses)}
    if ignored := [f.name for f in flags.flags_of(flags.Hyperparameters) if f.name in said and f.name not in used]:
        named = ", ".join("--" + name.replace("_", "-") for name in ignored)
        chosen = ", ".join(strategies.STRATEGIES[key].name for key in settings.strategy)
        raise UsageError(f"{named}: none of the chosen strategies ({chosen}) uses it; leave it out")


def main(arguments: list[str]) -> int:
    said = flags.parse(arguments)
    settings = flags.make(said, said.get("data", (None,))[0])
    if settings.show_blocks:
        models.show_blocks(settings.arch)
        return 0
    if settings.list_data:
        list_data()
        return 0
    refuse_actions(settings, said)
    if settings.report:
        print(f"{text(build(settings.report))}\n\n{written(settings.report)}")
        return 0
    if settings.predict or settings.export:
        return use_run(flags.on_this_machine(settings, lambda chosen: chosen))
    if not settings.data:
        raise UsageError("say what to train on: --data demo, --data FOLDER or --data NAME (see --help)")
    torch.set_flush_denormal(True)  # vanishing gradients otherwise slow AdamW on a CPU several times
    if settings.check_data:
        own = {name: flags.make(said, name) for name in settings.data}
        found = [check(name, one.preparation, one.options, places(one)) for name, one in own.items()]
        return int(any(found))
    for place in (".", "splits"):
        runs.remove_leftovers(Path(settings.output_dir, place))
    results = sweep(said)
    failed = any("failed" in result for result in results)
    try:
        if results:
            only = {(result["cell"]["data"], result["cell"]["arch"]) for result in results}
            with workers.Claims(settings.stale).taken(Path(settings.output_dir), print, "report"):  # the last has all
                analysis = build(settings.output_dir)
            print(f"{text(analysis, only=only)}\n\n{written(settings.output_dir)}")
    except ReportError as error:
        if not failed:
            raise
        print(f"no report: {error}", file=sys.stderr)
    return int(failed)


REFUSED = (UsageError, DataError, runs.RunError, images.CacheError, images.ReadError, ReportError)


def command_line() -> int:
    workers.told.phase = "between"
    with workers.plain_output():
        try:
            return main(sys.argv[1:])
        except REFUSED as error:
            print(f"ftcompare: {error}", file=sys.stderr)
            return 2
        except workers.MachineFault as error:
            print(f"ftcompare: {error}", file=sys.stderr)
            return 1
        except OSError as error:
            if error.filename is None:
                raise
            print(f"ftcompare: {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        except (workers.Interrupted, train.Stopped, KeyboardInterrupt):
            signal = workers.told.name or "SIGINT"
            print(f"\nftcompare: stopped by {signal}; the same command goes on where it was", file=sys.stderr)
            return workers.told.exit_code


if __name__ == "__main__":
    sys.exit(command_line())
