"""The dark variant of a figure: its SVG file with paper and ink exchanged, the colours of the data as they are."""

from __future__ import annotations

import re

PAGE, INK = "#15181c", "#e6e8ea"  # as in page.css
# Every colour of our figures that is paper or ink. The palette's are over 3:1 on the dark page too, and keep.
SHADES = {
    "#ffffff": PAGE,
    "#000000": INK,
    "#e6e6e6": "#363c43",  # grid lines
    "#b8b8b8": "#5f6873",  # lines that join pairs
    "#f4f4f4": "#20252b",  # panels without curves, and their words
    "#6b6b6b": "#a3acb5",
    "#e5e5e5": "#20252b",  # Optuna's panels, words and frames
    "#555555": "#a3acb5",
    "#cccccc": "#4a525b",
}
_COLOR = re.compile(rf"\b(fill|stroke|stop-color): ({'|'.join(SHADES)})\b")


def dark_svg(svg: str) -> str:
    """The same drawing for a dark page. What has no colour of its own is black in SVG: the root's fill is inherited."""
    root = svg.replace("<svg ", f'<svg fill="{INK}" ', 1)
    return _COLOR.sub(lambda found: f"{found[1]}: {SHADES[found[2]]}", root)
