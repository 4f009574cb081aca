"""Build emoji120.npz from the npm packages that hold the vendors' art: the same bytes of pixels, on any machine.

Needs the `npm` client (any registry it is set up for) and resvg-py (the extra "build"). Also builds other sizes and
other class lists: a CSV with the columns codepoint, fine, coarse, category and optionally sources ("noto|twemoji").
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import logging
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laresa.errors import DataError

log = logging.getLogger(__name__)

RENDER_SIZE = 256  # pixels: drawn large, then made small with a good filter


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
            svg = _svg(icon_set, icons[icon_set.name], row, names[row["codepoint"]])
            if svg is not None:
                entry = (render(svg, size), label, icon_set.family, icon_set.name, icon_set.licence, row["codepoint"])
                for column, value in zip(columns.values(), entry, strict=True):
                    column.append(value)
    arrays = {key: np.array(values) for key, values in columns.items()}
    for key, column_name in (("classes", "fine"), ("coarse", "coarse"), ("category", "category")):
        arrays[key] = np.array([row[column_name] for row in rows])
    return _write(Path(out), arrays)


def _classes(classes_csv: str | Path | None) -> list[dict[str, str]]:
    path = resources.files("laresa.data") / "emoji120_classes.csv" if classes_csv is None else Path(classes_csv)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    missing = {"codepoint", "fine", "coarse", "category"} - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"class list {path}: no rows, or no column {', '.join(sorted(missing))}")
    return rows


# ---------------------------------------------------------------------- the packages
def _fetch(icon_set: IconSet, folder: Path) -> _Icons:
    tarball = _download(f"@iconify-json/{icon_set.name}@{icon_set.version}", folder / icon_set.name)
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if f"sha512-{digest}" != icon_set.integrity:
        raise DataError(f"{icon_set.name} {icon_set.version}: the tarball is sha512-{digest}, not {icon_set.integrity}")
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        fields, chars = (_member(archive, f"package/{name}.json") for name in ("icons", "chars"))
    return _Icons(fields["icons"], fields.get("aliases", {}), chars, fields.get("width", 16), fields.get("height", 16))


def _download(package: str, folder: Path) -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("building emoji120 needs the npm client (it comes with Node.js) to fetch the icon packages")
    folder.mkdir()
    done = subprocess.run(
        [npm, "pack", package, "--silent", "--ignore-scripts"], cwd=folder, capture_output=True, text=True, check=False
    )
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        raise DataError(f"npm pack {package} failed (exit {done.returncode}): {done.stderr.strip()[-400:]}")
    return tarballs[0].read_bytes()


def _member(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    file = archive.extractfile(name)
    if file is None:
        raise DataError(f"{name} in the package is not a file")
    return json.load(file)


# ---------------------------------------------------------------------- from a code point to a picture
def _candidate_names(row: Mapping[str, str], sets: Iterable[_Icons]) -> list[str]:
    """Names an icon may bear: what the sets with a table call the code point, our class name, Unicode's name."""
    code = row["codepoint"]
    known = [icons.chars[code] for icons in sets if code in icons.chars]
    unicode_name = unicodedata.name(chr(int(code.split("-")[0], 16)), "")
    slugs = [re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in (row["fine"], unicode_name)]
    hyphened = [*known, *slugs]
    return list(dict.fromkeys(hyphened + [name.replace("-", "") for name in hyphened]))  # fxemoji writes alarmclock


def _svg(icon_set: IconSet, icons: _Icons, row: Mapping[str, str], names: Iterable[str]) -> str | None:
    """The icon as SVG; None where the set doesn't draw the class."""
    listed = row.get("sources")
    if (icon_set.name, row["codepoint"]) in EXCLUDED or (listed and icon_set.name not in listed.split("|")):
        return None
    for name in [icons.chars[row["codepoint"]]] if row["codepoint"] in icons.chars else names:
        alias = icons.aliases.get(name)
        if alias is not None and set(alias) == {"parent"}:  # an alias that also turns the picture is another picture
            name = alias["parent"]
        if name in icons.icons:
            icon = icons.icons[name]
            box = (
                icon.get("left", 0),
                icon.get("top", 0),
                icon.get("width", icons.width),
                icon.get("height", icons.height),
            )
            return (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{" ".join(map(str, box))}" width="{box[2]}" height="{box[3]}">{icon["body"]}</svg>'
            )
    if listed:
        raise DataError(f"{icon_set.name} {icon_set.version} has no icon for {row['fine']!r} (U+{row['codepoint']})")
    log.info("%s doesn't draw %s", icon_set.name, row["fine"])
    return None


def render(svg: str, size: int) -> NDArray[np.uint8]:
    """uint8 [3, size, size]: the drawing cut to its ink, fitted into the square with a margin of 1/32, on white."""
    try:
        import resvg_py
    except ImportError as error:
        raise DataError("rendering needs resvg-py: pip install 'laresa-sweeps[build]'") from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_SIZE, height=RENDER_SIZE, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = drawing.getchannel("A").getbbox()
    if box is None:
        raise DataError(f"nothing was drawn by {svg[:200]}")
    ground = Image.new("RGBA", drawing.size, "white")
    ground.alpha_composite(drawing)
    ink = ground.convert("RGB").crop(box)
    room = size - 2 * max(1, size // 32)
    width, height = (max(1, round(side * room / max(ink.size))) for side in ink.size)
    square = Image.new("RGB", (size, size), "white")
    square.paste(ink.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return np.asarray(square).transpose(2, 0, 1)


# ---------------------------------------------------------------------- the file
def _write(out: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """np.load reads it like any .npz; equal arrays give equal bytes (np.savez would store the time of day)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".part")
    with zipfile.ZipFile(partial, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    partial.replace(out)
    return out
