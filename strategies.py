"""The fine-tuning strategies of Davila, Colan and Hasegawa (Image and Vision Computing 146, 2024, 105012),
as builders of optimizer param groups. Imports torch and nothing else: copy this file into your project.

    model = torchvision.models.resnet50(weights="IMAGENET1K_V2")
    head = replace_head(model, classes=4)
    plan = make_plan("autorgn", model, head, epochs=20)         # or another key of STRATEGIES
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

Top to bottom: blocks and the head, the plan, the strategies, Auto-RGN's ratios, the table of all. To add a
strategy, write a function (blocks, lr, hyper) -> Parts like `ft` and give it an entry in STRATEGIES.
Terms: w0 is the pretrained value of a weight, the head the newly initialised classifier layer, the backbone
the rest, a block a part of the backbone that is frozen and opened as one, a layer a module with parameters
of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import InitVar, dataclass, field, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Norm layers are told by their type: a "bn" in the name misses all 121 of DenseNet-121's.
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
FEWEST_BLOCKS = 4  # the general rule opens containers until there are this many


# ---- blocks and the head ----


@dataclass
class Block:
    """A part of the model that is frozen and opened as one. modules: what goes to eval() while the block is
    frozen, modules without parameters (Dropout, pooling) included. parameters: full name -> parameter."""

    name: str
    modules: list[nn.Module]
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)


def find_head(model: nn.Module) -> tuple[str, nn.Module]:
    """The classifier layer and its name: the last Linear, or the last Conv2d where there is none (as in
    SqueezeNet)."""
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

    ResNet: stem, layer1 to layer4. DenseNet: stem, denseblock1 (with transition1) to denseblock4 (and norm5).
    VGG: stage1 to stage5 between poolings, fc6+fc7. Anything else: the children with parameters; while there
    are fewer than four, the largest gives way to its own children. A norm, and a module without parameters,
    goes with the layer before it; bare parameters (class token, position embedding) go with the first block.
    Raises ValueError where a parameter is in no block or in two."""
    head = find_head(model)[1] if head is None else head
    if not any(module is head for module in model.modules()):
        raise ValueError(f"the head {head} is not a part of this {type(model).__name__}")
    family = _family(model)
    blocks = (family or _general)(model, head)
    for block in blocks:  # the strategies tell the head by its block's name
        block.name = "backbone.head" if block.name == "head" else block.name
    blocks.append(Block("head", [head]))

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owner: dict[int, Block] = {}
    for block in blocks:
        for i in {id(p) for module in block.modules for p in module.parameters()}:
            if i in owner:
                raise ValueError(f"parameter {names[i]} is in two blocks: {owner[i].name} and {block.name}")
            owner[i] = block
    for name, parameter in model.named_parameters():
        block = owner.get(id(parameter), None if family else blocks[0])
        if block is None:
            raise ValueError(f"parameter {name} of {type(model).__name__} is in no block")
        block.parameters[name] = parameter
    return blocks


def _family(model: nn.Module) -> Callable[[nn.Module, nn.Module], list[Block]] | None:
    """For torchvision's own classes, told by name and parts: others of the same name (timm's) get the general
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


def _resnet(model, head) -> list[Block]:
    stem = Block("stem", [model.conv1, model.bn1, model.relu, model.maxpool])
    return [stem, *(Block(name, [getattr(model, name)]) for name in "layer1 layer2 layer3 layer4".split())]


def _densenet(model, head) -> list[Block]:
    blocks = [Block("stem", [])]
    for name, child in model.features.named_children():
        if name.startswith("denseblock"):
            blocks.append(Block(name, []))
        blocks[-1].modules.append(child)
    return blocks


def _vgg(model, head) -> list[Block]:
    blocks = [Block("stage1", [])]
    for layer in model.features:
        blocks[-1].modules.append(layer)
        if isinstance(layer, nn.MaxPool2d):
            blocks.append(Block(f"stage{len(blocks) + 1}", []))
    blocks[-1] = Block("fc6+fc7", [layer for layer in model.classifier if layer is not head])
    return blocks


def _general(model: nn.Module, head: nn.Module) -> list[Block]:
    blocks = _children_as_blocks(model, "", head)
    while len(blocks) < FEWEST_BLOCKS:
        for block in sorted(blocks, key=_size, reverse=True):
            if parts := _split(block, head):
                place = blocks.index(block)
                blocks[place : place + 1] = parts
                break
        else:
            break
    return blocks


def _size(block: Block) -> int:
    return sum(p.numel() for module in block.modules for p in module.parameters())


def _children_as_blocks(module: nn.Module, prefix: str, head: nn.Module) -> list[Block]:
    """The children with parameters, each with the norms and parameterless modules that follow it."""
    blocks: list[Block] = []
    leading: list[nn.Module] = []  # parameterless modules before the first layer go with it
    for name, child in _children(module, prefix, head):
        if child is head:
            continue
        owners = [m for m in child.modules() if any(True for _ in m.parameters(recurse=False))]
        if blocks and all(isinstance(m, NORMS) for m in owners):
            blocks[-1].modules.append(child)
        elif not owners:
            leading.append(child)
        else:
            blocks.append(Block(name, [*leading, child]))
            leading = []
    return blocks


def _children(module: nn.Module, prefix: str, head: nn.Module):
    """Names and modules. What holds the head is opened: the head stands alone."""
    for name, child in module.named_children():
        if child is not head and any(m is head for m in child.modules()):
            yield from _children(child, f"{prefix}{name}.", head)
        else:
            yield prefix + name, child


def _split(block: Block, head: nn.Module) -> list[Block] | None:
    """The block's children as blocks, or None where it has no two of them."""
    first = next(i for i, m in enumerate(block.modules) if any(True for _ in m.parameters()))
    parts = _children_as_blocks(block.modules[first], f"{block.name}.", head)
    if not parts:
        return None
    parts[0].modules[:0] = block.modules[:first]
    parts[-1].modules.extend(block.modules[first + 1 :])
    return parts if len(parts) > 1 else _split(parts[0], head)


