"""HTML that is escaped where it is made: tag("p", "a < b") is <p>a &lt; b</p>.

Every text that comes from data goes through tag(), which escapes what is not Html already. Below it: cells,
tables, folds, lists. Standard library only."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable, Sequence

from report.wording import clean, known

LONG_NAME = 18  # characters; a longer name may be cut with an ellipsis and stands whole in its title
BRIEF_HEAD = 10  # characters; a shorter head of a column is not broken into lines
DENSE = 10  # columns; a table with more is set smaller
VOID = ("meta", "img", "br", "col")
NUMERIC = re.compile(r"[−+<≈±\d.,%e\s\[\]()/–-]*( GiB| h)?|undefined")


class Html(str):
    """Markup that is escaped already. Everything else is escaped where it enters a tag."""

    def __add__(self, other: str) -> Html:
        return Html(str(self) + str(escape(other)))


class Cell(Html):
    """A td or th."""


def escape(text: object) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(clean(text), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    return Html(between.join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """<name a="b">children</name>, all escaped. class_ is class; None leaves one out, True is bare."""
    said = ""
    for key, value in attributes.items():
        if value is not None:
            said += f" {key.rstrip('_').replace('_', '-')}"
            said += "" if value is True else f'="{escape(value)}"'
    return Html(f"<{name}{said}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def named(text: object) -> Html:
    """A name out of the data: its direction kept to itself, cut where it is very long."""
    long = len(str(text)) > LONG_NAME
    return tag("bdi", text, class_="cut" if long else None, title=text if long else None)


def plain(x: object) -> str:
    """The text of markup."""
    return re.sub("<[^>]*>", "", x) if isinstance(x, Html) else str(x)


# ---- tables ----


def td(*children: object, tint: float | None = None, **attributes: object) -> Cell:
    """tint: 0 to 1, or None."""
    style = f"--t:{min(max(tint, 0), 1):.2f}" if known(tint) else None
    if style:
        attributes["class_"] = f"tint {attributes.get('class_', '')}".strip()
    return Cell(tag("td", *children, style=style, **attributes))


def words(*children: object, also: str = "") -> Cell:
    """A cell of text, at the left of its column. also: classes besides."""
    return td(*children, class_=f"words {also}".strip())


def as_cell(x: object, first: bool) -> Cell:
    if isinstance(x, Cell):
        return x
    if first:
        return Cell(tag("th", x, scope="row"))
    return td(x) if NUMERIC.fullmatch(plain(x)) else words(x)


def is_words(cell: Cell) -> bool:
    return re.match(r'<t[dh][^>]* class="[^"]*\bwords\b', cell) is not None


def table(
    caption: object,
    columns: Sequence[object],
    rows: list[list],
    *,
    groups: Sequence[tuple[object, int]] = (),
    class_: str = "",
) -> Html:
    """A table in a container of its own that scrolls; its caption stays where it is. groups: (title, columns)
    above the columns. The first item of a row is its head."""
    body = [[as_cell(x, first=i == 0) for i, x in enumerate(row)] for row in rows]
    cells = zip(*body, strict=True) if body else itertools.repeat((), len(columns))
    heads = []
    for i, (title, column) in enumerate(zip(columns, cells, strict=True)):
        looks = ["words"] if i == 0 or all(map(is_words, column)) else []
        looks += ["brief"] if len(plain(title)) < BRIEF_HEAD else []
        heads.append(tag("th", title, scope="col", class_=" ".join(looks) or None))
    top = join(tag("th", title, colspan=n, scope="colgroup") for title, n in groups)
    head = join([tag("tr", top) if groups else None, tag("tr", *heads)])
    lines = (tag("tr", *row) for row in body)
    looks = "dense" if len(columns) > DENSE else None
    head = [tag("caption", tag("span", caption)), tag("thead", head)]
    inner = tag("table", *head, tag("tbody", *lines), class_=looks)
    label = Html(plain(caption)) if isinstance(caption, Html) else caption
    return tag("div", inner, class_=f"scroll {class_}".strip(), tabindex=0, role="region", aria_label=label)


def tinted(
    values: list[float], higher_is_better: bool = True, lows: Sequence[float] = (), highs: Sequence[float] = ()
) -> list[float | None]:
    """0 (worst) to 1 (best) for every value; nan stays without. The scale runs from the lowest to the highest
    end of the intervals where there are any, so that differences within the noise look alike."""
    ends = [x for x in [*values, *lows, *highs] if known(x)]
    low, high = min(ends, default=0), max(ends, default=0)
    shares = [share(value, low, high) if known(value) else None for value in values]
    return [x if x is None or higher_is_better else 1 - x for x in shares]


def share(x: float, low: float, high: float) -> float:
    """Where x lies from low (0) to high (1); 0.5 where they are one."""
    return (x - low) / (high - low) if high > low else 0.5


# ---- text ----


def fold(title: object, *content: object, open_: bool = False) -> Html:
    """A section that folds without a script; nothing where it has no content."""
    if not any(content):
        return Html("")
    return tag("details", tag("summary", tag("h3", title)), *content, open=True if open_ else None)


def listing(items: Iterable[object], kind: str = "ul", class_: str | None = None) -> Html:
    return tag(kind, *(tag("li", item) for item in items), class_=class_)


def note(*content: object) -> Html:
    return tag("p", *content, class_="note")
