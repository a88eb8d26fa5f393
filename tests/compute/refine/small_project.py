"""A project directory with a few particles, a reference and a mask, written with mrcfile and as text."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np

BOX = 32
PIXEL = 2.5
N = 24

OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnImagePixelSize #7
_rlnImageSize #8
_rlnImageDimensionality #9
{optics}

# version 30001

data_particles

loop_
_rlnMicrographName #1
_rlnImageName #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnOpticsGroup #6
_rlnSomebodysOwn #7
{rows}
"""


def write_mrc(path: Path, array: np.ndarray, pixel_size: float = PIXEL) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(array.astype(np.float32))
        if path.suffix == ".mrcs":
            file.set_image_stack()
        file.voxel_size = pixel_size


def star_text(groups: int = 1, n: int = N) -> str:
    """Particles of two micrographs in turn, so that sorting by micrograph changes their order."""
    optics = "\n".join(f"group{g} {g} {PIXEL} 300 2.7 0.1 {PIXEL} {BOX} 2" for g in range(1, groups + 1))
    rows = "\n".join(
        f"MotionCorr/job002/Movies/mic{2 - i % 2}.mrc {i // 2 + 1:06d}@Extract/job003/mic{2 - i % 2}.mrcs "
        f"{10000 + i} {9000 + i} 45.0 {i % groups + 1} 00{i}"
        for i in range(n)
    )
    return OPTICS.format(optics=optics, rows=rows)


def images(micrograph: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(micrograph).normal(size=(n // 2, BOX, BOX)).astype(np.float32)


def make_project(root: Path, groups: int = 1) -> Path:
    """particles.star, its two stacks, ref.mrc, mask.mrc and the directory Refine3D/job004."""
    (root / "Extract/job003").mkdir(parents=True)
    (root / "Refine3D/job004").mkdir(parents=True)
    for micrograph in (1, 2):
        write_mrc(root / f"Extract/job003/mic{micrograph}.mrcs", images(micrograph))
    (root / "particles.star").write_text(star_text(groups))
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    radius = np.sqrt(z**2 + y**2 + x**2)
    write_mrc(root / "ref.mrc", np.exp(-(radius**2) / 40))
    write_mrc(root / "mask.mrc", np.clip((12 - radius) / 4, 0, 1))
    return root


ARGS = {
    "--i": "particles.star",
    "--o": "Refine3D/job004/run",
    "--ref": "ref.mrc",
    "--auto_refine": True,
    "--split_random_halves": True,
    "--ctf": True,
    "--particle_diameter": "60",
    "--ini_high": "20",
    "--sym": "C1",
}
