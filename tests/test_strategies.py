"""strategies.py against values worked by hand, autograd of the written penalties, and numpy in float64. On
the CPU:

    python -m pytest tests/test_strategies.py

Tests of what every strategy owes (what changes, groups, resuming) run over strategies.STRATEGIES: a new one
is covered. Block maps are worked out from the architectures; only sums of parameters come from torchvision's
own metadata."""

import ast
import dataclasses
import gc
import io
import json
import math
import subprocess
import sys
import textwrap
import weakref
from collections import Counter
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import strategies
from strategies import STRATEGIES, Hyperparameters, blocks_of, grad_weight_norms, make_plan, replace_head

CLASSES = 3
GRADUAL = ("glf", "gfl")
SP = ("l1sp", "l2sp")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads on two busy cores wait for each other: twice as slow with tensors of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- nets ----


class Toy(nn.Module):
    """Three times conv, BatchNorm, Dropout, then two linear layers. Tanh: no gradient is exactly zero."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.drop1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)
        self.conv2, self.bn2, self.drop2 = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.3)
        self.conv3, self.bn3, self.drop3 = nn.Conv2d(5, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.3)
        self.hidden, self.drop4, self.fc = nn.Linear(6, 7), nn.Dropout(0.3), nn.Linear(7, CLASSES)

    def forward(self, x):
        x = self.drop1(self.bn1(self.conv1(x)).tanh())
        x = self.drop2(self.bn2(self.conv2(x)).tanh())
        x = self.drop3(self.bn3(self.conv3(x)).tanh()).mean((2, 3))
        return self.fc(self.drop4(self.hidden(x).tanh()))


TOY_BLOCKS = ["conv1", "conv2", "conv3", "hidden", "head"]
TOY_PARAMETERS = [4 * 27 + 4 + 2 * 4, 5 * 36 + 5 + 2 * 5, 6 * 45 + 6 + 2 * 6, 7 * 6 + 7, CLASSES * 7 + CLASSES]


def toy(seed=0):
    torch.manual_seed(seed)
    model = Toy()
    with torch.no_grad():
        for p in model.parameters():  # BatchNorm's 1 and 0 too
            p.add_(torch.randn_like(p), alpha=0.1)
    return model


class NarrowResNet(torchvision.models.ResNet):
    """An eighth of the channels."""

    def _make_layer(self, block, planes, *args, **settings):
        return super()._make_layer(block, planes // 8, *args, **settings)


def small_resnet():
    torch.manual_seed(0)
    model = NarrowResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    model.fc = nn.Linear(512 // 8, 10)
    return model


def small_vgg():
    """torchvision's VGG-11 with BatchNorm, eight channels wide; its Dropouts stand in fc6 and fc7."""
    torch.manual_seed(0)
    with torch.device("meta"):
        layers = torchvision.models.vgg.make_layers([8, "M", 8, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M"], True)
        model = torchvision.models.VGG(layers, init_weights=False)
        model.classifier[0], model.classifier[3] = nn.Linear(8 * 49, 8), nn.Linear(8, 8)
        model.classifier[6] = nn.Linear(8, 10)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def small_mobilenet():
    torch.manual_seed(0)
    return torchvision.models.MobileNetV2(width_mult=0.1)


PAPER = [key for key, entry in STRATEGIES.items() if entry.paper]
NETS = {"toy": toy, "resnet": small_resnet, "vgg": small_vgg, "mobilenet": small_mobilenet}


def batch(model, n=6):
    generator = torch.Generator().manual_seed(1)
    side = 9 if isinstance(model, Toy) else 32
    images = torch.randn(n, 3, side, side, generator=generator, dtype=next(model.parameters()).dtype)
    return images, torch.arange(n) % CLASSES


def chain(*weights):
    """Linear(1, 1) layers without bias, the last is the head: one scalar weight per block, gradients set by
    hand."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in weights))
    with torch.no_grad():
        for layer, weight in zip(model, weights, strict=True):
            layer.weight.fill_(weight)
    return model


def give_gradients(model, *values):
    for p, value in zip(model.parameters(), values, strict=True):
        p.grad = None if value is None else torch.full_like(p, value)


def weightless(name):
    """A torchvision classifier whose parameters are on the meta device; nothing is drawn or stored."""
    plain = nn.Module.register_parameter

    def on_meta(module, key, p):
        plain(module, key, None if p is None else nn.Parameter(p.to("meta"), p.requires_grad))

    extra = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(nn.Module, "register_parameter", on_meta))
        for draw in (n for n in dir(nn.init) if n.endswith("_") and not n.startswith("_")):
            patches.enter_context(mock.patch.object(nn.init, draw, lambda tensor, *args, **settings: tensor))
        return torchvision.models.get_model(name, weights=None, **extra)


def adamw(groups):
    return torch.optim.AdamW(groups)


def sgd(groups):
    return torch.optim.SGD(groups, momentum=0.9)


def fit(model, plan, epochs, *, steps=2, optimizer=None, make=adamw, probe=None, factor=None):
    """The loop of strategies.py's header with a linear decay over each schedule span."""
    images, labels = batch(model)
    for epoch in epochs:
        if plan.begin_epoch(epoch, probe) or optimizer is None:
            optimizer = make(plan.groups)
        first, span = plan.schedule_span(epoch)
        for step in range(steps):
            cross_entropy(model(images), labels).backward()
            plan.after_backward()
            plan.set_rates(optimizer, 1 - (epoch - first + step / steps) / span if factor is None else factor)
            optimizer.step()
            plan.after_step(optimizer)
            optimizer.zero_grad()
    return optimizer


def snapshot(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(a, b):
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def assert_same(a, b):
    assert [name for name in a if not same_bits(a[name], b[name])] == []
    assert a.keys() == b.keys()


# ---- what trains, and what is bit-identical ----


def stage_by_hand(epochs, stages, epoch):
    """Exact arithmetic: stage i of n equal ones begins at round(epochs * i / n), the last no later than the
    last epoch."""
    starts = [math.floor(Fraction(epochs * i, stages) + Fraction(1, 2)) for i in range(stages)]
    return max(i for i, start in enumerate(starts) if min(start, epochs - 1) <= epoch)


def blocks_that_train(key, names, epochs, epoch):
    """Names of the trainable blocks from the table of strategies; None: a strategy that is not in it."""
    backbone, head = names[:-1], names[-1:]
    opened = stage_by_hand(epochs, len(names), epoch)
    return {
        "ft": names,
        "lp": head,
        "glf": backbone[len(backbone) - opened :] + head,
        "gfl": backbone[:opened] + head,
        "lpft": names if stage_by_hand(epochs, 2, epoch) == 1 else head,
        "l1sp": names,
        "l2sp": names,
        "autorgn": names,
    }.get(key)


@pytest.mark.parametrize(
    "key, net", [(key, net) for key in PAPER for net in NETS if net != "mobilenet" or key in GRADUAL]
)
def test_exactly_the_stated_parameters_and_buffers_change(key, net):
    """AdamW with weight decay, a stale gradient on every tensor: whatever is frozen and has a gradient would
    move."""
    model = NETS[net]()
    head = replace_head(model, CLASSES)
    blocks = blocks_of(model, head)
    names = [block.name for block in blocks]
    epochs = min(len(names), 6) if key in GRADUAL else 2  # mobilenet has 19 blocks: stages merge
    hyper = Hyperparameters(lp_lr=1e-2, weight_decay=0.1)
    plan = make_plan(key, model, head, epochs=epochs, lr=1e-2, hyper=hyper)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer = None
    for epoch in range(epochs):
        before = snapshot(model)
        optimizer = fit(model, plan, [epoch], steps=1, optimizer=optimizer, factor=1.0)
        after = snapshot(model)
        trains = blocks_that_train(key, names, epochs, epoch)
        if trains is None:
            trains = {group["block"] for group in plan.groups if group["name"] in plan.stage.trains}
        seen = set()
        for block in blocks:
            moves = block.name in trains
            drifts = moves and (key, epoch) != ("lpft", 1)  # its second part is in eval mode
            modules = {name.rpartition(".")[0] for name in block.parameters}
            mine = [name for name in after if name in block.parameters or name.rpartition(".")[0] in modules]
            seen.update(mine)
            for name in mine:
                expected = moves if name in block.parameters else drifts
                assert same_bits(before[name], after[name]) != expected, name
            assert {m.training for part in block.modules for m in part.modules()} == {drifts}, block.name
            assert {p.requires_grad for p in block.parameters.values()} == {moves}
            if not moves:
                assert all(p.grad is None for p in block.parameters.values())
        assert seen == set(after)  # no tensor and no buffer was left out of the comparison


@pytest.mark.parametrize("net", ["toy", "resnet", "vgg"])
def test_a_linear_probe_leaves_the_backbone_bit_identical(net):
    model = NETS[net]()
    replace_head(model, CLASSES)
    plan = make_plan("lp", model, epochs=3, lr=0.1)
    before = snapshot(model)
    fit(model, plan, range(3))
    changed = {name for name, value in snapshot(model).items() if not same_bits(value, before[name])}
    head = {"toy": "fc", "resnet": "fc", "vgg": "classifier.6"}[net]
    assert changed == {f"{head}.weight", f"{head}.bias"}


def test_the_frozen_parts_of_vgg_do_not_drop():
    """Two forward passes in train mode agree only if fc6 and fc7's Dropouts are in eval; in FT they are
    not."""
    model = small_vgg()
    images, _ = batch(model)
    for key, agree in (("lp", True), ("ft", False)):
        make_plan(key, model, epochs=1).begin_epoch(0)
        first, second = model(images), model(images)
        assert torch.equal(first, second) is agree


def test_frozen_modes_survive_model_train():
    model = toy()
    plan = make_plan("glf", model, epochs=5)
    plan.begin_epoch(1)
    model.train()
    plan.train_mode()
    modes = {name: m.training for name, m in model.named_modules() if name and isinstance(m, nn.Module)}
    assert {name for name, training in modes.items() if training} == {"hidden", "drop4", "fc"}
    plan.begin_epoch(4)  # all open again
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("key", PAPER)
def test_bn_eval_keeps_running_statistics_and_trains_the_rest(key):
    model = toy()
    plan = make_plan(key, model, epochs=5, lr=1e-2, hyper=Hyperparameters(bn="eval", lpft_mode="train"))
    before = snapshot(model)
    fit(model, plan, range(5))
    after = snapshot(model)
    for name in after:
        if "running" in name or "tracked" in name:
            assert same_bits(before[name], after[name]), name
        elif plan.trainable_parameters() == sum(TOY_PARAMETERS):
            assert not same_bits(before[name], after[name]), name  # gamma and beta still train
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert model.drop4.training == (plan.trainable_parameters() == sum(TOY_PARAMETERS))


# ---- more strategies than the paper's ----


def moved(key, net, **hyper):
    """(names of the parameters that three steps moved, all names by block, plan)."""
    model = NETS[net]()
    head = replace_head(model, CLASSES)
    plan = make_plan(key, model, head, epochs=1, lr=1e-2, hyper=Hyperparameters(**hyper))
    for p in model.parameters():
        p.grad = torch.ones_like(p)  # what is frozen and has a gradient would move under AdamW
    before = snapshot(model)
    fit(model, plan, [0], steps=3, factor=1.0)
    after = snapshot(model)
    changed = {name for name, _ in model.named_parameters() if not same_bits(before[name], after[name])}
    return changed, {block.name: set(block.parameters) for block in blocks_of(model, head)}, model


@pytest.mark.parametrize("net", NETS)
def test_top_trains_the_head_and_the_block_before_it(net):
    changed, blocks, _ = moved("top", net)
    assert changed == set().union(*list(blocks.values())[-2:])


@pytest.mark.parametrize("net", ["toy", "resnet", "mobilenet"])
def test_norm_trains_the_head_and_the_norms(net):
    changed, blocks, model = moved("norm", net)
    norms = {
        f"{name}.{leaf}"
        for name, m in model.named_modules()
        if "Norm" in type(m).__name__ and not list(m.children())
        for leaf in ("weight", "bias")
    }
    assert norms and changed == norms | blocks["head"]


@pytest.mark.parametrize("net", NETS)
def test_bitfit_trains_the_head_and_every_bias(net):
    changed, blocks, model = moved("bitfit", net)
    assert changed == {n for n, _ in model.named_parameters() if n.endswith("bias")} | blocks["head"]


def test_the_rates_of_llrd_fall_by_its_factor_from_block_to_block():
    model = toy()
    plan = make_plan("llrd", model, epochs=1, lr=0.8, hyper=Hyperparameters(llrd_decay=0.5))
    assert [group["block"] for group in plan.groups] == TOY_BLOCKS
    assert [group["lr"] for group in plan.groups] == [0.05, 0.1, 0.2, 0.4, 0.8]
    plan.begin_epoch(0)
    optimizer = sgd(plan.groups)
    plan.set_rates(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.05, 0.1, 0.2, 0.4]
    assert moved("llrd", "toy")[0] == {name for name, _ in toy().named_parameters()}
    with pytest.raises(ValueError, match="llrd_decay is 1.5; a finite number from 0 to 1 is needed"):
        Hyperparameters(llrd_decay=1.5)


def test_scratch_is_ft_from_random_weights():
    assert STRATEGIES["scratch"].build is STRATEGIES["ft"].build and not STRATEGIES["scratch"].pretrained
    assert [key for key, entry in STRATEGIES.items() if not entry.pretrained] == ["scratch"]


# ---- groups ----


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
@pytest.mark.parametrize("key", PAPER)
def test_every_parameter_is_in_one_group_or_frozen(key, name):
    model = weightless(name)
    plan = make_plan(key, model, replace_head(model, CLASSES), epochs=9, lr=0.5)
    times = Counter(id(p) for group in plan.groups for p in group["params"])
    assert set(times.values()) == {1}
    assert len({group["name"] for group in plan.groups}) == len(plan.groups)
    opened = set()
    for epoch in range(9):
        plan.begin_epoch(epoch)
        trains = {id(p) for p in model.parameters() if p.requires_grad}
        assert trains <= set(times) and opened <= trains
        opened |= trains
    assert opened == set(times)  # no group that never trains
    if key != "lp":
        assert set(times) == {id(p) for p in model.parameters()}
    for group in plan.groups:
        assert group["lr"] == 0.5
        assert group["weight_decay"] == (0.0 if key in SP else 0.01)
        assert set(group) == {"name", "block", "params", "lr", "weight_decay"}


def test_auto_rgn_groups_are_layers_tensors_or_blocks():
    """DenseNet-121: 121 BatchNorms of two tensors, 120 convolutions without bias, the classifier."""
    model = weightless("densenet121")
    head = replace_head(model, CLASSES)
    sizes = {}
    for unit in ("layer", "tensor", "block"):
        plan = make_plan("autorgn", model, head, epochs=1, hyper=Hyperparameters(rgn_unit=unit))
        sizes[unit] = Counter(len(group["params"]) for group in plan.groups)
        holding = [group for group in plan.groups if any(p is head.bias for p in group["params"])]
        assert [group["block"] for group in holding] == ["head"]
    assert sizes["layer"] == {2: 121 + 1, 1: 120}
    assert sizes["tensor"] == {1: 121 * 2 + 120 + 2}
    assert sizes["block"] == {3: 1, 39: 1, 75: 1, 147: 1, 98: 1, 2: 1}


@pytest.mark.parametrize("key", PAPER)
def test_groups_do_not_change_under_an_optimizer(key):
    """torch's optimizers keep the dicts they are given: rates written there must not come back as base
    rates."""
    model = toy()
    plan = make_plan(key, model, epochs=2, lr=0.25)
    optimizer = adamw(plan.groups)
    for group in optimizer.param_groups:
        group["lr"] = 123.0
    assert {group["lr"] for group in plan.groups} == {0.25}
    assert all(set(g) == {"name", "block", "params", "lr", "weight_decay"} for g in plan.groups)


# ---- stages ----


@pytest.mark.parametrize(
    "epochs, shares, starts",
    [
        (6, [1] * 6, [0, 1, 2, 3, 4, 5]),
        (12, [1] * 6, [0, 2, 4, 6, 8, 10]),
        (20, [1] * 6, [0, 3, 7, 10, 13, 17]),  # 20/6 = 3.33, 6.67, 10, 13.33, 16.67
        (3, [1] * 6, [0, 1, 1, 2, 2, 2]),  # 0, .5, 1, 1.5, 2, 2.5, half rounds up: first, third and sixth run
        (2, [1] * 6, [0, 0, 1, 1, 1, 1]),
        (1, [1] * 6, [0, 0, 0, 0, 0, 0]),
        (20, [1, 1], [0, 10]),
        (5, [1, 1], [0, 3]),
        (20, [0.25, 0.75], [0, 5]),
        (20, [1, 3], [0, 5]),
        (10, [0.1, 0.2, 0.7], [0, 1, 3]),
        (4, [1, 0, 1], [0, 2, 2]),
        (4, [1, 0], [0, 3]),  # the last stage always runs
        (7, [1], [0]),
    ],
)
def test_stage_starts(epochs, shares, starts):
    assert strategies.stage_starts(epochs, shares) == starts


def test_equal_stages_round_as_exact_arithmetic_does():
    for epochs in range(1, 61):
        for n in range(1, 21):
            starts = strategies.stage_starts(epochs, [1.0] * n)
            exact = [math.floor(Fraction(epochs * i, n) + Fraction(1, 2)) for i in range(n)]
            assert starts == [min(start, epochs - 1) for start in exact], (epochs, n)


OPENED = {  # epochs -> how many of the toy's four backbone blocks are open in each epoch
    10: [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
    5: [0, 1, 2, 3, 4],
    3: [0, 2, 4],  # stages begin at 0, .6 -> 1, 1.2 -> 1, 1.8 -> 2, 2.4 -> 2
    2: [1, 4],  # at 0, .4 -> 0, .8 -> 1, 1.2 -> 1, 1.6 -> 2, but no later than the last epoch
    1: [4],
}


@pytest.mark.parametrize("epochs", OPENED)
@pytest.mark.parametrize("key", GRADUAL)
def test_gradual_unfreezing_opens_the_right_blocks(key, epochs):
    model = toy()
    plan = make_plan(key, model, epochs=epochs)
    for epoch, opened in enumerate(OPENED[epochs]):
        fresh = plan.begin_epoch(epoch)
        assert fresh is (epoch == 0)  # optimizer and schedule are kept
        assert plan.schedule_span(epoch) == (0, epochs)
        order = TOY_BLOCKS[-2::-1] if key == "glf" else TOY_BLOCKS[:-1]
        layers = {n.partition(".")[0] for n, p in model.named_parameters() if p.requires_grad}
        expected = {*order[:opened], "fc"}
        expected |= {f"bn{layer[-1]}" for layer in expected if layer.startswith("conv")}
        assert layers == expected
        assert plan.in_last_stage(epoch) is (opened == 4)


def test_stage_shares():
    model = toy()
    plan = make_plan("gfl", model, epochs=10, hyper=Hyperparameters(stage_shares=(0.5, 0.1, 0.1, 0.1, 0.2)))
    opened = []
    for epoch in range(10):
        plan.begin_epoch(epoch)
        opened.append(sum(getattr(model, name).weight.requires_grad for name in ("conv1", "conv2", "conv3", "hidden")))
    assert opened == [0, 0, 0, 0, 0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("epochs, shares, second", [(5, None, 3), (20, (1, 3), 5), (2, None, 1), (4, (1, 0), 3)])
def test_lpft_restarts_optimizer_and_schedule_with_its_second_part(epochs, shares, second):
    plan = make_plan("lpft", toy(), epochs=epochs, hyper=Hyperparameters(stage_shares=shares))
    assert [e for e in range(epochs) if plan.begin_epoch(e)] == [0, second]
    spans = [(0, second)] * second + [(second, epochs - second)] * (epochs - second)
    assert [plan.schedule_span(e) for e in range(epochs)] == spans
    assert [plan.in_last_stage(e) for e in range(epochs)] == [e >= second for e in range(epochs)]


def test_lpft_of_one_epoch_is_ft():
    plan = make_plan("lpft", toy(), epochs=1, lr=0.5)
    assert plan.begin_epoch(0) is True and plan.schedule_span(0) == (0, 1)
    assert plan.trainable_parameters() == sum(TOY_PARAMETERS)
    optimizer = adamw(plan.groups)
    plan.set_rates(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5] * 5


def test_lpft_is_a_linear_probe_and_then_ft_from_its_weights():
    """Bit for bit: LP at lp_lr, a new optimizer, FT at lr, each with its own schedule from the start."""
    whole, parts = toy(), toy()
    plan = make_plan("lpft", whole, epochs=5, lr=1e-3, hyper=Hyperparameters(lp_lr=3e-2, lpft_mode="train"))
    torch.manual_seed(5)
    fit(whole, plan, range(5))
    torch.manual_seed(5)
    fit(parts, make_plan("lp", parts, epochs=3, lr=3e-2), range(3))
    probed = snapshot(parts)
    fit(parts, make_plan("ft", parts, epochs=2, lr=1e-3), range(2))
    assert_same(snapshot(whole), snapshot(parts))
    assert not same_bits(probed["fc.weight"], parts.fc.weight.detach())


def test_lpft_s_second_part_is_ft_of_a_model_in_eval_mode(monkeypatch):
    """Bit for bit; BatchNorm's statistics are the pretrained ones at the end."""
    whole, parts = toy(), toy()
    pretrained = {name: value.clone() for name, value in whole.named_buffers()}
    plan = make_plan("lpft", whole, epochs=5, lr=1e-3, hyper=Hyperparameters(lp_lr=3e-2))
    fit(whole, plan, range(5))
    assert plan.stage.name == "ft" and not any(module.training for module in whole.modules())
    fit(parts, make_plan("lp", parts, epochs=3, lr=3e-2), range(3))
    probed = snapshot(parts)
    monkeypatch.setattr(parts, "train", lambda mode=True: nn.Module.train(parts, False))
    fit(parts, make_plan("ft", parts, epochs=2, lr=1e-3), range(2))
    assert_same(snapshot(whole), snapshot(parts))
    assert not same_bits(probed["conv1.weight"], parts.conv1.weight.detach())
    assert all(same_bits(value, pretrained[name]) for name, value in whole.named_buffers())


@pytest.mark.parametrize(("mode", "stays"), [("eval", True), ("train", False)])
def test_lpft_s_second_part_begins_where_the_first_ends(mode, stays):
    """At rate 0 no weight moves in it: only BatchNorm's statistics could change the scores."""
    model, images = toy(), torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    plan = make_plan("lpft", model, epochs=4, lr=0.0, hyper=Hyperparameters(lpft_mode=mode))
    fit(model, plan, range(2))
    probed = model.eval()(images)
    fit(model, plan, range(2, 4))
    assert torch.equal(model.eval()(images), probed) == stays


def test_trainable_parameters():
    model, everything = toy(), sum(TOY_PARAMETERS)
    assert make_plan("lp", model, epochs=5).trainable_parameters() == TOY_PARAMETERS[-1]
    for key in ("ft", *GRADUAL, "lpft", *SP, "autorgn"):
        assert make_plan(key, model, epochs=5).trainable_parameters() == everything
    shares = Hyperparameters(stage_shares=(1, 0, 0, 0, 0))  # one epoch: only the last stage runs
    assert make_plan("glf", model, epochs=1, hyper=shares).trainable_parameters() == everything


def test_new_optimizers():
    """Only LP-FT's second part and rgn_reset start the optimizer anew; rgn_reset is Auto-RGN's alone."""
    for key in STRATEGIES:
        plan = make_plan(key, toy(), epochs=3, hyper=Hyperparameters(rgn_reset=True))
        fresh = [plan.begin_epoch(epoch) for epoch in range(3)]
        if key == "autorgn":
            assert fresh == [True, True, True]
        elif key != "lpft":
            assert fresh == [True, False, False], key
    plan = make_plan("autorgn", toy(), epochs=3)
    assert [plan.begin_epoch(epoch) for epoch in range(3)] == [True, False, False]


# ---- rates ----


@pytest.mark.parametrize("key", PAPER)
def test_rates_are_closed_form(key):
    """Rate 0.3 times the schedule's 1, 1/2, 1/4, 1: each step's own, not multiplied up."""
    model = chain(1.0, 2.0, 4.0, 1.0)  # gradients of 1: RGN 1, 1/2, 1/4; the head's ratio is 1
    plan = make_plan(key, model, epochs=1, lr=0.3)
    plan.begin_epoch(0)
    optimizer = sgd(plan.groups)
    ratios = {"autorgn": [1.0, 0.5, 0.25, 1.0], "lp": [1.0]}.get(key, [1.0] * 4)
    for factor in (1.0, 0.5, 0.25, 1.0):
        give_gradients(model, 1, 1, 1, 1)
        plan.after_backward()
        plan.set_rates(optimizer, factor)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.3 * factor * ratio for ratio in ratios], rel=1e-12)


def test_rates_at_chosen_steps_of_a_cosine():
    """LP-FT of 4 epochs with 4 steps each, cosine within each span of 8 steps: at step 2 of a span the factor
    is (1 + cos(pi/4)) / 2 = 0.853553, at step 4 it is 1/2, at step 6 0.146447."""
    plan = make_plan("lpft", toy(), epochs=4, lr=0.01, hyper=Hyperparameters(lp_lr=2.0))
    rates = {}
    for epoch in range(4):
        if plan.begin_epoch(epoch):
            optimizer = adamw(plan.groups)
        first, span = plan.schedule_span(epoch)
        for step in range(4):
            progress = ((epoch - first) * 4 + step) / (span * 4)
            plan.set_rates(optimizer, (1 + math.cos(math.pi * progress)) / 2)
            assert len({group["lr"] for group in optimizer.param_groups}) == 1
            rates[epoch * 4 + step] = optimizer.param_groups[0]["lr"]
    assert rates[0] == 2.0 and rates[8] == 0.01
    by_hand = {2: 1.7071068, 4: 1.0, 6: 0.2928932, 10: 0.0085355339, 12: 0.005, 14: 0.0014644661}
    assert {step: rates[step] for step in by_hand} == pytest.approx(by_hand, rel=1e-7)


def test_an_sgd_step_is_rate_times_gradient():
    """What the rates are for: w - lr * factor * ratio * g, w = 1, 2, 4, 1 and g = 1: 0.3 * 0.5 * (1, 1/2,
    1/4, 1)."""
    model = chain(1.0, 2.0, 4.0, 1.0)
    plan = make_plan("autorgn", model, epochs=1, lr=0.3, hyper=Hyperparameters(weight_decay=0.0))
    plan.begin_epoch(0)
    optimizer = torch.optim.SGD(plan.groups)
    give_gradients(model, 1, 1, 1, 1)
    plan.after_backward()
    plan.set_rates(optimizer, 0.5)
    optimizer.step()
    weights = [p.item() for p in model.parameters()]
    assert weights == pytest.approx([1 - 0.15, 2 - 0.075, 4 - 0.0375, 1 - 0.15], rel=1e-6)


def test_another_number_of_groups_is_refused():
    plan = make_plan("ft", toy(), epochs=1)
    with pytest.raises(ValueError):
        plan.set_rates(adamw(plan.groups[:-1]))


# ---- SP penalties ----


def written_penalty(key, model, w0, alpha, beta):
    """L1-SP and L2-SP as the table of strategies writes them; the head is fc."""
    total = 0.0
    for name, w in model.named_parameters():
        if name.startswith("fc."):
            total = total + beta / 2 * (w**2).sum()
        elif key == "l1sp":
            total = total + alpha * (w - w0[name]).abs().sum()
        else:
            total = total + alpha / 2 * ((w - w0[name]) ** 2).sum()
    return total


@pytest.mark.parametrize("key", SP)
def test_sp_gradients_equal_autograd_of_the_written_penalty(key):
    model = toy().double()
    plan = make_plan(key, model, epochs=1, hyper=Hyperparameters(alpha=0.37, beta=0.23))
    w0 = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():  # w0 is what the model held when the plan was made; every third weight stays there
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (torch.arange(p.numel()).view_as(p) % 3 > 0))
    plan.begin_epoch(0)
    images, labels = batch(model)
    torch.manual_seed(3)
    loss = cross_entropy(model(images), labels) + written_penalty(key, model, w0, 0.37, 0.23)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    torch.manual_seed(3)
    cross_entropy(model(images), labels).backward()
    plan.after_backward()
    for (name, p), gradient in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("key", SP)
def test_sp_training_equals_training_with_the_penalty_in_the_loss(key):
    model, written = toy().double(), toy().double()
    hyper = Hyperparameters(alpha=0.2, beta=0.5, weight_decay=0.3)  # weight decay has no part in it
    plan = make_plan(key, model, epochs=2, lr=0.05, hyper=hyper)
    torch.manual_seed(4)
    fit(model, plan, range(2), make=sgd, factor=1.0)
    torch.manual_seed(4)
    w0 = {name: p.detach().clone() for name, p in written.named_parameters()}
    optimizer = torch.optim.SGD(written.parameters(), lr=0.05, momentum=0.9)
    images, labels = batch(written)
    for _ in range(4):
        optimizer.zero_grad()
        (cross_entropy(written(images), labels) + written_penalty(key, written, w0, 0.2, 0.5)).backward()
        optimizer.step()
    for (name, p), q in zip(model.named_parameters(), written.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("key", SP)
def test_proximal_mode_equals_the_closed_form(key):
    """argmin over w of (w - z)^2 / (2 lr) + penalty: (z + lr alpha w0) / (1 + lr alpha), the soft threshold,
    and z / (1 + lr beta) for the head, at the rate that the schedule left: 0.4 * 0.5."""
    model, lr, alpha, beta = toy().double(), 0.4 * 0.5, 0.9, 0.7
    hyper = Hyperparameters(alpha=alpha, beta=beta, sp_mode="proximal")
    plan = make_plan(key, model, epochs=1, lr=0.4, hyper=hyper)
    w0 = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    plan.begin_epoch(0)
    optimizer = sgd(plan.groups)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
            p.grad = torch.randn_like(p)
    gradients = [p.grad.clone() for p in model.parameters()]
    z = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    plan.after_backward()
    plan.set_rates(optimizer, 0.5)
    assert all(
        torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True)
    )  # not in the gradient
    plan.after_step(optimizer)
    returned = 0
    for name, p in model.named_parameters():
        if name.startswith("fc."):
            expected = z[name] / (1 + lr * beta)
        elif key == "l2sp":
            expected = (z[name] + lr * alpha * w0[name]) / (1 + lr * alpha)
        else:
            away = z[name] - w0[name]
            expected = w0[name] + np.sign(away) * np.maximum(np.abs(away) - lr * alpha, 0)
            within = np.abs(away) <= lr * alpha
            assert (p.detach().numpy()[within] == w0[name][within]).all()  # exactly
            returned += within.sum()
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-13, atol=1e-15, err_msg=name)
    assert key == "l2sp" or 100 < returned < sum(TOY_PARAMETERS[:-1]) - 100  # both sides of the threshold


def test_proximal_l1_training_leaves_weights_at_their_pretrained_values():
    """Adam's first steps are about lr long; 3 lr of threshold holds what has no steady pull, in float32
    exactly."""
    shares = {}
    for mode in ("proximal", "loss"):
        model = toy()
        w0 = torch.cat([p.detach().flatten() for n, p in model.named_parameters() if not n.startswith("fc.")])
        hyper = Hyperparameters(alpha=3.0, sp_mode=mode)
        fit(model, make_plan("l1sp", model, epochs=3, lr=1e-3, hyper=hyper), range(3))
        w = torch.cat([p.detach().flatten() for n, p in model.named_parameters() if not n.startswith("fc.")])
        shares[mode] = (w == w0).double().mean().item()
    assert shares["proximal"] > 0.9 and shares["loss"] < 0.1


@pytest.mark.parametrize("mode", ["loss", "proximal"])
@pytest.mark.parametrize("key", SP)
def test_sp_leaves_tensors_without_a_gradient_alone(key, mode):
    model = chain(1.0, 2.0, 3.0)
    plan = make_plan(key, model, epochs=1, lr=1.0, hyper=Hyperparameters(alpha=0.5, beta=1.0, sp_mode=mode))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(10.0)
    plan.begin_epoch(0)
    optimizer = sgd(plan.groups)
    give_gradients(model, None, 0.0, None)
    plan.after_backward()
    plan.set_rates(optimizer)
    plan.after_step(optimizer)
    assert [p.grad is None for p in model.parameters()] == [True, False, True]
    # Loss: 0.5 * sign(10), 0.5 * 10 in the gradient. Proximal: 10 away becomes 9.5, 10 / 1.5.
    moved = {"l1sp": 2.0 + 9.5, "l2sp": 2.0 + 10 / 1.5}[key] if mode == "proximal" else 12.0
    assert [p.item() for p in model.parameters()] == pytest.approx([11.0, moved, 13.0], rel=1e-6)
    if mode == "loss":
        assert model[1].weight.grad.item() == {"l1sp": 0.5, "l2sp": 5.0}[key]


# ---- Auto-RGN's ratios ----


def norm_by_hand(arrays):
    return math.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in arrays))


