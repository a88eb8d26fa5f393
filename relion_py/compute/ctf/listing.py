"""The micrographs of a run: input lists, output names, `micrographs_ctf.star`.

Source: RELION 5, ctffind_runner.cpp (initialise, joinCtffindResults).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relion_py.compute.ctf.ctffind import CtfResult
from relion_py.compute.ctf.estimate import Microscope
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.outputs import check_distinct
from relion_py.compute.io.star import StarFile, Table

_POOREST_SHOWN = 25.0  # A; CTFFIND4 says "inf" and Gctf 999 where nothing fits
_OPTICS = (
    ("rlnSphericalAberration", "--CS", "spherical aberration"),
    ("rlnVoltage", "--HT", "voltage"),
    ("rlnAmplitudeContrast", "--AmpCnst", "amplitude contrast"),
    ("rlnMicrographPixelSize", "--angpix", "pixel size"),
)


@dataclass(frozen=True)
class Entry:
    """One micrograph. source: the image that the CTF is estimated from, which is the micrograph itself, the
    one without dose weights, or its power spectrum. pixel_size: of the micrograph in A."""

    micrograph: str
    source: str
    optics_group: int
    microscope: Microscope
    pixel_size: float


@dataclass(frozen=True)
class MicrographList:
    """The micrographs of an input and the table of their optics groups."""

    optics: Table
    entries: tuple[Entry, ...]


def read_micrographs(
    path: str,
    optics_options: Mapping[str, float],
    source_label: str = "rlnMicrographName",
    source_option: str = "",
) -> MicrographList:
    """Micrographs of a STAR file, or those that a pattern with * and ? matches.

    optics_options: "--CS" (mm), "--HT" (kV), "--AmpCnst", "--angpix" (A) serve where the input does not tell;
    negative: not given. source_label: the column of the images that are looked at; `source_option` is the
    option that asked for it. UserError if there are no micrographs, for tilt series, and for missing columns.
    """
    if path.endswith(".star"):
        file = star.read(path)
        if "global" in file and "rlnTomoName" in file["global"]:
            raise UserError(f"{path} lists tilt series; tomography is not in this release.")
        table, optics = _tables(file, path)
        names = table.strings("rlnMicrographName")
        if source_label not in table:
            raise UserError(f"{source_option} needs the column _{source_label}, which {path} does not have.")
        sources = table.strings(source_label)
        groups = table.ints("rlnOpticsGroup").tolist() if "rlnOpticsGroup" in table else [1] * len(names)
    else:
        if source_option:
            raise UserError(f"{source_option} needs a STAR file of micrographs; {path} is none.")
        names = sources = sorted(glob.glob(path), key=os.fsencode)
        groups = [1] * len(names)
        optics = Table({"rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": [1]})
    if not names:
        raise UserError(f"There are no micrographs in {path}.")
    entries = _entries(names, sources, groups, _complete(optics, optics_options, path), path)
    return MicrographList(optics, entries)


def _tables(file: StarFile, path: str) -> tuple[Table, Table]:
    if "optics" not in file:
        file = to_optics_form(file)
    for table in [file["micrographs"]] if "micrographs" in file else list(file.values()):
        if "rlnMicrographName" in table and "rlnImageName" not in table:
            return table, file["optics"].copy()
    raise UserError(f"{path} has no column _rlnMicrographName; give a STAR file of micrographs, not of movies.")


def _complete(optics: Table, options: Mapping[str, float], path: str) -> dict[int, tuple[float, ...]]:
    """Fill up what the optics table lacks; group number -> Cs, voltage, amplitude contrast, pixel size."""
    for label, option, what in _OPTICS:
        if label not in optics:
            if options[option] < 0:
                raise UserError(f"{path} does not tell the {what}; give it with {option}.")
            optics.set(label, [float(options[option])] * len(optics))
    columns = [optics.floats(label).tolist() for label, _, _ in _OPTICS]
    return dict(zip(optics.ints("rlnOpticsGroup").tolist(), zip(*columns, strict=True), strict=True))


def _entries(
    names: Sequence[str],
    sources: Sequence[str],
    groups: Sequence[int],
    known: Mapping[int, tuple[float, ...]],
    path: str,
) -> tuple[Entry, ...]:
    check_distinct(sources, "outputs")
    entries = []
    for name, source, group in zip(names, sources, groups, strict=True):
        if group not in known:
            raise UserError(f"{path}: optics group {group} of {name} is not in its table of optics groups.")
        cs, voltage, q0, pixel = known[group]
        if not (voltage > 0 and pixel > 0 and 0 <= q0 <= 1):
            raise UserError(
                f"{path}: optics group {group} has the voltage {voltage:g} kV, the pixel size {pixel:g} A "
                f"and the amplitude contrast {q0:g}; they must be positive, and the contrast at most 1."
            )
        entries.append(Entry(name, source, group, Microscope(voltage, cs, q0), pixel))
    return tuple(entries)


def write_micrographs(
    path: str,
    micrographs: MicrographList,
    done: Sequence[tuple[Entry, str, CtfResult]],
    without_dose_weights: bool = False,
    with_phase: bool = False,
) -> Table:
    """Write `micrographs_ctf.star` and return its table. done: entry, root of its outputs, result."""
    columns: dict[str, list[object]] = {}
    with_ice = any(result.ice > 0 for _, _, result in done)
    for entry, root, result in done:
        row: dict[str, object] = {}
        if without_dose_weights:
            row["rlnMicrographNameNoDW"] = entry.source
        row["rlnMicrographName"] = entry.micrograph
        row["rlnOpticsGroup"] = entry.optics_group
        row["rlnCtfImage"] = f"{root}.ctf:mrc"
        row["rlnDefocusU"], row["rlnDefocusV"] = result.defocus_u, result.defocus_v
        row["rlnCtfAstigmatism"] = abs(result.defocus_u - result.defocus_v)
        row["rlnDefocusAngle"] = result.angle
        row["rlnCtfFigureOfMerit"] = result.score
        row["rlnCtfMaxResolution"] = min(_POOREST_SHOWN, result.resolution)
        if with_phase:
            row["rlnPhaseShift"] = result.phase_shift
        if with_ice:
            row["rlnCtfIceRingDensity"] = result.ice
        for label, value in row.items():
            columns.setdefault(label, []).append(value)
    table = Table(columns)
    star.write(path, StarFile([("optics", micrographs.optics), ("micrographs", table)]))
    return table
