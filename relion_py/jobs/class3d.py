"""3D classification: several maps from one set of particles (relion_refine)."""

from __future__ import annotations

from . import nodes
from .common import (
    COUNT,
    GPU_ARG,
    OTHER_ARGS,
    POSITIVE,
    THREADS_ARG,
    empty_input,
    over,
    running,
    sampling_order,
    times,
    unknown_sampling,
)
from .common import SAMPLING as ANGLES
from .conditions import above, all_of, continuing, equals, filled, new_job, not_, off, on
from .nodes import Node
from .numeric import whole
from .refinement import (
    CTF_ARGS,
    HELIX_CHECKS,
    NO_OPTIMISER,
    ODD_OPTIMISER,
    PAD_AS_ASKED,
    REFINE_CLEAN,
    SYMMETRY_CHECK,
    class_maps,
    compute_args,
    helix_args,
    iteration,
    third_of_range,
)
from .refinement_options import (
    ALLOW_COARSER,
    BLUSH,
    CONTINUE_FROM,
    CTF,
    DO_ALIGN,
    HELIX_3D,
    HIGHRES_LIMIT,
    NR_CLASSES,
    OFFSET_RANGE,
    OFFSET_STEP,
    PARTICLE_DIAMETER,
    PARTICLES,
    REFERENCE,
    REFERENCE_MAP,
    REFERENCE_MASK,
    ZERO_MASK,
    compute,
)
from .spec import (
    Arg,
    Command,
    Display,
    Input,
    JobContext,
    JobSpec,
    Page,
    Rule,
    choice,
    literal,
    output,
    slider,
    text,
    yes_no,
)

I_O = Page(
    "I/O",
    (
        PARTICLES,
        REFERENCE_MAP,
        REFERENCE_MASK,
        CONTINUE_FROM,
    ),
)

OPTIMISATION = Page(
    "Optimisation",
    (
        NR_CLASSES,
        slider(
            "tau_fudge",
            "Regularisation parameter T:",
            "4",
            0.1,
            10,
            0.1,
            help=(
                "Weight of the data against the prior: 4 for most; lower if maps get noisy, higher to "
                "separate small differences."
            ),
            limits=POSITIVE,
        ),
        slider(
            "nr_iter",
            "Number of iterations:",
            "25",
            1,
            50,
            1,
            help="Number of iterations; 25 for most.",
            limits=COUNT,
        ),
        yes_no(
            "do_fast_subsets",
            "Use fast subsets (for large data sets)?",
            False,
            help=("Yes uses subsets of the particles in the first iterations: faster for large sets."),
            on_continue="inactive",
        ),
        PARTICLE_DIAMETER,
        ZERO_MASK,
        HIGHRES_LIMIT,
        BLUSH,
    ),
)

SAMPLING = Page(
    "Sampling",
    (
        DO_ALIGN,
        choice(
            "sampling",
            "Angular sampling interval:",
            ANGLES,
            "7.5 degrees",
            help=(
                "Angle between tested orientations (after the two-fold oversampling): 7.5 degrees for most, "
                "3.7 for icosahedral particles."
            ),
            enabled_when=on("dont_skip_align"),
        ),
        OFFSET_RANGE,
        OFFSET_STEP,
        yes_no(
            "do_local_ang_searches",
            "Perform local angular searches?",
            False,
            help="Yes searches orientations only near those in the input.",
            enabled_when=on("dont_skip_align"),
        ),
        slider(
            "sigma_angles",
            "Local angular search range:",
            "5",
            0,
            15,
            0.1,
            help=("Local search range in degrees; a third of it is the prior's standard deviation."),
            enabled_when=all_of(on("dont_skip_align"), on("do_local_ang_searches")),
        ),
        text(
            "relax_sym",
            "Relax symmetry:",
            help=(
                "A point group whose equivalent orientations are all tried around each particle's last one "
                "(symmetry relaxation), with C1 as the symmetry. Empty: none."
            ),
            enabled_when=all_of(on("dont_skip_align"), on("do_local_ang_searches")),
        ),
        ALLOW_COARSER,
    ),
)


_ALIGN = on("dont_skip_align")
_LOCAL = all_of(_ALIGN, on("do_local_ang_searches"))
_GLOBAL = all_of(_ALIGN, off("do_local_ang_searches"))


def result_nodes(context: JobContext) -> tuple[Node, ...]:
    """Particles (labelled as a refinement's), optimiser and maps of the last iteration."""
    root = f"{context.job_name}run{iteration(context.number('nr_iter'))}"
    return (
        Node(root + "_data.star", nodes.REFINE3D_PARTS),
        Node(root + "_optimiser.star", nodes.CLASS3D_OPT),
        *class_maps(root, whole(context.number("nr_classes")), nodes.CLASS3D_MAP),
    )


