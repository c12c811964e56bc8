"""csrc/: Auto-RGN's kernels against float64, numbers worked by hand and the reference; their loader.
python -m pytest tests/test_rgn.py      45 s, a third of it the first build; skipped without a compiler"""

import gc
import math
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.rgn import ptxas_report
from csrc import loader
from strategies import Hyperparameters, grad_weight_norms, make_plan, relative_ratios

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def native_or_skip(device_type):
    if reason := loader.obstacle(device_type):
        pytest.skip(f"{reason}: rgn_cuda.cu is compiled here at most, not run" if device_type == "cuda" else reason)
    return loader.load("on", device_type)


@pytest.fixture(scope="module")
def native():
    return native_or_skip("cpu")


@pytest.fixture(scope="module")
def native_cuda():
    return native_or_skip("cuda")


# ---- random lists of tensors ----


class Lists:
    """Weights and gradients of random size, start, layout and dtype, cut from one pool of normal numbers."""

    def __init__(self, seed, device="cpu", dtypes=DTYPES):
        self.rng = random.Random(seed)
        pool = torch.randn(3_100_000, generator=torch.Generator().manual_seed(seed))
        self.pools = {dtype: pool.to(device, dtype) for dtype in dtypes}

    def tensor(self, numel):
        pool = self.pools[self.rng.choice(list(self.pools))]
        start = self.rng.randrange(1000)  # not at a multiple of 16 bytes
        flat = pool[start : start + numel]
        layouts = {"flat": flat, "holes": pool[start : start + 3 * numel : 3], "expanded": pool[start].expand(numel)}
        if numel and numel % 12 == 0:
            layouts["transposed"] = flat.view(-1, 12).t()
            layouts["channels_last"] = flat.view(-1, 2, 2, 3).permute(0, 3, 1, 2)
        return layouts[self.rng.choice(list(layouts))]

    def draw(self):
        """weights, grads with some None, zero and non-finite ones, unit, units"""
        weights, grads = [], []
        for _ in range(self.rng.randint(1, 5)):
            largest = 1e6 if self.rng.random() < 0.004 else 1e4
            numel = 0 if self.rng.random() < 0.1 else int(largest ** self.rng.random())
            numel -= numel % 12 if self.rng.random() < 0.5 else 0
            kind = self.rng.choice(["normal"] * 7 + ["none", "zero", "inf", "nan"])
            weights.append(self.tensor(numel))
            grad = self.tensor(numel)
            if kind == "zero":
                grad = torch.zeros_like(grad)
            elif kind in ("inf", "nan") and numel:
                grad = grad.reshape(-1).clone()
                grad[self.rng.randrange(numel)] = float(kind)
            grads.append(None if kind == "none" else grad)
        units = self.rng.randint(1, len(weights))
        unit = torch.tensor([self.rng.randrange(units) for _ in weights], device=weights[0].device)
        return weights, grads, unit, units


def exact(tensors, unit, units):
    """Norms of the units in float64, on the CPU."""
    squares = torch.zeros(units, dtype=torch.float64)
    for tensor, u in zip(tensors, unit.tolist(), strict=True):
        if tensor is not None:
            squares[u] += tensor.cpu().double().square().sum()
    return squares.sqrt()


def assert_norms(got, weights, grads, unit, units, tolerance=1e-6):
    for norms, tensors in zip(got, (grads, weights), strict=True):
        assert norms.dtype == torch.float64 and norms.shape == (units,)
        torch.testing.assert_close(norms.cpu(), exact(tensors, unit, units), rtol=tolerance, atol=0, equal_nan=True)


# ---- norms ----


def test_norms_worked_by_hand(native):
    weights = [torch.tensor([3.0, 4.0]), torch.zeros(5), torch.tensor(-2.0), torch.ones(2, 2)]
    grads = [torch.tensor([5.0, 12.0]), None, torch.tensor(0.0), torch.tensor([[1.0, 1.0], [1.0, -1.0]])]
    unit = torch.tensor([2, 1, 0, 2])
    for norms in (native, grad_weight_norms):
        grad_norms, weight_norms = norms(weights, grads, unit, 4)
        assert grad_norms.tolist() == pytest.approx([0, 0, math.sqrt(169 + 4), 0], rel=1e-15)
        assert weight_norms.tolist() == pytest.approx([2, 0, math.sqrt(25 + 4), 0], rel=1e-15)


