"""Logs: the live tail, progress bars, and the searchable window on a log of 200 MB."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication
from window_driver import wait_until

from relion_py.gui.log_tail import TAIL_BYTES, LineFile, LogTail, visible
from relion_py.gui.log_view import LogView, LogWindow


def shown(changes) -> str:
    """What a view would hold after these changes."""
    lines: list[str] = []
    for change in changes:
        if change is None:
            continue
        lines = [] if change.reset else lines[:-1]
        lines += change.lines
    return "\n".join(lines)


def test_tail_gives_only_what_is_new(tmp_path: Path) -> None:
    log = tmp_path / "run.out"
    tail = LogTail(log)
    assert tail.poll() is None
    pieces = ["first\nsec", "ond\n", "third", " goes on\nµ-graph \u20ac\n"]
    changes = []
    for piece in pieces:
        with open(log, "a", encoding="utf-8") as file:
            file.write(piece)
        changes.append(tail.poll())
    assert tail.poll() is None
    assert shown(changes) == "".join(pieces)
    log.write_text("anew\n")
    changes.append(tail.poll())
    assert shown(changes) == "anew\n"


def test_progress_bars_are_shown_as_a_terminal_shows_them(tmp_path: Path) -> None:
    log = tmp_path / "run.out"
    tail = LogTail(log)
    changes = []
    for piece in (" 0/10 ~\r", " 5/10 ~~~\r", " 10/10 ~~~~~\r", "\nnext\n"):
        with open(log, "a", newline="") as file:
            file.write(piece)
        changes.append(tail.poll())
    assert shown(changes) == " 10/10 ~~~~~\nnext\n"
    assert visible("a\rb\rlast") == "last"


@pytest.fixture(scope="module")
def large_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 200 MB with one line that is different in its middle."""
    path = tmp_path_factory.mktemp("log") / "run.out"
    block = "".join(f" Expectation iteration {i:06d} of a long refinement {'.' * 40}\n" for i in range(10_000))
    with open(path, "w") as file:
        written = 0
        while written < 200_000_000:
            written += file.write(block)
            if written == len(block) * 100:
                written += file.write("the Needle in the middle\n")
    return path


@pytest.mark.req("G11")
def test_a_log_of_200_mb_is_shown_at_once_and_reads_only_its_end(large_log: Path) -> None:
    tail = LogTail(large_log)
    start = time.perf_counter()
    change = tail.poll()
    took = time.perf_counter() - start
    assert change is not None and change.reset
    assert sum(len(line) + 1 for line in change.lines) <= TAIL_BYTES
    assert took < 0.1
    assert tail.poll() is None


@pytest.mark.slow
@pytest.mark.req("G11")
def test_all_of_200_mb_can_be_read_and_searched(qtbot, large_log: Path) -> None:
    window = LogWindow(large_log, "run.out")
    qtbot.addWidget(window)
    window.show()
    wait_until(qtbot, lambda: len(window.lines) > 2_000_000, timeout=30_000)
    wait_until(qtbot, lambda: window.view.count == len(window.lines))
    assert "009999" in window.lines.line(len(window.lines) - 1), "the end is there"
    start = time.perf_counter()
    window.view.grab()
    assert time.perf_counter() - start < 0.5, "drawing reads only the lines on screen"
    window.view.go_to(0)
    qtbot.keyClicks(window.search, "needle")
    qtbot.keyClick(window.search, Qt.Key.Key_Return)
    wait_until(qtbot, lambda: window.view.current == 1_000_000, timeout=30_000)
    assert window.lines.line(1_000_000) == "the Needle in the middle"
    window.view.copy()
    assert QApplication.clipboard().text() == "the Needle in the middle"
    window.close()


def test_line_file_agrees_with_splitting_the_text(tmp_path: Path) -> None:
    text = "".join(f"line {i} {'x' * (i % 997)}\n" for i in range(5000)) + "the last without a break"
    path = tmp_path / "log"
    path.write_text(text)
    lines = LineFile(path)
    assert lines.scan() and not lines.scan()
    expected = text.split("\n")
    assert len(lines) == len(expected)
    assert [lines.line(i) for i in range(len(expected))] == expected
    assert lines.find("LINE 4321 ", 0) == 4321
    assert lines.find("line 7 ", 4000, backwards=True) == 7
    assert lines.find("line 7 ", 8) == -1
    with open(path, "a") as file:
        file.write(" now with one\nmore\n")
    assert lines.scan()
    assert lines.line(5000) == "the last without a break now with one"
    assert lines.line(5001) == "more" and len(lines) == 5002


def test_view_keeps_its_place_when_one_reads_further_up(qtbot, tmp_path: Path) -> None:
    log = tmp_path / "run.out"
    log.write_text("".join(f"line {i}\n" for i in range(300)))
    view = LogView("stdout", False)
    qtbot.addWidget(view)
    view.resize(400, 200)
    view.show()
    view.follow(log)
    wait_until(qtbot, lambda: "line 299" in view.toPlainText())
    bar = view.verticalScrollBar()
    assert bar.value() == bar.maximum(), "the end is shown first"
    bar.setValue(10)
    with open(log, "a") as file:
        file.write("line 300\n")
    wait_until(qtbot, lambda: "line 300" in view.toPlainText())
    assert bar.value() == 10
    with qtbot.waitSignal(view.opened):
        qtbot.mouseDClick(view.viewport(), Qt.MouseButton.LeftButton)
    view.follow(None)
