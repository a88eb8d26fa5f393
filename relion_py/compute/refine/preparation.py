"""Images of particles as the expectation compares them: moved, normalised, masked, transformed; with their CTFs.

Source: ml_optimiser.cpp, getFourierTransformsAndCtfs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.base import Backend
from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.backend.work import Array
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.image.fourier import phase_shift
from relion_py.compute.post.sharpening import read_detectors, relative_mtf
from relion_py.compute.refine import helical
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.images import DiscPixels, PreparedImages, noise_images
from relion_py.compute.refine.model import ModelState, OptimiserState, SamplingState
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.options import RefineOptions

SCALE_DATA_VS_PRIOR = 3.0
"""Scales are estimated where the signal exceeds the prior by this factor."""


@dataclass
class ImagePreparation:
    """What all images of a run are prepared with.

    params: the particles' CTFs, None without CTF correction; geometries, aberrations: of each optics group's images;
    diameter: of the particles' mask, A.
    """

    options: RefineOptions
    particles: ParticleSet
    params: CtfParams | None
    state: OptimiserState
    sampling: SamplingState
    geometries: Sequence[ImageGeometry]
    aberrations: Sequence[Aberrations]
    diameter: float

    def __post_init__(self) -> None:
        self.do_scale = self.options.do_scale_correction and self.particles.nr_groups > 1
        self.detectors = read_detectors(self.particles.table.optics_groups)
        groups = self.particles.table.optics_groups
        self.premultiplied = [self.params is not None and group.ctf_premultiplied for group in groups]

    def ctf(self, index: NDArray[np.int64], pixels: DiscPixels, backend: Backend | None = None) -> Array:
        """CTF (N, P) of particles whose images have one geometry, 1 without CTF correction.

        CTF^2 of particles that are multiplied with theirs already: what turns a projection into their image. It lies
        where the backend, if one is given, has its arrays.
        """
        backend = backend or CpuBackend()
        if self.params is None:
            return backend.xp.ones((len(index), pixels.size), np.float32)
        groups = self.particles.optics_group[index]
        values = []
        for g in np.unique(groups):
            aberrations, geometry = self.aberrations[g], self.geometries[g]
            ctf = backend.ctf_values(
                self.params[index[groups == g]],
                pixels.kx,
                pixels.ky,
                geometry.box,
                geometry.pixel_size,
                intact_first_peak=self.options.ctf_intact_first_peak,
                absolute=self.options.ctf_phase_flipped,
                only_flip_phases=self.options.only_flip_phases,
                magnification=aberrations.magnification,
                gamma_offset=aberrations.gamma_offset(pixels.kx, pixels.ky, geometry.box, geometry.pixel_size),
            )
            if self.premultiplied[g]:
                ctf *= ctf
            values.append(ctf)
        if len(values) == 1:
            return values[0]
        back = np.argsort(np.argsort(groups, kind="stable"))
        return backend.xp.concatenate(values)[backend.to_device(back)]

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
        """Particles of one geometry (N, box, box) as the model's references are compared with them at two sizes.

        means (N,): those of the images, which are changed. reconstructed: the images that are back-projected instead
        of these, if so, with their means.
        """
        p, options = self.particles, self.options
        geometry = self.geometries[p.optics_group[index[0]]]
        box, pixel_size = geometry.box, geometry.pixel_size
        norm = self.norm(model, index)
        origin = self.origins(index, geometry)
        turn = helical.turns(p.psi[index]) if options.helical_symmetry else None
        if turn is not None and not (options.keeps_orientations or helical.is_local(model, self.sampling, options)):
            # offsets along the helix begin anew
            origin = helical.to_image(helical.to_frame(origin, turn) * [0.0, 1.0], turn)
        shift = np.floor(origin + 0.5).astype(np.int64)
        # without a search for offsets the images are moved all the way
        rest = origin - shift if options.skip_align else None
        tube_radius = options.helical_outer_diameter / (2.0 * pixel_size)
        how = (
            shift,
            geometry.gain / norm,
            self.diameter / (2.0 * pixel_size),
            float(options.mask_edge),
            fine,
            self.noise(model, index, geometry),
            (p.psi[index], tube_radius) if options.masks_tubes else None,
        )
        unmasked, masked, spectrum, masked_means = backend.transform_images(images, *how)
        if reconstructed is not None:
            unmasked = backend.transform_images(reconstructed, *how)[0]
        self.undo_optics(index, fine, backend, unmasked, masked)
        if rest is not None:
            phase = backend.to_device(phase_shift(fine.kx, fine.ky, rest[:, 0], rest[:, 1], box))
            unmasked, masked = unmasked * phase, masked * phase
        scale = self.scale(model, index)
        ctf = self.ctf(index, fine, backend)
        ctf *= backend.to_device(scale[:, None].astype(np.float32))
        ctf_at_origin = backend.to_host(self.ctf(index, DiscPixels.origin(), backend))[:, 0] * scale
        old_offset = np.asarray(shift if rest is None else origin, np.float64) * pixel_size
        return PreparedImages(
            index=index,
            masked=masked,
            unmasked=unmasked,
            ctf=ctf,
            optics=p.optics_group[index],
            group=p.group[index],
            scale=scale,
            old_offset=old_offset if turn is None else helical.to_frame(old_offset, turn),
            turn=turn,
            spectrum=spectrum,
            applied_norm=norm,
            fine=fine,
            coarse=coarse,
            coarse_in_fine=coarse.positions_in(fine),
            scale_shells=model.data_vs_prior_class.max(axis=0) > SCALE_DATA_VS_PRIOR,
            origin=np.stack([means * geometry.gain / norm, ctf_at_origin, masked_means], axis=1),
            premultiplied=self.premultiplied[p.optics_group[index[0]]],
        )

    def norm(self, model: ModelState, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the images (N,) are divided by."""
        if not self.options.do_norm_correction:
            return np.ones(len(index))
        return self.particles.norm_correction[index] / model.avg_norm_correction

    def origins(self, index: NDArray[np.int64], geometry: ImageGeometry) -> NDArray[np.float64]:
        """The particles' origins (N, 2), pixels of their images."""
        p = self.particles
        return np.stack([p.origin_x[index], p.origin_y[index]], axis=1) / geometry.pixel_size

    def noise(self, model: ModelState, index: NDArray[np.int64], geometry: ImageGeometry) -> NDArray[np.float32] | None:
        """What fills the images' solvent (N, box, box); None: their mean there."""
        if self.options.zero_mask:
            return None
        sigma2 = geometry.of_images(model.sigma2_noise[self.particles.optics_group[index]])
        return noise_images(sigma2, geometry.box, self.state.random_seed + index)

    def scale(self, model: ModelState, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scale corrections (N,) of the particles' groups."""
        if not self.do_scale:
            return np.ones(len(index))
        return np.maximum(model.scale_correction[self.particles.group[index]], 0.001)

    def undo_optics(
        self, index: NDArray[np.int64], pixels: DiscPixels, backend: Backend, *transforms: Array, again: bool = False
    ) -> None:
        """Takes what asymmetrical aberrations did out of transforms (N, P), in place; again: puts it in instead.

        Of several detectors each becomes their mean (obs_model.cpp, demodulatePhase and divideByMtf).
        """
        groups = self.particles.optics_group[index]
        for g in np.unique(groups):
            geometry = self.geometries[g]
            factors = self.aberrations[g].phase_factors(pixels.kx, pixels.ky, geometry.box, geometry.pixel_size)
            if self.detectors:
                frequency = np.hypot(pixels.kx, pixels.ky) / (geometry.box * geometry.pixel_size)
                factors = (1.0 if factors is None else factors) / relative_mtf(self.detectors, int(g), frequency)
            if factors is not None:
                mine = backend.to_device(np.nonzero(groups == g)[0])
                factors = backend.to_device((1.0 / factors if again else factors).astype(np.complex64))
                for each in transforms:
                    each[mine] *= factors
