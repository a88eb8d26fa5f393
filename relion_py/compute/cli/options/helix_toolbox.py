"""The options of `relion_helix_toolbox` (apps/helix_toolbox.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_FUNCTIONS = "Functions (give one)"
_PARAMETERS = "Parameters"
_ABSENT = "Functions of the reference that this release refuses"

FUNCTIONS = ("--cylinder", "--spherical_mask", "--impose", "--search", "--check")
"""What the program can be asked for, one at a time."""

_ELSEWHERE = "relion_preprocess reads these coordinates itself"
_TABLES = "relion_star_handler changes STAR files"
_SIMULATE = "helices are not simulated here"

REFUSED: dict[str, str] = {
    **dict.fromkeys(("--coords_emn2rln", "--coords_xim2rln"), _ELSEWHERE),
    **dict.fromkeys(("--extract_emn", "--extract_rln", "--extract_xim"), _ELSEWHERE),
    **dict.fromkeys(("--divide", "--merge", "--sort_tube_id", "--init_tilt", "--combine_gctf"), _TABLES),
    **dict.fromkeys(("--remove_bad_ctf", "--remove_bad_tilt", "--remove_bad_psi"), _TABLES),
    **dict.fromkeys(("--simulate_helix", "--simulate_segments", "--pdb_helix"), _SIMULATE),
    "--norm": "relion_preprocess normalises segments when it extracts them",
    "--central_mask": "relion_mask_create --helix does this",
    "--polar": "cylinders have no polarity here",
    "--cut_out": "maps are not cut along a helix",
    "--impose_fourier": "relion_reconstruct --nr_helical_asu does this",
    "--interpo": "tomography is not in this release",
    "--select_3dtomo": "tomography is not in this release",
    "--average_au_2d": "asymmetric units are averaged in maps only",
    "--set_xmipp_origin": "it is an aid for developers of the reference",
    "--debug": "it is an aid for developers of the reference",
}
"""Flag -> why this release does not do it."""

FLAGS: tuple[Flag, ...] = (
    Flag("--cylinder", "flag", "", "make a cylinder, as a first reference", _FUNCTIONS),
    Flag("--spherical_mask", "flag", "", "multiply a map with a soft sphere", _FUNCTIONS),
    Flag("--impose", "flag", "", "impose helical symmetry on a map", _FUNCTIONS),
    Flag("--search", "flag", "", "find the twist and rise of a map within limits", _FUNCTIONS),
    Flag("--check", "flag", "", "say whether parameters can be used for a refinement", _FUNCTIONS),
    Flag("--i", "value", "", "map to read", _PARAMETERS),
    Flag("--o", "value", "", "map to write", _PARAMETERS),
    Flag("--angpix", "value", "-1", "pixel size (A); -1: that of the map", _PARAMETERS),
    Flag("--boxdim", "value", "-1", "box (voxels) of a cylinder or a check", _PARAMETERS),
    Flag("--cyl_inner_diameter", "value", "-1", "inner diameter (A) of the tube", _PARAMETERS),
    Flag("--cyl_outer_diameter", "value", "-1", "outer diameter (A) of the tube", _PARAMETERS),
    Flag("--sphere_percentage", "value", "0.9", "diameter of the sphere as a part of the box", _PARAMETERS),
    Flag("--z_percentage", "value", "0.3", "central part of the box that is good density", _PARAMETERS),
    Flag("--width", "value", "5.", "width (voxels) of soft edges", _PARAMETERS),
    Flag("--twist", "value", "-1", "helical twist (degrees)", _PARAMETERS),
    Flag("--twist_min", "value", "-1", "smallest twist (degrees)", _PARAMETERS),
    Flag("--twist_max", "value", "-1", "largest twist (degrees)", _PARAMETERS),
    Flag("--twist_inistep", "value", "-1", "first step of the twist (degrees); -1: by itself", _PARAMETERS),
    Flag("--rise", "value", "-1", "helical rise (A)", _PARAMETERS),
    Flag("--rise_min", "value", "-1", "smallest rise (A)", _PARAMETERS),
    Flag("--rise_max", "value", "-1", "largest rise (A)", _PARAMETERS),
    Flag("--rise_inistep", "value", "-1", "first step of the rise (A); -1: by itself", _PARAMETERS),
    Flag("--nr_asu", "value", "1", "asymmetric units per segment, for a check", _PARAMETERS),
    Flag("--search_sym", "flag", "", "check the limits of a search, too", _PARAMETERS),
    Flag("--ignore_helical_symmetry", "flag", "", "check the diameters only", _PARAMETERS),
    *(Flag(name, "flag", "", why, _ABSENT) for name, why in REFUSED.items()),
)
