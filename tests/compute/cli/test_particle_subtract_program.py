"""relion_particle_subtract beside Debian's, and on particles of two parts of which one is subtracted."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from in_process import outcome

from relion_py.compute.cli import particle_subtract
from relion_py.compute.image.ctf import ctf_image
from relion_py.compute.image.fourier import frequencies, phase_shift, real_image
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_image, read_map, write_map, write_stack
from relion_py.compute.simulate import simulate_particles
from relion_py.compute.simulate_model import model_map
from relion_py.compute.simulate_model import project as project_atoms

BOX, PIXEL, N = 40, 4.5, 60
SIMULATED = (N, BOX, PIXEL, "C1", 3, 2.0)
OPTIMISER = "ref/run_it001_optimiser.star"
KEEP = ("--i", OPTIMISER, "--mask", "half.mrc")
MPIRUN = Path(sys.executable).parent / "mpirun"


program = partial(outcome, particle_subtract._main)


def images(directory: Path, names: list[str]) -> np.ndarray:
    with contextlib.chdir(directory):
        return np.stack([read_image(name)[0] for name in names])


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a classification into two by Debian's RELION, with known poses, and a mask of half the map."""
    refine = Path("/usr/bin/relion_refine")
    if not refine.is_file():
        pytest.skip("Debian's relion_refine is not installed")
    project = tmp_path_factory.mktemp("subtract")
    simulate_particles(project, *SIMULATED, optics_groups=2)
    command = (
        "--i truth.star --o ref/run --ref reference.mrc --iter 1 --K 2 --tau2_fudge 4 --ctf --particle_diameter 120 "
        "--flatten_solvent --zero_mask --norm --scale --oversampling 0 --skip_align --sym C1 --ini_high 30 --pool 30 "
        "--dont_combine_weights_via_disc --random_seed 1"
    )
    (project / "ref").mkdir()
    subprocess.run([refine, *command.split()], cwd=project, check=True, capture_output=True)
    mask, pixel = read_map(project / "mask.mrc")
    along_x = 1.0 / (1.0 + np.exp(-(np.arange(BOX) - BOX // 2.0)))
    write_map(project / "half.mrc", (mask * along_x).astype(np.float32), pixel)
    return project


@pytest.fixture
def project(refined: Path, tmp_path: Path) -> Path:
    """A copy of the project, to write into."""
    shutil.copytree(refined, tmp_path / "p")
    return tmp_path / "p"


def with_aberrations(project: Path) -> None:
    """aberrated.star: the particles of the classification as if their microscope had all the faults it can have."""
    data = star.read(project / "ref" / "run_it001_data.star")
    faults = {
        "rlnBeamTiltX": [1.5, -0.7],
        "rlnBeamTiltY": [-2.0, 0.3],
        "rlnOddZernike": ["[0.1,0.2,-0.1,0.3,0.05,0.1]"] * 2,
        "rlnEvenZernike": ["[0.1,0.2,-0.1,0.3,0.05,0.1,0.2,0.1,-0.2]"] * 2,
        "rlnMagMat00": [1.03, 1.0],
        "rlnMagMat01": [0.01, 0.0],
        "rlnMagMat10": [-0.03, 0.0],
        "rlnMagMat11": [0.98, 1.0],
    }
    for label, values in faults.items():
        data["optics"].set(label, values)
    data["particles"].set("rlnSphericalAberration", np.linspace(1.0, 90.0, N))  # which counts more than the group's
    star.write(project / "aberrated.star", data)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--recenter_on_mask",
        "--center_x 3 --center_y -4 --center_z 5 --new_box 31",
        "--data aberrated.star --ignore_class",
    ],
)
def test_as_debians_relion(project: Path, debian_relion: Callable[[str], str], words: str) -> None:
    with_aberrations(project)
    command = [debian_relion("relion_particle_subtract"), *KEEP, "--o", "theirs/", *words.split()]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    code, _, err = program(project, *KEEP, "--o", "ours/", *words.split())
    assert code == 0, err
    ours, theirs = (star.read(project / name / "particles_subtracted.star") for name in ("ours", "theirs"))
    a, b = ours["particles"], theirs["particles"]
    assert sorted(a.labels) == sorted(b.labels)
    assert a.strings("rlnImageOriginalName") == b.strings("rlnImageOriginalName")
    assert [name.replace("theirs", "ours") for name in b.strings("rlnImageName")] == a.strings("rlnImageName")
    for label in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnAngleRot", "rlnClassNumber"):
        np.testing.assert_allclose(a.floats(label), b.floats(label), atol=2e-5)
    assert ours["optics"].strings("rlnImageSize") == theirs["optics"].strings("rlnImageSize")
    left, wanted = images(project, a.strings("rlnImageName")), images(project, b.strings("rlnImageName"))
    before = images(project, a.strings("rlnImageOriginalName"))
    # where the magnification is not that of the map, frequencies at its limit count or not
    assert np.abs(left - wanted).max() < (0.03 if "data" in words else 1e-3)
    assert (left - wanted).std() < 1.5e-3 < 0.1 * wanted.std()
    assert words or np.abs(before - wanted).std() > 0.2


def test_images_of_two_detectors_as_debians_relion(project: Path, debian_relion: Callable[[str], str]) -> None:
    """What is subtracted is as soft or sharp as the detector of each optics group."""
    data = star.read(project / "ref" / "run_it001_data.star")
    for name, slope in (("soft", 0.9), ("sharp", 0.1)):
        rows = "".join(f"{n / 500:.4f} {1 - slope * n / 500:.6f}\n" for n in range(501))
        head = "data_mtf\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n"
        (project / f"{name}.star").write_text(head + rows)
    data["optics"].set("rlnMtfFileName", ["soft.star", "sharp.star"])
    data["optics"].set("rlnMicrographOriginalPixelSize", data["optics"].strings("rlnImagePixelSize"))
    star.write(project / "detectors.star", data)
    words = [*KEEP, "--data", "detectors.star"]
    subprocess.run([debian_relion("relion_particle_subtract"), *words, "--o", "theirs/"], cwd=project, check=True,
                   capture_output=True)  # fmt: skip
    for given, name in ((words, "ours/"), (KEEP, "alike/")):
        code, _, err = program(project, *given, "--o", name)
        assert code == 0, err
    tables = (star.read(project / name / "particles_subtracted.star") for name in ("ours", "theirs", "alike"))
    left, wanted, alike = (images(project, table["particles"].strings("rlnImageName")) for table in tables)
    assert (left - wanted).std() < 1e-3
    assert (alike - wanted).std() > 9e-3


def test_spectral_snr_as_debians_relion(project: Path, debian_relion: Callable[[str], str]) -> None:
    command = [debian_relion("relion_particle_subtract"), *KEEP, "--o", "theirs/", "--ssnr"]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    assert program(project, *KEEP, "--o", "ours", "--ssnr")[0] == 0
    ours, theirs = (star.read(project / name / "spectral_snr.star")[""] for name in ("ours", "theirs"))
    assert ours.labels == theirs.labels
    assert ours.floats("rlnSignalToNoiseRatio").max() > 1.0
    for label in ours.labels:
        np.testing.assert_allclose(ours.floats(label), theirs.floats(label), rtol=1e-4, atol=1e-9)


def test_revert_names_the_original_images_and_their_box(project: Path) -> None:
    assert program(project, *KEEP, "--o", "Subtract/job004/", "--new_box", "32", "--float16")[0] == 0
    subtracted = star.read(project / "Subtract/job004/particles_subtracted.star")
    assert subtracted["optics"].ints("rlnImageSize").tolist() == [32, 32]
    images(project, subtracted["particles"].strings("rlnImageName"))
    code, out, err = program(project, "--revert", "Subtract/job004/particles_subtracted.star", "--o", "back/")
    assert code == 0, err
    assert f"was updated to {BOX} px" in out
    original = star.read(project / "back" / "original.star")
    given = star.read(project / "ref" / "run_it001_data.star")["particles"]
    assert original["optics"].ints("rlnImageSize").tolist() == [BOX, BOX]
    assert sorted(original["particles"].strings("rlnImageName")) == sorted(given.strings("rlnImageName"))
    assert original["particles"].strings("rlnImageOriginalName") == subtracted["particles"].strings("rlnImageName")


@pytest.mark.skipif(not MPIRUN.is_file(), reason="the mpich wheel is not installed")
def test_ranks_share_the_particles(project: Path) -> None:
    """Images and table of two ranks are those of one, but for the stacks' names."""
    command = [MPIRUN, "-n", "2", sys.executable, "-m", "relion_py.compute.cli.particle_subtract"]
    done = subprocess.run(
        [*command, *KEEP, "--o", "two/"], cwd=project, capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert program(project, *KEEP, "--o", "one/")[0] == 0
    one, two = (star.read(project / name / "particles_subtracted.star")["particles"] for name in ("one", "two"))
    names = two.strings("rlnImageName")
    assert names[0] == "000001@two/Particles/subtracted_rank1_opticsgroup1.mrcs"
    assert names[-1].endswith("@two/Particles/subtracted_rank2_opticsgroup2.mrcs")
    np.testing.assert_array_equal(images(project, names), images(project, one.strings("rlnImageName")))
    assert one.strings("rlnImageOriginalName") == two.strings("rlnImageOriginalName")


def test_what_is_left_is_the_part_that_was_kept(project: Path) -> None:
    """Particles of A + B without noise: less B they are A's projections, made atom by atom, and the other way round."""
    made = simulate_particles(project / "again", *SIMULATED, optics_groups=2)
    (model,) = made.models
    right = model.positions[:, 0] > 0
    truth = {}
    for name, lacking in (("a", ~right), ("b", right)):
        transforms = project_atoms(model.without(lacking), made.poses.matrices(), BOX, PIXEL)
        transforms = transforms * ctf_image(made.ctf, BOX, PIXEL)
        kx, ky = np.meshgrid(np.arange(BOX // 2 + 1), frequencies(BOX))
        dx, dy = -made.poses.origin_x / PIXEL, -made.poses.origin_y / PIXEL
        transforms *= phase_shift(kx.ravel(), ky.ravel(), dx, dy, BOX).reshape(transforms.shape)
        truth[name] = real_image(transforms, BOX)
    rows = star.read(project / "truth.star")["particles"].strings("rlnImageName")
    for stack in sorted({name.partition("@")[2] for name in rows}):
        mine = [i for i, name in enumerate(rows) if name.endswith("@" + stack)]
        write_stack(project / stack, (truth["a"] + truth["b"])[mine].astype(np.float32), PIXEL)
    _know_the_map(project, model_map(model, BOX, PIXEL))

    keep = 1.0 / (1.0 + np.exp(-4.0 * (np.arange(BOX) - BOX // 2.0))) * np.ones((BOX, BOX, BOX))
    for name, other, mask in (("a", "b", keep), ("b", "a", 1.0 - keep)):
        write_map(project / f"{name}.mrc", mask.astype(np.float32), PIXEL)
        code, _, err = program(project, "--i", OPTIMISER, "--mask", f"{name}.mrc", "--o", f"{name}/")
        assert code == 0, err
        table = star.read(project / name / "particles_subtracted.star")["particles"]
        order = [rows.index(original) for original in table.strings("rlnImageOriginalName")]
        left = images(project, table.strings("rlnImageName"))
        fit = np.linalg.lstsq(
            np.stack([truth[part][order].ravel() for part in (name, other)], axis=1), left.ravel(), rcond=None
        )[0]
        assert fit[0] == pytest.approx(1.0, abs=0.05) and fit[1] == pytest.approx(0.0, abs=0.05)
        assert np.corrcoef(truth[name][order].ravel(), left.ravel())[0, 1] > 0.97


def _know_the_map(project: Path, volume: np.ndarray) -> None:
    """Give the classification the true map, to Nyquist, and neither norm nor scale corrections."""
    path = project / "ref" / "run_it001_model.star"
    model = star.read(path)
    for name in model["model_classes"].strings("rlnReferenceImage"):
        write_map(project / name, volume.astype(np.float32), PIXEL)
    model["model_general"].set("rlnCurrentImageSize", [BOX])
    star.write(path, model)
    optimiser = star.read(project / OPTIMISER)
    for label in ("rlnDoCorrectNorm", "rlnDoCorrectScale"):
        optimiser["optimiser_general"].set(label, ["0"])
    star.write(project / OPTIMISER, optimiser)


def test_mistakes_are_told(project: Path) -> None:
    write_map(project / "twice.mrc", np.full((BOX,) * 3, 2.0, np.float32), PIXEL)
    write_map(project / "small.mrc", np.ones((20,) * 3, np.float32), PIXEL)
    data = star.read(project / "ref" / "run_it001_data.star")
    data["particles"].set("rlnClassNumber", [7] * N)
    star.write(project / "class7.star", data)
    for words, part in (
        ((), "either --i, to subtract, or --revert"),
        ((*KEEP, "--revert", "x.star"), "either --i, to subtract, or --revert"),
        (("--i", OPTIMISER, "--mask", "twice.mrc"), "between 0 and 1"),
        (("--i", OPTIMISER, "--mask", "small.mrc"), "20 x 20 x 20"),
        (("--i", OPTIMISER, "--recenter_on_mask"), "needs a mask"),
        ((*KEEP, "--center_x", "3"), "three coordinates"),
        ((*KEEP, "--data", "class7.star"), "--ignore_class"),
        (("--revert", "ref/run_it001_data.star"), "rlnImageOriginalName"),
        (("--i", "class7.star", "--mask", "half.mrc"), "class7.star was given where the program takes an _optimiser"),
    ):
        code, _, err = program(project, *words, "--o", "x/")
        assert code == 1 and part in err, err
        assert not (project / "x" / "particles_subtracted.star").exists()
