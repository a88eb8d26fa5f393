"""The first spectra of the noise, from the power of some images of each optics group, before anything is known.

Without a reference also averages of these images at random orientations, from which first references are made.
Source: ml_optimiser.cpp, calculateSumOfPowerSpectraAndAverageImage and setSigmaNoiseEstimatesAndSetAverageImage.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.image.masks import mask_outside, mask_outside_tubes, tube_mask
from relion_py.compute.jit import njit
from relion_py.compute.parallel.comm import Communicator
from relion_py.compute.refine import source
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.first_references import RandomAverages, size_within
from relion_py.compute.refine.host import Host
from relion_py.compute.refine.images import DiscPixels, at_disc, half_transforms
from relion_py.compute.refine.maximization import initial_noise, mean_shell_power, power_of_average
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reference import resample

NORM_LIMITS = (0.5, 2.0)
"""Standard deviation of the background that normalised images have."""
_BATCH = 2**22
"""Pixels looked at between two looks at a request to stop."""


def first_noise(
    particles: ParticleSet,
    options: RefineOptions,
    model: ModelState,
    ctf: CtfParams | None,
    seed: int,
    host: Host,
) -> tuple[NDArray[np.float64], RandomAverages | None]:
    """Noise spectra (O, S) from the power of the first images of each optics group, in random order.

    Without a reference also random averages of these images, on every rank, as far as --ini_high leaves them.
    ctf: of all particles, or None.
    """
    host.say(" Estimating initial noise spectra ...")
    sums = _Power(particles, model)
    averages = None
    size = size_within(options.ini_high, model.ori_size, model.pixel_size)
    if not options.has_reference:
        averages = RandomAverages(options.classes, model.ori_size, size, model.ref_dim, options.padding_factor)
    diameter = options.mask_diameter(model.ori_size, model.pixel_size)
    mine = source.share(_first_of_each_group(particles, options, seed), host.comm)
    warned = options.dont_check_norm
    premultiplied = np.array([group.ctf_premultiplied for group in particles.table.optics_groups])
    for geometry, alike in sums.by_geometry(mine):
        radius, pixels = diameter / (2.0 * geometry.pixel_size), DiscPixels.of_size(geometry.current_size(size))
        tube = options.helical_outer_diameter / (2.0 * geometry.pixel_size)
        batch = max(_BATCH // geometry.box**2, options.threads)
        for first in range(0, len(alike), batch):
            host.check_abort()
            index = alike[first : first + batch]
            images = particles.read_images(index)
            psis = particles.psi[index] if options.masks_tubes else None
            warned = warned or _warn_of_norm(images, radius, particles, index, host, tube)
            if options.zero_mask and psis is not None:
                images = mask_outside_tubes(images, psis, radius, tube, float(options.mask_edge))
            elif options.zero_mask:
                images = mask_outside(images, radius, float(options.mask_edge))
            transforms = half_transforms(images, options.threads)
            sums.add(index, images, transforms)
            if averages is not None:
                values = at_disc(transforms, pixels) * np.float32(geometry.gain)
                weights = np.ones(values.shape, np.float32)
                if ctf is not None:
                    weights = ctf_values(ctf[index], pixels.kx, pixels.ky, geometry.box, geometry.pixel_size)
                    values *= np.where(premultiplied[particles.optics_group[index], None], np.float32(1.0), weights)
                    weights *= weights
                averages.add(values, weights, index, pixels.kx, pixels.ky, seed, psis, geometry.ratio, options.threads)
    for array in [] if averages is None else [each.grid for each in averages.sums]:
        host.comm.allreduce_sum(array)
    spectra = sums.spectra(host.comm)
    if not sums.power.any():
        raise UserError(f"The images of {particles.table.path} are empty (all pixels are 0): extract them again.")
    return spectra, averages


def _first_of_each_group(particles: ParticleSet, options: RefineOptions, seed: int) -> NDArray[np.int64]:
    """The particles that are looked at, ascending."""
    order = np.random.default_rng([seed, 3]).permutation(len(particles))
    groups, wanted = particles.optics_group[order], options.minimum_particles_sigma2_noise
    return np.sort(np.concatenate([order[groups == o][:wanted] for o in range(particles.nr_optics_groups)]))


class _Power:
    """Sums over images: their power in each shell of the reference, by optics group, and the images themselves.

    The average image is that of all optics groups.
    """

    def __init__(self, particles: ParticleSet, model: ModelState) -> None:
        self.group_of = particles.optics_group
        self.geometries = particles.geometries(model.ori_size, model.pixel_size)
        looks = [(g.box, g.pixel_size) for g in self.geometries]
        self.first_alike = np.array([looks.index(look) for look in looks])
        self.images = {int(o): np.zeros((looks[o][0],) * 2) for o in np.unique(self.first_alike)}
        self.power = np.zeros((len(looks), model.nr_shells))
        self.counts = np.zeros(len(looks))

    def by_geometry(self, index: NDArray[np.int64]) -> list[tuple[ImageGeometry, NDArray[np.int64]]]:
        """These particles in parts whose images are alike."""
        alike = self.first_alike[self.group_of[index]]
        return [(self.geometries[o], index[alike == o]) for o in self.images]

    def add(self, index: NDArray[np.int64], images: NDArray[np.float32], transforms: NDArray[np.complex64]) -> None:
        """Adds images (n, box, box), those of the particles `index`, which are alike, with their half transforms."""
        groups = self.group_of[index]
        geometry = self.geometries[groups[0]]
        self.images[int(self.first_alike[groups[0]])] += images.sum(axis=0, dtype=np.float64)
        power = mean_shell_power(transforms)
        np.add.at(self.power, groups, geometry.gain**2 * geometry.mean_in_reference(power))
        np.add.at(self.counts, groups, 1.0)

    def spectra(self, comm: Communicator) -> NDArray[np.float64]:
        """The noise (O, S), from the images of all ranks; zero for an optics group without particles."""
        for array in (self.power, self.counts, *self.images.values()):
            comm.allreduce_sum(array)
        of_average = np.zeros_like(self.power)
        for look in self.images:
            geometry, groups = self.geometries[look], self.first_alike == look
            power = power_of_average(self._total(geometry) / max(self.counts.sum(), 1.0))
            of_average[groups] = geometry.gain**2 * geometry.mean_in_reference(power[None])
        return initial_noise(self.power, self.counts, of_average)

    def _total(self, geometry: ImageGeometry) -> NDArray[np.float64]:
        """The sum of all images, in a geometry's box and pixels."""
        total = np.zeros((geometry.box,) * 2)
        for look, image in self.images.items():
            own = self.geometries[look]
            if own is not geometry:
                image = resample(image.astype(np.float32), own.pixel_size, geometry.pixel_size, geometry.box)
            total += image
        return total


