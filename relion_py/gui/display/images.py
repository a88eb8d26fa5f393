"""A set of images with what is known about each: from a STAR file of any kind, a stack, a map's sections.

This is the model under the grid viewer: which column names images, by which columns one may sort, what is
written below a tile, what "save selection" writes. No Qt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display.coordinates import optics_pixel_size
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.selection import data_star_of
from relion_py.gui.display.series import floats, read_star
from relion_py.gui.display.sources import ImageSource, MrcFile, NamedImages, Opened, StackImages

IMAGE_COLUMNS = (
    "rlnImageName",
    "rlnReferenceImage",
    "rlnMicrographName",
    "rlnCtfImage",
    "rlnCtfPowerSpectrum",
    "rlnImageOriginalName",
    "rlnMicrographMovieName",
    "rlnMicrographNameNoDW",
)
"""Columns that name pictures, in the order in which the first one present is shown (RELION 5,
displayer.cpp, runGui)."""


@dataclass
class ImageSet:
    """Images with their table. ``kind``: "classes", "particles", "micrographs", "movies" or "images"."""

    path: Path
    root: Path
    kind: str
    source: ImageSource
    pixel_size: float  # A, 0 where unknown
    table: Any = None  # io.star Table, None for a bare stack
    table_name: str = ""
    blocks: Any = None
    image_column: str = ""
    data_star: Path | None = None  # the particles of the classes
    model_path: Path | None = None
    class_sizes: dict[int, int] | None = None  # number of particles of each class, once they are counted
    named: tuple[str, ...] = ()  # names of the images, as they were found
    _numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def image_columns(self) -> list[str]:
        """Columns of the table that name pictures."""
        return [] if self.table is None else [label for label in IMAGE_COLUMNS if label in self.table]

    def use_column(self, label: str) -> None:
        """Show the pictures that column ``label`` names."""
        names = self.table.strings(label)
        self.image_column = label
        self.source = NamedImages(names, self.root)

    @property
    def sort_columns(self) -> list[str]:
        """Columns of numbers."""
        if self.table is None:
            return []
        return [label for label in self.table.labels if self._is_number(label)]

    def _is_number(self, label: str) -> bool:
        try:
            float(self.table.strings(label)[0] if len(self.table) else "x")
        except ValueError:
            return False
        return True

    def numbers(self, label: str) -> NDArray[np.float64]:
        """Column ``label`` as float64; nan where an entry is no number."""
        if label not in self._numbers:
            self._numbers[label] = floats(self.table, label)
        return self._numbers[label]

    def order(self, label: str, reverse: bool = False, seed: int | None = None) -> NDArray[np.int64]:
        """Image numbers sorted by a column (stable; not-a-number last), in file order for "", shuffled with
        ``seed``."""
        if seed is not None:
            return np.random.default_rng(seed).permutation(len(self))
        if not label:
            order = np.arange(len(self))
            return order[::-1] if reverse else order
        values = self.numbers(label)
        values = -values if reverse else values
        return np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")

    def caption(self, index: int, label: str = "") -> list[str]:
        """Lines below a tile: share and resolution of a class, else the value of ``label``."""
        if label and self.table is not None and label in self.table:
            return [_short_number(self._text(label, index))]
        if self.kind == "classes":
            share = self.numbers("rlnClassDistribution")[index] if "rlnClassDistribution" in self.table else math.nan
            resolution = (
                self.numbers("rlnEstimatedResolution")[index] if "rlnEstimatedResolution" in self.table else math.nan
            )
            number = self.class_number(index)
            lines = class_caption(number, share, resolution)
            return lines if self.class_sizes is None else [*lines, f"{self.class_sizes.get(number, 0):,} particles"]
        return []

    def _text(self, label: str, index: int) -> str:
        return str(self.table.row(index)[label])

    def class_number(self, index: int) -> int:
        """RELION's number of class ``index``."""
        if self.table is not None and "rlnClassNumber" in self.table:
            return int(self.numbers("rlnClassNumber")[index])
        return index + 1

    def metadata(self, index: int) -> list[tuple[str, str]]:
        """Everything the table says about an image, as (label, text)."""
        if self.table is None:
            return [("image", str(index + 1))]
        return list(self.table.row(index).items())


