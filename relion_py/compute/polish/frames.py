"""Frames of a movie as polishing sees them, and the boxes around particles in them.

A frame is multiplied with the gain reference, its bad pixels are mended, and its contrast is turned, so that
protein is white as in extracted particles. Source: RELION 5, src/jaz/single_particle/movie_loader.h,
micrograph_handler.cpp (loadMovie) and spa_extraction.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image import fft
from relion_py.compute.image.fourier import resize_transform
from relion_py.compute.io.movies import Movie, MovieError, is_eer, open_movie, read_defects, read_gain
from relion_py.compute.motion.kernels import mend
from relion_py.compute.motion.model import MovieMotion
from relion_py.compute.picking.extract_images import cut_boxes

_AT_A_TIME = 64  # boxes that are transformed together


class Frames:
    """The frames of one open movie; `read` may be called from several threads at once."""

    def __init__(
        self, movie: Movie, gain: NDArray[np.float32] | None, bad: NDArray[np.bool_] | None, hot: float
    ) -> None:
        self._movie, self._gain, self._hot = movie, gain, hot
        self._bad = np.zeros(movie.shape, bool) if bad is None else bad
        self._rows, self._columns = np.nonzero(self._bad)
        self._reach = 4 if is_eer(movie.path) else 2

    def read(self, index: int) -> NDArray[np.float32]:
        """Frame `index` (from 0), float32 (ny, nx)."""
        frame = np.array(self._movie.frame(index), dtype=np.float32, order="C")
        if self._hot > 0:
            np.minimum(frame, np.float32(self._hot), out=frame)
        if self._gain is not None:
            frame *= self._gain
        if len(self._rows):
            good = frame[~self._bad]
            mean, deviation = float(good.mean(dtype=np.float64)), float(good.std(dtype=np.float64))
            mend(frame, self._bad, self._rows, self._columns, self._reach, mean, deviation, index)
        return np.negative(frame, out=frame)


class FrameReader:
    """Opens movies; keeps the last gain reference and list of defects, which many movies share.

    hot: values above it become it (before the gain; not for EER); -1 for none.
    """

    def __init__(self, hot: float = -1.0) -> None:
        self._hot = hot
        self._gain: tuple[object, NDArray[np.float32] | None] = (None, None)
        self._defects: tuple[object, NDArray[np.bool_] | None] = (None, None)

    @contextmanager
    def open(self, motion: MovieMotion) -> Iterator[Frames]:
        """The frames of the movie whose motion this is, for `with`. MovieError where a file is not as it was."""
        with open_movie(motion.movie, motion.eer_grouping, motion.eer_upsampling) as movie:
            if movie.shape != (motion.size_y, motion.size_x) or movie.n_frames < motion.n_frames:
                raise MovieError(
                    f"{motion.movie} has {movie.n_frames} frames of {movie.shape[1]} x {movie.shape[0]} pixels; in "
                    f"motion correction it had {motion.n_frames} of {motion.size_x} x {motion.size_y}."
                )
            gain = self._gain_of(motion, movie)
            hot = -1.0 if is_eer(motion.movie) else self._hot
            yield Frames(movie, gain, self._bad_pixels(motion, movie, gain), hot)

    def _gain_of(self, motion: MovieMotion, movie: Movie) -> NDArray[np.float32] | None:
        key = (motion.gain, movie.shape, is_eer(motion.movie))
        if self._gain[0] != key:
            self._gain = (key, read_gain(motion.gain, movie) if motion.gain else None)
        return self._gain[1]

    def _bad_pixels(
        self, motion: MovieMotion, movie: Movie, gain: NDArray[np.float32] | None
    ) -> NDArray[np.bool_] | None:
        """Defects, pixels that the gain reference gives 0, and those that motion correction found hot."""
        key = (motion.defects, movie.shape)
        if self._defects[0] != key:
            self._defects = (key, read_defects(motion.defects, movie.shape) if motion.defects else None)
        listed = self._defects[1]
        bad = np.zeros(movie.shape, bool) if listed is None else listed.copy()
        if gain is not None:
            bad |= gain == 0
        if len(motion.hot_pixels):
            bad[motion.hot_pixels[:, 1], motion.hot_pixels[:, 0]] = True
        return bad if bad.any() else None


def movie_box(box: int, pixel_size: float, movie_pixel_size: float) -> int:
    """Even size, in pixels of the movie, of a box of `box` pixels of `pixel_size` A."""
    return 2 * int(0.5 * box * pixel_size / movie_pixel_size + 0.5)


def centres(
    x: NDArray[np.float64], y: NDArray[np.float64], coordinate_pixel: float, data_pixel: float, movie_pixel: float
) -> NDArray[np.int64]:
    """The movie pixels at the centres of boxes, (N, 2) x and y.

    x, y: coordinates in pixels of coordinate_pixel (A). data_pixel: of the particles; coordinates are cut to
    whole pixels of it first, as extraction did (spa_extraction.h).
    """
    places = np.stack([x, y], axis=1)
    whole = np.trunc(coordinate_pixel * places / data_pixel)
    return round_half_away(whole * data_pixel / movie_pixel)


def round_half_away(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest whole numbers; halves go away from zero, as C's round() has it."""
    return np.trunc(values + np.copysign(0.5, values)).astype(np.int64)


def cut_transforms(
    frame: NDArray[np.float32], at: NDArray[np.int64], size: int, box: int
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    """Transforms of boxes of `size` pixels around `at` (N, 2), cut to those of `box`: (rows, complex64), in turn.

    Divided by size^2, in the layout of rfft2 with the origin at the first pixel; the mean is taken out. Pixels
    outside the frame have the value of the nearest one inside.
    """
    for start in range(0, len(at), _AT_A_TIME):
        rows = slice(start, min(len(at), start + _AT_A_TIME))
        boxes = cut_boxes(frame, at[rows, 0], at[rows, 1], size)
        transforms = fft.rfft2(boxes, norm="forward", overwrite_x=True)
        if box != size:
            transforms = resize_transform(transforms, size, box)
        transforms[:, 0, 0] = 0
        yield rows, transforms
