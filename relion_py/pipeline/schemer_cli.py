"""relion_schemer: makes, edits, runs, aborts and resets schemes of the project in the current directory.

The options are those of RELION 5's program (apps/schemer.cpp), with --steps, --stop, --decide, --from_jobs,
--list and --allow_outside added.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from relion_py.pipeline import jobstar
from relion_py.pipeline.command_line import CommandLine, Option
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.project import Project
from relion_py.pipeline.schemes import making, operators
from relion_py.pipeline.schemes.model import CONTINUE, NEW, like
from relion_py.pipeline.schemes.runner import Outcome, SchemeRunner
from relion_py.pipeline.schemes.store import SchemeStore, names

_GROUPS: dict[str, tuple[Option, ...]] = {
    "General options": (
        Option("--scheme", "", "Name of the scheme, which lies in Schemes/NAME"),
        Option("--copy", "", "Make a copy of the scheme under this name"),
        Option("--list", None, "List the schemes of the project; with --scheme, its variables and nodes"),
    ),
    "Add elements to the scheme": (
        Option("--add", "", "What to add: variable, operator, job, edge or fork"),
        Option("--type", "", "Type of the operator, like float=plus"),
        Option("--i", "", "Input: of an operator, an edge or a fork; for a job its directory or job.star"),
        Option("--i2", "", "Second input of the operator"),
        Option("--bool", "", "Bool variable of the fork"),
        Option("--o", "", "Output of the operator or edge; of a fork, where it leads if the bool is true"),
        Option("--o2", "", "Where a fork leads if the bool is false"),
        Option("--name", "", "Name of the variable, operator or job"),
        Option("--value", "", "Value of the variable"),
        Option("--original_value", "", "Original value of the variable"),
        Option("--mode", "", "Mode of the job: new or continue"),
        Option("--from_jobs", "", "Make the scheme from these jobs of the project, in one word (quoted)"),
        Option("--loop", None, "With --from_jobs: go round for ever, with a wait, instead of once"),
    ),
    "Set values of variables in the scheme": (
        Option("--reset", None, "Reset all variables to their original values, and go to the start"),
        Option("--abort", None, "Abort a scheme that is running"),
        Option("--stop", None, "Stop a scheme that is running when its present job has ended"),
        Option("--set_var", "", "Name of a variable to set to --value"),
        Option("--set_job_mode", "", "Name of a job whose mode to set to --value"),
        Option("--set_has_started", "", "Name of a job for which to say by --value whether it has started"),
        Option("--set_current_node", "", "Name of the node that shall come next"),
        Option("--decide", "", "Name of the gate that waits, to be answered with --value (True or False)"),
    ),
    "Run the schemer within a pipeline": (
        Option("--run", None, "Run the scheme from its current node on"),
        Option("--verb", "1", "How much to say: 0, 1, 2 or 3"),
        Option("--steps", "", "Stop after this many nodes"),
        Option("--run_pipeline", "default", "Name of the pipeline in which to run the scheme"),
        Option("--allow_outside", None, "Agree that file operators leave the project where the scheme says so"),
    ),
}
_EXAMPLES = """
 Different ways of using this program:
    --scheme test --add variable --name iter --value 0
    --scheme test --add variable --name is_finished --value False
    --scheme test --add operator --name INCR_iter --type float=plus --i iter --i2 1 --o iter
    --scheme test --add operator --name CHECK_iter --type bool=gt --i iter --i2 10 --o is_finished
    --scheme test --add operator --name EXIT --type exit
    --scheme test --add job --i Import/job001 --name my_import --mode continue
    --scheme test --add edge --i my_import --o INCR_iter
    --scheme test --add fork --i CHECK_iter --bool is_finished --o EXIT --o2 my_import
    --scheme test --set_var iter --value 3
    --scheme test --run
"""


COMMAND_LINE = CommandLine(
    "relion_schemer",
    "--scheme NAME [options]",
    _GROUPS,
    examples=_EXAMPLES,
    interrupted="Interrupted; the job that runs goes on, and --run picks it up again.",
)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit status: 0, 1 after an error, 2 if the scheme was aborted."""
    return COMMAND_LINE.run(_run, argv)


def _run(given: Mapping[str, str]) -> int:
    root = Path.cwd()
    if "--scheme" not in given:
        if "--list" in given:
            print("\n".join(names(root)))
            return 0
        raise PipelineError("Say which scheme is meant: --scheme NAME.")
    if given.get("--run_pipeline", "default") != "default":
        raise PipelineError(f"Only the pipeline called default is worked on here, not {given['--run_pipeline']!r}.")
    store = SchemeStore(root, given["--scheme"])
    if "--run" in given:
        return _run_scheme(store, given)
    if "--abort" in given:
        print(making.abort(Project.open(root), store))
    elif "--stop" in given:
        store.read()
        store.request_stop()
    elif "--decide" in given:
        store.decide(given["--decide"], bool(like(False, _needed(given, "--value"), given["--decide"])))
    elif "--list" in given:
        _list(store)
    else:
        _edit(store, given)
    return 0


