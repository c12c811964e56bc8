"""A process that trains for days, beside others that do the same: which of them has a folder, what a signal
does, what a closed terminal does. A file of its own because it must work before torch is loaded.

    listen()                                       # SIGTERM, SIGINT, SIGUSR1, from here on
    with Claims(stale=600).take(folder) as claim:  # Busy where another worker has it
        claim.check()                              # Lost where it was taken over meanwhile
    share(cells, attempt, say=print)               # attempt(cell) for each, the busy ones again at the end

A claim is a file `.lock-<n>` in the folder, made by whoever makes it first: it names host, process and start
and is written anew every few seconds, as a sign of life. A claim of a dead process of this machine is free at
once; one from elsewhere when its sign of life has not changed for `stale` seconds of this process's own
clock. Who takes over makes the next number, so that of two only one does. No lock of the system is asked
for: those may be missing on network file systems, or hold on one host alone. Needs the standard library and
runs.py."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import runs

Item = TypeVar("Item", bound=Hashable)
BEAT = 10.0  # seconds between two signs of life, or a fifth of `stale`
LONGEST_WAIT = 15.0  # seconds between two looks at what others are doing


class Busy(Exception):
    """Another worker has the folder; the message says which."""


class Lost(Busy):
    """Another worker has taken the folder over: it had seen no sign of life of this one."""


# ---- beside other processes ----


def fit_waiting(loadavg: Path = Path("/proc/loadavg")) -> None:
    """How long OpenMP's threads spin while they wait for each other, unless the user has said: briefly beside other
    work, which a spinning thread would keep from running, longer on a machine that is quiet, where waking up costs
    more. Read by libgomp when torch loads it; changes no number."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000" if is_busy(loadavg) else "20000"


def is_busy(loadavg: Path) -> bool:
    """Whether other processes want half of the cores or more: on the last minute's average, or right now."""
    try:
        average, _, _, running, _ = loadavg.read_text().split()
        others = max(float(average), int(running.partition("/")[0]) - 1)
    except (OSError, ValueError):  # not Linux
        return False
    return others >= (os.cpu_count() or 1) / 2


# ---- claims ----


class Claims:
    """The claims of this process. stale: see above."""

    def __init__(self, stale: float = 600.0):
        self.stale = stale
        self.seen: dict[Path, tuple[bytes, float]] = {}  # a claim from elsewhere, and since when it is like that

    def take(self, folder: Path) -> Claim:
        """The folder, which is made where it is missing. Busy where another worker has it."""
        runs.make_folder(folder)
        number = newest(folder)
        if number and not self.is_free(lock_file(folder, number)):
            raise Busy(owner_text(lock_file(folder, number)))
        mine = lock_file(folder, number + 1)
        beat = Beat(mine)
        if not runs.create(mine, beat.content()) or newest(folder) != number + 1:
            raise Busy(owner_text(mine))  # another was faster
        for other in folder.glob(".lock-*"):
            if other != mine:
                other.unlink(missing_ok=True)
        return Claim(folder, number + 1, beat, every=min(BEAT, self.stale / 5))

    def is_free(self, file: Path) -> bool:
        """Whether the owner has let go of it, or has died."""
        content = read_bytes(file)
        owner = parse(content)
        if owner == {}:
            return True
        try:
            dead = runs.is_dead(owner["machine"], owner["pid"], owner["start"])
        except (KeyError, TypeError):  # not written yet, or damaged
            dead = None
        if dead is not None:
            return dead
        before, since = self.seen.get(file, (None, 0.0))
        if content != before:
            self.seen[file] = content, time.monotonic()
            return False
        return time.monotonic() - since >= self.stale

    def taken(self, folder: Path, say: Callable[[str], None], what: str) -> Claim:
        """As take, but waits for a worker that has it."""
        (claim,) = share([folder], self.take, say, what).values()
        return claim


def lock_file(folder: Path, number: int) -> Path:
    return folder / f".lock-{number}"


def newest(folder: Path) -> int:
    """The number of the last claim, 0 without one."""
    found = (re.fullmatch(r"\.lock-(\d+)", name) for name in os.listdir(folder))
    return max((int(match[1]) for match in found if match), default=0)


def read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # taken over, or taken away with its folder, since it was listed
        return b""


def parse(content: bytes) -> dict | None:
    """What a claim says; {} where it was let go of, None where it is not whole."""
    with contextlib.suppress(ValueError):
        owner = json.loads(content)
        return owner if isinstance(owner, dict) else None
    return None


def owner_text(file: Path) -> str:
    owner = parse(read_bytes(file)) or {}
    return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'another host')}"


