"""page.py and methods.py on synthetic analyses: what is shown, what is escaped, what is never said."""

from __future__ import annotations

import base64
import math
import random
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from report import methods, page, stats, tables, wording

NAN = math.nan
ORDER = wording.ORDER
VOID = {"meta", "img", "br", "col", "link", "input", "hr"}


# ----------------------------------------------------------------------------------------- synthetic analyses


def png(width: int = 40, height: int = 30, grey: int = 128) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((grey + 3 * (x + y)) % 256 for x in range(width)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b""))  # fmt: skip


def thumbnail(grey: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(96, 96, grey)).decode()


def entry(mean, sd=0.012, n=3, width=0.03):
    return {"mean": mean, "sd": sd if n > 1 else NAN, "n": n, "low": mean - width, "high": mean + width}


def make_row(name, i, draw, *, classes, n, best):
    mean = 0.871 - 0.011 * i
    metrics = {"accuracy": mean + 0.02, "balanced_accuracy": mean, "macro_f1": mean - 0.01,
        "kappa": mean - 0.1, "auroc": mean + 0.07, "average_precision": mean + 0.01, "ece": 0.05 + 0.01 * i,
        "brier": 0.2 + 0.01 * i}  # fmt: skip
    per_class = {c: {"recall": draw.uniform(0.5, 1), "precision": draw.uniform(0.5, 1),
        "f1": draw.uniform(0.5, 1), "auroc": draw.uniform(0.7, 1), "ap": draw.uniform(0.5, 1),
        "support": 12 + j} for j, c in enumerate(classes)}  # fmt: skip
    sp = name in ("L1-SP", "L2-SP")
    return {"strategy": name, "done": n, "failed": 0, "unfinished": 0, "missing": 0,
        "val": entry(mean + 0.01, n=n), "test": entry(mean, n=n), "second": entry(mean + 0.02, n=n),
        "metrics": {k: {"mean": v, "sd": 0.01 if n > 1 else NAN, "n": n} for k, v in metrics.items()},
        "per_class": per_class, "best": best == i, "beside_best": i in (1, 2) and best == 0, "epochs": 30.0,
        "optimizer_steps": 420.0, "trials": 0, "minutes": 2.36 + i, "minutes_total": 3 * (2.36 + i),
        "tuning_steps": 0.0, "peak_memory_bytes": 1142067200 + i * 10**7,
        "trainable_parameters": 2052 if name == "LP" else 11178564, "parameters": 11178564, "lr": [1e-4],
        "alpha": [1e-4] if sp else [], "edge": [], "hyperparameters": {"bn": "train", "stage_shares": None}
        | ({"beta": 0.01} if sp else {"weight_decay": 0.01})}  # fmt: skip


def make_pair(rows, i, j, *, full):
    d = rows[i]["test"]["mean"] - rows[j]["test"]["mean"]
    verdict = "better" if j - i > 2 else "not separable"
    p = 0.0004 if j - i > 4 else 0.2 / (j - i) ** 2
    return {"a": rows[i]["strategy"], "b": rows[j]["strategy"], "runs": 3, "difference": d, "low": d - 0.026,
        "high": d + 0.026, "p_bootstrap": p / 4, "p_holm": p, "verdict": verdict,
        "mcnemar": stats.McNemar(14, 9, 9.0, p=0.405, method="exact binomial") if full else None,
        "delong": stats.DeLong(difference=d, low=d - 0.02, high=d + 0.02, p=0.013) if full else None,
        "t": stats.ResampledT(0.01, 0.01, 3, df=2, t=1.23, p=0.34, low=-0.05, high=0.07) if full else None,
        "wilcoxon": None}  # fmt: skip


