"""Every setting, a field a flag: the parser is made from the fields, and so is what makes two runs the same
run.

    said = parse(["--data", "demo", "--epochs", "3"])  # {"data": ("demo",), "epochs": 3}: what was said
    settings = make(said, data="demo")                 # defaults, demo's, protocol's, what was said
    settings.recipe.epochs, settings.arch              # (3, ("resnet18",))

Fields stand where they are used: Recipe in train.py, Hyperparameters in strategies.py, Options in
datasets.py, what is left here. A field's metadata: help, with its unit (without it there is no flag), and
where the default is None what that means, as "(default: ...)"; basic: it stands in the short --help, too;
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
import difflib
import inspect
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import typing
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
import torchvision

import datasets
import metrics
import models
import strategies
from datasets import Options
from prepare import Preparation
from strategies import Hyperparameters
from train import Recipe

VERSION = "0.1"
ABOUT = (
    "Which fine-tuning strategy should I use on my images? Trains all on the same splits, seeds and epochs, and "
    "writes report.html. To see it: --data demo"
)
HELP_COLUMN = 24  # where the text of --help begins


NAMED = {
    name: [key for key, entry in strategies.STRATEGIES.items() if entry.paper is paper]
    for name, paper in (("all", True), ("more", False))
}


class UsageError(ValueError):
    """Something the user can mend; printed as one line, exit code 2."""


def flag(default: object, help: str, **more: object) -> object:
    """A field of the classes below. more: its metadata, see above."""
    return field(default=default, metadata={"help": help} | more)


@dataclass(frozen=True)
class Compared:
    """What is compared."""

    data: tuple[str, ...] = flag(
        (), "a folder, .csv, .npz, demo, or a name of --list-data", metavar="NAME|PATH", role="cell", basic=True
    )
    data_dir: str | None = flag(
        None, "folder of a known dataset, or of a CSV's images (default: $FTCOMPARE_DATA, ./data)", role="place"
    )
    arch: tuple[str, ...] = flag(
        ("resnet50",), "torchvision models, or timm:NAME", metavar="NAME", role="cell", basic=True
    )
    strategy: tuple[str, ...] = flag(
        ("all",),
        f"all: {', '.join(NAMED['all'])}; more: {', '.join(NAMED['more'])}",
        metavar="NAME",
        role="cell",
        basic=True,
    )
    weights: tuple[str, ...] = flag(
        ("imagenet",), "imagenet, none, a file, or ARCH=FILE for each", metavar="FILE", role="data", basic=True
    )
    seed: tuple[int, ...] = flag((0,), "random seeds, a run for each", least=0, metavar="N", role="cell", basic=True)
    protocol: str | None = flag(None, "settings of a source", choices=("davila",), role="show")


@dataclass(frozen=True)
class Chosen:
    """Training, the same for every strategy."""

    lr: float | None = flag(None, "highest learning rate (default: each strategy's own)", basic=True)
    tune: int = flag(0, "trials of lr and alpha for each strategy", least=0, basic=True)
    threshold: str = flag("youden", "how validation sets the threshold: 0.5, youden or sensitivity=0.9", metavar="RULE")


@dataclass(frozen=True)
class Machine:
    """Machine and output."""

    native: str = flag("auto", "Auto-RGN: the compiled kernel of csrc/", choices=("auto", "on", "off"), role="place")
    workers: int = flag(min(16, os.cpu_count() or 1), "threads that decode images", short="-j", role="place")
    output_dir: str = flag("runs", "folder of runs, cache and report", role="place", basic=True)
    gradcam: int = flag(
        0, "test images to draw Grad-CAM maps of, the same for every strategy; 0: none", least=0, role="show"
    )
    keep_last: bool = flag(False, "keep last.pt, the weights of the last epoch, of finished runs", role="place")
    overwrite: bool = flag(False, "train finished and differing runs anew", role="show", basic=True)
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

    check_data: bool = flag(False, "look for faults in the data; exit code 1 if any", role="show", basic=True)
    dry_run: bool = flag(False, "say how many runs, hours and gigabytes it would be", role="show", basic=True)
    report: str | None = flag(
        None, "write the report of the runs in a folder anew", metavar="DIR", role="show", basic=True
    )
    predict: tuple[str, ...] = flag(
        (), "score images, folders or a CSV by --run", metavar="PATH", role="show", basic=True
    )
    export: str | None = flag(
        None, "write the model of --run by torch.export, and FILE.json", metavar="FILE.pt2", role="show"
    )
    run: str | None = flag(None, "the finished run for --predict and --export", metavar="DIR", role="show", basic=True)
    out: str | None = flag(
        None, "where --predict writes; - is the terminal (default: <run>/predicted.csv)", metavar="FILE", role="show"
    )
    list_data: bool = flag(False, "print the known datasets and how to get them", role="show", basic=True)
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
GROUPS = {  # of --help-all, in order
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
DAVILA |= {"augment": "none", "lpft_mode": "train"}
PROTOCOLS = {"davila": DAVILA}


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
        without = re.match(r"argument (--[\w-]+).*: expected (one|at least one) argument", message)
        if without:
            (named,) = ((f, hint) for f, hint in flags_in(*GROUPS.values()) if flag_name(f.name) == without[1])
            raise UsageError(f"{without[1]} needs a value, as in {usage(*named)}: {help_text(named[0])}")
        raise UsageError(message)


class Help(argparse.Action):
    """Prints --help, or --help-all."""

    def __call__(self, parser, values, chosen, name=None):
        print(help_page(everything="all" in name))
        parser.exit()


def parser() -> Parser:
    made = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for f, hint in flags_in(*GROUPS.values()):
        made.add_argument(flag_name(f.name), *f.metadata.get("short", "").split(), dest=f.name, **argument(f, hint))
    made.add_argument("-h", "--help", "--help-all", nargs=0, action=Help)
    made.add_argument("--version", action="version", version=f"ftcompare {VERSION}")
    return made


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def flags_in(*groups: Iterable[type]) -> list[tuple[Field, object]]:
    """The fields with a flag, in order, each with its type."""
    classes = [group for some in groups for group in some]
    hints = {group: typing.get_type_hints(group) for group in classes}
    return [(f, hints[group][f.name]) for group in classes for f in flags_of(group)]


def kind_of(hint: object) -> tuple[type, bool]:
    """(the type of a value, whether the flag takes several): of tuple[float, ...] | None, (float, True)."""
    first = next(kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None))
    if typing.get_origin(hint) is tuple:
        return first, True
    return kind_of(first) if typing.get_origin(first) is tuple else (first, False)


def argument(f: Field, hint: object) -> dict:
    """What argparse is told of a field."""
    about, (kind, several) = f.metadata, kind_of(hint)
    if kind is bool:
        return {"action": "store_true"}
    told = {"nargs": "+"} if several else {}
    if "choices" in about:
        return told | {"type": one_of([c for c in about["choices"] if c is not None], kind)}
    if kind in (int, float):
        told |= {"type": number_of(kind, about.get("least"), about.get("most"))}
    return told


def help_page(everything: bool) -> str:
    """--help-all, or the short --help: a line a flag, of those that a newcomer needs."""
    width = min(max(shutil.get_terminal_size().columns, 60), 110)
    lines = ["usage: python ftcompare.py --data PATH [flags]", "", *textwrap.wrap(ABOUT, width)]
    more = {"-h, --help": "the flags that most people need", "--help-all": "every flag"}
    more |= {"--version": "the version"} if everything else {}
    for title, classes in (GROUPS | {"help": ()}).items():
        shown = flags_in(classes) if everything else [(f, h) for f, h in flags_in(classes) if f.metadata.get("basic")]
        if not shown and classes:
            continue
        entries = {usage(f, hint): help_text(f) for f, hint in shown} if classes else more
        lines += ["", f"{title}:"]
        for names, text in entries.items():
            own_line = len(names) > HELP_COLUMN - 4
            wrapped = textwrap.wrap(text, width - HELP_COLUMN) or [""]
            lines += [f"  {names}"] if own_line else [f"  {names:<{HELP_COLUMN - 2}}{wrapped.pop(0)}"]
            lines += [" " * HELP_COLUMN + line for line in wrapped]
    return "\n".join(lines)


def usage(f: Field, hint: object) -> str:
    """--batch-size, -b N"""
    about, (kind, several) = f.metadata, kind_of(hint)
    names = ", ".join([flag_name(f.name), *about.get("short", "").split()])
    if kind is bool:
        return names
    choices = "|".join(str(c) for c in about.get("choices", ()) if c is not None)
    value = about.get("metavar") or choices or {int: "N", float: "X"}.get(kind) or f.name.rpartition("_")[2].upper()
    return f"{names} {value}" + " ..." * several


def help_text(f: Field) -> str:
    """The field's help with its default, and the demo's where that is another."""
    text = f.metadata["help"]
    if f.name == "protocol":
        text += "; " + "; ".join(
            f"{name}: {', '.join(f'{k} {v}' for k, v in p.items())}" for name, p in PROTOCOLS.items()
        )
    if f.default is None or f.default is False or f.default == () or "(default" in text:
        return text
    demo = f"; demo: {plain(DEMO[f.name])}" if f.name in DEMO else ""
    return f"{text} (default: {plain(f.default)}{demo})"


def helps() -> dict[str, str]:
    """The help of every flag, by its name."""
    return {flag_name(f.name): help_text(f) for f, _ in flags_in(*GROUPS.values())}


def plain(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def one_of(choices: list, kind: type) -> Callable[[str], object]:
    """A choice as argparse's type."""

    def parse_choice(text: str):
        for choice in choices:
            if text == str(choice):
                return kind(choice)
        listed = ", ".join(map(str, choices))
        raise argparse.ArgumentTypeError(f"{text!r} is none of {listed}{did_you_mean(text, map(str, choices))}")

    return parse_choice


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
    chosen, unknown = parser().parse_known_args(arguments)
    if unknown:
        raise UsageError(about_unknown(unknown))
    said = vars(chosen)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}


