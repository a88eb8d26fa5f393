"""Subtraction of the projections of part of a map from particles whose poses are known.

What is left of an image X is avg_norm / norm X - scale CTF P((1 - mask) V), with P the projection at the particle's
pose and V the reference of its class and half; it is then moved, by whole pixels, so that the projection of a point of
the map comes to its centre.

Facts: RELION 5, particle_subtractor.cpp (initialise, subtractOneParticle, revert).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import ctf_values
from relion_py.compute.image.fourier import disc_pixels, half_transform, phase_shift, real_image, scatter, shell_grid
from relion_py.compute.image.masks import check_solvent_mask
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.post.sharpening import read_detectors, relative_mtf
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.reference import SAME_PIXEL_SIZE

Images = NDArray[np.float32]


@dataclass
class Subtraction:
    """What is subtracted from the particles of a refinement.

    models: one, or those of the two halves, whose maps are in `references`; they are multiplied with 1 - mask. mask
    (the maps' shape, 0 to 1): density to keep; None to subtract everything. centre (x, y, z): the point of the map,
    in its pixels from its centre, that particles are centred on; None to leave them where they are. ignore_class:
    subtract class 1 from all. Raises UserError for particles that do not go with the models.
    """

    particles: ParticleSet
    options: RefineOptions
    models: tuple[ModelState, ...]
    mask: NDArray[np.floating] | None
    centre: NDArray[np.float64] | None = None
    ignore_class: bool = False
    references: list[list[FourierReference]] = field(init=False)

    def __post_init__(self) -> None:
        model = self.models[0]
        self.box, self.pixel_size = model.ori_size, model.pixel_size
        if self.mask is not None:
            check_solvent_mask(self.mask, model.references[0].shape, "The mask of the density to keep")
        self._check_particles()
        self.references = [self._transforms(m) for m in self.models]
        groups = self.particles.table.optics_groups
        self.aberrations = [Aberrations.of_group(g.values, g.voltage, g.cs) for g in groups]
        self.ctf = ctf_params(self.particles.table) if self.options.ctf else None
        self.detectors = read_detectors(groups) if self.options.ctf else []
        self._scale_group = self._groups_of_the_model() if self.options.do_scale_correction else None

    def _transforms(self, model: ModelState) -> list[FourierReference]:
        """What is to be subtracted of each reference, ready for projection."""
        rest = 1.0 if self.mask is None else 1.0 - np.asarray(self.mask, np.float32)
        return [FourierReference.from_map(v * rest, model.current_size, model.padding_factor) for v in model.references]

    def _check_particles(self) -> None:
        particles, path = self.particles, self.particles.table.path
        for group in particles.table.optics_groups:
            if group.box_size != self.box or abs(group.pixel_size - self.pixel_size) > SAME_PIXEL_SIZE:
                raise UserError(
                    f"{path}: the particles of optics group {group.name} have {group.box_size} pixels of "
                    f"{group.pixel_size:g} A, but the map has {self.box} of {self.pixel_size:g} A: subtraction from "
                    "images of another size is not in this release."
                )
            if group.dimensionality != 2:
                raise UserError(
                    f"{path}: optics group {group.name} holds sub-tomograms, which are not in this release."
                )
        if not self.ignore_class and particles.class_number.max(initial=0) > self.models[0].nr_classes:
            raise UserError(
                f"{path} has particles of class {particles.class_number.max()}, but the optimiser has "
                f"{self.models[0].nr_classes} classes; to subtract a map of a refinement from classified particles, "
                "say --ignore_class."
            )
        if len(self.models) > 1 and not np.isin(particles.random_subset, (1, 2)).all():
            raise UserError(f"{path} does not say in which half (_rlnRandomSubset) each particle was refined.")

    def _groups_of_the_model(self) -> NDArray[np.int64]:
        """Index of each particle's group in the model's list, by its name."""
        names = {name: number for number, name in enumerate(self.models[0].group_names)}
        wanted = self.particles.group_names
        missing = [name for name in wanted if name not in names]
        if missing:
            raise UserError(
                f"{self.particles.table.path}: group {missing[0]} is not among the groups of the refinement, so its "
                "scale is not known; take particles of that refinement."
            )
        return np.array([names[name] for name in wanted], np.int64)[self.particles.group]

    def projections(self, index: NDArray[np.int64]) -> Images:
        """What is subtracted from these particles: float32 (N, box, box), with their CTF, shift and scale."""
        p = self.particles
        out = np.empty((len(index), self.box, self.box), np.float32)
        halves = self._halves(index)
        classes = np.zeros(len(index), np.int64) if self.ignore_class else np.maximum(p.class_number[index] - 1, 0)
        keys = np.stack([halves, classes, p.optics_group[index]], axis=1)
        for half, k, group in np.unique(keys, axis=0):
            mine = (keys == (half, k, group)).all(axis=1)
            out[mine] = self._projections_of(index[mine], int(half), int(k), int(group))
        return out

    def _in_place(
        self, index: NDArray[np.int64], half: int, k: int, kx: NDArray, ky: NDArray, distortion: NDArray
    ) -> NDArray[np.complex64]:
        """Projections (N, P) of class k where they are in the images, without CTF."""
        p = self.particles
        rotations = euler_to_matrix(p.rot[index], p.tilt[index], p.psi[index])
        rotations[:, :2] = distortion @ rotations[:, :2]
        offset = self._offset(index)
        values = self.references[half][k].project(rotations, kx, ky)
        values *= phase_shift(kx, ky, -offset[:, 0], -offset[:, 1], self.box)
        return values

    def _projections_of(self, index: NDArray[np.int64], half: int, k: int, group: int) -> Images:
        p, aberrations, model = self.particles, self.aberrations[group], self.models[half]
        kx, ky = disc_pixels(self.references[half][k].r_max, include_dc=True)
        values = self._in_place(index, half, k, kx, ky, aberrations.distortion)
        if self.ctf is not None:
            values *= ctf_values(
                self.ctf[index],
                kx,
                ky,
                self.box,
                self.pixel_size,
                absolute=self.options.ctf_phase_flipped,
                intact_first_peak=self.options.ctf_intact_first_peak,
                magnification=aberrations.magnification,
                gamma_offset=aberrations.gamma_offset(kx, ky, self.box, self.pixel_size),
            ) ** (2 if p.table.optics_groups[group].ctf_premultiplied else 1)
            factors = aberrations.phase_factors(kx, ky, self.box, self.pixel_size)
            if factors is not None:
                values *= factors.conj()
            if self.detectors:
                values *= relative_mtf(self.detectors, group, np.hypot(kx, ky) / (self.box * self.pixel_size))
        if self._scale_group is not None:
            values *= model.scale_correction[self._scale_group[index], None].astype(np.float32)
        transform = scatter(values * np.float32(self.box) ** 2, kx, ky, self.box)
        return real_image(transform, self.box).astype(np.float32, copy=False)

    def _halves(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of the models (from 0) each particle belongs to."""
        return self.particles.random_subset[index] - 1 if len(self.models) > 1 else np.zeros(len(index), np.int64)

    def _offset(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Origins (N, 2), pixels."""
        return np.stack([self.particles.origin_x[index], self.particles.origin_y[index]], axis=1) / self.pixel_size

    def subtract(self, index: NDArray[np.int64], images: Images) -> Images:
        """The images (N, box, box) of these particles, normalised as in the refinement, less what is subtracted."""
        if self.options.do_norm_correction:
            mean = np.array([model.avg_norm_correction for model in self.models])[self._halves(index)]
            images = images * (mean / self.particles.norm_correction[index])[:, None, None].astype(np.float32)
        return (images - self.projections(index)).astype(np.float32, copy=False)

    def centred(self, index: NDArray[np.int64], images: Images) -> tuple[Images, NDArray[np.float64]]:
        """The images moved by whole pixels, what leaves on one side coming in on the other, and the origins (N, 2), A,
        of the particles then; unchanged without a centre."""
        offset = self._offset(index)
        if self.centre is None:
            return images, offset * self.pixel_size
        p = self.particles
        point = euler_to_matrix(p.rot[index], p.tilt[index], p.psi[index]) @ self.centre
        wanted = offset - point[:, :2]
        whole = nearest_pixels(wanted)
        return rolled(images, whole), (wanted - whole) * self.pixel_size

    def angles(self) -> NDArray[np.float64] | None:
        """rot, tilt and psi (3, all particles), degrees, that particles have now; None: those that they had."""
        return None


def nearest_pixels(offset: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole pixels, halves away from zero."""
    return np.where(offset < 0, np.ceil(offset - 0.5), np.floor(offset + 0.5)).astype(np.int64)


def rolled(images: Images, shift: NDArray[np.int64]) -> Images:
    """The images (N, box, box) moved by shift (N, 2) pixels, what leaves on one side coming in on the other."""
    return np.stack([np.roll(image, (dy, dx), (0, 1)) for image, (dx, dy) in zip(images, shift, strict=True)])


def mass_centre(mask: NDArray[np.floating]) -> NDArray[np.float64]:
    """Centre of mass (x, y, z) of a mask's positive values, pixels from its centre; z is 0 for a 2D mask."""
    weight = np.clip(mask, 0.0, None).astype(np.float64)
    total = float(weight.sum())
    if total <= 0:
        raise UserError("The mask is empty, so it has no centre to centre the particles on.")
    centre = np.zeros(3)
    for axis in range(weight.ndim):
        others = tuple(a for a in range(weight.ndim) if a != axis)
        place = weight.ndim - 1 - axis
        centre[place] = (weight.sum(axis=others) @ (np.arange(weight.shape[axis]) - weight.shape[axis] // 2)) / total
    return centre


@dataclass
class SpectralSnr:
    """Sums over particles of the power per shell of what is subtracted and of what is left, half per component."""

    box: int
    sums: NDArray[np.float64] = field(init=False)  # signal, noise, count

    def __post_init__(self) -> None:
        self.sums = np.zeros((3, self.box // 2 + 1))

    def add(self, signal: Images, rest: Images) -> None:
        """Add images (N, box, box)."""
        shells = shell_grid(self.box).ravel()
        inside = shells <= self.box // 2
        for row, images in enumerate((signal, rest)):
            power = (np.abs(half_transform(images.astype(np.float64)) / self.box**2) ** 2).sum(axis=0).ravel()
            self.sums[row] += np.bincount(shells[inside], power[inside] / 2.0, self.box // 2 + 1)
        self.sums[2] += len(signal) * np.bincount(shells[inside], minlength=self.box // 2 + 1)
