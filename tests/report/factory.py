"""Report data for all tests of report/: run folders as ftcompare leaves them, and typed analyses of invented
runs.

    write_run(tmp_path, "FT", scores, labels, seed=1)          # a folder whose every number is known
    make_analysis([make_experiment(strategies=NAMES[:2])])     # an Analysis, nothing read
"""

from __future__ import annotations

import base64
import csv
import json
import math
import random
import struct
import zlib
from dataclasses import replace

import numpy as np

import metrics
import strategies
from report import experiment as typed
from report import stats
from report.analysis import analyse

NAN = math.nan
KEYS = {entry.name: key for key, entry in strategies.STRATEGIES.items() if entry.paper}  # paper's name -> key
NAMES = list(KEYS)
STAGED = ("G-LF", "G-FL", "LP-FT")
CLASSES = ["benign", "malignant"]


# ---- scores and run folders ----


def right_scores(labels, right, confidence=0.8, classes=2):
    """(N, C) scores that call the true class where right, else the next one."""
    called = np.where(right, labels, (labels + 1) % classes)
    scores = np.full((len(labels), classes), (1 - confidence) / (classes - 1))
    scores[np.arange(len(labels)), called] = confidence
    return scores


def all_right(labels):
    return right_scores(labels, np.full(len(labels), True))


def toy(rng, n=200):
    return rng.integers(0, 2, n)


def strategy_about(name):
    """What config.json holds of a strategy."""
    sentence = f"{name} as its source has it"
    return {"order": NAMES.index(name), "sentence": sentence, "citation": "", "staged": name in STAGED}


def write_run(
    root,
    strategy,
    scores,
    labels,
    *,
    data="toy",
    arch="net",
    seed=0,
    fold=0,
    groups=None,
    images=None,
    clusters=None,
    kind="patient",
    classes=CLASSES,
    task="multiclass",
    metric=None,
    unit=None,
    units=None,
    changed=None,
    tuning=None,
    status="done",
    train=100,
    arguments=None,
    about_data=None,
    about=True,
    stages=(),
    best_stage=None,
):
    """A run folder as ftcompare leaves it, with these test predictions (and the same for validation). kind,
    unit: of group and of what is scored. changed, arguments, about_data: what config.json holds besides of
    the settings, of the command line, of the data. about: what it holds of the strategy, False as in runs of
    earlier versions. stages: the stage of each epoch."""
    metric = metric or ("accuracy" if task == "multiclass" else "auroc")
    folder = root / data / arch / KEYS[strategy] / f"seed{seed}-fold{fold}"
    folder.mkdir(parents=True)
    n = len(labels)
    images = images or [f"i{k:03d}.png" for k in range(n)]
    groups = groups or images
    cell = {"data": data, "arch": arch, "strategy": KEYS[strategy], "seed": seed, "fold": fold, "trial": None}
    settings = {
        "cell": cell,
        "task": task,
        "classes": classes,
        "metric": metric,
        "lr": 1e-4,
        "epochs": 2,
        "threshold": "youden",
        "hyperparameters": {"bn": "train"},
        "split_hash": {"test": str(hash(tuple(images)))},
        "tune": 0,
    }
    counts = {"images": n, "groups": len(set(groups)), "units": n, "classes": dict.fromkeys(classes, 1)}
    described = {
        "name": data,
        "citation": None,
        "images": 2 * n + train,
        "leave_out": [],
        "official_test": False,
        "group_kind": kind,
        "unit_kind": unit or "image",
        "unit_score": "mean" if unit == "study" else unit,
        "splits": {"train": counts | {"images": train}, "val": counts, "test": counts},
        "groups_in_two_splits": 0,
        "identical_across_splits": 0,
        "notes": [],
    }
    config = {
        "settings": settings | (changed or {}),
        "strategy": strategy,
        "tuning": tuning,
        "data": described | (about_data or {}),
        "environment": {"torch": "9", "weights": "none"},
        "arguments": {"epochs": 2} | (arguments or {}),
        "command": ["ftcompare.py"],
    }
    config |= {"about": strategy_about(strategy)} if about else {}
    (folder / "config.json").write_text(json.dumps(config))
    write_log(folder, metric, seed, stages)
    if status == "failed":
        (folder / "failed.json").write_text(json.dumps({"reason": "the loss grew in epoch 2"}))
    if status != "done":
        return folder
    unit_column = dict(zip(images, units, strict=True)) if unit else {}
    columns = {"image": images, "group": groups} | ({"cluster": clusters} if clusters else {})
    columns |= {unit: [unit_column[image] for image in images]} if unit else {}
    write_predictions(folder, columns, classes, labels, scores)
    scored = (scores, labels)
    if unit == "study":
        scored = metrics.aggregate(scores, labels, np.array(units), "mean")[:2]
    value = metrics.evaluate(task, *scored, classes)
    result = {
        "cell": cell,
        "metric": metric,
        "second": "auroc",
        "best_epoch": 2,
        "epochs": 2,
        "optimizer_steps": 8,
        "minutes": 1.5,
        "peak_memory_bytes": 2**20,
        "trainable_parameters": 10,
        "parameters": 20,
        "positive": classes[1],
        "thresholds": [0.5] * (1 if task == "multiclass" else len(classes)),
        "val": value,
        "test": value,
        "best_stage": best_stage or (stages[-1] if stages else None),
    }
    (folder / "metrics.json").write_text(json.dumps(result).replace("NaN", "null"))
    return folder


