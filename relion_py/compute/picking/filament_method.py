"""Picking filaments with references: the maps of all references as one, then segments along filaments.

Source: RELION 5, autopicker.cpp (autoPickOneMicrograph with autopick_helical_segments).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.io.mrc import read_header, read_image
from relion_py.compute.io.spider import write_spider
from relion_py.compute.io.star import Table
from relion_py.compute.picking.autopick import FomMaps, MakeMatcher, PeakSettings, TemplateMethod
from relion_py.compute.picking.autopick_files import Micrograph
from relion_py.compute.picking.filaments import FilamentSettings, noise_ring, pick_amyloids, pick_filaments
from relion_py.compute.picking.micrograph import Geometry, Image, geometry_of
from relion_py.compute.picking.references import References
from relion_py.compute.picking.template_files import read_fom_map, read_noise, write_noise
from relion_py.compute.picking.templates import Matcher, Noise, TemplateSettings, mask_transform


@dataclass(frozen=True)
class Combined:
    """The best of all references, (work, work): its merit, its psi (degrees) and its number (from 0), and the noise
    around a filament."""

    merit: Image
    psi: Image
    reference: NDArray[np.int16]
    noise: Noise


class FilamentMethod(TemplateMethod):
    """Picking filaments."""

    def __init__(
        self, references: References, settings: TemplateSettings, peaks: PeakSettings, maps: FomMaps,
        stop: threading.Event, filaments: FilamentSettings, make_matcher: MakeMatcher = Matcher,
    ) -> None:  # fmt: skip
        super().__init__(references, settings, peaks, maps, stop, make_matcher)
        self._filaments = filaments

    def pick(self, micrograph: Micrograph, root: str, number: int) -> Table:
        """See :class:`~relion_py.compute.picking.autopick.Method`."""
        header = read_header(micrograph.name)
        geometry = geometry_of((header.ny, header.nx), micrograph.angpix, self._settings, self._settings.margin)
        if self._maps.read:
            combined = self._read(root, geometry)
        else:
            combined = self._combine(micrograph, number, geometry)
        if self._maps.write:
            self._write(root, combined)
        allowed, how = self._peaks.allowed(combined.noise), self._peaks
        if self._filaments.amyloid:
            return pick_amyloids(
                combined.merit, combined.psi, allowed, how.threshold, how.skip_side, geometry, self._filaments
            )
        side = how.skip_side + self._references.box // 2
        return pick_filaments(
            combined.merit, combined.reference, allowed, how.threshold, side, geometry, self._filaments
        )

    def _combine(self, micrograph: Micrograph, number: int, geometry: Geometry) -> Combined:
        image, _ = read_image(micrograph.name, mapped=True)
        matcher = self._matcher(geometry)
        started = matcher.start(image, micrograph.ctf, self._settings.seed + number)
        ring = noise_ring(self._references.box, geometry.angpix, self._filaments)
        around = started.noise(mask_transform(ring, geometry))
        shape = (geometry.work,) * 2
        merit, psi = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.float32)
        reference = np.zeros(shape, np.int16)
        for index, match in enumerate(started.match(started.noise(matcher.noise_mask), self._stop)):
            better = match.merit > merit
            merit[better], psi[better], reference[better] = match.merit[better], match.psi[better], index
        return Combined(merit, psi, reference, around)

    def _write(self, root: str, combined: Combined) -> None:
        write_noise(root, combined.noise)
        write_spider(f"{root}_combinedCCF.spi", combined.merit)
        if self._filaments.amyloid:
            write_spider(f"{root}_combinedPSI.spi", combined.psi)
        else:
            write_spider(f"{root}_combinedCLASS.spi", combined.reference.astype(np.float32))

    def _read(self, root: str, geometry: Geometry) -> Combined:
        work = geometry.work
        merit, psi = read_fom_map(f"{root}_combinedCCF.spi", work), np.zeros((work, work), np.float32)
        reference = np.zeros((work, work), np.int16)
        if self._filaments.amyloid:
            psi = read_fom_map(f"{root}_combinedPSI.spi", work)
        else:
            reference = read_fom_map(f"{root}_combinedCLASS.spi", work).astype(np.int16)
        return Combined(merit, psi, reference, read_noise(root, work))
