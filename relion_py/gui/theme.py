"""Colours, palette and style sheet of the window, light and dark.

The hues are those that RELION's users know (pale blue-grey ground, cream entries, blue buttons, violet run
buttons: gui_entries.h of RELION 5); everything else is left to Qt's Fusion style.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette
from PySide6.QtWidgets import QApplication, QWidget


@dataclass(frozen=True)
class Theme:
    """The named colours of one appearance; all are CSS colour strings."""

    dark: bool
    ground: str  # window background
    panel: str  # lists, logs
    entry: str  # parameter entries
    entry_off: str  # inactive entries
    text: str
    text_off: str
    quiet: str  # secondary text
    line: str  # borders
    button: str  # Browse, ?, Display
    button_text: str
    run: str  # Run!, Schedule, Check command
    run_text: str
    carry_on: str  # continue now!
    carry_on_text: str
    danger: str  # overwrite!, delete
    error: str  # failed jobs, stderr, problems
    good: str
    selection: str
    selection_text: str


LIGHT = Theme(
    dark=False,
    ground="#e6e6f0",
    panel="#ffffff",
    entry="#ffffe6",
    entry_off="#e9e9ee",
    text="#111118",
    text_off="#8c8c98",
    quiet="#5c5c6e",
    line="#a8a8ba",
    button="#b9bcff",
    button_text="#14143c",
    run="#643cff",
    run_text="#ffffff",
    carry_on="#9fa2ff",
    carry_on_text="#14143c",
    danger="#c81e1e",
    error="#c80000",
    good="#1d7a34",
    selection="#26268c",
    selection_text="#ffffff",
)

DARK = Theme(
    dark=True,
    ground="#24242c",
    panel="#1a1a20",
    entry="#33332b",
    entry_off="#2b2b31",
    text="#eaeaf2",
    text_off="#7d7d8a",
    quiet="#a9a9ba",
    line="#55556a",
    button="#474a86",
    button_text="#f0f0ff",
    run="#7a58ff",
    run_text="#ffffff",
    carry_on="#5a5ee0",
    carry_on_text="#ffffff",
    danger="#d94848",
    error="#ff7b7b",
    good="#67c97f",
    selection="#5b5ecf",
    selection_text="#ffffff",
)

_current = LIGHT


def current() -> Theme:
    """The theme that is in use."""
    return _current


def system_is_dark(app: QApplication) -> bool:
    """True where the desktop asks for a dark appearance."""
    return app.styleHints().colorScheme() == Qt.ColorScheme.Dark


def apply(app: QApplication, appearance: str = "system") -> Theme:
    """Give the application its style; `appearance` is "system", "light" or "dark"."""
    global _current
    dark = system_is_dark(app) if appearance == "system" else appearance == "dark"
    _current = DARK if dark else LIGHT
    app.setStyle("Fusion")
    app.setPalette(_palette(_current))
    app.setStyleSheet(_style_sheet(_current))
    for widget in app.allWidgets():
        if widget.property("dressed_as_entry"):
            dress_choice(widget)
    return _current


def set_text_size(points: int) -> None:
    """Give all text this size; logs and other fixed-pitch text follow."""
    font = QApplication.font()
    font.setPointSize(points)
    QApplication.setFont(font)
    for widget in QApplication.allWidgets():
        if widget.property("fixed_pitch"):
            widget.setFont(fixed_font())


def fixed_font() -> QFont:
    """A fixed-pitch font of the size of the application's own."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    font.setPointSizeF(QApplication.font().pointSizeF())
    font.setStyleHint(QFont.StyleHint.Monospace)
    return font


def dress_choice(box: QWidget) -> None:
    """Give a choice the colour of an entry (a style sheet would take its arrow away)."""
    box.setProperty("dressed_as_entry", True)  # so that another theme dresses it again
    palette = QPalette(QApplication.palette())
    palette.setColor(QPalette.ColorGroup.Active, QPalette.ColorRole.Button, QColor(_current.entry))
    palette.setColor(QPalette.ColorGroup.Inactive, QPalette.ColorRole.Button, QColor(_current.entry))
    box.setPalette(palette)


def _palette(theme: Theme) -> QPalette:
    palette = QPalette()
    role = QPalette.ColorRole
    for r, colour in (
        (role.Window, theme.ground),
        (role.WindowText, theme.text),
        (role.Base, theme.panel),
        (role.AlternateBase, theme.ground),
        (role.Text, theme.text),
        (role.Button, theme.ground),
        (role.ButtonText, theme.text),
        (role.Highlight, theme.selection),
        (role.HighlightedText, theme.selection_text),
        (role.ToolTipBase, theme.entry),
        (role.ToolTipText, theme.text),
        (role.PlaceholderText, theme.text_off),
        (role.Link, theme.run),
        (role.BrightText, theme.error),
    ):
        palette.setColor(r, QColor(colour))
    for r in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, r, QColor(theme.text_off))
    return palette


