"""One movie from frames to a sum: gain, defects, transforms, spectra, global and local alignment, weighting.

Source: RELION 5, motioncorr_runner.cpp, executeOwnMotionCorrection. Where this differs: frames of a group
are summed for the local alignment (the reference looks at the last of each group only), patches that follow
noise do not enter the local model, frames are repaired with a random generator of fixed seeds, so that a
movie gives the same sum every time, blank frames at either end are left out, and a side that would become odd
loses its last pixels (the reference stops).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image import fft
from relion_py.compute.io.movies import Movie, MovieError, is_eer
from relion_py.compute.motion import align as al
from relion_py.compute.motion.dose import decay, doses_at_300kv, norm_of, weights
from relion_py.compute.motion.kernels import add_moved, mend
from relion_py.compute.motion.model import (
    N_COEFFICIENTS,
    NOT_OBSERVED,
    LocalModel,
    LocalShifts,
    MovieMotion,
    fit_patches,
)
from relion_py.compute.motion.spectrum import amplitude_sum, power_spectrum

HOT_SIGMA = 6.0
"""Pixels of the unaligned sum above its mean plus that many standard deviations are defective."""

BLANK = 0.2
"""A frame whose pixels deviate by less than that times the median frame's saw no beam."""

MAX_FIT_RMSD = 10.0
"""Pixels: a local model that fits its observations worse than that is not used."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """How movies are corrected; names as the program's options.

    bfactor: square pixels (unbinned). first_frame, last_frame: from 1; last_frame < 1: all. patch_x, patch_y:
    local alignment needs 3 or more of both. grouping_for_ps: frames per spectrum, 0: none. threads: pieces of
    work done at once (the caller's pool). dose_per_frame: e/A2.
    """

    first_frame: int = 1
    last_frame: int = 0
    group: int = 1
    patch_x: int = 1
    patch_y: int = 1
    bfactor: float = 150.0
    bin_factor: float = 1.0
    early_binning: bool = True
    max_iter: int = 5
    ccf_downsample: float = 0.0
    interpolate_shifts: bool = False
    mend_pixels: bool = True
    dose_weighting: bool = False
    dose_per_frame: float = 1.0
    save_unweighted: bool = False
    even_odd: bool = False
    grouping_for_ps: int = 0
    ps_size: int = 512
    threads: int = 1
    io_threads: int = 1


@dataclass
class Corrected:
    """What a movie gave.

    image: the sum that is the micrograph. unweighted: the sum without dose weights, if it was asked for
    beside the other. even, odd: sums of every second frame. spectrum: for CTF estimation, with its pixel
    size (A). seconds: per stage. log: lines for people.
    """

    motion: MovieMotion
    image: Image
    unweighted: Image | None = None
    even: Image | None = None
    odd: Image | None = None
    spectrum: Image | None = None
    spectrum_pixel_size: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


def correct_movie(
    movie: Movie,
    settings: Settings,
    pixel_size: float,
    voltage: float = 300.0,
    pre_exposure: float = 0.0,
    gain: Image | None = None,
    defects: NDArray[np.bool_] | None = None,
    run: al.Run = al.serially,
) -> Corrected:
    """Correct one movie.

    pixel_size: A, unbinned. voltage: kV. pre_exposure: e/A2 before the first frame. gain: factors (ny, nx).
    defects: True where a pixel is bad. run: `map` of a thread pool with settings.threads threads.
    MovieError if the movie cannot be corrected; the sentence says why.
    """
    return _Correction(movie, settings, pixel_size, voltage, pre_exposure, run).do(gain, defects)


class _Correction:
    """The state of one movie's correction; its methods are the stages, in order."""

    def __init__(
        self,
        movie: Movie,
        settings: Settings,
        pixel_size: float,
        voltage: float,
        pre_exposure: float,
        run: al.Run,
    ) -> None:
        self.movie, self.settings, self.run = movie, settings, run
        self.pixel_size, self.voltage, self.pre_exposure = pixel_size, voltage, pre_exposure
        last = movie.n_frames if settings.last_frame < 1 else min(settings.last_frame, movie.n_frames)
        self.frames = np.arange(max(1, settings.first_frame) - 1, last)
        self.log = [f"Working on {movie.path} with {settings.threads} thread(s).", ""]
        self.seconds: dict[str, float] = {}
        ny, nx = movie.shape
        self.early = settings.early_binning and abs(settings.bin_factor - 1.0) >= 0.01
        self.scale = settings.bin_factor if self.early else 1.0  # of pixels of the transforms
        self.used = self._usable(ny), self._usable(nx)
        self.ny, self.nx = self._binned(*self.used) if self.early else self.used
        shifts = np.full((movie.n_frames, 2), NOT_OBSERVED)
        self.motion = MovieMotion(
            movie.path, nx, ny, shifts, int(self.frames[0]) + 1 if len(self.frames) else 1,
            settings.bin_factor, pixel_size, settings.dose_per_frame, pre_exposure, voltage,
        )  # fmt: skip
        self.transforms: list[al.Complex] = []
        self.images: list[Image] = []
        self.doses = np.zeros(0)

    def do(self, gain: Image | None, defects: NDArray[np.bool_] | None) -> Corrected:
        settings = self.settings
        if settings.dose_weighting:  # an odd voltage is told before the work, not after it
            doses_at_300kv(self.frames, settings.dose_per_frame, self.pre_exposure, self.voltage)
        self._groups()  # too few frames as well
        with self._timed("read"):
            raw, total = self._read()
            self._leave_out_blank_ends(raw, total)
        groups = self._groups()
        self._tell_frames(groups)
        if settings.dose_weighting:
            self.doses = doses_at_300kv(self.frames, settings.dose_per_frame, self.pre_exposure, self.voltage)
        with self._timed("defects"):
            bad = self._bad_pixels(total, gain, defects)
        with self._timed("transforms"):
            self._transform(raw, gain, bad, total)
        del raw, total
        result = Corrected(self.motion, np.zeros((0, 0), np.float32), seconds=self.seconds, log=self.log)
        if settings.grouping_for_ps > 0:
            with self._timed("power spectrum"):
                self._spectrum(result)
        with self._timed("global alignment"):
            self._align_frames()
        if min(settings.patch_x, settings.patch_y) > 2:
            with self._timed("local alignment"):
                self._align_patches(groups)
        else:
            self.log.append("Too few patches for local alignment (3 x 3 are needed), which is left out.")
        with self._timed("sums"):
            self._sum(result)
        self.log.append("")
        self.log.append("Seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in self.seconds.items()))
        return result

    # ------------------------------------------------------------------------------------------- reading

    def _groups(self) -> list[range]:
        n, group = len(self.frames), self.settings.group
        groups = al.frame_groups(n, group)
        if len(groups) < 3:
            raise MovieError(
                f"{self.movie.path} has too few frames: {n} in use make {len(groups)} groups of {group}, and "
                "at least 3 are needed; it is truncated, or the frame range or grouping is wrong."
            )
        return groups

    def _tell_frames(self, groups: Sequence[range]) -> None:
        ny, nx = self.movie.shape
        self.log.append(f"Movie size: X = {nx} Y = {ny} N = {self.movie.n_frames}")
        if self.used != (ny, nx):
            self.log.append(f"Only X = {self.used[1]} Y = {self.used[0]} of it are used: the sides must come out even.")
        text = " | ".join(" ".join(str(self.frames[i] + 1) for i in g) for g in groups)
        self.log.append(f"Frames in use, in groups: | {text} |")

    def _usable(self, side: int) -> int:
        """As many of a side's pixels as make an even number, binned and, where transforms are not, unbinned."""
        factor, full, step = self.settings.bin_factor, side, 1 if self.early else 2
        while int(side / factor) % 2 or (not self.early and side % 2):
            side -= 1
        while side < full and int((side - step) / factor) == int(side / factor):
            side -= step  # to where the binned pixel has its nominal size
        return side

    def _binned(self, ny: int, nx: int) -> tuple[int, int]:
        return int(ny / self.settings.bin_factor), int(nx / self.settings.bin_factor)

    def _read(self) -> tuple[list[NDArray[Any]], Image]:
        """The frames as the file holds them, and their sum."""
        workers = max(1, min(self.settings.io_threads, len(self.frames)))

        def share(start: int) -> tuple[list[NDArray[Any]], Image]:
            total = np.zeros(self.movie.shape, np.float32)
            frames = []
            for frame in self.frames[start::workers]:
                frames.append(self.movie.frame(int(frame)))
                total += frames[-1]
            return frames, total

        raw: list[Any] = [None] * len(self.frames)
        total = np.zeros(self.movie.shape, np.float32)
        for start, (frames, partial) in enumerate(self.run(share, range(workers))):
            raw[start::workers] = frames
            total += partial
        if not np.isfinite(total).all():
            raise MovieError(f"{self.movie.path} has pixels that are no numbers (NaN or infinite).")
        if total.min() == total.max():
            raise MovieError(f"{self.movie.path} is empty: all pixels of its sum are {total.flat[0]:g}.")
        return raw, total

    def _leave_out_blank_ends(self, raw: list[NDArray[Any]], total: Image) -> None:
        """Frames without beam hold nothing to be aligned, and their random shifts would spoil the local model."""
        spread = np.array([frame[::8, ::8].std(dtype=np.float64) for frame in raw])
        lit = np.flatnonzero(spread >= BLANK * np.median(spread))
        first, end = lit[0], lit[-1] + 1
        for frame in raw[:first] + raw[end:]:
            total -= frame
        if blank := self.frames[:first].tolist() + self.frames[end:].tolist():
            self.log.append("Blank frames, which are left out: " + " ".join(str(frame + 1) for frame in blank))
        raw[:] = raw[first:end]
        self.frames = self.frames[first:end]
        self.motion.first_frame = int(self.frames[0]) + 1

    def _bad_pixels(
        self, total: Image, gain: Image | None, defects: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_] | None:
        """Pixels to be mended: defects, those that the gain reference gives 0, and hot ones."""
        if gain is not None:
            total *= gain
        if not self.settings.mend_pixels:
            return None
        mean, deviation = float(total.mean(dtype=np.float64)), float(total.std(dtype=np.float64))
        threshold = mean + HOT_SIGMA * deviation
        bad = np.zeros(total.shape, bool) if defects is None else defects.copy()
        if gain is not None:
            bad |= gain == 0
        hot = (total > threshold) & ~bad
        self.motion.hot_pixels = np.argwhere(hot)[:, ::-1].astype(np.int64)
        self.log.append(
            f"In the unaligned sum, mean = {mean:.6g}, standard deviation = {deviation:.6g}, threshold of "
            f"hot pixels = {threshold:.6g}; {len(self.motion.hot_pixels)} hot pixels and {int(bad.sum())} "
            "known bad ones are mended."
        )
        return bad | hot

    def _transform(self, raw: list[Any], gain: Image | None, bad: NDArray[np.bool_] | None, total: Image) -> None:
        n = len(raw)
        rows, columns = np.nonzero(bad) if bad is not None else (np.zeros(0, int), np.zeros(0, int))
        mean = float(total.mean(dtype=np.float64)) / n
        deviation = float(total.std(dtype=np.float64)) / n**0.5
        reach = 4 if is_eer(self.movie.path) else 2

        def one(index: int) -> al.Complex:
            frame = np.array(raw[index], dtype=np.float32, order="C")
            raw[index] = None
            if gain is not None:
                frame *= gain
            if len(rows):
                mend(frame, bad, rows, columns, reach, mean, deviation, index)
            frame = frame[: self.used[0], : self.used[1]]
            transform = fft.rfft2(frame, norm="forward", overwrite_x=True)
            return al.crop(transform, self.ny, self.nx)

        self.transforms = list(self.run(one, range(n)))
        if self.early:
            self.log.append(f"Image size after binning: X = {self.nx} Y = {self.ny}")

    def _spectrum(self, result: Corrected) -> None:
        settings = self.settings
        amplitudes = amplitude_sum(self.transforms, settings.grouping_for_ps, self.ny, self.nx, self.run)
        result.spectrum, result.spectrum_pixel_size = power_spectrum(
            amplitudes, self.pixel_size * self.scale, settings.ps_size
        )
        self.log.append(f"Pixel size of the power spectrum: {result.spectrum_pixel_size:.6g}")

    # ---------------------------------------------------------------------------------------- alignment

    def _grid(self, ny: int, nx: int) -> al.CcfGrid:
        settings = self.settings
        return al.ccf_grid(ny, nx, settings.bfactor / self.scale**2, settings.ccf_downsample)

    def _align_frames(self) -> None:
        grid = self._grid(self.ny, self.nx)
        found = al.align(list(self.run(grid.crop, self.transforms)), grid, self.settings.max_iter, self.run)
        self.log += ["", "Global alignment:", *_iterations(found)]
        self.motion.shifts[self.frames] = found.shifts * self.scale

        def move(item: tuple[al.Complex, NDArray[np.float64]]) -> None:
            al.shift_transform(item[0], item[1].tolist(), self.ny, self.nx)

        list(self.run(move, zip(self.transforms, found.shifts, strict=True)))

    def _align_patches(self, groups: Sequence[range]) -> None:
        settings = self.settings
        self.images = list(self.run(self._image, self.transforms))
        boxes = [
            (
                *_side(iy, self.ny // settings.patch_y, self.ny),
                *_side(ix, self.nx // settings.patch_x, self.nx),
            )
            for iy in range(settings.patch_y)
            for ix in range(settings.patch_x)
        ]
        if min(min(b[1] - b[0], b[3] - b[2]) for b in boxes) < 8:
            raise MovieError(f"{self.movie.path}: the patches are too small; use fewer of them.")
        grids = {shape: self._grid(*shape) for shape in {(b[1] - b[0], b[3] - b[2]) for b in boxes}}

        def align_patch(box: tuple[int, int, int, int]) -> al.Alignment:
            top, bottom, left, right = box
            grid = grids[bottom - top, right - left]
            pieces = []
            for group in groups:
                patch = self.images[group[0]][top:bottom, left:right].copy()
                for frame in group[1:]:
                    patch += self.images[frame][top:bottom, left:right]
                pieces.append(grid.crop(fft.rfft2(patch, norm="forward", overwrite_x=True)))
            return al.align(pieces, grid, settings.max_iter)

        self.log += ["", "Local alignments:", f"Patches: X = {settings.patch_x} Y = {settings.patch_y}"]
        centres, kept = [], []
        for box, found in zip(boxes, self.run(align_patch, boxes), strict=True):
            centre = ((box[2] + box[3] - 1) // 2, (box[0] + box[1] - 1) // 2)
            self.log.append(
                f"Patch X = [{box[2]}, {box[3]}), Y = [{box[0]}, {box[1]}), centre = {centre}"
                + ("" if found.converged else ": did not converge and is left out")
            )
            self.log += _iterations(found)
            if found.converged:
                centres.append(centre)
                kept.append(found.shifts)
        self._fit(groups, np.array(centres, np.float64).reshape(-1, 2), kept)

    def _fit(self, groups: Sequence[range], centres: NDArray[np.float64], kept: list[Any]) -> None:
        """The polynomial through the shifts of all patches that converged."""
        n = len(self.frames)
        times = np.arange(n) if self.settings.interpolate_shifts else al.group_centres(groups)
        observed = []
        for shifts in kept:
            single = al.interpolate_shifts(groups, shifts, n)
            observed.append((single if self.settings.interpolate_shifts else shifts) - single[0])
        frames = np.tile(times, len(kept)).astype(np.float64)
        if len(frames) <= N_COEFFICIENTS:
            self.log.append("Too few patches converged to fit local motion; only the global motion is used.")
            return
        x, y = np.repeat(centres, len(times), axis=0).T
        values = np.concatenate(observed).T
        place = (x / self.nx - 0.5, y / self.ny - 0.5)
        model, residuals = fit_patches(frames, *place, values, len(kept))
        rmsd = np.sqrt((residuals**2).mean(axis=(1, 2))) * self.scale
        self.log += ["", f"Polynomial fit RMSD: X = {rmsd[0]:.5g} px Y = {rmsd[1]:.5g} px"]
        if astray := len(kept) - residuals.shape[1]:
            self.log.append(f"{astray} patches that moved unlike the others are left out.")
        self.motion.local = LocalShifts(
            (frames + self.motion.first_frame).astype(np.int64),
            x * self.scale, y * self.scale, values[0] * self.scale, values[1] * self.scale,
        )  # fmt: skip
        if rmsd.max() < MAX_FIT_RMSD:
            self.motion.model = model
        else:
            self.log.append("The model does not explain the shifts; only the global motion is used.")

    # --------------------------------------------------------------------------------------------- sums

    def _image(self, transform: al.Complex) -> Image:
        return fft.irfft2(transform, s=(self.ny, self.nx), norm="forward")

    def _sum(self, result: Corrected) -> None:
        settings = self.settings
        every = range(len(self.frames))
        unweighted = None
        if settings.even_odd:
            result.even, result.odd = (self._sum_frames(every[start::2]) for start in (0, 1))
            unweighted = result.even + result.odd
        elif not settings.dose_weighting or settings.save_unweighted:
            unweighted = self._sum_frames(every)
        self.images = []
        if settings.dose_weighting:
            result.image = self._binned_late(self._sum_weighted())
            result.unweighted = unweighted if settings.save_unweighted else None
        elif unweighted is not None:
            result.image = unweighted
        for name in ("unweighted", "even", "odd"):
            image = getattr(result, name)
            if image is not None:
                setattr(result, name, self._binned_late(image))
        if not settings.dose_weighting:
            result.image = self._binned_late(result.image)

    def _sum_frames(self, which: range) -> Image:
        model = self.motion.model
        if model is None:
            return self._image(al.total(self.transforms[i] for i in which))
        return self._sum_moved(lambda index: self.images[index], which, model)

    def _sum_weighted(self) -> Image:
        doses = self.doses
        rate = decay(self.ny, self.nx, self.pixel_size * self.scale)
        norm = norm_of(rate, doses)
        every = range(len(self.frames))
        model = self.motion.model
        if model is None:
            total = np.zeros_like(self.transforms[0])
            for index in every:
                self.transforms[index] *= weights(rate, doses[index], norm)
                total += self.transforms[index]
            return self._image(total)

        def weighted(index: int) -> Image:
            self.transforms[index] *= weights(rate, doses[index], norm)
            return self._image(self.transforms[index])

        return self._sum_moved(weighted, every, model)

    def _sum_moved(self, image: Callable[[int], Image], which: range, model: LocalModel) -> Image:
        """The sum of frames `which`, moved along the local model."""
        workers = max(1, min(self.settings.threads, len(which)))

        def share(start: int) -> Image:
            total = np.zeros((self.ny, self.nx), np.float32)
            for index in which[start::workers]:
                add_moved(total, image(index), model.of_frame(index))
            return total

        return al.total(self.run(share, range(workers)))

    def _binned_late(self, image: Image) -> Image:
        if self.early or self.settings.bin_factor == 1.0:
            return image
        ny, nx = self._binned(self.ny, self.nx)
        transform = al.crop(fft.rfft2(image, norm="forward"), ny, nx)
        return fft.irfft2(transform, s=(ny, nx), norm="forward")

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def _side(index: int, size: int, full: int) -> tuple[int, int]:
    """First and one after the last row of a patch, an even number (executeOwnMotionCorrection)."""
    start, end = index * size, min((index + 1) * size, full)
    if (end - start) % 2:
        if end == full:
            start += 1
        else:
            end -= 1
    return start, end


def _iterations(found: al.Alignment) -> list[str]:
    return [f" Iteration {n}: RMSD = {rmsd:.6g} px" for n, rmsd in enumerate(found.rmsd, 1)]