def rgn_by_hand(model, grads, unit, norm, head="fc"):
    """{unit: ratio} in float64 from the definition. grads: a list, one per step, of {name: (weight,
    gradient)}, numpy. The norms of a unit are averaged over the steps."""
    layer_of = {name: name.rpartition(".")[0] for name, _ in model.named_parameters()}
    block_of = {name: f"conv{layer[-1]}" if layer.startswith("bn") else layer for name, layer in layer_of.items()}
    block_of = {name: "head" if block == head else block for name, block in block_of.items()}
    unit_of = {"layer": layer_of, "tensor": {name: name for name in layer_of}, "block": block_of}[unit]
    ratios = {}
    for u in dict.fromkeys(unit_of.values()):
        names = [name for name in unit_of if unit_of[name] == u]
        w, g = (np.mean([norm_by_hand([step[n][i] for n in names]) for step in grads]) for i in (0, 1))
        ratios[u] = g / w
    heads = {u for name, u in unit_of.items() if layer_of[name] == head}
    if norm == "backbone":
        largest = max(ratio for u, ratio in ratios.items() if u not in heads)
        return {u: 1.0 if u in heads else ratio / largest for u, ratio in ratios.items()}
    return {u: ratio / max(ratios.values()) for u, ratio in ratios.items()}


