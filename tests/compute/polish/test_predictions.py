"""Predicted images against exact projections of the same model: poses, halves, CTF, aberrations, scale."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.image.fourier import radius_grid, real_image
from relion_py.compute.io import mrc, star
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.polish.predictions import HalfMaps, read_half_maps
from relion_py.compute.simulate_model import build_model, model_map, project

BOX, PIXEL, N = 48, 2.0, 6
MODELS = [build_model("C1", 200, 60.0, 2.5, seed) for seed in (1, 2)]


def particle_table(box: int = BOX, pixel: float = PIXEL, **optics: object) -> ParticleTable:
    rng = np.random.default_rng(4)
    table = Table()
    for name, values in (
        ("Rot", rng.uniform(-180, 180, N)),
        ("Tilt", rng.uniform(0, 180, N)),
        ("Psi", np.arange(N) * 40),
    ):
        table.set(f"rlnAngle{name}", values)
    for axis in "XY":
        table.set(f"rlnOrigin{axis}Angst", rng.uniform(-6, 6, N))
    table.set("rlnDefocusU", np.linspace(8000, 12000, N))
    table.set("rlnDefocusV", np.linspace(7500, 11800, N))
    table.set("rlnDefocusAngle", np.linspace(0, 90, N))
    table.set("rlnRandomSubset", [1, 2] * (N // 2))
    table.set("rlnImageName", [f"{n}@x.mrcs" for n in range(1, N + 1)])
    table.set("rlnOpticsGroup", [1] * N)
    group = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [pixel], "rlnImageSize": [box],
        **{label: [value] for label, value in optics.items()},
    }  # fmt: skip
    return ParticleTable(StarFile([("optics", Table(group)), ("particles", table)]))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> HalfMaps:
    root = tmp_path_factory.mktemp("maps")
    for half, model in enumerate(MODELS, 1):
        mrc.write_map(root / f"half{half}.mrc", model_map(model, BOX, PIXEL), PIXEL)
    shells = np.arange(BOX // 2 + 1)
    fsc = Table({"rlnSpectralIndex": shells, "rlnFourierShellCorrelationCorrected": 1.0 - shells / 20})
    star.write(root / "post.star", StarFile([("fsc", fsc)]))
    return read_half_maps(str(root / "post.star"), str(root / "half1.mrc"), str(root / "half2.mrc"))


def expected_images(table: ParticleTable, halves: np.ndarray) -> np.ndarray:
    """CTF-affected exact projections (N, BOX, BOX), moved by minus the origins."""
    matrices = euler_to_matrix(*(table.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")))
    ctf = CtfParams(*(table.floats(f"rlnDefocus{x}") for x in ("U", "V", "Angle")), voltage=300.0, cs=2.7, q0=0.1)
    out = np.concatenate(
        [project(MODELS[half - 1], matrix[None], BOX, PIXEL) for half, matrix in zip(halves, matrices, strict=True)]
    )
    out = out * ctf_image(ctf, BOX, PIXEL)
    k = np.fft.fftfreq(BOX)
    for n in range(N):
        x, y = (-table.floats(f"rlnOrigin{axis}Angst")[n] / PIXEL for axis in "XY")
        out[n] *= np.exp(-2j * np.pi * (k[:, None] * y + np.arange(BOX // 2 + 1) / BOX * x))
    return real_image(out, BOX)


def as_images(predicted: np.ndarray) -> np.ndarray:
    return np.fft.irfft2(predicted, (predicted.shape[1],) * 2) * predicted.shape[1] ** 2


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("opposite", [False, True])
def test_predictions_are_projections_of_the_right_half(maps, opposite):
    table = particle_table()
    subset = table.ints("rlnRandomSubset")
    images = as_images(maps.views(table).predict(np.arange(N), opposite))
    right = expected_images(table, 3 - subset if opposite else subset)
    wrong = expected_images(table, subset if opposite else 3 - subset)
    for image, good, bad in zip(images, right, wrong, strict=True):
        assert correlation(image, good) > 0.995
        assert correlation(image, bad) < 0.9
    assert np.std(images) == pytest.approx(np.std(right), rel=0.03)


def test_a_smaller_box_of_larger_pixels_sees_the_same(maps):
    """32 px of 3 A are the same field of view: the low frequencies are equal."""
    whole = maps.views(particle_table()).predict(np.arange(N))
    small = maps.views(particle_table(32, 3.0)).predict(np.arange(N))
    inside = radius_grid(32) < 15
    sign = np.where((np.indices((32, 17)).sum(axis=0)) % 2, -1, 1)  # half a box is 24 pixels or 16
    rows = np.r_[0:17, 33:48]
    other = whole[:, rows][:, :, :17] * np.where(np.indices((48, 25)).sum(axis=0)[rows][:, :17] % 2, -1, 1)
    np.testing.assert_allclose((small * sign)[:, inside], other[:, inside], atol=2e-3 * np.abs(other).max())


def test_beam_tilt_turns_phases_the_way_refinement_undoes(maps):
    from relion_py.compute.image.aberrations import Aberrations

    tilt = {"rlnBeamTiltX": 12.0, "rlnBeamTiltY": -7.0}
    plain = maps.views(particle_table()).predict(np.arange(N))
    tilted = maps.views(particle_table(**tilt)).predict(np.arange(N))
    found = Aberrations.of_group({label: str(value) for label, value in tilt.items()}, 300.0, 2.7)
    ky, kx = np.meshgrid(np.r_[0:25, -23:0], np.arange(25), indexing="ij")
    undo = found.phase_factors(kx.ravel().astype(np.int32), ky.ravel().astype(np.int32), BOX, PIXEL)
    assert undo is not None
    assert np.abs(tilted - plain).max() > 0.01 * np.abs(plain).max()
    np.testing.assert_allclose(tilted * undo.reshape(48, 25), plain, atol=1e-4 * np.abs(plain).max())


def test_the_last_shell_is_where_the_fsc_falls_below_its_threshold(maps):
    assert maps.k_out == 18  # 1 - 18 / 20 is the first value below 0.143
    assert maps.angstrom(12) == pytest.approx(8.0)


def test_what_is_missing_is_told(tmp_path):
    star.write(tmp_path / "post.star", StarFile([("fsc", Table({"rlnSpectralIndex": [0, 1]}))]))
    with pytest.raises(UserError, match="does not name the half maps"):
        read_half_maps(str(tmp_path / "post.star"))
    for half in (1, 2):
        mrc.write_map(tmp_path / f"h{half}.mrc", np.zeros((8, 8, 8)), PIXEL)
    with pytest.raises(UserError, match="no corrected FSC"):
        read_half_maps(*(str(tmp_path / name) for name in ("post.star", "h1.mrc", "h2.mrc")))
