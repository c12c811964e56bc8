"""Every setting, a field a flag: the parser is made from the fields, and so is what makes two runs the same
run.

    said = parse(["--data", "demo", "--epochs", "3"])  # {"data": ("demo",), "epochs": 3}: what was said
    settings = make(said, data="demo")                 # defaults, demo's, protocol's, what was said
    settings.recipe.epochs, settings.arch              # (3, ("resnet18",))

Fields stand where they are used: Recipe in train.py, Hyperparameters in strategies.py, Options in
datasets.py, what is left here. A field's metadata: help, with its unit (without it there is no flag);
choices; least and most of a number; short, metavar; role. A field decides a run's numbers, and is compared
when a run is resumed, unless its role says that it is

    data     seen in the hashes of index, pixels, splits and weights, which are compared instead
    place    where things lie, and what machine works on them
    cell     which runs there are
    show     what is only scored, shown, or done instead of training

before: what a config.json that lacks the field was made with, where that is not the default."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import math
import os
import platform
import re
import subprocess
import sys
import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
import torchvision

import datasets
import models
import strategies
from datasets import Options
from prepare import Preparation
from strategies import Hyperparameters
from train import Recipe

VERSION = "0.1"


class UsageError(ValueError):
    """Something the user can mend; printed as one line, exit code 2."""


def flag(default: object, help: str, **more: object) -> object:
    """A field of the classes below. more: its metadata, see above."""
    return field(default=default, metadata={"help": help} | more)


@dataclass(frozen=True)
class Compared:
    """What is compared."""

    data: tuple[str, ...] = flag(
        (), f"{', '.join(datasets.DATASETS)}, demo, a folder, a .csv, an .npz", metavar="NAME|PATH", role="cell"
    )
    data_dir: str | None = flag(
        None, "folder of the dataset, or of the CSV's images; else $FTCOMPARE_DATA, ./data", role="place"
    )
    arch: tuple[str, ...] = flag(
        ("resnet50",), "torchvision classifiers, or timm:NAME (demo: resnet18)", metavar="NAME", role="cell"
    )
    strategy: tuple[str, ...] = flag(
        ("all",), f"all (the paper's), more, {', '.join(strategies.STRATEGIES)}", metavar="NAME", role="cell"
    )
    weights: tuple[str, ...] = flag(
        ("imagenet",),
        "start of the backbone: one for every --arch, or ARCH=FILE for each",
        metavar="imagenet|none|demo|FILE",
        role="data",
    )
    seed: tuple[int, ...] = flag((0,), "seeds of head, order and augmentation", least=0, role="cell")
    protocol: str | None = flag(None, "settings of a source, see below", choices=("davila",), role="show")


@dataclass(frozen=True)
class Chosen:
    """Training, the same for every strategy."""

    lr: float | None = flag(None, "peak learning rate (each strategy's default; for LP-FT of its second part)")
    tune: int = flag(
        0,
        "trials a strategy and fold: its default rate, half a decade up, half a decade down, then outward; "
        "the alphas of L1-SP and L2-SP by the same turns; 0: the defaults",
        least=0,
        metavar="N",
    )
    threshold: str = flag("youden", "from validation scores: 0.5, youden or sensitivity=0.9")


@dataclass(frozen=True)
class Machine:
    """Machine and output."""

    native: str = flag("auto", "Auto-RGN's kernel in csrc/", choices=("auto", "on", "off"), role="place")
    workers: int = flag(min(16, os.cpu_count() or 1), "threads that decode", short="-j", role="place")
    output_dir: str = flag("runs", "folder of the runs, splits, cache and tables", role="place")
    gradcam: int = flag(0, "Grad-CAM of N test images, for every strategy", least=0, metavar="N", role="show")
    overwrite: bool = flag(False, "do finished and differing runs again", role="show")
    save_every: float = flag(30.0, "seconds of training that a kill may cost", metavar="SECONDS", role="place")
    stale: float = flag(
        600.0,
        "seconds without a sign of life after which a run that a worker elsewhere has begun is taken over",
        metavar="SECONDS",
        role="place",
    )
    parallel: str | None = flag(
        None, "under torchrun: each rank takes runs of its own", choices=("cells",), role="place"
    )


@dataclass(frozen=True)
class Instead:
    """Instead of training."""

    dry_run: bool = flag(False, "print the runs, hours and gigabytes", role="show")
    check_data: bool = flag(False, "check the data; exit code 1 if something must be mended", role="show")
    report: str | None = flag(None, "make the report of a folder of runs anew", metavar="DIR", role="show")
    predict: tuple[str, ...] = flag(
        (), "score images, folders of them or a CSV by --run; CSV out", metavar="PATH", role="show"
    )
    export: str | None = flag(
        None, "write the model of --run by torch.export, its constants in FILE.json", metavar="FILE.pt2", role="show"
    )
    run: str | None = flag(None, "the finished run that --predict and --export use", metavar="DIR", role="show")
    out: str | None = flag(
        None, "where --predict writes, - for the terminal (<run>/predicted.csv)", metavar="FILE", role="show"
    )
    list_data: bool = flag(False, "print the known datasets and how to get them", role="show")
    show_blocks: bool = flag(False, "print the blocks of --arch", role="show")


@dataclass(frozen=True)
class Settings(Compared, Chosen, Machine, Instead):
    """What the command line may say, with every default in place. Another one is made by
    dataclasses.replace."""

    recipe: Recipe = field(default_factory=Recipe)
    preparation: Preparation = field(default_factory=Preparation)
    hyper: Hyperparameters = field(default_factory=Hyperparameters)
    options: Options = field(default_factory=Options)


PARTS = {"recipe": Recipe, "preparation": Preparation, "hyper": Hyperparameters, "options": Options}
GROUPS = {  # of --help, in order
    "what is compared": (Compared,),
    "training, the same for every strategy": (Chosen, Recipe),
    "splits and metrics": (Preparation, Options),
    "strategies": (Hyperparameters,),
    "machine and output": (Machine,),
    "instead of training": (Instead,),
}
DEMO = {"arch": ("resnet18",), "weights": ("demo",), "epochs": 10, "img_size": 32}
# The public follow-up code of the paper's authors; the paper's own settings are behind its journal's door.
DAVILA = {"opt": "adam", "lr": 1e-3, "lp_lr": 1e-3, "epochs": 30, "schedule_epochs": 100, "warmup": 0.0, "patience": 3}
DAVILA |= {"weight_decay": 0.0, "metric": "balanced_accuracy", "batch_size": 96, "resize": 232, "img_size": 224}
PROTOCOLS = {"davila": DAVILA | {"augment": "none"}}


def flags_of(group: type) -> list[Field]:
    """The fields that a class declares itself and that have a flag."""
    own = inspect.get_annotations(group)
    return [f for f in fields(group) if f.name in own and "help" in f.metadata]


# ---- what makes two runs the same ----


def deciding(settings: Settings, used: tuple[str, ...]) -> dict:
    """The fields that decide a run's numbers, by name; those of Hyperparameters that its strategy uses stand
    below "hyperparameters"."""
    found = {}
    for part in (settings, settings.preparation, settings.recipe):
        found |= {f.name: getattr(part, f.name) for f in deciding_fields(type(part))}
    inner = {f.name: getattr(settings.hyper, f.name) for f in deciding_fields(Hyperparameters) if f.name in used}
    return found | {"hyperparameters": inner}


def before() -> dict:
    """What a config.json that lacks a deciding field was made with, in the form of deciding()."""
    plain, inner = (
        {f.name: f.metadata.get("before", f.default) for part in parts for f in deciding_fields(part)}
        for parts in ((Settings, Preparation, Recipe), (Hyperparameters,))
    )
    return plain | {"hyperparameters": inner}


def deciding_fields(part: type) -> list[Field]:
    return [f for f in fields(part) if "help" in f.metadata and "role" not in f.metadata]


def flat(settings: Settings) -> dict:
    """Every field by its flag's name, as config.json keeps them under "arguments"."""
    found = {f.name: getattr(settings, f.name) for f in fields(Settings) if f.name not in PARTS}
    for name in PARTS:
        part = getattr(settings, name)
        found |= {f.name: getattr(part, f.name) for f in flags_of(type(part))}
    return found


