"""The files of a run: pretrained weights in; config.json, log.csv, last.pt, best.pt, predictions.csv,
metrics.json out.

    run = RunFolder("runs/demo/resnet18/lpft/seed0-fold0")
    with run.locked():                           # one process a folder
        run.check(settings, overwrite=False)     # refused where they differ from the folder's
        run.write_json("metrics.json", {...})    # written last: its presence is what "done" means

Every file is written whole or not at all; what is loaded is tensors and plain Python, weights_only=True.
Imports torch and torchvision; knows nothing of training.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from files import to_csv, to_json, write_atomically


class RunError(ValueError):
    """A run folder or a file of weights that cannot be used as it is; the message says why and what to do."""


class Busy(RunError):
    """Another process is at this run."""


def load_checkpoint(file: Path) -> dict:
    """Tensors and plain Python only. RunError for anything else, and for a damaged file."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{file}: no such file") from None
    except OSError as error:  # permission, a failing disk: nothing is wrong with the file
        raise RunError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise RunError(
            f"{file}: not a checkpoint of tensors and plain Python ({type(error).__name__})"
        ) from None


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """'epochs: 12 there, 30 now' for every setting that is not the same."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} there, {b!r} now")
    return found


# What a setting was before there was one, for the config.json of an older run. joined_ids: ids were compared as they
# are spelt, so an older run is today's where no id has two spellings or --exact-ids keeps them apart.
EARLIER = {"joined_ids": 0}


class RunFolder:
    def __init__(self, path: str | Path):
        self.path = Path(path)

    def file(self, name: str) -> Path:
        return self.path / name

    def done(self) -> bool:
        return self.file("metrics.json").is_file()

    def begun(self) -> bool:
        """Whether a run was trained here at all: a folder that only holds a copy of a best.pt is none."""
        return any(self.file(name).is_file() for name in ("config.json", "last.pt", "log.csv", "failed.json"))

    def busy(self) -> bool:
        """Whether another process is at it now."""
        try:
            with self.locked():
                return False
        except Busy:
            return True

    @contextlib.contextmanager
    def locked(self):
        """Held while the folder is written; the system lets go of it when the process ends, however it
        ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.file(".lock"), "w") as handle:
            try:
                import fcntl
            except ImportError:  # Windows: no lock, the file is only there
                yield self
                return
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Busy(f"{self.path}: another process is training this run") from None
            yield self

    def check(self, settings: dict, overwrite: bool) -> None:
        """RunError where the folder was begun with other settings. overwrite: it is emptied instead."""
        config = self.file("config.json")
        if overwrite and self.path.is_dir():
            for entry in self.path.iterdir():
                if entry.name != ".lock":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if config.is_file():
            earlier = {name: value for name, value in EARLIER.items() if name in settings}
            there = earlier | self.read_json("config.json").get("settings", {})
            if different := differences(there, json.loads(to_json(settings))):
                raise RunError(
                    f"{self.path} was begun with other settings ({'; '.join(different)}); "
                    "--overwrite does it again, --output-dir puts it elsewhere"
                )
        elif left := [n for n in ("last.pt", "best.pt", "metrics.json") if self.file(n).is_file()]:
            raise RunError(
                f"{self.path} holds {' and '.join(left)} without config.json, so their settings are unknown; "
                "--overwrite does the run again, --output-dir puts it elsewhere"
            )

    def write_json(self, name: str, value: object) -> None:
        write_atomically(self.file(name), to_json(value))

    def read_json(self, name: str) -> dict:
        try:
            value = json.loads(self.file(name).read_text())
        except ValueError as error:
            raise RunError(f"{self.file(name)} is damaged ({error}); remove it, or --overwrite") from None
        if not isinstance(value, dict):
            raise RunError(f"{self.file(name)} is damaged (no JSON object); remove it, or --overwrite")
        return value

    def write_csv(self, name: str, rows: list[dict]) -> None:
        if rows:
            write_atomically(self.file(name), to_csv(rows))

    def write_logs(self, state: dict) -> None:
        """log.csv and ratios.csv, of what last.pt holds."""
        self.write_csv("log.csv", state["log"])
        self.write_csv("ratios.csv", state["ratios"])

    def complete_logs(self, epochs: int) -> None:
        """Writes the logs of a finished run anew where they end before its last epoch: runs that were killed
        between last.pt and log.csv were once finished like that."""

        def last_epoch(name: str) -> int:
            with open(self.file(name), encoding="utf-8", newline="") as lines:
                return max((int(row["epoch"]) for row in csv.DictReader(lines)), default=0)

        there = [name for name in ("log.csv", "ratios.csv") if self.file(name).is_file()]
        short = "log.csv" not in there or min(map(last_epoch, there)) < epochs
        if short and self.file("last.pt").is_file():
            self.write_logs(self.load("last.pt"))

    def save(self, name: str, checkpoint: dict) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.file(f".{name}.{os.getpid()}.tmp")
        try:
            torch.save(checkpoint, temporary)
            os.replace(temporary, self.file(name))
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, name: str) -> dict:
        return load_checkpoint(self.file(name))


