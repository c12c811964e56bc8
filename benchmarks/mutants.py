"""Claim: of 200 small errors put into the files that make numbers, the tests miss fewer than one in twenty.

    python benchmarks/mutants.py                 # some 40 minutes on one core; --n 60 --seed 1: another, smaller sample

changes one operator, comparison, constant or statement at a time in a copy of the project, runs the tests that touch
the line (quickest first, --budget seconds of them at most) and prints every error that all of them pass. Which test
touches which line is traced once a test file and kept in --map. Not changed: text (strings, f-strings, what is raised),
annotations, decorators and zip's strict=, which only guards. The sample is one of each of N equal parts of all errors,
so that it is spread over the files. Exit code 1 where 5 % or more live. Linux and macOS (each error is a fork).
"""

import argparse
import ast
import contextlib
import hashlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REPORT = [f"report/{name}.py" for name in "stats pairs evidence across distributions".split()]
FILES = [f"{name}.py" for name in "metrics splits strategies train images prepare".split()] + REPORT
SWAPS = dict(  # what takes a token's place
    pair.split(":")
    for pair in (
        "+:-,-:+,*:/,/:*,//:*,%:*,**:*,|:&,&:|,^:|,<<:>>,>>:<<,<:<=,<=:<,>:>=,>=:>,==:!=,!=:==,and:or,or:and,~:,not :,"
        "in:not in,not in:in,is:is not,is not:is,min:max,max:min,any:all,all:any,argmin:argmax,argmax:argmin"
    ).split(",")
)
OPERATOR = re.compile(r"not in|is not|\*\*|//|<<|>>|<=|>=|==|!=|\b(?:in|is|and|or)\b|not |[-+*/%|&^<>~]")
EQUIVALENT = {  # (file, a line of it, the line changed): why nothing that a test can see is different
}


@dataclass(frozen=True)
class Mutant:
    file: str
    start: int  # start and end in the file's bytes
    end: int
    text: str  # what stands there instead
    lines: tuple[int, int]  # of the statement, first and last: a test that runs one of them touches it

    def source(self) -> bytes:
        before = (ROOT / self.file).read_bytes()
        return before[: self.start] + self.text.encode() + before[self.end :]

    def change(self) -> tuple[int, str, str]:
        """Number of the first line that is changed, the lines before and after."""
        before, after = (ROOT / self.file).read_bytes(), self.source()
        head, tail = before.rfind(b"\n", 0, self.start) + 1, before.find(b"\n", self.end)
        old, new = before[head:tail], after[head : tail - len(before)]
        return before.count(b"\n", 0, self.start) + 1, old.decode().strip(), new.decode().strip()


def mutants_of(file: str) -> list[Mutant]:
    """Every error of a file, in its order."""
    source, at, found = (ROOT / file).read_bytes(), [0], []
    for line in source.splitlines(keepends=True):
        at.append(at[-1] + len(line))

    def start(node: ast.AST) -> int:
        return at[node.lineno - 1] + node.col_offset

    def end(node: ast.AST) -> int:
        return at[node.end_lineno - 1] + node.end_col_offset

    def operator(left: int, right: int, lines: tuple[int, int]) -> None:
        token = OPERATOR.search(between := source[left:right].decode())
        if token and token[0] in SWAPS:
            left += len(between[: token.start()].encode())
            found.append(Mutant(file, left, left + len(token[0]), SWAPS[token[0]], lines))

    def visit(node: ast.AST, lines: tuple[int, int], within: bool) -> None:
        """lines: of the statement that the node is in; of the file, where none is within a function."""
        if isinstance(node, ast.stmt) and within:
            body = getattr(node, "body", None)
            lines = node.lineno, max(node.lineno, body[0].lineno - 1 if body else node.end_lineno)
        if isinstance(node, ast.FunctionDef):
            lines, within = (node.body[0].lineno, node.end_lineno), True
        if may_go(node):
            found.append(Mutant(file, start(node), end(node), "pass", lines))
        if isinstance(node, ast.BinOp):
            operator(end(node.left), start(node.right), lines)
        elif isinstance(node, ast.Compare | ast.BoolOp):
            parts = node.values if isinstance(node, ast.BoolOp) else [node.left, *node.comparators]
            for left, right in itertools.pairwise(parts):
                operator(end(left), start(right), lines)
        elif isinstance(node, ast.UnaryOp):
            operator(start(node), start(node.operand), lines)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):  # True and False are int
            other = not node.value if isinstance(node.value, bool) else node.value + 1
            found.append(Mutant(file, start(node), end(node), repr(other), lines))
        elif isinstance(node, ast.Name | ast.Attribute):
            if (name := getattr(node, "id", None) or node.attr) in SWAPS:
                found.append(Mutant(file, end(node) - len(name), end(node), SWAPS[name], lines))
        elif isinstance(node, ast.JoinedStr | ast.Raise) or (isinstance(node, ast.keyword) and node.arg == "strict"):
            return
        for name, value in ast.iter_fields(node):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST) and name not in ("annotation", "returns", "decorator_list"):
                    visit(part, lines, within)

    visit(ast.parse(source), (1, len(at)), False)
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end))


