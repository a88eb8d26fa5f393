"""Particle tables of RELION 3.0 and earlier, brought into the form with optics groups.

What every particle of one microscope setting shares moves to `data_optics`; the pixel size is computed from
detector pixel and magnification, and origins in pixels become A. Facts: RELION 5,
jaz/single_particle/io/star_converter.cpp (convert_3p0_particlesTo_3p1, unifyPixelSize, translateOffsets).
"""

from __future__ import annotations

import os

import numpy as np

from relion_py.compute.io.mrc import MrcError, read_header
from relion_py.compute.io.star import StarError, StarFile, Table

SHARED_LABELS = (
    "rlnAmplitudeContrast",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnSphericalAberration",
    "rlnVoltage",
    "rlnDetectorPixelSize",
    "rlnMagnification",
)
"""Columns that move from the particles to the optics groups, in the order in which they are written there."""

_ORIGINS = {
    "rlnOriginX": "rlnOriginXAngst",
    "rlnOriginY": "rlnOriginYAngst",
    "rlnOriginZ": "rlnOriginZAngst",
    "rlnOriginXPrior": "rlnOriginXPriorAngst",
    "rlnOriginYPrior": "rlnOriginYPriorAngst",
    "rlnOriginZPrior": "rlnOriginZPriorAngst",
}


def to_optics_form(old: StarFile, project: str = ".") -> StarFile:
    """A new StarFile with `optics` and `particles` (or `movies`, `micrographs`); `old` is left as it is.

    Image sizes are read from the stacks' headers where these can be found under `project`.
    """
    name = _main_block(old)
    rows = old[name].copy()
    kind = _kind(rows)
    shared = [label for label in SHARED_LABELS if label in rows]
    values = np.column_stack([rows.floats(label) for label in shared]) if shared else np.zeros((len(rows), 0))
    groups, membership = _distinct(values)

    optics = Table()
    optics.set("rlnOpticsGroup", np.arange(1, len(groups) + 1))
    optics.set("rlnOpticsGroupName", [f"opticsGroup{number + 1}" for number in range(len(groups))])
    for label, column in zip(shared, groups.T, strict=True):
        optics.set(label, column)
        rows.remove(label)
    rows.set("rlnOpticsGroup", membership + 1)
    _set_pixel_size(optics, kind)
    if kind == "particles":
        _origins_to_angstrom(rows, optics, membership)
        _set_image_sizes(rows, optics, membership, project)

    new = StarFile([("optics", optics), (kind, rows)])
    new.blocks += [(block, table) for block, table in old.blocks if block not in (name, "optics")]
    new.path = old.path
    rows.comments = optics.comments
    return new


def _main_block(star: StarFile) -> str:
    for name in ("particles", "images", "micrographs", "movies", ""):
        if name in star and len(star[name]):
            return name
    for name, table in star.items():
        if name != "optics" and len(table) and table.loop:
            return name
    raise StarError(f"{star.path or 'The STAR file'} has no table with rows.")


def _kind(rows: Table) -> str:
    if "rlnImageName" in rows:
        return "particles"
    return "movies" if "rlnMicrographMovieName" in rows else "micrographs"


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows in the order of first appearance, and for each row which of them it is."""
    if values.shape[1] == 0:
        return np.zeros((1, 0)), np.zeros(len(values), dtype=np.int64)
    _, first, inverse = np.unique(values, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return values[first[order]], rank[np.asarray(inverse).reshape(-1)]


def _set_pixel_size(optics: Table, kind: str) -> None:
    if "rlnDetectorPixelSize" not in optics or "rlnMagnification" not in optics:
        return
    magnification = optics.floats("rlnMagnification")
    if (magnification <= 0).any():
        raise StarError("A magnification (_rlnMagnification) is not positive, so there is no pixel size.")
    pixel_size = 10000 * optics.floats("rlnDetectorPixelSize") / magnification
    if kind == "particles":
        optics.set("rlnImagePixelSize", pixel_size)
    elif kind == "micrographs":
        optics.set("rlnMicrographPixelSize", pixel_size)
        optics.set("rlnMicrographOriginalPixelSize", pixel_size)
    optics.remove("rlnDetectorPixelSize")
    optics.remove("rlnMagnification")


def _origins_to_angstrom(rows: Table, optics: Table, membership: np.ndarray) -> None:
    present = [label for label in _ORIGINS if label in rows]
    if not present:
        return
    if "rlnImagePixelSize" not in optics:
        raise StarError(
            "Origins are in pixels (_rlnOriginX), but _rlnDetectorPixelSize and _rlnMagnification, which "
            "give the pixel size, are missing."
        )
    pixel_size = optics.floats("rlnImagePixelSize")[membership]
    for label in present:
        rows.set(_ORIGINS[label], rows.floats(label) * pixel_size)
        rows.remove(label)


def _set_image_sizes(rows: Table, optics: Table, membership: np.ndarray, project: str) -> None:
    """rlnImageSize and rlnImageDimensionality from the first image of each group, if all can be found."""
    names = rows.strings("rlnImageName")
    sizes, dimensions = [], []
    for group in range(len(optics)):
        name = names[int(np.argmax(membership == group))]
        _, at, path = name.rpartition("@")
        try:
            header = read_header(os.path.join(project, path))
        except MrcError:
            return
        sizes.append(header.nx)
        dimensions.append(3 if not at and header.nz > 1 else 2)
    optics.set("rlnImageSize", sizes)
    optics.set("rlnImageDimensionality", dimensions)