def weights_and_gradients(model, gradients):
    return {
        name: (p.detach().numpy().copy(), g.detach().numpy().copy())
        for (name, p), g in zip(model.named_parameters(), gradients, strict=True)
    }


def ratios_in_force(plan):
    return dict(zip((group["name"] for group in plan.groups), plan.ratios.tolist(), strict=True))


@pytest.mark.parametrize("norm", ["backbone", "all"])
@pytest.mark.parametrize("unit", ["layer", "tensor", "block"])
def test_ratios_from_the_steps_own_gradients(unit, norm):
    """First epoch: of its first step. Second epoch: of the first one's three steps, while the weights
    moved."""
    model = toy()
    plan = make_plan("autorgn", model, epochs=2, lr=0.02, hyper=Hyperparameters(rgn_unit=unit, rgn_norm=norm))
    images, labels = batch(model)
    steps = []
    plan.begin_epoch(0)
    optimizer = adamw(plan.groups)
    for _ in range(3):
        cross_entropy(model(images), labels).backward()
        steps.append(weights_and_gradients(model, [p.grad for p in model.parameters()]))
        plan.after_backward()
        gradients = [p.grad for p in model.parameters()]
        assert all(
            (g.numpy() == s[1]).all() for g, s in zip(gradients, steps[-1].values(), strict=True)
        )  # only measured
        assert ratios_in_force(plan) == pytest.approx(rgn_by_hand(model, steps[:1], unit, norm), rel=1e-6)
        plan.set_rates(optimizer)
        optimizer.step()
        optimizer.zero_grad()
    plan.begin_epoch(1)
    expected = rgn_by_hand(model, steps, unit, norm)
    assert ratios_in_force(plan) == pytest.approx(expected, rel=1e-6)
    assert rgn_by_hand(model, steps[:1], unit, norm) != pytest.approx(expected, rel=1e-2)
    plan.set_rates(optimizer, 0.5)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({u: 0.02 * 0.5 * ratio for u, ratio in expected.items()}, rel=1e-6)
    assert {row["layer"]: row["lr"] for row in plan.table()} == pytest.approx(
        {u: 0.02 * ratio for u, ratio in expected.items()}, rel=1e-6
    )
    assert max(v for u, v in expected.items() if norm == "all" or not u.startswith(("fc", "head"))) == 1.0


