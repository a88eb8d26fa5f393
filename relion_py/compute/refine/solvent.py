"""Filter and masks on the references: --ini_high; the solvent becomes zero, some regions only coarser, and some level.

Source: ml_optimiser.cpp, initialLowPassFilterReferences and solventFlatten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image.fourier import filter_profile, lowpass
from relion_py.compute.image.masks import flatten_solvent, level_solvent

FILTER_EDGE = 2
"""Width in shells of the edge of low-pass filters, also --ini_high's (WIDTH_FMASK_EDGE)."""


def first_filter_profile(
    radius: NDArray[np.float64], box: int, pixel_size: float, resolution: float
) -> NDArray[np.float64]:
    """Factor of the filter of --ini_high (A) at radii in Fourier pixels of a box."""
    return filter_profile(radius, box, pixel_size, resolution, FILTER_EDGE, whole_shell=False)


def first_filter(reference: NDArray[np.float32], pixel_size: float, resolution: float) -> NDArray[np.float32]:
    """A map or image without what is finer than --ini_high (A)."""
    return lowpass(reference, pixel_size, resolution, FILTER_EDGE, whole_shell=False).astype(np.float32)


@dataclass(frozen=True)
class SolventMasks:
    """Masks (0 to 1) of maps (box,) * ndim: what of them is kept.

    kept: multiplies the map. coarse: the region that is added to this, low-passed to `resolution` A (--lowpass_mask,
    --lowpass). level: the region that becomes its own mean, as the inside of a virus (--solvent_mask2). None: no
    such region.
    """

    kept: NDArray[np.float32]
    coarse: NDArray[np.float32] | None = None
    resolution: float = 0.0
    level: NDArray[np.float32] | None = None

    def flatten(self, volume: NDArray[np.float32], pixel_size: float) -> NDArray[np.float32]:
        """The map as it is projected; UserError for masks of another shape or beyond 0 ... 1."""
        flat = flatten_solvent(volume, self.kept)
        if self.coarse is not None:
            flat = flat + lowpass(flatten_solvent(volume, self.coarse), pixel_size, self.resolution, FILTER_EDGE)
        if self.level is not None:
            flat = level_solvent(flat, self.level, invert=True)
        return flat.astype(np.float32)
