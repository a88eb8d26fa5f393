"""The options of `relion_autopick` (autopicker.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_REFERENCES = "References"
_LOG = "Laplacian of Gaussian"
_TOPAZ = "Topaz"
_HELIX = "Filaments"
_PEAKS = "Peaks of template matching"
_EXPERT = "Expert options"

REFUSED: dict[str, str] = {}
"""Flag -> why this release does not do it."""

_OF_TOPAZ = (
    "--topaz_nr_particles", "--topaz_threshold", "--topaz_train_picks", "--topaz_train_parts", "--topaz_test_ratio",
    "--topaz_downscale", "--topaz_model", "--topaz_radius", "--topaz_args", "--topaz_workers", "--topaz_plot",
)  # fmt: skip

ONLY_WITH: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("--ref",),
        (
            "--shrink_particle_mask", "--angpix_ref", "--invert", "--ang", "--highpass", "--ctf",
            "--ctf_intact_first_peak", "--gauss_max", "--healpix_order", "--sym", "--threshold", "--min_distance",
            "--max_stddev_noise", "--min_avg_noise", "--pad", "--extra_pad", "--amyloid", "--helical_tube_kappa_max",
            "--helical_tube_outer_diameter", "--max_diam_local_avg",
        ),
    ),
    (
        ("--LoG",),
        (
            "--LoG_diam_min", "--LoG_diam_max", "--LoG_neighbour", "--Log_invert", "--LoG_adjust_threshold",
            "--LoG_upper_threshold", "--LoG_use_ctf", "--Log_max_search",
        ),
    ),
    (("--topaz_extract", "--topaz_train"), _OF_TOPAZ),
    (("--ref", "--topaz_extract", "--topaz_train"), ("--particle_diameter",)),
    (("--ref", "--topaz_extract"), ("--helix", "--helical_tube_length_min")),
    (
        ("--ref", "--LoG"),
        (
            "--lowpass", "--shrink", "--skip_side", "--outlier_removal_zscore", "--skip_optimise_scale",
            "--write_fom_maps", "--read_fom_maps", "--no_fom_limit",
        ),
    ),
)  # fmt: skip
"""Methods -> flags that mean nothing to the others."""

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", 'STAR file of micrographs, or a pattern such as "mics/*.mrc"', _GENERAL, True),
    Flag("--odir", "value", "AutoPick/", "output directory", _GENERAL),
    Flag("--pickname", "value", "autopick", "ending of the names of coordinate files", _GENERAL),
    Flag("--angpix", "value", "-1", "pixel size (A), where the input does not tell", _GENERAL),
    Flag("--particle_diameter", "value", "-1", "of the circle around a particle (A); -1: as the references", _GENERAL),
    Flag("--shrink_particle_mask", "value", "2", "pixels by which this circle is made smaller", _GENERAL),
    Flag("--only_do_unfinished", "flag", "", "only micrographs without coordinates", _GENERAL),
    Flag("--outlier_removal_zscore", "value", "8", "pixels beyond so many deviations become the mean", _GENERAL),
    Flag("--write_fom_maps", "flag", "", "write figure-of-merit maps", _GENERAL),
    Flag("--read_fom_maps", "flag", "", "read those of an earlier run", _GENERAL),
    Flag("--no_fom_limit", "flag", "", "write maps of more than 30 micrographs", _GENERAL),
    Flag("--skip_optimise_scale", "flag", "", "keep the working size, slow transforms or not", _GENERAL),
    Flag("--j", "value", "1", "micrographs at a time", _GENERAL),
    Flag(
        "--gpu", "optional", "", "references and Topaz on GPUs: 0:1 for two ranks (none: in turn); not --LoG", _GENERAL
    ),
    Flag("--ref", "value", "", 'stack, map, STAR file of class averages, or "gauss"', _REFERENCES),
    Flag("--angpix_ref", "value", "-1", "pixel size of the references (A)", _REFERENCES),
    Flag("--invert", "flag", "", "particles are dark and references white, or the other way round", _REFERENCES),
    Flag("--ang", "value", "10", "step of in-plane angles (degrees); 360: none", _REFERENCES),
    Flag(
        "--lowpass", "value", "-1", "resolution (A) that references, or with --shrink 0 micrographs, keep", _REFERENCES
    ),
    Flag("--highpass", "value", "-1", "resolution (A) beyond which micrographs lose what is coarser", _REFERENCES),
    Flag("--ctf", "flag", "", "multiply references by the CTF of the micrograph", _REFERENCES),
    Flag("--ctf_intact_first_peak", "flag", "", "only beyond its first peak", _REFERENCES),
    Flag("--gauss_max", "value", "0.1", "height of the Gaussian reference", _REFERENCES),
    Flag(
        "--healpix_order", "value", "1", "directions of a map's projections: 0: 60, 1: 30, 2: 15 degrees", _REFERENCES
    ),
    Flag("--sym", "value", "C1", "point group of a map", _REFERENCES),
    Flag("--LoG", "flag", "", "pick by a Laplacian of Gaussian", _LOG),
    Flag("--LoG_diam_min", "value", "-1", "smallest particle diameter (A)", _LOG),
    Flag("--LoG_diam_max", "value", "-1", "largest particle diameter (A)", _LOG),
    Flag("--LoG_neighbour", "value", "100", "percent of the usual distance between particles", _LOG),
    Flag("--Log_invert", "flag", "", "particles are white", _LOG),
    Flag("--LoG_adjust_threshold", "value", "0", "deviations; positive: fewer, negative: more picks", _LOG),
    Flag("--LoG_upper_threshold", "value", "99999", "deviations above which picks are dropped", _LOG),
    Flag("--LoG_use_ctf", "flag", "", "divide by the CTF up to its first peak", _LOG),
    Flag("--topaz_train", "flag", "", "train a Topaz model", _TOPAZ),
    Flag("--topaz_extract", "flag", "", "pick with Topaz", _TOPAZ),
    Flag("--topaz_nr_particles", "value", "200", "expected particles per micrograph, for training", _TOPAZ),
    Flag("--topaz_threshold", "value", "-6", "least score of a pick", _TOPAZ),
    Flag("--topaz_train_picks", "value", "", "list of coordinate files to train with", _TOPAZ),
    Flag("--topaz_train_parts", "value", "", "or a STAR file of particles", _TOPAZ),
    Flag("--topaz_test_ratio", "value", "0.2", "fraction of the picks that are only for testing", _TOPAZ),
    Flag("--topaz_downscale", "value", "-1", "micrographs are made so much smaller; -1: as the diameter asks", _TOPAZ),
    Flag("--topaz_model", "value", "", "trained model; none: the general one of Topaz", _TOPAZ),
    Flag("--topaz_radius", "value", "-1", "radius in downscaled pixels; -1: as the diameter asks", _TOPAZ),
    Flag("--topaz_args", "value", "", "more arguments for Topaz", _TOPAZ),
    Flag("--topaz_workers", "value", "1", "threads and workers of training", _TOPAZ),
    Flag("--topaz_plot", "flag", "", "with --helix: plots of what Topaz does with filaments", _TOPAZ),
    Flag("--fn_topaz_exe", "value", "relion_python_topaz", "the Topaz program", _TOPAZ),
    Flag("--helix", "flag", "", "the references are of filaments: pick segments along them", _HELIX),
    Flag("--amyloid", "flag", "", "the filaments are amyloids: follow them step by step", _HELIX),
    Flag("--helical_tube_kappa_max", "value", "0.25", "largest curvature, relative to that of a circle", _HELIX),
    Flag("--helical_tube_outer_diameter", "value", "-1", "diameter of the filament (A)", _HELIX),
    Flag("--helical_tube_length_min", "value", "-1", "shorter filaments are dropped (A)", _HELIX),
    Flag("--max_diam_local_avg", "value", "-1", "of the circle whose mean and noise are looked at (A)", _HELIX),
    Flag("--threshold", "value", "0.25", "least figure of merit", _PEAKS),
    Flag("--min_distance", "value", "-1", "between particles (A); -1: half the box; --helix: between segments", _PEAKS),
    Flag("--max_stddev_noise", "value", "-1", "largest deviation of the noise around a pick; -1: any", _PEAKS),
    Flag("--min_avg_noise", "value", "-999", "least mean of the noise around a pick; -999: any", _PEAKS),
    Flag("--skip_side", "value", "0", "pixels without picks at the edges (besides half a particle)", _PEAKS),
    Flag("--shrink", "value", "1", "0: as --lowpass says; to 1: fraction; above: pixels", _EXPERT),
    Flag("--pad", "value", "2", "padding of a map's transform", _EXPERT),
    Flag("--extra_pad", "value", "0", "pixels of noise added around micrographs", _EXPERT),
    Flag("--Log_max_search", "value", "5", "look at diameters up to so many times larger, smaller", _EXPERT),
    Flag("--random_seed", "value", "1", "of the noise beside oblong micrographs; -1: another every time", _EXPERT),
    Flag("--verb", "value", "1", "0: say nothing", _EXPERT),
)
