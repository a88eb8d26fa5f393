"""The program `relion`: opens the window on the project in the current directory."""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import relion_py

if TYPE_CHECKING:
    from PySide6.QtWidgets import QApplication

    from relion_py.gui.main_window import MainWindow
    from relion_py.pipeline.errors import DamagedPipeline
    from relion_py.pipeline.project import Project

MARKER = ".gui_projectdir"
"""RELION's own mark of a directory that is a project (gui_mainwindow.cpp)."""

QT_PACKAGES = (
    "libegl1 libgl1 libxkbcommon0 libxkbcommon-x11-0 libdbus-1-3 libfontconfig1 libxcb-cursor0 libxcb-icccm4 "
    "libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xkb1"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `relion`; returns the exit status."""
    options = _parser().parse_args(argv)
    complaint = _why_no_window()
    if complaint:
        print(f"relion: {complaint}", file=sys.stderr)
        return 1
    root = Path(options.directory).absolute()
    if not root.is_dir():
        print(
            f"relion: {root} is not a directory; change to your project directory and try again.",
            file=sys.stderr,
        )
        return 1
    app = make_application(options.appearance)
    if not confirm_project(root, options.do_projdir):
        print("relion: no project was made. Start relion in your project directory.", file=sys.stderr)
        return 1
    window = open_window(root)
    if window is None:
        return 1
    from relion_py.gui.collector import Collector

    collector = Collector(window)
    window.show()
    status = app.exec()
    collector.stop()
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="relion", description="Opens RELION's window on the project in the current directory."
    )
    parser.add_argument("directory", nargs="?", default=".", help="the project directory (default: here)")
    parser.add_argument("--do_projdir", action="store_true", help="make a new project here without asking")
    parser.add_argument(
        "--appearance",
        choices=("system", "light", "dark"),
        default="",
        help="colours of the window (default: as chosen in its View menu)",
    )
    parser.add_argument("--version", action="version", version=f"relion-py {relion_py.__version__}")
    return parser


def _why_no_window() -> str:
    """A sentence if this machine cannot show a window, found out before Qt ends the process; else ""."""
    try:
        import PySide6.QtGui
        import PySide6.QtWidgets
    except ImportError as error:
        return _library_sentence(str(error))
    if not sys.platform.startswith("linux") or os.environ.get("QT_QPA_PLATFORM"):
        return ""
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        return (
            "there is no display to open the window on: log in with `ssh -X`, or set DISPLAY; jobs can be "
            "run without a window by relion_pipeliner."
        )
    if os.environ.get("DISPLAY"):
        plugin = Path(PySide6.QtGui.__file__).parent / "Qt" / "plugins" / "platforms" / "libqxcb.so"
        try:
            if plugin.exists():
                ctypes.CDLL(str(plugin))
        except OSError as error:
            return _library_sentence(str(error))
    return ""


def _library_sentence(error: str) -> str:
    library = error.split(":", 1)[0]
    command = f"sudo apt-get install {QT_PACKAGES}"
    return f"a system library of Qt is missing ({library}). On Debian or Ubuntu: {command}"


def make_application(appearance: str = "") -> QApplication:
    """The QApplication, dressed; there is one for each process."""
    from PySide6.QtCore import Qt
    from PySide6.QtWidgets import QApplication

    from relion_py.gui import theme
    from relion_py.gui.settings import settings

    existing = QApplication.instance()
    if isinstance(existing, QApplication):
        app = existing
    else:
        QApplication.setHighDpiScaleFactorRoundingPolicy(Qt.HighDpiScaleFactorRoundingPolicy.PassThrough)
        app = QApplication(["relion"])
    app.setApplicationName("relion")
    app.setApplicationDisplayName("RELION")
    app.setDesktopFileName("relion")
    chosen = appearance or str(settings().value("appearance", "system"))
    theme.apply(app, chosen)
    if not app.property("follows_desktop"):
        app.setProperty("follows_desktop", True)
        app.styleHints().colorSchemeChanged.connect(lambda _scheme: _follow_desktop(app))
    size = str(settings().value("text_size", ""))
    if size.isdigit() and 6 <= int(size) <= 24:
        theme.set_text_size(int(size))
    sys.excepthook = report_mistake
    return app


def _follow_desktop(app: QApplication) -> None:
    """The desktop has become light or dark: so does the window, unless its appearance was chosen."""
    from relion_py.gui import theme
    from relion_py.gui.settings import settings

    if str(settings().value("appearance", "system")) == "system":
        theme.apply(app, "system")


def confirm_project(root: Path, without_asking: bool = False) -> bool:
    """True if the directory is a project, or the user wants it to become one.

    A pipeline file makes it one too: copies of projects often lack hidden files. The home directory and the root of
    the file system are always asked about: nobody wants a project there.
    """
    if (root / MARKER).exists() or (root / "default_pipeline.star").exists():
        return True
    unlikely = root.resolve() in (Path.home().resolve(), Path(root.anchor))
    if (not without_asking or unlikely) and not ask_for_project(root, unlikely):
        return False
    try:
        (root / MARKER).touch()
    except OSError as error:
        print(f"relion: {root} cannot be made a project: {error.strerror}.", file=sys.stderr)
        return False
    return True


def ask_for_project(root: Path, unlikely: bool) -> bool:
    """Ask whether a new project shall be made; No is what Enter and Escape mean."""
    from PySide6.QtCore import Qt
    from PySide6.QtWidgets import QMessageBox

    box = QMessageBox(QMessageBox.Icon.Question, "RELION", f"{root} does not look like a RELION project directory.")
    box.setTextFormat(Qt.TextFormat.PlainText)
    hint = "Only run relion in your project directory. Do you want to start a new project here?"
    if unlikely:
        hint = "This is your home directory, where a project is hardly ever wanted. " + hint
    box.setInformativeText(hint)
    box.setStandardButtons(QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No)
    box.setDefaultButton(QMessageBox.StandardButton.No)
    return box.exec() == QMessageBox.StandardButton.Yes


def open_window(root: Path) -> MainWindow | None:
    """The window on a project; None (after telling why) if the project cannot be opened."""
    from PySide6.QtWidgets import QMessageBox

    from relion_py.gui.main_window import MainWindow
    from relion_py.gui.session import ProjectSession
    from relion_py.pipeline.errors import DamagedPipeline, PipelineError
    from relion_py.pipeline.project import Project

    try:
        project = Project.open(root) if (root / "default_pipeline.star").exists() else Project.create(root)
    except DamagedPipeline as error:
        restored = _offer_restore(root, error)
        if restored is None:
            return None
        project = restored
    except (PipelineError, OSError) as error:
        QMessageBox.critical(None, "RELION", str(error))
        return None
    return MainWindow(ProjectSession(project))


def _offer_restore(root: Path, error: DamagedPipeline) -> Project | None:
    """Tell what is wrong with the pipeline file and offer to restore it; None if that is not wanted."""
    from PySide6.QtCore import Qt
    from PySide6.QtWidgets import QMessageBox

    from relion_py.pipeline.errors import PipelineError
    from relion_py.pipeline.project import Project

    box = QMessageBox(QMessageBox.Icon.Warning, "RELION", error.reason)
    box.setTextFormat(Qt.TextFormat.PlainText)
    plan = f"{error.plan.sentence()} The damaged file is kept beside it." if error.plan else ""
    box.setInformativeText(f"{plan} Restore the project now?".strip())
    restore = box.addButton("Restore", QMessageBox.ButtonRole.AcceptRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.exec()
    if box.clickedButton() is not restore:
        return None
    try:
        return Project.restore(root)
    except (PipelineError, OSError) as failure:
        QMessageBox.critical(None, "RELION", str(failure))
        return None


def report_mistake(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook`: a mistake of ours is told, and the window stays."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    text = "".join(traceback.format_exception(kind, error, trace))
    print(text, file=sys.stderr)
    from PySide6.QtWidgets import QApplication

    from relion_py.gui.main_window import MainWindow

    for widget in QApplication.topLevelWidgets():
        if isinstance(widget, MainWindow) and widget.isVisible():
            widget.tell_crash(text)
            return


if __name__ == "__main__":
    sys.exit(main())
