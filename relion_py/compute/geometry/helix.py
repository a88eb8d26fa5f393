"""Helical symmetry: what a twist and a rise mean, whether they can be used, imposing and refining them.

A helix along Z with twist t (degrees, positive is right-handed) and rise d (A) looks the same after a turn by t
about +Z (from X to Y) and a step of d along +Z. Maps are (z, y, x) with their centre at voxel ``box // 2``.

Source: He & Scheres (2017) J Struct Biol 198:163; facts: RELION 5, helix.cpp
(imposeHelicalSymmetryInRealSpace, localSearchHelicalSymmetry, calcCCofHelicalSymmetry,
checkParametersFor3DHelicalReconstruction).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.helix_kernels import average_units, unit_variances

_RISE_REACH = 0.3334  # largest distance of a limit of the rise from the middle of its range, as a part of the latter
_UNITS = 2.0  # rises that the central part must hold at least
_LEAST, _MOST = 5, 1000  # steps across the range of a parameter in the first round
_PRECISION = 1e-5  # steps, as a part of the value, at which a search ends
_ROUNDS = 100


@dataclass(frozen=True)
class Tube:
    """Where a helix is in its box. diameter: of the sphere (A). outer, inner: diameters of the tube (A); an inner
    one that is not positive is none. central: part of the box's length along Z that is good density (0 to 1)."""

    diameter: float
    outer: float
    inner: float = -1.0
    central: float = 0.3


@dataclass(frozen=True)
class Range:
    """What a parameter may be: smallest and largest value, and the first step of a search (0: by itself)."""

    low: float
    high: float
    step: float = 0.0

    @staticmethod
    def at(value: float) -> Range:
        """A parameter that is known."""
        return Range(value, value)

    @property
    def middle(self) -> float:
        """Where a search begins."""
        return 0.5 * (self.low + self.high)


@dataclass(frozen=True)
class Found:
    """What a search found: twist (degrees), rise (A), the mean variance among symmetry mates there, and a sentence
    where the answer is not to be trusted ("" where it is)."""

    twist: float
    rise: float
    deviation: float
    warning: str = ""


# ---- checks ----------------------------------------------------------------------------------------------------


def check_tube(tube: Tube, box: int, pixel_size: float) -> None:
    """UserError unless the sphere and the tube fit each other and a box (pixels, A per pixel)."""
    half = box // 2 - ((box + 1) % 2)
    radius, outer, inner = (0.5 * size / pixel_size for size in (tube.diameter, tube.outer, tube.inner))
    if box <= 10:
        raise UserError(f"A box of {box} pixels is too small for a helix; it must be larger than 10.")
    if not 2 <= radius <= half:
        raise UserError(
            f"The particle diameter of {tube.diameter:g} A does not fit a helix in a box of {box * pixel_size:g} A; "
            f"it must be between {4 * pixel_size:g} and {2 * half * pixel_size:g} A."
        )
    if not 2 <= outer <= min(half, radius):
        raise UserError(
            f"The tube's outer diameter of {tube.outer:g} A must be above {4 * pixel_size:g} A and not above the "
            f"particle diameter of {tube.diameter:g} A."
        )
    if inner > 0 and inner + 2 > outer:
        raise UserError(
            f"The tube's inner diameter of {tube.inner:g} A must be smaller than the outer one of {tube.outer:g} A "
            f"by at least {4 * pixel_size:g} A."
        )


def check_parameters(
    tube: Tube,
    twist: float,
    rise: float,
    box: int,
    pixel_size: float,
    units: int = 1,
    twists: Range | None = None,
    rises: Range | None = None,
) -> None:
    """UserError, one sentence, unless helical symmetry can be used with these parameters.

    twist  degrees; rise  A; units  asymmetric units that every segment brings
    twists, rises  the limits, where the symmetry is to be refined
    """
    check_tube(tube, box, pixel_size)
    search = twists is not None or rises is not None
    twists, rises = twists or Range.at(twist), rises or Range.at(rise)
    if max(abs(twists.low), abs(twist), abs(twists.high)) > 360:
        raise UserError(f"A helical twist must be between -360 and 360 degrees; {twist:g} was given.")
    if min(rises.low, rise, rises.high) / max(1.0, pixel_size) < 0.001:
        raise UserError("The helical rise and its limits must be positive.")
    if search:
        _check_limits("twist", "degrees", twist, twists)
        _check_limits("rise", "A", rise, rises)
        if twists.high - twists.low > 360.02:
            raise UserError("The range of the helical twist must not exceed 360 degrees.")
        if rises.middle - rises.low > _RISE_REACH * rises.middle:
            raise UserError("The limits of the helical rise must not be farther than a third from their middle.")
    _check_central(tube, rises.high, box, pixel_size)
    most = max(1, 2 * floor(0.5 * (1 - tube.central) * box * pixel_size / rises.high) + 1)
    if not 1 <= units <= most:
        raise UserError(
            f"{units} asymmetric units per segment do not fit; with this box, rise and central part there may be "
            f"1 to {most}."
        )


