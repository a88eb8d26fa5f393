"""relion_localsym beside Debian's RELION, and against a map whose parts and operators are known."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from in_process import outcome

from relion_py.compute.cli.localsym import _main
from relion_py.compute.geometry.euler import euler_to_matrix, rotation_angle
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map, write_map
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.post.local_symmetry import cut_to_sphere

BOX, ANGPIX = 44, 2.0
CENTRE = np.array([-9.0, 3.0, 2.0])  # of the original, voxels
OPERATORS = ((40.0, 70.0, -30.0, 22.0, -4.0, 8.0), (120.0, 35.0, 60.0, 20.0, 26.0, -24.0))
LABELS = (
    *("rlnMaskName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
    *("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"),
)
BASE = ("--angpix", "2", "--i_map", "map.mrc")


localsym = partial(outcome, _main)


def density(points: np.ndarray, heights: np.ndarray) -> np.ndarray:
    axis = np.arange(BOX) - BOX // 2
    along = [np.exp(-((axis - points[:, i, None]) ** 2) / (2 * 1.3**2)) for i in range(3)]
    return np.einsum("b,bx,by,bz->zyx", heights, *along, optimize=True)


def ball(centre: np.ndarray, size: float = 6.0) -> np.ndarray:
    """A mask of so many voxels' radius with an edge of two."""
    axis = np.arange(BOX) - BOX // 2
    radius = np.sqrt(
        (axis[:, None, None] - centre[2]) ** 2 + (axis[:, None] - centre[1]) ** 2 + (axis - centre[0]) ** 2
    )
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((radius - size) / 2.0, 0, 1))).astype(np.float32)


def places() -> list[np.ndarray]:
    """Centres of the original and of its copies, voxels."""
    return [CENTRE, *(euler_to_matrix(*op[:3]) @ CENTRE + np.array(op[3:]) / ANGPIX for op in OPERATORS)]


def write_operators(path: Path, operators: tuple[tuple[float, ...], ...]) -> None:
    star.write(path, StarFile([("", Table.from_rows(LABELS, [("m0.mrc", *op) for op in operators]))]))


def operators_of(path: Path) -> np.ndarray:
    table = star.read(path)[""]
    return np.stack([table.floats(label) for label in LABELS[1:]], axis=1)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """map.mrc with a part and two copies of it in noise, their masks, operators that are right or a little off."""
    rng = np.random.default_rng(5)
    points, heights = CENTRE + rng.normal(0, 2.4, (9, 3)), rng.uniform(0.5, 1.5, 9)
    volume = density(points, heights)
    for op in OPERATORS:
        volume += density(points @ euler_to_matrix(*op[:3]).T + np.array(op[3:]) / ANGPIX, heights)
    volume += 0.1 * rng.normal(size=volume.shape)
    write_map(tmp_path / "map.mrc", volume.astype(np.float32), ANGPIX)
    for number, place in enumerate(places()):
        write_map(tmp_path / f"m{number}.mrc", ball(place), ANGPIX)
    write_operators(tmp_path / "ops.star", OPERATORS)
    write_operators(
        tmp_path / "off.star", tuple((r + 2, t - 2, p + 1, x + 1, y, z - 1) for r, t, p, x, y, z in OPERATORS)
    )
    names = {"rlnMaskName": ["m0.mrc", "m1.mrc", "m2.mrc"], "rlnAreaId": [1, 1, 1]}
    star.write(tmp_path / "areas.star", StarFile([("", Table(names))]))
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def both(project: Path, debian_relion: Callable[[str], str]) -> Callable[..., None]:
    """both(words) runs this program and Debian's; OUT stands for the directory of each."""

    def run_both(*words: str) -> None:
        code, _, err = localsym(project, *(word.replace("OUT", "ours") for word in words))
        assert (code, err) == (0, "")
        command = [debian_relion("relion_localsym"), *(word.replace("OUT", "theirs") for word in words)]
        subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=120)

    return run_both


