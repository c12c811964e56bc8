"""The folder of a run: every file is written and read here, whole or not at all.

    run = RunFolder("runs/demo/resnet18/lpft/seed0-fold0")
    with run.locked():                           # one process a folder
        run.check(settings, before)              # refused where they differ from the folder's
        run.begin({"settings": settings, ...})   # config.json
        run.finish({...})                        # metrics.json, last: its presence is what "done" means
    finished, warnings = read_runs("runs/")

What is loaded is tensors and plain Python, weights_only=True. Needs the standard library, numpy and
metrics.py; torch is imported where a checkpoint is saved or loaded."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

import metrics

NAN = math.nan
FILES = "config.json log.csv ratios.csv best.pt last.pt predictions.csv hardest.npz metrics.json".split()
HARDEST, THUMBNAIL = 12, 96  # images in hardest.npz, pixels a side


class RunError(ValueError):
    """A run folder or a file of weights that cannot be used as it is; the message says why and what to do."""


class Busy(RunError):
    """Another process is training this run."""


# ---- writing a file ----


def write_atomically(file: Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Readers, and a power cut, see the old content or the new one. content: text, bytes, or a function that
    writes to an open file. OSError, named after the file, where the system does not write it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        where = str(file.parent)
        raise NotADirectoryError(errno.ENOTDIR, "is a file, and should be a folder", where) from None
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as out:
            if callable(content):
                content(out)
            else:
                out.write(content.encode() if isinstance(content, str) else content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:  # on a full disk torch.save raises a RuntimeError on top
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(file)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def to_json(value: object) -> str:
    """Strict JSON: nan and infinities, which JSON has not, become null."""

    def plain(x):
        if isinstance(x, float) and not math.isfinite(x):
            return None
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        return [plain(v) for v in x] if isinstance(x, (list, tuple)) else x

    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def to_csv(rows: list[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


# ---- reading a file ----


def read_json(file: Path) -> dict:
    """RunError where it is no JSON object."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}); remove it, or --overwrite") from None
    if not isinstance(value, dict):
        raise RunError(f"{file} is damaged (no JSON object); remove it, or --overwrite")
    return value


def read_table(file: Path) -> list[dict]:
    """log.csv or ratios.csv: epoch an int, stage, layer and block text, the rest float, nan where it is
    empty. No rows where the file is missing, RunError where it is damaged."""

    def parsed(name: str, text: str) -> object:
        if name in ("stage", "layer", "block"):
            return text
        return int(text) if name == "epoch" else float(text or NAN)

    if not file.is_file():
        return []
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            if "epoch" not in (reader.fieldnames or ()):
                raise ValueError("it has no column epoch")
            rows = [{name: parsed(name, text) for name, text in row.items()} for row in reader]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise RunError(f"{file} is damaged ({error})") from None
    return rows


