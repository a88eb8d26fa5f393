"""What a job.star would run, told without touching a project."""

from __future__ import annotations

from pathlib import Path

from relion_py.jobs import registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import DiskFiles
from relion_py.jobs.spec import BuiltJob, Problem
from relion_py.pipeline import jobstar, pipeline_file
from relion_py.pipeline.errors import DamagedPipeline, PipelineError


def preview(job_star: Path, root: Path) -> tuple[BuiltJob, tuple[Problem, ...]]:
    """The built job of a job.star as it would run in `root` with the next number, and all its problems.

    A job.star that lies in its own job directory and says that it is a continuation keeps its name. Raises
    PipelineError if the file cannot be read or its job type is unknown.
    """
    saved = jobstar.read(job_star)
    try:
        spec = registry.by_label(saved.type_label)
    except registry.JobTypeError as error:
        raise PipelineError(str(error)) from error
    name = f"{spec.directory}/job{_next_number(root):03d}/"
    directory = job_star if job_star.is_dir() else job_star.parent
    if saved.is_continue and directory.parent.name == spec.directory and directory.name.startswith("job"):
        name = f"{spec.directory}/{directory.name}/"
    env = SiteEnvironment.from_environ()
    built = spec.build(saved.values, name, saved.is_continue, env, DiskFiles(root))
    return built, spec.validate(saved.values, root, saved.is_continue)


def _next_number(root: Path) -> int:
    try:
        return max(1, pipeline_file.read(root / pipeline_file.PIPELINE_FILE).job_counter)
    except DamagedPipeline:
        return 1
