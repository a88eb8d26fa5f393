"""Point groups of rotations in RELION's settings and RELION's order of operators.

An operator R is applied on the right of an Euler matrix: ``A`` and ``A @ R`` show the same view of a
symmetrical map.  Only groups of pure rotations exist here, since no protein has a mirror plane.

Facts: RELION 5 ``src/symmetries.cpp`` (``SymList::fill_symmetry_class``, ``compute_subgroup``).  The axes are
written with exact square roots where the reference has rounded decimals.
"""

from __future__ import annotations

import re
from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import matrix_to_euler

Axis = tuple[int, tuple[float, float, float]]  # fold, direction

# Of the icosahedron: where its 5-fold axes (SHORT, LONG) and 3-fold axes (LOW, HIGH) cut a 2-fold plane.
_SHORT, _LONG = sqrt((5 - sqrt(5)) / 10), sqrt((5 + sqrt(5)) / 10)
_LOW, _HIGH = sqrt((3 - sqrt(5)) / 6), sqrt((3 + sqrt(5)) / 6)

_POLYHEDRAL: dict[str, tuple[Axis, ...]] = {
    "T": ((3, (0, 0, 1)), (2, (0, sqrt(2 / 3), sqrt(1 / 3)))),
    "O": ((3, (1, 1, 1)), (4, (0, 0, 1))),
    "I1": ((2, (1, 0, 0)), (5, (_LONG, 0, -_SHORT)), (3, (_HIGH, _LOW, 0))),
    "I2": ((2, (0, 0, 1)), (5, (_SHORT, 0, _LONG)), (3, (0, _LOW, _HIGH))),
    "I3": ((2, (-_SHORT, 0, _LONG)), (5, (0, 0, 1)), (3, (-_HIGH * _SHORT, _LOW, _HIGH * _LONG))),
    "I4": (
        (2, (_SHORT, 0, _LONG)),
        (5, (2 / sqrt(5), 0, 1 / sqrt(5))),
        (3, (_HIGH * _SHORT, _LOW, _HIGH * _LONG)),
    ),
}
_MIRRORS = re.compile(r"(C[IS]|[CD]\d{1,2}[HV]|S\d{1,2}|T[DH]|OH|I[1-5]?H)")


def canonical(name: str) -> str:
    """The point group's name as this package writes it: upper case, no leading zeros; "I" stays "I" (= I2).

    Raises UserError with one sentence for mirror groups and for what is no point group.
    """
    text = name.strip().upper()
    if text in _POLYHEDRAL or text == "I":
        return text
    cyclic = re.fullmatch(r"([CD])(\d{1,2})", text)
    if cyclic and int(cyclic[2]) > 0:
        return f"{cyclic[1]}{int(cyclic[2])}"
    if _MIRRORS.fullmatch(text):
        raise UserError(
            f"Point group {text} contains mirror planes or an inversion, which no protein has; "
            "choose one of rotations only: Cn, Dn, T, O, I1, I2, I3 or I4."
        )
    raise UserError(f"Unknown point group {name!r}; choose Cn, Dn (n = 1 to 99), T, O, I, I1, I2, I3 or I4.")


def operators(name: str) -> NDArray[np.float64]:
    """The rotation matrices (M, 3, 3) of a point group, the identity first, in RELION's order; read-only.

    Raises UserError as :func:`canonical`.
    """
    return _operators(canonical(name))


def listing(name: str) -> str:
    """The operators of a point group and their Euler angles as text (symmetries.cpp, SymList::writeDefinition)."""
    matrices = operators(name)
    lines = [f" ++++ Using symmetry group {name}, with the following {len(matrices)} transformation matrices:"]
    for number, matrix in enumerate(matrices, 1):
        lines.append(f" R({number})= ")
        lines += ["".join(f"{value + 0.0:13.6f}" for value in row) for row in np.round(matrix, 6)]
        if number > 1:
            angles = (float(angle[0]) for angle in matrix_to_euler(matrix[None]))
            lines.append("     Euler angles: " + " ".join(f"{angle:g}" for angle in angles))
    return "\n".join(lines)


def order(name: str) -> int:
    """How many operators the point group has, the identity among them."""
    return len(operators(name))


def _axes(group: str) -> tuple[Axis, ...]:
    if group == "I":
        return _POLYHEDRAL["I2"]
    if group in _POLYHEDRAL:
        return _POLYHEDRAL[group]
    fold = int(group[1:])
    main: tuple[Axis, ...] = ((fold, (0, 0, 1)),) if fold > 1 else ()
    return main if group[0] == "C" else (*main, (2, (1, 0, 0)))


@cache
def _operators(group: str) -> NDArray[np.float64]:
    generators = [_turn(axis, -360.0 * step / fold) for fold, axis in _axes(group) for step in range(1, fold)]
    matrices = np.array([np.eye(3), *_close_group(generators)])
    matrices.setflags(write=False)
    return matrices


def _turn(axis: tuple[float, float, float], degrees: float) -> NDArray[np.float64]:
    """Active rotation by ``degrees`` about ``axis`` (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return _tidy(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _close_group(found: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Products of the generators until no new one appears, tried in the order of compute_subgroup."""
    found = list(found)
    n = 0
    while n < len(found):
        pairs = [(i, n) for i in range(n + 1)] + [(n, j) for j in range(n - 1, -1, -1)]
        for i, j in pairs:
            product = _tidy(found[i] @ found[j])
            if np.abs(np.array([np.eye(3), *found]) - product).max(axis=(1, 2)).min() > 1e-6:
                found.append(product)
        n += 1
    return found


def _tidy(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(matrix) < 1e-12, 0.0, matrix)
