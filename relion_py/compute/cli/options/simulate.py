"""The options of relion_py_simulate."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

PARTICLES, MOVIES = "Particles", "Movies (with --movies)"
"""The groups of options that have a meaning for one kind of data only."""

FLAGS = (
    Flag("--o", default="Simulated", help="directory that gets the data", required=True),
    Flag("--n", default="400", help="number of particles, in all movies together"),
    Flag("--box", default="64", help="box size in pixels (even); of the particles and the true map"),
    Flag("--angpix", default="3.5", help="pixel size in A"),
    Flag("--sym", default="C1", help="point group of the particle"),
    Flag("--snr", default="0.1", help="variance of the signal over that of the noise, within the particle"),
    Flag("--seed", default="1", help="the same seed gives the same data"),
    Flag("--diameter", default="-1", help="particle diameter in A (negative: 60% of the box)"),
    Flag("--atoms", default="600", help="number of Gaussian blobs of the model"),
    Flag("--classes", default="1", help="number of different structures in the data", group=PARTICLES),
    Flag("--shift", default="-1", help="standard deviation of the shifts in A (negative: 2 pixels)", group=PARTICLES),
    Flag("--min_defocus", default="8000", help="smallest defocus in A"),
    Flag("--max_defocus", default="25000", help="largest defocus in A"),
    Flag("--optics_groups", default="1", help="number of optics groups", group=PARTICLES),
    Flag("--coloured_noise", kind="flag", help="noise whose power falls with the frequency", group=PARTICLES),
    Flag("--ini_high", default="40", help="resolution in A of the low-passed reference", group=PARTICLES),
    Flag("--movies", default="0", help="number of movies to write, instead of images of particles"),
    Flag("--size", default="1024", help="pixels along a side of a frame (even)", group=MOVIES),
    Flag("--frames", default="10", help="frames of a movie", group=MOVIES),
    Flag("--dose", default="4", help="electrons per A2 and frame", group=MOVIES),
    Flag("--drift", default="15", help="length in A of a movie's way", group=MOVIES),
    Flag("--local_motion", default="4", help="how much further than the middle a corner moves, in A", group=MOVIES),
    Flag("--ice", default="0.3", help="variance of the ice's contrast over that of the noise", group=MOVIES),
    Flag("--sigma", default="1.5", help="of the Gaussian blobs of the model, in A", group=MOVIES),
)
