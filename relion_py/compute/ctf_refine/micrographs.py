"""CTF refinement of one micrograph: its particles in, its files out.

Facts: RELION 5, jaz/single_particle/ctf/ctf_refiner.cpp (processSubsetMicrographs, init, merge) and stack_helper.cpp
(splitByMicrographName).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf_refine import defocus, sums
from relion_py.compute.ctf_refine.bfactor import BfactorSettings, fit_bfactors
from relion_py.compute.ctf_refine.defocus import ASTIG1, BFACTOR, CS, DEFOCUS, PHASE, FitMode
from relion_py.compute.ctf_refine.particles import Optics, Views, read_views
from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io import star
from relion_py.compute.io.outputs import check_distinct, output_root
from relion_py.compute.io.particle_ctf import CTF_COLUMNS
from relion_py.compute.io.particles import ParticleTable, split_image_name
from relion_py.compute.io.star import StarFile
from relion_py.compute.refine.half_maps import References

_FITTED = {
    DEFOCUS: ("defocus_u", "defocus_v", "defocus_angle"),
    ASTIG1: ("defocus_u", "defocus_v", "defocus_angle"),
    PHASE: ("phase_shift",),
    CS: ("cs",),
    BFACTOR: ("bfactor", "scale"),
}


@dataclass(frozen=True)
class DefocusSettings:
    """How CTF parameters are fitted: resolutions coarser than ``coarsest`` A do not count.

    search_before, search_after: look for each particle's defocus within ``search_range`` A before and after the fit;
    search_only: instead of it; search_astigmatism: the searches end with each particle's own astigmatism.
    """

    mode: FitMode
    coarsest: float = 30.0
    iterations: int = 100
    search_before: bool = False
    search_after: bool = False
    search_only: bool = False
    search_range: float = 2000.0
    search_astigmatism: bool = False


@dataclass(frozen=True)
class Work:
    """What is done with each micrograph; sums: kinds of sums (`sums.KINDS`) to leave for the fits of optics groups."""

    defocus: DefocusSettings | None = None
    bfactors: BfactorSettings | None = None
    coarsest_bfactor: float = 30.0
    sums: tuple[str, ...] = ()

    @property
    def ctf_fields(self) -> tuple[str, ...]:
        """Fields of CtfParams that this work changes."""
        found: dict[str, None] = {}
        if self.defocus is not None:
            mode = self.defocus.mode if not self.defocus.search_only else FitMode((), ())
            searched = self.defocus.search_before or self.defocus.search_after or self.defocus.search_only
            for index, names in _FITTED.items():
                if mode.fits(index) or (searched and index == DEFOCUS):
                    found |= dict.fromkeys(names)
        if self.bfactors is not None:
            found |= dict.fromkeys(("bfactor", "scale"))
        return tuple(found)


@dataclass(frozen=True)
class Micrograph:
    """name; root: path of its outputs without their endings; rows of its particles in the table; its optics groups.

    groups: optics group (index) -> places of its particles within ``rows``.
    """

    name: str
    root: str
    rows: NDArray[np.int64]
    groups: dict[int, NDArray[np.int64]] = field(default_factory=dict)


def split_by_micrograph(table: ParticleTable, directory: str) -> list[Micrograph]:
    """Micrographs by name, the particles of each by their numbers in the stack.

    UserError for two micrographs whose outputs would have the same names.
    """
    names = table.strings("rlnMicrographName")
    numbers = [split_image_name(name)[0] for name in table.strings("rlnImageName")]
    rows: dict[str, list[int]] = {}
    for row in sorted(range(len(names)), key=lambda row: (names[row], numbers[row])):
        rows.setdefault(names[row], []).append(row)
    check_distinct(rows, "outputs")
    found = []
    for name, members in rows.items():
        inside = table.group_index[members]
        groups = {int(g): np.flatnonzero(inside == g) for g in np.unique(inside)}
        found.append(Micrograph(name, output_root(directory, name), np.array(members), groups))
    return found


def is_done(micrograph: Micrograph, work: Work) -> bool:
    """Whether all files that this work leaves for a micrograph are there."""
    return (
        (work.defocus is None or os.path.exists(_defocus_file(micrograph)))
        and (work.bfactors is None or os.path.exists(_bfactor_file(micrograph)))
        and all(sums.are_there(micrograph.root, kind, g + 1) for kind in work.sums for g in micrograph.groups)
    )


def process(
    micrograph: Micrograph,
    table: ParticleTable,
    params: CtfParams,
    optics: Sequence[Optics],
    references: References,
    work: Work,
) -> None:
    """Do the work and write its files; params: the CTFs of all particles of the table."""
    os.makedirs(os.path.dirname(micrograph.root) or ".", exist_ok=True)
    mine = params[micrograph.rows]
    places = list(micrograph.groups.values())
    views = [read_views(table, micrograph.rows[p], optics[g], references) for g, p in micrograph.groups.items()]
    parts = [mine[p] for p in places]
    if work.defocus is not None:
        parts = fit_ctfs(views, parts, references, work.defocus)
        _write_ctfs(_defocus_file(micrograph), table, micrograph, _joined(mine, places, parts), work)
    if work.bfactors is not None:
        weights = [references.weights(v.optics.frequency, work.coarsest_bfactor) for v in views]
        parts = fit_bfactors(views, parts, weights, work.bfactors)
        _write_ctfs(_bfactor_file(micrograph), table, micrograph, _joined(mine, places, parts), work)
    for kind in work.sums:
        for v, part in zip(views, parts, strict=True):
            sums.write_sums(micrograph.root, kind, v.optics, sums.MAKERS[kind](v, part, references))


def fit_ctfs(
    views: Sequence[Views], parts: Sequence[CtfParams], references: References, settings: DefocusSettings
) -> list[CtfParams]:
    """Search and fit the CTFs of one micrograph, as the settings say; one element for each optics group."""
    weights = [references.weights(v.optics.frequency, settings.coarsest) for v in views]

    def searched(parts: Sequence[CtfParams]) -> list[CtfParams]:
        found = [
            defocus.scan(v, part, w, settings.search_range) for v, part, w in zip(views, parts, weights, strict=True)
        ]
        if settings.search_astigmatism:
            found = defocus.fit(views, found, weights, FitMode.parse("fppff"), settings.iterations)
        return found

    parts = list(parts)
    if settings.search_before or settings.search_only:
        parts = searched(parts)
    if not settings.search_only:
        parts = defocus.fit(views, parts, weights, settings.mode, settings.iterations)
        if settings.search_after:
            parts = searched(parts)
    return parts


def read_ctfs(micrograph: Micrograph, table: ParticleTable, work: Work) -> dict[str, NDArray[np.float64]]:
    """What the work found for a micrograph's particles: field of CtfParams -> values in the order of its rows.

    UserError for a missing file, or one that lacks a particle.
    """
    path = _bfactor_file(micrograph) if work.bfactors is not None else _defocus_file(micrograph)
    written = next((t for t in star.read(path).values() if "rlnImageName" in t), star.Table())
    names = table.strings("rlnImageName") if len(written) else []
    place = {name: row for row, name in enumerate(written.strings("rlnImageName"))} if len(written) else {}
    rows = [place.get(names[row], -1) if names else -1 for row in micrograph.rows]
    if min(rows) < 0:
        raise UserError(f"{path} lacks particles of {micrograph.name}; remove it and continue the job.")
    return {field: written.floats(CTF_COLUMNS[field])[rows] for field in work.ctf_fields}


def _defocus_file(micrograph: Micrograph) -> str:
    return f"{micrograph.root}_defocus_fit.star"


def _bfactor_file(micrograph: Micrograph) -> str:
    return f"{micrograph.root}_bfactor_fit.star"


def _joined(all_params: CtfParams, places: Sequence[NDArray], parts: Sequence[CtfParams]) -> CtfParams:
    """The parts of optics groups in the order of the micrograph's particles."""
    values = {f.name: getattr(all_params, f.name).copy() for f in fields(CtfParams)}
    for place, part in zip(places, parts, strict=True):
        for name, column in values.items():
            column[place] = getattr(part, name)
    return replace(all_params, **values)


def _write_ctfs(path: str, table: ParticleTable, micrograph: Micrograph, params: CtfParams, work: Work) -> None:
    part = table.particles.select(micrograph.rows)
    for name in work.ctf_fields:
        part.set(CTF_COLUMNS[name], getattr(params, name))
    star.write(path, StarFile([("", part)]))
