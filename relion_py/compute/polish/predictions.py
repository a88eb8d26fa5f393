"""What particles should look like, as the half maps of a refinement foretell it, and how far that is known.

Source: RELION 5, src/jaz/single_particle/reference_map.cpp (predict) and obs_model.cpp (predictObservation).
Unlike there, the CTF is applied once even where the refined particles had been multiplied with it, because the movies
have not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import ctf_values
from relion_py.compute.image.fourier import frequencies, phase_shift
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.post.sharpening import read_mtf
from relion_py.compute.refine.half_maps import locate_references, read_references
from relion_py.compute.refine.projector import FourierReference

NEEDED = (
    "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst", "rlnAngleRot",
    "rlnAngleTilt", "rlnAnglePsi", "rlnRandomSubset", "rlnDefocusU", "rlnDefocusV",
)  # fmt: skip
"""Columns without which particles cannot be predicted, or found in their movies."""


@dataclass(frozen=True)
class HalfMaps:
    """Both references, masked. pixel_size: A. k_out: first shell where their true FSC is below 0.143."""

    references: tuple[FourierReference, FourierReference]
    pixel_size: float
    k_out: int

    @property
    def box(self) -> int:
        """Of the maps, pixels."""
        return self.references[0].box

    def angstrom(self, shell: float) -> float:
        """Resolution (A) of a shell of the maps, and shell of a resolution: the formula is the same."""
        return self.box * self.pixel_size / shell

    def views(self, particles: ParticleTable) -> Views:
        """The particles of one micrograph, ready to be predicted; all must have one box and pixel size."""
        return Views(self, particles)


def read_half_maps(
    fsc: str, half1: str = "", half2: str = "", mask: str = "", pixel_size: float = -1.0, padding: float = 2.0
) -> HalfMaps:
    """Read the half maps, and their mask, that `postprocess.star` names, or those that are given.

    fsc: that STAR file, for the FSC too. pixel_size: A; -1: as the header of the first half says. UserError for
    what is missing or does not fit together.
    """
    files = locate_references(fsc, half1, half2, mask, pixel_size, padding)
    found = read_references(files, lambda text: None, whole=True)
    unsure = np.flatnonzero(found.fsc[1:] == 0.0) + 1
    return HalfMaps(found.halves, found.angpix, int(unsure[0]) if len(unsure) else len(found.fsc))


class Views:
    """How the particles of one micrograph are seen: poses, halves and optics. Safe to use from many threads."""

    def __init__(self, maps: HalfMaps, particles: ParticleTable) -> None:
        groups = [particles.optics_groups[g] for g in np.unique(particles.group_index)]
        self.box, self.pixel_size = groups[0].box_size, groups[0].pixel_size
        self._maps = maps
        self._group = particles.group_index
        self._half = particles.ints("rlnRandomSubset") - 1
        scale = maps.box * maps.pixel_size / (self.box * self.pixel_size)
        angles = (particles.finite(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi"))
        self._rotations = scale * euler_to_matrix(*angles)
        # an image's origin is its pixel (0, 0) here, so the particle at the centre has moved by half a box
        self._x, self._y = (self.box / 2 - particles.finite(f"rlnOrigin{axis}Angst") / self.pixel_size for axis in "XY")
        self._ctf = ctf_params(particles)
        ky, kx = np.meshgrid(frequencies(self.box), np.arange(self.box // 2 + 1, dtype=np.int32), indexing="ij")
        self._kx, self._ky = np.ascontiguousarray(kx.ravel()), np.ascontiguousarray(ky.ravel())
        self._aberrations: dict[int, Aberrations] = {}
        self._factors: dict[int, NDArray[np.complex64] | None] = {}
        for index in np.unique(self._group).tolist():
            group = particles.optics_groups[index]
            found = Aberrations.of_group(group.values, group.voltage, group.cs)
            self._aberrations[index] = found
            mine = self._group == index
            self._rotations[mine, :2] = np.einsum("ij,njk->nik", found.distortion, self._rotations[mine, :2])
            self._factors[index] = self._shared_factors(found, group.mtf, group.original_pixel_size)

    def __len__(self) -> int:
        return len(self._half)

    def predict(self, rows: NDArray[np.int64], opposite: bool = False) -> NDArray[np.complex64]:
        """Transforms / box^2 of the particles' images as the maps foretell them, complex64 (n, box, box // 2 + 1).

        rows: which particles. opposite: from the half to which a particle did not contribute. In the layout of
        rfft2, origin at pixel (0, 0).
        """
        out = np.empty((len(rows), len(self._kx)), np.complex64)
        half = self._half[rows] ^ 1 if opposite else self._half[rows]
        for which in (0, 1):
            mine = np.flatnonzero(half == which)
            if len(mine):
                out[mine] = self._maps.references[which].project(self._rotations[rows[mine]], self._kx, self._ky)
        out *= phase_shift(self._kx, self._ky, self._x[rows], self._y[rows], self.box)
        out *= self.ctf(rows)
        for index, factors in self._factors.items():
            if factors is not None:
                out[self._group[rows] == index] *= factors
        return out.reshape(len(rows), self.box, self.box // 2 + 1)

    def ctf(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Their CTFs, float32 (n, P), as RELION's predictions have them."""
        out = np.empty((len(rows), len(self._kx)), np.float32)
        for index, found in self._aberrations.items():
            mine = np.flatnonzero(self._group[rows] == index)
            if len(mine):
                out[mine] = ctf_values(
                    self._ctf[rows[mine]], self._kx, self._ky, self.box, self.pixel_size,
                    magnification=found.magnification,
                    gamma_offset=found.gamma_offset(self._kx, self._ky, self.box, self.pixel_size),
                )  # fmt: skip
        return out

    def _shared_factors(self, found: Aberrations, mtf: str, detector: float) -> NDArray[np.complex64] | None:
        """What all images of an optics group are multiplied with: odd aberrations and the detector's MTF."""
        factors = found.phase_factors(self._kx, self._ky, self.box, self.pixel_size)
        total = None if factors is None else factors.conj()
        if mtf:
            if not detector > 0:
                raise UserError("An optics group has an MTF but no _rlnMicrographOriginalPixelSize; add it.")
            curve = read_mtf(mtf, detector).at(np.hypot(self._kx, self._ky) / (self.box * self.pixel_size))
            total = curve.astype(np.complex64) if total is None else total * curve.astype(np.float32)
        return total
