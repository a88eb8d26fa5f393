"""Particle extraction: boxes of particles from micrographs, normalised and shrunk (relion_preprocess)."""

from __future__ import annotations

import math
from dataclasses import replace

from . import nodes
from .common import (
    ASYMMETRIC_UNITS,
    EVEN_BOX,
    FLOAT16,
    NUMBER,
    OTHER_ARGS,
    TUBE_DIAMETER,
    empty_input,
    running,
)
from .conditions import Values, all_of, continuing, not_, number, off, on, that
from .numeric import format_number, whole
from .spec import (
    Arg,
    CleanRule,
    Command,
    Display,
    Input,
    JobContext,
    JobSpec,
    Output,
    Page,
    Row,
    Rule,
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
            "star_mics",
            "micrograph STAR file: ",
            nodes.MICS,
            pattern="Input STAR file (*.{star})",
            help="Micrographs STAR file, with CTF parameters.",
            on_continue="inactive",
        ),
        node(
            "coords_suffix",
            "Input coordinates: ",
            nodes.COORDS,
            pattern="Input coordinates list file (*.star)",
            help=("Picked coordinates: a STAR file that lists micrographs and their coordinate files."),
            on_continue="inactive",
        ),
        yes_no(
            "do_reextract",
            "OR re-extract refined particles? ",
            False,
            help=("Extract refined particles again, with another box or pixel size, or at their refined centres."),
            on_continue="inactive",
        ),
        node(
            "fndata_reextract",
            "Refined particles STAR file: ",
            nodes.PARTS,
            pattern="Input STAR file (*.{star})",
            help="The refined particles (_data.star).",
            on_continue="inactive",
            enabled_when=on("do_reextract"),
        ),
        yes_no(
            "do_reset_offsets",
            "Reset the refined offsets to zero? ",
            False,
            help="Set refined offsets to zero and keep the picked coordinates.",
            on_continue="inactive",
            enabled_when=on("do_reextract"),
        ),
        yes_no(
            "do_recenter",
            "OR: re-center refined coordinates? ",
            False,
            help=(
                "Move the coordinates by the refined offsets, so that the point below becomes the centre of the boxes."
            ),
            on_continue="inactive",
            enabled_when=on("do_reextract"),
        ),
        *(
            text(
                f"recenter_{axis.lower()}",
                f"Re-center on {axis}-coordinate (in pix): ",
                "0",
                help=f"{axis} (pixels of the reference, from its centre) of the point to centre on.",
                on_continue="inactive",
                enabled_when=all_of(on("do_reextract"), on("do_recenter")),
                limits=NUMBER,
            )
            for axis in "XYZ"
        ),
        FLOAT16,
    ),
    rows=(
        Row(
            (
                "recenter_x",
                "recenter_y",
                "recenter_z",
            ),
            "Recenter on - X, Y, Z (pix):",
        ),
    ),
)

EXTRACT = Page(
    "extract",
    (
        slider(
            "extract_size",
            "Particle box size (pix):",
            "128",
            64,
            512,
            8,
            help=("Box size in pixels of the micrograph; even, and 1.5 to 2 times the particle's diameter."),
            on_continue="inactive",
            limits=EVEN_BOX,
        ),
        yes_no(
            "do_invert",
            "Invert contrast?",
            True,
            help=("Yes makes particles white on black, as RELION wants them, from micrographs where they are black."),
            on_continue="inactive",
        ),
        yes_no(
            "do_norm",
            "Normalize particles?",
            True,
            help=("Yes sets the mean of the background to 0 and its standard deviation to 1. RELION needs it."),
            on_continue="inactive",
        ),
        slider(
            "bg_diameter",
            "Diameter background circle (pix): ",
            "-1",
            -1,
            600,
            10,
            help=(
                "Diameter (pixels of the micrograph) of the circle outside which is background; -1 for 75 % of the box."
            ),
            on_continue="inactive",
            enabled_when=on("do_norm"),
        ),
        slider(
            "white_dust",
            "Stddev for white dust removal: ",
            "-1",
            -1,
            10,
            0.1,
            help=("Replace pixels more than this many standard deviations above the mean by noise; -1 for none."),
            on_continue="inactive",
            enabled_when=on("do_norm"),
        ),
        slider(
            "black_dust",
            "Stddev for black dust removal: ",
            "-1",
            -1,
            10,
            0.1,
            help=("Replace pixels more than this many standard deviations below the mean by noise; -1 for none."),
            on_continue="inactive",
            enabled_when=on("do_norm"),
        ),
        yes_no(
            "do_rescale",
            "Rescale particles?",
            False,
            help=("Yes shrinks the boxes after extraction, for faster first classifications."),
            on_continue="inactive",
        ),
        slider(
            "rescale",
            "Re-scaled size (pixels): ",
            "128",
            64,
            512,
            8,
            help="Box size after shrinking, in pixels; even.",
            on_continue="inactive",
            enabled_when=on("do_rescale"),
            limits=EVEN_BOX,
        ),
        yes_no(
            "do_fom_threshold",
            "Use autopick FOM threshold?",
            False,
            help="Extract only autopicks with a figure of merit above a threshold.",
            on_continue="inactive",
        ),
        slider(
            "minimum_pick_fom",
            "Minimum autopick FOM: ",
            "0",
            -5,
            10,
            0.1,
            help="Smallest figure of merit that is extracted.",
            on_continue="inactive",
            enabled_when=on("do_fom_threshold"),
        ),
    ),
)

