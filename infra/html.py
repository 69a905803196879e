"""HTML built from elements, where text is escaped unless it was made here.

A caption or a file name may hold anything; with one constructor that escapes, no page has to remember to.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = {"meta", "img"}  # not those of SVG: inside HTML, `<line>` without an end swallows what follows


class Safe(str):
    """Markup that needs no escaping any more."""


Child = str | Iterable["Child"]


def text(child: Child) -> str:
    """`child` as markup: Safe as it is, other text escaped, a list joined."""
    if isinstance(child, Safe):
        return str(child)
    if isinstance(child, str):
        return html.escape(child, quote=False)
    return "".join(text(part) for part in child)


def el(tag: str, /, *children: Child, **attributes: str | int | float | bool) -> Safe:
    """`<tag …>children</tag>`. A trailing underscore goes, others become dashes: `class_="x"`, `stroke_width=2`.

    An attribute that is True stands without a value, one that is False is left out.
    """
    parts = [tag]
    for key, value in attributes.items():
        if value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Safe(opening if tag in VOID and not children else f"{opening}{text(children)}</{tag}>")
