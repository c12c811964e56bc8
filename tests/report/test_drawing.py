"""drawing.py: styles that can be told apart, names as they are, files without dates.
python -m pytest tests/report/test_drawing.py      needs matplotlib"""

import itertools
import re

import numpy as np
import pytest
from factory import NAMES

from report import drawing, page

RGB_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750]])
RGB_TO_XYZ = np.vstack([RGB_TO_XYZ, [0.0193339, 0.1191920, 0.9503041]])
WHITE = np.array([0.95047, 1, 1.08883])
# Vienot 1999: cones of linear RGB, and what a protanope and a deuteranope make of them.
RGB_TO_LMS = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714]])
RGB_TO_LMS = np.vstack([RGB_TO_LMS, [0.0299566, 0.184309, 1.46709]])
SEEN = {
    "all": np.eye(3),
    "protanope": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
    "deuteranope": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
}


def lab(colour, seen):
    """CIE Lab of "#rrggbb" as these eyes see it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.linalg.inv(RGB_TO_LMS) @ SEEN[seen] @ RGB_TO_LMS @ linear, 0, 1)
    xyz = RGB_TO_XYZ @ linear / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen", SEEN)
def test_the_colours_of_the_styles_can_be_told_apart(seen):
    colours = [style.color for style in (drawing.BLACK, *drawing.STYLES)]
    apart = [np.linalg.norm(lab(a, seen) - lab(b, seen)) for a, b in itertools.combinations(colours, 2)]
    assert min(apart) > 18 and len(colours) > 12
    assert all(lab(colour, "all")[0] < 75 for colour in colours)  # white paper swallows none


def on_a_dark_page(colour):
    """ "#rrggbb" after page.css's filter, as Filter Effects 1 (sections 13.5 and 13.7) has invert and hue-rotate."""
    share, degrees = re.search(r"filter: invert\(([.\d]+)\) hue-rotate\((\d+)deg\)", page.CSS).groups()
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    inverted = float(share) * (1 - rgb) + (1 - float(share)) * rgb
    grey = np.tile([0.213, 0.715, 0.072], (3, 1))
    sine = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    turn = grey + np.cos(np.radians(int(degrees))) * (np.eye(3) - grey) + np.sin(np.radians(int(degrees))) * sine
    return "#" + "".join(f"{round(255 * x):02x}" for x in np.clip(turn @ inverted, 0, 1))


def luminance(colour):
    """WCAG 2's relative luminance."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


def test_paper_and_letters_of_a_figure_turn_to_the_dark_pages():
    assert on_a_dark_page("#ffffff") == "#141414" and on_a_dark_page("#000000") == "#ebebeb"
    assert on_a_dark_page("#777777") == "#868686"


@pytest.mark.parametrize("seen", SEEN)
def test_the_colours_can_be_told_apart_on_a_dark_page_too(seen):
    """Less far than on paper; markers and dashes do the rest. The eight strategies of the paper, then all."""
    colours = [on_a_dark_page(style.color) for style in (drawing.BLACK, *drawing.STYLES)]
    apart = {
        tuple(sorted((i, j))): np.linalg.norm(lab(colours[i], seen) - lab(colours[j], seen))
        for i, j in itertools.combinations(range(len(colours)), 2)
    }
    assert min(x for (_, j), x in apart.items() if j < 8) > 12 and min(apart.values()) > 8
    contrast = [(luminance(colour) + 0.05) / (luminance(on_a_dark_page("#ffffff")) + 0.05) for colour in colours]
    assert min(contrast[:8]) > 3 and min(contrast) > 2.5


def test_styles_go_by_the_order_of_the_strategies_and_ft_is_black():
    styles = drawing.styles_of(NAMES)
    assert styles["FT"].color == "#000000"
    assert [styles[name] for name in NAMES if name != "FT"] == list(drawing.STYLES[: len(NAMES) - 1])
    looks = [(style.color, style.marker) for style in drawing.STYLES]
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == len(looks)
    assert drawing.styles_of(["new", "FT"])["new"] == drawing.STYLES[0]


def test_more_strategies_than_styles_have_one_each():
    names = [f"new{i}" for i in range(30)]
    styles = drawing.styles_of(names)
    assert all(styles[name] != drawing.BLACK for name in names)
    assert styles["new12"] == styles["new0"] and styles["new29"] == styles["new5"]


def test_names_are_cut_to_what_a_figure_can_hold():
    assert drawing.cut("line\nbreak\udce9") == "line break"
    assert drawing.cut("x" * 300, 26) == "x" * 25 + "…"
    assert drawing.cut("first.second.third", 8, tail=True) == "…d.third"


def test_labels_that_stand_too_close_are_left_out():
    assert drawing.spaced({0: "a", 0.5: "b", 1.2: "c", 2.0: "d"}, 1) == {0: "a", 1.2: "c"}


def test_panels_fill_the_width_and_keep_their_margins():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    margins = {"left": 0.5, "right": 0.1, "top": 0.1, "bottom": 0.4, "gap_x": 0.3, "gap_y": 0.2}
    axes = drawing.panels(figure, 5, 3, 7.0, 1.5, **margins)
    inches = [np.array(one.get_position().bounds) * [7, 3.7, 7, 3.7] for one in axes]
    assert figure.get_size_inches().tolist() == pytest.approx([7, 3.7])
    np.testing.assert_allclose(inches[0], [0.5, 2.1, 5.8 / 3, 1.5])
    np.testing.assert_allclose(inches[4], [0.5 + 5.8 / 3 + 0.3, 0.4, 5.8 / 3, 1.5])
    edges = [drawing.at_edge(i, 5, 3) for i in range(5)]
    assert edges == [(False, True), (False, False), (True, False), (True, True), (True, False)]


def test_the_users_settings_are_his_again_afterwards():
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"font.size": 20}):
        with drawing.our_settings():
            assert matplotlib.rcParams["font.size"] == 8
        assert matplotlib.rcParams["font.size"] == 20
