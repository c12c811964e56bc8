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


class Stopped(BaseException):
    """Training that was told to stop, and has saved what it needs to go on. No error."""


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
    """Where a run's files go, of tensors and plain Python. save, load: best.pt. save_state, load_state: what
    a resumed run goes on from; None where there is nothing. write_logs: what a state has under "log", a row
    an epoch, and under "ratios", Auto-RGN's."""

    def load(self, name: str) -> dict: ...

    def save(self, name: str, checkpoint: dict) -> None: ...

    def load_state(self) -> dict | None: ...

    def save_state(self, state: dict) -> None: ...

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
    augment: str = flag(
        "light",
        "random shift, brightness, contrast; strong: more, and scale, rotation",
        choices=("none", "light", "strong"),
    )
    flip: str | None = flag(
        None,
        "mirror at random; both: upside down, too (default: horizontal, none with --augment none)",
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


@dataclass
class Part:
    """How far an epoch is. loss: 0-d, the sum of its steps' losses. seconds: that they took."""

    loss: Tensor
    steps: int = 0
    seconds: float = 0.0


@dataclass
class Position:
    """Where a run is, for whoever has to say where it ended. epoch: from 1. step: how many of it are done.
    groups: the optimizer's, with the rates of now; reading them would wait for a GPU at every step."""

    epoch: int = 0
    stage: str = ""
    step: int = 0
    groups: list[dict] = field(default_factory=list)


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
    part: Part | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> tuple[float, int]:
    """Epoch `number` (from 0), or what a resumed run has left of it. part: how far it is, kept up to date.
    after_step() follows each optimizer step. Returns (mean training loss, optimizer steps)."""
    loss_of, weight_of = criterion
    device = recipe.where
    part = part or Part(torch.zeros((), device=device))
    batches = steps_of(data.rows["train"], recipe.batch_size * recipe.grad_accum, recipe.seed, number)
    first, span = plan.schedule_span(number)
    length = round(len(batches) * span * (recipe.schedule_epochs or recipe.epochs) / recipe.epochs)

    def parts(index: int, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor, float]]:
        weight = weight_of(data.labels[rows])
        for some in parts_of(rows, recipe.batch_size):
            draws = random_stream(recipe.seed, number, index, int(some[0]))
            pixels = data.images(some, device, augment=recipe.augment, flip=recipe.flip, generator=draws)
            yield pixels, data.labels[some].to(device, non_blocking=True), weight

    seen, before, started = 0, part.seconds, time.perf_counter()
    for index, rows in list(enumerate(batches))[part.steps :]:
        rate = schedule((number - first) * len(batches) + index, length, recipe.warmup)
        for loss in step(net, plan, optimizer, scaler, recipe, parts(index, rows), loss_of, rate):
            part.loss += loss
        seen += len(rows)
        part.steps, part.seconds = index + 1, before + time.perf_counter() - started
        progress(index + 1, len(batches), seen / (time.perf_counter() - started))
        after_step()
    return part.loss.item() / len(batches), len(batches)