def probe_of(model, seen=None):
    def probe(n):
        generator = torch.Generator().manual_seed(8)
        for _ in range(n):
            images = torch.randn(4, 3, 9, 9, generator=generator)
            if seen is not None:
                seen.append({name for name, m in model.named_modules() if m.training})
            yield cross_entropy(model(images), torch.tensor([0, 1, 2, 0]))

    return probe


@pytest.mark.parametrize("norm", ["backbone", "all"])
@pytest.mark.parametrize("unit", ["layer", "tensor", "block"])
def test_ratios_from_a_probe(unit, norm):
    """Four extra batches with BatchNorm and Dropout in eval, before the first epoch and anew before the
    second."""
    model = toy()
    hyper = Hyperparameters(rgn_source="probe", rgn_batches=4, rgn_unit=unit, rgn_norm=norm, rgn_every=3)
    plan = make_plan("autorgn", model, epochs=2, lr=0.02, hyper=hyper)
    for epoch in range(2):
        twin = toy()
        twin.load_state_dict(model.state_dict())
        twin.eval()
        steps = []
        for loss in probe_of(twin)(4):
            twin.zero_grad()
            loss.backward()
            steps.append(weights_and_gradients(twin, [p.grad for p in twin.parameters()]))
        fit(model, plan, [epoch], probe=probe_of(model))
        assert ratios_in_force(plan) == pytest.approx(rgn_by_hand(model, steps, unit, norm), rel=1e-5)


def test_a_probe_leaves_nothing_behind():
    model = toy()
    hyper = Hyperparameters(rgn_source="probe", rgn_batches=3, bn="eval")
    plan = make_plan("autorgn", model, epochs=2, hyper=hyper)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    before, state, seen = snapshot(model), torch.get_rng_state(), []
    plan.begin_epoch(0, probe_of(model, seen))
    assert seen == [set()] * 3  # three batches, everything in eval
    assert_same(before, snapshot(model))
    assert torch.equal(state, torch.get_rng_state())
    assert all((p.grad == 0.5).all() and p.requires_grad for p in model.parameters())
    off = {name for name, m in model.named_modules() if not m.training}
    assert off == {"bn1", "bn2", "bn3"}  # as they were: bn="eval"
    with pytest.raises(ValueError, match="probe"):
        plan.begin_epoch(1)


def hand(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    "norm, expected",
    [
        ("backbone", [1.0, 0.5, 1.0]),  # RGN 1/2, 1/4 and the fresh head's 10 / 0.001
        ("all", [0.5 / 1e4, 0.25 / 1e4, 1.0]),
    ],
)
def test_a_fresh_head_by_hand(norm, expected):
    model = chain(2.0, 4.0, 0.001)
    plan = make_plan("autorgn", model, epochs=1, lr=1.0, hyper=Hyperparameters(rgn_norm=norm))
    plan.begin_epoch(0)
    give_gradients(model, 1.0, -1.0, 10.0)
    plan.after_backward()
    assert plan.ratios.tolist() == pytest.approx(expected, rel=1e-6)
    row = plan.table()[1]
    assert (row["layer"], row["block"]) == ("1", "1")
    assert (row["grad_norm"], row["weight_norm"]) == (1.0, 4.0)


def test_zero_norm_weights_by_hand():
    """a.weight 5 with gradient 1, a.bias 0 with gradient 2: the layer's ratio is sqrt(1 + 4) / 5 = 0.4472 and
    the largest; b's two tensors are zero: out of the maximum, 1; c.weight 10 with gradient 1: 0.1; the head
    1e-3 with 7."""
    grad, weight = hand(1, 2, 7, 0, 1, 7), hand(5, 0, 0, 0, 10, 1e-3)
    layer = torch.tensor([0, 0, 2, 2, 4, 5])
    head = torch.tensor([False] * 5 + [True])
    largest = math.sqrt(5) / 5
    ratios, trusted = strategies.relative_ratios(grad, weight, layer, head)
    assert trusted.item() is True
    assert ratios.tolist() == pytest.approx([0.2 / largest, 1, 1, 1, 0.1 / largest, 1], rel=1e-12)
    ratios, trusted = strategies.relative_ratios(grad, weight, layer, head, "all")
    expected = [0.2 / 7000, largest / 7000, 1, 1, 0.1 / 7000, 1]
    assert trusted.item() is True and ratios.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_zero_bias_takes_its_layers_ratio():
    """In a plan with tensors as units: (3, 4) with gradient (0, 1) and bias 0 with gradient 2, as above; and
    a layer of zeros, whose gradient is the largest of all."""
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1), nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        for p, value in zip(model.parameters(), ([[3.0, 4.0]], [0.0], [[0.0]], [0.0], [[10.0]], [[1.0]]), strict=True):
            p.copy_(torch.tensor(value))
    plan = make_plan("autorgn", model, epochs=1, hyper=Hyperparameters(rgn_unit="tensor"))
    plan.begin_epoch(0)
    for p, value in zip(model.parameters(), ([[0.0, 1.0]], [2.0], [[99.0]], [98.0], [[1.0]], [[5.0]]), strict=True):
        p.grad = torch.tensor(value)
    plan.after_backward()
    largest = math.sqrt(5) / 5
    expected = {"0.weight": 0.2 / largest, "0.bias": 1, "1.weight": 1, "1.bias": 1, "2.weight": 0.1 / largest}
    assert ratios_in_force(plan) == pytest.approx({**expected, "3.weight": 1}, rel=1e-12)


