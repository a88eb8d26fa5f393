"""The body STAR file: masks, centres, axes, overlaps, and the residual angles that bodies are turned by."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.refine.bodies import Bodies, align_with_z, bild, moved, read_bodies

BOX, PIXEL = 20, 2.0
CENTRES = ((-4.0, 1.0, 0.0), (4.0, -2.0, 1.0), (0.0, 3.0, 4.0))


def ball(centre: tuple[float, float, float], radius: float, edge: float = 2.0) -> np.ndarray:
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
    return np.clip((radius + edge - distance) / edge, 0, 1).astype(np.float32)


def write(
    directory: Path, lines: list[str], labels: str = "MaskName RotateRelativeTo SigmaAngles SigmaOffsetAngst"
) -> str:
    for number, centre in enumerate(CENTRES, 1):
        with mrcfile.new(directory / f"mask{number}.mrc", overwrite=True) as file:
            file.set_data(ball(centre, 3.5))
            file.voxel_size = PIXEL
    head = "".join(f"_rlnBody{label}\n" for label in labels.split())
    rows = "\n".join(line.replace("mask", f"{directory}/mask") for line in lines)
    path = directory / "bodies.star"
    path.write_text(f"data_\n\nloop_\n{head}{rows}\n")
    return str(path)


@pytest.fixture
def three(tmp_path: Path) -> Bodies:
    return read_bodies(write(tmp_path, ["mask1.mrc 2 10 2", "mask2.mrc 1 8 3", "mask3.mrc 1 0 0"]), BOX, PIXEL)


def test_a_file_is_read(three: Bodies) -> None:
    assert [body.centre.tolist() for body in three.bodies] == [list(map(int, centre)) for centre in CENTRES]
    assert three[0].axis == pytest.approx(np.array([8.0, -3.0, 1.0]) / np.sqrt(74))
    assert three[2].axis == pytest.approx(np.array([-4.0, -2.0, -4.0]) / 6.0)
    assert [(body.sigma_tilt, body.sigma_psi, body.sigma_offset) for body in three.bodies] == [
        (10, 10, 2), (8, 8, 3), (0, 0, 0),
    ]  # fmt: skip
    assert [body.is_fixed for body in three.bodies] == [False, False, True]
    # values above 0.05 reach to 3.5 + 1.9 pixels
    assert all(PIXEL * 5 <= body.radius <= PIXEL * 5.5 + 1 for body in three.bodies)


def test_the_frame_has_the_axis_for_z(three: Bodies) -> None:
    for body in three.bodies:
        assert body.frame @ body.frame.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(body.frame) == pytest.approx(1.0)
        assert body.frame @ -body.axis == pytest.approx([0, 0, 1], abs=1e-12)
    assert align_with_z(np.array([1.0, 0, 0])) @ [1, 0, 0] == pytest.approx([0, 0, 1])
    assert align_with_z(np.array([-1.0, 0, 0])) @ [-1, 0, 0] == pytest.approx([0, 0, 1])


def test_residual_angles_turn_about_the_bodys_axis(three: Bodies) -> None:
    body, consensus = three[0], euler_to_matrix(np.array([20.0, -70.0]), np.array([50.0, 110.0]), np.array([5.0, 90.0]))
    still = np.tile(euler_to_matrix(0.0, 90.0, 0.0), (2, 1, 1))
    assert body.own_matrices(consensus, still) == pytest.approx(consensus, abs=1e-12)
    # rot is a turn about the axis itself, which stays where it is
    turn = body.turn(euler_to_matrix(25.0, 90.0, 0.0))
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(25.0)
    # psi is about x of the projection at (0, 90, 0): also an angle of its own
    for angles in ((0.0, 97.0, 0.0), (0.0, 90.0, -7.0)):
        turn = body.turn(euler_to_matrix(*angles))
        assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(7.0)
    residual = euler_to_matrix(np.array([3.0, -8.0]), np.array([95.0, 88.0]), np.array([4.0, -6.0]))
    own = body.own_matrices(consensus, residual)
    assert own == pytest.approx(consensus @ body.turn(residual), abs=1e-12)
    assert body.residual_matrices(consensus, own) == pytest.approx(residual, abs=1e-12)


def test_what_is_subtracted_is_neither_the_body_nor_twice_the_same(three: Bodies) -> None:
    """By hand: each of the others less what belongs to the body or was subtracted with one before."""
    a, b, c = (body.mask.astype(np.float64) for body in three.bodies)
    assert (a * b).sum() > 0 and (b * c).sum() > 0
    assert three.subtracted(0, 1) == pytest.approx(b - a * b, abs=1e-6)
    assert three.subtracted(0, 2) == pytest.approx(c - (a + (b - a * b)) * c, abs=1e-6)
    assert three.subtracted(1, 0) == pytest.approx(a - b * a, abs=1e-6)
    assert three.subtracted(2, 1) == pytest.approx(b - (c + (a - c * a)) * b, abs=1e-6)
    # where a body is all there is, nothing of the others is subtracted
    for i in range(3):
        whole = three[i].mask >= 1.0
        for other in {0, 1, 2} - {i}:
            assert np.abs(three.subtracted(i, other)[whole]).max() < 1e-6


def test_masks_can_be_divided_by_their_sum(tmp_path: Path) -> None:
    path = write(tmp_path, ["mask1.mrc 2 10 2", "mask2.mrc 1 8 3", "mask3.mrc 1 5 5"])
    bodies = read_bodies(path, BOX, PIXEL, normalise_overlap=True)
    raw = np.sum([ball(centre, 3.5) for centre in CENTRES], axis=0)
    assert raw.max() > 1.5
    assert np.sum([body.mask for body in bodies.bodies], axis=0) == pytest.approx(np.minimum(raw, 1.0), abs=1e-5)
    assert bodies.subtracted(0, 1) is None


def test_a_map_is_moved_with_zeros_coming_in() -> None:
    volume = np.random.default_rng(1).normal(size=(6, 6, 6)).astype(np.float32)
    rolled = np.roll(volume, (-1, 0, 2), (0, 1, 2))
    rolled[-1], rolled[:, :, :2] = 0, 0
    assert (moved(volume, np.array([2, 0, -1])) == rolled).all()
    assert not moved(volume, np.array([7, 0, 0])).any()


def test_the_drawing_of_the_bodies(three: Bodies) -> None:
    """Spheres at the centres, one pixel on as in RELION's, and arrows of ten pixels along the axes."""
    lines = bild(three, BOX, PIXEL).splitlines()
    spheres = [[float(word) for word in line.split()[1:4]] for line in lines if line.startswith(".sphere")]
    assert spheres[0] == [20.0, 20.0, 20.0]
    assert spheres[1:] == [[20 + PIXEL * (place + 1) for place in centre] for centre in CENTRES]
    arrow = [float(word) for word in next(line for line in lines if line.startswith(".arrow")).split()[1:]]
    assert np.linalg.norm(np.subtract(arrow[3:6], arrow[:3])) == pytest.approx(10 * PIXEL, rel=1e-4)


