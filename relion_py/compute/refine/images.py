"""Particle images made ready for the expectation step: shifted, masked, transformed and cut to the Fourier disc.

Steps and order of the reference (ml_optimiser.cpp, getFourierTransformsAndCtfs): norm correction, shift by the
rounded old offset, transform of the unmasked image (for the back-projection), soft mask, transform of the masked
image (for the comparison with projections) and its power spectrum. Transforms are divided by box^2 and their phases
refer to the centre of the image, pixel box//2.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image import fft
from relion_py.compute.image.masks import mask_outside, mask_outside_tubes
from relion_py.compute.jit import njit
from relion_py.compute.refine.optics import ImageGeometry


@dataclass(frozen=True)
class DiscPixels:
    """Fourier pixels of a half plane within a disc: 0 < k <= r_max, kx >= 0, and ky > 0 where kx = 0; maybe the origin.

    kx, ky (P,) int32; shell (P,) int32 = round(|k|), or the shell of a reference that this one falls into.
    """

    kx: NDArray[np.int32]
    ky: NDArray[np.int32]
    shell: NDArray[np.int32]
    r_max: int

    @classmethod
    def of_images(cls, size: int, geometry: ImageGeometry, with_origin: bool = False) -> DiscPixels:
        """The pixels of images cut to `size`, with the reference's shells; those beyond its last are left out."""
        disc = cls.of_size(size, with_origin)
        shell = geometry.shells[disc.shell].astype(np.int32)
        known = shell < geometry.reference_shells
        return cls(disc.kx[known], disc.ky[known], shell[known], disc.r_max)

    @classmethod
    def of_size(cls, size: int, with_origin: bool = False) -> DiscPixels:
        """The pixels of images of `size` pixels: r_max = size / 2."""
        r_max = size // 2
        ky, kx = np.meshgrid(np.arange(-r_max, r_max + 1), np.arange(r_max + 1), indexing="ij")
        squared = kx**2 + ky**2
        keep = (squared <= r_max**2) & ((squared > 0) | with_origin) & ~((kx == 0) & (ky < 0))
        kx, ky = kx[keep].astype(np.int32), ky[keep].astype(np.int32)
        return cls(kx, ky, np.rint(np.sqrt(squared[keep])).astype(np.int32), r_max)

    @classmethod
    def origin(cls) -> DiscPixels:
        """The one pixel that no disc has."""
        zero = np.zeros(1, np.int32)
        return cls(zero, zero, zero, 0)

    @property
    def size(self) -> int:
        """Number of pixels P."""
        return len(self.kx)

    def multiplicity(self) -> NDArray[np.float32]:
        """How often (P,) each pixel is in RELION's half transforms, all of which count where images are correlated.

        Pixels with kx = 0 are there with both signs of ky, but for the last (acc_helper_functions_impl.h,
        buildCorrImage).
        """
        return np.where((self.kx == 0) & (self.ky > 0) & (self.ky < self.r_max), 2.0, 1.0).astype(np.float32)

    def positions_in(self, other: DiscPixels) -> NDArray[np.int64]:
        """Index in `other`, a disc at least as large, of each of these pixels."""
        stride = 2 * other.r_max + 1
        where = np.full(stride * (other.r_max + 1), -1, np.int64)
        where[(other.ky + other.r_max) * (other.r_max + 1) + other.kx] = np.arange(other.size)
        return where[(self.ky + other.r_max) * (other.r_max + 1) + self.kx]


@dataclass
class PreparedImages:
    """A batch of N particles ready for comparison with references; S shells of their whole box.

    index (N,) the particles' numbers; masked, unmasked (N, P) complex64 at the fine pixels; ctf (N, P) float32,
    multiplied with the group's scale; optics, group (N,) int; scale (N,); old_offset (N, 2) A that was applied;
    spectrum (N, S) sum over each shell's half plane of |masked|^2; applied_norm (N,) the image was divided by it.
    turn (N, 2): cosine and sine of the angle of the frame of old_offset and of the shifts to be searched, see
    `helical.to_frame`; None: that of the image.
    masked, unmasked and ctf are where the backend has its arrays.
    origin (N, 3): what unmasked, ctf and masked are at the origin, of which the disc's own does not count in the sums;
    None: it is left out of them.
    premultiplied: all images are multiplied with their CTF, and ctf is its square.
    """

    index: NDArray[np.int64]
    masked: NDArray[np.complex64]
    unmasked: NDArray[np.complex64]
    ctf: NDArray[np.float32]
    optics: NDArray[np.int64]
    group: NDArray[np.int64]
    scale: NDArray[np.float64]
    old_offset: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    applied_norm: NDArray[np.float64]
    fine: DiscPixels
    coarse: DiscPixels
    coarse_in_fine: NDArray[np.int64]
    scale_shells: NDArray[np.bool_]
    turn: NDArray[np.float64] | None = None
    origin: NDArray[np.float64] | None = None
    premultiplied: bool = False

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shells(self) -> int:
        return self.spectrum.shape[1]

    def part(self, first: int, last: int) -> PreparedImages:
        """Particles first ... last-1."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        shared = {"fine", "coarse", "coarse_in_fine", "scale_shells", "premultiplied"}
        return PreparedImages(**{k: v if v is None or k in shared else v[first:last] for k, v in values.items()})

    def in_image(self, offset: NDArray[np.float64], rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Offsets (R, 2) of the particles `rows` (R,), x and y in the image, of those in their frames."""
        if self.turn is None:
            return offset
        x, y = offset.T
        cosine, sine = self.turn[rows].T
        return np.stack([cosine * x + sine * y, cosine * y - sine * x], axis=-1)


