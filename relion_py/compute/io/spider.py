"""SPIDER images: one picture with its header, float32, in either byte order.

Source: RELION 5, rwSPIDER.h.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_file

_HEADER_BYTES = 1024
_SLICES, _ROWS, _RECORDS, _FORM, _COLUMNS, _HEADER_RECORDS, _HEADER_SIZE, _RECORD_SIZE = 0, 1, 2, 4, 11, 12, 21, 22
_HAS_EXTREMES, _MAXIMUM = 5, 6
_IMAGE = 1.0


def write_spider(path: str, image: NDArray[np.float32], maximum: float | None = None) -> None:
    """Write one image (ny, nx) in the machine's byte order.

    maximum: what the header gives as such; RELION keeps a number of its own there (autoPickOneMicrograph).
    """
    rows, columns = image.shape
    record = 4 * columns
    records = -(-_HEADER_BYTES // record)
    header = np.zeros(records * columns, np.float32)
    for place, value in (
        (_SLICES, 1), (_ROWS, rows), (_RECORDS, records + rows), (_FORM, _IMAGE), (_COLUMNS, columns),
        (_HEADER_RECORDS, records), (_HEADER_SIZE, records * record), (_RECORD_SIZE, record),
    ):  # fmt: skip
        header[place] = value
    if maximum is not None:
        header[_HAS_EXTREMES], header[_MAXIMUM] = 1, maximum
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
                raise UserError(f"{path} is cut short or too long; write it again.")
            return np.frombuffer(content, order + "f4", offset=start).reshape(rows, columns).astype(np.float32)
    raise UserError(f"{path} is no SPIDER image; write it again.")
