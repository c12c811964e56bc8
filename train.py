"""The training loop: a recipe, a schedule, a step, an epoch, a run."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import metrics
import runs
import strategies
from datasets import Index
from prepare import Data, UsageError


class Diverged(RuntimeError):
    """Training that gave a loss that is no finite number."""


def schedule(step: int, steps: int, warmup: float) -> float:
    """Cosine from 1 to 0 over `steps`, after a linear rise over the first `warmup` share. Closed form."""
    step = min(step, steps)
    rise = max(1, round(steps * warmup)) if warmup > 0 else 0
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def steps_of(rows: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The epoch's batches in an order from (seed, epoch), the same for every strategy. Of nearly equal size,
    so that no lone image is left, which BatchNorm cannot normalise."""
    return parts_of(np.random.default_rng([seed, epoch]).permutation(rows), size)


def parts_of(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Parts of nearly equal length, at most `size`; at most one more where a lone image would be left."""
    parts = math.ceil(len(rows) / size)
    return np.array_split(rows, parts if size == 1 else max(1, min(parts, len(rows) // 2)))


def make_criterion(index: Index, train_rows: np.ndarray, class_weights: str, device: torch.device):
    """(loss, weight): loss(logits, labels) is a sum, weight(labels) what to divide it by, so that a batch can
    be taken in parts. Cross-entropy, or binary cross-entropy with unknown labels (nan) masked out."""
    labels = index.labels[train_rows]
    if index.task == "multiclass":
        counts = np.bincount(labels, minlength=len(index.classes))
        factors = (
            len(labels) / (len(counts) * np.maximum(counts, 1))
            if class_weights == "balanced"
            else np.ones(len(counts))
        )
        per_class = torch.tensor(factors, dtype=torch.float32)
        on_device = per_class.to(device)
        return (
            lambda logits, y: nn.functional.cross_entropy(logits, y, weight=on_device, reduction="sum"),
            lambda y: float(per_class[y].sum()),
        )
    positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    factors = negative / np.maximum(positive, 1) if class_weights == "balanced" else np.ones(labels.shape[1])
    on_device = torch.tensor(factors, dtype=torch.float32, device=device)

    def masked_bce(logits, y):
        known = ~torch.isnan(y)
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, torch.where(known, y, 0.0), pos_weight=on_device, reduction="none"
        )
        return (loss * known).sum()

    return masked_bce, lambda y: max(1.0, float((~torch.isnan(y)).sum()))


OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def make_optimizer(opt: str, groups: list[dict], device: torch.device) -> torch.optim.Optimizer:
    momentum = {"momentum": 0.9} if opt == "sgd" else {}
    optimizer = OPTIMIZERS[opt](groups, **momentum, fused=device.type in ("cpu", "cuda"))
    if opt == "sgd":
        optimizer.register_step_pre_hook(start_momentum)
    return optimizer


def start_momentum(optimizer: torch.optim.Optimizer, *_) -> None:
    """Momentum starts at 0, which makes the first step's 0.9 * 0 + g the g that it is by definition. Fused
    SGD takes empty memory instead and relies on its first step to fill it (torch/optim/sgd.py, _fused_sgd:
    empty_like, is_first_step); a GradScaler that skips this step (found_inf) leaves it as it was, and the
    second step trains on what lay there. Adam and AdamW start at zeros and take a skipped step back
    (torch/optim/adam.py, _init_group and _fused_adam)."""
    for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        if optimizer.state[p].get("momentum_buffer") is None:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)


AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Recipe:
    """How to train, the same for every strategy."""

    epochs: int
    batch_size: int
    device: torch.device
    seed: int = 0
    opt: str = "adamw"
    augment: str = "light"
    class_weights: str = "none"
    warmup: float = 0.05  # share of the steps
    schedule_epochs: int | None = None  # length of the cosine; None: epochs
    patience: int = 0  # epochs without a better validation metric before the end; 0: never
    grad_accum: int = 1  # batches an optimizer step
    clip_grad: float = 0.0  # largest norm; 0: off
    amp: torch.dtype | None = None
    compile: bool = False

    def autocast(self):
        return torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None)


def train_epoch(
    net, plan, optimizer, scaler, data: Data, recipe: Recipe, criterion, epoch: int, progress
) -> tuple[float, int]:
    """One epoch. Returns (mean training loss, optimizer steps)."""
    loss_of, weight_of = criterion
    labels, device = torch.from_numpy(data.index.labels), recipe.device
    batches = steps_of(data.rows["train"], recipe.batch_size * recipe.grad_accum, recipe.seed, epoch)
    first, span = plan.schedule_span(epoch)
    length = round(len(batches) * span * (recipe.schedule_epochs or recipe.epochs) / recipe.epochs)
    total, seen, started = torch.zeros((), device=device), 0, time.perf_counter()
    for step, rows in enumerate(batches):
        whole = weight_of(labels[rows])
        for part in parts_of(rows, recipe.batch_size):
            draws = random_stream(recipe.seed, epoch, step, int(part[0]))
            with recipe.autocast():
                logits = net(data.images(part, device, augment=recipe.augment, generator=draws))
            loss = loss_of(logits.float(), labels[part].to(device, non_blocking=True)) / whole
            scaler.scale(loss).backward()
            total += loss.detach()  # read once an epoch: reading it here would wait for the device
        scaler.unscale_(optimizer)
        plan.after_backward()
        if recipe.clip_grad:
            nn.utils.clip_grad_norm_(
                [p for g in optimizer.param_groups for p in g["params"]], recipe.clip_grad
            )
        plan.set_rates(optimizer, schedule((epoch - first) * len(batches) + step, length, recipe.warmup))
        scale = scaler.get_scale()  # 1 without fp16; with it, reading it waits for the device
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale > 0:  # it falls where the step overflowed and was skipped
            plan.after_step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        seen += len(rows)
        progress(step + 1, len(batches), seen / (time.perf_counter() - started))
    return total.item() / len(batches), len(batches)


def run(
    model: nn.Module, plan: strategies.Plan, data: Data, run: runs.RunFolder, recipe: Recipe, judge: Callable,
    meta: dict, after_epoch: Callable = lambda row: None, progress: Callable = lambda step, steps, rate: None,
) -> None:  # fmt: skip
    """Trains to the end, or on from the run's last.pt. best.pt is the epoch with the best validation metric.

    judge(rows, scores) -> metrics.evaluate's result. meta: goes into best.pt. after_epoch(row): what went
    into log.csv. progress(step, steps, images_per_second). Raises Diverged."""
    device, metric, rows = recipe.device, data.index.metric, data.rows
    net = torch.compile(model) if recipe.compile else model
    criterion = make_criterion(data.index, rows["train"], recipe.class_weights, device)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == torch.float16)
    state = {"epoch": 0, "best": None, "waited": 0, "log": [], "ratios": []}
    optimizer, resumed = None, None
    if run.file("last.pt").is_file():
        resumed = run.load("last.pt")
        state = {name: resumed[name] for name in state}
        model.load_state_dict(resumed["model"])
        plan.load_state_dict(resumed["plan"])
        scaler.load_state_dict(resumed["scaler"])
        run.write_logs(state)  # a kill right after last.pt leaves them an epoch behind it

    def probe(n: int):  # losses of n training batches, drawn apart from the epoch's own
        labels = torch.from_numpy(data.index.labels)
        for part in steps_of(rows["train"], recipe.batch_size, recipe.seed, recipe.epochs + state["epoch"])[
            :n
        ]:
            loss = criterion[0](net(data.images(part, device)).float(), labels[part].to(device))
            yield loss / criterion[1](labels[part])

    for epoch in range(state["epoch"], recipe.epochs):
        if recipe.patience and state["waited"] >= recipe.patience:
            break
        torch.manual_seed(random_seed(recipe.seed, epoch))  # dropout, the same after a restart
        started, stage_before = time.perf_counter(), plan.stage
        fresh = plan.begin_epoch(epoch, probe)
        if fresh or optimizer is None:
            optimizer = make_optimizer(recipe.opt, plan.groups, device)
            if resumed and not fresh:
                optimizer.load_state_dict(resumed["optimizer"])
            resumed = None
        if recipe.compile and plan.stage is not stage_before:
            torch.compiler.reset()  # the graphs of the stage before hold other gradients
        loss, steps = train_epoch(net, plan, optimizer, scaler, data, recipe, criterion, epoch, progress)
        seconds = time.perf_counter() - started
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {epoch + 1}, stage {plan.stage.name}")
        scores, val_loss = infer(net, data, rows["val"], recipe, criterion)
        if not np.isfinite(scores).all():
            raise Diverged(f"validation scores are not finite in epoch {epoch + 1}, stage {plan.stage.name}")
        value = judge(rows["val"], scores)["values"][metric]
        if math.isnan(value):
            raise UsageError(
                f"{metric} is undefined on validation, so it cannot choose a checkpoint; pass another --metric"
            )
        best = state["best"]
        improved = (
            best is None
            or (value > best["value"]) == metrics.higher_is_better(metric)
            and value != best["value"]
        )
        if improved:
            state["best"] = {"epoch": epoch + 1, "value": value, "stage": plan.stage.name}
            run.save("best.pt", {"model": model.state_dict(), "meta": meta | state["best"]})
        rates = [float(g["lr"]) for g in optimizer.param_groups if g["name"] in plan.stage.trains]
        row = {
            "epoch": epoch + 1,
            "stage": plan.stage.name,
            "train_loss": loss,
            "val_loss": val_loss,
            f"val_{metric}": value,
            "lr_min": min(rates),
            "lr_max": max(rates),
            "steps": steps,
            "seconds": seconds,
            "images_per_second": len(rows["train"]) / seconds,
            "peak_memory_bytes": peak_memory(device),
            "skipped_steps": plan.skipped_steps(),
        }
        waits = (
            plan.in_last_stage(epoch) and not improved
        )  # a run never ends before its last stage had its chance
        state |= {
            "epoch": epoch + 1,
            "waited": state["waited"] + 1 if waits else 0,
            "log": [*state["log"], row],
            "ratios": state["ratios"] + [{"epoch": epoch + 1} | entry for entry in plan.table()],
        }
        run.save("last.pt", state | {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                                     "plan": plan.state_dict(), "scaler": scaler.state_dict()})  # fmt: skip
        run.write_logs(state)
        after_epoch(row | {"best": improved})


@torch.no_grad()
def infer(
    net: nn.Module, data: Data, rows: np.ndarray, recipe: Recipe, criterion=None
) -> tuple[np.ndarray, float]:
    """(scores, mean loss): (len(rows), C) float64, softmax or sigmoid of the logits of images without
    augmentation."""
    net.eval()
    logits, total, weight = [], 0.0, 0.0
    labels = torch.from_numpy(data.index.labels)
    for start in range(0, len(rows), recipe.batch_size):
        part = rows[start : start + recipe.batch_size]
        with recipe.autocast():
            out = net(data.images(part, recipe.device)).float()
        if criterion:
            total = total + criterion[0](out, labels[part].to(recipe.device))
            weight += criterion[1](labels[part])
        logits.append(out.cpu().double())
    joined = torch.cat(logits)
    scores = joined.softmax(dim=1) if data.index.task == "multiclass" else joined.sigmoid()
    return scores.numpy(), float(total) / weight if criterion else math.nan


def random_seed(*key: int) -> int:
    """A seed that differs wherever the key does: (seed, epoch, step, ...)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def random_stream(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(random_seed(*key))


def peak_memory(device: torch.device) -> int | None:
    """Bytes: of the GPU, or of this process, since reset_peak_memory. None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))
    except (OSError, AttributeError):
        return None


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # Linux: starts VmHWM anew
        Path("/proc/self/clear_refs").write_text("5")