def _run_scheme(store: SchemeStore, given: Mapping[str, str]) -> int:
    project = Project.open(store.root) if Project.is_project(store.root) else Project.create(store.root)
    runner = SchemeRunner(
        project,
        store.name,
        say=lambda sentence: print(sentence, flush=True),
        verbosity=int(_number(given, "--verb", "1")),
        allow_outside="--allow_outside" in given,
    )
    steps = int(_number(given, "--steps", "0")) if "--steps" in given else None
    return 2 if runner.run(steps) == Outcome.ABORTED else 0


def _number(given: Mapping[str, str], name: str, default: str) -> float:
    try:
        return float(given.get(name, default))
    except ValueError:
        raise PipelineError(f"{name} must be followed by a number, not {given[name]!r}.") from None


def _needed(given: Mapping[str, str], name: str) -> str:
    if name not in given:
        raise PipelineError(f"Give {name} too.")
    return given[name]


def _edit(store: SchemeStore, given: Mapping[str, str]) -> None:
    store.keep_copy()
    if "--copy" in given:
        making.copy(store, given["--copy"])
    elif "--from_jobs" in given:
        making.from_jobs(Project.open(store.root), store.name, given["--from_jobs"].split(), "--loop" in given)
    elif "--add" in given:
        _add(store, given)
    elif "--reset" in given:
        making.reset(store)
    elif "--set_var" in given:
        with store.change() as scheme:
            if scheme.variable(given["--set_var"]) is None:
                raise PipelineError(f"The scheme {scheme.name} has no variable {given['--set_var']!r} to set.")
            scheme.set_variable(given["--set_var"], _needed(given, "--value"), given.get("--original_value"))
    elif "--set_job_mode" in given or "--set_has_started" in given:
        _set_job(store, given)
    elif "--set_current_node" in given:
        with store.change() as scheme:
            scheme.set_current_node(given["--set_current_node"])
    else:
        raise PipelineError("Nothing to do: give --run, --add, --copy, --reset, --abort or one of the --set options.")


def _add(store: SchemeStore, given: Mapping[str, str]) -> None:
    what = given["--add"]
    if what == "job":
        _add_job(store, given)
        return
    if what not in ("variable", "operator", "edge", "fork"):
        raise PipelineError(f"--add takes variable, operator, job, edge or fork, not {what!r}.")
    with store.change(create=what == "variable" or given.get("--type") == "exit") as scheme:
        if what == "variable":
            scheme.set_variable(_needed(given, "--name"), given.get("--value", ""), given.get("--original_value"))
        elif what == "operator":
            inputs = given.get("--i", ""), given.get("--i2", ""), given.get("--o", "")
            operators.make(scheme, _needed(given, "--type"), *inputs, name=given.get("--name", ""))
        elif what == "edge":
            scheme.add_edge(_needed(given, "--i"), _needed(given, "--o"))
        else:
            targets = _needed(given, "--o"), _needed(given, "--o2")
            scheme.add_fork(_needed(given, "--i"), _needed(given, "--bool"), *targets)


def _add_job(store: SchemeStore, given: Mapping[str, str]) -> None:
    source = _needed(given, "--i")
    place = Path(source)
    job = jobstar.read(place)
    stem = place.parent.name if place.is_file() else place.name
    making.add_job(store, job, given.get("--name") or stem, given.get("--mode") or NEW)


def _set_job(store: SchemeStore, given: Mapping[str, str]) -> None:
    option = "--set_job_mode" if "--set_job_mode" in given else "--set_has_started"
    value = _needed(given, "--value")
    with store.change() as scheme:
        job = scheme.jobs.get(given[option])
        if job is None:
            raise PipelineError(f"The scheme {scheme.name} has no job {given[option]!r}.")
        if option == "--set_has_started":
            job.has_started = bool(like(False, value, given[option]))
        elif value in (NEW, CONTINUE):
            job.mode = value
        else:
            raise PipelineError(f"The mode of a job is new or continue, not {value!r}.")


def _list(store: SchemeStore) -> None:
    scheme = store.read()
    runner = store.runner()
    print(f"{scheme.path} {f'runs (process {runner.pid})' if runner else 'does not run'}, at {scheme.current_node}")
    for kind, name, variable in scheme.variables():
        print(f"{kind:>8} {name} = {variable.text}")
    for node, op in scheme.operators.items():
        print(f"operator {node}: {op.type} {op.input1} {op.input2} -> {op.output}")
    for node, job in scheme.jobs.items():
        print(f"     job {node}: {job.current_name} ({job.mode})")
    for edge in scheme.edges:
        fork = f" if {edge.condition} is false, else {edge.target_if_true}" if edge.is_fork else ""
        print(f"    edge {edge.source} -> {edge.target}{fork}")
    for sentence in scheme.problems():
        print(f" warning {sentence}")


if __name__ == "__main__":
    sys.exit(main())
