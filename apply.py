"""The use of finished runs: predict, export, Grad-CAM.

    predict(["new_scans/"], "runs/mine/resnet50/lpft/seed0-fold0")             # -> predicted.csv in the run
    export("runs/mine/resnet50/lpft/seed0-fold0", "lesions.pt2")               # -> lesions.pt2, lesions.json
    maps, layer = gradcam(model, images)                                       # (N, H, W) in 0..1, "layer4"

Every function takes the run's best checkpoint (the epoch that validation chose) and prepares images as the
run's own training did: img_size, resize, bit_depth, mean and std come from best.pt, thresholds from
metrics.json. All of it in float32, whatever --amp the run had. Imports the leaves and never trains."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import unicodedata
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional

import datasets
import images as pictures
import runs
import strategies
from files import to_csv, to_json, write_atomically
from runs import RunError

META = ("arch", "classes", "task", "mean", "std", "img_size", "resize", "bit_depth", "transform_input")
TABLES = (".csv", ".tsv", ".txt")
CLOSE = 1e-5  # largest difference of a score between the model and its export


# --------------------------------------------------------------------------------------------- a finished run


def load_run(folder: str | Path) -> tuple[nn.Module, dict]:
    """(model, meta) of the run's best.pt: the model in eval mode on the CPU, meta as run_cell wrote it.
    RunError where the folder or best.pt is missing, is no checkpoint of this project, or does not fit."""
    folder = Path(folder)
    file = folder / "best.pt"
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder; a run is a folder with best.pt and metrics.json")
    if not file.is_file():
        trial = "; the trials of --tune keep no checkpoint" if folder.parent.name == "tune" else ""
        raise RunError(
            f"{folder}: no best.pt in it; give one run, as in runs/demo/resnet18/ft/seed0-fold0{trial}"
        )
    checkpoint = runs.load_checkpoint(file)
    whole = isinstance(checkpoint, dict) and all(
        isinstance(checkpoint.get(k), dict) for k in ("model", "meta")
    )
    if not whole:
        raise RunError(f"{file}: holds no model and meta; it is not the best.pt of a run of this project")
    meta = checkpoint["meta"]
    if missing := [name for name in META if name not in meta]:
        raise RunError(f"{file}: its meta lacks {', '.join(missing)}; train the run again with this version")
    try:
        model = runs.new_model(meta["arch"])
    except ValueError as error:
        raise RunError(f"{file}: torchvision cannot build its {meta['arch']!r} ({error})") from None
    strategies.replace_head(model, len(meta["classes"]))
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        what = f"{meta['arch']} with {len(meta['classes'])} classes"
        raise RunError(
            f"{file}: its tensors do not fit {what}: {' '.join(str(error).split())[:200]}"
        ) from None
    if meta["transform_input"] is not None:  # GoogLeNet, Inception v3
        model.transform_input = meta["transform_input"]
    return model.eval(), meta


def load_finished(folder: str | Path) -> tuple[nn.Module, dict, list[float] | None, str]:
    """(model, meta, thresholds, the strategy's name in the paper). RunError also where the run is not
    finished: its best.pt may still change, and its thresholds are not chosen."""
    model, meta = load_run(folder)
    run = runs.RunFolder(folder)
    if lacking := [name for name in ("metrics.json", "config.json") if not run.file(name).is_file()]:
        raise RunError(
            f"{folder}: no {lacking[0]}, so this run is not finished; run its command again to the end"
        )
    thresholds = run.read_json("metrics.json").get("thresholds")
    strategy = run.read_json("config.json").get("strategy")
    wanted = len(meta["classes"]) if meta["task"] == "multilabel" else 1 if len(meta["classes"]) == 2 else 0
    if wanted and (len(thresholds or ()) != wanted or None in thresholds):
        raise RunError(
            f"{folder}/metrics.json: thresholds {thresholds}, not {wanted} numbers; train it again"
        )
    return model, meta, thresholds if wanted else None, str(strategy)


def scores_of(model: nn.Module, batch: Tensor, task: str) -> np.ndarray:
    """(N, C) float64: softmax (multiclass) or sigmoid of the logits, as in predictions.csv."""
    with torch.inference_mode():
        logits = model(batch).float().cpu().double()
    return (logits.softmax(dim=1) if task == "multiclass" else logits.sigmoid()).numpy()


def decide(scores: np.ndarray, meta: dict, thresholds: list[float] | None) -> list[str]:
    """A class name for each row of scores (N, C). Two classes: the second one from its threshold on, as in
    metrics.binary_rates. Multilabel: all labels from their thresholds on, joined by "|"; "" for none."""
    classes = meta["classes"]
    if meta["task"] == "multilabel":
        return ["|".join(c for c, on in zip(classes, line) if on) for line in scores >= np.array(thresholds)]
    chosen = scores.argmax(axis=1) if thresholds is None else (scores[:, 1] >= thresholds[0]).astype(int)
    return [classes[k] for k in chosen]


# ---------------------------------------------------------------------------------------------------- predict


def predict(
    paths: Sequence[str | Path],
    run: str | Path,
    *,
    out: str | Path | None = None,
    path_col: str = "path",
    data_dir: str | Path | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    workers: int = 2,
    skip_bad: bool = False,
    keep_masks: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path | None:
    """Scores new images with a finished run; returns the CSV written, None for out="-" (printed instead).

    paths: files and folders (searched to the bottom, in natural order), or one CSV with a column path_col,
    relative to data_dir or to the CSV's folder, whose other columns are carried over. Columns written: image,
    those, score_<class>, predicted; threshold for two classes, and for several labels joined by "|". The
    thresholds are the run's; where the dataset judges studies or patients they were chosen on those.
    out: default predicted.csv in the run. progress(done, total) is called after each batch; some three
    batches of pictures are in memory at a time. RunError for missing files and unreadable images, all of
    them in one message (DataError from reading the CSV or a folder); skip_bad: damaged ones are left out and
    named on stderr, as masks beside their images in a folder are without keep_masks."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    table = Path(given[0]).expanduser() if len(given) == 1 else Path()
    table = table if table.suffix.lower() in TABLES and table.is_file() else None
    target = None if out == "-" else Path(run) / "predicted.csv" if out is None else Path(out).expanduser()
    if target and (target.is_dir() or table and target.resolve() == table.resolve()):
        raise RunError(
            f"{target}: is {'a folder' if target.is_dir() else 'the CSV to predict'}; write elsewhere"
        )
    if target and target.name == "predictions.csv" and (target.parent / "metrics.json").exists():
        raise RunError(f"{target}: holds a run's validation and test scores; write elsewhere")
    model, meta, thresholds, _ = load_finished(run)
    scored = [f"score_{c}" for c in meta["classes"]]
    if table:
        reserved = {"image", "predicted", "threshold", *scored} - {path_col}
        files, rows = files_of_table(table, path_col, data_dir, reserved)
    else:
        files = files_below(given, keep_masks)
        rows = [{"image": str(file)} for file in files]

    model.to(device)
    said = {} if thresholds is None else {"threshold": "|".join(map(repr, thresholds))}
    done, bad, lines, refused = 0, [], [], False
    with warnings.catch_warnings():  # Pillow's, of huge pictures and odd EXIF, would come from the threads
        warnings.simplefilter("ignore")
        for part in decoded(files, meta, batch_size, workers):
            good = [(row, pixels) for row, (pixels, *_) in zip(rows[done:], part) if pixels is not None]
            failed = [(file, *why) for file, (pixels, *why) in zip(files[done:], part) if pixels is None]
            bad += [f"{file} ({reason})" for file, reason, _ in failed]
            refused |= not all(its_own for *_, its_own in failed)  # by the system: never left out
            done += len(part)
            if good and (skip_bad or not bad):  # after a bad one we go on only to name the others
                data = torch.from_numpy(np.stack([pixels for _, pixels in good]))
                batch = pictures.batch(data, np.arange(len(data)), device, mean=meta["mean"], std=meta["std"])
                scores = scores_of(model, batch, meta["task"])
                for (row, _), line, name in zip(good, scores, decide(scores, meta, thresholds)):
                    values = dict(zip(scored, (repr(float(x)) for x in line)))
                    lines.append(row | values | {"predicted": name} | said)
            progress(done, len(files))
    if bad and (refused or not (skip_bad and lines)):
        what = f"{len(bad)} of {len(files)} images cannot be read: {datasets.listing(bad, most=20)}"
        out_of_it = "" if skip_bad else ", or leave them out with --skip-bad"
        raise RunError(f"{what}; " + ("mend that first" if refused else f"mend or remove them{out_of_it}"))
    for what in bad:
        print(f"left out: {what}", file=sys.stderr)
    if target is None:
        sys.stdout.write(to_csv(lines))
    else:
        write_atomically(target, to_csv(lines))
    return target


def files_below(given: Iterable[str | Path], keep_masks: bool = False) -> list[Path]:
    """The files as they were given, and in place of a folder the images below it, numbers by their value. Masks beside
    their images in it are left out and named on stderr, unless keep_masks; so are links that were not followed."""
    places = [Path(place).expanduser() for place in given]
    if not places:
        raise RunError("nothing to predict: give image files, folders or one CSV")
    if missing := [place for place in places if not place.exists()]:
        raise RunError(f"{len(missing)} of {len(places)} paths do not exist: {datasets.listing(missing)}")
    files = []
    for place in places:
        if place.is_dir():
            met = datasets.Met()
            found = sorted(filter(datasets.is_image, datasets.walk(place, met)), key=by_numbers)
            met.refuse(place)
            if not found:
                raise RunError(f"{place}: no images in this folder or below it")
            masks = set() if keep_masks else datasets.masks_beside(found)
            notes = met.notes(place) + datasets.masks_note(sorted(masks), place)
            print(*(f"{place}: {said}\n" for said in notes), sep="", end="", file=sys.stderr)
            files += [file for file in found if file not in masks]
        elif place.suffix.lower() in TABLES:
            raise RunError(f"{place}: give one CSV alone, not together with other paths")
        else:
            files.append(place)
    return list(dict.fromkeys(files))


def by_numbers(file: Path) -> list[list[tuple]]:
    """Sort key: scan2.png before scan10.png."""
    return [[datasets.natural(piece) for piece in re.split(r"(\d+)", part)] for part in file.parts]


def files_of_table(
    table: Path, path_col: str, data_dir: str | Path | None, reserved: set[str]
) -> tuple[list[Path], list[dict]]:
    """(files, what is carried over of each row: image and the other columns). RunError, DataError."""
    root = Path(data_dir).expanduser() if data_dir else table.parent
    header, rows = datasets.read_table(table)
    if path_col not in header:
        there = datasets.listing(header, most=12)
        raise RunError(f"{table}: no column {path_col}; its columns are {there}; name it with --path-col")
    if clash := [name for name in header if name in reserved]:
        raise RunError(f"{table}: column {datasets.listing(clash)} is one that --predict writes; rename it")
    if not rows:
        raise RunError(f"{table}: no rows below the header")
    paths = datasets.inside(root, [row[path_col] for row in rows], str(table))
    carried = [{k: v for k, v in row.items() if k != path_col} for row in rows]
    return [root / p for p in paths], [{"image": row[path_col]} | rest for row, rest in zip(rows, carried)]


def decoded(files: list[Path], meta: dict, batch_size: int, workers: int) -> Iterable[list[tuple]]:
    """Batches of ((3, S, S) uint8, "", True) or, for an unreadable file, (None, reason, whether the file is to
    blame); two batches ahead of their use."""

    def attempt(file):
        try:
            pixels, _ = pictures.decode_image(file, meta["img_size"], meta["resize"], meta["bit_depth"])
            return (
                np.broadcast_to(pixels, (3, *pixels.shape[1:])),
                "",
                True,
            )  # grey: as images.batch widens it
        except Exception as error:  # noqa: BLE001  Pillow raises many kinds; each is listed with its file
            return None, *pictures.reason_of(error)

    with ThreadPoolExecutor(workers) as pool:
        ahead = deque()
        for start in range(0, len(files), batch_size):
            ahead.append(pool.map(attempt, files[start : start + batch_size]))
            if len(ahead) > 2:
                yield list(ahead.popleft())
        while ahead:
            yield list(ahead.popleft())


# ----------------------------------------------------------------------------------------------------- export


def export(run: str | Path, file: str | Path, *, device: str = "cpu") -> dict:
    """Writes the run's model as a torch.export program, logits of any number of images, to `file` (.pt2), and
    beside it, as .json, what a caller has to do to the pixels and to the logits. Returns that JSON's content.

    The program needs torch alone, and runs on the kind of device it was exported on. It is loaded again and
    compared with the model on 1, 3 and 8 random images before it takes its name: RunError, and no file, where
    a score differs by more than 1e-5 or torch.export cannot follow the model."""
    file = Path(file).expanduser()
    if file.suffix != ".pt2":
        raise RunError(f"--export {file}: the file's name has to end in .pt2")
    if file.is_dir():
        raise RunError(f"--export {file}: that is a folder")
    beside = file.with_suffix(".json")
    if beside.exists() and b"checkpoint_sha256" not in beside.read_bytes():
        raise RunError(f"--export {file}: {beside} is there and not from an export; it would be overwritten")
    model, meta, thresholds, strategy = load_finished(run)
    model.to(device)
    size = meta["img_size"]
    draws = torch.Generator().manual_seed(0)
    inputs = [torch.randn(n, 3, size, size, generator=draws).to(device) for n in (1, 3, 8)]
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp.pt2")
    try:
        try:
            batch = torch.export.Dim("batch")
            program = torch.export.export(model, (inputs[1],), dynamic_shapes=({0: batch},))
        except Exception as error:  # noqa: BLE001  torch.export's own kinds, and whatever the model raises
            what = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise RunError(f"{run}: torch.export cannot export {meta['arch']}: {what}") from None
        try:
            torch.export.save(program, temporary)
        except (RuntimeError, OSError) as error:  # torch's own writer raises RuntimeError
            raise RunError(
                f"--export {file}: cannot be written there ({str(error).splitlines()[0][-80:]})"
            ) from None
        loaded = torch.export.load(temporary).module()
        scores = [(scores_of(net, x, meta["task"]) for net in (model, loaded)) for x in inputs]
        difference = max(float(np.abs(a - b).max()) for a, b in scores)
        if not difference <= CLOSE:
            raise RunError(
                f"{run}: the exported model differs in its scores (by up to {difference:.2g}): not written"
            )
        about = {
            "arch": meta["arch"],
            "strategy": strategy,
            "classes": meta["classes"],
            "task": meta["task"],
            "decode": pictures.decoding_steps(size, meta["resize"], meta["bit_depth"]),
            "jpeg_draft": pictures.draft_side(size, meta["resize"]),
            "input": "float32 (N, 3, H, W), pixels/255 then (x - mean)/std; H = W = img_size; RGB",
            "output": "float32 (N, classes), logits",
            "activation": "softmax" if meta["task"] == "multiclass" else "sigmoid",
            "thresholds": thresholds,
            "mean": list(meta["mean"]),
            "std": list(meta["std"]),
            "img_size": size,
            "resize": meta["resize"],
            "resize_means": "null: bilinear to H x W. Else the shorter side to that, then the centre",
            "bit_depth": meta["bit_depth"],
            "device": str(device),
            "checkpoint_sha256": hashlib.sha256((Path(run) / "best.pt").read_bytes()).hexdigest(),
            "file_sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
            "torch": torch.__version__,
            "max_score_difference": difference,
        }
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    write_atomically(file.with_suffix(".json"), to_json(about))
    return about


# --------------------------------------------------------------------------------------------------- Grad-CAM

POOLINGS = tuple(
    getattr(nn.modules.pooling, f"_{kind}Nd")
    for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
)


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
    gradient; A is that layer's ln_1 as a grid without the class token. The paper has convolutions only: this
    is the usual extension, and its maps are coarser in meaning, for attention has mixed the patches by then.

    The model is run in eval mode and left as it was. NoSpatialMap where there is no such map, or it has one
    position (the message then says which picture size gives more)."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            logits, output, as_map, layer = forward_with_map(model, images)
            if output is None:
                raise NoSpatialMap(
                    f"{type(model).__name__} has no module whose output is a map over the picture"
                )
            if as_map(output)[0, 0].numel() == 1:
                size = f"{images.shape[2]} x {images.shape[3]} px"
                raise NoSpatialMap(f"the map of {layer} has one position at {size}{larger(model, images)}")
            chosen = (
                logits.argmax(dim=1) if classes is None else torch.as_tensor(classes, device=logits.device)
            )
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

    A map is a 4-D output. The last one is taken before the head and before the first pooling behind the last
    convolution: squeeze-and-excitation pools inside of blocks, and VGG pools twice at its end."""
    patches = last_tokens(model)
    names = {module: name for name, module in model.named_modules() if module is not model}
    givers: list[nn.Module] = []  # the modules whose output it is, from inner to outer
    output, closed, ended = None, False, False

    def at_head(module, inputs):
        nonlocal ended
        ended = True

    def behind(module, inputs, result):
        nonlocal output, closed
        if isinstance(module, nn.Conv2d):
            closed = False
        elif isinstance(module, POOLINGS):
            closed = True
        is_map = isinstance(result, Tensor) and result.dim() == 4 and len(result) == len(images)
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
        side = images.shape[2] // model.patch_size
        return logits, output, lambda t: t[:, 1:].unflatten(1, (side, -1)).permute(0, 3, 1, 2), names[patches]
    channels_last = type(givers[-1]) is nn.LayerNorm  # not torchvision's LayerNorm2d, which permutes
    as_map = (lambda t: t.permute(0, 3, 1, 2)) if channels_last else nn.Identity()
    return logits, output, as_map, names[name_giver(model, givers)]


def last_tokens(model: nn.Module) -> nn.Module | None:
    """The ln_1 of the last encoder layer of a torchvision VisionTransformer; None for other models."""
    if any(kind.__name__ == "VisionTransformer" for kind in type(model).__mro__) and hasattr(
        model, "conv_proj"
    ):
        return getattr(list(model.encoder.layers)[-1], "ln_1", None)
    return None


def name_giver(model: nn.Module, givers: list[nn.Module]) -> nn.Module:
    """Of modules with one output the outermost that has parameters and lies within a block: layer4, not its
    last ReLU; norm5, not DenseNet's features."""
    inside = {m for block in strategies.blocks_of(model) for top in block.modules for m in top.modules()}
    known = [m for m in givers if m in inside and any(True for _ in m.parameters())]
    return (known or givers)[-1]


# --------------------------------------------------------------------------------------- a panel of heat maps

CELL, LINE, GAP = 144, 18, 8  # pixels: side of a picture, height of a line of text, room between
HEAT = (
    (0, 0, 4),
    (87, 16, 110),
    (188, 55, 84),
    (249, 142, 9),
    (252, 255, 164),
)  # dark to light: grey prints too
INK, FAINT, RIGHT, WRONG = (20, 20, 20), (110, 110, 110), (0, 100, 60), (190, 30, 30)


def gradcam_panel(
    runs_by_name: dict[str, str | Path],
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

    runs_by_name: heading -> folder of a finished run. pixels: (n, C, S, S) uint8, C 1 or 3, the same test
    images for all; labels, names: n texts, labels as decide() and Index.label_text give them. Returns a note
    for each run without a map, whose column says so. RunError where a run's img_size is not S."""
    if not runs_by_name or not len(pixels) == len(labels) == len(names) > 0:
        raise RunError(
            f"{out}: {len(runs_by_name)} runs, {len(pixels)} images, {len(labels)} labels, {len(names)} names"
        )
    notes, columns = [], []
    for name, folder in runs_by_name.items():
        layer, cells = explained(folder, pixels, labels, device)
        columns.append((name, layer, cells))
        if cells[0]["map"] is None:
            notes.append(f"{name}: {layer}")
    width, height = GAP + (CELL + GAP) * (1 + len(columns)), 2 * LINE + 3 * GAP
    panel = Image.new("RGB", (width, height + len(pixels) * (CELL + 2 * LINE + GAP) + LINE + GAP), "white")
    draw = ImageDraw.Draw(panel)
    write(draw, GAP, GAP, "image", size=15)
    write(draw, GAP, GAP + LINE, "label, name", FAINT, 11)
    for j, (name, layer, cells) in enumerate(columns, 1):
        x = GAP + j * (CELL + GAP)
        write(draw, x, GAP, name, size=15)
        write(draw, x, GAP + LINE, "no spatial map" if cells[0]["map"] is None else layer, FAINT, 11)
    for i, (picture, label, name) in enumerate(zip(pixels, labels, names)):
        y = height + i * (CELL + 2 * LINE + GAP)
        panel.paste(overlaid(picture, None), (GAP, y))
        write(draw, GAP, y + CELL + 2, label or "none")
        write(draw, GAP, y + CELL + 2 + LINE, name, FAINT, 11)
        for j, (_, _, cells) in enumerate(columns, 1):
            x, cell = GAP + j * (CELL + GAP), cells[i]
            panel.paste(overlaid(picture, cell["map"]), (x, y))
            colour = RIGHT if cell["right"] else WRONG
            mark(draw, x, y + CELL + 2, cell["right"], colour)
            write(draw, x + 16, y + CELL + 2, cell["predicted"] or "none", colour, room=CELL - 16)
            write(draw, x + 16, y + CELL + 2 + LINE, cell["score"], FAINT, 11, room=CELL - 16)
    legend(panel, draw, panel.height - LINE - 2)
    file = io.BytesIO()
    panel.save(file, "PNG")
    write_atomically(Path(out), file.getvalue())
    return notes


def explained(folder: str | Path, pixels: Tensor, labels: list[str], device: str) -> tuple[str, list[dict]]:
    """(layer, or why there is no map; for each image its map or None, predicted class, right, score)."""
    model, meta, thresholds, _ = load_finished(folder)
    if pixels.shape[2:] != (meta["img_size"],) * 2:
        raise RunError(
            f"{folder} was trained at {meta['img_size']} px, the images have {tuple(pixels.shape[2:])}"
        )
    model.to(device)
    cells, layer = [], ""
    for rows in np.array_split(np.arange(len(pixels)), -(-len(pixels) // 16)):
        batch = pictures.batch(pixels, rows, device, mean=meta["mean"], std=meta["std"])
        scores = scores_of(model, batch, meta["task"])
        predicted = decide(scores, meta, thresholds)
        several = meta["task"] == "multilabel"
        shown = scores.argmax(axis=1) if several else np.array([meta["classes"].index(p) for p in predicted])
        try:
            maps, layer = gradcam(model, batch, torch.from_numpy(shown))
        except NoSpatialMap as reason:
            maps, layer = [None] * len(rows), str(reason)
        for i, heat, name, line, k in zip(rows, maps, predicted, scores, shown):
            score = f"{meta['classes'][k]} {line[k]:.3f}" if several else f"score {line[k]:.3f}"
            cells.append({"map": heat, "predicted": name, "right": name == labels[i], "score": score})
    return layer, cells


def overlaid(picture: Tensor, heat: Tensor | None) -> Image.Image:
    """The picture (C, S, S) uint8 as a cell; heat (S, S) in 0..1 over it, stronger is less transparent."""
    base = picture.expand(3, -1, -1).permute(1, 2, 0).numpy()
    base = Image.fromarray(np.ascontiguousarray(base)).resize((CELL, CELL), Image.Resampling.BILINEAR)
    if heat is None:
        return base
    heat = np.asarray(Image.fromarray(heat.numpy()).resize((CELL, CELL), Image.Resampling.BILINEAR))[
        ..., None
    ]
    opacity = 0.65 * heat
    mixed = (1 - opacity) * np.asarray(base) + opacity * heat_colours(heat[..., 0])
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def heat_colours(values: np.ndarray) -> np.ndarray:
    """values: any shape, 0..1 -> that shape x 3, colours from 0 to 255, linear between those of HEAT."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(values, stops, channel) for channel in zip(*HEAT)], axis=-1)


def write(draw: ImageDraw.ImageDraw, x, y, text: str, colour=INK, size: int = 13, room: int = CELL) -> None:
    """One line of text, cut to `room` pixels with an ellipsis."""
    font = ImageFont.load_default(size=size)
    text = shortened(text, lambda t: draw.textlength(t, font=font), room)
    draw.text((x, y), text, fill=colour, font=font)


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


def mark(draw: ImageDraw.ImageDraw, x: int, y: int, right: bool, colour) -> None:
    """A tick or a cross, drawn: the font has neither."""
    if right:
        draw.line([(x + 1, y + 8), (x + 5, y + 12), (x + 12, y + 3)], fill=colour, width=2)
    else:
        draw.line([(x + 2, y + 3), (x + 11, y + 12)], fill=colour, width=2)
        draw.line([(x + 2, y + 12), (x + 11, y + 3)], fill=colour, width=2)


def legend(panel: Image.Image, draw: ImageDraw.ImageDraw, y: int) -> None:
    scale = heat_colours(np.tile(np.linspace(0, 1, CELL // 2), (10, 1)))
    panel.paste(Image.fromarray((scale + 0.5).astype(np.uint8)), (GAP, y + 2))
    text = "0 to each map's own maximum: evidence for the class below it"
    write(draw, GAP + CELL // 2 + GAP, y, text, FAINT, 11, room=panel.width - CELL // 2 - 3 * GAP)
