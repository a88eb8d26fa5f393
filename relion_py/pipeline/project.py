"""Project: the one door to a project directory, for windows, command lines, scripts and notebooks.

    project = Project.open(".")
    values = project.draft("relion.refine3d")
    values["fn_img"] = "Extract/job009/particles.star"
    job = project.run("relion.refine3d", values)
    project.wait(job)
    print(project.outputs(job))

Looking never writes. Every change is made under the project's lock on the newest version of
`default_pipeline.star`, and is on the disc, whole, when the call returns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from relion_py.compute.io.atomic import atomic_write
from relion_py.jobs import registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import DiskFiles
from relion_py.jobs.spec import BuiltJob, JobSpec, Problem
from relion_py.pipeline import (
    cleaning,
    control,
    jobstar,
    marking,
    node_links,
    notes,
    pipeline_file,
    restore,
    runner,
    scheduler,
    status,
    trash,
)
from relion_py.pipeline.errors import DamagedPipeline, PipelineError
from relion_py.pipeline.graph import FINISHED, Graph, Node, Process, Status
from relion_py.pipeline.jobstar import JobStar
from relion_py.pipeline.lock import ProjectLock
from relion_py.pipeline.paths import clean_alias, job_directory, node_path_problem
from relion_py.pipeline.pipeline_file import PIPELINE_FILE, FileStamp

PROJECT_MARK = ".gui_projectdir"
HAS_CHANGED = ".pipeline_has_changed"
_LARGEST_OUTPUT_TABLE = 64 * 1024 * 1024


class Project:
    """A project directory. Make one with `Project.open` or `Project.create`.

    root: the directory. graph: jobs, nodes and edges as they were when last read (`refresh` reads anew).
    abort_grace and term_grace: how long (s) jobs started from here may take to stop after they were asked to,
    and after SIGTERM, before they are killed.
    """

    def __init__(self, root: Path, graph: Graph, stamp: FileStamp | None, read_only: bool = False) -> None:
        self.root = root
        self.graph = graph
        self.read_only = read_only
        self.abort_grace = 20.0
        self.term_grace = 10.0
        self._stamp = stamp
        self._env = SiteEnvironment.from_environ()

    # ---- opening -------------------------------------------------------------------------------------

    @staticmethod
    def is_project(root: str | os.PathLike[str]) -> bool:
        """True if the directory holds a project of RELION or of this program."""
        return (Path(root) / PIPELINE_FILE).is_file()

    @classmethod
    def open(cls, root: str | os.PathLike[str] = ".", read_only: bool = False) -> Project:
        """Open the project in a directory; nothing is written.

        Raises PipelineError if there is none, and DamagedPipeline, with a plan for `restore`, if its
        pipeline file is damaged.
        """
        path = Path(os.path.abspath(root))
        if not path.is_dir():
            raise PipelineError(f"There is no directory {path}.")
        file = path / PIPELINE_FILE
        stamp = FileStamp.of(file)
        if stamp is None:
            if restore.has_jobs(path):
                raise restore.damaged(path, f"{file} is missing, though there are job directories.")
            raise PipelineError(f"{path} holds no project (no {PIPELINE_FILE}); create one there first.")
        try:
            graph = pipeline_file.read(file)
        except DamagedPipeline as error:
            raise restore.damaged(path, error.reason) from error
        reason = restore.what_is_lost(path, graph)
        if reason:
            raise restore.damaged(path, reason)
        return cls(path, graph, stamp, read_only)

    @classmethod
    def create(cls, root: str | os.PathLike[str]) -> Project:
        """Make a new project in a directory, which is made if missing. PipelineError if one is there."""
        path = Path(os.path.abspath(root))
        try:
            path.mkdir(parents=True, exist_ok=True)
            with ProjectLock(path, "create project"):
                if cls.is_project(path):
                    raise PipelineError(f"{path} holds a project already; open it.")
                (path / PROJECT_MARK).touch()
                pipeline_file.write(path / PIPELINE_FILE, Graph())
                (path / node_links.NODES_DIRECTORY).mkdir(exist_ok=True)
        except OSError as error:
            raise PipelineError(f"No project can be made in {path}: {error.strerror}.") from error
        return cls.open(path)

    @classmethod
    def restore(cls, root: str | os.PathLike[str]) -> Project:
        """Restore a damaged project from its newest good backup and its job directories, and open it.

        The damaged file is kept beside it. Nothing that ran is lost.
        """
        path = Path(os.path.abspath(root))
        with ProjectLock(path, "restore project"):
            restore.restore(path)
        return cls.open(path)

    # ---- looking -------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read the pipeline file if somebody changed it, and settle jobs that have ended.

        Returns True if anything is different from before.
        """
        runner.reap()
        changed = self._load_if_changed()
        ended = self._ended_jobs()
        if not ended or self.read_only:
            return changed
        with self._change("jobs have ended") as graph:
            for name, verdict in ended.items():
                process = graph.processes.get(name)
                if process is not None and process.status == Status.RUNNING:
                    self._settle(graph, process, verdict)
        return True

    def process(self, job_name: str) -> Process:
        """A job by its name or alias. Raises PipelineError if there is none."""
        found = self.graph.find(job_name)
        if found is None:
            raise PipelineError(f"There is no job {job_name!r} in the project {self.root}.")
        return found

    def directory(self, job_name: str) -> Path:
        """The directory of a job."""
        return job_directory(self.root, self.process(job_name).name)

    def spec(self, type_label: str) -> JobSpec:
        """The job type of a label. Raises PipelineError if this program has none of that label."""
        try:
            return registry.by_label(type_label)
        except registry.JobTypeError as error:
            raise PipelineError(f"{error} It can be looked at here, but not run.") from error

    def inputs(self, job_name: str) -> list[Node]:
        """The nodes that a job uses."""
        return self.graph.inputs_of(self.process(job_name).name)

    def outputs(self, job_name: str) -> list[Node]:
        """The nodes that a job makes."""
        return self.graph.outputs_of(self.process(job_name).name)

    def displayable(self, job_name: str) -> list[Node]:
        """Files worth showing: the job's outputs and inputs that exist, and what its type names beyond them.

        For the latter `extra` holds "label" and "viewer" (JobSpec.display), and `type` is empty.
        """
        process = self.process(job_name)
        nodes = [*self.graph.outputs_of(process.name), *self.graph.inputs_of(process.name)]
        shown = {n.path: n for n in nodes if (self.root / n.path).is_file()}
        with suppress(PipelineError):
            directory = job_directory(self.root, process.name)
            for display in self.spec(process.type_label).display:
                for file in sorted(directory.glob(display.pattern)):
                    path = process.name + str(file.relative_to(directory))
                    extra = {"label": display.label, "viewer": display.viewer}
                    shown.setdefault(path, Node(path, "", extra=extra))
        return list(shown.values())

    def nodes_of_type(self, type_prefix: str) -> list[Node]:
        """The nodes that an entry of this type accepts, newest job first."""

        def age(node: Node) -> int:
            maker = self.graph.processes.get(self.graph.producer_of(node.path) or "")
            return -maker.number if maker else 0

        return sorted(self.graph.nodes_of_type(type_prefix), key=age)

    # ---- parameters ----------------------------------------------------------------------------------

    def draft(self, type_label: str) -> dict[str, str]:
        """Values for a new job: those of the last of its type (the hidden .gui_*job.star), else defaults."""
        spec = self.spec(type_label)
        values = spec.defaults(self._env)
        with suppress(PipelineError):
            values.update(jobstar.read(self.root / spec.hidden_file).values)
        return values

    def save_draft(self, type_label: str, values: Mapping[str, str]) -> None:
        """Keep values for the next job of this type."""
        self._require_writable()
        spec = self.spec(type_label)
        jobstar.write(self.root / spec.hidden_file, JobStar(type_label, dict(values)))

    def job_values(self, job_name: str) -> dict[str, str]:
        """The values of a job, completed with defaults for options that its release did not have."""
        process = self.process(job_name)
        saved = jobstar.read(job_directory(self.root, process.name)).values
        try:
            return {**self.spec(process.type_label).defaults(self._env), **saved}
        except PipelineError:
            return dict(saved)

    def commands(
        self,
        type_label: str,
        values: Mapping[str, str],
        job_name: str | None = None,
        is_continue: bool | None = None,
    ) -> BuiltJob:
        """What a job would run, with its nodes and all problems; nothing changes.

        Without a name it is a new job with the next number; with one it is that job's continuation.
        """
        spec = self.spec(type_label)
        name = self.process(job_name).name if job_name else self._next_name(spec, self.graph)
        continuing = bool(job_name) if is_continue is None else is_continue
        return self._build(spec, values, name, continuing)

    def problems(
        self, type_label: str, values: Mapping[str, str], is_continue: bool = False
    ) -> tuple[Problem, ...]:
        """Everything that is wrong with the values, each at its option, files on disc included."""
        return self.spec(type_label).validate(values, self.root, is_continue)

    # ---- running -------------------------------------------------------------------------------------

    def run(self, type_label: str, values: Mapping[str, str], alias: str = "") -> str:
        """Start a new job; returns its name.

        Raises PipelineError, before anything is made, if the job cannot be built from these values.
        """
        return self._launch_new(type_label, values, Status.RUNNING, alias)

    def schedule(
        self, type_label: str, values: Mapping[str, str], alias: str = "", is_continue: bool = False
    ) -> str:
        """Keep a new job for later; returns its name. `is_continue`: it shall only do what is not done."""
        return self._launch_new(type_label, values, Status.SCHEDULED, alias, is_continue)

    def continue_job(self, job_name: str, values: Mapping[str, str] | None = None) -> str:
        """Continue a job in its own directory, or start a scheduled one; returns its name."""
        process = self.process(job_name)
        if process.status == Status.SCHEDULED:
            return self.run_scheduled_job(process.name, values)
        if not self.spec(process.type_label).continuable:
            raise PipelineError(f"{process.display_name} cannot be continued; run a new job of its kind.")
        return self._launch_again(process.name, values, is_continue=True)

    def run_scheduled_job(self, job_name: str, values: Mapping[str, str] | None = None) -> str:
        """Start one scheduled job now, as its job.star says; returns its name."""
        process = self.process(job_name)
        saved = jobstar.read(job_directory(self.root, process.name))
        return self._launch_again(process.name, values or saved.values, saved.is_continue)

    def overwrite(self, job_name: str, values: Mapping[str, str]) -> str:
        """Run a job anew under its old number; the old directory goes to the trash. Returns its name."""
        process = self.process(job_name)
        spec = self.spec(process.type_label)
        with self._changing("overwrite a job") as (graph, after):
            process = self._must_rest(graph, process.name, "overwritten")
            built = self._built_or_refused(spec, values, process.name, False)
            self._replace_directory(graph, process, spec, built, values, after)
            graph.set_process(process.name, status=Status.RUNNING, type_label=built.type_label)
            made = {node.path for node in built.output_nodes}
            for node in graph.outputs_of(process.name):
                if node.path not in made:
                    graph.remove_node(node.path)
            for node in graph.inputs_of(process.name):
                graph.remove_input(node.path, process.name)
            self._connect(graph, built)
        self._start(process.name, built, values)
        return process.name

    def run_scheduled(
        self,
        names: Sequence[str],
        schedule: str = "default",
        repeat: int = 1,
        wait_minutes: float = 0,
        wait_before_minutes: float = 0,
        seconds_after: float = 10,
        background: bool = True,
    ) -> None:
        """Run scheduled jobs in order, once or `repeat` times (scheduler.py).

        In the background a process of its own does it, which goes on when this program ends; `schedule` names
        it, and `stop_scheduled` ends it. Otherwise the call returns when all is done.
        """
        self._require_writable()
        plan = scheduler.Plan(
            schedule,
            tuple(self.process(n).name for n in names),
            repeat,
            wait_minutes,
            wait_before_minutes,
            seconds_after,
        )
        if background:
            scheduler.start_in_background(self.root, plan)
        else:
            scheduler.run(self, plan)

    def schedules(self) -> list[str]:
        """The names of the schedules that are running."""
        return scheduler.running(self.root)

    def stop_scheduled(self, schedule: str) -> None:
        """Let a running schedule stop; the job that is running goes on to its end."""
        scheduler.stop(self.root, schedule)

    def wait(self, job_name: str, timeout: float | None = None, interval: float = 0.2) -> str:
        """Wait until a job has ended; returns its status. Raises TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        name = self.process(job_name).name
        while True:
            self.refresh()
            found = self.process(name).status
            if found != Status.RUNNING:
                return found
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{name} still runs after {timeout:.0f} s.")
            time.sleep(interval)

    def abort(self, job_name: str) -> None:
        """Ask a running job to stop; if it does not, it is ended by force (supervise.py, status.py)."""
        self._require_writable()
        process = self.process(job_name)
        if process.status != Status.RUNNING:
            raise PipelineError(f"{process.display_name} is not running, so there is nothing to abort.")
        directory = job_directory(self.root, process.name)
        if not directory.is_dir():
            raise PipelineError(f"{process.name} has no directory any more; mark it as failed instead.")
        (directory / control.ABORT_NOW).touch()

    def mark(self, job_name: str, new_status: str) -> None:
        """Say that a job has succeeded, failed or was aborted, when the program cannot know."""
        if new_status not in FINISHED:
            raise PipelineError(f"A job can be marked as {', '.join(sorted(FINISHED))}, not as {new_status}.")
        with self._change(f"mark as {new_status}") as graph:
            process = self.process(job_name)
            marking.mark(self.root, graph, process, Status(new_status))
            if new_status == Status.SUCCEEDED:
                self._add_listed_outputs(graph, process.name)
                marking.drop_missing_outputs(self.root, graph, process.name)
            node_links.touch_outputs(self.root, graph, process.name)

    # ---- names and notes -----------------------------------------------------------------------------

    def set_alias(self, job_name: str, alias: str) -> None:
        """Give a job an alias (a link beside its directory), another one, or with "" none."""
        wanted = clean_alias(alias) if alias.strip() not in ("", "None") else ""
        with self._change("set alias") as graph:
            process = self.process(job_name)
            full = f"{process.directory}/{wanted}/" if wanted else ""
            if full == process.alias:
                return
            directory = job_directory(self.root, process.name)
            self._require_free_alias(graph, full, process.name)
            node_links.remove_outputs(self.root, graph, process.name)
            if full and directory.is_dir():
                trash.make_alias_link(self.root, full, process.name)
            trash.remove_alias_link(self.root, process.alias, process.name)
            graph.set_process(process.name, alias=full)
            node_links.touch_outputs(self.root, graph, process.name)

    def note(self, job_name: str = "") -> str:
        """The note of a job; of the project without a name."""
        return notes.read(self._note_path(job_name))

    def write_note(self, job_name: str, text: str) -> None:
        """Replace the note of a job; of the project if the name is ""."""
        self._require_writable()
        notes.write(self._note_path(job_name), text)

    def _note_path(self, job_name: str) -> Path:
        return self.directory(job_name) / notes.NOTE if job_name else self.root / notes.PROJECT_NOTE

    def log_paths(self, job_name: str) -> tuple[Path, Path]:
        """Where a job writes: (run.out, run.err)."""
        directory = self.directory(job_name)
        return directory / control.RUN_OUT, directory / control.RUN_ERR

    # ---- deleting and cleaning -----------------------------------------------------------------------

    def delete(self, job_name: str, with_dependants: bool = False) -> list[str]:
        """Move a job (and, if asked, all that depends on it) to the trash; returns the names."""
        with self._changing("delete") as (graph, after):
            first = self.process(job_name).name
            names = [first, *(graph.downstream(first) if with_dependants else ())]
            for name in names:
                self._must_rest(graph, name, "deleted")
                trash.trash_directory(self.root, name)
            # Dependants first: each record then holds the job's inputs while these are still in the graph.
            for name in reversed(names):
                trash.remember(self.root, graph, name)
                trash.remove_from_graph(self.root, graph, name)
            trash.plan_moves(self.root, names)
            after.append(lambda: trash.finish_moves(self.root, graph))
        return names

    def deletable(self, job_name: str, with_dependants: bool = False) -> list[str]:
        """What `delete` would move to the trash."""
        name = self.process(job_name).name
        return [name, *(self.graph.downstream(name) if with_dependants else ())]

    def deleted_jobs(self) -> list[str]:
        """The jobs in the trash that can be undeleted."""
        return trash.deleted_jobs(self.root)

    def undelete(self, job_name: str) -> str:
        """Bring a job back from the trash, with its place in the graph and its alias; returns its name."""
        name = job_name.strip().rstrip("/") + "/"
        with self._changing("undelete") as (graph, after):
            place = job_directory(self.root, name)
            if name in graph.processes:
                raise PipelineError(f"{name} is in the project already, so the one in the Trash stays there.")
            if os.path.lexists(place):
                raise PipelineError(f"{place} is in the way; move it elsewhere, then undelete {name}.")
            record = trash.read_record(self.root, name)
            trash.plan_moves(self.root, [name])
            trash.move(trash.trash_directory(self.root, name), place)
            trash.restore(self.root, graph, name, record)
            after.append(lambda: trash.finish_moves(self.root, graph))
        return name

    def empty_trash(self) -> int:
        """Delete everything in the trash for good; returns the number of bytes that gave back."""
        self._require_writable()
        with ProjectLock(self.root, "empty trash"):
            return trash.empty(self.root)

    def clean(self, job_name: str, harsh: bool = False, dry_run: bool = False) -> list[str]:
        """Move what cleaning a job may take to the trash; returns those paths. `dry_run`: moves nothing."""
        process = self.process(job_name)
        if process.status != Status.SUCCEEDED:
            raise PipelineError(
                f"{process.display_name} has not succeeded; only finished jobs can be cleaned."
            )
        directory = job_directory(self.root, process.name)
        if harsh and (directory / cleaning.NO_HARSH_CLEAN).exists():
            raise PipelineError(f"{process.display_name} is protected by its file {cleaning.NO_HARSH_CLEAN}.")
        spec = self.spec(process.type_label)
        if dry_run:
            return cleaning.files_to_move(self.root, self.graph, process.name, spec, harsh)
        self._require_writable()
        with ProjectLock(self.root, "clean"):
            self._load_if_changed()
            paths = cleaning.files_to_move(self.root, self.graph, process.name, spec, harsh)
            for path in paths:
                trash.keep_cleaned(self.root, process.name, path)
        return paths

    def clean_all(self, harsh: bool = False, dry_run: bool = False) -> list[str]:
        """Clean every finished job that may be cleaned so; returns the paths."""
        paths: list[str] = []
        for process in list(self.graph.processes.values()):
            if process.status == Status.SUCCEEDED:
                with suppress(PipelineError):
                    paths += self.clean(process.name, harsh, dry_run)
        return paths

    def remake_node_directory(self) -> None:
        """Make the directory .Nodes anew, from which RELION's file choosers list."""
        self._require_writable()
        with ProjectLock(self.root, "remake .Nodes"):
            self._load_if_changed()
            node_links.remake(self.root, self.graph)

    # ---- how changes are made ------------------------------------------------------------------------

    def _require_writable(self) -> None:
        if self.read_only:
            raise PipelineError(f"The project {self.root} was opened to read only.")

    def _load_if_changed(self) -> bool:
        stamp = FileStamp.of(self.root / PIPELINE_FILE)
        if stamp is not None and stamp == self._stamp:
            return False
        self._load(stamp)
        return True

    def _load(self, stamp: FileStamp | None) -> None:
        file = self.root / PIPELINE_FILE
        for attempt in range(4):
            try:
                self.graph = pipeline_file.read(file)
                self._stamp = stamp
                return
            except DamagedPipeline as error:
                # RELION writes in place: a moment later the file may be whole.
                if attempt == 3:
                    raise restore.damaged(self.root, error.reason) from error
                time.sleep(0.2)
                stamp = FileStamp.of(file)

    @contextmanager
    def _change(self, message: str) -> Iterator[Graph]:
        with self._changing(message) as (graph, _):
            yield graph

    @contextmanager
    def _changing(self, message: str) -> Iterator[tuple[Graph, list[Callable[[], object]]]]:
        """The newest graph to change, and a list of what to do when the change is on disc (lock still held).

        If the block raises, nothing is written and the graph is read anew.
        """
        self._require_writable()
        with ProjectLock(self.root, message) as lock:
            self._load_if_changed()
            graph = self.graph
            trash.finish_moves(self.root, graph)
            before = graph.revision
            after: list[Callable[[], object]] = []
            try:
                yield graph, after
                if graph.revision != before:
                    if not lock.is_mine():
                        raise PipelineError(
                            "Another program took the project's lock over; nothing was changed."
                        )
                    self._save(graph)
            except BaseException:
                if graph.revision != before:
                    self._load(FileStamp.of(self.root / PIPELINE_FILE))
                raise
            for step in after:
                step()

    def _save(self, graph: Graph) -> None:
        file = self.root / PIPELINE_FILE
        restore.keep_old_release(file)
        self._stamp = pipeline_file.write(file, graph)
        with suppress(OSError):
            (self.root / HAS_CHANGED).touch()

    # ---- how jobs are made and started ---------------------------------------------------------------

    def _next_name(self, spec: JobSpec, graph: Graph) -> str:
        """The name of a new job: the next number that has no directory with anything of worth in it."""
        number = max(graph.job_counter, 1)
        taken = {process.number for process in graph.processes.values()}
        while number in taken or not self._is_free(f"{spec.directory}/job{number:03d}/"):
            number += 1
        return f"{spec.directory}/job{number:03d}/"

    def _is_free(self, name: str) -> bool:
        """True if there is no such directory, or one that a crash left before its job was in the pipeline."""
        try:
            entries = set(os.listdir(self.root / name))
        except OSError:
            return not os.path.lexists(self.root / name.rstrip("/"))
        return entries <= {
            jobstar.JOB_STAR,
            "job_pipeline.star",
            control.PROCESS_RECORD,
            control.RUN_PLAN,
            "run.out",
            "run.err",
        }

    def _build(self, spec: JobSpec, values: Mapping[str, str], name: str, is_continue: bool) -> BuiltJob:
        return spec.build(values, name, is_continue, self._env, DiskFiles(self.root))

    def _built_or_refused(
        self, spec: JobSpec, values: Mapping[str, str], name: str, is_continue: bool
    ) -> BuiltJob:
        built = self._build(spec, values, name, is_continue)
        if built.refusal:
            raise PipelineError(built.refusal)
        if not built.commands:
            raise PipelineError("There is nothing to do for this job with these values.")
        for command in built.commands:
            if any("\0" in word for word in command):
                raise PipelineError(
                    f"A value of the command {command[0]} contains a NUL character; take it out."
                )
        for node in built.output_nodes:
            problem = node_path_problem(node.path)
            if problem:
                raise PipelineError(f"The job cannot write its output: {problem}")
        return built

    def _launch_new(
        self, type_label: str, values: Mapping[str, str], state: Status, alias: str, is_continue: bool = False
    ) -> str:
        spec = self.spec(type_label)
        wanted = clean_alias(alias) if alias else ""
        with self._change(f"new job {spec.directory}") as graph:
            name = self._next_name(spec, graph)
            built = self._built_or_refused(spec, values, name, is_continue)
            full = f"{spec.directory}/{wanted}/" if wanted else ""
            self._require_free_alias(graph, full, name)
            directory = job_directory(self.root, name)
            self._write_job(directory, spec, built, values, state, is_continue)
            if full:
                trash.make_alias_link(self.root, full, name)
            graph.add_process(Process(name, full, built.type_label, state))
            graph.set_job_counter(max(graph.job_counter, _number(name)) + 1)
            self._connect(graph, built)
        self._start_or_keep(name, built, values, state)
        with suppress(OSError):
            self.save_draft(built.type_label, self._complete(spec, values))
        return name

    def _launch_again(self, name: str, values: Mapping[str, str] | None, is_continue: bool) -> str:
        """Execute a job again in its own directory: a continuation, or a scheduled job."""
        with self._change(f"execute {name}") as graph:
            process = self._must_rest(graph, name, "started again")
            spec = self.spec(process.type_label)
            chosen = dict(values) if values is not None else self.job_values(name)
            built = self._built_or_refused(spec, chosen, name, is_continue)
            directory = job_directory(self.root, name)
            if is_continue and marking.is_refinement(process.type_label):
                marking.drop_missing_outputs(self.root, graph, name)
            control.clear(directory)
            self._write_job(directory, spec, built, chosen, Status.RUNNING, is_continue)
            graph.set_process(name, status=Status.RUNNING, type_label=built.type_label)
            self._connect(graph, built)
        self._start(name, built, chosen)
        return name

    def _complete(self, spec: JobSpec, values: Mapping[str, str]) -> dict[str, str]:
        return {**spec.defaults(self._env), **values}

    def _write_job(
        self,
        directory: Path,
        spec: JobSpec,
        built: BuiltJob,
        values: Mapping[str, str],
        state: Status,
        is_continue: bool,
    ) -> None:
        """Everything that a job directory holds before its first command runs."""
        complete = self._complete(spec, values)
        text = jobstar.dumps(JobStar(built.type_label, complete, is_continue))
        mini = Graph()
        mini.add_process(Process(built.job_name, "", built.type_label, state))
        mini.set_job_counter(2)
        for node in built.input_nodes:
            mini.add_node(Node(self.graph.resolve_alias(node.path), node.type))
            mini.add_input(self.graph.resolve_alias(node.path), built.job_name)
        for node in built.output_nodes:
            mini.add_node(Node(node.path, node.type))
            mini.add_output(built.job_name, node.path)
        mini_text = pipeline_file.dumps(mini)
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write(directory / jobstar.JOB_STAR, text.encode("utf-8", "surrogateescape"))
        atomic_write(directory / "job_pipeline.star", mini_text.encode("utf-8", "surrogateescape"))
        if state == Status.RUNNING:
            runner.prepare(self.root, directory, built, complete, self.abort_grace, self.term_grace)

    def _connect(self, graph: Graph, built: BuiltJob) -> None:
        for node in built.input_nodes:
            if node.path:
                graph.connect_input(Node(node.path, node.type), built.job_name)
        for node in built.output_nodes:
            graph.add_node(Node(node.path, node.type))
            graph.add_output(built.job_name, node.path)
        node_links.touch_outputs(self.root, graph, built.job_name)

    def _start_or_keep(self, name: str, built: BuiltJob, values: Mapping[str, str], state: Status) -> None:
        if state == Status.RUNNING:
            self._start(name, built, values)
        else:
            self._back_up(name)

    def _start(self, name: str, built: BuiltJob, values: Mapping[str, str]) -> None:
        """Start what was written; the job is in the pipeline already."""
        directory = job_directory(self.root, name)
        notes.append(directory / notes.NOTE, notes.execution_entry(built.commands))
        self._back_up(name)
        try:
            runner.start(self.root, built, self._complete(self.spec(built.type_label), values))
        except (PipelineError, OSError) as error:
            control.say(directory, str(error))
            control.tell(directory, Status.FAILED)
            with self._change("job did not start") as graph:
                graph.set_process(name, status=Status.FAILED)
            raise PipelineError(f"{name} was made, but could not be started: {error}") from error

    def _back_up(self, name: str) -> None:
        """A copy of the pipeline file in the job's directory: from these a damaged one is restored."""
        with suppress(OSError):
            data = (self.root / PIPELINE_FILE).read_bytes()
            atomic_write(job_directory(self.root, name) / PIPELINE_FILE, data)

    def _replace_directory(
        self,
        graph: Graph,
        process: Process,
        spec: JobSpec,
        built: BuiltJob,
        values: Mapping[str, str],
        after: list[Callable[[], object]],
    ) -> None:
        """Make the new directory of an overwritten job beside the old; they swap after the commit."""
        fresh = trash.replacement_directory(self.root, process.name)
        self._write_job(fresh, spec, built, values, Status.RUNNING, False)
        trash.remember(self.root, graph, process.name)
        trash.plan_replacement(self.root, process.name, self._stamp)
        after.append(lambda: trash.finish_moves(self.root, graph))

    def _must_rest(self, graph: Graph, name: str, what: str) -> Process:
        process = graph.processes.get(name)
        if process is None:
            raise PipelineError(f"{name} is not in the project any more.")
        if process.status == Status.RUNNING:
            raise PipelineError(f"{process.display_name} is running, so it cannot be {what}; abort it first.")
        if status.still_ending(job_directory(self.root, name)):
            raise PipelineError(
                f"The processes of {process.display_name} are still ending, so it cannot be {what} yet; "
                "try again soon."
            )
        return process

    def _require_free_alias(self, graph: Graph, full: str, name: str) -> None:
        if not full:
            return
        if any(p.alias == full and p.name != name for p in graph.processes.values()):
            raise PipelineError(f"Another job has the alias {full.rstrip('/')} already; choose another.")
        link = self.root / full.rstrip("/")
        if os.path.lexists(link) and not link.is_symlink():
            raise PipelineError(
                f"There is a file or directory called {full.rstrip('/')} already; choose another alias."
            )

    # ---- how jobs end --------------------------------------------------------------------------------

    def _ended_jobs(self) -> dict[str, status.Verdict]:
        ended = {}
        for process in self.graph.processes.values():
            if process.status == Status.RUNNING:
                with suppress(PipelineError):
                    verdict = status.verdict(job_directory(self.root, process.name))
                    if verdict is not None:
                        ended[process.name] = verdict
        return ended

    def _settle(self, graph: Graph, process: Process, verdict: status.Verdict) -> None:
        directory = job_directory(self.root, process.name)
        status.settle(directory, verdict)
        graph.set_process(process.name, status=verdict.status)
        if verdict.status == Status.SUCCEEDED:
            self._add_listed_outputs(graph, process.name)
        node_links.touch_outputs(self.root, graph, process.name)

    def _add_listed_outputs(self, graph: Graph, name: str) -> None:
        """Add the nodes that a job lists in RELION_OUTPUT_NODES.star; what leaves the project is refused."""
        listed, complaints = marking.listed_outputs(self.root, name)
        for node in listed:
            if graph.producer_of(node.path) is None:
                graph.add_node(replace(node, path=graph.resolve_alias(node.path)))
                graph.add_output(name, graph.resolve_alias(node.path))
        for sentence in complaints:
            control.say(job_directory(self.root, name), sentence)


def _number(name: str) -> int:
    return Process(name).number
