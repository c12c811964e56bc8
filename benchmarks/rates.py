"""Claim: no default rate of strategies.py is a grid step away from what all datasets and budgets here choose.

    python benchmarks/rates.py --out rates/                                          # ImageNet weights, drawn data
    python benchmarks/rates.py --out rates/ --data demo my_images/ --weights FILE --epochs 4 10 --seed 0 1

trains every strategy over its grid of rates (at its default alpha) and of alphas (at its default rate; at all rates
by --every-alpha) on at most --images images of each dataset, half to train and half to validate, whole groups. A
rate's value is the best epoch's validation metric, the mean over seeds. A test set takes no part. One rule chooses:
in each setting (dataset, backbone, epochs) the best value votes for its side of the default if the first step that
way is better than the default too; of equal values the one nearest to the default counts. A default moves by one
step, and only where all settings vote for it. Strategies that share a grid (L1-SP and L2-SP have FT's) share its
default, so that a difference between them is no difference of rates: they move together. The same rule holds for the
alphas, each strategy's own.

Each run is a line of OUT/runs.jsonl; the same command goes on where it was stopped, those near the default first, and
--minutes ends it in time. It prints the tables (Markdown), and what would move; --minutes 0 prints them at once.
What is known of the other flags (--arch, --strategy, --opt, --img-size, ...) is what ftcompare.py --help says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import datasets
import images
import models
import prepare
import settings as flags
import splits
import strategies
import train
from strategies import STRATEGIES

OFFERED = "arch weights strategy seed img_size opt batch_size weight_decay warmup augment device".split()
OFFERED += "bn lp_lr lpft_mode".split()
DEFAULTS = {"arch": ("resnet18",), "img_size": 32}
# Drawn as the demo is, of the shapes of its larger task, on the demo's scanner.
datasets.DEMOS["demo-shapes"] = (datasets.DEMO_SOURCE, 240, 1)


# ---- the data ----


def demo_of(name: str) -> datasets.Index:
    """The demo, or drawn anew: demo-two of two classes, demo-seven of seven, demo-labels of three labels."""
    if name == "demo":
        return datasets.demo("demo")
    if name == "demo-two":
        index = datasets.demo("demo", seed=1)  # normal and cyst are round, lobed and spiculated are not
        return replace(index, name=name, classes=["round", "lobed"], labels=(index.labels > 1).astype(np.int64))
    index = datasets.demo("demo-shapes", seed=2)
    if name == "demo-seven":
        index = index.keep(np.flatnonzero(index.labels < 7))
        return replace(index, name=name, classes=index.classes[:7])
    shapes = [datasets.DEMO_SOURCE[label] for label in index.labels]
    labels = [[bool(shape.hollow), shape.lobes > 0, shape.lobes > 3] for shape in shapes]
    columns = {"classes": ["hollow", "lobed", "many lobes"], "labels": np.array(labels, np.float32)}
    return replace(index, name=name, task="multilabel", metric="", second="", **columns)


DRAWN = ("demo", "demo-two", "demo-seven", "demo-labels")


def without_test(index: datasets.Index) -> datasets.Index:
    """The index without the images of an official test set, and without an official split."""
    index = index.keep(np.flatnonzero(np.array(index.official) != "test"))
    return replace(index, official=[""] * len(index), official_folds=None)


def capped(index: datasets.Index, most: int) -> datasets.Index:
    """Whole groups in a random order, the same each time, as many as `most` images hold."""
    names, group = np.unique(np.array(index.groups), return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    held = np.cumsum(np.bincount(group)[order])
    return index.keep(np.flatnonzero(np.isin(group, order[held <= most])))


def prepared(name: str, most: int, img_size: int, out: Path) -> prepare.Data:
    """Decoded once, cut in two by group: half trains, half validates."""
    index = demo_of(name) if name in DRAWN else datasets.load_index(name)
    index = capped(without_test(index), most)
    pixels = images.decode(index.sources(), img_size, out / "cache" / datasets.safe_name(index.name))
    if pixels.bad:
        row, why = pixels.bad[0]
        raise datasets.DataError(f"{name}: {len(pixels.bad)} images cannot be read, e.g. {index.paths[row]}: {why}")
    outer = np.full(len(index), "train")
    sides = splits.nested_split(index, outer, pixels.identical, val_fraction=0.5)
    splits.check_nested(index, outer, sides)
    return prepare.Data(
        index=index,
        pixels=pixels.data,
        lookup=np.arange(len(index)),
        rows={side: np.flatnonzero(sides == side) for side in ("train", "val")},
        mean=images.IMAGENET_MEAN,  # that of the weights is set with them
        std=images.IMAGENET_STD,
        digest=pixels.digest,
        fingerprint=index.fingerprint(splits.clusters(index, pixels.identical)),
    )


# ---- the runs ----


@dataclass(frozen=True)
class Setting:
    """Where the rates of a strategy are compared."""

    data: str
    arch: str
    epochs: int


@dataclass(frozen=True)
class Job:
    """A run. steps: how far it stands from the strategy's default, in steps of its grids."""

    setting: Setting
    strategy: str
    lr: float
    alpha: float | None
    seed: int
    steps: int