# ---- the plan ----


def flag(default: object, help: str, **more: object) -> object:
    """A field that is a flag of the command line, with what --help says of it. more: choices, least (of a
    number), short, before (settings.py has its meaning), and words: what a methods text says of a value, by
    value, or with {} for any that is set."""
    return field(default=default, metadata={"help": help} | more)


@dataclass(frozen=True)
class Hyperparameters:
    """What a strategy may be told besides its learning rate. None: the strategy's default from STRATEGIES.
    ValueError for a value that is not among the choices, or not a finite number of at least `least`."""

    weight_decay: float = flag(
        0.01, "weight decay; not on what L1-SP and L2-SP pull to the pretrained weights", least=0, short="--wd"
    )
    bn: str = flag(
        "train",
        "BatchNorm where it trains; eval: with its pretrained mean and variance",
        choices=("train", "eval"),
        words={"eval": "BatchNorm in evaluation mode throughout"},
    )
    stage_shares: tuple[float, ...] | None = flag(
        None,
        "share of the epochs of each stage (default: equal)",
        least=0,
        words="shares {} of the epochs for its stages",
    )
    lp_lr: float | None = flag(
        None, "LP-FT: learning rate of the first part; --lr is that of the second (default: that of LP)", least=0
    )
    lpft_mode: str = flag(
        "eval",
        "LP-FT: mode of its second part; eval: with BatchNorm's pretrained mean and variance and without Dropout",
        choices=("eval", "train"),
        before="train",
        words={"eval": "BatchNorm and Dropout in evaluation mode in its second part"},
    )
    llrd_decay: float = flag(
        0.75,
        "LLRD: factor on the learning rate from a block to the one before it",
        least=0,
        most=1,
        words="a factor of {} from block to block",
    )
    alpha: float | None = flag(
        None, "L1-SP, L2-SP: factor of the penalty on the backbone (default: each strategy's own)", least=0
    )
    beta: float = flag(0.01, "L1-SP, L2-SP: factor of the penalty on the head, which is always quadratic", least=0)
    sp_mode: str = flag(
        "loss",
        "L1-SP, L2-SP: the penalty is part of the loss, or moves the weights after the step",
        choices=("loss", "proximal"),
        words={"proximal": "the penalty as a proximal step after the optimizer's"},
    )
    rgn_source: str = flag(
        "backward",
        "Auto-RGN: norms of the training steps' gradients, or of extra batches before each epoch (probe)",
        choices=("backward", "probe"),
        words={
            "backward": "ratios from the gradients of training itself",
            "probe": "ratios from the gradients of batches drawn apart before each epoch",
        },
    )
    rgn_every: int = flag(
        0, "Auto-RGN: steps after which the ratios are new; 0: an epoch", least=0, words="ratios new every {} steps"
    )
    rgn_batches: int = flag(5, "Auto-RGN: extra batches of a probe", least=1)
    rgn_unit: str = flag(
        "layer",
        "Auto-RGN: what has a learning rate of its own",
        choices=("layer", "tensor", "block"),
        words={"layer": "one rate a layer", "tensor": "one rate a tensor", "block": "one rate a block"},
    )
    rgn_norm: str = flag(
        "backbone",
        "Auto-RGN: ratios are divided by the largest of the backbone, or of all",
        choices=("backbone", "all"),
        words={
            "backbone": "the classifier at the full rate, ratios relative to the largest of the backbone",
            "all": "ratios relative to the largest of all, the classifier's included",
        },
    )
    rgn_reset: bool = flag(False, "Auto-RGN: a new optimizer in each epoch", words={True: "a new optimizer each epoch"})

    def __post_init__(self):
        for known in fields(self):
            value, least = getattr(self, known.name), known.metadata.get("least")
            most = known.metadata.get("most", math.inf)
            choices = known.metadata.get("choices", (value,))
            if value not in choices:
                raise ValueError(f"{known.name} is {value!r}; choose from {', '.join(choices)}")
            if least is not None and value is not None:
                numbers = value if isinstance(value, tuple | list) else (value,)
                if not all(least <= number <= most and number < math.inf for number in numbers):
                    reach = f"of {least} or more" if most == math.inf else f"from {least} to {most}"
                    raise ValueError(f"{known.name} is {value}; a finite number {reach} is needed")


@dataclass(frozen=True)
class Stage:
    """Which groups train, for which share of the epochs. lr: for all of them, in place of their own.
    restart: a new optimizer and a new schedule begin with this stage. mode: "eval" leaves the whole model in
    eval() while it trains: BatchNorm with its pretrained mean and variance, Dropout off."""

    name: str
    trains: frozenset[str]
    share: float = 1.0
    lr: float | None = None
    restart: bool = False
    mode: str = "train"


def stage_starts(epochs: int, shares: Iterable[float]) -> list[int]:
    """First epoch of each stage, rounded to whole epochs. A stage whose successor starts in the same epoch is
    merged into it, and the last stage always runs: 3 epochs for six equal stages run the first, third and
    sixth."""
    shares = list(shares)
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; at least 1 is needed")
    if sum(shares) <= 0:
        raise ValueError(f"stage shares {shares}: one above 0 is needed")
    before = [epochs * sum(shares[:i]) / sum(shares) for i in range(len(shares))]
    return [min(math.floor(start + 0.5), epochs - 1) for start in before]