# ------------------------------------------------------------------------------ the model, pretrained weights


def new_model(arch: str) -> nn.Module:
    """A torchvision classifier with random weights, without the auxiliary heads of GoogLeNet and
    Inception."""
    auxiliary = {"aux_logits": False, "init_weights": False} if arch in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(arch, weights=None, **auxiliary)


@dataclass
class Weights:
    """What a backbone starts from. state: tensors by name, None for random. mean, std: of the pixels it was
    trained on. transform_input: GoogLeNet, Inception v3: whether it was trained on pixels scaled to -1..1."""

    source: str
    state: dict[str, Tensor] | None = None
    sha256: str | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    transform_input: bool = False


# torchvision's own files have older names: DenseNet "norm.1" where its modules are called "norm1", ViT
# "mlp.linear_1" and "mlp.linear_2" where they are "mlp.0" and "mlp.3". Wrappers put their prefix before all.
OLD_NAMES = [
    (re.compile(r"^(module\.|_orig_mod\.)+"), ""),
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
]


def load_weights(weights: str, arch: str) -> Weights:
    """weights: none, imagenet, or a file: a torchvision state dict, or the best.pt of a finished run of this
    project. RunError for a file of another architecture, by what it says of itself, and for one whose mean and std
    are not of pixels from 0 to 1; whether the tensors fit is load_backbone's."""
    if weights == "none":
        return Weights("none")
    file = imagenet_file(arch) if weights == "imagenet" else Path(weights).expanduser()
    run = RunFolder(file.resolve().parent)
    finished = run.done()  # asked first: what is read after that changes no more
    checkpoint = load_checkpoint(file)
    if not isinstance(checkpoint, dict) or not all(isinstance(name, str) for name in checkpoint):
        raise RunError(f"{file}: holds no tensors by name; it must be a state dict")
    meta = checkpoint["meta"] if isinstance(checkpoint.get("meta"), dict) else {}
    if "stage" in meta and run.begun() and not finished:
        raise RunError(
            f"{file}: its run is not finished (no metrics.json beside it), its weights are half trained; "
            "run its command again to the end, or pass another --weights"
        )
    if isinstance(checkpoint.get("plan"), dict) and "optimizer" in checkpoint:
        raise RunError(f"{file}: is the state of a run's training; pass the best.pt of a finished run")
    refuse_another_arch(file, arch, meta.get("arch"), checkpoint.get("arch"))
    wrapped = (checkpoint[k] for k in ("model", "state_dict") if isinstance(checkpoint.get(k), dict))
    state = {n: value for n, value in next(wrapped, checkpoint).items() if isinstance(value, Tensor)}
    for old, new in OLD_NAMES:
        state = {old.sub(new, name): value for name, value in state.items()}
    if not state:
        raise RunError(f"{file}: holds no tensors by name; it must be a state dict")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rescaled = bool(meta.get("transform_input"))
    if weights == "imagenet" or digest.startswith(imagenet_hash(arch) or "none"):  # or by its path
        transforms = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].transforms()
        meta = {"mean": transforms.mean, "std": transforms.std}  # 0.5 for a few, EfficientNetV2-L for one
        rescaled = True
    return Weights(str(weights), state, digest, **normalisation(file, meta), transform_input=rescaled)


