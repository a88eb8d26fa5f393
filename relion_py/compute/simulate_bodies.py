"""Simulated particles of several bodies that move against each other, with the truth of every motion.

A body is a pseudo-atomic chain. In each particle it is turned about its centre of mass by a random rotation and moved
by a random vector, in the frame of the map; then the whole is projected as in `simulate.py`. Consensus poses, those of
the map at rest, are told in the particles' file as a refinement would leave them; `truth.star` has the bodies' residual
poses beside them, in RELION's tables images_body_1 ... (see `refine/bodies.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from relion_py.compute.geometry.euler import matrix_to_euler
from relion_py.compute.image.ctf import ctf_image
from relion_py.compute.image.fourier import lowpass, phase_shift, real_image
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import mrc, star
from relion_py.compute.io.particles import image_name
from relion_py.compute.io.star import Table
from relion_py.compute.refine.bodies import Bodies, read_bodies
from relion_py.compute.simulate import (
    PER_MICROGRAPH,
    Poses,
    model_mask,
    random_ctf,
    random_poses,
    star_tables,
    with_poses,
)
from relion_py.compute.simulate_model import PseudoAtoms, build_model, model_map, project


@dataclass(frozen=True)
class Mover:
    """A body: its place (x, y, z, A), diameter (A) and atoms, and how it moves.

    turn: standard deviation (degrees) of its rotation about each of x, y and z; move: of its displacement, A.
    relative_to: number of the body it turns against, from 1.
    """

    place: tuple[float, float, float]
    diameter: float = 60.0
    atoms: int = 300
    turn: tuple[float, float, float] = (4.0, 4.0, 4.0)
    move: tuple[float, float, float] = (1.5, 1.5, 1.5)
    relative_to: int = 1


TWO = (
    Mover((-32.0, 0.0, 0.0), 75.0, 350, (1.0, 1.0, 1.0), (0.5, 0.5, 0.5), 2),
    Mover((38.0, 6.0, 0.0), 60.0, 220, (2.0, 2.0, 9.0), (1.5, 1.5, 1.5), 1),
)
"""A large body that hardly moves, and a smaller one that swings mainly about z."""


@dataclass(frozen=True)
class BodiesSimulation:
    """What was written, and the truth: turns (B, N, 3, 3) and moves (B, N, 3) A in the frame of the map."""

    particles: Path
    truth: Path
    bodies_star: Path
    maps: tuple[Path, ...]
    whole: Path
    reference: Path
    bodies: Bodies
    poses: Poses
    turns: NDArray[np.float64]
    moves: NDArray[np.float64]


def simulate_bodies(
    out_dir: str | os.PathLike[str],
    movers: Sequence[Mover] = TWO,
    n: int = 300,
    box: int = 48,
    angpix: float = 4.5,
    seed: int = 1,
    snr: float = 0.3,
    *,
    sigma_angles: float = 10.0,
    sigma_offset: float = 3.0,
    shift: float = 4.0,
    reference_resolution: float = 25.0,
) -> BodiesSimulation:
    """Writes particles of `movers` below out_dir and returns the truth; the same arguments write the same files.

    Written: Particles/*.mrcs, particles.star (with the consensus poses and two random halves), truth.star, bodyN.mrc,
    maskN.mrc, whole.mrc (all bodies at rest), reference.mrc (low-passed, A) and bodies.star, whose priors have standard
    deviations sigma_angles (degrees) and sigma_offset (A). snr: as in `simulate.simulate_particles`; shift: standard
    deviation of the particles' origins, A.
    """
    out, random = Path(out_dir), np.random.default_rng(seed)
    (out / "Particles").mkdir(parents=True, exist_ok=True)
    chains = [_chain(mover, angpix, seed + b) for b, mover in enumerate(movers)]
    bodies = _write_bodies(out, movers, chains, box, angpix, sigma_angles, sigma_offset)
    poses, ctf = random_poses(n, shift, 1, random), random_ctf(n, (8000.0, 20000.0), np.zeros(n, np.int64), random)
    turns = np.stack(
        [Rotation.from_rotvec(np.deg2rad(random.normal(size=(n, 3)) * m.turn)).as_matrix() for m in movers]
    )
    moves = np.stack([random.normal(size=(n, 3)) * m.move for m in movers])
    signals = np.stack([_projection(chains, bodies, turns[:, i], moves[:, i], poses, i, box, angpix) for i in range(n)])
    signals *= ctf_image(ctf, box, angpix)
    images = real_image(signals, box).astype(np.float32)
    reach = max(float(np.linalg.norm(mover.place)) + 0.5 * mover.diameter for mover in movers)
    circle = soft_mask(box, reach / angpix, 0.0, 2) > 0.5
    factor = float(np.sqrt((snr if np.isfinite(snr) else 1.0) / images[:, circle].var(axis=1).mean()))
    images *= factor
    if np.isfinite(snr):
        images += random.standard_normal(images.shape, dtype=np.float32)
    names = []
    for first in range(0, n, PER_MICROGRAPH):
        path = out / "Particles" / f"mic{first // PER_MICROGRAPH + 1:04d}.mrcs"
        part = images[first : first + PER_MICROGRAPH]
        mrc.write_stack(path, part, angpix)
        names += [image_name(i, f"Particles/{path.name}") for i in range(len(part))]
    tables = star_tables(names, ctf, np.zeros(n, np.int64), 1, box, angpix, random)
    particles = with_poses(tables["particles"], poses)
    particles.set("rlnRandomSubset", random.permutation(np.arange(n) % 2) + 1)
    star.write(out / "particles.star", {"optics": tables["optics"], "particles": particles})
    residuals = {
        f"images_body_{b + 1}": _residual(body, poses, turns[b], moves[b]) for b, body in enumerate(bodies.bodies)
    }
    star.write(out / "truth.star", {"optics": tables["optics"], "particles": particles, **residuals})
    maps = tuple(out / f"body{b + 1}.mrc" for b in range(len(movers)))
    volumes = [model_map(chain.scaled(factor), box, angpix) for chain in chains]
    for path, volume in zip(maps, volumes, strict=True):
        mrc.write_map(path, volume, angpix)
    whole = np.sum(volumes, axis=0)
    mrc.write_map(out / "whole.mrc", whole, angpix)
    mrc.write_map(out / "reference.mrc", lowpass(whole, angpix, reference_resolution), angpix)
    return BodiesSimulation(
        out / "particles.star", out / "truth.star", out / "bodies.star", maps, out / "whole.mrc", out / "reference.mrc",
        bodies, poses, turns, moves,
    )  # fmt: skip


def _chain(mover: Mover, angpix: float, seed: int) -> PseudoAtoms:
    model = build_model("C1", mover.atoms, mover.diameter, 0.6 * angpix, seed)
    return PseudoAtoms(model.positions + mover.place, model.weights, model.sigma)


def _write_bodies(
    out: Path,
    movers: Sequence[Mover],
    chains: Sequence[PseudoAtoms],
    box: int,
    angpix: float,
    sigma_angles: float,
    sigma_offset: float,
) -> Bodies:
    names = [str(out / f"mask{b + 1}.mrc") for b in range(len(movers))]
    for name, chain in zip(names, chains, strict=True):
        mrc.write_map(name, model_mask(chain, box, angpix), angpix)
    relative = [f"mask{b + 1}.mrc" for b in range(len(movers))]
    columns = {
        "rlnBodyMaskName": relative,
        "rlnBodyRotateRelativeTo": [mover.relative_to for mover in movers],
        "rlnBodySigmaAngles": [sigma_angles] * len(movers),
        "rlnBodySigmaOffsetAngst": [sigma_offset] * len(movers),
    }
    star.write(out / "bodies.star", {"": Table(columns)})
    absolute = out / ".bodies.star"
    star.write(absolute, {"": Table({**columns, "rlnBodyMaskName": names})})
    bodies = read_bodies(str(absolute), box, angpix)
    absolute.unlink()
    return bodies


def _projection(
    chains: Sequence[PseudoAtoms],
    bodies: Bodies,
    turns: NDArray[np.float64],
    moves: NDArray[np.float64],
    poses: Poses,
    i: int,
    box: int,
    angpix: float,
) -> NDArray[np.complex64]:
    """Half transform of particle i: all bodies at their places, moved by minus its origin."""
    positions = []
    for chain, body, turn, move in zip(chains, bodies.bodies, turns, moves, strict=True):
        centre = body.centre * angpix
        positions.append((chain.positions - centre) @ turn.T + centre + move)
    weights = np.concatenate([chain.weights for chain in chains])
    model = PseudoAtoms(np.concatenate(positions), weights, chains[0].sigma)
    transform = project(model, poses.matrices()[i : i + 1], box, angpix)[0]
    ky, kx = np.indices(transform.shape, np.int32)
    ky = np.where(ky > box // 2, ky - box, ky)
    at = (-poses.origin_x[i] / angpix, -poses.origin_y[i] / angpix)
    return transform * phase_shift(kx.ravel(), ky.ravel(), *at, box).reshape(transform.shape)


def _residual(body, poses: Poses, turns: NDArray[np.float64], moves: NDArray[np.float64]) -> Table:  # type: ignore[no-untyped-def]
    """The table of a body's residual poses: Q turned into residual angles, the seen part of the move as an origin."""
    consensus = poses.matrices()
    rot, tilt, psi = matrix_to_euler(body.residual_matrices(consensus, consensus @ turns))
    seen = np.einsum("nij,nj->ni", consensus, moves)
    return Table(
        {
            "rlnAngleRot": rot,
            "rlnAngleTilt": tilt,
            "rlnAnglePsi": psi,
            "rlnOriginXAngst": -seen[:, 0],
            "rlnOriginYAngst": -seen[:, 1],
        }
    )
