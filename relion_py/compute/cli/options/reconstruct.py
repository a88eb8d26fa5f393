"""The options of `relion_reconstruct` (reconstructor.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_CTF = "CTF options"
_EXPERT = "Expert options"
_EWALD = "Ewald sphere"
_HELICAL = "Helical options"
_ABSENT = "Options of the reference that this release refuses"

_TOMO = "sub-tomograms are not reconstructed"
_DEBUG = "it is an aid for developers of the reference"

REFUSED: dict[str, str] = {
    "--normalised_subtomo": _TOMO,
    "--skip_subtomo_multi": _TOMO,
    "--ctf3d_not_squared": _TOMO,
    "--3d_rot": _TOMO,
    "--NN": "it interpolates linearly",
    "--blob_r": "the gridding kernel is fixed",
    "--blob_m": "the gridding kernel is fixed",
    "--blob_a": "the gridding kernel is fixed",
    "--debug": _DEBUG,
    "--debug_ori_size": _DEBUG,
    "--debug_size": _DEBUG,
    "--reconstruct_noise": _DEBUG,
    "--read_weights": _DEBUG,
    "--write_debug_output": _DEBUG,
    "--external_reconstruct": "it reconstructs the map itself",
}
"""Flag -> why this release does not do it."""

_SWITCHES = {
    "--normalised_subtomo", "--skip_subtomo_multi", "--ctf3d_not_squared", "--3d_rot", "--NN",
    "--read_weights", "--write_debug_output", "--external_reconstruct",
}  # fmt: skip

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file of the particles and their orientations", _GENERAL, True),
    Flag("--o", "value", "relion.mrc", "output map", _GENERAL),
    Flag("--sym", "value", "c1", "point group", _GENERAL),
    Flag("--maxres", "value", "-1", "highest resolution to use (A); -1: Nyquist", _GENERAL),
    Flag("--pad", "value", "2", "oversampling of the transform", _GENERAL),
    Flag("--img", "value", "", "directory of the image stacks, instead of that in the STAR file", _GENERAL),
    Flag("--subset", "value", "-1", "1 or 2: only the particles of that random half", _GENERAL),
    Flag("--class", "value", "-1", "only the particles of this class; -1: all", _GENERAL),
    Flag("--angpix", "value", "-1", "pixel size of the map (A); -1: that of the first optics group", _GENERAL),
    Flag("--subtract", "value", "", "subtract projections of this map from the images first", _GENERAL),
    Flag("--ctf", "flag", "", "correct for the CTF", _CTF),
    Flag("--ctf_intact_first_peak", "flag", "", "leave the CTF alone up to its first peak", _CTF),
    Flag("--ctf_phase_flipped", "flag", "", "the phases of the images are flipped already", _CTF),
    Flag("--only_flip_phases", "flag", "", "correct the phases only", _CTF),
    Flag("--ewald", "flag", "", "correct for the curvature of the Ewald sphere, too", _EWALD),
    Flag("--mask_diameter", "value", "-1.", "diameter of the mask around particles (A), with --ewald", _EWALD),
    Flag("--width_mask_edge", "value", "3", "width of its soft edge (pixels)", _EWALD),
    Flag("--reverse_curvature", "flag", "", "curvature of the other sign", _EWALD),
    Flag("--newbox", "value", "-1", "box of the map (pixels), if smaller than that of the images", _EWALD),
    Flag("--sectors", "value", "2", "sectors in which the two sides are parted", _EWALD),
    Flag("--skip_mask", "flag", "", "part them without a mask", _EWALD),
    Flag("--skip_weighting", "flag", "", "weigh with CTF^2 alone", _EWALD),
    Flag("--nr_helical_asu", "value", "1", "asymmetric units of a helix that every image shows", _HELICAL),
    Flag("--helical_rise", "value", "0.", "helical rise (A)", _HELICAL),
    Flag("--helical_twist", "value", "0.", "helical twist (degrees, positive is right-handed)", _HELICAL),
    Flag("--reconstruct_ctf", "value", "-1", "instead of a map, a volume of the CTF in a box of this size", _EXPERT),
    Flag("--ctf2", "flag", "", "with --reconstruct_ctf: of CTF^2, and then its root", _EXPERT),
    Flag("--iter", "value", "10", "iterations of gridding with --dont_skip_gridding", _EXPERT),
    Flag("--refdim", "value", "3", "3, or 2 for an average in the plane", _EXPERT),
    Flag(
        "--angular_error",
        "value",
        "0.",
        "standard deviation of errors added to each angle (degrees)",
        _EXPERT,
    ),
    Flag("--shift_error", "value", "0.", "standard deviation of errors added to each shift (A)", _EXPERT),
    Flag("--fom_weighting", "flag", "", "weigh particles by rlnParticleFigureOfMerit", _EXPERT),
    Flag("--fsc", "value", "", "STAR file with the FSC of the halves, for a regularised map", _EXPERT),
    Flag("--dont_skip_gridding", "flag", "", "find the weights by iterations", _EXPERT),
    Flag("--verb", "value", "1", "0: say nothing", _EXPERT),
    *(Flag(n, "flag" if n in _SWITCHES else "value", "", why, _ABSENT) for n, why in REFUSED.items()),
)
