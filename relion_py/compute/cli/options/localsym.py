"""The options of `relion_localsym` (local_symmetry.cpp, local_symmetry_parameters::read), and those that it refuses."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_WHAT = "What to do (one of these)"
_FILES = "Files"
_SEARCH = "Search"
_MOVE = "Transformation"
_ABSENT = "Options of the reference that this release refuses"

DESCRIPTION = (
    "Local symmetry of a map: averages parts that are alike, copies them, and searches for the operators that carry "
    "one onto the other."
)

FUNCTIONS: dict[str, str] = {
    "--apply": "average each masked part with its copies, and put the mean in all their places",
    "--duplicate": "copy each masked part (or, without --i_map, the masks) to the places of its copies",
    "--search": "search for operators: around those of --i_mask_info, or anew between masks of --i_op_mask_info",
    "--transform": "turn and move a map by --rot, --tilt, --psi, --xoff, --yoff and --zoff",
    "--txt2rln": "write operators in DM's text format as a STAR file",
}
"""Flag -> what the program then does."""

_DEBUG = "it is an aid for developers of the reference"

REFUSED: dict[str, str] = {
    "--debug": _DEBUG,
    "--n": "masks are not made by --debug here",
    "--ini_threshold": "masks are not made by --debug here",
    "--i_mask": _DEBUG,
    "--i_mask_info_parsed_ext": "no file with parsed operators is written in between",
    "--function_help": "--help lists all options",
}
"""Option -> why this release does not have it."""

_SWITCHES = {"--debug", "--function_help"}

FLAGS: tuple[Flag, ...] = (
    *(Flag(name, "flag", "", text, _WHAT) for name, text in FUNCTIONS.items()),
    Flag("--i_map", "value", "", "input map", _FILES),
    Flag("--o_map", "value", "", "output map", _FILES),
    Flag("--i_mask_info", "value", "maskinfo.txt", "masks and operators: a STAR file, or text in DM's format", _FILES),
    Flag("--o_mask_info", "value", "maskinfo_refined.txt", "the same, with the operators that were found", _FILES),
    Flag("--i_op_mask_info", "value", "None", "STAR file with _rlnMaskName and _rlnAreaId, for a search anew", _FILES),
    Flag("--angpix", "value", "1.", "pixel size of the map (A)", _FILES),
    Flag(
        "--sphere_percentage", "value", "-1.", "diameter of a sphere to cut the result to, as a part of the box", _FILES
    ),
    Flag("--width", "value", "5.", "width of the sphere's soft edge (pixels)", _FILES),
    Flag("--ang_range", "value", "0.", "+/- range of all three angles (degrees), instead of theirs", _SEARCH),
    Flag("--ang_rot_range", "value", "0.", "+/- range of rot (degrees)", _SEARCH),
    Flag("--ang_tilt_range", "value", "0.", "+/- range of tilt (degrees)", _SEARCH),
    Flag("--ang_psi_range", "value", "0.", "+/- range of psi (degrees)", _SEARCH),
    Flag("--ang_step", "value", "1.", "angular step (degrees)", _SEARCH),
    Flag("--offset_range", "value", "0.", "+/- range of all three translations (A), instead of theirs", _SEARCH),
    Flag("--offset_x_range", "value", "0.", "+/- range of x (A)", _SEARCH),
    Flag("--offset_y_range", "value", "0.", "+/- range of y (A)", _SEARCH),
    Flag("--offset_z_range", "value", "0.", "+/- range of z (A)", _SEARCH),
    Flag("--offset_step", "value", "1.", "translational step (A)", _SEARCH),
    Flag("--bin", "value", "-1.", "bin maps and masks by this factor (1 or less: not at all)", _SEARCH),
    Flag("--use_healpix", "flag", "", "directions are centres of HEALPix pixels", _SEARCH),
    Flag("--verb", "flag", "", "list the five best operators of each search, too", _SEARCH),
    Flag("--rot", "value", "0.", "first Euler angle (degrees)", _MOVE),
    Flag("--tilt", "value", "0.", "second Euler angle (degrees)", _MOVE),
    Flag("--psi", "value", "0.", "third Euler angle (degrees)", _MOVE),
    Flag("--xoff", "value", "0.", "translation along x (A)", _MOVE),
    Flag("--yoff", "value", "0.", "translation along y (A)", _MOVE),
    Flag("--zoff", "value", "0.", "translation along z (A)", _MOVE),
    *(Flag(name, "flag" if name in _SWITCHES else "value", "", why, _ABSENT) for name, why in REFUSED.items()),
)