def points(strategy: str, opt: str, every_alpha: bool = False) -> list[tuple[float, float | None, int]]:
    """(lr, alpha, steps from the default): all rates at the default alpha, all alphas at the default rate; every_alpha:
    at all rates."""
    entry = STRATEGIES[strategy]
    rates, alphas = sorted(entry.rates(opt)), sorted(entry.alphas) or [None]
    middle, centre = rates.index(entry.default_lr(opt)), alphas.index(entry.alpha)
    return [
        (lr, alpha, max(abs(i - middle), abs(k - centre)))
        for i, lr in enumerate(rates)
        for k, alpha in enumerate(alphas)
        if every_alpha or i == middle or k == centre
    ]


def jobs_of(settings: flags.Settings, names: list[str], epochs: list[int], every_alpha: bool) -> list[Job]:
    """All runs, in the order in which they are made: the default rate and its neighbours first, seed by seed."""
    found = [
        Job(Setting(data, arch, budget), strategy, lr, alpha, seed, steps)
        for data in names
        for arch in settings.arch
        for budget in epochs
        for strategy in settings.strategy
        for lr, alpha, steps in points(strategy, settings.recipe.opt, every_alpha)
        for seed in settings.seed
    ]
    seeds, archs = list(settings.seed), list(settings.arch)

    def turn(job: Job) -> tuple[int, int, int]:
        ring = max(job.steps, 1) + (job.alpha != STRATEGIES[job.strategy].alpha)
        return ring, archs.index(job.setting.arch), seeds.index(job.seed)

    return sorted(found, key=turn)


def key_of(job: Job, data: prepare.Data, weights: models.Weights, settings: flags.Settings) -> str:
    """A hash of everything that decides the run's numbers. A setting that has the value which runs from before it had
    is not in it, so that a new flag leaves all keys as they are."""
    used = ("bn", "stage_shares", *STRATEGIES[job.strategy].uses)
    hyper = strategies.resolved(job.strategy, settings.recipe.opt, job.lr, replace(settings.hyper, alpha=job.alpha))[1]
    recipe = replace(settings.recipe, epochs=job.setting.epochs)
    decides, before = flags.deciding(replace(settings, lr=job.lr, hyper=hyper, recipe=recipe), used), flags.before()
    decides |= decides.pop("hyperparameters")
    before |= before.pop("hyperparameters")
    decides = {name: value for name, value in decides.items() if value != before[name]}
    decides |= {"strategy": job.strategy, "arch": job.setting.arch, "seed": job.seed, "weights": weights.sha256}
    decides |= {"data": data.fingerprint, "pixels": data.digest, "rows": {k: v.tolist() for k, v in data.rows.items()}}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


class Memory:
    """A run's folder that keeps the log and nothing else."""

    def __init__(self):
        self.log: list[dict] = []

    def load(self, name: str) -> dict:
        raise FileNotFoundError(name)

    def save(self, name: str, checkpoint: dict) -> None: ...

    def load_state(self) -> dict | None: ...

    def save_state(self, state: dict) -> None: ...

    def write_logs(self, state: dict) -> None:
        self.log = state["log"]


def train_one(job: Job, data: prepare.Data, weights: models.Weights, settings: flags.Settings) -> dict:
    """Trains, and returns what is kept of it: the validation metric of every epoch, its stage, and the seconds. value:
    the best epoch's; None where it diverged."""
    started, metric = time.perf_counter(), data.index.metric
    recipe = replace(settings.recipe, epochs=job.setting.epochs, seed=job.seed)
    start = weights if STRATEGIES[job.strategy].pretrained else models.Weights("none")
    model, head, _ = models.build_model(job.setting.arch, start, data.classes, job.seed)
    rates = {"lr": job.lr, "opt": recipe.opt, "hyper": replace(settings.hyper, alpha=job.alpha)}
    plan = strategies.make_plan(job.strategy, model.to(recipe.device), head, epochs=recipe.epochs, **rates)

    def judge(rows: np.ndarray, scores: np.ndarray) -> float:
        return prepare.judge_scores(data.index, rows, scores)["values"][metric]

    memory, failed = Memory(), None
    try:
        train.run(model, plan, data, memory, recipe, metric=metric, judge=judge)
    except train.Diverged as error:
        failed = str(error)
    curve = [row[f"val_{metric}"] for row in memory.log]
    result = {"value": None if failed else max(curve), "failed": failed, "curve": [round(v, 4) for v in curve]}
    stages = [row["stage"] for row in memory.log]
    return result | {"stages": stages, "seconds": round(time.perf_counter() - started, 1)}


