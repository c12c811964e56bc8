"""New images scored by a finished run, and its model exported: --predict and --export.

    predict(["new_scans/"], "runs/mine/resnet50/lpft/seed0-fold0")             # -> predicted.csv in the run
    export("runs/mine/resnet50/lpft/seed0-fold0", "lesions.pt2")               # -> lesions.pt2, lesions.json

Both take the run's best checkpoint (the epoch that validation chose) and prepare images as the run's own
training did: img_size, resize, bit_depth, mean and std come from best.pt, thresholds from metrics.json. All
of it in float32, whatever --amp the run had."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import datasets
import images as pictures
from models import Finished, decide, load_finished, scores_of
from runs import RunError, RunFolder, to_json, to_safe_csv, write_atomically

TABLES = (".csv", ".tsv", ".txt")
CLOSE = 1e-5  # largest difference of a score between the model and its export


# ---- --predict ----


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
    if target:
        refuse_target(target, table)
    finished = load_finished(run)
    if table:
        reserved = {"image", "predicted", "threshold", *score_columns(finished)} - {path_col}
        files, rows = files_of_table(table, path_col, data_dir, reserved)
    else:
        files = files_below(given, keep_masks)
        if target and target.exists() and target.resolve() in {file.resolve() for file in files}:
            raise RunError(f"{target}: is one of the images to predict; write elsewhere")
        rows = [{"image": str(file)} for file in files]
    reading = {"batch_size": batch_size, "workers": workers, "skip_bad": skip_bad}
    lines, bad = score_files(finished, files, rows, device=device, progress=progress, **reading)
    if bad and not (skip_bad and lines and all(picture.its_own for _, picture in bad)):
        raise RunError(unreadable(bad, len(files), skip_bad))
    for file, picture in bad:
        print(f"left out: {file} ({picture.reason})", file=sys.stderr)
    if target is None:
        sys.stdout.write(to_safe_csv(lines))
    else:
        write_atomically(target, to_safe_csv(lines))
    return target


def refuse_target(target: Path, table: Path | None) -> None:
    """RunError where the CSV to write would take the place of something else."""
    if target.is_dir():
        raise RunError(f"{target}: is a folder; write elsewhere")
    if table and target.resolve() == table.resolve():
        raise RunError(f"{target}: is the CSV to predict; write elsewhere")
    if RunFolder(target.parent).owns(target.name):
        raise RunError(f"{target}: is one of a run's own files; write elsewhere")


def score_columns(run: Finished) -> list[str]:
    return [f"score_{c}" for c in run.classes]


def score_files(
    run: Finished,
    files: list[Path],
    rows: list[dict],
    *,
    device: str,
    batch_size: int,
    workers: int,
    skip_bad: bool,
    progress: Callable[[int, int], None],
) -> tuple[list[dict], list[tuple[Path, Decoded]]]:
    """(the rows with their scores, the files that cannot be read). After the first that cannot be read the
    others are only looked at, unless skip_bad."""
    run.model.to(device)
    threshold = {} if run.thresholds is None else {"threshold": "|".join(map(repr, run.thresholds))}
    done, lines, bad = 0, [], []
    with warnings.catch_warnings():  # Pillow's, of huge pictures and odd EXIF, would come from the threads
        warnings.simplefilter("ignore")
        for part in decoded(files, run, batch_size, workers):
            here = slice(done, done + len(part))
            done += len(part)
            bad += [(f, p) for f, p in zip(files[here], part, strict=True) if p.pixels is None]
            good = [(row, p.pixels) for row, p in zip(rows[here], part, strict=True) if p.pixels is not None]
            if good and (skip_bad or not bad):
                data = torch.from_numpy(np.stack([pixels for _, pixels in good]))
                batch = pictures.batch(data, np.arange(len(data)), device, mean=run.mean, std=run.std)
                scores = scores_of(run.model, batch, run.task)
                called = decide(scores, run.classes, run.task, run.thresholds)
                for (row, _), line, name in zip(good, scores, called, strict=True):
                    values = zip(score_columns(run), (repr(float(x)) for x in line), strict=True)
                    lines.append(row | dict(values) | {"predicted": name} | threshold)
            progress(done, len(files))
    return lines, bad


def unreadable(bad: list[tuple[Path, Decoded]], files: int, skip_bad: bool) -> str:
    which = datasets.listing([f"{file} ({picture.reason})" for file, picture in bad], most=20)
    if not all(picture.its_own for _, picture in bad):  # what the system refused is never left out
        hint = "make them readable first"
    else:
        hint = "repair or remove them" + ("" if skip_bad else ", or leave them out with --skip-bad")
    return f"{len(bad)} of {files} images cannot be read: {which}; {hint}"


@dataclass(frozen=True)
class Decoded:
    """pixels: (3, S, S) uint8, or None of a file that cannot be read; reason: why; its_own: whether the file
    is to blame, and not the system."""

    pixels: np.ndarray | None
    reason: str = ""
    its_own: bool = True


def decoded(files: list[Path], run: Finished, batch_size: int, workers: int) -> Iterable[list[Decoded]]:
    """Batches, two of them ahead of their use."""

    def attempt(file: Path) -> Decoded:
        try:
            pixels, _ = pictures.decode_image(file, run.img_size, run.resize, run.bit_depth)
        except Exception as error:  # noqa: BLE001  Pillow raises many kinds; each is listed with its file
            return Decoded(None, *pictures.reason_of(error))
        return Decoded(np.broadcast_to(pixels, (3, *pixels.shape[1:])))  # grey: as images.batch widens it

    with ThreadPoolExecutor(workers) as pool:
        ahead = deque()
        for start in range(0, len(files), batch_size):
            ahead.append(pool.map(attempt, files[start : start + batch_size]))
            if len(ahead) > 2:
                yield list(ahead.popleft())
        while ahead:
            yield list(ahead.popleft())


def files_below(given: Iterable[str | Path], keep_masks: bool = False) -> list[Path]:
    """The files as they were given, and in place of a folder the images below it, numbers by their value.
    Masks beside their images in it are left out and named on stderr, unless keep_masks; so are links that
    were not followed."""
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
            for note in met.notes(place) + datasets.masks_note(sorted(masks), place):
                print(f"{place}: {note}", file=sys.stderr)
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
    paths, notes = datasets.named_images(root, [row[path_col] for row in rows], str(table))
    for note in notes:
        print(f"{table}: {note}", file=sys.stderr)
    carried = [{"image": row[path_col]} | {k: v for k, v in row.items() if k != path_col} for row in rows]
    return [root / path for path in paths], carried


# ---- --export ----


def export(run: str | Path, file: str | Path, *, device: str = "cpu") -> dict:
    """Writes the run's model as a torch.export program, logits of any number of images, to `file` (.pt2), and
    beside it, as .json, what a caller has to do to the pixels and to the logits. Returns that JSON's content.

    The program needs torch alone, and runs on the kind of device it was exported on. It is loaded again and
    compared with the model on 1, 3 and 8 random images before it is written: RunError, and no file, where
    a score differs by more than 1e-5 or torch.export cannot follow the model."""
    file = Path(file).expanduser()
    beside = file.with_suffix(".json")
    if file.suffix != ".pt2":
        raise RunError(f"--export {file}: the file's name must end in .pt2")
    if file.is_dir():
        raise RunError(f"--export {file}: that is a folder")
    if beside.exists() and b"checkpoint_sha256" not in beside.read_bytes():
        raise RunError(f"--export {file}: {beside} is there and not from an export; it would be overwritten")
    finished = load_finished(run)
    finished.model.to(device)
    draws = torch.Generator().manual_seed(0)
    side = finished.img_size
    inputs = [torch.randn(n, 3, side, side, generator=draws).to(device) for n in (1, 3, 8)]
    try:
        program = exported(finished.model, inputs[1])
    except Exception as error:  # noqa: BLE001  torch.export's own kinds, and whatever the model raises
        what = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise RunError(f"{run}: torch.export cannot export {finished.arch}: {what}") from None
    loaded = torch.export.load(io.BytesIO(program)).module()
    scores = [(scores_of(net, x, finished.task) for net in (finished.model, loaded)) for x in inputs]
    difference = max(float(np.abs(a - b).max()) for a, b in scores)
    if not difference <= CLOSE:
        apart = f"differs in its scores (by up to {difference:.2g})"
        raise RunError(f"{run}: the exported model {apart}: not written")
    about = description(finished) | {
        "device": str(device),
        "checkpoint_sha256": hashlib.sha256(RunFolder(run).best.read_bytes()).hexdigest(),
        "file_sha256": hashlib.sha256(program).hexdigest(),
        "torch": torch.__version__,
        "max_score_difference": difference,
    }
    write_atomically(file, program)
    write_atomically(beside, to_json(about))
    return about


def exported(model: nn.Module, x: torch.Tensor) -> bytes:
    """A .pt2 file's content: the model's program for any number of images of x's size."""
    out = io.BytesIO()
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=shapes), out)
    return out.getvalue()


def description(run: Finished) -> dict:
    """What a caller of the exported program must know of pixels, logits and classes."""
    return {
        "arch": run.arch,
        "strategy": run.strategy,
        "classes": run.classes,
        "task": run.task,
        "decode": pictures.decoding_steps(run.img_size, run.resize, run.bit_depth),
        "jpeg_draft": pictures.draft_side(run.img_size, run.resize),
        "input": "float32 (N, 3, H, W), pixels/255 then (x - mean)/std; H = W = img_size; RGB",
        "output": "float32 (N, classes), logits",
        "activation": "softmax" if run.task == "multiclass" else "sigmoid",
        "thresholds": run.thresholds,
        "mean": list(run.mean),
        "std": list(run.std),
        "img_size": run.img_size,
        "resize": run.resize,
        "resize_means": "null: bilinear to H x W. Else the shorter side to that, then the centre",
        "bit_depth": run.bit_depth,
    }
