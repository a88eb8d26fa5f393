"""Simulated movies whose truth is known: particles in ice, CTF, drift, local motion, radiation damage, gain, noise.

A micrograph is a sum of projections of a pseudo-atomic model (``simulate_model.py``) and of the ice's own random
potential, times the CTF: the contrast.  In each frame it has moved, has lost what the dose so far destroys, and
the detector counts electrons, Poisson distributed, in pixels of different sensitivity.  Positions, motion and the
rows of files are in RELION's conventions; a particle's position is where it lies in the first frame.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.geometry.symmetry import canonical
from relion_py.compute.image import fft
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.image.fourier import frequencies, phase_shift, radius_grid, real_image
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import mrc, star
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.star import Table
from relion_py.compute.jit import njit
from relion_py.compute.motion.dose import decay, doses_at_300kv, weights
from relion_py.compute.motion.model import LocalModel
from relion_py.compute.simulate_model import PseudoAtoms, build_model, model_map, project

VOLTAGE, SPHERICAL_ABERRATION, AMPLITUDE_CONTRAST = 300.0, 2.7, 0.1
_GAIN_SPREAD = 0.05  # of the pixels' sensitivity
_HOT_PIXELS = 10
_ICE_BFACTOR = 100.0  # A2, of the ice's potential
_APART = 1.2  # least distance of two particles, in diameters
_FINER = 2  # the contrast is made on a grid so many times finer, from which moved frames are interpolated

Real = NDArray[np.float64]
Image = NDArray[np.float32]
_Columns = Mapping[str, Sequence[str] | Real]


@dataclass(frozen=True)
class MovieSet:
    """What is to be simulated; lengths in A unless said otherwise.

    movies, frames, size: numbers of movies and of frames in each, and pixels along a frame's side.
    particles: in all movies together, shared out evenly.  dose: electrons per A2 and frame.
    defocus: range of the movies' defocus.
    snr: variance of the particles' contrast within their circle over that of the counting noise in the sum of
        all frames.  ice: the same for the contrast of the ice, which lets Thon rings be seen.
    sigma: of the model's blobs.  drift: length of a movie's way, most of it in the first frames.
    local_motion: how much further than the middle a corner moves, about.
    """

    movies: int = 6
    particles: int = 240
    size: int = 1024
    frames: int = 10
    angpix: float = 1.77
    dose: float = 4.0
    snr: float = 0.3
    ice: float = 0.3
    drift: float = 15.0
    local_motion: float = 4.0
    defocus: tuple[float, float] = (8000.0, 25000.0)
    symmetry: str = "C1"
    diameter: float = 170.0
    atoms: int = 600
    sigma: float = 1.5
    box: int = 160
    seed: int = 1


@dataclass(frozen=True)
class Truth:
    """What was written: the directory of the movies, the particles' truth, the gain reference and the map."""

    movies: Path
    truth: Path
    gain: Path
    volume: Path


