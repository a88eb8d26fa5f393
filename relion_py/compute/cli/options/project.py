"""The options of `relion_project` (apps/project.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_ABSENT = "Options of the reference that this release refuses"
_NOISE = "no noise is added"
_EXPERIMENT = "projections are not combined with experimental images"

REFUSED: dict[str, str] = {
    "--mask": "masks for single projections are not made",
    "--nr_uniform": "give the angles in a STAR file with --ang",
    "--sigma_offset": "give the shifts in a STAR file with --ang",
    "--zoff": "only 2D projections are made",
    "--add_noise": _NOISE,
    "--white_noise": _NOISE,
    "--model_noise": _NOISE,
    "--subtract_exp": _EXPERIMENT,
    "--ignore_particle_name": _EXPERIMENT,
    "--3d_rot": "only 2D projections are made",
    "--simulate": _NOISE,
    "--adjust_simulation_SNR": _NOISE,
    "--ang_simulate": _NOISE,
    "--NN": "it interpolates linearly",
}
"""Flag -> why this release does not do it."""

_SWITCHES = {"--add_noise", "--subtract_exp", "--ignore_particle_name", "--3d_rot", "--simulate", "--NN"}

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "map to project", required=True),
    Flag("--o", "value", "proj", "root of the output names: <root>.mrcs and <root>.star; or the image's name"),
    Flag("--float16", "flag", "", "write half-precision numbers"),
    Flag("--ctf", "flag", "", "apply the CTF of each particle in --ang"),
    Flag("--ctf2", "flag", "", "apply the square of the CTF"),
    Flag("--ctf_phase_flip", "flag", "", "apply the absolute value of the CTF"),
    Flag("--ctf_intact_first_peak", "flag", "", "leave the CTF alone up to its first peak"),
    Flag("--angpix", "value", "-1", "pixel size (A); -1: that of the map"),
    Flag("--ang", "value", "None", "STAR file with a projection a row; without it, one projection is made"),
    Flag("--rot", "value", "0", "first Euler angle of the one projection (degrees)"),
    Flag("--tilt", "value", "0", "second Euler angle (degrees)"),
    Flag("--psi", "value", "0", "third Euler angle (degrees)"),
    Flag("--xoff", "value", "0", "its origin's offset along X (pixels)"),
    Flag("--yoff", "value", "0", "its origin's offset along Y (pixels)"),
    Flag("--maxres", "value", "-1", "highest resolution (A); -1: Nyquist"),
    Flag("--pad", "value", "2", "oversampling of the transform"),
    *(Flag(n, "flag" if n in _SWITCHES else "value", "", why, _ABSENT) for n, why in REFUSED.items()),
)
