"""How near a project came to the known truth of simulated movies: picks, defocus, and the map.

The truth is a STAR file with a table "particles" of rlnMicrographMovieName, rlnCoordinateX and Y (pixels of the movie)
and rlnDefocusU and V (A), as `relion_py_simulate --movies` writes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from relion_py.compute.image.fourier import lowpass, resize_map, window_map
from relion_py.compute.image.fsc import fsc, resolution_at
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map

Map = NDArray[np.floating]
_COMPARED_AT = 15.0  # A: two maps are brought into one frame by what is coarser than this


@dataclass(frozen=True)
class Picks:
    """Numbers of particles that are there, of picks, and of picks at a particle; median distance of these, pixels."""

    particles: int
    picks: int
    right: int
    distance: float

    @property
    def recall(self) -> float:
        return self.right / self.particles

    @property
    def precision(self) -> float:
        return self.right / max(1, self.picks)

    def __str__(self) -> str:
        return (
            f"recall {self.recall:.3f}, precision {self.precision:.3f} ({self.picks} picks for {self.particles} "
            f"particles, half of them nearer than {self.distance:.1f} pixels)"
        )


def score_picks(truth: Path, coordinates: Path, root: Path, radius: float) -> Picks:
    """Compare the picks of a list of coordinate files (autopick.star) with the truth.

    Each particle can be found once, by a pick within `radius` pixels of it.
    """
    found = star.read(coordinates)["coordinate_files"]
    places = _places(truth)
    particles = sum(map(len, places.values()))
    picks, distances = 0, [np.zeros(0)]
    for name, file in zip(found.strings("rlnMicrographName"), found.strings("rlnMicrographCoordinates"), strict=True):
        table = next(iter(star.read(root / file).values()))
        here = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], axis=1)
        picks += len(here)
        apart = cdist(here, places[Path(name).stem])
        # beyond the radius all are equally wrong
        pairs = linear_sum_assignment(np.minimum(apart, 2 * radius))
        distances.append(apart[pairs][apart[pairs] <= radius])
    near = np.concatenate(distances)
    return Picks(particles, picks, len(near), float(np.median(near)) if len(near) else np.nan)


def _places(truth: Path) -> dict[str, NDArray[np.float64]]:
    """Movie (without directory and suffix) -> positions (N, 2) of its particles."""
    table = star.read(truth)["particles"]
    movies = np.array([Path(name).stem for name in table.strings("rlnMicrographMovieName")])
    xy = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], axis=1)
    return {movie: xy[movies == movie] for movie in np.unique(movies)}


def defocus_errors(truth: Path, micrographs: Path) -> NDArray[np.float64]:
    """Found less true mean defocus (A) of each micrograph of a micrographs_ctf.star."""
    known = star.read(truth)["particles"]
    movies = np.array([Path(name).stem for name in known.strings("rlnMicrographMovieName")])
    mean = 0.5 * (known.floats("rlnDefocusU") + known.floats("rlnDefocusV"))
    found = star.read(micrographs)["micrographs"]
    estimate = 0.5 * (found.floats("rlnDefocusU") + found.floats("rlnDefocusV"))
    names = [Path(name).stem for name in found.strings("rlnMicrographName")]
    return np.array([value - mean[movies == name].mean() for name, value in zip(names, estimate, strict=True)])


@dataclass(frozen=True)
class Agreement:
    """FSC with the true map inside a sphere; resolution (A) where it falls below 0.5; whether the hand is the other."""

    curve: NDArray[np.float64]
    resolution: float
    mirrored: bool


def agreement(path: Path, truth: Path, radius: float) -> Agreement:
    """Compare a map with D2 symmetry with the true one, inside a sphere of `radius` A.

    A map without reference has one of six frames (which axis is which), and either hand; the likeliest is taken.
    The truth is brought to the map's box and pixel size.
    """
    found, angpix = read_map(path)
    box = len(found)
    known = _as_sampled(*read_map(truth), box, angpix)
    mask = soft_mask(box, radius / angpix, 5.0)
    coarse, goal = lowpass(found, angpix, _COMPARED_AT) * mask, lowpass(known, angpix, _COMPARED_AT) * mask

    def likeness(turn: tuple[tuple[int, ...], bool]) -> float:
        return float(np.corrcoef(_turned(coarse, *turn).ravel(), goal.ravel())[0, 1])

    best = max(_frames(), key=likeness)
    curve = fsc(_turned(found, *best), known, mask)
    return Agreement(curve, resolution_at(curve, box, angpix, 0.5), _parity(*best) < 0)


def _as_sampled(volume: Map, pixel_size: float, box: int, angpix: float) -> Map:
    """A map with another box and pixel size: cut or filled up in real space, then in Fourier space."""
    wide = 2 * round(box * angpix / pixel_size / 2)
    if abs(wide * pixel_size / (box * angpix) - 1.0) > 0.005:
        raise ValueError(f"{box} pixels of {angpix} A are not a whole number of pixels of {pixel_size} A")
    return resize_map(window_map(volume, wide), box)


def _frames() -> Iterator[tuple[tuple[int, ...], bool]]:
    yield from itertools.product(itertools.permutations(range(3)), (False, True))


def _parity(axes: tuple[int, ...], flip: bool) -> int:
    return round(np.linalg.det(np.eye(3)[list(axes)])) * (-1 if flip else 1)


def _turned(volume: Map, axes: tuple[int, ...], flip: bool) -> Map:
    """The map with its axes exchanged, and with `flip` the first turned round (about the origin at box // 2)."""
    out = volume.transpose(axes)
    return np.roll(out[::-1], 1, axis=0) if flip else out
