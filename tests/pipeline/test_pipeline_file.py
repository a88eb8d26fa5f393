"""default_pipeline.star of every release: read, kept, written, and found damaged when it is."""

# ruff: noqa: W291, W293  (RELION writes blanks at the ends of lines)

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relion_py.pipeline import DamagedPipeline, Graph, Node, Process, Project, Status, pipeline_file

from .conftest import external

GOLDEN = (
    "golden/projects/em-testdata-relion4/default_pipeline.star",
    "golden/projects/frozenfas-pipelines/default_pipeline.star",
    "golden/projects/himena-relion5-jobstars/default_pipelines/full.star",
    "golden/projects/himena-relion5-jobstars/default_pipelines/no_input.star",
    "golden/projects/teamtomo-starfile-tests/default_pipeline.star",
    "data/real/bgal-10017-relion2-project/relion_dataset/default_pipeline.star",
    "data/real/bgal-10204-relion5-project/default_pipeline.star",
)

RELION31 = """
# version 30001

data_pipeline_general

_rlnPipeLineJobCounter                       3
 

# version 30001

data_pipeline_processes

loop_ 
_rlnPipeLineProcessName #1 
_rlnPipeLineProcessAlias #2 
_rlnPipeLineProcessType #3 
_rlnPipeLineProcessStatus #4 
_rlnOfTheFuture #5 
Import/job001/ Import/movies/            0            2 blue 
Refine3D/job002/       None           10            4 "very red" 
 

# version 30001

data_pipeline_nodes

loop_ 
_rlnPipeLineNodeName #1 
_rlnPipeLineNodeType #2 
Import/job001/movies.star            0 
Refine3D/job002/run_half1_class001_unfil.mrc           10 
Refine3D/job002/strange.xyz           77 
 

# version 30001

data_pipeline_input_edges

loop_ 
_rlnPipeLineEdgeFromNode #1 
_rlnPipeLineEdgeProcess #2 
Import/job001/movies.star Refine3D/job002/ 
 

# version 30001

data_pipeline_output_edges

loop_ 
_rlnPipeLineEdgeProcess #1 
_rlnPipeLineEdgeToNode #2 
Import/job001/ Import/job001/movies.star 
Refine3D/job002/ Refine3D/job002/run_half1_class001_unfil.mrc 
Refine3D/job002/ Refine3D/job002/strange.xyz 
 

# version 30001

data_somebody_elses

loop_ 
_myLabel #1 
       001 
      None 
 
"""


@pytest.mark.req("E1")
@pytest.mark.parametrize("name", GOLDEN)
def test_real_projects_open_and_are_left_alone(shared: Path, tmp_path: Path, name: str) -> None:
    """Opening, looking and refreshing changes nothing; what is read is what is written and read again."""
    source = shared / name
    if not source.exists():
        pytest.skip(f"{source} is not here")
    shutil.copy(source, tmp_path / "default_pipeline.star")
    (tmp_path / "default_pipeline.star").chmod(0o644)
    project = Project.open(tmp_path)
    project.refresh()
    for job in list(project.graph.processes)[:5]:
        project.graph.history(job)
        project.displayable(job)
    assert (tmp_path / "default_pipeline.star").read_bytes() == source.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["default_pipeline.star"]
    again = pipeline_file.parse(pipeline_file.dumps(project.graph))
    assert again.same_as(project.graph) and again.job_counter == project.graph.job_counter


@pytest.mark.req("G5", "E1")
def test_relion5_files_are_written_as_relion_writes_them(shared: Path) -> None:
    """All pipeline files of a real RELION 5 project come out byte for byte."""
    files = sorted((shared / "data/real/bgal-10204-relion5-project").rglob("*_pipeline.star"))
    if not files:
        pytest.skip("the RELION 5 project is not here")
    for file in files:
        assert pipeline_file.dumps(pipeline_file.read(file)) == file.read_text(), file


@pytest.mark.req("E1")
def test_a_changed_project_of_release_3_keeps_what_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "default_pipeline.star").write_text(RELION31)
    (tmp_path / "Refine3D/job002").mkdir(parents=True)
    project = Project.open(tmp_path)
    graph = project.graph
    assert [(p.type_label, p.status, p.alias) for p in graph.processes.values()] == [
        ("relion.import", "Succeeded", "Import/movies/"),
        ("relion.refine3d", "Aborted", ""),
    ]
    assert [n.type for n in graph.nodes.values()] == [
        "MicrographMovieGroupMetadata.star.relion",
        "DensityMap.mrc.halfmap",
        "77",
    ]
    project.mark("Refine3D/job002", Status.FAILED)
    text = (tmp_path / "default_pipeline.star").read_text()
    assert "_rlnOfTheFuture #5 \n" in text and '"very red" \n' in text
    assert "data_somebody_elses\n\nloop_ \n_myLabel #1 \n       001 \n      None \n \n" in text
    assert "Refine3D/job002/strange.xyz         77 " in text
    assert "# version 50001" in text
    assert (tmp_path / "default_pipeline.star.before_relion5").read_text() == RELION31
    assert Project.open(tmp_path).graph.processes["Refine3D/job002/"].extra == {"rlnOfTheFuture": "very red"}