@pytest.mark.parametrize(
    "words",
    [
        (*BASE, "--apply", "--i_mask_info", "ops.star"),
        (*BASE, "--apply", "--i_mask_info", "close.star"),
        (*BASE, "--duplicate", "--i_mask_info", "ops.star"),
        ("--angpix", "2", "--duplicate", "--i_mask_info", "ops.star"),
        (*BASE, "--transform", "--rot", "10", "--tilt", "200", "--psi", "-30", "--xoff", "5", "--zoff", "-3"),
    ],
)
def test_maps_as_debians_relion(project: Path, both: Callable[..., None], words: tuple[str, ...]) -> None:
    # with masks that overlap
    write_operators(project / "close.star", ((20.0, 10.0, 5.0, 4.0, -3.0, 2.0), (0.0, 0.0, 90.0, 1.0, 6.0, 0.0)))
    both(*words, "--o_map", "OUT/out.mrc")
    (ours, pixel), (theirs, their_pixel) = (read_map(project / name / "out.mrc") for name in ("ours", "theirs"))
    assert theirs.std() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert pixel == pytest.approx(their_pixel)
    assert (project / "relion_localsym.log").read_text().count("--angpix 2") == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--i_mask_info", "off.star", "--ang_range", "4", "--ang_step", "2", "--offset_range", "2"),
        ("--i_mask_info", "off.star", "--ang_psi_range", "3", "--offset_range", "2", "--bin", "2"),
        ("--i_mask_info", "off.star", "--ang_range", "9", "--ang_step", "5", "--use_healpix"),
        ("--i_op_mask_info", "areas.star", "--ang_step", "30"),
    ],
)
def test_searches_as_debians_relion(project: Path, both: Callable[..., None], words: tuple[str, ...]) -> None:
    both(*BASE, "--search", *words, "--o_mask_info", "OUT/found.star")
    np.testing.assert_allclose(*(operators_of(project / n / "found.star") for n in ("ours", "theirs")), atol=2e-5)
    for number in (1, 2):
        name = f"found_cc_mask001_op{number:03d}.star"
        ours, theirs = (star.read(project / directory / name)[""] for directory in ("ours", "theirs"))
        assert ours.labels == theirs.labels and len(ours) == len(theirs) > 5
        tables = []
        for table in (ours, theirs):
            rows = np.stack([table.floats(label) for label in table.labels], axis=1)
            tables.append(rows[np.lexsort(np.round(rows[:, :6], 3).T)])
        np.testing.assert_allclose(tables[0][:, :6], tables[1][:, :6], atol=1e-4)
        # Debian's adds up steps along a row; where that carries it over the edge of the box, a voxel is 0
        off = np.abs(tables[0][:, 6] - tables[1][:, 6]) > 1e-4
        assert off.mean() < 0.005


def test_operators_are_found_from_masks_alone(project: Path) -> None:
    words = (*BASE, "--search", "--i_op_mask_info", "areas.star", "--ang_step", "20", "--o_mask_info", "first.star")
    assert localsym(project, *words)[0] == 0
    source = "first.star"
    for step in (8, 4, 2, 1):
        ranges = ("--ang_range", str(2 * step), "--ang_step", str(step), "--offset_range", "1", "--offset_step", "0.5")
        words = (*BASE, "--search", "--i_mask_info", source, "--o_mask_info", f"step{step}.star", *ranges)
        assert localsym(project, *words)[0] == 0
        source = f"step{step}.star"
    found = operators_of(project / source)
    for op, truth, place in zip(found, OPERATORS, places()[1:], strict=True):
        assert rotation_angle(euler_to_matrix(*op[:3]), euler_to_matrix(*truth[:3])) < 3.0
        assert np.linalg.norm(euler_to_matrix(*op[:3]) @ CENTRE + op[3:] / ANGPIX - place) < 0.5


def test_the_mean_has_less_noise(project: Path) -> None:
    assert localsym(project, *BASE, "--apply", "--i_mask_info", "ops.star", "--o_map", "out.mrc")[0] == 0
    before, after = read_map(project / "map.mrc")[0], read_map(project / "out.mrc")[0]
    rng = np.random.default_rng(5)
    points, heights = CENTRE + rng.normal(0, 2.4, (9, 3)), rng.uniform(0.5, 1.5, 9)
    truth, inside = density(points, heights), ball(CENTRE) > 0.99
    assert (after - truth)[inside].std() < 0.75 * (before - truth)[inside].std()
    far = sum(ball(place, 8.0) for place in places()) == 0
    assert np.array_equal(after[far], before[far])


