"""Saved selections against the files that RELION wrote for the same choice, and read by RELION itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.io import star
from relion_py.gui.display import selection
from relion_py.gui.display.errors import DisplayError


@pytest.mark.req("G12")
def test_the_tutorials_selection_comes_out_as_relion_wrote_it(tutorial: Path, tmp_path: Path) -> None:
    written = tutorial / "Select/job009"
    rows = selection.load_backup(written / "backup_selection.star", _classes(tutorial))
    assert rows == [3, 23, 27, 33]
    model = star.read(tutorial / "Class2D/job008/run_it025_model.star")["model_classes"]
    # the person had sorted by size
    share = model.floats("rlnClassDistribution")
    by_size = [int(i) + 1 for i in np.argsort(-share) if int(i) in rows]
    data = tutorial / "Class2D/job008/run_it025_data.star"
    count = selection.save_particles_of_classes(tmp_path / "particles.star", data, by_size)
    ours, theirs = star.read(tmp_path / "particles.star"), star.read(written / "particles.star")
    assert count == len(theirs["particles"]) == 333
    assert ours["particles"] == theirs["particles"]
    assert ours["optics"] == theirs["optics"]

    selection.save_class_averages(tmp_path / "class_averages.star", model, rows)
    classes, reference = (
        star.read(tmp_path / "class_averages.star"),
        star.read(written / "class_averages.star"),
    )
    assert list(classes) == list(reference) == [""]
    assert classes[""].labels == reference[""].labels
    for label in classes[""].labels:
        if label != "rlnReferenceImage":  # RELION had centred the averages and written a stack of its own
            assert classes[""].strings(label) == reference[""].strings(label)

    selection.save_backup(tmp_path / "backup_selection.star", rows, _classes(tutorial))
    assert star.read(tmp_path / "backup_selection.star")[""] == star.read(written / "backup_selection.star")[""]


def _classes(tutorial: Path) -> int:
    return len(star.read(tutorial / "Class2D/job008/run_it025_model.star")["model_classes"])


def particle_file(path: Path, n: int = 40) -> Path:
    optics = star.Table({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], "rlnImagePixelSize": [2.0]})
    optics.set("rlnImageSize", [8])
    optics.set("rlnImageDimensionality", [2])
    for label, value in (
        ("rlnVoltage", 300.0),
        ("rlnSphericalAberration", 2.7),
        ("rlnAmplitudeContrast", 0.1),
    ):
        optics.set(label, [value])
    particles = star.Table(
        {
            "rlnImageName": [f"{i + 1:06d}@a.mrcs" for i in range(n)],
            "rlnOpticsGroup": [1] * n,
            "rlnClassNumber": [i % 4 + 1 for i in range(n)],
            "rlnGroupNumber": [i % 2 + 1 for i in range(n)],
        }
    )
    star.write(path, {"optics": optics, "particles": particles})
    return path


def test_relion_reads_what_is_saved(tmp_path: Path, debian_relion: Callable[[str], str]) -> None:
    source = particle_file(tmp_path / "run_it001_data.star")
    selection.save_particles_of_classes(tmp_path / "particles.star", source, [3, 1])
    command = [debian_relion("relion_star_handler"), "--i", "particles.star", "--o", "out.star"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    table = star.read(tmp_path / "out.star")["particles"]
    assert table.ints("rlnClassNumber").tolist() == [3] * 10 + [1] * 10


def test_at_most_so_many_of_each_class() -> None:
    classes = np.array([1, 2, 1, 1, 2, 3, 1])
    rows = selection.particles_of_classes(classes, [2, 1], most_per_class=2)
    assert rows[:2] == [1, 4]
    assert len(rows) == 4
    assert all(classes[i] == 1 for i in rows[2:])
    assert selection.particles_of_classes(classes, [2, 1]) == [1, 4, 0, 2, 3, 6]


def test_regrouping_joins_groups_of_similar_scale(tmp_path: Path) -> None:
    source = particle_file(tmp_path / "run_it001_data.star", 80)
    groups = star.Table({"rlnGroupNumber": [1, 2], "rlnGroupScaleCorrection": [1.2, 0.8]})
    star.write(tmp_path / "run_it001_model.star", {"model_groups": groups})
    count = selection.save_particles_of_classes(tmp_path / "p.star", source, [1, 2, 3, 4], regroup=2)
    table = star.read(tmp_path / "p.star")["particles"]
    assert count == 80
    assert "rlnGroupNumber" not in table
    assert set(table.strings("rlnGroupName")) == {"group_1", "group_2"}
    with pytest.raises(DisplayError, match="fewer than ten"):
        selection.save_particles_of_classes(tmp_path / "p.star", source, [1], regroup=10)


def test_groups_of_one_scale_are_joined_in_their_order(tmp_path: Path) -> None:
    """As RELION's sort, which is stable: without a scale correction neighbours come into one group."""
    group = np.repeat(np.arange(1, 41), 5)
    table = star.Table({"rlnClassNumber": np.ones(200, int), "rlnGroupNumber": group, "rlnOpticsGroup": [1] * 200})
    star.write(tmp_path / "run_it001_data.star", {"particles": table})
    scale = np.where(np.arange(1, 41) % 7 == 0, 0.9, 1.0)
    groups = star.Table({"rlnGroupNumber": np.arange(1, 41), "rlnGroupScaleCorrection": scale})
    star.write(tmp_path / "run_it001_model.star", {"model_groups": groups})
    selection.save_particles_of_classes(tmp_path / "p.star", tmp_path / "run_it001_data.star", [1], regroup=4)
    names = star.read(tmp_path / "p.star")["particles"].strings("rlnGroupName")
    order = sorted(range(1, 41), key=lambda number: scale[number - 1])
    place = [order.index(number) for number in group]
    assert [names[row] for row in np.argsort(place, kind="stable")] == sorted(names)
    assert len(set(names)) == 4