def places() -> set[str]:
    """The fields that may differ between the workers of a sweep."""
    parts = (Settings, *PARTS.values())
    return {f.name for part in parts for f in fields(part) if f.metadata.get("role") == "place"}


# ---- the command ----


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(message)


def parser() -> Parser:
    p = Parser(description="Which fine-tuning strategy should I use on my images?", argument_default=argparse.SUPPRESS)
    for title, classes in GROUPS.items():
        add = p.add_argument_group(title).add_argument
        for group in classes:
            hints = typing.get_type_hints(group)
            for f in flags_of(group):
                names = ["--" + f.name.replace("_", "-"), *f.metadata.get("short", "").split()]
                add(*names, dest=f.name, **argument(f, hints[f.name]))
    p.add_argument("--version", action="version", version=f"ftcompare {VERSION}")
    return p


def argument(f: Field, hint: object) -> dict:
    """What argparse is told of a field."""
    about = f.metadata
    told = {"help": help_text(f).replace("%", "%%")}
    if hint is bool:
        return told | {"action": "store_true"}
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind not in (type(None), ...)]
    if typing.get_origin(kinds[0]) is tuple:  # tuple[float, ...] | None
        hint, kinds = kinds[0], [typing.get_args(kinds[0])[0]]
    told |= {"nargs": "+"} if typing.get_origin(hint) is tuple else {}
    told |= {"metavar": about["metavar"]} if "metavar" in about else {}
    if "choices" in about:
        told |= {"choices": [c for c in about["choices"] if c is not None]}
    if kinds[0] in (int, float):
        told |= {"type": number_of(kinds[0], about.get("least"), about.get("most"))}
    return told


