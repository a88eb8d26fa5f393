"""DynaMight: continuous flexibility by deformed Gaussians, through the program of that name."""

from __future__ import annotations

from . import nodes
from .common import COUNT, OTHER_ARGS, executable, running
from .conditions import Condition, all_of, any_of, continuing, empty, filled, new_job, not_, off, on, that
from .spec import (
    Arg,
    Command,
    Display,
    Input,
    JobSpec,
    Output,
    Page,
    Rule,
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
            "fn_star",
            "Input images STAR file:",
            nodes.PARTS,
            pattern="STAR files (*.star) \t Image stacks (not recommended, read help!) (*.{spi,mrcs})",
            help="Refined particles STAR file.",
            on_continue="inactive",
        ),
        node(
            "fn_map",
            "Consensus map:",
            nodes.MAP,
            pattern="Image Files (*.{spi,vol,mrc})",
            help="Map of the consensus refinement.",
            on_continue="inactive",
        ),
        slider(
            "nr_gaussians",
            "Number of Gaussians: ",
            "10000",
            5000,
            40000,
            1000,
            help=("Number of Gaussians that stand for the molecule: about 20,000 for a medium-sized one."),
            on_continue="inactive",
            limits=COUNT,
        ),
        text(
            "initial_threshold",
            "Initial map threshold (optional): ",
            help="Level above which Gaussians are placed; empty finds it.",
            on_continue="inactive",
        ),
        slider(
            "reg_factor",
            "Regularization factor: ",
            "1",
            0.2,
            5,
            0.1,
            help="Weight of the rule that neighbours move alike; more for noisy data.",
            on_continue="inactive",
        ),
        text(
            "fn_dynamight_exe",
            "DynaMight executable:",
            "relion_python_dynamight",
            help="The DynaMight program, or the wrapper that starts it.",
            on_continue="inactive",
            executable=True,
        ),
        text("gpu_id", "Which (single) GPU to use:", "0", help="Number of the GPU to use."),
        yes_no("do_preload", "Preload images in RAM?", False, help="Read all images into memory at the start."),
    ),
)

TASKS = Page(
    "Tasks",
    (
        file(
            "fn_checkpoint",
            "Checkpoint file:",
            pattern="Checkpoint files (*.pth)",
            directory="CURRENT_ODIR/forward_deformations/checkpoints",
            help="State to go on from (.pth); empty takes the last.",
            on_continue="only",
        ),
        yes_no(
            "do_visualize",
            "Do visualization?",
            False,
            help="Open the viewer of the conformations.",
            on_continue="only",
        ),
        slider(
            "halfset",
            "Half-set to visualize: ",
            "1",
            0,
            2,
            1,
            help="Half of the particles to show, 1 or 2; 0 for both.",
            enabled_when=on("do_visualize"),
        ),
        yes_no(
            "do_inverse",
            "Do inverse-deformation estimation?",
            False,
            help="Estimate the inverse deformations, which the reconstruction needs.",
            on_continue="only",
        ),
        slider(
            "nr_epochs",
            "Number of epochs to perform: ",
            "200",
            50,
            500,
            10,
            help="Number of rounds through the data.",
            enabled_when=on("do_inverse"),
            limits=COUNT,
        ),
        yes_no(
            "do_store_deform",
            "Store deformations in RAM?",
            False,
            help="Keep deformations in memory: faster, needs much.",
            enabled_when=on("do_inverse"),
        ),
        yes_no(
            "do_reconstruct",
            "Do deformed backprojection?",
            False,
            help="Reconstruct a map with every particle's deformation undone.",
            on_continue="only",
        ),
        slider(
            "backproject_batchsize",
            "Backprojection batchsize: ",
            "10",
            1,
            500,
            10,
            help="Particles handled at once; less if the GPU's memory is short.",
            enabled_when=on("do_reconstruct"),
            limits=COUNT,
        ),
    ),
)


_TASKS = ("do_visualize", "do_inverse", "do_reconstruct")
_EXPLORE = all_of(continuing, on("do_visualize"))
_INVERT = all_of(continuing, off("do_visualize"), on("do_inverse"))
_BACKPROJECT = all_of(continuing, off("do_visualize"), off("do_inverse"), on("do_reconstruct"))
_PROGRAM = executable("fn_dynamight_exe")

_CHECKPOINT = Arg("--checkpoint-file", "fn_checkpoint", filled("fn_checkpoint"))
_PRELOAD = Arg("--preload-images", when=on("do_preload"))
_LAST = (Arg("--gpu-id", "gpu_id", filled("gpu_id")), OTHER_ARGS)


def _task(name: str, *args: Arg, when: Condition) -> Command:
    """One of DynaMight's sub-commands on the job directory."""
    here = Arg(name, output(""))
    return Command(_PROGRAM, (here, *args, *_LAST), when=when)


SPEC = JobSpec(
    type_label="dynamight",
    type_number=22,
    directory="DynaMight",
    browser_label="DynaMight flexibility",
    hidden_file=".gui_dynamightjob.star",
    help="Model continuous motions of a molecule.",
    control_flag="--pipeline-control",
    pages=(I_O, TASKS, running(mpi=False, threads=True)),
    commands=(
        Command(
            _PROGRAM,
            (
                Arg("optimize-deformations"),
                Arg("--refinement-star-file", "fn_star"),
                Arg("--output-directory", output("")),
                Arg("--initial-model", "fn_map"),
                Arg("--n-gaussians", "nr_gaussians"),
                Arg("--initial-threshold", "initial_threshold", filled("initial_threshold")),
                Arg("--regularization-factor", "reg_factor"),
                Arg("--n-threads", "nr_threads"),
                _PRELOAD,
                *_LAST,
            ),
            when=new_job,
        ),
        _task("explore-latent-space", Arg("--half-set", "halfset"), _CHECKPOINT, when=_EXPLORE),
        _task(
            "optimize-inverse-deformations",
            Arg("--n-epochs", "nr_epochs"),
            _CHECKPOINT,
            Arg("--save-deformations", when=on("do_store_deform")),
            _PRELOAD,
            when=_INVERT,
        ),
        _task(
            "deformable-backprojection",
            Arg("--batch-size", "backproject_batchsize"),
            _CHECKPOINT,
            _PRELOAD,
            when=_BACKPROJECT,
        ),
    ),
    inputs=(Input("fn_star", when=new_job), Input("fn_map", when=new_job)),
    outputs=(
        Output("backprojection/map_half1.mrc", nodes.DYNAMIGHT_HALFMAP, _BACKPROJECT),
        Output("backprojection/map_half2.mrc", nodes.DYNAMIGHT_HALFMAP, _BACKPROJECT),
    ),
    refusals=(
        Rule(
            all_of(continuing, not_(any_of(*(on(task) for task in _TASKS)))),
            "Choose a task on the Tasks tab: visualisation, inverse deformations, or back-projection.",
            "do_visualize",
        ),
        Rule(
            all_of(
                continuing,
                that(lambda v: sum(v[task] == "Yes" for task in _TASKS) > 1, "several tasks are on", *_TASKS),
            ),
            "Choose one task only: visualisation, inverse deformations, or back-projection.",
            "do_visualize",
        ),
    ),
    checks=(
        Rule(all_of(new_job, empty("fn_star")), "Give the refined particles.", "fn_star"),
        Rule(all_of(new_job, empty("fn_map")), "Give the consensus map.", "fn_map"),
        Rule(empty("fn_dynamight_exe"), "Give the DynaMight program.", "fn_dynamight_exe"),
    ),
    display=(Display("Half-maps", "backprojection/map_half?.mrc", "map"),),
)