SPEC = JobSpec(
    type_label="relion.class3d",
    type_number=9,
    directory="Class3D",
    browser_label="3D classification",
    hidden_file=".gui_class3djob.star",
    help="Sort particles into several maps.",
    pages=(
        I_O,
        REFERENCE,
        CTF,
        OPTIMISATION,
        SAMPLING,
        HELIX_3D,
        compute(pad=True),
        running(mpi=True, threads=True),
    ),
    commands=(
        Command(
            "relion_refine",
            (
                Arg("--continue", "fn_cont", continuing),
                Arg("--o", output("run")),
                Arg("--i", "fn_img", new_job, is_input=True),
                Arg("--ref", "fn_ref", new_job),
                Arg("--firstiter_cc", when=all_of(new_job, off("ref_correct_greyscale"))),
                Arg("--trust_ref_size", when=all_of(new_job, on("trust_ref_size"))),
                Arg("--ini_high", "ini_high", all_of(new_job, above("ini_high"))),
                *compute_args(*PAD_AS_ASKED),
                *CTF_ARGS,
                Arg("--iter", "nr_iter"),
                Arg("--tau2_fudge", "tau_fudge"),
                Arg("--particle_diameter", "particle_diameter"),
                Arg("--fast_subsets", when=all_of(new_job, on("do_fast_subsets"))),
                Arg("--K", "nr_classes", new_job),
                Arg("--flatten_solvent", when=new_job),
                Arg("--zero_mask", when=all_of(new_job, on("do_zero_mask"))),
                Arg("--strict_highres_exp", "highres_limit", all_of(new_job, above("highres_limit"))),
                Arg("--blush", when=on("do_blush")),
                Arg("--solvent_mask", "fn_mask", filled("fn_mask"), is_input=True),
                Arg("--skip_align", when=not_(_ALIGN)),
                Arg("--oversampling", literal("1"), _ALIGN),
                Arg("--healpix_order", sampling_order("sampling", 1), _ALIGN),
                Arg("--sigma_ang", over("sigma_angles", 3.0), _LOCAL),
                Arg("--relax_sym", "relax_sym", all_of(_LOCAL, filled("relax_sym"))),
                Arg("--offset_range", "offset_range", _ALIGN),
                Arg("--offset_step", times("offset_step", 2.0), _ALIGN),
                Arg("--allow_coarser_sampling", when=all_of(_ALIGN, on("allow_coarser"))),
                Arg("--sym", "sym_name", new_job),
                Arg("--norm", when=new_job),
                Arg("--scale", when=new_job),
                *helix_args(
                    Arg("--helical_keep_tilt_prior_fixed", when=on("keep_tilt_prior_fixed")),
                    Arg("--sigma_tilt", third_of_range("range_tilt"), _GLOBAL),
                    Arg("--sigma_psi", third_of_range("range_psi"), _GLOBAL),
                    Arg("--sigma_rot", third_of_range("range_rot"), _GLOBAL),
                    Arg(
                        "--helical_sigma_distance",
                        over("helical_range_distance", 3.0),
                        all_of(_GLOBAL, above("helical_range_distance")),
                    ),
                ),
                THREADS_ARG,
                GPU_ARG,
                OTHER_ARGS,
            ),
            mpi=True,
        ),
    ),
    inputs=(Input("fn_ref", when=all_of(new_job, not_(equals("fn_ref", "None")))),),
    outputs=(result_nodes,),
    labels=(("helical", all_of(new_job, on("do_helix"))),),
    refusals=(
        NO_OPTIMISER,
        empty_input("fn_img", "Give the particles STAR file to classify.", new_job),
        empty_input("fn_ref", "Give a reference map to start from.", new_job),
        unknown_sampling("sampling", _ALIGN),
        Rule(
            all_of(on("use_gpu"), not_(_ALIGN)),
            "GPUs cannot be used without image alignment: switch one of the two.",
            "use_gpu",
        ),
    ),
    checks=(
        SYMMETRY_CHECK,
        *HELIX_CHECKS,
        ODD_OPTIMISER,
    ),
    gentle=REFINE_CLEAN,
    harsh=REFINE_CLEAN,
    display=(
        Display("Maps", "run*_it*_class*.mrc", "map"),
        Display("Particles", "run*_it*_data.star", "particles"),
        Display("Class distribution", "run*_it*_model.star", "plot"),
    ),
)
