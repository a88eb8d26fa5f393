"""Particle subtraction: removes the projected signal outside a mask from particles
(relion_particle_subtract)."""

from __future__ import annotations

from . import nodes
from .common import EVEN_OR_UNSET, FLOAT16, NUMBER, OTHER_ARGS, empty_input, running
from .conditions import above, all_of, empty, filled, off, on
from .spec import (
    Arg,
    CleanRule,
    Command,
    Display,
    Input,
    JobSpec,
    Output,
    Page,
    Row,
    Rule,
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
            "fn_opt",
            "Input optimiser.star: ",
            nodes.OPTIMISER,
            pattern="STAR Files (*_optimiser.star)",
            help="Optimiser STAR file of the refinement whose map is subtracted.",
            on_continue="inactive",
        ),
        node(
            "fn_mask",
            "Mask of the signal to keep:",
            nodes.MASK,
            pattern="Image Files (*.{spi,vol,msk,mrc})",
            help="Mask that is white where signal is to stay; the rest is subtracted.",
            on_continue="inactive",
        ),
        yes_no(
            "do_data",
            "Use different particles?",
            False,
            help=("Yes takes particles (with their orientations) from another file than the refinement's own."),
            on_continue="inactive",
        ),
        node(
            "fn_data",
            "Input particle star file:",
            nodes.PARTS,
            pattern="particle STAR file (*.star)",
            help=("Particles STAR file with orientations, in the refinement's reference frame."),
            on_continue="inactive",
            enabled_when=on("do_data"),
        ),
        FLOAT16,
        yes_no(
            "do_fliplabel",
            "OR revert to original particles?",
            False,
            help=("Yes puts the original images back in place of subtracted ones; nothing else is done."),
            on_continue="inactive",
        ),
        node(
            "fn_fliplabel",
            "revert this particle star file:",
            nodes.PARTS,
            pattern="particle STAR file (*.star)",
            help="Subtracted particles STAR file to put back.",
            on_continue="inactive",
            enabled_when=on("do_fliplabel"),
        ),
    ),
)

CENTERING = Page(
    "Centering",
    (
        yes_no(
            "do_center_mask",
            "Do center subtracted images on mask?",
            True,
            help=("Centre the subtracted images on the projected centre of mass of the mask."),
            on_continue="inactive",
        ),
        yes_no(
            "do_center_xyz",
            "Do center on my coordinates?",
            False,
            help="Centre the subtracted images on a point that you give.",
            on_continue="inactive",
            enabled_when=off("do_center_mask"),
        ),
        *(
            text(
                f"center_{axis.lower()}",
                f"Center coordinate (pix) - {axis}:",
                "0",
                help=f"{axis} of that point, in pixels of the map.",
                on_continue="inactive",
                enabled_when=all_of(off("do_center_mask"), on("do_center_xyz")),
                limits=NUMBER,
            )
            for axis in "XYZ"
        ),
        slider(
            "new_box",
            "New box size:",
            "-1",
            64,
            512,
            32,
            help="Box size (pixels) of the subtracted images; -1 keeps it.",
            on_continue="inactive",
            limits=EVEN_OR_UNSET,
        ),
    ),
    rows=(
        Row(
            (
                "center_x",
                "center_y",
                "center_z",
            ),
            "Center coordinate - X, Y, Z (pix):",
        ),
    ),
)


_REVERT = on("do_fliplabel")
_SUBTRACT = off("do_fliplabel")
_XYZ = all_of(off("do_center_mask"), on("do_center_xyz"))

SPEC = JobSpec(
    type_label="relion.subtract",
    type_number=14,
    directory="Subtract",
    browser_label="Particle subtraction",
    hidden_file=".gui_subtractjob.star",
    help="Subtract part of a map's projections from particles.",
    pages=(I_O, CENTERING, running(mpi=True, threads=False)),
    commands=(
        Command(
            "relion_particle_subtract",
            (Arg("--revert", "fn_fliplabel", is_input=True), Arg("--o", output("")), OTHER_ARGS),
            when=_REVERT,
        ),
        Command(
            "relion_particle_subtract",
            (
                Arg("--i", "fn_opt"),
                Arg("--mask", "fn_mask", filled("fn_mask"), is_input=True),
                Arg("--data", "fn_data", on("do_data"), is_input=True),
                Arg("--o", output("")),
                Arg("--recenter_on_mask", when=on("do_center_mask")),
                Arg("--center_x", "center_x", _XYZ),
                Arg("--center_y", "center_y", _XYZ),
                Arg("--center_z", "center_z", _XYZ),
                Arg("--float16", when=on("do_float16")),
                Arg("--new_box", "new_box", above("new_box")),
                OTHER_ARGS,
            ),
            mpi=True,
            when=_SUBTRACT,
        ),
    ),
    inputs=(Input("fn_opt", nodes.OPTIMISER, _SUBTRACT),),
    outputs=(
        Output("original.star", nodes.PARTS, _REVERT),
        Output("particles_subtracted.star", nodes.SUBTRACT_SUBTRACTED, _SUBTRACT),
    ),
    labels=(("revert", _REVERT),),
    refusals=(
        Rule(
            all_of(_REVERT, above("nr_mpi", 1)),
            "Original particles are put back by one process: set the number of MPI processes to 1.",
            "nr_mpi",
        ),
        empty_input("fn_opt", "Give the optimiser file of the refinement.", _SUBTRACT),
        empty_input("fn_data", "Give the particles to subtract from.", all_of(_SUBTRACT, on("do_data"))),
    ),
    checks=(
        empty_input("fn_fliplabel", "Give the subtracted particles to put back.", _REVERT),
        Rule(
            all_of(_SUBTRACT, empty("fn_mask")),
            "Without a mask everything is subtracted: give a mask of the signal to keep.",
            "fn_mask",
        ),
        Rule(
            all_of(_SUBTRACT, on("do_center_mask"), on("do_center_xyz")),
            "Centre either on the mask or on your coordinates, not both (the mask would win).",
            "do_center_xyz",
        ),
        Rule(
            all_of(_SUBTRACT, on("do_center_mask"), empty("fn_mask")),
            "Centring on the mask needs a mask.",
            "do_center_mask",
        ),
    ),
    gentle=CleanRule(),
    harsh=CleanRule(("subtracted.*",)),
    display=(
        Display("Subtracted particles", "particles_subtracted.star", "particles"),
        Display("Original particles", "original.star", "particles"),
    ),
)
