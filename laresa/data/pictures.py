"""From an image file to a square of uint8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from laresa.errors import DataError


def read(path: Path, size: int, *, margin: float = 1.0, banner: int = 0) -> NDArray[np.uint8]:
    """uint8 [3, size, size]: the shorter side made margin * size pixels (bilinear, antialiased), the centre cut out.

    Turned as its EXIF tag says; what is transparent becomes white; the lowest `banner` rows are cut off first. Raises
    DataError, with the path, for a file that Pillow can't decode to its end.
    """
    try:
        with Image.open(path) as file:
            picture = _on_white(ImageOps.exif_transpose(file))
    except Exception as error:  # fed with a broken file, Pillow's decoders raise almost anything
        raise DataError(f"{path} does not decode as an image: {error or type(error).__name__}") from error
    if banner:
        picture = picture.crop((0, 0, picture.width, max(1, picture.height - banner)))
    scale = margin * size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def shorter_side(path: Path) -> int:
    """Pixels, from the file's header."""
    try:
        with Image.open(path) as file:
            return min(file.size)
    except Exception as error:
        raise DataError(f"{path} does not decode as an image: {error or type(error).__name__}") from error


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")
