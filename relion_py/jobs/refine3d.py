"""3D auto-refine: one map from particles and a reference, in two independent halves (relion_refine)."""

from __future__ import annotations

from . import nodes
from .common import (
    GPU_ARG,
    NOT_NEGATIVE,
    OTHER_ARGS,
    POSITIVE,
    SAMPLING,
    THREADS_ARG,
    empty_input,
    over,
    running,
    sampling_order,
    times,
    unknown_sampling,
)
from .conditions import above, all_of, continuing, empty, equals, filled, new_job, not_, off, on, that
from .refinement import (
    CTF_ARGS,
    HELIX_CHECKS,
    NO_OPTIMISER,
    ODD_OPTIMISER,
    PAD_AS_ASKED,
    REFINE_CLEAN,
    REFINE_DISPLAY,
    SYMMETRY_CHECK,
    compute_args,
    helix_args,
    third_of_range,
)
from .refinement_options import (
    BLUSH,
    CTF,
    HELIX_3D,
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
    JobSpec,
    Output,
    Page,
    Rule,
    choice,
    file,
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
        file(
            "fn_cont",
            "Continue from here: ",
            pattern="STAR Files (*_it*_optimiser.star)",
            directory="CURRENT_ODIR",
            help="The _optimiser.star of the iteration to go on from.",
            on_continue="only",
        ),
    ),
)

OPTIMISATION = Page(
    "Optimisation",
    (
        PARTICLE_DIAMETER,
        ZERO_MASK,
        yes_no(
            "do_solvent_fsc",
            "Use solvent-flattened FSCs?",
            False,
            help=(
                "Yes uses FSC curves corrected for the solvent mask for the refinement itself. Helps when "
                "the mask is much smaller than the box; needs a mask."
            ),
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
            SAMPLING,
            "7.5 degrees",
            help=(
                "Angle between tested orientations (after the two-fold oversampling); auto-refinement makes "
                "it finer by itself. 7.5 degrees suits most, 3.7 icosahedral particles."
            ),
            on_continue="inactive",
        ),
        slider(
            "offset_range",
            "Initial offset range (pix):",
            "5",
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
            "1",
            0.1,
            5,
            0.1,
            help="Distance (pixels) between tested shifts, after two-fold oversampling.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        choice(
            "auto_local_sampling",
            "Local searches from auto-sampling:",
            SAMPLING,
            "1.8 degrees",
            help=(
                "From this sampling on, orientations are searched near the last ones only. 1.8 degrees suits "
                "most; 0.9 for icosahedral particles."
            ),
            on_continue="inactive",
        ),
        text(
            "relax_sym",
            "Relax symmetry:",
            help=(
                "A point group whose equivalent orientations are all tried around each particle's last one "
                "(symmetry relaxation), with C1 as the symmetry. Empty: none."
            ),
        ),
        yes_no(
            "auto_faster",
            "Use finer angular sampling faster?",
            False,
            help=(
                "Yes makes angular sampling finer by the resolution's, not by the estimated accuracies. Much "
                "faster; check that the last iterations still improve."
            ),
        ),
    ),
)


_GLOBAL_SEARCH = that(
    lambda values: values["sampling"] != values["auto_local_sampling"],
    "orientations are searched globally first",
    "sampling",
    "auto_local_sampling",
)

