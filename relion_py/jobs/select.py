"""Subset selection: classes, micrographs or particles, by hand, by score, by value, or in parts."""

from __future__ import annotations

from . import nodes
from .common import COUNT, NOT_NEGATIVE, NUMBER, OTHER_ARGS, POSITIVE, empty_input, running
from .conditions import Condition, Values, above, all_of, any_of, empty, filled, not_, number, off, on, that
from .numeric import parse_number
from .spec import (
    Arg,
    Command,
    Display,
    JobSpec,
    Output,
    Page,
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
            "fn_model",
            "Select classes from job:",
            nodes.OPTIMISER,
            pattern="STAR files (*_optimiser.star)",
            help=("Optimiser STAR file of a 2D or 3D classification, to select its classes."),
            on_continue="inactive",
        ),
        node(
            "fn_mic",
            "OR select from micrographs.star:",
            nodes.MICS,
            pattern="STAR files (*.star)",
            help="Micrographs STAR file to select from.",
            on_continue="inactive",
        ),
        node(
            "fn_data",
            "OR select from particles.star:",
            nodes.PARTS,
            pattern="STAR files (*.star)",
            help="Particles STAR file to select from.",
            on_continue="inactive",
        ),
    ),
)

CLASS_OPTIONS = Page(
    "Class options",
    (
        yes_no(
            "do_class_ranker",
            "Automatically select 2D classes?",
            False,
            help=("Let a neural network score 2D class averages and select the good ones."),
            on_continue="inactive",
        ),
        slider(
            "rank_threshold",
            "Minimum threshold for auto-selection: ",
            "0.5",
            0,
            1,
            0.05,
            help="Classes with a score above this are kept: 0.1 is lenient, 0.5 strict.",
            on_continue="inactive",
            enabled_when=on("do_class_ranker"),
        ),
        slider(
            "select_nr_parts",
            "Select at least this many particles: ",
            "-1",
            -1,
            10000,
            500,
            help=("Keep at least this many particles, even of classes below the threshold; -1 for no such rule."),
            on_continue="inactive",
            enabled_when=on("do_class_ranker"),
        ),
        slider(
            "select_nr_classes",
            "OR: select at least this many classes: ",
            "-1",
            -1,
            24,
            1,
            help=("Keep at least this many classes, even below the threshold; -1 for no such rule."),
            on_continue="inactive",
            enabled_when=on("do_class_ranker"),
        ),
        yes_no(
            "do_recenter",
            "Re-center the class averages?",
            False,
            help=("Centre the selected class averages on their mass; for use as references."),
            on_continue="inactive",
        ),
        yes_no(
            "do_regroup",
            "Regroup the particles?",
            False,
            help=("Put particles into groups of similar intensity, when micrographs hold too few each."),
            on_continue="inactive",
        ),
        slider(
            "nr_groups",
            "Approximate nr of groups: ",
            "1",
            50,
            20,
            1,
            help="Number of groups wanted, about.",
            on_continue="inactive",
            enabled_when=on("do_regroup"),
            limits=COUNT,
        ),
    ),
)

SUBSETS = Page(
    "Subsets",
    (
        yes_no(
            "do_select_values",
            "Select based on metadata values?",
            False,
            help="Select by the value of a column.",
            on_continue="inactive",
        ),
        text(
            "select_label",
            "Metadata label for subset selection:",
            "rlnCtfMaxResolution",
            help=("Column to select by, without the underscore, such as rlnCtfMaxResolution."),
            on_continue="inactive",
            enabled_when=on("do_select_values"),
        ),
        text(
            "select_minval",
            "Minimum metadata value:",
            "-9999.",
            help="Smallest value that is kept.",
            on_continue="inactive",
            enabled_when=on("do_select_values"),
            limits=NUMBER,
        ),
        text(
            "select_maxval",
            "Maximum metadata value:",
            "9999.",
            help="Largest value that is kept.",
            on_continue="inactive",
            enabled_when=on("do_select_values"),
            limits=NUMBER,
        ),
        yes_no(
            "do_discard",
            "OR: select on image statistics?",
            False,
            help="Discard images whose statistics stand out.",
            on_continue="inactive",
        ),
        text(
            "discard_label",
            "Metadata label for images:",
            "rlnImageName",
            help="Column with the images, such as rlnImageName.",
            on_continue="inactive",
            enabled_when=on("do_discard"),
        ),
        slider(
            "discard_sigma",
            "Sigma-value for discarding images:",
            "4",
            1,
            10,
            0.1,
            help=("Discard images whose mean or standard deviation is more than this many standard deviations off."),
            on_continue="inactive",
            enabled_when=on("do_discard"),
            limits=POSITIVE,
        ),
        yes_no(
            "do_split",
            "OR: split into subsets?",
            False,
            help="Split the file into parts.",
            on_continue="inactive",
        ),
        yes_no(
            "do_random",
            "Randomise order before making subsets?:",
            False,
            help="Put the entries in random order first.",
            on_continue="inactive",
            enabled_when=on("do_split"),
        ),
        slider(
            "split_size",
            "Subset size: ",
            "100",
            100,
            10000,
            100,
            help="Entries in each part; -1 to give the number of parts only.",
            on_continue="inactive",
            enabled_when=on("do_split"),
        ),
        slider(
            "nr_split",
            "OR: number of subsets: ",
            "-1",
            1,
            50,
            1,
            help="Number of parts; -1 to give their size only.",
            on_continue="inactive",
            enabled_when=on("do_split"),
        ),
    ),
)

