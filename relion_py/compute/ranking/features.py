"""What can be measured on a 2D class average: areas, moments, edges, spectra; the features of RELION's ranker.

Features carry RELION's labels, so that a table of them is a STAR file. Lengths are pixels of 4 A, to which every
average is brought first; its densities stay as they are.

Facts: RELION 5, class_ranker.cpp (getFeatures, makeSolventMasks, calculateMoments, maskCircumference,
calculateGranulo).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from relion_py.compute.image.fourier import lowpass, resize_map

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]

UNIFORM_ANGPIX = 4.0
"""Pixel size (A) at which averages are looked at."""
_PI = 3.14  # the reference's
_CENTRAL = 0.36
"""The central area: within 0.6 of the radius."""
GRANULO_RADII = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class FeatureOptions:
    """diameter: of the particles (A). ring_ratio: the ring begins at this part of the radius; ring_radius: or at so
    many pixels of 4 A. lowpass: resolution (A) of the picture from which the areas are made. threshold: of that
    picture; 0 for a twentieth of its standard deviation. granulo: also the granulometry (slower)."""

    diameter: float
    ring_ratio: float = 0.95
    ring_radius: float = -1.0
    lowpass: float = 25.0
    threshold: float = 0.0
    granulo: bool = False


@dataclass(frozen=True)
class ImageFeatures:
    """Of one class average: values by RELION's label, granulometry (6,) or None, and what the areas were made from."""

    values: dict[str, float]
    granulo: NDArray[np.float64] | None
    image: Image
    smooth: Image
    protein: Mask
    solvent: Mask


def at_uniform_scale(image: NDArray[np.floating], angpix: float) -> Image:
    """The average (box, box) at 4 A per pixel, in an even box."""
    box = int(np.floor(image.shape[-1] * angpix / UNIFORM_ANGPIX + 0.5))
    return np.asarray(resize_map(image.astype(np.float64), max(2, box - box % 2)))


def image_features(average: NDArray[np.floating], angpix: float, options: FeatureOptions) -> ImageFeatures:
    """The features that need nothing but the average (box, box) with its pixel size (A)."""
    image = at_uniform_scale(average, angpix)
    distance = _distance(len(image))
    radius = min(len(image) / 2.0, options.diameter / (2.0 * UNIFORM_ANGPIX))
    circle = distance <= radius
    smooth = np.asarray(lowpass(image, UNIFORM_ANGPIX, options.lowpass), np.float64)
    spread = float(smooth.std(ddof=1))
    protein, scattered = protein_area(smooth, options.threshold or 0.05 * spread, radius)
    solvent = circle & ~protein
    inner = options.ring_radius if options.ring_radius > 0 else options.ring_ratio * radius
    values = _moments("Ring", image, circle & (distance >= inner))
    values["rlnProteinArea"] = float(protein.sum() > 1)
    values |= _moments("Protein", image, protein)
    values["rlnSolventArea"] = float(solvent.sum() > 0.08 * _PI * radius**2)
    values |= _moments("Solvent", image, solvent)
    values["rlnRelativeSignalIntensity"] = values["rlnProteinSum"] - values["rlnSolventMean"] * float(protein.sum())
    values["rlnScatteredSignal"] = scattered
    rim = np.floor(distance + 0.5) == np.floor(radius + 0.5)
    values["rlnEdgeSignal"] = float(protein[rim].mean()) if rim.any() else 0.0
    values["rlnProteinCAR"] = _roughness(protein)
    values["rlnLowpassFilteredImageMean"] = float(smooth.mean())
    values["rlnLowpassFilteredImageStddev"] = spread
    values["rlnLowpassFilteredImageMin"] = float(smooth.min())
    values["rlnLowpassFilteredImageMax"] = float(smooth.max())
    return ImageFeatures(values, granulometry(image) if options.granulo else None, image, smooth, protein, solvent)


def protein_area(smooth: Image, threshold: float, radius: float) -> tuple[Mask, float]:
    """Where the smoothed average (box, box) shows protein, and which part of the white pixels is scattered.

    White is what lies above the threshold within `radius` (pixels) of the centre. A connected piece (4 neighbours) that
    covers a tenth of the central area is protein; a smaller one that reaches into that area is scattered signal.
    """
    distance = _distance(len(smooth))
    white = (smooth > threshold) & (distance <= radius)
    central = distance**2 <= _CENTRAL * radius**2
    pieces, count = ndimage.label(white)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    inside = np.bincount(pieces[central], minlength=count + 1)
    sizes[0] = inside[0] = 0
    is_protein = inside > 0.1 * _PI * _CENTRAL * radius**2
    protein = is_protein[pieces]
    scattered = float(sizes[(inside > 0) & ~is_protein].sum())
    return protein, scattered / (scattered + float(protein.sum()) + 1.0)


def granulometry(image: Image) -> NDArray[np.float64]:
    """Sum of the image after grey openings by discs of 1 .. 6 pixels: how coarse its bright grains are."""
    lowest, highest = float(image.min()), float(image.max())
    sums = []
    for radius in GRANULO_RADII:
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        disc = x**2 + y**2 <= radius**2
        eroded = ndimage.grey_erosion(image, footprint=disc, mode="constant", cval=highest)
        sums.append(ndimage.grey_dilation(eroded, footprint=disc, mode="constant", cval=lowest).sum())
    return np.array(sums)


def _distance(box: int) -> Image:
    axis = np.arange(box) - box // 2
    return np.hypot(axis[:, None], axis)


def _moments(area: str, image: Image, mask: Mask) -> dict[str, float]:
    """Sum, mean, standard deviation, skewness and kurtosis of the pixels in an area; zeros for an empty one."""
    pixels = image[mask]
    total = mean = spread = skew = kurtosis = 0.0
    if len(pixels):
        total, mean, spread = float(pixels.sum()), float(pixels.mean()), float(pixels.std())
        if spread > 0:
            reduced = (pixels - mean) / spread
            skew, kurtosis = float((reduced**3).mean()), float((reduced**4).mean())
    values = {"Sum": total, "Mean": mean, "Stddev": spread, "Skew": skew, "Kurt": kurtosis}
    if area == "Ring":
        del values["Sum"]
    return {f"rln{area}{name}": value for name, value in values.items()}


def _roughness(mask: Mask) -> float:
    """Boundary pixels of an area over those of a disc of the same size, up to a factor; 0 for no area."""
    area = float(mask.sum())
    if area <= 1:
        return 0.0
    interior = ndimage.binary_erosion(mask, structure=np.ones((3, 3)), border_value=1)
    return float((mask & ~interior).sum()) / (2.0 * np.sqrt(_PI * area))
