"""Light and dark: a switch recolours everything that is on the screen, and back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QComboBox
from window_driver import choose, start_external, wait_for, wait_until

from relion_py.gui import theme
from relion_py.pipeline.graph import Status


def shares(widget) -> Counter[str]:
    """How much of the widget's picture each colour covers."""
    picture = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    pixels = np.frombuffer(picture.constBits(), np.uint32).reshape(picture.height(), picture.bytesPerLine() // 4)
    colours, counts = np.unique(pixels[::2, : picture.width() : 2] & 0xFFFFFF, return_counts=True)
    return Counter({f"#{c:06x}": n / counts.sum() for c, n in zip(colours, counts, strict=True)})


def foreign(widget, other: theme.Theme, now: theme.Theme) -> dict[str, float]:
    """The shares of grounds that belong to the other appearance and not to this one."""
    seen = shares(widget)
    kinds = ("ground", "panel", "entry", "entry_off", "button")
    mine = {getattr(now, kind) for kind in kinds}
    return {kind: seen[getattr(other, kind)] for kind in kinds if getattr(other, kind) not in mine}


@pytest.mark.req("G1")
def test_a_switch_recolours_everything(qtbot, window) -> None:
    name = start_external(qtbot, window, seconds="0")
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    window.actions_of_job.action("Flowchart of its history").trigger()
    chart = window.actions_of_job.chart
    choose(qtbot, window, "3D auto-refine")
    wait_until(qtbot, lambda: window.results.panel is not None)
    try:
        for appearance, now, other in (("dark", theme.DARK, theme.LIGHT), ("light", theme.LIGHT, theme.DARK)):
            window.actions_of_job.set_appearance(appearance)
            qtbot.wait(100)
            for widget in (window, chart):
                left = foreign(widget, other, now)
                assert max(left.values()) < 0.002, f"{appearance}: {left}"
                assert sum(shares(widget)[c] for c in (now.ground, now.panel)) > 0.3
            boxes = [b for b in window.findChildren(QComboBox) if b.property("dressed_as_entry")]
            assert boxes
            for box in boxes:
                assert box.palette().button().color().name() == now.entry
    finally:
        window.actions_of_job.set_appearance("light")
        chart.close()
