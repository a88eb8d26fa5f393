"""What can go wrong in a project, each said in one sentence that tells what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class PipelineError(Exception):
    """A mistake that the user can mend; its text is one sentence for people."""


class LockedProject(PipelineError):
    """Somebody else holds the project's lock and did not give it back in time."""


@dataclass(frozen=True)
class RestorePlan:
    """How a damaged pipeline would be restored.

    `backup` is the newest backup that reads well (None if there is none); `added_jobs` are the jobs that it
    does not know, which are read from their job directories; `job_counter` is the next job's number;
    `reason` says what is wrong with the present file.
    """

    reason: str
    backup: Path | None
    added_jobs: tuple[str, ...]
    job_counter: int

    def sentence(self) -> str:
        source = f"the backup {self.backup}" if self.backup else "the job directories alone"
        extra = f", with {len(self.added_jobs)} newer jobs from their directories" if self.added_jobs else ""
        return f"It can be restored from {source}{extra}; the next job will be number {self.job_counter}."


class DamagedPipeline(PipelineError):
    """`default_pipeline.star` cannot be read, or is cut short; `plan` says how it can be restored."""

    def __init__(self, reason: str, plan: RestorePlan | None = None) -> None:
        self.reason = reason
        self.plan = plan
        super().__init__(reason if plan is None else f"{reason} {plan.sentence()}")