def _style_sheet(t: Theme) -> str:
    return f"""
    QLineEdit {{
        background: {t.entry}; color: {t.text}; border: 1px solid {t.line}; border-radius: 3px;
        padding: 1px 4px; selection-background-color: {t.selection}; selection-color: {t.selection_text};
    }}
    QLineEdit:focus {{ border: 1px solid {t.run}; }}
    QLineEdit:disabled {{ background: {t.entry_off}; color: {t.text_off}; }}
    QLineEdit[problem="true"] {{ border: 2px solid {t.error}; }}
    QPushButton#plain, QToolButton#plain {{
        background: {t.button}; color: {t.button_text}; border: 1px solid {t.line}; border-radius: 4px;
        padding: 2px 9px;
    }}
    QPushButton#plain:hover, QToolButton#plain:hover {{ border: 1px solid {t.run}; }}
    QPushButton#plain:focus, QToolButton#plain:focus {{ border: 2px solid {t.run}; padding: 1px 8px; }}
    QPushButton#plain:disabled, QToolButton#plain:disabled {{ background: {t.entry_off};
        color: {t.text_off}; }}
    QToolButton#plain::menu-indicator {{ subcontrol-position: right center; right: 4px; }}
    QToolButton#plain[popup="true"] {{ padding-right: 18px; }}
    QToolButton#help {{
        background: {t.button}; color: {t.button_text}; border: 1px solid {t.line}; border-radius: 3px;
        font-weight: bold; padding: 0px;
    }}
    QPushButton#run {{
        background: {t.run}; color: {t.run_text}; border: 1px solid {t.line}; border-radius: 5px;
        padding: 4px 18px; font-style: italic; font-weight: 600;
    }}
    QPushButton#run:hover {{ border: 1px solid {t.text}; }}
    QPushButton#run:focus {{ border: 2px solid {t.text}; padding: 3px 17px; }}
    QPushButton#run[state="continue"] {{ background: {t.carry_on}; color: {t.carry_on_text}; }}
    QPushButton#run[state="overwrite"] {{ background: {t.danger}; color: #ffffff; }}
    QPushButton#run:disabled {{ background: {t.entry_off}; color: {t.text_off}; }}
    QPushButton#yes, QPushButton#no {{
        background: {t.entry}; color: {t.text}; border: 1px solid {t.line}; padding: 1px 10px;
        min-width: 34px;
    }}
    QPushButton#yes {{ border-top-left-radius: 4px; border-bottom-left-radius: 4px; border-right: none; }}
    QPushButton#no {{ border-top-right-radius: 4px; border-bottom-right-radius: 4px; }}
    QPushButton#yes:checked {{ background: {t.run}; color: {t.run_text}; font-weight: bold; }}
    QPushButton#no:checked {{ background: {t.quiet}; color: {t.panel}; font-weight: bold; }}
    QPushButton#yes:focus, QPushButton#no:focus {{ text-decoration: underline; }}
    QPushButton#yes:disabled, QPushButton#no:disabled {{ background: {t.entry_off}; color: {t.text_off};
        font-weight: normal; }}
    QPushButton#yes:checked:disabled, QPushButton#no:checked:disabled {{ background: {t.line};
        color: {t.panel}; }}
    QLabel#problem {{ color: {t.error}; }}
    QLabel#quiet {{ color: {t.quiet}; }}
    QLabel#heading {{ color: {t.text}; font-weight: 600; padding: 1px 2px; }}
    QFrame#banner {{ background: {t.panel}; border: 1px solid {t.error}; border-radius: 4px; }}
    QTabWidget::pane {{ border: 1px solid {t.line}; border-radius: 3px; top: -1px; }}
    QListView {{ border: 1px solid {t.line}; border-radius: 3px; outline: none; }}
    QListView::item {{ padding: 0px 3px; }}
    QPlainTextEdit#stderr {{ color: {t.error}; }}
    QSplitter::handle {{ background: transparent; }}
    QSplitter::handle:hover {{ background: {t.button}; }}
    QToolTip {{ background: {t.entry}; color: {t.text}; border: 1px solid {t.line}; padding: 3px; }}
    """