def _warn_of_norm(
    images: NDArray[np.float32],
    radius: float,
    particles: ParticleSet,
    index: NDArray[np.int64],
    host: Host,
    tube: float = -1.0,
) -> bool:
    """Says so once if the background of an image does not have mean 0 and standard deviation 1.

    radius, tube  pixels: outside the circle, or with a positive tube outside the helix, is background
    """
    box = images.shape[1]
    if tube > 0:
        outside = np.array([tube_mask(box, float(psi), box, tube, 0.0)[1] == 0 for psi in particles.psi[index]])
    else:
        y, x = np.ogrid[-(box // 2) : box - box // 2, -(box // 2) : box - box // 2]
        outside = (x**2 + y**2 > radius**2)[None]
    if not outside.any(axis=(1, 2)).all():
        return True
    mean, deviation = _background(images, outside)
    low, high = NORM_LIMITS
    with np.errstate(divide="ignore", invalid="ignore"):
        odd = (deviation < low) | (deviation > high) | (np.abs(mean / deviation) > 0.5)
    if not odd.any():
        return False
    n = int(np.argmax(odd))
    host.say(
        f" WARNING: {particles.image_name(int(index[n]))} has a background of {mean[n]:.2f} +/- {deviation[n]:.2f} "
        "instead of 0 +/- 1: normalise the particles when extracting them, or say --dont_check_norm."
    )
    return True


@njit(cache=True, nogil=True)
def _background(images, outside):  # type: ignore[no-untyped-def]
    """Mean and standard deviation (N,) of images (N, box, box) where `outside`, (N or 1, box, box), is set."""
    mean, deviation = np.empty(len(images)), np.empty(len(images))
    for n in range(len(images)):
        mask = outside[n if len(outside) > 1 else 0]
        count, total, square = 0, 0.0, 0.0
        for i in range(images.shape[1]):
            for j in range(images.shape[2]):
                if mask[i, j]:
                    value = float(images[n, i, j])
                    count += 1
                    total += value
                    square += value * value
        mean[n] = total / count
        deviation[n] = np.sqrt(max(square / count - mean[n] ** 2, 0.0))
    return mean, deviation
