"""Symmetry operators and their order against what RELION 5 printed (relion_refine --print_symmetry_ops)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import matrix_to_euler
from relion_py.compute.geometry.symmetry import canonical, operators, order

GOLDEN = Path(__file__).parents[2] / "golden" / "symmetry"
PRINTED = sorted(p.stem for p in GOLDEN.glob("*.txt"))


def printed_operators(name: str) -> np.ndarray:
    text = (GOLDEN / f"{name}.txt").read_text()
    blocks = re.findall(r"R\(\d+\)=((?:\s+[-+\d.eE]+){9})", text)
    return np.array([[float(w) for w in block.split()] for block in blocks]).reshape(-1, 3, 3)


@pytest.mark.parametrize("name", PRINTED)
def test_operators_and_their_order_are_relions(name: str) -> None:
    expected = printed_operators(name)
    assert len(expected) >= 1
    np.testing.assert_allclose(operators(name), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "count"),
    [("C1", 1), ("C13", 13), ("D1", 2), ("D12", 24), ("T", 12), ("O", 24), ("I", 60), ("I4", 60)],
)
def test_groups_are_closed_and_exact(name: str, count: int) -> None:
    group = operators(name)
    assert len(group) == count == order(name)
    np.testing.assert_allclose(group @ group.transpose(0, 2, 1), np.broadcast_to(np.eye(3), group.shape), atol=1e-13)
    np.testing.assert_allclose(np.linalg.det(group), 1.0, atol=1e-13)
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 1, 3, 3)
    nearest = np.abs(products - group[None]).max(axis=(2, 3)).min(axis=1)
    assert nearest.max() < 1e-12
    apart = np.abs(group[:, None] - group[None]).max(axis=(2, 3)) + np.eye(count)
    assert apart.min() > 0.1


def test_euler_angles_of_operators_are_those_printed() -> None:
    text = (GOLDEN / "I1.txt").read_text()
    printed = np.array([[float(w) for w in m.split()] for m in re.findall(r"Euler angles:(.*)", text)])
    ours = np.stack(matrix_to_euler(operators("I1")[1:]), axis=1)
    difference = (ours - printed + 180) % 360 - 180
    inside = (printed[:, 1] > 1) & (printed[:, 1] < 179)
    assert np.abs(difference[inside]).max() < 2e-3


def test_i_is_i2_and_names_are_tidied() -> None:
    np.testing.assert_array_equal(operators("I"), operators("I2"))
    assert [canonical(n) for n in (" c04", "d7 ", "i1", "o", "i")] == ["C4", "D7", "I1", "O", "I"]


@pytest.mark.parametrize("name", ["", "C", "C0", "D0", "C100", "X3", "I5", "C-1", "C1;rm", "../C1"])
def test_no_point_group(name: str) -> None:
    with pytest.raises(UserError, match="Unknown point group"):
        operators(name)


@pytest.mark.parametrize("name", ["CI", "Cs", "C3v", "C12h", "S4", "D2h", "D3v", "Td", "Th", "Oh", "Ih", "I2h"])
def test_mirror_groups_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="mirror planes"):
        operators(name)


def test_operators_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        operators("C2")[0, 0, 0] = 5