def make_block(
    data="demo",
    arch="resnet18",
    strategies=ORDER,
    classes=("normal", "cyst", "lobed", "spiculated"),
    n=3,
    task="multiclass",
    layers=22,
    full=True,
    epochs=30,
):
    draw, classes = random.Random(f"{data}{arch}"), list(classes)
    rows = [make_row(s, i, draw, classes=classes, n=n, best=0) for i, s in enumerate(strategies)]
    pairs = [make_pair(rows, i, j, full=full) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    curve = [{"epoch": e + 1, "train_loss": 1 / (e + 1), "val_loss": 1.1 / (e + 1),
        "val_metric": 0.9 - 0.5 / (e + 1), "low": 0.8 - 0.5 / (e + 1), "high": 0.95 - 0.5 / (e + 1), "runs": n
        } for e in range(epochs)]  # fmt: skip
    multiclass, k = task == "multiclass", len(classes)
    roc = [
        {"class": c, "grid": [0, 1], "mean": [0, 1], "low": [0, 1], "high": [0, 1], "auroc": 0.912}
        for c in classes[:6]
    ]
    pr = [{"class": c, "grid": [0, 1], "mean": [1, 0.2], "low": [1, 0.1], "high": [1, 0.3], "ap": 0.834,
        "prevalence": 0.25} for c in classes[:6]]  # fmt: skip
    bins = [{"low": 0.3 + b / 10, "high": 0.4 + b / 10, "confidence": 0.35 + b / 10, "accuracy": 0.3 + b / 10,
        "count": 20 + b} for b in range(6)] + [
        {"low": 0.9, "high": 1.0, "confidence": NAN, "accuracy": NAN, "count": 0}]  # fmt: skip
    sizes = {"train": 423, "val": 73, "test": 125}
    return {"data": data, "arch": arch, "task": task, "classes": classes,
        "metric": "balanced_accuracy" if multiclass else "auroc",
        "second": "accuracy" if multiclass else "average_precision", "higher_is_better": True,
        "unit_kind": "image", "group_kind": "patient", "test_images": 125, "test_groups": 40,
        "test_units": 125, "seeds": list(range(n)), "folds": [0], "over": "",
        "planned": {"seeds": list(range(n)), "folds": [0], "strategies": list(strategies)}, "positive": classes[1] if k == 2 else None,
        "verdict": f"{strategies[0]} has the highest balanced accuracy, 0.871 [0.841, 0.901]; 2 of "
        f"{len(rows) - 1} others are not "
        "separable from it at n = 40 patients.", "notes": [], "rows": rows, "pairs": pairs,
        "pair_notes": ["Wilcoxon's signed rank is left out: with 3 pairs it cannot fall below 0.25."],
        "curves": {s: curve for s in strategies}, "confusion": {
        s: [[30 if i == j else (i + j) % 3 for j in range(k)] for i in range(k)] for s in strategies}
        if multiclass else {}, "roc": {s: roc for s in strategies}, "pr": {s: pr for s in strategies},
        "calibration": {s: {"bins": bins, "ece": 0.051, "brier": 0.213} for s in strategies}, "thresholds": [{
        "strategy": s, "class": c, "threshold": 0.42, "sd": NAN if n == 1 else 0.03, "sensitivity": 0.91,
        "specificity": 0.82, "ppv": 0.71, "npv": NAN} for s in strategies for c in classes]
        if k == 2 or not multiclass else [], "threshold_rule": "youden", "ratios": {
        "layers": [f"layer{i // 6 + 1}.{i % 6}.conv" for i in range(layers)],
        "blocks": [f"layer{i // 6 + 1}" for i in range(layers)], "epochs": list(range(1, epochs + 1)),
        "rate": [[10 ** -(1 + (i * 7 + e) % 30 / 10) for e in range(epochs)] for i in range(layers)]}
        if "Auto-RGN" in strategies else None, "hardest": [{
        "image": f"patient{i:03}/slice {i} with a rather long file name (copy).png", "label": classes[i % k],
        "thumbnail": thumbnail(40 * i % 256) if i else None, "predictions": {
        s: {"class": classes[(i + j) % k], "score": 0.9 - 0.02 * j, "right": j % 3 == 0}
        for j, s in enumerate(strategies)}, "mean_right": 0.03 + i / 100} for i in range(8)], "splits": [{
        "fold": 0, "splits": {
        side: {"images": m, "groups": m // 3, "units": m, "classes": {c: m // k for c in classes}}
        for side, m in sizes.items()}, "groups_in_two_splits": 0, "identical_across_splits": 0}],
        "citation": None, "data_notes": ["drawn by code"], "official_test": False, "settings": {
        "epochs": epochs, "batch_size": 32, "grad_accum": 1, "opt": "adamw", "augment": "light",
        "img_size": 224, "resize": None, "class_weights": "none", "warmup": 0.05, "weights": "imagenet",
        "val_fraction": 0.15, "test_fraction": 0.2, "split_seed": 0, "tune": 0, "amp": "off", "patience": 0,
        "clip_grad": 0.0, "schedule_epochs": None, "bit_depth": None}, "environment": {"ftcompare": "0.1",
        "git": None, "python": "3.11.7", "torch": "2.15.0", "torchvision": "0.29.2", "numpy": "2.4.6",
        "platform": "Linux-6.18-x86_64", "device": "cpu", "device_name": "x86_64", "native": "not needed"},
        "commands": [f"python ftcompare.py --data {data} --arch {arch} --strategy all --seed 0 1 2"],
        "cells": []}  # fmt: skip


def make_across(blocks):
    names, k = list(ORDER), len(ORDER)
    table = [[row["test"]["mean"] for row in b["rows"]] for b in blocks]
    return {"datasets": [f"{b['data']}, {b['arch']}" for b in blocks], "strategies": names, "table": table,
        "ranks": [[float(i + 1) for i in range(k)] for _ in blocks],
        "average_ranks": {s: i + 1.0 for i, s in enumerate(names)},
        "friedman": stats.Friedman(np.ones(k), k - 1, (k - 1, 14), chi2=12.5, p=0.085, f=3.2, f_p=0.0004),
        "cd": 6.06, "alpha": 0.05, "cliques": [names[:5], names[2:]], "pairs": [{"a": "FT", "b": s,
        "n": len(blocks), "p": NAN, "p_holm": NAN, "note": "with 3 rows Wilcoxon cannot fall below 0.25"}
        for s in names[1:]], "beats_ft": [{"strategy": s, "better": 1, "of": 3, "separable": 0,
        "largest": 0.021, "largest_at": "t1w, resnet18"} for s in names[1:]],
        "notes": ["3 rows: the test has little power."]}  # fmt: skip


def make_claims(blocks):
    rows = [{"data": b["data"], "arch": b["arch"], "difference": -0.044, "low": -0.07, "high": -0.018,
        "verdict": "worse"} for b in blocks]  # fmt: skip
    return [{"claim": "LP-FT beats FT in over half of the cases",
        "paper": "LP-FT was better than FT in over 50 % of the cases.",
        "here": f"LP-FT was better in 0 of {len(blocks)}, separably in 0.", "rows": rows}, {
        "claim": "Auto-RGN gains up to 11 %", "paper": "Auto-RGN was up to 11 % better than FT.",
        "here": "Its largest gain is -0.044.", "rows": rows}]  # fmt: skip


def make_analysis(blocks, warnings=()):
    across = make_across(blocks) if len(blocks) > 2 else None
    note = ("over 3 datasets and backbones" if across
        else "One dataset and backbone: ranks over datasets need at least two.")  # fmt: skip
    return {"folder": "runs", "blocks": list(blocks), "across": across, "across_note": note,
        "claims": make_claims(blocks), "warnings": list(warnings)}  # fmt: skip


def lose_runs(block):
    """One strategy with a failed run, one without any."""
    lpft, rgn = block["rows"][4], block["rows"][7]
    lpft.update(done=2, failed=1)
    lpft["test"]["n"] = lpft["val"]["n"] = lpft["second"]["n"] = 2
    nothing = {"mean": NAN, "sd": NAN, "n": 0, "low": NAN, "high": NAN}
    rgn.update(done=0, unfinished=1, missing=2, val=nothing, test=nothing, second=nothing, metrics={},
        per_class={}, epochs=NAN, minutes=NAN, minutes_total=NAN, optimizer_steps=NAN, peak_memory_bytes=None,
        lr=[])  # fmt: skip
    block["pairs"] = [p for p in block["pairs"] if "Auto-RGN" not in (p["a"], p["b"])]
    block["cells"] = [{"strategy": "LP-FT", "seed": 1, "fold": 0, "status": "failed",
        "reason": "the training loss is nan in epoch 3, stage all"},
        {"strategy": "Auto-RGN", "seed": 0, "fold": 0, "status": "unfinished", "reason": ""}]  # fmt: skip
    block["notes"] = ["NOT COMPARABLE: these runs differ in epochs: 20, 30."]
    block["rows"][0]["edge"] = ["lr in fold 0"]
    return block


HOSTILE = "<script>alert(\"x\")</script> & 'q' {$} # % _ ~ ^ \\ | ` *b* \u202eevil"


def hostile():
    """Names that would break a page, a Markdown table or LaTeX."""
    long = "a_very_long_class_name_" * 8
    block = make_block(data=HOSTILE, arch="res&net<18>", classes=(HOSTILE, "الطبيعي", long, "nan"))
    block["cells"] = [{"strategy": "FT", "seed": 0, "fold": 0, "status": "failed", "reason": HOSTILE}]
    block["rows"][0]["failed"] = 1
    block["hardest"][1]["image"] = f"../{HOSTILE}/{'x' * 300}\udcff.png"
    block["hardest"][2]["thumbnail"] = 'javascript:alert(1)" onerror="x'
    block["commands"] = [f"python ftcompare.py --data '{HOSTILE}'"]
    block["data_notes"], block["citation"], block["verdict"] = [HOSTILE], HOSTILE, f"On {HOSTILE} FT is best."
    block["settings"]["weights"] = HOSTILE
    return make_analysis([block], warnings=[HOSTILE])


def example(several=False):
    """What the screenshots are made of."""
    blocks = ([make_block()] if not several else [make_block(),
        make_block("isic2020", classes=("benign", "malignant")),
        lose_runs(make_block("t1w", "densenet121", layers=121))])  # fmt: skip
    return make_analysis(
        blocks if several else [lose_runs(blocks[0])],
        [] if several else ["one split only: the spread over splits is unknown"],
    )


# ------------------------------------------------------------------------------------------- reading the page


class Reader(HTMLParser):
    """The page as a browser reads it: tags balanced, attributes, visible text."""

    def __init__(self, source: str):
        super().__init__()
        self.stack, self.tags, self.text, self.errors = [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.text.append(data)


def read(analysis, figures=None) -> tuple[Reader, str]:
    reader = Reader(page.html(analysis, figures or {}))
    assert not reader.errors and not reader.stack
    return reader, " ".join(" ".join(reader.text).split())


def one_strategy():
    return make_analysis([make_block(strategies=("LP",))])


def one_seed():
    block = make_block(n=1, full=False)
    rates = {"sensitivity": NAN, "specificity": 0.8, "ppv": NAN, "npv": 0.7}
    block["thresholds"] = [{"strategy": "FT", "class": "cyst", "threshold": 0.4, "sd": NAN} | rates]
    return make_analysis([block])


def no_pairs():
    block = make_block()
    block["pairs"], block["ratios"], block["curves"] = [], None, {}
    return make_analysis([block])


def nothing_done():
    block = make_block()
    nothing = {"mean": NAN, "sd": NAN, "n": 0, "low": NAN, "high": NAN}
    for row in block["rows"]:
        row.update(done=0, failed=3, val=nothing, test=nothing, second=nothing, metrics={}, per_class={})
        row.update(best=False, beside_best=False, epochs=NAN, optimizer_steps=NAN, minutes=NAN)
        row.update(minutes_total=NAN, peak_memory_bytes=None, lr=[], alpha=[])
    for key in ("pairs", "thresholds", "hardest"):
        block[key] = []
    for key in ("curves", "confusion", "roc", "pr", "calibration"):
        block[key] = {}
    block.update(ratios=None, verdict="No run has finished.", test_images=0, test_groups=0)
    return make_analysis([block])


def fourteen_labels():
    return make_analysis([make_block(task="multilabel", classes=[f"finding {i}" for i in range(14)])])


def hundred_classes():
    return make_analysis([make_block(classes=[f"triplet{i}" for i in range(100)])])


def nothing_at_all():
    return make_analysis([], ["no finished run below runs"])


MAKERS = (example, hostile, one_strategy, one_seed, no_pairs, nothing_done, fourteen_labels, hundred_classes)
ANALYSES = {f.__name__: f for f in (*MAKERS, nothing_at_all)} | {"several": lambda: example(several=True)}
every = pytest.mark.parametrize("name", ANALYSES)


@every
def test_html_is_well_formed_and_says_no_python(name):
    analysis = ANALYSES[name]()
    _reader, text = read(analysis)
    if name != "hostile":  # which has a class of that name
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)
    assert "undefined" in text or name != "one_seed"
    for block in analysis["blocks"]:
        assert all(row["strategy"] in text for row in block["rows"])
    assert all(" ".join(wording.clean(w).split()) in text for w in analysis["warnings"])


@every
def test_html_loads_nothing_and_runs_nothing(name):
    figures = {("", ""): [("Heat map", png())], ("demo", "resnet18"): [("ROC curves", png())]}
    reader, _ = read(ANALYSES[name](), figures)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "embed", "base",
        "form", "svg"}  # fmt: skip
    for tag, attributes in reader.tags:
        assert not [key for key in attributes if key.startswith("on")]
        assert attributes.get("src", "data:image/").startswith("data:image/") and "srcset" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page.CSS and "@import" not in page.CSS
    policies = [a["content"] for t, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@every
def test_html_tables_have_captions_scopes_and_full_rows(name):
    reader, _ = read(ANALYSES[name]())
    counts = [sum(tag == kind for tag, _ in reader.tags) for kind in ("table", "caption")]
    assert counts[0] == counts[1]
    source = page.html(ANALYSES[name](), {})
    for table in re.findall(r"<table>.*?</table>", source, re.DOTALL):
        widths = []
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL):
            spans = re.findall(r"<t[hd](?: [^>]*)?>", row)
            widths.append(sum(int((re.search(r'colspan="(\d+)"', s) or [0, 1])[1]) for s in spans))
        assert len(set(widths)) == 1, table[:300]
    heads = [a for t, a in reader.tags if t == "th"]
    assert all(a.get("scope") in ("row", "col", "colgroup") or a.get("colspan") for a in heads)


@every
def test_same_analysis_same_bytes(name):
    make = ANALYSES[name]
    assert page.html(make(), {}) == page.html(make(), {})
    assert tables.markdown(make()) == tables.markdown(make())
    assert tables.latex(make()) == tables.latex(make())


def test_every_id_is_there_once_and_every_link_has_one():
    reader, _ = read(example(several=True))
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for t, a in reader.tags if t == "a"} <= set(ids)


