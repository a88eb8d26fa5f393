"""relion_preprocess as a program: beside RELION 3.1.3, bad inputs, continuing, ranks."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import exit_status

from relion_py.compute.cli import preprocess
from relion_py.compute.cli.options.preprocess import REFUSED
from relion_py.compute.io import star
from relion_py.compute.io.consistency import check_particles
from relion_py.compute.io.labels import type_of
from relion_py.compute.io.mrc import read_header, read_stack, write_map
from relion_py.compute.io.particles import read_particles
from relion_py.compute.io.star import StarFile, Table

MPIRUN = Path(sys.executable).parent / "mpirun"
NAMES = [f"MotionCorr/job002/Movies/{name}.mrc" for name in "abc"]
SIZE = (220, 260)  # rows, columns
NORM = "--norm --bg_radius 12 --white_dust -1 --black_dust -1 --invert_contrast"
JOB = f"--coord_list Pick/list.star --extract_size 64 --scale 32 {NORM}"


def write_project() -> None:
    """Three micrographs with slopes, in two optics groups, and coordinates of 15 particles on each."""
    random = np.random.default_rng(11)
    os.makedirs("Pick/Movies")
    os.makedirs("MotionCorr/job002/Movies")
    y, x = np.indices(SIZE)
    picks = []
    for number, name in enumerate(NAMES):
        image = 300 + 0.2 * x - 0.1 * (number + 1) * y + 5 * random.standard_normal(SIZE)
        write_map(name, image.astype(np.float32), 1.5)
        picks.append(f"Pick/Movies/{Path(name).stem}_pick.star")
        columns = {
            "rlnCoordinateX": random.uniform(-6, SIZE[1] + 6, 15),
            "rlnCoordinateY": random.uniform(-6, SIZE[0] + 6, 15),
            "rlnAutopickFigureOfMerit": np.linspace(-1, 1, 15),
        }
        star.write(picks[-1], StarFile([("", Table(columns))]))
    optics = Table(
        {
            "rlnOpticsGroupName": ["one", "two"],
            "rlnOpticsGroup": [1, 2],
            "rlnMicrographOriginalPixelSize": [1.5, 1.5],
            "rlnVoltage": [300.0, 300.0],
            "rlnSphericalAberration": [2.7, 2.7],
            "rlnAmplitudeContrast": [0.1, 0.1],
            "rlnMicrographPixelSize": [1.5, 1.5],
        }
    )
    micrographs = Table(
        {
            "rlnMicrographName": NAMES,
            "rlnOpticsGroup": [1, 2, 1],
            "rlnCtfImage": ["a.ctf:mrc", "b.ctf:mrc", "c.ctf:mrc"],
            "rlnDefocusU": [15000.0, 16000.5, 17000.0],
            "rlnDefocusV": [14800.0, 15900.0, 16500.0],
            "rlnCtfAstigmatism": [200.0, 100.5, 500.0],
            "rlnDefocusAngle": [10.0, -20.0, 30.0],
            "rlnCtfFigureOfMerit": [0.1, 0.2, 0.3],
            "rlnCtfMaxResolution": [4.0, 5.0, 6.0],
        }
    )
    star.write("mics.star", StarFile([("optics", optics), ("micrographs", micrographs)]))
    listed = Table({"rlnMicrographName": NAMES, "rlnMicrographCoordinates": picks})
    star.write("Pick/list.star", StarFile([("coordinate_files", listed)]))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_project()
    return tmp_path


def words(options: str, job: str = "Extract/job003/") -> list[str]:
    return ["--i", "mics.star", "--part_star", f"{job}particles.star", "--part_dir", job, "--extract", *options.split()]


def run(options: str = JOB, job: str = "Extract/job003/") -> int:
    """The exit status of the program in this process."""
    os.makedirs(job, exist_ok=True)
    return exit_status(preprocess.main, *words(options, job), "--pipeline_control", job)


def particles(job: str = "Extract/job003/") -> Table:
    return star.read(f"{job}particles.star")["particles"]


def failed(job: str = "Extract/job003/") -> dict[str, str]:
    table = star.read(f"{job}failed_micrographs.star")["failed"]
    return dict(zip(table.strings("rlnMicrographName"), table.strings("relionpyFailure"), strict=True))


def reference(program: str, options: str, job: str) -> None:
    """Run RELION 3.1.3, which knows no --coord_list and joins the directory and the path."""
    os.makedirs(job, exist_ok=True)
    subprocess.run([program, *words(options, job)], check=True, capture_output=True, timeout=60)


def assert_same(ours: str, theirs: str, exact: float) -> None:
    """Stacks agree to `exact` of the images' deviation, lists in every column and value."""
    for name in "abc":
        first, pixel = read_stack(f"{ours}Movies/{name}.mrcs")
        second, their_pixel = read_stack(f"{theirs}Movies/{name}.mrcs")
        assert first.shape == second.shape
        assert pixel == pytest.approx(their_pixel)
        difference = np.sqrt(np.mean((first - second).astype(np.float64) ** 2))
        assert difference <= exact * second.std()
    one, two = star.read(f"{ours}particles.star"), star.read(f"{theirs}particles.star")
    assert one["particles"].labels == two["particles"].labels
    for label in two["particles"].labels:
        wanted = [text.replace(theirs, ours) for text in two["particles"].strings(label)]
        if type_of(label) == "double":  # the last digit that is written may be rounded otherwise
            numbers = np.array(wanted, dtype=np.float64)
            assert np.allclose(one["particles"].floats(label), numbers, rtol=1e-6, atol=1.1e-5), label
        else:
            assert one["particles"].strings(label) == wanted, label
    for label in two["optics"].labels:
        assert one["optics"].strings(label) == two["optics"].strings(label), label


