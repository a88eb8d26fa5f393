"""Entries for the parameters of a job: one field per option, of the option's kind.

A field knows its label, its entry, its help and its Browse button, and speaks in strings, exactly as
`job.star` does; which file or node Browse offers is decided by the form that owns it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QPoint, Qt, Signal
from PySide6.QtGui import QFocusEvent, QWheelEvent
from PySide6.QtWidgets import (
    QComboBox,
    QCompleter,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui import theme
from relion_py.jobs.spec import Option

ENTRY_WIDTH = 620  # an entry wider than this (pixels) is no easier to read
SLIDER_STEPS = 10_000  # more positions than this are not told apart by a mouse


class _IgnoreWheel(QObject):
    """Keeps the mouse wheel from changing an entry that only happens to be under the pointer."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Wheel and isinstance(event, QWheelEvent):
            widget = watched
            if isinstance(widget, QWidget) and not widget.hasFocus():
                event.ignore()
                return True
        return False


def name_filters(pattern: str) -> list[str]:
    """Qt's name filters for a file pattern such as "Image Files (*.{spi,mrc})"; "All files" is always last.

    Several patterns are separated by tabs, as in RELION's own job definitions.
    """
    found: list[str] = []
    for part in pattern.split("\t"):
        part = part.strip()
        if not part or part == "undefined":
            continue
        named = re.fullmatch(r"(?P<name>.*)\((?P<globs>[^()]*)\)", part)
        label = named["name"].strip() if named else "Files"
        globs = expand_braces(named["globs"] if named else part)
        found.append(f"{label} ({' '.join(globs)})")
    found.append("All files (*)")
    return found