@pytest.mark.parametrize("seed", range(4))
def test_norms_of_random_lists_agree_with_float64(native, seed):
    lists = Lists(seed)
    for _ in range(750):
        drawn = lists.draw()
        assert_norms(native(*drawn), *drawn)
    for _ in range(50):
        drawn = lists.draw()
        assert_norms(grad_weight_norms(*drawn), *drawn)


@pytest.mark.parametrize("value", [0.1, 1e-42, 1e-30, 1e-20, 1e25, 3e38])
def test_norms_over_the_range_of_float32(native, value):
    """Equal numbers are the worst case of rounding; the squares of the others leave the range of float32."""
    weights = [torch.full((n,), value) for n in (1, 63, 64, 1000, 300_001)]
    drawn = weights, weights, torch.arange(5), 5
    assert_norms(native(*drawn), *drawn)


def test_norms_are_the_same_bits_for_any_number_of_threads(native):
    lists = Lists(5)
    tensors = [lists.tensor(n) for n in (1_000_000, 7, 333_333, 64, 2048, 32769)]
    grads = [t.reshape(-1).flip(0) for t in tensors]
    results = []
    try:
        for threads in (1, 2, 3, 2, 1):
            torch.set_num_threads(threads)
            results.append(torch.stack(native(tensors, grads, torch.tensor([0, 1, 0, 2, 1, 0]), 3)))
    finally:
        torch.set_num_threads(2)
    assert all(torch.equal(result, results[0]) for result in results)


def test_held_parameters_are_read_as_they_are_at_the_call(native):
    parameters = [nn.Parameter(torch.randn(n)) for n in (5, 70, 3)]
    unit = torch.tensor([1, 0, 1])
    held = native.hold(parameters, unit, 2)

    def agrees():
        with torch.no_grad():
            want = native(parameters, [p.grad for p in parameters], unit, 2)
        got = held.norms()
        return all(torch.equal(a, b) and not a.requires_grad for a, b in zip(got, want, strict=True)), got[0].tolist()

    assert agrees() == (True, [0, 0])  # no gradients yet
    for p in parameters:
        p.grad = torch.ones_like(p)
    assert agrees() == (True, pytest.approx([math.sqrt(70), math.sqrt(8)]))
    parameters[1].grad = None  # zero_grad
    parameters[0].grad = torch.full((5,), 2.0)  # moved
    parameters[2].data = torch.zeros(3, dtype=torch.float64)
    parameters[2].grad = None
    assert agrees() == (True, pytest.approx([0, math.sqrt(20)]))


@pytest.mark.parametrize(
    "weights, grads, unit, units, message",
    [
        ([], [], [], 1, "weights is an empty list"),
        ([torch.ones(2)], [], [0], 1, "there are 1 weights, but 0 grads"),
        ([torch.ones(2)], [torch.ones(3)], [0], 1, r"grads\[0\] has shape \[3\], but weights\[0\] has \[2\]"),
        ([torch.ones(2, dtype=torch.int32)], [None], [0], 1, r"weights\[0\] is Int"),
        ([torch.ones(2)], [torch.ones(2).to_sparse()], [0], 1, r"grads\[0\] is Sparse"),
        ([torch.ones(2)] * 2, [None] * 2, [0, 2], 2, r"unit\[1\] is 2; there are 2 units"),
        ([torch.ones(2)], [None], [0, 0], 1, r"unit is Long of shape \[2\]"),
    ],
)
def test_a_wrong_argument_is_named(native, weights, grads, unit, units, message):
    with pytest.raises(ValueError, match=message):
        native(weights, grads, torch.tensor(unit, dtype=torch.int64), units)


# ---- ratios ----

