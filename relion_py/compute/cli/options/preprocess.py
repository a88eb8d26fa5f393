"""The options of `relion_preprocess` (preprocessing.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_AGAIN = "Extracting refined particles again"
_EXTRACT = "Particle extraction"
_IMAGES = "Particle operations"
_HELIX = "Helical segments"
_CTF = "CTF correction while extracting"
_STACK = "Changing a stack of particles"
_ABSENT = "Options of the reference that this release refuses"

REFUSED: dict[str, str] = {
    "--project3d": "it is for sub-tomograms, and tomography is not in this release",
}
"""Flag -> why this release does not do it."""

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file of micrographs", _GENERAL),
    Flag("--coord_list", "value", "", "STAR file of micrographs and their coordinate files", _GENERAL),
    Flag("--coord_suffix", "value", "", 'or: ending of the coordinate files, such as "_pick.star" or ".box"', _GENERAL),
    Flag("--coord_dir", "value", "ASINPUT", "their directory; ASINPUT: beside the micrographs", _GENERAL),
    Flag("--part_dir", "value", "Particles/", "output directory", _GENERAL),
    Flag("--part_star", "value", "", "output list of all particles", _GENERAL),
    Flag("--pick_star", "value", "", "output list of micrographs and coordinate files", _GENERAL),
    Flag("--float16", "flag", "", "write half-precision numbers (MRC mode 12)", _GENERAL),
    Flag("--only_do_unfinished", "flag", "", "only micrographs whose particles are not there yet", _GENERAL),
    Flag("--reextract_data_star", "value", "", "or: STAR file of refined particles to be extracted again", _AGAIN),
    Flag("--keep_ctfs_micrographs", "flag", "", "take the CTF of the micrographs, not of the particles", _AGAIN),
    Flag("--reset_offsets", "flag", "", "set the refined offsets to 0", _AGAIN),
    Flag("--recenter", "flag", "", "move the coordinates by the refined offsets", _AGAIN),
    Flag(
        "--recenter_x", "value", "0", "X of the point to centre on (pixels of the reference, from its centre)", _AGAIN
    ),
    Flag("--recenter_y", "value", "0", "Y of it", _AGAIN),
    Flag("--recenter_z", "value", "0", "Z of it", _AGAIN),
    Flag("--ref_angpix", "value", "-1", "pixel size (A) of the reference; -1: that of the particles", _AGAIN),
    Flag("--extract", "flag", "", "extract particles; needed", _EXTRACT),
    Flag("--extract_size", "value", "-1", "box (pixels of the micrograph, even)", _EXTRACT),
    Flag("--minimum_pick_fom", "value", "-999", "only picks with a larger figure of merit; -999: all", _EXTRACT),
    Flag("--selection_type", "value", "0", "only picks of this rlnParticleSelectionType; 0: all", _EXTRACT),
    Flag("--extract_bias_x", "value", "0", "whole pixels that are added to X", _EXTRACT),
    Flag("--extract_bias_y", "value", "0", "whole pixels that are added to Y", _EXTRACT),
    Flag("--scale", "value", "-1", "rescale to this box (pixels)", _IMAGES),
    Flag("--window", "value", "-1", "then cut or pad to this box (pixels)", _IMAGES),
    Flag("--norm", "flag", "", "normalise the background to mean 0 and standard deviation 1", _IMAGES),
    Flag("--no_ramp", "flag", "", "subtract the background's mean, not a fitted plane", _IMAGES),
    Flag("--bg_radius", "value", "-1", "radius (pixels of the final box) outside which is background", _IMAGES),
    Flag("--white_dust", "value", "-1", "replace pixels so many standard deviations above the mean; -1: none", _IMAGES),
    Flag("--black_dust", "value", "-1", "replace pixels so many standard deviations below the mean; -1: none", _IMAGES),
    Flag("--invert_contrast", "flag", "", "change the sign of the images", _IMAGES),
    Flag("--premultiply_ctf", "flag", "", "multiply the particles with their CTF", _CTF),
    Flag("--premultiply_extract_size", "value", "-1", "box (pixels) for it; -1: --extract_size", _CTF),
    Flag("--ctf_intact_first_peak", "flag", "", "leave frequencies before the CTF's first peak as they are", _CTF),
    Flag("--phase_flip", "flag", "", "multiply the particles with the sign of their CTF only", _CTF),
    Flag("--helix", "flag", "", "extract helical segments", _HELIX),
    Flag("--helical_outer_diameter", "value", "-1", "outer diameter (A) of the tube; background is outside", _HELIX),
    Flag("--helical_tubes", "flag", "", "the coordinates are starts and ends of filaments", _HELIX),
    Flag("--helical_cut_into_segments", "flag", "", "cut them into segments; without it one in the middle", _HELIX),
    Flag("--helical_nr_asu", "value", "1", "asymmetric units between segments", _HELIX),
    Flag("--helical_rise", "value", "0", "distance (A) of asymmetric units along the axis", _HELIX),
    Flag("--helical_bimodal_angular_priors", "flag", "", "psi may also be 180 degrees off", _HELIX),
    Flag("--operate_on", "value", "", "instead of extracting: change the images of this stack", _STACK),
    Flag("--operate_out", "value", "preprocessed.mrcs", "stack to which they are written", _STACK),
    *(Flag(name, "flag", "", reason, _ABSENT) for name, reason in REFUSED.items()),
)
