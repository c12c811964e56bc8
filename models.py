"""The torchvision model: its new head, the weights that it starts from, and the model of a finished run.

weights = load_weights("imagenet", "resnet50")
model, head, note = build_model("resnet50", weights, classes=4, seed=0)
run = load_finished("runs/demo/resnet18/lpft/seed0-fold0")    # run.model, run.classes, run.mean, ..."""

from __future__ import annotations

import hashlib
import re
import sys
import urllib.error
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

import runs
import strategies
from runs import RunError


def new_model(arch: str) -> nn.Module:
    """A torchvision classifier with random weights, without the auxiliary heads of GoogLeNet and
    Inception."""
    auxiliary = {"aux_logits": False, "init_weights": False} if arch in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(arch, weights=None, **auxiliary)


def skeleton(arch: str) -> nn.Module:
    """The model without memory for its weights, where its builder allows that: RegNet computes with
    tensors."""
    try:
        with torch.device("meta"):
            return new_model(arch)
    except NotImplementedError:
        return new_model(arch)


def check_size(arch: str, img_size: int) -> None:
    """One forward pass without memory: whether the architecture takes pictures of that size. RunError if
    not."""
    model = skeleton(arch)
    device = next(model.parameters()).device
    try:
        model(torch.empty(2, 3, img_size, img_size, device=device))
    except Exception as error:  # noqa: BLE001  each architecture says in its own way that a picture is too small
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(f"{arch} does not take pictures of {img_size} px (--img-size): {why}") from None


def show_blocks(archs: tuple[str, ...]) -> None:
    for arch in archs:
        blocks = strategies.blocks_of(skeleton(arch))
        print(f"{arch}: {len(blocks)} blocks, input to head")
        print(f"  {'block':<36} {'tensors':>7} {'parameters':>12}")
        for block in blocks:
            count = sum(p.numel() for p in block.parameters.values())
            print(f"  {block.name:<36} {len(block.parameters):>7} {count:>12,}")


def build_model(arch: str, weights: Weights, classes: int, seed: int) -> tuple[nn.Module, nn.Module, str]:
    """(model, its new head, what was loaded). The head is the same for every strategy with the same seed."""
    torch.manual_seed(seed)
    model, note = new_model(arch), "random weights"
    if weights.state is not None:
        note = load_backbone(model, strategies.find_head(model)[0], weights, arch)
    torch.manual_seed(seed)
    return model, strategies.replace_head(model, classes), note


# ---- a file of weights ----


@dataclass(frozen=True)
class Weights:
    """What a backbone starts from. state: tensors by name, None for random. mean, std: of the pixels it was
    trained on. transform_input: GoogLeNet, Inception v3: whether it was trained on pixels scaled to -1..1."""

    source: str
    state: dict[str, Tensor] | None = None
    sha256: str | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    transform_input: bool = False


def load_weights(weights: str, arch: str) -> Weights:
    """weights: none, imagenet, or a file: a torchvision state dict, or the best.pt of a finished run of this
    project. RunError for a file of another architecture, by what it says of itself, and for one whose mean
    and std are not of pixels from 0 to 1; whether the tensors fit is check_weights'."""
    if weights == "none":
        return Weights("none")
    file = imagenet_file(arch) if weights == "imagenet" else Path(weights).expanduser()
    state, meta = read_weights(file, arch)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rescaled = bool(meta.get("transform_input"))
    if weights == "imagenet" or digest.startswith(imagenet_hash(arch) or "none"):  # or by its path
        transforms = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].transforms()
        meta = {"mean": transforms.mean, "std": transforms.std}  # 0.5 for a few, EfficientNetV2-L for one
        rescaled = True
    return Weights(str(weights), state, digest, **normalisation(file, meta), transform_input=rescaled)


