"""Fourier shell correlation of two half maps, and its correction for what a mask adds (phase randomisation).

Curves are float64 (box // 2 + 1,); element i is the shell of radius i Fourier pixels, at a resolution of
``box * angpix / i`` A.

Facts: RELION 5 ``src/fftw.cpp`` (``getFSC``, ``randomizePhasesBeyond``) and ``src/postprocessing.cpp``
(``run``, ``calculateFSCtrue``, ``calculateFSCpart``); Chen et al. (2013), Ultramicroscopy 135, 24-35.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import radius_grid, shell_grid

Curve = NDArray[np.float64]
Real = NDArray[np.floating]
Complex = NDArray[np.complexfloating]

# What RELION reports where no resolution can be given.
NO_RESOLUTION = 999.0


def fsc_of_transforms(first: Complex, second: Complex, box: int) -> Curve:
    """FSC by shell of two half transforms (.., box, box // 2 + 1) of maps or images; 0 for empty shells."""
    if first.shape != second.shape:
        raise ValueError(f"the transforms differ in shape: {first.shape} and {second.shape}")
    shells = shell_grid(box, first.ndim).ravel()

    def by_shell(values: Real) -> Curve:
        sums = np.bincount(shells, weights=values.ravel(), minlength=box // 2 + 1)
        return sums[: box // 2 + 1].astype(np.float64)

    a, b = first.astype(np.complex128), second.astype(np.complex128)
    product = by_shell((a.conj() * b).real)
    power = by_shell(np.abs(a) ** 2) * by_shell(np.abs(b) ** 2)
    return np.divide(product, np.sqrt(power), out=np.zeros_like(product), where=power > 0)


def fsc(first: Real, second: Real, mask: Real | None = None) -> Curve:
    """FSC by shell of two cubic maps (or square images), both multiplied with ``mask`` if there is one.

    Raises UserError if the maps or the mask differ in shape.
    """
    for other in (second, mask):
        if other is not None and other.shape != first.shape:
            raise UserError("The two half maps and the mask must have the same box; they do not.")
    factor = 1.0 if mask is None else mask.astype(np.float64)
    return fsc_of_transforms(fft.rfftn(first * factor), fft.rfftn(second * factor), first.shape[-1])


def resolution_at(curve: Curve, box: int, angpix: float, threshold: float = 0.143) -> float:
    """Resolution in A of the last shell before the curve first falls below the threshold.

    999 if the curve is below it from the first shell on.  A curve that never falls below gives Nyquist's.
    """
    below = np.flatnonzero(curve < threshold)
    last = int(below[0]) - 1 if len(below) else len(curve) - 1
    return box * angpix / last if last > 0 else NO_RESOLUTION


def randomise_from(unmasked: Curve, threshold: float = 0.8) -> int:
    """First shell (> 0) where the unmasked FSC is below the threshold: phases are randomised from there.

    Raises UserError if there is none: the half maps are then too alike to be independent.
    """
    below = np.flatnonzero(unmasked[1:] < threshold)
    if len(below) == 0:
        raise UserError(
            f"The FSC of the half maps never drops below {threshold:g}, so they seem not to be independent; "
            "check that they are the two unfiltered half maps."
        )
    return int(below[0]) + 1


def randomise_phases(volume: Real, shell: int, rng: np.random.Generator) -> Real:
    """The map with random phases at all frequencies of radius >= ``shell``; amplitudes are kept."""
    transform = fft.rfftn(volume)
    beyond = radius_grid(volume.shape[-1], volume.ndim) >= shell
    phases = rng.uniform(0.0, 2.0 * np.pi, int(beyond.sum()))
    transform[beyond] = np.abs(transform[beyond]) * np.exp(1j * phases)
    return fft.irfftn(transform, s=volume.shape).astype(volume.dtype, copy=False)


def corrected(masked: Curve, random_masked: Curve, shell: int) -> Curve:
    """FSC without the mask's own correlation: (FSC_t - FSC_n) / (1 - FSC_n) from ``shell + 2`` on.

    Below, the masked FSC is taken as it is; element 0, if not positive, becomes 1.
    """
    total, noise = masked.copy(), random_masked.copy()
    for curve in (total, noise):
        if curve[0] <= 0.0:
            curve[0] = 1.0
    difference, room = total - noise, 1.0 - noise
    true = np.divide(difference, room, out=np.zeros_like(total), where=room != 0.0)
    return np.where(np.arange(len(total)) < shell + 2, total, true)


def particle_fsc(unmasked: Curve, fraction: float) -> Curve:
    """The FSC expected inside the particle from the unmasked one: f FSC / (1 + (f - 1) FSC).

    fraction: the box's volume over the particle's (RELION writes 0.476 over the fraction of the
    voxels whose mask is above 0.5 as rlnParticleBoxFractionSolventMask).  Source: ``calculateFSCpart``.
    """
    return fraction * unmasked / (1.0 + (fraction - 1.0) * unmasked)


@dataclass(frozen=True)
class MaskedFsc:
    """Curves of one correction; ``shell`` is the first with random phases."""

    unmasked: Curve
    masked: Curve
    random_masked: Curve
    corrected: Curve
    shell: int

    def resolution(self, box: int, angpix: float, threshold: float = 0.143) -> float:
        """Resolution in A of the corrected curve (:func:`resolution_at`)."""
        return resolution_at(self.corrected, box, angpix, threshold)


def masked_fsc(
    half1: Real,
    half2: Real,
    mask: Real,
    rng: np.random.Generator,
    *,
    randomise_at_fsc: float = 0.8,
    shell: int | None = None,
) -> MaskedFsc:
    """All FSC curves of two half maps and a soft mask, with RELION's correction by phase randomisation.

    Phases are random from ``shell`` on, or else from where the unmasked FSC drops below ``randomise_at_fsc``.
    Raises UserError as :func:`fsc` and :func:`randomise_from`.
    """
    unmasked, masked = fsc(half1, half2), fsc(half1, half2, mask)
    first = randomise_from(unmasked, randomise_at_fsc) if shell is None else shell
    random1, random2 = randomise_phases(half1, first, rng), randomise_phases(half2, first, rng)
    random_masked = fsc(random1, random2, mask)
    return MaskedFsc(unmasked, masked, random_masked, corrected(masked, random_masked, first), first)
