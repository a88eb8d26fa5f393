"""Figure-of-merit maps of the Laplacian-of-Gaussian picker on disc: SPIDER images that RELION reads and writes.

Source: RELION 5, rwSPIDER.h; autopicker.cpp (autoPickLoGOneMicrograph) for the names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_file

_HEADER_BYTES = 1024
_SLICES, _ROWS, _RECORDS, _FORM, _COLUMNS, _HEADER_RECORDS, _HEADER_SIZE, _RECORD_SIZE = 0, 1, 2, 4, 11, 12, 21, 22
_IMAGE = 1.0


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


def write_spider(path: str, image: NDArray[np.float32]) -> None:
    """Write one image (ny, nx) in the machine's byte order."""
    rows, columns = image.shape
    record = 4 * columns
    records = -(-_HEADER_BYTES // record)
    header = np.zeros(records * columns, np.float32)
    for place, value in (
        (_SLICES, 1), (_ROWS, rows), (_RECORDS, records + rows), (_FORM, _IMAGE), (_COLUMNS, columns),
        (_HEADER_RECORDS, records), (_HEADER_SIZE, records * record), (_RECORD_SIZE, record),
    ):  # fmt: skip
        header[place] = value
    with atomic_file(path) as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(image, np.float32).tobytes())


def read_spider(path: str) -> NDArray[np.float32]:
    """One image (ny, nx) of a SPIDER file of either byte order; UserError for anything else."""
    with open(path, "rb") as file:
        content = file.read()
    for order in "<>":
        if len(content) < _HEADER_BYTES:
            break
        header = np.frombuffer(content[:_HEADER_BYTES], order + "f4")
        fields = header[[_SLICES, _FORM, _ROWS, _COLUMNS, _HEADER_SIZE]]
        if not np.all(np.isfinite(fields)) or np.any(np.abs(fields) > 1e6) or np.any(fields != np.floor(fields)):
            continue
        slices, form, rows, columns, start = (int(field) for field in fields)
        if (slices, form) == (1, 1) and rows > 0 and columns > 0 and start >= _HEADER_BYTES:
            if len(content) != start + 4 * rows * columns:
                raise UserError(f"{path} is cut short or too long; write it again with --write_fom_maps.")
            return np.frombuffer(content, order + "f4", offset=start).reshape(rows, columns).astype(np.float32)
    raise UserError(f"{path} is no SPIDER image; write it again with --write_fom_maps.")