@torch.no_grad()
def infer(
    net: nn.Module,
    data: Data,
    rows: np.ndarray,
    recipe: Recipe,
    criterion: tuple | None = None,
    after_batch: Callable[[], None] = lambda: None,
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
        after_batch()
    joined = torch.cat(logits)
    scores = joined.softmax(dim=1) if data.task == "multiclass" else joined.sigmoid()
    return scores.numpy(), float(total) / weight if criterion else math.nan


# ---- a stage that trains the head alone ----

FEATURE_BYTES = 2**30  # features of more are computed anew each epoch


class Features:
    """Data as the head sees it while nothing else trains: images() gives the backbone's features, computed without
    autograd. Those of validation, and of training where it is not augmented, once: in the order and the batches of
    infer, so that a resumed stage has the same."""

    def __init__(self, data: Data, backbone: nn.Module, recipe: Recipe, after_batch: Callable[[], None] = lambda: None):
        self.after_batch = after_batch
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
            self.after_batch()

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


# ---- what a run goes on from ----


@dataclass(frozen=True)
class Saving:
    """When a run's state is saved. every: seconds that a kill may cost. stop(): asked after each step; True:
    save, and end there with Stopped."""

    every: float = 30.0
    stop: Callable[[], bool] = lambda: False


class Checkpoint:
    """A run's state, saved so that it goes on bit for bit, from within an epoch too. One file has all of it,
    the best model included: two could be of different moments.

    state: how many epochs are done, the best one (epoch, value, stage), how many it waited for a better one,
    log, ratios. part: of the epoch that runs, None between two. modules: name -> model, plan, scaler."""

    def __init__(self, folder: Folder, saving: Saving, device: torch.device, modules: dict):
        self.folder, self.saving, self.device, self.modules = folder, saving, device, modules
        self.state = {"epoch": 0, "best": None, "waited": 0, "log": [], "ratios": []}
        self.part: Part | None = None
        self.best_model: dict[str, Tensor] | None = None
        self.optimizer, self.held = None, None  # held: the optimizer's state, until there is one
        self.finished, self.saved, self.saved_at = False, None, time.monotonic()

    def restore(self) -> bool:
        """Goes back to what the folder holds; False where it holds nothing."""
        held = self.folder.load_state()
        if held is None:
            return False
        self.state |= {name: held[name] for name in self.state}
        for name, module in self.modules.items():
            module.load_state_dict(held[name])
        self.held, self.finished = held["optimizer"], held["optimizer"] is None
        if held.get("part"):
            self.part = Part(**held["part"] | {"loss": held["part"]["loss"].to(self.device)})
            set_random_state(held["random"], self.device)
        if self.state["best"] and not self.finished:  # runs of earlier versions had it in best.pt alone
            self.best_model = held.get("best_model") or self.folder.load("best.pt")["model"]
        self.folder.write_logs(self.state)  # a kill after last.pt leaves them behind, one before it ahead
        return True

    def end_epoch(self, row: dict, value: float, plan, higher_is_better: bool) -> bool:
        """Takes an epoch into the state, and the model where it is the best so far; returns whether it is.
        row: for log.csv. value: validation's."""
        state, best = self.state, self.state["best"]
        improved = best is None or (value > best["value"] if higher_is_better else value < best["value"])
        if improved:
            state["best"] = {"epoch": row["epoch"], "value": value, "stage": row["stage"]}
            model = self.modules["model"].state_dict()
            self.best_model = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.items()}
        waits = plan.in_last_stage(state["epoch"]) and not improved  # no run ends before its last stage had its chance
        state["epoch"], state["waited"] = row["epoch"], state["waited"] + 1 if waits else 0
        state["log"] = [*state["log"], row]
        state["ratios"] = state["ratios"] + [{"epoch": row["epoch"]} | entry for entry in plan.table()]
        self.part = None
        return improved

    def save(self) -> None:
        parts = {name: module.state_dict() for name, module in self.modules.items()}
        parts |= {"optimizer": self.optimizer.state_dict(), "best_model": self.best_model}
        parts |= {"part": self.part and vars(self.part), "random": random_state(self.device)}
        self.folder.save_state(self.state | parts)
        self.saved_at = time.monotonic()

    def save_if_due(self) -> bool:
        """Between two steps or epochs. Returns whether to stop there."""
        stop, moment = self.saving.stop(), (self.state["epoch"], self.part and self.part.steps)
        if moment != self.saved and (stop or time.monotonic() - self.saved_at >= self.saving.every):
            self.save()
            self.saved = moment
        return stop

    def pause(self) -> None:
        """save_if_due; raises Stopped where that was asked for."""
        if self.save_if_due():
            raise Stopped

    def finish(self, meta: dict) -> None:
        """best.pt, and a last.pt from which nothing is left to do."""
        self.folder.save("best.pt", {"model": self.best_model, "meta": meta | self.state["best"]})
        parts = {name: module.state_dict() for name, module in self.modules.items()}
        self.folder.save_state(self.state | parts | {"optimizer": None})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of what dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


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
    saving: Saving = Saving(),
    position: Position | None = None,
    begins: Callable[[int, bool], None] = lambda epoch, resumed: None,
    after_epoch: Callable[[dict], None] = lambda row: None,
    progress: Callable[[int, int, float], None] = lambda step, steps, rate: None,
) -> None:
    """Trains to the end, or on from what the folder holds. best.pt is the epoch whose judge(rows, scores) of
    validation is best; the metric's name is for the log. meta goes into best.pt. position is kept up to date.
    begins(epoch, resumed): before the first step, in which epoch, from 1. after_epoch(row): what went into log.csv.
    progress(step, steps, images_per_second). Raises Diverged, UndefinedMetric, Stopped."""
    device, at = recipe.where, position or Position()
    whole = torch.compile(model) if recipe.compile else model
    known = data.labels[torch.from_numpy(data.rows["train"])].numpy()
    criterion = make_criterion(recipe, data.task, known, data.classes)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
    kept = Checkpoint(folder, saving, device, {"model": model, "plan": plan, "scaler": scaler})
    resumed, state, stage = kept.restore(), kept.state, None
    if not kept.finished:
        begins(state["epoch"] + 1, resumed)

    for number in range(state["epoch"], recipe.epochs):
        if kept.finished or (recipe.patience and state["waited"] >= recipe.patience):
            break
        begin_epoch(kept, plan, recipe, number, partial(probe_losses, whole, data, recipe, criterion, number))
        optimizer, part = kept.optimizer, kept.part
        at.epoch, at.stage, at.step, at.groups = number + 1, plan.stage.name, part.steps, optimizer.param_groups

        def after_step(part=part):
            at.step = part.steps
            kept.pause()

        if plan.stage is not stage:
            if recipe.compile and stage:
                torch.compiler.reset()  # the graphs of the stage before hold other gradients
            stage, net, seen, started = plan.stage, whole, data, time.perf_counter()
            if split := split_at_head(model):
                net, seen = split[1], Features(data, split[0], recipe, kept.pause)
            part.seconds += time.perf_counter() - started
        loss, steps = epoch(net, plan, optimizer, scaler, seen, recipe, criterion, number, progress, part, after_step)
        scores, val_loss = infer(net, seen, data.rows["val"], recipe, criterion, kept.pause)
        check_finite(loss, scores, f"epoch {number + 1}, stage {plan.stage.name}")
        value = judge(data.rows["val"], scores)
        if math.isnan(value):
            unfit = "is undefined on validation, so it cannot choose a checkpoint; pass another --metric"
            raise UndefinedMetric(f"{metric} {unfit}")
        rates = [float(g["lr"]) for g in optimizer.param_groups if g["name"] in plan.stage.trains]
        row = {"epoch": number + 1, "stage": plan.stage.name, "train_loss": loss, "val_loss": val_loss}
        row |= {f"val_{metric}": value, "lr_min": min(rates), "lr_max": max(rates), "steps": steps}
        row |= {"seconds": part.seconds, "images_per_second": len(data.rows["train"]) / part.seconds}
        row |= {"peak_memory_bytes": peak_memory(device), "skipped_steps": plan.skipped_steps()}
        improved = kept.end_epoch(row, value, plan, higher_is_better)
        stop = kept.save_if_due()
        folder.write_logs(state)
        after_epoch(row | {"best": improved})
        if stop:
            raise Stopped
    if not kept.finished:
        kept.finish(meta or {})


def begin_epoch(kept: Checkpoint, plan, recipe: Recipe, number: int, probe: Callable) -> None:
    """Opens the stage, and makes the optimizer where the epoch needs one: a new one, or that of a resumed
    run. An epoch that is resumed within was begun before: its ratios and random numbers are there."""
    if kept.part:
        plan.begin_stage(plan.stage_at(number))
        plan.train_mode()
        fresh = False
    else:
        started = time.perf_counter()
        torch.manual_seed(random_seed(recipe.seed, number))  # dropout, the same after a restart
        fresh = plan.begin_epoch(number, probe)
        kept.part = Part(torch.zeros((), device=kept.device), seconds=time.perf_counter() - started)
    if fresh or kept.optimizer is None:
        kept.optimizer = make_optimizer(recipe.opt, plan.groups, kept.device)
        if kept.held and not fresh:
            kept.optimizer.load_state_dict(kept.held)
    kept.held = None


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
