"""The two half maps that particles are compared with, and how far they can be trusted.

Facts: RELION 5, jaz/single_particle/reference_map.cpp (load, getHollowWeight) and refinement_helper.cpp (drawFSC).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map
from relion_py.compute.refine.projector import FourierReference

THRESHOLD = 0.143
"""Shells whose FSC is lower count for nothing."""

_FSC = "rlnFourierShellCorrelationCorrected"
_MARGIN = 2
"""Shells kept beyond the last one that counts, for a magnification that reaches out of it."""


@dataclass(frozen=True)
class ReferenceFiles:
    """Where the references are: half maps, mask ("" for none), FSC; angpix in A, not positive: as the map says."""

    half1: str
    half2: str
    mask: str
    fsc: str
    angpix: float = -1.0
    padding: float = 2.0


@dataclass(frozen=True)
class References:
    """Both half maps, and the FSC by shell, float64 (box // 2 + 1,), 0 where it is below 0.143."""

    halves: tuple[FourierReference, FourierReference]
    fsc: NDArray[np.float64]
    box: int
    angpix: float

    @property
    def length(self) -> float:
        """Side of the box, A."""
        return self.box * self.angpix

    @property
    def finest(self) -> float:
        """Frequency in 1/A of the last shell that counts."""
        return float(np.flatnonzero(self.fsc)[-1] + 0.5) / self.length

    def weights(self, frequency: ArrayLike, coarsest: float) -> NDArray[np.float64]:
        """The FSC at frequencies (P,) in 1/A; 0 for what is coarser than ``coarsest`` A."""
        found = np.asarray(frequency, np.float64)
        shell = np.floor(found * self.length + 0.5).astype(np.int64)
        weight = np.where(shell < len(self.fsc), self.fsc[np.minimum(shell, len(self.fsc) - 1)], 0.0)
        return np.where(found * coarsest < 1.0, 0.0, weight)


def locate_references(post: str, half1: str, half2: str, mask: str, angpix: float, padding: float) -> ReferenceFiles:
    """The files that a post-processing STAR file names, unless both half maps were given.

    UserError where neither tells the half maps.
    """
    if half1 and half2:
        return ReferenceFiles(half1, half2, mask, post, angpix, padding)
    file = star.read(post)
    general = file["general"] if "general" in file else star.Table()
    names = [general.value(label, "") for label in ("rlnUnfilteredMapHalf1", "rlnUnfilteredMapHalf2", "rlnMaskName")]
    if not all(names):
        raise UserError(
            f"{post} does not name the half maps and the mask: give the postprocess.star of a post-processing "
            "with a mask, or --m1 and --m2."
        )
    return ReferenceFiles(names[0], names[1], names[2], post, angpix, padding)


def read_references(
    files: ReferenceFiles, say: Callable[[str], None], workers: int = 1, whole: bool = False
) -> References:
    """Mask both half maps and transform them, up to the last shell that counts, or to the last one of all.

    UserError for maps that are not cubes of one size, and an FSC that does not belong to them.
    """
    (first, angpix), (second, _) = read_map(files.half1), read_map(files.half2)
    for name, volume in ((files.half1, first), (files.half2, second)):
        if volume.ndim != 3 or len(set(volume.shape)) != 1:
            raise UserError(f"{name} is not a cube but {' x '.join(map(str, volume.shape[::-1]))}.")
    if first.shape != second.shape:
        raise UserError(f"{files.half1} and {files.half2} differ in size; give the two halves of one refinement.")
    if files.angpix > 0:
        angpix = files.angpix
    if not angpix > 0:
        raise UserError(f"{files.half1} does not tell its pixel size; give it with --angpix_ref.")
    if files.mask:
        mask, _ = read_map(files.mask)
        if mask.shape != first.shape:
            raise UserError(f"The mask {files.mask} differs in size from {files.half1}.")
        say(" + Masking references ...")
        first, second = first * mask, second * mask
    box = len(first)
    fsc = _read_fsc(files.fsc, box)
    size = -1 if whole else 2 * min(box // 2, int(np.flatnonzero(fsc)[-1]) + _MARGIN)
    say(" + Transforming references ...")
    halves = tuple(FourierReference.from_map(v, size, files.padding, workers=workers) for v in (first, second))
    return References((halves[0], halves[1]), fsc, box, angpix)


def _read_fsc(path: str, box: int) -> NDArray[np.float64]:
    """By shell (box // 2 + 1,), 0 where it is lower than the threshold or not told."""
    file = star.read(path)
    table = file["fsc"] if "fsc" in file else star.Table()
    if _FSC not in table or "rlnSpectralIndex" not in table:
        raise UserError(f"{path} has no corrected FSC (_{_FSC} in data_fsc); post-process the half maps with a mask.")
    index, values = table.ints("rlnSpectralIndex"), table.floats(_FSC)
    if index.min() < 0 or index.max() != box // 2:
        raise UserError(f"The FSC in {path} has shells up to {index.max()}, but the maps' last one is {box // 2}.")
    curve = np.zeros(box // 2 + 1)
    curve[index] = np.where(values >= THRESHOLD, values, 0.0)
    if not curve[1:].any():
        raise UserError(f"The FSC in {path} is below {THRESHOLD} everywhere; there is nothing to refine against.")
    return curve
