"""What the options of refinement_options.py become in jobs that run relion_refine: arguments, checks, nodes."""

from __future__ import annotations

import re
from collections.abc import Callable

from .common import (
    empty_input,
    over,
)
from .conditions import (
    Values,
    above,
    all_of,
    continuing,
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
    Rule,
    literal,
)


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


NO_OPTIMISER = empty_input("fn_cont", "Say from which _optimiser.star file to continue.", continuing)

ODD_OPTIMISER = Rule(
    all_of(
        continuing,
        filled("fn_cont"),
        that(
            lambda values: not _is_optimiser(values), "fn_cont is not the name of an _itNNN_optimiser.star", "fn_cont"
        ),
    ),
    "This is no optimiser file of an iteration: its name must be like run_it012_optimiser.star.",
    "fn_cont",
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
