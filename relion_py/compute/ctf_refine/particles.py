"""What fits look at: particles of one micrograph and optics group beside their predictions from the references.

Transforms are lists of Fourier pixels, one of each Friedel pair, divided by box^2, phases referred to the centre.
A prediction is the projection in the particle's last pose, times the detector's MTF; neither the CTF nor the
aberrations are in it.  Facts: RELION 5, jaz/single_particle/obs_model.cpp (predictObservation, applyAnisoMag,
applyScaleDifference) and stack_helper.cpp (loadStackFS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image import fft
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams, ctf_image, ctf_values
from relion_py.compute.image.fourier import disc_pixels, frequencies, phase_shift, resize_map
from relion_py.compute.io.particles import OpticsGroup, ParticleTable
from relion_py.compute.post.sharpening import read_mtf
from relion_py.compute.refine.half_maps import References

_NEEDED = ("rlnMicrographName", "rlnDefocusU", "rlnRandomSubset", "rlnOriginXAngst", "rlnOriginYAngst")
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def check_columns(table: ParticleTable) -> None:
    """UserError for particles that cannot be predicted: no pose, no half, no CTF, or not images."""
    lacking = [label for label in (*_NEEDED, *_ANGLES) if label not in table]
    if lacking:
        raise UserError(f"{table.path} lacks _{', _'.join(lacking)}; give the _data.star of a 3D auto-refinement.")
    halves = table.ints("rlnRandomSubset")
    if not np.isin(halves, (1, 2)).all():
        raise UserError(f"{table.path}: _rlnRandomSubset must be 1 or 2 for every particle.")
    for group in table.optics_groups:
        where = f'{table.path}: optics group "{group.name}"'
        if group.dimensionality != 2:
            raise UserError(f"{where} has sub-tomograms; the CTF is refined against images.")
        if group.box_size < 2 or group.box_size % 2:
            raise UserError(f"{where} needs an even _rlnImageSize.")
        if group.ctf_premultiplied:
            raise UserError(f"{where} has images multiplied with their CTF, which tell no better one; extract without.")


@dataclass(frozen=True)
class Optics:
    """An optics group and its Fourier pixels: all that the FSC counts, one of each Friedel pair.

    number from 1, as in names of files. kx, ky int32 (P,). mtf float64 (P,) or None. pad_ctf: CTFs are cut in real
    space as the images were.
    """

    number: int
    name: str
    box: int
    angpix: float
    voltage: float
    cs: float
    aberrations: Aberrations
    kx: NDArray[np.int32]
    ky: NDArray[np.int32]
    mtf: NDArray[np.float64] | None = None
    pad_ctf: bool = False

    @classmethod
    def of_group(cls, group: OpticsGroup, number: int, references: References, pad_ctf: bool = False) -> Optics:
        """UserError for aberrations and MTFs that cannot be read."""
        length = group.box_size * group.pixel_size
        kx, ky = disc_pixels(min(references.finest * length, group.box_size // 2 - 1))
        mtf = None
        if group.mtf:
            if not group.original_pixel_size > 0:
                raise UserError(
                    f'Optics group "{group.name}" has an MTF but no _rlnMicrographOriginalPixelSize to read it with.'
                )
            mtf = read_mtf(group.mtf, group.original_pixel_size).at(np.hypot(kx, ky) / length)
        return cls(
            number, group.name, group.box_size, group.pixel_size, group.voltage, group.cs,
            Aberrations.of_group(group.values, group.voltage, group.cs), kx, ky, mtf, pad_ctf,
        )  # fmt: skip

    @property
    def length(self) -> float:
        """Side of the box, A."""
        return self.box * self.angpix

    @cached_property
    def frequency(self) -> NDArray[np.float64]:
        """|k| in 1/A of the image as it is (P,)."""
        return np.hypot(self.kx, self.ky) / self.length

    @cached_property
    def undistorted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Frequencies x, y in 1/A (P,) with the magnification taken out: those of the CTF and of aberrations."""
        x, y = self.kx / self.length, self.ky / self.length
        matrix = self.aberrations.magnification
        if matrix is None:
            return x, y
        return matrix[0, 0] * x + matrix[0, 1] * y, matrix[1, 0] * x + matrix[1, 1] * y

    @cached_property
    def gamma_offset(self) -> NDArray[np.float64] | None:
        """What even aberrations add to the CTF's phase (P,), radians."""
        return self.aberrations.gamma_offset(self.kx, self.ky, self.box, self.angpix)

    @cached_property
    def demodulation(self) -> NDArray[np.complex64] | None:
        """What takes the odd aberrations out of an image (P,)."""
        return self.aberrations.phase_factors(self.kx, self.ky, self.box, self.angpix)

    def ctf(self, params: CtfParams, *, damping: bool = True) -> NDArray[np.float32]:
        """CTFs float32 (n, P), with even aberrations and magnification."""
        options = {"damping": damping, "magnification": self.aberrations.magnification}
        if not self.pad_ctf:
            offset = self.gamma_offset
            return ctf_values(params, self.kx, self.ky, self.box, self.angpix, gamma_offset=offset, **options)  # type: ignore[arg-type]
        wide = 2 * self.box
        ky, kx = np.meshgrid(frequencies(wide), np.arange(wide // 2 + 1, dtype=np.int32), indexing="ij")
        offset = self.aberrations.gamma_offset(kx.ravel(), ky.ravel(), wide, self.angpix)
        out = np.empty((len(params), len(self.kx)), np.float32)
        for n in range(len(params)):
            half = ctf_image(params[n], wide, self.angpix, gamma_offset=offset, **options)[0]
            out[n] = _cut_in_real_space(half)[self.ky + self.box // 2, self.kx + self.box // 2]
        return out


def _cut_in_real_space(half: NDArray[np.float32]) -> NDArray[np.float32]:
    """A CTF of a doubled box (2 s, s + 1) as that of a box of s pixels: (s, s), origin at s // 2.

    Source: ctf.cpp, getFftwImage (do_ctf_padding).
    """
    wide = len(half)
    whole = np.zeros((wide, wide), np.float32)
    k = np.arange(-wide // 2 + 1, wide // 2)
    right = half[k % wide][:, : wide // 2]
    whole[1:, wide // 2 :] = right
    whole[1:, 1 : wide // 2 + 1] = right[::-1, ::-1]
    return resize_map(whole, wide // 2)


@dataclass
class Views:
    """n particles of one micrograph and optics group, their images and predictions, complex64 (n, P).

    rows: their rows in the table. half: 0 or 1. rotations float32 (n, 3, 3): Euler matrices whose first two rows take
    pixels of the image into the reference's transform. scale: what projections of the reference are multiplied with.
    """

    optics: Optics
    rows: NDArray[np.int64]
    half: NDArray[np.int64]
    rotations: NDArray[np.float32]
    observed: NDArray[np.complex64]
    predicted: NDArray[np.complex64]
    scale: float

    @cached_property
    def power(self) -> NDArray[np.float32]:
        """|prediction|^2 (n, P)."""
        return self.predicted.real**2 + self.predicted.imag**2

    @cached_property
    def cross(self) -> NDArray[np.complex64]:
        """conj(prediction) * image (n, P): its phase is what the optics added, its sign the CTF's."""
        return self.predicted.conj() * self.observed

    @cached_property
    def agreement(self) -> NDArray[np.float32]:
        """Real part of the cross term with the known odd aberrations taken out (n, P)."""
        undo = self.optics.demodulation
        return np.ascontiguousarray((self.cross if undo is None else self.cross * undo).real)


def read_views(
    table: ParticleTable, rows: Sequence[int] | NDArray[np.int64], optics: Optics, references: References
) -> Views:
    """Read the images of these particles, all of one optics group, and predict them."""
    rows = np.asarray(rows, np.int64)
    part = table.select(rows)
    observed = _observed(table.read_images(rows), part, optics)
    half = part.ints("rlnRandomSubset") - 1
    rotations, scale = _rotations(part, optics, references)
    predicted = np.empty_like(observed)
    for number in (0, 1):
        here = half == number
        if here.any():
            predicted[here] = references.halves[number].project(rotations[here], optics.kx, optics.ky)
    predicted *= np.float32(scale) if optics.mtf is None else (scale * optics.mtf).astype(np.float32)
    return Views(optics, rows, half, rotations, observed, predicted, scale)


def _observed(images: NDArray[np.float32], part: ParticleTable, optics: Optics) -> NDArray[np.complex64]:
    """Transforms (n, P) of the images with the particles moved to the centre."""
    box = optics.box
    if images.shape[1:] != (box, box):
        raise UserError(
            f"{part.strings('rlnImageName')[0]} is {images.shape[2]} x {images.shape[1]} pixels, but {part.path} says "
            f"{box} x {box}: extract the particles again."
        )
    transforms = fft.rfft2(images, workers=1)
    sign = np.where((optics.kx + optics.ky) % 2 == 0, 1.0, -1.0).astype(np.float32) / box**2
    observed = transforms[:, optics.ky % box, optics.kx] * sign
    shift = [part.floats(f"rlnOrigin{axis}Angst") / optics.angpix for axis in "XY"]
    observed *= phase_shift(optics.kx, optics.ky, shift[0], shift[1], box)
    return np.ascontiguousarray(observed)


def _rotations(part: ParticleTable, optics: Optics, references: References) -> tuple[NDArray[np.float32], float]:
    """Matrices that take pixels of the image into the reference, and the factor of amplitudes.

    Transforms are divided by their boxes' squares, hence a factor where image and reference differ in extent.
    """
    matrices = euler_to_matrix(*(part.floats(label) for label in _ANGLES))
    ratio = references.length / optics.length
    matrices[:, :2] = (
        np.einsum("ij,njk->nik", optics.aberrations.distortion.astype(np.float64), matrices[:, :2]) * ratio
    )
    return matrices.astype(np.float32), ratio**2
