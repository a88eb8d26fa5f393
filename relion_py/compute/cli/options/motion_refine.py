"""The options of `relion_motion_refine` (motion_refiner.cpp and what it reads from), refused ones among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_BASIC = "Motion fit (basic)"
_ADVANCED = "Motion fit (advanced)"
_TRAINING = "Parameter estimation"
_COMBINE = "Combining frames"
_COMPUTE = "Computation"
_EXPERT = "Expert options"
_ABSENT = "Options of the reference that this release refuses"
_DIAGNOSTICS = "diagnostic files are not written; tracks, FCCs and B-factors are in STAR and MRC files"
_AMPLITUDES = "the reference reads it and uses it nowhere"

REFUSED: dict[str, str] = {
    "--a1": _AMPLITUDES,
    "--a2": _AMPLITUDES,
    "--diag": _DIAGNOSTICS,
    "--debug_opt": _DIAGNOSTICS,
    "--diag_bfactor": _DIAGNOSTICS,
    "--debug": _DIAGNOSTICS,
    "--debug_mov": _DIAGNOSTICS,
}
"""Flag -> why this release does not do it."""

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file of refined particles", _GENERAL, True),
    Flag("--o", "value", "", "output directory", _GENERAL, True),
    Flag("--f", "value", "", "postprocess.star: half maps, mask and FSC", _GENERAL, True),
    Flag("--m1", "value", "", "half map 1, instead of that of --f", _GENERAL),
    Flag("--m2", "value", "", "half map 2", _GENERAL),
    Flag("--angpix_ref", "value", "-1", "pixel size (A) of the half maps; -1: as their headers say", _GENERAL),
    Flag("--mask", "value", "", "mask, with --m1 and --m2", _GENERAL),
    Flag("--pad", "value", "2", "oversampling of the maps' transforms", _GENERAL),
    Flag("--first_frame", "value", "1", "first frame to use, from 1", _GENERAL),
    Flag("--last_frame", "value", "-1", "last frame to use; -1: the last there is", _GENERAL),
    Flag("--only_do_unfinished", "flag", "", "only what is not there yet", _GENERAL),
    Flag("--verb", "value", "1", "0: say nothing", _GENERAL),
    Flag("--fdose", "value", "-1", "dose per frame (e/A2); -1: as in motion correction", _BASIC),
    Flag("--s_vel", "value", "0.5", "expected speed (A per e/A2)", _BASIC),
    Flag("--s_div", "value", "5000.0", "how far apart particles move alike (A)", _BASIC),
    Flag("--s_acc", "value", "2.0", "expected change of speed (A per e/A2); <= 0: no bound", _BASIC),
    Flag("--params_file", "value", "", "file with the three of them, from training", _BASIC),
    Flag("--only_group", "value", "-1", "only micrographs with particles of this optics group", _BASIC),
    Flag("--cc_pad", "value", "1.0", "oversampling of cross-correlations", _ADVANCED),
    Flag("--dmg_a", "value", "3.40", "radiation damage: critical dose is a k^b + c; a", _ADVANCED),
    Flag("--dmg_b", "value", "-1.06", "b", _ADVANCED),
    Flag("--dmg_c", "value", "-0.54", "c", _ADVANCED),
    Flag("--max_iters", "value", "10000", "most iterations of a fit; 0: keep motion correction's tracks", _ADVANCED),
    Flag("--eps", "value", "1e-5", "a fit ends when its gradient is that short", _ADVANCED),
    Flag("--no_whiten", "flag", "", "do not flatten the spectrum of the noise", _ADVANCED),
    Flag("--unreg_glob", "flag", "", "the motion of whole frames is not restrained", _ADVANCED),
    Flag("--glob_off", "flag", "", "find an offset of each particle first", _ADVANCED),
    Flag("--glob_off_max", "value", "10", "largest such offset (pixels)", _ADVANCED),
    Flag("--absolute_params", "flag", "", "--s_vel and --s_acc are per frame, not per dose", _ADVANCED),
    Flag("--gi", "flag", "", "start from whole-frame motion by correlation, not from motion correction", _ADVANCED),
    Flag("--sq_exp_ker", "flag", "", "particles move alike by a squared-exponential kernel", _ADVANCED),
    Flag("--max_ed", "value", "-1", "most eigendeformations; -1: all", _ADVANCED),
    Flag("--out_cut", "flag", "", "align up to where the FSC is 0.143 only", _ADVANCED),
    Flag("--params2", "flag", "", "train speed and divergence, instead of finding motion", _TRAINING),
    Flag("--params3", "flag", "", "train acceleration too", _TRAINING),
    Flag("--align_frac", "value", "0.5", "part of the Fourier pixels that aligns", _TRAINING),
    Flag("--eval_frac", "value", "0.5", "part of the Fourier pixels that judges", _TRAINING),
    Flag("--min_p", "value", "1000", "micrographs with that many particles are used", _TRAINING),
    Flag("--par_group", "value", "-1", "train with this optics group only; negative: all", _TRAINING),
    Flag("--s_vel_0", "value", "0.6", "speed to start with", _TRAINING),
    Flag("--s_div_0", "value", "10000", "divergence to start with", _TRAINING),
    Flag("--s_acc_0", "value", "3", "acceleration to start with", _TRAINING),
    Flag("--in_step", "value", "3000", "first step of divergence", _TRAINING),
    Flag("--conv", "value", "30", "end when the simplex is that small", _TRAINING),
    Flag("--par_iters", "value", "100", "most iterations", _TRAINING),
    Flag("--mot_range", "value", "50", "largest motion (pixels)", _TRAINING),
    Flag("--seed", "value", "23", "of the random choice of micrographs", _TRAINING),
    Flag("--combine_frames", "flag", "", "write polished particles", _COMBINE),
    Flag("--float16", "flag", "", "in half precision (MRC mode 12)", _COMBINE),
    Flag("--scale", "value", "-1", "shrink them to this box (pixels)", _COMBINE),
    Flag("--window", "value", "-1", "cut them in this box (pixels of the movie)", _COMBINE),
    Flag("--crop", "value", "-1", "with --ctf_multiply: cut them to this box (pixels) at last", _COMBINE),
    Flag("--ctf_multiply", "flag", "", "multiply them with their CTF", _COMBINE),
    Flag("--bfac_minfreq", "value", "20", "lowest resolution (A) in the fit of B-factors", _COMBINE),
    Flag("--bfac_maxfreq", "value", "-1", "highest; -1: where the FSC is 0.143", _COMBINE),
    Flag("--bfactors", "value", "", "take B-factors from this STAR file", _COMBINE),
    Flag("--suffix", "value", "", "added to the names of polished stacks and STAR files", _COMBINE),
    Flag("--recenter", "flag", "", "move the boxes by the refined offsets", _COMBINE),
    Flag("--recenter_x", "value", "0.", "X of the point to centre on (pixels of the reference)", _COMBINE),
    Flag("--recenter_y", "value", "0.", "Y of it", _COMBINE),
    Flag("--recenter_z", "value", "0.", "Z of it", _COMBINE),
    Flag("--j", "value", "1", "threads", _COMPUTE),
    Flag("--B_parts", "value", "-1", "particles for B-factors; negative: all", _COMPUTE),
    Flag("--min_MG", "value", "0", "first micrograph, from 0", _COMPUTE),
    Flag("--max_MG", "value", "-1", "last micrograph; -1: all", _COMPUTE),
    Flag("--sbs", "flag", "", "read movies frame by frame, as is always done here", _COMPUTE),
    Flag("--find_shortest", "flag", "", "use as many frames as all movies have", _EXPERT),
    Flag("--corr_mic", "value", "", "corrected_micrographs.star", _EXPERT, True),
    Flag("--mps", "value", "-1", "pixel size (A) of the movies; -1: as in motion correction", _EXPERT),
    Flag("--cps", "value", "-1", "pixel size (A) of the coordinates; -1: as in motion correction", _EXPERT),
    Flag("--hot", "value", "-1", "values above it become it; -1: none", _EXPERT),
    Flag("--mov_toReplace", "value", "", "replace this in micrograph names ...", _EXPERT),
    Flag("--mov_replaceBy", "value", "", "... by this", _EXPERT),
    Flag("--eer_upsampling", "value", "-1", "must be that of motion correction", _EXPERT),
    Flag("--eer_grouping", "value", "-1", "must be that of motion correction", _EXPERT),
    *(Flag(name, "value" if name in ("--a1", "--a2") else "flag", "", why, _ABSENT) for name, why in REFUSED.items()),
)