class Beat:
    """What a claim's file holds: always of the same length, so that it is written in place."""

    def __init__(self, file: Path):
        self.file, self.count = file, 0
        self.owner = {"host": socket.gethostname(), "machine": runs.machine(), "pid": os.getpid()}
        self.owner |= {"start": runs.process_start(os.getpid()) or ""}

    def content(self) -> str:
        return json.dumps(self.owner | {"beat": f"{self.count:010}"}) + "\n"

    def write(self) -> None:
        self.count += 1
        with open(self.file, "r+b") as out:  # never makes a new one
            out.write(self.content().encode())

    def let_go(self) -> None:
        with open(self.file, "r+b") as out:
            out.write(b"{}\n")
            out.truncate()


class Claim:
    """A folder that is this process's until close(), or until it is taken over because no sign of life was
    seen of it: check() tells."""

    def __init__(self, folder: Path, number: int, beat: Beat, every: float):
        self.folder, self.number, self.beat, self.every = folder, number, beat, every
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.keep_beating, daemon=True)
        self.thread.start()

    def keep_beating(self) -> None:
        while not self.ended.wait(self.every):
            with contextlib.suppress(OSError):  # taken over, or the file system is away: check() is to say
                self.beat.write()

    def check(self) -> None:
        """Lost where the folder is another's by now."""
        if newest(self.folder) != self.number:
            raise Lost(owner_text(lock_file(self.folder, newest(self.folder))))

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        with contextlib.suppress(OSError):
            self.beat.let_go()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


# ---- a sweep that several workers share ----


@dataclass(frozen=True)
class Sweep:
    """One pass over the cells, whichever workers make it: a cell that was done again, or has failed, within
    it is not begun once more by the next worker. Begins where no such sweep is unfinished."""

    id: str
    file: Path
    joined: bool  # another worker, or this command before it was stopped, began it

    def finish(self) -> None:
        """All its cells are done, or have failed."""
        with contextlib.suppress(OSError, runs.RunError):
            if runs.read_json(self.file).get("id") == self.id:
                self.file.unlink()


def join_sweep(output_dir: str | Path, key: str) -> Sweep:
    """key: the same for all workers of a sweep."""
    file = Path(output_dir) / f".sweep-{key}.json"
    new = {"id": secrets.token_hex(6), "begun": time.strftime("%Y-%m-%d %H:%M:%S"), "command": sys.argv}
    began = runs.create(file, runs.to_json(new))
    try:
        return Sweep(new["id"] if began else str(runs.read_json(file)["id"]), file, joined=not began)
    except (FileNotFoundError, runs.RunError, KeyError):  # finished this moment, or damaged
        runs.write_atomically(file, runs.to_json(new))
        return Sweep(new["id"], file, joined=False)


def share(
    items: Iterable[Item], attempt: Callable[[Item], object], say: Callable[[str], None], what: str = "run"
) -> dict[Item, object]:
    """attempt(item) of every item, in order, those that are Busy again after the others, until all are done.
    Returns what it gave for each."""
    done, left, pause, waiting = {}, list(items), 1.0, 0
    while left:
        busy, owner = [], ""
        for item in left:
            try:
                done[item] = attempt(item)
            except Busy as error:
                busy.append(item)
                owner = str(error)
        if len(busy) < len(left):
            pause = 1.0
        elif busy:
            if len(busy) != waiting:
                say(f"waiting for {len(busy)} {what}{'s' * (len(busy) > 1)} of other workers ({owner})")
            waiting = len(busy)
            time.sleep(pause)
            pause = min(LONGEST_WAIT, 1.5 * pause)
        left = busy
    return done


# ---- what fails ----

ALIKE = 3  # failures in a row that are no longer the cells' own


class MachineFault(Exception):
    """This process can do no cell any more: its GPU or its disk is gone or full."""


class Alike(Exception):
    """Several cells in a row failed in the same way. reason: the last one's."""

    def __init__(self, reason: str):
        super().__init__(f"the last {ALIKE} runs failed alike ({reason}): the sweep ends here")
        self.reason = reason


