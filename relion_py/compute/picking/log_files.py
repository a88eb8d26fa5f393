"""Figure-of-merit maps of the Laplacian-of-Gaussian picker on disc: SPIDER images that RELION reads and writes.

Source: RELION 5, autopicker.cpp (autoPickLoGOneMicrograph) for the names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io.spider import read_spider


def map_name(root: str, diameter: float) -> str:
    """The file of one diameter (A); root: that of the picks, as in `AutoPick/job007/Movies/mic_autopick`."""
    return f"{root}_LoG{math.floor(diameter + 0.5)}.spi"


def read_maps(root: str, diameters: list[float], work: int) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Diameter and map float32 (work, work); UserError if one is missing or has another size."""
    for diameter in diameters:
        path = map_name(root, diameter)
        if not os.path.exists(path):
            raise UserError(f"there is no map {path}; run once with --write_fom_maps and the same diameters.")
        image = read_spider(path)
        if image.shape != (work, work):
            raise UserError(
                f"{path} has {image.shape[1]} x {image.shape[0]} pixels where {work} x {work} are needed; give the "
                "--lowpass and --shrink that it was written with."
            )
        yield diameter, image