# r of unit 0: 1/2. Unit 1 has no weight: its layer, with unit 0, has sqrt(1 + 4) / 2. Unit 2, the head: 4/1.
# Unit 3 has none.
BY_HAND = ([1.0, 2.0, 4.0, 0.0], [2.0, 0.0, 1.0, 0.0], [0, 0, 2, 3], [False, False, True, False])


def ratio_arguments(grad_norms, weight_norms, layer, head):
    norms = (torch.tensor(values, dtype=torch.float64) for values in (grad_norms, weight_norms))
    return *norms, torch.tensor(layer), torch.tensor(head)


def test_ratios_worked_by_hand(native):
    arguments = ratio_arguments(*BY_HAND)
    by_hand = {"backbone": [1 / math.sqrt(5), 1, 1, 1], "all": [1 / 8, math.sqrt(5) / 8, 1, 1]}
    for norm, want in by_hand.items():
        ratios, trusted = native.relative_ratios(*arguments, norm)
        assert trusted.item() is True and ratios.tolist() == pytest.approx(want, rel=1e-15)


@pytest.mark.parametrize("grad_norms", [[0.0] * 4, [1.0, math.inf, 1.0, 1.0], [math.nan, 1.0, 1.0, 1.0]])
def test_gradients_that_say_nothing_are_not_trusted(native, grad_norms):
    ratios, trusted = native.relative_ratios(*ratio_arguments(grad_norms, *BY_HAND[1:]))
    assert trusted.item() is False and ratios.shape == (4,)


