"""The program relion_project beside RELION 5's own projections."""

import gzip
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from in_process import outcome
from reference_data import SHARED
from witness_maps import voxels

from relion_py.compute.cli.project import _main
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.simulate import simulate_particles

GOLDEN = SHARED / "golden" / "numeric" / "project"
MAP = SHARED / "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027/run_class001.mrc.gz"
INSIDE = np.hypot(*np.meshgrid(np.fft.fftfreq(100, 0.01), np.fft.fftfreq(100, 0.01))) < 49.0
needs_golden = pytest.mark.skipif(not (GOLDEN.exists() and MAP.exists()), reason="RELION 5's projections are not here")


def project(directory: Path, *arguments: str) -> tuple[int, str]:
    code, _, err = outcome(_main, directory, *arguments)
    return code, err


def unpack(source: Path, target: Path) -> Path:
    target.write_bytes(gzip.decompress(source.read_bytes()))
    return target


@needs_golden
@pytest.mark.parametrize(("flags", "name"), [("", "proj"), ("--ctf", "projctf")])
def test_stack_of_relion_5(tmp_path: Path, flags: str, name: str) -> None:
    unpack(MAP, tmp_path / "map.mrc")
    (tmp_path / "ang.star").write_bytes((GOLDEN / "ang.star").read_bytes())
    code, err = project(
        tmp_path, "--i", "map.mrc", "--ang", "ang.star", "--o", "out", "--angpix", "3.54", *flags.split()
    )
    assert code == 0, err
    expected = voxels(unpack(GOLDEN / f"{name}.mrcs.gz", tmp_path / "golden.mrcs"))
    for ours, theirs in zip(voxels(tmp_path / "out.mrcs"), expected, strict=True):
        # Pixels exactly on the rim, such as (30, 40), come and go with float32 rounding in RELION.
        difference, power = (abs(np.fft.fft2(image)[INSIDE]) ** 2 for image in (ours - theirs, theirs))
        assert np.sqrt(difference.sum() / power[1:].sum()) < 1e-5
        assert np.sqrt(((ours - theirs) ** 2).mean()) < 2e-3 * theirs.std()
    table = star.read(tmp_path / "out.star")["particles"]
    assert table.strings("rlnImageName")[5] == "000006@out.mrcs"
    assert table.floats("rlnAngleTilt")[5] == 133


@needs_golden
def test_one_projection_is_that_of_the_stack(tmp_path: Path) -> None:
    unpack(MAP, tmp_path / "map.mrc")
    expected = voxels(unpack(GOLDEN / "proj.mrcs.gz", tmp_path / "golden.mrcs"))[3]
    code, err = project(tmp_path, "--i", "map.mrc", "--o", "one.mrc", "--psi", "50", "--xoff", "1", "--yoff", "-2")
    assert code == 0, err
    image = voxels(tmp_path / "one.mrc").squeeze()
    assert np.sqrt(((image - expected) ** 2).mean()) < 1e-3 * expected.std()


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """map.mrc and mask.mrc, and particles with poses and CTF, without noise: truth.star."""
    simulate_particles(tmp_path, 30, 32, 4.0, "C1", 5, np.inf)
    for name, source in (("map.mrc", "truth.mrc"), ("soft.mrc", "mask.mrc")):
        (tmp_path / name).write_bytes((tmp_path / source).read_bytes())
    return tmp_path


def test_optics_groups_as_debians_relion(blobs: Path, debian_relion: Callable[[str], str]) -> None:
    """The pixel size is the first optics group's; the CTF has the group's magnification and aberrations."""
    poses = star.read(blobs / "truth.star")
    poses["optics"].set("rlnImagePixelSize", 3.9)
    matrix = {"rlnMagMat00": 1.03, "rlnMagMat01": 0.01, "rlnMagMat10": 0.015, "rlnMagMat11": 0.96}
    for label, value in {**matrix, "rlnEvenZernike": "[0.1,0.2,-0.3,0.4,0.5,0.1,-0.2,0.3,0.1]"}.items():
        poses["optics"].set(label, value)
    star.write(blobs / "ang.star", poses)
    words = ["--i", "map.mrc", "--ang", "ang.star", "--ctf"]
    code, err = project(blobs, *words, "--o", "ours")
    assert code == 0, err
    command = [debian_relion("relion_project"), *words, "--angpix", "3.9", "--o", "theirs"]
    subprocess.run(command, cwd=blobs, check=True, capture_output=True)
    ours, theirs = voxels(blobs / "ours.mrcs"), voxels(blobs / "theirs.mrcs")
    assert np.sqrt(((ours - theirs) ** 2).mean()) < 3e-3 * theirs.std()
    without = [*words, "--angpix", "4", "--o", "other"]
    assert project(blobs, *without)[0] == 0
    assert np.sqrt(((voxels(blobs / "other.mrcs") - theirs) ** 2).mean()) > 3e-2 * theirs.std()


