"""Numbers, names and judgements as every form of the report writes them: the page, the Markdown, the LaTeX.

Works on parts of the dict that analysis.analyse returns; nan is written "undefined". Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

ORDER = ("FT", "LP", "G-LF", "G-FL", "LP-FT", "L1-SP", "L2-SP", "Auto-RGN")  # the paper's
STAGED = ("G-LF", "G-FL", "LP-FT")  # those that train in stages
NO_GROUPS = "no patient ids were given"
PLURALS = {
    "class": "classes",
    "study": "studies",
    "strategy": "strategies",
    "dataset and backbone": "datasets and backbones",
}
METRIC_NAMES = {"auroc": "AUROC", "ap": "AP", "ece": "expected calibration error", "ppv": "PPV", "npv": "NPV", "f1": "F1",
    "macro_f1": "macro-F1", "kappa": "Cohen's kappa", "brier": "Brier score", "video_map": "video mAP"
    }  # fmt: skip


def in_order(strategies: Iterable[str]) -> list[str]:
    """Distinct, in the paper's order; those that it has not come last."""
    return sorted(dict.fromkeys(strategies), key=lambda s: (ORDER.index(s) if s in ORDER else len(ORDER), s))


def plural(noun: str) -> str:
    return PLURALS.get(noun, noun if noun.endswith("s") else f"{noun}s")


def metric_name(key: str) -> str:
    return METRIC_NAMES.get(key, key.replace("_", " "))


def spoken(items: Iterable[object]) -> str:
    """a, b and c"""
    texts = [str(item) for item in items]
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]])) if texts else ""


def several(n: int, noun: str) -> str:
    return f"{n:,} {noun if n == 1 else plural(noun)}"


def distinct(block: dict, n: int | None = None) -> str:
    """What n counts (all that was tested, unless another n is given): '40 patients', or '38 different patients' where
    some share an identical image and count as one."""
    n, kind = block["test_groups"] if n is None else n, block["group_kind"]
    return several(n, kind) if not copies(block) else f"{n:,} different {kind if n == 1 else plural(kind)}"


def copies(block: dict) -> int:
    """How many tested groups count as one with another, because they share an identical image."""
    return block.get("named_groups", block["test_groups"]) - block["test_groups"]


def tested_images(block: dict, noun: str = "test image") -> str:
    """'394 test images, 314 of them different'; '125 test images of 40 patients, 38 of them different'"""
    text = several(block["test_images"], noun)
    if block["group_kind"] != "image":
        text += f" of {several(block.get('named_groups', block['test_groups']), block['group_kind'])}"
    return text + (f", {block['test_groups']:,} of them different" if copies(block) else "")


LEFT_OUT = "–"  # a test that was not done; the notes say why
SYMBOL = {"better": "▲", "worse": "▼", "not separable": "≈", "undefined": "–"}
OPPOSITE = {"better": "worse", "worse": "better", "not separable": "not separable", "undefined": "undefined"}


def known(x: float | None) -> bool:
    return x is not None and math.isfinite(x)


def number(x: float | None, digits: int = 3, sign: bool = False) -> str:
    """0.871, −0.031, or undefined."""
    if not known(x):
        return "undefined"
    text = f"{x:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def p_value(p: float | None) -> str:
    return "undefined" if not known(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float | None, high: float | None, sign: bool = False) -> str:
    return f"[{number(low, sign=sign)}, {number(high, sign=sign)}]" if known(low) and known(high) else ""


def spread(entry: dict) -> str:
    """± sd of {"sd", "n"}; empty with one run."""
    return f"± {number(entry['sd'])}" if known(entry["sd"]) else ""


def estimate(entry: dict) -> str:
    """0.871 [0.840, 0.902] ± 0.012, and (1 of 2 labels) where it is a mean over a part of them."""
    parts = [number(entry["mean"]), interval(entry.get("low"), entry.get("high")), spread(entry)]
    return " ".join(filter(None, parts)) + beside(entry)


def beside(entry: dict) -> str:
    """' (1 of 2 labels)' where a mean over classes or labels lacks some of them; else empty."""
    return f" ({entry['over']})" if entry.get("over") else ""


