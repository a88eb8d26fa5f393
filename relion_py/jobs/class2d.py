"""2D classification: class averages of particles, by EM or by VDAM (relion_refine)."""

from __future__ import annotations

from dataclasses import replace

from . import nodes
from .common import (
    COUNT,
    GPU_ARG,
    NUMBER,
    OTHER_ARGS,
    POSITIVE,
    THREADS_ARG,
    TUBE_DIAMETER,
    empty_input,
    running,
    times,
)
from .conditions import above, all_of, any_of, continuing, new_job, not_, off, on
from .nodes import Node
from .refinement import CTF_ARGS, NO_OPTIMISER, ODD_OPTIMISER, REFINE_CLEAN, compute_args, iteration, third_of_range
from .refinement_options import (
    ALLOW_COARSER,
    CTF,
    DO_ALIGN,
    HIGHRES_LIMIT,
    NR_CLASSES,
    OFFSET_RANGE,
    OFFSET_STEP,
    PARTICLE_DIAMETER,
    PARTICLES_ALONE,
    ZERO_MASK,
    compute,
)
from .spec import (
    Arg,
    Command,
    Display,
    JobContext,
    JobSpec,
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
        NR_CLASSES,
        slider(
            "tau_fudge",
            "Regularisation parameter T:",
            "2",
            0.1,
            10,
            0.1,
            help=(
                "Weight of the data against the prior: 2 for 2D classification; lower if classes get noisy, "
                "higher if they stay too smooth."
            ),
            limits=POSITIVE,
        ),
        yes_no(
            "do_em",
            "Use EM algorithm?",
            False,
            help=(
                "Classify with the expectation-maximisation algorithm: slow, thorough, may run in parallel "
                "on several processes."
            ),
            on_continue="inactive",
        ),
        slider(
            "nr_iter_em",
            "Number of EM iterations:",
            "25",
            1,
            50,
            1,
            help="Number of iterations over all particles; 25 for most.",
            enabled_when=on("do_em"),
            limits=COUNT,
        ),
        yes_no(
            "do_grad",
            "Use VDAM algorithm?",
            True,
            help=("Classify with the VDAM gradient algorithm: much faster for large sets. One process only."),
            on_continue="inactive",
        ),
        slider(
            "nr_iter_grad",
            "Number of VDAM mini-batches:",
            "200",
            50,
            500,
            10,
            help="Number of mini-batches; 200 for most, 100 for a quick look.",
            enabled_when=on("do_grad"),
            limits=COUNT,
        ),
        PARTICLE_DIAMETER,
        ZERO_MASK,
        HIGHRES_LIMIT,
        yes_no(
            "do_center",
            "Center class averages?",
            True,
            help="Centre the class averages on their mass in every iteration.",
        ),
    ),
)

SAMPLING = Page(
    "Sampling",
    (
        DO_ALIGN,
        slider(
            "psi_sampling",
            "In-plane angular sampling:",
            "6",
            0.5,
            20,
            0.5,
            help="Step (degrees) of in-plane rotations, after two-fold oversampling.",
            enabled_when=on("dont_skip_align"),
            limits=POSITIVE,
        ),
        OFFSET_RANGE,
        OFFSET_STEP,
        ALLOW_COARSER,
    ),
)

HELIX = Page(
    "Helix",
    (
        yes_no(
            "do_helix",
            "Classify 2D helical segments?",
            False,
            help="Yes for helical segments.",
            on_continue="inactive",
        ),
        replace(
            TUBE_DIAMETER,
            help="Diameter (A) of the tubes; around them the averages are masked.",
            enabled_when=on("do_helix"),
        ),
        yes_no(
            "do_bimodal_psi",
            "Do bimodal angular searches?",
            True,
            help="Yes searches both directions of a filament.",
            enabled_when=on("do_helix"),
        ),
        slider(
            "range_psi",
            "Angular search range - psi (deg):",
            "6",
            3,
            30,
            1,
            help="Local search range (degrees) of the in-plane angle around its prior.",
            enabled_when=on("do_helix"),
            limits=NUMBER,
        ),
        yes_no(
            "do_restrict_xoff",
            "Restrict helical offsets to rise:",
            True,
            help="Yes keeps offsets along a filament within one rise.",
            enabled_when=on("do_helix"),
        ),
        slider(
            "helical_rise",
            "Helical rise (A):",
            "4.75",
            -1,
            100,
            1,
            help="Rise (A) within which offsets are kept.",
            enabled_when=all_of(on("do_helix"), on("do_restrict_xoff")),
        ),
    ),
)


