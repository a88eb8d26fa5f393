"""Schemes: directed graphs of jobs and operators with variables and forks, run by themselves.

from relion_py.pipeline import Project
from relion_py.pipeline.schemes import SchemeRunner, SchemeStore

store = SchemeStore(project.root, "prep")
with store.change() as scheme:
    scheme.set_variable("do_at_most", "20")
SchemeRunner(project, "prep").run()
"""

from relion_py.pipeline.schemes.making import (
    abort,
    add_job,
    copy,
    from_jobs,
    reset,
    scheduled_jobs,
    start_in_background,
)
from relion_py.pipeline.schemes.model import Edge, Operator, Scheme, SchemeJob, Variable
from relion_py.pipeline.schemes.operators import OPERATORS
from relion_py.pipeline.schemes.runner import Outcome, SchemeRunner
from relion_py.pipeline.schemes.store import Gate, SchemeStore, names

__all__ = [
    "OPERATORS",
    "Edge",
    "Gate",
    "Operator",
    "Outcome",
    "Scheme",
    "SchemeJob",
    "SchemeRunner",
    "SchemeStore",
    "Variable",
    "abort",
    "add_job",
    "copy",
    "from_jobs",
    "names",
    "reset",
    "scheduled_jobs",
    "start_in_background",
]
