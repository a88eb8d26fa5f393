"""3D initial reference: maps from particles alone, by the VDAM gradient algorithm (relion_refine)."""

from __future__ import annotations

from . import nodes, quoting
from .common import COUNT, GPU_ARG, OTHER_ARGS, POSITIVE, THREADS_ARG, empty_input, running
from .conditions import above, all_of, continuing, new_job, not_, off, on, that
from .nodes import Node
from .numeric import whole
from .refinement import CTF_ARGS, NO_OPTIMISER, ODD_OPTIMISER, REFINE_CLEAN, SYMMETRY_CHECK, class_maps, compute_args
from .refinement_options import CTF, PARTICLE_DIAMETER, PARTICLES_ALONE, SYMMETRY, compute
from .spec import (
    Arg,
    Command,
    Display,
    JobContext,
    JobSpec,
    Output,
    Page,
    Rule,
    literal,
    output,
    slider,
    yes_no,
)

OPTIMISATION = Page(
    "Optimisation",
    (
        slider(
            "nr_iter",
            "Number of VDAM mini-batches:",
            "200",
            50,
            500,
            10,
            help="Number of mini-batches; 200 for most.",
            limits=COUNT,
        ),
        slider(
            "tau_fudge",
            "Regularisation parameter T:",
            "4",
            0.1,
            10,
            0.1,
            help="Weight of the data against the prior; 4 for most.",
            limits=POSITIVE,
        ),
        slider(
            "nr_classes",
            "Number of classes:",
            "1",
            1,
            50,
            1,
            help=("Number of maps made at once; more than 1 catches particles that do not belong."),
            on_continue="inactive",
            limits=COUNT,
        ),
        PARTICLE_DIAMETER,
        yes_no(
            "do_solvent",
            "Flatten and enforce non-negative solvent?",
            True,
            help="Yes masks the solvent and keeps the maps from getting negative there.",
            on_continue="inactive",
        ),
        SYMMETRY,
        yes_no(
            "do_run_C1",
            "Run in C1 and apply symmetry later? ",
            True,
            help=(
                "Yes runs without symmetry first, then turns the map to its symmetry axes and imposes the "
                "point group. Often converges better."
            ),
            on_continue="inactive",
        ),
    ),
)


_SYMMETRISE = all_of(
    on("do_run_C1"),
    that(lambda values: values["sym_name"] not in ("C1", "c1"), "sym_name is not C1", "sym_name"),
)
_SUCCESS = "RELION_JOB_EXIT_SUCCESS"


def last_iteration(context: JobContext) -> str:
    """Root name of the last iteration's files."""
    last = whole(context.number("nr_iter"))
    return f"{context.job_name}run_it" + (f"{last:03d}" if last != -1 else "")


def class_nodes(context: JobContext) -> tuple[Node, ...]:
    """The maps of all classes, where there are several; one of them becomes initial_model.mrc."""
    classes = whole(context.number("nr_classes"))
    return class_maps(last_iteration(context), classes, nodes.INIMOD_MAP) if classes > 1 else ()


SPEC = JobSpec(
    type_label="relion.initialmodel",
    type_number=18,
    directory="InitialModel",
    browser_label="3D initial reference",
    hidden_file=".gui_inimodeljob.star",
    help="Make a first map from particles alone.",
    pages=(PARTICLES_ALONE, CTF, OPTIMISATION, compute(pad=False), running(mpi=True, threads=True)),
    commands=(
        Command(
            "relion_refine",
            (
                Arg("--continue", "fn_cont", continuing),
                Arg("--o", output("run")),
                Arg("--iter", "nr_iter"),
                Arg("--grad", when=new_job),
                Arg("--denovo_3dref", when=new_job),
                Arg("--i", "fn_img", new_job, is_input=True),
                *CTF_ARGS,
                Arg("--K", "nr_classes", new_job),
                Arg("--sym", literal("C1"), all_of(new_job, on("do_run_C1"))),
                Arg("--sym", "sym_name", all_of(new_job, off("do_run_C1"))),
                Arg("--flatten_solvent", when=all_of(new_job, on("do_solvent"))),
                Arg("--zero_mask", when=new_job),
                *compute_args(Arg("--pad", literal("1"))),
                Arg("--particle_diameter", "particle_diameter"),
                Arg("--oversampling", literal("1")),
                Arg("--healpix_order", literal("1")),
                Arg("--offset_range", literal("6")),
                Arg("--offset_step", literal("2")),
                Arg("--auto_sampling"),
                Arg("--tau2_fudge", "tau_fudge"),
                THREADS_ARG,
                GPU_ARG,
                OTHER_ARGS,
            ),
        ),
        # The job is done only when the map is aligned: until then the first program's success file has to go.
        Command("rm", (Arg("-f", output(_SUCCESS)),)),
        Command(
            "relion_align_symmetry",
            (
                Arg("--i", lambda context: last_iteration(context) + "_model.star"),
                Arg("--o", output("initial_model.mrc")),
                Arg("--sym", "sym_name", _SYMMETRISE),
                Arg("--sym", literal("C1"), not_(_SYMMETRISE)),
                Arg("--apply_sym"),
                Arg("--select_largest_class"),
            ),
        ),
        Command("touch", (Arg("", lambda context: quoting.display((context.job_name + _SUCCESS,))),)),
    ),
    outputs=(Output("initial_model.mrc", nodes.INIMOD_MAP), class_nodes),
    refusals=(
        Rule(
            above("nr_mpi", 1),
            "The gradient algorithm runs in one process: use 1 MPI process and more threads.",
            "nr_mpi",
        ),
        NO_OPTIMISER,
        empty_input("fn_img", "Give the particles STAR file.", new_job),
    ),
    checks=(
        SYMMETRY_CHECK,
        ODD_OPTIMISER,
    ),
    gentle=REFINE_CLEAN,
    harsh=REFINE_CLEAN,
    display=(
        Display("Initial model", "initial_model.mrc", "map"),
        Display("Maps of the iterations", "run*_it*_class*.mrc", "map"),
        Display("Class distribution", "run*_it*_model.star", "plot"),
    ),
)