_HELIX = on("do_extract_helix")
_TUBES = all_of(_HELIX, on("do_extract_helical_tubes"))

HELIX = Page(
    "Helix",
    (
        yes_no(
            "do_extract_helix",
            "Extract helical segments?",
            False,
            help="Yes for helical segments.",
            on_continue="inactive",
        ),
        replace(TUBE_DIAMETER, on_continue="inactive", enabled_when=_HELIX),
        yes_no(
            "helical_bimodal_angular_priors",
            "Use bimodal angular priors?",
            True,
            help=("Yes lets filaments point either way, as is right unless their polarity is known."),
            on_continue="inactive",
            enabled_when=_HELIX,
        ),
        yes_no(
            "do_extract_helical_tubes",
            "Coordinates are start-end only?",
            True,
            help="Yes if coordinates are the start and end of each filament.",
            on_continue="inactive",
            enabled_when=_HELIX,
        ),
        yes_no(
            "do_cut_into_segments",
            "Cut helical tubes into segments?",
            True,
            help=("Yes cuts filaments into overlapping segments; No takes one box at each filament's middle."),
            on_continue="inactive",
            enabled_when=_TUBES,
        ),
        replace(ASYMMETRIC_UNITS, on_continue="inactive", enabled_when=_TUBES),
        slider(
            "helical_rise",
            "Helical rise (A):",
            "1",
            0,
            100,
            0.01,
            help=(
                "Rise (A) from one subunit to the next; times the number of asymmetric units it is the "
                "distance between segments."
            ),
            on_continue="inactive",
            enabled_when=_TUBES,
        ),
    ),
)


_AGAIN = on("do_reextract")
_PICKED = off("do_reextract")
_OLD_LIST = that(lambda values: "coords_suffix" in values["coords_suffix"], "coordinates are a suffix file")
_SEGMENTS = all_of(_TUBES, on("do_cut_into_segments"))
_WHOLE_TUBES = all_of(_TUBES, off("do_cut_into_segments"))
_RECENTRE = all_of(_AGAIN, off("do_reset_offsets"), on("do_recenter"))


def coordinate_directory(context: JobContext) -> str:
    """Directory of the coordinate files, from the path of a suffix file of older releases."""
    head, slash, _ = context["coords_suffix"].rpartition("/")
    return (head if slash else context["coords_suffix"]) + "/"


def coordinate_suffix(context: JobContext) -> str:
    """Ending of the coordinate files, from the name of a suffix file of older releases."""
    return context["coords_suffix"].rpartition("/")[2].replace("coords_suffix", "", 1)


def background_radius(context: JobContext) -> str:
    """Radius of the background circle in pixels of the written particles, cut to a whole number: half of the
    given diameter, or of 75 % of the box where that is negative, scaled with the box."""
    diameter = context.number("bg_diameter")
    radius = (0.75 * context.number("extract_size") if diameter < 0 else diameter) / 2
    if context.yes("do_rescale"):
        box = context.number("extract_size")
        radius = radius * context.number("rescale") / box if box else math.inf
    return format_number(whole(radius))


def _numbers_are_read(values: Values) -> bool:
    """RELION always computes the background circle, used or not, and refuses what is no number in it."""
    diameter = number(values, "bg_diameter")
    if diameter < 0:
        number(values, "extract_size")
    if values["do_rescale"] == "Yes":
        number(values, "rescale")
        number(values, "extract_size")
    return False


