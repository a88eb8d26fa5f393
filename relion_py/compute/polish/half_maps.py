"""The two half maps of a refinement as references: what particles should look like, and how far that is known.

Source: RELION 5, src/jaz/single_particle/reference_map.cpp (load, predict) and obs_model.cpp
(predictObservation). Unlike there, the CTF is applied once even where the refined particles had been multiplied
with it, because the movies have not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.image.fourier import frequencies, phase_shift
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.post.sharpening import read_mtf
from relion_py.compute.refine.projector import FourierReference

FSC_THRESHOLD = 0.143
_TRUE_FSC = "rlnFourierShellCorrelationCorrected"

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
    file = star.read(fsc)
    if not (half1 and half2):
        general = file.get("general")
        labels = ("rlnUnfilteredMapHalf1", "rlnUnfilteredMapHalf2", "rlnMaskName")
        if general is None or not all(label in general for label in labels):
            raise UserError(
                f"{fsc} does not name half maps and mask; give the postprocess.star of a run with a mask, or --m1, "
                "--m2 and --mask."
            )
        half1, half2, mask = (general.value(label) for label in labels)
    first, header = read_map(half1)
    second, _ = read_map(half2)
    if first.ndim != 3 or len(set(first.shape)) != 1:
        raise UserError(f"{half1} is no cube.")
    if second.shape != first.shape:
        raise UserError(f"{half1} and {half2} differ in size.")
    if mask:
        weights, _ = read_map(mask)
        if weights.shape != first.shape:
            raise UserError(f"The mask {mask} differs in size from the half maps.")
        first, second = first * weights, second * weights
    pixel_size = header if pixel_size <= 0 else pixel_size
    if pixel_size <= 0:
        raise UserError(f"The header of {half1} does not tell the pixel size; give it with --angpix_ref.")
    pair = (FourierReference.from_map(first, -1, padding), FourierReference.from_map(second, -1, padding))
    return HalfMaps(pair, pixel_size, _last_shell(fsc, file, len(first)))


def _last_shell(path: str, file: star.StarFile, box: int) -> int:
    """The first shell, of those after 0, at which the maps no longer agree (RefinementHelper::drawFSC)."""
    if "fsc" not in file or _TRUE_FSC not in file["fsc"]:
        raise UserError(
            f"{path} has no corrected FSC (_{_TRUE_FSC} in data_fsc); give the postprocess.star of a run with a mask."
        )
    curve = file["fsc"].floats(_TRUE_FSC)
    below = np.flatnonzero(~(curve[1:] >= FSC_THRESHOLD)) + 1
    return min(int(below[0]) if len(below) else len(curve), box // 2 + 1)


class Views:
    """How the particles of one micrograph are seen: poses, halves and optics. Safe to use from many threads."""

    def __init__(self, maps: HalfMaps, particles: ParticleTable) -> None:
        groups = [particles.optics_groups[g] for g in np.unique(particles.group_index)]
        self.box, self.pixel_size = groups[0].box_size, groups[0].pixel_size
        self._maps = maps
        self._group = particles.group_index
        self._half = particles.ints("rlnRandomSubset") - 1
        scale = maps.box * maps.pixel_size / (self.box * self.pixel_size)
        angles = (particles.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi"))
        self._rotations = scale * euler_to_matrix(*angles)
        # an image's origin is its pixel (0, 0) here, so the particle at the centre has moved by half a box
        self._x, self._y = (self.box / 2 - particles.floats(f"rlnOrigin{axis}Angst") / self.pixel_size for axis in "XY")
        self._ctf = CtfParams(
            particles.floats("rlnDefocusU"),
            particles.floats("rlnDefocusV"),
            particles.floats("rlnDefocusAngle", 0.0),
            voltage=particles.per_particle("voltage"),
            cs=particles.per_particle("cs"),
            q0=particles.per_particle("q0"),
            phase_shift=particles.floats("rlnPhaseShift", 0.0),
            bfactor=particles.floats("rlnCtfBfactor", 0.0),
            scale=particles.floats("rlnCtfScalefactor", 1.0),
        )
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