def test_hostile_names_are_text():
    source = page.html(hostile(), {})
    reader, text = read(hostile())
    assert "<script" not in source and "javascript:" not in source
    assert wording.clean(HOSTILE) in text and "الطبيعي" in text
    assert "\u202e" not in source and "\udcff" not in source
    source.encode("utf-8")
    titles = [a["title"] for t, a in reader.tags if t == "bdi" and "title" in a]
    assert "a_very_long_class_name_" * 8 in titles  # cut on the screen, whole in its title


def test_the_first_screen_has_the_question_the_verdict_the_table_and_what_is_wrong():
    analysis = example()
    _, text = read(analysis)
    first = text[: text.index("Which strategies differ")]
    assert "Which fine-tuning strategy should I use on demo?" in first
    assert analysis["blocks"][0]["verdict"] in first
    assert "0.871 [0.841, 0.901] ± 0.012" in first and "11,178,564" in first and "1.06 GiB" in first
    assert "NOT COMPARABLE: these runs differ in epochs: 20, 30." in first
    assert (
        "LP-FT: 1 failed (seed 1, fold 0: the training loss is not a number in epoch 3, stage all); 2 of 3 "
        "runs" in first
    )
    assert (
        "Auto-RGN: 1 unfinished, 2 not run (seed 0, fold 0); it has no result and is in no comparison."
        in first
    )
    assert (
        "Chosen at an end of what tuning tried, a better value may lie beyond it: FT (lr in fold 0)." in first
    )
    assert "pip install matplotlib" in first
    assert "pip install matplotlib" not in read(analysis, {("", ""): [("x", png())]})[1]


