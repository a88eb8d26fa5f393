"""Auto-picking: finds particles by templates, a Laplacian of Gaussian, or Topaz (relion_autopick)."""

from __future__ import annotations

from . import nodes, quoting
from .autopick_options import AUTOPICKING, HELIX, I_O, LAPLACIAN, REFERENCES, TOPAZ
from .common import (
    OTHER_ARGS,
    empty_input,
    running,
    sampling_order,
    unknown_sampling,
)
from .conditions import (
    Condition,
    Values,
    above,
    all_of,
    any_of,
    below,
    continuing,
    filled,
    not_,
    number,
    off,
    on,
    that,
)
from .manualpick import SPEC as MANUAL_PICKING
from .manualpick import display_args
from .numeric import format_number, parse_number, single
from .spec import (
    Arg,
    CleanRule,
    Command,
    Display,
    JobContext,
    JobSpec,
    Output,
    Rule,
    Words,
    literal,
    output,
)

_BY_HAND = all_of(continuing, on("continue_manual"))
_PICKING = not_(_BY_HAND)
_TOPAZ = all_of(_PICKING, on("do_topaz"))
_TRAIN = all_of(_TOPAZ, on("do_topaz_train"))
_TRAIN_PARTS = all_of(_TRAIN, on("do_topaz_train_parts"))
_TOPAZ_PICK = all_of(_TOPAZ, off("do_topaz_train"), on("do_topaz_pick"))
_FILAMENTS = all_of(_TOPAZ_PICK, on("do_topaz_filaments"))
_LOG = all_of(_PICKING, off("do_topaz"), on("do_log"))
_REFS = all_of(_PICKING, off("do_topaz"), off("do_log"), on("do_refs"))
_REF_3D = all_of(_REFS, on("do_ref3d"))
_REF_2D = all_of(_REFS, off("do_ref3d"))
_HELIX = all_of(_REFS, on("do_pick_helical_segments"))
_NOT_TOPAZ = any_of(_REFS, _LOG)

# How the manual picker looks where no form of it was ever saved in the project.
_PLAIN_DISPLAY = ("--scale", "0.25", "--sigma_contrast", "3", "--lowpass", "20", "--particle_diameter", "100")


def display_words(context: JobContext) -> Words:
    """Display arguments for editing picks: as the project's saved Manual picking form says."""
    saved = context.files.saved_form(MANUAL_PICKING.hidden_file)
    if saved is None:
        return _PLAIN_DISPLAY
    form = MANUAL_PICKING.context(saved, context.job_name, True, context.env, context.files)
    return tuple(word for arg in display_args(editing=True) if arg.when(form) for word in arg.words(form))


def segment_distance(context: JobContext) -> str:
    """Distance (A) between helical segments: asymmetric units times rise."""
    units = parse_number(context["helical_nr_asu"]) or 0.0
    return format_number(single(units * context.number("helical_rise")))


def topaz_arguments(context: JobContext) -> str:
    """Topaz's own arguments travel as one word, with spaces around so that they never look like a flag."""
    return f" {context['topaz_other_args']} "


def _methods(values: Values, *keys: str) -> int:
    return sum(values[key] == "Yes" for key in keys)


def _given(flag: str, key: str, when: Condition, limit: float = 0.0) -> Arg:
    return Arg(flag, key, all_of(when, above(key, limit)))


_PICK_ARGS = (
    Arg("--fn_topaz_exe", "fn_topaz_exe"),
    Arg("--i", "fn_input_autopick", is_input=True),
    Arg("--odir", output("")),
    Arg("--pickname", literal("autopick")),
)

