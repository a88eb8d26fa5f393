"""Lists of particles, micrographs or movies in STAR files: choose rows, join files, split them, find duplicates.

A list is a table with, from RELION 3.1 on, a table of optics groups beside it (`data_optics`).

Facts: RELION 5 ``src/apps/star_handler.cpp``, ``src/metadata_table.cpp`` (``combineMetaDataTables``,
``removeDuplicatedParticles``, ``compareMetaDataTable``), ``src/jaz/single_particle/obs_model.cpp``
(``removeUnusedOpticsGroups``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.labels import type_of
from relion_py.compute.io.star import StarFile, Table

Warn = Callable[[str], None]

# What a list of RELION 3.0 tells of the microscope.
_MICROSCOPE = {"rlnVoltage", "rlnSphericalAberration", "rlnDetectorPixelSize", "rlnMagnification"}

_NUMBERS = ("double", "int", "bool")

# Columns of optics groups that some files have and others lack, and what their absence means.
_ABSENT_OPTICS = (
    {"rlnBeamTiltX": "0.000000"},
    {"rlnBeamTiltY": "0.000000"},
    {
        "rlnMagMat00": "1.000000",
        "rlnMagMat01": "0.000000",
        "rlnMagMat10": "0.000000",
        "rlnMagMat11": "1.000000",
    },
    {"rlnOddZernike": "[0,0,0,0,0,0]"},
    {"rlnEvenZernike": "[0,0,0,0,0,0,0,0,0]"},
    {"rlnCtfDataAreCtfPremultiplied": "0"},
)


@dataclass
class ListFile:
    """A list: its table, the table's name, and the optics groups (None: there are none, or they are ignored).

    members: where the list is that of the optics groups themselves, the tables of what is in them."""

    path: str
    name: str
    rows: Table
    optics: Table | None = None
    members: tuple[tuple[str, Table], ...] = ()

    def with_rows(self, rows: Table) -> ListFile:
        """The same with other rows."""
        return replace(self, rows=rows)

    def select(self, chosen: NDArray[np.bool_] | Sequence[int]) -> ListFile:
        """Rows by mask or index; what is in chosen optics groups does not come along."""
        return replace(self, rows=self.rows.select(chosen), members=())

    def write(self, path: str) -> None:
        """Write optics groups, if any, rows, and members, if any."""
        blocks = [("optics", self.optics)] if self.optics is not None else []
        star.write(path, StarFile([*blocks, (self.name, self.rows), *self.members]))


def read_list(path: str, ignore_optics: bool = False, table: str = "") -> ListFile:
    """Read a list; ``table`` names the block, by default the one that RELION would find.

    Raises UserError if there is none.
    """
    found = star.read(path)
    optics = None if ignore_optics or "optics" not in found else found["optics"]
    if table == "optics":
        others = tuple((name, rows) for name, rows in found.items() if name != table)
        return ListFile(path, table, found[table], members=others)
    if table:
        return ListFile(path, table, found[table], optics)
    for name in ("particles", "micrographs", "movies", "images", "coordinate_files", ""):
        if name in found:
            return ListFile(path, name, found[name], optics)
    for name, rows in found.items():
        if name != "optics" and rows.loop:
            return ListFile(path, name, rows, optics)
    raise UserError(f"{path} has no list of particles, micrographs or movies.")


def with_optics(listed: ListFile) -> ListFile:
    """A list of RELION 3.0 or earlier in the form with optics groups (obs_model.cpp, loadSafely).

    As it is if it has optics groups, or if it does not tell voltage, spherical aberration and pixel size. Raises
    UserError for rows in optics groups that the file lacks.
    """
    if listed.optics is None:
        if not len(listed.rows) or not _MICROSCOPE.issubset(listed.rows.labels):
            return listed
        return _converted(listed)
    if "rlnOpticsGroup" in listed.rows:
        known = set(listed.optics.ints("rlnOpticsGroup").tolist())
        for number in listed.rows.ints("rlnOpticsGroup").tolist():
            if number not in known:
                raise UserError(f"{listed.path}: rows are in optics group {number}, which its data_optics lacks.")
    return listed


# ---- rows -------------------------------------------------------------------------------------------------


def in_range(rows: Table, label: str, low: float, high: float) -> NDArray[np.bool_]:
    """Rows whose number in a column lies within low..high, ends included."""
    if type_of(label) not in _NUMBERS and label not in rows:
        raise UserError(f"There is no column _{label} of numbers in the input.")
    values = rows.floats(label)
    return (values >= low) & (values <= high)


def containing(rows: Table, label: str, text: str, exclude: bool = False) -> NDArray[np.bool_]:
    """Rows whose text in a column contains ``text`` (or, with ``exclude``, does not)."""
    return np.array([(text in value) != exclude for value in rows.strings(label)], dtype=bool)


def within_sigma(means: NDArray, stddevs: NDArray, sigma: float) -> NDArray[np.bool_]:
    """Images whose mean and standard deviation are nearer than ``sigma`` deviations to those of all images."""
    keep = np.ones(len(means), dtype=bool)
    for values in (means, stddevs):
        spread = values.std()
        if spread > 0:
            keep &= np.abs(values - values.mean()) < sigma * spread
    return keep


def later_duplicates(rows: Table, distance: float, pixel_size: float) -> NDArray[np.bool_]:
    """True for particles that have a later one of their micrograph within ``distance`` A.

    pixel_size: of the micrographs in which the coordinates are, A.  A particle lies at its coordinate less its
    origin.  Raises UserError without coordinates, origins and micrographs' names.
    """
    from scipy.spatial import KDTree

    needed = ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst"]
    missing = [label for label in needed if label not in rows]
    if missing:
        raise UserError(f"Duplicates are found by _{', _'.join(missing)}, which the particles lack.")
    places = np.stack(
        [rows.floats(f"rlnCoordinate{axis}") - rows.floats(f"rlnOrigin{axis}Angst") / pixel_size for axis in "XY"],
        axis=1,
    )
    _, owner = np.unique(np.array(rows.strings("rlnMicrographName")), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    removed = np.zeros(len(rows), dtype=bool)
    for _, group in itertools.groupby(order, key=lambda index: owner[index]):
        members = np.fromiter(group, dtype=np.int64)
        pairs = KDTree(places[members]).query_pairs(distance / pixel_size, output_type="ndarray")
        removed[members[pairs.min(axis=1)]] = True
    return removed


def used_optics(listed: ListFile) -> ListFile:
    """The list with the optics groups that its rows use only, numbered anew from 1."""
    if listed.optics is None or "rlnOpticsGroup" not in listed.rows:
        return listed
    numbers = listed.optics.ints("rlnOpticsGroup")
    own = listed.rows.ints("rlnOpticsGroup")
    keep = np.isin(numbers, own)
    new = {int(number): index for index, number in enumerate(numbers[keep], 1)}
    optics, rows = listed.optics.select(keep), listed.rows.copy()
    optics.set("rlnOpticsGroup", list(new.values()))
    rows.set("rlnOpticsGroup", [new[int(number)] for number in own])
    return ListFile(listed.path, listed.name, rows, optics)


def compare_rows(
    first: Table, second: Table, labels: Sequence[str], distance: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows of each table that have a partner in the other.

    One label of text: the texts are equal. One to three labels of numbers: the points are no farther apart
    than ``distance``.
    """
    from scipy.spatial import KDTree

    if len(labels) == 1 and type_of(labels[0]) not in _NUMBERS:
        texts = [table.strings(labels[0]) for table in (first, second)]
        sets = [set(column) for column in texts]
        return (
            np.array([text in sets[1] for text in texts[0]], dtype=bool),
            np.array([text in sets[0] for text in texts[1]], dtype=bool),
        )
    points = [np.stack([table.floats(label) for label in labels], axis=1) for table in (first, second)]
    if not len(points[0]) or not len(points[1]):
        return np.zeros(len(first), dtype=bool), np.zeros(len(second), dtype=bool)
    reach = np.nextafter(distance, np.inf)
    near = [
        KDTree(points[1 - n]).query(points[n], distance_upper_bound=np.nextafter(reach, np.inf))[0] <= reach
        for n in (0, 1)
    ]
    return near[0], near[1]


