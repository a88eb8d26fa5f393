"""A particle STAR file with its optics groups, and the images that it names.

RELION 3.1 and later keep what all particles of one microscope session share in `data_optics`; the single
table of RELION 3.0 and earlier is converted in memory (`io/convert.py`). Paths of stacks are relative to the
project directory, as everywhere in RELION.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relion_py.compute.io import mrc, star
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.star import StarError, StarFile, Table

READ_MIB = 4
"""So much of a stack is read at a time."""
PIXEL_SIZE_LABELS = ("rlnImagePixelSize", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
"""Where an optics group's pixel size stands, best first (obs_model.cpp, ObservationModel)."""


@dataclass(frozen=True)
class OpticsGroup:
    """What the particles of one optics group share.

    number: rlnOpticsGroup. pixel_size: A. voltage: kV. cs: mm. q0: amplitude contrast, 0 to 1. box_size:
    pixels, 0 if the file does not say. dimensionality: 2 images, 3 sub-tomograms. ctf_premultiplied: the
    images were multiplied with their CTF. mtf: STAR file of the detector's MTF or "". original_pixel_size:
    A of the unbinned micrograph. values: the whole row (beam tilt, Zernike, magnification ...) as text.
    Numbers that the file lacks are nan.
    """

    number: int
    name: str
    pixel_size: float
    voltage: float
    cs: float
    q0: float
    box_size: int
    dimensionality: int
    ctf_premultiplied: bool
    mtf: str
    original_pixel_size: float
    values: dict[str, str]


def split_image_name(name: str) -> tuple[int, str]:
    """`000123@stack.mrcs` -> (122, "stack.mrcs"): index from 0, and path. A name without @ is image 0.

    A format after a colon, as in `stack.img:mrcs`, is taken off. StarError if the number is none.
    """
    number, at, path = name.rpartition("@")
    stem, colon, kind = path.rpartition(":")
    if colon and kind in ("mrc", "mrcs"):
        path = stem
    if not at:
        return 0, path
    if not (number.isascii() and number.isdigit()) or int(number) < 1 or not path:
        raise StarError(f'"{name}" is not an image name; it should read like 000123@stack.mrcs.')
    return int(number) - 1, path


def image_name(index: int, path: str | os.PathLike[str]) -> str:
    """The name of an image in a stack, `000123@stack.mrcs`, by its index from 0."""
    return f"{index + 1:06d}@{os.fspath(path)}"


def split_image_names(names: list[str]) -> tuple[np.ndarray, list[str]]:
    """`split_image_name` of all: indices from 0, int64 (N,), and paths."""
    # names that all read 000123@stack.mrcs are split at once
    parts = "@\n@".join(names).split("@")
    numbers, paths = parts[::3], parts[1::3]
    plain = len(parts) == 3 * len(names) - 1 and parts[2::3] == ["\n"] * (len(names) - 1)
    plain = plain and all(paths) and ":" not in "".join(paths)
    if plain and "".join(numbers).isascii() and all(map(str.isdigit, numbers)):
        sections = np.fromiter(map(int, numbers), dtype=np.int64, count=len(names)) - 1
        if sections.min() >= 0:
            return sections, paths
    pairs = [split_image_name(name) for name in names]
    return np.array([section for section, _ in pairs], dtype=np.int64), [path for _, path in pairs]


