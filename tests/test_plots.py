"""Names of classes, which are any text, stand in every plot and on the page as they are, whatever characters they have.

Run: uv run pytest tests/test_plots.py
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure

from pipeline.curves import draw_curves
from stages.core.results import png_of
from stages.report import page, plots
from stages.report.sections import Section
from stages.report.summary import Number, Summary
from stages.report.tables import Table
from stages.studies.tsne import literal, scatter

SHOWN = {  # name -> text of its legend entry
    "cat": "cat",
    "$x": "$x",
    "$x$": "$x$",
    "x^{": "x^{",
    "$\\frac{a}$": "$\\frac{a}$",
    "a\\b": "a\\b",
    "a\\$b": "a\\$b",
    "_hidden": " _hidden",
    "<b>": "<b>",
    "&amp;": "&amp;",
    "%s {0}": "%s {0}",
    "Ägypten": "Ägypten",
    "кошка": "кошка",
    "猫": "\\u732b",
    "🫠": "\\U0001fae0",
    "two\nlines": "two\\nlines",
    "tab\there": "tab\\there",
    "bad byte \udcff": "bad byte \\udcff",
    "n" * 300 + "1": "n" * 24 + "…" + "n" * 14 + "1",
}


def legend_of(figure: Figure) -> list[str]:
    """The texts of its legend as they are drawn, none of them as a formula."""
    png_of(figure)  # a missing glyph would be a warning, and warnings are errors
    [legend] = figure.legends or [axis.get_legend() for axis in figure.axes]
    texts = [text.get_text() for text in legend.get_texts()]
    assert not any(map(is_math_text, texts))
    return [text.replace(r"\$", "$") for text in texts]  # as matplotlib does where it finds no formula


@pytest.mark.parametrize("name", SHOWN, ids=ascii)
def test_a_name_is_drawn_character_by_character(name):
    figure = Figure()
    axis = figure.subplots()
    axis.plot([0, 1], label=literal(name))
    axis.legend()
    assert legend_of(figure) == [SHOWN[name]]


def test_every_class_is_in_the_legend_of_the_tsne_plot():
    labels = np.arange(len(SHOWN))
    plane = np.random.default_rng(0).normal(size=(len(SHOWN), 2))
    figure, axis, _ = scatter(plane, SimpleNamespace(classes=labels, labels=labels), list(SHOWN))
    axis.legend()
    assert legend_of(figure) == [*SHOWN.values()]


def test_titles_of_curves_are_no_formulas():
    curve = {"train": ([0.0, 1.0], [1.0, 2.0])}
    assert plots.curves({"$x^{$": curve, "$x$": curve}).startswith("data:image/png")
    assert draw_curves({"$x^{$": [[0.0, 1.0], [1.0, 2.0]]}).startswith(b"\x89PNG")


def test_names_are_text_on_the_page(monkeypatch):
    names = ["<b>bold</b>", "&amp;", "{{ 1 }}"]
    shown = Section("codebooks", names[0], {}, [Table(["name"], [[name] for name in names])])
    reports = SimpleNamespace(
        left_out=lambda: names, stale=lambda: dict.fromkeys(names, ""), params={}, images="", metrics=lambda stage: {}
    )
    first = Summary(None, [(names[0], names[0])], [], [Number(*[names[0]] * 3)], "", "")
    monkeypatch.setattr(page, "summary", lambda reports, evaluations: first)
    made: Any = SimpleNamespace(said=[(names[0], names[0])])
    html = page.render([page.Group(names[0], [shown])], names, reports, {}, [], made)
    assert "<b>" not in html and "&lt;b&gt;bold&lt;/b&gt;" in html and "&amp;amp;" in html and "{{ 1 }}" in html
