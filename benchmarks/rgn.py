"""Claim: Auto-RGN's norms cost one reading of weights and gradients, and a small share of a training step.

    python benchmarks/rgn.py                             # about 3 minutes on 2 cores; --arch, --device cuda

prints for ResNet-50, DenseNet-121 and VGG-19 the time to get the norm of every weight and of its gradient
    loop       .norm().item() for each tensor, as the public Auto-RGN code has it
    foreach    torch._foreach_norm twice, each stacked
    reference  strategies.grad_weight_norms
    native     csrc/ with the tensors passed from Python
    held       csrc/ with the parameters held in C++: what a training run uses
    floor      the same bytes read once, torch's sum over one flat tensor, in the same run
as median and best of runs that take turns, in ms and against the floor and foreach, with the largest error of
a norm against float64; then a training step's time and what share of it `held` is; last the registers and
spills of the CUDA kernels as ptxas prints them, if there is a toolkit. Run it on a machine that does nothing
else: the load that it prints should be below 0.5. On CUDA: the GPU's time from a cold L2, and the host's.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from csrc import loader
from strategies import grad_weight_norms

ARCHS = ("resnet50", "densenet121", "vgg19")
STEP = {"cpu": (16, 64), "cuda": (64, 224)}  # batch size, image size
FLUSH_BYTES = 512 * 2**20  # more than any L2


# ---- contenders ----


def contenders(parameters, native):
    """name -> function that returns the norms of the gradients and of the weights, one for each tensor."""
    weights, grads = [p.detach() for p in parameters], [p.grad for p in parameters]
    each = torch.arange(len(weights), device=weights[0].device)
    held = native.hold(parameters, each, len(each))
    return {
        "loop": lambda: tuple([t.norm().item() for t in tensors] for tensors in (grads, weights)),
        "foreach": lambda: tuple(torch.stack(torch._foreach_norm(tensors)) for tensors in (grads, weights)),
        "reference": lambda: grad_weight_norms(weights, grads, each, len(each)),
        "native": lambda: native(weights, grads, each, len(each)),
        "held": held.norms,
    }


def largest_error(norms, parameters):
    """Of all norms, relative to float64; a norm of zero is left out."""
    worst = 0.0
    measured = [p.grad for p in parameters], [p.detach() for p in parameters]
    for got, tensors in zip(norms, measured, strict=True):
        want = torch.stack([t.double().norm() for t in tensors]).cpu()
        error = (torch.as_tensor(got, dtype=torch.float64).cpu() / want - 1)[want > 0]
        worst = max(worst, error.abs().max().item())
    return worst


# ---- timing ----


def seconds(function, device):
    """(elapsed, host): on CUDA the GPU's time from a cold L2 and the time until the host is free again."""
    if device == "cpu":
        start = time.perf_counter()
        function()
        elapsed = time.perf_counter() - start
        return elapsed, elapsed
    torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device).zero_()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    start = time.perf_counter()
    function()
    host = time.perf_counter() - start
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3, host


@torch.no_grad()
def take_turns(functions, repeats, device):
    """name -> [(elapsed, host), ...]. In turns, so that what else the machine does meets all alike."""
    times = {name: [] for name in functions}
    for turn in range(repeats + 3):
        for name, function in functions.items():
            measured = seconds(function, device)
            if turn >= 3:  # the first ones warm up
                times[name].append(measured)
    return times


def training_step(model, device):
    """A function that does one step of fine-tuning: forward, backward, fused AdamW; bf16 on CUDA."""
    batch, size = STEP[device]
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step():
        with torch.enable_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


# ---- tables ----


def measure(arch, repeats, device):
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, arch)().to(device, memory_format=torch.channels_last)
    parameters = list(model.parameters())
    for p in parameters:
        p.grad = torch.randn_like(p) * 1e-3
    size = 2 * sum(p.numel() * p.element_size() for p in parameters)
    flat = torch.randn(size // 4, device=device)
    functions = contenders(parameters, loader.load("on", device))
    times = take_turns(functions | {"floor": flat.sum}, repeats, device)
    median = {name: statistics.median(elapsed for elapsed, _ in times[name]) for name in times}
    best = {name: min(elapsed for elapsed, _ in times[name]) for name in times}
    host = {name: statistics.median(host for _, host in times[name]) for name in times}

    print(f"\n{arch}: {len(parameters)} tensors, {size / 1e6:.1f} MB of weights and gradients, {device}")
    print(f"{'':11}median ms  x floor  foreach/it   best ms  x floor  foreach/it   host ms    error")
    for name in times:
        columns = [
            f"{of[name] * 1e3:9.3f}{of[name] / of['floor']:9.2f}{of['foreach'] / of[name]:12.2f}"
            for of in (median, best)
        ]
        error = f"{largest_error(functions[name](), parameters):9.1e}" if name in functions else ""
        print(f"{name:11}{' '.join(columns)}{host[name] * 1e3:10.3f}{error}")
    del flat
    steps = take_turns({"step": training_step(model, device)}, max(3, repeats // 10), device)["step"]
    step = statistics.median(elapsed for elapsed, _ in steps)
    batch, pixels = STEP[device]
    share = median["held"] / step
    print(f"training step, batch {batch}, {pixels} px: {step * 1e3:.0f} ms; held is {share:.2%} of it")


def ptxas_report(architectures=("80", "90")):
    """What nvcc says of csrc/rgn_cuda.cu's kernels: its output, and for each (architecture, kernel,
    registers, bytes of spill stores, of spill loads). RuntimeError with nvcc's message if it fails."""
    command = [loader.cuda_home() / "bin" / "nvcc", *loader.NVCC_FLAGS]
    command += "-std=c++20 -DFTCOMPARE_KERNELS_ONLY --expt-relaxed-constexpr -Xptxas -v --threads 2".split()
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    command += [f"-I{path}" for path in loader.cpp_extension().include_paths()]
    with tempfile.TemporaryDirectory() as folder:
        command += ["-c", loader.SOURCES / "rgn_cuda.cu", "-o", f"{folder}/rgn_cuda.o"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(output)
    kernel = re.compile(
        r"entry function '\w*?\d(chunk_squares|unit_norms|relative_ratios)(?:ILi(\d+)E)?\w*' for '(sm_\d+)'"
        r".*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        re.DOTALL,
    )
    return output, sorted(
        (architecture, f"{name}<{capacity}>" if capacity else name, int(registers), int(stores), int(loads))
        for name, capacity, architecture, stores, loads, registers in kernel.findall(output)
    )


def main():
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--arch", nargs="+", default=ARCHS, help="torchvision's names")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    print(f"torch {torch.__version__}, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    if args.device == "cuda":
        print(torch.cuda.get_device_name())
    for arch in args.arch:
        measure(arch, args.repeats, args.device)
    if loader.cuda_home():
        print(f"\n{'rgn_cuda.cu':24}{'registers':>10}{'spilled bytes':>15}")
        for architecture, name, registers, stores, loads in ptxas_report()[1]:
            print(f"{architecture} {name:18}{registers:10}{stores + loads:15}")
    else:
        print("\nrgn_cuda.cu: there is no CUDA toolkit")


if __name__ == "__main__":
    main()
