"""The training loop, the same for every strategy: a recipe, a schedule, a step, an epoch, a run.

    plan = strategies.make_plan("lpft", model, head, epochs=20)
    run(model, plan, data, folder, Recipe(epochs=20), metric="accuracy", judge=judge)
    scores, loss = infer(model, data, data.rows["test"], Recipe(epochs=20))

Needs torch and numpy; copy this file, with strategies.py for the plan. What else it needs is handed in: the
data (see Data), where files go (see Folder), and judge(rows, scores) -> the number that chooses the
checkpoint. The loop knows no strategy, no dataset and no metric by name."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Diverged(RuntimeError):
    """Training that gave a loss that is no finite number."""


class UndefinedMetric(ValueError):
    """A metric that validation cannot give, so that it cannot choose a checkpoint."""


class Data(Protocol):
    """What the loop needs of a dataset. labels: (N,) int64 for "multiclass", (N, L) float32 0, 1 or nan
    (unknown) for "multilabel". rows: image numbers of "train", "val", "test". images(rows, device,
    augment=name, flip=name, generator=draws): (B, 3, H, W) float32 on the device, normalised; without these
    as they are."""

    task: str
    classes: int  # how many
    labels: Tensor
    rows: dict[str, np.ndarray]

    def images(self, rows: np.ndarray, device: torch.device, **augmentation) -> Tensor: ...


class Folder(Protocol):
    """Where a run's files go: best.pt and last.pt, of tensors and plain Python, and the logs of what last.pt
    holds: a row an epoch under "log", Auto-RGN's ratios under "ratios"."""

    def has(self, name: str) -> bool: ...

    def load(self, name: str) -> dict: ...

    def save(self, name: str, checkpoint: dict) -> None: ...

    def write_logs(self, state: dict) -> None: ...


# ---- the recipe ----

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def flag(default: object, help: str, **more: object) -> object:
    """A field of Recipe that is a flag of the command line, with what --help says of it."""
    return field(default=default, metadata={"help": help} | more)


@dataclass(frozen=True)
class Recipe:
    """How to train, the same for every strategy."""

    epochs: int = flag(30, "epochs of a whole run", basic=True)
    batch_size: int = flag(32, "images in a batch", short="-b", basic=True)
    grad_accum: int = flag(1, "batches that make one optimizer step")
    opt: str = flag("adamw", "optimizer; sgd has momentum 0.9", choices=tuple(OPTIMIZERS))
    warmup: float = flag(0.05, "share of the steps in which the learning rate rises; then it falls to 0", most=1)
    schedule_epochs: int | None = flag(None, "epochs in which the learning rate would fall to 0 (default: --epochs)")
    patience: int = flag(0, "epochs without a better validation value after which a run ends; 0: never", least=0)
    clip_grad: float = flag(0.0, "largest norm of the gradient; 0: any")
    class_weights: str = flag("none", "weights of the classes in the loss", choices=("none", "balanced"))
    augment: str = flag("light", "strong: scale and rotation besides", choices=("none", "light", "strong"))
    flip: str | None = flag(
        None,
        "mirror at random; both: upside down, too (horizontal, with --augment none none)",
        choices=("none", "horizontal", "both"),
    )
    device: str = flag("auto", "auto, cpu, cuda, cuda:1 or mps", metavar="NAME", role="place")
    amp: str = flag("auto", "precision; auto: bf16 on a GPU that has it, else off (float32)", choices=("auto", *AMP))
    compile: bool = flag(False, "train through torch.compile")
    seed: int = 0  # of this run: head, order, augmentation, dropout

    @property
    def alters(self) -> bool:
        """Whether a training image is another one each time."""
        return self.augment != "none" or self.flip not in (None, "none")

    @property
    def where(self) -> torch.device:
        """The device; auto: the GPU where there is one."""
        here = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(here if self.device == "auto" else self.device)

    def autocast(self):
        dtype = AMP.get(self.amp)  # auto, which settings.py settles, is off here
        return torch.autocast(self.where.type, dtype=dtype, enabled=dtype is not None)


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


