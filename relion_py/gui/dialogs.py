"""The dialogs of the window. All of them open beside the event loop (`open()`): nothing waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication, QTextOption
from PySide6.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QMessageBox,
    QPlainTextEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui import theme

_BUTTON = QDialogButtonBox.StandardButton
_ROLE = QDialogButtonBox.ButtonRole


def tell(parent: QWidget | None, title: str, text: str, details: str = "", bad: bool = False) -> QMessageBox:
    """Show a message that waits for nobody."""
    icon = QMessageBox.Icon.Warning if bad else QMessageBox.Icon.Information
    box = QMessageBox(icon, title, text, QMessageBox.StandardButton.Ok, parent)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    if details:
        box.setDetailedText(details)
    box.open()
    return box


def ask(
    parent: QWidget | None, title: str, text: str, yes: str, then: Callable[[], None], informative: str = ""
) -> QMessageBox:
    """Ask before something that matters; `then` is called if the user presses the button named `yes`."""
    box = QMessageBox(QMessageBox.Icon.Question, title, text, QMessageBox.StandardButton.Cancel, parent)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setInformativeText(informative)
    button = box.addButton(yes, QMessageBox.ButtonRole.AcceptRole)
    button.setObjectName("yes_button")
    box.setDefaultButton(QMessageBox.StandardButton.Cancel)
    button.clicked.connect(then)
    box.open()
    return box


def plural(count: int, word: str) -> str:
    """ "1 job", "3 jobs"."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def size_text(size: float) -> str:
    """Bytes for people: "1.4 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class TextDialog(QDialog):
    """Text to read and copy: command lines, all notes, a traceback."""

    def __init__(self, title: str, headline: str, text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.resize(820, 380)
        column = QVBoxLayout(self)
        label = QLabel(headline, self)
        label.setWordWrap(True)
        column.addWidget(label)
        self.text = QPlainTextEdit(text, self)
        self.text.setReadOnly(True)
        self.text.setFont(theme.fixed_font())
        self.text.setWordWrapMode(QTextOption.WrapMode.WordWrap)
        column.addWidget(self.text, 1)
        buttons = QDialogButtonBox(_BUTTON.Close, self)
        self.copy_button = buttons.addButton("Copy", _ROLE.ActionRole)
        self.copy_button.clicked.connect(self.copy)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)

    def copy(self) -> None:
        """Put the selection, or all of the text, on the clipboard."""
        cursor = self.text.textCursor()
        chosen = cursor.selection().toPlainText() if cursor.hasSelection() else self.text.toPlainText()
        QGuiApplication.clipboard().setText(chosen)
        self.copy_button.setText("Copied")


class NoteEditor(QDialog):
    """Edits a note; `save` gets the text."""

    def __init__(self, title: str, text: str, save: Callable[[str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.resize(760, 460)
        self._save = save
        column = QVBoxLayout(self)
        self.text = QPlainTextEdit(text, self)
        self.text.setPlaceholderText("Describe what this is about here …")
        self.text.moveCursor(self.text.textCursor().MoveOperation.End)
        column.addWidget(self.text, 1)
        buttons = QDialogButtonBox(_BUTTON.Save | _BUTTON.Cancel, self)
        self.save_button: QPushButton = buttons.button(_BUTTON.Save)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)
        self.text.setFocus()

    def accept(self) -> None:
        self._save(self.text.toPlainText())
        super().accept()


class LineDialog(QDialog):
    """Asks for one line of text; `take` gets it."""

    def __init__(
        self,
        title: str,
        question: str,
        text: str,
        take: Callable[[str], None],
        hint: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.setMinimumWidth(460)
        self._take = take
        column = QVBoxLayout(self)
        column.addWidget(QLabel(question, self))
        self.line = QLineEdit(text, self)
        self.line.selectAll()
        column.addWidget(self.line)
        if hint:
            label = QLabel(hint, self)
            label.setObjectName("quiet")
            label.setWordWrap(True)
            column.addWidget(label)
        self.buttons = QDialogButtonBox(_BUTTON.Ok | _BUTTON.Cancel, self)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        column.addWidget(self.buttons)

    def accept(self) -> None:
        self._take(self.line.text())
        super().accept()


class ChooseDialog(QDialog):
    """Asks which of several jobs something shall be done with; `take` gets the chosen names."""

    def __init__(
        self,
        title: str,
        headline: str,
        entries: Sequence[tuple[str, str]],
        accept_text: str,
        take: Callable[[list[str]], None],
        checked: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        """`entries` are (name, what to show) pairs; with `checked` all are chosen at first."""
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.resize(560, 380)
        self._take = take
        column = QVBoxLayout(self)
        label = QLabel(headline, self)
        label.setWordWrap(True)
        column.addWidget(label)
        self.list = QListWidget(self)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.list.setUniformItemSizes(True)
        for name, text in entries:
            item = QListWidgetItem(text, self.list)
            item.setData(Qt.ItemDataRole.UserRole, name)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if checked else Qt.CheckState.Unchecked)
        column.addWidget(self.list, 1)
        self.extra = QVBoxLayout()
        column.addLayout(self.extra)
        self.buttons = QDialogButtonBox(_BUTTON.Cancel, self)
        self.accept_button = self.buttons.addButton(accept_text, _ROLE.AcceptRole)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        column.addWidget(self.buttons)
        self.list.itemChanged.connect(self._count)
        self.list.itemActivated.connect(self._toggle)
        self._count()

    def chosen(self) -> list[str]:
        """The names that are ticked."""
        items = (self.list.item(i) for i in range(self.list.count()))
        return [i.data(Qt.ItemDataRole.UserRole) for i in items if i.checkState() == Qt.CheckState.Checked]

    def _toggle(self, item: QListWidgetItem) -> None:
        checked = item.checkState() == Qt.CheckState.Checked
        item.setCheckState(Qt.CheckState.Unchecked if checked else Qt.CheckState.Checked)

    def _count(self) -> None:
        self.accept_button.setEnabled(bool(self.chosen()))

    def accept(self) -> None:
        self._take(self.chosen())
        super().accept()


class DeleteDialog(QDialog):
    """Asks before a job is moved to the trash, and shows what depends on it; `take(with_dependants)`."""

    def __init__(
        self,
        job: str,
        dependants: Sequence[str],
        take: Callable[[bool], None],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle("Delete")
        self.setMinimumWidth(480)
        self._take = take
        column = QVBoxLayout(self)
        head = QLabel(f"Move {job} to the Trash? “Undelete” brings it back until the trash is emptied.", self)
        head.setWordWrap(True)
        column.addWidget(head)
        self.dependants_box: QCheckBox | None = None
        if dependants:
            column.addWidget(QLabel(f"{plural(len(dependants), 'job')} used its results:", self))
            self.list = QListWidget(self)
            self.list.addItems(list(dependants))
            self.list.setMaximumHeight(180)
            column.addWidget(self.list)
            self.dependants_box = QCheckBox("Move these jobs to the Trash as well", self)
            column.addWidget(self.dependants_box)
        self.buttons = QDialogButtonBox(_BUTTON.Cancel, self)
        self.accept_button = self.buttons.addButton("Move to Trash", _ROLE.AcceptRole)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        column.addWidget(self.buttons)

    def accept(self) -> None:
        self._take(self.dependants_box is not None and self.dependants_box.isChecked())
        super().accept()


class ScheduleOptions(QWidget):
    """How scheduled jobs are run: how often, and with which waiting times."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        form = QFormLayout(self)
        self.name = QLineEdit("schedule1", self)
        self.repeat = QSpinBox(self)
        self.repeat.setRange(1, 100_000)
        self.wait_before, self.wait_between = _minutes(self, 0), _minutes(self, 15)
        self.wait_after = QDoubleSpinBox(self)
        self.wait_after.setRange(0, 1e6)
        self.wait_after.setDecimals(0)
        self.wait_after.setValue(10)
        form.addRow("Name of this schedule:", self.name)
        form.addRow("Wait before starting (minutes):", self.wait_before)
        form.addRow("Run the jobs how many times?", self.repeat)
        form.addRow("Wait at least between repeats (minutes):", self.wait_between)
        form.addRow("Wait after each job (seconds):", self.wait_after)


def _minutes(parent: QWidget, value: float) -> QDoubleSpinBox:
    box = QDoubleSpinBox(parent)
    box.setRange(0, 1e6)
    box.setDecimals(1)
    box.setValue(value)
    return box