@pytest.mark.parametrize("missing", [0.0, None])
def test_a_layer_without_gradient_gets_ratio_zero(missing):
    model = chain(2.0, 4.0, 5.0, 1.0)
    plan = make_plan("autorgn", model, epochs=1)
    plan.begin_epoch(0)
    give_gradients(model, 1.0, missing, 1.0, missing)
    plan.after_backward()
    assert plan.ratios.tolist() == pytest.approx([1.0, 0.0, 0.4, 1.0], rel=1e-12)


USELESS = {
    "inf in one tensor": (1.0, math.inf, 1.0, 1.0),
    "nan in one tensor": (1.0, 1.0, math.nan, 1.0),
    "inf in the head": (1.0, 1.0, 1.0, -math.inf),
    "all zero": (0.0, 0.0, 0.0, 0.0),
    "all None": (None, None, None, None),
}


@pytest.mark.parametrize("useless", USELESS.values(), ids=USELESS.keys())
@pytest.mark.parametrize("norm", ["backbone", "all"])
def test_useless_gradients_keep_the_ratios_and_are_counted(norm, useless):
    """RGN (1, 1/2, 1/4) / max; then an epoch of nothing usable; then (1, 1, 1/4) from the one usable step of
    three."""
    model = chain(1.0, 2.0, 4.0, 1.0)
    plan = make_plan("autorgn", model, epochs=4, hyper=Hyperparameters(rgn_norm=norm))

    def epoch(number, *steps):
        plan.begin_epoch(number)
        in_force = None if plan.ratios is None else plan.ratios.tolist()
        for values in steps:
            give_gradients(model, *values)
            plan.after_backward()
        return in_force

    assert epoch(0, useless, (1.0, 1.0, 1.0, 1.0)) is None  # the first usable step is the second
    assert plan.skipped_steps() == 1
    assert plan.ratios.tolist() == [1.0, 0.5, 0.25, 1.0]
    assert epoch(1, useless, useless) == [1.0, 0.5, 0.25, 1.0]
    assert plan.skipped_steps() == 3
    in_force = epoch(2, useless, (1.0, 2.0, 1.0, 1.0), useless)
    assert in_force == [1.0, 0.5, 0.25, 1.0]  # nothing came of epoch 1
    assert plan.skipped_steps() == 5
    assert epoch(3) == [1.0, 1.0, 0.25, 1.0]
    assert [row["grad_norm"] for row in plan.table()] == [1, 2, 1, 1]  # a mean of one step, not of three
    assert [row["weight_norm"] for row in plan.table()] == [1, 2, 4, 1]
    assert plan.skipped_steps() == 5


def test_until_a_usable_step_all_ratios_are_one():
    model = chain(1.0, 2.0, 4.0)
    plan = make_plan("autorgn", model, epochs=2, lr=0.5)
    plan.begin_epoch(0)
    optimizer = sgd(plan.groups)
    give_gradients(model, math.nan, 1.0, 1.0)
    plan.after_backward()
    plan.set_rates(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 0.5]


def test_ratios_of_an_epoch_are_the_mean_norms_of_the_one_before():
    """Weights 1 and 2. Epoch 0: gradients (4, 2), (1, 6), (1, 4): its own ratios are the first step's, 4 and
    1: (1, 1/4). Means (2, 4), RGN 2 and 2: epoch 1 has (1, 1), whatever its steps say. Epoch 1's one step (1,
    8), RGN 1 and 4: epoch 2 has (1/4, 1): epoch 0 no longer counts."""
    model = chain(1.0, 2.0, 1.0)
    plan = make_plan("autorgn", model, epochs=3)
    plan.begin_epoch(0)
    for grads in ((4, 2, 1), (1, 6, 1), (1, 4, 1)):
        give_gradients(model, *grads)
        plan.after_backward()
        assert plan.ratios.tolist() == [1, 0.25, 1]
    plan.begin_epoch(1)
    assert plan.ratios.tolist() == [1, 1, 1]
    assert [(row["grad_norm"], row["weight_norm"]) for row in plan.table()[:2]] == [(2, 1), (4, 2)]
    give_gradients(model, 1, 8, 1)
    plan.after_backward()
    assert plan.ratios.tolist() == [1, 1, 1]
    plan.begin_epoch(2)
    assert plan.ratios.tolist() == [0.25, 1, 1]


def test_rgn_every_counts_steps_across_epochs():
    """New ratios after every third step, from these three; until the first three are seen, from the first
    usable."""
    model = chain(1.0, 1.0, 1.0)
    plan = make_plan("autorgn", model, epochs=4, hyper=Hyperparameters(rgn_every=3))
    ratios = []
    for epoch in range(4):
        plan.begin_epoch(epoch)
        for second in [(4, 1), (1, 7), (2, 6), (2, 2)][epoch]:
            give_gradients(model, 8, second, 1)
            plan.after_backward()
            ratios.append(plan.ratios[1].item())
    # means of the second block's gradient: 4, 1, 1 -> 2; 7, 2, 6 -> 5
    assert ratios == [0.5, 0.5, 0.25, 0.25, 0.25, 0.625, 0.625, 0.625]


@pytest.mark.parametrize("reset", [False, True])
def test_rgn_reset_starts_the_moments_anew(reset):
    model = toy()
    plan = make_plan("autorgn", model, epochs=3, lr=1e-3, hyper=Hyperparameters(rgn_reset=reset))
    optimizer = fit(model, plan, range(3), steps=2)
    assert optimizer.state[model.fc.weight]["step"].item() == (2 if reset else 6)


# ---- norms: accuracy, no synchronisation ----


