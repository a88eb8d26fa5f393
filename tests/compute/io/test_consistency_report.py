"""The consistency report: each fault, planted into a good project, is named; a good project has none."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.io import mrc, star
from relion_py.compute.io.consistency import check_particles
from relion_py.compute.io.particles import read_particles
from relion_py.compute.io.star import StarFile, Table

BOX = 32


@pytest.fixture
def project(tmp_path):
    """A directory with 40 white particles on normalised noise in two stacks."""
    rng = np.random.default_rng(1)
    offset = np.arange(BOX) - BOX // 2
    blob = np.exp(-np.add.outer(offset**2, offset**2) / 40.0)
    for number in range(2):
        images = rng.normal(size=(20, BOX, BOX)) + blob
        mrc.write_stack(tmp_path / f"s{number}.mrcs", images, 2.0)
    optics = Table(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["og1"],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.1],
            "rlnImagePixelSize": [2.0],
            "rlnImageSize": [BOX],
            "rlnImageDimensionality": [2],
        }
    )
    particles = Table(
        {
            "rlnImageName": [f"{i % 20 + 1:06d}@s{i // 20}.mrcs" for i in range(40)],
            "rlnOpticsGroup": 1,
            "rlnDefocusU": [15000.0] * 40,
            "rlnDefocusV": [14000.0] * 40,
            "rlnDefocusAngle": [10.0] * 40,
        }
    )
    particles.set("rlnOpticsGroup", [1] * 40)
    star.write(tmp_path / "p.star", StarFile([("optics", optics), ("particles", particles)]))
    return tmp_path


def report(project):
    return check_particles(read_particles(project / "p.star", project, strict=False))


def change(project, block, **columns):
    file = star.read(project / "p.star")
    for label, values in columns.items():
        if values is None:
            file[block].remove(label)
        else:
            file[block].set(label, values)
    star.write(project / "p.star", file)


@pytest.mark.req("E2")
def test_a_good_project_has_an_empty_report(project):
    assert report(project) == []


@pytest.mark.req("E2")
@pytest.mark.parametrize(
    ("block", "columns", "sentence"),
    [
        ("particles", {"rlnDefocusU": None}, "no column _rlnDefocusU"),
        ("particles", {"rlnDefocusU": [5.0] * 40}, "40 particles have a defocus"),
        ("particles", {"rlnDefocusU": [-15000.0] * 40}, "negative defocus"),
        ("particles", {"rlnOpticsGroup": [2] * 40}, "optics group 2"),
        ("particles", {"rlnImageName": ["1@s0.mrcs"] * 40}, "more than once"),
        ("particles", {"rlnImageName": [f"{i + 1}@s0.mrcs" for i in range(40)]}, "Image 40 of s0.mrcs"),
        ("particles", {"rlnImageName": [f"{i + 1}@gone.mrcs" for i in range(40)]}, "1 of 1 image files are"),
        ("optics", {"rlnVoltage": None}, "no _rlnVoltage"),
        ("optics", {"rlnVoltage": [300000.0]}, "should be in kV"),
        ("optics", {"rlnAmplitudeContrast": [10.0]}, "not between 0 and 1"),
        ("optics", {"rlnImagePixelSize": [1.0]}, "1 A per pixel, but the header of s0.mrcs says 2"),
        ("optics", {"rlnImageSize": [64]}, "box is 64 pixels"),
    ],
)  # fmt: skip
def test_planted_faults_of_the_table(project, block, columns, sentence):
    change(project, block, **columns)
    found = report(project)
    assert any(sentence in line for line in found), found


@pytest.mark.req("E2")
def test_planted_faults_of_the_images(project):
    images, _ = mrc.read_stack(project / "s0.mrcs")

    def found(changed):
        mrc.write_stack(project / "s0.mrcs", changed, 2.0)
        return " ".join(report(project))

    damaged = images.copy()
    damaged[3, 5, 5] = np.nan
    assert "000004@s0.mrcs has pixels that are not numbers" in found(damaged)
    assert "not square" in found(images[:, :, :20])
    assert "odd number" in found(images[:, :31, :31])
    mrc.write_stack(project / "s1.mrcs", 7 * images + 100, 2.0)
    assert "not normalised" in found(7 * images + 100)
    mrc.write_stack(project / "s1.mrcs", -images, 2.0)
    assert "dark on a bright background" in found(-images)
    mrc.write_stack(project / "s0.mrcs", images, 2.0)
    with open(project / "s0.mrcs", "r+b") as file:
        file.truncate(5000)
    assert "cut short" in " ".join(report(project))


def test_a_second_group_with_the_same_number(project):
    file = star.read(project / "p.star")
    row = file["optics"].row(0)
    file["optics"].append(row)
    star.write(project / "p.star", file)
    assert any("same number: 1" in line for line in report(project))


def test_header_pixel_sizes_of_one_angstrom_mean_unknown(project):
    for number in range(2):
        images, _ = mrc.read_stack(project / f"s{number}.mrcs")
        mrc.write_stack(project / f"s{number}.mrcs", images, 1.0)
    assert report(project) == []
