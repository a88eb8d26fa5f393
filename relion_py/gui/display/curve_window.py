"""FSC, Guinier and per-class curves of post-processing, model and local-resolution STAR files, in a
window."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.series import read_model, read_postprocess


def describe_postprocess(path: Path) -> str:
    """One line: final resolution and B-factor."""
    result = read_postprocess(path)
    return f"final resolution {result.resolution:.2f} Å, B-factor {result.b_factor:.1f} Å²"


class CurveWindow(QWidget):
    """The curves of one file: ``postprocess.star`` or ``model.star``."""

    def __init__(self, path: Path, root: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        from relion_py.gui.plots import FscPlot, GuinierPlot

        self.path, self.root = path, root
        self.setWindowTitle(f"{path.name} – curves")
        plots: list[QWidget] = []
        fsc = FscPlot()
        if path.name.endswith("_model.star"):
            model = read_model(path)
            if not model.fsc:
                raise DisplayError(f"{path} has no gold-standard FSC to plot")
            fsc.show_curves({f"class {i + 1}": curve for i, curve in enumerate(model.fsc)})
            text = f"resolution {model.resolution:.2f} Å"
            plots = [fsc]
        else:
            result = read_postprocess(path)
            fsc.show_curves(result.curves, heading=f"FSC: final resolution {result.resolution:.2f} Å")
            guinier = GuinierPlot()
            guinier.show_result(result)
            plots = [fsc, guinier]
            text = describe_postprocess(path)
        line = QHBoxLayout()
        for plot in plots:
            line.addWidget(plot, 1)
        self.status = QLabel(f"{path}: {text}")
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        table = QPushButton("Show the table")
        table.clicked.connect(self.show_table)
        bottom = QHBoxLayout()
        bottom.addWidget(self.status, 1)
        bottom.addWidget(table)
        box = QVBoxLayout(self)
        box.setContentsMargins(4, 4, 4, 4)
        box.addLayout(line, 1)
        box.addLayout(bottom)
        self.resize(500 * len(plots), 440)
        self._table: QWidget | None = None

    def show_table(self) -> None:
        """Open the STAR file itself."""
        from relion_py.gui.display.star_window import StarWindow

        self._table = StarWindow(self.path, self.root)
        self._table.show()

    def finish(self) -> None:
        """Nothing is drawn later."""