Probe = Callable[[int], Iterable[Tensor]]  # probe(n) yields the losses of n training batches


class Hooks:
    """What a strategy does besides its groups and stages: here, nothing. The plan calls these, and they hold
    no reference to it: in a cycle a run's weights would live on into the next run.

    before_epoch, after_backward and load_state_dict return the ratios in force from then on: (groups,)
    factors on the learning rates, None where all are 1."""

    new_optimizer = False  # True: every epoch starts one
    measures_norms = False  # True: use_kernel makes a difference

    def before_epoch(self, model: nn.Module, probe: Probe | None) -> Tensor | None: ...
    def after_backward(self) -> Tensor | None: ...
    def after_step(self, optimizer: torch.optim.Optimizer) -> None: ...
    def use_kernel(self, kernel) -> None: ...

    def table(self) -> list[dict]:
        return []

    def skipped_steps(self) -> int:
        return 0

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> Tensor | None: ...


class Parts(NamedTuple):
    """What a strategy chooses of a plan. groups: optimizer param groups, dicts with name, block, params, lr
    (the real learning rate) and weight_decay; parameters in none of them stay frozen."""

    groups: list[dict]
    stages: list[Stage]
    hooks: Hooks = Hooks()


@dataclass(eq=False, repr=False)
class Plan:
    """What a training loop needs to know of a strategy, and all that it needs. Built by make_plan.

    stages, starts: the stages and the first epoch of each. stage: the one that runs. ratios: (groups,)
    factors on the learning rates, None where all are 1."""

    strategy: str  # its key
    model: nn.Module
    blocks: list[Block]
    epochs: int
    hyper: Hyperparameters
    parts: InitVar[Parts]

    def __post_init__(self, parts: Parts):
        self._groups, self.stages, self.hooks = parts
        shares = self.hyper.stage_shares or [stage.share for stage in self.stages]
        if len(shares) != len(self.stages):
            known = f"{self.strategy} has {len(self.stages)} stages"
            raise ValueError(f"{known}, but stage_shares has {len(shares)} numbers")
        self.starts = stage_starts(self.epochs, shares)
        self.ratios: Tensor | None = None
        self._on_host: tuple[Tensor, list[float]] | None = None  # the ratios and their copy
        self.begin_stage(self.stage_at(0))

    @property
    def groups(self) -> list[dict]:
        """For an optimizer, which keeps and writes to the dicts it is given: copies."""
        return [dict(group) for group in self._groups]

    # -- stages

    def stage_at(self, epoch: int) -> int:
        return max(i for i, start in enumerate(self.starts) if start <= epoch)

    def in_last_stage(self, epoch: int) -> bool:
        """Early stopping may end a run only where this is True."""
        return self.stage_at(epoch) == len(self.stages) - 1

    def schedule_span(self, epoch: int) -> tuple[int, int]:
        """(first epoch, number of epochs) of the learning rate schedule that the epoch belongs to."""
        anew = [start for start, stage in zip(self.starts, self.stages, strict=True) if stage.restart]
        first = max(start for start in [0, *anew] if start <= epoch)
        return first, min(start for start in [*anew, self.epochs] if start > epoch) - first

    def begin_stage(self, number: int) -> None:
        """Opens the stage's groups, freezes everything else. Gradients of frozen tensors become None, not
        zero: AdamW moves a tensor whose gradient is zero."""
        self.stage, self._base = self.stages[number], None
        groups = [group for group in self._groups if group["name"] in self.stage.trains]
        training = {id(p) for group in groups for p in group["params"]}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in training)
            if id(parameter) not in training:
                parameter.grad = None

    def begin_epoch(self, epoch: int, probe: Probe | None = None) -> bool:
        """Call before each epoch (0-based). Returns True where the optimizer must be built anew from
        `groups`. Auto-RGN with rgn_source="probe" needs a probe."""
        self.begin_stage(self.stage_at(epoch))
        self.train_mode()
        self.ratios = self.hooks.before_epoch(self.model, probe)
        return epoch == self.schedule_span(epoch)[0] or self.hooks.new_optimizer

    def train_mode(self) -> None:
        """model.train(), then eval() for every block without a trainable parameter: requires_grad=False alone
        lets a BatchNorm's running statistics drift and a Dropout drop. A stage of mode "eval": all eval()."""
        self.model.train(self.stage.mode == "train")
        for block in self.blocks:
            frozen = not any(p.requires_grad for p in block.parameters.values())
            for module in (m for part in block.modules for m in part.modules()):
                if frozen or (self.hyper.bn == "eval" and isinstance(module, BATCH_NORMS)):
                    module.training = False

    # -- the step

    def after_backward(self) -> None:
        """Call once per optimizer step: after unscaling and all-reduce, before clipping."""
        self.ratios = self.hooks.after_backward()

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Call after each step that was taken, not after one that a GradScaler skipped: what shrinks the
        weights belongs to the step."""
        self.hooks.after_step(optimizer)

    def set_rates(self, optimizer: torch.optim.Optimizer, factor: float = 1.0) -> None:
        """lr of each group = its own lr * factor (the schedule's value now) * Auto-RGN's ratio. In closed
        form: nothing is multiplied up from step to step, so a resumed run has the same rates."""
        base = [group["lr"] if self.stage.lr is None else self.stage.lr for group in self._groups]
        if self.ratios is not None and takes_tensor_rates(optimizer):  # no synchronisation
            if self._base is None:  # copied to the device once a stage, not once a step
                self._base = torch.tensor(base, dtype=torch.float32, device=self.ratios.device)
            rates: Iterable = (self._base * self.ratios * factor).float().unbind()
        else:
            rates = [lr * factor * ratio for lr, ratio in zip(base, self._ratio_list(), strict=True)]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _ratio_list(self) -> list[float]:
        if self.ratios is None:
            return [1.0] * len(self._groups)
        if self._on_host is None or self._on_host[0] is not self.ratios:
            self._on_host = self.ratios, self.ratios.tolist()  # the one synchronisation per new ratios
        return self._on_host[1]

    def measures_norms(self) -> bool:
        """Whether use_kernel makes a difference: Auto-RGN."""
        return self.hooks.measures_norms

    def use_kernel(self, kernel) -> None:
        """Measures with the compiled kernel that csrc/loader.py loads, in place of grad_weight_norms."""
        self.hooks.use_kernel(kernel)

    # -- what to print, save and restore

    def trainable_parameters(self) -> int:
        """Number of parameters that train in any stage that runs."""
        run = set().union(*(self.stages[self.stage_at(epoch)].trains for epoch in range(self.epochs)))
        return sum(p.numel() for group in self._groups if group["name"] in run for p in group["params"])

    def description(self) -> list[str]:
        """Lines for a reader: what trains when, then blocks with rate and decay before the schedule."""
        total = sum(p.numel() for p in self.model.parameters())
        spans = [
            f"{stage.name} from epoch {start + 1}"
            for stage, start, end in zip(self.stages, self.starts, [*self.starts[1:], self.epochs], strict=True)
            if end > start
        ]
        trains = f"trains {self.trainable_parameters():,} of {total:,} parameters"
        lines = [f"{trains}; stages: {', '.join(spans)}"]
        blocks: dict[tuple, list[dict]] = {}
        for group in self.groups:  # Auto-RGN has a group for each layer: a line a block is what can be read
            blocks.setdefault((group["block"], group["lr"], group["weight_decay"]), []).append(group)
        for (block, lr, decay), groups in blocks.items():
            count = sum(p.numel() for group in groups for p in group["params"])
            many = f", {len(groups)} groups" if len(groups) > 1 else ""
            lines.append(f"  {block:<24} {count:>12,} parameters  lr {lr:g}  weight decay {decay:g}{many}")
        lp = next((stage.lr for stage in self.stages if stage.lr is not None), None)
        return lines + ([] if lp is None else [f"  stage {self.stages[0].name}: lr {lp:g}"])

    def table(self) -> list[dict]:
        """Auto-RGN: per unit the norms of gradient and weight behind the ratio in force, the ratio and the
        rate before the schedule. Other strategies: no rows."""
        return self.hooks.table()

    def skipped_steps(self) -> int:
        """Auto-RGN: steps so far whose gradients were not finite, or all zero, and gave no ratio."""
        return self.hooks.skipped_steps()

    def state_dict(self) -> dict:
        """What begin_epoch and the hooks need to go on after a restart. w0 is not in it: it is the weights as
        loaded."""
        return self.hooks.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.ratios = self.hooks.load_state_dict(state)


def takes_tensor_rates(optimizer: torch.optim.Optimizer) -> bool:
    """Fused SGD, Adam and AdamW read a tensor rate on the parameters' device without a synchronisation."""
    on_gpu = optimizer.param_groups[0]["params"][0].is_cuda
    return on_gpu and all(group.get("fused") for group in optimizer.param_groups)


# ---- the strategies ----


def _group(name: str, block: str, params: list[nn.Parameter], lr: float, weight_decay: float) -> dict:
    return {"name": name, "block": block, "params": params, "lr": lr, "weight_decay": weight_decay}


def groups_of(blocks: list[Block], lr: float, weight_decay: float) -> list[dict]:
    """A group for each block."""
    some = [(block.name, list(block.parameters.values())) for block in blocks]
    return [_group(name, name, parameters, lr, weight_decay) for name, parameters in some]


def names_of(groups: list[dict]) -> frozenset[str]:
    return frozenset(group["name"] for group in groups)


def ft(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """FT, full fine-tuning: every parameter trains."""
    groups = groups_of(blocks, lr, hyper.weight_decay)
    return Parts(groups, [Stage("all", names_of(groups))])


def lp(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """LP, linear probing: the head trains, the backbone is bit-identical afterwards."""
    groups = groups_of(blocks[-1:], lr, hyper.weight_decay)
    return Parts(groups, [Stage("head", names_of(groups))])


def glf(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """G-LF, gradual unfreezing from the last block to the first (Howard and Ruder, ACL 2018): the head, then
    with each stage one more block."""
    groups = groups_of(blocks, lr, hyper.weight_decay)
    return Parts(groups, _gradual(groups[-1], groups[-2::-1]))


def gfl(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """G-FL, gradual unfreezing from the first block to the last (Lee et al., ICLR 2023). The head trains from
    the first stage on, being random."""
    groups = groups_of(blocks, lr, hyper.weight_decay)
    return Parts(groups, _gradual(groups[-1], groups[:-1]))


def _gradual(head: dict, order: list[dict]) -> list[Stage]:
    stages = [Stage("head", frozenset([head["name"]]))]
    for group in order:
        stages.append(Stage(f"+{group['name']}", stages[-1].trains | {group["name"]}))
    return stages


def lpft(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """LP-FT (Kumar et al., ICLR 2022): the head at hyper.lp_lr, then everything at lr from that solution,
    with a fresh optimizer and schedule. The second part stays in eval mode, as the authors' experiments do
    (use_net_val_mode, lp_then_ft_valmode_experiments in their code): batch statistics and dropout would change
    the features below the head before a weight has moved, and with them the solution it is to start from; by
    the switch lpft_mode it is in train mode. No switch undoes: the authors start from a logistic regression that
    is solved."""
    groups = groups_of(blocks, lr, hyper.weight_decay)
    probing = Stage("lp", names_of(groups[-1:]), lr=hyper.lp_lr)
    return Parts(groups, [probing, Stage("ft", names_of(groups), restart=True, mode=hyper.lpft_mode)])


def l1sp(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """L1-SP (Li, Grandvalet, Davoine, ICML 2018): L + alpha sum |w - w0| on the backbone + beta/2 sum w^2 on
    the head. No weight decay: it would pull away from w0."""
    groups = groups_of(blocks, lr, weight_decay=0.0)
    return Parts(groups, [Stage("all", names_of(groups))], StartingPoint(blocks, hyper, order=1))


def l2sp(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """L2-SP (Li et al. 2018, eq. 2): L + alpha/2 sum (w - w0)^2 on the backbone + beta/2 sum w^2 on the head.
    No weight decay: it would move the target from w0 to w0 * alpha / (alpha + weight decay). alpha is 0.1, the
    paper's; tllib has 0.01."""
    groups = groups_of(blocks, lr, weight_decay=0.0)
    return Parts(groups, [Stage("all", names_of(groups))], StartingPoint(blocks, hyper, order=2))


def autorgn(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """Auto-RGN (Lee et al., ICLR 2023): every parameter trains; lr of layer i = lr * RGN_i / max_j RGN_j,
    with RGN_i = norm2(gradient of layer i) / norm2(weight of layer i). Deviates from the authors' code by
    default, each by its switch: rgn_source, rgn_unit, rgn_norm, rgn_reset. No switch undoes: theirs leaves tensors
    with bn in their name out of the optimizer, is Adam with weight decay 1e-4 at a constant rate, and probes in
    train mode."""
    groups: dict[str, dict] = {}
    layers: dict[str, str] = {}  # of each group, the first where it has several
    for block in blocks:
        for name, parameter in block.parameters.items():
            layer = name.rpartition(".")[0] or name  # weight and bias of one module
            unit = {"layer": layer, "tensor": name, "block": block.name}[hyper.rgn_unit]
            group = groups.setdefault(unit, _group(unit, block.name, [], lr, hyper.weight_decay))
            group["params"].append(parameter)
            layers.setdefault(unit, layer)
    groups = list(groups.values())
    return Parts(groups, [Stage("all", names_of(groups))], RelativeGradientNorm(groups, layers, hyper))


class StartingPoint(Hooks):
    """The penalties of L1-SP and L2-SP. w0 is copied when the plan is built, from the weights as loaded.

    loss: their gradient is added to the gradient of the loss, as in the paper. proximal: after the step the
    penalty's proximal operator with lr * alpha is applied: w0 + (w - w0) / (1 + lr * alpha), or the soft
    threshold, which leaves weights that equal w0 exactly. With Adam that is the meaningful one: Adam rescales
    what stands in the gradient."""

    def __init__(self, blocks: list[Block], hyper: Hyperparameters, order: int):
        self.backbone = [p for block in blocks[:-1] for p in block.parameters.values()]
        self.head = list(blocks[-1].parameters.values())
        self.w0 = [p.detach().clone() for p in self.backbone]
        self.alpha, self.beta, self.order, self.mode = hyper.alpha, hyper.beta, order, hyper.sp_mode

    def _with_grad(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """(backbone, its w0, head), of the parameters that have a gradient."""
        if self.w0 and self.w0[0].device != self.backbone[0].device:  # the model was moved since
            self.w0 = [w0.to(p.device) for w0, p in zip(self.w0, self.backbone, strict=True)]
        some = [i for i, p in enumerate(self.backbone) if p.grad is not None]
        head = [p for p in self.head if p.grad is not None]
        return [self.backbone[i] for i in some], [self.w0[i] for i in some], head

    @torch.no_grad()
    def after_backward(self) -> None:
        if self.mode == "proximal":
            return
        weights, w0, head = self._with_grad()
        if weights:
            pull = torch._foreach_sub(weights, w0)
            if self.order == 1:
                torch._foreach_sign_(pull)
            torch._foreach_add_([p.grad for p in weights], pull, alpha=self.alpha)
        if head:
            torch._foreach_add_([p.grad for p in head], head, alpha=self.beta)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.mode == "loss":
            return
        lr = optimizer.param_groups[0]["lr"]  # the SP strategies have one rate for all groups
        weights, w0, head = self._with_grad()
        if weights:
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
        if head:
            torch._foreach_div_(head, 1 + lr * self.beta)


def top(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """The head and the last block before it train (Yosinski et al., NeurIPS 2014)."""
    groups = groups_of(blocks[-2:], lr, hyper.weight_decay)
    return Parts(groups, [Stage("top", names_of(groups))])


def llrd(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """Layer-wise decay of the learning rate, by blocks: the head at lr, each block before it at hyper.llrd_decay times
    the rate of the next (Howard and Ruder, ACL 2018, 3.1, with 1 / 2.6; 0.65 to 0.9 is usual since ELECTRA)."""
    groups = groups_of(blocks, lr, hyper.weight_decay)
    for behind, group in enumerate(reversed(groups)):
        group["lr"] = lr * hyper.llrd_decay**behind
    return Parts(groups, [Stage("all", names_of(groups))])


def norm(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """The head and the scales and shifts of all norm layers train (Frankle, Schwab, Morcos, ICLR 2021)."""
    norms = {
        p
        for block in blocks
        for part in block.modules
        for m in part.modules()
        if isinstance(m, NORMS)
        for p in m.parameters(recurse=False)
    }
    return _head_and(blocks, lambda name, p: p in norms, lr, hyper)


def bitfit(blocks: list[Block], lr: float, hyper: Hyperparameters) -> Parts:
    """The head and every bias train, the shifts of norm layers among them (BitFit: Ben Zaken, Goldberg, Ravfogel,
    ACL 2022)."""
    return _head_and(blocks, lambda name, p: name.rpartition(".")[2] == "bias", lr, hyper)


def _head_and(blocks: list[Block], chosen: Callable, lr: float, hyper: Hyperparameters) -> Parts:
    """The head, and of the other blocks the parameters for which chosen(name, parameter)."""
    groups = []
    for block in blocks[:-1]:
        if some := [p for name, p in block.parameters.items() if chosen(name, p)]:
            groups.append(_group(block.name, block.name, some, lr, hyper.weight_decay))
    groups += groups_of(blocks[-1:], lr, hyper.weight_decay)
    return Parts(groups, [Stage("chosen", names_of(groups))])


# ---- Auto-RGN ----


def grad_weight_norms(
    weights: list[Tensor], grads: list[Tensor | None], unit: Tensor, units: int
) -> tuple[Tensor, Tensor]:
    """Norms of the gradients and of the weights of each unit, the reference of the compiled kernel in csrc/.

    weights, grads: lists of tensors of any shape and floating dtype; a None gradient counts as zero. unit:
    (tensors,) int64, the unit of each tensor, on the weights' device. Returns two (units,) tensors, float64
    where the device has it, with a relative error below 1e-6. No host synchronisation."""
    dtype = torch.float32 if weights[0].device.type == "mps" else torch.float64
    known = [i for i, g in enumerate(grads) if g is not None]
    squares = sum_of_squares([*weights, *(grads[i] for i in known)], dtype)
    unit_of_grad = (
        unit if len(known) == len(grads) else unit[torch.tensor(known, dtype=torch.int64, device=unit.device)]
    )
    zeros = squares.new_zeros(2, units)
    zeros[0].index_add_(0, unit_of_grad, squares[len(weights) :])
    zeros[1].index_add_(0, unit, squares[: len(weights)])
    grad_norms, weight_norms = zeros.sqrt_().unbind()
    return grad_norms, weight_norms


def sum_of_squares(tensors: list[Tensor], dtype: torch.dtype = torch.float64) -> Tensor:
    """(len(tensors),) of `dtype`. On the CPU torch's float32 norm is wrong by 1 % for the
    largest layer of VGG-19 (one running sum over 100 million squares) and its float64 norm is slow: so rows
    of 4,096 elements in float32, their squares added up in float64. On a GPU one call takes all, in `dtype`: a square
    above 3.4e38 would overflow in float32, and float64 tensors would be refused."""
    if tensors[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype)).square_()
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
    norms = torch._foreach_norm(list(small.values()), 2, dtype=dtype)
    for i, norm in zip(small, norms, strict=True):
        sums[i] = norm.square_() + sums[i] if i in sums else norm.square_()
    return torch.stack([sums[i] for i in range(len(tensors))])


def relative_ratios(
    grad_norms: Tensor, weight_norms: Tensor, layer: Tensor, head: Tensor, norm: str = "backbone"
) -> tuple[Tensor, Tensor]:
    """RGN_i / max_j RGN_j per unit, and whether it can be trusted. All (units,), on one device, no
    synchronisation. The reference of the compiled kernel in csrc/.

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


class RelativeGradientNorm(Hooks):
    """Auto-RGN's ratios, measured. Norms are summed over steps on the device; their means give a new set of
    ratios before each epoch, or every rgn_every steps. The first epoch has none before it: its ratios are
    those of its first usable step.

    groups: the plan's, one a unit. layers: name of the unit -> name of its layer. norms, ratios_of: the
    functions that measure, those above or the compiled kernel's (use_kernel)."""

    measures_norms = True

    def __init__(self, groups: list[dict], layers: dict[str, str], hyper: Hyperparameters):
        self.groups, self.hyper, self.new_optimizer = groups, hyper, hyper.rgn_reset
        self.norms, self.ratios_of = grad_weight_norms, relative_ratios
        self.held = None  # the kernel's own list of the parameters, whose .grad it reads without a call each
        self.every = hyper.rgn_every if hyper.rgn_source == "backward" else 0  # steps between new ratios
        self.weights = [p for group in groups for p in group["params"]]
        names = list(layers.values())
        self._unit = torch.tensor([i for i, group in enumerate(groups) for _ in group["params"]])
        self._layer = torch.tensor([names.index(name) for name in names])
        self._head = torch.tensor([group["block"] == "head" for group in groups])
        self.steps, self.provisional = 0, True  # provisional: no window of steps has been closed yet
        self.state: dict[str, Tensor] = {}

    def use_kernel(self, kernel) -> None:
        self.norms, self.ratios_of = kernel, kernel.relative_ratios
        self.held = kernel.hold(self.weights, self._unit.to(self.weights[0].device), len(self._layer))

    def before_epoch(self, model: nn.Module, probe: Probe | None) -> Tensor | None:
        if self.hyper.rgn_source == "probe":
            if probe is None:
                raise ValueError("rgn_source='probe' needs begin_epoch(epoch, probe)")
            self._probe(model, probe)
        if self.state and not self.every:
            self._update()
        return self.state.get("ratios")

    def after_backward(self) -> Tensor | None:
        if self.hyper.rgn_source == "backward":
            self._measure(None)
            self.steps += 1
            if self.every and self.steps % self.every == 0:
                self._update()
            elif self.provisional:
                self._update(provisional=True)
        return self.state.get("ratios")

    def _probe(self, model: nn.Module, probe: Probe) -> None:
        """As the authors' code does, but with BatchNorm in eval, so that nothing is left behind by it."""
        modes = {module: module.training for module in model.modules()}
        model.eval()
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
        """Adds the norms of a step to the window. grads: None for the parameters' own."""
        device = self.weights[0].device
        self._unit, self._layer, self._head = (x.to(device) for x in (self._unit, self._layer, self._head))
        if grads is None and self.held is not None:
            grad, weight = self.held.norms()
        else:
            grads = [p.grad for p in self.weights] if grads is None else grads
            weights = [p.detach() for p in self.weights]
            grad, weight = self.norms(weights, grads, self._unit, len(self._layer))
        if not self.state:
            starts = {"grad": 0, "weight": 0, "ratios": 1, "behind_grad": math.nan, "behind_weight": math.nan}
            self.state = {name: torch.full_like(grad, start) for name, start in starts.items()}
            self.state |= {name: grad.new_zeros(()) for name in ("count", "seen", "skipped")}
            self.state["known"] = grad.new_zeros((), dtype=torch.bool)
        # Overflowed fp16 steps and all-zero gradients say nothing about the layers: left out and counted.
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
        ratios, trusted = self.ratios_of(*means, self._layer, self._head, self.hyper.rgn_norm)
        takes = trusted & ~state["known"] if provisional else trusted
        for name, value in (("ratios", ratios), ("behind_grad", means[0]), ("behind_weight", means[1])):
            state[name] = torch.where(takes, value, state[name])
        state["known"] = state["known"] | trusted
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
        columns = (self.state[name].tolist() for name in ("behind_grad", "behind_weight", "ratios"))
        return [
            {"layer": group["name"], "block": group["block"], "grad_norm": grad, "weight_norm": weight}
            | {"ratio": ratio, "lr": group["lr"] * ratio}
            for group, grad, weight, ratio in zip(self.groups, *columns, strict=True)
        ]

    def state_dict(self) -> dict:
        return {"state": self.state, "steps": self.steps, "provisional": self.provisional}

    def load_state_dict(self, state: dict) -> Tensor | None:
        device = self.weights[0].device
        self.state = {name: value.to(device) for name, value in state["state"].items()}
        self.steps, self.provisional = state["steps"], state["provisional"]
        return self.state.get("ratios")


# ---- the table of all ----


@dataclass(frozen=True)
class Strategy:
    """name: the paper's. sentence: what it does, for a methods text. source: a key of SOURCES. staged: it
    trains in stages. adamw, sgd: half-decade grids of the learning rate for AdamW (and Adam) and for SGD with
    momentum 0.9; the default is the grid's centre, of two the lower. alphas: grid of the SP penalties by
    decades, alpha its default. No default stands at an end of its grid. uses: the Hyperparameters, besides bn
    and stage_shares, that matter."""

    name: str
    build: Callable[[list[Block], float, Hyperparameters], Parts]
    sentence: str
    adamw: tuple[float, ...]
    sgd: tuple[float, ...]
    source: str = ""
    staged: bool = False
    alphas: tuple[float, ...] = ()
    alpha: float | None = None
    uses: tuple[str, ...] = ("weight_decay",)
    paper: bool = True  # one of the paper's, which "all" means; False: one of "more"
    pretrained: bool = True  # False: from random weights, whatever there is

    def rates(self, opt: str) -> tuple[float, ...]:
        if opt not in ("adamw", "adam", "sgd"):
            raise ValueError(f"opt is {opt!r}; choose from adamw, adam, sgd")
        return self.sgd if opt == "sgd" else self.adamw

    def default_lr(self, opt: str) -> float:
        rates = self.rates(opt)
        return rates[(len(rates) - 1) // 2]


FT_RATES = {"adamw": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3), "sgd": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
LP_RATES = {"adamw": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), "sgd": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)}
LPFT_RATES = {"adamw": (3e-6, 1e-5, 3e-5, 1e-4, 3e-4), "sgd": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
# Ratios are at most 1, so about a decade above FT.
RGN_RATES = {"adamw": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "sgd": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)}

LLRD_RATES = {"adamw": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3), "sgd": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)}  # FT's half a decade up

SP_USES = ("alpha", "beta", "sp_mode")
RGN_USES = ("weight_decay", *(f.name for f in fields(Hyperparameters) if f.name.startswith("rgn_")))

SOURCES = {
    "Yosinski et al. 2014": "Yosinski J, Clune J, Bengio Y, Lipson H. How transferable are features in deep neural "
    "networks? NeurIPS 2014.",
    "Frankle et al. 2021": "Frankle J, Schwab DJ, Morcos AS. Training BatchNorm and only BatchNorm: on the expressive "
    "power of random features in CNNs. ICLR 2021.",
    "Ben Zaken et al. 2022": "Ben Zaken E, Goldberg Y, Ravfogel S. BitFit: simple parameter-efficient fine-tuning for "
    "transformer-based masked language-models. ACL 2022.",
    "Howard and Ruder 2018": "Howard J, Ruder S. Universal language model fine-tuning for text "
    "classification. ACL 2018.",
    "Li et al. 2018": "Li X, Grandvalet Y, Davoine F. Explicit inductive bias for transfer learning with "
    "convolutional networks. ICML 2018, PMLR 80.",
    "Kumar et al. 2022": "Kumar A, Raghunathan A, Jones R, Ma T, Liang P. Fine-tuning can distort "
    "pretrained features and underperform out-of-distribution. ICLR 2022.",
    "Lee et al. 2023": "Lee Y, Chen AS, Tajwar F, Kumar A, Yao H, Liang P, Finn C. Surgical fine-tuning "
    "improves adaptation to distribution shifts. ICLR 2023.",
}

GRADUAL_SENTENCE = "gradual unfreezing of the blocks from the {}, the classifier trained throughout"
SP_SENTENCE = "all weights trained with an {} penalty on the backbone's distance from its pretrained weights"

STRATEGIES: dict[str, Strategy] = {
    "ft": Strategy("FT", ft, sentence="all weights trained", **FT_RATES),
    "lp": Strategy(
        "LP",
        lp,
        sentence="only the new classifier layer trained, the backbone frozen, BatchNorm statistics included",
        **LP_RATES,
    ),
    "glf": Strategy(
        "G-LF",
        glf,
        sentence=GRADUAL_SENTENCE.format("last to the first"),
        source="Howard and Ruder 2018",
        staged=True,
        **FT_RATES,
    ),
    "gfl": Strategy(
        "G-FL",
        gfl,
        sentence=GRADUAL_SENTENCE.format("first to the last"),
        source="Lee et al. 2023",
        staged=True,
        **FT_RATES,
    ),
    "lpft": Strategy(
        "LP-FT",
        lpft,
        sentence="the classifier alone for the first part of the epochs, then all weights with a fresh "
        "optimizer and schedule",
        source="Kumar et al. 2022",
        staged=True,
        uses=("weight_decay", "lp_lr", "lpft_mode"),
        **LPFT_RATES,
    ),
    "l1sp": Strategy(
        "L1-SP",
        l1sp,
        sentence=SP_SENTENCE.format("L1"),
        source="Li et al. 2018",
        alphas=(1e-5, 1e-4, 1e-3),
        alpha=1e-4,
        uses=SP_USES,
        **FT_RATES,
    ),
    "l2sp": Strategy(
        "L2-SP",
        l2sp,
        sentence=SP_SENTENCE.format("L2"),
        source="Li et al. 2018",
        alphas=(1e-3, 1e-2, 1e-1, 1.0),
        alpha=1e-1,
        uses=SP_USES,
        **FT_RATES,
    ),
    "autorgn": Strategy(
        "Auto-RGN",
        autorgn,
        sentence="all weights trained, each layer's learning rate in proportion to its relative gradient norm",
        source="Lee et al. 2023",
        uses=RGN_USES,
        **RGN_RATES,
    ),
    "scratch": Strategy(
        "Scratch", ft, sentence="all weights trained from a random start", paper=False, pretrained=False, **RGN_RATES
    ),
    "top": Strategy(
        "Top",
        top,
        sentence="the classifier and the last block trained, the rest frozen",
        source="Yosinski et al. 2014",
        paper=False,
        **FT_RATES,
    ),
    "llrd": Strategy(
        "LLRD",
        llrd,
        sentence="all weights trained, the learning rate falling by a factor from each block to the one before it",
        source="Howard and Ruder 2018",
        uses=("weight_decay", "llrd_decay"),
        paper=False,
        **LLRD_RATES,
    ),
    "norm": Strategy(
        "Norm",
        norm,
        sentence="the classifier and the scales and shifts of the norm layers trained",
        source="Frankle et al. 2021",
        paper=False,
        **RGN_RATES,
    ),
    "bitfit": Strategy(
        "BitFit",
        bitfit,
        sentence="the classifier and all biases trained",
        source="Ben Zaken et al. 2022",
        paper=False,
        **RGN_RATES,
    ),
}


def strategy_key(name: str) -> str:
    """The key in STRATEGIES of a name in any spelling: Auto-RGN, auto_rgn and autorgn are one. ValueError if
    unknown."""
    key = re.sub(r"[-_ ]", "", name.lower())
    if key not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}; choose from {', '.join(STRATEGIES)}")
    return key


def about(strategy: str, hyper: Hyperparameters | None = None) -> dict:
    """What a report needs of a strategy: its place among all, what it does, a full reference ("" where there
    is none), whether it trains in stages, and what hyper chose of it, in words."""
    key = strategy_key(strategy)
    entry, order = STRATEGIES[key], list(STRATEGIES).index(key)
    citation = SOURCES[entry.source] if entry.source else ""
    told = {"order": order, "sentence": entry.sentence, "citation": citation, "staged": entry.staged}
    return told | {"settings": in_words(key, hyper or Hyperparameters())}


def in_words(strategy: str, hyper: Hyperparameters) -> list[str]:
    """What the hyperparameters that the strategy uses say in a methods text; nothing of rates, alpha and decay, which
    stand there as numbers."""
    said = []
    for known in fields(hyper):
        words, value = known.metadata.get("words"), getattr(hyper, known.name)
        if words is None or known.name not in ("bn", "stage_shares", *STRATEGIES[strategy].uses):
            continue
        if isinstance(words, dict):
            said += [words[value]] if value in words else []
        elif value:
            said.append(words.format(", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"))
    return said


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


def resolved(strategy: str, opt: str, lr: float | None, hyper: Hyperparameters) -> tuple[float, Hyperparameters]:
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
    parts = STRATEGIES[key].build(blocks, lr, hyper)
    return Plan(key, model, blocks, epochs=epochs, hyper=hyper, parts=parts)