@pytest.mark.parametrize(
    ("lines", "labels", "told"),
    [
        (["mask1.mrc 2 10 2"], None, "has 1 bodies"),
        (["mask1.mrc 2 10 2", "mask9.mrc 1 8 3"], None, "mask9.mrc, which does not exist"),
        (["mask1.mrc 1 10 2", "mask2.mrc 1 8 3"], None, "body 1 cannot rotate relative to body 1"),
        (["mask1.mrc 3 10 2", "mask2.mrc 1 8 3"], None, "cannot rotate relative to body 3"),
        (["mask1.mrc 2 10 2", "mask2.mrc 1 0 3"], None, "body 2 has a standard deviation of 0 and others"),
        (["mask1.mrc 2 -1 2", "mask2.mrc 1 8 3"], None, "not negative"),
        (["mask1.mrc 10", "mask2.mrc 8"], "MaskName SigmaAngles", "no column _rlnBodySigmaOffsetAngst"),
        (["mask1.mrc 10", "mask2.mrc 8"], "MaskName SigmaOffsetAngst", "no column _rlnBodySigmaAngles"),
        (["mask1.mrc 10", "mask2.mrc 8"], "ReferenceName SigmaOffsetAngst", "no column _rlnBodyMaskName"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, lines: list[str], labels: str | None, told: str) -> None:
    path = write(tmp_path, lines, labels) if labels else write(tmp_path, lines)
    with pytest.raises(UserError, match=told):
        read_bodies(path, BOX, PIXEL)


def test_masks_that_do_not_fit_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, ["mask1.mrc 2 10 2", "mask2.mrc 1 8 3"])
    with pytest.raises(UserError, match=r"has 20 pixels, but the maps have 24"):
        read_bodies(path, 24, PIXEL)
    with pytest.raises(UserError, match=r"pixels of 2 A, but the maps have 3 A"):
        read_bodies(path, BOX, 3.0)
    with mrcfile.open(tmp_path / "mask2.mrc", mode="r+") as file:
        file.data[0, 0, 0] = 1.5
    with pytest.raises(UserError, match=r"values from 0 to 1.5"):
        read_bodies(path, BOX, PIXEL)


def test_other_columns_of_the_file(tmp_path: Path) -> None:
    """Separate angles, offsets in pixels of older files, given directions, and a map of its own."""
    labels = "MaskName RotateDirectionX RotateDirectionY RotateDirectionZ SigmaTilt SigmaPsi SigmaOffset ReferenceName"
    path = write(tmp_path, ["mask1.mrc 0 3 4 10 5 2 None", "mask2.mrc 1 0 0 9 4 1 other.mrc"], labels)
    bodies = read_bodies(path, BOX, PIXEL)
    assert bodies[0].axis == pytest.approx([0, 0.6, 0.8])
    assert (bodies[0].sigma_tilt, bodies[0].sigma_psi, bodies[0].sigma_offset) == (10, 5, 2 * PIXEL)
    assert [body.reference for body in bodies.bodies] == ["", "other.mrc"]