def refuse_another_arch(file: Path, arch: str, ours: object, others: object) -> None:
    """ours: the architecture in a run's meta. others: in a training script's "arch", which counts where it is a
    name of torchvision's, however spelled."""

    def spelled(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    known = {spelled(name): name for name in torchvision.models.list_models(module=torchvision.models)}
    named = known.get(spelled(others), arch) if ours is None and isinstance(others, str) else ours
    if named not in (None, arch):
        raise RunError(
            f"{file}: holds the weights of {named}, not of {arch}; pass --arch {named}, or another file"
        )


def normalisation(file: Path, meta: dict) -> dict[str, tuple[float, ...]]:
    """mean and std of a file's meta, three numbers each (one of grey is that of all three); {} where it has
    neither. RunError where they cannot be of pixels from 0 to 1."""
    found = {}
    for name in ("mean", "std") if "mean" in meta or "std" in meta else ():
        values = meta.get(name)
        values = values.flatten().tolist() if isinstance(values, Tensor) else values
        numbers = isinstance(values, (list, tuple)) and all(type(v) in (int, float) for v in values)
        inside = numbers and all(0 <= v <= 1 and (v > 0 or name == "mean") for v in values)
        if not inside or len(values) not in (1, 3):
            raise RunError(
                f"{file}: its {name} is {values}, not one or three numbers between 0 and 1; pixels are 0 to 1 here, "
                "mean and std of 0 to 255 have to be divided by 255"
            )
        found[name] = tuple(values) * (3 // len(values))
    return found


def imagenet_hash(arch: str) -> str | None:
    """What the SHA-256 of torchvision's IMAGENET1K_V1 file begins with; None where there is no such file."""
    choices = torchvision.models.get_model_weights(arch).__members__
    if "IMAGENET1K_V1" not in choices:
        return None
    return re.search(r"-([0-9a-f]{8,})\.[a-z]+$", choices["IMAGENET1K_V1"].url).group(1)


def imagenet_file(arch: str) -> Path:
    """torchvision's IMAGENET1K_V1 file for the architecture: downloaded once, its hash checked every time."""
    expected = imagenet_hash(arch)
    if expected is None:
        raise RunError(f"torchvision has no IMAGENET1K_V1 weights for {arch}; pass --weights FILE or none")
    url = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), expected, progress=sys.stderr.isatty())
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise RunError(
                f"cannot download the ImageNet weights of {arch} ({error}); get {url} elsewhere and put it at {file}, "
                "or pass --weights FILE or none"
            ) from None
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(expected):
        raise RunError(f"{file} is damaged: its SHA-256 does not begin with {expected}; remove it")
    return file


def load_backbone(model: nn.Module, head_name: str, weights: Weights, arch: str) -> str:
    """Copies every tensor of the backbone; returns what was loaded, in a line. RunError as in fit_backbone."""
    own = model.state_dict()
    loaded, said = fit_backbone(own, head_name, weights, arch)
    with torch.no_grad():
        for name, value in loaded.items():
            own[name].copy_(value)
    if hasattr(model, "transform_input"):
        model.transform_input = weights.transform_input
    return said