def test_what_is_left_of_experimental_images(blobs: Path, debian_relion: Callable[[str], str]) -> None:
    """As Debian's; and next to nothing, for the images are the map's projections."""
    words = ["--i", "map.mrc", "--ang", "truth.star", "--ctf", "--subtract_exp", "--angpix", "4"]
    code, err = project(blobs, *words, "--o", "ours")
    assert code == 0, err
    command = [debian_relion("relion_project"), *words, "--o", "theirs"]
    subprocess.run(command, cwd=blobs, check=True, capture_output=True)
    ours, theirs = voxels(blobs / "ours.mrcs"), voxels(blobs / "theirs.mrcs")
    signal = voxels(blobs / "Particles" / "mic0001.mrcs").std()
    assert np.sqrt(((ours - theirs) ** 2).mean()) < 3e-3 * signal
    table = star.read(blobs / "ours.star")["particles"]
    assert table.strings("rlnImageOriginalName")[0] == "000001@Particles/mic0001.mrcs"
    assert table.strings("rlnImageName")[0] == "000001@ours.mrcs"
    assert ours.std() < 0.15 * signal


def test_images_of_another_box_are_named(blobs: Path) -> None:
    write_map(blobs / "small.mrc", voxels(blobs / "map.mrc")[4:28, 4:28, 4:28].astype(np.float32), 4.0)
    words = ["--i", "small.mrc", "--ang", "truth.star", "--subtract_exp", "--angpix", "4", "--o", "out"]
    code, err = project(blobs, *words)
    assert code == 1
    assert "The images have 32 pixels and the map 24" in err
    assert not (blobs / "out.mrcs").exists()


def test_mask_as_debians_relion(blobs: Path, debian_relion: Callable[[str], str]) -> None:
    words = ["--i", "map.mrc", "--mask", "soft.mrc", "--rot", "20", "--tilt", "40", "--angpix", "4"]
    assert project(blobs, *words, "--o", "ours.mrc")[0] == 0
    command = [debian_relion("relion_project"), *words, "--o", "theirs.mrc"]
    subprocess.run(command, cwd=blobs, check=True, capture_output=True)
    ours, theirs = voxels(blobs / "ours.mrc").squeeze(), voxels(blobs / "theirs.mrc").squeeze()
    assert np.sqrt(((ours - theirs) ** 2).mean()) < 2e-3 * theirs.std()


@pytest.mark.parametrize("flags", ["--maxres 9", "--zoff 1.25 --pad 1", "--maxres 12 --float16"])
def test_a_turned_map_as_debians_relion(blobs: Path, debian_relion: Callable[[str], str], flags: str) -> None:
    """Half-precision numbers are not known to RELION 3.1.3."""
    words = f"--i truth.mrc --3d_rot --rot 30 --tilt 40 --psi 50 --xoff 3.5 --yoff -2 --angpix 2 {flags}".split()
    code, err = project(blobs, *words, "--o", "ours")
    assert code == 0, err
    command = [debian_relion("relion_project"), *words, "--o", "theirs.mrc"]
    subprocess.run(command, cwd=blobs, check=True, capture_output=True, timeout=60)
    ours, theirs = voxels(blobs / "ours.mrc"), voxels(blobs / "theirs.mrc")
    assert ours.shape == theirs.shape == (32, 32, 32)
    # without --maxres they differ where a frequency lies just on Nyquist's sphere
    assert np.sqrt(((ours - theirs) ** 2).mean()) < (1e-3 if "--maxres" in flags else 0.01) * theirs.std()


