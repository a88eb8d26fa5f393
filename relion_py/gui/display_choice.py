"""The `Display:` choice: every input and output of the selected job that can be shown."""

from __future__ import annotations

import re

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QComboBox, QWidget

from relion_py.gui import dialogs, theme
from relion_py.gui.session import ProjectSession
from relion_py.pipeline.graph import Node

_ITERATION = re.compile(r"_it(\d+)_")


def in_order(nodes: list[Node]) -> list[Node]:
    """The job's own nodes as they are, then files of iterations with the last iteration first."""

    def key(node: Node) -> tuple[int, int]:
        found = _ITERATION.search(node.path.rsplit("/", 1)[-1])
        if node.type or found is None:
            return (0 if node.type else 1, 0)
        return (2, -int(found[1]))

    return sorted(nodes, key=key)


class DisplayChoice(QComboBox):
    """Offers the files of one job; `chosen` gives the node that shall be shown."""

    chosen = Signal(object)  # Node

    def __init__(self, session: ProjectSession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._job = ""
        self._nodes: list[Node] = []  # as the project gave them
        self._shown: list[Node] = []  # in the order of the rows
        theme.dress_choice(self)
        self.setAccessibleName("Display")
        self.setMaximumWidth(420)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(20)
        self.setMaxVisibleItems(25)
        self.activated.connect(self._choose)
        self.show_job("")

    def show_job(self, name: str) -> None:
        """Offer the files of this job ("" for none); called again it looks for new ones."""
        if name != self._job or not name:
            self._nodes = []
            self.clear()
            self.setPlaceholderText("choose a job first" if not name else "…")
        self._job = name
        if name:
            self._session.call(
                lambda project: project.displayable(name),
                lambda nodes: self._offer(name, nodes),
                lambda _: None,
            )

    def _offer(self, name: str, nodes: list[Node]) -> None:
        if name != self._job or (nodes == self._nodes and self.count()) or self.view().isVisible():
            return
        self._nodes = nodes
        nodes = self._shown = in_order(nodes)
        made = {node.path for node in self._session.snapshot.graph.outputs_of(name)}
        self.clear()
        for row, node in enumerate(nodes):
            where = "out" if node.path in made or node.path.startswith(name) else "in"
            self.addItem(f"{where}: {node.path.rsplit('/', 1)[-1]}")
            kind = node.type or node.extra.get("label", "")
            self.setItemData(row, f"{node.path}\n{kind}", Qt.ItemDataRole.ToolTipRole)
        files = f"{dialogs.plural(len(nodes), 'file')}: choose one …"
        self.setPlaceholderText(files if nodes else "nothing to display yet")
        self.setCurrentIndex(-1)

    def _choose(self, row: int) -> None:
        if 0 <= row < len(self._shown):
            node = self._shown[row]
            self.setCurrentIndex(-1)
            self.chosen.emit(node)
