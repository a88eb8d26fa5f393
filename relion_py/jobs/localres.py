"""Local resolution: how well a map is resolved from place to place (relion_postprocess, or ResMap)."""

from __future__ import annotations

from . import nodes, quoting
from .common import HALF_MAP, NO_OTHER_HALF, OTHER_ARGS, POSITIVE, empty_input, executable, other_half, running
from .conditions import above, all_of, filled, off, on, that
from .spec import (
    Arg,
    Command,
    Display,
    Input,
    JobContext,
    JobSpec,
    Output,
    Page,
    Rule,
    file,
    node,
    output,
    slider,
    yes_no,
)

I_O = Page(
    "I/O",
    (
        HALF_MAP,
        node(
            "fn_mask",
            "User-provided solvent mask:",
            nodes.MASK,
            pattern="Image Files (*.{spi,vol,msk,mrc})",
            help=("Mask around the molecule. With RELION it only limits the histogram; ResMap needs it."),
        ),
        slider(
            "angpix",
            "Calibrated pixel size (A)",
            "1",
            0.3,
            5,
            0.1,
            help="Calibrated pixel size in A.",
            on_continue="inactive",
            limits=POSITIVE,
        ),
    ),
)

RESMAP = Page(
    "ResMap",
    (
        yes_no(
            "do_resmap_locres",
            "Use ResMap?",
            True,
            help="Use the program ResMap, which must be installed.",
            on_continue="inactive",
        ),
        file(
            "fn_resmap",
            "ResMap executable:",
            "ResMap",
            pattern="ResMap*",
            help="The ResMap program. Default: RELION_RESMAP_EXECUTABLE.",
            on_continue="inactive",
            enabled_when=on("do_resmap_locres"),
            executable=True,
            site_default="resmap",
        ),
        slider(
            "pval",
            "P-value:",
            "0.05",
            0,
            1,
            0.01,
            help="Significance level of ResMap's tests, usually 0.05.",
            on_continue="inactive",
            enabled_when=on("do_resmap_locres"),
        ),
        slider(
            "minres",
            "Highest resolution (A): ",
            "0",
            0,
            10,
            0.1,
            help="Highest resolution (A) to test; 0 starts from twice the pixel size.",
            on_continue="inactive",
            enabled_when=on("do_resmap_locres"),
        ),
        slider(
            "maxres",
            "Lowest resolution (A): ",
            "0",
            0,
            10,
            0.1,
            help="Lowest resolution (A) to test; 0 leaves it to ResMap.",
            on_continue="inactive",
            enabled_when=on("do_resmap_locres"),
        ),
        slider(
            "stepres",
            "Resolution step size (A)",
            "1",
            0.1,
            3,
            0.1,
            help="Step (A) between tested resolutions.",
            on_continue="inactive",
            enabled_when=on("do_resmap_locres"),
        ),
    ),
)

RELION = Page(
    "Relion",
    (
        yes_no(
            "do_relion_locres",
            "Use Relion?",
            False,
            help="Use post-processing with a small moving mask.",
            on_continue="inactive",
        ),
        slider(
            "adhoc_bfac",
            "User-provided B-factor:",
            "-100",
            -500,
            0,
            -25,
            help=("B-factor (square A) to sharpen the locally filtered map; that of post-processing, negative."),
            on_continue="inactive",
            enabled_when=on("do_relion_locres"),
        ),
        file(
            "fn_mtf",
            "MTF of the detector (STAR file)",
            pattern="STAR Files (*.star)",
            help=("STAR file with the detector's modulation transfer function, to correct for it; empty for none."),
            on_continue="inactive",
            enabled_when=on("do_relion_locres"),
        ),
    ),
)


_RESMAP = on("do_resmap_locres")
_OWN = all_of(off("do_resmap_locres"), on("do_relion_locres"))


def _equals_sign(flag: str, key: str) -> Arg:
    """ResMap takes its values behind an equals sign."""
    return Arg("", lambda context: quoting.display((f"{flag}={context[key]}",)))


