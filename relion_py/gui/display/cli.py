"""``relion_display``: show a file in the viewer that fits, or write its picture without a screen
(``--export``).

Flags have the names and meanings of RELION's ``relion_display``. Those that have no counterpart here are
refused with a sentence, never ignored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.program import ABORTED, SUCCESS, Parser, choose_platform, exit_file, run_program

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

REFUSED = {
    "--pick": "picking is done in the window of a Manual picking job",
    "--pick_start_end": "picking is done in the window of a Manual picking job",
    "--read_whole_stack": "only the images in view are ever read, so there is nothing to speed up",
    "--colour_bar": "the colour tables are shown in the window's own list of colours",
    "--ignore_optics": "images are shown whether or not there is an optics table",
    "--apply_orient": "images are shown as they are stored",
    "--ori_scale": "the window of a single image is zoomed with the mouse wheel",
    "--color_star": "picks are coloured by their own figure of merit",
    "--color_label": "picks are coloured by their own figure of merit",
    "--blue": "picks are coloured by their own figure of merit",
    "--red": "picks are coloured by their own figure of merit",
    "--topaz_denoise": "micrographs are shown with a band-pass filter (--lowpass, --highpass) only",
    "--bash_exe": "no shell is started",
    "--verb": "this program prints nothing but mistakes",
}
COLOURS = ("fire", "ice", "fire-n-ice", "rainbow", "difference")


def build_parser() -> Parser:
    """The options of ``relion_display``."""
    parser = Parser("relion_display", (__doc__ or "").split("\n")[0])
    general = parser.add_argument_group("General options")
    add = general.add_argument
    add("--i", default="", help="STAR file, image, stack, map, text or PDF file to show")
    add(
        "--gui",
        action="store_true",
        help="ask for the file where --i gives none; all settings are in the window",
    )
    add(
        "--export",
        default="",
        metavar="FILE.png",
        help="write what would be shown to a picture, open no window",
    )
    add("--display", default="", help="column that names the images (as rlnImageName)")
    add("--text_label", default="", help="column written below each image")
    add("--table", default="", help="table of the STAR file")
    add("--scale", type=float, default=0.0, help="screen pixels per image pixel")
    add("--black", type=float, default=0.0, help="value shown as black (0 with --white 0: automatic)")
    add("--white", type=float, default=0.0, help="value shown as white")
    add("--sigma_contrast", type=float, default=0.0, help="black and white: so many sigma from the mean")
    add("--show_fourier_amplitudes", action="store_true", help="of a single image")
    add("--show_fourier_phase_angles", action="store_true", help="of a single image")
    for name in COLOURS:
        add(f"--colour_{name}", action="store_true", help=f"colour table {name}")
    several = parser.add_argument_group("Several images")
    add = several.add_argument
    add("--col", type=int, default=0, help="number of columns (0: as many as fit)")
    add("--angpix", type=float, default=-1.0, help="pixel size in A for filters, where the file does not say")
    add("--sort", default="", help="column to sort by")
    add("--random_sort", action="store_true", help="random order")
    add("--reverse", action="store_true", help="from high to low")
    add("--class", dest="classes", action="store_true", help="classes of an optimiser or model STAR file")
    add("--max_nr_images", type=int, default=-1, help="show only so many images")
    add("--allow_save", action="store_true", help="allow saving of a selection")
    add("--fn_imgs", default="", help="STAR file for the selected images")
    add("--fn_parts", default="", help="STAR file for the particles of the selected classes")
    add("--regroup", type=int, default=-1, help="number of groups for saved particles")
    add("--max_nr_parts_per_class", type=int, default=-1, help="save at most so many particles of each class")
    add("--recenter", action="store_true", help="centre saved class averages on their centre of mass")
    picks = parser.add_argument_group("Micrographs and picks")
    add = picks.add_argument
    add("--coords", default="", help="STAR file of coordinates to show over the micrograph --i")
    add("--coord_scale", type=float, default=1.0, help="coordinates are multiplied by this")
    add("--particle_radius", type=float, default=0.0, help="radius of the circles in pixels")
    add("--lowpass", type=float, default=0.0, help="low-pass filter in A")
    add("--highpass", type=float, default=0.0, help="high-pass filter in A")
    add("--minimum_pick_fom", type=float, default=-9999.0, help="hide picks of lower figure of merit")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the words after the program's name; DisplayError for what is not understood or refused."""
    options = build_parser().words(argv, REFUSED)
    if options.show_fourier_amplitudes and options.show_fourier_phase_angles:
        raise DisplayError("Fourier amplitudes and phase angles cannot be shown at the same time; give one")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_program(argv, build_parser, lambda words: _run(parse(words)))