class ParticleTable:
    """Particles, their optics groups and their images.

    star: the whole file, other tables included. particles, optics: its two tables, in the form of RELION 3.1
    and later. project: the directory to which image paths are relative. converted: the file was of an older
    release.
    """

    def __init__(self, star_file: StarFile, project: str | os.PathLike[str] = ".", block: str = "") -> None:
        self.project = os.fspath(project)
        self.path = star_file.path
        self.converted = not len(star_file.get("optics", ()))
        self.star = to_optics_form(star_file, self.project) if self.converted else star_file
        self.block = block or _particle_block(self.star)
        if not len(self.particles):
            raise StarError(f"{self.path or 'The STAR file'} has no particles in its block data_{self.block}.")

    @property
    def particles(self) -> Table:
        """One row a particle."""
        return self.star[self.block]

    @property
    def optics(self) -> Table:
        """One row an optics group."""
        return self.star["optics"]

    def __len__(self) -> int:
        return len(self.particles)

    def __contains__(self, label: object) -> bool:
        return label in self.particles

    def strings(self, label: str) -> list[str]:
        """A column of the particles as text."""
        return self.particles.strings(label)

    def floats(self, label: str, default: float | None = None) -> np.ndarray:
        """A column of the particles as float64, shape (N,); `default` everywhere if the column is absent."""
        if default is not None and label not in self.particles:
            return np.full(len(self), float(default))
        return self.particles.floats(label)

    def finite(self, label: str, default: float | None = None) -> np.ndarray:
        """The same where NaN and infinite values are errors, too."""
        return self.particles.finite(label) if label in self.particles else self.floats(label, default)

    def ints(self, label: str, default: int | None = None) -> np.ndarray:
        """A column of the particles as int64, shape (N,); `default` everywhere if the column is absent."""
        if default is not None and label not in self.particles:
            return np.full(len(self), int(default), dtype=np.int64)
        return self.particles.ints(label)

    @cached_property
    def optics_groups(self) -> list[OpticsGroup]:
        """The optics groups in file order."""
        return [_optics_group(self.optics.row(index), index) for index in range(len(self.optics))]

    @cached_property
    def group_index(self) -> np.ndarray:
        """For each particle the index (from 0) into `optics_groups`, int64 (N,)."""
        if "rlnOpticsGroup" not in self.particles:
            if len(self.optics_groups) == 1:
                return np.zeros(len(self), dtype=np.int64)
            raise StarError(f"{self.path} has several optics groups but no column _rlnOpticsGroup.")
        numbers = np.array([group.number for group in self.optics_groups])
        wanted = self.ints("rlnOpticsGroup")
        order = np.argsort(numbers, kind="stable")
        place = np.minimum(np.searchsorted(numbers[order], wanted), len(numbers) - 1)
        index = order[place]
        missing = wanted[numbers[index] != wanted]
        if missing.size:
            listed = ", ".join(map(str, np.unique(missing)[:10]))
            raise StarError(f"{self.path}: particles are in optics group {listed}, which data_optics lacks.")
        return index

    def per_particle(self, field: str) -> np.ndarray:
        """A numeric field of OpticsGroup spread over the particles, float64 (N,)."""
        values = np.array([getattr(group, field) for group in self.optics_groups], dtype=np.float64)
        return values[self.group_index]

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        sections, paths = split_image_names(self.strings("rlnImageName"))
        number = {path: index for index, path in enumerate(dict.fromkeys(paths))}
        owners = np.fromiter(map(number.__getitem__, paths), dtype=np.int64, count=len(paths))
        return sections, owners, list(number)

    @property
    def stacks(self) -> list[str]:
        """The stack files as the STAR file names them, each once, in the order of first use."""
        return self._places[2]

    @property
    def stack_index(self) -> np.ndarray:
        """For each particle the index into `stacks`, int64 (N,)."""
        return self._places[1]

    @property
    def section(self) -> np.ndarray:
        """For each particle the index (from 0) of its image in its stack, int64 (N,)."""
        return self._places[0]

    def stack_path(self, stack: str) -> str:
        """Where the stack file lies: relative names start at the project directory."""
        return os.path.join(self.project, stack)

    def read_images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The images of these particles in this order, float32 (n, box, box) (or (n, z, y, x) for 3D).

        Each stack is read in file order, and opened anew for each READ_MIB: a mapped file counts as memory of the
        program. Safe to call from several threads at once.
        MrcError for a missing, cut short or non-square image and for pixels that are not numbers.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        three_d = bool(len(wanted)) and self.optics_groups[self.group_index[wanted[0]]].dimensionality == 3
        if three_d:
            return np.stack([self._read_volume(int(index)) for index in wanted])
        images: np.ndarray | None = None
        sections, owners = self.section[wanted], self.stack_index[wanted]
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            places = places[np.argsort(sections[places], kind="stable")]
            stack, first = self.stacks[owner], 0
            while first < len(places):
                with mrc.open_stack(self.stack_path(stack)) as file:
                    _, height, width = file.shape
                    part = places[first : first + max(1, int(READ_MIB * (1 << 20) / (4 * height * width)))]
                    read = file.images(sections[part])
                if images is None:
                    images = np.empty((len(wanted), *read.shape[1:]), dtype=np.float32)
                if height != width or read.shape[1:] != images.shape[1:]:
                    raise mrc.MrcError(
                        f"{stack} has images of {width} x {height} pixels; {images.shape[2]} x {images.shape[2]} were "
                        "expected."
                    )
                self._refuse_bad_pixels(read, wanted[part])
                images[part] = read
                first += len(part)
        return np.empty((0, 0, 0), np.float32) if images is None else images

    def _read_volume(self, index: int) -> np.ndarray:
        volume, _ = mrc.read_map(self.stack_path(self.stacks[self.stack_index[index]]))
        self._refuse_bad_pixels(volume[None], np.array([index]))
        return volume

    def _refuse_bad_pixels(self, images: np.ndarray, indices: np.ndarray) -> None:
        flat = images.reshape(len(images), -1)
        # a sum is finite only if every term is, unless large terms overflow: look closer only then
        with np.errstate(over="ignore", invalid="ignore"):
            bad = ~np.isfinite(flat @ np.ones(flat.shape[1], np.float32))
        bad[bad] = ~np.isfinite(flat[bad]).all(axis=1)
        if bad.any():
            name = self.particles.row(int(indices[np.argmax(bad)]))["rlnImageName"]
            raise mrc.MrcError(f"{name} has pixels that are not numbers (NaN or infinite); extract it again.")

    def with_images(self, label: str) -> ParticleTable:
        """The same particles with the images that another column names."""
        other = self.select(np.arange(len(self)))
        other.particles.set("rlnImageName", self.strings(label))
        return other

    def rename_block(self, name: str) -> None:
        """Give the table of particles another name in the file."""
        self.star.blocks = [(name if old == self.block else old, block) for old, block in self.star.blocks]
        self.block = name

    def select(self, rows: Sequence[int] | np.ndarray) -> ParticleTable:
        """The particles at these indices (or under this mask), with the same optics groups."""
        chosen = StarFile(list(self.star.blocks))
        chosen.path = self.star.path
        chosen[self.block] = self.particles.select(rows)
        return ParticleTable(chosen, self.project, self.block)