def random_tensors(generator):
    def normal(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator) * scale

    offset = torch.rand(1_000_000, generator=generator) + 1  # a running float32 sum is off by 1e-5 here
    return [
        normal(0),
        normal(1),
        normal(5, scale=1e-6),
        normal(70_000, scale=1e3),
        offset,
        normal(250, 4_000, scale=1e-4),
        normal(3, 0, 3, 3),
        normal(64, 32, 3, 3).to(memory_format=torch.channels_last),
        (normal(128, 64, 5, 5) + 2).to(memory_format=torch.channels_last),
        normal(300, 400).t(),  # not contiguous
        normal(5).double(),
        normal(70_000, scale=0.1).half(),
        (normal(100_000) + 3).bfloat16(),
        normal(0).half(),
        normal(2, 3, scale=1e-3).bfloat16(),
        torch.zeros(7),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_norms_agree_with_float64(seed):
    generator = torch.Generator().manual_seed(seed)
    weights, gradients = random_tensors(generator), random_tensors(generator)
    order = torch.randperm(len(weights), generator=generator).tolist()
    gradients = [gradients[i] for i in order]  # a unit's gradients are of other sizes than its weights
    gradients[3 + seed] = gradients[7 + seed] = None
    units = 6  # the last one has no tensor
    unit = torch.randint(0, units - 1, (len(weights),), generator=generator)
    unit[:5] = torch.arange(5)
    got = grad_weight_norms(weights, gradients, unit, units)
    for norms, tensors in zip(got, (gradients, weights), strict=True):
        squares = [0.0] * units
        for u, t in zip(unit.tolist(), tensors, strict=True):
            if t is not None:
                values = t.double().flatten().numpy()
                squares[u] += float(values @ values)
        assert norms.dtype == torch.float64 and norms.shape == (units,)
        np.testing.assert_allclose(norms.numpy(), np.sqrt(squares), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", range(16))
def test_norms_agree_tensor_by_tensor(kind):
    t = random_tensors(torch.Generator().manual_seed(9))[kind]
    grad, weight = grad_weight_norms([t, torch.ones(4)], [None, t], torch.tensor([0, 1]), 2)
    expected = math.sqrt(math.fsum((t.double().flatten() ** 2).tolist()))
    assert weight.tolist() == pytest.approx([expected, 2.0], rel=1e-6, abs=0)
    assert grad.tolist() == pytest.approx([0.0, expected], rel=1e-6, abs=0)


def test_norms_keep_infinities_and_nans():
    for bad in (math.inf, -math.inf, math.nan):
        for size in (5, 100_000):
            g = torch.ones(size)
            g[size // 2] = bad
            grad, _ = grad_weight_norms([torch.ones(1)] * 2, [g, torch.ones(1)], torch.tensor([0, 1]), 2)
            assert not math.isfinite(grad[0].item()) and grad[1].item() == 1.0


class Recorder(TorchDispatchMode):
    """The operators that touch a tensor on the CPU: copies to the device, or off it."""

    def __init__(self):
        super().__init__()
        self.ran, self.on_cpu = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.ran.append(str(func))
        if any(isinstance(x, torch.Tensor) and x.device.type == "cpu" for x in tree_leaves((args, kwargs, result))):
            self.on_cpu.append(str(func))
        return result


def test_on_a_gpu_all_norms_come_from_one_call_in_float64():
    """Two tensors of each dtype: float64 is taken as it is, and no square is made in float32."""
    with FakeTensorMode():
        dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        weights = [torch.ones(3, 2, dtype=dtype, device="cuda") for dtype in dtypes]
        grads = [torch.ones(3, 2, dtype=dtype, device="cuda") for dtype in dtypes]
        unit = torch.zeros(len(weights), dtype=torch.int64, device="cuda")
        with Recorder() as recorder:
            grad, weight = grad_weight_norms(weights, grads, unit, 1)
        assert [(x.dtype, x.shape, x.device.type) for x in (grad, weight)] == [(torch.float64, (1,), "cuda")] * 2
        assert sum("_foreach_norm" in name for name in recorder.ran) == 1
        launches = [name for name in recorder.ran if name.startswith("aten") and "view" not in name]
        assert len(launches) < 24 and recorder.on_cpu == []  # of 8 tensors; more tensors are no more launches


@pytest.mark.parametrize(
    "every, norm, unit",
    [(0, "backbone", "layer"), (0, "all", "tensor"), (1, "backbone", "tensor"), (1, "all", "block")],
)
def test_no_host_synchronisation_inside_the_step(every, norm, unit):
    """Fake tensors on a GPU that need not exist: .item(), .tolist() and bool() raise there. In the second
    step of an epoch nothing is copied to the device either. The fused step itself has no fake kernel and is
    torch's own."""
    with FakeTensorMode():
        with torch.device("cuda"):
            model = Toy()
        hyper = Hyperparameters(rgn_every=every, rgn_norm=norm, rgn_unit=unit)
        plan = make_plan("autorgn", model, epochs=3, lr=0.1, hyper=hyper)
        optimizer = torch.optim.AdamW(plan.groups, fused=True)
        for epoch in range(2):
            plan.begin_epoch(epoch)
            for step in range(2):
                for p in model.parameters():
                    p.grad = torch.ones_like(p)
                with Recorder() as recorder:
                    plan.after_backward()
                    plan.set_rates(optimizer, 0.5)
                assert recorder.ran
                if step > 0:
                    assert recorder.on_cpu == []
                for group in optimizer.param_groups:
                    rate = group["lr"]
                    assert (rate.device.type, rate.dtype, rate.shape) == ("cuda", torch.float32, ())
        with pytest.raises(DataDependentOutputException):  # that this test can fail
            plan.ratios[0].item()
        with pytest.raises((DataDependentOutputException, RuntimeError)):
            plan.set_rates(torch.optim.AdamW(plan.groups), 0.5)  # not fused: reads the ratios


class GivenRatios(strategies.Hooks):
    def before_epoch(self, model, probe):
        return hand(0.25, 0.5, 1)


def test_tensor_rates_equal_the_numbers(monkeypatch):
    """The path of fused optimizers, on the CPU: 0-d float32 tensors, and the base rate of the stage that
    runs."""
    monkeypatch.setattr(strategies, "takes_tensor_rates", lambda optimizer: True)
    model = chain(1.0, 2.0, 4.0)
    plan = make_plan("autorgn", model, epochs=2, lr=0.3)
    optimizer = sgd(plan.groups)
    for epoch in range(2):
        plan.begin_epoch(epoch)
        for factor in (1.0, 0.5, 0.25):
            give_gradients(model, 1, 1, 1)
            plan.after_backward()
            plan.set_rates(optimizer, factor)
            rates = [group["lr"] for group in optimizer.param_groups]
            assert {(r.dtype, r.shape) for r in rates} == {(torch.float32, ())}
            expected = [0.3 * factor, 0.15 * factor, 0.3 * factor]
            assert [r.item() for r in rates] == pytest.approx(expected, rel=1e-6)
    plan = make_plan("lpft", model, epochs=2, lr=0.5, hyper=Hyperparameters(lp_lr=2.0))
    plan.hooks = GivenRatios()
    for epoch, expected in ((0, [0.5, 1.0, 2.0]), (1, [0.125, 0.25, 0.5])):  # 2.0, then 0.5 times the ratios
        plan.begin_epoch(epoch)
        optimizer = sgd(plan.groups)
        plan.set_rates(optimizer)
        assert [group["lr"].item() for group in optimizer.param_groups] == expected


# ---- resuming ----

RESUMED = [(key, {}, (2, 0)) for key in STRATEGIES] + [
    ("l1sp", {"sp_mode": "proximal"}, (3, 0)),
    ("autorgn", {}, (1, 0)),
    ("autorgn", {"rgn_every": 2}, (1, 1)),  # in the middle of an epoch, one step into a window of two
    ("autorgn", {"rgn_every": 5}, (0, 2)),  # before the first window is closed
    ("autorgn", {"rgn_every": 5}, (2, 1)),
    ("autorgn", {"rgn_source": "probe", "rgn_batches": 2}, (2, 0)),
    ("autorgn", {"rgn_unit": "tensor", "rgn_norm": "all", "rgn_reset": True}, (2, 0)),
]


@pytest.mark.parametrize("key, settings, stop", RESUMED)
def test_a_resumed_run_goes_on_bit_for_bit(key, settings, stop):
    """Stopped before (epoch, step), saved, loaded with weights_only=True into new objects: the same weights,
    buffers, rates and ratios as without the stop."""
    epochs, steps = 4, 3
    positions = [(epoch, step) for epoch in range(epochs) for step in range(steps)]

    def go(model, plan, optimizer, positions, until=None):
        images, labels = batch(model)
        rates = []
        for epoch, step in positions:
            if (epoch, step) == until:
                break
            if step == 0 and plan.begin_epoch(epoch, probe_of(model)):
                optimizer = adamw(plan.groups)
            first, span = plan.schedule_span(epoch)
            cross_entropy(model(images), labels).backward()
            if (epoch, step) == (0, 1):
                for p in model.parameters():
                    if p.grad is not None:
                        p.grad.fill_(math.nan)
                plan.after_backward()
                optimizer.zero_grad()  # an overflowed step
                continue
            plan.after_backward()
            plan.set_rates(optimizer, 1 - (epoch - first + step / steps) / span)
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            plan.after_step(optimizer)
            optimizer.zero_grad()
        return optimizer, rates

    def start():
        model = toy()
        return model, make_plan(key, model, epochs=epochs, lr=3e-3, hyper=Hyperparameters(**settings))

    def end(model, plan, rates):
        ratios = None if plan.ratios is None else plan.ratios.tolist()
        return ratios, plan.skipped_steps(), plan.table(), rates

    model, plan = start()
    torch.manual_seed(6)
    _, rates = go(model, plan, None, positions)
    expected = snapshot(model), end(model, plan, rates[-3:])

    model, plan = start()
    torch.manual_seed(6)
    optimizer, _ = go(model, plan, None, positions, until=stop)
    file = io.BytesIO()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "plan": plan.state_dict()}
    torch.save({**saved, "random": torch.get_rng_state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    model, plan = start()
    model.load_state_dict(saved["model"])
    plan.load_state_dict(saved["plan"])
    if stop[1] > 0:
        plan.begin_epoch(stop[0])
    optimizer = adamw(plan.groups)
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    _, rates = go(model, plan, optimizer, [p for p in positions if p >= stop])
    assert_same(snapshot(model), expected[0])
    assert end(model, plan, rates[-3:]) == expected[1]
    assert plan.skipped_steps() == (key == "autorgn" and settings.get("rgn_source") != "probe")


@pytest.mark.parametrize("key", STRATEGIES)
def test_the_names_in_a_saved_state(key):
    """Those of half-finished runs' last.pt: another name would end them."""
    model = toy()
    plan = make_plan(key, model, epochs=1)
    fit(model, plan, [0])
    saved = plan.state_dict()
    if key == "autorgn":
        assert list(saved) == ["state", "steps", "provisional"]
        names = "grad weight count seen skipped known ratios behind_grad behind_weight"
        assert set(saved["state"]) == set(names.split())
    else:
        assert saved == {}


def test_a_first_epoch_without_a_usable_step_stays_so_when_resumed():
    """Its ratios are 1, and so are those of the second epoch, whose own steps make the third's."""
    ratios = []
    for resumed in (False, True):
        model = chain(1.0, 2.0, 4.0)
        plan = make_plan("autorgn", model, epochs=3)
        plan.begin_epoch(0)
        give_gradients(model, math.nan, 1, 1)
        plan.after_backward()
        plan.begin_epoch(1)
        if resumed:
            state, plan = plan.state_dict(), make_plan("autorgn", model, epochs=3)
            plan.load_state_dict(state)
        for epoch in (1, 2):
            give_gradients(model, 1, 1, 1)
            plan.after_backward()
            ratios.append(plan.ratios.tolist())
            if epoch == 1:
                plan.begin_epoch(2)
    assert ratios == [[1, 1, 1], [1, 0.5, 1]] * 2


# ---- blocks and the head ----

# Tensors per block, worked out from the architectures. Conv with BatchNorm: 3 (no bias); with bias or
# LayerNorm: 2.
MAPS = {
    # BasicBlock: two conv + bn = 6; the first of layers 2 to 4 has a downsampling conv + bn, 3 more.
    "resnet18": {"stem": 3, "layer1": 12, "layer2": 15, "layer3": 15, "layer4": 15, "head": 2},
    # Bottleneck: three conv + bn = 9; 3, 4, 6, 3 of them, each layer with one downsampling.
    "resnet50": {"stem": 3, "layer1": 30, "layer2": 39, "layer3": 57, "layer4": 30, "head": 2},
    # Dense layer: norm, conv, norm, conv = 6; 6, 12, 24, 16 of them; transition: norm and conv = 3; norm5 =
    # 2.
    "densenet121": {
        "stem": 3,
        "denseblock1": 6 * 6 + 3,
        "denseblock2": 12 * 6 + 3,
        "denseblock3": 24 * 6 + 3,
        "denseblock4": 16 * 6 + 2,
        "head": 2,
    },
    # 2, 2, 4, 4, 4 convolutions with bias.
    "vgg19": {"stage1": 4, "stage2": 4, "stage3": 8, "stage4": 8, "stage5": 8, "fc6+fc7": 4, "head": 2},
    # 1, 1, 2, 2, 2 convolutions with bias and BatchNorm.
    "vgg11_bn": {"stage1": 4, "stage2": 4, "stage3": 8, "stage4": 8, "stage5": 8, "fc6+fc7": 4, "head": 2},
    # MBConv: expansion 3, depthwise 3, squeeze-excitation 4, projection 3 = 13, the first stage without
    # expansion; 1, 2, 2, 3, 3, 4, 1 of them between two conv + bn.
    "efficientnet_b0": {f"features.{i}": n for i, n in enumerate([3, 10, 26, 26, 39, 39, 52, 13, 3])} | {"head": 2},
    # Block: layer scale 1, depthwise conv 2, LayerNorm 2, two linear layers 4 = 9; 3, 3, 9, 3 of them; stem
    # and downsampling: conv and norm = 4. The LayerNorm before the head goes with the last stage.
    "convnext_tiny": {f"features.{i}": n for i, n in enumerate([4, 27, 4, 27, 4, 81, 4, 29])} | {"head": 2},
    # Conv + bn; 11 inverted residuals: expansion 3 (not in the first), depthwise 3, squeeze-excitation 4 (not
    # in the second and third), projection 3; conv + bn; a linear layer before the head.
    "mobilenet_v3_small": {f"features.{i}": n for i, n in enumerate([3, 10, 9, 9, *[13] * 8, 3])}
    | {"classifier.0": 2, "head": 2},
    # Block: three conv + bn and squeeze-excitation = 13; 1, 3, 6, 6 of them; each stage with one projection,
    # 3 more.
    "regnet_y_400mf": {"stem": 3}
    | {f"trunk_output.block{i + 1}": 13 * n + 3 for i, n in enumerate([1, 3, 6, 6])}
    | {"head": 2},
    # Block: two LayerNorms 4, qkv 2, projection 2, relative positions 1, MLP 4 = 13; 2, 2, 6, 2 of them;
    # patch embedding: conv and norm = 4; merging: linear without bias and norm = 3; the last norm goes with
    # the last stage.
    "swin_t": {f"features.{i}": n for i, n in enumerate([4, 26, 3, 26, 3, 78, 3, 28])} | {"head": 2},
    # Block: two LayerNorms 4, attention's in and out 4, MLP 4 = 12. Class token and positions go with
    # conv_proj, the last norm with the last block.
    "vit_b_16": {"conv_proj": 4}
    | {f"encoder.layers.encoder_layer_{i}": 12 + 2 * (i == 11) for i in range(12)}
    | {"head": 2},
}
HEADS = {
    "resnet18": "fc",
    "resnet50": "fc",
    "densenet121": "classifier",
    "vgg19": "classifier.6",
    "vgg11_bn": "classifier.6",
    "efficientnet_b0": "classifier.1",
    "convnext_tiny": "classifier.2",
    "mobilenet_v3_small": "classifier.3",
    "regnet_y_400mf": "fc",
    "swin_t": "head",
    "vit_b_16": "heads.head",
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_the_families(name):
    model = weightless(name)
    blocks = blocks_of(model)
    assert {block.name: len(block.parameters) for block in blocks} == MAPS[name]
    assert [block.name for block in blocks] == list(MAPS[name])  # from input to head
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert sum(p.numel() for b in blocks for p in b.parameters.values()) == weights.meta["num_params"]
    assert set(blocks[-1].parameters) == {f"{HEADS[name]}.weight", f"{HEADS[name]}.bias"}


@pytest.mark.parametrize(
    "name, tensor, block",
    [
        ("resnet18", "bn1.weight", "stem"),
        ("densenet121", "features.transition2.conv.weight", "denseblock2"),
        ("densenet121", "features.norm5.bias", "denseblock4"),
        ("vgg19", "features.16.weight", "stage3"),
        ("vgg19", "features.19.weight", "stage4"),
        ("vgg19", "classifier.3.bias", "fc6+fc7"),
        ("convnext_tiny", "classifier.0.weight", "features.7"),
        ("convnext_tiny", "features.3.0.layer_scale", "features.3"),
        ("swin_t", "norm.weight", "features.7"),
        ("vit_b_16", "class_token", "conv_proj"),
        ("vit_b_16", "encoder.pos_embedding", "conv_proj"),
        ("vit_b_16", "encoder.ln.weight", "encoder.layers.encoder_layer_11"),
    ],
)
def test_where_single_tensors_go(name, tensor, block):
    assert [b.name for b in blocks_of(weightless(name)) if tensor in b.parameters] == [block]


@pytest.mark.parametrize("name", HEADS)
def test_replace_head(name):
    model = weightless(name)
    before = dict(model.named_parameters())
    old = model.get_submodule(HEADS[name])
    head = replace_head(model, CLASSES)
    assert model.get_submodule(HEADS[name]) is head is not old
    assert strategies.find_head(model) == (HEADS[name], head)
    assert (head.in_features, head.out_features) == (old.in_features, CLASSES)
    after = dict(model.named_parameters())
    changed = {n for n in after if after[n] is not before[n]}
    assert changed == {f"{HEADS[name]}.weight", f"{HEADS[name]}.bias"} and before.keys() == after.keys()


def test_replace_head_keeps_dtype_and_bias_and_draws_anew():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2, bias=False)).double()
    old = model[1].weight.detach().clone()
    head = replace_head(model, 2)
    assert model[1] is head and head.weight.dtype == torch.float64 and head.bias is None
    assert head.weight.shape == old.shape and not torch.equal(head.weight, old)


def test_squeezenets_head_is_a_convolution():
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1()
    head = replace_head(model, CLASSES)
    assert model.classifier[1] is head and isinstance(head, nn.Conv2d)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, CLASSES)
    assert set(blocks_of(model)[-1].parameters) == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_parameter_of_every_torchvision_classifier_is_in_one_block(name):
    model = weightless(name)
    blocks = blocks_of(model)
    times = Counter(parameter for block in blocks for parameter in block.parameters)
    assert times == Counter(dict.fromkeys((parameter for parameter, _ in model.named_parameters()), 1))
    assert len({block.name for block in blocks}) == len(blocks) >= 5
    assert all(block.parameters for block in blocks)
    # The modules that behave differently in eval are reached through the blocks, each through one.
    kinds = ("BatchNorm2d", "Dropout", "StochasticDepth")
    moody = {id(m): n for n, m in model.named_modules() if type(m).__name__ in kinds}
    reached = Counter(id(m) for block in blocks for part in block.modules for m in part.modules())
    assert {n: reached[i] for i, n in moody.items() if reached[i] != 1} == {}


def test_a_parameter_in_no_block_is_named():
    model = small_resnet()
    model.extra_scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="extra_scale.*no block"):
        blocks_of(model)
    model = small_vgg()
    model.neck = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="neck.weight.*no block"):
        blocks_of(model, model.classifier[6])


