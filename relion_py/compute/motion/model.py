"""The motion of a movie: shifts of whole frames, the polynomial of local motion, and the STAR file of both.

A shift is what must be added to where something lies in a frame to bring it to where it lies in the first
frame used: pixels of the unbinned movie, x to the right along a row, y along a column in RELION's order.

Facts: RELION 5, micrograph_model.cpp and motioncorr_runner.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.movies import is_eer
from relion_py.compute.io.star import StarFile, Table

NOT_OBSERVED = -9999.0
"""The shift that stands in files for frames that were left out."""

N_COEFFICIENTS = 18

ASTRAY = 3.0
"""A patch so many times as far from the model as the median patch, and more than a pixel, has followed noise."""

_Real = NDArray[np.float64]


def basis(frame: ArrayLike, x: ArrayLike, y: ArrayLike) -> _Real:
    """The 18 terms of the model, float64 (N, 18): (1, x, x2, y, y2, xy) times (z, z2, z3), z the fastest.

    frame   z, counted from 0 at the first frame used
    x, y    place in the image over its width and height, less 0.5
    """
    z, x, y = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (frame, x, y)))
    space = np.stack([np.ones_like(x), x, x * x, y, y * y, x * y], axis=-1)
    time = np.stack([z, z * z, z * z * z], axis=-1)
    return (space[..., :, None] * time[..., None, :]).reshape(-1, N_COEFFICIENTS)


@dataclass(frozen=True)
class LocalModel:
    """The third-order polynomial of local motion; coefficients of x and y shifts, float64 (2, 18).

    Their unit is the pixel of the image to which the model was fitted (binned, if that was).
    """

    coefficients: _Real

    def shifts(self, frame: ArrayLike, x: ArrayLike, y: ArrayLike) -> _Real:
        """Shifts (2, N): x and y, in pixels, at `basis` coordinates."""
        return self.coefficients @ basis(frame, x, y).T

    def of_frame(self, frame: float) -> _Real:
        """For one frame the factors of (1, x, x2, y, y2, xy), float64 (2, 6)."""
        powers = np.array([frame, frame**2, frame**3])
        return self.coefficients.reshape(2, 6, 3) @ powers


def fit(frames: _Real, x: _Real, y: _Real, shifts: _Real) -> LocalModel:
    """The least-squares model through shifts (2, N) observed at `basis` coordinates (N)."""
    solution = np.linalg.lstsq(basis(frames, x, y), shifts.T, rcond=None)[0]
    return LocalModel(np.ascontiguousarray(solution.T))


def fit_patches(frames: _Real, x: _Real, y: _Real, shifts: _Real, patches: int) -> tuple[LocalModel, _Real]:
    """The model through the shifts of `patches` but those that went astray; residuals (2, patches kept, times).

    Arguments as of `fit`, all times of one patch after those of another. A patch of little contrast may converge
    on noise, tens of pixels off, and would bend the model everywhere (the reference fits all patches).
    """
    good = np.ones(patches, bool)
    while True:
        used = np.repeat(good, len(frames) // patches)
        model = fit(frames[used], x[used], y[used], shifts[:, used])
        residuals = (shifts - model.shifts(frames, x, y)).reshape(2, patches, -1)
        distance = np.sqrt((residuals**2).sum(axis=0).mean(axis=1))
        nearer = good & (distance <= max(ASTRAY * np.median(distance[good]), 1.0))
        if nearer.sum() == good.sum() or nearer.sum() * residuals.shape[2] <= N_COEFFICIENTS:
            return model, residuals[:, good]
        good = nearer


@dataclass
class LocalShifts:
    """Shifts observed in patches, N of them: frame from 1, centre of the patch and shift, unbinned pixels."""

    frame: NDArray[np.int64]
    x: _Real
    y: _Real
    shift_x: _Real
    shift_y: _Real


@dataclass
class MovieMotion:
    """All that is known of a movie's motion.

    size_x, size_y: unbinned frame, pixels. shifts: (n_frames, 2), x and y, NOT_OBSERVED where a frame was
    left out. first_frame: first one used, from 1. pixel_size: A, unbinned. dose_per_frame, pre_exposure:
    electrons per square A. hot_pixels: (N, 2), x and y. model: None where there is no local motion.
    """

    movie: str
    size_x: int
    size_y: int
    shifts: _Real
    first_frame: int = 1
    binning: float = 1.0
    pixel_size: float = -1.0
    dose_per_frame: float = -1.0
    pre_exposure: float = -1.0
    voltage: float = -1.0
    gain: str = ""
    defects: str = ""
    eer_upsampling: int = 1
    eer_grouping: int = 40
    model: LocalModel | None = None
    local: LocalShifts | None = None
    hot_pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    @property
    def n_frames(self) -> int:
        """Frames of the movie, those left out among them."""
        return len(self.shifts)

    def observed(self) -> NDArray[np.bool_]:
        """Which frames were used, bool (n_frames)."""
        return ~(self.shifts == NOT_OBSERVED).any(axis=1)

    def shifts_at(self, frames: NDArray[np.int64], x: ArrayLike, y: ArrayLike, local: bool = True) -> _Real:
        """Shifts (N, F, 2), x and y in unbinned pixels, of N places in F frames (numbers from 0).

        x, y: (N,), place over width and height, less 0.5. local: add the local motion. A frame that was left
        out has the whole-frame shift of the last one before it that was not, or 0 (micrograph_model.cpp,
        getShiftAt; unlike there, the local motion of movies binned early is scaled to unbinned pixels).
        """
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        out = np.zeros((len(x), len(frames), 2))
        observed = self.observed()
        for i, frame in enumerate(np.asarray(frames).tolist()):
            known = np.flatnonzero(observed[: frame + 1])
            if len(known):
                out[:, i] = self.shifts[known[-1]]
            if local and self.model is not None and observed[frame]:
                moved = self.model.shifts(np.full(len(x), frame + 1 - self.first_frame), x, y)
                out[:, i] += self.binning * moved.T
        return out

    def accumulated(self, dose_cutoff: float) -> tuple[float, float, float]:
        """Path lengths of whole-frame motion in pixels: all, up to `dose_cutoff` (e/A2), after it.

        Source: motioncorr_runner.cpp, generateLogFilePDFAndWriteStarFiles.
        """
        frames = np.nonzero(self.observed())[0] + 1
        path = np.vstack([np.zeros((1, 2)), self.shifts[frames - 1]])
        steps = np.hypot(*np.diff(path, axis=0).T)
        steps[frames < 2] = 0.0
        last_early = (dose_cutoff - self.pre_exposure) / self.dose_per_frame if self.dose_per_frame else 0.0
        early = float(steps[frames <= last_early].sum())
        return float(steps.sum()), early, float(steps.sum()) - early


def write_motion(path: str, motion: MovieMotion) -> None:
    """Write the STAR file of one movie, from which particle polishing reads (micrograph_model.cpp, write)."""
    general = Table(loop=False)
    general.set("rlnImageSizeX", motion.size_x)
    general.set("rlnImageSizeY", motion.size_y)
    general.set("rlnImageSizeZ", motion.n_frames)
    general.set("rlnMicrographMovieName", motion.movie)
    for label, name in (("rlnMicrographGainName", motion.gain), ("rlnMicrographDefectFile", motion.defects)):
        if name:
            general.set(label, name)
    general.set("rlnMicrographBinning", float(motion.binning))
    for label, number in (
        ("rlnMicrographOriginalPixelSize", motion.pixel_size),
        ("rlnMicrographDoseRate", motion.dose_per_frame),
        ("rlnMicrographPreExposure", motion.pre_exposure),
        ("rlnVoltage", motion.voltage),
    ):
        if number != -1:
            general.set(label, float(number))
    general.set("rlnMicrographStartFrame", motion.first_frame)
    if is_eer(motion.movie):
        general.set("rlnEERUpsampling", motion.eer_upsampling)
        general.set("rlnEERGrouping", motion.eer_grouping)
    general.set("rlnMotionModelVersion", 0 if motion.model is None else 1)
    blocks = [("general", general), ("global_shift", _global_table(motion))]
    if motion.model is not None:
        blocks.append(("local_motion_model", _model_table(motion.model)))
    if len(motion.hot_pixels):
        x, y = motion.hot_pixels.T.astype(np.float64)
        blocks.append(("hot_pixels", Table({"rlnCoordinateX": x, "rlnCoordinateY": y})))
    if motion.local is not None and len(motion.local.frame):
        blocks.append(("local_shift", _local_table(motion.local)))
    star.write(path, StarFile(blocks))


def _global_table(motion: MovieMotion) -> Table:
    return Table(
        {
            "rlnMicrographFrameNumber": np.arange(1, motion.n_frames + 1),
            "rlnMicrographShiftX": motion.shifts[:, 0],
            "rlnMicrographShiftY": motion.shifts[:, 1],
        }
    )


def _model_table(model: LocalModel) -> Table:
    return Table(
        {
            "rlnMotionModelCoeffsIdx": np.arange(2 * N_COEFFICIENTS),
            "rlnMotionModelCoeff": model.coefficients.reshape(-1),
        }
    )


def _local_table(local: LocalShifts) -> Table:
    return Table(
        {
            "rlnMicrographFrameNumber": local.frame,
            "rlnCoordinateX": local.x,
            "rlnCoordinateY": local.y,
            "rlnMicrographShiftX": local.shift_x,
            "rlnMicrographShiftY": local.shift_y,
        }
    )


def read_motion(path: str) -> MovieMotion:
    """Read the STAR file of one movie, of this program or of RELION's. UserError if something is missing."""
    file = star.read(path)
    if "general" not in file or "global_shift" not in file:
        raise UserError(f"{path} is no file of a movie's motion: data_general or data_global_shift is missing.")
    general = file["general"]

    def number(label: str, default: float) -> float:
        return float(general.floats(label)[0]) if label in general else default

    shifts = np.full((int(general.ints("rlnImageSizeZ")[0]), 2), NOT_OBSERVED)
    table = file["global_shift"]
    frames = table.ints("rlnMicrographFrameNumber")
    if len(frames) and (frames.min() < 1 or frames.max() > len(shifts)):
        raise UserError(f"{path}: a frame number lies outside 1 to {len(shifts)}.")
    shifts[frames - 1, 0] = table.floats("rlnMicrographShiftX")
    shifts[frames - 1, 1] = table.floats("rlnMicrographShiftY")
    motion = MovieMotion(
        movie=general.value("rlnMicrographMovieName"),
        size_x=int(general.ints("rlnImageSizeX")[0]),
        size_y=int(general.ints("rlnImageSizeY")[0]),
        shifts=shifts,
        first_frame=int(number("rlnMicrographStartFrame", 1)),
        binning=number("rlnMicrographBinning", 1.0),
        pixel_size=number("rlnMicrographOriginalPixelSize", -1.0),
        dose_per_frame=number("rlnMicrographDoseRate", -1.0),
        pre_exposure=number("rlnMicrographPreExposure", -1.0),
        voltage=number("rlnVoltage", -1.0),
        gain=general.value("rlnMicrographGainName", ""),
        defects=general.value("rlnMicrographDefectFile", ""),
        eer_upsampling=int(number("rlnEERUpsampling", 1)),
        eer_grouping=int(number("rlnEERGrouping", 40)),
    )
    if "local_motion_model" in file and number("rlnMotionModelVersion", 0) == 1:
        motion.model = _read_model(path, file["local_motion_model"])
    if "hot_pixels" in file:
        hot = file["hot_pixels"]
        columns = [hot.floats(f"rlnCoordinate{axis}").astype(np.int64) for axis in "XY"]
        motion.hot_pixels = np.stack(columns, axis=1)
    if "local_shift" in file:
        table = file["local_shift"]
        motion.local = LocalShifts(
            table.ints("rlnMicrographFrameNumber"),
            table.floats("rlnCoordinateX"),
            table.floats("rlnCoordinateY"),
            table.floats("rlnMicrographShiftX"),
            table.floats("rlnMicrographShiftY"),
        )
    return motion


def _read_model(path: str, table: Table) -> LocalModel:
    index = table.ints("rlnMotionModelCoeffsIdx")
    if sorted(index.tolist()) != list(range(2 * N_COEFFICIENTS)):
        raise UserError(f"{path}: the local motion model must have {2 * N_COEFFICIENTS} coefficients.")
    values = np.empty(2 * N_COEFFICIENTS)
    values[index] = table.floats("rlnMotionModelCoeff")
    return LocalModel(values.reshape(2, N_COEFFICIENTS))
