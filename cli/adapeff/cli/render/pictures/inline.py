"""SVG files as elements of a page whose content policy forbids styles in attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from adapeff.cli.render.pictures.sheet import Tip

INK = "#757575"
"""Of text and axes: a contrast of 4.6 to white and to black (WCAG 2.1 asks for 4.5)."""
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_FONT = re.compile(r"(?:(?P<weight>bold|\d+) )?(?P<size>[\d.]+)px (?P<family>.+)")
_DEFAULTS = {"stroke-linejoin": "round", "stroke-linecap": "butt"}


def inline_svg(text: str, name: str, label: str, tips: Mapping[str, Tip]) -> str:
    """Matplotlib's SVG as one element: attributes instead of styles, the page's text colour, tips and links.

    Args:
        name: of the picture; all ids begin with it.
        label: what a screen reader says.
        tips: id of a mark -> what it stands for.
    """
    for prefix, uri in (("", _SVG), ("xlink", _XLINK)):
        ElementTree.register_namespace(prefix, uri)
    root = ElementTree.fromstring(text)
    _remove(root, ("metadata", "style"))
    _explain(root, tips)
    for element in root.iter():
        _restyle(element)
        _rename(element, name)
    root.attrib.update({"role": "img", "aria-label": label, **_DEFAULTS})
    return ElementTree.tostring(root, encoding="unicode")


def _remove(root: ElementTree.Element, tags: tuple[str, ...]) -> None:
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in {f"{{{_SVG}}}{tag}" for tag in tags}]:
            parent.remove(child)


def _explain(root: ElementTree.Element, tips: Mapping[str, Tip]) -> None:
    """Give each mark its tip, and the link to its run."""
    for parent in list(root.iter()):
        for at, child in enumerate(list(parent)):
            tip = tips.get(child.get("id", ""))
            if tip is None:
                continue
            title = ElementTree.Element(f"{{{_SVG}}}title")
            title.text = tip.text
            child.insert(0, title)
            if tip.run_id:
                link = ElementTree.Element(f"{{{_SVG}}}a", {"href": f"#run-{tip.run_id}"})
                parent[at] = link
                link.append(child)


def _restyle(element: ElementTree.Element) -> None:
    for key, value in _declarations(element.attrib.pop("style", "")):
        element.set(key, "currentColor" if value == INK else value)


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        font = _FONT.fullmatch(value) if key == "font" else None
        if font is None:
            yield key, value
        else:
            yield "font-size", font["size"]
            yield "font-family", font["family"]
            if font["weight"]:
                yield "font-weight", font["weight"]


def _rename(element: ElementTree.Element, name: str) -> None:
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.get('id')}")
    for key, value in element.attrib.items():
        if key == f"{{{_XLINK}}}href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif value.startswith("url(#"):
            element.set(key, f"url(#{name}-{value[5:]}")
