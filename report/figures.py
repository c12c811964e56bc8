"""The figures of a report, with matplotlib where it is installed.

    drawn = draw(report.analyse("runs/"), Path("runs/figures"))  # -> demo-resnet18-roc.png, ...-roc.pdf, ...
    for caption, png in drawn["demo", "resnet18"]: ...           # the same pictures, for the HTML page

A figure is one function that draws a block of the analysis (or, over all blocks, the analysis) into an empty
matplotlib Figure; one that finds nothing to draw leaves it empty, and no file is written. The table of all
stands at the end. Sizes are inches of a paper: a column (3.5) or the page (7). No pyplot, no global state:
the rcParams are matplotlib's own defaults plus RC while drawing, and the user's again afterwards, so that the
same analysis gives the same bytes."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from report.wording import in_order, measured, metric_name, tested_images
from runs import write_atomically

COLUMN, PAGE = 3.5, 7.0  # inches
DPI = 130
GREY, PALE = "#777777", "#e8e8e8"
MISSING = "#dddddd"  # a cell without a value
ASIDE = {
    "color": GREY,
    "linewidth": 0.7,
    "linestyle": ":",
    "zorder": 1,
}  # chance, prevalence, FT: not a result

# Okabe and Ito's colours, FT black; wine (Tol) for their yellow, which white paper swallows. The nearest two
# as a deuteranope or a protanope sees them (Vienot 1999) are 19 apart in CIE Lab. Marker and dash help.
STYLES = {
    "FT": ("#000000", "o", "-"),
    "LP": ("#E69F00", "s", (0, (5, 1.5))),
    "G-LF": ("#56B4E9", "^", (0, (3, 1, 1, 1))),
    "G-FL": ("#0072B2", "v", (0, (1, 1))),
    "LP-FT": ("#D55E00", "D", "-"),
    "L1-SP": ("#882255", "P", (0, (5, 1.5))),
    "L2-SP": ("#CC79A7", "X", (0, (3, 1, 1, 1))),
    "Auto-RGN": ("#009E73", "*", "-"),
}
RC = {
    "axes.formatter.useoffset": False,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "text.parse_math": False,  # "$" in the name of a class is a dollar
    "xtick.labelsize": 7,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 7,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
}


def available() -> bool:
    """Whether matplotlib is installed and can be loaded."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def draw(analysis: dict, folder: str | Path) -> dict[tuple[str, str], list[tuple[str, bytes]]]:
    """Draws every figure that the analysis (of report.analyse) has data for into folder/<name>.png and .pdf,
    each file whole or not at all. Returns {(data, arch): [(caption, PNG), ...]}, ("", "") for the figures
    over all blocks; captions are plain text. {} without matplotlib. Leaves other files of the folder
    alone."""
    if not available():
        return {}
    folder, drawn = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    blocks = analysis["blocks"]
    jobs = [(("", ""), "all", OVERALL, analysis)]
    for block, stem in zip(blocks, file_stems((b["data"], b["arch"]) for b in blocks)):
        jobs.append(((block["data"], block["arch"]), stem, OF_A_BLOCK, block))
    with _settings():
        for key, stem, table, part in jobs:
            for name, (function, caption) in table.items():
                if images := _pictures(function, part):
                    for ending, content in images.items():
                        write_atomically(folder / f"{stem}-{name}.{ending}", content)
                    drawn.setdefault(key, []).append((caption.format(**_words(part)), images["png"]))
            gc.collect()
    return drawn


def file_stems(names: Iterable[tuple[str, str]]) -> list[str]:
    """'demo-resnet18' for every (data, arch): of a-z, 0-9 and '-' alone, no two the same."""
    stems: list[str] = []
    for data, arch in names:
        parts = (re.sub("[^a-z0-9]+", "-", part.lower()).strip("-")[:50].strip("-") for part in (data, arch))
        stem = "-".join(part or "x" for part in parts)
        number = next(i for i in itertools.count(1) if (stem if i == 1 else f"{stem}-{i}") not in stems)
        stems.append(stem if number == 1 else f"{stem}-{number}")
    return stems


