"""3D classification: several maps from one set of particles (relion_refine)."""

from __future__ import annotations

from . import nodes
from .common import (
    COUNT,
    GPU_ARG,
    NOT_NEGATIVE,
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
    CTF,
    CTF_ARGS,
    HELIX_3D,
    HELIX_CHECKS,
    NOT_AN_OPTIMISER,
    PAD_AS_ASKED,
    REFERENCE,
    REFINE_CLEAN,
    SYMMETRY_CHECK,
    class_maps,
    compute,
    compute_args,
    helix_args,
    iteration,
    third_of_range,
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
    file,
    literal,
    node,
    output,
    slider,
    text,
    yes_no,
)

I_O = Page(
    "I/O",
    (
        node(
            "fn_img",
            "Input images STAR file:",
            nodes.PARTS,
            pattern="STAR files (*.star)",
            help="Particles STAR file, with optics groups and CTF parameters.",
            on_continue="inactive",
        ),
        node(
            "fn_ref",
            "Reference map:",
            nodes.MAP,
            pattern="Image Files (*.{spi,vol,mrc})",
            help=(
                "Starting map (MRC), of the same pixel and box size as the particles or to be rescaled to "
                "them. Start from a low-resolution map; not from an atomic model's."
            ),
            on_continue="inactive",
        ),
        node(
            "fn_mask",
            "Reference mask (optional):",
            nodes.MASK,
            pattern="Image Files (*.{spi,vol,msk,mrc})",
            help=(
                "Optional map between 0 (solvent) and 1 (molecule) with soft edges, of the reference's box "
                "and pixel size. Without it a sphere of the particle's diameter is used."
            ),
        ),
        file(
            "fn_cont",
            "Continue from here: ",
            pattern="STAR Files (*_optimiser.star)",
            directory="CURRENT_ODIR",
            help="The _optimiser.star of the iteration to go on from.",
            on_continue="only",
        ),
    ),
)

OPTIMISATION = Page(
    "Optimisation",
    (
        slider(
            "nr_classes",
            "Number of classes:",
            "1",
            1,
            50,
            1,
            help="Number of classes (K).",
            on_continue="inactive",
            limits=COUNT,
        ),
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
        slider(
            "particle_diameter",
            "Mask diameter (A):",
            "200",
            0,
            1000,
            10,
            help=(
                "Diameter (A) of the circular mask around the particles: a little larger than the longest "
                "axis, smaller than the box."
            ),
            limits=POSITIVE,
        ),
        yes_no(
            "do_zero_mask",
            "Mask individual particles with zeros?",
            True,
            help=(
                "Yes sets what is outside the mask to zero; No fills it with noise. Zeros give higher "
                "resolution, noise may be safer for very small or noisy particles."
            ),
            on_continue="inactive",
        ),
        slider(
            "highres_limit",
            "Limit resolution E-step to (A): ",
            "-1",
            -1,
            20,
            1,
            help=(
                "Alignment uses no resolutions beyond this (A); -1 for all. 10 to 15 helps against "
                "overfitting when features look spiky."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "do_blush",
            "Use Blush regularisation?",
            False,
            help="Regularise with the Blush neural network.",
            on_continue="inactive",
        ),
    ),
)

SAMPLING = Page(
    "Sampling",
    (
        yes_no(
            "dont_skip_align",
            "Perform image alignment?",
            True,
            help=("No keeps orientations and centres as they are in the input and only classifies."),
        ),
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
        slider(
            "offset_range",
            "Offset search range (pix):",
            "5",
            0,
            30,
            1,
            help=("Shifts are searched up to this far (pixels) from the last known centre."),
            enabled_when=on("dont_skip_align"),
            limits=NOT_NEGATIVE,
        ),
        slider(
            "offset_step",
            "Offset search step (pix):",
            "1",
            0.1,
            5,
            0.1,
            help="Distance (pixels) between tested shifts, after two-fold oversampling.",
            enabled_when=on("dont_skip_align"),
            limits=POSITIVE,
        ),
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
        yes_no(
            "allow_coarser",
            "Allow coarser sampling?",
            False,
            help=("Yes lets early iterations sample more coarsely, when the estimated accuracies allow it. Faster."),
            enabled_when=on("dont_skip_align"),
        ),
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
        empty_input("fn_cont", "Say from which _optimiser.star file to continue.", continuing),
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
        Rule(
            all_of(continuing, filled("fn_cont"), NOT_AN_OPTIMISER),
            "This is no optimiser file of an iteration: its name must be like run_it012_optimiser.star.",
            "fn_cont",
        ),
    ),
    gentle=REFINE_CLEAN,
    harsh=REFINE_CLEAN,
    display=(
        Display("Maps", "run*_it*_class*.mrc", "map"),
        Display("Particles", "run*_it*_data.star", "particles"),
        Display("Class distribution", "run*_it*_model.star", "plot"),
    ),
)
