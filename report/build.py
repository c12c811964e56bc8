"""Run folders -> results.csv, comparisons.csv, report.md, report.html, tables/ and figures/.

    python -m report runs/                # the same as: python ftcompare.py --report runs/

Never trains; needs neither the data nor a GPU nor torch, only what the runs left: config.json, log.csv,
ratios.csv, predictions.csv, hardest.npz, metrics.json."""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from report import figures, page, tables
from report.analysis import ReportError, analyse_runs
from report.experiment import Analysis, Experiment
from report.wording import counted, distinct, estimate, lost_runs, problems
from runs import Run, file_name, read_runs, temporary_name, to_csv, write_atomically

SETTINGS = "epochs batch_size grad_accum opt img_size augment tune weights_sha256 data_hash".split()
BUDGET = "best_epoch best_stage epochs optimizer_steps minutes peak_memory_bytes trainable_parameters".split()
TESTS = {
    "mcnemar": ("only_a", "only_b", "p", "method"),
    "delong": ("difference", "low", "high", "p"),
    "t": ("t", "df", "p", "low", "high"),
    "wilcoxon": ("statistic", "n", "p"),
}


def build(folder: str | Path) -> Analysis:
    """Writes everything into the folder of runs and returns the analysis. Raises ReportError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder; --report takes the --output-dir of the runs")

    def progress(doing: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K  report, {doing}", end="", file=sys.stderr, flush=True)

    runs, warnings = read_runs(folder)
    analysis = analyse_runs(folder, runs, warnings, progress)
    write_atomically(folder / "results.csv", to_csv(results_rows(runs)))
    if rows := comparison_rows(analysis):
        write_atomically(folder / "comparisons.csv", to_csv(rows))
    else:
        (folder / "comparisons.csv").unlink(missing_ok=True)  # of other runs
    with written_anew(folder / "tables", tables.makes) as place:
        for name, text in tables.latex(analysis).items():
            write_atomically(place / name, text)
    progress("figures")
    with written_anew(folder / "figures", figures.makes) as place:
        drawn = figures.draw(analysis, place)
    analysis, drawn = with_gradcam(analysis, drawn, folder / "figures")
    write_atomically(folder / "report.md", tables.markdown(analysis))
    write_atomically(folder / "report.html", page.html(analysis, drawn))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return analysis


def with_gradcam(
    analysis: Analysis, drawn: dict[tuple[str, str], list[figures.Picture]], folder: Path
) -> tuple[Analysis, dict[tuple[str, str], list[figures.Picture]]]:
    """The analysis and its figures with the panels that --gradcam left in figures/."""
    experiments = []
    for experiment in analysis.experiments:
        panel = folder / f"gradcam-{experiment.data}-{file_name(experiment.arch)}.png"
        if panel.is_file():
            picture = figures.Picture("gradcam", "Grad-CAM", panel.read_bytes())
            drawn.setdefault(experiment.key, []).append(picture)
        experiments.append(replace(experiment, gradcam=panel.is_file()))
    return replace(analysis, experiments=experiments), drawn


@contextlib.contextmanager
def written_anew(folder: Path, makes: Callable[[str], bool]) -> Iterator[Path]:
    """An empty folder that takes the place of the other when the block ends well. makes: whether a report
    makes a file of that name; what else the old folder holds is carried over."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, and should be a folder", str(folder))
    new = temporary_name(folder)
    old = new.with_suffix(".old")
    new.mkdir(parents=True)
    try:
        yield new
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        with contextlib.suppress(OSError):  # another report of these runs was faster: its folder is as good
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for old in folder.parent.glob(f".{folder.name}.*.old"):  # and what a report left that was killed here
        for entry in old.iterdir():
            if not makes(entry.name) and not (folder / entry.name).exists():
                entry.rename(folder / entry.name)
        shutil.rmtree(old, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def results_rows(runs: list[Run]) -> list[dict[str, object]]:
    """A row per run: the cell, its state, every metric on validation and test, the budget."""
    rows = []
    for run in runs:
        settings, tuning = run.config["settings"], run.config.get("tuning") or {}
        row = {name: value for name, value in run.cell.items() if name != "trial"}
        row |= {"status": run.status, "reason": run.reason, "metric": settings["metric"]}
        row |= {f"set_{name}": settings.get(name) for name in SETTINGS}
        row["set_lr"] = tuning.get("lr", settings["lr"])
        row["set_alpha"] = tuning.get("alpha", settings["hyperparameters"].get("alpha"))
        for split in ("val", "test"):
            found = run.result.get(split, {})
            row |= {f"{split}_{name}": value for name, value in found.get("values", {}).items()}
            for name in found.get("averaged_over", {}):
                defined, whole = run.averaged_over(split, name)
                row[f"{split}_{name}_over"] = f"{defined} of {whole}"
        row |= {"tuning_trials": len(tuning.get("trials", [])), "tuning_minutes": tuning.get("minutes", "")}
        row |= {"last_stage": next(reversed(run.stages), "")}
        rows.append(row | {name: run.result.get(name) for name in BUDGET})
    return of_one_head(rows)


def comparison_rows(analysis: Analysis) -> list[dict[str, object]]:
    """A row per pair of strategies in an experiment; the p-values and why one is missing."""
    rows = []
    for experiment in analysis.experiments:
        for pair in experiment.pairs:
            row = {
                "data": experiment.data,
                "arch": experiment.arch,
                "metric": experiment.metric,
                "metric_over": experiment.over,
                "groups": experiment.test_groups,
            }
            row |= {name: value for name, value in vars(pair).items() if name not in TESTS}
            for test, names in TESTS.items():
                row |= {f"{test}_{name}": getattr(getattr(pair, test), name, "") for name in names}
            rows.append(row | {"notes": row.pop("notes")})  # last
    return of_one_head(rows)


def of_one_head(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Every column that a row has, in all; empty where a row has none, and for nan."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = [{name: row.get(name, "") for name in names} for row in rows]
    return [
        {name: "" if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in values
    ]


def text(analysis: Analysis, only: set[tuple[str, str]] | None = None) -> str:
    """What the terminal shows of each experiment: the table and the verdict. only: (data, arch) to show."""
    lines = []
    for experiment in analysis.experiments:
        if only is None or experiment.key in only:
            lines += experiment_text(experiment)
    return "\n".join(lines + [f"warning: {warning}" for warning in analysis.warnings])


def experiment_text(experiment: Experiment) -> list[str]:
    planned = experiment.planned
    seeds = counted(len(experiment.seeds), len(planned.seeds), "seed")
    folds = counted(len(experiment.folds), len(planned.folds), "fold")
    what = f"mean over runs ({seeds} x {folds}) [95 % interval over {distinct(experiment)}] "
    what += "± standard deviation of runs"
    test, second = f"test {experiment.metric}", f"test {experiment.second}"
    head = f"{'strategy':<9}{'runs':>5}  {test:<34}{second:<34}{f'val {experiment.metric}':<22}"
    lines = ["", f"{experiment.data}, {experiment.arch}: {what}", f"{head}{'trainable':>12}{'minutes':>9}"]
    for row in experiment.rows:
        values = (estimate(found).replace("−", "-") for found in (row.test, row.second, row.val))
        cost = f"{row.trainable_parameters:>12,}{row.minutes:>9.2f}" if row.done else ""
        said = [*lost_runs(row), *(f"{n} scored in stage {stage}" for stage, n in row.early.items())]
        line = "{:<32}  {:<32}  {:<20}  ".format(*values) + cost + "".join(f"  {word}" for word in said)
        lines.append(f"{row.strategy:<8}{'*' if row.best else ' '}{row.done:>5}  {line}")
    return [*lines, *(f"note: {note}" for note in problems(experiment)), experiment.verdict]


def written(folder: str | Path) -> str:
    """The last lines of a report on the terminal."""
    page = Path(folder) / "report.html"
    said = f"report: {page} (also report.md, results.csv, comparisons.csv, tables/, figures/)"
    missing = "no figures: matplotlib is not installed (pip install matplotlib)"
    return said if figures.available() else f"{said}\n{missing}"