def class_caption(number: int, share: float, resolution: float) -> list[str]:
    """``["3: 12.4 %", "8.3 Å"]``; what is unknown is left out."""
    first = f"{number}: {100 * share:.1f} %" if math.isfinite(share) else str(number)
    known = math.isfinite(resolution) and 0 < resolution < 999
    return [first, f"{resolution:.1f} Å" if known else ""]


def _short_number(text: str) -> str:
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return text


def images_of_mrc(path: Path, as_stack: bool = True) -> ImageSet:
    """The images of a stack, or a map's sections; DisplayError where the file is no MRC file."""
    opened = MrcFile(path, as_stack)
    return ImageSet(path, path.parent, "images", StackImages(opened), opened.pixel_size)


def images_of_star(path: Path, root: Path, label: str = "", table_name: str = "", blocks: Any = None) -> ImageSet:
    """The images that a STAR file names: particles, class averages (model, optimiser), micrographs, movies.

    ``label`` and ``table_name`` choose the column and table; without them the first of IMAGE_COLUMNS that
    occurs. DisplayError where the file names no images.
    """
    blocks = read_star(path) if blocks is None else blocks
    if "optimiser_general" in blocks:
        return _classes_of_optimiser(path, root, blocks)
    if ("model_classes" in blocks or "model_bodies" in blocks) and not table_name:
        return _classes_of_model(path, root, blocks)
    candidates = [table_name] if table_name else [name for name in blocks if name != "optics"]
    for name in candidates:
        table = blocks.get(name)
        if table is None or not len(table):
            continue
        labels = [label] if label else IMAGE_COLUMNS
        column = next((c for c in labels if c in table), "")
        if not column:
            continue
        if name in ("movies", "micrographs"):
            kind = name
        elif "rlnReferenceImage" in table:
            kind = "classes"
        else:
            kind = "particles" if "rlnImageName" in table else "micrographs"
        images = ImageSet(path, root, kind, NamedImages([], root), optics_pixel_size(blocks), table, name, blocks)
        images.use_column(column)
        return images
    what = f"no column {label}" if label else "no column of images"
    raise DisplayError(f"{path} names no images ({what})")


def _classes_of_optimiser(path: Path, root: Path, blocks: Any) -> ImageSet:
    general = blocks["optimiser_general"]
    if "rlnModelStarFile" not in general:
        raise DisplayError(f"{path} does not say which model file belongs to it")
    model = root / general.strings("rlnModelStarFile")[0]
    if not model.is_file():
        model = path.with_name(model.name)  # a job directory that was copied out of its project
    if not model.is_file():
        raise DisplayError(f"{path} names the model {general.strings('rlnModelStarFile')[0]}, which is not there")
    images = _classes_of_model(model, root, read_star(model))
    images.path = path
    return images


def _classes_of_model(path: Path, root: Path, blocks: Any) -> ImageSet:
    name = "model_classes" if "model_classes" in blocks else "model_bodies"
    table = blocks.get(name)
    if table is None or "rlnReferenceImage" not in table:
        raise DisplayError(f"{path} names no class averages")
    general = blocks.get("model_general")
    pixel = float(floats(general, "rlnPixelSize", 0.0)[0]) if general is not None and len(general) else 0.0
    names = _references_beside(table.strings("rlnReferenceImage"), root, path)
    images = ImageSet(path, root, "classes", NamedImages(names, root, Opened(root)), pixel, table, name, blocks)
    images.image_column = "rlnReferenceImage"
    images.model_path, images.named = path, tuple(names)
    data = data_star_of(path) if path.name.endswith("_model.star") else None
    images.data_star = data if data is not None and data.is_file() else None
    return images


def _references_beside(names: list[str], root: Path, model: Path) -> list[str]:
    """Reference names; where the files are not in the project they are looked for beside the model file."""
    found: dict[str, str] = {}
    result = []
    for name in names:
        number, at, file = name.rpartition("@")
        if file not in found:
            beside = model.with_name(Path(file).name)
            found[file] = str(beside) if not (root / file).is_file() and beside.is_file() else file
        result.append(f"{number}{at}{found[file]}")
    return result
