"""The options of `relion_run_motioncorr` (motioncorr_runner.cpp, read)."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_GENERAL = "General options"
_FRAMES = "Options of both implementations"
_DOSE = "Dose weighting"
_OWN = "Own implementation"
_THEIRS = "MotionCor2"

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file of movies, or a pattern such as 'Movies/*.tiff'", _GENERAL, True),
    Flag("--o", "value", "MotionCorr", "output directory", _GENERAL),
    Flag("--skip_logfile", "flag", "", "leave the tracks out of logfile.pdf", _GENERAL),
    Flag("--j", "value", "1", "threads per process", _GENERAL),
    Flag("--max_io_threads", "value", "-1", "at most that many threads read a movie; -1: as --j", _GENERAL),
    Flag("--only_do_unfinished", "flag", "", "only movies that have no micrograph yet", _GENERAL),
    Flag("--do_at_most", "value", "-1", "correct at most that many movies; -1: all", _GENERAL),
    Flag("--grouping_for_ps", "value", "-1", "frames per power spectrum; -1: write no spectra", _GENERAL),
    Flag("--ps_size", "value", "512", "side of the power spectra (pixels, even)", _GENERAL),
    Flag("--first_frame_sum", "value", "1", "first frame in use, from 1", _GENERAL),
    Flag("--last_frame_sum", "value", "-1", "last frame in use; below 1: the last there is", _GENERAL),
    Flag("--eer_grouping", "value", "40", "EER readouts per frame", _GENERAL),
    Flag("--eer_upsampling", "value", "1", "EER: 1, or 2 for pixels of half the size", _GENERAL),
    Flag("--bin_factor", "value", "1", "binning, in Fourier space", _FRAMES),
    Flag("--bfactor", "value", "150", "B-factor (square pixels) for the alignment", _FRAMES),
    Flag("--gainref", "value", "", "gain reference", _FRAMES),
    Flag("--gain_rot", "value", "0", "rotate the gain reference by 0, 1, 2 or 3 times 90 degrees", _FRAMES),
    Flag("--gain_flip", "value", "0", "then flip it: 0 not, 1 upside down, 2 left to right", _FRAMES),
    Flag("--patch_x", "value", "1", "patches along X; local alignment needs 3 or more", _FRAMES),
    Flag("--patch_y", "value", "1", "patches along Y", _FRAMES),
    Flag("--group_frames", "value", "1", "frames that are averaged for the local alignment", _FRAMES),
    Flag("--defect_file", "value", "", "defects: a .txt with x y width height, or a map", _FRAMES),
    Flag("--even_odd_split", "flag", "", "write sums of every second frame as well", _FRAMES),
    Flag("--dose_weighting", "flag", "", "weight frames by dose", _DOSE),
    Flag("--angpix", "value", "-1", "pixel size (A), where the input does not tell it", _DOSE),
    Flag("--voltage", "value", "-1", "voltage (kV), where the input does not tell it", _DOSE),
    Flag("--dose_per_frame", "value", "1", "dose of a frame (e/A2)", _DOSE),
    Flag("--preexposure", "value", "0", "dose before the first frame (e/A2)", _DOSE),
    Flag("--save_noDW", "flag", "", "write the sum without dose weights too", _DOSE),
    Flag("--dose_motionstats_cutoff", "value", "4", "dose (e/A2) where early motion ends", _DOSE),
    Flag("--use_own", "flag", "", "use the implementation of this program", _OWN),
    Flag("--float16", "flag", "", "write half-precision numbers (MRC mode 12)", _OWN),
    Flag("--skip_defect", "flag", "", "mend no pixels", _OWN),
    Flag("--max_iter", "value", "5", "most iterations of an alignment", _OWN),
    Flag("--interpolate_shifts", "flag", "", "fit local motion to shifts interpolated between groups", _OWN),
    Flag("--ccf_downsample", "value", "0", "size of correlation maps over that of images; 0: automatic", _OWN),
    Flag("--early_binning", "flag", "", "bin before the alignment, which is the default", _OWN),
    Flag("--no_early_binning", "flag", "", "bin after the alignment", _OWN),
    Flag("--use_motioncor2", "flag", "", "use your MotionCor2", _THEIRS),
    Flag("--motioncor2_exe", "value", "", "its path (or RELION_MOTIONCOR2_EXECUTABLE)", _THEIRS),
    Flag("--other_motioncor2_args", "value", "", "more arguments for it", _THEIRS),
    Flag("--archive", "value", "", "directory in which it archives movies", _THEIRS),
    Flag("--gpu", "value", "", "its GPUs: colons between ranks, commas between GPUs of one", _THEIRS),
)

ONLY_OWN: tuple[str, ...] = (
    "--float16",
    "--skip_defect",
    "--max_iter",
    "--interpolate_shifts",
    "--ccf_downsample",
    "--early_binning",
    "--no_early_binning",
    "--grouping_for_ps",
    "--ps_size",
)
"""Refused with --use_motioncor2."""

ONLY_MOTIONCOR2: tuple[str, ...] = ("--motioncor2_exe", "--other_motioncor2_args", "--archive", "--gpu")
"""Refused with --use_own."""