def write_log(folder, metric, seed, stages):
    lines = [f"epoch,train_loss,val_loss,val_{metric}", f"1,1.0,1.2,0.{seed + 4}", f"2,0.5,0.8,0.{seed + 6}"]
    if stages:
        lines = [f"epoch,stage,train_loss,val_loss,val_{metric}"]
        lines += [f"{k},{stage},1.0,1.2,0.5" for k, stage in enumerate(stages, 1)]
    (folder / "log.csv").write_text("\n".join([*lines, ""]))


def write_predictions(folder, columns, classes, labels, scores):
    rows = []
    for split in ("val", "test"):
        for k, label in enumerate(labels):
            row = {name: values[k] for name, values in columns.items()}
            if np.ndim(label):
                row |= {f"label_{c}": "" if math.isnan(y) else int(y) for c, y in zip(classes, label, strict=True)}
            else:
                row["label"] = classes[label]
            row |= {f"score_{c}": repr(float(x)) for c, x in zip(classes, scores[k], strict=True)}
            rows.append(row | {"split": split})
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# ---- folders of several runs ----


def write_patients(root, strategy, share, *, patients=6, images=10, fold=0):
    """Two classes; of the patient k the share[k] tenths of the images are right."""
    labels = np.tile(np.repeat([0, 1], 5), patients)
    right = np.concatenate([np.arange(images) % 10 < share[k] for k in range(patients)])
    names = [f"f{fold}-p{k}" for k in range(patients) for _ in range(images)]
    files = [f"f{fold}-{k}.png" for k in range(len(labels))]
    write_run(root, strategy, right_scores(labels, right), labels, groups=names, images=files, fold=fold)


def write_cells(root, cells, strategies=("FT", "LP"), **more):
    """Runs of these (seed, fold), alike in all; the images of a fold are its own."""
    labels, right = np.tile([0, 1], 30), np.arange(60) < 45
    for strategy in strategies:
        for seed, fold in cells:
            more |= {"seed": seed, "fold": fold, "images": [f"f{fold}-{k}" for k in range(60)]}
            write_run(root, strategy, right_scores(labels, right), labels, **more)


