"""What a Scheme is: variables, operators, jobs and the edges between them, as RELION 5 has them.

Source: schemer.h and schemer.cpp, class Scheme. Nothing here touches the disc.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from relion_py.compute.io.star import Table
from relion_py.pipeline.errors import PipelineError

UNDEFINED = "undefined"
NEW, CONTINUE = "new", "continue"

Value = float | bool | str
Extra = dict[str, str]


@dataclass
class Variable:
    """A float, bool or string with its current and its original value (`reset` goes back to the latter)."""

    value: Value
    original: Value
    extra: Extra = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The current value as people write it: 50, True, some/file.star."""
        return value_text(self.value)


def value_text(value: Value) -> str:
    """A value as people write it; whole numbers without a fraction, others with up to seven digits."""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, float):
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.7g}"
    return value


@dataclass
class Operator:
    """One operator: its type ("float=plus"), output variable and inputs; "undefined" where there is none."""

    type: str
    output: str = UNDEFINED
    input1: str = UNDEFINED
    input2: str = UNDEFINED
    extra: Extra = field(default_factory=dict)


@dataclass
class SchemeJob:
    """A job node. current_name: the project's job that runs for it ("Import/job001/"), its own name before any
    did. mode: "new" (each visit makes a new job) or "continue" (later visits continue the first one)."""

    current_name: str
    mode: str = NEW
    has_started: bool = False
    extra: Extra = field(default_factory=dict)


@dataclass
class Edge:
    """From the node `source` to `target`; a fork goes to `target_if_true` where its bool `condition` is true."""

    source: str
    target: str
    is_fork: bool = False
    target_if_true: str = UNDEFINED
    condition: str = UNDEFINED
    extra: Extra = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """Where it may lead: what follows if the condition holds comes first."""
        return (self.target_if_true, self.target) if self.is_fork else (self.target,)