def test_origins_of_an_old_list_are_pixels(blobs: Path, debian_relion: Callable[[str], str]) -> None:
    new = star.read(blobs / "truth.star")
    rows = new["particles"]
    old = Table()
    for label in ("AngleRot", "AngleTilt", "AnglePsi", "DefocusU", "DefocusV", "DefocusAngle"):
        old.set(f"rln{label}", rows.floats(f"rln{label}"))
    old.set("rlnImageName", rows.strings("rlnImageName"))
    for axis in "XY":
        old.set(f"rlnOrigin{axis}", rows.floats(f"rlnOrigin{axis}Angst") / 4.0 + 2.0)
    for label in ("Voltage", "SphericalAberration", "AmplitudeContrast"):
        old.set(f"rln{label}", new["optics"].floats(f"rln{label}")[0])
    old.set("rlnDetectorPixelSize", 4.0)
    old.set("rlnMagnification", 10000.0)
    text = star.dumps(StarFile({"": old}))
    (blobs / "old.star").write_text(re.sub("# version .*", "", text))  # as older releases write it
    words = ["--i", "map.mrc", "--ang", "old.star", "--ctf", "--angpix", "4"]
    code, err = project(blobs, *words, "--o", "ours")
    assert code == 0, err
    command = [debian_relion("relion_project"), *words, "--o", "theirs"]
    subprocess.run(command, cwd=blobs, check=True, capture_output=True)
    ours, theirs = voxels(blobs / "ours.mrcs"), voxels(blobs / "theirs.mrcs")
    assert np.sqrt(((ours - theirs) ** 2).mean()) < 2e-3 * theirs.std()
    assert star.read(blobs / "ours.star")["optics"].floats("rlnImagePixelSize").tolist() == [4.0]


def test_random_projections_are_even_and_noise_is_as_strong_as_asked(blobs: Path) -> None:
    words = ["--i", "map.mrc", "--nr_uniform", "400", "--sigma_offset", "6", "--add_noise", "--white_noise", "5"]
    code, err = project(blobs, *words, "--o", "many")
    assert code == 0, err
    found = star.read(blobs / "many.star")
    table = found["particles"]
    cosines = np.cos(np.deg2rad(table.floats("rlnAngleTilt")))
    assert abs(cosines.mean()) < 0.15 and 0.28 < cosines.var() < 0.39  # 0 and 1/3
    assert 5.0 < table.floats("rlnOriginXAngst").std() < 7.0
    assert found["optics"].ints("rlnImageSize").tolist() == [32]
    assert project(blobs, "--i", "map.mrc", "--ang", "many.star", "--angpix", "4", "--o", "clean")[0] == 0
    noise = voxels(blobs / "many.mrcs") - voxels(blobs / "clean.mrcs")
    assert noise.std() == pytest.approx(5.0, rel=0.02)
    neighbours = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_simulated_images_as_debians_relion(blobs: Path, debian_relion: Callable[[str], str]) -> None:
    """At 200 kV, and without Cs and amplitude contrast: RELION takes these for what it adds, whatever the list says."""
    file = star.read(blobs / "truth.star")
    for label, value in (("rlnVoltage", 200.0), ("rlnSphericalAberration", 0.0), ("rlnAmplitudeContrast", 0.0)):
        file["optics"].set(label, value)
    star.write(blobs / "plain.star", file)
    others = file["particles"].copy()
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"):
        others.set(label, others.floats(label)[::-1])
    star.write(blobs / "others.star", StarFile([("", others)]))
    words = ["--i", "map.mrc", "--ang", "plain.star", "--angpix", "4", "--simulate", "--ang_simulate", "others.star"]
    words += ["--adjust_simulation_SNR", "1.5"]
    code, err = project(blobs, *words, "--o", "ours")
    assert code == 0, err
    command = [debian_relion("relion_project"), *words, "--o", "theirs"]
    subprocess.run(command, cwd=blobs, check=True, capture_output=True)
    ours, theirs = voxels(blobs / "ours.mrcs"), voxels(blobs / "theirs.mrcs")
    assert np.sqrt(((ours - theirs) ** 2).mean()) < 3e-3 * theirs.std()
    tables = [star.read(blobs / f"{name}.star")["particles"] for name in ("ours", "theirs")]
    np.testing.assert_allclose(*(table.floats("rlnAngleTilt") for table in tables), atol=1e-4)


