"""A stage that trains the head alone: the split at the head, folded BatchNorm, features computed once, all against
the plain loop."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn
from toys import CPU, judge_of, toy_data

import models
import runs
import strategies
import train

FAMILIES = (
    "resnet18 densenet121 vgg11_bn mobilenet_v2 mobilenet_v3_small efficientnet_b0 convnext_tiny vit_b_16 swin_t "
    "regnet_y_400mf shufflenet_v2_x0_5 googlenet mnasnet0_5 maxvit_t"
).split()


def head_stage(arch, classes=3):
    """A model with statistics and shifts that are not those of a new one, in LP's only stage."""
    torch.manual_seed(0)
    model = models.new_model(arch)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    head = strategies.replace_head(model, classes)
    plan = strategies.make_plan("lp", model, head, epochs=1)
    plan.begin_epoch(0)
    return model, head


@pytest.mark.parametrize("arch", FAMILIES)
def test_a_split_model_is_the_model(arch):
    model, head = head_stage(arch)
    backbone, last = train.split_at_head(model)
    assert last is head and head.training and all(p.requires_grad for p in head.parameters())
    side = 224 if arch in ("vit_b_16", "swin_t", "maxvit_t") else 64
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, found = copy.deepcopy(model).double().eval()(x.double()), last(backbone(x))
    scale = expected.abs().max()
    assert (found.double() - expected).abs().max() < 1e-4 * scale


def test_batch_norm_is_folded_where_a_convolution_stands_before_it():
    model, _ = head_stage("resnet18")
    backbone, _ = train.split_at_head(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 20  # the model's own stay


class Reads(nn.Module):
    """A convolution that something else reads besides its BatchNorm, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        x = self.conv(x)
        x = x + self.norm(x)
        x = self.after(self.twice(self.twice(x)))
        return self.fc(x.mean(dim=(2, 3)))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, x):
        x = self.conv(x).mean(dim=(2, 3))
        return self.fc(x if x.sum() > 0 else -x)


class After(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(12, 2), nn.ReLU())


def only(model, name):
    model.eval()
    for key, p in model.named_parameters():
        p.requires_grad_(key.startswith(name))
    return model


def test_what_cannot_be_folded_is_left_and_what_cannot_be_split_runs_whole():
    model = only(Reads(), "fc")
    with torch.no_grad():
        model.norm.running_mean.fill_(0.3), model.after.running_var.fill_(3)
    backbone, head = train.split_at_head(model)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()) == 2
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(head(backbone(x)), model(x))
    assert train.split_at_head(only(Branches(), "fc")) is None
    assert train.split_at_head(only(After(), "2")) is None
    assert train.split_at_head(only(Reads(), "")) is None  # everything trains
    assert train.split_at_head(only(Reads(), "none")) is None  # nothing does
    drops = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 2))
    only(drops, "2").train()
    assert train.split_at_head(drops) is None  # a Dropout that drops has other features each time


class Net(nn.Module):
    """A BatchNorm to fold, and more than one convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.bn(self.a(x)))
        return self.fc(torch.relu(self.bn2(self.b(x))).mean(dim=(2, 3)))


def trained(folder, strategy, augment, monkeypatch=None, epochs=4, stop=None, **how):
    """(model, log, images handed to a forward pass) of a run; with monkeypatch by the plain loop."""
    if monkeypatch:
        monkeypatch.setattr(train, "split_at_head", lambda model: None)
    torch.manual_seed(0)
    data, model = toy_data(), Net()
    with torch.no_grad():
        model.bn.running_mean.fill_(0.1), model.bn2.running_var.fill_(0.5)
    plan, run = strategies.make_plan(strategy, model, epochs=epochs), runs.RunFolder(folder)
    folder.mkdir(exist_ok=True)
    asked, images = [], data.images
    counting = type("Counting", (), {name: getattr(data, name) for name in ("task", "classes", "labels", "rows")})
    counting.images = lambda self, rows, device, **how: (asked.append(len(rows)), images(rows, device, **how))[1]
    log = []

    def after(row):
        log.append(row)
        if len(log) == stop:
            raise KeyboardInterrupt

    recipe = train.Recipe(epochs=epochs, batch_size=8, augment=augment, **how, **CPU)
    what = {"metric": data.index.metric, "judge": judge_of(data), "after_epoch": after, "saving": train.Saving(0.0)}
    with contextlib.suppress(KeyboardInterrupt):
        train.run(model, plan, counting(), run, recipe, **what)
    return model, log, sum(asked)


@pytest.mark.parametrize("strategy", ["lp", "lpft", "glf"])
@pytest.mark.parametrize("augment", ["none", "light"])
def test_a_run_is_that_of_the_plain_loop_to_rounding(strategy, augment, tmp_path, monkeypatch):
    model, log, _ = trained(tmp_path / "a", strategy, augment)
    plain, expected, _ = trained(tmp_path / "b", strategy, augment, monkeypatch)
    for row, by_hand in zip(log, expected, strict=True):
        assert row["train_loss"] == pytest.approx(by_hand["train_loss"], abs=2e-5)
        assert row["val_loss"] == pytest.approx(by_hand["val_loss"], abs=2e-5)
    for p, q in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.allclose(p.double(), q.double(), atol=2e-4)


def test_features_are_computed_once_a_stage(tmp_path):
    data = toy_data()
    train_rows, val_rows = (len(data.rows[side]) for side in ("train", "val"))
    assert trained(tmp_path / "a", "lp", "none")[2] == train_rows + val_rows
    assert trained(tmp_path / "b", "lp", "light")[2] == 4 * train_rows + val_rows
    assert trained(tmp_path / "c", "ft", "light")[2] == 4 * (train_rows + val_rows)
    assert trained(tmp_path / "d", "lp", "none", flip="horizontal")[2] == 4 * train_rows + val_rows


def test_where_features_would_not_fit_they_are_computed_anew(tmp_path, monkeypatch):
    _, expected, _ = trained(tmp_path / "a", "lp", "none")
    monkeypatch.setattr(train, "FEATURE_BYTES", 100)
    _, log, asked = trained(tmp_path / "b", "lp", "none")
    assert [row["val_loss"] for row in log] == pytest.approx([row["val_loss"] for row in expected], abs=1e-6)
    assert asked > 4 * sum(map(len, toy_data().rows.values())) - 4 * len(toy_data().rows["test"])


def test_a_resumed_stage_has_the_same_features_bit_for_bit(tmp_path):
    whole, log, _ = trained(tmp_path / "a", "lp", "none")
    trained(tmp_path / "b", "lp", "none", stop=2)
    again, rest, _ = trained(tmp_path / "b", "lp", "none")
    assert [row["val_loss"] for row in rest] == [row["val_loss"] for row in log[2:]]
    assert all(torch.equal(p, q) for p, q in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_backbone_is_bit_identical_afterwards(tmp_path):
    torch.manual_seed(0)
    fresh = Net().state_dict()
    model, _, _ = trained(tmp_path / "a", "lp", "none")
    same = [name for name, value in model.state_dict().items() if torch.equal(value, fresh[name])]
    moved = set(fresh) - set(same)
    assert moved - {"bn.running_mean", "bn2.running_var"} == {"fc.weight", "fc.bias"}
    assert np.isclose(model.bn.running_mean, 0.1).all()
