"""The flowchart of a project or of one job's history, as a drawing with boxes and arrows, and as a file.

    chart = flowchart(project.graph, "Refine3D/job019/")
    write(chart, "history.svg")           # or .pdf or .tex

No LaTeX is needed; the .tex file (TikZ) is for those who want to set it in a document.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from relion_py.compute.io.atomic import atomic_file, atomic_write
from relion_py.jobs import registry
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Graph, Process, Status
from relion_py.pipeline.layout import layered

# Sizes in points.
BOX_WIDTH, BOX_HEIGHT = 150.0, 46.0
_COLUMN, _ROW, _MARGIN = 178.0, 92.0, 20.0
_FONT, _SMALL = 10.0, 8.0
_CHARACTERS = 26

_COLOURS = {
    Status.SUCCEEDED: ("#e8f3e8", "#3a7d44"),
    Status.RUNNING: ("#e7effa", "#2c5c9a"),
    Status.SCHEDULED: ("#f4f4f4", "#777777"),
    Status.FAILED: ("#fbe9e7", "#c62828"),
    Status.ABORTED: ("#fbe9e7", "#c62828"),
}
_OTHER_COLOUR = ("#f4f4f4", "#777777")


@dataclass(frozen=True)
class Box:
    """One job: its centre (points, y down), the two lines in it, and its status."""

    job: str
    title: str
    subtitle: str
    status: str
    x: float
    y: float


@dataclass(frozen=True)
class Arrow:
    """From one job to one that uses its files: the points it goes through (x, y), and the files."""

    source: str
    target: str
    points: tuple[tuple[float, float], ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Flowchart:
    """A drawing of width x height points; y grows downwards."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    width: float
    height: float


def flowchart(graph: Graph, job_name: str | None = None, with_dependants: bool = False) -> Flowchart:
    """The flowchart of a job's history (and, if asked, of what came of it), or without a name of everything.

    Raises PipelineError if there is no such job.
    """
    if job_name is None:
        names = list(graph.processes)
    else:
        process = graph.find(job_name)
        if process is None:
            raise PipelineError(f"There is no job {job_name!r} to draw the history of.")
        names = graph.history(process.name)
        if with_dependants:
            names += [name for name in graph.downstream(process.name) if name not in names]
    chosen = set(names)
    files: dict[tuple[str, str], list[str]] = {}
    for path, user in graph.inputs:
        maker = graph.producer_of(path)
        if maker in chosen and user in chosen and maker != user and maker is not None:
            files.setdefault((maker, user), []).append(path)
    layout = layered(names, files)
    places = {name: _point(place) for name, place in layout.places.items()}
    boxes = tuple(_box(graph.processes[name], places[name]) for name in names)
    arrows = tuple(
        Arrow(a, b, _route(places[a], [_point(p) for p in layout.bends[a, b]], places[b]), tuple(paths))
        for (a, b), paths in files.items()
    )
    points = [point for arrow in arrows for point in arrow.points] + list(places.values())
    width = max((x for x, _ in points), default=0.0) + BOX_WIDTH / 2 + _MARGIN
    height = max((y for _, y in points), default=0.0) + BOX_HEIGHT / 2 + _MARGIN
    return Flowchart(boxes, arrows, width, height)


def _point(place: tuple[float, int]) -> tuple[float, float]:
    return (_MARGIN + BOX_WIDTH / 2 + place[0] * _COLUMN, _MARGIN + BOX_HEIGHT / 2 + place[1] * _ROW)


