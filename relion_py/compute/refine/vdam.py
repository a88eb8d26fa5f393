"""Gradient-driven refinement (VDAM): schedules, moments of the gradient, the step on a map, idle classes.

Each iteration looks at a random subset of the particles. What is back-projected is the residual, the image
less the projection of the reference, in two pseudo-halves: particles of even and of odd number. Each half's
gradient has a running mean (first moment); the disagreement of the two, relative to their mean, has another
(second moment) and scales the step, as variance does in Adam. Pure values and arithmetic; `gradient` runs it.
Source: Kimanius et al. 2021, Biochem J 478:4169; ml_optimiser.cpp and backprojector.cpp as named below.

Gradients and moments are transforms divided by box^2, on grids with the origin in the centre of z and y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.model import ModelState, Moments
from relion_py.compute.refine.projector import FourierReference, padded_box
from relion_py.compute.refine.reconstruct import to_real_space

Array = NDArray[Any]

FIRST_MOMENT_KEPT = 0.9
"""Share of the old first moment in the new one (backprojector.h, getFristMoment)."""
SECOND_MOMENT_KEPT = 0.999
"""The same for the second moment (getSecondMoment)."""
FIRST_SECOND_MOMENT = 1.0
"""Second moment before the first iteration (ml_model.h, MOM2_INIT_CONSTANT)."""
TINY = 1e-12
"""Keeps divisions by moments finite (getSecondMoment, applyMomenta)."""
MOMENTUM_OF_NEW_CLASS = 0.9
"""A class that takes the place of an idle one starts with this share of its parent's first moment."""

CLASS_2D, INITIAL_MODEL, CLASS_3D = "2D classes", "3D initial model", "3D classes"
"""What is refined; it decides the defaults."""

_STEP = {CLASS_2D: 0.3, INITIAL_MODEL: 0.5, CLASS_3D: 0.3}
_FIRST_STEP = 0.9
_TAU2_FUDGE = 4.0
# (share of the particles, at most) of the first and the last subsets, and the fewest particles of each
_FIRST_SUBSET = {CLASS_2D: (0.005, 10_000), INITIAL_MODEL: (0.005, 5_000), CLASS_3D: (0.1, 100_000)}
_LAST_SUBSET = {CLASS_2D: (0.05, 100_000), INITIAL_MODEL: (0.1, 50_000), CLASS_3D: (0.1, 100_000)}
_FEWEST_FIRST, _FEWEST_LAST = 200, 1000


# ---- schedules ----


