"""Flowcharts: every job and edge is drawn, nothing overlaps, and the files are what they say."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relion_py.pipeline import Graph, Node, PipelineError, Process, Status, pipeline_file
from relion_py.pipeline.flowchart import BOX_HEIGHT, BOX_WIDTH, Flowchart, flowchart, to_svg, to_tikz, write
from relion_py.pipeline.layout import layered

HOSTILE = r"A$\input{/etc/passwd}&<script>_%#^~" + "\x07"


def example(edges: list[tuple[int, int]], count: int) -> Graph:
    graph = Graph()
    for number in range(count):
        name = f"External/job{number:03d}/"
        graph.add_process(Process(name, "", "relion.external", list(Status)[number % 5]))
        graph.add_node(Node(name + "out.star", "ParticleGroupMetadata.star.relion"))
        graph.add_output(name, name + "out.star")
    for maker, user in edges:
        graph.add_input(f"External/job{maker:03d}/out.star", f"External/job{user:03d}/")
    return graph


def check_drawing(chart: Flowchart) -> None:
    """No two boxes overlap, all lies on the page, each arrow goes from box to box and no bend is in a box."""
    for a, b in itertools.combinations(chart.boxes, 2):
        assert abs(a.x - b.x) >= BOX_WIDTH or abs(a.y - b.y) >= BOX_HEIGHT
    boxes = {box.job: box for box in chart.boxes}
    for arrow in chart.arrows:
        for x, y in arrow.points:
            assert 0 <= x <= chart.width and 0 <= y <= chart.height
        assert abs(arrow.points[0][0] - boxes[arrow.source].x) < 1e-6
        assert abs(arrow.points[-1][0] - boxes[arrow.target].x) < 1e-6
        for x, y in arrow.points[1:-1]:
            for box in chart.boxes:
                assert not (abs(x - box.x) < BOX_WIDTH / 2 and abs(y - box.y) < BOX_HEIGHT / 2 - 1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 14).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=25))
    )
)
def test_any_graph_is_drawn_without_overlaps(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = case
    forward = [(a, b) for a, b in edges if a < b]
    chart = flowchart(example(forward, count))
    assert {(a.source, a.target) for a in chart.arrows} == {
        (f"External/job{a:03d}/", f"External/job{b:03d}/") for a, b in forward
    }
    check_drawing(chart)
    y = {box.job: box.y for box in chart.boxes}
    assert all(y[arrow.source] < y[arrow.target] for arrow in chart.arrows)
    # With circles, which no program makes but a file may hold, it is still drawn.
    assert len(flowchart(example(edges, count)).boxes) == count


def test_layers_are_longest_ways() -> None:
    layout = layered(["a", "b", "c", "d"], [("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")])
    assert {name: place[1] for name, place in layout.places.items()} == {"a": 0, "b": 1, "c": 2, "d": 1}
    assert len(layout.bends["a", "c"]) == 1 and layout.bends["a", "b"] == []


@pytest.mark.req("J3")
def test_history_of_a_real_job(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/real/bgal-10017-relion2-project/relion_dataset/default_pipeline.star"
    if not source.exists():
        pytest.skip("the RELION 2 project is not here")
    graph = pipeline_file.read(source)
    chart = flowchart(graph, "Refine3D/job020")
    assert [box.job for box in chart.boxes] == graph.history("Refine3D/job020/")
    assert chart.boxes[-1].title == "Refine3D/after_first_clas…"
    check_drawing(chart)
    everything = flowchart(graph)
    assert len(everything.boxes) == len(graph.processes)
    for name in ("chart.svg", "chart.pdf", "chart.tex"):
        write(everything, tmp_path / name)
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    names = {group.get("id") for group in root.iter("{http://www.w3.org/2000/svg}g")}
    assert names == set(graph.processes)
    assert (tmp_path / "chart.pdf").read_bytes().startswith(b"%PDF")
    if shutil.which("pdftotext"):
        text = subprocess.check_output(["pdftotext", str(tmp_path / "chart.pdf"), "-"], text=True)
        assert all(box.title.split("/")[-1] in text for box in everything.boxes)
    with pytest.raises(PipelineError, match="not as"):
        write(chart, tmp_path / "chart.docx")
    with pytest.raises(PipelineError, match="no job"):
        flowchart(graph, "Refine3D/job999")


def test_names_cannot_write_xml_or_tex(tmp_path: Path) -> None:
    graph = Graph()
    graph.add_process(Process("External/job001/", HOSTILE, "<b>", "Stranger"))
    chart = flowchart(graph)
    ElementTree.fromstring(to_svg(chart))
    tex = to_tikz(chart)
    assert "\\input" not in tex.replace("\\inputenc", "").replace("textbackslash{}input", "")
    assert "<script>" not in to_svg(chart)
    write(chart, tmp_path / "x.pdf")


def test_tikz_balances(shared: Path) -> None:
    tex = to_tikz(flowchart(example([(0, 1), (1, 2), (0, 2)], 3)))
    assert tex.count("{") == tex.count("}") and tex.count(r"\node") == 3 and tex.count(r"\draw") == 3
