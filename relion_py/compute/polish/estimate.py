"""The motion of the particles of one micrograph: correlations with predictions, and the most probable tracks.

Every frame of every particle is cut out and whitened, and correlated with what the half map of the particle's
own half foretells, weighted by radiation damage. How well the frames, moved back, agree with the opposite half
goes into the estimate of the frames' B-factors. Source: Zivanov et al. (2019) IUCrJ 6:5; RELION 5,
motion_estimator.cpp (prepMicrograph, process, updateFCC), motion_helper.cpp, damage_helper.cpp (damageWeight).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import radius_grid
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.motion.model import MovieMotion, read_motion
from relion_py.compute.polish.frames import FrameReader, centres, cut_transforms, movie_box
from relion_py.compute.polish.gp_motion import MotionFit, MotionPrior, deformation_basis
from relion_py.compute.polish.kernels import correlate_along, shell_power
from relion_py.compute.polish.micrographs import Geometry, Micrograph
from relion_py.compute.polish.predictions import HalfMaps, Views
from relion_py.compute.polish.tracks import Correlations, tracks_of_movie

_Real = NDArray[np.float64]
Complex = NDArray[np.complex64]
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map` of a pool of threads."""

_CHUNK = 8  # particles that a thread predicts together


@dataclass(frozen=True)
class MotionSettings:
    """How motion is estimated; names as the program's options.

    sigma_vel, sigma_acc: A per e/A2 (A per frame if absolute); sigma_acc <= 0: no bound. sigma_div: A.
    damage: a, b, c of the critical dose a k^b + c. iterations: most of L-BFGS. offsets_reach: pixels.
    """

    sigma_vel: float = 0.5
    sigma_div: float = 5000.0
    sigma_acc: float = 2.0
    absolute: bool = False
    cc_pad: float = 1.0
    damage: tuple[float, float, float] = (3.4, -1.06, -0.54)
    iterations: int = 10000
    tolerance: float = 1e-5
    whiten: bool = True
    free_global: bool = False
    start_offsets: bool = False
    offsets_reach: int = 10
    from_correlations: bool = False
    squared_kernel: bool = False
    most_deformations: int = -1
    cut_off: bool = False

    def prior(self, sigmas: tuple[float, float, float], dose: float, pixel: float, coordinates: float) -> MotionPrior:
        """Sigmas (velocity, divergence, acceleration) in the units of the options, as pixels."""
        scale = (1.0 if self.absolute else dose) / pixel
        return MotionPrior(sigmas[0] * scale, sigmas[1] / coordinates, sigmas[2] * scale)


@dataclass
class Prepared:
    """What tracks are found from. movie: whitened transforms (P, F, n, n // 2 + 1). correlation: float32
    (P, F, m, m). positions: (P, 2), coordinates. tracks: (P, F, 2) to start from, pixels of the particles, without
    the motion `common` (F, 2) that the prior does not see."""

    views: Views
    movie: Complex
    correlation: NDArray[np.float32]
    positions: _Real
    tracks: _Real
    common: _Real


def damage_weights(
    box: int, pixel_size: float, frames: NDArray[np.int64], dose: float, parameters: tuple[float, float, float]
) -> NDArray[np.float32]:
    """exp(-dose / critical dose) for each frame (from 0) and Fourier pixel, float32 (F, box, box // 2 + 1).

    dose: e/A2 a frame; the dose before the frame counts. parameters: a, b, c of the critical dose a k^b + c.
    """
    a, b, c = parameters
    k = radius_grid(box) / (box * pixel_size)
    with np.errstate(divide="ignore", over="ignore"):
        rate = 1.0 / (a * np.where(k > 0, k, np.nan) ** b + c)
    rate[0, 0] = 0.0
    return np.exp(-(frames * dose)[:, None, None] * rate).astype(np.float32)


def raised_cosine(box: int, inner: float, outer: float) -> NDArray[np.float32]:
    """1 up to radius `inner` (Fourier pixels), 0 from `outer` on, a cosine between (raisedCosEnvFreq2D)."""
    t = np.clip((radius_grid(box) - inner) / (outer - inner), 0.0, 1.0)
    return (0.5 + 0.5 * np.cos(np.pi * t)).astype(np.float32)