def may_go(node: ast.AST) -> bool:
    """Statements without which the names that are read later are still there: calls, raise, +=, x[i] = y, x = f(x)."""
    if not isinstance(node, ast.Assign):
        gone = isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Continue | ast.Break)
        return gone and not isinstance(getattr(node, "value", None), ast.Constant)  # no docstring
    used, *_ = targets = [
        {n.id for n in ast.walk(part) if isinstance(n, ast.Name)} for part in (node.value, *node.targets)
    ]
    return isinstance(node.targets[0], ast.Subscript | ast.Attribute) or all(names <= used for names in targets[1:])


class Trace:
    """A plugin of pytest: of every test that passes, its seconds and the lines of FILES that it or its fixtures run."""

    def __init__(self, root: Path) -> None:
        self.files = {str(root / file): file for file in FILES}
        self.stack, self.fixtures, self.tests = [set()], defaultdict(set), {}

    def called(self, frame, event, arg):
        if frame.f_code.co_filename in self.files:
            return self.line(frame, event, arg)

    def line(self, frame, event, arg):
        self.stack[-1].add((self.files[frame.f_code.co_filename], frame.f_lineno))
        return self.line

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        self.stack.append(self.fixtures[fixturedef])
        try:
            return (yield)
        finally:
            self.stack.pop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        for module in [module for module in sys.modules.values() if getattr(module, "__file__", "") in self.files]:
            for function in [value for value in vars(module).values() if hasattr(value, "cache_clear")]:
                function.cache_clear()  # a remembered result runs no line
        self.stack, self.failed, began = [set()], False, time.perf_counter()
        sys.settrace(self.called), threading.settrace(self.called)
        try:
            result = yield
        finally:
            sys.settrace(None), threading.settrace(None)
        used = [fixture for named in item._fixtureinfo.name2fixturedefs.values() for fixture in named]
        if not self.failed:
            lines = self.stack[0].union(*(self.fixtures[fixture] for fixture in used))
            self.tests[item.nodeid] = [time.perf_counter() - began, sorted(lines)]
        return result

    def pytest_runtest_logreport(self, report):
        self.failed |= not report.passed


def in_a_fork(work: Callable[[], int], seconds: float, log: Path) -> int | None:
    """Exit code of the work in a process of its own, with what is loaded so far; None where it is out of time."""
    sys.stdout.flush()
    if not (child := os.fork()):
        os.setsid()
        with open(log, "w") as out:
            os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
        os._exit(work())
    until = time.monotonic() + seconds
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):  # and what the tests started
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(done[1]) if done[0] else os.waitpid(child, 0)[0] and None


def pytest_in(copy: Path, *arguments: object, plugins: tuple = ()) -> int:
    os.chdir(copy)
    sys.path[0] = str(copy)  # not benchmarks/, whose names others have as well
    always = [
        "-x",
        "-q",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"--rootdir={copy}",
        f"--basetemp={copy.parent}/tmp",
    ]
    return int(pytest.main([*always, *map(str, arguments)], plugins=plugins))


