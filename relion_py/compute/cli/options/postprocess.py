"""The options of `relion_postprocess` (postprocessing.cpp, read), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_MASK = "Masking"
_SHARP = "Sharpening"
_FILTER = "Filtering"
_LOCAL = "Local resolution"
_EXPERT = "Expert options"
_ABSENT = "Options of the reference that this release refuses"

REFUSED: dict[str, str] = {
    "--ios": "tomography is not part of it; give the half maps with --i",
    "--auto_mask": "RELION has removed it, too; make a mask with relion_mask_create and give it with --mask",
}
"""Flag -> why this release does not do it."""

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "half map 1, such as run_half1_class001_unfil.mrc", required=True),
    Flag("--i2", "value", "", "half map 2; by default as --i with half2 for half1"),
    Flag("--o", "value", "postprocess", "root of the output names"),
    Flag("--angpix", "value", "-1", "pixel size (A); -1: that of the map"),
    Flag("--half_maps", "flag", "", "write the half maps, sharpened in the same way, as well"),
    Flag("--mtf_angpix", "value", "-1", "pixel size of the raw micrographs (A); -1: that of the map"),
    Flag("--molweight", "value", "-1", "molecular weight of the ordered protein (kDa)"),
    Flag("--mask", "value", "", "soft mask: 1 protein, 0 solvent", _MASK),
    Flag("--force_mask", "flag", "", "use the mask even if it makes the resolution worse", _MASK),
    Flag("--mtf", "value", "", "STAR file with the MTF of the detector", _SHARP),
    Flag("--auto_bfac", "flag", "", "find the B-factor by a fit to the Guinier plot", _SHARP),
    Flag("--autob_lowres", "value", "10.", "lowest resolution of the fit (A)", _SHARP),
    Flag("--autob_highres", "value", "0.", "highest resolution of the fit (A)", _SHARP),
    Flag("--adhoc_bfac", "value", "0.", "B-factor (A^2), such as -100", _SHARP),
    Flag("--skip_fsc_weighting", "flag", "", "do not weight by the FSC", _FILTER),
    Flag("--low_pass", "value", "0", "filter the final map (A); 0: no, negative: at its resolution", _FILTER),
    Flag("--filter_edge_width", "value", "2", "width of the filter's edge (shells)", _FILTER),
    Flag("--locres", "flag", "", "local resolution instead", _LOCAL),
    Flag("--locres_sampling", "value", "25.", "distance of the sampling points (A)", _LOCAL),
    Flag(
        "--locres_maskrad",
        "value",
        "-1",
        "radius of the mask at each point (A); -1: half the sampling",
        _LOCAL,
    ),
    Flag("--locres_edgwidth", "value", "-1", "width of its soft edge (A); -1: the sampling", _LOCAL),
    Flag("--locres_randomize_at", "value", "25.", "phases are random beyond this resolution (A)", _LOCAL),
    Flag("--locres_minres", "value", "50.", "lowest local resolution allowed (A)", _LOCAL),
    Flag("--randomize_at_fsc", "value", "0.8", "phases are random from where the FSC drops below this", _EXPERT),
    Flag(
        "--randomize_at_A",
        "value",
        "-1",
        "phases are random from this resolution on (A), if positive",
        _EXPERT,
    ),
    Flag("--ampl_corr", "flag", "", "even the amplitudes over directions, and compare those of the halves", _EXPERT),
    Flag("--interpolate", "flag", "", "tell an interpolated resolution, too", _EXPERT),
    Flag("--verb", "value", "1", "0: say nothing", _EXPERT),
    Flag("--random_seed", "value", "0", "seed of the random phases; negative: another each time", _EXPERT),
    *(Flag(n, "value" if n == "--ios" else "flag", "", why, _ABSENT) for n, why in REFUSED.items()),
)