def read_particles(
    path: str | os.PathLike[str], project: str | os.PathLike[str] = ".", strict: bool = True
) -> ParticleTable:
    """Read a particle STAR file of any release.

    strict: every optics group must have a pixel size, voltage and spherical aberration, and every particle
    its optics group and image name, else StarError. A consistency report reads with strict=False.
    """
    table = ParticleTable(star.read(path), project)
    if strict:
        for group in table.optics_groups:
            missing = [
                label
                for label, value in (
                    ("_rlnImagePixelSize", group.pixel_size),
                    ("_rlnVoltage", group.voltage),
                    ("_rlnSphericalAberration", group.cs),
                )
                if not math.isfinite(value) or (value <= 0 and label != "_rlnSphericalAberration")
            ]
            if missing:
                raise StarError(
                    f'{table.path}: optics group "{group.name}" has no usable {", ".join(missing)}; '
                    "add it to data_optics."
                )
        _ = table.group_index, table.stacks
    return table


def write_particles(path: str | os.PathLike[str], table: ParticleTable) -> None:
    """Write the particles, their optics groups and whatever else the file held, in RELION 5's form."""
    star.write(path, table.star)


def _particle_block(star_file: StarFile) -> str:
    for name in ("particles", "images", ""):
        if name in star_file and "rlnImageName" in star_file[name]:
            return name
    for name, table in star_file.items():
        if name != "optics" and "rlnImageName" in table:
            return name
    raise StarError(f"{star_file.path or 'The STAR file'} has no particles: no block has a column _rlnImageName.")


def _optics_group(row: dict[str, str], index: int) -> OpticsGroup:
    def number(label: str, default: float = math.nan) -> float:
        text = row.get(label, "")
        try:
            return float(text) if text else default
        except ValueError:
            raise StarError(f'{label} of optics group {index + 1} is "{text}", not a number.') from None

    def whole(label: str, default: int) -> int:
        value = number(label, default)
        if not math.isfinite(value):
            raise StarError(f'{label} of optics group {index + 1} is "{row[label]}", not a whole number.')
        return int(value)

    pixel_sizes = [value for label in PIXEL_SIZE_LABELS if not math.isnan(value := number(label))]
    group = whole("rlnOpticsGroup", index + 1)
    return OpticsGroup(
        number=group,
        name=row.get("rlnOpticsGroupName", f"opticsGroup{group}"),
        pixel_size=pixel_sizes[0] if pixel_sizes else math.nan,
        voltage=number("rlnVoltage"),
        cs=number("rlnSphericalAberration"),
        q0=number("rlnAmplitudeContrast"),
        box_size=whole("rlnImageSize", 0),
        dimensionality=whole("rlnImageDimensionality", 2),
        ctf_premultiplied=number("rlnCtfDataAreCtfPremultiplied", 0) != 0,
        mtf=row.get("rlnMtfFileName", ""),
        original_pixel_size=number("rlnMicrographOriginalPixelSize"),
        values=row,
    )
