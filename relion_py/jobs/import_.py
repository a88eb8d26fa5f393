"""Import: brings movies, micrographs, coordinates, particles, references, maps and masks into the project."""

from __future__ import annotations

import re
from collections.abc import Callable

from . import nodes
from .common import FRACTION, NOT_NEGATIVE, POSITIVE, running
from .conditions import Condition, Values, all_of, continuing, empty, equals, filled, off, on, that
from .nodes import Node
from .spec import (
    Arg,
    Command,
    Display,
    JobContext,
    JobSpec,
    Output,
    Page,
    Rule,
    choice,
    file,
    output,
    slider,
    text,
    yes_no,
)

MOVIES_MICS = Page(
    "Movies/mics",
    (
        yes_no(
            "do_raw",
            "Import raw movies/micrographs?",
            True,
            help=("Yes to import movies or single micrographs as they come from the microscope."),
            on_continue="inactive",
        ),
        file(
            "fn_in_raw",
            "Raw input files:",
            "Micrographs/*.tif",
            pattern=("Movie or Image (*.{mrc,mrcs,tif,tiff,eer,mrc.bz2,mrcs.bz2,mrc.zst,mrcs.zst,mrc.xz,mrcs.xz})"),
            help=(
                "A wildcard, relative to the project directory, that selects the files, such as "
                "Movies/*.tiff. Data elsewhere: make a symbolic link inside the project first. MRC (also "
                "compressed), TIFF and EER are read."
            ),
            enabled_when=on("do_raw"),
        ),
        yes_no(
            "is_multiframe",
            "Are these multi-frame movies?",
            True,
            help="Yes for movies with several frames each, No for single images.",
            enabled_when=on("do_raw"),
        ),
        text(
            "optics_group_name",
            "Optics group name:",
            "opticsGroup1",
            help=(
                "Name of this set of optics: letters, digits and hyphens. Give every session or microscope "
                "setting its own name, so that aberrations and scales are refined apart."
            ),
            enabled_when=on("do_raw"),
        ),
        file(
            "fn_mtf",
            "MTF of the detector:",
            pattern="STAR Files (*.star)",
            help=(
                "STAR file with the detector's modulation transfer function (rlnResolutionInversePixel, "
                "rlnMtfValue). Leave empty if unknown; it then becomes part of the B-factor."
            ),
            enabled_when=on("do_raw"),
        ),
        slider(
            "angpix",
            "Pixel size (Angstrom):",
            "1.4",
            0.5,
            3,
            0.1,
            help="Size of a pixel at the specimen, in A.",
            enabled_when=on("do_raw"),
            limits=POSITIVE,
        ),
        slider(
            "kV",
            "Voltage (kV):",
            "300",
            50,
            500,
            10,
            help="Accelerating voltage of the microscope, in kV.",
            enabled_when=on("do_raw"),
            limits=POSITIVE,
        ),
        slider(
            "Cs",
            "Spherical aberration (mm):",
            "2.7",
            0,
            8,
            0.1,
            help=(
                "Spherical aberration of the objective lens, in mm: 2.7 for most Titan, Talos and CRYO ARM "
                "microscopes, about 0.01 with a Cs corrector."
            ),
            enabled_when=on("do_raw"),
            limits=NOT_NEGATIVE,
        ),
        slider(
            "Q0",
            "Amplitude contrast:",
            "0.1",
            0,
            0.3,
            0.01,
            help="Fraction of amplitude contrast; 0.1 works well for proteins in ice.",
            enabled_when=on("do_raw"),
            limits=FRACTION,
        ),
        slider(
            "beamtilt_x",
            "Beamtilt in X (mrad):",
            "0",
            -1,
            1,
            0.1,
            help=("Known beam tilt along X in mrad; 0 if unknown (CTF refinement can find it later)."),
            enabled_when=on("do_raw"),
        ),
        slider(
            "beamtilt_y",
            "Beamtilt in Y (mrad):",
            "0",
            -1,
            1,
            0.1,
            help=("Known beam tilt along Y in mrad; 0 if unknown (CTF refinement can find it later)."),
            enabled_when=on("do_raw"),
        ),
    ),
)

