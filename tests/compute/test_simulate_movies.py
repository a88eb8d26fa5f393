"""Simulated movies against plain sums over the true map, and against what motion correction finds in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import fft, ndimage

from relion_py.compute.cli.program import run
from relion_py.compute.cli.simulate import _simulate
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.io import mrc, star
from relion_py.compute.io.star import Table
from relion_py.compute.simulate_movies import MovieSet, Truth, simulate_movies

STILL = MovieSet(
    movies=1, particles=4, size=320, frames=2, angpix=2.5, dose=20.0, snr=20.0, ice=0.0, drift=0.0, local_motion=0.0,
    diameter=120.0, atoms=200, sigma=2.5, box=64, seed=3,
)  # fmt: skip
"""So much contrast that noise is of little importance, and nothing moves."""


def frames_of(truth: Truth, name: str = "mic001.tiff") -> np.ndarray:
    """Frames times gain, rows in RELION's order: the first row of a TIFF is the top one."""
    raw = tifffile.imread(truth.movies / name)[:, ::-1].astype(np.float64)
    return raw * mrc.read_image(truth.gain)[0]


def column(table: Table, label: str) -> np.ndarray:
    return np.array(table.floats(label))


def projection(volume: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The sum of the map along the line of sight of a pose, by plain interpolation in real space."""
    to_array = np.eye(3)[::-1]  # (x, y, z) <-> (z, y, x)
    inverse = to_array @ matrix.T @ to_array
    centre = np.full(3, len(volume) // 2)
    turned = ndimage.affine_transform(volume.astype(np.float64), inverse, centre - inverse @ centre, order=3)
    return turned.sum(axis=0)


def test_particles_lie_and_look_as_the_truth_says(tmp_path: Path) -> None:
    """Position, pose, CTF, contrast (dark particles), rows of the files, gain."""
    truth = simulate_movies(tmp_path, STILL)
    frames = frames_of(truth)
    electrons = STILL.dose * STILL.angpix**2
    assert np.median(frames) == pytest.approx(electrons, rel=0.01)
    raw = tifffile.imread(truth.movies / "mic001.tiff")[:, ::-1].sum(axis=0)
    assert np.std(raw / np.median(raw)) > 0.03 and np.corrcoef(raw.ravel(), frames.sum(axis=0).ravel())[0, 1] < 0.9
    contrast = 1.0 - frames.mean(axis=0) / electrons
    volume, angpix = mrc.read_map(truth.volume)
    assert angpix == pytest.approx(2.5)
    table = star.read(truth.truth)["particles"]
    matrices = euler_to_matrix(*(column(table, f"rlnAngle{axis}") for axis in ("Rot", "Tilt", "Psi")))
    u, v, angle = (column(table, f"rlnDefocus{axis}")[0] for axis in ("U", "V", "Angle"))
    whole = np.zeros(contrast.shape, complex)
    for x, y, matrix in zip(column(table, "rlnCoordinateX"), column(table, "rlnCoordinateY"), matrices, strict=True):
        wide = np.zeros(contrast.shape)
        wide[128:192, 128:192] = projection(volume, matrix)  # its origin at 160, 160
        whole += ndimage.fourier_shift(np.fft.fft2(wide), (y - 160, x - 160))
    expected = fft.ifft2(whole).real
    ctf = ctf_image(CtfParams(u, v, angle, 300.0, 2.7, 0.1), 320, 2.5)[0]
    expected = fft.irfft2(fft.rfft2(expected) * ctf * damage(320, 2.5, (10.0, 30.0)))
    smooth = [ndimage.gaussian_filter(ndimage.median_filter(image, 3), 1.0) for image in (contrast, expected)]
    assert np.corrcoef(smooth[0].ravel(), smooth[1].ravel())[0, 1] > 0.95
    # contrast counts, not only shape
    assert np.sum(smooth[0] * smooth[1]) / np.sum(smooth[1] ** 2) == pytest.approx(1.0, abs=0.1)


def damage(size: int, angpix: float, doses: tuple[float, ...]) -> np.ndarray:
    """What is left of the amplitudes (Grant & Grigorieff 2015), the mean over frames with these doses at 300 kV."""
    k = np.hypot(fft.fftfreq(size, angpix)[:, None], fft.rfftfreq(size, angpix)[None])
    k[0, 0] = 1e-6
    critical = 0.245 * k**-1.665 + 2.81
    return np.mean([np.exp(-dose / (2.0 * critical)) for dose in doses], axis=0)


def test_motion_damage_and_counting_noise(tmp_path: Path) -> None:
    what = MovieSet(
        movies=2, particles=9, size=384, frames=6, angpix=2.0, dose=4.0, ice=1.0, drift=20.0, local_motion=0.0,
        diameter=120.0, atoms=200, box=96, symmetry="C2", seed=5,
    )  # fmt: skip
    truth = simulate_movies(tmp_path / "data", what, project_root=tmp_path)
    tables = star.read(truth.truth)
    names = tables["particles"].strings("rlnMicrographMovieName")
    assert [names.count(f"data/Movies/mic00{n}.tiff") for n in (1, 2)] == [5, 4]
    electrons = what.dose * what.angpix**2
    frames = frames_of(truth)
    # the difference of two frames is counting noise, for the contrast is small; of a few hot pixels it is more
    assert np.percentile(abs(frames[5] - frames[4]), 68.27) ** 2 == pytest.approx(2 * electrons, rel=0.15)
    motion = tables["motion"]
    here = np.array(motion.strings("rlnMicrographMovieName")) == "data/Movies/mic001.tiff"
    shifts = np.stack([column(motion, f"rlnMicrographShift{axis}")[here] for axis in "XY"], axis=1)
    assert np.all(shifts[0] == 0.0)
    assert np.hypot(*np.diff(shifts, axis=0).T).sum() * what.angpix == pytest.approx(20.0)
    # a frame that is moved back by its shift is most like the first one
    first = fft.rfft2(frames[0])
    smooth = ndimage.fourier_gaussian(np.ones((384, 193)), 2.0, n=384)
    for frame, (x, y) in list(zip(frames, shifts, strict=True))[1:4]:
        peak = fft.irfft2(first * fft.rfft2(frame).conj() * smooth)
        row, col = np.unravel_index(np.argmax(peak), peak.shape)
        found = [(value + 192) % 384 - 192 for value in (col, row)]
        assert found == pytest.approx([x, y], abs=2.0)


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    what = MovieSet(movies=1, particles=1, size=128, frames=2, diameter=100.0, box=64, atoms=60)
    first, second = (simulate_movies(tmp_path / name, what) for name in ("a", "b"))
    assert (first.movies / "mic001.tiff").read_bytes() == (second.movies / "mic001.tiff").read_bytes()
    assert first.truth.read_bytes() == second.truth.read_bytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"particles": 60}, "do not fit side by side"),
        ({"diameter": 300.0}, "can be at most"),
        ({"movies": 0}, "at least one movie"),
        ({"dose": 0.0}, "must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        simulate_movies(tmp_path, MovieSet(**{**vars(STILL), **changes}))


def test_the_program_refuses_what_belongs_to_the_other_kind(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(_simulate, ["--o", str(tmp_path), "--movies", "1", "--classes", "2"]) == 1
    assert "--classes has a meaning for images of particles" in capsys.readouterr().err
    assert run(_simulate, ["--o", str(tmp_path), "--dose", "2"]) == 1
    assert "--dose has a meaning for movies; add --movies" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
