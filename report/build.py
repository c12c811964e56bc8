"""Run folders -> results.csv, comparisons.csv, report.md, report.html, tables/ and figures/.

    python report.py runs/                # the same as: python ftcompare.py --report runs/

Never trains; needs neither the data nor a GPU nor torch, only what the runs left: config.json, log.csv, ratios.csv,
predictions.csv, hardest.npz, metrics.json."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from report import figures, page, tables
from report.analysis import ReportError, analyse
from report.wording import beside, counted, distinct, problems
from runs import NAN, Run, read_runs, to_csv, to_json, write_atomically

SETTINGS = (
    "epochs",
    "batch_size",
    "grad_accum",
    "opt",
    "img_size",
    "augment",
    "tune",
    "weights_sha256",
    "data_hash",
)
BUDGET = (
    "best_epoch",
    "best_stage",
    "epochs",
    "optimizer_steps",
    "minutes",
    "peak_memory_bytes",
    "trainable_parameters",
)


def results_rows(runs: list[Run]) -> list[dict]:
    """A row per run: the cell, its state, every metric on validation and test, the budget."""
    rows = []
    for run in runs:
        settings, tuning = run.config["settings"], run.config.get("tuning") or {}
        row = {k: v for k, v in run.cell.items() if k != "trial"}
        row |= {"status": run.status, "reason": run.reason, "metric": settings["metric"]}
        row |= {f"set_{name}": settings.get(name) for name in SETTINGS}
        row["set_lr"] = tuning.get("lr", settings["lr"])
        row["set_alpha"] = tuning.get("alpha", settings["hyperparameters"].get("alpha"))
        for split in ("val", "test"):
            row |= {
                f"{split}_{name}": value
                for name, value in run.result.get(split, {}).get("values", {}).items()
            }
            row |= {
                f"{split}_{name}_over": "{} of {}".format(*run.averaged_over(split, name))
                for name in run.result.get(split, {}).get("averaged_over", {})
            }
        row |= {"tuning_trials": len(tuning.get("trials", [])), "tuning_minutes": tuning.get("minutes", "")}
        row |= {"last_stage": next(reversed(run.stages), "")}
        rows.append(row | {name: run.result.get(name) for name in BUDGET})
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in names} for row in rows]


def comparison_rows(analysis: dict) -> list[dict]:
    """A row per pair of strategies in a block; the p-values and why one is missing."""
    rows = []
    for block in analysis["blocks"]:
        for pair in block["pairs"]:
            row = {
                "data": block["data"],
                "arch": block["arch"],
                "metric": block["metric"],
                "metric_over": block["over"],
                "groups": block["test_groups"],
            }
            row |= {k: v for k, v in pair.items() if isinstance(v, (str, int, float))}
            for test, names in (("mcnemar", ("only_a", "only_b", "p", "method")), ("delong", ("difference", "low", "high", "p")),
                                ("t", ("t", "df", "p", "low", "high")), ("wilcoxon", ("statistic", "n", "p"))):  # fmt: skip
                row |= {f"{test}_{name}": getattr(pair.get(test), name, "") for name in names}
            rows.append(row | {"notes": " ".join(block["pair_notes"])})
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: plain(row.get(name, "")) for name in names} for row in rows]


def plain(value: object) -> object:
    return "" if isinstance(value, float) and math.isnan(value) else value


def build(folder: str | Path) -> dict:
    """Writes everything into the folder of runs and returns the analysis. Raises ReportError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder; --report takes the --output-dir of the runs")

    def progress(doing: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K  report, {doing}", end="", file=sys.stderr, flush=True)

    runs, warnings = read_runs(folder)
    analysis = analyse(folder, progress, (runs, warnings))
    before = left_behind(folder)
    write_atomically(folder / "results.csv", to_csv(results_rows(runs)))
    if rows := comparison_rows(analysis):
        write_atomically(folder / "comparisons.csv", to_csv(rows))
    else:
        (folder / "comparisons.csv").unlink(missing_ok=True)  # of other runs
    for name, text in tables.latex(analysis).items():
        write_atomically(folder / "tables" / name, text)
    progress("figures")
    drawn = figures.draw(analysis, folder / "figures")
    for panel in sorted((folder / "figures").glob("gradcam-*.png")):
        for block in analysis["blocks"]:
            if panel.stem == f"gradcam-{block['data']}-{block['arch']}":
                drawn.setdefault((block["data"], block["arch"]), []).append(("Grad-CAM", panel.read_bytes()))
                block["gradcam"] = True
    for file in before:  # of runs that are no longer there
        if file.is_file() and file.stat().st_mtime_ns == before[file]:
            file.unlink()
    write_atomically(
        folder / ".report.json", to_json([f.relative_to(folder).as_posix() for f in made(folder)])
    )
    write_atomically(folder / "report.md", tables.markdown(analysis))
    write_atomically(folder / "report.html", page.html(analysis, drawn))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return analysis


def made(folder: Path) -> list[Path]:
    """The tables and figures that a report makes."""
    files = [
        *(folder / "tables").glob("*.tex"),
        *(folder / "figures").glob("*.png"),
        *(folder / "figures").glob("*.pdf"),
    ]
    return sorted(file for file in files if not file.name.startswith("gradcam-"))


def left_behind(folder: Path) -> dict[Path, int]:
    """What the report before this one made, and when: file -> ns. Nothing that somebody else put there."""
    try:
        listed = json.loads((folder / ".report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        file: file.stat().st_mtime_ns
        for file in made(folder)
        if file.relative_to(folder).as_posix() in listed
    }


def text(analysis: dict, only: set[tuple[str, str]] | None = None) -> str:
    """What the terminal shows of each block: the table and the verdict. only: (data, arch) to show."""
    lines = []
    for block in analysis["blocks"]:
        if only is not None and (block["data"], block["arch"]) not in only:
            continue
        n = " x ".join(counted(len(block[k]), len(block["planned"][k]), k[:-1]) for k in ("seeds", "folds"))
        tested = distinct(block)
        what = f"mean over runs ({n}) [95 % interval over {tested}] ± standard deviation of runs"
        lines += ["", f"{block['data']}, {block['arch']}: {what}"]
        columns = [f"test {block['metric']}", f"test {block['second']}", f"val {block['metric']}"]
        lines.append(
            f"{'strategy':<9}{'runs':>5}  {columns[0]:<34}{columns[1]:<34}{columns[2]:<22}{'trainable':>12}{'minutes':>9}"
        )
        for row in block["rows"]:
            mark = "*" if row["best"] else " "
            cells = f"{estimate_text(row['test']):<32}  {estimate_text(row['second']):<32}  {estimate_text(row['val']):<20}  "
            cost = f"{row['trainable_parameters']:>12,}{row['minutes']:>9.2f}" if row["done"] else ""
            lost = {"failed": row["failed"], "unfinished": row["unfinished"], "not run": row["missing"]}
            said = "".join(f"  {n} {kind}" for kind, n in lost.items() if n)
            said += "".join(f"  {n} scored in stage {stage}" for stage, n in row["early"].items())
            lines.append(f"{row['strategy']:<8}{mark}{row['done']:>5}  {cells}{cost}{said}")
        lines += [*(f"note: {note}" for note in problems(block)), block["verdict"]]
    return "\n".join(lines + [f"warning: {warning}" for warning in analysis["warnings"]])


def estimate_text(found: dict) -> str:
    if not found["n"]:
        return "undefined"
    said = f"{found['mean']:.3f}"
    said += f" [{found['low']:.3f}, {found['high']:.3f}]" if math.isfinite(found.get("low", NAN)) else ""
    return said + (f" ± {found['sd']:.3f}" if math.isfinite(found["sd"]) else "") + beside(found)


def written(folder: str | Path) -> str:
    """The last lines of a report on the terminal."""
    said = f"report: {Path(folder) / 'report.html'} (also report.md, results.csv, comparisons.csv, tables/, figures/)"
    return (
        said
        if figures.available()
        else f"{said}\nno figures: matplotlib is not installed (pip install matplotlib)"
    )
