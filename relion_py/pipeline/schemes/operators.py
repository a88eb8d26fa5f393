"""What the operators of a scheme do (schemer.cpp, SchemerOperator::initialise, performOperation, readFromStarFile).

`OPERATORS` lists all types with what they take; `perform` executes one of those that are done at once. The
operators `wait`, `exit_maxtime`, `exit`, `email` and `gate` take time or talk to people: the runner does them.

Where release 5 does not do what its own words say, the words are followed here: numbers may stand in place of a
float variable as input2; `string=nth_word` counts negative places from the back; `float=star_table_sort_idx` 1 is
the largest value and -1 the smallest. A missing file or label is an error that names the operator, except for
`float=count_images`, which counts 0 images in a file that is not there yet, and `delete_file`, as there.
"""

from __future__ import annotations

import glob
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.schemes.model import UNDEFINED, Operator, Scheme, Value
from relion_py.pipeline.schemes.substitution import current_paths

ALLOW_OUTSIDE = "allow_outside_files"
"""A bool variable of this name, True, is how a scheme says that its file operators may leave the project."""

_KEPT_FILES = ("default_pipeline.star", ".gui_projectdir", ".relion_lock", ".relion_lock_guard")


@dataclass(frozen=True)
class OperatorType:
    """What an operator takes. Kinds: "float", "bool", "string", "number" (float variable or digits), "any";
    with a `?` it may be undefined; "" takes nothing. short: how it is called in made-up names; {1}, {2} and {o}
    stand for the inputs and the output."""

    output: str
    input1: str
    input2: str
    short: str
    help: str