def over_how_many(counts: Iterable[tuple[int, int] | None], noun: str) -> str:
    """'1 of 2 labels', '1 to 2 of 3 labels'; empty where every mean runs over all. counts: (defined, all) of each
    run, None where the metric is no mean."""
    counts = [pair for pair in counts if pair is not None]
    if all(defined == whole for defined, whole in counts):
        return ""
    fewest, most = min(defined for defined, _ in counts), max(defined for defined, _ in counts)
    shown = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{shown} of {several(max(whole for _, whole in counts), noun)}"


def measured(block: dict) -> str:
    """The block's metric as it was measured: AUROC, or AUROC (1 of 2 labels)."""
    return metric_name(block["metric"]) + beside(block)


def calls_text(block: dict) -> str:
    """What a call is in the block's metrics: of two classes accuracy and sensitivity take different ones."""
    rule = "0.5" if block["threshold_rule"] == "0.5" else f"chosen on validation ({block['threshold_rule']})"
    if block["task"] == "multilabel":
        return f"F1 is at each label's threshold, {rule}"
    if len(block["classes"]) != 2:
        return ""
    return (
        "Accuracy, balanced accuracy, F1 and kappa are of the class with the higher score; sensitivity, specificity, PPV "
        f"and NPV are at the threshold {rule}"
    )


def counted(seen: int, planned: int, noun: str) -> str:
    """3 folds, or 2 of 3 folds where a sweep was interrupted."""
    return several(seen, noun) if seen >= planned else f"{seen} of {several(planned, noun)}"


def shown_name(row: dict) -> str:
    """The strategy, and how many of its runs are scored by the checkpoint of an earlier stage:
    LP-FT (2 of 3 runs scored in stage lp)."""
    early = [f"{n} of {several(row['done'], 'run')} scored in stage {stage}"
             for stage, n in row.get("early", {}).items()]  # fmt: skip
    return row["strategy"] + (f" ({', '.join(early)})" if early else "")


def change(pair: dict) -> str:
    """+0.031 [+0.004, +0.058]"""
    parts = [number(pair["difference"], sign=True), interval(pair["low"], pair["high"], sign=True)]
    return " ".join(filter(None, parts))


def short(x: float | None) -> str:
    """Two significant digits: 0.0031, 3e-05, 12."""
    return f"{x:.2g}".replace("e-0", "e-") if known(x) else "undefined"


def whole(x: float | None) -> str:
    return "undefined" if not known(x) else f"{x:,.0f}" if x == round(x) or x >= 100 else f"{x:,.1f}"


def minutes(x: float | None) -> str:
    if not known(x):
        return "undefined"
    return f"{x:.2f}" if x < 10 else f"{x:.0f}" if x < 600 else f"{x / 60:.1f} h"


def memory(count: int | None) -> str:
    """Peak memory in GiB, or what says that the system does not tell."""
    return f"{count / 2**30:.2f} GiB" if known(count) else "not measured"


def value(x: object) -> str:
    """A setting as a reader would write it."""
    if x is None or x == "" or (isinstance(x, float) and not math.isfinite(x)):
        return "not set"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, (list, tuple)):
        return ", ".join(map(value, x)) or "not set"
    if isinstance(x, dict):
        return ", ".join(f"{k}: {value(v)}" for k, v in x.items()) or "not set"
    return f"{x:g}" if isinstance(x, float) else re.sub(r"(^|, )None(?=,|$)", r"\1not set", str(x))


def block_name(block: dict) -> str:
    return f"{block['data']}, {block['arch']}"


def sentence(text: str) -> str:
    """An error's reason without Python's word for what is no number."""
    return re.sub(r"\bnan\b", "not a number", str(text))


def pairs_by_name(block: dict) -> dict[tuple[str, str], dict]:
    """Both directions of every pair: (a, b) -> the pair as a against b, whichever way it is kept."""
    found = {}
    for pair in block["pairs"]:
        turned = {
            "a": pair["b"],
            "b": pair["a"],
            "difference": -pair["difference"],
            "low": -pair["high"],
            "high": -pair["low"],
            "mean_a": pair.get("mean_b"),
            "mean_b": pair.get("mean_a"),
            "verdict": OPPOSITE[pair["verdict"]],
        }
        found[pair["a"], pair["b"]] = pair
        found[pair["b"], pair["a"]] = pair | turned
    return found


