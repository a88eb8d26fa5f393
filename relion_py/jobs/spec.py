"""The form in which a job type is described: options, commands as tables of arguments, nodes, rules.

A job type is one `JobSpec` in one module. Everything in it can be looked into (conditions print themselves),
and what no table can express is a small pure function of a `JobContext`. `build` turns values into argument
vectors without touching the disc (except through `ProjectFiles`), `validate` tells all problems at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from . import quoting
from .conditions import Condition, NotANumber, always, number
from .environment import SiteEnvironment
from .files import DiskFiles, ProjectFiles
from .form import Limits, Option, Page, Problem, Row, Tab, choice, file, node, slider, text, yes_no
from .nodes import Node
from .numeric import parse_number, whole

__all__ = [
    "Arg",
    "BuiltJob",
    "CleanRule",
    "Command",
    "Display",
    "JobContext",
    "JobSpec",
    "Limits",
    "Node",
    "Option",
    "Output",
    "Page",
    "Problem",
    "Row",
    "Rule",
    "Tab",
    "choice",
    "file",
    "node",
    "output",
    "slider",
    "text",
    "yes_no",
]


class JobContext(Mapping[str, str]):
    """The values of one job with everything else that its commands depend on."""

    def __init__(
        self,
        values: Mapping[str, str],
        job_name: str,
        is_continue: bool,
        env: SiteEnvironment,
        files: ProjectFiles,
    ) -> None:
        self._values = values
        self.job_name = job_name
        self.is_continue = is_continue
        self.env = env
        self.files = files

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def yes(self, key: str) -> bool:
        """Whether a switch is on."""
        return self._values.get(key) == "Yes"

    def number(self, key: str) -> float:
        """The option's number in single precision; NotANumber where it is none."""
        return number(self._values, key)


Value = str | Callable[[JobContext], str]

Words = tuple[str, ...]


@dataclass(frozen=True)
class Arg:
    """A flag of a command, given `when` its condition holds.

    value: None = a bare flag; text = the key of the option whose value follows it; a function of the context
    = that text follows. With an empty `flag` the value stands alone, split into words as a shell would split
    it. is_input: the option's file is an input node of the job, of the option's node type.
    """

    flag: str
    value: Value | None = None
    when: Condition = always
    is_input: bool = False

    def words(self, context: JobContext) -> Words:
        if self.value is None:
            return tuple(self.flag.split())
        value = context[self.value] if isinstance(self.value, str) else self.value(context)
        return (self.flag, value) if self.flag else quoting.words(value)


def output(name: str) -> Callable[[JobContext], str]:
    """An argument's value: a name inside the job directory ("" for the directory itself)."""
    return lambda context: context.job_name + name


def literal(value: str) -> Callable[[JobContext], str]:
    """An argument's value: always this text."""
    return lambda context: value


@dataclass(frozen=True)
class Command:
    """One program run. program: its name, or a function for one that the person chooses (which may be several
    words). With `mpi`, "<program>_mpi" runs when more than one MPI process is asked for."""

    program: str | Callable[[JobContext], Words]
    args: tuple[Arg, ...]
    mpi: bool = False
    when: Condition = always

    def words(self, context: JobContext) -> Words:
        if callable(self.program):
            head = self.program(context)
        else:
            head = (self.program + "_mpi",) if self.mpi and context.number("nr_mpi") > 1 else (self.program,)
        given = (arg.words(context) for arg in self.args if arg.when(context))
        return (*head, *(word for words in given for word in words))

    def input_keys(self, context: JobContext) -> Iterator[str]:
        for arg in self.args:
            if arg.is_input and isinstance(arg.value, str) and arg.when(context):
                yield arg.value


@dataclass(frozen=True)
class Output:
    """A file that the job leaves as a node: a name inside the job directory, or a function of the context."""

    name: Value
    type: str
    when: Condition = always

    def nodes(self, context: JobContext) -> tuple[Node, ...]:
        name = self.name if isinstance(self.name, str) else self.name(context)
        return (Node(context.job_name + name, self.type),)


Outputs = Output | Callable[[JobContext], tuple[Node, ...]]


@dataclass(frozen=True)
class Rule:
    """A mistake in the values: `bad` holds when it was made; the sentence says what to do."""

    bad: Condition
    message: str
    key: str = ""