OPERATORS: dict[str, OperatorType] = {
    "float=set": OperatorType("float", "float", "", "{o}=SET_{1}", "output = input1"),
    "float=plus": OperatorType("float", "float", "number", "{o}={1}_PLUS_{2}", "output = input1 + input2"),
    "float=minus": OperatorType("float", "float", "number", "{o}={1}_MINUS_{2}", "output = input1 - input2"),
    "float=mult": OperatorType("float", "float", "number", "{o}={1}_MULT_{2}", "output = input1 * input2"),
    "float=divide": OperatorType("float", "float", "number", "{o}={1}_DIV_{2}", "output = input1 / input2"),
    "float=round": OperatorType("float", "float", "", "{o}=ROUND_{1}", "output = the whole number next to input1"),
    "float=count_images": OperatorType(
        "float",
        "string",
        "string?",
        "{o}=COUNT_IMGS_{1}_{2}",
        "output = number of images in the STAR file input1, in its table input2 (particles, micrographs or movies)",
    ),
    "float=count_words": OperatorType(
        "float", "string", "", "{o}=COUNT_WORDS_{1}", "output = number of comma-separated words in input1"
    ),
    "float=read_star": OperatorType(
        "float", "string", "number?", "{o}=STAR_{1}_{2}", "output = a number from input1 = file,table,label; row input2"
    ),
    "float=star_table_max": OperatorType(
        "float", "string", "", "{o}=STAR_MAX_{1}", "output = largest value in the column input1 = file,table,label"
    ),
    "float=star_table_min": OperatorType(
        "float", "string", "", "{o}=STAR_MIN_{1}", "output = smallest value in the column input1 = file,table,label"
    ),
    "float=star_table_avg": OperatorType(
        "float", "string", "", "{o}=STAR_AVG_{1}", "output = mean of the column input1 = file,table,label"
    ),
    "float=star_table_sort_idx": OperatorType(
        "float",
        "string",
        "number",
        "{o}=STAR_SORT_IDX_{1}_{2}",
        "output = row (from 0) of the input2-largest value in input1 = file,table,label; -1 is the smallest",
    ),
    "bool=set": OperatorType("bool", "bool", "", "{o}=SET_{1}", "output = input1"),
    "bool=and": OperatorType("bool", "bool", "bool", "{o}={1}_AND_{2}", "output = input1 and input2"),
    "bool=or": OperatorType("bool", "bool", "bool", "{o}={1}_OR_{2}", "output = input1 or input2"),
    "bool=not": OperatorType("bool", "bool", "", "{o}=NOT_{1}", "output = not input1"),
    "bool=gt": OperatorType("bool", "float", "number", "{o}={1}_GT_{2}", "output = input1 > input2"),
    "bool=lt": OperatorType("bool", "float", "number", "{o}={1}_LT_{2}", "output = input1 < input2"),
    "bool=ge": OperatorType("bool", "float", "number", "{o}={1}_GE_{2}", "output = input1 >= input2"),
    "bool=le": OperatorType("bool", "float", "number", "{o}={1}_LE_{2}", "output = input1 <= input2"),
    "bool=eq": OperatorType("bool", "float", "number", "{o}={1}_EQ_{2}", "output = input1 equals input2"),
    "bool=file_exists": OperatorType("bool", "string", "", "{o}=EXISTS_{1}", "output = the file input1 exists"),
    "bool=read_star": OperatorType(
        "bool", "string", "number?", "{o}=STAR_{1}_{2}", "output = a bool from input1 = file,table,label; row input2"
    ),
    "string=set": OperatorType("string", "string", "", "{o}=SET_{1}", "output = input1"),
    "string=join": OperatorType("string", "string", "string", "{o}=JOIN_{1}_{2}", "output = input1 and then input2"),
    "string=before_first": OperatorType(
        "string", "string", "string", "{o}=BEF_FIRST_{1}_{2}", "output = input1 before the first input2 in it"
    ),
    "string=after_first": OperatorType(
        "string", "string", "string", "{o}=AFT_FIRST_{1}_{2}", "output = input1 after the first input2 in it"
    ),
    "string=before_last": OperatorType(
        "string", "string", "string", "{o}=BEF_LAST_{1}_{2}", "output = input1 before the last input2 in it"
    ),
    "string=after_last": OperatorType(
        "string", "string", "string", "{o}=AFT_LAST_{1}_{2}", "output = input1 after the last input2 in it"
    ),
    "string=read_star": OperatorType(
        "string", "string", "number?", "{o}=STAR_{1}_{2}", "output = a text from input1 = file,table,label; row input2"
    ),
    "string=glob": OperatorType(
        "string", "string", "", "{o}=GLOB_{1}", "output = the files that match input1, with commas between"
    ),
    "string=nth_word": OperatorType(
        "string",
        "string",
        "number",
        "{o}=NTH_WORD_{1}_{2}",
        "output = word input2 (from 1; -1 is the last) of the comma-separated list input1",
    ),
    "touch_file": OperatorType("", "string", "", "TOUCH_{1}", "make an empty file input1, or renew its time"),
    "copy_file": OperatorType("", "string", "string", "COPY_{1}_TO_{2}", "copy the file input1 to input2"),
    "move_file": OperatorType("", "string", "string", "MOVE_{1}_TO_{2}", "move the file input1 to input2"),
    "delete_file": OperatorType("", "string", "", "DELETE_{1}", "delete the file input1"),
    "email": OperatorType("", "any", "any?", "EMAIL_{1}_{2}", "mail input1 and input2 to the string variable email"),
    "wait": OperatorType(
        "float?",
        "float",
        "",
        "WAIT_{1}",
        "wait until input1 seconds have passed since the last wait (the first one only starts the clock)",
    ),
    "exit_maxtime": OperatorType(
        "", "float", "", "EXIT_maxtime_{1}", "exit when input1 hours have passed since this operator's first turn"
    ),
    "exit": OperatorType("", "", "", "EXIT", "end of the scheme"),
    "gate": OperatorType(
        "bool", "string?", "", "{o}=GATE_{1}", "wait until a person decides; input1 is the question, output the answer"
    ),
}

DONE_BY_RUNNER = frozenset({"wait", "exit_maxtime", "exit", "email", "gate"})
# What these find may change without the scheme's doing, so a loop of them may end by itself.
LOOKS_OUTSIDE = frozenset(
    t
    for t in OPERATORS
    if "star" in t or t in ("float=count_images", "bool=file_exists", "string=glob", "exit_maxtime")
)


def make(scheme: Scheme, kind: str, input1: str = "", input2: str = "", output: str = "", name: str = "") -> str:
    """Add an operator to a scheme (one of the same name is replaced); returns its name, made up if "" is given.

    PipelineError if the type is unknown or a variable it needs is not there (SchemerOperator::initialise).
    """
    operator = Operator(kind, output or UNDEFINED, input1 or UNDEFINED, input2 or UNDEFINED)
    wrong = problem(scheme, operator)
    if wrong:
        raise PipelineError(f"This operator cannot be added to the scheme {scheme.name}: {wrong}")
    made_up = OPERATORS[kind].short.format(None, operator.input1, operator.input2, o=operator.output)
    name = name or made_up
    if name in scheme.jobs:
        raise PipelineError(f"The scheme {scheme.name} has a job called {name}; choose another name.")
    scheme.operators[name] = operator
    return name


