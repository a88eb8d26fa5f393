"""Bayesian polishing: per-particle motion, and particles summed along it (relion_motion_refine)."""

from __future__ import annotations

from collections.abc import Callable

from . import nodes
from .common import (
    COUNT,
    EVEN_OR_UNSET,
    FLOAT16,
    NUMBER,
    OTHER_ARGS,
    POSITIVE,
    POSTPROCESS_STAR,
    THREADS_ARG,
    empty_input,
    running,
)
from .conditions import Values, all_of, below, continuing, not_, number, off, on, that
from .numeric import format_number, round_half_away, single
from .spec import (
    Arg,
    CleanRule,
    Command,
    Display,
    Input,
    JobContext,
    JobSpec,
    Limits,
    Output,
    Page,
    Rule,
    node,
    output,
    slider,
    yes_no,
)

I_O = Page(
    "I/O",
    (
        node(
            "fn_mic",
            "Micrographs (from MotionCorr):",
            nodes.MICS,
            pattern="STAR files (*.star)",
            help=("Micrographs STAR file of RELION's motion correction, which holds the tracks."),
            on_continue="inactive",
        ),
        node(
            "fn_data",
            "Particles (from Refine3D or CtfRefine):",
            nodes.PARTS,
            pattern="STAR files (*.star)",
            help="Refined particles (_data.star).",
            on_continue="inactive",
        ),
        POSTPROCESS_STAR,
        slider(
            "first_frame",
            "First movie frame: ",
            "1",
            1,
            10,
            1,
            help="First frame to use, counted from 1.",
            on_continue="inactive",
            limits=COUNT,
        ),
        slider(
            "last_frame",
            "Last movie frame: ",
            "-1",
            5,
            50,
            1,
            help="Last frame to use; -1 for the last one there is.",
            on_continue="inactive",
            limits=Limits(integer=True),
        ),
        slider(
            "extract_size",
            "Extraction size (pix in unbinned movie):",
            "-1",
            64,
            1024,
            8,
            help=("Box size (pixels of the movie) of polished particles; -1 keeps the refinement's. Even."),
            on_continue="inactive",
            limits=EVEN_OR_UNSET,
        ),
        slider(
            "rescale",
            "Re-scaled size (pixels): ",
            "-1",
            64,
            1024,
            8,
            help="Box size after shrinking, in pixels; -1 keeps the refinement's. Even.",
            on_continue="inactive",
            limits=EVEN_OR_UNSET,
        ),
        FLOAT16,
    ),
)

TRAIN = Page(
    "Train",
    (
        yes_no(
            "do_param_optim",
            "Train optimal parameters?",
            False,
            help=("Find the best parameters for this data set first. Do it once, then polish with them."),
        ),
        slider(
            "eval_frac",
            "Fraction of Fourier pixels for testing: ",
            "0.5",
            0,
            1,
            0.01,
            help=("Part of the Fourier pixels that judges the parameters; the rest aligns."),
            enabled_when=on("do_param_optim"),
            limits=Limits(0.1, 0.9, above_low=True),
        ),
        slider(
            "optim_min_part",
            "Use this many particles: ",
            "10000",
            5000,
            50000,
            1000,
            help="Use as many micrographs as hold this many particles: 5,000 to 10,000.",
            enabled_when=on("do_param_optim"),
        ),
    ),
)

POLISH = Page(
    "Polish",
    (
        yes_no(
            "do_polish",
            "Perform particle polishing?",
            True,
            help="Polish all particles.",
            on_continue="inactive",
        ),
        node(
            "opt_params",
            "Optimised parameter file:",
            nodes.POLISH_PARAMS,
            pattern="TXT files (*.txt)",
            help="Parameters found by training (opt_params_all_groups.txt).",
            on_continue="inactive",
            enabled_when=on("do_polish"),
        ),
        yes_no(
            "do_own_params",
            "OR use your own parameters?",
            False,
            help="Yes uses the three values below instead.",
            on_continue="inactive",
            enabled_when=on("do_polish"),
        ),
        slider(
            "sigma_vel",
            "Sigma for velocity (A/dose): ",
            "0.2",
            1,
            10,
            0.1,
            help=("Expected speed of particles, in A per electron per square A: 0.2 to 1."),
            on_continue="inactive",
            enabled_when=all_of(on("do_polish"), on("do_own_params")),
            limits=NUMBER,
        ),
        slider(
            "sigma_div",
            "Sigma for divergence (A): ",
            "5000",
            0,
            10000,
            10000,
            help="How far apart (in A) particles move alike: 1,000 to 10,000.",
            on_continue="inactive",
            enabled_when=all_of(on("do_polish"), on("do_own_params")),
            limits=NUMBER,
        ),
        slider(
            "sigma_acc",
            "Sigma for acceleration (A/dose): ",
            "2",
            -1,
            7,
            0.1,
            help=("Expected change of speed, in A per electron per square A; -1 for no bound."),
            on_continue="inactive",
            enabled_when=all_of(on("do_polish"), on("do_own_params")),
            limits=NUMBER,
        ),
        slider(
            "minres",
            "Minimum resolution for B-factor fit (A): ",
            "20",
            8,
            40,
            1,
            help="Lowest resolution (A) in the fit of the frames' B-factors.",
            on_continue="inactive",
            enabled_when=on("do_polish"),
            limits=POSITIVE,
        ),
        slider(
            "maxres",
            "Maximum resolution for B-factor fit (A): ",
            "-1",
            -1,
            15,
            1,
            help=("Highest resolution (A) in the fit of the frames' B-factors; -1 for all."),
            on_continue="inactive",
            enabled_when=on("do_polish"),
        ),
    ),
)


