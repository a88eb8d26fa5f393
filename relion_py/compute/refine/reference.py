"""The references and the solvent mask, brought to the box and pixel size of the particles.

Sources: ml_model.cpp, initialiseFromImages (reference); ml_optimiser.cpp, checkMask (mask). Maps are
(z, y, x) float32 with the centre at pixel box//2; references of 2D classes are images (y, x).

The reference rescales by cropping Fourier transforms (fftw.cpp, resizeMap), which reaches only pixel sizes
that make the box an even number, and goes on with a model whose pixels differ a little from the particles'.
Here the map's Fourier series is evaluated at the new grid points themselves: any pixel size is reached, and
the two agree wherever cropping is exact.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_header, read_image, read_map
from relion_py.compute.refine.options import RefineOptions

Volume = NDArray[np.float32]

SAME_PIXEL_SIZE = 0.001
"""A: pixel sizes that differ by no more are the same (initialiseFromImages)."""


def look_at_references(options: RefineOptions) -> RefineOptions:
    """The options, with what --ref names: its maps or images, and the number of classes that a STAR file of them sets.

    A STAR file has a column _rlnReferenceImage, as the `_model.star` of a classification; --K then does not count.
    Reads headers only. UserError for what cannot be references; `checks.py` tells of files that are missing.
    """
    if not options.has_reference:
        return options
    if options.reference.endswith(".star") and not os.path.exists(options.reference):
        raise UserError(f"The references {options.reference} do not exist: name others with --ref.")
    names = _listed_references(options.reference)
    dimensions = {2 if is_flat(name) else 3 for name in names}
    if len(dimensions) > 1:
        raise UserError(f"{options.reference} lists maps and images: all references must be of one kind.")
    classes = len(names) if options.reference.endswith(".star") else options.classes
    if options.auto_refine and (len(names) > 1 or dimensions == {2}):
        what = f"{len(names)} references" if len(names) > 1 else "an image"
        raise UserError(f"Auto-refinement refines one map, not {what}: name a map with --ref.")
    return replace(options, reference_names=names, reference_dimensions=dimensions.pop(), classes=classes)


def _listed_references(path: str) -> tuple[str, ...]:
    if not path.endswith(".star"):
        return (path,)
    tables = star.read(path)
    for table in (tables.get("model_classes"), *tables.values()):
        if table is not None and len(table) and "rlnReferenceImage" in table:
            return tuple(table.strings("rlnReferenceImage"))
    raise UserError(f"{path} has no column _rlnReferenceImage, which names the references that --ref takes.")


def file_of_reference(name: str) -> str:
    """The file of a map, or the stack of `000003@stack.mrcs`."""
    return name.rpartition("@")[2]


def is_flat(name: str) -> bool:
    """Whether a reference is an image, by its name or its header; what is not there counts as a map."""
    return "@" in name or (os.path.exists(name) and read_header(name).nz == 1)


def read_reference(
    path: str, box: int, pixel_size: float, *, ref_angpix: float = -1.0, trust_ref_size: bool = False
) -> tuple[Volume, list[str]]:
    """The reference in the box (pixels) and pixel size (A) of the particles, and what was changed for it.

    ref_angpix > 0 overrules the header. A map or image of another box or pixel size is rescaled and re-boxed with
    `trust_ref_size`; without, it is a UserError, as are one that is not as wide as high and one without a pixel size.
    """
    volume, header = _square_image(path) if is_flat(path) else _cubic_map(path, "reference")
    own = ref_angpix if ref_angpix > 0 else header
    if own <= 0:
        raise UserError(f"The header of the reference {path} has no pixel size: give it with --ref_angpix, in A.")
    other = []
    if abs(own - pixel_size) > SAME_PIXEL_SIZE:
        other.append(f"pixels of {own:g} A (the particles {pixel_size:g} A)")
    if len(volume) != box:
        other.append(f"a box of {len(volume)} pixels (the particles {box})")
    if not other:
        return volume, []
    what = f"The reference {path} has {' and '.join(other)}"
    if not trust_ref_size:
        raise UserError(f"{what}: add --trust_ref_size to have it rescaled, or rescale it yourself.")
    if abs(own - pixel_size) > SAME_PIXEL_SIZE:
        volume = resample(volume, own, pixel_size, box)
    else:
        volume = window(volume, box)
    return volume, [f"{what}: rescaled to {pixel_size:g} A and {box} pixels."]


def read_solvent_mask(path: str, box: int, pixel_size: float) -> tuple[Volume, list[str]]:
    """The mask (0 to 1) in the box and pixel size of the reference, and what had to be changed.

    When something was changed the reference writes the new mask beside its output (`run_solvent_mask.mrc`)
    and goes on with that name.
    """
    mask, own = _cubic_map(path, "solvent mask")
    changes = []
    if own > 0 and abs(own - pixel_size) > SAME_PIXEL_SIZE:
        mask = resample(mask, own, pixel_size, box)
        changes.append(f"The solvent mask {path} has pixels of {own:g} A: rescaled to {pixel_size:g} A.")
    elif len(mask) != box:
        changes.append(f"The solvent mask {path} has a box of {len(mask)} pixels: re-boxed to {box}.")
        mask = window(mask, box)
    if mask.min() < 0 or mask.max() > 1:
        changes.append(f"The solvent mask {path} has values from {mask.min():g} to {mask.max():g}: cut to 0 ... 1.")
        mask = np.clip(mask, 0.0, 1.0)
    if not mask.any():
        raise UserError(f"The solvent mask {path} is empty: all its values are 0.")
    return mask, changes


def _cubic_map(path: str, what: str) -> tuple[Volume, float]:
    volume, pixel_size = read_map(path)
    if volume.ndim != 3 or len(set(volume.shape)) != 1 or len(volume) < 2:
        z, y, x = volume.shape
        raise UserError(f"The {what} {path} is {x} x {y} x {z}; it must be a cube.")
    if not np.isfinite(volume.sum(dtype=np.float64)):
        raise UserError(f"The {what} {path} has voxels that are not numbers (NaN or infinite).")
    return volume, pixel_size


def _square_image(name: str) -> tuple[Volume, float]:
    image, pixel_size = read_image(name)
    if image.shape[0] != image.shape[1]:
        raise UserError(f"The reference {name} is {image.shape[1]} x {image.shape[0]}; it must be square.")
    if not np.isfinite(image.sum(dtype=np.float64)):
        raise UserError(f"The reference {name} has pixels that are not numbers (NaN or infinite).")
    return image, pixel_size


def resample(volume: Volume, own: float, wanted: float, box: int) -> Volume:
    """The map or image, whose pixels are `own` A, on `box` pixels a side of `wanted` A around its centre.

    Heights are kept.

    Its Fourier series up to the lower of both Nyquist frequencies, evaluated along one axis after the other;
    zero where the old map has no voxels.
    """
    old = len(volume)
    places = (np.arange(box) - box // 2) * (wanted / own)  # old pixels from the old centre
    limit = min(old / 2, old * own / wanted / 2)
    highest = int(np.ceil(limit - 1e-6)) - 1  # below Nyquist, where the two signs of a wave are told apart
    angles = 2 * np.pi / old * (places[:, None] + old // 2 - np.arange(old)[None, :])
    sine = np.sin(angles / 2)
    at_voxel = np.abs(sine) < 1e-9
    series = np.sin((highest + 0.5) * angles) / np.where(at_voxel, 1.0, sine)  # 1 + 2 sum of cos(k angle)
    kernel = np.where(at_voxel, 2 * highest + 1, series) / old
    kernel[(places < -(old // 2) - 0.5) | (places > old - old // 2 - 0.5)] = 0
    result = volume.astype(np.float64)
    for _ in range(volume.ndim):  # each turn takes the first axis and puts it last: then all are in place
        result = np.tensordot(result, kernel, axes=(0, 1))
    return result.astype(np.float32)


def window(volume: Volume, box: int) -> Volume:
    """The middle `box` pixels a side, or the map or image with zeros around it; the centre pixel stays the centre."""
    result = np.zeros((box,) * volume.ndim, dtype=volume.dtype)
    old = len(volume)
    shift = box // 2 - old // 2  # index in the new map of index 0 of the old one
    inside = slice(max(shift, 0), min(shift + old, box))
    taken = slice(inside.start - shift, inside.stop - shift)
    result[(inside,) * volume.ndim] = volume[(taken,) * volume.ndim]
    return result