def _route(
    start: tuple[float, float], bends: list[tuple[float, float]], end: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    down = 1 if end[1] >= start[1] else -1
    edge = down * BOX_HEIGHT / 2
    # A bend is passed straight through the height of its row, so that the line keeps clear of the boxes.
    through = [point for x, y in bends for point in ((x, y - edge), (x, y + edge))]
    return ((start[0], start[1] + edge), *through, (end[0], end[1] - edge))


def _box(process: Process, place: tuple[float, float]) -> Box:
    try:
        kind = registry.by_label(process.type_label).browser_label
    except registry.JobTypeError:
        kind = process.type_label
    title = _short(process.display_name)
    number = process.name.rstrip("/").rsplit("/", 1)[-1]
    return Box(process.name, title, _short(f"{number} · {kind}"), process.status, *place)


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"


def write(chart: Flowchart, path: str | os.PathLike[str]) -> None:
    """Write the chart as .svg, .pdf or .tex, by the file's name. Raises PipelineError for other names."""
    target = Path(path)
    if target.suffix == ".svg":
        atomic_write(target, to_svg(chart).encode("utf-8", "replace"))
    elif target.suffix == ".tex":
        atomic_write(target, to_tikz(chart).encode("utf-8", "replace"))
    elif target.suffix == ".pdf":
        write_pdf(chart, target)
    else:
        raise PipelineError(f"A flowchart can be written as .svg, .pdf or .tex, not as {target.name!r}.")


def _colours(status: str) -> tuple[str, str]:
    """Filling and line of a box."""
    return {str(known): pair for known, pair in _COLOURS.items()}.get(status, _OTHER_COLOUR)


# ---- SVG -------------------------------------------------------------------------------------------------


def to_svg(chart: Flowchart) -> str:
    """The chart as an SVG document."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{chart.width:.0f}" height="{chart.height:.0f}" '
        f'viewBox="0 0 {chart.width:.1f} {chart.height:.1f}" font-family="Helvetica, Arial, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#555555"/></marker></defs>',
    ]
    parts += [_svg_arrow(arrow) for arrow in chart.arrows]
    parts += [_svg_box(box) for box in chart.boxes]
    return "\n".join([*parts, "</svg>\n"])


def _svg_arrow(arrow: Arrow) -> str:
    path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in arrow.points)
    title = escape(_printable("\n".join(arrow.files), "\n"))
    return (
        f'<path d="{path}" fill="none" stroke="#555555" stroke-width="1.2" stroke-linejoin="round" '
        f'marker-end="url(#tip)"><title>{title}</title></path>'
    )


def _svg_box(box: Box) -> str:
    fill, line = _COLOURS.get(Status(box.status), _OTHER_COLOUR) if box.status in set(Status) else _OTHER_COLOUR
    left, top = box.x - BOX_WIDTH / 2, box.y - BOX_HEIGHT / 2
    strike = ' text-decoration="line-through"' if box.status == Status.ABORTED else ""
    dashes = ' stroke-dasharray="4 3"' if box.status == Status.SCHEDULED else ""
    colour = line if box.status in (Status.FAILED, Status.ABORTED) else "#222222"
    name, title, subtitle = (escape(_printable(text)) for text in (box.job, box.title, box.subtitle))
    return (
        f'<g id="{name}"><title>{name} ({escape(_printable(box.status))})</title>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{BOX_WIDTH:.0f}" height="{BOX_HEIGHT:.0f}" rx="6" '
        f'fill="{fill}" stroke="{line}" stroke-width="1.4"{dashes}/>'
        f'<text x="{box.x:.1f}" y="{box.y - 3:.1f}" font-size="{_FONT:.0f}" text-anchor="middle" '
        f'fill="{colour}"{strike}>{title}</text>'
        f'<text x="{box.x:.1f}" y="{box.y + 12:.1f}" font-size="{_SMALL:.0f}" text-anchor="middle" '
        f'fill="#555555">{subtitle}</text></g>'
    )


def _printable(text: str, allowed: str = "") -> str:
    """Text that XML and TeX can hold: control characters and lone surrogates are replaced."""
    return "".join(c if (c.isprintable() or c in allowed) and not 0xD800 <= ord(c) < 0xE000 else "�" for c in text)


# ---- PDF -------------------------------------------------------------------------------------------------


def write_pdf(chart: Flowchart, path: Path) -> None:
    """Write the chart as a PDF page of its own size."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Outline

    figure = Figure(figsize=(chart.width / 72, chart.height / 72))
    FigureCanvasPdf(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, chart.width)
    axes.set_ylim(chart.height, 0)
    axes.set_axis_off()
    for arrow in chart.arrows:
        outline = Outline(list(arrow.points))
        axes.add_patch(
            FancyArrowPatch(path=outline, arrowstyle="-|>", mutation_scale=9, color="#555555", linewidth=1.1)
        )
    for box in chart.boxes:
        fill, line = _colours(box.status)
        axes.add_patch(
            FancyBboxPatch(
                (box.x - BOX_WIDTH / 2 + 4, box.y - BOX_HEIGHT / 2 + 4),
                BOX_WIDTH - 8,
                BOX_HEIGHT - 8,
                boxstyle="round,pad=4",
                facecolor=fill,
                edgecolor=line,
                linewidth=1.2,
                linestyle="--" if box.status == Status.SCHEDULED else "-",
            )
        )
        colour = line if box.status in (Status.FAILED, Status.ABORTED) else "#222222"
        common: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
        axes.text(box.x, box.y - 6, _printable(box.title), fontsize=_FONT, color=colour, **common)
        axes.text(box.x, box.y + 10, _printable(box.subtitle), fontsize=_SMALL, color="#555555", **common)
    with atomic_file(path) as file:
        figure.savefig(file, format="pdf")


# ---- TikZ ------------------------------------------------------------------------------------------------


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "�": "?",
}


def to_tikz(chart: Flowchart) -> str:
    """The chart as a LaTeX document of its own (class standalone) with one tikzpicture."""
    index = {box.job: number for number, box in enumerate(chart.boxes)}
    lines = [
        r"\documentclass[tikz,border=4pt]{standalone}",
        r"\usepackage[utf8]{inputenc}",
        r"\usetikzlibrary{arrows.meta}",
        r"\begin{document}",
        r"\begin{tikzpicture}[x=1pt,y=-1pt,font=\sffamily\small,",
        rf"  job/.style={{draw,rounded corners=4pt,align=center,minimum width={BOX_WIDTH:.0f}pt,"
        rf"minimum height={BOX_HEIGHT:.0f}pt}}]",
    ]
    for status, (fill, line) in _COLOURS.items():
        lines.append(rf"\definecolor{{fill{status}}}{{HTML}}{{{fill[1:].upper()}}}")
        lines.append(rf"\definecolor{{line{status}}}{{HTML}}{{{line[1:].upper()}}}")
    for box in chart.boxes:
        style = f"job,fill=fill{box.status},draw=line{box.status}" if box.status in set(Status) else "job"
        text = rf"{_tex(box.title)}\\\footnotesize {_tex(box.subtitle)}"
        lines.append(rf"\node[{style}] (j{index[box.job]}) at ({box.x:.1f},{box.y:.1f}) {{{text}}};")
    for arrow in chart.arrows:
        way = " -- ".join(f"({x:.1f},{y:.1f})" for x, y in arrow.points)
        lines.append(rf"\draw[-{{Latex}},gray] {way};")
    return "\n".join([*lines, r"\end{tikzpicture}", r"\end{document}", ""])


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in _printable(text))
