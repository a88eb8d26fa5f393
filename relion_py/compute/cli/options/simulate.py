"""The options of relion_py_simulate."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

FLAGS = (
    Flag("--o", default="Simulated", help="directory that gets the data", required=True),
    Flag("--n", default="400", help="number of particles"),
    Flag("--box", default="64", help="box size in pixels (even)"),
    Flag("--angpix", default="3.5", help="pixel size in A"),
    Flag("--sym", default="C1", help="point group of the particle"),
    Flag("--snr", default="0.1", help="variance of the signal over that of the noise, within the particle"),
    Flag("--seed", default="1", help="the same seed gives the same data"),
    Flag("--diameter", default="-1", help="particle diameter in A (negative: 60% of the box)"),
    Flag("--atoms", default="600", help="number of Gaussian blobs of the model"),
    Flag("--classes", default="1", help="number of different structures in the data"),
    Flag("--shift", default="-1", help="standard deviation of the shifts in A (negative: 2 pixels)"),
    Flag("--min_defocus", default="8000", help="smallest defocus in A"),
    Flag("--max_defocus", default="25000", help="largest defocus in A"),
    Flag("--optics_groups", default="1", help="number of optics groups"),
    Flag("--coloured_noise", kind="flag", help="noise whose power falls with the frequency"),
    Flag("--ini_high", default="40", help="resolution in A of the low-passed reference"),
)
