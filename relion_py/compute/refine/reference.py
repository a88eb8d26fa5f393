"""The reference map and the solvent mask, brought to the box and pixel size of the particles.

Sources: ml_model.cpp, initialiseFromImages (reference); ml_optimiser.cpp, checkMask (mask); fftw.cpp,
resizeMap and windowFourierTransform (rescaling). Maps are (z, y, x) float32 with the centre at pixel box//2.

Fourier cropping reaches only pixel sizes that make the box an even number; the reference goes on with the
nearest one and a model whose pixels differ from those of the particles. Here the map is padded first, to the
box from which the pixel size of the particles is reached exactly, so that the two are always the same.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io.mrc import read_map

Volume = NDArray[np.float32]

SAME_PIXEL_SIZE = 0.001
"""A: pixel sizes that differ by no more are the same (initialiseFromImages)."""


def read_reference(
    path: str, box: int, pixel_size: float, *, ref_angpix: float = -1.0, trust_ref_size: bool = False
) -> tuple[Volume, list[str]]:
    """The reference in the box (pixels) and pixel size (A) of the particles, and what was changed for it.

    ref_angpix > 0 overrules the header. A map of another box or pixel size is rescaled and re-boxed with
    `trust_ref_size`; without, it is a UserError, as are a map that is no cube or has no pixel size.
    """
    volume, header = _cubic_map(path, "reference")
    own = ref_angpix if ref_angpix > 0 else header
    if own <= 0:
        raise UserError(
            f"The header of the reference {path} has no pixel size: give it with --ref_angpix, in A."
        )
    other = []
    if abs(own - pixel_size) > SAME_PIXEL_SIZE:
        other.append(f"pixels of {own:g} A (the particles {pixel_size:g} A)")
    if len(volume) != box:
        other.append(f"a box of {len(volume)} pixels (the particles {box})")
    if not other:
        return volume, []
    what = f"The reference {path} has {' and '.join(other)}"
    if not trust_ref_size:
        raise UserError(f"{what}: add --trust_ref_size to have it rescaled, or rescale it yourself.")
    volume = window(to_pixel_size(volume, own, pixel_size), box)
    return volume, [f"{what}: rescaled to {pixel_size:g} A and {box} pixels."]


def read_solvent_mask(path: str, box: int, pixel_size: float) -> tuple[Volume, list[str]]:
    """The mask (0 to 1) in the box and pixel size of the reference, and what had to be changed.

    When something was changed the reference writes the new mask beside its output (`run_solvent_mask.mrc`)
    and goes on with that name.
    """
    mask, own = _cubic_map(path, "solvent mask")
    changes = []
    if own > 0 and abs(own - pixel_size) > SAME_PIXEL_SIZE:
        mask = to_pixel_size(mask, own, pixel_size)
        changes.append(f"The solvent mask {path} has pixels of {own:g} A: rescaled to {pixel_size:g} A.")
    if len(mask) != box:
        changes.append(f"The solvent mask {path} has a box of {len(mask)} pixels: re-boxed to {box}.")
        mask = window(mask, box)
    if mask.min() < 0 or mask.max() > 1:
        changes.append(
            f"The solvent mask {path} has values from {mask.min():g} to {mask.max():g}: cut to 0 ... 1."
        )
        mask = np.clip(mask, 0.0, 1.0)
    if not mask.any():
        raise UserError(f"The solvent mask {path} is empty: all its values are 0.")
    return mask, changes


def _cubic_map(path: str, what: str) -> tuple[Volume, float]:
    volume, pixel_size = read_map(path)
    if volume.ndim != 3 or len(set(volume.shape)) != 1 or len(volume) < 2:
        z, y, x = volume.shape
        raise UserError(f"The {what} {path} is {x} x {y} x {z}; it must be a cube.")
    if not np.isfinite(volume.sum(dtype=np.float64)):
        raise UserError(f"The {what} {path} has voxels that are not numbers (NaN or infinite).")
    return volume, pixel_size


def to_pixel_size(volume: Volume, own: float, wanted: float) -> Volume:
    """The map, whose pixels are `own` A, with pixels of `wanted` A, in a box at least as long as before.

    Padded with zeros to the even box P >= N from which P * own / wanted is nearest to an even number, at most
    twice N; the pixel size is then reached to better than 0.1 %, as a rule to 0.01 %.
    """
    if abs(own - wanted) <= SAME_PIXEL_SIZE:
        return volume
    first = len(volume) + len(volume) % 2

    def miss(padded: int) -> float:
        new = max(2, 2 * round(padded * own / wanted / 2))
        return abs(padded * own / new - wanted) / wanted

    candidates = range(first, 2 * first + 1, 2)
    padded = next((p for p in candidates if miss(p) < 1e-4), min(candidates, key=miss))
    return rescale(window(volume, padded), max(2, 2 * round(padded * own / wanted / 2)))


def rescale(volume: Volume, box: int) -> Volume:
    """The map on a grid of `box`^3 over the same length, by cutting or padding its Fourier transform.

    Heights are kept. When it grows, only the sphere within the old Nyquist frequency is filled, as in the
    reference (fftw.h, windowFourierTransform).
    """
    old = len(volume)
    if box == old:
        return volume
    spectrum = scipy.fft.rfftn(volume.astype(np.float64))
    inner = min(old, box)
    frequencies = np.fft.fftfreq(inner, 1.0 / inner).astype(int)
    frequencies[frequencies == -inner // 2] = inner // 2  # the reference takes the positive one
    half = np.arange(inner // 2 + 1)
    part = spectrum[np.ix_(frequencies % old, frequencies % old, half)]
    if box > old:
        squared = (frequencies**2)[:, None, None] + (frequencies**2)[None, :, None] + half**2
        part = np.where(squared <= (old // 2) ** 2, part, 0)
    resized = np.zeros((box, box, box // 2 + 1), dtype=part.dtype)
    resized[np.ix_(frequencies % box, frequencies % box, half)] = part
    scale = (box / old) ** 3
    return (scipy.fft.irfftn(resized, (box,) * 3) * scale).astype(np.float32)


def window(volume: Volume, box: int) -> Volume:
    """The middle `box`^3 of the map, or the map with zeros around it; the centre pixel stays the centre."""
    result = np.zeros((box,) * 3, dtype=volume.dtype)
    old = len(volume)
    shift = box // 2 - old // 2  # index in the new map of index 0 of the old one
    inside = slice(max(shift, 0), min(shift + old, box))
    taken = slice(inside.start - shift, inside.stop - shift)
    result[inside, inside, inside] = volume[taken, taken, taken]
    return result
