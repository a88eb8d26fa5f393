"""relion_preprocess: helical segments, CTF multiplication and stacks, beside RELION 3.1.3."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import exit_status

from relion_py.compute.cli import preprocess
from relion_py.compute.io import star
from relion_py.compute.io.labels import type_of
from relion_py.compute.io.mrc import read_stack, write_map, write_stack
from relion_py.compute.io.star import StarFile, Table

PIXEL, SIZE = 1.5, (220, 260)  # rows, columns
NORM = "--norm --bg_radius 14 --white_dust -1 --black_dust -1 --invert_contrast"
HELIX = "--helix --helical_outer_diameter 24"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One micrograph a.mrc with a slope and three bright filaments, and its list with a CTF."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(4)
    y, x = np.indices(SIZE)
    image = 300 + 0.2 * x - 0.1 * y + 5 * random.standard_normal(SIZE)
    os.makedirs("Mics")
    write_map("Mics/a.mrc", image.astype(np.float32), PIXEL)
    optics = {
        "rlnOpticsGroupName": ["one"],
        "rlnOpticsGroup": [1],
        "rlnMicrographOriginalPixelSize": [PIXEL],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnMicrographPixelSize": [PIXEL],
    }
    micrographs = {
        "rlnMicrographName": ["Mics/a.mrc"],
        "rlnOpticsGroup": [1],
        "rlnDefocusU": [15000.0],
        "rlnDefocusV": [14000.0],
        "rlnDefocusAngle": [25.0],
    }
    star.write("mics.star", StarFile([("optics", Table(optics)), ("micrographs", Table(micrographs))]))
    ends = {"rlnCoordinateX": [20.5, 230.0, 200.0, 60.0, 130.0, 130.0], "rlnCoordinateY": [30, 80, 180, 20, 40, 210.5]}
    star.write("Mics/a_ends.star", StarFile([("", Table(ends))]))
    points = {
        "rlnCoordinateX": random.uniform(10, 250, 14),
        "rlnCoordinateY": random.uniform(10, 210, 14),
        "rlnHelicalTubeID": [1] * 7 + [2] * 7,
        "rlnAngleTiltPrior": [90.0] * 14,
        "rlnAnglePsiPrior": random.uniform(-180, 180, 14),
        "rlnHelicalTrackLengthAngst": np.tile(np.arange(7) * 12.0, 2),
    }
    star.write("Mics/a_segments.star", StarFile([("", Table(points))]))
    Path("Mics/a_ends.box").write_text("10 20 30 30 -1\n180 100 30 30 -2\n200 150 30 30 -1\n40 60 30 30 -2\n")
    Path("Mics/a_segments.box").write_text(
        "#segment length: 30\n#helix: (20.0, 30.0),(200.0, 90.0),30\n50\t40\n80\t50\n110\t60\n"
        "#helix: (30.0, 150.0),(100.0, 50.0),30\n60\t107\n70\t93\n"
    )
    Path("Mics/a_ends.coords").write_text("a 1\n20 30\n26 24\n200 170\n206 164\n20 30\n")
    Path("Mics/a_segments.coords").write_text("x y angle\n60 70 20\n80 77 20\n100 84 20\n120 100 -60\n130 83 -60\n")
    return tmp_path


def arguments(options: str, job: str) -> list[str]:
    fixed = ["--i", "mics.star", "--part_star", f"{job}particles.star", "--part_dir", job, "--extract"]
    return [*fixed, "--coord_dir", "./", "--extract_size", "40", *options.split()]


def run(words: list[str], job: str) -> int:
    os.makedirs(job, exist_ok=True)
    return exit_status(preprocess.main, *words, "--pipeline_control", job)


def both(program: str, options: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of this program and of the reference, after the lists have been compared."""
    assert run(arguments(options, "Ours/"), "Ours/") == 0
    os.makedirs("Theirs/Mics", exist_ok=True)
    subprocess.run([program, *arguments(options, "Theirs/")], check=True, capture_output=True, timeout=60)
    one, two = star.read("Ours/particles.star"), star.read("Theirs/particles.star")
    stale = {"rlnHelicalTrackLength"}  # the column in pixels of older releases
    assert set(one["particles"].labels) - stale == set(two["particles"].labels) - stale
    for label in set(two["particles"].labels) - stale:
        if type_of(label) == "double":
            assert np.allclose(one["particles"].floats(label), two["particles"].floats(label), atol=2e-5), label
        else:
            wanted = [text.replace("Theirs/", "Ours/") for text in two["particles"].strings(label)]
            assert one["particles"].strings(label) == wanted, label
    for label in two["optics"].labels:
        assert one["optics"].strings(label) == two["optics"].strings(label), label
    return read_stack("Ours/Mics/a.mrcs")[0], read_stack("Theirs/Mics/a.mrcs")[0]


