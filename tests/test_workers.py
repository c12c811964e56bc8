"""Several processes at one sweep, and what one of them does when it is told to stop, fails, or is no longer
listened to."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from toys import SMALL, read

import ftcompare
import runs
import train
import workers

posix = pytest.mark.skipif(os.name != "posix", reason="signals and /proc of a Unix")
TINY = [*SMALL, "--data", "demo-tiny", "--epochs", "1", "--native", "off"]


def start(out, *arguments, environment=None, command=(sys.executable,)):
    """A worker, its output in a file beside the folder."""
    told = [*command, ROOT / "ftcompare.py", *TINY, "--output-dir", out, *arguments]
    number = len(list(out.parent.glob("*.said")))
    with open(out.parent / f"{number}.said", "w") as said:
        process = subprocess.Popen(list(map(str, told)), stdout=said, stderr=said, env=os.environ | (environment or {}))
    process.said = Path(said.name)
    return process


# ---- claims ----


def elsewhere(folder, beat):
    """A claim of a process of another machine."""
    (folder / ".lock-1").write_text(json.dumps({"machine": "far", "host": "far", "pid": 1, "start": "1", "beat": beat}))


def test_a_claim_is_one_process_s_until_it_lets_go(tmp_path):
    claims = workers.Claims()
    with claims.take(tmp_path / "run") as claim:
        with pytest.raises(workers.Busy, match=f"process {os.getpid()} on "):
            workers.Claims().take(tmp_path / "run")
        claim.check()
    with claims.take(tmp_path / "run"):
        assert [file.name for file in (tmp_path / "run").iterdir()] == [".lock-2"]


@posix
def test_a_dead_process_of_this_machine_has_no_claim(tmp_path):
    """Also while nobody has asked how it ended, and where another has its number by now."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import workers, pathlib, time; "
    code += "claim = workers.Claims().take(pathlib.Path(sys.argv[2])); print('has it', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "has it\n"
    with pytest.raises(workers.Busy, match=f"process {other.pid}"):
        workers.Claims().take(tmp_path)
    other.kill()
    time.sleep(0.2)  # not waited for: a zombie
    workers.Claims().take(tmp_path).close()
    other.communicate()
    owner = {"machine": runs.machine(), "host": "here", "pid": os.getpid(), "start": "1", "beat": "1"}
    (tmp_path / ".lock-2").write_text(json.dumps(owner))
    workers.Claims().take(tmp_path).close()


@pytest.mark.parametrize("begun", ["whole", "empty", "half"])
def test_a_claim_from_elsewhere_is_free_when_it_shows_no_life_by_this_process_s_clock(tmp_path, monkeypatch, begun):
    now = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(workers.time, "time", lambda: random.uniform(-1e9, 1e9))  # jumps
    claims = workers.Claims(stale=60)
    for second in range(0, 600, 30):  # it lives: its sign changes
        elsewhere(tmp_path, second)
        now[0] = 100.0 + second
        with pytest.raises(workers.Busy, match="process 1 on far"):
            claims.take(tmp_path)
    if begun != "whole":  # killed while it was written
        (tmp_path / ".lock-1").write_text({"empty": "", "half": '{"machine": "fa'}[begun])
        with pytest.raises(workers.Busy):
            claims.take(tmp_path)
    now[0] += 59
    with pytest.raises(workers.Busy):
        claims.take(tmp_path)
    now[0] += 2
    claims.take(tmp_path).close()


def test_who_was_taken_over_notices_before_it_writes(tmp_path):
    run = runs.RunFolder(tmp_path)
    with workers.Claims().take(tmp_path) as claim:
        run.guard = claim.check
        run.write_json("config.json", {"mine": 1})
        elsewhere(tmp_path, 1)
        (tmp_path / ".lock-1").rename(tmp_path / ".lock-2")
        for write in (lambda: run.write_json("config.json", {}), lambda: run.save("last.pt", {}), run.empty):
            with pytest.raises(workers.Lost, match="process 1 on far"):
                write()
    assert run.config() == {"mine": 1} and json.loads((tmp_path / ".lock-2").read_text())["host"] == "far"


def test_a_claim_gives_signs_of_life(tmp_path):
    with workers.Claims(stale=0.25).take(tmp_path):
        file, seen = tmp_path / ".lock-1", set()
        until = time.monotonic() + 20
        while len(seen) < 4 and time.monotonic() < until:
            seen.add(file.read_bytes())
            time.sleep(0.02)
    assert len({len(content) for content in seen}) == 1 and len(seen) == 4
    assert json.loads(file.read_text()) == {}


