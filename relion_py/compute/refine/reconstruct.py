"""From summed slices to a map: signal-to-noise spectra, the Wiener-like division, and the way to real space.

Units: tau2 and sigma2 are powers of one complex component of a transform divided by box^2, per Fourier shell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend import kernels_volume
from relion_py.compute.image import fft
from relion_py.compute.image.masks import mask_outside
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.projector import origin_phase, padded_box, slabs, without_interpolation

Array = NDArray[Any]
_NO_PRIOR = np.empty(0)


@dataclass(frozen=True)
class ShellSpectra:
    """What a reconstruction knows about each Fourier shell; float64 (box // 2 + 1,) each.

    tau2              prior power of the signal
    sigma2            power of the noise in the reconstruction
    data_vs_prior     ratio of evidence to prior ("SSNR")
    fourier_coverage  fraction of voxels whose evidence exceeds the prior
    """

    tau2: NDArray[np.float64]
    sigma2: NDArray[np.float64]
    data_vs_prior: NDArray[np.float64]
    fourier_coverage: NDArray[np.float64]


def _oversampling(sums: BackProjector) -> float:
    return sums.pad**sums.ndim


def tau2_from_fsc(
    fsc: Array, sigma2: Array, tau2_fudge: float = 1.0, is_whole_instead_of_half: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(tau2, data_vs_prior) of a shell with noise `sigma2` and half-map correlation `fsc`.

    is_whole_instead_of_half  the map comes from all particles: FSC -> sqrt(2 FSC / (FSC + 1))
    (backprojector.cpp, updateSSNRarrays; Scheres 2012, J. Struct. Biol. 180, eq. 9)
    """
    curve = np.maximum(np.asarray(fsc, np.float64), 0.001)
    if is_whole_instead_of_half:
        curve = np.sqrt(2 * curve / (curve + 1))
    curve = np.minimum(curve, 0.999)
    ssnr = curve / (1 - curve) * tau2_fudge
    return ssnr * sigma2, ssnr


def update_tau2(
    sums: BackProjector,
    tau2: Array | None = None,
    *,
    tau2_fudge: float = 1.0,
    fsc: Array | None = None,
    is_whole_instead_of_half: bool = False,
    average_ctf2: Array | None = None,
) -> ShellSpectra:
    """Spectra of complete (symmetrised) sums (backprojector.cpp, updateSSNRarrays).

    tau2          prior to be judged, float (box // 2 + 1,); needed when there is no fsc
    fsc           correlation of the halves, float (box // 2 + 1,): tau2 is made from it and from the noise
    average_ctf2  mean CTF^2 per shell, for images that are already multiplied by their CTF
    Raises ValueError for spectra of a wrong length or a negative tau2.
    """
    n_shells = sums.box // 2 + 1
    limit = sums.r_max_padded**2
    totals, counts = kernels_volume.weight_shells(sums.grid, sums.pad, limit, 0.5, n_shells)
    totals *= _oversampling(sums)
    sigma2 = np.divide(counts, totals, out=np.zeros(n_shells), where=totals > 1e-20)
    ssnr = np.zeros(n_shells)
    if fsc is not None:
        tau2, ssnr = tau2_from_fsc(_spectrum(fsc, n_shells, "FSC"), sigma2, tau2_fudge, is_whole_instead_of_half)
    elif tau2 is None:
        raise ValueError("Spectra need either a tau2 or an FSC.")
    tau2 = _spectrum(tau2, n_shells, "tau2")
    prior = _inverse_tau2(sums, tau2, tau2_fudge)
    if average_ctf2 is not None:
        ctf2 = _spectrum(average_ctf2, n_shells, "mean CTF^2")
        prior = np.where((prior > 0) & (ctf2 > 0), prior / np.where(ctf2 > 0, ctf2, 1), prior)
    ratios, covered, counts = kernels_volume.evidence_shells(sums.grid, sums.pad, limit, prior)
    if fsc is None:
        ssnr = np.where(counts < 0.001, 999.0, ratios / np.maximum(counts, 1))
        ssnr[sums.r_max + 1 :] = 0.0
    return ShellSpectra(tau2.copy(), sigma2, ssnr, covered / np.maximum(counts, 1))


def reconstruct(
    sums: BackProjector,
    tau2: Array | None = None,
    tau2_fudge: float = 1.0,
    do_map: bool = True,
    *,
    first_prior_shell: int = -1,
    gridding_iterations: int = 0,
    mean_weight: float = 1.0,
    workers: int = 1,
) -> NDArray[np.float32]:
    """Map from complete (symmetrised) sums, float32 (box,) * ndim, origin at box // 2.

    tau2                 prior power per shell; where it is 0 a weight w gets the prior 1000 / w
    tau2_fudge           factor on tau2
    do_map               add the prior to the weights; False (or no tau2) reconstructs without regularisation
    first_prior_shell    shells below it get no prior
    gridding_iterations  0: divide by the weights, which are kept above a thousandth of their shell's mean;
                         otherwise the weights are found by so many iterations (Pipe & Menon 1999, eq. 14)
    mean_weight          size of the weights by which the iterations divide them, to stay within float range
    workers              threads of the FFT
    The sums are not changed (backprojector.cpp, reconstruct).
    """
    prior = _NO_PRIOR
    if do_map and tau2 is not None:
        prior = _inverse_tau2(sums, _spectrum(tau2, sums.box // 2 + 1, "tau2"), tau2_fudge)
    padded = padded_box(sums.box, sums.pad)
    volume = to_real_space(
        _divided(sums, prior, first_prior_shell, gridding_iterations, mean_weight, workers),
        sums.box,
        padded,
        ndim=sums.ndim,
        workers=workers,
    )
    volume = mask_outside(volume, -1.0, 3.0, sums.ndim)  # corners alias
    return without_interpolation(volume, padded)


def _divided(
    sums: BackProjector,
    prior: NDArray[np.float64],
    first_prior_shell: int,
    gridding_iterations: int,
    mean_weight: float,
    workers: int,
) -> NDArray[np.complex64]:
    """Data over weights, with the prior added to these; see `reconstruct`."""
    limit = sums.r_max_padded**2
    weights = kernels_volume.add_prior(sums.grid, sums.pad, limit, prior, first_prior_shell)
    if gridding_iterations > 0:
        transform = _iterated_division(sums, weights / mean_weight, gridding_iterations, workers)
        transform /= np.float32(mean_weight)
        return transform
    floor_limit = int((sums.r_max * sums.pad) ** 2 + 0.5)
    floors = kernels_volume.floored_shells(weights, sums.pad, floor_limit, max(sums.r_max, 1))
    return kernels_volume.divide(sums.grid, weights, sums.pad, limit, floors)


def to_real_space(
    transform: NDArray[np.complex64], box: int, padded: int, *, ndim: int = 3, workers: int = 1
) -> NDArray[np.float32]:
    """Inverse FFT of an oversampled half transform, float32 (box,) * ndim, origin at box // 2.

    transform  complex64 (Z, Y, X) of a map scaled by 1 / box^2, origin in the centre of z and y
    padded     even size of the real-space map before it is cut, pixels
    Axis by axis, so that what will be cut off is not carried along (windowToOridimRealSpace), and slab by slab, so that
    no intermediate array is as large as the transform.
    """
    work = transform[1] if ndim == 2 else transform
    for axis in range(ndim - 1):
        work = _inverse_along(work, axis, box, padded, workers)
    keep = np.arange(min(work.shape[-1], padded // 2 + 1))
    work = work[..., : len(keep)] * origin_phase(keep, box, padded).conj()
    volume = fft.irfft(work, padded, axis=-1, workers=workers)[..., :box]
    return np.ascontiguousarray(volume) * np.float32(box) ** 2


def _inverse_along(
    values: NDArray[np.complex64], axis: int, box: int, padded: int, workers: int
) -> NDArray[np.complex64]:
    """Inverse FFT along one axis, whose origin is in its centre, zero-padded to `padded` and cut to `box`."""
    half = values.shape[axis] // 2
    # -padded/2 would fall on +padded/2, which holds the same frequency already.
    low, high = min(half, padded // 2 - 1), min(half, padded // 2)
    phase = origin_phase(np.arange(-low, high + 1), box, padded).conj()
    phase = phase.reshape([-1 if each == axis else 1 for each in range(values.ndim)])
    before = (slice(None),) * axis
    size = list(values.shape)
    size[axis] = box
    out = np.empty(size, np.complex64)
    for part in slabs(values.shape, axis, padded):
        given = values[part]
        size = list(given.shape)
        size[axis] = padded
        wide = np.zeros(size, np.complex64)
        for first, last in ((0, high + 1), (-low, 0)):
            if last > first:
                at = slice(first % padded, (last - 1) % padded + 1)
                taken, turn = slice(first + half, last + half), slice(first + low, last + low)
                np.multiply(given[(*before, taken)], phase[(*before, turn)], out=wide[(*before, at)])
        wide = fft.ifft(wide, axis=axis, workers=workers, overwrite_x=True)
        out[part] = wide[(*before, slice(0, box))]
    return out


def _inverse_tau2(sums: BackProjector, tau2: Array, tau2_fudge: float) -> NDArray[np.float64]:
    """1 / tau2 in the units of the weights; -1 where tau2 is zero."""
    if np.any(tau2 < 0):
        raise ValueError("A tau2 spectrum must not be negative.")
    scale = _oversampling(sums) * tau2_fudge
    return np.divide(1.0, scale * tau2, out=np.full(len(tau2), -1.0), where=tau2 > 0)


def _spectrum(values: Array, n_shells: int, name: str) -> NDArray[np.float64]:
    spectrum = np.asarray(values, np.float64)
    if spectrum.shape != (n_shells,):
        raise ValueError(f"The {name} spectrum has shape {spectrum.shape}; {n_shells} shells are needed.")
    return spectrum


def _iterated_division(
    sums: BackProjector, weights: NDArray[np.float64], iterations: int, workers: int
) -> NDArray[np.complex64]:
    """Data times weights that make their convolution with the gridding kernel flat."""
    middle = slice(1, 2) if sums.ndim == 2 else slice(None)
    weights = weights[middle]
    shape = weights.shape
    full = (shape[0], shape[1], shape[1])
    indices = [np.arange(n) - n // 2 for n in shape[:2]] + [np.arange(shape[2])]
    squared = sum(i**2 for i in np.meshgrid(*indices, indexing="ij", sparse=True))
    inside = squared < sums.r_max_padded**2
    kernel = _blob_transform(full, sums)
    inverse = inside.astype(np.float64)
    shifted = (0, 1)
    for _ in range(iterations):
        product = fft.ifftshift(inverse * weights, axes=shifted)
        real = fft.irfftn(product, full, workers=workers) * kernel
        blurred = fft.fftshift(fft.rfftn(real, workers=workers), axes=shifted)
        inverse[inside] /= np.maximum(1e-6, np.abs(blurred[inside]))
    result = np.zeros(sums.grid.shape[:3], np.complex64)
    within = squared <= sums.r_max_padded**2
    result[middle] = np.where(within, sums.data[middle] * np.minimum(inverse, 1e20), 0)
    return result


def _blob_transform(full: tuple[int, int, int], sums: BackProjector) -> NDArray[np.float64]:
    """Transform of a Kaiser-Bessel blob (radius 3.8 voxels, order 0, alpha 15), in FFT order.

    (Lewitt 1990, J. Opt. Soc. Am. A 7, eq. A3; backprojector.cpp, convoluteBlobRealSpace)
    """
    radius, alpha = 1.9 * 2, 15.0
    # The reference counts the middle element of an odd axis among the negative ones.
    axes = [np.where(np.arange(n) < n // 2, np.arange(n), np.arange(n) - n) for n in full]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True)))
    frequency = np.linspace(0, 0.5, 10001)
    size = np.sqrt(alpha**2 - (2 * np.pi * radius * frequency) ** 2)  # 9 to 15
    values = (size * np.cosh(size) - np.sinh(size)) / size**3  # Bessel's I of order 3/2 over size to the power 3/2
    return np.interp(r / (sums.box * sums.pad), frequency, values / values[0], right=0.0)
