"""Images of particles as one of their bodies sees them: the other bodies subtracted, the body itself in the centre.

The others are projected at their own last poses and subtracted in real space, before the mask around the body. Source:
ml_optimiser.cpp, getFourierTransformsAndCtfs. There, images are moved to the nearest whole pixel and what is left ends
up in the bodies' origins, while the others are subtracted where their origins alone put them, up to half a pixel away;
here the fraction of a pixel is made good in Fourier space, so that origins are those of the bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.base import Backend
from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.backend.work import Array
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.fourier import phase_shift, real_image, scatter
from relion_py.compute.refine.bodies import Bodies
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.images import DiscPixels, PreparedImages
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.preparation import ImagePreparation
from relion_py.compute.refine.projector import FourierReference


@dataclass
class BodyModel(ModelState):
    """One body of a model, as a model of one class; number `body` from 0, and the transforms of the others."""

    body: int = 0
    others: list[tuple[int, FourierReference]] = field(default_factory=list)

    @classmethod
    def of(
        cls, model: ModelState, body: int, others: Sequence[tuple[int, FourierReference]], sigma: float
    ) -> BodyModel:
        """Body number `body` of a model whose prior on offsets is `sigma` A wide; its arrays are those of the model."""
        values = dict(vars(model))
        for name in (
            "pdf_class", "accuracy_rot", "accuracy_trans", "estimated_resolution", "total_fourier_coverage",
            "prior_offset_class", "pdf_direction", "tau2_class", "sigma2_class", "data_vs_prior_class",
            "fourier_coverage_class", "fsc_halves_class",
        ):  # fmt: skip
            values[name] = values[name][body : body + 1]
        values |= {"references": [model.references[body]], "sigma_offset": sigma, "bodies": None}
        return cls(**values, body=body, others=list(others))


def project_bodies(
    bodies: Bodies, references: Sequence[tuple[int, FourierReference]], particles: ParticleSet,
    index: NDArray[np.int64], kx: NDArray, ky: NDArray, box: int, pixel_size: float, reference_pixel: float,
    distortion: NDArray[np.floating],
) -> NDArray[np.complex64]:  # fmt: skip
    """Sum of the projections (N, P) of some bodies where they are in the images of particles `index`, without CTF.

    references: bodies' numbers and transforms, their centres in that of the box; box and pixel_size (A) of the images,
    reference_pixel (A) of the maps; distortion (2, 2): see `estep_numba.block_rotations`.
    """
    p = particles
    consensus = euler_to_matrix(p.rot[index], p.tilt[index], p.psi[index])
    origin = np.stack([p.origin_x[index], p.origin_y[index]], axis=1)
    total = np.zeros((len(index), len(kx)), np.complex64)
    for number, reference in references:
        poses = p.bodies[number]
        residual = euler_to_matrix(poses.rot[index], poses.tilt[index], poses.psi[index])
        matrices = bodies[number].own_matrices(consensus, residual)
        matrices[:, :2] = distortion @ matrices[:, :2]
        at = (consensus @ (bodies[number].centre * reference_pixel))[:, :2] - origin
        at = (at - np.stack([poses.origin_x[index], poses.origin_y[index]], axis=1)) / pixel_size
        projections = reference.project(matrices, kx, ky)
        projections *= phase_shift(kx, ky, at[:, 0], at[:, 1], box)
        total += projections
    return total


@dataclass
class BodyPreparation(ImagePreparation):
    """Prepares the images of one body at a time; the model it is given is a `BodyModel`.

    reference_pixel: A, of the maps, in whose pixels the bodies' centres are.
    """

    bodies: Bodies | None = None
    reference_pixel: float = 1.0

    def prepare(
        self,
        backend: Backend,
        model: ModelState,
        index: NDArray[np.int64],
        images: Array,
        means: NDArray[np.float64],
        coarse: DiscPixels,
        fine: DiscPixels,
        reconstructed: NDArray[np.float32] | None = None,
    ) -> PreparedImages:
        """As `ImagePreparation.prepare`, of the model's body; other images are not back-projected."""
        assert reconstructed is None  # refused
        assert isinstance(model, BodyModel) and self.bodies is not None
        assert isinstance(backend, CpuBackend)  # --gpu is refused
        p, body = self.particles, self.bodies[model.body]
        geometry = self.geometries[p.optics_group[index[0]]]
        box, pixel_size = geometry.box, geometry.pixel_size
        consensus = euler_to_matrix(p.rot[index], p.tilt[index], p.psi[index])
        norm, scale = self.norm(model, index), self.scale(model, index)
        factor = geometry.gain / norm

        # the pixels with the origin in front: a body's mean counts before it is masked
        kx, ky, shell = (np.concatenate([[0], k]).astype(np.int32) for k in (fine.kx, fine.ky, fine.shell))
        wide = DiscPixels(kx, ky, shell, fine.r_max)
        ctf = self.ctf(index, wide, backend)
        ctf *= scale[:, None].astype(np.float32)
        subtracted = np.empty_like(images)

        def subtract(first: int, last: int) -> None:
            some = slice(first, last)
            others = self._others(model, index[some], wide, geometry) * ctf[some]
            self.undo_optics(index[some], wide, backend, others, again=True)
            subtracted[some] = images[some] - self._in_real_space(others, wide, box, factor[some])

        backend.map(subtract, backend.ranges(len(index)))
        centre = body.centre * (self.reference_pixel / pixel_size)
        origin = self.origins(index, geometry) - (consensus @ centre)[:, :2]
        shift = np.floor(origin + 0.5).astype(np.int64)
        residual = self._residual(model.body, index) / pixel_size
        how = (
            shift,
            factor,
            (body.radius + self.sampling.offset_range) / pixel_size,
            float(self.options.mask_edge),
            fine,
            self.noise(model, index, geometry),
            None,
        )
        if self.options.reconstruct_subtracted:
            means = subtracted.mean(axis=(1, 2), dtype=np.float64)
        unmasked, masked, spectrum, masked_means = backend.transform_images(subtracted, *how)
        if not self.options.reconstruct_subtracted:  # the whole particle is back-projected
            unmasked = backend.transform_images(images, *how)[0]
        self.undo_optics(index, fine, backend, unmasked, masked)
        rest = origin - shift + residual
        phase = phase_shift(fine.kx, fine.ky, rest[:, 0], rest[:, 1], box)
        return PreparedImages(
            index=index,
            masked=masked * phase,
            unmasked=unmasked * phase,
            ctf=np.ascontiguousarray(ctf[:, 1:]),
            optics=p.optics_group[index],
            group=p.group[index],
            scale=scale,
            old_offset=residual * pixel_size,
            spectrum=spectrum,
            applied_norm=norm,
            fine=fine,
            coarse=coarse,
            coarse_in_fine=coarse.positions_in(fine),
            scale_shells=np.zeros(model.nr_shells, np.bool_),
            origin=np.stack([means * factor, ctf[:, 0], masked_means], axis=1),
            premultiplied=self.premultiplied[p.optics_group[index[0]]],
        )

    def _residual(self, body: int, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Residual origins (N, 2) A of a body of these particles."""
        poses = self.particles.bodies[body]
        return np.stack([poses.origin_x[index], poses.origin_y[index]], axis=1)

    def _others(
        self, model: BodyModel, index: NDArray[np.int64], pixels: DiscPixels, geometry: ImageGeometry
    ) -> NDArray[np.complex64]:
        """Sum of the projections (N, P) of the other bodies where they are in the images, without CTF."""
        assert self.bodies is not None
        p = self.particles
        distortion = self.aberrations[p.optics_group[index[0]]].distortion / geometry.ratio
        return project_bodies(
            self.bodies, model.others, p, index, pixels.kx, pixels.ky, geometry.box, geometry.pixel_size,
            self.reference_pixel, distortion,
        )  # fmt: skip

    @staticmethod
    def _in_real_space(
        transforms: NDArray[np.complex64], pixels: DiscPixels, box: int, factor: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """The images (N, box, box) of transforms divided by box^2, divided by factor (N,)."""
        whole = scatter(transforms * np.float32(box) ** 2, pixels.kx, pixels.ky, box)
        return (real_image(whole, box) / factor[:, None, None]).astype(np.float32)
