"""Particle extraction: a micrograph's particles to a stack and a STAR file, and all of them to one list.

Every micrograph gives `<directory>/<its path>.mrcs` and `<directory>/<its path>_extract.star`; the STAR file is
written last, so where it stands the stack is whole.

Facts: RELION 5, preprocessing.cpp (extractParticlesFromFieldOfView, extractParticlesFromOneMicrograph,
joinAllStarFiles) and ctf.cpp (CTF::write).
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.labels import type_of
from relion_py.compute.io.mrc import StackWriter, read_header, read_image
from relion_py.compute.io.outputs import check_distinct, output_root
from relion_py.compute.io.particles import image_name
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.picking.extract_coordinates import RefinedParticles, X, Y, read_coordinates
from relion_py.compute.picking.extract_ctf import BoxCtfs, CtfOptions, multiplied_boxes
from relion_py.compute.picking.extract_helix import PSI_PRIOR, HelixOptions, read_helical_coordinates
from relion_py.compute.picking.extract_images import ImageOptions, cut_boxes, process_images, touches

SUFFIX = "_extract.star"
FEW = 10  # particles of a micrograph, below which a group of its own is small
_NO_THRESHOLD = -999.0
_CHUNK_PIXELS = 250_000  # pixels of the boxes that are in work at a time: as many as a cache holds
_CTF_DEFAULTS = {
    "rlnDefocusU": 0.0,
    "rlnDefocusV": 0.0,
    "rlnDefocusAngle": 0.0,
    "rlnCtfBfactor": 0.0,
    "rlnCtfScalefactor": 1.0,
    "rlnPhaseShift": 0.0,
}
_TILTS = ("rlnBeamTiltX", "rlnBeamTiltY")


@dataclass(frozen=True)
class Settings:
    """How particles are extracted.

    box: pixels of the micrograph, even. images: what is done with each box. float16: write MRC mode 12.
    minimum_fom: only particles whose rlnAutopickFigureOfMerit is larger; -999: all. selection_type: only those
    of this rlnParticleSelectionType; 0: all. bias: whole pixels (x, y) that are added to all coordinates.
    keep_micrograph_ctf: the CTF of the micrograph takes the place of that of refined particles. helix: segments of
    helices are extracted. ctf: the images are multiplied with their CTF.
    """

    box: int
    images: ImageOptions = field(default_factory=ImageOptions)
    float16: bool = False
    minimum_fom: float = _NO_THRESHOLD
    selection_type: int = 0
    bias: tuple[int, int] = (0, 0)
    keep_micrograph_ctf: bool = False
    helix: HelixOptions | None = None
    ctf: CtfOptions | None = None

    def __post_init__(self) -> None:
        if self.box <= 0 or self.box % 2:
            raise UserError(f"--extract_size must be an even number of pixels, not {self.box}.")
        self.images.check(self.box)
        if self.helix:
            self.helix.check()
            if self.images.normalise and self.helix.outer <= 0:
                raise UserError("--norm of helical segments needs --helical_outer_diameter, the tube's diameter (A).")
        if self.ctf and (self.ctf.box < self.box or self.ctf.box % 2):
            raise UserError(
                f"--premultiply_extract_size must be even and not below the {self.box} pixels of --extract_size."
            )

    @property
    def final_box(self) -> int:
        """Pixels of the images that are written."""
        return self.images.final_box(self.box)

    def final_pixel_size(self, pixel_size: float) -> float:
        """A of a pixel of the images that are written, from that of the micrograph."""
        return pixel_size * self.box / self.images.scale if self.images.scale else pixel_size

    def image_options(self, pixel_size: float) -> ImageOptions:
        """What is done with the boxes of a micrograph of `pixel_size` A; UserError if it does not fit."""
        if not self.helix or self.helix.outer <= 0:
            return self.images
        radius = 0.5 * self.helix.outer / self.final_pixel_size(pixel_size)
        options = replace(self.images, tube_radius=radius)
        options.check(self.box)
        return options


@dataclass(frozen=True)
class Micrograph:
    """One micrograph: its name, optics group, A per pixel, its row of the micrographs' table and its group's."""

    name: str
    optics_group: int
    pixel_size: float
    row: dict[str, str]
    optics: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Micrographs:
    """The micrographs of an input, the table of their optics groups, and A per pixel by optics group's name."""

    entries: tuple[Micrograph, ...]
    optics: Table
    pixel_sizes: dict[str, float]


