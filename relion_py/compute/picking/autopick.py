"""Automatic picking of one micrograph: its file in, its coordinates out."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from relion_py.compute.errors import UserError
from relion_py.compute.io.mrc import read_header, read_image
from relion_py.compute.picking.autopick_files import Micrograph, write_picks
from relion_py.compute.picking.log import (
    LogSettings,
    Maps,
    best_of,
    diameters_of,
    geometry_of,
    log_maps,
    pick_log,
)
from relion_py.compute.picking.log_files import map_name, read_maps, write_spider


@dataclass(frozen=True)
class FomMaps:
    """Whether to write figure-of-merit maps, or to read those of an earlier run instead of computing them."""

    write: bool = False
    read: bool = False


def do_autopick(micrograph: Micrograph, root: str, settings: LogSettings, maps: FomMaps) -> int:
    """Pick one micrograph by its Laplacian of Gaussian; returns how many particles there are.

    root: path of the outputs without `.star`. Coordinates of an earlier run are removed first, so that a
    micrograph that fails has none. UserError, with the name of the file, if it cannot be used.
    """
    os.makedirs(os.path.dirname(root) or ".", exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(root + ".star")
    try:
        filtered: Maps
        if maps.read:
            header = read_header(micrograph.name)
            geometry = geometry_of((header.ny, header.nx), micrograph.angpix, settings)
            filtered = read_maps(root, diameters_of(settings), geometry.work)
        else:
            image, _ = read_image(micrograph.name)
            geometry = geometry_of(image.shape, micrograph.angpix, settings)
            filtered = log_maps(image, geometry, settings, micrograph.ctf)
        if maps.write:
            filtered = _written(filtered, root)
        merit, size = best_of(filtered)
        if maps.write:
            write_spider(f"{root}_bestLoG.spi", merit)
            write_spider(f"{root}_bestSize.spi", size)
        picks = pick_log(merit, size, geometry, settings)
    except UserError as error:
        sentence = str(error)
        raise UserError(sentence if micrograph.name in sentence else f"{micrograph.name}: {sentence}") from None
    write_picks(root + ".star", picks)
    return len(picks)


def _written(filtered: Maps, root: str) -> Maps:
    for diameter, image in filtered:
        write_spider(map_name(root, diameter), image)
        yield diameter, image
