"""The program relion_reconstruct, run as people run it, beside the installed RELION and RELION 5's map."""

import gzip
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from in_process import outcome
from installed_relion import installed_relion
from reference_data import SHARED
from witness_maps import read

from relion_py.compute.cli.reconstruct import _main
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_stack
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.reconstruct import reconstruct as divide
from relion_py.compute.simulate import simulate_particles

HEAD = """data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
one 1 300 2.7 0.1 2.0 32 2

data_particles

loop_
_rlnAngleRot #1
_rlnAngleTilt #2
_rlnAnglePsi #3
_rlnOriginXAngst #4
_rlnOriginYAngst #5
_rlnDefocusU #6
_rlnDefocusV #7
_rlnDefocusAngle #8
_rlnRandomSubset #9
_rlnClassNumber #10
_rlnParticleFigureOfMerit #11
_rlnOpticsGroup #12
_rlnImageName #13
"""


RELION = installed_relion("relion_reconstruct")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def reconstruct(directory: Path, *arguments: str) -> Done:
    """The program, in this process to spare its start; `test_map_of_relion_5` starts a real one."""
    return Done(*outcome(_main, directory, *arguments))


@pytest.fixture
def particles(tmp_path: Path) -> Path:
    """50 smooth random images with random poses and CTFs: nothing about them is symmetrical."""
    rng = np.random.default_rng(1)
    # Without power near Nyquist: pixels exactly on the rim come and go with rounding.
    k = np.fft.fftfreq(32, 1 / 32)
    smooth = np.exp(-(k[:, None] ** 2 + k**2) / 4.0**2)
    images = np.fft.ifft2(np.fft.fft2(rng.standard_normal((50, 32, 32))) * smooth).real
    with mrcfile.new(tmp_path / "stack.mrcs") as file:
        file.set_data(images.astype(np.float32))
        file.set_image_stack()
        file.voxel_size = 2.0
    rows = []
    for n in range(50):
        rot, tilt, psi = rng.uniform(-180, 180, 3)
        x, y = rng.uniform(-6, 6, 2)
        defocus = rng.uniform(8000, 20000)
        rows.append(
            f"{rot:.4f} {tilt:.4f} {psi:.4f} {x:.4f} {y:.4f} {defocus:.2f} {defocus - 500:.2f} 30.0 "
            f"{n % 2 + 1} {n % 3 + 1} {0.2 + 0.01 * n:.3f} 1 {n + 1}@stack.mrcs\n"
        )
    (tmp_path / "in.star").write_text(HEAD + "".join(rows))
    fsc = "data_fsc\n\nloop_\n_rlnSpectralIndex #1\n_rlnGoldStandardFsc #2\n"
    (tmp_path / "fsc.star").write_text(fsc + "".join(f"{i} {max(0.99 - 0.06 * i, 0.0):.3f}\n" for i in range(17)))
    return tmp_path


@pytest.mark.skipif(not RELION, reason="RELION is not installed")
@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--nr_helical_asu 4 --helical_rise 7.3 --helical_twist -33 --sym C2",
        "--ctf",
        "--ctf --ctf_phase_flipped",
        "--ctf --only_flip_phases",
        "--ctf --ctf_intact_first_peak --fom_weighting",
        "--ctf --sym D3 --maxres 5.1",
        "--subset 2 --class 1",
        "--ctf --fsc fsc.star",
        "--pad 1 --angpix 2.5",
        "--refdim 2 --ctf",
        "--ctf --newbox 24",
        "--ewald --mask_diameter 40 --skip_mask",
        "--ewald --mask_diameter 40 --skip_mask --skip_weighting --reverse_curvature --newbox 28",
    ],
)
def test_same_map_as_the_installed_relion(particles: Path, flags: str) -> None:
    ours = reconstruct(particles, "--i", "in.star", "--o", "ours.mrc", *flags.split())
    assert ours.returncode == 0, ours.stderr
    command = [RELION, "--i", "in.star", "--o", "theirs.mrc", "--skip_gridding", *flags.split()]
    theirs = subprocess.run(command, cwd=particles, capture_output=True, text=True, timeout=120)
    assert theirs.returncode == 0, theirs.stderr
    (volume, pixel), (expected, expected_pixel) = (
        read(particles / "ours.mrc"),
        read(particles / "theirs.mrc"),
    )
    assert pixel == pytest.approx(expected_pixel)
    assert volume.shape == expected.shape
    assert np.sqrt(((volume - expected) ** 2).mean()) < 2e-3 * expected.std()


