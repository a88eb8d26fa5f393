"""What jobs that run relion_refine share: compute, CTF, reference and helix pages, arguments, checks."""

from __future__ import annotations

import re
from collections.abc import Callable

from .common import (
    COUNT,
    NUMBER,
    PERCENT,
    POSITIVE,
    over,
)
from .conditions import (
    Values,
    above,
    all_of,
    filled,
    new_job,
    not_,
    number,
    off,
    on,
    that,
)
from .nodes import Node
from .numeric import format_number, whole
from .spec import (
    Arg,
    CleanRule,
    Display,
    JobContext,
    Page,
    Row,
    Rule,
    literal,
    slider,
    text,
    yes_no,
)

_COMPUTE = (
    yes_no(
        "do_parallel_discio",
        "Use parallel disc I/O?",
        True,
        help=(
            "Yes: every MPI process reads its own particles. No: the leader reads all and sends them; "
            "slower, but kinder to a disc that many readers slow down."
        ),
    ),
    slider(
        "nr_pool",
        "Number of pooled particles:",
        "3",
        1,
        16,
        1,
        help=(
            "Particles that a thread handles at a time. A stack is opened once per pool; larger pools "
            "read faster and need more memory."
        ),
        limits=COUNT,
    ),
    yes_no(
        "do_pad1",
        "Skip padding?",
        False,
        help=(
            "No pads references twice for interpolation in Fourier space. Yes saves memory (eight times "
            "less), at some loss of accuracy near the box's edge."
        ),
    ),
    yes_no(
        "do_preread_images",
        "Pre-read all particles into RAM?",
        False,
        help=(
            "Read all particles into memory at the start: number x box x box x 4 bytes for every process "
            "that reads. Fast where it fits."
        ),
    ),
    text(
        "scratch_dir",
        "Copy particles to scratch directory:",
        help=(
            "Local disc to which particles are copied at the start, into relion_volatile/ in this "
            "directory, and read from. Removed after success. Leave empty to read them where they are. "
            "Default: RELION_SCRATCH_DIR."
        ),
        enabled_when=off("do_preread_images"),
        site_default="scratch_dir",
    ),
    yes_no(
        "do_combine_thru_disc",
        "Combine iterations through disc?",
        False,
        help=(
            "Yes: processes combine their sums through files at the end of each iteration, where the "
            "network is unreliable. No: through the network."
        ),
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
)

CTF = Page(
    "CTF",
    (
        yes_no(
            "do_ctf_correction",
            "Do CTF-correction?",
            True,
            help=(
                "Correct for the contrast transfer function inside the refinement. The particles' STAR file "
                "must hold their CTF parameters."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "ctf_intact_first_peak",
            "Ignore CTFs until first peak?",
            False,
            help=(
                "Leave amplitudes up to the CTF's first peak as they are. Try it when classes look blurred "
                "or a refinement gets stuck at low resolution."
            ),
            on_continue="inactive",
            enabled_when=on("do_ctf_correction"),
        ),
    ),
)

HELIX_3D = Page(
    "Helix",
    (
        yes_no(
            "do_helix",
            "Do helical reconstruction?",
            False,
            help="Yes for helical segments.",
            on_continue="inactive",
        ),
        text(
            "helical_tube_inner_diameter",
            "Tube diameter - inner (A):",
            "-1",
            help="Inner diameter (A) of the tube; negative for none (a filled helix).",
            on_continue="inactive",
            enabled_when=on("do_helix"),
            limits=NUMBER,
        ),
        text(
            "helical_tube_outer_diameter",
            "Tube diameter - outer (A):",
            "-1",
            help="Outer diameter (A) of the helical tube or filament.",
            on_continue="inactive",
            enabled_when=on("do_helix"),
            limits=POSITIVE,
        ),
        text(
            "range_rot",
            "Angular search range - rot (deg):",
            "-1",
            help="Local search range (degrees) of the first angle.",
            on_continue="inactive",
            enabled_when=on("do_helix"),
            limits=NUMBER,
        ),
        text(
            "range_tilt",
            "Angular search range - tilt (deg):",
            "15",
            help=("Local search range (degrees) of the tilt angle around its prior, usually 90 degrees."),
            on_continue="inactive",
            enabled_when=on("do_helix"),
            limits=NUMBER,
        ),
        text(
            "range_psi",
            "Angular search range - psi (deg):",
            "10",
            help="Local search range (degrees) of the in-plane angle around its prior.",
            on_continue="inactive",
            enabled_when=on("do_helix"),
            limits=NUMBER,
        ),
        slider(
            "helical_range_distance",
            "Range factor of local averaging:",
            "-1",
            1,
            5,
            0.1,
            help=(
                "Range factor of local averaging along a filament: particles within this distance inform "
                "each other's priors. Negative: none."
            ),
            on_continue="inactive",
            enabled_when=on("do_helix"),
            limits=NUMBER,
        ),
        yes_no(
            "keep_tilt_prior_fixed",
            "Keep tilt-prior fixed:",
            True,
            help=("Yes keeps the tilt priors as given; No updates them from the last iteration."),
            on_continue="inactive",
            enabled_when=on("do_helix"),
        ),
        yes_no(
            "do_apply_helical_symmetry",
            "Apply helical symmetry?",
            True,
            help="Yes imposes helical symmetry with the twist and rise below.",
            on_continue="inactive",
            enabled_when=on("do_helix"),
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
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_apply_helical_symmetry")),
            limits=COUNT,
        ),
        text(
            "helical_twist_initial",
            "Initial helical twist (deg):",
            "0",
            help=("Starting twist (degrees) from one subunit to the next; positive is right-handed."),
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_apply_helical_symmetry")),
            limits=NUMBER,
        ),
        text(
            "helical_rise_initial",
            "Initial helical rise (A):",
            "0",
            help="Starting rise (A) from one subunit to the next.",
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_apply_helical_symmetry")),
            limits=NUMBER,
        ),
        slider(
            "helical_z_percentage",
            "Central Z length (%):",
            "30",
            5,
            80,
            1,
            help=("Symmetry is imposed and searched in this central part of the box's Z length (%)."),
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_apply_helical_symmetry")),
            limits=PERCENT,
        ),
        yes_no(
            "do_local_search_helical_symmetry",
            "Do local searches of symmetry?",
            False,
            help="Yes refines twist and rise within the ranges below.",
            on_continue="inactive",
            enabled_when=on("do_helix"),
        ),
        text(
            "helical_twist_min",
            "Helical twist search (deg) - Min:",
            "0",
            help="Smallest twist (degrees) to try.",
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_local_search_helical_symmetry")),
            limits=NUMBER,
        ),
        text(
            "helical_twist_max",
            "Helical twist search (deg) - Max:",
            "0",
            help="Largest twist (degrees) to try.",
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_local_search_helical_symmetry")),
            limits=NUMBER,
        ),
        text(
            "helical_twist_inistep",
            "Helical twist search (deg) - Step:",
            "0",
            help="First step (degrees) of the twist search; 0: chosen from the range.",
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_local_search_helical_symmetry")),
            limits=NUMBER,
        ),
        text(
            "helical_rise_min",
            "Helical rise search (A) - Min:",
            "0",
            help="Smallest rise (A) to try.",
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_local_search_helical_symmetry")),
            limits=NUMBER,
        ),
        text(
            "helical_rise_max",
            "Helical rise search (A) - Max:",
            "0",
            help="Largest rise (A) to try.",
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_local_search_helical_symmetry")),
            limits=NUMBER,
        ),
        text(
            "helical_rise_inistep",
            "Helical rise search (A) - Step:",
            "0",
            help="First step (A) of the rise search; 0: chosen from the range.",
            on_continue="inactive",
            enabled_when=all_of(on("do_helix"), on("do_local_search_helical_symmetry")),
            limits=NUMBER,
        ),
    ),
    rows=(
        Row(
            (
                "helical_tube_inner_diameter",
                "helical_tube_outer_diameter",
            ),
            "Tube diameter - inner, outer (A):",
        ),
        Row(
            (
                "range_rot",
                "range_tilt",
                "range_psi",
            ),
            "Angular search range - rot, tilt, psi (deg):",
        ),
        Row(
            (
                "helical_twist_initial",
                "helical_rise_initial",
            ),
            "Initial twist (deg), rise (A):",
        ),
        Row(
            (
                "helical_twist_min",
                "helical_twist_max",
                "helical_twist_inistep",
            ),
            "Twist search - Min, Max, Step (deg):",
        ),
        Row(
            (
                "helical_rise_min",
                "helical_rise_max",
                "helical_rise_inistep",
            ),
            "Rise search - Min, Max, Step (A):",
        ),
    ),
)

REFERENCE = Page(
    "Reference",
    (
        yes_no(
            "ref_correct_greyscale",
            "Ref. map is on absolute greyscale?",
            False,
            help=(
                "No if the reference's grey values are not on RELION's absolute scale (another program's "
                "map): the first iteration then compares by cross-correlation."
            ),
            on_continue="inactive",
        ),
        yes_no(
            "trust_ref_size",
            "Resize reference if needed?",
            True,
            help=(
                "Yes takes the pixel and box size in the map's header as right, and rescales and pads the "
                "map if they differ from the particles'. No stops with an error instead."
            ),
            on_continue="inactive",
        ),
        slider(
            "ini_high",
            "Initial low-pass filter (A):",
            "60",
            0,
            200,
            5,
            help=(
                "The reference is filtered to this resolution (A) first, so that high-resolution features "
                "cannot bias the alignment: 40 to 60 for most. 0 or less: no filter."
            ),
            on_continue="inactive",
            limits=NUMBER,
        ),
        text(
            "sym_name",
            "Symmetry:",
            "C1",
            help=(
                "Point group: C1, C4, D2, T, O, I ... If in doubt use C1, and apply symmetry once it shows. "
                "Axes are RELION's conventions."
            ),
            on_continue="inactive",
        ),
    ),
)


def compute(*, pad: bool) -> Page:
    """Disc access and GPUs of the jobs that run relion_refine; `pad` offers the choice of padding."""
    return Page("Compute", tuple(option for option in _COMPUTE if pad or option.key != "do_pad1"))


def third_of_range(key: str) -> Callable[[JobContext], str]:
    """A search range, kept within 0 to 90 degrees, as the standard deviation of a prior: a third of it."""
    return lambda context: format_number(min(max(context.number(key), 0.0), 90.0) / 3.0)


def compute_args(*padding: Arg) -> tuple[Arg, ...]:
    """Disc access of relion_refine; `padding` says how the references are padded."""
    return (
        Arg("--dont_combine_weights_via_disc", when=off("do_combine_thru_disc")),
        Arg("--no_parallel_disc_io", when=off("do_parallel_discio")),
        Arg("--preread_images", when=on("do_preread_images")),
        Arg("--scratch_dir", "scratch_dir", all_of(off("do_preread_images"), filled("scratch_dir"))),
        Arg("--pool", "nr_pool"),
        *padding,
    )


PAD_AS_ASKED = (
    Arg("--pad", literal("1"), on("do_pad1")),
    Arg("--pad", literal("2"), off("do_pad1")),
)

CTF_ARGS = (
    Arg("--ctf", when=all_of(new_job, on("do_ctf_correction"))),
    Arg("--ctf_intact_first_peak", when=all_of(new_job, on("do_ctf_correction"), on("ctf_intact_first_peak"))),
)

_SYMMETRY = on("do_apply_helical_symmetry")

_SEARCH = all_of(_SYMMETRY, on("do_local_search_helical_symmetry"))


def helix_args(*priors: Arg) -> tuple[Arg, ...]:
    """Helical reconstruction in 3D classification and auto-refinement of new jobs; `priors` differ between
    them."""
    table = (
        Arg("--helix"),
        Arg("--helical_inner_diameter", "helical_tube_inner_diameter", above("helical_tube_inner_diameter")),
        Arg("--helical_outer_diameter", "helical_tube_outer_diameter"),
        Arg("--helical_nr_asu", "helical_nr_asu", _SYMMETRY),
        Arg("--helical_twist_initial", "helical_twist_initial", _SYMMETRY),
        Arg("--helical_rise_initial", "helical_rise_initial", _SYMMETRY),
        Arg("--helical_z_percentage", over("helical_z_percentage", 100.0), _SYMMETRY),
        Arg("--helical_symmetry_search", when=_SEARCH),
        Arg("--helical_twist_min", "helical_twist_min", _SEARCH),
        Arg("--helical_twist_max", "helical_twist_max", _SEARCH),
        Arg(
            "--helical_twist_inistep",
            "helical_twist_inistep",
            all_of(_SEARCH, above("helical_twist_inistep")),
        ),
        Arg("--helical_rise_min", "helical_rise_min", _SEARCH),
        Arg("--helical_rise_max", "helical_rise_max", _SEARCH),
        Arg("--helical_rise_inistep", "helical_rise_inistep", all_of(_SEARCH, above("helical_rise_inistep"))),
        Arg("--ignore_helical_symmetry", when=not_(_SYMMETRY)),
        *priors,
    )
    return tuple(Arg(a.flag, a.value, all_of(new_job, on("do_helix"), a.when)) for a in table)


def _is_optimiser(values: Values) -> bool:
    name = values["fn_cont"]
    return "_it" in name and "_optimiser" in name


NOT_AN_OPTIMISER = that(
    lambda values: not _is_optimiser(values), "fn_cont is not the name of an _itNNN_optimiser.star", "fn_cont"
)


def _symmetry_is_odd(values: Values) -> bool:
    name = values.get("sym_name", "").strip()
    return "$$" not in name and not re.fullmatch(
        r"[cCdD][1-9]\d*|[tToO]|[cCtToO][hHiIdDvVsS]|[iI][1-5]?[hH]?|[cCdD][1-9]\d*[vVhH]|[sS]\d+", name
    )


SYMMETRY_CHECK = Rule(
    all_of(new_job, that(_symmetry_is_odd, "sym_name is no point group", "sym_name")),
    "This is no point group: write C1, C4, D2, T, O or I, for example.",
    "sym_name",
)

HELIX_CHECKS = (
    Rule(
        all_of(
            on("do_helix"),
            that(
                lambda v: number(v, "helical_tube_inner_diameter") >= number(v, "helical_tube_outer_diameter"),
                "the tube's inner diameter is not below its outer one",
                "helical_tube_inner_diameter",
                "helical_tube_outer_diameter",
            ),
        ),
        "The inner diameter must be smaller than the outer diameter.",
        "helical_tube_inner_diameter",
    ),
    Rule(
        all_of(
            on("do_helix"),
            _SEARCH,
            that(
                lambda v: number(v, "helical_twist_min") > number(v, "helical_twist_max"),
                "the smallest twist is above the largest",
                "helical_twist_min",
                "helical_twist_max",
            ),
        ),
        "The smallest twist must not be above the largest.",
        "helical_twist_min",
    ),
    Rule(
        all_of(
            on("do_helix"),
            _SEARCH,
            that(
                lambda v: number(v, "helical_rise_min") > number(v, "helical_rise_max"),
                "the smallest rise is above the largest",
                "helical_rise_min",
                "helical_rise_max",
            ),
        ),
        "The smallest rise must not be above the largest.",
        "helical_rise_min",
    ),
)


def iteration(last: float) -> str:
    """The part of a name that tells the iteration ("_it025"), "" where it is negative."""
    return f"_it{whole(last):03d}" if whole(last) >= 0 else ""


def class_maps(root: str, classes: int, node_type: str) -> tuple[Node, ...]:
    """The maps of classes 1 to `classes` that relion_refine writes under a root name.

    Nobody refines thousands of maps: a slip of the finger must not make a million nodes.
    """
    return tuple(Node(f"{root}_class{k:03d}.mrc", node_type) for k in range(1, min(classes, 9999) + 1))


REFINE_DISPLAY = (
    Display("Maps", "run_class*.mrc", "map"),
    Display("Maps of the iterations", "run*_it*_class*.mrc", "map"),
    Display("Particles", "run*_data.star", "particles"),
)

# Refinements write every iteration; all but the last and those that are nodes may go (pipeliner.cpp,
# cleanupJob).
REFINE_CLEAN = CleanRule(iterations=True)
