"""The options of `relion_import` (apps/import.cpp)."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_RAW = "Movies or micrographs"

FLAGS: tuple[Flag, ...] = (
    Flag(
        "--i",
        "value",
        "",
        "file to import; movies, micrographs and coordinates may have * and ?",
        _GENERAL,
        True,
    ),
    Flag("--odir", "value", "", "output directory, such as Import/job001/", _GENERAL, True),
    Flag("--ofile", "value", "", "name of the output file, such as movies.star", _GENERAL, True),
    Flag("--do_movies", "flag", "", "import movies", _GENERAL),
    Flag("--do_micrographs", "flag", "", "import micrographs", _GENERAL),
    Flag("--do_coordinates", "flag", "", "import coordinate files (.star or .box, one a micrograph)", _GENERAL),
    Flag("--do_halfmaps", "flag", "", "import an unfiltered half-map and its other half", _GENERAL),
    Flag("--do_particles", "flag", "", "import a particle STAR file", _GENERAL),
    Flag("--particles_optics_group_name", "value", "", "new name for its optics group", _GENERAL),
    Flag("--do_other", "flag", "", "import any other file", _GENERAL),
    Flag("--optics_group_name", "value", "opticsGroup1", "name of the optics group", _RAW),
    Flag("--optics_group_mtf", "value", "", "STAR file with the detector's MTF", _RAW),
    Flag("--angpix", "value", "1.0", "pixel size (A)", _RAW),
    Flag("--kV", "value", "300", "voltage (kV)", _RAW),
    Flag("--Cs", "value", "2.7", "spherical aberration (mm)", _RAW),
    Flag("--Q0", "value", "0.1", "amplitude contrast (0 to 1)", _RAW),
    Flag("--beamtilt_x", "value", "0.0", "beam tilt along X (mrad)", _RAW),
    Flag("--beamtilt_y", "value", "0.0", "beam tilt along Y (mrad)", _RAW),
    Flag("--continue", "flag", "", "add the files that an earlier import into this directory lacks", _RAW),
)