@pytest.mark.skipif(not RELION, reason="RELION is not installed")
@pytest.mark.parametrize(
    "flags", ["", "--ctf2", "--ctf2 --sym D3", "--maxres 6.5 --ctf_intact_first_peak", "--angpix 2.4"]
)
def test_same_volume_of_ctfs_as_the_installed_relion(particles: Path, flags: str) -> None:
    """Within the rim, where pixels come and go with float32 rounding; at the origin RELION loses some."""
    words = ["--i", "in.star", "--reconstruct_ctf", "24", *flags.split()]
    ours = reconstruct(particles, *words, "--o", "ours.mrc")
    assert ours.returncode == 0, ours.stderr
    subprocess.run([RELION, *words, "--o", "theirs.mrc"], cwd=particles, check=True, capture_output=True, timeout=120)
    (volume, pixel), (expected, expected_pixel) = (
        read(particles / "ours.mrc"),
        read(particles / "theirs.mrc"),
    )
    assert pixel == pytest.approx(expected_pixel)
    assert volume.shape == expected.shape == (24, 24, 24)
    radius = np.sqrt(sum(axis**2 for axis in np.ogrid[-12:12, -12:12, -12:12]))
    inside = (radius > 0) & (radius < (6 if "--maxres" in flags else 10))
    np.testing.assert_allclose(volume[inside], expected[inside], atol=1e-3)
    assert expected[inside].std() > 0.02
    if "--maxres" in flags:
        assert not volume[radius > 11].any() and not expected[radius > 11].any()


# RELION 5.0.1's maps of the same particles: release 3.1.3 stops where the images are masked
LINE_OF_MAP = [-0.00566375, -0.00569733, -0.00100249, -0.01065634, -0.02574532, -0.01537580]  # [16, 16, 10:22:2]
OTHER_LINE = [0.00220022, -0.00224315, -0.00952057, -0.00224315, 0.00220022, 0.00204229]  # [14, 10:22:2, 14]


def test_curvature_of_the_ewald_sphere_as_relion_5(particles: Path) -> None:
    done = reconstruct(particles, "--i", "in.star", "--o", "one.mrc", "--ewald", "--mask_diameter", "40")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(read(particles / "one.mrc")[0][16, 16, 10:22:2], LINE_OF_MAP, atol=7e-6)  # 0.001 std
    flags = "--ewald --mask_diameter 36 --sectors 4 --reverse_curvature --width_mask_edge 5 --newbox 28 --sym C2"
    done = reconstruct(particles, "--i", "in.star", "--o", "two.mrc", *flags.split())
    assert done.returncode == 0, done.stderr
    volume = read(particles / "two.mrc")[0]
    assert volume.shape == (28, 28, 28)
    np.testing.assert_allclose(volume[14, 10:22:2, 14], OTHER_LINE, atol=4e-6)


@pytest.fixture
def white_noise(particles: Path) -> Path:
    """The same particles with images that have power at all frequencies, those of the corners too."""
    images = np.random.default_rng(2).normal(size=(50, 32, 32))
    write_stack(particles / "stack.mrcs", images.astype(np.float32), 2.0)
    return particles