def _run(options: argparse.Namespace) -> int:
    if options.i and not Path(options.i).exists():
        raise DisplayError(f"{options.i} is not there")
    choose_platform(bool(options.export))
    from PySide6.QtWidgets import QApplication

    application = QApplication.instance() or QApplication(["relion_display"])
    if not options.i:
        options.i = _ask_for_file(options)
        if not options.i:
            exit_file(options.pipeline_control, ABORTED)
            return 0
    saved: list[bool] = []
    window = make_window(options, lambda: saved.append(True))
    window.show()
    try:
        if options.export:
            export(window, Path(options.export))
            return 0
        application.exec()
    finally:
        window.close()
    if options.pipeline_control:
        done = bool(saved) or not (options.fn_imgs or options.fn_parts)
        exit_file(options.pipeline_control, SUCCESS if done else ABORTED)
    return 0


def _ask_for_file(options: argparse.Namespace) -> str:
    from PySide6.QtWidgets import QFileDialog

    if not options.gui:
        raise DisplayError("Nothing to show: give a file with --i, or --gui to be asked for one")
    kinds = "Shown here (*.star *.mrc *.mrcs *.map *.tif *.tiff *.png *.pdf *.txt);;All files (*)"
    return QFileDialog.getOpenFileName(None, "Choose a file to display", "", kinds)[0]


def export(window: QWidget, path: Path) -> None:
    """Write a picture of ``window`` once all of it is drawn; DisplayError where it cannot be written."""
    from PySide6.QtWidgets import QApplication

    QApplication.processEvents()
    window.finish()  # type: ignore[attr-defined]
    QApplication.processEvents()
    if not window.grab().save(str(path)):
        raise DisplayError(f"{path} cannot be written (pictures end in .png or .jpg, in a directory that is there)")


def make_window(options: argparse.Namespace, on_saved: Any = None) -> QWidget:
    """The viewer window that the options ask for; DisplayError where an option does not fit the file."""
    from relion_py.gui.display import choose
    from relion_py.gui.display.grid_window import GridWindow
    from relion_py.gui.display.image_window import ImageWindow
    from relion_py.gui.display.micrograph_window import MicrographWindow

    path = Path(options.i)
    if options.coords:
        return _micrograph_with_picks(path, options)
    window = _chosen_images(path, options, on_saved) or choose.make_window(path)
    if isinstance(window, GridWindow):
        _set_up_grid(window, options)
    elif isinstance(window, ImageWindow):
        _set_up_image(window, options)
    elif isinstance(window, MicrographWindow):
        _set_up_micrographs(window, options)
    else:
        for name in ("display", "sort", "text_label", "table", "fn_imgs", "fn_parts", "lowpass", "highpass"):
            if getattr(options, name):
                raise DisplayError(f"--{name} does not fit {path}, which holds no set of images")
        _set_up_map(window, options)
    return window


def _chosen_images(path: Path, options: argparse.Namespace, on_saved: Any) -> QWidget | None:
    """The grid window of a STAR file when options choose what of it is shown; None: let the file decide."""
    from relion_py.gui.display.grid_window import GridWindow, Saving
    from relion_py.gui.display.images import images_of_star
    from relion_py.gui.display.sources import project_root

    asked = options.display or options.table or options.classes or options.allow_save
    if path.suffix != ".star" or not asked:
        return None
    if not path.is_file():
        raise DisplayError(f"{path} is not there")
    images = images_of_star(path, project_root(path), options.display, options.table)
    if options.classes and images.kind != "classes":
        raise DisplayError(f"--class needs an optimiser or model STAR file; {path} is none")
    saving = Saving()
    if options.allow_save:
        saving = Saving(
            options.fn_imgs,
            options.fn_parts,
            max(0, options.regroup),
            max(0, options.max_nr_parts_per_class),
            options.recenter,
            on_saved,
        )
    elif options.fn_imgs or options.fn_parts:
        raise DisplayError("--fn_imgs and --fn_parts save only together with --allow_save")
    return GridWindow(images, saving)


def _contrast(options: argparse.Namespace) -> tuple[str, float]:
    if options.sigma_contrast > 0:
        return "sigma", options.sigma_contrast
    return ("values", 0.0) if options.black != options.white else ("", 0.0)


def _colours(options: argparse.Namespace) -> str:
    given = [name for name in COLOURS if getattr(options, f"colour_{name}".replace("-", "_"))]
    if len(given) > 1:
        raise DisplayError(f"Only one colour table can be used at a time, not {' and '.join(given)}")
    return given[0] if given else "grey"