def read_micrographs(path: str) -> Micrographs:
    """The micrographs of a STAR file, such as `micrographs_ctf.star`.

    UserError for tilt series, missing columns, no micrographs, and two that would write the same files.
    """
    file = star.read(path)
    if "global" in file and "rlnTomoName" in file["global"]:
        raise UserError(f"{path} lists tilt series; tomography is not in this release.")
    if "optics" not in file:
        file = to_optics_form(file)
    optics = file["optics"]
    tables = [table for name, table in file.items() if name != "optics" and "rlnMicrographName" in table]
    if not tables or not len(tables[0]):
        raise UserError(f"{path} lists no micrographs; it needs the column _rlnMicrographName.")
    if "rlnMicrographPixelSize" not in optics:
        raise UserError(
            f"{path} does not tell the micrographs' pixel size; add _rlnMicrographPixelSize to data_optics."
        )
    sizes = optics.floats("rlnMicrographPixelSize").tolist()
    if min(sizes, default=0.0) <= 0:
        raise UserError(f"{path}: the pixel size of every optics group must be positive.")
    numbers = optics.ints("rlnOpticsGroup").tolist()
    groups = dict(zip(numbers, zip(sizes, optics.rows(), strict=True), strict=True))
    table = tables[0]
    members = table.ints("rlnOpticsGroup").tolist() if "rlnOpticsGroup" in table else [1] * len(table)
    check_distinct(table.strings("rlnMicrographName"), "particles")
    entries = []
    for row, group in zip(table.rows(), members, strict=True):
        name = row["rlnMicrographName"]
        if group not in groups:
            raise UserError(f"{path}: optics group {group} of {name} is not in its table of optics groups.")
        size, of_group = groups[group]
        entries.append(Micrograph(name, group, size, row, of_group))
    return Micrographs(tuple(entries), optics, dict(zip(_group_names(optics), sizes, strict=True)))


def _group_names(optics: Table) -> list[str]:
    if "rlnOpticsGroupName" in optics:
        return optics.strings("rlnOpticsGroupName")
    return [f"opticsGroup{number}" for number in optics.ints("rlnOpticsGroup").tolist()]


# ---- one micrograph -------------------------------------------------------------------------------------------


def is_done(root: str) -> bool:
    """Whether a micrograph's particles are there."""
    return os.path.exists(root + SUFFIX) and os.path.exists(root + ".mrcs")


