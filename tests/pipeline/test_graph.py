"""The graph: edges both ways, history, types, aliases in paths, copies."""

from __future__ import annotations

import pytest

from relion_py.pipeline import Graph, Node, Process, Status, pipeline_file

PARTS = "ParticleGroupMetadata.star.relion"


@pytest.fixture
def graph() -> Graph:
    """a -> b -> d, a -> c -> d, with an alias on a."""
    made = Graph(job_counter=5)
    for number, kind in enumerate(("Import", "Extract", "Select", "Refine3D"), 1):
        name = f"{kind}/job{number:03d}/"
        made.add_process(Process(name, "Import/raw/" if number == 1 else "", "relion.external", Status.SUCCEEDED))
        made.add_node(Node(f"{name}out.star", PARTS))
        made.add_output(name, f"{name}out.star")
    for maker, user in ((1, 2), (1, 3), (2, 4), (3, 4)):
        names = list(made.processes)
        made.add_input(f"{names[maker - 1]}out.star", names[user - 1])
    return made


@pytest.mark.req("G3", "G10")
def test_up_and_down(graph: Graph) -> None:
    a, b, c, d = graph.processes
    assert graph.upstream(d) == [b, c, a] and graph.downstream(a) == [b, c, d]
    assert graph.parents(d) == [b, c] and graph.children(a) == [b, c]
    assert graph.history(d) == [a, b, c, d] and graph.history(a) == [a]
    assert graph.producer_of(f"{a}out.star") == a and graph.consumers_of(f"{a}out.star") == [b, c]
    assert graph.find("Import/raw") is graph.find("Import/job001/") is graph.processes[a]


def test_inputs_find_their_makers(graph: Graph) -> None:
    """A file in an earlier job's directory becomes its output; a path through an alias is the job's own."""
    a, b, _, _ = graph.processes
    graph.connect_input(Node("Import/raw/more.star", PARTS), b)
    assert graph.producer_of(f"{a}more.star") == a and b in graph.consumers_of(f"{a}more.star")
    assert "Import/raw/more.star" not in graph.nodes
    graph.connect_input(Node("ref.mrc", "Mask3D.mrc"), b)
    assert graph.producer_of("ref.mrc") is None


def test_removing(graph: Graph) -> None:
    a, b, c, d = graph.processes
    graph.remove_process(b)
    assert list(graph.processes) == [a, c, d] and f"{b}out.star" not in graph.nodes
    assert graph.parents(d) == [c] and graph.children(a) == [c]
    assert pipeline_file.parse(pipeline_file.dumps(graph)).same_as(graph)


def test_copies_stand_alone(graph: Graph) -> None:
    text = pipeline_file.dumps(graph)
    copy = graph.copy()
    graph.remove_process("Extract/job002/")
    graph.set_process("Import/job001/", status=Status.FAILED)
    assert pipeline_file.dumps(copy) == text and not copy.same_as(graph)


def test_kept_texts_are_never_stale(graph: Graph) -> None:
    """After any change the text is the one that a graph without kept texts gives."""
    a, b, c, d = graph.processes
    changes = (
        lambda: graph.set_process(a, status=Status.FAILED),
        lambda: graph.add_node(Node("new.mrc", "DensityMap.mrc")),
        lambda: graph.add_input("new.mrc", c),
        lambda: graph.remove_input("new.mrc", c),
        lambda: graph.add_process(Process("Class2D/job009/", "", "relion.class2d"), after=a),
        lambda: graph.add_output("Class2D/job009/", "new.mrc"),
        lambda: graph.remove_node(f"{b}out.star"),
        lambda: graph.remove_process(d),
        lambda: graph.set_job_counter(77),
    )
    for change in changes:
        before = pipeline_file.dumps(graph)
        change()
        after = pipeline_file.dumps(graph)
        graph.text_cache.clear()
        assert pipeline_file.dumps(graph) == after != before


@pytest.mark.req("X1", "G6")
def test_nodes_by_type() -> None:
    graph = Graph()
    for path, kind in (
        ("half.mrc", "DensityMap.mrc.relion.halfmap.refine3d"),
        ("imported.mrc", "DensityMap.mrc.halfmap"),
        ("map.mrc", "DensityMap.mrc.relion.class3d"),
        ("mask.mrc", "Mask3D.mrc"),
    ):
        graph.add_node(Node(path, kind))
    assert [n.path for n in graph.nodes_of_type("DensityMap.mrc")] == ["half.mrc", "imported.mrc", "map.mrc"]
    assert [n.path for n in graph.nodes_of_type("DensityMap.mrc.halfmap")] == ["half.mrc", "imported.mrc"]
    assert [n.path for n in graph.nodes_of_type("Mask3D.mrc")] == ["mask.mrc"]
