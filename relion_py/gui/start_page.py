"""What the parameter panel shows before a job type is chosen: where one is, and how to begin."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QLabel, QVBoxLayout, QWidget

import relion_py

STEPS = """
<ol style='margin-left: 0px; line-height: 145%'>
<li>Choose a <b>job type</b> in the list on the left and fill in its tabs; <b>?</b> explains each
parameter.</li>
<li><b>Check command</b> shows the exact command lines; <b>Run!</b> executes them now; <b>Schedule</b>
keeps the job for later.</li>
<li>Click a job in the <b>lists below</b> to see its parameters, its output and what came before and after it;
<b>continue now!</b> carries it on.</li>
<li><b>Display:</b> shows its inputs and results; <b>Job actions</b> has its note, alias, flowchart and
clean-up.</li>
</ol>
"""


class StartPage(QFrame):
    """A short welcome; `File > Show initial screen` brings it back."""

    def __init__(self, root: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(30, 16, 30, 16)
        title = QLabel(f"RELION in Python {relion_py.__version__}", self)
        font = title.font()
        font.setPointSizeF(font.pointSizeF() * 1.7)
        font.setBold(True)
        title.setFont(font)
        place = QLabel(f"Project: {root}", self)
        place.setObjectName("quiet")
        place.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        steps = QLabel(STEPS, self)
        steps.setWordWrap(True)
        steps.setMaximumWidth(760)
        column.addStretch(1)
        for widget in (title, place, steps):
            column.addWidget(widget)
        column.addStretch(2)