def expand_braces(pattern: str) -> list[str]:
    """The globs that "*.{mrc,star}" stands for."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return pattern.split()
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [glob for choice in match[1].split(",") for glob in expand_braces(f"{head}{choice.strip()}{tail}")]


class EntryLine(QLineEdit):
    """A line of text that asks for its suggestions when somebody comes to type in it."""

    suggester: Callable[[], list[str]] | None = None

    def focusInEvent(self, event: QFocusEvent) -> None:
        if self.suggester is not None:
            completer = QCompleter(self.suggester(), self)
            completer.setFilterMode(Qt.MatchFlag.MatchContains)
            completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
            completer.setMaxVisibleItems(12)
            self.setCompleter(completer)
        super().focusInEvent(event)


class YesNoSwitch(QWidget):
    """Two joined buttons, Yes and No, one of them always pressed."""

    toggled = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        self.yes, self.no = QPushButton("Yes", self), QPushButton("No", self)
        for button, name in ((self.yes, "yes"), (self.no, "no")):
            button.setObjectName(name)
            button.setCheckable(True)
            button.setAutoExclusive(True)
            button.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
            button.clicked.connect(self.toggled)
            row.addWidget(button)
        row.addStretch(1)
        self.no.setChecked(True)
        self.setFocusProxy(self.yes)

    def value(self) -> str:
        return "Yes" if self.yes.isChecked() else "No"

    def set_value(self, text: str) -> None:
        (self.yes if text.strip().lower() in ("yes", "true", "1") else self.no).setChecked(True)


class NumberSlider(QWidget):
    """A number as text, which decides, with a slider beside it; the text may leave the slider's range."""

    edited = Signal()

    def __init__(self, option: Option, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._low = float(option.minimum if option.minimum is not None else 0.0)
        high = float(option.maximum if option.maximum is not None else self._low + 1.0)
        step = float(option.step or 0.0)
        span = max(high - self._low, 1e-9)
        if step <= 0:
            step = span / 100
        self._step = max(step, span / SLIDER_STEPS)
        self._decimals = _decimals(step)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.line = QLineEdit(self)
        self.line.setFixedWidth(86)
        self.slider = QSlider(Qt.Orientation.Horizontal, self)
        self.slider.setRange(0, round(span / self._step))
        self.slider.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.slider.setMinimumWidth(60)
        self.slider.setMaximumWidth(260)
        row.addWidget(self.line)
        row.addWidget(self.slider, 1)
        row.addStretch(0)
        self.setFocusProxy(self.line)
        self.line.textChanged.connect(self._follow_text)
        self.slider.valueChanged.connect(self._follow_slider)

    def value(self) -> str:
        return self.line.text()

    def set_value(self, text: str) -> None:
        self.line.setText(text)

    def _follow_text(self, text: str) -> None:
        try:
            number = float(text)
        except ValueError:
            number = None
        if number is not None and number == number:
            position = (number - self._low) / self._step
            blocked = self.slider.blockSignals(True)
            self.slider.setValue(round(min(max(position, 0), self.slider.maximum())))
            self.slider.blockSignals(blocked)
        self.edited.emit()

    def _follow_slider(self, position: int) -> None:
        number = self._low + position * self._step
        self.line.setText(f"{number:.{self._decimals}f}" if self._decimals else str(round(number)))


def _decimals(step: float) -> int:
    """Decimals that are needed to write multiples of `step`."""
    text = f"{step:.6f}".rstrip("0")
    return len(text.split(".")[1]) if "." in text else 0


class HelpButton(QToolButton):
    """A small "?" that shows an option's help beside it."""

    def __init__(self, title: str, text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("help")
        self.setText("?")
        self.setFixedSize(20, 20)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self._title, self._text = title, text
        self.setToolTip(_wrapped(text))
        self.clicked.connect(self.open_help)

    def open_help(self) -> QFrame:
        """Open the help as a small popup next to the button; a click anywhere closes it."""
        popup = QFrame(self, Qt.WindowType.Popup)
        popup.setObjectName("helpPopup")
        popup.setFrameShape(QFrame.Shape.StyledPanel)
        popup.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        column = QVBoxLayout(popup)
        heading = QLabel(self._title, popup)
        heading.setObjectName("heading")
        body = QLabel(self._text, popup)
        body.setWordWrap(True)
        body.setMinimumWidth(420)
        body.setMaximumWidth(520)
        body.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        column.addWidget(heading)
        column.addWidget(body)
        popup.adjustSize()
        place = self.mapToGlobal(QPoint(self.width() + 4, 0))
        area = self.screen().availableGeometry()
        place.setX(min(place.x(), area.right() - popup.width()))
        place.setY(min(place.y(), area.bottom() - popup.height()))
        popup.move(place)
        popup.show()
        return popup


def _wrapped(text: str) -> str:
    """Help as rich text, so that Qt breaks the lines of its tool tip."""
    if not text:
        return ""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")
    return f"<div style='width: 380px'>{escaped}</div>"


class Field(QObject):
    """One option with its widgets; `changed` is sent with the option's key whenever its value changes."""

    changed = Signal(str)
    browse = Signal(str)

    def __init__(self, option: Option, parent: QWidget) -> None:
        super().__init__(parent)
        self.option = option
        self.key = option.key
        self.problem = ""
        self.label = QLabel(option.label.strip(), parent)
        self.label.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.editor: QWidget = self._make_editor(parent)
        self.editor.setAccessibleName(option.label)
        self.label.setBuddy(self.editor)
        tip = _wrapped(option.help)
        self.label.setToolTip(tip)
        self.help_button = HelpButton(option.label.strip(" :"), option.help, parent) if option.help else None
        self.browse_button: QPushButton | None = None
        if option.kind in ("file", "node"):
            self.browse_button = QPushButton("Browse", parent)
            self.browse_button.setObjectName("plain")
            self.browse_button.setAccessibleName(f"Browse for {option.label}")
            self.browse_button.clicked.connect(lambda: self.browse.emit(self.key))
        self.problem_label = QLabel(parent)
        self.problem_label.setObjectName("problem")
        self.problem_label.setWordWrap(True)
        self.problem_label.hide()

    def _make_editor(self, parent: QWidget) -> QWidget:
        kind = self.option.kind
        if kind == "yes_no":
            switch = YesNoSwitch(parent)
            switch.toggled.connect(self._changed)
            return switch
        if kind == "slider":
            number = NumberSlider(self.option, parent)
            number.edited.connect(self._changed)
            number.setMaximumWidth(ENTRY_WIDTH)
            number.slider.installEventFilter(_wheel_guard(parent))
            return number
        if kind == "choice":
            combo = QComboBox(parent)
            theme.dress_choice(combo)
            combo.addItems(list(self.option.choices))
            combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            combo.installEventFilter(_wheel_guard(parent))
            combo.currentTextChanged.connect(self._changed)
            combo.setMaximumWidth(ENTRY_WIDTH)
            return combo
        line = EntryLine(parent)
        line.setMaximumWidth(ENTRY_WIDTH)
        line.textChanged.connect(self._changed)
        return line

    def _changed(self) -> None:
        self.changed.emit(self.key)

    def value(self) -> str:
        """The value as `job.star` holds it."""
        editor = self.editor
        if isinstance(editor, YesNoSwitch | NumberSlider):
            return editor.value()
        if isinstance(editor, QComboBox):
            return editor.currentText()
        assert isinstance(editor, QLineEdit)
        return editor.text()

    def set_value(self, text: str) -> None:
        """Show `text`; a choice that this version does not know is kept and shown as it is."""
        editor = self.editor
        if isinstance(editor, YesNoSwitch):
            before = editor.value()
            editor.set_value(text)
            if editor.value() != before:
                self._changed()
        elif isinstance(editor, NumberSlider):
            editor.set_value(text)
        elif isinstance(editor, QComboBox):
            if text and editor.findText(text) < 0:
                editor.addItem(text)
            editor.setCurrentText(text)
        else:
            assert isinstance(editor, QLineEdit)
            editor.setText(text)
            editor.setCursorPosition(0)

    def set_enabled(self, enabled: bool) -> None:
        """Make the entry active or inactive; its help stays reachable."""
        for widget in (self.editor, self.label, self.browse_button):
            if widget is not None:
                widget.setEnabled(enabled)

    def is_enabled(self) -> bool:
        return self.editor.isEnabled()

    def set_problem(self, message: str) -> None:
        """Mark the entry and say what is wrong below it; "" takes the mark away."""
        if message == self.problem:
            return
        self.problem = message
        self.problem_label.setText(message)
        self.problem_label.setVisible(bool(message))
        target = self.editor.line if isinstance(self.editor, NumberSlider) else self.editor
        target.setProperty("problem", "true" if message else "false")
        target.style().unpolish(target)
        target.style().polish(target)

    def set_suggester(self, suggester: Callable[[], list[str]]) -> None:
        """Offer what this gives (nodes of this project) while one types."""
        if isinstance(self.editor, EntryLine):
            self.editor.suggester = suggester


def _wheel_guard(parent: QWidget) -> _IgnoreWheel:
    """One wheel filter for each parent widget."""
    for child in parent.children():
        if isinstance(child, _IgnoreWheel):
            return child
    return _IgnoreWheel(parent)