# ---- splitting --------------------------------------------------------------------------------------------


def split_rows(count: int, parts: int, size: int, rng: np.random.Generator | None) -> list[NDArray[np.int64]]:
    """Row numbers of each part, of ``size`` rows each and at most ``parts`` (either may be < 1: as it follows).

    rng: shuffle first.  With both given, what does not fit into the parts is left out.
    """
    if count == 0:
        raise UserError("The input has no rows to split.")
    if parts < 1 and size < 1:
        raise UserError("Tell into how many parts to split (--nr_split), or how large they are (--size_split).")
    if size < 1:
        size = -(-count // parts)
    if parts < 1:
        parts = -(-count // size)
    order = np.arange(count) if rng is None else rng.permutation(count)
    return [order[part * size : (part + 1) * size] for part in range(parts)]


# ---- joining ----------------------------------------------------------------------------------------------


def join(lists: Sequence[ListFile], warn: Warn) -> ListFile:
    """One list of all rows. Optics groups of one name become one; columns that not all files have are left out.

    Files without optics groups are brought into the newer form if others have them.
    """
    if any(listed.optics is not None for listed in lists):
        lists = [_needed_optics(listed) for listed in lists]
        optics, tables = _join_optics(lists, warn)
    else:
        optics, tables = None, [listed.rows.copy() for listed in lists]
    rows = _stack(tables, [listed.path for listed in lists], warn)
    if "rlnGroupNumber" in rows:
        rows.remove("rlnGroupNumber")
    return ListFile(lists[0].path, lists[0].name, rows, optics)


def _needed_optics(listed: ListFile) -> ListFile:
    listed = with_optics(listed)
    if listed.optics is None and len(listed.rows):
        raise UserError(
            f"{listed.path} has no optics groups, which others have, and does not tell the microscope's settings; give "
            "it optics groups with relion_convert_star, or join without those of all files with --ignore_optics."
        )
    return listed


def _converted(listed: ListFile) -> ListFile:
    new = to_optics_form(StarFile([(listed.name, listed.rows)]))
    name = next(block for block in new if block != "optics")
    return ListFile(listed.path, name, new[name], new["optics"])


def _join_optics(lists: Sequence[ListFile], warn: Warn) -> tuple[Table, list[Table]]:
    """All optics groups once, by name, and the rows of each file with the new numbers."""
    groups = [listed.optics.copy() for listed in lists if listed.optics is not None]
    for columns in _ABSENT_OPTICS:
        complete = [all(label in table for label in columns) for table in groups]
        if any(complete):
            for table, has in zip(groups, complete, strict=True):
                if not has:
                    for label, value in columns.items():
                        table.set(label, value)
    number: dict[str, int] = {}
    rows: list[Table] = []
    for place, (listed, table) in enumerate(zip(lists, groups, strict=True)):
        new: dict[int, int] = {}
        keep = []
        for index, old in enumerate(table.ints("rlnOpticsGroup")):
            name = table.strings("rlnOpticsGroupName")[index] if "rlnOpticsGroupName" in table else f"opticsGroup{old}"
            keep.append(name not in number)
            if name in number and place:
                warn(
                    f"optics groups named {name} are joined; if these are different data sets, rename one in its "
                    "file (_rlnOpticsGroupName) first."
                )
            new[int(old)] = number.setdefault(name, len(number) + 1)
        own = listed.rows.copy()
        if "rlnOpticsGroup" in own:
            own.set("rlnOpticsGroup", [_new_number(new, int(n), listed.path) for n in own.ints("rlnOpticsGroup")])
            if place and "rlnGroupName" in own:
                pairs = zip(own.strings("rlnOpticsGroup"), own.strings("rlnGroupName"), strict=True)
                own.set("rlnGroupName", [f"optics{group}_{name}" for group, name in pairs])
        rows.append(own)
        groups[place] = table.select(np.array(keep, dtype=bool))
        groups[place].set("rlnOpticsGroup", [new[int(n)] for n in groups[place].ints("rlnOpticsGroup")])
    return _stack(groups, [f"the optics groups of {listed.path}" for listed in lists], warn), rows


def _new_number(new: dict[int, int], old: int, path: str) -> int:
    try:
        return new[old]
    except KeyError:
        raise UserError(f"{path}: rows are in optics group {old}, which its data_optics lacks.") from None


def _stack(tables: Sequence[Table], names: Sequence[str], warn: Warn) -> Table:
    """All rows below each other, with the columns that all (not empty) tables have, in the first's order."""
    filled = [pair for pair in zip(tables, names, strict=True) if pair[0].labels and len(pair[0])]
    if not filled:
        return tables[0].copy()
    common = [label for label in filled[0][0].labels if all(label in table for table, _ in filled)]
    for table, name in filled:
        for label in table.labels:
            if label not in common:
                warn(f"_{label} of {name} is left out, because not all files to be joined have it.")
    joined = Table(comments=filled[0][0].comments)
    for label in common:
        joined.set(label, [text for table, _ in filled for text in table.strings(label)])
    return joined


_SAME_PICK = 0.1  # pixels


def join_picks(tables: Sequence[Table]) -> Table:
    """The picks of all tables, each once: of those within 0.1 pixels along both axes the first stays.

    A column stays if all tables have it. RELION 5 compares x only, by mistake (star_handler.cpp, combine_picks).
    """
    from scipy.spatial import KDTree

    labels = [label for label in tables[0].labels if all(label in table for table in tables)]
    for label in ("rlnCoordinateX", "rlnCoordinateY"):
        if label not in labels:
            raise UserError(f"A coordinate file has no column _{label}.")
    joined = Table(
        {label: [text for table in tables for text in table.strings(label)] for label in labels},
        comments=tables[0].comments,
    )
    points = np.stack([joined.floats("rlnCoordinateX"), joined.floats("rlnCoordinateY")], axis=1)
    keep = np.ones(len(points), dtype=bool)
    for first, second in sorted(KDTree(points).query_pairs(_SAME_PICK, p=np.inf)) if len(points) else ():
        if keep[first]:
            keep[second] = False
    return joined.select(keep)


def repeated(values: Sequence[str]) -> list[str]:
    """Texts that occur more than once, each as often as it is too many."""
    seen: set[str] = set()
    again = []
    for value in values:
        if value in seen:
            again.append(value)
        seen.add(value)
    return sorted(again)