_TOPAZ_ARGS = (
    _given("--particle_diameter", "topaz_particle_diameter", _TOPAZ),
    Arg("--topaz_train", when=_TRAIN),
    _given("--topaz_nr_particles", "topaz_nr_particles", _TRAIN),
    Arg("--topaz_train_parts", "topaz_train_parts", _TRAIN_PARTS),
    Arg("--topaz_train_picks", "topaz_train_picks", all_of(_TRAIN, off("do_topaz_train_parts"))),
    Arg("--topaz_extract", when=_TOPAZ_PICK),
    Arg("--topaz_model", "topaz_model", all_of(_TOPAZ_PICK, filled("topaz_model"))),
    Arg("--helix", when=_FILAMENTS),
    Arg("--topaz_threshold", "topaz_filament_threshold", _FILAMENTS),
    Arg(
        "--helical_tube_length_min",
        "topaz_hough_length",
        all_of(_FILAMENTS, above("topaz_hough_length", lenient=True)),
    ),
    Arg("--topaz_args", topaz_arguments, all_of(_TOPAZ, filled("topaz_other_args"))),
    Arg("--gpu", "gpu_ids", all_of(_TOPAZ, on("use_gpu"))),
)

_LOG_ARGS = (
    Arg("--LoG", when=_LOG),
    Arg("--LoG_diam_min", "log_diam_min", _LOG),
    Arg("--LoG_diam_max", "log_diam_max", _LOG),
    Arg("--shrink", literal("0"), _LOG),
    Arg("--lowpass", "log_maxres", _LOG),
    Arg("--LoG_adjust_threshold", "log_adjust_thr", _LOG),
    Arg("--LoG_upper_threshold", "log_upper_thr", all_of(_LOG, below("log_upper_thr", 999))),
    Arg("--Log_invert", when=all_of(_LOG, on("log_invert"))),
)

_REFS_ARGS = (
    Arg("--ref", "fn_ref3d_autopick", _REF_3D, is_input=True),
    Arg("--sym", "ref3d_symmetry", _REF_3D),
    Arg("--healpix_order", sampling_order("ref3d_sampling"), _REF_3D),
    Arg("--ref", "fn_refs_autopick", _REF_2D, is_input=True),
    Arg("--invert", when=all_of(_REFS, on("do_invert_refs"))),
    Arg("--ctf", when=all_of(_REFS, on("do_ctf_autopick"))),
    Arg(
        "--ctf_intact_first_peak",
        when=all_of(_REFS, on("do_ctf_autopick"), on("do_ignore_first_ctfpeak_autopick")),
    ),
    Arg("--ang", "psi_sampling_autopick", _REFS),
    Arg("--shrink", "shrink", _REFS),
    _given("--lowpass", "lowpass", _REFS),
    _given("--highpass", "highpass", _REFS),
    _given("--angpix", "angpix", _REFS),
    _given("--angpix_ref", "angpix_ref", _REFS),
    Arg("--threshold", "threshold_autopick", _REFS),
    Arg("--min_distance", segment_distance, _HELIX),
    Arg("--min_distance", "mindist_autopick", all_of(_REFS, off("do_pick_helical_segments"))),
    Arg("--max_stddev_noise", "maxstddevnoise_autopick", _REFS),
    _given("--min_avg_noise", "minavgnoise_autopick", _REFS, -900.0),
    Arg("--helix", when=_HELIX),
    Arg("--amyloid", when=all_of(_HELIX, on("do_amyloid"))),
    Arg("--helical_tube_outer_diameter", "helical_tube_outer_diameter", _HELIX),
    Arg("--helical_tube_kappa_max", "helical_tube_kappa_max", _HELIX),
    Arg("--helical_tube_length_min", "helical_tube_length_min", _HELIX),
    Arg("--gpu", "gpu_ids", all_of(_REFS, on("use_gpu"))),
)

_FOM_MAPS = any_of(on("do_write_fom_maps"), on("do_read_fom_maps"))