def load_checkpoint(file: Path) -> dict:
    """Tensors and plain Python only. RunError for anything else, and for a damaged file."""
    import torch

    try:
        with warnings.catch_warnings():  # torch's remarks on pickle protocols and sparse tensors
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{file}: no such file") from None
    except OSError as error:  # permission, a failing disk: nothing is wrong with the file
        raise RunError(f"{file}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # noqa: BLE001  a damaged pickle ends in errors of any kind
        what = type(error).__name__
        raise RunError(f"{file}: not a checkpoint of tensors and plain Python ({what})") from None


# ---- a folder while it is trained ----


def run_path(
    output_dir: str | Path, data: str, arch: str, strategy: str, seed: int, fold: int, trial: int | None = None
) -> Path:
    """Where a run lies. trial: of --tune."""
    name = f"seed{seed}-fold{fold}"
    inner = name if trial is None else f"tune/{name}-trial{trial}"
    return Path(output_dir) / data / file_name(arch) / strategy / inner


def file_name(arch: str) -> str:
    """An architecture's name as that of a file or folder: timm:vit_tiny has a colon, which Windows does not take."""
    return arch.replace(":", "-")


def folders_below(output_dir: str | Path) -> Iterator[Path]:
    """The folders of the runs that were begun, in order of their names; the trials of --tune are no runs."""
    for file in sorted(Path(output_dir).glob("*/*/*/seed*-fold*/config.json")):
        if file.parent.parent.name != "tune":
            yield file.parent


def settled(output_dir: str | Path, chosen: dict[str, str]) -> dict[str, str]:
    """What "auto" means in this output folder: chosen, where nothing was trained in it yet; afterwards what
    its first run had, kept in settled.json."""
    file = Path(output_dir) / "settled.json"
    kept = read_json(file) if file.is_file() else settled_by_a_run(output_dir)
    result = {name: kept.get(name, value) for name, value in chosen.items()}
    if not file.is_file() or result != {name: kept.get(name) for name in chosen}:
        write_atomically(file, to_json(kept | result))
    return result


def settled_by_a_run(output_dir: str | Path) -> dict[str, str]:
    """amp and device of a run of an earlier version, which kept them in its config.json alone."""
    for folder in folders_below(output_dir):
        with contextlib.suppress(RunError, KeyError, TypeError, AttributeError, OSError):
            config = RunFolder(folder).config()
            device = config["environment"]["device"].partition(":")[0]
            return {"device": device, "amp": config["settings"]["amp"]}
    return {}


# What a setting was before there was one, for the config.json of an older run. joined_ids: ids were compared
# as they are spelt, so an older run is today's where no id has two spellings or --exact-ids keeps them apart.
EARLIER = {"joined_ids": 0}


def completed(old: dict, new: dict, before: dict) -> dict:
    """old, and of what new has besides what it was before."""
    found = dict(old)
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(name, {}), dict):
            found[name] = completed(old.get(name, {}), value, before.get(name, {}))
        elif name in before:
            found.setdefault(name, before[name])
    return found


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


