"""3D multi-body refinement: bodies that move against each other, and an analysis of how (relion_refine)."""

from __future__ import annotations

from collections.abc import Callable

from . import nodes
from .common import (
    COUNT,
    GPU_ARG,
    NOT_NEGATIVE,
    OTHER_ARGS,
    POSITIVE,
    THREADS_ARG,
    running,
    sampling_order,
    times,
    unknown_sampling,
)
from .common import SAMPLING as ANGLES
from .conditions import (
    Condition,
    Values,
    above,
    all_of,
    any_of,
    continuing,
    empty,
    filled,
    new_job,
    number,
    off,
    on,
    that,
)
from .nodes import Node
from .numeric import format_number, parse_number, round_half_away, whole
from .refinement import PAD_AS_ASKED, REFINE_CLEAN, compute_args
from .refinement_options import BLUSH, CONTINUE_FROM, compute
from .spec import (
    Arg,
    CleanRule,
    Command,
    Display,
    Input,
    JobContext,
    JobSpec,
    Limits,
    Output,
    Page,
    Rule,
    choice,
    file,
    literal,
    output,
    slider,
    yes_no,
)

I_O = Page(
    "I/O",
    (
        file(
            "fn_in",
            "Consensus refinement optimiser.star: ",
            pattern="STAR Files (run_it*_optimiser.star)",
            directory="Refine3D/.",
            help="Optimiser STAR file of the consensus refinement from which to start.",
            on_continue="inactive",
        ),
        CONTINUE_FROM,
        file(
            "fn_bodies",
            "Body STAR file:",
            pattern="STAR Files (*.{star})",
            help=("STAR file that describes the bodies: a mask for each, and how they rotate to each other."),
            on_continue="inactive",
        ),
        yes_no(
            "do_subtracted_bodies",
            "Reconstruct subtracted bodies?",
            True,
            help=("Yes subtracts all other bodies from the images before the reconstruction of each: less noise."),
            on_continue="inactive",
        ),
        BLUSH,
    ),
)