def make_criterion(recipe: Recipe, task: str, labels: np.ndarray, classes: int) -> tuple[Callable, Callable]:
    """(loss, weight): loss(logits, labels) is a sum, weight(labels) what to divide it by, so that a batch can
    be taken in parts. Cross-entropy, or binary cross-entropy with unknown labels (nan) masked out. labels: of
    the training images. Class weights "balanced": every class weighs the same in sum; of several labels, the
    positives of each as much as its negatives."""
    balanced, device = recipe.class_weights == "balanced", recipe.where
    if task == "multiclass":
        counts = np.bincount(labels, minlength=classes)
        factors = len(labels) / (len(counts) * np.maximum(counts, 1)) if balanced else np.ones(len(counts))
        per_class = torch.tensor(factors, dtype=torch.float32)
        on_device = per_class.to(device)
        return (
            lambda logits, y: nn.functional.cross_entropy(logits, y, weight=on_device, reduction="sum"),
            lambda y: float(per_class[y].sum()),
        )
    positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    factors = negative / np.maximum(positive, 1) if balanced else np.ones(labels.shape[1])
    on_device = torch.tensor(factors, dtype=torch.float32, device=device)

    def masked_bce(logits, y):
        known = ~torch.isnan(y)
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, torch.where(known, y, 0.0), pos_weight=on_device, reduction="none"
        )
        return (loss * known).sum()

    return masked_bce, lambda y: max(1.0, float((~torch.isnan(y)).sum()))


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


# ---- a step, an epoch ----


def step(net, plan, optimizer, scaler, recipe: Recipe, parts: Iterator, criterion: Callable, rate: float) -> list:
    """One optimizer step on the parts of a batch. parts: (pixels, labels, weight of the whole batch) each.
    rate: the schedule's value now. Returns the parts' shares of the mean loss, on the device: reading them
    would wait for it."""
    losses = []
    for pixels, labels, weight in parts:
        with recipe.autocast():
            logits = net(pixels)
        loss = criterion(logits.float(), labels) / weight
        scaler.scale(loss).backward()
        losses.append(loss.detach())
    scaler.unscale_(optimizer)
    plan.after_backward()
    if recipe.clip_grad:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, recipe.clip_grad)
    plan.set_rates(optimizer, rate)
    scale = scaler.get_scale()  # 1 without fp16; with it, reading it waits for the device
    scaler.step(optimizer)
    scaler.update()
    if scaler.get_scale() >= scale > 0:  # it falls where the step overflowed and was skipped
        plan.after_step(optimizer)
    optimizer.zero_grad(set_to_none=True)
    return losses


def epoch(
    net: nn.Module,
    plan,
    optimizer,
    scaler,
    data: Data,
    recipe: Recipe,
    criterion: tuple[Callable, Callable],
    number: int,
    progress: Callable,
) -> tuple[float, int]:
    """Epoch `number` (from 0). Returns (mean training loss, optimizer steps)."""
    loss_of, weight_of = criterion
    device = recipe.where
    batches = steps_of(data.rows["train"], recipe.batch_size * recipe.grad_accum, recipe.seed, number)
    first, span = plan.schedule_span(number)
    length = round(len(batches) * span * (recipe.schedule_epochs or recipe.epochs) / recipe.epochs)

    def parts(index: int, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor, float]]:
        weight = weight_of(data.labels[rows])
        for part in parts_of(rows, recipe.batch_size):
            draws = random_stream(recipe.seed, number, index, int(part[0]))
            pixels = data.images(part, device, augment=recipe.augment, flip=recipe.flip, generator=draws)
            yield pixels, data.labels[part].to(device, non_blocking=True), weight

    total, seen, started = torch.zeros((), device=device), 0, time.perf_counter()
    for index, rows in enumerate(batches):
        rate = schedule((number - first) * len(batches) + index, length, recipe.warmup)
        for loss in step(net, plan, optimizer, scaler, recipe, parts(index, rows), loss_of, rate):
            total += loss
        seen += len(rows)
        progress(index + 1, len(batches), seen / (time.perf_counter() - started))
    return total.item() / len(batches), len(batches)


@torch.no_grad()
def infer(
    net: nn.Module, data: Data, rows: np.ndarray, recipe: Recipe, criterion: tuple | None = None
) -> tuple[np.ndarray, float]:
    """(scores, mean loss): (len(rows), C) float64, softmax or sigmoid of the logits of images without
    augmentation; the loss is nan without a criterion."""
    net.eval()
    device = recipe.where
    logits, total, weight = [], 0.0, 0.0
    for start in range(0, len(rows), recipe.batch_size):
        part = rows[start : start + recipe.batch_size]
        with recipe.autocast():
            out = net(data.images(part, device)).float()
        if criterion:
            total = total + criterion[0](out, data.labels[part].to(device))
            weight += criterion[1](data.labels[part])
        logits.append(out.cpu().double())
    joined = torch.cat(logits)
    scores = joined.softmax(dim=1) if data.task == "multiclass" else joined.sigmoid()
    return scores.numpy(), float(total) / weight if criterion else math.nan