def test_a_parameter_in_two_blocks_is_named():
    model = small_resnet()
    model.layer4[0].bn2.weight = model.layer4[0].bn1.weight  # within a block: no harm
    assert [block.name for block in blocks_of(model)][-2:] == ["layer4", "head"]
    model.layer4[0].bn2.weight = model.layer3[0].bn2.weight
    with pytest.raises(ValueError, match="layer3.0.bn2.weight is in two blocks: layer3 and layer4"):
        blocks_of(model)
    model = small_resnet()
    with pytest.raises(ValueError, match="layer4.0.conv1.weight is in two blocks: layer4 and head"):
        blocks_of(model, model.layer4[0].conv1)


def test_a_head_from_elsewhere_is_refused():
    with pytest.raises(ValueError, match="not a part of this Toy"):
        make_plan("ft", toy(), nn.Linear(7, CLASSES), epochs=1)
    with pytest.raises(ValueError, match="no Linear or Conv2d"):
        make_plan("ft", nn.Sequential(nn.BatchNorm2d(2)), epochs=1)


def misnamed():
    """The first convolution is called head, the classifier fc."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(1))
    model.flat = nn.Flatten()
    model.hidden, model.hidden2 = nn.Linear(4, 4), nn.Linear(4, 4)
    model.fc = nn.Linear(4, CLASSES)
    return model


@pytest.mark.parametrize("key", STRATEGIES)
def test_the_head_is_told_by_identity(key):
    model = misnamed()
    assert strategies.find_head(model) == ("fc", model.fc)
    plan = make_plan(key, model, epochs=5, lr=1e-2, hyper=Hyperparameters(alpha=0.5, beta=0.25))
    assert [b.name for b in plan.blocks][1:] == ["body", "hidden", "hidden2", "head"]
    plan.begin_epoch(0)
    open_at_first = {n.partition(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    if key in ("lp", "glf", "gfl", "lpft"):
        assert open_at_first == {"fc"}
        before = snapshot(model.head)
        fit(model, plan, [0])
        assert_same(before, snapshot(model.head))
    if key in (*SP, "autorgn"):
        assert open_at_first == {"head", "body", "hidden", "hidden2", "fc"}
    if key == "autorgn":
        with torch.no_grad():
            model.head[0].bias.zero_()
            for p in model.parameters():
                p.grad = p / 8  # every layer's RGN is 1/8
            model.head[0].weight.grad, model.fc.weight.grad = model.head[0].weight / 2, model.fc.weight * 9
        plan.after_backward()
        ratios = ratios_in_force(plan)
        assert ratios["head.0"] == pytest.approx(1.0) and ratios["fc"] == 1.0
        assert ratios["body.0"] == pytest.approx(0.25, rel=1e-6)  # 1/8 of 1/2: fc's 9 is not in the maximum
    if key in SP:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(2.0).grad = torch.zeros_like(p)
        plan.after_backward()
        pull = {"l1sp": 0.5, "l2sp": 1.0}[key]
        assert model.head[0].weight.grad.flatten().tolist() == pytest.approx([pull] * 108, rel=1e-6)
        torch.testing.assert_close(model.fc.weight.grad, 0.25 * model.fc.weight.detach())


def test_a_head_that_is_not_the_last_linear_layer():
    model = toy()
    model.auxiliary = nn.Linear(2, 2)
    plan = make_plan("lp", model, model.fc, epochs=1)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    assert [p for group in plan.groups for p in group["params"]] == [model.fc.weight, model.fc.bias]


# ---- names, defaults, wrong values ----


def test_names_in_any_spelling():
    for key, entry in STRATEGIES.items():
        name = entry.name
        for spelling in (key, name, name.upper(), name.lower(), name.replace("-", "_")):
            assert strategies.strategy_key(spelling) == key
            assert make_plan(spelling, chain(1.0, 1.0), epochs=1).strategy == key
    for spelling in ("Auto-RGN", "auto_rgn", "autorgn", "AUTO_RGN", "AutoRGN", "auto rgn"):
        assert strategies.strategy_key(spelling) == "autorgn"


@pytest.mark.parametrize("name", ["lpfft", "", "FT2", "lp+ft"])
def test_an_unknown_name_says_what_there_is(name):
    with pytest.raises(ValueError) as error:
        make_plan(name, chain(1.0, 1.0), epochs=1)
    assert str(error.value) == f"unknown strategy {name!r}; choose from {', '.join(STRATEGIES)}"


FT_GRIDS = ((1e-5, 1e-3), (3e-4, 3e-2))
GRIDS = {  # the paper's strategies: lowest and highest rate with AdamW, with SGD
    **dict.fromkeys(("ft", *GRADUAL, *SP), FT_GRIDS),
    "lp": ((1e-3, 1e-1), (3e-3, 1)),
    "lpft": ((3e-6, 3e-4), (1e-4, 1e-2)),
    "autorgn": ((1e-4, 1e-2), (1e-3, 1e-1)),
}


def half_decades(lowest, highest):
    ladder = [float(f"{digit}e{power}") for power in range(-8, 3) for digit in (1, 3)]
    return [rate for rate in ladder if lowest <= rate <= highest]


@pytest.mark.parametrize("key", GRIDS)
def test_learning_rates_equal_the_table(key):
    entry = STRATEGIES[key]
    for opt, (lowest, highest) in zip(("adamw", "sgd"), GRIDS[key], strict=True):
        grid = half_decades(lowest, highest)
        assert entry.rates(opt) == pytest.approx(tuple(grid), rel=1e-12)
        middle = (grid[(len(grid) - 1) // 2], grid[len(grid) // 2])  # LP with SGD has six: one of two
        assert any(entry.default_lr(opt) == pytest.approx(rate, rel=1e-12) for rate in middle)
        plan = make_plan(key, chain(1.0, 1.0), epochs=2, opt=opt)
        assert {group["lr"] for group in plan.groups} == {entry.default_lr(opt)}
        plan.begin_epoch(0)
        expected = STRATEGIES["lp"].default_lr(opt) if key == "lpft" else entry.default_lr(opt)
        optimizer = sgd(plan.groups)
        plan.set_rates(optimizer)
        assert {group["lr"] for group in optimizer.param_groups} == {expected}
    assert entry.rates("adam") == entry.rates("adamw")
    assert entry.default_lr("adam") == entry.default_lr("adamw")


def test_default_rates_in_numbers():
    like_ft = ("ft", *GRADUAL, *SP)
    adamw_rates = dict.fromkeys(like_ft, 1e-4) | {"lp": 1e-2, "lpft": 3e-5, "autorgn": 1e-3}
    assert {key: STRATEGIES[key].default_lr("adamw") for key in adamw_rates} == adamw_rates
    # lp: of 3e-3 to 1 by half decades, six, the lower of the two in the middle.
    sgd_rates = dict.fromkeys(like_ft, 3e-3) | {"lp": 3e-2, "lpft": 1e-3, "autorgn": 1e-2}
    assert {key: STRATEGIES[key].default_lr("sgd") for key in sgd_rates} == sgd_rates


def test_the_default_is_the_middle_of_a_grid_and_of_two_the_lower():
    grids = {(1.0,): 1.0, (1.0, 2.0): 1.0, (1.0, 2.0, 3.0): 2.0, (1.0, 2.0, 3.0, 4.0): 2.0}
    for grid, middle in grids.items():
        entry = dataclasses.replace(STRATEGIES["ft"], adamw=grid, sgd=(9.0, *grid, 9.0))
        assert entry.default_lr("adamw") == entry.default_lr("adam") == entry.default_lr("sgd") == middle


def test_penalty_defaults():
    assert (STRATEGIES["l2sp"].alpha, STRATEGIES["l2sp"].alphas) == (0.1, (1e-3, 1e-2, 1e-1, 1.0))
    assert STRATEGIES["l1sp"].alphas == (1e-5, 1e-4, 1e-3) and STRATEGIES["l1sp"].alpha in (1e-5, 1e-4, 1e-3)
    for key, pull in (("l1sp", STRATEGIES["l1sp"].alpha), ("l2sp", 0.1 * 2.0)):
        model = chain(1.0, 1.0)
        plan = make_plan(key, model, epochs=1)
        with torch.no_grad():
            model[0].weight.add_(2.0)
        plan.begin_epoch(0)
        give_gradients(model, 0.0, 0.0)
        plan.after_backward()
        assert [p.grad.item() for p in model.parameters()] == pytest.approx([pull, 0.01], rel=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"bn": "frozen"}, "bn is 'frozen'; choose from train, eval"),
        ({"sp_mode": "prox"}, "sp_mode is 'prox'; choose from loss, proximal"),
        ({"rgn_source": "forward"}, "rgn_source is 'forward'; choose from backward, probe"),
        ({"rgn_unit": "model"}, "rgn_unit is 'model'; choose from layer, tensor, block"),
        ({"rgn_norm": "head"}, "rgn_norm is 'head'; choose from backbone, all"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"alpha": -1e-9}, "alpha is -1e-09"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"beta": math.inf}, "beta is inf"),
        ({"lp_lr": -1.0}, "lp_lr is -1.0"),
        ({"rgn_every": -1}, "rgn_every is -1"),
        ({"rgn_batches": 0}, "rgn_batches is 0; a finite number of 1 or more is needed"),
        ({"stage_shares": (1, -1)}, "stage_shares is (1, -1); a finite number of 0 or more is needed"),
        ({"stage_shares": [1, math.nan]}, "stage_shares is [1, nan]"),
        ({"stage_shares": (math.inf,)}, "stage_shares is (inf,)"),
    ],
)
def test_bad_hyperparameters(settings, message):
    with pytest.raises(ValueError) as error:
        Hyperparameters(**settings)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("known", dataclasses.fields(Hyperparameters), ids=lambda known: known.name)
def test_every_hyperparameter_is_a_flag(known):
    """Help, which does not name the default; then choices, the least of a number, or a switch."""
    about, numbers = known.metadata, ("float", "int", "float | None", "tuple[float, ...] | None")
    assert about["help"] and f"({known.default})" not in about["help"]
    assert ("least" in about) is (known.type in numbers)
    assert ("choices" in about) is (known.type == "str")
    assert known.type == "bool" or "least" in about or known.default in about["choices"]
    assert set(about) <= {"help", "least", "most", "choices", "short", "before", "words"}


@pytest.mark.parametrize(
    "key, call, settings, message",
    [
        ("ft", {"lr": -1.0}, {}, "lr is -1.0"),
        ("ft", {"lr": math.nan}, {}, "lr is nan"),
        ("ft", {"lr": math.inf}, {}, "lr is inf"),
        ("ft", {"opt": "SGD"}, {}, "opt is 'SGD'; choose from adamw, adam, sgd"),
        ("ft", {"epochs": 0}, {}, "epochs is 0"),
        ("lpft", {}, {"stage_shares": (1, 1, 1)}, "lpft has 2 stages, but stage_shares has 3 numbers"),
        ("ft", {}, {"stage_shares": (0.5, 0.5)}, "ft has 1 stages, but stage_shares has 2 numbers"),
        ("lpft", {}, {"stage_shares": (0, 0)}, "stage shares [0, 0]"),
    ],
)
def test_bad_arguments_of_a_plan(key, call, settings, message):
    with pytest.raises(ValueError) as error:
        make_plan(key, chain(1.0, 1.0), **{"epochs": 2, **call}, hyper=Hyperparameters(**settings))
    assert str(error.value).startswith(message)


# ---- what a report is told, one more strategy, memory ----


@pytest.mark.parametrize("key", STRATEGIES)
def test_what_a_report_is_told_of_a_strategy(key):
    entry, told = STRATEGIES[key], strategies.about(key)
    assert told == strategies.about(entry.name)
    assert list(STRATEGIES)[told["order"]] == key
    assert told["staged"] is (len(make_plan(key, toy(), epochs=5).stages) > 1)
    assert told["sentence"] and told["sentence"][-1] not in " ." and told["sentence"][0].islower()
    assert told["citation"] == (strategies.SOURCES[entry.source] if entry.source else "")
    assert json.loads(json.dumps(told)) == told
    assert set(entry.uses) <= {known.name for known in dataclasses.fields(Hyperparameters)}


def test_sources_of_the_strategies():
    cited = {"lpft": "Kumar A", "l1sp": "Li X", "l2sp": "Li X", "glf": "Howard J", "gfl": "Lee Y"}
    cited |= {"autorgn": "Lee Y"}
    for key, author in cited.items():
        assert strategies.about(key)["citation"].startswith(author)


def lasttwo(blocks, lr, hyper):
    """Last two: the head and the block before it."""
    groups = strategies.groups_of(blocks[-2:], lr, hyper.weight_decay)
    return strategies.Parts(groups, [strategies.Stage("last two", strategies.names_of(groups))])


def test_a_strategy_is_a_function_and_an_entry(monkeypatch):
    entry = strategies.Strategy("Last-2", lasttwo, sentence="the last two blocks", **strategies.FT_RATES)
    monkeypatch.setitem(STRATEGIES, "last2", entry)
    model = toy()
    before = snapshot(model)
    plan = make_plan("Last-2", model, epochs=2, lr=1e-2)
    fit(model, plan, range(2))
    after = snapshot(model)
    changed = {name.partition(".")[0] for name in after if not same_bits(before[name], after[name])}
    assert changed == {"hidden", "fc"}
    assert plan.trainable_parameters() == sum(TOY_PARAMETERS[-2:])
    told = {
        "order": len(STRATEGIES) - 1,
        "sentence": "the last two blocks",
        "citation": "",
        "staged": False,
        "settings": [],
    }
    assert strategies.about("last_2") == told


VARIANTS = [(key, {}) for key in STRATEGIES]
VARIANTS += [("l2sp", {"sp_mode": "proximal"}), ("autorgn", {"rgn_source": "probe", "rgn_batches": 2})]


@pytest.mark.parametrize("key, settings", VARIANTS)
def test_a_run_that_is_dropped_frees_its_weights_at_once(key, settings):
    """No cycle, in which they would lie until the collector comes by, and count in the next run's peak."""
    model = toy()
    plan = make_plan(key, model, epochs=3, hyper=Hyperparameters(**settings))
    optimizer = fit(model, plan, range(3), probe=probe_of(model))
    plan.load_state_dict(plan.state_dict())
    kept = [weakref.ref(value) for value in (*model.parameters(), *model.modules(), plan)]
    gc.collect()
    gc.disable()
    try:
        del model, plan, optimizer
        assert [alive() for alive in kept if alive() is not None] == []
    finally:
        gc.enable()


