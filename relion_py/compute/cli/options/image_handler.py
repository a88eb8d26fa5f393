"""The options of `relion_image_handler` (apps/image_handler.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_CONSTANT = "With a number"
_IMAGE = "With another image"
_EACH = "On each image"
_REPORT = "Reports"
_ABSENT = "Options of the reference that this release refuses"

_AMPLITUDE = "average amplitude spectra are not made or used"
_SUBTRACT = "scales and B-factors are not optimised before a subtraction"
_FRAMES = "movie frames are averaged by relion_run_motioncorr"
_COLOUR = "pictures for the eye are made by relion_display"

REFUSED: dict[str, str] = {
    "--adjust_power": "power spectra are not adjusted",
    "--fourier_filter": "images are filtered by --lowpass, --highpass and --bfactor only",
    "--cos_dphi": "phase differences are not computed",
    "--directional": "filters are the same in all directions",
    "--optimise_scale_subtract": _SUBTRACT,
    "--optimise_bfactor_subtract": _SUBTRACT,
    "--mask_optimise_subtract": _SUBTRACT,
    "--avg_ampl": _AMPLITUDE,
    "--avg_ampl2": _AMPLITUDE,
    "--avg_ampl2_ali": _AMPLITUDE,
    "--correct_avg_ampl": _AMPLITUDE,
    "--minr_ampl_corr": _AMPLITUDE,
    "--add_edge": "edges are not drawn",
    "--edge_x0": "edges are not drawn",
    "--edge_xF": "edges are not drawn",
    "--edge_y0": "edges are not drawn",
    "--edge_yF": "edges are not drawn",
    "--avg_bin": _FRAMES,
    "--avg_first": _FRAMES,
    "--avg_last": _FRAMES,
    "--average_all_movie_frames": _FRAMES,
    "--black": _COLOUR,
    "--white": _COLOUR,
    "--sigma_contrast": _COLOUR,
    "--colour_fire": _COLOUR,
    "--colour_ice": _COLOUR,
    "--colour_fire-n-ice": _COLOUR,
    "--colour_rainbow": _COLOUR,
    "--colour_difference": _COLOUR,
}
"""Flag -> why this release does not do it."""

_SWITCHES = {
    "--optimise_scale_subtract", "--avg_ampl", "--avg_ampl2", "--avg_ampl2_ali", "--add_edge",
    "--average_all_movie_frames", "--colour_fire", "--colour_ice", "--colour_fire-n-ice", "--colour_rainbow",
    "--colour_difference",
}  # fmt: skip

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "image or map (.mrc), stack (.mrcs) or STAR file", required=True),
    Flag("--o", "value", "", "output; for a STAR file or stack also what is added to each name"),
    Flag("--float16", "flag", "", "write half-precision numbers"),
    Flag("--j", "value", "1", "threads"),
    Flag("--multiply_constant", "value", "1", "multiply by this", _CONSTANT),
    Flag("--divide_constant", "value", "1", "divide by this", _CONSTANT),
    Flag("--add_constant", "value", "0.", "add this", _CONSTANT),
    Flag("--subtract_constant", "value", "0.", "subtract this", _CONSTANT),
    Flag("--threshold_above", "value", "999.", "set larger values to this", _CONSTANT),
    Flag("--threshold_below", "value", "-999.", "set smaller values to this", _CONSTANT),
    Flag("--multiply", "value", "", "multiply by this image", _IMAGE),
    Flag("--divide", "value", "", "divide by this image; 0 where it is 0", _IMAGE),
    Flag("--add", "value", "", "add this image", _IMAGE),
    Flag("--subtract", "value", "", "subtract this image", _IMAGE),
    Flag("--angpix", "value", "-1", "pixel size (A); -1: that of the image", _EACH),
    Flag("--bfactor", "value", "0.", "apply a B-factor (A^2)", _EACH),
    Flag("--lowpass", "value", "-1.", "low-pass filter (A)", _EACH),
    Flag("--highpass", "value", "-1.", "high-pass filter (A)", _EACH),
    Flag("--filter_edge_width", "value", "2", "width of the filters' edges (shells)", _EACH),
    Flag("--LoG", "value", "-1.", "Laplacian of a Gaussian, best for this diameter (A)", _EACH),
    Flag("--rescale_angpix", "value", "-1.", "scale to this pixel size (A)", _EACH),
    Flag("--force_header_angpix", "value", "-1.", "write this pixel size (A) into the header", _EACH),
    Flag("--new_box", "value", "-1", "cut, or fill up with 0, to this box (pixels)", _EACH),
    Flag("--flipX", "flag", "", "mirror in X", _EACH),
    Flag("--flipY", "flag", "", "mirror in Y", _EACH),
    Flag("--flipZ", "flag", "", "mirror in Z", _EACH),
    Flag("--flipXY", "flag", "", "exchange X and Y of 2D images", _EACH),
    Flag("--flipmXY", "flag", "", "exchange X and Y along the other diagonal", _EACH),
    Flag("--invert_hand", "flag", "", "mirror in X about the origin, for the other hand", _EACH),
    Flag("--shift_com", "flag", "", "shift the centre of mass of positive values to the centre", _EACH),
    Flag("--shift_x", "value", "0.", "shift (pixels)", _EACH),
    Flag("--shift_y", "value", "0.", "", _EACH),
    Flag("--shift_z", "value", "0.", "", _EACH),
    Flag("--sym", "value", "", "symmetrise a map, such as D6", _EACH),
    Flag("--remove_nan", "flag", "", "replace what is not a number", _EACH),
    Flag("--replace_nan", "value", "0", "by this", _EACH),
    Flag("--phase_randomise", "value", "-1", "random phases beyond this resolution (A)", _EACH),
    Flag("--random_seed", "value", "-1", "their seed; negative: another each time", _EACH),
    Flag("--average", "flag", "", "write the average of all images", _EACH),
    Flag("--stats", "flag", "", "tell size, mean, deviation and range", _REPORT),
    Flag("--com", "flag", "", "tell the centre of mass of positive values", _REPORT),
    Flag("--fsc", "value", "", "tell the FSC with this image", _REPORT),
    Flag("--power", "flag", "", "tell the power spectrum", _REPORT),
    Flag("--guinier", "flag", "", "tell the B-factor of a fit to the Guinier plot", _REPORT),
    Flag("--guinier_minres", "value", "10.", "lowest resolution of the fit (A)", _REPORT),
    Flag("--guinier_maxres", "value", "0.01", "highest resolution of the fit (A)", _REPORT),
    *(Flag(n, "flag" if n in _SWITCHES else "value", "", why, _ABSENT) for n, why in REFUSED.items()),
)
