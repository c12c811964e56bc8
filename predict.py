"""New images scored by a finished run, and its model exported: --predict and --export.

    predict(["new_scans/"], "runs/mine/resnet50/lpft/seed0-fold0")             # -> predicted.csv in the run
    export("runs/mine/resnet50/lpft/seed0-fold0", "lesions.pt2")               # -> lesions.pt2, lesions.json

Both take the run's best checkpoint (the epoch that validation chose) and prepare images as the run's own training did:
img_size, resize, bit_depth, mean and std come from best.pt, thresholds from metrics.json. All of it in float32, whatever
--amp the run had."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

import datasets
import images as pictures
from models import decide, load_finished, scores_of
from runs import RunError, to_csv, to_json, write_atomically

TABLES = (".csv", ".tsv", ".txt")


CLOSE = 1e-5  # largest difference of a score between the model and its export


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
