"""From an image file to a square of uint8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from laresa.errors import DataError

LONGEST = 100  # scaled by the shorter side, a strip would fill the memory


def read(path: Path, size: int, *, margin: float = 1.0, banner: int = 0) -> NDArray[np.uint8]:
    """uint8 [3, size, size]: the shorter side made margin * size pixels (bilinear, antialiased), the centre cut out.

    margin: 0 leaves a picture as large as it is, unless it is smaller than that.
    Turned as its EXIF tag says; 16 bits a channel are scaled to 8; what is transparent becomes white; the lowest
    `banner` rows are cut off first. Raises DataError, with the path, for a file that Pillow can't decode to its end,
    pixels without an agreed range (floats, 32 bits), a strip more than LONGEST times as long as wide.
    """
    try:
        with Image.open(path) as file:
            picture = _on_white(_eight_bits(ImageOps.exif_transpose(file), file.format))
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    except Exception as error:  # fed with a broken file, Pillow's decoders raise almost anything
        raise DataError(f"{path} does not decode as an image: {error or type(error).__name__}") from error
    if banner:
        picture = picture.crop((0, 0, picture.width, max(1, picture.height - banner)))
    if max(picture.size) > LONGEST * min(picture.size):
        raise DataError(
            f"{path} has {picture.width} x {picture.height} pixels: expected no side {LONGEST} times the other"
        )
    scale = margin * size / min(picture.size) if margin else max(1.0, size / min(picture.size))
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


def _eight_bits(picture: Image.Image, kind: str | None) -> Image.Image:
    """As it is, 16 bits scaled to 8. kind: the file's format. DataError: what range its numbers have is not said."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray(((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        number = "floating-point numbers" if picture.mode == "F" else "32-bit numbers"
        raise DataError(f"has {number} as pixels, whose range is not said: convert it to 8 or 16 bits a channel")
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")