SPEC = JobSpec(
    type_label="relion.extract",
    type_number=5,
    directory="Extract",
    browser_label="Particle extraction",
    hidden_file=".gui_extractjob.star",
    help="Cut particles out of micrographs.",
    pages=(I_O, EXTRACT, HELIX, running(mpi=True, threads=False)),
    commands=(
        Command(
            "relion_preprocess",
            (
                Arg("--i", "star_mics", is_input=True),
                Arg("--reextract_data_star", "fndata_reextract", _AGAIN, is_input=True),
                Arg("--reset_offsets", when=all_of(_AGAIN, on("do_reset_offsets"))),
                Arg("--recenter", when=_RECENTRE),
                Arg("--recenter_x", "recenter_x", _RECENTRE),
                Arg("--recenter_y", "recenter_y", _RECENTRE),
                Arg("--recenter_z", "recenter_z", _RECENTRE),
                Arg("--coord_dir", coordinate_directory, all_of(_PICKED, _OLD_LIST)),
                Arg("--coord_suffix", coordinate_suffix, all_of(_PICKED, _OLD_LIST)),
                Arg("--coord_list", "coords_suffix", all_of(_PICKED, not_(_OLD_LIST))),
                Arg("--part_star", output("particles.star")),
                Arg("--pick_star", output("extractpick.star"), _AGAIN),
                Arg("--pick_star", output("extractpick.star"), _TUBES),
                Arg("--part_dir", output("")),
                Arg("--extract"),
                Arg("--extract_size", "extract_size"),
                Arg("--minimum_pick_fom", "minimum_pick_fom", on("do_fom_threshold")),
                Arg("--float16", when=on("do_float16")),
                Arg("--scale", "rescale", on("do_rescale")),
                Arg("--norm", when=on("do_norm")),
                Arg("--bg_radius", background_radius, on("do_norm")),
                Arg("--white_dust", "white_dust", on("do_norm")),
                Arg("--black_dust", "black_dust", on("do_norm")),
                Arg("--invert_contrast", when=on("do_invert")),
                Arg("--helix", when=_HELIX),
                Arg("--helical_outer_diameter", "helical_tube_outer_diameter", _HELIX),
                Arg(
                    "--helical_bimodal_angular_priors",
                    when=all_of(_HELIX, on("helical_bimodal_angular_priors")),
                ),
                Arg("--helical_tubes", when=_TUBES),
                Arg("--helical_cut_into_segments", when=_SEGMENTS),
                Arg("--helical_nr_asu", "helical_nr_asu", _SEGMENTS),
                Arg("--helical_rise", "helical_rise", _SEGMENTS),
                Arg("--helical_nr_asu", literal("1"), _WHOLE_TUBES),
                Arg("--helical_rise", literal("1"), _WHOLE_TUBES),
                Arg("--only_do_unfinished", when=continuing),
                OTHER_ARGS,
            ),
            mpi=True,
        ),
    ),
    inputs=(Input("coords_suffix", when=_PICKED),),
    outputs=(
        Output("extractpick.star", nodes.EXTRACT_COORDS_REEX, _AGAIN),
        Output("extractpick.star", nodes.EXTRACT_COORDS_HELIX, _TUBES),
        Output("particles.star", nodes.EXTRACT_PARTS_HELIX, _HELIX),
        Output("particles.star", nodes.PARTS, not_(_HELIX)),
        Output("reextract.star", nodes.EXTRACT_COORDS_REEX, _AGAIN),
        Output("helix_segments.star", nodes.EXTRACT_COORDS_HELIX, _TUBES),
    ),
    labels=(("reextract", _AGAIN), ("helical", _HELIX)),
    refusals=(
        empty_input("star_mics", "Give the micrographs STAR file."),
        empty_input("fndata_reextract", "Give the refined particles that shall be extracted again.", _AGAIN),
        Rule(
            all_of(_AGAIN, on("do_reset_offsets"), on("do_recenter")),
            "Choose either to reset the refined offsets or to centre on them, not both.",
            "do_recenter",
        ),
        empty_input("coords_suffix", "Give the picked coordinates.", _PICKED),
        Rule(
            that(_numbers_are_read, "the background circle cannot be computed", "bg_diameter", "extract_size"),
            "The background circle cannot be computed from these sizes: give numbers.",
            "bg_diameter",
        ),
    ),
    checks=(
        Rule(
            all_of(
                on("do_rescale"),
                that(
                    lambda v: number(v, "rescale") > number(v, "extract_size"),
                    "the re-scaled size is above the box size",
                    "rescale",
                    "extract_size",
                ),
            ),
            "The re-scaled size must not be larger than the extracted box.",
            "rescale",
        ),
        Rule(
            all_of(
                on("do_norm"),
                that(
                    lambda v: number(v, "bg_diameter") > number(v, "extract_size") or number(v, "bg_diameter") == 0,
                    "the background circle does not fit into the box",
                    "bg_diameter",
                    "extract_size",
                ),
            ),
            "The background circle must fit into the box; -1 takes 75 % of it.",
            "bg_diameter",
        ),
    ),
    gentle=CleanRule(("*/*_extract.star",)),
    harsh=CleanRule(("*/",)),
    display=(
        Display("Particles", "particles.star", "particles"),
        Display("Coordinates", "extractpick.star", "coordinates"),
    ),
)
