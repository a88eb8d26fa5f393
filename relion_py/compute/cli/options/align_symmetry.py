"""The options of `relion_align_symmetry` (apps/align_symmetry.cpp, read)."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "map to be aligned, or a model.star, from whose classes one is taken", required=True),
    Flag("--o", "value", "aligned.mrc", "name of the aligned map"),
    Flag("--sym", "value", "", "point group", required=True),
    Flag("--select_largest_class", "flag", "", "of a model.star take the largest class, not the most symmetric"),
    Flag("--select_highest_resol", "flag", "", "of a model.star take the class of the highest resolution"),
    Flag("--apply_sym", "flag", "", "impose the symmetry on the map as well"),
    Flag("--keep_centre", "flag", "", "do not centre the map"),
    Flag("--only_rot", "flag", "", "turn about z only"),
    Flag("--box_size", "value", "64", "box of the search (pixels)"),
    Flag("--angpix", "value", "-1", "pixel size (A); -1: that of the map"),
    Flag("--maxres", "value", "-1", "highest resolution of the search (A); -1: Nyquist of its box"),
    Flag("--nr_uniform", "value", "400", "number of random orientations of the search"),
    Flag("--local_search_range", "value", "2", "steps to either side in the local search"),
    Flag("--local_search_step", "value", "2", "step of the local search (degrees)"),
    Flag("--random_seed", "value", "0", "seed of the random orientations"),
    Flag("--pad", "value", "2", "oversampling of the Fourier transform"),
    Flag("--NN", "flag", "", "take nearest neighbours instead of interpolating linearly"),
    Flag("--pipeline_control", "value", "", "directory of the job, for the files that tell how it ended"),
)  # fmt: skip
