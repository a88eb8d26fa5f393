"""Soft circular and spherical masks, solvent masks, and what is put outside of them.

Distances are in pixels from the centre of coordinates, pixel ``box // 2`` on each axis.

Facts: RELION 5 ``src/mask.cpp`` (``softMaskOutsideMap``) and ``src/ml_optimiser.cpp`` (``solventFlatten``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.jit import njit

Real = NDArray[np.floating]


def soft_mask(box: int, radius: float, edge: float, dimensions: int = 3) -> NDArray[np.float32]:
    """Circle or sphere: 1 within ``radius``, 0 beyond ``radius + edge``, a raised cosine between (pixels).

    A negative radius means half the box.  float32 (box,) * dimensions.
    """
    radius = box / 2.0 if radius < 0.0 else radius
    axis = (np.arange(box, dtype=np.float64) - box // 2) ** 2
    squared = axis
    for _ in range(dimensions - 1):
        squared = squared[..., None] + axis
    distance = np.sqrt(squared)
    if edge > 0.0:
        beyond = np.clip((radius + edge - distance) / edge, 0.0, 1.0)
        return (0.5 - 0.5 * np.cos(np.pi * beyond)).astype(np.float32)
    return (distance <= radius).astype(np.float32)


def mask_outside(
    images: Real, radius: float, edge: float, dimensions: int = 2, background: Real | float | None = None
) -> NDArray[np.float32]:
    """Copies, float32, of image(s) or map(s) (..., box, box[, box]) with another background around a circle.

    background: None for the mean of each image's own background, weighted by the mask's edge; a number, such
    as 0.0; or images of the same shape, such as noise.  radius and edge in pixels; a negative radius is
    half the box.  Source: ``softMaskOutsideMap``; RELION's --zero_mask, too, fills with that mean.
    """
    box = images.shape[-1]
    outside = (1.0 - soft_mask(box, radius, edge, dimensions)).ravel()
    flat = np.ascontiguousarray(images, dtype=np.float32).reshape(-1, outside.size)
    out = np.empty_like(flat)
    if background is None:
        _fill_with_mean(flat, outside, out)
    elif isinstance(background, np.ndarray):
        other = np.asarray(background, dtype=np.float32)
        if other.shape != images.shape:
            raise ValueError(f"the background has shape {other.shape}, the images have {images.shape}")
        out[:] = flat + outside * (other.reshape(flat.shape) - flat)
    else:
        out[:] = flat + outside * (np.float32(background) - flat)
    return out.reshape(images.shape)


@njit(cache=True, nogil=True)
def _fill_with_mean(images, outside, out):  # type: ignore[no-untyped-def]
    weight = 0.0
    for p in range(outside.shape[0]):
        weight += outside[p]
    for n in range(images.shape[0]):
        total = 0.0
        for p in range(outside.shape[0]):
            total += outside[p] * images[n, p]
        mean = total / weight if weight > 0.0 else 0.0
        for p in range(outside.shape[0]):
            out[n, p] = images[n, p] + outside[p] * (mean - images[n, p])


def tube_mask(
    box: int, psi: float, radius: float, tube_radius: float, edge: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mask of a helical segment, float32 (box, box), and that of the tube alone, for the background's mean.

    1 inside the circle of ``radius`` and nearer than ``tube_radius`` to the axis, 0 beyond the raised-cosine edges
    (pixels).  The axis runs at -psi degrees from X towards Y, psi being the projection's third Euler angle.
    Source: ``softMaskOutsideMapForHelix``.
    """
    place = np.arange(box, dtype=np.float64) - box // 2
    angle = np.deg2rad(psi)
    across = np.abs(np.cos(angle) * place[:, None] + np.sin(angle) * place)
    beyond = np.clip((tube_radius + edge - across) / max(edge, 1e-6), 0.0, 1.0)
    tube = (0.5 - 0.5 * np.cos(np.pi * beyond)).astype(np.float32)
    return np.minimum(tube, soft_mask(box, radius, edge, 2)), tube


def mask_outside_tubes(
    images: Real, psi: Real, radius: float, tube_radius: float, edge: float, background: Real | None = None
) -> NDArray[np.float32]:
    """Copies, float32, of images (N, box, box) of helical segments with another background outside the tube.

    psi: degrees (N,), see :func:`tube_mask`; radius, tube_radius, edge: pixels.  background: None for the mean of
    what is outside of each image's tube; or images of the same shape, such as noise.
    """
    flat = np.ascontiguousarray(images, dtype=np.float32)
    other = flat if background is None else np.ascontiguousarray(background, dtype=np.float32)
    if other.shape != flat.shape:
        raise ValueError(f"the background has shape {other.shape}, the images have {flat.shape}")
    out = np.empty_like(flat)
    angles = np.deg2rad(np.asarray(psi, dtype=np.float64))
    _fill_tubes(
        flat, np.cos(angles), np.sin(angles), radius, tube_radius, max(edge, 1e-6), other, background is None, out
    )
    return out