# Other words for the flags, as other tools and papers have them, and for some of their values.
OTHER_NAMES = {
    "--data": "dataset datasets datapath dataroot root input images imagedir imgdir traindir train csv",
    "--arch": "model models modelname backbone network net architecture encoder basemodel",
    "--strategy": "method methods strategies algorithm finetune finetuning mode approach transfer",
    "--weights": "pretrained pretrain checkpoint ckpt init initweights pretrainedweights modelpath loadfrom",
    "--seed": "seeds randomseed randomstate manualseed",
    "--lr": "learningrate lrrate baselr initlr initiallr maxlr blr rate",
    "--tune": "trials ntrials tuning hpo search sweep",
    "--epochs": "numepochs nepochs maxepochs trainepochs numtrainepochs",
    "--batch-size": "bs trainbatchsize batch imagespergpu",
    "--grad-accum": "gradientaccumulation accumulate accumiter gradaccumsteps gradientaccumulationsteps",
    "--opt": "optimizer optim",
    "--warmup": "warmupepochs warmupsteps warmupratio lrwarmupepochs",
    "--patience": "earlystopping earlystop earlystoppingpatience",
    "--clip-grad": "clip gradclip maxnorm maxgradnorm clipgradnorm gradientclipval",
    "--class-weights": "classweight weightedloss balanced reweight",
    "--augment": "augmentation aug dataaugmentation autoaugment aa",
    "--device": "gpu gpus cuda gpuid accelerator nogpu cpu",
    "--amp": "precision fp16 bf16 mixedprecision halfprecision half dtype",
    "--img-size": "imagesize inputsize size resolution cropsize traincropsize imsize",
    "--folds": "kfold kfolds nfolds numfolds cv crossval crossvalidation k",
    "--val-fraction": "valsplit valsize valratio valpercent validationsplit validation",
    "--test-fraction": "testsplit testsize testratio testpercent",
    "--metric": "metrics score monitor scoring",
    "--path-col": "imagecol imagecolumn filecol filename filenamecol pathcolumn xcol",
    "--label-col": "label labelcolumn targetcol target targets classcol ycol",
    "--group-col": "group groups patient patientcol patientid groupcolumn subject subjectcol",
    "--weight-decay": "l2reg decay l2regularization",
    "--alpha": "lambda spalpha penalty regularization regstrength",
    "--workers": "numworkers nworkers threads njobs nproc",
    "--output-dir": "output outdir outputfolder savedir save savepath logdir workdir resultsdir dest",
    "--overwrite": "force restart fresh clobber",
    "--gradcam": "cam saliency heatmap",
    "--predict": "inference infer eval evaluate evaluateonly test testonly",
    "--run": "rundir runfolder",
    "--help-all": "helpfull fullhelp helplong flags",
}
NO_FLAG = {  # what needs none
    "resume": "the same command again goes on where it was",
    "numclasses": "the classes are read from the data",
    "nclasses": "the classes are read from the data",
    "momentum": "--opt sgd has momentum 0.9",
    "scheduler": "the learning rate follows a cosine to 0, see --warmup and --schedule-epochs",
    "freeze": "--strategy lp trains the head alone",
    "freezebackbone": "--strategy lp trains the head alone",
    "freezelayers": "--strategy lp trains the head alone",
}
OTHER_VALUES = {
    "strategy": {
        "ft": "full fullft finetune finetuning fullfinetune fullfinetuning standard vanilla",
        "lp": "linear linearprobe linearprobing probe probing frozen freeze head headonly featureextraction",
        "lpft": "linearprobethenfinetune linearprobefinetune linearprobingthenfinetuning lpthenft",
        "glf": "gradual gradualunfreezing unfreeze ulmfit lastfirst graduallastfirst",
        "gfl": "firstlast gradualfirstlast",
        "l1sp": "l1",
        "l2sp": "l2 sp",
        "autorgn": "rgn surgical surgicalfinetuning",
    },
    "weights": {"imagenet": "pretrained true yes default imagenet1k imagenet1kv1", "none": "random scratch false no"},
    "device": {"cuda": "gpu", "cpu": "nogpu"},
    "metric": {"auroc": "auc rocauc aucroc", "average_precision": "ap map prauc auprc", "macro_f1": "f1macro fscore"},
}


def bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def closest(word: str, names: Iterable[str], others: dict[str, str] | None = None) -> str:
    """The name that was most likely meant, "" where none is near. others: name -> other words for it."""
    spelled = {other: name for name, words in (others or {}).items() for other in words.split()}
    own = {bare(name): name for name in names}
    if known := (spelled | own).get(bare(word)):
        return known
    long = {other: name for other, name in spelled.items() if len(other) > 5}  # short words look like many others
    near = difflib.get_close_matches(bare(word), long | own, n=1, cutoff=0.75)
    return (long | own)[near[0]] if near else ""


def did_you_mean(word: str, names: Iterable[str], others: dict[str, str] | None = None) -> str:
    """ "; did you mean NAME?", or nothing."""
    near = closest(word, names, others)
    return f"; did you mean {near}?" if near else ""


def about_unknown(unknown: list[str]) -> str:
    """What is said of arguments that are no flags."""
    names = [word.partition("=")[0] for word in unknown if re.match(r"-+[a-zA-Z]", word)]
    if not names:
        return f"{unknown[0]!r} belongs to no flag; did you mean --data {unknown[0]}?"
    found = []
    for name in dict.fromkeys(names):
        if instead := NO_FLAG.get(bare(name)):
            found.append(f"unknown flag {name}: {instead}")
        else:
            near = did_you_mean(name, [*helps(), "--help-all"], OTHER_NAMES)
            found.append(f"unknown flag {name}{near or '; --help-all lists every flag'}")
    return "; ".join(found)


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


