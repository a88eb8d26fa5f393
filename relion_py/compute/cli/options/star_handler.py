"""The options of `relion_star_handler` (apps/star_handler.cpp), those that it refuses among them."""

from __future__ import annotations

from relion_py.compute.cli.parser import Flag

_COMPARE = "Compare"
_SELECT = "Select"
_DISCARD = "Discard by image statistics"
_JOIN = "Combine"
_SPLIT = "Split"
_OPERATE = "Operate"
_CENTRE = "Centre"
_COLUMN = "Columns"
_DUPLICATES = "Duplicates"

OPERATIONS = (
    "--compare",
    "--select",
    "--select_by_str",
    "--discard_on_stats",
    "--combine",
    "--combine_picks",
    "--split",
    "--operate",
    "--center",
    "--remove_column",
    "--add_column",
    "--hist_column",
    "--remove_duplicates",
)
"""What it can do, one at a time."""

FLAGS: tuple[Flag, ...] = (
    Flag("--i", "value", "", "STAR file; several, between quotes, with --combine", required=True),
    Flag("--o", "value", "out.star", "STAR file to write"),
    Flag("--ignore_optics", "flag", "", "read and write without optics groups"),
    Flag("--angpix", "value", "1.", "pixel size (A) where optics groups are ignored"),
    Flag("--i_tablename", "value", "", "name of the table"),
    Flag("--compare", "value", "", "STAR file to compare with", _COMPARE),
    Flag("--label1", "value", "", "column to compare by", _COMPARE),
    Flag("--label2", "value", "", "second column, for distances in 2D or 3D", _COMPARE),
    Flag("--label3", "value", "", "third column, for distances in 3D", _COMPARE),
    Flag("--max_dist", "value", "0.", "numbers no farther apart than this match", _COMPARE),
    Flag("--select", "value", "", "column whose values decide, such as rlnCtfMaxResolution", _SELECT),
    Flag("--minval", "value", "-99999999.", "least value that is kept", _SELECT),
    Flag("--maxval", "value", "99999999.", "largest value that is kept", _SELECT),
    Flag("--select_by_str", "value", "", "column whose text decides", _SELECT),
    Flag("--select_include", "value", "", "keep rows whose text contains this", _SELECT),
    Flag("--select_exclude", "value", "", "keep rows whose text does not contain this", _SELECT),
    Flag("--discard_on_stats", "flag", "", "discard images whose mean or deviation is odd", _DISCARD),
    Flag("--discard_label", "value", "rlnImageName", "column with the images' names", _DISCARD),
    Flag("--discard_sigma", "value", "4.", "deviations from the mean that are odd", _DISCARD),
    Flag("--combine", "flag", "", "join files", _JOIN),
    Flag("--combine_picks", "flag", "", "join lists of coordinate files, micrograph by micrograph", _JOIN),
    Flag("--check_duplicates", "value", "", "column in which values must differ, such as rlnImageName", _JOIN),
    Flag("--split", "flag", "", "split into several files", _SPLIT),
    Flag("--random_order", "flag", "", "in random order", _SPLIT),
    Flag("--random_seed", "value", "-1", "its seed; negative: another each time", _SPLIT),
    Flag("--nr_split", "value", "-1", "number of files", _SPLIT),
    Flag("--size_split", "value", "-1", "rows of each", _SPLIT),
    Flag("--operate", "value", "", "column to change", _OPERATE),
    Flag("--operate2", "value", "", "another one", _OPERATE),
    Flag("--operate3", "value", "", "another one", _OPERATE),
    Flag("--set_to", "value", "", "set all values to this", _OPERATE),
    Flag("--multiply_by", "value", "1.", "multiply all values by this", _OPERATE),
    Flag("--add_to", "value", "0.", "add this to all values", _OPERATE),
    Flag("--center", "flag", "", "centre particles on a point of the reference", _CENTRE),
    Flag("--center_X", "value", "0.", "the point, from the centre of the reference (pixels)", _CENTRE),
    Flag("--center_Y", "value", "0.", "", _CENTRE),
    Flag("--center_Z", "value", "0.", "", _CENTRE),
    Flag("--remove_column", "value", "", "remove a column", _COLUMN),
    Flag("--add_column", "value", "", "add a column", _COLUMN),
    Flag("--add_column_value", "value", "", "with this value in all rows", _COLUMN),
    Flag("--copy_column_from", "value", "", "with the values of this column", _COLUMN),
    Flag("--hist_column", "value", "", "histogram of a column", _COLUMN),
    Flag("--in_percent", "flag", "", "in percent", _COLUMN),
    Flag("--show_cumulative", "flag", "", "cumulative", _COLUMN),
    Flag("--hist_bins", "value", "-1", "bins; -1: by the rule of Freedman and Diaconis", _COLUMN),
    Flag("--hist_min", "value", "-inf", "its least value", _COLUMN),
    Flag("--hist_max", "value", "inf", "its largest value", _COLUMN),
    Flag("--remove_duplicates", "value", "-1", "remove particles nearer to another than this (A)", _DUPLICATES),
    Flag(
        "--image_angpix",
        "value",
        "-1",
        "pixel size of the micrographs they were extracted from (A)",
        _DUPLICATES,
    ),
)
