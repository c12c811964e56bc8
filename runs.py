"""The folder of a run: every file is written and read here, whole or not at all.

    run = RunFolder("runs/demo/resnet18/lpft/seed0-fold0")
    run.check(settings, before)              # refused where they differ from the folder's
    run.begin({"settings": settings, ...})   # config.json
    run.finish({...})                        # metrics.json, last: its presence is what "done" means
    finished, warnings = read_runs("runs/")

Which process may write to a folder is workers.py's to say.

What is loaded is tensors and plain Python, weights_only=True. Needs the standard library, numpy and
metrics.py; torch is imported where a checkpoint is saved or loaded."""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import io
import json
import math
import os
import re
import shutil
import socket
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

import metrics

NAN = math.nan
# Of a run's folder, in the order in which they are removed: without metrics.json it is not done any more.
FILES = "metrics.json failed.json traceback.txt predictions.csv hardest.npz best.pt last.pt previous.pt".split()
FILES += "log.csv ratios.csv config.json".split()
HARDEST, THUMBNAIL = 12, 96  # images in hardest.npz, pixels a side


class RunError(ValueError):
    """A run folder or a file of weights that cannot be used as it is; the message says why and what to do."""


# ---- who writes ----


@functools.cache
def machine() -> str:
    """This machine by name, and what a process number means on it: another boot or container has others."""
    scope = ""
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        with contextlib.suppress(OSError):
            scope += read()
    host = re.sub("[^A-Za-z0-9]+", "-", socket.gethostname())[:40]
    return f"{host}-{zlib.crc32(scope.encode()):08x}"


def process_start(pid: int) -> str | None:
    """When a process of this machine began, in ticks since the boot, so that its number taken by another is
    told from it. "" where there is no such process, None where the system does not say."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]  # ended, and its parent has not asked how
    except (OSError, ValueError, IndexError):
        return "" if Path("/proc/self/stat").exists() else None


def is_dead(where: str, pid: int, start: str) -> bool | None:
    """Whether that process has ended; None: it cannot be known here. where, start: its machine() and
    process_start()."""
    if where != machine():
        return None
    now = process_start(pid)
    if now is not None:
        return now != start
    if os.name != "posix":  # os.kill ends processes there
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def token() -> str:
    """This process, as a part of the name of a file: machine.pid.start."""
    return f"{machine()}.{os.getpid()}.{process_start(os.getpid()) or 0}"


def temporary_name(file: Path) -> Path:
    """Where the file is built: a hidden name beside it that says who builds it."""
    return file.with_name(f".{file.name}.{token()}.tmp")


LEFT = re.compile(r"\..*\.([A-Za-z0-9-]+)\.(\d+)\.(\d+)\.tmp")
A_DAY = 86_400


def remove_leftovers(folder: Path, mine: bool = False) -> None:
    """Removes what a process that was killed had half written in the folder: of dead processes here, and of
    other machines what nobody has touched for a day. mine: nobody else writes here, so all goes."""
    with contextlib.suppress(OSError):  # no folder, or not ours to clean
        for entry in list(folder.glob(".*.tmp")):
            known = LEFT.fullmatch(entry.name)
            dead = is_dead(known[1], int(known[2]), known[3]) if known else None
            with contextlib.suppress(OSError):
                if mine or dead or (dead is None and time.time() - entry.stat().st_mtime > A_DAY):
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


# ---- writing a file ----


def write_atomically(
    file: Path, content: str | bytes | Callable[[BinaryIO], object], needed: int = 0, keep: Path | None = None
) -> None:
    """Readers, and a power cut, see the old content or the new one. content: text, bytes, or a function that
    writes to an open file, of about `needed` bytes. keep: what the file that was there is called from then
    on. OSError, named after the file, where the system does not write it."""
    make_folder(file.parent)
    temporary = temporary_name(file)
    try:
        with open(temporary, "wb") as out:
            if callable(content):
                content(out)
            else:  # a name that is no UTF-8 is written with its bytes spelt out
                raw = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
                needed = len(raw)
                out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        if keep and file.exists():
            os.replace(file, keep)
        os.replace(temporary, file)
        sync_folder(file.parent)
    except (OSError, RuntimeError) as error:  # on a full disk torch.save raises a RuntimeError on top
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, why_not_written(cause, file.parent, needed), str(file)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "is a file, and should be a folder", str(folder)) from None


def create(file: Path, content: str) -> bool:
    """Writes a file that is not there yet, whole; False where it is there. Of two processes one is told
    True."""
    make_folder(file.parent)
    temporary = temporary_name(file)
    try:
        temporary.write_text(content, encoding="utf-8")
        os.link(temporary, file)  # unlike rename takes no other's place
        return True
    except (FileExistsError, FileNotFoundError):  # or taken for a leftover by who has the folder
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES):
            raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    try:  # a file system without links
        with open(file, "x", encoding="utf-8") as out:
            out.write(content)
        return True
    except FileExistsError:
        return False


FULL = (errno.ENOSPC, errno.EDQUOT)


def why_not_written(error: OSError, folder: Path, needed: int) -> str:
    why = error.strerror or str(error)
    if error.errno not in FULL:
        return why
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        why += f"; {size_text(needed)} needed in {folder}, {size_text(free)} free"
    return why


def size_text(count: int) -> str:
    """Bytes in MB or GB."""
    return f"{max(count / 1e6, 0.1):.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def sync_folder(folder: Path) -> None:
    """The folder's list of names to the disk: without it a power cut may take back a rename."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # cannot be done there
                raise
        finally:
            os.close(handle)


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


