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

from relion_py.jobs import registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import DiskFiles
from relion_py.jobs.spec import BuiltJob, JobSpec, Problem
from relion_py.pipeline import (
    cleaning,
    control,
    jobstar,
    launch,
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
from relion_py.pipeline.lock import LOCK_DIRECTORY, ProjectLock
from relion_py.pipeline.paths import clean_alias, job_directory
from relion_py.pipeline.pipeline_file import PIPELINE_FILE, FileStamp

PROJECT_MARK = ".gui_projectdir"
HAS_CHANGED = ".pipeline_has_changed"


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
    def open(cls, root: str | os.PathLike[str] = ".", read_only: bool = False, _patience: int = 10) -> Project:
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
            if (path / LOCK_DIRECTORY).exists() and _patience > 0:
                # RELION writes in place, with its lock held: a moment later the file may be whole.
                time.sleep(0.2)
                return cls.open(path, read_only, _patience - 1)
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
        with self.change("jobs have ended") as graph:
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
        name = self.process(job_name).name if job_name else launch.next_name(self.root, self.graph, spec)
        continuing = bool(job_name) if is_continue is None else is_continue
        return spec.build(values, name, continuing, self._env, DiskFiles(self.root))

    def problems(self, type_label: str, values: Mapping[str, str], is_continue: bool = False) -> tuple[Problem, ...]:
        """Everything that is wrong with the values, each at its option, files on disc included."""
        return self.spec(type_label).validate(values, self.root, is_continue)

    # ---- running -------------------------------------------------------------------------------------

    def run(self, type_label: str, values: Mapping[str, str], alias: str = "") -> str:
        """Start a new job; returns its name.

        Raises PipelineError, before anything is made, if the job cannot be built from these values.
        """
        return self._launch_new(type_label, values, Status.RUNNING, alias)

    def schedule(
        self,
        type_label: str,
        values: Mapping[str, str],
        alias: str = "",
        is_continue: bool = False,
        keep_draft: bool = True,
    ) -> str:
        """Keep a new job for later; returns its name. `is_continue`: it shall only do what is not done.
        `keep_draft`: the next job of its type begins with these values."""
        return self._launch_new(type_label, values, Status.SCHEDULED, alias, is_continue, keep_draft)

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
        name = process.name
        with self.changing("overwrite a job") as (graph, after):
            launch.require_rest(self.root, graph, name, "overwritten")
            wanted = self._order(spec, values, name, False)
            # The new directory is made ready beside the old one; they change places after the commit.
            fresh = trash.replacement_directory(self.root, name)
            self._write_files(fresh, graph, wanted, Status.RUNNING)
            trash.remember(self.root, graph, name)
            trash.plan_replacement(self.root, name, self._stamp)
            after.append(lambda: trash.finish_moves(self.root, graph))
            graph.set_process(name, status=Status.RUNNING, type_label=wanted.built.type_label)
            made = {node.path for node in wanted.built.output_nodes}
            for node in graph.outputs_of(name):
                # Files that later jobs use keep their edges: the new run may make them again.
                if node.path not in made and not graph.consumers_of(node.path):
                    graph.remove_node(node.path)
            for node in graph.inputs_of(name):
                graph.remove_input(node.path, name)
            launch.connect(self.root, graph, wanted.built)
        self._start(wanted)
        return name

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
        with self.change(f"mark as {new_status}") as graph:
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
        with self.change("set alias") as graph:
            process = self.process(job_name)
            full = f"{process.directory}/{wanted}/" if wanted else ""
            if full == process.alias:
                return
            directory = job_directory(self.root, process.name)
            launch.require_free_alias(self.root, graph, full, process.name)
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
        with self.changing("delete") as (graph, after):
            first = self.process(job_name).name
            names = [first, *(graph.downstream(first) if with_dependants else ())]
            for name in names:
                launch.require_rest(self.root, graph, name, "deleted")
                trash.trash_directory(self.root, name)
            # Dependants first: each record then holds the job's inputs while these are still in the graph.
            for name in reversed(names):
                trash.remember(self.root, graph, name)
                trash.remove_from_graph(self.root, graph, name)
            trash.plan_moves(self.root, names)
            after.append(lambda: trash.finish_moves(self.root, graph))
        return names

    def deleted_jobs(self) -> list[str]:
        """The jobs in the trash that can be undeleted."""
        return trash.deleted_jobs(self.root)

    def undelete(self, job_name: str) -> str:
        """Bring a job back from the trash, with its place in the graph and its alias; returns its name."""
        name = job_name.strip().rstrip("/") + "/"
        with self.changing("undelete") as (graph, after):
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
            raise PipelineError(f"{process.display_name} has not succeeded; only finished jobs can be cleaned.")
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
    def change(self, message: str) -> Iterator[Graph]:
        """The newest graph, to be changed with the lock held; it is on disc when the block has ended.

        If the block raises, nothing is written and the graph is read anew. `message` says what is done.
        """
        with self.changing(message) as (graph, _):
            yield graph

    @contextmanager
    def changing(self, message: str) -> Iterator[tuple[Graph, list[Callable[[], object]]]]:
        """Like `change`, with a list of what to do when the change is on disc and the lock still held."""
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
                        raise PipelineError("Another program took the project's lock over; nothing was changed.")
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

    def _order(self, spec: JobSpec, values: Mapping[str, str], name: str, is_continue: bool) -> launch.Order:
        return launch.order(self.root, self._env, spec, values, name, is_continue)

    def _write_files(self, directory: Path, graph: Graph, wanted: launch.Order, state: Status) -> None:
        launch.write_files(self.root, directory, graph, wanted, state, self.abort_grace, self.term_grace)

    def _launch_new(
        self,
        type_label: str,
        values: Mapping[str, str],
        state: Status,
        alias: str,
        is_continue: bool = False,
        keep_draft: bool = True,
    ) -> str:
        spec = self.spec(type_label)
        wanted_alias = f"{spec.directory}/{clean_alias(alias)}/" if alias else ""
        with self.change(f"new job {spec.directory}") as graph:
            name = launch.next_name(self.root, graph, spec)
            wanted = self._order(spec, values, name, is_continue)
            launch.require_free_alias(self.root, graph, wanted_alias, name)
            self._write_files(job_directory(self.root, name), graph, wanted, state)
            if wanted_alias:
                trash.make_alias_link(self.root, wanted_alias, name)
            process = Process(name, wanted_alias, wanted.built.type_label, state)
            graph.add_process(process)
            graph.set_job_counter(max(graph.job_counter, process.number) + 1)
            launch.connect(self.root, graph, wanted.built)
        if state == Status.RUNNING:
            self._start(wanted)
        else:
            launch.back_up(self.root, name)
        if keep_draft:
            with suppress(OSError):
                self.save_draft(wanted.built.type_label, wanted.values)
        return name

    def _launch_again(self, name: str, values: Mapping[str, str] | None, is_continue: bool) -> str:
        """Execute a job again in its own directory: a continuation, or a scheduled job."""
        with self.change(f"execute {name}") as graph:
            process = launch.require_rest(self.root, graph, name, "started again")
            chosen = dict(values) if values is not None else self.job_values(name)
            wanted = self._order(self.spec(process.type_label), chosen, name, is_continue)
            directory = job_directory(self.root, name)
            if is_continue and marking.is_refinement(process.type_label):
                marking.drop_missing_outputs(self.root, graph, name)
            control.clear(directory)
            self._write_files(directory, graph, wanted, Status.RUNNING)
            graph.set_process(name, status=Status.RUNNING, type_label=wanted.built.type_label)
            launch.connect(self.root, graph, wanted.built)
        self._start(wanted)
        return name

    def _start(self, wanted: launch.Order) -> None:
        """Start what was written; the job is in the pipeline already."""
        directory = job_directory(self.root, wanted.name)
        notes.append(directory / notes.NOTE, notes.execution_entry(wanted.built.commands))
        launch.back_up(self.root, wanted.name)
        try:
            runner.start(self.root, wanted.built, wanted.values)
        except (PipelineError, OSError) as error:
            control.say(directory, str(error))
            control.tell(directory, Status.FAILED)
            with self.change("job did not start") as graph:
                graph.set_process(wanted.name, status=Status.FAILED)
            raise PipelineError(f"{wanted.name} was made, but could not be started: {error}") from error

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
