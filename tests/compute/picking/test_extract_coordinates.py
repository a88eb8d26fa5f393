"""Coordinate files of every kind, and refined particles that move to a new centre."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.picking.extract_coordinates import (
    Recentring,
    RefinedParticles,
    files_with_suffix,
    listed_files,
    read_coordinates,
)


def places(path: Path, text: str) -> list[tuple[float, float]]:
    path.write_text(text)
    table = read_coordinates(str(path))
    return list(zip(table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY"), strict=True))


def test_text_files(tmp_path: Path) -> None:
    assert places(tmp_path / "a.box", "10 20 101 50\n-3 4 8 8 -3\n") == [(60, 45), (1, 8)]
    assert places(tmp_path / "a.txt", "x y density\n10 20 3\n\n30 40\n") == [(10, 20), (30, 40)]
    assert places(tmp_path / "b.txt", "10 20\n") == [(10, 20)]
    for name, text in (("c.box", "10 20 30\n"), ("c.txt", "1 2\n3\n"), ("d.txt", "1 2\nfour five\n")):
        with pytest.raises(UserError, match=name):
            places(tmp_path / name, text)
    with pytest.raises(UserError, match="absent"):
        read_coordinates(str(tmp_path / "absent.box"))


def test_star_files_keep_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "pick.star"
    columns = {"rlnCoordinateX": [1.5, 2.5], "rlnCoordinateY": [3.0, 4.0], "rlnClassNumber": [2, 1]}
    star.write(path, StarFile([("", Table(columns))]))
    assert read_coordinates(str(path)).ints("rlnClassNumber").tolist() == [2, 1]
    star.write(path, StarFile([("", Table({"rlnImageName": ["1@a.mrcs"]}))]))
    with pytest.raises(UserError, match="rlnCoordinateX"):
        read_coordinates(str(path))


def test_where_coordinate_files_are(tmp_path: Path) -> None:
    names = ["MotionCorr/job002/Movies/a.mrc"]
    assert files_with_suffix(names, "Pick/job003/", "_p.star") == {names[0]: "Pick/job003/Movies/a_p.star"}
    assert files_with_suffix(names, "ASINPUT", ".box") == {names[0]: "MotionCorr/job002/Movies/a.box"}
    path = tmp_path / "list.star"
    star.write(path, StarFile([("coordinate_files", Table({"rlnMicrographName": names}))]))
    with pytest.raises(UserError, match="rlnMicrographCoordinates"):
        listed_files(str(path))


def refined(path: Path, recentring: Recentring, **changes: list) -> RefinedParticles:
    optics = Table(
        {
            "rlnOpticsGroupName": ["one", "two"],
            "rlnOpticsGroup": [1, 2],
            "rlnImagePixelSize": [3.0, 2.0],
            "rlnImageSize": [64, 64],
            "rlnVoltage": [300.0, 300.0],
            "rlnSphericalAberration": [2.7, 2.7],
            "rlnAmplitudeContrast": [0.1, 0.1],
        }
    )
    columns = {
        "rlnCoordinateX": [100.0, 200.0, 300.0],
        "rlnCoordinateY": [50.0, 60.0, 70.0],
        "rlnImageName": ["1@a.mrcs", "2@a.mrcs", "3@a.mrcs"],
        "rlnMicrographName": ["MotionCorr/job002/Movies/a.mrc", "MotionCorr/job002/Movies/xa.mrc", "Movies/a.mrc"],
        "rlnOpticsGroup": [1, 1, 2],
        "rlnOriginXAngst": [4.0, 0.0, -2.0],
        "rlnOriginYAngst": [-6.5, 0.0, 0.4],
        "rlnAngleRot": [0.0, 0.0, 0.0],
        "rlnAngleTilt": [0.0, 0.0, 90.0],
        "rlnAnglePsi": [90.0, 0.0, 0.0],
        **changes,
    }
    star.write(path, StarFile([("optics", optics), ("particles", Table(columns))]))
    return RefinedParticles(str(path), recentring)


def test_particles_of_a_micrograph_are_found_by_its_whole_name(tmp_path: Path) -> None:
    particles = refined(tmp_path / "p.star", Recentring())
    assert particles.indices("MotionCorr/job017/Movies/a.mrc") == [0, 2]
    assert particles.indices("Movies/xa.mrc") == [1]
    assert particles.indices("Other/a.mrc") == []


def test_offsets_are_kept_reset_or_moved_into_the_coordinates(tmp_path: Path) -> None:
    kept = refined(tmp_path / "p.star", Recentring()).of("Movies/a.mrc", 1.5)
    assert kept.floats("rlnCoordinateX").tolist() == [100, 300]
    assert kept.floats("rlnOriginXAngst").tolist() == [4, -2]
    reset = refined(tmp_path / "p.star", Recentring(reset=True)).of("Movies/a.mrc", 1.5)
    assert reset.floats("rlnCoordinateX").tolist() == [100, 300]
    assert not reset.floats("rlnOriginXAngst").any()
    moved = refined(tmp_path / "p.star", Recentring(recentre=True)).of("Movies/a.mrc", 1.5)
    # 4 A are 2.67 pixels of 1.5 A, so the coordinate moves by 3 and -0.33 pixels are left; and so on
    assert moved.floats("rlnCoordinateX").tolist() == [97, 301]
    assert moved.floats("rlnCoordinateY").tolist() == [54, 70]
    assert np.allclose(moved.floats("rlnOriginXAngst"), [-0.5, -0.5])
    assert np.allclose(moved.floats("rlnOriginYAngst"), [-0.5, 0.4])


def test_a_point_of_the_reference_comes_to_the_centre(tmp_path: Path) -> None:
    # psi 90 puts +x of the reference at -y of the image; tilt 90 puts +z at -x. 10 pixels of 3 A are 20 of 1.5 A.
    x = Recentring(recentre=True, point=(10.0, 0.0, 0.0), reference_pixel_size=3.0)
    zeros = {"rlnOriginXAngst": [0.0] * 3, "rlnOriginYAngst": [0.0] * 3}
    moved = refined(tmp_path / "p.star", x, **zeros).of("Movies/a.mrc", 1.5)
    assert np.allclose([moved.floats("rlnCoordinateX")[0], moved.floats("rlnCoordinateY")[0]], [100, 30])
    z = Recentring(recentre=True, point=(0.0, 0.0, 10.0), reference_pixel_size=3.0)
    moved = refined(tmp_path / "p.star", z, **zeros).of("Movies/a.mrc", 1.5)
    assert np.allclose([moved.floats("rlnCoordinateX")[1], moved.floats("rlnCoordinateY")[1]], [280, 70])
    with pytest.raises(UserError, match="--ref_angpix"):
        refined(tmp_path / "p.star", Recentring(recentre=True, point=(1.0, 0.0, 0.0)))


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    refined(path, Recentring())
    file = star.read(path)
    file["particles"].remove("rlnOriginYAngst")
    star.write(path, file)
    RefinedParticles(str(path), Recentring())
    with pytest.raises(UserError, match="rlnOriginYAngst"):
        RefinedParticles(str(path), Recentring(recentre=True))
