"""One run of a program, for the other benchmarks: seconds on the clock and of the processor, memory, output."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What a run took: `wall` and `cpu` in seconds (`cpu` with all its processes), `memory` in MB (the largest
    resident size of the first process; not of those that mpirun starts), and what it printed."""

    wall: float
    cpu: float
    memory: float
    output: str


class Failed(SystemExit):
    """A program that failed; ends the benchmark with what was printed, unless it is caught."""


def run(
    command: Sequence[str],
    directory: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Usage:
    """Run a command in a directory, and measure it; what it prints is also added to `log`. Raises Failed.

    Python keeps its bytecode, whatever the shell says: programs start as they do where they are installed.
    """
    environment = dict(os.environ if environment is None else environment)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with open(log, "a+b") if log else tempfile.TemporaryFile() as out:
        begin = out.seek(0, 2)
        before, start = _processor_seconds(), time.perf_counter()
        process = subprocess.Popen(list(command), cwd=directory, stdout=out, stderr=out, env=environment)
        memory = 0.0
        while process.poll() is None:
            memory = max(memory, _largest_resident(process.pid))
            time.sleep(0.01)
        wall, cpu = time.perf_counter() - start, _processor_seconds() - before
        out.seek(begin)
        output = out.read().decode(errors="replace")
    if process.returncode:
        raise Failed(f"{' '.join(command)}\nfailed:\n{output[-2000:]}")
    return Usage(wall, cpu, memory, output)


def _processor_seconds() -> float:
    """Of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _largest_resident(pid: int) -> float:
    """MB since the program began; what wait4 tells would count this process, which it was forked from, too."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    match = re.search(r"VmHWM:\s+(\d+)", text)
    return int(match[1]) / 1024 if match else 0.0
