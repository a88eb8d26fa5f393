"""Simulated single-particle data whose truth is known: for tests, benchmarks and a first try of the programs.

Particles are projections of a pseudo-atomic model (``simulate_model.py``) times the CTF, moved, with noise of
standard deviation 1.  They follow exactly the image model that refinement assumes, in RELION's conventions
for angles, shifts, CTF sign and files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.geometry.symmetry import canonical, order
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.image.fourier import lowpass, phase_shift, radius_grid, real_image
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import mrc, star
from relion_py.compute.io.particles import image_name
from relion_py.compute.io.star import Table
from relion_py.compute.simulate_model import PseudoAtoms, build_model, model_map, project

NOISES = ("white", "coloured")
PER_MICROGRAPH = 50
_MICROSCOPES = (
    (300.0, 2.7, 0.1),
    (200.0, 2.0, 0.07),
)  # kV, mm, amplitude contrast of the optics groups in turn
_BATCH = 200


@dataclass(frozen=True)
class Poses:
    """What the simulation knows of N particles: angles in degrees, rlnOrigin..Angst in A, class from 1."""

    rot: NDArray[np.float64]
    tilt: NDArray[np.float64]
    psi: NDArray[np.float64]
    origin_x: NDArray[np.float64]
    origin_y: NDArray[np.float64]
    classes: NDArray[np.int64]

    def matrices(self) -> NDArray[np.float64]:
        """Rotation matrices (N, 3, 3)."""
        return euler_to_matrix(self.rot, self.tilt, self.psi)


@dataclass(frozen=True)
class Simulation:
    """What was written and the truth behind it; paths are files, ``models`` one per class."""

    particles: Path
    truth: Path
    maps: tuple[Path, ...]
    reference: Path
    mask: Path
    models: tuple[PseudoAtoms, ...]
    poses: Poses
    ctf: CtfParams
    diameter: float


def simulate_particles(
    out_dir: str | os.PathLike[str],
    n: int = 400,
    box: int = 64,
    angpix: float = 3.5,
    symmetry: str = "C1",
    seed: int = 1,
    snr: float = 0.1,
    *,
    project_root: str | os.PathLike[str] | None = None,
    diameter: float | None = None,
    atoms: int = 600,
    sigma: float | None = None,
    classes: int = 1,
    shift: float | None = None,
    defocus: tuple[float, float] = (8000.0, 25000.0),
    optics_groups: int = 1,
    noise: str = "white",
    reference_resolution: float = 40.0,
    optics_values: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Simulation:
    """Write a data set below ``out_dir`` and return its truth; the same arguments write the same files.

    Written: ``Particles/mic0001.mrcs`` .. (50 particles each), ``particles.star`` (RELION 3.1's form, without
    poses), ``truth.star`` (with them), ``truth.mrc`` (of class 1; ``truth_class002.mrc`` .. of the others),
    ``reference.mrc`` (class 1 low-passed at ``reference_resolution`` A), ``mask.mrc`` (soft, around class 1).
    Image names are relative to ``project_root`` (default ``out_dir``).

    snr: variance of the CTF-affected signal within the particle's circle over that of the noise, which is 1;
        positive; infinity for no noise at all (the signal then has variance 1).
    diameter: A, default 60% of the box.  atoms: blobs of the model.  sigma: of a blob in A, default 0.6
        pixels.  classes: class 2 and on lack a different part of the chain each.
    shift: standard deviation of the particles' displacements along x and y in A, default 2 pixels.
    defocus: range in A.  optics_groups: groups of 300 and 200 kV in turn.
    noise: "white" or "coloured" (power falling with the frequency).
    optics_values: what the optics did besides: columns of data_optics and their values, the same for all groups
        (rlnBeamTiltX, rlnOddZernike, rlnEvenZernike, rlnMagMat00 ..); ``truth.star`` alone tells them.
    progress: called with the number of particles done.

    Raises UserError for a value that makes no sense.
    """
    diameter = 0.6 * box * angpix if diameter is None else diameter
    sigma = 0.6 * angpix if sigma is None else sigma
    shift = 2.0 * angpix if shift is None else shift
    group = canonical(symmetry)
    _check(n, box, angpix, snr, diameter, classes, optics_groups, noise, defocus)
    out, root = Path(out_dir), Path(out_dir if project_root is None else project_root)
    rng = np.random.default_rng(seed)
    poses = random_poses(n, shift, classes, rng)
    optics = np.arange(n) // PER_MICROGRAPH % optics_groups
    ctf = random_ctf(n, defocus, optics, rng)
    raw = _class_models(build_model(group, atoms, diameter, sigma, seed), classes, group)
    models = _scale_to_snr(raw, poses, ctf, box, angpix, diameter, snr)
    aberrations = [Aberrations.of_group(optics_values or {}, kv, cs) for kv, cs, _ in _MICROSCOPES]
    faults = [aberrations[group % len(aberrations)] for group in optics]

    (out / "Particles").mkdir(parents=True, exist_ok=True)
    names = _write_images(out, root, models, poses, ctf, faults, box, angpix, snr, noise, rng, progress)
    particles, truth = out / "particles.star", out / "truth.star"
    tables = star_tables(names, ctf, optics, optics_groups, box, angpix, rng)
    star.write(particles, tables)
    true_optics = tables["optics"].copy()
    for label, value in (optics_values or {}).items():
        true_optics.set(label, value)
    star.write(truth, {"optics": true_optics, "particles": with_poses(tables["particles"], poses)})
    maps = tuple(out / ("truth.mrc" if c == 1 else f"truth_class{c:03d}.mrc") for c in range(1, classes + 1))
    for path, model in zip(maps, models, strict=True):
        mrc.write_map(path, model_map(model, box, angpix), angpix)
    reference, mask = out / "reference.mrc", out / "mask.mrc"
    first = model_map(models[0], box, angpix)
    mrc.write_map(reference, lowpass(first, angpix, reference_resolution), angpix)
    mrc.write_map(mask, model_mask(models[0], box, angpix), angpix)
    return Simulation(particles, truth, maps, reference, mask, models, poses, ctf, diameter)


def _check(
    n: int,
    box: int,
    angpix: float,
    snr: float,
    diameter: float,
    classes: int,
    optics_groups: int,
    noise: str,
    defocus: tuple[float, float],
) -> None:
    if n < 1 or classes < 1 or optics_groups < 1:
        raise UserError("The numbers of particles, classes and optics groups must be at least 1.")
    if box < 16 or box % 2:
        raise UserError(f"The box must be an even number of at least 16 pixels, not {box}.")
    if not angpix > 0.0:
        raise UserError(f"The pixel size must be positive, not {angpix} A.")
    if not snr > 0.0:
        raise UserError(f"The signal-to-noise ratio must be positive, not {snr}.")
    if not 0.0 < diameter <= 0.9 * box * angpix:
        limit = 0.9 * box * angpix
        raise UserError(f"A particle of {diameter:g} A does not fit; its diameter can be at most {limit:g} A.")
    if noise not in NOISES:
        raise UserError(f'The noise must be "white" or "coloured", not "{noise}".')
    if not 0.0 < defocus[0] <= defocus[1]:
        raise UserError("The range of defocus must be two positive numbers of A, the smaller first.")


def random_poses(n: int, shift: float, classes: int, rng: np.random.Generator) -> Poses:
    """Uniform orientations, Gaussian displacements (cut at 3 sigma), equal classes."""
    rot, psi = rng.uniform(-180.0, 180.0, n), rng.uniform(-180.0, 180.0, n)
    tilt = np.rad2deg(np.arccos(rng.uniform(-1.0, 1.0, n)))
    x, y = np.clip(rng.normal(size=(2, n)), -3.0, 3.0) * shift
    return Poses(rot, tilt, psi, x, y, rng.permutation(np.arange(n) % classes) + 1)


def random_ctf(n: int, defocus: tuple[float, float], optics: NDArray[np.int64], rng: np.random.Generator) -> CtfParams:
    """A defocus and an astigmatism for each micrograph, and 200 A of scatter between its particles."""
    micrograph = np.arange(n) // PER_MICROGRAPH
    count = int(micrograph[-1]) + 1
    mean = rng.uniform(*defocus, count)[micrograph] + rng.normal(0.0, 200.0, n)
    half_difference = rng.uniform(50.0, 300.0, count)[micrograph]
    angle = rng.uniform(0.0, 180.0, count)[micrograph]
    voltage, cs, q0 = np.array(_MICROSCOPES)[optics % len(_MICROSCOPES)].T
    return CtfParams(mean + half_difference, mean - half_difference, angle, voltage, cs, q0)


def _class_models(model: PseudoAtoms, classes: int, group: str) -> list[PseudoAtoms]:
    """Class 1 is the whole model; each other class lacks another sixth of the chain in every copy."""
    copies = order(group)
    unit = len(model) // copies
    models, lacking = [model], max(1, unit // 6)
    for c in range(1, classes):
        place = np.arange(unit)
        start = (c - 1) * (unit - lacking) // max(1, classes - 2) if classes > 2 else (unit - lacking) // 2
        models.append(model.without(np.tile((place >= start) & (place < start + lacking), copies)))
    return models


def _signals(
    models: list[PseudoAtoms],
    poses: Poses,
    ctf: CtfParams,
    which: NDArray[np.int64],
    box: int,
    angpix: float,
    fault: Aberrations | None = None,
) -> NDArray[np.float32]:
    """Noiseless images (len(which), box, box): projections times CTF, moved by minus their origins.

    fault: what the optics of these particles did besides.
    """
    fault = fault or Aberrations()
    transforms = np.empty((len(which), box, box // 2 + 1), dtype=np.complex64)
    matrices = poses.matrices()
    for c, model in enumerate(models, start=1):
        here = poses.classes[which] == c
        transforms[here] = project(model, matrices[which[here]], box, angpix, fault.magnification)
    ky, kx = np.indices(transforms.shape[1:], np.int32)
    ky = np.where(ky > box // 2, ky - box, ky)
    offset = fault.gamma_offset(kx.ravel(), ky.ravel(), box, angpix)
    transforms *= ctf_image(ctf[which], box, angpix, magnification=fault.magnification, gamma_offset=offset)
    undo = fault.phase_factors(kx.ravel(), ky.ravel(), box, angpix)
    if undo is not None:
        transforms *= undo.conj().reshape(transforms.shape[1:])
    dx, dy = -poses.origin_x[which] / angpix, -poses.origin_y[which] / angpix
    transforms *= phase_shift(kx.ravel(), ky.ravel(), dx, dy, box).reshape(transforms.shape)
    return real_image(transforms, box).astype(np.float32, copy=False)


def _scale_to_snr(
    models: list[PseudoAtoms],
    poses: Poses,
    ctf: CtfParams,
    box: int,
    angpix: float,
    diameter: float,
    snr: float,
) -> tuple[PseudoAtoms, ...]:
    """The models with weights such that the mean variance within the circle is snr (1 if infinite)."""
    some = np.unique(np.linspace(0, len(ctf) - 1, 100).astype(np.int64))
    circle = soft_mask(box, 0.5 * diameter / angpix, 0.0, 2) > 0.5
    variance = float(_signals(models, poses, ctf, some, box, angpix)[:, circle].var(axis=1).mean())
    factor = np.sqrt((snr if np.isfinite(snr) else 1.0) / variance)
    return tuple(model.scaled(factor) for model in models)


def _noise(count: int, box: int, kind: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise images of variance 1; coloured noise has 2.8 times the power at the origin as at Nyquist."""
    white = rng.standard_normal((count, box, box), dtype=np.float32)
    if kind == "white":
        return white
    relative = radius_grid(box) / (box // 2)
    amplitude = np.sqrt(0.25 + 1.0 / (1.0 + (2.0 * relative) ** 2)) / np.sqrt(0.25 + 0.2)
    transform = np.fft.rfft2(white) * amplitude
    images = np.fft.irfft2(transform, s=(box, box))
    # the whole plane's mean power, each half-plane column but two counting for both of its halves
    twice = np.full(box // 2 + 1, 2.0)
    twice[[0, -1]] = 1.0
    return (images / np.sqrt((amplitude**2 * twice).sum() / box**2)).astype(np.float32)


def _write_images(
    out: Path,
    root: Path,
    models: tuple[PseudoAtoms, ...],
    poses: Poses,
    ctf: CtfParams,
    faults: list[Aberrations],
    box: int,
    angpix: float,
    snr: float,
    noise: str,
    rng: np.random.Generator,
    progress: Callable[[int], None] | None,
) -> list[str]:
    """Write the stacks, one per micrograph; the image names (N,)."""
    names: list[str] = []
    for start in range(0, len(ctf), PER_MICROGRAPH):
        which = np.arange(start, min(start + PER_MICROGRAPH, len(ctf)))
        images = _signals(list(models), poses, ctf, which, box, angpix, faults[start])
        if np.isfinite(snr):
            images += _noise(len(which), box, noise, rng)
        path = out / "Particles" / f"mic{start // PER_MICROGRAPH + 1:04d}.mrcs"
        mrc.write_stack(path, images, angpix)
        shown = os.path.relpath(path, root).replace(os.sep, "/")
        names += [image_name(i, shown) for i in range(len(which))]
        if progress is not None:
            progress(int(which[-1]) + 1)
    return names


def star_tables(
    names: list[str],
    ctf: CtfParams,
    optics: NDArray[np.int64],
    optics_groups: int,
    box: int,
    angpix: float,
    rng: np.random.Generator,
) -> dict[str, Table]:
    """The blocks "optics" and "particles" in the form of RELION 3.1 and later."""
    groups = np.arange(optics_groups)
    voltage, cs, q0 = np.array(_MICROSCOPES)[groups % len(_MICROSCOPES)].T
    optics_table = Table(
        {
            "rlnOpticsGroupName": [f"opticsGroup{g + 1}" for g in groups],
            "rlnOpticsGroup": groups + 1,
            "rlnVoltage": voltage,
            "rlnSphericalAberration": cs,
            "rlnAmplitudeContrast": q0,
            "rlnImagePixelSize": np.full(optics_groups, float(angpix)),
            "rlnImageSize": np.full(optics_groups, box),
            "rlnImageDimensionality": np.full(optics_groups, 2),
            "rlnCtfDataAreCtfPremultiplied": np.zeros(optics_groups, dtype=np.int64),
        }
    )
    micrograph = np.arange(len(names)) // PER_MICROGRAPH + 1
    particles = Table(
        {
            "rlnImageName": names,
            "rlnMicrographName": [f"Micrographs/mic{m:04d}.mrc" for m in micrograph],
            "rlnCoordinateX": np.round(rng.uniform(box, 4096 - box, len(names)), 1),
            "rlnCoordinateY": np.round(rng.uniform(box, 4096 - box, len(names)), 1),
            "rlnDefocusU": ctf.defocus_u,
            "rlnDefocusV": ctf.defocus_v,
            "rlnDefocusAngle": ctf.defocus_angle,
            "rlnOpticsGroup": optics + 1,
        }
    )
    return {"optics": optics_table, "particles": particles}


def with_poses(particles: Table, poses: Poses) -> Table:
    table = particles.copy()
    table.set("rlnAngleRot", poses.rot)
    table.set("rlnAngleTilt", poses.tilt)
    table.set("rlnAnglePsi", poses.psi)
    table.set("rlnOriginXAngst", poses.origin_x)
    table.set("rlnOriginYAngst", poses.origin_y)
    table.set("rlnClassNumber", poses.classes)
    return table


def model_mask(model: PseudoAtoms, box: int, angpix: float) -> NDArray[np.float32]:
    """1 within 2 pixels and 3 sigma of a blob, falling to 0 over 5 pixels more, as a raised cosine."""
    axis = (np.arange(box) - box // 2) * angpix
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)
    reach, edge = 2.0 * angpix + 3.0 * model.sigma, 5.0 * angpix
    distance, _ = cKDTree(model.positions).query(points, distance_upper_bound=reach + edge)
    beyond = np.clip((distance - reach) / edge, 0.0, 1.0)
    return (0.5 + 0.5 * np.cos(np.pi * beyond)).reshape(box, box, box).astype(np.float32)
