"""The eight fine-tuning strategies of Davila, Colan and Hasegawa (Image and Vision Computing 146, 2024,
105012), as builders of optimizer param groups. Imports torch and nothing else: copy this file into your
project.

    model = torchvision.models.resnet50(weights="IMAGENET1K_V2")
    head = replace_head(model, classes=4)
    plan = make_plan("autorgn", model, head, epochs=20)         # or ft, lp, glf, gfl, lpft, l1sp, l2sp
    for epoch in range(20):
        if plan.begin_epoch(epoch):                             # freezes, opens; True: a new optimizer
            optimizer = torch.optim.AdamW(plan.groups)
        for step, (images, labels) in enumerate(loader):
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            plan.after_backward()                               # SP penalties, Auto-RGN's norms
            plan.set_rates(optimizer, factor=1.0)               # lr * your schedule * Auto-RGN's ratio
            optimizer.step()
            plan.after_step(optimizer)                          # SP in proximal mode
            optimizer.zero_grad()

Top to bottom: blocks and the head, the plan, the eight strategies, Auto-RGN's ratios, the table of all.
Terms: w0 is the pretrained value of a weight, the head the newly initialised classifier layer, the backbone
the rest, a block a part of the backbone that is frozen and opened as one, a layer a module with parameters
of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

# Norm layers are told by their type: a "bn" in the name misses all 121 of DenseNet-121's.
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
FEWEST_BLOCKS = 4  # the general rule opens containers until there are this many


# ---------------------------------------------------------------------------------------- blocks and the head


@dataclass
class Block:
    """A part of the model that is frozen and opened as one. modules: what goes to eval() while the block is
    frozen, modules without parameters (Dropout, pooling) included. parameters: full name -> parameter."""

    name: str
    modules: list[nn.Module]
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)


def find_head(model: nn.Module) -> tuple[str, nn.Module]:
    """The classifier layer and its name: the last Linear, or the last Conv2d where there is none
    (SqueezeNet)."""
    for kind in (nn.Linear, nn.Conv2d):
        found = [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]
        if found:
            return found[-1]
    raise ValueError(f"{type(model).__name__} has no Linear or Conv2d layer that could be its head")


def replace_head(model: nn.Module, classes: int) -> nn.Module:
    """Puts a freshly initialised layer with `classes` outputs in the head's place and returns it."""
    name, old = find_head(model)
    parent, _, leaf = name.rpartition(".")
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=bias)
    else:
        new = nn.Conv2d(old.in_channels, classes, old.kernel_size, old.stride, old.padding, bias=bias)
    holder = model.get_submodule(parent)
    setattr(holder, leaf, new.to(old.weight.device, old.weight.dtype))
    behind = str(int(leaf) + 1) if leaf.isdigit() else ""
    if isinstance(getattr(holder, behind, None), nn.ReLU):  # SqueezeNet: logits could not be negative
        setattr(holder, behind, nn.Identity())
    return new


def blocks_of(model: nn.Module, head: nn.Module | None = None) -> list[Block]:
    """The model's blocks from input to head; the last is the head. Every parameter is in exactly one block.

    ResNet: stem, layer1 to layer4. DenseNet: stem, denseblock1 (with transition1) to denseblock4 (with
    norm5).
    VGG: stage1 to stage5 between poolings, fc6+fc7. Anything else: the children with parameters; while there
    are fewer than four, the largest gives way to its own children. A norm, and a module without parameters,
    goes with the layer before it; bare parameters (class token, position embedding) go with the first block.
    Raises ValueError where a parameter is in no block or in two."""
    head = find_head(model)[1] if head is None else head
    if not any(module is head for module in model.modules()):
        raise ValueError(f"the head {head} is not a part of this {type(model).__name__}")
    family = _family(model)
    units, bare_allowed = (_general(model, head), True) if family is None else (family(model, head), False)
    # A part of the backbone may be called head: the strategies tell the head by its block's name.
    blocks = [Block("backbone.head" if name == "head" else name, modules) for name, modules in units]
    blocks.append(Block("head", [head]))

    owner: dict[int, Block] = {}
    for block in blocks:
        for parameter in {id(p): p for module in block.modules for p in module.parameters()}.values():
            if id(parameter) in owner:
                name = next(n for n, p in model.named_parameters() if p is parameter)
                raise ValueError(
                    f"parameter {name} is in two blocks: {owner[id(parameter)].name} and {block.name}"
                )
            owner[id(parameter)] = block
    for name, parameter in model.named_parameters():
        block = owner.get(id(parameter), blocks[0] if bare_allowed else None)
        if block is None:
            raise ValueError(f"parameter {name} of {type(model).__name__} is in no block")
        block.parameters[name] = parameter
    return blocks


Unit = tuple[str, list[nn.Module]]  # name of the block, its modules in order


