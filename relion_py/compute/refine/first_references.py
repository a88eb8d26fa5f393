"""References for runs that are given none: averages of random subsets of the particles, turned into random blobs.

Source: ml_optimiser.cpp, calculateSumOfPowerSpectraAndAverageImage and initialiseReferences; gradient_optimisation.h,
make_blobs_2d and make_blobs_3d.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.masks import mask_outside
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.reconstruct import reconstruct
from relion_py.compute.refine.solvent import FILTER_EDGE, first_filter

BLOBS = 40
"""Random blobs of each sign in a first reference."""
FIRST_FREQUENCY = 0.07
"""Digital frequency to which first references are filtered (Scheres 2010, Meth. Enzymol.)."""


def first_resolution(box: int, pixel_size: float) -> float:
    """Resolution (A) to which references made from the particles are filtered when --ini_high is not given."""
    return box * pixel_size / round(FIRST_FREQUENCY * box)


def size_within(resolution: float, box: int, pixel_size: float) -> int:
    """Size of images (pixels) that have all that a filter at this resolution (A) leaves of a box; 0 A: the box."""
    shells = box * pixel_size / resolution if resolution > 0 else box
    return min(2 * (round(shells) + FILTER_EDGE), box)


class RandomAverages:
    """K averages of images that are put in at random orientations, each image into one class.

    Images are added as transforms at the pixels (kx, ky); 2D averages turn about one axis, maps in all directions.
    size: that of images, pixels, beyond which nothing is kept
    """

    def __init__(self, classes: int, box: int, size: int, dimensions: int, padding: float) -> None:
        self.sums = [BackProjector(box, size, padding, ndim=dimensions) for _ in range(classes)]
        self.dimensions = dimensions

    def add(
        self,
        transforms: NDArray[np.complex64],
        weights: NDArray[np.float32],
        numbers: NDArray[np.int64],
        kx: NDArray[np.int32],
        ky: NDArray[np.int32],
        seed: int,
        psis: NDArray[np.float64] | None = None,
        ratio: float = 1.0,
        workers: int = 1,
    ) -> None:
        """Adds images (N, P), times their CTFs, with weights CTF^2.

        numbers (N,) decide each image's class and random orientation.
        psis (N,): in-plane angles in degrees that are known, as of helical segments; ratio: width of the images over
        that of the averages; workers: threads, each of which has classes of its own.
        """
        classes = numbers % len(self.sums)

        def add(thread: int) -> None:
            for row in np.flatnonzero(classes % workers == thread):
                random = np.random.default_rng([seed, int(numbers[row])])
                rot, psi = random.uniform(0.0, 360.0, 2) if self.dimensions == 3 else (0.0, random.uniform(0.0, 360.0))
                tilt = np.rad2deg(np.arccos(random.uniform(-1.0, 1.0))) if self.dimensions == 3 else 0.0
                psi = psi if psis is None else float(psis[row])
                matrix = (euler_to_matrix(rot, tilt, psi) / ratio).astype(np.float32).reshape(1, 3, 3)
                one = slice(row, row + 1)
                self.sums[classes[row]].insert(transforms[one], weights[one], matrix, kx, ky)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(add, range(workers)))

    def maps(self, workers: int) -> list[NDArray[np.float32]]:
        """The averages, (box,) * dimensions each; zero where no image was added."""
        averages = []
        for sums in self.sums:
            sums.enforce_hermitian()
            averages.append(reconstruct(sums, do_map=False, workers=workers))
        return averages


def blobs_like(
    average: NDArray[np.float32],
    diameter: float,
    pixel_size: float,
    resolution: float,
    edge: float,
    seed: int,
    start: int = 0,
) -> NDArray[np.float32]:
    """A first reference: random blobs as strong as the average, low-passed and masked.

    diameter in A of the particle; resolution in A of the filter; edge in pixels of the mask.
    Another seed or start makes other blobs.
    """
    random = np.random.default_rng([seed, 4, start])
    width = diameter / pixel_size
    blobs = _blobs(average, width, random) - _blobs(average, width, random) / 2.0
    spread = blobs.std()
    if spread > 0:
        blobs *= average.std() / spread
    filtered = first_filter(blobs.astype(np.float32), pixel_size, resolution)
    return mask_outside(filtered, width / 2.0, edge, average.ndim)


def _blobs(average: NDArray[np.float32], diameter: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian blobs about the centre, each as high as the average is there; diameter in pixels."""
    box, dimensions = len(average), average.ndim
    places = random.normal(box / 2.0, diameter / (7.0 if dimensions == 2 else 6.0), (BLOBS, dimensions))
    cells = places.astype(int)
    inside = ((cells >= 0) & (cells < box)).all(axis=1)
    profiles = np.exp(-(((np.arange(box) - places[inside, :, None]) * 10.0 / diameter) ** 2))
    blobs = np.abs(average[tuple(cells[inside].T)], dtype=np.float64)[:, None] * profiles[:, 0]
    for axis in range(1, dimensions - 1):
        blobs = (blobs[:, :, None] * profiles[:, axis, None]).reshape(len(blobs), -1)
    return (blobs.T @ profiles[:, -1]).reshape(average.shape)