def test_the_sphere_ends_softly() -> None:
    cut = cut_to_sphere(np.ones((40, 41, 42), np.float32), 10.0, 5.0)
    line = cut[20, 20, 21:]
    assert (line[:11] == 1).all() and (line[15:] < 1e-7).all()
    np.testing.assert_allclose(line[10:16], 0.5 + 0.5 * np.cos(np.pi * np.arange(6) / 5), atol=1e-6)


DM = """# a comment
MASKFILENAME m0.mrc
ROTA EULER 40 70 -30
TRAN  22 -4 8

ROTA POLAR 50 20 120
TRAN  1 2 3
ROTA MATRIX 0 -1 0
1 0 0
0 0 1
TRAN 4 5 6
OMAT
 1 0 0
 0 0 -1
 0 1 0
 7 8 9
MASKFILENAME m1.mrc
ROTA EULER 0 0 0
TRAN 0 0 0
ROTA EULER 190 -20 400
TRAN 0 0 1
"""


def test_text_of_dm_as_debians_relion(project: Path, both: Callable[..., None]) -> None:
    (project / "in.txt").write_text(DM)
    both("--txt2rln", "--i_mask_info", "in.txt", "--o_mask_info", "OUT/out.star")
    ours, theirs = (star.read(project / name / "out.star")[""] for name in ("ours", "theirs"))
    assert ours.labels == theirs.labels
    assert ours.strings("rlnMaskName") == theirs.strings("rlnMaskName") == ["m0.mrc"] * 4 + ["m1.mrc"]
    np.testing.assert_allclose(*(operators_of(project / n / "out.star") for n in ("ours", "theirs")), atol=1e-5)
    words = ("--i_mask_info", "ops.star", "--o_mask_info", "OUT/back.txt", "--ang_psi_range", "1")
    both(*BASE, "--search", *words)
    ours_text, theirs_text = ((project / name / "back.txt").read_text() for name in ("ours", "theirs"))
    assert ours_text == theirs_text


def test_ranks_share_the_samples(project: Path) -> None:
    launcher, entry = Path(sys.executable).with_name("mpirun"), "relion_py.compute.cli.localsym"
    if not launcher.exists():
        pytest.skip("mpirun is not installed beside this Python")
    words = (*BASE, "--search", "--i_mask_info", "off.star", "--ang_psi_range", "3", "--offset_range", "2")
    assert localsym(project, *words, "--o_mask_info", "ours/one.star")[0] == 0
    command = [str(launcher), "-n", "2", sys.executable, "-m", entry, *words, "--o_mask_info", "ours/two.star"]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=120)
    for end in (".star", "_cc_mask001_op001.star", "_cc_mask001_op002.star"):
        one, two = ((project / f"ours/{name}{end}").read_text() for name in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--angpix", "2"), "Give one of --apply"),
        (("--apply", "--search", *BASE), "Give one of --apply"),
        (("--apply", "--i_mask_info", "ops.star", *BASE), "--o_map must be given"),
        (
            ("--apply", "--i_mask_info", "areas.star", "--o_map", "o.mrc", *BASE),
            "areas.star has no table with _rlnMaskName",
        ),
        (("--apply", "--i_mask_info", "none.txt", "--o_map", "o.mrc", *BASE), "none.txt: there is no such file"),
        (("--apply", "--i_mask_info", "twice.star", "--o_map", "o.mrc", *BASE), "same operator twice"),
        (("--apply", "--i_mask_info", "nought.star", "--o_map", "o.mrc", *BASE), "no operator but the identity"),
        (
            ("--search", "--i_mask_info", "ops.star", "--ang_range", "1", "--ang_step", "2", *BASE),
            "--ang_step must not",
        ),
        (("--debug", *BASE), "--debug is not available"),
    ],
)
def test_mistakes_are_told(project: Path, words: tuple[str, ...], sentence: str) -> None:
    write_operators(project / "twice.star", (OPERATORS[0], OPERATORS[0]))
    write_operators(project / "nought.star", ((0.0, 0.0, 360.0, 0.0, 0.0, 0.0),))
    code, _, err = localsym(project, *words)
    assert code == 1 and sentence in err and "Traceback" not in err
    assert not (project / "o.mrc").exists()
