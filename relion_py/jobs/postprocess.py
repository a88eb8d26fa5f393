"""Post-processing: masked FSC, sharpening and the final resolution of a refinement (relion_postprocess)."""

from __future__ import annotations

from . import nodes
from .common import HALF_MAP, NO_OTHER_HALF, OTHER_ARGS, POSITIVE, empty_input, running
from .conditions import above, all_of, filled, not_, on
from .spec import Arg, Command, Display, JobSpec, Output, Page, Rule, file, node, output, slider, yes_no

I_O = Page(
    "I/O",
    (
        HALF_MAP,
        node(
            "fn_mask",
            "Solvent mask:",
            nodes.MASK,
            pattern="Image Files (*.{spi,vol,msk,mrc})",
            help="Soft mask that is 1 on the molecule and 0 in solvent.",
            on_continue="inactive",
        ),
        slider(
            "angpix",
            "Calibrated pixel size (A)",
            "-1",
            0.3,
            5,
            0.1,
            help=(
                "Calibrated pixel size in A; -1 takes it from the header. A small correction here corrects "
                "the resolution too."
            ),
        ),
    ),
)

SHARPEN = Page(
    "Sharpen",
    (
        yes_no(
            "do_auto_bfac",
            "Estimate B-factor automatically?",
            True,
            help=("Find the sharpening B-factor from a Guinier plot (Rosenthal & Henderson 2003)."),
        ),
        slider(
            "autob_lowres",
            "Lowest resolution for auto-B fit (A):",
            "10",
            8,
            15,
            0.5,
            help=(
                "Lowest resolution (A) in the Guinier fit; it must be below 10 for secondary structure not to disturb."
            ),
            enabled_when=on("do_auto_bfac"),
            limits=POSITIVE,
        ),
        yes_no("do_adhoc_bfac", "Use your own B-factor?", False, help="Use a B-factor of your own."),
        slider(
            "adhoc_bfac",
            "User-provided B-factor:",
            "-1000",
            -2000,
            0,
            -50,
            help="B-factor in square A; negative sharpens.",
            enabled_when=on("do_adhoc_bfac"),
        ),
        yes_no(
            "do_skip_fsc_weighting",
            "Skip FSC-weighting?",
            False,
            help=(
                "Yes leaves out the weighting by FSC and filters at one resolution; for maps whose parts differ much."
            ),
        ),
        slider(
            "low_pass",
            "Ad-hoc low-pass filter (A):",
            "5",
            1,
            40,
            1,
            help="Resolution (A) of that filter; 0 for none.",
            enabled_when=on("do_skip_fsc_weighting"),
        ),
        file(
            "fn_mtf",
            "MTF of the detector (STAR file)",
            pattern="STAR Files (*.star)",
            help=("STAR file with the detector's modulation transfer function, to correct for it; empty for none."),
        ),
        slider(
            "mtf_angpix",
            "Original detector pixel size:",
            "1",
            0.3,
            2,
            0.1,
            help=("Pixel size (A) of the detector itself: half the physical one for super-resolution MTFs."),
        ),
    ),
)


SPEC = JobSpec(
    type_label="relion.postprocess",
    type_number=15,
    directory="PostProcess",
    browser_label="Post-processing",
    hidden_file=".gui_postjob.star",
    help="Sharpen a map and measure its resolution.",
    pages=(I_O, SHARPEN, running(mpi=False, threads=False)),
    commands=(
        Command(
            "relion_postprocess",
            (
                Arg("--mask", "fn_mask", is_input=True),
                Arg("--i", "fn_in", is_input=True),
                Arg("--o", output("postprocess")),
                Arg("--angpix", "angpix"),
                Arg("--mtf", "fn_mtf", filled("fn_mtf")),
                Arg("--mtf_angpix", "mtf_angpix", filled("fn_mtf")),
                Arg("--auto_bfac", when=on("do_auto_bfac")),
                Arg("--autob_lowres", "autob_lowres", on("do_auto_bfac")),
                Arg("--adhoc_bfac", "adhoc_bfac", on("do_adhoc_bfac")),
                Arg("--skip_fsc_weighting", when=on("do_skip_fsc_weighting")),
                Arg("--low_pass", "low_pass", on("do_skip_fsc_weighting")),
                OTHER_ARGS,
            ),
        ),
    ),
    outputs=(
        Output("postprocess.mrc", nodes.POST_MAP),
        Output("postprocess_masked.mrc", nodes.POST_MASKED),
        Output("logfile.pdf", nodes.POST_LOG),
        Output("postprocess.star", nodes.POSTPROCESS),
    ),
    refusals=(
        empty_input("fn_mask", "Give a solvent mask."),
        empty_input("fn_in", "Give one of the two unfiltered half-maps."),
        Rule(
            all_of(filled("fn_in"), NO_OTHER_HALF),
            "The half-map's file name must hold half1 or half2, so that the other half can be found.",
            "fn_in",
        ),
    ),
    checks=(
        Rule(
            all_of(on("do_auto_bfac"), on("do_adhoc_bfac")),
            "Choose either an automatic B-factor or your own, not both.",
            "do_adhoc_bfac",
        ),
        Rule(
            all_of(filled("fn_mtf"), not_(above("mtf_angpix"))),
            "The detector's pixel size must be above 0 when its MTF is given.",
            "mtf_angpix",
        ),
    ),
    display=(
        Display("Sharpened map", "postprocess.mrc", "map"),
        Display("Masked map", "postprocess_masked.mrc", "map"),
        Display("FSC and Guinier plot", "postprocess.star", "plot"),
        Display("Log", "logfile.pdf", "pdf"),
    ),
)