# ---- copied on its own ----


def test_imports_torch_and_the_standard_library_only():
    tree = ast.parse(Path(strategies.__file__).read_text())
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add(node.module.partition(".")[0])
    assert "torch" in modules and modules - set(sys.stdlib_module_names) == {"torch"}


ALONE = """
import json, math, sys, types
sys.path.insert(0, FOLDER)
import torch
from torch import nn
from strategies import STRATEGIES, make_plan, replace_head

assert "torchvision" not in sys.modules
torch.set_num_threads(1)


def small(weights):
    torch.manual_seed(0)
    body = nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 10))


class Loader:
    def __iter__(self):
        losses[key].append(nn.functional.cross_entropy(names["model"](images), labels).item())
        yield images, labels


labels = torch.arange(32) % 4
images = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))
images += 2 * nn.functional.one_hot(labels, 4)[:, 1:, None, None]  # a class is a colour
losses = {}
for key in STRATEGIES:
    losses[key] = []
    names = {"torch": torch, "replace_head": replace_head, "make_plan": make_plan, "loader": Loader()}
    names["torchvision"] = types.SimpleNamespace(models=types.SimpleNamespace(resnet50=small))
    exec(EXAMPLE.replace('"autorgn"', repr(key)), names)
    assert names["model"][-1] is names["head"] and names["head"].out_features == 4
print(json.dumps(losses))
"""


def test_a_copy_alone_trains_a_model(tmp_path):
    """The loop of the file's own header as it stands there, for every strategy, in a folder that holds
    nothing else, python -I. Only the model and the data are small. The loss falls, epoch by epoch."""
    source = Path(strategies.__file__).read_text()
    (tmp_path / "strategies.py").write_text(source)
    header = ast.get_docstring(ast.parse(source))
    example = textwrap.dedent("\n".join(line for line in header.splitlines() if line.startswith("    ")))
    assert '"autorgn"' in example and "plan.after_step(optimizer)" in example
    script = ALONE.replace("FOLDER", repr(str(tmp_path))).replace("EXAMPLE", repr(example))
    run = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    losses = json.loads(run.stdout)
    assert list(losses) == list(STRATEGIES)
    for key, curve in losses.items():
        assert len(curve) == 20, key
        assert sorted(set(curve), reverse=True) == curve, (key, curve)
