"""What several job types share: the running page, common limits, arguments, checks and names."""

from __future__ import annotations

from collections.abc import Callable

from . import nodes, quoting
from .conditions import (
    Condition,
    all_of,
    empty,
    on,
    that,
)
from .numeric import format_number
from .spec import (
    Arg,
    JobContext,
    Limits,
    Page,
    Rule,
    Words,
    file,
    node,
    slider,
    text,
    yes_no,
)

NUMBER = Limits()
POSITIVE = Limits(0, above_low=True)
NOT_NEGATIVE = Limits(0)
COUNT = Limits(1, integer=True)
FRACTION = Limits(0, 1)
PERCENT = Limits(0, 100, above_low=True)
EVEN_BOX = Limits(2, even=True)
EVEN_OR_UNSET = Limits(2, even=True, unset_negative=True)

# Angles between orientations; the place in this list is the HEALPix order (pipeline_jobs.h,
# job_sampling_options).
SAMPLING = (
    "30 degrees",
    "15 degrees",
    "7.5 degrees",
    "3.7 degrees",
    "1.8 degrees",
    "0.9 degrees",
    "0.5 degrees",
    "0.2 degrees",
    "0.1 degrees",
)

HALF_MAP = node(
    "fn_in",
    "One of the 2 unfiltered half-maps:",
    nodes.HALFMAP,
    pattern="MRC map files (*half1*.mrc)",
    help=("One of the two unfiltered half-maps; the other is found by its name (half1, half2)."),
    on_continue="inactive",
)

POSTPROCESS_STAR = node(
    "fn_post",
    "Postprocess STAR file:",
    nodes.POSTPROCESS,
    pattern="STAR files (postprocess.star)",
    help=("postprocess.star of the same refinement; it names the maps, the mask and the FSC."),
    on_continue="inactive",
)

FLOAT16 = yes_no(
    "do_float16",
    "Write output in float16?",
    True,
    help=("Write particles in 16-bit floating point (MRC mode 12): half the disc space."),
    on_continue="inactive",
)

USE_GPU = yes_no("use_gpu", "Use GPU acceleration?", False, help="Yes to compute on NVIDIA GPUs.")

GPU_IDS = text(
    "gpu_ids",
    "Which GPUs to use:",
    help=(
        "Which GPUs: colons between processes, commas between GPUs of one process, such as 0:1 or "
        "0,1:2,3. Empty uses all in turn."
    ),
    enabled_when=on("use_gpu"),
)

TUBE_DIAMETER = slider(
    "helical_tube_outer_diameter",
    "Tube diameter (A): ",
    "200",
    100,
    1000,
    10,
    help="Outer diameter (A) of the helical tube or filament.",
    limits=POSITIVE,
)
"""Of helical jobs, as the next one: each says with `replace` when it counts."""

ASYMMETRIC_UNITS = slider(
    "helical_nr_asu",
    "Number of unique asymmetrical units:",
    "1",
    1,
    100,
    1,
    help="Number of asymmetric units that one segment adds: the distance between segments divided by the rise.",
    limits=COUNT,
)