def problem(scheme: Scheme, op: Operator) -> str:
    """Why an operator cannot work in this scheme: a sentence, "" if it can."""
    wanted = OPERATORS.get(op.type)
    if wanted is None:
        return f"there is no operator of the type {op.type!r}."
    parts = (("output", wanted.output, op.output), ("input1", wanted.input1, op.input1))
    for part, kind, given in (*parts, ("input2", wanted.input2, op.input2)):
        if kind and not _fits(scheme, kind, given):
            what = {"number": "a float variable or a number"}.get(kind.rstrip("?"), f"a {kind.rstrip('?')} variable")
            return f"{op.type} needs {what} as {part}, and {given!r} is none."
    return ""


def _fits(scheme: Scheme, kind: str, given: str) -> bool:
    if kind.endswith("?"):
        return True  # RELION takes anything here and looks only whether it is a variable of the right kind
    if kind == "number":
        return given in scheme.floats or _is_number(given)
    tables = {"float": (scheme.floats,), "bool": (scheme.bools,), "string": (scheme.strings,)}
    return any(given in table for table in tables.get(kind, (scheme.floats, scheme.bools, scheme.strings)))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass
class Context:
    """What operators need besides the scheme: the project's directory, where they tell what they do, and whether
    the person who runs the scheme agreed that it touches files outside the project."""

    root: Path
    say: Callable[[str], None] = print
    allow_outside: bool = False


def perform(scheme: Scheme, node: str, context: Context) -> None:
    """Execute an operator: its output variable in `scheme` is set, or its file is touched, copied, moved, deleted.

    PipelineError names the operator and what it wanted.
    """
    op = scheme.operators[node]
    wrong = problem(scheme, op)
    if wrong:
        raise PipelineError(f"The operator {node} of the scheme {scheme.name} cannot work: {wrong}")
    if op.type in DONE_BY_RUNNER:
        raise PipelineError(f"The operator {node} ({op.type}) works only while the scheme {scheme.name} runs.")
    work = _Work(scheme, op, context)
    try:
        result = _ACTIONS[op.type](work)
    except (PipelineError, UserError, OSError) as error:
        what = f"{error.filename}: {error.strerror}." if isinstance(error, OSError) else str(error)
        raise PipelineError(f"The operator {node} ({op.type}) of the scheme {scheme.name}: {what}") from error
    if result is not None:
        variable = scheme.variable(op.output)
        assert variable is not None
        variable.value = result


