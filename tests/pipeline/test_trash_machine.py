"""Whatever the order of alias, delete, undelete and clean: undelete restores exactly what was."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relion_py.pipeline import Graph, Node, PipelineError, Process, Project, Status, pipeline_file

JOBS = 5
KINDS = ("Extract", "Refine3D", "External")
LABELS = {"Extract": "relion.extract", "Refine3D": "relion.refine3d", "External": "relion.external"}


def tree(root: Path, name: str) -> dict[str, str]:
    """Every file of a job directory with its text (`default_pipeline.star` copies included)."""
    found = {}
    for directory, _, files in os.walk(root / name):
        for file in files:
            path = Path(directory) / file
            found[str(path.relative_to(root / name))] = path.read_text()
    return found


class TrashMachine(RuleBasedStateMachine):
    """Five jobs that use each other's outputs; the model is the first state, and who is deleted."""

    @initialize(uses=st.lists(st.tuples(st.integers(1, JOBS), st.integers(1, JOBS)), min_size=4, max_size=12))
    def build(self, uses: list[tuple[int, int]]) -> None:
        self.root = Path(tempfile.mkdtemp())
        graph = Graph(job_counter=JOBS + 1)
        self.names = [f"{KINDS[i % 3]}/job{i:03d}/" for i in range(1, JOBS + 1)]
        graph.add_node(Node("ref.mrc", "DensityMap.mrc"))
        for i, name in enumerate(self.names):
            graph.add_process(Process(name, "", LABELS[name.split("/")[0]], Status.SUCCEEDED))
            for file in ("a.star", "run_it002_data.star"):
                graph.add_node(Node(name + file, f"Type{i}.star"))
                graph.add_output(name, name + file)
            graph.add_input("ref.mrc", name)
            directory = self.root / name
            (directory / "sub").mkdir(parents=True)
            for file in (
                "a.star",
                "run_it001_data.star",
                "run_it002_data.star",
                "sub/x_extract.star",
                "note.txt",
            ):
                (directory / file).write_text(f"{name}{file}")
        for user, maker in uses:
            if maker < user:
                graph.add_input(self.names[maker - 1] + "a.star", self.names[user - 1])
        pipeline_file.write(self.root / "default_pipeline.star", graph)
        self.project = Project.open(self.root)
        self.whole = pipeline_file.parse(pipeline_file.dumps(graph))
        self.deleted: set[str] = set()
        self.alias = dict.fromkeys(self.names, "")
        self.files = {name: tree(self.root, name) for name in self.names}

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    def alive(self) -> list[str]:
        return [name for name in self.names if name not in self.deleted]

    @rule(index=st.integers(0, JOBS - 1), dependants=st.booleans())
    def delete(self, index: int, dependants: bool) -> None:
        name = self.names[index]
        if name in self.deleted:
            with pytest.raises(PipelineError):
                self.project.delete(name)
        else:
            self.deleted.update(self.project.delete(name, dependants))

    @precondition(lambda self: self.deleted)
    @rule(data=st.data())
    def undelete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.deleted)))
        taken = {self.alias[other] for other in self.alive()}
        self.project.undelete(name)
        self.deleted.remove(name)
        if self.alias[name] in taken:
            self.alias[name] = ""

    @precondition(lambda self: len(self.deleted) > 1)
    @rule(data=st.data())
    def undelete_all(self, data: st.DataObject) -> None:
        for name in data.draw(st.permutations(sorted(self.deleted))):
            taken = {self.alias[other] for other in self.alive()}
            self.project.undelete(name)
            self.deleted.remove(name)
            if self.alias[name] in taken:
                self.alias[name] = ""

    @rule(index=st.integers(0, JOBS - 1), alias=st.sampled_from(["best", "other one", ""]))
    def set_alias(self, index: int, alias: str) -> None:
        name = self.names[index]
        full = f"{name.split('/')[0]}/{alias.replace(' ', '_')}/" if alias else ""
        others = {self.alias[other] for other in self.alive() if other != name}
        if name in self.deleted or (full and full in others):
            with pytest.raises(PipelineError):
                self.project.set_alias(name, alias)
        else:
            self.project.set_alias(name, alias)
            self.alias[name] = full

    @rule(index=st.integers(0, JOBS - 1), harsh=st.booleans())
    def clean(self, index: int, harsh: bool) -> None:
        name = self.names[index]
        if name in self.deleted or not known_type(name):
            return
        moved = self.project.clean(name, harsh)
        for path in moved:
            inside = path[len(name) :]
            self.files[name] = {
                f: t
                for f, t in self.files[name].items()
                if not (f == inside or (inside[-1] == "/" and f.startswith(inside)))
            }

    @rule()
    def open_again(self) -> None:
        self.project = Project.open(self.root)

    @invariant()
    def everything_is_where_it_belongs(self) -> None:
        if not hasattr(self, "project"):
            return
        graph = Project.open(self.root).graph
        alive = set(self.alive())
        assert set(graph.processes) == alive
        assert {name: p.alias for name, p in graph.processes.items()} == {n: self.alias[n] for n in alive}
        makers = {path: name for name, path in self.whole.outputs}
        present = {path for path in self.whole.nodes if makers.get(path, "") in alive or path not in makers}
        assert set(graph.nodes) == present
        assert all(graph.nodes[path] == self.whole.nodes[path] for path in present)
        assert set(graph.outputs) == {(p, n) for p, n in self.whole.outputs if p in alive}
        assert set(graph.inputs) == {(n, p) for n, p in self.whole.inputs if p in alive and n in present}
        for name in self.names:
            assert (self.root / name).is_dir() == (name in alive)
            if name in alive:
                assert tree(self.root, name) == self.files[name]
        links = {
            str(p.relative_to(self.root)) + "/"
            for kind in KINDS
            if (self.root / kind).is_dir()
            for p in (self.root / kind).iterdir()
            if p.is_symlink()
        }
        assert links == {self.alias[name] for name in alive} - {""}


def known_type(name: str) -> bool:
    """True if this release has the job type, and so its cleaning rules."""
    from relion_py.jobs import registry

    try:
        registry.by_label(LABELS[name.split("/")[0]])
    except registry.JobTypeError:
        return False
    return True


_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much]}
TestTrash = TrashMachine.TestCase
TestTrash.settings = settings(max_examples=25, stateful_step_count=20, **_COMMON)
TestTrash = pytest.mark.req("J4")(pytest.mark.req("G4")(pytest.mark.req("J5")(TestTrash)))


@pytest.mark.slow
class TestTrashLong(TrashMachine.TestCase):
    """The same for longer."""

    settings = settings(max_examples=400, stateful_step_count=40, **_COMMON)
