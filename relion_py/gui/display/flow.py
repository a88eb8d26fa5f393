"""A splitter that puts its parts side by side where there is room and below each other where there is not."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSplitter, QWidget


class Flow(QSplitter):
    """Parts with movable borders; ``sizes`` are their shares of the width while they lie side by side.

    Narrower than the parts need, it stands them on top of each other and asks for the height that this takes.
    """

    NARROWEST = 280
    COMFORTABLE = 420
    """Pixels that a part is given at least beside others: what it can bear may be too little to read a plot."""

    def __init__(self, *parts: QWidget, sizes: tuple[int, ...] = ()) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.setChildrenCollapsible(False)
        for index, part in enumerate(parts):
            self.addWidget(part)
            self.setStretchFactor(index, 1)
        self._shares = list(sizes) or [1] * len(parts)
        self.setSizes(self._shares)
        self.setMinimumWidth(self.NARROWEST)

    def _needs(self) -> tuple[list[int], list[int]]:
        widths, heights = [], []
        for index in range(self.count()):
            part = self.widget(index)
            if part is not None:
                least = part.minimumSizeHint().expandedTo(part.minimumSize())
                widths.append(max(least.width(), self.COMFORTABLE))
                heights.append(least.height())
        return widths, heights

    def resizeEvent(self, event: Any) -> None:
        widths, heights = self._needs()
        gaps = self.handleWidth() * max(0, self.count() - 1)
        wide = self.width() >= sum(widths) + gaps
        wanted = Qt.Orientation.Horizontal if wide else Qt.Orientation.Vertical
        if wanted != self.orientation():
            self.setOrientation(wanted)
            self.setSizes(self._shares if wide else [max(h, 1) for h in heights])
        self.setMinimumHeight(max(heights, default=0) if wide else sum(heights) + gaps)
        super().resizeEvent(event)