@dataclass
class _Work:
    """One operator at work: its inputs as values."""

    scheme: Scheme
    op: Operator
    context: Context

    def float1(self) -> float:
        return float(self.scheme.floats[self.op.input1].value)

    def number2(self, default: float | None = None) -> float:
        if self.op.input2 in self.scheme.floats:
            return float(self.scheme.floats[self.op.input2].value)
        if default is not None and not _is_number(self.op.input2):
            return default
        return float(self.op.input2)

    def bool1(self) -> bool:
        return bool(self.scheme.bools[self.op.input1].value)

    def bool2(self) -> bool:
        return bool(self.scheme.bools[self.op.input2].value)

    def string1(self) -> str:
        return self._string(self.op.input1)

    def string2(self, default: str | None = None) -> str:
        if default is not None and self.op.input2 not in self.scheme.strings:
            return default
        return self._string(self.op.input2)

    def _string(self, name: str) -> str:
        return current_paths(self.context.root, self.scheme, str(self.scheme.strings[name].value))

    # ---- STAR files ----------------------------------------------------------------------------------

    def column(self) -> tuple[list[str], str]:
        """The column that input1 = file,table,label names, and how to call it in sentences."""
        words = [word.strip() for word in self.string1().split(",")]
        if len(words) < 3:
            raise PipelineError(f"it wants file,table,label with commas between, and was given {self.string1()!r}.")
        file, table, label = words[0], words[1], words[2].removeprefix("_")
        rows = self._table(file, table)
        if label not in rows:
            raise PipelineError(f"it wanted the label _{label} in data_{table} of {file}, which is not there.")
        return rows.strings(label), f"_{label} in data_{table} of {file}"

    def _table(self, file: str, table: str) -> star.Table:
        if not (self.context.root / file).is_file():
            raise PipelineError(f"it wanted the file {file}, which is not there.")
        tables = star.read(self.context.root / file)
        if table not in tables:
            raise PipelineError(f"it wanted the table data_{table} of {file}, which is not there.")
        return tables[table]

    def entry(self) -> tuple[str, str]:
        """One value of the column, in the row input2 (from 0), and how to call it."""
        column, what = self.column()
        row = round_half_away(self.number2(default=0))
        if not 0 <= row < len(column):
            raise PipelineError(f"it wanted row {row:g} (from 0) of {what}, which has {len(column)} rows.")
        return column[int(row)], what

    def numbers(self) -> list[float]:
        """The column as numbers, of which there is at least one."""
        column, what = self.column()
        if not column:
            raise PipelineError(f"it wanted values of {what}, which has no rows.")
        return [_number(text, what) for text in column]

    def count_images(self) -> float:
        """Rows of the table; 0 if the file is not there yet. STAR files of old releases have one nameless table."""
        file, table = self.string1(), self.string2(default="particles")
        path = self.context.root / file
        if not path.is_file():
            return 0.0
        tables = star.read(path)
        if table not in tables and len(tables) == 1 and next(iter(tables)) in ("", "images"):
            return float(len(next(iter(tables.values()))))
        return float(len(self._table(file, table)))

    # ---- files ---------------------------------------------------------------------------------------

    def matches(self) -> list[str]:
        pattern = self.string1()
        return sorted(glob.glob(pattern, root_dir=self.context.root))

    def inside(self, path: str) -> Path:
        """A path that a file operator may touch. Links are followed in all but its last part, which is the file
        that is touched. PipelineError if it leads out of the project without leave, or at the project's own files.
        """
        root = Path(os.path.realpath(self.context.root))
        if not path or "\0" in path:
            raise PipelineError("it was given no name of a file.")
        full = root / path
        real = Path(os.path.realpath(full.parent)) / full.name if full.name != ".." else Path(os.path.realpath(full))
        if not real.is_relative_to(root) or real == root:
            outside = self.scheme.bools.get(ALLOW_OUTSIDE)
            if outside is None or not outside.value:
                raise PipelineError(
                    f"{path} lies outside the project, and the scheme has no bool {ALLOW_OUTSIDE} that is True."
                )
            if not self.context.allow_outside:
                raise PipelineError(f"{path} lies outside the project; agree to that with --allow_outside.")
        elif real.relative_to(root).parts[0] in _KEPT_FILES:
            raise PipelineError(f"{path} belongs to the project itself, so it is left alone.")
        return real

    def sources(self) -> list[Path]:
        """The files that input1 names, by wildcards too; directories are not files."""
        text = self.string1()
        found = self.matches() if glob.has_magic(text) else [text]
        paths = [self.inside(path) for path in found]
        for path, name in zip(paths, found, strict=True):
            if path.is_dir() and not path.is_symlink():
                raise PipelineError(f"{name} is a directory, and only files are touched.")
        return paths

    def transfers(self) -> list[tuple[Path, Path]]:
        """From where to where files are copied or moved; directories on the way are made."""
        sources = self.sources()
        if not sources or not all(source.is_file() for source in sources):
            raise PipelineError(f"it wanted the file {self.string1()}, which is not there.")
        target = self.inside(self.string2().rstrip("/") or "/")
        into = self.string2().endswith("/") or target.is_dir()
        if len(sources) > 1 and not into:
            raise PipelineError(f"{self.string1()} is more than one file, so {self.string2()} must be a directory.")
        pairs = [(source, self.inside(str(target / source.name)) if into else target) for source in sources]
        for _, goal in pairs:
            if goal.is_symlink():
                self.inside(os.path.realpath(goal))
            goal.parent.mkdir(parents=True, exist_ok=True)
        return pairs


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PipelineError(f"it wanted a number, and {what} is {text!r}.") from None


def round_half_away(value: float) -> float:
    """The next whole number; halves go away from zero (macros.h, ROUND)."""
    return float(math.floor(value + 0.5) if value > 0 else math.ceil(value - 0.5))


def _words(text: str) -> list[str]:
    return [] if text == UNDEFINED else [word for word in text.split(",") if word]


def _divide(work: _Work) -> float:
    if work.number2() == 0:
        raise PipelineError(f"{work.op.input2} is zero, and nothing can be divided by it.")
    return work.float1() / work.number2()