@pytest.mark.parametrize(
    "options",
    [
        "--extract_size 64",
        f"--extract_size 64 --scale 32 {NORM}",
        f"--extract_size 64 --scale 96 {NORM}",
        "--extract_size 50 --window 40 --norm --bg_radius 15 --no_ramp --extract_bias_x 3 --extract_bias_y -2",
    ],
)
def test_images_and_lists_are_those_of_the_reference(
    project: Path, debian_relion: Callable[[str], str], options: str
) -> None:
    where = "--coord_dir Pick/ --coord_suffix _pick.star"
    reference(debian_relion("relion_preprocess"), f"{where} {options}", "Theirs/")
    assert run(f"{where} {options}", "Ours/") == 0
    assert len(particles("Ours/")) == 45
    assert_same("Ours/", "Theirs/", 1e-6)


def refined_particles(project: Path) -> None:
    """particles.star of a first extraction, with angles and offsets as after a refinement."""
    assert run() == 0
    file = star.read("Extract/job003/particles.star")
    random = np.random.default_rng(3)
    table = file["particles"]
    for label, reach in (("Rot", 180.0), ("Tilt", 180.0), ("Psi", 180.0)):
        table.set(f"rlnAngle{label}", random.uniform(0, reach, len(table)))
    for label in ("rlnOriginXAngst", "rlnOriginYAngst"):
        table.set(label, random.uniform(-6, 6, len(table)))
    table.set("rlnDefocusU", table.floats("rlnDefocusU") + 55)
    table.set("rlnSphericalAberration", np.linspace(1.0, 90.0, len(table)))  # which counts more than the group's
    star.write("run_data.star", file)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--reset_offsets",
        "--recenter",
        "--recenter --recenter_x 2 --recenter_y -3 --recenter_z 4",
        "--recenter --recenter_z -7 --ref_angpix 2.2",
        "--keep_ctfs_micrographs",
        "--premultiply_ctf",
    ],
)
def test_refined_particles_are_extracted_again_like_the_reference(
    project: Path, debian_relion: Callable[[str], str], options: str
) -> None:
    refined_particles(project)
    options = f"--reextract_data_star run_data.star --extract_size 48 --scale 40 {NORM} {options}"
    reference(debian_relion("relion_preprocess"), options, "Theirs/")
    assert run(f"{options} --pick_star Ours/extractpick.star", "Ours/") == 0
    assert_same("Ours/", "Theirs/", 1e-4 if "premultiply" in options else 1e-6)
    listed = star.read("Ours/extractpick.star")["coordinate_files"]
    assert star.read("Ours/reextract.star") == star.read("Ours/extractpick.star"), "the job promises both"
    assert listed.strings("rlnMicrographName") == NAMES
    assert all(os.path.exists(path) for path in listed.strings("rlnMicrographCoordinates"))


