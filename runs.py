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
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import urllib.error
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
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
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

    def write_json(self, name: str, value: object) -> None:
        write_atomically(self.file(name), to_json(value))

    def read_json(self, name: str) -> dict:
        try:
            return json.loads(self.file(name).read_text())
        except ValueError as error:
            raise RunError(f"{self.file(name)} is damaged ({error}); remove it, or --overwrite") from None

    def write_csv(self, name: str, rows: list[dict]) -> None:
        if rows:
            write_atomically(self.file(name), to_csv(rows))

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
    trained on."""

    source: str
    state: dict[str, Tensor] | None = None
    sha256: str | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


def load_weights(weights: str, arch: str) -> Weights:
    """weights: none, imagenet, or a file: a torchvision state dict, or the best.pt of a run of this
    project."""
    if weights == "none":
        return Weights("none")
    file = imagenet_file(arch) if weights == "imagenet" else Path(weights).expanduser()
    checkpoint = load_checkpoint(file)
    if not isinstance(checkpoint, dict) or not all(isinstance(name, str) for name in checkpoint):
        raise RunError(f"{file}: holds no tensors by name; it must be a state dict")
    meta = checkpoint.get("meta", {})
    wrapped = (checkpoint[k] for k in ("model", "state_dict") if isinstance(checkpoint.get(k), dict))
    state = next(wrapped, checkpoint)
    # wrappers' prefixes; and torchvision's own DenseNet files have "norm.1" where its modules are called
    # "norm1"
    rename = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    state = {
        rename.sub(r"\1\2", re.sub(r"^(module\.|_orig_mod\.)+", "", name)): value
        for name, value in state.items()
    }
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not state:
        raise RunError(f"{file}: holds no tensors by name; it must be a state dict")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if weights == "imagenet":  # 0.5 for a few, EfficientNetV2-L for one
        transforms = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].transforms()
        meta = {"mean": transforms.mean, "std": transforms.std}
    normalisation = {name: tuple(meta[name]) for name in ("mean", "std") if name in meta}
    return Weights(str(weights), state, digest, **normalisation)


def imagenet_file(arch: str) -> Path:
    """torchvision's IMAGENET1K_V1 file for the architecture: downloaded once, its hash checked every time."""
    choices = torchvision.models.get_model_weights(arch)
    if "IMAGENET1K_V1" not in choices.__members__:
        raise RunError(f"torchvision has no IMAGENET1K_V1 weights for {arch}; pass --weights FILE or none")
    url = choices["IMAGENET1K_V1"].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    expected = re.search(r"-([0-9a-f]{8,})\.", file.name).group(1)
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
    """Copies every tensor of the backbone that matches in name and shape; RunError under 90 %."""
    own = model.state_dict()
    backbone = {n for n in own if not n.startswith(f"{head_name}.") and not n.endswith("num_batches_tracked")}
    fits = {n for n in backbone if n in weights.state and weights.state[n].shape == own[n].shape}
    head = weights.state.get(f"{head_name}.weight")
    said = f"{len(fits)} of {len(backbone)} backbone tensors of {arch} matched"
    if len(fits) < 0.9 * len(backbone):
        missing = sorted(backbone - fits)
        raise RunError(
            f"--weights {weights.source}: only {said}; missing or of another shape: {', '.join(missing[:3])}"
        )
    if bad := sorted(n for n in fits if not torch.isfinite(weights.state[n]).all()):
        raise RunError(f"--weights {weights.source}: values that are not finite in {', '.join(bad[:3])}")
    loaded = {n: weights.state[n].to(own[n].dtype) for n in own if n in fits}
    loaded |= {n: v for n, v in weights.state.items() if n in own and n.endswith("num_batches_tracked")}
    model.load_state_dict(loaded, strict=False)
    if hasattr(model, "transform_input"):  # GoogLeNet, Inception v3: trained on pixels scaled to -1..1
        model.transform_input = weights.source == "imagenet"
    if lost := sorted(backbone - fits):
        said += f" (not {', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''})"
    left_out = (
        f"its head ({head_name}, {head.shape[0]} outputs) left out" if head is not None else "it has no head"
    )
    unused = [n for n in weights.state if n not in own]
    return f"{said}, {left_out}" + (
        f", {len(unused)} tensors unused ({', '.join(unused[:3])})" if unused else ""
    )