@dataclass(frozen=True)
class Input:
    """An input node that no argument's own value names: the option, or a type other than the option's."""

    key: str
    type: str = ""
    when: Condition = always


@dataclass(frozen=True)
class CleanRule:
    """What cleaning moves to the trash: shell patterns from the job directory ("*/" stands for every
    subdirectory at any depth; a pattern that ends with "/" means whole directories).

    iterations: remove the files of all iterations except the last and those that are nodes of the pipeline.
    """

    patterns: tuple[str, ...] = ()
    iterations: bool = False


@dataclass(frozen=True)
class Display:
    """Something in the job directory worth showing: a label, a shell pattern, and how to show it."""

    label: str
    pattern: str
    viewer: Literal["map", "stack", "micrographs", "coordinates", "particles", "classes", "plot", "pdf", "star"]


@dataclass(frozen=True)
class BuiltJob:
    """What a job would run. `commands` are argument vectors without launcher, as they go into a queue's
    template; `local_commands` have `mpirun -n N` before the MPI programs. `refusal` says why RELION would
    refuse the job ("" if it would not); then there are no commands. `problems` are everything that we
    find wrong in the values."""

    type_label: str
    job_name: str
    commands: tuple[Words, ...]
    input_nodes: tuple[Node, ...] = ()
    output_nodes: tuple[Node, ...] = ()
    problems: tuple[Problem, ...] = ()
    refusal: str = ""
    local_commands: tuple[Words, ...] = ()
    nr_mpi: int = 1
    nr_threads: int = 1


