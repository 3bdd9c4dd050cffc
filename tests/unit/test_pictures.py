"""Pictures of twenty methods: no text overlaps or is cut off, methods look alike in none and the same in all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from adapeff.cli.render.pictures.drawing import draw_panels
from adapeff.cli.render.pictures.inline import INK, inline_svg
from adapeff.cli.render.pictures.labels import spread
from adapeff.cli.render.pictures.sheet import MOST_PANELS, Sheet, Tip
from adapeff.cli.render.pictures.style import log_ticks, looks_of, plain
from adapeff.service.reporting.picture_names import PICTURE_NAMES
from adapeff.service.reporting.pictures import PICTURES
from tests.picture_panels import NAMES, panels_of


def drawn(name: str, **options: Any) -> Sheet:
    return draw_panels(name, PICTURES[name].summary, panels_of(name, **options), NAMES)


def texts(sheet: Sheet) -> Iterator[Text]:
    """Every text that can be seen; ticks out of view are drawn nowhere."""
    hidden = set()
    for axes in sheet.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {id(tick.label1), id(tick.label2)}
    for text in sheet.figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text().strip() and text.get_visible() and id(text) not in hidden:
            yield text


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", PICTURES)
def test_labels_of_twenty_methods_do_not_overlap_and_are_whole(name: str, seed: int) -> None:
    sheet = drawn(name, seed=seed, count=1 if name == "languages" else 2)  # whose panels stand below each other
    sheet.figure.draw_without_rendering()

    boxes = [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in texts(sheet)]
    page = sheet.figure.bbox.padded(0.5)

    assert len(boxes) > 20
    assert not [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]
    assert not [text for text, box in boxes if not (page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1))]


@pytest.mark.parametrize("name", PICTURES)
def test_every_method_is_named(name: str) -> None:
    words = " ".join(text.get_text() for text in texts(drawn(name, count=1)))

    assert [method for method in NAMES if method not in words] == []


def test_methods_have_a_look_of_their_own_that_does_not_depend_on_the_order() -> None:
    names = [f"method{at}" for at in range(66)]

    assert len(set(looks_of(names).values())) == 66
    assert looks_of(reversed(names)) == looks_of(names)


def test_a_method_looks_the_same_in_all_pictures() -> None:
    looks = [drawn(name, count=1, methods=NAMES[3:9]).looks["ia3"] for name in PICTURES]

    assert set(looks) == {looks_of(NAMES)["ia3"]}


def test_a_report_of_many_tables_shows_the_first_and_says_so() -> None:
    sheet = drawn("forest", count=MOST_PANELS + 3, methods=NAMES[:2])

    assert len(sheet.axes) == MOST_PANELS
    assert any(f"the first {MOST_PANELS} of {MOST_PANELS + 3}" in text.get_text() for text in texts(sheet))


@given(st.floats(1e-6, 1e18), st.floats(1.02, 1e6))
def test_logarithmic_axes_have_round_numbers_without_exponents(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)

    assert 2 <= len(ticks) <= 14
    assert all(low <= tick <= low * factor for tick in ticks)
    assert not [text for text in map(plain, ticks) if low >= 1e-3 and "e" in text]


@settings(max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_spread_places_keep_their_order_and_distance(places: list[float]) -> None:
    moved = spread(places, 10, 0, 100)

    assert all(0 <= place <= 100 for place in moved)
    in_order = sorted(zip(places, moved, strict=True))
    assert [place for _, place in in_order] == sorted(moved)
    assert all(abs(one - other) > 9.99 for one, other in combinations(moved, 2))


def test_svg_for_a_page_has_no_styles_and_marks_with_tips_and_links() -> None:
    text = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><defs><style>*{}</style></defs>'
        f'<g id="mark1"><text style="font: bold 9px \'DejaVu Sans\', sans-serif; fill: {INK}">a</text></g>'
        '<g id="other" clip-path="url(#clip)"><use xlink:href="#shape"/></g></svg>'
    )

    svg = inline_svg(text, "forest", "Differences", {"mark1": Tip("lora: <b>", 7)})

    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "Differences" and "style" not in svg and "<b>" not in svg
    (link,) = root.iter("{http://www.w3.org/2000/svg}a")
    assert link.get("href") == "#run-7" and link[0][0].text == "lora: <b>"
    (words,) = root.iter("{http://www.w3.org/2000/svg}text")
    assert words.attrib == {
        "font-size": "9",
        "font-family": "'DejaVu Sans', sans-serif",
        "font-weight": "bold",
        "fill": "currentColor",
    }
    assert 'id="forest-other"' in svg and "url(#forest-clip)" in svg and '"#forest-shape"' in svg


def test_names_for_completion_are_those_of_the_pictures() -> None:
    assert tuple(PICTURES) == PICTURE_NAMES
