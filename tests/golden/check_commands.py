"""Compare our commands with RELION's own, case by case.

    python tests/golden/check_commands.py FILE.jsonl[.gz]

Each line of the file is a case made by RELION 5.0.1's own code: option values -> commands, nodes, or a
refusal. A case agrees when the programs, their flags and values, the input and output nodes with their types
and the job's label are the same, or when both refuse it. White space and order do not count. An empty
bodies.star existed when the cases were made, and no other file on which commands depend.
"""

from __future__ import annotations

import gzip
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from relion_py.jobs import registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import NamedFiles
from relion_py.jobs.spec import BuiltJob

Group = tuple[str, tuple[str, ...]]
_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

_FILES = NamedFiles(frozenset({"bodies.star"}))


def read_cases(path: Path) -> Iterator[dict[str, Any]]:
    """The cases of a .jsonl file, which may be compressed."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


def groups(words: Sequence[str]) -> tuple[str, Counter[Group]]:
    """The program, and its flags each with the values that follow."""
    words = [part for word in words for part in (word.split() or [""])]
    program, rest = words[0], words[1:]
    found: list[tuple[str, list[str]]] = [("", [])]
    for word in rest:
        if word.startswith("-") and not _NUMBER.fullmatch(word):
            found.append((word, []))
        else:
            found[-1][1].append(word)
    # An empty value ('--gpu ""') and no value differ by the reference's quotes only: both count as none.
    return program, Counter((flag, tuple(w for w in values if w)) for flag, values in found if flag or values)


def reference_words(command: str) -> list[str]:
    """A command line of the reference as words: `which X` is X, and `mpirun -n N` is left out."""
    command = re.sub(r"`which (\S+)`", r"\1", command)
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return words[3:] if words[:2] == ["mpirun", "-n"] else words


def build_case(case: dict[str, Any]) -> BuiltJob:
    """What we make of a case, at a site where no variable is set."""
    spec = registry.by_number(case["type"])
    return spec.build(case["options"], case["output_name"], case["is_continue"], SiteEnvironment(), _FILES)


def differences(case: dict[str, Any], built: BuiltJob) -> list[str]:
    """How we differ from the reference in one case; empty where we agree."""
    if not case["ok"]:
        return [] if built.refusal else [f"refused by the reference ({case['error']}), built here"]
    if built.refusal:
        return [f"refused here ({built.refusal}), built by the reference"]
    found = []
    theirs = [groups(reference_words(command)) for command in case["commands"]]
    ours = [groups(command) for command in built.commands]
    if len(theirs) != len(ours):
        found.append(f"{len(theirs)} commands there, {len(ours)} here")
    for number, ((program, flags), (our_program, our_flags)) in enumerate(zip(theirs, ours, strict=False), 1):
        if program != our_program:
            found.append(f"command {number}: program {program} there, {our_program} here")
        if flags != our_flags:
            there, here = _text(flags - our_flags), _text(our_flags - flags)
            found.append(f"command {number}: only there {there}; only here {here}")
    for name, nodes in (("input", built.input_nodes), ("output", built.output_nodes)):
        wanted = {(path, node_type) for path, node_type in case[f"{name}_nodes"]}
        have = {(node.path, node.type) for node in nodes}
        if wanted != have:
            found.append(f"{name} nodes: there {sorted(wanted)}; here {sorted(have)}")
    if case["label"] != built.type_label:
        found.append(f"label {case['label']} there, {built.type_label} here")
    return found


def _text(flags: Counter[Group]) -> str:
    return ", ".join(" ".join((flag, *values)) for flag, values in flags.elements()) or "nothing"


def compare(cases: Iterable[dict[str, Any]]) -> tuple[int, list[tuple[int, dict[str, Any], list[str]]]]:
    """How many cases there are, and those that disagree with their line number and what differs."""
    count, wrong = 0, []
    for count, case in enumerate(cases, 1):
        found = differences(case, build_case(case))
        if found:
            wrong.append((count, case, found))
    return count, wrong


def main(arguments: Sequence[str]) -> int:
    """Print how many cases agree and the first that do not; exit status 1 if any does not."""
    if len(arguments) != 1:
        print(__doc__)
        return 2
    count, wrong = compare(read_cases(Path(arguments[0])))
    print(f"{count - len(wrong)} of {count} cases agree")
    for line, case, found in wrong[:20]:
        print(f"line {line}: type {case['type']} ({case['label']}), continue: {case['is_continue']}")
        for sentence in found:
            print(f"    {sentence}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