@njit(nogil=True, cache=True)
def _shift_and_scale(images, shift, factor):  # type: ignore[no-untyped-def]
    """Moves image n by shift[n] = (x, y) whole pixels, zeros coming in, and multiplies it; in place."""
    box = images.shape[1]
    line = np.empty((box, box), images.dtype)
    for n in range(images.shape[0]):
        dx, dy = shift[n, 0], shift[n, 1]
        for y in range(box):
            for x in range(box):
                i, j = y - dy, x - dx
                inside = 0 <= i < box and 0 <= j < box
                line[y, x] = images[n, i, j] * factor[n] if inside else 0.0
        images[n] = line


@njit(nogil=True, cache=True)
def _shell_power(transforms, shells, out):  # type: ignore[no-untyped-def]
    """out[n, s] += |F|^2 over the half plane (kx = 0 counted for ky >= 0 only)."""
    _, rows, columns = transforms.shape
    for n in range(transforms.shape[0]):
        for i in range(rows):
            k_y = i if i <= rows // 2 else i - rows
            for k_x in range(columns):
                if k_x == 0 and k_y < 0:
                    continue
                s = int(np.rint(np.sqrt(k_x * k_x + k_y * k_y)))
                if 0 < s < shells:
                    value = transforms[n, i, k_x]
                    out[n, s] += value.real * value.real + value.imag * value.imag


def half_transforms(images: NDArray[np.float32], workers: int = 1) -> NDArray[np.complex64]:
    """rfft2 / box^2 of each image, complex64 (N, box, box // 2 + 1)."""
    transforms = fft.rfft2(images, workers=workers)
    transforms *= np.float32(1.0 / images.shape[1] ** 2)
    return transforms


def at_disc(transforms: NDArray[np.complex64], pixels: DiscPixels) -> NDArray[np.complex64]:
    """The disc pixels of half transforms with phases referred to pixel box//2, (N, P)."""
    box = transforms.shape[1]
    sign = np.where((pixels.kx + pixels.ky) % 2 == 0, 1.0, -1.0).astype(np.float32)
    return transforms[:, pixels.ky % box, pixels.kx] * sign


def transform_images(
    images: NDArray[np.float32],
    shift: NDArray[np.int64],
    factor: NDArray[np.float64],
    mask_radius: float,
    mask_edge: float,
    pixels: DiscPixels,
    *,
    noise: NDArray[np.float32] | None = None,
    tubes: tuple[NDArray[np.float64], float] | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.complex64], NDArray[np.float64], NDArray[np.float64]]:
    """Unmasked and masked transforms (N, P) at the disc pixels, the masked images' power per shell (N, S) and means.

    images (N, box, box) float32, changed in place; shift (N, 2) whole pixels x, y; factor (N,) multiplies the image;
    mask_radius, mask_edge in pixels. Outside the mask the image becomes its own mean there, or `noise` (N, box, box).
    tubes: psi (N,) in degrees of helical segments and the radius of their tube, outside which is background as well.
    """
    box = images.shape[1]
    _shift_and_scale(images, np.ascontiguousarray(shift, np.int64), np.asarray(factor, np.float32))
    unmasked = at_disc(half_transforms(images), pixels)
    if tubes is None:
        masked = mask_outside(images, mask_radius, mask_edge, background=noise)
    else:
        masked = mask_outside_tubes(images, tubes[0], mask_radius, tubes[1], mask_edge, noise)
    transforms = half_transforms(masked)
    spectrum = np.zeros((len(images), box // 2 + 1))
    _shell_power(transforms, box // 2 + 1, spectrum)
    return unmasked, at_disc(transforms, pixels), spectrum, transforms[:, 0, 0].real.astype(np.float64)


def noise_images(sigma2: NDArray[np.float64], box: int, seeds: NDArray[np.int64]) -> NDArray[np.float32]:
    """One image of Gaussian noise per seed with the variance sigma2 (N, S) of each Fourier component, float32.

    Fills the solvent when images are not zero-masked; a particle's noise depends on its seed alone.
    """
    ky = np.fft.fftfreq(box, 1.0 / box)[:, None]
    shell = np.rint(np.sqrt(ky**2 + np.arange(box // 2 + 1)[None] ** 2)).astype(int)
    out = np.empty((len(seeds), box, box), np.float32)
    for n, seed in enumerate(seeds):
        random = np.random.default_rng(int(seed))
        sigma = np.sqrt(np.concatenate([sigma2[n], np.zeros(max(0, shell.max() + 1 - sigma2.shape[1]))]))[shell]
        parts = random.standard_normal((2, box, box // 2 + 1)) * sigma
        out[n] = fft.irfft2(parts[0] + 1j * parts[1], s=(box, box)) * box**2
    return out