@dataclass(frozen=True)
class Schedule:
    """How step size, regularisation and subset size change over the iterations 1 ... `iterations`.

    initial, between, final: lengths of the three phases in iterations
    step, step_factor        step size at the end; it starts `step_factor` times as large
    tau2_fudge, fudge_divisor  tau2_fudge at the end; it starts `fudge_divisor` times as small
    first_subset, last_subset  particles of an iteration in the initial and in the final phase
    """

    iterations: int
    initial: int
    between: int
    final: int
    step: float
    step_factor: float
    tau2_fudge: float
    fudge_divisor: float
    first_subset: int
    last_subset: int
    particles: int
    classes: int
    em_iterations: int

    @classmethod
    def of(
        cls,
        kind: str,
        particles: int,
        classes: int,
        iterations: int,
        *,
        initial_share: float = 0.3,
        final_share: float = 0.2,
        step: float = -1.0,
        step_scheme: str = "",
        tau2_fudge: float = -1.0,
        tau2_fudge_scheme: str = "",
        first_subset: int = -1,
        last_subset: int = -1,
        em_iterations: int = 0,
    ) -> Schedule:
        """The schedule of a run; what is not positive or empty takes the default of its kind.

        kind: CLASS_2D, INITIAL_MODEL or CLASS_3D. Schemes are "plain" or "<factor>-step", else UserError.
        Source: ml_optimiser.cpp, parseInitial, initialiseGeneral, updateStepSize and updateTau2Fudge.
        """
        if initial_share + final_share > 0.9:
            total = initial_share + final_share + 0.1
            initial_share, final_share = initial_share / total, final_share / total
        initial, final = int(iterations * initial_share), int(iterations * final_share)
        step = step if step > 0 else _STEP[kind]
        fudge = tau2_fudge if tau2_fudge > 0 else _TAU2_FUDGE
        starts_bold = kind != CLASS_3D
        return cls(
            iterations,
            initial,
            max(iterations - initial - final, 0),
            final,
            step,
            _factor(step_scheme, "--grad_stepsize_scheme", _FIRST_STEP / step if starts_bold else 1.0),
            fudge,
            _factor(tau2_fudge_scheme, "--tau2_fudge_scheme", fudge if starts_bold else 1.0),
            first_subset if first_subset > 0 else _subset(particles, *_FIRST_SUBSET[kind], _FEWEST_FIRST),
            last_subset if last_subset > 0 else _subset(particles, *_LAST_SUBSET[kind], _FEWEST_LAST),
            particles,
            classes,
            em_iterations,
        )

    def is_gradient(self, iteration: int) -> bool:
        """Whether an iteration takes a gradient step; the last `em_iterations` do not."""
        return iteration <= self.iterations - self.em_iterations

    def step_size(self, iteration: int) -> float:
        """Step size of an iteration (updateStepSize)."""
        start = self._start_left(iteration, self.between // 2)
        return self.step * (self.step_factor * start + (1.0 - start))

    def tau2_fudge_at(self, iteration: int) -> float:
        """Regularisation of an iteration (updateTau2Fudge)."""
        start = self._start_left(iteration, self.between // 4)
        return self.tau2_fudge * (start / self.fudge_divisor + (1.0 - start))

    def _start_left(self, iteration: int, length: int) -> float:
        """Falls from 1 to 0 within `length` iterations after the initial phase: a sigmoid."""
        if length == 0:
            return 1.0 if iteration <= self.initial else 0.0
        exponent = (iteration - self.initial - length / 2.0) / (length / 4.0)
        return 1.0 / (10.0 ** min(exponent, 300.0) + 1.0)

    def subset(self, iteration: int) -> int:
        """Particles of an iteration, -1 for all of them (updateSubsetSize).

        The last iteration takes all when there are several classes, so that every particle has a class.
        """
        if not self.is_gradient(iteration) or (iteration == self.iterations and self.classes > 1):
            return -1
        if iteration < self.initial:
            size = self.first_subset
        elif iteration < self.initial + self.between:
            done = (iteration - self.initial) / self.between
            size = self.first_subset + int(np.floor(done * (self.last_subset - self.first_subset) + 0.5))
        else:
            size = self.last_subset
        return -1 if size >= self.particles else size

    def may_replace_classes(self, iteration: int) -> bool:
        """Whether idle classes are replaced in an iteration (maximizationGradientParameters)."""
        return self.initial < iteration < self.initial + self.between

    def may_center_classes(self, iteration: int) -> bool:
        """Whether classes are centred after an iteration: not in the final phase (iterate)."""
        return not self.is_gradient(iteration + 1) or iteration < self.initial + self.between


def _factor(scheme: str, flag: str, default: float) -> float:
    """1 for "plain", X for "X-step"."""
    if scheme == "":
        return default
    if scheme == "plain":
        return 1.0
    try:
        factor = float(scheme.removesuffix("-step")) if scheme.endswith("-step") else -1.0
    except ValueError:
        factor = -1.0
    if not 0.0 < factor < np.inf:
        raise UserError(f"{flag} must be plain or a number and -step, such as 3-step, not '{scheme}'.")
    return factor


def _subset(particles: int, share: float, most: int, fewest: int) -> int:
    return int(max(min(particles * share, most), fewest))


def pseudo_halves(members: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Particles of even and of odd number (storeWeightedSums)."""
    return members[members % 2 == 0], members[members % 2 == 1]


# ---- moments ----


def new_moments(box: int, padding: float, ndim: int) -> Moments:
    """Those before the first iteration (ml_model.cpp, initialiseFromImages)."""
    shape = moment_shape(box, padding, ndim)
    return Moments(np.zeros((2, *shape), np.complex64), np.full(shape, FIRST_SECOND_MOMENT, np.float32))


def moment_shape(box: int, padding: float, ndim: int) -> tuple[int, int, int]:
    """(Z, Y, X) of the moments."""
    size = padded_box(box, padding)
    return (1 if ndim == 2 else size, size, size // 2 + 1)


@dataclass(frozen=True)
class Gradient:
    """Direction of the step of one class.

    direction  complex64, on the part of the padded grid that `_part_of_grid` cuts out; 0 outside the sphere
    noise      float64 (box // 2 + 1,): mean difference of the halves' first moments in each shell
    strength   mean squared length of the direction, by which classes are compared
    """

    direction: NDArray[np.complex64]
    noise: NDArray[np.float64]
    strength: float


def update_moments(sums: tuple[BackProjector, BackProjector], moments: Moments) -> Gradient:
    """Moves the moments on by the halves' residuals, in place, and says where the reference should go.

    sums: complete (symmetrised) sums of weighted residuals and weights of the two pseudo-halves.
    Source: backprojector.cpp, reweightGrad, getFristMoment, getSecondMoment and applyMomenta.
    """
    first, second, inside = (
        _part_of_moments(moments.first, sums[0]),
        _part_of_moments(moments.second, sums[0]),
        _inside(sums[0]),
    )
    gradients = []
    for half, each in enumerate(sums):
        data = _part_of_grid(each.data, each) / np.maximum(1.0, _part_of_grid(each.weight, each))
        kept = FIRST_MOMENT_KEPT if moments.first[half].any() else 0.0
        first[half][inside] = (kept * first[half] + (1.0 - kept) * data)[inside]
        gradients.append(data)
    difference = _power(gradients[1] - gradients[0])
    mean = _power((gradients[1] + gradients[0]) / 2.0)
    moved = SECOND_MOMENT_KEPT * second + (1.0 - SECOND_MOMENT_KEPT) * difference / (mean + TINY)
    second[inside] = moved[inside]
    direction = np.where(inside, (first[0] + first[1]) / 2.0 / (np.sqrt(second) + TINY), 0).astype(np.complex64)
    noise = _shell_means(np.abs(first[0] - first[1]), sums[0])
    return Gradient(direction, noise, float(_power(direction).mean()))


def take_step(
    volume: Array, gradient: Gradient, sums: BackProjector, step: float, tau2_fudge: float, workers: int = 1
) -> NDArray[np.float32]:
    """The reference (box,) * ndim after a step: towards the data where they are trusted, else towards zero.

    How much a shell is trusted is estimated from the reference's amplitude over the noise of the moments.
    `sums` says which part of Fourier space is updated; beyond it the new reference is zero.
    Source: backprojector.cpp, reconstructGrad.
    """
    reference = FourierReference.from_map(volume, 2 * sums.r_max, sums.pad, correct_gridding=False, workers=workers)
    transform = reference.data
    part = _part_of_grid(transform, sums)
    trust = _trust(_shell_means(np.abs(part), sums), gradient.noise, tau2_fudge)[_shells(sums)]
    change = trust * gradient.direction - (1.0 - trust) * part
    part += np.where(_inside(sums), step * change, 0).astype(np.complex64)
    return to_real_space(transform, sums.box, padded_box(sums.box, sums.pad), ndim=sums.ndim, workers=workers)


def step_of_class(step: float, classes: int, share: float) -> float:
    """Step size of a class that has a share of the particles: small classes move less (maximization)."""
    return step * (1.0 - float(np.exp(-(3 * classes + 10) * share)))


def _trust(amplitude: NDArray[np.float64], noise: NDArray[np.float64], tau2_fudge: float) -> NDArray[np.float64]:
    """Something like an FSC of each shell: SNR / (1 + SNR), 0 where the noise is not known."""
    ratio = np.divide(2.0 * tau2_fudge * amplitude, noise, out=np.zeros_like(noise), where=noise > 0)
    return np.clip(ratio / (1.0 + ratio), 0.0, 1.0)


def _part_of_grid(grid: Array, sums: BackProjector) -> Array:
    """View of what lies within |k| < R along each axis; 2D sums: the middle plane, still three axes."""
    radius, centre = sums.r_max_padded, grid.shape[1] // 2
    along = slice(centre - radius + 1, centre + radius)
    return grid[slice(1, 2) if sums.ndim == 2 else along, along, :radius]


def _part_of_moments(moment: Array, sums: BackProjector) -> Array:
    """The same part of a moment (..., Z, Y, X)."""
    radius, centre = sums.r_max_padded, moment.shape[-2] // 2
    along = slice(centre - radius + 1, centre + radius)
    return moment[..., slice(0, 1) if sums.ndim == 2 else along, along, :radius]


def _squared_radius(sums: BackProjector) -> NDArray[np.int64]:
    radius = sums.r_max_padded
    k = np.arange(-radius + 1, radius)
    z = np.zeros(1, np.int64) if sums.ndim == 2 else k
    return z[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(radius)[None, None, :] ** 2


def _inside(sums: BackProjector) -> NDArray[np.bool_]:
    return _squared_radius(sums) < sums.r_max_padded**2


def _shells(sums: BackProjector) -> NDArray[np.int64]:
    """Fourier shell of each voxel, at most box // 2."""
    shell = np.floor(np.sqrt(_squared_radius(sums)) / sums.pad + 0.5).astype(np.int64)
    return np.minimum(shell, sums.box // 2)


def _shell_means(values: Array, sums: BackProjector) -> NDArray[np.float64]:
    """Mean over the voxels of each shell inside the sphere, 0 where there are none; (box // 2 + 1,)."""
    inside, count = _inside(sums), sums.box // 2 + 1
    shell = _shells(sums)[inside]
    total = np.bincount(shell, values[inside].astype(np.float64), count)
    return total / np.maximum(np.bincount(shell, minlength=count), 1)


def _power(values: Array) -> Array:
    return values.real**2 + values.imag**2


# ---- classes ----


def idle_class(shares: NDArray[np.float64], strengths: NDArray[np.float64], threshold: float) -> tuple[int, int] | None:
    """(class to drop, class to put in its place) or None.

    shares (K,) of the particles and strengths (K,) of the gradients of the classes. The smallest class is
    dropped when it has less than `threshold` times the mean share; the class with the largest error takes
    its place.
    Source: ml_optimiser.cpp, maximizationGradientParameters.
    """
    if threshold <= 0 or len(shares) < 2:
        return None
    drop, grow = int(np.argmin(shares)), int(np.argmax(strengths * shares))
    active = max(int(np.sum(shares > 0)), 1)
    if drop == grow or shares[drop] >= threshold / active:
        return None
    return drop, grow


def replace_class(model: ModelState, drop: int, grow: int) -> None:
    """Makes class `drop` a copy of `grow` with a little less momentum, in place (reset_class)."""
    model.references[drop] = model.references[grow].copy()
    for values in (model.pdf_class, model.tau2_class, model.data_vs_prior_class, model.pdf_direction):
        values[drop] = values[grow]
    model.moments[drop] = model.moments[grow].copy()
    model.moments[drop].first *= np.float32(MOMENTUM_OF_NEW_CLASS)


# ---- the other parameters ----


@dataclass(frozen=True)
class Parameters:
    """What the maximization sets apart from the maps: a copy, to move only part of the way from it."""

    avg_norm_correction: float
    scale_correction: NDArray[np.float64]
    pdf_class: NDArray[np.float64]
    pdf_direction: NDArray[np.float64]
    prior_offset_class: NDArray[np.float64]
    sigma2_offset: float
    sigma2_noise: NDArray[np.float64]

    @classmethod
    def of(cls, model: ModelState) -> Parameters:
        """A copy of a model's parameters."""
        return cls(
            model.avg_norm_correction,
            model.scale_correction.copy(),
            model.pdf_class.copy(),
            model.pdf_direction.copy(),
            model.prior_offset_class.copy(),
            model.sigma_offset**2,
            model.sigma2_noise.copy(),
        )

    def keep_in(self, model: ModelState, kept: float) -> None:
        """Moves the model back towards these parameters: kept * old + (1 - kept) * new, in place.

        Source: ml_optimiser.cpp, maximizationOtherParameters with --mu.
        """
        for name in ("avg_norm_correction", "scale_correction", "pdf_class", "pdf_direction", "sigma2_noise"):
            setattr(model, name, kept * getattr(self, name) + (1.0 - kept) * getattr(model, name))
        lost = model.pdf_class <= 0.0
        model.prior_offset_class = kept * self.prior_offset_class + (1.0 - kept) * model.prior_offset_class
        model.prior_offset_class[lost] = 0.0
        model.pdf_class /= max(float(model.pdf_class.sum()), 1e-300)
        model.sigma_offset = float(np.sqrt(kept * self.sigma2_offset + (1.0 - kept) * model.sigma_offset**2))
