"""Auto-picking: finds particles by templates, a Laplacian of Gaussian, or Topaz (relion_autopick)."""

from __future__ import annotations

from . import nodes, quoting
from .common import (
    COUNT,
    NOT_NEGATIVE,
    NUMBER,
    OTHER_ARGS,
    POSITIVE,
    SAMPLING,
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
    Limits,
    Output,
    Page,
    Row,
    Rule,
    Words,
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
            "fn_input_autopick",
            "Input micrographs for autopick:",
            nodes.MICS,
            pattern="Input micrographs (*.{star})",
            help=("Micrographs STAR file, with CTF parameters if references are CTF corrected."),
            on_continue="inactive",
        ),
        slider(
            "angpix",
            "Pixel size in micrographs (A)",
            "-1",
            0.3,
            5,
            0.1,
            help="Pixel size of the micrographs in A; -1 takes it from the STAR file.",
            on_continue="inactive",
        ),
        yes_no(
            "do_refs",
            "Use reference-based template-matching?",
            False,
            help=("Find particles by comparison with 2D class averages or projections of a map."),
            on_continue="inactive",
        ),
        yes_no(
            "do_log",
            "OR: use Laplacian-of-Gaussian?",
            False,
            help=("Find blobs of about the right size with a Laplacian-of-Gaussian filter; needs no reference."),
            on_continue="inactive",
        ),
        yes_no(
            "do_topaz",
            "OR: use Topaz?",
            False,
            help=("Find particles with the neural network Topaz, which must be installed."),
            on_continue="inactive",
        ),
        yes_no(
            "continue_manual",
            "OR: continue manually?",
            False,
            help=("When continuing: open the picks in the manual picker instead of picking the rest."),
            on_continue="only",
        ),
    ),
)

LAPLACIAN = Page(
    "Laplacian",
    (
        slider(
            "log_diam_min",
            "Min. diameter for LoG filter (A)",
            "200",
            50,
            500,
            10,
            help="Smallest particle diameter (A): the smallest one from any side.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        slider(
            "log_diam_max",
            "Max. diameter for LoG filter (A)",
            "250",
            50,
            500,
            10,
            help="Largest particle diameter (A): the largest one from any side.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        yes_no(
            "log_invert",
            "Are the particles white?",
            False,
            help="Yes if particles are white on black.",
            on_continue="inactive",
        ),
        slider(
            "log_maxres",
            "Maximum resolution to consider (A)",
            "20",
            10,
            100,
            5,
            help="Micrographs are filtered to this resolution (A) first.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        slider(
            "log_adjust_thr",
            "Adjust default threshold (stddev):",
            "0",
            -1,
            1,
            0.05,
            help=(
                "Raises the default threshold by this many standard deviations: above 0 picks fewer, below 0 "
                "more particles."
            ),
        ),
        slider(
            "log_upper_thr",
            "Upper threshold (stddev):",
            "999",
            0,
            10,
            0.5,
            help=(
                "Discard picks with more than this many standard deviations above the mean, such as ice; 999 for none."
            ),
        ),
    ),
)