DUPLICATES = Page(
    "Duplicates",
    (
        yes_no(
            "do_remove_duplicates",
            "OR: remove duplicates?",
            False,
            help="Remove particles that lie on each other after refinement.",
            on_continue="inactive",
        ),
        slider(
            "duplicate_threshold",
            "Minimum inter-particle distance (A)",
            "30",
            0,
            1000,
            1,
            help="Particles closer than this (A) count as the same.",
            on_continue="inactive",
            enabled_when=on("do_remove_duplicates"),
            limits=NOT_NEGATIVE,
        ),
        slider(
            "image_angpix",
            "Pixel size before extraction (A)",
            "-1",
            -1,
            10,
            0.01,
            help=("Pixel size (A) of the micrographs from which particles were extracted; -1 takes it from the file."),
            on_continue="inactive",
            enabled_when=on("do_remove_duplicates"),
        ),
    ),
)

FILAMENTS = Page(
    "Filaments",
    (
        yes_no(
            "do_filaments",
            "OR: select filaments by dendrogram?",
            False,
            help="Select filaments by a dendrogram of the 2D classes that each visits.",
            on_continue="inactive",
        ),
        slider(
            "dendrogram_threshold",
            "Dendrogram threshold: ",
            "0.85",
            0,
            1,
            0.05,
            help="Height at which the dendrogram is cut: the lower, the more clusters.",
            enabled_when=on("do_filaments"),
        ),
        slider(
            "dendrogram_minclass",
            "Minimum class size: ",
            "-1000",
            -1000,
            50000,
            1000,
            help="Clusters with fewer filament segments are dropped.",
            enabled_when=on("do_filaments"),
        ),
    ),
)


_MODEL, _MIC, _DATA = filled("fn_model"), filled("fn_mic"), filled("fn_data")
_TASKS = ("do_select_values", "do_discard", "do_split", "do_remove_duplicates", "do_filaments")

_FILAMENTS = on("do_filaments")
_DUPLICATES = all_of(not_(_FILAMENTS), on("do_remove_duplicates"))
_BY_ROWS = all_of(
    off("do_filaments"),
    off("do_remove_duplicates"),
    any_of(on("do_select_values"), on("do_discard"), on("do_split")),
)
_VALUES = all_of(_BY_ROWS, on("do_select_values"))
_DISCARD = all_of(_BY_ROWS, off("do_select_values"), on("do_discard"))
_SPLIT = all_of(_BY_ROWS, off("do_select_values"), off("do_discard"))
_KEPT = any_of(_VALUES, _DISCARD)

_NO_TASK = not_(any_of(*(on(task) for task in _TASKS)))
_RANKER = all_of(_NO_TASK, on("do_class_ranker"))
_INTERACTIVE = all_of(_NO_TASK, off("do_class_ranker"))
_SHOW_MODEL = all_of(_INTERACTIVE, _MODEL)
_SHOW_MIC = all_of(_INTERACTIVE, empty("fn_model"), _MIC)
_SHOW_DATA = all_of(_INTERACTIVE, empty("fn_model"), empty("fn_mic"), _DATA)
_SHOW_2D = all_of(
    _SHOW_MODEL, that(lambda v: "Class2D/" in v["fn_model"], "fn_model is of a 2D classification", "fn_model")
)

_ROWS_MIC = all_of(_BY_ROWS, _MIC)
_ROWS_DATA = all_of(_BY_ROWS, empty("fn_mic"), _DATA)