def _check_limits(name: str, unit: str, value: float, limits: Range) -> None:
    if not limits.low <= value <= limits.high:
        raise UserError(
            f"The helical {name} of {value:g} {unit} is not between its limits, {limits.low:g} and {limits.high:g}."
        )


def _check_central(tube: Tube, rise: float, box: int, pixel_size: float) -> None:
    length = box * pixel_size
    low = max(0.001, _UNITS * rise / length)
    high = min(0.999, sqrt(tube.diameter**2 - tube.outer**2) / length)
    if low > high:
        raise UserError(
            f"The box of {length:g} A is too short for a rise of {rise:g} A: the central part would have to hold two "
            "rises and lie within the sphere; take a larger box and particle diameter."
        )
    if not low <= tube.central <= high:
        raise UserError(
            f"The central Z length of {100 * tube.central:g} % of the box must be between {100 * low:.4g} and "
            f"{100 * high:.4g} % with this rise, box and diameters."
        )


# ---- imposing ---------------------------------------------------------------------------------------------------


def operators(twist: float, rise: float, units: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (n, 3, 3) and translations (n, 3) that take a helix's unit 0 to the given units; twist in degrees,
    translations in the unit of rise. A point p of unit 0 is at ``R @ p + t`` in unit i."""
    numbers = np.asarray(units, dtype=np.float64)
    angles = np.deg2rad(numbers * twist)
    rotations = np.zeros((len(numbers), 3, 3))
    rotations[:, 0, 0] = rotations[:, 1, 1] = np.cos(angles)
    rotations[:, 1, 0] = np.sin(angles)
    rotations[:, 0, 1] = -rotations[:, 1, 0]
    rotations[:, 2, 2] = 1.0
    return rotations, numbers[:, None] * np.array([0.0, 0.0, rise])


def impose(
    volume: NDArray, pixel_size: float, tube: Tube, twist: float, rise: float, edge: float = 5.0, workers: int = 1
) -> NDArray[np.float32]:
    """A map, float32 (z, y, x), that has the symmetry everywhere in its tube and is 0 outside.

    Every voxel becomes the mean of its symmetry mates in the central part of the box, by trilinear
    interpolation; the sphere and the tube have raised-cosine edges of `edge` pixels, outside their radii (the
    inner wall's is inside). twist in degrees, rise in A. UserError for parameters that cannot be.
    """
    check_parameters(tube, twist, rise, min(volume.shape), pixel_size)
    source = np.ascontiguousarray(volume, dtype=np.float32)
    out = np.zeros_like(source)
    half = _central_half(source.shape[0], tube.central)
    measures = np.array([tube.diameter, tube.inner, tube.outer]) * 0.5 / pixel_size
    edge = max(edge, 1.0)

    def part(first: int, last: int) -> None:
        average_units(source, rise / pixel_size, np.deg2rad(twist), half, *measures, edge, first, last, out)

    _share(part, source.shape[0], workers)
    return out


def _central_half(length: int, central: float) -> float:
    """Half the length in voxels of the central part; one plane at the ends is needed for interpolation."""
    return min(0.5 * length * central, (length - 1) // 2 - 1.0)


def _share(part, length: int, workers: int) -> None:  # type: ignore[no-untyped-def]
    """Run part(first, last) over ranges of 0..length on threads."""
    bounds = np.linspace(0, length, 2 * workers + 1).astype(int) if workers > 1 else [0, length]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for job in [pool.submit(part, int(first), int(last)) for first, last in pairwise(bounds)]:
            job.result()


# ---- refining ---------------------------------------------------------------------------------------------------


def deviations(
    volume: NDArray, pixel_size: float, tube: Tube, twists: NDArray, rises: NDArray, workers: int = 1
) -> NDArray[np.float64]:
    """How much a map (z, y, x) differs from having the symmetries twists (n,) (degrees), rises (n,) (A): float64 (n,).

    The mean, over the voxels of one rise at the lower end of the central part and between the walls of the
    tube, of the variance among each voxel's mates in that part.
    """
    source = np.ascontiguousarray(volume, dtype=np.float32)
    reach = (min(source.shape[1:]) + 1) // 2 - 1 - 0.01
    outer = min(0.5 * tube.outer / pixel_size, reach)
    length = source.shape[0]
    first = max(floor(-0.5 * length * tube.central), 1 - length // 2)
    last = min(ceil(0.5 * length * tube.central), (length - 1) // 2 - 1)
    out = np.zeros(len(twists))
    angles, steps = np.deg2rad(np.asarray(twists, np.float64)), np.asarray(rises, np.float64) / pixel_size

    def part(begin: int, end: int) -> None:
        some = slice(begin, end)
        inner = 0.5 * tube.inner / pixel_size
        unit_variances(source, steps[some], angles[some], first, last, inner, outer, out[some])

    _share(part, len(out), workers)
    return out


@dataclass
class _Search:
    """One parameter in a search: its limits, the stretch that the next round looks at, and its step."""

    limits: Range
    first: float
    last: float
    step: float
    active: bool
    best: float = 0.0
    left: bool = field(default=False)  # went beyond its limits

    def values(self) -> NDArray[np.float64]:
        if not self.active:
            return np.array([0.5 * (self.first + self.last)])
        return np.asarray(self.first + self.step * np.arange(round((self.last - self.first) / self.step) + 1), float)

    def fix(self, value: float) -> None:
        self.first = self.last = self.best = value
        self.active = False

    def keep_in_limits(self) -> None:
        if self.active and not self.limits.low <= self.best <= self.limits.high:
            self.left = True
            self.fix(min(max(self.best, self.limits.low), self.limits.high))

    def widen_at_end(self, times: int) -> bool:
        """Look farther if the best value is at an end of the stretch; whether it is."""
        margin = 0.5 * self.step
        if not self.active or self.first + margin <= self.best <= self.last - margin:
            return False
        reach = (times + 3) * self.step
        self.first, self.last = self.best - reach, self.best + reach
        return True

    def narrow(self) -> None:
        """Around the best value with half the step, or no more where the step is small enough."""
        if not self.active:
            return
        self.first, self.last = self.best - self.step, self.best + self.step
        if self.step < _PRECISION * max(abs(self.best), 1e-2):
            self.fix(self.best)
        else:
            self.step *= 0.5


def _begin(limits: Range, step: float, none: float) -> _Search:
    """The first round's stretch: the limits, cut into 5 to 1000 steps of at most `step`; not a search at all
    if they differ by less than `none`."""
    span = limits.high - limits.low
    if span < none:
        return _Search(limits, limits.middle, limits.middle, 0.0, active=False, best=limits.middle)
    count = min(max(ceil(span / step), _LEAST), _MOST)
    return _Search(limits, limits.low, limits.high, span / count, active=True)


def search(volume: NDArray, pixel_size: float, tube: Tube, twists: Range, rises: Range, workers: int = 1) -> Found:
    """The twist and rise within their limits that a map (z, y, x) has best: a grid that is refined step by step.

    The first round has steps of at most 1 degree and 1 % of the rise, or those of the ranges. Where a limit
    is passed, the parameter stays on it and the answer has a warning. UserError for what cannot be searched.
    """
    check_parameters(tube, twists.middle, rises.middle, min(volume.shape), pixel_size, 1, twists, rises)
    rise_step = min(0.01 * rises.middle, rises.step if rises.step > 1e-5 * pixel_size else np.inf)
    rise = _begin(rises, rise_step, _PRECISION * rises.middle)
    twist = _begin(twists, twists.step if twists.step >= 1e-5 else 1.0, _PRECISION)
    found = Found(twist.best, rise.best, 0.0)
    known: dict[tuple[float, float], float] = {}
    wider = 0
    for number in range(_ROUNDS):
        if not (twist.active or rise.active):
            break
        found = _best_of_round(volume, pixel_size, tube, twist, rise, known, workers)
        rise.keep_in_limits()
        twist.keep_in_limits()
        if number and not (rise.left or twist.left):
            at_end = [parameter.widen_at_end(wider) for parameter in (rise, twist)]
            if any(at_end):
                wider += 1
                if wider > 10:
                    return replace(
                        found, warning="the search for helical symmetry does not converge; begin with smaller steps"
                    )
                continue
        wider = 0
        rise.narrow()
        twist.narrow()
    if rise.left or twist.left:
        warning = "the refined helical symmetry is at a limit of its range; look at the first guess and the range"
        return Found(twist.best, rise.best, found.deviation, warning)
    return found


def _best_of_round(
    volume: NDArray,
    pixel_size: float,
    tube: Tube,
    twist: _Search,
    rise: _Search,
    known: dict[tuple[float, float], float],
    workers: int,
) -> Found:
    """The best pair of this round, which becomes both parameters' `best`; each pair is looked at only once."""
    pairs = list(product(rise.values().tolist(), twist.values().tolist()))
    keys = [(round(one, 9), round(other, 9)) for one, other in pairs]
    new = [pair for pair, key in zip(pairs, keys, strict=True) if key not in known]
    if new:
        values = np.array(new)
        scores = deviations(volume, pixel_size, tube, values[:, 1], values[:, 0], workers)
        known.update(((round(one, 9), round(other, 9)), score) for (one, other), score in zip(new, scores, strict=True))
    best = min(range(len(pairs)), key=lambda n: known[keys[n]])
    rise.best, twist.best = pairs[best]
    return Found(twist.best, rise.best, float(known[keys[best]]))
