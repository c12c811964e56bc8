"""The model, of torchvision or of timm: its new head, the weights that it starts from, and the model of a finished run.

weights = load_weights("imagenet", "resnet50")
model, head, note = build_model("resnet50", weights, classes=4, seed=0)
run = load_finished("runs/demo/resnet18/lpft/seed0-fold0")    # run.model, run.classes, run.mean, ..."""

from __future__ import annotations

import difflib
import re
import sys
import urllib.error
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

import runs
import strategies
from runs import RunError
from weights import digest_of, read_file, sha256, tensors_of


def new_model(arch: str) -> nn.Module:
    """A classifier with random weights: torchvision's, without the auxiliary heads of GoogLeNet and Inception, or
    timm's by the name timm:NAME."""
    if arch.startswith(TIMM):
        return timm_model(arch)
    auxiliary = {"aux_logits": False, "init_weights": False} if arch in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(arch, weights=None, **auxiliary)


def skeleton(arch: str) -> nn.Module:
    """The model without memory for its weights, where its builder allows that: some compute with tensors."""
    try:
        with torch.device("meta"):
            return new_model(arch)
    except (NotImplementedError, RuntimeError):
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
        why += f" Its own size is {timm_config(arch).input_size[-1]} px." if arch.startswith(TIMM) else ""
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
        note = load_backbone(model, weights, arch)
    torch.manual_seed(seed)
    return model, strategies.replace_head(model, classes), note


# ---- timm's models ----

TIMM = "timm:"  # before the name of an architecture


def timm_config(arch: str):
    """What timm knows of timm:NAME or timm:NAME.TAG: mean, std, input_size (channels, height, width), num_classes (0:
    it has no head), tag, has_weights. RunError where timm is not installed or has no such model for colour images."""
    try:
        import timm
    except ImportError:
        raise RunError(f"--arch {arch} needs timm, which is not installed: pip install timm") from None
    name = arch.removeprefix(TIMM)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5) or ["resnet50"]
        raise RunError(f"unknown --arch {arch}; timm has {', '.join(close)}, and others")
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        base = name.partition(".")[0]
        tags = [known.removeprefix(f"{base}.") for known in timm.list_models(f"{base}.*", pretrained=True)]
        raise RunError(f"unknown --arch {arch}; timm's tags for {base} are {listed(tags) or 'none'}") from None
    if config is None or config.input_size[0] != 3:
        raise RunError(f"--arch {arch}: timm has no size, mean and std of colour images for it")
    return config


def timm_model(arch: str, pretrained: bool = False) -> nn.Module:
    """timm's model, with a head to be replaced; pretrained: with the weights of its tag and no other head than theirs.
    RunError where its classifier is not the one layer that replace_head finds (two heads of a distilled DeiT)."""
    import timm

    head = {} if timm_config(arch).num_classes or pretrained else {"num_classes": 1000}
    model = timm.create_model(arch.removeprefix(TIMM), pretrained=pretrained, **head)
    if not pretrained and strategies.find_head(model)[1] is not model.get_classifier():
        raise RunError(f"--arch {arch}: its head is not one Linear layer, the last; choose another model")
    return model


def timm_weights(arch: str) -> Weights:
    """The weights of timm's tag, fetched and read by timm's own loader. RunError where it has none or cannot."""
    config = timm_config(arch)
    full = f"{arch.partition('.')[0]}.{config.tag}"
    if not config.has_weights:
        raise RunError(f"timm has no weights for {arch}; pass --weights FILE or none, or {arch}.TAG as --arch")
    try:
        state = dict(timm_model(full, pretrained=True).state_dict())
    except Exception as error:  # noqa: BLE001  of the hub, the network, the disk, each of its own kind
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunError(f"timm cannot load the weights of {full} ({why}); pass --weights FILE or none") from None
    return Weights(full, state, digest_of(state), tuple(config.mean), tuple(config.std))