@pytest.mark.parametrize(
    "options",
    [
        f"--coord_suffix _ends.star {HELIX} --helical_tubes --helical_cut_into_segments --helical_nr_asu 3 "
        "--helical_rise 5.3 --helical_bimodal_angular_priors",
        f"--coord_suffix _ends.star {HELIX} --helical_tubes --helical_rise 1",
        f"--coord_suffix _segments.star {HELIX}",
        f"--coord_suffix _ends.box {HELIX} --helical_tubes --helical_cut_into_segments --helical_rise 9",
        f"--coord_suffix _segments.box {HELIX} --helical_bimodal_angular_priors",
        f"--coord_suffix _ends.coords {HELIX} --helical_tubes --helical_cut_into_segments --helical_rise 9",
        f"--coord_suffix _segments.coords {HELIX}",
    ],
)
def test_helical_segments_are_those_of_the_reference(
    project: Path, debian_relion: Callable[[str], str], options: str
) -> None:
    ours, theirs = both(debian_relion("relion_preprocess"), f"{options} {NORM}")
    assert len(ours) > 2
    assert np.abs(ours - theirs).max() < 1e-4


def test_the_background_is_outside_the_tube_also_when_images_are_scaled(project: Path) -> None:
    options = f"--coord_suffix _segments.star {HELIX} {NORM} --scale 30"
    assert run(arguments(options, "Ours/"), "Ours/") == 0
    images, pixel = read_stack("Ours/Mics/a.mrcs")
    assert pixel == pytest.approx(2.0)
    place = np.arange(30) - 15
    for image, psi in zip(
        images, star.read("Ours/particles.star")["particles"].floats("rlnAnglePsiPrior"), strict=True
    ):
        across = np.array([np.sin(np.deg2rad(psi)), np.cos(np.deg2rad(psi))])
        outside = np.abs(across[1] * place[:, None] + across[0] * place) > 6.0
        assert image[outside].mean() == pytest.approx(0, abs=1e-5)
        assert image[outside].std() == pytest.approx(1, abs=1e-5)


def test_a_tube_wider_than_the_box_has_no_background(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = f"--coord_suffix _segments.star --helix --helical_outer_diameter 60 {NORM}"
    assert run(arguments(options, "Ours/"), "Ours/") == 1
    assert "the tube has 40 pixels" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        "--premultiply_ctf --premultiply_extract_size 80",
        "--phase_flip",
        "--premultiply_ctf --ctf_intact_first_peak --scale 32",
    ],
)
def test_images_times_their_ctf_are_those_of_the_reference(
    project: Path, debian_relion: Callable[[str], str], options: str
) -> None:
    ours, theirs = both(debian_relion("relion_preprocess"), f"--coord_suffix _segments.star {options} {NORM}")
    assert np.abs(ours - theirs).max() < 1e-3 * theirs.std()
    flag = star.read("Ours/particles.star")["optics"].ints("rlnCtfDataAreCtfPremultiplied")
    assert flag[0] == ("--premultiply_ctf" in options)


def test_stacks_are_changed_as_the_reference_does(project: Path, debian_relion: Callable[[str], str]) -> None:
    random = np.random.default_rng(8)
    write_stack("in.mrcs", (3 + random.standard_normal((3, 24, 24))).astype(np.float32), PIXEL)
    words = [
        "--operate_on",
        "in.mrcs",
        "--scale",
        "20",
        "--norm",
        "--bg_radius",
        "7",
        "--invert_contrast",
        "--operate_out",
    ]
    assert run([*words, "ours.mrcs"], "Job/") == 0
    program = debian_relion("relion_preprocess")
    subprocess.run([program, *words, "theirs.mrcs"], check=True, capture_output=True, timeout=60)
    ours, pixel = read_stack("ours.mrcs")
    assert pixel == pytest.approx(PIXEL * 24 / 20)
    assert np.abs(ours - read_stack("theirs.mrcs")[0]).max() < 1e-4
