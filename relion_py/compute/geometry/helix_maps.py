"""Helical symmetry of maps: imposing it, and finding the twist and rise that a map has.

Maps are (z, y, x) with the helix along Z through voxel ``box // 2``. Source: He & Scheres (2017) J Struct Biol 198:163;
facts: RELION 5, helix.cpp (imposeHelicalSymmetryInRealSpace, localSearchHelicalSymmetry, calcCCofHelicalSymmetry).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry.helix import Range, Tube, check_parameters
from relion_py.compute.geometry.helix_kernels import average_units, unit_variances

_LEAST, _MOST = 5, 1000  # steps across the range of a parameter in the first round
_PRECISION = 1e-5  # steps, as a part of the value, at which a search ends
_ROUNDS = 100


@dataclass(frozen=True)
class Found:
    """What a search found: twist (degrees), rise (A), the mean variance among symmetry mates there, and a sentence
    where the answer is not to be trusted ("" where it is)."""

    twist: float
    rise: float
    deviation: float
    warning: str = ""


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
