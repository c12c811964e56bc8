"""Grad-CAM (Selvaraju et al., ICCV 2017) of finished runs: maps, and the panel that --gradcam draws.

    maps, layer = gradcam(model, images)                                       # (N, H, W) in 0..1, "layer4"

The model is the run's best checkpoint, in float32, whatever --amp the run had."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional

import images as pictures
import strategies
from models import decide, load_finished, scores_of
from runs import RunError, write_atomically

POOLINGS = tuple(
    getattr(nn.modules.pooling, f"_{kind}Nd") for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
)


TO_ONE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class NoSpatialMap(ValueError):
    """The model has no map over the picture that Grad-CAM could weigh; the message says why."""


def gradcam(model: nn.Module, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, str]:
    """Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2): where the evidence for a class lies.

    images: (N, 3, H, W), normalised, on the model's device. classes: (N,) the class to explain, None for the
    one with the highest logit y. Returns (maps, layer): maps (N, H, W) float32 on the CPU,
    relu(sum_k mean_ij(dy/dA_kij) A_k), bilinear to H x W, divided by its maximum; all zero where nothing
    speaks for the class. layer: the name of the module that gives A: the last feature map before the pooling
    that ends the convolutions, after the rectifier that follows it in place (VGG: conv5_4, before its max
    pooling; DenseNet: norm5; Swin: norm, whose channels are last).

    ViT: the class token reads the patches last in the last encoder layer, behind which the patches have no
    gradient; A is that layer's ln_1 (timm: norm1) as a grid without the class token. The paper has convolutions
    only: this is the usual extension, and its maps are coarser in meaning, for attention has mixed the patches by
    then.

    The model is run in eval mode and left as it was. NoSpatialMap where there is no such map, or it has one
    position (the message then says which picture size gives more)."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            logits, output, as_map, layer = forward_with_map(model, images)
            if output is None:
                raise NoSpatialMap(f"{type(model).__name__} has no module whose output is a map over the picture")
            if as_map(output)[0, 0].numel() == 1:
                size = f"{images.shape[2]} x {images.shape[3]} px"
                raise NoSpatialMap(f"the map of {layer} has one position at {size}{larger(model, images)}")
            chosen = logits.argmax(dim=1) if classes is None else torch.as_tensor(classes, device=logits.device)
            picked = logits.gather(1, chosen[:, None]).sum()  # images do not meet in eval: each has its own
            (gradient,) = torch.autograd.grad(picked, output)
    finally:
        for module, training in modes.items():
            module.training = training
    found, gradient = as_map(output.detach()).float(), as_map(gradient).float()
    maps = (gradient.mean(dim=(2, 3), keepdim=True) * found).sum(dim=1, keepdim=True).relu()
    maps = functional.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    top = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(top > 0, maps / top, 0.0).cpu(), layer


