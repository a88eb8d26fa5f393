"""relion_particle_symmetry_expand beside Debian's program."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import outcome

from relion_py.compute.cli.particle_symmetry_expand import _main
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table

N = 20


def program(directory: Path, *words: str) -> tuple[int, str]:
    code, _, err = outcome(_main, directory, *words)
    return code, err


@pytest.fixture
def particles(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    optics = Table({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [2.0]})
    for label, value in (("rlnVoltage", 300.0), ("rlnSphericalAberration", 2.7), ("rlnAmplitudeContrast", 0.1),
                         ("rlnImageSize", 64), ("rlnImageDimensionality", 2)):  # fmt: skip
        optics.set(label, value)
    rows = Table({"rlnImageName": [f"{n + 1:06d}@a.mrcs" for n in range(N)], "rlnOpticsGroup": [1] * N})
    for label, low, high in (("rlnAngleRot", -180, 180), ("rlnAngleTilt", 5, 175), ("rlnAnglePsi", -180, 180),
                             ("rlnOriginXAngst", -9, 9), ("rlnOriginYAngst", -9, 9)):  # fmt: skip
        rows.set(label, rng.uniform(low, high, N))
    star.write(tmp_path / "p.star", StarFile([("optics", optics), ("particles", rows)]))
    return tmp_path


def views(table: Table) -> np.ndarray:
    """Matrices (n, 9) of the orientations."""
    angles = [table.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
    return euler_to_matrix(*angles).reshape(-1, 9)


@pytest.mark.parametrize(
    ("flags", "mates"),
    [
        ("--sym D3", 6),
        ("--sym O", 24),
        ("--helix --twist 27.3 --rise 4.8 --asu 5", 5),
        ("--helix --twist 27.3 --rise 4.8 --asu 4", 4),
        ("--helix --twist 30 --rise 9 --frac_sampling 4", 4),
    ],
)
def test_as_debians_relion(particles: Path, debian_relion: Callable[[str], str], flags: str, mates: int) -> None:
    """The same particles in the same places, in the same order."""
    command = [debian_relion("relion_particle_symmetry_expand"), "--i", "p.star", "--o", "theirs.star", *flags.split()]
    subprocess.run(command, cwd=particles, check=True, capture_output=True)
    code, err = program(particles, "--i", "p.star", "--o", "ours.star", *flags.split())
    assert code == 0, err
    ours, theirs = (star.read(particles / f"{name}.star") for name in ("ours", "theirs"))
    a, b = ours["particles"], theirs["particles"]
    assert len(a) == len(b) == N * mates
    assert a.strings("rlnImageName") == b.strings("rlnImageName")
    assert ours["optics"] == star.read(particles / "p.star")["optics"]
    np.testing.assert_allclose(views(a), views(b), atol=1e-5)
    for axis in "XY":
        np.testing.assert_allclose(a.floats(f"rlnOrigin{axis}Angst"), b.floats(f"rlnOrigin{axis}Angst"), atol=1e-5)
    if "--sym" in flags:
        given = star.read(particles / "p.star")["particles"]
        np.testing.assert_allclose(a.floats("rlnAngleRot")[::mates], given.floats("rlnAngleRot"))


def test_mistakes_are_told(particles: Path) -> None:
    for words, part in (
        ("", "nothing to do"),
        ("--sym D2 --helix", "not both"),
        ("--helix --asu 3 --frac_sampling 3", "either --asu or --frac_sampling"),
        ("--sym Q9", "Q9"),
    ):
        code, err = program(particles, "--i", "p.star", "--o", "x.star", *words.split())
        assert code == 1 and part in err
        assert not (particles / "x.star").exists()