def read_lines(file: Path) -> dict[str, dict]:
    """The runs that are done, by key. A line that a kill has torn is no run."""
    done = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        done[row["key"]] = row
    return done


def write_line(file: Path, row: dict) -> None:
    """Adds a line, on one of its own even after a torn one."""
    torn = file.exists() and file.stat().st_size and file.read_bytes()[-1:] != b"\n"
    with open(file, "a", encoding="utf-8") as out:
        out.write("\n" * bool(torn) + json.dumps(row) + "\n")
        out.flush()
        os.fsync(out.fileno())


# ---- the tables ----


def means(jobs: dict[Job, dict | None]) -> dict[float | None, float]:
    """Rate (or alpha) -> mean value over seeds, of those that have every seed; -inf where a run diverged. jobs: those
    of one strategy and setting, along one grid, by what was found."""
    along = "alpha" if len({job.alpha for job in jobs}) > 1 else "lr"
    found: dict = {}
    for job, row in jobs.items():
        value = math.nan if row is None else -math.inf if row["value"] is None else row["value"]
        found.setdefault(getattr(job, along), []).append(value)
    return {place: float(np.mean(values)) for place, values in sorted(found.items()) if not np.isnan(values).any()}


def vote(values: dict[float, float], default: float, grid: list[float]) -> int | None:
    """1 or -1: the best value stands above or below the default, and the first step that way is better than the
    default, too. 0: it stays. None: the default or a neighbour has not been tried."""
    middle = grid.index(default)
    if not all(place in values for place in grid[max(middle - 1, 0) : middle + 2]):
        return None
    away = {place: grid.index(place) - middle for place in values}
    best = max((values[place], -abs(away[place])) for place in values)
    sides = {int(np.sign(away[place])) for place in values if (values[place], -abs(away[place])) == best}
    side = sides.pop() if len(sides) == 1 else 0  # one on each side, alike
    return side if values[grid[middle + side]] > values[default] else 0


VOTES = {None: "not tried", -1: "down", 0: "stays", 1: "up"}


def decision(votes: list[int | None]) -> str:
    """What the rule makes of the votes of all settings."""
    if None in votes or not votes:
        return "not decided: not all settings have been tried"
    if len(set(votes)) == 1:
        return {0: "stays: all settings agree", 1: "moves a step up", -1: "moves a step down"}[votes[0]]
    counts = ", ".join(f"{votes.count(v)} {VOTES[v]}" for v in (-1, 0, 1))
    return f"stays: the settings do not agree ({counts})"


def table(title: str, grid: list[float], rows: dict[Setting, dict[float, float]], default: float) -> list[str]:
    """Lines of Markdown: a row a setting, a column a value of the grid; the default's in brackets, the best in bold."""
    head = [f"({place:g})" if place == default else f"{place:g}" for place in grid]
    lines = ["", f"**{title}**", "", f"| | {' | '.join(head)} | |", "|---" * (len(grid) + 2) + "|"]
    for setting, values in rows.items():
        best = max(values.values(), default=None)
        cells = ["" if place not in values else cell(values[place], values[place] == best) for place in grid]
        name = f"{setting.data}, {setting.arch}, {setting.epochs} epochs"
        lines.append(f"| {name} | {' | '.join(cells)} | {VOTES[vote(values, default, grid)]} |")
    return lines


def cell(value: float, best: bool) -> str:
    shown = "diverged" if value == -math.inf else f"{value:.3f}"
    return f"**{shown}**" if best else shown