def chosen_strategies(names: tuple[str, ...]) -> tuple[str, ...]:
    """Their keys, each once; those of NAMED in place of its names."""
    keys: list[str] = []
    for name in names:
        try:
            keys += NAMED.get(name) or [strategies.strategy_key(name)]
        except ValueError as error:
            near = did_you_mean(name, strategies.STRATEGIES, OTHER_VALUES["strategy"])
            raise UsageError(f"--strategy: {error}{near}") from None
    return tuple(dict.fromkeys(keys))


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
        near = did_you_mean(unknown[0], known)
        close = [m for m in known if m[:3] == unknown[0][:3].lower()] or ["resnet50"]
        has = f"torchvision has {datasets.listing(close, most=12)}"
        raise UsageError(f"unknown --arch {', '.join(unknown)}{near or ';'} {has}")
    if how.metric and how.metric not in metrics.METRICS:
        near = did_you_mean(how.metric, metrics.METRICS, OTHER_VALUES["metric"])
        raise UsageError(f"unknown --metric {how.metric}{near or '; it is one of ' + ', '.join(metrics.METRICS)}")
    for source in weights_of(settings).values():
        near = closest(source, ("imagenet", "none"), OTHER_VALUES["weights"])
        if near not in ("", source) and not Path(source).exists():
            raise UsageError(f"--weights {source}: no such file; did you mean {near}?")


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
    if kind not in available:
        near = did_you_mean(kind, available, OTHER_VALUES["device"])
        raise UsageError(f"unknown --device {device}{near or '; it is one of auto, ' + ', '.join(available)}")
    if not available[kind]:
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
        "spin": os.environ.get("GOMP_SPINCOUNT"),
    }


def processor() -> str:
    """The CPU's name, where the system tells."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found.group(1)
    return platform.processor() or platform.machine()


def device_line(recipe: Recipe) -> str:
    device = recipe.device
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() != 1)}"
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else threads
    return f"{device} ({name}), {'float32' if recipe.amp == 'off' else recipe.amp}"