def _set_up_grid(window: Any, options: argparse.Namespace) -> None:
    panel, images = window.panel, window.images
    for name in ("sort", "text_label"):
        label = getattr(options, name)
        if label and (images.table is None or label not in images.table):
            raise DisplayError(f"{options.i} has no column {label} for --{name}")
    if options.angpix > 0:
        images.pixel_size = options.angpix
    if (options.lowpass or options.highpass) and not images.pixel_size:
        raise DisplayError("A filter in A needs the pixel size: give it with --angpix")
    if options.scale > 0:
        panel.edge.setMaximum(4096)
        panel.edge.setValue(round(options.scale * max(images.source.shape)))
    kind, amount = _contrast(options)
    if kind:
        panel.contrast.setCurrentText(kind)
    if kind == "sigma":
        panel.amount.setValue(amount)
    elif kind == "values":
        panel.black.setValue(options.black)
        panel.white.setValue(options.white)
    panel.colours.setCurrentText(_colours(options))
    panel.lowpass.setValue(options.lowpass)
    panel.highpass_value = options.highpass
    panel.refresh_look()
    if options.text_label:
        panel.caption.setCurrentText(options.text_label)
    if options.sort or options.random_sort or options.reverse:
        panel.reverse.setChecked(options.reverse)
        panel.sort.setCurrentText("random" if options.random_sort else options.sort or "file order")
    if options.max_nr_images > 0:
        window.grid.set_order(window.grid.order[: options.max_nr_images])
    window.grid.set_columns(max(0, options.col))


def _set_up_image(window: Any, options: argparse.Namespace) -> None:
    panel = window.panel
    if options.angpix > 0:
        panel.set_image(panel.image, options.angpix)
    if (options.lowpass or options.highpass) and not panel.pixel_size:
        raise DisplayError("A filter in A needs the pixel size: give it with --angpix")
    kind, amount = _contrast(options)
    if kind == "sigma":
        panel.contrast.setCurrentText("sigma")
        panel.amount.setValue(amount)
    elif kind == "values":
        panel.fixed_limits = (options.black, options.white)
    panel.lowpass.setValue(options.lowpass)
    panel.highpass.setValue(options.highpass)
    panel.set_colours(_colours(options))
    if options.show_fourier_amplitudes:
        panel.what.setCurrentIndex(1)
    elif options.show_fourier_phase_angles:
        panel.what.setCurrentIndex(2)
    panel.redraw()
    if options.scale > 0:
        ny, nx = panel.image.shape
        window.resize(max(320, round(nx * options.scale) + 20), max(300, round(ny * options.scale) + 80))


def _set_up_micrographs(window: Any, options: argparse.Namespace) -> None:
    panel = window.panel
    if options.sigma_contrast > 0:
        panel.sigma.setValue(options.sigma_contrast)
    for name in ("lowpass", "highpass"):
        if getattr(options, name) > 0:
            getattr(panel, name).setValue(getattr(options, name))
    if options.minimum_pick_fom > -9999:
        panel.minimum_score = options.minimum_pick_fom
    if options.particle_radius > 0:
        panel.diameter_pixels = 2 * options.particle_radius * options.coord_scale


def _set_up_map(window: Any, options: argparse.Namespace) -> None:
    from relion_py.gui.display.map_viewer import MapWindow

    kind, amount = _contrast(options)
    if not isinstance(window, MapWindow):
        if kind:
            raise DisplayError(f"--black, --white and --sigma_contrast do not fit {options.i}")
        return
    if kind:
        window.panel.contrast.setCurrentText(kind)
    if kind == "sigma":
        window.panel.amount.setValue(amount)
    elif kind == "values":
        window.panel.black.setValue(options.black)
        window.panel.white.setValue(options.white)


def _micrograph_with_picks(path: Path, options: argparse.Namespace) -> QWidget:
    """One micrograph with the coordinates of one file."""
    from relion_py.gui.display.coordinates import PickedMicrograph, Picks, PickSet, read_coordinates
    from relion_py.gui.display.micrograph_window import MicrographWindow

    for needed in (path, Path(options.coords)):
        if not needed.is_file():
            raise DisplayError(f"{needed} is not there")
    picks = read_coordinates(Path(options.coords))
    scale = options.coord_scale
    picks = Picks(picks.x * scale, picks.y * scale, picks.score)
    chosen = PickSet((PickedMicrograph(path.name, ""),), {path.name: picks}, max(0.0, options.angpix))
    window = MicrographWindow(path, chosen, path.resolve().parent)
    _set_up_micrographs(window, options)
    return window


if __name__ == "__main__":
    sys.exit(main())