@dataclass(frozen=True)
class JobSpec:
    """Everything about one job type. See docs/adding-a-job-type.md for how to write one."""

    type_label: str
    type_number: int
    directory: str
    browser_label: str
    hidden_file: str
    pages: tuple[Page, ...]
    commands: tuple[Command, ...]
    outputs: tuple[Outputs, ...] = ()
    inputs: tuple[Input, ...] = ()
    labels: tuple[tuple[str, Condition], ...] = ()
    refusals: tuple[Rule, ...] = ()
    checks: tuple[Rule, ...] = ()
    hidden_options: tuple[Option, ...] = ()
    continuable: bool = True
    gentle: CleanRule = CleanRule()
    harsh: CleanRule = CleanRule()
    display: tuple[Display, ...] = ()
    control_flag: str = "--pipeline_control"
    help: str = ""
    options: Mapping[str, Option] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        listed = [option for page in self.pages for option in page.options] + list(self.hidden_options)
        options = {option.key: option for option in listed}
        if len(options) != len(listed):
            raise ValueError(f"{self.type_label}: an option is declared twice")
        object.__setattr__(self, "options", MappingProxyType(options))

    @property
    def tabs(self) -> tuple[Tab, ...]:
        return tuple(page.tab for page in self.pages)

    def for_site(self, env: SiteEnvironment) -> JobSpec:
        """The same job type with a site's defaults and limits, and its extra queue variables as options."""
        pages = []
        for page in self.pages:
            options = [_for_site(option, env) for option in page.options]
            place = next((i for i, option in enumerate(options) if option.key == "qsubscript"), None)
            if place is not None:
                extras = _queue_options(env, options[place])
                options[place:place] = [extra for extra in extras if extra.key not in self.options]
            pages.append(replace(page, options=tuple(options)))
        return replace(self, pages=tuple(pages))

    def defaults(self, env: SiteEnvironment | None = None) -> dict[str, str]:
        """Every option's default value at a site (without one: on a machine where no variable is set)."""
        spec = self.for_site(env or SiteEnvironment())
        return {key: option.default for key, option in spec.options.items()}

    def is_active(self, key: str, values: Mapping[str, str], is_continue: bool) -> bool:
        """Whether a person may change this entry now: its switch is on, and the job's state allows it.

        A switch that holds a Scheme's variable ("$$...") counts as on. Source: gui_entries.cpp, cb_menu_i.
        """
        option = self.options[key]
        blocked = {"inactive": is_continue, "only": not is_continue, "never": True, "active": False}
        return not blocked[option.on_continue] and self.is_enabled(key, values)

    def is_enabled(self, key: str, values: Mapping[str, str]) -> bool:
        """Whether the switches that group this option let it count (whatever the job's state)."""
        condition = self.options[key].enabled_when
        if condition is None or any(values.get(k, "").startswith("$$") for k in condition.keys):
            return True
        return condition(values)

    def context(
        self,
        values: Mapping[str, str],
        job_name: str = "",
        is_continue: bool = False,
        env: SiteEnvironment | None = None,
        files: ProjectFiles | None = None,
    ) -> JobContext:
        """The values completed with defaults, and what else commands depend on."""
        env = env or SiteEnvironment()
        known = {**self.defaults(env), **values}
        name = job_name or f"{self.directory}/job001/"
        return JobContext(known, name, is_continue, env, files or DiskFiles())

    def build(
        self,
        values: Mapping[str, str],
        job_name: str = "",
        is_continue: bool = False,
        env: SiteEnvironment | None = None,
        files: ProjectFiles | None = None,
    ) -> BuiltJob:
        """Turn values into commands and nodes. Nothing is run and nothing is written.

        values: option key -> text; keys that are missing take their defaults. job_name: with closing slash,
        e.g. "Refine3D/job007/". files: where the few files that commands depend on are looked up (the
        current directory unless given; see `ProjectFiles`). Source: RELION 5 pipeline_jobs.cpp,
        getCommands...Job and prepareFinalCommand.
        """
        context = self.context(values, job_name, is_continue, env, files)
        problems = self._value_problems(context)
        refused = self._refusals(context)
        built: BuiltJob | None = None
        if not refused:
            try:
                built = self._built(context)
            except NotANumber as error:
                refused = (self._not_a_number(error),)
        if built is None:
            told = {problem.key for problem in refused if problem.key}
            rest = tuple(problem for problem in problems if problem.key not in told)
            label = self._label(context)
            return BuiltJob(label, context.job_name, (), problems=refused + rest, refusal=refused[0].message)
        return replace(built, problems=problems)

    def validate(
        self,
        values: Mapping[str, str],
        project_root: Path | None = None,
        is_continue: bool = False,
        job_name: str = "",
        env: SiteEnvironment | None = None,
    ) -> tuple[Problem, ...]:
        """All problems of the values at once, each at its option; with a project also those seen on its
        disc.

        job_name: the job that is continued, where there is one. env: the site's (read from RELION_*
        variables unless given).
        """
        files = DiskFiles(project_root or Path())
        env = env or SiteEnvironment.from_environ()
        problems = list(self.build(values, job_name, is_continue, env, files).problems)
        if project_root is not None:
            from . import diskchecks

            context = self.context(values, job_name, is_continue, env, files)
            problems += diskchecks.problems(self, context, project_root)
        return tuple(dict.fromkeys(problems))

    # How the parts of `build` are made.

    def _built(self, context: JobContext) -> BuiltJob:
        wanted = tuple(command for command in self.commands if command.when(context))
        commands = tuple(self._controlled(command.words(context), context) for command in wanted)
        nr_mpi = whole(context.number("nr_mpi")) if "nr_mpi" in self.options else 1
        launcher = (*quoting.words(context.env.mpirun), "-n", str(nr_mpi)) if nr_mpi > 1 else ()
        local = tuple(launcher + c if _is_relion_mpi(c[0]) else c for c in commands)
        inputs = [key for command in wanted for key in command.input_keys(context)]
        nodes = [Node(context[key], self.options[key].node_type) for key in inputs]
        nodes += [
            Node(context[item.key], item.type or self.options[item.key].node_type)
            for item in self.inputs
            if item.when(context)
        ]
        threads = parse_number(context.get("nr_threads", "1")) or 1
        return BuiltJob(
            self._label(context),
            context.job_name,
            commands,
            tuple(nodes),
            self._output_nodes(context),
            local_commands=local,
            nr_mpi=nr_mpi,
            nr_threads=max(1, whole(threads)),
        )

    def _controlled(self, words: Words, context: JobContext) -> Words:
        """RELION tells its own programs the job directory for their control files; it knows them by their
        name (anything with "relion_" in it; prepareFinalCommand)."""
        if any("relion_" in word for word in words):
            return (*words, self.control_flag, context.job_name)
        return words

    def _output_nodes(self, context: JobContext) -> tuple[Node, ...]:
        found: list[Node] = []
        for item in self.outputs:
            if not isinstance(item, Output):
                found += item(context)
            elif item.when(context):
                found += item.nodes(context)
        return tuple(found)

    def _label(self, context: JobContext) -> str:
        try:
            return self.type_label + "".join(f".{name}" for name, when in self.labels if when(context))
        except NotANumber:
            return self.type_label

    def _refusals(self, context: JobContext) -> tuple[Problem, ...]:
        found = []
        for rule in (*self.refusals, *_COMMON_REFUSALS):
            try:
                if rule.bad(context):
                    found.append(Problem(rule.key, rule.message))
            except NotANumber as error:
                found.append(self._not_a_number(error))
        return tuple(dict.fromkeys(found))

    def _not_a_number(self, error: NotANumber) -> Problem:
        label = self.options[error.key].label.strip().rstrip(":?") if error.key in self.options else error.key
        return Problem(error.key, f"'{label}' must be a number, not '{error.text}'.")

    def _value_problems(self, context: JobContext) -> tuple[Problem, ...]:
        found = []
        for key, option in self.options.items():
            if not self.counts(key, context):
                continue
            message = _complaint(option, context[key])
            if message:
                found.append(Problem(key, message))
        for rule in self.checks:
            try:
                if rule.bad(context):
                    found.append(Problem(rule.key, rule.message))
            except NotANumber as error:
                found.append(self._not_a_number(error))
        return tuple(dict.fromkeys(found))

    def counts(self, key: str, context: JobContext) -> bool:
        """Whether an option's value matters: its switches are on, and it is not for the other kind of run."""
        if self.options[key].on_continue == "only" and not context.is_continue:
            return False
        return self.is_enabled(key, context)


