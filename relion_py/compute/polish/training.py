"""Training: the motion parameters that make frames agree best with what they were not aligned to.

Tracks are found from the low frequencies; the correlation of the high ones with the opposite half's predictions
judges the parameters, which a downhill simplex improves. Source: Zivanov et al. (2019) IUCrJ 6:5; RELION 5,
motion_param_estimator.cpp, two_hyperparameter_fit.cpp, three_hyperparameter_fit.cpp, alignment_set.h and
nelder_mead.cpp. Unlike there, it runs on several ranks, and velocity and divergence stay positive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.fourier import frequencies
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.parallel.comm import Communicator
from relion_py.compute.polish.estimate import MotionEstimator, Prepared, Run, damage_weights, most_probable_tracks
from relion_py.compute.polish.kernels import agreement_along
from relion_py.compute.polish.micrographs import Micrograph, same_images
from relion_py.compute.refine.data import c_library_rand

_Real = NDArray[np.float64]
Say = Callable[[str], None]

_UNITS = np.array([10000.0, 1.0, 1000.0])  # of velocity, divergence and acceleration in the simplex
_LEAST_ACCELERATION = 1e-5
_RAND_MAX = 2147483647


@dataclass(frozen=True)
class TrainingSettings:
    """How parameters are trained; names as the program's options. three: acceleration too. reach: pixels."""

    three: bool = True
    align_fraction: float = 0.5
    eval_fraction: float = 0.5
    min_particles: int = 1000
    start: tuple[float, float, float] = (0.6, 10000.0, 3.0)
    step: float = 3000.0
    convergence: float = 30.0
    iterations: int = 100
    reach: int = 50
    seed: int = 23


@dataclass
class _Sample:
    """One micrograph for training: correlations for the alignment and products for the judgement."""

    prepared: Prepared
    products: NDArray[np.complex64]


def chosen_micrographs(micrographs: Sequence[Micrograph], settings: TrainingSettings) -> tuple[list[Micrograph], int]:
    """Micrographs in a random order, as many as hold min_particles, and the number of particles they hold.

    Those with a single particle are left out. The order is that of RELION with the same seed.
    """
    order = np.argsort(c_library_rand(settings.seed, len(micrographs)) / _RAND_MAX, kind="stable")
    found: list[Micrograph] = []
    total = 0
    for index in order.tolist():
        if len(micrographs[index].rows) > 1:
            found.append(micrographs[index])
            total += len(micrographs[index].rows)
            if total >= settings.min_particles:
                break
    if not found:
        raise UserError("No micrograph has two particles or more, so motion parameters cannot be trained.")
    return found, total


def check_alike(particles: ParticleTable, micrographs: Sequence[Micrograph]) -> None:
    """UserError unless all particles have one box and one pixel size, so that one set of parameters can serve."""
    if not same_images(particles, np.concatenate([one.rows for one in micrographs])):
        raise UserError(
            "The optics groups differ in box or pixel size, so that one set of parameters cannot serve all of them; "
            "train one with --par_group."
        )