SPEC = JobSpec(
    type_label="relion.refine3d",
    type_number=10,
    directory="Refine3D",
    browser_label="3D auto-refine",
    hidden_file=".gui_auto3djob.star",
    help="Refine one map to the highest resolution, with gold-standard halves.",
    pages=(
        I_O,
        REFERENCE,
        CTF,
        OPTIMISATION,
        AUTO_SAMPLING,
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
                Arg("--auto_refine", when=new_job),
                Arg("--split_random_halves", when=new_job),
                Arg("--i", "fn_img", new_job, is_input=True),
                Arg("--ref", "fn_ref", new_job),
                Arg("--firstiter_cc", when=all_of(new_job, off("ref_correct_greyscale"))),
                Arg("--trust_ref_size", when=all_of(new_job, on("trust_ref_size"))),
                Arg("--ini_high", "ini_high", all_of(new_job, above("ini_high", lenient=True))),
                Arg("--blush", when=on("do_blush")),
                *compute_args(*PAD_AS_ASKED),
                Arg("--auto_ignore_angles", when=on("auto_faster")),
                Arg("--auto_resol_angles", when=on("auto_faster")),
                *CTF_ARGS,
                Arg("--particle_diameter", "particle_diameter"),
                Arg("--flatten_solvent", when=new_job),
                Arg("--zero_mask", when=all_of(new_job, on("do_zero_mask"))),
                Arg("--solvent_mask", "fn_mask", filled("fn_mask"), is_input=True),
                Arg("--solvent_correct_fsc", when=all_of(filled("fn_mask"), on("do_solvent_fsc"))),
                Arg("--oversampling", literal("1"), new_job),
                Arg("--healpix_order", sampling_order("sampling", 1), new_job),
                Arg("--auto_local_healpix_order", sampling_order("auto_local_sampling", 1), new_job),
                Arg("--offset_range", "offset_range", new_job),
                Arg("--offset_step", times("offset_step", 2.0), new_job),
                Arg("--sym", "sym_name", new_job),
                # Low resolutions are always joined, for some D and I refinements may end in different hands.
                Arg("--low_resol_join_halves", literal("40"), new_job),
                Arg("--norm", when=new_job),
                Arg("--scale", when=new_job),
                *helix_args(
                    Arg("--sigma_tilt", third_of_range("range_tilt"), _GLOBAL_SEARCH),
                    Arg("--sigma_psi", third_of_range("range_psi"), _GLOBAL_SEARCH),
                    Arg("--sigma_rot", third_of_range("range_rot"), _GLOBAL_SEARCH),
                    Arg(
                        "--helical_sigma_distance",
                        over("helical_range_distance", 3.0),
                        above("helical_range_distance"),
                    ),
                    Arg("--helical_keep_tilt_prior_fixed", when=on("keep_tilt_prior_fixed")),
                ),
                Arg("--relax_sym", "relax_sym", filled("relax_sym")),
                THREADS_ARG,
                GPU_ARG,
                OTHER_ARGS,
            ),
            mpi=True,
        ),
    ),
    inputs=(Input("fn_ref", when=all_of(new_job, not_(equals("fn_ref", "None")))),),
    outputs=(
        Output("run_data.star", nodes.REFINE3D_PARTS),
        Output("run_optimiser.star", nodes.REFINE3D_OPT),
        Output("run_half1_class001_unfil.mrc", nodes.REFINE3D_HALFMAP),
        Output("run_class001.mrc", nodes.REFINE3D_MAP),
    ),
    labels=(("helical", all_of(new_job, on("do_helix"))),),
    refusals=(
        NO_OPTIMISER,
        ODD_OPTIMISER,
        empty_input("fn_img", "Give the particles STAR file to refine.", new_job),
        empty_input("fn_ref", "Give a reference map to start from.", new_job),
        unknown_sampling("sampling", new_job),
        unknown_sampling("auto_local_sampling", new_job),
    ),
    checks=(
        SYMMETRY_CHECK,
        *HELIX_CHECKS,
        Rule(
            all_of(on("do_solvent_fsc"), empty("fn_mask")),
            "Solvent-flattened FSCs need a mask: give one on the I/O tab, or switch this off.",
            "do_solvent_fsc",
        ),
    ),
    gentle=REFINE_CLEAN,
    harsh=REFINE_CLEAN,
    display=(
        *REFINE_DISPLAY,
        Display("Unfiltered half-maps", "run_half?_class001_unfil.mrc", "map"),
        Display("FSC", "run_model.star", "plot"),
    ),
)