AUTO_SAMPLING = Page(
    "Auto-sampling",
    (
        choice(
            "sampling",
            "Initial angular sampling:",
            ANGLES,
            "1.8 degrees",
            help=(
                "Angle between tested orientations (after the two-fold oversampling); auto-refinement makes "
                "it finer by itself. 7.5 degrees suits most, 3.7 icosahedral particles."
            ),
            on_continue="inactive",
        ),
        slider(
            "offset_range",
            "Initial offset range (pix):",
            "3",
            0,
            30,
            1,
            help=("Shifts are searched up to this far (pixels) from the last known centre."),
            on_continue="inactive",
            limits=NOT_NEGATIVE,
        ),
        slider(
            "offset_step",
            "Initial offset step (pix):",
            "0.75",
            0.1,
            5,
            0.1,
            help="Distance (pixels) between tested shifts, after two-fold oversampling.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
    ),
)

ANALYSE = Page(
    "Analyse",
    (
        yes_no(
            "do_analyse",
            "Run flexibility analysis?",
            True,
            help=("Yes analyses the relative motions by principal components after the refinement."),
        ),
        slider(
            "nr_movies",
            "Number of eigenvector movies:",
            "3",
            0,
            16,
            1,
            help="Along this many components, maps are made that show the motion.",
            enabled_when=on("do_analyse"),
            limits=Limits(0, integer=True),
        ),
        yes_no(
            "do_select",
            "Select particles based on eigenvalues?",
            False,
            help="Yes selects particles by their position along a component.",
            enabled_when=on("do_analyse"),
        ),
        slider(
            "select_eigenval",
            "Select on eigenvalue:",
            "1",
            1,
            20,
            1,
            help="Number of that component, counted from 1.",
            enabled_when=all_of(on("do_analyse"), on("do_select")),
            limits=COUNT,
        ),
        slider(
            "eigenval_min",
            "Minimum eigenvalue:",
            "-999",
            -50,
            50,
            1,
            help="Smallest position that is selected.",
            enabled_when=all_of(on("do_analyse"), on("do_select")),
        ),
        slider(
            "eigenval_max",
            "Maximum eigenvalue:",
            "999",
            -50,
            50,
            1,
            help="Largest position that is selected.",
            enabled_when=all_of(on("do_analyse"), on("do_select")),
        ),
    ),
)


_REFINE = any_of(new_job, filled("fn_cont"))
_RESUME = all_of(continuing, filled("fn_cont"))
_ANALYSE = on("do_analyse")
_ONLY_ANALYSE = all_of(continuing, empty("fn_cont"), _ANALYSE)
_SELECT = all_of(_ANALYSE, on("do_select"))


def continued_iteration(values: Values) -> float | None:
    """The iteration in the name of the optimiser file to continue from, or None where it tells none.

    The six characters after "_it" are read as a number; without "_it" RELION reads from the third character
    on.
    """
    name = values["fn_cont"]
    place = name.rfind("_it") + 3
    return parse_number(name[place : place + 6]) if name[place : place + 6] else None


def run_root(context: JobContext) -> str:
    """Root name of the refinement's files: "run", or "run_ct12" when continuing from iteration 12."""
    if not context.is_continue:
        return context.job_name + "run"
    return f"{context.job_name}run_ct{format_number(whole(continued_iteration(context) or 0))}"


def analysed_root(context: JobContext) -> str:
    """Root name of the refinement to analyse: the one of this run, else the only finished one in the
    directory."""
    return run_root(context) if _REFINE(context) else finished_models(context)[0].partition("_model.star")[0]


def finished_models(context: JobContext) -> tuple[str, ...]:
    """The model files of finished refinements in the job directory, which name no iteration."""
    found = context.files.glob(context.job_name + "run*_model.star")
    return tuple(name for name in found if "_it" not in name)


def half_map_nodes(context: JobContext) -> tuple[Node, ...]:
    """An unfiltered half-map for every body."""
    if not _REFINE(context):
        return ()
    bodies = context.files.row_count(context["fn_bodies"])
    root = run_root(context)
    if bodies <= 1:
        return (Node(root + "_half1_class001_unfil.mrc", nodes.MULTIBODY_HALFMAP),)
    return tuple(Node(f"{root}_half1_body{k:03d}_unfil.mrc", nodes.MULTIBODY_HALFMAP) for k in range(1, bodies + 1))


def three_characters(number: int) -> str:
    """A number in three characters, the last ones where it is longer (strings.cpp, integerToString)."""
    return f"{number:03d}"[-3:] if number >= 0 else "-" + f"{-number:02d}"[-2:]


def selection_name(context: JobContext) -> str:
    """Name of the file with the selected particles: the component and, unless they are open, the limits."""
    name = f"analyse_eval{three_characters(whole(context.number('select_eigenval')))}_select"
    low, high = (round_half_away(context.number(f"eigenval_{end}")) for end in ("min", "max"))
    name += f"_min{low}" if low > -99998 else ""
    name += f"_max{high}" if high < 99998 else ""
    return name + ".star"


def _no_bodies(values: Values) -> bool:
    return isinstance(values, JobContext) and not values.files.exists(values["fn_bodies"])


def _models(count_is_bad: Callable[[int], bool], text: str) -> Condition:
    def bad(values: Values) -> bool:
        return isinstance(values, JobContext) and count_is_bad(len(finished_models(values)))

    return all_of(_ONLY_ANALYSE, that(bad, text))


SPEC = JobSpec(
    type_label="relion.multibody",
    type_number=19,
    directory="MultiBody",
    browser_label="3D multi-body",
    hidden_file=".gui_multibodyjob.star",
    help="Refine bodies that move against each other.",
    pages=(I_O, AUTO_SAMPLING, ANALYSE, compute(pad=True), running(mpi=True, threads=True)),
    commands=(
        Command(
            "relion_refine",
            (
                Arg("--continue", "fn_cont", continuing),
                Arg("--continue", "fn_in", new_job),
                Arg("--o", run_root),
                Arg("--solvent_correct_fsc", when=new_job),
                Arg("--multibody_masks", "fn_bodies", new_job),
                Arg("--oversampling", literal("1"), new_job),
                Arg("--healpix_order", sampling_order("sampling", 1), new_job),
                Arg("--auto_local_healpix_order", sampling_order("sampling", 1), new_job),
                Arg("--offset_range", "offset_range", new_job),
                Arg("--offset_step", times("offset_step", 2.0), new_job),
                Arg("--blush", when=on("do_blush")),
                Arg("--reconstruct_subtracted_bodies", when=on("do_subtracted_bodies")),
                *compute_args(*PAD_AS_ASKED),
                THREADS_ARG,
                GPU_ARG,
                OTHER_ARGS,
            ),
            mpi=True,
            when=_REFINE,
        ),
        Command(
            "relion_flex_analyse",
            (
                Arg("--PCA_orient"),
                Arg("--model", lambda context: analysed_root(context) + "_model.star"),
                Arg("--data", lambda context: analysed_root(context) + "_data.star"),
                Arg("--bodies", "fn_bodies"),
                Arg("--o", output("analyse")),
                Arg("--do_maps", when=above("nr_movies")),
                Arg("--k", "nr_movies", above("nr_movies")),
                Arg("--select_eigenvalue", "select_eigenval", _SELECT),
                Arg("--select_eigenvalue_min", "eigenval_min", _SELECT),
                Arg("--select_eigenvalue_max", "eigenval_max", _SELECT),
            ),
            when=_ANALYSE,
        ),
    ),
    inputs=(Input("fn_in", nodes.REFINE3D_OPT, new_job),),
    outputs=(
        half_map_nodes,
        Output(selection_name, nodes.MULTIBODY_SEL_PARTS, _SELECT),
        Output("analyse_logfile.pdf", nodes.MULTIBODY_FLEXLOG, _ANALYSE),
    ),
    refusals=(
        Rule(
            that(_no_bodies, "the bodies file is not there", "fn_bodies"),
            "Give a STAR file that describes the bodies, and that is there.",
            "fn_bodies",
        ),
        Rule(
            all_of(continuing, empty("fn_cont"), off("do_analyse")),
            "Give an optimiser file to continue the refinement from, or switch on the flexibility analysis.",
            "fn_cont",
        ),
        unknown_sampling("sampling", new_job),
        Rule(
            all_of(
                _RESUME,
                that(lambda v: continued_iteration(v) is None, "fn_cont tells no iteration", "fn_cont"),
            ),
            "The optimiser file's name tells no iteration: it must be like run_it012_optimiser.star.",
            "fn_cont",
        ),
        Rule(
            _models(lambda count: count == 0, "no finished refinement is in the job directory"),
            "There is no finished refinement (run_model.star) in this job's directory to analyse.",
            "do_analyse",
        ),
        Rule(
            _models(lambda count: count > 1, "several finished refinements are in the job directory"),
            "There are several run*_model.star files without an iteration in this job's directory: "
            "move all but "
            "one out of the way.",
            "do_analyse",
        ),
        Rule(
            all_of(
                _SELECT,
                that(
                    lambda v: number(v, "eigenval_min") >= number(v, "eigenval_max"),
                    "the smallest eigenvalue is not below the largest",
                    "eigenval_min",
                    "eigenval_max",
                ),
            ),
            "The maximum eigenvalue must be larger than the minimum.",
            "eigenval_max",
        ),
    ),
    checks=(Rule(all_of(new_job, empty("fn_in")), "Give the consensus refinement's optimiser file.", "fn_in"),),
    gentle=REFINE_CLEAN,
    harsh=CleanRule(("analyse_component???_bin???.mrc",), iterations=True),
    display=(
        Display("Bodies", "run*_body*.mrc", "map"),
        Display("Motions", "analyse_component???_bin???.mrc", "map"),
        Display("Selected particles", "analyse_eval*_select*.star", "particles"),
        Display("Log", "analyse_logfile.pdf", "pdf"),
    ),
)
