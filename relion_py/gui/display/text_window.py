"""Text files, with search; very large ones show their end first. PDF files are handed to the desktop's
viewer."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QFontDatabase, QKeySequence, QShortcut, QTextDocument
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display.errors import DisplayError

MOST_BYTES = 4_000_000


def read_tail(path: Path, most: int = MOST_BYTES) -> tuple[str, bool]:
    """The last ``most`` bytes of a text file, and whether that is all of it; DisplayError for a binary
    file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - most))
            raw = file.read(most)
    except OSError as error:
        raise DisplayError(f"{path} cannot be read: {error.strerror or error}") from error
    if b"\0" in raw[:8192]:
        raise DisplayError(f"{path} is a binary file of a kind that no viewer here knows")
    whole = size <= most
    text = raw.decode("utf-8", errors="replace")
    return text if whole else text.split("\n", 1)[-1], whole


class TextWindow(QWidget):
    """A text file."""

    def __init__(self, path: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        text, whole = read_tail(path)
        self.setWindowTitle(path.name)
        self.text = QPlainTextEdit(text)
        self.text.setReadOnly(True)
        self.text.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.search = QLineEdit()
        self.search.setPlaceholderText("find (Return: next, Shift+Return: previous)")
        self.search.returnPressed.connect(self.find_next)
        back = QPushButton("Previous")
        back.clicked.connect(lambda: self.find_next(backwards=True))
        line = QHBoxLayout()
        line.addWidget(self.search, 1)
        line.addWidget(back)
        self.status = QLabel(str(path) if whole else f"{path}: the last {MOST_BYTES // 1_000_000} MB")
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        box = QVBoxLayout(self)
        box.setContentsMargins(4, 4, 4, 4)
        box.addLayout(line)
        box.addWidget(self.text, 1)
        box.addWidget(self.status)
        QShortcut(QKeySequence.StandardKey.Find, self, self.search.setFocus)
        QShortcut(QKeySequence("Shift+Return"), self.search, lambda: self.find_next(backwards=True))
        self.resize(900, 640)

    def find_next(self, backwards: bool = False) -> bool:
        """Move to the next (previous) occurrence of the search text, around the end; False where there is
        none."""
        flags = QTextDocument.FindFlag.FindBackward if backwards else QTextDocument.FindFlag(0)
        if self.text.find(self.search.text(), flags):
            return True
        cursor = self.text.textCursor()
        cursor.movePosition(cursor.MoveOperation.End if backwards else cursor.MoveOperation.Start)
        self.text.setTextCursor(cursor)
        return bool(self.text.find(self.search.text(), flags))

    def finish(self) -> None:
        """Nothing is drawn later."""


class PdfNote(QWidget):
    """What stands in for a PDF viewer, which the light-weight Qt here lacks: where it is, and a button to
    open it."""

    def __init__(self, path: Path, open_now: bool = True, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self.path = path
        self.setWindowTitle(path.name)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        again = QPushButton("Open in the desktop's PDF viewer")
        again.clicked.connect(self.open)
        box = QVBoxLayout(self)
        box.addWidget(self.message, 1)
        box.addWidget(again)
        self.resize(560, 150)
        self.message.setText(f"{path} is a PDF file; it opens in the desktop's own PDF viewer.")
        if open_now:
            self.open()

    def open(self) -> bool:
        """Hand the file to the desktop; the text tells when it has no viewer."""
        if QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.path.resolve()))):
            self.message.setText(f"{self.path} was handed to the desktop's PDF viewer.")
            return True
        self.message.setText(f"No PDF viewer answered. The file is {self.path.resolve()}: open it with any PDF viewer.")
        return False

    def finish(self) -> None:
        """Nothing is drawn later."""
