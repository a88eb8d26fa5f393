"""External: runs any program on files of this project and takes its results back into it."""

from __future__ import annotations

from collections.abc import Callable

from . import nodes
from .common import OTHER_ARGS, THREADS_ARG, empty_input, executable, running
from .conditions import Values, all_of, empty, filled, that
from .spec import Arg, Command, JobContext, JobSpec, Option, Page, Row, Rule, file, node, output, text

INPUT = Page(
    "Input",
    (
        file(
            "fn_exe",
            "External executable:",
            help=(
                "The program or script to run; a path, or a name on the PATH. It is called with --o and the "
                "job directory, the inputs and parameters below, and --j. It must write "
                "RELION_JOB_EXIT_SUCCESS there when it is done, and may list its outputs in "
                "RELION_OUTPUT_NODES.star."
            ),
            on_continue="inactive",
            executable=True,
        ),
        node(
            "in_mov",
            "Input movies: ",
            nodes.MOVIES,
            pattern="movie STAR file (*.star)",
            help="Movies STAR file, passed as --in_movies.",
            on_continue="inactive",
        ),
        node(
            "in_mic",
            "Input micrographs: ",
            nodes.MICS,
            pattern="micrographs STAR file (*.star)",
            help="Micrographs STAR file, passed as --in_mics.",
            on_continue="inactive",
        ),
        node(
            "in_part",
            "Input particles: ",
            nodes.PARTS,
            pattern="particles STAR file (*.star)",
            help="Particles STAR file, passed as --in_parts.",
            on_continue="inactive",
        ),
        node(
            "in_coords",
            "Input coordinates: ",
            nodes.COORDS,
            pattern="STAR files (coords_suffix*.star)",
            help="Coordinates STAR file, passed as --in_coords.",
            on_continue="inactive",
        ),
        node(
            "in_3dref",
            "Input 3D reference: ",
            nodes.MAP,
            pattern="MRC files (*.mrc)",
            help="A map, passed as --in_3dref.",
            on_continue="inactive",
        ),
        node(
            "in_mask",
            "Input 3D mask: ",
            nodes.MASK,
            pattern="MRC files (*.mrc)",
            help="A mask, passed as --in_mask.",
            on_continue="inactive",
        ),
    ),
)


_PARAMETERS = range(1, 11)
_INPUTS = {
    "in_mov": "--in_movies",
    "in_mic": "--in_mics",
    "in_part": "--in_parts",
    "in_coords": "--in_coords",
    "in_3dref": "--in_3dref",
    "in_mask": "--in_mask",
}


def _parameter(n: int) -> tuple[Option, Option]:
    return (
        text(
            f"param{n}_label",
            f"Param{n} - label:",
            help="Name of a parameter, passed as --name (without the dashes here); empty for none.",
        ),
        text(
            f"param{n}_value",
            f"Param{n} - value:",
            help=(
                "Value of the parameter; may be empty for a switch. Several words are passed as "
                "several arguments "
                "unless quoted."
            ),
        ),
    )


PARAMS = Page(
    "Params",
    tuple(option for n in _PARAMETERS for option in _parameter(n)),
    rows=tuple(Row((f"param{n}_label", f"param{n}_value"), f"Param{n} label, value:") for n in _PARAMETERS),
)


def _flag(key: str) -> Callable[[JobContext], str]:
    return lambda context: "--" + context[key]


def _parameter_args() -> tuple[Arg, ...]:
    table = []
    for n in _PARAMETERS:
        given = filled(f"param{n}_label")
        table.append(Arg("", _flag(f"param{n}_label"), given))
        table.append(Arg("", f"param{n}_value", given))
    return tuple(table)


def _has_no_input(values: Values) -> bool:
    return not any(values[key] for key in _INPUTS)


SPEC = JobSpec(
    type_label="relion.external",
    type_number=99,
    directory="External",
    browser_label="External",
    hidden_file=".gui_externaljob.star",
    help="Run a program of your own inside the project.",
    pages=(INPUT, PARAMS, running(mpi=False, threads=True)),
    commands=(
        Command(
            executable("fn_exe"),
            (
                Arg("--o", output("")),
                *(Arg(flag, key, filled(key), is_input=True) for key, flag in _INPUTS.items()),
                *_parameter_args(),
                THREADS_ARG,
                OTHER_ARGS,
            ),
        ),
    ),
    refusals=(empty_input("fn_exe", "Give the program or script to run."),),
    checks=(
        Rule(
            that(_has_no_input, "no input is given", *_INPUTS),
            "Give at least one input: movies, micrographs, particles, coordinates, a reference or a mask.",
            "in_mov",
        ),
        *(
            Rule(
                all_of(filled(f"param{n}_value"), empty(f"param{n}_label")),
                "This value has no label, so it would not be passed: give the parameter a name.",
                f"param{n}_label",
            )
            for n in _PARAMETERS
        ),
    ),
)