def fit_backbone(
    own: dict[str, Tensor], head_name: str, weights: Weights, arch: str
) -> tuple[dict[str, Tensor], str]:
    """(the tensors to load by the model's names, what they are in a line). own: the model's state dict, on the meta
    device if need be.

    RunError unless the file has every tensor of the backbone in its shape and none that has no place in it: a deeper
    network of the same family matches with all of its first blocks, and a tensor left out is a random one between
    pretrained ones. Extra tensors that are no part of a backbone (projection heads, auxiliary classifiers, queues,
    momentum copies) are left out and counted. A first convolution of one channel, of grey images, is spread over
    three: a third each gives a grey image the same activations."""

    def grey(value: Tensor, place: Tensor) -> bool:
        return place.ndim == 4 and place.shape[1] == 3 and value.shape == (len(place), 1, *place.shape[2:])

    def fits(value: Tensor, place: Tensor) -> bool:
        same_kind = value.is_floating_point() == place.is_floating_point()
        return same_kind and (value.shape == place.shape or grey(value, place))

    head = f"{head_name}."
    backbone = {
        n: v for n, v in own.items() if not n.startswith(head) and not n.endswith("num_batches_tracked")
    }
    prefix = backbone_prefix(weights, lambda name, value: name in backbone and fits(value, backbone[name]))
    there = {n.removeprefix(prefix): value for n, value in weights.state.items() if n.startswith(prefix)}
    lost = sorted(backbone.keys() - there.keys())
    misshapen = sorted(n for n in backbone.keys() & there.keys() if not fits(there[n], backbone[n]))
    strays = sorted(n for n in there if n not in own and part_of_backbone(n, backbone, head_name))
    matched = len(backbone) - len(lost) - len(misshapen)
    said = f"{matched} of {len(backbone)} backbone tensors of {arch} matched"
    wrong = {
        "missing": lost,
        "of another shape": [f"{n} {tuple(there[n].shape)}, not {tuple(own[n].shape)}" for n in misshapen],
        f"{len(strays)} tensors of the file have no place in it": strays,
    }
    if problems := [f"{what}: {listed(names)}" for what, names in wrong.items() if names]:
        only = "only " if lost or misshapen else ""
        hint = f"is it a whole file, and of {arch}?"
        raise RunError(f"--weights {weights.source}: {only}{said}; {'; '.join(problems)}; {hint}")
    if bad := sorted(n for n in backbone if not torch.isfinite(there[n]).all()):
        raise RunError(f"--weights {weights.source}: values that are not finite in {listed(bad)}")
    if prefix:
        said += f" (below {prefix[:-1]})"
    loaded = {n: there[n] for n in backbone}
    for name in (n for n in backbone if there[n].shape != own[n].shape):
        loaded[name] = there[name].to(own[name].dtype).expand(own[name].shape) / 3
        said += f", {name} of one channel (grey) spread over three, a third each"
    counters = (n for n in own.keys() & there.keys() if n.endswith("num_batches_tracked"))
    loaded |= {n: there[n] for n in counters if there[n].shape == own[n].shape}

    tops = [n for n in there if n.startswith(head)]
    outputs = there.get(f"{head}weight")
    has = f"{head_name}, {len(tops)} tensors" if outputs is None else f"{head_name}, {len(outputs)} outputs"
    said += f", its head ({has}) left out" if tops else ", it has no head"
    used = {prefix + n for n in [*own, *tops]}
    unused = [n for n in weights.state if n not in used]
    return loaded, said + (f", other tensors unused: {len(unused)} ({listed(unused)})" if unused else "")


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def backbone_prefix(weights: Weights, fits: Callable[[str, Tensor], bool]) -> str:
    """What stands before the backbone's names in the file, "encoder_q." in MoCo's: where the most tensors fit; ""
    where that does as well as any. RunError where two different networks fit alike and neither is a momentum copy."""
    found: Counter[str] = Counter()
    for name, value in weights.state.items():
        parts = name.split(".")
        found.update(
            "".join(f"{part}." for part in parts[:i])
            for i in range(len(parts))
            if fits(".".join(parts[i:]), value)
        )
    best = [prefix for prefix, count in found.items() if count == max(found.values())]
    if "" in best or not best:
        return ""
    firsts = [p for p in best if not re.search(r"momentum|encoder_k|target", p)] or best
    if len(firsts) > 1:
        raise RunError(
            f"--weights {weights.source}: holds the backbone {len(firsts)} times, below {listed(firsts)}; "
            "save the one to start from as a file of its own"
        )
    return firsts[0]


def part_of_backbone(name: str, backbone: Iterable[str], head_name: str) -> bool:
    """Whether a tensor that the model has not belongs into its backbone by its name: it lies in a child that the
    backbone has too, numbers aside (a layer5 beside layer1 to layer4), and not behind the head (classifier.7 of VGG,
    whose head is classifier.6)."""
    holder, _, place = head_name.rpartition(".")
    later = re.match(rf"{re.escape(holder)}\.(\d+)\.", name) if place.isdigit() else None
    if name.startswith(f"{head_name}.") or later and int(later[1]) > int(place):
        return False

    def child(of: str) -> str:
        return re.sub(r"\d", "", of.partition(".")[0])

    return child(name) in set(map(child, backbone))