@pytest.mark.skipif(not RELION, reason="RELION is not installed")
@pytest.mark.parametrize(
    ("flags", "magnification"),
    [
        ("--angpix 1.9996", None),
        ("--ctf --angpix 2.0004", None),
        ("--ctf --angpix 1.3 --maxres 4.3", None),
        ("--ctf --angpix 2.9", None),
        ("--ctf", (1.03, 0.01, 0.015, 0.96)),
        ("--ctf --maxres 5.3", (1.03, 0.01, 0.015, 0.96)),
    ],
)
def test_noise_as_the_installed_relion(white_noise: Path, flags: str, magnification: tuple[float, ...] | None) -> None:
    """Where no pixel lies exactly on the rim: RELION takes or leaves those as rounding has it."""
    if magnification:
        table = star.read(white_noise / "in.star")
        for name, value in zip(("00", "01", "10", "11"), magnification, strict=True):
            table["optics"].set(f"rlnMagMat{name}", value)
        star.write(white_noise / "in.star", table)
    ours = reconstruct(white_noise, "--i", "in.star", "--o", "ours.mrc", *flags.split())
    assert ours.returncode == 0, ours.stderr
    command = [RELION, "--i", "in.star", "--o", "theirs.mrc", "--skip_gridding", *flags.split()]
    subprocess.run(command, cwd=white_noise, capture_output=True, check=True, timeout=120)
    volume, expected = read(white_noise / "ours.mrc")[0], read(white_noise / "theirs.mrc")[0]
    assert np.sqrt(((volume - expected) ** 2).mean()) < 1e-4 * expected.std()


def write_mtf(path: Path, slope: float) -> None:
    rows = "".join(f"{n / 500:.4f} {1 - slope * n / 500:.6f}\n" for n in range(501))
    path.write_text("data_mtf\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n" + rows)


def of_two_detectors(directory: Path) -> None:
    """Every other particle of in.star goes to another optics group, of a detector with another MTF."""
    table = star.read(directory / "in.star")
    optics, particles = table["optics"], table["particles"]
    rows = {label: optics.strings(label) * 2 for label in optics.labels}
    rows |= {"rlnOpticsGroup": ["1", "2"], "rlnOpticsGroupName": ["one", "two"]}
    rows |= {"rlnMtfFileName": ["soft.star", "sharp.star"], "rlnMicrographOriginalPixelSize": ["1.0", "1.9"]}
    particles.set("rlnOpticsGroup", [n % 2 + 1 for n in range(len(particles))])
    star.write(directory / "in.star", star.StarFile([("optics", star.Table(rows)), ("particles", particles)]))
    write_mtf(directory / "soft.star", 0.2)
    write_mtf(directory / "sharp.star", 0.8)


@pytest.mark.skipif(not RELION, reason="RELION is not installed")
def test_images_of_two_detectors_are_weighed_as_the_installed_relion(particles: Path) -> None:
    alike = reconstruct(particles, "--i", "in.star", "--o", "alike.mrc", "--ctf")
    assert alike.returncode == 0, alike.stderr
    of_two_detectors(particles)
    ours = reconstruct(particles, "--i", "in.star", "--o", "ours.mrc", "--ctf")
    assert ours.returncode == 0, ours.stderr
    command = [RELION, "--i", "in.star", "--o", "theirs.mrc", "--skip_gridding", "--ctf"]
    subprocess.run(command, cwd=particles, capture_output=True, check=True, timeout=120)
    volume, expected = read(particles / "ours.mrc")[0], read(particles / "theirs.mrc")[0]
    assert np.sqrt(((volume - expected) ** 2).mean()) < 2e-3 * expected.std()
    assert np.sqrt(((volume - read(particles / "alike.mrc")[0]) ** 2).mean()) > 0.02 * expected.std()


@pytest.mark.skipif(not RELION, reason="RELION is not installed")
def test_what_projections_of_a_map_leave_as_the_installed_relion(particles: Path) -> None:
    assert reconstruct(particles, "--i", "in.star", "--o", "known.mrc", "--subset", "1").returncode == 0
    words = ["--i", "in.star", "--subtract", "known.mrc", "--subset", "2"]
    assert reconstruct(particles, *words, "--o", "ours.mrc").returncode == 0
    command = [RELION, *words, "--skip_gridding", "--o", "theirs.mrc"]
    subprocess.run(command, cwd=particles, check=True, capture_output=True)
    ours, theirs, whole = (read(particles / f"{name}.mrc")[0] for name in ("ours", "theirs", "known"))
    assert np.sqrt(((ours - theirs) ** 2).mean()) < 0.01 * theirs.std()
    assert np.corrcoef(ours.ravel(), whole.ravel())[0, 1] < -0.2  # subtracted, not added


