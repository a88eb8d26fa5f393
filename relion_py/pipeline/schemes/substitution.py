"""What is put into job options and strings before they are used: `$$variable`, and the jobs of schemes.

Sources: schemer.cpp, Scheme::prepareJob and Scheme::changeStringForJobnames.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

from relion_py.jobs.spec import JobSpec
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.jobstar import JobStar
from relion_py.pipeline.schemes import scheme_file
from relion_py.pipeline.schemes.model import Scheme, value_text

_VARIABLE = re.compile(r"\$\$([^\s$]*)")
_JOB_PATH = re.compile(r"Schemes/([^/\s,]+)/([^/\s,]+)/")
_ROUNDS = 20
_TRIES = 3


def prepare_job(root: Path, scheme: Scheme, node: str, job: JobStar, spec: JobSpec) -> dict[str, str]:
    """The values with which a job node runs now. PipelineError names the option that does not fit."""
    values = {}
    for key, text in job.values.items():
        option = spec.options.get(key)
        text = insert_variables(scheme, text, f"the option {key} of {node}", option.kind if option else "text")
        values[key] = current_paths(root, scheme, text)
    return values


def insert_variables(scheme: Scheme, text: str, where: str, kind: str = "text") -> str:
    """Replace every `$$name` by the variable's current value; a name ends at a blank.

    kind: the kind of the job option. A bool becomes Yes or No and fits switches only; strings fit no numbers.
    """
    for _ in range(_ROUNDS):
        if "$$" not in text:
            return text
        text = _VARIABLE.sub(lambda match: _value_for(scheme, match.group(1), where, kind), text)
    raise PipelineError(f"The variables in {where} contain each other without end: {text!r}.")


def _value_for(scheme: Scheme, name: str, where: str, kind: str) -> str:
    if not name:
        raise PipelineError(f"There is no name of a variable after $$ in {where}.")
    variable = scheme.variable(name)
    if variable is None:
        raise PipelineError(f"$$ in {where} wants the variable {name!r}, which the scheme {scheme.name} has not.")
    value = variable.value
    if isinstance(value, bool) != (kind == "yes_no") or (isinstance(value, str) and kind == "slider"):
        kinds = {bool: "bool", float: "number", str: "string"}
        needs = {"yes_no": "Yes or No", "slider": "a number"}.get(kind, "a string or number")
        raise PipelineError(f"The variable {name} is a {kinds[type(value)]}, but {where} needs {needs}.")
    return ("Yes" if value else "No") if isinstance(value, bool) else value_text(value)


def current_paths(root: Path, scheme: Scheme, text: str) -> str:
    """Replace `Schemes/NAME/JOB/` by the job that runs for JOB now, in this scheme or another one.

    A job that never ran, or is not in its scheme, is left as it stands: there is no such file then.
    """
    if "Schemes/" not in text:
        return text

    def current(match: re.Match[str]) -> str:
        name, node = match.groups()
        if name == scheme.name:
            job = scheme.jobs.get(node)
            found = job.current_name if job and job.current_name != node else ""
        else:
            found = _names_in(root / "Schemes" / name / scheme_file.SCHEME_STAR).get(node, "")
        return found.rstrip("/") + "/" if found else match.group()

    return _JOB_PATH.sub(current, text)


def _names_in(path: Path) -> Mapping[str, str]:
    """The current jobs of another scheme; RELION writes its file in place, so a part of it is read again."""
    for attempt in range(_TRIES):
        if not path.is_file():
            return {}
        try:
            return scheme_file.current_names(path)
        except PipelineError:
            if attempt + 1 == _TRIES:
                raise
            time.sleep(0.3)
    return {}
