"""From pixel values to grey levels: contrast limits, colour tables, band-pass for viewing, scale bars.

Pure NumPy (Qt only in :func:`to_qimage`), so that every number that decides what a person sees can be tested
without a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PySide6.QtGui import QImage

Float2D = NDArray[np.float32]

COLOUR_MAPS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "grey": ((0, 0, 0), (255, 255, 255)),
    "fire": ((0, 0, 0), (255, 255, 255), (255, 0, 0)),
    "ice": ((0, 255, 255), (0, 0, 0), (255, 255, 255)),
    "fire-n-ice": ((0, 255, 255), (0, 0, 0), (255, 255, 255), (255, 0, 0)),
    "rainbow": ((0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    "difference": (
        *((0, 255, 255), (0, 128, 255), (0, 0, 128), (0, 0, 0)),
        *((128, 0, 0), (255, 128, 0), (255, 255, 0)),
    ),
}
"""Colour tables by the names that ``relion_display`` gives them; anchors are evenly spaced from
black to white (RELION 5, image.h, greyToRGB)."""


def colour_table(name: str) -> NDArray[np.uint8]:
    """Colours of 256 grey levels, uint8 of shape (256, 3); KeyError for a name not in COLOUR_MAPS."""
    anchors = np.asarray(COLOUR_MAPS[name], dtype=np.float64)
    at = np.linspace(0.0, 1.0, len(anchors))
    levels = np.linspace(0.0, 1.0, 256)
    return np.stack([np.interp(levels, at, anchors[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


def contrast_limits(
    image: NDArray[Any],
    sigma: float = 0.0,
    black: float = 0.0,
    white: float = 0.0,
    percentile: float = 0.0,
) -> tuple[float, float]:
    """Values shown as black and as white, in the units of ``image`` (any shape).

    ``sigma`` > 0: mean -/+ sigma standard deviations (it wins); otherwise ``black`` and ``white`` where they
    differ; otherwise the given ``percentile`` and its complement (0 = minimum and maximum). The first three
    rules are those of RELION 5, image.cpp, getImageContrast. Values that are not finite are left out.
    """
    if sigma <= 0 and black != white:
        return float(black), float(white)
    values = np.asarray(image, dtype=np.float32)
    if values.size > 1_000_000:  # a million samples fix a percentile far better than an eye can see
        values = values.reshape(-1)[:: values.size // 1_000_000 + 1]
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    if sigma > 0:
        mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        low, high = mean - sigma * deviation, mean + sigma * deviation
    elif percentile > 0:
        low, high = (float(v) for v in np.percentile(values, [percentile, 100.0 - percentile]))
        if low == high:  # nearly all pixels alike (a mask): the percentiles hide what little there is
            low, high = float(values.min()), float(values.max())
    else:
        low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def to_bytes(image: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Grey levels 0..255 of ``image`` (same shape), ``low`` black and ``high`` white; not-finite values
    black.

    ``low`` above ``high`` inverts the contrast.
    """
    span = high - low or 1.0
    scaled = (np.asarray(image, dtype=np.float32) - np.float32(low)) * np.float32(255.0 / span)
    scaled = np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8)


def to_qimage(levels: NDArray[np.uint8], colours: NDArray[np.uint8] | None = None) -> QImage:
    """A QImage that owns its pixels, from grey levels (ny, nx) or colours (ny, nx, 3); row 0 is the top."""
    from PySide6.QtGui import QImage

    if levels.ndim == 2 and colours is not None:
        levels = colours[levels]
    pixels = np.ascontiguousarray(levels)
    height, width = pixels.shape[:2]
    kind = QImage.Format.Format_Grayscale8 if pixels.ndim == 2 else QImage.Format.Format_RGB888
    return QImage(pixels.data, width, height, pixels.strides[0], kind).copy()


def bin_down(image: NDArray[Any], largest: int) -> Float2D:
    """``image`` (ny, nx) averaged over square blocks of pixels until no side is longer than ``largest``.

    Rows and columns that fill no whole block are left out. float32.
    """
    factor = binning(image.shape, largest)
    if factor == 1:
        return np.asarray(image, dtype=np.float32)
    ny, nx = image.shape[0] // factor, image.shape[1] // factor
    blocks = np.asarray(image[: ny * factor, : nx * factor]).reshape(ny, factor, nx, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def binning(shape: Sequence[int], largest: int) -> int:
    """The whole factor by which :func:`bin_down` reduces an image of ``shape`` (ny, nx)."""
    return max(1, math.ceil(max(shape) / max(1, largest)))


def band_pass(image: NDArray[Any], angpix: float, lowpass: float = 0.0, highpass: float = 0.0) -> Float2D:
    """``image`` (ny, nx, real) without what is finer than ``lowpass`` A or coarser than ``highpass`` A (0 =
    off).

    ``angpix`` is the pixel size in A. The edges are raised cosines, two shells wide for the low-pass and 25
    for the high-pass, as in RELION 5 (fftw.cpp, lowPassFilterMap and highPassFilterMap); shells count on
    the longer side of the image. Not-finite pixels are replaced by the mean first. float32, same shape.
    """
    pixels = np.array(image, dtype=np.float32)
    finite = np.isfinite(pixels)
    if not finite.all():
        pixels[~finite] = pixels[finite].mean() if finite.any() else 0.0
    if lowpass <= 0 and highpass <= 0:
        return pixels
    from relion_py.compute.image import fft

    ny, nx = pixels.shape
    size = max(ny, nx)
    frequency = np.hypot(fft.fftfreq(ny)[:, None], fft.rfftfreq(nx)[None, :])  # cycles per pixel
    weight = np.ones(frequency.shape, dtype=np.float32)
    if lowpass > 0:
        weight *= 1.0 - _cosine_step(frequency, round(size * angpix / lowpass) / size, 1 / size)
    if highpass > 0:
        weight *= _cosine_step(frequency, round(size * angpix / highpass) / size, 12 / size)
    return fft.irfft2(fft.rfft2(pixels) * weight, s=(ny, nx)).astype(np.float32)


def _cosine_step(frequency: NDArray[np.float64], centre: float, half: float) -> NDArray[np.float32]:
    """0 below, 1 above, a raised cosine ``half`` to either side of ``centre`` (cycles per pixel)."""
    low = max(0.0, centre - half)
    at = np.clip((frequency - low) / (centre + half - low), 0.0, 1.0)
    return (0.5 - 0.5 * np.cos(np.pi * at)).astype(np.float32)


def scale_bar(width_angstrom: float) -> float:
    """Length in A of a scale bar for a picture ``width_angstrom`` wide: 1, 2 or 5 times a power of ten, at
    most 30%."""
    if not width_angstrom > 0:
        return 0.0
    target = 0.3 * width_angstrom
    decade = 10.0 ** math.floor(math.log10(target))
    return max(step * decade for step in (1, 2, 5) if step * decade <= target * (1 + 1e-9))


def describe_length(angstrom: float) -> str:
    """``50 Å`` below a tenth of a micrometre, ``120 nm`` above."""
    return f"{angstrom / 10:g} nm" if angstrom >= 1000 else f"{angstrom:g} Å"