def write_folds(root, plan, n=100):
    """plan: strategy -> {(seed, fold): accuracy}; the images of a fold are its own."""
    labels = np.tile([0, 1], n // 2)
    for strategy, runs in plan.items():
        for (seed, fold), accuracy in runs.items():
            scores = right_scores(labels, np.arange(n) < accuracy * n)
            images = [f"f{fold}-{k}" for k in range(n)]
            write_run(root, strategy, scores, labels, seed=seed, fold=fold, images=images)


def write_four_experiments(root):
    """LP-FT beats FT in three of four; Auto-RGN in one, by 0.3."""
    labels = np.tile([0, 1], 50)
    accuracy = {
        ("a", "net"): (60, 70, 50),
        ("a", "wide"): (60, 65, 90),
        ("b", "net"): (60, 90, 55),
        ("b", "wide"): (60, 55, 50),
    }
    for (data, arch), counts in accuracy.items():
        for strategy, n in zip(("FT", "LP-FT", "Auto-RGN"), counts, strict=True):
            scores = right_scores(labels, np.arange(100) < n)
            write_run(root, strategy, scores, labels, data=data, arch=arch)


def two_labels(n=40, rare=()):
    """(scores, labels) of edema and hernia: edema in every second image, found but for one pair of 20 x 20;
    hernia in the images of `rare` alone, scored highest there."""
    labels, scores = np.zeros((n, 2)), np.full((n, 2), 0.2)
    labels[1::2, 0] = 1
    scores[1::2, 0] = 0.7
    scores[1, 0], scores[0, 0] = 0.3, 0.4  # one positive below one negative
    labels[list(rare), 1] = 1
    scores[list(rare), 1] = 0.9
    return scores, labels


EDEMA = 1 - 1 / 400  # its AUROC: of 20 x 20 pairs one is the wrong way round


def imbalanced(n=100, positive=78):
    return (np.arange(n) < positive).astype(int)


def always(labels, called, confidence=0.8):
    """Scores that vary, and call one class of every image."""
    p = confidence - 0.2 * (np.arange(len(labels)) % 10) / 10
    return np.stack([p, 1 - p] if called == 0 else [1 - p, p], 1)


# ---- what a report says of them ----


def experiment_of(folder):
    """The only experiment in the folder."""
    (found,) = analyse(folder).experiments
    return found


def outputs(folder):
    """Every text that a report writes, by its kind, and the experiment."""
    from report import build

    found = build.build(folder)
    texts = {"md": (folder / "report.md").read_text(), "html": (folder / "report.html").read_text()}
    for kind in ("results", "budget", "pairs"):
        files = sorted((folder / "tables").glob(f"{kind}-*.tex"))
        texts[kind] = "\n".join(file.read_text() for file in files)
    texts |= {"terminal": build.text(found), "verdict": found.experiments[0].verdict}
    return texts, found.experiments[0]


def csv_of(folder, name="results.csv"):
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


# ---- pictures ----


def png(width=40, height=30, grey=128):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((grey + 3 * (x + y)) % 256 for x in range(width)) for y in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def thumbnail(grey):
    return "data:image/png;base64," + base64.b64encode(png(96, 96, grey)).decode()


# ---- typed analyses of invented runs ----

NOTHING = typed.Estimate()  # of a strategy without a finished run


def make_estimate(mean, sd=0.012, n=3, width=0.03):
    return typed.Estimate(mean=mean, sd=sd if n > 1 else NAN, n=n, low=mean - width, high=mean + width)


def make_row(strategy="FT", mean=0.871, *, classes=CLASSES, n=3, i=0, **changes):
    """i: which row it is, for the numbers that only have to differ."""
    draw = random.Random(f"{strategy}{i}")
    offsets = {
        "accuracy": 0.02,
        "balanced_accuracy": 0,
        "macro_f1": -0.01,
        "kappa": -0.1,
        "auroc": 0.07,
        "average_precision": 0.01,
    }
    values = {name: mean + offset for name, offset in offsets.items()} | {"ece": 0.05, "brier": 0.2}
    per_class = {
        name: {
            "recall": draw.uniform(0.5, 1),
            "precision": draw.uniform(0.5, 1),
            "f1": draw.uniform(0.5, 1),
            "auroc": draw.uniform(0.7, 1),
            "ap": draw.uniform(0.5, 1),
            "support": 12.0 + j,
        }
        for j, name in enumerate(classes)
    }
    penalty = strategy in ("L1-SP", "L2-SP")
    about = strategy_about(strategy) if strategy in NAMES else {"sentence": "", "citation": "", "staged": False}
    row = typed.Row(
        strategy=strategy,
        sentence=about["sentence"],
        citation=about["citation"],
        settings=about.get("settings", []),
        staged=about["staged"],
        done=n,
        failed=0,
        unfinished=0,
        missing=0,
        cells=[(seed, 0) for seed in range(n)],
        val=make_estimate(mean + 0.01, n=n),
        test=make_estimate(mean, n=n),
        second=make_estimate(mean + 0.02, n=n),
        metrics={name: typed.Estimate(mean=value, sd=0.01 if n > 1 else NAN, n=n) for name, value in values.items()},
        per_class=per_class,
        epochs=30.0,
        optimizer_steps=420.0,
        trials=0,
        tuning_steps=0.0,
        minutes=2.36 + i,
        minutes_total=3 * (2.36 + i),
        peak_memory_bytes=1142067200 + i * 10**7,
        trainable_parameters=2052 if strategy == "LP" else 11178564,
        parameters=11178564,
        lr=[1e-4],
        alpha=[1e-4] if penalty else [],
        edge=[],
        hyperparameters={"bn": "train", "stage_shares": None} | ({"beta": 0.01} if penalty else {"weight_decay": 0.01}),
        stages={},
        planned_stages=[],
        early={},
        one_call={},
        collapsed=False,
        ranked=True,
    )
    return replace(row, **changes)


def without_runs(row, **changes):
    """The row of a strategy of which no run has finished."""
    nothing = {"val": NOTHING, "test": NOTHING, "second": NOTHING, "metrics": {}, "per_class": {}, "cells": []}
    spent = {"epochs": NAN, "optimizer_steps": NAN, "minutes": NAN, "minutes_total": NAN, "lr": [], "alpha": []}
    unmarked = {"best": False, "beside_best": False, "ranked": False, "peak_memory_bytes": None}
    return replace(row, done=0, **(nothing | spent | unmarked | changes))


def make_pair(row_a, row_b, *, p=0.05, verdict="not separable", full=True, **changes):
    """full: with the tests besides."""
    difference = row_a.test.mean - row_b.test.mean
    pair = typed.Pair(
        a=row_a.strategy,
        b=row_b.strategy,
        runs=3,
        mean_a=row_a.test.mean,
        mean_b=row_b.test.mean,
        difference=difference,
        low=difference - 0.026,
        high=difference + 0.026,
        standard_error=0.013,
        df=39.0,
        p_bootstrap=p / 4,
        p_holm=p,
        verdict=verdict,
        mcnemar=stats.mcnemar(np.arange(40) < 24, np.arange(40) >= 15) if full else None,
        delong=stats.delong(np.arange(40) % 7, np.arange(40) % 5, np.arange(40) % 2 == 0) if full else None,
        t=stats.corrected_resampled_t([0.02, 0.05, -0.01], 0.25) if full else None,
    )
    return replace(pair, **changes)


def make_curve(epochs, level, n=3):
    """A learning curve that ends near the level."""
    points = []
    for epoch in range(1, epochs + 1):
        value = level * (1 - math.exp(-epoch / 5))
        loss = 1 - level + 1.5 * math.exp(-epoch / (3 + 4 * level))
        point = typed.EpochPoint(
            epoch=epoch,
            train_loss=loss,
            val_loss=loss + 0.01 * epoch,
            val_metric=value,
            low=value - 0.02,
            high=value + 0.02,
            runs=n,
        )
        points.append(point)
    return points


def make_roc(name, level):
    grid = np.linspace(0, 1, 101)
    return band(name, grid, grid ** (1 / level - 1), area=level, prevalence=0.25)


def make_pr(name, level, prevalence=0.25):
    grid = np.linspace(0, 1, 101)
    return band(name, grid, 1 - (1 - prevalence) * grid ** (12 * level - 6), area=level, prevalence=prevalence)


def band(name, grid, mean, area, prevalence):
    low, high = np.clip(mean - 0.04, 0, 1), np.clip(mean + 0.03, 0, 1)
    return typed.Curve(
        name=name,
        grid=grid.tolist(),
        mean=mean.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        area=area,
        prevalence=prevalence,
    )


def make_calibration(bins=10, empty=3):
    """The lowest bins are empty."""
    filled = [
        typed.Bin(
            low=i / bins,
            high=(i + 1) / bins,
            count=3 + i**2 if i >= empty else 0,
            confidence=(i + 0.5) / bins if i >= empty else NAN,
            accuracy=((i + 0.5) / bins) ** 1.3 if i >= empty else NAN,
        )
        for i in range(bins)
    ]
    return typed.Calibration(bins=filled, ece=0.051, brier=0.213)


def make_layer_rates(layers=22, epochs=30):
    rng = np.random.default_rng(0)
    rate = 1e-3 * 10 ** (-3 * rng.random((layers, 1)) - 0.05 * np.arange(epochs))
    blocks = [f"layer{1 + i * 4 // layers}" for i in range(layers)]
    return typed.LayerRates(
        strategy="Auto-RGN",
        layers=[f"{block}.{i}.conv" for i, block in enumerate(blocks)],
        blocks=blocks,
        epochs=list(range(1, epochs + 1)),
        rate=rate.tolist(),
    )


def make_hardest(names, classes, count=8):
    k = len(classes)
    return [
        typed.HardImage(
            image=f"patient{i:03}/slice {i} with a rather long file name (copy).png",
            label=classes[i % k],
            thumbnail=thumbnail(40 * i % 256) if i else None,
            predictions={
                name: typed.Call(classes[(i + j) % k], score=0.9 - 0.02 * j, right=j % 3 == 0)
                for j, name in enumerate(names)
            },
            mean_right=0.03 + i / 100,
        )
        for i in range(count)
    ]


def make_splits(classes, fold=0):
    counts = {
        side: typed.SplitCounts(images=n, groups=n // 3, units=n, classes={name: n // len(classes) for name in classes})
        for side, n in {"train": 423, "val": 73, "test": 125}.items()
    }
    return typed.FoldSplits(fold=fold, splits=counts, groups_in_two_splits=0, identical_across_splits=0)


SETTINGS = {
    "epochs": 30,
    "batch_size": 32,
    "grad_accum": 1,
    "opt": "adamw",
    "augment": "light",
    "img_size": 224,
    "resize": None,
    "class_weights": "none",
    "warmup": 0.05,
    "weights": "imagenet",
    "val_fraction": 0.15,
    "test_fraction": 0.2,
    "split_seed": 0,
    "tune": 0,
    "amp": "off",
    "patience": 0,
    "clip_grad": 0.0,
    "schedule_epochs": None,
    "bit_depth": None,
}
ENVIRONMENT = {
    "ftcompare": "0.1",
    "git": None,
    "python": "3.11.7",
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "numpy": "2.4.6",
    "platform": "Linux-6.18-x86_64",
    "device": "cpu",
    "device_name": "x86_64",
    "native": "not needed",
}


def make_experiment(
    data="demo",
    arch="resnet18",
    strategies=NAMES,
    classes=("normal", "cyst", "lobed", "spiculated"),
    *,
    n=3,
    task="multiclass",
    layers=22,
    full=True,
    epochs=30,
    **changes,
):
    """Strategies fall by 0.011 from 0.871, the first is the best. n: seeds. full: pairs with all tests."""
    classes, multiclass = list(classes), task == "multiclass"
    rows = [
        make_row(name, 0.871 - 0.011 * i, classes=classes, n=n, i=i, best=i == 0, beside_best=i in (1, 2))
        for i, name in enumerate(strategies)
    ]
    pairs = [
        make_pair(
            rows[i],
            rows[j],
            p=0.0004 if j - i > 4 else 0.2 / (j - i) ** 2,
            verdict="better" if j - i > 2 else "not separable",
            full=full,
        )
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
    ]
    k, level = len(classes), {row.strategy: row.test.mean for row in rows}
    shown = [classes[-1]] if k == 2 and multiclass else classes[:6]
    matrix = [[30 if i == j else (i + 2 * j) % 3 for j in range(k)] for i in range(k)]
    rates = dict(zip(metrics.RATES, (0.91, 0.82, 0.71, NAN), strict=True))
    called = classes[1:] if multiclass and k == 2 else classes
    experiment = typed.Experiment(
        data=data,
        arch=arch,
        task=task,
        classes=classes,
        metric="balanced_accuracy" if multiclass else "auroc",
        second="accuracy" if multiclass else "average_precision",
        higher_is_better=True,
        over="",
        unit_kind="image",
        group_kind="patient",
        test_images=125,
        test_groups=40,
        test_units=125,
        named_groups=40,
        largest_group_share=0.04,
        compared_groups=40,
        seeds=list(range(n)),
        folds=[0],
        planned=typed.Planned(seeds=list(range(n)), folds=[0], not_begun=[]),
        lost_cells=[],
        positive=classes[1] if k == 2 else None,
        citation=None,
        data_notes=["drawn by code"],
        official_test=False,
        mean=[0.485],
        std=[0.229],
        splits=[make_splits(classes)],
        settings=SETTINGS | {"epochs": epochs},
        environment=dict(ENVIRONMENT),
        commands=[f"python ftcompare.py --data {data} --arch {arch} --strategy all --seed 0 1 2"],
        threshold_rule="youden",
        differ=[],
        rows=rows,
        pairs=pairs,
        pair_notes=["Wilcoxon's signed rank is left out: with 3 pairs it cannot fall below 0.25."],
        notes=[],
        verdict=f"{strategies[0]} has the highest balanced accuracy, 0.871 [0.841, 0.901] (n = 40 patients).",
        curves={name: make_curve(epochs, level[name], n) for name in strategies},
        confusion={name: matrix for name in strategies} if multiclass else {},
        roc={name: [make_roc(c, level[name]) for c in shown] for name in strategies},
        pr={name: [make_pr(c, level[name]) for c in shown] for name in strategies},
        calibration={name: make_calibration() for name in strategies},
        thresholds=[
            typed.Threshold(name, c, threshold=0.42, sd=NAN if n == 1 else 0.03, rates=rates)
            for name in strategies
            for c in called
        ]
        if k == 2 or not multiclass
        else [],
        layer_rates=make_layer_rates(layers, epochs) if "Auto-RGN" in strategies else None,
        hardest=make_hardest(strategies, classes),
    )
    return replace(experiment, **changes)


def make_across(experiments):
    """Ranks 1, 2, ... on every experiment."""
    names = [row.strategy for row in experiments[0].rows]
    table = [[row.test.mean for row in experiment.rows] for experiment in experiments]
    n, k = len(experiments), len(names)
    return typed.Across(
        experiments=["/".join(experiment.key) for experiment in experiments],
        strategies=names,
        table=table,
        ranks=[[float(i + 1) for i in range(k)] for _ in experiments],
        average_ranks={name: i + 1.0 for i, name in enumerate(names)},
        friedman=stats.friedman(np.nan_to_num(table)),
        cd=6.06,
        alpha=0.05,
        cliques=[names[: k // 2 + 1], names[k // 3 :]],
        pairs=[
            typed.RankPair(
                a=names[0], b=name, n=n, p=NAN, p_holm=NAN, note="with 3 rows Wilcoxon cannot fall below 0.25"
            )
            for name in names[1:]
        ],
        beats_ft=[
            typed.Beaten(strategy=name, better=1, of=3, separable=0, largest=0.021, largest_at="t1w/resnet18")
            for name in names[1:]
        ],
        notes=["3 rows: the test has little power."],
    )


def make_claims(experiments):
    rows = [
        typed.Gain(
            data=experiment.data,
            arch=experiment.arch,
            metric=experiment.metric,
            over="",
            difference=-0.044,
            low=-0.07,
            high=-0.018,
            verdict="worse",
            early=0,
            gain=-0.044,
            gain_low=-0.07,
            gain_high=-0.018,
            relative=-0.05,
        )
        for experiment in experiments
    ]
    lpft = f"LP-FT was better in 0 of {len(experiments)}, separably in 0."
    return [
        typed.Claim("LP-FT is better than FT", "in over half of the evaluated cases", lpft, rows),
        typed.Claim("Auto-RGN is better than FT", "by up to 11 %", "Its largest gain is -0.044.", rows),
    ]


def make_analysis(experiments, warnings=(), across=None):
    """across: made where there are three experiments or more, unless it is given."""
    across = across or (make_across(experiments) if len(experiments) > 2 else None)
    note = "One dataset and backbone: ranks over datasets need at least two."
    names = dict.fromkeys(row.strategy for experiment in experiments for row in experiment.rows)
    return typed.Analysis(
        folder="runs",
        strategies=sorted(names, key=lambda name: NAMES.index(name) if name in NAMES else len(NAMES)),
        experiments=list(experiments),
        across=across,
        across_note=f"over {len(experiments)} datasets and backbones" if across else note,
        claims=make_claims(experiments),
        warnings=list(warnings),
    )


def lose_runs(experiment, part="LP-FT", whole="Auto-RGN"):
    """One strategy with a failed run, one without any."""
    rows = []
    for row in experiment.rows:
        if row.strategy == part:
            two = {name: replace(getattr(row, name), n=2) for name in ("val", "test", "second")}
            row = replace(row, done=2, failed=1, ranked=False, **two)
        elif row.strategy == whole:
            row = without_runs(row, unfinished=1, missing=2)
        rows.append(row)
    rows[0] = replace(rows[0], edge=["lr in fold 0"])
    reason = "the training loss is nan in epoch 3, stage all"
    return replace(
        experiment,
        rows=rows,
        pairs=[pair for pair in experiment.pairs if whole not in (pair.a, pair.b)],
        lost_cells=[
            typed.LostCell(part, seed=1, fold=0, status="failed", reason=reason),
            typed.LostCell(whole, seed=0, fold=0, status="unfinished", reason=""),
        ],
        notes=["NOT COMPARABLE: these runs differ in epochs: 20, 30."],
    )
