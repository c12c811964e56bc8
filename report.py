"""Run folders -> results.csv and the table of strategies. Never trains, needs no data.

    python report.py runs/

Reads every metrics.json (a finished run) and failed.json (a run that diverged) below the folder. Imports
numpy."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from pathlib import Path

import numpy as np

ORDER = {
    name: i for i, name in enumerate(("FT", "LP", "G-LF", "G-FL", "LP-FT", "L1-SP", "L2-SP", "Auto-RGN"))
}
SETTINGS = (
    "epochs",
    "batch_size",
    "grad_accum",
    "opt",
    "lr",
    "img_size",
    "augment",
    "weights_sha256",
    "data_hash",
)
BUDGET = ("best_epoch", "epochs", "optimizer_steps", "minutes", "peak_memory_bytes", "trainable_parameters")


def read_runs(folder: str | Path) -> list[dict]:
    """The metrics.json of every finished run below the folder, and {"cell", "failed"} of every one that diverged, each
    with its "settings" and the "strategy" by the paper's name. A damaged file is named on stderr and left out."""
    results = []
    for file in sorted(Path(folder).glob("*/*/*/seed*-fold*/config.json")):
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            result = {key: config[key] for key in ("settings", "strategy")} | {
                "cell": config["settings"]["cell"]
            }
            if (done := file.with_name("metrics.json")).is_file():
                results.append(result | json.loads(done.read_text(encoding="utf-8")))
            elif (failed := file.with_name("failed.json")).is_file():
                results.append(result | {"failed": json.loads(failed.read_text(encoding="utf-8"))["reason"]})
        except (ValueError, KeyError) as error:
            print(f"report.py: left out, {file.parent} is damaged: {error}", file=sys.stderr)
    return sorted(results, key=lambda r: (r["cell"]["data"], r["cell"]["arch"], ORDER.get(r["strategy"], 99)))


def incomparable(results: list[dict]) -> list[str]:
    """Settings in which runs of one table differ that should be compared: 'epochs: 1, 2'."""
    own = ("cell", "lr", "hyperparameters", "split_hash")  # a strategy's own, or the fold's
    found: dict[str, set] = {}
    for result in results:
        settings = result.get("settings", {})
        for name in (name for name in settings if name not in own):
            found.setdefault(name, set()).add(json.dumps(settings[name]))
        found.setdefault(f"split of fold {result['cell']['fold']}", set()).add(
            json.dumps(settings.get("split_hash"))
        )
    return [f"{name}: {', '.join(sorted(values)[:3])}" for name, values in found.items() if len(values) > 1]


def results_rows(results: list[dict]) -> list[dict]:
    """A row per run: the cell, every metric on validation and test, the budget."""
    rows = []
    for result in results:
        row = result["cell"] | {"metric": result.get("metric", ""), "failed": result.get("failed", "")}
        row |= {f"set_{name}": result.get("settings", {}).get(name) for name in SETTINGS}
        for split in ("val", "test"):
            row |= {
                f"{split}_{name}": value for name, value in result.get(split, {}).get("values", {}).items()
            }
        rows.append(row | {name: result.get(name) for name in BUDGET})
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in names} for row in rows]


def table(results: list[dict]) -> str:
    """A line per data, architecture and strategy, over seeds and folds."""
    rows: dict[tuple, list[dict]] = {}
    for result in results:
        cell = result["cell"]
        rows.setdefault((cell["data"], cell["arch"]), {}).setdefault(result["strategy"], []).append(result)
    lines = []
    for (data, arch), by_strategy in rows.items():
        good = [r for runs in by_strategy.values() for r in runs if "failed" not in r]
        metric, second = (good[0]["metric"], good[0]["second"]) if good else ("metric", "second metric")
        head = [f"val {metric}", f"test {metric}", f"test {second}"]
        width = max(20, *map(len, head)) + 1
        lines += ["", f"{data}, {arch}: mean ± standard deviation over the runs (seeds, folds); ddof 1"]
        lines += [
            f"{'strategy':<9}{'runs':>5}  "
            + "".join(f"{h:<{width}}" for h in head)
            + f"{'trainable':>12}{'minutes':>9}"
        ]
        if differ := incomparable([r for runs in by_strategy.values() for r in runs]):
            lines.append(f"NOT COMPARABLE, these runs differ in {'; '.join(differ)}")
        for strategy, cells in by_strategy.items():
            good = [c for c in cells if "failed" not in c]
            shown = [mean_sd([c[split]["values"][name] for c in good])
                     for split, name in (("val", metric), ("test", metric), ("test", second))]  # fmt: skip
            line = f"{strategy:<9}{len(good):>5}  " + "".join(f"{text:<{width}}" for text in shown)
            if good:
                line += f"{good[0]['trainable_parameters']:>12,}{np.mean([c['minutes'] for c in good]):>9.2f}"
            lines.append(line + (f"  {len(cells) - len(good)} failed" if len(good) < len(cells) else ""))
    return "\n".join(lines)


def mean_sd(values: list[float | None]) -> str:
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known:
        return "undefined"
    spread = f" ± {np.std(known, ddof=1):.4f}" if len(known) > 1 else ""
    return f"{np.mean(known):.4f}{spread}" + (f" (of {len(known)})" if len(known) < len(values) else "")


def write_results(folder: str | Path) -> Path | None:
    """results.csv of all the runs in the folder, whole or not at all."""
    rows = results_rows(read_runs(folder))
    if not rows:
        return None
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file = Path(folder) / "results.csv"
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(out.getvalue(), encoding="utf-8")
    os.replace(temporary, file)
    return file


def main(folder: str) -> int:
    if not Path(folder).is_dir():
        print(__doc__ if folder in ("-h", "--help") else f"report.py: {folder} is no folder", file=sys.stderr)
        return 2
    sys.stdout.reconfigure(errors="replace")
    file = write_results(folder)
    if file is None:
        print(f"report.py: no finished run below {folder}", file=sys.stderr)
        return 2
    print(table(read_runs(folder)) + f"\n\nwritten: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "runs"))