def _pictures(function, part: dict) -> dict[str, bytes]:
    """{"png", "pdf"} of what the function draws of the part; {} where it finds nothing to draw. Without
    dates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    figure = Figure(dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    function(figure, part)
    if not figure.axes:
        return {}
    png, pdf = io.BytesIO(), io.BytesIO()
    canvas.print_png(png, metadata={"Software": None})
    figure.set_dpi(72)  # the page is measured in points
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


@contextlib.contextmanager
def _settings():
    """Our rcParams over matplotlib's defaults, and no warning about letters that the font lacks. The search
    for garbage among the thousands of objects of every figure waits for the block's end: a tenth of the
    time."""
    import matplotlib

    collects = gc.isenabled()
    keep = ("backend", "backend_fallback", "interactive", "toolbar")
    ours = {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in keep} | RC
    with warnings.catch_warnings(), matplotlib.rc_context(ours):
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


# ------------------------------------------------------------------------------------- words, numbers, styles


def cut(text: str, length: int = 16, tail: bool = False) -> str:
    """The text as it can stand in a figure: on one line, without what no font has, not longer. tail: keep its
    end."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(text) <= length:
        return text
    return "…" + text[1 - length :].lstrip() if tail else text[: length - 1].rstrip() + "…"


def number(value) -> float:
    """None, nan and what is infinite: nan."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([number(row.get(name)) for row in rows])


def scored(block: dict) -> list[dict]:
    """The rows that have a test score, in the paper's order."""
    rows = {row["strategy"]: row for row in block["rows"] if not math.isnan(number(row["test"]["mean"]))}
    return [rows[strategy] for strategy in in_order(rows)]


def look(strategy: str, size: float = 4) -> dict:
    """A strategy's colour, marker and dash: the same in every figure. size: of the marker, in points."""
    color, marker, dash = STYLES.get(strategy, (GREY, "h", (0, (1, 2))))
    size *= 1.5 if marker == "*" else 1
    first = {"zorder": 3} if strategy == "FT" else {}
    return {"color": color, "marker": marker, "linestyle": dash, "markersize": size, "linewidth": 1.1} | first


def _words(part: dict) -> dict[str, str]:
    """What the captions' fields stand for."""
    if "blocks" in part:
        across = part.get("across") or {}
        cd, blocks = number(across.get("cd")), len(across.get("datasets", ()))
        return {"cd": f"{cd:.2f}", "alpha": f"{across.get('alpha', 0.05):g}", "n": str(blocks)}
    words = {"data": part["data"], "arch": part["arch"], "metric": measured(part)}
    words["calibrated"] = " against ".join(reversed(CALIBRATED[part["task"]]))
    better = "higher" if part.get("higher_is_better", True) else "lower"
    kind = part.get("group_kind", "group")
    kinds = kind[:-1] + "ies" if kind.endswith("y") else f"{kind}s"
    known = all(part.get(name) is not None for name in ("test_images", "test_groups"))
    size = tested_images({"group_kind": kind} | part) if known else "the test images"
    shown = {entry["class"] for entries in (part.get("roc") or {}).values() for entry in entries}
    classes = f" Positive: {part['positive']}." if part.get("positive") and len(shown) == 1 else ""
    if 1 < len(shown) < len(part["classes"]):
        classes = f" {len(shown)} of {len(part['classes'])} classes."
    return words | {"better": better, "size": size, "kinds": kinds, "classes": classes}


# ----------------------------------------------------------------------------------------- panels and legends


def panels(figure, count: int, columns: int, width: float, height: float, **inches: float) -> list:
    """count axes row by row, columns beside each other, on a figure that is width inches wide. height: of one
    panel. inches: the margins left, right, top, bottom and the gaps gap_x, gap_y. Nothing is measured again,
    as tight or constrained layouts do, which take longer than the drawing."""
    size = {"left": 0.5, "right": 0.1, "top": 0.1, "bottom": 0.4, "gap_x": 0.3, "gap_y": 0.35} | inches
    lines = math.ceil(count / columns)
    each = (width - size["left"] - size["right"] - (columns - 1) * size["gap_x"]) / columns
    total = size["top"] + size["bottom"] + lines * height + (lines - 1) * size["gap_y"]
    figure.set_size_inches(width, total)
    axes = []
    for i in range(count):
        line, place = divmod(i, columns)
        x = size["left"] + place * (each + size["gap_x"])
        y = total - size["top"] - height - line * (height + size["gap_y"])
        axes.append(figure.add_axes((x / width, y / total, each / width, height / total)))
    return axes


def text_width(texts: Iterable[str], points: float) -> float:
    """Inches that the longest text takes, near enough for a margin."""
    return max((len(text) for text in texts), default=0) * points * 0.6 / 72


