"""Automatic picking of one micrograph: its file in, its coordinates out, by one method or another."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_header, read_image
from relion_py.compute.io.spider import write_spider
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.picking.autopick_files import Micrograph
from relion_py.compute.picking.log import LogSettings, Maps, best_of, diameters_of, log_maps, pick_log
from relion_py.compute.picking.log_files import map_name, read_maps
from relion_py.compute.picking.micrograph import Geometry, Image, geometry_of
from relion_py.compute.picking.peaks import (
    Area,
    find_peaks,
    joined,
    prune_clusters,
    remove_crowded,
    widened,
    work_area,
)  # fmt: skip
from relion_py.compute.picking.references import References
from relion_py.compute.picking.template_files import read_match, read_noise, write_match, write_noise
from relion_py.compute.picking.templates import Match, Matcher, Noise, TemplateSettings


@dataclass(frozen=True)
class FomMaps:
    """Whether to write figure-of-merit maps, or to read those of an earlier run instead of computing them."""

    write: bool = False
    read: bool = False


MakeMatcher = Callable[[References, Geometry, TemplateSettings], Matcher]
"""References ready for micrographs of one size."""


class Method(Protocol):
    """A way of picking. Threads share it."""

    def pick(self, micrograph: Micrograph, root: str, number: int) -> Table:
        """Coordinates on one micrograph. root: path of the outputs without `.star`; number: of the micrograph,
        added to the random seed."""


def do_autopick(micrograph: Micrograph, root: str, method: Method, number: int) -> int:
    """Pick one micrograph; returns how many particles there are.

    root: path of the outputs without `.star`. Coordinates of an earlier run are removed first, so that a
    micrograph that fails has none. UserError, with the name of the file, if it cannot be used.
    """
    os.makedirs(os.path.dirname(root) or ".", exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(root + ".star")
    try:
        picks = method.pick(micrograph, root, number)
    except UserError as error:
        sentence = str(error)
        raise UserError(sentence if micrograph.name in sentence else f"{micrograph.name}: {sentence}") from None
    star.write(root + ".star", StarFile([("", picks)]))
    return len(picks)


class LogMethod:
    """Picking by a Laplacian of Gaussian."""

    def __init__(self, settings: LogSettings, maps: FomMaps) -> None:
        self._settings, self._maps = settings, maps

    def pick(self, micrograph: Micrograph, root: str, number: int) -> Table:
        """See :class:`Method`."""
        settings = replace(self._settings, seed=self._settings.seed + number)
        filtered: Maps
        if self._maps.read:
            header = read_header(micrograph.name)
            geometry = geometry_of((header.ny, header.nx), micrograph.angpix, settings)
            filtered = read_maps(root, diameters_of(settings), geometry.work)
        else:
            image, _ = read_image(micrograph.name, mapped=True)
            geometry = geometry_of(image.shape, micrograph.angpix, settings)
            filtered = log_maps(image, geometry, settings, micrograph.ctf)
        if self._maps.write:
            filtered = _written(filtered, root)
        merit, size = best_of(filtered)
        if self._maps.write:
            write_spider(f"{root}_bestLoG.spi", merit)
            write_spider(f"{root}_bestSize.spi", size)
        picks = pick_log(merit, size, geometry, settings)
        return Table(
            {
                "rlnCoordinateX": picks.x,
                "rlnCoordinateY": picks.y,
                "rlnAutopickFigureOfMerit": picks.merit,
                "rlnClassNumber": [0] * len(picks),  # dummies
                "rlnAnglePsi": [0.0] * len(picks),
            }
        )


def _written(filtered: Maps, root: str) -> Maps:
    for diameter, image in filtered:
        write_spider(map_name(root, diameter), image)
        yield diameter, image


@dataclass(frozen=True)
class PeakSettings:
    """Which peaks of template matching become picks.

    threshold: least figure of merit. min_distance (A) between particles; negative: half the references' box.
    max_deviation: largest standard deviation of the noise around a pick; not positive: any. min_mean: least mean of
    the noise; -900 and less: any. skip_side: pixels without picks at the edges, besides half the references' box.
    """

    threshold: float = 0.25
    min_distance: float = -1.0
    max_deviation: float = -1.0
    min_mean: float = -999.0
    skip_side: int = 0

    def allowed(self, noise: Noise) -> np.ndarray:
        """Where picks may be as far as the noise is concerned, bool (work, work)."""
        allowed = np.ones(noise.mean.shape, bool)
        if self.max_deviation > 0:
            allowed &= noise.deviation <= self.max_deviation
        if self.min_mean > -900:
            allowed &= noise.mean >= self.min_mean
        return allowed


class TemplateMethod:
    """Picking with references. make_matcher: `Matcher`, or what makes one that computes elsewhere."""

    def __init__(
        self, references: References, settings: TemplateSettings, peaks: PeakSettings, maps: FomMaps,
        stop: threading.Event, make_matcher: MakeMatcher = Matcher,
    ) -> None:  # fmt: skip
        self._make_matcher = make_matcher
        self._references, self._settings, self._peaks, self._maps = references, settings, peaks, maps
        self._stop = stop
        self._matchers: dict[Geometry, Matcher] = {}
        self._lock = threading.Lock()

    def pick(self, micrograph: Micrograph, root: str, number: int) -> Table:
        """See :class:`Method`."""
        header = read_header(micrograph.name)
        geometry = geometry_of((header.ny, header.nx), micrograph.angpix, self._settings, self._settings.margin)
        box, scale = self._references.box, geometry.scale
        area = work_area(geometry, self._peaks.skip_side + box // 2)
        noise, matches = self._maps_of(micrograph, root, number, geometry, area)
        allowed = self._peaks.allowed(noise)
        least = self._peaks.min_distance if self._peaks.min_distance >= 0 else box * geometry.angpix / 2
        # at least so much that a peak removes itself
        distance = max(np.floor(least / geometry.angpix + 0.5) * scale, 0.5)
        radius = self._references.radius * scale
        found = []
        for reference, match in enumerate(matches):
            peaks = find_peaks(
                match.merit, match.psi, allowed, area, self._peaks.threshold, geometry.scale < 1, reference
            )
            found.append(prune_clusters(peaks, radius, distance))
        peaks = remove_crowded(prune_clusters(joined(found), radius, distance), distance)
        top, left = geometry.corner
        return Table(
            {
                "rlnCoordinateX": peaks.column / scale - left,
                "rlnCoordinateY": peaks.row / scale - top,
                "rlnClassNumber": peaks.reference + 1,
                "rlnAutopickFigureOfMerit": peaks.merit,
                "rlnAnglePsi": peaks.psi,
            }
        )

    def _maps_of(
        self, micrograph: Micrograph, root: str, number: int, geometry: Geometry, area: Area
    ) -> tuple[Noise, Iterator[Match]]:
        """The noise and the references' maps, computed or from an earlier run; for peaks in an area."""
        if self._maps.read:
            noise = read_noise(root, geometry.work)
            count = len(self._references.images)
            return noise, (read_match(root, index, geometry.work) for index in range(count))
        image: Image
        image, _ = read_image(micrograph.name, mapped=True)
        matcher = self._matcher(geometry)
        started = matcher.start(image, micrograph.ctf, self._settings.seed + number)
        noise = started.noise(matcher.noise_mask)
        if self._maps.write:
            write_noise(root, noise)
        # peaks are compared with their neighbours
        beside = None if self._maps.write else widened(area, geometry.work)
        return noise, self._matched(started.match(noise, self._stop, beside), root)

    def _matched(self, matches: Iterator[Match], root: str) -> Iterator[Match]:
        for index, match in enumerate(matches):
            if self._maps.write:
                write_match(root, index, match)
            yield match

    def _matcher(self, geometry: Geometry) -> Matcher:
        """The references ready for micrographs of this size; made once."""
        with self._lock:
            if geometry not in self._matchers:
                self._matchers[geometry] = self._make_matcher(self._references, geometry, self._settings)
            return self._matchers[geometry]