def help_text(f: Field) -> str:
    """The field's help with its default, and the demo's where that is another."""
    if f.name == "protocol":
        return "; ".join(f"{name}: {', '.join(f'{k} {v}' for k, v in p.items())}" for name, p in PROTOCOLS.items())
    shown = [] if f.default in (None, False, ()) else [plain(f.default)]
    shown += [f"demo: {plain(DEMO[f.name])}"] if f.name in DEMO else []
    return f.metadata["help"] + (f" ({'; '.join(shown)})" if shown else "")


def plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def number_of(kind: type, least: float | None = None, most: float | None = None) -> Callable[[str], float]:
    """A number as argparse's type: whole ones from 1 up, real ones from 0 up, unless least and most say
    otherwise."""
    least = (1 if kind is int else 0) if least is None else least

    def parse_number(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf or (most is not None and value > most):
            what = "whole number" if kind is int else "number"
            reach = f"of {least} or more" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {what} {reach}")
        return value

    return parse_number


def parse(arguments: list[str]) -> dict:
    """What the command line said, by field name, and nothing else. UsageError where it cannot be read."""
    said = vars(parser().parse_args(arguments))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}


def make(said: dict, data: str | None = None) -> Settings:
    """The settings for one dataset: defaults, those of the demo, those of a protocol, then what was said.
    UsageError for settings that cannot go together."""
    values = dict(DEMO) if data in datasets.DEMOS else {}
    values |= PROTOCOLS.get(said.get("protocol"), {}) | said
    if "img_size" not in values and (size := models.own_size(values.get("arch", Settings.arch))):
        values["img_size"] = size
    try:
        parts = {
            name: kind(**{f.name: values.pop(f.name) for f in flags_of(kind) if f.name in values})
            for name, kind in PARTS.items()
        }
    except ValueError as error:
        raise UsageError(str(error)) from None
    settings = Settings(**values, **parts)
    settings = replace(
        settings, strategy=chosen_strategies(settings.strategy), seed=tuple(dict.fromkeys(settings.seed))
    )
    check(settings)
    return settings


NAMED = {
    name: [key for key, entry in strategies.STRATEGIES.items() if entry.paper is paper]
    for name, paper in (("all", True), ("more", False))
}


def chosen_strategies(names: tuple[str, ...]) -> tuple[str, ...]:
    """Their keys, each once; those of NAMED in place of its names."""
    try:
        keys = [NAMED.get(name) or [strategies.strategy_key(name)] for name in names]
    except ValueError as error:
        raise UsageError(f"--strategy: {error}") from None
    return tuple(dict.fromkeys(key for some in keys for key in some))


def check(settings: Settings) -> None:
    """UsageError for what one flag's own choices cannot tell."""
    if not re.fullmatch(r"0\.5|youden|sensitivity=(0?\.\d*[1-9]\d*|1(\.0*)?)", settings.threshold):
        raise UsageError(f"--threshold {settings.threshold}: give 0.5, youden, or sensitivity=0.9")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 and settings.data and not settings.parallel:
        raise UsageError("torchrun: one run is not spread over ranks; --parallel cells gives each rank runs of its own")
    how = settings.preparation
    for name in ("val_fraction", "test_fraction"):
        if not 0 < getattr(how, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(how, name)}: give a share between 0 and 1")
    if how.splits_file and how.folds > 1:
        raise UsageError("--splits-file has folds of its own: leave out --folds")
    if settings.tune and (settings.lr is not None or settings.hyper.alpha is not None):
        raise UsageError("--tune chooses lr and alpha: leave out --lr and --alpha (and --protocol, which sets lr)")
    if settings.recipe.batch_size == 1 and settings.hyper.bn == "train":
        raise UsageError("-b 1: BatchNorm cannot normalise a single image; give -b 2 or more, or --bn eval")
    if how.resize and how.resize < how.img_size:
        smaller = f"is smaller than --img-size {how.img_size}, which is cut out of it"
        raise UsageError(f"--resize {how.resize} {smaller}")
    known = torchvision.models.list_models(module=torchvision.models)
    for arch in settings.arch:
        if arch.startswith(models.TIMM):
            models.timm_config(arch)
    if unknown := [a for a in settings.arch if a not in known and not a.startswith(models.TIMM)]:
        close = [m for m in known if m[:3] == unknown[0][:3].lower()] or ["resnet50"]
        raise UsageError(f"unknown --arch {', '.join(unknown)}; torchvision has {datasets.listing(close, most=12)}")
    weights_of(settings)