CLAIMER = """
import errno, os, sys, time; sys.path.insert(0, sys.argv[1])
import pathlib, runs, workers
if sys.argv[3] == "no links":
    def link(*a): raise OSError(errno.EPERM, "Operation not permitted")
    runs.os.link = link
folder, claims = pathlib.Path(sys.argv[2]), workers.Claims()
for number in range(25):
    while True:
        try:
            claim = claims.take(folder)
            break
        except workers.Busy:
            time.sleep(0)
    inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)  # raises where another is
    runs.remove_leftovers(folder, mine=True)
    os.close(inside)
    os.unlink(folder / "inside")
    with open(folder / "taken", "a") as out:
        out.write(f"{claim.number}\\n")
    if number == int(sys.argv[4]):
        os._exit(9)  # killed while it has it
    claim.close()
"""


@posix
@pytest.mark.parametrize("links", ["links", "no links"])
def test_of_many_that_ask_at_once_one_has_it(tmp_path, links):
    """Six processes that all die while they have it, and two that do not, where there are hard links and where
    there are none."""
    told = [sys.executable, "-c", CLAIMER, str(ROOT), str(tmp_path), links]
    team = [subprocess.Popen([*told, str(k)], stderr=subprocess.PIPE, text=True) for k in (1, 2, 3, 5, 8, 13, 99, 99)]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in team]
    assert ends == [("", 9)] * 6 + [("", 0)] * 2
    taken = [int(line) for line in (tmp_path / "taken").read_text().split()]
    assert taken == list(range(1, 2 + 3 + 4 + 6 + 9 + 14 + 2 * 25 + 1))  # each number once, in order


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    dead = f"{runs.machine()}.999999999.5"
    mine, far, old = runs.temporary_name(tmp_path / "last.pt"), "far-00000000.1.5", tmp_path / ".last.pt.17.tmp"
    gone, kept = [tmp_path / f".last.pt.{dead}.tmp", tmp_path / f".cache.{dead}.tmp"], tmp_path / f".x.{far}.tmp"
    gone[1].mkdir()
    (gone[1] / "pixels.npy").write_bytes(b"x")
    for file in (gone[0], mine, kept, old, tmp_path / "notes.tmp"):
        file.write_bytes(b"x")
    os.utime(old, (0, 0))
    runs.remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {mine.name, kept.name, "notes.tmp"}
    runs.remove_leftovers(tmp_path, mine=True)  # nobody else writes in a folder that is claimed
    assert {file.name for file in tmp_path.iterdir()} == {"notes.tmp"}


def test_busy_items_are_tried_again_after_the_others(monkeypatch):
    slept, said, tries = [], [], {"b": 3, "d": 1}
    monkeypatch.setattr(workers.time, "sleep", slept.append)

    def attempt(item):
        if tries.get(item, 0):
            tries[item] -= 1
            raise workers.Busy("process 7 on far")
        return item.upper()

    done = workers.share("abcd", attempt, said.append)
    assert done == {"a": "A", "c": "C", "d": "D", "b": "B"} and list(done) == ["a", "c", "d", "b"]
    assert slept == [1.0] and said == ["waiting for 1 run of other workers (process 7 on far)"]


# ---- a sweep of several workers ----


@posix
@pytest.mark.parametrize("place", ["plain", "no flock, no links"])
def test_forty_cells_by_four_workers_two_of_them_killed_and_one_late(tmp_path, place):
    """Every cell is done once, all that live exit with 0, and the numbers are those of one worker alone."""
    environment, cells = {}, 40
    if place != "plain":
        (tmp_path / "sitecustomize.py").write_text(
            "import errno, fcntl, os\n"
            "def no(*a, **k): raise OSError(errno.ENOSYS, 'Function not implemented')\n"
            "fcntl.flock = fcntl.lockf = os.link = no\n"
        )
        environment["PYTHONPATH"] = str(tmp_path)
    out, rng = tmp_path / "runs", random.Random(place)
    sweep = ["--strategy", "lp", "--seed", *range(cells)]
    team = [start(out, *sweep, environment=environment) for _ in range(3)]
    done = lambda: len(list(out.glob("demo-tiny/*/lp/*/metrics.json")))
    for victim, after in zip(team[:2], sorted(rng.sample(range(2, 25), 2)), strict=True):
        while done() < after and victim.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        victim.kill()
        assert victim.wait() == -signal.SIGKILL
        if victim is team[0]:
            team.append(start(out, *sweep, environment=environment))
    assert [process.wait(timeout=300) for process in team[2:]] == [0, 0], team[2].said.read_text()
    said = "".join(process.said.read_text() for process in team)
    finished = re.findall(r"demo-tiny \S+ LP seed (\d+) fold 0\n(?:(?!\[).*\n)*  val +balanced", said)
    assert done() == cells and len(finished) == len(set(finished)) >= cells - 2  # two may have died before saying so
    assert not list(out.rglob("*.tmp")) and not list(out.glob(".sweep*"))
    assert len(read(out / "results.csv")) == cells
    alone = tmp_path / "alone"
    assert start(alone, *sweep).wait(timeout=300) == 0
    for file in alone.glob("demo-tiny/*/lp/*/predictions.csv"):
        assert file.read_bytes() == (out / file.relative_to(alone)).read_bytes()