def simulate_movies(
    out_dir: str | os.PathLike[str],
    what: MovieSet,
    *,
    project_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Truth:
    """Write movies below ``out_dir`` and return where they are; the same arguments write the same files.

    Written: ``Movies/mic001.tiff`` .. (uint8 or uint16, LZW, rows from the top as TIFF has them),
    ``Movies/gain.mrc`` (what frames are to be multiplied with), ``truth.star`` (for each particle the movie's name
    relative to ``project_root``, the position in pixels of the first frame, angles and defocus; in the table "motion"
    the drift, as shifts back to the first frame in pixels) and ``truth.mrc``.
    progress: called with the number of movies done.

    Raises UserError for a value that makes no sense.
    """
    _check(what)
    out, root = Path(out_dir), Path(out_dir if project_root is None else project_root)
    rng = np.random.default_rng(what.seed)
    group = canonical(what.symmetry)
    model = build_model(group, what.atoms, what.diameter, what.sigma, what.seed)
    model = model.scaled(_weight(model, what, rng))
    directory = out / "Movies"
    directory.mkdir(parents=True, exist_ok=True)
    gain = rng.normal(1.0, _GAIN_SPREAD, (what.size, what.size)).clip(0.7, 1.3).astype(np.float32)
    mrc.write_map(directory / "gain.mrc", gain, what.angpix)
    particles: list[_Columns] = []
    motion: list[_Columns] = []
    for number, count in enumerate(_shares(what), start=1):
        path = directory / f"mic{number:03d}.tiff"
        name = os.path.relpath(path, root).replace(os.sep, "/")
        found, contrast = _micrograph(model, what, count, rng)
        drift, frames = _frames(contrast, what, gain, rng)
        _write_tiff(path, frames)
        particles.append({"rlnMicrographMovieName": [name] * count, **found})
        motion.append({"rlnMicrographMovieName": [name] * what.frames, **_drift_columns(drift)})
        if progress is not None:
            progress(number)
    truth = out / "truth.star"
    star.write(truth, {"particles": _joined(particles), "motion": _joined(motion)})
    mrc.write_map(out / "truth.mrc", model_map(model, what.box, what.angpix), what.angpix)
    return Truth(directory, truth, directory / "gain.mrc", out / "truth.mrc")


def _joined(parts: Sequence[_Columns]) -> Table:
    return Table({label: [value for part in parts for value in part[label]] for label in parts[0]})


def _drift_columns(drift: Real) -> dict[str, Real]:
    x, y = drift.T
    return {
        "rlnMicrographFrameNumber": np.arange(1, len(drift) + 1),
        "rlnMicrographShiftX": x,
        "rlnMicrographShiftY": y,
    }


def _shares(what: MovieSet) -> list[int]:
    """How many particles each movie has."""
    return [len(share) for share in np.array_split(np.arange(what.particles), what.movies)]


def _check(what: MovieSet) -> None:
    if min(what.movies, what.frames) < 1 or what.particles < what.movies:
        raise UserError("There must be at least one movie, one frame, and one particle in each movie.")
    if what.size < 128 or what.size % 2 or what.box < 16 or what.box % 2:
        raise UserError("The frames' size and the box must be even, and at least 128 and 16 pixels.")
    if not min(what.angpix, what.dose, what.snr, what.diameter, what.sigma) > 0.0 or not np.isfinite(what.snr):
        raise UserError("The pixel size, dose, diameter, blobs and signal-to-noise ratio must be positive numbers.")
    if min(what.drift, what.local_motion, what.ice) < 0.0:
        raise UserError("Drift, local motion and the ice's contrast cannot be negative.")
    if not 0.0 < what.defocus[0] <= what.defocus[1]:
        raise UserError("The range of defocus must be two positive numbers of A, the smaller first.")
    limit = 0.9 * what.box * what.angpix
    if what.diameter > limit:
        raise UserError(
            f"A particle of {what.diameter:g} A does not fit into the box; its diameter can be at most {limit:g} A."
        )


def _weight(model: PseudoAtoms, what: MovieSet, rng: np.random.Generator) -> float:
    """The factor on the model that gives its contrast the variance that the signal-to-noise ratio asks for."""
    matrices = euler_to_matrix(*_angles(50, rng))
    middle = float(np.mean(what.defocus))
    transforms = project(model, matrices, what.box, what.angpix) * _ctf(what, what.box, np.array([middle, middle, 0.0]))
    circle = soft_mask(what.box, 0.5 * what.diameter / what.angpix, 0.0, 2) > 0.5
    variance = float(real_image(transforms, what.box)[:, circle].var(axis=1).mean())
    return float(np.sqrt(what.snr / _electrons(what) / variance))


def _angles(count: int, rng: np.random.Generator) -> tuple[Real, Real, Real]:
    """Rot, tilt and psi of uniform orientations, degrees."""
    tilt = np.rad2deg(np.arccos(rng.uniform(-1.0, 1.0, count)))
    return rng.uniform(-180.0, 180.0, count), tilt, rng.uniform(-180.0, 180.0, count)


def _ctf(what: MovieSet, size: int, defocus: Real) -> Image:
    """The CTF (size, size // 2 + 1) of an image; defocus (3,): U, V (A) and angle (degrees)."""
    microscope = np.array([[VOLTAGE], [SPHERICAL_ABERRATION], [AMPLITUDE_CONTRAST]])
    params = CtfParams(*defocus[:, None], *microscope)
    return ctf_image(params, size, what.angpix)[0]


def _micrograph(
    model: PseudoAtoms, what: MovieSet, count: int, rng: np.random.Generator
) -> tuple[dict[str, Real], NDArray[np.complexfloating]]:
    """The truth of a movie's particles, by label, and its contrast (half transform) where it is in the first frame."""
    positions = _positions(what, count, rng)
    rot, tilt, psi = _angles(count, rng)
    defocus = float(rng.uniform(*what.defocus))
    half_difference, angle = float(rng.uniform(50.0, 300.0)), float(rng.uniform(0.0, 180.0))
    astigmatic = np.array([defocus + half_difference, defocus - half_difference, angle])
    potential = _potential(model, what, positions, euler_to_matrix(rot, tilt, psi))
    ctf = _ctf(what, what.size, astigmatic)
    contrast = fft.rfft2(potential) * ctf + _ice(what, ctf, rng)
    same = np.ones(count)
    return {
        "rlnCoordinateX": positions[:, 0],
        "rlnCoordinateY": positions[:, 1],
        "rlnAngleRot": rot,
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": psi,
        "rlnDefocusU": astigmatic[0] * same,
        "rlnDefocusV": astigmatic[1] * same,
        "rlnDefocusAngle": angle * same,
    }, contrast


def _ice(what: MovieSet, ctf: Image, rng: np.random.Generator) -> NDArray[np.complexfloating]:
    """The half transform of the ice's contrast: a random potential with a B-factor, times the CTF."""
    size = what.size
    white = fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    frequency = radius_grid(size) / (size * what.angpix)
    transform = white * ctf * np.exp(-_ICE_BFACTOR * frequency**2 / 4.0).astype(np.float32)
    return transform * np.float32(np.sqrt(what.ice / _electrons(what)) / fft.irfft2(transform).std())


def _electrons(what: MovieSet) -> float:
    """Electrons on a pixel in all frames; the counting noise of contrast has the variance 1 over it."""
    return what.dose * what.angpix**2 * what.frames


def _positions(what: MovieSet, count: int, rng: np.random.Generator) -> Real:
    """Places (N, 2) of particles, x and y in pixels, at random and apart from each other and the edges."""
    reach, apart = 0.5 * what.diameter / what.angpix, _APART * what.diameter / what.angpix
    places = np.empty((0, 2))
    for candidate in rng.uniform(reach, max(reach, what.size - 1 - reach), (200 * count, 2)):
        if len(places) == count:
            break
        if np.all(np.hypot(*(places - candidate).T) > apart):
            places = np.vstack([places, candidate])
    if len(places) < count:
        raise UserError(
            f"{count} particles of {what.diameter:g} A do not fit side by side into a frame of {what.size} "
            "pixels; ask for fewer, or for larger frames."
        )
    return places


def _potential(model: PseudoAtoms, what: MovieSet, positions: Real, matrices: Real) -> Image:
    """The projected potential of the particles, float32 (size, size); a box is cut off at the frame's edges."""
    box = what.box
    corner = np.floor(positions).astype(np.int64)
    shift = positions - corner
    transforms = project(model, matrices, box, what.angpix)
    ky, kx = np.meshgrid(frequencies(box), np.arange(box // 2 + 1), indexing="ij")
    transforms *= phase_shift(kx.ravel(), ky.ravel(), shift[:, 0], shift[:, 1], box).reshape(transforms.shape)
    # wide enough that no box sticks out
    canvas = np.zeros((what.size + 2 * box, what.size + 2 * box), np.float32)
    for (x, y), image in zip(corner + box - box // 2, real_image(transforms, box), strict=True):
        canvas[y : y + box, x : x + box] += image
    return canvas[box:-box, box:-box].copy()


def _frames(
    contrast: NDArray[np.complexfloating], what: MovieSet, gain: Image, rng: np.random.Generator
) -> tuple[Real, list[NDArray[np.unsignedinteger]]]:
    """The drift (frames, 2) of a movie with this contrast, and what the detector counts in each frame (size, size).

    Rows are from the bottom, as in MRC files.
    """
    size, electrons = what.size, what.dose * what.angpix**2
    kind: type[np.unsignedinteger] = np.uint8 if electrons < 100 else np.uint16
    drift, local = _motion(what, rng)
    doses = doses_at_300kv(np.arange(what.frames), what.dose, -what.dose / 2, VOLTAGE)
    rate = decay(size, size, what.angpix)
    hot = rng.integers(0, size, (2, _HOT_PIXELS))
    frames: list[NDArray[np.unsignedinteger]] = []
    for number in range(what.frames):
        finer = _upsampled(contrast * weights(rate, doses[number]), size)
        coefficients = local.of_frame(number)
        coefficients[:, 0] += drift[number]
        expected = np.empty((size, size), np.float32)
        _sample_moved(finer, coefficients, expected)
        # particles are dark; a pixel that counts too little is made up for by a gain above 1
        expected = electrons * np.clip(1.0 - expected, 0.05, None) / gain
        expected[hot[0], hot[1]] *= 4.0
        counts: NDArray[np.int64] = rng.poisson(expected)
        frames.append(counts.clip(0, np.iinfo(kind).max).astype(kind))
    return drift, frames


def _motion(what: MovieSet, rng: np.random.Generator) -> tuple[Real, LocalModel]:
    """Drift (frames, 2), and the polynomial of local motion, as RELION's shifts: back to the first frame, pixels."""
    steps = np.exp(-np.arange(what.frames) / 3.0)  # fast when the beam comes on
    steps[0] = 0.0
    way = rng.normal(0.0, 0.15, (what.frames, 2)) + rng.normal(size=2) * [1.0, 1.0]
    way = np.cumsum(steps[:, None] * way, axis=0)
    length = np.hypot(*np.diff(way, axis=0).T).sum() if what.frames > 1 else 0.0
    drift = way * (what.drift / what.angpix / length if length > 0 else 0.0)
    # linear in space, and bent; over time it slows down as t - t^2 / 2T
    coefficients = np.zeros((2, 6, 3))
    space = rng.normal(0.0, what.local_motion / what.angpix, (2, 6)) * [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    last = max(what.frames - 1, 1)
    coefficients[:, :, 0] = 2.0 * space / last
    coefficients[:, :, 1] = -space / last**2
    return drift, LocalModel(coefficients.reshape(2, 18))


def _upsampled(transform: NDArray[np.complexfloating], size: int) -> Image:
    """The image of a half transform (size, size // 2 + 1) on the finer grid."""
    fine = _FINER * size
    wide = np.zeros((fine, fine // 2 + 1), np.complex64)
    half = size // 2
    # Nyquist's row and column have no partners on the finer grid, and are left out
    wide[:half, :half] = transform[:half, :half]
    wide[fine - half + 1 :, :half] = transform[half + 1 :, :half]
    return (fft.irfft2(wide, s=(fine, fine)) * _FINER**2).astype(np.float32)


@njit(cache=True)
def _sample_moved(finer, coefficients, out):  # type: ignore[no-untyped-def]
    """Values at where each pixel came from, by Catmull-Rom interpolation of the finer, periodic image.

    finer float32 (M, M); coefficients float64 (2, 6): shift in x and y is the sum over (1, x, x2, y, y2, xy), x and y
    from -0.5 to 0.5; out float32 (n, n).
    """
    n, m = out.shape[0], finer.shape[0]
    factor = m // n
    weight = np.empty((2, 4), np.float64)
    for i in range(n):
        y = i / n - 0.5
        for j in range(n):
            x = j / n - 0.5
            place = np.empty(2, np.float64)
            for axis in range(2):
                c = coefficients[axis]
                shift = c[0] + c[1] * x + c[2] * x * x + c[3] * y + c[4] * y * y + c[5] * x * y
                place[axis] = factor * ((j if axis == 0 else i) + shift)
            first = np.floor(place)
            for axis in range(2):
                t = place[axis] - first[axis]
                weight[axis, 0] = 0.5 * (-t + 2.0 * t * t - t * t * t)
                weight[axis, 1] = 0.5 * (2.0 - 5.0 * t * t + 3.0 * t * t * t)
                weight[axis, 2] = 0.5 * (t + 4.0 * t * t - 3.0 * t * t * t)
                weight[axis, 3] = 0.5 * (-t * t + t * t * t)
            total = 0.0
            for a in range(4):
                row = (int(first[1]) + a - 1) % m
                for b in range(4):
                    total += weight[1, a] * weight[0, b] * finer[row, (int(first[0]) + b - 1) % m]
            out[i, j] = total


def _write_tiff(path: Path, frames: list[NDArray[np.unsignedinteger]]) -> None:
    """LZW, a page per frame, the last row first: TIFF counts rows from the top (io/movies.py)."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack(frames)[:, ::-1], compression="lzw", photometric="minisblack")
    atomic_write(path, file.getvalue())