OTHERS = Page(
    "Others",
    (
        yes_no(
            "do_other",
            "Import other node types?",
            False,
            help=("Yes to import anything else: coordinates, particles, references, maps, masks."),
            on_continue="inactive",
        ),
        file(
            "fn_in_other",
            "Input file:",
            "ref.mrc",
            pattern="Input file (*.*)",
            help=(
                "The file to import. For coordinates a wildcard whose * stands for the micrograph's name, "
                "such as Movies/*_pick.star; the coordinate files must lie beside the micrographs."
            ),
            enabled_when=on("do_other"),
        ),
        choice(
            "node_type",
            "Node type:",
            (
                "Particle coordinates (*.box, *_pick.star)",
                "Particles STAR file (.star)",
                "Multiple (2D or 3D) references (.star or .mrcs)",
                "Micrographs STAR file (.star)",
                "3D reference (.mrc)",
                "3D mask (.mrc)",
                "Unfiltered half-map (unfil.mrc)",
            ),
            "Particle coordinates (*.box, *_pick.star)",
            help="What the file is; it decides which jobs can use it.",
            enabled_when=on("do_other"),
        ),
        text(
            "optics_group_particles",
            "Rename optics group for particles:",
            help=(
                "For a particles STAR file with one optics group or none: give the group this name. Leave "
                "empty to keep it."
            ),
            enabled_when=on("do_other"),
        ),
    ),
)


_RAW = on("do_raw")
_OTHER = all_of(off("do_raw"), on("do_other"))
_MOVIES = all_of(_RAW, on("is_multiframe"))
_MICS = all_of(_RAW, off("is_multiframe"))

_COORDS_CHOICE = "Particle coordinates (*.box, *_pick.star)"
_PARTS_CHOICE = "Particles STAR file (.star)"
_HALF_CHOICE = "Unfiltered half-map (unfil.mrc)"
_TYPE_OF_CHOICE = {
    _PARTS_CHOICE: nodes.PARTS,
    "Multiple (2D or 3D) references (.star or .mrcs)": nodes.IMAGES_2D,
    "Micrographs STAR file (.star)": nodes.MICS,
    "3D reference (.mrc)": nodes.MAP,
    "3D mask (.mrc)": nodes.MASK,
    _HALF_CHOICE: nodes.HALFMAP,
}
_COORDS = all_of(_OTHER, equals("node_type", _COORDS_CHOICE))
_PARTS = all_of(_OTHER, equals("node_type", _PARTS_CHOICE))
_HALVES = all_of(_OTHER, equals("node_type", _HALF_CHOICE))
_FILE = that(
    lambda values: values["node_type"] not in (_COORDS_CHOICE, _PARTS_CHOICE, _HALF_CHOICE),
    "node_type is a micrographs file, references, a map or a mask",
    "node_type",
)


def output_name(context: JobContext) -> str:
    """Name of the imported file inside the job directory; coordinates become a "coords_suffix" of what
    follows *."""
    if context.yes("do_raw"):
        return "movies.star" if context.yes("is_multiframe") else "micrographs.star"
    name = context["fn_in_other"]
    if context["node_type"] == _COORDS_CHOICE:
        return "coords_suffix" + name.rpartition("*")[2]
    return name.rpartition("/")[2]


def other_half(name: str) -> str:
    """The name of the half-map that belongs to `name`: half1 and half2 exchanged at their first place."""
    for one, two in (("half1", "half2"), ("half2", "half1")):
        if one in name:
            return name.replace(one, two, 1)
    return name


def other_nodes(context: JobContext) -> tuple[Node, ...]:
    """The imported file as a node, and with it the other half of a pair of half-maps."""
    if not _OTHER(context):
        return ()
    path = context.job_name + output_name(context)
    if context["node_type"] == _COORDS_CHOICE:
        return (Node(path, nodes.COORDS),)
    node_type = _TYPE_OF_CHOICE[context["node_type"]]
    found = [Node(path, node_type)]
    if node_type == nodes.HALFMAP:
        other = other_half("/" + context["fn_in_other"]).rpartition("/")[2]
        found.append(Node(context.job_name + other, node_type))
    return tuple(found)


def _not_a_group_name(key: str, variables: bool) -> Rule:
    def bad(values: Values) -> bool:
        name = values[key].replace("$$", "") if variables else values[key]
        return re.fullmatch(r"[0-9A-Za-z-]*", name) is None

    return Rule(
        all_of(_RAW if variables else _PARTS, that(bad, f"{key} holds characters that are not allowed", key)),
        "An optics group's name may hold only letters, digits and hyphens.",
        key,
    )


def _raw_path(bad: Callable[[str], bool], text: str) -> Condition:
    return that(lambda values: bad(values["fn_in_raw"]), f"fn_in_raw {text}", "fn_in_raw")


