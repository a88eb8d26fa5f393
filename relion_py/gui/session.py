"""The project behind the window: every call to it runs in one worker thread, so that the window never waits.

`ProjectSession` owns the Project. The window gives it functions of the project to call and gets their results
back in its own thread; what the window shows is read from an unchanging copy of the graph that comes with the
`changed` signal.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import shiboken6
from PySide6.QtCore import QFileSystemWatcher, QObject, Qt, QTimer, Signal

from relion_py.gui.progress import job_progress
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Graph, Node, Process, Status
from relion_py.pipeline.project import Project

LOOK_EVERY_MS = 2000  # how often the project is looked at when the file watcher says nothing
SETTLE_MS = 120  # a burst of file events is answered once, this long after its beginning


@dataclass(frozen=True)
class Snapshot:
    """What the project holds at one moment; never changed after it was made.

    `progress` maps the names of running jobs to a short text such as "iteration 7, 8.4 A".
    """

    graph: Graph = field(default_factory=Graph)
    progress: dict[str, str] = field(default_factory=dict)


class ProjectView:
    """What viewers may ask a project, answered from the session's present snapshot in the window's thread."""

    def __init__(self, session: ProjectSession) -> None:
        self._session = session
        self.root = session.root

    def process(self, job_name: str) -> Process:
        """A job by its name or alias. Raises PipelineError if there is none."""
        found = self._session.snapshot.graph.find(job_name)
        if found is None:
            raise PipelineError(f"There is no job {job_name!r} in the project any more.")
        return found

    def outputs(self, job_name: str) -> list[Node]:
        """The nodes that a job makes."""
        return self._session.snapshot.graph.outputs_of(self.process(job_name).name)

    def inputs(self, job_name: str) -> list[Node]:
        """The nodes that a job uses."""
        return self._session.snapshot.graph.inputs_of(self.process(job_name).name)


class ProjectSession(QObject):
    """Runs calls to a Project in one thread and tells the window what came of them."""

    changed = Signal(object)  # Snapshot
    problem = Signal(str)  # one sentence for the user
    crashed = Signal(str)  # traceback of a mistake of ours
    _answered = Signal(object, object)  # callback, result: brings results into the window's thread

    def __init__(self, project: Project, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.project = project
        self.root = project.root
        self._latest = project.graph.copy()  # the worker's; the newest copy that was made
        self.snapshot = Snapshot(self._latest)
        self._tasks: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # numbers in _waiting
        self._waiting: dict[int, Callable[[], None]] = {}
        self._count = 0
        self._refresh_waiting = False
        self._last_trouble = ""
        self._closed = False
        self._answered.connect(self._deliver, Qt.ConnectionType.QueuedConnection)
        self._thread = threading.Thread(target=self._work, name="project", daemon=True)
        self._thread.start()
        self._watcher = QFileSystemWatcher(self)
        self._watcher.addPath(str(self.root))
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self.refresh)
        self._watcher.directoryChanged.connect(self._something_happened)
        self._watcher.fileChanged.connect(self._something_happened)
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_EVERY_MS)
        self._timer.timeout.connect(self.refresh)
        self._timer.start()
        self.changed.connect(self._watch_running_jobs)
        self._watch_running_jobs(self.snapshot)

    # ---- calls -----------------------------------------------------------------------------------------

    def call(
        self,
        function: Callable[[Project], Any],
        done: Callable[[Any], None] | None = None,
        failed: Callable[[str], None] | None = None,
        changes: bool = False,
    ) -> None:
        """Run `function(project)` in the worker thread.

        `done(result)` or `failed(sentence)` is called later in the window's thread; without `failed` the
        sentence goes out as the signal `problem`. With `changes` the lists are brought up to date before
        `done` is called.
        """

        def task() -> None:
            try:
                result = function(self.project)
                if changes:
                    self._answered.emit(self._accept, self._look())
            except (PipelineError, OSError) as error:
                self._answered.emit(failed or self.problem.emit, _sentence(error))
            except Exception:
                self._answered.emit(self._report_crash, (traceback.format_exc(), failed))
            else:
                if done is not None:
                    self._answered.emit(done, result)

        self._ask(task)

    def refresh(self) -> None:
        """Look whether files changed or jobs ended; asks are never piled up."""
        if self._refresh_waiting or self._closed:
            return
        self._refresh_waiting = True

        def task() -> None:
            snapshot: Snapshot | None = None
            try:
                changed = self.project.refresh()
                if changed or any(p.status == Status.RUNNING for p in self.project.graph.processes.values()):
                    snapshot = self._look(full=changed)
                self._last_trouble = ""
            except (PipelineError, OSError) as error:
                self._tell_once(_sentence(error), self.problem.emit)
            except Exception:
                trace = traceback.format_exc()
                self._tell_once(trace, lambda text: self._report_crash((text, None)))
            finally:
                self._answered.emit(self._refreshed, snapshot)

        self._ask(task)

    def _tell_once(self, trouble: str, tell: Callable[[str], None]) -> None:
        """What goes wrong at every look is told when it is new, not every two seconds."""
        if trouble != self._last_trouble:
            self._last_trouble = trouble
            self._answered.emit(tell, trouble)

    def _ask(self, task: Callable[[], None]) -> None:
        """Queue a task. The window's thread keeps it and lets it go, for a task may hold the last reference to
        a widget, and a widget that is destroyed in another thread takes the process along."""
        self._count += 1
        self._waiting[self._count] = task
        self._tasks.put(self._count)

    def _forget(self, number: int) -> None:
        self._waiting.pop(number, None)

    def wait_idle(self, timeout: float = 10.0) -> bool:
        """Wait until everything asked for so far has been done; False if it takes longer than `timeout` s."""
        done = threading.Event()
        self._ask(done.set)
        return done.wait(timeout)

    def close(self) -> None:
        """Stop looking at the project; calls that were made are still finished."""
        if self._closed:
            return
        self._closed = True
        self._timer.stop()
        self._settle.stop()
        self._tasks.put(None)
        self._thread.join(timeout=10.0)
        self._watcher.removePaths(self._watcher.directories())
        shiboken6.delete(self._watcher)  # here and now, in the thread that it was made in

    # ---- in the worker thread --------------------------------------------------------------------------

    def _work(self) -> None:
        while (number := self._tasks.get()) is not None:
            self._waiting[number]()
            self._answered.emit(self._forget, number)
            time.sleep(0)  # let the window's thread have its turn

    def _look(self, full: bool = True) -> Snapshot:
        if full:  # else only progress is looked at; the window may not have got the last copy yet
            self._latest = self.project.graph.copy()
        graph = self._latest
        progress = {
            p.name: text
            for p in graph.processes.values()
            if p.status == Status.RUNNING and (text := job_progress(self.root / p.name))
        }
        return Snapshot(graph, progress)

    # ---- in the window's thread ------------------------------------------------------------------------

    def _deliver(self, callback: Callable[[Any], None], result: Any) -> None:
        if not self._closed or callback == self._forget:
            callback(result)

    def _accept(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.changed.emit(snapshot)

    def _refreshed(self, snapshot: Snapshot | None) -> None:
        self._refresh_waiting = False
        if snapshot is not None and snapshot != self.snapshot:
            self._accept(snapshot)

    def _report_crash(self, what: tuple[str, Callable[[str], None] | None]) -> None:
        text, failed = what
        print(text, file=sys.stderr)
        self.crashed.emit(text)
        if failed is not None:
            failed("The program made a mistake; the traceback is in the terminal.")

    def _something_happened(self, _path: str) -> None:
        if not self._settle.isActive():
            self._settle.start()

    def _watch_running_jobs(self, snapshot: Snapshot) -> None:
        """Watch the directories of running jobs, where control files tell that they ended."""
        wanted = {
            str(self.root / p.name.rstrip("/")) for p in snapshot.graph.processes.values() if p.status == Status.RUNNING
        }
        wanted |= {str(self.root)}
        watched = set(self._watcher.directories())
        if gone := watched - wanted:
            self._watcher.removePaths(list(gone))
        if new := wanted - watched:
            self._watcher.addPaths(list(new))


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}."
    return str(error)
