"""Simulated data against RELION 3.1's own projections and reconstruction, and against plain sums."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.image.fourier import frequencies, half_transform, power_spectrum, radius_grid
from relion_py.compute.image.fsc import fsc
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import mrc, star
from relion_py.compute.simulate import Simulation, simulate_particles
from relion_py.compute.simulate_model import build_model, model_map, model_transform, project

needs_relion = pytest.mark.skipif(
    not (shutil.which("relion_project") and shutil.which("relion_reconstruct")),
    reason="RELION's own programs are not installed",
)


def images_of(simulation: Simulation) -> np.ndarray:
    stacks = sorted((simulation.particles.parent / "Particles").glob("*.mrcs"))
    return np.concatenate([mrc.read_stack(path)[0] for path in stacks])


def run_relion(directory: Path, command: str) -> None:
    done = subprocess.run(command.split(), cwd=directory, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_relion
@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_images_are_what_relion_project_makes_of_the_truth(tmp_path: Path, symmetry: str) -> None:
    """Angles, shifts, CTF sign and astigmatism, handedness and scale."""
    simulation = simulate_particles(tmp_path, 12, 64, 3.0, symmetry, seed=3, snr=np.inf, shift=8.0, optics_groups=1)
    ours = images_of(simulation)
    run_relion(tmp_path, "relion_project --i truth.mrc --ang truth.star --o proj --ctf --angpix 3.0")
    theirs, _ = mrc.read_stack(tmp_path / "proj.mrcs")
    for a, b in zip(ours, theirs, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999
        # a mirrored, unshifted or wrongly signed image is nowhere near
        assert np.corrcoef(a[:, ::-1].ravel(), b.ravel())[0, 1] < 0.9
    assert np.vdot(ours, theirs) / np.vdot(ours, ours) == pytest.approx(1.0, abs=0.005)


@needs_relion
def test_relion_reconstructs_the_truth_with_its_hand(tmp_path: Path) -> None:
    simulate_particles(tmp_path, 60, 48, 4.0, "D2", seed=5, snr=np.inf)
    run_relion(tmp_path, "relion_reconstruct --i truth.star --o rec.mrc --ctf --sym D2")
    truth, pixel_size = mrc.read_map(tmp_path / "truth.mrc")
    reconstruction, _ = mrc.read_map(tmp_path / "rec.mrc")
    assert pixel_size == pytest.approx(4.0)
    assert fsc(truth, reconstruction)[:20].min() > 0.97
    assert fsc(truth[:, :, ::-1], reconstruction)[5:20].mean() < 0.5


def test_maps_and_projections_are_sums_over_blobs() -> None:
    model = build_model("C1", 40, 40.0, 2.0, seed=2)
    box, angpix = 24, 2.5
    k = frequencies(box)
    kz, ky, kx = np.meshgrid(k, k, np.arange(box // 2 + 1), indexing="ij")
    wave = np.stack([kx, ky, kz], axis=-1) / (box * angpix)
    expected = np.zeros(kx.shape, dtype=complex)
    for position, weight in zip(model.positions, model.weights, strict=True):
        expected += weight * np.exp(-2j * np.pi * wave @ position)
    expected *= np.exp(-2 * np.pi**2 * model.sigma**2 * (wave**2).sum(axis=-1)) / angpix**3
    expected[radius_grid(box, 3) >= box // 2] = 0
    np.testing.assert_allclose(model_transform(model, box, angpix), expected, atol=1e-9)
    # seen along z a projection is the sum of the voxels; and the map is the density in real space
    volume = model_map(model, box, angpix)
    along_z = project(model, np.eye(3)[None], box, angpix)[0]
    np.testing.assert_allclose(half_transform(volume.sum(axis=0)), along_z, atol=1e-4)
    at = np.array([3.0, -2.0, 1.0]) * angpix
    squared = ((model.positions - at) ** 2).sum(axis=1)
    gaussian = np.exp(-squared / (2 * model.sigma**2)) / (2 * np.pi * model.sigma**2) ** 1.5
    assert volume[13, 10, 15] == pytest.approx((model.weights * gaussian).sum(), abs=0.05 * float(volume.max()))


def test_projection_turns_the_model_by_the_euler_matrix() -> None:
    model = build_model("C1", 40, 40.0, 2.0, seed=2)
    matrix = euler_to_matrix(30.0, 70.0, -40.0)
    turned = type(model)(model.positions @ matrix.T, model.weights, model.sigma)
    np.testing.assert_allclose(
        project(model, matrix[None], 24, 2.5), project(turned, np.eye(3)[None], 24, 2.5), atol=1e-4
    )


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D2", "D7", "O"])
def test_models_are_symmetrical_compact_and_have_a_hand(symmetry: str) -> None:
    model = build_model(symmetry, 400, 120.0, 2.0, seed=1)
    for operator in operators(symmetry):
        turned = model.positions @ operator
        distance = np.linalg.norm(turned[:, None] - model.positions[None], axis=2).min(axis=1)
        assert distance.max() < 1e-6
    assert np.linalg.norm(model.positions, axis=1).max() < 60.0 + 1e-6
    volume = model_map(model, 32, 6.0)
    assert fsc(volume, volume[:, :, ::-1])[6:14].mean() < 0.8
    again = build_model(symmetry, 400, 120.0, 2.0, seed=1)
    np.testing.assert_array_equal(model.positions, again.positions)
    assert np.abs(build_model(symmetry, 400, 120.0, 2.0, seed=2).positions - model.positions).max() > 1.0


def test_files_and_repeatability(tmp_path: Path) -> None:
    first = simulate_particles(tmp_path / "a", 60, 32, 4.0, "C2", seed=9, optics_groups=2, classes=2)
    simulate_particles(tmp_path / "b", 60, 32, 4.0, "C2", seed=9, optics_groups=2, classes=2)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        *("Particles", "mask.mrc", "particles.star", "reference.mrc"),
        *("truth.mrc", "truth.star", "truth_class002.mrc"),
    ]
    for path in sorted((tmp_path / "a").rglob("*.star")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    images = images_of(first)
    assert images.shape == (60, 32, 32)
    tables = star.read(first.particles)
    assert tables["optics"].floats("rlnVoltage").tolist() == [300.0, 200.0]
    assert tables["particles"].strings("rlnImageName")[51] == "000002@Particles/mic0002.mrcs"
    assert "rlnAngleRot" not in tables["particles"]
    assert set(tables["particles"].ints("rlnOpticsGroup")) == {1, 2}
    truth = star.read(first.truth)["particles"]
    np.testing.assert_allclose(truth.floats("rlnOriginXAngst"), first.poses.origin_x, atol=1e-4)
    assert np.bincount(truth.ints("rlnClassNumber")).tolist() == [0, 30, 30]
    whole, lacking = (mrc.read_map(path)[0] for path in first.maps)
    assert lacking.sum() < 0.95 * whole.sum()
    mask, _ = mrc.read_map(first.mask)
    assert mask.min() == 0.0 and mask.max() == 1.0
    assert (mask * whole).sum() / whole.sum() > 0.97


@pytest.mark.parametrize("noise", ["white", "coloured"])
def test_noise_and_signal_to_noise_ratio(tmp_path: Path, noise: str) -> None:
    clean = simulate_particles(tmp_path / "clean", 100, 48, 4.0, seed=4, snr=np.inf)
    noisy = simulate_particles(tmp_path / "noisy", 100, 48, 4.0, seed=4, snr=0.2, noise=noise)
    signal = images_of(clean) * np.sqrt(0.2)
    rest = images_of(noisy) - signal
    assert rest.std() == pytest.approx(1.0, abs=0.01)
    circle = soft_mask(48, noisy.diameter / 8.0, 0.0, 2) > 0.5
    assert signal[:, circle].var(axis=1).mean() == pytest.approx(0.2, rel=1e-3)
    assert abs(np.vdot(rest, signal)) / np.linalg.norm(rest) / np.linalg.norm(signal) < 0.02
    spectrum = np.mean([power_spectrum(image) for image in rest], axis=0)
    slope = spectrum[2:6].mean() / spectrum[18:24].mean()
    assert slope == pytest.approx(1.0, abs=0.1) if noise == "white" else slope > 1.8


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 0}, "at least 1"),
        ({"box": 33}, "even number"),
        ({"angpix": -1.0}, "pixel size"),
        ({"snr": 0.0}, "signal-to-noise"),
        ({"diameter": 1000.0}, "does not fit"),
        ({"noise": "pink"}, "white"),
        ({"defocus": (5.0, 1.0)}, "defocus"),
        ({"symmetry": "Q"}, "point group"),
    ],
)
def test_mistakes_are_sentences(tmp_path: Path, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        simulate_particles(tmp_path / "x", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_program_in_a_project(tmp_path: Path) -> None:
    options = "--o Simulated --n 30 --box 32 --angpix 5 --sym D7 --coloured_noise"
    command = [sys.executable, "-m", "relion_py.compute.cli.simulate"]
    done = subprocess.run([*command, *options.split()], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    table = star.read(tmp_path / "Simulated/particles.star")["particles"]
    name = table.strings("rlnImageName")[0]
    assert (tmp_path / name.split("@")[1]).exists()
    bad = [*command, "--o", "Bad", "--sym", "C3v"]
    done = subprocess.run(bad, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "mirror planes" in done.stderr and "Traceback" not in done.stderr


def test_faults_of_the_optics_are_what_the_formulas_say(tmp_path: Path) -> None:
    """Distortion, CTF, tilt, trefoil and an even aberration of one image, pixel by pixel in float64."""
    matrix = np.array([[1.03, 0.02], [-0.015, 0.98]])
    values = {
        "rlnBeamTiltX": "0.7",
        "rlnBeamTiltY": "-0.4",
        "rlnOddZernike": "[0,0,20,0,0,-30]",
        "rlnEvenZernike": "[0.2,0,0,0,50,0,0,0,0]",
        **{f"rlnMagMat{i}{j}": str(matrix[i, j]) for i in (0, 1) for j in (0, 1)},
    }
    box, angpix = 32, 2.0
    simulated = simulate_particles(tmp_path, 3, box, angpix, snr=np.inf, atoms=60, optics_values=values)
    images = images_of(simulated)
    model, poses, ctf = simulated.models[0], simulated.poses, simulated.ctf
    k = np.fft.fftfreq(box, angpix)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    x, y = np.einsum("ij,jyx->iyx", matrix, np.stack([kx, ky]))
    r2 = x * x + y * y
    wavelength = 12.2643247 / np.sqrt(3e5 * (1 + 3e5 * 0.978466e-6))
    tilt = 20000.0 * np.pi * 2.7 * wavelength**2 * r2 * (0.7 * x - 0.4 * y)
    odd = -tilt + 20.0 * (3 * x * x * y - y**3) - 30.0 * (x**3 - 3 * x * y * y)
    even = 0.2 + 50.0 * 4 * x * y * (x * x - y * y)
    for n in range(3):
        positions = euler_to_matrix(poses.rot[n], poses.tilt[n], poses.psi[n]) @ model.positions.T
        waves = np.exp(-2j * np.pi * (x[..., None] * positions[0] + y[..., None] * positions[1])) @ model.weights
        transform = waves * np.exp(-2 * np.pi**2 * model.sigma**2 * r2) / angpix**3
        u, v, angle = ctf.defocus_u[n], ctf.defocus_v[n], np.deg2rad(ctf.defocus_angle[n])
        local = 0.5 * (u + v + (u - v) * np.cos(2 * (np.arctan2(y, x) - angle)))
        chi = np.pi * wavelength * local * r2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * r2**2 + np.arcsin(0.1)
        transform = transform * np.sin(chi - even) * np.exp(1j * odd)
        transform *= np.exp(2j * np.pi * (kx * poses.origin_x[n] + ky * poses.origin_y[n]))
        transform[np.hypot(kx, ky) * box * angpix >= box // 2] = 0.0
        wanted = np.fft.fftshift(np.fft.ifft2(transform).real)
        np.testing.assert_allclose(images[n], wanted, atol=2e-5 * np.abs(wanted).max())
