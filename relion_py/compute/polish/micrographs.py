"""The micrographs of a run: their particles, the movies they come from, and where results go.

Source: RELION 5, motion_refiner.cpp (init), micrograph_handler.cpp (init, cullMissingMovies,
findLongEnoughMovies, findLowestFrameCount) and stack_helper.cpp (splitByMicrographName).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.outputs import output_root
from relion_py.compute.io.particles import ParticleTable, split_image_name
from relion_py.compute.motion.model import MovieMotion, read_motion
from relion_py.compute.polish.predictions import NEEDED

Say = Callable[[str], None]


@dataclass(frozen=True)
class Micrograph:
    """One micrograph with particles. name: rlnMicrographName. root: path of its results without their endings.
    rows: its particles in the input. metadata: STAR file of its movie's motion."""

    name: str
    root: str
    rows: NDArray[np.int64]
    metadata: str

    def has_tracks(self, with_correlations: bool) -> bool:
        """Whether its motion has been estimated, and (if that is asked for) its correlations are there."""
        endings = ["_tracks.star", *(CORRELATIONS if with_correlations else ())]
        return all(os.path.exists(self.root + ending) for ending in endings)


CORRELATIONS = ("_FCC_cc.mrc", "_FCC_w0.mrc", "_FCC_w1.mrc")


@dataclass(frozen=True)
class Geometry:
    """What all movies of a run share. first, last: frames to use, from 0. movie_pixel, coordinate_pixel: A.
    dose: e/A2 a frame."""

    first: int
    last: int
    movie_pixel: float
    coordinate_pixel: float
    dose: float

    @property
    def frames(self) -> NDArray[np.int64]:
        """Numbers of the frames in use, from 0."""
        return np.arange(self.first, self.last + 1)


def check_particles(particles: ParticleTable) -> None:
    """UserError if a column that polishing needs is missing, or the halves are not 1 and 2."""
    missing = [f"_{label}" for label in NEEDED if label not in particles]
    if missing:
        raise UserError(
            f"{particles.path} lacks {', '.join(missing)}: polishing needs particles of a finished 3D refinement."
        )
    if not np.isin(particles.ints("rlnRandomSubset"), (1, 2)).all():
        raise UserError(f"{particles.path}: _rlnRandomSubset must be 1 or 2; take particles of a 3D auto-refinement.")
    for group in particles.optics_groups:
        if group.box_size < 2 or group.box_size % 2:
            raise UserError(
                f'{particles.path}: optics group "{group.name}" has no even _rlnImageSize; add it to data_optics.'
            )


def by_micrograph(particles: ParticleTable, corrected: str, directory: str) -> list[Micrograph]:
    """The micrographs in the order of their names, the particles of each in the order of their images.

    corrected: `corrected_micrographs.star`, or another list of the same micrographs with their metadata.
    Those that it lacks have no metadata (""). UserError if it has no metadata at all.
    """
    file = star.read(corrected)
    table = file["micrographs"] if "micrographs" in file else next(iter(file.values()))
    for label in ("rlnMicrographName", "rlnMicrographMetadata"):
        if label not in table:
            raise UserError(
                f"{corrected} has no column _{label}; give the corrected_micrographs.star of a motion correction job."
            )
    metadata = {
        output_root("", name): path
        for name, path in zip(table.strings("rlnMicrographName"), table.strings("rlnMicrographMetadata"), strict=True)
    }
    images = particles.strings("rlnImageName") if "rlnImageName" in particles else [""] * len(particles)
    number = [split_image_name(image)[0] for image in images]
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(particles.strings("rlnMicrographName")):
        rows.setdefault(name, []).append(row)
    found = []
    for name in sorted(rows, key=os.fsencode):
        order = sorted(rows[name], key=number.__getitem__)
        path = metadata.get(output_root("", name), "")
        found.append(Micrograph(name, output_root(directory, name), np.array(order), path))
    return found


def with_movies(micrographs: Sequence[Micrograph], warn: Say) -> list[tuple[Micrograph, int]]:
    """The micrographs whose movies are there, and how many frames each has; `warn` is told of the others."""
    found: list[tuple[Micrograph, int]] = []
    for micrograph in micrographs:
        if not micrograph.metadata or not os.path.exists(micrograph.metadata):
            warn(f"{micrograph.name} has no file of its movie's motion; its particles are left out.")
            continue
        motion = read_motion(micrograph.metadata)
        if not os.path.exists(motion.movie):
            warn(f"The movie {motion.movie} of {micrograph.name} is not there; its particles are left out.")
            continue
        found.append((micrograph, motion.n_frames))
    if not found:
        raise UserError("Of no micrograph both the movie and the file of its motion are there; look at the warnings.")
    return found


def geometry_of(
    motion: MovieMotion, first: int, last: int, movie_pixel: float, coordinate_pixel: float, dose: float
) -> Geometry:
    """The geometry of a run from its first movie. first, last: from 1, last < 1 for all; others < 0: as the
    movie's file says. UserError for frames that it does not have, or a dose that nobody tells."""
    last = motion.n_frames if last < 1 else last
    if not 1 <= first < last:
        raise UserError(f"Frames {first} to {last} are not at least two; change --first_frame or --last_frame.")
    if last > motion.n_frames:
        raise UserError(f"{motion.movie} has {motion.n_frames} frames and --last_frame is {last}.")
    movie_pixel = motion.pixel_size if movie_pixel <= 0 else movie_pixel
    if movie_pixel <= 0:
        raise UserError(f"The pixel size of {motion.movie} is not known; give it with --mps.")
    if coordinate_pixel <= 0:
        coordinate_pixel = motion.binning * (motion.pixel_size if motion.pixel_size > 0 else movie_pixel)
    dose = motion.dose_per_frame if dose < 0 else dose
    if not dose > 0:
        raise UserError("The dose per frame is not known from motion correction; give it with --fdose.")
    return Geometry(first - 1, last - 1, movie_pixel, coordinate_pixel, dose)


def same_images(particles: ParticleTable, rows: NDArray[np.int64]) -> bool:
    """Whether these particles have one box and one pixel size."""
    groups = [particles.optics_groups[index] for index in np.unique(particles.group_index[rows])]
    return len({(group.box_size, round(group.pixel_size, 6)) for group in groups}) == 1
