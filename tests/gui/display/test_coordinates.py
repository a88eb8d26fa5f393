"""Picks of every release, counted against what RELION's own summaries say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.io import star
from relion_py.gui.display.coordinates import count_picks, read_coordinates, read_pick_set
from relion_py.gui.display.errors import DisplayError


def counts_by_name(root: Path, path: Path) -> dict[str, int]:
    picks = read_pick_set(path, root)
    return dict(zip((m.name for m in picks.micrographs), count_picks(root, picks), strict=True))


def summary(path: Path) -> dict[str, int]:
    table = star.read(path)[""]
    return dict(zip(table.strings("rlnMicrographName"), table.ints("rlnGroupNrParticles").tolist(), strict=True))


def test_picks_of_release_5_number_what_its_summary_says(shared: Path) -> None:
    root = shared / "data/real/bgal-10204-relion5-project"
    if not root.is_dir():
        pytest.skip("the RELION 5 project is not here")
    found = counts_by_name(root, root / "AutoPick/job008/autopick.star")
    assert found == summary(root / "AutoPick/job008/summary.star")
    assert sum(found.values()) == 2374
    assert read_pick_set(root / "AutoPick/job008/autopick.star", root).pixel_size == pytest.approx(0.885)


@pytest.mark.req("X6")
def test_picks_of_release_3_by_their_suffix_file(tutorial: Path) -> None:
    found = counts_by_name(tutorial, tutorial / "AutoPick/job011/coords_suffix_autopick.star")
    assert found == summary(tutorial / "AutoPick/job011/summary.star")


def test_picks_inside_a_particle_table(shared: Path) -> None:
    root = shared / "data/real/bgal-10204-relion5-project"
    if not root.is_dir():
        pytest.skip("the RELION 5 project is not here")
    found = counts_by_name(root, root / "Extract/job009/particles.star")
    assert sum(found.values()) == 2374
    assert len(found) == 10


def test_coordinates_in_text_and_box_files(tmp_path: Path) -> None:
    (tmp_path / "a.box").write_text("10 20 40 60\n0 0 40 60\n")
    picks = read_coordinates(tmp_path / "a.box")
    assert picks.x.tolist() == [30, 20]
    assert picks.y.tolist() == [50, 30]
    (tmp_path / "a.txt").write_text("# x y\n1.5 2.5\n")
    assert read_coordinates(tmp_path / "a.txt").x.tolist() == [1.5]
    assert np.isnan(read_coordinates(tmp_path / "a.txt").score).all()


def test_what_holds_no_picks_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnVoltage\n300\n")
    (tmp_path / "a.txt").write_text("one two\n")
    (tmp_path / "coords_suffix_x.star").write_text("nothere.star\n")
    for action in (
        lambda: read_coordinates(tmp_path / "a.star"),
        lambda: read_coordinates(tmp_path / "a.txt"),
        lambda: read_pick_set(tmp_path / "a.star", tmp_path),
        lambda: read_pick_set(tmp_path / "coords_suffix_x.star", tmp_path),
    ):
        with pytest.raises(DisplayError):
            action()


def test_a_damaged_coordinate_file_counts_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text(
        "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\na.mrc a.star\nb.mrc b.star\n"
    )
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2 3\n")
    assert counts_by_name(tmp_path, tmp_path / "p.star") == {"a.mrc": -1, "b.mrc": 0}