SPEC = JobSpec(
    type_label="relion.autopick",
    type_number=4,
    directory="AutoPick",
    browser_label="Auto-picking",
    hidden_file=".gui_autopickjob.star",
    help="Find particles on micrographs.",
    pages=(I_O, LAPLACIAN, TOPAZ, REFERENCES, AUTOPICKING, HELIX, running(mpi=True, threads=False)),
    commands=(
        Command(
            "relion_manualpick",
            (
                Arg("--i", "fn_input_autopick", is_input=True),
                Arg("--odir", output("")),
                Arg("--pickname", literal("autopick")),
                Arg("--allow_save"),
                Arg("--selection", output("micrographs_selected.star")),
                Arg("", lambda context: quoting.display(display_words(context))),
                OTHER_ARGS,
            ),
            when=_BY_HAND,
        ),
        Command(
            "relion_autopick",
            (
                *_PICK_ARGS,
                *_TOPAZ_ARGS,
                *_LOG_ARGS,
                *_REFS_ARGS,
                Arg("--write_fom_maps", when=all_of(_NOT_TOPAZ, on("do_write_fom_maps"))),
                Arg("--read_fom_maps", when=all_of(_NOT_TOPAZ, on("do_read_fom_maps"))),
                Arg(
                    "--only_do_unfinished",
                    when=all_of(continuing, any_of(_TOPAZ, all_of(_NOT_TOPAZ, not_(_FOM_MAPS)))),
                ),
                OTHER_ARGS,
            ),
            mpi=True,
            when=_PICKING,
        ),
    ),
    outputs=(
        Output("autopick.star", nodes.AUTOPICK_COORDS, not_(_TRAIN)),
        Output("logfile.pdf", nodes.AUTOPICK_LOG, all_of(_PICKING, not_(_TRAIN))),
        Output("micrographs_selected.star", nodes.MICS, _BY_HAND),
        Output("input_training_coords.star", nodes.COORDS, _TRAIN_PARTS),
    ),
    labels=(
        ("continuemanual", _BY_HAND),
        ("topaz", _TOPAZ),
        ("train", _TRAIN),
        ("pick", _TOPAZ_PICK),
        ("log", _LOG),
        ("ref3d", _REF_3D),
        ("ref2d", _REF_2D),
    ),
    refusals=(
        Rule(
            all_of(
                _PICKING,
                that(
                    lambda v: _methods(v, "do_log", "do_topaz", "do_refs") != 1,
                    "not exactly one picking method is on",
                    "do_refs",
                    "do_log",
                    "do_topaz",
                ),
            ),
            "Choose one way of picking on the I/O tab: references, Laplacian of Gaussian, or Topaz.",
            "do_refs",
        ),
        empty_input("fn_input_autopick", "Give the micrographs STAR file.", _PICKING),
        Rule(
            all_of(
                _TOPAZ,
                that(
                    lambda v: _methods(v, "do_topaz_train", "do_topaz_pick") != 1,
                    "Topaz shall not either train or pick",
                    "do_topaz_train",
                    "do_topaz_pick",
                ),
            ),
            "Choose on the Topaz tab either training or picking.",
            "do_topaz_pick",
        ),
        Rule(
            all_of(_TRAIN, off("use_gpu")),
            "Topaz trains on GPUs only: switch them on, on the autopicking tab.",
            "use_gpu",
        ),
        Rule(
            all_of(_LOG, on("use_gpu")),
            "The Laplacian-of-Gaussian picker does not run on GPUs: switch them off, on the autopicking tab.",
            "use_gpu",
        ),
        empty_input("fn_ref3d_autopick", "Give the map to project as references.", _REF_3D),
        unknown_sampling("ref3d_sampling", _REF_3D),
        empty_input("fn_refs_autopick", "Give the 2D references.", _REF_2D),
    ),
    checks=(
        empty_input("fn_input_autopick", "Give the micrographs STAR file.", _BY_HAND),
        Rule(
            all_of(
                _LOG,
                that(
                    lambda v: number(v, "log_diam_min") > number(v, "log_diam_max"),
                    "the smallest diameter is above the largest",
                    "log_diam_min",
                    "log_diam_max",
                ),
            ),
            "The minimum diameter must not be above the maximum.",
            "log_diam_min",
        ),
        empty_input("topaz_train_parts", "Give the particles to train with.", _TRAIN_PARTS),
        empty_input("topaz_train_picks", "Give the picks to train with.", all_of(_TRAIN, off("do_topaz_train_parts"))),
    ),
    gentle=CleanRule(("*/*.spi",)),
    harsh=CleanRule(("*/*.spi",)),
    display=(
        Display("Picks", "autopick.star", "coordinates"),
        Display("Log", "logfile.pdf", "pdf"),
    ),
)