_TRAIN = on("do_param_optim")
_POLISH = all_of(off("do_param_optim"), on("do_polish"))
_OWN = all_of(_POLISH, on("do_own_params"))
_FROM_FILE = all_of(_POLISH, off("do_own_params"))


def align_fraction(context: JobContext) -> str:
    """The Fourier pixels that are not kept for evaluation."""
    return format_number(1.0 - context.number("eval_frac"))


def _sizes(values: Values) -> tuple[int, int]:
    return round_half_away(number(values, "extract_size")), round_half_away(number(values, "rescale"))


def _sized(values: Values) -> bool:
    return all(size > 0 for size in _sizes(values))


def _mismatched(values: Values) -> bool:
    box, scaled = _sizes(values)
    return box * scaled <= 0


def _bad_size(test: Callable[[int, int], bool], text: str, message: str, key: str) -> Rule:
    def bad(values: Values) -> bool:
        return _sized(values) and test(*_sizes(values))

    return Rule(all_of(_POLISH, that(bad, text, "extract_size", "rescale")), message, key)


def _bad_fraction(values: Values) -> bool:
    return "$$" not in values["eval_frac"] and not 0.1 < number(values, "eval_frac") <= single(0.9)


_SIZED = all_of(_POLISH, that(_sized, "box sizes are given", "extract_size", "rescale"))
_LEFTOVERS = ("*/*_FCC_cc.mrc", "*/*_FCC_w0.mrc", "*/*_FCC_w1.mrc")

SPEC = JobSpec(
    type_label="relion.polish",
    type_number=20,
    directory="Polish",
    browser_label="Bayesian polishing",
    hidden_file=".gui_bayespolishjob.star",
    help="Follow every particle's motion and sum its frames again.",
    pages=(I_O, TRAIN, POLISH, running(mpi=True, threads=True)),
    commands=(
        Command(
            "relion_motion_refine",
            (
                Arg("--i", "fn_data"),
                Arg("--f", "fn_post"),
                Arg("--corr_mic", "fn_mic"),
                Arg("--first_frame", "first_frame"),
                Arg("--last_frame", "last_frame"),
                Arg("--o", output("")),
                Arg("--float16", when=on("do_float16")),
                Arg("--min_p", "optim_min_part", _TRAIN),
                Arg("--eval_frac", "eval_frac", _TRAIN),
                Arg("--align_frac", align_fraction, _TRAIN),
                Arg("--params2", when=all_of(_TRAIN, below("sigma_acc", 0))),
                Arg("--params3", when=all_of(_TRAIN, not_(below("sigma_acc", 0)))),
                Arg("--s_vel", "sigma_vel", _OWN),
                Arg("--s_div", "sigma_div", _OWN),
                Arg("--s_acc", "sigma_acc", _OWN),
                Arg("--params_file", "opt_params", _FROM_FILE),
                Arg("--combine_frames", when=_POLISH),
                Arg("--bfac_minfreq", "minres", _POLISH),
                Arg("--bfac_maxfreq", "maxres", _POLISH),
                Arg("--window", "extract_size", _SIZED),
                Arg("--scale", "rescale", _SIZED),
                Arg("--only_do_unfinished", when=continuing),
                THREADS_ARG,
                OTHER_ARGS,
            ),
            mpi=True,
        ),
    ),
    # RELION makes no edge from the post-processing job, only from the particles.
    inputs=(Input("fn_data"),),
    outputs=(
        Output("opt_params_all_groups.txt", nodes.POLISH_PARAMS, _TRAIN),
        Output("logfile.pdf", nodes.POLISH_LOG, _POLISH),
        Output("shiny.star", nodes.POLISH_PARTS, _POLISH),
    ),
    labels=(("train", _TRAIN),),
    refusals=(
        empty_input("fn_data", "Give the refined particles."),
        empty_input("fn_mic", "Give the micrographs STAR file of motion correction."),
        empty_input("fn_post", "Give the postprocess.star of the same refinement."),
        Rule(
            all_of(on("do_param_optim"), on("do_polish")),
            "Choose either training or polishing: train first, then polish in another job.",
            "do_polish",
        ),
        Rule(
            all_of(off("do_param_optim"), off("do_polish")),
            "There is nothing to do: choose training or polishing.",
            "do_polish",
        ),
        Rule(
            that(_bad_fraction, "eval_frac is not between 0.1 and 0.9", "eval_frac"),
            "The fraction of Fourier pixels for testing must be above 0.1 and at most 0.9.",
            "eval_frac",
        ),
        empty_input(
            "opt_params",
            "Give the file of trained parameters, or switch on your own and give all three of them.",
            _FROM_FILE,
        ),
        Rule(
            all_of(
                _POLISH,
                that(_mismatched, "one box size is given without the other", "extract_size", "rescale"),
            ),
            "Give both the extraction size and the re-scaled size, or leave both at -1.",
            "rescale",
        ),
        _bad_size(
            lambda box, scaled: box % 2 != 0,
            "odd box",
            "The extraction size must be an even number.",
            "extract_size",
        ),
        _bad_size(
            lambda box, scaled: scaled % 2 != 0,
            "odd scaled box",
            "The re-scaled size must be an even number.",
            "rescale",
        ),
        _bad_size(
            lambda box, scaled: scaled > box,
            "the scaled box is the larger one",
            "The re-scaled size must not be larger than the extraction size.",
            "rescale",
        ),
    ),
    gentle=CleanRule(_LEFTOVERS),
    harsh=CleanRule((*_LEFTOVERS, "*/*_shiny.mrcs", "*/*_shiny.star")),
    display=(
        Display("Polished particles", "shiny.star", "particles"),
        Display("Log", "logfile.pdf", "pdf"),
    ),
)
