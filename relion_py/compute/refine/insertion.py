"""How particles enter a reconstruction: back-projected images, or CTFs, with their weights.

Facts: RELION 5, reconstructor.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams, ctf_phases, ctf_values, electron_wavelength
from relion_py.compute.image.fourier import disc_pixels, frequencies, gather, half_transform, phase_shift
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.io.particles import OpticsGroup, ParticleTable
from relion_py.compute.post.sharpening import read_detectors, relative_mtf
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.ewald import EwaldSettings, insert_curved, overlap_weight, part_images
from relion_py.compute.refine.projector import FourierReference

_BATCH = 200
_EWALD_BATCH = 20  # whole transforms of images, several of each


@dataclass(frozen=True)
class Settings:
    """How the particles enter the map: see the program's flags of the same names."""

    ctf: bool = False
    intact_first_peak: bool = False
    phase_flipped: bool = False
    only_flip_phases: bool = False
    fom_weighting: bool = False
    angular_error: float = 0.0
    shift_error: float = 0.0
    flat: bool = False
    quiet: bool = False
    ewald: EwaldSettings | None = None
    subtracted: FourierReference | None = None
    ctf_volume: bool = False
    squared: bool = False


class Insertion:
    """The particles of a table on their way into the sums of a map with pixels of `angpix` A.

    Images of another box or pixel size are scaled to it. Columns are read from their text once, not for each batch.
    """

    def __init__(self, table: ParticleTable, sums: BackProjector, angpix: float, settings: Settings) -> None:
        self.table, self.sums, self.angpix, self.settings = table, sums, angpix, settings
        self.detectors = read_detectors(table.optics_groups) if settings.ctf else []
        self.at_a_time = _BATCH if settings.ewald is None else _EWALD_BATCH
        self._random = np.random.default_rng()
        self._columns: dict[str, NDArray[np.float64]] = {}

    def insert(self, number: int, rows: NDArray[np.int64]) -> None:
        """Back-project the particles `rows`, all of the optics group of this number (from 0), at_a_time at most."""
        if self.settings.ctf_volume:
            self._insert_ctfs(number, rows)
        elif self.settings.ewald is not None:
            self._insert_curved(number, rows)
        else:
            self._insert_images(number, rows)

    def _insert_images(self, number: int, rows: NDArray[np.int64]) -> None:
        """Back-project the particles `rows`, all of the optics group of this number (from 0)."""
        group = self.table.optics_groups[number]
        images = self.table.read_images(rows)
        box = images.shape[-1]
        scale = self.sums.box * self.angpix / (box * group.pixel_size)
        fault = Aberrations.of_group(group.values, group.voltage, group.cs)
        kx, ky = _pixels(box, self.sums.r_max, scale * fault.distortion)
        values = gather(half_transform(images), kx, ky) / np.float32(box) ** 2
        values[:, (kx == 0) & (ky == 0)] = 0  # the mean of an image says nothing, but its weight counts
        shift, angles = self._poses(rows)
        values *= phase_shift(kx, ky, shift[0] / group.pixel_size, shift[1] / group.pixel_size, box)
        weights = np.ones(values.shape, np.float32)
        # A pixel of another pixel size or box lies at another radius of the map's transform.
        matrices = euler_to_matrix(*angles) * scale
        matrices[:, :2] = fault.distortion @ matrices[:, :2]
        expected = None  # of the map that is subtracted, in an image without a CTF
        if self.settings.subtracted is not None:
            expected = self.settings.subtracted.project(matrices, kx, ky) * np.float32(scale**2)
            expected[:, (kx == 0) & (ky == 0)] = 0
        if self.settings.ctf:
            undo = fault.phase_factors(kx, ky, box, group.pixel_size)
            if undo is not None:
                values *= undo
            if self.detectors:
                values *= 1 / relative_mtf(self.detectors, number, np.hypot(kx, ky) / (box * group.pixel_size))
            ctf = self._ctf(group, rows, kx, ky, box, fault)
            values *= 1 if group.ctf_premultiplied else ctf
            weights = ctf * ctf
        if expected is not None:
            values -= weights * expected
        if self.settings.fom_weighting:
            fom = self._merits(rows)
            values, weights = values * fom, weights * fom
        self.sums.insert(values, weights, matrices, kx, ky)

    def _insert_ctfs(self, number: int, rows: NDArray[np.int64]) -> None:
        """As `_insert_images`, the CTFs, or their squares, instead of images."""
        group = self.table.optics_groups[number]
        box = group.box_size
        if not box > 0:
            raise UserError(
                f"{self.table.star.path} does not tell the size of the images (_rlnImageSize) in its optics table."
            )
        scale = self.sums.box * self.angpix / (box * group.pixel_size)
        fault = Aberrations.of_group(group.values, group.voltage, group.cs)
        kx, ky = _pixels(box, self.sums.r_max, scale * fault.distortion)
        matrices = euler_to_matrix(*self._poses(rows)[1]) * scale
        matrices[:, :2] = fault.distortion @ matrices[:, :2]
        values = self._ctf(group, rows, kx, ky, box, fault)
        if self.settings.squared:
            values = values * values
        weights = np.ones(values.shape, np.float32)
        if self.settings.fom_weighting:
            fom = self._merits(rows)
            values, weights = values * fom, weights * fom
        self.sums.insert(values, weights, matrices, kx, ky)

    def _insert_curved(self, number: int, rows: NDArray[np.int64]) -> None:
        """As `_insert_images`, on the two sides of the Ewald sphere (:mod:`relion_py.compute.refine.ewald`)."""
        ewald, group = self.settings.ewald, self.table.optics_groups[number]
        assert ewald is not None
        images = self.table.read_images(rows)
        box, pixel = images.shape[-1], group.pixel_size
        transforms = half_transform(images) / np.float32(box) ** 2
        shape = transforms.shape
        columns, lines = np.meshgrid(np.arange(box // 2 + 1, dtype=np.int32), frequencies(box))
        kx, ky = columns.ravel(), lines.ravel()
        shift, angles = self._poses(rows)
        factors = phase_shift(kx, ky, shift[0] / pixel, shift[1] / pixel, box)
        fault = Aberrations.of_group(group.values, group.voltage, group.cs)
        undo = fault.phase_factors(kx, ky, box, pixel)
        if undo is not None:
            factors = factors * undo
        if self.detectors:
            factors = factors * 1 / relative_mtf(self.detectors, number, np.hypot(kx, ky) / (box * pixel))
        params = self._ctf_params[rows]
        gamma = ctf_phases(
            params, kx, ky, box, pixel,
            magnification=fault.magnification, gamma_offset=fault.gamma_offset(kx, ky, box, pixel),
        )  # fmt: skip
        sides = part_images(
            (transforms * factors.reshape(shape)).astype(np.complex64), gamma.reshape(shape), pixel, ewald
        )
        scale = self.sums.box * self.angpix / (box * pixel)
        kx, ky = _pixels(box, self.sums.r_max, scale * fault.distortion)
        if ewald.weigh:  # the even aberrations do not count here (applyWeightEwaldSphereCurvature_noAniso)
            ctf = ctf_values(params, kx, ky, box, pixel, magnification=fault.magnification)
            ctf = overlap_weight(ctf, params, kx / (box * pixel), ky / (box * pixel), ewald.diameter)
        else:
            ctf = self._ctf(group, rows, kx, ky, box, fault)
        merits = self._merits(rows) if self.settings.fom_weighting else np.float32(1)
        once = (kx > 0) | (ky >= 0)
        x, y = fault.distortion.T.astype(float) @ np.stack([kx[once], ky[once]])
        curvature = electron_wavelength(group.voltage) / (2 * box * pixel)
        for side, sign in zip(sides, (1, -1), strict=True):
            values = gather(side, kx[once], ky[once]) * merits
            weights = (ctf * ctf * merits)[:, once]
            insert_curved(self.sums, values, weights, euler_to_matrix(*angles) * scale, x, y, sign * float(curvature))

    def _poses(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Origins x, y in A (2, N) and rot, tilt, psi in degrees (3, N), with the errors that are asked for."""
        shift = np.stack([self._column(f"rlnOrigin{axis}Angst", 0.0)[rows] for axis in "XY"])
        shift += self._random.normal(0, self.settings.shift_error, shift.shape)
        angles = np.zeros((3, len(rows)))
        for axis, name in enumerate(("Rot", "Tilt", "Psi")):
            if name == "Psi" or not self.settings.flat:
                error = self._random.normal(0, self.settings.angular_error, len(rows))
                angles[axis] = self._column(f"rlnAngle{name}")[rows] + error
        return shift, angles

    def _merits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._column("rlnParticleFigureOfMerit")[rows, None].astype(np.float32)

    def _ctf(
        self,
        group: OpticsGroup,
        rows: NDArray[np.int64],
        kx: NDArray[np.int32],
        ky: NDArray[np.int32],
        box: int,
        fault: Aberrations,
    ) -> NDArray[np.float32]:
        return ctf_values(
            self._ctf_params[rows], kx, ky, box, group.pixel_size,
            magnification=fault.magnification,
            gamma_offset=fault.gamma_offset(kx, ky, box, group.pixel_size),
            intact_first_peak=self.settings.intact_first_peak,
            absolute=self.settings.phase_flipped,
            only_flip_phases=self.settings.only_flip_phases and not self.settings.phase_flipped,
        )  # fmt: skip

    def _column(self, label: str, default: float | None = None) -> NDArray[np.float64]:
        if label not in self._columns:
            self._columns[label] = self.table.finite(label, default)
        return self._columns[label]

    @cached_property
    def _ctf_params(self) -> CtfParams:
        return ctf_params(self.table)


def _pixels(box: int, r_max: int, distortion: NDArray[np.floating]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pixels kx, ky of an image's transform that may lie within `r_max` of the map's, those of its corners too.

    box: of the image, even; distortion (2, 2): where a pixel of the image lies in the plane of the map's transform.
    """
    reach = r_max / np.linalg.svd(distortion, compute_uv=False)[-1]
    kx, ky = disc_pixels(min(float(reach) + 1e-3, box), include_dc=True)
    inside = (kx <= box // 2) & (ky <= box // 2) & (ky > -box // 2)
    return kx[inside], ky[inside]
