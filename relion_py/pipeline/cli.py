"""relion_pipeliner: schedules, runs, checks, edits and cleans jobs of a project from a command line.

The options are those of RELION 5's program (apps/pipeliner.cpp), with --check_command, --json and --restore
added. It works on the project in the current directory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from relion_py.jobs.quoting import display
from relion_py.jobs.spec import BuiltJob, JobSpec, Problem
from relion_py.pipeline import jobstar
from relion_py.pipeline.command_line import CommandLine, Option
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.project import Project

_GROUPS: dict[str, tuple[Option, ...]] = {
    "Check a job": (
        Option("--check_command", "", "Print what the job of this job.star would run; nothing is changed"),
        Option("--json", None, "With --check_command: one JSON object on stdout"),
    ),
    "Check job completion": (Option("--check_job_completion", None, "Only check whether running jobs have ended"),),
    "Add scheduled jobs": (
        Option("--addJobFromStar", "", "Schedule a job with the type and values of this job.star"),
        Option("--addJob", "", "Schedule a job of this type, with the values of the last one"),
        Option("--addJobOptions", "", 'Values for the added job, like "key == value;key == value"'),
        Option("--setJobAlias", "", "Alias for the added job"),
    ),
    "Run scheduled jobs": (
        Option("--RunJobs", "", "Names of the jobs to run in this order, in one word (quoted)"),
        Option("--schedule", "", "Name for this schedule"),
        Option("--repeat", "1", "Run the jobs this many times"),
        Option("--min_wait", "0", "Wait at least this many minutes between repeats"),
        Option("--min_wait_before", "0", "Wait this many minutes before the first job"),
        Option("--sec_wait_after", "10", "Wait this many seconds after each job"),
    ),
    "Edit jobs": (
        Option("--editJob", "", "The job.star to edit"),
        Option("--editJobOut", "", "Where to write it; without this it is changed in place"),
        Option("--editOption", "", "The key of the value to change; it must be in the file"),
        Option("--editValue", "", "The new value"),
    ),
    "Expert options": (
        Option("--pipeline", "default", "Name of the pipeline"),
        Option("--gentle_clean", "-1", "Gently clean the job of this number"),
        Option("--harsh_clean", "-1", "Harshly clean the job of this number"),
        Option("--restore", None, "Restore a damaged default_pipeline.star from backups and job directories"),
    ),
}
COMMAND_LINE = CommandLine("relion_pipeliner", "[options]", _GROUPS)

# Jobs scheduled as continuations, so that repeats only do what is new (pipeliner.cpp, addScheduledJob).
_ON_THE_FLY = ("relion.motioncorr", "relion.ctffind", "relion.autopick", "relion.extract")


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit status."""
    return COMMAND_LINE.run(_run, argv)


def _run(typed: Mapping[str, str]) -> int:
    given = {**COMMAND_LINE.defaults(), **typed}
    if given["--pipeline"] != "default":
        raise PipelineError(f"Only the pipeline called default is worked on here, not {given['--pipeline']!r}.")
    if given["--check_command"]:
        return _check_command(Path(given["--check_command"]), bool(given["--json"]))
    if given["--editJob"]:
        return _edit_job(given)
    if given["--restore"]:
        project = Project.restore(".")
        print(f"Restored {len(project.graph.processes)} jobs in {project.root}.")
        return 0
    project = Project.open(".")
    if given["--check_job_completion"]:
        project.refresh()
    elif given["--addJobFromStar"] or given["--addJob"]:
        print(_add_job(project, given))
    elif _number(given, "--gentle_clean") > 0 or _number(given, "--harsh_clean") > 0:
        _clean(project, given)
    elif given["--RunJobs"].strip():
        project.run_scheduled(
            given["--RunJobs"].split(),
            given["--schedule"] or "default",
            int(_number(given, "--repeat")),
            _number(given, "--min_wait"),
            _number(given, "--min_wait_before"),
            _number(given, "--sec_wait_after"),
            background=False,
        )
    else:
        raise PipelineError("Nothing to do: say which jobs to run (--RunJobs), or give another option.")
    return 0


def _number(given: Mapping[str, str], name: str) -> float:
    try:
        return float(given[name])
    except ValueError:
        raise PipelineError(f"{name} must be a number, not {given[name]!r}.") from None


