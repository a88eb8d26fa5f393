"""A map read for viewing: its voxels, statistics, and a smaller copy for the surface. No Qt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display import surface
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.sources import MrcFile

SURFACE_BOX = 120
"""Longest side in voxels of the volume that the surface is drawn from; finer detail than the screen shows
is binned."""


@dataclass(frozen=True)
class MapData:
    """A map in memory: ``volume`` (nz, ny, nx) float32, ``pixel_size`` in A (0 where unknown), and its
    statistics."""

    path: Path
    volume: NDArray[np.float32]
    pixel_size: float
    mean: float
    sigma: float
    small: NDArray[np.float32]
    factor: int
    threshold: float

    @property
    def description(self) -> str:
        """One line: size, pixel size, statistics."""
        nz, ny, nx = self.volume.shape
        pixel = f"{self.pixel_size:.4g} Å/px" if self.pixel_size else "pixel size not in the header"
        low, high = float(self.volume.min()), float(self.volume.max())
        return f"{nx} × {ny} × {nz}, {pixel}, min {low:.4g}, max {high:.4g}, mean {self.mean:.3g}, σ {self.sigma:.4g}"


def load_map(path: Path) -> MapData:
    """Read a map; DisplayError when the file is no MRC map. Voxels that are not finite are shown as 0."""
    opened = MrcFile(path)
    volume = opened.volume()
    finite = np.isfinite(volume)
    if not finite.all():
        if not finite.any():
            raise DisplayError(f"{path} has no finite value, so there is nothing to show")
        volume = np.where(finite, volume, np.float32(0))
    small, factor = surface.reduce_volume(volume, SURFACE_BOX)
    return MapData(
        path=path,
        volume=volume,
        pixel_size=opened.pixel_size,
        mean=float(volume.mean(dtype=np.float64)),
        sigma=float(volume.std(dtype=np.float64)),
        small=small,
        factor=factor,
        threshold=surface.suggest_threshold(small),
    )
