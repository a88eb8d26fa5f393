"""A tiny project with known truth for polishing: movies of particles that each move on their own, and are damaged.

The particles of a micrograph move together and apart, smoothly in place and time; what motion correction could at
best have found, the polynomial closest to the true tracks, is written as its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.image.fourier import frequencies, phase_shift, radius_grid, real_image
from relion_py.compute.io import mrc, star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.motion.model import MovieMotion, fit, write_motion
from relion_py.compute.simulate_model import PseudoAtoms, build_model, model_map, project

PIXEL, SIZE, BOX, FRAMES, DOSE = 2.0, 320, 48, 8, 3.0
K_OUT = 19
NOISE = 0.2  # standard deviation of what is left of it in the average of all frames
HOT, DEAD = (200, 101), (57, 160)  # x, y
BFACTORS = 30.0 * np.arange(FRAMES) + 80.0 * (np.arange(FRAMES) == 0)
SCALES = 1.0 - 0.06 * np.arange(FRAMES)
CTF = {"voltage": 300.0, "cs": 2.7, "q0": 0.1}
_WIDE = 2 * BOX  # particles are drawn in a wider box than they are cut in


@dataclass
class Project:
    """Where it is, and the truth: of each micrograph tracks (P, F, 2) and those of motion correction, pixels;
    noise-free images (P, BOX, BOX) as extracted from the first frame."""

    root: Path
    tracks: list[np.ndarray]
    polynomial: list[np.ndarray]
    images: list[np.ndarray]

    @property
    def arguments(self) -> list[str]:
        """Of the program, but for the output directory."""
        return ["--i", "particles.star", "--f", "post.star", "--corr_mic", "MotionCorr/job002/corrected.star"]


def true_tracks(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tracks (P, F, 2), pixels, 0 in the first frame: fast at first, correlated over a third of the field."""
    distance = np.linalg.norm(places[:, None] - places, axis=2)
    root = np.linalg.cholesky(np.exp(-distance / 100.0) + 1e-9 * np.eye(len(places)))
    noise = root @ rng.standard_normal((FRAMES - 1, len(places), 2))
    steps = [noise[0]]
    for more in noise[1:]:
        steps.append(0.8 * steps[-1] + 0.6 * more)
    speed = 0.35 + 0.9 * np.exp(-np.arange(FRAMES - 1) / 1.5)
    moved = np.cumsum(speed[:, None, None] * np.array(steps), axis=0)
    return np.concatenate([np.zeros((len(places), 1, 2)), moved.transpose(1, 0, 2)], axis=1)