def standing(block: dict, row: dict) -> str:
    """Beside the block's best: best, ≈ best, worse, one class, fewer runs, other runs, not compared, undefined,
    no run."""
    if not row["test"]["n"]:
        return "undefined" if row["done"] else "no run"
    if row["best"]:
        return "best"
    if row.get("collapsed"):
        return "one class"
    if row["beside_best"]:
        return "≈ best"
    best = next((r for r in block["rows"] if r["best"]), None)
    if best and row["test"]["n"] < best["test"]["n"]:
        return "fewer runs"
    if best and not row.get("ranked", True):
        return "other runs"
    pair = pairs_by_name(block).get((row["strategy"], best and best["strategy"]))
    return {"worse": "worse", "not separable": "≈ best"}.get(pair and pair["verdict"], "not compared")


def lost_runs(row: dict) -> list[str]:
    """1 failed, 2 not run"""
    kinds = (("failed", "failed"), ("unfinished", "unfinished"), ("missing", "not run"))
    return [f"{row[kind]} {word}" for kind, word in kinds if row[kind]]


def problems(block: dict) -> list[str]:
    """What is wrong or missing in a block, and what that does to the comparison."""
    said: dict[str, list[str]] = {}  # strategies that lack the same share a line
    for row in block["rows"]:
        if lost_runs(row):
            said.setdefault(what_is_lost(block, row), []).append(row["strategy"])
    found = [*block["notes"], *(f"{', '.join(names)}: {text}" for text, names in said.items())]
    edges = [f"{row['strategy']} ({', '.join(row['edge'])})" for row in block["rows"] if row["edge"]]
    if edges:
        found.append(
            f"Chosen at an end of what tuning tried, a better value may lie beyond it: {'; '.join(edges)}."
        )
    return found


def what_is_lost(block: dict, row: dict) -> str:
    """1 failed (seed 1, fold 0: why); 2 of 3 runs count, ..."""
    cells = [c for c in block["cells"] if c["strategy"] == row["strategy"]]
    places = [f"seed {c['seed']}, fold {c['fold']}" + (f": {sentence(c['reason'])}" if c["reason"] else "")
              for c in cells]  # fmt: skip
    where = "; ".join(places[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")
    n, full = row["done"], max(r["done"] for r in block["rows"])
    effect = "its other runs are complete"
    if not n:
        effect = "it has no result and is in no comparison"
    elif n < full:
        effect = f"{n} of {full} runs count, and one whose hard runs are missing can look better than it is"
    return f"{', '.join(lost_runs(row))}{f' ({where})' if where else ''}; {effect}."


CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)  # the last ones turn text round


def clean(text: object) -> str:
    """A string that UTF-8 and HTML can hold: file names may carry lone surrogates and control characters."""
    return CONTROL.sub("\ufffd", str(text).encode("utf-8", "replace").decode("utf-8"))


def question(blocks: list[dict]) -> str:
    names = list(dict.fromkeys(b["data"] for b in blocks))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Which fine-tuning strategy should I use on {shown}?" if names else "No finished run"


BUDGET = (
    "Epochs",
    "Steps",
    "Trials",
    "Minutes a run",
    "Minutes in all",
    "Peak memory",
    "Trainable",
    "No result",
)


def budget_row(row: dict) -> list[str]:
    """What a strategy was given and what it took, in BUDGET's order."""
    lost = ", ".join(lost_runs(row)) or "0"
    if not row["done"]:
        return [LEFT_OUT] * (len(BUDGET) - 1) + [lost]
    return [whole(row["epochs"]), whole(row["optimizer_steps"]), whole(row["trials"]),
        minutes(row["minutes"]), minutes(row["minutes_total"]), memory(row["peak_memory_bytes"]),
        whole(row["trainable_parameters"]), lost]  # fmt: skip


def friedman_line(across: dict) -> str:
    f = across["friedman"]
    line = (
        f"Friedman over {several(len(across['datasets']), 'row')}: chi² = {number(f.chi2, 2)} "
        f"({whole(f.df)} df), p = {p_value(f.p)}; Iman-Davenport F = {number(f.f, 2)}, p = "
        f"{p_value(f.f_p)}. "
    ).replace("p = <", "p < ")
    if known(across["cd"]):
        cliques = "; ".join(", ".join(c) for c in across["cliques"]) or "none"
        line += (
            f"Nemenyi critical difference at {across['alpha']:g}: {number(across['cd'], 2)} ranks. Groups "
            f"within it: {cliques}."
        )
    return line
