"""The maximization step apart from the maps: noise, priors, scales and norms from the weighted sums.

Source: ml_optimiser.cpp, maximizationOtherParameters and setSigmaNoiseEstimatesAndSetAverageImage. The maps themselves
are made in `reconstruct`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image.fourier import power_spectrum
from relion_py.compute.jit import njit
from relion_py.compute.refine.expectation import WeightedSums
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.optics import half_plane_pixels

SCALE_LIMIT = 5.0
"""Scale corrections are kept within this factor of their median."""


def update_model(
    model: ModelState,
    sums: WeightedSums,
    *,
    min_sigma2_offset: float,
    fix_sigma_offset: bool,
    fix_sigma_noise: bool,
    do_norm: bool,
    do_scale: bool,
    by_correlation: bool,
    offset_dimensions: int = 2,
    shell_pixels: NDArray[np.int64] | None = None,
) -> None:
    """New parameters of the model (all but maps and their spectra) from the sums of one half, in place.

    min_sigma2_offset in A^2. offset_dimensions: components of the offsets that were counted. shell_pixels (O, S):
    Fourier pixels of an image of each optics group in each shell of the reference, by default those of an image like
    the reference. After an expectation by cross-correlation, noise and scales stay as they were.
    """
    if sums.sum_weight <= 0.0:
        return
    if do_norm:
        model.avg_norm_correction = sums.avg_norm_correction / sums.sum_weight
    if do_scale and not by_correlation:
        model.scale_correction = _new_scales(sums, model.nr_particles_per_group)
    model.pdf_direction = sums.pdf_direction / sums.sum_weight
    model.pdf_class = model.pdf_direction.sum(axis=1)
    if model.ref_dim == 2:
        # over all classes, as in the reference: towards the centre from the mean of the class, lest classes drift away
        model.prior_offset_class = sums.prior_offset / sums.sum_weight
    model.pdf_class /= max(model.pdf_class.sum(), 1e-300)
    if not fix_sigma_offset:
        variance = sums.sigma2_offset / (offset_dimensions * sums.sum_weight)
        model.sigma_offset = float(np.sqrt(max(variance, min_sigma2_offset)))
    if not fix_sigma_noise and not by_correlation:
        if shell_pixels is None:
            shell_pixels = np.tile(half_plane_pixels(model.ori_size), (model.nr_optics_groups, 1))
        model.sigma2_noise = _new_noise(model, sums, shell_pixels)
    model.log_likelihood = sums.log_likelihood / (sums.sum_weight if by_correlation else 1.0)
    model.ave_pmax = sums.sum_pmax / sums.sum_weight


def average_ctf2(
    sums: WeightedSums, shell_pixels: NDArray[np.int64], premultiplied: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Mean CTF^2 (S,) over the images, for the prior of images that are multiplied with their CTF; None without such.

    Their noise is CTF^2 as strong as it was and its spectrum the mean of that, so that their evidence counts
    1 / CTF^2 times as much; images of other optics groups count as 1. shell_pixels (O, S): see `update_model`;
    premultiplied (O,). Source: ml_optimiser.cpp, setAverageCTF2.
    """
    if not premultiplied.any():
        return None
    pixels = sums.sumw_group[:, None] * shell_pixels
    total = sums.ctf2.sum(axis=0) + pixels[~premultiplied].sum(axis=0)
    count = pixels.sum(axis=0)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def _new_scales(sums: WeightedSums, particles: NDArray[np.int64]) -> NDArray[np.float64]:
    scale = np.ones_like(sums.signal_product)
    known = sums.reference_power > 0
    scale[known] = sums.signal_product[known] / sums.reference_power[known]
    median = np.sort(scale)[len(scale) // 2]
    scale = np.clip(scale, median / SCALE_LIMIT, median * SCALE_LIMIT)
    average = np.sum(particles * scale) / max(particles.sum(), 1)
    return scale / average if average > 0 else np.ones_like(scale)


def _new_noise(model: ModelState, sums: WeightedSums, shell_pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Noise variance per component, two of which make a complex number."""
    noise = model.sigma2_noise.copy()
    for o, weight in enumerate(sums.sumw_group):
        if weight > 0 and sums.sigma2_noise[o].any():
            noise[o] = sums.sigma2_noise[o] / (2.0 * weight * np.maximum(shell_pixels[o], 1))
            # empty shells take their neighbour's value
            for s in range(1, len(noise[o])):
                if noise[o, s] < 1e-14:
                    noise[o, s] = noise[o, s - 1]
            if noise[o, 0] < 1e-14:
                noise[o, 0] = noise[o, 1]
    return noise


def mean_shell_power(transforms: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Mean |F|^2 of each shell (N, S) of half transforms F (N, box, box // 2 + 1).

    Over all of a real transform's elements, so that kx = 0 counts with both signs of ky
    (ml_optimiser.cpp, calculateSumOfPowerSpectraAndAverageImage).
    """
    box = transforms.shape[1]
    ky = np.fft.fftfreq(box, 1.0 / box)[:, None]
    shell = np.rint(np.sqrt(ky**2 + np.arange(box // 2 + 1)[None] ** 2)).astype(int)
    inside = shell <= box // 2
    count = np.bincount(shell[inside])
    power = np.zeros((len(transforms), len(count)))
    _add_power(transforms, shell, power)
    return power / count


@njit(cache=True, nogil=True)
def _add_power(transforms, shell, out):  # type: ignore[no-untyped-def]
    """out[n, s] += |F|^2 of all elements in shell s; shells beyond the last are left out."""
    for n in range(transforms.shape[0]):
        for i in range(transforms.shape[1]):
            for j in range(transforms.shape[2]):
                if shell[i, j] < out.shape[1]:
                    value = transforms[n, i, j]
                    out[n, shell[i, j]] += float(value.real) ** 2 + float(value.imag) ** 2


def power_of_average(average: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean |F|^2 / 2 of each shell (S,) of the average (box, box) of many images, F = DFT / box^2."""
    box, shells = average.shape[0], average.shape[0] // 2 + 1
    transform = np.fft.rfft2(average) / box**2
    ky = np.fft.fftfreq(box, 1.0 / box)[:, None]
    shell = np.rint(np.sqrt(ky**2 + np.arange(box // 2 + 1)[None] ** 2)).astype(int)
    inside = shell < shells
    total = np.bincount(shell[inside], (np.abs(transform) ** 2)[inside], shells)
    return total / np.maximum(np.bincount(shell[inside], minlength=shells), 1) / 2.0


def initial_noise(
    power: NDArray[np.float64], counts: NDArray[np.float64], average: NDArray[np.float64]
) -> NDArray[np.float64]:
    """First noise spectra (O, S): mean power of the images less that of their average, per component.

    power (O, S): sum over images of the mean |F|^2 in each shell; counts (O,) images; average (O, S): what
    `power_of_average` gives. Shells where the difference is not positive take
    the nearest positive neighbour's value, first the one below.
    """
    noise = np.zeros_like(power)
    for o, count in enumerate(counts):
        if count <= 0:
            continue
        noise[o] = power[o] / (2.0 * count) - average[o]
        positive = np.nonzero(noise[o] > 0)[0]
        for s in np.nonzero(noise[o] <= 0)[0]:
            below, above = positive[positive < s], positive[positive > s]
            if len(below) or len(above):
                noise[o, s] = noise[o, below[-1] if len(below) else above[0]]
    return noise


def first_data_versus_prior(model: ModelState, tau2_fudge: float, *, fix_tau2: bool = False) -> None:
    """What is known before the first iteration: the signal of the references over the noise, in place.

    Sets tau2_class (unless fix_tau2) to tau2_fudge times the power of the references, and data_vs_prior_class to how
    well the model's particles determine it: the size of the first images without --ini_high, and the shells from which
    scales are measured, follow from it. Source: ml_model.cpp, initialiseDataVersusPrior.
    """
    known = model.sigma2_noise[model.sigma2_noise.sum(axis=1) > 0]
    noise = known.mean(axis=0)
    per_pixel = np.ones(model.nr_shells)
    if model.ref_dim == 3:  # a shell of a map has more pixels than a ring of an image
        per_pixel[1:] = 2.0 * np.arange(1, model.nr_shells)
    in_images = float(model.ori_size**2) if model.ref_dim == 3 else 1.0  # transforms of images are over box^2
    particles = float(model.nr_particles_per_group.sum())
    for k, reference in enumerate(model.references):
        if not fix_tau2:
            model.tau2_class[k] = tau2_fudge * in_images / 2.0 * power_spectrum(reference)
        evidence = np.divide(
            particles * model.pdf_class[k], noise * per_pixel, out=np.zeros_like(noise), where=noise > 0
        )
        model.data_vs_prior_class[k] = evidence * model.tau2_class[k]