def test_standing_beside_the_best():
    block = make_block()
    assert [wording.standing(block, row) for row in block["rows"]] == ["best", "≈ best", "≈ best", *["worse"] * 5
        ]  # fmt: skip
    lose_runs(block)
    assert wording.standing(block, block["rows"][4]) == "fewer runs"
    assert wording.standing(block, block["rows"][7]) == "no run"
    block["pairs"] = []
    assert wording.standing(block, block["rows"][3]) == "not compared"


def test_strategies_that_lack_the_same_share_a_line():
    block = make_block()
    for row in block["rows"][2:4]:
        row.update(done=2, missing=1)
        row["test"]["n"] = 2
        block["cells"].append(
            {"strategy": row["strategy"], "seed": 2, "fold": 0, "status": "not run", "reason": ""}
        )
    effect = "2 of 3 runs count, and one whose hard runs are missing can look better than it is."
    assert wording.problems(block) == [f"G-LF, G-FL: 1 not run (seed 2, fold 0); {effect}"]


def test_a_pair_turned_round():
    pairs = wording.pairs_by_name(make_block())
    there, back = pairs["FT", "Auto-RGN"], pairs["Auto-RGN", "FT"]
    assert there["difference"] == pytest.approx(0.077) and back["difference"] == pytest.approx(-0.077)
    assert (back["low"], back["high"]) == (-there["high"], -there["low"])
    assert (there["verdict"], back["verdict"]) == ("better", "worse")
    cell = page.verdict_cell(back)
    assert "▼" in cell and "−0.077" in cell and "[−0.103, −0.051]" in cell and 'class="verdict-worse"' in cell


