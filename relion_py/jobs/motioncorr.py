"""Motion correction: aligns the frames of movies and sums them (relion_run_motioncorr)."""

from __future__ import annotations

from . import nodes
from .common import COUNT, NOT_NEGATIVE, OTHER_ARGS, POSITIVE, empty_input, running
from .conditions import Values, above, all_of, continuing, filled, not_, number, off, on, that
from .numeric import round_half_away, single
from .spec import (
    Arg,
    CleanRule,
    Command,
    Display,
    JobContext,
    JobSpec,
    Limits,
    Output,
    Page,
    Row,
    Rule,
    choice,
    file,
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
            "input_star_mics",
            "Input movies STAR file:",
            nodes.MOVIES,
            pattern="STAR files (*.star)",
            help="Movies STAR file, from Import.",
            on_continue="inactive",
        ),
        slider(
            "first_frame_sum",
            "First frame for corrected sum:",
            "1",
            1,
            32,
            1,
            help="First frame that goes into the sum; counted from 1.",
            on_continue="inactive",
            limits=COUNT,
        ),
        slider(
            "last_frame_sum",
            "Last frame for corrected sum:",
            "-1",
            0,
            32,
            1,
            help="Last frame that goes into the sum; -1 for the last one there is.",
            on_continue="inactive",
            limits=Limits(integer=True),
        ),
        slider(
            "dose_per_frame",
            "Dose per frame (e/A2):",
            "1",
            0,
            5,
            0.2,
            help=("Exposure of one frame in electrons per square A; for EER of one group of frames."),
            on_continue="inactive",
            limits=NOT_NEGATIVE,
        ),
        slider(
            "pre_exposure",
            "Pre-exposure (e/A2):",
            "0",
            0,
            5,
            0.5,
            help=("Exposure in electrons per square A that the specimen had before the first frame."),
            on_continue="inactive",
            limits=NOT_NEGATIVE,
        ),
        slider(
            "eer_grouping",
            "EER fractionation:",
            "32",
            1,
            100,
            1,
            help=(
                "EER only: how many hardware frames make one frame. Choose it so that a frame gets 0.5 to "
                "1.25 electrons per square A."
            ),
            on_continue="inactive",
            limits=COUNT,
        ),
        yes_no(
            "do_float16",
            "Write output in float16?",
            True,
            help=(
                "Write images in 16-bit floating point (MRC mode 12): half the disc space at no loss that "
                "matters. Needs the sums of power spectra for CTF estimation."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "do_dose_weighting",
            "Do dose-weighting?",
            True,
            help=(
                "Weight each frame by how much signal its exposure leaves at each resolution (Grant & Grigorieff 2015)."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "do_save_noDW",
            "Save non-dose weighted as well?",
            False,
            help="Write the unweighted sum as well, with _noDW in its name.",
            on_continue="inactive",
            enabled_when=on("do_dose_weighting"),
        ),
        yes_no(
            "do_save_ps",
            "Save sum of power spectra?",
            True,
            help=("Write sums of power spectra, from which CTF estimation is faster and better."),
            on_continue="inactive",
        ),
        slider(
            "group_for_ps",
            "Sum power spectra every e/A2:",
            "4",
            0,
            10,
            0.5,
            help=(
                "Sum power spectra over groups of frames with about this exposure, in electrons per square "
                "A. 4 is right for most."
            ),
            on_continue="inactive",
            enabled_when=on("do_save_ps"),
            limits=POSITIVE,
        ),
    ),
)

