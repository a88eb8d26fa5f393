"""The curvature of the Ewald sphere: each image becomes two, which lie on curved surfaces of the map's transform.

An image mixes what the sphere tells on its two sides. Multiplied with exp(i gamma) and exp(-i gamma) and masked, it is
parted into P and Q: each is right in one half of the plane, so that each comes of several passes, one per sector.

Source: Russo & Henderson (2018) Ultramicroscopy 187, 26-33; RELION 5, reconstructor.cpp (applyCTFPandCTFQ), ctf.cpp
(getCTFPImage, applyWeightEwaldSphereCurvature_noAniso), backprojector.cpp (backproject2Dto3D).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image.ctf import CtfParams, electron_wavelength
from relion_py.compute.image.fourier import half_transform, real_image
from relion_py.compute.image.masks import mask_outside
from relion_py.compute.jit import njit
from relion_py.compute.refine.backprojector import BackProjector


@dataclass(frozen=True)
class EwaldSettings:
    """How images are parted. diameter (A) of the mask, edge (pixels) its soft edge; sectors of the plane, at least 2.

    reverse: the curvature of data of the other hand. mask: without it images are parted at one go, unmasked.
    weigh: by how far the particle overlaps itself between P and Q, not by CTF^2 alone.
    """

    diameter: float
    edge: float = 3.0
    sectors: int = 2
    reverse: bool = False
    mask: bool = True
    weigh: bool = True


def part_images(
    transforms: NDArray[np.complex64], gamma: NDArray[np.float64], angpix: float, settings: EwaldSettings
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """P and Q of images' half transforms (N, box, box // 2 + 1); gamma: the phase of the CTF -sin(gamma), as large."""
    box = transforms.shape[-2]
    azimuth = _azimuth(box)
    sides = np.empty_like(transforms), np.empty_like(transforms)
    step = 180.0 / settings.sectors
    sine, cosine = -np.sin(gamma), np.cos(gamma)
    for sector in range(settings.sectors):
        angle = sector * step
        low, high = angle + 90.0 - step / 2, angle + 90.0 + step / 2
        half = np.where(azimuth >= np.deg2rad(angle), 1.0, -1.0)
        if sector == 0:
            half[box // 2 + 1 :, 0] = -1.0  # mates along the Y axis are conjugates of each other
        for number in range(2):
            sign = half if (number == 0) != settings.reverse else -half
            part = transforms * (sine + 1j * sign * cosine).astype(np.complex64)
            if settings.mask:
                radius = int(settings.diameter / (2 * angpix) + 0.5)
                part = half_transform(mask_outside(real_image(part, box), radius, settings.edge))
            for start, end, side in _turned(low, high, number):
                chosen = (azimuth >= np.deg2rad(start)) & (azimuth < np.deg2rad(end))
                sides[side][:, chosen] = part[:, chosen]
    return sides


def _azimuth(box: int) -> NDArray[np.float64]:
    """Angle of each Fourier pixel of a half transform to the Y axis, radians from 0 to pi."""
    y = np.where(np.arange(box) <= box // 2, np.arange(box), np.arange(box) - box)[:, None].astype(float)
    return np.arctan2(np.arange(box // 2 + 1, dtype=float)[None], y)


def _turned(low: float, high: float, number: int) -> list[tuple[float, float, int]]:
    """The sector from low to high degrees as parts of 0 to 180; beyond 180 the other image (0: P, 1: Q) has it."""
    end = 180.001  # the last pixels lie at 180 itself
    if low >= 180.0:
        return [(low - 180.0, high - 180.0, 1 - number)]
    if high > 180.0:
        return [(low, end, number), (0.0, high - 180.0, 1 - number)]
    return [(low, end if high == 180.0 else high, number)]


def overlap_weight(
    ctf: NDArray[np.float32],
    params: CtfParams,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    diameter: float,
) -> NDArray[np.float32]:
    """What takes the place of CTF (N, P) in the weights; x, y: frequencies (1/A) of its pixels, diameter in A.

    The images in P and Q are shifted by the defocus: A is the share of a disc of the diameter that they have in
    common, and the weight is (1 + A (2 |CTF| - 1)) / 2.
    """
    mean, half = (params.defocus_u + params.defocus_v) / 2, (params.defocus_u - params.defocus_v) / 2
    turned = np.arctan2(y, x)[None] - np.deg2rad(params.defocus_angle)[:, None]
    defocus = np.abs(mean[:, None] + half[:, None] * np.cos(2 * turned))
    shift = 2 * defocus * electron_wavelength(params.voltage)[:, None] * np.hypot(x, y) / diameter
    angle = np.arccos(np.minimum(shift, 1.0))
    common = 2 / np.pi * (angle - shift * np.sin(angle))
    return (0.5 * (1 + np.where(shift > 1, 0.0, common) * (2 * np.abs(ctf) - 1))).astype(np.float32)


def insert_curved(
    sums: BackProjector,
    images: NDArray[np.complex64],
    weights: NDArray[np.float32],
    rotations: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    curvature: float,
) -> None:
    """Add images (N, P) to the sums on the paraboloid z = curvature (x^2 + y^2).

    weights (N, P); rotations (N, 3, 3) from the map to the image, with the scale between their pixels; x, y: places
    of the pixels in the image's plane, each Friedel pair once; curvature: 1 / (2 radius of the Ewald sphere), with a
    sign, in Fourier pixels of the image.
    """
    places = np.stack([x, y, curvature * (x * x + y * y)]).astype(np.float64)
    _insert(sums.grid, images, weights, np.asarray(rotations, np.float64) * sums.pad, places, sums.r_max_padded)


@njit(cache=True)
def _insert(grid, images, weights, rotations, places, r_max):  # type: ignore[no-untyped-def]
    depth, height = grid.shape[:2]
    for n in range(images.shape[0]):
        turn = rotations[n]
        for p in range(images.shape[1]):
            weight = weights[n, p]
            u, v, w = places[0, p], places[1, p], places[2, p]
            x = turn[0, 0] * u + turn[1, 0] * v + turn[2, 0] * w
            y = turn[0, 1] * u + turn[1, 1] * v + turn[2, 1] * w
            z = turn[0, 2] * u + turn[1, 2] * v + turn[2, 2] * w
            if weight <= 0 or x * x + y * y + z * z > r_max * r_max:
                continue
            value = images[n, p]
            if x < 0:
                x, y, z, value = -x, -y, -z, value.conjugate()
            x0, y0, z0 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            fx, fy, fz = x - x0, y - y0, z - z0
            for k in range(2):
                for j in range(2):
                    for i in range(2):
                        share = (fz if k else 1 - fz) * (fy if j else 1 - fy) * (fx if i else 1 - fx)
                        cell = grid[z0 + k + depth // 2, y0 + j + height // 2, x0 + i]
                        cell[0] += share * value.real
                        cell[1] += share * value.imag
                        cell[2] += share * weight