@dataclass
class Scheme:
    """A scheme in memory. name: the directory's name below Schemes/. current_node: what is executed next.

    extra: further labels of the general table; extra_tables: tables that this program does not know.
    """

    name: str
    current_node: str = UNDEFINED
    floats: dict[str, Variable] = field(default_factory=dict)
    bools: dict[str, Variable] = field(default_factory=dict)
    strings: dict[str, Variable] = field(default_factory=dict)
    operators: dict[str, Operator] = field(default_factory=dict)
    jobs: dict[str, SchemeJob] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    extra: Extra = field(default_factory=dict)
    extra_tables: dict[str, Table] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The directory as job options and the file write it: "Schemes/prep/"."""
        return f"Schemes/{self.name}/"

    @property
    def nodes(self) -> list[str]:
        """The names of all operators and jobs."""
        return [*self.operators, *self.jobs]

    # ---- variables -----------------------------------------------------------------------------------

    def variable(self, name: str) -> Variable | None:
        """The variable of any kind that bears this name."""
        for kind in (self.floats, self.bools, self.strings):
            if name in kind:
                return kind[name]
        return None

    def variables(self) -> Iterator[tuple[str, str, Variable]]:
        """All variables: (kind "float" | "bool" | "string", name, variable)."""
        for kind, table in (("float", self.floats), ("bool", self.bools), ("string", self.strings)):
            for name, variable in table.items():
                yield kind, name, variable

    def set_variable(self, name: str, text: str, original: str | None = None) -> None:
        """Set a variable from text, or add it: a number makes a float, True/False a bool, else a string.

        `original` sets the original value too; a new variable's is its value otherwise. A variable that is
        there keeps its kind, and a text that its kind cannot hold is an error.
        """
        self._check_name(name)
        variable = self.variable(name)
        if variable is None:
            value = guess_value(text)
            first = value if original is None else like(value, original, name)
            table = self.bools if isinstance(value, bool) else self.floats if isinstance(value, float) else self.strings
            table[name] = Variable(value, first)
            return
        variable.value = like(variable.original, text, name)
        if original is not None:
            variable.original = like(variable.original, original, name)

    def remove_variable(self, name: str) -> None:
        """Remove a variable, with the operators and forks that use it."""
        if self.variable(name) is None:
            raise PipelineError(f"The scheme {self.name} has no variable {name!r} to remove.")
        for kind in (self.floats, self.bools, self.strings):
            kind.pop(name, None)
        for node, op in list(self.operators.items()):
            if name in (op.input1, op.input2, op.output):
                self.remove_node(node)
        self.edges = [edge for edge in self.edges if edge.condition != name]

    # ---- nodes and edges -----------------------------------------------------------------------------

    def add_job(self, name: str, mode: str) -> None:
        """Add a job node; its job.star is written by the caller."""
        self._check_name(name)
        if mode not in (NEW, CONTINUE):
            raise PipelineError(f"The mode of the job {name} must be new or continue, not {mode!r}.")
        if name in self.nodes:
            raise PipelineError(f"The scheme {self.name} has a node {name!r} already; choose another name.")
        self.jobs[name] = SchemeJob(name, mode)

    def remove_node(self, name: str) -> None:
        """Remove an operator or a job, with its edges."""
        if self.operators.pop(name, None) is None and self.jobs.pop(name, None) is None:
            raise PipelineError(f"The scheme {self.name} has no operator or job {name!r} to remove.")
        self.edges = [edge for edge in self.edges if edge.source != name and name not in edge.targets]

    def add_edge(self, source: str, target: str) -> None:
        """Let `target` follow `source`. A node has one edge or fork that leaves it."""
        self._add_edge(Edge(source, target))

    def add_fork(self, source: str, condition: str, target_if_true: str, target: str) -> None:
        """Let `target_if_true` follow `source` where the bool `condition` is true, else `target`."""
        self._add_edge(Edge(source, target, True, target_if_true, condition))

    def change_edge(self, old: Edge, new: Edge) -> None:
        """Put another edge or fork in an edge's place. PipelineError if the old one is not there any more."""
        if old not in self.edges:
            raise PipelineError(f"The edge that leaves {old.source} is not as it was; look at it again.")
        self._check_edge(new, [edge for edge in self.edges if edge != old] if new.source != old.source else [])
        self.edges[self.edges.index(old)] = new

    def _add_edge(self, edge: Edge) -> None:
        self._check_edge(edge, self.edges)
        self.edges.append(edge)
        if self.current_node == UNDEFINED:
            self.current_node = self.edges[0].source

    def _check_edge(self, edge: Edge, others: list[Edge]) -> None:
        if edge.is_fork and edge.condition not in self.bools:
            raise PipelineError(
                f"A fork needs a bool variable; the scheme {self.name} has none called {edge.condition!r}."
            )
        for node in (edge.source, *edge.targets):
            if node not in self.nodes:
                raise PipelineError(f"An edge cannot join {node!r}: the scheme {self.name} has no such node.")
        if any(other.source == edge.source for other in others):
            raise PipelineError(f"An edge or fork leaves {edge.source} already; remove that one first.")

    def _check_name(self, name: str) -> None:
        if (
            not name
            or name != name.strip()
            or any(c in name for c in "/\\ \t\n\r\0\"'$")
            or name.startswith((".", "-"))
        ):
            raise PipelineError(f"{name!r} cannot name a part of a scheme; use letters, digits, '_', '=', '-' and '.'.")

    # ---- going through the graph ---------------------------------------------------------------------

    def next_node(self, node: str) -> str:
        """What follows a node with the variables as they are; "undefined" at an end (schemer.cpp, getNextNode)."""
        following = UNDEFINED
        for edge in self.edges:
            if edge.source == node:
                following = edge.target
                if edge.is_fork:
                    chosen = self.bools.get(edge.condition)
                    if chosen is None:
                        raise PipelineError(
                            f"The fork after {node} in the scheme {self.name} asks for the bool variable "
                            f"{edge.condition!r}, which is not there."
                        )
                    following = edge.target_if_true if chosen.value else edge.target
        return following

    def advance(self) -> str:
        """Go to the next node; returns it."""
        self.current_node = self.next_node(self.current_node)
        return self.current_node

    def set_current_node(self, node: str) -> None:
        """Say which node comes next."""
        if node not in self.nodes:
            raise PipelineError(f"The scheme {self.name} has no node {node!r} to go to.")
        self.current_node = node

    def reset(self) -> None:
        """All variables to their original values, no job has run, and the first edge's start comes next."""
        for _, _, variable in self.variables():
            variable.value = variable.original
        for name, job in self.jobs.items():
            job.current_name, job.has_started = name, False
        self.current_node = self.edges[0].source if self.edges else UNDEFINED

    def renamed(self, name: str) -> Scheme:
        """A copy under another name; strings that name the scheme's directory follow (schemer.cpp, copy)."""
        old, new = self.path, f"Schemes/{name}/"
        strings = {
            key: replace(v, value=str(v.value).replace(old, new), original=str(v.original).replace(old, new))
            for key, v in self.strings.items()
        }
        return replace(self, name=name, strings=strings)

    # ---- what is wrong -------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Sentences about what will not work: unknown nodes and variables, and loops without a wait."""
        found = []
        known = set(self.nodes)
        for edge in self.edges:
            for node in (edge.source, *edge.targets):
                if node not in known:
                    found.append(f"An edge names {node!r}, which is neither an operator nor a job.")
            if edge.is_fork and edge.condition not in self.bools:
                found.append(f"The fork after {edge.source} asks for the bool {edge.condition!r}, which is not there.")
        for loop in self.loops_without_wait():
            found.append(
                f"The loop {' -> '.join([*loop, loop[0]])} has no wait operator, so it may go round without rest."
            )
        return found

    def loops_without_wait(self) -> list[list[str]]:
        """Loops in which no node waits: one for each group of nodes that reach each other (Tarjan's components)."""
        resting = {name for name, op in self.operators.items() if op.type in ("wait", "gate", "exit")}
        following: dict[str, list[str]] = {name: [] for name in self.nodes if name not in resting}
        for edge in self.edges:
            if edge.source in following:
                following[edge.source] += [t for t in edge.targets if t in following]
        reached = {name: _reachable(name, following) for name in following}
        loops, seen = [], set()
        for name in following:
            if name in reached[name] and name not in seen:
                group = [n for n in following if n in reached[name] and name in reached[n]]
                seen.update(group)
                loops.append(_one_loop(name, following, set(group)))
        return loops