@pytest.mark.req("G3")
def test_the_list_is_consistent_and_its_images_are_normalised(project: Path) -> None:
    assert run() == 0
    assert check_particles(read_particles("Extract/job003/particles.star")) == []
    assert os.path.exists("Extract/job003/RELION_JOB_EXIT_SUCCESS")
    optics = star.read("Extract/job003/particles.star")["optics"]
    assert optics.floats("rlnImagePixelSize").tolist() == [3.0, 3.0]
    assert optics.ints("rlnImageSize").tolist() == [32, 32]
    assert particles().ints("rlnOpticsGroup").tolist() == [1] * 15 + [2] * 15 + [1] * 15
    assert not os.path.exists("Extract/job003/failed_micrographs.star")


def test_float16_holds_the_same_images_in_half_the_space(project: Path) -> None:
    assert run() == 0
    assert run(f"{JOB} --float16", "Half/") == 0
    full, _ = read_stack("Extract/job003/Movies/a.mrcs")
    half, _ = read_stack("Half/Movies/a.mrcs")
    assert read_header("Half/Movies/a.mrcs").mode == 12
    assert 0 < np.abs(full - half).max() < 4e-3


def test_picks_below_the_threshold_are_left_out(project: Path) -> None:
    assert run(f"{JOB} --minimum_pick_fom 0.0") == 0
    assert len(particles()) == 21
    assert particles().floats("rlnAutopickFigureOfMerit").min() > 0
    assert read_header("Extract/job003/Movies/a.mrcs").nz == 7


def test_bad_files_are_listed_and_the_rest_is_done(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = Path(NAMES[0])
    path.write_bytes(path.read_bytes()[:-1000])
    image = np.ones(SIZE, dtype=np.float32)
    image[3, 4] = np.nan
    write_map(NAMES[1], image, 1.5)
    assert run() == 0
    assert set(failed()) == set(NAMES[:2])
    assert "NaN" in failed()[NAMES[1]]
    assert set(particles().strings("rlnMicrographName")) == {NAMES[2]}
    assert f"{NAMES[0]} is skipped" in capfd.readouterr().err
    os.unlink(NAMES[2])
    assert run() == 1
    assert set(failed()) == set(NAMES)
    assert os.path.exists("Extract/job003/RELION_JOB_EXIT_FAILURE")


def test_a_full_disc_ends_the_job_and_spares_no_micrograph(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = star.read("Pick/Movies/a_pick.star")
    few[""] = few[""].select([3, 4, 5])
    star.write("Pick/Movies/a_pick.star", few)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40000, before[1]))  # the first stack is smaller, the others are not
    try:
        assert run() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "b.mrcs could not be written" in capfd.readouterr().err
    assert not os.path.exists("Extract/job003/particles.star")
    assert run(f"{JOB} --only_do_unfinished") == 0
    assert len(set(particles().strings("rlnMicrographName"))) == 3


def test_what_is_no_number_in_ctfs_is_told(project: Path) -> None:
    whole = star.read("mics.star")
    for block, label, value, part in (
        ("micrographs", "rlnDefocusU", "nan", 'is "nan", not a number'),
        ("optics", "rlnSphericalAberration", "x", 'the optics group of .* is "x", not a number'),
    ):
        file = StarFile([(name, table.copy()) for name, table in whole.items()])
        texts = file[block].strings(label)
        file[block].set(label, [*texts[:-1], value])
        star.write("mics.star", file)
        assert run(f"{JOB} --premultiply_ctf") == 0
        assert len(failed()) == 1 and re.search(part, next(iter(failed().values())))


