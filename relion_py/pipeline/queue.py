"""Jobs in a queueing system: the script from a site's template, submitting, asking, cancelling.

The template's variables are RELION's (pipeline_jobs.cpp, saveJobSubmissionScript). Every substituted value is
quoted for the shell that will read the script, so no value can become a command.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from relion_py.jobs.environment import program_path
from relion_py.jobs.quoting import display, words
from relion_py.jobs.spec import BuiltJob
from relion_py.pipeline.control import RUN_ERR, RUN_OUT
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.paths import has_control_characters

SCRIPT = "run_submit.script"
_SUBMIT_TIMEOUT = 120.0
_ASK_TIMEOUT = 30.0

# What asks after a job, and what cancels it, by the command that submits.
_SYSTEMS = {
    "sbatch": (("squeue", "--noheader", "--jobs"), ("scancel",)),
    "qsub": (("qstat",), ("qdel",)),
    "bsub": (("bjobs", "-noheader"), ("bkill",)),
}


def script(template: str, built: BuiltJob, values: Mapping[str, str]) -> str:
    """The submission script: the template with its XXX...XXX variables filled in.

    A line with XXXcommandXXX is repeated for each command that the template's launcher is meant for: the MPI
    programs, or all of RELION's programs if there is one process; other commands stand on lines of their own.
    A command that fails ends the script. Raises PipelineError for values with line breaks.
    """
    replacing = {f"XXX{name}XXX": _quoted(name, value) for name, value in _variables(built, values).items()}
    lines: list[str] = []
    used = False
    for line in template.splitlines():
        for variable, text in replacing.items():
            line = line.replace(variable, text)
        if "XXXcommandXXX" in line and not _is_comment(line):
            used = True
            lines += _command_lines(line, built)
        else:
            lines.append(line)
    if not used:
        raise PipelineError("The submission template has no line with XXXcommandXXX, so it would run nothing; add one.")
    return "\n".join(lines) + "\n\n"


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _command_lines(line: str, built: BuiltJob) -> list[str]:
    lines = []
    for index, command in enumerate(built.commands):
        if any(has_control_characters(word) for word in command):
            raise PipelineError(f"A value of the command {command[0]} contains a line break; take it out.")
        text = display(command)
        launched = "relion_" in command[0] and (command[0].endswith("_mpi") or built.nr_mpi == 1)
        written = line.replace("XXXcommandXXX", text) if launched or len(built.commands) == 1 else text
        lines.append(written if index == len(built.commands) - 1 else f"{written} || exit 1")
    return lines


def _variables(built: BuiltJob, values: Mapping[str, str]) -> dict[str, str]:
    """The template's variables; `extraN` are the options that a site defines through RELION_QSUB_EXTRA*."""
    dedicated = _whole(values.get("min_dedicated", "1"), "min_dedicated")
    cores = built.nr_mpi * built.nr_threads
    variables = {
        "mpinodes": str(built.nr_mpi),
        "threads": str(built.nr_threads),
        "cores": str(cores),
        "dedicated": str(dedicated),
        "nodes": str(math.ceil(cores / dedicated)),
        "name": built.job_name,
        "errfile": built.job_name + RUN_ERR,
        "outfile": built.job_name + RUN_OUT,
        "queue": values.get("queuename", ""),
    }
    for key, value in values.items():
        if match := re.fullmatch(r"qsub_extra(\d+)", key):
            variables[f"extra{match.group(1)}"] = value
    return variables


def _whole(text: str, key: str) -> int:
    try:
        number = int(float(text))
    except ValueError:
        number = 0
    if number < 1:
        raise PipelineError(f"{key} must be a whole number of at least 1, not {text!r}.")
    return number


def _quoted(name: str, value: str) -> str:
    if has_control_characters(value):
        raise PipelineError(f"The value for XXX{name}XXX contains a line break or control character; take it out.")
    return shlex.quote(value) if value else ""


def read_template(root: Path, path: str) -> str:
    """The text of the site's template. Raises PipelineError if it cannot be read."""
    try:
        return (root / path).read_text(errors="surrogateescape")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PipelineError(f"The submission template {path!r} cannot be read: {reason}.") from error


def submit(root: Path, command: str, script_path: str) -> str:
    """Hand the script to the queue; returns the id that the queue gave ("" if its answer has none).

    `command` is the site's submission command, split as a shell would split it. Raises PipelineError.
    """
    vector = [*words(command), script_path]
    if len(vector) < 2:
        raise PipelineError("No queue submission command is given; fill it in on the Running tab.")
    try:
        answer = _run(vector, root, _SUBMIT_TIMEOUT)
    except FileNotFoundError:
        raise PipelineError(
            f"The queue submission command {vector[0]} was not found: put it on the PATH, or run without the queue."
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PipelineError(f"The queue submission command {display(vector)} did not work: {error}.") from error
    if answer.returncode != 0:
        said = " ".join((answer.stderr or answer.stdout).split())
        raise PipelineError(f"The queue refused the job ({display(vector)}): {said or 'it gave no reason'}.")
    found = re.search(r"\d+", answer.stdout)
    return found.group(0) if found else ""


def knows(command: str, job_id: str) -> bool | None:
    """True if the queue still has the job, False if not, None if it cannot be asked."""
    system = _SYSTEMS.get(_submitter(command))
    if system is None or not job_id.isdigit():
        return None
    try:
        answer = _run([*system[0], job_id], None, _ASK_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        # squeue says "Invalid job id specified" of a forgotten job; other failures are the queue's own.
        gone = re.search(r"invalid job id|unknown job|not found|does not exist", answer.stderr, re.IGNORECASE)
        return False if gone else None
    return job_id in answer.stdout


def cancel(command: str, job_id: str) -> bool:
    """Cancel a job in the queue; returns True if the queue took it."""
    system = _SYSTEMS.get(_submitter(command))
    if system is None or not job_id.isdigit():
        return False
    try:
        return _run([*system[1], job_id], None, _ASK_TIMEOUT).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _submitter(command: str) -> str:
    vector = words(command)
    return os.path.basename(vector[0]) if vector else ""


def _run(vector: list[str], root: Path | None, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        vector,
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        env={**os.environ, "PATH": program_path()},
    )