_REGROUP = (Arg("--regroup", "nr_groups", on("do_regroup")), OTHER_ARGS)


def _is_variable(key: str) -> Condition:
    return that(lambda values: "$$" in values[key], f"{key} is a Scheme's variable", key)


def _part_size_missing(values: Values) -> bool:
    """Neither a number of parts nor their size is given. RELION refuses a size that is no number, but takes a
    number of parts that is none as not given."""
    parts, size = parse_number(values["nr_split"]) or 0.0, number(values, "split_size")
    return parts <= 0 and size <= 0 and not any("$$" in values[key] for key in ("nr_split", "split_size"))


SPEC = JobSpec(
    type_label="relion.select",
    type_number=7,
    directory="Select",
    browser_label="Subset selection",
    hidden_file=".gui_selectjob.star",
    help="Select classes, micrographs or particles.",
    pages=(I_O, CLASS_OPTIONS, SUBSETS, DUPLICATES, FILAMENTS, running(mpi=False, threads=False)),
    commands=(
        Command(
            "relion_filament_selection",
            (
                Arg("-i", "fn_model", is_input=True),
                Arg("-o", output("")),
                Arg("-t", "dendrogram_threshold"),
                Arg("-c", "dendrogram_minclass"),
                *_REGROUP,
            ),
            when=_FILAMENTS,
        ),
        Command(
            "relion_star_handler",
            (
                Arg("--i", "fn_data", is_input=True),
                Arg("--o", output("particles.star")),
                Arg("--remove_duplicates", "duplicate_threshold"),
                Arg("--image_angpix", "image_angpix", above("image_angpix")),
                *_REGROUP,
            ),
            when=_DUPLICATES,
        ),
        Command(
            "relion_star_handler",
            (
                Arg("--i", "fn_mic", _ROWS_MIC, is_input=True),
                Arg("--i", "fn_data", _ROWS_DATA, is_input=True),
                Arg("--o", output("micrographs.star"), _ROWS_MIC),
                Arg("--o", output("particles.star"), _ROWS_DATA),
                Arg("--select", "select_label", _VALUES),
                Arg("--minval", "select_minval", _VALUES),
                Arg("--maxval", "select_maxval", _VALUES),
                Arg("--discard_on_stats", when=_DISCARD),
                Arg("--discard_label", "discard_label", _DISCARD),
                Arg("--discard_sigma", "discard_sigma", _DISCARD),
                Arg("--split", when=_SPLIT),
                Arg("--random_order", when=all_of(_SPLIT, on("do_random"))),
                Arg(
                    "--nr_split",
                    "nr_split",
                    all_of(_SPLIT, above("nr_split", lenient=True), not_(_is_variable("nr_split"))),
                ),
                Arg(
                    "--size_split",
                    "split_size",
                    all_of(_SPLIT, above("split_size"), not_(_is_variable("split_size"))),
                ),
                *_REGROUP,
            ),
            when=_BY_ROWS,
        ),
        Command(
            "relion_class_ranker",
            (
                Arg("--opt", "fn_model", is_input=True),
                Arg("--o", output("")),
                Arg("--fn_sel_parts", literal("particles.star")),
                Arg("--fn_sel_classavgs", literal("class_averages.star")),
                Arg("--select_min_nr_particles", "select_nr_parts", above("select_nr_parts", lenient=True)),
                Arg(
                    "--select_min_nr_classes",
                    "select_nr_classes",
                    all_of(not_(above("select_nr_parts", lenient=True)), above("select_nr_classes")),
                ),
                Arg("--fn_root", literal("rank")),
                Arg("--do_granularity_features"),
                Arg("--auto_select"),
                Arg("--min_score", "rank_threshold"),
                *_REGROUP,
            ),
            when=_RANKER,
        ),
        Command(
            "relion_display",
            (
                Arg("--gui"),
                Arg("--i", "fn_model", _SHOW_MODEL, is_input=True),
                Arg("--i", "fn_mic", _SHOW_MIC, is_input=True),
                Arg("--i", "fn_data", _SHOW_DATA, is_input=True),
                Arg("--allow_save"),
                Arg("--fn_parts", output("particles.star"), _SHOW_MODEL),
                Arg("--fn_imgs", output("class_averages.star"), _SHOW_2D),
                Arg("--recenter", when=all_of(_SHOW_2D, on("do_recenter"))),
                Arg("--fn_imgs", output("micrographs.star"), _SHOW_MIC),
                Arg("--fn_imgs", output("particles.star"), _SHOW_DATA),
                *_REGROUP,
            ),
            when=_INTERACTIVE,
        ),
    ),
    # relion_star_handler itself lists the parts of a split in RELION_OUTPUT_NODES.star.
    outputs=(
        Output("run_optimiser.star", nodes.SELECT_OPT, _FILAMENTS),
        Output("logfile.pdf", nodes.SELECT_LOG, _FILAMENTS),
        Output("particles.star", nodes.PARTS, _DUPLICATES),
        Output("micrographs.star", nodes.MICS, all_of(_KEPT, _MIC)),
        Output("particles.star", nodes.PARTS, all_of(_KEPT, empty("fn_mic"), _DATA)),
        Output("particles.star", nodes.PARTS, any_of(_RANKER, _SHOW_MODEL, _SHOW_DATA)),
        Output("class_averages.star", nodes.SELECT_CLAVS, any_of(_RANKER, _SHOW_2D)),
        Output("rank_optimiser.star", nodes.SELECT_OPT, _RANKER),
        Output("micrographs.star", nodes.MICS, _SHOW_MIC),
    ),
    labels=(
        ("filamentsdendrogram", _FILAMENTS),
        ("removeduplicates", _DUPLICATES),
        ("onvalue", _VALUES),
        ("discard", _DISCARD),
        ("split", _SPLIT),
        ("class2dauto", _RANKER),
        ("interactive", _INTERACTIVE),
    ),
    refusals=(
        Rule(
            all_of(empty("fn_model"), empty("fn_mic"), empty("fn_data")),
            "Give something to select from: classes, micrographs or particles.",
            "fn_model",
        ),
        Rule(
            that(lambda v: sum(v[task] == "Yes" for task in _TASKS) > 1, "several tasks are on", *_TASKS),
            "Choose one task only: by values, by statistics, split, duplicates, or filaments.",
            "do_select_values",
        ),
        Rule(
            all_of(_FILAMENTS, any_of(_MIC, _DATA)),
            "Filaments are selected from an optimiser file: leave micrographs and particles empty.",
            "do_filaments",
        ),
        Rule(
            all_of(_FILAMENTS, empty("fn_model")),
            "Filaments are selected from an optimiser file of a 2D classification: give one.",
            "fn_model",
        ),
        Rule(
            all_of(_DUPLICATES, any_of(_MIC, _MODEL)),
            "Duplicates are removed from a particles file: leave classes and micrographs empty.",
            "do_remove_duplicates",
        ),
        Rule(
            all_of(_DUPLICATES, empty("fn_data")),
            "Duplicates are removed from a particles file: give one.",
            "fn_data",
        ),
        Rule(
            all_of(_BY_ROWS, _MODEL),
            "Selecting by values and splitting need a micrographs or particles file: leave the classes empty.",
            "fn_model",
        ),
        Rule(
            all_of(_SPLIT, that(_part_size_missing, "no size of parts is given", "nr_split", "split_size")),
            "To split the file, give the number of parts, or their size, or both (above 0).",
            "nr_split",
        ),
        Rule(
            all_of(_RANKER, empty("fn_model")),
            "Automatic selection of 2D classes needs an optimiser file: give one.",
            "fn_model",
        ),
        Rule(
            all_of(_RANKER, any_of(on("do_regroup"), on("do_recenter"))),
            "Automatic selection can neither regroup nor re-centre: switch those off.",
            "do_class_ranker",
        ),
        Rule(
            all_of(on("do_regroup"), empty("fn_model")),
            "Regrouping needs the classes of an optimiser file: give one, or switch regrouping off.",
            "do_regroup",
        ),
    ),
    checks=(
        Rule(
            all_of(
                _VALUES,
                that(
                    lambda v: number(v, "select_minval") > number(v, "select_maxval"),
                    "the smallest value is above the largest",
                    "select_minval",
                    "select_maxval",
                ),
            ),
            "The minimum value must not be above the maximum.",
            "select_minval",
        ),
        empty_input("select_label", "Say by which column to select.", _VALUES),
    ),
    display=(
        Display("Particles", "particles*.star", "particles"),
        Display("Micrographs", "micrographs*.star", "micrographs"),
        Display("Class averages", "class_averages.star", "stack"),
        Display("Clusters of filaments", "run_cluster*_particles.star", "particles"),
        Display("Classes in the order of the dendrogram", "run_optimiser.star", "classes"),
        Display("Dendrogram", "logfile.pdf", "pdf"),
    ),
)
