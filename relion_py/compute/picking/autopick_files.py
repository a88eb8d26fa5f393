"""Files of automatic picking: the list of micrographs, coordinates, the list of coordinate files, the summary.

Source: RELION 5, autopicker.cpp (initialise, generatePDFLogfile).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io import star
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.outputs import check_distinct
from relion_py.compute.io.star import StarFile, Table

_CTF_COLUMNS = {
    "rlnDefocusU": "defocus_u",
    "rlnDefocusV": "defocus_v",
    "rlnDefocusAngle": "defocus_angle",
    "rlnPhaseShift": "phase_shift",
    "rlnCtfBfactor": "bfactor",
    "rlnCtfScalefactor": "scale",
}
_OPTICS_COLUMNS = {"rlnVoltage": "voltage", "rlnSphericalAberration": "cs", "rlnAmplitudeContrast": "q0"}
_OPTIONAL = ("rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor")


@dataclass(frozen=True)
class Micrograph:
    """One micrograph: its name, A per pixel, and its CTF if that was asked for."""

    name: str
    angpix: float
    ctf: CtfParams | None = None


@dataclass(frozen=True)
class Done:
    """The outcome of one micrograph. file: its coordinates; merit: mean figure of merit, 0 without particles."""

    name: str
    file: str
    particles: int
    merit: float


def read_micrographs(path: str, angpix: float, ctf_flag: str = "") -> list[Micrograph]:
    """Micrographs of a STAR file, or those that a pattern with * and ? matches.

    angpix: A per pixel where the input does not tell; not positive: not given. ctf_flag: the option that needs their
    CTFs; "": not needed. UserError if there are none, or a column is missing.
    """
    if not path.endswith(".star"):
        names = sorted(glob.glob(path), key=os.fsencode)
        if not names:
            raise UserError(f"There are no micrographs called {path}.")
        if ctf_flag:
            raise UserError(f"{ctf_flag} needs a STAR file of micrographs with their CTFs after --i.")
        _check_pixel_size(angpix, path)
        check_distinct(names, "coordinates")
        return [Micrograph(name, angpix) for name in names]
    file = star.read(path)
    if "optics" not in file:
        file = to_optics_form(file)
    optics, table = file["optics"], _table(file, path)
    names = table.strings("rlnMicrographName")
    if not names:
        raise UserError(f"There are no micrographs in {path}.")
    group_of = dict(zip(optics.ints("rlnOpticsGroup").tolist(), range(len(optics)), strict=True))
    groups = table.ints("rlnOpticsGroup").tolist() if "rlnOpticsGroup" in table else [min(group_of)] * len(names)
    for name, group in zip(names, groups, strict=True):
        if group not in group_of:
            raise UserError(f"{path}: optics group {group} of {name} is not in its table of optics groups.")
    rows = np.array([group_of[group] for group in groups])
    if "rlnMicrographPixelSize" in optics:
        sizes = optics.floats("rlnMicrographPixelSize")
        for size in sizes:
            _check_pixel_size(float(size), path)
    else:
        _check_pixel_size(angpix, path)
        sizes = np.full(len(optics), angpix)
    ctfs = _ctfs(table, optics, rows, path, ctf_flag) if ctf_flag else None
    check_distinct(names, "coordinates")
    return [
        Micrograph(name, float(sizes[row]), None if ctfs is None else ctfs[index])
        for index, (name, row) in enumerate(zip(names, rows, strict=True))
    ]


def _table(file: StarFile, path: str) -> Table:
    for table in [file["micrographs"]] if "micrographs" in file else list(file.values()):
        if "rlnMicrographName" in table and "rlnImageName" not in table:
            return table
    raise UserError(f"{path} has no column _rlnMicrographName; give a STAR file of micrographs, not of movies.")


def _check_pixel_size(angpix: float, path: str) -> None:
    if not 0 < angpix < np.inf:
        raise UserError(f"{path} does not tell the pixel size of the micrographs; give it with --angpix.")


def _ctfs(table: Table, optics: Table, rows: np.ndarray, path: str, flag: str) -> CtfParams:
    values = {}
    for source, names in ((table, _CTF_COLUMNS), (optics, _OPTICS_COLUMNS)):
        for label, field in names.items():
            if label in source:
                values[field] = source.floats(label) if source is table else source.floats(label)[rows]
            elif label not in _OPTIONAL:
                raise UserError(f"{flag} needs the column _{label}, which {path} does not have.")
    return CtfParams(**values)


def read_done(name: str, path: str) -> Done | None:
    """What an earlier or this run made of a micrograph; None if there are no coordinates. UserError if broken."""
    if not os.path.exists(path):
        return None
    tables = list(star.read(path).values())
    if not tables:
        raise UserError(f"{path} holds no coordinates; remove it and run again.")
    label = "rlnAutopickFigureOfMerit"
    merits = tables[0].floats(label) if label in tables[0] else np.zeros(0)
    return Done(name, path, len(tables[0]), float(merits.mean()) if len(merits) else 0.0)


def write_lists(directory: str, pickname: str, done: Sequence[Done]) -> None:
    """Write `<pickname>.star`, the list of coordinate files, and `summary.star`."""
    names = [one.name for one in done]
    coordinates = Table({"rlnMicrographName": names, "rlnMicrographCoordinates": [one.file for one in done]})
    star.write(f"{directory}{pickname}.star", StarFile([("coordinate_files", coordinates)]))
    summary = Table(
        {
            "rlnMicrographName": names,
            "rlnAutopickFigureOfMerit": [one.merit for one in done],
            "rlnGroupNrParticles": [one.particles for one in done],
        }
    )
    star.write(f"{directory}summary.star", StarFile([("", summary)]))
