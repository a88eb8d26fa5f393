"""The flowchart of a project or of one job's history: pan, zoom, open jobs, export as SVG, PDF or TikZ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QEvent, QMarginsF, QPointF, QRectF, QSize, QSizeF, Qt, Signal
from PySide6.QtGui import (
    QBrush,
    QColor,
    QFont,
    QFontMetricsF,
    QKeySequence,
    QPageLayout,
    QPageSize,
    QPaintDevice,
    QPainter,
    QPainterPath,
    QPdfWriter,
    QPen,
    QPolygonF,
    QShortcut,
    QWheelEvent,
)
from PySide6.QtWidgets import (
    QFileDialog,
    QGraphicsItem,
    QGraphicsPathItem,
    QGraphicsPolygonItem,
    QGraphicsRectItem,
    QGraphicsScene,
    QGraphicsSceneMouseEvent,
    QGraphicsSimpleTextItem,
    QGraphicsView,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui import theme
from relion_py.pipeline import flowchart
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Graph, Process, Status
from relion_py.pipeline.layout import layered

BOX = QSizeF(190, 44)
GAP = QSizeF(26, 46)


class JobBox(QGraphicsRectItem):
    """One job; a click opens it in the window."""

    def __init__(self, job: Process, chosen: bool, chart: FlowchartWindow) -> None:
        super().__init__(QRectF(QPointF(0, 0), BOX))
        self.job, self._chart = job, chart
        colours = theme.current()
        fill = {
            Status.RUNNING: colours.button,
            Status.SCHEDULED: colours.entry,
        }.get(Status(job.status) if job.status in set(Status) else Status.SUCCEEDED, colours.panel)
        bad = job.status in (Status.FAILED, Status.ABORTED)
        self.setBrush(QBrush(QColor(fill)))
        edge = colours.run if chosen else (colours.error if bad else colours.line)
        self.setPen(QPen(QColor(edge), 2.5 if chosen else 1.2))
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setToolTip(f"{job.name}\n{job.type_label}, {job.status.lower()}\nClick to open")
        self.setAcceptedMouseButtons(Qt.MouseButton.LeftButton)
        number = f"job{job.number:03d}" if job.number else job.name
        alias = job.alias.rstrip("/").split("/", 1)[-1]
        self._write(f"{job.directory}  {number}", 5, bad, True)
        self._write(alias or job.status, 23, bad, False)

    def _write(self, text: str, y: float, bad: bool, bold: bool) -> None:
        item = QGraphicsSimpleTextItem(self)
        font = QFont()
        font.setPointSize(9)
        font.setBold(bold)
        item.setFont(font)
        colours = theme.current()
        item.setBrush(QBrush(QColor(colours.error if bad else (colours.text if bold else colours.quiet))))
        room = BOX.width() - 12
        item.setText(QFontMetricsF(font).elidedText(text, Qt.TextElideMode.ElideMiddle, room))
        item.setPos((BOX.width() - item.boundingRect().width()) / 2, y)

    def mousePressEvent(self, event: QGraphicsSceneMouseEvent) -> None:
        self._chart.job_chosen.emit(self.job.name)
        event.accept()


class _Canvas(QGraphicsView):
    """A view that is dragged with the mouse and zoomed with the wheel."""

    def __init__(self, scene: QGraphicsScene, parent: QWidget) -> None:
        super().__init__(scene, parent)
        self.setRenderHint(QPainter.RenderHint.Antialiasing)
        self.setDragMode(QGraphicsView.DragMode.ScrollHandDrag)
        self.setTransformationAnchor(QGraphicsView.ViewportAnchor.AnchorUnderMouse)

    def wheelEvent(self, event: QWheelEvent) -> None:
        self.zoom(1.0015 ** event.angleDelta().y())

    def zoom(self, factor: float) -> None:
        now = self.transform().m11()
        factor = min(max(now * factor, 0.05), 5.0) / now
        self.scale(factor, factor)

    def fit(self) -> None:
        """Show everything, never larger than life."""
        self.fitInView(self.sceneRect(), Qt.AspectRatioMode.KeepAspectRatio)
        if self.transform().m11() > 1.0:
            self.resetTransform()


class FlowchartWindow(QWidget):
    """A flowchart in a window of its own; `job_chosen` gives the name of a job that was clicked."""

    job_chosen = Signal(str)

    def __init__(
        self,
        graph: Graph,
        names: Sequence[str],
        title: str,
        chosen: str = "",
        parent: QWidget | None = None,
        history_of: str = "",
    ) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self._graph, self._names, self._chosen, self._history_of = graph, names, chosen, history_of
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.resize(1000, 720)
        self.scene = QGraphicsScene(self)
        self.boxes: dict[str, JobBox] = {}
        self._draw()
        self.canvas = _Canvas(self.scene, self)
        bar = QHBoxLayout()
        hint = QLabel("Drag to move, wheel to zoom, click a job to open it.", self)
        hint.setObjectName("quiet")
        bar.addWidget(hint, 1)
        for text, slot in (
            ("Fit", self.canvas.fit),
            ("Save SVG …", lambda: self._ask_path("svg")),
            ("Save PDF …", lambda: self._ask_path("pdf")),
            ("Save TikZ …", lambda: self._ask_path("tex")),
        ):
            button = QPushButton(text, self)
            button.setObjectName("plain")
            button.clicked.connect(lambda _=False, s=slot: s())
            bar.addWidget(button)
        column = QVBoxLayout(self)
        column.addLayout(bar)
        column.addWidget(self.canvas, 1)
        QShortcut(QKeySequence.StandardKey.ZoomIn, self, lambda: self.canvas.zoom(1.25))
        QShortcut(QKeySequence.StandardKey.ZoomOut, self, lambda: self.canvas.zoom(0.8))
        QShortcut(QKeySequence("Ctrl+W"), self, self.close)

    def showEvent(self, event: object) -> None:
        super().showEvent(event)  # type: ignore[arg-type]
        self.canvas.fit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "canvas"):  # light became dark
            self._draw()

    def _draw(self) -> None:
        self.scene.clear()
        self.boxes.clear()
        graph, names, chosen = self._graph, self._names, self._chosen
        parents = {name: graph.parents(name) for name in names}
        layout = layered(names, [(parent, name) for name in names for parent in parents[name]])
        step_x, step_y = BOX.width() + GAP.width(), BOX.height() + GAP.height()
        for name in names:
            column, row = layout.places[name]
            box = JobBox(graph.processes[name], name == chosen, self)
            box.setPos(column * step_x, row * step_y)
            box.setZValue(1)
            self.scene.addItem(box)
            self.boxes[name] = box
        for name in names:
            for parent in parents[name]:
                if parent in self.boxes:
                    bends = [
                        QPointF(column * step_x + BOX.width() / 2, row * step_y + BOX.height() / 2)
                        for column, row in layout.bends.get((parent, name), [])
                    ]
                    self.scene.addItem(_arrow(self.boxes[parent].pos(), bends, self.boxes[name].pos()))
        self.scene.setSceneRect(self.scene.itemsBoundingRect().marginsAdded(QMarginsF(20, 20, 20, 20)))

    # ---- export --------------------------------------------------------------------------------------

    def save_svg(self, path: Path) -> None:
        """Write the drawing as SVG."""
        from PySide6.QtSvg import QSvgGenerator

        area = self.scene.sceneRect()
        generator = QSvgGenerator()
        generator.setFileName(str(path))
        generator.setSize(QSize(int(area.width()), int(area.height())))
        generator.setViewBox(QRectF(0, 0, area.width(), area.height()))
        generator.setTitle(self.windowTitle())
        self._paint(generator, QRectF(0, 0, area.width(), area.height()))

    def save_pdf(self, path: Path) -> None:
        """Write the drawing as a PDF of one page that fits it."""
        area = self.scene.sceneRect()
        writer = QPdfWriter(str(path))
        writer.setTitle(self.windowTitle())
        writer.setResolution(144)
        size = QPageSize(QSizeF(area.width() / 2, area.height() / 2), QPageSize.Unit.Point)
        writer.setPageLayout(QPageLayout(size, QPageLayout.Orientation.Portrait, QMarginsF(0, 0, 0, 0)))
        self._paint(writer, QRectF(0, 0, writer.width(), writer.height()))

    def save_tikz(self, path: Path) -> None:
        """Write the drawing as a LaTeX document with a tikzpicture."""
        flowchart.write(flowchart.flowchart(self._graph, self._history_of or None), path)

    def _paint(self, device: QPaintDevice, target: QRectF) -> None:
        painter = QPainter()
        if not painter.begin(device):  # type: ignore[call-overload]
            raise OSError(None, "The file cannot be written: choose another place")
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self.scene.render(painter, target, self.scene.sceneRect())
        painter.end()

    def _ask_path(self, kind: str) -> None:
        dialog = QFileDialog(self, f"Save flowchart as {kind.upper()}")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix(kind)
        dialog.selectFile(f"flowchart.{kind}")
        save = {"svg": self.save_svg, "pdf": self.save_pdf, "tex": self.save_tikz}[kind]

        def write(path: str) -> None:
            try:
                save(Path(path))
            except (OSError, PipelineError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                QMessageBox.warning(self, "Flowchart", f"{path} cannot be written: {reason}")

        dialog.fileSelected.connect(write)
        dialog.open()


def _arrow(parent: QPointF, bends: Sequence[QPointF], child: QPointF) -> QGraphicsItem:
    """A curve from the foot of one box through the points between to the head of the other."""
    end = child + QPointF(BOX.width() / 2, 0)
    here = parent + QPointF(BOX.width() / 2, BOX.height())
    path = QPainterPath(here)
    half = QPointF(0, BOX.height() / 2)
    for bend in bends:  # straight down past the boxes of each layer, curved between the layers
        lean = QPointF(0, (bend.y() - half.y() - here.y()) / 2)
        path.cubicTo(here + lean, bend - half - lean, bend - half)
        path.lineTo(bend + half)
        here = bend + half
    lean = QPointF(0, (end.y() - here.y()) / 2)
    path.cubicTo(here + lean, end - lean, end - QPointF(0, 6))
    item = QGraphicsPathItem(path)
    item.setPen(QPen(QColor(theme.current().quiet), 1.2))
    head = QGraphicsPolygonItem(QPolygonF([end, end + QPointF(-4, -8), end + QPointF(4, -8)]), item)
    head.setBrush(QBrush(QColor(theme.current().quiet)))
    head.setPen(QPen(Qt.PenStyle.NoPen))
    return item
