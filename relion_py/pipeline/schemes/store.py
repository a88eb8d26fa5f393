"""A scheme's directory `Schemes/NAME`: its files, who may change them, and who runs it.

RELION holds the directory `.relion_lock_scheme_NAME` (with the file `lock_scheme`) in the project while a scheme
runs or is edited. Here it also holds `owner`, so that the lock of a runner that died is recognised. Each single
change of scheme.star is made under `flock` on `Schemes/NAME/.guard`: that way variables can be edited while this
program runs the scheme, and no change is lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from relion_py.compute.io.atomic import atomic_write
from relion_py.pipeline import control
from relion_py.pipeline.errors import LockedProject, PipelineError
from relion_py.pipeline.lock import Owner, this_process
from relion_py.pipeline.schemes import scheme_file
from relion_py.pipeline.schemes.model import Scheme

SCHEMES = "Schemes"
STOP = ".stop"
RUN_OUT, RUN_ERR = "run.out", "run.err"
_VISIT, _GUARD, _GATE = ".visit.json", ".guard", ".gate.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_FOREIGN_PATIENCE = 20.0
_EMPTY_PATIENCE = 2.0
_POLL = 0.1


@dataclass(frozen=True)
class Visit:
    """The job that the runner started for the current node: what a restarted runner must know.

    success: time of the success file (ns) before this visit, 0 if there was none; a job that is continued has
    only succeeded in this visit if that file is a newer one.
    """

    node: str
    job: str
    success: int = 0


@dataclass(frozen=True)
class Gate:
    """A gate that waits for a person: its node, its question, and the answer, None as long as there is none."""

    node: str
    question: str
    answer: bool | None = None


def clean_name(name: str) -> str:
    """A scheme's name from what people give: "prep", "Schemes/prep/". PipelineError if it cannot be one."""
    short = name.strip().rstrip("/").removeprefix(SCHEMES + "/")
    if not _NAME.fullmatch(short):
        raise PipelineError(f"{name!r} cannot name a scheme; use letters, digits, '_', '-', '+' and '.'.")
    return short


def names(root: Path) -> list[str]:
    """The names of the schemes in a project."""
    return sorted(file.parent.name for file in (root / SCHEMES).glob(f"*/{scheme_file.SCHEME_STAR}"))


