"""The options of `relion_class_ranker` (class_ranker.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_SELECT = "Selection"
_FEATURES = "Features"
_ABSENT = "Options of the reference that this release refuses"

DESCRIPTION = (
    "Scores the averages of a 2D classification between 0 and 1, and selects the good ones. The score is this "
    "package's own, a documented function of four features; it is not that of RELION's neural network, whose weights "
    "are a separate download. Scores of the two programs are not comparable class by class."
)

_TRAINING = "the reference's network cannot be trained here; features.star has the features"
_SUBIMAGES = "pictures for the reference's network are not made; its score is not used here"

REFUSED: dict[str, str] = {
    "--train": _TRAINING,
    "--write_normalized_features": _TRAINING,
    "--skip_angular_errors": "the accuracies are those of the model, and are not computed again",
    "--save_mask_c": "outlines of the areas are not written; --save_masks writes the areas",
    "--extract_subimages": _SUBIMAGES,
    "--only_do_subimages": _SUBIMAGES,
}
"""Switch -> why this release does not do it."""

REFUSED_VALUES: dict[str, str] = {
    "--ext": "it does nothing in the reference; the names are made with --fn_root",
    "--select": _TRAINING,
    "--fn_score": _TRAINING,
    "--cf_file": _TRAINING,
    "--only_class_nr": "all classes are scored, for the score depends on the best of them",
    "--nr_subimages": _SUBIMAGES,
    "--subimage_boxsize": _SUBIMAGES,
}
"""Option with a value -> why this release does not do it."""

FLAGS: tuple[Flag, ...] = (
    Flag("--opt", "value", "", "optimiser.star of the 2D classification", required=True),
    Flag("--o", "value", "./", "directory for all that is written"),
    Flag("--fn_root", "value", "rank", "first part of the names of the optimiser, model and data files"),
    Flag("--verb", "value", "1", "0: no progress bar"),
    Flag("--auto_select", "flag", "", "also write the selected particles and class averages", _SELECT),
    Flag("--min_score", "value", "0.5", "least score that is selected", _SELECT),
    Flag("--max_score", "value", "999.", "largest score that is selected", _SELECT),
    Flag("--select_min_nr_particles", "value", "-1", "go on below the least score to so many particles", _SELECT),
    Flag("--select_min_nr_classes", "value", "-1", "go on below the least score to so many classes", _SELECT),
    Flag("--relative_thresholds", "flag", "", "least and largest score are parts of the best score", _SELECT),
    Flag("--fn_sel_parts", "value", "particles.star", "file for the selected particles", _SELECT),
    Flag("--fn_sel_classavgs", "value", "class_averages.star", "file for the selected class averages", _SELECT),
    Flag("--fn_features", "value", "features.star", "file for the features of all classes", _FEATURES),
    Flag("--do_granularity_features", "flag", "", "measure the granulometry too (it is not in the score)", _FEATURES),
    Flag("--radius_ratio", "value", "0.95", "inner radius of the ring, as a part of the mask's radius", _FEATURES),
    Flag("--radius", "value", "-1", "inner radius of the ring (pixels of 4 A), instead of the part", _FEATURES),
    Flag("--lowpass", "value", "25", "resolution (A) at which protein and solvent are told apart", _FEATURES),
    Flag("--binary_threshold", "value", "0.", "density above which is protein; 0: from the image", _FEATURES),
    Flag("--save_masks", "flag", "", "write the areas of protein and solvent of every class", _FEATURES),
    Flag("--mask_folder_name", "value", "protein_solvent_masks", "directory for them, below --o", _FEATURES),
    *(Flag(name, "flag", "", why, _ABSENT) for name, why in REFUSED.items()),
    *(Flag(name, "value", "", why, _ABSENT) for name, why in REFUSED_VALUES.items()),
)
