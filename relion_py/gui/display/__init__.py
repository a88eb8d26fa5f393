"""Viewers of everything a project holds: maps, stacks, class averages, micrographs with picks, tables,
curves, text.

``open_file`` and ``open_node`` choose the viewer, show it and return it; what cannot be shown raises
DisplayError with one sentence. Qt and the viewers are imported when the first of them is called.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relion_py.gui.display.errors import DisplayError

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

__all__ = ["DisplayError", "open_file", "open_node"]


def open_file(path: str | PathLike[str], parent: QWidget | None = None) -> QWidget:
    """Show a file in the viewer that fits; the window is returned and is the caller's to keep.

    DisplayError when the file is not there, is damaged, or is of a kind that cannot be shown.
    """
    from relion_py.gui.display.choose import make_window

    return _shown(make_window(Path(path), parent=parent))


def open_node(project: Any, node: Any, parent: QWidget | None = None) -> QWidget:
    """Show a node of a project (``project.root``; ``node.path`` relative to it, ``node.type``)."""
    from relion_py.gui.display.choose import make_window

    root = Path(project.root)
    return _shown(make_window(root / node.path, root, str(node.type), parent))


def _shown(window: QWidget) -> QWidget:
    from PySide6.QtCore import Qt

    window.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)
    window.show()
    return window