@posix
def test_two_nodes_of_torchrun_share_the_cells(tmp_path):
    """Two torchruns on loopback with two ranks each: without --parallel cells one line, with it every cell
    once."""
    out, torchrun = tmp_path / "runs", [sys.executable, "-m", "torch.distributed.run"]
    refused = start(out, command=[*torchrun, "--standalone", "--nproc-per-node", "2"])
    assert refused.wait(timeout=120) != 0 and "--parallel cells" in refused.said.read_text()
    assert not list(out.glob("demo-tiny/*"))
    nodes = [*torchrun, "--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    nodes += [f"localhost:{random.randrange(20000, 50000)}"]
    sweep = ["--strategy", "lp", "--seed", *range(12), "--parallel", "cells"]
    team = [start(out, *sweep, command=nodes) for _ in range(2)]
    assert [node.wait(timeout=300) for node in team] == [0, 0], team[0].said.read_text()
    said = "".join(node.said.read_text() for node in team)
    assert (
        len(re.findall(r"^  val +balanced", said, re.MULTILINE))
        == 12
        == len(list(out.glob("demo-tiny/*/lp/*/metrics.json")))
    )


def unfinished(monkeypatch):
    """As if each command were killed before it could say that its sweep is at an end."""
    patch = pytest.MonkeyPatch()
    patch.setattr(workers.Sweep, "finish", lambda self: None)
    return patch


def broken(monkeypatch, *strategies_, error=None):
    """Training of these strategies raises; returns the cells that were tried."""
    tried, real = [], ftcompare.train_cell

    def train_cell(cell, *more):
        tried.append(cell.strategy)
        if cell.strategy in strategies_:
            more[-1].epoch, more[-1].step = 2, 7
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(cell, *more)

    monkeypatch.setattr(ftcompare, "train_cell", train_cell)
    return tried


def test_overwrite_does_a_cell_once_a_sweep(tmp_path, run, monkeypatch):
    arguments = [*TINY, "--strategy", "lp", "ft", "--output-dir", tmp_path]
    times = lambda: [file.stat().st_mtime_ns for file in sorted(tmp_path.glob("*/*/*/*/metrics.json"))]
    assert run(*arguments)[0] == 0
    first, patch = times(), unfinished(monkeypatch)
    assert run(*arguments, "--overwrite")[0] == 0
    second = times()
    code, out, _ = run(*arguments, "--overwrite")
    assert code == 0 and out.count("done before") == 2 and "joining a sweep" in out
    assert times() == second and not set(first) & set(second)
    patch.undo()
    assert run(*arguments, "--overwrite")[0] == 0 and times() == second  # its last worker ends it
    assert not list(tmp_path.glob(".sweep*"))
    assert run(*arguments, "--overwrite")[0] == 0 and not set(times()) & set(second)


def test_a_failed_cell_is_tried_once_more_a_sweep_and_not_once_a_worker(tmp_path, run, monkeypatch):
    arguments = [*TINY, "--strategy", "lp", "ft", "--output-dir", tmp_path]
    tried, patch = broken(monkeypatch, "lp"), unfinished(monkeypatch)
    assert run(*arguments)[0] == 1 and tried == ["lp", "ft"]
    code, out, _ = run(*arguments)
    assert code == 1 and tried == ["lp", "ft"] and "1 of 2 runs failed" in out
    patch.undo()
    assert run(*arguments)[0] == 1 and tried == ["lp", "ft"]  # ends the sweep
    assert run(*arguments)[0] == 1 and tried == ["lp", "ft", "lp"]


def test_overwriting_removes_the_run_s_own_files_alone_and_never_through_a_link(tmp_path):
    run, kept = runs.RunFolder(tmp_path / "run"), tmp_path / "weights.pt"
    for name in (*runs.FILES, "notes.txt", ".lock-1"):
        run.file(name).parent.mkdir(exist_ok=True)
        run.file(name).write_text("x")
    kept.write_text("mine")
    run.file("best.pt").unlink()
    run.file("best.pt").symlink_to(kept)
    removed, real = [], Path.unlink
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, **how: [removed.append(self.name), real(self, **how)])
        run.empty()
    assert removed[0] == "metrics.json" and removed[-1] == "config.json"
    assert sorted(file.name for file in run.path.iterdir()) == [".lock-1", "notes.txt"]
    assert kept.read_text() == "mine"


