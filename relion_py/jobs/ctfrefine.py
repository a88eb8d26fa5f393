"""CTF refinement: defocus, beam tilt, aberrations and magnification from refined particles
(relion_ctf_refine)."""

from __future__ import annotations

from . import nodes
from .common import OTHER_ARGS, POSITIVE, POSTPROCESS_STAR, THREADS_ARG, empty_input, running
from .conditions import Values, all_of, continuing, equals, not_, off, on, that
from .spec import (
    Arg,
    CleanRule,
    Command,
    Display,
    Input,
    JobContext,
    JobSpec,
    Output,
    Page,
    Rule,
    choice,
    literal,
    node,
    output,
    slider,
    yes_no,
)

CTF_FIT = ("No", "Per-micrograph", "Per-particle")

I_O = Page(
    "I/O",
    (
        node(
            "fn_data",
            "Particles (from Refine3D):",
            nodes.PARTS,
            pattern="STAR files (*.star)",
            help="Refined particles (_data.star).",
            on_continue="inactive",
        ),
        POSTPROCESS_STAR,
    ),
)

FIT = Page(
    "Fit",
    (
        yes_no(
            "do_aniso_mag",
            "Estimate (anisotropic) magnification?",
            False,
            help=("Estimate anisotropic magnification, for each optics group. Nothing else is fitted then."),
        ),
        yes_no(
            "do_ctf",
            "Perform CTF parameter fitting?",
            True,
            help="Fit CTF parameters.",
            enabled_when=off("do_aniso_mag"),
        ),
        *(
            choice(
                key,
                f"Fit {singular}?",
                CTF_FIT,
                "No",
                help=f"Fit {plural} for each particle, each micrograph, or not at all.",
                enabled_when=all_of(off("do_aniso_mag"), on("do_ctf")),
            )
            for key, singular, plural in (
                ("do_defocus", "defocus", "defocus"),
                ("do_astig", "astigmatism", "astigmatism"),
                ("do_bfactor", "B-factor", "B-factors"),
                ("do_phase", "phase-shift", "phase shifts"),
            )
        ),
        yes_no(
            "do_tilt",
            "Estimate beamtilt?",
            False,
            help="Estimate beam tilt for each optics group.",
            enabled_when=off("do_aniso_mag"),
        ),
        yes_no(
            "do_trefoil",
            "Also estimate trefoil?",
            False,
            help="Estimate trefoil (three-fold astigmatism) with it.",
            enabled_when=all_of(off("do_aniso_mag"), on("do_tilt")),
        ),
        yes_no(
            "do_4thorder",
            "Estimate 4th order aberrations?",
            False,
            help=("Estimate fourth-order aberrations (spherical aberration, tetrafoil) for each optics group."),
            enabled_when=off("do_aniso_mag"),
        ),
        slider(
            "minres",
            "Minimum resolution for fits (A): ",
            "30",
            8,
            40,
            1,
            help="Fits use resolutions beyond this (A).",
            on_continue="inactive",
            limits=POSITIVE,
        ),
    ),
)


_MAGNIFICATION = on("do_aniso_mag")
_CTF = all_of(off("do_aniso_mag"), on("do_ctf"))
_TILT = all_of(off("do_aniso_mag"), on("do_tilt"))

_FIT_OPTIONS = ("do_phase", "do_defocus", "do_astig", "do_bfactor")
_FIT_LETTER = {"No": "f", "Per-micrograph": "m", "Per-particle": "p"}


def fit_mode(context: JobContext) -> str:
    """One letter each for phase, defocus, astigmatism, spherical aberration and B-factor: fixed, per
    micrograph, per particle. The spherical aberration is always fixed."""
    phase, defocus, astigmatism, bfactor = (_FIT_LETTER[context[key]] for key in _FIT_OPTIONS)
    return phase + defocus + astigmatism + "f" + bfactor


def _unknown_fit(values: Values) -> bool:
    return any(values[key] not in _FIT_LETTER for key in _FIT_OPTIONS)


# Sums that single micrographs leave behind (pipeliner.cpp, cleanupJob).
_LEFTOVERS = CleanRule(
    tuple(
        f"*/*_{name}"
        for name in (
            "wAcc_optics-group*.mrc",
            "xyAcc_optics-group*.mrc",
            "aberr-Axx_optics-group_*.mrc",
            "aberr-Axy_optics-group_*.mrc",
            "aberr-Ayy_optics-group_*.mrc",
            "aberr-bx_optics-group_*.mrc",
            "aberr-by_optics-group_*.mrc",
            "mag_optics-group_*.mrc",
            "fit.star",
            "fit.eps",
        )
    )
)

SPEC = JobSpec(
    type_label="relion.ctfrefine",
    type_number=21,
    directory="CtfRefine",
    browser_label="CTF refinement",
    hidden_file=".gui_ctfrefinejob.star",
    help="Refine defocus, beam tilt, aberrations or magnification.",
    pages=(I_O, FIT, running(mpi=True, threads=True)),
    commands=(
        Command(
            "relion_ctf_refine",
            (
                Arg("--i", "fn_data"),
                Arg("--f", "fn_post"),
                Arg("--o", output("")),
                Arg("--fit_aniso", when=_MAGNIFICATION),
                Arg("--kmin_mag", "minres", _MAGNIFICATION),
                Arg("--fit_defocus", when=_CTF),
                Arg("--kmin_defocus", "minres", _CTF),
                Arg("--fit_mode", fit_mode, _CTF),
                Arg("--fit_beamtilt", when=_TILT),
                Arg("--kmin_tilt", "minres", _TILT),
                Arg("--odd_aberr_max_n", literal("3"), all_of(_TILT, on("do_trefoil"))),
                Arg("--fit_aberr", when=all_of(off("do_aniso_mag"), on("do_4thorder"))),
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
        Output("logfile.pdf", nodes.CTFREFINE_LOG),
        Output("particles_ctf_refine.star", nodes.CTFREFINE_ANISOPARTS, _MAGNIFICATION),
        Output("particles_ctf_refine.star", nodes.CTFREFINE_PARTS, not_(_MAGNIFICATION)),
    ),
    labels=(("anisomag", _MAGNIFICATION),),
    refusals=(
        empty_input("fn_data", "Give the refined particles."),
        empty_input("fn_post", "Give the postprocess.star of the same refinement."),
        Rule(
            all_of(off("do_aniso_mag"), off("do_ctf"), off("do_tilt"), off("do_4thorder")),
            "There is nothing to fit: choose magnification, CTF parameters, beam tilt or aberrations.",
            "do_ctf",
        ),
        Rule(
            all_of(_CTF, *(equals(key, "No") for key in _FIT_OPTIONS)),
            "No CTF parameter is chosen: switch CTF fitting off, or choose defocus, astigmatism, B-factor or phase.",
            "do_ctf",
        ),
        Rule(
            all_of(_CTF, that(_unknown_fit, "a CTF parameter's choice is not in the list", *_FIT_OPTIONS)),
            "Choose for every CTF parameter: No, Per-micrograph or Per-particle.",
            "do_defocus",
        ),
    ),
    gentle=_LEFTOVERS,
    harsh=_LEFTOVERS,
    display=(
        Display("Particles", "particles_ctf_refine.star", "particles"),
        Display("Log", "logfile.pdf", "pdf"),
    ),
)
