"""Polished particles: the frames of each particle, moved back along its track and weighted, summed.

Source: Zivanov et al. (2019) IUCrJ 6:5; RELION 5, frame_recombiner.cpp (init, process) and motion_refiner.cpp
(combineEPSAndSTARfiles). Unlike there, frames before --first_frame are left out of the sums too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import window_map
from relion_py.compute.io import mrc, star
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.motion.model import read_motion
from relion_py.compute.picking.extract_coordinates import recentre
from relion_py.compute.polish.estimate import Run
from relion_py.compute.polish.frames import FrameReader, centres, cut_transforms, movie_box, round_half_away
from relion_py.compute.polish.kernels import add_moved_back
from relion_py.compute.polish.micrographs import Geometry, Micrograph
from relion_py.compute.polish.predictions import HalfMaps
from relion_py.compute.polish.tracks import read_tracks

_CHUNK = 16  # particles that a thread works on
_FRAMES_AHEAD = 4


@dataclass(frozen=True)
class Shiny:
    """What polished particles are like. box, pixel_size (A): of the images. crop: pixels to which they are cut
    after multiplication with the CTF, 0 for none. recentre: to this point of the reference (pixels)."""

    box: int
    pixel_size: float
    crop: int = 0
    ctf_multiply: bool = False
    float16: bool = False
    recentre: tuple[float, float, float] | None = None
    suffix: str = ""

    @property
    def final_box(self) -> int:
        """Of the images that are written, pixels."""
        return self.crop or self.box


def shiny_size(window: int, scale: int, maps: HalfMaps, movie_pixel: float) -> tuple[int, float]:
    """Box (pixels) and pixel size (A) of polished particles (frame_recombiner.cpp, init).

    window: pixels of the movie, scale: pixels; -1 for what the reference has. UserError for odd sizes and for
    images larger than what they are made of.
    """
    for name, value in (("--window", window), ("--scale", scale)):
        if value > 0 and value % 2:
            raise UserError(f"{name} must be an even number, not {value}.")
    cut = window if window > 0 else movie_box(maps.box, maps.pixel_size, movie_pixel)
    if scale > 0:
        box, pixel_size = scale, movie_pixel * cut / scale
    else:
        box, pixel_size = 2 * int(0.5 * cut * movie_pixel / maps.pixel_size + 0.5), maps.pixel_size
    if box > cut:
        raise UserError(f"Particles can be made smaller only: {cut} pixels of the movie cannot become {box}.")
    return box, pixel_size


class Recombiner:
    """Makes the polished particles of one micrograph after another; weights float32 (F, box, box // 2 + 1)."""

    def __init__(
        self,
        maps: HalfMaps,
        geometry: Geometry,
        shiny: Shiny,
        weights: NDArray[np.float32],
        reader: FrameReader,
        run: Run,
    ) -> None:
        if len(weights) != len(geometry.frames):
            raise UserError(
                f"There are B-factors of {len(weights)} frames and {len(geometry.frames)} frames are in use; take the "
                "same frames as for the B-factors."
            )
        self._maps, self._geometry, self._shiny, self._weights = maps, geometry, shiny, weights
        self._reader, self._run = reader, run

    def process(self, particles: ParticleTable, micrograph: Micrograph) -> None:
        """Write a micrograph's `_shiny.mrcs` and `_shiny.star`, the latter when the former is whole."""
        shiny = self._shiny
        chosen = particles.select(micrograph.rows)
        data_pixel = chosen.optics_groups[chosen.group_index[0]].pixel_size
        tracks = read_tracks(micrograph.root + "_tracks.star")
        if tracks.shape[:2] != (len(chosen), len(self._geometry.frames)):
            raise UserError(
                f"{micrograph.root}_tracks.star has {tracks.shape[0]} tracks of {tracks.shape[1]} frames; there are "
                f"{len(chosen)} particles and {len(self._geometry.frames)} frames. Delete it to have it made again."
            )
        if shiny.recentre is not None:
            recentre(chosen.particles, shiny.recentre, self._maps.pixel_size, self._geometry.coordinate_pixel)
        total = self._sum(micrograph, chosen, tracks, data_pixel)
        if shiny.ctf_multiply:
            chosen_out = with_output_optics(chosen, shiny)
            views = self._maps.views(_as_box(chosen_out, shiny.box))
            for rows in _pieces(len(chosen)):
                total[rows] *= views.ctf(rows).reshape(len(rows), shiny.box, -1)
        stack = f"{micrograph.root}_shiny{shiny.suffix}.mrcs"
        dtype = "float16" if shiny.float16 else "float32"
        with mrc.StackWriter(stack, (shiny.final_box,) * 2, shiny.pixel_size, dtype) as writer:
            for rows in _pieces(len(chosen)):
                writer.append(finished_images(total[rows], shiny.box, shiny.final_box))
        table = chosen.particles
        table.set("rlnImageName", [f"{number}@{stack}" for number in range(1, len(table) + 1)])
        star.write(f"{micrograph.root}_shiny{shiny.suffix}.star", StarFile([("", table)]))

    def _sum(
        self, micrograph: Micrograph, chosen: ParticleTable, tracks: NDArray[np.float64], data_pixel: float
    ) -> NDArray[np.complex64]:
        """Weighted sums of transforms, complex64 (P, box, box // 2 + 1)."""
        geometry, shiny = self._geometry, self._shiny
        x, y = (chosen.floats(f"rlnCoordinate{axis}") for axis in "XY")
        at = centres(x, y, geometry.coordinate_pixel, data_pixel, geometry.movie_pixel)
        moved = tracks / geometry.movie_pixel
        whole = round_half_away(moved)
        rest = (moved - whole) * (geometry.movie_pixel / shiny.pixel_size)
        size = movie_box(shiny.box, shiny.pixel_size, geometry.movie_pixel)
        total = np.zeros((len(chosen), shiny.box, shiny.box // 2 + 1), np.complex64)
        with self._reader.open(read_motion(micrograph.metadata)) as frames:

            def read(number: int) -> NDArray[np.float32]:
                return frames.read(int(geometry.frames[number]))

            for number, frame in enumerate(_ahead(self._run, read, len(geometry.frames))):

                def add(rows: NDArray[np.int64], number: int = number, frame: NDArray[np.float32] = frame) -> None:
                    for part, transforms in cut_transforms(frame, at[rows] + whole[rows, number], size, shiny.box):
                        for row, transform in zip(rows[part], transforms, strict=True):
                            add_moved_back(total[row], transform, self._weights[number], *rest[row, number])

                list(self._run(add, _pieces(len(chosen))))
        return total


def finished_images(transforms: NDArray[np.complex64], box: int, final_box: int) -> NDArray[np.float32]:
    """Images (n, final_box, final_box) of unit power before they are cut, contrast as it is.

    transforms: (n, box, box // 2 + 1). The scale, with columns other than the first counted twice, is that of
    frame_recombiner.cpp (process).
    """
    power = np.abs(transforms).astype(np.float64) ** 2
    total = 2.0 * power.sum(axis=(1, 2)) - power[:, :, 0].sum(axis=1) - power[:, 0, 0]
    mean = total / (2.0 * box * (box // 2 + 1) - box - 1)
    factor = 1.0 / (final_box * np.sqrt(np.maximum(mean, 1e-300)))
    images = fft.irfft2(transforms * factor[:, None, None].astype(np.float32), s=(box, box), norm="forward")
    return window_map(images.astype(np.float32), final_box, 2)


def with_output_optics(particles: ParticleTable, shiny: Shiny) -> ParticleTable:
    """A copy whose optics groups tell what polished particles are like."""
    copy = StarFile([(name, table.copy() if name == "optics" else table) for name, table in particles.star.blocks])
    optics = copy["optics"]
    optics.set("rlnImagePixelSize", [shiny.pixel_size] * len(optics))
    optics.set("rlnImageSize", [shiny.final_box] * len(optics))
    optics.set("rlnCtfDataAreCtfPremultiplied", [int(shiny.ctf_multiply)] * len(optics))
    return ParticleTable(copy, particles.project, particles.block)


def joined(particles: ParticleTable, micrographs: Sequence[Micrograph], shiny: Shiny) -> tuple[StarFile, list[str]]:
    """`shiny.star` from the files of the micrographs, and sentences about particles that are left out.

    Optics groups without polished particles go away. UserError if there are no polished particles.
    """
    tables = [star.read(f"{one.root}_shiny{shiny.suffix}.star")[""] for one in micrographs]
    if not tables:
        raise UserError("No particles were polished; look at the warnings above.")
    labels = tables[0].labels
    rows = Table({label: [value for table in tables for value in table.strings(label)] for label in labels})
    out = with_output_optics(particles, shiny)
    file = StarFile([(name, rows if name == out.block else table) for name, table in out.star.blocks])
    polished = ParticleTable(file, particles.project, out.block)
    lost = np.bincount(particles.group_index, minlength=len(out.optics)) - np.bincount(
        polished.group_index, minlength=len(out.optics)
    )
    sentences = [
        f"{count} particles of optics group {group.name} are not among the polished ones."
        for count, group in zip(lost.tolist(), particles.optics_groups, strict=True)
        if count
    ]
    file["optics"] = file["optics"].select(np.isin(np.arange(len(lost)), polished.group_index))
    file.blocks = [("particles" if name == out.block else name, table) for name, table in file.blocks]
    return file, sentences


def _as_box(particles: ParticleTable, box: int) -> ParticleTable:
    particles.optics.set("rlnImageSize", [box] * len(particles.optics))
    return ParticleTable(particles.star, particles.project, particles.block)


def _pieces(count: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(count, start + _CHUNK)) for start in range(0, count, _CHUNK)]


def _ahead(run: Run, read: Callable[[int], NDArray[np.float32]], count: int) -> Iterable[NDArray[np.float32]]:
    """Frames in turn, a few of them read at once."""
    for start in range(0, count, _FRAMES_AHEAD):
        yield from run(read, range(start, min(count, start + _FRAMES_AHEAD)))
