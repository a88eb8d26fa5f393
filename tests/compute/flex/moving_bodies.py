"""The files of a made-up multi-body refinement: two bodies of a few blobs, and forty particles with random motions."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np

from relion_py.compute.io import star
from relion_py.compute.io.star import Table
from relion_py.compute.refine.bodies import read_bodies
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.model_star import model_to_star
from relion_py.compute.refine.multibody import body_state

BOX, PIXEL, COUNT = 24, 3.0, 40
PLACES = (
    ((-4.0, 0.0, 0.0), (-6.0, 2.0, 1.0), (-3.0, -3.0, 2.0), (-5.0, 1.0, -3.0)),
    ((4.0, 2.0, 0.0), (6.0, 1.0, 2.0), (3.0, 4.0, -2.0)),
)
"""Centres of the blobs of each body, pixels x, y, z from the box's centre."""


def blobs(places: tuple[tuple[float, float, float], ...], width: float = 1.3) -> np.ndarray:
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    total = np.zeros((BOX,) * 3)
    for height, (px, py, pz) in enumerate(places, 2):
        total += height * np.exp(-((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) / (2 * width**2))
    return total.astype(np.float32)


def mask_around(places: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    """1 within 4.5 pixels of a blob's centre, falling to 0 over 3 pixels."""
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    distance = np.min([np.sqrt((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) for px, py, pz in places], axis=0)
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 4.5) / 3.0, 0, 1))).astype(np.float32)


def write_map(path: Path, volume: np.ndarray) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(volume.astype(np.float32))
        file.voxel_size = PIXEL


def write_refinement(directory: Path) -> Path:
    """run_data.star, run_model.star, the bodies' maps and masks, and bodies.star; names relative to the directory."""
    random = np.random.default_rng(3)
    rows = {"rlnBodyMaskName": [], "rlnBodyRotateRelativeTo": [2, 1]}
    for number, places in enumerate(PLACES, 1):
        write_map(directory / f"mask{number}.mrc", mask_around(places))
        write_map(directory / f"run_body{number:03d}.mrc", blobs(places))
        rows["rlnBodyMaskName"].append(f"mask{number}.mrc")
    rows |= {"rlnBodySigmaAngles": [10.0, 10.0], "rlnBodySigmaOffsetAngst": [4.0, 4.0]}
    star.write(directory / "bodies.star", {"": Table(rows)})
    names = [str(directory / name) for name in rows["rlnBodyMaskName"]]
    star.write(directory / "absolute.star", {"": Table({**rows, "rlnBodyMaskName": names})})
    bodies = read_bodies(str(directory / "absolute.star"), BOX, PIXEL)
    model = ModelState.new(
        BOX, PIXEL, group_names=["group"], nr_particles_per_group=np.array([COUNT]), nr_classes=2, nr_directions=1
    )
    model.bodies, model.pdf_class = body_state(bodies), np.ones(2)
    model.reference_names = ["run_body001.mrc", "run_body002.mrc"]
    model.sigma2_noise[:] = 1.0
    star.write(directory / "run_model.star", model_to_star(model))
    star.write(directory / "run_data.star", _data(random))
    return directory


def _data(random: np.random.Generator) -> dict[str, Table]:
    optics = {
        "rlnOpticsGroupName": ["one"], "rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [PIXEL], "rlnImageSize": [BOX],
        "rlnImageDimensionality": [2], "rlnCtfDataAreCtfPremultiplied": [0],
    }  # fmt: skip
    particles = {
        "rlnImageName": [f"{n + 1:06d}@particles.mrcs" for n in range(COUNT)],
        "rlnMicrographName": ["mic.mrc"] * COUNT,
        "rlnOpticsGroup": [1] * COUNT,
        "rlnGroupNumber": [1] * COUNT,
        "rlnAngleRot": random.uniform(-180, 180, COUNT).round(3),
        "rlnAngleTilt": random.uniform(0, 180, COUNT).round(3),
        "rlnAnglePsi": random.uniform(-180, 180, COUNT).round(3),
        "rlnOriginXAngst": random.normal(0, 3, COUNT).round(3),
        "rlnOriginYAngst": random.normal(0, 3, COUNT).round(3),
        "rlnNormCorrection": [1.0] * COUNT,
    }
    swing = random.normal(0, 6, COUNT)
    bodies = {}
    for number, share in ((1, -0.3), (2, 1.0)):
        bodies[f"images_body_{number}"] = Table(
            {
                "rlnAngleRot": (random.normal(0, 1.5, COUNT)).round(3),
                "rlnAngleTilt": (90.0 + share * swing + random.normal(0, 1, COUNT)).round(3),
                "rlnAnglePsi": (random.normal(0, 2.0, COUNT)).round(3),
                "rlnOriginXAngst": random.normal(0, 1.5, COUNT).round(3),
                "rlnOriginYAngst": random.normal(0, 1.5, COUNT).round(3),
                "rlnNormCorrection": [1.0] * COUNT,
            }
        )
    return {"optics": Table(optics), "particles": Table(particles), **bodies}