@dataclass
class Worker:
    """This process at its sweep. failures: the last ones in a row, each with its folder. told: the folders of
    which it was said that they are done."""

    sweep: Sweep
    claims: Claims
    progress: Progress
    failures: list[tuple[str, runs.RunFolder]] = field(default_factory=list)
    told: set[Path] = field(default_factory=set)

    def result_before(self, name: str, run: runs.RunFolder, overwrite: bool, scored: bool) -> dict | None:
        """The result of a run that is done, or how it failed in this sweep; None where there is work left.
        scored: predictions.csv is to be there, and is made again from best.pt where it was lost."""
        if failure := run.failed_in(self.sweep.id):
            return {"failed": failure["reason"], "type": failure.get("type")}
        if not run.done() or (overwrite and run.sweep() != self.sweep.id):
            return None
        if scored and run.has("best.pt") and not run.has("predictions.csv"):
            return None
        if run.path not in self.told:
            self.progress.line(f"{name}: done before")
            self.told.add(run.path)
        result = run.result()
        run.complete_logs(result["epochs"])
        return result

    def attempt(
        self, name: str, run: runs.RunFolder, work: Callable[[], dict], describe: Callable[[Exception], dict]
    ) -> dict:
        """work(), a run's. An exception costs the run and not the sweep: it becomes failed.json, of describe's
        type, reason and what else it says, with the traceback beside it. MachineFault where this process can
        do no other run either, Alike where several in a row failed alike; theirs are tried again by the next
        command."""
        try:
            result = work()
            self.failures.clear()
            return result
        except Busy:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the other runs are not to blame
            failure, fault, kind = describe(error), is_machine_s(error), kind_of(error)
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        reason, diverged = failure["reason"], failure["type"] == "Diverged"  # that is a result of its settings
        with contextlib.suppress(OSError):
            run.fail(failure | {"sweep": None if fault else self.sweep.id}, "" if diverged else trace)
        if diverged:
            self.progress.line(f"{name}: stopped, {reason}; a lower --lr may help")
            return {"failed": reason, "type": failure["type"]}
        self.progress.line(f"{name}: FAILED, {reason} (see {run.file('traceback.txt')})")
        if fault:
            raise MachineFault(f"{name}: {reason}; once that is mended, the same command goes on")
        self.failures = [*self.failures, (kind, run)][-ALIKE:]
        if len(self.failures) == ALIKE and len({kind for kind, _ in self.failures}) == 1:
            for _, failed in self.failures:
                with contextlib.suppress(OSError, runs.RunError):
                    failed.write_json("failed.json", failed.read_json("failed.json") | {"sweep": None})
            raise Alike(reason)
        return {"failed": reason, "type": failure["type"]}


def describe(error: Exception, name: str, position, recipe, peak_memory: Callable) -> dict:
    """What failed.json says. position, recipe: train.Position, train.Recipe; peak_memory: train's."""
    rate = memory = None
    with contextlib.suppress(Exception):  # on a GPU that has gone nothing can be read
        rate = max((float(group["lr"]) for group in position.groups), default=None)
        memory = peak_memory(recipe.where)
    reason = reason_of(error)
    if is_memory(error):
        size = recipe.batch_size
        smaller = f"-b {max(2, size // 2)} --grad-accum {2 * recipe.grad_accum}"
        where = f"out of memory: {name}, stage {position.stage or 'none yet'}, batch {size}"
        reason = f"{where}: {reason}; for all strategies alike, try {smaller}"
    at = {"epoch": position.epoch or None, "stage": position.stage or None, "step": position.step}
    return {"reason": reason, "type": type(error).__name__} | at | {"lr": rate, "peak_memory_bytes": memory}


OURS = ("RunError", "DataError", "UsageError", "UndefinedMetric", "CacheError", "ReadError")


def reason_of(error: Exception) -> str:
    """One line: what happened, and of a file which."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    lines = str(error).strip().splitlines() or [""]
    named = type(error).__name__ in OURS or is_memory(error)
    return lines[0] if named and lines[0] else f"{type(error).__name__}: {lines[0]}"


def is_memory(error: Exception) -> bool:
    """Out of memory, of a GPU or of the machine."""
    return isinstance(error, MemoryError) or bool(re.search("out of memory|can't allocate memory", str(error)))


def is_machine_s(error: Exception) -> bool:
    """A full disk; a CUDA context in which nothing runs any more, as after a failed assert."""
    if isinstance(error, OSError):
        return error.errno in runs.FULL
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def kind_of(error: Exception) -> str:
    """The same for failures that are alike: numbers in a message are not counted."""
    return type(error).__name__ + re.sub(r"\d+", "", str(error))[:40]


# ---- signals ----

EXIT = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 138}  # 128 and the signal's number on Linux
SAME = 0.3  # seconds within which a signal is the same: a terminal and torchrun both pass on a Ctrl-C


class Interrupted(BaseException):
    """A signal came while there was nothing to save."""


@dataclass
class Told:
    """What this process was told by a signal. phase: "starting" while modules are loaded; "training" while a
    step will come that saves; else "between"."""

    name: str = ""
    when: float = 0.0
    phase: str = "between"

    def to_stop(self) -> bool:
        return bool(self.name)

    @property
    def exit_code(self) -> int:
        return EXIT.get(self.name, 130)

    def handle(self, number: int, frame: object) -> None:
        """The handler of all three. It writes to the file itself: print may be in the midst of a line."""
        name, now = signal.Signals(number).name, time.monotonic()
        if self.name and now - self.when < SAME:
            return
        if self.name or self.phase == "starting":
            os.write(2, f"\nftcompare: {name}{' again' if self.name else ''}, stopped at once\n".encode())
            os._exit(EXIT[name])
        self.name, self.when = name, now
        if self.phase == "training":
            os.write(2, f"\nftcompare: {name}: saving at the next step; once more ends at once\n".encode())
        else:
            raise Interrupted

    @contextlib.contextmanager
    def training(self):
        """Where a signal waits for the next step, which asks to_stop()."""
        before, self.phase = self.phase, "training"
        try:
            yield
        finally:
            self.phase = before


told = Told()


def listen() -> None:
    """From here on signals are told's. To be called before what takes seconds to import."""
    told.phase = "starting"
    for name in EXIT:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), told.handle)