def legend_height(count: int, columns: int) -> float:
    return 0.06 + 0.17 * math.ceil(count / columns)


def legend(figure, strategies: list[str], columns: int, labels: list[str] | None = None) -> None:
    """The strategies' lines along the foot of the figure."""
    from matplotlib.lines import Line2D

    figure.legend(
        [Line2D([], [], **look(strategy)) for strategy in strategies],
        labels or strategies,
        loc="lower center",
        ncols=min(columns, len(strategies)),
        borderaxespad=0.2,
        borderpad=0.1,
        labelspacing=0.3,
        columnspacing=1.2,
    )


def name_panel(axes, text: str) -> None:
    axes.set_title(text, fontsize=8, pad=3)


def log_axis(axis, values: np.ndarray) -> None:
    """A logarithmic axis with plain numbers: 0.5, 1, 2, 5, 10."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(values.max() / values.min())
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def unit_square(axes, across: str, up: str, edge: tuple[bool, bool] = (True, True)) -> None:
    """Both axes 0 to 1. edge: whether this panel is one with the label below it, and at its left."""
    for axis, text, labelled in ((axes.xaxis, across, edge[0]), (axes.yaxis, up, edge[1])):
        axis.set_ticks([0, 0.5, 1], ["0", "0.5", "1"] if labelled else None)
        if labelled:
            axis.set_label_text(text)
        else:
            axes.tick_params(axis.axis_name, labelbottom=False, labelleft=False)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)


def at_edge(i: int, count: int, columns: int) -> tuple[bool, bool]:
    """Whether panel i of count has none below it, and whether it is a row's first."""
    return i + columns >= count, i % columns == 0


# -------------------------------------------------------------------------------------------- over all blocks