# ---- what fails ----


def test_out_of_memory_in_the_second_of_three_cells(tmp_path, run, monkeypatch):
    arguments = [*TINY, "--epochs", "2", "--strategy", "ft", "lp", "l2sp", "--output-dir", tmp_path]
    with monkeypatch.context() as patch:
        broken(patch, "lp")
        code, out, err = run(*arguments)
    assert code == 1 and err == ""
    (folder,) = tmp_path.glob("*/*/lp/seed0-fold0")
    failure = json.loads((folder / "failed.json").read_text())
    assert failure["type"] == "OutOfMemoryError" and (failure["epoch"], failure["step"]) == (2, 7)
    assert failure["peak_memory_bytes"] > 1e6 and failure["sweep"]
    why = "out of memory: demo-tiny shufflenet_v2_x0_5 LP seed 0 fold 0, stage none yet, batch 16: CUDA out of memory."
    assert failure["reason"].startswith(why) and "try -b 8 --grad-accum 2" in failure["reason"]
    trace = (folder / "traceback.txt").read_text()
    assert trace.startswith("Traceback") and "in train_cell" in trace
    assert "1 of 3 runs failed\n" in out and out.count(failure["reason"]) >= 2
    rows = {row["strategy"]: row for row in read(tmp_path / "results.csv")}
    assert {key: row["status"] for key, row in rows.items()} == {"ft": "done", "lp": "failed", "l2sp": "done"}
    assert (tmp_path / "report.html").is_file() and not list(folder.glob("*.pt"))
    assert run(*arguments)[0] == 0 and (folder / "metrics.json").is_file()
    assert not (folder / "failed.json").exists() and not (folder / "traceback.txt").exists()


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**15), lambda: bytearray(10**18), lambda: [0] * 10**18])
def test_memory_that_the_machine_has_not_is_called_so(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert workers.is_memory(caught.value) and not workers.is_machine_s(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/last.pt"),
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"),
    ],
)
def test_a_fault_of_the_machine_costs_the_cell_in_hand_and_ends_the_process(tmp_path, run, monkeypatch, error):
    arguments = [*TINY, "--strategy", "ft", "lp", "l2sp", "--output-dir", tmp_path]
    with monkeypatch.context() as patch:
        tried = broken(patch, "lp", error=error)
        code, _, err = run(*arguments)
    assert code == 1 and tried == ["ft", "lp"] and err.count("\n") == 1
    assert str(error).splitlines()[0].split("] ")[-1].split(":")[0] in err and "the same command goes on" in err
    assert len(list(tmp_path.glob("*/*/*/*/failed.json"))) == 1
    assert run(*arguments)[0] == 0 and len(list(tmp_path.glob("*/*/*/*/metrics.json"))) == 3


def test_three_like_failures_in_a_row_end_the_sweep_and_are_tried_again(tmp_path, run, monkeypatch):
    order = ["ft", "lp", "glf", "gfl", "lpft", "l1sp"]
    arguments = [*TINY, "--strategy", *order, "--output-dir", tmp_path]
    with monkeypatch.context() as patch:
        tried = broken(patch, *order[1:], error=RuntimeError("shapes 3 and 4 differ"))
        code, out, _ = run(*arguments)
    assert code == 1 and tried == order[:4] and "the last 3 runs failed alike (RuntimeError: shapes 3 and" in out
    assert "3 of 6 runs failed" in out and (tmp_path / "report.html").is_file()
    with monkeypatch.context() as patch:
        tried = broken(patch)
        assert run(*arguments)[0] == 0 and tried == order[1:]