def report(found: dict[Job, dict | None], opt: str) -> list[str]:
    """The tables of all strategies, rates and then alphas, and what would move."""
    lines, votes = [], {}  # votes: grid -> (who has it, the votes of all of them)
    for strategy in dict.fromkeys(job.strategy for job in found):
        entry, default = STRATEGIES[strategy], STRATEGIES[strategy].default_lr(opt)
        own = {job: row for job, row in found.items() if job.strategy == strategy}
        rates = {job: row for job, row in own.items() if job.alpha == entry.alpha}
        grids = [(entry.name, tuple(sorted(entry.rates(opt))), default, rates)]
        if entry.alphas:
            alphas = {job: row for job, row in own.items() if job.lr == default}
            grids.append((f"{entry.name}, alpha", tuple(sorted(entry.alphas)), entry.alpha, alphas))
        for title, grid, middle, some in grids:
            of_setting: dict[Setting, dict] = {}
            for job, row in some.items():
                of_setting.setdefault(job.setting, {})[job] = row
            rows = {setting: means(jobs) for setting, jobs in of_setting.items()}
            lines += table(title, list(grid), rows, middle)
            names, all_votes = votes.setdefault(grid, ([], []))
            names.append(title)
            all_votes += [vote(values, middle, list(grid)) for values in rows.values()]
    return [*lines, "", *(f"* {', '.join(names)}: {decision(some)}" for names, some in votes.values())]


# ---- the command ----


def read_command(arguments: list[str]) -> tuple[argparse.Namespace, flags.Settings]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    kinds = f"{', '.join(DRAWN)}, a folder, a .csv, an .npz"
    parser.add_argument("--data", nargs="+", default=list(DRAWN), metavar="NAME|PATH", help=kinds)
    parser.add_argument("--epochs", nargs="+", type=flags.number_of(int), default=[4, 10], help="budgets")
    parser.add_argument("--images", type=flags.number_of(int, 8), default=480, help="of each dataset at most (480)")
    parser.add_argument("--minutes", type=flags.number_of(float), default=math.inf, help="then no run is begun")
    parser.add_argument("--every-alpha", action="store_true", help="all alphas at all rates")
    own, others = parser.parse_known_args(arguments)
    said = flags.parse(others)
    if strange := sorted(set(said) - set(OFFERED)):
        raise flags.UsageError(f"--{strange[0].replace('_', '-')}: rates.py takes of ftcompare's flags {OFFERED}")
    return own, flags.on_this_machine(flags.make(DEFAULTS | said), lambda chosen: chosen)


def main(arguments: list[str]) -> None:
    own, settings = read_command(arguments)
    torch.set_flush_denormal(True)  # as ftcompare.py does
    own.out.mkdir(parents=True, exist_ok=True)
    file, size = own.out / "runs.jsonl", settings.preparation.img_size
    ready = {data.index.name: data for data in (prepared(name, own.images, size, own.out) for name in own.data)}
    sources = flags.weights_of(settings)
    weights = {arch: models.check_weights(models.load_weights(sources[arch], arch), arch) for arch in settings.arch}
    done, found, began = read_lines(file), {}, time.perf_counter()
    jobs = jobs_of(settings, list(ready), own.epochs, own.every_alpha)
    for number, job in enumerate(jobs, 1):
        start = weights[job.setting.arch]
        data = replace(ready[job.setting.data], mean=start.mean, std=start.std)
        key = key_of(job, data, start, settings)
        if key not in done and time.perf_counter() - began < 60 * own.minutes:
            place = {"data": job.setting.data, "arch": job.setting.arch, "epochs": job.setting.epochs}
            place |= {"strategy": job.strategy, "lr": job.lr, "alpha": job.alpha, "seed": job.seed}
            done[key] = {"key": key} | place | train_one(job, data, start, settings)
            write_line(file, done[key])
            shown = ", ".join(f"{name} {value}" for name, value in place.items() if value is not None)
            print(f"[{number} of {len(jobs)}] {shown}: {done[key]['value']}, {done[key]['seconds']} s", flush=True)
        found[job] = done.get(key)
    made = sum(row is not None for row in found.values())
    about = {arch: f"{arch} from {Path(w.source).name} ({(w.sha256 or 'random')[:8]})" for arch, w in weights.items()}
    print(f"\n{time.strftime('%Y-%m-%d')}, {flags.processor()}, {torch.__version__}; {', '.join(about.values())}")
    sides = ", ".join(f"{name} {len(d.rows['train'])} + {len(d.rows['val'])}" for name, d in ready.items())
    print(f"{size} px, {settings.recipe.opt}, {len(settings.seed)} seeds, {made} of {len(jobs)} runs; images: {sides}")
    print("\n".join(report(found, settings.recipe.opt)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (flags.UsageError, datasets.DataError, images.CacheError, images.ReadError, models.RunError) as error:
        sys.exit(f"rates.py: {error}")