def touched(copy: Path, store: Path) -> dict[str, list]:
    """Trace's tests, by id, of all test files. What is in the store is as it was for the same product and tests."""
    store.mkdir(parents=True, exist_ok=True)
    shared = [*copy.glob("*.py"), *copy.glob("report/*.py")] + [
        f for f in copy.glob("tests/**/*.py") if f.stem[:5] != "test_"
    ]
    product, tests = b"".join(file.read_bytes() for file in sorted(shared)), {}
    for file in sorted(copy.glob("tests/**/test_*.py")):
        name = file.relative_to(copy)
        known = store / f"{file.stem}-{hashlib.sha256(product + file.read_bytes()).hexdigest()[:16]}.json"

        def trace(name: Path = name, known: Path = known) -> int:
            plugin = Trace(copy)
            code = pytest_in(copy, "--maxfail=1000", name, plugins=(plugin,))
            known.write_text(json.dumps(plugin.tests))
            return code

        if not known.exists():
            began = time.monotonic()
            code = in_a_fork(trace, 1800, store / f"{file.stem}.log")
            print(f"traced {name} in {time.monotonic() - began:.0f} s, exit code {code}", flush=True)
        tests |= json.loads(known.read_text()) if known.exists() else {}
    return tests


def choose(mutant: Mutant, tests: dict[str, list], budget: float) -> tuple[list[str], float]:
    """The tests that touch it, of the test file of its name first and quickest first, and their seconds."""
    own, chosen, total = f"test_{Path(mutant.file).stem}.py::", [], 0.0
    first, last = mutant.lines
    for name in sorted(tests, key=lambda name: (own not in name, tests[name][0])):
        seconds, lines = tests[name]
        if total + seconds <= budget and any(file == mutant.file and first <= n <= last for file, n in lines):
            chosen.append(name)
            total += seconds
    return chosen, total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="how many errors (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=30, help="seconds of tests an error (default: %(default)s)")
    parser.add_argument("--only", default="", help="errors of the files with this in their names")
    parser.add_argument("--map", type=Path, default=Path(tempfile.gettempdir()) / "ftcompare-mutants", help="folder")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True  # a file changed twice in a second would be taken for its first form
    for module in ("torch", "torchvision", "PIL.Image", "scipy.stats", "sklearn.metrics"):  # once, not in each fork
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    everything = [mutant for file in FILES if args.only in file for mutant in mutants_of(file)]
    rng, step = random.Random(args.seed), len(everything) / args.n
    sample = [everything[int((i + rng.random()) * step)] for i in range(args.n)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", "shared"))
        tests = touched(copy, args.map)
        control = [name for mutant in sample[:: args.n // 10 or 1] for name in choose(mutant, tests, 5)[0]]
        if in_a_fork(lambda: pytest_in(copy, *dict.fromkeys(control)), 600, copy / "log"):
            sys.exit("without any error the tests fail:\n" + (copy / "log").read_text()[-2000:])
        print(f"{len(everything)} errors to choose from; {len(tests)} tests", flush=True)
        return judge(sample, copy, tests, args.budget)


def judge(sample: list[Mutant], copy: Path, tests: dict[str, list], budget: float) -> int:
    """Puts each in, prints those that live and how many did. Returns the exit code."""
    ended, lived, began = Counter(), Counter(), time.monotonic()
    for mutant in sample:
        chosen, seconds = choose(mutant, tests, budget)
        number, old, new = mutant.change()
        reason = EQUIVALENT.get((mutant.file, old, new))
        code = 0
        if chosen and not reason:
            (copy / mutant.file).write_bytes(mutant.source())
            code = in_a_fork(lambda chosen=chosen: pytest_in(copy, *chosen), 30 + 5 * seconds, copy / "log")
            shutil.copy(ROOT / mutant.file, copy / mutant.file)
        how = (
            {0: "lived", 1: "failed", None: "out of time"}.get(code, "broke the import") if not reason else "equivalent"
        )
        ended[how] += 1
        if not code:
            lived[mutant.file] += not reason
            passed = f"{len(chosen)} tests of {seconds:.0f} s pass"
            print(f"{mutant.file}:{number}\n- {old}\n+ {new}\n  {reason or passed}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{', '.join(f'{n} {how}' for how, n in ended.items())}, of {len(sample)}, in {minutes:.0f} minutes")
    print(f"{ended['lived'] / len(sample):.1%} lived: {dict(lived)}")
    return int(ended["lived"] >= 0.05 * len(sample))


if __name__ == "__main__":
    sys.exit(main())