def test_coordinate_files_that_are_missing_empty_or_damaged(project: Path) -> None:
    os.unlink("Pick/Movies/a_pick.star")
    star.write("Pick/Movies/b_pick.star", StarFile([("", Table({"rlnCoordinateX": [], "rlnCoordinateY": []}))]))
    assert run() == 0
    assert set(failed()) == {NAMES[0]}
    assert set(particles().strings("rlnMicrographName")) == {NAMES[2]}
    Path("Pick/Movies/c_pick.star").write_text("data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 2\n3\n")
    assert run() == 1
    assert set(failed()) == {NAMES[0], NAMES[2]}


def test_particles_outside_the_micrograph_are_left_out(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = Table({"rlnCoordinateX": [100.0, 5000.0, 30.0], "rlnCoordinateY": [100.0, 50.0, -1e300]})
    star.write("Pick/Movies/a_pick.star", StarFile([("", table)]))
    assert run() == 0
    mine = [name for name in particles().strings("rlnMicrographName") if name == NAMES[0]]
    assert len(mine) == read_header("Extract/job003/Movies/a.mrcs").nz == 1
    assert "2 particles lie wholly outside" in capfd.readouterr().err


@pytest.mark.req("G9")
def test_continuing_does_only_what_is_not_done(project: Path) -> None:
    saved = Path(NAMES[1]).read_bytes()
    Path(NAMES[1]).write_bytes(b"")
    assert run() == 0
    assert len(particles()) == 30
    Path(NAMES[1]).write_bytes(saved)
    before = os.stat("Extract/job003/Movies/a.mrcs").st_mtime_ns
    assert run(f"{JOB} --only_do_unfinished") == 0
    assert len(particles()) == 45
    assert os.stat("Extract/job003/Movies/a.mrcs").st_mtime_ns == before
    assert not os.path.exists("Extract/job003/failed_micrographs.star")


def test_ranks_give_the_files_of_one_process(project: Path) -> None:
    if not MPIRUN.exists():
        pytest.skip("mpirun of this environment is not installed")
    assert run() == 0
    command = [str(MPIRUN), "-n", "2", sys.executable, "-m", "relion_py.compute.cli.preprocess", *words(JOB, "Ranks/")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert_same("Ranks/", "Extract/job003/", 0.0)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (f"{JOB} --helix", "--helical_outer_diameter"),
        (f"{JOB} --helix --helical_outer_diameter 40 --helical_tubes", "--helical_rise"),
        (f"{JOB} --premultiply_ctf --premultiply_extract_size 40", "--premultiply_extract_size"),
        (f"{JOB} --operate_on a.mrcs", "without --extract"),
        (f"{JOB} --coord_suffix .box", "one, and only one"),
        ("--extract_size 64", "none was given"),
        ("--coord_list Pick/list.star --extract_size 63", "even number"),
        ("--coord_list Pick/list.star --extract_size 64 --norm", "--bg_radius"),
        ("--coord_list Pick/list.star --extract_size 64 --scale 32 --norm --bg_radius 20", "too large"),
        ("--coord_list absent.star --extract_size 64", "absent.star"),
    ],
)
def test_wrong_options_get_a_sentence(
    project: Path, capfd: pytest.CaptureFixture[str], options: str, sentence: str
) -> None:
    assert run(options) == 1
    error = capfd.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_every_refused_option_says_why(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, reason in REFUSED.items():
        assert run(f"{JOB} {name} 1") == 1
        assert reason in capfd.readouterr().err


def test_outputs_stay_in_their_directory(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = star.read("mics.star")
    file["micrographs"].set("rlnMicrographName", ["../../evil.mrc", *NAMES[1:]])
    star.write("mics.star", file)
    assert run() == 1
    assert "evil" in capfd.readouterr().err
