"""Training a Topaz network: micrographs and coordinates to lists, one call of Topaz, models.

Source: RELION 5, autopicker.cpp (initialise, getMDtrainFromParticleStar, trainTopaz).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.mrc import read_image, write_map
from relion_py.compute.io.outputs import output_root
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.picking.topaz import TopazSettings, run_topaz, shrunk_micrograph

INPUT_COORDINATES = "input_training_coords.star"
_KEPT = ("rlnAnglePsi", "rlnClassNumber", "rlnAutopickFigureOfMerit")


@dataclass(frozen=True)
class Picked:
    """A micrograph and the x, y (N, 2) of its particles, pixels."""

    name: str
    points: NDArray[np.float64]


def read_picks(path: str) -> list[Picked]:
    """The micrographs of a list of coordinate files, such as `manualpick.star`; UserError if there are none."""
    file = star.read(path)
    tables = [table for table in file.values() if "rlnMicrographCoordinates" in table]
    if not tables or not len(tables[0]):
        raise UserError(f"{path} lists no coordinate files; give the list that a picking job wrote.")
    picked = []
    names, coordinates = tables[0].strings("rlnMicrographName"), tables[0].strings("rlnMicrographCoordinates")
    for name, where in zip(names, coordinates, strict=True):
        points = np.zeros((0, 2))
        for table in star.read(where).values():
            if "rlnCoordinateX" in table and "rlnCoordinateY" in table:
                points = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], 1)
        picked.append(Picked(name, points))
    return picked


def read_particles(path: str, directory: str, angpix: float) -> list[Picked]:
    """The micrographs of a STAR file of particles, whose refined offsets move the coordinates.

    Coordinate files are written below `directory`, and their list. angpix: A per pixel of the micrographs.
    """
    file = star.read(path)
    if "optics" not in file:
        file = to_optics_form(file)
    tables = [table for table in file.values() if "rlnMicrographName" in table and "rlnCoordinateX" in table]
    if not tables or not len(tables[0]):
        raise UserError(f"{path} holds no particles with micrographs and coordinates.")
    table = tables[0]
    points = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], 1)
    for axis, name in enumerate("XY"):
        if f"rlnOrigin{name}Angst" in table:
            points[:, axis] -= np.floor(table.floats(f"rlnOrigin{name}Angst") / angpix + 0.5)
    names = np.array(table.strings("rlnMicrographName"))
    picked, files = [], []
    for name in sorted(set(names.tolist())):
        rows = np.flatnonzero(names == name)
        columns = {"rlnCoordinateX": points[rows, 0], "rlnCoordinateY": points[rows, 1]}
        columns |= {label: [table.strings(label)[row] for row in rows] for label in _KEPT if label in table}
        files.append(output_root(directory, name) + "_train.star")
        os.makedirs(os.path.dirname(files[-1]), exist_ok=True)
        star.write(files[-1], StarFile([("", Table(columns))]))
        picked.append(Picked(name, points[rows]))
    listed = Table({"rlnMicrographName": [one.name for one in picked], "rlnMicrographCoordinates": files})
    star.write(directory + INPUT_COORDINATES, StarFile([("coordinate_files", listed)]))
    return picked


def train(
    picked: Sequence[Picked], settings: TopazSettings, test_ratio: float, seed: int, directory: str, angpix: float,
    stop: threading.Event, between: Callable[[], None],
) -> tuple[int, int, dict[str, str]]:  # fmt: skip
    """Train, and return how many picks were trained with and tested with, and the micrographs that could not be used
    (name -> sentence). UserError if Topaz fails.

    Every second micrograph, in random order, is for testing until these hold more than `test_ratio` of the picks.
    between: called after each micrograph.
    """
    order = np.random.default_rng(seed).permutation(len(picked))
    lists = f"{directory}proc/"
    os.makedirs(lists, exist_ok=True)
    total = sum(len(one.points) for one in picked)
    images = {"train": "image_name\tpath\n", "test": "image_name\tpath\n"}
    targets = dict.fromkeys(images, "image_name\tx_coord\ty_coord\n")
    counts = {"train": 0, "test": 0}
    failures: dict[str, str] = {}
    for place, one in enumerate(picked[index] for index in order):
        kind = "test" if place % 2 and counts["test"] <= test_ratio * total else "train"
        name = f"mic{place:06d}"
        try:
            image, _ = read_image(one.name)
            write_map(f"{lists}{name}.mrc", shrunk_micrograph(image, settings.downscale), angpix * settings.downscale)
        except (UserError, OSError) as error:
            failures[one.name] = str(error)
            continue
        images[kind] += f"{name}\t{os.path.abspath(lists + name)}.mrc\n"
        for x, y in np.floor(one.points / settings.downscale + 0.5).astype(int):
            targets[kind] += f"{name}\t{x}\t{y}\n"
        counts[kind] += len(one.points)
        between()
    for kind, use in (("test", "for testing"), ("train", "to train with")):
        if not counts[kind]:
            raise UserError(f"There are no picks left {use}; give picks of more micrographs.")
        atomic_write(f"{lists}image_list_{kind}.txt", images[kind].encode())
        atomic_write(f"{lists}target_list_{kind}.txt", targets[kind].encode())
    status = run_topaz(settings.train_command(directory, lists), stop)
    if status:
        raise UserError(f"Topaz ended with status {status}; what it said is above, what it was given in {lists}.")
    shutil.rmtree(lists)
    return counts["train"], counts["test"], failures