@pytest.mark.parametrize(
    ("text", "is_"),
    [
        (wording.number(0.8714), "0.871"),
        (wording.number(-0.0309, sign=True), "−0.031"),
        (wording.number(0.0001, sign=True), "0.000"),
        (wording.number(-0.0001), "0.000"),
        (wording.number(NAN), "undefined"),
        (wording.number(None), "undefined"),
        (wording.p_value(0.0131), "0.013"),
        (wording.p_value(0.00099), "<0.001"),
        (wording.p_value(1.0), "1.000"),
        (wording.p_value(NAN), "undefined"),
        (wording.interval(NAN, 1), ""),
        (wording.interval(0.84, 0.902), "[0.840, 0.902]"),
        (wording.estimate({"mean": 0.9, "sd": NAN, "n": 1, "low": 0.8, "high": 0.95}), "0.900 [0.800, 0.950]"),
        (wording.minutes(0.357), "0.36"),
        (wording.minutes(90.2), "90"),
        (wording.minutes(1230), "20.5 h"),
        (wording.memory(None), "not measured"),
        (wording.memory(3 * 2**30), "3.00 GiB"),
        (wording.whole(11178564), "11,178,564"),
        (wording.short(3e-05), "3e-5"),
        (wording.value(None), "not set"),
        (wording.value("None"), "not set"),
        (wording.value([1, None, True]), "1, not set, yes"),
        (wording.value({"a": 1e-5}), "a: 1e-05"),
    ],
)  # fmt: skip
def test_how_numbers_are_written(text, is_):
    assert text == is_


