"""The movies of a run and its micrographs: input lists, output names, `corrected_micrographs.star`.

Source: RELION 5, motioncorr_runner.cpp (initialise, getOutputFileNames, generateLogFilePDFAndWriteStarFiles).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.outputs import check_distinct
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.motion.model import MovieMotion

_PIXEL = "rlnMicrographOriginalPixelSize"


@dataclass(frozen=True)
class Entry:
    """One movie: its file, optics group, A per pixel, kV, and dose (e/A2) before its first frame."""

    movie: str
    optics_group: int
    pixel_size: float
    voltage: float
    pre_exposure: float


@dataclass(frozen=True)
class MovieList:
    """The movies of an input and the table of their optics groups."""

    optics: Table
    entries: tuple[Entry, ...]


def read_movies(path: str, angpix: float = -1.0, voltage: float = -1.0) -> MovieList:
    """Movies of a STAR file, or those that a pattern with * and ? matches.

    angpix (A) and voltage (kV) serve where the input does not tell them. UserError if there are no movies,
    for tilt series, and where pixel size or voltage is missing.
    """
    if path.endswith(".star"):
        file = star.read(path)
        if "global" in file:
            raise UserError(f"{path} lists tilt series; tomography is not in this release.")
        table = _movie_table(file, path)
        optics = file["optics"].copy() if "optics" in file else _one_group()
        names = table.strings("rlnMicrographMovieName")
        ones = [1] * len(names)
        groups = table.ints("rlnOpticsGroup").tolist() if "rlnOpticsGroup" in table else ones
        label = "rlnMicrographPreExposure"
        before = table.finite(label).tolist() if label in table else [0.0] * len(names)
    else:
        names = sorted(glob.glob(path), key=os.fsencode)
        optics, groups, before = _one_group(), [1] * len(names), [0.0] * len(names)
    if not names:
        raise UserError(f"There are no movies in {path}.")
    for label, value, option, what in (
        (_PIXEL, angpix, "--angpix", "pixel size"),
        ("rlnVoltage", voltage, "--voltage", "voltage"),
    ):
        if label not in optics:
            if value <= 0:
                raise UserError(f"{path} does not tell the {what}; give it with {option}.")
            optics.set(label, [float(value)] * len(optics))
        elif not (optics.finite(label) > 0).all():
            raise UserError(f"{path}: _{label} of every optics group must be a positive number.")
    numbers = optics.ints("rlnOpticsGroup").tolist()
    pixel, kilovolts = (
        dict(zip(numbers, optics.floats(label).tolist(), strict=True)) for label in (_PIXEL, "rlnVoltage")
    )
    odd = sorted(set(groups) - set(numbers))
    if odd:
        raise UserError(f"{path}: optics group {odd[0]} is not in its table of optics groups.")
    rows = zip(names, groups, before, strict=True)
    entries = tuple(Entry(n, g, pixel[g], kilovolts[g], b) for n, g, b in rows)
    check_distinct(names, "micrographs", output_root)
    return MovieList(optics, entries)


def _one_group() -> Table:
    return Table({"rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": [1]})


def _movie_table(file: StarFile, path: str) -> Table:
    if "movies" in file and "rlnMicrographMovieName" in file["movies"]:
        return file["movies"]
    for table in file.values():
        if "rlnMicrographMovieName" in table:
            return table
    raise UserError(
        f"{path} has no column _rlnMicrographMovieName; were its files imported as movies, not micrographs?"
    )


def output_root(directory: str, movie: str) -> str:
    """The path of a movie's outputs without their endings: directories kept, dots made underscores.

    So no movie name, however odd, leads out of `directory`.
    """
    root = os.path.splitext(movie)[0].replace(".", "_").lstrip("/")
    return directory + root


def is_done(root: str, with_spectrum: bool, with_unweighted: bool, even_odd: bool) -> bool:
    """Whether a movie's outputs are all there."""
    endings = [".mrc", ".star"]
    if with_unweighted:
        endings.append("_noDW.mrc")
    if with_spectrum:
        endings.append("_PS.mrc")
    if even_odd:
        endings += ["_EVN.mrc", "_ODD.mrc"]
    return all(os.path.exists(root + ending) for ending in endings)


def write_micrographs(
    path: str,
    movies: MovieList,
    done: Sequence[tuple[Entry, str, MovieMotion]],
    bin_factor: float,
    dose_cutoff: float,
    with_spectrum: bool = False,
    with_unweighted: bool = False,
    with_even_odd: bool = False,
) -> Table:
    """Write `corrected_micrographs.star` and return its table of micrographs.

    done: the movies that have a micrograph, with the root of its name and its motion. dose_cutoff: e/A2 at
    which early motion ends and late motion begins.
    """
    columns: dict[str, list[object]] = {}

    def add(label: str, value: object) -> None:
        columns.setdefault(label, []).append(value)

    for entry, root, motion in done:
        if with_unweighted:
            add("rlnMicrographNameNoDW", f"{root}_noDW.mrc")
        if with_spectrum:
            add("rlnCtfPowerSpectrum", f"{root}_PS.mrc")
        if with_even_odd:
            add("rlnMicrographNameEven", f"{root}_EVN.mrc")
            add("rlnMicrographNameOdd", f"{root}_ODD.mrc")
        add("rlnMicrographName", f"{root}.mrc")
        add("rlnMicrographMetadata", f"{root}.star")
        add("rlnOpticsGroup", entry.optics_group)
        for part, length in zip(("Total", "Early", "Late"), motion.accumulated(dose_cutoff), strict=True):
            add(f"rlnAccumMotion{part}", length)
    optics = movies.optics.copy()
    optics.set("rlnMicrographPixelSize", optics.floats(_PIXEL) * bin_factor)
    micrographs = Table(columns)
    star.write(path, StarFile([("optics", optics), ("micrographs", micrographs)]))
    return micrographs
