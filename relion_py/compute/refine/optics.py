"""Images of several box and pixel sizes against one reference: where their Fourier pixels lie in its transform.

Images of an optics group have Fourier pixels 1 / (box * pixel size) apart, the reference has its own spacing. With
ratio = width of the image / width of the reference, in A, pixel k of the image lies at k / ratio of the reference;
beyond that nothing is resampled (ml_optimiser.cpp, updateImageSizeAndResolutionPointers; obs_model.cpp,
applyScaleDifference). As in the reference, spectra of the noise have the shells of the reference's box in all groups.

Transforms are divided by box^2, so that the same grey values in a box twice as wide have a quarter of the amplitude.
Here images are multiplied by ratio^2, which makes the same particle compare with the same projection; RELION leaves
that to its scale correction. A particle in zeros has the same content whatever the box, but its noise is spread over
ratio^2 as many pixels: each counts 1 / ratio^2 (search.py, _inverse_noise).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-6
"""Shells: pixel sizes out of files are not exact."""


@functools.lru_cache(maxsize=16)
def half_plane_pixels(box: int) -> NDArray[np.int64]:
    """Number of Fourier pixels per shell in the half plane, (S,) (ml_optimiser.cpp, Npix_per_shell)."""
    ky = np.rint(np.fft.fftfreq(box, 1.0 / box)).astype(int)[:, None]
    ky = np.where(ky == -(box // 2), box // 2, ky)
    kx = np.arange(box // 2 + 1)[None]
    shell = np.rint(np.sqrt(kx**2 + ky**2)).astype(int)
    keep = (shell <= box // 2) & ~((kx == 0) & (ky < 0))
    return np.bincount(shell[keep], minlength=box // 2 + 1)


@dataclass(frozen=True)
class ImageGeometry:
    """How images of `box` pixels of `pixel_size` A lie in the transform of a reference with S shells.

    ratio: their width over the reference's; shells (box // 2 + 1,): the reference's shell that each of theirs falls
    into, S where it has none that high.
    """

    box: int
    pixel_size: float
    ratio: float
    shells: NDArray[np.int64]
    reference_shells: int

    @classmethod
    def of(cls, box: int, pixel_size: float, reference_box: int, reference_pixel_size: float) -> ImageGeometry:
        """Images and reference of these boxes (pixels) and pixel sizes (A)."""
        ratio = box * pixel_size / (reference_box * reference_pixel_size)
        count = reference_box // 2 + 1
        shells = np.floor(np.arange(box // 2 + 1) / ratio + 0.5).astype(np.int64)
        return cls(box, pixel_size, ratio, np.minimum(shells, count), count)

    @property
    def gain(self) -> float:
        """Factor that brings transforms of the images to the scale of the reference."""
        return self.ratio**2

    @property
    def is_references(self) -> bool:
        """Whether the images' shells are those of the reference."""
        return len(self.shells) == self.reference_shells and bool((self.shells == np.arange(len(self.shells))).all())

    def current_size(self, reference_size: int) -> int:
        """Size of images, pixels, that reach as far as a reference cut to `reference_size`."""
        return min(self.box, 2 * math.ceil(0.5 * self.ratio * reference_size - _ROUNDING))

    def coarse_size(self, reference_size: int) -> int:
        """The same to the nearest shell, for a first pass."""
        return min(self.current_size(reference_size), 2 * math.floor(0.5 * self.ratio * reference_size + 0.5))

    def to_reference(self, spectra: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums (N, box // 2 + 1) over the images' shells as sums (N, S) over those of the reference."""
        if self.is_references:
            return spectra
        out = np.zeros((self.reference_shells + 1, len(spectra)))
        np.add.at(out, self.shells, spectra.T)
        return np.ascontiguousarray(out[:-1].T)

    def mean_in_reference(self, spectra: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same for means over shells; 0 where no shell of the images falls."""
        count = self.to_reference(np.ones((1, len(self.shells))))
        return self.to_reference(spectra) / np.maximum(count, 1.0)

    def of_images(self, spectra: NDArray[Any]) -> NDArray[Any]:
        """Values (N, S) of the reference's shells at those of the images, (N, box // 2 + 1); 0 where it has none."""
        if self.is_references:
            return spectra
        return np.pad(spectra, ((0, 0), (0, 1)))[:, self.shells]

    def pixels_per_shell(self, size: int = 0) -> NDArray[np.int64]:
        """(S,) Fourier pixels of the half plane of an image, cut to `size` if that is given, in the reference's shells.

        The last shell counts in full: its pixels beyond size / 2 are compared with nothing.
        """
        size = size or self.box
        shells = self.shells[: size // 2 + 1]
        return np.bincount(shells, half_plane_pixels(size), self.reference_shells + 1)[:-1].astype(np.int64)