def _link(half: int) -> Command:
    """ResMap writes beside its input, so the half-maps are linked into the job directory."""

    def target(context: JobContext) -> str:
        name = context["fn_in"]
        return "../../" + (name if half == 1 else other_half(name))

    link = Arg("", lambda context: quoting.display((target(context), f"{context.job_name}half{half}.mrc")))
    return Command("ln", (Arg("-s"), link), when=_RESMAP)


SPEC = JobSpec(
    type_label="relion.localres",
    type_number=16,
    directory="LocalRes",
    browser_label="Local resolution",
    hidden_file=".gui_localresjob.star",
    help="Measure a map's resolution from place to place.",
    pages=(I_O, RESMAP, RELION, running(mpi=True, threads=False)),
    commands=(
        _link(1),
        _link(2),
        Command(
            executable("fn_resmap"),
            (
                _equals_sign("--maskVol", "fn_mask"),
                Arg("--noguiSplit", output("half1.mrc")),
                Arg("", lambda context: quoting.display((context.job_name + "half2.mrc",))),
                _equals_sign("--vxSize", "angpix"),
                _equals_sign("--pVal", "pval"),
                _equals_sign("--minRes", "minres"),
                _equals_sign("--maxRes", "maxres"),
                _equals_sign("--stepRes", "stepres"),
                OTHER_ARGS,
            ),
            when=_RESMAP,
        ),
        Command(
            "relion_postprocess",
            (
                Arg("--locres"),
                Arg("--i", "fn_in"),
                Arg("--o", output("relion")),
                Arg("--angpix", "angpix"),
                Arg("--adhoc_bfac", "adhoc_bfac"),
                Arg("--mtf", "fn_mtf", filled("fn_mtf")),
                Arg("--mask", "fn_mask", filled("fn_mask")),
                OTHER_ARGS,
            ),
            mpi=True,
            when=_OWN,
        ),
    ),
    inputs=(Input("fn_in"), Input("fn_mask", when=_RESMAP)),
    outputs=(
        Output("half1_resmap.mrc", nodes.LOCRES_RESMAP, _RESMAP),
        Output("histogram.pdf", nodes.LOCRES_LOG, all_of(_OWN, filled("fn_mask"))),
        Output("relion_locres_filtered.mrc", nodes.LOCRES_FILTMAP, _OWN),
        Output("relion_locres.mrc", nodes.LOCRES_RESMAP, _OWN),
    ),
    labels=(("resmap", _RESMAP), ("own", _OWN)),
    refusals=(
        Rule(
            that(
                lambda v: (v["do_resmap_locres"] == "Yes") == (v["do_relion_locres"] == "Yes"),
                "not exactly one of ResMap and RELION is on",
                "do_resmap_locres",
                "do_relion_locres",
            ),
            "Choose either ResMap or RELION for the local resolution.",
            "do_relion_locres",
        ),
        empty_input("fn_in", "Give one of the two unfiltered half-maps."),
        Rule(
            all_of(filled("fn_in"), NO_OTHER_HALF),
            "The half-map's file name must hold half1 or half2, so that the other half can be found.",
            "fn_in",
        ),
        empty_input("fn_resmap", "Give the ResMap program.", _RESMAP),
        empty_input("fn_mask", "ResMap needs a mask: give one.", _RESMAP),
        Rule(
            all_of(_RESMAP, on("do_queue")),
            "ResMap asks questions while it runs, so it cannot be submitted to the queue.",
            "do_queue",
        ),
        Rule(
            all_of(_RESMAP, above("nr_mpi", 1)),
            "ResMap runs in one process: set the number of MPI processes to 1.",
            "nr_mpi",
        ),
    ),
    display=(
        Display("Local resolution", "*locres.mrc", "map"),
        Display("Locally filtered map", "relion_locres_filtered.mrc", "map"),
        Display("ResMap", "half1_resmap.mrc", "map"),
        Display("Histogram", "histogram.pdf", "pdf"),
    ),
)
