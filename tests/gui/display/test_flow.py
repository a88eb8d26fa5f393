"""Parts of a view beside or below each other."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from relion_py.gui.display.flow import Flow


@pytest.mark.parametrize("width", [500, 800, 1200])
def test_parts_stand_below_each_other_where_plots_would_be_too_narrow(qtbot, width: int) -> None:
    flow = Flow(QWidget(), QWidget())
    qtbot.addWidget(flow)
    flow.resize(width, 600)
    flow.show()
    beside = flow.orientation() == Qt.Orientation.Horizontal
    assert beside == (width >= 2 * Flow.COMFORTABLE)
    assert sum(flow.sizes()) >= (width if beside else 600) - 2 * flow.handleWidth()
    assert all(flow.widget(i).width() >= min(width, Flow.COMFORTABLE) - 20 for i in range(2))
