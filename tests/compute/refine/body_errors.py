"""How far the poses of bodies are from the truth of a simulation (`relion_py/compute/simulate_bodies.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from relion_py.compute.geometry.euler import euler_to_matrix, rotation_angle
from relion_py.compute.io import star
from relion_py.compute.io.star import Table
from relion_py.compute.refine.bodies import Body


def poses(path: Path) -> dict[str, Table]:
    """The tables of the particles and of the bodies, in the order of the images' names."""
    tables = star.read(path)
    order = np.argsort(tables["particles"].strings("rlnImageName"))
    return {name: table.select(order) for name, table in tables.items() if name != "optics"}


def matrices(table: Table) -> np.ndarray:
    return euler_to_matrix(*(table.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")))


def origins(table: Table) -> np.ndarray:
    return np.stack([table.floats(f"rlnOrigin{axis}Angst") for axis in "XY"], axis=1)


def errors(
    project: Path, found: dict[str, Table], bodies: Sequence[Body], b: int, pixel: float, moved: bool = True
) -> tuple[float, float]:
    """Median errors of a body's orientations (degrees) and rms error of its places (A), apart from what the map as a
    whole has turned and moved; moved: with its residual pose, else where the consensus alone has it."""
    truth, body, name = poses(project / "truth.star"), bodies[b], f"images_body_{b + 1}"

    def own(tables: dict[str, Table], residual: bool) -> tuple[np.ndarray, np.ndarray]:
        consensus = matrices(tables["particles"])
        at = (consensus @ (body.centre * pixel))[:, :2] - origins(tables["particles"])
        if not residual:
            return consensus, at
        return body.own_matrices(consensus, matrices(tables[name])), at - origins(tables[name])

    (true, place), (mine, other) = own(truth, True), own(found, moved)
    u, _, v = np.linalg.svd((np.swapaxes(true, 1, 2) @ mine).sum(axis=0))
    angles = rotation_angle(mine @ (u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v).T, true)
    rows, away = true[:, :2].reshape(-1, 3), (other - place).reshape(-1)
    rest = away - rows @ np.linalg.lstsq(rows, away, rcond=None)[0]
    return float(np.median(angles)), float(np.sqrt(2 * np.mean(rest**2)))
