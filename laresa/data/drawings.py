"""Vendors' drawings from npm: a pinned package, an icon of it as SVG, its pixels, and a file of equal bytes everywhere.

Needs the `npm` client (any registry it is set up for) and resvg-py (the extra "build").
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laresa.errors import DataError

RENDER_SIZE = 256  # pixels: drawn large, then made small with a good filter


def fetch(package: str, integrity: str, folder: Path) -> tarfile.TarFile:
    """An npm package (name@version), checked against the sha512 that npm's registry states.

    DataError: there is no npm client, the registry does not answer, or the tarball is another.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("building needs the npm client (it comes with Node.js) to fetch the icon packages")
    folder.mkdir(parents=True)
    done = subprocess.run(
        [npm, "pack", package, "--silent", "--ignore-scripts"], cwd=folder, capture_output=True, text=True, check=False
    )
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        raise DataError(f"npm pack {package} failed (exit {done.returncode}): {done.stderr.strip()[-400:]}")
    content = tarballs[0].read_bytes()
    found = f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
    if found != integrity:
        raise DataError(f"{package}: the tarball is {found}, not {integrity}")
    return tarfile.open(fileobj=io.BytesIO(content))


def member(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    """A JSON file of the package."""
    file = archive.extractfile(name)
    if file is None:
        raise DataError(f"{name} in the package is not a file")
    return json.load(file)


def svg(icon: Mapping[str, Any], width: float, height: float) -> str:
    """What iconify stores of an icon, as a whole SVG document. width, height: of its set, where it has none."""
    box = (icon.get("left", 0), icon.get("top", 0), icon.get("width", width), icon.get("height", height))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, box))}" width="{box[2]}" height="{box[3]}">{icon["body"]}</svg>'
    )


def render(drawing: str, size: int) -> NDArray[np.uint8]:
    """uint8 [3, size, size]: the drawing cut to its ink, fitted into the square with a margin of 1/32, on white.

    DataError: nothing was drawn, or resvg-py is missing.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DataError("rendering needs resvg-py: pip install 'laresa-sweeps[build]'") from error
    png = resvg_py.svg_to_bytes(svg_string=drawing, width=RENDER_SIZE, height=RENDER_SIZE, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = picture.getchannel("A").getbbox()
    if box is None:
        raise DataError(f"nothing was drawn by {drawing[:200]}")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    ink = ground.convert("RGB").crop(box)
    room = size - 2 * max(1, size // 32)
    width, height = (max(1, round(side * room / max(ink.size))) for side in ink.size)
    square = Image.new("RGB", (size, size), "white")
    square.paste(ink.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return np.asarray(square).transpose(2, 0, 1)


def write(out: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
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
