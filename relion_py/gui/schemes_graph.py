"""The drawing of a scheme: jobs and operators as boxes, edges and forks as arrows, the current node marked."""

from __future__ import annotations

from PySide6.QtCore import QMarginsF, QPointF, QRectF, QSizeF, Qt, Signal
from PySide6.QtGui import QBrush, QColor, QFont, QFontMetricsF, QPainter, QPainterPath, QPen, QPolygonF, QWheelEvent
from PySide6.QtWidgets import (
    QGraphicsItem,
    QGraphicsPathItem,
    QGraphicsPolygonItem,
    QGraphicsScene,
    QGraphicsSceneMouseEvent,
    QGraphicsSimpleTextItem,
    QGraphicsView,
    QWidget,
)

from relion_py.gui import theme
from relion_py.pipeline.schemes import Edge, Scheme
from relion_py.pipeline.schemes.drawing import lay_out

BOX = QSizeF(178, 42)
GAP = QSizeF(46, 40)
_ROUND_JOB, _ROUND_OPERATOR = 3.0, 20.0


class NodeBox(QGraphicsPathItem):
    """One node; operators have round ends. A click chooses it."""

    def __init__(self, scheme: Scheme, name: str, graph: SchemeGraph) -> None:
        job = scheme.jobs.get(name)
        path = QPainterPath()
        roundness = _ROUND_JOB if job else _ROUND_OPERATOR
        path.addRoundedRect(QRectF(QPointF(0, 0), BOX), roundness, roundness)
        super().__init__(path)
        self.name, self._graph = name, graph
        colours = theme.current()
        self.is_current = name == scheme.current_node
        self.setBrush(QBrush(QColor(colours.entry if job else colours.panel)))
        self.setPen(QPen(QColor(colours.run if self.is_current else colours.line), 3.5 if self.is_current else 1.2))
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        if job is not None:
            below = f"{job.current_name.rstrip('/') if job.current_name != name else 'not run yet'} · {job.mode}"
        else:
            below = scheme.operators[name].type
        self._write(name, 4, True)
        self._write(below, 22, False)
        self.setToolTip(
            f"{name}\n{below}" + ("\nThis node comes next, or is being worked on" if self.is_current else "")
        )

    def _write(self, text: str, y: float, bold: bool) -> None:
        item = QGraphicsSimpleTextItem(self)
        font = QFont()
        font.setPointSize(9)
        font.setBold(bold)
        item.setFont(font)
        item.setBrush(QBrush(QColor(theme.current().text if bold else theme.current().quiet)))
        item.setText(QFontMetricsF(font).elidedText(text, Qt.TextElideMode.ElideMiddle, BOX.width() - 16))
        item.setPos((BOX.width() - item.boundingRect().width()) / 2, y)

    def mousePressEvent(self, event: QGraphicsSceneMouseEvent) -> None:
        self._graph.node_chosen.emit(self.name)
        event.accept()