@torch.no_grad()
def grid_of(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """Positions of the map that gradcam weighs, down and across."""
    _, output, as_map, _ = forward_with_map(model.eval(), images)
    return tuple(as_map(output).shape[2:])


def larger(model: nn.Module, images: Tensor) -> str:
    """'; at 64 px it has 2 x 2', found by trying."""
    for factor in (2, 4, 8):
        size = factor * max(images.shape[2:])
        try:
            _, output, as_map, _ = forward_with_map(model, images.new_zeros(1, 3, size, size))
        except (RuntimeError, AssertionError):  # a model for one size alone
            return ""
        height, width = as_map(output).shape[2:]
        if height * width > 1:
            return f"; at {size} px it has {height} x {width}"
    return ""


def forward_with_map(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None, Callable, str]:
    """(logits, the output to differentiate by or None, what makes (N, C, h, w) of it, its module's name). The
    output hangs in the logits' graph: an operation in place behind its module has changed it, graph and all.

    A map is a 4-D output with the picture's ratio of sides, which attention's heads x tokens x width has not. The last
    one is taken before the head and before the first pooling behind the last convolution: squeeze-and-excitation pools
    inside of blocks, and VGG pools twice at its end. A convolution of what was pooled to one position is none
    (MobileNetV3 of timm has one there)."""
    patches, first, side = last_tokens(model)
    height, width = images.shape[2:]

    def over_picture(rows: int, columns: int) -> bool:  # a position more or less by rounding
        return abs(rows * width - columns * height) < 2 * max(height, width)

    names = {module: name for name, module in model.named_modules() if module is not model}
    givers: list[nn.Module] = []  # the modules whose output it is, from inner to outer
    output, closed, pooled, ended = None, False, False, False

    def at_head(module, inputs):
        nonlocal ended
        ended = True

    def behind(module, inputs, result):
        nonlocal output, closed, pooled
        if isinstance(module, nn.Conv2d) and not (pooled and positions(result) == 1):
            closed = pooled = False
        elif isinstance(module, POOLINGS):
            closed = True
            pooled = isinstance(module, TO_ONE) and positions(inputs[0]) > positions(result) == 1
        is_map = isinstance(result, Tensor) and result.dim() == 4 and len(result) == len(images)
        is_map = is_map and (over_picture(*result.shape[2:]) or over_picture(*result.shape[1:3]))
        if module is patches or (patches is None and is_map and not closed and not ended):
            if output is None or output.data_ptr() != result.data_ptr():
                givers.clear()  # else it is the same, or a permutation of the same
            givers.append(module)
            output = result

    hooks = [module.register_forward_hook(behind) for module in names]
    hooks.append(strategies.find_head(model)[1].register_forward_pre_hook(at_head))
    try:
        # requires_grad: frozen weights alone would leave no graph
        logits = model(images.detach().clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if output is None:
        return logits, None, nn.Identity(), ""
    if patches is not None:
        grid = (height // side, -1)
        return logits, output, lambda t: t[:, first:].unflatten(1, grid).permute(0, 3, 1, 2), names[patches]
    channels_last = type(givers[-1]) is nn.LayerNorm or not over_picture(*output.shape[2:])
    as_map = (lambda t: t.permute(0, 3, 1, 2)) if channels_last else nn.Identity()
    return logits, output, as_map, names[name_giver(model, givers)]


def positions(output: Tensor) -> int:
    return output[0, 0].numel()


def last_tokens(model: nn.Module) -> tuple[nn.Module | None, int, int]:
    """Of a vision transformer, torchvision's or timm's: the ln_1 (norm1) of its last encoder layer, how many tokens
    stand before the patches, pixels a side of a patch. (None, 0, 1) for other models."""
    if any(kind.__name__ == "VisionTransformer" for kind in type(model).__mro__) and hasattr(model, "conv_proj"):
        return getattr(list(model.encoder.layers)[-1], "ln_1", None), 1, model.patch_size
    if all(hasattr(model, name) for name in ("patch_embed", "blocks", "num_prefix_tokens")):  # timm's ViT, DeiT, EVA
        norm = getattr(list(model.blocks)[-1], "norm1", None)
        return norm, model.num_prefix_tokens, model.patch_embed.patch_size[0]
    return None, 0, 1


def name_giver(model: nn.Module, givers: list[nn.Module]) -> nn.Module:
    """Of modules with one output the outermost that has parameters and lies within a block: layer4, not its
    last ReLU; norm5, not DenseNet's features."""
    inside = {m for block in strategies.blocks_of(model) for top in block.modules for m in top.modules()}
    known = [m for m in givers if m in inside and any(True for _ in m.parameters())]
    return (known or givers)[-1]


# ---- panel ----

FINE = 7  # positions a side; a map with fewer is said to be coarse

SIDE, LINE, GAP = 144, 18, 8  # pixels: side of a picture, height of a line of text, room between
INK, FAINT, RIGHT, WRONG = (20, 20, 20), (110, 110, 110), (0, 100, 60), (190, 30, 30)
DARK, LIGHT = [(0, 0, 4), (87, 16, 110), (188, 55, 84)], [(249, 142, 9), (252, 255, 164)]
HEAT = [*DARK, *LIGHT]  # dark to light: grey prints too


def choose_images(test: np.ndarray, labels: Mapping[int, str], count: int, *, seed: int) -> np.ndarray:
    """(n,) image numbers, at most count of test, drawn class by class: one of each class, then a second, ...
    labels: image number -> what a reader calls its class."""
    turns: Counter[str] = Counter()  # the n-th image of its class
    places = {}
    for image in np.random.default_rng(seed).permutation(test).tolist():
        places[image] = (turns[labels[image]], labels[image])
        turns[labels[image]] += 1
    return np.array(sorted(places, key=places.get)[:count], int)


def draw(
    folders: dict[str, str | Path],
    *,
    labels: Mapping[int, str],
    paths: Sequence[str],
    pixels: Tensor,
    lookup: np.ndarray,
    test: np.ndarray,
    count: int,
    seed: int,
    out: str | Path,
    device: str = "cpu",
) -> tuple[int, list[str]]:
    """The panel of `count` test images, the same for every run. folders: heading -> folder of a finished run.
    labels: image number -> its class as text; paths: by image number; pixels: (N, C, S, S) uint8, where image
    i is in row lookup[i]; test: image numbers. Returns (images drawn, notes as of gradcam_panel)."""
    chosen = choose_images(test, labels, count, seed=seed)
    shown = pixels[torch.as_tensor(lookup[chosen], device=pixels.device)].cpu()
    texts, names = [labels[i] for i in chosen.tolist()], [paths[i] for i in chosen.tolist()]
    return len(chosen), gradcam_panel(folders, shown, texts, names, out, device=device)


def test_panel(
    folders: dict[str, Path], prepared, file: Path, *, fold: int, count: int, seed: int, device: str
) -> list[str]:
    """Draws the same test images of a fold for every run. folders: by the strategy's name. prepared: the data
    (prepare.Prepared). Returns what to say of it, in lines."""
    index = prepared.index
    test = np.flatnonzero(prepared.folds[fold] == "test")
    labels = {i: index.label_text(i) for i in test.tolist()}
    rows = choose_images(test, labels, count, seed=seed)
    pixels = prepared.pixels[torch.as_tensor(prepared.lookup[rows], device=prepared.pixels.device)].cpu()
    names, shown = [index.paths[i] for i in rows], [labels[i] for i in rows.tolist()]
    notes = gradcam_panel(folders, pixels, shown, names, file, device=device)
    fewer = f" (there are no more in fold {fold})" if len(rows) < count else ""
    return [f"Grad-CAM of {len(rows)} test images{fewer}: {file}", *(f"  note: {note}" for note in notes)]


def gradcam_panel(
    folders: dict[str, str | Path],
    pixels: Tensor,
    labels: list[str],
    names: list[str],
    out: str | Path,
    *,
    device: str = "cpu",
) -> list[str]:
    """Writes a PNG with a row for each image and a column for each run: Grad-CAM of the class that the run
    predicts (of several labels: the one with the highest score) over the picture, below it that class and its
    score, with a tick where the prediction is the label and a cross where it is not.

    folders: heading -> folder of a finished run. pixels: (n, C, S, S) uint8, C 1 or 3, the same test images
    for all; labels, names: n texts, labels as decide() and Index.label_text give them. Returns a note for
    each run without a map, whose column says so, and for each with a coarse one. RunError where a run's img_size is
    not S."""
    if not folders or not len(pixels) == len(labels) == len(names) > 0:
        given = f"{len(folders)} runs, {len(pixels)} images, {len(labels)} labels, {len(names)} names"
        raise RunError(f"{out}: {given}")
    columns = [(name, *explained(folder, pixels, labels, device)) for name, folder in folders.items()]
    height = top_of(len(pixels)) + LINE + GAP
    panel = Image.new("RGB", (left_of(1 + len(columns)), height), "white")
    brush = ImageDraw.Draw(panel)
    write(brush, GAP, GAP, "image", size=15)
    write(brush, GAP, GAP + LINE, "label, name", FAINT, 11)
    for i, (picture, label, name) in enumerate(zip(pixels, labels, names, strict=True)):
        panel.paste(overlaid(picture, None), (GAP, top_of(i)))
        write(brush, GAP, top_of(i) + SIDE + 2, label or "none")
        write(brush, GAP, top_of(i) + SIDE + 2 + LINE, name, FAINT, 11)
    notes = []
    for j, (name, layer, explanations) in enumerate(columns, 1):
        without = explanations[0].heat is None
        notes += [f"{name}: {layer}"] if without else []
        grid = explanations[0].grid
        if grid and min(grid) < FINE:
            notes.append(f"{name}: its maps have {grid[0]} x {grid[1]} positions, which is coarse")
        write(brush, left_of(j), GAP, name, size=15)
        write(brush, left_of(j), GAP + LINE, "no spatial map" if without else layer, FAINT, 11)
        for i, (picture, explanation) in enumerate(zip(pixels, explanations, strict=True)):
            draw_explanation(panel, brush, left_of(j), top_of(i), picture, explanation)
    legend(panel, brush, height - LINE - 2)
    write_atomically(Path(out), lambda file: panel.save(file, "PNG"))
    return notes


def left_of(column: int) -> int:
    return GAP + column * (SIDE + GAP)


def top_of(row: int) -> int:
    return 2 * LINE + 3 * GAP + row * (SIDE + 2 * LINE + GAP)


@dataclass(frozen=True)
class Explanation:
    """What a run makes of an image. heat: (S, S) in 0..1, or None; right: whether predicted is the label."""

    heat: Tensor | None
    predicted: str
    right: bool
    score: str
    grid: tuple[int, int] | None = None  # positions of the map before it was enlarged


def explained(folder: str | Path, pixels: Tensor, labels: list[str], device: str) -> tuple[str, list[Explanation]]:
    """(layer, or why there is no map; an explanation for each image)."""
    run = load_finished(folder)
    if pixels.shape[2:] != (run.img_size,) * 2:
        sizes = f"was trained at {run.img_size} px, the images have {tuple(pixels.shape[2:])}"
        raise RunError(f"{folder} {sizes}")
    run.model.to(device)
    explanations, layer, grid = [], "", None
    for rows in np.array_split(np.arange(len(pixels)), -(-len(pixels) // 16)):
        batch = pictures.batch(pixels, rows, device, mean=run.mean, std=run.std)
        scores = scores_of(run.model, batch, run.task)
        called = decide(scores, run.classes, run.task, run.thresholds)
        several = run.task == "multilabel"
        shown = scores.argmax(axis=1) if several else np.array([run.classes.index(name) for name in called])
        try:
            maps, layer = gradcam(run.model, batch, torch.from_numpy(shown))
            grid = grid or grid_of(run.model, batch[:1])
        except NoSpatialMap as reason:
            maps, layer = [None] * len(rows), str(reason)
        for i, heat, name, line, k in zip(rows, maps, called, scores, shown, strict=True):
            score = f"{run.classes[k] if several else 'score'} {line[k]:.3f}"
            explanations.append(Explanation(heat, name, name == labels[i], score, grid))
    return layer, explanations


def draw_explanation(
    panel: Image.Image, brush: ImageDraw.ImageDraw, x: int, y: int, picture: Tensor, explanation: Explanation
) -> None:
    panel.paste(overlaid(picture, explanation.heat), (x, y))
    colour = RIGHT if explanation.right else WRONG
    mark(brush, x, y + SIDE + 2, explanation.right, colour)
    write(brush, x + 16, y + SIDE + 2, explanation.predicted or "none", colour, room=SIDE - 16)
    write(brush, x + 16, y + SIDE + 2 + LINE, explanation.score, FAINT, 11, room=SIDE - 16)


def overlaid(picture: Tensor, heat: Tensor | None) -> Image.Image:
    """The picture (C, S, S) uint8 at SIDE x SIDE; heat (S, S) in 0..1 over it, less transparent where it is
    stronger."""
    base = picture.expand(3, -1, -1).permute(1, 2, 0).numpy()
    base = Image.fromarray(np.ascontiguousarray(base)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if heat is None:
        return base
    heat = np.asarray(Image.fromarray(heat.numpy()).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    opacity = 0.65 * heat[..., None]
    mixed = (1 - opacity) * np.asarray(base) + opacity * heat_colours(heat)
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def heat_colours(values: np.ndarray) -> np.ndarray:
    """values: any shape, 0..1 -> that shape x 3, colours from 0 to 255, linear between those of HEAT."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(values, stops, channel) for channel in zip(*HEAT, strict=True)], axis=-1)


def write(brush: ImageDraw.ImageDraw, x, y, text: str, colour=INK, size: int = 13, room: int = SIDE) -> None:
    """One line of text, cut to `room` pixels with an ellipsis."""
    font = ImageFont.load_default(size=size)
    text = shortened(text, lambda t: brush.textlength(t, font=font), room)
    brush.text((x, y), text, fill=colour, font=font)


def shortened(text: str, length: Callable[[str], float], room: float) -> str:
    """The text, or the longest beginning of it that fits into room with an ellipsis. Pillow's own font has
    little beyond ASCII: accents are dropped, and what is left of other scripts becomes question marks."""
    plain = (c for c in unicodedata.normalize("NFKD", text[:200]) if not unicodedata.combining(c))
    plain = "".join(" " if c.isspace() else c if " " <= c <= "~" else "?" for c in plain)
    text = plain = " ".join(plain.split())
    while length(text) > room and plain:
        plain = plain[:-1]
        text = f"{plain}…"
    return text


def mark(brush: ImageDraw.ImageDraw, x: int, y: int, right: bool, colour) -> None:
    """A tick or a cross, drawn: the font has neither."""
    if right:
        brush.line([(x + 1, y + 8), (x + 5, y + 12), (x + 12, y + 3)], fill=colour, width=2)
    else:
        brush.line([(x + 2, y + 3), (x + 11, y + 12)], fill=colour, width=2)
        brush.line([(x + 2, y + 12), (x + 11, y + 3)], fill=colour, width=2)


def legend(panel: Image.Image, brush: ImageDraw.ImageDraw, y: int) -> None:
    scale = heat_colours(np.tile(np.linspace(0, 1, SIDE // 2), (10, 1)))
    panel.paste(Image.fromarray((scale + 0.5).astype(np.uint8)), (GAP, y + 2))
    text = "0 to each map's own maximum: evidence for the class below it"
    write(brush, GAP + SIDE // 2 + GAP, y, text, FAINT, 11, room=panel.width - SIDE // 2 - 3 * GAP)
