"""A reference map as an oversampled Fourier transform, and its projections.

The transform is scaled as that of a 2D image of the same box whose forward transform is divided by box^2, so
that a projection compares with an image's transform directly (projector.cpp, computeFourierTransformMap).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend import kernels_numba, kernels_volume
from relion_py.compute.image import fft

Array = NDArray[Any]
SLAB_BYTES = 8 << 20
"""Size of the pieces in which axes of large arrays are transformed."""


def padded_box(box: int, padding: float) -> int:
    """Even size of the padded real-space map in pixels."""
    size = int(padding * box + 0.5)
    return size + size % 2


def without_interpolation(volume: Array, padded: int) -> NDArray[np.float32]:
    """A map (box,) * ndim, origin at box // 2, over sinc^2(r / padded), the trilinear interpolator's transform.

    (projector.cpp, griddingCorrect)
    """
    squared = np.arange(volume.ndim * (len(volume) // 2) ** 2 + 1)
    factor = 1.0 / np.sinc(np.sqrt(squared) / padded) ** 2
    out = np.array(volume, np.float32, order="C")
    kernels_volume.scale_by_radius(out if out.ndim == 3 else out[None], factor)
    return out


def radii(box: int, current_size: int = -1, padding: float = 2.0) -> tuple[int, int]:
    """Radius of the sphere that is filled, in Fourier pixels of the unpadded transform and in padded voxels."""
    r_max = min(current_size // 2 if current_size >= 0 else box // 2, box // 2)
    return r_max, int(padded_box(box, padding) / box * r_max + 0.5)


def transform_shape(radius: int, ndim: int) -> tuple[int, int, int]:
    """(Z, Y, X) of an oversampled half transform that is filled up to `radius` padded voxels; Z is 3 in 2D."""
    size = radius + 1
    return 3 if ndim == 2 else 2 * size + 1, 2 * size + 1, size + 1


@dataclass(frozen=True)
class FourierReference:
    """Oversampled transform of a map, up to radius `r_max`.

    data      complex64 (Z, Y, X), half transform x >= 0, origin at (Z // 2, Y // 2, 0); Z = Y = 2 R + 3 and
              X = R + 2 with R = round(pad * r_max); zero beyond R. A 2D reference has Z == 3 and its data in
              the middle plane.
    box       size of the map, pixels
    r_max     Fourier pixels of the unpadded transform
    pad       padded voxels per Fourier pixel
    spectrum  mean of |F|^2 / 2 in each shell, float64 (box // 2 + 1,); zero beyond r_max
    """

    data: NDArray[np.complex64]
    box: int
    r_max: int
    pad: float
    spectrum: NDArray[np.float64]

    @classmethod
    def from_map(
        cls,
        volume: Array,
        current_size: int = -1,
        padding: float = 2.0,
        *,
        correct_gridding: bool = True,
        min_shell: int = -1,
        workers: int = 1,
        out: NDArray[np.complex64] | None = None,
    ) -> FourierReference:
        """Transform of a real-space map, ready for trilinear interpolation.

        volume            float (n, n, n) or (n, n), origin at n // 2; not changed
        current_size      image size in pixels up to which Fourier pixels are kept; -1 for the box
        padding           oversampling in Fourier space; made such that padding * n is an even integer
        correct_gridding  divide the map by the interpolator's transform first
        min_shell         shells up to this one are set to zero (after the spectrum is taken); -1 for none
        workers           threads of the FFT
        out               where to put it, an array of the right shape, zero
        Raises ValueError for a map that is not a cube or a square.
        """
        box = volume.shape[0]
        if volume.ndim not in (2, 3) or len(set(volume.shape)) != 1:
            raise ValueError(f"A reference must be a cube or a square, not {volume.shape}.")
        padded = padded_box(box, padding)
        pad = padded / box
        r_max, radius = radii(box, current_size, padding)
        work = volume
        if correct_gridding:
            work = without_interpolation(volume, padded)
        data = _transform(work, padded, radius, workers, out)
        data /= np.float32(box) ** 2
        limit = radius * radius
        spectrum = kernels_volume.transform_shells(data, pad, limit, box // 2 + 1)
        if min_shell > 0:
            _clear_outside(data, int(min_shell * pad + 0.5) ** 2, limit)
        else:
            _clear_outside(data, -1, limit)
        return cls(data, box, r_max, pad, spectrum)

    @property
    def r_max_padded(self) -> int:
        """Radius of the filled sphere, padded voxels."""
        return int(self.pad * self.r_max + 0.5)

    def project(
        self, rotations: Array, kx: Array, ky: Array, out: NDArray[np.complex64] | None = None
    ) -> NDArray[np.complex64]:
        """Central slices, complex64 (R, P); 0 beyond `r_max`.

        rotations  Euler matrices (R, 3, 3); for a 2D reference those of psi alone
        kx, ky     int (P,), Fourier pixels of the image
        out        where to put them
        """
        rotations = np.ascontiguousarray(rotations, np.float32)
        kx, ky = np.ascontiguousarray(kx, np.int32), np.ascontiguousarray(ky, np.int32)
        if not np.isfinite(rotations).all():
            raise ValueError("A rotation matrix is not finite.")
        if out is None:
            out = np.empty((len(rotations), len(kx)), np.complex64)
        kernels_numba.project(self.data, rotations, kx, ky, self.pad, self.r_max_padded, out)
        return out


def transforms(references: Sequence[FourierReference]) -> NDArray[np.complex64]:
    """The transforms of some references as one array (K, Z, Y, X): the one that they are all of, or a copy."""
    first = references[0].data
    if len(references) == 1:
        return first[None]
    whole = first.base
    if (
        whole is not None
        and whole.shape == (len(references), *first.shape)
        and all(np.may_share_memory(each.data, part) for each, part in zip(references, whole, strict=True))
    ):
        return whole
    return np.stack([each.data for each in references])


def _transform(
    volume: Array, padded: int, radius: int, workers: int, out: NDArray[np.complex64] | None = None
) -> NDArray[np.complex64]:
    """FFT of a map zero-padded about its origin, cut to |k| <= radius + 1 along each axis.

    Axis by axis, so that neither the padding nor what lies beyond the radius is ever transformed, and slab by slab, so
    that no intermediate array is as large as the transform.
    """
    size = radius + 1
    box = volume.shape[0]
    keep = np.arange(-size, size + 1)
    phase = np.where(np.abs(keep) <= padded // 2, origin_phase(keep, box, padded), 0).astype(np.complex64)
    work = fft.rfft(volume.astype(np.float32), padded, axis=-1, workers=workers)
    work = work[..., : size + 1] * origin_phase(np.arange(min(size + 1, work.shape[-1])), box, padded)
    data = np.zeros(transform_shape(radius, volume.ndim), np.complex64) if out is None else out
    width = work.shape[-1]

    def along(axis: int, values: Array, out: Array) -> None:
        for part in slabs(values.shape, axis, padded):
            wide = fft.fft(values[part], padded, axis=axis, workers=workers)
            shape = [1] * values.ndim
            shape[axis] = -1
            np.multiply(np.take(wide, keep % padded, axis=axis), phase.reshape(shape), out=out[part])

    if volume.ndim == 2:
        along(0, work, data[1, :, :width])
    else:
        middle = np.empty((len(keep), *work.shape[1:]), np.complex64)
        along(0, work, middle)
        along(1, middle, data[:, :, :width])
    return data


def slabs(shape: tuple[int, ...], axis: int, length: int) -> Iterator[tuple[slice, ...]]:
    """Parts, as indices, of an array (Z, Y, X), cut across the other of its first two axes than `axis`; (Y, X) is one.

    Each is of SLAB_BYTES when it has `length` complex numbers along `axis`.
    """
    if len(shape) == 2:
        yield (slice(None),)
        return
    across = 1 - axis
    step = max(1, SLAB_BYTES // (length * shape[2] * np.dtype(np.complex64).itemsize))
    for first in range(0, shape[across], step):
        yield (slice(None),) * across + (slice(first, first + step),)


def origin_phase(k: Array, box: int, padded: int) -> NDArray[np.complex64]:
    """Factors that move the origin of a transform from index 0 to index box // 2; their conjugates move it back."""
    return np.exp(2j * np.pi * ((k * (box // 2)) % padded) / padded).astype(np.complex64)


def _clear_outside(data: Array, inner: int, outer: int) -> None:
    """Zero where the squared radius is <= inner or > outer, in place."""
    depth, height, width = data.shape
    y = (np.arange(height) - height // 2)[:, None] ** 2 + np.arange(width)[None, :] ** 2
    for plane in range(depth):
        squared = y + (plane - depth // 2) ** 2
        data[plane][(squared <= inner) | (squared > outer)] = 0
