"""The options of `relion_run_ctffind` (ctffind_runner.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_MICROSCOPE = "Microscope, where the input does not tell"
_SEARCH = "Search"
_PHASE = "Phase plates"
_THEIRS = "Your CTFFIND"
_ABSENT = "Options of the reference that this release refuses"
_MOVIES = "rings are looked for in micrographs or their power spectra, not in movies"
_GCTF = "Gctf is not run; give CTFFIND with --ctffind_exe, or use the built-in estimator"

REFUSED: dict[str, str] = {
    "--do_movie_thon_rings": _MOVIES,
    "--avg_movie_frames": _MOVIES,
    "--movie_rootname": _MOVIES,
    "--localsearch_nominal_defocus": "it is for tilt series, and tomography is not in this release",
    "--exp_factor_dose": "it is for tilt series, and tomography is not in this release",
    "--use_gctf": _GCTF,
    "--gctf_exe": _GCTF,
    "--ignore_ctffind_params": _GCTF,
    "--EPA": _GCTF,
    "--do_validation": _GCTF,
    "--extra_gctf_options": _GCTF,
    "--gpu": "CTF estimation runs on the CPU",
}
"""Flag -> why this release does not do it."""

_SWITCHES = {"--do_movie_thon_rings", "--use_gctf", "--ignore_ctffind_params", "--EPA", "--do_validation"}

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", 'STAR file of micrographs, or a pattern such as "mics/*.mrc"', _GENERAL, True),
    Flag("--o", "value", "CtfEstimate/", "output directory", _GENERAL),
    Flag("--use_noDW", "flag", "", "look at the micrographs without dose weights", _GENERAL),
    Flag("--use_given_ps", "flag", "", "use the power spectra of motion correction", _GENERAL),
    Flag("--only_do_unfinished", "flag", "", "only micrographs without a result", _GENERAL),
    Flag("--only_make_star", "flag", "", "estimate nothing, join the results that there are", _GENERAL),
    Flag("--do_at_most", "value", "-1", "process at most so many micrographs", _GENERAL),
    Flag("--ctfWin", "value", "-1", "look at a central square of so many pixels only", _GENERAL),
    Flag("--j", "value", "1", "micrographs at a time", _GENERAL),
    Flag("--CS", "value", "-1", "spherical aberration (mm)", _MICROSCOPE),
    Flag("--HT", "value", "-1", "voltage (kV)", _MICROSCOPE),
    Flag("--AmpCnst", "value", "-1", "amplitude contrast (0 to 1)", _MICROSCOPE),
    Flag("--angpix", "value", "-1", "pixel size (A)", _MICROSCOPE),
    Flag("--Box", "value", "512", "pixels of the spectrum", _SEARCH),
    Flag("--ResMin", "value", "100", "coarsest resolution of the fit (A)", _SEARCH),
    Flag("--ResMax", "value", "7", "finest resolution of the fit (A)", _SEARCH),
    Flag("--dFMin", "value", "10000", "smallest defocus (A)", _SEARCH),
    Flag("--dFMax", "value", "50000", "largest defocus (A)", _SEARCH),
    Flag("--FStep", "value", "250", "step of defocus (A)", _SEARCH),
    Flag("--dAst", "value", "0", "tolerated astigmatism (A); 0: any", _SEARCH),
    Flag("--fast_search", "flag", "", "search less astigmatism (2000 instead of 5000 A)", _SEARCH),
    Flag("--do_phaseshift", "flag", "", "estimate the phase shift as well", _PHASE),
    Flag("--phase_min", "value", "0", "smallest phase shift (degrees)", _PHASE),
    Flag("--phase_max", "value", "180", "largest phase shift (degrees)", _PHASE),
    Flag("--phase_step", "value", "10", "step of phase shift (degrees)", _PHASE),
    Flag("--ctffind_exe", "value", "", "its path (or RELION_CTFFIND_EXECUTABLE)", _THEIRS),
    Flag("--is_ctffind4", "flag", "", "it is CTFFIND 4.1 or later", _THEIRS),
    *(Flag(n, "flag" if n in _SWITCHES else "value", "", why, _ABSENT) for n, why in REFUSED.items()),
)