def read_weights(file: Path, arch: str) -> tuple[dict[str, Tensor], dict]:
    """(tensors by today's names, meta or {}). RunError where they are not those of a trained `arch`."""
    run = runs.RunFolder(file.resolve().parent)
    finished = run.done()  # asked first: what is read after that changes no more
    checkpoint = runs.load_checkpoint(file)
    if not isinstance(checkpoint, dict) or not all(isinstance(name, str) for name in checkpoint):
        raise RunError(f"{file}: holds no tensors by name; it must be a state dict")
    meta = checkpoint["meta"] if isinstance(checkpoint.get("meta"), dict) else {}
    if "stage" in meta and run.begun() and not finished:
        raise RunError(
            f"{file}: its run is not finished (no metrics.json beside it), so its weights are half trained; "
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
    return state, meta


# torchvision's own files have older names: DenseNet "norm.1" where its modules are called "norm1", ViT
# "mlp.linear_1" and "mlp.linear_2" where they are "mlp.0" and "mlp.3". Wrappers put their prefix before all.
OLD_NAMES = [
    (re.compile(r"^(module\.|_orig_mod\.)+"), ""),
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
]


def refuse_another_arch(file: Path, arch: str, ours: object, others: object) -> None:
    """ours: the architecture in a run's meta. others: in a training script's "arch", which counts where it is
    a name of torchvision's, however spelled."""

    def spelled(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    known = {spelled(name): name for name in torchvision.models.list_models(module=torchvision.models)}
    named = known.get(spelled(others), arch) if ours is None and isinstance(others, str) else ours
    if named not in (None, arch):
        hint = f"pass --arch {named}, or another file"
        raise RunError(f"{file}: holds the weights of {named}, not of {arch}; {hint}")


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
                f"{file}: its {name} is {values}, not one or three numbers between 0 and 1; pixels are 0 to "
                "1 here, so mean and std of 0 to 255 must be divided by 255"
            )
        found[name] = tuple(values) * (3 // len(values))
    return found


def imagenet_hash(arch: str) -> str | None:
    """What the SHA-256 of torchvision's IMAGENET1K_V1 file begins with; None where there is no such file."""
    choices = torchvision.models.get_model_weights(arch).__members__
    if "IMAGENET1K_V1" not in choices:
        return None
    return re.search(r"-([0-9a-f]{8,})\.[a-z]+$", choices["IMAGENET1K_V1"].url).group(1)


def imagenet_place(arch: str) -> Path:
    """Where torch keeps torchvision's IMAGENET1K_V1 file of the architecture."""
    url = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def absent(weights: str, arch: str) -> str:
    """Why a dry run cannot look into these weights: what would be downloaded or trained first, or is not there; ""
    where they are at hand."""
    if weights == "demo":
        return "pretrained on demo-source when the sweep begins, unless that is done"
    if weights == "imagenet":
        if imagenet_hash(arch) is None or imagenet_place(arch).is_file():
            return ""
        size = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].meta.get("_file_size")
        return f"not here; the sweep downloads them{f' ({size:.0f} MB)' if size else ''}"
    here = weights == "none" or Path(weights).expanduser().exists()
    return "" if here else f"no file {weights} is here, and the sweep needs it"


def imagenet_file(arch: str) -> Path:
    """torchvision's IMAGENET1K_V1 file for the architecture: downloaded once, its hash checked every time."""
    expected = imagenet_hash(arch)
    if expected is None:
        raise RunError(f"torchvision has no IMAGENET1K_V1 weights for {arch}; pass --weights FILE or none")
    url = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].url
    file = imagenet_place(arch)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), expected, progress=sys.stderr.isatty())
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise RunError(
                f"cannot download the ImageNet weights of {arch} ({error}); get {url} elsewhere and "
                f"put it at {file}, or pass --weights FILE or none"
            ) from None
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(expected):
        raise RunError(f"{file} is damaged: its SHA-256 does not begin with {expected}; remove it")
    return file


# ---- its tensors into a backbone ----


def check_weights(weights: Weights, arch: str) -> Weights:
    """The weights, if their tensors are those of the architecture: RunError before anything is trained."""
    if weights.state is not None:
        model = skeleton(arch)
        fit_backbone(model.state_dict(), strategies.find_head(model)[0], weights, arch)
    return weights


def load_backbone(model: nn.Module, head_name: str, weights: Weights, arch: str) -> str:
    """Copies every tensor of the backbone; returns what was loaded, in a line. RunError: fit_backbone's."""
    own = model.state_dict()
    loaded, note = fit_backbone(own, head_name, weights, arch)
    with torch.no_grad():
        for name, value in loaded.items():
            own[name].copy_(value)
    if hasattr(model, "transform_input"):
        model.transform_input = weights.transform_input
    return note


