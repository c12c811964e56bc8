"""Small things that many tests share: a network, data for it, a run of it."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import nn

import datasets
import metrics
import models
import prepare
import runs
import settings
import strategies
import train

ARCH = "shufflenet_v2_x0_5"  # small, with BatchNorm
CPU = {"device": "cpu", "amp": "off"}  # of a Recipe
SMALL = ["--arch", ARCH, "--weights", "none", "--img-size", "32", "--device", "cpu", "-b", "16"]


def read(file):
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def settings_of(*arguments):
    """What the command line says, as settings."""
    said = settings.parse(list(map(str, arguments)))
    return settings.make(said, said.get("data", [None])[0])


def predictions(run_folder):
    return read(run_folder / "predictions.csv")


class Toy(nn.Module):
    def __init__(self, norm=True, dropout=0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.drop(torch.relu(self.bn(self.conv(x))).mean(dim=(2, 3))))


def toy_data(n=40, size=8):
    rng = np.random.default_rng(1)
    labels = np.arange(n) % 2
    pixels = torch.from_numpy(
        rng.integers(0, 120, (n, 1, size, size)).astype(np.uint8) + 100 * labels[:, None, None, None].astype(np.uint8)
    )
    index = datasets.Index(
        name="toy",
        task="multiclass",
        classes=["a", "b"],
        paths=[str(i) for i in range(n)],
        labels=labels.astype(np.int64),
        root=Path("."),
    )
    rows = {"train": np.arange(0, n - 16), "val": np.arange(n - 16, n - 8), "test": np.arange(n - 8, n)}
    return prepare.Data(index, pixels, np.arange(n), rows, (0.5,) * 3, (0.25,) * 3)


def judge_of(data):
    """What run_cell hands to train.run: the metric of the dataset."""
    return lambda rows, scores: prepare.judge_scores(data.index, rows, scores)["values"][data.index.metric]


def criterion_of(data, rows, class_weights):
    known = data.index.labels[rows]
    return train.make_criterion(train.Recipe(class_weights=class_weights, **CPU), data.task, known, data.classes)


def toy_training(
    tmp_path, strategy="ft", epochs=4, stop_after=None, model=None, data=None, judge=None, saving=None, **recipe
):
    """stop_after: epochs after which the process is as good as killed; each was saved, unless saving says
    otherwise."""
    torch.manual_seed(0)
    model, data = model or Toy(dropout=0.5), data or toy_data()
    recipe = train.Recipe(**({"epochs": epochs, "batch_size": 8} | CPU | recipe))
    plan = strategies.make_plan(strategy, model, epochs=epochs, lr=1e-2)

    def after_epoch(row):
        if row["epoch"] == stop_after:
            raise KeyboardInterrupt

    run = runs.RunFolder(tmp_path)
    told = {"metric": data.index.metric, "judge": judge or judge_of(data)}
    told["higher_is_better"] = metrics.higher_is_better(data.index.metric)
    told["saving"] = saving or train.Saving(every=0.0 if stop_after else 30.0)
    train.run(model, plan, data, run, recipe, **told, after_epoch=after_epoch)
    return model, plan, run


def half_trained(folder, name="best.pt"):
    """A run of ours, killed in the midst of training."""
    run = runs.RunFolder(folder)
    model = models.new_model(ARCH).state_dict()
    run.save(name, {"model": model, "meta": {"arch": ARCH, "epoch": 1, "stage": "ft"}})
    run.write_json("config.json", {"settings": {}})
    return run


class Tiny(nn.Module):
    """Mean colours through a linear layer: the scores can be worked by hand."""

    def __init__(self, outputs=1000):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.transform_input = False
        self.fc = nn.Linear(3, outputs)

    def forward(self, x):
        return self.fc(self.pool(self.conv(x)).flatten(1))


def as_is(model):
    """Tiny or Tiny-like with logits that are the mean channels."""
    with torch.no_grad():
        model.conv.weight.copy_(torch.eye(3)[:, :, None, None])
        model.conv.bias.zero_()
        model.fc.weight.copy_(torch.eye(3)[: model.fc.out_features])
        model.fc.bias.zero_()
    return model


def write_run(folder, model, *, classes, task="multiclass", thresholds=None, done=True, strategy="FT", **meta):
    """A finished run of the model, by hand."""
    run = runs.RunFolder(folder)
    about = dict.fromkeys(("resize", "bit_depth", "transform_input"))
    about |= {"arch": "tiny", "classes": classes, "task": task, "mean": [0.0] * 3, "std": [1.0] * 3, "img_size": 8}
    about |= meta
    run.save("best.pt", {"model": model.state_dict(), "meta": about})
    run.write_json("config.json", {"settings": {}, "strategy": strategy})
    if done:
        run.write_json("metrics.json", {"thresholds": thresholds})
    return run.path
