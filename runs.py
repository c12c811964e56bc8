"""The folder of a run: every file is written and read here, whole or not at all.

    run = RunFolder("runs/demo/resnet18/lpft/seed0-fold0")
    with run.locked():                           # one process a folder
        run.check(settings, overwrite=False)     # refused where they differ from the folder's
        run.write_json("metrics.json", {...})    # written last: its presence is what "done" means
    finished, warnings = read_runs("runs/")

What is loaded is tensors and plain Python, weights_only=True. Needs the standard library, numpy and metrics.py; torch is
imported where a checkpoint is saved or loaded."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import pickle
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import metrics


def write_atomically(file: Path, data: str | bytes) -> None:
    """Readers, and a power cut, see the old content or the new one."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(
            errno.ENOTDIR, "is a file, and should be a folder", str(file.parent)
        ) from None
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as out:
            out.write(data.encode() if isinstance(data, str) else data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except OSError as error:  # named after what was to be written
        raise OSError(error.errno, error.strerror or str(error), str(file)) from None
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


class RunError(ValueError):
    """A run folder or a file of weights that cannot be used as it is; the message says why and what to do."""


class Busy(RunError):
    """Another process is at this run."""


def load_checkpoint(file: Path) -> dict:
    """Tensors and plain Python only. RunError for anything else, and for a damaged file."""
    try:
        import torch

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


def run_path(
    output_dir: str | Path,
    data: str,
    arch: str,
    strategy: str,
    seed: int,
    fold: int,
    trial: int | None = None,
) -> Path:
    """Where a run lies. trial: of --tune."""
    name = f"seed{seed}-fold{fold}"
    inner = name if trial is None else f"tune/{name}-trial{trial}"
    return Path(output_dir) / data / arch / strategy / inner


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
            import torch

            torch.save(checkpoint, temporary)
            os.replace(temporary, self.file(name))
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, name: str) -> dict:
        return load_checkpoint(self.file(name))


def write_predictions(
    run: RunFolder, index, clusters: list[str], rows_of: dict[str, np.ndarray], scores: dict[str, np.ndarray]
) -> None:
    """predictions.csv. cluster: what is resampled as one, where groups share identical images; else the group is."""
    rows = []
    joined = clusters != index.groups
    for split, values in scores.items():
        for i, line in zip(rows_of[split], values):
            row = {"image": index.paths[i], "group": index.groups[i]}
            row |= {"cluster": clusters[i]} if joined else {}
            row |= {} if index.units is None else {index.unit_kind: index.units[i]}
            if index.task == "multiclass":
                row |= {"label": index.classes[index.labels[i]]}
            else:
                row |= {
                    f"label_{c}": "" if np.isnan(y) else int(y)
                    for c, y in zip(index.classes, index.labels[i])
                }
            rows.append(
                row | {f"score_{c}": repr(float(x)) for c, x in zip(index.classes, line)} | {"split": split}
            )
    run.write_csv("predictions.csv", rows)


NAN = float("nan")


def write_hardest(run: RunFolder, names: list[str], pixels: np.ndarray) -> None:
    """hardest.npz: image (n,) str, pixels (n, C, h, w) uint8."""
    out = io.BytesIO()
    np.savez_compressed(out, image=np.array(names), pixels=pixels)
    write_atomically(run.file("hardest.npz"), out.getvalue())


@dataclass
class Scored:
    """The test split of a run: of every image, and of every unit of evaluation (study, patient) where they differ."""

    images: list[str]
    image_labels: np.ndarray  # (N,) int, or (N, L) 0, 1, nan
    image_scores: np.ndarray  # (N, C)
    labels: np.ndarray
    scores: np.ndarray
    groups: np.ndarray  # (U,) str: what is resampled, groups that share an identical image being one
    named: frozenset[str]  # the groups as the data names them


@dataclass
class Resampled:
    """What a bootstrap over groups gave for a run: the metric on every resample, and what was drawn."""

    values: np.ndarray  # (B,)
    drawn: tuple[int, int]  # (stratum, number of groups): runs of one stratum have the same draws


@dataclass
class Run:
    """A run folder. status: done, failed or unfinished; reason: why it is not done. result: its metrics.json."""

    folder: Path
    cell: dict
    strategy: str  # the paper's name
    config: dict
    status: str
    reason: str = ""
    result: dict = field(default_factory=dict)

    @property
    def block(self) -> tuple[str, str]:
        return self.cell["data"], self.cell["arch"]

    @property
    def at(self) -> tuple[int, int]:
        return self.cell["seed"], self.cell["fold"]

    @property
    def place(self) -> str:
        """Where its config.json says that it lies, below the folder of the runs."""
        return "/".join([*self.block, self.cell["strategy"], "seed{}-fold{}".format(*self.at)])

    def value(self, split: str, metric: str) -> float:
        value = self.result[split]["values"].get(metric)
        return NAN if value is None else value

    def averaged_over(self, split: str, metric: str) -> tuple[int, int] | None:
        """(how many classes or labels the metric is a mean over there, out of how many); None where it is no mean."""
        part = self.result.get(split, {})
        count = part.get("averaged_over", {}).get(metric)
        if count is None:
            return None
        left_out = self.config["data"]["leave_out"] if metric == "video_map" else ()
        return count, len(part["per_class"]) - len(left_out)

    @property
    def stages(self) -> dict[str, int]:
        """The stages that had an epoch, in their order: name -> first epoch. Read from log.csv, since stages merge
        where there are fewer epochs than stages."""
        stages: dict[str, int] = {}
        for row in self.rows("log.csv"):
            if row.get("stage"):
                stages.setdefault(row["stage"], int(row["epoch"]))
        return stages

    @property
    def early_stage(self) -> str:
        """The stage that the scored checkpoint is from, where another stage came after it; else empty."""
        stage, stages = self.result.get("best_stage"), list(self.stages)
        return stage if stages and stage in stages[:-1] else ""

    def rows(self, name: str) -> list[dict]:
        """A CSV of the folder; none where it is missing."""
        file = self.folder / name
        if not file.is_file():
            return []
        with open(file, encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))