def test_tints_span_the_intervals():
    assert page.tinted([0.8, 0.9, NAN], True, [0.7, 0.8, NAN], [0.9, 1.0, NAN]) == pytest.approx(
        [1 / 3, 2 / 3, None]
    )
    assert page.tinted([0.1, 0.3], False) == pytest.approx([1, 0])
    assert page.tinted([0.5, 0.5]) == [0.5, 0.5]


def test_many_classes_become_a_list_of_confusions():
    matrix = [[9, 4, 0], [1, 8, 0], [0, 7, 2]]
    found = page.most_confused("FT", matrix, ["a", "b", "c"])
    rows = re.findall(r"<tr>(.*?)</tr>", found)[1:]
    assert [re.sub("<[^>]*>", " ", row).split() for row in rows] == [["c", "b", "7", "9"],
        ["a", "b", "4", "13"], ["b", "a", "1", "9"]]  # fmt: skip
    assert len(page.html(hundred_classes(), {})) < 2_000_000


def test_epochs_are_thinned_with_both_ends():
    assert page.thinned([1, 2, 3]) == [1, 2, 3]
    kept = page.thinned(list(range(1, 101)))
    assert len(kept) == len(set(kept)) == page.MOST_EPOCHS and (kept[0], kept[-1]) == (1, 100)


@pytest.mark.parametrize(
    ("caption", "where"),
    [
        ("roc, resnet18: confusion matrices on the test split, summed over runs.", "confusion"),
        ("roc, resnet18: ROC curves on the test split, mean over runs", "roc"),
        ("roc, resnet18: validation AUROC and loss by epoch, mean over runs.", "training"),
        (
            (
                "roc, resnet18: test AUROC with its 95 % bootstrap interval against the minutes that a run "
                "takes."
            ),
            "training",
        ),
        ("roc, resnet18: test AUROC, mean over runs with its 95 % bootstrap interval over patients", "pairs"),
        ("roc, resnet18: accuracy against confidence on the test split", "calibration"),
        ("roc, resnet18: Auto-RGN's learning rate of every layer by epoch", "rates"),
        ("roc, resnet18: something else", "other"),
    ],
)
def test_figures_stand_in_their_sections(caption, where):
    placed = page.place([(caption, png())], make_block(data="roc"))
    assert [name for name, pictures in placed.items() if pictures] == [where]


# -------------------------------------------------------------------------------------------- Markdown, LaTeX


