"""markup.py: what comes from data is escaped where it enters a tag.
python -m pytest tests/report/test_markup.py"""

import math

import pytest

from report import markup
from report.markup import Html, as_cell, fold, join, named, table, tag, td, tinted, words


def test_text_is_escaped_and_markup_is_not_escaped_twice():
    assert tag("p", "a < b & \"c\" 'd'") == "<p>a &lt; b &amp; &quot;c&quot; &#x27;d&#x27;</p>"
    assert tag("p", tag("b", "<")) == "<p><b>&lt;</b></p>"
    assert join(["<", Html("<br>"), None, 3], ", ") == "&lt;, <br>, 3"
    assert Html("<b>") + "<" == "<b>&lt;" and isinstance(Html("") + "<", Html)


def test_attributes_are_escaped_left_out_or_bare():
    assert tag("a", "x", href='"><script>', class_=None) == '<a href="&quot;&gt;&lt;script&gt;">x</a>'
    assert tag("details", open=True, aria_label="A") == '<details open aria-label="A"></details>'
    assert tag("meta", http_equiv="x") == '<meta http-equiv="x">'


def test_long_names_are_cut_on_the_screen_and_whole_in_their_title():
    assert named("x" * 18) == f"<bdi>{'x' * 18}</bdi>"
    assert named("x" * 19) == f'<bdi class="cut" title="{"x" * 19}">{"x" * 19}</bdi>'


@pytest.mark.parametrize("text", "0.871 −0.031 <0.001 undefined 1,234 20.5&nbsp;h 1.06&nbsp;GiB".split())
def test_numbers_stand_at_the_right_and_words_at_the_left(text):
    assert as_cell(text.replace("&nbsp;", " "), first=False) == td(text.replace("&nbsp;", " "))
    assert as_cell(f"about {text}", first=False) == words(f"about {text}")
    assert as_cell(text, first=True).startswith('<th scope="row">')


def test_a_table_has_a_caption_scopes_and_words_over_words():
    made = table("A & b", ["Name", "Value", "A long title"], [["x", "0.5", "word"]], groups=[("G", 3)])
    assert '<th colspan="3" scope="colgroup">G</th>' in made and "<caption><span>A &amp; b</span></caption>" in made
    assert '<th scope="col" class="words brief">Name</th><th scope="col" class="brief">Value</th>' in made
    assert '<th scope="col" class="words">A long title</th>' in made
    assert '<th scope="row">x</th><td>0.5</td><td class="words">word</td>' in made
    assert "<tbody></tbody>" in table("none", ["Name", "Value"], [])


def test_a_table_of_many_columns_is_set_smaller():
    few, many = (table("x", ["c"] * n, [["0.5"] * n]) for n in (10, 11))
    assert "<table>" in few and '<table class="dense">' in many


def test_a_fold_without_content_is_nothing():
    assert fold("A title", Html(""), Html("")) == ""
    assert fold("A title", tag("p", "x"), open_=True).startswith("<details open><summary><h3>A title</h3>")


def test_tints_span_the_intervals():
    lows, highs = [0.7, 0.8, math.nan], [0.9, 1.0, math.nan]
    assert tinted([0.8, 0.9, math.nan], True, lows, highs) == pytest.approx([1 / 3, 2 / 3, None])
    assert tinted([0.1, 0.3], False) == pytest.approx([1, 0])
    assert tinted([0.5, 0.5]) == [0.5, 0.5]
    assert td("x", tint=1.2) == '<td style="--t:1.00" class="tint">x</td>' and td("x") == "<td>x</td>"
    assert markup.share(3, 1, 5) == 0.5