def heat_map(figure, analysis: dict) -> None:
    """A row per block, a column per strategy; the value in the cell, its distance to the row's best as
    colour, as easy and hard datasets would otherwise be all that one sees. The best is the table's: what is
    not ranked there (fewer runs, one class called) has its value, but no frame, and no colour either where it has
    other runs, which are no match."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    blocks = [block for block in analysis["blocks"] if scored(block)]
    strategies = in_order({row["strategy"] for block in blocks for row in scored(block)})
    if len(blocks) < 2:
        return
    values, behind = np.full((2, len(blocks), len(strategies)), math.nan)
    framed = []
    for i, block in enumerate(blocks):
        best = next((row["test"]["mean"] for row in scored(block) if row["best"]), math.nan)
        for row in scored(block):
            j, value = strategies.index(row["strategy"]), row["test"]["mean"]
            values[i, j] = value
            if row["ranked"] and not math.isnan(best):
                behind[i, j] = max(0.0, best - value if block["higher_is_better"] else value - best)
            if row["ranked"] and not row["collapsed"] and value == best:
                framed.append((i, j))
    names = [f"{cut(b['data'], 20)}, {cut(b['arch'], 18)}" for b in blocks]
    if len(metrics := {measured(b) for b in blocks}) > 1:
        names = [f"{name}\n{measured(b)}" for name, b in zip(names, blocks)]
    left = 0.15 + text_width((part for name in names for part in name.split("\n")), 7)
    (axes,) = panels(
        figure, 1, 1, PAGE, max(1.2, 0.27 * len(blocks)), left=left, right=0.85, top=0.3, bottom=0.1
    )
    top = max(np.max(behind, initial=0.0, where=~np.isnan(behind)), 1e-9)
    colours = colormaps["Blues_r"].with_extremes(bad=MISSING)
    image = axes.imshow(behind, colours, PowerNorm(0.5, 0, top), aspect="auto")
    cells(axes, image, values, 3, 7)
    for i, j in framed:
        axes.plot(*box(i, j), color="#D55E00", linewidth=1.4)
    axes.set_xticks(range(len(strategies)), strategies, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    _colour_bar(
        figure, axes, image, f"{metrics.pop() if len(metrics) == 1 else 'metric'}:\nbehind the row's best"
    )


def cells(axes, image, values: np.ndarray, digits: int, size: float) -> None:
    """The values as text in their cells, white where the image is dark; nan: none."""
    dark = image.cmap(image.norm(image.get_array()))[..., :3] @ (0.299, 0.587, 0.114) < 0.52
    for i, j in zip(*np.nonzero(~np.isnan(values))):
        color = "white" if dark[i, j] else "black"
        axes.text(j, i, f"{values[i, j]:.{digits}f}", ha="center", va="center", fontsize=size, color=color)


def box(i: int, j: int) -> tuple[list[float], list[float]]:
    """The outline of cell (i, j), inside its edge."""
    a, b = 0.47, 0.44
    return [j - a, j + a, j + a, j - a, j - a], [i - b, i - b, i + b, i + b, i - b]


def _colour_bar(figure, axes, image, label: str, **settings):
    """A bar at the right of the axes, in the margin of 0.85 inches that they leave."""
    left, low, width, height = axes.get_position().bounds
    inch = 1 / figure.get_figwidth()
    bar = figure.colorbar(
        image, cax=figure.add_axes((left + width + 0.1 * inch, low, 0.1 * inch, height)), **settings
    )
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_linewidth(0.4)
    return bar


def critical_difference(figure, analysis: dict) -> None:
    """Demsar 2006, figure 1a: the average ranks on a line, the best at the right; a bar joins the strategies
    that lie within the critical difference of each other. All in inches."""
    across = analysis.get("across") or {}
    ranks = {s: r for s, r in across.get("average_ranks", {}).items() if not math.isnan(number(r))}
    cd = number(across.get("cd"))
    if len(ranks) < 2 or math.isnan(cd):
        return
    left, right, k = 0.88, COLUMN - 0.88, len(ranks)
    unit = (right - left) / max(k - 1, cd)  # an inch a rank; the bar has to fit too
    place = {s: right - (r - 1) * unit for s, r in ranks.items()}
    bars = [[place[s] for s in clique if s in place] for clique in across.get("cliques", [])]
    bars = [(min(x) - 0.03, max(x) + 0.03) for x in bars if len(x) > 1]
    depth = 0.12 + 0.09 * len(bars)
    height = 0.5 + depth + 0.17 * math.ceil(k / 2) + 0.05
    (axes,) = panels(figure, 1, 1, COLUMN, height, left=0, right=0, top=0, bottom=0)
    axes.set(xlim=(0, COLUMN), ylim=(-height + 0.5, 0.5))
    axes.axis("off")
    end = right - (k - 1) * unit
    axes.plot([end, right], [0, 0], color="black", linewidth=0.8)
    for rank in range(1, k + 1):
        x = right - (rank - 1) * unit
        axes.plot([x, x], [0, 0.05], color="black", linewidth=0.8)
        axes.text(x, 0.07, str(rank), ha="center", va="bottom", fontsize=7)
    axes.plot([right - cd * unit, right], [0.27, 0.27], "|-", color=GREY, markersize=4, linewidth=0.8)
    axes.text(right - cd * unit / 2, 0.3, f"CD = {cd:.2f}", ha="center", va="bottom", fontsize=7, color=GREY)
    for i, (low, high) in enumerate(bars):
        axes.plot([low, high], [-0.09 - 0.09 * i] * 2, color="black", linewidth=2.5, solid_capstyle="butt")
    worst_first = sorted(ranks, key=lambda s: -ranks[s])
    half = math.ceil(k / 2)
    for i, strategy in enumerate(worst_first):
        line, side = (i, 0) if i < half else (k - 1 - i, 1)
        y, x = -depth - 0.1 - 0.17 * line, place[strategy]
        edge = (min(left, end) - 0.05, right + 0.05)[side]
        axes.plot([x, x, edge], [0, y, y], color=look(strategy)["color"], linewidth=0.9)
        text = (f"{strategy} {ranks[strategy]:.2f}", f"{ranks[strategy]:.2f} {strategy}")[side]
        axes.text(edge + (-0.03, 0.03)[side], y, text, ha=("right", "left")[side], va="center", fontsize=7)


# ----------------------------------------------------------------------------------------------- of one block


def intervals(figure, block: dict) -> None:
    """Point and 95 % interval per strategy, FT's point as a line through all."""
    rows = scored(block)
    if not rows:
        return
    (axes,) = panels(figure, 1, 1, COLUMN, 0.2 * len(rows) + 0.1, left=0.75, right=1.25)
    for i, row in enumerate(rows):
        mean, low, high = (number(row["test"].get(name)) for name in ("mean", "low", "high"))
        style = look(row["strategy"]) | {"linestyle": "-"}
        axes.plot([low, high], [i, i], **style | {"marker": "", "linewidth": 1.4})
        axes.plot([mean], [i], **style)
        text = f"{mean:.3f}" + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")
        axes.annotate(text, (1.04, i), xycoords=("axes fraction", "data"), va="center", fontsize=7)
        if row["strategy"] == "FT":
            axes.axvline(mean, **ASIDE)
    axes.set_yticks(range(len(rows)), [row["strategy"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.locator_params("x", nbins=4)
    axes.set_xlabel(f"test {measured(block)}")


def learning_curves(figure, block: dict) -> None:
    """Validation metric, training loss and validation loss by epoch; the band is the runs' lowest and
    highest."""
    from matplotlib.ticker import MaxNLocator

    curves = {s: rows for s, rows in block.get("curves", {}).items() if rows}
    names = {"val_metric": f"validation {metric_name(block['metric'])}", "train_loss": "training loss"}
    names |= {"val_loss": "validation loss"}
    filled = [n for n in names if any(not np.isnan(column(rows, n)).all() for rows in curves.values())]
    if not filled:
        return
    foot = legend_height(len(curves), 8)
    all_axes = panels(figure, len(filled), len(filled), PAGE, 1.9, bottom=0.42 + foot, gap_x=0.55, left=0.55)
    for axes, name in zip(all_axes, filled):
        for strategy in in_order(curves):
            rows = curves[strategy]
            epochs, values = column(rows, "epoch"), column(rows, name)
            style = look(strategy, 3) | {"markevery": max(1, math.ceil(len(rows) / 6))}
            axes.plot(epochs, values, **style)
            low, high = column(rows, "low"), column(rows, "high")
            if name == "val_metric" and (high > low).any():
                axes.fill_between(epochs, low, high, color=style["color"], alpha=0.1, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if max(len(rows) for rows in curves.values()) == 1:
            axes.set_xticks(sorted({row["epoch"] for rows in curves.values() for row in rows}))
        losses = np.concatenate([column(rows, name) for rows in curves.values()])
        losses = losses[~np.isnan(losses)]
        if name != "val_metric" and losses.min() > 0 and losses.max() > 20 * losses.min():
            log_axis(axes.yaxis, losses)
        axes.set_xlabel("epoch")
        axes.set_ylabel(names[name], labelpad=2)
    legend(figure, in_order(curves), 8)


def score_against_cost(figure, block: dict) -> None:
    """Test metric against minutes a run; the names beside the points."""
    rows = [row for row in scored(block) if not math.isnan(number(row.get("minutes")))]
    if not rows:
        return
    (axes,) = panels(figure, 1, 1, COLUMN, 2.4, left=0.6, right=0.15)
    minutes = column(rows, "minutes")
    scores, low, high = (column([row["test"] for row in rows], name) for name in ("mean", "low", "high"))
    for i, row in enumerate(rows):
        style = look(row["strategy"], 6)
        axes.plot([minutes[i]] * 2, [low[i], high[i]], color=style["color"], linewidth=0.8, alpha=0.6)
        axes.plot(minutes[i : i + 1], scores[i : i + 1], **style)
    if minutes.min() > 0 and minutes.max() >= 10 * minutes.min():
        log_axis(axes.xaxis, minutes)
    axes.margins(x=0.16, y=0.08)
    axes.autoscale_view()  # now, as the labels are placed by these limits
    axes.set_xlabel("minutes a run")
    axes.set_ylabel(f"test {measured(block)}")
    points = axes.transData.transform(np.column_stack([minutes, scores])) * 72 / figure.dpi
    ends = [axes.transData.transform(np.column_stack([minutes, e])) * 72 / figure.dpi for e in (low, high)]
    room = axes.get_window_extent().extents * 72 / figure.dpi
    texts = [row["strategy"] for row in rows]
    for row, point, (x, y) in zip(rows, points, place_labels(points, texts, ends, room)):
        far = abs(y + 4 - point[1]) > 12
        axes.annotate(
            row["strategy"],
            (minutes[rows.index(row)], row["test"]["mean"]),
            (x - point[0], y - point[1]),
            textcoords="offset points",
            fontsize=7,
            color=look(row["strategy"])["color"],
            va="bottom",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY} if far else None,
        )


def place_labels(points: np.ndarray, texts: list[str], bars: list[np.ndarray], room: Sequence[float]) -> list:
    """The lower left corner of each text, all in points (1/72 inch): of the places around the point that lie
    in the room, the one that covers least of texts, points and error bars, and of those the nearest. points:
    (N, 2). bars: their lower and upper ends, (N, 2) each. room: left, low, right, high."""
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    taken += [(x - 1, low, x + 1, high) for (x, low), (_, high) in zip(*bars) if high >= low]
    corners = []
    for (x, y), text in zip(points, texts):
        w, h = len(text) * 4.5, 8.0
        places = []
        for line, far, left in itertools.product((0, 1, -1, 2, -2, 3, -3, 4, -4), (6, 16), (False, True)):
            a = (x - far - w if left else x + far, y + (line - 0.5) * h)
            a += (a[0] + w, a[1] + h)
            out = sum(max(0, p) for p in (room[0] - a[0], room[1] - a[1], a[2] - room[2], a[3] - room[3]))
            away = far + abs(line) * h
            places.append((sum(_overlap(a, b) for b in taken) + 20 * out + away, a))
        best = min(places, key=lambda place: place[0])[1]
        taken.append(best)
        corners.append(best[:2])
    return corners


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two rectangles (left, low, right, high) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def roc(figure, block: dict) -> None:
    def chance(axes, entries):
        axes.plot([0, 1], [0, 1], **ASIDE)

    _bands(figure, block.get("roc"), ("1 − specificity", "sensitivity"), ("AUROC", "auroc"), chance)


def precision_recall(figure, block: dict) -> None:
    def prevalence(axes, entries):
        values = [number(entry.get("prevalence")) for entry in entries]
        if values := [value for value in values if not math.isnan(value)]:
            axes.axhline(values[0], **ASIDE)

    _bands(figure, block.get("pr"), ("recall", "precision"), ("AP", "ap"), prevalence)


def _bands(figure, curves: dict | None, labels: tuple[str, str], area: tuple[str, str], aside) -> None:
    """A panel per class (at most six) with a line and a light band per strategy. aside(axes, entries): what a
    classifier without skill would do. One class: the areas stand in the legend."""
    curves = {s: [e for e in entries if e["grid"]] for s, entries in (curves or {}).items()}
    strategies = [s for s in in_order(curves) if curves[s]]
    classes = list(dict.fromkeys(entry["class"] for s in strategies for entry in curves[s]))[:6]
    if not classes:
        return
    one, across = len(classes) == 1, 2 if len(classes) == 4 else min(3, len(classes))
    beside = {1: 2, 2: 4, 3: 8}[across]  # columns of the legend
    foot = 0.42 + legend_height(len(strategies), beside)
    width = COLUMN if one else PAGE * (across + 0.15) / 3.15
    size = {"left": 0.45, "bottom": foot, "gap_x": 0.2, "gap_y": 0.3, "top": 0.1 if one else 0.22}
    height = (width - 0.55 - 0.2 * (across - 1)) / across * 0.85
    for i, axes in enumerate(panels(figure, len(classes), across, width, height, **size)):
        entries = {s: e for s in strategies for e in curves[s] if e["class"] == classes[i]}
        aside(axes, entries.values())
        for strategy, entry in entries.items():
            style = look(strategy, 3) | {"markevery": max(1, len(entry["grid"]) // 4)}
            x, mean, low, high = (
                np.array([number(v) for v in entry[n]]) for n in ("grid", "mean", "low", "high")
            )
            axes.plot(x, mean, **style)
            axes.fill_between(x, low, high, color=style["color"], alpha=0.07, linewidth=0)
        unit_square(axes, *labels, at_edge(i, len(classes), across))
        if not one:
            name_panel(axes, cut(classes[i], 26))
    texts = [f"{s}, {area[0]} {number(curves[s][0].get(area[1])):.3f}" for s in strategies] if one else None
    legend(figure, strategies, beside, texts)


def confusion(figure, block: dict) -> None:
    """A matrix per strategy: colour is the share of the true class; counts as text up to ten classes."""
    matrices = {s: np.array(m, float) for s, m in (block.get("confusion") or {}).items() if np.sum(m) > 0}
    if not matrices:
        return
    strategies, count = in_order(matrices), len(block["classes"])
    across = min(len(strategies), 4 if count <= 4 else 3)
    names = [cut(name, 16) for name in block["classes"]] if count <= 20 else []
    label = 0.3 + (text_width(names, 6) if names else 0.15)
    full = 4 if count <= 4 else 3
    side = (PAGE - 0.7 - label - 0.15 * (full - 1)) / full
    width = PAGE - (full - across) * (side + 0.15)
    upright = text_width(names, 6) > side / count
    size = {"left": label, "right": 0.7, "top": 0.22, "bottom": label if upright else 0.4}
    size |= {"gap_x": 0.15, "gap_y": 0.27}
    all_axes = panels(figure, len(strategies), across, width, side, **size)
    for i, (axes, strategy) in enumerate(zip(all_axes, strategies)):
        matrix = matrices[strategy]
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(share, "Blues", vmin=0, vmax=1, aspect="auto")
        if count <= 10:
            digits = len(f"{matrix.max():.0f}")
            points = max(3.5, min(7.0, side / count * 72 / (0.68 * max(digits, 2))))
            cells(axes, image, matrix, 0, points)
        _class_ticks(axes, names, count, at_edge(i, len(strategies), across))
        axes.tick_params("x", rotation=90 if upright else 0)
        name_panel(axes, strategy)
        axes.tick_params(length=0 if names else 2, labelsize=6, pad=2)
        axes.spines[:].set_visible(True)
    bar = _colour_bar(figure, all_axes[across - 1], image, "share of the true class")
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])


def _class_ticks(axes, names: list[str], count: int, edge: tuple[bool, bool]) -> None:
    """The classes' names, or above twenty their numbers, at the edge of the figure alone."""
    step = max(1, math.ceil(count / 5 / 10) * 10)
    ticks = range(count) if names else range(step - 1, count, step)
    labels, what = names or [str(i + 1) for i in ticks], "" if names else " (number)"
    for axis, word, labelled in ((axes.xaxis, "predicted", edge[0]), (axes.yaxis, "true", edge[1])):
        axis.set_ticks(*((ticks, labels) if labelled else ([],)))
        if labelled:
            axis.set_label_text(f"{word} class{what}", fontsize=7)
            axis.labelpad = 1


CALIBRATED = {"multiclass": ("confidence", "accuracy"), "multilabel": ("score", "share with the label")}


def reliability(figure, block: dict) -> None:
    """Per strategy the accuracy of the predictions by their confidence; grey bars: the bin's share of
    them. bins: dicts with their edges low and high."""
    found = {s: c for s, c in (block.get("calibration") or {}).items() if any(b["count"] for b in c["bins"])}
    if not found:
        return
    across = min(4, len(found))
    side = (PAGE - 0.55 - 0.45) / 4
    width = 0.55 + across * (side + 0.15) - 0.15
    size = {"left": 0.45, "top": 0.22, "bottom": 0.4, "gap_x": 0.15, "gap_y": 0.27}
    strategies = in_order(found)
    for i, axes in enumerate(panels(figure, len(found), across, width, side, **size)):
        bins, style = found[strategies[i]]["bins"], look(strategies[i], 3.5)
        counts = np.array([b["count"] for b in bins], float)
        low, high = column(bins, "low"), column(bins, "high")
        axes.bar(
            low, counts / counts.sum(), high - low, align="edge", color=PALE, edgecolor="white", linewidth=0.4
        )
        axes.plot([0, 1], [0, 1], **ASIDE)
        filled = [b for b in bins if b["count"]]
        axes.plot(column(filled, "confidence"), column(filled, "accuracy"), **style)
        ece = number(found[strategies[i]].get("ece"))
        text = f"ECE {ece:.3f}\n" * bool(np.isfinite(ece)) + f"n {counts.sum():,.0f}"
        axes.text(0.04, 0.97, text, fontsize=7, va="top")
        labels = CALIBRATED[block["task"]]
        unit_square(axes, *labels, at_edge(i, len(found), across))
        name_panel(axes, strategies[i])


def layer_rates(figure, block: dict) -> None:
    """Auto-RGN's rate: a row per layer from input to head, a column per epoch, lines between the blocks."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter

    ratios = block.get("ratios") or {"rate": []}
    rate = np.array([[number(value) for value in row] for row in ratios["rate"]], float)
    rate[~(rate > 0)] = math.nan
    if not rate.size or np.isnan(rate).all():
        return
    layers, epochs = ratios["layers"], ratios["epochs"]
    blocks = ratios["blocks"] if len(ratios["blocks"]) == len(layers) else layers
    runs = [(name, len(list(members))) for name, members in itertools.groupby(blocks)]
    starts = np.cumsum([0] + [length for _, length in runs])
    height = min(7.0, max(1.2, (0.125 if len(layers) <= 40 else 0.04) * len(layers)))
    if len(layers) <= 40:
        ticks, names = list(range(len(layers))), layers
    else:
        ticks, names = _spaced(
            (starts[:-1] + starts[1:] - 1) / 2, [name for name, _ in runs], 0.1 * len(layers) / height
        )
    names = [cut(name, 26, tail=True) for name in names]
    (axes,) = panels(figure, 1, 1, COLUMN, height, left=text_width(names, 6.5) + 0.15, right=0.85)
    top = np.nanmax(rate)
    low = max(np.nanmin(rate), top * 1e-5)
    norm = LogNorm(low, top) if low < top else LogNorm(top / 2, top * 2)
    colours = colormaps["viridis"].with_extremes(bad=MISSING)
    image = axes.imshow(rate, colours, norm, aspect="auto", interpolation="nearest")
    for start in starts[1:-1]:
        axes.axhline(start - 0.5, color="white", linewidth=min(0.6, 5 * height / len(runs)))
    axes.set_yticks(ticks, names, fontsize=6)
    axes.tick_params("y", length=0)
    shown = range(0, len(epochs), math.ceil(len(epochs) / 6))
    axes.set_xticks(shown, [str(epochs[i]) for i in shown])
    axes.set_xlabel("epoch")
    bar = _colour_bar(
        figure,
        axes,
        image,
        "learning rate",
        format=FuncFormatter(lambda x, _: f"{x:.0e}".replace("e-0", "e-")),
    )
    bar.minorticks_off()


def _spaced(places: Iterable[float], names: list[str], least: float) -> tuple[list[float], list[str]]:
    """The places and names that stand at least so far from the one kept before, so that they can be read."""
    kept: list[tuple[float, str]] = []
    for place, name in zip(places, names):
        if not kept or place - kept[-1][0] >= least:
            kept.append((place, name))
    return [place for place, _ in kept], [name for _, name in kept]


# --------------------------------------------------------------------------- {file name: (function, caption)}

OVERALL = {
    "heat-map": (
        heat_map,
        (
            "Test score of every strategy on every dataset and backbone, mean over runs. Colour: how far a "
            "strategy is behind the best of its row, which is framed; grey: not ranked, or no finished run."
        ),
    ),
    "critical-difference": (
        critical_difference,
        (
            "Average rank of every strategy over {n} pairs of dataset and backbone, the best at the right. "
            "Strategies joined by a bar differ by less than the Nemenyi test's critical difference, CD = {cd}"
            " at α = {alpha} (Demšar 2006, figure 1a)."
        ),
    ),
}
OF_A_BLOCK = {
    "intervals": (
        intervals,
        (
            "{data}, {arch}: test {metric} ({better} is better), mean over runs with its 95 % bootstrap "
            "interval over {kinds}, from {size}. Dotted: FT."
        ),
    ),
    "learning-curves": (
        learning_curves,
        "{data}, {arch}: validation {metric} and loss by epoch, mean over runs. Bands: the runs' range.",
    ),
    "score-and-cost": (
        score_against_cost,
        (
            "{data}, {arch}: test {metric} ({better} is better) with its 95 % bootstrap interval against the "
            "minutes that a run takes."
        ),
    ),
    "roc": (
        roc,
        (
            "{data}, {arch}: ROC curves on the test split, mean over runs with pointwise 95 % bootstrap bands"
            " over {kinds}. Dotted: chance.{classes}"
        ),
    ),
    "precision-recall": (
        precision_recall,
        (
            "{data}, {arch}: precision-recall curves on the test split, mean over runs with pointwise 95 % "
            "bootstrap bands over {kinds}. Dotted: prevalence.{classes}"
        ),
    ),
    "confusion": (
        confusion,
        "{data}, {arch}: confusion matrices on the test split, summed over runs. Rows: truth, columns: call.",
    ),
    "reliability": (
        reliability,
        (
            "{data}, {arch}: {calibrated} on the test split, all runs pooled. Grey bars: share of the "
            "predictions in each bin; n: how many in all; ECE: mean over runs; dotted: calibrated."
        ),
    ),
    "auto-rgn-rates": (
        layer_rates,
        (
            "{data}, {arch}: learning rate that Auto-RGN gives each layer, from the input (top) to the head, "
            "mean over runs. White lines: blocks; grey: no rate, or none above 0."
        ),
    ),
}
