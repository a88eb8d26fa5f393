"""The options of `relion_project` (apps/project.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_ABSENT = "Options of the reference that this release refuses"

REFUSED: dict[str, str] = {
    "--ignore_particle_name": "particles' names play no role in it",
    "--NN": "it interpolates linearly",
}
"""Flag -> why this release does not do it."""

_SWITCHES = {"--ignore_particle_name", "--NN"}

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "map to project", required=True),
    Flag("--o", "value", "proj", "root of the output names: <root>.mrcs and <root>.star; or the image's name"),
    Flag("--float16", "flag", "", "write half-precision numbers"),
    Flag("--ctf", "flag", "", "apply the CTF of each particle in --ang"),
    Flag("--ctf2", "flag", "", "apply the square of the CTF"),
    Flag("--ctf_phase_flip", "flag", "", "apply the absolute value of the CTF"),
    Flag("--ctf_intact_first_peak", "flag", "", "leave the CTF alone up to its first peak"),
    Flag("--angpix", "value", "-1", "pixel size (A); -1: that of the first optics group of --ang, else of the map"),
    Flag("--mask", "value", "", "map that the map is multiplied with first"),
    Flag("--ang", "value", "None", "STAR file with a projection a row; without it, one projection is made"),
    Flag("--rot", "value", "0", "first Euler angle of the one projection (degrees)"),
    Flag("--tilt", "value", "0", "second Euler angle (degrees)"),
    Flag("--psi", "value", "0", "third Euler angle (degrees)"),
    Flag("--xoff", "value", "0", "its origin's offset along X (pixels)"),
    Flag("--yoff", "value", "0", "its origin's offset along Y (pixels)"),
    Flag("--3d_rot", "flag", "", "turn the map instead of projecting it, by --rot, --tilt and --psi"),
    Flag("--zoff", "value", "0", "with --3d_rot, the origin's offset along Z (pixels)"),
    Flag("--nr_uniform", "value", "-1", "or so many projections in random directions"),
    Flag("--sigma_offset", "value", "0", "with random origins of this standard deviation along X and Y (A)"),
    Flag("--add_noise", "flag", "", "add noise to the projections"),
    Flag("--white_noise", "value", "0", "white noise of this standard deviation"),
    Flag(
        "--subtract_exp",
        "flag",
        "",
        "subtract the projections from the images that --ang names, and write what is left",
    ),
    Flag("--model_noise", "value", "", "noise with the spectra of a model.star, by optics group, with --add_noise"),
    Flag("--simulate", "flag", "", "take the projections out of the images that --ang names, and add others"),
    Flag("--ang_simulate", "value", "", "STAR file with the poses of these; without it those of other particles"),
    Flag("--adjust_simulation_SNR", "value", "1.", "and times this"),
    Flag("--maxres", "value", "-1", "highest resolution (A); -1: Nyquist"),
    Flag("--pad", "value", "2", "oversampling of the transform"),
    *(Flag(n, "flag" if n in _SWITCHES else "value", "", why, _ABSENT) for n, why in REFUSED.items()),
)
