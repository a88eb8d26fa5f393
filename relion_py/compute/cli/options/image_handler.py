"""The options of `relion_image_handler` (apps/image_handler.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_CONSTANT = "With a number"
_IMAGE = "With another image"
_EACH = "On each image"
_REPORT = "Reports"
_PICTURE = "With --o NAME.png"
_ABSENT = "Options of the reference that this release refuses"

_FRAMES = "movie frames are averaged by relion_run_motioncorr"

REFUSED: dict[str, str] = {
    "--avg_bin": _FRAMES,
    "--avg_first": _FRAMES,
    "--avg_last": _FRAMES,
    "--average_all_movie_frames": _FRAMES,
}
"""Flag -> why this release does not do it."""

_SWITCHES = {"--average_all_movie_frames"}

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "image or map (.mrc), stack (.mrcs) or STAR file", required=True),
    Flag("--o", "value", "", "output; for a STAR file or stack also what is added to each name; .png: a picture"),
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
    Flag("--optimise_scale_subtract", "flag", "", "with the scale that leaves least", _IMAGE),
    Flag("--optimise_bfactor_subtract", "value", "0.", "and with the best B-factor of at most this (A^2)", _IMAGE),
    Flag("--mask_optimise_subtract", "value", "", "within this mask", _IMAGE),
    Flag("--adjust_power", "value", "", "give each shell the mean amplitude of this image's", _IMAGE),
    Flag("--correct_avg_ampl", "value", "", "even out this average amplitude spectrum", _IMAGE),
    Flag("--minr_ampl_corr", "value", "0", "beyond this radius (Fourier pixels)", _IMAGE),
    Flag("--fourier_filter", "value", "", "multiply the transform by this image, turned by each image's psi", _IMAGE),
    Flag("--angpix", "value", "-1", "pixel size (A); -1: that of the image", _EACH),
    Flag("--bfactor", "value", "0.", "apply a B-factor (A^2)", _EACH),
    Flag("--lowpass", "value", "-1.", "low-pass filter (A)", _EACH),
    Flag("--directional", "value", "", "low-pass along X, Y or Z only", _EACH),
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
    Flag("--add_edge", "flag", "", "repeat the outermost columns and rows that follow", _EACH),
    Flag("--edge_x0", "value", "0", "left column", _EACH),
    Flag("--edge_y0", "value", "0", "first row", _EACH),
    Flag("--edge_xF", "value", "4095", "right column", _EACH),
    Flag("--edge_yF", "value", "4095", "last row", _EACH),
    Flag("--avg_ampl", "flag", "", "write the average of the amplitudes of all images", _EACH),
    Flag("--avg_ampl2", "flag", "", "write the average of their squares", _EACH),
    Flag("--avg_ampl2_ali", "flag", "", "and of images that are aligned by the STAR file first", _EACH),
    Flag("--average", "flag", "", "write the average of all images", _EACH),
    Flag("--stats", "flag", "", "tell size, mean, deviation and range", _REPORT),
    Flag("--com", "flag", "", "tell the centre of mass of positive values", _REPORT),
    Flag("--fsc", "value", "", "tell the FSC with this image", _REPORT),
    Flag("--cos_dphi", "value", "", "tell the mean cosine of the phase difference to this image", _REPORT),
    Flag("--power", "flag", "", "tell the power spectrum", _REPORT),
    Flag("--guinier", "flag", "", "tell the B-factor of a fit to the Guinier plot", _REPORT),
    Flag("--guinier_minres", "value", "10.", "lowest resolution of the fit (A)", _REPORT),
    Flag("--guinier_maxres", "value", "0.01", "highest resolution of the fit (A)", _REPORT),
    Flag("--black", "value", "0", "value that becomes black; as --white: the smallest", _PICTURE),
    Flag("--white", "value", "0", "value that becomes white; as --black: the largest", _PICTURE),
    Flag("--sigma_contrast", "value", "0", "black and white this many deviations from the mean", _PICTURE),
    Flag("--colour_fire", "flag", "", "black, grey, white, red", _PICTURE),
    Flag("--colour_ice", "flag", "", "blue, black, grey, white", _PICTURE),
    Flag("--colour_fire-n-ice", "flag", "", "blue, grey, red", _PICTURE),
    Flag("--colour_rainbow", "flag", "", "blue to red", _PICTURE),
    Flag("--colour_difference", "flag", "", "cyan, blue, black, red, yellow", _PICTURE),
    *(Flag(n, "flag" if n in _SWITCHES else "value", "", why, _ABSENT) for n, why in REFUSED.items()),
)