# ---- a stage that trains the head alone ----

FEATURE_BYTES = 2**30  # features of more are computed anew each epoch


class Features:
    """Data as the head sees it while nothing else trains: images() gives the backbone's features, computed without
    autograd. Those of validation, and of training where it is not augmented, once: in the order and the batches of
    infer, so that a resumed stage has the same."""

    def __init__(self, data: Data, backbone: nn.Module, recipe: Recipe):
        self.task, self.classes, self.labels, self.rows = data.task, data.classes, data.labels, data.rows
        self._data, self._backbone, self._recipe = data, backbone, recipe
        self._place, self._table = np.full(len(data.labels), -1), None
        for side in ("val",) if recipe.alters else ("val", "train"):
            self._keep(data.rows[side])

    def _keep(self, rows: np.ndarray) -> None:
        size, device = self._recipe.batch_size, self._recipe.where
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            found = self._features(part, device)
            if self._table is None:
                many = len(self.rows["val"]) if self._recipe.alters else sum(map(len, self.rows.values()))
                if many * found[0].nbytes > FEATURE_BYTES:
                    return
                self._table, self._kept = found.new_empty(many, *found.shape[1:]), 0
            places = np.arange(self._kept, self._kept + len(part))
            self._table[self._kept : self._kept + len(part)] = found
            self._place[part], self._kept = places, self._kept + len(part)

    @torch.no_grad()
    def _features(self, rows: np.ndarray, device: torch.device, **augmentation) -> Tensor:
        with self._recipe.autocast():
            return self._backbone(self._data.images(rows, device, **augmentation))

    def images(self, rows: np.ndarray, device: torch.device, **augmentation) -> Tensor:
        """(B, ...) features of images, as the head takes them."""
        places = self._place[rows]
        if (augmentation and self._recipe.alters) or (places < 0).any():
            return self._features(rows, device, **augmentation)
        return self._table[torch.as_tensor(places, device=device)]


