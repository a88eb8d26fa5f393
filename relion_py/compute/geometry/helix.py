"""Helical symmetry: what a twist and a rise mean, and whether they can be used. Maps: `helix_maps`.

A helix along Z with twist t (degrees, positive is right-handed) and rise d (A) looks the same after a turn by t
about +Z (from X to Y) and a step of d along +Z. Maps are (z, y, x) with their centre at voxel ``box // 2``.

Source: He & Scheres (2017) J Struct Biol 198:163; facts: RELION 5, helix.cpp
(checkParametersFor3DHelicalReconstruction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, sqrt

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError

_RISE_REACH = 0.3334  # largest distance of a limit of the rise from the middle of its range, as a part of the latter
_UNITS = 2.0  # rises that the central part must hold at least


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