def _family(model: nn.Module) -> Callable[[nn.Module, nn.Module], list[Unit]] | None:
    """torchvision's own classes, told by name and parts: others of the same name (timm's) get the general
    rule."""
    families = {
        "ResNet": (_resnet, ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")),
        "DenseNet": (_densenet, ("features.conv0", "features.denseblock1")),
        "VGG": (_vgg, ("features.0", "classifier.0")),
    }
    names, modules = {kind.__name__ for kind in type(model).__mro__}, dict(model.named_modules())
    for name, (blocks, parts) in families.items():
        if name in names and all(part in modules for part in parts):
            return blocks
    return None


def _resnet(model, head) -> list[Unit]:
    stem = [model.conv1, model.bn1, model.relu, model.maxpool]
    return [
        ("stem", stem),
        *((name, [getattr(model, name)]) for name in ("layer1", "layer2", "layer3", "layer4")),
    ]


def _densenet(model, head) -> list[Unit]:
    units: list[Unit] = [("stem", [])]
    for name, child in model.features.named_children():
        if name.startswith("denseblock"):
            units.append((name, []))
        units[-1][1].append(child)
    return units


def _vgg(model, head) -> list[Unit]:
    units: list[Unit] = [("stage1", [])]
    for layer in model.features:
        units[-1][1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            units.append((f"stage{len(units) + 1}", []))
    units[-1] = ("fc6+fc7", [layer for layer in model.classifier if layer is not head])
    return units


def _general(model: nn.Module, head: nn.Module) -> list[Unit]:
    units = _units(model, "", head)
    while len(units) < FEWEST_BLOCKS:
        for unit in sorted(units, key=_size, reverse=True):
            parts = _split(unit, head)
            if parts:
                at = units.index(unit)
                units[at : at + 1] = parts
                break
        else:
            break
    return units


def _size(unit: Unit) -> int:
    return sum(p.numel() for module in unit[1] for p in module.parameters())


def _units(module: nn.Module, prefix: str, head: nn.Module) -> list[Unit]:
    """The children with parameters, each with the norms and parameterless modules that follow it."""
    units: list[Unit] = []
    leading: list[nn.Module] = []  # parameterless modules before the first layer go with it
    for name, child in _children(module, prefix, head):
        if child is head:
            continue
        owners = [m for m in child.modules() if any(True for _ in m.parameters(recurse=False))]
        follows = all(isinstance(m, NORMS) for m in owners)
        if follows and units:
            units[-1][1].append(child)
        elif not owners:
            leading.append(child)
        else:
            units.append((name, [*leading, child]))
            leading = []
    return units


def _children(module: nn.Module, prefix: str, head: nn.Module):
    for name, child in module.named_children():
        if child is not head and any(m is head for m in child.modules()):
            yield from _children(
                child, f"{prefix}{name}.", head
            )  # what holds the head is opened: the head stands alone
        else:
            yield prefix + name, child


def _split(unit: Unit, head: nn.Module) -> list[Unit] | None:
    """The block's children as blocks, or None where it has no two of them."""
    name, modules = unit
    at = next(i for i, m in enumerate(modules) if any(True for _ in m.parameters()))
    parts = _units(modules[at], f"{name}.", head)
    if not parts:
        return None
    parts[0] = (parts[0][0], [*modules[:at], *parts[0][1]])
    parts[-1] = (parts[-1][0], [*parts[-1][1], *modules[at + 1 :]])
    return parts if len(parts) > 1 else _split(parts[0], head)


# --------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Hyperparameters:
    """What a strategy may be told besides its learning rate. None: the strategy's default from STRATEGIES."""

    weight_decay: float = 0.01  # on every parameter that no SP penalty holds
    bn: str = (
        "train"  # BatchNorm in the parts that train: train, or eval (as in the LP-FT authors' vision runs)
    )
    stage_shares: tuple[float, ...] | None = None  # share of the epochs for each stage; None: equal
    lp_lr: float | None = None  # LP-FT's first part
    alpha: float | None = None  # SP penalty of the backbone
    beta: float = 0.01  # SP penalty of the head, always quadratic
    sp_mode: str = "loss"  # loss: in the gradient. proximal: after the step, decoupled from the optimizer
    rgn_source: str = "backward"  # backward: the step's own gradients. probe: extra batches before each epoch
    rgn_every: int = 0  # with backward: new ratios every so many steps; 0: every epoch
    rgn_batches: int = 5  # with probe: how many extra batches
    rgn_unit: str = "layer"  # layer, tensor (the authors' code) or block
    rgn_norm: str = (
        "backbone"  # backbone: the head's ratio is 1, the maximum is the backbone's. all: the authors'
    )
    rgn_reset: bool = False  # a new optimizer every epoch (the authors' code)

    def __post_init__(self):
        choices = {
            "bn": ("train", "eval"),
            "sp_mode": ("loss", "proximal"),
            "rgn_source": ("backward", "probe"),
            "rgn_unit": ("layer", "tensor", "block"),
            "rgn_norm": ("backbone", "all"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(allowed)}")
        for name in ("weight_decay", "alpha", "beta", "lp_lr", "rgn_every", "rgn_batches"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a finite number, 0 or more")
        if self.rgn_batches < 1:
            raise ValueError(f"rgn_batches is {self.rgn_batches}; at least 1 is needed")


@dataclass(frozen=True)
class Stage:
    """Which groups train, for which share of the epochs. lr: for all of them, in place of their own.
    restart: a new optimizer and a new schedule begin with this stage."""

    name: str
    trains: frozenset[str]
    share: float = 1.0
    lr: float | None = None
    restart: bool = False


def stage_starts(epochs: int, shares: Iterable[float]) -> list[int]:
    """First epoch of each stage, rounded to whole epochs. A stage whose successor starts in the same epoch is
    merged into it, and the last stage always runs: 3 epochs for six equal stages run the first, third and
    sixth."""
    shares = list(shares)
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; at least 1 is needed")
    if any(not 0 <= share < math.inf for share in shares) or sum(shares) <= 0:
        raise ValueError(f"stage shares {shares} must be 0 or more, with a positive sum")
    before = [epochs * sum(shares[:i]) / sum(shares) for i in range(len(shares))]
    return [min(math.floor(start + 0.5), epochs - 1) for start in before]


class Plan:
    """What a training loop needs to know of a strategy, and all that it needs.

    groups: optimizer param groups, dicts with name, block, params, lr (its real learning rate) and
    weight_decay.
    Copies: an optimizer keeps the dicts it is given, and set_rates would multiply onto what it wrote there
    before.
    stages: see Stage. Parameters that are in no group stay frozen. Built by make_plan."""

    def __init__(self, groups: list[dict], stages: list[Stage]):
        self._groups, self.stages = groups, stages
        self.ratios: Tensor | None = None  # (groups,) factors on the learning rates; None: all 1
        # An object with any of before_epoch(probe), after_backward(), after_step(optimizer), and
        # new_optimizer: True where each epoch starts one.
        self.hooks = None

    @property
    def groups(self) -> list[dict]:
        return [dict(group) for group in self._groups]

    def _attach(
        self, strategy: str, model: nn.Module, blocks: list[Block], epochs: int, hyper: Hyperparameters
    ):
        shares = hyper.stage_shares or [stage.share for stage in self.stages]
        if len(shares) != len(self.stages):
            raise ValueError(
                f"{strategy} has {len(self.stages)} stages, but stage_shares has {len(shares)} numbers"
            )
        self.strategy, self.model, self.blocks, self.epochs, self.hyper = (
            strategy,
            model,
            blocks,
            epochs,
            hyper,
        )
        self.starts = stage_starts(epochs, shares)
        self._on_host: tuple[Tensor, list[float]] | None = None  # the ratios and their copy
        self.begin_stage(self.stage_at(0))
        return self

    # -- stages

    def stage_at(self, epoch: int) -> int:
        return max(i for i, start in enumerate(self.starts) if start <= epoch)

    def in_last_stage(self, epoch: int) -> bool:
        """Early stopping may end a run only where this is True."""
        return self.stage_at(epoch) == len(self.stages) - 1

    def schedule_span(self, epoch: int) -> tuple[int, int]:
        """(first epoch, number of epochs) of the learning rate schedule that the epoch belongs to."""
        restarts = [0] + [s for s, stage in zip(self.starts, self.stages) if stage.restart] + [self.epochs]
        first = max(start for start in restarts[:-1] if start <= epoch)
        return first, min(start for start in restarts if start > epoch) - first

    def begin_stage(self, number: int) -> None:
        """Opens the stage's groups, freezes everything else. Gradients of frozen tensors become None, not
        zero: AdamW moves a tensor whose gradient is zero."""
        self.stage, self._base = self.stages[number], None
        training = {
            id(p) for group in self._groups if group["name"] in self.stage.trains for p in group["params"]
        }
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in training)
            if id(parameter) not in training:
                parameter.grad = None

    def begin_epoch(self, epoch: int, probe: Callable[[int], Iterable[Tensor]] | None = None) -> bool:
        """Call before each epoch (0-based). Returns True where the optimizer must be built anew from
        `groups`. probe(n): yields the losses of n training batches; Auto-RGN with rgn_source="probe" needs
        it."""
        self.begin_stage(self.stage_at(epoch))
        self.train_mode()
        if hasattr(self.hooks, "before_epoch"):
            self.hooks.before_epoch(probe)
        return epoch == self.schedule_span(epoch)[0] or getattr(self.hooks, "new_optimizer", False)

    def train_mode(self) -> None:
        """model.train(), then eval() for every block without a trainable parameter: requires_grad=False alone
        lets a BatchNorm's running statistics drift and a Dropout drop."""
        self.model.train()
        for block in self.blocks:
            frozen = not any(p.requires_grad for p in block.parameters.values())
            for module in (m for part in block.modules for m in part.modules()):
                if frozen or (self.hyper.bn == "eval" and isinstance(module, BATCH_NORMS)):
                    module.training = False

    # -- the step

    def after_backward(self) -> None:
        """Call once per optimizer step: after unscaling and all-reduce, before clipping."""
        if hasattr(self.hooks, "after_backward"):
            self.hooks.after_backward()

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Call after each step that was taken, not after one that a GradScaler skipped: what shrinks the
        weights belongs to the step."""
        if hasattr(self.hooks, "after_step"):
            self.hooks.after_step(optimizer)

    def base_rate(self, group: dict) -> float:
        return group["lr"] if self.stage.lr is None else self.stage.lr

    def set_rates(self, optimizer: torch.optim.Optimizer, factor: float = 1.0) -> None:
        """lr of each group = its own lr * factor (the schedule's value now) * Auto-RGN's ratio. In closed
        form: nothing is multiplied up from step to step, so a resumed run has the same rates."""
        base = [self.base_rate(group) for group in self._groups]
        if self.ratios is not None and takes_tensor_rates(
            optimizer
        ):  # stays on the device, no synchronisation
            if self._base is None:  # copied to the device once a stage, not once a step
                self._base = torch.tensor(base, dtype=torch.float32, device=self.ratios.device)
            rates: Iterable = (self._base * self.ratios * factor).float().unbind()
        else:
            rates = [lr * factor * ratio for lr, ratio in zip(base, self._ratio_list())]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _ratio_list(self) -> list[float]:
        if self.ratios is None:
            return [1.0] * len(self._groups)
        if self._on_host is None or self._on_host[0] is not self.ratios:
            self._on_host = (
                self.ratios,
                self.ratios.tolist(),
            )  # the one synchronisation per update of the ratios
        return self._on_host[1]

    def measures_norms(self) -> bool:
        """Whether use_kernel makes a difference: Auto-RGN."""
        return hasattr(self.hooks, "use_kernel")

    def use_kernel(self, kernel) -> None:
        """Measures with the compiled kernel that csrc/loader.py loads, in place of grad_weight_norms."""
        if self.measures_norms():
            self.hooks.use_kernel(kernel)

    # -- what to print, save and restore

    def trainable_parameters(self) -> int:
        """Number of parameters that train in any stage that runs."""
        run = set().union(*(self.stages[self.stage_at(epoch)].trains for epoch in range(self.epochs)))
        return sum(p.numel() for group in self._groups if group["name"] in run for p in group["params"])

    def table(self) -> list[dict]:
        """Auto-RGN: per unit the norms of gradient and weight behind the ratio in force, the ratio and the
        rate before the schedule. Other strategies: no rows."""
        return self.hooks.table() if hasattr(self.hooks, "table") else []

    def skipped_steps(self) -> int:
        """Auto-RGN: steps so far whose gradients were not finite, or all zero, and gave no ratio."""
        return self.hooks.skipped_steps() if hasattr(self.hooks, "skipped_steps") else 0

    def state_dict(self) -> dict:
        """What begin_epoch and the hooks need to go on after a restart. w0 is not in it: it is the weights as
        loaded."""
        return self.hooks.state_dict() if hasattr(self.hooks, "state_dict") else {}

    def load_state_dict(self, state: dict) -> None:
        if hasattr(self.hooks, "load_state_dict"):
            self.hooks.load_state_dict(state)


def takes_tensor_rates(optimizer: torch.optim.Optimizer) -> bool:
    """Fused SGD, Adam and AdamW read a tensor rate on the parameters' device without a synchronisation."""
    on_gpu = optimizer.param_groups[0]["params"][0].is_cuda
    return on_gpu and all(group.get("fused") for group in optimizer.param_groups)


# --------------------------------------------------------------------------------------- the eight strategies


def _groups(blocks: list[Block], lr: float, weight_decay: float) -> list[dict]:
    return [
        {
            "name": block.name,
            "block": block.name,
            "params": list(block.parameters.values()),
            "lr": lr,
            "weight_decay": weight_decay,
        }
        for block in blocks
    ]


def _names(groups: list[dict]) -> frozenset[str]:
    return frozenset(group["name"] for group in groups)


def ft(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Plan:
    """FT, full fine-tuning: every parameter trains."""
    groups = _groups(blocks, lr, hyper.weight_decay)
    return Plan(groups, [Stage("all", _names(groups))])


def lp(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Plan:
    """LP, linear probing: the head trains, the backbone is bit-identical afterwards."""
    groups = _groups(blocks[-1:], lr, hyper.weight_decay)
    return Plan(groups, [Stage("head", _names(groups))])


def glf(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Plan:
    """G-LF, gradual unfreezing from the last block to the first (Howard and Ruder, ACL 2018): the head, then
    with each stage one more block."""
    groups = _groups(blocks, lr, hyper.weight_decay)
    return Plan(groups, _gradual(groups[-1], groups[-2::-1]))


def gfl(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Plan:
    """G-FL, gradual unfreezing from the first block to the last (Lee et al., ICLR 2023). The head trains from
    the first stage on, being random."""
    groups = _groups(blocks, lr, hyper.weight_decay)
    return Plan(groups, _gradual(groups[-1], groups[:-1]))


def _gradual(head: dict, order: list[dict]) -> list[Stage]:
    stages = [Stage("head", frozenset([head["name"]]))]
    for group in order:
        stages.append(Stage(f"+{group['name']}", stages[-1].trains | {group["name"]}))
    return stages


def lpft(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Plan:
    """LP-FT (Kumar et al., ICLR 2022): the head at hyper.lp_lr, then everything at lr from that solution,
    with a fresh optimizer and schedule."""
    groups = _groups(blocks, lr, hyper.weight_decay)
    stages = [Stage("lp", frozenset(["head"]), lr=hyper.lp_lr), Stage("ft", _names(groups), restart=True)]
    return Plan(groups, stages)


def l1sp(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Plan:
    """L1-SP (Li, Grandvalet, Davoine, ICML 2018): L + alpha sum |w - w0| on the backbone + beta/2 sum w^2 on
    the head."""
    return _starting_point(blocks, lr, hyper, order=1)


def l2sp(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Plan:
    """L2-SP (Li et al. 2018, eq. 2): L + alpha/2 sum (w - w0)^2 on the backbone + beta/2 sum w^2 on the
    head."""
    return _starting_point(blocks, lr, hyper, order=2)


def _starting_point(blocks: list[Block], lr: float, hyper: Hyperparameters, order: int) -> Plan:
    # No weight decay: it would move the target of L2-SP from w0 to w0 * alpha / (alpha + weight decay).
    groups = _groups(blocks, lr, weight_decay=0.0)
    plan = Plan(groups, [Stage("all", _names(groups))])
    plan.hooks = StartingPoint(blocks, hyper, order)
    return plan


def autorgn(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Plan:
    """Auto-RGN (Lee et al., ICLR 2023): every parameter trains; lr of layer i = lr * RGN_i / max_j RGN_j,
    with RGN_i = norm2(gradient of layer i) / norm2(weight of layer i). Deviates from the authors' code by
    default, each by its switch: rgn_source, rgn_unit, rgn_norm, rgn_reset."""
    units: dict[str, list[tuple[str, str, nn.Parameter]]] = {}
    for block in blocks:
        for name, parameter in block.parameters.items():
            layer = name.rpartition(".")[0] or name  # weight and bias of one module
            unit = {"layer": layer, "tensor": name, "block": block.name}[hyper.rgn_unit]
            units.setdefault(unit, []).append((layer, block.name, parameter))
    groups = [
        {
            "name": unit,
            "block": members[0][1],
            "params": [p for _, _, p in members],
            "lr": lr,
            "weight_decay": hyper.weight_decay,
        }
        for unit, members in units.items()
    ]
    plan = Plan(groups, [Stage("all", _names(groups))])
    plan.hooks = RelativeGradientNorm(plan, [members[0][0] for members in units.values()], hyper)
    return plan


class StartingPoint:
    """The penalties of L1-SP and L2-SP. w0 is copied when the plan is built, from the weights as loaded.

    loss: their gradient is added to the gradient of the loss, as in the paper. proximal: after the step the
    penalty's proximal operator with lr * alpha is applied: w0 + (w - w0) / (1 + lr * alpha), or the soft
    threshold, which leaves weights that equal w0 exactly. With Adam that is the meaningful one: Adam rescales
    what stands in the gradient."""

    def __init__(self, blocks: list[Block], hyper: Hyperparameters, order: int):
        self.backbone = [p for block in blocks[:-1] for p in block.parameters.values()]
        self.head = list(blocks[-1].parameters.values())
        self.w0 = [p.detach().clone() for p in self.backbone]
        self.alpha, self.beta, self.order = hyper.alpha, hyper.beta, order
        setattr(
            self,
            *(
                ("after_backward", self._add_gradient)
                if hyper.sp_mode == "loss"
                else ("after_step", self._shrink)
            ),
        )

    def _with_grad(self, parameters: list[Tensor]) -> list[int]:
        if (
            self.w0 and self.w0[0].device != self.backbone[0].device
        ):  # the model was moved after the plan was built
            self.w0 = [w0.to(p.device) for w0, p in zip(self.w0, self.backbone)]
        return [i for i, p in enumerate(parameters) if p.grad is not None]

    @torch.no_grad()
    def _add_gradient(self) -> None:
        some = self._with_grad(self.backbone)
        if some:
            pull = torch._foreach_sub([self.backbone[i] for i in some], [self.w0[i] for i in some])
            if self.order == 1:
                torch._foreach_sign_(pull)
            torch._foreach_add_([self.backbone[i].grad for i in some], pull, alpha=self.alpha)
        head = [self.head[i] for i in self._with_grad(self.head)]
        if head:
            torch._foreach_add_([p.grad for p in head], head, alpha=self.beta)

    @torch.no_grad()
    def _shrink(self, optimizer: torch.optim.Optimizer) -> None:
        lr = optimizer.param_groups[0]["lr"]  # the SP strategies have one rate for all groups
        some = self._with_grad(self.backbone)
        if some:
            weights, w0 = [self.backbone[i] for i in some], [self.w0[i] for i in some]
            away = torch._foreach_sub(weights, w0)
            if self.order == 1:
                size = torch._foreach_abs(away)
                torch._foreach_sub_(size, lr * self.alpha)
                torch._foreach_clamp_min_(size, 0.0)
                torch._foreach_sign_(away)
                torch._foreach_mul_(away, size)
            else:
                torch._foreach_div_(away, 1 + lr * self.alpha)
            torch._foreach_copy_(weights, torch._foreach_add(w0, away))
        head = [self.head[i] for i in self._with_grad(self.head)]
        if head:
            torch._foreach_div_(head, 1 + lr * self.beta)


# --------------------------------------------------------------------------------------------------- Auto-RGN


def grad_weight_norms(
    weights: list[Tensor], grads: list[Tensor | None], unit: Tensor, units: int
) -> tuple[Tensor, Tensor]:
    """Norms of the gradients and of the weights of each unit, the reference of the compiled kernel in csrc/.

    weights, grads: lists of tensors of any shape and floating dtype; a None gradient counts as zero. unit:
    (tensors,) int64, the unit of each tensor, on the weights' device. Returns two (units,) tensors, float64
    where the device has it, with a relative error below 1e-6. No host synchronisation."""
    dtype = torch.float32 if weights[0].device.type == "mps" else torch.float64
    present = [g for g in grads if g is not None]
    squares = sum_of_squares([*weights, *present], dtype)
    grad_squares = iter(squares[len(weights) :])
    zero = torch.zeros((), dtype=dtype, device=weights[0].device)
    by_tensor = [
        torch.stack([zero if g is None else next(grad_squares) for g in grads]),
        torch.stack(squares[: len(weights)]),
    ]
    grad_norms, weight_norms = (zero.new_zeros(units).index_add_(0, unit, s).sqrt_() for s in by_tensor)
    return grad_norms, weight_norms


def sum_of_squares(tensors: list[Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """A 0-d tensor of `dtype` for each tensor. On the CPU torch's float32 norm is wrong by 1 % for the
    largest layer of VGG-19 (one running sum over 100 million squares) and its float64 norm is slow: so rows
    of 4,096 elements in float32, their squares added up in float64. On a GPU foreach norms add up in a tree,
    which is exact enough."""
    if tensors[0].device.type != "cpu":
        return [n.to(dtype).square_() for n in torch._foreach_norm(tensors, 2, dtype=torch.float32)]
    row, sums, small = 4096, {}, {}
    for i, t in enumerate(tensors):
        if t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last):
            t = t.permute(0, 2, 3, 1)  # as it lies in memory: reshape copies nothing
        flat = t.reshape(-1)
        if t.dtype == torch.float32 and len(flat) >= 8 * row:
            whole = len(flat) // row * row
            norms = torch.linalg.vector_norm(flat[:whole].view(-1, row), dim=1).to(dtype)
            if norms.min() < 1e-15 or not norms.max() < 1e15:  # float32 squares under- or overflow near there
                norms = torch.linalg.vector_norm(flat[:whole].view(-1, row), dim=1, dtype=dtype)
            sums[i] = norms.square_().sum()
            flat = flat[whole:]
        small[i] = flat
    for i, norm in zip(small, torch._foreach_norm(list(small.values()), 2, dtype=dtype)):
        sums[i] = norm.square_() + sums[i] if i in sums else norm.square_()
    return [sums[i] for i in range(len(tensors))]


def relative_ratios(
    grad_norms: Tensor, weight_norms: Tensor, layer: Tensor, head: Tensor, norm: str = "backbone"
) -> tuple[Tensor, Tensor]:
    """RGN_i / max_j RGN_j per unit, and whether it can be trusted. All (units,), on one device, no
    synchronisation.

    layer: int64, the layer that a unit belongs to: a unit whose weight has norm zero (a fresh bias, a
    BatchNorm beta) takes its layer's ratio; where the layer's norm is zero too the unit is left out of the
    maximum and gets 1.
    head: bool. norm="backbone": the head gets 1 and the maximum runs over the backbone; a fresh head's
    weights are near zero, its ratio would all but freeze the backbone. norm="all": the maximum runs over
    everything. The second value, a 0-d bool, is False for gradients that are not finite or all zero: keep the
    ratios you had."""
    squares = [x.new_zeros(len(x)).index_add_(0, layer, x * x)[layer] for x in (grad_norms, weight_norms)]
    own, whole = weight_norms > 0, squares[1] > 0
    ratio = torch.where(own, grad_norms / weight_norms, (squares[0] / squares[1]).sqrt())
    defined = own | whole
    counted = defined & ~head if norm == "backbone" else defined
    maximum = torch.where(counted, ratio, 0.0).max()
    trusted = torch.isfinite(grad_norms).all() & torch.isfinite(weight_norms).all() & (maximum > 0)
    result = torch.where(defined, ratio / maximum, 1.0)
    return torch.where(head, 1.0, result) if norm == "backbone" else result, trusted


class RelativeGradientNorm:
    """Auto-RGN's ratios, measured and applied. Norms are summed over steps on the device; their means give a
    new set of ratios before each epoch, or every rgn_every steps. The first epoch has none before it: its
    ratios are those of its first usable step.

    norms: the function that measures, grad_weight_norms above or the compiled kernel (use_kernel)."""

    def __init__(self, plan: Plan, layer_names: list[str], hyper: Hyperparameters):
        self.plan, self.hyper, self.norms = plan, hyper, grad_weight_norms
        self.new_optimizer = hyper.rgn_reset
        self.every = hyper.rgn_every if hyper.rgn_source == "backward" else 0  # steps between new ratios
        self.weights = [p for group in plan.groups for p in group["params"]]
        first = {name: i for i, name in reversed(list(enumerate(layer_names)))}
        self._unit = torch.tensor([i for i, group in enumerate(plan.groups) for _ in group["params"]])
        self._layer = torch.tensor([first[name] for name in layer_names])
        self._head = torch.tensor([group["block"] == "head" for group in plan.groups])
        self.steps, self.provisional = 0, True  # provisional: no window of steps has been closed yet
        self.state: dict[str, Tensor] = {}
        self.held = (
            None  # the kernel's own list of the parameters: it reads their .grad without a call for each
        )
        if hyper.rgn_source == "backward":
            self.after_backward = self._after_backward

    def use_kernel(self, kernel) -> None:
        self.norms = kernel
        self.held = kernel.hold(self.weights, self._unit.to(self.weights[0].device), len(self._layer))

    def before_epoch(self, probe: Callable[[int], Iterable[Tensor]] | None) -> None:
        if self.hyper.rgn_source == "probe":
            if probe is None:
                raise ValueError("rgn_source='probe' needs begin_epoch(epoch, probe)")
            self._probe(probe)
        if self.state and not self.every:
            self._update()

    def _after_backward(self) -> None:
        self._measure(None)
        self.steps += 1
        if self.every and self.steps % self.every == 0:
            self._update()
        elif self.provisional:
            self._update(provisional=True)

    def _probe(self, probe: Callable[[int], Iterable[Tensor]]) -> None:
        """As the authors' code does, but with BatchNorm in eval, so that nothing is left behind by it."""
        modes = {module: module.training for module in self.plan.model.modules()}
        self.plan.model.eval()
        try:
            for loss in probe(self.hyper.rgn_batches):
                self._measure(torch.autograd.grad(loss, self.weights, allow_unused=True))
        finally:
            for module, training in modes.items():
                module.training = training
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for value in self.state.values():  # each rank has drawn its own batches: rank 0's count
                torch.distributed.broadcast(value, src=0)

    @torch.no_grad()
    def _measure(self, grads: list[Tensor | None] | None) -> None:
        """grads: None for the parameters' own."""
        device = self.weights[0].device
        self._unit, self._layer, self._head = (x.to(device) for x in (self._unit, self._layer, self._head))
        if grads is None and self.held is not None:
            grad, weight = self.held.norms()
        else:
            grads = [p.grad for p in self.weights] if grads is None else grads
            weights = [p.detach() for p in self.weights]
            grad, weight = self.norms(weights, grads, self._unit, len(self._layer))
        if not self.state:
            zeros, zero = torch.zeros_like(grad), grad.new_zeros(())
            self.state = {
                "grad": zeros,
                "weight": zeros.clone(),
                "count": zero,
                "seen": zero.clone(),
                "skipped": zero.clone(),
                "known": torch.zeros_like(zero, dtype=torch.bool),
                "ratios": torch.ones_like(grad),
                "behind_grad": torch.full_like(grad, math.nan),
                "behind_weight": torch.full_like(grad, math.nan),
            }
        # Overflowed fp16 steps and all-zero gradients say nothing about the layers: they are left out and
        # counted.
        usable = torch.isfinite(grad).all() & torch.isfinite(weight).all() & (grad > 0).any()
        self.state["grad"] += torch.where(usable, grad, 0.0)
        self.state["weight"] += torch.where(usable, weight, 0.0)
        self.state["count"] += usable
        self.state["seen"] += 1

    @torch.no_grad()
    def _update(self, provisional: bool = False) -> None:
        """New ratios from the window's means, the old ones where these cannot be trusted; the device decides,
        not the host. provisional: within the first window, only while no ratio is known, and the window stays
        open."""
        state = self.state
        means = state["grad"] / state["count"], state["weight"] / state["count"]
        if self.held is None:
            ratios, trusted = relative_ratios(*means, self._layer, self._head, self.hyper.rgn_norm)
        else:
            backbone, ones = self.hyper.rgn_norm == "backbone", torch.ones_like(means[0], dtype=torch.float32)
            arguments = (*means, self._layer, self._head, state["ratios"], ones, 1.0, backbone)
            ratios, _, trusted = self.norms.relative_rates(*arguments)
        replace = trusted & ~state["known"] if provisional else trusted
        for name, value in (("ratios", ratios), ("behind_grad", means[0]), ("behind_weight", means[1])):
            state[name] = torch.where(replace, value, state[name])
        state["known"] = state["known"] | trusted
        self.plan.ratios = state["ratios"]
        if not provisional:
            self.provisional = False
            state["skipped"] = state["skipped"] + state["seen"] - state["count"]
            for name in ("grad", "weight", "count", "seen"):
                state[name] = torch.zeros_like(state[name])

    def skipped_steps(self) -> int:
        return int(self.state["skipped"] + self.state["seen"] - self.state["count"]) if self.state else 0

    def table(self) -> list[dict]:
        if not self.state:
            return []
        columns = [self.state[name].tolist() for name in ("behind_grad", "behind_weight", "ratios")]
        return [
            {
                "layer": group["name"],
                "block": group["block"],
                "grad_norm": grad,
                "weight_norm": weight,
                "ratio": ratio,
                "lr": group["lr"] * ratio,
            }
            for group, grad, weight, ratio in zip(self.plan.groups, *columns)
        ]

    def state_dict(self) -> dict:
        return {"state": self.state, "steps": self.steps, "provisional": self.provisional}

    def load_state_dict(self, state: dict) -> None:
        device = self.weights[0].device
        self.state = {name: value.to(device) for name, value in state["state"].items()}
        self.steps, self.provisional = state["steps"], state["provisional"]
        self.plan.ratios = self.state.get("ratios")


# ------------------------------------------------------------------------------------------- the table of all


@dataclass(frozen=True)
class Strategy:
    """name: the paper's. rates: half-decade grids of the learning rate for AdamW (and Adam) and for SGD with
    momentum 0.9. default: the grid's centre, of two the lower. alphas: grid of the SP penalties by decades,
    alpha its default. No default stands at an end of its grid."""

    name: str
    build: Callable[[list[Block], float, Hyperparameters], Plan]
    adamw: tuple[float, ...]
    sgd: tuple[float, ...]
    alphas: tuple[float, ...] = ()
    alpha: float | None = None
    uses: tuple[str, ...] = ("weight_decay",)  # the Hyperparameters, besides bn and stage_shares, that matter

    def rates(self, opt: str) -> tuple[float, ...]:
        if opt not in ("adamw", "adam", "sgd"):
            raise ValueError(f"opt is {opt!r}; choose from adamw, adam, sgd")
        return self.sgd if opt == "sgd" else self.adamw

    def default_lr(self, opt: str) -> float:
        rates = self.rates(opt)
        return rates[(len(rates) - 1) // 2]


FT_RATES = {"adamw": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3), "sgd": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
LP_RATES = {"adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "sgd": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)}
LPFT_RATES = {"adamw": (3e-6, 1e-5, 3e-5, 1e-4, 3e-4), "sgd": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
# Ratios are at most 1, so about a decade above FT.
RGN_RATES = {"adamw": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "sgd": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)}

SP_USES = ("alpha", "beta", "sp_mode")
RGN_USES = (
    "weight_decay",
    *(name for name in Hyperparameters.__dataclass_fields__ if name.startswith("rgn_")),
)

STRATEGIES: dict[str, Strategy] = {
    "ft": Strategy("FT", ft, **FT_RATES),
    "lp": Strategy("LP", lp, **LP_RATES),
    "glf": Strategy("G-LF", glf, **FT_RATES),
    "gfl": Strategy("G-FL", gfl, **FT_RATES),
    "lpft": Strategy("LP-FT", lpft, **LPFT_RATES, uses=("weight_decay", "lp_lr")),
    "l1sp": Strategy("L1-SP", l1sp, **FT_RATES, alphas=(1e-5, 1e-4, 1e-3), alpha=1e-4, uses=SP_USES),
    "l2sp": Strategy("L2-SP", l2sp, **FT_RATES, alphas=(1e-3, 1e-2, 1e-1, 1.0), alpha=1e-1, uses=SP_USES),
    "autorgn": Strategy("Auto-RGN", autorgn, **RGN_RATES, uses=RGN_USES),
}


def strategy_key(name: str) -> str:
    """The key in STRATEGIES of a name in any spelling: Auto-RGN, auto_rgn and autorgn are one. ValueError if
    unknown."""
    key = re.sub(r"[-_ ]", "", name.lower())
    if key not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}; choose from {', '.join(STRATEGIES)}")
    return key


def trials(strategy: str, opt: str, n: int) -> list[dict]:
    """n settings to try, the same number for every strategy: {"lr", "alpha" (None where it has none)}.

    The default first, then half a decade of the rate up, half a decade down, and outward by turns; alphas
    likewise, by decades. Trial i takes the i-th rate and the i-th alpha, both from the front again when used
    up: alpha is a dimension of the same n, no extra. So L1-SP and L2-SP try the rates that FT tries, trial by
    trial up to the grid's length, from the second trial on both dimensions have moved, and no pair comes
    again (where both would start anew together, alpha is moved on by one). After the whole grid the rates
    half way between its own (geometric) follow by the same rule. n trials begin with those of n - 1.
    ValueError for n under 1."""
    entry = STRATEGIES[strategy_key(strategy)]
    if n < 1:
        raise ValueError(f"{n} trials; give at least 1")
    default, rates = entry.default_lr(opt), sorted(entry.rates(opt))
    alphas = outward(sorted(entry.alphas), entry.alpha) if entry.alphas else [None]
    points, new = [], rates
    while len(points) < n:
        turn = [rate for rate in outward(rates, default) if rate in new]
        together = math.lcm(len(turn), len(alphas))
        for i in range(len(turn) * len(alphas)):
            alpha = alphas[(i + i // together) % len(alphas)]
            points.append({"lr": turn[i % len(turn)], "alpha": alpha})
        new = [math.sqrt(rates[i] * rates[i + 1]) for i in range(len(rates) - 1)]
        rates = sorted(rates + new)
    return points[:n]


def outward(values: list[float], start: float) -> list[float]:
    """Ascending values in the order of their distance in places from `start`, the higher before the lower."""
    first = values.index(start)
    places = sorted(range(len(values)), key=lambda i: (abs(i - first), i < first))
    return [values[i] for i in places]


def resolved(
    strategy: str, opt: str, lr: float | None, hyper: Hyperparameters
) -> tuple[float, Hyperparameters]:
    """(lr, hyper) with the strategy's defaults in place of None."""
    entry = STRATEGIES[strategy_key(strategy)]
    lp_lr = STRATEGIES["lp"].default_lr(opt) if hyper.lp_lr is None else hyper.lp_lr
    alpha = entry.alpha if hyper.alpha is None else hyper.alpha
    return entry.default_lr(opt) if lr is None else lr, replace(hyper, lp_lr=lp_lr, alpha=alpha)


def make_plan(
    strategy: str,
    model: nn.Module,
    head: nn.Module | None = None,
    *,
    epochs: int,
    lr: float | None = None,
    opt: str = "adamw",
    hyper: Hyperparameters | None = None,
) -> Plan:
    """The plan of a strategy for a model whose head was replaced (None: the last Linear).

    lr: None for the strategy's default for opt ("adamw", "adam" or "sgd"). For LP-FT it is the second part's
    rate. Call it before loading a checkpoint to resume from: w0 of the SP penalties is what the model holds
    now."""
    key = strategy_key(strategy)
    lr, hyper = resolved(key, opt, lr, hyper or Hyperparameters())
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr is {lr}; it must be a finite number, 0 or more")
    blocks = blocks_of(model, head)
    return STRATEGIES[key].build(blocks, lr, hyper)._attach(key, model, blocks, epochs, hyper)
