"""ModelAngelo: builds an atomic model into a map, through the program of that name."""

from __future__ import annotations

from . import nodes
from .common import OTHER_ARGS, executable, running
from .conditions import Values, all_of, any_of, empty, filled, new_job, not_, on, that
from .spec import (
    Arg,
    Command,
    Input,
    JobContext,
    JobSpec,
    Output,
    Page,
    Rule,
    choice,
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
            "fn_map",
            "B-factor sharpened map:",
            nodes.MAP,
            pattern="MRC map files (*.mrc)",
            help="Sharpened map (MRC) to build into.",
            on_continue="inactive",
        ),
        node(
            "p_seq",
            "FASTA sequence for proteins:",
            nodes.SEQUENCE,
            pattern="FASTA sequence files (*.{fasta,txt})",
            help=("FASTA file of the protein chains; empty builds without a sequence if no other is given."),
            on_continue="inactive",
        ),
        node(
            "d_seq",
            "FASTA sequence for DNA:",
            nodes.SEQUENCE,
            pattern="FASTA sequence files (*.{fasta,txt})",
            help="FASTA file of the DNA chains.",
            on_continue="inactive",
        ),
        node(
            "r_seq",
            "FASTA sequence for RNA:",
            nodes.SEQUENCE,
            pattern="FASTA sequence files (*.{fasta,txt})",
            help="FASTA file of the RNA chains.",
            on_continue="inactive",
        ),
        text(
            "fn_modelangelo_exe",
            "ModelAngelo executable:",
            "relion_python_modelangelo",
            help="The ModelAngelo program, or the wrapper that starts it.",
            on_continue="inactive",
            executable=True,
        ),
        text(
            "gpu_id",
            "Which GPUs to use:",
            "0",
            help="Numbers of the GPUs to use, with commas between them.",
            on_continue="inactive",
        ),
    ),
)

HMMER = Page(
    "Hmmer",
    (
        yes_no(
            "do_hhmer",
            "Perform HMMer search?",
            False,
            help=("Search a sequence library with the profiles of what was built, to find out what it is."),
        ),
        node(
            "fn_lib",
            "Library with sequences for HMMer search:",
            nodes.SEQUENCE,
            pattern="FASTA sequence files (*.{fasta,txt})",
            help="FASTA file of the sequences to search.",
            enabled_when=on("do_hhmer"),
        ),
        choice(
            "alphabet",
            "Alphabet for the HMMer search:",
            ("amino", "DNA", "RNA"),
            "amino",
            help="What the library's sequences are made of.",
            enabled_when=on("do_hhmer"),
        ),
        slider(
            "F1",
            "HMMSearch F1: ",
            "0.02",
            1,
            10,
            0.1,
            help="Threshold of the first filter (MSV).",
            enabled_when=on("do_hhmer"),
        ),
        slider(
            "F2",
            "HMMSearch F2: ",
            "0.001",
            1,
            10,
            0.1,
            help="Threshold of the second filter (Viterbi).",
            enabled_when=on("do_hhmer"),
        ),
        slider(
            "F3",
            "HMMSearch F3: ",
            "1e-05",
            0,
            10,
            0.1,
            help="Threshold of the third filter (Forward).",
            enabled_when=on("do_hhmer"),
        ),
        slider(
            "E",
            "HMMSearch E: ",
            "10",
            0,
            100,
            10,
            help="Report hits with an E-value up to this.",
            enabled_when=on("do_hhmer"),
        ),
    ),
)


_SEQUENCES = any_of(filled("p_seq"), filled("d_seq"), filled("r_seq"))
_PROGRAM = executable("fn_modelangelo_exe")


def model_name(context: JobContext) -> str:
    """ModelAngelo names its model after the job: "job007.cif"."""
    return context.job_name.partition("/")[2].rpartition("/")[0] + ".cif"


def _is_built(values: Values) -> bool:
    return isinstance(values, JobContext) and values.files.exists(values.job_name + model_name(values))


_BUILD = any_of(new_job, not_(that(_is_built, "the model is built already")))

SPEC = JobSpec(
    type_label="modelangelo",
    type_number=23,
    directory="ModelAngelo",
    browser_label="ModelAngelo building",
    hidden_file=".gui_modelangelojob.star",
    help="Build an atomic model into a map.",
    control_flag="--pipeline-control",
    pages=(I_O, HMMER, running(mpi=False, threads=False)),
    commands=(
        Command(
            _PROGRAM,
            (
                Arg("build", when=_SEQUENCES),
                Arg("-pf", "p_seq", filled("p_seq"), is_input=True),
                Arg("-df", "d_seq", filled("d_seq"), is_input=True),
                Arg("-rf", "r_seq", filled("r_seq"), is_input=True),
                Arg("build_no_seq", when=not_(_SEQUENCES)),
                Arg("-v", "fn_map"),
                Arg("-o", output("")),
                Arg("-d", "gpu_id"),
                OTHER_ARGS,
            ),
            when=_BUILD,
        ),
        Command(
            _PROGRAM,
            (
                Arg("hmm_search"),
                Arg("-i", output("")),
                Arg("-f", "fn_lib"),
                Arg("-o", output("")),
                Arg("-a", "alphabet"),
                Arg("--F1", "F1"),
                Arg("--F2", "F2"),
                Arg("--F3", "F3"),
                Arg("--E", "E"),
                OTHER_ARGS,
            ),
            when=on("do_hhmer"),
        ),
    ),
    inputs=(Input("fn_map", when=_BUILD),),
    outputs=(Output(model_name, nodes.ATOM_COORDS, _BUILD),),
    refusals=(
        Rule(
            all_of(on("do_hhmer"), empty("fn_lib")),
            "Give the library of sequences to search, or switch the search off.",
            "fn_lib",
        ),
    ),
    checks=(
        Rule(all_of(_BUILD, empty("fn_map")), "Give the map to build into.", "fn_map"),
        Rule(empty("fn_modelangelo_exe"), "Give the ModelAngelo program.", "fn_modelangelo_exe"),
        Rule(
            not_(any_of(_BUILD, on("do_hhmer"))),
            "The model is built already: switch on the HMMER search, or start a new job.",
            "do_hhmer",
        ),
    ),
)