def own_size(archs: Iterable[str]) -> int | None:
    """Pixels a side that timm's models among them were made for; None where there is no timm model. RunError where
    the architectures differ in it: pictures are decoded once, for all."""
    sides = {arch: timm_config(arch).input_size[-1] if arch.startswith(TIMM) else 224 for arch in archs}
    if not any(arch.startswith(TIMM) for arch in sides):
        return None
    if len({*sides.values()}) > 1:
        each = ", ".join(f"{arch} {side} px" for arch, side in sides.items())
        raise RunError(f"--arch: the sizes differ ({each}); say --img-size, which holds for all")
    return next(iter(sides.values()))


# ---- a file of weights ----


@dataclass(frozen=True)
class Weights:
    """What a backbone starts from. state: tensors by name, None for random. mean, std: of the pixels it was
    trained on. transform_input: GoogLeNet, Inception v3: whether it was trained on pixels scaled to -1..1.
    notes: what is said of the file besides what was matched."""

    source: str
    state: dict[str, Tensor] | None = None
    sha256: str | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    transform_input: bool = False
    notes: tuple[str, ...] = ()


def load_weights(weights: str, arch: str) -> Weights:
    """weights: none, imagenet (of a timm model the weights of its tag), or a file in any form of docs/checkpoints.md.
    RunError for a file that cannot be read or is of another architecture, by what it says of itself, and for one whose
    mean and std are not of pixels from 0 to 1; whether the tensors fit is check_weights'."""
    own = {}
    if arch.startswith(TIMM):
        if weights == "imagenet":
            return timm_weights(arch)
        config = timm_config(arch)
        own = {"mean": tuple(config.mean), "std": tuple(config.std)}
    if weights == "none":
        return Weights("none", **own)
    file = imagenet_file(arch) if weights == "imagenet" else Path(weights).expanduser()
    state, meta, notes = read_weights(file, arch)
    digest = sha256(file)
    rescaled = meta.get("transform_input")
    if type(rescaled) not in (bool, NoneType):
        raise RunError(f"{file}: its meta says transform_input is {clipped(rescaled)}, not true or false")
    if weights == "imagenet" or digest.startswith(imagenet_hash(arch) or "none"):  # or by its path
        transforms = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].transforms()
        meta = {"mean": transforms.mean, "std": transforms.std}  # 0.5 for a few, EfficientNetV2-L for one
        rescaled = True
    pixels = normalisation(file, meta)
    notes += () if pixels else (f"no mean and std in it: those of {'timm' if own else 'ImageNet'} are taken",)
    pixels = pixels or own
    return Weights(str(weights), state, digest, **pixels, transform_input=bool(rescaled), notes=notes)


def read_weights(file: Path, arch: str) -> tuple[dict[str, Tensor], dict, tuple[str, ...]]:
    """(tensors by today's names, meta or {}, what is to be said). RunError where they are not those of a trained
    `arch`."""
    run = runs.RunFolder(file.resolve().parent)
    finished = run.done()  # asked first: what is read after that changes no more
    checkpoint = read_file(file)
    if finished and file.name == run.best.name:
        run.verify("best.pt")
    try:
        state = tensors_of(checkpoint)
    except ValueError as error:
        raise RunError(f"{file}: {error}; save those to start from as a file of their own") from None
    if not state:
        kind = type(checkpoint).__name__
        raise RunError(f"{file}: holds no tensors by name but a {kind}; it must be a state dict, or have one in it")
    meta = checkpoint.get("meta", {})
    notes = () if isinstance(meta, dict) else (f"its meta is a {type(meta).__name__}, no dict, and passed over",)
    meta = meta if isinstance(meta, dict) else {}
    if "stage" in meta and run.begun() and not finished:
        raise RunError(
            f"{file}: its run is not finished (no metrics.json beside it), so its weights are half trained; "
            "run its command again to the end, or pass another --weights"
        )
    if isinstance(checkpoint.get("plan"), dict) and "optimizer" in checkpoint:
        raise RunError(f"{file}: is the state of a run's training; pass the best.pt of a finished run")
    refuse_another_arch(file, arch, meta.get("arch"), checkpoint.get("arch"))
    return state, meta, notes