class Trainer:
    """Holds this rank's share of the micrographs and judges parameters together with the other ranks."""

    def __init__(self, estimator: MotionEstimator, settings: TrainingSettings, comm: Communicator, run: Run) -> None:
        if settings.eval_fraction + settings.align_fraction > 1.000001:
            raise UserError("--align_frac and --eval_frac must not add up to more than 1.")
        self._estimator, self.settings, self._comm, self._run = estimator, settings, comm, run
        shells = estimator.maps.k_out
        self.align_to = int(shells * np.sqrt(settings.align_fraction) + 0.5)
        self.judge_from = int(shells * np.sqrt(1.0 - settings.eval_fraction) + 0.5)
        self._samples: list[_Sample] = []
        self._norms = np.zeros(2)
        self._pixels: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
        self._box = 0

    @property
    def size(self) -> int:
        """Micrographs that this rank holds."""
        return len(self._samples)

    def add(self, particles: ParticleTable, micrograph: Micrograph) -> None:
        """Prepare one more micrograph, alike the others. UserError, or MovieError, if it cannot be read."""
        estimator, settings = self._estimator, self.settings
        prepared = estimator.prepare(particles, micrograph, (self.align_to - 1, self.align_to + 1))
        views = prepared.views
        self._box = views.box
        rows, columns, products = self._judgement(prepared)
        self._pixels = (columns, rows)
        reach = 2 * int(estimator.settings.cc_pad) * settings.reach
        if 0 < reach <= prepared.correlation.shape[-1]:
            prepared.correlation = _middle(prepared.correlation, reach)
        prepared.movie = np.empty((0, *prepared.movie.shape[1:]), np.complex64)
        self._samples.append(_Sample(prepared, products))

    def agreement(self, sigmas: tuple[float, float, float]) -> float:
        """The correlation of moved frames with opposite predictions, over all ranks, for velocity, divergence
        and acceleration in the options' units."""
        estimator = self._estimator
        prior = estimator.settings.prior(
            sigmas, estimator.geometry.dose, estimator.maps.pixel_size, estimator.geometry.coordinate_pixel
        )
        total = np.zeros(3)
        total[1:] = self._norms
        for sample in self._samples:
            prepared = sample.prepared
            tracks = most_probable_tracks(
                prepared.correlation, prepared.positions, prepared.tracks, prepared.common, prior,
                estimator.settings,
            )  # fmt: skip
            total[0] += self._along(sample, tracks)
        total = self._comm.allreduce_sum(total)
        return float(total[0] / np.sqrt(total[1] * total[2])) if total[1] * total[2] > 0 else 0.0

    def train(self, say: Say, check_abort: Callable[[], None]) -> tuple[float, float, float]:
        """The best parameters: velocity, divergence, acceleration, rounded to what the simplex resolves."""
        settings = self.settings
        say("\nit: \t s_vel: \t s_div: \t s_acc: \t fsc:\n")
        fixed = settings.start[2] if settings.start[2] > 0 else -1.0

        def sigmas_of(x: _Real) -> tuple[float, float, float]:
            values = x / _UNITS[: len(x)]
            last = max(values[2], _LEAST_ACCELERATION / _UNITS[2]) if settings.three else fixed
            return float(values[0]), float(values[1]), float(last)

        def cost(x: _Real) -> float:
            check_abort()
            sigmas = sigmas_of(x)
            return -self.agreement(sigmas) if min(sigmas[:2]) > 0 else np.inf

        def report(iteration: int, value: float, x: _Real) -> None:
            a, b, c = sigmas_of(x)
            say(f"{iteration}: \t {a:.5f}  \t {b:.5f}  \t {c:.5f}  \t {-value:.12f}")

        count = 3 if settings.three else 2
        start = np.array(settings.start[:count]) * _UNITS[:count]
        best = downhill_simplex(cost, start, settings.step, settings.convergence, settings.iterations, report)
        step = 0.5 * settings.convergence
        rounded = step * np.trunc(best / step + 0.5) / _UNITS[:count]
        return float(rounded[0]), float(rounded[1]), float(rounded[2]) if settings.three else fixed

    def _judgement(self, prepared: Prepared) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.complex64]]:
        """Rows and columns of the pixels that judge, and damage * frame * conj(opposite prediction) there."""
        estimator, views = self._estimator, prepared.views
        scale = estimator.maps.box * estimator.maps.pixel_size / (views.box * views.pixel_size)
        k = frequencies(views.box).astype(np.float64)
        radius = np.floor(scale * np.hypot(k[:, None], np.arange(views.box // 2 + 1)) + 0.5)
        rows, columns = np.nonzero((radius >= self.judge_from + 2) & (radius < estimator.maps.k_out))
        if not len(rows):
            raise UserError("No frequencies are left to judge motion parameters; the half maps agree too little.")
        geometry = estimator.geometry
        damage = damage_weights(views.box, views.pixel_size, geometry.frames, geometry.dose, estimator.settings.damage)[
            :, rows, columns
        ]
        products = np.empty((len(views), len(geometry.frames), len(rows)), np.complex64)
        for row in range(len(views)):
            frames = prepared.movie[row][:, rows, columns]
            prediction = views.predict(np.array([row]), opposite=True)[0][rows, columns]
            products[row] = damage * frames * prediction.conj()
            self._norms += (damage * np.abs(frames) ** 2).sum(), (damage * np.abs(prediction) ** 2).sum()
        return rows.astype(np.int32), columns.astype(np.int32), products

    def _along(self, sample: _Sample, tracks: _Real) -> float:
        assert self._pixels is not None
        columns, rows = self._pixels

        def one(row: int) -> float:
            return agreement_along(sample.products[row], columns, rows, self._box, tracks[row])

        return float(sum(self._run(one, range(len(tracks)))))


def downhill_simplex(
    cost: Callable[[_Real], float],
    start: _Real,
    step: float,
    tolerance: float,
    iterations: int,
    report: Callable[[int, float, _Real], None],
) -> _Real:
    """The place of least cost, by Nelder and Mead's method with RELION's rules (nelder_mead.cpp, optimize).

    step: by which each coordinate of `start` is changed for a corner of the first simplex. It ends when all
    corners are within `tolerance` of the centroid of all but the worst.
    """
    count = len(start)
    simplex = np.vstack([start, start + step * np.eye(count)])
    values = np.array([cost(x) for x in simplex])
    for iteration in range(iterations):
        order = np.argsort(values, kind="stable")
        simplex, values = simplex[order], values[order]
        report(iteration, values[0], simplex[0])
        centroid = simplex[:-1].mean(axis=0)
        if (np.linalg.norm(simplex - centroid, axis=1) <= tolerance).all():
            return simplex[0]
        reflected = 2.0 * centroid - simplex[-1]
        value = cost(reflected)
        if values[0] < value < values[-2]:
            simplex[-1], values[-1] = reflected, value
            continue
        if value < values[0]:
            expanded = 2.0 * reflected - centroid
            further = cost(expanded)
            simplex[-1], values[-1] = (expanded, further) if further < value else (reflected, value)
            continue
        contracted = 0.5 * (centroid + simplex[-1])
        value = cost(contracted)
        if value < values[-1]:
            simplex[-1], values[-1] = contracted, value
            continue
        simplex[1:] = 0.5 * (simplex[0] + simplex[1:])
        values[1:] = [cost(x) for x in simplex[1:]]
    return simplex[int(np.argmin(values))]


def _middle(maps: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The part of periodic maps (..., n, n) around pixel (0, 0), (..., size, size), in the same layout."""
    n = maps.shape[-1]
    keep = np.arange(-(size // 2), size - size // 2)
    keep = np.roll(keep, -(size // 2)) % n
    return np.ascontiguousarray(maps[..., keep[:, None], keep])
