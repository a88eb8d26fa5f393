"""Mask creation: a soft mask from a map (relion_mask_create)."""

from __future__ import annotations

from . import nodes
from .common import NOT_NEGATIVE, OTHER_ARGS, PERCENT, THREADS_ARG, empty_input, over, running
from .conditions import above, on
from .spec import Arg, Command, Display, JobSpec, Output, Page, node, output, slider, yes_no

I_O = Page(
    "I/O",
    (
        node(
            "fn_in",
            "Input 3D map:",
            nodes.MAP,
            pattern="MRC map files (*.mrc)",
            help="Map (MRC) from which the mask is made.",
            on_continue="inactive",
        ),
    ),
)

MASK = Page(
    "Mask",
    (
        slider(
            "lowpass_filter",
            "Lowpass filter map (A)",
            "15",
            10,
            100,
            5,
            help=("Filter the map to this resolution (A) first: 15 for most; -1 for none."),
        ),
        slider(
            "angpix",
            "Pixel size (A)",
            "-1",
            0.3,
            5,
            0.1,
            help="Pixel size of the map in A; -1 takes it from its header.",
        ),
        slider(
            "inimask_threshold",
            "Initial binarisation threshold:",
            "0.02",
            0,
            0.5,
            0.01,
            help=("Voxels above this are inside. Find it in the display: the level where noise outside disappears."),
        ),
        slider(
            "extend_inimask",
            "Extend binary map this many pixels:",
            "3",
            0,
            20,
            1,
            help="Grow the mask by this many voxels (or shrink it, if negative).",
        ),
        slider(
            "width_mask_edge",
            "Add a soft-edge of this many pixels:",
            "3",
            0,
            20,
            1,
            help="Width (voxels) of the soft cosine edge.",
            limits=NOT_NEGATIVE,
        ),
    ),
)

HELIX = Page(
    "Helix",
    (
        yes_no("do_helix", "Mask a 3D helix?", False, help="Yes cuts the mask off along Z."),
        slider(
            "helical_z_percentage",
            "Central Z length (%):",
            "30",
            5,
            80,
            1,
            help=("Symmetry is imposed and searched in this central part of the box's Z length (%)."),
            enabled_when=on("do_helix"),
            limits=PERCENT,
        ),
    ),
)


SPEC = JobSpec(
    type_label="relion.maskcreate",
    type_number=12,
    directory="MaskCreate",
    browser_label="Mask creation",
    hidden_file=".gui_maskcreatejob.star",
    help="Make a soft mask from a map.",
    pages=(I_O, MASK, HELIX, running(mpi=False, threads=True)),
    commands=(
        Command(
            "relion_mask_create",
            (
                Arg("--i", "fn_in", is_input=True),
                Arg("--o", output("mask.mrc")),
                Arg("--lowpass", "lowpass_filter", above("lowpass_filter")),
                Arg("--angpix", "angpix", above("angpix")),
                Arg("--ini_threshold", "inimask_threshold"),
                Arg("--extend_inimask", "extend_inimask"),
                Arg("--width_soft_edge", "width_mask_edge"),
                Arg("--helix", when=on("do_helix")),
                Arg("--z_percentage", over("helical_z_percentage", 100.0), on("do_helix")),
                THREADS_ARG,
                OTHER_ARGS,
            ),
        ),
    ),
    outputs=(Output("mask.mrc", nodes.MASKCREATE_MASK),),
    refusals=(empty_input("fn_in", "Give the map from which the mask is made."),),
    display=(Display("Mask", "mask.mrc", "map"),),
)