def refuse_another_arch(file: Path, arch: str, ours: object, others: object) -> None:
    """ours: the architecture in a run's meta. others: in a training script's "arch", which counts where it is
    a name of torchvision's, however spelled."""

    def spelled(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    def tagless(name: str) -> str:  # timm's tags name weights, not architectures
        return name.partition(".")[0] if name.startswith(TIMM) else name

    if not isinstance(ours, str | None):
        raise RunError(f"{file}: its meta says arch is {clipped(ours)}, not a name")
    known = {spelled(name): name for name in torchvision.models.list_models(module=torchvision.models)}
    named = known.get(spelled(others), arch) if ours is None and isinstance(others, str) else ours
    if ours is None and named == tagless(arch).removeprefix(TIMM):
        return
    if named is not None and tagless(named) != tagless(arch):
        hint = f"pass --arch {named}, or another file"
        raise RunError(f"{file}: holds the weights of {named}, not of {arch}; {hint}")


def normalisation(file: Path, meta: dict) -> dict[str, tuple[float, ...]]:
    """mean and std of a file's meta, three numbers each (one of grey is that of all three); {} where it has
    neither. RunError where they cannot be of pixels from 0 to 1, or are of other channels."""
    found = {}
    for name in ("mean", "std") if "mean" in meta or "std" in meta else ():
        values = meta.get(name)
        plain = isinstance(values, Tensor) and values.numel() < 99 and not oddity(values, torch.empty(0))
        values = values.flatten().tolist() if plain else values
        values = [values] if type(values) in (int, float) else values
        numbers = isinstance(values, (list, tuple)) and all(type(v) in (int, float) for v in values)
        inside = numbers and all(0 <= v <= 1 and (v > 0 or name == "mean") for v in values)
        if inside and len(values) not in (1, 3):
            hint = "one (grey) or three (colour) are needed, since pictures are read as one or the other"
            raise RunError(f"{file}: its {name} has {len(values)} numbers; {hint}")
        if not inside:
            raise RunError(
                f"{file}: its {name} is {clipped(values)}, not one or three numbers between 0 and 1; pixels are 0 to "
                "1 here, so mean and std of 0 to 255 must be divided by 255"
            )
        found[name] = tuple(values) * (3 // len(values))
    return found


def clipped(value: object) -> str:
    text = value if isinstance(value, str) and value.isprintable() else " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def imagenet_hash(arch: str) -> str | None:
    """What the SHA-256 of torchvision's IMAGENET1K_V1 file begins with; None where there is no such file."""
    if arch.startswith(TIMM):
        return None
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
    if weights == "imagenet" and arch.startswith(TIMM):
        return "timm reads them when the sweep begins, and downloads them where they are not here"
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
    if not sha256(file).startswith(expected):
        raise RunError(f"{file} is damaged: its SHA-256 does not begin with {expected}; remove it")
    return file


# ---- its tensors into a backbone ----


def check_weights(weights: Weights, arch: str) -> Weights:
    """The weights, if their tensors are those of the architecture: RunError before anything is trained."""
    if weights.state is not None:
        fit_backbone(skeleton(arch), weights, arch)
    return weights


def load_backbone(model: nn.Module, weights: Weights, arch: str) -> str:
    """Copies every tensor of the backbone; returns what was loaded, in a line. RunError: fit_backbone's."""
    loaded, note = fit_backbone(model, weights, arch)
    own = model.state_dict()
    with torch.no_grad():
        for name, value in loaded.items():
            own[name].copy_(value)
    if hasattr(model, "transform_input"):
        model.transform_input = weights.transform_input
    return note


def fit_backbone(model: nn.Module, weights: Weights, arch: str) -> tuple[dict[str, Tensor], str]:
    """(the tensors to load by the model's names, what was matched how in a line). model: on the meta device if need be.

    RunError unless the file has every tensor of the backbone in its shape and none that has no place in it: a
    deeper network of the same family matches with all of its first blocks, and a tensor left out is a random
    one between pretrained ones. Extra tensors that are no part of a backbone (projection heads, auxiliary
    classifiers, queues, momentum copies) are left out and counted. A first convolution of one channel, of
    grey images, is spread over three: a third each gives a grey image the same activations."""
    own, head_name = model.state_dict(), strategies.find_head(model)[0]
    head = f"{head_name}."
    backbone = {n: v for n, v in own.items() if not n.startswith(head) and not n.endswith("num_batches_tracked")}
    naming, prefix = naming_of(weights, model, backbone)
    in_file = {naming.own(n.removeprefix(prefix)): n for n in weights.state if n.startswith(prefix)}
    there = {n: weights.state[name] for n, name in in_file.items()}
    strays = sorted(n for n in there if n not in own and part_of_backbone(n, backbone, head_name))
    refuse_misfits(backbone, there, strays, weights.source, arch)

    note = f"{len(backbone)} of {len(backbone)} backbone tensors of {arch} matched"
    how = [f"below {prefix[:-1]}"] * bool(prefix) + [naming.said] * bool(naming.said)
    note += f" ({', '.join(how)})" if how else ""
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
    used = {in_file[n] for n in [*own, *tops] if n in in_file}
    unused = [n for n in weights.state if n not in used]
    note += f", other tensors unused: {len(unused)} ({listed(unused)})" if unused else ""
    return loaded, "; ".join([note, *weights.notes])


def fits(value: Tensor, place: Tensor) -> bool:
    """Whether the tensor has the shape to be loaded there; a first convolution of grey images can in one of colours."""
    grey_shape = (len(place), 1, *place.shape[2:]) if place.ndim == 4 and place.shape[1] == 3 else None
    return value.shape in (place.shape, grey_shape)


def oddity(value: Tensor, place: Tensor) -> str:
    """Why a tensor of the right shape cannot be loaded there: its kind of numbers, or how it keeps them; "" where
    it can."""
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        return "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
    if value.is_meta:
        return "without values"
    whole = not (place.is_floating_point() or value.is_floating_point() or value.is_complex())
    return "" if whole or value.is_floating_point() and place.is_floating_point() else str(value.dtype)[6:]


def refuse_misfits(
    backbone: dict[str, Tensor], there: dict[str, Tensor], strays: list[str], source: str, arch: str
) -> None:
    """RunError where a tensor is missing, misshapen, odd or not finite, or has no place in the backbone."""
    both = sorted(backbone.keys() & there.keys())
    lost = sorted(backbone.keys() - there.keys())
    misshapen = [n for n in both if not fits(there[n], backbone[n])]
    shapes = [f"{n} {tuple(there[n].shape)}, not {tuple(backbone[n].shape)}" for n in misshapen]
    odd = [f"{n} ({why})" for n in both if n not in misshapen and (why := oddity(there[n], backbone[n]))]
    wrong = {"missing": lost, "of another shape": shapes, "not plain numbers": odd}
    wrong |= {f"without a place in it, {len(strays)} of the file": strays}
    if problems := [f"{what}: {listed(names)}" for what, names in wrong.items() if names]:
        matched = len(both) - len(misshapen) - len(odd)
        only = "only " if matched < len(backbone) else ""
        note = f"{only}{matched} of {len(backbone)} backbone tensors of {arch} matched"
        hint = f"is the file complete, and from {arch}?"
        raise RunError(f"--weights {source}: {note}; {'; '.join(problems)}; {hint}")
    if bad := sorted(n for n in backbone if not torch.isfinite(there[n].to(torch.float32)).all()):
        raise RunError(f"--weights {source}: values that are not finite in {listed(bad)}")


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


@dataclass(frozen=True)
class Naming:
    """How a file calls a model's tensors, behind its prefix. said: in words, "" for the model's own names. children:
    the file's name of a child -> the model's; outer: the child whose inside the file is, or ""."""

    said: str
    children: dict[str, str]
    outer: str = ""

    def own(self, name: str) -> str:
        """The model's name of a tensor that the file calls so."""
        child, dot, rest = name.partition(".")
        if self.outer and child not in self.children:
            return f"{self.outer}.{name}"
        return self.children.get(child, child) + dot + rest

    def in_file(self, name: str) -> str:
        """The file's name of a tensor that the model calls so."""
        child, dot, rest = name.partition(".")
        if child == self.outer:
            return rest
        return next((there for there, here in self.children.items() if here == child), child) + dot + rest


def namings(model: nn.Module, backbone: Iterable[str]) -> list[Naming]:
    """The model's own names; its children by number, as in nn.Sequential(*model.children()); and, where one child has
    the whole backbone (features), the names inside of it."""
    children = [name for name, _ in model.named_children()]
    found = [
        Naming("", {}),
        Naming("children by number, as in nn.Sequential", {str(i): name for i, name in enumerate(children)}),
    ]
    outer = {name.partition(".")[0] for name in backbone}
    if len(outer) == 1:
        (only,) = outer
        found.append(Naming(f"as the inside of {only}", {name: name for name in children if name != only}, only))
    return found


def naming_of(weights: Weights, model: nn.Module, backbone: dict[str, Tensor]) -> tuple[Naming, str]:
    """How the file calls the backbone's tensors, and what stands before their names ("state_dict.encoder_q." in
    MoCo's): where the most tensors fit. RunError where two different networks fit alike and neither is a copy."""
    best, most = None, -1
    for naming in namings(model, backbone):
        fitting = prefixes(weights.state, {naming.in_file(n): value for n, value in backbone.items()})
        if max(fitting.values(), default=0) > most:
            best, most = (naming, fitting), max(fitting.values(), default=0)
        if most == len(backbone):
            break
    naming, fitting = best
    return naming, backbone_prefix(weights.source, [prefix for prefix, hits in fitting.items() if hits == most])


def prefixes(state: dict[str, Tensor], backbone: dict[str, Tensor]) -> Counter[str]:
    """How many tensors of the backbone fit behind each prefix of the file's names. backbone: by names of the file."""
    found: Counter[str] = Counter()
    for name, value in state.items():
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        known = [start for start in starts if name[start:] in backbone]
        found.update(name[:start] for start in known if fits(value, backbone[name[start:]]))
    return found


COPIES = re.compile(r"momentum|encoder_k|target|(^|[._])ema([._]|$)|_ema\b")  # running means of another network


def backbone_prefix(source: str, best: list[str]) -> str:
    """best: the prefixes behind which the most tensors fit; "" where that is among them."""
    if "" in best or not best:
        return ""
    firsts = [prefix for prefix in best if not COPIES.search(prefix)] or best
    if len(firsts) > 1:
        raise RunError(
            f"--weights {source}: holds the backbone {len(firsts)} times, below {listed(firsts)}; "
            "save the one to start from as a file of its own (docs/checkpoints.md has the line)"
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


def checkpoint_meta(arch: str, model: nn.Module, data, how) -> dict:
    """What goes into best.pt beside the weights, so that the file can be used alone. data: prepare.Data. how:
    prepare.Preparation."""
    return {
        "arch": arch,
        "classes": data.index.classes,
        "task": data.index.task,
        "mean": list(data.mean),
        "std": list(data.std),
        "img_size": how.img_size,
        "resize": how.resize,
        "bit_depth": how.bit_depth,
        "transform_input": getattr(model, "transform_input", None),
    }


META = "arch classes task mean std img_size resize bit_depth".split()  # in best.pt, and in Finished
TASKS = ("multiclass", "multilabel")
MOST_SIDE = 4096  # pixels, as --img-size has it


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
    numbers = isinstance(thresholds, list) and all(type(value) in (int, float) for value in thresholds)
    if wanted and not (numbers and len(thresholds) == wanted):
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
    checkpoint = read_file(run.best)
    run.verify("best.pt")
    whole = isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(name), dict) for name in ("model", "meta"))
    if not whole:
        raise RunError(f"{run.best}: holds no model and meta; it is not the best.pt of a run of this project")
    check_meta(run.best, checkpoint["meta"])
    return checkpoint


def check_meta(file: Path, meta: dict) -> None:
    """RunError where the meta of a best.pt lacks an entry, or has one of another kind or out of its range."""
    if missing := [name for name in (*META, "transform_input") if name not in meta]:
        hint = "train the run again with this version"
        raise RunError(f"{file}: its meta lacks {', '.join(missing)}; {hint}")

    def whole_number(value: object, least: int, most: int) -> bool:
        return type(value) is int and least <= value <= most

    names, size = meta["classes"], meta["img_size"]
    right = {
        "arch": isinstance(meta["arch"], str),
        "classes": isinstance(names, list)
        and all(isinstance(n, str) for n in names)
        and 0 < len(names) == len({*names}),
        "task": meta["task"] in TASKS,
        "img_size": whole_number(size, 1, MOST_SIDE),
        "resize": meta["resize"] is None or whole_number(meta["resize"], 1, MOST_SIDE),
        "bit_depth": meta["bit_depth"] is None or whole_number(meta["bit_depth"], 9, 16),
        "transform_input": isinstance(meta["transform_input"], bool | None),
    }
    if wrong := [f"{name} is {clipped(meta[name])}" for name, good in right.items() if not good]:
        raise RunError(f"{file}: its meta is not that of a run of this project: {'; '.join(wrong)}")
    normalisation(file, meta)


def trained_model(file: Path, checkpoint: dict) -> nn.Module:
    """The model of a best.pt, in eval mode on the CPU. RunError where its tensors do not fit, or are not finite."""
    meta = checkpoint["meta"]
    try:
        model = new_model(meta["arch"])
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"{file}: torchvision cannot build its {meta['arch']!r} ({error})") from None
    strategies.replace_head(model, len(meta["classes"]))
    refuse_unfit(file, checkpoint["model"], model.state_dict(), f"{meta['arch']} with {len(meta['classes'])} classes")
    model.load_state_dict(checkpoint["model"])
    if meta["transform_input"] is not None:  # GoogLeNet, Inception v3
        model.transform_input = meta["transform_input"]
    return model.eval()


def refuse_unfit(file: Path, state: dict, own: dict[str, Tensor], what: str) -> None:
    """RunError where a state dict is not whole: names, shapes, kinds of numbers, values."""
    lost = sorted(own.keys() - state.keys())
    if problems := lost or sorted(map(str, state.keys() - own.keys())):
        told = "lack" if lost else "have, and it has not,"
        raise RunError(f"{file}: its tensors do not fit {what}: they {told} {listed(problems)}")
    for name, place in own.items():
        value = state[name]
        if not isinstance(value, Tensor):
            raise RunError(f"{file}: its {name} is a {type(value).__name__}, no tensor")
        if value.shape != place.shape:
            shapes = f"{name} is {tuple(value.shape)}, not {tuple(place.shape)}"
            raise RunError(f"{file}: its tensors do not fit {what}: {shapes}")
        if why := oddity(value, place):
            raise RunError(f"{file}: its {name} does not hold plain numbers ({why})")
        if not torch.isfinite(value.to(torch.float32)).all():
            raise RunError(f"{file}: its {name} has values that are not finite")


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