def make_project(
    root: Path, micrographs: int = 2, across: int = 5, *, size: int = SIZE, bad_pixels: bool = True, seed: int = 3
) -> Project:
    """Write movies, their motion, refined particles, half maps and a post-processing result below `root`.

    across: particles in a row and in a column, 60 pixels apart. size: of the frames, pixels.
    """
    rng = np.random.default_rng(seed)
    model = build_model("C1", 300, 56.0, 1.8, seed)
    model = model.scaled(0.30 / _deviation(model))
    truth = Project(root, [], [], [])
    (root / "Movies").mkdir(parents=True)
    (root / "MotionCorr/job002/Movies").mkdir(parents=True)
    gain = rng.uniform(0.9, 1.1, (size, size)).astype(np.float32)
    if bad_pixels:
        gain[DEAD[1], DEAD[0]] = 0.0
    mrc.write_map(root / "Movies/gain.mrc", gain, PIXEL)
    tables = []
    for number in range(1, micrographs + 1):
        tables.append(_micrograph(truth, number, across, model, gain, rng))
    _lists(root, tables)
    density = model_map(model, BOX, PIXEL)
    for half in (1, 2):
        error = 0.02 * density.std() * rng.standard_normal(density.shape)
        mrc.write_map(root / f"half{half}.mrc", (density + error).astype(np.float32), PIXEL)
    mrc.write_map(root / "mask.mrc", np.ones_like(density), PIXEL)
    general = Table(loop=False)
    for label, name in (("Half1", "half1.mrc"), ("Half2", "half2.mrc")):
        general.set(f"rlnUnfilteredMap{label}", name)
    general.set("rlnMaskName", "mask.mrc")
    shells = np.arange(BOX // 2 + 1)
    fsc = Table({"rlnSpectralIndex": shells, "rlnFourierShellCorrelationCorrected": (shells < K_OUT) * 0.99})
    star.write(root / "post.star", StarFile([("general", general), ("fsc", fsc)]))
    return truth


def _deviation(model: PseudoAtoms) -> float:
    images = real_image(project(model, np.eye(3)[None], BOX, PIXEL), BOX)
    return float(images.std())


def _micrograph(
    truth: Project, number: int, across: int, model: PseudoAtoms, gain: np.ndarray, rng: np.random.Generator
) -> Table:
    name = f"Movies/mic{number}.mrcs"
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(across)), axis=-1).reshape(-1, 2)
    size = len(gain)
    margin = (size - 60.0 * (across - 1)) / 2
    places = margin + 60.0 * grid + rng.uniform(-4, 4, grid.shape)
    tracks = true_tracks(places, rng)
    angles = rng.uniform(-180, 180, len(places)), rng.uniform(20, 160, len(places)), rng.uniform(-180, 180, len(places))
    defocus = rng.uniform(7000, 10000, len(places))
    ctf = CtfParams(defocus, defocus, 0.0, **CTF)
    seen = project(model, euler_to_matrix(*angles), _WIDE, PIXEL) * ctf_image(ctf, _WIDE, PIXEL)
    truth.images.append(_images(seen, places, np.zeros(2), BOX))
    k = radius_grid(_WIDE) / (_WIDE * PIXEL)
    frames = []
    for f in range(FRAMES):
        frame = NOISE * np.sqrt(FRAMES) * rng.standard_normal((size + _WIDE, size + _WIDE))
        damaged = seen * (SCALES[f] * np.exp(-BFACTORS[f] / 4 * k**2)).astype(np.float32)
        for (x, y), image in zip(places, _images(damaged, places, tracks[:, f], _WIDE), strict=True):
            frame[int(y) : int(y) + _WIDE, int(x) : int(x) + _WIDE] += image
        frames.append(100.0 - frame[_WIDE // 2 : -_WIDE // 2, _WIDE // 2 : -_WIDE // 2])
    raw = np.divide(frames, gain, out=np.full((FRAMES, size, size), 1e4), where=gain != 0)
    bad_pixels = not gain.all()
    if bad_pixels:
        raw[:, HOT[1], HOT[0]] = 1e4
    mrc.write_stack(truth.root / name, raw.astype(np.float32), PIXEL)
    truth.tracks.append(tracks)
    truth.polynomial.append(_write_motion(truth.root, number, places, tracks, size, bad_pixels))
    table = Table()
    for axis, column, part in (("X", 0, places[:, 0] % 1), ("Y", 1, places[:, 1] % 1)):
        table.set(f"rlnCoordinate{axis}", places[:, column])
        table.set(f"rlnOrigin{axis}Angst", -part * PIXEL)
    for label, values in zip(("Rot", "Tilt", "Psi"), angles, strict=True):
        table.set(f"rlnAngle{label}", values)
    table.set("rlnDefocusU", defocus)
    table.set("rlnDefocusV", defocus)
    table.set("rlnDefocusAngle", np.zeros(len(places)))
    table.set("rlnMicrographName", [f"MotionCorr/job002/Movies/mic{number}.mrc"] * len(places))
    table.set("rlnImageName", [f"{n:06d}@Extract/job003/mic{number}.mrcs" for n in range(1, len(places) + 1)])
    table.set("rlnRandomSubset", 1 + np.arange(len(places)) % 2)
    table.set("rlnOpticsGroup", [1] * len(places))
    return table


def _images(transforms: np.ndarray, places: np.ndarray, moved: np.ndarray, box: int) -> np.ndarray:
    """Images whose centre is the whole pixel of `places`, cut to `box`."""
    ky, kx = np.meshgrid(frequencies(_WIDE), np.arange(_WIDE // 2 + 1), indexing="ij")
    x, y = (places % 1 + moved).T
    shifted = transforms * phase_shift(kx.ravel(), ky.ravel(), x, y, _WIDE).reshape(transforms.shape)
    side = (_WIDE - box) // 2
    return real_image(shifted, _WIDE)[:, side : side + box, side : side + box]


def _write_motion(
    root: Path, number: int, places: np.ndarray, tracks: np.ndarray, size: int, bad_pixels: bool
) -> np.ndarray:
    """The closest polynomial to the truth as motion correction's result; its tracks (P, F, 2), pixels."""
    shifts = -tracks
    whole = shifts.mean(axis=0)
    frame = np.tile(np.arange(FRAMES), len(places)).astype(float)
    x, y = (np.repeat(places[:, axis] / size - 0.5, FRAMES) for axis in (0, 1))
    model = fit(frame, x, y, (shifts - whole).reshape(-1, 2).T)
    motion = MovieMotion(f"Movies/mic{number}.mrcs", size, size, whole, pixel_size=PIXEL, dose_per_frame=DOSE)
    motion.pre_exposure, motion.voltage, motion.gain, motion.model = 0.0, 300.0, "Movies/gain.mrc", model
    motion.hot_pixels = np.array([HOT] if bad_pixels else []).reshape(-1, 2).astype(int)
    write_motion(str(root / f"MotionCorr/job002/Movies/mic{number}.star"), motion)
    return -(whole + model.shifts(frame, x, y).T.reshape(len(places), FRAMES, 2))


def _lists(root: Path, tables: list[Table]) -> None:
    numbers = range(1, len(tables) + 1)
    micrographs = Table(
        {
            "rlnMicrographName": [f"MotionCorr/job002/Movies/mic{n}.mrc" for n in numbers],
            "rlnMicrographMetadata": [f"MotionCorr/job002/Movies/mic{n}.star" for n in numbers],
            "rlnOpticsGroup": [1 for _ in numbers],
        }
    )
    optics = Table(
        {
            "rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": [1], "rlnMicrographOriginalPixelSize": [PIXEL],
            "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
            "rlnMicrographPixelSize": [PIXEL],
        }
    )  # fmt: skip
    star.write(root / "MotionCorr/job002/corrected.star", StarFile([("optics", optics), ("micrographs", micrographs)]))
    images = optics.copy()
    images.remove("rlnMicrographPixelSize")
    images.set("rlnImagePixelSize", [PIXEL])
    images.set("rlnImageSize", [BOX])
    images.set("rlnImageDimensionality", [2])
    images.set("rlnCtfDataAreCtfPremultiplied", [0])
    rows = {label: [v for t in tables for v in t.strings(label)] for label in tables[0].labels}
    star.write(root / "particles.star", StarFile([("optics", images), ("particles", Table(rows))]))