def _is_relion_mpi(program: str) -> bool:
    return "relion_" in program and program.endswith("_mpi")


def _too_many_local(values: Mapping[str, str]) -> bool:
    limit = values.env.local_mpi_max if isinstance(values, JobContext) else SiteEnvironment().local_mpi_max
    return values.get("do_queue") != "Yes" and "nr_mpi" in values and whole(number(values, "nr_mpi")) > limit


def _common_refusals() -> tuple[Rule, ...]:
    from .conditions import that

    return (
        Rule(
            that(_too_many_local, "more local MPI processes than the site allows", "nr_mpi", "do_queue"),
            "That is more MPI processes than may run on this machine without the queue: use fewer, "
            "submit to the "
            "queue, or raise the environment variable RELION_ERROR_LOCAL_MPI.",
            "nr_mpi",
        ),
    )


_COMMON_REFUSALS = _common_refusals()


def _for_site(option: Option, env: SiteEnvironment) -> Option:
    if option.site_default:
        option = replace(option, default=str(getattr(env, option.site_default)))
    if option.site_maximum:
        option = replace(option, maximum=float(getattr(env, option.site_maximum)))
    if option.key == "min_dedicated" and not env.may_change_min_dedicated:
        option = replace(option, on_continue="never")
    return option


def _queue_options(env: SiteEnvironment, like: Option) -> list[Option]:
    return [
        text(f"qsub_extra{e.index}", e.label, e.default, help=e.help, enabled_when=like.enabled_when)
        for e in env.queue_extras
    ]


def _complaint(option: Option, value: str) -> str:
    """What is wrong with one value by itself, as a sentence, or ""."""
    label = option.label.strip().rstrip(":?")
    if "$$" in value:  # filled in by a Scheme when it runs
        return ""
    if option.required and not value.strip():
        return f"'{label}' is empty: give it before the job can run."
    if any(c in value for c in "\n\r\0"):
        return f"'{label}' holds a line break or a control character: remove it."
    if option.kind == "yes_no" and value not in ("Yes", "No"):
        return f"'{label}' must be Yes or No, not '{value}'."
    if option.kind == "choice" and value not in option.choices:
        return f"'{label}' has no choice '{value}': take one of {', '.join(option.choices)}."
    limits = option.limits or (Limits() if option.kind == "slider" else None)
    if limits is not None and (value or option.kind == "slider"):
        complaint = limits.complaint(value)
        if complaint:
            return f"'{label}' must {complaint}."
    if option.key in ("other_args", "topaz_other_args") and not quoting.is_balanced(value):
        return f"'{label}' has an opening quote without a closing one."
    return ""