def test_failures_that_differ_and_trainings_that_diverge_end_no_sweep(tmp_path, run, monkeypatch):
    real = ftcompare.train_cell
    errors = {"ft": ValueError("a"), "lp": RuntimeError("a"), "glf": ValueError("b"), "gfl": ValueError("a")}
    errors |= {key: train.Diverged("the training loss is nan") for key in ("lpft", "l1sp", "l2sp")}

    def train_cell(cell, *more):
        if cell.strategy in errors:
            raise errors[cell.strategy]
        real(cell, *more)

    monkeypatch.setattr(ftcompare, "train_cell", train_cell)
    code, out, _ = run(*TINY, "--output-dir", tmp_path)
    assert code == 1 and "7 of 8 runs failed" in out and len(list(tmp_path.glob("*/*/*/*/metrics.json"))) == 1


def test_a_trial_of_tune_that_fails_is_not_passed_over(tmp_path, run, monkeypatch):
    """The choice would be among fewer rates than the other strategies had."""
    arguments = [*TINY, "--strategy", "lp", "--tune", "2", "--output-dir", tmp_path]
    real, failing = ftcompare.train_cell, [True]

    def train_cell(cell, *more):
        if cell.trial == 1 and failing[0]:
            raise RuntimeError("broken")
        real(cell, *more)

    monkeypatch.setattr(ftcompare, "train_cell", train_cell)
    code, out, _ = run(*arguments)
    assert code == 1 and "trial 2 of --tune failed: RuntimeError: broken" in out
    assert not list(tmp_path.glob("*/*/lp/seed*/metrics.json"))
    failing[0] = False
    assert run(*arguments)[0] == 0 and list(tmp_path.glob("*/*/lp/seed*/metrics.json"))


def test_predictions_that_were_lost_are_made_again(tmp_path, run):
    arguments = [*TINY, "--strategy", "lp", "--output-dir", tmp_path]
    assert run(*arguments)[0] == 0
    (folder,) = tmp_path.glob("*/*/lp/seed0-fold0")
    before = {name: (folder / name).read_bytes() for name in ("predictions.csv", "metrics.json")}
    (folder / "predictions.csv").unlink()
    code, out, _ = run(*arguments)
    assert code == 0 and "predictions.csv was lost, and is made again from best.pt" in out
    assert {name: (folder / name).read_bytes() for name in before} == before


# ---- signals ----


def wait_for(process, text, seconds=120):
    until = time.monotonic() + seconds
    while text not in process.said.read_text():
        assert process.poll() is None and time.monotonic() < until, process.said.read_text()
        time.sleep(0.01)