@every
def test_markdown_says_the_same(name):
    analysis = ANALYSES[name]()
    text = tables.markdown(analysis)
    if name != "hostile":
        assert not re.search(r"\bnan\b|\bNone\b", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    for block in analysis["blocks"]:
        assert tables.md(block["verdict"]) in text and all(row["strategy"] in text for row in block["rows"])
    assert "<script" not in text.replace("\\<", "")


def test_markdown_tables_hold_the_numbers():
    text = tables.markdown(make_analysis([make_block()]))
    assert "| FT | 0.871 \\[0.841, 0.901\\] ± 0.012 | best | 3 |" in text
    assert "| FT − LP | +0.011 \\[−0.015, +0.037\\] | 0.050 | 0.200 | not separable |" in text


def check_latex(text: str) -> None:
    """Braces and environments balance, and no special stands bare."""
    body = re.sub(r"(?m)^%.*$", "", text)
    bare = re.sub(r"\\[\\{}&%$#_]", "", body)
    depth = 0
    for c in bare:
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert (depth == 0 and bare.count("$") % 2 == 0
        and not re.search("[#%_~]", re.sub(r"\\label{[^}]*}", "", bare)))  # fmt: skip
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    assert all(
        rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\label{tab:")
    )
    columns = {len(re.findall(r"(?<!\\)&", line)) for line in text.splitlines() if line.endswith(r"\\")}
    assert len(columns) == 1


@every
def test_latex_is_balanced(name):
    analysis = ANALYSES[name]()
    files = tables.latex(analysis)
    assert all(re.fullmatch(r"[a-z0-9-]+\.tex", file) for file in files)
    assert len([f for f in files if f.startswith("results-")]) == len(analysis["blocks"])
    for text in files.values():
        check_latex(text)


def test_latex_escapes():
    assert tables.tex("a_b & 50 % $ # {x} ~ ^ \\ < − ±") == (
        r"a\_b \& 50 \% \$ \# \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} $<$ $-$ $\pm$"
    )


def test_latex_marks_the_best_and_those_beside_it():
    text = tables.latex(make_analysis([make_block()]))["results-demo-resnet18.tex"]
    assert r"FT & \textbf{0.871 [0.841, 0.901] $\pm$ 0.012} &" in text
    assert r"LP & 0.860 [0.830, 0.890] $\pm$ 0.012$^{\approx}$ &" in text
    assert r"G-FL & 0.838 [0.808, 0.868] $\pm$ 0.012 &" in text


def test_blocks_with_alike_names_have_files_of_their_own():
    files = tables.latex(make_analysis([make_block("a b"), make_block("a_b"), make_block("数据")]))
    assert {f for f in files if f.startswith("results-")} == {"results-a-b-resnet18.tex",
        "results-a-b-resnet18-2.tex", "results-resnet18.tex"}  # fmt: skip


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
@pytest.mark.parametrize("name", ["example", "several", "one_seed"])
def test_latex_compiles(name, tmp_path):
    files = tables.latex(ANALYSES[name]())
    joined = "\n\\clearpage\n".join(files.values())
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    source = head + joined + "\n\\end{document}\n"
    (tmp_path / "all.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, (tmp_path / "all.log").read_text(errors="replace")[-2000:]


# ---------------------------------------------------------------------------------------------------- methods


def test_the_methods_text_says_what_was_recorded_and_nothing_else():
    text = methods.paragraph(make_block())
    assert len(text.split("\n\n")) == 5
    for said in (
        (
            "423 images of 141 patients for training, 73 images of 24 patients for validation and 125 "
            "images of 41 patients for test"
        ),
        "No patient was in more than one split",
        "3 random seeds (0, 1, 2)",
        "resnet18 from torchvision, initialised with torchvision's ImageNet weights",
        "resized to 224 x 224 pixels",
        "8 strategies were compared: FT (all weights trained; learning rate 0.0001)",
        (
            "L2-SP (all weights trained with an L2 penalty on the backbone's distance from its pretrained "
            "weights; learning rate 0.0001; alpha 0.0001, beta 0.01)"
        ),
        "These hyperparameters were not tuned within the comparison.",
        "AdamW (weight decay 0.01 where no SP penalty held)",
        "warm-up over the first 5 % of the steps",
        "every strategy had 30 epochs in all",
        "a batch held 32 images",
        "the test part was scored once",
        "Holm's method over 28 comparisons",
        (
            "McNemar's test on what each strategy called right, DeLong's test for AUROC and the corrected "
            "resampled t-test"
        ),
        "PyTorch 2.15.0",
        "[author: ",
    ):
        assert said in text, said
    assert "Wilcoxon" not in text and "official" not in text and "5 folds" not in text


def test_what_is_not_recorded_is_not_claimed():
    block = make_block(full=False)
    block["settings"], block["environment"], block["splits"], block["seeds"] = {}, {}, [], []
    text = methods.paragraph(block)
    for never in (
        "AdamW",
        "224",
        "epochs in all",
        "PyTorch",
        "McNemar",
        "DeLong",
        "seed (",
        "normalised",
        "augment",
    ):
        assert never not in text, never
    assert "[author: the pretrained weights]" in text and "[author: source of the data]" in text


def test_tuning_and_leaks_are_said():
    block = make_block()
    for row in block["rows"]:
        row["trials"] = 10
    block["rows"][0]["edge"] = ["lr in fold 0"]
    block["splits"][0].update(groups_in_two_splits=2, identical_across_splits=1)
    text = methods.paragraph(block)
    assert (
        "10 trials in each fold, the default first and then others of the strategy's grid, on a further split inside "
        "the training part of each fold" in text
    )
    assert "lay at an end of those tried for FT." in text
    assert (
        "2 patients were in more than one split" in text
        and "1 set of byte-identical images spanned two splits." in text
    )
    assert any(
        "in two splits (demo, resnet18)" in limit for limit in methods.limitations(make_analysis([block]))
    )


def test_augmentation_is_described_as_it_is():
    images = pytest.importorskip("images")
    assert set(methods.AUGMENTATION) == set(images.AUGMENT)
    for kind, of in images.AUGMENT.items():
        text = methods.AUGMENTATION[kind]
        assert not of or all(f"{share * 100:g} %" in text for share in (of["shift"], of["brightness"]))
        assert not of or (f"{of['rotation']:g} degrees" in text) == (of["rotation"] > 0)
        assert not of or f"probability {of['flip']:g}" in text and of["brightness"] == of["contrast"]


def test_strategies_are_in_the_order_of_the_code():
    strategies = pytest.importorskip("strategies")
    assert (tuple(entry.name for entry in strategies.STRATEGIES.values()) == wording.ORDER
        == tuple(methods.DEFINITIONS))  # fmt: skip


@every
def test_the_checklist_is_answered_or_left_to_the_author(name):
    items = methods.checklist(ANALYSES[name]())
    assert len(items) == 44 and all(set(i) == {"item", "answer", "who"} for i in items)
    assert all(i["who"] in ("answered", "author") and (i["answer"] or i["who"] == "author") for i in items)
    by = {i["item"]: i for i in items}
    assert by["Data: de-identification"]["who"] == "author"
    assert by["Other information: funding"]["who"] == "author"
    if ANALYSES[name]()["blocks"]:
        assert by["Data partitions: level at which they are disjoint"]["answer"].endswith(
            "Patient; patients in two splits: 0."
        )
    assert by["Data: sources"]["who"] == ("answered" if name == "hostile" else "author")


def test_citations_are_of_what_was_used():
    found = "\n".join(methods.citations(make_analysis([make_block(full=False, strategies=("FT", "LP-FT"))])))
    assert ("Davila" in found and "Kumar" in found and "Holm S" in found and "Tejani" in found
        and "Field CA" in found)  # fmt: skip
    for unused in ("Howard", "Li X", "Lee Y", "DeLong", "Sun X", "McNemar", "Nadeau", "Demšar", "Wilcoxon F"):
        assert unused not in found, unused
    found = "\n".join(methods.citations(example(several=True)))
    for used in ("Howard", "Li X", "Lee Y", "DeLong", "Sun X", "McNemar", "Nadeau", "Demšar", "Paszke"):
        assert used in found, used


def test_limitations_come_from_the_runs():
    one = " ".join(methods.limitations(one_seed()))
    assert "One run a strategy (demo, resnet18)" in one and "40 patients" in one
    by_image = make_block()
    by_image["group_kind"] = "image"
    assert "Split by image (demo, resnet18)" in " ".join(methods.limitations(make_analysis([by_image])))
    assert "Not every run has a result (demo, resnet18: LP-FT and Auto-RGN)" in " ".join(
        methods.limitations(example())
    )