_EM = on("do_em")
_VDAM = all_of(off("do_em"), on("do_grad"))
_ALIGN = on("dont_skip_align")
_HELIX = on("do_helix")
_ALIGN_HELIX = all_of(_HELIX, _ALIGN)


def result_nodes(context: JobContext) -> tuple[Node, ...]:
    """Particles and optimiser of the last iteration."""
    context.number("nr_classes")  # RELION reads it here, and refuses what is no number
    last = context.number("nr_iter_em" if context.yes("do_em") else "nr_iter_grad")
    root = f"{context.job_name}run{iteration(last)}"
    return (Node(root + "_data.star", nodes.CLASS2D_PARTS), Node(root + "_optimiser.star", nodes.CLASS2D_OPT))


SPEC = JobSpec(
    type_label="relion.class2d",
    type_number=8,
    directory="Class2D",
    browser_label="2D classification",
    hidden_file=".gui_class2djob.star",
    help="Sort particles into classes and average them.",
    pages=(PARTICLES_ALONE, CTF, OPTIMISATION, SAMPLING, HELIX, compute(pad=False), running(mpi=True, threads=True)),
    commands=(
        Command(
            "relion_refine",
            (
                Arg("--continue", "fn_cont", continuing),
                Arg("--o", output("run")),
                Arg("--iter", "nr_iter_em", _EM),
                Arg("--grad", when=_VDAM),
                Arg("--class_inactivity_threshold", literal("0.1"), _VDAM),
                Arg("--grad_write_iter", literal("10"), _VDAM),
                Arg("--iter", "nr_iter_grad", _VDAM),
                Arg("--i", "fn_img", new_job, is_input=True),
                # Padding of 1 gave bad class averages, and in two dimensions 2 costs little memory.
                *compute_args(Arg("--pad", literal("2"))),
                *CTF_ARGS,
                Arg("--tau2_fudge", "tau_fudge"),
                Arg("--particle_diameter", "particle_diameter"),
                Arg("--K", "nr_classes", new_job),
                Arg("--flatten_solvent", when=new_job),
                Arg("--zero_mask", when=all_of(new_job, on("do_zero_mask"))),
                Arg("--strict_highres_exp", "highres_limit", all_of(new_job, above("highres_limit"))),
                Arg("--center_classes", when=on("do_center")),
                Arg("--oversampling", literal("1")),
                Arg("--skip_align", when=not_(_ALIGN)),
                Arg("--psi_step", times("psi_sampling", 2.0), _ALIGN),
                Arg("--offset_range", "offset_range", _ALIGN),
                Arg("--offset_step", times("offset_step", 2.0), _ALIGN),
                Arg("--allow_coarser_sampling", when=all_of(_ALIGN, on("allow_coarser"))),
                Arg("--helical_outer_diameter", "helical_tube_outer_diameter", _HELIX),
                Arg("--bimodal_psi", when=all_of(_ALIGN_HELIX, on("do_bimodal_psi"))),
                Arg("--sigma_psi", third_of_range("range_psi"), _ALIGN_HELIX),
                Arg("--helix", when=all_of(_ALIGN_HELIX, on("do_restrict_xoff"))),
                Arg("--helical_rise_initial", "helical_rise", all_of(_ALIGN_HELIX, on("do_restrict_xoff"))),
                Arg("--norm", when=new_job),
                Arg("--scale", when=new_job),
                THREADS_ARG,
                GPU_ARG,
                OTHER_ARGS,
            ),
            mpi=True,
        ),
    ),
    outputs=(result_nodes,),
    labels=(("helical", _HELIX),),
    refusals=(
        NO_OPTIMISER,
        ODD_OPTIMISER,
        Rule(all_of(_EM, on("do_grad")), "Choose either the EM or the VDAM algorithm, not both.", "do_grad"),
        Rule(
            all_of(_VDAM, above("nr_mpi", 1)),
            "The VDAM algorithm runs in one process: use 1 MPI process and more threads, or the EM algorithm.",
            "nr_mpi",
        ),
        Rule(not_(any_of(_EM, on("do_grad"))), "Choose the EM or the VDAM algorithm.", "do_em"),
        empty_input("fn_img", "Give the particles STAR file to classify.", new_job),
    ),
    gentle=REFINE_CLEAN,
    harsh=REFINE_CLEAN,
    display=(
        Display("Class averages", "run*_it*_optimiser.star", "classes"),
        Display("Particles", "run*_it*_data.star", "particles"),
        Display("Class distribution", "run*_it*_model.star", "plot"),
    ),
)