def fit_backbone(own: dict[str, Tensor], head_name: str, weights: Weights, arch: str) -> tuple[dict[str, Tensor], str]:
    """(the tensors to load by the model's names, what they are in a line). own: the model's state dict, on
    the meta device if need be.

    RunError unless the file has every tensor of the backbone in its shape and none that has no place in it: a
    deeper network of the same family matches with all of its first blocks, and a tensor left out is a random
    one between pretrained ones. Extra tensors that are no part of a backbone (projection heads, auxiliary
    classifiers, queues, momentum copies) are left out and counted. A first convolution of one channel, of
    grey images, is spread over three: a third each gives a grey image the same activations."""
    head = f"{head_name}."
    backbone = {n: v for n, v in own.items() if not n.startswith(head) and not n.endswith("num_batches_tracked")}
    prefix = backbone_prefix(weights, backbone)
    there = {n.removeprefix(prefix): value for n, value in weights.state.items() if n.startswith(prefix)}
    strays = sorted(n for n in there if n not in own and part_of_backbone(n, backbone, head_name))
    refuse_misfits(backbone, there, strays, weights.source, arch)

    note = f"{len(backbone)} of {len(backbone)} backbone tensors of {arch} matched"
    note += f" (below {prefix[:-1]})" if prefix else ""
    loaded = {n: there[n] for n in backbone}
    for name in (n for n in backbone if there[n].shape != own[n].shape):
        loaded[name] = there[name].to(own[name].dtype).expand(own[name].shape) / 3
        note += f", {name} of one channel (grey) spread over three, a third each"
    counters = (n for n in own.keys() & there.keys() if n.endswith("num_batches_tracked"))
    loaded |= {n: there[n] for n in counters if there[n].shape == own[n].shape}

    tops = [n for n in there if n.startswith(head)]
    outputs = there.get(f"{head}weight")
    size = f"{len(tops)} tensors" if outputs is None else f"{len(outputs)} outputs"
    note += f", its head ({head_name}, {size}) left out" if tops else ", it has no head"
    used = {prefix + n for n in [*own, *tops]}
    unused = [n for n in weights.state if n not in used]
    return loaded, note + (f", other tensors unused: {len(unused)} ({listed(unused)})" if unused else "")


def fits(value: Tensor, place: Tensor) -> bool:
    """Whether the tensor can be loaded there; a first convolution of grey images can in one of colours."""
    grey_shape = (len(place), 1, *place.shape[2:]) if place.ndim == 4 and place.shape[1] == 3 else None
    same_kind = value.is_floating_point() == place.is_floating_point()
    return same_kind and value.shape in (place.shape, grey_shape)


def refuse_misfits(
    backbone: dict[str, Tensor], there: dict[str, Tensor], strays: list[str], source: str, arch: str
) -> None:
    """RunError where a tensor is missing, misshapen or not finite, or has no place in the backbone."""
    lost = sorted(backbone.keys() - there.keys())
    misshapen = sorted(n for n in backbone.keys() & there.keys() if not fits(there[n], backbone[n]))
    shapes = [f"{n} {tuple(there[n].shape)}, not {tuple(backbone[n].shape)}" for n in misshapen]
    wrong = {"missing": lost, "of another shape": shapes, f"without a place in it, {len(strays)} of the file": strays}
    if problems := [f"{what}: {listed(names)}" for what, names in wrong.items() if names]:
        matched = len(backbone) - len(lost) - len(misshapen)
        only = "only " if lost or misshapen else ""
        note = f"{only}{matched} of {len(backbone)} backbone tensors of {arch} matched"
        hint = f"is it a whole file, and of {arch}?"
        raise RunError(f"--weights {source}: {note}; {'; '.join(problems)}; {hint}")
    if bad := sorted(n for n in backbone if not torch.isfinite(there[n]).all()):
        raise RunError(f"--weights {source}: values that are not finite in {listed(bad)}")


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def backbone_prefix(weights: Weights, backbone: dict[str, Tensor]) -> str:
    """What stands before the backbone's names in the file, "encoder_q." in MoCo's: where the most tensors
    fit; "" where that does as well as any. RunError where two different networks fit alike and neither is a
    momentum copy."""
    found: Counter[str] = Counter()
    for name, value in weights.state.items():
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        known = [start for start in starts if name[start:] in backbone]
        found.update(name[:start] for start in known if fits(value, backbone[name[start:]]))
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
    """Whether a tensor that the model has not belongs into its backbone by its name: it lies in a child that
    the backbone has too, numbers aside (a layer5 beside layer1 to layer4), and not behind the head
    (classifier.7 of VGG, whose head is classifier.6)."""
    holder, _, place = head_name.rpartition(".")
    later = re.match(rf"{re.escape(holder)}\.(\d+)\.", name) if place.isdigit() else None
    if name.startswith(f"{head_name}.") or later and int(later[1]) > int(place):
        return False

    def child(name: str) -> str:
        return re.sub(r"\d", "", name.partition(".")[0])

    return child(name) in set(map(child, backbone))


# ---- a finished run ----

META = "arch classes task mean std img_size resize bit_depth".split()  # in best.pt, and in Finished


