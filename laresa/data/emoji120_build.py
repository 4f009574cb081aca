"""Build emoji120.npz from the npm packages that hold the vendors' art: the same bytes of pixels, on any machine.

Needs the `npm` client (any registry it is set up for) and resvg-py (the extra "build"). Also builds other sizes and
other class lists: a CSV with the columns codepoint, fine, coarse, category and optionally sources ("noto|twemoji").
"""

from __future__ import annotations

import csv
import io
import logging
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from laresa.data.drawings import fetch, member, render, svg, write
from laresa.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IconSet:
    """One vendor's art in one rendering: an npm package @iconify-json/<name>.

    family: whose hand drew it. integrity: sha512 of the tarball, as npm's registry states it.
    """

    name: str
    version: str
    licence: str
    family: str
    integrity: str


SETS = (
    IconSet(
        "noto",
        "1.2.9",
        "Apache-2.0",
        "noto",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    IconSet(
        "noto-v1",
        "1.2.5",
        "Apache-2.0",
        "noto-v1",
        "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    ),
    IconSet(
        "fxemoji",
        "1.2.2",
        "Apache-2.0",
        "fxemoji",
        "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    ),
    IconSet(
        "fluent-emoji",
        "1.2.7",
        "MIT",
        "fluent",
        "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    ),
    IconSet(
        "fluent-emoji-flat",
        "1.2.6",
        "MIT",
        "fluent",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    IconSet(
        "fluent-emoji-high-contrast",
        "1.2.6",
        "MIT",
        "fluent",
        "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    ),
    IconSet(
        "twemoji",
        "1.2.5",
        "CC-BY-4.0",
        "twemoji",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    IconSet(
        "emojione",
        "1.2.3",
        "CC-BY-4.0",
        "emojione",
        "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    ),
)

# The picture behind the name is another thing: fxemoji's keyboard is a musical one.
EXCLUDED = {("fxemoji", "2328")}


@dataclass(frozen=True)
class _Icons:
    """icons: name -> what iconify stores; chars: code point -> name (empty where a set has no such table)."""

    icons: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Mapping[str, Any]]
    chars: Mapping[str, str]
    width: float
    height: float


def build(
    out: str | Path, *, size: int = 32, classes_csv: str | Path | None = None, sets: Sequence[IconSet] = SETS
) -> Path:
    """Write the data set to `out` (an .npz) and return its path.

    size: pixels of the square images. classes_csv: default the class list that ships.
    Raises DataError if npm or resvg-py is missing, the registry doesn't answer, a tarball isn't the pinned one, or a
    set that the class list names for a class has no such icon.
    """
    rows = _classes(classes_csv)
    with tempfile.TemporaryDirectory(prefix="laresa-emoji-") as folder:
        icons = {s.name: _fetch(s, Path(folder)) for s in sets}
    names = {row["codepoint"]: _candidate_names(row, icons.values()) for row in rows}
    columns: dict[str, list[Any]] = {key: [] for key in ("images", "labels", "families", "sets", "licences", "codes")}
    for icon_set in sets:
        for label, row in enumerate(rows):
            drawing = _drawing(icon_set, icons[icon_set.name], row, names[row["codepoint"]])
            if drawing is not None:
                entry = (
                    render(drawing, size),
                    label,
                    icon_set.family,
                    icon_set.name,
                    icon_set.licence,
                    row["codepoint"],
                )
                for column, value in zip(columns.values(), entry, strict=True):
                    column.append(value)
    arrays = {key: np.array(values) for key, values in columns.items()}
    for key, column_name in (("classes", "fine"), ("coarse", "coarse"), ("category", "category")):
        arrays[key] = np.array([row[column_name] for row in rows])
    return write(Path(out), arrays)


def _classes(classes_csv: str | Path | None) -> list[dict[str, str]]:
    path = resources.files("laresa.data") / "emoji120_classes.csv" if classes_csv is None else Path(classes_csv)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    missing = {"codepoint", "fine", "coarse", "category"} - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"class list {path}: no rows, or no column {', '.join(sorted(missing))}")
    return rows


# ---------------------------------------------------------------------- the packages
def _fetch(icon_set: IconSet, folder: Path) -> _Icons:
    package = f"@iconify-json/{icon_set.name}@{icon_set.version}"
    with fetch(package, icon_set.integrity, folder / icon_set.name) as archive:
        fields, chars = (member(archive, f"package/{name}.json") for name in ("icons", "chars"))
    return _Icons(fields["icons"], fields.get("aliases", {}), chars, fields.get("width", 16), fields.get("height", 16))


# ---------------------------------------------------------------------- from a code point to a picture
def _candidate_names(row: Mapping[str, str], sets: Iterable[_Icons]) -> list[str]:
    """Names an icon may bear: what the sets with a table call the code point, our class name, Unicode's name."""
    code = row["codepoint"]
    known = [icons.chars[code] for icons in sets if code in icons.chars]
    unicode_name = unicodedata.name(chr(int(code.split("-")[0], 16)), "")
    slugs = [re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in (row["fine"], unicode_name)]
    hyphened = [*known, *slugs]
    return list(dict.fromkeys(hyphened + [name.replace("-", "") for name in hyphened]))  # fxemoji writes alarmclock


def _drawing(icon_set: IconSet, icons: _Icons, row: Mapping[str, str], names: Iterable[str]) -> str | None:
    """The icon as SVG; None where the set doesn't draw the class."""
    listed = row.get("sources")
    if (icon_set.name, row["codepoint"]) in EXCLUDED or (listed and icon_set.name not in listed.split("|")):
        return None
    for name in [icons.chars[row["codepoint"]]] if row["codepoint"] in icons.chars else names:
        alias = icons.aliases.get(name)
        if alias is not None and set(alias) == {"parent"}:  # an alias that also turns the picture is another picture
            name = alias["parent"]
        if name in icons.icons:
            return svg(icons.icons[name], icons.width, icons.height)
    if listed:
        raise DataError(f"{icon_set.name} {icon_set.version} has no icon for {row['fine']!r} (U+{row['codepoint']})")
    log.info("%s doesn't draw %s", icon_set.name, row["fine"])
    return None