def read_runs(folder: str | Path) -> tuple[list[Run], list[str]]:
    """(runs, warnings): every run folder below. Left out and named: a damaged one, and a
    copy, which would count twice; of two folders with the same run the one that lies where its config.json says stays.
    The trials of --tune are no runs."""
    found, warnings = {}, []
    for file in sorted(Path(folder).glob("*/*/*/seed*-fold*/config.json")):
        if file.parent.parent.name == "tune":
            continue
        try:
            run = read_run(file.parent)
        except (ValueError, KeyError, TypeError, OSError) as error:
            warnings.append(f"left out, {file.parent} is damaged: {type(error).__name__}: {error}")
            continue
        found.setdefault((*run.block, run.strategy, *run.at), []).append(run)
    kept = []
    for copies in found.values():
        copies.sort(key=lambda run: run.folder.relative_to(folder).as_posix() != run.place)
        kept.append(copies[0])
        warnings += [
            f"left out, {copy.folder} holds the run {copy.place} a second time" for copy in copies[1:]
        ]
    return kept, warnings


def read_run(folder: Path) -> Run:
    """One run. ValueError, TypeError or KeyError where its files are damaged."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cell = config["settings"]["cell"]
    config["data"]["splits"], config["environment"], config["arguments"]  # all of them are needed
    if not isinstance(config["settings"]["lr"], (int, float, type(None))):
        raise TypeError(f"lr is {config['settings']['lr']!r}")
    run = Run(folder, cell, config["strategy"], config, "unfinished")
    if (folder / "metrics.json").is_file():
        run.result = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        run.result["test"]["values"], run.result["val"]["values"], run.result["minutes"]
        if not (folder / "predictions.csv").is_file():
            raise ValueError("predictions.csv is missing")
        run.status = "done"
    elif (folder / "failed.json").is_file():
        run.status = "failed"
        run.reason = json.loads((folder / "failed.json").read_text(encoding="utf-8"))["reason"]
    else:
        run.reason = f"{len(run.rows('log.csv'))} of {config['settings']['epochs']} epochs"
    return run


def at_an_end(tuning: dict) -> list[str]:
    """Of lr and alpha those whose chosen value is the least or the greatest that was tried, in a trial that
    failed too: a better one may lie beyond it. tuning: of config.json."""
    tried = {name: [trial[name] for trial in tuning["trials"]] for name in ("lr", "alpha") if name in tuning}
    return [name for name, values in tried.items() if tuning[name] in (min(values), max(values))]


def read_scored(run: Run) -> Scored:
    """The run's test predictions. ValueError where predictions.csv does not fit config.json."""
    settings, data = run.config["settings"], run.config["data"]
    classes, multiclass = settings["classes"], settings["task"] == "multiclass"
    with open(run.folder / "predictions.csv", encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines)
        head = next(reader)
        at = {name: i for i, name in enumerate(head)}
        rows = [row for row in reader if row[at["split"]] == "test"]
    if not rows:
        raise ValueError("no test image is in it")
    scores = np.array([[float(row[at[f"score_{c}"]]) for c in classes] for row in rows])
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    if multiclass:
        number = {c: i for i, c in enumerate(classes)}
        labels = np.array([number[row[at["label"]]] for row in rows])
    else:
        columns = [at[f"label_{c}"] for c in classes]
        labels = np.array([[float(row[i]) if row[i] else NAN for i in columns] for row in rows])
    images, named = [row[at["image"]] for row in rows], frozenset(row[at["group"]] for row in rows)
    groups = np.array([row[at.get("cluster", at["group"])] for row in rows])
    how = data["unit_score"]
    if how in (None, "video"):
        return Scored(images, labels, scores, labels, scores, groups, named)
    units = np.array([row[at[data["unit_kind"]]] for row in rows])
    unit_scores, unit_labels, names = metrics.aggregate(scores, labels, units, how)
    group_of = dict(zip(units.tolist(), groups.tolist()))
    of_units = np.array([group_of[u] for u in names.tolist()])
    return Scored(images, labels, scores, unit_labels, unit_scores, of_units, named)


def spread(values: Iterable[float]) -> dict:
    """Mean and standard deviation (ddof 1) of the values that are defined, and how many they are."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return {
        "mean": float(np.mean(known)) if known else NAN,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else NAN,
        "n": len(known),
    }


def mean_over_runs(values: list[np.ndarray]) -> np.ndarray:
    """The mean over runs of each resample, (R,) or (R, P), over those where it is defined."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), NAN)
