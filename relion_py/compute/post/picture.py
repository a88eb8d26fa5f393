"""Pictures for the eye: an image's values as the colours of a PNG file.

Facts: RELION 5 ``src/apps/image_handler.cpp`` (end of ``perImageOperations``), ``src/image.cpp``
(``getImageContrast``), ``src/image.h`` (``greyToRGB``).
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_write

Image = NDArray[np.float32]
SCHEMES = ("fire", "ice", "fire-n-ice", "rainbow", "difference")


def write_png(path: str, image: Image, black: float, white: float, sigma: float, scheme: str = "") -> None:
    """Write an image (y, x), its first row at the top; arguments as of `grey_levels` and `colours`.

    Raises UserError for a map and for values that are not finite.
    """
    if image.ndim != 2:
        raise UserError("Only a 2D image can be written as a PNG file.")
    if not np.isfinite(image).all():
        raise UserError(f"{path} cannot be written: the image has values that are no numbers; give --remove_nan.")
    picture = colours(scheme)[grey_levels(image, black, white, sigma)]
    atomic_write(path, bytes(imagecodecs.png_encode(np.ascontiguousarray(picture))))


def grey_levels(image: Image, black: float, white: float, sigma: float) -> NDArray[np.uint8]:
    """0 (black) to 255 (white). sigma, if positive: both so many standard deviations from the mean; else the two
    values, if they differ; else the smallest and the largest value."""
    values = image.astype(np.float64)
    if sigma > 0:
        mean, spread = values.mean(), sigma * values.std()
        black, white = mean - spread, mean + spread
    elif black == white:
        black, white = values.min(), values.max()
    step = (white - black) / 255
    if step == 0:
        return np.zeros(image.shape, np.uint8)
    low, high = sorted((black, white))
    levels = np.floor((np.clip(values, low, high) - black) / step + 1e-9)
    return np.clip(levels, 0, 255).astype(np.uint8)


def colours(scheme: str) -> NDArray[np.uint8]:
    """Red, green and blue (256, 3) of the grey levels; "": grey."""
    grey = np.arange(256)
    bright, up = grey >= 128, np.clip(2 * grey, 0, 255)
    if scheme == "fire":
        falling = 2 * (255 - grey)
        rgb = np.where(bright, 255, up), np.where(bright, falling, up), np.where(bright, falling, up)
    elif scheme == "ice":
        rising, cold = 2 * (grey - 128), 255 - 2 * grey
        rgb = np.where(bright, rising, 0), np.where(bright, rising, cold), np.where(bright, rising, cold)
    elif scheme == "fire-n-ice":
        third, part = _parts(grey, 85)
        rgb = (
            np.select([third == 0, third == 1], [0 * grey, part], 255),
            np.select([third == 1, third == 3], [part, 0 * grey], 255 - part),
            np.select([third == 1, third == 3], [part, 0 * grey], 255 - part),
        )
    elif scheme == "rainbow":
        quarter, part = _parts(255 - grey, 64)
        rgb = (
            np.select([quarter == 0, quarter == 1], [0 * grey + 255, 255 - part], 0),
            np.select([quarter == 0, quarter == 3], [part, 255 - part], 255),
            np.select([quarter == 2, quarter == 3], [part, 0 * grey + 255], 0),
        )
    elif scheme == "difference":
        side = 3 * (grey - 128)
        rgb = np.clip(side, 0, 255), np.clip(3 * (abs(grey - 128) - 42), 0, 255), np.clip(-side, 0, 255)
    else:
        rgb = grey, grey, grey
    return np.stack(rgb, axis=1).astype(np.uint8)


def _parts(grey: NDArray[np.int_], width: int) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """In which part of the scale a level lies, and how far in it, 0 to 255; rounded as the reference's floats."""
    place = (grey / width).astype(np.float32)
    return place.astype(int), np.floor(255 * (place - np.floor(place))).astype(int)