class MotionEstimator:
    """Finds the tracks of one micrograph after another. run: `map` of a thread pool."""

    def __init__(
        self, maps: HalfMaps, geometry: Geometry, settings: MotionSettings, reader: FrameReader, run: Run
    ) -> None:
        self.maps, self.geometry, self.settings = maps, geometry, settings
        self._reader, self._run = reader, run

    def prepare(
        self, particles: ParticleTable, micrograph: Micrograph, cutoff: tuple[float, float] | None = None
    ) -> Prepared:
        """Read the movie and correlate. cutoff: shells of the half maps between which the weights fall to 0."""
        settings, geometry = self.settings, self.geometry
        motion = read_motion(micrograph.metadata)
        chosen = particles.select(micrograph.rows)
        views = self.maps.views(chosen)
        movie = self._cut(motion, chosen, views.box, views.pixel_size)
        whitening = self._whiten(movie)
        weights = damage_weights(views.box, views.pixel_size, geometry.frames, geometry.dose, settings.damage)
        if cutoff is None and settings.cut_off:
            cutoff = (self.maps.k_out - 1, self.maps.k_out + 1)
        if cutoff is not None:
            scale = views.box * views.pixel_size / (self.maps.box * self.maps.pixel_size)
            weights *= raised_cosine(views.box, scale * cutoff[0], scale * cutoff[1])
        correlation = self._correlate(movie, views, weights * whitening)
        x, y = (chosen.floats(f"rlnCoordinate{axis}") for axis in "XY")
        tracks, common = self._start(motion, correlation, x, y, views.pixel_size)
        return Prepared(views, movie, correlation, np.stack([x, y], axis=1), tracks, common)

    def tracks(self, prepared: Prepared, sigmas: tuple[float, float, float] | None = None) -> _Real:
        """The most probable tracks (P, F, 2), pixels of the particles."""
        settings = self.settings
        given = (settings.sigma_vel, settings.sigma_div, settings.sigma_acc)
        prior = settings.prior(
            sigmas or given, self.geometry.dose, prepared.views.pixel_size, self.geometry.coordinate_pixel
        )
        return most_probable_tracks(
            prepared.correlation, prepared.positions, prepared.tracks, prepared.common, prior, settings
        )

    def correlations(self, prepared: Prepared, tracks: _Real) -> Correlations:
        """How the frames, moved back along the tracks, agree with the opposite half map's predictions."""
        views, movie = prepared.views, prepared.movie
        shells = self.maps.box // 2 + 1
        scale = self.maps.box * self.maps.pixel_size / (views.box * views.pixel_size)
        shell = np.floor(scale * radius_grid(views.box) + 0.5).astype(np.int32)
        shell[shell >= min(shells, views.box // 2 + 1)] = shells

        def some(rows: NDArray[np.int64]) -> Correlations:
            found = Correlations.zeros(movie.shape[1], shells + 1)
            for row, prediction in zip(rows, views.predict(rows, opposite=True), strict=True):
                correlate_along(movie[row], prediction, tracks[row], shell, found.cross, found.power, found.predicted)
            return found

        total = Correlations.zeros(movie.shape[1], shells + 1)
        for part in self._run(some, _chunks(len(views))):
            total.add(part)
        return Correlations(total.cross[:, :shells], total.power[:, :shells], total.predicted[:, :shells])

    # ---- stages ---------------------------------------------------------------------------------------------

    def _cut(self, motion: MovieMotion, chosen: ParticleTable, box: int, pixel_size: float) -> Complex:
        """All frames of all particles, complex64 (P, F, box, box // 2 + 1)."""
        geometry = self.geometry
        x, y = (chosen.floats(f"rlnCoordinate{axis}") for axis in "XY")
        at = centres(x, y, geometry.coordinate_pixel, pixel_size, geometry.movie_pixel)
        size = movie_box(box, pixel_size, geometry.movie_pixel)
        movie = np.empty((len(chosen), len(geometry.frames), box, box // 2 + 1), np.complex64)
        with self._reader.open(motion) as frames:

            def one(number: int) -> None:
                for rows, transforms in cut_transforms(frames.read(int(geometry.frames[number])), at, size, box):
                    movie[rows, number] = transforms

            list(self._run(one, range(len(geometry.frames))))
        return movie

    def _whiten(self, movie: Complex) -> NDArray[np.float32]:
        """Scale each particle to unit power and flatten the spectrum of all, in place.

        Returns the factors (n, n // 2 + 1) by which predictions must be multiplied to match.
        """
        particles, frames, box, half = movie.shape
        shell = np.minimum(radius_grid(box).astype(np.int32), half)  # the last one is the corners

        def one(row: int) -> tuple[float, _Real]:
            spectrum = np.zeros(half + 1)
            return shell_power(movie[row], shell, spectrum), spectrum

        found = list(self._run(one, range(particles)))
        count = frames * (2.0 * box * half - box - 1)
        power = np.array([total / count for total, _ in found])
        if not (np.isfinite(power) & (power > 0)).all():
            raise UserError("A particle has no contrast, or pixels that are no numbers.")
        factor = 1.0 / (box * np.sqrt(power / frames))
        filter_ = np.ones(half + 1)
        if self.settings.whiten:
            members = np.bincount(shell.ravel(), minlength=half + 1)
            total = sum(f**2 * spectrum for f, (_, spectrum) in zip(factor, found, strict=True))
            sigma2 = total / (particles * frames * np.maximum(members, 1))
            area = 0.25 * np.pi * (box + 1) * box
            filter_ = np.divide(1.0, np.sqrt(sigma2 * area), out=np.zeros(half + 1), where=sigma2 > 0)
            filter_[half] = 0.0
        image = filter_[shell].astype(np.float32)
        image[0, 0] = 0.0

        def scale(row: int) -> None:
            movie[row] *= np.float32(factor[row]) * image

        list(self._run(scale, range(particles)))
        return image

    def _correlate(self, movie: Complex, views: Views, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cross-correlations with the own half map's predictions, float32 (P, F, m, m), m = cc_pad * box.

        weights: of frames and pixels, for the whitening of the predictions too.
        """
        particles, frames, box = movie.shape[:3]
        size = int(self.settings.cc_pad * box)
        out = np.empty((particles, frames, size, size), np.float32)

        def some(rows: NDArray[np.int64]) -> None:
            for row, prediction in zip(rows, views.predict(rows), strict=True):
                products = movie[row] * (weights * prediction.conj())
                if size != box:
                    products = _padded(products, size)
                out[row] = fft.irfft2(products, s=(size, size), norm="forward", overwrite_x=True)
                out[row] *= np.float32(box * box)

        list(self._run(some, _chunks(particles)))
        return out

    def _start(
        self, motion: MovieMotion, correlation: NDArray[np.float32], x: _Real, y: _Real, pixel_size: float
    ) -> tuple[_Real, _Real]:
        """Tracks to start from, without the common motion, and that."""
        settings = self.settings
        frames = correlation.shape[1]
        nothing = np.zeros((frames, 2))
        if settings.from_correlations:
            whole = np.stack([highest_place(image) for image in correlation.sum(axis=0)]) / settings.cc_pad
            tracks = np.repeat(whole[None], len(x), axis=0)
            common = whole if settings.free_global else nothing
        else:
            tracks = tracks_of_movie(motion, x, y, self.geometry, pixel_size)
            common = nothing
            if settings.free_global:
                common = tracks_of_movie(motion, x[:1], y[:1], self.geometry, pixel_size, local=False)[0]
        if settings.start_offsets:

            def one(row: int) -> _Real:
                return offset_along(correlation[row], tracks[row], settings.cc_pad, settings.offsets_reach)

            tracks = tracks + np.stack(list(self._run(one, range(len(x)))))[:, None]
        return tracks - common, common


def most_probable_tracks(
    correlation: NDArray[np.float32],
    positions: _Real,
    start: _Real,
    common: _Real,
    prior: MotionPrior,
    settings: MotionSettings,
) -> _Real:
    """Tracks (P, F, 2) of least energy, the common motion (F, 2) in them; a lone particle's stay at the start.

    Tracks that are no numbers become 0.
    """
    if settings.iterations < 1 or len(start) < 2:
        return start + common
    basis, eigenvalues = deformation_basis(positions, prior, settings.squared_kernel, settings.most_deformations)
    fit = MotionFit(correlation, basis, eigenvalues, prior.acceleration, common, settings.cc_pad)
    found = fit.best(start, settings.iterations, settings.tolerance) + common
    return np.where(np.isfinite(found), found, 0.0)


def highest_place(image: NDArray[np.floating], reach: int = -1) -> _Real:
    """Where a periodic image is highest, x and y from pixel (0, 0), by a parabola along each axis.

    reach: look that far along each axis only; -1: everywhere. Source: Interpolation::quadraticMaxWrapXY.
    """
    size = len(image)
    seen = image
    if 0 <= reach < size // 2:
        near = np.minimum(np.arange(size), size - np.arange(size)) <= reach
        seen = np.where(near[:, None] & near, image, -np.inf)
    row, column = np.unravel_index(int(np.argmax(seen)), image.shape)
    place = []
    for at, line in ((int(column), image[row]), (int(row), image[:, column])):
        before, here, after = (float(line[(at + step) % size]) for step in (-1, 0, 1))
        bend = before + after - 2.0 * here
        exact = at - (0.5 * (after - before) / bend if abs(bend) > 1e-30 else 0.0)
        place.append(exact - size if exact >= size // 2 + 1 else exact)
    return np.array(place)


def offset_along(correlation: NDArray[np.float32], track: _Real, pad: float, reach: int) -> _Real:
    """One offset (x, y) for all frames of a particle's track, pixels: where their correlations, moved back
    along it, are highest under a wide Gaussian (MotionHelper::getGlobalOffsets)."""
    from scipy import ndimage

    size = correlation.shape[-1]
    total = np.zeros((size, size))
    for image, (x, y) in zip(correlation, pad * track, strict=True):
        total += ndimage.shift(image.astype(np.float64), (-y, -x), order=3, mode="grid-wrap")
    distance = np.minimum(np.arange(size), size - np.arange(size)).astype(np.float64) ** 2
    total *= np.exp(-0.5 * (distance[:, None] + distance) / (0.25 * size / pad) ** 2)
    return highest_place(total, reach) / pad


def _padded(products: Complex, size: int) -> Complex:
    """Half transforms (F, n, n // 2 + 1) with zeros around them, for images of `size` pixels."""
    frames, box, half = products.shape
    out = np.zeros((frames, size, size // 2 + 1), np.complex64)
    out[:, :half, :half] = products[:, :half]
    out[:, size - (box - half) :, :half] = products[:, half:]
    return out


def _chunks(count: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(count, start + _CHUNK)) for start in range(0, count, _CHUNK)]