def _clean(project: Project, given: Mapping[str, str]) -> None:
    for name, harsh in (("--gentle_clean", False), ("--harsh_clean", True)):
        number = _number(given, name)
        if number <= 0:
            continue
        job = next((p for p in project.graph.processes.values() if p.number == number), None)
        if job is None:
            raise PipelineError(f"There is no job number {number:g} in this project.")
        moved = project.clean(job.name, harsh)
        print(f"Moved {len(moved)} files and directories of {job.name} to the Trash.")


# ---- adding and editing ----------------------------------------------------------------------------------


def _add_job(project: Project, given: Mapping[str, str]) -> str:
    if given["--addJobFromStar"]:
        saved = jobstar.read(Path(given["--addJobFromStar"]))
        label, is_continue = saved.type_label, False
        values = {**project.spec(label).defaults(), **saved.values}
    else:
        label = project.spec(given["--addJob"]).type_label
        values, is_continue = project.draft(label), label in _ON_THE_FLY
    values.update(_options(project.spec(label), given["--addJobOptions"]))
    return project.schedule(label, values, given["--setJobAlias"], is_continue)


def _options(spec: JobSpec, text: str) -> dict[str, str]:
    """The values in "key == value;key == value"; an option's label does for its key (setOption)."""
    labels = {option.label.strip(): key for key, option in spec.options.items()}
    found = {}
    for entry in text.split(";"):
        if not entry.strip():
            continue
        key, equals, value = entry.partition("==")
        key = key.strip()
        if not equals:
            raise PipelineError(f"{entry!r} has no '=='; write key == value.")
        if key not in spec.options and key not in labels:
            raise PipelineError(f"A job of type {spec.type_label} has no option {key!r}.")
        found[key if key in spec.options else labels[key]] = value.strip()
    return found


def _edit_job(given: Mapping[str, str]) -> int:
    key, value = given["--editOption"], given["--editValue"]
    if not key:
        raise PipelineError("--editJob needs --editOption: say which value to change.")
    source = Path(given["--editJob"])
    source = source / jobstar.JOB_STAR if source.is_dir() else source
    saved = jobstar.read(source)
    if key not in saved.values:
        raise PipelineError(f"{source} has no option {key!r}.")
    spoken = {"true": "Yes", "false": "No"}
    changed = replace(saved, values={**saved.values, key: spoken.get(value.lower(), value)})
    target = Path(given["--editJobOut"] or source)
    jobstar.write(target / jobstar.JOB_STAR if target.is_dir() else target, changed)
    return 0


# ---- checking --------------------------------------------------------------------------------------------


def _check_command(path: Path, as_json: bool) -> int:
    """Tell what a job.star would run in the project of the current directory (or in a new one)."""
    from relion_py.pipeline.check import preview

    built, problems = preview(path, Path())
    if as_json:
        print(json.dumps(_as_object(built, problems), indent=1))
    else:
        print(_as_text(built, problems))
    return 1 if built.refusal else 0


def _as_object(built: BuiltJob, problems: tuple[Problem, ...]) -> dict[str, object]:
    return {
        "type": built.type_label,
        "job_name": built.job_name,
        "ok": not built.refusal,
        "error": built.refusal,
        "commands": [list(command) for command in built.commands],
        "local_commands": [list(command) for command in built.local_commands],
        "input_nodes": [{"path": node.path, "type": node.type} for node in built.input_nodes],
        "output_nodes": [{"path": node.path, "type": node.type} for node in built.output_nodes],
        "problems": [{"key": problem.key, "message": problem.message} for problem in problems],
    }


def _as_text(built: BuiltJob, problems: tuple[Problem, ...]) -> str:
    lines = [f"{built.job_name} ({built.type_label})"]
    for title, entries in (
        ("Commands", [display(command) for command in built.local_commands or built.commands]),
        ("Input nodes", [f"{node.path}  {node.type}" for node in built.input_nodes]),
        ("Output nodes", [f"{node.path}  {node.type}" for node in built.output_nodes]),
        ("Problems", [f"{p.key}: {p.message}" if p.key else p.message for p in problems]),
    ):
        if entries:
            lines += [f"{title}:", *(f"  {entry}" for entry in entries)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
