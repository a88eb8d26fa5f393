"""Manual picking: a person marks particles on micrographs (relion_manualpick)."""

from __future__ import annotations

from . import nodes
from .common import NOT_NEGATIVE, NUMBER, OTHER_ARGS, POSITIVE, empty_input, running
from .conditions import above, all_of, empty, filled, off, on
from .spec import (
    Arg,
    Command,
    Display,
    JobSpec,
    Output,
    Page,
    Rule,
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
            "fn_in",
            "Input micrographs:",
            nodes.MICS,
            pattern="Input micrographs (*.{star,mrc})",
            help=("Micrographs STAR file; picks that earlier jobs made for them can be edited."),
            on_continue="inactive",
        ),
        yes_no(
            "do_fom_threshold",
            "Use autopick FOM threshold?",
            False,
            help="Show only autopicks with a figure of merit above a threshold.",
            on_continue="inactive",
        ),
        slider(
            "minimum_pick_fom",
            "Minimum autopick FOM: ",
            "0",
            -5,
            10,
            0.1,
            help="Smallest figure of merit that is shown.",
            on_continue="inactive",
            enabled_when=on("do_fom_threshold"),
            limits=NUMBER,
        ),
    ),
)

DISPLAY = Page(
    "Display",
    (
        slider(
            "diameter",
            "Particle diameter (A):",
            "100",
            0,
            500,
            50,
            help=("Diameter (A) of the circles that mark particles. It only affects the display."),
            limits=POSITIVE,
        ),
        slider(
            "micscale",
            "Scale for micrographs:",
            "0.2",
            0.1,
            1,
            0.05,
            help=("Scale of the micrographs on the screen; 0.2 shows a fifth of the size."),
            limits=POSITIVE,
        ),
        slider(
            "sigma_contrast",
            "Sigma contrast:",
            "3",
            0,
            10,
            0.5,
            help=(
                "Grey values run from this many standard deviations below the mean to as many above. 0: from "
                "the smallest to the largest pixel."
            ),
            limits=NOT_NEGATIVE,
        ),
        slider(
            "white_val",
            "White value:",
            "0",
            0,
            512,
            16,
            help="Pixel value shown as white when the contrast is 0.",
        ),
        slider(
            "black_val",
            "Black value:",
            "0",
            0,
            512,
            16,
            help="Pixel value shown as black when the contrast is 0.",
        ),
        slider(
            "lowpass",
            "Lowpass filter (A)",
            "20",
            10,
            100,
            5,
            help="Low-pass filter (A) for the display; -1 for none.",
        ),
        slider(
            "highpass",
            "Highpass filter (A)",
            "-1",
            100,
            1000,
            100,
            help=("High-pass filter (A) for the display, against uneven ice; -1 for none."),
        ),
        slider(
            "angpix",
            "Pixel size (A)",
            "-1",
            0.3,
            5,
            0.1,
            help="Pixel size in A; -1 takes it from the STAR file.",
        ),
        yes_no(
            "do_topaz_denoise",
            "OR: use Topaz denoising?",
            False,
            help=(
                "Denoise micrographs with Topaz for the display, instead of the filters above. Topaz must be installed."
            ),
            on_continue="inactive",
        ),
    ),
)

COLORS = Page(
    "Colors",
    (
        yes_no(
            "do_color",
            "Blue<>red color particles?",
            False,
            help="Colour the circles by a column of a STAR file.",
        ),
        text(
            "color_label",
            "MetaDataLabel for color:",
            "rlnAutopickFigureOfMerit",
            help=("Column for the colour, without the underscore: rlnAutopickFigureOfMerit, rlnClassNumber ..."),
            enabled_when=on("do_color"),
        ),
        file(
            "fn_color",
            "STAR file with color label: ",
            pattern="STAR file (*.star)",
            help="STAR file that holds that column; empty if the picks' own files do.",
            enabled_when=on("do_color"),
        ),
        slider(
            "blue_value",
            "Blue value: ",
            "0",
            0,
            4,
            0.1,
            help="Value shown fully blue.",
            enabled_when=on("do_color"),
        ),
        slider(
            "red_value",
            "Red value: ",
            "2",
            0,
            4,
            0.1,
            help="Value shown fully red.",
            enabled_when=on("do_color"),
        ),
    ),
)

# hidden
HIDDEN = (
    yes_no(
        "do_startend",
        "Pick start-end coordinates helices?",
        False,
        help="Pick the start and the end of filaments, one after the other.",
    ),
)

_FILTERED = off("do_topaz_denoise")
_COLOURED = on("do_color")


def display_args(editing: bool) -> tuple[Arg, ...]:
    """How micrographs and picks look; auto-picking uses them when its picks are edited (`editing`)."""
    start_end = Arg("--pick_start_end", when=on("do_startend"))
    return (
        Arg("--scale", "micscale"),
        Arg("--sigma_contrast", "sigma_contrast"),
        Arg("--black", "black_val"),
        Arg("--white", "white_val"),
        *((start_end,) if editing else ()),
        Arg("--topaz_denoise", when=on("do_topaz_denoise")),
        *(
            Arg(f"--{key}", key, all_of(_FILTERED, above(key, lenient=editing)))
            for key in ("lowpass", "highpass", "angpix")
        ),
        Arg("--minimum_pick_fom", "minimum_pick_fom", on("do_fom_threshold")),
        Arg("--particle_diameter", "diameter"),
        *(() if editing else (start_end,)),
        Arg("--color_label", "color_label", _COLOURED),
        Arg("--blue", "blue_value", _COLOURED),
        Arg("--red", "red_value", _COLOURED),
        Arg("--color_star", "fn_color", all_of(_COLOURED, filled("fn_color"))),
    )


SPEC = JobSpec(
    type_label="relion.manualpick",
    type_number=3,
    directory="ManualPick",
    browser_label="Manual picking",
    hidden_file=".gui_manualpickjob.star",
    help="Mark particles by hand, or edit picks.",
    pages=(I_O, DISPLAY, COLORS, running(mpi=False, threads=False)),
    hidden_options=HIDDEN,
    commands=(
        Command(
            "relion_manualpick",
            (
                Arg("--i", "fn_in", is_input=True),
                Arg("--odir", output("")),
                Arg("--pickname", literal("manualpick")),
                Arg("--allow_save"),
                Arg("--fast_save"),
                Arg("--selection", output("micrographs_selected.star")),
                *display_args(editing=False),
                OTHER_ARGS,
            ),
        ),
    ),
    outputs=(
        Output("micrographs_selected.star", nodes.MICS),
        Output("manualpick.star", nodes.MANPICK_COORDS_HELIX, on("do_startend")),
        Output("manualpick.star", nodes.MANPICK_COORDS, off("do_startend")),
    ),
    labels=(("helical", on("do_startend")),),
    refusals=(empty_input("fn_in", "Give the micrographs STAR file."),),
    checks=(Rule(all_of(_COLOURED, empty("color_label")), "Say which column gives the colour.", "color_label"),),
    display=(
        Display("Picks", "manualpick.star", "coordinates"),
        Display("Selected micrographs", "micrographs_selected.star", "micrographs"),
    ),
)