@pytest.mark.req("E1")
def test_edges_to_unknown_jobs_survive(tmp_path: Path) -> None:
    text = RELION31.replace(
        "movies.star Refine3D/job002/ \n", "movies.star Refine3D/job002/ \nlost.star Class2D/job009/ \n"
    )
    graph = pipeline_file.parse(text)
    assert graph.dangling_inputs == [("lost.star", "Class2D/job009/")]
    assert " lost.star Class2D/job009/ \n" in pipeline_file.dumps(graph)


@pytest.mark.req("G5")
def test_a_file_cut_short_is_never_taken_for_whole(shared: Path, tmp_path: Path) -> None:
    """Cut after any line and in many, a real project is damaged, or still says the same."""
    source = shared / "data/real/bgal-10204-relion5-project"
    if not source.exists():
        pytest.skip("the RELION 5 project is not here")
    for mini in source.rglob("job_pipeline.star"):
        target = tmp_path / mini.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(mini, target)
        for node in pipeline_file.read(mini).nodes:
            (tmp_path / node).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / node).touch()
    file = tmp_path / "default_pipeline.star"
    text = (source / "default_pipeline.star").read_text()
    whole = pipeline_file.parse(text)
    ends_of_lines = {index + 1 for index, character in enumerate(text) if character == "\n"}
    for length in sorted(ends_of_lines | set(range(0, len(text), 41))):
        file.write_text(text[:length])
        try:
            found = Project.open(tmp_path).graph
        except DamagedPipeline as error:
            assert error.plan is not None
            continue
        assert found.same_as(whole) and found.job_counter == whole.job_counter, text[:length][-60:]


_WORD = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@given(st.lists(st.tuples(_WORD, _WORD, _WORD), max_size=8), st.integers(0, 10**6))
def test_any_graph_comes_back(rows: list[tuple[str, str, str]], counter: int) -> None:
    """Names, types and statuses of any characters, quotes and comment signs too."""
    graph = Graph(job_counter=counter)
    for name, kind, state in rows:
        graph.add_process(Process(f"{name}/", "", kind, state))
        graph.add_node(Node(f"{name}.star", "T" + kind, 2))
        graph.add_output(f"{name}/", f"{name}.star")
    for first, second in pairwise(rows):
        graph.add_input(f"{first[0]}.star", f"{second[0]}/")
    again = pipeline_file.parse(pipeline_file.dumps(graph))
    assert again.same_as(graph) and again.job_counter == counter


_LIST_WITH_CCPEM = """
import os, sys
os.chdir(sys.argv[1])
from pipeliner.project_graph import ProjectGraph
with ProjectGraph(read_only=True) as graph:
    for p in graph.process_list:
        print("P", p.name, p.alias, p.type, p.status)
        for n in p.input_nodes: print("I", n.name, p.name)
        for n in p.output_nodes: print("O", p.name, n.name)
    for n in graph.node_list: print("N", n.name, n.type)
"""


@pytest.mark.req("E1")
def test_ccpem_pipeliner_lists_our_project(project: Project) -> None:
    """Another program's classes read a project made here. CCPEM_PYTHON may name a Python that has them."""
    python = sys.executable if find_spec("pipeliner") else os.environ.get("CCPEM_PYTHON", "")
    if not python:
        pytest.skip("ccpem-pipeliner is not installed")
    first = project.run("relion.external", external(project), alias="picks")
    project.wait(first, 30)
    second = project.schedule("relion.external", external(project, in_coords=first + "picked.star"))
    listed = subprocess.run(
        [python, "-c", _LIST_WITH_CCPEM, str(project.root)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert sorted(line for line in listed if line[0] in "PION") == sorted(
        [
            f"P {first} External/picks/ relion.external Succeeded",
            f"P {second} None relion.external Scheduled",
            f"O {first} {first}picked.star",
            f"I mics.star {first}",
            f"I mics.star {second}",
            f"I {first}picked.star {second}",
            "N mics.star MicrographGroupMetadata.star.relion",
            f"N {first}picked.star MicrographCoordsGroup.star.relion",
        ]
    )
