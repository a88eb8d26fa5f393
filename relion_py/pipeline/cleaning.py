"""Gentle and harsh cleaning: which files of a finished job go to the trash.

The rules belong to the job types (JobSpec.gentle, .harsh); they follow pipeliner.cpp, cleanupJob. Links are
never followed, so nothing outside the job directory is touched.
"""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path

from relion_py.jobs.spec import CleanRule, JobSpec
from relion_py.pipeline.graph import Graph

NO_HARSH_CLEAN = "NO_HARSH_CLEAN"
_ITERATION = re.compile(r"(run_(?:ct\d{1,3}_)?it\d{3})_data\.star$")


def files_to_move(root: Path, graph: Graph, name: str, spec: JobSpec, harsh: bool) -> list[str]:
    """What cleaning would move, as paths from the project directory; whole directories end with "/".

    Gentle cleaning never takes a node of the pipeline. Harsh cleaning takes what gentle cleaning takes, and
    what the job type's harsh rule names.
    """
    found: dict[str, None] = {}
    for rule in (spec.gentle, spec.harsh) if harsh else (spec.gentle,):
        found.update(dict.fromkeys(_matches(root, graph, name, rule)))
    if not harsh:
        kept = graph.nodes.keys()
        found = {
            path: None
            for path in found
            if path not in kept and not (path.endswith("/") and any(node.startswith(path) for node in kept))
        }
    directories = [path for path in found if path.endswith("/")]
    return sorted(p for p in found if not any(p != top and p.startswith(top) for top in directories))


def _matches(root: Path, graph: Graph, name: str, rule: CleanRule) -> list[str]:
    job = root / name
    subdirectories = _subdirectories(job)
    found: list[str] = []
    for pattern in rule.patterns:
        if pattern == "*/":
            found += [f"{name}{directory}/" for directory in subdirectories]
        elif pattern.startswith("*/"):
            for directory in subdirectories:
                found += _in_directory(job, f"{directory}/", pattern[2:], name)
        else:
            head, _, tail = pattern.rstrip("/").rpartition("/")
            found += _in_directory(job, f"{head}/" if head else "", tail + "/" * pattern.endswith("/"), name)
    if rule.iterations:
        found += _old_iterations(job, name, graph)
    return found


def _subdirectories(job: Path) -> list[str]:
    found = []
    for directory, names, _ in os.walk(job):
        names[:] = sorted(n for n in names if not n.startswith(".") and not os.path.islink(f"{directory}/{n}"))
        found += [os.path.relpath(os.path.join(directory, n), job) for n in names]
    return found


def _in_directory(job: Path, directory: str, pattern: str, name: str) -> list[str]:
    want_directory = pattern.endswith("/")
    found = []
    try:
        entries = list(os.scandir(job / directory))
    except OSError:
        return []
    for entry in entries:
        if fnmatch.fnmatchcase(entry.name, pattern.rstrip("/")) and not (
            entry.name.startswith(".") and not pattern.startswith(".")
        ):
            is_directory = entry.is_dir(follow_symlinks=False)
            if is_directory == want_directory:
                found.append(f"{name}{directory}{entry.name}" + "/" * is_directory)
    return found


def _old_iterations(job: Path, name: str, graph: Graph) -> list[str]:
    """The files of every iteration but the last, and but those of which a file is a node."""
    try:
        entries = sorted(os.listdir(job))
    except OSError:
        return []
    stems = [match.group(1) for entry in entries if (match := _ITERATION.fullmatch(entry))]
    stems.sort(key=lambda stem: (_continuation(stem), stem))
    nodes = [path[len(name) :] for path in graph.nodes if path.startswith(name)]
    found = []
    for stem in stems[:-1]:
        if not any(node.startswith(stem) for node in nodes):
            found += [name + entry for entry in entries if entry.startswith(stem + "_")]
    return found


def _continuation(stem: str) -> int:
    match = re.match(r"run_ct(\d+)_", stem)
    return int(match.group(1)) if match else 0