@njit(cache=True, nogil=True)
def _soft(distance, radius, edge):  # type: ignore[no-untyped-def]
    """1 within a radius, 0 beyond its edge, a raised cosine between."""
    if distance <= radius:
        return 1.0
    if distance >= radius + edge:
        return 0.0
    return 0.5 + 0.5 * np.cos(np.pi * (distance - radius) / edge)


@njit(cache=True, nogil=True)
def _fill_tubes(images, cosines, sines, radius, tube, edge, background, by_mean, out):  # type: ignore[no-untyped-def]
    box = images.shape[1]
    for n in range(images.shape[0]):
        total, weight = 0.0, 0.0
        for i in range(box):
            for j in range(box):
                y, x = i - box // 2, j - box // 2
                inside = _soft(abs(cosines[n] * y + sines[n] * x), tube, edge)
                total += (1.0 - inside) * images[n, i, j]
                weight += 1.0 - inside
                out[n, i, j] = min(inside, _soft(np.sqrt(float(x * x + y * y)), radius, edge))
        mean = total / weight if weight > 0.0 else 0.0
        for i in range(box):
            for j in range(box):
                other = mean if by_mean else background[n, i, j]
                out[n, i, j] = other + out[n, i, j] * (images[n, i, j] - other)


def cylinder_mask(box: int, radius: float, inner: float, edge: float) -> NDArray[np.float32]:
    """Tube along Z, float32 (box, box, box): 1 between the radii, raised cosines of ``edge`` pixels outside of both.

    An inner radius that is not positive is none.  Source: RELION 5 ``src/helix.cpp`` (``createCylindricalReference``).
    """
    disc = soft_mask(box, radius, edge, 2)
    if inner > 0.0:
        disc = disc * (1.0 - soft_mask(box, max(inner - edge, 0.0), edge, 2))
    return np.broadcast_to(disc, (box, box, box)).astype(np.float32)


def check_solvent_mask(mask: Real, shape: tuple[int, ...], name: str = "The solvent mask") -> None:
    """UserError unless a mask has the map's shape, values in 0..1 and some above 0; ``name`` begins the sentence."""
    if mask.shape != tuple(shape):
        ours, theirs = " x ".join(map(str, mask.shape)), " x ".join(map(str, shape))
        raise UserError(f"{name} has {ours} voxels but the map has {theirs}; make a mask of the map's box.")
    if not np.isfinite(mask).all():
        raise UserError(f"{name} contains values that are not numbers; make it again.")
    low, high = float(mask.min()), float(mask.max())
    if low < 0.0 or high > 1.0:
        raise UserError(f"{name} must contain values between 0 and 1 only, but has {low:g} to {high:g}.")
    if high == 0.0:
        raise UserError(f"{name} is 0 everywhere, so that nothing would be left of the map; make it again.")


def flatten_solvent(volume: Real, mask: Real | None, radius: float = -1.0, edge: float = 5.0) -> Real:
    """The map times its solvent mask; with no mask times the soft sphere of ``radius`` and ``edge`` pixels.

    Raises UserError for a mask of another shape or with values outside 0..1.  Source: ``solventFlatten``.
    """
    if mask is None:
        return volume * soft_mask(volume.shape[-1], radius, edge, volume.ndim)
    check_solvent_mask(mask, volume.shape)
    return volume * mask.astype(volume.dtype)


def level_solvent(volume: Real, mask: Real, *, invert: bool = False) -> Real:
    """The map with the solvent (where the mask is 0, or with ``invert`` 1) set to its weighted mean there.

    RELION does this with a second solvent mask (--solvent_mask2, inverted), for the inside of viruses.
    Raises UserError as :func:`flatten_solvent`.
    """
    check_solvent_mask(mask, volume.shape)
    solvent = mask.astype(np.float64) if invert else 1.0 - mask.astype(np.float64)
    weight = solvent.sum()
    mean = float((solvent * volume).sum() / weight) if weight > 0 else 0.0
    return (volume + solvent * (mean - volume)).astype(volume.dtype)