# What a spreadsheet runs as a formula when it opens a CSV, behind any number of our own marks.
FORMULA = re.compile(r"'*[=+\-@\t\r]")


def as_text(cell: object) -> object:
    """A cell of a CSV whose names come from the data: a quote before what a spreadsheet would run as a
    formula. Numbers stay numbers. from_text takes it back."""
    if not isinstance(cell, str) or not FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def from_text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def to_safe_csv(rows: list[dict]) -> str:
    """to_csv with header and cells as_text."""
    return to_csv([{as_text(name): as_text(value) for name, value in row.items()} for row in rows])


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
            rows = list(csv.DictReader(lines, restval=""))
        return [{name: parsed(name, text) for name, text in row.items()} for row in rows]
    except (ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{file} is damaged ({error})") from None


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
    if not file.is_file():
        create(file, to_json(chosen | settled_by_a_run(output_dir)))  # of two workers one settles it for both
    kept = read_json(file)
    result = {name: kept.get(name, value) for name, value in chosen.items()}
    if result != {name: kept.get(name) for name in chosen}:
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


def record_resumption(record: dict, before: dict, epoch: int) -> list[str]:
    """Into record, the config.json to be, of a run that goes on: it keeps the environment that it was begun
    in, and gets what is another one now, with the first epoch that was made so. before: its config.json of
    before. Returns lines that say so."""
    now, begun = record["environment"], before.get("environment") or {}
    record["environment"], record["resumed"] = begun, list(before.get("resumed") or [])
    last = dict(begun)
    for entry in record["resumed"]:
        last |= entry.get("environment", {})
    other = {name: value for name, value in now.items() if value != last.get(name)}
    if not other:
        return []
    record["resumed"].append({"epoch": epoch, "environment": other})
    changes = ", ".join(f"{name} {last.get(name)} before, {value} now" for name, value in other.items())
    return [f"WARNING: other versions or another machine from epoch {epoch} on: {changes}"]


class RunFolder:
    """guard: called before anything is written, to raise where another process has taken the folder over.
    say: told of a file that is damaged and can be done without."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.guard: Callable[[], None] = lambda: None
        self.say: Callable[[str], None] = print

    def file(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return self.file(name).is_file()

    def owns(self, name: str) -> bool:
        """Whether that is a file which a run keeps here."""
        return (self.done() or self.begun()) and name in FILES

    @property
    def best(self) -> Path:
        """The checkpoint that validation chose."""
        return self.file("best.pt")

    def done(self) -> bool:
        return self.has("metrics.json")

    def begun(self) -> bool:
        """Whether a run was trained here at all: a folder that only holds a copy of a best.pt is none."""
        return any(self.has(name) for name in ("config.json", "last.pt", "log.csv", "failed.json"))

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
        """Removes the run's own files and nothing else; of a link the link."""
        self.guard()
        for name in FILES:
            self.file(name).unlink(missing_ok=True)

    def sweep(self) -> str | None:
        """The id of the sweep that began the run or went on with it last; None where nobody knows."""
        with contextlib.suppress(RunError, OSError):
            return self.config().get("sweep")
        return None

    def failed_in(self, sweep: str) -> dict | None:
        """failed.json, if the run failed in that sweep: else it is to be tried again."""
        with contextlib.suppress(RunError, OSError):
            failure = self.read_json("failed.json")
            return failure if failure.get("sweep") == sweep and "reason" in failure else None
        return None

    def go_on(self, record: dict, epoch: int, resumed: bool) -> None:
        """config.json of a run that begins, or goes on with that epoch: said, and what is another version."""
        if resumed:
            self.say(f"  goes on with epoch {epoch}")
            for line in record_resumption(record, self.config(), epoch):
                self.say(f"  {line}")
        self.begin(record)

    def begin(self, config: dict) -> None:
        """config.json."""
        self.write_json("config.json", config)

    def config(self) -> dict:
        return read_json(self.file("config.json"))

    def finish(self, result: dict) -> None:
        """metrics.json, which makes the run done: to be written last."""
        self.write_json("metrics.json", result)
        for name in ("failed.json", "traceback.txt", "previous.pt"):
            self.file(name).unlink(missing_ok=True)

    def result(self) -> dict:
        return read_json(self.file("metrics.json"))

    def fail(self, failure: dict, traceback: str = "") -> None:
        """failed.json, and the traceback beside it. failure: reason, sweep, and what else is known."""
        if traceback:
            self.write("traceback.txt", traceback)
        self.write_json("failed.json", failure)

    def write(self, name: str, content: str | bytes | Callable[[BinaryIO], object], **more: object) -> None:
        self.guard()
        write_atomically(self.file(name), content, **more)

    def write_json(self, name: str, value: object) -> None:
        self.write(name, to_json(value))

    def read_json(self, name: str) -> dict:
        return read_json(self.file(name))

    def write_csv(self, name: str, rows: list[dict]) -> None:
        if rows:
            self.write(name, to_csv(rows))

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
        ends: list[int] = []
        with contextlib.suppress(RunError):  # a log that is damaged is written anew, too
            ends = [rows[-1]["epoch"] for rows in (self.log(), self.ratios()) if rows]
        if (not self.has("log.csv") or min(ends, default=0) < epochs) and self.has("last.pt"):
            self.write_logs(self.load("last.pt"))

    def save(self, name: str, checkpoint: dict, keep: Path | None = None) -> None:
        import torch

        needed = bytes_of(checkpoint)
        self.write(name, lambda out: torch.save(checkpoint, out), needed=needed, keep=keep)

    def load(self, name: str) -> dict:
        """A checkpoint of this folder. RunError where it is damaged, in a tensor too."""
        self.verify(name)
        return load_checkpoint(self.file(name))

    def verify(self, name: str) -> None:
        """RunError where a checkpoint of this folder does not have its checksums: torch.load looks at none."""
        file = self.file(name)
        try:
            with zipfile.ZipFile(file) as parts:
                wrong = parts.testzip()
        except zipfile.BadZipFile as error:
            raise RunError(f"{file} is damaged ({error})") from None
        except OSError:
            wrong = None  # load_checkpoint says what it is
        if wrong:
            raise RunError(f"{file} is damaged ({wrong} does not have its checksum)")

    def save_state(self, state: dict) -> None:
        """last.pt; the one before it stays as previous.pt."""
        self.save("last.pt", state, keep=self.file("previous.pt"))

    def load_state(self) -> dict | None:
        """What save_state wrote last; where that is damaged, which is said, what it wrote before. None where
        there is neither."""
        damaged = []
        for name in ("last.pt", "previous.pt"):
            if not self.has(name):
                continue
            try:
                state = self.load(name)
                if not isinstance(state, dict) or not {"epoch", "log", "model", "optimizer"} <= set(state):
                    raise RunError(f"{self.file(name)} is damaged (no state of a training)")
            except RunError as error:
                damaged.append(str(error))
                continue
            if damaged:
                self.say(f"WARNING: {damaged[0]}: going on from {name}, {state['epoch']} epochs")
            return state
        if damaged:
            self.say(f"WARNING: {'; '.join(damaged)}: trained again from the beginning")
        return None

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
        self.write("predictions.csv", to_safe_csv(lines))

    def write_hardest(
        self, names: Sequence[str], right: np.ndarray, pixels_of: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """hardest.npz: the images whose truth got the lowest probability, small, so that a report made
        without the data can show them. right: (N,) that probability. pixels_of(places in names) ->
        (n, C, S, S) uint8. Written: image (n,) str, pixels (n, C, s, s) uint8."""
        worst = np.argsort(right, kind="stable")[:HARDEST]
        pixels, image = shrunk(pixels_of(worst), THUMBNAIL), np.array([names[i] for i in worst])
        self.write("hardest.npz", lambda out: np.savez_compressed(out, image=image, pixels=pixels))

    def hardest(self) -> dict[str, np.ndarray]:
        """image -> (C, s, s) uint8. Empty where the file is missing or damaged: no report fails for want of a
        thumbnail."""
        try:
            with np.load(self.file("hardest.npz"), allow_pickle=False) as held:
                return dict(zip(held["image"].tolist(), held["pixels"], strict=True))
        except (ValueError, KeyError, OSError, EOFError, zlib.error, zipfile.BadZipFile):
            return {}


def bytes_of(value: object) -> int:
    """Of the tensors in a checkpoint, about what its file will have."""
    if isinstance(value, dict):
        return sum(map(bytes_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(bytes_of, value))
    return value.numel() * value.element_size() if hasattr(value, "element_size") else 0


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

# What the report takes of config.json and metrics.json. What later versions added is optional.
CONFIG = {
    str: "strategy settings.cell.data settings.cell.arch settings.cell.strategy settings.task settings.metric"
    " data.group_kind data.unit_kind",
    int: "settings.cell.seed settings.cell.fold settings.epochs",
    list: "settings.classes data.leave_out",
    dict: "settings.hyperparameters data.splits environment arguments",
    int | float | None: "settings.lr",
    str | None: "data.unit_score",
}
RESULT = {
    dict: "val.values test.values test.per_class",
    int: "epochs optimizer_steps parameters trainable_parameters",
    int | float: "minutes",
    int | None: "peak_memory_bytes",
}


def demand(content: dict, needed: dict, file: str) -> None:
    """RunError where the content lacks an entry, or has another kind of it. needed: kind -> "name a.b"."""
    for kind, names in needed.items():
        for name in names.split():
            value = content
            for part in name.split("."):
                if not isinstance(value, dict) or part not in value:
                    raise RunError(f"{file} lacks {name}")
                value = value[part]
            if not isinstance(value, kind):
                raise RunError(f"{file}: {name} is {value!r}")


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
        stage, stages = self.result.get("best_stage"), list(self.stages)
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
        try:
            run.files.ratios()
        except RunError as error:  # costs its panel, not the run
            warnings.append(f"left out of the layers' rates, {error}")
        found.setdefault((*run.experiment, run.strategy, *run.repeat), []).append(run)
    kept = []
    for copies in found.values():
        copies.sort(key=lambda run: run.folder.relative_to(folder).as_posix() != run.place)
        kept.append(copies[0])
        warnings += [f"left out, {copy.folder} holds the run {copy.place} a second time" for copy in copies[1:]]
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
    """One run. RunError where a file of it is damaged or lacks what a report needs."""
    files = RunFolder(folder)
    config, log = files.config(), files.log()
    demand(config, CONFIG, "config.json")
    if files.done():
        result = files.result()
        demand(result, RESULT, "metrics.json")
        if not files.has("predictions.csv"):
            raise RunError("predictions.csv is missing")
        return Run(folder, config, "done", result=result, log=log)
    if files.has("failed.json"):
        reason = files.read_json("failed.json")
        demand(reason, {str: "reason"}, "failed.json")
        return Run(folder, config, "failed", reason["reason"], log=log)
    return Run(folder, config, "unfinished", f"{len(log)} of {config['settings']['epochs']} epochs", log=log)


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
    """The run's test predictions. RunError where predictions.csv is damaged or does not fit config.json."""
    file = run.folder / "predictions.csv"
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            reader = ([from_text(cell) for cell in row] for row in csv.reader(lines))
            head = next(reader)
            column = {name: i for i, name in enumerate(head)}
            return scored_of([row for row in reader if row[column["split"]] == "test"], column, run.config)
    except (ValueError, KeyError, IndexError, StopIteration, csv.Error) as error:
        raise RunError(f"{file} is damaged ({type(error).__name__}: {error})") from None


def scored_of(rows: list[list[str]], column: dict[str, int], config: dict) -> Scored:
    """rows: of predictions.csv, those of the test split. column: name -> place in a row."""
    settings, data = config["settings"], config["data"]
    classes = settings["classes"]
    if not rows:
        raise ValueError("no test image is in it")
    scores = np.array([[float(row[column[f"score_{c}"]]) for c in classes] for row in rows])
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    if settings["task"] == "multiclass":
        place = {c: i for i, c in enumerate(classes)}
        labels = np.array([place[row[column["label"]]] for row in rows])
    else:
        places = [column[f"label_{c}"] for c in classes]
        labels = np.array([[float(row[i]) if row[i] else NAN for i in places] for row in rows])
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
