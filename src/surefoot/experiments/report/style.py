"""Looks and manners of the page: the colours of both themes, the style sheet `page.css` and the
script `page.js`, all of which go inside it."""

from __future__ import annotations

from importlib.resources import files

from surefoot.experiments.report.chart import COLOURS

ON_LIGHT = (
    "#0072b2",
    "#c04a00",
    "#007a5a",
    "#aa4a86",
    "#8a6a00",
    "#2a7fae",
    "#4a4f57",
    "#7a4a2a",
)
ON_DARK = (
    "#56b4e9",
    "#f29353",
    "#35c9a3",
    "#e39ac8",
    "#e0c84a",
    "#9cc9f0",
    "#c8ccd2",
    "#d3a27c",
)
"""Of lines: after Okabe and Ito's palette, told apart with every kind of colour vision as far as
eight can be, with a contrast of at least 3 on the page and on cards."""

LIGHT = {
    "page": "#ffffff",
    "card": "#f6f7f9",
    "ink": "#1a1d21",
    "soft": "#4d5560",
    "rule": "#d5dae1",
    "grid": "#e6e9ee",
    "link": "#0b5cad",
    "mark": "#fff2c9",
    "good": "#0c6b3f",
    "bad": "#b00020",
    **{f"s{i}": colour for i, colour in enumerate(ON_LIGHT)},
}
DARK = {
    "page": "#12151a",
    "card": "#1b2027",
    "ink": "#e8eaed",
    "soft": "#aab3bf",
    "rule": "#38404b",
    "grid": "#272d36",
    "link": "#7db8f5",
    "mark": "#4a3d10",
    "good": "#5ed39a",
    "bad": "#ff8a80",
    **{f"s{i}": colour for i, colour in enumerate(ON_DARK)},
}
"""Contrast of text is at least 4.5."""


def variables(colours: dict[str, str]) -> str:
    """Colours as custom properties."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def style_sheet() -> str:
    """Colours, light and dark, by the system's wish or the page's own button; then the rules."""
    own = "\n".join(f".c{i} {{ color: var(--s{i}); }}" for i in range(COLOURS))
    dark = f"color-scheme: dark; {variables(DARK)}"
    return f"""
:root {{ color-scheme: light; {variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {dark} }} }}
:root[data-theme=dark] {{ {dark} }}
{inside("page.css")}{own}
"""


def inside(name: str) -> str:
    """The text of a file beside this one."""
    return files("surefoot.experiments.report").joinpath(name).read_text(encoding="utf-8")