def split_at_head(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """(backbone, head) of a model in which only a last layer trains, the backbone in eval mode with BatchNorm folded
    into the convolution before it: the same function to rounding. None where more trains, where a layer comes after
    what trains, or where torch.fx cannot follow the model: such a stage runs as any other."""
    trained = {p for p in model.parameters() if p.requires_grad}
    heads = [name for name, m in model.named_modules() if trained and set(m.parameters()) == trained]
    drops = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    if not heads or heads[-1] == "" or any(m.training and isinstance(m, drops) for m in model.modules()):
        return None
    head, modes = model.get_submodule(heads[-1]), {m: m.training for m in model.modules()}
    try:
        model.eval()
        traced = fx.symbolic_trace(model)
    except Exception:  # noqa: BLE001  a model that branches on its input, in one of many ways
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode
    (out,) = (node for node in traced.graph.nodes if node.op == "output")
    last = out.args[0]
    if not isinstance(last, fx.Node) or last.target != heads[-1] or len(last.users) > 1:
        return None
    out.args = (last.args[0],)
    traced.graph.erase_node(last)
    fold_batch_norms(traced)
    return traced, head


def fold_batch_norms(traced: fx.GraphModule) -> None:
    """In eval mode a BatchNorm is one factor and one shift a channel: those of the convolution before it, if nothing
    else reads that."""
    modules = dict(traced.named_modules())
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        conv = modules.get(before.target) if before.op == "call_module" else None
        alone = isinstance(conv, nn.Conv2d) and len(before.users) == 1 and calls.count(before.target) == 1
        if alone and modules[node.target].track_running_stats:
            traced.add_submodule(before.target, fuse_conv_bn_eval(conv.eval(), modules[node.target].eval()))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()


# ---- a run ----


def run(
    model: nn.Module,
    plan,
    data: Data,
    folder: Folder,
    recipe: Recipe,
    *,
    metric: str,
    judge: Callable[[np.ndarray, np.ndarray], float],
    higher_is_better: bool = True,
    meta: dict | None = None,
    after_epoch: Callable[[dict], None] = lambda row: None,
    progress: Callable[[int, int, float], None] = lambda step, steps, rate: None,
) -> None:
    """Trains to the end, or on from the folder's last.pt. best.pt is the epoch whose judge(rows, scores) of
    validation is best; the metric's name is for the log. meta goes into best.pt. after_epoch(row): what went
    into log.csv. progress(step, steps, images_per_second). Raises Diverged, UndefinedMetric."""
    device = recipe.where
    whole = torch.compile(model) if recipe.compile else model
    known = data.labels[torch.from_numpy(data.rows["train"])].numpy()
    criterion = make_criterion(recipe, data.task, known, data.classes)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
    state = {"epoch": 0, "best": None, "waited": 0, "log": [], "ratios": []}
    optimizer, resumed, stage = None, None, None
    if folder.has("last.pt"):
        resumed = folder.load("last.pt")
        state = {name: resumed[name] for name in state}
        for name, part in (("model", model), ("plan", plan), ("scaler", scaler)):
            part.load_state_dict(resumed[name])
        folder.write_logs(state)  # a kill right after last.pt leaves them an epoch behind it

    for number in range(state["epoch"], recipe.epochs):
        if recipe.patience and state["waited"] >= recipe.patience:
            break
        torch.manual_seed(random_seed(recipe.seed, number))  # dropout, the same after a restart
        started = time.perf_counter()
        fresh = plan.begin_epoch(number, partial(probe_losses, whole, data, recipe, criterion, number))
        if fresh or optimizer is None:
            optimizer = make_optimizer(recipe.opt, plan.groups, device)
            if resumed and not fresh:
                optimizer.load_state_dict(resumed["optimizer"])
            resumed = None
        if plan.stage is not stage:
            if recipe.compile and stage:
                torch.compiler.reset()  # the graphs of the stage before hold other gradients
            stage, net, seen = plan.stage, whole, data
            if split := split_at_head(model):
                net, seen = split[1], Features(data, split[0], recipe)
        loss, steps = epoch(net, plan, optimizer, scaler, seen, recipe, criterion, number, progress)
        seconds = time.perf_counter() - started
        scores, val_loss = infer(net, seen, data.rows["val"], recipe, criterion)
        check_finite(loss, scores, f"epoch {number + 1}, stage {plan.stage.name}")
        value = judge(data.rows["val"], scores)
        if math.isnan(value):
            unfit = "is undefined on validation, so it cannot choose a checkpoint; pass another --metric"
            raise UndefinedMetric(f"{metric} {unfit}")
        best = state["best"]["value"] if state["best"] else None
        improved = best is None or (value > best if higher_is_better else value < best)
        if improved:
            state["best"] = {"epoch": number + 1, "value": value, "stage": plan.stage.name}
            folder.save("best.pt", {"model": model.state_dict(), "meta": (meta or {}) | state["best"]})
        rates = [float(g["lr"]) for g in optimizer.param_groups if g["name"] in plan.stage.trains]
        row = {"epoch": number + 1, "stage": plan.stage.name, "train_loss": loss, "val_loss": val_loss}
        row |= {f"val_{metric}": value, "lr_min": min(rates), "lr_max": max(rates), "steps": steps}
        row |= {"seconds": seconds, "images_per_second": len(data.rows["train"]) / seconds}
        row |= {"peak_memory_bytes": peak_memory(device), "skipped_steps": plan.skipped_steps()}
        waits = plan.in_last_stage(number) and not improved  # no run ends before its last stage had its chance
        state["epoch"], state["waited"] = number + 1, state["waited"] + 1 if waits else 0
        state["log"] = [*state["log"], row]
        state["ratios"] = state["ratios"] + [{"epoch": number + 1} | entry for entry in plan.table()]
        parts = {"model": model, "optimizer": optimizer, "plan": plan, "scaler": scaler}
        folder.save("last.pt", state | {name: part.state_dict() for name, part in parts.items()})
        folder.write_logs(state)
        after_epoch(row | {"best": improved})


def check_finite(loss: float, scores: np.ndarray, where: str) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the training loss is {loss} in {where}")
    if not np.isfinite(scores).all():
        raise Diverged(f"validation scores are not finite in {where}")


def probe_losses(
    net: nn.Module, data: Data, recipe: Recipe, criterion: tuple, number: int, batches: int
) -> Iterator[Tensor]:
    """Losses of that many training batches, drawn apart from those of epoch `number` itself."""
    device = recipe.where
    drawn = steps_of(data.rows["train"], recipe.batch_size, recipe.seed, recipe.epochs + number)
    for rows in drawn[:batches]:
        loss = criterion[0](net(data.images(rows, device)).float(), data.labels[rows].to(device))
        yield loss / criterion[1](data.labels[rows])


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
