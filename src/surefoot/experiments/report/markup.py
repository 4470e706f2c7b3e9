"""HTML and SVG as nested calls: every text is escaped, and every tag is closed."""

from __future__ import annotations

from html import escape

VOID = ("meta", "br", "wbr")
"""Tags of HTML that hold nothing and are not closed."""


class Markup(str):
    """Text that is markup already."""


def element(
    tag: str, /, *inside: str | None, **attributes: str | int | float | bool | None
) -> Markup:
    """An element. Text inside is escaped unless it is `Markup`; None is left out.

    `class_` is `class`, `aria_label` is `aria-label`. Attributes that are None or false are left
    out, true ones stand without a value.

    >>> element("p", "a < b", class_="x", hidden=True)
    '<p class="x" hidden>a &lt; b</p>'
    """
    said = [tag]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        said.append(name if value is True else f'{name}="{escape(str(value))}"')
    start = f"<{' '.join(said)}>"
    if tag in VOID:
        return Markup(start)
    return Markup(f"{start}{joined(*inside)}</{tag}>")


def joined(*parts: str | None) -> Markup:
    """Parts one after another, text among them escaped."""
    return Markup(
        "".join(p if isinstance(p, Markup) else escape(p) for p in parts if p is not None)
    )


def breakable(name: str) -> Markup:
    """A dotted name that may be broken after its dots and underscores."""
    return Markup(escape(name).replace(".", ".<wbr>").replace("_", "_<wbr>"))


def identifier(*words: str) -> str:
    """Words as one name that may stand in an id, an anchor or a file name."""
    text = "-".join(words)
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text).strip("-").lower()