def _sort_idx(work: _Work) -> float:
    place = int(round_half_away(work.number2()))
    numbers = work.numbers()
    if place == 0 or abs(place) > len(numbers):
        raise PipelineError(
            f"input2 must be 1 (largest) to {len(numbers)}, or -1 (smallest) to -{len(numbers)}, not {place}."
        )
    downwards = sorted(range(len(numbers)), key=lambda index: (-numbers[index], index))
    return float(downwards[place - 1 if place > 0 else place])


def _read_bool(work: _Work) -> bool:
    text, what = work.entry()
    if text.lower() not in ("0", "1", "true", "false"):
        raise PipelineError(f"it wanted a bool, and {what} is {text!r}.")
    return text.lower() in ("1", "true")


def _part(work: _Work, last: bool, after: bool) -> str:
    """The text before or after the first or last input2; all of it where there is none."""
    text, mark = work.string1(), work.string2()
    at = text.rfind(mark) if last else text.find(mark)
    if at < 0:
        return text
    return text[at + len(mark) :] if after else text[:at]


def _nth_word(work: _Work) -> str:
    words = _words(work.string1())
    place = int(round_half_away(work.number2()))
    if place == 0 or abs(place) > len(words):
        return UNDEFINED
    return words[place - 1 if place > 0 else place]


def _glob(work: _Work) -> str:
    return ",".join(work.matches()) or UNDEFINED


def _touch(work: _Work) -> None:
    path = work.inside(work.string1())
    if path.is_symlink():
        work.inside(os.path.realpath(path))
    work.context.say(f"Touching: {work.string1()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _copy(work: _Work) -> None:
    for source, target in work.transfers():
        work.context.say(f"Copying: {source} to {target}")
        if source.is_symlink():
            work.inside(os.path.realpath(source))
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


def _move(work: _Work) -> None:
    for source, target in work.transfers():
        work.context.say(f"Moving: {source} to {target}")
        shutil.move(source, target)


def _delete(work: _Work) -> None:
    for path in work.sources():
        work.context.say(f"Deleting: {path}")
        path.unlink(missing_ok=True)


_ACTIONS: dict[str, Callable[[_Work], Value | None]] = {
    "float=set": lambda w: w.float1(),
    "float=plus": lambda w: w.float1() + w.number2(),
    "float=minus": lambda w: w.float1() - w.number2(),
    "float=mult": lambda w: w.float1() * w.number2(),
    "float=divide": _divide,
    "float=round": lambda w: round_half_away(w.float1()),
    "float=count_images": lambda w: w.count_images(),
    "float=count_words": lambda w: float(len(_words(w.string1()))),
    "float=read_star": lambda w: _number(*w.entry()),
    "float=star_table_max": lambda w: max(w.numbers()),
    "float=star_table_min": lambda w: min(w.numbers()),
    "float=star_table_avg": lambda w: math.fsum(w.numbers()) / len(w.numbers()),
    "float=star_table_sort_idx": _sort_idx,
    "bool=set": lambda w: w.bool1(),
    "bool=and": lambda w: w.bool1() and w.bool2(),
    "bool=or": lambda w: w.bool1() or w.bool2(),
    "bool=not": lambda w: not w.bool1(),
    "bool=gt": lambda w: w.float1() > w.number2(),
    "bool=lt": lambda w: w.float1() < w.number2(),
    "bool=ge": lambda w: w.float1() >= w.number2(),
    "bool=le": lambda w: w.float1() <= w.number2(),
    "bool=eq": lambda w: abs(w.float1() - w.number2()) < 1e-8,
    "bool=file_exists": lambda w: bool(w.string1()) and (w.context.root / w.string1()).exists(),
    "bool=read_star": _read_bool,
    "string=set": lambda w: w.string1(),
    "string=join": lambda w: w.string1() + w.string2(),
    "string=before_first": lambda w: _part(w, last=False, after=False),
    "string=after_first": lambda w: _part(w, last=False, after=True),
    "string=before_last": lambda w: _part(w, last=True, after=False),
    "string=after_last": lambda w: _part(w, last=True, after=True),
    "string=read_star": lambda w: w.entry()[0],
    "string=glob": _glob,
    "string=nth_word": _nth_word,
    "touch_file": _touch,
    "copy_file": _copy,
    "move_file": _move,
    "delete_file": _delete,
}
