"""What the views of the Results panel have in common: ``build()``, ``fill(results)``, and how widgets are laid out.

A view is made once per job and updated in place, so that zoom, sorting, selection and slice positions survive
while a job runs. Making and filling it goes in slices, ``yield`` ending each, between which the window answers.
"""

from __future__ import annotations

from collections.abc import Iterator

from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from relion_py.gui.display.background import stop_workers
from relion_py.gui.display.results_data import JobFiles, Results


class ResultView(QWidget):
    """Base of all views."""

    def __init__(self, job: JobFiles, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.job = job

    def build(self) -> Iterator[None]:
        """Make the widgets, one slice at a time. Called once, before anything is shown."""
        yield from ()

    def fill(self, results: Results) -> Iterator[None]:
        """Show what was collected, one slice at a time."""
        raise TypeError(f"{type(self).__name__} must say how results are shown")

    def finish(self) -> None:
        """Draw what is still being drawn in the background; for picture export and tests."""

    def stop(self) -> None:
        """Stop all background work; the view is about to go."""
        stop_workers(self)


def two_by_two(*plots: QWidget) -> QWidget:
    """Four (or fewer) widgets in two columns of equal width; the last of an odd number takes a whole row."""
    holder = QWidget()
    grid = QGridLayout(holder)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setSpacing(4)
    for index, plot in enumerate(plots):
        alone = index == len(plots) - 1 and index % 2 == 0
        grid.addWidget(plot, index // 2, index % 2, 1, 2 if alone else 1)
        grid.setColumnStretch(index % 2, 1)
        grid.setRowStretch(index // 2, 1)
    return holder


def filling(parent: QWidget, *children: QWidget) -> QVBoxLayout:
    """Lay ``children`` out below each other in ``parent``, the last one growing."""
    box = QVBoxLayout(parent)
    box.setContentsMargins(0, 0, 0, 0)
    for child in children[:-1]:
        box.addWidget(child)
    box.addWidget(children[-1], 1)
    return box