def weights_of(settings: Settings) -> dict[str, str]:
    """--weights by architecture. UsageError where one has none or two, or is not among --arch."""
    named, common = [], []
    all_archs = {*torchvision.models.list_models(module=torchvision.models)}
    for source in settings.weights:
        arch, equals, file = source.partition("=")
        known = equals and (arch in all_archs or arch.startswith(models.TIMM))
        (named if known else common).append((arch, file) if known else source)  # a file's own name may have a "="
    if strange := [arch for arch, _ in named if arch not in settings.arch]:
        raise UsageError(f"--weights {strange[0]}=...: {strange[0]} is not among --arch {' '.join(settings.arch)}")
    if twice := [arch for arch, n in Counter(arch for arch, _ in named).items() if n > 1]:
        raise UsageError(f"--weights {twice[0]}=...: given twice")
    if len(common) > 1:
        raise UsageError(f"--weights {' '.join(common)}: give one for every --arch, or ARCH=FILE for each")
    found = dict(named)
    if lacking := [arch for arch in settings.arch if arch not in found and not common]:
        raise UsageError(f"--weights says nothing for {', '.join(lacking)}: add {lacking[0]}=FILE, imagenet or none")
    return {arch: found.get(arch, *common) for arch in settings.arch}


# ---- this machine ----


def on_this_machine(settings: Settings, settled: Callable[[dict], dict]) -> Settings:
    """--device and --amp without auto. settled(what auto would be here) -> what auto is in this output
    folder, settled when its first run began. UsageError for what this machine has not."""
    recipe = settings.recipe
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here = next(name for name in ("cuda", "mps", "cpu") if available[name])
    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    kind = (here if recipe.device == "auto" else recipe.device).partition(":")[0]
    auto = {"device": here, "amp": "bf16" if kind == "cuda" and fast else "off"}
    if "auto" in (recipe.device, recipe.amp):
        auto |= settled(auto)
    chosen = {name: auto[name] if getattr(recipe, name) == "auto" else getattr(recipe, name) for name in auto}
    if settings.parallel and chosen["device"] == "cuda" and available["cuda"]:  # a rank a GPU
        chosen["device"] = f"cuda:{int(os.environ.get('LOCAL_RANK') or 0) % torch.cuda.device_count()}"
    check_machine(chosen["device"], chosen["amp"], available)
    return replace(settings, recipe=replace(recipe, **chosen))


def check_machine(device: str, amp: str, available: dict[str, bool]) -> None:
    kind = device.partition(":")[0]
    if not available.get(kind):
        there = ", ".join(name for name in available if available[name])
        raise UsageError(f"--device {device}: this machine does not have it; it has {there}")
    features = ("avx512_bf16", "amx_tile")
    fast = kind == "cuda" or any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in features)
    if (amp == "fp16" and kind != "cuda") or (amp == "bf16" and not fast):
        slow = f"this {kind} has no fast {amp} arithmetic and would be many times slower; use --amp off"
        raise UsageError(f"--amp {amp}: {slow}")


def environment(device: str) -> dict:
    """Versions and machine: kept beside the settings, not compared when a run is resumed."""
    git = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(git, cwd=here, check=False, capture_output=True, text=True, timeout=10)
        commit = described.stdout.strip() if described.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    timm = {"timm": getattr(sys.modules["timm"], "__version__", None)} if sys.modules.get("timm") else {}
    return timm | {
        "ftcompare": VERSION,
        "git": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The CPU's name, where the system tells."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found.group(1)
    return platform.processor() or platform.machine()


def device_line(recipe: Recipe) -> str:
    device = recipe.device
    threads = f"{torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else threads
    return f"{device} ({name}), {'float32' if recipe.amp == 'off' else recipe.amp}"