class RunFolder:
    def __init__(self, path: str | Path):
        self.path = Path(path)

    def file(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return self.file(name).is_file()

    def owns(self, name: str) -> bool:
        """Whether that is a file which a finished run keeps here."""
        return self.done() and name in FILES

    @property
    def best(self) -> Path:
        """The checkpoint that validation chose."""
        return self.file("best.pt")

    def done(self) -> bool:
        return self.has("metrics.json")

    def begun(self) -> bool:
        """Whether a run was trained here at all: a folder that only holds a copy of a best.pt is none."""
        return any(self.has(name) for name in ("config.json", "last.pt", "log.csv", "failed.json"))

    def busy(self) -> bool:
        """Whether another process is training it now."""
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

    def check(self, settings: dict, before: dict = EARLIER, overwrite: bool = False) -> None:
        """RunError where the folder was begun with other settings. before: what a config.json that lacks a
        setting was made with. overwrite: the folder is emptied instead."""
        if overwrite:
            self.empty()
        if self.has("config.json"):
            now = json.loads(to_json(settings))
            there = completed(self.config().get("settings", {}), now, before)
            if different := differences(there, now):
                raise RunError(
                    f"{self.path} was begun with other settings ({'; '.join(different)}); "
                    "--overwrite does it again, --output-dir puts it elsewhere"
                )
        elif left := [name for name in ("last.pt", "best.pt", "metrics.json") if self.has(name)]:
            raise RunError(
                f"{self.path} holds {' and '.join(left)} without config.json, so their settings are unknown; "
                "--overwrite does the run again, --output-dir puts it elsewhere"
            )

    def empty(self) -> None:
        for entry in self.path.iterdir() if self.path.is_dir() else ():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def begin(self, config: dict) -> None:
        """config.json."""
        self.write_json("config.json", config)

    def config(self) -> dict:
        return read_json(self.file("config.json"))

    def finish(self, result: dict) -> None:
        """metrics.json, which makes the run done: to be written last."""
        self.write_json("metrics.json", result)
        self.file("failed.json").unlink(missing_ok=True)

    def result(self) -> dict:
        return read_json(self.file("metrics.json"))

    def fail(self, reason: str) -> None:
        """failed.json."""
        self.write_json("failed.json", {"reason": reason})

    def write_json(self, name: str, value: object) -> None:
        write_atomically(self.file(name), to_json(value))

    def read_json(self, name: str) -> dict:
        return read_json(self.file(name))

    def write_csv(self, name: str, rows: list[dict]) -> None:
        if rows:
            write_atomically(self.file(name), to_csv(rows))

    def write_logs(self, state: dict) -> None:
        """log.csv and ratios.csv, of what last.pt holds."""
        self.write_csv("log.csv", state["log"])
        self.write_csv("ratios.csv", state["ratios"])

    def log(self) -> list[dict]:
        """A row an epoch, as read_table has it."""
        return read_table(self.file("log.csv"))

    def ratios(self) -> list[dict]:
        """Auto-RGN: a row a layer and epoch, as read_table has it."""
        return read_table(self.file("ratios.csv"))

    def complete_logs(self, epochs: int) -> None:
        """Writes the logs of a finished run anew where they end before its last epoch: runs that were killed
        between last.pt and log.csv were once finished like that."""
        ends = [rows[-1]["epoch"] for rows in (self.log(), self.ratios()) if rows]
        if (not self.has("log.csv") or min(ends, default=0) < epochs) and self.has("last.pt"):
            self.write_logs(self.load("last.pt"))

    def save(self, name: str, checkpoint: dict) -> None:
        import torch

        write_atomically(self.file(name), lambda out: torch.save(checkpoint, out))

    def load(self, name: str) -> dict:
        return load_checkpoint(self.file(name))

    def drop(self, *names: str) -> None:
        for name in names:
            self.file(name).unlink(missing_ok=True)

    def write_predictions(
        self, index, clusters: list[str], rows: dict[str, np.ndarray], scores: dict[str, np.ndarray]
    ) -> None:
        """predictions.csv. index: a datasets.Index. clusters: what is resampled as one, where groups share
        identical images; else the group is. rows, scores: by split, image numbers (N,) and (N, C) float."""
        joined, classes, lines = clusters != index.groups, index.classes, []
        for split, values in scores.items():
            for i, line in zip(rows[split], values, strict=True):
                row = {"image": index.paths[i], "group": index.groups[i]}
                row |= {"cluster": clusters[i]} if joined else {}
                row |= {} if index.units is None else {index.unit_kind: index.units[i]}
                if index.task == "multiclass":
                    row["label"] = classes[index.labels[i]]
                else:
                    known = ["" if np.isnan(y) else int(y) for y in index.labels[i]]
                    row |= {f"label_{c}": y for c, y in zip(classes, known, strict=True)}
                row |= {f"score_{c}": repr(float(x)) for c, x in zip(classes, line, strict=True)}
                lines.append(row | {"split": split})
        self.write_csv("predictions.csv", lines)

    def write_hardest(
        self, names: Sequence[str], right: np.ndarray, pixels_of: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """hardest.npz: the images whose truth got the lowest probability, small, so that a report made
        without the data can show them. right: (N,) that probability. pixels_of(places in names) ->
        (n, C, S, S) uint8. Written: image (n,) str, pixels (n, C, s, s) uint8."""
        worst = np.argsort(right, kind="stable")[:HARDEST]
        pixels, image = shrunk(pixels_of(worst), THUMBNAIL), np.array([names[i] for i in worst])
        write_atomically(self.file("hardest.npz"), lambda out: np.savez_compressed(out, image=image, pixels=pixels))

    def hardest(self) -> dict[str, np.ndarray]:
        """image -> (C, s, s) uint8. Empty where the file is missing, RunError where it is damaged."""
        file = self.file("hardest.npz")
        if not file.is_file():
            return {}
        try:
            with np.load(file, allow_pickle=False) as held:
                image, pixels = held["image"], held["pixels"]
        except Exception as error:  # noqa: BLE001  a damaged archive ends in errors of any kind
            raise RunError(f"{file} is damaged ({type(error).__name__})") from None
        fits = image.dtype.kind == "U" and pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[1] in (1, 3)
        if not fits or image.shape != pixels.shape[:1] or 0 in pixels.shape[2:]:
            raise RunError(
                f"{file} is damaged (image {image.dtype} {image.shape}, pixels {pixels.dtype} {pixels.shape})"
            )
        return dict(zip(image.tolist(), pixels, strict=True))


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """(n, C, S, S) uint8 -> (n, C, side, side) uint8 where S is larger: every new pixel the rounded mean of
    those that it covers or cuts, as torch's interpolate(mode="area") has it, which computes in float32."""
    if pixels.shape[-1] <= side:
        return pixels
    means = pixels.astype(np.int64)
    lengths = []
    for axis in (2, 3):
        length, places = pixels.shape[axis], np.arange(side)
        starts, ends = places * length // side, -(-(places + 1) * length // side)
        edges = np.insert(means.cumsum(axis), 0, 0, axis)
        means = edges.take(ends, axis) - edges.take(starts, axis)
        lengths.append((ends - starts).astype(np.float32))
    return (means.astype(np.float32) / lengths[0][:, None] / lengths[1]).round().astype(np.uint8)


# ---- a folder that is read ----

# What the report takes of config.json and metrics.json, as misfit() reads it. What later versions added has a "?".
SPLIT = {"images": int, "groups": int, "units": int, "classes": {...: int}}
WHOLE, REAL, TEXT = (int, None), (float, None), (str, None)
TRAINING = {"batch_size?": WHOLE, "grad_accum?": WHOLE, "img_size?": WHOLE, "resize?": WHOLE, "bit_depth?": WHOLE}
TRAINING |= {"schedule_epochs?": WHOLE, "patience?": WHOLE, "warmup?": REAL, "clip_grad?": REAL, "tune?": WHOLE}
TRAINING |= {"opt?": TEXT, "augment?": TEXT, "flip?": TEXT, "amp?": TEXT, "class_weights?": (str, bool, None)}
TRIAL = {"lr": float, "alpha": REAL, "optimizer_steps?": WHOLE}
TUNING = {"trials": [TRIAL], "optimizer_steps": int, "minutes": float, "lr?": float, "alpha?": float}
CONFIG = {
    "strategy": str,
    "settings": {
        "cell": {"data": str, "arch": str, "strategy": str, "seed": int, "fold": int},
        "task": set(metrics.TASKS),
        "classes": [str],
        "metric": set(metrics.METRICS),
        "lr": REAL,
        "epochs": int,
        "threshold": str,
        "hyperparameters": {"alpha?": REAL, "beta?": REAL, "lp_lr?": REAL, "weight_decay?": REAL},
        **TRAINING,
    },
    "data": {
        "group_kind": str,
        "unit_kind": str,
        "unit_score": {None, "mean", "max", "video"},
        "leave_out": [int],
        "citation": TEXT,
        "notes": [str],
        "official_test": bool,
        "groups_in_two_splits": int,
        "identical_across_splits": int,
        "splits": {...: SPLIT},
        "folds?": WHOLE,
        "mean?": ([float], None),
        "std?": ([float], None),
    },
    "environment": dict,
    "arguments": TRAINING | {"seed?": ([int], None), "folds?": WHOLE, "strategy?": ([str], None)},
    "command?": [object],
    "tuning?": (TUNING, None),
    "about?": {"order?": int, "sentence?": str, "citation?": str, "staged?": bool, "settings?": [str]},
}
SCORES = {
    "values": {...: REAL},
    "averaged_over?": {...: int},
    "per_class?": {...: {...: REAL}},
    "confusion_matrix?": [[int]],
    "n?": int,
}
RESULT = {
    "val": SCORES,
    "test": SCORES | {"per_class": SCORES["per_class?"]},
    "epochs": int,
    "optimizer_steps": int,
    "parameters": int,
    "trainable_parameters": int,
    "minutes": float,
    "peak_memory_bytes": WHOLE,
    "best_epoch?": int,
    "best_stage?": TEXT,
    "stages?": ([str], None),
    "second?": str,
    "positive?": TEXT,
    "thresholds?": ([REAL], None),
    "threshold_fallback?": ([str], None),
}


def misfit(value: object, shape: object, name: str = "") -> str:
    """What is wrong with what JSON holds, "" where it has that shape. shape: a type (float: any finite number; int: no
    bool; object: anything), None, a set of the values that it may have, a tuple of shapes of which one must fit,
    [shape] for a list, and {"a": shape, "b?": shape, ...: shape} for an object that has an a, perhaps a b, and
    others of the shape of ..., which may be anything where there is no "..."."""
    if isinstance(shape, tuple):
        wrong = [misfit(value, one, name) for one in shape]
        return "" if "" in wrong else wrong[0]
    if isinstance(shape, list) and isinstance(value, list):
        return next(filter(None, (misfit(x, shape[0], f"{name}[{i}]") for i, x in enumerate(value))), "")
    if isinstance(shape, dict) and isinstance(value, dict):
        inner = {str(key).removesuffix("?"): (key, one) for key, one in shape.items() if key is not ...}
        if lacking := [key for key, _ in inner.values() if key not in value and not key.endswith("?")]:
            return f"lacks {name}.{lacking[0]}".replace(" .", " ")
        others = (..., shape.get(..., object))
        each = ((f"{name}.{key}".lstrip("."), x, inner.get(key, others)[1]) for key, x in value.items())
        return next(filter(None, (misfit(x, one, place) for place, x, one in each)), "")
    if isinstance(shape, set):
        fits = isinstance(value, str | None) and value in shape
    elif shape is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    elif isinstance(shape, type):
        fits = isinstance(value, shape) and (shape is not int or not isinstance(value, bool))
    else:
        fits = value is None and shape is None
    return "" if fits else f"{name} is {shortened(value)}"


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def contradiction(settings: dict, data: dict, result: dict) -> str:
    """Where what is of its shape does not go together, "" where it does."""
    task, classes = settings["task"], settings["classes"]
    count = len(classes)
    if len(set(classes)) < count or count < (2 if task == "multiclass" else 1):
        return f"settings.classes is {shortened(classes)}"
    if not metrics.METRICS[settings["metric"]].is_for(task, count):
        return f"settings.metric is {settings['metric']}, which {task} with {several_classes(count)} has not"
    if any(not 0 <= c < count for c in data["leave_out"]):
        return f"data.leave_out is {shortened(data['leave_out'])} of {several_classes(count)}"
    if not result:
        return ""
    if set(result["test"]["per_class"]) != set(classes):
        return "test.per_class has other classes than config.json"
    if len(result.get("thresholds") or [0]) != (1 if task == "multiclass" else count):
        return f"thresholds is {shortened(result['thresholds'])} for {several_classes(count)}"
    matrix = result["test"].get("confusion_matrix")
    if task == "multiclass" and (matrix is None or [len(row) for row in matrix] != [count] * count):
        return f"test.confusion_matrix is {shortened(matrix)} for {several_classes(count)}"
    return ""


def several_classes(count: int) -> str:
    return f"{count} class{'es' * (count != 1)}"


@dataclass
class Run:
    """A run folder, read. status: done, failed or unfinished; reason: why it is not done. config, result: its
    config.json and metrics.json."""

    folder: Path
    config: dict
    status: str
    reason: str = ""
    result: dict = field(default_factory=dict)
    log: list[dict] = field(default_factory=list)  # as read_table has it
    lost: str = ""  # what is wrong with log.csv, which costs no more than what is made of it

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def strategy(self) -> str:
        """The paper's name."""
        return self.config["strategy"]

    @property
    def cell(self) -> dict:
        return self.config["settings"]["cell"]

    @property
    def experiment(self) -> tuple[str, str]:
        return self.cell["data"], self.cell["arch"]

    @property
    def repeat(self) -> tuple[int, int]:
        return self.cell["seed"], self.cell["fold"]

    @property
    def place(self) -> str:
        """Where its config.json says that it lies, below the folder of the runs."""
        seed, fold = self.repeat
        return run_path("", *self.experiment, self.cell["strategy"], seed, fold).as_posix()

    def ratios(self) -> list[dict]:
        """ratios.csv as read_table has it. RunError where it is damaged or lacks a part of what it has."""
        rows, file, layers = self.files.ratios(), self.files.file("ratios.csv"), {}
        for row in rows:
            if lacking := {"layer", "block", "lr"} - set(row):
                raise RunError(f"{file} is damaged (it has no column {min(lacking)})")
            layers.setdefault(row["epoch"], []).append(row["layer"])
        kinds = {tuple(names) for names in layers.values()}
        if len(kinds) > 1 or any(len(set(names)) < len(names) for names in kinds):
            raise RunError(f"{file} is damaged (its epochs do not have the same layers)")
        return rows

    def value(self, split: str, metric: str) -> float:
        value = self.result[split]["values"].get(metric)
        return NAN if value is None else value

    def averaged_over(self, split: str, metric: str) -> tuple[int, int] | None:
        """(how many classes or labels the metric is a mean over there, out of how many); None where it is no
        mean."""
        part = self.result.get(split, {})
        count = part.get("averaged_over", {}).get(metric)
        if count is None:
            return None
        left_out = self.config["data"]["leave_out"] if metric == "video_map" else ()
        return count, len(part["per_class"]) - len(left_out)

    @property
    def stages(self) -> dict[str, int]:
        """The stages that had an epoch, in their order: name -> first epoch. Of log.csv, since stages merge
        where there are fewer epochs than stages."""
        stages: dict[str, int] = {}
        for row in self.log:
            if row.get("stage"):
                stages.setdefault(row["stage"], row["epoch"])
        return stages

    @property
    def early_stage(self) -> str:
        """The stage that the scored checkpoint is from, where another stage came after it; else empty."""
        stage, stages = self.result.get("best_stage"), list(self.stages) or self.result.get("stages") or []
        return stage if stages and stage in stages[:-1] else ""


def read_runs(folder: str | Path) -> tuple[list[Run], list[str]]:
    """(runs, warnings): every run folder below, in the order of the tables. Left out and named: a damaged
    one, and a copy, which would count twice; of two folders with the same run the one that lies where its
    config.json says stays. The trials of --tune are no runs."""
    found, warnings = {}, []
    for place in folders_below(folder):
        try:
            run = read_run(place)
        except (RunError, OSError) as error:
            warnings.append(f"left out, {place} is damaged: {error}")
            continue
        found.setdefault((*run.experiment, run.strategy, *run.repeat), []).append(run)
    kept = []
    for copies in found.values():
        copies.sort(key=lambda run: run.folder.relative_to(folder).as_posix() != run.place)
        kept.append(copies[0])
        warnings += [f"left out, {copy.folder} holds the run {copy.place} a second time" for copy in copies[1:]]
    warnings += [run.lost for run in kept if run.lost]
    order = strategies_in_order(kept)
    kept.sort(key=lambda run: (*run.experiment, order.index(run.strategy), *run.repeat))
    return kept, warnings


def strategies_in_order(runs: list[Run]) -> list[str]:
    """Their names, as config.json numbers them; those of earlier versions, which have no number, in the order
    of their command."""
    order: dict[str, float] = {}
    for run in runs:
        key, asked = run.cell["strategy"], run.config["arguments"].get("strategy") or ()
        rank = asked.index(key) if key in asked else math.inf
        rank = run.config.get("about", {}).get("order", rank)
        order[run.strategy] = min(rank, order.get(run.strategy, rank))
    return sorted(order, key=order.get)


def read_run(folder: Path) -> Run:
    """One run. RunError where config.json or metrics.json is damaged or lacks what a report needs, and where there is
    no predictions.csv."""
    files = RunFolder(folder)
    config = fitting(files.config(), CONFIG, "config.json")
    result, status, reason = {}, "unfinished", ""
    if files.done():
        result, status = fitting(files.result(), RESULT, "metrics.json"), "done"
        if not files.has("predictions.csv"):
            raise RunError("predictions.csv is missing")
    elif files.has("failed.json"):
        status, reason = "failed", fitting(files.read_json("failed.json"), {"reason": str}, "failed.json")["reason"]
    if wrong := contradiction(config["settings"], config["data"], result):
        raise RunError(f"{'metrics.json' if wrong.startswith(('test', 'thres')) else 'config.json'}: {wrong}")
    log, lost = readable_log(files, result)
    if status == "unfinished":
        reason = f"{len(log)} of {config['settings']['epochs']} epochs"
    return Run(folder, config, status, reason, result=result, log=log, lost=lost)


def fitting(content: dict, shape: dict, file: str) -> dict:
    """The content. RunError where it is not of that shape."""
    if wrong := misfit(content, shape):
        raise RunError(f"{file}{' ' if wrong.startswith('lacks') else ': '}{wrong}")
    return content


def readable_log(files: RunFolder, result: dict) -> tuple[list[dict], str]:
    """(the rows of log.csv, none where it is damaged; what is wrong with it). result: of a finished run."""
    try:
        log = files.log()
    except (RunError, OSError) as error:
        return [], f"left out of the learning curves, {error}"
    epochs = [row["epoch"] for row in log]
    if epochs != list(range(1, len(epochs) + 1)):
        damage = f"is damaged (its epochs are {shortened(epochs)})"
        return [], f"left out of the learning curves, {files.file('log.csv')} {damage}"
    if result and len(log) != result["epochs"]:
        return (
            log,
            f"{files.file('log.csv')} has {len(log)} of {result['epochs']} epochs: its learning curve ends there",
        )
    return log, ""


@dataclass
class Scored:
    """The test split of a run: of every image, and of every unit of evaluation (study, patient) where they
    differ."""

    images: list[str]
    image_labels: np.ndarray  # (N,) int, or (N, L) 0, 1, nan
    image_scores: np.ndarray  # (N, C)
    labels: np.ndarray
    scores: np.ndarray
    groups: np.ndarray  # (U,) str: what is resampled, groups that share an identical image being one
    named: frozenset[str]  # the groups as the data names them


def read_scored(run: Run) -> Scored:
    """The run's test predictions. RunError where predictions.csv is damaged or does not fit config.json and
    metrics.json."""
    file = run.folder / "predictions.csv"
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines)
            column = {name: i for i, name in enumerate(next(reader))}
            scored = scored_of([row for row in reader if row[column["split"]] == "test"], column, run.config)
    except (ValueError, KeyError, IndexError, StopIteration, csv.Error, OSError) as error:
        raise RunError(f"{file} is damaged ({type(error).__name__}: {error})") from None
    images, units = run.config["data"]["splits"].get("test", {}).get("images"), run.result["test"].get("n")
    for found, wanted, what in ((scored.images, images, "image"), (scored.labels, units, "unit")):
        if wanted is not None and len(found) != wanted:
            raise RunError(f"{file} is damaged (it has {len(found)} test {what}s, and should have {wanted})")
    return scored


def scored_of(rows: list[list[str]], column: dict[str, int], config: dict) -> Scored:
    """rows: of predictions.csv, those of the test split. column: name -> place in a row."""
    settings, data = config["settings"], config["data"]
    classes = settings["classes"]
    if not rows:
        raise ValueError("no test image is in it")
    scores = np.array([[float(row[column[f"score_{c}"]]) for c in classes] for row in rows])
    if settings["task"] == "multiclass":
        place = {c: i for i, c in enumerate(classes)}
        labels = np.array([place[row[column["label"]]] for row in rows])
    else:
        places = [column[f"label_{c}"] for c in classes]
        labels = np.array([[float(row[i]) if row[i] else NAN for i in places] for row in rows])
    metrics.Cases.checked(settings["task"], scores, labels)
    images, named = [row[column["image"]] for row in rows], frozenset(row[column["group"]] for row in rows)
    groups = np.array([row[column.get("cluster", column["group"])] for row in rows])
    how = data["unit_score"]
    if how in (None, "video"):
        return Scored(images, labels, scores, labels, scores, groups, named)
    units = np.array([row[column[data["unit_kind"]]] for row in rows])
    unit_scores, unit_labels, names = metrics.aggregate(scores, labels, units, how)
    group_of = dict(zip(units.tolist(), groups.tolist(), strict=True))
    groups = np.array([group_of[unit] for unit in names.tolist()])
    return Scored(images, labels, scores, unit_labels, unit_scores, groups, named)


def at_an_end(tuning: dict) -> list[str]:
    """Of lr and alpha those whose chosen value is the least or the greatest that was tried, in a trial that
    failed too: a better one may lie beyond it. tuning: of config.json."""
    tried = {name: [trial[name] for trial in tuning["trials"]] for name in ("lr", "alpha") if name in tuning}
    return [name for name, values in tried.items() if tuning[name] in (min(values), max(values))]
