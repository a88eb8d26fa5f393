"""The options of `relion_autopick` (autopicker.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_LOG = "Laplacian of Gaussian"
_EXPERT = "Expert options"
_ABSENT = "Options of the reference that this release refuses"
_TEMPLATES = "picking with references is not built yet; pick with --LoG"
_TOPAZ = "Topaz is not run yet; pick with --LoG"
_HELIX = "helical segments are not picked yet; pick single particles with --LoG"

REFUSED: dict[str, str] = {
    **dict.fromkeys(("--topaz_train", "--topaz_extract"), _TOPAZ),
    **dict.fromkeys(("--helix", "--amyloid"), _HELIX),
    "--ref": _TEMPLATES,
    "--gpu": "picking runs on the CPU; leave it out",
    **dict.fromkeys(
        (
            "--particle_diameter", "--shrink_particle_mask", "--angpix_ref", "--invert", "--ang", "--highpass",
            "--ctf", "--ctf_intact_first_peak", "--gauss_max", "--healpix_order", "--sym", "--threshold",
            "--min_distance", "--max_stddev_noise", "--min_avg_noise", "--pad", "--extra_pad",
        ),
        _TEMPLATES,
    ),
    **dict.fromkeys(
        (
            "--topaz_nr_particles", "--topaz_threshold", "--topaz_train_picks", "--topaz_train_parts",
            "--topaz_test_ratio", "--topaz_downscale", "--topaz_model", "--topaz_radius", "--topaz_args",
            "--topaz_workers", "--topaz_plot",
        ),
        _TOPAZ,
    ),
    **dict.fromkeys(
        (
            "--helical_tube_kappa_max", "--helical_tube_outer_diameter", "--helical_tube_length_min",
            "--max_diam_local_avg",
        ),
        _HELIX,
    ),
}  # fmt: skip
"""Flag -> why this release does not do it; what says most about the wish comes first."""

_SWITCHES = {
    "--topaz_train", "--topaz_extract", "--helix", "--amyloid", "--invert", "--ctf", "--ctf_intact_first_peak",
    "--topaz_plot",
}  # fmt: skip


def _absent(name: str, why: str) -> Flag:
    kind = "flag" if name in _SWITCHES else "optional" if name == "--gpu" else "value"
    return Flag(name, kind, "", why, _ABSENT)


FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", 'STAR file of micrographs, or a pattern such as "mics/*.mrc"', _GENERAL, True),
    Flag("--odir", "value", "AutoPick/", "output directory", _GENERAL),
    Flag("--pickname", "value", "autopick", "ending of the names of coordinate files", _GENERAL),
    Flag("--angpix", "value", "-1", "pixel size (A), where the input does not tell", _GENERAL),
    Flag("--only_do_unfinished", "flag", "", "only micrographs without coordinates", _GENERAL),
    Flag("--outlier_removal_zscore", "value", "8", "pixels beyond so many deviations become the mean", _GENERAL),
    Flag("--write_fom_maps", "flag", "", "write figure-of-merit maps", _GENERAL),
    Flag("--read_fom_maps", "flag", "", "read those of an earlier run", _GENERAL),
    Flag("--no_fom_limit", "flag", "", "write maps of more than 30 micrographs", _GENERAL),
    Flag("--skip_optimise_scale", "flag", "", "keep the working size, slow transforms or not", _GENERAL),
    Flag("--j", "value", "1", "micrographs at a time", _GENERAL),
    Flag("--LoG", "flag", "", "pick by a Laplacian of Gaussian", _LOG),
    Flag("--LoG_diam_min", "value", "-1", "smallest particle diameter (A)", _LOG),
    Flag("--LoG_diam_max", "value", "-1", "largest particle diameter (A)", _LOG),
    Flag("--LoG_neighbour", "value", "100", "percent of the usual distance between particles", _LOG),
    Flag("--Log_invert", "flag", "", "particles are white", _LOG),
    Flag("--LoG_adjust_threshold", "value", "0", "deviations; positive: fewer, negative: more picks", _LOG),
    Flag("--LoG_upper_threshold", "value", "99999", "deviations above which picks are dropped", _LOG),
    Flag("--LoG_use_ctf", "flag", "", "divide by the CTF up to its first peak", _LOG),
    Flag("--lowpass", "value", "-1", "resolution (A) that micrographs are shrunk to, with --shrink 0", _LOG),
    Flag("--shrink", "value", "1", "0: as --lowpass says; to 1: fraction; above: pixels", _LOG),
    Flag("--skip_side", "value", "0", "pixels without picks at the edges (at least a radius)", _LOG),
    Flag("--Log_max_search", "value", "5", "look at diameters up to so many times larger, smaller", _EXPERT),
    Flag("--random_seed", "value", "1", "of the noise beside oblong micrographs; -1: another every time", _EXPERT),
    Flag("--verb", "value", "1", "0: say nothing", _EXPERT),
    Flag("--fn_topaz_exe", "value", "", "the Topaz program; plays no role without Topaz", _EXPERT),
    *(_absent(name, why) for name, why in REFUSED.items()),
)