def test_images_keep_their_table_and_optics(tmp_path: Path) -> None:
    blocks = star.read(particle_file(tmp_path / "in.star"))
    assert selection.save_images(tmp_path / "sub/out.star", blocks, "particles", [5, 2]) == 2
    out = star.read(tmp_path / "sub/out.star")
    assert out["optics"] == blocks["optics"]
    assert out["particles"].strings("rlnImageName") == ["000003@a.mrcs", "000006@a.mrcs"]


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    source = particle_file(tmp_path / "run_it001_data.star")
    blocks = star.read(source)
    selection.save_backup(tmp_path / "backup_selection.star", [1], 3)
    for action in (
        lambda: selection.save_images(tmp_path / "o.star", blocks, "particles", []),
        lambda: selection.save_particles_of_classes(tmp_path / "o.star", source, []),
        lambda: selection.save_particles_of_classes(tmp_path / "o.star", source, [9]),
        lambda: selection.load_backup(tmp_path / "backup_selection.star", 4),
        lambda: selection.load_backup(source, 4),
        lambda: selection.data_star_of(tmp_path / "particles.star"),
        lambda: selection.save_backup(source / "x" / "backup_selection.star", [], 1),
    ):
        with pytest.raises(DisplayError):
            action()
    assert not (tmp_path / "o.star").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run_it025_half1_model.star", "run_it025_data.star"),
        ("run_model.star", "run_data.star"),
        ("run_ct3_it010_optimiser.star", "run_ct3_it010_data.star"),
    ],
)
def test_data_file_of_a_model(name: str, data: str) -> None:
    assert selection.data_star_of(Path("Refine3D") / name).name == data


def test_centring_brings_the_centre_of_mass_to_the_centre() -> None:
    image = np.zeros((20, 20))
    image[3:6, 14:17] = 1.0
    image[0, 0] = -50.0  # negative pixels do not weigh
    dy, dx = selection.centre_of_mass_shift(image)
    assert (dy, dx) == (6, -5)
    assert selection.centre_of_mass_shift(np.zeros((4, 4))) == (0, 0)
