"""From the options of relion_autopick to a way of picking."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from relion_py.compute.cli.options.autopick import ONLY_WITH
from relion_py.compute.cli.parser import Arguments
from relion_py.compute.cli.program import Job
from relion_py.compute.errors import UserError
from relion_py.compute.io.mrc import write_stack
from relion_py.compute.picking.autopick import FomMaps, LogMethod, Method, PeakSettings, TemplateMethod
from relion_py.compute.picking.autopick_files import Micrograph
from relion_py.compute.picking.log import LogSettings, diameters_of
from relion_py.compute.picking.references import References, ReferenceSettings, load_references
from relion_py.compute.picking.templates import TemplateSettings

PROJECTIONS = "reference_projections.mrcs"
METHODS = ("--ref", "--LoG", "--topaz_extract", "--topaz_train")
_SAME_PIXEL_SIZE = 0.01


def method_name(args: Arguments) -> str:
    """The flag that says how to pick; UserError if there is none, or more than one."""
    given = [name for name in METHODS if name in args.given]
    if not given:
        raise UserError("Say how to pick: with --ref, --LoG, --topaz_extract or --topaz_train.")
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} are two ways of picking; choose one.")
    return given[0]


def unused(args: Arguments, method: str) -> list[str]:
    """Given flags that mean nothing to this method."""
    return [
        name for other, names in ONLY_WITH.items() if other not in method for name in names if name in args.given
    ]  # fmt: skip


def ctf_flag(args: Arguments) -> str:
    """The flag that asks for the micrographs' CTFs, or ""."""
    wanted = "--ctf" if method_name(args) == "--ref" and args.text("--ref") != "gauss" else "--LoG_use_ctf"
    return wanted if args.on(wanted) else ""


def make_method(args: Arguments, micrographs: Sequence[Micrograph], job: Job, stop: threading.Event) -> Method:
    """What picks, from the options; UserError for those that cannot be. stop: set when the job shall end.

    micrographs: all of them; what depends on them is the same for all.
    """
    maps = FomMaps(args.on("--write_fom_maps"), args.on("--read_fom_maps"))
    if method_name(args) == "--LoG":
        settings = log_settings(args)
        job.say(f" Diameters (A): {', '.join(f'{diameter:g}' for diameter in diameters_of(settings))}")
        return LogMethod(settings, maps)
    references = _references(args, micrographs, job)
    return TemplateMethod(references, template_settings(args), peak_settings(args), maps, stop)


def log_settings(args: Arguments) -> LogSettings:
    """How to pick by a Laplacian of Gaussian."""
    for name in ("--LoG_diam_min", "--LoG_diam_max"):
        if name not in args.given:
            raise UserError(f"{name} must be given with --LoG.")
    return LogSettings(
        diameter_min=args.number("--LoG_diam_min"),
        diameter_max=args.number("--LoG_diam_max"),
        adjust_threshold=args.number("--LoG_adjust_threshold"),
        upper_threshold=args.number("--LoG_upper_threshold"),
        white=args.on("--Log_invert"),
        neighbour=args.number("--LoG_neighbour") / 100,
        max_search=int(args.number("--Log_max_search")),
        lowpass=args.number("--lowpass"),
        shrink=args.number("--shrink"),
        skip_side=args.integer("--skip_side"),
        outlier_zscore=args.number("--outlier_removal_zscore"),
        optimise_scale=not args.on("--skip_optimise_scale"),
        seed=_seed(args),
    )


def template_settings(args: Arguments) -> TemplateSettings:
    """How references are matched. A Gaussian is turned by no angle, and has no CTF."""
    gaussian = args.text("--ref") == "gauss"
    return TemplateSettings(
        psi_step=360.0 if gaussian else args.number("--ang"),
        lowpass=finite(args, "--lowpass"),
        highpass=finite(args, "--highpass"),
        ctf=bool(ctf_flag(args)),
        intact_first_peak=args.on("--ctf_intact_first_peak"),
        shrink=args.number("--shrink"),
        margin=args.integer("--extra_pad"),
        outlier_zscore=args.number("--outlier_removal_zscore"),
        optimise_scale=not args.on("--skip_optimise_scale"),
        seed=_seed(args),
    )


def peak_settings(args: Arguments) -> PeakSettings:
    """Which peaks become picks."""
    return PeakSettings(
        threshold=finite(args, "--threshold"),
        min_distance=finite(args, "--min_distance"),
        max_deviation=finite(args, "--max_stddev_noise"),
        min_mean=finite(args, "--min_avg_noise"),
        skip_side=args.integer("--skip_side"),
    )


def finite(args: Arguments, name: str) -> float:
    """The number of an option; UserError unless it is a finite one."""
    number = args.number(name)
    if not math.isfinite(number):
        raise UserError(f"{name} must be a finite number, not {args.text(name)}.")
    return number


def pixel_size(micrographs: Sequence[Micrograph]) -> float:
    """A per pixel of all micrographs; UserError if they differ."""
    first = micrographs[0]
    for micrograph in micrographs:
        if abs(micrograph.angpix - first.angpix) > _SAME_PIXEL_SIZE:
            raise UserError(
                f"{first.name} has {first.angpix:g} A per pixel and {micrograph.name} {micrograph.angpix:g}; pick "
                "optics groups of different pixel sizes in different jobs."
            )
    return first.angpix


def _references(args: Arguments, micrographs: Sequence[Micrograph], job: Job) -> References:
    """The references; projections of a map are written beside the picks, as RELION does."""
    padding = args.number("--pad")
    if not 1 <= padding <= 8:
        raise UserError("--pad must lie between 1 and 8.")
    references = load_references(
        ReferenceSettings(
            source=args.text("--ref"),
            pixel_size=finite(args, "--angpix_ref"),
            diameter=finite(args, "--particle_diameter"),
            shrink_mask=args.integer("--shrink_particle_mask"),
            invert=args.on("--invert"),
            gauss_max=finite(args, "--gauss_max"),
            healpix_order=args.integer("--healpix_order"),
            symmetry=args.text("--sym"),
            lowpass=finite(args, "--lowpass"),
            padding=padding,
        ),
        pixel_size(micrographs),
    )
    if job.leads and references.projections is not None:
        write_stack(
            args.text("--odir").rstrip("/") + "/" + PROJECTIONS, references.projections, references.pixel_size
        )  # fmt: skip
    if args.integer("--verb") > 0:
        job.say(
            f" {len(references.images)} references of {references.box} pixels; particle diameter "
            f"{references.diameter:g} A, in-plane angles every {template_settings(args).step:g} degrees"
        )
    return references


def _seed(args: Arguments) -> int:
    seed = args.integer("--random_seed")
    return time.time_ns() % 2**31 if seed == -1 else abs(seed)
