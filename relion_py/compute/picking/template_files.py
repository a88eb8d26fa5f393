"""Figure-of-merit maps of template matching on disc: SPIDER images that RELION reads and writes.

Source: RELION 5, autopicker.cpp (autoPickOneMicrograph); filename.cpp (compose) for the names.
"""

from __future__ import annotations

import os

from relion_py.compute.errors import UserError
from relion_py.compute.io.spider import read_spider, write_spider
from relion_py.compute.picking.micrograph import Image
from relion_py.compute.picking.templates import Match, Noise


def write_noise(root: str, noise: Noise) -> None:
    """Write mean and standard deviation of the noise; root: that of the picks, without `.star`."""
    write_spider(f"{root}_stddevNoise.spi", noise.deviation)
    write_spider(f"{root}_avgNoise.spi", noise.mean)


def read_noise(root: str, work: int) -> Noise:
    """What :func:`write_noise` wrote; UserError if it is missing or has another size."""
    return Noise(read_fom_map(f"{root}_avgNoise.spi", work), read_fom_map(f"{root}_stddevNoise.spi", work))


def write_match(root: str, number: int, match: Match) -> None:
    """Write the maps of a reference, numbered from 0."""
    merit, psi = _names(root, number)
    write_spider(merit, match.merit, match.expected)
    write_spider(psi, match.psi)


def read_match(root: str, number: int, work: int) -> Match:
    """What :func:`write_match` wrote; the expected ratio plays no role any more. UserError as of :func:`read_noise`."""
    merit, psi = (read_fom_map(name, work) for name in _names(root, number))
    return Match(merit, psi, 1.0)


def read_fom_map(path: str, work: int) -> Image:
    """A map (work, work)."""
    if not os.path.exists(path):
        raise UserError(f"there is no map {path}; run once with --write_fom_maps and the same references.")
    image = read_spider(path)
    if image.shape != (work, work):
        raise UserError(
            f"{path} has {image.shape[1]} x {image.shape[0]} pixels where {work} x {work} are needed; give the "
            "--lowpass and --shrink that it was written with."
        )
    return image


def _names(root: str, number: int) -> tuple[str, str]:
    start = f"{root}_ref{number:06d}._best"
    return f"{start}CCF.spi", f"{start}PSI.spi"