# ---- what is printed ----

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
MOVING = "\r\033[K"  # our own: the line is written anew


class Output(io.TextIOBase):
    """A stream whose reader may go away, head for one, which ends nothing; and on which a file's name can
    neither move the cursor nor hide what stands there."""

    def __init__(self, stream):
        self.stream, self.gone = stream, False

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        start = MOVING if text.startswith(MOVING) else ""
        self.attempt(lambda: self.stream.write(start + CONTROL.sub(lambda c: ascii(c[0])[1:-1], text[len(start) :])))
        return len(text)

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def isatty(self) -> bool:
        return not self.gone and self.stream.isatty()

    def attempt(self, action: Callable[[], object]) -> None:
        if self.gone:
            return
        try:
            action()
        except BrokenPipeError:
            self.gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # what is buffered goes there


@contextlib.contextmanager
def plain_output():
    """sys.stdout and sys.stderr as Output while it lasts."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot write
    sys.stdout, sys.stderr = map(Output, before)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


LONG_EPOCH = 60  # seconds without a line


class Progress:
    """What is said while it runs: a moving line on a terminal, a line an epoch and a minute otherwise. The sweep's
    remaining time is the mean of the epochs so far times those that are left."""

    def __init__(self, cells: int, epochs: int):  # epochs of all cells together
        self.live, self.started = sys.stderr.isatty(), time.perf_counter()
        self.said = self.started  # when the last line was
        self.epochs_left, self.epochs_seen, self.cells, self.number = epochs, 0, cells, 0
        self.total_epochs = epochs

    def moving(self, text: str) -> None:
        if self.live:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        self.moving("")
        print(text, flush=True)
        self.said = time.perf_counter()

    def cell(self, cell: object, epochs: int, description: list[str]) -> None:
        self.total_epochs = epochs
        self.line(f"\n[{self.number} of {self.cells}] {cell}")
        for told in description:
            self.line(f"  {told}")

    def skip(self, epochs: int) -> None:
        self.epochs_left -= epochs

    def remaining(self) -> str:
        if not self.epochs_seen:
            return ""
        seconds_an_epoch = (time.perf_counter() - self.started) / self.epochs_seen
        return f", {duration(seconds_an_epoch * self.epochs_left)} left in all"

    def step(self, step: int, steps: int, rate: float) -> None:
        text = f"    step {step}/{steps}, {rate:.0f} images/s{self.remaining()}"
        self.moving(text)
        if not self.live and time.perf_counter() - self.said >= LONG_EPOCH:
            self.line(text)

    def epoch(self, row: dict) -> None:
        self.epochs_seen, self.epochs_left = self.epochs_seen + 1, self.epochs_left - 1
        metric = next(name for name in row if name.startswith("val_") and name != "val_loss")
        where = f"    epoch {row['epoch']:>3}/{self.total_epochs} {row['stage']:<9}"
        value = f"{metric} {row[metric]:.4f}{'*' if row['best'] else ' '}"
        speed = f"{row['images_per_second']:6.0f} images/s{self.remaining()}"
        self.line(f"{where} train loss {row['train_loss']:.4f}  {value} {speed}")

    def result(self, result: dict) -> None:
        for side in (side for side in ("val", "test") if side in result):
            judged = result[side]
            whole, shown = len(judged["per_class"]), []
            for name in (result["metric"], result["second"]):
                over = judged["averaged_over"].get(name, whole)
                some = f" (mean over {over} of {whole})" if over < whole else ""
                shown.append(f"{name} {shown_value(judged['values'][name])}{some}")
            basis = f"n = {judged['n']}, checkpoint of epoch {result['best_epoch']}"
            self.line(f"  {side:<4} {', '.join(shown)} ({basis})")


def shown_value(value: float | None) -> str:
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.4f}"