class SchemeGraph(QGraphicsView):
    """A view of one scheme: dragged with the mouse, zoomed with the wheel; `node_chosen` tells of clicks."""

    node_chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setScene(QGraphicsScene(self))
        self.setRenderHint(QPainter.RenderHint.Antialiasing)
        self.setDragMode(QGraphicsView.DragMode.ScrollHandDrag)
        self.setTransformationAnchor(QGraphicsView.ViewportAnchor.AnchorUnderMouse)
        self.setAccessibleName("Graph of the scheme")
        self.boxes: dict[str, NodeBox] = {}
        self._nodes: list[str] = []

    def show_scheme(self, scheme: Scheme) -> None:
        """Draw the scheme; the view stays where it is if the nodes are the same as before."""
        self.scene().clear()
        layout, _ = lay_out(scheme)
        step_x, step_y = BOX.width() + GAP.width(), BOX.height() + GAP.height()
        self.boxes = {}
        for name, (column, row) in layout.places.items():
            box = NodeBox(scheme, name, self)
            box.setPos(column * step_x, row * step_y)
            box.setZValue(1)
            self.scene().addItem(box)
            self.boxes[name] = box
        for edge in scheme.edges:
            for target in edge.targets:
                if edge.source in self.boxes and target in self.boxes:
                    places = layout.bends.get((edge.source, target), [])
                    self._add_edge(edge, target, [QPointF(column * step_x, row * step_y) for column, row in places])
        self.scene().setSceneRect(self.scene().itemsBoundingRect().marginsAdded(QMarginsF(16, 16, 16, 16)))
        if self._nodes != scheme.nodes:
            self._nodes = scheme.nodes
            self.fit()

    def fit(self) -> None:
        """Show everything, never larger than life."""
        self.fitInView(self.sceneRect(), Qt.AspectRatioMode.KeepAspectRatio)
        if self.transform().m11() > 1.0:
            self.resetTransform()

    def wheelEvent(self, event: QWheelEvent) -> None:
        now = self.transform().m11()
        factor = min(max(now * 1.0015 ** event.angleDelta().y(), 0.05), 5.0) / now
        self.scale(factor, factor)

    def _add_edge(self, edge: Edge, target: str, bends: list[QPointF]) -> None:
        start, end = self.boxes[edge.source].pos(), self.boxes[target].pos()
        down = end.y() > start.y()
        side = 0 if down else self._free_side(start, end)
        path, tip = (
            _downwards(start, bends, end) if down else _back_up(start, end, side, self._edge_of_rows(start, end, side))
        )
        if_true = edge.is_fork and target == edge.target_if_true
        colour = QColor(theme.current().good if if_true else theme.current().quiet)
        item = QGraphicsPathItem(path)
        item.setPen(QPen(colour, 1.4, Qt.PenStyle.SolidLine if if_true or not edge.is_fork else Qt.PenStyle.DashLine))
        wings = [QPointF(-4, -8), QPointF(4, -8)] if down else [QPointF(8 * side, -4), QPointF(8 * side, 4)]
        head = QGraphicsPolygonItem(QPolygonF([tip, *(tip + wing for wing in wings)]), item)
        head.setBrush(QBrush(colour))
        head.setPen(QPen(Qt.PenStyle.NoPen))
        if edge.is_fork:
            leftwards = (bends[0] if bends else end).x() < start.x() if down else side < 0
            _label(item, edge.condition if if_true else "else", path.elementAt(0), leftwards, down, if_true, colour)
        self.scene().addItem(item)

    def _free_side(self, start: QPointF, end: QPointF) -> int:
        """On which side a way back up meets fewer boxes in the rows where it leaves and arrives: 1 right, -1 left."""
        rows = [(box.x(), place) for box in self.boxes.values() for place in (start, end) if box.y() == place.y()]
        right = sum(x > place.x() for x, place in rows)
        left = sum(x < place.x() for x, place in rows)
        return 1 if right <= left else -1

    def _edge_of_rows(self, start: QPointF, end: QPointF, side: int) -> float:
        """Where the boxes in the rows between two places end on one side."""
        xs = [box.x() for box in self.boxes.values() if end.y() <= box.y() <= start.y()]
        return max(xs) + BOX.width() if side > 0 else min(xs)


def _downwards(start: QPointF, bends: list[QPointF], end: QPointF) -> tuple[QPainterPath, QPointF]:
    """From the foot of a box, past the boxes of the layers between, to the head of another."""
    half = BOX.width() / 2
    here, tip = start + QPointF(half, BOX.height()), end + QPointF(half, 0)
    path = QPainterPath(here)
    for bend in bends:
        top, foot = bend + QPointF(half, 0), bend + QPointF(half, BOX.height())
        lean = QPointF(0, (top.y() - here.y()) / 2)
        path.cubicTo(here + lean, top - lean, top)
        path.lineTo(foot)
        here = foot
    lean = QPointF(0, (tip.y() - here.y()) / 2)
    path.cubicTo(here + lean, tip - lean, tip)
    return path, tip


def _back_up(start: QPointF, end: QPointF, side: int, boxes_end: float) -> tuple[QPainterPath, QPointF]:
    """Out of the side of a box, up beside the boxes between (which end at `boxes_end`), into an earlier one."""
    middle = QPointF(BOX.width() if side > 0 else 0, BOX.height() / 2)
    here, tip = start + middle, end + middle
    height = here.y() - tip.y()
    out = boxes_end + side * (18 + 0.04 * height)
    turn = min(30.0, height / 2)
    path = QPainterPath(here)
    path.cubicTo(QPointF(out, here.y()), QPointF(out, here.y()), QPointF(out, here.y() - turn))
    path.lineTo(QPointF(out, tip.y() + turn))
    path.cubicTo(QPointF(out, tip.y()), QPointF(out, tip.y()), tip)
    return path, tip


def _label(
    parent: QGraphicsItem,
    text: str,
    start: QPainterPath.Element,
    leftwards: bool,
    down: bool,
    if_true: bool,
    colour: QColor,
) -> None:
    """The condition of a fork, beside the beginning of its arrow."""
    item = QGraphicsSimpleTextItem(text, parent)
    font = QFont()
    font.setPointSize(8)
    item.setFont(font)
    item.setBrush(QBrush(colour))
    width, height = item.boundingRect().width(), item.boundingRect().height()
    x = start.x - width - 8 if leftwards else start.x + 8
    y = start.y + (1 if if_true else height * 0.8) if down else start.y - height - 1
    item.setPos(x, y)
    item.setZValue(2)
