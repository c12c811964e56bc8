"""How a figure looks: sizes, the strategies' styles, panels, legends, axes, and its file's bytes.

    rendered(figures.roc, experiment, styles_of(analysis.strategies))  # {"png": bytes, "pdf": bytes}

Sizes are inches of a paper: a column (3.5) or the page (7). No pyplot, no global state: the rcParams are
matplotlib's own defaults plus RC while drawing, and the user's again afterwards, so that the same analysis
gives the same bytes. matplotlib is imported where it is used."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from report.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLUMN, PAGE = 3.5, 7.0  # inches
DPI = 130
GREY, PALE = "#777777", "#e8e8e8"
MISSING = "#dddddd"  # a cell without a value
FRAME = "#D55E00"  # of the best
ASIDE = {"color": GREY, "linewidth": 0.7, "linestyle": ":", "zorder": 1}  # chance, prevalence, FT: no result
BASELINE = "FT"


@dataclass(frozen=True)
class Style:
    """A strategy's colour, marker and dash: the same in every figure of a report."""

    color: str
    marker: str
    dash: str | tuple[float, tuple[float, ...]]
    zorder: int = 2

    def line(self, size: float = 4) -> dict[str, object]:
        """As plot() takes it. size: of the marker, in points."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dash,
            "markersize": size * (1.5 if self.marker == "*" else 1),
            "linewidth": 1.1,
            "zorder": self.zorder,
        }


# Okabe and Ito's colours, the baseline black; wine (Tol) for their yellow, which white paper swallows. The
# nearest two as a deuteranope or a protanope sees them (Vienot 1999) are 19 apart in CIE Lab; those from
# #332288 on are 24 or more from all others. Marker and dash help.
LONG, MIXED, DOTS = (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1))
BLACK = Style("#000000", "o", "-", zorder=3)
STYLES = (
    Style("#E69F00", "s", LONG),
    Style("#56B4E9", "^", MIXED),
    Style("#0072B2", "v", DOTS),
    Style("#D55E00", "D", "-"),
    Style("#882255", "P", LONG),
    Style("#CC79A7", "X", MIXED),
    Style("#009E73", "*", "-"),
    Style("#332288", "<", LONG),
    Style("#4444FF", ">", MIXED),
    Style("#773311", "p", DOTS),
    Style("#6677FF", "h", "-"),
    Style("#99BB66", "d", LONG),
)
Styles = dict[str, Style]
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


def rendered(draw: Callable[..., None], *of: object) -> dict[str, bytes]:
    """{"png", "pdf"} of what draw(figure, *of) draws; {} where it finds nothing to draw. Without dates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    figure = Figure(dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    draw(figure, *of)
    if not figure.axes:
        return {}
    png, pdf = io.BytesIO(), io.BytesIO()
    canvas.print_png(png, metadata={"Software": None})
    figure.set_dpi(72)  # the page is measured in points
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


@contextlib.contextmanager
def our_settings() -> Iterator[None]:
    """Our rcParams over matplotlib's defaults, and no warning about letters that the font lacks."""
    import matplotlib

    keep = ("backend", "backend_fallback", "interactive", "toolbar")
    ours = {name: x for name, x in matplotlib.rcParamsDefault.items() if name not in keep} | RC
    with warnings.catch_warnings(), matplotlib.rc_context(ours):
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


# ---- words and styles ----


def cut(text: str, length: int = 16, tail: bool = False) -> str:
    """The text as it can stand in a figure: on one line, without what no font has, not longer. tail: keep its
    end."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(text) <= length:
        return text
    return "…" + text[1 - length :].lstrip() if tail else text[: length - 1].rstrip() + "…"


def styles_of(strategies: list[str]) -> Styles:
    """The baseline black, the others in their order; from the thirteenth on the styles come again."""
    others = (strategy for strategy in strategies if strategy != BASELINE)
    return {BASELINE: BLACK} | dict(zip(others, itertools.cycle(STYLES), strict=False))


# ---- panels and legends ----


def panels(figure: Figure, count: int, columns: int, width: float, height: float, **inches: float) -> list[Axes]:
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


def legend(
    figure: Figure, styles: Styles, strategies: list[str], columns: int, labels: list[str] | None = None
) -> None:
    """The strategies' lines along the foot of the figure."""
    from matplotlib.lines import Line2D

    figure.legend(
        [Line2D([], [], **styles[strategy].line()) for strategy in strategies],
        labels or strategies,
        loc="lower center",
        ncols=min(columns, len(strategies)),
        borderaxespad=0.2,
        borderpad=0.1,
        labelspacing=0.3,
        columnspacing=1.2,
    )


def name_panel(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=8, pad=3)


def log_axis(axis: Axis, values: np.ndarray) -> None:
    """A logarithmic axis with plain numbers: 0.5, 1, 2, 5, 10."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(values.max() / values.min())
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def unit_square(axes: Axes, across: str, up: str, edge: tuple[bool, bool] = (True, True)) -> None:
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


# ---- upon a panel ----


def write_values(axes: Axes, image: AxesImage, values: np.ndarray, digits: int, size: float) -> None:
    """The values as text in their places, white where the image is dark; nan: none."""
    dark = image.cmap(image.norm(image.get_array()))[..., :3] @ (0.299, 0.587, 0.114) < 0.52
    for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
        color, text = "white" if dark[i, j] else "black", number(values[i, j], digits)
        axes.text(j, i, text, ha="center", va="center", fontsize=size, color=color)


def box(i: int, j: int) -> tuple[list[float], list[float]]:
    """The outline of row i, column j, inside its edge."""
    a, b = 0.47, 0.44
    return [j - a, j + a, j + a, j - a, j - a], [i - b, i - b, i + b, i + b, i - b]


def colour_bar(figure: Figure, axes: Axes, image: AxesImage, label: str, **more: object) -> Colorbar:
    """A bar at the right of the axes, in the margin of 0.85 inches that they leave."""
    left, low, width, height = axes.get_position().bounds
    inch = 1 / figure.get_figwidth()
    place = figure.add_axes((left + width + 0.1 * inch, low, 0.1 * inch, height))
    bar = figure.colorbar(image, cax=place, **more)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_linewidth(0.4)
    return bar


def spaced(names: dict[float, str], least: float) -> dict[float, str]:
    """Of names by place those that stand at least so far from the one kept before, so that they can be
    read."""
    kept: dict[float, str] = {}
    for place, name in names.items():
        if not kept or place - list(kept)[-1] >= least:
            kept[place] = name
    return kept
