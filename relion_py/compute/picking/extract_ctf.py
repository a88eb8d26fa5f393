"""Boxes of a micrograph multiplied with their CTF, or with its sign, while they are extracted.

Facts: RELION 5, preprocessing.cpp (extractParticlesFromOneMicrograph): boxes are cut, filled with the micrograph's
mean outside of it, multiplied, cut to the final box, and only then what lies outside becomes the nearest pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.image.fourier import window_map
from relion_py.compute.io.star import Table
from relion_py.compute.picking.extract_images import cut_boxes

_COLUMNS = {
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle": "rlnDefocusAngle",
    "phase_shift": "rlnPhaseShift",
    "bfactor": "rlnCtfBfactor",
}
_OPTICS = {"voltage": "rlnVoltage", "cs": "rlnSphericalAberration", "q0": "rlnAmplitudeContrast"}


def _number(optics: Mapping[str, str], label: str, name: str) -> float:
    if label not in optics:
        raise UserError(f"The optics group of {name} lacks _{label}, which its CTF needs.")
    try:
        value = float(optics[label])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f'_{label} of the optics group of {name} is "{optics[label]}", not a number.')
    return value


@dataclass(frozen=True)
class CtfOptions:
    """box: pixels in which the multiplication is done. only_signs: flip phases and leave amplitudes.
    intact_first_peak: change nothing before the first peak of the CTF."""

    box: int
    only_signs: bool = False
    intact_first_peak: bool = False


@dataclass(frozen=True)
class BoxCtfs:
    """The CTFs of a micrograph's particles: parameters (n,), each particle's optics group, their aberrations."""

    params: CtfParams
    groups: NDArray[np.int64]
    aberrations: Mapping[int, Aberrations]

    @classmethod
    def of(cls, table: Table, optics: Mapping[int, Mapping[str, str]], name: str) -> BoxCtfs:
        """From particles with defocus and optics group, and rows of data_optics; UserError without them."""
        if "rlnDefocusU" not in table:
            raise UserError(f"{name} has no CTF, so its particles cannot be multiplied with it.")
        groups = table.ints("rlnOpticsGroup")
        values = {field: table.finite(label) for field, label in _COLUMNS.items() if label in table}
        values.setdefault("defocus_v", values["defocus_u"])
        microscope = {
            group: [_number(optics[group], label, name) for label in _OPTICS.values()] for group in set(groups.tolist())
        }
        for place, (field, label) in enumerate(_OPTICS.items()):
            shared = np.array([microscope[group][place] for group in groups.tolist()])
            values[field] = table.finite(label) if label in table else shared  # a particle's own value counts
        if "rlnCtfScalefactor" in table:
            values["scale"] = table.finite("rlnCtfScalefactor")
        found = {
            group: Aberrations.of_group(optics[group], voltage, cs) for group, (voltage, cs, _) in microscope.items()
        }
        return cls(CtfParams(**values), groups, found)

    def __getitem__(self, some: slice) -> BoxCtfs:
        return BoxCtfs(self.params[some], self.groups[some], self.aberrations)


def multiplied_boxes(
    micrograph: NDArray[np.float32],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    box: int,
    ctfs: BoxCtfs,
    pixel_size: float,
    options: CtfOptions,
) -> NDArray[np.float32]:
    """Boxes (n, box, box) around the pixels x, y (n,), times their CTF; pixel_size in A. See `cut_boxes`."""
    images = cut_boxes(micrograph, x, y, options.box, outside=float(micrograph.mean(dtype=np.float64)))
    transforms = fft.rfft2(images)
    kx, ky = _frequencies(options.box)
    for group, aberrations in ctfs.aberrations.items():
        of_group = ctfs.groups == group
        offset = aberrations.gamma_offset(kx, ky, options.box, pixel_size)
        transforms[of_group] *= ctf_image(
            ctfs.params[of_group],
            options.box,
            pixel_size,
            only_flip_phases=options.only_signs,
            intact_first_peak=options.intact_first_peak,
            magnification=aberrations.magnification,
            gamma_offset=offset,
        )
    images = fft.irfft2(transforms, s=images.shape[1:]).astype(np.float32)
    return _extended(window_map(images, box, dimensions=2), micrograph.shape, x, y)


def _frequencies(box: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    rows = np.arange(box, dtype=np.int32)
    rows = np.where(rows <= box // 2, rows, rows - box)
    ky, kx = np.meshgrid(rows, np.arange(box // 2 + 1, dtype=np.int32), indexing="ij")
    return kx.ravel(), ky.ravel()


def _extended(images: NDArray, shape: tuple[int, ...], x: NDArray, y: NDArray) -> NDArray[np.float32]:
    """What lies outside the micrograph becomes the nearest pixel of the box that lies inside."""
    box = images.shape[-1]
    steps = np.arange(box)
    first_x, first_y = x[:, None] - box // 2, y[:, None] - box // 2
    columns = np.clip(first_x + steps, 0, shape[1] - 1) - first_x
    rows = np.clip(first_y + steps, 0, shape[0] - 1) - first_y
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