SPEC = JobSpec(
    type_label="relion.import",
    type_number=0,
    directory="Import",
    browser_label="Import",
    hidden_file=".gui_importjob.star",
    help="Bring movies, micrographs or files of other programs into the project.",
    pages=(MOVIES_MICS, OTHERS, running(mpi=False, threads=False)),
    commands=(
        Command(
            "relion_import",
            (
                Arg("--do_movies", when=_MOVIES),
                Arg("--do_micrographs", when=_MICS),
                Arg("--optics_group_name", "optics_group_name", _RAW),
                Arg("--optics_group_mtf", "fn_mtf", all_of(_RAW, filled("fn_mtf"))),
                Arg("--angpix", "angpix", _RAW),
                Arg("--kV", "kV", _RAW),
                Arg("--Cs", "Cs", _RAW),
                Arg("--Q0", "Q0", _RAW),
                Arg("--beamtilt_x", "beamtilt_x", _RAW),
                Arg("--beamtilt_y", "beamtilt_y", _RAW),
                Arg("--do_coordinates", when=_COORDS),
                Arg("--do_halfmaps", when=_HALVES),
                Arg("--do_particles", when=_PARTS),
                Arg(
                    "--particles_optics_group_name",
                    "optics_group_particles",
                    all_of(_PARTS, filled("optics_group_particles")),
                ),
                Arg("--do_other", when=all_of(_OTHER, _FILE)),
                Arg("--i", "fn_in_raw", _RAW),
                Arg("--i", "fn_in_other", _OTHER),
                Arg("--odir", output("")),
                Arg("--ofile", output_name),
                Arg("--continue", when=continuing),
            ),
        ),
    ),
    outputs=(
        Output("movies.star", nodes.MOVIES, _MOVIES),
        Output("micrographs.star", nodes.MICS, _MICS),
        other_nodes,
    ),
    labels=(("movies", _RAW), ("other", _OTHER)),
    refusals=(
        Rule(
            all_of(on("do_raw"), on("do_other")),
            "Choose either raw movies and micrographs or another kind of file, not both at once.",
            "do_other",
        ),
        Rule(
            all_of(off("do_raw"), off("do_other")),
            "There is nothing to import: switch on raw movies and micrographs, or another kind of file.",
            "do_raw",
        ),
        Rule(
            all_of(_RAW, _raw_path(lambda name: "../" in name, "holds ../")),
            "Files outside the project cannot be imported through '../': make a symbolic link inside "
            "the project "
            "directory (with an absolute target) and import through it.",
            "fn_in_raw",
        ),
        Rule(
            all_of(_RAW, _raw_path(lambda name: name.startswith("/"), "is absolute")),
            "Import by a path relative to the project directory; for files elsewhere make a symbolic "
            "link inside "
            "the project first.",
            "fn_in_raw",
        ),
        Rule(all_of(_RAW, empty("optics_group_name")), "Give the optics group a name.", "optics_group_name"),
        _not_a_group_name("optics_group_name", variables=True),
        Rule(
            all_of(
                _OTHER,
                that(
                    lambda v: v["node_type"] not in (_COORDS_CHOICE, *_TYPE_OF_CHOICE),
                    "node_type is not one of the choices",
                    "node_type",
                ),
            ),
            "Choose what kind of file this is from the list.",
            "node_type",
        ),
        _not_a_group_name("optics_group_particles", variables=False),
    ),
    checks=(
        Rule(
            all_of(_RAW, empty("fn_in_raw")),
            "Say which files to import, for example Movies/*.tiff.",
            "fn_in_raw",
        ),
        Rule(all_of(_OTHER, empty("fn_in_other")), "Say which file to import.", "fn_in_other"),
        Rule(
            all_of(_COORDS, that(lambda v: "*" not in v["fn_in_other"], "fn_in_other holds no *", "fn_in_other")),
            "Coordinates need a wildcard: put * in place of the micrograph's name, as in Movies/*_pick.star.",
            "fn_in_other",
        ),
        Rule(
            all_of(
                _HALVES,
                that(
                    lambda v: not re.search("half[12]", v["fn_in_other"]),
                    "fn_in_other holds neither half1 nor half2",
                    "fn_in_other",
                ),
            ),
            "A half-map's name must hold half1 or half2, so that the other half can be found.",
            "fn_in_other",
        ),
    ),
    display=(
        Display("Movies", "movies.star", "star"),
        Display("Micrographs", "micrographs.star", "micrographs"),
        Display("Maps", "*.mrc", "map"),
        Display("Particles", "*particles*.star", "particles"),
    ),
)
