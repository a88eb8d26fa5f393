"""Tracks of particles: where they start from, their files, and the correlations of frames with predictions.

A track is where a particle is seen in each frame, less where the input says: pixels of the particles (A in
files), x and y. Source: RELION 5, motion_helper.cpp (writeTracks, readTracksInPix), micrograph_handler.cpp
(loadInitialTracks), motion_estimator.cpp (writeFCC).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import mrc, star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.motion.model import MovieMotion
from relion_py.compute.polish.micrographs import CORRELATIONS, Geometry

_Real = NDArray[np.float64]
_LABELS = ("rlnOriginXAngst", "rlnOriginYAngst")


def write_tracks(path: str, tracks: _Real) -> None:
    """Write tracks (P, F, 2) in A."""
    general = Table(loop=False)
    general.set("rlnParticleNumber", len(tracks))
    blocks = [("general", general)]
    for number, track in enumerate(tracks):
        blocks.append((str(number), Table(dict(zip(_LABELS, track.T, strict=True)))))
    star.write(path, StarFile(blocks))


def read_tracks(path: str) -> _Real:
    """Tracks (P, F, 2) in A. UserError if the file is not whole."""
    file = star.read(path)
    try:
        count = int(file["general"].ints("rlnParticleNumber")[0])
        tracks = [np.stack([file[str(n)].floats(label) for label in _LABELS], axis=1) for n in range(count)]
    except KeyError:
        raise UserError(f"{path} is not a whole file of tracks; delete it to have it made again.") from None
    if len({len(track) for track in tracks}) != 1:
        raise UserError(f"{path}: the tracks differ in length; delete it to have it made again.")
    return np.stack(tracks)


def tracks_of_movie(
    motion: MovieMotion, x: _Real, y: _Real, geometry: Geometry, pixel_size: float, local: bool = True
) -> _Real:
    """The tracks (P, F, 2), pixels of pixel_size (A), that motion correction foretells at coordinates x, y (P,)."""
    width = motion.size_x * geometry.movie_pixel / geometry.coordinate_pixel
    height = motion.size_y * geometry.movie_pixel / geometry.coordinate_pixel
    shifts = motion.shifts_at(geometry.frames, x / width - 0.5, y / height - 0.5, local)
    return -shifts * (geometry.movie_pixel / pixel_size)


@dataclass
class Correlations:
    """Sums over Fourier pixels, each float64 (F, shells of the half maps): of Re(frame conj(prediction)), of
    |frame|^2 and of |prediction|^2."""

    cross: _Real
    power: _Real
    predicted: _Real

    @classmethod
    def zeros(cls, frames: int, shells: int) -> Correlations:
        """Nothing yet."""
        return cls(*(np.zeros((frames, shells)) for _ in range(3)))

    def add(self, other: Correlations) -> None:
        """Add those of other particles; what is not a number counts as 0."""
        for mine, more in zip(self._parts(), other._parts(), strict=True):
            mine += np.nan_to_num(more, nan=0.0, posinf=0.0, neginf=0.0)

    def write(self, root: str, pixel_size: float) -> None:
        """Write the three images, a row a frame."""
        for ending, image in zip(CORRELATIONS, self._parts(), strict=True):
            mrc.write_map(root + ending, image.astype(np.float32), pixel_size)

    @classmethod
    def read(cls, root: str) -> Correlations:
        """Read what `write` wrote."""
        return cls(*(mrc.read_map(root + ending)[0].reshape(-1, *mrc.read_header(root + ending).shape[-1:])
                     .astype(np.float64) for ending in CORRELATIONS))  # fmt: skip

    def normalised(self) -> _Real:
        """The Fourier cylinder correlation (F, shells): -1 to 1, 0 where there is nothing."""
        scale = np.sqrt(np.maximum(self.power * self.predicted, 0.0))
        return np.divide(self.cross, scale, out=np.zeros_like(scale), where=scale > 0)

    def _parts(self) -> tuple[_Real, _Real, _Real]:
        return self.cross, self.power, self.predicted
