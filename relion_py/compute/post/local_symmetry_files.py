"""Files with local symmetry: masks and operators, as a STAR file or in the text format of DM (CCP4).

Translations are in A in all of them.

Facts: RELION 5, src/local_symmetry.cpp (readRelionFormatMasksAndOperators, readRelionFormatMasksWithoutOperators,
parseDMFormatMasksAndOperators, readDMFormatMasksAndOperators and the writers).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import matrix_to_euler
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.post.local_symmetry import Operator, Region

_MASK = "rlnMaskName"
_LABELS = (
    *("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
    *("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"),
)
_MASK_LINE = "MASKFILENAME"


def is_star(path: str) -> bool:
    """Whether the name says that it is a STAR file; others are in DM's format."""
    return path.endswith(".star")


def read_regions(path: str) -> list[Region]:
    """Masks with their operators (the identity is left out); UserError where they are not as they should be."""
    regions = _read_star(path) if is_star(path) else _read_dm(path)
    names = [os.path.basename(region.mask) for region in regions]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has two masks that are called {name}; give them different names.")
    for region in regions:
        if not region.operators:
            raise UserError(f"{path} has no operator but the identity for the mask {region.mask}.")
        if any(first.same(second) for first, second in combinations(region.operators, 2)):
            raise UserError(f"{path} has the same operator twice for the mask {region.mask}.")
    return regions


def write_regions(path: str, regions: list[Region]) -> None:
    """The masks and operators, in the format that the name asks for."""
    if not is_star(path):
        atomic_write(path, _dm_text(regions).encode("utf-8", "surrogateescape"))
        return
    rows = [(region.mask, *operator) for region in regions for operator in region.operators]
    star.write(path, StarFile([("", Table.from_rows((_MASK, *_LABELS), rows))]))


def write_samples(path: str, operators: NDArray[np.float64], deviations: NDArray[np.float64]) -> None:
    """Sampled operators (N, 6), angles and A, and how much the copy then deviates from the original (N,)."""
    columns = {label: operators[:, column] for column, label in enumerate(_LABELS)}
    star.write(path, StarFile([("", Table({**columns, "rlnImageWeight": deviations}))]))


def read_areas(path: str) -> list[list[str]]:
    """Masks of parts that are alike, for a search without operators: one list for each rlnAreaId from 1 on."""
    if not is_star(path):
        raise UserError(f"{path} must be a STAR file with _rlnMaskName and _rlnAreaId.")
    table = _first_table(path, (_MASK, "rlnAreaId"))
    names, areas = table.strings(_MASK), table.ints("rlnAreaId")
    if len(set(names)) < len(names):
        raise UserError(f"{path} has the same mask more than once.")
    groups = [[name for name, area in zip(names, areas, strict=True) if area == n] for n in range(1, areas.max() + 1)]
    if areas.min() < 1 or any(len(group) < 2 for group in groups):
        raise UserError(f"{path}: _rlnAreaId must count from 1, with two masks or more for each.")
    return groups


def _first_table(path: str, labels: tuple[str, ...]) -> Table:
    for table in star.read(path).values():
        if all(label in table for label in labels) and len(table):
            return table
    wanted = ", ".join(f"_{label}" for label in labels)
    raise UserError(
        f"{path} has no table with {wanted}. (Releases before 3.1 wrote _rlnOriginX, _rlnOriginY and _rlnOriginZ, in A "
        "as now: rename these columns.)"
    )


def _read_star(path: str) -> list[Region]:
    table = _first_table(path, (_MASK, *_LABELS))
    regions: dict[str, Region] = {}
    values = np.stack([table.floats(label) for label in _LABELS], axis=1)
    for mask, row in zip(table.strings(_MASK), values, strict=True):
        region = regions.setdefault(mask, Region(mask, []))
        _add(region, Operator.standard(*map(float, row)))
    return list(regions.values())


def _add(region: Region, operator: Operator) -> None:
    if not operator.same(Operator()):
        region.operators.append(operator)


# ------------------------------------------------------------------------------------------------ DM's format


def _read_dm(path: str) -> list[Region]:
    """MASKFILENAME lines, each with operators: ROTA EULER, POLAR or MATRIX and a line TRAN, or OMAT and four lines."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = iter([words for line in file if (words := line.split()) and not words[0].startswith("#")])
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    regions: list[Region] = []
    for words in lines:
        if words[0] == _MASK_LINE and len(words) > 1:
            regions.append(Region(words[1], []))
        elif not regions:
            raise UserError(f"{path} must begin with a line {_MASK_LINE} and the name of a mask.")
        else:
            _add(regions[-1], _dm_operator(words, lines, path))
    if not regions:
        raise UserError(f"{path} has no line {_MASK_LINE} with the name of a mask.")
    return regions


def _dm_operator(words: list[str], lines: Iterator[list[str]], path: str) -> Operator:
    def numbers(row: list[str]) -> list[float]:
        try:
            return [float(row[place]) for place in range(3)]
        except (IndexError, ValueError):
            raise UserError(f'{path}: "{" ".join(row)}" should be three numbers.') from None

    def following() -> list[str]:
        row = next(lines, None)
        if row is None:
            raise UserError(f"{path} ends within an operator.")
        return row

    kind = " ".join(words[:2]) if words[0] == "ROTA" else words[0]
    if kind == "OMAT":
        rows = [numbers(following()) for _ in range(4)]
        return Operator.standard(*_angles(np.array(rows[:3])), *rows[3])
    if kind not in ("ROTA EULER", "ROTA POLAR", "ROTA MATRIX"):
        raise UserError(f'{path}: "{" ".join(words)}" is no operator; it should begin with ROTA or OMAT.')
    first = numbers(words[2:])
    if kind == "ROTA EULER":
        angles = (first[0], first[1], first[2])
    elif kind == "ROTA POLAR":
        angles = _angles(_polar_matrix(*first))
    else:
        angles = _angles(np.array([first, numbers(following()), numbers(following())]))
    shift = following()
    if shift[0] != "TRAN":
        raise UserError(f"{path}: {kind} must be followed by a line TRAN.")
    return Operator.standard(*angles, *numbers(shift[1:]))


def _angles(matrix: NDArray[np.float64]) -> tuple[float, float, float]:
    rot, tilt, psi = matrix_to_euler(matrix.T)
    return float(rot), float(tilt), float(psi)


def _polar_matrix(omega: float, phi: float, kappa: float) -> NDArray[np.float64]:
    """Rotation by kappa about the axis that lies omega from z and phi from x (degrees), by Rodrigues' formula."""
    omega, phi, kappa = np.deg2rad([omega, phi, kappa])
    x, y, z = np.sin(omega) * np.cos(phi), np.sin(omega) * np.sin(phi), np.cos(omega)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(kappa) * cross + (1.0 - np.cos(kappa)) * cross @ cross


def _dm_text(regions: list[Region]) -> str:
    lines = []
    for region in regions:
        lines.append(f"\n{_MASK_LINE} {region.mask}\n")
        for operator in region.operators:
            lines.append(" ROTA EULER " + " ".join(f"{value:15.6f}" for value in operator[:3]) + "\n")
            lines.append("       TRAN " + " ".join(f"{value:15.6f}" for value in operator[3:]) + "\n")
    return "".join(lines)
