"""All job types: our own, in the browser's order, and those of other packages (entry points
"relion_py.jobs").

Modules are loaded when they are first asked for, so that a command line that needs one job type stays quick.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from .spec import JobSpec

ENTRY_POINT_GROUP = "relion_py.jobs"

# The order of the reference's job-type browser.
_MODULES = (
    "import_",
    "motioncorr",
    "ctffind",
    "manualpick",
    "autopick",
    "extract",
    "class2d",
    "initialmodel",
    "class3d",
    "refine3d",
    "multibody",
    "select",
    "ctfrefine",
    "polish",
    "dynamight",
    "maskcreate",
    "joinstar",
    "subtract",
    "postprocess",
    "localres",
    "modelangelo",
    "external",
)


class JobTypeError(LookupError):
    """A job type that nobody describes, or one of another package that cannot be loaded."""


@cache
def _own_specs() -> tuple[JobSpec, ...]:
    return tuple(import_module(f".{name}", __package__).SPEC for name in _MODULES)


@cache
def _third_party() -> tuple[tuple[JobSpec, ...], tuple[str, ...]]:
    """Job types of other packages and, for those that are no good, a sentence each."""
    from importlib.metadata import entry_points  # slow to import, and needed only here

    found: list[JobSpec] = []
    complaints: list[str] = []
    taken = {spec.type_label for spec in _own_specs()}
    directories = {spec.directory for spec in _own_specs()}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        try:
            spec = point.load()
        except Exception as error:  # another package's code may fail in any way; ours goes on without it
            complaints.append(f"The job type '{point.name}' ({point.value}) cannot be loaded: {error}")
            continue
        if not isinstance(spec, JobSpec):
            complaints.append(f"The job type '{point.name}' ({point.value}) is no JobSpec.")
        elif spec.type_label in taken or spec.directory in directories:
            complaints.append(f"The job type '{point.name}' takes the label or directory of another job type.")
        else:
            taken.add(spec.type_label)
            directories.add(spec.directory)
            found.append(spec)
    return tuple(found), tuple(complaints)


def all_specs() -> tuple[JobSpec, ...]:
    """Every job type, in the order in which the window's browser lists them."""
    return _own_specs() + _third_party()[0]


def complaints() -> tuple[str, ...]:
    """Why job types of other packages were left out, a sentence each."""
    return _third_party()[1]


def reload_third_party() -> None:
    """Look for other packages' job types again (after an installation while we run)."""
    _third_party.cache_clear()


def by_label(label: str) -> JobSpec:
    """The job type of a label. Deeper labels count as their type ("relion.import.movies" is
    "relion.import"), and the directory names that early versions of release 4 wrote are understood.
    JobTypeError if there is none."""
    specs = {spec.type_label: spec for spec in all_specs()}
    word = label
    while word:
        if word in specs:
            return specs[word]
        word = word.rpartition(".")[0]
    for spec in specs.values():
        if spec.directory == label:
            return spec
    raise JobTypeError(f"There is no job type '{label}'.")


def by_number(number: int) -> JobSpec:
    """The job type of a number, as release 3.1 and older wrote them. JobTypeError if there is none."""
    for spec in all_specs():
        if spec.type_number == number:
            return spec
    raise JobTypeError(f"There is no job type with number {number}.")