TOPAZ = Page(
    "Topaz",
    (
        text(
            "fn_topaz_exe",
            "Topaz executable:",
            "relion_python_topaz",
            help="The Topaz program, or the wrapper that starts it.",
            on_continue="inactive",
            executable=True,
        ),
        slider(
            "topaz_particle_diameter",
            "Particle diameter (A) ",
            "-1",
            0,
            2000,
            20,
            help=(
                "Particle diameter in A; micrographs are shrunk so that Topaz's network covers it. -1 leaves "
                "it to Topaz."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "do_topaz_train",
            "Perform topaz training?",
            False,
            help="Train a network on particles picked before.",
            on_continue="inactive",
        ),
        slider(
            "topaz_nr_particles",
            "Nr of particles per micrograph: ",
            "-1",
            0,
            2000,
            20,
            help=("Expected number of particles in a micrograph; it need not be exact. -1 leaves it to Topaz."),
            on_continue="inactive",
            enabled_when=on("do_topaz_train"),
            limits=NUMBER,
        ),
        node(
            "topaz_train_picks",
            "Input picked coordinates for training:",
            nodes.COORDS,
            pattern="Input micrographs (*.{star})",
            help="Picked coordinates to train with.",
            on_continue="inactive",
            enabled_when=on("do_topaz_train"),
        ),
        yes_no(
            "do_topaz_train_parts",
            "OR train on a set of particles? ",
            False,
            help=("Train with the particles of a STAR file, such as selected class members, instead of coordinates."),
            on_continue="inactive",
            enabled_when=on("do_topaz_train"),
        ),
        node(
            "topaz_train_parts",
            "Particles STAR file for training: ",
            nodes.PARTS,
            pattern="Input STAR file (*.{star})",
            help="Particles STAR file to train with.",
            on_continue="inactive",
            enabled_when=all_of(on("do_topaz_train"), on("do_topaz_train_parts")),
        ),
        yes_no(
            "do_topaz_pick",
            "Perform topaz picking?",
            False,
            help="Pick with a trained network.",
            on_continue="inactive",
        ),
        file(
            "topaz_model",
            "Trained topaz model: ",
            pattern="SAV Files (*.sav)",
            help="A network trained before (.sav); empty takes Topaz's general one.",
            on_continue="inactive",
            enabled_when=on("do_topaz_pick"),
        ),
        yes_no(
            "do_topaz_filaments",
            "Pick filaments?",
            False,
            help="Pick filaments, with the modified Topaz that finds lines.",
            on_continue="inactive",
            enabled_when=on("do_topaz_pick"),
        ),
        text(
            "topaz_filament_threshold",
            "Threshold:",
            "-5",
            help="Threshold for filaments; the lower, the more are found.",
            on_continue="inactive",
            enabled_when=all_of(on("do_topaz_pick"), on("do_topaz_filaments")),
            limits=NUMBER,
        ),
        text(
            "topaz_hough_length",
            "Hough length (A):",
            "-1",
            help=("Length (A) of line segments in the Hough transform; -1 for the default."),
            on_continue="inactive",
            enabled_when=all_of(on("do_topaz_pick"), on("do_topaz_filaments")),
            limits=NUMBER,
        ),
        text(
            "topaz_other_args",
            "Additional topaz arguments:",
            help="More arguments for Topaz.",
            on_continue="inactive",
        ),
    ),
    rows=(
        Row(
            (
                "topaz_filament_threshold",
                "topaz_hough_length",
            ),
            "Threshold, Hough length (A)",
        ),
    ),
)

REFERENCES = Page(
    "References",
    (
        node(
            "fn_refs_autopick",
            "2D references:",
            nodes.IMAGES_2D,
            pattern="Input references (*.{star,mrcs})",
            help=("2D references, such as selected class averages, on RELION's grey scale."),
            on_continue="inactive",
        ),
        yes_no(
            "do_ref3d",
            "OR: provide a 3D reference?",
            False,
            help="Yes projects a map to make the references.",
            on_continue="inactive",
        ),
        node(
            "fn_ref3d_autopick",
            "3D reference:",
            nodes.MAP,
            pattern="Input reference (*.{mrc})",
            help="The map (MRC) to project.",
            on_continue="inactive",
            enabled_when=on("do_ref3d"),
        ),
        text(
            "ref3d_symmetry",
            "Symmetry:",
            "C1",
            help="Point group of the map, so that only different views are projected.",
            on_continue="inactive",
            enabled_when=on("do_ref3d"),
        ),
        choice(
            "ref3d_sampling",
            "3D angular sampling:",
            SAMPLING,
            "30 degrees",
            help="Angle between the projections. 30 degrees is enough for most.",
            on_continue="inactive",
            enabled_when=on("do_ref3d"),
        ),
        slider(
            "lowpass",
            "Lowpass filter references (A)",
            "20",
            10,
            100,
            5,
            help=(
                "Low-pass filter (A) for references: 20 or coarser, so that noise is not picked into the "
                "shape of the references."
            ),
            on_continue="inactive",
        ),
        slider(
            "highpass",
            "Highpass filter (A)",
            "-1",
            100,
            1000,
            100,
            help=("High-pass filter (A) for micrographs, against uneven ice; -1 for none."),
            on_continue="inactive",
        ),
        slider(
            "angpix_ref",
            "Pixel size in references (A)",
            "-1",
            0.3,
            5,
            0.1,
            help="Pixel size of the references in A; -1 if it is in their headers.",
            on_continue="inactive",
        ),
        slider(
            "psi_sampling_autopick",
            "In-plane angular sampling (deg)",
            "5",
            1,
            30,
            1,
            help="Step (degrees) of in-plane rotations.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
        yes_no(
            "do_invert_refs",
            "References have inverted contrast?",
            True,
            help="Yes if the references are white and the particles black.",
            on_continue="inactive",
        ),
        yes_no(
            "do_ctf_autopick",
            "Are References CTF corrected?",
            True,
            help=(
                "Yes if the references are CTF corrected (as class averages are): they are then multiplied "
                "by each micrograph's CTF."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "do_ignore_first_ctfpeak_autopick",
            "Ignore CTFs until first peak?",
            False,
            help=("Yes if the references are not right at the lowest resolutions, as RELION's class averages made so."),
            on_continue="inactive",
            enabled_when=on("do_ctf_autopick"),
        ),
    ),
)

AUTOPICKING = Page(
    "autopicking",
    (
        slider(
            "threshold_autopick",
            "Picking threshold:",
            "0.05",
            0,
            1,
            0.01,
            help=("Picks need a peak above this: lower gives more particles. Try it on a few micrographs."),
        ),
        slider(
            "mindist_autopick",
            "Minimum inter-particle distance (A):",
            "100",
            0,
            1000,
            20,
            help="Smallest distance (A) between picks; 50 to 70 % of the diameter.",
            limits=NOT_NEGATIVE,
        ),
        slider(
            "maxstddevnoise_autopick",
            "Maximum stddev noise:",
            "1.1",
            0.9,
            1.5,
            0.02,
            help=(
                "Discard picks where the background varies more than this, such as on carbon edges: 1 to "
                "1.5. -1 for none."
            ),
        ),
        slider(
            "minavgnoise_autopick",
            "Minimum avg noise:",
            "-999",
            -2,
            0.5,
            0.05,
            help=(
                "Discard picks where the background is darker than this many standard deviations: -1 to 0. "
                "-999 for none."
            ),
        ),
        yes_no(
            "do_write_fom_maps",
            "Write FOM maps?",
            False,
            help=(
                "Write the figure-of-merit maps, so that thresholds can be tried quickly. Large files: only "
                "for a few micrographs."
            ),
        ),
        yes_no(
            "do_read_fom_maps",
            "Read FOM maps?",
            False,
            help=("Read the maps that an earlier run of this job wrote, and only apply the thresholds again."),
        ),
        slider(
            "shrink",
            "Shrink factor:",
            "0",
            0,
            1,
            0.1,
            help=("Shrink micrographs by this much: 0 to the resolution of the low-pass filter (fast), 1 not at all."),
            on_continue="inactive",
            limits=Limits(0, 1),
        ),
        yes_no("use_gpu", "Use GPU acceleration?", False, help="Yes to compute on NVIDIA GPUs."),
        text(
            "gpu_ids",
            "Which GPUs to use:",
            help=(
                "Which GPUs: colons between processes, commas between GPUs of one process, such as 0:1 or "
                "0,1:2,3. Empty uses all in turn."
            ),
            enabled_when=on("use_gpu"),
        ),
    ),
)

HELIX = Page(
    "Helix",
    (
        yes_no(
            "do_pick_helical_segments",
            "Pick 2D helical segments?",
            False,
            help="Yes for helical filaments or tubes.",
            on_continue="inactive",
        ),
        slider(
            "helical_tube_outer_diameter",
            "Tube diameter (A): ",
            "200",
            100,
            1000,
            10,
            help="Outer diameter (A) of the helical tube or filament.",
            enabled_when=on("do_pick_helical_segments"),
            limits=POSITIVE,
        ),
        slider(
            "helical_tube_length_min",
            "Minimum length (A): ",
            "-1",
            100,
            1000,
            10,
            help="Shortest filament (A) that is kept; -1 for all.",
            enabled_when=on("do_pick_helical_segments"),
        ),
        slider(
            "helical_tube_kappa_max",
            "Maximum curvature (kappa): ",
            "0.1",
            0.05,
            0.5,
            0.01,
            help=(
                "Largest curvature, in units of a circle whose diameter is the tube's: 0.05 for "
                "microtubules, 0.25 for wavy filaments."
            ),
            enabled_when=on("do_pick_helical_segments"),
        ),
        slider(
            "helical_nr_asu",
            "Number of unique asymmetrical units:",
            "1",
            1,
            100,
            1,
            help=(
                "Number of asymmetric units that one segment adds: the distance between segments divided by the rise."
            ),
            enabled_when=on("do_pick_helical_segments"),
            limits=COUNT,
        ),
        slider(
            "helical_rise",
            "Helical rise (A):",
            "-1",
            0,
            100,
            0.01,
            help=(
                "Rise (A) from one subunit to the next; times the number of asymmetric units it is the "
                "distance between segments."
            ),
            enabled_when=on("do_pick_helical_segments"),
        ),
        yes_no(
            "do_amyloid",
            "Pick amyloid segments?",
            False,
            help="Yes uses an algorithm made for amyloid fibres.",
            enabled_when=on("do_pick_helical_segments"),
        ),
    ),
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