def _reachable(start: str, following: dict[str, list[str]]) -> set[str]:
    """The nodes to which at least one step leads."""
    found: set[str] = set()
    waiting = list(following[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += following[node]
    return found


def _one_loop(start: str, following: dict[str, list[str]], group: set[str]) -> list[str]:
    """A shortest way from `start` back to it, inside the group."""
    came_from: dict[str, str] = {}
    waiting = [start]
    for node in waiting:
        for target in following[node]:
            if target == start:
                way = [node]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if target in group and target not in came_from:
                came_from[target] = node
                waiting.append(target)
    return [start]


def guess_value(text: str) -> Value:
    """A number, a bool or a string from text (schemer.cpp, setVariable)."""
    try:
        return float(text)
    except ValueError:
        return text in ("true", "True") if text in ("true", "True", "false", "False") else text


def like(pattern: Value, text: str, name: str) -> Value:
    """Text as a value of the same kind as `pattern`; PipelineError names the variable if it cannot be."""
    if isinstance(pattern, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise PipelineError(f"The bool variable {name} cannot be {text!r}; give True or False.")
        return text.lower() in ("true", "1")
    if isinstance(pattern, float):
        try:
            return float(text)
        except ValueError:
            raise PipelineError(f"The float variable {name} cannot be {text!r}; give a number.") from None
    if any(character in text for character in "\n\r\0\a"):
        raise PipelineError(f"The string variable {name} cannot hold a line break or control character.")
    return text