_RUNNING = (
    slider(
        "nr_mpi",
        "Number of MPI procs:",
        "1",
        1,
        64,
        1,
        help=(
            "Number of MPI processes. With 1 the sequential program runs. The largest number offered is "
            "set by RELION_MPI_MAX."
        ),
        limits=COUNT,
        site_default="nr_mpi",
        site_maximum="mpi_max",
    ),
    slider(
        "nr_threads",
        "Number of threads:",
        "1",
        1,
        16,
        1,
        help=(
            "Number of threads per process. Processes times threads should not exceed the cores. The "
            "largest number offered is set by RELION_THREAD_MAX."
        ),
        limits=COUNT,
        site_default="nr_threads",
        site_maximum="thread_max",
    ),
    yes_no(
        "do_queue",
        "Submit to queue?",
        False,
        help=("Yes submits the job to the queue with the template below; No runs it on this machine."),
        site_default="queue_use",
    ),
    text(
        "queuename",
        "Queue name: ",
        help=("Name of the queue or partition, put in place of XXXqueueXXX in the template."),
        enabled_when=on("do_queue"),
        site_default="queue_name",
    ),
    text(
        "qsub",
        "Queue submit command:",
        "sbatch",
        help="Command that takes the submission script, such as sbatch or qsub.",
        enabled_when=on("do_queue"),
        site_default="qsub_command",
    ),
    file(
        "qsubscript",
        "Standard submission script:",
        pattern="Script Files (*.{csh,sh,bash,script})",
        help=(
            "Template of the submission script. XXXcommandXXX, XXXqueueXXX, XXXmpinodesXXX, "
            "XXXthreadsXXX, XXXcoresXXX, XXXdedicatedXXX, XXXnodesXXX, XXXnameXXX, XXXoutfileXXX, "
            "XXXerrfileXXX and XXXextra1XXX... are filled in. Its default comes from "
            "RELION_QSUB_TEMPLATE."
        ),
        enabled_when=on("do_queue"),
        site_default="qsub_template",
    ),
    slider(
        "min_dedicated",
        "Minimum dedicated cores per node:",
        "1",
        1,
        64,
        1,
        help=(
            "Cores that are reserved on each node at least: processes times threads divided by this, "
            "rounded up, is the number of nodes asked for."
        ),
        enabled_when=on("do_queue"),
        limits=COUNT,
        site_default="min_dedicated",
    ),
    text(
        "other_args",
        "Additional arguments:",
        help=(
            "More arguments for the program, as typed in a shell (quotes keep words together). For "
            "options that this form does not offer."
        ),
    ),
)


def running(*, mpi: bool, threads: bool) -> Page:
    """The last tab of every job type: processes, threads, queue, additional arguments."""
    left_out = {"nr_mpi": not mpi, "nr_threads": not threads}
    return Page("Running", tuple(option for option in _RUNNING if not left_out.get(option.key, False)))


def sampling_order(key: str, oversampling: int = 0) -> Callable[[JobContext], str]:
    """HEALPix order of a sampling choice. The form shows the oversampled angle, commands take the coarser
    order."""
    return lambda context: str(SAMPLING.index(context[key]) + 1 - oversampling)


def times(key: str, factor: float) -> Callable[[JobContext], str]:
    """The option's number times a factor, as RELION prints it."""
    return lambda context: format_number(context.number(key) * factor)


def over(key: str, divisor: float) -> Callable[[JobContext], str]:
    """The option's number divided by `divisor`, as RELION prints it."""
    return lambda context: format_number(context.number(key) / divisor)


GPU_ARG = Arg("--gpu", "gpu_ids", on("use_gpu"))

OTHER_ARGS = Arg("", "other_args")

THREADS_ARG = Arg("--j", "nr_threads")


def empty_input(key: str, message: str, when: Condition | None = None) -> Rule:
    """RELION refuses the job while this field is empty."""
    return Rule(empty(key) if when is None else all_of(when, empty(key)), message, key)


def unknown_sampling(key: str, when: Condition) -> Rule:
    """A sampling that is not one of the choices."""
    unknown = that(lambda values: values[key] not in SAMPLING, f"{key} is not one of the choices", key)
    return Rule(all_of(when, unknown), "Choose an angular sampling from the list.", key)


def executable(key: str) -> Callable[[JobContext], Words]:
    """The program that a person chose: one word where a file of that very name is there, else split as typed
    (so that "python3 script.py" works), never looked at by a shell."""

    def words(context: JobContext) -> Words:
        typed = context[key]
        if context.files.exists(typed):
            return (typed,)
        return quoting.words(typed)

    return words


def other_half(path: str) -> str:
    """Path of the half-map that belongs to `path`: half1 and half2 exchanged in its file name; "" if it has
    neither.

    Source: RELION 5 filename.cpp, getTheOtherHalf.
    """
    head, slash, name = path.rpartition("/")
    for one, two in (("half1", "half2"), ("half2", "half1")):
        if one in name:
            return head + slash + name.replace(one, two)
    return ""


NO_OTHER_HALF = that(lambda values: not other_half(values["fn_in"]), "fn_in names neither half", "fn_in")
