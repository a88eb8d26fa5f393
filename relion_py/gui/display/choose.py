"""Which viewer shows what: by a node's type, then by the file's name, then by what is in it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relion_py.gui.display.coordinates import read_pick_set
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.images import images_of_mrc, images_of_star
from relion_py.gui.display.manualpick_data import job_of_picks
from relion_py.gui.display.map_data import load_map
from relion_py.gui.display.series import read_star
from relion_py.gui.display.sources import (
    MOVIE_SUFFIXES,
    MRC_SUFFIXES,
    PICTURE_SUFFIXES,
    MrcFile,
    project_root,
    read_movie_sum,
)

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

KNOWN_SUFFIXES = {
    *MOVIE_SUFFIXES,
    *PICTURE_SUFFIXES,
    *(".pdf", ".eps", ".ps", ".txt", ".out", ".err", ".log", ".job", ".box", ".md"),
}


Builder = Callable[["QWidget | None"], "QWidget"]
"""Makes the window from what was read; to be called in the window's thread."""


def make_window(path: Path, root: Path | None = None, node_type: str = "", parent: Any = None) -> QWidget:
    """The (not yet shown) viewer window for a file. DisplayError, in one sentence, where none can show it.

    ``root``: the project directory to which names inside STAR files are relative. ``node_type`` as RELION 5
    writes it, "" where unknown.
    """
    return prepare(path, root, node_type)(parent)


def prepare(path: Path, root: Path | None = None, node_type: str = "") -> Builder:
    """Read what a viewer of ``path`` needs (in any thread) and return what makes its window.

    Arguments and errors as for :func:`make_window`.
    """
    if not path.exists():
        raise DisplayError(f"{path} is not there")
    if path.is_dir():
        raise DisplayError(f"{path} is a directory; choose a file in it")
    root = root or project_root(path)
    suffix = path.suffix.lower()
    if suffix == ".star" or path.name.startswith("coords_suffix_"):
        return _prepare_star(path, root, node_type)
    if suffix in MRC_SUFFIXES or (suffix not in KNOWN_SUFFIXES and _looks_like_mrc(path)):
        return _prepare_mrc(path)
    if suffix in MOVIE_SUFFIXES:
        image = read_movie_sum(path)
        return lambda parent: _module("image_window").ImageWindow(image, 0.0, f"{path.name} – sum of frames", parent)
    if suffix in PICTURE_SUFFIXES:
        return lambda parent: _module("image_window").PictureWindow(path, parent)
    if suffix in (".pdf", ".eps", ".ps"):
        return lambda parent: _module("text_window").PdfNote(path, parent is None, parent)
    return lambda parent: _module("text_window").TextWindow(path, parent)


def _module(name: str) -> Any:
    """Viewers import Qt and pyqtgraph: only when their window is made."""
    return importlib.import_module(f"relion_py.gui.display.{name}")


def _prepare_mrc(path: Path) -> Builder:
    """Map, stack or single image, by what the MRC file holds."""
    opened = MrcFile(path)
    if opened.is_map:
        data = load_map(path)
        return lambda parent: _module("map_viewer").MapWindow(data, parent)
    if len(opened) > 1:
        images = images_of_mrc(path)
        return lambda parent: _module("grid_window").GridWindow(images, parent=parent)
    image = opened.image(0)
    return lambda parent: _module("image_window").ImageWindow(image, opened.pixel_size, path.name, parent)


def _prepare_star(path: Path, root: Path, node_type: str) -> Builder:
    if path.name.startswith("coords_suffix_"):
        return _picks(path, root)
    blocks = read_star(path)
    if "fsc" in blocks and "rlnResolution" in blocks["fsc"]:
        return lambda parent: _module("curve_window").CurveWindow(path, root, parent)
    if "coordinate_files" in blocks or "CoordsGroup" in node_type:
        return _picks(path, root)
    try:
        images = images_of_star(path, root, blocks=blocks)
    except DisplayError:
        return lambda parent: _module("star_window").StarWindow(path, root, blocks, parent=parent)
    return lambda parent: _module("grid_window").GridWindow(images, parent=parent)


def _picks(path: Path, root: Path) -> Builder:
    """Micrographs with picks; these can be edited where each micrograph has a coordinate file of its own."""
    picks = read_pick_set(path, root)
    if not picks.micrographs or picks.inline or not all(m.coordinates for m in picks.micrographs):
        return lambda parent: _module("micrograph_window").MicrographWindow(path, picks, root, parent=parent)
    job = job_of_picks(picks, root, path)

    def build(parent: QWidget | None) -> QWidget:
        window: QWidget = _module("manualpick_window").PickWindow(job, path.name, parent=parent)
        window.edit_switch.setChecked(False)  # type: ignore[attr-defined]  # who only looks changes nothing
        return window

    return build


def _looks_like_mrc(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(212)[208:211] == b"MAP"
    except OSError:
        return False