def test_nothing_is_left_of_images_less_their_own_map(tmp_path: Path) -> None:
    """Also with a CTF, for which the reference program does not correct then."""
    made = simulate_particles(tmp_path, 300, 32, 4.0, snr=float("inf"), seed=3)
    words = ["--i", "truth.star", "--ctf", "--maxres", "9"]
    assert reconstruct(tmp_path, *words, "--o", "whole.mrc").returncode == 0
    assert reconstruct(tmp_path, *words, "--subtract", made.maps[0].name, "--o", "rest.mrc").returncode == 0
    inside = read(made.mask)[0] > 0.5
    whole, rest = (read(tmp_path / f"{name}.mrc")[0][inside] for name in ("whole", "rest"))
    assert rest.std() < 0.1 * whole.std()


def test_every_pixel_up_to_the_rim_counts(white_noise: Path) -> None:
    """Against slices that are added in double precision, pixel by pixel, those at Nyquist's frequency among them."""
    assert reconstruct(white_noise, "--i", "in.star", "--o", "ours.mrc").returncode == 0
    box, half = 32, 16
    table = star.read(white_noise / "in.star")["particles"]
    with mrcfile.open(white_noise / "stack.mrcs") as file:
        images = file.data.astype(np.float64)
    matrices = euler_to_matrix(*(table.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")))
    shifts = np.stack([table.floats(f"rlnOrigin{axis}Angst") / 2.0 for axis in "XY"])
    y, x = (grid.ravel() for grid in np.mgrid[1 - half : half + 1, 0 : half + 1])
    inside = (x**2 + y**2 <= half**2) & ((x > 0) | (y >= 0))
    x, y = x[inside], y[inside]
    sums = BackProjector(box)
    grid, centre = np.zeros(sums.grid.shape), np.array([0, *(n // 2 for n in sums.grid.shape[1::-1])])
    for image, matrix, shift in zip(images, matrices.astype(np.float64), shifts.T, strict=True):
        values = np.fft.rfft2(np.fft.ifftshift(image))[y, x] / box**2
        values = values * np.exp(-2j * np.pi * (x * shift[0] + y * shift[1]) / box) * ((x != 0) | (y != 0))
        places = 2.0 * (np.stack([x, y], axis=1) @ matrix[:2])
        mirrored = places[:, 0] < 0
        places[mirrored] *= -1
        values = np.where(mirrored, values.conj(), values)
        corner = np.floor(places).astype(int)
        beyond = places - corner
        for step in np.ndindex(2, 2, 2):
            share = np.prod(np.where(np.array(step), beyond, 1 - beyond), axis=1)
            at = tuple((corner + step + centre).T[::-1])
            for part, value in enumerate((values.real, values.imag, np.ones(len(x)))):
                np.add.at(grid[..., part], at, share * value)
    sums.grid[...] = grid
    sums.symmetrise()
    expected = divide(sums)
    volume = read(white_noise / "ours.mrc")[0]
    assert np.sqrt(((volume - expected) ** 2).mean()) < 1e-4 * expected.std()


def test_gridding_and_random_errors_change_the_map(particles: Path) -> None:
    maps = {}
    for flags in (
        "",
        "--dont_skip_gridding --iter 2",
        "--dont_skip_gridding",
        "--angular_error 20",
        "--shift_error 4",
    ):
        done = reconstruct(particles, "--i", "in.star", "--o", "out.mrc", "--verb", "0", *flags.split())
        assert done.returncode == 0, done.stderr
        assert not done.stdout
        maps[flags] = read(particles / "out.mrc")[0]
    for flags, volume in maps.items():
        if flags:
            assert np.abs(volume - maps[""]).max() > 0.01 * maps[""].std()


def test_stacks_may_have_moved(particles: Path) -> None:
    (particles / "elsewhere").mkdir()
    shutil.move(particles / "stack.mrcs", particles / "elsewhere" / "stack.mrcs")
    lost = reconstruct(particles, "--i", "in.star", "--o", "out.mrc")
    assert lost.returncode == 1
    assert "stack.mrcs" in lost.stderr
    assert "Traceback" not in lost.stderr
    found = reconstruct(particles, "--i", "in.star", "--o", "out.mrc", "--img", "elsewhere")
    assert found.returncode == 0, found.stderr
    assert read(particles / "out.mrc")[0].std() > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--i", "in.star", "--ewald"], "--ewald needs --mask_diameter"),
        (["--i", "in.star", "--ewald", "--mask_diameter", "40", "--sectors", "1"], "--sectors must be at least 2"),
        (["--i", "in.star", "--newbox", "23"], "--newbox must be even"),
        (["--i", "in.star", "--ctf2"], "--ctf2 goes with --reconstruct_ctf"),
        (["--i", "in.star", "--reconstruct_ctf", "23"], "--reconstruct_ctf must be even"),
        (["--i", "in.star", "--reconstruct_ctf", "24", "--fsc", "fsc.star"], "leave out --fsc"),
        (["--i", "in.star", "--nr_helical_asu", "0"], "--nr_helical_asu must be at least 1"),
        (["--i", "in.star", "--class", "9"], "No particle"),
        (["--i", "in.star", "--pad", "0"], "--pad must lie"),
        (["--i", "in.star", "--refdim", "4"], "--refdim must be"),
        (["--i", "in.star", "--sym", "Q7"], "point group"),
        (["--i", "in.star", "--fsc", "in.star"], "has no FSC"),
        (["--i", "in.star", "--subtract", "none.map"], "none.map"),
        (["--i", "in.star", "--subtract", "in.star", "--refdim", "2"], "--subtract is for plain maps"),
        (["--i", "none.star"], "none.star"),
        (["--i", "rlnAngleRot.star"], 'row 3 of _rlnAngleRot is "nan", not a number'),
        (["--i", "rlnOriginXAngst.star"], 'row 3 of _rlnOriginXAngst is "nan", not a number'),
        (["--i", "rlnDefocusU.star", "--ctf"], 'row 3 of _rlnDefocusU is "nan", not a number'),
        (["--o", "out.mrc"], "--i must be given"),
    ],
)
def test_mistakes_are_one_sentence(particles: Path, arguments: list[str], sentence: str) -> None:
    (particles / "job").mkdir()
    for label in ("rlnAngleRot", "rlnOriginXAngst", "rlnDefocusU"):
        wrong = star.read(particles / "in.star")
        values = wrong["particles"].floats(label)
        values[2] = np.nan
        wrong["particles"].set(label, values)
        star.write(particles / f"{label}.star", wrong)
    done = reconstruct(particles, *arguments, "--pipeline_control", "job/")
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert (particles / "job" / "RELION_JOB_EXIT_FAILURE").exists()
    assert not list(particles.glob("*.mrc"))


def test_map_of_relion_5(tmp_path: Path) -> None:
    root = SHARED / "data/real/bgal-10204-relion5-project"
    golden = SHARED / "golden/numeric/reconstruct/rec_d2.mrc.gz"
    if not (root.exists() and golden.exists()):
        pytest.skip("RELION 5's reconstruction is not here")
    out, star = tmp_path / "out.mrc", "derived/particles_with_tutorial_poses.star"
    command = [sys.executable, "-m", "relion_py.compute.cli.reconstruct", "--i", star, "--ctf", "--sym", "D2"]
    done = subprocess.run([*command, "--o", str(out)], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (tmp_path / "golden.mrc").write_bytes(gzip.decompress(golden.read_bytes()))
    (volume, pixel), (expected, expected_pixel) = read(out), read(tmp_path / "golden.mrc")
    assert pixel == pytest.approx(expected_pixel)
    assert np.sqrt(((volume - expected) ** 2).mean()) < 0.01 * expected.std()
