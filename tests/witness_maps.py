"""Maps as mrcfile has them, a reader that is not ours."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np


def voxels(path: Path) -> np.ndarray:
    """The values of an MRC file, float64; one that is compressed, too."""
    return read(path)[0]


def read(path: Path) -> tuple[np.ndarray, float]:
    """The values of an MRC file, float64, and its pixel size (A)."""
    with mrcfile.open(path, permissive=True) as file:
        return file.data.astype(np.float64), float(file.voxel_size.x)
