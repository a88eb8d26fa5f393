"""Filaments: known ones are found along their length, and RELION 3.1.3 is a witness."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulated_device import EmulatedDevice
from in_process import exit_status
from scipy import ndimage

from relion_py.compute.backend import cuda_device
from relion_py.compute.backend.cuda_device import Share
from relion_py.compute.cli import autopick
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map, write_stack
from relion_py.compute.io.star import Table
from relion_py.compute.picking.filaments import cut_track, join_discs

MINE, THEIRS = "AutoPick/job003/", "AutoPick/theirs/"
SIZE, PIXEL, WIDTH = 320, 2.0, 12
REFS = (
    "--ref refs.mrcs --invert --particle_diameter 130 --ang 5 --lowpass 10 --threshold 0.5 --min_distance 20 --helix "
    "--helical_tube_outer_diameter 30 --helical_tube_kappa_max 0.3 --helical_tube_length_min 150"
)
LABELS = [
    "rlnCoordinateX", "rlnCoordinateY", "rlnClassNumber", "rlnAutopickFigureOfMerit", "rlnHelicalTubeID",
    "rlnAngleTiltPrior", "rlnAnglePsiPrior", "rlnHelicalTrackLengthAngst", "rlnAnglePsiFlipRatio",
]  # fmt: skip

Lines = list[np.ndarray]


def lines() -> Lines:
    """Points (N, 2), x and y, along three filaments that do not cross; the last one is bent."""
    step = np.arange(0, 1, 0.002)[:, None]
    return [
        np.array([40, 60]) + step * np.array([240, 30]),
        np.array([50, 130]) + step * np.array([60, 160]),
        np.array([150, 140]) + step * np.array([130, 90]) + np.array([18, -26]) * np.sin(np.pi * step) * 0.5,
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """A micrograph of dark filaments and a reference that lies along x."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("Raw")
    image = np.random.default_rng(1).standard_normal((SIZE, SIZE)) * 0.8
    for line in lines():
        drawn = np.ones((SIZE, SIZE), bool)
        x, y = np.floor(line + 0.5).astype(int).T
        drawn[y, x] = False
        image -= ndimage.gaussian_filter((ndimage.distance_transform_edt(drawn) < WIDTH / 2).astype(float), 1)
    write_map("Raw/a.mrc", image.astype(np.float32), PIXEL)
    reference = np.zeros((72, 72))
    reference[36 - WIDTH // 2 : 36 + WIDTH // 2 + 1] = 1
    write_stack("refs.mrcs", ndimage.gaussian_filter(reference, 1)[None].astype(np.float32), PIXEL)
    return lines()


def words(options: str, odir: str) -> list[str]:
    os.makedirs(odir, exist_ok=True)
    return ["--i", "Raw/*.mrc", "--angpix", "2", "--odir", odir, "--pickname", "autopick", *options.split()]


def run(options: str, status: int = 0) -> None:
    assert exit_status(autopick.main, *words(options, MINE)) == status


def picks(odir: str = MINE) -> Table:
    return star.read(f"{odir}Raw/a_autopick.star")[""]


def offsets(table: Table, known: Lines) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each segment: its filament, the distance from it (pixels), and the error of psi (degrees, 0 to 90)."""
    x, y = table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")
    distance = np.stack([np.hypot(x[:, None] - line[:, 0], y[:, None] - line[:, 1]).min(1) for line in known])
    which = distance.argmin(0)
    error = np.empty(len(x))
    for segment, filament in enumerate(which):
        line = known[filament]
        place = np.hypot(x[segment] - line[:, 0], y[segment] - line[:, 1]).argmin()
        way = line[min(place + 20, len(line) - 1)] - line[max(place - 20, 0)]
        turn = abs(-np.rad2deg(np.arctan2(way[1], way[0])) - table.floats("rlnAnglePsiPrior")[segment]) % 180
        error[segment] = min(turn, 180 - turn)
    return which, distance.min(0), error


@pytest.mark.parametrize("options", [f"{REFS} --shrink 1", f"{REFS} --shrink 0.6", f"{REFS} --shrink 0.6 --amyloid"])
def test_known_filaments(project: Lines, options: str) -> None:
    run(options)
    table = picks()
    which, distance, error = offsets(table, project)
    assert set(which) == {0, 1, 2}
    assert np.mean(distance < 5) > 0.9 and np.median(error) < 8
    for filament, line in enumerate(project):
        # segments come every 20 A along what is not near the edge
        length = np.hypot(*np.diff(line, axis=0).T).sum() * PIXEL
        assert 0.4 * length / 20 < (which == filament).sum() < 1.3 * length / 20
    assert set(table.floats("rlnAngleTiltPrior")) == {90.0}
    assert set(table.floats("rlnAnglePsiFlipRatio")) == {0.5} == set(table.floats("rlnAngleRotFlipRatio"))
    tubes, along = table.ints("rlnHelicalTubeID"), table.floats("rlnHelicalTrackLengthAngst")
    x, y = table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")
    for tube in set(tubes):
        mine = tubes == tube
        steps = np.hypot(np.diff(x[mine]), np.diff(y[mine])) * PIXEL
        assert np.allclose(steps, np.diff(along[mine]), rtol=0.2, atol=2.0)


def test_the_same_segments_as_relion(project: Lines, debian_relion: Callable[[str], str]) -> None:
    """From RELION 3.1.3's maps of figures of merit its own segments, all of them."""
    options = f"{REFS} --shrink 1 --write_fom_maps"
    run(options)
    subprocess.run(
        [debian_relion("relion_autopick"), *words(options, THEIRS)], check=True, capture_output=True, timeout=120
    )
    maps = {path.name for path in Path(THEIRS).rglob("*.spi")} - {"a_autopick_combinedPLOT.spi"}
    assert maps == {path.name for path in Path(MINE).rglob("*.spi")}
    for name in maps:
        Path(f"{MINE}Raw/{name}").write_bytes(Path(f"{THEIRS}Raw/{name}").read_bytes())
    run(f"{REFS} --shrink 1 --read_fom_maps")
    mine, other = picks(), picks(THEIRS)
    assert len(mine) == len(other) > 15
    for label in LABELS:
        if label in other:
            np.testing.assert_allclose(mine.floats(label), other.floats(label), atol=2e-3, err_msg=label)


def test_amyloids_begin_where_relion_begins(project: Lines, debian_relion: Callable[[str], str]) -> None:
    """The same filaments of the same places; RELION 3.1.3 spaces segments unevenly, the first of each is the same."""
    options = f"{REFS} --shrink 0.6 --amyloid"
    subprocess.run(
        [debian_relion("relion_autopick"), *words(f"{options} --write_fom_maps", THEIRS)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    os.makedirs(f"{MINE}Raw")
    for path in Path(THEIRS).rglob("*.spi"):
        Path(f"{MINE}Raw/{path.name}").write_bytes(path.read_bytes())
    run(f"{options} --read_fom_maps")
    first = []
    for table in (picks(), picks(THEIRS)):
        tubes = table.ints("rlnHelicalTubeID")
        heads = [int(np.flatnonzero(tubes == tube)[0]) for tube in sorted(set(tubes.tolist()))]
        labels = ("rlnCoordinateX", "rlnCoordinateY", "rlnAnglePsiPrior", "rlnAutopickFigureOfMerit")
        first.append(np.stack([table.floats(label)[heads] for label in labels], 1))
    assert len(first[0]) == len(first[1]) >= 2
    np.testing.assert_allclose(first[0], first[1], atol=2e-3)


@pytest.mark.req("A1")
def test_filaments_on_a_gpu_are_those_of_the_cpu(project: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    run(f"{REFS} --shrink 0.6")
    wanted, device = picks(), EmulatedDevice()
    monkeypatch.setattr(cuda_device, "open_devices", lambda *_: [Share(device, 1 << 30)])
    run(f"{REFS} --shrink 0.6 --gpu 0")
    found = picks()
    assert "figures_of_merit" in device.launches and found.labels == wanted.labels and len(found) > 20
    # where segments lie follows from the best maps, in which the CPU may choose its own way of matching;
    # psi is that of a track's direction to a step of --ang
    for label, tolerance in (
        ("rlnCoordinateX", 1.0), ("rlnCoordinateY", 1.0), ("rlnAutopickFigureOfMerit", 0.01), ("rlnAnglePsiPrior", 5.0),
    ):  # fmt: skip
        np.testing.assert_allclose(found.floats(label), wanted.floats(label), atol=tolerance, err_msg=label)


def test_limits(project: Lines) -> None:
    run(f"{REFS} --shrink 0.6 --write_fom_maps")
    everything = len(picks())
    run(f"{REFS} --shrink 0.6 --read_fom_maps --helical_tube_length_min 250")
    assert 0 < len(picks()) < everything
    run(f"{REFS} --shrink 0.6 --read_fom_maps --threshold 50")
    assert len(picks()) == 0 and picks().labels[:2] == ["rlnCoordinateX", "rlnCoordinateY"]


def row_of_discs(places: list[tuple[float, float]]) -> np.ndarray:
    """Discs as `find_discs` gives them, the strongest last."""
    return np.array([(x, y, 4.0, 40.0, 1.0 + index / 100) for index, (x, y) in enumerate(places)])


def test_a_filament_is_not_lost_with_its_strongest_disc() -> None:
    """The strongest lie where too few others are near: RELION uses them up, and then there are too few for the rest."""
    along = [*range(-80, 81, 16)]
    order = sorted(along, key=lambda x: -abs(x), reverse=True)  # the ends are the strongest
    (track,) = join_discs(row_of_discs([(x, 3.0) for x in order]), 80.0, 20.0, 0.01, 10.0)
    assert np.ptp(track.points[:, 0]) >= 140 and np.abs(track.points[:, 1] - 3).max() < 1e-6
    one_by_one = row_of_discs([(x, 3.0) for x in range(-80, 81, 45)])  # farther apart than half a particle
    assert join_discs(one_by_one, 80.0, 20.0, 0.01, 10.0) == []


def test_tracks_along_x_go_both_ways() -> None:
    """Directions a little above and below 180 degrees are neighbours; as any other line, turned, is followed."""
    random = np.random.default_rng(2)
    wave = random.uniform(-1.0, 1.0, 16)
    lengths = []
    for angle in (0.0, 40.0, 90.0, 180.0):
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        places = [(c * x - s * y, s * x + c * y) for x, y in zip(np.arange(16) * 15.0 - 110, wave, strict=True)]
        (track,) = join_discs(row_of_discs(places), 80.0, 20.0, 0.02, 10.0)
        lengths.append(track.length)
    assert np.ptp(lengths) < 1e-6 and lengths[0] > 190


def test_segments_along_a_track() -> None:
    points = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 10.0], [3.0, 10.5]])
    cut = cut_track(points, 2.0)
    np.testing.assert_allclose(cut[:3, :2], [[0, 0], [1.2, 1.6], [2.4, 3.2]])
    np.testing.assert_allclose(cut[3:6, :2], [[3, 5], [3, 7], [3, 9]])
    np.testing.assert_allclose(cut[:-1, 2], [*[np.rad2deg(np.arctan2(4, 3))] * 3, 90, 90, 90])
    assert len(cut) == 7 and cut[-1, 2] > 360


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("--helical_tube_kappa_max 2", "--helical_tube_kappa_max must"),
        ("--min_distance -1", "--helix needs --min_distance"),
        ("--helical_tube_outer_diameter 140", "--helical_tube_outer_diameter must"),
        ("--min_distance 2 --shrink 0.2", "at least one"),
    ],
)
def test_what_cannot_be_is_said(project: Lines, options: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"{REFS} {options}", status=1)
    assert part in capsys.readouterr().err