MOTION = Page(
    "Motion",
    (
        slider(
            "bfactor",
            "Bfactor:",
            "150",
            0,
            1500,
            50,
            help=(
                "B-factor (square A) by which frames are weighted for the alignment: 150 for most, more for "
                "super-resolution or noisy movies."
            ),
            on_continue="inactive",
        ),
        text(
            "patch_x",
            "Number of patches X:",
            "1",
            help=("Number of patches along X for local motion; 1 x 1 aligns whole frames only."),
            on_continue="inactive",
            limits=COUNT,
        ),
        text(
            "patch_y",
            "Number of patches Y:",
            "1",
            help=("Number of patches along Y for local motion; 1 x 1 aligns whole frames only."),
            on_continue="inactive",
            limits=COUNT,
        ),
        slider(
            "group_frames",
            "Group frames:",
            "1",
            1,
            5,
            1,
            help=("Average this many frames before aligning; for movies with very few electrons in a frame."),
            on_continue="inactive",
            limits=COUNT,
        ),
        slider(
            "bin_factor",
            "Binning factor:",
            "1",
            1,
            2,
            1,
            help=(
                "Shrink the sum by this factor (by cropping in Fourier space): 2 for super-resolution "
                "movies, 1 for none."
            ),
            on_continue="inactive",
            limits=POSITIVE,
        ),
        file(
            "fn_gain_ref",
            "Gain-reference image:",
            pattern="*.{mrc,gain}",
            help=(
                "Gain reference, by which frames are multiplied; empty if the movies are corrected already. "
                "MRC, or the .gain file of EER."
            ),
            on_continue="inactive",
        ),
        choice(
            "gain_rot",
            "Gain rotation:",
            ("No rotation (0)", "90 degrees (1)", "180 degrees (2)", "270 degrees (3)"),
            "No rotation (0)",
            help="Rotate the gain reference by this angle, clockwise as Display shows it, first.",
            on_continue="inactive",
        ),
        choice(
            "gain_flip",
            "Gain flip:",
            ("No flipping (0)", "Flip upside down (1)", "Flip left to right (2)"),
            "No flipping (0)",
            help="Flip the gain reference after the rotation.",
            on_continue="inactive",
        ),
        file(
            "fn_defect",
            "Defect file:",
            pattern="*",
            help=(
                "Defective pixels: a text file (.txt) with x y width height per line, as MotionCor2 reads it, or an "
                "image that is not 0 where a pixel is bad."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "do_own_motioncor",
            "Use RELION's own implementation?",
            True,
            help=("Yes: RELION's own program, on the CPU. No: UCSF MotionCor2, which must be installed, on GPUs."),
            on_continue="inactive",
        ),
        file(
            "fn_motioncor2_exe",
            "MOTIONCOR2 executable:",
            "MotionCor2",
            pattern="*.*",
            help="The MotionCor2 program. Default: RELION_MOTIONCOR2_EXECUTABLE.",
            on_continue="inactive",
            enabled_when=off("do_own_motioncor"),
            executable=True,
            site_default="motioncor2",
        ),
        text(
            "gpu_ids",
            "Which GPUs to use:",
            "0",
            help="Which GPUs MotionCor2 uses: colons between MPI processes.",
            enabled_when=off("do_own_motioncor"),
        ),
        text(
            "other_motioncor2_args",
            "Other MOTIONCOR2 arguments",
            help="More arguments for MotionCor2.",
            on_continue="inactive",
            enabled_when=off("do_own_motioncor"),
        ),
    ),
    rows=(
        Row(
            (
                "patch_x",
                "patch_y",
            ),
            "Number of patches X, Y",
        ),
    ),
)


_OWN = on("do_own_motioncor")
_GAIN = filled("fn_gain_ref")
_ROTATIONS = ("No rotation (0)", "90 degrees (1)", "180 degrees (2)", "270 degrees (3)")
_FLIPS = ("No flipping (0)", "Flip upside down (1)", "Flip left to right (2)")


def power_spectrum_frames(context: JobContext) -> str:
    """Frames whose power spectra are summed: as many as make up the asked-for dose, at least one."""
    frames = round_half_away(single(context.number("group_for_ps") / context.number("dose_per_frame")))
    return str(frames or 1)


def _unknown_gain_setting(values: Values) -> bool:
    return values["gain_rot"] not in _ROTATIONS or values["gain_flip"] not in _FLIPS


def motioncor2_arguments(context: JobContext) -> str:
    """MotionCor2's own arguments travel as one word, with spaces around so that none looks like a flag."""
    return f" {context['other_motioncor2_args']} "


SPEC = JobSpec(
    type_label="relion.motioncorr",
    type_number=1,
    directory="MotionCorr",
    browser_label="Motion correction",
    hidden_file=".gui_motioncorrjob.star",
    help="Align movie frames and sum them, weighted by dose.",
    pages=(I_O, MOTION, running(mpi=True, threads=True)),
    commands=(
        Command(
            "relion_run_motioncorr",
            (
                Arg("--i", "input_star_mics", is_input=True),
                Arg("--o", output("")),
                Arg("--first_frame_sum", "first_frame_sum"),
                Arg("--last_frame_sum", "last_frame_sum"),
                Arg("--use_own", when=_OWN),
                Arg("--j", "nr_threads", _OWN),
                Arg("--float16", when=all_of(_OWN, on("do_float16"))),
                Arg("--use_motioncor2", when=not_(_OWN)),
                Arg("--motioncor2_exe", "fn_motioncor2_exe", not_(_OWN)),
                Arg(
                    "--other_motioncor2_args",
                    motioncor2_arguments,
                    all_of(not_(_OWN), filled("other_motioncor2_args")),
                ),
                Arg("--gpu", "gpu_ids", not_(_OWN)),
                Arg("--defect_file", "fn_defect", filled("fn_defect")),
                Arg("--bin_factor", "bin_factor"),
                Arg("--bfactor", "bfactor"),
                Arg("--dose_per_frame", "dose_per_frame"),
                Arg("--preexposure", "pre_exposure"),
                Arg("--patch_x", "patch_x"),
                Arg("--patch_y", "patch_y"),
                Arg("--eer_grouping", "eer_grouping"),
                Arg("--group_frames", "group_frames", above("group_frames", 1)),
                Arg("--gainref", "fn_gain_ref", _GAIN),
                Arg("--gain_rot", lambda context: str(_ROTATIONS.index(context["gain_rot"])), _GAIN),
                Arg("--gain_flip", lambda context: str(_FLIPS.index(context["gain_flip"])), _GAIN),
                Arg("--dose_weighting", when=on("do_dose_weighting")),
                Arg("--save_noDW", when=all_of(on("do_dose_weighting"), on("do_save_noDW"))),
                Arg("--grouping_for_ps", power_spectrum_frames, on("do_save_ps")),
                Arg("--only_do_unfinished", when=continuing),
                OTHER_ARGS,
            ),
            mpi=True,
        ),
    ),
    outputs=(
        Output("corrected_micrographs.star", nodes.MOCORR_MICS),
        Output("logfile.pdf", nodes.MOCORR_LOG),
    ),
    labels=(("own", _OWN), ("motioncor2", not_(_OWN))),
    refusals=(
        empty_input("input_star_mics", "Give the movies STAR file."),
        Rule(
            all_of(_OWN, on("do_float16"), off("do_save_ps")),
            "16-bit images need the sums of power spectra, for CTFFIND-4.1 cannot read them: switch those on.",
            "do_save_ps",
        ),
        Rule(
            all_of(not_(_OWN), on("do_float16")),
            "MotionCor2 cannot write 16-bit images: switch float16 off.",
            "do_float16",
        ),
        Rule(
            all_of(not_(_OWN), on("do_save_ps")),
            "MotionCor2 writes no sums of power spectra: switch them off.",
            "do_save_ps",
        ),
        Rule(
            all_of(
                on("do_save_ps"),
                _OWN,
                that(
                    lambda v: number(v, "dose_per_frame") <= 0,
                    "dose_per_frame is not above 0",
                    "dose_per_frame",
                ),
            ),
            "Give the dose per frame (above 0): the grouping of power spectra is computed from it.",
            "dose_per_frame",
        ),
        Rule(
            all_of(
                on("do_save_ps"),
                _OWN,
                that(lambda v: number(v, "group_for_ps") <= 0, "group_for_ps is not above 0", "group_for_ps"),
            ),
            "The dose over which power spectra are summed must be above 0.",
            "group_for_ps",
        ),
        Rule(
            all_of(_GAIN, that(_unknown_gain_setting, "the gain's rotation or flip is no choice", "gain_rot")),
            "Choose the gain's rotation and flip from their lists.",
            "gain_rot",
        ),
    ),
    checks=(
        Rule(
            all_of(
                above("last_frame_sum"),
                that(
                    lambda v: number(v, "last_frame_sum") < number(v, "first_frame_sum"),
                    "the last frame comes before the first",
                    "first_frame_sum",
                    "last_frame_sum",
                ),
            ),
            "The last frame must not come before the first.",
            "last_frame_sum",
        ),
        Rule(
            all_of(
                on("do_dose_weighting"),
                that(
                    lambda v: number(v, "dose_per_frame") <= 0,
                    "dose_per_frame is not above 0",
                    "dose_per_frame",
                ),
            ),
            "Dose weighting needs the dose per frame (above 0).",
            "dose_per_frame",
        ),
    ),
    gentle=CleanRule(("*/*.com", "*/*.err", "*/*.out", "*/*.log")),
    harsh=CleanRule(("*/",)),
    display=(
        Display("Corrected micrographs", "corrected_micrographs.star", "micrographs"),
        Display("Total motion", "corrected_micrographs.star", "plot"),
        Display("Log", "logfile.pdf", "pdf"),
    ),
)
