"""Which viewer shows what: by a node's type, then by the file's name, then by what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from relion_py.gui.display.errors import DisplayError
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


def make_window(path: Path, root: Path | None = None, node_type: str = "", parent: Any = None) -> QWidget:
    """The (not yet shown) viewer window for a file. DisplayError, in one sentence, where none can show it.

    ``root``: the project directory to which names inside STAR files are relative. ``node_type`` as RELION 5
    writes it, "" where unknown.
    """
    if not path.exists():
        raise DisplayError(f"{path} is not there")
    if path.is_dir():
        raise DisplayError(f"{path} is a directory; choose a file in it")
    root = root or project_root(path)
    suffix = path.suffix.lower()
    if suffix == ".star":
        return _star_window(path, root, node_type, parent)
    if suffix in MRC_SUFFIXES:
        return mrc_window(path, parent)
    if suffix in MOVIE_SUFFIXES:
        from relion_py.gui.display.image_window import ImageWindow

        return ImageWindow(read_movie_sum(path), 0.0, f"{path.name} – sum of frames", parent)
    if suffix in PICTURE_SUFFIXES:
        from relion_py.gui.display.image_window import PictureWindow

        return PictureWindow(path, parent)
    if suffix in (".pdf", ".eps", ".ps"):
        from relion_py.gui.display.text_window import PdfNote

        return PdfNote(path, parent=parent)
    if suffix == ".box" or suffix == ".coords":
        from relion_py.gui.display.text_window import TextWindow

        return TextWindow(path, parent)
    if _looks_like_mrc(path):
        return mrc_window(path, parent)
    from relion_py.gui.display.text_window import TextWindow

    return TextWindow(path, parent)


def mrc_window(path: Path, parent: Any = None) -> QWidget:
    """Map, stack or single image, by what the MRC file holds."""
    opened = MrcFile(path)
    if opened.is_map:
        from relion_py.gui.display.map_viewer import MapWindow

        return MapWindow(path, parent)
    if len(opened) > 1:
        from relion_py.gui.display.grid_window import GridWindow
        from relion_py.gui.display.images import images_of_mrc

        return GridWindow(images_of_mrc(path), parent=parent)
    from relion_py.gui.display.image_window import ImageWindow

    return ImageWindow(opened.image(0), opened.pixel_size, path.name, parent)


def _star_window(path: Path, root: Path, node_type: str, parent: Any) -> QWidget:
    from relion_py.gui.display.star_window import StarWindow

    if path.name.startswith("coords_suffix_") or "CoordsGroup" in node_type:
        from relion_py.gui.display.micrograph_window import MicrographWindow

        return MicrographWindow(path, root, parent=parent)
    from relion_py.gui.display.series import read_star

    blocks = read_star(path)
    if "fsc" in blocks and "rlnResolution" in blocks["fsc"]:
        from relion_py.gui.display.curve_window import CurveWindow

        return CurveWindow(path, root, parent)
    if "coordinate_files" in blocks:
        from relion_py.gui.display.micrograph_window import MicrographWindow

        return MicrographWindow(path, root, parent=parent)
    from relion_py.gui.display.grid_window import GridWindow
    from relion_py.gui.display.images import images_of_star

    try:
        return GridWindow(images_of_star(path, root), parent=parent)
    except DisplayError:
        return StarWindow(path, root, parent=parent)


def _looks_like_mrc(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(212)[208:211] == b"MAP"
    except OSError:
        return False