def remove_particles(root: str) -> None:
    """Take away what an earlier run left of a micrograph's particles, the sign that they are there first."""
    for ending in (SUFFIX, ".mrcs"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(root + ending)


def do_extract(entry: Micrograph, source: str | RefinedParticles, directory: str, settings: Settings) -> int:
    """Extract the particles of one micrograph, and write its files below `directory`; how many there are.

    source: its coordinate file, or refined particles. Particles wholly outside the micrograph are left out,
    with a line on stderr. Without particles there are no files. UserError, with the name of the file, if the
    micrograph or its coordinates cannot be used.
    """
    root = output_root(directory, entry.name)
    if isinstance(source, RefinedParticles):
        where, table = source.path, source.of(entry.name, entry.pixel_size)
    else:
        where, table = source, _coordinates(source, entry, settings)
    table = _chosen(table, settings, where)
    if not len(table):
        print(f"WARNING: there are no particles on {entry.name}.", file=sys.stderr)
        return 0
    image, _ = read_image(entry.name)
    _check_pixels(image, entry.name)
    x, y = _whole_pixels(table, X), _whole_pixels(table, Y)
    inside = touches(image.shape, x, y, settings.box)
    if not inside.all():
        lost = int((~inside).sum())
        print(f"WARNING: {lost} particles lie wholly outside {entry.name} and are left out.", file=sys.stderr)
        table, x, y = table.select(inside), x[inside], y[inside]
    if not len(table):
        return 0
    if len(table) < FEW:
        print(f"WARNING: {entry.name} has only {len(table)} particles; consider joining groups.", file=sys.stderr)
    os.makedirs(os.path.dirname(root) or ".", exist_ok=True)
    _annotate(table, entry, root + ".mrcs", settings)
    ctfs = None
    if settings.ctf:
        refined = source if isinstance(source, RefinedParticles) and not settings.keep_micrograph_ctf else None
        ctfs = BoxCtfs.of(table, refined.optics_rows if refined else {entry.optics_group: entry.optics}, entry.name)
    _write_stack(root + ".mrcs", image, x, y, _tube_angles(table, settings, where), ctfs, entry, settings)
    table.loop = True
    star.write(root + SUFFIX, StarFile([("images", table)]))
    return len(table)


def _coordinates(path: str, entry: Micrograph, settings: Settings) -> Table:
    if settings.helix is None:
        return read_coordinates(path)
    _, rows, columns = read_header(entry.name).shape
    return read_helical_coordinates(path, settings.helix, (rows, columns), settings.box, entry.pixel_size)


def _tube_angles(table: Table, settings: Settings, where: str) -> np.ndarray | None:
    """The angle psi (degrees) of every segment's axis, where the normalisation needs it."""
    if not (settings.helix and settings.images.normalise):
        return None
    if PSI_PRIOR not in table:
        raise UserError(f"{where} has no column _{PSI_PRIOR}, which the normalisation of helical segments needs.")
    return table.floats(PSI_PRIOR)


def _check_pixels(image: np.ndarray, name: str) -> None:
    low, high = float(image.min()), float(image.max())  # NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name} holds values that are not numbers (NaN or infinity).")
    if low == high:
        raise UserError(f"{name} is empty: every pixel is {low:g}.")


def _chosen(table: Table, settings: Settings, where: str) -> Table:
    """The rows that are to be extracted, with the bias in their coordinates."""
    if settings.selection_type > 0 and len(table):
        if "rlnParticleSelectionType" not in table:
            raise UserError(f"{where} has no column _rlnParticleSelectionType, which --selection_type needs.")
        table = table.select(table.ints("rlnParticleSelectionType") == settings.selection_type)
    if abs(settings.minimum_fom - _NO_THRESHOLD) > 1e-6 and len(table):
        if "rlnAutopickFigureOfMerit" not in table:
            raise UserError(f"{where} has no column _rlnAutopickFigureOfMerit, which --minimum_pick_fom needs.")
        table = table.select(table.floats("rlnAutopickFigureOfMerit") > settings.minimum_fom)
    for label in (X, Y):
        if not np.isfinite(table.floats(label)).all():
            raise UserError(f"{where}: _{label} of a particle is not a number.")
    for label, shift in zip((X, Y), settings.bias, strict=True):
        if shift:
            table.set(label, table.floats(label) + shift)
    return table


def _whole_pixels(table: Table, label: str) -> np.ndarray:
    """Coordinates without their fractions (towards zero), int64; far ones are kept in range."""
    return np.trunc(np.clip(table.floats(label), -1e9, 1e9)).astype(np.int64)


def _write_stack(
    path: str,
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    psi: np.ndarray | None,
    ctfs: BoxCtfs | None,
    entry: Micrograph,
    settings: Settings,
) -> None:
    """Cut the boxes around x, y (pixels), process and write them; psi: see `ImageOptions.tube_radius`."""
    options = settings.image_options(entry.pixel_size)
    random = np.random.default_rng(zlib.crc32(entry.name.encode("utf-8", "surrogateescape")))
    at_a_time = max(1, _CHUNK_PIXELS // settings.box**2)
    box, pixel_size = settings.final_box, settings.final_pixel_size(entry.pixel_size)
    with StackWriter(path, (box, box), pixel_size, "float16" if settings.float16 else "float32") as writer:
        for start in range(0, len(x), at_a_time):
            some = slice(start, start + at_a_time)
            if settings.ctf and ctfs:
                boxes = multiplied_boxes(
                    image, x[some], y[some], settings.box, ctfs[some], entry.pixel_size, settings.ctf
                )
            else:
                boxes = cut_boxes(image, x[some], y[some], settings.box)
            writer.append(process_images(boxes, options, random, None if psi is None else psi[some]))


def _annotate(table: Table, entry: Micrograph, stack: str, settings: Settings) -> None:
    """Names, optics group and, from the micrograph, what the particles do not tell of their CTF and beam tilt."""
    refined = "rlnOpticsGroup" in table
    has_ctf = "rlnDefocusU" in table
    has_tilt = any(label in table for label in _TILTS)
    keep = settings.keep_micrograph_ctf
    table.set("rlnImageName", [image_name(index, stack) for index in range(len(table))])
    table.set("rlnMicrographName", [entry.name] * len(table))
    if not refined or keep:
        table.set("rlnOpticsGroup", [entry.optics_group] * len(table))
    if "rlnDefocusU" not in entry.row:
        return
    if not has_ctf or keep:
        for label in ("rlnCtfMaxResolution", "rlnCtfFigureOfMerit"):
            if label in entry.row:
                table.set(label, [entry.row[label]] * len(table))
        defaults = {**_CTF_DEFAULTS, "rlnDefocusV": entry.row["rlnDefocusU"]}
        for label, default in defaults.items():
            table.set(label, [entry.row.get(label, default)] * len(table))
    if not has_tilt or keep:
        for label in _TILTS:
            if label in entry.row:
                table.set(label, [entry.row[label]] * len(table))
    if "rlnBeamTiltClass" not in table and "rlnBeamTiltClass" in entry.row:
        table.set("rlnBeamTiltClass", [entry.row["rlnBeamTiltClass"]] * len(table))


# ---- all micrographs ------------------------------------------------------------------------------------------


def join(micrographs: Micrographs, directory: str) -> tuple[Table, list[tuple[str, str]]]:
    """All particles that are there, in the order of the micrographs; and (micrograph, its STAR file) of each.

    A column that a file lacks is filled with 0, or nothing for texts.
    """
    files = [
        (entry.name, root + SUFFIX)
        for entry in micrographs.entries
        if is_done(root := output_root(directory, entry.name))
    ]
    columns: dict[str, list[str]] = {}
    count = 0
    for _, path in files:
        table = star.read(path)["images"]
        for label in table.labels:
            columns.setdefault(label, [_nothing(label)] * count).extend(table.strings(label))
        count += len(table)
        for label, column in columns.items():
            column.extend([_nothing(label)] * (count - len(column)))
    columns.pop("rlnParticleSelectionType", None)  # of use here only
    return Table(columns), files


def _nothing(label: str) -> str:
    kind = type_of(label)
    return {"double": star.format_float(0.0), "int": "0", "bool": "0"}.get(kind, "")


def output_optics(
    particles: Table, micrographs: Micrographs, refined: RefinedParticles | None, settings: Settings
) -> Table:
    """The optics groups of the extracted particles, with the pixel size and box of their images.

    Groups of refined particles are found again among the micrographs by their names; those that are not there
    go away if no particle belongs to them, and are a UserError if one does.
    """
    if refined is None or settings.keep_micrograph_ctf:
        optics = micrographs.optics.copy()
    else:
        optics = refined.optics.copy()
        present = set(particles.ints("rlnOpticsGroup").tolist())
        known = [name in micrographs.pixel_sizes for name in _group_names(optics)]
        for name, found, number in zip(
            _group_names(optics), known, optics.ints("rlnOpticsGroup").tolist(), strict=True
        ):
            if not found and number in present:
                raise UserError(
                    f'The optics group "{name}" of {refined.path} is not among those of the micrographs; '
                    "give the micrographs that these particles come from."
                )
        optics = optics.select(known)
    sizes = [settings.final_pixel_size(micrographs.pixel_sizes[name]) for name in _group_names(optics)]
    optics.set("rlnImagePixelSize", sizes)
    optics.set("rlnImageSize", [settings.final_box] * len(optics))
    optics.set("rlnImageDimensionality", [2] * len(optics))
    premultiplied = settings.ctf is not None and not settings.ctf.only_signs
    optics.set("rlnCtfDataAreCtfPremultiplied", [int(premultiplied)] * len(optics))
    if refined is None and "rlnMicrographPixelSize" in optics:
        optics.remove("rlnMicrographPixelSize")
    optics.loop = True
    return optics


def write_lists(
    micrographs: Micrographs,
    refined: RefinedParticles | None,
    directory: str,
    settings: Settings,
    particles_path: str = "",
    pick_paths: Sequence[str] = (),
) -> tuple[int, Table]:
    """Write the list of all particles (unless its path is ""), and to `pick_paths` that of their coordinate files.

    Returns the number of particles and the table of optics groups. UserError without
    any particle.
    """
    particles, files = join(micrographs, directory)
    if not len(particles):
        raise UserError("No particles were extracted; look at the coordinate files and the warnings above.")
    optics = output_optics(particles, micrographs, refined, settings)
    for pick_path in pick_paths:
        table = Table.from_rows(("rlnMicrographName", "rlnMicrographCoordinates"), files)
        star.write(pick_path, StarFile([("coordinate_files", table)]))
    if particles_path:
        general: Sequence[tuple[str, Table]] = ()
        if refined is not None and "general" in refined.file:
            general = [("general", refined.file["general"])]
        star.write(particles_path, StarFile([*general, ("optics", optics), ("particles", particles)]))
    return len(particles), optics
