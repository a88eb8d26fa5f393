"""Segments of simulated filaments of a known helix: exact projections of Gaussian blobs, CTF, shifts and noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from helix_model import blob_map, helix_centres

from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map, write_stack
from relion_py.compute.io.star import StarFile, Table


@dataclass(frozen=True)
class Helix:
    """A helix and how it is imaged: degrees, A, pixels."""

    twist: float = 38.0
    rise: float = 12.0
    box: int = 48
    pixel: float = 3.0
    sigma: float = 4.0
    blobs: int = 4
    reach: tuple[float, float] = (6.0, 26.0)

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        return helix_centres(self.twist, self.rise, 10, seed=3, blobs=self.blobs, reach=self.reach)

    def map(self) -> np.ndarray:
        return blob_map(*self.centres(), self.box, self.pixel, self.sigma)

    def projections(self, angles: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Images (N, box, box) of the helix seen at rot, tilt, psi (N, 3); origins (N, 2) in A."""
        centres, heights = self.centres()
        axis = (np.arange(self.box) - self.box // 2) * self.pixel
        images = []
        for (rot, tilt, psi), origin in zip(angles, origins, strict=True):
            seen = centres @ euler_to_matrix(rot, tilt, psi).T
            x, y = (seen[:, :2] - origin).T
            along = [np.exp(-((axis - c[:, None]) ** 2) / (2 * self.sigma**2)) for c in (y, x)]
            images.append(np.einsum("b,by,bx->yx", heights, *along, optimize=True))
        return np.array(images)


def write_segments(
    root: Path, helix: Helix, filaments: int = 8, segments: int = 25, noise: float = 1.0, *, bimodal: bool = False
) -> dict[str, np.ndarray]:
    """particles.star, particles.mrcs, truth.mrc and truth (angles, origins) of straight filaments below `root`.

    noise: standard deviation relative to the signal's. With bimodal, half of the filaments run the other way
    than their psi priors say.
    """
    random = np.random.default_rng(5)
    count = filaments * segments
    tube = np.repeat(np.arange(filaments), segments)
    track = np.tile(np.arange(segments) * 3 * helix.rise, filaments) + 0.3
    prior = random.uniform(-180, 180, filaments)[tube]
    other = (random.permutation(filaments) % 2 == 1)[tube] & bimodal
    psi = prior + random.normal(0, 2, count) + 180.0 * other
    tilt = 90 + random.normal(0, 3, count)
    # the helix runs against the direction of psi, and the track along that of the prior
    height = np.where(other, track, -track)
    rot = random.uniform(0, 360, filaments)[tube] + height * helix.twist / helix.rise
    origins = random.normal(0, 3, (count, 2))
    images = helix.projections(np.stack([rot, tilt, psi], axis=1), origins)
    ctf = CtfParams(random.uniform(12000, 20000, count), random.uniform(12000, 20000, count))
    transforms = np.fft.rfft2(images) * ctf_image(ctf, helix.box, helix.pixel)
    images = np.fft.irfft2(transforms, s=images.shape[1:])
    images = images / (images.std() * noise) + random.standard_normal(images.shape)
    root.mkdir(parents=True, exist_ok=True)
    write_stack(root / "particles.mrcs", images.astype(np.float32), helix.pixel)
    write_map(root / "truth.mrc", helix.map(), helix.pixel)
    optics = {
        "rlnOpticsGroupName": ["one"], "rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [helix.pixel], "rlnImageSize": [helix.box],
        "rlnImageDimensionality": [2],
    }  # fmt: skip
    table = {
        "rlnImageName": [f"{n + 1:06d}@particles.mrcs" for n in range(count)],
        "rlnMicrographName": [f"mic{n // 4}.mrc" for n in tube],
        "rlnOpticsGroup": [1] * count,
        "rlnDefocusU": ctf.defocus_u, "rlnDefocusV": ctf.defocus_v, "rlnDefocusAngle": [0.0] * count,
        "rlnHelicalTubeID": tube % 4 + 1,
        "rlnAngleTiltPrior": [90.0] * count, "rlnAnglePsiPrior": (prior + 180) % 360 - 180,
        "rlnHelicalTrackLengthAngst": track,
        "rlnAnglePsiFlipRatio": [0.5 if bimodal else 0.0] * count,
    }  # fmt: skip
    star.write(root / "particles.star", StarFile([("optics", Table(optics)), ("particles", Table(table))]))
    return {"angles": np.stack([rot, tilt, psi], axis=1), "origins": origins}