class SchemeStore:
    """One scheme of the project in `root`."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = clean_name(name)
        self.directory = root / SCHEMES / self.name
        self.file = self.directory / scheme_file.SCHEME_STAR
        self._lock_directory = root / f".relion_lock_scheme_{self.name}"

    def exists(self) -> bool:
        """True if there is a scheme.star."""
        return self.file.is_file()

    def read(self) -> Scheme:
        """The scheme as it is on disc now."""
        if not self.exists():
            raise PipelineError(f"The project {self.root} has no scheme called {self.name} (no {self.file}).")
        return scheme_file.read(self.file)

    def job_directory(self, node: str) -> Path:
        """Where the job.star of a job node lies."""
        if not _NAME.fullmatch(node.replace("=", "_")):
            raise PipelineError(f"{node!r} cannot name a directory of the scheme {self.name}; rename the node.")
        return self.directory / node

    @contextmanager
    def change(self, create: bool = False) -> Iterator[Scheme]:
        """The scheme, to be changed; it is on disc when the block ends, unless it raised. `create`: a new one is
        made where there is none."""
        if create:
            self.directory.mkdir(parents=True, exist_ok=True)
        elif not self.exists():
            self.read()
        with self._guard(), self._kept_from_others():
            scheme = self.read() if self.exists() else Scheme(self.name)
            yield scheme
            scheme_file.write(self.file, scheme)

    def keep_copy(self) -> None:
        """Copy scheme.star to scheme.star.bck, as RELION does before it edits."""
        if self.exists():
            atomic_write(self.directory / (scheme_file.SCHEME_STAR + ".bck"), self.file.read_bytes())

    # ---- locks ---------------------------------------------------------------------------------------

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One change at a time among our own programs; the kernel opens it when a process dies."""
        with open(self.directory / _GUARD, "ab") as handle:
            with suppress(OSError):  # no flock on this file system: the lock directory does what it can
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def runner(self) -> Owner | None:
        """Who runs the scheme: None if nobody does, as far as can be known from here."""
        owner = self._owner()
        return None if owner is None or owner.is_dead() else owner

    def is_locked(self) -> bool:
        """True if the scheme runs, here or in RELION."""
        owner = self._owner()
        return self._lock_directory.is_dir() and (owner is None or not owner.is_dead())

    def _owner(self) -> Owner | None:
        try:
            return Owner.parse((self._lock_directory / "owner").read_text())
        except OSError:
            return None

    @contextmanager
    def _kept_from_others(self) -> Iterator[None]:
        """RELION's lock directory for the time of one change, unless one of our own runners holds it."""
        if self.runner() is not None:
            yield
            return
        self._take_directory()
        try:
            yield
        finally:
            shutil.rmtree(self._lock_directory, ignore_errors=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the scheme's lock for a whole run. PipelineError if somebody else runs it."""
        self.read()
        with self._guard():
            owner = self.runner()
            if owner is not None:
                raise LockedProject(
                    f"The scheme {self.name} is running already (process {owner.pid} on {owner.host}); abort that "
                    f"run first, or, if it is gone, remove the directory {self._lock_directory}."
                )
            self._take_directory()
        mine = (self._lock_directory / "owner").read_text()
        try:
            yield
        finally:
            with suppress(OSError):
                if (self._lock_directory / "owner").read_text() == mine:
                    shutil.rmtree(self._lock_directory, ignore_errors=True)

    def _take_directory(self) -> None:
        """Make the lock directory; the guard is held. A dead owner's is taken over, RELION's is waited for."""
        deadline = time.monotonic() + _FOREIGN_PATIENCE
        while True:
            try:
                os.mkdir(self._lock_directory, 0o700)
                break
            except FileExistsError:
                pass
            except OSError as error:
                raise PipelineError(f"The scheme {self.name} cannot be locked: {error.strerror}.") from error
            if self._is_stale():
                shutil.rmtree(self._lock_directory, ignore_errors=True)
            elif time.monotonic() > deadline:
                raise LockedProject(
                    f"The scheme {self.name} is in use by another program; wait for it, or, if it is gone, remove "
                    f"the directory {self._lock_directory}."
                )
            else:
                time.sleep(_POLL)
        (self._lock_directory / "owner").write_text(this_process().text(1))
        (self._lock_directory / "lock_scheme").write_text("lock mechanism from Schemer\n")

    def _is_stale(self) -> bool:
        owner = self._owner()
        if owner is not None:
            return owner.is_dead()
        try:
            entries = set(os.listdir(self._lock_directory))
            age = time.time() - self._lock_directory.stat().st_mtime
        except OSError:
            return False
        return entries <= {"owner"} and age > _EMPTY_PATIENCE

    # ---- signals -------------------------------------------------------------------------------------

    def request_abort(self) -> None:
        """Ask a running scheme to abort its job and stop (RELION_JOB_ABORT_NOW, as RELION does)."""
        (self.directory / control.ABORT_NOW).touch()

    def request_stop(self) -> None:
        """Ask a running scheme to stop when its present job has ended."""
        (self.directory / STOP).touch()

    def abort_requested(self) -> bool:
        """True if the scheme was asked to abort."""
        return (self.directory / control.ABORT_NOW).exists()

    def stop_requested(self) -> bool:
        """True if the scheme was asked to stop."""
        return (self.directory / STOP).exists()

    def clear_requests(self) -> None:
        """Forget requests and ends of earlier runs."""
        control.clear(self.directory)
        (self.directory / STOP).unlink(missing_ok=True)

    # ---- what a restarted runner must know -----------------------------------------------------------

    def visit(self) -> Visit | None:
        """The job that was started for the current node, if one was."""
        found = self._load(_VISIT)
        return None if found is None else Visit(**found)

    def set_visit(self, visit: Visit | None) -> None:
        """Remember the job of the current node; None: there is none."""
        self._save(_VISIT, None if visit is None else asdict(visit))

    def gate(self) -> Gate | None:
        """The gate at which the scheme waits, if it does."""
        found = self._load(_GATE)
        return None if found is None else Gate(**found)

    def set_gate(self, gate: Gate | None) -> None:
        """Open or close a gate."""
        self._save(_GATE, None if gate is None else asdict(gate))

    def decide(self, node: str, answer: bool) -> None:
        """Answer the gate at which the scheme waits."""
        with self._guard():
            gate = self.gate()
            if gate is None or gate.node != node:
                raise PipelineError(f"The scheme {self.name} does not wait for a decision at {node!r}.")
            self.set_gate(Gate(gate.node, gate.question, answer))

    def _load(self, file: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.directory / file).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _save(self, file: str, content: dict[str, Any] | None) -> None:
        if content is None:
            (self.directory / file).unlink(missing_ok=True)
        else:
            atomic_write(self.directory / file, json.dumps(content).encode())