def random_ratio_arguments(rng, generator, device="cpu"):
    units = rng.choice([1, 2, 5, 40, 1023, 1025])
    grad_norms, weight_norms = (torch.rand(units, dtype=torch.float64, generator=generator) for _ in range(2))
    grad_norms[torch.rand(units, generator=generator) < 0.2] = 0
    weight_norms[torch.rand(units, generator=generator) < 0.3] = 0
    if rng.random() < 0.2:
        grad_norms[rng.randrange(units)] = rng.choice([math.inf, math.nan])
    layer = torch.randint(0, max(1, units // 2), (units,), generator=generator)
    head = torch.rand(units, generator=generator) < 0.1
    return [t.to(device) for t in (grad_norms, weight_norms, layer, head)]


def assert_ratios_agree_with_the_reference(native, device):
    rng, generator, trusted_ones = random.Random(0), torch.Generator().manual_seed(0), 0
    for _ in range(200):
        arguments = random_ratio_arguments(rng, generator, device)
        norm = rng.choice(["backbone", "all"])
        ratios, trusted = native.relative_ratios(*arguments, norm)
        want, want_trusted = relative_ratios(*arguments, norm)
        assert torch.equal(trusted, want_trusted)
        if trusted:
            trusted_ones += 1
            torch.testing.assert_close(ratios, want, rtol=1e-12, atol=0)
    assert 100 < trusted_ones < 200


def test_ratios_agree_with_the_reference(native):
    assert_ratios_agree_with_the_reference(native, "cpu")


@pytest.mark.parametrize(
    "changed, message",
    [
        ({0: torch.ones(4)}, "grad_norms is Float of shape"),
        ({2: torch.zeros(4, dtype=torch.int32)}, "layer is Int of shape"),
        ({3: torch.zeros(3, dtype=torch.bool)}, r"head is Bool of shape \[3\]"),
        ({2: torch.tensor([0, 1, 2, 4])}, r"layer\[3\] is 4; there are 4 units"),
    ],
)
def test_a_wrong_argument_of_the_ratios_is_named(native, changed, message):
    arguments = [changed.get(i, t) for i, t in enumerate(ratio_arguments(*BY_HAND))]
    with pytest.raises(ValueError, match=message):
        native.relative_ratios(*arguments)


# ---- as a PyTorch operator: compile, DDP ----


def test_opcheck(native):
    drawn = [torch.randn(3, 4), torch.randn(5)], [torch.randn(3, 4), None], torch.tensor([1, 0]), 2
    torch.library.opcheck(torch.ops.ftcompare.grad_weight_norms.default, drawn)
    torch.library.opcheck(torch.ops.ftcompare.relative_ratios.default, (*ratio_arguments(*BY_HAND), True))


def test_operators_inside_a_compiled_function(native):
    weights, grads = [torch.randn(3, 4), torch.randn(5)], [torch.randn(3, 4), None]
    layer, head = torch.arange(2), torch.zeros(2, dtype=torch.bool)

    def ratios(weights, grads):
        norms = torch.ops.ftcompare.grad_weight_norms(weights, grads, layer, 2)
        return torch.ops.ftcompare.relative_ratios(*norms, layer, head, True)[0] * 2

    compiled = torch.compile(ratios, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(weights, grads), ratios(weights, grads))


def rates_of_a_step(norms, wrap=lambda model: model, part=slice(None)):
    """Auto-RGN's rates after one step of a small network on a part of a fixed batch."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(200, 16), nn.ReLU(), nn.Linear(16, 4))
    images, labels = torch.randn(8, 3, 16, 16), torch.randint(0, 4, (8,))
    plan = make_plan("autorgn", model, epochs=1, lr=0.1)
    plan.hooks.norms = norms
    optimizer = torch.optim.SGD(plan.groups, lr=0.1)
    plan.begin_epoch(0)
    network = wrap(model)  # DDP's wrapper must outlive the backward pass
    nn.functional.cross_entropy(network(images[part]), labels[part]).backward()
    plan.after_backward()
    plan.set_rates(optimizer)
    return [group["lr"] for group in optimizer.param_groups]


def test_a_compiled_step_has_the_same_rates(native):
    reference = rates_of_a_step(grad_weight_norms)
    assert max(reference) == 0.1 and min(reference) < 0.05  # they do differ from layer to layer
    assert rates_of_a_step(native) == pytest.approx(reference, rel=1e-6)
    compiled = rates_of_a_step(native, lambda model: torch.compile(model, backend="aot_eager"))
    assert compiled == pytest.approx(reference, rel=1e-5)


def _rates_under_ddp(rank, folder):
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    native = loader.load("on")
    half = slice(4 * rank, 4 * rank + 4)
    rates = rates_of_a_step(native, nn.parallel.DistributedDataParallel, half)
    torch.save(rates, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("norm", ["backbone", "all"])
@pytest.mark.parametrize("unit", ["layer", "tensor", "block"])
def test_a_plan_that_uses_the_kernel_trains_like_one_that_does_not(native, unit, norm):
    tables, weights = [], []
    for kernel in (None, native):
        torch.manual_seed(0)
        body = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()  # a bias had noise for a gradient
        model = nn.Sequential(*body, nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 2))
        hyper = Hyperparameters(rgn_unit=unit, rgn_norm=norm)
        plan = make_plan("autorgn", model, epochs=3, hyper=hyper)
        if kernel:
            plan.use_kernel(kernel)
        for epoch in range(3):
            if plan.begin_epoch(epoch):
                optimizer = torch.optim.AdamW(plan.groups)
            for step in range(3):
                x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(10 * epoch + step))
                nn.functional.cross_entropy(model(x), torch.arange(6) % 2).backward()
                if epoch == 1 and step == 1:
                    model[0].weight.grad.fill_(float("nan"))  # counted, and the step's norms left out
                plan.after_backward()
                plan.set_rates(optimizer)
                if not (epoch == 1 and step == 1):
                    optimizer.step()
                optimizer.zero_grad()
        assert plan.skipped_steps() == 1
        tables.append(torch.tensor([[row["ratio"], row["grad_norm"], row["weight_norm"]] for row in plan.table()]))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_a_plan_that_uses_the_kernel_frees_its_weights_when_it_is_dropped(native):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    plan = make_plan("autorgn", model, epochs=1)
    plan.use_kernel(native)
    plan.begin_epoch(0)
    model(torch.ones(1, 3)).sum().backward()
    plan.after_backward()
    kept = [weakref.ref(p) for p in model.parameters()]
    gc.collect()
    gc.disable()
    try:
        del model, plan
        assert [alive() for alive in kept] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch.distributed is not available")
def test_a_ddp_step_has_the_same_rates_on_both_ranks_and_in_one_process(native, tmp_path):
    torch.multiprocessing.spawn(_rates_under_ddp, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    assert first == pytest.approx(rates_of_a_step(grad_weight_norms), rel=1e-5)


# ---- the loader ----


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A copy of csrc/ whose rgn.cpp builds in a moment; nothing of it is built yet."""
    if reason := loader.missing_tool("cpu"):
        pytest.skip(reason)
    folder = tmp_path / "csrc"
    folder.mkdir()
    shutil.copy(loader.SOURCES / "loader.py", folder)
    (folder / "rgn.h").write_text("")
    (folder / "rgn.cpp").write_text(f"int stub() {{ return 42; }}  // {tmp_path}\n")
    monkeypatch.setattr(loader, "SOURCES", folder)
    monkeypatch.setattr(loader, "_told", set())
    monkeypatch.setattr(loader, "_builders", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FTCOMPARE_CACHE", raising=False)
    return folder


def libraries(folder):
    return sorted(path.name for path in folder.rglob("*.so"))


def test_a_build_is_kept_and_made_anew_when_something_changes(stub, monkeypatch):
    first = loader.find_or_build("rgn.cpp")
    stamp = first.stat().st_mtime_ns
    assert loader.find_or_build("rgn.cpp") == first and first.stat().st_mtime_ns == stamp
    assert loader.load("on").ran == f"csrc cpu {first.stem.removeprefix('rgn-')}"
    names = {first.name}
    (stub / "rgn.h").write_text("// another")
    names.add(loader._library_name("rgn.cpp"))
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    names.add(loader._library_name("rgn.cpp"))
    monkeypatch.setattr(loader, "_cxx_flags", lambda: ["-O0"])
    names.add(loader._library_name("rgn.cpp"))
    assert len(names) == 4
    assert libraries(stub) == [first.name]


def test_what_was_built_is_loaded_without_a_compiler(stub, monkeypatch):
    built = loader.load("on")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(loader, "_path_with_scripts", lambda: "")
    assert loader.missing_tool("cpu") == "there is no C++ compiler (c++)"
    assert loader.load("on") == loader.load("auto") == built


def test_off_builds_nothing(stub, capsys):
    assert loader.load("off") is None
    assert libraries(stub.parent) == [] and capsys.readouterr().out == ""


def test_an_unknown_mode_is_named(stub):
    with pytest.raises(ValueError, match="unknown mode 'fast'.*auto, on, off"):
        loader.load("fast")


def test_without_a_compiler_auto_says_so_once_and_on_raises(stub, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert loader.load("auto") is None and loader.load("auto") is None
    assert capsys.readouterr().out.splitlines() == [
        "native kernels: there is no C++ compiler (no-such-compiler); the PyTorch reference does the work"
    ]
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        loader.load("on")


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_build_that_fails_is_an_error_with_the_compilers_message(stub, mode):
    (stub / "rgn.cpp").write_text('#error "of the test"\n')
    with pytest.raises(RuntimeError, match="rgn.cpp:1:2: error: #error .*of the test"):
        loader.load(mode)
    assert libraries(stub.parent) == []


def test_ninja_is_found_beside_the_interpreter(stub, monkeypatch):
    if not (Path(sysconfig.get_path("scripts")) / "ninja").exists():
        pytest.skip("ninja is not installed beside the interpreter")
    tools = stub.parent / "tools"
    tools.mkdir()
    for tool in ("c++", "as", "ld", "which"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(tools))
    assert shutil.which("ninja") is None
    assert loader.find_or_build("rgn.cpp").exists()
    assert os.environ["PATH"] == str(tools)


def test_a_folder_that_cannot_be_written_is_built_for_in_the_cache(stub, monkeypatch):
    (stub / "build").write_text("a file in the folder's place stops root, too")
    library = loader.find_or_build("rgn.cpp")
    assert library.parent == stub.parent / "cache" / "ftcompare" and libraries(stub) == []
    assert loader.find_or_build("rgn.cpp") == library


def test_no_folder_to_build_in_is_an_obstacle(stub, monkeypatch, capsys):
    (stub / "file").write_text("")
    monkeypatch.setenv("FTCOMPARE_CACHE", str(stub / "file" / "below"))
    assert loader.load("auto") is None and loader.load("auto") is None
    assert capsys.readouterr().out == (
        f"native kernels: cannot write to {stub}/file/below: set FTCOMPARE_CACHE to another folder; "
        "the PyTorch reference does the work\n"
    )
    with pytest.raises(RuntimeError, match="not available: cannot write to"):
        loader.load("on")
    with pytest.raises(RuntimeError, match="cannot write to"):
        loader.find_or_build("rgn.cpp")


def script(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    file.chmod(0o755)
    return file


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_compiler_that_does_not_run_is_an_error_with_its_output(stub, mode, monkeypatch):
    compiler = script(stub.parent / "c++", "echo out of the licence", "echo out of order >&2", "exit 3")
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(RuntimeError, match="out of the licence|out of order"):
        loader.load(mode)
    assert libraries(stub.parent) == []


def test_an_nvcc_that_does_not_run_is_an_error_with_its_output(stub, monkeypatch):
    nvcc = script(stub.parent / "cuda/bin/nvcc", "echo no such driver >&2", "exit 3")
    (stub.parent / "cuda/include").mkdir()
    (stub.parent / "cuda/include/cuda_runtime.h").write_text("")
    monkeypatch.setenv("CUDA_HOME", str(stub.parent / "cuda"))
    with pytest.raises(RuntimeError, match=f"asking {nvcc} for its version failed: .*\nno such driver"):
        loader.missing_tool("cuda")


def test_a_library_that_cannot_be_loaded_is_an_error(stub):
    library = stub / "build" / loader._library_name("rgn.cpp")
    library.parent.mkdir(exist_ok=True)
    library.write_text("no library")
    with pytest.raises(RuntimeError, match=f"loading {library} failed"):
        loader.load("auto")


def test_two_processes_that_build_at_once_build_once(stub):
    counter = stub.parent / "c++"
    counter.write_text(f'#!/bin/sh\ncase "$*" in *rgn.cpp*) echo >> {stub}/compiled; sleep 1;; esac\nexec c++ "$@"\n')
    counter.chmod(0o755)
    command = [sys.executable, "-c", "from csrc.loader import load; print(load('on').ran)"]
    environment = os.environ | {"CXX": str(counter)}
    running = [
        subprocess.Popen(command, cwd=stub.parent, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate()[0].splitlines()[-1] for process in running]
    assert [process.returncode for process in running] == [0, 0] and outputs[0] == outputs[1]
    assert len((stub / "compiled").read_text().splitlines()) == 1 and len(libraries(stub)) == 1


def test_a_build_goes_on_meanwhile_and_is_waited_for(stub):
    builder = loader.build_meanwhile("cpu")
    assert builder is loader.build_meanwhile("cpu")  # one, however often it is asked for
    native = loader.load("on")  # waits
    builder.join()
    (built,) = libraries(stub)
    assert native.ran.rpartition(" ")[2] in built
    loader._builders.clear()
    assert loader.build_meanwhile("cpu") is None  # it is there


def test_a_build_that_fails_meanwhile_is_told_by_load(stub, monkeypatch):
    (stub / "rgn.cpp").write_text('#error "of the test"\n')
    loader.build_meanwhile("cpu").join()
    with pytest.raises(RuntimeError, match="of the test"):
        loader.load("auto")
    monkeypatch.setattr(loader, "_builders", {})
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert loader.build_meanwhile("cpu") is None


# ---- CUDA ----


def test_cuda_kernels_compile_without_warnings_and_without_spills():
    """Registers and spills as ptxas prints them; on a machine with a GPU the loader builds the whole file."""
    if reason := loader.missing_tool("cpu"):
        pytest.skip(reason)
    if loader.cuda_home() is None:
        pytest.skip("there is no CUDA toolkit")
    output, rows = ptxas_report()
    assert "warning" not in output
    kernels = {"chunk_squares<128>", "chunk_squares<512>", "unit_norms", "relative_ratios"}
    assert {row[:2] for row in rows} == {(sm, kernel) for sm in ("sm_80", "sm_90") for kernel in kernels}
    assert all(stores == loads == 0 for *_, stores, loads in rows)


def test_cuda_norms_of_random_lists_agree_with_float64(native_cuda):
    lists = Lists(0, "cuda")
    for _ in range(2000):
        drawn = lists.draw()
        assert_norms(native_cuda(*drawn), *drawn)


@pytest.mark.parametrize("value", [0.1, 1e-42, 1e-30, 1e-20, 1e25, 3e38])
def test_cuda_norms_over_the_range_of_float32(native_cuda, value):
    weights = [torch.full((n,), value, device="cuda") for n in (1, 63, 64, 1000, 300_001)]
    drawn = weights, weights, torch.arange(5, device="cuda"), 5
    assert_norms(native_cuda(*drawn), *drawn)


@pytest.mark.parametrize("tensors", [128, 129, 512, 513, 1500])  # around the sizes of one launch's arguments
def test_cuda_norms_of_many_tensors(native_cuda, tensors):
    lists = Lists(tensors, "cuda")
    weights, grads = ([lists.tensor(i % 5000) for i in range(tensors)] for _ in range(2))
    unit = torch.arange(tensors, device="cuda").flip(0) // 2
    drawn = weights, grads, unit, tensors // 2 + 1
    assert_norms(native_cuda(*drawn), *drawn)


def test_cuda_norms_of_more_than_2_to_the_31_elements(native_cuda):
    numel = 2**31 + 12345
    if torch.cuda.mem_get_info()[0] < 3 * numel:
        pytest.skip("the device has too little memory")
    weight = torch.full((numel,), 0.5, dtype=torch.bfloat16, device="cuda")
    norms = native_cuda([weight], [None], torch.zeros(1, dtype=torch.int64, device="cuda"), 1)
    assert norms[1].item() == pytest.approx(0.5 * math.sqrt(numel), rel=1e-12)


def test_cuda_ratios_agree_with_the_reference(native_cuda):
    assert_ratios_agree_with_the_reference(native_cuda, "cuda")


def test_cuda_is_the_same_bits_each_run_never_waits_and_works_on_a_side_stream(native_cuda):
    lists = Lists(1, "cuda")
    tensors = [lists.tensor(n) for n in (1_000_000, 7, 333_333)]
    unit = torch.tensor([0, 1, 0], device="cuda")
    layer, head = torch.arange(2, device="cuda"), torch.zeros(2, dtype=torch.bool, device="cuda")

    def run():
        norms = native_cuda(tensors, tensors, unit, 2)
        return torch.stack([*norms, native_cuda.relative_ratios(*norms, layer, head)[0]])

    first = run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        runs = [run() for _ in range(20)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            runs.append(run())
        torch.cuda.current_stream().wait_stream(stream)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(result, first) for result in runs)


def test_cuda_graph_replays_with_new_values(native_cuda):
    weights = [torch.randn(n, device="cuda") for n in (70_000, 5)]
    grads = [torch.randn_like(w) for w in weights]
    unit = torch.arange(2, device="cuda")
    native_cuda(weights, grads, unit, 2)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        norms = native_cuda(weights, grads, unit, 2)
    for _ in range(3):
        for t in (*weights, *grads):
            t.normal_()
        graph.replay()
        assert_norms(norms, weights, grads, unit, 2)


def test_cuda_device_that_is_not_the_current_one(native_cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is only one CUDA device")
    for device in ("cuda:1", "cuda:0"):
        weights = [torch.randn(100, device=device)]
        drawn = weights, weights, torch.zeros(1, dtype=torch.int64, device=device), 1
        assert_norms(native_cuda(*drawn), *drawn)
