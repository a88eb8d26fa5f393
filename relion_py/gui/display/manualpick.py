"""``relion_manualpick``: mark particles on micrographs in a window, or edit the picks of another program.

Flags have the names and meanings of RELION's ``relion_manualpick`` (RELION 5, manualpicker.cpp, read). Those
that have no counterpart here are refused with a sentence, never ignored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display.coordinates import Picks
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.manualpick_data import NO_THRESHOLD, PickJob, read_pick_job
from relion_py.gui.display.program import ABORT_NOW, ABORTED, SUCCESS, Parser, choose_platform, exit_file, run_program
from relion_py.gui.display.series import floats, read_star

REFUSED = {
    "--topaz_denoise": "micrographs are shown with a band-pass filter (--lowpass, --highpass) only",
    "--open_simultaneous": "one window holds all micrographs; Page Down goes to the next",
    "--ctf_scale": "the window of a CTF's fit is zoomed with the mouse wheel",
}


def build_parser() -> Parser:
    """The options of ``relion_manualpick``."""
    parser = Parser("relion_manualpick", (__doc__ or "").split("\n")[0])
    add = parser.add_argument_group("General options").add_argument
    add("--i", required=True, help="STAR file of micrographs or of coordinate files, or names such as Mics/*.mrc")
    add("--odir", default="ManualPick/", help="directory for the coordinate files")
    add("--selection", default="micrographs_selected.star", help="STAR file for the selected micrographs")
    add("--pickname", default="manualpick", help="ending of the names of coordinate files")
    add("--angpix", type=float, default=-1.0, help="pixel size in A, where the STAR file does not give it")
    add("--coord_scale", type=float, default=1.0, help="coordinates in the files times this are pixels")
    add("--particle_diameter", type=float, required=True, help="diameter of the circles, in A")
    add("--pick_start_end", action="store_true", help="picks are starts and ends of filaments, in turn")
    add("--allow_save", action="store_true", help="save which micrographs are selected")
    add("--fast_save", action="store_true", help="save a selection of all micrographs at once")
    add = parser.add_argument_group("Displaying options").add_argument
    add("--scale", type=float, default=1.0, help="screen pixels per pixel of the micrograph, at first")
    add("--black", type=float, default=0.0, help="value shown as black (0 with --white 0: automatic)")
    add("--white", type=float, default=0.0, help="value shown as white")
    add("--sigma_contrast", type=float, default=0.0, help="black and white: so many sigma from the mean")
    add("--lowpass", type=float, default=0.0, help="low-pass filter in A")
    add("--highpass", type=float, default=0.0, help="high-pass filter in A")
    add("--ctf_sigma_contrast", type=float, default=3.0, help="contrast of the CTF's picture, in sigma")
    add("--minimum_pick_fom", type=float, default=NO_THRESHOLD, help="hide picks of lower figure of merit")
    add("--color_star", default="", help="particles whose --color_label colours their picks")
    add("--color_label", default="", help="column by which picks are coloured, from blue to red")
    add("--blue", type=float, default=1.0, help="value shown as blue")
    add("--red", type=float, default=0.0, help="value shown as red")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the words after the program's name; DisplayError for what is not understood or refused."""
    options = build_parser().words(argv, REFUSED)
    if options.scale <= 0 or options.coord_scale <= 0:
        raise DisplayError("--scale and --coord_scale must be above 0")
    if options.color_star and not options.color_label:
        raise DisplayError("--color_star needs --color_label, the column that gives the colours")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_program(argv, build_parser, lambda words: _run(parse(words)))


def _run(options: argparse.Namespace) -> int:
    job = make_job(options, Path.cwd())
    choose_platform()
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    application = QApplication.instance() or QApplication(["relion_manualpick"])
    if options.fast_save:
        print(f"{job.save_lists()} coordinate files are listed.", flush=True)
    window = make_window(job, options)
    window.finished.connect(application.quit)
    ended = SUCCESS
    watch = QTimer()

    def look() -> None:
        nonlocal ended
        request = Path(options.pipeline_control, ABORT_NOW)
        if options.pipeline_control and request.exists():
            request.unlink(missing_ok=True)
            ended = ABORTED
            window.close()

    watch.timeout.connect(look)
    watch.start(500)
    window.show()
    application.exec()
    window.close()
    counts = [max(0, job.count(i, window.panel.minimum_score)) for i in range(len(job.micrographs))]
    total = sum(count for count, on in zip(counts, job.selected, strict=True) if on)
    print(f"{total} picks on {sum(job.selected)} selected micrographs.")
    exit_file(options.pipeline_control, ended)
    return 0 if ended == SUCCESS else 1


def make_job(options: argparse.Namespace, root: Path) -> PickJob:
    """The picking job that the options describe, in the project at ``root``."""
    job = read_pick_job(options.i, root, options.odir, options.pickname, options.angpix)
    job.scale, job.selection_file, job.may_save = options.coord_scale, options.selection, options.allow_save
    if job.may_save:
        job.read_selection()
    return job


def make_window(job: PickJob, options: argparse.Namespace) -> Any:
    """The window, with the look that the options ask for."""
    from relion_py.gui.display.manualpick_window import PickWindow

    window = PickWindow(job, Path(options.odir).name or "Manual picking", max(0.0, options.particle_diameter))
    panel = window.panel
    panel.sigma.setValue(options.sigma_contrast)
    panel.lowpass.setValue(max(0.0, options.lowpass))
    panel.highpass.setValue(max(0.0, options.highpass))
    if options.black != options.white and options.sigma_contrast <= 0:
        panel.fixed_limits = (options.black, options.white)
    if options.minimum_pick_fom > NO_THRESHOLD:
        panel.minimum_score = options.minimum_pick_fom
    panel.display_scale = options.scale
    panel.start_end = options.pick_start_end
    panel.colour_label = options.color_label
    panel.colour_limits = (options.blue, options.red)
    if options.color_star:
        panel.colours_of = colours_from(Path(options.color_star), options.color_label, options.coord_scale)
    window.ctf_sigma = options.ctf_sigma_contrast
    return window


def colours_from(path: Path, label: str, scale: float) -> Callable[[str, Picks], NDArray[np.float64]]:
    """Values of column ``label`` of a particle STAR file for the picks of a micrograph, by their coordinates
    (within a pixel); -999 where the file has no such particle. DisplayError where the column is not there."""
    for table in read_star(path).values():
        if all(name in table for name in (label, "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY")):
            break
    else:
        raise DisplayError(f"{path} has no table with rlnMicrographName, rlnCoordinateX, rlnCoordinateY and {label}")
    names = np.asarray(table.strings("rlnMicrographName"))
    x, y, values = (floats(table, name) for name in ("rlnCoordinateX", "rlnCoordinateY", label))

    def colours(name: str, picks: Picks) -> NDArray[np.float64]:
        from scipy.spatial import cKDTree

        found = np.full(len(picks), -999.0)
        rows = np.flatnonzero(names == name)
        if len(rows) and len(picks):
            tree = cKDTree(np.column_stack([x[rows], y[rows]]) * scale)
            distance, nearest = tree.query(np.column_stack([picks.x, picks.y]))
            near = distance <= 1.0
            found[near] = values[rows[nearest[near]]]
        return found

    return colours


if __name__ == "__main__":
    sys.exit(main())