@posix
def test_each_signal_saves_at_the_next_step_and_the_run_ends_as_one_that_was_left_alone(tmp_path):
    how = ["--epochs", "8", "--strategy", "autorgn", "--save-every", "1000"]
    assert start(tmp_path / "alone", *how).wait(timeout=120) == 0
    out = tmp_path / "runs"
    for name, code, epoch in (("SIGTERM", 143, 2), ("SIGINT", 130, 4), ("SIGUSR1", 138, 6)):
        process = start(out, *how)
        wait_for(process, f"epoch   {epoch}/8")
        process.send_signal(getattr(signal, name))
        assert process.wait(timeout=60) == code
        said = process.said.read_text()
        assert f"{name}: saving at the next step; once more ends at once" in said and "Traceback" not in said
        assert said.endswith(f"\nftcompare: stopped by {name}; the same command goes on where it was\n")
        (folder,) = out.glob("demo-tiny/*/autorgn/seed0-fold0")
        assert epoch <= runs.RunFolder(folder).load_state()["epoch"] < 8
    process = start(out, *how)
    assert process.wait(timeout=120) == 0
    assert re.search(r"goes on with epoch [7-8]\n", process.said.read_text())
    alone = tmp_path / "alone" / folder.relative_to(out)
    for name in ("predictions.csv", "ratios.csv"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes()


CHILD = """
import sys, time; sys.path.insert(0, sys.argv[1])
import workers
workers.listen()
workers.told.phase = sys.argv[2]
try:
    print("ready", flush=True)
    for _ in range(600):
        time.sleep(0.1)
except workers.Interrupted:
    print("interrupted", flush=True)
    sys.exit(workers.told.exit_code)
"""


@posix
@pytest.mark.parametrize(("name", "code"), workers.EXIT.items())
def test_a_second_signal_ends_at_once_and_so_does_the_first_while_modules_are_loaded(name, code):
    for phase, said in (("training", ""), ("starting", ""), ("between", "interrupted\n")):
        told = [sys.executable, "-c", CHILD, str(ROOT), phase]
        child = subprocess.Popen(told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        child.stdout.readline()
        child.send_signal(getattr(signal, name))
        if phase == "training":
            time.sleep(0.1)
            child.send_signal(getattr(signal, name))  # a terminal and torchrun both pass on one Ctrl-C
            time.sleep(0.6)
            assert child.poll() is None
            child.send_signal(getattr(signal, name))
        out, err = child.communicate(timeout=5)
        assert (child.returncode, out) == (code, said) and "Traceback" not in err
        assert ("stopped at once" in err) == (phase != "between")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the signals' mask in /proc")
def test_a_signal_during_the_imports_ends_with_a_line(tmp_path):
    process = start(tmp_path / "runs")
    mask = 0
    while not mask & 1 << (signal.SIGTERM - 1):  # the handler is there
        status = Path(f"/proc/{process.pid}/status").read_text()
        mask = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert process.said.read_text() == "\nftcompare: SIGTERM, stopped at once\n"


# ---- another version on resume ----


def test_another_version_is_said_and_recorded_for_the_epochs_that_it_made(tmp_path, run, monkeypatch):
    arguments = [*TINY, "--epochs", "4", "--strategy", "lp", "--save-every", "0", "--output-dir", tmp_path]
    real, stop_after = ftcompare.Progress.epoch, [2]

    def epoch(self, row):
        real(self, row)
        if row["epoch"] == stop_after[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(ftcompare.Progress, "epoch", epoch)
    assert run(*arguments)[0] == 130
    version, environment = torch.__version__, ftcompare.flags.environment

    monkeypatch.setattr(ftcompare.flags, "environment", lambda device: environment(device) | {"torch": "9.9"})
    stop_after[0] = 3
    code, out, _ = run(*arguments)
    said = f"WARNING: other versions or another machine from epoch 3 on: torch {version} before, 9.9 now"
    assert code == 130 and "goes on with epoch 3" in out and said in out
    (file,) = tmp_path.glob("*/*/lp/seed0-fold0/config.json")
    config = json.loads(file.read_text())
    assert config["environment"]["torch"] == version
    assert config["resumed"] == [{"epoch": 3, "environment": {"torch": "9.9"}}]
    stop_after[0] = None
    code, out, _ = run(*arguments)  # the same once more is nothing new
    assert code == 0 and "other versions" not in out
    assert json.loads(file.read_text())["resumed"] == config["resumed"]


# ---- output ----


@posix
def test_a_reader_that_goes_away_does_not_end_the_sweep(tmp_path):
    command = [sys.executable, ROOT / "ftcompare.py", *TINY, "--strategy", "lp", "ft", "--output-dir", tmp_path]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()  # head -1
    assert process.stderr.read() == "" and process.wait(timeout=120) == 0
    assert len(list(tmp_path.glob("*/*/*/*/metrics.json"))) == 2 and (tmp_path / "report.html").is_file()


def test_a_name_cannot_steer_the_terminal(capsys):
    with workers.plain_output():
        print("a\x1b[2Jb\x07 \x9b1m \u202ecba\tüß\nline 2\r")
        print(f"{workers.MOVING}moved \r\x1b[Kin a name", end="")
    out = capsys.readouterr().out
    assert (
        out
        == r"a\x1b[2Jb\x07 \x9b1m \u202ecba"
        + "\tüß\nline 2"
        + r"\r"
        + "\n"
        + workers.MOVING
        + r"moved \r\x1b[Kin a name"
    )


@pytest.mark.parametrize(
    ("line", "spin"),
    [
        ("0.10 0.2 0.3 1/80 99", "20000"),
        ("2.50 0.2 0.3 1/80 99", "1000"),
        ("0.10 0.2 0.3 3/80 99", "1000"),
        ("?", "20000"),
    ],
)
def test_threads_spin_longer_on_a_quiet_machine(line, spin, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "loadavg").write_text(line)
    workers.fit_waiting(tmp_path / "loadavg")
    assert os.environ["GOMP_SPINCOUNT"] == spin
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    workers.fit_waiting(tmp_path / "loadavg")
    assert os.environ["GOMP_SPINCOUNT"] == "7"  # the user's own
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    workers.fit_waiting(tmp_path / "loadavg")
    assert "GOMP_SPINCOUNT" not in os.environ