@dataclass(frozen=True)
class Finished:
    """A finished run to be used. model: in eval mode on the CPU, in float32. mean, std: three each, of pixels
    from 0 to 1. resize, bit_depth: as in images.decode_image. thresholds: one for two classes, one a label
    for several labels, else None. strategy: its name in the paper."""

    model: nn.Module
    arch: str
    classes: list[str]
    task: str
    mean: list[float]
    std: list[float]
    img_size: int
    resize: int | None
    bit_depth: int | None
    thresholds: list[float] | None
    strategy: str


def load_finished(folder: str | Path) -> Finished:
    """RunError where the folder or a file of it is missing or of something else, or the run is not finished:
    its best.pt may still change, and its thresholds are not chosen."""
    run = runs.RunFolder(folder)
    checkpoint = best_checkpoint(run)
    meta, model = checkpoint["meta"], trained_model(run.best, checkpoint)
    if lacking := [name for name in ("metrics.json", "config.json") if not run.has(name)]:
        hint = "so this run is not finished; run its command again to the end"
        raise RunError(f"{folder}: no {lacking[0]}, {hint}")
    thresholds, strategy = run.result().get("thresholds"), run.config().get("strategy")
    wanted = len(meta["classes"]) if meta["task"] == "multilabel" else 1 if len(meta["classes"]) == 2 else 0
    if wanted and (len(thresholds or ()) != wanted or None in thresholds):
        hint = f"has no usable thresholds ({thresholds}); train the run again"
        raise RunError(f"{folder}: metrics.json {hint}")
    about = {name: meta[name] for name in META}
    return Finished(model, **about, thresholds=thresholds if wanted else None, strategy=str(strategy))


def best_checkpoint(run: runs.RunFolder) -> dict:
    """best.pt, with all of its meta. RunError where it is missing or no checkpoint of this project."""
    if not run.path.is_dir():
        hint = "a run is a folder with best.pt and metrics.json"
        raise RunError(f"{run.path}: no such run folder; {hint}")
    if not run.best.is_file():
        trial = "; the trials of --tune keep no checkpoint" if run.path.parent.name == "tune" else ""
        hint = f"give one run, as in runs/demo/resnet18/ft/seed0-fold0{trial}"
        raise RunError(f"{run.path}: no best.pt in it; {hint}")
    checkpoint = runs.load_checkpoint(run.best)
    whole = isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(name), dict) for name in ("model", "meta"))
    if not whole:
        raise RunError(f"{run.best}: holds no model and meta; it is not the best.pt of a run of this project")
    if missing := [name for name in (*META, "transform_input") if name not in checkpoint["meta"]]:
        hint = "train the run again with this version"
        raise RunError(f"{run.best}: its meta lacks {', '.join(missing)}; {hint}")
    return checkpoint


def trained_model(file: Path, checkpoint: dict) -> nn.Module:
    """The model of a best.pt, in eval mode on the CPU. RunError where its tensors do not fit."""
    meta = checkpoint["meta"]
    try:
        model = new_model(meta["arch"])
    except ValueError as error:
        raise RunError(f"{file}: torchvision cannot build its {meta['arch']!r} ({error})") from None
    strategies.replace_head(model, len(meta["classes"]))
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        what, why = f"{meta['arch']} with {len(meta['classes'])} classes", " ".join(str(error).split())[:200]
        raise RunError(f"{file}: its tensors do not fit {what}: {why}") from None
    if meta["transform_input"] is not None:  # GoogLeNet, Inception v3
        model.transform_input = meta["transform_input"]
    return model.eval()


def scores_of(model: nn.Module, batch: Tensor, task: str) -> np.ndarray:
    """(N, C) float64: softmax (multiclass) or sigmoid of the logits, as in predictions.csv."""
    with torch.inference_mode():
        logits = model(batch).float().cpu().double()
    return (logits.softmax(dim=1) if task == "multiclass" else logits.sigmoid()).numpy()


def decide(scores: np.ndarray, classes: list[str], task: str, thresholds: list[float] | None) -> list[str]:
    """A class name for each row of scores (N, C). Two classes: the second one from its threshold on, as in
    metrics.binary_rates. Multilabel: all labels from their thresholds on, joined by "|"; "" for none."""
    if task == "multilabel":
        above = scores >= np.array(thresholds)
        return ["|".join(c for c, on in zip(classes, line, strict=True) if on) for line in above]
    chosen = scores.argmax(axis=1) if thresholds is None else (scores[:, 1] >= thresholds[0]).astype(int)
    return [classes[k] for k in chosen]