def test_simulated_images_show_the_map_as_their_list_says(blobs: Path) -> None:
    """The particles' own projections go, which leaves nothing of these, and those of other poses come."""
    code, err = project(blobs, "--i", "map.mrc", "--ang", "truth.star", "--angpix", "4", "--simulate", "--o", "sim")
    assert code == 0, err
    words = ["--i", "map.mrc", "--ang", "sim.star", "--angpix", "4", "--ctf", "--o", "clean"]
    assert project(blobs, *words)[0] == 0
    simulated, clean = voxels(blobs / "sim.mrcs"), voxels(blobs / "clean.mrcs")
    assert (simulated - clean).std() < 0.2 * clean.std()
    before = star.read(blobs / "truth.star")["particles"].floats("rlnAngleRot")
    after = star.read(blobs / "sim.star")["particles"].floats("rlnAngleRot")
    assert set(np.round(after, 3)) <= set(np.round(before, 3)) and (np.abs(after - before) > 1).mean() > 0.5


def test_noise_of_a_model_has_its_spectrum(blobs: Path) -> None:
    sigma2 = 1e-3 * np.exp(-np.arange(17) / 6.0)
    model = Table({"rlnSpectralIndex": np.arange(17), "rlnSigma2Noise": sigma2})
    star.write(blobs / "model.star", StarFile([("model_optics_group_1", model)]))
    words = ["--i", "map.mrc", "--ang", "truth.star", "--angpix", "4"]
    noisy = [*words, "--add_noise", "--model_noise", "model.star", "--o", "noisy"]
    code, err = project(blobs, *noisy)
    assert code == 0, err
    assert project(blobs, *words, "--o", "clean")[0] == 0
    noise = np.fft.fft2(voxels(blobs / "noisy.mrcs") - voxels(blobs / "clean.mrcs")) / 32**2
    k = np.fft.fftfreq(32, 1 / 32)
    shell = np.rint(np.hypot(k[:, None], k)).astype(int)
    power = np.array([(np.abs(noise[:, shell == n]) ** 2).mean() for n in range(1, 16)])
    np.testing.assert_allclose(power, 2 * sigma2[1:16], rtol=0.25)
    code, err = project(blobs, *words, "--add_noise", "--model_noise", "truth.star", "--o", "none")
    assert code == 1 and "has no noise" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--i", "map.mrc", "--white_noise", "2"], "give one of them"),
        (["--i", "map.mrc", "--simulate"], "needs a list of particles"),
        (["--i", "map.mrc", "--ang", "one.star", "--ang_simulate", "other.star"], "goes with --simulate"),
        (["--i", "map.mrc", "--ctf"], "--ctf needs the defocus"),
        (["--i", "map.mrc", "--3d_rot", "--ang", "one.star"], "leave out --ang"),
        (["--i", "map.mrc", "--zoff", "3"], "--zoff goes with --3d_rot"),
        (["--i", "map.mrc", "--mask", "flat.mrc"], "differ in size"),
        (["--i", "map.mrc", "--nr_uniform", "3", "--ctf"], "neither CTF nor images"),
        (["--i", "map.mrc", "--subtract_exp"], "give a STAR file with --ang"),
        (["--i", "map.mrc", "--nr_uniform", "3", "--simulate"], "neither CTF nor images"),
        (["--i", "flat.mrc"], "is not a cube"),
        (["--i", "map.mrc", "--ang", "empty.star"], "has no table with"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    for name, shape in (("map.mrc", (16, 16, 16)), ("flat.mrc", (4, 16, 16))):
        with mrcfile.new(tmp_path / name) as file:
            file.set_data(np.ones(shape, np.float32))
            file.voxel_size = 1.0
    (tmp_path / "one.star").write_text("data_\n\nloop_\n_rlnAngleRot #1\n_rlnAngleTilt #2\n_rlnAnglePsi #3\n1 2 3\n")
    (tmp_path / "empty.star").write_text("data_\n\nloop_\n_rlnDefocusU #1\n1\n")
    code, err = project(tmp_path, *arguments, "--o", "out")
    assert code == 1
    assert sentence in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("out*"))
